"""Where the time of inference requests went: of the slowest, the late, the failed, the sampled.

Each front keeps its own (`timelines.py`), and tells of them when the owner asks (`fronts.py`); what
they say together is answered here. Nothing of what was sent or answered is in it, and nothing of it
is written anywhere. LLM calls have their own operation (`calls_api.py`), for they are made of
attempts. Operations are added by the owner.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from paceline.serve.batcher import Reason
from paceline.terms.errors import UnknownModel
from paceline.terms.limits import TRACES_SPAN_S, TRACES_TOLD
from paceline.terms.request import Priority
from paceline.web.operations import AnyDeclaration, Declaration, Operation
from paceline.web.timelines import Timeline, Why

Order = Literal["newest", "slowest"]
PartName = Literal[
    "body", "line", "read", "queue", "handover", "input", "compute", "output", "answer"
]

PARTS: dict[PartName, str] = {
    "body": "until all of the body was there",
    "line": "in line for a turn of the loop, where one turn cannot begin all that has arrived",
    "read": "until the body was read",
    "queue": "until a batch took it",
    "handover": "until a thread took the batch, and the loop its answer",
    "input": "for the inputs of the batch to be joined",
    "compute": "for the model",
    "output": "for the outputs of the batch to be taken apart",
    "answer": "until its answer was written, and handed to the system",
}


class PartView(msgspec.Struct, frozen=True):
    name: Annotated[
        PartName,
        Meta(description="; ".join(f"{name}: {what}" for name, what in PARTS.items()) + "."),
    ]
    ms: Annotated[float, Meta(description="How long it took, in milliseconds.")]


class BatchView(msgspec.Struct, frozen=True):
    """The batch that it was run in."""

    reason: Annotated[Reason, Meta(description="Why it was begun then.")]
    rows: int
    requests: int


class TraceView(msgspec.Struct, frozen=True):
    """One inference request that is over."""

    id: Annotated[str, Meta(description="As its caller was told by x-request-id.")]
    trace_id: Annotated[
        str, Meta(description="Of the trace that its caller's traceparent named, or of its own.")
    ]
    model: str
    form: Annotated[str, Meta(description="Of its body: v2 or predict.")]
    received: Annotated[float, Meta(description="When its head was there, in Unix seconds.")]
    took_ms: Annotated[float, Meta(description="From then until its answer was written.")]
    status: Annotated[int, Meta(description="Of the answer; 0: its caller left.")]
    error: Annotated[str, Meta(description="The code of what it was told; empty: none.")]
    why: Annotated[
        tuple[Why, ...],
        Meta(
            description="Why it was kept. asked: its caller's trace is recorded; sampled: drawn "
            "by chance; slow: among the slowest of some minutes; late: over its objective; failed."
        ),
    ]
    priority: Priority
    rows: int
    parts: Annotated[
        tuple[PartView, ...],
        Meta(description="Where the time went, in order; as far as it came. Together took_ms."),
    ]
    batch: Annotated[BatchView | None, Meta(description="Null: it was in none.")] = None
    cause: Annotated[str, Meta(description="Why it was refused, in words; empty: it was not.")] = ""


class TracesQuery(msgspec.Struct, frozen=True):
    model: Annotated[str, Meta(description="Of this one alone; empty: of all.")] = ""
    order: Annotated[
        Order, Meta(description="Which ones, and in which order; slowest: of the last hour.")
    ] = "slowest"
    why: Annotated[Why | Literal[""], Meta(description="Kept for this; empty: whatever for.")] = ""
    id: Annotated[str, Meta(description="The one with this request id or trace id.")] = ""
    limit: Annotated[int, Meta(ge=1, le=TRACES_TOLD, description="The most to answer.")] = 20


class TracesView(msgspec.Struct, frozen=True):
    traces: Annotated[tuple[TraceView, ...], Meta(description="Of those that the fronts keep.")]


TRACES: Declaration[TracesQuery, None, TracesView] = Declaration(
    "GET",
    "/api/traces",
    "Where the time of inference requests went: the slowest, the late, the failed, the sampled.",
    TracesView,
    query=TracesQuery,
    errors=(UnknownModel,),
)

DECLARED: tuple[AnyDeclaration, ...] = (TRACES,)

Told = Callable[[TracesQuery], Awaitable[Sequence[TraceView]]]
"""What the fronts tell, each up to so many."""


def operations(models: Sequence[str], told: Told) -> tuple[Operation, ...]:
    async def answer(query: TracesQuery, body: None, who: str) -> TracesView:
        if query.model and query.model not in models:
            raise UnknownModel.among(query.model, models)
        return TracesView(chosen(await told(query), query))

    return (TRACES.answered_by(answer),)


def chosen(traces: Iterable[TraceView], query: TracesQuery) -> tuple[TraceView, ...]:
    if query.order == "slowest":
        return tuple(sorted(traces, key=lambda each: -each.took_ms)[: query.limit])
    return tuple(sorted(traces, key=lambda each: -each.received)[: query.limit])


def kept(
    timelines: Iterable[Timeline], query: TracesQuery, now: float, wall: float
) -> tuple[TraceView, ...]:
    """What one front tells."""
    asked = (each for each in timelines if _is_asked(each, query, now))
    if query.order == "slowest":
        found = sorted(asked, key=lambda each: each.received_s - each.ended_s)
    else:
        found = sorted(asked, key=lambda each: -each.received_s)
    return tuple(view(each, wall - now) for each in found[: query.limit])


def _is_asked(timeline: Timeline, query: TracesQuery, now: float) -> bool:
    return (
        query.model in ("", timeline.model)
        and query.why in ("", *timeline.why)
        and query.id in ("", timeline.id, timeline.trace_id)
        and (query.order != "slowest" or now - timeline.ended_s <= TRACES_SPAN_S)
    )


def view(timeline: Timeline, since_s: float) -> TraceView:
    """`since_s`: what the wall clock says beyond the monotonic one."""
    ran = timeline.dispatched
    return TraceView(
        timeline.id,
        timeline.trace_id,
        timeline.model,
        timeline.form,
        round(since_s + timeline.received_s, 3),
        _ms(timeline.ended_s - timeline.received_s),
        timeline.status,
        timeline.error,
        timeline.why,
        timeline.priority,
        timeline.rows,
        tuple(PartView(name, _ms(seconds)) for name, seconds in parts(timeline)),
        None if ran is None else BatchView(ran.reason, ran.rows, ran.requests),
        timeline.cause,
    )


def parts(timeline: Timeline) -> Iterator[tuple[PartName, float]]:
    """Where the time went, one after the other, from its beginning to its end: each part with its
    seconds, as far as it came. The one that was not finished is the last."""
    at_s, end_s = timeline.received_s, timeline.ended_s
    ran = timeline.dispatched
    turn_s = timeline.turn_s
    if turn_s is not None:
        if turn_s > at_s:
            yield "line", turn_s - at_s
            at_s = turn_s
        if turn_s >= end_s:
            return  # it was turned away
    ends: tuple[tuple[PartName, float | None], ...] = (
        ("body", timeline.heard_s),
        ("read", timeline.queued_s),
        ("queue", None if ran is None else ran.begun_s),
    )
    for name, until_s in ends:
        if until_s is None:
            yield name, end_s - at_s
            return
        if until_s > at_s or name == "queue":
            yield name, max(0.0, until_s - at_s)
            at_s = max(at_s, until_s)
    assert ran is not None
    told_s = ran.ended_s - at_s
    if ran.input_s is None or ran.infer_s is None or ran.output_s is None:
        yield "compute", told_s
    else:
        known_s = ran.input_s + ran.infer_s + ran.output_s
        yield "handover", max(0.0, told_s - known_s)
        yield "input", ran.input_s
        yield "compute", ran.infer_s
        yield "output", ran.output_s
    yield "answer", max(0.0, end_s - ran.ended_s)


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
