"""Which fronts count as ready, and which are killed: by pings without an answer, not by time."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from paceline.clock import SimulatedClock
from paceline.config import Server
from paceline.terms.limits import MISSED_PINGS_HUNG, MISSED_PINGS_NOT_READY, START_S
from paceline.terms.plan import InForce
from paceline.web import traces_api
from paceline.web.calls_api import CallView, chosen
from paceline.web.fronts import Fronts, Slot
from paceline.web.messages import (
    Calls,
    Pong,
    Ready,
    Start,
    TargetNews,
    TellCalls,
    TellTraces,
    Traces,
)
from paceline.web.traces_api import TracesQuery, TraceView

PLAN = InForce(1, "", {})


class FakeChild:
    pid = 0
    alive = True
    killed = False

    def kill(self) -> None:
        self.killed = True


class FakeLink:
    closed = False

    def __init__(self) -> None:
        self.sent: list[object] = []

    def send(self, message: object, fds: object = ()) -> None:
        self.sent.append(message)


class Watched:
    """One front of which everything but the watching is fake."""

    def __init__(self, fronts: int = 1) -> None:
        self.clock = SimulatedClock()
        self.changes = 0
        self.fronts = Fronts(
            fronts,
            self._orders,
            (0, 0),
            PLAN,
            self._on_change,
            lambda connections: None,
            lambda wish, front: None,
            self.clock,
        )
        self.slot: Slot = self.fronts.slots[0]
        self.child = FakeChild()
        self.slot.child = cast(Any, self.child)
        self.slot.link = cast(Any, FakeLink())

    def hear(self, message: Ready | Pong) -> None:
        self.fronts._on_message(self.slot, message)

    def tick(self) -> None:
        self.fronts._look_after()
        assert self.fronts._timer is not None
        self.fronts._timer.cancel()

    def _on_change(self) -> None:
        self.changes += 1

    def _orders(self, index: int) -> Start:
        return Start(index=index, settings=Server(), port=1, keys=(), session_secret=b"")


def watched(scenario: Callable[[Watched], None]) -> None:
    async def main() -> None:
        scenario(Watched())

    asyncio.run(main())


def test_a_front_that_answers_stays_ready() -> None:
    def scenario(it: Watched) -> None:
        it.hear(Ready())
        for _ in range(10 * MISSED_PINGS_HUNG):
            it.tick()
            it.hear(Pong())
        assert (it.fronts.ready, it.child.killed, it.changes) == (1, False, 1)

    watched(scenario)


def test_a_silent_front_is_not_ready_then_killed() -> None:
    def scenario(it: Watched) -> None:
        it.hear(Ready())
        for missed in range(1, MISSED_PINGS_HUNG + 1):
            it.tick()
            assert it.fronts.ready == int(missed < MISSED_PINGS_NOT_READY)
            assert not it.child.killed
        it.tick()
        assert it.child.killed

    watched(scenario)


def test_a_front_that_answers_late_is_ready_again() -> None:
    def scenario(it: Watched) -> None:
        it.hear(Ready())
        for _ in range(MISSED_PINGS_NOT_READY):
            it.tick()
        it.hear(Pong())
        assert (it.fronts.ready, it.changes) == (1, 3)

    watched(scenario)


def test_an_owner_that_stood_still_blames_no_front() -> None:
    def scenario(it: Watched) -> None:
        it.hear(Ready())
        it.tick()
        it.clock.advance(3600)
        it.tick()
        it.hear(Pong())
        assert (it.fronts.ready, it.child.killed) == (1, False)

    watched(scenario)


def test_a_front_that_never_becomes_ready_is_killed() -> None:
    def scenario(it: Watched) -> None:
        it.clock.advance(START_S - 1)
        it.tick()
        assert not it.child.killed
        it.clock.advance(2)
        it.tick()
        assert it.child.killed

    watched(scenario)


def call(name: str, received: float, took_ms: float) -> CallView:
    return CallView(
        name, received, "chat", "m", "m", None, 200, "done", took_ms, 1.0, 1, 1, None, ()
    )


def test_the_last_calls_of_all_fronts_are_told_together_and_a_dead_one_is_not_waited_for() -> None:
    async def main() -> None:
        it = Watched(3)
        slots = it.fronts.slots
        for slot in slots:
            slot.child, slot.link = cast(Any, FakeChild()), cast(Any, FakeLink())
            it.fronts._on_message(slot, Ready())
        asked = asyncio.ensure_future(it.fronts.calls("newest", 2))
        await asyncio.sleep(0)
        for slot in slots:
            assert cast(Any, slot.link).sent[-1] == TellCalls("newest", 2)
        it.fronts._on_message(slots[0], Calls((call("a", 1.0, 9.0), call("b", 3.0, 1.0))))
        it.fronts._on_message(slots[1], Calls((call("c", 2.0, 5.0),)))
        it.fronts._on_link_end(slots[2], cast(Any, slots[2].child))
        told = await asked
        assert [each.id for each in chosen(told, "newest", 2)] == ["b", "c"]
        assert [each.id for each in chosen(told, "slowest", 2)] == ["a", "c"]

    asyncio.run(main())


def trace(name: str, took_ms: float) -> TraceView:
    return TraceView(
        name, "", "m", "v2", 1.0, took_ms, 200, "", ("slow",), "normal", rows=1, parts=()
    )


def test_the_timelines_that_all_fronts_keep_are_told_together() -> None:
    async def main() -> None:
        it = Watched(3)
        slots = it.fronts.slots
        for slot in slots:
            slot.child, slot.link = cast(Any, FakeChild()), cast(Any, FakeLink())
            it.fronts._on_message(slot, Ready())
        query = TracesQuery(model="m", limit=2)
        asked = asyncio.ensure_future(it.fronts.traces(query))
        await asyncio.sleep(0)
        for slot in slots:
            assert cast(Any, slot.link).sent[-1] == TellTraces(query)
        it.fronts._on_message(slots[0], Traces((trace("a", 9.0), trace("b", 1.0))))
        it.fronts._on_message(slots[1], Traces((trace("c", 5.0),)))
        it.fronts._on_link_end(slots[2], cast(Any, slots[2].child))
        assert [each.id for each in traces_api.chosen(await asked, query)] == ["a", "c"]

    asyncio.run(main())


def test_what_one_front_tells_of_a_target_goes_to_all_others() -> None:
    async def main() -> None:
        it = Watched(3)
        slots = it.fronts.slots
        for slot in slots:
            slot.child, slot.link = cast(Any, FakeChild()), cast(Any, FakeLink())
        for slot in slots[:2]:
            it.fronts._on_message(slot, Ready())
        news = TargetNews("far", "m", 7.0, "")
        it.fronts._on_message(slots[0], news)
        assert [cast(Any, slot.link).sent for slot in slots] == [[], [news], []]

    asyncio.run(main())
