"""A quantile sketch: what a million values looked like, in 11 kB, to within one per cent.

Values fall into buckets whose borders grow by a constant factor (the idea of DDSketch, Masson et
al., VLDB 2019), here over a fixed range, so a sketch is nothing but `CELLS` numbers. Those numbers
may live anywhere: a list, an array, or memory shared between processes, where a reader still finds
what a killed writer had recorded. There is no state beside the cells; cells full of zeros are an
empty sketch. One writer per sketch, any number of readers.

It is not exact, and not a window over time: it only grows. Called by `observe/` for everything that
is timed or sized. Layout, error bound and rejected designs: docs/design/sketch.md.
"""

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, compress
from typing import Protocol

RELATIVE_ERROR = 0.01
"""No quantile inside the range is further from the true one than this share of it."""

RANGE_LOW = 1e-7
RANGE_HIGH = 1e5
"""Seconds: from a tenth of a microsecond to a day. Choose other units so that values fit."""

# The cells: a header, then one cell per bucket in rising order, UNDER first and OVER last.
COUNT, SUM, MIN, MAX, REFUSED, UNDER = range(6)
FIRST = UNDER + 1
BUCKETS = 1401
OVER = FIRST + BUCKETS
CELLS = OVER + 1
"""1408 cells of 8 bytes are whole cache lines: aligned neighbours in shared memory share none."""

# Bucket i spans RANGE_LOW * exp(i * WIDTH) to RANGE_LOW * exp((i + 1) * WIDTH) and stands for the
# value of which both are equally wrong: by tanh(WIDTH / 2) = 0.986 %. What is left of one per cent
# pays for rounding, and for the millionth of a bucket that keeps both ends out of UNDER and OVER.
SPARE = 1e-6
WIDTH = math.log(RANGE_HIGH / RANGE_LOW) / (BUCKETS - 2 * SPARE)
MIDDLE = 2 / (1 + math.exp(-WIDTH))

_PER_LOG = 1 / WIDTH
_OFFSET = FIRST + SPARE - math.log(RANGE_LOW) / WIDTH
_log = math.log


