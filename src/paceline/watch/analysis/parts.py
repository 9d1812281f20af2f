"""Where the time of a model's requests went: on their way, parsed, waiting, run, and in the front.

Sums of request-seconds over a stretch of the past, with what the machine did meanwhile. By Little's
law such a sum divided by the time is how many requests there were in that part at once, so that it
needs no gauge. Called by `bottleneck.py` for the whole and for each step, and by what compares.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from paceline.terms.metric import (
    BATCH_LEFT_ROWS,
    BATCHES,
    CONTAINER_CORES,
    CONTAINER_CPU_SECONDS,
    CPU_SECONDS,
    CPU_WAIT_SECONDS,
    FAILED_SECONDS,
    FRONTS_READY,
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
from paceline.watch.past import Past

LIMITED = ("429", "503")
"""Statuses of requests that were turned away."""


class Parts(msgspec.Struct, frozen=True):
    """Of one model in `span_s`; of the machine, what has `cpu` or `cores` in its name.

    Request-seconds: `body_s`, `parse_s`, `queue_s`, `run_s` and `front_s` add up to `total_s`.
    """

    span_s: float
    answered: float
    total_s: float
    body_s: float
    parse_s: float
    queue_s: float
    run_s: float
    refused: float
    """requests turned away by a status of LIMITED"""
    not_run: float
    """of them those that the queue did not take or keep: too late, full, shed, expired"""
    batches: float
    rows: float
    ran: float
    """requests in batches"""
    busy_s: float
    """of executors"""
    left_paying_rows: float
    waited_batches: float
    """that were held back for company"""
    full_batches: float
    """that were as large as they may be"""
    cpu_s: float
    """of fronts and model processes"""
    cpu_wait_s: float
    """of their threads, ready to run and without a core"""
    container_cpu_s: float
    cores: float
    fronts: float

    @property
    def front_s(self) -> float:
        """What is left: heads, short bodies, answers, and waiting for a turn of the loop."""
        return max(0.0, self.total_s - self.body_s - self.parse_s - self.queue_s - self.run_s)

    @property
    def asked(self) -> float:
        return self.answered + self.refused

    @property
    def mean_s(self) -> float:
        return self.total_s / self.answered if self.answered else 0.0

    @property
    def in_flight(self) -> float:
        """On average, by Little's law."""
        return self.total_s / self.span_s if self.span_s else 0.0

    @property
    def queued(self) -> float:
        """Of them, waiting."""
        return self.queue_s / self.span_s if self.span_s else 0.0

    @property
    def executors_busy(self) -> float:
        """How many, on average."""
        return self.busy_s / self.span_s if self.span_s else 0.0

    @property
    def batch_rows(self) -> float:
        return self.rows / self.batches if self.batches else 0.0

    @property
    def front_cores(self) -> float:
        """That each front used on average, with the models in its threads and processes."""
        return self.cpu_s / (self.span_s * max(1.0, self.fronts)) if self.span_s else 0.0

    @property
    def cpu_share(self) -> float:
        """Of all cores, by whomever."""
        return self.container_cpu_s / (self.cores * self.span_s) if self.cores else 0.0

    @property
    def others_share(self) -> float:
        """Of all cores, by processes that serve nothing."""
        others_s = self.container_cpu_s - self.cpu_s
        return max(0.0, others_s) / (self.cores * self.span_s) if self.cores else 0.0

    @property
    def starved(self) -> float:
        """The share of the time in which we were at work, or would have been, spent without a core.
        A model that waits for something else is at work."""
        at_work_s = max(self.cpu_s + self.cpu_wait_s, self.busy_s)
        return self.cpu_wait_s / at_work_s if at_work_s else 0.0


