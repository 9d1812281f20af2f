"""`paceline report MODEL`: what a model did in a stretch of the past, in four forms.

Asks the server that runs on the state directory; without one it reads the history in its file. What
a report says is `watch/report.py`'s business; its forms are beside this. Baselines are kept here
(`watch/baselines.py`), and compared here.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

import msgspec
import typer

from paceline.cli.config import STATE_HELP, state_directory
from paceline.cli.reach import of_server
from paceline.terms.errors import Misuse

if TYPE_CHECKING:
    from paceline.watch.analysis.finding import Baseline
    from paceline.watch.history import History
    from paceline.watch.report import Comparison, Report


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
    save_baseline: Annotated[
        str, typer.Option(help="Keep how it did under this name.", show_default=False)
    ] = "",
    against: Annotated[
        str,
        typer.Option(help="Compare with the baseline of this name.", show_default=False),
    ] = "",
    new_reference: Annotated[
        bool, typer.Option(help="Compare later rows with the last ones from now on (drift).")
    ] = False,
    state: Annotated[str | None, typer.Option(help=STATE_HELP)] = None,
) -> None:
    """Tell what a model did: latency, throughput, queue, batches, machine, cost; what was slow and
    what to do about it; what is an alert.

    A server that runs is asked; without one, what it has written down is read.

    Example: paceline report digits --since 1h --granularity 1m
    """
    from paceline.cli.page_file import page_file
    from paceline.cli.report_page import OPENING, page
    from paceline.cli.reported import as_lines, as_text
    from paceline.watch.baselines import check, save

    if as_json and as_csv:
        raise Misuse(
            "a report has one form on standard output",
            value="--json --csv",
            remedy="Leave out one of them.",
        )
    for name in filter(None, (save_baseline, against)):
        check(name)
    place = Path(state_directory(state))
    with page_file(html, "--html", OPENING) as write:
        found = _found(place, model, since, granularity)
        if against:
            found = msgspec.structs.replace(found, compared=_compared(place, model, since, against))
        if html is not None:
            command = f"paceline report {model} --since {since} --granularity {granularity}"
            command += f" --against {against}" if against else ""
            write(page(found, command))
    renewed = _renew(place, model) if new_reference else None
    if save_baseline:
        save(place, save_baseline, _baseline(place, model, since))
    where = None if html is None else str(html).encode(errors="replace").decode()
    if as_json:
        print(msgspec.json.encode(found).decode())
    elif as_csv:
        print(as_lines(found), end="")
    else:
        as_text(found, where, save_baseline)
        if renewed is not None:
            these = f"the last {renewed} rows" if renewed else "the next rows that are drawn"
            print(f"reference  {these}; later ones are compared with them")


def _found(state: Path, model: str, since: str, granularity: str) -> "Report":
    from paceline.terms.amounts import span
    from paceline.watch.report import Report
    from paceline.web.owner_call import call_owner

    last_s, step_s = span(since, "--since"), span(granularity, "--granularity")
    query = urlencode({"model": model, "since": since, "granularity": granularity})
    reply = call_owner(state, "GET", f"/api/report?{query}")
    if reply is not None:
        return msgspec.json.decode(reply.body, type=Report)
    from paceline.web.history_api import of_model

    past = _file(state, last_s)
    return of_model(past, model, last_s, step_s, float(past.end))


def _renew(state: Path, model: str) -> int:
    """Of how many rows it is."""
    from paceline.web.drift_api import ReferenceView

    why = "the last rows are in its memory alone"
    answer = of_server(state, "POST", "/api/drift/reference", why, {"model": model})
    return msgspec.json.decode(answer, type=ReferenceView).rows


def _baseline(state: Path, model: str, since: str, step_s: float = 0.0) -> "Baseline":
    from paceline.terms.amounts import span
    from paceline.watch.analysis.finding import Baseline
    from paceline.web.owner_call import call_owner

    last_s = span(since, "--since")
    asked = {"model": model, "since": since, "step": f"{step_s:g}s" if step_s else ""}
    reply = call_owner(state, "GET", f"/api/baseline?{urlencode(asked)}")
    if reply is not None:
        return msgspec.json.decode(reply.body, type=Baseline)
    from paceline.web.history_api import baseline_of

    return baseline_of(_file(state, last_s), model, last_s, step_s)


def _compared(state: Path, model: str, since: str, name: str) -> "Comparison":
    from paceline.watch.analysis.baseline import compared
    from paceline.watch.baselines import load
    from paceline.watch.report import Comparison

    kept = load(state, name, model)
    now = _baseline(state, model, since, kept.step_s)
    differs = tuple(compared(kept, now))
    return Comparison(name, kept.wall_s, kept.span_s, kept.step_s, differs)


def _file(state: Path, last_s: float) -> "History":
    from paceline.watch.archive import archive

    past = archive(state, last_s=last_s)
    if past is None:
        raise Misuse(
            "no server runs on this state directory, and none has left a history there",
            value=str(state),
            remedy="Start one with `paceline up`, or name another directory with --state.",
        )
    return past
