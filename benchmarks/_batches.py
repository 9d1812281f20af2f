"""What batches of the reference models take: alone, and beside a second executor.

Not what the latency model makes of it. Called by `./bench latency`, which also writes the table
that others read; `Table` is its form.
"""

import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks import models, record
from paceline.serve.onnx_model import OnnxModel

GRID = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
SCATTER = 20
"""Steps from the fastest batch to the slowest."""

TakeS = Callable[[int], float]
"""Runs a batch of so many rows and says what it took."""


class Kind(NamedTuple):
    """What is timed: a model, for the encoder with texts of a length, up to so many rows."""

    model: str
    most: int
    length: int = 64
    repeats: int = 1
    """in a round, of each size: where a batch is short, many cost nothing"""


KINDS = {
    "classifier": Kind("classifier", 128, repeats=20),
    "encoder": Kind("encoder", 32),
    "encoder_32": Kind("encoder", 32, length=32),
    "encoder_128": Kind("encoder", 32, length=128),
    "cnn": Kind("cnn", 32),
}


class Measured(msgspec.Struct, frozen=True):
    """A kind in the table. `scatter` is a batch over the median of its size, at each twentieth of
    all; the last is chosen so that straight lines between them have the mean of the slowest."""

    sizes: Sequence[int]
    median_s: Sequence[float]
    scatter: Sequence[float]
    side_by_side: float


class Table(msgspec.Struct, frozen=True):
    source: str
    date: str
    machine: record.Machine
    versions: Mapping[str, str]
    models: Mapping[str, Measured]


def loaded(folder: Path) -> dict[str, TakeS]:
    """By kind; those of one model share it, as the executors of a server do."""
    served = {}
    for name in models.NAMES:
        path = folder / f"{name}.onnx"
        path.write_bytes(models.make(name))
        served[name] = OnnxModel.load(path, name)
    return {name: _timed(served[kind.model], kind) for name, kind in KINDS.items()}


def _timed(model: OnnxModel, kind: Kind) -> TakeS:
    most = models.inputs(kind.model, kind.most, length=kind.length)

    def take_s(rows: int) -> float:
        batch = {name: values[:rows] for name, values in most.items()}
        start = time.perf_counter()
        model.run(batch)
        return time.perf_counter() - start

    return take_s


@contextmanager
def busy(take_s: TakeS, sizes: Sequence[int], die: random.Random) -> Iterator[None]:
    """A second executor that always has something to run."""
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            take_s(die.choice(sizes))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Samples:
    """What batches of one kind took by size, alone and beside a second executor, in turns."""

    def __init__(self, name: str, take_s: TakeS) -> None:
        self._kind = KINDS[name]
        self._take_s = take_s
        self.sizes = [size for size in GRID if size <= self._kind.most]
        self.alone: dict[int, list[float]] = {size: [] for size in self.sizes}
        self._beside: dict[int, list[float]] = {size: [] for size in self.sizes}

    def round(self, die: random.Random) -> None:
        self._run(self.alone, die)
        with busy(self._take_s, self.sizes, die):
            self._run(self._beside, die)

    def _run(self, into: dict[int, list[float]], die: random.Random) -> None:
        sizes = self.sizes * self._kind.repeats
        die.shuffle(sizes)
        for size in sizes:
            into[size].append(self._take_s(size))

    def ratios(self) -> list[float]:
        """Of all sizes together, in order."""
        return sorted(
            seconds / middle
            for samples in self.alone.values()
            for middle in (statistics.median(samples),)
            for seconds in samples
        )

    def side_by_side(self) -> float:
        return statistics.median(
            statistics.median(self._beside[size]) / statistics.median(self.alone[size])
            for size in self.sizes
        )

    def measured(self) -> Measured:
        ratios = self.ratios()
        last = len(ratios) - 1
        scatter = [ratios[step * last // SCATTER] for step in range(SCATTER)]
        slowest = statistics.fmean(ratios[(SCATTER - 1) * last // SCATTER :])
        scatter.append(max(scatter[-1], 2 * slowest - scatter[-1]))
        return Measured(
            sizes=self.sizes,
            median_s=[_significant(statistics.median(self.alone[size])) for size in self.sizes],
            scatter=[_significant(ratio) for ratio in scatter],
            side_by_side=_significant(self.side_by_side()),
        )


def _significant(value: float) -> float:
    return float(f"{value:.4g}")
