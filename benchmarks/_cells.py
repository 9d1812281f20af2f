"""What a long benchmark has measured so far, cell by cell in one file, so that it can be resumed.

A cell is named by its key; a new one replaces the old. Called by `serving` and `goodput`.
"""

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks._quiet import DISTURBED


class Key(NamedTuple):
    run: int
    contender: str
    model: str
    what: str
    """`throughput`, `start`, `memory`, `answers`, `limit`, `open loop`, `goodput`, `absent`"""
    form: str = ""
    level: str = ""


class Cell(msgspec.Struct, frozen=True):
    run: int
    contender: str
    model: str
    what: str
    form: str
    level: str
    figures: dict[str, float]
    foreign: float = 0.0
    stolen: float = 0.0
    attempts: int = 1
    note: str = ""

    @property
    def key(self) -> Key:
        return Key(self.run, self.contender, self.model, self.what, self.form, self.level)

    @property
    def is_disturbed(self) -> bool:
        return self.foreign + self.stolen > DISTURBED


class Cells:
    """Reads and writes its file as a whole: a stop in between leaves the old one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cells: dict[Key, Cell] = {}
        if path.exists():
            read = msgspec.json.decode(path.read_bytes(), type=list[Cell])
            self._cells = {each.key: each for each in read}

    def __contains__(self, key: Key) -> bool:
        return key in self._cells

    def add(self, cell: Cell) -> None:
        self._cells[cell.key] = cell
        self._save()

    def discard(self, unwanted: Callable[[Key], bool]) -> None:
        self._cells = {key: each for key, each in self._cells.items() if not unwanted(key)}
        self._save()

    def every(self) -> list[Cell]:
        return sorted(self._cells.values(), key=lambda each: each.key)

    def samples(
        self, figure: str, contender: str, model: str, what: str, form: str = "", level: str = ""
    ) -> dict[int, float]:
        """By run."""
        wanted = (contender, model, what, form, level)
        return {
            key.run: cell.figures[figure]
            for key, cell in sorted(self._cells.items())
            if key[1:] == wanted and figure in cell.figures
        }

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_suffix(".unfinished")
        text = msgspec.json.format(msgspec.json.encode(self.every()), indent=1)
        unfinished.write_bytes(text + b"\n")
        unfinished.replace(self._path)


def ratios(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    """Run by run, where both were measured: what both suffered from cancels out."""
    return [ours[run] / theirs[run] for run in sorted(ours) if theirs.get(run)]


def median(values: Iterable[float]) -> float | None:
    listed = list(values)
    return statistics.median(listed) if listed else None
