"""Knobs, Plans and what leads from one to another: what holds for all of them."""

import math
from collections.abc import Callable
from typing import TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws import examples
from paceline.serve.knobs import catalogue as serving
from paceline.terms import plan as terms
from paceline.terms.errors import BadValue, Conflict, UnknownKnob
from paceline.terms.plan import (
    Among,
    Boolean,
    Choice,
    Envelope,
    Knob,
    Line,
    LogRange,
    Plan,
    Prediction,
    Range,
    Span,
    Step,
    Value,
    changed,
    content_hash,
    diff,
    find,
    inverse,
    shown,
)
from plans import CATALOGUE, KNOBS, MODES, envelopes, lines, plans, replaced, values

FEW = examples(25)
T = TypeVar("T")

NAMES = [knob.name for knob in KNOBS]
BY_NAME = {knob.name: knob for knob in KNOBS}
ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.lists(st.integers(), max_size=2)
    | st.sampled_from([10**400, -(10**400), 2.0, 5.5, -0.0, "true", "fast", b"fast"])
)


def is_of(knob: Knob, value: Value) -> bool:
    """Whether the value is in the one form in which this knob has it."""
    match knob.kind:
        case Range(low, high) | LogRange(low, high):
            if isinstance(value, bool | str):
                return False
            signless = value != 0 or math.copysign(1, value) == 1
            return type(value) is type(low) and low <= value <= high and signless
        case Choice(names):
            return type(value) is str and value in names
        case Boolean():
            return type(value) is bool


def outcome(call: Callable[[], T]) -> T | BadValue:
    try:
        return call()
    except BadValue as refusal:
        return refusal


# --- Knobs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(st.data())
def test_what_is_shown_of_a_value_is_read_as_that_value(name: str, data: st.DataObject) -> None:
    knob = BY_NAME[name]
    value = data.draw(values(knob))
    again = knob.parse(shown(value))
    assert again == value
    assert type(again) is type(value)
    assert knob.check(value) == value
    assert value in knob.whole


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(ANYTHING)
def test_whatever_is_offered_becomes_a_value_of_the_knob_or_is_refused(
    name: str, offered: object
) -> None:
    knob = BY_NAME[name]
    value = outcome(lambda: knob.check(offered))
    if isinstance(value, BadValue):
        assert f"{name} takes {knob.takes}" == value.cause
        assert value.remedy
        assert str(value)
    else:
        assert is_of(knob, value)
        assert value == offered


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(
    st.text()
    | st.sampled_from(["1", "1.0", "1e0", "-0.0", "1e999", "NaN", " 7 ", "\udcff", "TRUE", "fast"])
)
def test_whatever_is_typed_becomes_a_value_of_the_knob_or_is_refused(name: str, text: str) -> None:
    knob = BY_NAME[name]
    value = outcome(lambda: knob.parse(text))
    if isinstance(value, BadValue):
        assert knob.takes in value.cause
    else:
        assert is_of(knob, value)
        assert knob.parse(shown(value)) == value


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(st.data())
def test_what_is_shown_of_an_envelope_is_read_as_that_envelope(
    name: str, data: st.DataObject
) -> None:
    knob = BY_NAME[name]
    envelope = data.draw(envelopes(knob))
    again = knob.parse_envelope(str(envelope))
    assert again == envelope == knob.check_envelope(envelope)
    assert msgspec.json.encode(again) == msgspec.json.encode(envelope)
    assert knob.parse_envelope(str(knob.whole)) == knob.whole
    value = data.draw(values(knob))
    assert (value in envelope) == (value in again)


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(st.text() | st.sampled_from(["1..2", "2..1", "1...2", "..", "1..", "fast|", "fast|fast"]))
def test_whatever_is_typed_as_an_envelope_becomes_one_or_is_refused(name: str, text: str) -> None:
    knob = BY_NAME[name]
    envelope = outcome(lambda: knob.parse_envelope(text))
    if isinstance(envelope, BadValue):
        assert envelope.remedy
    else:
        assert knob.check_envelope(envelope) == envelope
        assert any(value in envelope for value in _some_values(envelope))


def _some_values(envelope: Envelope) -> tuple[Value, ...]:
    return envelope.values if isinstance(envelope, Among) else (envelope.low, envelope.high)


