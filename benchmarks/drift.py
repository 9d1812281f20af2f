"""Drift: how often a difference is told where there is none, which are found, and what labels and
drawn rows cost a front.

Rows are normal numbers that go together, and ten classes; a reference of 1024 rows and 512, or
256, to compare with it, as a server has them. Where something is planted, the mean of one number
moves by a share of its deviation, or one class takes from another. The cost is CPU time of
`Notes.note` for each answer of the digits model, at four rates of requests in made-up time.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import record
from paceline.serve.digits import MODEL_PATH
from paceline.serve.notes import Notes
from paceline.serve.onnx_model import OnnxModel
from paceline.serve.samples import Samples
from paceline.terms.limits import DRIFT_FALSE, DRIFT_LEAST, DRIFT_REFERENCE, DRIFT_WINDOW
from paceline.watch.analysis.drifted import drifted
from paceline.watch.drift import Lot, Windows

NAME = "drift"
Numbers = NDArray[Any]

SHIFTS = (0.2, 0.3, 0.4, 0.5)
"""of the mean, in deviations"""

MIXES = (0.05, 0.1)
"""that one class of ten takes from another"""

RATES = (100, 1000, 10_000, 25_000)
ANSWERS = 20_000


def windows(before: Numbers, after: Numbers, first: Numbers, second: Numbers) -> Windows:
    names = tuple(f"x{at}" for at in range(before.shape[1]))
    lots = (
        Lot(values.astype(np.float32).tobytes(), tuple(map(str, classes)), 0.0)
        for values, classes in ((before, first), (after, second))
    )
    return Windows(names, len(names), *lots)


def told(seed: int, columns: int, rows: int, shift: float = 0.0, mix: float = 0.0) -> set[str]:
    """What is said to differ."""
    die = np.random.default_rng(seed)
    before, after = (
        die.normal(size=(count, columns)) + die.normal(size=(count, 1))
        for count in (DRIFT_REFERENCE, rows)
    )
    after[:, 0] += shift * np.sqrt(2)
    share = np.full(10, 0.1)
    first = die.choice(10, DRIFT_REFERENCE, p=share)
    share[:2] += (mix, -mix)
    second = die.choice(10, rows, p=share)
    return {each.name for each in drifted(windows(before, after, first, second)).differs}


class Clock:
    """Goes on with each look."""

    def __init__(self, apart_s: float) -> None:
        self.now_s = 100.0
        self.apart_s = apart_s

    def now(self) -> float:
        self.now_s += self.apart_s
        return self.now_s


def cost_us(model: OnnxModel, per_s: int) -> Sequence[float]:
    """Of a request, five times; the first burst is over."""
    inputs = {"x": np.zeros((1, 64), np.float32)}
    outputs = model.run(inputs)
    clock = Clock(1 / per_s)
    samples = Samples({model.spec.name: model.spec}, 1.0, lambda rows: None)
    notes = Notes(model.spec, 8192, clock.now, samples)
    ids = [b"%016x" % at for at in range(ANSWERS)]
    took = []
    for _ in range(6):
        began_s = time.process_time()
        for each in ids:
            notes.note(each, 1, inputs, outputs)
        took.append((time.process_time() - began_s) / len(ids) * 1e6)
    return took[1:]


def main() -> None:
    options = argparse.ArgumentParser(
        prog=f"./bench {NAME}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--quiet", type=int, default=1000, help="comparisons without a difference")
    options.add_argument("--planted", type=int, default=100, help="comparisons with one, of each")
    options.add_argument("--columns", type=int, default=64, help="numbers of a row")
    given = options.parse_args()
    figures: list[record.Figure] = []
    false = [bool(told(seed, given.columns, DRIFT_WINDOW)) for seed in range(given.quiet)]
    figures.append(record.figure("told where nothing differs", "%", [100 * float(np.mean(false))]))
    found: dict[tuple[str, float, int], float] = {}
    for rows in (DRIFT_LEAST, DRIFT_WINDOW):
        for what, amounts in (("mean", SHIFTS), ("class", MIXES)):
            for amount in amounts:
                wanted = "x0" if what == "mean" else "class 0"
                planted = {"shift" if what == "mean" else "mix": amount}
                hits = [
                    wanted in told(seed, given.columns, rows, **planted)
                    for seed in range(given.planted)
                ]
                found[what, amount, rows] = float(np.mean(hits))
                name = f"{what} by {amount:g}, {rows} rows: found"
                figures.append(record.figure(name, "%", [100 * found[what, amount, rows]]))
    model = OnnxModel.load(MODEL_PATH, "digits")
    costs = {rate: cost_us(model, rate) for rate in RATES}
    for rate, took in costs.items():
        figures.append(record.figure(f"cost at {rate} requests/s", "us a request", took))
    half, busy = found["mean", 0.5, DRIFT_WINDOW], float(np.median(costs[10_000]))
    record.write(
        NAME,
        workload={
            "rows": f"{DRIFT_REFERENCE} and {DRIFT_WINDOW} or {DRIFT_LEAST}",
            "numbers of a row": given.columns,
            "comparisons": f"{given.quiet} without a difference, {given.planted} of each with one",
        },
        figures=figures,
        verdicts=[
            record.Verdict(
                f"a difference where there is none in at most {3 * DRIFT_FALSE:.1%}",
                f"{np.mean(false):.2%}",
                bool(np.mean(false) <= 3 * DRIFT_FALSE),
            ),
            record.Verdict(
                "a mean half a deviation off found in 95 %", f"{half:.0%}", half >= 0.95
            ),
            record.Verdict(
                "at 10 000 requests/s at most 1 us a request", f"{busy:.2f} us", busy <= 1.0
            ),
        ],
        packages=["numpy", "onnxruntime"],
    )


if __name__ == "__main__":
    main()
