"""The past over a simulated day at 1000 requests a second: memory, cost, roll-ups equal to the raw.

In virtual time, through all that a server's owner does each second: read the boards, find what
happened, keep it, and once a minute write it down. Requests are written to real boards, each with a
latency of its own; what was written is counted beside it, by the arithmetic of whole numbers (every
time is a multiple of 2**-20 s), and each minute, hour and day that comes out must be the same:
counts and sums to the last bit, distributions to the last cell. Where a look's CPU time is told by
request, that is all that recording costs beyond the fronts' own counting, which no setting turns
off.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import record
from benchmarks._server import pss_mb
from paceline.clock import RealClock
from paceline.observe.board import Board
from paceline.serve.tally import Tally
from paceline.stats.sketch import (
    BUCKETS,
    COUNT,
    FIRST,
    MAX,
    MIN,
    RANGE_LOW,
    SPARE,
    SUM,
    UNDER,
    WIDTH,
)
from paceline.terms.limits import HISTORY_MINUTES
from paceline.terms.metric import (
    BATCH_ROWS,
    MODEL_SECONDS,
    PART_SECONDS,
    QUEUED,
    REQUEST_SECONDS,
    REQUESTS,
    ROWS,
    Metric,
)
from paceline.watch.cells import Cells, unpack
from paceline.watch.history import History
from paceline.watch.names import Names
from paceline.watch.rollup import DAY, HOUR, MINUTE, Kept
from paceline.watch.sampling import Reader, between, first
from paceline.watch.store import MetricsFile
from paceline.web.probe import ModelCpu, Recent, probe

MODELS = ("classifier", "encoder")
RATE = 1000
WALL_S = 1_800_000_000.0
UNIT = 2.0**-20
MOST_BYTES = 2_000_000
MOST_TICK_MS = 3.0
GROWS_MOST_MB = 6.0
"""From the second hour to the last. For a day minutes fill their places, 0.7 MB a model; the file
has a cache of 2 MB; the truth to compare with takes 0.5 MB. Then nothing grows."""


class Raw:
    """What was written of one model since it was last asked: the truth to compare with."""

    def __init__(self) -> None:
        self.requests = 0
        self.units = 0
        """of time, together"""
        self.cells = np.zeros(BUCKETS + 2, dtype=np.int64)

    def add(self, units: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        self.requests += len(units)
        self.units += int(units.sum())
        self.cells += counts

    def take(self, other: "Raw") -> None:
        self.requests += other.requests
        self.units += other.units
        self.cells += other.cells


class Traffic:
    """Writes a second of requests to a front's board, as the front does, but all at once."""

    def __init__(self, board: Board, model: str, seed: int) -> None:
        self._die = np.random.default_rng(seed)
        self._memory = np.asarray(board.memory)
        Tally(board, model)
        self._requests = board.counter(REQUESTS, model, "normal", "200")
        self._rows = board.counter(ROWS, model)
        self._queued = board.gauge(QUEUED, model, "normal")
        self._parts = [board.counter(PART_SECONDS, model, part) for part in ("queue", "infer")]
        self._sketches = [_cells(board, metric, model) for metric in TIMED]
        self.minute = Raw()

    def second(self, requests: int) -> None:
        die = self._die
        middle = 0.008 if die.random() < 0.95 else 0.03
        took = die.lognormal(np.log(middle), 0.5, requests)
        units = np.maximum(1, np.round(took / UNIT)).astype(np.int64)
        values: NDArray[np.float64] = units.astype(np.float64) * UNIT
        counts = _counts(values)
        self.minute.add(units, counts)
        _write(self._sketches[0], values, counts)
        runs: NDArray[np.float64] = values[:: max(1, requests // 100)] * 0.25
        _write(self._sketches[1], runs, _counts(runs))
        rows = die.integers(1, 33, len(runs)).astype(np.float64)
        _write(self._sketches[2], rows, _counts(rows))
        self._requests.add(requests)
        self._rows.add(float(rows.sum()))
        self._queued.set(float(die.integers(0, 20)))
        for counter in self._parts:
            counter.add(float(runs.sum()))


TIMED = (REQUEST_SECONDS, MODEL_SECONDS, BATCH_ROWS)


def _cells(board: Board, metric: Metric, model: str) -> Cells:
    board.sketch(metric, model)
    memory: Cells = np.asarray(board.cells_of(metric, (model,)))
    return memory


def _counts(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """In which bucket each value is, by the formula of `Sketch.record`."""
    places = (np.log(values) / WIDTH + (FIRST + SPARE - np.log(RANGE_LOW) / WIDTH)).astype(np.int64)
    return np.bincount(places - UNDER, minlength=BUCKETS + 2)


def _write(cells: Cells, values: NDArray[np.float64], counts: NDArray[np.int64]) -> None:
    low, high = float(values.min()), float(values.max())
    cells[MIN] = low if not cells[COUNT] else min(cells[MIN], low)
    cells[MAX] = max(cells[MAX], high)
    cells[UNDER:] += counts
    cells[SUM] += float(values.sum())
    cells[COUNT] += len(values)


class Outcome(NamedTuple):
    ticks_ms: NDArray[np.float64]
    writes_ms: list[float]
    pss_mb: list[float]
    """at the end of each hour"""
    bytes_per_model: float
    file_mb: float
    amiss: list[str]
    """what was not what was written"""
    compared: int


def lived(hours: int, folder: Path, rate: int = RATE) -> Outcome:
    board, names = Board(), Names()
    traffic = {model: Traffic(board, model, seed) for seed, model in enumerate(MODELS)}
    reader, past = Reader([board], names), History(names, 0.0, WALL_S)
    file = MetricsFile(folder, names)
    nothing = reader.read(0.0, WALL_S, ())
    before = first(0.0, WALL_S, nothing, nothing)
    ticks_ms = np.ones(hours * HOUR)  # its memory is there from the beginning
    found = Outcome(ticks_ms, [], [], 0.0, 0.0, [], 0)
    hour = {model: Raw() for model in MODELS}
    truth: list[dict[str, Raw]] = []
    compared = 0
    for second in range(1, hours * HOUR + 1):
        for each in traffic.values():
            each.second(rate // len(MODELS))
        began = time.process_time()
        now = reader.read(float(second), WALL_S + second, (), before)
        past.take(between(names, before, now))
        before = now
        ticks_ms[second - 1] = 1e3 * (time.process_time() - began)
        if second % MINUTE:
            continue
        minutes = past.finished(whole=False)
        began = time.process_time()
        file.write(minutes)
        found.writes_ms.append(1e3 * (time.process_time() - began))
        (minute,) = minutes
        for model, each in traffic.items():
            found.amiss.extend(differs(names, minute, model, each.minute))
            hour[model].take(each.minute)
            each.minute = Raw()
            compared += 1
        if second % HOUR == 0:
            truth.append(hour)
            hour = {model: Raw() for model in MODELS}
            found.pss_mb.append(pss_mb(os.getpid()))
    for kept, written in zip(file.read(HOUR, 0.0), truth, strict=True):
        for model in MODELS:
            found.amiss.extend(differs(names, kept, model, written[model]))
            compared += 1
    compared += _days(names, [*file.read(DAY, 0.0)], truth, found.amiss)
    file.close()
    size_mb = (folder / "metrics.db").stat().st_size / 1e6
    return found._replace(
        bytes_per_model=past.bytes_used / len(MODELS), file_mb=size_mb, compared=compared
    )


def _days(names: Names, days: list[Kept], truth: list[dict[str, Raw]], amiss: list[str]) -> int:
    for model in MODELS:
        by_day: dict[float, Raw] = {}
        for index, hour in enumerate(truth):
            began_s = (WALL_S + index * HOUR) // DAY * DAY
            by_day.setdefault(began_s, Raw()).take(hour[model])
        for kept in days:
            amiss.extend(differs(names, kept, model, by_day[kept.began_s]))
    return len(days) * len(MODELS)


def differs(names: Names, kept: Kept, model: str, raw: Raw) -> list[str]:
    """What is not as it was written."""
    requests = names.number(REQUESTS, (model, "normal", "200"))
    took = names.number(REQUEST_SECONDS, (model,))
    value = float(kept.values[kept.numbers == requests][0, 0])
    cells = unpack(kept.packs[took])
    where = f"{model}, {kept.size_s} s from {kept.began_s:.0f}"
    wrong = []
    if value != raw.requests or cells[COUNT] != raw.requests:
        wrong.append(f"{where}: {value:.0f} and {cells[COUNT]:.0f} requests of {raw.requests}")
    if cells[SUM] != raw.units * UNIT:
        wrong.append(f"{where}: {cells[SUM]!r} s of {raw.units * UNIT!r}")
    if not np.array_equal(cells[UNDER:].astype(np.int64), raw.cells):
        wrong.append(f"{where}: another distribution")
    return wrong


def probe_ms(times: int = 200) -> float:
    """Of the look at the machine that comes with each, for this process and its first child."""
    seen, models = Recent(RealClock().now), ModelCpu()
    began = time.process_time()
    for _ in range(times):
        probe([os.getpid()], 0.0, models, seen)
    return 1e3 * (time.process_time() - began) / times


def main() -> None:
    parser = argparse.ArgumentParser(prog="./bench watch", description=__doc__)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--rate", type=int, default=RATE)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = lived(arguments.hours, Path(folder), arguments.rate)
    look_ms = float(np.mean(found.ticks_ms))
    beside_ms = probe_ms()
    write_ms = float(np.mean(found.writes_ms))
    whole_ms = look_ms + beside_ms + write_ms / 60
    per_request_us = 1e3 * whole_ms / arguments.rate
    pss = found.pss_mb
    grew_mb = pss[-1] - pss[min(1, len(pss) - 1)]
    figures = [
        record.figure("a look at the boards", "ms", found.ticks_ms.tolist()),
        record.figure("a look at the machine", "ms", [beside_ms]),
        record.figure("a minute written", "ms", found.writes_ms),
        record.figure("all of it by request", "us", [per_request_us]),
        record.figure("PSS at the full hours", "MB", pss),
        record.figure("of the past, by model", "MB", [found.bytes_per_model / 1e6]),
        record.figure("metrics.db", "MB", [found.file_mb]),
    ]
    verdicts = [
        record.Verdict(
            "minutes, hours and days equal what was written",
            f"{found.compared} compared, {len(found.amiss)} amiss"
            + "".join(f"; {each}" for each in found.amiss[:3]),
            not found.amiss,
        ),
        record.Verdict(
            f"at most {MOST_BYTES / 1e6:g} MB a model",
            f"{found.bytes_per_model / 1e6:.2f} MB, {HISTORY_MINUTES // 60} h of minutes full",
            found.bytes_per_model <= MOST_BYTES,
        ),
        record.Verdict(
            f"memory grows by at most {GROWS_MOST_MB:g} MB after the second hour",
            f"{grew_mb:+.2f} MB; {', '.join(f'{each:.1f}' for each in pss)}",
            grew_mb <= GROWS_MOST_MB,
        ),
        record.Verdict(
            f"a tick takes less than {MOST_TICK_MS:g} ms of CPU with two models",
            f"{whole_ms:.2f} ms a second, {per_request_us:.2f} µs by request",
            whole_ms < MOST_TICK_MS,
        ),
    ]
    record.write(
        "watch",
        workload={
            "hours": arguments.hours,
            "requests a second": arguments.rate,
            "models": len(MODELS),
        },
        figures=figures,
        verdicts=verdicts,
        packages=("numpy",),
    )


if __name__ == "__main__":
    main()
