"""Shifts of latency found in real noise: ours beside apache-otava and PELT of ruptures.

The noise is what answers of ours took on a machine that others worked on (`_steps.py`; `--record`
records it anew, in about eight minutes): medians and p99 of half seconds. Series of 200 steps are
put together of blocks of it, in their order, so that neighbours stay as alike as they were; into
most a shift of 5, 10 or 20 % is planted somewhere in their middle half. It is found if a change is
told within ten steps of it; whatever else is told is false.

Of each finder the parameters are chosen on series of half the sessions: those that find most, among
those that tell at most one false change in twenty series without a shift; or else, the fewest false
ones. What is reported is of the other half. Each is asked twice, and must say the same.
"""

import argparse
import itertools
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import _steps, record
from benchmarks._lines import lines
from benchmarks.peers.environment import Unavailable, cache_folder, python_of, version_in
from paceline.stats.shifts import shifts

NAME = "shifts"
Numbers = NDArray[np.float64]
Given = Mapping[str, Any]
Find = Callable[[Numbers, Given], list[int]]

APP = Path(__file__).parent / "peers" / "apps" / "shift_finders.py"

STEPS = 200
BLOCK = 25
NEAR = 10
SHIFTS = (0.05, 0.1, 0.2)
FALSE = 0.05
"""changes in a series without a shift, at most"""

KINDS = ("p50 of 1 row", "p50 of 32 rows", "p99 of 1 row", "p99 of 32 rows")

MAGNITUDE = 0.02
"""Smaller changes are told by nobody."""

PARAMETERS: Mapping[str, Sequence[Given]] = {
    "paceline": [
        {"chance": chance, "magnitude": MAGNITUDE, "least": least}
        for chance, least in itertools.product(
            (0.1, 0.05, 0.02, 0.01, 3e-3, 1e-3, 1e-4, 1e-6), (5, 8)
        )
    ],
    "otava": [
        {"chance": chance, "magnitude": MAGNITUDE, "window": window}
        for chance, window in itertools.product((1e-3, 1e-5, 1e-7, 1e-10), (30, 50, 100, 200))
    ],
    "pelt": [
        {"cost": cost, "penalty": penalty, "magnitude": MAGNITUDE, "least": 5}
        for cost, penalty in itertools.product(("linear", "rbf"), (1, 2, 4, 8, 16, 32, 64, 128))
    ],
}
"""Sixteen each."""


class Case(NamedTuple):
    kind: str
    shift: float
    at: int
    values: Numbers


class Found(NamedTuple):
    """`recall` by shift; `false` in a series, `quiet` in one without a shift."""

    recall: Mapping[float, float]
    false: float
    quiet: float

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.recall.values())))


