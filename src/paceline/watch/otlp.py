"""Spans and metrics as an OTLP/HTTP receiver takes them, and what its answer means.

JSON, which the protocol has beside protobuf: so it needs no package. Ids are hex there, 64-bit
numbers are texts, kinds and statuses are numbers (opentelemetry.io/docs/specs/otlp). Pure; what is
sent when, and again, is the business of `spans.py` and `metric_post.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from paceline.terms.measurement import Distribution, Measurement
from paceline.terms.span import ERROR, Kind, Span, Value

PATH = "/v1/traces"
"""Where a receiver takes spans, unless its address says otherwise."""

METRICS_PATH = "/v1/metrics"
"""Where it takes metrics, likewise."""

CONTENT_TYPE = b"application/json"

KINDS: Mapping[Kind, int] = {"internal": 1, "server": 2, "client": 3}
FAILED = 2
CUMULATIVE = 2
"""since the start, and not since the last time"""

TRY_AGAIN = frozenset({429, 502, 503, 504})
"""The statuses after which the same may be sent again; no other."""

DIGITS = 9
"""of the seconds to wait"""

NS_PER_S = 1_000_000_000

UNITS: Mapping[str, str] = {"seconds": "s", "bytes": "By", "ratio": "1"}
"""In UCUM, as the protocol wants them; others are annotations in braces."""


class Verdict(NamedTuple):
    """What came of one request. `rejected` of what it brought was not taken though it was;
    `after_s`: the receiver asks not to be asked sooner."""

    sent: bool
    why: str = ""
    again: bool = False
    after_s: float | None = None
    rejected: int = 0


def encoded(spans: Sequence[Span], resource: Mapping[str, Value], version: str) -> bytes:
    """`resource` is what all of them are of."""
    return msgspec.json.encode(
        {
            "resourceSpans": [
                {
                    "resource": {"attributes": _attributes(resource)},
                    "scopeSpans": [
                        {
                            "scope": {"name": "paceline", "version": version},
                            "spans": [_span(each) for each in spans],
                        }
                    ],
                }
            ]
        }
    )


def encoded_metrics(
    seen: Iterable[Measurement],
    began_s: float,
    wall_s: float,
    resource: Mapping[str, Value],
    version: str,
) -> bytes:
    """As they stand at `wall_s`, counted since `began_s`, both Unix times; by the names that
    Prometheus is told."""
    grouped: dict[str, list[Measurement]] = {}
    for each in seen:
        grouped.setdefault(each.metric.name, []).append(each)
    at = {"startTimeUnixNano": _nanos(began_s), "timeUnixNano": _nanos(wall_s)}
    return msgspec.json.encode(
        {
            "resourceMetrics": [
                {
                    "resource": {"attributes": _attributes(resource)},
                    "scopeMetrics": [
                        {
                            "scope": {"name": "paceline", "version": version},
                            "metrics": [_metric(each, at) for each in grouped.values()],
                        }
                    ],
                }
            ]
        }
    )


def _metric(series: Sequence[Measurement], at: Mapping[str, str]) -> dict[str, object]:
    metric = series[0].metric
    points = {"dataPoints": [_point(each, at) for each in series]}
    told: dict[str, object] = {
        "name": metric.name,
        "description": metric.help,
        "unit": UNITS.get(metric.unit, f"{{{metric.unit}}}"),
    }
    match metric.kind:
        case "counter":
            told["sum"] = {**points, "aggregationTemporality": CUMULATIVE, "isMonotonic": True}
        case "gauge":
            told["gauge"] = points
        case "sketch":
            told["summary"] = points
    return told


def _point(one: Measurement, at: Mapping[str, str]) -> dict[str, object]:
    labels = dict(zip(one.metric.labels, one.labels, strict=True))
    told: dict[str, object] = {**at, "attributes": _attributes(labels)}
    value = one.value
    if isinstance(value, Distribution):
        quantiles = [{"quantile": of, "value": at_} for of, at_ in value.quantiles]
        return {
            **told,
            "count": str(round(value.count)),
            "sum": value.sum,
            "quantileValues": quantiles,
        }
    return {**told, "asDouble": value}


def _nanos(unix_s: float) -> str:
    return str(round(unix_s * NS_PER_S))


def _span(span: Span) -> dict[str, object]:
    said = dict(span.said)
    if span.error:
        said[ERROR] = span.error
    told: dict[str, object] = {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "name": span.name,
        "kind": KINDS[span.kind],
        "startTimeUnixNano": _nanos(span.began_s),
        "endTimeUnixNano": _nanos(max(span.began_s, span.ended_s)),
        "attributes": _attributes(said),
    }
    if span.parent_id:
        told["parentSpanId"] = span.parent_id
    if span.error:
        told["status"] = {"code": FAILED, "message": span.error}
    return told


def _attributes(said: Mapping[str, Value]) -> list[dict[str, object]]:
    return [{"key": name, "value": _value(value)} for name, value in said.items()]


def _value(value: Value) -> dict[str, object]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
    return {"stringValue": value}


def verdict(status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> Verdict:
    """Of a receiver's answer."""
    if 200 <= status < 300:
        return _taken(body)
    why = f"it answered with status {status}"
    if status not in TRY_AGAIN:
        return Verdict(sent=False, why=why)
    said = dict(headers).get(b"retry-after", b"")
    is_number = said.isdigit() and len(said) <= DIGITS
    return Verdict(sent=False, why=why, again=True, after_s=float(said) if is_number else None)


def _taken(body: bytes) -> Verdict:
    """All of it, or some: a receiver may reject a part of a request that it takes, for good."""
    try:
        said: Any = msgspec.json.decode(body) if body else {}
        part = said.get("partialSuccess") or {}
        rejected = part.get("rejectedSpans") or part.get("rejectedDataPoints") or 0
        return Verdict(True, str(part.get("errorMessage") or ""), rejected=int(rejected))
    except (ValueError, TypeError, AttributeError, msgspec.DecodeError):
        return Verdict(sent=True)  # it says nothing that can be read, and took it
