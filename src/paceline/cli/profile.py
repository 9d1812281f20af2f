"""`paceline profile`: what a process of a running server does or holds, or what a model's time goes
to.

Begins a profile at the server, asks after it until it ends, and ends it where it is interrupted.
How it is told is in `profiled.py`, and as a page in `profile_page.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from paceline.cli.plan import Config, Json, State
from paceline.cli.reach import Method, of_server, place
from paceline.terms.errors import EXIT_INTERRUPTED, EXIT_OK, Misuse, NotOffered
from paceline.terms.limits import PROFILE_MOST_LENGTH, PROFILE_MOST_S, PROFILE_S, ROWS

FRONT, OWNER = "front", "owner"
API = "/api/profile"


def profile(
    what: Annotated[str, typer.Argument(help="front, owner, or a model, by its name.")] = FRONT,
    seconds: Annotated[
        float | None,
        typer.Option(
            help=f"How long; by default {PROFILE_S:g}. With --memory: follow which lines of code "
            "take more meanwhile, which slows the process down; by default not.",
            min=0.1,
            max=PROFILE_MOST_S,
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="What it holds, rather than what it does.")
    ] = False,
    front: Annotated[
        int, typer.Option(help="Which front, or the process of a model in it.", min=0, max=1000)
    ] = 0,
    rows: Annotated[
        int | None,
        typer.Option(
            help="Of a model's batches; by default half of those it had were no larger.",
            min=1,
            max=ROWS,
            show_default=False,
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            help="Of the other open dimensions of a model's inputs; by default 16.",
            min=1,
            max=PROFILE_MOST_LENGTH,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write a page to this file, with a flame graph.", show_default=False),
    ] = None,
    folded: Annotated[
        bool,
        typer.Option("--folded", help="Stacks as folded lines, which speedscope and others read."),
    ] = False,
    as_json: Json = False,
    state: State = None,
    config: Config = None,
) -> int:
    """See what a front or the owner does, what it holds, or what a model's time goes to.

    The stacks of a process are looked at 97 times a second, and a model in Python has one; a model
    in ONNX is run beside the server.
    Ctrl-C ends it early and tells what there is.

    Example: paceline profile front --seconds 10 --out profile.html
    """
    from paceline.cli.page_file import page_file
    from paceline.cli.profile_page import OPENING, page
    from paceline.cli.profiled import as_text
    from paceline.observe.stacks import folded as lines_of

    if folded and (as_json or memory):
        raise Misuse(
            "folded lines are of stacks, and instead of JSON",
            value="--folded",
            remedy="Leave out --memory and --json.",
        )
    asked = _asked(what, memory or folded, seconds, front, rows, length)
    if folded:
        asked["of"] = "stacks"
    with page_file(out, "--out", OPENING) as write:
        answer, interrupted = _profiled(place(state, config).state, asked)
        from paceline.web.profile_api import ProfileView

        view = msgspec.json.decode(answer, type=ProfileView)
        if out is not None:
            write(page(view))
    if as_json:
        print(answer.decode())
    elif folded and view.stacks is not None:
        for line in lines_of(view.stacks):
            print(line)
    else:
        as_text(view, None if out is None else str(out).encode(errors="replace").decode())
    return EXIT_INTERRUPTED if interrupted else EXIT_OK


def _asked(
    what: str,
    of_process: bool,
    seconds: float | None,
    front: int,
    rows: int | None,
    length: int | None,
) -> dict[str, object]:
    """`of_process`: its memory, and not what a model's time goes to."""
    of_model = what not in (FRONT, OWNER)
    if (rows is not None or length is not None) and (of_process or not of_model):
        raise Misuse(
            "a process has no rows and no lengths",
            value=what,
            remedy="Name a model, or leave out --rows and --length.",
        )
    asked: dict[str, object] = {"seconds": seconds, "front": front}
    if of_model and not of_process:
        return asked | {"of": "operators", "model": what, "rows": rows, "length": length}
    asked["of"] = "memory" if of_process else "stacks"
    if of_model:
        return asked | {"process": "model", "model": what}
    return asked | {"process": what}


def _profiled(state: Path, asked: Mapping[str, object]) -> tuple[bytes, bool]:
    """What was found, in JSON, and whether it was interrupted."""
    try:
        answer = _call(state, "POST", API, asked)
    except NotOffered:
        if asked["of"] != "operators" or asked["rows"] or asked["length"]:
            raise
        # A callable of Python has no operators, and a process of its own instead.
        told = {key: asked[key] for key in ("model", "front", "seconds")}
        answer = _call(state, "POST", API, {"of": "stacks", "process": "model", **told})
    begun = msgspec.json.decode(answer, type=dict[str, object])
    name = str(begun["id"])
    try:
        return _found(state, name), False
    except KeyboardInterrupt:
        _call(state, "POST", f"{API}/end", {"id": name})
        return _found(state, name), True


def _found(state: Path, name: str) -> bytes:
    """Asks again and again: the server answers at its end, or after a while."""
    while True:
        answer = _call(state, "GET", f"{API}?id={name}")
        if not msgspec.json.decode(answer, type=_Running).running:
            return answer


def _call(state: Path, method: Method, target: str, body: object = None) -> bytes:
    return of_server(state, method, target, "a profile is of one that does", body)


class _Running(msgspec.Struct):
    running: bool
