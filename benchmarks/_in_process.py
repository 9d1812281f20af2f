"""The limit of every server: onnxruntime called in a loop, in one or two processes at once.

`python -m benchmarks._in_process PATH MODEL ROWS THREADS SECONDS` is one of those: it says `ready`,
begins at a line on standard input and tells how many rows it did a second. Called by `serving`.
"""

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import onnxruntime  # type: ignore[import-untyped]

from benchmarks import serving_models
from benchmarks.record import RESULTS

ROOT = RESULTS.parent.parent
SIZES: Mapping[str, tuple[int, ...]] = {
    "classifier": (32, 64),
    "encoder": (1, 8, 32),
    "cnn": (1, 4, 8),
}
"""Rows of a batch that are tried."""


class Way(NamedTuple):
    processes: int
    threads: int
    rows: int

    @property
    def name(self) -> str:
        each = "process" if self.processes == 1 else "processes"
        return f"{self.processes} {each}, intra {self.threads}, batch {self.rows}"


def ways(model: str) -> list[Way]:
    return [Way(*most, rows) for most in ((2, 1), (1, 2)) for rows in SIZES[model]]


def rows_a_second(path: Path, model: str, way: Way, seconds: float) -> float:
    asked = [str(path), model, str(way.rows), str(way.threads), str(seconds)]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks._in_process", *asked],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(way.processes)
    ]
    for each in started:
        assert each.stdout is not None
        each.stdout.readline()
    for each in started:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    return sum(float(each.communicate()[0]) for each in started)


def main() -> None:
    path, model, rows, threads, seconds = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = int(threads), 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    batch = serving_models.inputs(model, int(rows))
    session.run(None, batch)
    print("ready", flush=True)
    sys.stdin.readline()
    done, begun_s = 0, time.perf_counter()
    while (passed_s := time.perf_counter() - begun_s) < float(seconds):
        session.run(None, batch)
        done += int(rows)
    print(done / passed_s)


if __name__ == "__main__":
    main()
