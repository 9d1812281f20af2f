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
_DIRECTORY_BYTES = 1024 * 1024
_BYTES = 8 * 1024 * 1024
_HEADER_CELLS = 4
_LENGTH, _USED, _DROPPED, _SCRATCH = range(_HEADER_CELLS)
_DIRECTORY_START = _HEADER_CELLS * _CELL_BYTES
_FIRST_CELL = _HEADER_CELLS + _DIRECTORY_BYTES // _CELL_BYTES

_BY_NAME = {metric.name: metric for metric in METRICS}

_Key: TypeAlias = tuple[str, tuple[str, ...]]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One line of the directory: which series lives in the cells from `cell` on."""

    name: str
    labels: tuple[str, ...]
    cell: int


_entry = msgspec.json.Decoder(Entry)


class Counter:
    """A number that only grows: `cell[0]`, for those who count at every request."""

    __slots__ = ("cell",)

    def __init__(self, cells: Cells, index: int) -> None:
        self.cell = cells[index : index + 1]

    def add(self, amount: float = 1.0) -> None:
        self.cell[0] += amount


class Gauge(Counter):
    """A number that goes up and down."""

    __slots__ = ()

    def set(self, value: float) -> None:
        self.cell[0] = value


class Board:
    """The writer's and the readers' view of one shared memory; pages not written cost nothing."""

    def __init__(self, fd: int | None = None) -> None:
        """On the memory behind `fd` (see `make`), or on memory of its own."""
        self._bytes = memoryview(mmap.mmap(-1 if fd is None else fd, _BYTES))
        self._cells: Cells = self._bytes.cast("d")
        self._known: dict[_Key, int] = {}
        self._known_bytes = 0
        """of the directory; it only grows, so the rest is all that is read again"""
        self._learn()

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
        self._learn()
        for (name, labels), cell in list(self._known.items()):
            metric = _BY_NAME[name]
            size = SKETCH_CELLS if metric.kind == "sketch" else 1
            yield metric, labels, self._cells[cell : cell + size]

    def cells_of(self, metric: Metric, labels: tuple[str, ...]) -> "Cells | None":
        """None where nobody has recorded it."""
        self._learn()
        cell = self._known.get((metric.name, labels))
        size = SKETCH_CELLS if metric.kind == "sketch" else 1
        return None if cell is None else self._cells[cell : cell + size]

    def reset_gauges(self) -> None:
        """What a dead writer's gauges said is no longer so; called when its end is noticed."""
        for metric, _, cells in self.series():
            if metric.kind == "gauge":
                cells[0] = 0.0

    def _cell(self, metric: Metric, labels: tuple[str, ...], size: int) -> int:
        assert len(labels) == len(metric.labels), f"{metric.name} takes labels {metric.labels}"
        key = (metric.name, labels)
        self._learn()
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
        self._known_bytes = length + len(line)
        return first

    def _learn(self) -> None:
        """What the directory says beyond what is known."""
        length = int(self._cells[_LENGTH])
        if length > self._known_bytes:
            start, end = _DIRECTORY_START + self._known_bytes, _DIRECTORY_START + length
            for line in bytes(self._bytes[start:end]).splitlines():
                entry = _entry.decode(line)
                self._known[entry.name, entry.labels] = entry.cell
            self._known_bytes = length


def merged(boards: Iterable[Board], metric: Metric, labels: tuple[str, ...]) -> Sketch:
    """One sketch of all boards, on memory of its own."""
    whole = Sketch()
    for board in boards:
        cells = board.cells_of(metric, labels)
        if cells is not None:
            whole.merge(Sketch(cells))
    return whole


def read(boards: Iterable[Board]) -> list[Measurement]:
    """All boards as one: counters and gauges summed, sketches merged."""
    numbers: dict[_Key, float] = {(SERIES_DROPPED.name, ()): 0.0}
    sketches: dict[_Key, list[Sketch]] = {}
    for board in boards:
        numbers[SERIES_DROPPED.name, ()] += board.dropped
        for metric, labels, cells in board.series():
            key = (metric.name, labels)
            if metric.kind != "sketch":
                numbers[key] = numbers.get(key, 0.0) + cells[0]
            elif not (sketch := Sketch(cells)).untouched:
                sketches.setdefault(key, []).append(sketch)
    measured = [Measurement(_BY_NAME[name], labels, v) for (name, labels), v in numbers.items()]
    for (name, labels), several in sketches.items():
        whole = Sketch()
        for sketch in several:
            whole.merge(sketch)
        if whole.count:
            quantiles = zip(QUANTILES, whole.quantiles(QUANTILES), strict=True)
            known = tuple((q, at) for q, at in quantiles if at is not None)
            value = Distribution(whole.count, whole.sum, known)
            measured.append(Measurement(_BY_NAME[name], labels, value))
    return measured
