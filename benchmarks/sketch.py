"""The quantile sketch: its error on five distributions, the time of a record, its size.

Beside it, on the same values in the same rounds, the sketch by the authors of the idea:

    pip install --target FOLDER ddsketch && ./bench sketch --ddsketch FOLDER

The second list series is the A/A: how far two equal things measure apart here.
"""

import argparse
import importlib
import mmap
import random
import sys
import time
from array import array
from collections.abc import Callable
from typing import Any

from benchmarks import record
from paceline.stats.sketch import CELLS, RELATIVE_ERROR, UNDER, Sketch

DISTRIBUTIONS: dict[str, Callable[[random.Random], float]] = {
    "uniform": lambda die: die.uniform(1e-3, 1.0),
    "exponential": lambda die: die.expovariate(1 / 0.02),
    "lognormal": lambda die: die.lognormvariate(-5, 2),
    "pareto": lambda die: 1e-3 * die.paretovariate(1.1),
    "bimodal": lambda die: die.gauss(1.0, 0.1) * (1e-3 if die.random() < 0.7 else 1.0),
}
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
RECORD_NS = 1000.0
PARTS = 8

Record = Callable[[float], object]


def ddsketch(folder: str) -> Any:
    """What makes a sketch of theirs."""
    sys.path.append(folder)
    return importlib.import_module("ddsketch").DDSketch


def worst_error(ask: Callable[[float], float | None], ordered: list[float]) -> float:
    """Over all quantiles, against the exact order statistic; in per cent."""
    worst = 0.0
    for q in QUANTILES:
        exact, found = ordered[int(q * (len(ordered) - 1))], ask(q)
        assert found is not None
        worst = max(worst, abs(found - exact) / exact)
    return 100 * worst


def merges_in_any_order(values: list[float]) -> bool:
    """Whether parts merged forwards and backwards hold the very cells of all values at once."""
    parts = []
    for part in range(PARTS):
        sketch = Sketch()
        for value in values[part::PARTS]:
            sketch.record(value)
        parts.append(sketch)
    cells = []
    for order in ([], parts, parts[::-1]):
        memory = array("d", bytes(8 * CELLS))
        merged = Sketch(memory)
        for part_sketch in order:
            merged.merge(part_sketch)
        if not order:
            for value in values:
                merged.record(value)
        cells.append(memory[UNDER:])
    return cells[0] == cells[1] == cells[2]


def time_ns(add: Record, values: list[float]) -> float:
    start = time.perf_counter_ns()
    for value in values:
        add(value)
    return (time.perf_counter_ns() - start) / len(values)


def main() -> None:
    options = argparse.ArgumentParser(
        prog="./bench sketch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--values", type=int, default=1_000_000)
    options.add_argument("--repeats", type=int, default=15)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--ddsketch", metavar="FOLDER", help="where ddsketch was installed")
    asked = options.parse_args()
    other = ddsketch(asked.ddsketch) if asked.ddsketch else None

    figures: list[record.Figure] = []
    errors: list[float] = []
    die = random.Random(asked.seed)
    for name, draw in DISTRIBUTIONS.items():
        values = [draw(die) for _ in range(asked.values)]
        ordered = sorted(values)
        sketch = Sketch()
        for value in values:
            sketch.record(value)
        errors.append(worst_error(sketch.quantile, ordered))
        figures.append(record.figure(f"worst error, {name}", "%", [errors[-1]]))
        if other is not None:
            theirs = other(RELATIVE_ERROR)
            for value in values:
                theirs.add(value)
            error = worst_error(theirs.get_quantile_value, ordered)
            figures.append(record.figure(f"worst error, {name}, ddsketch", "%", [error]))
    merges = merges_in_any_order(values)

    timed = values[: asked.values // 10]
    series: dict[str, tuple[Callable[[], Record], list[float]]] = {
        "record, list": (lambda: Sketch([0.0] * CELLS).record, []),
        "record, list again (A/A)": (lambda: Sketch([0.0] * CELLS).record, []),
        "record, memoryview of shared memory": (
            lambda: Sketch(memoryview(mmap.mmap(-1, 8 * CELLS)).cast("d")).record,
            [],
        ),
    }
    if other is not None:
        series["record, ddsketch"] = (lambda: other(RELATIVE_ERROR).add, [])
    for _ in range(asked.repeats):
        for make, samples in series.values():
            samples.append(time_ns(make(), timed))
    times = {name: record.figure(name, "ns", samples) for name, (_, samples) in series.items()}
    figures += times.values()
    first, again, shared = list(times.values())[:3]
    figures.append(record.figure("A/A, median to median", "x", [again.median / first.median]))
    figures.append(record.figure("size", "bytes", [8.0 * CELLS]))

    record.write(
        "sketch",
        workload={
            "values per distribution": asked.values,
            "quantiles": ", ".join(map(str, QUANTILES)),
            "values per timing": len(timed),
            "seed": asked.seed,
        },
        figures=figures,
        verdicts=[
            record.Verdict(
                "at most 1 % error on five distributions",
                f"{max(errors):.3f} %",
                max(errors) <= 100 * RELATIVE_ERROR,
            ),
            record.Verdict(
                "merge is independent of order",
                f"{PARTS} parts forwards, backwards and all at once: "
                + ("the same cells" if merges else "different cells"),
                merges,
            ),
            record.Verdict(
                "at most 1 µs per record",
                f"median {first.median:.0f} ns in a list, {shared.median:.0f} ns in shared memory",
                max(first.median, shared.median) <= RECORD_NS,
            ),
        ],
        packages=["ddsketch"] if other else [],
    )


if __name__ == "__main__":
    main()
