"""What batches of three real models take, and how well the latency model foretells it.

Each model runs as a server runs it: one thread of onnxruntime, no spinning. The latency model is
told of batches of random sizes; then of some, and asked beforehand about the others. Then the world
changes: the classifier and the pictures are run twice a batch, the texts become twice as long; and
later back. `--write-data` writes the table that `./bench policies` and the simulator read: medians
by size, scatter, and how much slower a batch is beside a second one.

Two minutes on an idle machine; whatever else runs on it shows as scatter.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks import models, record
from benchmarks._batches import KINDS, Samples, Table, TakeS, loaded
from paceline.serve.latency import RATIOS, LatencyModel

DATA = Path(__file__).parent / "data" / "latencies.json"

ERROR = 0.10
QUANTILE = 0.95
NOISY = 0.75
"""Batches that scatter by more than this share of it themselves cannot be foretold that well; and
where so much else runs, it hardly scatters alike all the time, as a quantile must suppose."""
SURE = 2.576
"""Standard deviations that 99 of 100 samples stay within."""
RIGHT_AGAIN = 50
"""Batches after a change."""
WINDOW = 20
"""Batches whose median error says whether it is right."""

CHANGED = {"encoder": "encoder_128"}
"""What the encoder becomes; the others are run twice."""


class Asked(NamedTuple):
    """A batch of which the model spoke beforehand."""

    typical_s: float
    at_s: float
    took_s: float

    @property
    def error(self) -> float:
        return abs(self.typical_s - self.took_s) / self.took_s


class Learning:
    """The latency model, and batches of random sizes for it."""

    def __init__(self, most: int, seed: int) -> None:
        self.model = LatencyModel(QUANTILE)
        self._most = most
        self._die = random.Random(seed)

    def told(self, take_s: TakeS, batches: int) -> list[Asked]:
        """Of each, after it was asked."""
        return [self._batch(take_s, tell=True) for _ in range(batches)]

    def held_out(self, take_s: TakeS, batches: int) -> list[Asked]:
        """Every second one, by chance, which it is never told of."""
        asked: list[Asked] = []
        while len(asked) < batches:
            tell = self._die.random() < 0.5
            one = self._batch(take_s, tell)
            if not tell:
                asked.append(one)
        return asked

    def _batch(self, take_s: TakeS, tell: bool) -> Asked:
        size = self._die.randint(1, self._most)
        typical_s, at_s = self.model.typical(size), self.model.at(size)
        took_s = take_s(size)
        if tell:
            self.model.observe(size, took_s)
        return Asked(typical_s, at_s, took_s)


def median_error(asked: Sequence[Asked]) -> float:
    return statistics.median(one.error for one in asked)


def covered(asked: Sequence[Asked]) -> float:
    return statistics.fmean(one.took_s <= one.at_s for one in asked)


def slack(batches: int) -> float:
    """How far chance puts the share off in 99 of 100 runs: that of what is scored, and of what was
    learned."""
    spread = QUANTILE * (1 - QUANTILE) * (1 / batches + 1 / RATIOS)
    return float(SURE * spread**0.5)


def right_after(asked: Sequence[Asked]) -> int | None:
    """The first batch that is within bounds together with the median of those that follow."""
    for first in range(len(asked) - WINDOW + 1):
        if asked[first].error <= ERROR and median_error(asked[first : first + WINDOW]) <= ERROR:
            return first
    return None


class Scored(NamedTuple):
    before: list[Asked]
    after: list[Asked]
    """both changes, once it is right again"""
    right_again: list[int | None]


def score(name: str, works: dict[str, TakeS], batches: int, seed: int) -> Scored:
    usual = works[name]

    def twice(rows: int) -> float:
        return usual(rows) + usual(rows)

    learning = Learning(KINDS[name].most, seed)
    batches *= min(10, KINDS[name].repeats)
    learning.told(usual, batches)
    before = learning.held_out(usual, batches)
    after: list[Asked] = []
    right_again = []
    for world in (works[CHANGED[name]] if name in CHANGED else twice, usual):
        right_again.append(right_after(learning.told(world, RIGHT_AGAIN + WINDOW)))
        after += learning.held_out(world, batches // 2)
    return Scored(before, after, right_again)


def observe_us(most: int, rounds: int, seed: int) -> list[float]:
    """What it costs to tell it of a batch, its looks at the whole included."""
    die = random.Random(seed)
    model = LatencyModel(QUANTILE)
    found = []
    for number in range(rounds + 2):
        batches = [
            (size, (8 + size) * die.lognormvariate(-14, 0.1))
            for size in die.choices(range(1, most + 1), k=2000)
        ]
        start = time.perf_counter()
        for size, seconds in batches:
            model.observe(size, seconds)
        if number >= 2:  # at first there is more to look at
            found.append((time.perf_counter() - start) / len(batches) * 1e6)
    return found


def efficient_us(most: int, rounds: int) -> list[float]:
    model = LatencyModel(QUANTILE)
    for size in range(1, most):
        model.observe(size, 1e-5 + 1e-6 * size)
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        for size in range(1, most + 1):
            model.efficient(size)
        found.append((time.perf_counter() - start) / most * 1e6)
    return found


def figures_of(samples: Mapping[str, Samples], scored: Mapping[str, Scored]) -> list[record.Figure]:
    figures = []
    for name, each in samples.items():
        figures += [
            record.figure(f"{name}, {size} rows", "ms", [1e3 * seconds for seconds in taken])
            for size, taken in each.alone.items()
        ]
        ratios = each.ratios()
        figures += [
            record.figure(f"{name}, {share:.0%} over its median", "x", [quantile(ratios, share)])
            for share in (0.05, 0.5, 0.95, 0.99)
        ]
        figures.append(
            record.figure(f"{name}, beside a second executor", "x", [each.side_by_side()])
        )
    for name, (before, after, right_again) in scored.items():
        for when, asked in (("", before), (", after a change", after)):
            figures += [
                record.figure(f"{name}{when}: median error", "%", [100 * median_error(asked)]),
                record.figure(f"{name}{when}: within `at`", "%", [100 * covered(asked)]),
                record.figure(
                    f"{name}{when}: `at` over `typical`",
                    "x",
                    [one.at_s / one.typical_s for one in asked],
                ),
            ]
        figures += [
            record.figure(f"{name}: right again after", "batches", [after])
            for after in right_again
            if after is not None
        ]
    return figures


def quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[int(share * (len(ordered) - 1))]


def judged(
    line: str, found: Mapping[str, str], holds: Mapping[str, bool], noisy: set[str]
) -> record.Verdict:
    """What fails for models alone whose batches are too noisy does not fail."""
    failed = {name for name in holds if not holds[name]}
    said = ", ".join(f"{name} {value}" for name, value in found.items())
    if failed and failed <= noisy:
        said += f"; the batches themselves scatter too much: {', '.join(sorted(failed))}"
        return record.Verdict(line, said, None)
    return record.Verdict(line, said, not failed)


def foretold(
    when: str, asked: Mapping[str, Sequence[Asked]], noise: Mapping[str, float], noisy: set[str]
) -> list[record.Verdict]:
    errors = {name: median_error(each) for name, each in asked.items()}
    shares = {name: covered(each) for name, each in asked.items()}
    slacks = {name: slack(len(each)) for name, each in asked.items()}
    return [
        judged(
            f"a batch is foretold within {ERROR:.0%} in the median{when}",
            {name: f"{errors[name]:.1%} (scatter {noise[name]:.1%})" for name in asked},
            {name: errors[name] <= ERROR for name in asked},
            noisy,
        ),
        judged(
            f"{QUANTILE:.0%} take no longer than `at`{when}, chance allowed for",
            {name: f"{shares[name]:.1%} (± {slacks[name]:.1%})" for name in asked},
            {name: abs(shares[name] - QUANTILE) <= slacks[name] for name in asked},
            noisy,
        ),
    ]


def verdicts_of(
    samples: Mapping[str, Samples], scored: Mapping[str, Scored]
) -> list[record.Verdict]:
    # How far a batch is from the median of its own size: nobody foretells it better than that.
    noise = {
        name: statistics.median(abs(ratio - 1) for ratio in samples[name].ratios())
        for name in scored
    }
    noisy = {name for name in scored if noise[name] > NOISY * ERROR}
    again = {name: each.right_again for name, each in scored.items()}
    return [
        *foretold("", {name: each.before for name, each in scored.items()}, noise, noisy),
        *foretold(
            ", after a change", {name: each.after for name, each in scored.items()}, noise, noisy
        ),
        judged(
            f"right again within {RIGHT_AGAIN} batches of a change",
            {name: " and ".join(map(_said, each)) for name, each in again.items()},
            {name: None not in each for name, each in again.items()},
            noisy,
        ),
    ]


def _said(batches: int | None) -> str:
    return "never" if batches is None else str(batches)


def write_data(samples: Mapping[str, Samples], result: record.Result) -> None:
    table = Table(
        source="./bench latency --write-data",
        date=result.date,
        machine=result.machine,
        versions=result.versions,
        models={name: each.measured() for name, each in samples.items()},
    )
    DATA.parent.mkdir(exist_ok=True)
    DATA.write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")


def main() -> None:
    options = argparse.ArgumentParser(
        prog="./bench latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--rounds", type=int, default=8, help="of all sizes, for the table")
    options.add_argument("--batches", type=int, default=100, help="to learn from; as many to score")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--write-data", action="store_true", help=f"write data/{DATA.name}")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        works = loaded(Path(folder))
    die = random.Random(asked.seed)
    samples = {name: Samples(name, take_s) for name, take_s in works.items()}
    for _ in range(asked.rounds):
        for each in samples.values():
            each.round(die)
    scored = {name: score(name, works, asked.batches, asked.seed) for name in models.NAMES}
    told_us = observe_us(128, asked.rounds, asked.seed)

    result = record.write(
        "latency",
        workload={
            "rounds": asked.rounds,
            "batches learned from": asked.batches,
            "classifier": f"{min(10, KINDS['classifier'].repeats)} times as many",
            "seed": asked.seed,
        },
        figures=[
            *figures_of(samples, scored),
            record.figure("tell it of a batch of 1 to 128", "µs", told_us),
            record.figure("ask for an efficient size", "µs", efficient_us(128, asked.rounds)),
        ],
        verdicts=verdicts_of(samples, scored),
        packages=["numpy", "onnxruntime"],
    )
    if asked.write_data:
        write_data(samples, result)


if __name__ == "__main__":
    main()
