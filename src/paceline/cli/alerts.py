"""`paceline alerts`: what fires, say that somebody sees to it, have quiet for a while.

What each command asks is an operation of the control API, which `reach.py` finds with or without a
server; here is only what people type and read. Called by `main.py`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from paceline.cli.plan import Because, Config, Json, State, item, when
from paceline.cli.reach import Told, ask, place
from paceline.terms.amounts import seconds
from paceline.terms.errors import LimitReached
from paceline.terms.limits import ALERT_TEXT_CHARS, REASON_CHARS, SILENCE_MOST_S

if TYPE_CHECKING:
    from paceline.web.alerts_api import AlertsView, AlertView, SilenceView

DAY_S = 86400.0

app = typer.Typer(
    help="See what fires, say that somebody sees to it, have quiet for a while.",
    rich_markup_mode=None,
    invoke_without_command=True,
)

AlertId = Annotated[str, typer.Argument(help="The alert, as the list has it: errors:digits.")]


@app.callback()
def list_(
    context: typer.Context, state: State = None, config: Config = None, as_json: Json = False
) -> None:
    """See what fires, say that somebody sees to it, have quiet for a while.

    Without a command: what fires, what ended of late, what is silenced, who could not be told.
    """
    if context.invoked_subcommand is not None:
        return
    there = place(state, config)
    told = ask(there, "GET", "/api/alerts")
    if as_json:
        print(told.body.decode())
        return
    from paceline.web.alerts_api import AlertsView

    for line in _all(msgspec.json.decode(told.body, type=AlertsView)):
        print(line)
    if not told.live:
        print(f"No server runs on {there.state}; this is what the last one left.")


@app.command()
def ack(
    alert: AlertId,
    because: Annotated[str, typer.Option(help="For the others, such as what you do.")] = "",
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Say that somebody sees to it: nobody is reminded or woken any more, until it gets worse.

    Example: paceline alerts ack slo_burn:digits.p95_ms --because "bad deploy, rolling back"
    """
    _bounded(because, ALERT_TEXT_CHARS)
    given = {"alert": alert, "note": because}
    told = ask(place(state, config), "POST", "/api/alerts/acknowledge", given)
    if as_json:
        print(told.body.decode())
        return
    from paceline.web.alerts_api import AcknowledgedView

    done = msgspec.json.decode(told.body, type=AcknowledgedView)
    if done.was_so:
        print(f"{done.alert.by} has acknowledged it already.")
    else:
        print(f"{done.alert.id} is acknowledged, and nobody is reminded of it.")


@app.command()
def silence(
    matches: Annotated[str, typer.Argument(help='Which alerts; "errors:*" are all of a rule.')],
    lasts: Annotated[str, typer.Option("--for", help="How long: 30min, 2h, 3d.")] = "1h",
    because: Because = "",
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Tell nobody of some alerts for a while. What still fires then is told then.

    Example: paceline alerts silence "*:digits*" --for 2h --because "load test"
    """
    _bounded(because, REASON_CHARS)
    given = {"matches": matches, "for_s": _lasting(lasts), "reason": because}
    there = place(state, config)
    told = ask(there, "POST", "/api/silences", given)
    if as_json:
        print(told.body.decode())
        return
    made = _silence(told)
    print(item(f"Silence {made.id}: nobody is told of {made.matches} until {_at(made)}.", ""))
    if not told.live:
        print(f"No server runs on {there.state}; it holds for the next one.")


@app.command()
def unsilence(
    silence: Annotated[int, typer.Argument(help="Its number, as the list has it.", min=0)],
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """End a silence. What still fires is told.

    Example: paceline alerts unsilence 42
    """
    told = ask(place(state, config), "POST", "/api/silences/end", {"silence": silence})
    if as_json:
        print(told.body.decode())
        return
    print(f"The silence for {_silence(told).matches} has ended.")


def _bounded(text: str, most: int) -> None:
    if len(text) > most:
        raise LimitReached(
            "the reason is too long", value=f"{len(text)} characters", remedy=f"Say it in {most}."
        )


def _lasting(text: str) -> float:
    """Times of people are days too."""
    number, unit = text.strip()[:-1], text.strip()[-1:]
    if unit == "d" and number.isdigit() and 0 < int(number) * DAY_S <= SILENCE_MOST_S:
        return int(number) * DAY_S
    return max(1.0, seconds(text, "how long a silence lasts"))


def _silence(told: Told) -> "SilenceView":
    from paceline.web.alerts_api import SilenceView

    return msgspec.json.decode(told.body, type=SilenceView)


def _at(silence: "SilenceView") -> str:
    return f"{when(silence.until_unix_s)} UTC"


def _all(told: "AlertsView") -> Iterator[str]:
    """Parts of it were written by others."""
    from paceline.changes.wording import text

    opened = [each for each in told.alerts if each.state != "resolved"]
    ended = [each for each in told.alerts if each.state == "resolved"]
    if not opened:
        yield "No alerts."
    for alert in opened:
        yield from _alert(alert)
        yield ""
    if ended:
        yield "Ended of late:"
        for alert in ended:
            yield item(f"{alert.id}, until {when(alert.ended_unix_s or 0.0)} UTC: {alert.cause}")
    if told.pending:
        yield item(f"May come, if it goes on: {', '.join(told.pending)}", "")
    for silence in told.silences:
        reason = f", {text(silence.reason)}" if silence.reason else ""
        said = f"Silence {silence.id} for {text(silence.matches)} until {_at(silence)}"
        yield item(f"{said}, by {silence.by}{reason}", "")
    for channel in told.channels:
        if channel.trouble or channel.waiting:
            why = f": {text(channel.trouble)}" if channel.trouble else ""
            yield item(f"{channel.name} is still to be told {channel.waiting} notices{why}", "")
    if told.dead:
        yield f"{len(told.dead)} notices were given up, the last for {told.dead[-1].channel}:"
        yield item(text(told.dead[-1].why))


def _alert(alert: "AlertView") -> Iterator[str]:
    from paceline.changes.wording import text
    from paceline.watch.alerts.messages import budget

    by = f" by {alert.by}" if alert.by else ""
    yield f"{alert.severity}  {alert.id}  ({alert.state}{by})"
    yield item(f"{alert.cause}: {alert.value}")
    for line in budget(alert.budget_left, alert.exhausted_in_s):
        yield item(line)
    yield item(f"since {when(alert.since_unix_s)} UTC")
    if alert.note:
        yield item(f"note: {text(alert.note)}")
    yield item(f"what to do: {alert.what_to_do}")
