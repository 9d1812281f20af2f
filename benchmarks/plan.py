"""What a change of the Plan costs: from the request to the answer, and how far fronts differ.

One server with several fronts, each asked without a pause over connections that are kept, while a
knob is changed again and again. One loop asks for predictions and for changes, so that all times
are of one clock; what it takes itself to read an answer is in them. A second server, which nobody
else asks, shows what a change takes alone.
"""

import argparse
import json
import os
import selectors
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks import record
from benchmarks._server import ANSWER_S, PREDICT, children, connect, request, served
from benchmarks.faults import callers_of
from paceline.serve import digits

FRONTS = 3
KEPT = 2
"""connections to each front"""
APART_MS = 100.0
SYNCS = 200
KNOB = f"{digits.NAME}.max_rows"
READY = b"paceline_ready_fronts %d.0\n"


class Answer(NamedTuple):
    at_s: float
    status: int
    head: bytes
    body: bytes

    @property
    def version(self) -> int:
        """That the answer was made by."""
        return int(self.head.lower().partition(b"x-plan-version: ")[2].partition(b"\r\n")[0])


class Kept:
    """A connection with one request in hand at a time."""

    def __init__(self, port: int) -> None:
        self.socket = connect(port)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._arrived = b""

    def ask(self, sent: bytes) -> None:
        self.socket.sendall(sent)

    def read(self) -> Answer | None:
        """What has arrived, once it is an answer."""
        chunk = self.socket.recv(65536)
        if not chunk:
            raise SystemExit("the server closed a connection")
        self._arrived += chunk
        head, found, body = self._arrived.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        if not found or len(body) < length:
            return None
        self._arrived = b""
        return Answer(time.perf_counter(), int(head.split(b" ", 2)[1]), head, body)

    def exchange(self, sent: bytes) -> Answer:
        self.ask(sent)
        while (answer := self.read()) is None:
            pass
        return answer


def change(value: int) -> bytes:
    return request("POST", "/api/plan/set", {"knob": KNOB, "value": value})


def changed(answer: Answer) -> int:
    """The new version."""
    if answer.status != 200:
        raise SystemExit(f"a change was refused: {answer.body!r}")
    return int(json.loads(answer.body)["version"])


class Change(NamedTuple):
    took_s: float
    """From the request to its answer, when every front serves by it."""
    first_s: float
    """From the request to the first prediction made by it."""
    apart_s: float
    """From there to the last prediction made by the one before; 0 where none came later."""


class Load:
    """Predictions over connections to every front, for as long as `during` is asked for."""

    def __init__(self, kept: list[Kept], control: Kept) -> None:
        self.answers = 0
        self._kept = kept
        self._control = control
        self._selector = selectors.DefaultSelector()
        for each in (*kept, control):
            self._selector.register(each.socket, selectors.EVENT_READ, each)
        for each in kept:
            each.ask(PREDICT)

    def change(self, value: int) -> Change:
        """Until every connection has had two answers by the new version."""
        asked_s = time.perf_counter()
        self._control.ask(change(value))
        applied: Answer | None = None
        version = 0
        predicted: list[Answer] = []
        wanted = dict.fromkeys(self._kept, 2)
        while applied is None or any(wanted.values()):
            for each, answer in self._arrived():
                if each is self._control:
                    applied, version = answer, changed(answer)
                    continue
                self.answers += 1
                each.ask(PREDICT)
                predicted.append(answer)
                if applied is not None and answer.version >= version:
                    wanted[each] = max(0, wanted[each] - 1)
        new = [answer.at_s for answer in predicted if answer.version >= version]
        old = [answer.at_s for answer in predicted if answer.version < version]
        apart_s = max(0.0, max(old, default=0.0) - min(new))
        return Change(applied.at_s - asked_s, min(new) - asked_s, apart_s)

    def _arrived(self) -> Iterator[tuple[Kept, Answer]]:
        ready = self._selector.select(ANSWER_S)
        if not ready:
            raise SystemExit(f"no answer for {ANSWER_S:.0f} s")
        for key, _ in ready:
            answer = key.data.read()
            if answer is not None:
                if answer.status != 200:
                    raise SystemExit(f"a request failed: {answer.body!r}")
                yield key.data, answer


