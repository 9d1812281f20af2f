"""The report of one model: what it did in a stretch of the past, in one value.

A function from the past to that value; terminal, JSON, CSV and HTML are forms of it (`cli/`), and
what is missing there was not known. Quantiles are of merged distributions, rates of the time that
was seen. Called by `web/history_api.py`, and by the command while no server runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from paceline.observe.board import QUANTILES
from paceline.stats.shares import wilson
from paceline.terms.alert import Alert, AlertBook, Severity
from paceline.terms.metric import (
    BATCH_LIMIT,
    BATCH_ROWS,
    CONTAINER_CORES,
    CONTAINER_MEMORY_LIMIT,
    COST,
    CPU_SECONDS,
    EXECUTORS,
    FEEDBACK,
    GPU_BUSY,
    GPU_MEMORY,
    LLM_COST,
    LLM_UNPRICED,
    MODEL_BYTES,
    MODEL_PARAMETERS,
    MODEL_SECONDS,
    NOT_RUN,
    PART_SECONDS,
    QUEUED,
    REQUEST_SECONDS,
    REQUESTS,
    RESIDENT_BYTES,
    ROWS,
    RUN,
    Metric,
)
from paceline.watch.alerts.life import silenced
from paceline.watch.alerts.readings import HOST
from paceline.watch.analysis.finding import Drifted, Finding
from paceline.watch.analysis.labels import labels
from paceline.watch.past import Past, Step

Where = Mapping[str, str]


def _said(text: str) -> Meta:
    return Meta(description=text)


Milliseconds = Annotated[float | None, _said("Null where there was none.")]


class OpenAlert(msgspec.Struct, frozen=True):
    """What is an alert now, of this model or of the machine."""

    id: Annotated[str, _said("Rule and what it is about, as slo_burn:digits.p95_ms.")]
    severity: Severity
    state: Annotated[
        Literal["firing", "acknowledged", "silenced"],
        _said("Silenced: it fires, and nobody is told."),
    ]
    since_unix_s: float
    cause: str
    value: str
    budget_left: Annotated[float | None, _said("The share of a month's budget of errors.")]
    exhausted_in_s: Annotated[float | None, _said("Until that, or the disk, is used up.")]
    what_to_do: str


class Comparison(msgspec.Struct, frozen=True):
    """With a baseline that was saved before."""

    name: Annotated[str, _said("Of the baseline.")]
    wall_s: Annotated[float, _said("When it ended.")]
    span_s: Annotated[float, _said("How long it is.")]
    step_s: Annotated[float, _said("How long the steps are that are compared.")]
    findings: Annotated[tuple[Finding, ...], _said("What differs, the worst first.")]


class Times(msgspec.Struct, frozen=True):
    """How long something took, in milliseconds."""

    mean_ms: Milliseconds = None
    p50_ms: Milliseconds = None
    p90_ms: Milliseconds = None
    p95_ms: Milliseconds = None
    p99_ms: Milliseconds = None
    p999_ms: Milliseconds = None
    max_ms: Milliseconds = None


class Level(msgspec.Struct, frozen=True):
    """A number that goes up and down."""

    now: float | None = None
    mean: float | None = None
    peak: float | None = None


class Totals(msgspec.Struct, frozen=True):
    """Of the whole stretch."""

    requests: Annotated[float, _said("Answered, whatever the answer.")]
    errors: Annotated[float, _said("Those whose status is 500 or above.")]
    refused: Annotated[float, _said("Those whose status is from 400 to 499.")]
    error_rate: Annotated[float | None, _said("Errors by requests.")]
    requests_per_s: Annotated[float | None, _said("Over the time that was seen.")]
    peak_requests_per_s: Annotated[float, _said("In the best step.")]
    latency: Annotated[Times, _said("From a request's head to the end of its answer.")]
    run: Annotated[Times, _said("Of one batch in the model.")]
    queue_ms: Annotated[Milliseconds, _said("Mean time of a request in the queue.")]
    rest_ms: Annotated[
        Milliseconds,
        _said("Mean latency that is neither queue nor model: network, HTTP, parsing. Estimated."),
    ]
    concurrency: Annotated[float | None, _said("Requests in hand, on average.")]
    queued: Annotated[Level, _said("Requests that waited.")]
    not_run: Annotated[dict[str, float], _said("Given up before they were run, by reason.")]
    rows: Annotated[float, _said("Rows run.")]
    batches: Annotated[float, _said("Batches run.")]
    batch_rows: Annotated[float | None, _said("Rows of a batch, on average.")]
    batch_utilization: Annotated[float | None, _said("The same by `max_batch`.")]
    busy: Annotated[float | None, _said("Share of the executors' time in which they ran it.")]


class Machine(msgspec.Struct, frozen=True):
    """Of all processes of the server, whichever model they worked for."""

    cpu_cores: Level
    cores: Annotated[float | None, _said("That may be used.")]
    memory_bytes: Level
    memory_limit_bytes: float | None
    gpus_busy: Annotated[Level | None, _said("GPUs that computed: their shares added up.")] = None
    gpu_memory_bytes: Level | None = None


class Cost(msgspec.Struct, frozen=True):
    """What the machine cost, at `usd_h`. What tokens of LLM calls cost is told apart."""

    server_usd: float
    share: Annotated[float | None, _said("Of the run time of all models, this one's.")]
    usd: Annotated[float | None, _said("That share of the server's cost.")]
    usd_per_1000_requests: float | None


class LlmCost(msgspec.Struct, frozen=True):
    """What LLM calls of one route cost at one provider, by the prices of the settings. They are of
    the server, and of none of its models."""

    route: str
    provider: str
    usd: Annotated[float | None, _said("Of answers; null where no price is known.")]
    lost_usd: Annotated[
        float, _said("What requests that brought no content may cost all the same, at most.")
    ]
    unpriced: Annotated[float, _said("Requests whose cost nobody knows.")]


class Quality(msgspec.Struct, frozen=True):
    """How good the predictions were for which somebody told what was right. Intervals of 95 %."""

    labels: Annotated[float, _said("Rows that were judged.")]
    coverage: Annotated[
        float | None, _said("Those by the rows that were run, whenever they were told.")
    ]
    unknown: Annotated[float, _said("Labels of answers that are not remembered.")]
    right: Annotated[float, _said("Rows of which the class was right.")]
    wrong: float
    accuracy: Annotated[float | None, _said("The share that was right; null of none.")]
    accuracy_low: float | None
    accuracy_high: float | None
    measured: Annotated[float, _said("Rows of which a number was predicted.")]
    mean_abs_error: Annotated[float | None, _said("Of those, in the model's own unit.")]
    mean_abs_error_low: float | None
    mean_abs_error_high: float | None


class Row(msgspec.Struct, frozen=True):
    """One step."""

    began_unix_s: float
    known_s: Annotated[float, _said("How much of it was seen.")]
    requests: float
    errors: float
    requests_per_s: float | None
    mean_ms: Milliseconds
    p50_ms: Milliseconds
    p90_ms: Milliseconds
    p95_ms: Milliseconds
    p99_ms: Milliseconds
    p999_ms: Milliseconds
    max_ms: Milliseconds
    queued: Annotated[float | None, _said("On average.")]
    concurrency: float | None
    batch_rows: float | None
    cpu_cores: float | None
    memory_bytes: float | None


class Report(msgspec.Struct, frozen=True):
    """What one model did in a stretch of the past."""

    model: str
    made_unix_s: float
    version: Annotated[str, _said("Of Paceline.")]
    asked_s: Annotated[float, _said("How far back was asked for.")]
    known_s: Annotated[float, _said("How much of that was seen.")]
    step_s: float
    size_bytes: Annotated[float | None, _said("Of an ONNX model's file.")]
    parameters: Annotated[float | None, _said("Numbers in its weights.")]
    totals: Totals
    machine: Machine
    cost: Annotated[Cost | None, _said("Null where `usd_h` is not set.")]
    llm: Annotated[tuple[LlmCost, ...], _said("What tokens of LLM calls cost, the dearest first.")]
    alerts: Annotated[tuple[OpenAlert, ...], _said("The worst first.")]
    findings: Annotated[
        tuple[Finding, ...], _said("What analysis says, with what to do: the bottleneck first.")
    ]
    rows: Annotated[tuple[Row, ...], _said("Oldest first; a step without data is missing.")]
    compared: Annotated[Comparison | None, _said("Null where nobody asked for it.")] = None
    drift: Annotated[Drifted | None, _said("Null where no rows were drawn.")] = None
    quality: Annotated[Quality | None, _said("Null where nobody told what was right.")] = None


def report(
    past: Past,
    model: str,
    last_s: float,
    step_s: float,
    *,
    now_unix_s: float,
    version: str,
    findings: Sequence[Finding] = (),
    alerts: Sequence[OpenAlert] = (),
    drift: Drifted | None = None,
) -> Report:
    of_model = {"model": model}
    rows = _rows(past, of_model, last_s, step_s)
    return Report(
        model=model,
        made_unix_s=now_unix_s,
        version=version,
        asked_s=last_s,
        known_s=_seen_s(rows, last_s),
        step_s=step_s,
        size_bytes=past.latest(MODEL_BYTES, of_model),
        parameters=past.latest(MODEL_PARAMETERS, of_model),
        totals=_totals(past, of_model, last_s, step_s, rows),
        machine=_machine(past, last_s, step_s),
        cost=_cost(past, of_model, last_s),
        llm=tuple(_llm(past, last_s)),
        alerts=tuple(alerts),
        findings=tuple(findings),
        rows=rows,
        drift=drift,
        quality=quality(past, model, last_s),
    )


def open_alerts(book: AlertBook, model: str) -> Sequence[OpenAlert]:
    """The worst and oldest first."""
    found = [
        each
        for each in book.alerts.values()
        if each.state != "resolved" and each.subject.partition(".")[0] in (model, HOST)
    ]
    found.sort(key=lambda each: (each.severity != "critical", each.since_unix_s))
    return [_open(book, each) for each in found]


def _open(book: AlertBook, alert: Alert) -> OpenAlert:
    state: Literal["firing", "acknowledged", "silenced"]
    state = "acknowledged" if alert.state == "acknowledged" else "firing"
    return OpenAlert(
        alert.id,
        alert.severity,
        state if silenced(book, alert.id) is None else "silenced",
        alert.since_unix_s,
        alert.cause,
        alert.value,
        alert.budget_left,
        alert.exhausted_in_s,
        alert.remedy,
    )


def _totals(
    past: Past, of_model: Where, last_s: float, step_s: float, rows: Sequence[Row]
) -> Totals:
    requests, refused, errors = _by_class(past, of_model, last_s)
    known_s = _seen_s(rows, last_s)
    latency = _times(past, REQUEST_SECONDS, of_model, last_s)
    run = _times(past, MODEL_SECONDS, of_model, last_s)
    ran = past.grew(RUN, of_model, last_s)
    waited_s = past.grew(PART_SECONDS, {**of_model, "part": "queue"}, last_s)
    queue_ms = waited_s / ran * 1e3 if ran else None
    rest_ms = None
    if latency.mean_ms is not None and run.mean_ms is not None and queue_ms is not None:
        rest_ms = max(0.0, latency.mean_ms - run.mean_ms - queue_ms)
    batches = past.grew(BATCH_ROWS, of_model, last_s)
    batch_rows = past.spread(BATCH_ROWS, of_model, last_s)
    mean_rows = batch_rows.sum / batch_rows.count if batch_rows.count else None
    limit = past.latest(BATCH_LIMIT, of_model)
    executors = past.latest(EXECUTORS, of_model)
    busy_s = past.grew(MODEL_SECONDS, of_model, last_s) * (run.mean_ms or 0.0) / 1e3
    reasons = sorted({each["reason"] for each in past.series(NOT_RUN) if _has(each, of_model)})
    not_run = {why: past.grew(NOT_RUN, {**of_model, "reason": why}, last_s) for why in reasons}
    rows_s = sum(row.known_s for row in rows)
    concurrencies = [(row.concurrency or 0.0) * row.known_s for row in rows]
    return Totals(
        requests=requests,
        errors=errors,
        refused=refused,
        error_rate=errors / requests if requests else None,
        requests_per_s=requests / known_s if known_s else None,
        peak_requests_per_s=max((row.requests_per_s or 0.0 for row in rows), default=0.0),
        latency=latency,
        run=run,
        queue_ms=queue_ms,
        rest_ms=rest_ms,
        concurrency=sum(concurrencies) / rows_s if rows_s else None,
        queued=_level(past, QUEUED, of_model, last_s, step_s),
        not_run={why: count for why, count in not_run.items() if count},
        rows=past.grew(ROWS, of_model, last_s),
        batches=batches,
        batch_rows=mean_rows,
        batch_utilization=mean_rows / limit if mean_rows is not None and limit else None,
        busy=busy_s / (executors * known_s) if executors and known_s else None,
    )


def _seen_s(rows: Sequence[Row], last_s: float) -> float:
    """The first step may begin before the window does; what is counted is of the window alone."""
    return min(last_s, sum(row.known_s for row in rows))


def _by_class(past: Past, of_model: Where, last_s: float) -> tuple[float, float, float]:
    """Requests, those of them with a status from 400 to 499, and from 500 on."""
    total = refused = errors = 0.0
    for status in {each["status"] for each in past.series(REQUESTS) if _has(each, of_model)}:
        count = past.grew(REQUESTS, {**of_model, "status": status}, last_s)
        total += count
        refused += count if "400" <= status < "500" else 0.0
        errors += count if status >= "500" else 0.0
    return total, refused, errors


def _times(past: Past, metric: Metric, of_model: Where, last_s: float) -> Times:
    spread = past.spread(metric, of_model, last_s)
    if not spread.count:
        return Times()
    asked = [None if each is None else each * 1e3 for each in spread.quantiles(QUANTILES)]
    p50, p90, p95, p99, p999 = asked
    largest = spread.max
    return Times(
        mean_ms=spread.sum / spread.count * 1e3,
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        p999_ms=p999,
        max_ms=None if largest is None else largest * 1e3,
    )


def _level(past: Past, metric: Metric, where: Where, last_s: float, step_s: float) -> Level:
    steps = past.steps(metric, where, last_s, step_s)
    known_s = sum(step.known_s for step in steps)
    return Level(
        past.latest(metric, where),
        sum(step.sum for step in steps) / known_s if known_s else None,
        max((step.largest for step in steps), default=None),
    )


def _machine(past: Past, last_s: float, step_s: float) -> Machine:
    cpu = past.steps(CPU_SECONDS, {}, last_s, step_s)
    rates = [step.value / step.known_s for step in cpu if step.known_s]
    known_s = sum(step.known_s for step in cpu)
    mean = sum(step.value for step in cpu) / known_s if known_s else None
    return Machine(
        Level(rates[-1] if rates else None, mean, max(rates, default=None)),
        past.latest(CONTAINER_CORES, {}) or None,
        _level(past, RESIDENT_BYTES, {}, last_s, step_s),
        past.latest(CONTAINER_MEMORY_LIMIT, {}) or None,  # 0 where an earlier life had one
        _level(past, GPU_BUSY, {}, last_s, step_s) if past.series(GPU_BUSY) else None,
        _level(past, GPU_MEMORY, {}, last_s, step_s) if past.series(GPU_MEMORY) else None,
    )


def _cost(past: Past, of_model: Where, last_s: float) -> Cost | None:
    usd = past.grew(COST, {}, last_s)
    if not usd:
        return None
    ours = past.grew(PART_SECONDS, {**of_model, "part": "infer"}, last_s)
    of_all = past.grew(PART_SECONDS, {"part": "infer"}, last_s)
    share = ours / of_all if of_all else None
    requests = past.grew(REQUESTS, of_model, last_s)
    of_this = None if share is None else share * usd
    each = None if of_this is None or not requests else of_this / requests * 1000
    return Cost(usd, share, of_this, each)


def _llm(past: Past, last_s: float) -> Iterator[LlmCost]:
    """The dearest first."""
    found = []
    priced = {(each["route"], each["provider"]) for each in past.series(LLM_COST)}
    unpriced = {(each["route"], each["provider"]) for each in past.series(LLM_UNPRICED)}
    for route, provider in priced | unpriced:
        where = {"route": route, "provider": provider}
        cost = LlmCost(
            route,
            provider,
            past.grew(LLM_COST, {**where, "kind": "used"}, last_s)
            if (route, provider) in priced
            else None,
            past.grew(LLM_COST, {**where, "kind": "lost"}, last_s),
            past.grew(LLM_UNPRICED, where, last_s),
        )
        if cost.usd or cost.lost_usd or cost.unpriced:
            found.append(cost)
    yield from sorted(found, key=lambda each: (-(each.usd or 0.0), each.route, each.provider))


def quality(past: Past, model: str, last_s: float) -> Quality | None:
    of_model = {"model": model}
    found = labels(past, model, last_s)
    unknown = past.grew(FEEDBACK, {**of_model, "outcome": "unknown"}, last_s)
    judged = found.right + found.wrong + found.measured
    if not judged + unknown:
        return None
    rows = past.grew(ROWS, of_model, last_s)
    share = wilson(found.right, found.right + found.wrong)
    error = found.error_interval()
    return Quality(
        labels=judged,
        coverage=judged / rows if rows else None,
        unknown=unknown,
        right=found.right,
        wrong=found.wrong,
        accuracy=None if share is None else found.right / (found.right + found.wrong),
        accuracy_low=None if share is None else share[0],
        accuracy_high=None if share is None else share[1],
        measured=found.measured,
        mean_abs_error=found.error / found.measured if found.measured else None,
        mean_abs_error_low=None if error is None else error[0],
        mean_abs_error_high=None if error is None else error[1],
    )


def _rows(past: Past, of_model: Where, last_s: float, step_s: float) -> tuple[Row, ...]:
    def found(metric: Metric, where: Where) -> dict[float, Step]:
        steps = past.steps(metric, where, last_s, step_s)
        return {step.wall_s: step for step in steps}

    requests, latency = found(REQUESTS, of_model), found(REQUEST_SECONDS, of_model)
    failed = {
        each["status"]: found(REQUESTS, {**of_model, "status": each["status"]})
        for each in past.series(REQUESTS)
        if _has(each, of_model) and each["status"] >= "500"
    }
    queued, batches = found(QUEUED, of_model), found(BATCH_ROWS, of_model)
    cpu, memory = found(CPU_SECONDS, {}), found(RESIDENT_BYTES, {})
    rows = []
    for at, step in {**cpu, **requests}.items():
        known_s = step.known_s
        answered = requests[at].value if at in requests else 0.0
        took = latency.get(at)
        told: list[float | None] = [None] * len(QUANTILES)
        if took is not None and took.quantiles is not None:
            told = [each * 1e3 for each in took.quantiles]
        some = took is not None and took.value > 0
        rows.append(
            Row(
                began_unix_s=at,
                known_s=known_s,
                requests=answered,
                errors=sum(steps[at].value for steps in failed.values() if at in steps),
                requests_per_s=answered / known_s if known_s else None,
                mean_ms=took.sum / took.value * 1e3 if took is not None and some else None,
                p50_ms=told[0],
                p90_ms=told[1],
                p95_ms=told[2],
                p99_ms=told[3],
                p999_ms=told[4],
                max_ms=took.largest * 1e3 if took is not None and some else None,
                queued=_mean(queued.get(at)),
                concurrency=took.sum / known_s if took is not None and known_s else None,
                batch_rows=_per_one(batches.get(at)),
                cpu_cores=_per_s(cpu.get(at)),
                memory_bytes=_mean(memory.get(at)),
            )
        )
    return tuple(sorted(rows, key=lambda row: row.began_unix_s))


def _mean(step: Step | None) -> float | None:
    return None if step is None or not step.known_s else step.sum / step.known_s


def _per_s(step: Step | None) -> float | None:
    return None if step is None or not step.known_s else step.value / step.known_s


def _per_one(step: Step | None) -> float | None:
    return None if step is None or not step.value else step.sum / step.value


def _has(labels: Where, wanted: Where) -> bool:
    return all(labels.get(name) == value for name, value in wanted.items())
