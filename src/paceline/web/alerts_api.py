"""The control API of alerts: what fires, who has seen it, what is silenced, who could not be told.

`watch/alerts/` decides; here is only what lies between it and HTTP. The owner adds these operations
to its own; the command line calls the same ones while no owner runs.
"""

import os
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from paceline.observe.redact import Redactor
from paceline.terms.alert import Alert, AlertBook, Moved, Severity, Silence
from paceline.terms.errors import NotFound
from paceline.terms.limits import ALERT_TEXT_CHARS, REASON_CHARS, SILENCE_MOST_S
from paceline.watch.alerts.desk import Alerts
from paceline.watch.alerts.life import silenced
from paceline.web.operations import AnyDeclaration, Declaration, Operation
from paceline.web.plan_api import WRITING

AlertId = Annotated[
    str, Meta(max_length=300, description="Rule and what it is about, as slo_burn:digits.p95_ms.")
]
Words = Annotated[str, Meta(max_length=REASON_CHARS, description="Why, for those who ask later.")]


class AlertView(msgspec.Struct, frozen=True):
    """One alert as it is now."""

    id: AlertId
    rule: str
    about: Annotated[str, Meta(description="A model, one of its goals, a route, or the host.")]
    severity: Severity
    state: Annotated[
        Literal["firing", "acknowledged", "silenced", "resolved"],
        Meta(description="Silenced: it fires, and nobody is told."),
    ]
    since_unix_s: float
    ended_unix_s: float | None
    cause: str
    value: str
    budget_left: Annotated[
        float | None, Meta(description="The share of a month's budget of errors that is left.")
    ]
    exhausted_in_s: Annotated[
        float | None, Meta(description="Until the budget is used up, or the disk, at this rate.")
    ]
    what_to_do: str
    by: Annotated[str, Meta(description="Who has acknowledged it.")]
    note: Annotated[str, Meta(description="What they said.")]
    escalated: Annotated[bool, Meta(description="Others were told, for nobody acknowledged it.")]


class SilenceView(msgspec.Struct, frozen=True):
    """Of alerts whose id fits, nobody is told."""

    id: int
    matches: Annotated[str, Meta(description="An id, with * for anything.")]
    from_unix_s: float
    until_unix_s: float
    by: str
    reason: str


class ChannelView(msgspec.Struct, frozen=True):
    """A way to tell somebody."""

    name: str
    waiting: Annotated[int, Meta(description="Notices that it is still to be told.")]
    trouble: Annotated[str, Meta(description="Why it was not told at the last attempt.")]


class DeadView(msgspec.Struct, frozen=True):
    """A notice that was given up."""

    channel: str
    notice: Annotated[int, Meta(description="Its entry of the journal.")]
    at_unix_s: float
    alert: str
    what: Moved
    why: str


class AlertsView(msgspec.Struct, frozen=True):
    """All there is to say of alerts."""

    alerts: Annotated[
        tuple[AlertView, ...], Meta(description="Open ones first; and those that ended of late.")
    ]
    pending: Annotated[
        tuple[str, ...], Meta(description="Ids of those that will fire if it goes on.")
    ]
    silences: tuple[SilenceView, ...]
    channels: tuple[ChannelView, ...]
    dead: Annotated[tuple[DeadView, ...], Meta(description="Notices that were given up.")]


class SilencesView(msgspec.Struct, frozen=True):
    silences: tuple[SilenceView, ...]


class AcknowledgeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    alert: AlertId
    note: Annotated[str, Meta(max_length=ALERT_TEXT_CHARS, description="For the others.")] = ""


class AcknowledgedView(msgspec.Struct, frozen=True):
    alert: AlertView
    was_so: Annotated[bool, Meta(description="Somebody had acknowledged it before.")]


class SilenceBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    matches: Annotated[
        str, Meta(min_length=1, max_length=300, description="An id, with * for anything.")
    ]
    for_s: Annotated[float, Meta(ge=1, le=SILENCE_MOST_S, description="How long.")]
    reason: Words = ""


class EndSilenceBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    silence: Annotated[int, Meta(ge=0, le=2**53, description="Its id.")]


