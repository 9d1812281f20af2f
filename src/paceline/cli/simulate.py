"""`paceline simulate`: what would become of these requests, before there are any.

Says the options, shows how far it is, and writes the page; `simulation.py` runs it, `outcome.py`
tells what came of it. It starts no server and asks none; `--model` runs the model alone.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from paceline.cli.page_file import page_file
from paceline.terms.limits import BATCH_ROWS


def simulate(
    trace: Annotated[
        str,
        typer.Option(
            help="Who arrives: poisson:RATE, bursty:RATE, diurnal:RATE in requests per second, or "
            "a CSV file."
        ),
    ],
    slo: Annotated[
        str, typer.Option(help="Within which time 99 % are to be answered, such as 30ms.")
    ],
    rate: Annotated[
        float | None, typer.Option(help="Stretch a file to this rate.", show_default=False)
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="How long requests arrive; by default 60, or as long as the file.",
            show_default=False,
        ),
    ] = None,
    mix: Annotated[
        str,
        typer.Option(
            help="What made requests are like: plain, or mixed (priorities, two shapes, timeouts, "
            "callers that leave)."
        ),
    ] = "plain",
    model: Annotated[
        str | None,
        typer.Option(
            help="An ONNX file, or the example digits: how long it takes is measured now.",
            show_default=False,
        ),
    ] = None,
    latency: Annotated[
        list[str] | None,
        typer.Option(
            help="How long a batch takes: a fixed part, and one for each row; once for each "
            "shape.  [default: 2ms+0.5ms]",
            show_default=False,
        ),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            help="How batches are formed: at_once, fixed, dynamic, adaptive, latency_optimized; or "
            "as triton, litserve, bentoml, mlserver do. Parameters follow: dynamic:wait=3ms,most=8."
        ),
    ] = "at_once",
    max_batch: Annotated[int, typer.Option(help="Rows of a batch, at most.")] = BATCH_ROWS,
    executors: Annotated[int, typer.Option(help="Batches that run at once.")] = 1,
    poison: Annotated[
        str, typer.Option(help="The share of requests that break the batch they are in.")
    ] = "0%",
    crashes: Annotated[
        str | None,
        typer.Option(
            help="How long an executor runs, on average, until it dies, such as 60s.",
            show_default=False,
        ),
    ] = None,
    no_admission: Annotated[
        bool, typer.Option("--no-admission", help="Refuse nobody for what is predicted.")
    ] = False,
    steer: Annotated[
        bool,
        typer.Option(
            "--steer",
            help="Let steering move batches, executors and margin within what was asked for.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Another one is another run of luck.")] = 0,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page with charts to this file.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Simulate how requests would be served, and say whether the objective would be met.

    The decisions are those of the server (queue, batches, admission), the requests are not real.

    Example: paceline simulate --trace poisson:200 --slo 30ms
    """
    from paceline.cli.outcome import as_fields, as_text
    from paceline.cli.simulation import Asked, play
    from paceline.evidence.report import OPENING, page

    asked = Asked(
        trace,
        slo,
        rate,
        seconds,
        mix,
        model,
        tuple(latency or ()),
        policy,
        max_batch,
        executors,
        poison,
        crashes,
        no_admission,
        steer,
        seed,
    )
    with page_file(html, "--html", OPENING) as write:
        with _progress() as tell:
            played = play(asked, tell)
        if html is not None:
            write(page(played.run, played.summary, played.facts, asked.command))
    where = None if html is None else str(html).encode(errors="replace").decode()
    if as_json:
        print(msgspec.json.encode(as_fields(played, where)).decode())
    else:
        print("\n".join(as_text(played, where)))


@contextmanager
def _progress() -> Iterator[Callable[[str], None] | None]:
    """A line on the terminal that is gone at the end; nothing where none looks on."""
    if not sys.stderr.isatty():
        yield None
        return

    def show(words: str) -> None:
        print(f"\r\x1b[2K{words}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        show("")
