"""What a front keeps of a request as spans: one for the request, one for each part or attempt.

Pure: timelines in, spans out, with the names of `terms/span.py`. Nothing of what was said is in
them. Called by `tracing.py`.
"""

from collections.abc import Iterator, Mapping

from paceline.gateway.call import Call, Endpoint
from paceline.gateway.relay import Timeline as CallTimeline
from paceline.observe import traceparent
from paceline.observe.traceparent import Context
from paceline.terms import span as names
from paceline.terms.limits import SPAN_PATH_CHARS
from paceline.terms.span import Span, Value
from paceline.web.timelines import Timeline, Why
from paceline.web.traces_api import parts

ROUTES = {"v2": "/v2/models/{model}/infer", "predict": "/predict/{model}"}

OPERATIONS: Mapping[Endpoint, str] = {
    "chat": "chat",
    "messages": "chat",
    "responses": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
}
"""As the semantic conventions name them; what they do not name keeps the name of its endpoint."""

PATHS: Mapping[Endpoint, str] = {
    "chat": "/v1/chat/completions",
    "count_tokens": "/v1/messages/count_tokens",
    "other": "/v1/{path}",
}
"""Of others it is their own name."""

FINE = frozenset({"done", "left", "outrun"})
"""How attempts end that did not fail."""


def of_inference(timeline: Timeline, since_s: float, scheme: str) -> Iterator[Span]:
    """`since_s`: what the wall clock says beyond the monotonic one."""
    route = ROUTES[timeline.form]
    said: dict[str, Value] = {
        names.METHOD: "POST",
        names.ROUTE: route,
        names.PATH: route.replace("{model}", timeline.model),
        names.SCHEME: scheme,
        names.MODEL: timeline.model,
        names.ROWS: timeline.rows,
        names.PRIORITY: timeline.priority,
        names.REQUEST_ID: timeline.id,
        names.KEPT_FOR: ", ".join(timeline.why),
    }
    if timeline.status:
        said[names.STATUS] = timeline.status
    ran = timeline.dispatched
    if ran is not None:
        said[names.BATCH_REASON] = ran.reason
        said[names.BATCH_ROWS] = ran.rows
        said[names.BATCH_REQUESTS] = ran.requests
    at_s = since_s + timeline.received_s
    yield Span(
        timeline.trace_id,
        timeline.span_id,
        timeline.parent_id,
        f"POST {route}",
        "server",
        at_s,
        since_s + timeline.ended_s,
        said,
        timeline.error,
    )
    own = Context(timeline.trace_id, timeline.span_id, sampled=True)
    for number, (name, seconds) in enumerate(parts(timeline)):
        if seconds > 0.0:
            span_id = traceparent.below(own, number).span_id
            yield Span(
                timeline.trace_id,
                span_id,
                timeline.span_id,
                name,
                "internal",
                at_s,
                at_s + seconds,
                {},
            )
            at_s += seconds


def of_call(
    call: CallTimeline,
    asked: Call,
    own: Context,
    parent_id: str,
    why: tuple[Why, ...],
    since_s: float,
    scheme: str,
) -> Iterator[Span]:
    """Of an LLM call: `asked` as it came. `own` is its span; each provider was told which of the
    attempts' it is."""
    operation = OPERATIONS.get(call.endpoint, call.endpoint)
    route = PATHS.get(call.endpoint, f"/v1/{call.endpoint}")
    said: dict[str, Value] = {
        names.METHOD: asked.method,
        names.ROUTE: route,
        names.PATH: f"/v1{asked.path.partition('?')[0]}"[:SPAN_PATH_CHARS],
        names.SCHEME: scheme,
        names.OPERATION: operation,
        names.REQUEST_MODEL: call.model,
        names.LLM_ROUTE: call.route,
        names.REQUEST_ID: call.id,
        names.KEPT_FOR: ", ".join(why),
    }
    if call.status:
        said[names.STATUS] = call.status
    if call.first_s is not None:
        said[names.FIRST_MS] = round((call.first_s - call.received_s) * 1e3, 3)
    if call.usage is not None:
        said[names.INPUT_TOKENS] = call.usage.input_tokens
        said[names.OUTPUT_TOKENS] = call.usage.output_tokens
    yield Span(
        own.trace_id,
        own.span_id,
        parent_id,
        f"{asked.method} {route}",
        "server",
        since_s + call.received_s,
        since_s + call.ended_s,
        said,
        failure(call),
    )
    for number, each in enumerate(call.tried):
        attempt: dict[str, Value] = {
            names.OPERATION: operation,
            names.PROVIDER: each.target.provider,
            names.REQUEST_MODEL: each.target.model or call.model,
            names.ATTEMPT_WHY: each.why,
            names.ATTEMPT_ENDED: each.ended,
        }
        if each.status is not None:
            attempt[names.STATUS] = each.status
        yield Span(
            own.trace_id,
            traceparent.below(own, number).span_id,
            own.span_id,
            f"{operation} {attempt[names.REQUEST_MODEL]}",
            "client",
            since_s + each.began_s,
            since_s + (call.ended_s if each.ended_s is None else each.ended_s),
            attempt,
            "" if each.ended in FINE else each.ended,
        )


def failure(call: CallTimeline) -> str:
    """Why a call counts as failed; empty where it does not: what its caller did wrong is no
    failure."""
    if call.status == 0:
        return "left"
    if call.status >= 500:
        return str(call.status)
    if call.status < 400 and call.tried and all(each.ended != "done" for each in call.tried):
        return call.tried[-1].ended  # its answer had begun, and broke off
    return ""
