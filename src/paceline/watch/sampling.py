"""Two readings of the boards, and what happened between them.

A Reading is everything that all boards say at one moment, added up over the processes; `between`
makes of two of them what was added (counters, sketches) and what is (gauges). Boards outlive the
processes that write them, so no counter falls. Reading a board costs what has changed in it: places
of series are learnt once, and a sketch whose head says the same is not read again. It keeps no
past: `history.py` does. Called by `watcher.py`, each second.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paceline.observe.board import Board
from paceline.stats.sketch import CELLS, COUNT, MAX, MIN, REFUSED, UNDER
from paceline.terms.measurement import Distribution, Measurement
from paceline.terms.metric import (
    BUILD,
    COST,
    FRONT_RESTARTS,
    LAST_RUN,
    MODEL_INFO,
    SERIES_DROPPED,
    STARTED,
)
from paceline.watch.cells import Cells, add, grown
from paceline.watch.names import BY_NAME, Names

Numbers = NDArray[np.float64]

LEFT_OUT = frozenset(each.name for each in (BUILD, LAST_RUN, MODEL_INFO, STARTED))
"""They say what is, not how it goes."""

OWN = frozenset({FRONT_RESTARTS.name, COST.name})
"""What no board has, and yet is counted from nothing when a server starts: a front may die before
the first look, and the machine costs something from the first second on."""


class Reading(NamedTuple):
    """`values` and `sketches` are by the numbers of `Names`; a sketch is 0 among the values."""

    at_s: float
    wall_s: float
    values: Numbers
    heads: Numbers
    """of sketches, how much they took in: what tells whether one has changed"""
    sketches: dict[int, Cells]


class Happened(NamedTuple):
    """Between two readings: `values` are what counters grew by and what gauges say, by number;
    `grown` is what sketches took in, of those that took in something."""

    at_s: float
    wall_s: float
    """at the later one"""
    lasted_s: float
    values: Numbers
    grown: dict[int, Cells]


class _Places:
    """Of one board: in which cells lie the series of which numbers."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.cells: NDArray[np.float64] = np.asarray(board.memory)
        self.known = 0
        self.at = np.zeros(0, dtype=np.intp)
        self.numbers = np.zeros(0, dtype=np.intp)
        self.sketch_at = np.zeros(0, dtype=np.intp)
        self.sketch_numbers = np.zeros(0, dtype=np.intp)

    def learn(self, names: Names) -> None:
        places = self.board.places()
        if len(places) == self.known:
            return
        found: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        for (name, labels), cell in places.items():
            if name not in LEFT_OUT:
                metric = BY_NAME[name]
                number = names.number(metric, labels)
                if number >= 0:
                    found[metric.kind == "sketch"].append((cell, number))
        self.at, self.numbers = _columns(found[False])
        self.sketch_at, self.sketch_numbers = _columns(found[True])
        self.known = len(places)


class Reader:
    """Reads the same boards again and again."""

    def __init__(self, boards: Iterable[Board], names: Names) -> None:
        self._names = names
        self._places = [_Places(board) for board in boards]
        self._dropped = names.number(SERIES_DROPPED, ())

    def read(
        self,
        at_s: float,
        wall_s: float,
        others: Iterable[Measurement],
        before: Reading | None = None,
    ) -> Reading:
        """`others` are what boards do not have. What has not changed since `before` is shared."""
        told = []
        for each in others:
            if not isinstance(each.value, Distribution) and each.metric.name not in LEFT_OUT:
                number = self._names.number(each.metric, each.labels)
                if number >= 0:
                    told.append((number, each.value))
        for places in self._places:
            places.learn(self._names)
        values, heads = np.zeros(len(self._names)), np.zeros(len(self._names))
        for places in self._places:
            values[places.numbers] += places.cells[places.at]
            heads[places.sketch_numbers] += (
                places.cells[places.sketch_at + COUNT] + places.cells[places.sketch_at + REFUSED]
            )
        for number, value in told:
            values[number] += value
        if self._dropped >= 0:
            values[self._dropped] += sum(places.board.dropped for places in self._places)
        sketches = {} if before is None else dict(before.sketches)
        changed = heads.copy()
        if before is not None:
            changed[: len(before.heads)] -= before.heads
        wanted = np.flatnonzero(changed)
        if len(wanted):
            sketches |= self._sketches({int(number) for number in wanted})
        return Reading(at_s, wall_s, values, heads, sketches)

    def _sketches(self, wanted: set[int]) -> dict[int, Cells]:
        """Of all boards together. Smallest and largest are read after the buckets, which the writer
        fills later; the count is that of the buckets."""
        found: dict[int, Cells] = {}
        for places in self._places:
            pairs = zip(places.sketch_at.tolist(), places.sketch_numbers.tolist(), strict=True)
            for at, number in pairs:
                if number not in wanted:
                    continue
                cells = places.cells[at : at + CELLS].copy()
                cells[MIN], cells[MAX] = places.cells[at + MIN], places.cells[at + MAX]
                cells[COUNT] = cells[UNDER:].sum()
                if number in found:
                    add(found[number], cells)
                else:
                    found[number] = cells
        return found


def between(names: Names, before: Reading, after: Reading) -> Happened:
    """A series that is new has grown from nothing. A counter that fell all the same has not
    grown: what it lost was never there to be added."""
    values = after.values.copy()
    grows = names.grows[: len(values)]
    earlier = np.zeros(len(values))
    earlier[: len(before.values)] = before.values
    values[grows] -= earlier[grows]
    np.maximum(values, 0.0, out=values, where=grows)
    took = {}
    for number, cells in after.sketches.items():
        known = before.sketches.get(number)
        if known is not cells:
            took[number] = grown(known, cells)
    return Happened(after.at_s, after.wall_s, after.at_s - before.at_s, values, took)


def first(at_s: float, wall_s: float, seen: Reading, own: Reading) -> Reading:
    """What the first one is compared with, where `own` is what boards and those in OWN say: they
    began with this server and are counted from nothing. What others say of the time before is not
    its own."""
    values = seen.values - own.values
    return Reading(at_s, wall_s, values, np.zeros(len(values)), {})


def _columns(pairs: Sequence[tuple[int, int]]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    both = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    return both[:, 0], both[:, 1]
