"""Steering against the best fixed setting: steps and drifts of the world, and noise that is none.

In virtual time, at loads of about one and a half times what one executor can do, so that settings
matter. A *story* is a world that changes: executors that disturb each other, rows that become dear
from some size on. Steering begins with a setting; beside it, on the same trace and in the same
world, run all fixed settings of a grid, and what each brings in time between two changes is
compared from the moment on when 200 batches have begun since the change.

The noise is that of Poisson arrivals and of batches that scatter, in worlds that stay as they are,
with the best setting to begin with: nothing should be moved, at 50, 90 and 130 % of what can be
done. What looking around costs there is the difference to the same runs without steering.
"""

import argparse
import itertools
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import msgspec
import numpy as np

from benchmarks import record
from paceline.evidence.latencies import Latency
from paceline.evidence.simulate import Run, Simulation, World
from paceline.evidence.traces import poisson
from paceline.serve.batch import Tuning
from paceline.serve.batcher import Dynamic, Policy
from paceline.serve.classes import classes
from paceline.serve.steering import Bounds, Steering
from paceline.terms.limits import ADJUST_EVERY_S

LATENCIES = Path(__file__).parent / "data" / "latencies.json"

SLO_S = 0.1
MOST = 64
RATE = 1300.0
PHASE_S = 90.0
SHIFT_S = 4.7
BATCHES = 200
DRIFT = [step / 24 for step in range(25)]
NEAR = 0.95
LOADS = (0.5, 0.9, 1.3)
QUIET = 0.95
NOISE_S = 30.0
COMPARED = 10
"""Seeds of the noise that are run without steering too."""

GRID_SIZES = (1, 4, 8, 16, 32, 64)

SCATTER = tuple(
    float(np.exp(0.12 * NormalDist().inv_cdf(share))) for share in np.linspace(0.005, 0.995, 199)
)
"""Log-normal, 12 %."""

BOTH: Bounds = {"executors": (1, 2), "max_batch": (1, MOST), "margin": (0.0, 0.5)}
ROWS: Bounds = {"max_batch": (1, MOST)}

Make = Callable[[], Policy | None]


def at_once() -> None:
    """The default of the core."""


dynamic = partial(Dynamic, 1, MOST, 0.02)


def costs(row_ms: float = 1.0, beyond_ms: float = 1.0, beside: float = 1.0) -> Latency:
    """5 ms a batch, so much a row, and from the 17th on so much; times `beside` beside another."""
    first_s = 0.005 + 0.016 * row_ms
    last_s = first_s + (MOST - 16) * beyond_ms / 1e3
    sizes = (1, 16, MOST)
    return Latency(sizes, (0.005 + row_ms / 1e3, first_s, last_s), SCATTER, beside)


class Story(NamedTuple):
    """`later` are the changes; between the last and the end there is one more phase."""

    name: str
    make: Make
    first: Latency
    later: tuple[tuple[float, Latency], ...]
    since_s: tuple[float, ...]
    """when phases begin that are compared"""
    until_s: float
    bounds: Bounds
    start: Tuning


def steps(name: str, make: Make, phases: Sequence[Latency], bounds: Bounds, start: Tuning) -> Story:
    later = tuple((PHASE_S * number, each) for number, each in enumerate(phases) if number)
    moments_s = tuple(at_s for at_s, _ in later)
    return Story(name, make, phases[0], later, moments_s, PHASE_S * len(phases), bounds, start)


def drift(
    name: str, make: Make, through: Sequence[Latency], bounds: Bounds, start: Tuning
) -> Story:
    """Within two phases, after one in which nothing changes; there is one such in the end, too."""
    later = tuple(
        (PHASE_S * (1 + 2 * number / len(through)), each) for number, each in enumerate(through)
    )
    return Story(name, make, through[0], later, (PHASE_S,), PHASE_S * 4, bounds, start)


STORIES = (
    steps(
        "executors disturb each other, and no more",
        at_once,
        (costs(), costs(beside=2.3), costs()),
        BOTH,
        Tuning(executors=2),
    ),
    steps(
        "rows from the 17th on are dear, and no more",
        dynamic,
        (costs(), costs(beyond_ms=4.0), costs()),
        ROWS,
        Tuning(),
    ),
    steps(
        "every row is four times as dear, and no more",
        dynamic,
        (costs(), costs(row_ms=4.0, beyond_ms=4.0), costs()),
        ROWS,
        Tuning(),
    ),
    drift(
        "executors disturb each other more and more",
        at_once,
        [costs(beside=1.0 + 1.3 * share) for share in DRIFT],
        BOTH,
        Tuning(executors=2),
    ),
    drift(
        "rows from the 17th on become dear",
        dynamic,
        [costs(beyond_ms=1.0 + 3.0 * share) for share in DRIFT],
        ROWS,
        Tuning(),
    ),
)