def parts(past: Past, model: str, last_s: float) -> Parts:
    """Of all of it together."""
    span_s = min(last_s, past.known_s())
    of = {"model": model}

    def grew(metric: Metric, where: Mapping[str, str]) -> float:
        return past.grew(metric, where, last_s)

    def summed(metric: Metric) -> tuple[float, float]:
        sketch = past.spread(metric, of, last_s)
        count = past.grew(metric, of, last_s)
        # Whole distributions reach back to the beginning of a stretch, and counts do not.
        return count, count * sketch.sum / sketch.count if sketch.count else 0.0

    return _made(span_s, model, grew, summed, past)


def steps(past: Past, model: str, last_s: float, step_s: float) -> Sequence[tuple[float, Parts]]:
    """The same by steps, oldest first, each with the wall clock's time of its begin; those without
    a request are left out."""
    known: dict[tuple[str, tuple[tuple[str, str], ...]], Mapping[int, tuple[float, float]]] = {}

    def read(metric: Metric, where: Mapping[str, str]) -> Mapping[int, tuple[float, float]]:
        key = (metric.name, tuple(sorted(where.items())))
        if key not in known:
            known[key] = {
                round(each.wall_s / step_s): (each.value, each.sum)
                for each in past.steps(metric, where, last_s, step_s)
            }
        return known[key]

    found = []
    for each in past.steps(REQUEST_SECONDS, {"model": model}, last_s, step_s):
        if not each.value:
            continue
        at = round(each.wall_s / step_s)

        def grew(metric: Metric, where: Mapping[str, str], at: int = at) -> float:
            return read(metric, where).get(at, (0.0, 0.0))[0]

        def summed(metric: Metric, at: int = at) -> tuple[float, float]:
            return read(metric, {"model": model}).get(at, (0.0, 0.0))

        found.append((each.wall_s, _made(each.known_s or step_s, model, grew, summed, past)))
    return found


def _made(
    span_s: float,
    model: str,
    grew: Callable[[Metric, Mapping[str, str]], float],
    summed: Callable[[Metric], tuple[float, float]],
    past: Past,
) -> Parts:
    of = {"model": model}
    answered, answered_s = summed(REQUEST_SECONDS)
    batches, busy_s = summed(MODEL_SECONDS)
    ran = grew(RUN, of)
    failed_s = grew(FAILED_SECONDS, of)
    body_s = grew(REQUEST_PART_SECONDS, {**of, "part": "body"})
    parse_s = grew(REQUEST_PART_SECONDS, {**of, "part": "parse"})
    queue_s = grew(PART_SECONDS, {**of, "part": "queue"})
    before_s = body_s + parse_s + queue_s
    most_s = max(answered_s + failed_s, before_s)
    # Each member of a batch is there for all of it. Those that failed may be in any part.
    run_s = min(busy_s * (ran / batches if batches else 1.0), most_s - before_s)
    total_s = max(answered_s, before_s + run_s)
    return Parts(
        span_s=span_s,
        answered=answered,
        total_s=total_s,
        body_s=body_s,
        parse_s=parse_s,
        queue_s=queue_s,
        run_s=run_s,
        refused=sum(grew(REQUESTS, {**of, "status": each}) for each in LIMITED),
        not_run=grew(NOT_RUN, of),
        batches=batches,
        rows=grew(ROWS, of),
        ran=ran,
        busy_s=busy_s,
        left_paying_rows=grew(BATCH_LEFT_ROWS, {**of, "pays": "yes"}),
        waited_batches=grew(BATCHES, {**of, "reason": "wait exceeded"}),
        full_batches=grew(BATCHES, {**of, "reason": "size reached"}),
        cpu_s=sum(grew(CPU_SECONDS, {"role": each}) for each in ("front", "model")),
        cpu_wait_s=grew(CPU_WAIT_SECONDS, {}),
        container_cpu_s=grew(CONTAINER_CPU_SECONDS, {}),
        cores=past.latest(CONTAINER_CORES, {}) or 0.0,
        fronts=past.latest(FRONTS_READY, {}) or 1.0,
    )