@contextmanager
def serving(folder: Path, fronts: int) -> Iterator[tuple[int, int]]:
    """The pid of the owner, and the port, once every front is ready."""
    folder.mkdir()
    options = ("--fronts", str(fronts), "--log-level", "warning")
    with served(folder, *options) as (server, port):
        probe = Kept(port)
        while READY % fronts not in probe.exchange(request("GET", "/metrics")).body:
            time.sleep(0.01)
        probe.socket.close()
        yield server.pid, port


def spread_over(owner: int, port: int) -> list[Kept]:
    """KEPT connections to each front; the kernel decides who accepts, so some are given up."""
    kept: dict[int, list[Kept]] = {pid: [] for pid in children(owner)}
    while any(len(connections) < KEPT for connections in kept.values()):
        one = Kept(port)
        one.exchange(PREDICT)
        ours = one.socket.getsockname()[1]
        (pid,) = (pid for pid in kept if ours in callers_of(pid, port))
        if len(kept[pid]) < KEPT:
            kept[pid].append(one)
        else:
            one.socket.close()
    return [one for connections in kept.values() for one in connections]


def under_load(folder: Path, count: int) -> tuple[list[Change], float]:
    """The changes, and how many predictions were answered in a second."""
    with serving(folder, FRONTS) as (owner, port), ExitStack() as open_connections:
        kept, control = spread_over(owner, port), Kept(port)
        for each in (*kept, control):
            open_connections.enter_context(each.socket)
        load = Load(kept, control)
        load.change(1)
        begun_s, before = time.perf_counter(), load.answers
        changes = [load.change(value % 1000 + 2) for value in range(count)]
        rate = (load.answers - before) / (time.perf_counter() - begun_s)
    return changes, rate


def alone(folder: Path, count: int) -> list[float]:
    with serving(folder, FRONTS) as (_, port):
        control = Kept(port)
        control.exchange(change(1))
        took = []
        for value in range(count):
            asked_s = time.perf_counter()
            answer = control.exchange(change(value % 1000 + 2))
            took.append(answer.at_s - asked_s)
            changed(answer)
        control.socket.close()
    return took


def syncs(folder: Path) -> list[float]:
    """What the same file system takes for as much as a change writes, and nothing else."""
    took = []
    with (folder / "syncs").open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(b"x" * 8192)
            begun_s = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - begun_s)
    return took


def p99(samples: list[float]) -> float:
    return statistics.quantiles(samples, n=100)[-1]


def ms(name: str, seconds: list[float]) -> record.Figure:
    return record.figure(name, "ms", [1e3 * each for each in seconds])


def main() -> None:
    options = argparse.ArgumentParser(prog="./bench plan", description=__doc__)
    options.add_argument("--changes", type=int, default=200, metavar="N", help="each time")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="paceline-plan-") as name:
        folder = Path(name)
        synced = syncs(folder)
        quiet = alone(folder / "alone", asked.changes)
        changes, rate = under_load(folder / "load", asked.changes)
    apart = ms("fronts differ, under load", [each.apart_s for each in changes])
    record.write(
        "plan",
        workload={
            "fronts": FRONTS,
            "changes": f"{asked.changes} alone, {asked.changes} under load, of one knob",
            "load": f"{KEPT} connections to each front, which ask without a pause",
        },
        figures=[
            ms("fdatasync of 8 KiB, nothing else", synced),
            ms("request to applied, alone", quiet),
            ms("request to applied, alone, p99", [p99(quiet)]),
            ms("request to applied, under load", [each.took_s for each in changes]),
            ms("request to applied, under load, p99", [p99([each.took_s for each in changes])]),
            ms("request to first prediction by it", [each.first_s for each in changes]),
            apart,
            record.figure("predictions meanwhile", "per s", [rate]),
        ],
        verdicts=[
            record.Verdict(
                f"fronts differ for at most {APART_MS:.0f} ms",
                f"at most {apart.high:.1f} ms in {len(changes)} changes, "
                f"{sum(each.apart_s > 0 for each in changes)} times at all",
                apart.high <= APART_MS,
            )
        ],
        packages=["uvloop", "h11"],
    )


if __name__ == "__main__":
    main()
