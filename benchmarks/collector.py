"""What the garbage collector's settings are worth to a front: times and CPU, with and without.

A ready front puts what it holds out of the collector's sight and has it look less often
(`_settle` and `COLLECT` in `web/front.py`). Here it serves the classifier under load at a rate as
it is, the same once more for what two runs differ by (A/A), with the first half of that alone
(`frozen`), and as Python begins (`untouched`). The front is not changed for it: what stands first
in its path replaces the function when the module is loaded. Each round starts all four, in another
order.

A difference counts where its median over the rounds is larger than any A/A difference of them.
"""

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import record, serving_models
from benchmarks._quiet import ATTEMPTS
from benchmarks._served import Seen, alone, expected, load, ours
from benchmarks._server import cpu_s
from benchmarks.peers.environment import Unavailable
from benchmarks.peers.forms import Answer
from benchmarks.peers.running import running
from benchmarks.peers.started import end_on_sigterm
from paceline.serve.model import Tensors
from paceline.web import front

MODEL = "classifier"
CONNECTIONS = 64
WARM_S = 2.0

AS_IS, AGAIN, FROZEN, UNTOUCHED = ARMS = ("as it is", "as it is, again", "frozen", "untouched")

SETTLES: Mapping[str, str] = {
    FROZEN: "gc.collect(), gc.freeze()",
    UNTOUCHED: "None",
}
"""What is done in the place of `_settle`; where nothing is said, that itself."""

REPLACED = '''"""Loads a module of the front with one function replaced; by ./bench collector."""

import gc
import sys
from importlib.machinery import PathFinder


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "{module}":
            return None
        spec = PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            module.{function}  # it is there to be replaced
            module.{function} = lambda: ({instead})
            print("{said}", file=sys.stderr)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
'''
SAID = "replaced by ./bench collector"


class Run(NamedTuple):
    p50_ms: float
    p99_ms: float
    p999_ms: float
    cpu_us: float


NAMES = {"p50_ms": "p50", "p99_ms": "p99", "p999_ms": "p99.9", "cpu_us": "CPU time"}
UNITS = {"p50_ms": "ms", "p99_ms": "ms", "p999_ms": "ms", "cpu_us": "µs/request"}


def replacement(instead: str) -> str:
    """The text of a `sitecustomize`, which Python runs first."""
    return REPLACED.format(
        module=front.__name__, function=front._settle.__name__, instead=instead, said=SAID
    )


def turns(number: int) -> Sequence[str]:
    """Everybody is first at some time."""
    first = number % len(ARMS)
    return (*ARMS[first:], *ARMS[:first])


def run_of(seen: Seen, used_s: float) -> Run:
    if seen.latency is None:
        raise Unavailable(seen.not_told or "no times")
    if not seen.all_answered:
        raise Unavailable(f"{seen.requests - seen.answered} of {seen.requests} not answered")
    times = seen.latency
    return Run(times.p50_ms, times.p99_ms, times.p999_ms, 1e6 * used_s / seen.sent)


class Compared(NamedTuple):
    """Of one figure, relative to as it is: the median over rounds, and the largest of the A/A."""

    change: float
    noise: float

    @property
    def says(self) -> bool | None:
        """That it is worth something; None where it is within the noise."""
        if abs(self.change) <= self.noise:
            return None
        return self.change > 0


def compared(rounds: Sequence[Mapping[str, Run]], arm: str, name: str) -> Compared:
    def changes(other: str) -> list[float]:
        return [getattr(each[other], name) / getattr(each[AS_IS], name) - 1 for each in rounds]

    noise = max(map(abs, changes(AGAIN)))
    return Compared(statistics.median(changes(arm)), noise)


class Bench:
    def __init__(self, folder: Path, rate: float, seconds: float) -> None:
        self._folder = folder
        self._rate = rate
        self._seconds = seconds
        self._path = serving_models.file(MODEL, folder)
        self._row: Tensors = alone(serving_models.inputs(MODEL, 1))[0]
        self._right: Answer = expected(self._path, MODEL, [self._row])[0]

    def measured(self, arm: str) -> Run:
        """Again where what sends was late itself, or else Unavailable."""
        for _ in range(ATTEMPTS - 1):
            try:
                return self._once(arm)
            except Unavailable as error:
                print(f"{arm}: once more: {error}")
        return self._once(arm)

    def _once(self, arm: str) -> Run:
        environ = {}
        if arm in SETTLES:
            place = self._folder / arm
            place.mkdir(exist_ok=True)
            (place / "sitecustomize.py").write_text(replacement(SETTLES[arm]))
            environ["PYTHONPATH"] = str(place)
        contender = ours(environ=environ)
        with running(contender, MODEL, self._path, self._folder, self._row, self._right) as up:
            log = (up.launch.folder / "log").read_text()
            if (SAID in log) != (arm in SETTLES):
                raise SystemExit(f"{arm}: the front did not load what it should: {log[-300:]}")
            asked = up.asked("json", self._row)
            before_s = cpu_s(up.pids())
            at_most = ("--connections", str(CONNECTIONS))
            seen = load(up.url, asked, self._rate, self._seconds, WARM_S, *at_most)
            return run_of(seen, cpu_s(up.pids()) - before_s)


def verdicts_of(rounds: Sequence[Mapping[str, Run]]) -> list[record.Verdict]:
    found = []
    for name in Run._fields:
        of = compared(rounds, UNTOUCHED, name)
        said = f"{of.change:+.1%} without it, A/A up to {of.noise:.1%}"
        line = f"the collector's settings are worth something in {NAMES[name]}"
        found.append(record.Verdict(line, said, of.says))
    return found


def main() -> None:
    options = argparse.ArgumentParser(
        prog="./bench collector",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=15.0, help="of each run")
    options.add_argument("--rate", type=float, default=1500.0, help="requests a second")
    asked = options.parse_args()
    end_on_sigterm()
    rounds: list[dict[str, Run]] = []
    with tempfile.TemporaryDirectory(prefix="pl-collector-") as name:
        bench = Bench(Path(name), asked.rate, asked.seconds)
        for number in range(asked.rounds):
            try:
                rounds.append({arm: bench.measured(arm) for arm in turns(number)})
            except Unavailable as error:
                print(f"round {number + 1} is left out: {error}")
    if not rounds:
        raise SystemExit("no round could be measured; try a lower --rate")
    record.write(
        "collector",
        workload={
            "model": MODEL,
            "rate": asked.rate,
            "connections": CONNECTIONS,
            "seconds": asked.seconds,
            "rounds": f"{len(rounds)} of {asked.rounds}",
            "as it is": f"gc.freeze, thresholds {front.COLLECT}",
        },
        figures=[
            record.figure(
                f"{arm}: {NAMES[name]}", UNITS[name], [getattr(each[arm], name) for each in rounds]
            )
            for arm in ARMS
            for name in Run._fields
        ],
        verdicts=verdicts_of(rounds),
        packages=("numpy", "onnxruntime", "uvloop"),
    )


if __name__ == "__main__":
    main()
