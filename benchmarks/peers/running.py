"""A contender that runs: started and timed to its first right answer, watched, stopped whole.

Its processes are found by a mark in their environment and as children of those, because some put
themselves outside the tree and some overwrite their environment. Called by `serving` and `goodput`.
"""

import http.client
import os
import select
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks._quiet import Disturbance, watched
from benchmarks._server import free_port
from benchmarks.peers.contender import Command, Contender, Launch
from benchmarks.peers.environment import Unavailable, python_of
from benchmarks.peers.forms import Answer
from paceline.serve.model import Tensors

MARK = "PEER_MARK"
START_S = 90.0
STOP_S = 15.0
ANSWER_S = 60.0
PAUSE_S = 0.005
NEAR = 1e-3
TICKS = os.sysconf("SC_CLK_TCK")


class Asked(NamedTuple):
    """A whole request."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class Running:
    def __init__(
        self, contender: Contender, launch: Launch, command: Command, process: int, mark: str
    ) -> None:
        self.contender = contender
        self.launch = launch
        self.started_s = 0.0
        """From nothing to the first right answer."""

        self.disturbance = Disturbance(0.0, 0.0)
        """Of its start."""

        self._command = command
        self._process = process
        self._mark = f"{MARK}={mark}".encode()
        self.url = f"http://127.0.0.1:{launch.port}"

    def asked(self, form: str, row: Tensors) -> Asked:
        endpoint = self.contender.endpoints[form]
        asking = endpoint.form.ask(row)
        headers = {**asking.headers, **self._command.headers}
        return Asked(endpoint.path.format(model=self.launch.model), headers, asking.body)

    def answer(
        self, asked: Asked, form: str, connection: http.client.HTTPConnection | None = None
    ) -> Answer:
        """An OSError, HTTPException or ValueError where there is none."""
        used = connection or http.client.HTTPConnection(
            "127.0.0.1", self.launch.port, timeout=ANSWER_S
        )
        try:
            used.request("POST", asked.path, asked.body, dict(asked.headers))
            response = used.getresponse()
            body = response.read()
        finally:
            if connection is None:
                used.close()
        if response.status != 200:
            raise ValueError(f"status {response.status}: {body[:200]!r}")
        headers = {name.lower(): value for name, value in response.getheaders()}
        return self.contender.endpoints[form].form.read(headers, body)

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


@contextmanager
def running(
    contender: Contender, model: str, path: Path, peers: Path, probe: Tensors, expected: Answer
) -> Iterator[Running]:
    """Up and answering right; Unavailable says why not. `probe` is the row asked at the start."""
    python = python_of(contender.environment, peers)
    with tempfile.TemporaryDirectory(prefix="pl-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        launch = Launch(model, path, free_port(), folder, python)
        command = contender.command(launch)
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
        up = Running(contender, launch, command, process.pid, mark)
        try:
            wait = partial(_wait, up, process, log, probe, expected)
            _, up.disturbance = watched(wait, up.cpu_s)
            up.started_s = time.perf_counter() - begun_s
            yield up
        finally:
            _stop(up, process)


def _clean_environ() -> dict[str, str]:
    """Without what belongs to the environment that this runs in."""
    ours = ("PYTHON", "VIRTUAL_ENV", "PACELINE_", "PEER_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _wait(
    up: Running, process: subprocess.Popen[bytes], log: Path, probe: Tensors, expected: Answer
) -> None:
    asked = up.asked("json", probe)
    until_s = time.perf_counter() + START_S
    reason = "no connection"
    while time.perf_counter() < until_s:
        if process.poll() is not None:
            last = log.read_text(errors="replace").strip().splitlines()[-6:]
            raise Unavailable(f"it ended with status {process.returncode}: {' | '.join(last)}")
        try:
            answer = up.answer(asked, "json")
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            reason = f"{type(error).__name__}: {error}"
            time.sleep(PAUSE_S)
            continue
        apart = float(np.abs(answer - expected).max())
        if apart > NEAR:
            raise Unavailable(f"its first answer is {apart:.3g} from the right one")
        return
    last = log.read_text(errors="replace").strip().splitlines()[-6:]
    raise Unavailable(f"no right answer in {START_S:.0f} s: {reason}: {' | '.join(last)}")


def _stop(up: Running, process: subprocess.Popen[bytes]) -> None:
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
        raise SystemExit(f"processes of {up.contender.name} do not end: {left}")


def _opened(pids: Sequence[int]) -> list[int]:
    found = []
    for pid in pids:
        with suppress(ProcessLookupError):
            found.append(os.pidfd_open(pid))
    return found