def cases(
    sessions: Mapping[str, Sequence[Numbers]], count: int, seed: int, quiet: int = 1
) -> Sequence[Case]:
    """`count` of each kind and shift, and `quiet` times as many without one."""
    die = np.random.default_rng(seed)
    made = []
    for kind in KINDS:
        levelled = [each / np.median(each) for each in sessions[kind]]
        for shift in (0.0, *SHIFTS):
            for _ in range(count if shift else quiet * count):
                values = np.concatenate([_block(levelled, die) for _ in range(STEPS // BLOCK)])
                at = int(die.integers(STEPS // 4, 3 * STEPS // 4))
                values[at:] *= 1.0 + shift
                made.append(Case(kind, shift, at, values))
    return made


def _block(sessions: Sequence[Numbers], die: np.random.Generator) -> Numbers:
    session = sessions[int(die.integers(len(sessions)))]
    start = int(die.integers(len(session) - BLOCK + 1))
    return session[start : start + BLOCK]


def judged(several: Sequence[Case], told: Sequence[Sequence[int]]) -> Found:
    hits: dict[float, list[bool]] = {shift: [] for shift in SHIFTS}
    false: list[int] = []
    quiet: list[int] = []
    for case, places in zip(several, told, strict=True):
        if not case.shift:
            quiet.append(len(places))
            continue
        near = [at for at in places if abs(at - case.at) <= NEAR]
        hits[case.shift].append(bool(near))
        false.append(len(places) - bool(near))
    recall = {shift: float(np.mean(each)) for shift, each in hits.items()}
    return Found(recall, float(np.mean(false)), float(np.mean(quiet)))


def better(found: Found, best: Found | None) -> bool:
    if best is None:
        return True
    if (found.quiet <= FALSE) != (best.quiet <= FALSE):
        return found.quiet <= FALSE
    if found.quiet > FALSE:
        return found.quiet < best.quiet
    return (found.mean, -found.quiet) > (best.mean, -best.quiet)


def ours(values: Numbers, given: Given) -> list[int]:
    return [each.at for each in shifts(values, **given)]


class Peer:
    """A process that finds, in the environment of the peers."""

    def __init__(self, python: Path, finder: str) -> None:
        self._finder = finder
        self._process = subprocess.Popen(
            [str(python), str(APP)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __call__(self, values: Numbers, given: Given) -> list[int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([self._finder, given, values.tolist()]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise Unavailable(f"{self._finder} ended by itself")
        found: list[int] = json.loads(line)
        return found

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def tuned(find: Find, several: Sequence[Case], parameters: Sequence[Given]) -> Given:
    best: tuple[Found, Given] | None = None
    for given in parameters:
        found = judged(several, [find(case.values, given) for case in several])
        if best is None or better(found, best[0]):
            best = found, given
    assert best is not None
    return best[1]


def main() -> None:
    options = argparse.ArgumentParser(
        prog=f"./bench {NAME}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--record", action="store_true", help="record the noise anew")
    options.add_argument("--tuning", type=int, default=8, help="series of each kind and shift")
    options.add_argument("--cases", type=int, default=40, help="series of each kind and shift")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--peers", type=Path, default=cache_folder() / "peers")
    given = options.parse_args()
    if given.record:
        _steps.write({number: _steps.session() for number in range(_steps.SESSIONS)})
    noise = _steps.read()
    halves = [{kind: noise[kind][half::2] for kind in KINDS} for half in (0, 1)]
    # What is false is rare, and needs more series to be told from chance.
    tuning = cases(halves[0], given.tuning, given.seed, quiet=3)
    reported = cases(halves[1], given.cases, given.seed + 1, quiet=2)

    python = python_of("shifts", given.peers)
    peers = {name: Peer(python, name) for name in ("otava", "pelt")}
    finders: Mapping[str, Find] = {"paceline": ours, **peers}
    figures: list[record.Figure] = []
    workload: dict[str, str | int | float] = {
        "noise": f"{_steps.FILE.name}, {_steps.STEP_S} s a step",
        "series": f"{len(reported)} of {STEPS} steps, blocks of {BLOCK}",
        "seed": given.seed,
    }
    found: dict[str, Found] = {}
    alike = True
    try:
        for name, find in finders.items():
            chosen = tuned(find, tuning, PARAMETERS[name])
            workload[f"{name}, chosen on the other half"] = json.dumps(chosen)
            told = [find(case.values, chosen) for case in reported]
            if name == "paceline":
                alike = told == [find(case.values, chosen) for case in reported]
            found[name] = judged(reported, told)
            for shift, recall in found[name].recall.items():
                figures.append(record.figure(f"{name}: {shift:.0%} found", "%", [100 * recall]))
            for kind in KINDS:
                part = [i for i, case in enumerate(reported) if case.kind == kind]
                of_kind = judged([reported[i] for i in part], [told[i] for i in part])
                figures.append(record.figure(f"{name}: found in {kind}", "%", [100 * of_kind.mean]))
            figures.append(
                record.figure(
                    f"{name}: false, none planted", "per 100 series", [100 * found[name].quiet]
                )
            )
            figures.append(
                record.figure(
                    f"{name}: false beside a shift", "per 100 series", [100 * found[name].false]
                )
            )
    finally:
        for peer in peers.values():
            peer.close()
    mine, others = found["paceline"], [found[name] for name in peers]
    record.write(
        NAME,
        workload={
            **workload,
            "peers": f"apache-otava {version_in(python, 'apache-otava')}, "
            f"ruptures {version_in(python, 'ruptures')}",
        },
        figures=figures,
        verdicts=[
            record.Verdict(
                "8.3: shifts of 5, 10 and 20 %, recall not below the better of the two peers",
                f"mean {mine.mean:.0%}; {', '.join(f'{each.mean:.0%}' for each in others)}",
                mine.mean >= max(each.mean for each in others),
            ),
            record.Verdict(
                "8.3: false changes where none is planted, at most one in twenty series",
                f"{mine.quiet:.3f}; {', '.join(f'{each.quiet:.3f}' for each in others)}",
                mine.quiet <= FALSE,
            ),
            record.Verdict("8.3: the same twice", "it is" if alike else "it is not", alike),
        ],
        packages=["numpy"],
    )
    panel = {
        name: [(100 * shift, 100 * recall) for shift, recall in each.recall.items()]
        for name, each in found.items()
    }
    beside = {
        name: [(0.0, 100 * each.quiet), (20.0, 100 * each.false)] for name, each in found.items()
    }
    plot = lines(
        "Shifts of latency found in real noise",
        "shift in %",
        {"found, %": panel, "false, per 100 series (left: none planted)": beside},
    )
    (record.RESULTS / f"{NAME}.svg").write_text(plot)


if __name__ == "__main__":
    main()
