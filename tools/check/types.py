"""Step `types`: mypy in strict mode over everything we write, tests and tools included."""

import re
from pathlib import Path

from check.found import Finding, explained, python_paths, run

PLACE = re.compile(r"(?P<path>[^:\s][^:]*):(?P<line>\d+): error: (?P<wrong>.*)")


def check(root: Path) -> list[Finding]:
    """`mypy --strict` proves every file"""
    command = ["-m", "mypy", "--strict", "--scripts-are-modules", *python_paths(root)]
    outcome = run(root, *command)
    found = [
        Finding(place["path"], int(place["line"]), place["wrong"], "Annotate it, or mend the type")
        for line in outcome.lines
        if (place := PLACE.match(line))
    ]
    return explained(found, outcome, command)
