"""Our server beside others, in one interleaved run: rates, latencies, memory, starts, answers.

Every contender serves the same model files in turn, in the configuration that was fastest for it,
asked in the form that is fastest of those it takes. In each run every contender starts once per
model: its first right answer is timed, answers are compared in mixed batches, wrk asks with 1 to
256 callers, and its memory is what all its processes share fairly. Then, at half and at four fifths
of what the slower side of a pair can do, requests come at a rate whether or not earlier ones were
answered, and the p99 is taken. The limit is onnxruntime in a loop, in the same runs. Ours twice
under two names is the noise. A measurement during which something else took more than 0.12 of a
core is repeated up to three times and marked.

The peers are installed into a cache folder, each in an environment of its own. Needs the Debian
package wrk. Whoever may gives what sends at a rate priority over the servers (root may). Five runs
take about three hours on two cores.

    ./bench serving                     all cells; each is written down when it is done
    ./bench serving --resume            those that are missing
    ./bench serving --only encoder,triton --runs 1 --quick
    ./bench serving --install           only makes the environments
    ./bench serving --report            from the cells that are there

`--only` takes models, contenders and what is measured (start, answers, memory, throughput, limit,
open loop); of each kind that is named, only those.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import record, serving_models
from benchmarks._answers import compared
from benchmarks._bars import bars
from benchmarks._cell_bench import add_install, add_models, kept, measured, options, parsed, results
from benchmarks._cells import Cell, Cells, Key, median, ratios
from benchmarks._in_process import rows_a_second, ways
from benchmarks._open_loop import Seen as AtRate
from benchmarks._open_loop import is_told, open_loop
from benchmarks._quiet import Disturbance, Quietest, quietest, watched
from benchmarks._wrk import Seen, load
from benchmarks.peers.contender import Contender
from benchmarks.peers.environment import Unavailable, python_of, version_in
from benchmarks.peers.forms import Answer
from benchmarks.peers.known import CONTENDERS, PYTHON_SERVERS
from benchmarks.peers.running import Running, running
from benchmarks.peers.started import end_on_sigterm
from paceline.serve.model import Tensors
from paceline.serve.onnx_model import OnnxModel

CELLS = record.RESULTS / "cells" / "serving.json"
PLOT = record.RESULTS / "serving.svg"

OURS = "paceline"
TWO_FRONTS = "paceline-2-fronts"
"""Of one and two the better is held against the others; both are among the figures."""

LIMIT = "onnxruntime in a loop"
LEVELS: dict[str, dict[str, tuple[int, ...]]] = {
    "classifier": {"json": (1, 16, 64, 256), "binary": (64,)},
    "encoder": {"json": (1, 16, 64)},
    "cnn": {"json": (1, 16), "binary": (1, 16)},
}
"""Callers at once, by model and form."""

PAIRS = ("triton", "litserve")
"""Whom ours is compared with at a rate."""

SHARES = (0.5, 0.8)
"""Of what the slower side of a pair can do."""

AGAINST = " against "
WARM_S = 1.5
QUICK_S = 2.0
BODIES = {"classifier": 32, "encoder": 32, "cnn": 4}
"""Different rows that wrk sends in turn."""

COMPARED = {"classifier": 32, "encoder": 16, "cnn": 4}
"""Different rows that each caller's answers are compared for."""

WHATS = ("start", "answers", "memory", "throughput", "limit", "open loop")

CLASSIFIER_TIMES_TRITON = 2.0
CLASSIFIER_TIMES_PYTHON = 4.0
LONE_TIMES_TRITON = 2.0
ENCODER_SHARE = 0.95
CNN_SHARES = {"json": 0.85, "binary": 0.93}
START_S = 1.0


class Subject(NamedTuple):
    """A model, with rows to ask and what is right for each."""

    model: str
    path: Path
    rows: Sequence[Tensors]
    expected: Sequence[Answer]


def subject(model: str, folder: Path) -> Subject:
    path = serving_models.file(model, folder)
    served = OnnxModel.load(path, model)
    count = max(BODIES[model], COMPARED[model])
    batch = serving_models.inputs(model, count)
    rows = [{name: values[at : at + 1] for name, values in batch.items()} for at in range(count)]
    expected = []
    for row in rows:
        (answer,) = served.run(row).values()
        expected.append(answer.reshape(-1).astype("f8"))
    return Subject(model, path, rows, expected)


# --- What is to be measured -----------------------------------------------------------------------


