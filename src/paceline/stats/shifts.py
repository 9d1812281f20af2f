"""Where a series goes to another level and stays there: change points, alike for the same numbers.

E-divisive (Matteson and James, JASA 2014): a series is cut where the two sides differ most from
each other, compared with how much each differs in itself, and again in the parts. As in Hunter
(Fleming et al., ICPE 2023) it looks through windows that overlap by half, decides by a t-test and
not by permutations, lets in weak cuts first, and takes away the weakest until all that are left
hold. Ours
differs in four places, each for what real latencies do (`./bench shifts`):

- windows of several lengths, for a small shift needs a long look; long ones are thinned, and the
  place found is looked for again among all values. So n values cost O(n log n);
- the test is of ranks, so that a spike counts as one value and not as a thousand;
- values a second apart are alike, so they count as fewer than they are;
- the place is the best of many, and the chance is that of the best of many.

Not for spikes that pass (`residuals.py`), nor for slow drift (`trend.py`). Pure; numpy alone.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from paceline.stats.student import reach, two_sided

Numbers = NDArray[np.float64]

SHORTEST_WINDOW = 50
USUAL = 3.0
"""the factor by which real latencies are fewer than they seem. Half of what is believed is this:
what one series tells of it scatters"""

WINDOW_VALUES = 200
"""that a window compares with each other; of a longer one, means of neighbours"""

WEAK = 10.0
"""times the chance that is allowed in the end, a cut may have when it is let in"""

LEAST = 8
"""values on either side of a cut"""

CHANCE = 0.001
MAGNITUDE = 0.03
CONFIDENCE = 0.95
BLOCKS = {5: 1.434, 9: 1.495, 17: 1.53}
"""values, by the medians of which it is told how alike neighbours are; and the square of how much
more a median of so many scatters than their mean"""


class Shift(msgspec.Struct, frozen=True):
    """From `at` on values lie at `after`; `change` is relative, 0.1 for 10 % more, with what it
    lies between. `chance` is how likely such a one is found where nothing changed."""

    at: int
    before: float
    after: float
    change: float
    low: float
    high: float
    chance: float


def shifts(
    values: ArrayLike,
    *,
    chance: float = CHANCE,
    magnitude: float = MAGNITUDE,
    least: int = LEAST,
    window: int = SHORTEST_WINDOW,
) -> Sequence[Shift]:
    """In order. `magnitude` is the smallest relative change that is told, `window` the length of
    the shortest look. All values are finite: leave out what is missing."""
    given = np.asarray(values, dtype=np.float64)
    assert given.ndim == 1, "a series has one dimension"
    assert np.isfinite(given).all(), "what is missing is left out, not NaN"
    if len(given) < 2 * least:
        return []
    series = _Series(given, least)
    cuts = _weak(series, min(1.0, chance * WEAK), window)
    cuts = _strong(series, cuts, chance, magnitude)
    return [series.shift(*around) for around in _around(cuts, len(given))]


def difference(before: ArrayLike, after: ArrayLike) -> Shift:
    """Between two series that are known to be two; both of two values or more, all finite."""
    first, second = (np.asarray(each, dtype=np.float64) for each in (before, after))
    assert min(len(first), len(second)) >= 2, "a single value scatters nowhere"
    series = _Series(np.concatenate([first, second]), least=len(first) + len(second))
    return series.shift(0, len(first), len(first) + len(second))


class _Series:
    """Compared on a logarithmic scale where that is possible: 5 % are then the same everywhere."""

    def __init__(self, given: Numbers, least: int) -> None:
        self.given = given
        self.least = least
        self.positive = bool((given > 0).all())
        self.scaled: Numbers = np.log(given) if self.positive else given
        self.alike = self._alike()

    def cut(self, start: int, stop: int) -> int | None:
        """Where the two sides differ most; None where there is no room for two."""
        length = stop - start
        if length < 2 * self.least:
            return None
        stride = -(-length // WINDOW_VALUES)
        if stride == 1:
            return start + _best(_ranks(self.scaled[start:stop]), self.least)
        whole = length // stride * stride
        thin = self.scaled[start : start + whole].reshape(-1, stride).mean(axis=1)
        about = start + stride * _best(_ranks(thin), max(1, self.least // stride))
        near = WINDOW_VALUES // 2
        low, high = max(start, about - near), min(stop, about + near)
        return low + _best(_ranks(self.scaled[low:high]), self.least)

    def chance(self, start: int, at: int, stop: int) -> float:
        """By a t-test of ranks, of as many values as there were if none were like its neighbour."""
        ranks = _ranks(self.scaled[start:stop])
        left, right = ranks[: at - start], ranks[at - start :]
        if min(len(left), len(right)) < 2:
            return 1.0
        m, n = self._counted(len(left)), self._counted(len(right))
        difference = float(right.mean() - left.mean())
        variance = float(left.var() / m + right.var() / n)
        variance *= (m + n) / (m + n - 2)
        if variance <= 0.0:
            return 0.0 if difference and m + n > 4 else 1.0
        # The best of so many places would be told: of short stretches there are more.
        tried = (len(self.given) / min(len(left), len(right))) ** 2
        return min(1.0, tried * two_sided(difference / math.sqrt(variance), m + n - 2))

    def magnitude(self, start: int, at: int, stop: int) -> float:
        """Of the larger of two ratios, so that up and down by the same factor are the same."""
        change = abs(self._difference(start, at, stop))
        return math.expm1(change) if self.positive else change / self._size(start, stop)

    def shift(self, start: int, at: int, stop: int) -> Shift:
        left, right = self.scaled[start:at], self.scaled[at:stop]
        difference = self._difference(start, at, stop)
        m, n = self._counted(len(left)), self._counted(len(right))
        # A median scatters as a mean does times the root of pi / 2.
        spread = math.sqrt(math.pi / 2 * (_spread(left) ** 2 / m + _spread(right) ** 2 / n))
        far = reach(CONFIDENCE, m + n - 2) * spread
        if self.positive:
            low, change, high = (math.expm1(difference + each) for each in (-far, 0.0, far))
        else:
            size = self._size(start, stop)
            low, change, high = ((difference + each) / size for each in (-far, 0.0, far))
        return Shift(
            at,
            float(np.median(self.given[start:at])),
            float(np.median(self.given[at:stop])),
            change,
            low,
            high,
            self.chance(start, at, stop),
        )

    def _alike(self) -> float:
        """By what factor fewer values there are than it seems, for neighbours are alike. Told by
        how far medians of neighbouring blocks lie apart, against how far values do that are not
        neighbours: a shift is in few of these differences, so it does not pass for likeness."""
        blocks = [each for each in BLOCKS if len(self.scaled) >= 6 * each]
        if not blocks:
            return 1.0
        apart = max(blocks)
        values = _spread(self.scaled[apart:] - self.scaled[:-apart])
        if not values:
            return 1.0
        # As if each value were a share of the one before, and noise: that share by the same means.
        near = (_spread(self.scaled[1:] - self.scaled[:-1]) / values) ** 2
        share = min(0.95, max(0.0, 1.0 - near))
        factors = [(1.0 + share) / (1.0 - share)]
        for block in blocks:
            middles = np.median(sliding_window_view(self.scaled, block), axis=1)
            between = _spread(middles[block:] - middles[:-block])
            factors.append(block / BLOCKS[block] * (between / values) ** 2)
        return max(1.0, math.sqrt(USUAL * sum(factors) / len(factors)))

    def _counted(self, values: int) -> float:
        return max(2.0, values / self.alike)

    def _difference(self, start: int, at: int, stop: int) -> float:
        return float(np.median(self.scaled[at:stop]) - np.median(self.scaled[start:at]))

    def _size(self, start: int, stop: int) -> float:
        return float(np.abs(self.given[start:stop]).mean()) or 1.0


def _weak(series: _Series, chance: float, window: int) -> list[int]:
    """All places that might be one, by windows of each length."""
    found: set[int] = set()
    length, total = window, len(series.given)
    while True:
        step = max(1, length // 2)
        for start in range(0, max(1, total - step), step):
            _divide(series, start, min(total, start + length), chance, found)
        if length >= total:
            return sorted(found)
        length *= 2


def _divide(series: _Series, start: int, stop: int, chance: float, found: set[int]) -> None:
    waiting = [(start, stop)]
    while waiting:
        start, stop = waiting.pop()
        at = series.cut(start, stop)
        if at is None or series.chance(start, at, stop) > chance:
            continue
        found.add(at)
        waiting += [(start, at), (at, stop)]


def _strong(series: _Series, cuts: list[int], chance: float, magnitude: float) -> list[int]:
    """Without those that do not hold between their neighbours, the weakest first."""
    cuts = _merged(series, cuts, chance, magnitude)
    # Cuts lie where a window saw them best: with what is left they are looked for again.
    moved: list[int] = []
    for start, at, stop in _around(cuts, len(series.given)):
        again = series.cut(moved[-1] if moved else start, stop)
        moved.append(at if again is None else again)
    return _merged(series, sorted(set(moved)), chance, magnitude)


def _merged(series: _Series, cuts: list[int], chance: float, magnitude: float) -> list[int]:
    total = len(series.given)
    cuts = list(cuts)
    chances = [series.chance(*around) for around in _around(cuts, total)]
    while cuts:
        place = max(range(len(cuts)), key=chances.__getitem__)
        if chances[place] <= chance:
            sizes = [series.magnitude(*around) for around in _around(cuts, total)]
            place = min(range(len(cuts)), key=sizes.__getitem__)
            if sizes[place] >= magnitude:
                break
        del cuts[place], chances[place]
        around = _around(cuts, total)
        for beside in (place - 1, place):
            if 0 <= beside < len(cuts):
                chances[beside] = series.chance(*around[beside])
    return cuts


def _around(cuts: Sequence[int], total: int) -> list[tuple[int, int, int]]:
    """Each cut between the ones beside it."""
    bounds = [0, *cuts, total]
    return [(bounds[i], at, bounds[i + 2]) for i, at in enumerate(cuts)]


def _best(values: Numbers, least: int) -> int:
    """The cut for which E-divisive's measure is largest: how far values of two sides lie apart,
    less how far those of each side do, weighted by their numbers."""
    total = len(values)
    apart = np.abs(values[:, None] - values[None, :])
    within = np.cumsum(np.triu(apart, 1).sum(axis=0))  # among the first i + 1 values
    touching = np.cumsum(apart.sum(axis=1))
    left = np.arange(least, total - least + 1)
    inside = within[left - 1]
    across = touching[left - 1] - 2 * inside
    beyond = within[-1] - inside - across
    m, n = left.astype(np.float64), (total - left).astype(np.float64)
    each = inside / np.maximum(1.0, m * (m - 1)) + beyond / np.maximum(1.0, n * (n - 1))
    measure = m * n / (m + n) * (2 * across / (m * n) - 2 * each)
    return int(left[int(np.argmax(measure))])


def _ranks(values: Numbers) -> Numbers:
    """From 1; of equal values the mean."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    counts = np.diff(np.append(first, len(values)))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(first + (counts + 1) / 2, counts)
    return ranks


def _spread(values: Numbers) -> float:
    """As a standard deviation, of all but what is odd."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))
