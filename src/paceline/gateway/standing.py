"""How a target fares: whether it may be gone to now, and how soon it begins to answer. Pure.

There is one Standing for each target, shared by all routes that lead to it. Its *breaker* is the
target's own, a provider and a model of it, not the provider's: one model that is overloaded or gone
must not close the others, while a provider that is down shows itself to each target within ten
calls. (Of a `*`, or of "the model as asked", each model that is asked for is
a target of its own: see `routing.py`.) Its *retry budget* is the
provider's, shared with its other targets, because what must not be multiplied is what a provider is
sent. After a 429 a target is *aside* until the moment it gave, or for a time that doubles; that
opens no breaker, so nothing need be probed before it is used again.

A *pace* is the time to first content, for streams and whole answers apart: an average that follows
the last dozen answers, and, where somebody hedges, the 95th percentile of the last few hundred.

*Least latency* takes the smallest of

    time to first content * (1 + how many wait / WAITING) * 2 ** failures in a row / weight

where the time is the usual one, or how long nothing has come while somebody waits, if that is more:
so a target that hangs is seen before one answer comes late. Streams that have begun do not count
among those who wait: they take long and say nothing of the wait. Failures count, or whoever fails
fast would look best of all. All but the weight fades while a target is passed over, to a third in
FADE_S or FADE_CALLS, whichever takes longer: so one that was slow is tried again now and then,
neither by every second call where there are few nor by every hundredth where there are many. All
targets are looked at, not two at random: with a handful of unlike ones, two random choices would
give the slow two of three every third call. What two choices avoid, that all who know the same of
old run to the same place, the count of those who wait avoids here, for each front knows its own at
every moment. Whoever is half open goes first: two calls, which go elsewhere if they fail, bring a
target back as soon as may be.

*News.* That it is aside, or that its breaker has opened, is told to the other fronts of the server
(`News`), which leave it alone until the same moment, so that each need not find out by calls of its
own. Nothing else is: a breaker counts what its own front saw, and closes by its own probes.

Called by `attempts.py`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import msgspec

from paceline.flow.breaker import REFUSED, Breaker
from paceline.flow.retry import RetryBudget
from paceline.gateway.upstream import Target
from paceline.stats.sketch import Sketch
from paceline.terms.limits import (
    BACKOFF_FIRST_S,
    BACKOFF_MOST_S,
    HEDGE_LEARN,
    HEDGE_LEARN_FIRST,
    LLM_NEWS_LEAST_S,
    RETRY_AFTER_MOST_S,
)

Uniform = Callable[[float, float], float]

News = Callable[[Target, float, str], None]
"""Until when a target is left alone, and why: nothing where it limits how much it is asked."""

GAIN = 1 / 8
"""How far the average follows one answer (TCP's for round trips; Jacobson, 1988)."""

GUESS_S = 0.5
"""The time to first content of a target that has not answered yet."""

WAITING = 4
"""So many who wait count as much as one usual time: far sides take many at once, if not all."""

FADE_S = 10.0
FADE_CALLS = 30
DOUBLINGS = 10

HIGH = 0.95

OVERDUE_TIMES = 3.0
OVERDUE_LEAST_S = 1.0
OVERDUE_UNKNOWN_S = 30.0
"""For a target that has not answered yet."""


class Pace:
    __slots__ = ("_missing", "_sketch", "high_s", "known", "learns_high", "usual_s")

    def __init__(self) -> None:
        self.usual_s = GUESS_S
        self.known = False
        self.learns_high = False
        """somebody hedges"""
        self.high_s = math.inf
        """within which 95 of 100 begin, as soon as that is known"""
        self._sketch: Sketch | None = None
        self._missing = HEDGE_LEARN_FIRST

    def learn(self, first_s: float) -> None:
        if self.known:
            self.usual_s += (first_s - self.usual_s) * GAIN
        else:
            self.usual_s = first_s
            self.known = True
        if self.learns_high:
            self._learn_high(first_s)

    def at_least(self, waited_s: float) -> None:
        """It had not begun by then, and will not be waited for."""
        if self.known and waited_s > self.usual_s:
            self.usual_s += (waited_s - self.usual_s) * GAIN

    def overdue(self, waited_s: float) -> bool:
        """Whether it had so long that to have no content is the target's failure, and not a
        deadline or a caller in a hurry."""
        if not self.known:
            return waited_s >= OVERDUE_UNKNOWN_S
        return waited_s >= max(OVERDUE_LEAST_S, OVERDUE_TIMES * self.usual_s)

    def _learn_high(self, first_s: float) -> None:
        sketch = self._sketch
        if sketch is None:
            sketch = self._sketch = Sketch()
        sketch.record(first_s)
        self._missing -= 1
        if not self._missing:
            self.high_s = sketch.quantile(HIGH) or math.inf
            self._sketch = None
            self._missing = HEDGE_LEARN


class TargetStatus(msgspec.Struct, frozen=True):
    """What the page and `why` tell of a target. The times to first content are of streams and of
    whole answers; None: not known yet."""

    target: Target
    state: Literal["closed", "open", "half_open", "aside"]
    because: str
    until_s: float | None
    waiting: int
    stream_first_s: float | None
    whole_s: float | None


class Standing:
    __slots__ = (
        "__weakref__",
        "_limits",
        "aside_until_s",
        "breaker",
        "budget",
        "clear",
        "failures",
        "news",
        "passed_over",
        "shut_until_s",
        "shut_why",
        "since_s",
        "target",
        "ticket",
        "troubled",
        "waiting",
        "whole_and_stream",
    )

    def __init__(
        self, target: Target, budget: RetryBudget, now: float, news: News | None = None
    ) -> None:
        self.target = target
        self.news = news
        self.budget = budget
        self.breaker = Breaker()
        self.whole_and_stream = (Pace(), Pace())
        self.waiting = 0
        """for first content"""
        self.failures = 0
        """in a row"""
        self.since_s = now
        """nobody has waited here since; or, while somebody does, nothing has come since"""
        self.passed_over = 0
        """by so many calls that looked for the least latency, since it was the one"""
        self.aside_until_s = -math.inf
        self._limits = 0
        self.shut_until_s = -math.inf
        """another front has found that it fails"""
        self.shut_why = ""
        self.clear = True
        """neither aside nor shut nor with a breaker that is not closed; where it is False, look"""
        self.troubled = False
        """it has failed or limited since its breaker was last seen closed at an answer"""
        self.ticket = self.breaker.ask(now)
        """of every call while it is clear: a closed breaker gives all the same"""

    def opens_s(self, now: float) -> float:
        """From when on it may be gone to: `now`, or later."""
        if self.clear:
            return now
        status = self.breaker.status(now)
        opens_s = max(now, self.aside_until_s, self.shut_until_s)
        if status.until_s is not None:
            return max(opens_s, status.until_s)
        if status.state == "closed" and opens_s == now:
            self.clear = True
            self.ticket = self.breaker.ask(now)
        return opens_s

    def began(self, now: float, pace: Pace, first_s: float, ticket: int) -> int:
        """Its first content has come. The ticket that is left: where the breaker is half open, this
        was the news that it waits for, for a stream may go on for minutes."""
        self.waiting -= 1
        self.since_s = now
        if self.troubled:
            ticket = self._recovered(now, ticket, pace)
        pace.learn(first_s)
        return ticket

    def _recovered(self, now: float, ticket: int, pace: Pace) -> int:
        self.failures = 0
        self._limits = 0
        state = self.breaker.status(now).state
        if state == "half_open":
            pace.known = False  # what it was before it was down says little
            self.breaker.succeeded(now, ticket)
            # If it is closed by that, what becomes of the rest of the stream counts as well.
            return self.breaker.ask(now) if self.breaker.status(now).state == "closed" else REFUSED
        self.troubled = state != "closed"
        return ticket

    def ended_without(self, now: float) -> None:
        """Somebody waits no longer, and no content has come."""
        self.waiting -= 1
        if not self.waiting:
            self.since_s = now

    def failed(self, now: float, ticket: int, why: str) -> None:
        self.failures += 1
        self.clear = False
        self.troubled = True
        was_open = self.breaker.status(now).state == "open"
        self.breaker.failed(now, ticket, why)
        if self.news is not None and not was_open:  # else others that were under way fail as well
            status = self.breaker.status(now)
            if status.until_s is not None and status.until_s >= now + LLM_NEWS_LEAST_S:
                self.news(self.target, status.until_s, status.because)

    def heard(self, now: float, until_s: float, why: str) -> None:
        """What another front tells of it."""
        until_s = min(until_s, now + RETRY_AFTER_MOST_S)
        if why:
            self.shut_until_s, self.shut_why = max(self.shut_until_s, until_s), why
        else:
            self.aside_until_s = max(self.aside_until_s, until_s)
        self.clear = False

    def put_aside(self, now: float, after_s: float | None) -> None:
        """It takes no calls until `after_s` from now; if it did not say, for longer each time."""
        is_news = now >= self.aside_until_s  # else others that were under way then say the same
        if is_news:
            self._limits += 1
        if after_s is None:
            after_s = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2.0 ** min(self._limits - 1, DOUBLINGS))
        self.aside_until_s = max(self.aside_until_s, now + after_s)
        self.clear = False
        self.troubled = True
        if is_news and self.news is not None and after_s >= LLM_NEWS_LEAST_S:
            self.news(self.target, self.aside_until_s, "")

    def score(self, now: float, stream: bool) -> float:
        """What a call may expect to wait, so to say; without the weight."""
        expected_s = self.whole_and_stream[stream].usual_s
        if self.failures:
            expected_s *= 2.0 ** min(self.failures, DOUBLINGS)
        if self.waiting:
            return max(expected_s, now - self.since_s) * (1 + self.waiting / WAITING)
        if not self.passed_over:
            return expected_s
        faded = min((now - self.since_s) / FADE_S, self.passed_over / FADE_CALLS)
        return expected_s * math.exp(-faded)

    def status(self, now: float) -> TargetStatus:
        whole, stream = self.whole_and_stream
        breaker = self.breaker.status(now)
        state: Literal["closed", "open", "half_open", "aside"] = breaker.state
        because, until_s = breaker.because, breaker.until_s
        if state != "open" and self.shut_until_s > now:
            state, until_s = "open", self.shut_until_s
            because = f"another front found: {self.shut_why}"
        elif state != "open" and self.aside_until_s > now:
            state, because, until_s = "aside", "it limits how much it is asked", self.aside_until_s
        return TargetStatus(
            self.target,
            state,
            because,
            until_s,
            self.waiting,
            stream.usual_s if stream.known else None,
            whole.usual_s if whole.known else None,
        )


class Place(NamedTuple):
    """A target in a tier."""

    standing: Standing
    weight: float


def by_weight(ready: Sequence[Place], uniform: Uniform) -> Place:
    total = 0.0
    for place in ready:
        total += place.weight
    if not total:
        return ready[min(int(uniform(0.0, len(ready))), len(ready) - 1)]
    at = uniform(0.0, total)
    for place in ready:
        at -= place.weight
        if at < 0:
            return place
    return next(place for place in reversed(ready) if place.weight)  # rounding, or the very end


def least_latency(ready: Sequence[Place], now: float, stream: bool) -> Place:
    """Between equals the first in the settings; whoever waits there makes the next go elsewhere."""
    best = ready[0]
    least = math.inf
    for place in ready:
        place.standing.passed_over += 1
        if place.weight:
            score = place.standing.score(now, stream) / place.weight
            if score < least:
                best, least = place, score
    best.standing.passed_over = 0
    return best
