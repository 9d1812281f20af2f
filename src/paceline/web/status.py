"""The state of a running server in one value: what the page shows and `GET /api/status` answers.

Made by the owner from its own knowledge and what all boards say. Not a history: whoever wants
rates takes the difference of two.
"""

from collections.abc import Iterable

import msgspec

from paceline.terms.measurement import Distribution, Measurement
from paceline.terms.metric import (
    CONTAINER_CORES,
    CONTAINER_MEMORY_LIMIT,
    CPU_SECONDS,
    MODEL_SECONDS,
    REFUSED,
    REQUEST_SECONDS,
    REQUESTS,
    RESIDENT_BYTES,
    ROWS,
    Metric,
)


class ModelStatus(msgspec.Struct):
    """Latencies are of the server's whole life; None before the first request."""

    name: str
    requests: float = 0.0
    errors: float = 0.0
    rows: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    run_p50_ms: float | None = None


class Usage(msgspec.Struct, frozen=True):
    """Of all our processes, and what the container allows."""

    cpu_s: float
    resident_bytes: float
    cores: float
    memory_limit_bytes: float | None


class Status(msgspec.Struct, frozen=True):
    version: str
    address: str
    uptime_s: float
    ready: bool
    fronts_ready: int
    fronts_wanted: int
    front_restarts: int
    in_flight: float
    refused: dict[str, float]
    usage: Usage
    models: list[ModelStatus]


def of_models(names: Iterable[str], measured: Iterable[Measurement]) -> list[ModelStatus]:
    models = {name: ModelStatus(name) for name in names}
    for each in measured:
        model = models.get(each.labels[0]) if each.labels else None
        if model is None:
            continue
        value = each.value
        if isinstance(value, Distribution):
            at = {q: seconds * 1e3 for q, seconds in value.quantiles}
            if each.metric is REQUEST_SECONDS:
                model.p50_ms, model.p99_ms = at[0.5], at[0.99]
            elif each.metric is MODEL_SECONDS:
                model.run_p50_ms = at[0.5]
        elif each.metric is ROWS:
            model.rows = value
        elif each.metric is REQUESTS:
            model.requests += value
            model.errors += value if each.labels[2] != "200" else 0.0
    return list(models.values())


def total(metric: Metric, measured: Iterable[Measurement]) -> float:
    return sum(m.value for m in measured if m.metric is metric and isinstance(m.value, float))


def refused(measured: Iterable[Measurement]) -> dict[str, float]:
    return {
        m.labels[0]: m.value for m in measured if m.metric is REFUSED and isinstance(m.value, float)
    }


def usage(measured: Iterable[Measurement]) -> Usage:
    measured = list(measured)
    return Usage(
        cpu_s=total(CPU_SECONDS, measured),
        resident_bytes=total(RESIDENT_BYTES, measured),
        cores=total(CONTAINER_CORES, measured),
        memory_limit_bytes=total(CONTAINER_MEMORY_LIMIT, measured) or None,
    )
