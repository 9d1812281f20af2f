"""What analysis says of made pasts: what is slow, since when, what changed, what is worse."""

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws import examples
from paceline.serve.knobs import DEFAULTS, Rules
from paceline.terms.errors import NotMeasured
from paceline.terms.goal import predictions
from paceline.terms.limits import ROWS as ROWS_AT_MOST
from paceline.terms.metric import (
    BATCH_LEFT_ROWS,
    BATCHES,
    CONTAINER_CORES,
    CONTAINER_CPU_SECONDS,
    CPU_SECONDS,
    CPU_WAIT_SECONDS,
    MODEL_SECONDS,
    NOT_RUN,
    PART_SECONDS,
    REQUEST_PART_SECONDS,
    REQUEST_SECONDS,
    REQUESTS,
    ROWS,
    RUN,
    Metric,
)
from paceline.watch.analysis.baseline import against, baseline
from paceline.watch.analysis.bottleneck import shares_of
from paceline.watch.analysis.finding import Advice, Baseline, Finding
from paceline.watch.analysis.findings import findings
from paceline.watch.analysis.parts import parts
from paceline.watch.past import Step
from pasts import ListedPast

MODEL = "m"
CORES = 4.0

Second = Mapping[str, float]


def second(**given: float) -> dict[str, float]:
    """A hundred requests, each a batch of its own that runs 2 ms; the rest is given in ms."""
    return {"rps": 100.0, "run": 2.0, "front": 0.3, "members": 1.0, "cpu": 0.3, **given}


def past(at: Callable[[int], Second], seconds: int, seed: int = 0) -> ListedPast:
    """Latencies scatter by 10 % from second to second."""
    die = np.random.default_rng(seed)
    made: dict[tuple[Metric, tuple[str, ...]], list[Step]] = {}

    def add(metric: Metric, labels: tuple[str, ...], wall_s: float, step: Step) -> None:
        made.setdefault((metric, labels), []).append(step)

    for number in range(seconds):
        wall_s, is_ = 1000.0 + number, at(number)
        scatter = float(np.exp(0.1 * die.standard_normal()))
        rps = is_["rps"]
        ms = {
            each: is_.get(each, 0.0) * scatter
            for each in ("run", "front", "queue", "body", "parse")
        }
        mean_ms = sum(ms.values())
        quantiles = tuple(mean_ms / 1e3 * each for each in (0.9, 1.3, 1.5, 2.0, 3.0))

        def count(metric: Metric, value: float, *labels: str, wall_s: float = wall_s) -> None:
            add(metric, labels, wall_s, Step(wall_s, value))

        batches = rps / is_["members"]
        total = Step(wall_s, rps, rps * mean_ms / 1e3, mean_ms / 250, quantiles)
        add(REQUEST_SECONDS, (MODEL,), wall_s, total)
        add(MODEL_SECONDS, (MODEL,), wall_s, Step(wall_s, batches, batches * ms["run"] / 1e3))
        count(RUN, rps, MODEL)
        count(ROWS, rps * is_.get("rows", 1.0), MODEL)
        count(PART_SECONDS, rps * ms["queue"] / 1e3, MODEL, "queue")
        count(REQUEST_PART_SECONDS, rps * ms["body"] / 1e3, MODEL, "body")
        count(REQUEST_PART_SECONDS, rps * ms["parse"] / 1e3, MODEL, "parse")
        count(REQUESTS, rps, MODEL, "normal", "200")
        count(REQUESTS, is_.get("refused", 0.0), MODEL, "normal", "503")
        count(NOT_RUN, is_.get("late", 0.0), MODEL, "late")
        count(BATCHES, batches if is_.get("full") else 0.0, MODEL, "size reached")
        count(BATCH_LEFT_ROWS, is_.get("left", 0.0), MODEL, "yes")
        count(CPU_SECONDS, is_["cpu"], "front")
        count(CPU_WAIT_SECONDS, is_.get("wait", 0.0), "front")
        count(CONTAINER_CPU_SECONDS, is_["cpu"] + is_.get("others", 0.0))
        count(CONTAINER_CORES, CORES)
    return ListedPast(1.0, made)


