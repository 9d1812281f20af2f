"""The nouns of alerting: what is wrong, who is to hear of it, who wants to hear nothing.

Moments are unix seconds, for the journal keeps them over restarts; how long ago one is while a
server runs is `watch/alerts/life.py`'s business. Values alone. Written to the journal by `watch/`,
folded by `journal/`, shown by the page and the command line.
"""

from typing import Literal

import msgspec

Severity = Literal["warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("warning", "critical")
"""Rising."""

AlertState = Literal["firing", "acknowledged", "resolved"]
"""Pending is what no journal needs to know; silenced is what a silence says of any of these."""

Moved = Literal["fired", "worse", "acknowledged", "told", "again", "escalated", "resolved"]
"""What happened to an alert. `told`: nothing, but whoever waited to be told is told now."""


class Alert(msgspec.Struct, frozen=True, omit_defaults=True):
    """`id` is its rule and what it is about, so the same trouble always has the same one. `told` is
    what was said last, and when; `by` is who acknowledged it."""

    id: str
    rule: str
    subject: str
    severity: Severity
    state: AlertState
    since_unix_s: float
    cause: str
    value: str
    remedy: str
    budget_left: float | None = None
    """the share of the error budget that is left, below 0 where more was used"""
    exhausted_in_s: float | None = None
    """how long until the budget is used up, or the disk, at this rate"""
    ended_unix_s: float | None = None
    by: str = ""
    note: str = ""
    told: Literal["", "firing", "resolved"] = ""
    told_severity: Severity = "warning"
    told_unix_s: float = 0.0
    told_worst: Severity = "warning"
    """of what was told since it was over: whoever heard that hears of the end"""
    worse_unix_s: float = 0.0
    """when it got worse, and had to be acknowledged anew; 0 where it did not"""
    escalated: bool = False

    @property
    def open(self) -> bool:
        return self.state != "resolved"

    @property
    def owed(self) -> bool:
        """Whether those who were told would now be told something else."""
        if self.state == "resolved":
            return self.told == "firing"
        return self.told != "firing" or worse(self.severity, self.told_severity)


class Notice(msgspec.Struct, frozen=True):
    """Something to tell. `id` is that of its entry in the journal: who hears it twice knows."""

    id: int
    at_unix_s: float
    what: Moved
    alert: Alert


class Silence(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of alerts whose id fits `matches`, where a `*` stands for anything, nobody is told."""

    id: int
    matches: str
    from_unix_s: float
    until_unix_s: float
    by: str
    reason: str = ""


class Dead(msgspec.Struct, frozen=True):
    """A notice that could not be delivered, and never will be."""

    channel: str
    notice: Notice
    why: str


class AlertBook(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that is known of alerts. `owed` says by channel which notices are still to be told, in
    their order; `dead` are the newest of those that were given up."""

    alerts: dict[str, Alert] = {}
    silences: tuple[Silence, ...] = ()
    notices: dict[int, Notice] = {}
    owed: dict[str, tuple[int, ...]] = {}
    dead: tuple[Dead, ...] = ()


NO_ALERTS = AlertBook()


def worse(one: Severity, other: Severity) -> bool:
    return SEVERITIES.index(one) > SEVERITIES.index(other)
