"""A circuit breaker: whoever fails too often is left alone for a while, then tried with care. Pure.

*Closed*: all calls go. When at least `least_calls` ended within the window and at least
`failure_ratio` of them failed, it opens. *Open*: no call goes until a moment that is known from the
start. *Half open*: from that moment on `probes` calls go; when as many have succeeded it closes, at
the first that fails it opens again, for twice as long, up to `open_most_s`. Once it has been closed
for a whole window, the next opening is short again.

There is no timer: what it is follows from `now` whenever it is asked. Every call that goes carries
a *ticket*, and the outcome of one that began before it last opened or closed counts for nothing; so
an answer that comes late neither closes nor opens it.

*Guarantees*: while it is open nothing goes, and that ends within `open_most_s`; while half open, at
most `probes` calls go in any `probe_s` (those that `left` not counted). Probes that nobody hears of
for `probe_s` are followed by others, so a lost one cannot lock it.

What counts as a failure is the caller's to know; a mistake in the request usually does not. Called
by whoever chooses among workers, hosts or providers.
"""

import math
from typing import Literal

import msgspec

from paceline.flow.recent import RecentCount
from paceline.terms.limits import (
    BREAKER_FAILURE_RATIO,
    BREAKER_LEAST_CALLS,
    BREAKER_OPEN_FIRST_S,
    BREAKER_OPEN_MOST_S,
    BREAKER_PROBE_S,
    BREAKER_PROBES,
    BREAKER_WHY_CHARS,
    BREAKER_WINDOW_S,
)

REFUSED = 0
"""The ticket of a call that must not go; all others are true."""

DOUBLINGS = 64
"""More make no difference to any bound, and would overflow a float at a thousand."""


class BreakerStatus(msgspec.Struct, frozen=True):
    """Why it is not closed, and, while it is open, until when."""

    state: Literal["closed", "open", "half_open"]
    because: str = ""
    until_s: float | None = None


class Breaker:
    __slots__ = (
        "_because",
        "_calls",
        "_closed",
        "_closed_since_s",
        "_failure_ratio",
        "_failures",
        "_least_calls",
        "_open_first_s",
        "_open_most_s",
        "_openings",
        "_probe_s",
        "_probes",
        "_probes_good",
        "_probes_left",
        "_probing",
        "_ticket",
        "_until_s",
        "_window_s",
    )

    def __init__(
        self,
        *,
        failure_ratio: float = BREAKER_FAILURE_RATIO,
        least_calls: int = BREAKER_LEAST_CALLS,
        window_s: float = BREAKER_WINDOW_S,
        open_first_s: float = BREAKER_OPEN_FIRST_S,
        open_most_s: float = BREAKER_OPEN_MOST_S,
        probes: int = BREAKER_PROBES,
        probe_s: float = BREAKER_PROBE_S,
    ) -> None:
        assert 0 < failure_ratio <= 1, f"a ratio lies above 0 and up to 1, not at {failure_ratio}"
        assert least_calls >= 1, f"it takes a call to judge by, not {least_calls}"
        assert 0 < open_first_s <= open_most_s < math.inf, "open times are positive, and grow"
        assert probes >= 1, f"without a probe it would stay open for ever: {probes}"
        assert 0 < probe_s < math.inf, f"a probe takes a positive time, not {probe_s} s"
        self._failure_ratio = failure_ratio
        self._least_calls = least_calls
        self._window_s = window_s
        self._open_first_s = open_first_s
        self._open_most_s = open_most_s
        self._probes = probes
        self._probe_s = probe_s
        self._calls = RecentCount(window_s)
        self._failures = RecentCount(window_s)
        self._closed = True
        self._closed_since_s = -math.inf
        self._ticket = 1
        self._openings = 0
        self._until_s = -math.inf
        self._probing = False
        self._probes_left = 0
        self._probes_good = 0
        self._because = ""

    def ask(self, now: float) -> int:
        """A ticket for one call, or REFUSED. Ask last of all, for a probe's place is taken by it;
        then tell how it ended: `succeeded`, `failed`, or `left` when nobody will know."""
        if self._closed:
            return self._ticket
        if now >= self._until_s:
            if not self._probing:
                self._probing = True
                self._probes_good = 0
            self._probes_left = self._probes
        if not self._probes_left:
            return REFUSED
        self._probes_left -= 1
        self._until_s = now + self._probe_s
        return self._ticket

    def succeeded(self, now: float, ticket: int) -> None:
        if ticket != self._ticket:
            return
        if self._closed:
            self._calls.add(now)
            return
        self._probes_good += 1
        if self._probes_good >= self._probes:
            self._close(now)

    def failed(self, now: float, ticket: int, why: str) -> None:
        if ticket != self._ticket:
            return
        if not self._closed:
            self._open(now, f"a probe failed: {_short(why)}")
            return
        self._calls.add(now)
        self._failures.add(now)
        calls, failures = self._calls.total(now), self._failures.total(now)
        if calls >= self._least_calls and failures >= self._failure_ratio * calls:
            if now - self._closed_since_s >= self._window_s:
                self._openings = 0
            self._open(
                now,
                f"{failures} of {calls} calls failed within {self._window_s:g} s, "
                f"the last: {_short(why)}",
            )

    def left(self, ticket: int) -> None:
        """The call was given up and says nothing; as a probe, its place is free again."""
        if ticket == self._ticket and not self._closed:
            self._probes_left += 1

    def status(self, now: float) -> BreakerStatus:
        """Asking changes nothing."""
        if self._closed:
            return BreakerStatus("closed")
        if self._probing or now >= self._until_s:
            return BreakerStatus("half_open", self._because)
        return BreakerStatus("open", self._because, self._until_s)

    def _open(self, now: float, because: str) -> None:
        doubled = self._open_first_s * 2.0 ** min(self._openings, DOUBLINGS)
        self._openings += 1
        self._until_s = now + min(self._open_most_s, doubled)
        self._because = because
        self._ticket += 1
        self._closed = False
        self._probing = False
        self._probes_left = 0

    def _close(self, now: float) -> None:
        self._closed = True
        self._closed_since_s = now
        self._ticket += 1
        self._calls.clear()
        self._failures.clear()


def _short(why: str) -> str:
    return why if len(why) <= BREAKER_WHY_CHARS else why[: BREAKER_WHY_CHARS - 1] + "…"
