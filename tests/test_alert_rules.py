"""When something is an alert: burn rates against their arithmetic, bounds with persistence."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.stats.sketch import Sketch
from paceline.terms.alert import NO_ALERTS, Alert, AlertBook, Severity
from paceline.terms.limits import ALERT_CLEAR_S
from paceline.terms.metric import (
    AT_RISK,
    CONTAINER_CORES,
    CONTAINER_CPU_SECONDS,
    CONTAINER_MEMORY,
    CONTAINER_MEMORY_LIMIT,
    COST,
    DISK_BYTES,
    DISK_FREE,
    FEEDBACK,
    FRONT_RESTARTS,
    FRONTS_READY,
    FRONTS_WANTED,
    GPU_BUSY,
    GPU_CELSIUS,
    GPU_CELSIUS_LIMIT,
    GPU_MEMORY,
    GPU_MEMORY_LIMIT,
    LLM_CALLS,
    LLM_COST,
    LLM_UNPRICED,
    METRICS,
    NOT_RUN,
    QUEUE_AGE,
    QUEUED,
    REQUEST_SECONDS,
    REQUESTS,
)
from paceline.watch.alerts import burn
from paceline.watch.alerts.burn import PAIRS, Events, Pair, burn_rate, burns, left, pairs
from paceline.watch.alerts.latch import Bounds, Latch, Watched
from paceline.watch.alerts.objectives import objectives, whole
from paceline.watch.alerts.rules import BURN, RULES
from paceline.watch.alerts.watchdog import Goals, Watchdog
from pasts import Curve, MadePast, constant, steady
from test_history import Life

MONTH_S = 30 * 86400.0
RATE = 10.0
"""requests a second"""

ALL = {name: rule.bounds for name, rule in RULES.items()}


# --- Burn rates -----------------------------------------------------------------------------------


def tick_s(pair: Pair) -> float:
    return pair.every_s


def span(pair: Pair, budget: float, share: float) -> tuple[float, float]:
    """When the pair begins and ends to burn, in seconds after errors of this share began and ended;
    found by looking once a tick."""
    began = ended = None
    errors_s = pair.long_s * 1.5
    moment_s = 0.0

    def window(length_s: float) -> Events:
        bad_s = min(moment_s, errors_s) - max(0.0, min(moment_s - length_s, errors_s))
        return Events(RATE * length_s, RATE * share * bad_s)

    while ended is None:
        moment_s += tick_s(pair)
        burning = burns(pair, budget, window(pair.short_s), window(pair.long_s), MONTH_S)
        if burning and began is None:
            began = moment_s
        if not burning and began is not None:
            ended = moment_s - errors_s
    assert began is not None
    return began, ended


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.long_s / 3600:g}h")
@pytest.mark.parametrize("share", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("budget", [0.01, 0.001, 0.0001])
def test_burn_rates_begin_and_end_when_arithmetic_says(
    pair: Pair, share: float, budget: float
) -> None:
    needed = pair.factor * budget / share
    if needed >= 1:  # it never burns that fast
        window = Events(RATE * pair.long_s, RATE * share * pair.long_s)
        assert not burns(pair, budget, window, window, MONTH_S)
        return
    began, ended = span(pair, budget, share)
    assert 0 <= began - needed * pair.long_s <= tick_s(pair) + 1e-6
    assert 0 <= ended - pair.short_s * (1 - needed) <= tick_s(pair) + 1e-6


def test_a_total_outage_at_three_nines_is_known_within_52_seconds() -> None:
    began, _ = span(PAIRS[0], 0.001, 1.0)
    assert began == 52


def test_one_failure_in_three_requests_never_is_an_alert() -> None:
    few = Events(3, 1)
    for budget in (0.1, 0.001, 1e-6):
        for pair in pairs(budget):
            assert not burns(pair, budget, few, few, MONTH_S)
            assert burn_rate(few, budget, pair.long_s, MONTH_S) > 1


@settings(max_examples=40)
@given(st.floats(1e-6, 0.999))
def test_every_objective_has_rates_that_can_be_reached(budget: float) -> None:
    for made, usual in zip(pairs(budget), PAIRS, strict=True):
        assert 1 <= made.factor <= usual.factor
        assert made.factor < 1 / budget
        if budget <= 0.05:
            assert made.factor == pytest.approx(usual.factor)


def test_a_server_that_has_just_started_has_not_used_up_a_month() -> None:
    """What lies before all that is known counts as good."""
    all_bad = Events(100, 100)
    assert burn_rate(all_bad, 0.01, 3600, 3600) == pytest.approx(100)
    assert burn_rate(all_bad, 0.01, 3600, 360) == pytest.approx(10)


def test_what_is_left_of_a_budget_and_for_how_long() -> None:
    lost = left(Events(1e6, 500), Events(1000, 10), 0.001, 300, MONTH_S)
    assert lost.share == pytest.approx(0.5)
    assert lost.exhausted_in_s == pytest.approx(0.5 * MONTH_S / 10)
    assert left(Events(1e6, 0), Events(1000, 0), 0.001, 300, MONTH_S) == (1.0, None)
    assert left(Events(1e6, 2000), Events(1000, 1), 0.001, 300, MONTH_S) == (-1.0, 0.0)


def test_goals_become_objectives_with_budgets() -> None:
    of = {
        "one": ("p95_ms <= 30", "availability >= 0.999", "mean_ms <= 10", "minimize cost_usd_h"),
        "two": ("error_ratio <= 0.01", "p50_ms >= 1", "throughput_rps >= 5"),
        "old": ("what an older version wrote",),
    }
    assert [(each.name, each.budget, each.bound_s) for each in objectives(of)] == [
        ("one.p95_ms", pytest.approx(0.05), 0.03),
        ("one.availability", pytest.approx(0.001), None),
        ("two.error_ratio", 0.01, None),
    ]


@settings(max_examples=40)
@given(
    st.lists(st.floats(1e-8, 2e5), max_size=20),
    st.floats(1e-8, 2e5),
)
def test_how_many_values_lie_above_a_bound(values: list[float], bound: float) -> None:
    sketch = Sketch()
    for value in values:
        sketch.record(value)
    surely = sum(value > bound * 1.02 for value in values)
    perhaps = sum(value > bound / 1.02 for value in values)
    if bound < 1e-7:
        surely, perhaps = (sum(value >= 1e-7 for value in values),) * 2
    if bound >= 1e5:
        surely, perhaps = (sum(value >= 1e5 for value in values),) * 2
    assert surely <= sketch.above(bound) <= perhaps


# --- Bounds ---------------------------------------------------------------------------------------


def test_a_value_must_stay_beyond_a_bound_to_be_an_alert_and_well_below_to_be_none() -> None:
    watched = Watched(Bounds(100.0, 500.0, for_s=30.0))

    def level(value: float | None, at: float) -> Severity | None:
        return watched.see(value, at)

    assert [level(120, at) for at in (0, 29)] == [None, None]
    assert level(90, 29.5) is None  # it has to begin anew
    assert [level(120, at) for at in (30, 59)] == [None, None]
    assert watched.pending
    assert level(120, 60) == "warning"
    assert [level(600, at) for at in (61, 90, 91)] == ["warning", "warning", "critical"]
    assert level(460, 92) == "critical"  # neither
    assert level(440, 93) == "critical"
    assert level(440, 93 + ALERT_CLEAR_S) == "warning"
    assert [level(95, at) for at in (200, 300)] == ["warning", "warning"]
    assert level(None, 301) == "warning"
    assert level(None, 301 + ALERT_CLEAR_S) is None


@settings(max_examples=40)
@given(st.lists(st.none() | st.floats(0, 20), max_size=40), st.booleans(), st.floats(0, 5))
def test_what_is_on_was_beyond_its_bound_for_long_enough(
    values: list[float | None], rising: bool, for_s: float
) -> None:
    latch = Latch(10.0, for_s, rising=rising)
    before = False
    for at, value in enumerate(values):
        on = latch.see(value, float(at))
        beyond = value is not None and (value >= 10 if rising else value <= 10)
        if on and not before:
            last = values[max(0, at - int(for_s)) : at + 1]
            assert all(v is not None and (v >= 10 if rising else v <= 10) for v in last)
        if before and not on:
            assert not beyond
        before = on


# --- The table ------------------------------------------------------------------------------------


def healthy(models: int, rate: float, latency_s: float, queued: float = 0.0) -> MadePast:
    """A server that does what it should, however large."""
    past = MadePast()
    for number in range(models):
        of = {"model": f"m{number}"}
        past.make(REQUESTS, {**of, "priority": "normal", "status": "200"}, steady(rate))
        past.make(REQUESTS, {**of, "priority": "normal", "status": "400"}, steady(rate))
        past.make(REQUEST_SECONDS, of, steady(rate), latency_s)
        past.make(QUEUED, {**of, "priority": "normal"}, constant(queued))
        past.make(QUEUE_AGE, {**of, "front": "0"}, constant(latency_s / 2))
        past.make(AT_RISK, of, constant(0.0))
        past.make(NOT_RUN, {**of, "reason": "full"}, constant(3.0))
    past.make(FRONTS_READY, {}, constant(2))
    past.make(FRONTS_WANTED, {}, constant(2))
    past.make(FRONT_RESTARTS, {}, constant(7))
    past.make(CONTAINER_CORES, {}, constant(2))
    past.make(CONTAINER_CPU_SECONDS, {}, steady(1.99))
    past.make(CONTAINER_MEMORY, {}, constant(70e9))
    past.make(CONTAINER_MEMORY_LIMIT, {}, constant(100e9))
    past.make(DISK_BYTES, {}, constant(8e12))
    past.make(DISK_FREE, {}, constant(0.05 * 8e12))
    past.make(GPU_BUSY, {"gpu": "0"}, constant(1.0))
    past.make(GPU_MEMORY, {"gpu": "0"}, constant(120e9))
    past.make(GPU_MEMORY_LIMIT, {"gpu": "0"}, constant(141e9))
    past.make(GPU_CELSIUS, {"gpu": "0"}, constant(75.0))
    past.make(GPU_CELSIUS_LIMIT, {"gpu": "0"}, constant(90.0))
    past.make(COST, {"kind": "compute"}, steady(1e3))
    past.now_s = 4 * 86400.0
    return past


def found(past: MadePast, goals: Goals, models: list[str], for_s: int = 200) -> dict[str, Severity]:
    """What is an alert after a while."""
    watchdog = Watchdog(ALL, models, NO_ALERTS)
    seen = watchdog.look(past, goals, past.now_s)
    for _ in range(for_s // 5):
        past.now_s += 5.0
        seen = watchdog.look(past, goals, past.now_s)
    for finding in seen.findings.values():
        assert all((finding.cause, finding.value, finding.remedy))
        assert RULES[finding.rule].name == finding.rule
    return {each.id: each.severity for each in seen.findings.values()}


@pytest.mark.parametrize(
    ("models", "rate", "latency_s", "queued"),
    [(1, 1e5, 0.001, 400.0), (3, 1.0, 0.3, 0.0), (1, 0.01, 20.0, 1.0), (2, 500.0, 0.2, 5000.0)],
)
def test_a_healthy_server_of_any_size_is_no_alert(
    models: int, rate: float, latency_s: float, queued: float
) -> None:
    names = [f"m{number}" for number in range(models)]
    goals = {
        name: (f"p99_ms <= {latency_s * 1e3 * 1.5:g}", "availability >= 0.99") for name in names
    }
    past = healthy(models, rate, latency_s, queued)
    assert found(past, goals, names) == {}
    assert found(past, {}, names) == {}


def test_what_is_wrong_is_found_by_the_rule_for_it() -> None:
    goals = {"m0": ("p99_ms <= 150", "throughput_rps >= 20")}
    past = healthy(1, 10.0, 0.1)
    began_s = past.now_s
    of = {"model": "m0"}
    past.make(REQUESTS, {**of, "priority": "low", "status": "503"}, steady(5.0, began_s))
    past.make(REQUEST_SECONDS, of, steady(5.0, began_s), 1.0)
    past.make(NOT_RUN, {**of, "reason": "shed"}, steady(5.0, began_s))
    past.make(QUEUED, {**of, "priority": "low"}, steady(1.0, began_s))
    past.make(QUEUE_AGE, {**of, "front": "1"}, steady(1.0, began_s))
    past.make(AT_RISK, of, lambda at: float(at > began_s))
    past.make(FRONT_RESTARTS, {}, lambda at: float(at > began_s))
    past.make(FRONTS_READY, {}, lambda at: -float(at > began_s))
    past.make(CONTAINER_MEMORY, {}, lambda at: 20e9 * (at > began_s))
    past.make(DISK_FREE, {}, lambda at: (-0.05 * 8e12 + 5e9) * (at > began_s))
    for route, status in (("gpt", "200"), ("gpt", "529"), ("ok", "0"), ("ok", "429")):
        labels = {"endpoint": "chat", "route": route, "provider": "p", "status": status}
        past.make(LLM_CALLS, labels, steady(1.0, began_s))
    assert found(past, goals, ["m0"]) == {
        "saturation:m0": "critical",
        "dead_process:host": "critical",
        "restarts:host": "warning",
        "disk:host": "critical",
        "latency:m0.p99_ms": "critical",
        "errors:m0": "critical",
        "errors:llm.gpt": "critical",
        "queue:m0": "warning",
        "memory:host": "warning",
        "cpu:host": "critical",
        "gpu:host.gpu0": "critical",
        "throughput:m0.throughput_rps": "warning",
    }


def test_a_gpu_is_watched_as_far_as_its_driver_tells() -> None:
    past = healthy(1, 10.0, 0.1)
    for number, (used, celsius) in enumerate([(91e9, 90.0), (98e9, 86.0), (89e9, 80.0)], 1):
        labels = {"gpu": str(number)}
        past.make(GPU_BUSY, labels, constant(1.0))
        past.make(GPU_MEMORY, labels, constant(used))
        past.make(GPU_MEMORY_LIMIT, labels, constant(100e9))
        past.make(GPU_CELSIUS, labels, constant(celsius))
        if number < 3:
            past.make(GPU_CELSIUS_LIMIT, labels, constant(90.0))
    assert found(past, {}, ["m0"]) == {
        "gpu_memory:host.gpu1": "warning",
        "gpu_memory:host.gpu2": "critical",
        "gpu_temperature:host.gpu1": "critical",
        "gpu_temperature:host.gpu2": "warning",
    }


def test_what_an_hour_may_cost_is_found_when_it_has_been_spent() -> None:
    past = MadePast()
    past.make(COST, {"kind": "compute"}, steady(1 / 3600))
    began_s = 86400.0
    of_llm = {"route": "r", "provider": "p"}
    past.make(LLM_COST, {**of_llm, "kind": "used"}, steady(60 / 3600, began_s, began_s + 7200))
    past.make(LLM_UNPRICED, of_llm, steady(1.0, began_s))
    watchdog = Watchdog({"cost": Bounds(2.0, 11.0, for_s=0.0)}, [], NO_ALERTS)
    told: dict[Severity, float] = {}
    for past.now_s in range(int(began_s) - 600, int(began_s) + 12000, 10):
        for finding in watchdog.look(past, {}, past.now_s).findings.values():
            told.setdefault(finding.severity, past.now_s - began_s)
            last = past.now_s - began_s
    assert told == {"warning": pytest.approx(60, abs=10), "critical": pytest.approx(600, abs=10)}
    # The last of it leaves the window an hour after it was spent; the latch holds a little longer.
    assert last == pytest.approx(7200 + 3600, abs=180)
    assert "of it for tokens" in finding.value
    assert "3 600 LLM requests of unknown cost are not in it" in finding.value


def test_a_server_that_still_loads_its_models_has_no_dead_process() -> None:
    past = MadePast()
    past.make(FRONTS_WANTED, {}, constant(1))
    past.make(FRONTS_READY, {}, lambda at: 1.0 * (50 < at < 200))
    watchdog = Watchdog(ALL, [], NO_ALERTS)
    dead = []
    for past.now_s in range(300):
        dead += [past.now_s] if watchdog.look(past, {}, past.now_s).findings else []
    assert dead == [*range(215, 300)]
    watchdog, past = Watchdog(ALL, [], NO_ALERTS), MadePast()
    past.make(FRONTS_WANTED, {}, constant(1))
    past.make(FRONTS_READY, {}, constant(0))
    for past.now_s in range(120):
        seen = watchdog.look(past, {}, past.now_s)
        assert bool(seen.findings) == (past.now_s >= 75)  # it should be there by now


def test_a_goal_that_is_new_begins_anew() -> None:
    past = MadePast()
    past.make(REQUEST_SECONDS, {"model": "m0"}, steady(10.0), 0.1)
    watchdog = Watchdog({"latency": Bounds(1.0, 5.0, for_s=30.0)}, ["m0"], NO_ALERTS)

    def fires(from_s: int, until_s: int, goals: Goals) -> bool:
        for past.now_s in range(from_s, until_s):
            seen = watchdog.look(past, goals, past.now_s)
        return bool(seen.findings)

    assert fires(1000, 1100, {"m0": ("p99_ms <= 30",)})
    assert not fires(1100, 1110, {"m0": ()})
    assert not fires(1110, 1120, {"m0": ("p99_ms <= 300",)})


def test_a_rule_that_is_off_finds_nothing() -> None:
    past = healthy(1, 10.0, 0.1)
    past.make(FRONT_RESTARTS, {}, lambda at: float(at > 4 * 86400))
    assert found(past, {}, ["m0"]) == {"restarts:host": "warning"}
    without = {name: bounds for name, bounds in ALL.items() if name != "restarts"}
    seen = Watchdog(without, ["m0"], NO_ALERTS).look(past, {}, past.now_s)
    assert seen.findings == {}


@pytest.mark.parametrize(
    ("before", "now", "labels_h", "severity"),
    [
        (0.95, 0.60, 400.0, "critical"),
        (0.95, 0.82, 1000.0, "warning"),
        (0.95, 0.94, 1e6, None),  # sure and small
        (0.70, 0.70, 400.0, None),  # as good as ever
        (0.95, 0.60, 40.0, None),  # of few
        (0.60, 0.95, 400.0, None),
    ],
)
def test_a_model_that_is_right_less_often_than_the_day_before_is_an_alert(
    before: float, now: float, labels_h: float, severity: Severity | None
) -> None:
    past, fell_s, a_second = MadePast(), 86400.0, labels_h / 3600

    def falls(first: float, then: float) -> Curve:
        return lambda at: (
            steady(first * a_second, 0.0, fell_s)(at) + steady(then * a_second, fell_s)(at)
        )

    past.make(FEEDBACK, {"model": "m0", "outcome": "right"}, falls(before, now))
    past.make(FEEDBACK, {"model": "m0", "outcome": "wrong"}, falls(1 - before, 1 - now))
    past.now_s = fell_s + 3600.0
    told = found(past, {}, ["m0"])
    assert told == ({} if severity is None else {"accuracy:m0": severity})


def test_the_table_names_only_metrics_that_are_recorded() -> None:
    names = {each.name for each in METRICS}
    for rule in RULES.values():
        for word in (
            (rule.promql or "").replace("(", " ").replace("[", " ").replace("{", " ").split()
        ):
            if word.startswith("paceline_"):
                assert word.strip(")") in names, rule.name
    assert {rule.name for rule in RULES.values() if rule.usual} == {
        BURN, "saturation", "dead_process", "restarts", "disk", "cost",
    }  # fmt: skip


# --- Burn rates as they are looked at -------------------------------------------------------------


@pytest.mark.parametrize("share", [1.0, 0.1, 0.02])
def test_the_watchdog_finds_a_burn_rate_when_arithmetic_says(share: float) -> None:
    """Of the fastest pair, looked at each second, with an objective of 99.9 %."""
    past = MadePast()
    from_s = 5 * 86400.0
    of = {"model": "m0", "priority": "normal"}
    until_s = from_s + 4000.0
    past.make(
        REQUESTS,
        {**of, "status": "200"},
        lambda at: 10 * at - steady(10 * share, from_s, until_s)(at),
    )
    past.make(REQUESTS, {**of, "status": "500"}, steady(10 * share, from_s, until_s))
    needed = PAIRS[0].factor * 0.001 / share
    watchdog = Watchdog({BURN: None}, ["m0"], NO_ALERTS)
    goals = {"m0": ("availability >= 0.999",)}

    def fires(after_s: float) -> bool:
        past.now_s = from_s + after_s
        return "slo_burn:m0.availability" in watchdog.look(past, goals, past.now_s).findings

    expected_s = needed * 3600.0
    assert not fires(0.0)
    assert not fires(expected_s - 1.0)
    assert fires(expected_s + 1.0)
    assert fires(3999.0)
    (finding,) = watchdog.look(past, goals, past.now_s).findings.values()
    assert finding.severity == "critical"
    assert finding.budget_left is not None
    assert finding.exhausted_in_s is not None
    # The slower pair (6 h, 30 min) goes on burning where so much was bad; the first has ended.
    ends_s = 4000.0 + 300.0 * (1 - needed)
    fast = burn.PAIRS[0]
    fires(ends_s - 1.0)
    assert watchdog.burning(finding.about, fast)
    fires(ends_s + 1.0)
    assert not watchdog.burning(finding.about, fast)


def test_answers_that_are_too_slow_burn_the_budget_of_a_quantile() -> None:
    past = MadePast()
    past.make(REQUEST_SECONDS, {"model": "m0"}, steady(8.0), 0.02)
    past.make(REQUEST_SECONDS, {"model": "m0"}, steady(2.0, 86400.0), 0.05)
    watchdog = Watchdog({BURN: None}, ["m0"], NO_ALERTS)
    goals = {"m0": ("p99_ms <= 30",)}
    burning = []
    for past.now_s in range(86000, 90000, 10):
        if watchdog.look(past, goals, past.now_s).findings:
            burning.append(past.now_s - 86400)
    # With b bad and 8 good a second, b * t = 14.4 % of all in the hour's window.
    assert burning[0] == pytest.approx(0.144 * 8 * 3600 / (2 * (1 - 0.144)), abs=20)


def test_a_burn_rate_is_not_over_before_five_minutes_were_seen_however_long_nobody_looked() -> None:
    past = MadePast()
    of = {"model": "m0", "priority": "normal"}
    past.make(REQUESTS, {**of, "status": "500"}, steady(10.0, 0.0, 9000.0))
    id_, name = "slo_burn:m0.availability", "m0.availability"
    open_ = Alert(id_, "slo_burn", name, "critical", "firing", 8000.0, "it fails", "", "")
    watchdog = Watchdog({BURN: None}, ["m0"], AlertBook(alerts={id_: open_}))
    goals = {"m0": ("availability >= 0.2",)}

    def state(now: float) -> tuple[bool, bool]:
        past.now_s = now
        seen = watchdog.look(past, goals, now)
        return id_ in seen.findings, id_ in seen.unknown

    assert state(100_000.0) == (False, True)
    assert state(100_299.0) == (False, True)
    assert state(100_300.0) == (False, False)


def test_three_requests_of_which_one_fails_wake_nobody() -> None:
    past = MadePast()
    of = {"model": "m0", "priority": "normal"}
    past.make(REQUESTS, {**of, "status": "200"}, lambda at: 2.0 * (at > 1000))
    past.make(REQUESTS, {**of, "status": "500"}, lambda at: 1.0 * (at > 1000))
    goals = {"m0": ("availability >= 0.999",)}
    watchdog = Watchdog({BURN: None}, ["m0"], NO_ALERTS)
    for past.now_s in range(0, 3 * 86400, 600):
        assert watchdog.look(past, goals, past.now_s).findings == {}


def test_what_was_too_slow_in_a_month_is_known_beyond_the_days_of_whole_distributions() -> None:
    life = Life()
    for hour in range(200):
        slow = 8 if hour < 100 else 0
        life.answer(100 - slow, 0.010)
        if slow:
            life.answer(slow, 0.2)
        life.pass_s(3600.0)
    (objective,) = objectives({"m": ("p95_ms <= 30",)})
    found = whole(life.past, {}, objective)
    assert found.total == 20_000
    assert found.bad == pytest.approx(800, rel=0.25)
