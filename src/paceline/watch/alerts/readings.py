"""What the rules read of the past: each a number, with words for whoever is woken by it.

A reading is None where nobody can say: no requests, no limit, nothing that waits. That is how a
healthy server of any size stays silent: a queue counts only where requests wait longer than they
should, a busy processor only where somebody is late. Called by the table in `rules.py`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from paceline.stats.shares import farthest_up
from paceline.terms.amounts import counted, in_words, percent, size, usd
from paceline.terms.goal import Limit
from paceline.terms.limits import (
    ALERT_DISK_ENOUGH_BYTES,
    ALERT_LABELS_LEAST,
    ALERT_QUEUE_LEAST,
    ALERT_REQUESTS_LEAST,
)
from paceline.terms.metric import (
    AT_RISK,
    CONTAINER_CORES,
    CONTAINER_CPU_SECONDS,
    CONTAINER_MEMORY,
    CONTAINER_MEMORY_LIMIT,
    COST,
    DISK_BYTES,
    DISK_FREE,
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
    NOT_RUN,
    QUEUE_AGE,
    QUEUED,
    REQUEST_SECONDS,
    REQUESTS,
    Metric,
)
from paceline.watch.alerts.objectives import OUR_FAULT, QUANTILES, Failing, answered
from paceline.watch.analysis.labels import labels
from paceline.watch.past import Past

MINUTE_S = 60.0
HOUR_S = 3600.0
RESTARTS_S = 300.0
HOUR_S = 3600.0
DAY_S = 86400.0
DISK_TREND_S = 3600.0

USUAL_WAIT_S = 0.5
"""How long a request may wait where no goal says how fast its answer must be."""

HOST = "host"
"""What a reading is about that is about no model."""


class Reading(NamedTuple):
    about: str
    value: float | None
    cause: str = ""
    said: str = ""
    exhausted_in_s: float | None = None


class Sight(NamedTuple):
    """The past, the models there are, and what their goals say. `settled`: the server has started,
    or should have by now."""

    past: Past
    models: Sequence[str]
    limits: Mapping[str, Sequence[Limit]]
    failing: Failing
    settled: bool = True

    def wait_s(self, model: str) -> float:
        """How long a request may take, by the strictest goal."""
        bounds = [
            each.bound / 1e3
            for each in self.limits.get(model, ())
            if each.metric in QUANTILES and each.sense == "<="
        ]
        return min(bounds, default=USUAL_WAIT_S)

    def age_s(self, model: str) -> float:
        """How long the one waits that has waited longest."""
        ages = [
            self.past.latest(QUEUE_AGE, each) or 0.0
            for each in self.past.series(QUEUE_AGE)
            if each["model"] == model
        ]
        return max(ages, default=0.0)

    def queued(self, model: str) -> float:
        return self.past.latest(QUEUED, {"model": model}) or 0.0

    @property
    def ready(self) -> tuple[float, float] | None:
        """Fronts that answer, and those there should be."""
        ready, wanted = (self.past.latest(each, {}) for each in (FRONTS_READY, FRONTS_WANTED))
        return None if ready is None or wanted is None else (ready, wanted)


Read = Callable[[Sight], Iterator[Reading]]


def saturation(sight: Sight) -> Iterator[Reading]:
    """Of what arrived in the last minute, the share that was turned away, or is in the queue more
    than was a minute ago."""
    past = sight.past
    for model in sight.models:
        of = {"model": model}
        turned_away = past.grew(NOT_RUN, of, MINUTE_S)
        queued = sight.queued(model)
        late = queued >= ALERT_QUEUE_LEAST and sight.age_s(model) > sight.wait_s(model)
        if not late and turned_away < ALERT_QUEUE_LEAST:
            yield Reading(model, None)
            continue
        steps = past.steps(QUEUED, of, MINUTE_S, 5.0)
        growth = max(0.0, queued - steps[0].value) if steps else 0.0
        left = turned_away + growth
        arrived = past.grew(REQUESTS, of, MINUTE_S) + growth
        yield Reading(
            model,
            left / arrived if arrived else None,
            f"more requests for {model} arrive than it can answer",
            f"{percent(left / arrived) if arrived else 'none'} of {counted(arrived)} in the last "
            f"minute were turned away or are left waiting; {counted(queued)} wait, the first for "
            f"{in_words(sight.age_s(model))}",
        )


def fronts(sight: Sight) -> Iterator[Reading]:
    if sight.ready is None or not sight.settled:
        yield Reading(HOST, None)
        return
    ready, wanted = sight.ready
    yield Reading(
        HOST,
        wanted - ready,
        "a process that answers requests is gone, or does not answer",
        f"{counted(ready)} of {counted(wanted)} are ready",
    )


def restarts(sight: Sight) -> Iterator[Reading]:
    times = sight.past.grew(FRONT_RESTARTS, {}, RESTARTS_S)
    yield Reading(
        HOST,
        times,
        "processes that answer requests died and were started again",
        f"{counted(times)} in the last five minutes",
    )


def disk(sight: Sight) -> Iterator[Reading]:
    past = sight.past
    all_bytes, free = past.latest(DISK_BYTES, {}), past.latest(DISK_FREE, {})
    if not all_bytes or free is None:
        yield Reading(HOST, None)
        return
    share = 1.0 if free >= ALERT_DISK_ENOUGH_BYTES else free / all_bytes
    yield Reading(
        HOST,
        share,
        "the disk of the state directory is nearly full",
        f"{percent(free / all_bytes)} of {size(all_bytes)} is free, {size(free)}",
        _full_in_s(past, free) if share < 1.0 else None,
    )


def _full_in_s(past: Past, free: float) -> float | None:
    steps = past.steps(DISK_FREE, {}, DISK_TREND_S, MINUTE_S)
    if len(steps) < 2:
        return None
    gone = steps[0].value - free
    return free / gone * (len(steps) - 1) * MINUTE_S if gone > 0 else None


def latency(sight: Sight) -> Iterator[Reading]:
    """How many times as long as the goal says, in the last minute. Without a goal nobody can say
    what is slow."""
    for model in sight.models:
        for limit in sight.limits.get(model, ()):
            if limit.metric not in QUANTILES or limit.sense != "<=":
                continue
            about = f"{model}.{limit.metric}"
            taken = sight.past.spread(REQUEST_SECONDS, {"model": model}, MINUTE_S)
            if taken.count < ALERT_REQUESTS_LEAST:
                yield Reading(about, None)
                continue
            value_s = taken.quantile(QUANTILES[limit.metric]) or 0.0
            yield Reading(
                about,
                value_s * 1e3 / limit.bound,
                f"answers of {model} take longer than its goal, {limit}",
                f"{limit.metric} is {value_s * 1e3:.4g} in the last minute, of "
                f"{counted(taken.count)} answers",
            )


def errors(sight: Sight) -> Iterator[Reading]:
    """Of models, and of the routes of LLM calls; a caller's own mistakes are none."""
    for model in sight.models:
        total, failed = answered(sight.past, sight.failing, model, MINUTE_S)
        yield _failed(model, f"requests for {model} fail", total, failed)
    routes: dict[str, float] = {}
    failures: dict[str, float] = {}
    for each in sight.past.series(LLM_CALLS):
        route, status = each["route"], each["status"]
        if status != "0":
            calls = sight.past.grew(LLM_CALLS, each, MINUTE_S)
            routes[route] = routes.get(route, 0.0) + calls
            failures[route] = failures.get(route, 0.0) + (calls if status >= OUR_FAULT else 0.0)
    for route, total in routes.items():
        yield _failed(f"llm.{route}", f"LLM calls to {route} fail", total, failures[route])


