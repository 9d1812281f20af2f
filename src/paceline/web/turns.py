"""Requests that wait for a turn of the loop, where it cannot begin all that has arrived.

To read a request's numbers, to run its row and to write its answer take the loop itself where a
model is tiny. If all that has arrived were begun at once, a busy turn would be followed by a longer
one: hundreds would arrive meanwhile, and so on. So a turn begins `BEGUN` at most. What comes beyond
stands in line by its head alone, higher ranks first, and the turn goes on: it reads what has
arrived, begins and answers some of the line, and says no to some of those who would be too late.

When a request of a long turn came nobody knows: they are taken to have come evenly since the turn
before, in the order in which the kernel tells of them.

`Line` decides, and is told the time; `Turns` is told by the loop when it turns. Bounded by the
connections of a front, for each has one request in hand. Called by `inference.py`.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from paceline.terms.limits import BEGUN, BEGUN_LOW, TURNED_AWAY

FOLLOW = 1 / 4
"""How much the last turn counts for in how long they take."""

RANKS = 4


class Stands(Protocol):
    """A request in line. `allowed_s` is how long after it came its answer is of use."""

    rank: int
    allowed_s: float
    came_s: float
    """set when it is known"""

    def begin(self) -> None: ...

    def turn_away(self, wait_s: float) -> None:
        """It would have had to wait so long."""
        ...


class Line:
    """Who stands in line, and who goes next."""

    def __init__(self) -> None:
        self._new: list[Stands] = []
        self._due: tuple[deque[Stands], ...] = tuple(deque() for _ in range(RANKS))
        self._away: deque[Stands] = deque()
        self._held = 0

    def __len__(self) -> int:
        """Whoever has not been told anything yet."""
        return len(self._new) + self._held + len(self._away)

    def join(self, one: Stands) -> None:
        self._new.append(one)

    def turn(self, since_s: float, now: float, turn_s: float) -> list[Stands]:
        """Whom to begin, at `now`; those that joined came since `since_s`. Turns take `turn_s`
        each: whoever would be too late by that is to be turned away."""
        new, self._new = self._new, []
        step_s = (now - since_s) / len(new) if new else 0.0
        for place, one in enumerate(new, 1):
            one.came_s = since_s + place * step_s
            self._due[one.rank].append(one)
        self._held += len(new)
        ahead = 0
        for due in reversed(self._due):
            while due and due[0].came_s + due[0].allowed_s < now + turn_s:
                self._turn_away(due.popleft())
            while due:
                done_s = now + ((ahead + len(due)) / BEGUN + 1.0) * turn_s
                if due[-1].came_s + due[-1].allowed_s >= done_s:
                    break
                self._turn_away(due.pop())
            ahead += len(due)
        return self._next()

    def turned_away(self) -> list[Stands]:
        """Whom to say no to in this turn."""
        return [self._away.popleft() for _ in range(min(TURNED_AWAY, len(self._away)))]

    def _turn_away(self, one: Stands) -> None:
        self._held -= 1
        self._away.append(one)

    def _next(self) -> list[Stands]:
        """Those of the highest rank; a few places are kept for who waits below, so that none waits
        for ever."""
        begun: list[Stands] = []
        for due in reversed(self._due):
            while due and len(begun) < BEGUN - BEGUN_LOW:
                begun.append(due.popleft())
        for due in self._due:
            while due and len(begun) < BEGUN:
                begun.append(due.popleft())
        self._held -= len(begun)
        return begun


class Turns:
    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._line = Line()
        self._left = BEGUN
        """that this turn may still begin"""
        self._turning = False
        self._first_s = 0.0
        """when the first request of this turn was there, where the loop had waited for it"""
        self._since_s = 0.0
        """when the turn before this one was as far, where they follow each other; else 0"""
        self._turn_s = 0.0
        """how long turns take that follow each other, with all that the loop does in them"""

    def may_begin(self) -> bool:
        """Whether one more may begin at once; else it is to `join` the line."""
        if not self._turning:
            self._turning = True
            self._first_s = self._now()
            asyncio.get_running_loop().call_soon(self._turn)
        if self._left:
            self._left -= 1
            return True
        return False

    def join(self, one: Stands) -> None:
        self._line.join(one)

    def _turn(self) -> None:
        """What has arrived has been read."""
        line = self._line
        if not len(line):
            self._turning = False
            self._left = BEGUN
            self._since_s = 0.0
            return
        loop = asyncio.get_running_loop()
        now = self._now()
        since_s = self._since_s
        if since_s:
            took_s = now - since_s
            self._turn_s += FOLLOW * (took_s - self._turn_s) if self._turn_s else took_s
        self._since_s = now
        self._left = 0
        for one in line.turn(since_s or self._first_s, now, self._turn_s):
            one.begin()
        loop.call_soon(self._no)  # behind the batch of what has begun
        loop.call_soon(self._turn)

    def _no(self) -> None:
        for one in self._line.turned_away():
            one.turn_away(self._turn_s)
