"""What the goals of models make of it: objectives with a budget of bad events, and their counts.

`p95_ms <= 30` lets 5 % of the answers take longer, `availability >= 0.999` lets 0.1 % of the
requests fail. Means, rates and costs have no such budget. Called by `watchdog.py`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from paceline.observe.board import QUANTILES as BOARD_QUANTILES
from paceline.terms.errors import BadGoal
from paceline.terms.goal import Limit, parse
from paceline.terms.limits import HISTORY_SKETCH_HOURS
from paceline.terms.metric import REQUEST_SECONDS, REQUESTS
from paceline.watch.alerts.burn import PERIOD_S, Events
from paceline.watch.past import Past, Step

QUANTILES = {"p50_ms": 0.5, "p90_ms": 0.9, "p95_ms": 0.95, "p99_ms": 0.99}

HOUR_S = 3600.0
REMEMBERED_S = HISTORY_SKETCH_HOURS * HOUR_S
"""how far back distributions are whole"""

OUR_FAULT = "500"
"""A status from here on is the server's, and not its caller's."""


class Objective(NamedTuple):
    """`budget` is the share of events that may be bad. An answer is bad that takes longer than
    `bound_s`, or where that is None a request that fails."""

    model: str
    limit: Limit
    budget: float
    bound_s: float | None

    @property
    def name(self) -> str:
        return f"{self.model}.{self.limit.metric}"


def limits(clauses: Sequence[str]) -> tuple[Limit, ...]:
    """Of clauses as a journal has them; of what is no goal by now there is nothing to watch."""
    try:
        return parse(clauses).limits if clauses else ()
    except BadGoal:
        return ()


def objectives(goals: Mapping[str, Sequence[str]]) -> tuple[Objective, ...]:
    return tuple(
        Objective(model, limit, *found)
        for model, clauses in goals.items()
        for limit in limits(clauses)
        for found in _budget(limit)
    )


def _budget(limit: Limit) -> Iterator[tuple[float, float | None]]:
    """None where nothing may be bad, or everything."""
    budget, bound_s = 0.0, None
    if limit.metric in QUANTILES and limit.sense == "<=":
        budget, bound_s = 1.0 - QUANTILES[limit.metric], limit.bound / 1e3
    elif limit.metric == "error_ratio" and limit.sense == "<=":
        budget = limit.bound
    elif limit.metric == "availability" and limit.sense == ">=":
        budget = round(1.0 - limit.bound, 12)
    if 0 < budget < 1:
        yield budget, bound_s


Failing = Mapping[str, Collection[str]]
"""By model the statuses that count as failed, of those that there were."""


def failing(past: Past) -> Failing:
    found: dict[str, set[str]] = {}
    for each in past.series(REQUESTS):
        if each["status"] >= OUR_FAULT:
            found.setdefault(each["model"], set()).add(each["status"])
    return found


def events(past: Past, failing: Failing, objective: Objective, last_s: float) -> Events:
    if objective.bound_s is None:
        return answered(past, failing, objective.model, last_s)
    taken = past.spread(REQUEST_SECONDS, {"model": objective.model}, last_s)
    return Events(taken.count, taken.above(objective.bound_s))


def answered(past: Past, failing: Failing, model: str, last_s: float) -> Events:
    """Requests, and those of them that failed by our fault."""
    return Events(
        past.grew(REQUESTS, {"model": model}, last_s),
        sum(
            past.grew(REQUESTS, {"model": model, "status": status}, last_s)
            for status in failing.get(model, ())
        ),
    )


def whole(past: Past, failing: Failing, objective: Objective) -> Events:
    """Of the period that a budget is for. How many answers took too long is counted as far back as
    distributions are remembered; before that the quantiles of hours say it, roughly."""
    if objective.bound_s is None or past.known_s() <= REMEMBERED_S:
        return events(past, failing, objective, PERIOD_S)
    of = {"model": objective.model}
    hours = past.steps(REQUEST_SECONDS, of, PERIOD_S, HOUR_S)
    earlier = hours[: len(hours) - len(past.steps(REQUEST_SECONDS, of, REMEMBERED_S, HOUR_S))]
    bad = sum(each.value * _above(each, objective.bound_s) for each in earlier)
    lately = events(past, failing, objective, REMEMBERED_S)
    return Events(past.grew(REQUEST_SECONDS, of, PERIOD_S), lately.bad + bad)


def _above(hour: Step, bound_s: float) -> float:
    """The share that took longer, on a line between the quantiles beside it."""
    if hour.quantiles is None:
        return 0.0
    at, reached_s = 0.0, 0.0
    for share, value_s in zip(
        (*BOARD_QUANTILES, 1.0), (*hour.quantiles, hour.largest), strict=True
    ):
        if value_s > bound_s:
            return 1.0 - at - (share - at) * (bound_s - reached_s) / (value_s - reached_s)
        at, reached_s = share, value_s
    return 0.0
