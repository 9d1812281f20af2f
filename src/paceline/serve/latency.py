"""How long a batch of a size will take, learned from those that were run, per model and shape.

For each size the median of its recent batches, shrunk towards one line a + b * size through them
all, so that a size seen twice does not fool anybody and one never seen has a value; never falling
with size. What the batches scatter around it becomes a factor, so that the promise is a quantile.

*Drift*: twelve batches in a row that are all slower, or all faster, than expected mean that the
world has changed, not that luck has: what was learned is scaled to what they show, and forgotten
down to a little. Pure; called by batcher, admission and controller, which share one model.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

KEPT = 48
"""Recent batches of one size."""

RATIOS = 256
"""Recent batches of any size, whose scatter makes the quantile."""

SHRINK = 3.0
"""How many batches of its own a size needs to weigh as much as the line through all."""

REFRESH = 16
"""Batches between two looks at all of it; in the beginning each counts."""

RUN = 12
"""Batches in a row on one side that are a drift."""

SIDE = 1.2
"""How far on that side at least, in the median."""

KNOWN = 4
"""Batches of a size before one more of it can tell of a drift: a first one tells of the size."""

AFTER_DRIFT = 2
"""Old batches of each size that are still believed after one."""


class _Learned(NamedTuple):
    """Medians by size, as far as sizes were seen; beyond, a line: a fixed part, and one a row."""

    known: list[float]
    line: tuple[float, float]

    def at(self, size: int) -> float:
        if size < len(self.known):
            return self.known[size]
        fixed, each = self.line
        return max(self.known[-1], fixed + each * size)


class LatencyModel:
    """`quantile` of the batches take no longer than `at` says."""

    def __init__(self, quantile: float = 0.95, first_guess_s: float = 0.001) -> None:
        self._quantile = quantile
        self._by_size: dict[int, deque[float]] = {}
        self._ratios: deque[float] = deque(maxlen=RATIOS)
        self._learned = _Learned([0.0, first_guess_s], (first_guess_s, 0.0))
        self._factor = 1.0
        self._run: list[tuple[int, float, float]] = []
        self._before = self._learned
        self._since_refresh = 0
        self.batches = 0
        self.drifts = 0

    def at(self, size: int) -> float:
        """Seconds that a batch of this size takes at most, at the quantile."""
        return self.typical(size) * self._factor

    def typical(self, size: int) -> float:
        """Seconds, in the median."""
        return self._learned.at(size)

    def largest_within(self, seconds: float, most: int) -> int:
        """The largest size up to `most` that takes no longer; 0 where not even one row fits."""
        typical_s = seconds / self._factor
        known = self._learned.known
        inside = min(most, len(known) - 1)
        if known[inside] > typical_s:
            return bisect_right(known, typical_s, 1, inside) - 1
        fixed, each = self._learned.line
        if most == inside or not each:
            return most
        return min(most, max(inside, int((typical_s - fixed) / each)))

    def observe(self, size: int, seconds: float) -> None:
        """One more batch was run."""
        self.batches += 1
        ratio = seconds / self.typical(size)
        seen = self._by_size.setdefault(size, deque(maxlen=KEPT))
        seen.append(seconds)
        if len(seen) > KNOWN:
            self._ratios.append(ratio)
            self._watch(size, seconds)
        self._since_refresh += 1
        if self._since_refresh >= REFRESH or self.batches <= REFRESH:
            self._refresh()

    def _watch(self, size: int, seconds: float) -> None:
        """Against what was learned before the run began: meanwhile it learns from the run."""
        run = self._run
        if not run:
            self._before = self._learned
        ratio = seconds / self._before.at(size)
        if run and (ratio > 1) != (run[-1][2] > 1):
            run.clear()
            self._before = self._learned
            ratio = seconds / self._before.at(size)
        run.append((size, seconds, ratio))
        if len(run) < RUN:
            return
        recent = run[-RUN:]
        middle = median(ratio for _, _, ratio in recent)
        if 1 / SIDE < middle < SIDE:
            return
        self.drifts += 1
        for each, seen in self._by_size.items():
            seen.clear()
            seen.extend([self._before.at(each) * middle] * AFTER_DRIFT)
        for each, took_s, _ in recent:
            self._by_size[each].append(took_s)
        self._ratios.clear()
        self._ratios.extend(ratio / middle for _, _, ratio in recent)
        run.clear()
        self._refresh()

    def _refresh(self) -> None:
        self._since_refresh = 0
        sizes = sorted(self._by_size)
        medians = [median(self._by_size[size]) for size in sizes]
        weights = [min(len(self._by_size[size]), KEPT // 2) for size in sizes]
        fixed, each = line = _line(sizes, medians, weights)
        typical = [0.0] * (sizes[-1] + 1)
        own = {
            size: (seen, weight) for size, seen, weight in zip(sizes, medians, weights, strict=True)
        }
        highest = 0.0
        for size in range(1, len(typical)):
            expected = fixed + each * size
            if size in own:
                seen, weight = own[size]
                expected = (seen * weight + expected * SHRINK) / (weight + SHRINK)
            highest = max(highest, expected)
            typical[size] = highest
        self._learned = _Learned(typical, line)
        if self._ratios:
            ordered = sorted(self._ratios)
            self._factor = max(
                1.0, ordered[min(len(ordered) - 1, int(len(ordered) * self._quantile))]
            )


def _line(
    sizes: Sequence[int], seconds: Sequence[float], weights: Sequence[float]
) -> tuple[float, float]:
    """a + b * size by weighted least squares; neither is negative."""
    total = sum(weights)
    mean_size = sum(w * x for w, x in zip(weights, sizes, strict=True)) / total
    mean_s = sum(w * y for w, y in zip(weights, seconds, strict=True)) / total
    spread = sum(w * (x - mean_size) ** 2 for w, x in zip(weights, sizes, strict=True))
    if not spread:  # one size says nothing of the others: as if each row cost the same
        return 0.0, mean_s / mean_size
    each = (
        sum(
            w * (x - mean_size) * (y - mean_s)
            for w, x, y in zip(weights, sizes, seconds, strict=True)
        )
        / spread
    )
    fixed = mean_s - each * mean_size
    if each < 0:
        return mean_s, 0.0
    if fixed < 0:
        return 0.0, sum(w * x * y for w, x, y in zip(weights, sizes, seconds, strict=True)) / sum(
            w * x * x for w, x in zip(weights, sizes, strict=True)
        )
    return fixed, each
