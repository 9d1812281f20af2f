"""The life of an alert, decided purely: what happens to each now, and who is to be told.

    pending → firing → acknowledged → resolved        (silenced: whatever it is, nobody is told)

An alert fires when it is found and is over when it is found no more. While it fires, those who were
told something else are told, at most once in `every_s`, again after `again_s`, and others when
nobody has acknowledged it within `escalate_s`. What gets worse is told at once, and has to be
acknowledged anew. So whatever flaps is told of once in `every_s`, and what ended meanwhile only if
its beginning was told.

*Time.* Everything is measured on the server's own clock, which nobody sets and which stands still
while a laptop sleeps; the journal keeps unix seconds. `Ages` goes from one to the other, once for
each moment, so a clock that is set later moves nothing. Called by `desk.py`; the simulation in the
tests runs the same functions.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache

import msgspec
from msgspec.structs import replace

from paceline.journal.entries import AlertMoved
from paceline.terms.alert import (
    SEVERITIES,
    Alert,
    AlertBook,
    Moved,
    Severity,
    Silence,
    worse,
)
from paceline.terms.errors import Conflict, NotFound
from paceline.terms.limits import ALERT_TEXT_CHARS, ALERTS
from paceline.watch.alerts.watchdog import Finding

FOREVER = float("inf")


class Channel(msgspec.Struct, frozen=True):
    """As far as it matters who is told: by name, and from which severity on."""

    name: str
    least: Severity = "warning"


class Policy(msgspec.Struct, frozen=True):
    """Who is told, and how often. `again_s` and `escalate_s` of None are never."""

    channels: tuple[Channel, ...] = ()
    escalate: tuple[str, ...] = ()
    every_s: float = 300.0
    again_s: float | None = 4 * 3600.0
    escalate_s: float | None = 900.0

    def told(self, severity: Severity) -> tuple[str, ...]:
        return tuple(
            each.name
            for each in self.channels
            if each.name not in self.escalate and not worse(each.least, severity)
        )


class Ages:
    """How long ago moments of the wall clock are, by the server's own."""

    def __init__(self) -> None:
        self._now = self._wall = 0.0
        self._known: dict[tuple[str, float], float] = {}

    def turn(self, now: float, wall: float, book: AlertBook) -> None:
        """What time it is. Moments that are nowhere in the book are forgotten."""
        self._now, self._wall = now, wall
        wanted = {
            *(("since", each.since_unix_s) for each in book.alerts.values()),
            *(("told", each.told_unix_s) for each in book.alerts.values()),
            *(("worse", each.worse_unix_s) for each in book.alerts.values()),
            *(("silence", each.from_unix_s) for each in book.silences),
        }
        if not self._known.keys() <= wanted:
            self._known = {key: at for key, at in self._known.items() if key in wanted}
        for kind, unix_s in wanted:
            self.s(kind, unix_s)

    def s(self, kind: str, unix_s: float) -> float:
        """From the future, where a clock was set back while no server ran, counts as from now."""
        at = self._known.get((kind, unix_s))
        if at is None:
            at = self._known[kind, unix_s] = self._now - max(0.0, self._wall - unix_s)
        return self._now - at


@lru_cache(maxsize=256)
def _pattern(matches: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, matches.split("*"))), re.DOTALL)


def silenced(book: AlertBook, alert_id: str) -> Silence | None:
    fits = (each for each in book.silences if _pattern(each.matches).fullmatch(alert_id))
    return next(fits, None)


def over(book: AlertBook, ages: Ages, wall: float) -> Iterator[Silence]:
    """Silences whose time is over by either clock: a clock that is set lengthens none."""
    for each in book.silences:
        lasts_s = each.until_unix_s - each.from_unix_s
        if wall >= each.until_unix_s or ages.s("silence", each.from_unix_s) >= lasts_s:
            yield each


def moves(
    book: AlertBook,
    findings: Mapping[str, Finding],
    unknown: Collection[str],
    policy: Policy,
    ages: Ages,
    wall: float,
) -> list[AlertMoved]:
    """What happens now; `ages` knows the time."""
    moved = []
    room = ALERTS - sum(each.open for each in book.alerts.values())
    for alert_id in dict.fromkeys((*book.alerts, *findings)):
        before, finding = book.alerts.get(alert_id), findings.get(alert_id)
        alert, what = _next(before, finding, alert_id in unknown, wall)
        if alert is None or (what == "fired" and room <= 0):
            continue
        room -= what == "fired"
        quiet = silenced(book, alert_id) is not None
        alert, what, tell = _telling(alert, what, quiet, policy, ages, wall)
        if what is not None:
            moved.append(AlertMoved(alert, what, tell))
            ages.s("since", alert.since_unix_s)  # now, and not when a clock was set
            ages.s("told", alert.told_unix_s)
            ages.s("worse", alert.worse_unix_s)
    return moved


