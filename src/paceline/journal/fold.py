"""The fold: what the journal's entries amount to. Pure; the journal and the property tests call it.

Everything that serves is a function of this state. History and reasons are not in it: they are read
from the entries when somebody asks.
"""

from collections.abc import Iterable

import msgspec

from paceline.journal.alerting import booked
from paceline.journal.entries import (
    Adjusted,
    AdjustedOften,
    AlertMoved,
    AlertsSummed,
    AlertsTold,
    Compacted,
    Entry,
    Forgotten,
    GoalsChanged,
    PlanChanged,
    Salvaged,
    Scored,
    SettingsChanged,
    Silenced,
    SilenceEnded,
)
from paceline.journal.store import Snapshot, damaged
from paceline.terms.alert import NO_ALERTS, AlertBook
from paceline.terms.errors import Conflict
from paceline.terms.goal import slo_ms
from paceline.terms.plan import (
    EMPTY,
    Address,
    InForce,
    Plan,
    Value,
    changed,
    content_hash,
    settings,
    spans,
)


class State(msgspec.Struct, frozen=True):
    """`seq` is the last entry in it. `since` and `by` say when the Plan got this version."""

    seq: int = 0
    plan: Plan = EMPTY
    hash: str = content_hash(EMPTY)
    since: float = 0.0
    by: str = ""
    adjusted: dict[Address, Value] = {}
    goals: dict[str, tuple[str, ...]] = {}
    alerts: AlertBook = NO_ALERTS

    @property
    def in_force(self) -> InForce:
        slos_ms = {workload: slo_ms(clauses) for workload, clauses in self.goals.items()}
        return InForce(
            self.plan.version,
            self.hash,
            settings(self.plan, self.adjusted),
            {workload: slo for workload, slo in slos_ms.items() if slo is not None},
            spans(self.plan),
        )


NOTHING = State()


def fold(state: State, entry: Entry) -> State:
    """The state after one more entry; an entry that cannot follow is damage, not an opinion."""
    match entry.body:
        case PlanChanged(version, content, change):
            try:
                plan = changed(state.plan, change.diff, version)
            except Conflict as error:
                raise damaged(entry.seq, "it does not follow from those before it") from error
            if content_hash(plan) != content:
                raise damaged(entry.seq, "the Plan it leads to is not the one it names")
            touched = {step.knob for step in change.diff}
            adjusted = {knob: at for knob, at in state.adjusted.items() if knob not in touched}
            return State(
                entry.seq,
                plan,
                content,
                entry.at,
                entry.who,
                adjusted,
                state.goals,
                state.alerts,
            )
        case Adjusted(adjustment):
            return _adjusted(state, entry.seq, adjustment.knob, adjustment.after)
        case AdjustedOften():
            return _adjusted(state, entry.seq, entry.body.knob, entry.body.last)
        case GoalsChanged(goals):
            return msgspec.structs.replace(state, seq=entry.seq, goals=goals)
        case Scored() | SettingsChanged() | Forgotten() | Compacted() | Salvaged():
            return msgspec.structs.replace(state, seq=entry.seq)
        case AlertMoved() | AlertsTold() | Silenced() | SilenceEnded() | AlertsSummed() as body:
            alerts = booked(state.alerts, entry.seq, entry.at, body)
            return msgspec.structs.replace(state, seq=entry.seq, alerts=alerts)


def _adjusted(state: State, seq: int, knob: Address, value: Value) -> State:
    return msgspec.structs.replace(state, seq=seq, adjusted={**state.adjusted, knob: value})


def fold_all(entries: Iterable[Entry], state: State = NOTHING) -> State:
    for entry in entries:
        state = fold(state, entry)
    return state


FORMAT = 2
"""Of a snapshot. Whoever changes State counts it up; an unknown one is passed over."""

READABLE = (1, FORMAT)
"""In the first nothing was known of alerts, and there were none."""


def to_snapshot(state: State) -> Snapshot:
    return Snapshot(state.seq, FORMAT, msgspec.json.encode(state))


def from_snapshot(snapshot: Snapshot) -> State | None:
    if snapshot.format not in READABLE:
        return None
    return msgspec.json.decode(snapshot.state, type=State)