def steady(**given: float) -> Callable[[int], Second]:
    return lambda _: second(**given)


def bottleneck(made: ListedPast) -> Finding:
    (found,) = [each for each in findings(made, MODEL, 600, DEFAULTS) if each.kind == "bottleneck"]
    return found


@pytest.mark.parametrize(
    ("part", "is_"),
    [
        ("compute", {}),
        ("queue", {"queue": 8.0}),
        ("queue", {"queue": 8.0, "cpu": 1.0, "wait": 0.1}),
        ("parsing", {"parse": 5.0}),
        ("network", {"body": 50.0}),
        ("network", {"body": 50.0, "others": 3.5, "wait": 2.0}),
        ("front", {"front": 7.0}),
        ("saturation", {"run": 9.0, "others": 3.5, "wait": 0.6}),
        ("saturation", {"cpu": 3.8, "wait": 3.0, "queue": 20.0}),
        ("saturation", {"cpu": 3.9, "wait": 3.0, "refused": 20.0, "late": 20.0}),
        ("queue", {"refused": 20.0, "late": 20.0}),
        ("limits", {"refused": 20.0}),
    ],
)
def test_what_is_slow_is_named(part: str, is_: Mapping[str, float]) -> None:
    found = bottleneck(past(steady(**is_), 60))
    assert found.name == part
    assert found.sure > 0.9
    assert found.advice
    assert all(0 < each.sure <= 1 for each in found.advice)


def test_another_front_is_advised_where_this_one_is_busy_and_not_to_a_lone_caller() -> None:
    (idle,) = bottleneck(past(steady(front=7.0, cpu=0.1), 60)).advice
    assert "one front more" not in idle.what
    assert idle.impact is None
    (busy,) = bottleneck(past(steady(front=7.0, cpu=0.9), 60)).advice
    assert "one front more" in busy.what
    assert busy.impact is not None


def test_others_who_have_the_cores_are_told_from_ourselves() -> None:
    theirs = bottleneck(past(steady(run=9.0, others=3.5, wait=0.6), 60))
    assert "others use" in theirs.what
    own = bottleneck(past(steady(cpu=3.8, wait=3.0, queue=20.0), 60))
    assert "others use" not in own.what


def test_nothing_is_named_where_little_was_asked_or_all_is_quick() -> None:
    assert not [
        each
        for made in (past(steady(rps=1.0), 20), past(steady(run=0.1, front=0.05), 60))
        for each in findings(made, MODEL, 600)
        if each.kind == "bottleneck"
    ]
    assert findings(ListedPast(1.0, {}), MODEL, 600) == []
    assert findings(past(steady(), 60), "another", 600) == []


def test_the_parts_add_up_and_little_s_law_counts_those_in_flight() -> None:
    made = past(steady(queue=5.0, body=1.0, parse=1.0, members=4.0), 60)
    found = parts(made, MODEL, 600)
    shares = found.body_s + found.parse_s + found.queue_s + found.run_s + found.front_s
    assert shares == pytest.approx(found.total_s)
    assert found.in_flight == pytest.approx(100 * found.mean_s)
    assert found.queued == pytest.approx(found.in_flight * found.queue_s / found.total_s)
    # Each of four shares a run, so an executor is busy a quarter of what they wait for it.
    assert found.executors_busy == pytest.approx(found.run_s / found.span_s / 4)


@given(
    st.fixed_dictionaries(
        {each: st.floats(0.0, 50.0) for each in ("run", "queue", "body", "parse")}
    ),
    st.floats(0.0, 5.0),
    st.floats(1.0, 16.0),
)
@examples(25)
def test_shares_are_of_one_whole_whatever_was_counted(
    ms: dict[str, float], front: float, members: float
) -> None:
    made = past(steady(**ms, front=front, members=members), 3)
    found = parts(made, MODEL, 600)
    shares = shares_of(found)
    assert all(0.0 <= each <= 1.0 + 1e-9 for each in shares.values())
    assert sum(shares.values()) == pytest.approx(1.0 if found.total_s else 0.0)


