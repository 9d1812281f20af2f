"""The Goal of a workload: limits that must hold, and at most one number to improve.

People write it as clauses (`p95_ms <= 30`, `minimize cost_usd_h`). It is read here and nowhere
else, so that a Goal in hand makes sense: every metric is known, and all limits can hold at once.
Whether they do hold is measured elsewhere. Called by whoever reads settings and predictions, and
by whoever judges.
"""

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import combinations
from typing import Literal

import msgspec

from paceline.terms.errors import BadGoal
from paceline.terms.plan import Prediction

# --- What a goal can be about ---------------------------------------------------------------------


class GoalMetric(msgspec.Struct, frozen=True):
    """`lowest` and `highest` are possible values; `unit` is empty for a share from 0 to 1."""

    name: str
    unit: str
    better: Literal["lower", "higher"]
    meaning: str
    lowest: float = 0
    highest: float = math.inf

    @property
    def takes(self) -> str:
        number = f"a number of {self.unit}" if self.unit else "a number"
        if self.highest == math.inf:
            return f"{number}, {self.lowest:.15g} or more"
        return f"{number} from {self.lowest:.15g} to {self.highest:.15g}"


def _time(name: str, meaning: str) -> GoalMetric:
    """Within the range in which `stats/sketch.py` tells times apart; nothing ever takes 0 ms."""
    return GoalMetric(name, "ms", "lower", meaning, 1e-4, 1e8)


def _share(name: str, better: Literal["lower", "higher"], meaning: str) -> GoalMetric:
    return GoalMetric(name, "", better, meaning, 0, 1)


GOAL_METRICS: Mapping[str, GoalMetric] = {
    metric.name: metric
    for metric in (
        _time("p50_ms", "Half of the answers take at most this long."),
        _time("p90_ms", "90 % of the answers take at most this long."),
        _time("p95_ms", "95 % of the answers take at most this long."),
        _time("p99_ms", "99 % of the answers take at most this long."),
        _time("mean_ms", "How long an answer takes on average."),
        _time("ttft_p50_ms", "Half of the streamed answers bring their first token within this."),
        _time("ttft_p95_ms", "95 % of the streamed answers bring their first token within this."),
        _share("error_ratio", "lower", "The share of requests that ended in an error."),
        _share("availability", "higher", "The share of requests that did not end in an error."),
        GoalMetric("throughput_rps", "requests/s", "higher", "Requests answered a second."),
        GoalMetric(
            "goodput_rps",
            "requests/s",
            "higher",
            "Requests answered a second without error, in time.",
        ),
        GoalMetric("cost_usd_h", "USD/h", "lower", "What an hour costs."),
        GoalMetric("cost_usd_day", "USD/day", "lower", "What 24 hours cost."),
        _share("quality", "higher", "How good the answers are; 1 is the best."),
        GoalMetric("memory_mb", "MB", "lower", "Memory in use, in millions of bytes."),
    )
}

# "Never above": a lower limit on the first and an upper limit on the second can contradict. Closed,
# as the check needs it: what follows from two entries is an entry.
_RISING = (
    ("p50_ms", "p90_ms", "p95_ms", "p99_ms"),
    ("ttft_p50_ms", "ttft_p95_ms"),
    ("goodput_rps", "throughput_rps"),
)
# Markov's inequality. Half of the answers take at least p50_ms and the others no less than nothing.
_TIMES_MEAN = {"p50_ms": 2, "p90_ms": 10, "p95_ms": 20, "p99_ms": 100}
_NEVER_ABOVE: Mapping[tuple[str, str], int] = {
    **{pair: 1 for chain in _RISING for pair in combinations(chain, 2)},
    **{(quantile, "mean_ms"): times for quantile, times in _TIMES_MEAN.items()},
}


# --- The Goal -------------------------------------------------------------------------------------

Sense = Literal["<=", ">="]
Direction = Literal["minimize", "maximize"]


