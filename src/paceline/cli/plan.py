"""`paceline plan`: see how models are served, change it in the running server, take it back.

What each command asks is an operation of the control API, which `reach.py` finds with or without a
server; here is only what people type and read. Called by `main.py`; `why.py` tells the story of
one knob and reads alike.
"""

import difflib
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from paceline.cli.config import CONFIG_HELP, STATE_HELP
from paceline.cli.reach import Method, Place, Told, ask, place
from paceline.cli.showing import help_without_command
from paceline.terms.errors import LimitReached, Misuse, StateUnusable, UnknownKnob
from paceline.terms.limits import JOURNAL_PAGE_ENTRIES, REASON_CHARS
from paceline.terms.plan import Value, shown

if TYPE_CHECKING:
    from paceline.changes.views import ChangeView, KnobView, PlanView

COLUMNS = 80
"""that a line has at most, where its words allow"""

LAST_COLUMN = 20
"""columns that the last one of a table gets, however long the names before it"""

STEPS = 8
"""of one change that `history` tells; the rest is counted"""

BY_HAND = "the journal"
"""Who pinned a knob, as the API has it, where it was a person."""

app = typer.Typer(
    help="See how models are served, change it, and take it back.",
    rich_markup_mode=None,
    invoke_without_command=True,
    callback=help_without_command,
)

State = Annotated[str | None, typer.Option(help=STATE_HELP)]
Config = Annotated[Path | None, typer.Option(help=CONFIG_HELP)]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
KnobName = Annotated[str, typer.Argument(help="The knob's address, such as digits.max_rows.")]
Because = Annotated[str, typer.Option(help="Why, for those who ask later.")]
Expect = Annotated[
    list[str] | None,
    typer.Option(help='What will hold afterwards, such as "p95_ms <= 20"; may be repeated.'),
]
Most = Annotated[int, typer.Option("-n", help="The most to show.", min=1, max=JOURNAL_PAGE_ENTRIES)]


NO_KNOBS = "It has no knobs; the first start with a model gives it some."


# --- Looking --------------------------------------------------------------------------------------


