"""Whether numbers seen lately come from where earlier ones came from: distances, and their chances.

Two samples are compared by Kolmogorov and Smirnov's distance, with the chance of Stephens' formula,
good from some ten values on; equal values make it too large, never too small. Of many comparisons
those are picked that hold together (Benjamini and Hochberg, 1995), so the share of false ones is
bounded however many there are. The population stability index is told with them, for people know
it; it decides nothing, for what is much depends on the number of values. The same values give the
same answer. Pure; numpy alone. Shares of classes: `shares.py`.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float32] | NDArray[np.float64]

BINS = 10
"""of equal share before, in which a stability index compares"""

TERMS = 100
"""of the series of a chance at most; few are needed where it matters"""


def distance(before: Numbers, after: Numbers) -> float:
    """The largest difference between the shares of values up to anywhere: 0 alike, 1 apart. None of
    the values is NaN."""
    assert len(before), "there is nothing to compare with"
    assert len(after), "there is nothing to compare"
    first, second = np.sort(before), np.sort(after)
    both = np.concatenate((first, second))
    shares = np.searchsorted(first, both, "right") / len(first)
    shares -= np.searchsorted(second, both, "right") / len(second)
    return float(np.abs(shares).max())


def chance(apart: float, of_before: int, of_after: int) -> float:
    """How likely two samples of so many are at least as far apart where nothing differs."""
    root = math.sqrt(of_before * of_after / (of_before + of_after))
    far = (root + 0.12 + 0.11 / root) * apart
    if far < 0.2:  # the series converges slowly there, and is 1 to all digits
        return 1.0
    total = 0.0
    for term in range(1, TERMS):
        added = 2 * (-1) ** (term - 1) * math.exp(-2 * term * term * far * far)
        total += added
        if abs(added) < 1e-12 * total:
            break
    return min(1.0, max(0.0, total))


def stability(before: Numbers, after: Numbers) -> float:
    """The population stability index over tenths of `before`; half an event is added to each, or an
    empty one would be infinitely far."""
    edges = np.unique(np.quantile(before, np.linspace(0, 1, BINS + 1)[1:-1]))
    first = np.bincount(np.searchsorted(edges, before), minlength=len(edges) + 1)
    second = np.bincount(np.searchsorted(edges, after), minlength=len(edges) + 1)
    return index_of([*map(float, first)], [*map(float, second)])


def index_of(before: Sequence[float], after: Sequence[float]) -> float:
    """The same of counts by class or bin."""
    ours, theirs = sum(before) + len(before) / 2, sum(after) + len(after) / 2
    total = 0.0
    for was, is_now in zip(before, after, strict=True):
        first, second = (was + 0.5) / ours, (is_now + 0.5) / theirs
        total += (second - first) * math.log(second / first)
    return total


def hold(chances: Sequence[float], false_share: float) -> list[bool]:
    """Which of many differences hold, so that of those no more than this share are false; where
    nothing differs, that is how likely any holds."""
    order = sorted(range(len(chances)), key=lambda each: chances[each])
    holding = 0
    for rank, each in enumerate(order, 1):
        if chances[each] <= false_share * rank / len(chances):
            holding = rank
    kept = set(order[:holding])
    return [each in kept for each in range(len(chances))]
