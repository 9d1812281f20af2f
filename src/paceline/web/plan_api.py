"""The control API of the Plan and the journal: what it takes and answers, and who carries it out.

The desk decides and writes, the views read; here is only what lies between them and HTTP. The owner
adds these operations to its own; the command line calls the same ones while no owner runs.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from paceline.changes import views
from paceline.changes.desk import Desk, Done, Wish
from paceline.changes.wording import words
from paceline.journal.entries import Entry, kind_of
from paceline.observe.redact import Redactor
from paceline.serve.knobs import BATCH_EXECUTORS
from paceline.terms.errors import (
    BadGoal,
    BadValue,
    Conflict,
    DiskFull,
    JournalDamaged,
    JournalNewer,
    LimitReached,
    Pinned,
    PlanRefused,
    StateInUse,
    StateUnusable,
    UnknownKnob,
    UnknownVersion,
)
from paceline.terms.goal import predictions
from paceline.terms.limits import COMPACT_ANSWER_S, JOURNAL_PAGE_ENTRIES, REASON_CHARS
from paceline.terms.plan import Value, find
from paceline.web.operations import AnyDeclaration, Declaration, Operation

Limit = Annotated[int, Meta(ge=1, le=JOURNAL_PAGE_ENTRIES, description="The most to answer.")]
Version = Annotated[int, Meta(ge=0, le=2**53, description="A version of the Plan.")]
Seq = Annotated[int, Meta(ge=0, le=2**53, description="The number of an entry of the journal.")]
KnobName = Annotated[str, Meta(description="A knob's address, such as digits.max_rows.")]
Reason = Annotated[str, Meta(max_length=REASON_CHARS, description="Why, for those who ask later.")]
Expect = Annotated[
    tuple[str, ...],
    Meta(max_length=8, description='What will hold afterwards, such as "p95_ms <= 20".'),
]


class HistoryQuery(msgspec.Struct, frozen=True):
    before: Version | None = None
    limit: Limit = 20


class DiffQuery(msgspec.Struct, frozen=True):
    old: Version | None = None
    new: Version | None = None


class WhyQuery(msgspec.Struct, frozen=True):
    knob: KnobName
    limit: Limit = 20


class JournalQuery(msgspec.Struct, frozen=True):
    after: Seq = 0
    before: Seq | None = None
    about: Annotated[str, Meta(description="Only entries about this knob.")] = ""
    limit: Limit = 20


class SetBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    knob: KnobName
    value: Annotated[
        Value | None, Meta(description="To start from; a text is read as people write it.")
    ] = None
    envelope: Annotated[
        str | None, Meta(description="Where adjustments may move it: 1..64, or low|normal.")
    ] = None
    reason: Reason = ""
    expect: Expect = ()


class PinBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    knob: KnobName
    value: Annotated[Value | None, Meta(description="By default the one in force.")] = None
    reason: Reason = ""


class UnpinBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    knob: KnobName
    reason: Reason = ""


class AdjustBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    knob: KnobName
    value: Value
    reason: Reason = ""
    expect: Expect = ()


class RollbackBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Annotated[
        Version | None, Meta(description="To bring back; by default the one before this.")
    ] = None
    reason: Reason = ""


class UndoBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Annotated[Version, Meta(description="Whose change is taken back.")]
    reason: Reason = ""


class DoneView(msgspec.Struct, frozen=True):
    version: Annotated[int, Meta(description="Of the Plan, afterwards.")]
    hash: str
    seq: Annotated[int | None, Meta(description="The journal's entry; null: it was so already.")]
    text: Annotated[str, Meta(description="What was done, in words.")]
    steps: tuple[views.StepView, ...] = ()


class EntryView(msgspec.Struct, frozen=True):
    seq: int
    at_unix_s: float
    who: str
    kind: str
    text: str
    body: Annotated[dict[str, Any], Meta(description="As it is kept.")]


class JournalView(msgspec.Struct, frozen=True):
    entries: Annotated[tuple[EntryView, ...], Meta(description="Newest first.")]
    earlier: Annotated[bool, Meta(description="Whether there are more before these.")]


class CompactView(msgspec.Struct, frozen=True):
    removed: Annotated[int, Meta(description="How many entries there are fewer.")]
    going_on: Annotated[
        bool, Meta(description="Whether it takes longer; the journal will say what it came to.")
    ] = False


READING = (JournalDamaged, JournalNewer, StateUnusable)
WRITING = (Conflict, LimitReached, DiskFull, StateInUse, *READING)
CHANGING = (*WRITING, Pinned, PlanRefused)
ON_A_KNOB = (UnknownKnob, BadValue)

PLAN: Declaration[None, None, views.PlanView] = Declaration(
    "GET", "/api/plan", "The Plan in force: each knob with envelope and setting.", views.PlanView
)
HISTORY: Declaration[HistoryQuery, None, views.HistoryView] = Declaration(
    "GET",
    "/api/plan/history",
    "The Plan's versions, newest first, each with who, why and what came of it.",
    views.HistoryView,
    query=HistoryQuery,
    errors=READING,
)
DIFF: Declaration[DiffQuery, None, views.DiffView] = Declaration(
    "GET",
    "/api/plan/diff",
    "What differs between two versions; by default what the newest changed.",
    views.DiffView,
    query=DiffQuery,
    errors=(UnknownVersion, *READING),
)
WHY: Declaration[WhyQuery, None, views.WhyView] = Declaration(
    "GET",
    "/api/why",
    "Why a knob is as it is: its story, newest first.",
    views.WhyView,
    query=WhyQuery,
    errors=(UnknownKnob, *READING),
)
SET: Declaration[None, SetBody, DoneView] = Declaration(
    "POST",
    "/api/plan/set",
    "Change a knob's value or envelope: a new version of the Plan.",
    DoneView,
    body=SetBody,
    errors=(*CHANGING, *ON_A_KNOB, BadGoal),
)
PIN: Declaration[None, PinBody, DoneView] = Declaration(
    "POST",
    "/api/plan/pin",
    "Hold a knob at one value, whatever would move it.",
    DoneView,
    body=PinBody,
    errors=(*CHANGING, *ON_A_KNOB),
)
UNPIN: Declaration[None, UnpinBody, DoneView] = Declaration(
    "POST",
    "/api/plan/unpin",
    "Let go of a knob that was pinned at run time.",
    DoneView,
    body=UnpinBody,
    errors=(*CHANGING, UnknownKnob),
)
ADJUST: Declaration[None, AdjustBody, DoneView] = Declaration(
    "POST",
    "/api/plan/adjust",
    "Move a setting within its envelope; the Plan keeps its version.",
    DoneView,
    body=AdjustBody,
    errors=(*WRITING, Pinned, *ON_A_KNOB, BadGoal),
)
ROLLBACK: Declaration[None, RollbackBody, DoneView] = Declaration(
    "POST",
    "/api/plan/rollback",
    "Bring an earlier version of the Plan back, as a new one.",
    DoneView,
    body=RollbackBody,
    errors=(*CHANGING, UnknownVersion),
)
UNDO: Declaration[None, UndoBody, DoneView] = Declaration(
    "POST",
    "/api/plan/undo",
    "Take one change back, exactly, whatever came after it elsewhere.",
    DoneView,
    body=UndoBody,
    errors=(*CHANGING, UnknownVersion),
)
JOURNAL: Declaration[JournalQuery, None, JournalView] = Declaration(
    "GET",
    "/api/journal",
    "Entries of the journal, newest first.",
    JournalView,
    query=JournalQuery,
    errors=READING,
)
COMPACT: Declaration[None, None, CompactView] = Declaration(
    "POST",
    "/api/journal/compact",
    "Summarize the adjustments that are older than single ones are kept.",
    CompactView,
    errors=WRITING,
)

DECLARED: tuple[AnyDeclaration, ...] = (
    PLAN,
    HISTORY,
    DIFF,
    WHY,
    SET,
    PIN,
    UNPIN,
    ADJUST,
    ROLLBACK,
    UNDO,
    JOURNAL,
    COMPACT,
)


def operations(
    desk: Desk,
    patience_s: float | None = COMPACT_ANSWER_S,
    how: Callable[[], Mapping[str, str]] = dict,
) -> Sequence[Operation]:
    """What takes longer than `patience_s` is answered as going on; None waits for its end. `how`
    says by model where its batches run, while they do."""
    answers = Answers(desk, patience_s, how)
    return (
        PLAN.answered_by(answers.plan),
        HISTORY.answered_by(answers.history),
        DIFF.answered_by(answers.diff),
        WHY.answered_by(answers.why),
        SET.answered_by(answers.set),
        PIN.answered_by(answers.pin),
        UNPIN.answered_by(answers.unpin),
        ADJUST.answered_by(answers.adjust),
        ROLLBACK.answered_by(answers.rollback),
        UNDO.answered_by(answers.undo),
        JOURNAL.answered_by(answers.journal),
        COMPACT.answered_by(answers.compact),
    )


class Answers:
    def __init__(
        self, desk: Desk, patience_s: float | None, how: Callable[[], Mapping[str, str]]
    ) -> None:
        self._desk = desk
        self._patience_s = patience_s
        self._how = how
        self._clean = Redactor(os.environ).text  # a secret in a reason would be there for ever

    async def plan(self, query: None, body: None, who: str) -> views.PlanView:
        desk = self._desk
        return views.plan(desk.state, desk.catalogue, desk.pins)

    async def history(self, query: HistoryQuery, body: None, who: str) -> views.HistoryView:
        journal = self._desk.journal
        return await journal.ask(lambda: views.history(journal, query.before, query.limit))

    async def diff(self, query: DiffQuery, body: None, who: str) -> views.DiffView:
        new = self._desk.state.plan.version if query.new is None else query.new
        old = max(new - 1, 0) if query.old is None else query.old
        earlier, later = await self._desk.plan_at(old), await self._desk.plan_at(new)
        return views.diff_view(earlier, later)

    async def why(self, query: WhyQuery, body: None, who: str) -> views.WhyView:
        desk = self._desk
        find(desk.catalogue, query.knob)
        model, _, name = query.knob.rpartition(".")
        runs = self._how().get(model, "") if name == BATCH_EXECUTORS.name else ""
        of = (desk.journal, desk.catalogue, desk.pins, query.knob, query.limit, runs)
        return await desk.journal.ask(lambda: views.why(*of))

    async def set(self, query: None, body: SetBody, who: str) -> DoneView:
        wish = Wish(who, self._clean(body.reason), predictions(body.expect))
        return _done(await self._desk.set(body.knob, body.value, body.envelope, wish))

    async def pin(self, query: None, body: PinBody, who: str) -> DoneView:
        return _done(
            await self._desk.pin(body.knob, body.value, Wish(who, self._clean(body.reason)))
        )

    async def unpin(self, query: None, body: UnpinBody, who: str) -> DoneView:
        return _done(await self._desk.unpin(body.knob, Wish(who, self._clean(body.reason))))

    async def adjust(self, query: None, body: AdjustBody, who: str) -> DoneView:
        wish = Wish(who, self._clean(body.reason), predictions(body.expect))
        return _done(await self._desk.adjust(body.knob, body.value, wish))

    async def rollback(self, query: None, body: RollbackBody, who: str) -> DoneView:
        return _done(await self._desk.rollback(body.version, Wish(who, self._clean(body.reason))))

    async def undo(self, query: None, body: UndoBody, who: str) -> DoneView:
        return _done(await self._desk.undo(body.version, Wish(who, self._clean(body.reason))))

    async def journal(self, query: JournalQuery, body: None, who: str) -> JournalView:
        journal = self._desk.journal

        def look() -> JournalView:
            entries = journal.read(query.after, query.before, query.about, newest=True)
            found = list(islice(entries, query.limit + 1))
            return JournalView(tuple(map(_entry, found[: query.limit])), len(found) > query.limit)

        return await journal.ask(look)

    async def compact(self, query: None, body: None, who: str) -> CompactView:
        work = asyncio.ensure_future(self._desk.compact(who))
        done, _ = await asyncio.wait((work,), timeout=self._patience_s)
        return CompactView(work.result()) if done else CompactView(0, going_on=True)


def _done(done: Done) -> DoneView:
    entry = done.entry
    if entry is None:
        return DoneView(done.version, done.hash, None, "It is so already; nothing was changed.")
    return DoneView(done.version, done.hash, entry.seq, words(entry), views.steps(done.steps))


def _entry(entry: Entry) -> EntryView:
    body = msgspec.to_builtins(entry.body)
    return EntryView(entry.seq, entry.at, entry.who, kind_of(entry.body), words(entry), body)
