"""Drift: what is no chance is found, chance is not, and a reference outlives a restart."""

import asyncio
import json
import math
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from paceline.cli.main import run
from paceline.cli.reported import drift as in_words
from paceline.clock import SimulatedClock
from paceline.serve.features import Features
from paceline.serve.judging import Predicted
from paceline.serve.model import ModelSpec, TensorSpec
from paceline.serve.samples import Rows, Samples
from paceline.stats.drift import chance, distance, hold, index_of, stability
from paceline.terms.limits import (
    DRIFT_FALSE,
    DRIFT_FEATURES,
    DRIFT_REFERENCE,
    DRIFT_TOLD,
    DRIFT_TOLD_MOST,
    DRIFT_WINDOW,
)
from paceline.terms.metric import DRIFTED
from paceline.watch.analysis.drifted import drifted, told
from paceline.watch.drift import Drift, Lot, Windows
from servers import Server
from test_plan_live import until

Values = NDArray[np.float64]


# --- The arithmetic -------------------------------------------------------------------------------


@given(st.lists(st.floats(-9, 9), min_size=1), st.lists(st.floats(-9, 9), min_size=1))
def test_a_distance_is_the_largest_difference_of_shares(
    first: Sequence[float], second: Sequence[float]
) -> None:
    found = distance(np.array(first), np.array(second))
    shares = [
        sum(each <= at for each in first) / len(first)
        - sum(each <= at for each in second) / len(second)
        for at in (*first, *second)
    ]
    assert found == pytest.approx(max(map(abs, shares)))
    assert found == pytest.approx(distance(np.array(second), np.array(first)))
    assert distance(np.array(first), np.array(first)) == 0


def test_chances_are_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    found = [
        chance(distance(rng.normal(size=300), rng.normal(size=200)), 300, 200) for _ in range(2000)
    ]
    for level in (0.01, 0.05, 0.2):
        assert np.mean([each < level for each in found]) == pytest.approx(level, rel=0.35)
    assert chance(0.0, 100, 100) == 1.0
    assert chance(1.0, 1000, 1000) < 1e-100
    rising = [chance(apart, 500, 500) for apart in np.linspace(0, 1, 101)]
    assert rising == sorted(rising, reverse=True)


def test_of_many_chances_those_hold_that_hold_together() -> None:
    assert hold([], 0.05) == []
    assert hold([0.04], 0.05) == [True]
    assert hold([0.04, 0.9], 0.05) == [False, False]
    assert hold([0.001, 0.9, 0.026, 0.2], 0.05) == [True, False, False, False]
    assert hold([0.001, 0.9, 0.024, 0.2], 0.05) == [True, False, True, False]


def test_a_stability_index_is_known_and_finite() -> None:
    before = np.arange(1000.0)
    assert stability(before, before) == pytest.approx(0, abs=1e-6)
    assert stability(before, before + 5000) > 2
    assert math.isfinite(stability(np.zeros(10), np.ones(10)))
    assert index_of([500, 500], [500, 500]) == 0
    assert index_of([1000, 1000], [200, 1800]) == pytest.approx(0.4 * math.log(9), rel=0.02)


# --- What is compared -----------------------------------------------------------------------------


def windows(before: Values, after: Values, *classes: NDArray[Any]) -> Windows:
    """Columns are numbers `x0`, `x1` and so on, all of inputs."""
    first, second = classes or (np.zeros(len(before), int), np.zeros(len(after), int))
    return Windows(
        tuple(f"x{at}" for at in range(before.shape[1])),
        before.shape[1],
        Lot(before.astype(np.float32).tobytes(), tuple(map(str, first)), 1e9),
        Lot(after.astype(np.float32).tobytes(), tuple(map(str, second)), 1e9),
    )


def normal(rng: np.random.Generator, rows: int, columns: int) -> Values:
    """Numbers that go together, as those of one thing do."""
    return rng.normal(size=(rows, columns)) + rng.normal(size=(rows, 1))


