"""A server that a benchmark started: its processes, what they use, and how all of them are ended.

They are found by a mark in their environment and as children of those, because some put themselves
outside the tree and some overwrite their environment. What it is asked, and which answer is right,
others know. Called by `running` for what serves models, and by `gateways/relaying` for gateways.
"""

import http.client
import os
import select
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from benchmarks._quiet import Disturbance, watched
from benchmarks.peers.contender import Command
from benchmarks.peers.environment import Unavailable

MARK = "PEER_MARK"
START_S = 90.0
STOP_S = 15.0
PAUSE_S = 0.005
TICKS = os.sysconf("SC_CLK_TCK")


class Asked(NamedTuple):
    """A whole request."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class Started:
    def __init__(self, name: str, port: int, process: int, mark: str) -> None:
        self.name = name
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.started_s = 0.0
        """From nothing to the first right answer."""

        self.disturbance = Disturbance(0.0, 0.0)
        """Of its start."""

        self._process = process
        self._mark = f"{MARK}={mark}".encode()

    def pids(self) -> list[int]:
        found: set[int] = set()
        parents: dict[int, int] = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            pid = int(folder.name)
            try:
                parents[pid] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                marked = self._mark in (folder / "environ").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it has ended meanwhile, or is somebody else's
            if marked or pid == self._process:
                found.add(pid)
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found)

    def pss_mb(self) -> float:
        """Of all its processes; a page that n processes share counts 1/n in each."""
        total = 0
        for pid in self.pids():
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            total += sum(
                int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")
            )
        return total * 1024 / 1e6

    def cpu_s(self) -> float:
        return cpu_s(self.pids())


def cpu_s(pids: Sequence[int]) -> float:
    """With that of threads and children that have ended."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(map(int, fields[11:15]))
    return total / TICKS


def end_on_sigterm() -> None:
    """So that being told to stop stops what was started, as Ctrl-C does."""

    def end(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)


S = TypeVar("S", bound=Started)


@contextmanager
def started(
    command: Command, folder: Path, make: Callable[[int, str], S], probe: Callable[[S], object]
) -> Iterator[S]:
    """Up and answering right; Unavailable says why not. `make` is given its first process and its
    mark. `probe` asks it once; whatever it raises is no answer yet, but for an Unavailable."""
    mark = uuid.uuid4().hex
    log = folder / "log"
    begun_s = time.perf_counter()
    with log.open("wb") as said:
        process = subprocess.Popen(
            list(command.argv),
            cwd=folder,
            env={**_clean_environ(), **command.environ, MARK: mark},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    up = make(process.pid, mark)
    try:
        _, up.disturbance = watched(partial(_wait, process, log, partial(probe, up)), up.cpu_s)
        up.started_s = time.perf_counter() - begun_s
        yield up
    finally:
        _stop(up, process)


def _clean_environ() -> dict[str, str]:
    """Without what belongs to the environment that this runs in."""
    ours = ("PYTHON", "VIRTUAL_ENV", "PACELINE_", "PEER_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _wait(process: subprocess.Popen[bytes], log: Path, probe: Callable[[], object]) -> None:
    until_s = time.perf_counter() + START_S
    reason = "no connection"
    while time.perf_counter() < until_s:
        if process.poll() is not None:
            last = log.read_text(errors="replace").strip().splitlines()[-6:]
            raise Unavailable(f"it ended with status {process.returncode}: {' | '.join(last)}")
        try:
            probe()
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            reason = f"{type(error).__name__}: {error}"
            time.sleep(PAUSE_S)
            continue
        return
    last = log.read_text(errors="replace").strip().splitlines()[-6:]
    raise Unavailable(f"no right answer in {START_S:.0f} s: {reason}: {' | '.join(last)}")


def _stop(up: Started, process: subprocess.Popen[bytes]) -> None:
    """Asks the first process, waits, and kills whatever is left of the tree.

    Who is of the tree is asked before, because children of the dead belong to nobody.
    """
    members = _opened(up.pids())
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    members += _opened(up.pids())
    for pidfd in members:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    process.wait()
    for pidfd in members:
        select.select([pidfd], [], [], STOP_S)
        os.close(pidfd)
    if left := up.pids():
        raise SystemExit(f"processes of {up.name} do not end: {left}")


def _opened(pids: Sequence[int]) -> list[int]:
    found = []
    for pid in pids:
        with suppress(ProcessLookupError):
            found.append(os.pidfd_open(pid))
    return found