class Cells(Protocol):
    """A mutable sequence of floats: `list`, `array('d')`, or a `memoryview` cast to 'd'."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[float]: ...
    def __getitem__(self, index: int, /) -> float: ...
    def __setitem__(self, index: int, value: float, /) -> None: ...


class Sketch:
    """A reading and writing hand on `CELLS` numbers; two hands on the same cells are the same."""

    __slots__ = ("_cells",)

    def __init__(self, cells: Cells | None = None) -> None:
        if cells is None:
            cells = array("d", bytes(8 * CELLS))
        assert len(cells) == CELLS, f"a sketch has {CELLS} cells, not {len(cells)}"
        if isinstance(cells, memoryview):
            assert cells.format == "d", f"cast the memory to 'd', not {cells.format!r}"
        self._cells = cells

    def record(self, value: float, times: int = 1) -> None:
        """Count `value`, once or for a whole batch.

        The hot path is written out in one piece. Its order is for a reader in another process, and
        for one that outlives this process: whatever a bucket holds already lies within min and max.
        """
        if RANGE_LOW <= value < RANGE_HIGH and times > 0:
            cells = self._cells
            count = cells[COUNT]
            if count:
                if value < cells[MIN]:
                    cells[MIN] = value
                elif value > cells[MAX]:
                    cells[MAX] = value
            else:
                cells[MIN] = cells[MAX] = value
            cells[int(_log(value) * _PER_LOG + _OFFSET)] += times
            cells[SUM] += value * times
            cells[COUNT] = count + times
        else:
            self._record_unusual(value, times)

    def record_all(self, values: Sequence[float]) -> None:
        """Count each of them once, for half of what `record` takes of each where there are many."""
        if not values:
            return
        low, high, total = min(values), max(values), sum(values)
        if not (low >= RANGE_LOW and high < RANGE_HIGH and total > 0.0):
            for value in values:  # the last of the three asks for NaN, which has no place in order
                self.record(value)
            return
        cells = self._cells
        count = cells[COUNT]
        if not count or low < cells[MIN]:
            cells[MIN] = low
        if high > cells[MAX]:
            cells[MAX] = high
        for value in values:
            cells[int(_log(value) * _PER_LOG + _OFFSET)] += 1
        cells[SUM] += total
        cells[COUNT] = count + len(values)

    def _record_unusual(self, value: float, times: int) -> None:
        """Outside the range, no value at all, or no times: counted apart, never lost or mixed in.

        Telemetry must not fail the request it watches, so a bad value is counted as refused; a
        negative number of times is a bug in the caller.
        """
        assert times >= 0, f"a value cannot be recorded {times} times: counts never fall"
        if times <= 0:
            return
        cells = self._cells
        if not 0 <= value < math.inf:  # negative, infinite, or NaN (which compares false)
            cells[REFUSED] += times
            return
        first = not cells[COUNT]
        if first or value < cells[MIN]:
            cells[MIN] = value
        if first or value > cells[MAX]:
            cells[MAX] = value
        cells[UNDER if value < RANGE_LOW else OVER] += times
        cells[SUM] += value * times
        cells[COUNT] += times

    @property
    def count(self) -> int:
        return int(self._cells[COUNT])

    @property
    def sum(self) -> float:
        return self._cells[SUM]

    @property
    def refused(self) -> int:
        """How many values were negative, infinite or NaN; they are in no other number here."""
        return int(self._cells[REFUSED])

    @property
    def min(self) -> float | None:
        return self._cells[MIN] if self._cells[COUNT] else None

    @property
    def max(self) -> float | None:
        return self._cells[MAX] if self._cells[COUNT] else None

    @property
    def untouched(self) -> bool:
        """Nothing was ever recorded. Asks the header alone: whatever a bucket holds lies within min
        and max, and where both are 0 it is in the first one."""
        cells = self._cells
        return not (cells[COUNT] or cells[MAX] or cells[REFUSED] or cells[UNDER])

    def quantile(self, q: float) -> float | None:
        """The value at position floor(q * (count - 1)) of all values in order; None if there are
        none.

        Within `RELATIVE_ERROR` inside the range, exact at both ends. Below the range it is the
        smallest value seen, too little by `RANGE_LOW` at most; above it the largest one seen.
        """
        return self.quantiles((q,))[0]

    def quantiles(self, qs: Sequence[float]) -> list[float | None]:
        """Each of them, of one and the same moment."""
        cells = _copied(self._cells)
        # Counted from the buckets, not the header: they cannot disagree with themselves.
        reached = list(accumulate(cells[UNDER:]))
        return [_at(cells, reached, q) for q in qs]

    def above(self, bound: float) -> int:
        """How many values were larger, but for those within `RELATIVE_ERROR` of the bound, which
        count as what most of their bucket is."""
        cells = _copied(self._cells)
        if bound < RANGE_LOW:
            return int(sum(cells[FIRST:]))
        if bound >= RANGE_HIGH:
            return int(cells[OVER])
        cell = int(_log(bound) * _PER_LOG + _OFFSET)
        return int(sum(cells[cell if _middle(cell) > bound else cell + 1 :]))

    def merge(self, other: "Sketch") -> None:
        """Add all that `other` holds.

        Counts are whole numbers below 2**53 in floats, so counts and quantiles come out the same
        in any order and grouping; `sum` does up to the rounding of float addition.
        """
        theirs = _copied(other._cells)
        # A writer may have been killed between bucket and header: the buckets are the truth.
        count = sum(theirs[UNDER:])
        cells = self._cells
        if count:
            first = not cells[COUNT]
            cells[MIN] = theirs[MIN] if first else min(cells[MIN], theirs[MIN])
            cells[MAX] = theirs[MAX] if first else max(cells[MAX], theirs[MAX])
        for cell in compress(range(UNDER, CELLS), theirs[UNDER:]):
            cells[cell] += theirs[cell]
        cells[REFUSED] += theirs[REFUSED]
        cells[SUM] += theirs[SUM]
        cells[COUNT] += count

    def since(self, earlier: "Sketch") -> "Sketch":
        """What came after `earlier` was taken of this sketch. Its smallest and largest value are
        known only as well as any quantile, and no better than those of the whole."""
        cells, before = _copied(self._cells), _copied(earlier._cells)
        low, high = cells[MIN], cells[MAX]
        for cell in (REFUSED, SUM, *range(UNDER, CELLS)):
            cells[cell] -= before[cell]
        counts = cells[UNDER:]
        cells[COUNT] = sum(counts)
        filled = [cell for cell, count in enumerate(counts, UNDER) if count > 0]
        if filled:
            cells[MIN] = low if filled[0] == UNDER else max(low, _middle(filled[0]))
            cells[MAX] = high if filled[-1] == OVER else min(high, _middle(filled[-1]))
        return Sketch(cells)

    def snapshot(self) -> "Sketch":
        """What it holds now, on memory of its own that nobody can write to."""
        return Sketch(memoryview(_copied(self._cells).tobytes()).cast("d"))


def _at(cells: "array[float]", reached: list[float], q: float) -> float | None:
    assert 0 <= q <= 1, f"a quantile lies between 0 and 1, not at {q}"
    total = reached[-1]
    if not total:
        return None
    position = math.floor(q * (total - 1))
    cell = UNDER + bisect_right(reached, position)
    if position == 0 or cell == UNDER:
        return cells[MIN]
    if position == total - 1 or cell == OVER:
        return cells[MAX]
    return min(max(_middle(cell), cells[MIN]), cells[MAX])


def _middle(cell: int) -> float:
    """What a bucket's values count as."""
    return RANGE_LOW * math.exp((cell - FIRST) * WIDTH) * MIDDLE


def _copied(cells: Cells) -> "array[float]":
    """All cells in one go, while a writer in another process may move on. Min and max are read
    again afterwards, because they are written before the buckets: so they bound what was copied."""
    copy = array("d", cells.tobytes() if isinstance(cells, array | memoryview) else cells)
    copy[MIN], copy[MAX] = cells[MIN], cells[MAX]
    return copy
