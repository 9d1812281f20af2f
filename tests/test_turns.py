"""Requests that stand in line for a turn of the loop: who goes next, who is turned away, and that
overload leaves goodput. What it decides is asked of `Line`; that it is obeyed, of a whole front's
inference on connections without sockets, in virtual time.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.access.gate import Gate
from paceline.access.keys import KeyRing
from paceline.access.sessions import Sessions
from paceline.clock import Chance, SimulatedClock, run_simulated
from paceline.observe.board import Board, read
from paceline.serve.knobs import catalogue
from paceline.serve.model import ModelSpec, Tensors, TensorSpec
from paceline.serve.reading import Reader
from paceline.terms.limits import BEGUN, BEGUN_LONGEST, TRACES_TURNED_AWAY_PER_S, TURNED_AWAY
from paceline.terms.plan import InForce
from paceline.web.door import Door
from paceline.web.inference import Inference
from paceline.web.traces_api import parts
from paceline.web.turns import Line, Stands
from wired import Wire

NORMAL, CRITICAL = 1, 3


class One:
    def __init__(self, name: int, rank: int = NORMAL, allowed_s: float = 30.0) -> None:
        self.name = name
        self.rank = rank
        self.allowed_s = allowed_s
        self.came_s = self.due_s = 0.0

    def begin(self) -> None:
        raise AssertionError("whoever asks the line begins it")

    def turn_away(self, wait_s: float) -> None:
        raise AssertionError("whoever asks the line turns it away")


def joined(line: Line, count: int, rank: int = NORMAL, allowed_s: float = 30.0) -> list[One]:
    ones = [One(number, rank, allowed_s) for number in range(count)]
    for one in ones:
        line.join(one)
    return ones


def away(line: Line) -> list[Stands]:
    return [one for one, _ in line.turned_away()]


# --- Who goes next --------------------------------------------------------------------------------


def test_a_turn_begins_so_many_and_who_came_first_goes_first() -> None:
    line = Line()
    ones = joined(line, 2 * BEGUN + 1)
    turns = [line.turn(0.0, 1.0, 0.01), line.turn(1.0, 1.01, 0.01), line.turn(1.01, 1.02, 0.01)]
    assert [len(turn) for turn in turns] == [BEGUN, BEGUN, 1]
    assert [one for turn in turns for one in turn] == ones
    assert not line.turned_away()
    assert len(line) == 0


def test_higher_ranks_go_first_and_a_few_of_those_who_waited_longest_all_the_same() -> None:
    line = Line()
    low = joined(line, 2 * BEGUN, rank=0)
    high = joined(line, 2 * BEGUN, rank=CRITICAL)
    begun = line.turn(0.0, 1.0, 0.01)
    assert begun == [*high[: BEGUN - BEGUN_LONGEST], *low[:BEGUN_LONGEST]]


def test_no_rank_waits_for_ever() -> None:
    """Though those above it and below it alone are more than the turns can begin."""
    line = Line()
    now = 0.0
    begun: dict[int, int] = dict.fromkeys(range(4), 0)
    for _ in range(20):
        for rank in range(4):
            joined(line, BEGUN, rank)
        for one in line.turn(now, now + 0.01, 0.0):
            begun[one.rank] += 1
        now += 0.01
    assert begun[CRITICAL] >= 20 * (BEGUN - BEGUN_LONGEST)
    assert min(begun.values()) >= 20


def test_of_one_rank_who_is_due_first_goes_first() -> None:
    """One model's requests that may take their time do not make those late that may not."""
    line = Line()
    patient = joined(line, 5 * BEGUN, allowed_s=30.0)
    hasty = joined(line, BEGUN, allowed_s=0.025)
    assert line.turn(1.0, 1.0, 0.01) == hasty
    assert line.turn(1.0, 1.01, 0.01) == patient[:BEGUN]
    assert not away(line)


def test_they_are_taken_to_have_come_evenly_since_the_turn_before() -> None:
    line = Line()
    ones = joined(line, 4)
    line.turn(1.0, 1.2, 0.01)
    assert [one.came_s for one in ones] == pytest.approx([1.05, 1.1, 1.15, 1.2])


def test_who_came_too_long_ago_is_turned_away_and_who_can_still_be_in_time_begins() -> None:
    """After a turn that took longer than anybody may wait, those who came at its end."""
    line = Line()
    ones = joined(line, 10, allowed_s=0.05)
    assert line.turn(1.0, 1.1, 0.005) == ones[5:]
    assert away(line) == ones[:5]


