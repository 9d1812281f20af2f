"""A stretch of the past as it is kept: a minute, an hour, a day; and several of them as one.

Pure. Counts and sums of a longer time are those of its parts added up, its quantiles those of their
sketches merged: never a mean of quantiles. Called by `history.py`, which finishes minutes, and by
`store.py`, which makes hours and days of them as they come.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from paceline.terms.limits import (
    METRICS_DAYS_KEPT_S,
    METRICS_HOURS_KEPT_S,
    METRICS_MINUTES_KEPT_S,
)
from paceline.watch.cells import Cells, add, pack, unpack
from paceline.watch.names import Names

MINUTE, HOUR, DAY = 60, 3600, 86400

LASTING: Mapping[int, float] = {
    MINUTE: METRICS_MINUTES_KEPT_S,
    HOUR: METRICS_HOURS_KEPT_S,
    DAY: METRICS_DAYS_KEPT_S,
}
"""How long stretches of each length are kept."""

VALUE, SUM, LARGEST = range(3)
COLUMNS = 3


class Kept(msgspec.Struct, frozen=True):
    """`values` has a row for each of `numbers`: what a counter grew by or a gauge said last; of a
    gauge, value times time; the largest, of a counter in one second. `packs` are what sketches took
    in. Numbers are those of `Names`, in rising order."""

    size_s: int
    began_s: float
    """by the wall clock, a multiple of its size"""
    known_s: float
    """how much of it was seen"""
    numbers: NDArray[np.intp]
    values: NDArray[np.float64]
    packs: dict[int, bytes]


def label(size_s: int, wall_s: float) -> float:
    """When the stretch began, as a multiple of its size, in which lies a moment of the wall
    clock."""
    return float(wall_s // size_s * size_s)


def merged(names: Names, size_s: int, began_s: float, parts: Sequence[Kept]) -> Kept:
    """The parts in the order of time: of gauges the last one says how it ended."""
    numbers = np.unique(np.concatenate([part.numbers for part in parts]))
    values = np.zeros((len(numbers), COLUMNS))
    grows = names.grows[numbers]
    for part in parts:
        rows = np.searchsorted(numbers, part.numbers)
        adds = grows[rows]
        values[rows[adds], VALUE] += part.values[adds, VALUE]
        values[rows[~adds], VALUE] = part.values[~adds, VALUE]
        values[rows, SUM] += part.values[:, SUM]
        values[rows, LARGEST] = np.maximum(values[rows, LARGEST], part.values[:, LARGEST])
    packed: dict[int, list[bytes]] = {}
    for part in parts:
        for number, each in part.packs.items():
            packed.setdefault(number, []).append(each)
    packs = {
        number: several[0] if len(several) == 1 else pack(together(several))
        for number, several in packed.items()
    }
    return Kept(size_s, began_s, sum(part.known_s for part in parts), numbers, values, packs)


def together(packs: Iterable[bytes]) -> Cells:
    """What several sketches took in, as one."""
    first, *others = packs
    cells = unpack(first)
    for each in others:
        add(cells, unpack(each))
    return cells
