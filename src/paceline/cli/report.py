"""`paceline report MODEL`: what a model did in a stretch of the past, in four forms.

Asks the server that runs on the state directory; without one it reads the history in its file. What
a report says is `watch/report.py`'s business; its forms are beside this.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

import msgspec
import typer

from paceline.cli.config import STATE_HELP, state_directory
from paceline.terms.errors import Misuse

if TYPE_CHECKING:
    from paceline.watch.report import Report


def report(
    model: Annotated[str, typer.Argument(help="The model's name, such as digits.")],
    since: Annotated[str, typer.Option(help="How far back: 10m, 1h, 7d.")] = "1h",
    granularity: Annotated[str, typer.Option(help="How long a step is: 1s, 1m, 1h.")] = "1m",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="The steps as CSV.")] = False,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page with charts to this file.", show_default=False),
    ] = None,
    state: Annotated[str | None, typer.Option(help=STATE_HELP)] = None,
) -> None:
    """Tell what a model did: latency, throughput, queue, batches, machine, cost.

    A server that runs is asked; without one, what it has written down is read.

    Example: paceline report digits --since 1h --granularity 1m
    """
    from paceline.cli.page_file import page_file
    from paceline.cli.report_page import OPENING, page
    from paceline.cli.reported import as_lines, as_text

    if as_json and as_csv:
        raise Misuse(
            "a report has one form on standard output",
            value="--json --csv",
            remedy="Leave out one of them.",
        )
    with page_file(html, "--html", OPENING) as write:
        found = _found(Path(state_directory(state)), model, since, granularity)
        if html is not None:
            command = f"paceline report {model} --since {since} --granularity {granularity}"
            write(page(found, command))
    where = None if html is None else str(html).encode(errors="replace").decode()
    if as_json:
        print(msgspec.json.encode(found).decode())
    elif as_csv:
        print(as_lines(found), end="")
    else:
        as_text(found, where)


def _found(state: Path, model: str, since: str, granularity: str) -> "Report":
    from paceline.terms.amounts import span
    from paceline.watch.report import Report
    from paceline.web.owner_call import call_owner

    last_s, step_s = span(since, "--since"), span(granularity, "--granularity")
    query = urlencode({"model": model, "since": since, "granularity": granularity})
    reply = call_owner(state, "GET", f"/api/report?{query}")
    if reply is not None:
        return msgspec.json.decode(reply.body, type=Report)
    from paceline.watch.archive import archive
    from paceline.web.history_api import of_model

    past = archive(state)
    if past is None:
        raise Misuse(
            "no server runs on this state directory, and none has left a history there",
            value=str(state),
            remedy="Start one with `paceline up`, or name another directory with --state.",
        )
    return of_model(past, model, last_s, step_s, float(past.end))
