"""What a channel is told: notices as JSON, as text for people, as a mail. Pure.

A message has an id that stays the same however often it is sent, and so has each notice in it:
whoever gets one twice, which happens when a server dies between sending and noting so, can tell.
Called by `postman.py` and by the channels.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any, NamedTuple

import msgspec

from paceline.terms.alert import Moved, Notice
from paceline.terms.amounts import counted, long_time, moment, percent
from paceline.terms.limits import ALERT_LINES

WORDS: Mapping[Moved, str] = {
    "fired": "FIRING",
    "worse": "WORSE",
    "acknowledged": "ACKNOWLEDGED",
    "told": "FIRING",
    "again": "STILL FIRING",
    "escalated": "NOBODY ACKNOWLEDGED",
    "resolved": "RESOLVED",
}


class Message(NamedTuple):
    """`server` says which one speaks, for whoever runs several."""

    channel: str
    server: str
    notices: tuple[Notice, ...]

    @property
    def id(self) -> str:
        first, last = self.notices[0].id, self.notices[-1].id
        return f"{self.server}-{self.channel}-{first}-{last}"


def word(notice: Notice) -> str:
    if not notice.alert.open:
        return WORDS["resolved"]
    return WORDS[notice.what]


def title(message: Message) -> str:
    """One line for all of it."""
    if len(message.notices) == 1:
        (notice,) = message.notices
        return f"{word(notice)} {notice.alert.severity}: {notice.alert.cause}"
    begun, ended = _parts(message.notices)
    said = [f"{counted(len(begun))} firing"] if begun else []
    said += [f"{counted(len(ended))} resolved"] if ended else []
    return f"{counted(len(message.notices))} notices of alerts: {', '.join(said)}"


def text(message: Message) -> str:
    """All of it for people; of many, the first ones and how many there are more."""
    lines = [title(message)] if len(message.notices) > 1 else []
    for notice in message.notices[:ALERT_LINES]:
        lines += _lines(notice)
    more = len(message.notices) - ALERT_LINES
    if more > 0:
        lines.append(f"... and {counted(more)} more; `paceline alerts` lists what fires now.")
    lines.append(f"({message.server}, {message.id})")
    return "\n".join(lines)


def _lines(notice: Notice) -> list[str]:
    alert = notice.alert
    lines = [
        f"{word(notice)} {alert.severity}: {alert.cause}",
        f"  value: {alert.value}",
        *(f"  {each}" for each in budget(alert.budget_left, alert.exhausted_in_s)),
        f"  since: {moment(alert.since_unix_s)}",
    ]
    if alert.ended_unix_s is not None:
        return [*lines, f"  until: {moment(alert.ended_unix_s)}"]
    return [
        *lines,
        f"  what to do: {alert.remedy}",
        f"  acknowledge: paceline alerts ack '{alert.id}'",
    ]


def budget(left: float | None, exhausted_in_s: float | None) -> list[str]:
    """What is left of it, and for how long, as far as there is one."""
    said = []
    if left is not None:
        if left < 0:
            said.append(f"budget left: none; {1 - left:.3g} times a month's is used")
        else:
            said.append(f"budget left: {percent(left)} of a month's")
    if exhausted_in_s is not None:
        lasts = long_time(exhausted_in_s) if exhausted_in_s > 0 else "no time"
        said.append(f"exhausted in: {lasts} at this rate")
    elif left is not None:
        said.append("exhausted in: never at this rate")
    return said


def _parts(notices: Sequence[Notice]) -> tuple[list[Notice], list[Notice]]:
    begun = [each for each in notices if each.alert.open]
    return begun, [each for each in notices if not each.alert.open]


def as_json(message: Message) -> bytes:
    """For programs: every notice, whole."""
    return msgspec.json.encode(
        {
            "id": message.id,
            "server": message.server,
            "summary": title(message),
            "notices": [_fields(each) for each in message.notices],
        }
    )


def _fields(notice: Notice) -> dict[str, Any]:
    alert = notice.alert
    return {
        "id": notice.id,
        "at_unix_s": notice.at_unix_s,
        "what": notice.what,
        "alert": alert.id,
        "rule": alert.rule,
        "about": alert.subject,
        "severity": alert.severity,
        "state": alert.state,
        "since_unix_s": alert.since_unix_s,
        "ended_unix_s": alert.ended_unix_s,
        "cause": alert.cause,
        "value": alert.value,
        "budget_left": alert.budget_left,
        "exhausted_in_s": alert.exhausted_in_s,
        "what_to_do": alert.remedy,
    }


def as_slack(message: Message) -> bytes:
    """Slack's form, which Mattermost and others take as well: three signs mean something there."""
    plain = text(message).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return msgspec.json.encode({"text": plain})


def as_mail(message: Message, sender: str, to: Sequence[str]) -> EmailMessage:
    mail = EmailMessage()
    mail["From"] = sender
    mail["To"] = ", ".join(to)
    mail["Subject"] = f"[paceline] {title(message)}"[:200].replace("\n", " ")
    mail["Message-ID"] = f"<{_token(message.id)}@paceline>"
    mail["Date"] = datetime.fromtimestamp(max(0.0, message.notices[-1].at_unix_s), UTC)
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(text(message))
    return mail


def _token(id_: str) -> str:
    return "".join(each if each.isascii() and each.isalnum() else "-" for each in id_)
