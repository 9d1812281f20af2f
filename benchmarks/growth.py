"""How cost grows: with models in one server, with open connections, with the size of a body.

- *Models*: 1, 10 and 100, which is as many as one server may have (`MODELS`), all of them the
  classifier under another name, asked by chance at one rate. Each has 12 settings and some 30
  series; it is told how many of those found no room (`SERIES_PER_PROCESS`).
- *Connections*: 10 to 10,000 that are open and idle, each after one answer, beside requests at one
  rate on 16.
- *Bodies*: 1 kB to 10 MB, JSON and binary, one caller without a pause, to a model whose input is as
  long as is sent and which takes its mean.

Times are the caller's, CPU time that of all processes of the server by request, memory the PSS of
them afterwards. Every step is a start of its own, in rounds; for each of the three there is a plot
of the medians over powers of ten.
"""

import argparse
import http.client
import math
import resource
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks import record, serving_models
from benchmarks._lines import Points, lines
from benchmarks._quiet import ATTEMPTS
from benchmarks._served import Seen, alone, expected, load, metrics, ours, total
from benchmarks._server import HEALTH_READY, ask, cpu_s
from benchmarks.models import _Graph
from benchmarks.peers.contender import Contender
from benchmarks.peers.environment import Unavailable
from benchmarks.peers.forms import Answer
from benchmarks.peers.running import ANSWER_S, Running, running
from benchmarks.peers.started import end_on_sigterm
from paceline.serve.model import Tensors
from paceline.terms.limits import MODELS

MODEL = "classifier"
MEAN = "mean"
MODEL_COUNTS = (1, 10, MODELS)
CONNECTIONS = (0, 10, 100, 1000, 10_000)
BUSY = 16
BODIES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
WARM_S = 1.0
SPARE_FILES = 1000

BYTES_OF_A_NUMBER = {"json": 7.0, "binary": 4.0}
"""of four decimals, sign and comma included"""


class Cost(NamedTuple):
    p50_ms: float
    p99_ms: float
    cpu_us: float
    memory_mb: float


class Step(NamedTuple):
    subject: str
    """what grows"""

    size: float
    line: str = ""
    """in the plot, where there are several"""

    @property
    def name(self) -> str:
        return f"{self.subject} {self.size:,.0f}" + (f", {self.line}" if self.line else "")


class Bench:
    def __init__(self, folder: Path, seconds: float, rate: float) -> None:
        self._folder = folder
        self._seconds = seconds
        self._rate = rate
        self._rows = alone(serving_models.inputs(MODEL, 1))
        self._path = serving_models.file(MODEL, folder)
        self._right = expected(self._path, MODEL, self._rows)
        self.dropped: dict[int, float] = {}
        """How often a series found no room, by the number of models."""

    def measured(self, step: Step) -> Cost:
        """Again where what sends was late itself, or else Unavailable."""
        for _ in range(ATTEMPTS - 1):
            with suppress(Unavailable):
                return self._once(step)
        return self._once(step)

    def _once(self, step: Step) -> Cost:
        if step.line:
            return self.bodies(int(step.size), step.line)
        which = self.models if step.subject == "models" else self.connections
        return which(int(step.size))

    def models(self, count: int) -> Cost:
        more = [f"m{number}" for number in range(1, count)]
        with self._up(ours(more)) as up:
            shares = ",".join(f"{name}=1" for name in (MODEL, *more))
            self.dropped[count] = total(metrics(up), "paceline_dropped_series_total")
            return self._at_rate(up, "--model", shares)

    def connections(self, count: int) -> Cost:
        with self._up(ours()) as up, idle(up.launch.port, count):
            return self._at_rate(up)

    def bodies(self, size: int, form: str) -> Cost:
        path = self._folder / f"{MEAN}.onnx"
        path.write_bytes(mean_of_all())
        row = numbers(round(size / BYTES_OF_A_NUMBER[form]))
        right = mean(row)
        with running(ours(), MEAN, path, self._folder, numbers(8), mean(numbers(8))) as up:
            asked = up.asked(form, row)
            connection = http.client.HTTPConnection("127.0.0.1", up.launch.port, timeout=ANSWER_S)
            took_ms: list[float] = []

            def once() -> None:
                begun_s = time.perf_counter()
                answer = up.answer(asked, form, connection)
                took_ms.append(1e3 * (time.perf_counter() - begun_s))
                if abs(float(answer[0] - right[0])) > 1e-3:
                    raise SystemExit(f"a wrong answer to {size} bytes of {form}")

            for _ in range(3):
                once()
            took_ms.clear()
            before_s, until_s = cpu_s(up.pids()), time.perf_counter() + self._seconds
            while time.perf_counter() < until_s:
                once()
            cpu_us = 1e6 * (cpu_s(up.pids()) - before_s) / len(took_ms)
            connection.close()
            p50_ms, p99_ms = map(float, np.percentile(took_ms, (50, 99)))
            return Cost(p50_ms, p99_ms, cpu_us, up.pss_mb())

    def _up(self, contender: Contender) -> AbstractContextManager[Running]:
        row, right = self._rows[0], self._right[0]
        return running(contender, MODEL, self._path, self._folder, row, right)

    def _at_rate(self, up: Running, *options: str) -> Cost:
        before_s = cpu_s(up.pids())
        asked = None if options else up.asked("json", self._rows[0])
        url = f"{up.url}/v2/models/{MODEL}/infer" if options else up.url
        busy = ("--connections", str(BUSY))
        seen = load(url, asked, self._rate, self._seconds, WARM_S, *busy, *options)
        return cost_of(seen, cpu_s(up.pids()) - before_s, up.pss_mb())


