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
    __slots__ = ("_at", "_slice_s", "_slices", "_total")

    def __init__(self, window_s: float) -> None:
        assert 0 < window_s < math.inf, f"a window is a positive time, not {window_s} s"
        self._slice_s = window_s / SLICES
        self._slices = [0] * (SLICES + 1)
        self._at = 0
        self._total = 0

    def add(self, now: float) -> None:
        at = int(now // self._slice_s)
        if at > self._at:
            self._move_to(at)
        self._slices[self._at % (SLICES + 1)] += 1
        self._total += 1

    def total(self, now: float) -> int:
        at = int(now // self._slice_s)
        if at > self._at:
            self._move_to(at)
        return self._total

    def clear(self) -> None:
        self._slices = [0] * (SLICES + 1)
        self._total = 0

    def _move_to(self, at: int) -> None:
        for passed in range(max(self._at, at - SLICES - 1) + 1, at + 1):
            place = passed % (SLICES + 1)
            self._total -= self._slices[place]
            self._slices[place] = 0
        self._at = at
