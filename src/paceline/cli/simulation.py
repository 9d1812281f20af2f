"""What `paceline simulate` was asked, made into a simulation, and run.

Options are read strictly: whatever cannot be meant is told before anything runs. It prints nothing;
`simulate.py`, the only caller, imports it when the command is called, because it needs numpy.
"""

import difflib
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from paceline.clock import RealClock
from paceline.evidence import traces
from paceline.evidence.latencies import Latency, line
from paceline.evidence.policies import THEIRS, Chosen, choose
from paceline.evidence.simulate import Run, Simulation, World
from paceline.evidence.summary import Summary, summarize
from paceline.evidence.timing import measure
from paceline.flow.queue import NEVER, Waiting
from paceline.serve import digits
from paceline.serve.admission import MARGIN_MOST
from paceline.serve.batch import Tuning
from paceline.serve.classes import DEADLINE_SHARES, classes
from paceline.serve.core import Core, Refused
from paceline.serve.model import Model
from paceline.serve.onnx_model import OnnxModel
from paceline.serve.steering import Steering
from paceline.terms.amounts import counted, in_words, seconds, share
from paceline.terms.errors import BadInput, Misuse, UnknownModel
from paceline.terms.limits import BATCH_ROWS, ROWS

LATENCY = "2ms+0.5ms"
"""Of a batch, where neither it nor a model is given: a fixed part, and one for each row."""

EXECUTORS = 1024
"""The most that are simulated."""

LOW = 0
"""The rank."""

TOLD_EVERY = 5000
"""Requests between two signs of life."""

MIXES = {"plain": traces.PLAIN, "mixed": traces.MIXED}
EXAMPLES = {digits.NAME: digits.MODEL_PATH}

Facts = list[tuple[str, str]]
"""What was simulated, in words, by name; without a name it goes on with the one before."""

Tell = Callable[[str], None]
"""Shows how far it is."""


class Asked(msgspec.Struct, frozen=True):
    """The command line, but for where the outcome goes. Defaults are those of the options: what is
    left at them is left out of `command`."""

    trace: str
    slo: str
    rate: float | None = None
    seconds: float | None = None
    mix: str = "plain"
    model: str | None = None
    latency: tuple[str, ...] = ()
    policy: str = "at_once"
    max_batch: int = BATCH_ROWS
    executors: int = 1
    poison: str = "0%"
    crashes: str | None = None
    no_admission: bool = False
    steer: bool = False
    seed: int = 0

    @property
    def command(self) -> str:
        """What simulates the same again."""
        words = ["paceline", "simulate"]
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                option = f"--{field.name.replace('_', '-')}"
                for each in value if isinstance(value, tuple) else [value]:
                    words += [option] if each is True else [option, _word(each)]
        return shlex.join(words)


class Played(NamedTuple):
    """`policy` is it with all its parameters; `real_s`: how long the simulation took."""

    run: Run
    summary: Summary
    latencies: tuple[Latency, ...]
    policy: str
    facts: Facts
    real_s: float


def play(asked: Asked, tell: Tell | None) -> Played:
    """`tell` is None where nobody looks on."""
    _check(asked)
    slo_s = seconds(asked.slo, "--slo")
    poison = share(asked.poison, "--poison")
    crashes_s = None if asked.crashes is None else seconds(asked.crashes, "--crashes")
    given = [_line(each) for each in asked.latency or (LATENCY,)]
    choose(asked.policy, slo_s, given, asked.max_batch)  # what is wrong with it is told at once
    trace = traces.load(asked.trace, asked.seed, _mix(asked.mix), asked.rate, asked.seconds)
    shapes = 1 + max(trace.shapes, default=0)
    latencies = _latencies(asked, given, shapes, tell)
    row_s = max(each.table(1)[1] for each in latencies)
    steering = _steering(asked, slo_s) if asked.steer else None
    chosen = choose(asked.policy, slo_s, latencies, asked.max_batch)
    world = World(latencies, poison, 1 / crashes_s if crashes_s else 0.0)
    simulation = Simulation(
        trace,
        world,
        classes(slo_s, row_s),
        Tuning(asked.max_batch, executors=asked.executors, isolate=not chosen.rival),
        chosen.make(),
        seed=asked.seed,
        admission=not (asked.no_admission or chosen.rival),
        fifo=chosen.rival,
        steer=steering,
        core=Core if tell is None else _counting(len(trace), tell),
    )
    clock = RealClock()
    begun_s = clock.now()
    run = simulation.run()
    real_s = clock.now() - begun_s
    summary = summarize(run, slo_s, asked.executors, row_s)
    facts = [
        *_of_trace(asked, summary),
        _of_deadlines(trace, slo_s),
        *_of_latencies(asked, latencies),
        *_of_policy(asked, chosen),
        *_of_steering(asked, run),
        *_of_faults(world, crashes_s),
        ("seed", str(asked.seed)),
    ]
    return Played(run, summary, latencies, chosen.spec, facts, real_s)


