"""The cells of quantile sketches as arrays: what came between two, added up, asked, packed.

The same arithmetic as `stats/sketch.py`, which records one value at a time and needs no numpy; here
whole sketches are the values, some of them each second. Pure. Called by `sampling.py`, `history.py`
and `rollup.py`.
"""

import struct
import zlib
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from paceline.observe.board import QUANTILES
from paceline.stats.sketch import (
    BUCKETS,
    CELLS,
    COUNT,
    FIRST,
    MAX,
    MIDDLE,
    MIN,
    OVER,
    RANGE_LOW,
    REFUSED,
    SUM,
    UNDER,
    WIDTH,
    Sketch,
)

Cells: TypeAlias = NDArray[np.float64]

MIDDLES = RANGE_LOW * np.exp((np.arange(UNDER, CELLS) - FIRST) * WIDTH) * MIDDLE
"""What the values of each bucket count as, UNDER and OVER included, which are never asked."""

ASKED = np.array(QUANTILES)

HEAD = struct.Struct("<4dHB")
"""Of a packed sketch: sum, smallest, largest, refused; the first bucket, bytes of a count."""

WIDTHS = (1, 2, 4, 8)
LAST_COUNT = 2.0**53


def empty() -> Cells:
    return np.zeros(CELLS)


def grown(before: Cells | None, after: Cells) -> Cells:
    """What `after` holds beyond `before`. Its smallest and largest value are known only as well as
    any quantile, and no better than those of the whole."""
    cells = after.copy()
    if before is None:
        cells[COUNT] = cells[UNDER:].sum()
        return cells
    cells[SUM] -= before[SUM]
    cells[REFUSED] -= before[REFUSED]
    counts = cells[UNDER:]
    counts -= before[UNDER:]
    filled = np.flatnonzero(counts > 0)
    cells[COUNT] = counts.sum()
    if len(filled):
        first, last = int(filled[0]), int(filled[-1])
        if first:
            cells[MIN] = max(after[MIN], MIDDLES[first])
        if last < OVER - UNDER:
            cells[MAX] = min(after[MAX], MIDDLES[last])
    return cells


def add(cells: Cells, other: Cells) -> None:
    """To the first, all that the second holds."""
    if other[COUNT]:
        first = not cells[COUNT]
        cells[MIN] = other[MIN] if first else min(cells[MIN], other[MIN])
        cells[MAX] = other[MAX] if first else max(cells[MAX], other[MAX])
    cells[UNDER:] += other[UNDER:]
    for cell in (COUNT, SUM, REFUSED):
        cells[cell] += other[cell]


def quantiles(cells: Cells, asked: NDArray[np.float64] = ASKED) -> NDArray[np.float64] | None:
    """As `Sketch.quantiles` has them; None where there is no value."""
    counts = cells[UNDER:]
    filled = counts.nonzero()[0]
    if not len(filled):
        return None
    reached = counts[filled].cumsum()
    total = reached[-1]
    positions = np.floor(asked * (total - 1))
    buckets = filled[reached.searchsorted(positions, side="right")]
    values: NDArray[np.float64] = np.minimum(np.maximum(MIDDLES[buckets], cells[MIN]), cells[MAX])
    lowest = (positions == 0) | (buckets == 0)
    values[lowest] = cells[MIN]
    values[~lowest & ((positions == total - 1) | (buckets > BUCKETS))] = cells[MAX]
    return values


def as_sketch(cells: Cells) -> Sketch:
    """On the same memory."""
    return Sketch(memoryview(cells.data))


def pack(cells: Cells) -> bytes:
    """Exactly, in some 200 bytes where the values span a decade. A count beyond what doubles can
    count by ones is told as the last one that they can."""
    counts = np.minimum(cells[UNDER:], LAST_COUNT)
    filled = np.flatnonzero(counts)
    if not len(filled):
        return HEAD.pack(cells[SUM], cells[MIN], cells[MAX], cells[REFUSED], 0, 1)
    first, last = int(filled[0]), int(filled[-1])
    most = int(counts[first : last + 1].max())
    width = next(each for each in WIDTHS if most < 1 << 8 * each)
    told = counts[first : last + 1].astype(f"<u{width}").tobytes()
    head = HEAD.pack(cells[SUM], cells[MIN], cells[MAX], cells[REFUSED], first, width)
    return head + zlib.compress(told, 1)


def unpack(packed: bytes) -> Cells:
    cells = empty()
    total, low, high, refused, first, width = HEAD.unpack_from(packed)
    cells[SUM], cells[MIN], cells[MAX], cells[REFUSED] = total, low, high, refused
    if len(packed) > HEAD.size:
        counts = np.frombuffer(zlib.decompress(packed[HEAD.size :]), f"<u{width}")
        start = UNDER + first
        cells[start : start + len(counts)] = counts
        cells[COUNT] = counts.sum(dtype=np.float64)
    return cells
