"""Knobs, Plans and whole journals drawn at random, for tests that say what holds for all of them.

`CATALOGUE` has a knob of every kind twice; `journals()` draws what its Plan may have gone through.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
from hypothesis import strategies as st

from paceline.journal.entries import (
    Adjusted,
    AlertMoved,
    AlertsTold,
    Body,
    Entry,
    Forgotten,
    GoalsChanged,
    Outcome,
    PlanChanged,
    Scored,
    SettingsChanged,
    Silenced,
    SilenceEnded,
)
from paceline.journal.fold import NOTHING, State, fold
from paceline.terms.alert import Alert, Silence
from paceline.terms.plan import (
    Address,
    Adjustment,
    Among,
    Boolean,
    Catalogue,
    Change,
    Choice,
    Envelope,
    Knob,
    Line,
    LogRange,
    Plan,
    Prediction,
    Range,
    Span,
    Value,
    changed,
    content_hash,
    diff,
)

MODES = ("slow", "steady", "fast", "größer")

KNOBS = (
    Knob("rows", Range(0, 10), 5, "rows", "How many."),
    Knob("size", LogRange(1, 1024), 64, "bytes", "How large."),
    Knob("share", Range(-1.5, 1.5), 0.5, "", "How much."),
    Knob("wait", LogRange(1e-3, 1e18), 1.0, "ms", "How long."),
    Knob("mode", Choice(MODES), "steady", "", "In which way."),
    Knob("on", Boolean(), True, "", "Whether at all."),
)


def catalogue(*workloads: str) -> Catalogue:
    return {f"{workload}.{knob.name}": knob for workload in workloads for knob in KNOBS}


CATALOGUE = catalogue("one", "two")


def defaults(knobs: Catalogue = CATALOGUE) -> Plan:
    return Plan(1, {address: Line(knob.default, knob.whole) for address, knob in knobs.items()})


# --- What a knob can be ---------------------------------------------------------------------------


def values(knob: Knob) -> st.SearchStrategy[Value]:
    match knob.kind:
        case Range(low, high) | LogRange(low, high):
            return numbers(low, high)
        case Choice(names):
            return st.sampled_from(names)
        case Boolean():
            return st.booleans()


def numbers(low: int | float, high: int | float) -> st.SearchStrategy[int | float]:
    """In the form that `Knob.check` gives them."""
    if isinstance(low, int) and isinstance(high, int):
        return st.integers(low, high)
    return st.floats(low, high, allow_subnormal=False).map(lambda drawn: drawn + 0.0)


def envelopes(knob: Knob) -> st.SearchStrategy[Envelope]:
    match knob.kind:
        case Range(low, high) | LogRange(low, high):
            pairs = st.tuples(numbers(low, high), numbers(low, high))
            return pairs.map(lambda pair: Span(min(pair), max(pair)))
        case _:
            whole = knob.whole
            assert isinstance(whole, Among)
            return st.sets(st.sampled_from(whole.values), min_size=1).map(
                lambda some: Among(tuple(each for each in whole.values if each in some))
            )


@st.composite
def lines(draw: st.DrawFn, knob: Knob, *, file_pins: bool = True) -> Line:
    pin = st.none() | values(knob)
    return Line(
        draw(values(knob)),
        draw(envelopes(knob)),
        draw(pin),
        draw(pin) if file_pins else None,
    )


@st.composite
def plans(draw: st.DrawFn, knobs: Catalogue = CATALOGUE, *, whole: bool = False) -> Plan:
    """Of some of the knobs, in any order."""
    some = sorted(knobs) if whole else draw(st.lists(st.sampled_from(sorted(knobs)), unique=True))
    return Plan(draw(st.integers(0, 99)), {each: draw(lines(knobs[each])) for each in some})


# --- What may have happened -----------------------------------------------------------------------


class Happening(NamedTuple):
    """What is drawn of an entry. What it becomes depends on the entries before it."""

    kind: str
    later_s: float
    who: str
    lines: Mapping[Address, Line | None]
    knob: Address
    value: Value
    came_true: bool


LINES = {knob: lines(CATALOGUE[knob]) for knob in sorted(CATALOGUE)}
MOVED = sorted(CATALOGUE)[:3]
LATER_S = (0.0, 60.0, 7200.0, 50_000.0, 90_000.0, -40_000.0)


@st.composite
def happenings(draw: st.DrawFn) -> Happening:
    kinds = ["plan", "adjusted", "adjusted", "adjusted", "scored", "alerts", "other"]
    kind = draw(st.sampled_from(kinds))
    later_s, who = draw(st.sampled_from(LATER_S)), draw(st.sampled_from(["ann", "bob"]))
    came_true = draw(st.booleans())
    touched: dict[Address, Line | None] = {}
    knob = MOVED[0]
    value = CATALOGUE[knob].default
    if kind == "plan":
        some = draw(st.lists(st.sampled_from(sorted(LINES)), max_size=2, unique=True))
        touched = {each: draw(st.none() | LINES[each]) for each in some}
    if kind == "adjusted":
        knob = draw(st.sampled_from(MOVED))
        value = draw(values(CATALOGUE[knob]))
    return Happening(kind, later_s, who, touched, knob, value, came_true)


def journals(largest: int = 15) -> st.SearchStrategy[list[Entry]]:
    return st.lists(happenings(), max_size=largest).map(entries_of)


START_S = 1_800_000_000.0


def entries_of(happened: Sequence[Happening]) -> list[Entry]:
    """A journal that holds together: every change starts from the Plan before it."""
    state, at = NOTHING, START_S
    entries: list[Entry] = []
    for each in happened:
        at += each.later_s
        entry = Entry(state.seq + 1, at, each.who, _body(state, entries, each))
        state = fold(state, entry)
        entries.append(entry)
    return entries


def _body(state: State, before: Sequence[Entry], happening: Happening) -> Body:
    moves = [entry for entry in before if isinstance(entry.body, Adjusted)]
    match happening.kind:
        case "plan":
            return plan_changed(state.plan, happening.lines)
        case "adjusted":
            knob, now = happening.knob, happening.value
            was = state.in_force.settings.get(knob, CATALOGUE[knob].default)
            return Adjusted(Adjustment(knob, was, now, "because", (Prediction("p95_ms", 1, 2.5),)))
        case "scored" if moves:
            of = moves[-1]
            assert isinstance(of.body, Adjusted)
            outcome: Outcome = "came true" if happening.came_true else "did not"
            adjustment = of.body.adjustment
            prediction = adjustment.predictions[0]
            return Scored(of.seq, (adjustment.knob,), prediction, outcome, of_adjustment=True)
        case "alerts":
            return _about_alerts(state, happening)
        case "other" if happening.came_true:
            if happening.value == CATALOGUE[happening.knob].default:
                return Forgotten(3, "abcdefgh")
            return SettingsChanged(("the log is more detailed",))
    return GoalsChanged({"one": ("p95_ms <= 30", f"cost_usd_h <= {len(before)}")})


def _about_alerts(state: State, happening: Happening) -> Body:
    """Fired, resolved, told or given up, silenced and not any more: what comes next of these."""
    book, at = state.alerts, START_S + 60.0 * state.seq
    if book.owed and happening.value == CATALOGUE[happening.knob].default:
        channel, ids = next(iter(book.owed.items()))
        return AlertsTold(channel, ids[0], sent=happening.came_true, why="refused")
    if not happening.came_true:
        if book.silences:
            return SilenceEnded(book.silences[0].id, "*")
        return Silenced(Silence(state.seq + 1, "*", at, at + 3600, happening.who))
    id_ = f"errors:{happening.knob}"
    alert = book.alerts.get(id_)
    if alert is not None and alert.open:
        over = msgspec.structs.replace(
            alert, state="resolved", ended_unix_s=at, told="resolved", told_unix_s=at
        )
        return AlertMoved(over, "resolved", ("ops",))
    fires = Alert(id_, "errors", "one", "critical", "firing", at, "errors", "7 %", "Look.")
    return AlertMoved(fires, "fired", ("ops", "log"))


def plan_changed(
    plan: Plan, wanted: Mapping[Address, Line | None], reason: str = ""
) -> PlanChanged:
    """From this Plan to one with these lines instead; None takes one away."""
    after = {**plan.lines, **{knob: line for knob, line in wanted.items() if line is not None}}
    for knob, line in wanted.items():
        if line is None:
            after.pop(knob, None)
    steps = diff(plan, Plan(plan.version, after))
    new = changed(plan, steps, plan.version + 1)
    return PlanChanged(new.version, content_hash(new), Change(steps, reason))


def replaced(line: Line, **fields: object) -> Line:
    return msgspec.structs.replace(line, **fields)