@app.command()
def show(
    name: Annotated[
        str | None, typer.Argument(help="A model or a knob; by default all.", show_default=False)
    ] = None,
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show the Plan in force: each knob with its setting, and what it may be.

    Example: paceline plan show digits
    """
    there = place(state, config)
    told = ask(there, "GET", "/api/plan")
    if as_json and name is None:
        print(told.body.decode())
        return
    plan = _plan(told)
    knobs = plan.knobs if name is None else _named(plan.knobs, name)
    if as_json:
        print(msgspec.json.encode(msgspec.structs.replace(plan, knobs=knobs)).decode())
        return
    for line in _head(plan, there, told):
        print(line)
    print()
    for line in _table(knobs) if knobs else [NO_KNOBS]:
        print(line)
    if len(knobs) == 1:
        print()
        print(paragraph(meaning(knobs[0])))


@app.command()
def diff(
    old: Annotated[
        int | None,
        typer.Argument(
            help="A version; by default the one before the newest.", min=0, show_default=False
        ),
    ] = None,
    new: Annotated[
        int | None, typer.Argument(help="By default the newest.", min=0, show_default=False)
    ] = None,
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show what differs between two versions of the Plan.

    Example: paceline plan diff 3 5
    """
    told = ask(place(state, config), "GET", "/api/plan/diff", {"old": old, "new": new})
    if as_json:
        print(told.body.decode())
        return
    from paceline.changes.views import DiffView

    between = msgspec.json.decode(told.body, type=DiffView)
    if not between.steps:
        print(f"Plan {between.old} and plan {between.new} are alike.")
        return
    print(f"plan {between.old} → {between.new}")
    for step in between.steps:
        print(item(step.text))


@app.command()
def history(
    most: Most = 20,
    before: Annotated[
        int | None, typer.Option(help="Only versions before this one.", min=0, show_default=False)
    ] = None,
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show the Plan's versions: who changed what, when, why, and what came of it.

    Example: paceline plan history -n 5
    """
    given = {"limit": most, "before": before}
    told = ask(place(state, config), "GET", "/api/plan/history", given)
    if as_json:
        print(told.body.decode())
        return
    from paceline.changes.views import HistoryView

    past = msgspec.json.decode(told.body, type=HistoryView)
    if not past.changes:
        print("The Plan has no version yet." if before is None else "There is none before that.")
        return
    print("Newest first, times in UTC.")
    for change in past.changes:
        print()
        for line in _of_change(change):
            print(line)
    if past.earlier:
        print(f"\nEarlier ones: `paceline plan history --before {past.changes[-1].version}`")


# --- Changing -------------------------------------------------------------------------------------


@app.command("set")
def set_(
    knob: KnobName,
    value: Annotated[
        str | None, typer.Argument(help="The value to start from.", show_default=False)
    ] = None,
    within: Annotated[
        str | None,
        typer.Option(
            help="The envelope: where adjustments may move it, as in 1..64 or low|normal.",
            show_default=False,
        ),
    ] = None,
    because: Because = "",
    expect: Expect = None,
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Give a knob another value, another envelope, or both: a new version of the Plan.

    Example: paceline plan set digits.max_rows 256 --because "large batches wait"
    """
    if value is None and within is None:
        raise Misuse(
            "there is nothing to set",
            value=knob,
            remedy=f"Give a value, as in `paceline plan set {knob} VALUE`, --within, or both.",
        )
    given = {"knob": knob, "value": value, "envelope": within, **_said(because, expect)}
    _change(place(state, config), "/api/plan/set", given, as_json)


@app.command()
def pin(
    knob: KnobName,
    value: Annotated[
        str | None, typer.Argument(help="By default the one in force.", show_default=False)
    ] = None,
    because: Because = "",
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Hold a knob at one value, whatever would move it.

    Example: paceline plan pin digits.max_rows 256
    """
    given = {"knob": knob, "value": value, **_said(because)}
    _change(place(state, config), "/api/plan/pin", given, as_json)


@app.command()
def unpin(
    knob: KnobName,
    because: Because = "",
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Let go of a knob that `plan pin` holds. Pins of the settings file are taken away there.

    Example: paceline plan unpin digits.max_rows
    """
    given = {"knob": knob, **_said(because)}
    _change(place(state, config), "/api/plan/unpin", given, as_json)


@app.command()
def adjust(
    knob: KnobName,
    value: Annotated[str, typer.Argument(help="A value inside the knob's envelope.")],
    because: Because = "",
    expect: Expect = None,
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Move a setting within its envelope; the Plan keeps its version.

    Example: paceline plan adjust digits.max_rows 512
    """
    given = {"knob": knob, "value": value, **_said(because, expect)}
    _change(place(state, config), "/api/plan/adjust", given, as_json)


@app.command()
def undo(
    version: Annotated[int, typer.Argument(help="The version whose change is undone.", min=0)],
    because: Because = "",
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Take one change back, exactly, whatever came after it elsewhere.

    Example: paceline plan undo 3
    """
    given = {"version": version, **_said(because)}
    _change(place(state, config), "/api/plan/undo", given, as_json)


@app.command()
def rollback(
    version: Annotated[
        int | None,
        typer.Argument(
            help="The version to bring back; by default the one before.", min=0, show_default=False
        ),
    ] = None,
    because: Because = "",
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Bring an earlier version of the Plan back, as a new one.

    Example: paceline plan rollback 3
    """
    given = {"version": version, **_said(because)}
    _change(place(state, config), "/api/plan/rollback", given, as_json)


class _Done(msgspec.Struct, frozen=True):
    """As far as it is told here."""

    text: str
    seq: int | None


def _said(because: str, expect: Sequence[str] | None = None) -> dict[str, object]:
    if len(because) > REASON_CHARS:
        raise LimitReached(
            "the reason is too long",
            value=f"{len(because)} characters",
            remedy=f"Say it in {REASON_CHARS}.",
        )
    return {"reason": because, "expect": expect or None}


def _change(there: Place, path: str, given: Mapping[str, object], as_json: bool) -> None:
    told = ask_about(there, "POST", path, given)
    if as_json:
        print(told.body.decode())
        return
    done = msgspec.json.decode(told.body, type=_Done)
    print(item(done.text, ""))
    if told.began:
        print(f"There was no journal in {there.state}; this began one.")
    elif not told.live and done.seq is not None:
        print(f"No server runs on {there.state}; it holds from the next start.")


# --- Names ----------------------------------------------------------------------------------------


def ask_about(there: Place, method: Method, path: str, given: Mapping[str, object]) -> Told:
    """As `ask`, about a knob; who names half of an address is told the whole."""
    try:
        return ask(there, method, path, given)
    except UnknownKnob as error:
        half = error.value
        try:
            knobs = _plan(ask(there, "GET", "/api/plan")).knobs
        except StateUnusable:  # there is no journal yet
            raise error from None
        of_model = [each.knob for each in knobs if model(each) == half]
        whole = of_model or [each.knob for each in knobs if each.knob.endswith(f".{half}")]
        if not whole:
            raise
        raise UnknownKnob(
            "this names a model, and not yet a knob"
            if of_model
            else "this names a knob, and not its model",
            value=half,
            remedy=f"Write it in full: {', '.join(whole)}.",
        ) from error


def model(knob: "KnobView") -> str:
    return knob.knob.rpartition(".")[0]


def _named(knobs: Sequence["KnobView"], name: str) -> tuple["KnobView", ...]:
    """Those of a model, or the one of this address, or all of this name."""
    for matches in (model, _address, _name):
        found = tuple(each for each in knobs if matches(each) == name)
        if found:
            return found
    known = [*{model(each): None for each in knobs}, *map(_address, knobs), *map(_name, knobs)]
    near = difflib.get_close_matches(name, known, n=1)
    raise UnknownKnob(
        "there is no model and no knob of this name",
        value=name,
        remedy=f"Did you mean {near[0]}?" if near else "`paceline plan show` lists them.",
    )


def _address(knob: "KnobView") -> str:
    return knob.knob


def _name(knob: "KnobView") -> str:
    return knob.knob.rpartition(".")[2]


# --- Words ----------------------------------------------------------------------------------------


def paragraph(text: str) -> str:
    return textwrap.fill(text, COLUMNS, break_on_hyphens=False, break_long_words=False)


def item(text: str, indent: str = "  ") -> str:
    """Set off from what it belongs to; further lines a little further in."""
    return textwrap.fill(
        text,
        COLUMNS,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def when(unix_s: float) -> str:
    """In UTC, which the reader is told once."""
    from paceline.terms.amounts import moment

    return moment(unix_s).removesuffix(" UTC")


def amount(knob: "KnobView", value: Value) -> str:
    return f"{shown(value)} {knob.unit}".rstrip()


def meaning(knob: "KnobView") -> str:
    default = f"its default is {shown(knob.default)}"
    return f"{knob.meaning} It takes {knob.takes}; {default}."


def pinned(knob: "KnobView") -> str:
    """Empty for a knob that is free."""
    if not knob.pinned_by:
        return ""
    return "pinned by hand" if knob.pinned_by == BY_HAND else f"pinned by {knob.pinned_by}"


def _plan(told: Told) -> "PlanView":
    from paceline.changes.views import PlanView

    return msgspec.json.decode(told.body, type=PlanView)


def _head(plan: "PlanView", there: Place, told: Told) -> Iterator[str]:
    yield f"version  {plan.version}"
    yield f"hash     {plan.hash}"
    if plan.version:
        yield f"since    {when(plan.since_unix_s)} UTC"
        yield f"by       {plan.by}"
    for workload, clauses in plan.goals.items():
        yield item(f"goal     {workload}: {', '.join(clauses)}", "")
    if not told.live:
        yield f"server   none runs on {there.state}"


def _table(knobs: Iterable["KnobView"]) -> Iterator[str]:
    """The last column is wrapped: who pins a knob may have a long name."""
    differ = any(knob.setting != knob.start for knob in knobs)
    rows = [("knob", "setting", "start" if differ else "", "may be")]
    for knob in knobs:
        start = shown(knob.start) if knob.setting != knob.start else ""
        rows.append((knob.knob, amount(knob, knob.setting), start, pinned(knob) or knob.envelope))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for *cells, last in rows:
        first = "  ".join(
            f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True) if width
        )
        place = " " * (len(first) + 2)
        wide = max(COLUMNS, len(place) + LAST_COLUMN)
        if len(place) + len(last) > wide:
            last = last.replace("|", " | ")  # names can be parted there
        yield textwrap.fill(
            last,
            wide,
            initial_indent=f"{first}  ",
            subsequent_indent=place,
            break_on_hyphens=False,
            break_long_words=False,
        )


def _of_change(change: "ChangeView") -> Iterator[str]:
    from paceline.changes.wording import text

    yield f"plan {change.version}  {when(change.at_unix_s)}  {change.who}"
    if change.undoes is not None:
        yield f"  plan {change.undoes} taken back"
    if change.restores is not None:
        yield f"  plan {change.restores} brought back"
    for step in change.steps[:STEPS]:
        yield item(step.text)
    if len(change.steps) > STEPS:
        rest = len(change.steps) - STEPS
        yield f"  and {rest} more: `paceline plan diff {change.version - 1} {change.version}`"
    evidence = f" ({text(change.evidence)})" if change.evidence else ""
    yield item(f"{change.verdict}{evidence}")
    for each in change.predictions:
        yield item(each)
    if change.reason:
        yield item(f"reason: {text(change.reason)}")
