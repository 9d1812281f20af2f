"""How much may be in flight at once, and how much may come per second. Pure; nothing waits in here.

A *concurrency limiter* says at the door whether one more may enter. `FixedLimiter` has a bound that
somebody chose. `AdaptiveLimiter` finds it: as many as keep the mean time that work waits before it
is begun at `target_delay_s`. By Little's law (L = λW), where λ leave per second and each waits Q,
λ·Q wait on average, in whatever order they are served; so when Q misses the target by D, the limit
misses by λ·D. It moves by half of that, because batching makes λ itself depend on the limit, at
most to the half or the double in one step, and

- up only when at least half of it was used; then by a quarter of itself while nothing waits, for
  then λ does not tell what is possible (BBR probes as much);
- down from what was really in flight, when that was less;
- down by the share that was dropped, a tenth at most. What the far side refuses is the only sign
  of its limit where nothing waits here; so after a drop it probes by one, then two, four and so on.

A step is taken after LIMITER_STEP_S in which something was in flight, over LIMITER_STEP_LEAVES at
least. The first to leave after it, as many as were in flight then, say nothing of the new limit and
are not looked at.
It is fed the delay in the queue and not the round trip, as Vegas and Gradient2 are (Netflix,
concurrency-limits), because that moves with the size of a batch.

What it cannot see: work that is overtaken for ever and never leaves; and what a batch needs, so a
target below the time that one takes leaves no room for the next to gather.

A *token bucket* bounds a rate: `burst` at once, `amount` every `per_s` seconds on average. It
counts in whole numbers of tokens times nanoseconds, and turns each moment into nanoseconds by
itself, so no rounding adds up: it grants what it should to the last token, for years.

*Guarantees*: nobody enters while `limit` or more are in flight; the limit stays between `floor` and
`most`, so whoever leaves makes room in the end; in T seconds a bucket grants at most
`burst + amount * T / per_s`, each time being cut and `per_s` rounded to the nanosecond. Clocks may
stand still. Called by `serve/` and `gateway/`, at the door. Measured: docs/design/flow.md.
"""

import math
from typing import Protocol

from paceline.terms.limits import (
    LIMITER_FIRST,
    LIMITER_FLOOR,
    LIMITER_MOST,
    LIMITER_STEP_LEAVES,
    LIMITER_STEP_S,
)

# --- How much at once -----------------------------------------------------------------------------


class Limiter(Protocol):
    """Contract suite: paceline.testing.limiter_contract."""

    @property
    def limit(self) -> int: ...

    @property
    def in_flight(self) -> int: ...

    def try_enter(self, now: float) -> bool:
        """Whether one more may enter; it has entered then, and must leave."""
        ...

    def leave(self, now: float, queue_delay_s: float, dropped: bool) -> None:
        """One that entered is done; `queue_delay_s` is what it waited before it was begun, and
        `dropped` whether it was refused or given up because of load instead of being answered."""
        ...


class FixedLimiter:
    __slots__ = ("in_flight", "limit")

    def __init__(self, limit: int) -> None:
        assert limit >= 1, f"a limit of {limit} would let nobody in"
        self.limit = limit
        self.in_flight = 0

    def try_enter(self, now: float) -> bool:
        if self.in_flight >= self.limit:
            return False
        self.in_flight += 1
        return True

    def leave(self, now: float, queue_delay_s: float, dropped: bool) -> None:
        assert self.in_flight, "somebody leaves who had not entered"
        self.in_flight -= 1


GAIN = 0.5
PROBE_SHARE = 0.25
DROPPED_MOST = 0.1


