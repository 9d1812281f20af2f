"""The strict upstreams, tested by those they were made for: the vendors' own clients talk to them.

What the clients make of each fixture proves it; what the upstreams make of wrong requests, that
they are strict.
"""

import asyncio
import contextlib
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import BaseModel

from paceline.testing.llm_script import Script
from paceline.testing.llm_upstream import (
    GARBAGE,
    HALF_CLOSES,
    HANGS_UP,
    RESETS,
    SILENCE,
    AnthropicUpstream,
    OpenAIUpstream,
    Upstream,
    Usage,
    calls,
    fails,
    raw,
    refuses,
    says,
)
from sdks import anthropic, openai

HI: Any = [{"role": "user", "content": "Hi"}]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # noqa: E501
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Each client would read all certificates there are: a twentieth of a second."""

CLAUDE_TOOL: Any = {"name": "get_weather", "input_schema": SCHEMA}


@pytest.fixture
def to_openai() -> Iterator[OpenAIUpstream]:
    with OpenAIUpstream() as upstream:
        yield upstream


@pytest.fixture
def to_anthropic() -> Iterator[AnthropicUpstream]:
    with AnthropicUpstream() as upstream:
        yield upstream


def gpt(upstream: OpenAIUpstream, **options: Any) -> Any:
    options = {"api_key": upstream.key, "max_retries": 0, "timeout": 10, **options}
    http = openai.DefaultHttpxClient(verify=NO_TLS)
    return openai.OpenAI(base_url=upstream.address, http_client=http, **options)


def claude(upstream: AnthropicUpstream, **options: Any) -> Any:
    options = {"api_key": upstream.key, "max_retries": 0, "timeout": 10, **options}
    http = anthropic.DefaultHttpxClient(verify=NO_TLS)
    return anthropic.Anthropic(base_url=upstream.address, http_client=http, **options)


def post(address: str, **options: Any) -> httpx2.Response:
    return httpx2.post(address, verify=NO_TLS, **options)


def chat(client: Any, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "gpt-5.6-mini", "messages": HI, **fields})


def message(client: Any, **fields: Any) -> Any:
    fields = {"model": "claude-sonnet-5-5", "max_tokens": 100, "messages": HI, **fields}
    return client.messages.create(**fields)


# --- OpenAI's client ------------------------------------------------------------------------------


def test_a_chat_is_answered_whole(to_openai: OpenAIUpstream) -> None:
    to_openai.next(says("Hello there", usage=Usage(read=30, written=4, cached=10)))
    with gpt(to_openai) as client:
        answer = chat(client, temperature=0.5, stop=["x"], metadata={"a": "b"}, seed=1)
    assert answer.choices[0].message.content == "Hello there"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.prompt_tokens_details.cached_tokens) == (
        30,
        10,
    )
    assert answer._request_id.startswith("req_")
    asked = to_openai.asked[0]
    assert asked.json["messages"] == HI
    assert (asked.target, asked.ended) == ("/v1/chat/completions", "answered")


@pytest.mark.parametrize("with_usage", [True, False, None])
def test_a_chat_is_streamed_with_usage_where_it_is_asked_for(
    to_openai: OpenAIUpstream, with_usage: bool | None
) -> None:
    options = {} if with_usage is None else {"stream_options": {"include_usage": with_usage}}
    to_openai.next(says("Hello there, you"))
    with gpt(to_openai) as client:
        chunks = list(chat(client, stream=True, **options))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Hello there, you"
    told = [chunk.usage for chunk in chunks if "usage" in chunk.model_fields_set]
    assert bool(told) == bool(with_usage)
    if told:
        assert told[:-1] == [None] * (len(chunks) - 1)
        assert told[-1].completion_tokens == 10
        assert chunks[-1].choices == []


def test_tools_are_called_in_pieces(to_openai: OpenAIUpstream) -> None:
    to_openai.always(calls(("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome"})))
    with gpt(to_openai) as client:
        whole = chat(client, tools=[TOOL], tool_choice="required").choices[0]
        chunks = list(chat(client, tools=[TOOL], stream=True))
    assert whole.finish_reason == chunks[-1].choices[0].finish_reason == "tool_calls"
    deltas = [call for c in chunks for call in c.choices[0].delta.tool_calls or ()]
    assert len(deltas) > 6
    for at, call in enumerate(whole.message.tool_calls):
        mine = [delta for delta in deltas if delta.index == at]
        assert (mine[0].id, mine[0].function.name) == (call.id, "get_weather")
        assert "".join(each.function.arguments for each in mine) == call.function.arguments
        assert json.loads(call.function.arguments)["city"] == ("Paris", "Rome")[at]


def test_a_refusal_is_told_apart_from_an_answer(to_openai: OpenAIUpstream) -> None:
    to_openai.always(refuses("No."))
    with gpt(to_openai) as client:
        assert chat(client).choices[0].message.refusal == "No."
        chunks = list(chat(client, stream=True))
    assert "".join(chunk.choices[0].delta.refusal or "" for chunk in chunks) == "No."


class City(BaseModel):
    name: str
    people: int


def test_structures_are_parsed_by_the_client(to_openai: OpenAIUpstream) -> None:
    to_openai.always(says('{"name":"Paris","people":2}'))
    with gpt(to_openai) as client:
        answer = client.chat.completions.parse(
            model="gpt-5.6-mini", messages=HI, response_format=City
        )
        assert answer.choices[0].message.parsed == City(name="Paris", people=2)
        response = client.responses.parse(model="gpt-5.6-mini", input="Hi", text_format=City)
        assert response.output_parsed == City(name="Paris", people=2)


def test_images_and_turns_with_tools_are_right(to_openai: OpenAIUpstream) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "a pixel"},
    ]
    with gpt(to_openai) as client:
        assert chat(client, messages=messages).choices[0].message.content


def test_several_choices_and_logprobs_come_where_asked_for(to_openai: OpenAIUpstream) -> None:
    to_openai.always(says("Hello there"))
    with gpt(to_openai) as client:
        answer = chat(client, n=2, logprobs=True, top_logprobs=1)
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert [each.token for each in answer.choices[1].logprobs.content] == ["Hello", " there"]
        chunks = list(chat(client, n=2, stream=True))
    assert {chunk.choices[0].index for chunk in chunks} == {0, 1}


def test_embeddings_are_read_as_numbers_and_as_base64(to_openai: OpenAIUpstream) -> None:
    with gpt(to_openai) as client:
        for form in ({}, {"encoding_format": "float"}):
            made = client.embeddings.create(model="e", input=["a", "b"], dimensions=4, **form)
            assert [each.embedding for each in made.data] == [[0.125] * 4, [0.25] * 4]
    assert [asked.json.get("encoding_format") for asked in to_openai.asked] == ["base64", "float"]


def test_the_other_addresses_answer(to_openai: OpenAIUpstream) -> None:
    to_openai.always(says("Hello there"))
    with gpt(to_openai) as client:
        assert client.completions.create(model="m", prompt="Hi").choices[0].text == "Hello there"
        chunks = client.completions.create(model="m", prompt="Hi", stream=True)
        assert "".join(chunk.choices[0].text for chunk in chunks) == "Hello there"
        assert not client.moderations.create(input="Hi").results[0].flagged
        assert next(iter(client.models.list())).id == "gpt-5.6-mini"


def test_responses_are_answered_whole_and_streamed(to_openai: OpenAIUpstream) -> None:
    tool: Any = {"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": False}
    to_openai.next(says("Hello there"), says("Hello there"))
    to_openai.next(*[calls(("get_weather", {"city": "Paris"}))] * 2, refuses("No."))
    with gpt(to_openai) as client:
        assert client.responses.create(model="m", input="Hi").output_text == "Hello there"
        with client.responses.stream(model="m", input="Hi") as stream:
            kinds = [event.type for event in stream]
            assert stream.get_final_response().output_text == "Hello there"
        assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
        whole = client.responses.create(model="m", input="Hi", tools=[tool]).output[0]
        with client.responses.stream(model="m", input="Hi", tools=[tool]) as stream:
            streamed = stream.get_final_response().output[0]
        assert whole.type == streamed.type == "function_call"
        assert json.loads(whole.arguments) == json.loads(streamed.arguments) == {"city": "Paris"}
        refused: Any = client.responses.create(model="m", input="Hi").output[0]
        assert refused.content[0].refusal == "No."


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (403, "PermissionDeniedError"),
        (404, "NotFoundError"),
        (409, "ConflictError"),
        (413, "APIStatusError"),
        (422, "UnprocessableEntityError"),
        (429, "RateLimitError"),
        (500, "InternalServerError"),
        (503, "InternalServerError"),
    ],
)
def test_openai_errors_are_raised_by_their_class(
    to_openai: OpenAIUpstream, status: int, error: str
) -> None:
    to_openai.next(fails(status, "Not today.", code="test_code"))
    with gpt(to_openai) as client, pytest.raises(getattr(openai, error)) as raised:
        chat(client)
    assert raised.value.status_code == status
    assert raised.value.code == "test_code"
    assert "Not today." in str(raised.value)
    assert raised.value.request_id is not None


def test_the_client_retries_as_the_headers_say(to_openai: OpenAIUpstream) -> None:
    to_openai.next(fails(429), fails(503), says("Hello there"))
    with gpt(to_openai, max_retries=3) as client:
        assert chat(client).choices[0].message.content == "Hello there"
        assert len(to_openai.asked) == 3
        to_openai.next(fails(429, should_retry=False), says("Hello there"))
        with pytest.raises(openai.RateLimitError):
            chat(client)
    assert [each.header(b"x-stainless-retry-count") for each in to_openai.asked] == [
        b"0", b"1", b"2", b"0"
    ]  # fmt: skip


# --- Anthropic's client ---------------------------------------------------------------------------


def test_a_message_is_answered_whole_and_streamed(to_anthropic: AnthropicUpstream) -> None:
    usage = Usage(read=30, written=4, cached=10, cache_written=5)
    to_anthropic.always(says("Hello there", usage=usage))
    with claude(to_anthropic) as client:
        whole = message(client, system="Be brief.", stop_sequences=["x"])
        with client.messages.stream(model="m", max_tokens=9, messages=HI) as stream:
            assert "".join(stream.text_stream) == "Hello there"
            streamed = stream.get_final_message()
    for each in (whole, streamed):
        assert each.content[0].text == "Hello there"
        assert each.stop_reason == "end_turn"
        used = each.usage
        assert (used.input_tokens, used.output_tokens) == (15, 4)
        assert (used.cache_read_input_tokens, used.cache_creation_input_tokens) == (10, 5)
    assert whole._request_id.startswith("req_")


def test_a_stream_has_named_events_and_a_ping(to_anthropic: AnthropicUpstream) -> None:
    to_anthropic.always(says("Hello there"))
    with claude(to_anthropic) as client:
        kinds = [event.type for event in message(client, stream=True)]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    told = raw_answer(to_anthropic, "/v1/messages", {"stream": True}).text
    assert [line for line in told.splitlines() if line.startswith("event:")] == [
        "event: message_start",
        "event: content_block_start",
        "event: ping",
        "event: content_block_delta",
        "event: content_block_delta",
        "event: content_block_stop",
        "event: message_delta",
        "event: message_stop",
    ]


def raw_answer(upstream: Upstream, path: str, fields: dict[str, Any]) -> httpx2.Response:
    body = {"model": "m", "max_tokens": 9, "messages": HI, **fields}
    headers = {"x-api-key": upstream.key, "anthropic-version": "2023-06-01"}
    return post(upstream.origin + path, json=body, headers=headers)


def test_tools_are_used_in_pieces(to_anthropic: AnthropicUpstream) -> None:
    script = calls(("get_weather", {"city": "Paris"}), text="I look.", thought="Which city?")
    to_anthropic.always(script)
    options: Any = {
        "tools": [CLAUDE_TOOL],
        "tool_choice": {"type": "any"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "max_tokens": 2000,
    }
    with claude(to_anthropic) as client:
        whole = message(client, **options)
        with client.messages.stream(model="m", messages=HI, **options) as stream:
            deltas = [each for each in stream if each.type == "content_block_delta"]
            streamed = stream.get_final_message()
    assert len(deltas) > 8
    for each in (whole, streamed):
        assert [block.type for block in each.content] == ["thinking", "text", "tool_use"]
        assert each.content[2].input == {"city": "Paris"}
        assert each.stop_reason == "tool_use"


def test_images_and_turns_with_results_are_right(to_anthropic: AnthropicUpstream) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    messages: Any = [
        {"role": "user", "content": [{"type": "image", "source": source}]},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "1"}],
        },
    ]
    with claude(to_anthropic) as client:
        assert message(client, messages=messages).content
        counted = client.messages.count_tokens(model="m", messages=messages)
        assert counted.input_tokens == 19
        assert [model.id for model in client.models.list()] == ["claude-sonnet-5-5"]


def test_a_refusal_is_a_reason_to_stop(to_anthropic: AnthropicUpstream) -> None:
    to_anthropic.always(refuses("No."))
    with claude(to_anthropic) as client:
        assert message(client).stop_details.explanation == "No."
        with client.messages.stream(model="m", max_tokens=9, messages=HI) as stream:
            assert stream.get_final_message().stop_reason == "refusal"


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, "BadRequestError", "invalid_request_error"),
        (401, "AuthenticationError", "authentication_error"),
        (403, "PermissionDeniedError", "permission_error"),
        (404, "NotFoundError", "not_found_error"),
        (409, "ConflictError", "invalid_request_error"),
        (413, "RequestTooLargeError", "request_too_large"),
        (422, "UnprocessableEntityError", "invalid_request_error"),
        (429, "RateLimitError", "rate_limit_error"),
        (500, "InternalServerError", "api_error"),
        (529, "OverloadedError", "overloaded_error"),
    ],
)
def test_anthropic_errors_are_raised_by_their_class(
    to_anthropic: AnthropicUpstream,
    status: int,
    error: str,
    kind: str,
) -> None:
    to_anthropic.next(fails(status, "Not today."))
    with claude(to_anthropic) as client, pytest.raises(getattr(anthropic, error)) as raised:
        message(client)
    assert raised.value.status_code == status
    body: Any = raised.value.body
    assert body["error"] == {"type": kind, "message": "Not today."}
    assert raised.value.request_id is not None


# --- Both, asynchronous ---------------------------------------------------------------------------


def test_the_asynchronous_clients_see_the_same(
    to_openai: OpenAIUpstream, to_anthropic: AnthropicUpstream
) -> None:
    to_openai.always(says("Hello there"))
    to_anthropic.always(says("Hello there"))

    async def main() -> list[str]:
        told = []
        gpt_client = openai.AsyncOpenAI(api_key=to_openai.key, base_url=to_openai.address)
        claude_client = anthropic.AsyncAnthropic(
            api_key=to_anthropic.key, base_url=to_anthropic.address
        )
        async with gpt_client as one, claude_client as other:
            whole = await one.chat.completions.create(model="m", messages=HI)
            told.append(whole.choices[0].message.content or "")
            chunks = await one.chat.completions.create(model="m", messages=HI, stream=True)
            told.append("".join([c.choices[0].delta.content or "" async for c in chunks]))
            answer: Any = await other.messages.create(model="m", max_tokens=9, messages=HI)
            told.append(answer.content[0].text)
            async with other.messages.stream(model="m", max_tokens=9, messages=HI) as stream:
                told.append(await stream.get_final_text())
        return told

    assert asyncio.run(main()) == ["Hello there"] * 4


# --- What goes wrong on the way -------------------------------------------------------------------


@pytest.mark.parametrize("script", [HANGS_UP, RESETS, HALF_CLOSES, GARBAGE])
def test_a_connection_that_fails_is_an_error_of_connection(
    to_openai: OpenAIUpstream, script: Script
) -> None:
    to_openai.next(script)
    with gpt(to_openai) as client, pytest.raises(openai.APIConnectionError):
        chat(client)


@pytest.mark.parametrize("reset", [True, False])
def test_answers_are_cut(
    to_openai: OpenAIUpstream, to_anthropic: AnthropicUpstream, reset: bool
) -> None:
    script = says("Hello there, you all")
    to_openai.next(script.cut(after=3, reset=reset), script.cut(after=1, reset=reset))
    to_anthropic.next(says("Hello there, you all").cut(after=4, reset=reset))
    with gpt(to_openai) as client:
        with pytest.raises(openai.APIConnectionError):
            list(chat(client, stream=True))
        with pytest.raises(openai.APIConnectionError):
            chat(client)
    with claude(to_anthropic) as other, pytest.raises(httpx2.TransportError):  # not one of its own
        list(message(other, stream=True))
    assert [each.ended for each in to_openai.asked] == ["closed", "closed"]


def test_a_cut_stream_has_what_came_before(to_openai: OpenAIUpstream) -> None:
    to_openai.next(says("Hello there, you all").cut(after=3))
    with gpt(to_openai) as client:
        stream = iter(chat(client, stream=True))
        got = [next(stream).choices[0].delta.content for _ in range(3)]
        assert got == ["", "Hello", " there,"]
        with pytest.raises(openai.APIConnectionError):
            next(stream)


def test_a_stream_breaks_off_with_the_event_of_its_vendor(
    to_openai: OpenAIUpstream, to_anthropic: AnthropicUpstream
) -> None:
    to_openai.next(says("Hello there").break_off(after=2))
    to_anthropic.next(says("Hello there").break_off(after=4))
    with gpt(to_openai) as client, pytest.raises(openai.APIError) as ours:
        list(chat(client, stream=True))
    assert ours.value.type == "server_error"
    with claude(to_anthropic) as other, pytest.raises(anthropic.APIStatusError) as theirs:
        list(message(other, stream=True))
    assert "overloaded_error" in str(theirs.value)


def test_silence_ends_by_the_timeout_of_the_caller(to_openai: OpenAIUpstream) -> None:
    to_openai.next(SILENCE, says("Hello there").stall(after=2))
    with gpt(to_openai, timeout=0.2) as client:
        with pytest.raises(openai.APITimeoutError):
            chat(client)
        with pytest.raises(openai.APITimeoutError):
            list(chat(client, stream=True))
    to_openai.wait(lambda: [each.ended for each in to_openai.asked] == ["left", "left"])


def test_whoever_leaves_is_seen_to(to_openai: OpenAIUpstream) -> None:
    to_openai.next(says("Hello there").hold(after=2))
    with gpt(to_openai) as client:
        stream = chat(client, stream=True)
        next(iter(stream))
        stream.close()
        to_openai.wait(lambda: to_openai.asked[0].ended == "left")
        assert to_openai.asked[0].sent == 2


def test_what_is_held_goes_on_when_it_is_released(to_openai: OpenAIUpstream) -> None:
    to_openai.next(says("Hello there").hold(after=2))
    with gpt(to_openai) as client:
        stream = iter(chat(client, stream=True))
        assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "Hello"]
        to_openai.wait(lambda: to_openai.asked[0].sent == 2)
        to_openai.release()
        assert next(stream).choices[0].delta.content == " there"
        assert len(list(stream)) == 1
    assert to_openai.asked[0].ended == "answered"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_answers_are_split_anywhere(
    to_openai: OpenAIUpstream, to_anthropic: AnthropicUpstream, size: int
) -> None:
    to_openai.always(says("Hello there, größer 🦀").split(size))
    to_anthropic.always(says("Hello there, größer 🦀").split(size))
    with gpt(to_openai) as client, claude(to_anthropic) as other:
        assert chat(client).choices[0].message.content == "Hello there, größer 🦀"
        chunks = chat(client, stream=True)
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == "Hello there, größer 🦀"
        with other.messages.stream(model="m", max_tokens=9, messages=HI) as stream:
            assert stream.get_final_text() == "Hello there, größer 🦀"


def test_a_slow_stream_comes_one_by_one(to_openai: OpenAIUpstream) -> None:
    to_openai.next(says("one two three").slow(0.01))
    with gpt(to_openai) as client:
        assert len(list(chat(client, stream=True))) == 5
    asked = to_openai.asked[0]
    to_openai.wait(lambda: asked.ended != "")
    assert asked.ended_s - asked.at_s >= 0.05


def test_a_stream_that_ends_early_has_no_end_of_its_own(to_openai: OpenAIUpstream) -> None:
    """A whole HTTP answer, which the client takes for the end."""
    to_openai.next(says("Hello there").end_early(after=2))
    with gpt(to_openai) as client:
        assert len(list(chat(client, stream=True))) == 2


def test_idle_connections_are_closed(to_openai: OpenAIUpstream) -> None:
    with gpt(to_openai) as client:
        chat(client)
        assert (to_openai.connections, to_openai.open) == (1, 1)
        to_openai.close_idle()
        to_openai.wait(lambda: to_openai.open == 0)
        chat(client)
        assert to_openai.connections == 2
        to_openai.half_close_idle()
        to_openai.next(says("Hello there").then_close())
        chat(client)
        chat(client)
        assert to_openai.connections == 4


def test_whole_answers_are_compressed_for_whoever_takes_that(
    to_anthropic: AnthropicUpstream,
) -> None:
    to_anthropic.always(says("Hello there" * 100))
    told = [
        post(
            f"{to_anthropic.origin}/v1/messages",
            json={"model": "m", "max_tokens": 9, "messages": HI},
            headers={
                "x-api-key": to_anthropic.key,
                "anthropic-version": "2023-06-01",
                "accept-encoding": coding,
            },
        )
        for coding in ("gzip", "identity")
    ]
    assert [each.headers.get("content-encoding") for each in told] == ["gzip", None]
    assert told[0].json() == told[1].json()


def test_an_answer_is_given_to_the_byte(to_openai: OpenAIUpstream) -> None:
    to_openai.next(raw(502, [(b"content-type", b"text/html")], b"<html>", b"Bad gateway</html>"))
    with gpt(to_openai) as client, pytest.raises(openai.InternalServerError) as raised:
        chat(client)
    assert raised.value.response.text == "<html>Bad gateway</html>"
    to_openai.next(raw(200, [(b"content-type", b"application/json")], b'{"id":"file-1"}'))
    with gpt(to_openai) as client:
        assert client.files.retrieve("file-1").id == "file-1"
    assert to_openai.asked[1].target == "/v1/files/file-1"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        f"-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout {path} -out {path}.crt"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


def test_an_upstream_speaks_tls_where_it_is_told_to(certificate: Path) -> None:
    serves = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serves.load_cert_chain(certificate)
    knows = ssl.create_default_context(cafile=str(certificate))
    with OpenAIUpstream(tls=serves) as upstream:
        assert upstream.address.startswith("https://")
        http = openai.DefaultHttpxClient(verify=knows)
        upstream.next(says("Hello there"), says("Hello there").cut(after=2, reset=True))
        with openai.OpenAI(
            api_key=upstream.key, base_url=upstream.address, http_client=http, max_retries=0
        ) as client:
            assert chat(client).choices[0].message.content == "Hello there"
            with pytest.raises(openai.APIConnectionError):
                list(chat(client, stream=True))


# --- Strictness -----------------------------------------------------------------------------------

CHAT: dict[str, Any] = {"model": "m", "messages": HI}
MESSAGE: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": HI}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
USE = {"type": "tool_use", "id": "t", "name": "f", "input": {}}


def _turns(*messages: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"top_k": 4}, "top_k"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"messages": [{"role": "human", "content": "Hi"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "b": 1}]}]},
            "b: Extra",
        ),
        (_turns(("user", [{"type": "image_url", "image_url": {"url": "pixel"}}])), "pixel"),
        ({"messages": [*HI, {"role": "assistant", "tool_calls": [CALL]}]}, "never answered"),
        (
            {"messages": [*HI, {"role": "tool", "tool_call_id": "c", "content": ""}]},
            "which is none",
        ),
        ({"messages": [*HI, {"role": "assistant", "tool_calls": []}]}, "says nothing"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "no spaces"),
        ({"tools": [{"name": "f", "input_schema": {}}]}, "tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f"}}, "tool_choice"),
        (
            {"tools": [{**TOOL, "function": {**TOOL["function"], "strict": True}}]},
            "additionalProperties",
        ),
        ({"response_format": {"type": "json_schema"}}, "json_schema"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"model": None}, "model"),
        ({"stop": []}, "stop"),
    ],
)
def test_a_wrong_chat_is_refused(
    to_openai: OpenAIUpstream, wrong: dict[str, Any], place: str
) -> None:
    told = post(
        f"{to_openai.address}/chat/completions",
        json={**CHAT, **wrong},
        headers={"authorization": f"Bearer {to_openai.key}"},
    )
    assert told.status_code == 400
    assert told.json()["error"]["type"] == "invalid_request_error"
    assert any(place in each for each in to_openai.wrong), to_openai.wrong
    to_openai.wrong.clear()


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"stop": ["x"]}, "stop"),
        ({"temperature": 0.5}, "temperature"),
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "the first is the user's"),
        ({"messages": [*HI, {"role": "assistant", "content": "Hi "}]}, "white space"),
        ({"messages": [{"role": "user", "content": ""}]}, "no content"),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "role"),
        (_turns(("user", [{"type": "text", "text": ""}])), "must not be empty"),
        (_turns(("user", [{"type": "text", "text": "a", "annotations": []}])), "annotations"),
        (_turns(("user", "a"), ("assistant", [USE])), "without the results"),
        (_turns(("user", "a"), ("assistant", [USE]), ("user", "b")), "without the results"),
        (
            _turns(("user", [{"type": "tool_result", "tool_use_id": "t", "content": "b"}])),
            "which is no use",
        ),
        ({"system": [{"type": "text", "text": " "}]}, "must not be empty"),
        ({"tools": [TOOL]}, "tools"),
        ({"tools": [{**CLAUDE_TOOL, "name": "no spaces"}]}, "no spaces"),
        ({"tools": [CLAUDE_TOOL], "tool_choice": "auto"}, "tool_choice"),
        ({"tools": [CLAUDE_TOOL], "tool_choice": {"type": "tool", "name": "f"}}, "tool_choice"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10}}, "budget_tokens"),
        ({"stop_sequences": [" "]}, "stop_sequences"),
        ({"user_profile_id": "a header"}, "user_profile_id"),
    ],
)
def test_a_wrong_message_is_refused(
    to_anthropic: AnthropicUpstream, wrong: dict[str, Any], place: str
) -> None:
    told = post(
        f"{to_anthropic.origin}/v1/messages",
        json={**MESSAGE, **wrong},
        headers={"x-api-key": to_anthropic.key, "anthropic-version": "2023-06-01"},
    )
    assert told.status_code == 400
    assert told.json()["error"]["type"] == "invalid_request_error"
    assert any(place in each for each in to_anthropic.wrong), to_anthropic.wrong
    to_anthropic.wrong.clear()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer nonsense"}, 401),
        ({"authorization": "Bearer {key}", "x-api-key": "somebody's"}, 400),
        ({"authorization": "Bearer {key}", "content-type": "text/plain"}, 400),
        ({"authorization": "Bearer {key}", "cookie": "a=b"}, 400),
        ({"authorization": "Bearer {key}", "x-paceline-user": "a"}, 400),
    ],
)
def test_wrong_headers_are_refused(
    to_openai: OpenAIUpstream, headers: dict[str, str], status: int
) -> None:
    sent = {"content-type": "application/json"} | {
        name: value.format(key=to_openai.key) for name, value in headers.items()
    }
    told = post(f"{to_openai.address}/chat/completions", content=json.dumps(CHAT), headers=sent)
    assert told.status_code == status
    assert to_openai.wrong
    to_openai.wrong.clear()


def test_the_version_must_be_there(to_anthropic: AnthropicUpstream) -> None:
    told = post(
        f"{to_anthropic.origin}/v1/messages", json=MESSAGE, headers={"x-api-key": to_anthropic.key}
    )
    assert told.status_code == 400
    to_anthropic.wrong.clear()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nonsense\r\n\r\n", "no HTTP"),
        ("GET /v1/models HTTP/1.1\r\nconnection: close\r\n\r\n", "no host"),
        ("GET /v1/models HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n\r\nGET", "early"),
    ],
)
def test_what_is_no_http_or_comes_too_early_is_seen(
    to_openai: OpenAIUpstream, text: str, told: str
) -> None:
    to_openai.always(SILENCE)
    with socket.create_connection(("127.0.0.1", to_openai.port), timeout=10) as connection:
        connection.sendall(text.format(key=to_openai.key).encode())
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(1000):
                pass
    assert any(told in each for each in to_openai.wrong), to_openai.wrong
    to_openai.wrong.clear()


def test_a_wrong_request_fails_the_test_that_made_it() -> None:
    upstream = OpenAIUpstream()
    with (
        pytest.raises(AssertionError, match="Extra inputs"),
        upstream,
        gpt(upstream) as client,
        pytest.raises(openai.BadRequestError),
    ):
        chat(client, extra_body={"top_k": 4})


def test_a_script_that_cannot_be_followed_is_told() -> None:
    upstream = OpenAIUpstream()
    upstream.next(says("Hello there").cut(after=9))
    with pytest.raises(AssertionError, match="9 of 2 parts"), upstream, gpt(upstream) as client:
        chat(client)


def test_a_wait_for_what_does_not_happen_says_what_did(to_openai: OpenAIUpstream) -> None:
    with gpt(to_openai) as client:
        chat(client)
    with pytest.raises(AssertionError, match="POST /v1/chat/completions"):
        to_openai.wait(lambda: len(to_openai.asked) == 2, timeout_s=0.01)
