"""`paceline why MODEL.KNOB`: what a knob is, what it may be, and how it came to that."""

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from paceline.cli.plan import (
    BY_HAND,
    Config,
    Json,
    KnobName,
    State,
    amount,
    ask_about,
    item,
    meaning,
    paragraph,
    pinned,
    when,
)
from paceline.cli.reach import Place, ask, place
from paceline.terms.limits import JOURNAL_PAGE_ENTRIES
from paceline.terms.plan import shown

if TYPE_CHECKING:
    from paceline.changes.views import EventView, KnobView

RECENT = 50
"""entries about a knob among which the one that pinned it is sought; a pinned knob has few"""


def why(
    knob: KnobName,
    most: Annotated[
        int, typer.Option("-n", help="The most to tell.", min=1, max=JOURNAL_PAGE_ENTRIES)
    ] = 20,
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Tell why a knob is as it is: its story, newest first.

    Example: paceline why digits.max_rows
    """
    there = place(state, config)
    told = ask_about(there, "GET", "/api/why", {"knob": knob, "limit": most})
    if as_json:
        print(told.body.decode())
        return
    from paceline.changes.views import WhyView

    story = msgspec.json.decode(told.body, type=WhyView)
    print(paragraph(_now(story.knob, there)))
    print(paragraph(meaning(story.knob)))
    if story.runs:
        print(paragraph(f"Batches run {story.runs}, as the server found when it tried the model."))
    print("\nNewest first, times in UTC.")
    for event in story.story:
        _tell(event)
    if story.earlier:
        print(f"\n... and more before that: `paceline why {knob} -n {2 * most}`")
    if story.origin is not None:
        _tell(story.origin)


def _now(knob: "KnobView", there: Place) -> str:
    is_now = f"{knob.knob} is {amount(knob, knob.setting)}"
    if knob.pinned_by:
        by_whom = _by_whom(knob, there) if knob.pinned_by == BY_HAND else ""
        return f"{is_now}, {pinned(knob)}{by_whom}."
    moved = f" It starts at {shown(knob.start)}." if knob.setting != knob.start else ""
    return f"{is_now}, and may be adjusted within {knob.envelope}.{moved}"


def _by_whom(knob: "KnobView", there: Place) -> str:
    """Who pinned it and when, where the journal still says so."""
    from paceline.journal.entries import Body, PlanChanged

    class Entry(msgspec.Struct):
        seq: int
        at_unix_s: float
        who: str
        body: Body

    class Entries(msgspec.Struct):
        entries: list[Entry]

    told = ask(there, "GET", "/api/journal", {"about": knob.knob, "limit": RECENT})
    for entry in msgspec.json.decode(told.body, type=Entries).entries:
        if isinstance(entry.body, PlanChanged):
            for step in entry.body.change.diff:
                before = None if step.before is None else step.before.pin
                after = None if step.after is None else step.after.pin
                if step.knob == knob.knob and after is not None and after != before:
                    return f" (entry {entry.seq}: {entry.who}, {when(entry.at_unix_s)} UTC)"
    return ""


def _tell(event: "EventView") -> None:
    print(f"\n{when(event.at_unix_s)}  {event.who} (entry {event.entry})")
    print(item(event.text))