def _word(value: object) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


# --- What was asked -------------------------------------------------------------------------------


def _check(asked: Asked) -> None:
    for option, value, most in (
        ("--max-batch", asked.max_batch, ROWS),
        ("--executors", asked.executors, EXECUTORS),
    ):
        if not 1 <= value <= most:
            raise BadInput(
                f"{option} cannot be this number",
                value=value,
                remedy=f"Write a whole number from 1 to {most}.",
            )
    if asked.steer and asked.policy.partition(":")[0] in THEIRS:
        raise Misuse(
            "only Paceline's own policies are steered",
            value=f"--policy {asked.policy} --steer",
            remedy="Leave out --steer, or name another policy.",
        )
    if asked.model is not None and asked.latency:
        raise Misuse(
            "a model's latency is measured, and cannot be given as well",
            value=f"--model {asked.model} --latency {' '.join(asked.latency)}",
            remedy="Leave out --model or --latency.",
        )


def _mix(name: str) -> traces.Mix:
    if name not in MIXES:
        raise BadInput("no mix has this name", value=name, remedy=_nearest(name, MIXES))
    return MIXES[name]


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f"Did you mean {near[0]}?" if near else f"There is {', '.join(known)}."


def _line(text: str) -> Latency:
    fixed, plus, row = text.partition("+")
    fixed_s = seconds(fixed, "the latency of a batch", may_be_zero=bool(plus))
    row_s = seconds(row or text, "the latency of a row", may_be_zero=fixed_s > 0) if plus else 0.0
    return line(fixed_s, row_s, ROWS)


def _latencies(
    asked: Asked, given: Sequence[Latency], shapes: int, tell: Tell | None
) -> tuple[Latency, ...]:
    """One for each shape; what is measured, and what nobody said, holds for all."""
    if asked.model is not None:
        return (_measured(asked.model, asked, tell),) * shapes
    if not asked.latency:
        return (*given,) * shapes
    if len(given) < shapes:
        raise BadInput(
            f"the requests have {shapes} shapes, and each needs its latency",
            value=f"--latency {' --latency '.join(asked.latency)}",
            remedy=f"Give --latency {shapes} times, in the order of the shapes; without any, all "
            f"take {LATENCY}.",
        )
    return (*given,)


def _measured(name: str, asked: Asked, tell: Tell | None) -> Latency:
    model = _model(name)

    def told(done: int, most: int) -> None:
        if tell is not None:
            tell(f"Measuring {name}: round {done} of at most {most}")

    try:
        return measure(model, asked.max_batch, asked.executors, RealClock().now, told, asked.seed)
    finally:
        model.close()


def _model(name: str) -> Model:
    path = EXAMPLES.get(name, Path(name))
    if not path.exists() and path.suffix != ".onnx":
        raise UnknownModel(
            "there is no such example, and no such file",
            value=name,
            remedy=_nearest(name, EXAMPLES) + " Otherwise name an ONNX file.",
        )
    return OnnxModel.load(path, path.stem)


def _steering(asked: Asked, slo_s: float) -> Steering:
    """As a server's, which has no more executors than were asked for."""
    return Steering(
        {
            "max_batch": (1, asked.max_batch),
            "executors": (1, asked.executors),
            "margin": (0.0, MARGIN_MOST),
        },
        slo_s,
    )


