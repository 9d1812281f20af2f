"""In which line of a TOML text each key stands, and where a text stops being TOML.

The standard library's parser keeps no positions, and this is no second parser: it only finds where
a statement ends, and hands each to that one. To find it, brackets are counted outside of texts and
comments. So all of it costs about as much as parsing the text twice more. Pure. Called by
`source.py`.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

Path = tuple[str, ...]

TOKEN = re.compile(
    r"""
      \#[^\n]*
    | "{3} (?: \\?[\s\S] )*? (?: "{3,5} | \Z )
    | '{3} [\s\S]*? (?: '{3,5} | \Z )
    | " (?: [^"\\\n] | \\[^\n] )* "?
    | ' [^'\n]* '?
    | (?P<opens> [\[{] )
    | (?P<closes> [\]}] )
    | (?P<dot> \. )
    | (?P<parts> [=,] )
    | (?P<ends> \n )
    """,
    re.VERBOSE,
)
"""What decides where a statement ends. A text that is not closed goes on as far as it could."""

PLACE = re.compile(r" \(at (?:line (?P<line>\d+), column \d+|end of document)\)$")

BLANK = ("", "\n", "\r\n")

DEEPEST = 8
"""Brackets in brackets, and names in a key. No setting lies deeper, and tomllib needs the square of
the depth: gigabytes for one key of 32 000 dots."""

TOO_DEEP = "it is nested too deeply"

CANNOT_PARSE = (ValueError, RecursionError)
"""What tomllib raises; its own error is a ValueError, as is a number of too many digits."""


class _Statement(NamedTuple):
    """Characters and lines count from 0."""

    text: str
    start: int
    first: int
    too_deep: bool


class Broken(NamedTuple):
    """Where a text stops being TOML. `first` is the line in which what is broken begins."""

    line: int
    first: int
    why: str


def parse(text: str) -> dict[str, Any]:
    """Raises one of CANNOT_PARSE."""
    return tomllib.loads(text)


def locate(text: str) -> Mapping[Path, int]:
    """The line of every key and table of a text that is not broken, counted from 1.

    A key within a value (an inline table) has the line in which its statement begins.
    """
    found: dict[Path, int] = {}
    table: Path = ()
    for statement in _statements(text):
        begins = statement.text.lstrip(" \t")[0]
        if begins == "#":
            continue
        paths = list(_paths(parse(statement.text)))
        opens_table = begins == "["
        above = () if opens_table else table
        for path in paths:
            found.setdefault((*above, *path), statement.first + 1)
        if opens_table:
            table = paths[-1]
    return found


def read(text: str) -> dict[str, Any] | Broken:
    """What it says, or why and where it is not TOML. What is nested too deeply counts as broken."""
    statements = list(_statements(text))
    deep = next((each for each in statements if each.too_deep), None)
    try:
        content = parse(text if deep is None else text[: deep.start])
    except ValueError as error:
        why, line = _reason(error)
        if line is None:
            # One that contradicts an earlier one is sound by itself; only the last is told so.
            alone = (each for each in statements if not _parses(each.text))
            first = next(alone, statements[-1]).first
            return Broken(first + 1, first + 1, why)
        near = [each for each in statements if each.first <= line][-2:]
        if not _parses(near[0].text):  # a backslash at the end of a line is told at the next
            near = near[:1]
            line = min(line, near[0].first + near[0].text.count("\n"))
        return Broken(line + 1, near[-1].first + 1, why)
    return content if deep is None else Broken(deep.first + 1, deep.first + 1, TOO_DEEP)


def _statements(text: str) -> Iterator[_Statement]:
    """Right up to the first that is no TOML, and anything from there on. None is blank."""
    start = line = depth = 0
    names = 1
    too_deep = False
    for end, token in _tokens(text):
        match token:
            case "opens":
                depth, names = depth + 1, 1
            case "closes":
                depth -= 1
            case "dot":
                names += 1
            case "parts":
                names = 1
        too_deep = too_deep or depth > DEEPEST or names > DEEPEST
        if token == "ends":
            names = 1
            if depth > 0 and end < len(text):
                continue
            statement = text[start:end]
            if statement.strip(" \t") not in BLANK:
                yield _Statement(statement, start, line, too_deep)
            line += statement.count("\n")
            start, depth, too_deep = end, 0, False


def _tokens(text: str) -> Iterator[tuple[int, str | None]]:
    """Where each ends, and its name. The last is the end of the text."""
    for token in TOKEN.finditer(text):
        yield token.end(), token.lastgroup
    yield len(text), "ends"


def _parses(text: str) -> bool:
    try:
        parse(text)
    except CANNOT_PARSE:
        return False
    return True


def _paths(content: Mapping[str, Any], depth: int = DEEPEST) -> Iterator[Path]:
    for name, value in content.items():
        yield (name,)
        if isinstance(value, dict) and depth > 1:
            yield from ((name, *path) for path in _paths(value, depth - 1))


def _reason(error: ValueError) -> tuple[str, int | None]:
    """In words, and the line, counted from 0, if the parser says one."""
    said = str(error)
    place = PLACE.search(said)
    if place is None:
        return said.partition(";")[0], None  # what comes then advises programmers
    line = place["line"]
    return said[: place.start()], None if line is None else int(line) - 1
