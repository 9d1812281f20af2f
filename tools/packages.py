"""Runs pip, turns what it prints into progress, and its failures into cause, value and remedy.

pip stays the installer, with the user's own settings (mirrors, proxies, certificates); only its
wall of text is ours. Called by environment.py; runs on any Python 3.11 with nothing installed.
"""

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from progress import Progress

# As in paceline.terms.errors, which is not installed yet; a test compares them.
EXIT_INTERNAL = 1
EXIT_START = 3
EXIT_STATE = 4
EXIT_UNREACHABLE = 6
EXIT_INTERRUPTED = 130

REDRAW_S = 0.1
STOP_S = 2.0
CHUNK_BYTES = 65536
LINES_SHOWN = 8

PIP = "-I -m pip --no-input --no-color --disable-pip-version-check install --progress-bar=off"
# These say where pip installs and what it prints, which is ours to say; all other PIP_* settings
# (where packages come from, proxies, certificates, caches) are the user's.
OURS = ["TARGET", "PREFIX", "ROOT", "DRY_RUN", "REPORT", "QUIET", "VERBOSE", "LOG", "NO_DEPS"]
OURS += [
    "CONSTRAINT",
    "REQUIREMENT",
    "REQUIRE_HASHES",
    "EDITABLE",
    "UPGRADE",
    "FORCE_REINSTALL",
    "IGNORE_INSTALLED",
]


class Failure(Exception):
    """Why there is no environment, as a person should read it."""

    def __init__(self, exit_code: int, cause: str, remedy: str, value: object = None) -> None:
        shown = "" if value is None else f" (value: {value})"
        super().__init__(f"{cause}{shown}.\n{remedy}")
        self.exit_code = exit_code


