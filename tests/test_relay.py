"""One call through the gateway: what each provider is sent, and what the caller is told of it.

Providers and callers are fakes that say exactly what happened; time is simulated. The same over
real connections and with the vendors' SDKs is in test_llm.py and test_llm_live.py.
"""

import gc
import json
from collections.abc import Callable, Coroutine, Sequence
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.clock import Chance, SimulatedClock, run_simulated
from paceline.gateway import anthropic, openai
from paceline.gateway.asking import written
from paceline.gateway.beside import Beside
from paceline.gateway.call import Ask, Call, Dialect, Endpoint, Headers
from paceline.gateway.hearing import Attempt
from paceline.gateway.prices import Price, Priced, Prices
from paceline.gateway.provider import Heard, Lost, Running
from paceline.gateway.relay import Relay, Run
from paceline.gateway.routes import Hedge, Route, Tier
from paceline.gateway.routing import Router
from paceline.gateway.tally import Tally
from paceline.gateway.translate.answers import answered
from paceline.gateway.upstream import Target, TokensField
from paceline.gateway.usage import Usage
from paceline.observe.board import Board, read
from paceline.terms.errors import PacelineError
from paceline.terms.limits import LLM_HELD_BYTES, LLM_READ_IN_PLACE_BYTES, LLM_WHOLE_BYTES
from paceline.terms.metric import (
    LLM_ATTEMPTS,
    LLM_CALLS,
    LLM_COST,
    LLM_LOST_TOKENS,
    LLM_TOKENS,
    LLM_UNPRICED,
)

JSON: Headers = [(b"content-type", b"application/json")]
EVENTS: Headers = [(b"content-type", b"text/event-stream")]

CHAT = b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}'
STREAM = b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"stream":true}'
MESSAGES = b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"}]}'
MESSAGES_STREAM = MESSAGES[:-1] + b',"stream":true}'

ANSWER = (
    b'{"id":"c1","object":"chat.completion","created":1,"model":"m-1","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5},"unknown":[1]}'
)
MESSAGE = (
    b'{"id":"msg_1","type":"message","role":"assistant","model":"k","content":[{"type":"text",'
    b'"text":"Hello"}],"stop_reason":"end_turn","stop_sequence":null,'
    b'"usage":{"input_tokens":3,"output_tokens":2}}'
)


