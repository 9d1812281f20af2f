"""What entries about alerts amount to: the book of alerts, after one more of them. Pure.

It takes whatever comes: an entry about an alert or a notice that is not there, say in a journal
that was saved from damage, changes nothing. Called by the fold and by compaction.
"""

from msgspec.structs import replace

from paceline.journal.entries import (
    AboutAlerts,
    AlertMoved,
    AlertsSummed,
    AlertsTold,
    Silenced,
    SilenceEnded,
)
from paceline.terms.alert import Alert, AlertBook, Dead, Notice
from paceline.terms.limits import ALERT_OWED, ALERTS, ALERTS_DEAD, ALERTS_RESOLVED_S, SILENCES


def booked(book: AlertBook, seq: int, at_unix_s: float, body: AboutAlerts) -> AlertBook:
    match body:
        case AlertMoved(alert, what, tell):
            book = replace(book, alerts=_with(book.alerts, alert, at_unix_s))
            return _owing(book, Notice(seq, at_unix_s, what, alert), tell) if tell else book
        case AlertsTold(channel, up_to):
            return _told(book, channel, up_to, None if body.sent else body.why)
        case Silenced(silence):
            others = tuple(each for each in book.silences if each.id != silence.id)
            return replace(book, silences=(*others, silence)[-SILENCES:])
        case SilenceEnded(ended):
            left = tuple(each for each in book.silences if each.id != ended)
            return replace(book, silences=left)
        case AlertsSummed():
            return body.book


def _with(alerts: dict[str, Alert], alert: Alert, now_unix_s: float) -> dict[str, Alert]:
    """Those that ended go after a while, and where there are too many those that ended first."""
    kept = {
        each.id: each
        for each in alerts.values()
        if each.id != alert.id and not _is_past(each, now_unix_s)
    }
    if len(kept) >= ALERTS:
        ended = [each for each in kept.values() if not each.open]
        first = min(ended or kept.values(), key=lambda each: each.ended_unix_s or each.since_unix_s)
        del kept[first.id]
    kept[alert.id] = alert
    return kept


def _is_past(alert: Alert, now_unix_s: float) -> bool:
    ended = alert.ended_unix_s
    return not (alert.open or alert.owed or ended is None) and (
        now_unix_s - max(ended, alert.told_unix_s) > ALERTS_RESOLVED_S
    )


def _owing(book: AlertBook, notice: Notice, channels: tuple[str, ...]) -> AlertBook:
    owed = dict(book.owed)
    dead = list(book.dead)
    notices = {**book.notices, notice.id: notice}
    for channel in channels:
        waiting = (*owed.get(channel, ()), notice.id)
        for given_up in waiting[:-ALERT_OWED]:
            dead.append(Dead(channel, notices[given_up], "too many were waiting"))
        owed[channel] = waiting[-ALERT_OWED:]
    return _tidy(replace(book, notices=notices, owed=owed, dead=tuple(dead[-ALERTS_DEAD:])))


def _told(book: AlertBook, channel: str, up_to: int, why: str | None) -> AlertBook:
    waiting = book.owed.get(channel, ())
    left = tuple(each for each in waiting if each > up_to)
    owed = {name: ids for name, ids in book.owed.items() if name != channel}
    if left:
        owed[channel] = left
    dead = book.dead
    if why is not None:
        gone = [Dead(channel, book.notices[each], why) for each in waiting if each <= up_to]
        dead = (*dead, *gone)[-ALERTS_DEAD:]
    return _tidy(replace(book, owed=owed, dead=dead))


def _tidy(book: AlertBook) -> AlertBook:
    wanted = {each for ids in book.owed.values() for each in ids}
    if len(wanted) == len(book.notices):
        return book
    return replace(book, notices={seq: each for seq, each in book.notices.items() if seq in wanted})
