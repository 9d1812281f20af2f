"""Step `imports`: the house. The floors are import-linter contracts in pyproject.toml."""

import re
from pathlib import Path

from check.found import Finding, explained, run

LINK = re.compile(r"- (?P<importer>\S+) -> (?P<imported>\S+) \(l\.(?P<line>\d+)")
RULE = re.compile(r"(?P<low>\S+) is not allowed to import (?P<high>\S+):")
HOMELESS = re.compile(r"- (?P<module>[\w.]+)$")

LINT = "from importlinter.cli import lint_imports_command as lint; lint()"


def check(root: Path) -> list[Finding]:
    """imports go to lower floors, or to a neighbour that is named"""
    command = ["-c", LINT, "--no-logo"]
    outcome = run(root, *command)
    found: dict[Finding, None] = {}
    low, high = "", ""
    for line in outcome.lines:
        if rule := RULE.match(line):
            low, high = rule["low"], rule["high"]
        elif link := LINK.match(line):
            wrong = f"{low} must not import {high}: this imports {link['imported']}"
            remedy = "Move what is needed to a lower floor, or let app.py hand it in"
            place = _path(root, link["importer"])
            found[Finding(place, int(link["line"]), wrong, remedy)] = None
        elif homeless := HOMELESS.match(line):
            place = _path(root, homeless["module"])
            wrong = f"{homeless['module']} has no floor"
            remedy = (
                "List it in [tool.importlinter] of pyproject.toml and in the picture of the house"
            )
            found[Finding(place, 1, wrong, remedy)] = None
    return explained(list(found), outcome, command)


def _path(root: Path, module: str) -> str:
    place = "src/" + module.replace(".", "/")
    return f"{place}/__init__.py" if (root / place).is_dir() else f"{place}.py"
