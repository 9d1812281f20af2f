"""Where the past in memory lies: steps of one length in arrays, whole distributions of one length,
and which of them say what a window was.

Knows nothing of what is counted, and decides nothing but what is too old. Called by `history.py`.
"""

import mmap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paceline.observe.board import QUANTILES
from paceline.terms.limits import HISTORY_SERIES, HISTORY_SKETCHES
from paceline.watch.cells import pack
from paceline.watch.rollup import together

STATS = 3 + len(QUANTILES)
"""Of a distribution in one step: count, sum, largest, quantiles."""

NONE = -1


class Table:
    """Rows of numbers, in memory that the system gives page by page, when it is written to."""

    def __init__(self, rows: int, steps: int, dtype: type, depth: int = 1) -> None:
        size = np.dtype(dtype).itemsize * rows * steps * depth
        shape = (rows, steps) if depth == 1 else (rows, steps, depth)
        self.cells: NDArray[Any] = np.frombuffer(mmap.mmap(-1, size), dtype).reshape(shape)


class Tier:
    """Steps of one length. `at` says which step is in each place, by its number."""

    def __init__(self, size_s: int, steps: int, dtype: type) -> None:
        self.size_s = size_s
        self.steps = steps
        self.at = np.full(steps, NONE, dtype=np.int64)
        self.known_s = np.zeros(steps)
        self.wall_s = np.zeros(steps)
        self.sums_up = size_s > 1
        """of a second the mean and the largest are the value itself"""
        self.values = Table(HISTORY_SERIES, steps, dtype).cells
        self.stats = Table(HISTORY_SKETCHES, steps, np.float32, STATS).cells
        if self.sums_up:
            self.sums = Table(HISTORY_SERIES, steps, np.float32).cells
            self.largest = Table(HISTORY_SERIES, steps, np.float32).cells
        self.first = NONE
        """the oldest step there is, in seconds"""
        self.rows = 0
        self.stat_rows = 0

    def place(self, step: int, wall_s: float) -> int:
        """Of a step, made empty where another one was."""
        place = step % self.steps
        if self.at[place] != step:
            if self.at[place] != NONE:
                self.values[: self.rows, place] = 0
                self.stats[: self.stat_rows, place] = 0
                if self.sums_up:
                    self.sums[: self.rows, place] = 0
                    self.largest[: self.rows, place] = 0
            self.at[place] = step
            self.known_s[place] = 0.0
            self.wall_s[place] = wall_s
            begin = step * self.size_s
            if self.first == NONE or begin < self.first:
                self.first = begin
        return place

    def began(self, end: int) -> int:
        """The oldest second that is known of it, where `end` is the one that comes next."""
        newest = (end - 1) // self.size_s
        return max(self.first, (newest - self.steps + 1) * self.size_s)

    def places(self, low: int, high: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of the steps with a share in these seconds: number and place of those that are known."""
        steps = np.arange(low // self.size_s, (high - 1) // self.size_s + 1)
        places = steps % self.steps
        there = self.at[places] == steps
        return steps[there], places[there]


class Packs:
    """Whole distributions, each of a stretch of one length."""

    def __init__(self, size_s: int, most: int) -> None:
        self.size_s = size_s
        self.most = most
        self.of: dict[int, dict[int, bytes]] = {}
        """by step, then by series"""
        self.bytes = 0
        self.dropped = False

    def put(self, step: int, number: int, packed: bytes) -> None:
        there = self.of.setdefault(step, {})
        if number in there:
            self.bytes -= len(there[number])
            packed = pack(together((there[number], packed)))
        there[number] = packed
        self.bytes += len(packed)
        while len(self.of) > self.most:
            self.drop()

    def drop(self) -> None:
        """The oldest step."""
        self.dropped = True
        oldest = self.of.pop(min(self.of))
        self.bytes -= sum(map(len, oldest.values()))

    @property
    def first(self) -> int:
        return min(self.of) * self.size_s if self.of else NONE


class Part(NamedTuple):
    """Of a window: the seconds from `low` on, before `high`, as tier `tier` has them."""

    tier: int
    low: int
    high: int


def covered(
    begin: float,
    end: int,
    firsts: Sequence[int],
    sizes: Sequence[int],
    wholes: Sequence[bool] = (),
) -> Iterator[Part]:
    """`firsts` are from where on each length of steps is known; the finest come first. Where a
    coarser one knows more, the finer one begins where one of its steps does. `wholes` says of which
    nothing was dropped yet: there the step in which it began knows no more."""
    wholes = wholes or [False] * len(firsts)
    high = end
    low = int(begin // 1)
    for index, first in enumerate(firsts):
        if first == NONE or first >= high:
            continue
        begins = max(low, first)
        further = []
        for other in range(index + 1, len(firsts)):
            size_s = sizes[other]
            known = begins // size_s * size_s if wholes[index] else begins
            if firsts[other] != NONE and firsts[other] < known:
                further.append(size_s)
        if begins > low and further:
            begins = -(-begins // further[0]) * further[0]
            if begins >= high:
                continue
        yield Part(index, begins, high)
        high = begins
        if high <= low or (wholes[index] and not further):
            return
