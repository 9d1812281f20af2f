"""The floors that the front door is promised to keep, all at once, under load by 20 users.

One server with the encoder of `./bench models`, texts of 64 words, one request in hand for each
user. First at a rate, Poisson arrivals: throughput, times, memory (PSS of all its processes, the
most of one look a second) and batch efficiency are of this part. Then the 20 users ask without a
pause, which fills batches: efficiency must hold there as well, the times are told for what they
are.

Batch efficiency is the rows that were run over the rows that the batches could have had when they
began: for each batch the smaller of what waited and `max_batch`. The server counts what each leaves
waiting, so that is exact. But it cuts batches short on purpose, where more rows would only make all
of them wait: from some size on, which it learns, a batch of this model is no cheaper by the row. So
the floor is held against the size that pays: rows left waiting count up to that size, and a batch
cut for another reason (a deadline, a bound) has to answer for them. The number for all that waited,
up to `max_batch`, stands beside it.

What pays is the server's own opinion. So yield is told as well, which needs none: the rows a second
without a pause, over those of onnxruntime alone on all cores in batches of the best size.
"""

import argparse
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from benchmarks import models, record
from benchmarks._served import Seen, Series, alone, expected, load, metrics, ours, total
from benchmarks._wrk import load as without_pause
from benchmarks.peers.environment import cache_folder
from benchmarks.peers.running import Running, running
from benchmarks.peers.started import end_on_sigterm
from paceline.serve.onnx_model import OnnxModel

MODEL = "encoder"
WORDS = 64
USERS = 20
BODIES = 16
WARM_S = 2.0

LEAST_PER_S = 50.0
MOST_MB = 500.0
MEAN_MS = 30.0
P99_MS = 100.0
EFFICIENCY = 0.8

LOOK_S = 1.0
SIZES = (1, 2, 4, 8, 16)
"""Rows of a batch that onnxruntime is tried with; beyond, a row of this model costs more."""

ALONE_S = 5.0


class Batches(NamedTuple):
    rows: float
    begun: float
    left_paying: float
    """Rows that waited and would have made a batch cheaper by the row."""

    left_beyond: float
    """Others, for which `max_batch` had room."""

    def since(self, before: "Batches") -> "Batches":
        return Batches(*(now - then for now, then in zip(self, before, strict=True)))

    @property
    def efficiency(self) -> "Efficiency | None":
        """None where nothing was run."""
        if not self.rows:
            return None
        paying = self.rows + self.left_paying
        return Efficiency(self.rows / paying, self.rows / (paying + self.left_beyond))


class Efficiency(NamedTuple):
    """Rows run, over those and what was left waiting."""

    of_what_pays: float
    of_max_batch: float


def batches(of: Series) -> Batches:
    left = (total(of, "paceline_batch_left_rows_total", pays=pays) for pays in ("yes", "no"))
    rows, begun = total(of, "paceline_batch_rows_sum"), total(of, "paceline_batches_total")
    return Batches(rows, begun, *left)


def best_per_s(path: Path, executors: int, seconds: float) -> float:
    """Rows, of onnxruntime in this process, with a batch on each executor, at the best size."""
    served = OnnxModel.load(path, MODEL)

    def rows_per_s(size: int) -> float:
        batch = models.inputs(MODEL, size, length=WORDS)
        begun_s = time.perf_counter()
        until_s = begun_s + seconds / len(SIZES)

        def run() -> int:
            done = 0
            while time.perf_counter() < until_s:
                served.run(batch)
                done += size
            return done

        with ThreadPoolExecutor(executors) as pool:
            running_ones = [pool.submit(run) for _ in range(executors)]
            done = sum(each.result() for each in running_ones)
        return done / (time.perf_counter() - begun_s)

    return max(map(rows_per_s, SIZES))


def told(efficiency: Efficiency | None) -> str:
    if efficiency is None:
        return "no batch"
    return f"{efficiency.of_what_pays:.1%} ({efficiency.of_max_batch:.1%} of max_batch)"


@contextmanager
def watched_mb(up: Running) -> Iterator[list[float]]:
    """Its memory, looked at meanwhile."""
    found = [up.pss_mb()]
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            found.append(up.pss_mb())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield found
    finally:
        over.set()
        looking.join()


