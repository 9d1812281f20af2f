"""The arithmetic and the reading of the benchmarks of the front door, without a server.

`./bench floors`, `neighbours`, `growth`, `collector` and `recording`; what they start is tested
where it lives.
"""

import ast
import importlib
import socket
import subprocess
import sys
import threading
import tomllib
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from benchmarks import collector, floors, growth, neighbours, recording
from benchmarks._served import Seen, Times, alone, parsed, sections, series, total
from benchmarks.collector import AGAIN, ARMS, AS_IS, UNTOUCHED, Run
from benchmarks.floors import Batches, Efficiency
from benchmarks.growth import Cost, Step
from benchmarks.peers.environment import Unavailable
from benchmarks.peers.forms import V2, V2_BINARY
from benchmarks.peers.started import Asked

from paceline.config.served import named
from paceline.serve.onnx_model import OnnxModel
from paceline.terms.limits import INFER_BODY_BYTES
from paceline.web import front

METRICS = """# HELP paceline_batches_total Batches begun.
# TYPE paceline_batches_total counter
paceline_batches_total{model="a",reason="idle worker"} 80.0
paceline_batches_total{model="a",reason="size reached"} 10.0
paceline_batches_total{model="b",reason="adaptive"} 10.0
paceline_batch_rows{model="a",quantile="0.5"} 2.0
paceline_batch_rows_sum{model="a"} 180.0
paceline_batch_rows_sum{model="b"} 20.0
paceline_batch_left_rows_total{model="a",pays="yes"} 30.0
paceline_batch_left_rows_total{model="b",pays="yes"} 20.0
paceline_batch_left_rows_total{model="b",pays="no"} 150.0
paceline_fronts_ready 1
"""
SAYS = {
    "requests": 200,
    "warmup_requests": 40,
    "offered_rps": 100.0,
    "answered_rps": 99.5,
    "answered": 200,
    "refused": 0,
    "failed": 0,
    "latency": {"mean_ms": 5.0, "p50_ms": 4.5, "p99_ms": 19.0, "p999_ms": 30.0, "samples": 200},
    "not_told": None,
    "something": "else",
}
SEEN = Seen(200, 40, 100.0, 99.5, 200, 0, 0, Times(5.0, 4.5, 19.0, 30.0))


# --- Ours, started and read -----------------------------------------------------------------------


def test_what_load_says_is_read_behind_its_complaints() -> None:
    assert parsed("something first\n" + msgspec.json.encode(SAYS).decode()) == SEEN
    assert (SEEN.sent, SEEN.all_answered) == (240, True)


@pytest.mark.parametrize("said", ["", "no such server", '{"error": {"code": "unreachable"}}'])
def test_a_load_that_says_nothing_is_no_measurement(said: str) -> None:
    with pytest.raises(Unavailable, match="said nothing"):
        parsed(said)


def test_series_are_added_up_by_the_labels_that_are_named() -> None:
    found = series(METRICS)
    assert total(found, "paceline_batches_total") == 100
    assert total(found, "paceline_batches_total", model="a") == 90
    assert total(found, "paceline_batches_total", model="a", reason="adaptive") == 0
    assert total(found, "paceline_fronts_ready") == 1


def test_every_model_gets_a_section_that_serves_it(tmp_path: Path) -> None:
    tree = tomllib.loads(sections(["classifier", "m1", "m2"], tmp_path / "model.onnx"))
    assert named(tree, ["digits"]) == ["classifier", "m1", "m2"]
    assert tree["models"]["m2"] == {"path": str(tmp_path / "model.onnx")}


def test_rows_are_asked_alone() -> None:
    batch = {"x": np.arange(6.0).reshape(3, 2)}
    assert [row["x"].tolist() for row in alone(batch)] == [[[0, 1]], [[2, 3]], [[4, 5]]]


# --- Floors ---------------------------------------------------------------------------------------


def test_only_rows_that_were_left_waiting_are_inefficient() -> None:
    counted = floors.batches(series(METRICS))
    assert counted == Batches(rows=200, begun=100, left_paying=50, left_beyond=150)
    assert counted.efficiency == Efficiency(of_what_pays=0.8, of_max_batch=0.5)
    assert Batches(50, 10, 0, 0).efficiency == (1.0, 1.0)


def test_efficiency_is_of_what_was_begun_since() -> None:
    before = Batches(150, 90, 10, 5)
    assert Batches(200, 100, 10, 7).since(before) == Batches(50, 10, 0, 2)