def test_who_would_have_to_wait_too_long_is_told_so_at_once_and_how_long() -> None:
    line = Line()
    ones = joined(line, 6 * BEGUN, allowed_s=0.035)
    assert line.turn(1.0, 1.0, 0.01) == ones[:BEGUN]  # there is time for three turns
    told = line.turned_away()
    assert [one for one, _ in told] == ones[3 * BEGUN : 3 * BEGUN + TURNED_AWAY]
    assert {wait_s for _, wait_s in told} == {0.04}
    assert line.turn(1.0, 1.01, 0.01) == ones[BEGUN : 2 * BEGUN]


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([0.001, 0.02, 30.0]), st.integers(0, 200)),
        max_size=12,
    ),
    st.floats(0.0, 0.1),
)
def test_everybody_is_begun_in_time_or_turned_away_once(
    turns: list[tuple[int, float, int]], turn_s: float
) -> None:
    line = Line()
    everybody: list[object] = []
    told: list[object] = []
    now = 1.0
    for rank, allowed_s, count in turns:
        everybody += joined(line, count, rank, allowed_s)
        begun = line.turn(now, now + turn_s, turn_s)
        now += turn_s
        assert all(one.due_s >= now + turn_s for one in begun)
        refused = away(line)
        assert len(begun) <= BEGUN
        assert len(refused) <= TURNED_AWAY
        told += [*begun, *refused]
        assert len(told) + len(line) == len(everybody)
    while len(line):
        told += [*line.turn(now, now, 0.0), *away(line)]
    assert len(told) == len(everybody)
    assert set(map(id, told)) == set(map(id, everybody))


class Costs(NamedTuple):
    """Of a loop, in seconds: to receive, to read, run and answer, to say no."""

    receive_s: float = 30e-6
    serve_s: float = 110e-6
    no_s: float = 30e-6


def goodput(load: float, allowed_s: float, costs: Costs, *, all_at_once: bool = False) -> float:
    """Of what one loop can do, what is answered in time at so many times of that; two seconds of
    it, in virtual time. `all_at_once` is a loop that begins whatever has arrived."""
    each_s = (costs.receive_s + costs.serve_s) / load
    line = Line()
    now = since_s = came_s = turn_s = 0.0
    good = 0
    began: dict[int, float] = {}
    while now < 2.0:
        arrived = []
        while came_s <= now:
            one = One(len(began), allowed_s=allowed_s)
            began[one.name] = came_s
            arrived.append(one)
            came_s += each_s
        now += costs.receive_s * len(arrived)
        if all_at_once:
            begun: Sequence[Stands] = arrived
        else:
            for one in arrived:
                line.join(one)
            begun = line.turn(since_s, now, turn_s)
        turn_s, since_s = now - since_s, now
        for served in begun:
            assert isinstance(served, One)
            now += costs.serve_s
            good += now - began[served.name] <= allowed_s
        now += costs.no_s * len(away(line))
        now = max(now, came_s) if not arrived and not len(line) else now
    return good * (costs.receive_s + costs.serve_s) / 2.0


@pytest.mark.parametrize("load", [1.0, 1.25, 1.5, 2.0])
def test_overload_leaves_what_receiving_and_saying_no_leave(load: float) -> None:
    """Each that is turned away costs 60 us of the 140 that an answer takes; the rest goes on."""
    costs = Costs()
    share = (costs.receive_s + costs.no_s) / (costs.receive_s + costs.serve_s)
    best = min(1.0, (1 - load * share) / (1 - share))
    assert goodput(load, 0.02, costs) >= 0.8 * best
    if load > 1.0:
        assert goodput(load, 0.02, costs, all_at_once=True) < 0.1


# --- That it is obeyed ----------------------------------------------------------------------------

SPEC = ModelSpec(
    "twice",
    "1",
    (TensorSpec("x", "FP32", (-1, 2)),),
    (TensorSpec("y", "FP32", (-1, 2)),),
    pure=True,
)
BODY = json.dumps([1, 2]).encode()


def asking(body: bytes, headers: bytes = b"") -> bytes:
    return (
        b"POST /predict/twice HTTP/1.1\r\nhost: localhost\r\n%bcontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (headers, len(body), body)
    )