class Only(NamedTuple):
    """Of each kind, what was named; all of it where nothing was."""

    models: Sequence[str]
    contenders: Sequence[str]
    whats: Sequence[str]

    def wants(self, key: Key) -> bool:
        name = key.contender.partition(AGAINST)[0]
        return (
            key.model in self.models
            and (name in self.contenders or key.what == "limit")
            and (key.what in self.whats or key.what == "absent")
        )


def only(said: str) -> Only:
    named = [each.strip() for each in said.split(",") if each.strip()]
    kinds = (tuple(LEVELS), tuple(CONTENDERS), WHATS)
    unknown = [each for each in named if not any(each in kind for kind in kinds)]
    if unknown:
        known = ", ".join(each for kind in kinds for each in kind)
        raise SystemExit(f"--only knows no {', '.join(unknown)}; it knows {known}")
    return Only(*([each for each in kind if each in named] or kind for kind in kinds))


def levels(contender: Contender, model: str, form: str) -> tuple[int, ...]:
    known = LEVELS[model].get(form, ())
    return tuple(each for each in known if not contender.levels or each in contender.levels)


def keys_of_visit(run: int, contender: Contender, model: str) -> list[Key]:
    """What one start of it is good for."""
    name = contender.name
    keys = [Key(run, name, model, "start"), Key(run, name, model, "memory", "", "idle")]
    for form in contender.endpoints:
        if callers := levels(contender, model, form):
            keys.append(Key(run, name, model, "answers", form))
            keys += [Key(run, name, model, "throughput", form, f"c={each}") for each in callers]
    return [*keys, Key(run, name, model, "memory", "", "after")]


def visits(runs: int, models: Sequence[str]) -> Iterator[tuple[int, str, Contender]]:
    """Interleaved: in each run everybody once, and everybody is first at some time."""
    listed = list(CONTENDERS.values())
    for run in range(runs):
        for model in models:
            first = run % len(listed)
            for contender in (*listed[first:], *listed[:first]):
                yield run, model, contender


# --- Measuring ------------------------------------------------------------------------------------


