"""`paceline traces`: where the time of inference requests to a running server went."""

from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

import msgspec
import typer

from paceline.cli.plan import Config, Json, State
from paceline.cli.reach import of_server, place
from paceline.terms.limits import TRACES_TOLD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from paceline.web.traces_api import TraceView

BAR_CHARS = 32
"""of the slowest that is shown"""


def traces(
    model: Annotated[str, typer.Argument(help="Of this one alone.")] = "",
    most: Annotated[int, typer.Option("-n", help="The most to tell.", min=1, max=TRACES_TOLD)] = 10,
    newest: Annotated[
        bool, typer.Option("--newest", help="The newest, instead of the slowest of the last hour.")
    ] = False,
    why: Annotated[
        str, typer.Option("--why", help="Kept for this: asked, sampled, slow, late or failed.")
    ] = "",
    request: Annotated[
        str, typer.Option("--id", help="The one with this x-request-id, or of this trace.")
    ] = "",
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Tell where the time of inference requests went: of the slowest, the late and the failed.

    Example: paceline traces digits -n 3
    """
    there = place(state, config)
    # A certain one is looked for among all, not only among those of the last hour.
    order = "newest" if newest or request else "slowest"
    asked = {"model": model, "order": order, "why": why, "id": request, "limit": most}
    target = f"/api/traces?{urlencode(asked)}"
    answer = of_server(there.state, "GET", target, "timelines are kept by servers alone")
    if as_json:
        print(answer.decode())
        return
    from paceline.web.traces_api import TracesView

    told = msgspec.json.decode(answer, type=TracesView).traces
    longest_ms = max((each.took_ms for each in told), default=0.0)
    for each in told:
        for line in _lines(each, longest_ms):
            print(line)
    if not told:
        print("No such timeline is kept.")


def _lines(trace: "TraceView", longest_ms: float) -> "Iterator[str]":
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(trace.received, UTC).strftime("%H:%M:%S")
    ended = f"{trace.status or ''} {trace.error}".strip()
    rows = f"{trace.rows} {'row' if trace.rows == 1 else 'rows'}"
    batch = trace.batch
    company = "" if batch is None else f", {rows} in a batch of {batch.rows} ({batch.reason})"
    kept = ", ".join(trace.why)
    yield f"{at}  {trace.model}: {ended}, {_ms(trace.took_ms)}{company}; {kept}; {trace.id}"
    parts = [each for each in trace.parts if each.ms]
    said = ", ".join(f"{each.name} {_ms(each.ms)}" for each in parts)
    yield f"          {_bar(trace, longest_ms):{BAR_CHARS}}  {said}"
    if trace.cause:
        yield f"          {trace.cause}"


def _bar(trace: "TraceView", longest_ms: float) -> str:
    """Of each part its first letter, as often as it is long."""
    bar, until_ms = "", 0.0
    for each in trace.parts:
        until_ms += each.ms
        chars = round(BAR_CHARS * until_ms / longest_ms) if longest_ms else 0
        bar += each.name[0] * (chars - len(bar))
    return bar


def _ms(ms: float) -> str:
    return f"{ms:.2f} ms" if ms < 10 else f"{ms:.1f} ms" if ms < 1000 else f"{ms / 1e3:.2f} s"