def _failed(about: str, cause: str, total: float, failed: float) -> Reading:
    if total < ALERT_REQUESTS_LEAST:
        return Reading(about, None)
    share = failed / total
    return Reading(about, share, cause, f"{percent(share)} of {counted(total)} in the last minute")


def queue(sight: Sight) -> Iterator[Reading]:
    for model in sight.models:
        queued = sight.queued(model)
        age_s = sight.age_s(model) if queued >= ALERT_QUEUE_LEAST else 0.0
        if age_s <= sight.wait_s(model):
            yield Reading(model, None)
            continue
        yield Reading(
            model,
            queued,
            f"requests wait for {model} longer than they should",
            f"{counted(queued)} wait, the first for {in_words(age_s)}",
        )


def memory(sight: Sight) -> Iterator[Reading]:
    used, limit = (
        sight.past.latest(each, {}) for each in (CONTAINER_MEMORY, CONTAINER_MEMORY_LIMIT)
    )
    if used is None or not limit:
        yield Reading(HOST, None)
        return
    yield Reading(
        HOST,
        used / limit,
        "the container is about to use all the memory it may",
        f"{percent(used / limit)} of {size(limit)}",
    )


def cpu(sight: Sight) -> Iterator[Reading]:
    """A busy processor is what it was bought for, as long as nobody is late."""
    past = sight.past
    cores = past.latest(CONTAINER_CORES, {})
    if not cores or past.known_s() < MINUTE_S or not _somebody_is_late(sight):
        yield Reading(HOST, None)
        return
    share = past.grew(CONTAINER_CPU_SECONDS, {}, MINUTE_S) / MINUTE_S / cores
    yield Reading(
        HOST,
        share,
        "the processor is busy, and requests are late",
        f"{percent(share)} of {cores:g} cores in the last minute",
    )