def named(number: int) -> bytes:
    return asking(BODY, b"x-request-id: r%d\r\n" % number)


REQUEST = asking(BODY)


class Twice:
    def __init__(self) -> None:
        self.spec = SPEC
        self.rows = 0
        self.batches: list[int] = []

    def run(self, batch: Tensors) -> Tensors:
        self.rows += len(batch["x"])
        self.batches.append(len(batch["x"]))
        return {"y": 2 * np.asarray(batch["x"])}

    def close(self) -> None:
        pass


class Front:
    """The inference of one front; a request takes its loop 1 ms to receive."""

    def __init__(self, clock: SimulatedClock, slo_ms: float | None) -> None:
        self.clock = clock
        self.board = Board()
        self.model = Twice()
        self.inference = Inference({"twice": self.model}, self.board, clock, Reader(clock, ()))
        self.inference.warm()
        self.model.rows = 0
        knobs = catalogue(["twice"])
        settings = {address: knob.default for address, knob in knobs.items()}
        goals = {} if slo_ms is None else {"twice": slo_ms}
        self.inference.prepare(InForce(1, "", settings, goals))()
        gate = Gate("127.0.0.1", KeyRing(), Sessions(b"secret" * 4, 80))
        self.door = Door(_nothing_else, gate, self.board, clock, Chance(), self.inference.begin)
        self.wires: list[Wire] = []

    def opens(self, count: int) -> None:
        for _ in range(count):
            wire = Wire()
            wire.connection._hot = self.door.hot
            self.wires.append(wire)

    async def knows(self, count: int) -> None:
        """Opens connections that ask once, so that their heads are known; that does not count."""
        self.opens(count)
        for wire in self.wires:
            self.ask(wire)
            await self.later()
        self.model.rows = 0

    def ask_all(self, costs_s: float = 0.001) -> None:
        for wire in self.wires:
            self.ask(wire, costs_s=costs_s)

    def ask(self, wire: Wire, request: bytes = REQUEST, costs_s: float = 0.001) -> None:
        wire.transport.said.clear()
        wire.connection.data_received(request)
        self.clock.advance(costs_s)

    async def later(self, seconds: float = 0.01) -> None:
        await self.clock.until(self.clock.now() + seconds)

    def counted(self, name: str) -> dict[tuple[str, ...], float]:
        found = {
            each.labels: float(each.value)
            for each in read([self.board])
            if each.metric.name == name and isinstance(each.value, float)
        }
        return {labels: value for labels, value in found.items() if value}


async def _nothing_else(scope: object, receive: object, send: object) -> None:
    raise AssertionError("all of it is inference")


def told(story: Callable[[Front], Awaitable[None]], slo_ms: float | None) -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        await story(Front(clock, slo_ms))

    run_simulated(main, shuffle=False)


async def burst(front: Front) -> list[bytes]:
    """Of all in one turn."""
    await front.knows(4 * BEGUN)
    front.ask_all()
    await front.later(1.0)
    return [bytes(wire.transport.said) for wire in front.wires]


def test_with_an_objective_who_would_be_too_late_is_turned_away_unread() -> None:
    """The last of 128 comes 0.128 s after the first."""

    async def story(front: Front) -> None:
        answers = await burst(front)
        lines = [each.partition(b"\r\n")[0][9:12] for each in answers]
        late = lines.count(b"504")  # read at once, and then too late for the turn
        assert lines[:BEGUN] == [b"504"] * late + [b"200"] * (BEGUN - late)
        refused = lines.count(b"503")
        assert 0 < refused < BEGUN
        assert lines[BEGUN:] == [b"503"] * refused + [b"200"] * (3 * BEGUN - refused)
        assert front.model.rows == lines.count(b"200"), "who is turned away is not run"
        refusal = answers[BEGUN]
        assert b'"code":"overloaded"' in refusal
        assert b"twice would answer this request in about" in refusal
        assert refusal.count(b"x-request-id: ") == 1
        not_run = front.counted("paceline_not_run_total")
        assert not_run["twice", "late"] == refused + late
        assert front.counted("paceline_requests_total")["twice", "normal", "503"] == refused
        assert front.counted("paceline_refused_total")["overloaded",] == refused

    told(story, slo_ms=100.0)