def grid(bounds: Bounds) -> list[Tuning]:
    counts = (1, 2) if "executors" in bounds else (1,)
    return [Tuning(executors=count, max_batch=size) for count in counts for size in GRID_SIZES]


def shifted(story: Story, seed: int) -> Story:
    """With each seed changes meet steering at another moment of its rounds."""
    by_s = SHIFT_S * seed
    return story._replace(
        later=tuple((at_s + by_s, each) for at_s, each in story.later),
        since_s=tuple(at_s + by_s for at_s in story.since_s),
        until_s=story.until_s + by_s,
    )


def simulate(story: Story, seed: int, tuning: Tuning, steer: bool) -> Run:
    world = World((story.first,), later=tuple((at_s, (each,)) for at_s, each in story.later))
    steering = Steering(story.bounds, SLO_S) if steer else None
    trace = poisson(RATE, story.until_s, seed)
    return Simulation(
        trace, world, classes(SLO_S), tuning, story.make(), seed=seed, steer=steering
    ).run()


def goodput(run: Run, since_s: float, until_s: float) -> float:
    """Of what came between."""
    arrived_s = np.asarray(run.trace.arrived_s)
    came = (arrived_s >= since_s) & (arrived_s < until_s)
    return float((run.in_time & came).sum()) / (until_s - since_s)


class Phase(NamedTuple):
    """How it went after one change. `from_s`: since it, when the comparison begins."""

    steered: float
    best: float
    setting: str
    from_s: float
    moves: list[str]


def phases(story: Story, seed: int) -> list[Phase]:
    story = shifted(story, seed)
    steered = simulate(story, seed, story.start, True)
    check(steered)
    windows = []
    for begun_s, end_s in zip(story.since_s, (*story.since_s[1:], story.until_s), strict=True):
        nth = bisect_right(steered.batch_s, begun_s) + BATCHES
        windows.append((begun_s, steered.batch_s[nth], end_s))
    best = [(0.0, "")] * len(windows)
    for tuning in grid(story.bounds):
        run = simulate(story, seed, tuning, False)
        name = _named(tuning)
        found = [(goodput(run, from_s, end_s), name) for _, from_s, end_s in windows]
        best = [max(pair) for pair in zip(best, found, strict=True)]
    return [
        Phase(
            goodput(steered, from_s, end_s),
            most,
            name,
            from_s - begun_s,
            [
                f"{at_s - begun_s:.0f} s: {move.reason}"
                for at_s, move in steered.moves
                if begun_s <= at_s < end_s
            ],
        )
        for (begun_s, from_s, end_s), (most, name) in zip(windows, best, strict=True)
    ]


def check(run: Run) -> None:
    """No knob more often than the desk allows."""
    for knob in {move.knob for _, move in run.moves}:
        moments_s = [at_s for at_s, move in run.moves if move.knob == knob]
        for before_s, after_s in itertools.pairwise(moments_s):
            assert after_s - before_s >= ADJUST_EVERY_S, (knob, before_s, after_s)


# --- Noise ----------------------------------------------------------------------------------------


class Still(NamedTuple):
    """A world that stays as it is."""

    name: str
    make: Make
    latency: Latency
    slo_s: float


def measured(model: str) -> Latency:
    """As `./bench latency` found it."""
    found = msgspec.json.decode(LATENCIES.read_bytes())["models"][model]
    fields = ("sizes", "median_s", "scatter", "side_by_side")
    return msgspec.convert({each: found[each] for each in fields}, Latency)


def stills() -> list[Still]:
    return [
        Still("two executors do not disturb", at_once, costs(), SLO_S),
        Still("two executors would disturb", at_once, costs(beside=2.3), SLO_S),
        Still("dynamic batches", dynamic, costs(beside=2.3), SLO_S),
        Still("the encoder", at_once, measured("encoder"), SLO_S),
        Still("the pictures", at_once, measured("cnn"), 2 * SLO_S),
    ]


class Noise(NamedTuple):
    """One world under one load: how many seeds were left alone, and what looking around cost, as a
    share of the goodput of those that were also run without steering."""

    name: str
    setting: str
    alone: int
    seeds: int
    cost: float
    moves: list[str]