class AdaptiveLimiter:
    """`target_delay_s` may be set at any time, to a positive one."""

    __slots__ = (
        "_busy_s",
        "_delays_s",
        "_dropped",
        "_exact",
        "_floor",
        "_leaves",
        "_most",
        "_peak",
        "_settling",
        "_since_s",
        "_stride",
        "in_flight",
        "limit",
        "target_delay_s",
    )

    def __init__(
        self,
        target_delay_s: float,
        *,
        floor: int = LIMITER_FLOOR,
        first: int = LIMITER_FIRST,
        most: int = LIMITER_MOST,
    ) -> None:
        assert 0 < target_delay_s < math.inf, f"a target is a positive time: {target_delay_s} s"
        assert 1 <= floor <= first <= most, f"not in order: {floor}, {first}, {most}"
        self.target_delay_s = target_delay_s
        self.limit = first
        self.in_flight = 0
        self._exact = float(first)
        self._floor = floor
        self._most = most
        self._settling = 0
        self._since_s = 0.0
        self._stride = math.inf
        self._peak = 0
        self._leaves = 0
        self._dropped = 0
        self._delays_s = 0.0
        self._busy_s = 0.0

    def try_enter(self, now: float) -> bool:
        if self.in_flight >= self.limit:
            return False
        self.enter(now)
        return True

    def enter(self, now: float) -> None:
        """Above the limit too: for whoever obeys it only at times, as `serve/core.py` does."""
        in_flight = self.in_flight
        if not in_flight:
            self._since_s = now
        self.in_flight = in_flight = in_flight + 1
        if in_flight > self._peak:
            self._peak = in_flight

    def begin_at(self, now: float, limit: int) -> None:
        """Somebody knows better from where to go on; whoever is in flight entered without it."""
        self._exact = float(min(max(limit, self._floor), self._most))
        self.limit = int(self._exact)
        self._over(now)

    def leave(self, now: float, queue_delay_s: float, dropped: bool) -> None:
        assert self.in_flight, "somebody leaves who had not entered"
        assert queue_delay_s >= 0, f"nobody waits for {queue_delay_s} s"
        self.in_flight -= 1
        if self._settling:
            self._settling -= 1
            self._since_s = now
            return
        self._leaves += 1
        self._delays_s += queue_delay_s
        if dropped:
            self._dropped += 1
        busy_s = self._busy_s + now - self._since_s
        if busy_s >= LIMITER_STEP_S and self._leaves >= LIMITER_STEP_LEAVES:
            self._step(busy_s)
            self._over(now)
        elif not self.in_flight:
            self._busy_s = busy_s

    def _over(self, now: float) -> None:
        """From now on everything counts anew."""
        self._settling = self.in_flight
        self._since_s = now
        self._peak = self.in_flight
        self._leaves = self._dropped = 0
        self._delays_s = self._busy_s = 0.0

    def _step(self, busy_s: float) -> None:
        rate_per_s = self._leaves / busy_s
        dropped = min(self._dropped / self._leaves, DROPPED_MOST)
        spare_s = self.target_delay_s - self._delays_s / self._leaves
        limit = before = self._exact
        if dropped:
            self._stride = 1.0
        if spare_s < 0:
            limit = min(limit, self._peak)
            limit += GAIN * rate_per_s * spare_s
        elif 2 * self._peak >= limit:
            probe_per_s = PROBE_SHARE * limit / self.target_delay_s
            growth = min(max(GAIN * rate_per_s, probe_per_s) * spare_s, self._stride)
            limit += growth * (1 - dropped / DROPPED_MOST)
            if not dropped:
                self._stride *= 2
        limit -= limit * dropped
        limit = min(max(limit, before / 2), before * 2)
        self._exact = min(max(limit, float(self._floor)), float(self._most))
        self.limit = int(self._exact)


# --- How much per second --------------------------------------------------------------------------

NS_PER_S = 1_000_000_000


def _ns(moment: float) -> int:
    return int(moment * NS_PER_S)


class TokenBucket:
    """Full at the beginning. Time that goes back counts as time that stands still."""

    __slots__ = ("_amount", "_at_ns", "_full", "_level", "_token")

    def __init__(self, amount: int, per_s: float, burst: int, now: float) -> None:
        assert amount >= 1, f"at a rate of {amount} nothing would ever come"
        assert burst >= 1, f"a burst of {burst} would grant nothing"
        assert 1e-9 <= per_s < math.inf, f"a rate is per positive time, not per {per_s} s"
        # A level is a number of tokens times a number of nanoseconds, so that both what comes in a
        # nanosecond (`amount`) and what a token costs (`per_s`, in nanoseconds) are whole numbers.
        self._amount = amount
        self._token = round(per_s * NS_PER_S)
        self._full = burst * self._token
        self._level = self._full
        self._at_ns = _ns(now)

    def try_take(self, now: float, amount: int = 1) -> bool:
        """All of it or nothing."""
        self._fill(now)
        cost = amount * self._token
        if cost > self._level:
            return False
        self._level -= cost
        return True

    def settle(self, taken: int, spent: int) -> None:
        """What was taken was an estimate: the rest comes back, or the difference is owed."""
        self._level = min(self._level + (taken - spent) * self._token, self._full)

    def ready_at(self, now: float, amount: int = 1) -> float:
        """From when on it would be granted if nobody else took; never, if it exceeds the burst."""
        self._fill(now)
        missing = amount * self._token - self._level
        if missing <= 0:
            return now
        if amount * self._token > self._full:
            return math.inf
        ready_ns = self._at_ns - -missing // self._amount
        moment = ready_ns / NS_PER_S
        while _ns(moment) < ready_ns:
            moment = math.nextafter(moment, math.inf)
        return moment

    def _fill(self, now: float) -> None:
        now_ns = _ns(now)
        if now_ns > self._at_ns:
            level = self._level + (now_ns - self._at_ns) * self._amount
            self._level = min(level, self._full)
            self._at_ns = now_ns


class RateLimit:
    """Requests per second and tokens per second together: both are granted, or neither."""

    __slots__ = ("_requests", "tokens")

    def __init__(self, requests: TokenBucket, tokens: TokenBucket) -> None:
        self._requests = requests
        self.tokens = tokens

    def try_take(self, now: float, tokens: int) -> bool:
        if not self._requests.try_take(now):
            return False
        if self.tokens.try_take(now, tokens):
            return True
        self._requests.settle(1, 0)
        return False

    def ready_at(self, now: float, tokens: int) -> float:
        return max(self._requests.ready_at(now), self.tokens.ready_at(now, tokens))