class Limit(msgspec.Struct, frozen=True):
    """`spelled` is the bound as it was written: 30, 30.0 and 3e1 are printed back as they came."""

    metric: str
    sense: Sense
    bound: float
    spelled: str

    def __str__(self) -> str:
        return f"{self.metric} {self.sense} {self.spelled}"


class Objective(msgspec.Struct, frozen=True):
    sense: Direction
    metric: str

    def __str__(self) -> str:
        return f"{self.sense} {self.metric}"


class Goal(msgspec.Struct, frozen=True, omit_defaults=True):
    """Made by `parse`. `limits_after` counts the limits written after the objective."""

    limits: tuple[Limit, ...]
    objective: Objective | None
    limits_after: int = 0

    @property
    def clauses(self) -> tuple[str, ...]:
        """As they were written, in canonical spacing; `parse` makes the same Goal of them."""
        clauses = [str(limit) for limit in self.limits]
        if self.objective is not None:
            clauses.insert(len(clauses) - self.limits_after, str(self.objective))
        return tuple(clauses)

    def __str__(self) -> str:
        return "; ".join(self.clauses)


def parse(clauses: Sequence[str]) -> Goal:
    assert not isinstance(clauses, str), "parse_text takes a text"
    limits: list[Limit] = []
    objective: Objective | None = None
    limits_before = 0
    for clause in clauses:
        part = _read(clause)
        if isinstance(part, Limit):
            limits.append(part)
        elif objective is None:
            objective, limits_before = part, len(limits)
        else:
            raise BadGoal(
                "a goal improves one number",
                value=f"{objective}; {part}",
                remedy="Keep one of the two, and set a limit for the other.",
            )
    if objective is None and not limits:
        raise BadGoal("the goal says nothing", remedy=_FORMS)
    _check_together(limits)
    after = 0 if objective is None else len(limits) - limits_before
    return Goal(tuple(limits), objective, after)


def parse_text(text: str) -> Goal:
    """Clauses in one text, with semicolons, commas or line ends between them."""
    # A comma before a digit is none of these: whoever writes 1,000 hears of that number.
    clauses = (clause.strip() for clause in re.split(r"[;\n]|,(?![0-9])", text))
    return parse([clause for clause in clauses if clause])


def slo_ms(clauses: Sequence[str]) -> float | None:
    """The time in which 99 % of the answers must come, where the goal says so. Of clauses as `Goal`
    has them; of others, such as those in an old journal, it makes no complaint."""
    for clause in clauses:
        match clause.split():
            case ["p99_ms", "<=", bound] if (found := _NUMBER.fullmatch(bound)) and not found[2]:
                return float(bound)
    return None


def predictions(clauses: Sequence[str]) -> tuple[Prediction, ...]:
    """Limits read as what will be; the two bounds of one metric make one Prediction."""
    assert not isinstance(clauses, str), "a text is not a list of clauses"
    limits: list[Limit] = []
    for clause in clauses:
        part = _read(clause)
        if isinstance(part, Objective):
            raise BadGoal(
                "a prediction says where a metric will lie",
                value=clause,
                remedy=f"Write a bound of {part.metric}, as in `p95_ms <= 30`.",
            )
        limits.append(part)
    _check_together(limits)
    bounds: dict[str, dict[Sense, float]] = {}
    for limit in limits:
        bounds.setdefault(limit.metric, {})[limit.sense] = limit.bound
    return tuple(
        Prediction(metric, sides.get(">="), sides.get("<=")) for metric, sides in bounds.items()
    )


# --- One clause -----------------------------------------------------------------------------------

CLAUSE_CHARS = 200
"""Nobody needs more; messages repeat what was written."""

