"""Step `lock`: what pyproject.toml asks for is what the locks pin, with hashes and without hosts.

It reads files only; whether a newer version exists is for whoever runs `tools/lock.py`.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from check.found import Finding

PROJECT = "pyproject.toml"
RUN = "locks/run.txt"
DEV = "locks/dev.txt"
RELOCK = "Run `.venv-dev/bin/python tools/lock.py`"

PIN = re.compile(r"(?P<name>[\w.-]+)==(?P<version>[\w.+!-]+)(?P<marker> ;[^\\]+)?( \\)?$")
HASH = re.compile(r"    --hash=sha256:(?P<hash>[0-9a-f]{64})( \\)?$")


class Pin(NamedTuple):
    line: int
    name: str
    version: Version
    marker: str
    hashes: tuple[str, ...]


def check(root: Path) -> list[Finding]:
    """every dependency is pinned with hashes, in its range, and no host is named"""
    project = tomllib.loads((root / PROJECT).read_text())
    run = project["project"]["dependencies"] + project["build-system"]["requires"]
    extras = project["project"].get("optional-dependencies", {}).values()
    groups = project.get("dependency-groups", {}).values()
    dev = run + [line for lines in (*extras, *groups) for line in lines]

    found: list[Finding] = []
    run_pins = _read(root, RUN, found)
    dev_pins = _read(root, DEV, found)
    source = (root / PROJECT).read_text().splitlines()
    found += _missing(run, RUN, run_pins, source)
    found += _missing(dev, DEV, dev_pins, source)
    # Markers may differ: what only old Pythons need to run, a development tool may need on all.
    known = {pin._replace(line=0, marker="") for pin in dev_pins}
    for pin in run_pins:
        if pin._replace(line=0, marker="") not in known:
            wrong = f"{pin.name} is not pinned the same way in {DEV}"
            found.append(Finding(RUN, pin.line, wrong, RELOCK))
    return found


def _read(root: Path, path: str, found: list[Finding]) -> list[Pin]:
    """Only pins and hashes may stand there: an option or an address is a finding."""
    pins: list[Pin] = []
    if not (root / path).exists():
        found.append(Finding(path, 1, "the lock is missing", RELOCK))
        return pins
    for number, line in enumerate((root / path).read_text().splitlines(), start=1):
        if pin := PIN.match(line):
            name, marker = canonicalize_name(pin["name"]), (pin["marker"] or "").strip(" ;")
            pins.append(Pin(number, name, Version(pin["version"]), marker, ()))
        elif (digest := HASH.match(line)) and pins:
            pins[-1] = pins[-1]._replace(hashes=(*pins[-1].hashes, digest["hash"]))
        elif line.strip():
            found.append(Finding(path, number, f"neither pin nor hash: `{line[:60]}`", RELOCK))
    for one in pins:
        if not one.hashes:
            found.append(Finding(path, one.line, f"{one.name} has no sha256 hash", RELOCK))
    return pins


def _missing(wanted: list[str], lock: str, pins: list[Pin], source: list[str]) -> Iterator[Finding]:
    for text in wanted:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        line = next((n for n, row in enumerate(source, start=1) if f'"{text}"' in row), 1)
        versions = [pin.version for pin in pins if pin.name == name]
        if not versions:
            yield Finding(PROJECT, line, f"{name} is not in {lock}", RELOCK)
        for version in versions:
            if not requirement.specifier.contains(version, prereleases=True):
                wrong = f"{lock} pins {name} {version}, outside `{requirement.specifier}`"
                yield Finding(PROJECT, line, wrong, RELOCK)
