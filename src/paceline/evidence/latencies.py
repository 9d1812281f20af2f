"""How long batches take in a simulated world: tables by shape and size, with their scatter.

A world is given (`2 ms + 0.5 ms a row`), or measured on a real model. The core never looks in here:
it has to learn what it needs, as in production. Called by `evidence/simulate.py`, `cli/simulate.py`
and benchmarks.
"""

from collections.abc import Sequence

import msgspec
import numpy as np


class Latency(msgspec.Struct, frozen=True):
    """Of batches of one shape. `scatter`: evenly spaced quantiles of measured over median;
    `side_by_side`: how many times longer while another batch runs."""

    sizes: tuple[int, ...]
    median_s: tuple[float, ...]
    scatter: tuple[float, ...] = (1.0,)
    side_by_side: float = 1.0

    def table(self, most: int) -> list[float]:
        """Median seconds by size, from none to `most`; beyond what was measured as it grew last."""
        sizes = np.arange(most + 1)
        table = np.interp(sizes, self.sizes, self.median_s)
        last = self.sizes[-1]
        if most > last:
            if len(self.sizes) > 1:
                slope = (self.median_s[-1] - self.median_s[-2]) / (last - self.sizes[-2])
            else:
                slope = self.median_s[-1] / last
            table[last + 1 :] = self.median_s[-1] + slope * (sizes[last + 1 :] - last)
        listed: list[float] = table.tolist()
        return listed

    def ratios(self, count: int, seed: int) -> list[float]:
        """So many draws of the scatter."""
        die = np.random.default_rng(seed)
        at = np.linspace(0, 1, len(self.scatter))
        drawn: list[float] = np.interp(die.random(count), at, self.scatter).tolist()
        return drawn


def line(fixed_s: float, row_s: float, most: int = 2, scatter: Sequence[float] = (1.0,)) -> Latency:
    """A fixed part and one for each row."""
    return Latency((1, most), (fixed_s + row_s, fixed_s + most * row_s), tuple(scatter))