def cost_of(seen: Seen, used_s: float, memory_mb: float) -> Cost:
    if seen.latency is None:
        raise Unavailable(seen.not_told or "no times")
    if not seen.all_answered:
        raise Unavailable(f"{seen.requests - seen.answered} of {seen.requests} not answered")
    return Cost(seen.latency.p50_ms, seen.latency.p99_ms, 1e6 * used_s / seen.sent, memory_mb)


def mean_of_all() -> bytes:
    made = _Graph(0)
    made.add("ReduceMean", "x", made.whole(1), name="mean", keepdims=1)

    def floats(name: str, size: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size])

    return made.model(MEAN, [floats("x", "length")], [floats("mean", 1)])


def numbers(count: int) -> Tensors:
    values = np.random.default_rng(0).uniform(-1, 1, (1, max(1, count)))
    return {"x": values.round(4).astype(np.float32)}


def mean(of: Tensors) -> Answer:
    return np.asarray(of["x"].mean(axis=1, dtype=np.float64))


@contextmanager
def idle(port: int, count: int) -> Iterator[None]:
    """So many connections that were answered once and stay open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + SPARE_FILES:
        raise Unavailable(f"this process may open {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + SPARE_FILES), hard))
    with ExitStack() as open_ones:
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port), ANSWER_S)
            open_ones.enter_context(connection)
            status, _ = ask(connection, HEALTH_READY)
            if status != 200:
                raise Unavailable(f"a connection was answered {status}")
        yield


def steps() -> list[Step]:
    return [
        *(Step("models", count) for count in MODEL_COUNTS),
        *(Step("idle connections", count) for count in CONNECTIONS),
        *(Step("bytes", size, form) for size in BODIES for form in BYTES_OF_A_NUMBER),
    ]


def plot(subject: str) -> Path:
    return record.RESULTS / f"growth-{subject.replace(' ', '-')}.svg"


def power(size: float) -> float:
    """Of ten; nothing at all stands where one does."""
    return round(math.log10(max(1.0, size)), 2)


PANELS: Sequence[tuple[str, Callable[[Cost], float]]] = (
    ("p50, ms", lambda cost: cost.p50_ms),
    ("p99, ms", lambda cost: cost.p99_ms),
    ("CPU time, µs a request", lambda cost: cost.cpu_us),
    ("memory, MB", lambda cost: cost.memory_mb),
)


def middle(costs: Sequence[Cost]) -> Cost:
    return Cost(*(float(np.median(each)) for each in zip(*costs, strict=True)))


def drawn(subject: str, found: Mapping[Step, Sequence[Cost]]) -> str:
    costs_of = {step: middle(costs) for step, costs in found.items() if costs}
    panels: dict[str, dict[str, Points]] = {}
    for heading, value in PANELS:
        points: dict[str, list[tuple[float, float]]] = {}
        for step, cost in costs_of.items():
            if step.subject == subject:
                name = step.line or "requests at a rate"
                points.setdefault(name, []).append((power(step.size), value(cost)))
        panels[heading] = {**points}
    return lines(f"How cost grows with {subject}", f"{subject}, power of ten", panels)


def figures_of(found: Mapping[Step, Sequence[Cost]]) -> list[record.Figure]:
    figures = []
    for step, costs in found.items():
        if not costs:
            continue
        for name, unit, values in (
            ("p50", "ms", [each.p50_ms for each in costs]),
            ("p99", "ms", [each.p99_ms for each in costs]),
            ("CPU time", "µs/request", [each.cpu_us for each in costs]),
            ("memory", "MB", [each.memory_mb for each in costs]),
        ):
            figures.append(record.figure(f"{step.name}: {name}", unit, values))
    return figures


def verdicts_of(dropped: Mapping[int, float]) -> list[record.Verdict]:
    if not dropped:
        return []
    said = ", ".join(f"{lost:.0f} lost of {count} models" for count, lost in dropped.items())
    holds = not any(dropped.values())
    return [record.Verdict(f"all series of up to {MODELS} models have room", said, holds)]


def main() -> None:
    options = argparse.ArgumentParser(
        prog="./bench growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=5.0, help="of each step")
    options.add_argument("--rate", type=float, default=500.0, help="requests a second")
    options.add_argument("--only", default="", help="models, idle connections or bytes, by commas")
    asked = options.parse_args()
    end_on_sigterm()
    named = [each for each in asked.only.split(",") if each]
    wanted = [step for step in steps() if not named or step.subject in named]
    found: dict[Step, list[Cost]] = {step: [] for step in wanted}
    absent: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="pl-growth-") as name:
        bench = Bench(Path(name), asked.seconds, asked.rate)
        for _ in range(asked.rounds):
            for step in wanted:
                try:
                    found[step].append(bench.measured(step))
                except Unavailable as error:
                    absent[f"{step.name}, not measured"] = str(error)
    figures = figures_of(found)
    figures += [
        record.figure(f"models {count}: series without room", "series", [dropped])
        for count, dropped in bench.dropped.items()
    ]
    record.write(
        "growth",
        workload={
            "rate of requests to models and beside connections": asked.rate,
            "connections that ask": BUSY,
            "seconds": asked.seconds,
            "rounds": asked.rounds,
            **absent,
        },
        figures=figures,
        verdicts=verdicts_of(bench.dropped),
        packages=("numpy", "onnxruntime", "uvloop"),
    )
    for subject in dict.fromkeys(step.subject for step in wanted):
        plot(subject).write_text(drawn(subject, found))


if __name__ == "__main__":
    main()