def verdicts(
    seen: Seen,
    memory_mb: float,
    efficiencies: Sequence[Efficiency | None],
    full_per_s: float,
    best_per_s: float,
) -> list[record.Verdict]:
    """Each floor; times that were not told fail nothing and hold nothing."""
    answered = f"{seen.answered_rps:.1f}/s, {seen.answered} of {seen.requests} answered"
    keeps = seen.all_answered and seen.answered_rps > LEAST_PER_S
    found = [
        record.Verdict(f"more than {LEAST_PER_S:.0f} requests/s, none without", answered, keeps),
        record.Verdict(f"{USERS} users at once", answered, seen.all_answered),
        record.Verdict(
            f"less than {MOST_MB:.0f} MB", f"{memory_mb:.0f} MB at most", memory_mb < MOST_MB
        ),
    ]
    for line, limit_ms, name in (
        (f"less than {MEAN_MS:.0f} ms in the mean", MEAN_MS, "mean_ms"),
        (f"99 of 100 in less than {P99_MS:.0f} ms", P99_MS, "p99_ms"),
    ):
        if seen.latency is None:
            found.append(record.Verdict(line, seen.not_told or "no times", None))
        else:
            value = getattr(seen.latency, name)
            found.append(record.Verdict(line, f"{value:.3g} ms", value < limit_ms))
    line = f"batch efficiency above {EFFICIENCY:.0%} (rows run / min(waiting, size that pays))"
    kept = [None if each is None else each.of_what_pays > EFFICIENCY for each in efficiencies]
    said = " and ".join(map(told, efficiencies))
    holds = False if False in kept else None if None in kept else True
    found.append(record.Verdict(line, f"{said}, at the rate and without a pause", holds))
    share = full_per_s / best_per_s
    found.append(
        record.Verdict(
            f"yield of batches above {EFFICIENCY:.0%} of what onnxruntime can do alone",
            f"{share:.1%}, {full_per_s:.0f} of {best_per_s:.0f} rows/s",
            share > EFFICIENCY,
        )
    )
    return found


def main() -> None:
    options = argparse.ArgumentParser(
        prog="./bench floors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--seconds", type=float, default=60.0, help="at the rate; then a quarter")
    options.add_argument("--rate", type=float, default=100.0, help="requests a second")
    asked = options.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("wrk is missing; install the Debian package wrk")
    end_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="pl-floors-") as name:
        folder = Path(name)
        path = folder / f"{MODEL}.onnx"
        path.write_bytes(models.make(MODEL))
        rows = alone(models.inputs(MODEL, BODIES, length=WORDS))
        right = expected(path, MODEL, rows)
        best = best_per_s(path, record.this_machine().cores, ALONE_S)
        with running(ours(), MODEL, path, cache_folder(), rows[0], right[0]) as up:
            requests = [up.asked("json", row) for row in rows]
            with watched_mb(up) as memory_mb:
                counted = [batches(metrics(up))]
                at_users = ("--connections", str(USERS))
                seen = load(up.url, requests[0], asked.rate, asked.seconds, WARM_S, *at_users)
                counted.append(batches(metrics(up)))
                full = without_pause(up, requests, USERS, max(1.0, asked.seconds / 4), folder)
                counted.append(batches(metrics(up)))
    parts = [now.since(then) for then, now in pairwise(counted)]
    efficiencies = [each.efficiency for each in parts]
    figures = [
        record.figure("answered", "requests/s", [seen.answered_rps]),
        record.figure("memory, PSS of all processes", "MB", memory_mb),
    ]
    if seen.latency is not None:
        figures += [
            record.figure("mean", "ms", [seen.latency.mean_ms]),
            record.figure("p50", "ms", [seen.latency.p50_ms]),
            record.figure("p99", "ms", [seen.latency.p99_ms]),
        ]
    figures += [
        record.figure("without a pause: answered", "requests/s", [full.rate]),
        record.figure("onnxruntime alone, at its best size", "rows/s", [best]),
        record.figure("without a pause: not answered well", "requests", [full.errors]),
        record.figure("without a pause: p50", "ms", [full.p50_ms]),
        record.figure("without a pause: p99", "ms", [full.p99_ms]),
    ]
    for when, part in zip(("", "without a pause: "), parts, strict=True):
        begun = max(1.0, part.begun)
        left = part.left_paying + part.left_beyond
        figures += [
            record.figure(f"{when}rows of a batch", "rows", [part.rows / begun]),
            record.figure(f"{when}rows a batch left waiting", "rows", [left / begun]),
            record.figure(f"{when}of those that pay", "rows", [part.left_paying / begun]),
        ]
    record.write(
        "floors",
        workload={
            "model": f"{MODEL}, {WORDS} words",
            "users": USERS,
            "rate": asked.rate,
            "seconds": asked.seconds,
            "fronts": 1,
        },
        figures=figures,
        verdicts=verdicts(seen, max(memory_mb), efficiencies, full.rate, best),
        packages=("numpy", "onnxruntime", "uvloop"),
    )


if __name__ == "__main__":
    main()