class Bench:
    def __init__(self, cells: Cells, asked: argparse.Namespace, wanted: Only) -> None:
        self._cells = cells
        self._wanted = wanted
        self._peers: Path = asked.peers
        self._models: Path = asked.models
        self._seconds: float = asked.seconds
        self._warm_s = 1.0 if asked.quick else WARM_S
        self._runs: int = asked.runs
        self._subjects: dict[str, Subject] = {}

    def run(self) -> None:
        for run, model, contender in visits(self._runs, self._wanted.models):
            if contender is CONTENDERS[OURS]:
                self._limit(run, model)
            missing = self._missing(keys_of_visit(run, contender, model))
            if missing:
                self._visit(run, self._subject(model), contender, missing)
        for run in range(self._runs):
            for model in self._wanted.models:
                for rival in PAIRS:
                    self._pair(run, model, rival)

    def _missing(self, keys: Sequence[Key]) -> list[Key]:
        return [each for each in keys if self._wanted.wants(each) and each not in self._cells]

    def _subject(self, model: str) -> Subject:
        if model not in self._subjects:
            self._subjects[model] = subject(model, self._models)
        return self._subjects[model]

    def _limit(self, run: int, model: str) -> None:
        key = Key(run, LIMIT, model, "limit")
        if not self._missing([key]):
            return
        path = self._subject(model).path
        figures: dict[str, float] = {}
        worst = Quietest(Disturbance(0.0, 0.0), 1)
        for way in ways(model):
            once = partial(rows_a_second, path, model, way, self._seconds / 2)
            figures[way.name], quiet = quietest(partial(watched, once, _nothing))
            worst = max(worst, quiet, key=lambda each: each.disturbance.all)
        figures["best"] = max(figures.values())
        self._add(key, figures, worst)

    def _visit(self, run: int, of: Subject, contender: Contender, missing: Sequence[Key]) -> None:
        try:
            with self._up(contender, of) as up:
                self._cells.discard(lambda key: key == _absent(run, contender, of.model))
                for key in missing:
                    self._one(key, up, of)
            starts = [(up.started_s, up.disturbance)]
            for key in missing:
                if key.what == "start":
                    self._start(key, contender, of, starts)
        except Unavailable as error:
            self._add(_absent(run, contender, of.model), {}, note=str(error))

    def _up(self, contender: Contender, of: Subject) -> AbstractContextManager[Running]:
        return running(contender, of.model, of.path, self._peers, of.rows[0], of.expected[0])

    def _start(
        self, key: Key, contender: Contender, of: Subject, starts: list[tuple[float, Disturbance]]
    ) -> None:
        """`starts` are those there were; others follow only where these were disturbed."""

        def once() -> tuple[float, Disturbance]:
            if starts:
                return starts.pop()
            with self._up(contender, of) as up:
                return up.started_s, up.disturbance

        started_s, quiet = quietest(once)
        self._add(key, {"s": started_s}, quiet)

    def _one(self, key: Key, up: Running, of: Subject) -> None:
        if key.what == "memory":
            self._add(key, {"mb": up.pss_mb()})
        elif key.what == "answers":
            count = COMPARED[of.model]
            found = compared(up, key.form, of.rows[:count], of.expected[:count], key.run)
            figures = {
                "answers": found.answers,
                "failed": found.failed,
                "wrong": found.wrong,
                "apart": found.apart,
            }
            self._add(key, figures, note=found.first)
        elif key.what == "throughput":
            callers = int(key.level.removeprefix("c="))
            seen, quiet = self._closed(up, of, key.form, callers)
            figures = {"rate": seen.rate, "errors": seen.errors}
            figures |= {"p50_ms": seen.p50_ms, "p90_ms": seen.p90_ms, "p99_ms": seen.p99_ms}
            self._add(key, figures, quiet)

    def _closed(self, up: Running, of: Subject, form: str, callers: int) -> tuple[Seen, Quietest]:
        asked = [up.asked(form, row) for row in of.rows[: BODIES[of.model]]]
        with tempfile.TemporaryDirectory(prefix="pl-wrk-") as name:
            ask = partial(load, up, asked, callers, folder=Path(name))
            ask(seconds=self._warm_s)
            return quietest(partial(watched, partial(ask, seconds=self._seconds), up.cpu_s))

    def _pair(self, run: int, model: str, rival: str) -> None:
        peaks = [self.peak(name, model) for name in (OURS, rival)]
        slower = min((each for each in peaks if each), default=None)
        if slower is None or None in peaks:
            return
        for name in (OURS, rival):
            against = name if name == rival else f"{OURS}{AGAINST}{rival}"
            keys = [
                Key(run, against, model, "open loop", "json", f"{share:.0%} of the slower")
                for share in SHARES
            ]
            if not (missing := self._missing(keys)):
                continue
            of = self._subject(model)
            contender = CONTENDERS[name]
            try:
                with self._up(contender, of) as up:
                    for key in missing:
                        rate = SHARES[keys.index(key)] * slower
                        seen, quiet = self._at_rate(up, of, rate)
                        self._add(
                            key, {"rate": rate, **seen.figures}, quiet, note=seen.not_told or ""
                        )
            except Unavailable as error:
                self._add(_absent(run, contender, model), {}, note=str(error))

    def _at_rate(self, up: Running, of: Subject, rate: float) -> tuple[AtRate, Quietest]:
        asked = [up.asked("json", row) for row in of.rows[: BODIES[of.model]]]
        ask = partial(open_loop, up, asked, rate, self._seconds, self._warm_s)
        return quietest(partial(watched, ask, up.cpu_s), is_told)

    def peak(self, contender: str, model: str) -> float | None:
        """The most it answered in JSON, whatever the number of callers."""
        found = [
            median(
                self._cells.samples(
                    "rate", contender, model, "throughput", "json", f"c={each}"
                ).values()
            )
            for each in LEVELS[model]["json"]
        ]
        return max((each for each in found if each), default=None)

    def _add(
        self, key: Key, figures: dict[str, float], quiet: Quietest | None = None, note: str = ""
    ) -> None:
        disturbance = quiet.disturbance if quiet else Disturbance(0.0, 0.0)
        attempts = quiet.attempts if quiet else 1
        cell = Cell(*key, figures, *disturbance, attempts, note)
        self._cells.add(cell)
        print(line(cell), file=sys.stderr, flush=True)


def _nothing() -> float:
    """What is measured are children that end."""
    return 0.0


def _absent(run: int, contender: Contender, model: str) -> Key:
    return Key(run, contender.name, model, "absent")


def line(cell: Cell) -> str:
    figures = "  ".join(f"{name} {value:,.4g}" for name, value in cell.figures.items())
    mark = "  DISTURBED" if cell.is_disturbed else ""
    name = f"{cell.run} {cell.model} {cell.contender} {cell.what} {cell.form} {cell.level}"
    return f"{name.strip():64}  {figures}{mark}  {cell.note}".rstrip()


# --- The report -----------------------------------------------------------------------------------


