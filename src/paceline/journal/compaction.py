"""Compaction, decided purely: which adjustments give way to which summaries. Called by the journal.

Of one knob's adjustments of one day stays one entry, in the place of the last: the fold of the
whole is the same before and after, and `why` still tells what went on. Changes of the Plan stay for
ever. Of all that was about alerts stays one entry, with what is in force and how often each fired.

A knob's day is summarized as a whole, never in parts: it goes in one transaction. That is no danger
as long as the desk lets a knob be adjusted once in ADJUST_EVERY_S: 8,640 times a day, and a score
for each prediction that came with one.
"""

from collections.abc import Iterable, Iterator

from paceline.journal.alerting import booked
from paceline.journal.entries import (
    AboutAlerts,
    Adjusted,
    AdjustedOften,
    AlertMoved,
    AlertsSummed,
    Entry,
    Scored,
)
from paceline.terms.alert import NO_ALERTS
from paceline.terms.plan import Address

DAY_S = 86400
INFINITY = float("inf")

Group = tuple[list[int], Entry]
"""The entries that go, and the summary that comes; it has the number of one of them."""


def summarize(
    entries: Iterable[Entry], before_unix_s: float, now_unix_s: float = INFINITY
) -> Iterator[Group]:
    """From the journal's beginning; it is read no further than the first entry that may stay. One
    from the future tells of a clock that was wrong, and of nothing that comes after it."""
    groups: dict[tuple[Address, int], list[Entry]] = {}
    alerts = _Alerts()
    for entry in entries:
        if entry.at > now_unix_s:
            alerts.note(entry, stays=True)
            continue
        if entry.at >= before_unix_s:
            break
        alerts.note(entry, stays=False)
        knob = _knob(entry)
        if knob:
            groups.setdefault((knob, int(entry.at // DAY_S)), []).append(entry)
    for (knob, _), group in groups.items():
        moves = [each for each in group if not isinstance(each.body, Scored)]
        if len(group) > 1 and moves:
            yield [each.seq for each in group], _summary(knob, moves, group)
    yield from alerts.groups()


class _Alerts:
    """What was about alerts, from the beginning: entries that stay count as well."""

    def __init__(self) -> None:
        self._book = NO_ALERTS
        self._fired: dict[str, int] = {}
        self._entries = 0
        self._gone: list[int] = []
        self._summary: Entry | None = None

    def note(self, entry: Entry, *, stays: bool) -> None:
        body = entry.body
        if not isinstance(body, AboutAlerts):
            return
        self._book = booked(self._book, entry.seq, entry.at, body)
        if stays:
            return
        match body:
            case AlertsSummed():
                self._entries += body.entries
                for rule, times in body.fired.items():
                    self._fired[rule] = self._fired.get(rule, 0) + times
            case AlertMoved(alert, "fired"):
                self._entries += 1
                self._fired[alert.rule] = self._fired.get(alert.rule, 0) + 1
            case _:
                self._entries += 1
        self._gone.append(entry.seq)
        summed = AlertsSummed(self._entries, dict(self._fired), self._book)
        self._summary = Entry(entry.seq, entry.at, entry.who, summed)

    def groups(self) -> Iterator[Group]:
        if self._summary is not None and len(self._gone) > 1:
            yield self._gone, self._summary


def _knob(entry: Entry) -> Address | None:
    match entry.body:
        case Adjusted(adjustment):
            return adjustment.knob
        case AdjustedOften(knob):
            return knob
        case Scored(knobs=(knob,), of_adjustment=True):
            return knob
    return None


def _summary(knob: Address, moves: list[Entry], group: list[Entry]) -> Entry:
    times = came_true = did_not = 0
    first = last = None
    for entry in group:
        match entry.body:
            case Adjusted(adjustment):
                times += 1
                first = adjustment.before if first is None else first
                last = adjustment.after
            case AdjustedOften():
                times += entry.body.times
                came_true += entry.body.came_true
                did_not += entry.body.did_not
                first = entry.body.first if first is None else first
                last = entry.body.last
            case Scored():
                came_true += entry.body.outcome == "came true"
                did_not += entry.body.outcome == "did not"
    assert first is not None
    assert last is not None
    whose = {entry.who for entry in moves}
    who = moves[-1].who if len(whose) == 1 else "several"
    body = AdjustedOften(knob, times, first, last, came_true, did_not)
    return Entry(moves[-1].seq, moves[-1].at, who, body)
