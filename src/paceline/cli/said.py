"""`paceline said`: what was said in LLM calls, where it is kept; and to forget it."""

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from paceline.cli.plan import Config, Json, State
from paceline.cli.reach import ask, place
from paceline.cli.showing import help_without_command
from paceline.terms.errors import Misuse
from paceline.terms.limits import SAID_TOLD

if TYPE_CHECKING:
    from paceline.web.said_api import KeptView

app = typer.Typer(
    help="Read what was said in LLM calls, where it is kept, and forget it.",
    rich_markup_mode=None,
    invoke_without_command=True,
    callback=help_without_command,
)


@app.command("list")
def list_calls(
    key: Annotated[str | None, typer.Option(help="Only those of this key, by its id.")] = None,
    most: Annotated[int, typer.Option("-n", help="The most to tell.", min=1, max=SAID_TOLD)] = 20,
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List the calls of which is kept what was said, the newest first.

    Example: paceline said list -n 5
    """
    told = ask(place(state, config), "GET", "/api/said", {"key": key, "limit": most})
    if as_json:
        print(told.body.decode())
        return
    from paceline.web.said_api import KeptCallsView

    calls = msgspec.json.decode(told.body, type=KeptCallsView).calls
    for each in calls:
        print(_line(each))
    if not calls:
        print("Nothing is kept. `days` in the section [said] of the settings would have it so.")


@app.command()
def show(
    call: Annotated[str, typer.Argument(help="The call's id, as its caller was told.")],
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show what was said in one call, without what was hidden.

    Example: paceline said show 01J9ZD3V4Q
    """
    told = ask(place(state, config), "GET", "/api/said/call", {"call": call})
    if as_json:
        print(told.body.decode())
        return
    from paceline.web.said_api import SaidCallsView

    for each in msgspec.json.decode(told.body, type=SaidCallsView).calls:
        print(f"{_line(each)}\n\n{each.asked}\n\n{each.answered}")


@app.command()
def forget(
    call: Annotated[str | None, typer.Option(help="The call with this id.")] = None,
    key: Annotated[str | None, typer.Option(help="All calls of this key, by its id.")] = None,
    everything: Annotated[bool, typer.Option("--everything", help="All there is.")] = False,
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Erase what was said in a call, in all calls of a key, or in all there are.

    Example: paceline said forget --key 4f1c2a
    """
    if (call is not None) + (key is not None) + everything != 1:
        raise Misuse(
            "what is to be forgotten must be said, and in one way",
            remedy="Give --call ID, --key ID or --everything; one of them.",
        )
    given = {"call": call, "key": key, "everything": everything}
    told = ask(place(state, config), "POST", "/api/said/forget", given)
    if as_json:
        print(told.body.decode())
        return
    from paceline.web.said_api import ForgottenView

    gone = msgspec.json.decode(told.body, type=ForgottenView).forgotten
    print(f"What was said in {gone} call{'' if gone == 1 else 's'} is gone.")


def _line(call: "KeptView") -> str:
    from datetime import UTC, datetime

    at, until = (
        datetime.fromtimestamp(each, UTC).strftime("%Y-%m-%d %H:%M")
        for each in (call.at, call.until)
    )
    who = "" if call.key is None else f", key {call.key}"
    return f"{call.id}  {at}  {call.model}: {call.status or 'left'}{who}, kept until {until}"
