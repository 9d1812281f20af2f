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
    with their sum, the largest (within 1 %), and the quantiles of `observe/board.py`, None without
    any. Of a counter, `largest` is what it grew by in its best second. Of a gauge it is the largest
    that it said, and `sum` is value times time, so that `sum / known_s` is its mean. Of several
    series in a step of more than a second, `largest` is theirs added up: it was no more than that.
    """

    wall_s: float
    """when it began"""
    value: float
    sum: float = 0.0
    largest: float = 0.0
    quantiles: tuple[float, ...] | None = None
    known_s: float = 1.0
    """how much of it was seen: less than its length beside a gap, more where a look came late. A
    rate is `value / known_s`."""


class Past(Protocol):
    """`where` names labels and what they must be; labels that are not named may be anything, and
    series that differ in them are added up."""

    def known_s(self) -> float:
        """How much of the past is known at all; a longer window is one of this length."""

    def grew(self, metric: Metric, where: Mapping[str, str], last_s: float) -> float:
        """By how much a counter grew; how many a sketch took in. Exact to the second within the
        last hour that the server ran; before that a step in which the window begins counts in
        part."""

    def latest(self, metric: Metric, where: Mapping[str, str]) -> float | None:
        """What a gauge says; None where nobody has said anything."""

    def spread(self, metric: Metric, where: Mapping[str, str], last_s: float) -> Sketch:
        """What a sketch took in, on memory of its own. It reaches back to the beginning of the
        stretch in which the window begins: 10 s within the last hour, then an hour."""

    def steps(
        self, metric: Metric, where: Mapping[str, str], last_s: float, step_s: float
    ) -> Sequence[Step]:
        """The same as a series, oldest first. `step_s` is taken as the next larger of those that
        are known: 1 s, multiples of 10 s, of a minute, of an hour; what is older than an hour is
        known by minutes, than a day by hours. The newest step may not be over: see `known_s`."""

    def series(self, metric: Metric) -> Sequence[Mapping[str, str]]:
        """The labels with which it was recorded."""
