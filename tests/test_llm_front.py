"""LLM calls through a front: what they hold together, and when a stream begins.

Real connections, door and relay, bytes in and bytes out; sockets, providers and time are fakes.
"""

import json
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from paceline.access.gate import Gate
from paceline.access.keys import KeyRing
from paceline.access.sessions import Sessions
from paceline.clock import Chance, SimulatedClock, run_simulated
from paceline.gateway.beside import Beside
from paceline.gateway.relay import Relay
from paceline.gateway.room import Room
from paceline.gateway.routes import Hedge, Route
from paceline.gateway.routing import Router
from paceline.gateway.tally import Tally
from paceline.gateway.usage import DATA_TOKENS, estimated_input
from paceline.net.connection import Connection
from paceline.net.server import Connections
from paceline.observe.board import Board, read
from paceline.terms.metric import LLM_LOST_TOKENS
from paceline.web.door import Door
from paceline.web.llm import Llm
from test_known_heads import Sink, nobody
from test_relay import (
    ANSWER,
    DONE,
    FALLBACK,
    FOREIGN,
    HEL,
    LO,
    MESSAGE_STREAM,
    ONE,
    ROLE,
    STOP,
    FakeProvider,
    Near,
    route,
)

BODY_BYTES = 100_000
MOST = 250_000


class Place:
    """A front's LLM calls, with room for two long bodies."""

    def __init__(self, clock: SimulatedClock, chance: Chance, way: Route) -> None:
        self.clock = clock
        self.far = FakeProvider("first", "openai")
        self.spare = FakeProvider("second", "openai")
        self.other = FakeProvider("other", "anthropic")
        self.room = Room(MOST)
        board = self.board = Board()
        router = Router([way], chance, clock.now())
        providers = {each.name: [each] for each in (self.far, self.spare, self.other)}
        beside = cast(Beside, Near())
        self.relay = Relay(providers, router, Tally(board), clock, beside, self.room)
        self.llm = Llm(self.relay, board)
        gate = Gate("127.0.0.1", KeyRing(()), Sessions(b"x" * 16, 80))
        door = Door(nobody, gate, board, clock, chance, self.llm.begin)
        self.server = Connections(nobody, clock.now, clock.wall, door.hot)

    def connect(self) -> tuple[Connection, Sink]:
        connection, sink = Connection(self.server), Sink()
        connection.connection_made(sink)  # type: ignore[arg-type]
        return connection, sink

    def ask(self, path: str = "/v1/chat/completions", size: int = BODY_BYTES, **more: Any) -> Any:
        connection, sink = self.connect()
        body = {"model": "m", "messages": [{"role": "user", "content": "x" * size}], **more}
        raw = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        connection.data_received(head.encode() + b"content-length: %d\r\n\r\n" % len(raw))
        for at in range(0, len(raw), 16_000):
            connection.data_received(raw[at : at + 16_000])
        return connection, sink

    @property
    def lost(self) -> dict[str, float]:
        """Tokens of what brought no content."""
        return {
            "/".join(each.labels[1:]): each.value
            for each in read([self.board])
            if each.metric is LLM_LOST_TOKENS and isinstance(each.value, float)
        }

    async def streams(self, path: str = "/v1/chat/completions") -> Sink:
        _, sink = self.ask(path, size=2, stream=True, max_tokens=9)
        await self.clock.until(self.clock.now() + 0.1)
        return cast(Sink, sink)


def at(scenario: Callable[[Place], Coroutine[Any, Any, None] | None], way: Route = ONE) -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        going_on = scenario(Place(clock, chance, way))
        if going_on is not None:
            await going_on

    run_simulated(main)


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/v1/chat/completions", b"503", "server_error"),
        ("/v1/messages", b"529", "overloaded_error"),
    ],
)
def test_a_long_body_more_than_there_is_room_for_is_refused(
    path: str, status: bytes, kind: str
) -> None:
    def scenario(it: Place) -> None:
        kept = [it.ask() for _ in range(2)]
        assert len(it.far.asked) == 2
        _, sink = it.ask(path, max_tokens=9)
        assert sink.wrote.startswith(b"HTTP/1.1 " + status)
        assert b"retry-after: 1\r\n" in sink.wrote
        assert json.loads(sink.wrote.partition(b"\r\n\r\n")[2])["error"]["type"] == kind
        it.ask(size=10)  # a short one takes no room
        assert len(it.far.asked) == 3
        it.far.asked[0].answers(ANSWER)
        assert b"200 OK" in kept[0][1].wrote
        it.ask()
        assert len(it.far.asked) == 4

    at(scenario)