def table(cells: Cells) -> str:
    """Medians of the rates, with p50 and p99, a row for each contender."""
    lines = []
    for model, forms in LEVELS.items():
        lines.append(f"{model}: requests/s (p50 / p99 ms)")
        for name in CONTENDERS:
            parts = []
            for form, callers in forms.items():
                for each in callers:
                    at = (name, model, "throughput", form, f"c={each}")
                    rate, p50, p99 = (
                        median(cells.samples(figure, *at).values())
                        for figure in ("rate", "p50_ms", "p99_ms")
                    )
                    if rate is not None:
                        parts.append(f"{form} c={each} {rate:,.0f} ({p50:.3g} / {p99:.3g})")
            missing = _why_absent(cells, name, model)
            if parts or missing:
                lines.append(f"  {name:18} {'   '.join(parts) or missing}")
    for cell in cells.every():
        if cell.what == "open loop" and cell.run == 0 and "p99_ms" in cell.figures:
            p99 = median(cells.samples("p99_ms", *cell.key[1:]).values())
            lines.append(
                f"{cell.model}, {cell.level}, {cell.figures['rate']:,.0f} requests/s: "
                f"{cell.contender} p99 {p99:.3g} ms"
            )
    return "\n".join(lines)


def _why_absent(cells: Cells, contender: str, model: str) -> str:
    for each in cells.every():
        if (each.contender, each.model, each.what) == (contender, model, "absent"):
            return f"absent: {each.note}"
    return ""


def figures(cells: Cells) -> list[record.Figure]:
    units = {"rate": "requests/s", "p50_ms": "ms", "p99_ms": "ms", "s": "s", "mb": "MB"}
    units |= {"best": "rows/s", "apart": "", "wrong": "", "failed": ""}
    grouped: dict[str, tuple[str, list[float]]] = {}
    for each in cells.every():
        for name, value in each.figures.items():
            if name in units or each.what == "limit":
                parts = (each.model, each.contender, each.what, each.form, each.level, name)
                unit = units.get(name, "rows/s")
                label = " ".join(part for part in parts if part)
                grouped.setdefault(label, (unit, []))[1].append(value)
    return [record.figure(name, unit, samples) for name, (unit, samples) in grouped.items()]


class Line(NamedTuple):
    """An acceptance line: the ratio of two sides, and the least or the most it may be."""

    text: str
    ratios: Sequence[float]
    limit: float
    is_most: bool = False


def lines(cells: Cells) -> list[Line]:
    def rate(name: str, model: str, form: str, callers: int) -> dict[int, float]:
        return cells.samples("rate", name, model, "throughput", form, f"c={callers}")

    def of_limit(model: str, form: str, callers: int) -> list[float]:
        limit = cells.samples("best", LIMIT, model, "limit")
        return ratios(rate(OURS, model, form, callers), limit)

    def memory(name: str, model: str) -> dict[int, float]:
        return cells.samples("mb", name, model, "memory", "", "after")

    fronts = {name: rate(name, "classifier", "json", 64) for name in (OURS, TWO_FRONTS)}
    best = max(fronts, key=lambda name: median(fronts[name].values()) or 0.0)
    python = max(
        (rate(name, "classifier", "json", 64) for name in PYTHON_SERVERS),
        key=lambda each: median(each.values()) or 0.0,
    )
    lone = rate(OURS, "classifier", "json", 1)
    found = [
        Line(
            f"classifier, 64 callers, {best}, of Triton's rate",
            ratios(fronts[best], rate("triton", "classifier", "json", 64)),
            CLASSIFIER_TIMES_TRITON,
        ),
        Line(
            f"classifier, 64 callers, {best}, of the best Python server's rate",
            ratios(fronts[best], python),
            CLASSIFIER_TIMES_PYTHON,
        ),
        Line(
            "classifier, a lone caller, of the rate of Triton that does not wait",
            ratios(lone, rate("triton-at-once", "classifier", "json", 1)),
            LONE_TIMES_TRITON,
        ),
        Line("encoder, 64 callers, of the limit", of_limit("encoder", "json", 64), ENCODER_SHARE),
        *(
            Line(f"cnn, 16 callers, {form}, of the limit", of_limit("cnn", form, 16), share)
            for form, share in CNN_SHARES.items()
        ),
        *(
            Line(
                f"{model}, memory with one front, of Triton's",
                ratios(memory(OURS, model), memory("triton", model)),
                1.0,
                is_most=True,
            )
            for model in LEVELS
        ),
        Line(
            "classifier, seconds to the first right answer",
            list(cells.samples("s", OURS, "classifier", "start").values()),
            START_S,
            is_most=True,
        ),
    ]
    for model in ("encoder", "cnn"):
        starts = (cells.samples("s", name, model, "start") for name in (OURS, "triton"))
        text = f"{model}, to the first right answer, of Triton's time"
        found.append(Line(text, ratios(*starts), 1.0, is_most=True))
    return found


