"""What batches took, counted; in force, or in a look at other settings.

What two executors do to each other, or from which size on a batch stops paying, nobody can know who
has not seen it; and an adjustment is too dear for a try, since it stands for ten seconds. A *look*
runs LOOK batches with other settings, a fraction of a second. It stays within the Envelope, is no
adjustment, and nothing else is learned from it.

`serve/core.py` carries looks out, `serve/steering.py` asks for them and reads what they found.
"""

import math

import msgspec

LOOK = 6
"""Batches of a look: with a scatter of 15 % their mean is known to 6 %."""


class Ran(msgspec.Struct):
    """Batches of one shape, each beside as many others as its settings mean."""

    batches: int = 0
    rows: int = 0
    busy_s: float = 0.0
    paces: float = 0.0
    """A pace is how long a batch took by what was expected of its size; this is their sum."""
    squares: float = 0.0
    """of the paces"""

    def count(self, rows: int, seconds: float, expected_s: float) -> None:
        pace = seconds / expected_s
        self.batches += 1
        self.rows += rows
        self.busy_s += seconds
        self.paces += pace
        self.squares += pace * pace

    def add(self, other: "Ran") -> None:
        self.batches += other.batches
        self.rows += other.rows
        self.busy_s += other.busy_s
        self.paces += other.paces
        self.squares += other.squares

    @property
    def size(self) -> float:
        return self.rows / self.batches

    @property
    def batch_s(self) -> float:
        return self.busy_s / self.batches

    @property
    def rate(self) -> float:
        """Rows a second of one executor."""
        return self.rows / self.busy_s

    @property
    def pace(self) -> float:
        return self.paces / self.batches

    @property
    def spread(self) -> float:
        """The standard deviation of the pace, as a share of it."""
        return math.sqrt(max(0.0, self.squares / self.batches - self.pace**2)) / self.pace
