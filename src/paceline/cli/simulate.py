"""`paceline simulate`: what would become of these requests, before there are any.

Says the options, shows how far it is, and writes the page; `simulation.py` runs it, `outcome.py`
tells what came of it. It starts no server and asks none; `--model` runs the model alone.
"""

import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from paceline.terms.errors import DiskFull, Misuse
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
    with _page_file(html) as write:
        with _progress() as tell:
            played = play(asked, tell)
        if html is not None:
            from paceline.evidence.report import page

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


# --- The page -------------------------------------------------------------------------------------


@contextmanager
def _page_file(target: Path | None) -> Iterator[Callable[[str], None]]:
    """What writes the page. A place where it cannot is told now, before anything runs; under its
    name stands the whole page, or what stood there before."""
    if target is None:
        yield lambda text: None
        return
    place = Path(os.path.realpath(target))
    _refuse_taken(place)
    with _telling(target):
        fd, beside = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)

    def write(text: str) -> None:
        with _telling(target):
            with open(fd, "w", encoding="utf-8", errors="replace", closefd=False) as file:
                file.write(text)
            os.fchmod(fd, 0o666 & ~_umask())  # it is for others to read, too
            os.fsync(fd)
            os.replace(beside, place)

    try:
        yield write
    finally:
        os.close(fd)
        with suppress(FileNotFoundError):  # it has its name
            os.unlink(beside)


def _refuse_taken(place: Path) -> None:
    """An earlier page gives way; any other file was not meant."""
    from paceline.evidence.report import OPENING

    with _telling(place):
        if not place.exists():
            return
        if place.is_file():
            with place.open("rb") as file:
                begins = file.read(len(OPENING))
            if not begins or begins == OPENING.encode():
                return
    raise Misuse(
        "a file is there already that is no page of this command"
        if place.is_file()
        else "this is no place for a file",
        value=str(place),
        remedy="Name another place: --html report.html.",
    )


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextmanager
def _telling(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(
                "no space is left for the page",
                value=str(place),
                remedy="Free some space, or name another place: --html FILE.",
            ) from error
        raise Misuse(
            f"the page cannot be written: {error.strerror}",
            value=str(place),
            remedy="Name a file in a directory that is there and that you may write to.",
        ) from error
