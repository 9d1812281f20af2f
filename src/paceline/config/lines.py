"""In which line of a TOML text each key stands, and where a text stops being TOML.

The standard library's parser keeps no positions, and this is no second parser: it hands that one
the text piece by piece. A piece that begins with a statement and parses holds that statement,
because one that goes on (an array, a text in triple quotes) cannot be parsed before its end. Such
a piece grows only by whole lines that could close it, so a file costs about as much as parsing it
again. Pure. Called by `source.py`.
"""

import re
import tomllib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Path = tuple[str, ...]

CLOSES = re.compile(r"[\]}]|\"\"\"|'''")
PLACE = re.compile(r" \(at (?:line (?P<line>\d+), column \d+|end of document)\)$")

DEEPEST = 8
"""No setting lies deeper; without it, a key of a thousand dots would cost a million steps."""

CANNOT_PARSE = (ValueError, RecursionError)
"""What tomllib raises; its own error is a ValueError, as is a number of too many digits."""


class _Statement(NamedTuple):
    """Lines count from 0 here; `end` is the first line that is not part of it."""

    first: int
    end: int
    content: dict[str, Any]
    opens_table: bool


class Broken(NamedTuple):
    """Where a text stops being TOML. `first` is the line in which what is broken begins."""

    line: int
    first: int
    why: str


def parse(text: str) -> dict[str, Any]:
    """Raises one of CANNOT_PARSE."""
    return tomllib.loads(text)


def locate(text: str) -> Mapping[Path, int]:
    """The line of every key and table of a text that parses, counted from 1.

    A key within a value (an inline table) has the line in which its statement begins.
    """
    found: dict[Path, int] = {}
    table: Path = ()
    for statement in _statements(_lines(text)):
        paths = list(_paths(statement.content))
        above = () if statement.opens_table else table
        for path in paths:
            found.setdefault((*above, *path), statement.first + 1)
        if statement.opens_table:
            table = paths[-1]
    return found


def broken(text: str) -> Broken | None:
    """Why and where a text is not TOML, or None."""
    try:
        parse(text)
    except CANNOT_PARSE as error:
        lines = _lines(text)
        why, place = _reason(error)
        ends = [0, *(statement.end for statement in _statements(lines)), len(lines)]
        # A statement may be sound and yet contradict one before it.
        fails = bisect_left(ends, True, key=lambda end: not _parses(lines[:end]))
        first = _skip_blank(lines, ends[fails - 1])
        return Broken(max(first, first if place is None else place) + 1, first + 1, why)
    return None


def _lines(text: str) -> Sequence[str]:
    """Only "\n" ends a line of TOML; `str.splitlines` knows more."""
    *ended, last = text.split("\n")
    return [*(line + "\n" for line in ended), last]


def _statements(lines: Sequence[str]) -> Iterator[_Statement]:
    """Up to the first that cannot be parsed."""
    first = _skip_blank(lines, 0)
    while first < len(lines):
        statement = _statement(lines, first)
        if statement is None:
            return
        yield statement
        first = _skip_blank(lines, statement.end)


def _statement(lines: Sequence[str], first: int) -> _Statement | None:
    for end in range(first + 1, len(lines) + 1):
        if end == first + 1 or CLOSES.search(lines[end - 1]):
            try:
                content = parse("".join(lines[first:end]))
            except CANNOT_PARSE:
                continue
            return _Statement(first, end, content, lines[first].lstrip().startswith("["))
    return None


def _skip_blank(lines: Sequence[str], first: int) -> int:
    while first < len(lines) and lines[first].strip(" \t") in ("", "\n", "\r\n"):
        first += 1
    return first


def _parses(lines: Sequence[str]) -> bool:
    try:
        parse("".join(lines))
    except CANNOT_PARSE:
        return False
    return True


def _paths(content: Mapping[str, Any], depth: int = DEEPEST) -> Iterator[Path]:
    for name, value in content.items():
        yield (name,)
        if isinstance(value, dict) and depth > 1:
            yield from ((name, *path) for path in _paths(value, depth - 1))


def _reason(error: Exception) -> tuple[str, int | None]:
    """In words, and the line, counted from 0, if the parser says one."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply", None
    said = str(error)
    place = PLACE.search(said)
    if place is None:
        return said.partition(";")[0], None  # what comes then advises programmers
    line = place["line"]
    return said[: place.start()], None if line is None else int(line) - 1
