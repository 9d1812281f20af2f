"""Ten million requests through the watched serving core: is a promise broken, is a bug missed?

In chunks, each of which draws everything from its own seed: a trace that is not Poisson, a policy,
limits, costs and sizes, and a world with poison, crashes, timeouts and callers who leave, at 0.3 to
3 times what it can do. The watch (`paceline.testing.core_watch`) judges. Then each planted bug is
looked for in fresh chunks; and some chunks are run again, for the same seed must give the same.
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from benchmarks import record
from benchmarks._planted import PLANTED
from paceline.clock import Chance
from paceline.evidence.latencies import Latency, line
from paceline.evidence.recordings import Numbers, read
from paceline.evidence.rivals import BentoML, LitServe, MLServer, Triton
from paceline.evidence.simulate import ENDS, Run, Simulation, World
from paceline.evidence.traces import Mix, Trace, bursty, diurnal, from_rates, recorded
from paceline.flow.queue import NEVER, Waiting
from paceline.serve.batch import Tuning
from paceline.serve.batcher import Adaptive, AtOnce, Dynamic, LatencyOptimized, Policy, fixed
from paceline.serve.classes import Classes, classes
from paceline.serve.core import Core, Refused
from paceline.testing.core_watch import Violated, WatchedCore

AZURE = Path(__file__).parent / "data" / "llm_azure2023.csv.gz"
LOADS = (0.3, 3.0)
GAMMA_CV = 3.0
CHUNK = 50_000
CHUNK_OF_BUG = 5_000
FOUND_WITHIN = 100
"""chunks, in which each planted bug must be found"""
BUGS_FROM = 1_000_000
"""The seeds in which bugs are planted begin here."""
AGAIN = 10
"""Chunks that are run a second time, in other processes."""
PROCESSES = 2
TOLD_EVERY_S = 5.0
MIB = 1 << 20

T = TypeVar("T")


# --- What a seed draws ----------------------------------------------------------------------------


class Case(NamedTuple):
    trace: Trace
    world: World
    classes: Classes
    tuning: Tuning
    policy: Policy | None
    """None for the core's own, which is `AtOnce`"""
    admission: bool
    fifo: bool
    retuned: Sequence[tuple[float, Tuning]]
    cost_most: int
    """of a row"""

    def __str__(self) -> str:
        trace, world, tuning = self.trace, self.world, self.tuning
        return "\n".join(
            [
                f"{len(trace)} requests of {sum(trace.rows)} rows in {trace.seconds:.3g} s, "
                f"{trace.name}; targets {self.classes.targets_s}",
                f"{type(self.policy).__name__ if self.policy else 'AtOnce'}, "
                f"{'' if self.admission else 'no '}admission, "
                f"{'in order of arrival' if self.fifo else 'by target'}; {tuning}",
                *(f"from {at_s:.3g} s: {then}" for at_s, then in self.retuned),
                f"{len(world.latencies)} shapes, poison {world.poison:g}, "
                f"{world.crashes_per_s:.3g} crashes a second and executor, "
                f"{world.request_bytes} bytes a request, slower {world.steps}",
            ]
        )


def draw(seed: int, requests: int) -> Case:
    """A case of about so many requests."""
    chance = Chance(seed)
    shapes = tuple(_shape(chance) for _ in range(chance.integer(1, 3)))
    most_rows = chance.choice([1, 2, 8, 16, 64])
    tables_s = [each.table(most_rows) for each in shapes]
    full_s = sum(each[most_rows] for each in tables_s) / len(shapes)
    slo_s = chance.choice([None, 10 ** chance.uniform(0.1, 1.2) * full_s])
    policy = _policy(chance, most_rows, full_s)
    ours = policy is None or isinstance(policy, AtOnce | Dynamic | LatencyOptimized)
    cost_most = chance.choice([1, 1, 20])
    tuning = Tuning(
        max_batch=most_rows,
        batch_cost=chance.choice([NEVER, most_rows * cost_most * chance.uniform(0.1, 1.0)]),
        executors=chance.choice([1, 1, 2, 4]),
        isolate=ours and chance.uniform() < 0.5,
        max_waiting=chance.choice([1, 3, 30, 300, 300, *[10_000 if ours else 300] * 5]),
    )
    mix = _mix(chance, len(shapes), slo_s or 10 * full_s)
    load = 10 ** chance.uniform(*map(math.log10, LOADS))
    rate = load * tuning.executors * most_rows / full_s / mix.rows
    seconds = requests / rate
    retunings = chance.choice([0, 0, 3]) if ours else 0
    return Case(
        _trace(chance, rate, seconds, seed, mix),
        World(
            shapes,
            poison=chance.choice([0.001, 0.02, 0.1] if tuning.isolate else [0.0, 0.02]),
            crashes_per_s=chance.choice([0, 3, 100]) / seconds / tuning.executors,
            restart_s=chance.uniform(0.0, 20.0) * full_s,
            steps=tuple((chance.uniform(0, seconds), 2 ** chance.uniform(-1, 2)) for _ in "ab"),
            request_bytes=chance.choice([0, 1024, MIB, 20 * MIB]),
        ),
        classes(slo_s),
        tuning,
        policy,
        admission=ours and chance.uniform() < 0.7,
        fifo=not ours,
        retuned=[(chance.uniform(0, seconds), _retuned(chance, tuning)) for _ in range(retunings)],
        cost_most=cost_most,
    )


