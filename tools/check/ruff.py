"""Steps `format` and `lint`: ruff, as pyproject.toml configures it."""

import re
from pathlib import Path

from check.found import Finding, explained, python_paths, run

PLACE = re.compile(r"(?P<path>[^:\s][^:]*):(?P<line>\d+):\d+: (?P<rule>[^\s:]+):? (?P<wrong>.*)")
CONCISE = ("--output-format", "concise")
REPAIRABLE = "[*] "


def check_format(root: Path) -> list[Finding]:
    """every file is as `ruff format` writes it"""
    command = ["-m", "ruff", "format", "--check", *CONCISE, *python_paths(root)]
    outcome = run(root, *command)
    found = [
        Finding(place["path"], int(place["line"]), "not formatted", "Run `./check --write format`")
        for line in outcome.lines
        if (place := PLACE.match(line))
    ]
    return explained(found, outcome, command)


def check_lint(root: Path) -> list[Finding]:
    """ruff has nothing to say"""
    command = ["-m", "ruff", "check", *CONCISE, *python_paths(root)]
    outcome = run(root, *command)
    found = []
    for place in filter(None, map(PLACE.match, outcome.lines)):
        remedy = f"`ruff rule {place['rule']}` explains it"
        if place["wrong"].startswith(REPAIRABLE):
            remedy += "; `./check --write lint` repairs it"
        wrong = f"{place['rule']} {place['wrong'].removeprefix(REPAIRABLE)}"
        found.append(Finding(place["path"], int(place["line"]), wrong, remedy))
    return explained(found, outcome, command)


def write_format(root: Path) -> None:
    run(root, "-m", "ruff", "format", *python_paths(root))


def write_lint(root: Path) -> None:
    run(root, "-m", "ruff", "check", "--fix", *python_paths(root))
