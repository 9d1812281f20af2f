"""Requests that wait for a turn of the loop, where it cannot begin all that has arrived.

To read a request's numbers, to run its row and to write its answer take the loop itself where a
model is tiny. If all that has arrived were begun at once, a busy turn would be followed by a longer
one: hundreds would arrive meanwhile, and so on. So a turn begins `BEGUN` at once. What comes beyond
stands in line by its head alone, higher ranks first, and the turn goes on: it reads what has
arrived, begins and answers some of the line, and says no to some of those who would be too late.

When a request of a long turn came nobody knows: they are taken to have come evenly since the turn
before, in the order in which the kernel tells of them.

`Line` decides, and is told the time; `Turns` is told by the loop when it turns. Who stands in line
is in hand (`door.py`), so the bound of that is the line's. Called by `inference.py`.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import Protocol

from paceline.terms.limits import BEGUN, BEGUN_LONGEST, TURNED_AWAY

FOLLOW = 1 / 4
"""How much the last turn counts for in how long they take."""

RANKS = 4


class Stands(Protocol):
    """A request in line. `allowed_s` is how long after it came its turn is of use."""

    rank: int
    allowed_s: float
    came_s: float
    due_s: float
    """both set when it is known when it came"""

    def begin(self) -> None: ...

    def turn_away(self, wait_s: float) -> None:
        """It would have had to wait so long."""
        ...


_DUE = attrgetter("due_s")


class Line:
    """Who stands in line, and who goes next: of one rank whoever is due first."""

    def __init__(self) -> None:
        self._new: list[Stands] = []
        self._due: list[list[Stands]] = [[] for _ in range(RANKS)]
        self._away: deque[tuple[Stands, float]] = deque()
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
            one.due_s = one.came_s + one.allowed_s
            self._due[one.rank].append(one)
        self._held += len(new)
        ahead = 0
        for rank in reversed(range(RANKS)):
            line = self._due[rank]
            if line:
                line.sort(key=_DUE)
                kept = self._due[rank] = []
                for one in line:
                    wait_s = ((ahead + len(kept)) // BEGUN + 1) * turn_s
                    if now + wait_s <= one.due_s:
                        kept.append(one)
                    else:
                        self._held -= 1
                        self._away.append((one, wait_s))
                ahead += len(kept)
        return self._next()

    def turned_away(self) -> list[tuple[Stands, float]]:
        """Whom to say no to in this turn, and how long each would have waited."""
        return [self._away.popleft() for _ in range(min(TURNED_AWAY, len(self._away)))]

    def _next(self) -> list[Stands]:
        """Those of the highest rank; a few places are for who has waited longest, whatever its
        rank, so that none waits for ever."""
        begun: list[Stands] = []
        for line in reversed(self._due):
            most = BEGUN - BEGUN_LONGEST - len(begun)
            begun += line[:most]
            del line[:most]
        while len(begun) < BEGUN and (waiting := [line for line in self._due if line]):
            begun.append(min(waiting, key=lambda line: line[0].came_s).pop(0))
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
        """how long turns take that follow each other, with all that the loop does in them; what
        was so before the last pause says nothing"""

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
            self._since_s = self._turn_s = 0.0
            return
        loop = asyncio.get_running_loop()
        now = self._now()
        since_s = self._since_s
        if since_s:
            took_s = now - since_s
            self._turn_s += FOLLOW * (took_s - self._turn_s) if self._turn_s else took_s
        self._since_s = now
        self._left = 0
        try:
            for one in line.turn(since_s or self._first_s, now, self._turn_s):
                one.begin()
        finally:
            loop.call_soon(self._no)  # behind the batch of what has begun
            loop.call_soon(self._turn)

    def _no(self) -> None:
        for one, wait_s in self._line.turned_away():
            one.turn_away(wait_s)