def test_a_bottleneck_says_since_when() -> None:
    made = past(lambda at: second(queue=20.0 if at >= 45 else 0.0), 60)
    found = bottleneck(made)
    assert found.name == "queue"
    assert found.ago_s == pytest.approx(15.0, abs=1.0)
    assert found.wall_s == pytest.approx(1045.0, abs=1.0)
    always = bottleneck(past(steady(queue=20.0), 60))
    assert always.ago_s is None


def advised(rules: Rules, **is_: float) -> tuple[Advice, ...]:
    made = findings(past(steady(**is_), 60), MODEL, 600, rules)
    (found,) = [each for each in made if each.kind == "bottleneck"]
    return found.advice


def test_batches_that_leave_paying_rows_are_to_take_them_and_not_to_be_allowed_more() -> None:
    """They were left though the size that is set would have let them in."""
    is_ = {"queue": 20.0, "left": 300.0, "run": 8.0}
    rules = msgspec.structs.replace(DEFAULTS, max_batch=4, batching="latency_optimized")
    first, *others = advised(rules, **is_)
    assert first.command.startswith("paceline plan set m.batching at_once ")
    assert first.impact is not None
    assert first.impact.low < first.impact.likely < first.impact.high < first.impact.now
    # What it foretells is what `--expect` takes, so that it is scored afterwards.
    (expected,) = predictions([first.command.partition('--expect "')[2].rstrip('"')])
    assert expected.metric == "mean_ms"
    assert any("executors" in each.command for each in others)
    late, *_ = advised(DEFAULTS, **is_)
    assert "more time" in late.what
    assert late.command == ""


def test_full_batches_may_become_larger_and_may_bring_nothing() -> None:
    assert "full at 1 rows" in bottleneck(past(steady(queue=20.0, full=1.0), 60)).what
    rules = msgspec.structs.replace(DEFAULTS, max_batch=1)
    first, *_ = advised(rules, queue=20.0, full=1.0)
    assert first.command.startswith("paceline plan set m.max_batch 4 ")
    assert first.impact is not None
    assert first.impact.low < first.impact.now
    assert first.impact.high == pytest.approx(first.impact.now)


def test_larger_batches_are_not_advised_where_no_setting_makes_them_so() -> None:
    """Of a model whose requests run alone; and beyond what may be set."""
    for rows, setting in ((1.0, 64), (ROWS_AT_MOST, ROWS_AT_MOST)):
        rules = msgspec.structs.replace(DEFAULTS, max_batch=setting)
        given = advised(rules, queue=20.0, full=1.0, rows=rows)
        assert not any("max_batch" in each.command for each in given)


def test_more_executors_are_not_advised_for_batches_that_run_one_by_one() -> None:
    given = advised(DEFAULTS, queue=5.0, run=0.5)
    assert not any("executors" in each.command for each in given)
    assert any("one front more" in each.what for each in given)


def test_a_model_that_is_switched_off_is_to_be_switched_on() -> None:
    (only,) = advised(msgspec.structs.replace(DEFAULTS, enabled=False), refused=200.0)
    assert only.command == "paceline plan set m.enabled true"


def test_a_limit_is_raised_as_far_as_it_goes() -> None:
    def advised(most: int) -> str:
        rules = msgspec.structs.replace(DEFAULTS, max_in_flight=most)
        made = past(steady(refused=200.0), 60)
        (found,) = [each for each in findings(made, MODEL, 600, rules) if each.name == "limits"]
        return found.advice[0].command

    assert advised(8).startswith("paceline plan set m.max_in_flight 32 ")
    assert advised(1024) == ""


