"""LLM calls through a front: what they hold together, and when a stream begins.

Real connections, door and relay, bytes in and bytes out; sockets, providers and time are fakes.
"""

import json
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.access.gate import Gate
from paceline.access.keys import KeyRing
from paceline.access.sessions import Sessions
from paceline.clock import Chance, SimulatedClock, run_simulated
from paceline.gateway.beside import Beside
from paceline.gateway.call import Headers
from paceline.gateway.complete import Brackets
from paceline.gateway.relay import Relay
from paceline.gateway.room import Room
from paceline.gateway.routes import Hedge, Route
from paceline.gateway.routing import Router
from paceline.gateway.tally import Tally
from paceline.gateway.usage import DATA_TOKENS, estimated_input, estimated_output
from paceline.net.connection import Connection
from paceline.net.server import Connections
from paceline.observe.board import Board, read
from paceline.terms.errors import Overloaded
from paceline.terms.limits import LLM_IN_FLIGHT, LLM_TRANSLATED_BYTES
from paceline.terms.metric import LLM_LOST_TOKENS, LLM_TOKENS
from paceline.terms.request import PRIORITIES
from paceline.web.door import Door
from paceline.web.llm import Llm
from test_known_heads import Sink, nobody
from test_relay import (
    ANSWER,
    DONE,
    FALLBACK,
    FOREIGN,
    HEL,
    JSON,
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
        self.near = Near()
        beside = cast(Beside, self.near)
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

    @property
    def used(self) -> dict[str, float]:
        """Tokens of what brought some, by kind."""
        return {
            each.labels[2]: each.value
            for each in read([self.board])
            if each.metric is LLM_TOKENS and each.value
            if isinstance(each.value, float)
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


# --- Who gives way --------------------------------------------------------------------------------


def urgent(it: Place, priority: str, path: str = "/v1/chat/completions") -> Sink:
    connection, sink = it.connect()
    body = b'{"model":"m","messages":[],"max_tokens":9}'
    connection.data_received(
        b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"x-priority: %b\r\ncontent-length: %d\r\n\r\n%b"
        % (path.encode(), priority.encode(), len(body), body)
    )
    return sink


def test_when_a_front_is_full_the_lower_priorities_are_refused_and_the_higher_still_enter() -> None:
    def scenario(it: Place) -> None:
        entered: list[tuple[str, Sink]] = []
        for priority in PRIORITIES:
            while not (sink := urgent(it, priority)).wrote:
                entered.append((priority, sink))
            assert sink.wrote.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 1\r\n" in sink.wrote
            assert urgent(it, priority, "/v1/messages").wrote.startswith(b"HTTP/1.1 529")
            for lower in PRIORITIES[: PRIORITIES.index(priority)]:
                assert urgent(it, lower).wrote.startswith(b"HTTP/1.1 503")
        assert len(entered) == LLM_IN_FLIGHT == len(it.far.asked)
        by_priority = [sum(each == priority for each, _ in entered) for priority in PRIORITIES]
        assert all(count > LLM_IN_FLIGHT // 100 for count in by_priority)
        assert by_priority[0] == LLM_IN_FLIGHT // 2
        it.far.asked[0].answers(ANSWER)  # one place is free again, and for the highest alone
        assert entered[0][1].wrote.startswith(b"HTTP/1.1 200")
        assert urgent(it, "high").wrote.startswith(b"HTTP/1.1 503")
        assert not urgent(it, "critical").wrote
        for each in it.far.asked[1:]:
            each.answers(ANSWER)
        assert all(sink.wrote.startswith(b"HTTP/1.1 200") for _, sink in entered)
        assert not urgent(it, "low").wrote  # and at last for all

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


def test_where_it_need_not_wait_a_stream_begins_with_its_first_event() -> None:
    async def scenario(it: Place) -> None:
        _, sink = it.ask(size=2, stream=True)
        first = b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
        it.far.last.streams(first)
        await it.clock.until(0.001)
        assert sink.wrote.startswith(b"HTTP/1.1 200 OK")
        assert first in sink.wrote
        await it.clock.until(1.0)
        it.far.last.heard.body(HEL + STOP + DONE)
        it.far.last.ends()
        await it.clock.until(1.1)
        assert sink.wrote.endswith(b"0\r\n\r\n")
        assert sink.wrote.count(b'"content":"Hel"') == 1

    at(scenario, route(["first"], ["second"], begins_s=0.0))


def test_where_it_need_not_wait_an_error_that_comes_first_has_its_status() -> None:
    async def scenario(it: Place) -> None:
        _, sink = it.ask(size=2, stream=True)
        it.far.last.streams(b'data: {"error":{"message":"no","code":400}}\n\n')
        await it.clock.until(0.001)
        assert sink.wrote.startswith(b"HTTP/1.1 400")

    at(scenario, route(["first"], begins_s=0.0))


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


def test_a_stream_that_had_begun_and_fails_without_content_brought_none() -> None:
    error = b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"m"}}\n\n'

    async def scenario(it: Place) -> None:
        for last in (error, b""):  # it says so, or its connection ends
            _, sink = it.ask("/v1/messages", size=4000, stream=True, max_tokens=9)
            it.other.last.streams(MESSAGE_STREAM.partition(b"event: content_block_start")[0])
            await it.clock.until(it.clock.now() + 6.0)
            assert sink.wrote.startswith(b"HTTP/1.1 200 OK")
            it.other.last.heard.body(last)
            if not it.other.last.stopped:
                it.other.last.ends()
            assert b"error" in sink.wrote
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


WORD = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'
WORDS = [WORD % b"a "] * 50


@pytest.mark.parametrize("end", ["left", "lost", "finished", "together"])
def test_a_stream_whose_provider_told_no_usage_counts_as_an_estimate(end: str) -> None:
    async def scenario(it: Place) -> None:
        connection, _ = it.ask(size=4000, stream=True)
        far = it.far.last
        far.streams(*([b"".join(WORDS)] if end == "together" else WORDS))
        if end == "left":
            connection.connection_lost(None)
        elif end == "lost":
            far.loses()
        else:
            far.heard.body(STOP + DONE)
            far.ends()
        heard = 50 if end in ("left", "lost") else 51  # its end comes in an event too
        assert it.used == {
            "estimated_input": pytest.approx(1025, abs=25),
            "estimated_output": heard,
        }
        assert it.lost == {}
        (told,) = it.relay.timelines
        assert told.usage is None
        assert told.estimated.output_tokens == heard
        assert "estimated_output_tokens" in told.fields()

    at(scenario, route(["first"], retries=0))


def test_of_one_that_told_its_input_the_output_beyond_is_estimated() -> None:
    async def scenario(it: Place) -> None:
        start, delta, rest = MESSAGE_STREAM.partition(b"event: content_block_delta")
        delta += rest.partition(b"event: ")[0]
        connection, _ = it.ask("/v1/messages", size=4000, stream=True, max_tokens=9)
        it.other.last.streams(start, *[delta] * 7)
        connection.connection_lost(None)
        assert it.used == {"input": 3.0, "output": 1.0, "estimated_output": 7.0}

    at(scenario, FOREIGN)


def test_what_was_told_to_the_end_is_not_estimated() -> None:
    async def scenario(it: Place) -> None:
        it.ask("/v1/messages", size=4000, stream=True, max_tokens=9)
        it.other.last.streams(MESSAGE_STREAM)
        it.other.last.ends()
        assert it.used == {"input": 3.0, "output": 2.0}

    at(scenario, FOREIGN)


def test_events_of_many_words_count_as_many_tokens() -> None:
    async def scenario(it: Place) -> None:
        connection, _ = it.ask(size=2, stream=True)
        it.far.last.streams(*[WORD % (b"many " * 40)] * 10)
        connection.connection_lost(None)
        assert it.used["estimated_output"] == 10 * 200 // 4

    at(scenario)


@given(st.integers(1, 50), st.integers(0, 400), st.integers(40, 400))
def test_an_estimate_grows_with_what_was_said_and_not_with_what_stands_around_it(
    events: int, words: int, around: int
) -> None:
    estimate = estimated_output(events, events * (words + around), around)
    assert max(events, events * words // 4) == estimate


def test_a_picture_is_not_counted_as_text() -> None:
    picture = b'{"messages":[{"content":"Hi there, what is it?"},{"url":"%b"}]}' % (
        b"Ab+/" * 99_999
    )
    assert 1000 <= estimated_input(picture) < 1100
    assert 2 * DATA_TOKENS <= estimated_input(picture * 4) < 8 * DATA_TOKENS


# --- Long answers ---------------------------------------------------------------------------------

EMBEDDINGS = b'{"data":[{"embedding":[' + b"0.25," * 20_000 + b'1]}],"usage":{"total_tokens":1}}'
SIZED: Headers = [*JSON, (b"content-length", b"%d" % len(EMBEDDINGS))]
BINARY: Headers = [(b"content-type", b"application/octet-stream")]


@pytest.mark.parametrize(
    ("headers", "body", "is_whole"),
    [
        (JSON, EMBEDDINGS, True),
        (JSON, EMBEDDINGS[:-1], False),
        (JSON, EMBEDDINGS[:90_000], False),
        ([], EMBEDDINGS[:90_000], False),
        (SIZED, EMBEDDINGS[:90_000], True),  # its provider would have told
        (BINARY, EMBEDDINGS[:90_000], True),  # nobody can know
    ],
)
def test_a_long_answer_that_ends_with_its_connection_is_whole_if_its_json_is(
    headers: Headers, body: bytes, is_whole: bool
) -> None:
    async def scenario(it: Place) -> None:
        _, sink = it.ask("/v1/embeddings", size=2, input="x")
        heard = it.far.last.heard
        heard.head(200, headers)
        for at_byte in range(0, len(body), 30_000):
            heard.body(body[at_byte : at_byte + 30_000])
        heard.end()
        await it.clock.until(0.1)
        assert sink.wrote.startswith(b"HTTP/1.1 200")
        assert sink.wrote.endswith(b"0\r\n\r\n") == is_whole
        assert sink.closed != is_whole
        (told,) = it.relay.timelines
        assert told.tried[0].ended == ("done" if is_whole else "cut")

    at(scenario)


TEXTS = st.text(st.sampled_from('ab"\\{}[], \n'), max_size=8)
VALUES = st.recursive(
    TEXTS | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(TEXTS, VALUES, max_size=3) | st.lists(VALUES, max_size=3), st.data())
def test_json_is_complete_when_all_of_it_has_come_and_not_before(value: Any, data: Any) -> None:
    text = json.dumps(value).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    brackets = Brackets()
    for begin, end in pairwise([0, *cuts, len(text)]):
        assert not brackets.complete or begin == len(text)
        brackets.feed(text[begin:end])
    assert brackets.complete


LONG_MESSAGE = json.dumps(
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "k",
        "content": [{"type": "text", "text": "x" * 200_000}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }
).encode()


def says(it: Place, body: bytes) -> None:
    heard = it.other.last.heard
    heard.head(200, JSON)
    for at_byte in range(0, len(body), 30_000):
        if not it.other.last.stopped:
            heard.body(body[at_byte : at_byte + 30_000])
    if not it.other.last.stopped:
        heard.end()


@pytest.mark.parametrize("end", ["said", "cut", "left"])
def test_a_long_answer_is_translated_elsewhere_and_takes_room_meanwhile(end: str) -> None:
    def scenario(it: Place) -> None:
        connection, sink = it.ask(size=2)
        says(it, LONG_MESSAGE[:-1] if end == "cut" else LONG_MESSAGE)
        assert sink.wrote == b""
        assert it.room.taken >= len(LONG_MESSAGE) - 1
        (say,) = it.near.writing
        if end == "left":
            connection.connection_lost(None)
            assert it.room.taken == 0
        say()
        assert it.room.taken == 0
        if end == "said":
            answer = json.loads(sink.wrote.partition(b"\r\n\r\n")[2])
            assert answer["choices"][0]["message"]["content"] == "x" * 200_000
            assert answer["usage"]["total_tokens"] == 5
        elif end == "cut":
            assert sink.wrote.startswith(b"HTTP/1.1 502")
        else:
            assert sink.wrote == b""

    at(scenario, route(["other/k"], retries=0))


def test_an_answer_that_there_is_no_room_for_is_refused() -> None:
    def scenario(it: Place) -> None:
        it.ask(size=2)
        says(it, LONG_MESSAGE)
        _, sink = it.ask(size=2)
        says(it, LONG_MESSAGE)
        assert it.other.last.stopped == 1
        assert sink.wrote.startswith(b"HTTP/1.1 503")
        assert b"retry-after" in sink.wrote
        assert it.room.taken == len(LONG_MESSAGE)

    at(scenario, route(["other/k"], retries=0))


def test_an_answer_that_is_dropped_was_paid_for_and_nobody_else_is_asked_for_such_a_one() -> None:
    def scenario(it: Place) -> None:
        it.room.take(MOST - 100_000)
        _, sink = it.ask(size=4000)
        says(it, LONG_MESSAGE)
        assert sink.wrote.startswith(b"HTTP/1.1 503")
        it.room.give_back(MOST - 100_000)
        _, sink = it.ask(size=4000)
        says(it, LONG_MESSAGE)
        it.near.wrong = Overloaded("as many as may be", remedy="Ask later.")
        (say,) = it.near.writing
        say()
        assert sink.wrote.startswith(b"HTTP/1.1 503")
        assert it.room.taken == 0
        _, sink = it.ask(size=4000)
        it.other.last.heard.head(200, JSON)
        it.other.last.heard.body(bytes(LLM_TRANSLATED_BYTES + 1))
        assert sink.wrote.startswith(b"HTTP/1.1 502")
        assert it.room.taken == 0
        assert (len(it.other.asked), len(it.spare.asked)) == (3, 0)
        assert 3000 <= it.lost["other/input/estimated"] <= 3150

    at(scenario, route(["other/k"], ["second"]))
