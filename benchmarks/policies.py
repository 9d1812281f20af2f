"""Batching policies over five traces and three models: goodput of the default and of tuned rivals.

Everything runs in virtual time, in cells of one model, one trace and one load; latencies were
measured (`./bench latency`). The load is a share of the *capacity*: the highest Poisson rate at
which the best policy answers 99 % in time. Each rival is tuned over its grid on the very trace it
is then compared on, as nobody could in production, once as it is and once behind our admission; so
are our own policies that wait. What expires is dropped from everybody's queue, which few rivals do.
The default has nothing to tune. Goodput is what was answered in time.

    ./bench policies            all cells; each is written down when it is done
    ./bench policies --resume   those that are missing
    ./bench policies --only encoder,bursty
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from benchmarks import record
from benchmarks._dots import dots
from benchmarks.traces import five
from paceline.evidence.latencies import Latency
from paceline.evidence.rivals import GRIDS
from paceline.evidence.simulate import Run, Simulation, World
from paceline.evidence.traces import DAY_SWING, PLAIN, Trace, diurnal, poisson
from paceline.serve.batch import Tuning
from paceline.serve.batcher import Adaptive, Dynamic, LatencyOptimized, Policy, fixed
from paceline.serve.classes import classes

LATENCIES = Path(__file__).parent / "data" / "latencies.json"
CELLS = record.RESULTS / "cells" / "policies.json"

PLOT = record.RESULTS / "policies.svg"

SLO_S = {"classifier": 0.0001, "encoder": 0.1, "cnn": 0.1}
"""Some ten times what a lone row takes, so that queues matter; not much for the classifier."""

MOST = {"classifier": 8, "encoder": 64, "cnn": 64}
REQUESTS = {"classifier": 120_000, "encoder": 8_000, "cnn": 8_000}
"""Of the classifier 120 000 take 0.17 s, in which a learner has to begin and to settle too."""

PACE_S = 0.1
"""The objective for which traces are as they were made; for a shorter one they are faster."""

EXECUTORS = 2
LOADS = (0.8, 1.2)
NAMES = ("poisson", "bursty", "diurnal", "azure", "servegen")
STEADY = (0.2, 0.4, 0.6, 0.8)
OVERLOADS = (1.0, 1.5, 2.0, 3.0)
IN_TIME = 0.99
NEAR = 0.98
"""The default has at least this share of the best policy's goodput."""

KEPT_UNDER_OVERLOAD = 0.9
KEPT = "at one to three times: goodput of its peak, or of what was asked where that is less"
SEED = 7
BISECTIONS = 9

Make = Callable[[], Policy | None]


class Candidate(NamedTuple):
    group: str
    name: str
    make: Make
    admission: bool
    fifo: bool


class Best(msgspec.Struct, frozen=True):
    """Of a group of candidates, the one with most goodput, and which parameters it had."""

    goodput: float
    parameters: str


class Cell(msgspec.Struct, frozen=True):
    model: str
    trace: str
    load: float
    rate: float
    default: float
    """Requests a second in time."""
    accepted_p99: float
    """Of what the default let in: latency as a share of the objective."""
    own: dict[str, Best]
    bare: dict[str, Best]
    """Rivals as they are."""
    behind: dict[str, Best]
    """Rivals behind our admission."""

    @property
    def best_behind(self) -> float:
        return max(each.goodput for each in (*self.behind.values(), *self.own.values()))

    @property
    def best_bare(self) -> float:
        return max(each.goodput for each in self.bare.values())


def measured() -> dict[str, Latency]:
    """The three models, as `./bench latency` found them."""
    found = msgspec.json.decode(LATENCIES.read_bytes())["models"]
    return {name: msgspec.convert(_latency(each), Latency) for name, each in found.items()}


def _latency(given: dict[str, Any]) -> dict[str, Any]:
    return {key: given[key] for key in ("sizes", "median_s", "scatter", "side_by_side")}


