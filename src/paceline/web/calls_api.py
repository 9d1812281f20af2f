"""The last LLM calls, for who asks where the time of one went: their moments, targets and tokens.

Each front remembers its own (`gateway/relay.py`), and tells the newest or the slowest of them when
the owner asks (`fronts.py`); what they say together is answered here. Nothing of what was said in a
call is in it, and nothing of it is written anywhere. Operations are added by the owner.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from paceline.gateway.prices import usd
from paceline.terms.limits import LLM_CALLS_TOLD
from paceline.web.operations import AnyDeclaration, Declaration, Operation

if TYPE_CHECKING:  # the owner relays nothing, and spares itself a tenth of its imports
    from paceline.gateway.relay import Timeline

Order = Literal["newest", "slowest"]
Ms = Annotated[float, Meta(description="Milliseconds since the head of the call was there.")]


class AttemptView(msgspec.Struct, frozen=True):
    """One request to a provider."""

    target: Annotated[str, Meta(description="Provider and model.")]
    why: Annotated[str, Meta(description="First, again, elsewhere, or a hedge.")]
    ended: Annotated[
        str, Meta(description="How: done, left, outrun, answered, dropped, or what was lost.")
    ]
    sent_ms: Ms
    content_ms: Annotated[Ms | None, Meta(description="Null: none came.")] = None
    ended_ms: Annotated[Ms | None, Meta(description="Null: it was stopped with its call.")] = None
    status: Annotated[int | None, Meta(description="Of a provider's own error.")] = None


class CallView(msgspec.Struct, frozen=True):
    """One LLM call that is over."""

    id: Annotated[str, Meta(description="As its caller was told, and the log has it.")]
    received: Annotated[float, Meta(description="When its head was there, in Unix seconds.")]
    endpoint: str
    model: Annotated[str, Meta(description="That was asked for.")]
    route: str
    key: Annotated[str | None, Meta(description="The id of the caller's key; null: none.")]
    status: Annotated[int, Meta(description="Of the answer; 0: its caller left.")]
    outcome: Annotated[
        str,
        Meta(description="Done, left, or how its last attempt ended; nowhere: there was none."),
    ]
    took_ms: Ms
    first_ms: Annotated[Ms | None, Meta(description="To the first content; null: none came.")]
    input_tokens: Annotated[int | None, Meta(description="Null: its provider told none.")]
    output_tokens: Annotated[int | None, Meta(description="Null: its provider told none.")]
    cost_usd: Annotated[
        float | None,
        Meta(
            description="What the answer cost, by the prices of the settings; null: there is none, "
            "or nobody knows."
        ),
    ]
    attempts: tuple[AttemptView, ...]
    estimated_tokens: Annotated[
        int,
        Meta(description="Beyond those, in and out: a stream had content that was not told of."),
    ] = 0


class CallsQuery(msgspec.Struct, frozen=True):
    order: Annotated[Order, Meta(description="Which ones, and in which order.")] = "newest"
    limit: Annotated[int, Meta(ge=1, le=LLM_CALLS_TOLD, description="The most to answer.")] = 20


class CallsView(msgspec.Struct, frozen=True):
    calls: Annotated[tuple[CallView, ...], Meta(description="Of those that the fronts remember.")]


CALLS: Declaration[CallsQuery, None, CallsView] = Declaration(
    "GET",
    "/api/calls",
    "The last LLM calls: when, where and how long; nothing of what was said.",
    CallsView,
    query=CallsQuery,
)

DECLARED: tuple[AnyDeclaration, ...] = (CALLS,)

Told = Callable[[Order, int], Awaitable[Sequence[CallView]]]
"""What the fronts tell, each up to so many."""


def operations(told: Told) -> tuple[Operation, ...]:
    async def answer(query: CallsQuery, body: None, who: str) -> CallsView:
        return CallsView(chosen(await told(query.order, query.limit), query.order, query.limit))

    return (CALLS.answered_by(answer),)


def chosen(calls: Iterable[CallView], order: Order, most: int) -> tuple[CallView, ...]:
    if order == "slowest":
        return tuple(sorted(calls, key=lambda each: -each.took_ms)[:most])
    return tuple(sorted(calls, key=lambda each: -each.received)[:most])


def recent(
    timelines: "Sequence[Timeline]", order: Order, most: int, now: float, wall: float
) -> tuple[CallView, ...]:
    """What one front tells; the last in `timelines` ended last."""
    if order == "slowest":
        kept = sorted(timelines, key=lambda each: each.received_s - each.ended_s)[:most]
    else:
        kept = [*timelines][-most:]
    return tuple(_view(each, wall - now) for each in kept)


def _view(timeline: "Timeline", since_s: float) -> CallView:
    received_s, usage = timeline.received_s, timeline.usage

    def ms(moment_s: float) -> float:
        return round((moment_s - received_s) * 1e3, 2)

    return CallView(
        timeline.id,
        round(since_s + received_s, 3),
        timeline.endpoint,
        timeline.model,
        timeline.route,
        timeline.key_id,
        timeline.status,
        _outcome(timeline),
        ms(timeline.ended_s),
        None if timeline.first_s is None else ms(timeline.first_s),
        None if usage is None else usage.input_tokens,
        None if usage is None else usage.output_tokens,
        None if timeline.picousd is None else usd(timeline.picousd),
        tuple(
            AttemptView(
                str(each.target),
                each.why,
                each.ended,
                ms(each.began_s),
                None if each.content_s is None else ms(each.content_s),
                None if each.ended_s is None else ms(each.ended_s),
                each.status,
            )
            for each in timeline.tried
        ),
        timeline.estimated.input_tokens + timeline.estimated.output_tokens,
    )


def _outcome(timeline: "Timeline") -> str:
    if timeline.status == 0:
        return "left"
    if not timeline.tried:
        return "nowhere"
    if any(each.ended == "done" for each in timeline.tried):
        return "done"
    return timeline.tried[-1].ended
