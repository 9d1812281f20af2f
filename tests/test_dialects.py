"""The two dialects: what is read and changed of bodies, what answers and streams tell."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.gateway import anthropic, openai
from paceline.gateway.call import Asked, Endpoint
from paceline.gateway.passing import Passing, Sign
from paceline.gateway.sse import Event, Parser, write
from paceline.gateway.usage import Told, Usage
from paceline.terms.errors import BadField, BadJson, PacelineError
from paceline.terms.limits import LLM_TOKENS_TOLD, PARSE_IN_PLACE_BYTES

# --- Requests -------------------------------------------------------------------------------------

MESSAGES = '"messages":[{"role":"user","content":"Hello"}]'


@pytest.mark.parametrize(
    ("endpoint", "body", "asked"),
    [
        ("chat", f'{{"model":"m",{MESSAGES}}}', Asked("m")),
        (
            "chat",
            f'{{{MESSAGES},"stream":false,"model":"m","max_tokens":7}}',
            Asked("m", most_tokens=7),
        ),
        (
            "chat",
            f'{{"model":"m",{MESSAGES},"max_tokens":7,"max_completion_tokens":8}}',
            Asked("m", most_tokens=8),
        ),
        ("chat", f'{{"model":"m",{MESSAGES},"stream":true}}', Asked("m", True, False)),
        (
            "chat",
            f'{{"model":"m",{MESSAGES},"stream":true,"stream_options":{{"include_usage":true}}}}',
            Asked("m", True, True),
        ),
        (
            "chat",
            f'{{"model":"m",{MESSAGES},"stream":true,"stream_options":{{"include_usage":null}}}}',
            Asked("m", True, False),
        ),
        (
            "chat",
            f'{{"model":"m",{MESSAGES},"stream":true,"stream_options":null,"max_tokens":null}}',
            Asked("m", True, False),
        ),
        ("completions", '{"model":"m","prompt":"x","stream":true}', Asked("m", True, False)),
        ("embeddings", '{"model":"m","input":"x"}', Asked("m")),
        ("moderations", '{"input":"x"}', Asked("omni-moderation-latest")),
        ("moderations", '{"input":"x","model":"m"}', Asked("m")),
        ("responses", '{"model":"m","input":"x","stream":true}', Asked("m", True, True)),
        ("responses", '{"model":"m","max_output_tokens":9}', Asked("m", most_tokens=9)),
        ("other", '{"model":"m","stream":true}', Asked("m", True)),
        ("other", "--boundary", Asked("")),
        ("other", "", Asked("")),
    ],
)
def test_what_is_read_of_a_body_of_openais(endpoint: Endpoint, body: str, asked: Asked) -> None:
    assert openai.read(endpoint, body.encode()) == asked


@pytest.mark.parametrize(
    ("endpoint", "body", "param"),
    [
        ("chat", "[]", None),
        ("chat", "{}", "model"),
        ("chat", f'{{"model":5,{MESSAGES}}}', "model"),
        ("chat", f'{{"model":null,{MESSAGES}}}', "model"),
        ("chat", f'{{"model":"",{MESSAGES}}}', "model"),
        ("chat", f'{{"model":"m",{MESSAGES},"model":"n"}}', "model"),
        ("chat", '{"model":"m"}', "messages"),
        ("chat", '{"model":"m","messages":"Hello"}', "messages"),
        ("chat", '{"model":"m","messages":null}', "messages"),
        ("chat", f'{{"model":"m",{MESSAGES},"stream":"true"}}', "stream"),
        ("chat", f'{{"model":"m",{MESSAGES},"max_tokens":-1}}', "max_tokens"),
        (
            "chat",
            f'{{"model":"m",{MESSAGES},"max_completion_tokens":"5"}}',
            "max_completion_tokens",
        ),
        ("chat", f'{{"model":"m",{MESSAGES},"stream":true,"stream_options":[]}}', "stream_options"),
        ("embeddings", '{"model":"m"}', "input"),
        ("moderations", "{}", "input"),
        ("moderations", '{"input":"x","model":5}', "model"),
        ("responses", '{"input":"x"}', "model"),
    ],
)
def test_what_cannot_be_read_of_it_is_told_with_its_place(
    endpoint: Endpoint, body: str, param: str | None
) -> None:
    with pytest.raises(BadField) as caught:
        openai.read(endpoint, body.encode())
    assert caught.value.param == param
    assert caught.value.http == 400


@pytest.mark.parametrize(
    ("endpoint", "body", "asked"),
    [
        ("messages", f'{{"model":"m","max_tokens":5,{MESSAGES}}}', Asked("m", most_tokens=5)),
        (
            "messages",
            f'{{"model":"m","max_tokens":5,{MESSAGES},"stream":true}}',
            Asked("m", True, True, 5),
        ),
        ("count_tokens", f'{{"model":"m",{MESSAGES}}}', Asked("m")),
    ],
)
def test_what_is_read_of_a_body_of_anthropics(endpoint: Endpoint, body: str, asked: Asked) -> None:
    assert anthropic.read(endpoint, body.encode()) == asked


@pytest.mark.parametrize(
    ("endpoint", "body", "param"),
    [
        ("messages", "[]", None),
        ("messages", f'{{"max_tokens":5,{MESSAGES}}}', "model"),
        ("messages", f'{{"model":"m",{MESSAGES}}}', "max_tokens"),
        ("messages", f'{{"model":"m","max_tokens":null,{MESSAGES}}}', "max_tokens"),
        ("messages", '{"model":"m","max_tokens":5}', "messages"),
        ("messages", f'{{"model":"m","max_tokens":5,{MESSAGES},"stream":1}}', "stream"),
        ("count_tokens", '{"model":"m"}', "messages"),
    ],
)
def test_what_cannot_be_read_of_that(endpoint: Endpoint, body: str, param: str | None) -> None:
    with pytest.raises(BadField) as caught:
        anthropic.read(endpoint, body.encode())
    assert caught.value.param == param


@pytest.mark.parametrize("read", [openai.read, anthropic.read])
def test_malformed_json(read: Any) -> None:
    with pytest.raises(BadJson):
        read("chat" if read is openai.read else "messages", b'{"model":')


def test_a_model_has_another_name() -> None:
    body = b' { "messages" : [{"model":"m"}], "model" : "m", "x":1.50e0, "y":"\\u00e9" }\n'
    assert openai.with_model(body, 'ö"n') == body.replace(b': "m"', ': "ö\\"n"'.encode())
    assert openai.with_model(b'{"input":"x"}', "n") == b'{"model":"n","input":"x"}'
    assert anthropic.with_model(body, "n") == body.replace(b': "m"', b': "n"')


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"model":"m"}', '{"stream_options":{"include_usage":true},"model":"m"}'),
        ('{"stream_options":null}', '{"stream_options":{"include_usage":true}}'),
        ('{"stream_options":{}}', '{"stream_options":{"include_usage":true}}'),
        (
            '{"stream_options": {"include_obfuscation" :false} }',
            '{"stream_options": {"include_usage":true,"include_obfuscation" :false} }',
        ),
        ('{"stream_options":{"include_usage":false}}', '{"stream_options":{"include_usage":true}}'),
    ],
)
def test_a_stream_is_asked_for_its_usage(before: str, after: str) -> None:
    assert openai.with_usage(before.encode()).decode() == after


# --- Whole answers --------------------------------------------------------------------------------

CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-5-mini-2025-08-07",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": 'He said: "usage": {"prompt_tokens": 9}'},
            "finish_reason": "length",
        }
    ],
    "usage": {
        "prompt_tokens": 2006,
        "completion_tokens": 300,
        "total_tokens": 2306,
        "prompt_tokens_details": {"cached_tokens": 1920, "cache_write_tokens": 50},
        "completion_tokens_details": {"reasoning_tokens": 64, "audio_tokens": 0},
    },
    "service_tier": "default",
}


def test_a_chat_answer() -> None:
    told = openai.told(json.dumps(CHAT).encode())
    assert told == Told(
        Usage(2006, 300, 1920, 50, 0, 64), "length", "gpt-5-mini-2025-08-07", "chatcmpl-1"
    )
    assert told.usage
    assert told.usage.fresh_tokens == 36


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 8, "total_tokens": 8}, Usage(8)),
        ({"prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 10}, Usage(8, 2)),
        # Reasoning that is in the total alone, as of xAI and of Google in this dialect.
        (
            {"prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 40},
            Usage(8, 32, 0, 0, 0, 30),
        ),
        (
            {
                "prompt_tokens": 8,
                "completion_tokens": 2,
                "total_tokens": 40,
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
            Usage(8, 32, 0, 0, 0, 30),
        ),
        ({"prompt_tokens": 8, "prompt_cache_hit_tokens": 6}, Usage(8, 0, 6)),
        (
            {
                "input_tokens": 36,
                "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 2},
                "output_tokens": 87,
                "output_tokens_details": {"reasoning_tokens": 80},
                "total_tokens": 123,
            },
            Usage(36, 87, 30, 2, 0, 80),
        ),
        ({"prompt_tokens": 8, "prompt_tokens_details": None}, Usage(8)),
    ],
)
def test_usage_in_openais_words(usage: object, expected: Usage) -> None:
    assert openai.told(json.dumps({"usage": usage}).encode()).usage == expected


@pytest.mark.parametrize("tokens", [-1, LLM_TOKENS_TOLD + 1, 10**30])
def test_a_number_of_tokens_that_cannot_be_is_not_believed(tokens: int) -> None:
    """And the answer is read all the same."""
    of_input, of_output = (
        {"prompt_tokens": tokens},
        {"prompt_tokens": 3, "completion_tokens": tokens},
    )
    for usage in (of_input, of_output):
        told = openai.told(json.dumps({"id": "c", "usage": usage}).encode())
        assert (told.usage, told.id) == (None, "c")
    for name in ("input_tokens", "output_tokens", "cache_read_input_tokens"):
        message = {"id": "m", "usage": {"input_tokens": 3, "output_tokens": 4, name: tokens}}
        told = anthropic.told(json.dumps(message).encode())
        assert (told.usage, told.id) == (None, "m")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"usage":null}', b'{"usage":{"prompt_tokens":"x"}}', b'"\xff"']
)
def test_an_answer_that_says_nothing(body: bytes) -> None:
    assert openai.told(body).usage is None
    assert anthropic.told(body).usage is None


def test_the_usage_of_a_long_answer_is_found_at_either_end() -> None:
    usage = (
        '"usage":{"prompt_tokens":8,"prompt_tokens_details":{"cached_tokens":2},"total_tokens":8}'
    )
    vectors = f'"data":[{",".join(["[0.5,1]"] * 20_000)}]'
    for body in (f'{{"model":"m",{vectors},{usage}}}', f'{{{usage},"object":"list",{vectors}}}'):
        assert openai.told(body.encode()).usage == Usage(8, 0, 2)
    assert openai.told(f"{{{vectors}}}".encode()).usage is None


def test_so_is_that_of_a_long_message_whatever_else_is_named_so() -> None:
    usage = {
        "input_tokens": 10,
        "cache_read_input_tokens": 2000,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 9000,
        "iterations": [{"input_tokens": 1, "cache_creation": {"ephemeral_1h_input_tokens": 0}}],
    }
    says = {"type": "text", "text": 'He said "usage": {"input_tokens": 1}. ' * 4000}
    calls = {"type": "tool_use", "id": "t", "name": "f", "input": {"usage": {"input_tokens": 1}}}
    body = {"type": "message", "content": [says, calls], "usage": usage}
    for separators in ((",", ":"), (", ", ": ")):
        written = json.dumps(body, separators=separators).encode()
        assert anthropic.told(written).usage == Usage(2010, 9000, 2000)
        assert anthropic.told(written[-PARSE_IN_PLACE_BYTES - 1 :]).usage == Usage(2010, 9000, 2000)


@pytest.mark.parametrize("told", [openai.told, anthropic.told])
def test_an_answer_that_is_no_json_or_not_all_of_it_is_known(told: Any) -> None:
    body = b'{"id":"1","usage":{"input_tokens":3,"output_tokens":2},"more":[1,{"a":"b"}]}'
    assert told(body).readable
    assert told(b"[]").readable, "an odd one, but as it was sent"
    assert not any(told(body[:length]).readable for length in range(len(body)))
    assert not told(b"<html><body>Bad gateway</body></html>").readable


def test_an_error_under_a_good_status_is_seen() -> None:
    assert openai.told(b'{"error":{"message":"no","code":502}}').failed
    assert not openai.told(b'{"id":"resp_1","error":null,"status":"completed"}').failed
    failed = b'{"id":"resp_1","error":{"code":"server_error","message":"no"},"status":"failed"}'
    assert not openai.told(failed).failed, "a response that failed is one all the same"
    assert anthropic.told(b'{"type":"error","error":{"type":"api_error"}}').failed


def test_a_response() -> None:
    body: dict[str, object] = {
        "id": "resp_1",
        "model": "gpt-5",
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
        "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
    }
    assert openai.told(json.dumps(body).encode()) == Told(
        Usage(3, 4), "max_output_tokens", "gpt-5", "resp_1"
    )
    body |= {"status": "completed", "incomplete_details": None}
    assert openai.told(json.dumps(body).encode()).finish == "completed"


def test_a_message() -> None:
    body = {
        "id": "msg_1",
        "type": "message",
        "model": "claude-sonnet-4-5",
        "stop_reason": "end_turn",
        "usage": {
            "input_tokens": 10,
            "cache_read_input_tokens": 2000,
            "cache_creation_input_tokens": 300,
            "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100},
            "output_tokens": 50,
            "output_tokens_details": {"thinking_tokens": 20},
        },
    }
    usage = Usage(2310, 50, 2000, 300, 100, 20)
    assert usage.fresh_tokens == 10
    told = anthropic.told(json.dumps(body).encode())
    assert told == Told(usage, "end_turn", "claude-sonnet-4-5", "msg_1")


# --- Streams --------------------------------------------------------------------------------------


def compact(value: object) -> bytes:
    """As the vendors write it."""
    return json.dumps(value, separators=(",", ":")).encode()


def seen(passing: Passing, *events: tuple[str | None, object] | str) -> list[Sign]:
    """What each is, told with its name, or whole."""
    stream = b"".join(
        event.encode()
        if isinstance(event, str)
        else write(
            event[1].encode() if isinstance(event[1], str) else compact(event[1]),
            event[0].encode() if event[0] else None,
        )
        for event in events
    )
    return [passing.see(event) for event in Parser().feed(stream)]


def state(passing: Passing) -> str:
    names = ("begun", "ended", "failed")
    return " ".join(name for name in names if getattr(passing, name))


def chunk(delta: object, finish: str | None = None, **more: object) -> tuple[None, object]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return None, {"id": "c1", "model": "m-1", "choices": [choice], **more}


USAGE = {"prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 10}
FIRST = chunk({"role": "assistant", "content": "", "refusal": None})


def test_a_chat_stream() -> None:
    passing = openai.passing("chat")
    assert (
        seen(
            passing,
            ": OPENROUTER PROCESSING\n\n",
            (None, {"choices": [], "prompt_filter_results": []}),
            FIRST,
        )
        == ["empty"] * 3
    )
    assert state(passing) == ""
    assert (
        seen(passing, chunk({"content": "Hel"}), chunk({"content": "lo"}), chunk({}))
        == ["content"] * 3
    )
    assert state(passing) == "begun"
    assert seen(passing, chunk({}, "stop")) == ["content"]
    assert (passing.finish, passing.usage) == ("stop", None)
    assert seen(passing, (None, {"choices": [], "usage": USAGE})) == ["usage"]
    assert passing.usage == Usage(8, 2)
    assert state(passing) == "begun"
    assert seen(passing, (None, "[DONE]")) == ["end"]
    assert state(passing) == "begun ended"
    assert (passing.model, passing.id) == ("m-1", "c1")


@pytest.mark.parametrize(
    ("delta", "begins"),
    [
        ({"role": "assistant"}, False),
        ({"role": "assistant", "content": None}, False),
        ({"content": "", "tool_calls": []}, False),
        ({"content": "x"}, True),
        ({"reasoning_content": "x"}, True),
        ({"refusal": "x"}, True),
        (
            {"tool_calls": [{"index": 0, "id": "1", "function": {"name": "f", "arguments": ""}}]},
            True,
        ),
        ({"role": "assistant", "audio": {"id": "1"}}, True),
    ],
)
def test_what_begins_a_chat_answer(delta: object, begins: bool) -> None:
    passing = openai.passing("chat")
    assert seen(passing, chunk(delta)) == ["content" if begins else "empty"]
    assert passing.begun is begins


def test_an_answer_without_content_has_begun_when_it_says_how_it_ended() -> None:
    passing = openai.passing("chat")
    assert seen(passing, FIRST, chunk({}, "content_filter")) == ["empty", "content"]
    assert passing.finish == "content_filter"


def of_choice(index: int, delta: object, finish: str | None = None) -> tuple[None, object]:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return None, {"id": "c1", "choices": [choice]}


@given(
    st.lists(st.lists(st.sampled_from(["x", ""]), max_size=3), min_size=1, max_size=4), st.data()
)
def test_how_it_ended_is_known_when_every_choice_is_at_its_end(
    choices: list[list[str]], data: st.DataObject
) -> None:
    """However they come, one after the other or each with the others between."""
    rest = [
        [{"role": "assistant", "content": ""}, *({"content": text} for text in texts), None]
        for texts in choices
    ]
    passing = openai.passing("chat")
    begun: set[int] = set()
    while any(rest):
        index = data.draw(st.sampled_from([at for at, left in enumerate(rest) if left]))
        delta = rest[index].pop(0)
        begun.add(index)
        seen(passing, of_choice(index, delta or {}, None if delta else "stop"))
        assert passing.finish == (None if any(rest[at] for at in begun) else "stop")


def test_what_follows_the_end_of_a_choice_begins_it_not_anew() -> None:
    passing = openai.passing("chat")
    seen(passing, FIRST, chunk({"content": "x"}, "stop"), chunk({"content": ""}, usage=USAGE))
    assert passing.finish == "stop"


def test_usage_beside_the_last_content_is_no_chunk_of_its_own() -> None:
    passing = openai.passing("chat")
    assert seen(passing, chunk({"content": "x"}, "stop", usage=USAGE)) == ["content"]
    assert (passing.usage, passing.finish) == (Usage(8, 2), "stop")


def test_a_stream_of_completions() -> None:
    passing = openai.passing("completions")
    events = [
        (None, {"id": "c", "choices": [{"index": 0, "text": text, "finish_reason": finish}]})
        for text, finish in [("", None), ("x", None), ("", "length")]
    ]
    assert seen(passing, *events) == ["empty", "content", "content"]
    assert passing.finish == "length"


@pytest.mark.parametrize(
    "event",
    [
        {"error": {"message": "overloaded", "type": "server_error", "code": None}},
        {"error": "no"},
        {
            "id": "gen-1",
            "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}],
            "error": {"code": 502, "message": "Provider disconnected"},
        },
        '{"choices":[{"index":0,"delta":{"content":"cut of',
        "Internal Server Error",
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_an_error_in_a_chat_stream(event: object, begun: bool) -> None:
    passing = openai.passing("chat")
    if begun:
        seen(passing, chunk({"content": "x"}))
    assert seen(passing, (None, event)) == ["error"]
    assert state(passing) == ("begun failed" if begun else "failed")


def test_errors_that_are_none_pass() -> None:
    passing = openai.passing("chat")
    assert seen(passing, chunk({"content": "x"}, error=None)) == ["content"]
    assert not passing.failed


def test_what_the_text_says_is_no_sign() -> None:
    passing = openai.passing("chat")
    texts = ['"usage":{"prompt_tokens":1}', '"error":{}', "[DONE]", '"finish_reason":"stop"']
    for text in texts:
        for spaced in (False, True):
            event = chunk({"content": text})
            data = json.dumps(event[1], separators=(", ", ": ") if spaced else (",", ":"))
            assert seen(passing, (None, data)) == ["content"]
    assert (passing.usage, passing.finish, passing.ended) == (None, None, False)


def test_what_was_not_asked_for_is_taken_out_again() -> None:
    text = '\\"choices\\":[],\\"usage\\":null'
    before = f'data: {{"choices":[{{"delta":{{"content":"{text}"}},"finish_reason":null}}]'
    event = Parser().feed((before + ',"usage":null,"obfuscation":"x"}\n\n').encode())[0]
    assert openai.without_usage(event).decode() == before + ',"obfuscation":"x"}\n\n'
    event = Parser().feed((before + "}\n\n").encode())[0]
    assert openai.without_usage(event) is event.raw
    passing = openai.passing("chat")
    assert seen(passing, (before + ',"usage":null,"obfuscation":"x"}\n\n')) == ["content"]


RESPONSE = {"id": "resp_1", "model": "gpt-5", "status": "in_progress", "usage": None, "error": None}


def numbered(kind: str, number: int, **more: object) -> tuple[str, object]:
    return kind, {"type": kind, **more, "sequence_number": number}


def test_a_stream_of_responses() -> None:
    passing = openai.passing("responses")
    assert (
        seen(
            passing,
            numbered("response.created", 0, response=RESPONSE),
            numbered("response.in_progress", 1, response=RESPONSE),
            numbered("response.output_item.added", 2, item={"type": "message"}),
            numbered("response.content_part.added", 3, part={"type": "output_text", "text": ""}),
        )
        == ["empty"] * 4
    )
    assert state(passing) == ""
    assert seen(passing, numbered("response.output_text.delta", 4, delta="Hi")) == ["content"]
    assert (passing.begun, passing.sequence) == (True, 5)
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    whole = RESPONSE | {"status": "completed", "usage": usage}
    assert seen(passing, numbered("response.completed", 5, response=whole)) == ["end"]
    assert (passing.usage, passing.finish) == (Usage(3, 4), "completed")
    assert (passing.ended, passing.model, passing.id) == (True, "gpt-5", "resp_1")


def test_a_long_response_at_the_end_of_its_stream_tells_its_usage_all_the_same() -> None:
    passing = openai.passing("responses")
    whole = RESPONSE | {
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
        "output": [{"type": "message", "content": 300_000 * "x"}],
        "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
    }
    assert seen(passing, numbered("response.incomplete", 5, response=whole)) == ["end"]
    assert (passing.usage, passing.finish) == (Usage(3, 4), "max_output_tokens")


def test_a_response_that_fails_before_content_may_be_had_elsewhere() -> None:
    failed = RESPONSE | {"status": "failed", "error": {"code": "server_error", "message": "no"}}
    passing = openai.passing("responses")
    assert seen(passing, numbered("response.failed", 1, response=failed)) == ["error"]
    assert state(passing) == "failed"
    passing = openai.passing("responses")
    assert seen(
        passing,
        numbered("response.output_text.delta", 1, delta="Hi"),
        numbered("response.failed", 2, response=failed),
    ) == ["content", "end"]
    assert state(passing) == "begun ended failed"


def test_events_without_names_are_known_by_their_type() -> None:
    passing = openai.passing("responses")
    events = [
        (None, {"type": "response.created"}),
        (None, {"sequence_number": 1, "type": "response.output_text.delta"}),
        (None, {"type": "response.completed", "response": RESPONSE}),
        (None, "[DONE]"),
    ]
    assert seen(passing, *events) == ["empty", "content", "end", "end"]
    assert seen(openai.passing("responses"), (None, {"type": "error"})) == ["error"]


MESSAGE: dict[str, object] = {
    "id": "msg_1",
    "type": "message",
    "model": "claude-sonnet-4-5",
    "content": [],
    "stop_reason": None,
    "usage": {"input_tokens": 25, "cache_read_input_tokens": 100, "output_tokens": 1},
}


def named(kind: str, **more: object) -> tuple[str, object]:
    return kind, {"type": kind, **more}


def test_a_stream_of_messages() -> None:
    passing = anthropic.passing("messages")
    assert (
        seen(
            passing,
            named("message_start", message=MESSAGE),
            named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            named("ping"),
        )
        == ["empty"] * 3
    )
    assert state(passing) == ""
    assert passing.usage == Usage(125, 1, 100)
    assert seen(passing, named("content_block_delta", delta={"text": "Hi"})) == ["content"]
    assert passing.begun
    assert seen(
        passing,
        named("content_block_stop", index=0),
        named("message_delta", delta={"stop_reason": "max_tokens"}, usage={"output_tokens": 15}),
        named("ping"),
        named("message_delta", delta={}, usage={"input_tokens": 30, "output_tokens": 20}),
        named("message_stop"),
    ) == ["content", "content", "empty", "content", "end"]
    assert passing.usage == Usage(130, 20, 100)
    assert (passing.finish, passing.model) == ("max_tokens", "claude-sonnet-4-5")
    assert (passing.ended, passing.failed, passing.id) == (True, False, "msg_1")


def test_an_error_in_a_stream_of_messages() -> None:
    passing = anthropic.passing("messages")
    error = {"type": "overloaded_error", "message": "Overloaded"}
    assert seen(passing, named("message_start", message=MESSAGE), named("error", error=error)) == [
        "empty",
        "error",
    ]
    assert state(passing) == "failed"


PASSINGS = [
    lambda: openai.passing("chat"),
    lambda: openai.passing("responses"),
    lambda: anthropic.passing("messages"),
]


@given(
    st.sampled_from(PASSINGS),
    st.lists(
        st.builds(
            Event,
            st.sampled_from(
                [None, b"error", b"message_start", b"message_delta", b"response.completed"]
            ),
            st.one_of(
                st.binary(max_size=20),
                st.recursive(
                    st.none() | st.booleans() | st.integers(-5, 5) | st.just("x"),
                    lambda inner: (
                        st.lists(inner, max_size=2)
                        | st.dictionaries(
                            st.sampled_from(
                                [
                                    "choices",
                                    "usage",
                                    "error",
                                    "delta",
                                    "type",
                                    "message",
                                    "response",
                                ]
                            ),
                            inner,
                            max_size=3,
                        )
                    ),
                ).map(lambda value: json.dumps(value).encode()),
            ),
            st.just(b""),
        ),
        max_size=4,
    ),
)
def test_no_event_is_too_strange(make: Any, events: list[Event]) -> None:
    passing = make()
    for event in events:
        sign = passing.see(event)
        assert sign in ("empty", "content", "usage", "error", "end")
        assert passing.begun or sign in ("empty", "error", "usage", "end")
        assert passing.sequence >= 0


# --- The list of models ---------------------------------------------------------------------------


def test_pages_of_models() -> None:
    names = [f"m{i}" for i in range(45)]

    def page(**given: Any) -> tuple[list[str], bool]:
        document = anthropic.models(names, **given)
        ids = [each["id"] for each in document["data"]]
        assert [document["first_id"], document["last_id"]] == (
            [ids[0], ids[-1]] if ids else [None] * 2
        )
        return ids, document["has_more"]

    assert page() == (names[:20], True)
    assert page(after="m19") == (names[20:40], True)
    assert page(after="m39") == (names[40:], False)
    assert page(after="m44") == ([], False)
    assert page(before="m44") == (names[24:44], True)
    assert page(before="m20") == (names[:20], False)
    assert page(before="m3", limit=2) == (names[1:3], True)
    assert page(limit=1000) == (names, False)
    assert page(limit=0) == (names[:1], True)
    assert page(after="nobody") == (names[:20], True)
    assert anthropic.models([])["first_id"] is None


def test_a_body_that_is_cut_off_is_refused() -> None:
    reads: list[tuple[Any, str]] = [(openai.read, "chat"), (anthropic.read, "messages")]
    body = f'{{"model":"m","max_tokens":5,{MESSAGES},"stream":true}}'.encode()
    for end in range(len(body)):
        for read, endpoint in reads:
            with pytest.raises(PacelineError):
                read(endpoint, body[:end])
