"""What people ask of the Plan: what holds now, what it was, and why. Read only.

Values for the control API, the page and the command line, which only lay them out. Called beside
the loop, for they read the journal's file.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Literal

import msgspec

from paceline.changes.decide import FilePins
from paceline.changes.wording import about, of_prediction, of_step
from paceline.journal.entries import (
    PLAN,
    Entry,
    Outcome,
    PlanChanged,
    Scored,
    outcome_of,
)
from paceline.journal.fold import State
from paceline.journal.journal import Journal
from paceline.terms.plan import (
    Address,
    Answer,
    Boolean,
    Catalogue,
    Choice,
    Diff,
    Line,
    LogRange,
    Plan,
    Range,
    Value,
    diff,
    shown,
)

Text = msgspec.Meta


class KnobView(msgspec.Struct, frozen=True):
    knob: Annotated[str, Text(description="The knob's address: workload, dot, name.")]
    setting: Annotated[Value, Text(description="The value in force.")]
    start: Annotated[Value, Text(description="The value the Plan starts from.")]
    envelope: Annotated[str, Text(description="Among which values adjustments may move it.")]
    pinned_by: Annotated[str, Text(description="Who pinned it; empty when it is free.")]
    takes: Annotated[str, Text(description="What the knob can be.")]
    kind: Literal["range", "log_range", "choice", "boolean"]
    whole: Annotated[str, Text(description="The widest envelope.")]
    default: Value
    unit: str
    meaning: str


class PlanView(msgspec.Struct, frozen=True):
    version: int
    hash: Annotated[str, Text(description="The same for the same content.")]
    since_unix_s: float
    by: Annotated[str, Text(description="Who made this version.")]
    goals: Annotated[dict[str, tuple[str, ...]], Text(description="The goals by workload.")]
    knobs: tuple[KnobView, ...]
    entry: Annotated[int, Text(description="The newest entry of the journal.")]


class StepView(msgspec.Struct, frozen=True):
    knob: str
    text: Annotated[str, Text(description="What changed, in words.")]


class ChangeView(msgspec.Struct, frozen=True):
    version: int
    hash: str
    entry: Annotated[int, Text(description="The journal's entry that made it.")]
    at_unix_s: float
    who: str
    reason: str
    verdict: Answer
    evidence: str
    predictions: Annotated[
        tuple[str, ...], Text(description="What was predicted, and what came of it.")
    ]
    steps: tuple[StepView, ...]
    undoes: Annotated[int | None, Text(description="The version that it took back.")] = None
    restores: Annotated[int | None, Text(description="The version that it brought back.")] = None


class HistoryView(msgspec.Struct, frozen=True):
    changes: Annotated[tuple[ChangeView, ...], Text(description="Newest first.")]
    earlier: Annotated[bool, Text(description="Whether there are more before these.")]


class DiffView(msgspec.Struct, frozen=True):
    old: int
    new: int
    steps: tuple[StepView, ...]


class EventView(msgspec.Struct, frozen=True):
    entry: int
    at_unix_s: float
    who: str
    text: str


class WhyView(msgspec.Struct, frozen=True):
    knob: KnobView
    story: Annotated[tuple[EventView, ...], Text(description="Newest first.")]
    earlier: Annotated[bool, Text(description="Whether there is more before these.")]
    origin: Annotated[
        EventView | None, Text(description="How it began, where the story does not reach back.")
    ]
    runs: Annotated[
        str, Text(description="Of executors: where batches run; empty where no server says it.")
    ] = ""


def plan(state: State, catalogue: Catalogue, pins: FilePins) -> PlanView:
    settings = state.in_force.settings
    return PlanView(
        state.plan.version,
        state.hash,
        state.since,
        state.by,
        state.goals,
        tuple(
            _knob(address, line, settings[address], catalogue, pins)
            for address, line in state.plan.lines.items()
            if address in catalogue
        ),
        state.seq,
    )


def _knob(
    address: Address, line: Line, setting: Value, catalogue: Catalogue, pins: FilePins
) -> KnobView:
    knob = catalogue[address]
    kinds: dict[type, Literal["range", "log_range", "choice", "boolean"]] = {
        Range: "range",
        LogRange: "log_range",
        Choice: "choice",
        Boolean: "boolean",
    }
    return KnobView(
        knob=address,
        setting=setting,
        start=line.start,
        envelope=shown(line.start) if line.pinned else str(line.envelope),
        pinned_by=_pinned_by(address, line, pins),
        takes=knob.takes,
        kind=kinds[type(knob.kind)],
        whole=str(knob.whole),
        default=knob.default,
        unit=knob.unit,
        meaning=knob.meaning,
    )


def _pinned_by(address: Address, line: Line, pins: FilePins) -> str:
    if line.file_pin is not None:
        return pins[address].where if address in pins else "the settings"
    return "the journal" if line.pin is not None else ""


def steps(of: Diff) -> tuple[StepView, ...]:
    return tuple(StepView(step.knob, of_step(step)) for step in of)


def diff_view(old: Plan, new: Plan) -> DiffView:
    return DiffView(old.version, new.version, steps(diff(old, new)))


def history(journal: Journal, before: int | None, most: int) -> HistoryView:
    """The Plan's versions below `before`, newest first."""
    state = journal.state
    entries = journal.read(before=state.seq + 1, about=PLAN, newest=True)
    wanted = (entry for entry in entries if before is None or _version(entry) < before)
    found = list(islice(wanted, most + 1))
    shown_ones = found[:most]
    outcomes = _outcomes(journal, shown_ones)
    return HistoryView(
        tuple(_of_change(entry, outcomes) for entry in shown_ones), len(found) > most
    )


