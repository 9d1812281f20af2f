"""`paceline calls`: the last LLM calls of a running server, and where their time went."""

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from paceline.cli.plan import Config, Json, State
from paceline.cli.reach import of_server, place
from paceline.terms.amounts import usd
from paceline.terms.limits import LLM_CALLS_TOLD

if TYPE_CHECKING:
    from paceline.web.calls_api import CallView


def calls(
    most: Annotated[
        int, typer.Option("-n", help="The most to tell.", min=1, max=LLM_CALLS_TOLD)
    ] = 20,
    slowest: Annotated[
        bool, typer.Option("--slowest", help="Those that took longest, instead of the newest.")
    ] = False,
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Tell of the last LLM calls where they went and how long it took.

    Example: paceline calls --slowest -n 5
    """
    there = place(state, config)
    order = "slowest" if slowest else "newest"
    target = f"/api/calls?order={order}&limit={most}"
    answer = of_server(there.state, "GET", target, "calls are remembered by servers alone")
    if as_json:
        print(answer.decode())
        return
    from paceline.web.calls_api import CallsView

    told = msgspec.json.decode(answer, type=CallsView).calls
    for each in told:
        print(_line(each))
    if not told:
        print("No LLM call has ended yet.")


def _line(call: "CallView") -> str:
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(call.received, UTC).strftime("%H:%M:%S")
    went = ", then ".join(each.target for each in call.attempts) or "nowhere"
    first = "" if call.first_ms is None else f", first content after {call.first_ms:.0f} ms"
    tokens = "" if call.output_tokens is None else f", {call.output_tokens} tokens"
    cost = "" if not call.cost_usd else f", {usd(call.cost_usd)}"
    if call.output_tokens is not None and call.cost_usd is None:
        cost = ", at a price that nobody has said"
    if call.estimated_tokens:
        tokens += f", about {call.estimated_tokens} {'more ' if tokens else ''}in and out"
    ended = f"{call.outcome} {call.status or ''}".strip()
    return f"{at}  {call.model} to {went}: {ended}, {call.took_ms:.0f} ms{first}{tokens}{cost}"
