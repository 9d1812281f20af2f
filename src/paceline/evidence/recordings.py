"""A trace file, read: CSV or CSV.gz to columns of numbers, every fault told with its line.

It knows what may stand in a file and nothing of what is made of it; that is `traces.py`, the only
caller. The format for people: docs/reference/traces.md.
"""

import csv
import gzip
import math
import zlib
from array import array
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from paceline.flow.queue import NEVER
from paceline.terms.errors import BadInput, LimitReached
from paceline.terms.limits import (
    ROWS,
    TRACE_BYTES,
    TRACE_CV,
    TRACE_LINE_BYTES,
    TRACE_NUMBER,
    TRACE_REQUESTS,
    TRACE_SHAPES,
)
from paceline.terms.request import PRIORITIES

Numbers = NDArray[np.float64]

LEAST_MS = 0.001
"""The shortest timeout: a microsecond, the unit of those in requests."""

SHOWN = 8
"""Values of a column that are named to whoever chose one that is not there."""


class Column(NamedTuple):
    """`empty` is what an empty cell means; None where there must be something."""

    least: float
    most: float
    empty: float | None = None
    whole: bool = False
    words: Sequence[str] = ()

    def value(self, cell: str) -> float | None:
        """None where it cannot stand here."""
        if self.empty is not None and not cell.strip():
            return self.empty
        if self.words:
            word = cell.strip()
            return self.words.index(word) if word in self.words else None
        try:
            number = float(cell)
        except ValueError:
            return None
        if not self.least <= number <= self.most or (self.whole and number != math.floor(number)):
            return None
        return number

    def expected(self) -> str:
        if self.words:
            return f"one of {', '.join(self.words)}"
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} from {self.least:.12g} to {self.most:.12g}"


MOMENT = Column(0, TRACE_NUMBER)
RATES = {
    "t_s": MOMENT,
    "rate_rps": Column(0, TRACE_NUMBER),
    "cv": Column(0, TRACE_CV, empty=1),
    "cv_rate_weighted": Column(0, TRACE_CV, empty=1),
}
REQUESTS = {
    "t_s": MOMENT,
    "priority": Column(0, 0, empty=PRIORITIES.index("normal"), words=PRIORITIES),
    "rows": Column(1, ROWS, empty=1, whole=True),
    "shape": Column(0, TRACE_SHAPES - 1, empty=0, whole=True),
    "timeout_ms": Column(LEAST_MS, TRACE_NUMBER, empty=NEVER),
    "leaves_ms": Column(LEAST_MS, TRACE_NUMBER, empty=NEVER),
}


def read(path: str, chosen: Mapping[str, str]) -> dict[str, Numbers]:
    """The columns that it has of RATES, where it has `rate_rps`, or else of REQUESTS; of the rows
    in which every chosen column has its value."""
    rows = _rows(path)
    header = [name.strip() for name in next(rows, (1, []))[1]]
    known = RATES if "rate_rps" in header else REQUESTS
    for name in ("t_s", *chosen):
        _look_up(path, header, name)
    wanted = [(_look_up(path, header, name), name) for name in known if name in header]
    conditions = [(header.index(name), value) for name, value in chosen.items()]
    columns = {name: array("d") for _, name in wanted}
    others: dict[str, None] = {}
    last_s = 0.0
    for line, row in rows:
        if len(row) != len(header):
            _fault(path, line, f"{len(row)} cells", f"Write {len(header)}, as in the first line.")
        if any(row[index] != value for index, value in conditions):
            if len(others) < SHOWN:
                others["&".join(f"{header[index]}={row[index]}" for index, _ in conditions)] = None
            continue
        for index, name in wanted:
            value = known[name].value(row[index])
            if value is None:
                remedy = f"Write {known[name].expected()}."
                _fault(path, line, f"`{name}` is {row[index]!r}", remedy)
            columns[name].append(value)
        if columns["t_s"][-1] < last_s:
            _fault(
                path,
                line,
                f"`t_s` falls from {last_s:.12g} to {columns['t_s'][-1]:.12g}",
                "Sort the file by it, or choose one of several series: FILE?COLUMN=VALUE.",
            )
        last_s = columns["t_s"][-1]
        if len(columns["t_s"]) > TRACE_REQUESTS:
            _too_long(path, f"more than {TRACE_REQUESTS} rows")
    if not columns["t_s"]:
        _nothing(path, chosen, others)
    return {name: np.array(values) for name, values in columns.items()}


def _look_up(path: str, header: Sequence[str], name: str) -> int:
    """Where the column stands."""
    if header.count(name) != 1:
        wrong = f"no column `{name}`" if name not in header else f"two columns `{name}`"
        here = ", ".join(header) or "nothing"
        _fault(path, 1, wrong, f"The first line names the columns; here: {here}.")
    return header.index(name)


def _rows(path: str) -> Iterator[tuple[int, list[str]]]:
    """With the line each ends in; empty lines say nothing."""
    reader = csv.reader(_lines(path), strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as why:
        _fault(path, reader.line_num, str(why), "Write it as CSV, with commas and double quotes.")


def _lines(path: str) -> Iterator[str]:
    """A small gzip file may unpack to any length, and a device has no end: both are bounded."""
    read_bytes = 0
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as stream:
            while line := stream.readline(TRACE_LINE_BYTES + 1):
                read_bytes += len(line)
                if len(line) > TRACE_LINE_BYTES:
                    _too_long(path, f"a line of more than {TRACE_LINE_BYTES} bytes")
                if read_bytes > TRACE_BYTES:
                    _too_long(path, f"more than {TRACE_BYTES} bytes")
                yield line.removeprefix(BOM_UTF8).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as why:
        raise BadInput(
            f"{path} cannot be read as text",
            value=str(why),
            remedy="A trace is a CSV file in UTF-8 that you may read; `.gz` where it is packed.",
        ) from why


def _fault(path: str, line: int, value: str, remedy: str) -> NoReturn:
    raise BadInput(f"{path}:{line} is not as a trace file is", value=value, remedy=remedy)


def _too_long(path: str, value: str) -> NoReturn:
    raise LimitReached(f"{path} is too long", value=value, remedy="Cut it into several files.")


def _nothing(path: str, chosen: Mapping[str, str], others: Iterable[str]) -> NoReturn:
    remedy = "Write one line for each request below the names of the columns."
    if chosen:
        remedy = f"It has, for example: {', '.join(others) or 'no rows at all'}."
    asked = "&".join(f"{name}={value}" for name, value in chosen.items())
    raise BadInput(f"{path} has no rows", value=asked or "the header alone", remedy=remedy)