def false_ones(seeds: int, columns: int) -> int:
    found = 0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        before, after = (normal(rng, rows, columns) for rows in (DRIFT_REFERENCE, DRIFT_WINDOW))
        classes = [rng.integers(0, 10, rows) for rows in (DRIFT_REFERENCE, DRIFT_WINDOW)]
        found += bool(drifted(windows(before, after, *classes)).differs)
    return found


def test_where_nothing_differs_nothing_is_told() -> None:
    assert false_ones(seeds=60, columns=8) == 0


@pytest.mark.slow
def test_the_share_of_false_ones_is_bounded() -> None:
    assert false_ones(seeds=3000, columns=64) <= 3 * DRIFT_FALSE * 3000


def test_a_mean_half_a_deviation_off_is_found_and_named() -> None:
    found = false = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        before, after = (rng.normal(size=(rows, 16)) for rows in (DRIFT_REFERENCE, DRIFT_WINDOW))
        after[:, 7] += 0.5
        names = {each.name for each in drifted(windows(before, after)).differs}
        found += "x7" in names
        false += len(names - {"x7"})
    assert found >= 38
    assert false <= 2


def test_other_classes_are_found_and_named() -> None:
    rng = np.random.default_rng(3)
    share = np.full(10, 0.1)
    other = np.array([0.1] * 8 + [0.0, 0.2])
    first, second = rng.choice(10, DRIFT_REFERENCE, p=share), rng.choice(10, DRIFT_WINDOW, p=other)
    nothing = np.zeros((DRIFT_REFERENCE, 1)), np.zeros((DRIFT_WINDOW, 1))
    found = drifted(windows(*nothing, first, second))
    assert {each.name for each in found.differs} == {"class 8", "class 9"}
    (finding,) = told(found, "m")
    assert finding.kind == "drift"
    assert finding.what.startswith("What is answered is other than in the reference: the share of")
    assert finding.sure > 0.999
    assert "2 of 10 numbers and classes" in in_words(found)


def test_what_is_sure_and_small_is_not_told() -> None:
    rng = np.random.default_rng(4)
    before, after = rng.normal(size=(50_000, 2)), rng.normal(size=(50_000, 2)) + 0.05
    assert chance(distance(before[:, 0], after[:, 0]), 50_000, 50_000) < 1e-9
    assert drifted(windows(before, after)).differs == ()


def test_what_is_missing_is_told_too() -> None:
    rng = np.random.default_rng(5)
    before, after = rng.normal(size=(1024, 2)), rng.normal(size=(512, 2))
    after[:200, 1] = np.nan
    (differs,) = drifted(windows(before, after)).differs
    assert differs.name == "x1, where it is missing"
    assert differs.before == 0.0
    assert differs.after == pytest.approx(200 / 512)
    after[:, 1] = np.nan
    assert [each.name for each in drifted(windows(before, after)).differs] == [differs.name]
    assert len(drifted(windows(before, after)).differs) == 1


def test_of_too_few_rows_nothing_is_said() -> None:
    found = drifted(windows(np.zeros((1024, 1)), np.ones((100, 1))))
    assert (found.compared, found.differs) == (0, ())
    assert in_words(found).startswith("not known yet")


# --- What is drawn --------------------------------------------------------------------------------


