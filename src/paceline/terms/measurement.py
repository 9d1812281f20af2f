"""A Measurement: one series as it stood when somebody looked.

Made by `observe/board.py` and the owner's probes; read by the exposition, the page and later by
everything that judges.
"""

import msgspec

from paceline.terms.metric import Metric


class Distribution(msgspec.Struct, frozen=True):
    count: float
    sum: float
    quantiles: tuple[tuple[float, float], ...]


class Measurement(msgspec.Struct, frozen=True):
    """`value` is a number for counters and gauges, a Distribution for sketches."""

    metric: Metric
    labels: tuple[str, ...]
    value: float | Distribution