def gpu(sight: Sight) -> Iterator[Reading]:
    """A busy GPU, too, is what it was bought for."""
    past = sight.past
    late = past.known_s() >= MINUTE_S and _somebody_is_late(sight)
    for each in past.series(GPU_BUSY):
        about = _gpu(each)
        steps = past.steps(GPU_BUSY, each, MINUTE_S, 5.0) if late else ()
        known_s = sum(step.known_s for step in steps)
        if not known_s:
            yield Reading(about, None)
            continue
        share = sum(step.sum for step in steps) / known_s
        yield Reading(
            about,
            share,
            f"GPU {each['gpu']} is busy, and requests are late",
            f"{percent(share)} of the last minute",
        )


def gpu_memory(sight: Sight) -> Iterator[Reading]:
    yield from _of_limit(
        sight.past,
        GPU_MEMORY,
        GPU_MEMORY_LIMIT,
        "the memory of GPU {} is nearly all in use",
        lambda used, limit: f"{percent(used / limit)} of {size(limit)}, by whomever",
    )


def gpu_temperature(sight: Sight) -> Iterator[Reading]:
    yield from _of_limit(
        sight.past,
        GPU_CELSIUS,
        GPU_CELSIUS_LIMIT,
        "GPU {} is nearly so hot that it slows down, or does",
        lambda is_, limit: f"{is_:g} °C; from {limit:g} °C on it slows down",
    )


def _of_limit(
    past: Past, metric: Metric, most: Metric, cause: str, said: Callable[[float, float], str]
) -> Iterator[Reading]:
    """Of each GPU, what it says as a share of its limit."""
    for each in past.series(metric):
        is_, limit = past.latest(metric, each), past.latest(most, each)
        if is_ is None or not limit:
            yield Reading(_gpu(each), None)
            continue
        yield Reading(_gpu(each), is_ / limit, cause.format(each["gpu"]), said(is_, limit))


def _gpu(labels: Mapping[str, str]) -> str:
    return f"{HOST}.gpu{labels['gpu']}"


def cost(sight: Sight) -> Iterator[Reading]:
    """What the last hour cost, in USD: no rate, so that a moment that is dear is not taken for an
    hour of them. What nobody knows is not in it, and is told."""
    past = sight.past
    tokens = past.grew(LLM_COST, {}, HOUR_S)
    machine = past.grew(COST, {}, HOUR_S)
    unpriced = past.grew(LLM_UNPRICED, {}, HOUR_S)
    more = f"; {counted(unpriced)} LLM requests of unknown cost are not in it" if unpriced else ""
    yield Reading(
        HOST,
        tokens + machine,
        "the last hour cost more than the settings allow",
        f"{usd(tokens + machine)}, {usd(tokens)} of it for tokens of LLM calls{more}",
    )


def throughput(sight: Sight) -> Iterator[Reading]:
    """As a share of what the goal wants, while more is asked for than answered."""
    past = sight.past
    for model in sight.models:
        for limit in sight.limits.get(model, ()):
            if limit.metric != "throughput_rps" or limit.sense != ">=":
                continue
            about = f"{model}.{limit.metric}"
            waits = _most(past, AT_RISK, model) > 0 or past.grew(
                NOT_RUN, {"model": model}, MINUTE_S
            )
            if past.known_s() < MINUTE_S or not waits or not limit.bound:
                yield Reading(about, None)
                continue
            rate = past.grew(REQUEST_SECONDS, {"model": model}, MINUTE_S) / MINUTE_S
            yield Reading(
                about,
                rate / limit.bound,
                f"{model} answers fewer requests than its goal, {limit}, and more are waiting",
                f"{rate:.4g} a second in the last minute",
            )


def accuracy(sight: Sight) -> Iterator[Reading]:
    """By how much at least a model is right less often than in the day before: its own level is
    what is usual, and what may be chance does not count."""
    for model in sight.models:
        lately = labels(sight.past, model, HOUR_S)
        whole = labels(sight.past, model, HOUR_S + DAY_S)
        of_lately = lately.right + lately.wrong
        right = whole.right - lately.right
        of_before = whole.right + whole.wrong - of_lately
        if min(of_lately, of_before) < ALERT_LABELS_LEAST:
            yield Reading(model, None)
            continue
        now, before = lately.right / of_lately, right / of_before
        yield Reading(
            model,
            max(0.0, -farthest_up(before, of_before, now, of_lately)),
            f"{model} is right less often than in the day before",
            f"{percent(now)} of {counted(of_lately)} in the last hour, before it {percent(before)} "
            f"of {counted(of_before)}",
        )


def _somebody_is_late(sight: Sight) -> bool:
    return any(
        _most(sight.past, AT_RISK, model) > 0
        or sight.past.grew(NOT_RUN, {"model": model}, MINUTE_S) > 0
        for model in sight.models
    )


def _most(past: Past, gauge: Metric, model: str) -> float:
    steps = past.steps(gauge, {"model": model}, MINUTE_S, 5.0)
    return max((each.value for each in steps), default=0.0)