def features(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Features:
    return Features(ModelSpec("m", "1", tuple(inputs), tuple(outputs)))


def test_short_tensors_are_compared_by_number_and_long_ones_summed_up() -> None:
    made = features(
        [
            TensorSpec("a", "FP32", (-1, 3)),
            TensorSpec("image", "FP32", (-1, 3, 224, 224)),
            TensorSpec("ids", "INT64", (-1, -1)),
            TensorSpec("text", "BYTES", (-1,)),
        ],
        [TensorSpec("label", "INT64", (-1,)), TensorSpec("p", "FP32", (-1, 4))],
    )
    image = np.zeros((2, 3, 224, 224), np.float32)
    image[1, 0] = 3.0
    inputs = {
        "a": np.array([[0, 0, 0], [1, 2, 3]], np.float32),
        "image": image,
        "ids": np.array([[0, 0, 0, 0], [5, 5, 0, 0]]),
        "text": np.array([b"", b"abcd"], object),
    }
    p = np.array([[1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]], np.float32)
    row = np.frombuffer(made.of(inputs, {"label": np.array([0, 1]), "p": p}, 1), np.float32)
    named = dict(zip(made.names, map(float, row), strict=True))
    assert [named[f"a[{at}]"] for at in range(3)] == [1, 2, 3]
    assert named["image mean"] == pytest.approx(1, rel=0.01)
    assert named["image max"] == 3
    assert named["image zeros"] == pytest.approx(2 / 3, rel=0.01)
    assert (named["ids mean"], named["ids length"], named["text length"]) == (2.5, 4, 4)
    assert named["p top score"] == 0.25
    assert named["p entropy"] == pytest.approx(math.log(4))
    assert made.of_inputs == len(made.names) - 2


@given(
    st.lists(
        st.tuples(st.sampled_from(["FP32", "INT64", "BYTES"]), st.integers(0, 200)), max_size=9
    )
)
def test_the_numbers_of_a_row_are_bounded(tensors: list[tuple[str, int]]) -> None:
    specs = [TensorSpec(f"t{at}", kind, (-1, size)) for at, (kind, size) in enumerate(tensors)]
    made = features(specs, specs)
    assert len(made.names) <= DRIFT_FEATURES
    values = {
        each.name: np.array([[b"x"] * each.shape[1]], object)
        if each.datatype == "BYTES"
        else np.ones((1, each.shape[1]))
        for each in specs
    }
    assert len(made.of(values, values, 0)) == 4 * len(made.names)


def test_rows_are_told_together() -> None:
    said: list[list[Rows]] = []
    spec = ModelSpec("m", "1", (TensorSpec("x", "FP32", (-1, 2)),), ())
    samples = Samples({"m": spec}, 10.0, said.append)
    for at in range(50):
        inputs = {"x": np.array([[at, 0.0], [at, 1.0]], np.float32)}
        samples.take("m", 100 + at / 10, inputs, {}, 2, Predicted("class", (7, 8)))
    assert len(said) == 5
    rows = np.concatenate([np.frombuffer(each[0].rows, np.float32) for each in said])
    assert len(rows) == 2 * sum(len(each[0].classes) for each in said)
    assert set(rows.reshape(-1, 2)[:, 1]) == {0.0, 1.0}  # in turn the first and the second
    assert set(said[1][0].classes) == {"7", "8"}


# --- What is kept ---------------------------------------------------------------------------------


def drawn(rng: np.random.Generator, rows: int, mean: float = 0.0, names: int = 2) -> Rows:
    values = (rng.normal(size=(rows, names)) + mean).astype(np.float32)
    return Rows("m", tuple(f"x{at}" for at in range(names)), names, values.tobytes(), ("1",) * rows)


def kept(folder: Path | None, clock: SimulatedClock) -> Drift:
    return Drift(folder, clock.now, clock.wall, drifted)


def differs(drift: Drift) -> int:
    found = drift.windows("m")
    assert found is not None
    return len(drifted(found).differs)


def test_a_reference_outlives_a_restart_and_is_replaced_when_asked(tmp_path: Path) -> None:
    rng, clock = np.random.default_rng(6), SimulatedClock()

    async def first_life() -> None:
        drift = kept(tmp_path, clock)
        assert drift.windows("m") is None
        assert drift.found("m") is None
        assert await drift.renew("m") == 0
        for _ in range(40):
            drift.take([drawn(rng, 32)])
        assert differs(drift) == 0
        await drift.close()

    async def second_life() -> None:
        drift = kept(tmp_path, clock)
        drift.take([drawn(rng, 255, mean=1.0)])
        waits = drift.found("m")
        assert waits is not None
        assert (waits.reference_rows, waits.rows, waits.compared) == (DRIFT_REFERENCE, 255, 0)
        drift.take([drawn(rng, 45, mean=1.0)])
        assert differs(drift) == 2
        clock.advance(100.0)
        drift.take([drawn(rng, 300, mean=1.0)])
        await drift.close()
        assert {each.metric: each.value for each in drift.measure()}[DRIFTED] == 2.0
        found = drift.found("m")
        assert found is not None
        assert [each.name for each in found.differs] == ["x0", "x1"]
        assert await drift.renew("m") == DRIFT_WINDOW
        assert drift.measure() == []
        again = drift.found("m")
        assert again is not None
        assert (again.reference_rows, again.rows, again.differs) == (DRIFT_WINDOW, 0, ())
        drift.take([drawn(rng, 300, mean=1.0)])
        assert differs(drift) == 0

    async def third_life() -> None:
        drift = kept(tmp_path, clock)
        drift.take([drawn(rng, 300, mean=1.0)])
        assert differs(drift) == 0
        drift.take([drawn(rng, 300, names=3)])  # another model
        found = drift.windows("m")
        assert found is not None
        assert (len(found.reference), len(found.last)) == (300, 0)

    for life in (first_life, second_life, third_life):
        asyncio.run(life())


@pytest.mark.parametrize(
    "content", [b"", b"no reference", b"\x93\x91\xa1x\x01\x93\xc4\x00\x90\x00"]
)
def test_a_damaged_reference_begins_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "drift").mkdir()
    (tmp_path / "drift" / "m.reference").write_bytes(content)

    async def life() -> None:
        drift = kept(tmp_path, SimulatedClock())
        drift.take([drawn(np.random.default_rng(8), 300)])
        found = drift.windows("m")
        assert found is not None
        assert len(found.reference) == 300

    asyncio.run(life())


