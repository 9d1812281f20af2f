"""What the constants of the default policy and of admission are worth: each at other values.

Runs the cells and the overloads of `./bench policies` with one constant changed at a time, and
compares goodput with the best tuned policy that was found there (which must have been run before).
Everything is in virtual time. These are the other ways that were tried before the values stood.
"""

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import NamedTuple
from unittest.mock import patch

import msgspec
import numpy as np

from benchmarks import record
from benchmarks.policies import (
    CELLS,
    DEFAULT,
    OVERLOADS,
    SLO_S,
    Found,
    Served,
    measured,
    paced,
    poisson_of,
    simulate,
    trace_of,
)
from paceline.serve import admission, batcher, core, latency
from paceline.serve.latency import LatencyModel


class Change(NamedTuple):
    where: ModuleType
    name: str
    value: object
    label: str


def _changes() -> list[Change | None]:
    constants: Sequence[tuple[ModuleType, str, Sequence[float]]] = (
        (latency, "EFFICIENT", (0.9, 0.98, 0.99, 1.0)),
        (batcher, "WORTH_A_CUT", (0.6, 1.0)),
        (admission, "MARGIN_MOST", (0.2, 0.3, 0.6, 0.8)),
    )
    every: list[Change | None] = [None]
    for where, name, values in constants:
        every += [Change(where, name, value, f"{name} = {value}") for value in values]
    return [*every, Change(core, "LatencyModel", partial(LatencyModel, 0.99), "quantile = 0.99")]


@contextmanager
def _changed(change: Change | None) -> Iterator[None]:
    if change is None:
        yield
    else:
        with patch.object(change.where, change.name, change.value):
            yield


class Outcome(NamedTuple):
    model: str
    label: str
    shares: list[float]
    """of the best tuned policy's goodput, by cell"""
    goodput: list[float]
    """of capacity, by overload"""
    p99: list[float]
    """of what was let in, of the objective, by overload"""

    def figures(self) -> Iterator[record.Figure]:
        where = f"{self.model}, {self.label}"
        yield record.figure(f"{where}: of the best tuned, cells", "share", self.shares)
        yield record.figure(f"{where}: goodput beyond capacity", "of capacity", self.goodput)
        yield record.figure(f"{where}: p99 of what is let in", "of the objective", self.p99)


def outcome(model: str, number: int) -> Outcome:
    change = _changes()[number]
    found = msgspec.json.decode(CELLS.read_bytes(), type=Found)
    served = Served(model, measured()[model])
    (most,) = (each.capacity for each in found.curves if each.model == model)
    shares, goodput, p99 = [], [], []
    with _changed(change):
        for cell in found.cells:
            if cell.model == model:
                trace = paced(served, trace_of(cell.trace), cell.load * most)
                shares.append(simulate(served, trace, DEFAULT).goodput / cell.best_behind)
        for load in OVERLOADS:
            run = simulate(served, paced(served, poisson_of, load * most, times=2), DEFAULT)
            goodput.append(run.goodput / most)
            p99.append(float(np.quantile(run.accepted_s, 0.99)))
    return Outcome(model, change.label if change else "as it is", shares, goodput, p99)


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    wanted = [(model, number) for model in SLO_S for number in range(len(_changes()))]
    figures: list[record.Figure] = []
    with ProcessPoolExecutor() as pool:
        for each in pool.map(outcome, *zip(*wanted, strict=True)):
            figures += each.figures()
            print(
                f"{each.model:10} {each.label:22} worst {min(each.shares):.3f} "
                f"mean {np.mean(each.shares):.3f}  overload {min(each.goodput):.3f} of capacity, "
                f"p99 {max(each.p99):.2f} of the objective",
                flush=True,
            )
    record.write(
        "constants",
        workload={"cells": "those of ./bench policies"},
        figures=figures,
        verdicts=[],
        packages=("numpy",),
    )


if __name__ == "__main__":
    main()