def still_run(still: Still, rate: float, tuning: Tuning, seed: int, steer: bool) -> Run:
    steering = Steering(BOTH, still.slo_s) if steer else None
    return Simulation(
        poisson(rate, NOISE_S, seed),
        World((still.latency,)),
        classes(still.slo_s),
        tuning,
        still.make(),
        seed=seed,
        steer=steering,
    ).run()


def best_of(still: Still) -> tuple[float, Tuning]:
    """What can be done, and with which setting, when far more is asked for."""
    rate = 2 * 2 * max(size / still.latency.table(size)[size] for size in GRID_SIZES)
    found = [(still_run(still, rate, tuning, 0, False).goodput, tuning) for tuning in grid(BOTH)]
    return max(found, key=lambda pair: pair[0])


def noise(still: Still, load: float, seeds: int) -> Noise:
    capacity, tuning = best_of(still)
    moves, alone, costs_ = [], 0, []
    for seed in range(1, seeds + 1):
        steered = still_run(still, load * capacity, tuning, seed, True)
        check(steered)
        alone += not steered.moves
        moves += [f"seed {seed}, {at_s:.0f} s: {each.reason}" for at_s, each in steered.moves]
        if seed <= COMPARED:
            plain = still_run(still, load * capacity, tuning, seed, False)
            costs_.append(1 - steered.goodput / plain.goodput)
    cost = sum(costs_) / len(costs_)
    return Noise(f"{still.name}, {load:.0%}", _named(tuning), alone, seeds, cost, moves)


def _named(tuning: Tuning) -> str:
    return f"{tuning.executors} x {tuning.max_batch}"


def main() -> None:
    options = argparse.ArgumentParser(
        prog="./bench steering",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--seeds", type=int, default=2, help="of each story")
    options.add_argument("--noise", type=int, default=100, help="seeds of each world and load")
    asked = options.parse_args()

    figures: list[record.Figure] = []
    shares: list[float] = []
    worlds: list[Noise] = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        told = [
            [pool.submit(phases, story, seed) for seed in range(1, asked.seeds + 1)]
            for story in STORIES
        ]
        quiet = [
            pool.submit(noise, still, load, asked.noise) for still in stills() for load in LOADS
        ]
        for story, by_seed in zip(STORIES, told, strict=True):
            after = list(zip(*(each.result() for each in by_seed), strict=True))
            for number, seen in enumerate(after, 1):
                name = f"{story.name}, {number}" if len(after) > 1 else story.name
                found = [100 * each.steered / each.best for each in seen]
                figures.append(record.figure(f"{name}: of the best fixed", "%", found))
                from_s = [each.from_s for each in seen]
                figures.append(record.figure(f"{name}: {BATCHES} batches later", "s", from_s))
                shares += found
                show(name, seen)
        for each in (done.result() for done in quiet):
            worlds.append(each)
            figures.append(record.figure(f"{each.name}: left alone", "", [each.alone]))
            figures.append(record.figure(f"{each.name}: looking costs", "%", [100 * each.cost]))
            print(f"{each.name}, best {each.setting}: {each.alone} of {each.seeds} left alone")
            for move in each.moves:
                print(f"    {move}")
    least = min(shares)
    alone = min(each.alone / each.seeds for each in worlds)
    record.write(
        "steering",
        workload={
            "objective in s": SLO_S,
            "rate of stories in 1/s": RATE,
            "seconds between changes": PHASE_S,
            "seeds of stories": asked.seeds,
            "seeds of noise": asked.noise,
            "seconds of noise": NOISE_S,
            "fixed settings": f"executors 1, 2; max_batch {', '.join(map(str, GRID_SIZES))}",
        },
        figures=figures,
        verdicts=[
            record.Verdict(
                f"at least {NEAR:.0%} of the best fixed setting, from {BATCHES} batches after a "
                "change until the next",
                f"{least:.1f} % at worst",
                least >= 100 * NEAR,
            ),
            record.Verdict(
                f"nothing is changed for noise in {QUIET:.0%} of the seeds of each world and load",
                f"{alone:.0%} at worst",
                alone >= QUIET,
            ),
        ],
    )


def show(name: str, seen: Sequence[Phase]) -> None:
    print(name)
    for phase in seen:
        print(
            f"    {phase.steered:6.0f}/s, best fixed {phase.setting} {phase.best:.0f}/s: "
            f"{phase.steered / phase.best:.1%} from {phase.from_s:.1f} s on"
        )
        for move in phase.moves:
            print(f"        {move}")


if __name__ == "__main__":
    main()
