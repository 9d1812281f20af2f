"""A Goal comes back as it was written; one that makes no sense is refused with the right form."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws import examples
from paceline.stats.sketch import RANGE_HIGH, RANGE_LOW
from paceline.terms.errors import BadGoal
from paceline.terms.goal import (
    CLAUSE_CHARS,
    GOAL_METRICS,
    Goal,
    Limit,
    Objective,
    Sense,
    parse,
    parse_text,
    predictions,
    slo_ms,
)
from paceline.terms.plan import Prediction


def _refusal(clauses: str | Sequence[str]) -> BadGoal:
    with pytest.raises(BadGoal) as caught:
        parse_text(clauses) if isinstance(clauses, str) else parse(clauses)
    return caught.value


# --- Reading and printing -------------------------------------------------------------------------


def test_a_goal_has_limits_and_one_number_to_improve() -> None:
    assert parse(["p95_ms <= 30", "availability >= 0.999", "minimize cost_usd_h"]) == Goal(
        (Limit("p95_ms", "<=", 30.0, "30"), Limit("availability", ">=", 0.999, "0.999")),
        Objective("minimize", "cost_usd_h"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "p95_ms <= 30",
        "p95_ms <= 30.0",
        "p95_ms <= 3e1",
        "p95_ms <= 030.",
        "error_ratio <= 1e-3",
        "error_ratio <= .5",
        "memory_mb <= 123456789012345678901234567890",
        "cost_usd_h <= +2.50",
        "minimize cost_usd_h",
        "maximize throughput_rps; p95_ms <= 30",
        "p95_ms <= 30; maximize throughput_rps; cost_usd_day <= 12.00; p95_ms >= 1",
    ],
)
def test_what_is_written_in_canonical_spacing_comes_back_character_for_character(text: str) -> None:
    goal = parse_text(text)
    assert str(goal) == text
    assert goal.clauses == tuple(text.split("; "))
    assert parse(goal.clauses) == goal


@pytest.mark.parametrize(
    "text",
    [
        "p95_ms<=30;minimize cost_usd_h",
        "  p95_ms   <=\t30 ,minimize   cost_usd_h  ",
        "p95_ms <=30, minimize cost_usd_h;",
        "\n  p95_ms <= 30\r\n\n  minimize cost_usd_h\n",
    ],
)
def test_spacing_and_separators_are_free(text: str) -> None:
    assert str(parse_text(text)) == "p95_ms <= 30; minimize cost_usd_h"


def test_a_goal_survives_json() -> None:
    goal = parse_text("maximize quality; p95_ms <= 30.0")
    assert msgspec.json.decode(msgspec.json.encode(goal), type=Goal) == goal


def test_a_text_is_no_list_of_clauses() -> None:
    for reader in (parse, predictions):
        with pytest.raises(AssertionError):
            reader("p95_ms <= 30")


# --- The table ------------------------------------------------------------------------------------


def test_times_have_the_range_of_the_sketch_that_measures_them() -> None:
    times = [metric for metric in GOAL_METRICS.values() if metric.unit == "ms"]
    assert times
    for metric in times:
        assert metric.lowest == pytest.approx(RANGE_LOW * 1e3)
        assert metric.highest == pytest.approx(RANGE_HIGH * 1e3)


@pytest.mark.parametrize("name", GOAL_METRICS)
def test_every_metric_can_be_limited_on_both_sides_and_improved_in_one(name: str) -> None:
    metric = GOAL_METRICS[name]
    assert metric.name == name
    assert metric.meaning.endswith(".")
    good, bad = ("minimize", "maximize") if metric.better == "lower" else ("maximize", "minimize")
    text = f"{name} >= 0.25; {name} <= 0.75; {good} {name}"
    assert str(parse_text(text)) == text
    refusal = _refusal([f"{bad} {name}"])
    assert refusal.cause == f"of {name}, {metric.better} is better"
    assert refusal.remedy == f"Write `{good} {name}`."


@pytest.mark.parametrize("name", GOAL_METRICS)
def test_every_possible_value_is_a_bound_and_no_other(name: str) -> None:
    metric = GOAL_METRICS[name]
    for sense in ("<=", ">="):
        for value in (metric.lowest, metric.highest):
            if math.isfinite(value):
                parse([f"{name} {sense} {value!r}"])
            beyond = math.nextafter(value, -1 if value == metric.lowest else math.inf)
            clause = f"{name} {sense} " + (repr(beyond) if math.isfinite(beyond) else "1e999")
            refusal = _refusal([clause])
            assert (refusal.cause, refusal.value) == (
                f"{name} can never have this value",
                clause,
            )
            assert refusal.remedy.startswith(f"{name} takes {metric.takes}.")


# --- Refused clauses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clause", "remedy"),
    [
        # The unit belongs to the name.
        ("p95 <= 30", "Write `p95_ms <= 30`."),
        ("p95_ms <= 30ms", "Write `p95_ms <= 30`."),
        ("p95_ms <= 30 ms", "Write `p95_ms <= 30`."),
        ("p95<30ms", "Write `p95_ms <= 30`."),
        ("p95_ms <= 0.5s", "Write `p95_ms <= 500`."),
        ("mean <= 1.50", "Write `mean_ms <= 1.50`."),
        ("availability >= 99.9%", "Write `availability >= 0.999`."),
        ("error <= 0.1 %", "Write `error_ratio <= 0.001`."),
        ("memory <= 2GB", "Write `memory_mb <= 2000`."),
        ("throughput >= 50 rps", "Write `throughput_rps >= 50`."),
        ("cost_usd_h <= 2 USD", "Write `cost_usd_h <= 2`."),
        # The bound is included.
        ("p95_ms < 30", "Use <=: `p95_ms <= 30`."),
        ("availability > 0.999", "Use >=: `availability >= 0.999`."),
        ("p95_ms =< 30", "Use <=: `p95_ms <= 30`."),
        ("p95_ms ≤ 30", "Use <=: `p95_ms <= 30`."),
        ("p95_ms == 30", "Write `p95_ms <= 30` or `p95_ms >= 30`."),
        ("p95_ms = 30", "Write `p95_ms <= 30` or `p95_ms >= 30`."),
        ("p95_ms != 30", "Write `p95_ms <= 30` or `p95_ms >= 30`."),
        # The name is one of the table.
        ("p95_sm <= 30", "Did you mean p95_ms?"),
        ("P95_MS <= 30", "Did you mean p95_ms?"),
        ("p95_s <= 0.03", "Did you mean p95_ms?"),
        ("avialability >= 0.999", "Did you mean availability?"),
        ("cost <= 2", "Did you mean cost_usd_h or cost_usd_day?"),
        ("minimize cost", "Did you mean cost_usd_h or cost_usd_day?"),
        ("latency <= 30", f"Known are {', '.join(GOAL_METRICS)}."),
        ("max throughput", "Write `maximize throughput_rps`."),
        ("Minimise cost_usd_h", "Write `minimize cost_usd_h`."),
        # The bound is a number.
        ("p95_ms <= fast", "p95_ms takes a number of ms from 0.0001 to 100000000."),
        ("p95_ms <=", "p95_ms takes a number of ms from 0.0001 to 100000000."),
        ("p95_ms <= 30 <= 40", "p95_ms takes a number of ms from 0.0001 to 100000000."),
        ("p95_ms <= 3 USD", "p95_ms takes a number of ms from 0.0001 to 100000000."),
        ("p95_ms <= 1e308s", "p95_ms takes a number of ms from 0.0001 to 100000000."),
        ("quality >= nan", "quality takes a number from 0 to 1."),
        ("cost_usd_h <= inf", "cost_usd_h takes a number of USD/h, 0 or more."),
        ("memory_mb <= 1_000", "memory_mb takes a number of MB, 0 or more."),
        ("memory_mb <= ٣", "memory_mb takes a number of MB, 0 or more."),
        ("memory_mb <= 1,000", "memory_mb takes a number of MB, 0 or more."),
        # And one that is possible.
        ("p95_ms <= 0", "p95_ms takes a number of ms from 0.0001 to 100000000."),
        ("cost_usd_h <= -1", "cost_usd_h takes a number of USD/h, 0 or more."),
        ("cost_usd_h <= 1e999", "cost_usd_h takes a number of USD/h, 0 or more."),
        (
            "availability >= 99.9",
            "availability takes a number from 0 to 1. "
            "If you mean per cent, write `availability >= 0.999`.",
        ),
        # More than one number to improve.
        (
            "minimize cost_usd_h; maximize quality",
            "Keep one of the two, and set a limit for the other.",
        ),
        # The same limit twice.
        ("p95_ms <= 30; p95_ms <= 20", "Keep `p95_ms <= 20`, the stronger one."),
        ("quality >= 0.9; p95_ms <= 9; quality >= 0.8", "Keep `quality >= 0.9`, the stronger one."),
        ("p95_ms <= 30; p95_ms <= 30.0", "Both say the same; keep one."),
    ],
)
def test_a_refusal_shows_the_right_form(clause: str, remedy: str) -> None:
    assert _refusal(clause).remedy == remedy


@pytest.mark.parametrize(
    "clause",
    ["30 >= p95_ms", "p95_ms 30", "p95_ms below 30", "<= 30", "minimize", "10 <= p95_ms <= 30", ""],
)
def test_what_is_no_clause_is_told_how_clauses_look(clause: str) -> None:
    refusal = _refusal([clause])
    assert refusal.value == clause
    assert "`p95_ms <= 30`" in refusal.remedy
    assert "`minimize cost_usd_h`" in refusal.remedy


@pytest.mark.parametrize("empty", [[], "", " ;\n, "])
def test_a_goal_that_says_nothing_is_refused(empty: str | Sequence[str]) -> None:
    assert _refusal(empty).cause == "the goal says nothing"


@given(st.text() | st.text(alphabet="p95_ms<>=30.e-+,; \n"))
def test_any_text_is_a_goal_or_a_bad_goal(text: str) -> None:
    try:
        goal = parse_text(text)
    except BadGoal:
        return
    assert parse_text(str(goal)) == goal


def test_a_clause_has_a_bounded_length() -> None:
    longest = "memory_mb <= 1." + "0" * (CLAUSE_CHARS - 15)
    assert str(parse([f" {longest} "])) == longest
    for clause in (longest + "0", "p" * 100_000 + " <= 1", "minimize " + "q" * 100_000):
        refusal = _refusal([clause])
        assert refusal.cause == "a clause is longer than 200 characters"
        assert len(str(refusal)) < 500


def test_a_tiny_number_takes_no_time() -> None:
    """An exact fraction of it would have a billion digits."""
    parse(["error_ratio <= 1e-999999999", "availability >= 0.5"])


# --- Contradictions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("p95_ms <= 30; p95_ms >= 50", "No value satisfies both"),
        ("p99_ms <= 10; p50_ms >= 20", "p50_ms is never above p99_ms"),
        ("p50_ms >= 20; quality >= 0.9; p90_ms <= 19.9", "p50_ms is never above p90_ms"),
        ("ttft_p50_ms >= 20; ttft_p95_ms <= 10", "ttft_p50_ms is never above ttft_p95_ms"),
        ("mean_ms <= 1; p50_ms >= 2.1", "p50_ms is never above 2 times mean_ms"),
        ("mean_ms <= 1; p90_ms >= 10.1", "p90_ms is never above 10 times mean_ms"),
        ("p95_ms >= 20.1; mean_ms <= 1", "p95_ms is never above 20 times mean_ms"),
        ("mean_ms <= 1; p99_ms >= 101", "p99_ms is never above 100 times mean_ms"),
        ("goodput_rps >= 100; throughput_rps <= 50", "goodput_rps is never above throughput_rps"),
        ("availability >= 0.999; error_ratio >= 0.01", "availability is 1 - error_ratio"),
        ("availability <= 0.9; error_ratio <= 0.09", "availability is 1 - error_ratio"),
        ("cost_usd_h >= 1; cost_usd_day <= 23", "cost_usd_day is 24 times cost_usd_h"),
        ("cost_usd_day >= 25; cost_usd_h <= 1", "cost_usd_day is 24 times cost_usd_h"),
    ],
)
def test_limits_that_cannot_hold_at_once_are_refused_and_named(text: str, why: str) -> None:
    refusal = _refusal(text)
    assert refusal.cause == "two limits cannot hold at once"
    assert refusal.remedy == f"{why}: drop one of the two, or move its bound."
    assert refusal.value == "; ".join(
        clause for clause in text.split("; ") if "quality" not in clause
    )


@pytest.mark.parametrize(
    "text",
    [
        "p95_ms <= 30; p95_ms >= 30; minimize p95_ms",  # fixed by its limits, and fine
        "p95_ms <= 30; p99_ms <= 20",  # the first is idle
        "p50_ms >= 30; p99_ms <= 30",
        "p50_ms <= 10; p99_ms >= 20",
        "mean_ms <= 10; p50_ms >= 20; p90_ms >= 100; p95_ms >= 200; p99_ms >= 1000",
        "mean_ms >= 100; p50_ms <= 1; p99_ms <= 2",  # one answer in a hundred may take ages
        "availability >= 0.999; error_ratio <= 0.001; error_ratio >= 0.001; availability <= 0.999",
        "availability >= 0.9; error_ratio >= 0.1",  # 1 - 0.9 is less than 0.1 in floats
        "availability <= 0.7; error_ratio <= 0.3",
        "cost_usd_h <= 0.1; cost_usd_day >= 2.4",
        "cost_usd_h >= 0.1; cost_usd_day <= 2.4",
        "throughput_rps >= 100; goodput_rps <= 50",
        "ttft_p95_ms >= 100; p95_ms <= 50",  # of streamed answers, of all answers
    ],
)
def test_limits_that_can_hold_at_once_are_accepted(text: str) -> None:
    assert str(parse_text(text)) == text


# What is known of the metrics, written down once more and in another way: the first of each pair is
# at most the second, as functions of all values.
World = Mapping[str, Fraction]
Side = Callable[[World], Fraction]


def _times(name: str, factor: int = 1, plus: int = 0) -> Side:
    return lambda world: world[name] * factor + plus


KNOWN: list[tuple[Side, Side]] = [
    (_times("p50_ms"), _times("p90_ms")),
    (_times("p90_ms"), _times("p95_ms")),
    (_times("p95_ms"), _times("p99_ms")),
    (_times("p50_ms"), _times("mean_ms", 2)),
    (_times("p90_ms"), _times("mean_ms", 10)),
    (_times("p95_ms"), _times("mean_ms", 20)),
    (_times("p99_ms"), _times("mean_ms", 100)),
    (_times("ttft_p50_ms"), _times("ttft_p95_ms")),
    (_times("goodput_rps"), _times("throughput_rps")),
    (_times("availability"), _times("error_ratio", -1, 1)),
    (_times("error_ratio", -1, 1), _times("availability")),
    (_times("cost_usd_day"), _times("cost_usd_h", 24)),
    (_times("cost_usd_h", 24), _times("cost_usd_day")),
]

# Few and close to each other, so that limits meet: exactly, by a little, and over every relation.
RELATED = [
    list(GOAL_METRICS),
    ["p50_ms", "p90_ms", "p95_ms", "p99_ms", "mean_ms"],
    ["ttft_p50_ms", "ttft_p95_ms"],
    ["error_ratio", "availability"],
    ["goodput_rps", "throughput_rps"],
    ["cost_usd_h", "cost_usd_day"],
]
NUMBERS = ["0.1", "0.3", "0.4", "0.6", "0.7", "0.9", "1e0", "2.4", "7.2", "10", "20", "24", "240"]


def _possible(name: str, value: float) -> bool:
    return GOAL_METRICS[name].lowest <= value <= GOAL_METRICS[name].highest


@st.composite
def _limits(draw: st.DrawFn) -> list[Limit]:
    """No two of the same metric and sense; whether they can hold at once is left open."""
    names = draw(st.sampled_from(RELATED))
    drawn = draw(
        st.lists(
            st.tuples(
                st.sampled_from(names),
                st.sampled_from(["<=", ">="]),
                st.sampled_from(NUMBERS),
            ),
            max_size=6,
            unique_by=lambda limit: limit[:2],
        )
    )
    return [
        Limit(name, "<=" if sense == "<=" else ">=", float(spelled), spelled)
        for name, sense, spelled in drawn
        if _possible(name, float(spelled))
    ]


def _holds(limit: Limit, world: World) -> bool:
    value, bound = world[limit.metric], Fraction(limit.spelled)
    return value <= bound if limit.sense == "<=" else value >= bound


def _smallest_world(limits: Sequence[Limit]) -> World:
    """Each metric as low as lower bounds and relations let it be; availability as high.

    If this world breaks an upper limit, or a value is impossible, every world does.
    """
    lower: dict[str, Fraction] = {name: Fraction(0) for name in GOAL_METRICS}

    def floor(name: str, value: Fraction) -> None:
        lower[name] = max(lower[name], value)

    for limit in limits:
        bound = Fraction(limit.spelled)
        if limit.metric == "availability" and limit.sense == "<=":
            floor("error_ratio", 1 - bound)
        elif limit.metric == "cost_usd_day" and limit.sense == ">=":
            floor("cost_usd_h", bound / 24)
        elif limit.sense == ">=" and limit.metric != "availability":
            floor(limit.metric, bound)
    ladder = ("p50_ms", "p90_ms", "p95_ms", "p99_ms")
    for name in (*ladder, "mean_ms"):
        floor(name, Fraction(1, 10_000))
    for below, above in pairwise(ladder):
        floor(above, lower[below])
    for name, times in zip(ladder, (2, 10, 20, 100), strict=True):
        floor("mean_ms", lower[name] / times)
    floor("ttft_p95_ms", lower["ttft_p50_ms"])
    floor("throughput_rps", lower["goodput_rps"])
    lower["availability"] = 1 - lower["error_ratio"]
    lower["cost_usd_day"] = 24 * lower["cost_usd_h"]
    return lower


@examples(150)
@given(_limits())
def test_limits_are_refused_exactly_when_no_world_satisfies_them(limits: list[Limit]) -> None:
    world = _smallest_world(limits)
    assert all(low(world) <= high(world) for low, high in KNOWN)
    feasible = all(_holds(limit, world) for limit in limits)
    clauses = [*map(str, limits), "minimize cost_usd_h"]
    if feasible:
        assert parse(clauses).limits == tuple(limits)
    else:
        assert _refusal(clauses).cause == "two limits cannot hold at once"


@st.composite
def _measured_worlds(draw: st.DrawFn) -> World:
    """What real answers would measure: quantiles and mean of a sample, shares of its requests."""
    times_ms = sorted(draw(st.lists(st.integers(1, 1000), min_size=1, max_size=50)))
    first_ms = sorted(draw(st.lists(st.integers(1, 1000), min_size=1, max_size=50)))
    failed = draw(st.integers(0, 10))
    late = draw(st.integers(0, 10 - failed))
    requests_rps = draw(st.integers(0, 1000))
    hour = Fraction(draw(st.integers(0, 1000)), 100)

    def quantile(values: Sequence[int], percent: int) -> Fraction:
        return Fraction(values[percent * (len(values) - 1) // 100])

    return {
        **{f"p{percent}_ms": quantile(times_ms, percent) for percent in (50, 90, 95, 99)},
        "mean_ms": Fraction(sum(times_ms), len(times_ms)),
        "ttft_p50_ms": quantile(first_ms, 50),
        "ttft_p95_ms": quantile(first_ms, 95),
        "error_ratio": Fraction(failed, 10),
        "availability": 1 - Fraction(failed, 10),
        "throughput_rps": Fraction(requests_rps),
        "goodput_rps": requests_rps * Fraction(10 - failed - late, 10),
        "cost_usd_h": hour,
        "cost_usd_day": hour * 24,
        "quality": Fraction(draw(st.integers(0, 100)), 100),
        "memory_mb": Fraction(draw(st.integers(0, 10_000))),
    }


def _around(world: World) -> Iterator[tuple[str, Sense, Fraction]]:
    for name, value in world.items():
        yield name, "<=", value
        yield name, ">=", value


@given(_measured_worlds(), st.data())
def test_limits_that_some_measured_world_satisfies_are_never_refused(
    world: World, data: st.DataObject
) -> None:
    assert all(low(world) <= high(world) for low, high in KNOWN)
    assert set(world) == set(GOAL_METRICS)
    clauses = []
    for name, sense, value in _around(world):
        slack = data.draw(st.sampled_from([None, Fraction(0), Fraction(1, 8), Fraction(2)]))
        if slack is None:
            continue
        # Rounded outwards: a mean can be a number that no decimal spells.
        bound = value + slack if sense == "<=" else value - slack
        rounded = Fraction(math.ceil(bound * 1000) if sense == "<=" else math.floor(bound * 1000))
        if _possible(name, float(rounded / 1000)):
            clauses.append(f"{name} {sense} {float(rounded / 1000)!r}")
    if clauses:
        assert parse(clauses).clauses == tuple(clauses)


# --- There and back -------------------------------------------------------------------------------

SPELLINGS: list[Callable[[float], str]] = [repr, "{:.6f}".format, "{:e}".format, "{:E}".format]


@st.composite
def _clause_lists(draw: st.DrawFn) -> list[str]:
    """Limits no two of which speak of one relation, an objective anywhere or nowhere."""
    names = draw(
        st.lists(
            st.sampled_from(["p95_ms", "ttft_p50_ms", "quality", "throughput_rps", "memory_mb"]),
            unique=True,
        )
    )
    clauses = []
    for name in names:
        metric = GOAL_METRICS[name]
        value = draw(st.floats(max(metric.lowest, 0.001), min(metric.highest, 1e12) * 0.99))
        spell = draw(st.sampled_from(SPELLINGS))
        clauses.append(f"{name} {draw(st.sampled_from(['<=', '>=']))} {spell(value)}")
    if draw(st.booleans()) or not clauses:
        metric = GOAL_METRICS[draw(st.sampled_from(list(GOAL_METRICS)))]
        objective = f"{'minimize' if metric.better == 'lower' else 'maximize'} {metric.name}"
        clauses.insert(draw(st.integers(0, len(clauses))), objective)
    return clauses


@given(_clause_lists(), st.sampled_from(["; ", ";", ",", ", ", "\n"]))
def test_printing_undoes_parsing_and_parsing_undoes_printing(
    clauses: list[str], separator: str
) -> None:
    goal = parse(clauses)
    assert goal.clauses == tuple(clauses)
    assert str(goal) == "; ".join(clauses)
    assert parse(goal.clauses) == parse_text(str(goal)) == goal
    assert parse_text(separator.join(clauses)) == goal
    assert parse_text(separator.join(clauses).replace(" <= ", "<=").replace(" >= ", ">=")) == goal
    for limit in goal.limits:
        assert limit.bound == float(limit.spelled)


# --- Predictions ----------------------------------------------------------------------------------


def test_predictions_are_limits_and_two_bounds_of_one_metric_are_one() -> None:
    assert predictions(["p95_ms >= 10", "cost_usd_h <= 2", "p95_ms<=30", "quality >= 0.9"]) == (
        Prediction("p95_ms", 10.0, 30.0),
        Prediction("cost_usd_h", None, 2.0),
        Prediction("quality", 0.9, None),
    )


def test_a_change_may_predict_nothing() -> None:
    assert predictions([]) == ()


@pytest.mark.parametrize(
    ("clauses", "cause"),
    [
        (["minimize cost_usd_h"], "a prediction says where a metric will lie"),
        (["p95_ms <= 30", "p50_ms >= 40"], "two limits cannot hold at once"),
        (["p95_ms <= 30", "p95_ms <= 40"], "p95_ms has two limits on the same side"),
        (["p59_ms <= 30"], "no metric has this name"),
        ([""], "this is no clause of a goal"),
    ],
)
def test_a_prediction_that_makes_no_sense_is_refused(clauses: list[str], cause: str) -> None:
    with pytest.raises(BadGoal) as caught:
        predictions(clauses)
    assert caught.value.cause == cause


# --- The objective --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("p99_ms<=30", 30.0),
        ("minimize cost_usd_h; p99_ms <= 2.5e1; p50_ms <= 5", 25.0),
        ("p99_ms >= 3", None),
        ("p95_ms <= 30; minimize p99_ms", None),
    ],
)
def test_the_objective_of_a_goal_is_its_limit_on_p99(text: str, expected_ms: float | None) -> None:
    assert slo_ms(parse_text(text).clauses) == expected_ms


def test_clauses_that_no_version_wrote_have_no_objective() -> None:
    assert slo_ms(["x", "p99_ms <= 30ms", "p99_ms <= fast", ""]) is None
