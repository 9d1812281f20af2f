"""A translated stream is read by the other vendor's SDK, and accumulates to the translated answer.

Held against anthropic 1.17 (`anthropic.lib.streaming.MessageStream`, `RawMessageStreamEvent`) and
openai 3.57 (`openai.lib.streaming.chat.ChatCompletionStream`, `ChatCompletionChunk`): the SDKs' own
clients, decoders and accumulators read the bytes, from a transport that sends them.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialects import (
    check_chunks,
    check_events,
    completion_of,
    message_of,
    plain,
    read_completion,
    read_message,
)
from laws import examples
from paceline.gateway.sse import Event, Parser, write
from paceline.gateway.translate import answers
from paceline.gateway.translate.streams import CHAT_PING, ToChat, ToMessages
from paceline.terms.limits import TRANSLATED_CALLS
from sdks import anthropic, openai
from translated_answers import Body, chat_answers, compact, messages_answers

FEW = examples(20)
MANY = settings(max_examples=500, deadline=None)

CREATED = 1_795_000_000
MODEL = "ours"

Machine = ToMessages | ToChat


def to_messages() -> ToMessages:
    return ToMessages(MODEL)


def to_chat(wants_usage: bool = True) -> ToChat:
    return ToChat(MODEL, CREATED, wants_usage=wants_usage)


def through(machine: Machine, stream: bytes) -> bytes:
    out = [piece for event in Parser().feed(stream) for piece in machine.feed(event)]
    return b"".join([*out, *machine.end()])


def told(stream: bytes) -> list[Body]:
    """The events that hold JSON, but for pings."""
    events = [event.data for event in Parser().feed(stream) if event.data.startswith(b"{")]
    return [each for each in map(json.loads, events) if each.get("type") != "ping"]


def kinds(stream: bytes) -> list[tuple[str, int | None]]:
    return [(each["type"], each.get("index")) for each in told(stream)]


# Streams as the vendors send them, cut into fragments at random.


def fragments(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.sets(st.integers(1, max(len(text) - 1, 1)), max_size=3)))
    edges = [0, *cuts, len(text)]
    pieces = (text[a:b] for a, b in pairwise(edges))
    return [piece for piece in pieces if piece]


def chunk(delta: Body | None, finish: str | None = None, **rest: object) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    body = {
        "id": "chatcmpl-9f",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": "theirs-2026-11-30",
        "choices": [] if delta is None else [choice],
        **rest,
    }
    return write(compact(body).encode())


DONE = write(b"[DONE]")


def call(index: int | None, **fields: object) -> Body:
    numbered = {} if index is None else {"index": index}
    return {"tool_calls": [{**numbered, **fields}]}


def begun(index: int | None, id: str, name: str = "f", arguments: str = "") -> Body:
    function = {"name": name, "arguments": arguments}
    return call(index, id=id, type="function", function=function)


def argued(index: int | None, arguments: str) -> Body:
    return call(index, function={"arguments": arguments})


def chat_stream(draw: st.DrawFn, answer: Body) -> bytes:
    message = answer["choices"][0]["message"]
    rest = {"service_tier": answer["service_tier"], "usage": None}
    deltas: list[Body] = [{"role": "assistant", "content": None}]
    for field in ("reasoning_content", "content"):
        deltas += [{field: piece} for piece in fragments(draw, message.get(field) or "")]
    waiting: list[list[Body]] = []
    for index, each in enumerate(message.get("tool_calls") or []):
        function = each["function"]
        pieces = [argued(index, piece) for piece in fragments(draw, function["arguments"])]
        waiting.append([begun(index, each["id"], function["name"]), *pieces])
    mixed = draw(st.booleans())
    if mixed:  # a call begins after the one before it, and then they go on as they like
        deltas += [pieces.pop(0) for pieces in waiting]
    while waiting := [pieces for pieces in waiting if pieces]:
        deltas.append((draw(st.sampled_from(waiting)) if mixed else waiting[0]).pop(0))
    chunks = [chunk(delta, **rest) for delta in deltas]
    chunks.append(chunk({}, answer["choices"][0]["finish_reason"], **rest))
    chunks.append(chunk(None, **{**rest, "usage": answer["usage"]}))
    return b"".join([*chunks, DONE])


def event(type: str, **fields: object) -> bytes:
    return write(compact({"type": type, **fields}).encode(), type.encode())


def starts(**usage: object) -> bytes:
    message = {"id": "msg_9f", "type": "message", "role": "assistant", "content": []}
    return event("message_start", message={**message, "model": "theirs", "usage": usage})


def block(index: int, content: Body, *deltas: Body) -> list[bytes]:
    return [
        event("content_block_start", index=index, content_block=content),
        *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
        event("content_block_stop", index=index),
    ]


def ends(stop: str = "end_turn", **rest: object) -> list[bytes]:
    delta = {"stop_reason": stop, "stop_sequence": None, **rest}
    return [event("message_delta", delta=delta, usage={"output_tokens": 7}), event("message_stop")]


def messages_stream(draw: st.DrawFn, answer: Body) -> bytes:
    usage = dict(answer["usage"])
    final = {"output_tokens": usage.pop("output_tokens")}
    if details := usage.pop("output_tokens_details", None):
        final["output_tokens_details"] = details
    out = [starts(**usage, output_tokens=1), event("ping")]
    for index, each in enumerate(answer["content"]):
        kind = each["type"]
        deltas: list[Body] = []
        empty = dict(each)
        if kind == "text":
            empty["text"] = ""
            deltas = [{"type": "text_delta", "text": f} for f in fragments(draw, each["text"])]
        elif kind == "thinking":
            empty |= {"thinking": "", "signature": ""}
            pieces = fragments(draw, each["thinking"])
            deltas = [{"type": "thinking_delta", "thinking": f} for f in pieces]
            deltas.append({"type": "signature_delta", "signature": each["signature"]})
        elif kind == "tool_use":
            empty["input"] = {}
            given = compact(each["input"]) if each["input"] else ""
            pieces = ["", *fragments(draw, given)]
            deltas = [{"type": "input_json_delta", "partial_json": f} for f in pieces]
        out += block(index, empty, *deltas)
    stopped = {name: answer.get(name) for name in ("stop_reason", "stop_sequence", "stop_details")}
    out += [event("message_delta", delta=stopped, usage=final), event("message_stop")]
    return b"".join(out)


@st.composite
def chat_streams(draw: st.DrawFn) -> tuple[Body, bytes]:
    answer = draw(chat_answers())
    return answer, chat_stream(draw, answer)


@st.composite
def messages_streams(draw: st.DrawFn) -> tuple[Body, bytes]:
    answer = draw(messages_answers())
    return answer, messages_stream(draw, answer)


def check_to_messages(told: tuple[Body, bytes]) -> None:
    answer, stream = told
    there = through(to_messages(), stream)
    check_events(there)
    whole = read_message(answers.to_messages(json.dumps(answer).encode(), MODEL))
    assert message_of(there) == plain(whole)


def check_to_chat(told: tuple[Body, bytes]) -> None:
    answer, stream = told
    there = through(to_chat(), stream)
    check_chunks(there)
    whole = read_completion(answers.to_chat(json.dumps(answer).encode(), MODEL, CREATED))
    assert completion_of(there) == plain(whole)


@FEW
@given(chat_streams())
def test_chat_chunks_accumulate_to_the_translated_answer(told: tuple[Body, bytes]) -> None:
    check_to_messages(told)


@FEW
@given(messages_streams())
def test_events_accumulate_to_the_translated_answer(told: tuple[Body, bytes]) -> None:
    check_to_chat(told)


@pytest.mark.slow
@MANY
@given(chat_streams(), messages_streams())
def test_and_so_do_many(of_chat: tuple[Body, bytes], of_messages: tuple[Body, bytes]) -> None:
    check_to_messages(of_chat)
    check_to_chat(of_messages)


@FEW
@given(chat_streams())
def test_there_and_back_a_stream_says_the_same(told: tuple[Body, bytes]) -> None:
    answer, stream = told
    back = through(to_chat(), through(to_messages(), stream))
    once = answers.to_messages(json.dumps(answer).encode(), MODEL)
    whole = read_completion(answers.to_chat(once, MODEL, CREATED))
    assert completion_of(back) == plain(whole)


@FEW
@given(chat_streams(), messages_streams())
def test_what_is_made_up_here_is_what_the_sdks_read(
    of_chat: tuple[Body, bytes], of_messages: tuple[Body, bytes]
) -> None:
    """Else the laws above would hold for streams that nobody sends."""
    answer, stream = of_chat
    check_chunks(stream)
    assert completion_of(stream)["usage"] == answer["usage"]
    answer, stream = of_messages
    check_events(stream)
    content = [each.get("input") for each in message_of(stream)["content"]]
    assert content == [each.get("input") for each in answer["content"]]


# One by one.


def test_the_events_of_a_message_come_in_order() -> None:
    stream = b"".join(
        [
            chunk({"role": "assistant", "content": ""}),
            chunk({"content": "Let me "}),
            chunk({"content": "see."}),
            chunk(begun(0, "a")),
            chunk(argued(0, '{"x": 1}')),
            chunk(begun(1, "b")),
            chunk(argued(1, "{}")),
            chunk({}, "tool_calls"),
            DONE,
        ]
    )
    there = through(to_messages(), stream)
    assert kinds(there) == [
        ("message_start", None),
        ("content_block_start", 0),
        ("content_block_delta", 0),
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_delta", 1),
        ("content_block_stop", 1),
        ("content_block_start", 2),
        ("content_block_delta", 2),
        ("content_block_stop", 2),
        ("message_delta", None),
        ("message_stop", None),
    ]
    assert b"event: ping\n" in there


def test_text_after_a_call_is_a_block_of_its_own() -> None:
    deltas = [{"content": "a"}, begun(0, "x"), argued(0, "{}"), {"content": "b"}, {"content": "c"}]
    stream = b"".join([*map(chunk, deltas), chunk({}, "tool_calls"), DONE])
    content = message_of(through(to_messages(), stream))["content"]
    assert [each.get("text") for each in content] == ["a", None, "bc"]


def test_calls_whose_fragments_are_mixed_are_told_apart() -> None:
    deltas = [
        begun(0, "x"),
        argued(0, '{"q": "}'),
        begun(1, "y"),
        argued(1, "{}"),
        argued(0, "\\"),
        argued(0, '""}'),
    ]
    stream = b"".join([*map(chunk, deltas), chunk({}, "tool_calls"), DONE])
    there = through(to_messages(), stream)
    content = message_of(there)["content"]
    assert [each["input"] for each in content] == [{"q": '}"'}, {}]
    assert kinds(there)[-4:] == [
        ("content_block_stop", 0),
        ("content_block_stop", 1),
        ("message_delta", None),
        ("message_stop", None),
    ]


def test_a_quote_is_known_to_be_escaped_across_fragments() -> None:
    deltas = [
        begun(0, "x"),
        argued(0, '{"q": "\\'),
        argued(0, '"}'),
        begun(1, "y", arguments="{}"),
        argued(0, '"}'),
    ]
    stream = b"".join([*map(chunk, deltas), chunk({}, "tool_calls"), DONE])
    content = message_of(through(to_messages(), stream))["content"]
    assert [each["input"] for each in content] == [{"q": '"}'}, {}]


@pytest.mark.parametrize(
    "deltas",
    [
        [begun(0, "x", arguments='{"a":'), argued(0, "1}"), begun(0, "y", arguments="{}")],
        [begun(None, "x", arguments='{"a":'), argued(None, "1}"), begun(None, "y", "f", "{}")],
        [begun(0, "x", arguments='{"a":'), begun(0, "x", "", "1}"), begun(1, "y", "f", "{}")],
        [
            {
                "tool_calls": [
                    begun(0, "x", "f", '{"a":1}')["tool_calls"][0],
                    *begun(1, "y", "f", "{}")["tool_calls"],
                ]
            }
        ],
    ],
    ids=["all are numbered 0", "none is numbered", "ids are repeated", "several in a chunk"],
)
def test_calls_are_told_apart_however_a_provider_does_it(deltas: list[Body]) -> None:
    stream = b"".join([*map(chunk, deltas), chunk({}, "tool_calls"), DONE])
    content = message_of(through(to_messages(), stream))["content"]
    assert [(each["id"], each["input"]) for each in content] == [("x", {"a": 1}), ("y", {})]


def test_usage_is_told_where_each_dialect_has_it() -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 6},
    }
    stream = b"".join([chunk({"content": "a"}), chunk({}, "stop"), chunk(None, usage=usage), DONE])
    start, *_, delta, _ = told(through(to_messages(), stream))
    assert start["message"]["usage"]["input_tokens"] == 0
    assert delta["usage"] == {
        "input_tokens": 4,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 6,
        "output_tokens": 4,
    }


def test_usage_has_its_chunk_where_it_was_asked_for() -> None:
    text = block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "a"})
    stream = b"".join([starts(input_tokens=5, cache_read_input_tokens=3), *text, *ends()])
    *others, last = told(through(to_chat(), stream))
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == 8
    assert last["usage"]["completion_tokens"] == 7
    assert all(each["usage"] is None for each in others)
    unasked = told(through(to_chat(wants_usage=False), stream))
    assert len(unasked) == len(others)
    assert not any("usage" in each for each in unasked)
    for wants_usage in (True, False):
        assert through(to_chat(wants_usage), stream).endswith(DONE)


def test_the_role_comes_first_and_a_call_with_its_id_and_name() -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
    given = [{"type": "input_json_delta", "partial_json": each} for each in ("", '{"a"', ": 1}")]
    stream = b"".join([starts(), *block(0, use, *given), *ends("tool_use")])
    deltas = [each["choices"][0]["delta"] for each in told(through(to_chat(False), stream))]
    first, *rest = deltas
    assert first["role"] == "assistant"
    assert first["tool_calls"] == [
        {
            "index": 0,
            "id": "toolu_1",
            "type": "function",
            "function": {"name": "f", "arguments": ""},
        }
    ]
    assert rest == [argued(0, '{"a"'), argued(0, ": 1}"), {}]


def test_a_call_without_arguments_has_an_empty_object() -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
    stream = b"".join([starts(), *block(0, use), *ends("tool_use")])
    choice = completion_of(through(to_chat(), stream))["choices"][0]
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == {}
    unended = b"".join([starts(), *block(0, use)[:-1], *ends("tool_use")])
    assert completion_of(through(to_chat(), unended))["choices"][0] == choice


def test_a_refusal_is_told_as_one() -> None:
    stream = b"".join(
        [chunk({"refusal": "I would "}), chunk({"refusal": "not."}), chunk({}, "stop"), DONE]
    )
    message = message_of(through(to_messages(), stream))
    assert message["content"] == [{"type": "text", "text": "I would not."}]
    assert message["stop_reason"] == "refusal"
    details = {"type": "refusal", "category": None, "explanation": "A policy."}
    stream = b"".join([starts(), *ends("refusal", stop_details=details)])
    choice = completion_of(through(to_chat(), stream))["choices"][0]
    assert choice["message"]["refusal"] == "A policy."
    assert choice["finish_reason"] == "content_filter"


def test_a_ping_keeps_the_connection_busy_and_says_nothing() -> None:
    machine = to_chat()
    [ping] = machine.feed(Event(b"ping", b'{"type": "ping"}', b""))
    assert ping == CHAT_PING
    assert Parser().feed(ping)[0].data == b""
    assert to_messages().feed(Event(None, b"", b": keep-alive\n\n")) == []


def test_events_and_blocks_that_are_not_known_are_passed_over() -> None:
    search = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    query = {"type": "input_json_delta", "partial_json": '{"query": "x"}'}
    cited = {"type": "citations_delta", "citation": {"type": "char_location"}}
    text = block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": "a"}, cited)
    stream = b"".join(
        [starts(), event("invented_tomorrow", x=1), *block(0, search, query), *text, *ends()]
    )
    there = through(to_chat(), stream)
    assert completion_of(there)["choices"][0]["message"] == {"role": "assistant", "content": "a"}
    azure = chunk(None, prompt_filter_results=[])
    other = b'data: {"choices": [{"index": 1, "delta": {"content": "x"}}]}\n\n'
    stream = b"".join([azure, chunk({"content": "a"}), other, chunk({}, "stop"), DONE])
    assert message_of(through(to_messages(), stream))["content"] == [{"type": "text", "text": "a"}]


# What ends badly.


def unmarked(stream: bytes) -> bool:
    return b"[DONE]" not in stream and b"message_stop" not in stream


def last_error(stream: bytes) -> Body:
    error: Body = told(stream)[-1]["error"]
    return error


LONG_CHAT = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "a"}),
    chunk(begun(0, "x")),
    chunk(argued(0, '{"a')),
    chunk(argued(0, '": 1}')),
    chunk({}, "tool_calls"),
    chunk(None, usage={"prompt_tokens": 1, "completion_tokens": 1}),
]
LONG_MESSAGES = [
    starts(input_tokens=1),
    *block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "a"}),
    *block(1, {"type": "tool_use", "id": "x", "name": "f", "input": {}}),
    ends()[0],
]

CASES: list[tuple[Callable[[], Machine], list[bytes]]] = [
    (to_messages, LONG_CHAT),
    (to_chat, LONG_MESSAGES),
]


@pytest.mark.parametrize(("machine", "events"), CASES, ids=["chat", "messages"])
def test_a_stream_that_is_cut_anywhere_ends_with_an_error_and_no_mark(
    machine: Callable[[], Machine], events: list[bytes]
) -> None:
    for cut in range(len(events) + 1):
        one = machine()
        there = through(one, b"".join(events[:cut]))
        assert one.state == "broken"
        assert unmarked(there)
        assert "cut off" in last_error(there)["message"]
        assert one.end() == []


def test_the_sdks_raise_at_a_cut_stream() -> None:
    with pytest.raises(anthropic.APIError, match="cut off"):
        message_of(through(to_messages(), b"".join(LONG_CHAT)))
    with pytest.raises(openai.APIError, match="cut off"):
        completion_of(through(to_chat(), b"".join(LONG_MESSAGES)))


def test_an_error_of_the_provider_is_told_as_the_callers_dialect_has_it() -> None:
    error = {"message": "Slow down.", "type": "tokens", "code": "rate_limit_exceeded"}
    stream = chunk({"content": "a"}) + write(json.dumps({"error": error}).encode()) + DONE
    there = through(to_messages(), stream)
    assert unmarked(there)
    assert last_error(there) == {"type": "rate_limit_error", "message": "Slow down."}
    with pytest.raises(anthropic.APIError, match="Slow down"):
        message_of(there)
    overloaded = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    there = through(to_chat(), b"".join([starts(), overloaded, *ends()]))
    assert unmarked(there)
    assert last_error(there)["code"] == "overloaded"
    with pytest.raises(openai.APIError, match="Overloaded"):
        completion_of(there)


GARBAGE = [
    b"{",
    b"[]",
    b"5",
    b'{"choices": 5, "type": 5}',
    b"\xff",
    b"<html>",
    b'{"choices":' + b"[" * 9999,
]


@pytest.mark.parametrize("data", GARBAGE, ids=lambda data: repr(data[:20]))
def test_what_cannot_be_read_ends_a_stream_without_its_mark(data: bytes) -> None:
    for machine, events in CASES:
        one = machine()
        there = through(one, b"".join([*events, write(data), DONE, *ends()]))
        assert one.state == "broken"
        assert unmarked(there)
        assert "cannot be read" in last_error(there)["message"]


def test_an_end_without_a_beginning_is_none() -> None:
    assert unmarked(through(to_messages(), DONE))
    assert unmarked(through(to_chat(), b"".join(ends())))


def test_nothing_comes_after_the_end() -> None:
    one: Machine
    for one, events in (
        (to_messages(), [*LONG_CHAT, DONE]),
        (to_chat(), [*LONG_MESSAGES, event("message_stop")]),
    ):
        through(one, b"".join(events))
        assert one.state == "whole"
        assert all(one.feed(each) == [] for each in Parser().feed(b"".join(events)))
        assert one.end() == []


def test_there_are_so_many_calls_and_no_more() -> None:
    for count, state in ((TRANSLATED_CALLS, "whole"), (TRANSLATED_CALLS + 1, "broken")):
        calls = [chunk(begun(at, f"c{at}", arguments="{}")) for at in range(count)]
        one: Machine = to_messages()
        through(one, b"".join([*calls, chunk({}, "tool_calls"), DONE]))
        assert one.state == state
        use = {"type": "tool_use", "id": "x", "name": "f", "input": {}}
        blocks = [each for at in range(count) for each in block(at, use)]
        one = to_chat()
        through(one, b"".join([starts(), *blocks, *ends("tool_use")]))
        assert one.state == state


def _sizes(value: object) -> Iterator[int]:
    yield sys.getsizeof(value)
    if isinstance(value, dict):
        for each in value.values():
            yield from _sizes(each)
    elif isinstance(value, tuple):
        for each in value:
            yield from _sizes(each)
    for name in getattr(value, "__slots__", ()):
        yield from _sizes(getattr(value, name))


def _remembered(machine: Machine, events: Iterable[bytes]) -> int:
    for each in events:
        for event in Parser().feed(each):
            machine.feed(event)
    assert machine.state == "open"
    return sum(_sizes(machine))


def test_what_is_remembered_does_not_grow_with_the_answer() -> None:
    argue = chunk(argued(0, "x" * 500))
    chat = [chunk(begun(0, "x", arguments='{"a": "')), argue, argue]
    assert _remembered(to_messages(), [*chat, *[argue] * 300]) == _remembered(to_messages(), chat)
    delta = {"type": "text_delta", "text": "x" * 500}
    say = event("content_block_delta", index=0, delta=delta)
    text = [starts(), event("content_block_start", index=0, content_block={"type": "text"}), say]
    assert _remembered(to_chat(), [*text, *[say] * 300]) == _remembered(to_chat(), text)


FIELDS = [
    *["choices", "delta", "tool_calls", "function", "index", "id", "name", "arguments", "content"],
    *["finish_reason", "usage", "error", "type", "message", "content_block", "text", "input"],
    *["partial_json", "stop_reason"],
]

pieces: st.SearchStrategy[Any] = st.sampled_from(
    [None, "", "x", 0, -1, 3, [], {}, [None], [{}], [[]], "text", "tool_use", "text_delta"]
)
shapes: st.SearchStrategy[Any] = st.recursive(
    pieces,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(FIELDS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
event_kinds = st.sampled_from(
    ["content_block_start", "content_block_delta", "content_block_stop", "message_delta", "error"]
)


@examples(60)
@given(st.lists(st.tuples(event_kinds, shapes), max_size=4))
def test_whatever_comes_an_event_is_translated_or_ends_the_stream(
    events: list[tuple[str, Any]],
) -> None:
    first: list[bytes] = [LONG_CHAT[0], starts()]
    for one, begins in ((to_messages(), first[0]), (to_chat(), first[1])):
        stream = [begins]
        for kind, body in events:
            typed = {"type": kind, **body} if isinstance(body, dict) else body
            stream.append(write(json.dumps(typed).encode(), kind.encode()))
            choice = {"choices": [body]} if isinstance(body, dict) else body
            stream.append(write(json.dumps(choice).encode()))
        there = through(one, b"".join(stream))
        assert one.state == "broken"
        assert unmarked(there)
