"""Overload, live: what is answered in time at 0.5 to 3 times of what ours can do, and by whom else.

Requests come at a rate, whether or not earlier ones were answered; goodput is what was answered
within the objective. Ours is told the objective. Triton and LitServe serve as they are in
`serving`; Triton once more as somebody would set it up who minds overload: with batches of 8, and a
queue that rejects what has waited for half of the objective, for it knows no time to answer in.
Capacity is what ours answers to 16 or 64 callers that ask without a pause, taken anew in each run.
The classifier is so fast that beyond 1.5 times what sends requests would need the cores of what
answers them.

    ./bench goodput                     all cells; each is written down when it is done
    ./bench goodput --resume            those that are missing
    ./bench goodput --only encoder,triton --runs 1 --quick
    ./bench goodput --report            from the cells that are there
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from benchmarks import record
from benchmarks._cell_bench import add_models, kept, measured, options, parsed, results
from benchmarks._cells import Cell, Cells, Key, median
from benchmarks._lines import lines
from benchmarks._open_loop import is_told, open_loop
from benchmarks._quiet import Quietest, quietest, watched
from benchmarks._wrk import load
from benchmarks.peers.contender import WAIT_MS, Contender
from benchmarks.peers.environment import Unavailable
from benchmarks.peers.litserve import LITSERVE
from benchmarks.peers.paceline import paceline
from benchmarks.peers.running import Running, running
from benchmarks.peers.started import end_on_sigterm
from benchmarks.peers.triton import triton
from benchmarks.serving import BODIES, Subject, line, subject

CELLS = record.RESULTS / "cells" / "goodput.json"
PLOT = record.RESULTS / "goodput.svg"

SLO_MS = {"classifier": 20, "encoder": 400, "cnn": 800}
"""What Triton keeps under closed load by some 16 to 64 callers, where it is fastest."""

REJECTING_ROWS = 8

LOADS = {
    "classifier": (0.5, 1.0, 1.5),
    "encoder": (0.5, 1.0, 1.5, 2.0, 3.0),
    "cnn": (0.5, 1.0, 1.5, 2.0, 3.0),
}
"""Of the capacity."""

CALLERS = {"classifier": 64, "encoder": 64, "cnn": 16}
OURS = "paceline"
WARM_S = 3.0
QUICK_S = 3.0

KEPT = 0.9
"""Of its highest goodput, at every load from capacity on; of what was asked, where that is less, as
it is where capacity was taken while the machine was slow."""


def contenders(model: str) -> list[Contender]:
    slo_ms = SLO_MS[model]
    return [
        paceline(OURS, slo_ms=slo_ms),
        triton("triton", WAIT_MS),
        triton("triton-rejecting", WAIT_MS, give_up_ms=slo_ms // 2, most_rows=REJECTING_ROWS),
        LITSERVE,
    ]


NAMES = tuple(each.name for each in contenders("encoder"))


def capacity_key(run: int, model: str) -> Key:
    return Key(run, OURS, model, "capacity")


def load_keys(run: int, contender: str, model: str) -> list[Key]:
    return [Key(run, contender, model, "goodput", "json", f"{at:g}x") for at in LOADS[model]]


class Bench:
    def __init__(self, cells: Cells, asked: argparse.Namespace, named: Sequence[str]) -> None:
        self._cells = cells
        self._models = [each for each in LOADS if each in named] or list(LOADS)
        self._names = [each for each in NAMES if each in named] or list(NAMES)
        self._peers: Path = asked.peers
        self._folder: Path = asked.models
        self._seconds: float = asked.seconds
        self._runs: int = asked.runs

    def wants(self, key: Key) -> bool:
        return key.model in self._models and key.contender in self._names

    def run(self) -> None:
        for run in range(self._runs):
            for model in self._models:
                of = subject(model, self._folder)
                if capacity_key(run, model) not in self._cells:
                    self._capacity(run, of)
                for contender in self._turns(run, model):
                    self._visit(run, of, contender)

    def _turns(self, run: int, model: str) -> Iterator[Contender]:
        """Everybody is first at some time."""
        listed = [each for each in contenders(model) if each.name in self._names]
        first = run % len(listed)
        yield from (*listed[first:], *listed[:first])

    def _capacity(self, run: int, of: Subject) -> None:
        try:
            with (
                self._up(contenders(of.model)[0], of) as up,
                tempfile.TemporaryDirectory(prefix="pl-wrk-") as name,
            ):
                asked = [up.asked("json", row) for row in of.rows[: BODIES[of.model]]]
                ask = partial(load, up, asked, CALLERS[of.model], folder=Path(name))
                ask(seconds=WARM_S)
                once = partial(ask, seconds=self._seconds)
                seen, quiet = quietest(partial(watched, once, up.cpu_s))
                self._add(capacity_key(run, of.model), {"rate": seen.rate}, quiet)
        except Unavailable as error:
            self._add(Key(run, OURS, of.model, "absent"), {}, note=str(error))

    def _visit(self, run: int, of: Subject, contender: Contender) -> None:
        capacity = self._cells.samples("rate", OURS, of.model, "capacity").get(run)
        keys = load_keys(run, contender.name, of.model)
        missing = [key for key in keys if key not in self._cells]
        if not capacity or not missing:
            return
        try:
            for key in missing:
                # A start for each: what an overload left in a queue is not the next one's.
                with self._up(contender, of) as up:
                    at = LOADS[of.model][keys.index(key)]
                    asked = [up.asked("json", row) for row in of.rows[: BODIES[of.model]]]
                    slo_ms = SLO_MS[of.model]
                    once = partial(
                        open_loop, up, asked, at * capacity, self._seconds, WARM_S, slo_ms
                    )
                    seen, quiet = quietest(partial(watched, once, up.cpu_s), is_told)
                    self._add(key, seen.figures, quiet, note=seen.not_told or "")
        except Unavailable as error:
            self._add(Key(run, contender.name, of.model, "absent"), {}, note=str(error))

    def _up(self, contender: Contender, of: Subject) -> AbstractContextManager[Running]:
        return running(contender, of.model, of.path, self._peers, of.rows[0], of.expected[0])

    def _add(
        self, key: Key, figures: dict[str, float], quiet: Quietest | None = None, note: str = ""
    ) -> None:
        cell = Cell(*key, figures, note=note)
        if quiet is not None:
            cell = Cell(*key, figures, *quiet.disturbance, quiet.attempts, note)
        self._cells.add(cell)
        print(line(cell), file=sys.stderr, flush=True)


# --- The report -----------------------------------------------------------------------------------


def goodput(cells: Cells, contender: str, model: str, what: str = "goodput") -> dict[float, float]:
    """Medians, in requests a second, by load."""
    found = {}
    for at in LOADS[model]:
        samples = cells.samples(what, contender, model, "goodput", "json", f"{at:g}x")
        middle = median(samples.values())
        if middle is not None:
            found[at] = middle
    return found


def verdicts(cells: Cells) -> list[record.Verdict]:
    found = []
    for model in LOADS:
        ours = goodput(cells, OURS, model)
        asked = goodput(cells, OURS, model, "offered")
        peak = max(ours.values(), default=0.0)
        beyond = [rate / min(peak, asked[at]) for at, rate in ours.items() if at >= 1 and peak]
        kept = min(beyond, default=None)
        found.append(
            record.Verdict(
                f"{model}: from capacity on at least {KEPT:g} of our highest goodput or the load",
                "not measured" if kept is None else f"{kept:.3g}",
                None if kept is None else kept >= KEPT,
            )
        )
        for name in NAMES[1:]:
            theirs = goodput(cells, name, model)
            ratios = [ours[at] / theirs[at] for at in ours if theirs.get(at)]
            better = [at for at in theirs if ours.get(at, 0.0) < theirs[at]]
            found.append(
                record.Verdict(
                    f"{model}: at every load at least the goodput of {name}",
                    f"{min(ratios):.3g} times at least" if ratios else "not measured, or theirs 0",
                    not better if theirs and ours else None,
                )
            )
        p99s = [
            cells.samples("p99_ms", OURS, model, "goodput", "json", f"{at:g}x").values()
            for at in LOADS[model]
        ]
        worst = max((median(each) or 0.0 for each in p99s), default=0.0)
        found.append(
            record.Verdict(
                f"{model}: p99 of what we answered at most the objective of {SLO_MS[model]} ms",
                f"{worst:.3g} ms" if worst else "not measured",
                worst <= SLO_MS[model] if worst else None,
            )
        )
    return found


def figures(cells: Cells) -> list[record.Figure]:
    grouped: dict[str, list[float]] = {}
    for each in cells.every():
        for name, value in each.figures.items():
            label = " ".join((each.model, each.contender, each.level or each.what, name))
            grouped.setdefault(label, []).append(value)
    return [record.figure(name, _unit(name), samples) for name, samples in grouped.items()]


def _unit(name: str) -> str:
    return "ms" if name.endswith("_ms") else "share" if name.endswith("_share") else "requests/s"


def drawn(cells: Cells) -> str:
    panels = {
        f"{model}, in time within {SLO_MS[model]} ms": {
            name: points
            for name in NAMES
            if len(points := sorted(goodput(cells, name, model).items())) > 1
        }
        for model in LOADS
    }
    return lines("Goodput, requests a second", "load, times our capacity", panels)


def report(cells: Cells, asked: argparse.Namespace) -> None:
    workload: dict[str, str | int | float] = {
        "seconds a cell": asked.seconds,
        "runs": 1 + max((each.run for each in cells.every()), default=-1),
        "disturbed cells": sum(each.is_disturbed for each in cells.every()),
        "times that could not be told": sum(
            bool(each.note) for each in cells.every() if each.what == "goodput"
        ),
    }
    for each in cells.every():
        if each.what == "absent":
            workload[f"{each.contender}, {each.model}"] = f"absent: {each.note}"
    if not asked.quick:
        PLOT.write_text(drawn(cells))
    record.write(
        "goodput",
        workload=workload,
        figures=figures(cells),
        verdicts=verdicts(cells),
        packages=("onnxruntime", "numpy"),
        folder=results(asked),
    )


def main() -> None:
    only = "models and contenders"
    parser = options("goodput", __doc__, only=only, runs=5, seconds=15.0, quick_s=QUICK_S)
    add_models(parser)
    asked = parsed(parser)
    named = [each for each in asked.only.split(",") if each]
    if unknown := [each for each in named if each not in (*LOADS, *NAMES)]:
        known = ", ".join((*LOADS, *NAMES))
        raise SystemExit(f"--only knows no {', '.join(unknown)}; it knows {known}")
    end_on_sigterm()
    cells = kept(asked, CELLS)
    bench = Bench(cells, asked, named)
    measured(asked, cells, bench.wants, bench.run)
    report(cells, asked)


if __name__ == "__main__":
    main()
