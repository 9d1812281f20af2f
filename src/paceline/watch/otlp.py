"""Spans as an OTLP/HTTP receiver takes them, and what its answer means.

JSON, which the protocol has beside protobuf: so it needs no package. Ids are hex there, 64-bit
numbers are texts, kinds and statuses are numbers (opentelemetry.io/docs/specs/otlp). Pure; what is
sent when, and again, is `spans.py`'s business.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from paceline.terms.span import ERROR, Kind, Span, Value

PATH = "/v1/traces"
"""Where a receiver takes spans, unless its address says otherwise."""

CONTENT_TYPE = b"application/json"

KINDS: Mapping[Kind, int] = {"internal": 1, "server": 2, "client": 3}
FAILED = 2

TRY_AGAIN = frozenset({429, 502, 503, 504})
"""The statuses after which the same may be sent again; no other."""

DIGITS = 9
"""of the seconds to wait"""

NS_PER_S = 1_000_000_000


class Verdict(NamedTuple):
    """What came of one request. `rejected` spans were not taken though it was; `after_s`: the
    receiver asks not to be asked sooner."""

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


def _span(span: Span) -> dict[str, object]:
    said = dict(span.said)
    if span.error:
        said[ERROR] = span.error
    told: dict[str, object] = {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "name": span.name,
        "kind": KINDS[span.kind],
        "startTimeUnixNano": str(round(span.began_s * NS_PER_S)),
        "endTimeUnixNano": str(round(max(span.began_s, span.ended_s) * NS_PER_S)),
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
    """All of it, or some: a receiver may reject spans of a request that it takes, for good."""
    try:
        said: Any = msgspec.json.decode(body) if body else {}
        part = said.get("partialSuccess") or {}
        return Verdict(
            True, str(part.get("errorMessage") or ""), rejected=int(part.get("rejectedSpans") or 0)
        )
    except (ValueError, TypeError, AttributeError, msgspec.DecodeError):
        return Verdict(sent=True)  # it says nothing that can be read, and took it
