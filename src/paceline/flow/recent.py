"""How often something happened lately: a count over a sliding window. Pure.

The window moves in tenths. What is counted at `now` is all of the last `window_s`, exactly, and of
the tenth before it as much as lies in the same slice of time: so nothing is forgotten too early,
which is the side on which a breaker and a retry budget must err. The slice of a moment follows from
the moment alone, hence nothing drifts. Time that goes back counts as time that stands still.

Cost and memory do not grow with what is counted. Called by `breaker.py` and `retry.py`.
"""

import math

SLICES = 10


class RecentCount:
    __slots__ = ("_at", "_ends_s", "_here", "_slice_s", "_slices", "_total")

    def __init__(self, window_s: float) -> None:
        assert 0 < window_s < math.inf, f"a window is a positive time, not {window_s} s"
        self._slice_s = window_s / SLICES
        self._slices = [0] * (SLICES + 1)
        """of those before the present one, how many in each"""
        self._at = 0
        self._ends_s = 0.0
        """before it, a moment lies in the present slice"""
        self._here = 0
        """how many in the present slice"""
        self._total = 0
        """how many in those before it"""

    def add(self, now: float) -> None:
        if now >= self._ends_s:
            self._move(now)
        self._here += 1

    def total(self, now: float) -> int:
        if now >= self._ends_s:
            self._move(now)
        return self._total + self._here

    def clear(self) -> None:
        self._slices = [0] * (SLICES + 1)
        self._here = self._total = 0

    def _move(self, now: float) -> None:
        at = int(now // self._slice_s)
        if at <= self._at and self._ends_s:
            return  # the very end of a slice, as floats go
        self._slices[self._at % (SLICES + 1)] += self._here
        self._total += self._here
        self._here = 0
        for passed in range(max(self._at, at - SLICES - 1) + 1, at + 1):
            place = passed % (SLICES + 1)
            self._total -= self._slices[place]
            self._slices[place] = 0
        self._at = max(self._at, at)
        # Never later than where it ends: whether a moment lies in it, the division says.
        self._ends_s = math.nextafter((self._at + 1) * self._slice_s, -math.inf)
