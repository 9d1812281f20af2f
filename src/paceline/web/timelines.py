"""Where the time of a request went, kept for few of them: sampled, slow, late, or failed.

A request that is not kept pays for a few comparisons at its end (`infer_call.py`), one that is
turned away before it was read for one; the moments of one that is kept were noted anyway by whoever
has it in hand, and a `Timeline` is made of them only then.
`Kept` decides and remembers, one for each model of a front: pure, told the time. Nothing of what
was sent or answered is in it. LLM calls are remembered by `gateway/relay.py`; whoever asks for the
timelines of inference asks `traces_api.py`.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Literal, TypeVar

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
    TRACES_TURNED_AWAY_PER_S,
)
from paceline.terms.request import Priority

Why = Literal["asked", "sampled", "slow", "late", "failed"]
"""Its caller's trace is recorded; drawn by chance; among the slowest of these minutes; later than
its objective; or it got no answer, or one of the server's errors."""

NEVER = 1 << 62
"""Requests until the next is drawn, where none is."""

FOREVER = float("inf")

ALL_S = -1.0
"""Every request takes longer."""


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
    turn_s: float | None = None
    """its turn of the loop had come, where it stood in line for one"""
    cause: str = ""
    """of a refusal, in words; nobody else's words are in it"""


T = TypeVar("T")


class Slowest(Generic[T]):
    """The slowest of an hour: those of some minutes each, so that early ones do not hide later
    ones. `over_s` and `until_s` spare a question: until then only who took longer is one."""

    __slots__ = ("_numbers", "_slots", "over_s", "until_s")

    def __init__(self) -> None:
        self._numbers = 0
        self._slots: deque[list[tuple[float, int, T]]] = deque(
            maxlen=int(TRACES_SPAN_S / TRACES_SLOT_S) + 1
        )
        """the least slow of some minutes is the first"""
        self.over_s = ALL_S
        self.until_s = -FOREVER

    def is_one(self, now: float, seconds: float) -> bool:
        if now >= self.until_s:
            self._slots.append([])
            self.over_s = ALL_S
            self.until_s = now + TRACES_SLOT_S
        return seconds > self.over_s

    def keep(self, seconds: float, one: T) -> None:
        """Of whom `is_one` was just said."""
        slowest = self._slots[-1]
        self._numbers += 1
        kept = (seconds, self._numbers, one)
        if len(slowest) < TRACES_SLOWEST:
            heapq.heappush(slowest, kept)
        else:
            heapq.heapreplace(slowest, kept)
        if len(slowest) == TRACES_SLOWEST:
            self.over_s = slowest[0][0]

    def __iter__(self) -> Iterator[T]:
        return (one for slot in self._slots for _, _, one in slot)


class Kept:
    """`sample` is the share of requests that are drawn by chance; `on_keep` hears of each that is
    kept, at once."""

    __slots__ = (
        "_asked",
        "_bad",
        "_chance",
        "_failed",
        "_late",
        "_objective_s",
        "_on_keep",
        "_sample",
        "_sampled",
        "_slowest",
        "_turned_away",
        "_turned_away_rate",
        "away_until_s",
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
        self._sampled: deque[Timeline] = deque(maxlen=TRACES_RECENT)
        self._late: deque[Timeline] = deque(maxlen=TRACES_RECENT)
        self._failed: deque[Timeline] = deque(maxlen=TRACES_RECENT)
        self._asked = TokenBucket(TRACES_ASKED_PER_S, 1.0, TRACES_ASKED_PER_S, now)
        self._bad = TokenBucket(TRACES_BAD_PER_S, 1.0, TRACES_BAD_PER_S, now)
        self._slowest: Slowest[Timeline] = Slowest()
        self._turned_away: deque[Timeline] = deque(maxlen=TRACES_RECENT)
        self._turned_away_rate = TokenBucket(
            TRACES_TURNED_AWAY_PER_S, 1.0, TRACES_TURNED_AWAY_PER_S, now
        )
        self.away_until_s = -FOREVER
        """whoever is turned away before is not kept"""
        self.left = 0
        """requests until the next is drawn; below 0 this one is"""
        self.over_s = ALL_S
        """whoever took longer is looked at"""
        self.until_s = now
        """so long that holds"""
        self._draw()

    def follow(self, sample: float, on_keep: Callable[[Timeline], None] | None) -> None:
        """The settings have changed."""
        self._sample, self._on_keep = sample, on_keep
        self._draw()

    def objective(self, seconds: float | None) -> None:
        self._objective_s = FOREVER if seconds is None else seconds
        self.until_s = -FOREVER  # it is looked at anew with the next request

    def why(self, now: float, seconds: float, *, asked: bool | None = None) -> tuple[Why, ...]:
        """For which reasons a request that was answered after so long is kept. `asked`: whether its
        caller's trace is recorded; None, where it has none, and chance decides."""
        reasons: list[Why] = []
        if asked and self._asked.try_take(now):
            reasons.append("asked")
        if self.left < 0:
            self._draw()
            if asked is None:
                reasons.append("sampled")
        if seconds > self._objective_s and self._bad.try_take(now):
            reasons.append("late")
        if self._slowest.is_one(now, seconds):
            reasons.append("slow")
        self._set(now)
        return tuple(reasons)

    def why_failed(self, now: float) -> tuple[Why, ...]:
        """As many a second as can be told apart: under overload there are thousands."""
        return ("failed",) if self._bad.try_take(now) else ()

    def keep_turned_away(self, timeline: Timeline) -> None:
        """One that failed before it was read, and not before `away_until_s`. They have a rate and
        room of their own: there may be thousands a second, and they would hide who failed later."""
        now = timeline.ended_s
        if self._turned_away_rate.try_take(now):
            self._turned_away.append(timeline)
            if self._on_keep is not None:
                self._on_keep(timeline)
        self.away_until_s = self._turned_away_rate.ready_at(now)

    def keep(self, timeline: Timeline) -> None:
        why = timeline.why
        if "asked" in why or "sampled" in why:
            self._sampled.append(timeline)
        if "late" in why:
            self._late.append(timeline)
        if "failed" in why:
            self._failed.append(timeline)
        if "slow" in why:
            self._slowest.keep(timeline.ended_s - timeline.received_s, timeline)
            self._set(timeline.ended_s)
        if self._on_keep is not None:
            self._on_keep(timeline)

    def ids(self) -> tuple[str, str]:
        """Of a new trace, and of a new span."""
        return new_ids(self._chance)

    def all(self) -> Iterator[Timeline]:
        """Each once."""
        seen: set[int] = set()
        lots = (self._sampled, self._late, self._failed, self._turned_away, self._slowest)
        for several in lots:
            for each in several:
                if id(each) not in seen:
                    seen.add(id(each))
                    yield each

    def _set(self, now: float) -> None:
        """What is late is looked at only while more of it may be kept."""
        slowest = self._slowest
        self.until_s, self.over_s = slowest.until_s, slowest.over_s
        if self._objective_s < self.over_s:
            ready_s = self._bad.ready_at(now)
            if ready_s <= now:
                self.over_s = self._objective_s
            else:
                self.until_s = min(slowest.until_s, ready_s)

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