# --- How far it is --------------------------------------------------------------------------------


def _counting(requests: int, tell: Tell) -> Callable[..., Core]:
    """A core that says how far it is, and else decides as any."""

    class Counting(Core):
        came = 0

        def arrive(self, now: float, newcomer: Waiting) -> Refused | None:
            self.came += 1
            if self.came % TOLD_EVERY == 0:
                tell(f"Simulated {self.came / requests:.0%} of {counted(requests)} requests")
            return super().arrive(now, newcomer)

    return Counting


# --- What was simulated, in words -----------------------------------------------------------------


def _of_trace(asked: Asked, summary: Summary) -> Facts:
    came = f"{asked.trace}, {asked.mix}" if asked.mix != "plain" else asked.trace
    came += f": {counted(summary.requests)} request{'s' * (summary.requests != 1)}"
    if summary.offered_rps is not None:
        came += f" in {in_words(summary.trace_s)}, {counted(summary.offered_rps)} a second"
    return [("trace", came)]


def _of_deadlines(trace: traces.Trace, slo_s: float) -> tuple[str, str]:
    words = f"within {in_words(slo_s)}"
    if LOW in trace.ranks:
        words += f"; low priority within {in_words(DEADLINE_SHARES[LOW] * slo_s)}"
    if any(timeout_s != NEVER for timeout_s in trace.timeouts_s):
        words += "; within a request's own timeout where that is shorter"
    return ("in time", words)


def _of_latencies(asked: Asked, latencies: Sequence[Latency]) -> Facts:
    if asked.model is not None:
        return [("model", _measurement(asked, latencies[0]))]
    different = [*dict.fromkeys(latencies)]
    names = [f"shape {index}" for index in range(len(latencies))]
    return [
        ("latency" if len(different) == 1 else name, _as_line(each))
        for name, each in zip(names, latencies if len(different) > 1 else different, strict=False)
    ]


def _as_line(latency: Latency) -> str:
    one_s, many_s = latency.median_s
    row_s = (many_s - one_s) / (latency.sizes[1] - latency.sizes[0])
    return f"{in_words(one_s - row_s)} a batch" + (f", {in_words(row_s)} a row" if row_s else "")


def _measurement(asked: Asked, latency: Latency) -> str:
    sizes = [
        f"{rows} row{'s' * (rows > 1)} {in_words(time_s)}"
        for rows, time_s in zip(latency.sizes, latency.median_s, strict=True)
    ]
    shown = [sizes[at] for at in sorted({0, len(sizes) // 2, len(sizes) - 1})]
    slow = latency.scatter[(len(latency.scatter) - 1) * 99 // 100]
    told = f"{asked.model}, measured here: {', '.join(shown)}; one run in a hundred takes "
    told += f"{slow:.2f} times as long"
    if asked.executors > 1:
        told += f", and all {latency.side_by_side:.2f} times as long side by side"
    return told


def _of_policy(asked: Asked, chosen: Chosen) -> Facts:
    several = "s" * (asked.executors > 1)
    bounds = f"up to {asked.max_batch} rows a batch, {asked.executors} executor{several}"
    if chosen.rival:
        how = "in order of arrival, refuses nobody beforehand, runs nothing again"
    elif asked.no_admission:
        how = "without admission: refuses nobody beforehand"
    else:
        how = "with admission: what would be late is refused at once"
    return [("policy", chosen.spec), ("", bounds), ("", how)]


def _of_steering(asked: Asked, run: Run) -> Facts:
    if not asked.steer:
        return []
    moves = [("", f"at {in_words(at_s)}: {move.reason}") for at_s, move in run.moves]
    return [("steering", counted(len(moves)) + f" move{'s' * (len(moves) != 1)}"), *moves]


def _of_faults(world: World, crashes_s: float | None) -> Facts:
    facts = []
    if world.poison:
        facts.append(("poison", f"{world.poison * 100:g} % of requests break their batch"))
    if crashes_s is not None:
        back = in_words(world.restart_s)
        facts.append(("crashes", f"after {in_words(crashes_s)} of running, back after {back}"))
    return facts