@pytest.mark.parametrize(
    "end", ["answered", "streamed", "cut", "refused", "left", "late", "bad", "unknown"]
)
def test_however_a_call_ends_its_room_is_free_again(end: str) -> None:
    async def scenario(it: Place) -> None:
        more: dict[str, Any] = {"stream": True} if end in ("streamed", "cut") else {}
        if end == "bad":
            more = {"stream": 3}
        elif end == "unknown":
            more = {"model": "nothing"}
        connection, _ = it.ask(**more)
        if end in ("bad", "unknown"):
            assert not it.far.asked
            assert it.room.taken == 0
            return
        assert it.room.taken > BODY_BYTES
        exchange = it.far.last
        if end == "answered":
            exchange.answers(ANSWER)
        elif end in ("streamed", "cut"):
            content = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
            exchange.streams(content)
            assert it.room.taken == 0  # once it has begun, its body is sent to nobody any more
            exchange.loses() if end == "cut" else exchange.streams(b"data: [DONE]\n\n")
        elif end == "refused":
            exchange.answers(b'{"error":{}}', 400)
        elif end == "left":
            connection.connection_lost(None)
        else:
            exchange.loses("late")
        assert it.room.taken == 0

    at(scenario)


def test_who_announces_more_than_there_is_room_for_need_not_send_it() -> None:
    def scenario(it: Place) -> None:
        for _ in range(2):
            it.ask()
        connection, sink = it.connect()
        connection.data_received(
            b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: 100000\r\n\r\n{"
        )
        assert sink.wrote.startswith(b"HTTP/1.1 529")

    at(scenario)


# --- When a stream begins -------------------------------------------------------------------------

PING = b": still thinking\n\n"


def test_a_stream_without_content_begins_after_a_while_and_its_pings_go_on() -> None:
    async def scenario(it: Place) -> None:
        sink = await it.streams()
        it.far.last.streams(ROLE)
        await it.clock.until(4.9)
        assert sink.wrote == b""
        await it.clock.until(5.1)
        assert sink.wrote.startswith(b"HTTP/1.1 200 OK")
        assert b'"role":' in sink.wrote
        it.far.last.heard.body(PING)
        await it.clock.until(20.0)
        assert PING in sink.wrote
        it.far.last.heard.body(HEL + LO + STOP + DONE)
        it.far.last.ends()
        await it.clock.until(20.1)
        assert sink.wrote.endswith(b"0\r\n\r\n")
        (told,) = it.relay.timelines
        assert told.first_s is not None
        assert told.first_s - told.received_s == pytest.approx(20.0)
        assert told.tried[0].content_s == told.first_s
        status = next(each for each in it.relay.router.look(it.clock.now()) if each.target.model)
        assert status.waiting == 0
        assert status.stream_first_s == pytest.approx(20.0)

    at(scenario)


def test_from_then_on_a_failure_is_told_and_goes_nowhere_else() -> None:
    async def scenario(it: Place) -> None:
        sink = await it.streams()
        it.far.last.streams(PING)
        await it.clock.until(6.0)
        it.far.last.loses()
        await it.clock.until(6.1)
        assert b'data: {"error":' in sink.wrote
        assert not sink.wrote.endswith(b"0\r\n\r\n")
        assert DONE not in sink.wrote
        assert sink.closed
        assert not it.spare.asked

    at(scenario, FALLBACK)


@pytest.mark.parametrize("fails", ["lost", "error", "ended"])
def test_before_that_it_goes_elsewhere(fails: str) -> None:
    async def scenario(it: Place) -> None:
        sink = await it.streams()
        it.far.last.streams(PING)
        await it.clock.until(4.0)
        if fails == "lost":
            it.far.last.loses()
        elif fails == "error":
            it.far.last.heard.body(b'data: {"error":{"message":"no","code":500}}\n\n')
        else:
            it.far.last.ends()
        it.spare.last.streams(ROLE)
        await it.clock.until(5.1)  # five seconds after its call, whoever has it
        assert sink.wrote.startswith(b"HTTP/1.1 200 OK")
        it.spare.last.heard.body(HEL + STOP + DONE)
        it.spare.last.ends()
        await it.clock.until(5.2)
        assert sink.wrote.endswith(b"0\r\n\r\n")
        assert PING not in sink.wrote

    at(scenario, FALLBACK)


def test_what_a_silent_provider_says_first_may_still_be_an_error() -> None:
    """Nothing begins before its provider has: until then its status is not known."""

    async def scenario(it: Place) -> None:
        sink = await it.streams()
        await it.clock.until(9.0)
        it.far.last.answers(b'{"error":{"message":"no"}}', 400)
        assert sink.wrote.startswith(b"HTTP/1.1 400")
        sink = await it.streams()
        await it.clock.until(20.0)
        it.far.last.streams(b'data: {"error":{"message":"no","code":400}}\n\n')
        assert sink.wrote.startswith(b"HTTP/1.1 400")

    at(scenario)


@pytest.mark.parametrize("ends", ["content", "left"])
def test_of_two_that_are_asked_the_first_to_have_begun_goes_on(ends: str) -> None:
    way = route(["first"], ["second"], hedge=Hedge(1.0, 1.0), begins_s=2.0)

    async def scenario(it: Place) -> None:
        connection, sink = it.ask(size=2, stream=True)
        it.far.last.streams(PING)
        await it.clock.until(1.5)
        it.spare.last.streams(PING)
        await it.clock.until(2.5)
        assert sink.wrote.startswith(b"HTTP/1.1 200 OK")
        assert (it.far.last.stopped, it.spare.last.stopped) == (0, 1)
        if ends == "left":
            connection.connection_lost(None)
            assert it.far.last.stopped == 1
            return
        it.far.last.heard.body(HEL + STOP + DONE)
        it.far.last.ends()
        await it.clock.until(2.6)
        assert sink.wrote.endswith(b"0\r\n\r\n")

    at(scenario, way)


def test_a_translated_stream_begins_too() -> None:
    async def scenario(it: Place) -> None:
        sink = await it.streams()
        start, _, rest = MESSAGE_STREAM.partition(b"event: content_block_start")
        it.other.last.streams(start, b'event: ping\ndata: {"type":"ping"}\n\n')
        await it.clock.until(6.0)
        assert sink.wrote.startswith(b"HTTP/1.1 200 OK")
        assert b": ping" in sink.wrote
        it.other.last.heard.body(b"event: content_block_start" + rest)
        it.other.last.ends()
        await it.clock.until(6.1)
        assert DONE in sink.wrote

    at(scenario, FOREIGN)


# --- What may be billed all the same --------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("end", ["left", "late", "closed", "garbled"])
def test_what_is_left_or_lost_before_content_counts_as_an_estimate(end: str, stream: bool) -> None:
    def scenario(it: Place) -> None:
        connection, _ = it.ask(size=4000, stream=stream)
        if end == "left":
            connection.connection_lost(None)
        else:
            it.far.last.loses(cast(Any, end))
        ((name, tokens),) = it.lost.items()
        assert name == "first/input/estimated"
        assert 1000 <= tokens <= 1050

    at(scenario, route(["first"], retries=0))


def test_what_was_told_of_it_is_not_estimated() -> None:
    async def scenario(it: Place) -> None:
        for wait_s in (0.0, 6.0):  # the second has begun for its caller, without content
            connection, _ = it.ask("/v1/messages", size=4000, stream=True, max_tokens=9)
            it.other.last.streams(MESSAGE_STREAM.partition(b"event: content_block_start")[0])
            await it.clock.until(it.clock.now() + wait_s)
            connection.connection_lost(None)
        assert it.lost == {"other/input/told": 6.0, "other/output/told": 2.0}

    at(scenario, FOREIGN)


def test_a_stream_that_had_begun_without_content_is_estimated_too() -> None:
    async def scenario(it: Place) -> None:
        connection, _ = it.ask(size=4000, stream=True)
        it.far.last.streams(PING)
        await it.clock.until(6.0)
        connection.connection_lost(None)
        assert 1000 <= it.lost["first/input/estimated"] <= 1050

    at(scenario)


def test_who_is_outrun_may_be_billed_and_who_answers_is_not_lost() -> None:
    way = route(["first"], ["second"], hedge=Hedge(1.0, 1.0))

    async def scenario(it: Place) -> None:
        it.ask(size=4000, stream=True)
        await it.clock.until(1.5)
        it.spare.last.streams(ROLE, HEL, STOP, DONE)
        it.spare.last.ends()
        assert [*it.lost] == ["first/input/estimated"]
        assert it.lost["first/input/estimated"] >= 1000

    at(scenario, way)


def test_what_was_never_sent_or_was_refused_costs_nothing() -> None:
    def scenario(it: Place) -> None:
        it.ask(size=10)
        it.far.last.loses("unreachable")
        it.ask(size=10)
        it.far.last.answers(b"{}", 500)
        it.ask(size=10)
        it.far.last.answers(ANSWER)
        it.ask("/v1/messages", size=BODY_BYTES * 2, max_tokens=9)[0].connection_lost(None)
        assert it.lost == {}

    at(scenario, route(["first"], retries=0))


def test_a_picture_is_not_counted_as_text() -> None:
    picture = b'{"messages":[{"content":"Hi there, what is it?"},{"url":"%b"}]}' % (
        b"Ab+/" * 99_999
    )
    assert 1000 <= estimated_input(picture) < 1100
    assert 2 * DATA_TOKENS <= estimated_input(picture * 4) < 8 * DATA_TOKENS
