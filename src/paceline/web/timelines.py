"""Where the time of a request went, kept for few of them: sampled, slow, late, or failed.

A request that is not kept pays for a few comparisons at its end (`infer_call.py`); the moments of
one that is were noted anyway by whoever has it in hand, and a `Timeline` is made of them only then.
`Kept` decides and remembers, one for each model of a front: pure, told the time. Nothing of what
was sent or answered is in it. LLM calls are remembered by `gateway/relay.py`; whoever asks for the
timelines of inference asks `traces_api.py`.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from paceline.clock import Chance
from paceline.flow.limiter import TokenBucket
from paceline.serve.batch import Dispatched
from paceline.terms.limits import (
    TRACES_ASKED_PER_S,
    TRACES_BAD_PER_S,
    TRACES_RECENT,
    TRACES_SLOT_S,
    TRACES_SLOWEST,
    TRACES_SPAN_S,
)
from paceline.terms.request import Priority

Why = Literal["asked", "sampled", "slow", "late", "failed"]
"""Its caller's trace is recorded; drawn by chance; among the slowest of these minutes; later than
its objective; or it got no answer, or one of the server's errors."""

NEVER = 1 << 62
"""Requests until the next is drawn, where none is."""

FOREVER = float("inf")


class Timeline(msgspec.Struct, frozen=True, gc=False):
    """One request that has ended. Moments are of the process's monotonic clock; None where it did
    not get so far."""

    id: str
    model: str
    form: str
    why: tuple[Why, ...]
    trace_id: str
    span_id: str
    parent_id: str
    """the caller's span; empty: none is known"""
    received_s: float
    """its head was there"""
    heard_s: float | None
    """and its body"""
    queued_s: float | None
    dispatched: Dispatched | None
    ended_s: float
    status: int
    """0: its caller left"""
    error: str
    """the code of what it was told; empty: it was answered"""
    priority: Priority
    rows: int


class Kept:
    """`sample` is the share of requests that are drawn by chance; `on_keep` hears of each that is
    kept, at once."""

    __slots__ = (
        "_asked",
        "_bad",
        "_chance",
        "_ends_s",
        "_failed",
        "_late",
        "_numbers",
        "_objective_s",
        "_on_keep",
        "_sample",
        "_sampled",
        "_slots",
        "left",
        "over_s",
        "until_s",
    )

    def __init__(
        self,
        now: float,
        chance: Chance,
        sample: float = 0.0,
        on_keep: Callable[[Timeline], None] | None = None,
    ) -> None:
        self._chance = chance
        self._sample = sample
        self._on_keep = on_keep
        self._objective_s = FOREVER
        self._numbers = 0
        self._sampled: deque[Timeline] = deque(maxlen=TRACES_RECENT)
        self._late: deque[Timeline] = deque(maxlen=TRACES_RECENT)
        self._failed: deque[Timeline] = deque(maxlen=TRACES_RECENT)
        self._asked = TokenBucket(TRACES_ASKED_PER_S, 1.0, TRACES_ASKED_PER_S, now)
        self._bad = TokenBucket(TRACES_BAD_PER_S, 1.0, TRACES_BAD_PER_S, now)
        self._slots: deque[list[tuple[float, int, Timeline]]] = deque(
            maxlen=int(TRACES_SPAN_S / TRACES_SLOT_S) + 1
        )
        """the slowest of some minutes each, the least slow of them first"""
        self._ends_s = now
        self.left = 0
        """requests until the next is drawn; below 0 this one is"""
        self.over_s = 0.0
        """whoever took so long is looked at"""
        self.until_s = now
        """so long that holds"""
        self._draw()

    def objective(self, seconds: float | None) -> None:
        self._objective_s = FOREVER if seconds is None else seconds
        self.until_s = -FOREVER  # it is looked at anew with the next request

    def why(self, now: float, seconds: float, *, asked: bool = False) -> tuple[Why, ...]:
        """For which reasons a request that was answered after so long is kept."""
        if now >= self._ends_s:
            self._slots.append([])
            self._ends_s = now + TRACES_SLOT_S
        reasons: list[Why] = []
        if asked and self._asked.try_take(now):
            reasons.append("asked")
        if self.left < 0:
            reasons.append("sampled")
            self._draw()
        if seconds > self._objective_s and self._bad.try_take(now):
            reasons.append("late")
        if seconds >= self._slow_s:
            reasons.append("slow")
        self._set(now)
        return tuple(reasons)

    def why_failed(self, now: float) -> tuple[Why, ...]:
        """As many a second as can be told apart: under overload there are thousands."""
        return ("failed",) if self._bad.try_take(now) else ()

    def keep(self, timeline: Timeline) -> None:
        why = timeline.why
        if "asked" in why or "sampled" in why:
            self._sampled.append(timeline)
        if "late" in why:
            self._late.append(timeline)
        if "failed" in why:
            self._failed.append(timeline)
        if "slow" in why:
            slowest = self._slots[-1]
            self._numbers += 1
            one = (timeline.ended_s - timeline.received_s, self._numbers, timeline)
            if len(slowest) < TRACES_SLOWEST:
                heapq.heappush(slowest, one)
            else:
                heapq.heapreplace(slowest, one)
            self._set(timeline.ended_s)
        if self._on_keep is not None:
            self._on_keep(timeline)

    def ids(self) -> tuple[str, str]:
        """Of a new trace, and of a new span."""
        return new_ids(self._chance)

    def all(self) -> Iterator[Timeline]:
        """Each once."""
        seen: set[int] = set()
        rings = (self._sampled, self._late, self._failed)
        slowest = ([each for _, _, each in slot] for slot in self._slots)
        for several in (*rings, *slowest):
            for each in several:
                if id(each) not in seen:
                    seen.add(id(each))
                    yield each

    @property
    def _slow_s(self) -> float:
        """What took at least as long is among the slowest of these minutes."""
        slowest = self._slots[-1]
        return slowest[0][0] if len(slowest) == TRACES_SLOWEST else 0.0

    def _set(self, now: float) -> None:
        """What is late is looked at only while more of it may be kept."""
        self.until_s = self._ends_s
        self.over_s = self._slow_s
        if self._objective_s < self.over_s:
            ready_s = self._bad.ready_at(now)
            if ready_s <= now:
                self.over_s = self._objective_s
            else:
                self.until_s = min(self._ends_s, ready_s)

    def _draw(self) -> None:
        """The gaps between requests that are drawn each with the same chance."""
        if self._sample >= 1.0:
            self.left = 0
        elif self._sample <= 0.0:
            self.left = NEVER
        else:
            # that nobody of so many is drawn has the chance (1 - sample) ** many
            self.left = int(self._chance.exponential(-1.0 / math.log1p(-self._sample)))


def new_ids(chance: Chance) -> tuple[str, str]:
    """Of a trace and of a span; none of them is zero, which would be no id."""
    return f"{chance.bits(128) or 1:032x}", f"{chance.bits(64) or 1:016x}"
