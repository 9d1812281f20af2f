"""What analysis, alerts and reports ask of the past. `history.py` answers from memory and file;
a test answers from a list.

A time is in seconds of the server's own steps, counted back from now: 300 is five minutes in which
it ran, whatever anybody did to a clock. Labels on axes are of the wall clock.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from paceline.stats.sketch import Sketch
from paceline.terms.metric import Metric


class Step(msgspec.Struct, frozen=True):
    """One step of a series. A gap is a step that is missing, never one of zeros.

    `value` is what a counter grew by, or what a gauge said last; of a sketch, how many there were,
    with their sum, the largest, and the quantiles of `observe/board.py`, None without any.
    """

    wall_s: float
    """when it began"""
    value: float
    sum: float = 0.0
    largest: float = 0.0
    quantiles: tuple[float, ...] | None = None


class Past(Protocol):
    """`where` names labels and what they must be; labels that are not named may be anything, and
    series that differ in them are added up."""

    def known_s(self) -> float:
        """How much of the past is known at all; a longer window is one of this length."""

    def grew(self, metric: Metric, where: Mapping[str, str], last_s: float) -> float:
        """By how much a counter grew; how many a sketch took in."""

    def latest(self, metric: Metric, where: Mapping[str, str]) -> float | None:
        """What a gauge says; None where nobody has said anything."""

    def spread(self, metric: Metric, where: Mapping[str, str], last_s: float) -> Sketch:
        """What a sketch took in, on memory of its own."""

    def steps(
        self, metric: Metric, where: Mapping[str, str], last_s: float, step_s: float
    ) -> Sequence[Step]:
        """The same as a series, oldest first."""

    def series(self, metric: Metric) -> Sequence[Mapping[str, str]]:
        """The labels with which it was recorded."""
