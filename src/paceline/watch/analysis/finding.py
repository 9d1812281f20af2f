"""What analysis says: one value for all of it, which reports draw and people act on; and what it
may be said against, a baseline.

A finding stands on numbers that are told with it, says since when, how sure it is, and what to do.
Nothing is done here: a command is text, and whoever runs it makes a Change like any other, with its
prediction, which is scored afterwards.
"""

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Kind = Literal["bottleneck", "change", "trend", "anomaly", "regression", "improvement", "drift"]


LEAST_MEASURED = 20
"""numbers of which a mean error has an interval"""


def _said(text: str) -> Meta:
    return Meta(description=text)


class Evidence(msgspec.Struct, frozen=True, omit_defaults=True):
    """A number. Between `low` and `high` where it was not only counted."""

    name: str
    value: float
    unit: Annotated[str, _said("Empty of a share.")]
    low: float | None = None
    high: float | None = None


class Impact(msgspec.Struct, frozen=True):
    """What following the advice would bring: a metric of goals, as it is, and what it would be."""

    metric: str
    unit: str
    now: float
    low: float
    likely: float
    high: float


class Advice(msgspec.Struct, frozen=True, omit_defaults=True):
    """What may be done, and what that would bring."""

    what: str
    sure: Annotated[float, _said("That it helps, from 0 to 1.")]
    command: Annotated[str, _said("Empty where no Change does it.")] = ""
    impact: Impact | None = None


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that somebody should know, with what shows it and what to do."""

    kind: Kind
    model: str
    name: Annotated[str, _said("The part that is the bottleneck, or the metric that changed.")]
    what: str
    sure: Annotated[float, _said("From 0 to 1.")]
    evidence: tuple[Evidence, ...] = ()
    advice: Annotated[tuple[Advice, ...], _said("The best first.")] = ()
    ago_s: Annotated[
        float | None, _said("In the server's own seconds; null where it was so all the while.")
    ] = None
    wall_s: Annotated[float | None, _said("The same as unix seconds, for labels.")] = None


class Labels(msgspec.Struct, frozen=True, omit_defaults=True):
    """What labels said of the answers in a stretch of time: rows that were right and wrong, those
    of which a number was predicted, how far these were off together, and the squares of that."""

    right: float = 0.0
    wrong: float = 0.0
    measured: float = 0.0
    error: float = 0.0
    squared: float = 0.0

    def error_scatter(self) -> float:
        """Of the mean error: its variance."""
        mean = self.error / self.measured
        return max(0.0, self.squared / self.measured - mean * mean) / self.measured

    def error_interval(self) -> tuple[float, float] | None:
        """What the mean error lies between, with 95 %; None of too few."""
        if self.measured < LEAST_MEASURED:
            return None
        mean, reach = self.error / self.measured, 1.96 * math.sqrt(self.error_scatter())
        return max(0.0, mean - reach), mean + reach


class Baseline(msgspec.Struct, frozen=True):
    """How a model did in a stretch of time, to be compared with later."""

    model: str
    wall_s: Annotated[float, _said("When the last step of it began.")]
    span_s: Annotated[float, _said("How long it is.")]
    step_s: Annotated[float, _said("How long a step is.")]
    requests: float
    refused_share: Annotated[float, _said("Of the requests, those turned away.")]
    series: Annotated[
        dict[str, tuple[float, ...]],
        _said("By step: how many ms answers took, by the quantile; how many came a second."),
    ]
    labels: Annotated[Labels, _said("What labels said meanwhile.")] = Labels()


class Differs(msgspec.Struct, frozen=True):
    """One number, or the share of a class, as it was and is: means of numbers."""

    name: str
    is_input: bool
    is_share: bool
    before: float
    after: float
    distance: float
    chance: float
    index: float


class Drifted(msgspec.Struct, frozen=True):
    """How the last rows of a model stand against its reference."""

    reference_rows: Annotated[int, _said("Rows of the reference.")]
    reference_until_unix_s: Annotated[float, _said("When the last of them was drawn.")]
    rows: Annotated[int, _said("The last rows, which are compared with it.")]
    compared: Annotated[
        int, _said("Numbers and classes that were compared; 0: there are too few rows.")
    ]
    differs: Annotated[tuple[Differs, ...], _said("What differs, the farthest first.")]
