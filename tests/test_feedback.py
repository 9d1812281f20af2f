"""Labels that come back: which answer each is held against, what it says of it, what is counted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.cli.reported import figures
from paceline.clock import SimulatedClock
from paceline.serve.digits import SAMPLE_LABEL, SAMPLE_ROW
from paceline.serve.judging import Label, Predicted, Prediction, Verdict, judge, judge_told
from paceline.serve.model import ModelSpec, TensorSpec
from paceline.serve.notes import Lot, Notes, count
from paceline.stats.shares import chance, wilson
from paceline.terms.limits import (
    FEEDBACK_BURST,
    FEEDBACK_LABELS,
    FEEDBACK_LATE_S,
    FEEDBACK_PER_S,
)
from paceline.terms.metric import FEEDBACK, MODEL_SECONDS
from paceline.terms.metric import ROWS as ROWS_RUN
from paceline.watch.analysis.baseline import baseline, compared
from paceline.watch.analysis.finding import Baseline, Finding
from paceline.watch.analysis.findings import findings
from paceline.watch.report import report
from servers import Server
from test_history import Life
from test_plan_live import until

ROWS = TensorSpec("x", "FP32", (-1, 4))


def spec(*outputs: tuple[str, tuple[int, ...]]) -> ModelSpec:
    made = tuple(TensorSpec(f"y{at}", kind, shape) for at, (kind, shape) in enumerate(outputs))
    return ModelSpec("m", "1", (ROWS,), made)


LABELS = spec(("INT64", (-1,)))


@pytest.mark.parametrize(
    ("model", "outputs", "predicted"),
    [
        (LABELS, [[3, 1]], Predicted("class", (3, 1))),
        (spec(("FP32", (-1, 3))), [[[0.1, 0.7, 0.2]]], Predicted("class", (1,))),
        (spec(("FP32", (-1, 1))), [[[2.5], [4.0]]], Predicted("number", (2.5, 4.0))),
        (spec(("FP32", (-1, 3)), ("INT64", (-1,))), [[[1.0, 0, 0]], [2]], Predicted("class", (2,))),
        (spec(("BYTES", (-1,))), [np.array([b"cat"], object)], Predicted("class", ("cat",))),
        (spec(("BOOL", (-1,))), [[True]], Predicted("class", (1,))),
        (spec(("FP32", (-1, 8, 8))), [np.zeros((1, 8, 8))], None),
        (LABELS, [np.zeros(1000, np.int64)], None),
    ],
)
def test_the_prediction_is_found_among_the_outputs(
    model: ModelSpec, outputs: Sequence[Any], predicted: Predicted | None
) -> None:
    arrays = {f"y{at}": np.asarray(each) for at, each in enumerate(outputs)}
    assert Prediction(model).of(arrays) == predicted


@pytest.mark.parametrize(
    ("prediction", "label", "verdict"),
    [
        (3, 3, Verdict(right=1)),
        (3, 4, Verdict(wrong=1)),
        ("cat", "cat", Verdict(right=1)),
        (3, "3", Verdict(right=1)),
        (True, 1, Verdict(right=1)),
        ((1, 2, 3), (1, 2, 0), Verdict(right=2, wrong=1)),
        ((0.1, 0.7, 0.2), 1, Verdict(right=1)),
        ((0.1, 0.7, 0.2), 2, Verdict(wrong=1)),
        (2.5, 2, Verdict(numbers=1, error=0.5, squared=0.25)),
        ((1.0, 2.0), (2.0, 4.0), Verdict(numbers=2, error=3.0, squared=5.0)),
    ],
)
def test_a_prediction_is_judged_by_its_label(
    prediction: Label, label: Label, verdict: Verdict
) -> None:
    assert judge_told(prediction, label) == verdict


@pytest.mark.parametrize(
    ("predicted", "label"),
    [
        (Predicted("class", (1, 2)), 1),
        (Predicted("class", (1,)), (1, 2)),
        (Predicted("number", (1.0,)), "one"),
        (Predicted("number", (float("nan"),)), 1.0),
    ],
)
def test_a_label_that_does_not_fit_judges_nothing(predicted: Predicted, label: Label) -> None:
    found = judge(predicted, label)
    assert found.why
    assert not found.right + found.wrong + found.numbers


@given(st.lists(st.integers(0, 40)), st.integers(2, 12))
def test_a_lot_has_the_last_ones_and_never_more_than_it_may(ids: list[int], most: int) -> None:
    lot = Lot(most)
    for each in ids:
        lot.put(b"%d" % each, Predicted("class", (each,)))
        assert len(lot) <= most
    last = dict.fromkeys(reversed(ids[-(most // 2) :]))
    for each in last:
        assert lot.take(b"%d" % each) == Predicted("class", (each,))
        assert lot.take(b"%d" % each) is None


def noted(clock: SimulatedClock, most: int, seconds: int, per_s: int) -> tuple[Notes, list[bytes]]:
    notes = Notes(LABELS, most, clock.now)
    ids = []
    for at in range(seconds * per_s):
        ids.append(b"%d" % at)
        notes.note(ids[-1], 1, {}, {"y0": np.array([at % 10])})
        clock.advance(1 / per_s)
    return notes, ids


def test_of_few_requests_all_are_remembered() -> None:
    notes, ids = noted(SimulatedClock(), 4096, 20, 40)
    assert [notes.judge(each, int(each) % 10) for each in ids] == [Verdict(right=1)] * len(ids)


def test_of_many_so_many_a_second_and_some_for_hours() -> None:
    clock = SimulatedClock()
    notes, ids = noted(clock, 4096, 10, 2000)
    assert len(notes) <= 4096
    lately = [notes.judge(each, 0) is not None for each in ids[-2000:]]
    assert sum(lately) == pytest.approx(FEEDBACK_PER_S, rel=0.1)
    hourly = Notes(LABELS, 400, clock.now)
    for at in range(int(FEEDBACK_LATE_S) // 10):
        hourly.note(b"%d" % at, 1, {}, {"y0": np.array([0])})
        clock.advance(10.0)
    assert sum(hourly.judge(b"%d" % at, 0) is not None for at in range(360)) >= 15


def test_a_burst_is_remembered_as_far_as_it_may() -> None:
    clock = SimulatedClock()
    clock.advance(100.0)
    notes = Notes(LABELS, 8192, clock.now)
    for at in range(3 * FEEDBACK_BURST):
        notes.note(b"%d" % at, 1, {}, {"y0": np.array([0])})
    assert len(notes) == pytest.approx(FEEDBACK_BURST, abs=2)


def test_what_a_model_answers_never_fails_the_request() -> None:
    notes = Notes(LABELS, 100, SimulatedClock().now)
    notes.note(b"a", 1, {}, {"y0": np.array([None])})
    notes.note(b"b", 1, {}, {})
    assert notes.judge(b"a", 1) is None


def judged_life(right: int, wrong: int, off: float = 0.0) -> Life:
    """Ten minutes in which a row was run each second, and so many labels in all; each other number
    was off by `off` more than half."""
    life = Life()
    board = life.boards[0]
    for step in range(60):
        life.answer(100, 0.01)
        board.sketch(MODEL_SECONDS, "m").record(0.001, 10)
        board.counter(ROWS_RUN, "m").add(10)
        if step == 30:
            count(board, "m", Verdict(right=right, wrong=wrong))
            for at in range(100 if off else 0):
                each = 0.5 + off * (at % 2)
                count(board, "m", Verdict(numbers=1, error=each, squared=each * each))
            board.counter(FEEDBACK, "m", "unknown").add(5)
        life.pass_s(10.0)
    return life


def test_a_report_says_how_good_a_model_is() -> None:
    life = judged_life(90, 10, off=1.0)
    found = report(life.past, "m", 600, 60, now_unix_s=life.wall_s, version="1")
    told = found.quality
    assert told is not None
    assert (told.labels, told.unknown, told.accuracy) == (200, 5, 0.9)
    assert told.coverage == pytest.approx(1 / 3)
    assert told.accuracy_low is not None
    assert told.accuracy_high is not None
    assert (told.accuracy_low, told.accuracy_high) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert told.mean_abs_error == pytest.approx(1.0)
    assert (told.mean_abs_error_low, told.mean_abs_error_high) == pytest.approx(
        (1 - 0.098, 1 + 0.098), abs=1e-3
    )
    lines = dict(figures(found))
    assert lines["accuracy"] == "90.0 % (from 82.5 % to 94.4 %): 90 of 100 were right"
    assert lines["error"] == "1 on average (from 0.902 to 1.1), of 100 predictions"
    assert lines["labels"] == "200, 33.3 % of the rows; 5 of answers not remembered"
    none = report(Life().past, "m", 600, 60, now_unix_s=life.wall_s, version="1")
    assert none.quality is None


def test_what_got_worse_than_a_baseline_is_told_and_chance_is_not() -> None:
    def kept(life: Life) -> Baseline:
        return baseline(life.past, "m", 600)

    before = kept(judged_life(280, 20, off=1.0))
    worse, same = kept(judged_life(240, 60, off=2.0)), kept(judged_life(276, 24, off=1.1))
    kinds = {each.name: each.kind for each in compared(before, worse)}
    assert kinds == {"accuracy": "regression", "mean_abs_error": "regression"}
    assert compared(before, same) == []
    assert {each.kind for each in compared(worse, before)} == {"improvement"}
    few = kept(judged_life(1, 9))
    assert compared(before, few) == []


def test_a_model_that_got_worse_lately_is_told_without_a_baseline() -> None:
    def told(right: int, wrong: int) -> list[Finding]:
        life = judged_life(280, 20)
        for step in range(20):
            life.answer(100, 0.01)
            if step == 10:
                count(life.boards[0], "m", Verdict(right=right, wrong=wrong))
            life.pass_s(10.0)
        return [each for each in findings(life.past, "m", 800) if each.name == "accuracy"]

    (worse,) = told(120, 30)
    assert worse.kind == "regression"
    assert "80.0% of 150 against 93.3% of 300" in worse.what
    assert told(140, 10) == told(8, 2) == []


@given(st.integers(0, 40), st.integers(1, 40))
def test_an_interval_holds_its_share(events: int, count: int) -> None:
    events = min(events, count)
    found = wilson(events, count)
    assert found is not None
    low, high = found
    assert 0 <= low <= events / count <= high <= 1
    wider = wilson(events, count, 3.0)
    assert wider is not None
    assert wider[0] <= low
    assert high <= wider[1]


def test_two_shares_differ_by_chance_as_often_as_is_said() -> None:
    rng = np.random.default_rng(7)
    for share in (0.5, 0.9, 0.97):
        first, second = rng.binomial(200, share, 4000) / 200, rng.binomial(500, share, 4000) / 500
        false = [chance(a, 200, b, 500) < 0.05 for a, b in zip(first, second, strict=True)]
        assert np.mean(false) < 0.065
    assert chance(0.9, 300, 0.8, 300) < 0.001


def digit(server: Server) -> str:
    answer = server.ask("POST", "/predict/digits", list(SAMPLE_ROW))
    assert answer.status == 200
    return answer.headers["x-request-id"]


def test_labels_reach_the_front_that_answered_and_are_counted(tmp_path: Path) -> None:
    with Server(tmp_path / "state", "--fronts", "2") as server:
        ids = [digit(server) for _ in range(12)]
        one = {"model": "digits", "request_id": ids[0], "label": SAMPLE_LABEL}
        assert server.ask("POST", "/feedback", one).json["right"] == 1
        again = server.ask("POST", "/feedback", one).json
        assert (again["right"], len(again["not_judged"])) == (0, 1)
        several = [{"request_id": each, "label": SAMPLE_LABEL} for each in ids[1:9]]
        several += [{"request_id": each, "label": 8} for each in ids[9:]]
        several += [{"request_id": "no-such", "label": 1}, {"prediction": 2.0, "label": 2.5}]
        told = server.ask("POST", "/feedback", {"model": "digits", "labels": several}).json
        assert (told["right"], told["wrong"], told["measured"]) == (8, 3, 1)
        assert told["mean_abs_error"] == 0.5
        assert [each["index"] for each in told["not_judged"]] == [11]
        metrics = server.ask("GET", "/metrics").body.decode()
        for line in (
            'paceline_feedback_total{model="digits",outcome="right"} 9',
            'paceline_feedback_total{model="digits",outcome="wrong"} 3',
            'paceline_feedback_total{model="digits",outcome="unknown"} 2',
            'paceline_feedback_error_total{model="digits"} 0.5',
        ):
            assert line in metrics

        def judged() -> Any:
            answer = server.ask("GET", "/api/quality?model=digits&since=1h").json
            (told,) = answer.get("models") or [{}]  # nothing, until the past is read
            return told.get("labels") or {}

        until("the labels are seen", lambda: judged().get("labels") == 13)
        shown = judged()
        low, high = wilson(9, 12) or (0.0, 0.0)
        assert (shown["accuracy"], shown["unknown"]) == (0.75, 2)
        assert (shown["accuracy_low"], shown["accuracy_high"]) == pytest.approx((low, high))
        assert server.ask("GET", "/api/quality?model=digit").json["code"] == "unknown_model"
        assert server.ask("GET", "/api/quality?since=soon").status == 400
        for wrong in (
            {"model": "digits"},
            {"model": "digits", "label": 1},
            {"model": "digits", "label": 1, "request_id": "a", "prediction": 1},
            {"model": "digits", "label": 10**400, "request_id": "a"},
            {"model": "digits", "labels": [{"label": 1, "prediction": 1}] * (FEEDBACK_LABELS + 1)},
        ):
            assert server.ask("POST", "/feedback", wrong).status == 400
        nowhere = server.ask("POST", "/feedback", one | {"model": "none"})
        assert (nowhere.status, nowhere.json["code"]) == (404, "unknown_model")
