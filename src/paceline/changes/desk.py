"""The desk: every wish to change the Plan comes here, is decided, made durable and then served.

One change of the Plan at a time: the fronts are asked whether they could serve it, the journal
makes it durable, the fronts take it. Until the journal has it nothing has happened; from then on it
holds, whatever crashes. Adjustments move settings and need no asking.

Not the place for opinions: a controller, a tuner or a person has decided what to wish. Called by
the owner's control API, and by the command line while no owner runs.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import msgspec

from paceline.changes import decide
from paceline.changes.decide import FilePin, FilePins
from paceline.clock import Clock
from paceline.journal.entries import (
    PLAN,
    Adjusted,
    Body,
    Entry,
    GoalsChanged,
    PlanChanged,
    Scored,
    SettingsChanged,
)
from paceline.journal.fold import State
from paceline.journal.journal import Decide, Journal
from paceline.terms.errors import Conflict, LimitReached, UnknownVersion
from paceline.terms.limits import ADJUST_EVERY_S, ADJUSTMENTS_KEPT_S, TURN_S
from paceline.terms.plan import (
    Address,
    Adjustment,
    Catalogue,
    Change,
    Diff,
    InForce,
    Plan,
    Prediction,
    Value,
    changed,
    content_hash,
    inverse,
    shown,
)

T = TypeVar("T")


class Serving(Protocol):
    """Whoever serves by the Plan, all of them together."""

    async def prepare(self, plan: InForce) -> None:
        """Raises PlanRefused where one could not serve it; nothing changes yet."""
        ...

    async def apply(self, plan: InForce) -> None:
        """Returns when it is served by."""
        ...


class Nobody:
    """Serves nothing: for a journal that is changed while no owner runs."""

    async def prepare(self, plan: InForce) -> None:
        pass

    async def apply(self, plan: InForce) -> None:
        pass


class Wanted(msgspec.Struct, frozen=True):
    """What the settings say of the Plan: pins with where they stand, goals by workload."""

    pins: Mapping[Address, FilePin] = {}
    goals: Mapping[str, tuple[str, ...]] = {}


class Wish(msgspec.Struct, frozen=True):
    """Who wants something, why, and what they expect of it."""

    who: str
    reason: str = ""
    expects: tuple[Prediction, ...] = ()


class Done(msgspec.Struct, frozen=True):
    """The Plan afterwards; without an entry it was so already, and nothing was written."""

    version: int
    hash: str
    entry: Entry | None = None

    @property
    def steps(self) -> Diff:
        """What changed in the Plan."""
        if self.entry is None or not isinstance(self.entry.body, PlanChanged):
            return ()
        return self.entry.body.change.diff


def _nothing(state: State) -> Sequence[Body]:
    return ()


class Turns:
    """One after the other. Whoever would wait longer than a caller can is told so instead."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def mine(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(TURN_S):
                await self._lock.acquire()
        except TimeoutError:
            raise LimitReached(
                "too many changes are waiting for their turn; this one was not made",
                value=f"waited {TURN_S:g} s",
                remedy="Try again in a moment, with fewer at a time.",
            ) from None
        try:
            yield
        finally:
            self._lock.release()