def test_without_a_batch_nothing_can_be_said_of_efficiency() -> None:
    assert Batches(0, 0, 0, 0).efficiency is None
    verdict = floors.verdicts(SEEN, 1.0, [Batches(0, 0, 0, 0).efficiency], 90.0, 100.0)[-2]
    assert (verdict.holds, "no batch" in verdict.found) == (None, True)


def holds(seen: Seen, memory_mb: float = 100.0) -> list[bool | None]:
    kept = [Efficiency(0.9, 0.5)] * 2
    found = floors.verdicts(seen, memory_mb, kept, full_per_s=90.0, best_per_s=100.0)
    return [each.holds for each in found[:6]]


def test_each_floor_fails_alone() -> None:
    assert holds(SEEN) == [True] * 6
    assert holds(SEEN, memory_mb=500.0) == [True, True, False, True, True, True]
    slow = msgspec.structs.replace(SEEN, answered_rps=50.0)
    assert holds(slow) == [False, True, True, True, True, True]
    late = msgspec.structs.replace(SEEN, latency=Times(30.0, 4.5, 100.0, 200.0))
    assert holds(late) == [True, True, True, False, False, True]
    unanswered = msgspec.structs.replace(SEEN, answered=199)
    assert holds(unanswered) == [False, False, True, True, True, True]


def test_a_load_that_was_late_itself_fails_no_floor() -> None:
    untold = msgspec.structs.replace(SEEN, latency=None, not_told="late")
    assert holds(untold) == [True, True, True, None, None, True]


def test_efficiency_is_wanted_of_both_parts() -> None:
    def last(*of_what_pays: float) -> bool | None:
        efficiencies = [Efficiency(each, 0.1) for each in of_what_pays]
        return floors.verdicts(SEEN, 1.0, efficiencies, 90.0, 100.0)[-2].holds

    assert last(0.9, 0.81) is True
    assert last(0.9, 0.8) is False
    assert last(0.8, 0.9) is False


def test_what_was_left_although_it_does_not_pay_is_told_beside() -> None:
    verdict = floors.verdicts(SEEN, 1.0, [Efficiency(0.9, 0.3)], 90.0, 100.0)[-2]
    assert "90.0% (30.0% of max_batch)" in verdict.found


@pytest.mark.parametrize(("full_per_s", "kept"), [(81.0, True), (80.0, False)])
def test_yield_is_what_is_left_of_the_runtime_alone(full_per_s: float, kept: bool) -> None:
    assert floors.verdicts(SEEN, 1.0, [], full_per_s, 100.0)[-1].holds is kept


# --- Neighbours -----------------------------------------------------------------------------------


def test_the_model_fails_at_poison_alone_and_takes_the_batch_along(
    tmp_path: Path,
) -> None:
    path = tmp_path / "poisoned.onnx"
    path.write_bytes(neighbours.graph())
    served = OnnxModel.load(path, "poisoned")
    good = np.concatenate([row["x"] for row in neighbours.good_rows()])
    answers = served.run({"x": good})["probabilities"]
    assert answers.shape == (neighbours.ROWS, neighbours.LABELS)
    assert len(np.unique(answers.round(6), axis=0)) == neighbours.ROWS  # so a swap would be seen
    poison = msgspec.json.decode(body_of("raises", v2=False))["x"]
    with pytest.raises(Exception, match="out of"):
        served.run({"x": np.concatenate([good, np.array([poison], np.float32)])})


def body_of(kind: str, *, v2: bool) -> bytes:
    return neighbours.poisons(neighbours.good_rows()[1], v2=v2)[kind].body


@pytest.mark.parametrize("v2", [True, False])
def test_each_kind_is_wrong_in_its_own_way(v2: bool) -> None:
    made = neighbours.poisons(neighbours.good_rows()[1], v2=v2)
    assert made.keys() == neighbours.WANTED.keys()

    def data(kind: str) -> list[object]:
        read = msgspec.json.decode(made[kind].body)
        found: list[object] = read["inputs"][0]["data"] if v2 else read["x"]
        return found

    good = data("slow")
    assert len(good) == neighbours.FEATURES
    assert data("raises") == [neighbours.NO_ENTRY, *good[1:]]
    assert data("shape") == good[1:]
    assert data("ragged") == [good, good[1:]]
    assert data("null") == [None, *good[1:]]
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(made["malformed"].body)
    assert made["truncated"].length > len(made["truncated"].body)
    assert made["oversized"].filler >= INFER_BODY_BYTES