class Served(NamedTuple):
    """A model, and what is wanted of it."""

    model: str
    latency: Latency

    @property
    def slo_s(self) -> float:
        return SLO_S[self.model]

    @property
    def most(self) -> int:
        return MOST[self.model]

    @property
    def requests(self) -> int:
        return REQUESTS[self.model]

    @property
    def pace(self) -> float:
        """How much shorter than PACE_S the objective is."""
        return self.slo_s / PACE_S


def paced(
    served: Served, make: Callable[[float, float], Trace], rate: float, times: int = 1
) -> Trace:
    """Made for PACE_S at the same rate an objective, then as much faster as the objective is
    shorter: bursts and days too."""
    slower = rate * served.pace
    trace = make(slower, times * served.requests / slower)
    return msgspec.structs.replace(
        trace, arrived_s=[arrived_s * served.pace for arrived_s in trace.arrived_s]
    )


def simulate(served: Served, trace: Trace, candidate: Candidate) -> Run:
    return Simulation(
        trace,
        World((served.latency,)),
        classes(served.slo_s),
        Tuning(max_batch=served.most, executors=EXECUTORS),
        candidate.make(),
        seed=SEED,
        admission=candidate.admission,
        fifo=candidate.fifo,
    ).run()


DEFAULT = Candidate("default", "at once", lambda: None, admission=True, fifo=False)