_FORMS = "Write a limit like `p95_ms <= 30`, or what to improve like `minimize cost_usd_h`."
_LIMIT = re.compile(r"([^\s\d<>=≤≥!][^\s<>=≤≥!]*)\s*([<>=≤≥!]+)\s*(.*)", re.DOTALL)
_NUMBER = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*(.*)", re.DOTALL)
_SENSES: Mapping[str, Sense] = {
    **{"<=": "<=", "<": "<=", "=<": "<=", "≤": "<="},
    **{">=": ">=", ">": ">=", "=>": ">=", "≥": ">="},
}
_DIRECTIONS: Mapping[str, Direction] = {"min": "minimize", "max": "maximize"}
# What people put behind a number, by the unit in which the metric counts: only to show the right
# form, never to accept it.
_FACTORS: Mapping[str, Mapping[str, float]] = {
    "": {"%": 0.01},
    "ms": {"us": 1e-3, "ms": 1, "s": 1e3, "min": 6e4},
    "requests/s": {"requests/s": 1, "req/s": 1, "rps": 1, "/s": 1},
    "USD/h": {"usd/h": 1, "usd": 1, "$/h": 1, "$": 1},
    "USD/day": {"usd/day": 1, "usd": 1, "$/day": 1, "$": 1},
    "MB": {"kb": 1e-3, "mb": 1, "gb": 1e3},
}


def _read(clause: str) -> Limit | Objective:
    clause = clause.strip()
    if len(clause) > CLAUSE_CHARS:
        raise BadGoal(
            f"a clause is longer than {CLAUSE_CHARS} characters", value=clause, remedy=_FORMS
        )
    found = _LIMIT.fullmatch(clause)
    if found:
        return _limit(clause, *found.groups())
    match clause.split():
        case [word, name] if word[:3].lower() in _DIRECTIONS:
            return _objective(clause, word, name)
    raise BadGoal("this is no clause of a goal", value=clause, remedy=_FORMS)


def _limit(clause: str, name: str, sign: str, amount: str) -> Limit:
    metric = _metric(name)
    spelled = _spelled(amount, metric)
    if spelled is None:
        raise BadGoal(
            f"{metric.name} is compared with a number",
            value=clause,
            remedy=f"{metric.name} takes {metric.takes}.",
        )
    sense = _SENSES.get(sign)
    if sense is None:
        raise BadGoal(
            "a limit is written with <= or >=",
            value=clause,
            remedy=f"Write `{metric.name} <= {spelled}` or `{metric.name} >= {spelled}`.",
        )
    limit = Limit(metric.name, sense, float(spelled), spelled)
    if (name, amount) != (metric.name, spelled):
        raise BadGoal(
            "the unit belongs to the metric's name",
            value=clause,
            remedy=f"Write `{limit}`.",
        )
    if sign != sense:
        raise BadGoal("a limit includes its bound", value=clause, remedy=f"Use {sense}: `{limit}`.")
    _check_possible(limit, metric)
    return limit


def _objective(clause: str, word: str, name: str) -> Objective:
    metric = _metric(name)
    objective = Objective("minimize" if metric.better == "lower" else "maximize", metric.name)
    if _DIRECTIONS[word[:3].lower()] != objective.sense:
        raise BadGoal(
            f"of {metric.name}, {metric.better} is better",
            value=clause,
            remedy=f"Write `{objective}`.",
        )
    if (word, name) != (objective.sense, objective.metric):
        raise BadGoal(
            "what to improve is written out in full",
            value=clause,
            remedy=f"Write `{objective}`.",
        )
    return objective


def _metric(name: str) -> GoalMetric:
    """The metric of this name, also where only its unit is missing: the caller corrects that."""
    if name in GOAL_METRICS:
        return GOAL_METRICS[name]
    without_unit = [known for known in GOAL_METRICS if known.startswith(f"{name}_")]
    if len(without_unit) == 1:
        return GOAL_METRICS[without_unit[0]]
    near = without_unit or difflib.get_close_matches(name.lower(), GOAL_METRICS, n=1)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known are {', '.join(GOAL_METRICS)}."
    raise BadGoal("no metric has this name", value=name, remedy=hint)