@pytest.mark.parametrize(
    ("name", "envelope"),
    [
        ("rows", Span(2, 1)),
        ("rows", Span(0, 11)),
        ("rows", Span(-1, 5)),
        ("rows", Span(0.5, 2)),
        ("rows", Among(("fast",))),
        ("share", Span(-2.0, 0.0)),
        ("mode", Among(())),
        ("mode", Among(("fast", "fast"))),
        ("mode", Among(("fast", "faster"))),
        ("mode", Among((True,))),
        ("mode", Span(1, 2)),
        ("on", Among(("true",))),
    ],
)
def test_an_envelope_that_the_knob_cannot_have_is_refused(name: str, envelope: Envelope) -> None:
    with pytest.raises(BadValue, match=name):
        BY_NAME[name].check_envelope(envelope)


def test_an_envelope_of_names_has_them_in_the_order_of_the_knob() -> None:
    assert BY_NAME["mode"].parse_envelope("fast|slow") == Among(("slow", "fast"))
    assert BY_NAME["on"].parse_envelope("true|false") == Among((False, True))


def test_an_envelope_of_numbers_contains_numbers_and_no_names() -> None:
    assert 3 in Span(1, 4)
    assert 1 in Span(1, 4)
    assert 4 in Span(1, 4)
    assert 5 not in Span(1, 4)
    assert "3" not in Span(1, 4)
    assert 1 not in Among((False, True))
    assert True in Among((False, True))
    assert True not in Among((False,))


def test_a_refused_value_is_told_with_the_nearest_name_or_with_what_the_knob_is_for() -> None:
    with pytest.raises(BadValue, match="Did you mean steady"):
        BY_NAME["mode"].parse("stedy")
    with pytest.raises(BadValue, match=r"rows takes a whole number from 0 to 10 rows .value: 11."):
        BY_NAME["rows"].check(11)
    with pytest.raises(BadValue, match=r"How many\. Its default is 5"):
        BY_NAME["rows"].check(2.5)
    with pytest.raises(BadValue, match=r"share takes a number from -1\.5 to 1\.5 "):
        BY_NAME["share"].check(2)
    with pytest.raises(BadValue, match="on takes true or false"):
        BY_NAME["on"].check(1)
    with pytest.raises(BadValue, match=f"mode takes one of {', '.join(MODES)}"):
        BY_NAME["mode"].check(None)


def test_numbers_are_whole_where_the_bounds_are_and_otherwise_are_not() -> None:
    assert (BY_NAME["rows"].check(2.0), type(BY_NAME["rows"].check(2.0))) == (2, int)
    assert (BY_NAME["share"].check(1), type(BY_NAME["share"].check(1))) == (1.0, float)
    with pytest.raises(AssertionError, match="mixed"):
        Knob("mixed", Range(0, 1.5), 1, "", "A bound of each sort.")
    with pytest.raises(AssertionError, match="mixed"):
        Knob("mixed", LogRange(1.0, 2.0), 1, "", "A default of the other sort.")


def test_an_unknown_knob_is_told_with_the_nearest_name() -> None:
    with pytest.raises(UnknownKnob, match=r"Did you mean one\.rows"):
        find(CATALOGUE, "one.row")
    with pytest.raises(UnknownKnob, match="plan show"):
        find(CATALOGUE, "zzz")
    assert find(CATALOGUE, "one.rows") is KNOBS[0]


def test_the_knobs_of_a_served_model_allow_their_defaults() -> None:
    knobs = serving(["digits", "other"])
    assert len(knobs) == 2 * len(serving(["digits"]))
    for address, knob in knobs.items():
        assert address.endswith(f".{knob.name}")
        assert is_of(knob, knob.default)
        assert knob.default in knob.whole
        assert knob.meaning.endswith(".")


# --- Lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(st.data())
def test_a_pin_of_the_file_wins_over_one_of_a_person_and_both_over_the_value(
    name: str, data: st.DataObject
) -> None:
    knob = BY_NAME[name]
    line = data.draw(lines(knob))
    if line.file_pin is not None:
        assert line.start == line.file_pin
        assert replaced(line, file_pin=None).start in (line.pin, line.value)
    elif line.pin is not None:
        assert line.start == line.pin
        assert replaced(line, pin=None).start == line.value
    else:
        assert line.start == line.value
    assert line.pinned == (line.pin is not None or line.file_pin is not None)
    value = data.draw(values(knob))
    assert line.allows(value) == (value == line.start if line.pinned else value in line.envelope)