def chunk(delta: dict[str, Any], finish: str | None = None, **more: object) -> bytes:
    said = {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m-1",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }
    return b"data: " + json.dumps(said, separators=(",", ":")).encode() + b"\n\n"


ROLE = chunk({"role": "assistant", "content": ""}, usage=None)
HEL, LO = chunk({"content": "Hel"}, usage=None), chunk({"content": "lo"}, usage=None)
STOP = chunk({}, "stop", usage=None)
USAGE = (
    b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m-1","choices":[],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n'
)
DONE = b"data: [DONE]\n\n"
WHOLE_STREAM = ROLE + HEL + LO + STOP + USAGE + DONE


def event(name: str, **fields: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()


MESSAGE_STREAM = (
    event(
        "message_start",
        message={
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "k",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 3, "output_tokens": 1},
        },
    )
    + event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    + event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello"})
    + event("content_block_stop", index=0)
    + event(
        "message_delta",
        delta={"stop_reason": "end_turn", "stop_sequence": None},
        usage={"output_tokens": 2},
    )
    + event("message_stop")
)


class Exchange:
    """What one attempt was sent, and the way to answer it."""

    def __init__(self, ask: Ask, heard: Heard) -> None:
        self.ask = ask
        self.heard = heard
        self.stopped = 0
        self.paused = False

    def stop(self) -> None:
        self.stopped += 1

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def answers(self, body: bytes, status: int = 200, headers: Headers = JSON) -> None:
        self.heard.head(status, headers)
        self.heard.body(body)
        if not self.stopped:
            self.heard.end()

    def streams(self, *pieces: bytes) -> None:
        self.heard.head(200, EVENTS)
        for piece in pieces:
            if not self.stopped:
                self.heard.body(piece)

    def ends(self) -> None:
        if not self.stopped:
            self.heard.end()

    def loses(self, why: Lost = "cut") -> None:
        self.heard.lost(why, "as the test wished")


class FakeProvider:
    simulated = False
    tokens_field: TokensField = "max_completion_tokens"

    def __init__(self, name: str, dialect: Dialect) -> None:
        self.name = name
        self.dialect = dialect
        self.asked: list[Exchange] = []
        self.closed = False

    def complete(self, ask: Ask, heard: Heard) -> Running:
        self.asked.append(Exchange(ask, heard))
        return self.asked[-1]

    async def close(self) -> None:
        self.closed = True

    @property
    def last(self) -> Exchange:
        return self.asked[-1]


class Caller:
    """Hears one answer, and holds it to the order that there is."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.body = b""
        self.said: list[str] = []
        self.error: PacelineError | None = None
        self.after_s: float | None = None
        self.retry: bool | None = None

    def whole(self, status: int, headers: Headers, body: bytes) -> None:
        self._say("whole")
        self.status, self.headers, self.body = status, headers, body

    def begin(self, status: int, headers: Headers) -> None:
        self._say("begin")
        self.status, self.headers = status, headers

    def write(self, piece: bytes) -> None:
        assert self.said == ["begin"]
        self.body += piece

    def finish(self) -> None:
        assert self.said == ["begin"]
        self.said.append("finish")

    def break_off(self, last: bytes) -> None:
        assert self.said == ["begin"]
        self.said.append("break off")
        self.body += last

    def refuse(
        self, error: PacelineError, after_s: float | None = None, retry: bool | None = None
    ) -> None:
        self._say("refuse")
        self.error, self.after_s, self.retry = error, after_s, retry

    def _say(self, what: str) -> None:
        assert not self.said, f"{what} after {self.said}"
        self.said.append(what)


class Near:
    """In the place of a scribe process: what was written is told when the test says so."""

    def __init__(self) -> None:
        self.writing: list[Callable[[], None]] = []
        self.wrong: PacelineError | None = None
        """with which it refuses answers"""

    def write(
        self,
        call: Call,
        to: Dialect,
        model: str,
        told: Callable[[bytes | PacelineError], None],
        tokens_field: TokensField = "max_completion_tokens",
    ) -> None:
        def done() -> None:
            try:
                body, asked = call.body, call.asked
                told(written(body, call.endpoint, asked, call.dialect, to, model, tokens_field))
            except PacelineError as error:
                told(error)

        self.writing.append(done)

    def say(
        self,
        body: bytes,
        call: Call,
        dialect: Dialect,
        created_s: int,
        told: Callable[[bytes | PacelineError], None],
    ) -> None:
        def done() -> None:
            try:
                told(self.wrong or answered(body, call.dialect, call.asked.model, created_s))
            except PacelineError as error:
                told(error)

        self.writing.append(done)


class Place:
    """A relay with two providers of OpenAI's dialect and one of Anthropic's."""

    def __init__(self, clock: SimulatedClock, chance: Chance, route: Route) -> None:
        self.clock = clock
        self.first = FakeProvider("first", "openai")
        self.second = FakeProvider("second", "openai")
        self.other = FakeProvider("other", "anthropic")
        self.board = Board()
        self.router = Router([route], chance, clock.now())
        by_name = {each.name: [each] for each in (self.first, self.second, self.other)}
        self.beside = Near()
        self.relay = Relay(
            by_name, self.router, Tally(self.board, Prices([GPT])), clock, cast(Beside, self.beside)
        )
        self.caller = Caller()

    def call(
        self,
        body: bytes = CHAT,
        endpoint: Endpoint = "chat",
        path: str = "/chat/completions",
        timeout_s: float = 60.0,
    ) -> Run:
        dialect: Dialect = "anthropic" if endpoint in ("messages", "count_tokens") else "openai"
        asked = (anthropic if dialect == "anthropic" else openai).read(endpoint, body)
        headers = [*JSON, (b"openai-beta", b"x")]
        call = Call(
            "id-1",
            dialect,
            endpoint,
            "POST",
            path,
            headers,
            body,
            asked,
            "normal",
            self.clock.now() + timeout_s,
            self.clock.now(),
            JSON,
        )
        run = Run(self.relay, call, self.router.resolve(asked.model or "m"), self.caller)
        run.start()
        return run

    def messages(self, body: bytes = MESSAGES) -> Run:
        return self.call(body, "messages", "/messages")

    def measured(self) -> dict[tuple[str, ...], float]:
        return {
            (each.metric.name, *each.labels): each.value
            for each in read([self.board])
            if isinstance(each.value, float)
        }


def targets(*texts: str) -> tuple[Target, ...]:
    return tuple(Target(*each.partition("/")[::2]) for each in texts)


def route(*tiers: Sequence[str], **options: Any) -> Route:
    return Route("m", tuple(Tier(targets(*each)) for each in tiers), **options)


GPT = Priced("first/*", Price(2_500_000, 10_000_000, 2_500_000))
"""2.50 USD for a million tokens of input, 10 of output; nobody says what others cost."""

ONE = route(["first"])
FALLBACK = route(["first"], ["second"], retries_per_target=0)
FOREIGN = route(["other/k"])


def relayed(way: Route, scenario: Callable[[Place], Coroutine[Any, Any, None] | None]) -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        place = Place(clock, chance, way)
        going_on = scenario(place)
        if going_on is not None:
            await going_on

    run_simulated(main)


# --- Nothing must change --------------------------------------------------------------------------


def test_the_very_bytes_go_on_in_both_directions() -> None:
    def scenario(it: Place) -> None:
        run = it.call()
        ask = it.first.last.ask
        assert (ask.method, ask.path, ask.body) == ("POST", "/chat/completions", CHAT)
        assert (b"openai-beta", b"x") in ask.headers
        it.first.last.answers(
            ANSWER, headers=[*JSON, (b"x-request-id", b"r"), (b"set-cookie", b"")]
        )
        assert (it.caller.said, it.caller.status, it.caller.body) == (["whole"], 200, ANSWER)
        assert it.caller.headers == [*JSON, (b"x-request-id", b"r")]
        run.ended(200)
        told = it.measured()
        assert told[LLM_CALLS.name, "chat", "m", "first", "200"] == 1
        assert told[LLM_TOKENS.name, "m", "first", "input"] == 3
        assert told[LLM_TOKENS.name, "m", "first", "output"] == 2
        assert told[LLM_ATTEMPTS.name, "first", "first", "done"] == 1

    relayed(ONE, scenario)


def test_what_an_answer_costs_is_counted_and_remembered() -> None:
    usd = (3 * 2.5 + 2 * 10) / 1e6

    def scenario(it: Place) -> None:
        for _ in range(2):
            it.caller = Caller()
            run = it.call()
            it.first.last.answers(ANSWER)
            timeline = run.ended(200)
            assert timeline.picousd == round(usd * 1e12)
            assert timeline.fields()["cost_usd"] == pytest.approx(usd)
        told = it.measured()
        assert told[LLM_COST.name, "m", "first", "used"] == pytest.approx(2 * usd)
        assert (LLM_UNPRICED.name, "m", "first") not in told

    relayed(ONE, scenario)


def test_what_has_no_price_is_told_as_unknown_and_not_as_nothing() -> None:
    def scenario(it: Place) -> None:
        run = it.call()
        it.other.last.answers(MESSAGE)
        assert run.ended(200).picousd is None
        told = it.measured()
        assert told[LLM_UNPRICED.name, "m", "other"] == 1
        assert (LLM_COST.name, "m", "other", "used") not in told

    relayed(FOREIGN, scenario)


def test_what_is_lost_may_cost_and_is_told_apart() -> None:
    def scenario(it: Place) -> None:
        run = it.call()
        run.stop()
        assert run.ended(0).picousd is None
        told = it.measured()
        estimated = told[LLM_LOST_TOKENS.name, "m", "first", "input", "estimated"]
        lost = told[LLM_COST.name, "m", "first", "lost"]
        assert lost == pytest.approx(estimated * 2.5 / 1e6)
        assert (LLM_COST.name, "m", "first", "used") not in told

    relayed(ONE, scenario)


def test_what_fails_costs_nothing_and_is_not_missed() -> None:
    def scenario(it: Place) -> None:
        run = it.call()
        it.first.last.answers(b'{"error":{"message":"no"}}', status=400)
        assert run.ended(400).picousd is None
        names = {each[0] for each in it.measured()}
        assert not names & {LLM_COST.name, LLM_UNPRICED.name}

    relayed(ONE, scenario)


def test_another_name_of_the_model_changes_nothing_else() -> None:
    def scenario(it: Place) -> None:
        it.call(b'{"x" : [1.50],"model":"m","messages":[],"stop":null}')
        assert it.first.last.ask.body == (
            b'{"x" : [1.50],"model":"real-1","messages":[],"stop":null}'
        )

    relayed(route(["first/real-1"]), scenario)


def test_usage_is_asked_for_and_withheld_from_who_did_not_ask() -> None:
    def scenario(it: Place) -> None:
        run = it.call(STREAM)
        assert json.loads(it.first.last.ask.body)["stream_options"] == {"include_usage": True}
        it.first.last.streams(WHOLE_STREAM)
        it.first.last.ends()
        assert it.caller.said == ["begin", "finish"]
        plain = (ROLE + HEL + LO + STOP).replace(b',"usage":null', b"")
        assert it.caller.body == plain + DONE
        run.ended(200)
        assert it.measured()[LLM_TOKENS.name, "m", "first", "output"] == 2

    relayed(ONE, scenario)


def test_who_asks_for_usage_gets_the_stream_as_it_is() -> None:
    asks = STREAM[:-1] + b',"stream_options":{"include_usage":true}}'

    def scenario(it: Place) -> None:
        it.call(asks)
        assert it.first.last.ask.body == asks
        it.first.last.streams(WHOLE_STREAM)
        it.first.last.ends()
        assert it.caller.body == WHOLE_STREAM

    relayed(ONE, scenario)


@given(st.lists(st.integers(0, len(WHOLE_STREAM)), max_size=8))
def test_however_a_stream_is_split_the_caller_sees_the_same(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(WHOLE_STREAM)]
    pieces = [WHOLE_STREAM[a:b] for a, b in pairwise(ends)]

    def scenario(it: Place) -> None:
        it.call(STREAM)
        it.first.last.streams(*pieces)
        it.first.last.ends()
        assert it.caller.said == ["begin", "finish"]
        assert it.caller.body == (ROLE + HEL + LO + STOP).replace(b',"usage":null', b"") + DONE

    relayed(ONE, scenario)


def test_a_long_answer_is_passed_on_before_it_is_whole_and_its_usage_is_read() -> None:
    rest = b'"usage":{"prompt_tokens":7,"total_tokens":7}}'
    begin = b'{"object":"list","data":[' + b"0.25," * (LLM_WHOLE_BYTES // 5 + 1) + b"1],"

    def scenario(it: Place) -> None:
        run = it.call(b'{"model":"m","input":"x"}', "embeddings", "/embeddings")
        heard = it.first.last.heard
        heard.head(200, JSON)
        heard.body(begin)
        assert (it.caller.said, it.caller.body) == (["begin"], begin)
        heard.body(rest)
        heard.end()
        assert (it.caller.said, it.caller.body) == (["begin", "finish"], begin + rest)
        run.ended(200)
        assert it.measured()[LLM_TOKENS.name, "m", "first", "input"] == 7

    relayed(ONE, scenario)


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (
            b'{"max_completion_tokens": 9, "model":"m","messages":[]}',
            b'{"max_tokens": 9, "model":"m","messages":[]}',
        ),
        (b'{"model":"m","messages":[],"max_completion_tokens":9}', None),
        (b'{"model":"m","messages":[],"max_tokens":9}', b""),
        (b'{"model":"m","messages":[],"max_tokens":8,"max_completion_tokens":9}', b""),
        (b'{"model":"m","user":"max_completion_tokens","messages":[]}', b""),
        (
            b'{"model":"m","messages":[],"user":"\\"max_completion_tokens\\"", '
            b'"max_completion_tokens" : 9 }',
            b'{"model":"m","messages":[],"user":"\\"max_completion_tokens\\"", "max_tokens" : 9 }',
        ),
    ],
)
def test_a_provider_that_knows_the_older_name_alone_is_sent_that(
    body: bytes, sent: bytes | None
) -> None:
    def scenario(it: Place) -> None:
        it.first.tokens_field = "max_tokens"
        it.call(body)
        expected = body.replace(b"max_completion_tokens", b"max_tokens") if sent is None else sent
        assert it.first.last.ask.body == (expected or body)

    relayed(ONE, scenario)


def test_what_is_translated_for_it_has_the_older_name_too() -> None:
    long = MESSAGES.replace(b"Hi", b"x" * 200_000)

    def scenario(it: Place) -> None:
        it.first.tokens_field = "max_tokens"
        it.messages()
        it.messages(long)
        (write,) = it.beside.writing
        write()
        for each in it.first.asked:
            assert json.loads(each.ask.body)["max_tokens"] == 9

    relayed(ONE, scenario)


# --- What fails before content --------------------------------------------------------------------


@pytest.mark.parametrize("why", ["unreachable", "closed", "cut", "garbled"])
def test_what_is_lost_before_content_goes_elsewhere(why: Lost) -> None:
    def scenario(it: Place) -> None:
        run = it.call(STREAM)
        it.first.last.streams(ROLE)
        it.first.last.loses(why)
        assert it.caller.said == []
        it.second.last.streams(WHOLE_STREAM)
        it.second.last.ends()
        assert it.caller.said == ["begin", "finish"]
        assert it.caller.body.count(b"chat.completion.chunk") == 4
        run.ended(200)
        told = it.measured()
        assert told[LLM_CALLS.name, "chat", "m", "second", "200"] == 1
        assert told[LLM_ATTEMPTS.name, "first", "first", why] == 1

    relayed(FALLBACK, scenario)


def test_an_error_event_before_content_goes_elsewhere() -> None:
    def scenario(it: Place) -> None:
        it.call(STREAM)
        it.first.last.streams(ROLE, b'data: {"error":{"message":"busy","code":503}}\n\n')
        assert it.first.last.stopped == 1
        assert it.second.asked

    relayed(FALLBACK, scenario)


def test_the_last_error_of_a_provider_is_what_the_caller_gets() -> None:
    said = b'{"error":{"message":"no","type":"server_error","param":null,"code":"own"}}'

    def scenario(it: Place) -> None:
        run = it.call()
        it.first.last.answers(b"{}", 500)
        it.second.last.answers(said, 500, [*JSON, (b"x-should-retry", b"true")])
        assert (it.caller.status, it.caller.body) == (500, said)
        assert (b"x-should-retry", b"false") in it.caller.headers  # it was tried again already
        run.ended(500)
        assert it.measured()[LLM_CALLS.name, "chat", "m", "second", "500"] == 1

    relayed(route(["first"], ["second"], retries=1, retries_per_target=0), scenario)


def test_an_error_that_nobody_else_could_mend_is_passed_on_as_it_came() -> None:
    said = b'{"error":{"message":"bad","type":"invalid_request_error","param":"x","code":null}}'

    def scenario(it: Place) -> None:
        it.call()
        it.first.last.answers(said, 400, [*JSON, (b"retry-after", b"7")])
        assert not it.second.asked
        assert (it.caller.status, it.caller.body) == (400, said)
        assert it.caller.headers == [*JSON, (b"retry-after", b"7")]

    relayed(FALLBACK, scenario)


def test_who_cannot_be_reached_is_told_as_ours() -> None:
    def scenario(it: Place) -> None:
        it.call()
        it.first.last.loses("unreachable")
        assert it.caller.said == ["refuse"]
        assert it.caller.error is not None
        assert it.caller.error.http == 502

    relayed(route(["first"], retries=0), scenario)


def test_a_retry_waits_and_then_goes_to_the_same() -> None:
    async def scenario(it: Place) -> None:
        it.call()
        it.first.last.answers(b"{}", 429, [*JSON, (b"retry-after-ms", b"500")])
        assert len(it.first.asked) == 1
        await it.clock.until(it.clock.now() + 5)
        assert len(it.first.asked) == 2
        it.first.last.answers(ANSWER)
        assert it.caller.said == ["whole"]

    relayed(ONE, lambda it: scenario(it))


def test_a_stream_whose_preamble_never_ends_counts_as_begun() -> None:
    def scenario(it: Place) -> None:
        it.call(STREAM)
        it.first.last.streams(*[ROLE] * (LLM_HELD_BYTES // 150))
        assert it.caller.said == ["begin"]

    relayed(ONE, scenario)


# --- What fails after content ---------------------------------------------------------------------


def test_a_stream_that_is_cut_ends_with_an_error_and_without_done() -> None:
    def scenario(it: Place) -> None:
        run = it.call(STREAM)
        it.first.last.streams(ROLE, HEL)
        it.first.last.loses("cut")
        assert it.caller.said == ["begin", "break off"]
        *_, last, nothing = it.caller.body.split(b"\n\n")
        assert nothing == b""
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "provider_failed"
        assert b"[DONE]" not in it.caller.body
        assert not it.second.asked
        run.ended(200)
        assert it.measured()[LLM_ATTEMPTS.name, "first", "first", "cut"] == 1

    relayed(FALLBACK, scenario)


def test_a_clean_end_in_the_middle_is_a_cut_too() -> None:
    def scenario(it: Place) -> None:
        it.call(STREAM)
        it.first.last.streams(ROLE, HEL)
        it.first.last.ends()
        assert it.caller.said == ["begin", "break off"]

    relayed(ONE, scenario)


def test_an_end_without_its_mark_is_one_where_the_answer_says_how_it_ended() -> None:
    def scenario(it: Place) -> None:
        it.call(STREAM)
        it.first.last.streams(ROLE, HEL, STOP)
        it.first.last.ends()
        assert it.caller.said == ["begin", "finish"]

    relayed(ONE, scenario)


def test_an_error_event_within_the_answer_is_the_last_that_is_passed_on() -> None:
    error = b'data: {"error":{"message":"broke","code":"server_error"}}\n\n'

    def scenario(it: Place) -> None:
        it.call(STREAM)
        it.first.last.streams(ROLE, HEL, error, DONE)
        assert it.caller.said == ["begin", "break off"]
        assert it.caller.body.endswith(error)
        assert it.first.last.stopped == 1

    relayed(ONE, scenario)


def test_a_long_whole_answer_that_is_cut_has_no_end() -> None:
    def scenario(it: Place) -> None:
        it.call()
        it.first.last.heard.head(200, JSON)
        it.first.last.heard.body(b" " * (LLM_WHOLE_BYTES + 1))
        it.first.last.loses("cut")
        assert it.caller.said == ["begin", "break off"]
        assert it.caller.body == b" " * (LLM_WHOLE_BYTES + 1)

    relayed(ONE, scenario)


# --- Callers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True])
def test_a_caller_who_leaves_stops_the_provider_at_once(begun: bool) -> None:
    def scenario(it: Place) -> None:
        run = it.call(STREAM)
        if begun:
            it.first.last.streams(ROLE, HEL)
        run.stop()
        assert it.first.last.stopped == 1
        run.ended(0)
        assert it.measured()[LLM_CALLS.name, "chat", "m", "first", "0"] == 1
        assert it.measured()[LLM_ATTEMPTS.name, "first", "first", "left"] == 1

    relayed(FALLBACK, scenario)


def test_a_caller_who_reads_slowly_holds_the_provider_back() -> None:
    def scenario(it: Place) -> None:
        run = it.call(STREAM)
        it.first.last.streams(ROLE, HEL)
        run.pause()
        assert it.first.last.paused
        run.resume()
        assert not it.first.last.paused

    relayed(ONE, scenario)


def test_a_hedge_takes_over_and_the_late_one_is_stopped() -> None:
    async def scenario(it: Place) -> None:
        run = it.call()
        asked, idle = (it.first, it.second) if it.first.asked else (it.second, it.first)
        await it.clock.until(it.clock.now() + 1)
        idle.last.answers(ANSWER)
        assert asked.last.stopped == 1
        assert it.caller.said == ["whole"]
        run.ended(200)
        assert it.measured()[LLM_ATTEMPTS.name, idle.name, "hedge", "done"] == 1
        assert it.measured()[LLM_ATTEMPTS.name, asked.name, "first", "outrun"] == 1

    relayed(route(["first", "second"], hedge=Hedge(0.5, 1.0)), lambda it: scenario(it))


# --- Two dialects ---------------------------------------------------------------------------------


def test_a_call_is_said_in_the_dialect_of_its_provider() -> None:
    def scenario(it: Place) -> None:
        it.call()
        ask = it.other.last.ask
        assert ask.path == "/messages"
        assert json.loads(ask.body)["model"] == "k"
        assert ask.headers == JSON
        it.other.last.answers(MESSAGE)
        said = json.loads(it.caller.body)
        assert said["choices"][0]["message"]["content"] == "Hello"
        assert said["model"] == "m"
        assert said["usage"]["total_tokens"] == 5

    relayed(FOREIGN, scenario)


def test_a_message_is_answered_by_a_provider_of_chats() -> None:
    def scenario(it: Place) -> None:
        it.messages(MESSAGES_STREAM)
        ask = it.first.last.ask
        assert ask.path == "/chat/completions"
        it.first.last.streams(WHOLE_STREAM)
        it.first.last.ends()
        assert it.caller.said == ["begin", "finish"]
        assert it.caller.body.rstrip().endswith(b'"message_stop"}')

    relayed(ONE, scenario)


def test_a_translated_stream_that_is_cut_breaks_off_in_the_caller_s_dialect() -> None:
    at = MESSAGE_STREAM.index(b"event: content_block_stop")

    def scenario(it: Place) -> None:
        it.call(STREAM)
        it.other.last.streams(MESSAGE_STREAM[:at])
        assert it.caller.said == ["begin"]
        it.other.last.loses("cut")
        assert it.caller.said == ["begin", "break off"]
        assert b'data: {"error"' in it.caller.body
        assert b"[DONE]" not in it.caller.body

    relayed(FOREIGN, scenario)


def test_an_error_is_said_in_the_dialect_of_the_caller() -> None:
    said = b'{"type":"error","error":{"type":"not_found_error","message":"model: k"}}'

    def scenario(it: Place) -> None:
        it.call()
        it.other.last.answers(said, 404)
        assert it.caller.status == 404
        assert json.loads(it.caller.body)["error"]["code"] == "model_not_found"

    relayed(FOREIGN, scenario)


def test_what_cannot_be_said_in_a_dialect_goes_to_who_speaks_the_caller_s() -> None:
    body = CHAT[:-1] + b',"logit_bias":{"1":5}}'

    def scenario(it: Place) -> None:
        it.call(body)
        assert not it.other.asked
        assert it.first.last.ask.body == body.replace(b'"m"', b'"m"')

    relayed(route(["other/k"], ["first"]), scenario)


def test_what_nobody_can_say_is_refused_with_its_name() -> None:
    def scenario(it: Place) -> None:
        it.call(CHAT[:-1] + b',"logit_bias":{"1":5}}')
        assert it.caller.said == ["refuse"]
        assert it.caller.error is not None
        assert (it.caller.error.http, it.caller.error.code) == (400, "not_translatable")
        assert "logit_bias" in it.caller.error.cause

    relayed(FOREIGN, scenario)


def test_other_endpoints_are_not_translated() -> None:
    def scenario(it: Place) -> None:
        it.call(b'{"model":"m","input":"x"}', "embeddings", "/embeddings")
        assert it.caller.error is not None
        assert it.caller.error.code == "not_translatable"

    relayed(FOREIGN, scenario)


# --- Long bodies ----------------------------------------------------------------------------------

LONG = CHAT.replace(b"Hi", b"x" * (LLM_READ_IN_PLACE_BYTES + 1))


def test_a_long_body_that_stays_as_it_is_goes_on_at_once() -> None:
    def scenario(it: Place) -> None:
        it.call(LONG)
        assert it.first.last.ask.body is LONG

    relayed(ONE, scenario)


@pytest.mark.parametrize(
    ("way", "name", "model"), [(route(["first/n"]), "first", "n"), (FOREIGN, "other", "k")]
)
def test_a_long_body_is_written_anew_elsewhere(way: Route, name: str, model: str) -> None:
    def scenario(it: Place) -> None:
        it.call(LONG)
        assert not it.first.asked + it.other.asked
        (done,) = it.beside.writing
        done()
        provider: FakeProvider = getattr(it, name)
        assert json.loads(provider.last.ask.body)["model"] == model
        provider.last.answers(ANSWER if provider is it.first else MESSAGE)
        assert it.caller.said == ["whole"]

    relayed(way, scenario)


def test_who_leaves_meanwhile_asks_nobody() -> None:
    def scenario(it: Place) -> None:
        run = it.call(LONG)
        run.stop()
        (done,) = it.beside.writing
        done()
        assert not it.first.asked
        run.ended(0)

    relayed(route(["first/n"]), scenario)


def test_a_long_body_that_cannot_be_said_so_is_refused() -> None:
    def scenario(it: Place) -> None:
        it.call(LONG[:-1] + b',"logit_bias":{"1":5}}')
        (done,) = it.beside.writing
        done()
        assert it.caller.error is not None
        assert it.caller.error.code == "not_translatable"

    relayed(FOREIGN, scenario)


# --- What is left ---------------------------------------------------------------------------------


def test_nothing_of_what_was_said_is_remembered() -> None:
    def scenario(it: Place) -> None:
        run = it.call(CHAT.replace(b"Hi", b"a secret"))
        it.first.last.answers(ANSWER)
        run.ended(200)
        (line,) = it.relay.timelines
        assert (line.route, line.model, line.status) == ("m", "m", 200)
        assert [str(each.target) for each in line.tried] == ["first/m"]
        assert "secret" not in repr(line)
        assert "Hello" not in repr(line)

    relayed(ONE, scenario)


@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_what_is_over_is_freed_without_the_collector(body: bytes) -> None:
    def scenario(it: Place) -> None:
        gc.disable()
        gc.freeze()  # what was there before need not be looked through
        try:
            run = it.call(body)
            if body is STREAM:
                it.first.last.streams(WHOLE_STREAM)
                it.first.last.ends()
            else:
                it.first.last.answers(ANSWER)
            run.ended(200)
            it.first.asked.clear()
            del run
            alive = [each for each in gc.get_objects() if isinstance(each, Run | Attempt)]
            assert not alive
        finally:
            gc.enable()

    relayed(ONE, scenario)


@pytest.mark.parametrize("begun", [False, True])
def test_a_bug_of_ours_is_answered_and_stops_the_provider(
    begun: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*given: object) -> None:
        raise AssertionError("a bug")

    def scenario(it: Place) -> None:
        it.call(STREAM)
        it.first.last.streams(ROLE, *([HEL] if begun else []))
        attempt = it.first.last.heard
        attempt._take = breaks  # type: ignore[attr-defined]
        attempt.body(LO)
        assert it.caller.said == (["begin", "break off"] if begun else ["refuse"])
        assert it.first.last.stopped == 1
        assert "failed inside Paceline" in caplog.text

    relayed(ONE, scenario)


# --- What others must not lose by -----------------------------------------------------------------

RAW = {"raw_paths": ("/files", "/batches")}


@pytest.mark.parametrize("target", ["first/real-1", "other/k"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b\r\n\r\n\0\xff\r\n--b--",
        b'{"input_file_id":"file-1","endpoint":"/v1/chat/completions"}',
        b"\0" * (LLM_READ_IN_PLACE_BYTES + 1),
    ],
)
def test_a_raw_body_that_names_no_model_goes_on_as_it_is(target: str, body: bytes) -> None:
    def scenario(it: Place) -> None:
        it.call(body, "other", "/files")
        (exchange,) = it.first.asked + it.other.asked
        assert exchange.ask.body == body

    relayed(route([target], **RAW), scenario)


@pytest.mark.parametrize("named", [True, False])
def test_a_model_that_is_overloaded_does_not_close_others_that_are_relayed_raw(
    named: bool,
) -> None:
    def scenario(it: Place) -> None:
        def call(model: str) -> None:
            it.caller = Caller()
            it.call(b'{"model":"%b"}' % model.encode() if named else b"{}", "other", "/files")

        call("m-bad")
        it.first.last.answers(b"{}", 429, [*JSON, (b"retry-after", b"60")])
        call("m-bad")
        assert len(it.first.asked) == 1
        call("m-good")
        assert len(it.first.asked) == 1 + named  # what names none shares what is known

    relayed(Route("m*", (Tier(targets("first")),), retries=0, raw_paths=("/files",)), scenario)


def test_one_that_names_a_model_gets_the_name_that_its_provider_has() -> None:
    def scenario(it: Place) -> None:
        it.call(b'{"model":"m","prompt":"x"}', "other", "/images/generations")
        assert it.first.last.ask.body == b'{"model":"real-1","prompt":"x"}'

    relayed(route(["first/real-1"], **RAW), scenario)


NOT_SAID = CHAT[:-1] + b',"logit_bias":{"1":5}}'
"""What a provider of the other dialect cannot be asked."""


@pytest.mark.parametrize("body", [NOT_SAID, LONG[:-1] + b',"logit_bias":{"1":5}}'])
def test_a_fallback_that_cannot_be_asked_hides_no_failure(body: bytes) -> None:
    def scenario(it: Place) -> None:
        it.call(body)
        it.first.last.answers(b'{"error":{"message":"broken"}}', 500)
        for done in it.beside.writing:
            done()
        assert not it.other.asked
        assert (it.caller.said, it.caller.status) == (["whole"], 500)
        assert b"broken" in it.caller.body

    relayed(route(["first"], ["other/k"], retries_per_target=0), scenario)


def test_nor_does_it_hide_that_one_was_lost() -> None:
    def scenario(it: Place) -> None:
        it.call(NOT_SAID)
        it.first.last.loses("closed")
        assert it.caller.error is not None
        assert it.caller.error.http == 502

    relayed(route(["first"], ["other/k"], retries_per_target=0), scenario)


def test_a_404_without_words_is_an_answer() -> None:
    def scenario(it: Place) -> None:
        it.call()
        it.first.last.answers(b"", 404)
        assert (it.caller.said, it.caller.status) == (["whole"], 404)

    relayed(ONE, scenario)


def test_what_is_refused_is_freed_without_the_collector() -> None:
    def scenario(it: Place) -> None:
        gc.disable()
        gc.freeze()
        try:
            run = it.call(NOT_SAID)
            assert it.caller.said == ["refuse"]
            run.ended(400)
            del run
            assert not [each for each in gc.get_objects() if isinstance(each, Run | Attempt)]
        finally:
            gc.enable()

    relayed(FOREIGN, scenario)


@pytest.mark.parametrize("end", ["cut", "left"])
def test_what_was_used_of_a_stream_that_has_no_end_is_counted(end: str) -> None:
    at = MESSAGE_STREAM.index(b"event: content_block_stop")

    def scenario(it: Place) -> None:
        run = it.messages(MESSAGES_STREAM)
        it.other.last.streams(MESSAGE_STREAM[:at])
        if end == "cut":
            it.other.last.loses("cut")
        else:
            run.stop()
        timeline = run.ended(200 if end == "cut" else 0)
        assert timeline.usage == Usage(3, 1)
        assert it.measured()[LLM_TOKENS.name, "m", "other", "input"] == 3

    relayed(FOREIGN, scenario)


def test_the_usage_of_a_long_message_that_is_passed_on_is_read() -> None:
    body = MESSAGE.replace(b"Hello", b"x" * 3 * LLM_WHOLE_BYTES)

    def scenario(it: Place) -> None:
        run = it.messages()
        it.other.last.heard.head(200, JSON)
        for begin in range(0, len(body), 50_000):
            it.other.last.heard.body(body[begin : begin + 50_000])
        it.other.last.ends()
        assert (it.caller.said, it.caller.body) == (["begin", "finish"], body)
        assert run.ended(200).usage == Usage(3, 2)

    relayed(FOREIGN, scenario)


@pytest.mark.parametrize("said", [b"", ANSWER[:-1], ANSWER[:40], b"<html>Bad gateway</html>"])
def test_an_answer_that_is_not_all_there_goes_elsewhere(said: bytes) -> None:
    """A body without a length ends with its connection, so it may have been cut."""

    def scenario(it: Place) -> None:
        it.call()
        it.first.last.answers(said)
        it.second.last.answers(said)
        assert it.caller.error is not None
        assert (it.caller.said, it.caller.error.http) == (["refuse"], 502)

    relayed(FALLBACK, scenario)


def test_what_cannot_be_read_here_but_by_its_caller_is_passed_on() -> None:
    def scenario(it: Place) -> None:
        it.call(STREAM)
        it.first.last.answers(WHOLE_STREAM, headers=[])
        assert (it.caller.said, it.caller.body) == (["whole"], WHOLE_STREAM)

    relayed(ONE, scenario)

    def scenario_of_coded(it: Place) -> None:
        headers = [*JSON, (b"content-encoding", b"gzip")]
        it.call()
        it.first.last.answers(b"\x1f\x8b\0", headers=headers)
        assert (it.caller.headers, it.caller.body) == (headers, b"\x1f\x8b\0")

    relayed(ONE, scenario_of_coded)


def test_a_stream_of_two_choices_that_ends_with_one_of_them_is_cut() -> None:
    second = LO.replace(b'"index":0', b'"index":1')

    def scenario(it: Place) -> None:
        it.call(STREAM)
        it.first.last.streams(ROLE, HEL, second, STOP)
        it.first.last.ends()
        assert it.caller.said == ["begin", "break off"]

    relayed(ONE, scenario)


def test_a_body_that_can_be_sent_no_more_is_not_kept() -> None:
    def scenario(it: Place) -> None:
        run = it.call(STREAM)
        it.first.last.streams(ROLE)
        assert run.call.body == STREAM, "it may yet go elsewhere"
        it.first.last.heard.body(HEL)
        assert run.call.body == b""

    relayed(ONE, scenario)


def test_what_was_said_of_a_body_is_not_said_of_another() -> None:
    def scenario(it: Place) -> None:
        it.call()
        it.other.last.answers(MESSAGE, headers=[*JSON, (b"content-encoding", b"br")])
        assert it.caller.headers == JSON

    relayed(FOREIGN, scenario)

    def scenario_of_event(it: Place) -> None:
        it.call(STREAM)
        it.first.last.streams(b'data: {"error":{"message":"no","code":400}}\n\n')
        assert (it.caller.status, it.caller.headers) == (400, JSON)

    relayed(ONE, scenario_of_event)
