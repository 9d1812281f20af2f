"""What analysis says: one value for all of it, which reports draw and people act on.

A finding stands on numbers that are told with it, says since when, how sure it is, and what to do.
Nothing is done here: a command is text, and whoever runs it makes a Change like any other, with its
prediction, which is scored afterwards.
"""

from typing import Literal

import msgspec

Kind = Literal["bottleneck", "change", "trend", "anomaly", "regression", "improvement"]


class Evidence(msgspec.Struct, frozen=True, omit_defaults=True):
    """A number. Between `low` and `high` where it was not only counted."""

    name: str
    value: float
    unit: str
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
    """`command` is empty where no Change does it. `sure` is that it helps, from 0 to 1."""

    what: str
    sure: float
    command: str = ""
    impact: Impact | None = None


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """`name` says in one word which: the part that is the bottleneck, the metric that changed.

    `ago_s` is in the server's own seconds, None where it was so all the while; `wall_s` is for
    labels. `sure` is from 0 to 1.
    """

    kind: Kind
    model: str
    name: str
    what: str
    sure: float
    evidence: tuple[Evidence, ...] = ()
    advice: tuple[Advice, ...] = ()
    ago_s: float | None = None
    wall_s: float | None = None