def answering(answer: bytes, received: list[bytes]) -> tuple[int, threading.Thread]:
    """A port that answers the first caller when they end or their body is whole."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            got = b""
            while not got.endswith(b"END") and (piece := connection.recv(65536)):
                got += piece
            received.append(got)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return listener.getsockname()[1], thread


@pytest.mark.parametrize(
    ("answer", "how"),
    [(b"HTTP/1.1 413 Too Large\r\n\r\n", "413"), (b"", neighbours.CUT), (b"\n", neighbours.CUT)],
)
def test_poison_is_sent_whole_and_its_status_is_told(answer: bytes, how: str) -> None:
    received: list[bytes] = []
    port, thread = answering(answer, received)
    asked = Asked("/ask", {"content-type": "application/json"}, b"")
    told = neighbours.send(port, asked, neighbours.Poison(b"abcEND"))
    thread.join()
    assert told == how
    head, _, body = received[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /ask HTTP/1.1\r\ncontent-type: application/json\r\n")
    assert head.endswith(b"content-length: 6")
    assert body == b"abcEND"


def test_truncated_poison_announces_more_and_ends() -> None:
    received: list[bytes] = []
    port, thread = answering(b"HTTP/1.1 400 \r\n\r\n", received)
    poison = neighbours.Poison(b"half", length=8)
    assert neighbours.send(port, Asked("/", {}, b""), poison) == "400"
    thread.join()
    assert b"content-length: 8\r\n\r\nhalf" in received[0]


def test_pieces_are_the_whole() -> None:
    assert neighbours.in_pieces(b"0123456789", 4) == [b"012", b"345", b"678", b"9"]


def of_ours(failed: list[str], kinds: dict[str, Counter[str]]) -> list[bool | None]:
    bad = neighbours.Found()
    bad.right_ms, bad.failed, bad.of_kind = [1.0, 2.0], failed, kinds
    ours = neighbours.OfContender(neighbours.Found(), bad, in_parts=3)
    return [each.holds for each in neighbours.verdicts_of(ours)]


def test_one_good_request_that_fails_is_a_failure() -> None:
    right = {kind: Counter({"400": 2}) for kind in neighbours.WANTED}
    right["slow"] = Counter({"200": 2})
    assert of_ours([], right) == [True] * 10
    assert of_ours(["ValueError: status 500"], right)[0] is False
    assert of_ours([], right | {"null": Counter({"400": 9, "500": 1})}).count(False) == 1
    assert of_ours([], right | {"slow": Counter({"408": 1})}).count(False) == 1
    assert of_ours([], {})[1:] == [None] * 9


def test_an_answer_of_another_length_is_wrong() -> None:
    right = np.array([0.25, 0.75])
    assert neighbours.near(right + 1e-6, right)
    assert not neighbours.near(right[::-1], right)
    assert not neighbours.near(right[:1], right)


# --- Growth ---------------------------------------------------------------------------------------


def test_cost_counts_the_cpu_time_of_the_warm_up_with_its_requests() -> None:
    cost = growth.cost_of(SEEN, 0.024, 80.0)
    assert cost.cpu_us == pytest.approx(100.0)
    assert cost._replace(cpu_us=0.0) == Cost(4.5, 19.0, 0.0, 80.0)


@pytest.mark.parametrize(
    "seen",
    [
        msgspec.structs.replace(SEEN, latency=None, not_told="late itself"),
        msgspec.structs.replace(SEEN, answered=199),
    ],
)
def test_what_was_not_answered_or_told_has_no_cost(seen: Seen) -> None:
    with pytest.raises(Unavailable, match=r"late itself|1 of 200"):
        growth.cost_of(seen, 0.024, 80.0)
    with pytest.raises(Unavailable, match=r"late itself|1 of 200"):
        collector.run_of(seen, 0.024)


def test_steps_reach_from_the_smallest_to_the_largest() -> None:
    names = [step.name for step in growth.steps()]
    assert {"models 1", "models 10", "models 100", "idle connections 10,000"} <= {*names}
    assert {"bytes 1,000, json", "bytes 10,000,000, binary"} <= {*names}
    assert len(names) == len({*names})


def test_bodies_have_about_the_size_that_is_said() -> None:
    for form, of in (("json", V2), ("binary", V2_BINARY)):
        row = growth.numbers(round(100_000 / growth.BYTES_OF_A_NUMBER[form]))
        assert len(of.ask(row).body) == pytest.approx(100_000, rel=0.1)


def test_the_mean_is_what_the_model_answers(tmp_path: Path) -> None:
    path = tmp_path / "mean.onnx"
    path.write_bytes(growth.mean_of_all())
    row = growth.numbers(1000)
    answer = OnnxModel.load(path, "mean").run(row)["mean"]
    assert answer[0, 0] == pytest.approx(growth.mean(row)[0], abs=1e-5)


def test_the_plot_has_a_panel_for_each_figure_of_what_grows() -> None:
    one, two = Cost(1.0, 2.0, 300.0, 80.0), Cost(3.0, 4.0, 500.0, 90.0)
    found = {
        Step("models", 1): [one, two, one],
        Step("models", 10): [two],
        Step("bytes", 1000, "json"): [one],
        Step("idle connections", 10): [],
    }
    drawn = growth.drawn("models", found)
    for heading, _ in growth.PANELS:
        assert f">{heading}<" in drawn
    assert "json" not in drawn
    assert "json" in growth.drawn("bytes", found)
    assert growth.plot("idle connections").name == "growth-idle-connections.svg"
    assert [growth.power(size) for size in (0, 1, 10, 10_000)] == [0, 0, 1, 4]
    assert growth.middle([one, two, one]) == one
    medians = {each.name: each.median for each in growth.figures_of(found)}
    assert medians["models 10: CPU time"] == 500.0
    assert medians["models 1: p99"] == 2.0


def test_series_without_room_are_a_failure() -> None:
    assert [each.holds for each in growth.verdicts_of({1: 0.0, 100: 484.0})] == [False]
    assert [each.holds for each in growth.verdicts_of({1: 0.0, 10: 0.0})] == [True]


# --- Collector ------------------------------------------------------------------------------------


def rounds(again: float, untouched: float) -> list[dict[str, Run]]:
    def run(factor: float) -> Run:
        return Run(1.0 * factor, 2.0 * factor, 3.0 * factor, 100.0 * factor)

    return [{AS_IS: run(1.0), AGAIN: run(again), UNTOUCHED: run(untouched)}] * 3


@pytest.mark.parametrize(
    ("again", "untouched", "says"), [(1.02, 1.5, True), (0.9, 1.05, None), (1.02, 0.5, False)]
)
def test_a_difference_counts_beyond_that_of_two_equal_runs(
    again: float, untouched: float, says: bool | None
) -> None:
    found = rounds(again, untouched)
    assert collector.compared(found, UNTOUCHED, "p99_ms").says is says
    assert [each.holds for each in collector.verdicts_of(found)] == [says] * 4


def test_everybody_is_first_at_some_time() -> None:
    assert {collector.turns(number)[0] for number in range(len(ARMS))} == {*ARMS}
    assert all(sorted(collector.turns(number)) == sorted(ARMS) for number in range(9))


def test_the_replacement_puts_another_function_in_the_place_of_one_that_is_there(
    tmp_path: Path,
) -> None:
    text = collector.replacement("'replaced'")
    ast.parse(text)
    assert callable(front._settle)
    (tmp_path / "some_front.py").write_text("def _settle():\n    return 'as it is'\n")
    asked = text.replace(f'"{front.__name__}"', '"some_front"')
    (tmp_path / "sitecustomize.py").write_text(asked)
    done = subprocess.run(
        [sys.executable, "-c", "import some_front; print(some_front._settle())"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, collector.SAID in done.stderr) == ("replaced\n", True)


# --- What recording costs -------------------------------------------------------------------------


def test_what_a_server_that_does_not_record_leaves_out_is_there() -> None:
    compile(recording.replacement(), "sitecustomize", "exec")
    for module, methods in recording.NOTHING.items():
        made = importlib.import_module(module)
        for each in methods:
            owner, method = each.split(".")
            assert callable(getattr(getattr(made, owner), method))


def test_recording_is_judged_by_the_best_rounds_and_by_what_two_alike_differ() -> None:
    def rounds(on: float, again: float, off: float) -> dict[str, list[float]]:
        others = [0.0, 30.0, 5.0, 80.0, 1.0, 20.0, 60.0, 9.0, 44.0, 12.0]
        of = {recording.AS_IS: on, recording.AGAIN: again, recording.OFF: off}
        return {arm: [us + each for each in others] for arm, us in of.items()}

    share = recording.share_of([rounds(103.0, 105.0, 100.0), rounds(104.0, 104.0, 100.0)])
    assert share.cost == pytest.approx(0.04, rel=0.02)
    assert share.noise == pytest.approx(0.02, rel=0.05)
    assert [share.holds(most) for most in (0.07, 0.05, 0.01)] == [True, None, False]
    assert recording.inferred(share, 100.0, 10_000.0).cost == pytest.approx(0.0004, rel=0.02)
