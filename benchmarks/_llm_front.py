"""One front before upstreams of a benchmark, with bounds that take seconds instead of minutes.

What it holds in objects it tells itself, when it gets a signal. Called by `llm_trouble` and
`llm_fuzz`.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks._server import children, faults_in_log, served

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

    @property
    def said(self) -> list[str]:
        """Lines of its log that must not be."""
        return faults_in_log(self.folder)


def _words(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counted.items() if number > 0)


@contextmanager
def front(folder: Path, settings: str, bounds: Mapping[str, float]) -> Iterator[Front]:
    """`settings` is its paceline.toml; `bounds` are those of terms/limits.py that are others."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(SITE)
    (folder / "paceline.toml").write_text(f"[models.digits]\n{settings}")
    paths = [str(folder / "site"), os.environ.get("PYTHONPATH", "")]
    environ = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "BENCH_BOUNDS": json.dumps(bounds),
        "BENCH_INSIDE": str(folder / "inside"),
    }
    options = ("--fronts", "1", "--config", str(folder / "paceline.toml"))
    with served(folder, *options, environ=environ) as (server, port):
        (pid,) = children(server.pid)
        yield Front(server, port, pid, folder)
