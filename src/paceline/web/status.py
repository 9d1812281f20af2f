"""The state of a running server in one value: what the page shows and `GET /api/status` answers.

Made by the owner from its own knowledge and what all boards say. Not a history: whoever wants
rates takes the difference of two.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from paceline.gateway.upstream import SIMULATED, Upstream, costs
from paceline.terms.alert import Severity
from paceline.terms.measurement import Distribution, Measurement
from paceline.terms.metric import (
    CONTAINER_CORES,
    CONTAINER_MEMORY_LIMIT,
    CPU_SECONDS,
    LLM_CALLS,
    LLM_COST,
    LLM_TOKENS,
    LLM_UNPRICED,
    MODEL_SECONDS,
    REFUSED,
    REQUEST_SECONDS,
    REQUESTS,
    RESIDENT_BYTES,
    ROWS,
    Metric,
)
from paceline.watch.alerts.messages import budget
from paceline.web.alerts_api import AlertView

Meta = msgspec.Meta
Milliseconds = Annotated[float, Meta(description="Of its whole life; null before the first one.")]


class ModelStatus(msgspec.Struct):
    """What one model was asked, by whichever front."""

    name: str
    requests: Annotated[float, Meta(description="Inference requests answered.")] = 0.0
    errors: Annotated[float, Meta(description="Those of them that were refused or failed.")] = 0.0
    rows: Annotated[float, Meta(description="Rows run.")] = 0.0
    p50_ms: Milliseconds | None = None
    p99_ms: Milliseconds | None = None
    run_p50_ms: Milliseconds | None = None


OF_PROVIDERS = (LLM_CALLS, LLM_TOKENS, LLM_COST, LLM_UNPRICED)

State = Literal["simulated", "on", "without budget", "off"]


class ProviderStatus(msgspec.Struct):
    """What one provider of LLM answers was asked, by whichever front."""

    name: str
    state: Annotated[
        State,
        Meta(description="Off: it may cost money, and nobody has said that it may be called."),
    ]
    models: Annotated[tuple[str, ...], Meta(description="Those that are its own.")] = ()
    calls: Annotated[float, Meta(description="LLM calls that it answered last.")] = 0.0
    errors: Annotated[float, Meta(description="Those of them that failed.")] = 0.0
    left: Annotated[float, Meta(description="Those of them whose caller left.")] = 0.0
    input_tokens: Annotated[float, Meta(description="As it counted them.")] = 0.0
    output_tokens: Annotated[float, Meta(description="As it counted them.")] = 0.0
    cost_usd: Annotated[
        float | None,
        Meta(description="What its answers cost, where that is known; null: no price is."),
    ] = None
    unpriced: Annotated[float, Meta(description="Requests to it whose cost nobody knows.")] = 0.0


class AlertStatus(msgspec.Struct, frozen=True):
    """An alert that is not over."""

    id: str
    severity: Severity
    state: Annotated[
        Literal["firing", "acknowledged", "silenced", "resolved"],
        Meta(description="Silenced: it fires, and nobody is told."),
    ]
    since_unix_s: float
    cause: str
    value: str
    budget: Annotated[str, Meta(description="What is left of a budget, and for how long.")]
    what_to_do: str
    by: Annotated[str, Meta(description="Who has acknowledged it.")]


class Usage(msgspec.Struct, frozen=True):
    """Of all our processes, and what the container allows."""

    cpu_s: Annotated[float, Meta(description="CPU time used, of processes that ended too.")]
    resident_bytes: Annotated[float, Meta(description="Memory held now.")]
    cores: Annotated[float, Meta(description="How many may be used.")]
    memory_limit_bytes: Annotated[float, Meta(description="How much may be held.")] | None


class Status(msgspec.Struct, frozen=True):
    """A running server, now."""

    version: Annotated[str, Meta(description="Of Paceline.")]
    address: Annotated[str, Meta(description="Where it listens.")]
    uptime_s: Annotated[float, Meta(description="Since its owner process started.")]
    ready: Annotated[bool, Meta(description="Whether an inference would be answered.")]
    fronts_ready: Annotated[int, Meta(description="Processes that answer.")]
    fronts_wanted: Annotated[int, Meta(description="Processes there should be.")]
    front_restarts: Annotated[int, Meta(description="Processes started again after they ended.")]
    in_flight: Annotated[float, Meta(description="Requests in hand, this one included.")]
    refused: Annotated[dict[str, float], Meta(description="Requests refused, by error code.")]
    usage: Usage
    models: list[ModelStatus]
    providers: Annotated[list[ProviderStatus], Meta(description="Who answers LLM calls.")]
    plan: Annotated[int, Meta(description="The version of the Plan in force.")]
    entry: Annotated[int, Meta(description="The newest entry of the journal.")]
    alerts: Annotated[
        tuple[AlertStatus, ...], Meta(description="The worst and newest that are not over.")
    ] = ()
    alerts_open: Annotated[int, Meta(description="How many there are.")] = 0


def alert_status(alert: AlertView) -> AlertStatus:
    return AlertStatus(
        alert.id,
        alert.severity,
        alert.state,
        alert.since_unix_s,
        alert.cause,
        alert.value,
        ", ".join(budget(alert.budget_left, alert.exhausted_in_s)),
        alert.what_to_do,
        alert.by,
    )


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


def of_providers(
    upstreams: Iterable[Upstream], measured: Iterable[Measurement]
) -> list[ProviderStatus]:
    providers = {
        each.name: ProviderStatus(each.name, _state(each), each.models) for each in upstreams
    }
    for each in measured:
        if each.metric not in OF_PROVIDERS or not isinstance(each.value, float):
            continue
        provider = providers.get(each.labels[each.metric.labels.index("provider")])
        if provider is None:
            continue
        what = each.labels[-1]
        if each.metric is LLM_UNPRICED:
            provider.unpriced += each.value
        elif each.metric is LLM_COST:
            if what == "used":
                provider.cost_usd = (provider.cost_usd or 0.0) + each.value
        elif each.metric is LLM_CALLS:
            provider.calls += each.value
            provider.left += each.value if what == "0" else 0.0
            provider.errors += each.value if what >= "300" else 0.0
        elif what == "input":
            provider.input_tokens += each.value
        elif what == "output":
            provider.output_tokens += each.value
    return list(providers.values())


def _state(upstream: Upstream) -> State:
    if upstream.withheld:
        return "off"
    if upstream.kind == SIMULATED:
        return "simulated"
    return "without budget" if costs(upstream) else "on"


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


def answered(model: str, measured: Iterable[Measurement]) -> tuple[float, float]:
    """How many requests to a model were answered, and how many of them failed by our fault."""
    requests = failed = 0.0
    for each in measured:
        if each.metric is REQUESTS and each.labels[0] == model and isinstance(each.value, float):
            requests += each.value
            failed += each.value if each.labels[-1] >= "500" else 0.0
    return requests, failed
