"""What one front does for an OTLP receiver: who is recorded, and what the owner is told of it.

It is asked only while the settings name a receiver. An inference is recorded where its timeline is
kept (`timelines.py`). Of an LLM call it is decided at its head, by its caller's trace or by chance,
so that its provider can be told the span above its own; those that are slow or failed are recorded
all the same. Spans go to the owner together, and what is too much is dropped and counted.
"""

import asyncio
from collections.abc import Callable, Iterable

from paceline.clock import Chance, Clock
from paceline.gateway.call import Call
from paceline.gateway.relay import Timeline as CallTimeline
from paceline.observe import traceparent
from paceline.observe.traceparent import Context
from paceline.terms.limits import SPANS_TELL_S, SPANS_TOLD
from paceline.terms.span import Span
from paceline.web.messages import Spans
from paceline.web.spans import failure, of_call, of_inference
from paceline.web.timelines import Kept, Slowest, Timeline, Why, new_ids

Headers = list[tuple[bytes, bytes]]


class Tracing:
    """`tell` brings spans to the owner."""

    def __init__(
        self,
        clock: Clock,
        chance: Chance,
        sample: float,
        tell: Callable[[Spans], None],
        *,
        tls: bool = False,
    ) -> None:
        self._clock = clock
        self._chance = chance
        self.sample = sample
        """the share of LLM calls that are recorded by chance"""
        self._tell = tell
        self._scheme = "https" if tls else "http"
        self._slowest: Slowest[None] = Slowest()
        self._spans: list[Span] = []
        self._dropped = 0
        self._timer: asyncio.TimerHandle | None = None

    # --- Inference --------------------------------------------------------------------------------

    def kept(self, timeline: Timeline) -> None:
        self._take(of_inference(timeline, self._since_s, self._scheme))

    # --- LLM calls --------------------------------------------------------------------------------

    def begin(self, headers: Headers) -> Context | None:
        """The span of a call that is recorded, by its head; None for others, whose headers go on
        as they are."""
        caller = traceparent.of(headers)
        if caller is None:
            if self._chance.uniform() >= self.sample:
                return None
            return Context(*new_ids(self._chance), sampled=True)
        if not caller.sampled:
            return None
        return Context(caller.trace_id, new_ids(self._chance)[1], sampled=True)

    def ended(self, call: CallTimeline, asked: Call, headers: Headers) -> None:
        """`asked` as it came, with its headers."""
        begun = asked.context
        now, seconds = call.ended_s, call.ended_s - call.received_s
        caller = traceparent.of(headers)
        why: list[Why] = []
        if begun is not None:
            why.append("sampled" if caller is None else "asked")
        if self._slowest.is_one(now, seconds):
            self._slowest.keep(seconds, None)
            why.append("slow")
        if failure(call):
            why.append("failed")
        if why:
            own = begun
            if own is None:
                trace_id, span_id = new_ids(self._chance)
                trace_id = trace_id if caller is None else caller.trace_id
                own = Context(trace_id, span_id, sampled=True)
            parent_id = "" if caller is None else caller.span_id
            self._take(
                of_call(call, asked, own, parent_id, tuple(why), self._since_s, self._scheme)
            )

    # --- To the owner -----------------------------------------------------------------------------

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._spans or self._dropped:
            self._tell(Spans(tuple(self._spans), self._dropped))
            self._spans, self._dropped = [], 0

    @property
    def _since_s(self) -> float:
        return self._clock.wall() - self._clock.now()

    def _take(self, spans: Iterable[Span]) -> None:
        for each in spans:
            if len(self._spans) < SPANS_TOLD:
                self._spans.append(each)
            else:
                self._dropped += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SPANS_TELL_S, self.flush)


def kept_by(
    tracing: Tracing | None, clock: Clock, chance: Chance, sample: float
) -> Callable[[str], Kept]:
    """What makes the `Kept` of each model."""
    on_keep = None if tracing is None else tracing.kept
    return lambda model: Kept(clock.now(), chance.fork(model), sample, on_keep)