def test_settings_are_what_was_adjusted_or_where_the_line_starts() -> None:
    plan = Plan(3, {"one.rows": Line(5, Span(0, 10)), "one.on": Line(True, Among((True,)), False)})
    assert terms.settings(plan, {}) == {"one.rows": 5, "one.on": False}
    assert terms.settings(plan, {"one.rows": 7, "gone.rows": 1}) == {"one.rows": 7, "one.on": False}


# --- What leads from one Plan to another ----------------------------------------------------------


@FEW
@given(plans(), plans())
def test_a_diff_leads_to_the_other_plan_and_its_inverse_back(old: Plan, new: Plan) -> None:
    steps = diff(old, new)
    there = changed(old, steps, new.version)
    assert there == new
    assert content_hash(there) == content_hash(new)
    back = changed(there, inverse(steps), old.version)
    assert back == old
    assert content_hash(back) == content_hash(old)
    assert inverse(inverse(steps)) == steps
    assert {step.knob for step in steps} == {
        knob
        for knob in old.lines.keys() | new.lines.keys()
        if old.lines.get(knob) != new.lines.get(knob)
    }
    assert len({step.knob for step in steps}) == len(steps)


@FEW
@given(plans())
def test_between_equal_plans_lies_nothing(plan: Plan) -> None:
    assert diff(plan, plan) == ()
    assert changed(plan, (), plan.version) == plan


@FEW
@given(plans(), st.data())
def test_the_hash_is_of_the_lines_alone_and_differs_with_each_of_them(
    plan: Plan, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(sorted(plan.lines)))
    same = Plan(plan.version + 1, {knob: plan.lines[knob] for knob in order})
    assert content_hash(same) == content_hash(plan)
    assert len(content_hash(plan)) == 16
    again = msgspec.json.decode(msgspec.json.encode(plan), type=Plan)
    assert content_hash(again) == content_hash(plan)
    other = data.draw(plans())
    assert (content_hash(other) == content_hash(plan)) == (other.lines == plan.lines)


@FEW
@given(plans(whole=True), st.data())
def test_equal_plans_have_equal_hashes_however_their_numbers_were_given(
    plan: Plan, data: st.DataObject
) -> None:
    """1 and 1.0 are equal, and so no diff would tell them apart."""

    def given_otherwise(knob: Knob, line: Line) -> Line:
        value = line.value
        if isinstance(value, float) and value == int(value) and data.draw(st.booleans()):
            value = int(value)
        elif type(value) is int and data.draw(st.booleans()):
            value = float(value)
        return replaced(line, value=knob.check(value))

    other = Plan(
        plan.version,
        {each: given_otherwise(CATALOGUE[each], line) for each, line in plan.lines.items()},
    )
    assert other == plan
    assert content_hash(other) == content_hash(plan)


@pytest.mark.parametrize(
    "step",
    [
        Step("one.rows", Line(4, Span(0, 10)), Line(6, Span(0, 10))),
        Step("one.rows", Line(5, Span(0, 9)), None),
        Step("one.rows", None, Line(6, Span(0, 10))),
        Step("two.rows", Line(5, Span(0, 10)), None),
    ],
)
def test_a_step_that_does_not_find_what_it_expects_is_refused(step: Step) -> None:
    plan = Plan(1, {"one.rows": Line(5, Span(0, 10))})
    with pytest.raises(Conflict, match=rf"{step.knob} has been changed since.*why {step.knob}"):
        changed(plan, (step,), 2)
    assert plan == Plan(1, {"one.rows": Line(5, Span(0, 10))})


# --- Predictions ----------------------------------------------------------------------------------


@given(st.floats(-10, 10), st.none() | st.floats(-10, 10), st.none() | st.floats(-10, 10))
def test_a_prediction_holds_between_its_bounds_both_included(
    measured: float, low: float | None, high: float | None
) -> None:
    prediction = Prediction("p95_ms", low, high)
    expected = not (low is not None and measured < low) and not (
        high is not None and measured > high
    )
    assert prediction.holds(measured) == expected


def test_a_prediction_is_told_as_a_goal_would_be() -> None:
    assert str(Prediction("p95_ms", 1, 30)) == "p95_ms >= 1 and p95_ms <= 30"
    assert str(Prediction("p95_ms", high=0.5)) == "p95_ms <= 0.5"
