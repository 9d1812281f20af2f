"""What one process counts and measures, in memory it shares with the owner.

The memory outlives the process that writes it: after `kill -9` the owner still reads every count,
and the successor goes on in the same cells, so no counter falls. One process writes a board, any
number read it, nobody locks: a cell is eight bytes, and a reader may at worst see a count that is
one ahead of its sum. Not a history, and not a place for text: that is `watch/` and the log.

Layout: four header cells, a directory of series (JSON lines, appended; its length is written last,
so that readers never see half an entry), then the cells of the series.
"""

import mmap
import os
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import msgspec

from paceline.stats.sketch import CELLS as SKETCH_CELLS
from paceline.stats.sketch import Sketch
from paceline.terms.limits import SERIES_PER_PROCESS
from paceline.terms.measurement import Distribution, Measurement
from paceline.terms.metric import METRICS, SERIES_DROPPED, Metric

Cells: TypeAlias = "memoryview[float]"

QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)

_CELL_BYTES = 8
_DIRECTORY_BYTES = 128 * 1024
_BYTES = 2 * 1024 * 1024
_HEADER_CELLS = 4
_LENGTH, _USED, _DROPPED, _SCRATCH = range(_HEADER_CELLS)
_DIRECTORY_START = _HEADER_CELLS * _CELL_BYTES
_FIRST_CELL = _HEADER_CELLS + _DIRECTORY_BYTES // _CELL_BYTES

_BY_NAME = {metric.name: metric for metric in METRICS}


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One line of the directory: which series lives in the cells from `cell` on."""

    name: str
    labels: tuple[str, ...]
    cell: int


class Counter:
    """A number that only grows."""

    __slots__ = ("_cells", "_index")

    def __init__(self, cells: Cells, index: int) -> None:
        self._cells = cells
        self._index = index

    def add(self, amount: float = 1.0) -> None:
        self._cells[self._index] += amount


class Gauge(Counter):
    """A number that goes up and down."""

    __slots__ = ()

    def set(self, value: float) -> None:
        self._cells[self._index] = value


class Board:
    """The writer's and the readers' view of one shared memory; pages not written cost nothing."""

    def __init__(self, fd: int | None = None) -> None:
        """On the memory behind `fd` (see `make`), or on memory of its own."""
        self._bytes = memoryview(mmap.mmap(-1 if fd is None else fd, _BYTES))
        self._cells: Cells = self._bytes.cast("d")
        self._known: dict[tuple[str, tuple[str, ...]], int] = {}
        for entry in self._directory():
            self._known[entry.name, entry.labels] = entry.cell

    @staticmethod
    def make() -> int:
        """A file descriptor of fresh shared memory, for two processes to open a board on."""
        fd = os.memfd_create("paceline-board")
        os.ftruncate(fd, _BYTES)
        return fd

    @property
    def dropped(self) -> float:
        """How often a series found no room and its records went nowhere."""
        return float(self._cells[_DROPPED])

    def counter(self, metric: Metric, *labels: str) -> Counter:
        assert metric.kind == "counter", metric.name
        return Counter(self._cells, self._cell(metric, labels, 1))

    def gauge(self, metric: Metric, *labels: str) -> Gauge:
        assert metric.kind == "gauge", metric.name
        return Gauge(self._cells, self._cell(metric, labels, 1))

    def sketch(self, metric: Metric, *labels: str) -> Sketch:
        assert metric.kind == "sketch", metric.name
        first = self._cell(metric, labels, SKETCH_CELLS)
        if first == _SCRATCH:
            return Sketch([0.0] * SKETCH_CELLS)
        return Sketch(self._cells[first : first + SKETCH_CELLS])

    def series(self) -> Iterator[tuple[Metric, tuple[str, ...], Cells]]:
        for entry in self._directory():
            metric = _BY_NAME[entry.name]
            size = SKETCH_CELLS if metric.kind == "sketch" else 1
            yield metric, entry.labels, self._cells[entry.cell : entry.cell + size]

    def reset_gauges(self) -> None:
        """What a dead writer's gauges said is no longer so; called when its end is noticed."""
        for metric, _, cells in self.series():
            if metric.kind == "gauge":
                cells[0] = 0.0

    def _cell(self, metric: Metric, labels: tuple[str, ...], size: int) -> int:
        assert len(labels) == len(metric.labels), f"{metric.name} takes labels {metric.labels}"
        key = (metric.name, labels)
        if key in self._known:
            return self._known[key]
        first = int(self._cells[_USED]) or _FIRST_CELL
        length = int(self._cells[_LENGTH])
        line = msgspec.json.encode(Entry(metric.name, labels, first)) + b"\n"
        if (
            len(self._known) == SERIES_PER_PROCESS
            or (first + size) * _CELL_BYTES > _BYTES
            or length + len(line) > _DIRECTORY_BYTES
        ):
            self._cells[_DROPPED] += 1
            return _SCRATCH
        start = _DIRECTORY_START + length
        self._bytes[start : start + len(line)] = line
        self._cells[_USED] = first + size
        self._cells[_LENGTH] = length + len(line)
        self._known[key] = first
        return first

    def _directory(self) -> list[Entry]:
        end = _DIRECTORY_START + int(self._cells[_LENGTH])
        lines = bytes(self._bytes[_DIRECTORY_START:end]).splitlines()
        return [msgspec.json.decode(line, type=Entry) for line in lines]


def merged(boards: Iterable[Board], metric: Metric, labels: tuple[str, ...]) -> Sketch:
    """One sketch of all boards, on memory of its own."""
    whole = Sketch()
    for board in boards:
        for each, its_labels, cells in board.series():
            if each is metric and its_labels == labels:
                whole.merge(Sketch(cells))
    return whole


def read(boards: Iterable[Board]) -> list[Measurement]:
    """All boards as one: counters and gauges summed, sketches merged."""
    numbers: dict[tuple[Metric, tuple[str, ...]], float] = {(SERIES_DROPPED, ()): 0.0}
    sketches: dict[tuple[Metric, tuple[str, ...]], Sketch] = {}
    for board in boards:
        numbers[SERIES_DROPPED, ()] += board.dropped
        for metric, labels, cells in board.series():
            if metric.kind == "sketch":
                merged = sketches.setdefault((metric, labels), Sketch([0.0] * SKETCH_CELLS))
                merged.merge(Sketch(cells))
            else:
                numbers[metric, labels] = numbers.get((metric, labels), 0.0) + cells[0]
    measured = [Measurement(metric, labels, v) for (metric, labels), v in numbers.items()]
    for (metric, labels), sketch in sketches.items():
        if sketch.count:
            quantiles = tuple((q, at) for q in QUANTILES if (at := sketch.quantile(q)) is not None)
            value = Distribution(sketch.count, sketch.sum, quantiles)
            measured.append(Measurement(metric, labels, value))
    return measured