REPORT = "/api/report?model=digits"


def test_a_live_server_tells_what_has_drifted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(9)
    with Server(tmp_path / "state", "--fronts", "1", "--drift-rows-s", "10000") as server:
        for most, rows in ((17, DRIFT_REFERENCE + DRIFT_TOLD), (9, DRIFT_WINDOW + DRIFT_TOLD)):
            predict(server.port, rng.integers(0, most, (rows, 64)))
        until("the past is read", lambda: server.ask("GET", REPORT).status == 200)
        found = server.ask("GET", REPORT).json
        assert found["drift"]["reference_rows"] == DRIFT_REFERENCE
        names = {each["name"] for each in found["drift"]["differs"]}
        assert {f"x[{at}]" for at in range(64)} <= names
        assert "drift" in [each["kind"] for each in found["findings"]]
        (told,) = server.ask("GET", "/api/quality").json["models"]
        assert (told["model"], told["labels"], told["differ"]) == ("digits", None, len(names))
        assert [each["kind"] for each in told["findings"]] == ["drift"] * len(told["findings"])
        assert len(told["drift"]["differs"]) == DRIFT_TOLD_MOST < told["differ"]
        assert {each["name"] for each in told["drift"]["differs"]} <= names
        assert run(["report", "digits", "--new-reference", "--state", str(server.state)]) == 0
        said = capsys.readouterr().out
        assert "What is asked is other than in the reference: the mean of x[" in said
        assert said.endswith("the last 512 rows; later ones are compared with them\n")
        again = server.ask("GET", REPORT).json["drift"]
        assert (again["reference_rows"], again["differs"]) == (DRIFT_WINDOW, [])
        assert server.ask("POST", "/api/drift/reference", {"model": "no"}).status == 400


def predict(port: int, rows: NDArray[Any]) -> None:
    """Each by a request of its own, one behind the other on one connection."""
    bodies = [json.dumps(each.tolist()).encode() for each in rows]
    head = b"POST /predict/digits HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
    for at in range(0, len(bodies), 64):
        some = bodies[at : at + 64]
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"".join(head % len(each) + each for each in some))
            heard = b""
            while heard.count(b"HTTP/1.1 200") < len(some):
                piece = connection.recv(65536)
                assert piece, heard
                heard += piece