def verdict(line: Line) -> record.Verdict:
    text = f"{line.text}: at {'most' if line.is_most else 'least'} {line.limit:g}"
    middle = median(line.ratios)
    if middle is None:
        return record.Verdict(text, "not measured", None)
    holds = middle <= line.limit if line.is_most else middle >= line.limit
    spread = f"{min(line.ratios):.3g} to {max(line.ratios):.3g} in {len(line.ratios)}"
    return record.Verdict(text, f"{middle:.3g} ({spread})", holds)


def verdicts(cells: Cells) -> list[record.Verdict]:
    ours = [
        each for each in cells.every() if each.what == "answers" and each.contender.startswith(OURS)
    ]
    bad = sum(each.figures["wrong"] + each.figures["failed"] for each in ours)
    apart = max((each.figures["apart"] for each in ours), default=0.0)
    answered = sum(each.figures["answers"] for each in ours)
    noise = [
        ratio
        for model, forms in LEVELS.items()
        for form, callers in forms.items()
        for each in callers
        for ratio in ratios(
            cells.samples("rate", "paceline-again", model, "throughput", form, f"c={each}"),
            cells.samples("rate", OURS, model, "throughput", form, f"c={each}"),
        )
    ]
    told = f"{min(noise):.3g} to {max(noise):.3g}" if noise else "not measured"
    return [
        *map(verdict, lines(cells)),
        record.Verdict(
            "our answers within mixed batches are right, within 0.001",
            f"{bad:.0f} of {answered + bad:.0f} were not, {apart:.2g} apart at most",
            not bad if ours else None,
        ),
        record.Verdict("noise: ours against ours, ratio of rates of a run", told, None),
    ]


def drawn(cells: Cells) -> str:
    groups: dict[str, dict[str, float]] = {}
    for model, forms in LEVELS.items():
        for form, callers in forms.items():
            for each in callers:
                rates = {
                    name: median(
                        cells.samples("rate", name, model, "throughput", form, f"c={each}").values()
                    )
                    for name, contender in CONTENDERS.items()
                    if not contender.extra
                }
                known = {name: rate for name, rate in rates.items() if rate is not None}
                if known:
                    groups[f"{model}, {form}, {each} callers"] = known
    return bars("Requests answered a second, medians", groups, OURS)


def report(cells: Cells, asked: argparse.Namespace) -> None:
    print(table(cells))
    if not asked.quick:
        PLOT.write_text(drawn(cells))
    workload: dict[str, str | int | float] = {
        "seconds a cell": asked.seconds,
        "warming": f"{WARM_S:g} s",
        "rows a request": 1,
        "runs": 1 + max((each.run for each in cells.every()), default=-1),
        "disturbed cells": sum(each.is_disturbed for each in cells.every()),
    }
    for name, contender in CONTENDERS.items():
        told = "; ".join(f"{model}: {text}" for model, text in contender.settings.items())
        workload[name] = f"{_version(contender, asked.peers)}, {told}"
        for model in LEVELS:
            if why := _why_absent(cells, name, model):
                workload[f"{name}, {model}"] = why
    record.write(
        "serving",
        workload=workload,
        figures=figures(cells),
        verdicts=verdicts(cells),
        packages=("onnxruntime", "numpy", "uvloop", "msgspec", "httptools"),
        folder=results(asked),
    )


def _version(contender: Contender, peers: Path) -> str:
    try:
        python = python_of(contender.environment, peers, make=False)
        return f"{contender.package} {version_in(python, contender.package)}"
    except Unavailable as error:
        return f"absent: {error}"


def install(peers: Path) -> None:
    for name in dict.fromkeys(each.environment for each in CONTENDERS.values() if each.environment):
        try:
            print(f"{name}: {python_of(name, peers)}")
        except Unavailable as error:
            print(f"{name}: absent: {error}")


def main() -> None:
    only_of = "models, contenders, measurements"
    parser = options("serving", __doc__, only=only_of, runs=5, seconds=10.0, quick_s=QUICK_S)
    add_install(parser)
    add_models(parser)
    asked = parsed(parser)
    if asked.install:
        install(asked.peers)
        return
    wanted = only(asked.only)
    end_on_sigterm()
    cells = kept(asked, CELLS)
    measured(asked, cells, wanted.wants, Bench(cells, asked, wanted).run)
    report(cells, asked)


if __name__ == "__main__":
    main()
