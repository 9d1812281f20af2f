"""What batches took, counted; in force, or in a look at other settings.

What two executors do to each other, or from which size on a batch stops paying, nobody can know who
has not seen it; and an adjustment is too dear for a try, since it stands for ten seconds. A *look*
runs LOOK batches with other settings, a fraction of a second. It stays within the Envelope, is no
adjustment, and nothing else is learned from it.

`serve/core.py` carries looks out, `serve/steering.py` asks for them and reads what they found.
"""

import math

import msgspec

from paceline.serve.latency import LEAST_S

LOOK = 6
"""Batches of a look: with a scatter of 15 % their mean is known to 6 %."""


class Ran(msgspec.Struct):
    """Batches of one shape, each beside as many others as its settings mean. The *pace* of one is
    how long it took by what was expected of its size. Their geometric mean is taken: a single batch
    that takes five times as long, as one in a hundred does, says nothing of the settings."""

    batches: int = 0
    rows: int = 0
    expected_s: float = 0.0
    logs: float = 0.0
    """of the paces, summed up"""
    squares: float = 0.0
    """of these logarithms"""

    def count(self, rows: int, seconds: float, expected_s: float) -> None:
        log = math.log(max(seconds, LEAST_S) / expected_s)
        self.batches += 1
        self.rows += rows
        self.expected_s += expected_s
        self.logs += log
        self.squares += log * log

    def add(self, other: "Ran") -> None:
        self.batches += other.batches
        self.rows += other.rows
        self.expected_s += other.expected_s
        self.logs += other.logs
        self.squares += other.squares

    @property
    def size(self) -> float:
        return self.rows / self.batches

    @property
    def pace(self) -> float:
        return math.exp(self.logs / self.batches)

    @property
    def spread(self) -> float:
        """The standard deviation of a pace, as a share of it."""
        return math.sqrt(max(0.0, self.squares - self.logs**2 / self.batches) / self.batches)

    @property
    def batch_s(self) -> float:
        return self.pace * self.expected_s / self.batches

    @property
    def rate(self) -> float:
        """Rows a second of one executor."""
        return self.rows / (self.pace * self.expected_s)