ALERTS: Declaration[None, None, AlertsView] = Declaration(
    "GET", "/api/alerts", "Alerts, silences, and how those who are told fare.", AlertsView
)
ACKNOWLEDGE: Declaration[None, AcknowledgeBody, AcknowledgedView] = Declaration(
    "POST",
    "/api/alerts/acknowledge",
    "Say that somebody sees to it: nobody is reminded or woken any more, until it gets worse.",
    AcknowledgedView,
    body=AcknowledgeBody,
    errors=(NotFound, *WRITING),
)
SILENCES: Declaration[None, None, SilencesView] = Declaration(
    "GET", "/api/silences", "The silences that hold.", SilencesView
)
SILENCE: Declaration[None, SilenceBody, SilenceView] = Declaration(
    "POST",
    "/api/silences",
    "Tell nobody of some alerts, for a while.",
    SilenceView,
    body=SilenceBody,
    errors=WRITING,
)
END_SILENCE: Declaration[None, EndSilenceBody, SilenceView] = Declaration(
    "POST",
    "/api/silences/end",
    "End a silence; what still fires is told.",
    SilenceView,
    body=EndSilenceBody,
    errors=(NotFound, *WRITING),
)
DECLARED: tuple[AnyDeclaration, ...] = (ALERTS, ACKNOWLEDGE, SILENCES, SILENCE, END_SILENCE)


def operations(alerts: Alerts) -> Sequence[Operation]:
    answers = Answers(alerts)
    return (
        ALERTS.answered_by(answers.alerts),
        ACKNOWLEDGE.answered_by(answers.acknowledge),
        SILENCES.answered_by(answers.silences),
        SILENCE.answered_by(answers.silence),
        END_SILENCE.answered_by(answers.end_silence),
    )


class Answers:
    def __init__(self, alerts: Alerts) -> None:
        self._alerts = alerts
        self._clean = Redactor(os.environ).text  # a secret in a reason would be there for ever

    async def alerts(self, query: None, body: None, who: str) -> AlertsView:
        book = self._alerts.book
        return AlertsView(
            tuple(views(book)),
            self._alerts.pending,
            tuple(map(_silence, book.silences)),
            tuple(
                ChannelView(each.channel, len(book.owed.get(each.channel, ())), each.trouble)
                for each in self._alerts.postmen
            ),
            tuple(
                DeadView(
                    each.channel,
                    each.notice.id,
                    each.notice.at_unix_s,
                    each.notice.alert.id,
                    each.notice.what,
                    each.why,
                )
                for each in book.dead
            ),
        )

    async def acknowledge(self, query: None, body: AcknowledgeBody, who: str) -> AcknowledgedView:
        is_new = await self._alerts.acknowledge(body.alert, who, self._clean(body.note))
        book = self._alerts.book
        return AcknowledgedView(view(book, book.alerts[body.alert]), not is_new)

    async def silences(self, query: None, body: None, who: str) -> SilencesView:
        return SilencesView(tuple(map(_silence, self._alerts.book.silences)))

    async def silence(self, query: None, body: SilenceBody, who: str) -> SilenceView:
        reason = self._clean(body.reason)
        return _silence(await self._alerts.silence(body.matches, body.for_s, who, reason))

    async def end_silence(self, query: None, body: EndSilenceBody, who: str) -> SilenceView:
        return _silence(await self._alerts.end_silence(body.silence, who))


def views(book: AlertBook) -> list[AlertView]:
    """Open ones first, the worst and newest of them before others."""

    def order(alert: Alert) -> tuple[bool, bool, float]:
        return (not alert.open, alert.severity != "critical", -alert.since_unix_s)

    return [view(book, each) for each in sorted(book.alerts.values(), key=order)]


def view(book: AlertBook, alert: Alert) -> AlertView:
    is_silenced = alert.open and silenced(book, alert.id) is not None
    return AlertView(
        alert.id,
        alert.rule,
        alert.subject,
        alert.severity,
        "silenced" if is_silenced else alert.state,
        alert.since_unix_s,
        alert.ended_unix_s,
        alert.cause,
        alert.value,
        alert.budget_left,
        alert.exhausted_in_s,
        alert.remedy,
        alert.by,
        alert.note,
        alert.escalated,
    )


def _silence(silence: Silence) -> SilenceView:
    return SilenceView(
        silence.id,
        silence.matches,
        silence.from_unix_s,
        silence.until_unix_s,
        silence.by,
        silence.reason,
    )
