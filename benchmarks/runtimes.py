"""How onnxruntime is best kept on the cores: executors, threads, sessions, and whose memory.

Each way in a process of its own, which also tells what it holds; all ways once in each round, so
that other work on the machine meets all of them. The reference models that compute; batches of 8.
`serve/onnx_model.py` does what is best here, and docs/design/models.md says so.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from benchmarks import models, record
from paceline.observe.probes import process

MODELS = ("encoder", "cnn")
ROWS = 8


class Way(NamedTuple):
    executors: int
    threads: int
    arena: bool = True
    sessions: bool = False
    """one for each executor"""
    shrinks: bool = False
    """the arena gives back what it can after each run"""


WAYS = {
    "1 x 1": Way(1, 1),
    "1 x 2": Way(1, 2),
    "2 x 1": Way(2, 1),
    "2 x 2": Way(2, 2),
    "2 x 1, a session each": Way(2, 1, sessions=True),
    "2 x 1, shrinking": Way(2, 1, shrinks=True),
    "2 x 1, malloc": Way(2, 1, arena=False),
}


class Found(msgspec.Struct):
    rows_s: float
    resident_mb: float


def tried(way: Way, path: str, name: str, seconds: float) -> Found:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime as ort  # type: ignore[import-untyped]

    def session() -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = way.threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = way.arena
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    run_options = ort.RunOptions()
    if way.shrinks:
        run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    first = session()
    sessions = [session() if way.sessions else first for _ in range(way.executors)]
    batch = dict(models.inputs(name, ROWS))
    for each in sessions:
        each.run(None, batch, run_options)
    counts = [0] * way.executors
    ends_s = time.perf_counter() + seconds

    def executor(index: int) -> None:
        while time.perf_counter() < ends_s:
            sessions[index].run(None, batch, run_options)
            counts[index] += 1

    begun_s = time.perf_counter()
    threads = [threading.Thread(target=executor, args=(i,)) for i in range(way.executors)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s = time.perf_counter() - begun_s
    used = process(os.getpid(), pss=False)
    assert used is not None
    return Found(sum(counts) * ROWS / took_s, used.rss_bytes / 1e6)


def main() -> None:
    options = argparse.ArgumentParser(prog="./bench runtimes", description=__doc__)
    options.add_argument("--seconds", type=float, default=0.5, help="for each way, in each round")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--try", nargs=3, metavar=("WAY", "FILE", "MODEL"), dest="one")
    asked = options.parse_args()
    if asked.one:
        way, path, name = asked.one
        print(msgspec.json.encode(tried(WAYS[way], path, name, asked.seconds)).decode())
        return
    rows_s: dict[str, list[float]] = defaultdict(list)
    resident_mb: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            path = Path(folder, f"{name}.onnx")
            path.write_bytes(models.make(name))
            for _ in range(asked.rounds):
                for way in WAYS:
                    command = ["-m", "benchmarks.runtimes", "--seconds", str(asked.seconds)]
                    said = subprocess.check_output(
                        [sys.executable, *command, "--try", way, str(path), name]
                    )
                    found = msgspec.json.decode(said, type=Found)
                    rows_s[f"{name}, {way}"].append(found.rows_s)
                    resident_mb[f"{name}, {way}, resident"].append(found.resident_mb)
    record.write(
        "runtimes",
        workload={"rows of a batch": ROWS, "seconds": asked.seconds, "rounds": asked.rounds},
        figures=[
            *(record.figure(way, "rows/s", found) for way, found in rows_s.items()),
            *(record.figure(way, "MB", found) for way, found in resident_mb.items()),
        ],
        verdicts=[],
        packages=["onnxruntime", "numpy"],
    )


if __name__ == "__main__":
    main()
