"""Wishes: what follows from one, why one is refused, and how the desk carries it out."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws import examples
from paceline.changes import decide
from paceline.changes.decide import FilePin, FilePins
from paceline.changes.desk import Desk, Done, Nobody, Wanted, Wish
from paceline.clock import Chance, SimulatedClock, run_simulated
from paceline.journal.entries import (
    Adjusted,
    AdjustedOften,
    Compacted,
    Entry,
    GoalsChanged,
    PlanChanged,
    SettingsChanged,
)
from paceline.journal.fold import State, fold_all
from paceline.journal.journal import Journal, load
from paceline.journal.store import Compaction, Record, Snapshot
from paceline.terms.errors import (
    BadValue,
    Conflict,
    DiskFull,
    LimitReached,
    PacelineError,
    Pinned,
    PlanRefused,
    UnknownKnob,
    UnknownVersion,
)
from paceline.terms.limits import ADJUST_EVERY_S, ADJUSTMENTS_KEPT_S, KNOB_ADDRESS_CHARS
from paceline.terms.plan import (
    EMPTY,
    Among,
    Boolean,
    Catalogue,
    Change,
    Choice,
    Diff,
    InForce,
    Knob,
    Line,
    Plan,
    Prediction,
    Range,
    Span,
    Step,
    Value,
    changed,
    content_hash,
    diff,
)
from paceline.testing import Kept, ListStore
from plans import CATALOGUE, catalogue, defaults, envelopes, plans, replaced, values
from stores import WAIT_S, HeldStore, WatchedStore, disk_full

FEW = examples(25)

ANN = Wish("ann", "because")
PLACE = "paceline.toml:3"
FILE_PINS: FilePins = {"one.size": FilePin(256, PLACE)}


# --- What follows from a wish, and why it is refused ----------------------------------------------


def plan_with(knob: str, **fields: object) -> Plan:
    """The defaults but for these fields of one line."""
    plan = defaults()
    return Plan(1, {**plan.lines, knob: replaced(plan.lines[knob], **fields)})


def after(plan: Plan, steps: Diff, knob: str) -> Line:
    assert {step.knob for step in steps} == {knob}
    return changed(plan, steps, 2).lines[knob]


def setting(
    plan: Plan,
    knob: str,
    value: Value | None,
    envelope: str | None = None,
    pins: FilePins | None = None,
) -> Diff:
    return decide.to_value(plan, CATALOGUE, knob, value, envelope, pins or {})


def test_a_value_is_set_as_a_value_or_as_people_write_it() -> None:
    plan = defaults()
    for value in (7, 7.0, "7", "7.0"):
        line = after(plan, setting(plan, "one.rows", value), "one.rows")
        assert (line.value, type(line.value)) == (7, int)
    assert after(plan, setting(plan, "one.on", "False"), "one.on").value is False
    assert after(plan, setting(plan, "one.mode", "fast"), "one.mode").value == "fast"


def test_what_is_so_already_is_no_change() -> None:
    plan = defaults()
    assert setting(plan, "one.rows", 5) == ()
    assert setting(plan, "one.rows", None) == ()
    assert setting(plan, "one.rows", None, "0..10") == ()
    assert setting(plan, "one.share", None, "-1.5..1.5") == ()
    assert decide.to_unpin(plan, CATALOGUE, "one.rows", {}) == ()


def test_value_and_envelope_are_set_together_or_alone() -> None:
    plan = defaults()
    steps = setting(plan, "one.rows", None, "3..7")
    assert after(plan, steps, "one.rows") == Line(5, Span(3, 7))
    plan = changed(plan, steps, 2)
    steps = setting(plan, "one.rows", 9, "8..9")
    assert after(plan, steps, "one.rows") == Line(9, Span(8, 9))
    steps = setting(plan, "one.mode", "slow", "slow|fast")
    assert after(plan, steps, "one.mode") == Line("slow", Among(("slow", "fast")))


class Refused(NamedTuple):
    kind: type[PacelineError]
    says: Sequence[str]
    steps: Callable[[], object]


PINNED = plan_with("one.size", pin=32)
FILE_PINNED = plan_with("one.size", file_pin=256)
BOTH_PINNED = plan_with("one.size", pin=32, file_pin=256)
NARROW = plan_with("one.rows", envelope=Span(4, 6))
BY_FILE = (
    "one.size is pinned at 256",
    f"by {PLACE}",
    f"Change or remove it there and reload: {PLACE}",
)
BY_PERSON = (
    "one.size is pinned at 32",
    "`paceline why one.size`",
    "`paceline plan unpin one.size`",
)

REFUSALS: dict[str, Refused] = {
    "an unknown knob is set": Refused(
        UnknownKnob,
        ["no workload has a knob of this name", "one.rowz", "Did you mean one.rows?"],
        lambda: setting(defaults(), "one.rowz", 5),
    ),
    "an unknown knob is pinned": Refused(
        UnknownKnob,
        ["zzz", "`paceline plan show`"],
        lambda: decide.to_pin(defaults(), CATALOGUE, "zzz", 5, {}),
    ),
    "an unknown knob is unpinned": Refused(
        UnknownKnob,
        ["one.rowz"],
        lambda: decide.to_unpin(defaults(), CATALOGUE, "one.rowz", {}),
    ),
    "an unknown knob is adjusted": Refused(
        UnknownKnob,
        ["one.rowz"],
        lambda: decide.to_setting(defaults(), CATALOGUE, "one.rowz", 5, {}),
    ),
    "a value is outside its knob": Refused(
        BadValue,
        ["rows takes a whole number from 0 to 10 rows", "(value: 11)", "Its default is 5"],
        lambda: setting(defaults(), "one.rows", 11),
    ),
    "a text is no value of its knob": Refused(
        BadValue,
        ["mode takes one of slow, steady, fast", "(value: fats)", "Did you mean fast?"],
        lambda: setting(defaults(), "one.mode", "fats"),
    ),
    "a value is outside the envelope": Refused(
        BadValue,
        ["7 is outside the envelope of one.rows", "(value: 4..6)", "`--within 0..10`"],
        lambda: setting(NARROW, "one.rows", 7),
    ),
    "an envelope would leave the value outside": Refused(
        BadValue,
        [
            "5 is outside the envelope of one.rows",
            "(value: 6..8)",
            "`paceline plan set one.rows VALUE --within 6..8`",
        ],
        lambda: setting(defaults(), "one.rows", None, "6..8"),
    ),
    "an envelope is none": Refused(
        BadValue,
        ["two numbers with two dots between them", "Write for example 0..10"],
        lambda: setting(defaults(), "one.rows", 5, "few"),
    ),
    "an envelope goes further than its knob": Refused(
        BadValue,
        ["rows takes a whole number from 0 to 10", "(value: 12)"],
        lambda: setting(defaults(), "one.rows", 5, "4..12"),
    ),
    "what the file pins is set": Refused(
        Pinned, BY_FILE, lambda: setting(FILE_PINNED, "one.size", 8, None, FILE_PINS)
    ),
    "what the file pins gets an envelope": Refused(
        Pinned, BY_FILE, lambda: setting(FILE_PINNED, "one.size", None, "1..300", FILE_PINS)
    ),
    "what the file pins is pinned": Refused(
        Pinned,
        BY_FILE,
        lambda: decide.to_pin(FILE_PINNED, CATALOGUE, "one.size", 8, FILE_PINS),
    ),
    "what the file pins is unpinned": Refused(
        Pinned, BY_FILE, lambda: decide.to_unpin(BOTH_PINNED, CATALOGUE, "one.size", FILE_PINS)
    ),
    "what the file pins is adjusted": Refused(
        Pinned,
        BY_FILE,
        lambda: decide.to_setting(BOTH_PINNED, CATALOGUE, "one.size", 8, FILE_PINS),
    ),
    "what a file pinned that nobody has read since is pinned": Refused(
        Pinned,
        ["one.size is pinned at 256 by the settings file"],
        lambda: decide.to_pin(FILE_PINNED, CATALOGUE, "one.size", 8, {}),
    ),
    "what a person pinned is set": Refused(
        Pinned, BY_PERSON, lambda: setting(PINNED, "one.size", 8)
    ),
    "what a person pinned is adjusted": Refused(
        Pinned, BY_PERSON, lambda: decide.to_setting(PINNED, CATALOGUE, "one.size", 8, {})
    ),
    "a pin is outside its knob": Refused(
        BadValue,
        ["size takes a whole number from 1 to 1024 bytes", "(value: 4096)"],
        lambda: decide.to_pin(defaults(), CATALOGUE, "one.size", 4096, {}),
    ),
    "the file pins what its knob cannot be": Refused(
        BadValue,
        ["size takes a whole number from 1 to 1024 bytes", "(value: 0)"],
        lambda: decide.to_file_pins(
            defaults(), CATALOGUE, {"one.size": FilePin(0, "paceline.toml:3")}
        ),
    ),
    "an adjustment goes further than the envelope": Refused(
        BadValue,
        [
            "7 is outside the envelope of one.rows",
            "(value: 4..6)",
            "Only a change of the Plan goes further: "
            "`paceline plan set one.rows 7 --within ENVELOPE`",
        ],
        lambda: decide.to_setting(NARROW, CATALOGUE, "one.rows", 7, {}),
    ),
    "what brought a knob is undone": Refused(
        Conflict,
        ["version 4 brought or took knobs; it cannot be undone", "one.rows", "models"],
        lambda: decide.to_undone((Step("one.rows", None, Line(5, Span(0, 10))),), 4, CATALOGUE),
    ),
    "what took a knob is undone": Refused(
        Conflict,
        ["version 4 brought or took knobs"],
        lambda: decide.to_undone((Step("one.rows", Line(5, Span(0, 10)), None),), 4, CATALOGUE),
    ),
    "what the settings did is undone": Refused(
        Pinned,
        ["version 4 was made by the settings", "one.size", "Change the settings file"],
        lambda: decide.to_undone(diff(defaults(), FILE_PINNED), 4, CATALOGUE),
    ),
    "an undo would lead outside a knob that has become narrower": Refused(
        Conflict,
        ["one.rows can no longer be as it was before version 4", "from 0 to 5"],
        lambda: decide.to_undone(
            (Step("one.rows", Line(9, Span(0, 10)), Line(3, Span(0, 5))),), 4, NARROWER
        ),
    ),
}

NARROWER: Catalogue = {
    "one.rows": Knob("rows", Range(0, 5), 2, "rows", "How many."),
    "one.share": Knob("share", Range(-1.0, 1.0), 0.5, "", "How much."),
    "one.mode": Knob("mode", Choice(("slow", "steady")), "steady", "", "In which way."),
    "one.size": CATALOGUE["one.size"],
    "one.new": Knob("new", Boolean(), False, "", "Whether it is new."),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_refusal_says_what_is_wrong_where_and_what_to_do_when(what: str) -> None:
    kind, says, steps = REFUSALS[what]
    with pytest.raises(kind) as caught:
        steps()
    assert type(caught.value) is kind
    for part in says:
        assert part in str(caught.value)


def test_a_pin_may_lie_outside_the_envelope_and_covers_it() -> None:
    steps = decide.to_pin(NARROW, CATALOGUE, "one.rows", "9", {})
    line = after(NARROW, steps, "one.rows")
    assert line == Line(5, Span(4, 6), pin=9)
    assert line.start == 9
    free = decide.to_unpin(changed(NARROW, steps, 2), CATALOGUE, "one.rows", {})
    assert changed(changed(NARROW, steps, 2), free, 3).lines == NARROW.lines


def test_a_plan_has_so_many_knobs_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "KNOBS", len(CATALOGUE))
    assert decide.to_catalogue(defaults(), CATALOGUE) == ()
    with pytest.raises(LimitReached, match="more knobs than a Plan may have"):
        decide.to_catalogue(defaults(), catalogue("one", "two", "three"))
    long = {"w" * KNOB_ADDRESS_CHARS + ".rows": CATALOGUE["one.rows"]}
    with pytest.raises(LimitReached, match="the name of a workload is too long"):
        decide.to_catalogue(defaults(), long)


def fits(plan: Plan, knobs: Catalogue) -> bool:
    """Whether all that a line says is something its knob can be."""
    for address, line in plan.lines.items():
        knob = knobs[address]
        for value in (line.value, line.pin, line.file_pin):
            if value is not None and msgspec.json.encode(knob.check(value)) != msgspec.json.encode(
                value
            ):
                return False
        if knob.check_envelope(line.envelope) != line.envelope:
            return False
    return True


@FEW
@given(plans(), plans(), st.data())
def test_whatever_is_decided_every_value_is_one_of_its_knob(
    plan: Plan, then: Plan, data: st.DataObject
) -> None:
    knobs = data.draw(st.sampled_from([CATALOGUE, NARROWER, catalogue("two", "three")]))
    plan = changed(plan, decide.to_catalogue(plan, knobs), 2)
    assert plan.lines.keys() == knobs.keys()
    assert fits(plan, knobs)
    address = data.draw(st.sampled_from(sorted(knobs)))
    value = data.draw(values(CATALOGUE.get(address, knobs[address])) | st.integers() | st.text())
    pins = {address: FilePin(value, PLACE)} if data.draw(st.booleans()) else {}
    envelope = data.draw(st.none() | st.sampled_from(["0..3", "1..20", "slow|steady", "true", ""]))
    old = Line(knobs[address].default, knobs[address].whole)
    undone = (Step(address, then.lines.get(address), plan.lines[address]),)
    ways: tuple[Callable[[], Diff], ...] = (
        lambda: decide.to_value(plan, knobs, address, value, envelope, {}),
        lambda: decide.to_pin(plan, knobs, address, value, {}),
        lambda: decide.to_unpin(plan, knobs, address, {}),
        lambda: decide.to_file_pins(plan, knobs, pins),
        lambda: decide.to_earlier(plan, then, knobs),
        lambda: decide.to_earlier(plan, Plan(1, {address: old}), knobs),
        lambda: decide.to_undone(undone, 2, knobs),
    )
    for decided in ways:
        try:
            steps = decided()
        except PacelineError:
            continue
        new = changed(plan, steps, 3)
        assert fits(new, knobs)
        assert new.lines.keys() == knobs.keys()


@pytest.mark.parametrize(
    ("line", "left"),
    [
        (Line(9, Span(0, 5)), Line(2, Span(0, 5))),
        (Line(9, Span(3, 5)), Line(2, Span(0, 5))),
        (Line(3, Span(0, 10)), Line(3, Span(0, 5))),
        (Line(3, Span(0, 4), pin=9), Line(3, Span(0, 4))),
        (Line(3, Span(0, 5), file_pin=9), Line(3, Span(0, 5))),
        (Line(9, Span(0, 5), pin=4), Line(2, Span(0, 5), pin=4)),
        (Line("fast", Among(("fast",))), Line(2, Span(0, 5))),
    ],
)
def test_what_a_knob_can_no_longer_have_of_a_line_gives_way_to_the_default(
    line: Line, left: Line
) -> None:
    knobs = {"one.rows": NARROWER["one.rows"]}
    plan = changed(EMPTY, (Step("one.rows", None, line),), 1)
    fitting = changed(plan, decide.to_catalogue(plan, knobs), 2).lines["one.rows"]
    assert fitting == left


@FEW
@given(plans(whole=True), plans(whole=True))
def test_an_earlier_plan_comes_back_but_for_what_the_file_pins(plan: Plan, then: Plan) -> None:
    back = changed(plan, decide.to_earlier(plan, then, CATALOGUE), 9)
    for address, line in back.lines.items():
        assert line == replaced(then.lines[address], file_pin=plan.lines[address].file_pin)


def test_an_earlier_line_that_no_longer_fits_gives_way_to_the_default_and_the_file_still_pins() -> (
    None
):
    then = Plan(1, {"one.rows": Line(9, Span(0, 10), pin=8)})
    plan = Plan(2, {"one.rows": Line(3, Span(0, 5), file_pin=4)})
    back = changed(plan, decide.to_earlier(plan, then, NARROWER), 3)
    assert back.lines == {"one.rows": Line(2, Span(0, 5), file_pin=4)}


# --- The desk -------------------------------------------------------------------------------------


class NotedStore(WatchedStore):
    """Tells in `events` when something is written."""

    def __init__(self, events: list[str], kept: Kept | None = None) -> None:
        super().__init__(kept)
        self._events = events

    def append(
        self,
        records: Sequence[Record],
        snapshot: Snapshot | None = None,
        compaction: Compaction | None = None,
    ) -> None:
        self._events.append("append")
        super().append(records, snapshot, compaction)


class Fronts:
    """Whoever serves: tells what it is asked, refuses, and can be made to take its time."""

    def __init__(self, events: list[str]) -> None:
        self._events = events
        self.refusal: PlanRefused | None = None
        self.prepared: InForce | None = None
        self.served: InForce | None = None
        self.let_prepare = asyncio.Event()
        self.let_apply = asyncio.Event()
        self.let_prepare.set()
        self.let_apply.set()

    async def prepare(self, plan: InForce) -> None:
        self._events.append(f"prepare {plan.version}")
        await self.let_prepare.wait()
        if self.refusal is not None:
            raise self.refusal
        self.prepared = plan

    async def apply(self, plan: InForce) -> None:
        self._events.append(f"apply {plan.version}")
        await self.let_apply.wait()
        self.served = plan


class Stage:
    """A desk with all that it needs, in simulated time."""

    def __init__(self, clock: SimulatedClock, kept: Kept, knobs: Catalogue) -> None:
        self.clock = clock
        self.events: list[str] = []
        self.heard: list[Entry] = []
        self.store = NotedStore(self.events, kept)
        self.fronts = Fronts(self.events)
        self.journal = Journal(self.store, clock, at_once=True)
        self.desk = Desk(self.journal, knobs, self.fronts, clock, self.heard.append)

    @property
    def state(self) -> State:
        return self.desk.state

    @property
    def bodies(self) -> list[object]:
        return [entry.body for entry in self.journal.read()]

    def setting(self, knob: str) -> Value:
        return self.state.in_force.settings[knob]

    def forget(self) -> None:
        """What has happened so far."""
        self.events.clear()
        self.heard.clear()

    async def later(self, seconds: float = ADJUST_EVERY_S) -> None:
        await self.clock.until(self.clock.now() + seconds)


Acts = Callable[[Stage], Coroutine[Any, Any, None]]


def act(
    main: Acts,
    *,
    kept: Kept | None = None,
    knobs: Catalogue = CATALOGUE,
    wanted: Wanted | None = None,
) -> Kept:
    """Runs it with a desk that has begun; returns what is kept."""
    kept = Kept() if kept is None else kept

    async def simulated(clock: SimulatedClock, _: Chance) -> None:
        stage = Stage(clock, kept, knobs)
        await stage.desk.begin(wanted or Wanted(), "1.0")
        await main(stage)
        assert stage.fronts.served in (None, stage.state.in_force)
        assert fold_all(stage.journal.read()) == stage.state
        await stage.journal.close()

    run_simulated(simulated)
    return kept


def test_a_change_is_asked_for_then_durable_then_served() -> None:
    async def main(stage: Stage) -> None:
        stage.forget()
        wish = Wish("ann", "Larger.", (Prediction("p95_ms", high=30.0),))
        done = await stage.desk.set("one.rows", 7, "5..9", wish)
        assert stage.events == ["prepare 2", "append", "apply 2"]
        assert (done.version, done.hash) == (2, stage.state.hash)
        assert done.entry is not None
        assert done.entry.who == "ann"
        body = done.entry.body
        assert isinstance(body, PlanChanged)
        assert (body.change.reason, body.change.predictions) == ("Larger.", wish.expects)
        assert body.change.verdict.answer == "untested"
        assert done.steps == body.change.diff
        assert stage.heard == [done.entry]
        assert stage.fronts.served == stage.state.in_force
        assert stage.setting("one.rows") == 7
        assert (stage.state.by, stage.state.plan.version) == ("ann", 2)

    act(main)


def test_what_is_so_already_is_neither_asked_nor_written() -> None:
    async def main(stage: Stage) -> None:
        await stage.desk.set("one.rows", 7, None, ANN)
        stage.forget()
        done = await stage.desk.set("one.rows", "7", None, ANN)
        assert done == Done(2, stage.state.hash, None)
        assert done.steps == ()
        assert stage.events == []
        assert stage.heard == []

    act(main)


def test_a_front_that_refuses_leaves_all_as_it_was() -> None:
    async def main(stage: Stage) -> None:
        stage.forget()
        before = stage.state
        stage.fronts.refusal = PlanRefused("it cannot", remedy="Give it more memory.")
        for wish in (
            stage.desk.set("one.rows", 7, None, ANN),
            stage.desk.pin("one.rows", 7, ANN),
            stage.desk.configure(Wanted(FILE_PINS), "reload"),
        ):
            with pytest.raises(PlanRefused, match="more memory"):
                await wish
        assert stage.events == ["prepare 2"] * 3
        assert stage.state == before
        assert stage.desk.pins == {}
        stage.fronts.refusal = None
        assert (await stage.desk.set("one.rows", 7, None, ANN)).version == 2

    act(main)


def test_a_disk_that_refuses_leaves_all_as_it_was() -> None:
    async def main(stage: Stage) -> None:
        stage.forget()
        before = stage.state
        stage.store.refusal = disk_full()
        with pytest.raises(DiskFull):
            await stage.desk.set("one.rows", 7, None, ANN)
        assert stage.events == ["prepare 2", "append"], "it was served although it is not durable"
        assert (stage.state, stage.heard) == (before, [])
        stage.store.refusal = None
        assert (await stage.desk.set("one.rows", 7, None, ANN)).version == 2

    act(main)


@pytest.mark.parametrize("where", ["prepare", "apply"])
def test_a_caller_who_leaves_in_the_middle_does_not_stop_it(where: str) -> None:
    async def main(stage: Stage) -> None:
        let = {"prepare": stage.fronts.let_prepare, "apply": stage.fronts.let_apply}[where]
        let.clear()
        stage.forget()
        caller = asyncio.ensure_future(stage.desk.set("one.rows", 7, None, ANN))
        await stage.later(1)
        caller.cancel()
        await stage.later(1)
        assert caller.cancelled()
        assert stage.events[-1] == f"{where} 2"
        let.set()
        await stage.later(1)
        assert stage.events == ["prepare 2", "append", "apply 2"]
        assert stage.setting("one.rows") == 7
        assert stage.fronts.served == stage.state.in_force

    act(main)


def test_a_caller_who_leaves_while_the_disk_works_does_not_stop_it() -> None:
    async def main() -> None:
        async with asyncio.timeout(WAIT_S):
            store = HeldStore()
            clock = SimulatedClock()
            fronts = Fronts([])
            desk = Desk(Journal(store, clock), CATALOGUE, fronts, clock)
            store.go()
            await desk.begin(Wanted(), "1.0")
            await store.begun()
            caller = asyncio.ensure_future(desk.set("one.rows", 7, None, ANN))
            await store.begun()
            caller.cancel()
            store.go()
            store.go()
            await desk.set("one.size", 8, None, ANN)
            assert caller.cancelled()
            assert desk.state.in_force.settings["one.rows"] == 7
            assert fronts.served == desk.state.in_force
            await desk.journal.close()

    asyncio.run(main())


def test_two_changes_at_once_are_made_one_after_the_other() -> None:
    async def main(stage: Stage) -> None:
        stage.forget()
        stage.fronts.let_apply.clear()
        both = [
            asyncio.ensure_future(stage.desk.set("one.rows", rows, None, ANN)) for rows in (7, 8)
        ]
        await stage.later(1)
        assert stage.events == ["prepare 2", "append", "apply 2"]
        stage.fronts.let_apply.set()
        dones = await asyncio.gather(*both)
        assert stage.events[3:] == ["prepare 3", "append", "apply 3"]
        assert sorted(done.version for done in dones) == [2, 3]
        last = max(dones, key=lambda done: done.version)
        assert stage.setting("one.rows") == (7, 8)[dones.index(last)]

    act(main)


def test_who_would_wait_too_long_for_a_turn_is_told_so_and_nothing_is_made_of_it() -> None:
    async def main(stage: Stage) -> None:
        stage.fronts.let_apply.clear()
        first = asyncio.ensure_future(stage.desk.set("one.rows", 7, None, ANN))
        await stage.later(1)
        with pytest.raises(LimitReached, match="waiting for their turn; this one was not made"):
            await stage.desk.set("one.rows", 8, None, ANN)
        stage.fronts.let_apply.set()
        await first
        await stage.later(100)
        assert stage.setting("one.rows") == 7
        assert (await stage.desk.set("one.rows", 9, None, ANN)).version == 3

    act(main)


# --- Pins -----------------------------------------------------------------------------------------


def test_the_pin_of_the_file_covers_that_of_a_person_and_each_comes_back() -> None:
    async def change(stage: Stage) -> None:
        await stage.desk.set("one.size", 100, "50..200", ANN)
        await stage.desk.pin("one.size", 300, ANN)
        assert stage.setting("one.size") == 300
        await stage.desk.configure(Wanted(FILE_PINS), "reload")
        assert stage.setting("one.size") == 256

    async def look(stage: Stage) -> None:
        assert stage.setting("one.size") == 256
        with pytest.raises(Pinned, match=PLACE):
            await stage.desk.unpin("one.size", ANN)
        await stage.desk.configure(Wanted(), "reload")
        assert stage.setting("one.size") == 300
        with pytest.raises(Pinned, match="plan unpin"):
            await stage.desk.set("one.size", 8, None, ANN)
        await stage.desk.unpin("one.size", ANN)
        assert stage.state.plan.lines["one.size"] == Line(100, Span(50, 200))
        assert stage.setting("one.size") == 100

    act(look, kept=act(change), wanted=Wanted(FILE_PINS))


def test_a_pin_without_a_value_is_at_what_is_in_force() -> None:
    async def main(stage: Stage) -> None:
        await stage.desk.adjust("one.rows", 9, ANN)
        await stage.desk.pin("one.rows", None, ANN)
        assert stage.state.plan.lines["one.rows"].pin == 9
        with pytest.raises(UnknownKnob):
            await stage.desk.pin("one.rowz", None, ANN)

    act(main)


def test_who_waits_for_a_turn_behind_new_settings_is_told_by_those() -> None:
    async def main(stage: Stage) -> None:
        stage.fronts.let_apply.clear()
        reading = asyncio.ensure_future(stage.desk.configure(Wanted(FILE_PINS), "reload"))
        await stage.later(1)
        waiting = asyncio.ensure_future(stage.desk.set("one.size", 8, None, ANN))
        await stage.later(1)
        stage.fronts.let_apply.set()
        await reading
        with pytest.raises(Pinned, match=f"at 256 by {PLACE}"):
            await waiting

    act(main)


def test_settings_whose_reader_left_are_known_all_the_same() -> None:
    async def main(stage: Stage) -> None:
        stage.fronts.let_apply.clear()
        reading = asyncio.ensure_future(stage.desk.configure(Wanted(FILE_PINS), "reload"))
        await stage.later(1)
        reading.cancel()
        stage.fronts.let_apply.set()
        await stage.later(1)
        with pytest.raises(Pinned, match=f"at 256 by {PLACE}"):
            await stage.desk.set("one.size", 8, None, ANN)

    act(main)


def test_a_pin_that_moved_to_another_line_is_no_change_but_is_told_by_that_line() -> None:
    async def main(stage: Stage) -> None:
        stage.forget()
        moved = Wanted({"one.size": FilePin(256, "paceline.toml:9")})
        assert (await stage.desk.configure(moved, "reload")).entry is None
        assert stage.events == []
        with pytest.raises(Pinned, match=r"paceline\.toml:9"):
            await stage.desk.set("one.size", 8, None, ANN)

    act(main, wanted=Wanted(FILE_PINS))


def test_settings_are_one_change_with_goals_and_words_beside_it() -> None:
    async def main(stage: Stage) -> None:
        stage.forget()
        wanted = Wanted(FILE_PINS, {"one": ("p95_ms <= 30",)})
        done = await stage.desk.configure(wanted, "reload", ("the log is more detailed",))
        assert stage.events == ["prepare 2", "append", "apply 2"]
        pinned, goals, words = stage.bodies[-3:]
        assert isinstance(pinned, PlanChanged)
        assert pinned.change.reason == f"Pinned by {PLACE}."
        assert goals == GoalsChanged({"one": ("p95_ms <= 30",)})
        assert words == SettingsChanged(("the log is more detailed",))
        assert done.entry is not None
        assert done.entry.body == pinned
        await stage.desk.configure(msgspec.structs.replace(wanted, pins={}), "reload")
        (unpinned,) = stage.bodies[-1:]
        assert isinstance(unpinned, PlanChanged)
        assert unpinned.change.reason == "No longer pinned by the settings."
        await stage.desk.configure(Wanted(), "reload")
        assert stage.bodies[-1] == GoalsChanged({})
        count = len(stage.bodies)
        await stage.desk.configure(Wanted(), "reload")
        assert len(stage.bodies) == count

    act(main)


def test_a_goal_that_makes_deadlines_is_served_by_at_once_although_the_plan_stays() -> None:
    async def main(stage: Stage) -> None:
        stage.forget()
        await stage.desk.configure(Wanted(goals={"one": ("p95_ms <= 30",)}), "reload")
        assert stage.events == ["append"], "whoever serves does not ask for this one"
        stage.forget()
        await stage.desk.configure(
            Wanted(goals={"one": ("p99_ms <= 30", "quality >= 1")}), "reload"
        )
        assert stage.events == ["append", "apply 1"]
        assert stage.fronts.served is not None
        assert stage.fronts.served.slo_ms == {"one": 30.0}
        stage.forget()
        await stage.desk.configure(Wanted(FILE_PINS, {"one": ("p99_ms <= 20",)}), "reload")
        assert stage.events == ["prepare 2", "append", "apply 2"]
        assert stage.fronts.prepared == stage.fronts.served
        assert stage.fronts.served.slo_ms == {"one": 20.0}
        await stage.desk.configure(Wanted(FILE_PINS), "reload")
        assert stage.fronts.served.slo_ms == {}

    act(main)


# --- Adjustments ----------------------------------------------------------------------------------


def test_an_adjustment_moves_the_setting_and_leaves_the_plan() -> None:
    async def main(stage: Stage) -> None:
        stage.forget()
        before = stage.state
        wish = Wish("a rule", "Fuller batches.", (Prediction("p95_ms", high=30.0),))
        done = await stage.desk.adjust("one.rows", "9", wish)
        assert stage.events == ["append", "apply 1"]
        assert (stage.state.plan, stage.state.hash) == (before.plan, before.hash)
        assert (done.version, done.hash) == (1, before.hash)
        assert stage.setting("one.rows") == 9
        assert done.entry is not None
        assert isinstance(done.entry.body, Adjusted)
        adjustment = done.entry.body.adjustment
        assert (adjustment.knob, adjustment.before, adjustment.after) == ("one.rows", 5, 9)
        assert (adjustment.reason, adjustment.predictions) == (wish.reason, wish.expects)
        assert done.steps == ()
        assert stage.heard == [done.entry]

    kept = act(main)

    async def again(stage: Stage) -> None:
        assert stage.setting("one.rows") == 9

    act(again, kept=kept)


def test_a_knob_is_adjusted_every_ten_seconds_at_most() -> None:
    async def main(stage: Stage) -> None:
        await stage.desk.adjust("one.rows", 6, ANN)
        await stage.desk.adjust("two.rows", 6, ANN)
        with pytest.raises(LimitReached, match=r"one\.rows was adjusted less than 10 s ago"):
            await stage.desk.adjust("one.rows", 7, ANN)
        assert (await stage.desk.adjust("one.rows", 6, ANN)).entry is None
        await stage.later(ADJUST_EVERY_S - 0.1)
        with pytest.raises(LimitReached):
            await stage.desk.adjust("one.rows", 7, ANN)
        await stage.later(0.1)
        assert (await stage.desk.adjust("one.rows", 7, ANN)).entry is not None
        assert stage.setting("one.rows") == 7

    act(main)


def test_setting_a_knob_to_where_it_starts_ends_an_adjustment() -> None:
    async def main(stage: Stage) -> None:
        start = stage.state.plan.lines["one.rows"].value
        await stage.desk.adjust("one.rows", 7, ANN)
        assert stage.state.in_force.settings["one.rows"] == 7
        done = await stage.desk.set("one.rows", start, None, ANN)
        assert stage.state.in_force.settings["one.rows"] == start
        assert done.entry is not None
        assert done.version == 1
        assert (await stage.desk.set("one.rows", start, None, ANN)).entry is None

    act(main)


def test_two_compactions_at_once_are_one() -> None:
    async def main(stage: Stage) -> None:
        for value in (6, 7, 8, 9):
            await stage.clock.until(stage.clock.now() + ADJUST_EVERY_S)
            await stage.desk.adjust("one.rows", value, ANN)
        await stage.clock.until(stage.clock.now() + ADJUSTMENTS_KEPT_S + 86400)
        removed = await asyncio.gather(stage.desk.compact("ann"), stage.desk.compact("bob"))
        assert list(removed) == [3, 3]
        told = [each.body for each in stage.journal.read() if isinstance(each.body, Compacted)]
        assert [each.removed for each in told] == [3]
        assert await stage.desk.compact("ann") == 0

    act(main)


def test_a_refused_adjustment_is_none_that_one_must_wait_for() -> None:
    async def main(stage: Stage) -> None:
        stage.store.refusal = disk_full()
        with pytest.raises(DiskFull):
            await stage.desk.adjust("one.rows", 6, ANN)
        assert stage.setting("one.rows") == 5
        stage.store.refusal = None
        await stage.desk.adjust("one.rows", 6, ANN)
        for _ in range(2):
            with pytest.raises(LimitReached):
                await stage.desk.adjust("one.rows", 7, ANN)

    act(main)


def test_a_change_of_a_knob_ends_its_adjustment() -> None:
    async def main(stage: Stage) -> None:
        for knob in ("one.rows", "two.rows"):
            await stage.desk.adjust(knob, 9, ANN)
        await stage.desk.set("one.size", 8, None, ANN)
        assert stage.setting("one.rows") == stage.setting("two.rows") == 9
        await stage.desk.set("one.rows", None, "0..6", ANN)
        assert (stage.setting("one.rows"), stage.setting("two.rows")) == (5, 9)
        assert stage.fronts.served == stage.state.in_force

    act(main)


def test_what_fronts_are_asked_about_is_what_they_are_then_given() -> None:
    async def main(stage: Stage) -> None:
        asked: list[InForce] = []
        prepare = stage.fronts.prepare

        async def noted(plan: InForce) -> None:
            asked.append(plan)
            await prepare(plan)

        stage.fronts.prepare = noted  # type: ignore[method-assign]
        await stage.desk.adjust("one.rows", 9, ANN)
        await stage.desk.adjust("two.rows", 9, ANN)
        await stage.desk.set("one.rows", 7, None, ANN)
        assert asked == [stage.fronts.served]

    act(main)


def test_old_adjustments_are_compacted_and_young_ones_stay() -> None:
    async def main(stage: Stage) -> None:
        for value in (6, 7, 8):
            await stage.desk.adjust("one.rows", value, ANN)
            await stage.later()
        await stage.later(ADJUSTMENTS_KEPT_S)
        await stage.desk.adjust("one.rows", 9, ANN)
        assert await stage.desk.compact("ann") == 2
        often, young, mark = stage.bodies[-3:]
        assert often == AdjustedOften("one.rows", 3, 5, 8)
        assert isinstance(young, Adjusted)
        assert isinstance(mark, Compacted)
        assert stage.setting("one.rows") == 9

    act(main)


# --- Versions -------------------------------------------------------------------------------------


def test_a_rollback_brings_a_version_back_as_a_new_one() -> None:
    async def main(stage: Stage) -> None:
        first = stage.state.hash
        await stage.desk.set("one.rows", 7, None, ANN)
        second = stage.state.hash
        await stage.desk.pin("one.mode", "fast", ANN)
        done = await stage.desk.rollback(None, ANN)
        assert (done.version, done.hash) == (4, second)
        assert isinstance(done.entry, Entry)
        assert isinstance(done.entry.body, PlanChanged)
        assert done.entry.body.change.restores == 2
        assert (await stage.desk.rollback(1, ANN)).hash == first
        assert (await stage.desk.rollback(1, ANN)).entry is None
        for version in (0, -1, 6, 10**9):
            with pytest.raises(UnknownVersion, match="at version 5"):
                await stage.desk.rollback(version, ANN)
        assert [content_hash(await stage.desk.plan_at(v)) for v in (1, 2, 4)] == [
            first,
            second,
            second,
        ]
        with pytest.raises(UnknownVersion):
            await stage.desk.plan_at(6)

    act(main)


def test_a_rollback_leaves_what_the_file_pins() -> None:
    async def main(stage: Stage) -> None:
        await stage.desk.set("one.size", 8, None, ANN)
        await stage.desk.configure(Wanted(FILE_PINS), "reload")
        await stage.desk.rollback(1, ANN)
        assert stage.state.plan.lines["one.size"] == Line(64, Span(1, 1024), file_pin=256)

    act(main)


def test_an_undo_takes_back_one_change_and_no_other() -> None:
    async def main(stage: Stage) -> None:
        await stage.desk.set("one.rows", 7, "6..8", ANN)
        await stage.desk.set("one.size", 8, None, ANN)
        done = await stage.desk.undo(2, ANN)
        assert isinstance(done.entry, Entry)
        assert isinstance(done.entry.body, PlanChanged)
        assert done.entry.body.change.undoes == 2
        assert stage.state.plan.lines["one.rows"] == Line(5, Span(0, 10))
        assert stage.setting("one.size") == 8
        assert (await stage.desk.undo(4, ANN)).version == 5
        assert stage.setting("one.rows") == 7

    act(main)


def test_an_undo_is_exact_or_refused() -> None:
    async def main(stage: Stage) -> None:
        await stage.desk.set("one.rows", 7, None, ANN)
        await stage.desk.set("one.rows", 8, None, ANN)
        await stage.desk.configure(Wanted(FILE_PINS), "reload")
        stage.forget()
        with pytest.raises(Conflict, match=r"one\.rows has been changed since"):
            await stage.desk.undo(2, ANN)
        with pytest.raises(Conflict, match="version 1 brought or took knobs"):
            await stage.desk.undo(1, ANN)
        with pytest.raises(Pinned, match="version 4 was made by the settings"):
            await stage.desk.undo(4, ANN)
        for version in (0, 5, -3):
            with pytest.raises(UnknownVersion):
                await stage.desk.undo(version, ANN)
        assert stage.events == []

    act(main)


def test_a_server_begins_with_the_knobs_there_are() -> None:
    async def change(stage: Stage) -> None:
        assert stage.bodies == [
            PlanChanged(1, content_hash(defaults()), first_change(defaults())),
        ]
        assert stage.state.by == "paceline 1.0"
        await stage.desk.set("one.rows", 4, "2..5", ANN)
        await stage.desk.set("one.share", 1.25, None, ANN)
        await stage.desk.pin("one.mode", "fast", ANN)
        await stage.desk.adjust("one.rows", 3, ANN)
        await stage.desk.adjust("two.rows", 3, ANN)

    def first_change(plan: Plan) -> Change:
        return Change(diff(EMPTY, plan), "The defaults.")

    kept = act(change)

    async def look(stage: Stage) -> None:
        assert stage.events == ["prepare 5", "append", "apply 5"]
        assert stage.state.plan.lines == {
            "one.rows": Line(4, Span(2, 5)),
            "one.size": Line(64, Span(1, 1024)),
            "one.share": Line(0.5, Span(-1.0, 1.0)),
            "one.mode": Line("steady", Among(("slow", "steady"))),
            "one.new": Line(False, Among((False, True))),
        }
        assert stage.state.adjusted == {"one.rows": 3}
        assert isinstance(stage.bodies[-1], PlanChanged)
        assert stage.bodies[-1].change.reason == "The knobs of Paceline 1.0."
        with pytest.raises(UnknownKnob):
            await stage.desk.set("two.rows", 3, None, ANN)
        with pytest.raises(Conflict, match=r"one\.share can no longer be as .* before version 5"):
            await stage.desk.undo(5, ANN)
        with pytest.raises(Conflict, match=r"one\.share can no longer be as .* before version 3"):
            await stage.desk.undo(3, ANN)
        with pytest.raises(Conflict, match="version 1 brought or took"):
            await stage.desk.undo(1, ANN)

    act(look, kept=kept, knobs=NARROWER)

    async def back(stage: Stage) -> None:
        assert stage.state.plan.lines["two.rows"] == Line(5, Span(0, 10))
        assert stage.setting("two.rows") == 5
        assert stage.setting("one.rows") == 3
        assert "one.new" not in stage.state.plan.lines

    act(back, kept=kept)


def test_a_server_that_begins_as_it_ended_writes_nothing() -> None:
    async def nothing(stage: Stage) -> None:
        pass

    wanted = Wanted(FILE_PINS, {"one": ("p95_ms <= 30",)})
    kept = act(nothing, wanted=wanted)
    before = kept.content

    async def look(stage: Stage) -> None:
        assert stage.events == []

    act(look, kept=kept, wanted=wanted)
    assert kept.content == before


def test_without_fronts_the_plan_is_changed_all_the_same() -> None:
    async def main() -> None:
        store = ListStore()
        clock = SimulatedClock()
        desk = Desk(Journal(store, clock), CATALOGUE, Nobody(), clock)
        await desk.begin(Wanted(), "1.0")
        await desk.set("one.rows", 7, None, ANN)
        await desk.adjust("two.rows", 7, ANN)
        await desk.journal.close()
        assert load(ListStore(store.kept))[0] == desk.state

    asyncio.run(main())


# --- Whatever is wished ---------------------------------------------------------------------------


class Wished(NamedTuple):
    what: str
    knob: str
    value: Value
    envelope: str | None
    version: int


@st.composite
def wishes(draw: st.DrawFn, *kinds: str) -> Wished:
    knob = draw(st.sampled_from(sorted(CATALOGUE)))
    envelope = draw(st.none() | envelopes(CATALOGUE[knob]).map(str))
    return Wished(
        draw(st.sampled_from(kinds)),
        knob,
        draw(values(CATALOGUE[knob])),
        envelope,
        draw(st.integers(1, 8)),
    )


async def carry_out(stage: Stage, wished: Wished) -> None:
    """Or be refused."""
    desk = stage.desk
    made: Awaitable[object]
    match wished.what:
        case "set":
            made = desk.set(wished.knob, wished.value, wished.envelope, ANN)
        case "pin":
            made = desk.pin(wished.knob, wished.value, ANN)
        case "unpin":
            made = desk.unpin(wished.knob, ANN)
        case "adjust":
            made = desk.adjust(wished.knob, wished.value, ANN)
        case "rollback":
            made = desk.rollback(wished.version, ANN)
        case "undo":
            made = desk.undo(wished.version, ANN)
        case "configure":
            made = desk.configure(Wanted({wished.knob: FilePin(wished.value, PLACE)}), "reload")
        case _:
            made = desk.compact("ann")
    with suppress(PacelineError):
        await made
    await stage.later()


CHANGES = ("set", "set", "set", "pin", "unpin")
ALL = (*CHANGES, "adjust", "adjust", "rollback", "undo", "configure", "compact")


def hashes(entries: Iterable[Entry]) -> dict[int, str]:
    bodies = [entry.body for entry in entries]
    return {body.version: body.hash for body in bodies if isinstance(body, PlanChanged)}


def check_invariants(stage: Stage) -> None:
    state, knobs = stage.state, stage.desk.catalogue
    assert fits(state.plan, knobs)
    assert state.hash == content_hash(state.plan)
    for address, value in state.in_force.settings.items():
        assert knobs[address].check(value) == value
        line = state.plan.lines[address]
        assert value == line.start or line.allows(value)
    assert all(not state.plan.lines[knob].pinned for knob in state.adjusted)


@FEW
@given(
    st.lists(wishes(*ALL), max_size=8),
    st.lists(wishes(*ALL), max_size=8),
    st.sampled_from([CATALOGUE, NARROWER, catalogue("two", "three")]),
)
def test_whatever_is_wished_the_plan_can_be_served_and_every_version_be_found(
    first: list[Wished], then: list[Wished], knobs: Catalogue
) -> None:
    async def main(stage: Stage) -> None:
        for wished in first if stage.state.plan.version == 1 else then:
            await carry_out(stage, wished)
            check_invariants(stage)
        for version, hashed in hashes(stage.journal.read()).items():
            assert content_hash(await stage.desk.plan_at(version)) == hashed
            assert (await stage.desk.change_of(version)).hash == hashed

    act(main, kept=act(main), knobs=knobs)


@FEW
@given(st.lists(wishes(*CHANGES, "adjust", "rollback", "undo", "compact"), max_size=10), st.data())
def test_a_rollback_to_any_version_restores_its_hash(
    wished: list[Wished], data: st.DataObject
) -> None:
    async def main(stage: Stage) -> None:
        for each in wished:
            await carry_out(stage, each)
        known = hashes(stage.journal.read())
        version = data.draw(st.sampled_from(sorted(known)))
        assert (await stage.desk.rollback(version, ANN)).hash == known[version]

    act(main)


@FEW
@given(st.lists(wishes(*CHANGES), max_size=10))
def test_undoing_all_changes_one_by_one_leads_back_through_every_hash(
    wished: list[Wished],
) -> None:
    async def main(stage: Stage) -> None:
        for each in wished:
            await carry_out(stage, each)
        known = hashes(stage.journal.read())
        for version in sorted(known, reverse=True)[:-1]:
            assert (await stage.desk.undo(version, ANN)).hash == known[version - 1]
        assert stage.state.plan.lines == defaults().lines

    act(main)