def _next(
    before: Alert | None, finding: Finding | None, unknown: bool, wall: float
) -> tuple[Alert | None, Moved | None]:
    if finding is None:
        if before is None or not before.open or unknown:
            return before, None
        return replace(before, state="resolved", ended_unix_s=wall), "resolved"
    if before is None or not before.open:
        return _fired(finding, before, wall), "fired"
    alert = replace(
        before,
        cause=finding.cause,
        value=finding.value,
        budget_left=finding.budget_left,
        exhausted_in_s=finding.exhausted_in_s,
    )
    if worse(finding.severity, before.severity):
        anew = replace(alert, severity=finding.severity, state="firing", by="", note="")
        return replace(anew, worse_unix_s=wall), "worse"
    return alert, None


def _fired(finding: Finding, before: Alert | None, wall: float) -> Alert:
    fires = Alert(
        finding.id,
        finding.rule,
        finding.about,
        finding.severity,
        "firing",
        wall,
        finding.cause,
        finding.value,
        finding.remedy,
        finding.budget_left,
        finding.exhausted_in_s,
    )
    if before is None or not before.told:
        return fires
    # What was said of it not long ago still counts, and whoever heard that it fires waits for more.
    return replace(
        fires,
        told=before.told,
        told_severity=before.told_severity,
        told_unix_s=before.told_unix_s,
        told_worst=before.told_worst,
        escalated=before.escalated and before.told == "firing",
    )


def _telling(
    alert: Alert, what: Moved | None, quiet: bool, policy: Policy, ages: Ages, wall: float
) -> tuple[Alert, Moved | None, tuple[str, ...]]:
    """What happened, or happens because it is time to tell, and who is told."""
    nothing: tuple[str, ...] = ()
    if quiet:
        return alert, what, nothing
    told_s = ages.s("told", alert.told_unix_s) if alert.told else FOREVER
    got_worse = alert.open and worse(alert.severity, alert.told_severity)
    if told_s < policy.every_s and not got_worse:
        return alert, what, nothing
    worst = _worst(alert)
    everybody = policy.told(alert.severity if alert.open else worst)
    if alert.escalated:
        everybody += policy.escalate
    fires = alert.state == "firing"
    if alert.owed:
        what = what or "told"
    elif what is None and fires and _is_late(alert, policy, ages):
        everybody += policy.escalate
        what, alert = "escalated", replace(alert, escalated=True)
    elif what is None and fires and policy.again_s is not None and told_s >= policy.again_s:
        what = "again"
    else:
        return alert, what, nothing
    said = replace(
        alert,
        told="firing" if alert.open else "resolved",
        told_severity=alert.severity,
        told_unix_s=wall,
        told_worst=worst if alert.open else "warning",
    )
    return said, what, everybody


def _worst(alert: Alert) -> Severity:
    """Of what it is, and what was said of it since it was over."""
    said = (alert.told_worst, alert.told_severity) if alert.told == "firing" else ()
    return max((alert.severity, *said), key=SEVERITIES.index)


def _is_late(alert: Alert, policy: Policy, ages: Ages) -> bool:
    return (
        bool(policy.escalate)
        and policy.escalate_s is not None
        and alert.severity == "critical"
        and not alert.escalated
        and ages.s("since", alert.since_unix_s) >= policy.escalate_s
        and (not alert.worse_unix_s or ages.s("worse", alert.worse_unix_s) >= policy.escalate_s)
    )


def acknowledged(book: AlertBook, alert_id: str, who: str, note: str) -> AlertMoved | None:
    """None where it is so already."""
    alert = book.alerts.get(alert_id)
    if alert is None:
        raise NotFound(
            "there is no such alert",
            value=alert_id,
            remedy="`paceline alerts` lists those there are.",
        )
    if not alert.open:
        raise Conflict(
            "the alert is over already",
            value=alert_id,
            remedy="There is nothing to acknowledge; it fires again if it comes back.",
        )
    if alert.state == "acknowledged":
        return None
    note = note[:ALERT_TEXT_CHARS]
    return AlertMoved(replace(alert, state="acknowledged", by=who, note=note), "acknowledged")