def _spelled(amount: str, metric: GoalMetric) -> str | None:
    """The number as it is written in the metric's unit, or None where it is none."""
    found = _NUMBER.fullmatch(amount)
    if found is None:
        return None
    number, unit = found.groups()
    if not unit:
        return str(number)
    factor = _FACTORS[metric.unit].get(unit.lower())
    if factor is None or not math.isfinite(float(number) * factor):
        return None
    return str(number) if factor == 1 else f"{float(number) * factor:.12g}"


def _check_possible(limit: Limit, metric: GoalMetric) -> None:
    if math.isfinite(limit.bound) and metric.lowest <= limit.bound <= metric.highest:
        return
    remedy = f"{metric.name} takes {metric.takes}."
    if not metric.unit and 1 < limit.bound <= 100:
        remedy += f" If you mean per cent, write `{limit.metric} {limit.sense} "
        remedy += f"{limit.bound / 100:.12g}`."
    raise BadGoal(f"{limit.metric} can never have this value", value=str(limit), remedy=remedy)


# --- All limits together --------------------------------------------------------------------------


class _Bound(msgspec.Struct, frozen=True):
    """A limit in exact numbers, of two metrics that say the same always in terms of one."""

    limit: Limit
    metric: str
    sense: Sense
    value: Fraction


def _bound(limit: Limit) -> _Bound:
    # By the shortest decimals of the float: people mean 0.999, and 1 - 0.999 is 0.001 exactly.
    value = Fraction(repr(limit.bound))
    match limit.metric:
        case "availability":
            opposite: Sense = ">=" if limit.sense == "<=" else "<="
            return _Bound(limit, "error_ratio", opposite, 1 - value)
        case "cost_usd_day":
            return _Bound(limit, "cost_usd_h", limit.sense, value / 24)
    return _Bound(limit, limit.metric, limit.sense, value)


def _check_together(limits: Iterable[Limit]) -> None:
    """That no two of them say the same thing of the same metric, and that all can hold at once.

    Every relation has the form "a is never above k times b": it carries lower bounds up and upper
    bounds down. So where nothing is left for some metric, one lower and one upper bound met, and
    looking at pairs is enough.
    """
    for one, other in combinations(map(_bound, limits), 2):
        both = f"{one.limit}; {other.limit}"
        if (one.limit.metric, one.limit.sense) == (other.limit.metric, other.limit.sense):
            raise BadGoal(
                f"{one.limit.metric} has two limits on the same side",
                value=both,
                remedy=_which_to_keep(one.limit, other.limit),
            )
        if one.sense == other.sense:
            continue
        low, high = (one, other) if one.sense == ">=" else (other, one)
        factor = 1 if low.metric == high.metric else _NEVER_ABOVE.get((low.metric, high.metric))
        if factor is not None and low.value > factor * high.value:
            raise BadGoal(
                "two limits cannot hold at once",
                value=both,
                remedy=f"{_relation(low, high)}: drop one of the two, or move its bound.",
            )


def _which_to_keep(one: Limit, other: Limit) -> str:
    if one.bound == other.bound:
        return "Both say the same; keep one."
    stronger = one if (one.bound < other.bound) == (one.sense == "<=") else other
    return f"Keep `{stronger}`, the stronger one."


def _relation(low: _Bound, high: _Bound) -> str:
    names = {low.limit.metric, high.limit.metric}
    if len(names) == 1:
        return "No value satisfies both"
    if "availability" in names:
        return "availability is 1 - error_ratio"
    if "cost_usd_day" in names:
        return "cost_usd_day is 24 times cost_usd_h"
    times = _NEVER_ABOVE[low.metric, high.metric]
    above = high.metric if times == 1 else f"{times} times {high.metric}"
    return f"{low.metric} is never above {above}"