def candidates(served: Served) -> Iterator[Candidate]:
    """All that is compared with the default."""
    slo_s, most = served.slo_s, served.most
    typical = served.latency.table(most).__getitem__
    for name, grid in GRIDS.items():
        for point in grid(slo_s, typical, most):
            label = ", ".join(f"{key}={value}" for key, value in point.keywords.items())
            yield Candidate(f"bare {name}", label, point, admission=False, fifo=True)
            yield Candidate(f"behind {name}", label, point, admission=True, fifo=True)
    own: list[tuple[str, str, Make]] = [
        ("adaptive", "as it comes", Adaptive),
        ("adaptive", "to the objective", partial(Adaptive, 1, most, slo_s / 4, slo_s / 2)),
        *(
            ("latency_optimized", f"share={share}", partial(LatencyOptimized, share))
            for share in (0.5, 2.0)
        ),
    ]
    for size in sorted({4, min(16, most), most}):
        for share in (0.1, 0.3):
            wait_s = share * slo_s
            label = f"size={size}, wait={share} of the objective"
            own.append(("fixed", label, partial(fixed, size, wait_s)))
            own.append(("dynamic", label, partial(Dynamic, max(1, size // 4), size, wait_s)))
    for name, label, make in own:
        yield Candidate(f"own {name}", label, make, admission=True, fifo=False)


def capacity(served: Served) -> float:
    """The highest rate by the default; raised as long as any other policy does better."""

    def enough(rate: float, candidate: Candidate) -> bool:
        trace = paced(served, poisson_of, rate)
        return simulate(served, trace, candidate).share_in_time >= IN_TIME

    table = served.latency.table(served.most)
    low, high = 0.0, 1.2 * EXECUTORS * max(n / table[n] for n in range(1, served.most + 1))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if enough(middle, DEFAULT) else (low, middle)
    while any(enough(1.02 * low, each) for each in candidates(served)):
        low *= 1.02
    return low


def poisson_of(rate: float, seconds: float) -> Trace:
    return poisson(rate, seconds, SEED, PLAIN)


def diurnal_of(rate: float, seconds: float) -> Trace:
    """Its busiest hour has this rate."""
    return diurnal(rate / (1 + DAY_SWING), seconds * (1 + DAY_SWING), SEED, PLAIN)


def trace_of(name: str) -> Callable[[float, float], Trace]:
    return lambda rate, seconds: next(
        each for each in five(rate, seconds, SEED, PLAIN) if each.name == name
    )


def cell(served: Served, trace: Trace, load: float, rate: float) -> Cell:
    default = simulate(served, trace, DEFAULT)
    groups: dict[str, Best] = {}
    for candidate in candidates(served):
        goodput = simulate(served, trace, candidate).goodput
        best = groups.get(candidate.group)
        if best is None or goodput > best.goodput:
            groups[candidate.group] = Best(goodput, candidate.name)
    return Cell(
        served.model,
        trace.name,
        load,
        trace.rate,
        default.goodput,
        float(np.quantile(default.accepted_s, 0.99)) if len(default.accepted_s) else 0.0,
        *(_named(groups, kind) for kind in ("own", "bare", "behind")),
    )


def _named(groups: dict[str, Best], kind: str) -> dict[str, Best]:
    return {
        group.removeprefix(f"{kind} "): best
        for group, best in groups.items()
        if group.startswith(f"{kind} ")
    }


def _one(wanted: tuple[Served, str, float, float]) -> Cell:
    served, name, load, rate = wanted
    return cell(served, paced(served, trace_of(name), rate), load, rate)


# --- Overload -------------------------------------------------------------------------------------


class Curve(msgspec.Struct, frozen=True):
    """The default of one model over loads: shares in time, goodput, and p99 of what was let in."""

    model: str
    capacity: float
    steady: dict[str, float]
    """By trace and load, the share in time; the load of a day is that of its busiest hour."""
    goodput: dict[str, float]
    accepted_p99: dict[str, float]


def curve(served: Served) -> Curve:
    most = capacity(served)
    steady, goodput, accepted = {}, {}, {}
    for load in STEADY:
        for name, make in (("poisson", poisson_of), ("diurnal", diurnal_of)):
            trace = paced(served, make, load * most, times=2)
            steady[f"{name} {load}"] = simulate(served, trace, DEFAULT).share_in_time
    for load in OVERLOADS:
        run = simulate(served, paced(served, poisson_of, load * most, times=2), DEFAULT)
        goodput[str(load)] = run.goodput
        accepted[str(load)] = float(np.quantile(run.accepted_s, 0.99))
    return Curve(served.model, most, steady, goodput, accepted)


# --- The bench ------------------------------------------------------------------------------------


class Found(msgspec.Struct):
    curves: list[Curve] = []
    cells: list[Cell] = []


def work(found: Found, only: list[str]) -> None:
    """What is missing, on all cores; written down piece by piece."""
    every = [Served(name, each) for name, each in measured().items() if name in SLO_S]
    with ProcessPoolExecutor() as pool:
        known = {each.model for each in found.curves}
        for found_curve in pool.map(curve, [each for each in every if each.model not in known]):
            found.curves.append(found_curve)
            possible = f"{found_curve.capacity:.0f} requests/s are possible"
            print(f"{found_curve.model}: {possible}", file=sys.stderr)
            save(found)
        capacities = {each.model: each.capacity for each in found.curves}
        done = {(each.model, each.trace, each.load) for each in found.cells}
        wanted = [
            (served, trace, load, load * capacities[served.model])
            for served in every
            for trace in NAMES
            for load in LOADS
            if (served.model, trace, load) not in done
            and all(each in (served.model, trace) for each in only)
        ]
        for number, each in enumerate(pool.map(_one, wanted), 1):
            found.cells.append(each)
            save(found)
            print(f"{number}/{len(wanted)} {line(each)}", file=sys.stderr)


def save(found: Found) -> None:
    CELLS.parent.mkdir(exist_ok=True)
    CELLS.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")


def line(each: Cell) -> str:
    best = max({**each.behind, **each.own}.items(), key=lambda item: item[1].goodput)
    return (
        f"{each.model:10} {each.trace:8} {each.load:.1f}  default {each.default / each.rate:.4f}  "
        f"best behind admission {best[1].goodput / each.rate:.4f} {best[0]} "
        f"({best[1].parameters})  "
        f"best as it is {each.best_bare / each.rate:.4f}"
    )


def plot(found: Found) -> str:
    """Of what was asked for, what was in time."""
    cells = sorted(found.cells, key=lambda c: (c.model, c.trace, c.load))
    return dots(
        "Answered in time, of what was asked for: model, trace, load",
        ("default, nothing tuned", "best tuned, our admission", "best rival as it is, tuned"),
        {
            f"{each.model} {each.trace} {each.load}": [
                goodput / each.rate for goodput in (each.default, each.best_behind, each.best_bare)
            ]
            for each in cells
        },
    )


def verdicts(found: Found) -> list[record.Verdict]:
    shares = {
        f"{each.model} {each.trace} {each.load}": each.default / max(each.best_behind, 1e-9)
        for each in found.cells
    }
    bare = {
        f"{each.model} {each.trace} {each.load}": each.default / max(each.best_bare, 1e-9)
        for each in found.cells
    }
    bursty = {name: share for name, share in bare.items() if " bursty " in name}
    steady = {f"{c.model} {name}": share for c in found.curves for name, share in c.steady.items()}
    kept = {
        f"{c.model} {load}": goodput / min(max(c.goodput.values()), float(load) * c.capacity)
        for c in found.curves
        for load, goodput in c.goodput.items()
    }
    accepted = {
        f"{c.model} {load}": p99 for c in found.curves for load, p99 in c.accepted_p99.items()
    }
    complete = len(found.cells) == len(SLO_S) * len(NAMES) * len(LOADS)
    return [
        _least(
            "the default, untuned, against the best tuned policy behind our admission",
            shares,
            NEAR,
            complete,
        ),
        _least("against the best tuned rival as it is", bare, NEAR, complete),
        _least("bursty: at least the best rival as it is", bursty, 1.0, complete),
        _least("up to 80 % of capacity, Poisson and day: in time", steady, IN_TIME, complete),
        _least(KEPT, kept, KEPT_UNDER_OVERLOAD, complete),
        _most(
            "at one to three times: p99 of what was let in, of the objective", accepted, complete
        ),
    ]


def _least(what: str, by_name: dict[str, float], least: float, complete: bool) -> record.Verdict:
    name = min(by_name, key=lambda each: by_name[each])
    found = f"{by_name[name]:.4f} ({name})"
    return record.Verdict(
        f"{what}: at least {least}", found, by_name[name] >= least if complete else None
    )


def _most(what: str, by_name: dict[str, float], complete: bool) -> record.Verdict:
    name = max(by_name, key=lambda each: by_name[each])
    found = f"{by_name[name]:.3f} ({name})"
    return record.Verdict(f"{what}: at most 1", found, by_name[name] <= 1 if complete else None)


def figures(found: Found) -> list[record.Figure]:
    listed = [
        record.figure(f"capacity {c.model}", "requests/s", [c.capacity]) for c in found.curves
    ]
    for each in found.cells:
        where = f"{each.model} {each.trace} {each.load}"
        listed.append(record.figure(f"{where} default", "share", [each.default / each.rate]))
        for kind, group in (("", each.own), ("bare ", each.bare), ("behind ", each.behind)):
            for name, best in group.items():
                share = best.goodput / each.rate
                listed.append(record.figure(f"{where} {kind}{name}", "share", [share]))
    return listed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resume", action="store_true", help="keep the cells that are there")
    parser.add_argument("--only", default="", help="models and traces, by commas")
    arguments = parser.parse_args()
    found = Found()
    if arguments.resume and CELLS.exists():
        found = msgspec.json.decode(CELLS.read_bytes(), type=Found)
    work(found, [each for each in arguments.only.split(",") if each])
    for each in sorted(found.cells, key=lambda c: (c.model, c.trace, c.load)):
        print(line(each))
    PLOT.write_text(plot(found))
    record.write(
        "policies",
        workload={
            "executors": EXECUTORS,
            "seed": SEED,
            **{f"requests a run, {name}": count for name, count in REQUESTS.items()},
            **{f"largest batch, {name}": rows for name, rows in MOST.items()},
            **{f"objective of {name}, ms": 1e3 * slo_s for name, slo_s in SLO_S.items()},
        },
        figures=figures(found),
        verdicts=verdicts(found),
        packages=("numpy",),
    )


if __name__ == "__main__":
    main()
