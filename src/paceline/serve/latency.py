"""How long a batch of a size will take, learned from those that were run, per model and shape.

Small sizes stand for themselves, larger ones in groups, four from each power of two to the next:
machines take steps at round sizes. Each group has the median of its recent batches, shrunk towards
one line a + b * size through them all, so that a size seen once fools nobody and one never seen
has a value; never falling with size.

On top of that lies a *level*, the same for all sizes: whatever slows the machine down, a neighbour
or heat, shows in the median of the last few batches of any size, long before each size has been
seen again. *Drift*: a level far off means that the world has changed, and each size perhaps in its
own way; then what was learned is scaled to it, and forgotten down to a single batch a group.

The *quantile* is one of recent batches against what had been expected of them, not of what scatters
around the medians: then it covers what it says even where the model is wrong.

Pure, and cheap enough for every batch. Called by batcher, admission and controller, which share one
model. Parameters were chosen on batches of the three models of `./bench latency`.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence
from math import ceil
from typing import TypeAlias

KEPT = 24
"""Recent batches of one group of sizes."""

RATIOS = 256
"""Recent batches of any size, whose scatter makes the quantile."""

LEVEL = 15
"""Recent batches of any size whose median is the level: half of them make it believed."""

SIDE = 1.25
"""How far off the level is a drift, up or down."""

SURE = 1.12
"""How far off a level counts. Nearer, each group learns by itself: a level that always counted
would be learned from one size alone, wander with its noise, and take all the others along."""

OF_A_MEDIAN = 1.25 / LEVEL**0.5
"""How much the median of a level's batches scatters, of what each does. Where batches scatter much,
both of the above give way: by chance alone a level is not off so far."""

SHRINK = 2.0
"""How many batches of its own a group needs to weigh as much as the line through all."""

KNOWN = 2
"""Batches of a group before one more of it says something of the level: a first one tells of the
size."""

REFRESH = 32
"""Batches between two looks at the whole."""

FEW = 4
"""Batches of a group of which each is reason enough for a look, in the beginning and after a drift:
with it what was wrong is right again after a third of the batches."""

EFFICIENT = 0.997
"""Of the best throughput; what is missing there is not worth a batch twice as large."""

TRIED_AGAIN = 64
"""Batches after which `efficient` lets one be large: what is never run cannot show that it pays."""

LEAST_S = 1e-9
"""No batch takes less, whatever the clock says."""

ROUNDING = 1e-9
"""So that a size is not one more for the last bit."""


_Piece: TypeAlias = tuple[float, float, float]
"""What a group of sizes takes at level 1: never less than the first number (which is what the group
before it takes), a fixed part, and one for each row."""


class _Window:
    """The last few values, in order of size too."""

    __slots__ = ("_coming", "_most", "ordered", "seen")

    def __init__(self, most: int) -> None:
        self._coming: deque[float] = deque()
        self._most = most
        self.ordered: list[float] = []
        self.seen = 0
        """All there ever were."""

    def add(self, value: float) -> None:
        self.seen += 1
        ordered = self.ordered
        coming = self._coming
        coming.append(value)
        if len(coming) > self._most:
            del ordered[bisect_left(ordered, coming.popleft())]
        insort(ordered, value)

    def keep_only(self, value: float) -> None:
        self._coming.clear()
        self._coming.append(value)
        self.ordered = [value]

    def median(self) -> float:
        ordered = self.ordered
        return (ordered[(len(ordered) - 1) >> 1] + ordered[len(ordered) >> 1]) / 2


class LatencyModel:
    """`quantile` of the batches take no longer than `at` says."""

    def __init__(self, quantile: float = 0.95, first_guess_s: float = 0.001) -> None:
        self._quantile = quantile
        self._groups: dict[int, _Window] = {}
        self._ratios: deque[float] = deque(maxlen=RATIOS)
        self._factor = 1.0
        self._recent = deque([(0, 1.0)] * LEVEL)
        self._levels = [1.0] * LEVEL
        self._level = 1.0
        # By group, up to the largest seen and then for all beyond it: what its sizes take, what its
        # first one takes, and the most rows a second of any size before it.
        guess = (first_guess_s, first_guess_s, 0.0)
        self._pieces = [guess, guess]
        self._starts_s = [0.0, first_guess_s]
        self._best_before = [0.0, 0.0]
        self._sure = SURE
        self._side = SIDE
        self._since_refresh = 0
        self._drifted_at = -RATIOS
        self.batches = 0
        self.drifts = 0

    def at(self, size: int) -> float:
        """Seconds that a batch of this size takes at most, at the quantile."""
        return self._at_level_one(size) * self._level * self._factor

    def typical(self, size: int) -> float:
        """Seconds, in the median."""
        return self._at_level_one(size) * self._level

    def largest_within(self, seconds: float, most: int) -> int:
        """The largest size up to `most` that takes no longer; 0 where not even one row fits."""
        typical_s = seconds / (self._factor * self._level)
        group = bisect_right(self._starts_s, typical_s) - 1
        if not group:
            return 0
        _, fixed_s, each_s = self._pieces[group]
        last = _first(group + 1) - 1 if group + 1 < len(self._pieces) else most
        if each_s:
            last = min(last, max(_first(group), int((typical_s - fixed_s) / each_s)))
        return min(most, last)

    def efficient(self, most: int) -> int:
        """The smallest size up to `most` with (nearly) the most rows a second of all those: beyond
        it, company only makes everybody wait. Once in a while, and as long as a single size says
        nothing of the others, it is `most`."""
        if len(self._groups) < 2 or not self.batches % TRIED_AGAIN:
            return most
        group = min(_group(most), len(self._pieces) - 1)
        best = max(self._best_before[group], most / self._at_level_one(most))
        wanted = EFFICIENT * best
        group = bisect_left(self._best_before, wanted, 1, group + 1) - 1
        least_s, fixed_s, each_s = self._pieces[group]
        of_a_row = 1 - wanted * each_s  # none is left only where nothing is fixed either
        size = max(wanted * least_s, wanted * fixed_s / of_a_row if of_a_row > 0 else 0.0)
        return min(most, max(_first(group), ceil(size * (1 - ROUNDING))))

    def observe(self, size: int, seconds: float) -> None:
        """One more batch was run."""
        self.batches += 1
        group = _group(size)
        window = self._groups.get(group)
        if window is None:
            window = self._groups[group] = _Window(KEPT)
        ratio = max(seconds, LEAST_S) / self._at_level_one(size)
        surprise = ratio / self._level
        window.add(surprise * self._at_level_one(_first(group)))  # as if it had been of this size
        if window.seen > KNOWN:
            self._ratios.append(surprise)
            self._follow(group, ratio)
        self._since_refresh += 1
        if self._since_refresh >= REFRESH or len(window.ordered) <= FEW:
            self._refresh()

    def _at_level_one(self, size: int) -> float:
        pieces = self._pieces
        group = _group(size)
        least_s, fixed_s, each_s = pieces[group] if group < len(pieces) else pieces[-1]
        seconds = fixed_s + each_s * size
        return seconds if seconds > least_s else least_s

    def _follow(self, group: int, ratio: float) -> None:
        recent = self._recent
        levels = self._levels
        recent.append((group, ratio))
        del levels[bisect_left(levels, recent.popleft()[1])]
        insort(levels, ratio)
        level = levels[LEVEL // 2]
        sure, side = self._sure, self._side
        self._level = level if level > sure or level * sure < 1 else 1.0
        if level > side or level * side < 1:
            self._drift(level)

    def _drift(self, level: float) -> None:
        """Starts anew from what was known, at the new level, and from the batches that showed it.
        That these surprised says nothing of how batches scatter, unless it happens again and
        again."""
        rare = self.batches - self._drifted_at > RATIOS
        self._drifted_at = self.batches
        self.drifts += 1
        for group, window in self._groups.items():
            window.keep_only(self._starts_s[group] * level)
        for group, ratio in self._recent:
            if abs(ratio - level) < abs(ratio - 1):
                self._groups[group].add(self._starts_s[group] * ratio)
                if rare:
                    self._ratios.pop()
                    self._ratios.appendleft(ratio / level)
        self._recent = deque([(0, 1.0)] * LEVEL)
        self._levels = [1.0] * LEVEL
        self._level = 1.0
        self._refresh()

    def _refresh(self) -> None:
        self._since_refresh = 0
        windows = self._groups
        groups = sorted(windows)
        firsts = [_first(group) for group in groups]
        medians = [windows[group].median() for group in groups]
        weights = [len(windows[group].ordered) for group in groups]
        fixed_s, each_s = _line(firsts, medians, weights)
        off = [1.0] * (groups[-1] + 2)  # those not seen, and what lies beyond, are on the line
        for group, first, seconds, weight in zip(groups, firsts, medians, weights, strict=True):
            ratio = seconds / (fixed_s + each_s * first)
            off[group] = (ratio * weight + SHRINK) / (weight + SHRINK)
        self._lay(fixed_s, each_s, off)
        ordered = sorted(self._ratios)
        if len(ordered) >= LEVEL:
            spread = (ordered[len(ordered) * 5 // 6] - ordered[len(ordered) // 6]) / 2
            chance = spread * OF_A_MEDIAN  # of the level, by scatter alone
            self._sure = max(SURE, 1 + 2 * chance)
            self._side = max(SIDE, 1 + 5 * chance)
        if ordered:  # the rank that covers the next one with this chance, were all alike
            rank = ceil((len(ordered) + 1) * self._quantile)
            self._factor = max(1.0, ordered[min(len(ordered), rank) - 1])

    def _lay(self, fixed_s: float, each_s: float, off: Sequence[float]) -> None:
        """The pieces one after the other; `off` is by how much each group lies off the line."""
        pieces = self._pieces = [(0.0, 0.0, 0.0)]
        starts_s = self._starts_s = [0.0]
        best_before = self._best_before = [0.0]
        highest_s = best = 0.0
        first = 1
        for group in range(1, len(off)):
            least_s, own_fixed_s, own_each_s = highest_s, fixed_s * off[group], each_s * off[group]
            after = _first(group + 1)
            highest_s = max(least_s, own_fixed_s + own_each_s * (after - 1))
            pieces.append((least_s, own_fixed_s, own_each_s))
            starts_s.append(max(least_s, own_fixed_s + own_each_s * first))
            best_before.append(best)
            best = max(best, (after - 1) / highest_s)  # within a group more rows only gain
            first = after


def _group(size: int) -> int:
    """1 to 7 by themselves, then 8-9, 10-11, ... 16-19, ...: by its three leading bits."""
    shift = size.bit_length() - 3
    return 4 * shift + (size >> shift) if shift > 0 else size


def _first(group: int) -> int:
    """The smallest size in it."""
    return 4 + group % 4 << group // 4 - 1 if group > 7 else group


def _line(
    sizes: Sequence[int], seconds: Sequence[float], weights: Sequence[int]
) -> tuple[float, float]:
    """a + b * size by weighted least squares; neither is negative."""
    w = wx = wy = wxx = wxy = 0.0
    for x, y, weight in zip(sizes, seconds, weights, strict=True):
        w += weight
        wx += weight * x
        wy += weight * y
        wxx += weight * x * x
        wxy += weight * x * y
    spread = wxx * w - wx * wx
    if not spread:  # one size says nothing of the others: as if each row cost the same
        return 0.0, wy / wx
    each = (wxy * w - wx * wy) / spread
    fixed = (wy - each * wx) / w
    if each < 0:
        return wy / w, 0.0
    if fixed < 0:
        return 0.0, wxy / wxx
    return fixed, each
