"""One front before upstreams of a benchmark, with bounds that take seconds instead of minutes.

What it holds in objects it tells itself, when it gets a signal. Called by `llm_trouble` and
`llm_fuzz`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks._server import HEALTH_READY, ask, children, connect, free_port

START_S = 60.0
TELL_S = 20.0
PAUSE_S = 0.01

INSIDE = ("Run", "Attempt", "Asked", "_Line", "_Call", "Exchange", "Connection", "tasks")
"""What a front holds in objects, by class; and its tasks."""


class Inside(NamedTuple):
    """`loose`: before its garbage collector has looked; `held`: after that."""

    loose: Mapping[str, int]
    held: Mapping[str, int]

    def more_than(self, before: "Inside") -> str:
        """What is held that was not, in words; empty where nothing is."""
        return _words({name: held - before.held[name] for name, held in self.held.items()})

    @property
    def in_cycles(self) -> str:
        """What only the collector has freed, in words."""
        return _words({name: self.loose[name] - held for name, held in self.held.items()})


SITE = """
import sys
if "_front" in sys.orig_argv:
    import asyncio, collections, gc, json, os, signal
    from paceline.terms import limits
    bounds = json.loads(os.environ["BENCH_BOUNDS"])
    assert all(hasattr(limits, name) for name in bounds), bounds
    vars(limits).update(bounds)

    def counted():
        held = collections.Counter(type(each).__name__ for each in gc.get_objects())
        return {**held, "tasks": len(asyncio.all_tasks(asyncio.get_running_loop()))}

    def tell(*_):
        loose = counted()
        gc.collect()
        path = os.environ["BENCH_INSIDE"]
        with open(path + ".part", "w") as file:
            json.dump([loose, counted()], file)
        os.replace(path + ".part", path)

    signal.signal(signal.SIGUSR2, tell)
"""


class Front(NamedTuple):
    server: subprocess.Popen[bytes]
    port: int
    pid: int
    folder: Path

    def inside(self) -> Inside:
        told = self.folder / "inside"
        told.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR2)
        until_s = time.perf_counter() + TELL_S
        while not told.exists():
            if time.perf_counter() > until_s:
                raise SystemExit("the front does not tell what it holds")
            time.sleep(PAUSE_S)
        loose, held = json.loads(told.read_text())
        return Inside(*({name: each.get(name, 0) for name in INSIDE} for each in (loose, held)))

    @property
    def is_there(self) -> bool:
        return children(self.server.pid) == [self.pid]

    def log(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()


def _words(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counted.items() if number > 0)


@contextmanager
def front(folder: Path, settings: str, bounds: Mapping[str, float]) -> Iterator[Front]:
    """`settings` is its paceline.toml; `bounds` are those of terms/limits.py that are others."""
    port = free_port()
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(SITE)
    (folder / "paceline.toml").write_text(settings)
    paths = [str(folder / "site"), os.environ.get("PYTHONPATH", "")]
    environ = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "BENCH_BOUNDS": json.dumps(bounds),
        "BENCH_INSIDE": str(folder / "inside"),
    }
    argv = [sys.executable, "-m", "paceline", "up", "--port", str(port), "--fronts", "1"]
    argv += ["--config", str(folder / "paceline.toml"), "--state", str(folder / "state")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            argv, stdout=subprocess.DEVNULL, stderr=log, env={**os.environ, **environ}
        )
    try:
        _until_ready(server, port, folder / "log")
        (pid,) = children(server.pid)
        yield Front(server, port, pid, folder)
    finally:
        server.kill()
        server.wait()


def _until_ready(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until_s = time.perf_counter() + START_S
    while time.perf_counter() < until_s and server.poll() is None:
        try:
            with connect(port) as line:
                if ask(line, HEALTH_READY)[0] == 200:
                    return
        except OSError:
            pass  # not yet
        time.sleep(PAUSE_S)
    raise SystemExit(f"the server is not ready after {START_S:.0f} s:\n{log.read_text()[-2000:]}")
