"""Where a series is heading: its slope, as odd values do not move it, and what that lies between.

The slope is the median of those between all pairs of values (Theil, 1950; Sen, 1968), the interval
Sen's, from how the number of rising pairs scatters (Kendall), widened where neighbours are alike.
Long series are thinned to medians of neighbours. Pure; numpy alone.
"""

import math

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]

COMPARED = 240
"""values at most, each with each"""

LEAST = 8
Z = 1.96
"""deviations to either side hold 95 %"""


class Trend(msgspec.Struct, frozen=True):
    """By how much the series grows from its first value to its last, as a share of its level, with
    what that lies between; `level` is its median."""

    growth: float
    low: float
    high: float
    level: float

    @property
    def certain(self) -> bool:
        """It certainly goes one way."""
        return self.low > 0 or self.high < 0


def trend(values: ArrayLike) -> Trend | None:
    """None of too few, and around zero, where no share can be told. All values are finite."""
    given = np.asarray(values, dtype=np.float64)
    assert np.isfinite(given).all(), "what is missing is left out, not NaN"
    if len(given) < LEAST:
        return None
    level = float(np.median(given))
    if not level:
        return None
    stride = -(-len(given) // COMPARED)
    whole = len(given) // stride * stride
    thin = np.median(given[:whole].reshape(-1, stride), axis=1)
    total = len(thin)
    first, second = np.triu_indices(total, 1)
    slopes = np.sort((thin[second] - thin[first]) / (second - first))
    slope = float(np.median(slopes))
    rest = thin - np.median(thin - slope * np.arange(total)) - slope * np.arange(total)
    power = float((rest * rest).sum())
    alike = float((rest[1:] * rest[:-1]).sum()) / power if power > 0 else 0.0
    alike = min(0.95, max(0.0, alike))
    scatter = math.sqrt(total * (total - 1) * (2 * total + 5) / 18 * (1 + alike) / (1 - alike))
    middle, far = (len(slopes) - 1) / 2, Z * scatter / 2
    low = slopes[max(0, math.floor(middle - far))]
    high = slopes[min(len(slopes) - 1, math.ceil(middle + far))]
    steps = (total - 1) / abs(level)
    return Trend(slope * steps, float(low) * steps, float(high) * steps, level)