def test_some_of_those_who_are_turned_away_are_found_with_their_wait_and_why() -> None:
    async def story(front: Front) -> None:
        front.opens(4 * BEGUN)
        for number, wire in enumerate(front.wires):
            front.ask(wire, named(number))
            await front.later()
        for number, wire in enumerate(front.wires):
            front.ask(wire, named(1000 + number))
        await front.later(1.0)
        refused = [wire for wire in front.wires if wire.transport.said.startswith(b"HTTP/1.1 503")]
        told = [each for each in front.inference.timelines() if each.status == 503]
        assert len(told) == TRACES_TURNED_AWAY_PER_S < len(refused)
        answers = b"".join(bytes(wire.transport.said) for wire in refused)
        for each in told:
            assert b"x-request-id: %b\r\n" % each.id.encode() in answers
            assert (each.model, each.error, each.why) == ("twice", "overloaded", ("failed",))
            assert "twice would answer this request in about" in each.cause
            assert dict(parts(each)) == {"line": each.ended_s - each.received_s}
            assert each.ended_s - each.received_s > 0.05
        slow = [each for each in front.inference.timelines() if each.status == 200]
        assert max(dict(parts(each)).get("line", 0.0) for each in slow) > 0.01

    told(story, slo_ms=100.0)


def test_who_leaves_or_is_cut_off_in_line_is_found_too() -> None:
    async def story(front: Front) -> None:
        await front.knows(3 * BEGUN)
        front.ask_all()
        front.wires[-1].connection.connection_lost(None)
        await front.door.finish(0.0)
        told = [(each.status, each.error) for each in front.inference.timelines() if each.turn_s]
        assert (0, "left") in told
        assert (503, "draining") in told

    told(story, slo_ms=None)


def test_who_is_in_line_when_the_model_is_switched_off_is_found_too() -> None:
    async def story(front: Front) -> None:
        await front.knows(2 * BEGUN)
        front.ask_all()
        values = {address: knob.default for address, knob in catalogue(["twice"]).items()}
        front.inference.prepare(InForce(2, "", {**values, "twice.enabled": False}, {}))()
        await front.later(1.0)
        told = [each for each in front.inference.timelines() if each.error == "unavailable"]
        assert len(told) == min(BEGUN, TRACES_TURNED_AWAY_PER_S)
        assert {each.cause for each in told} == {"twice is switched off"}

    told(story, slo_ms=None)


def test_without_an_objective_everybody_waits_for_a_turn() -> None:
    async def story(front: Front) -> None:
        answers = await burst(front)
        assert all(each.startswith(b"HTTP/1.1 200") for each in answers)
        assert front.model.rows == len(answers)

    told(story, slo_ms=None)


def test_a_stall_is_forgotten_when_the_loop_has_rested() -> None:
    """A burst after it is served, though a turn once took longer than an answer may."""

    async def story(front: Front) -> None:
        await front.knows(3 * BEGUN)
        for wire in front.wires[: 2 * BEGUN]:
            front.ask(wire, costs_s=0.0)
        asyncio.get_running_loop().call_soon(front.clock.advance, 1.0)
        await front.later(1.0)
        front.model.rows = 0
        front.ask_all(costs_s=0.0)
        await front.later(1.0)
        assert front.model.rows == 3 * BEGUN

    told(story, slo_ms=100.0)


def test_whoever_says_something_of_each_request_stands_in_line_too() -> None:
    async def story(front: Front) -> None:
        front.opens(4 * BEGUN)
        for number, wire in enumerate(front.wires):
            front.ask(wire, named(number))
            await front.later()
        front.model.batches.clear()
        for number, wire in enumerate(front.wires):
            front.ask(wire, named(1000 + number))
        await front.later(1.0)
        assert sum(front.model.batches) == 4 * BEGUN
        assert max(front.model.batches) == 2 * BEGUN, "begun at once, and of the line"

    told(story, slo_ms=None)


def test_a_long_body_is_read_although_the_turn_is_full() -> None:
    """It does not stand in line, whose bodies are short."""

    class Elsewhere:
        def __init__(self) -> None:
            self.read: list[int] = []

        def decode(self, kind: str, body: bytes, *given: object) -> None:
            self.read.append(len(body))

    async def story(front: Front) -> None:
        elsewhere = Elsewhere()
        front.inference.place("twice", None).reader = elsewhere  # type: ignore[assignment]
        body = b"[" + b",".join([BODY] * 20_000) + b"]"
        await front.knows(BEGUN + 1)
        for wire in front.wires[:-1]:
            front.ask(wire)
        front.ask(front.wires[-1], asking(body))
        await front.later(1.0)
        assert elsewhere.read == [len(body)]
        assert not front.wires[-1].said

    told(story, slo_ms=None)


