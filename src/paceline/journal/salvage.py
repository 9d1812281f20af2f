"""What can be saved of a damaged journal: records that are a journal again, and what is lost.

Pure; `damage.py` reads the file. Whatever stands before the first damage is kept as it is. What
stands after it can be kept only where it is proven what it builds on: a snapshot says it, or the
next change of the Plan does, whose hash covers every line. Then entries in the place of lost ones
lead there, and say so. Without a proof, what follows is left out, up to the next one.

Numbers stay, for people have cited them. One entry at the end says what is missing.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

import msgspec

from paceline.journal.entries import (
    Adjusted,
    AdjustedOften,
    Body,
    Compacted,
    Entry,
    GoalsChanged,
    PlanChanged,
    Salvaged,
    to_entry,
    to_record,
)
from paceline.journal.fold import NOTHING, State, fold
from paceline.journal.store import Record
from paceline.terms.errors import Conflict, JournalDamaged
from paceline.terms.plan import (
    Address,
    Adjustment,
    Change,
    Line,
    Plan,
    Value,
    changed,
    content_hash,
    diff,
    settings,
)

SALVAGER = "paceline journal export --salvage"
"""Who wrote the entries that stand for lost ones."""

GAPS = 100
"""that are told one by one"""


class Gap(msgspec.Struct, frozen=True):
    """Numbers among which nothing can be read; without `last`, nobody knows how far. None at all
    where `last` comes before `first`: what stands there is no entry, and none is missing."""

    first: int
    last: int | None
    why: str


Found = Record | Gap

Read = Callable[[int], Iterator[Found]]
"""What comes after a number, in order."""


class Salvage:
    """`records` once; what it came to stands here afterwards."""

    def __init__(self, read: Read, snapshots: Sequence[State]) -> None:
        self.state = NOTHING
        self.entries = self.added = 0
        self.left_out = 0
        """of those that can be read, for what they build on is lost"""
        self.gaps: list[tuple[int, int | None]] = []
        """from the first number that is lost to the last, the first GAPS of them; without a last
        one where the end is lost"""
        self.lost = 0
        self._read = read
        self._snapshots = sorted(snapshots, key=lambda state: state.seq)
        self._unproven = _Unproven()
        self._accounted = 0
        self._at = 0.0

    def records(self) -> Iterator[Record]:
        last: int | None = None
        broken = hopeless = False
        for found in self._found(0):
            last = found.seq if isinstance(found, Record) else found.last
            entry = _readable(found)
            if entry is None:
                broken, hopeless = True, False
                continue
            assert isinstance(found, Record)
            if not broken:
                after = _follows(self.state, entry)
                if after is not None:
                    yield self._kept(found, entry, after)
                    continue
                broken = True
            bridge = None
            if not hopeless or self._snapshot_at(entry.seq - 1) is not None:
                bridge = self._bridge(entry.seq)
            hopeless = bridge is None
            if bridge is None:
                self.left_out += 1
                self._unproven.note(entry)
                continue
            self._note_gap(entry.seq - 1)
            for body in bridge:
                yield self._added(body, entry.at)
            after = _follows(self.state, entry)
            assert after is not None, "a bridge leads to the entry it was made for"
            yield self._kept(found, entry, after)
            broken = False
        if broken:
            self._note_gap(last)
            yield from self._last_known()
        self.lost = self.state.seq - self.entries - self._accounted + self.added
        if self.gaps or self.lost:
            yield self._added(Salvaged(self.lost, self.added, tuple(self.gaps)), self._at)

    @property
    def is_worth_it(self) -> bool:
        """Whether anything is saved; of a journal without damage, whatever it is."""
        return self.entries > self.added or self.state.plan.version > 0 or not self.entries

    def _found(self, after: int) -> Iterator[Found]:
        return filter(_means_something, self._read(after))

    def _last_known(self) -> Iterator[Record]:
        """What can be told of the end, where it cannot be kept: by the newest snapshot, or by the
        last lines that changes gave to their knobs. Those of other knobs stay as they were."""
        newest = self._snapshots[-1] if self._snapshots else NOTHING
        changes = self._unproven
        if changes.last is not None and changes.last[0].seq > max(newest.seq, self.state.seq):
            entry, body = changes.last
            known = newest if newest.seq > self.state.seq else self.state
            there = changes.after(known, body.version)
            reason = "Changes could not be kept, for what they build on is lost; this is their end."
            bridge = _leading(self.state, there, entry.seq - self.state.seq, reason)
            at = entry.at
        else:
            reason = "What was here could not be read; a snapshot told what it led to."
            bridge = _leading(self.state, newest, newest.seq - self.state.seq, reason)
            at = newest.since
        for added in bridge or ():
            yield self._added(added, max(self._at, at))

    def _kept(self, record: Record, entry: Entry, after: State) -> Record:
        self.state = after
        self.entries += 1
        self._accounted += missing(entry.body)
        self._at = entry.at
        return record

    def _added(self, body: Body, at: float) -> Record:
        self.added += 1
        entry = Entry(self.state.seq + 1, at, SALVAGER, body)
        record = to_record(entry)
        return self._kept(record, entry, fold(self.state, entry))

    def _note_gap(self, last: int | None) -> None:
        first = self.state.seq + 1
        if len(self.gaps) < GAPS:
            self.gaps.append((first, last if last is None else max(last, first)))

    def _snapshot_at(self, seq: int) -> State | None:
        index = bisect_left(self._snapshots, seq, key=lambda state: state.seq)
        known = self._snapshots[index : index + 1]
        return known[0] if known and known[0].seq == seq else None

    def _bridge(self, seq: int) -> list[Body] | None:
        """What leads from the state that is known to the one before this entry."""
        there = self._snapshot_at(seq - 1) or self._state_before(seq)
        if there is None:
            return None
        reason = f"What was here could not be read; entry {seq} and those after it build on this."
        return _leading(self.state, there, seq - 1 - self.state.seq, reason)

    def _state_before(self, seq: int) -> State | None:
        """From what follows, as far as it can be read: the first snapshot in it is exact; without
        one, the first change of the Plan is the proof."""
        later = next((each for each in self._snapshots if each.seq >= seq), None)
        in_gap = [each for each in self._snapshots if self.state.seq < each.seq < seq]
        start = in_gap[-1] if in_gap else self.state
        ahead = _Ahead()
        reached = 0
        for found in self._found(seq - 1):
            entry = _readable(found)
            if entry is None:
                break
            if later is not None and entry.seq > later.seq:
                reached = later.seq
                break
            first = ahead.first
            ahead.note(entry.body)
            reached = entry.seq
            if first is None and ahead.first is not None and later is None:
                proven = ahead.before(start)
                if proven is not None:
                    return proven
        if later is not None and reached == later.seq:
            return ahead.before(later)
        return ahead.before(start) if ahead.first is not None else None


class _Ahead:
    """What entries say of the state before them: each names what it found."""

    def __init__(self) -> None:
        self.first: PlanChanged | None = None
        self._lines: dict[Address, Line | None] = {}
        self._values: dict[Address, Value] = {}

    def note(self, body: Body) -> None:
        match body:
            case PlanChanged(_, _, change):
                self.first = self.first or body
                for step in change.diff:
                    self._lines.setdefault(step.knob, step.before)
            case Adjusted(adjustment) if adjustment.knob not in self._lines:
                self._values.setdefault(adjustment.knob, adjustment.before)
            case AdjustedOften(knob) if knob not in self._lines:
                self._values.setdefault(knob, body.first)

    def before(self, known: State) -> State | None:
        """`known` is right in all that these entries do not touch, or the hash refutes it."""
        lines = _with(known.plan.lines, self._lines)
        version = known.plan.version if self.first is None else self.first.version - 1
        plan = Plan(version, lines)
        if self.first is not None and not _proves(self.first, plan):
            return None
        adjusted = {
            knob: value
            for knob, value in known.adjusted.items()
            if knob not in self._lines and lines.get(knob) == known.plan.lines.get(knob)
        }
        adjusted |= {knob: value for knob, value in self._values.items() if knob in lines}
        return State(
            plan=plan,
            hash=content_hash(plan),
            adjusted=adjusted,
            goals=known.goals,
            alerts=known.alerts,
        )


class _Unproven:
    """Changes that can be read, but not kept."""

    def __init__(self) -> None:
        self.last: tuple[Entry, PlanChanged] | None = None
        self._lines: dict[Address, Line | None] = {}

    def note(self, entry: Entry) -> None:
        if isinstance(entry.body, PlanChanged):
            self.last = entry, entry.body
            self._lines |= {step.knob: step.after for step in entry.body.change.diff}

    def after(self, known: State, version: int) -> State:
        lines = _with(known.plan.lines, self._lines)
        plan = Plan(version, lines)
        hash_ = content_hash(plan)
        return State(plan=plan, hash=hash_, goals=known.goals, alerts=known.alerts)


def missing(body: Body) -> int:
    """Entries that are not there and need not be, for this one accounts for them."""
    match body:
        case Compacted():
            return body.removed
        case Salvaged():
            return body.lost - body.added
    return 0


def _with(lines: dict[Address, Line], others: dict[Address, Line | None]) -> dict[Address, Line]:
    together = {**lines, **others}
    return {knob: line for knob, line in together.items() if line is not None}


def _means_something(found: Found) -> bool:
    return isinstance(found, Record) or found.last is None or found.last >= found.first


def _readable(found: Found) -> Entry | None:
    if isinstance(found, Gap):
        return None
    try:
        return to_entry(found)
    except JournalDamaged:
        return None


def _follows(state: State, entry: Entry) -> State | None:
    try:
        return fold(state, entry)
    except JournalDamaged:
        return None


def _proves(change: PlanChanged, before: Plan) -> bool:
    try:
        after = changed(before, change.change.diff, change.version)
    except Conflict:
        return False
    return content_hash(after) == change.hash


def _leading(state: State, there: State, room: int, reason: str) -> list[Body] | None:
    """At most `room` entries. A version that is lost keeps its number and changes nothing, for
    nobody knows what it changed; the last of them brings everything. Settings come last: without
    room for them, their owners find them where they once were, inside the envelope."""
    versions = there.plan.version - state.plan.version
    steps = diff(state.plan, there.plan)
    if not 0 <= versions <= room or (steps and not versions):
        return None
    bodies: list[Body] = []
    for version in range(state.plan.version + 1, there.plan.version):
        bodies.append(PlanChanged(version, state.hash, Change((), reason)))
    if versions:
        bodies.append(PlanChanged(there.plan.version, there.hash, Change(steps, reason)))
    if there.goals != state.goals:
        bodies.append(GoalsChanged(there.goals))
    touched = {step.knob for step in steps}
    now = settings(
        there.plan, {knob: at for knob, at in state.adjusted.items() if knob not in touched}
    )
    for knob, value in there.in_force.settings.items():
        if now[knob] != value:
            bodies.append(Adjusted(Adjustment(knob, now[knob], value, reason)))
    return bodies[:room]