class PipFailed(Exception):
    """pip gave up; `lines` are all it printed."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


UNPACKED = "lib/python*/site-packages/*.dist-info/RECORD"
FOUND = re.compile(r"(?:Collecting|Processing|Requirement already satisfied:) .*\(line (\d+)\)\)")
FETCHED = re.compile(r"(?:Downloading|Using cached) (?:\S*/)?([^/\s-]+)-\S+\.whl \((.+)\)")


def install_locked(python: Path, lock: Path, progress: Progress, held: int) -> int:
    """Installs exactly what the lock says, and answers how many packages that was."""
    names = {
        number: line.partition("==")[0]
        for number, line in enumerate(lock.read_text().splitlines(), start=1)
        if re.match(r"\w\S*==", line)
    }
    wanted = len(names)
    found: set[str] = set()
    installing = False
    progress.stage("Fetching packages", wanted)
    arguments = ["--require-hashes", "--no-deps", "--only-binary=:all:", "--no-compile"]
    for line in pip(python, [*arguments, "-r", str(lock)], progress.live, held):
        if line is None and installing:
            progress.step(len(list(python.parent.parent.glob(UNPACKED))))
        elif line is None:
            progress.step(len(found))
        elif line.startswith("Ignoring "):
            wanted -= 1
            progress.total = wanted
        elif match := FOUND.match(line):
            found.add(names[int(match[1])])
            progress.step(len(found), names[int(match[1])])
        elif match := FETCHED.match(line):
            progress.step(len(found), f"{match[1].replace('_', '-')} {match[2]}")
        elif "Retrying (" in line:
            progress.step(len(found), "the package index does not answer, trying again")
        elif line.startswith("Installing collected packages"):
            installing = True
            progress.stage("Installing packages", len(found))
    return len(found)


def install_project(python: Path, root: Path, progress: Progress, held: int) -> None:
    progress.stage("Adding Paceline itself")
    arguments = ["--no-deps", "--no-build-isolation", "--no-compile", "--editable", str(root)]
    for _ in pip(python, arguments, progress.live, held):
        progress.step(0)


def pip(python: Path, arguments: list[str], ticking: bool, held: int) -> Iterator[str | None]:
    """Every line pip prints; None now and then while it is silent, if `ticking`.

    pip inherits the lock `held`: should we be killed, the next start waits until pip has ended too.
    """
    ours = {"PIP_" + name for name in OURS}
    environ = {name: value for name, value in os.environ.items() if name not in ours}
    child = subprocess.Popen(
        [str(python), *PIP.split(), *arguments],
        env=environ | {"PIP_USER": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[held],
    )
    assert child.stdout is not None
    lines: list[str] = []
    try:
        for line in ticked(child.stdout, REDRAW_S if ticking else None):
            if line is not None:
                lines.append(line)
            yield line
    finally:
        stop(child)
    if child.returncode:
        raise PipFailed(lines)


def ticked(stream: IO[bytes], tick_s: float | None) -> Iterator[str | None]:
    """The lines of a pipe as they come, and None whenever `tick_s` pass without any."""
    part = b""
    while True:
        if not select.select([stream], [], [], tick_s)[0]:
            yield None
        elif chunk := os.read(stream.fileno(), CHUNK_BYTES):
            *whole, part = (part + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
        else:
            break
    if part:
        yield part.decode(errors="replace")


def stop(child: subprocess.Popen[bytes]) -> None:
    """Waits for a pip that is done; one left in the middle has mostly got the Ctrl-C as well, and
    gets a moment to remove its temporary files."""
    for signal_number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(STOP_S)
            return
        child.send_signal(signal_number)
    child.wait()


NO_SPACE = ("No space left on device", "Disk quota exceeded")
NO_NETWORK = [  # what says most comes first
    re.compile(r"Failed to establish a new connection: (?:\[Errno -?\d+\] )?([^')]+)"),
    re.compile(r"(certificate verify failed[^'(]*|Tunnel connection failed[^')]*|HTTP error \d+)"),
    re.compile(r"(Cannot connect to proxy|Read timed out|Connection to \S+ timed out)"),
    re.compile(r"Retrying \(.*connection broken by '(\w+)"),
]
NO_MATCH = re.compile(r"No matching distribution found for (\S+)")


def failure_in(lines: list[str], venv: Path, log: str) -> Failure:
    """What pip meant. The first rule that fits decides; the last one quotes pip."""
    text = "\n".join(lines)
    if any(words in text for words in NO_SPACE):
        return no_space(venv)
    if "DO NOT MATCH THE HASHES" in text:
        after = text.partition("DO NOT MATCH THE HASHES")[2].splitlines()
        package = next((line.strip().split(" from ")[0] for line in after if "==" in line), None)
        return Failure(
            EXIT_START,
            "A package is not the one that the lock names; it was altered, or built anew",
            "Nothing of it was installed. See where it came from with `pip config list`, then run\n"
            "this again.",
            package,
        )
    if unreachable := next(filter(None, (reason.search(text) for reason in NO_NETWORK)), None):
        return Failure(
            EXIT_UNREACHABLE,
            "The packages cannot be fetched: the package index does not answer",
            "Check the network; set HTTPS_PROXY behind a proxy, PIP_INDEX_URL for a mirror, or\n"
            "PIP_CERT for your own certificate authority. Then run this again.",
            unreachable[1].strip(),
        )
    if missing := NO_MATCH.search(text):
        this = f"Python {sys.version_info[0]}.{sys.version_info[1]} on {sysconfig.get_platform()}"
        return Failure(
            EXIT_START,
            f"The package index has no ready-made package for {this}",
            "Set PACELINE_PYTHON to another Python, or PIP_INDEX_URL to an index that has it.",
            missing[1],
        )
    last = [line for line in lines if line.strip() and not line.startswith("WARNING")][
        -LINES_SHOWN:
    ]
    quoted = "".join(f"  {line}\n" for line in last)
    return Failure(
        EXIT_START, f"pip failed:\n{quoted}All it said: {log}", "Run this again to retry"
    )


def no_space(venv: Path) -> Failure:
    """Names the fuller of the two places in which pip writes."""
    places = [place for place in (venv, Path(tempfile.gettempdir())) if place.is_dir()]
    place = min(places or [venv.parent], key=lambda place: shutil.disk_usage(place).free)
    return Failure(
        EXIT_STATE,
        "No space is left to install Paceline",
        "Paceline takes 300 MB, its tests 900. Free some, or set PACELINE_VENV=DIR to a directory\n"
        "on a larger disk (and TMPDIR, through which the packages pass).",
        place,
    )