def test_who_stands_in_line_is_in_hand_and_is_answered_when_the_front_stops() -> None:
    async def story(front: Front) -> None:
        await front.knows(3 * BEGUN)
        front.ask_all()
        assert front.counted("paceline_in_flight_requests") == {(): 3 * BEGUN}
        await front.door.finish(0.0)
        statuses = {wire.said[9:12] for wire in front.wires}
        assert statuses == {b"200", b"503"}, "what was begun already, and who stood in line"
        assert not front.counted("paceline_in_flight_requests")
        await front.later(1.0)

    told(story, slo_ms=None)


def test_who_stands_in_line_when_the_front_drains_is_finished() -> None:
    async def story(front: Front) -> None:
        await front.knows(3 * BEGUN)
        front.ask_all()
        front.door.begin_drain(refuse=True)
        await front.later(1.0)
        assert {wire.said[9:12] for wire in front.wires} == {b"200"}
        front.ask_all()
        assert {wire.said[9:12] for wire in front.wires} == {b"503"}, "that came later"

    told(story, slo_ms=None)


def test_a_bug_that_one_request_finds_is_its_own() -> None:
    async def story(front: Front) -> None:
        await front.knows(3 * BEGUN)
        front.ask_all()
        call, calls = front.inference.call, []

        def once(*given: Any) -> Any:
            calls.append(given)
            if len(calls) == 1:
                raise RuntimeError("a bug")
            return call(*given)

        front.inference.call = once  # type: ignore[assignment, method-assign]
        await front.later(1.0)
        statuses = [wire.said[9:12] for wire in front.wires]
        assert statuses.count(b"500") == 1
        assert statuses.count(b"200") == 3 * BEGUN - 1

    told(story, slo_ms=None)


def test_who_leaves_the_line_is_not_run() -> None:
    async def story(front: Front) -> None:
        await front.knows(2 * BEGUN)
        front.ask_all()
        for wire in front.wires[BEGUN:]:
            wire.transport.abort()
        await front.later()
        assert front.model.rows == BEGUN
        assert not front.counted("paceline_in_flight_requests")

    told(story, slo_ms=None)


# --- A turn's requests go from stage to stage together --------------------------------------------


def test_a_body_that_cannot_be_read_harms_none_of_its_turn() -> None:
    async def story(front: Front) -> None:
        front.opens(5)
        for wire in front.wires:
            front.ask(wire)
            await front.later()
        front.model.batches.clear()
        for place, wire in enumerate(front.wires):
            front.ask(wire, asking(b"[null]") if place == 1 else REQUEST)
        await front.later()
        statuses = [bytes(wire.transport.said[9:12]) for wire in front.wires]
        assert statuses == [b"200", b"400", b"200", b"200", b"200"]
        assert front.model.batches == [4], "all good ones run together"

    told(story, slo_ms=None)


def test_who_leaves_in_the_turn_in_which_it_asked_is_not_run() -> None:
    async def story(front: Front) -> None:
        front.opens(3)
        for wire in front.wires:
            front.ask(wire)
            await front.later()
        front.model.batches.clear()
        for wire in front.wires:
            front.ask(wire)
        front.wires[1].connection.connection_lost(None)
        await front.later()
        assert front.model.batches == [2]
        assert not front.wires[1].transport.said
        assert not front.counted("paceline_in_flight_requests")

    told(story, slo_ms=None)


def test_a_bug_in_reading_one_body_is_answered_to_that_one_alone() -> None:
    async def story(front: Front) -> None:
        front.opens(3)
        for wire in front.wires:
            front.ask(wire)
            await front.later()

        class Faulty:
            def __init__(self) -> None:
                self.calls = 0

            def decode(self, body: bytes) -> None:
                self.calls += 1
                if self.calls == 2:
                    raise RuntimeError("a bug")

        front.inference.place("twice", None).row = Faulty()  # type: ignore[assignment]
        for wire in front.wires:
            front.ask(wire)
        await front.later()
        statuses = [bytes(wire.transport.said[9:12]) for wire in front.wires]
        assert statuses == [b"200", b"500", b"200"]

    told(story, slo_ms=None)