class Desk:
    """`on_entry` hears of each change and adjustment that has become durable and is served by."""

    def __init__(
        self,
        journal: Journal,
        catalogue: Catalogue,
        serving: Serving,
        clock: Clock,
        on_entry: Callable[[Entry], None] = lambda entry: None,
    ) -> None:
        self.journal = journal
        self.catalogue = catalogue
        self.pins: FilePins = {}
        self._serving = serving
        self._clock = clock
        self._on_entry = on_entry
        self._turns = Turns()
        self._adjusted_s: dict[Address, float] = {}
        self._going_on: set[asyncio.Task[Any]] = set()
        self._compacting: asyncio.Task[int] | None = None

    @property
    def state(self) -> State:
        return self.journal.state

    async def begin(self, wanted: Wanted, version: str) -> None:
        """At the start of a server: the Plan for this version's knobs and these settings."""
        who = f"paceline {version}"
        await self._change(
            lambda state: _change(
                decide.to_catalogue(state.plan, self.catalogue),
                f"The knobs of Paceline {version}." if state.plan.version else "The defaults.",
            ),
            who,
        )
        await self.configure(wanted, who)

    async def configure(self, wanted: Wanted, who: str, others: tuple[str, ...] = ()) -> Done:
        """The settings were read: what they pin is pinned, and their goals hold. `others` are
        settings of other kinds that changed, in words."""

        goals = dict(wanted.goals)

        def pinned(state: State) -> Change | None:
            steps = decide.to_file_pins(state.plan, self.catalogue, wanted.pins)
            pins = [wanted.pins[step.knob] for step in steps if step.knob in wanted.pins]
            places = ", ".join(sorted({pin.where for pin in pins}))
            return _change(
                steps, f"Pinned by {places}." if places else "No longer pinned by the settings."
            )

        def stated(state: State) -> Sequence[Body]:
            return [
                *([] if state.goals == goals else [GoalsChanged(goals)]),
                *([SettingsChanged(others)] if others else []),
            ]

        async def configured() -> Done:
            done = await self._change_now(pinned, who, stated)
            self.pins = wanted.pins  # at once: whoever waits for a turn is told by these
            return done

        return await self._finish(configured())

    async def set(
        self, knob: Address, value: Value | None, envelope: str | None, wish: Wish
    ) -> Done:
        """A value alone also ends an adjustment away from it."""
        done = await self._wish(
            lambda state: decide.to_value(
                state.plan, self.catalogue, knob, value, envelope, self.pins
            ),
            wish,
        )
        if done.entry is None and value is not None:
            start = self.state.plan.lines[knob].start
            return await self._finish(self._adjust(knob, start, wish, every_s=0.0))
        return done

    async def pin(self, knob: Address, value: Value | None, wish: Wish) -> Done:
        """At the value, or at the one in force."""

        def steps(state: State) -> Diff:
            at = state.in_force.settings.get(knob, "") if value is None else value
            return decide.to_pin(state.plan, self.catalogue, knob, at, self.pins)

        return await self._wish(steps, wish)

    async def unpin(self, knob: Address, wish: Wish) -> Done:
        return await self._wish(
            lambda state: decide.to_unpin(state.plan, self.catalogue, knob, self.pins), wish
        )

    async def rollback(self, version: int | None, wish: Wish) -> Done:
        """The Plan of an earlier version again; without one, of the version before this."""
        newest = self.state.plan.version
        wanted = newest - 1 if version is None else version
        if not 1 <= wanted <= newest:
            raise _unknown_version(wanted, newest)
        then = await self.plan_at(wanted)

        def restored(state: State) -> Change | None:
            if version is None and state.plan.version != newest:
                raise Conflict(
                    "the Plan was changed meanwhile, so the version before is another one",
                    value=state.plan.version,
                    remedy="Look again, and name the version you want.",
                )
            steps = decide.to_earlier(state.plan, then, self.catalogue)
            return _change(steps, wish.reason, wish.expects, restores=wanted)

        return await self._change(restored, wish.who)

    async def undo(self, version: int, wish: Wish) -> Done:
        """Takes one change back, exactly, whatever came after it elsewhere."""
        entry = await self.change_of(version)
        steps = decide.to_undone(entry.change.diff, version, self.catalogue)
        return await self._change(
            lambda _: _change(steps, wish.reason, wish.expects, undoes=version), wish.who
        )

    async def adjust(self, knob: Address, value: Value, wish: Wish) -> Done:
        """Moves a setting within its envelope; the Plan and its version stay."""
        return await self._finish(self._adjust(knob, value, wish, ADJUST_EVERY_S))

    async def _adjust(self, knob: Address, value: Value, wish: Wish, every_s: float) -> Done:
        taken = False

        def decided(state: State) -> Sequence[Adjusted]:
            nonlocal taken
            wanted = decide.to_setting(state.plan, self.catalogue, knob, value, self.pins)
            before = state.in_force.settings[knob]
            if wanted == before:
                return []
            now = self._clock.now()
            if now - self._adjusted_s.get(knob, -every_s) < every_s:
                raise LimitReached(
                    f"{knob} was adjusted less than {every_s:g} s ago",
                    value=shown(wanted),
                    remedy="Wait until what the last one did can be seen.",
                )
            self._adjusted_s[knob] = now
            taken = True
            return [Adjusted(Adjustment(knob, before, wanted, wish.reason, wish.expects))]

        try:
            entries = await self.journal.write(decided, wish.who)
        except BaseException:
            if taken:  # nothing happened, so there is nothing to wait for
                self._adjusted_s.pop(knob, None)
            raise
        if entries:
            await self._serving.apply(self.state.in_force)
            self._on_entry(entries[0])
        return self._done(entries)

    async def score(self, scored: Sequence[Scored], who: str) -> None:
        """What came of predictions."""
        await self.journal.write(lambda _: scored, who)

    async def compact(self, who: str) -> int:
        """Old adjustments give way to summaries; returns how many entries are gone."""
        if self._compacting is None or self._compacting.done():
            before_s = self._clock.wall() - ADJUSTMENTS_KEPT_S
            self._compacting = asyncio.ensure_future(self.journal.compact(before_s, who))
        return await asyncio.shield(self._compacting)  # who asks meanwhile gets the same answer

    async def plan_at(self, version: int) -> Plan:
        """The Plan as it was in that version, by undoing what came after."""
        state = self.state
        if not 0 <= version <= state.plan.version:
            raise _unknown_version(version, state.plan.version)

        def walk_back() -> Plan:
            plan = state.plan
            for entry in self.journal.read(before=state.seq + 1, about=PLAN, newest=True):
                if plan.version == version:
                    break
                assert isinstance(entry.body, PlanChanged)
                plan = changed(plan, inverse(entry.body.change.diff), entry.body.version - 1)
            return plan

        return await self.journal.ask(walk_back)

    async def change_of(self, version: int) -> PlanChanged:
        """The change that made this version."""
        state = self.state

        def look() -> PlanChanged:
            for entry in self.journal.read(before=state.seq + 1, about=PLAN, newest=True):
                assert isinstance(entry.body, PlanChanged)
                if entry.body.version == version:
                    return entry.body
            raise _unknown_version(version, state.plan.version)

        return await self.journal.ask(look)

    async def _wish(self, steps: Callable[[State], Diff], wish: Wish) -> Done:
        return await self._change(
            lambda state: _change(steps(state), wish.reason, wish.expects), wish.who
        )

    async def _change(
        self, make: Callable[[State], Change | None], who: str, also: Decide = _nothing
    ) -> Done:
        return await self._finish(self._change_now(make, who, also))

    async def _change_now(
        self, make: Callable[[State], Change | None], who: str, also: Decide
    ) -> Done:
        async with self._turns.mine():
            state = self.state
            change = make(state)
            if change is None:
                await self.journal.write(also, who)
                if self.state.in_force.slo_ms != state.in_force.slo_ms:  # any can be served by
                    await self._serving.apply(self.state.in_force)
                return self._done(())
            plan = changed(state.plan, change.diff, state.plan.version + 1)
            body = PlanChanged(plan.version, content_hash(plan), change)
            goals = [each.goals for each in also(state) if isinstance(each, GoalsChanged)]
            after = State(
                plan=plan,
                hash=body.hash,
                adjusted=_untouched(state, change),
                goals=goals[-1] if goals else state.goals,
            )
            await self._serving.prepare(after.in_force)
            entries = await self.journal.write(lambda now: [body, *also(now)], who)
            await self._serving.apply(self.state.in_force)
            self._on_entry(entries[0])
            return self._done(entries)

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Goes on to its end although the caller leaves: what is durable is served by."""
        task = asyncio.ensure_future(work)
        self._going_on.add(task)
        task.add_done_callback(self._going_on.discard)
        return await asyncio.shield(task)

    def _done(self, entries: Sequence[Entry]) -> Done:
        state = self.state
        return Done(state.plan.version, state.hash, entries[0] if entries else None)


def _change(
    steps: Diff,
    reason: str,
    expects: tuple[Prediction, ...] = (),
    *,
    undoes: int | None = None,
    restores: int | None = None,
) -> Change | None:
    """None where there is nothing to do."""
    if not steps:
        return None
    return Change(steps, reason, predictions=expects, undoes=undoes, restores=restores)


def _untouched(state: State, change: Change) -> dict[Address, Value]:
    touched = {step.knob for step in change.diff}
    return {knob: value for knob, value in state.adjusted.items() if knob not in touched}


def _unknown_version(version: int, newest: int) -> UnknownVersion:
    return UnknownVersion(
        "the Plan never had this version",
        value=version,
        remedy=f"It is at version {newest}; `paceline plan history` lists them.",
    )