def test_a_change_of_latency_is_told_with_what_grew() -> None:
    made = past(lambda at: second(queue=2.0 if at >= 180 else 0.5), 300, seed=3)
    changes = [each for each in findings(made, MODEL, 600) if each.kind == "change"]
    assert len(changes) == 1
    (found,) = changes
    assert found.name == "p50_ms"
    assert found.wall_s == pytest.approx(1180.0, abs=5.0)
    assert found.ago_s == pytest.approx(120.0, abs=5.0)
    assert "queue" in found.what
    assert "p99" in found.what  # both moved, and it is told once
    assert found.sure > 0.99


def test_a_steady_past_has_no_changes_trends_or_anomalies() -> None:
    told = [
        each.kind
        for seed in range(4)
        for each in findings(past(steady(), 300, seed), MODEL, 600)
        if each.kind != "bottleneck"
    ]
    assert len(told) <= 1


def test_a_slow_rise_is_a_trend() -> None:
    made = past(lambda at: second(run=2.0 + at / 300), 300)
    told = [each for each in findings(made, MODEL, 600) if each.kind in ("trend", "change")]
    assert told
    assert all(each.name in ("p50_ms", "p99_ms") for each in told)


def test_a_stretch_that_passes_is_an_anomaly() -> None:
    made = past(lambda at: second(run=12.0 if 200 <= at < 208 else 2.0), 300)
    told = [each for each in findings(made, MODEL, 600) if each.kind == "anomaly"]
    assert told
    assert all(1198 <= (each.wall_s or 0) <= 1206 for each in told)
    assert "above" in told[0].what


def test_the_same_past_has_the_same_findings() -> None:
    made = past(lambda at: second(queue=3.0 if at >= 150 else 0.0), 300)
    assert findings(made, MODEL, 600, DEFAULTS) == findings(made, MODEL, 600, DEFAULTS)
    encoded = msgspec.json.encode(findings(made, MODEL, 600))
    assert msgspec.json.decode(encoded, type=list[Finding]) == findings(made, MODEL, 600)


# --- Baselines ------------------------------------------------------------------------------------


def names(found: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(each.kind, each.name) for each in found]


def test_a_baseline_survives_a_file_and_finds_nothing_in_the_like() -> None:
    kept = baseline(past(steady(), 200, seed=1), MODEL, 600)
    again = msgspec.json.decode(msgspec.json.encode(kept), type=Baseline)
    assert again == kept
    found = [names(against(kept, past(steady(), 200, seed=at), MODEL)) for at in range(2, 12)]
    assert sum(map(len, found)) <= 1


def test_what_got_worse_and_what_got_better_are_told_with_intervals() -> None:
    kept = baseline(past(steady(queue=1.0), 200, seed=1), MODEL, 600)
    worse = against(kept, past(steady(queue=1.5), 200, seed=2), MODEL)
    assert names(worse) == [("regression", "p50_ms"), ("regression", "p99_ms")]
    change = next(each for each in worse[0].evidence if each.name == "change")
    assert change.low is not None
    assert change.high is not None
    assert change.low < 3.8 / 3.3 - 1 < change.high
    better = against(kept, past(steady(queue=0.5), 200, seed=2), MODEL)
    assert names(better) == [("improvement", "p50_ms"), ("improvement", "p99_ms")]


def test_more_requests_turned_away_are_a_regression() -> None:
    kept = baseline(past(steady(), 100), MODEL, 600)
    worse = against(kept, past(steady(refused=5.0), 100, seed=1), MODEL)
    assert ("regression", "error_ratio") in names(worse)


def test_too_little_makes_no_baseline() -> None:
    with pytest.raises(NotMeasured, match="too little"):
        baseline(past(steady(), 5), MODEL, 600)
    kept = baseline(past(steady(), 100), MODEL, 600)
    with pytest.raises(NotMeasured, match="too little"):
        against(kept, past(steady(), 5), MODEL)