def _shape(chance: Chance) -> Latency:
    """Of 0.1 to 10 ms, and a row of as much or a hundredth; one batch in so many takes long."""
    fixed_s = 10 ** chance.uniform(-4, -2)
    row_s = fixed_s * 10 ** chance.uniform(-2, 0)
    scatter = chance.choice([(1.0,), (0.8, 1.0, 1.2), (0.9, *[1.0] * 18, 10.0)])
    return line(fixed_s, row_s, scatter=scatter)


def _policy(chance: Chance, most: int, full_s: float) -> Policy | None:
    wait_s = chance.uniform(0, 2) * full_s
    made: Sequence[Callable[[], Policy | None]] = [
        *[lambda: None] * 4,
        lambda: AtOnce(wait_s),
        LatencyOptimized,
        lambda: Dynamic(chance.integer(1, most), most, wait_s),
        lambda: fixed(chance.integer(1, most), wait_s),
        lambda: Adaptive(1, most, wait_s, full_s),
        lambda: Triton((most // 2,) if most > 1 else (), wait_s, most),
        lambda: LitServe(most, wait_s),
        lambda: BentoML(most, 1e3 * chance.uniform(1, 10) * full_s),
        lambda: MLServer(most, wait_s),
    ]
    return chance.choice(made)()


def _mix(chance: Chance, shapes: int, scale_s: float) -> Mix:
    return Mix(
        ranks=chance.choice([(0.0, 1.0, 0.0, 0.0), (0.2, 0.6, 0.15, 0.05), (1.0, 1.0, 1.0, 1.0)]),
        shapes=tuple(chance.uniform(0.1, 1.0) for _ in range(shapes)),
        rows=chance.choice([1.0, 1.0, 1.5, 4.0]),
        timing_out=chance.choice([0.0, 0.1, 0.5]),
        timeout_s=(0.1 * scale_s, 3 * scale_s),
        leaving=chance.choice([0.0, 0.05, 0.3]),
        leave_after_s=(0.0, 2 * scale_s),
    )


def _trace(chance: Chance, rate: float, seconds: float, seed: int, mix: Mix) -> Trace:
    turn_s = seconds / 10 ** chance.uniform(1, 3)
    begin = chance.uniform()
    made: Sequence[Callable[[], Trace]] = [
        lambda: bursty(rate, seconds, seed, mix, burst_s=turn_s / 5, quiet_s=turn_s),
        lambda: diurnal(rate, seconds, seed, mix),
        lambda: recorded(_azure(), rate, seconds, seed, mix, name="azure", begin=begin),
        lambda: from_rates([0, 1], [1, 1], GAMMA_CV, rate, seconds, seed, mix, name="gamma"),
    ]
    return chance.choice(made)()


@cache
def _azure() -> Numbers:
    return read(str(AZURE), {})["t_s"]


def _retuned(chance: Chance, tuning: Tuning) -> Tuning:
    return Tuning(
        max_batch=chance.integer(1, tuning.max_batch),
        batch_cost=tuning.batch_cost,
        executors=chance.integer(1, 4),
        isolate=chance.choice([False, True]),
        max_waiting=chance.integer(1, 2 * tuning.max_waiting),
    )


# --- A chunk --------------------------------------------------------------------------------------


class _Varied(Core):
    """Costs and sizes differ from request to request."""

    cost_most: int

    def arrive(self, now: float, newcomer: Waiting) -> Refused | None:
        newcomer.cost = newcomer.rows * (1 + newcomer.work * 7919 % self.cost_most)
        newcomer.size_bytes *= newcomer.work % 3
        return super().arrive(now, newcomer)


class Outcome(NamedTuple):
    seed: int
    requests: int
    """until the violation, where there is one"""
    ends: Sequence[int]
    digest: str
    violation: str


def play(seed: int, requests: int, planted: str = "", *, watch: bool = True) -> Outcome:
    """One chunk. Whatever else goes wrong than a promise is raised, with its seed."""
    drawn = draw(seed, requests)
    watching = (WatchedCore,) if watch else ()
    bug = (PLANTED[planted][0],) if planted else ()
    core = type("Played", (_Varied, *watching, *bug), {"cost_most": drawn.cost_most})
    simulation = Simulation(
        drawn.trace,
        drawn.world,
        drawn.classes,
        drawn.tuning,
        drawn.policy,
        seed=seed,
        admission=drawn.admission,
        fifo=drawn.fifo,
        core=core,
    )
    for at_s, tuning in drawn.retuned:
        simulation.at(at_s, simulation.core.tune, tuning)
    try:
        run = simulation.run()
        if isinstance(simulation.core, WatchedCore):
            simulation.core.check_end()
    except Violated as violated:
        return Outcome(seed, violated.came, (), "", str(violated))
    except Exception as fault:
        fault.add_note(f"in the chunk of seed {seed}: {_how_to_run(seed, planted)}")
        raise
    ends = [run.count(end) for end in range(len(ENDS))]
    return Outcome(seed, len(drawn.trace), ends, _digest(run), "")


def _digest(run: Run) -> str:
    """Of all that came of it."""
    told = json.dumps([run.batch_rows, run.batch_s, run.dispatched, run.waits, run.reruns])
    return hashlib.sha256(run.ends.tobytes() + run.ended_s.tobytes() + told.encode()).hexdigest()


class Found(NamedTuple):
    planted: str
    seed: int
    """of the chunk in which it was found; -1 where it was not"""
    requests: int
    sentence: str


def look_for(
    planted: str,
    requests: int = CHUNK_OF_BUG,
    seeds: Sequence[int] = range(BUGS_FROM, BUGS_FROM + FOUND_WITHIN),
) -> Found:
    sentence = PLANTED[planted][1]
    passed = 0
    for seed in seeds:
        outcome = play(seed, requests, planted)
        passed += outcome.requests
        if re.search(sentence, outcome.violation):
            return Found(planted, seed, passed, outcome.violation)
    return Found(planted, -1, passed, "")


# --- All of them ----------------------------------------------------------------------------------


def _how_to_run(seed: int, planted: str = "") -> str:
    return f"./bench schedulers --seed {seed}" + (f" --planted '{planted}'" if planted else "")


def _in_processes(what: Callable[..., T], asked: Iterable[tuple[object, ...]]) -> Iterator[T]:
    """In fresh ones, whose strings have other hashes each; as they come."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=spawn) as pool:
        for future in as_completed([pool.submit(what, *each) for each in asked]):
            yield future.result()


class Played(NamedTuple):
    outcomes: Sequence[Outcome]
    seconds: float

    @property
    def requests(self) -> int:
        return sum(each.requests for each in self.outcomes)

    @property
    def violated(self) -> Sequence[Outcome]:
        return [each for each in self.outcomes if each.violation]


def play_all(seeds: Sequence[int]) -> Played:
    outcomes: list[Outcome] = []
    begin = told = time.perf_counter()
    played = Played(outcomes, 0.0)
    for outcome in _in_processes(play, [(seed, CHUNK) for seed in seeds]):
        outcomes.append(outcome)
        if outcome.violation:
            print(f"  VIOLATED, {_how_to_run(outcome.seed)}: {outcome.violation}")
        if time.perf_counter() - told > TOLD_EVERY_S:
            told = time.perf_counter()
            print(
                f"  {played.requests:,} requests in {len(outcomes)} of {len(seeds)} chunks, "
                f"{played.requests / (told - begin):,.0f} a second, "
                f"{len(played.violated)} violations",
                flush=True,
            )
    return Played(outcomes, time.perf_counter() - begin)


def look_for_all() -> Sequence[Found]:
    found = []
    for each in _in_processes(look_for, [(name,) for name in PLANTED]):
        found.append(each)
        where = f"seed {each.seed}, after {each.requests:,} requests" if each.sentence else "NOT"
        print(f"  {each.planted}: found {where}: {each.sentence}", flush=True)
    return found


def same_again(first: Sequence[Outcome]) -> Sequence[int]:
    """The seeds that gave another outcome the second time, unwatched: neither chance nor the watch
    may change anything."""
    digests = {each.seed: each.digest for each in first}
    again = _in_processes(_unwatched, [(each.seed,) for each in first])
    return [each.seed for each in again if each.digest != digests[each.seed]]


def _unwatched(seed: int) -> Outcome:
    return play(seed, CHUNK, watch=False)


def one(seed: int, planted: str) -> int:
    """Shows a single chunk; the exit status."""
    requests = CHUNK_OF_BUG if planted else CHUNK
    print(draw(seed, requests))
    begin = time.perf_counter()
    outcome = play(seed, requests, planted)
    took_s = time.perf_counter() - begin
    if outcome.violation:
        print(f"VIOLATED: {outcome.violation}")
        return 1
    counts = ", ".join(f"{count} {end}" for count, end in zip(outcome.ends, ENDS, strict=True))
    print(f"{outcome.requests} requests in {took_s:.2f} s: {counts}\nhash {outcome.digest}")
    return 0


def main() -> None:
    options = argparse.ArgumentParser(
        prog="./bench schedulers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--requests", type=int, default=10_000_000, metavar="N")
    options.add_argument("--first", type=int, default=0, metavar="SEED", help="then the next")
    options.add_argument("--seed", type=int, metavar="N", help="run this chunk alone")
    options.add_argument("--planted", choices=[*PLANTED], default="", help="in it, this bug")
    asked = options.parse_args()
    if asked.seed is not None:
        raise SystemExit(one(asked.seed, asked.planted))
    seeds = range(asked.first, asked.first + math.ceil(asked.requests / CHUNK))
    print(f"{len(seeds)} chunks of {CHUNK:,} requests, each with its own seed from {asked.first}:")
    played = play_all(seeds)
    print("planted bugs:")
    found = look_for_all()
    differ = same_again([each for each in played.outcomes if each.digest][:AGAIN])
    for seed in differ:
        print(f"  DIFFERS the second time: {_how_to_run(seed)}")
    result = record.write(
        "schedulers",
        workload={
            "requests": played.requests,
            "chunks": f"{len(seeds)}, seeds {seeds[0]} to {seeds[-1]}",
            "processes": PROCESSES,
            "loads": f"{LOADS[0]:g} to {LOADS[1]:g} times what can be done",
            "traces": f"bursty, diurnal, recorded, gamma gaps with a CV of {GAMMA_CV:g}",
        },
        figures=[*_of_outcomes(played), *_of_bugs(found)],
        verdicts=_verdicts(played, found, differ),
        packages=["numpy", "msgspec"],
    )
    if not all(each.holds for each in result.verdicts):
        raise SystemExit(1)


def _of_outcomes(played: Played) -> list[record.Figure]:
    columns = zip(*(each.ends for each in played.outcomes if each.ends), strict=True)
    return [
        record.figure("watched", "requests/s", [played.requests / played.seconds]),
        *(
            record.figure(f"ended as {end}", "%", [100 * sum(column) / played.requests])
            for end, column in zip(ENDS, columns, strict=True)
        ),
    ]


def _of_bugs(found: Sequence[Found]) -> list[record.Figure]:
    return [record.figure(f"{each.planted}: found", "requests", [each.requests]) for each in found]


def _verdicts(
    played: Played, found: Sequence[Found], differ: Sequence[int]
) -> list[record.Verdict]:
    violated = [each.seed for each in played.violated]
    missed = [each.planted for each in found if not each.sentence]
    latest = max(each.requests for each in found)
    return [
        record.Verdict(
            "no promise of the scheduler is broken, and nobody is left without an answer",
            f"{played.requests:,} requests, {_listed('violated in the chunk of seed', violated)}",
            not violated,
        ),
        record.Verdict(
            f"each planted bug is found: {', '.join(PLANTED)}",
            f"{_listed('missed', missed)}, after {latest:,} requests at most",
            not missed,
        ),
        record.Verdict(
            "the same seed gives the same, watched or not, in another process",
            f"{AGAIN} chunks again, {_listed('other for seed', differ)}",
            not differ,
        ),
    ]


def _listed(what: str, found: Sequence[object]) -> str:
    return f"{what} {', '.join(map(str, found))}" if found else f"none {what.partition(' ')[0]}"


if __name__ == "__main__":
    main()