def _version(entry: Entry) -> int:
    assert isinstance(entry.body, PlanChanged)
    return entry.body.version


def _outcomes(journal: Journal, entries: Iterable[Entry]) -> dict[int, list[Scored]]:
    """What came of the predictions in these entries."""
    outcomes: dict[int, list[Scored]] = {}
    for entry in entries:
        if isinstance(entry.body, PlanChanged) and entry.body.change.predictions:
            found = journal.read(about=outcome_of(entry.seq))
            outcomes[entry.seq] = [each.body for each in found if isinstance(each.body, Scored)]
    return outcomes


def _of_change(entry: Entry, outcomes: dict[int, list[Scored]]) -> ChangeView:
    assert isinstance(entry.body, PlanChanged)
    change = entry.body.change
    scored = {each.prediction: each for each in outcomes.get(entry.seq, ())}
    return ChangeView(
        version=entry.body.version,
        hash=entry.body.hash,
        entry=entry.seq,
        at_unix_s=entry.at,
        who=entry.who,
        reason=change.reason,
        verdict=change.verdict.answer,
        evidence=change.verdict.evidence,
        predictions=tuple(
            of_prediction(each, *_outcome(scored.get(each))) for each in change.predictions
        ),
        steps=steps(change.diff),
        undoes=change.undoes,
        restores=change.restores,
    )


def _outcome(scored: Scored | None) -> tuple[Outcome | None, float | None]:
    return (None, None) if scored is None else (scored.outcome, scored.measured)


def why(
    journal: Journal,
    catalogue: Catalogue,
    pins: FilePins,
    address: Address,
    most: int,
    runs: str = "",
) -> WhyView:
    """What is known of one knob: what it is, and how it came to that. `runs` is what a server
    found out about it."""
    state = journal.state
    entries = journal.read(before=state.seq + 1, about=address, newest=True)
    found = list(islice(entries, most + 1))
    told = tuple(_event(entry, address) for entry in found[:most])
    earlier = len(found) > most
    origin = next(iter(journal.read(about=address)), None) if earlier else None
    line = state.plan.lines[address]
    setting = state.in_force.settings[address]
    return WhyView(
        _knob(address, line, setting, catalogue, pins),
        told,
        earlier,
        None if origin is None else _event(origin, address),
        runs,
    )


def _event(entry: Entry, address: Address) -> EventView:
    return EventView(entry.seq, entry.at, entry.who, about(entry, address))
