"""`paceline load`: requests on a server at a rate, and how long its answers take.

Says the options, shows how far it is, and writes the page; `evidence/load.py` sends, `loaded.py`
tells what came of it. It starts no server.
"""

import os
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from paceline.terms.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_UNREACHABLE

KEY_VARIABLE = "PACELINE_KEY"


def load(
    url: Annotated[
        str,
        typer.Argument(
            help="http://HOST:PORT/predict/MODEL, .../v2/models/MODEL/infer, "
            ".../v1/chat/completions, or any other."
        ),
    ],
    rate: Annotated[
        float | None,
        typer.Option(
            help="Requests a second; a recorded trace is stretched to it.  [default: 100]",
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="How long requests are sent; by default 10, or as long as the trace.",
            show_default=False,
        ),
    ] = None,
    warmup: Annotated[
        str, typer.Option(help="How long requests are sent before it counts.")
    ] = "2s",
    arrivals: Annotated[
        str,
        typer.Option(help="When they are sent: constant, poisson, bursty, diurnal, or a CSV file."),
    ] = "poisson",
    slo: Annotated[
        str | None,
        typer.Option(
            help="Within which time 99 % are to be answered, such as 30ms.", show_default=False
        ),
    ] = None,
    connections: Annotated[int, typer.Option(help="Open at once, at most.")] = 256,
    timeout: Annotated[str, typer.Option(help="After which time a request is given up.")] = "10s",
    body: Annotated[
        list[str] | None,
        typer.Option(
            help="What is sent: text, or @FILE; several are drawn from.", show_default=False
        ),
    ] = None,
    rows: Annotated[int, typer.Option(help="Of each request whose inputs are made up.")] = 1,
    binary: Annotated[
        bool, typer.Option("--binary", help="KServe V2 with binary tensors.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="Another model, or several: NAME=3,OTHER=1.", show_default=False),
    ] = None,
    priority: Annotated[
        str | None,
        typer.Option(
            help="low, normal, high or critical, or several: normal=3,critical=1.",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="For chat: text, or @FILE; several are drawn from.", show_default=False),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="For chat.")] = 32,
    stream: Annotated[
        bool, typer.Option("--stream", help="Ask for a stream, and time its first piece.")
    ] = False,
    method: Annotated[
        str | None,
        typer.Option(help="By default POST with a body, GET without.", show_default=False),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(help="`name: value`, sent with each request.", show_default=False),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            help=f"Sent as bearer; by default what {KEY_VARIABLE} holds.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another one is another run of luck.")] = 0,
    report: Annotated[
        Path | None,
        typer.Option(help="Write a page with charts to this file.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> int:
    """Send requests to a server at a rate, ours or another, and say how long its answers take.

    Each is sent when it is due, whether or not those before it were answered, and its time counts
    from then. Ctrl-C ends it and tells what there is.

    Example: paceline load http://localhost:8080/predict/digits --rate 500 --slo 30ms
    """
    from paceline.cli.loaded import as_fields, as_text
    from paceline.cli.loading import Asked, play, watched
    from paceline.cli.page_file import page_file
    from paceline.evidence.load_page import OPENING, page
    from paceline.evidence.load_summary import REMEDY
    from paceline.terms.errors import NotMeasured

    asked = Asked(
        url,
        rate,
        seconds,
        warmup,
        arrivals,
        slo,
        connections,
        timeout,
        tuple(body or ()),
        rows,
        binary,
        model,
        priority,
        tuple(prompt or ()),
        max_tokens,
        stream,
        method,
        tuple(header or ()),
        seed,
    )
    given = key if key is not None else os.environ.get(KEY_VARIABLE)
    with page_file(report, "--report", OPENING) as write:
        with watched() as tell:
            played = play(asked, given or None, tell)
        if report is not None:
            write(page(played.load, played.outcome, played.summary, played.facts, asked.command))
    where = None if report is None else str(report).encode(errors="replace").decode()
    if as_json:
        print(msgspec.json.encode(as_fields(played, where)).decode())
    else:
        print("\n".join(as_text(played, where)))
    summary = played.summary
    if summary.interrupted:
        return EXIT_INTERRUPTED
    if summary.not_told is not None:
        raise NotMeasured(
            f"no times are told: {summary.not_told}",
            value=f"{summary.offered_rps:.0f} requests/s",
            remedy=REMEDY,
        )
    nobody = summary.gave_up is not None or not (summary.statuses or summary.unfinished)
    return EXIT_UNREACHABLE if nobody else EXIT_OK
