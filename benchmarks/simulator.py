"""How fast the simulator is, and what each part of a decision costs a request.

The mixed trace: four classes, two shapes, own timeouts, callers who leave, admission on, below and
above what two executors can do. The parts are timed in runs of their own, because reading the clock
around each call costs too; what an empty pair of readings costs is taken off.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import record
from paceline.evidence.latencies import line
from paceline.evidence.simulate import Simulation, World
from paceline.evidence.traces import MIXED, poisson
from paceline.serve.classes import classes
from paceline.serve.core import Core, Tuning

LEAST_PER_S = 80_000
MOST_US = 8.0
LOADS = (0.8, 1.5)
EXECUTORS = 2
SLO_S = 0.05
PARTS = {"arrive": "arrive (admission, queue)", "next": "next (batcher, queue)", "done": "done"}
SCATTER = tuple(np.exp(np.linspace(-0.2, 0.2, 21)).tolist())
WORLD = World((line(0.002, 0.0005, 64, SCATTER), line(0.003, 0.001, 64, SCATTER)))
MOST = 64


def capacity() -> float:
    """Requests a second with full batches of both shapes."""
    each_s = [
        share * latency.table(MOST)[MOST] / MOST
        for share, latency in zip(MIXED.shapes, WORLD.latencies, strict=True)
    ]
    return EXECUTORS * sum(MIXED.shapes) / sum(each_s)


def simulated(load: float, requests: int, core: Callable[..., Core] = Core) -> float:
    """Seconds of real time for each request."""
    rate = load * capacity()
    trace = poisson(rate, requests / rate, 1, MIXED)
    tuning = Tuning(max_batch=MOST, executors=EXECUTORS)
    simulation = Simulation(trace, WORLD, classes(SLO_S), tuning, core=core)
    begun = time.perf_counter()
    simulation.run()
    return (time.perf_counter() - begun) / len(trace)


def timed(spent: dict[str, list[float]]) -> type[Core]:
    """A Core that adds up what its parts take, and how often they are called."""

    def around(name: str) -> Callable[..., Any]:
        part = getattr(Core, name)
        sums = spent[name]
        clock = time.perf_counter

        def measured(self: Core, *arguments: Any) -> Any:
            begun = clock()
            result = part(self, *arguments)
            sums[0] += clock() - begun
            sums[1] += 1
            return result

        return measured

    return type("TimedCore", (Core,), {name: around(name) for name in PARTS})


def reading_s() -> float:
    """Of an empty pair of readings."""
    clock = time.perf_counter
    pairs = []
    for _ in range(20_000):
        begun = clock()
        pairs.append(clock() - begun)
    return float(np.median(pairs))


def _verdict(line: str, samples: list[float], unit: str, holds: list[bool]) -> record.Verdict:
    """Cannot tell where some runs hold it and others do not."""
    found = f"{np.median(samples):,.4g}{unit} ({min(samples):,.4g} to {max(samples):,.4g})"
    return record.Verdict(line, found, holds[0] if len(set(holds)) == 1 else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    figures, verdicts = [], []
    empty_s = reading_s()
    for load in LOADS:
        rates: list[float] = []
        again: list[float] = []
        costs: dict[str, list[float]] = {name: [] for name in (*PARTS, "decisions")}
        for _ in range(arguments.rounds):
            rates.append(1 / simulated(load, arguments.requests))
            spent = {name: [0.0, 0.0] for name in PARTS}
            simulated(load, arguments.requests, timed(spent))
            each = {
                name: 1e6 * (seconds - calls * empty_s) / arguments.requests
                for name, (seconds, calls) in spent.items()
            }
            for name, cost in each.items():
                costs[name].append(cost)
            costs["decisions"].append(sum(each.values()))
            again.append(1 / simulated(load, arguments.requests))
        where = f"at {load:g} of capacity"
        figures.append(record.figure(f"simulated {where}", "requests/s", rates))
        figures.append(record.figure(f"simulated {where}, again (A/A)", "requests/s", again))
        figures.append(record.figure(f"whole {where}", "us/request", [1e6 / r for r in rates]))
        for name, label in {**PARTS, "decisions": "decisions together"}.items():
            figures.append(record.figure(f"{label} {where}", "us/request", costs[name]))
        enough = [rate >= LEAST_PER_S for rate in rates]
        verdicts.append(_verdict(f"{LEAST_PER_S} requests/s {where}", rates, "/s", enough))
        cheap = [cost <= MOST_US for cost in costs["decisions"]]
        verdicts.append(
            _verdict(f"{MOST_US:g} µs of decisions {where}", costs["decisions"], " µs", cheap)
        )
    record.write(
        "simulator",
        workload={"requests a run": arguments.requests, "trace": "poisson, mixed"},
        figures=figures,
        verdicts=verdicts,
        packages=("numpy",),
    )


if __name__ == "__main__":
    main()
