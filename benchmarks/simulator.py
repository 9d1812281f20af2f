"""How fast the simulator is, and what each part of a decision costs a request.

The mixed trace: four classes, two shapes, own timeouts, callers who leave, admission on, below and
above what two executors can do.

What deciding costs is the difference of two runs: one with the core, and one that goes through the
same traffic with what the core decided read from a list; what reading it costs is added again. The
clock is not read inside. How that divides over the parts is seen in runs of their own, where it is
read around each call, which makes them dearer: what is taken off is the cost around a call of
nothing.

The work of each round is the same to the last bit, so what its time varies by is the machine's: the
verdict on the cost looks at the fastest quarter of many short rounds.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from benchmarks import record
from paceline.evidence.latencies import line
from paceline.evidence.simulate import Simulation, World
from paceline.evidence.traces import MIXED, poisson
from paceline.flow.queue import NEVER, Waiting
from paceline.serve.batch import Batch, Tuning
from paceline.serve.classes import classes
from paceline.serve.core import Core, End

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


def _prepared(load: float, requests: int, core: Callable[..., Core] = Core) -> Simulation:
    rate = load * capacity()
    trace = poisson(rate, requests / rate, 1, MIXED)
    tuning = Tuning(max_batch=MOST, executors=EXECUTORS)
    return Simulation(trace, WORLD, classes(SLO_S), tuning, core=core)


def simulated(load: float, requests: int, core: Callable[..., Core] = Core) -> float:
    """Seconds of real time for each request."""
    simulation = _prepared(load, requests, core)
    begun = time.perf_counter()
    simulation.run()
    return (time.perf_counter() - begun) / len(simulation.trace)


# --- Without deciding -----------------------------------------------------------------------------

Decided: TypeAlias = "tuple[Any, int, float, list[Batch], tuple[tuple[int, End], ...]]"
"""What was answered, then `idle`, `wake_s`, `running`, and who ended: requests by number."""


class Recorder(Core):
    """Writes down what it answers and what its owner can see afterwards."""

    def __init__(
        self, on_end: Callable[[Waiting, End], None], *arguments: Any, **more: Any
    ) -> None:
        self.decided: list[Decided] = []
        self.over: list[tuple[int, End]] = []

        def end(waiting: Waiting, how: End) -> None:
            self.over.append((waiting.work, how))
            on_end(waiting, how)

        super().__init__(end, *arguments, **more)

    def _write(self, answer: Any) -> Any:
        over, self.over = tuple(self.over), []
        self.decided.append((answer, self.idle, self.wake_s, list(self.running), over))
        return answer

    def arrive(self, now: float, newcomer: Waiting) -> Any:
        return self._write(super().arrive(now, newcomer))

    def next(self, now: float) -> Any:
        return self._write(super().next(now))

    def done(self, now: float, batch: Batch) -> Any:
        return self._write(super().done(now, batch))

    def leave(self, now: float, waiting: Waiting) -> Any:
        return self._write(super().leave(now, waiting))


class Replay:
    """A core that decides nothing: it goes through what one like it decided before."""

    def __init__(self, decided: list[Decided], on_end: Callable[[Waiting, End], None]) -> None:
        self._read = iter(decided).__next__
        self._on_end = on_end
        self.idle = EXECUTORS
        self.wake_s = NEVER
        self.running: list[Batch] = []
        self.dispatched: dict[str, int] = {}
        self.waits: dict[str, int] = {}
        self.reruns = 0

    def arrive(self, now: float, about: object) -> Any:
        answer, self.idle, self.wake_s, self.running, over = self._read()
        for number, how in over:
            self._on_end(Waiting(0, None, 1, 0, 0.0, 0.0, 0.0, number), how)
        return answer

    def next(self, now: float) -> Any:
        return self.arrive(now, None)

    done = leave = arrive


def replayed(load: float, requests: int) -> tuple[float, float]:
    """Seconds for each request without deciding, and those for reading what was decided."""
    recorders: list[Recorder] = []

    def recorder(*arguments: Any, **more: Any) -> Recorder:
        recorders.append(Recorder(*arguments, **more))
        return recorders[-1]

    written = _prepared(load, requests, recorder)
    ends = written.run().ends
    decided = recorders[0].decided
    simulation = _prepared(load, requests)
    core = Replay(decided, simulation.core._on_end)
    simulation.core = core  # type: ignore[assignment]
    begun = time.perf_counter()
    again = simulation.run().ends
    each_s = (time.perf_counter() - begun) / len(again)
    assert (again == ends).all(), "the replay is of something else"
    reading = Replay(decided, lambda waiting, how: None)
    begun = time.perf_counter()
    for _ in decided:
        reading.arrive(0.0, None)
    return each_s, (time.perf_counter() - begun) / requests


# --- Its parts ------------------------------------------------------------------------------------


class Nothing:
    def called(self, now: float, about: object) -> None:
        return


def _around(part: Callable[..., Any], sums: list[float]) -> Callable[..., Any]:
    """It, while what it takes and how often it is called are added up."""
    clock = time.perf_counter

    def measured(self: Any, *arguments: Any) -> Any:
        begun = clock()
        result = part(self, *arguments)
        sums[0] += clock() - begun
        sums[1] += 1
        return result

    return measured


def timed(spent: dict[str, list[float]]) -> type[Core]:
    """A Core that adds up what its parts take, and how often they are called."""
    parts = {name: _around(getattr(Core, name), spent[name]) for name in PARTS}
    return type("TimedCore", (Core,), parts)


def around_s() -> float:
    """Of a call of nothing, with the clock read around it, what such a call by itself does not
    take."""
    sums = [0.0, 0.0]
    measured = type("Measured", (Nothing,), {"called": _around(Nothing.called, sums)})()
    alone = Nothing()
    begun = time.perf_counter()
    for _ in range(100_000):
        alone.called(0.0, None)
    alone_s = (time.perf_counter() - begun) / 100_000
    for _ in range(100_000):
        measured.called(0.0, None)
    return sums[0] / sums[1] - alone_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    figures, verdicts = [], []
    clock_s = around_s()
    for load in LOADS:
        rates: list[float] = []
        again: list[float] = []
        costs: dict[str, list[float]] = {name: [] for name in (*PARTS, "decisions")}
        for _ in range(arguments.rounds):
            rates.append(1 / simulated(load, arguments.requests))
            without_s, reading_s = replayed(load, arguments.requests)
            spent = {name: [0.0, 0.0] for name in PARTS}
            simulated(load, arguments.requests, timed(spent))
            each = {
                name: 1e6 * (seconds - calls * clock_s) / arguments.requests
                for name, (seconds, calls) in spent.items()
            }
            for name, cost in each.items():
                costs[name].append(cost)
            again.append(1 / simulated(load, arguments.requests))
            whole_s = (1 / rates[-1] + 1 / again[-1]) / 2
            costs["decisions"].append(1e6 * (whole_s - without_s + reading_s))
        where = f"at {load:g} of capacity"
        figures.append(record.figure(f"simulated {where}", "requests/s", rates))
        figures.append(record.figure(f"simulated {where}, again (A/A)", "requests/s", again))
        figures.append(record.figure(f"whole {where}", "us/request", [1e6 / r for r in rates]))
        for name, label in {**PARTS, "decisions": "decisions together"}.items():
            figures.append(record.figure(f"{label} {where}", "us/request", costs[name]))
        middle = float(np.median(rates))
        found = f"{middle:,.0f}/s ({min(rates):,.0f} to {max(rates):,.0f})"
        enough = middle >= LEAST_PER_S
        verdicts.append(record.Verdict(f"{LEAST_PER_S} requests/s {where}", found, enough))
        decisions = costs["decisions"]
        quarter = float(np.quantile(decisions, 0.25))
        found = f"{quarter:.3g} µs, in the median {np.median(decisions):.3g}"
        line = f"{MOST_US:g} µs of decisions {where}, in the fastest quarter"
        verdicts.append(record.Verdict(line, found, quarter <= MOST_US))
    record.write(
        "simulator",
        workload={"requests a run": arguments.requests, "trace": "poisson, mixed"},
        figures=figures,
        verdicts=verdicts,
        packages=("numpy",),
    )


if __name__ == "__main__":
    main()
