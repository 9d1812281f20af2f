"""The official SDKs through the gateway to strict upstreams, each dialect to both vendors.

What the SDKs see must be what they would see without a gateway; what the upstreams are sent must be
what they would take from their own SDKs (`paceline.testing.llm_upstream` says what that is, and
fails the test otherwise). Each test is one thing that programs do.
"""

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel

from paceline.testing.llm_upstream import (
    GARBAGE,
    HANGS_UP,
    RESETS,
    SILENCE,
    AnthropicUpstream,
    OpenAIUpstream,
    Script,
    Upstream,
    Usage,
    calls,
    fails,
    refuses,
    says,
)
from sdks import anthropic, openai
from servers import Server
from test_cli import here

pytestmark = pytest.mark.slow

GPT, CLAUDE, EMBED = "gpt-5.6-mini", "claude-sonnet-5-5", "text-embedding-4"
HI: Any = [{"role": "user", "content": "Hi"}]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # noqa: E501
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
CLAUDE_TOOL: Any = {"name": "get_weather", "input_schema": SCHEMA}
LEAVE_S = 0.1
"""within which a provider is to be told that its caller has left"""


class City(BaseModel):
    city: str


class Place(NamedTuple):
    server: Server
    gpt: OpenAIUpstream
    claude: AnthropicUpstream

    def openai(self, **options: Any) -> Any:
        return openai.OpenAI(base_url=f"{self.server.address}/v1", **self._options(options))

    def openai_async(self, **options: Any) -> Any:
        return openai.AsyncOpenAI(base_url=f"{self.server.address}/v1", **self._options(options))

    def anthropic(self, **options: Any) -> Any:
        return anthropic.Anthropic(base_url=self.server.address, **self._options(options))

    def anthropic_async(self, **options: Any) -> Any:
        return anthropic.AsyncAnthropic(base_url=self.server.address, **self._options(options))

    def _options(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"api_key": "mine", "max_retries": 0, "timeout": 20, **given}

    def of(self, model: str) -> Upstream:
        return self.gpt if model.startswith(("gpt", "text", "omni")) else self.claude


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("live")
    with OpenAIUpstream() as gpt, AnthropicUpstream() as claude:
        (folder / "paceline.toml").write_text(
            f"""
            [providers.gpt]
            url = "{gpt.address}"
            key_env = "GPT_KEY"
            models = ["gpt-*", "text-*", "omni-*"]
            [providers.claude]
            kind = "anthropic"
            url = "{claude.address}"
            key_env = "CLAUDE_KEY"
            models = ["claude-*"]
            [routes.spare]
            targets = ["gpt/{GPT}"]
            fallbacks = ["claude/{CLAUDE}"]
            [prices."gpt/gpt-*"]
            input = 2.5
            output = 10
            """
        )
        config = ("--config", str(folder / "paceline.toml"))
        environ = {"GPT_KEY": gpt.key, "CLAUDE_KEY": claude.key}
        with Server(folder / "state", *config, environ=environ) as server:
            yield Place(server, gpt, claude)


@pytest.fixture
def place(everything: Place) -> Iterator[Place]:
    """With upstreams that remember nothing of the test before."""
    for upstream in (everything.gpt, everything.claude):
        upstream.asked.clear()
        upstream.wrong.clear()
    yield everything
    for upstream in (everything.gpt, everything.claude):
        assert not upstream.wrong
        assert not upstream.scripts_left


BOTH = pytest.mark.parametrize("model", [GPT, CLAUDE])


def chat(client: Any, model: str, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": model, "messages": HI, **fields})


def texts(chunks: Any) -> Iterator[str]:
    for each in chunks:
        yield from (one.delta.content or "" for one in each.choices)


def message(client: Any, model: str, **fields: Any) -> Any:
    fields = {"model": model, "max_tokens": 100, "messages": HI, **fields}
    return client.messages.create(**fields)


# --- OpenAI's SDK ---------------------------------------------------------------------------------


@BOTH
def test_a_chat_is_answered_whole(place: Place, model: str) -> None:
    place.of(model).next(says("Hello there", usage=Usage(read=30, written=4, cached=10)))
    with place.openai() as client:
        answer = chat(client, model)
    assert answer.choices[0].message.content == "Hello there"
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (30, 4, 34)
    assert usage.prompt_tokens_details.cached_tokens == 10
    assert answer._request_id


@BOTH
@pytest.mark.parametrize("usage", [False, True])
def test_a_chat_is_streamed(place: Place, model: str, usage: bool) -> None:
    place.of(model).next(says("Hello there you"))
    options = {"stream_options": {"include_usage": True}} if usage else {}
    with place.openai() as client:
        chunks = [*chat(client, model, stream=True, **options)]
    said = [each.choices[0] for each in chunks if each.choices]
    assert "".join(each.delta.content or "" for each in said) == "Hello there you"
    assert [each.finish_reason for each in said if each.finish_reason] == ["stop"]
    assert [each.usage is not None for each in chunks] == [
        *([False] * (len(chunks) - 1)),
        usage,
    ]
    assert all(bool(each.choices) != (each.usage is not None) for each in chunks)


@BOTH
def test_tools_are_called_whole_and_in_pieces(place: Place, model: str) -> None:
    asked = ("get_weather", {"city": "Paris"})
    place.of(model).next(calls(asked), calls(asked, asked))
    with place.openai() as client:
        whole = chat(client, model, tools=[TOOL], tool_choice="required")
        chunks = [*chat(client, model, tools=[TOOL], stream=True)]
    (call,) = whole.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == asked
    assert whole.choices[0].finish_reason == "tool_calls"
    pieces = [one for c in chunks if c.choices for one in c.choices[0].delta.tool_calls or []]
    assert {one.index for one in pieces} == {0, 1}
    for index in (0, 1):
        mine = [one for one in pieces if one.index == index]
        assert mine[0].id
        assert mine[0].function.name == "get_weather"
        arguments = "".join(one.function.arguments or "" for one in mine)
        assert json.loads(arguments) == {"city": "Paris"}


@BOTH
def test_a_tool_s_answer_and_a_picture_go_back(place: Place, model: str) -> None:
    url = f"data:image/png;base64,{PIXEL}"
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'},
    }
    turns: Any = [
        {"role": "system", "content": "Be short."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Where is this, and how is the weather?"},
                {"type": "image_url", "image_url": {"url": url}},
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    with place.openai() as client:
        assert chat(client, model, messages=turns, tools=[TOOL]).choices[0].message.content
    assert PIXEL.encode() in place.of(model).asked[0].body


@BOTH
def test_structures_are_parsed_by_the_sdk(place: Place, model: str) -> None:
    place.of(model).next(says('{"city":"Paris"}'))
    with place.openai() as client:
        answer = client.chat.completions.parse(model=model, messages=HI, response_format=City)
    assert answer.choices[0].message.parsed == City(city="Paris")


@BOTH
def test_a_refusal_is_told_apart(place: Place, model: str) -> None:
    place.of(model).next(refuses("I cannot."))
    with place.openai() as client:
        choice = chat(client, model).choices[0]
    assert choice.message.refusal is not None or choice.finish_reason == "content_filter"


def test_embeddings_completions_moderations_and_responses(place: Place) -> None:
    with place.openai() as client:
        asked = ["one", "two"]
        numbers = client.embeddings.create(model=EMBED, input=asked)
        assert len(numbers.data) == 2
        assert all(isinstance(each, float) for each in numbers.data[0].embedding)
        assert place.gpt.asked[0].json["encoding_format"] == "base64"
        assert client.completions.create(model=GPT, prompt="Hi").choices[0].text
        assert client.moderations.create(input="Hi").results
        assert client.moderations.create(model="omni-moderation-latest", input="Hi").results
        assert client.responses.create(model=GPT, input="Hi").output_text
        with client.responses.stream(model=GPT, input="Hi") as stream:
            events = [event.type for event in stream]
            assert stream.get_final_response().output_text
    assert events[0] == "response.created"
    assert events[-1] == "response.completed"


def test_unknown_fields_and_beta_headers_go_through(place: Place) -> None:
    with place.openai() as client:
        chat(client, GPT, extra_headers={"OpenAI-Beta": "x=v1", "OpenAI-Project": "p"})
    asked = place.gpt.asked[0]
    assert asked.header(b"openai-beta") == b"x=v1"
    assert asked.header(b"openai-project") is None  # it is billed to us
    assert asked.header(
        b"user-agent",
    ).startswith(b"OpenAI/Python")  # type: ignore[union-attr]


def test_models_are_listed_by_both_sdks(place: Place) -> None:
    with place.openai() as client:
        assert "spare" in [each.id for each in client.models.list()]
        assert client.models.retrieve("spare").id == "spare"
    with place.anthropic() as client:
        assert "spare" in [each.id for each in client.models.list()]
        assert client.models.retrieve("spare").display_name == "spare"


# --- Anthropic's SDK ------------------------------------------------------------------------------


@BOTH
def test_a_message_is_answered_whole(place: Place, model: str) -> None:
    place.of(model).next(says("Hello there", usage=Usage(read=30, written=4, cached=10)))
    with place.anthropic() as client:
        answer = message(client, model)
    assert answer.content[0].text == "Hello there"
    assert answer.stop_reason == "end_turn"
    usage = answer.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (20, 10, 4)
    assert answer._request_id


@BOTH
def test_a_message_is_streamed(place: Place, model: str) -> None:
    place.of(model).next(says("Hello there you"))
    with (
        place.anthropic() as client,
        client.messages.stream(model=model, max_tokens=50, messages=HI) as stream,
    ):
        assert "".join(stream.text_stream) == "Hello there you"
        final = stream.get_final_message()
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == 10


@BOTH
def test_tools_are_used_whole_and_in_pieces(place: Place, model: str) -> None:
    asked = ("get_weather", {"city": "Paris"})
    place.of(model).next(calls(asked, text="Let me look."), calls(asked, asked))
    with place.anthropic() as client:
        whole = message(client, model, tools=[CLAUDE_TOOL], tool_choice={"type": "any"})
        with client.messages.stream(
            model=model, max_tokens=50, messages=HI, tools=[CLAUDE_TOOL]
        ) as stream:
            final = stream.get_final_message()
    uses = [each for each in whole.content if each.type == "tool_use"]
    assert [(each.name, each.input) for each in uses] == [asked]
    assert whole.stop_reason == "tool_use"
    uses = [each for each in final.content if each.type == "tool_use"]
    assert [(each.name, each.input) for each in uses] == [asked, asked]
    assert final.stop_reason == "tool_use"


@BOTH
def test_a_result_and_a_picture_go_back(place: Place, model: str) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    use = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}}
    turns: Any = [
        {
            "role": "user",
            "content": [
                {"type": "image", "source": source},
                {"type": "text", "text": "Where is this?"},
            ],
        },
        {"role": "assistant", "content": [use]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"}],
        },
    ]
    with place.anthropic() as client:
        answer = message(client, model, messages=turns, system="Be short.", tools=[CLAUDE_TOOL])
    assert answer.content[0].text
    assert PIXEL.encode() in place.of(model).asked[0].body


def test_tokens_are_counted_where_the_provider_can(place: Place) -> None:
    with place.anthropic() as client:
        assert client.messages.count_tokens(model=CLAUDE, messages=HI).input_tokens > 0
        with pytest.raises(anthropic.BadRequestError, match="count_tokens"):
            client.messages.count_tokens(model=GPT, messages=HI)


def test_beta_features_go_through(place: Place) -> None:
    with place.anthropic() as client:
        client.beta.messages.create(
            model=CLAUDE, max_tokens=10, messages=HI, betas=["context-1m-2025-08-07"]
        )
    asked = place.claude.asked[0]
    assert asked.target == "/v1/messages?beta=true"
    assert asked.header(b"anthropic-beta") == b"context-1m-2025-08-07"


# --- Asynchronous ---------------------------------------------------------------------------------


@BOTH
def test_the_asynchronous_sdks_see_the_same(place: Place, model: str) -> None:
    place.of(model).next(says("Hello there"), says("Hello there"), says("Hello there"))

    async def ask() -> None:
        async with place.openai_async() as client:
            answer = await chat(client, model)
            assert answer.choices[0].message.content == "Hello there"
            stream = await chat(client, model, stream=True)
            said = [each async for each in stream]
            text = "".join(each.choices[0].delta.content or "" for each in said if each.choices)
            assert text == "Hello there"
        async with place.anthropic_async() as client:
            manner = client.messages.stream(model=model, max_tokens=9, messages=HI)
            async with manner as messages:
                assert await messages.get_final_text() == "Hello there"

    asyncio.run(ask())


def test_many_at_once_each_get_their_own(place: Place) -> None:
    async def ask() -> None:
        async with place.openai_async() as client:

            async def one(number: int) -> None:
                model = (GPT, CLAUDE)[number % 2]
                stream = await chat(client, model, stream=True)
                assert [each async for each in stream]

            await asyncio.gather(*(one(number) for number in range(100)))

    asyncio.run(ask())


# --- Errors, retries, timeouts --------------------------------------------------------------------

CLASSES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    409: "ConflictError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "InternalServerError",
}


@BOTH
@pytest.mark.parametrize("status", CLASSES)
def test_an_upstream_s_error_is_raised_as_its_class(place: Place, model: str, status: int) -> None:
    place.of(model).always(fails(status, "as the test wished", should_retry=False))
    try:
        with place.openai() as client:
            with pytest.raises(getattr(openai, CLASSES[status])) as caught:
                chat(client, model)
            assert caught.value.status_code == status
            assert "as the test wished" in caught.value.message
        with place.anthropic() as client:
            with pytest.raises(anthropic.APIStatusError) as refused:
                message(client, model)
            assert type(refused.value) is getattr(anthropic, CLASSES[status])
            assert "as the test wished" in refused.value.message
    finally:
        place.of(model).always(Script())
        _rest(place)


def _rest(place: Place) -> None:
    """Until no target stands aside or is left alone: the next test begins with good ones."""
    with place.openai() as client:
        for model in (GPT, CLAUDE):
            chat(client.with_options(max_retries=20), model)  # it waits as it is told
    place.gpt.asked.clear()
    place.claude.asked.clear()


def test_our_own_errors_are_raised_as_their_class(place: Place) -> None:
    with place.openai() as client:
        with pytest.raises(openai.NotFoundError) as missing:
            chat(client, "nothing")
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.AuthenticationError) as unknown:
            chat(client.with_options(api_key="pl_unknown"), GPT)
        assert unknown.value.code == "invalid_api_key"
        with pytest.raises(openai.BadRequestError) as wrong:
            chat(client, GPT, messages="Hi")
        assert wrong.value.param == "messages"
        with pytest.raises(openai.NotFoundError):
            client.files.list()
    with place.anthropic() as client:
        with pytest.raises(anthropic.NotFoundError):
            message(client, "nothing")
        with pytest.raises(anthropic.AuthenticationError):
            message(client.with_options(api_key="pl_unknown"), CLAUDE)


@BOTH
def test_what_fails_is_tried_again_here_and_not_by_the_sdk(place: Place, model: str) -> None:
    upstream = place.of(model)
    upstream.next(fails(500), says("Hello"))
    with place.openai(max_retries=2) as client:
        assert chat(client, model).choices[0].message.content == "Hello"
    assert len(upstream.asked) == 2
    upstream.asked.clear()
    upstream.next(fails(500), fails(500))
    with place.openai(max_retries=2) as client, pytest.raises(openai.InternalServerError):
        chat(client, model)
    assert len(upstream.asked) == 2  # the SDK was told that it would be in vain
    _rest(place)


@pytest.mark.parametrize("how", [HANGS_UP, RESETS, GARBAGE, fails(500), says("Hello").cut(1)])
def test_what_fails_before_content_goes_to_the_fallback(place: Place, how: Script) -> None:
    place.gpt.always(how)  # how often it is tried depends on what was asked of it lately
    place.claude.next(says("Hello from afar"))
    try:
        with place.openai() as client:
            chunks = [*chat(client, "spare", stream=True)]
    finally:
        place.gpt.always(Script())
    text = "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)
    assert text == "Hello from afar"
    _rest(place)


def _resetting(upstream: Upstream, heard: Iterable[str]) -> Iterator[str]:
    for text in heard:
        yield text
        if text:
            upstream.reset()


@BOTH
@pytest.mark.parametrize("reset", [False, True])
def test_a_stream_that_is_cut_raises_and_keeps_what_came(
    place: Place, model: str, reset: bool
) -> None:
    upstream = place.of(model)
    script = says("Hello there you").hold(6) if reset else says("Hello there you").cut(6)
    upstream.next(script)
    heard: list[str] = []
    with place.openai() as client, pytest.raises(openai.APIError):
        heard.extend(_resetting(upstream, texts(chat(client, model, stream=True))))
    assert "".join(heard).startswith("Hello")
    upstream.next(script)
    with (
        place.anthropic() as client,
        client.messages.stream(model=model, max_tokens=9, messages=HI) as stream,
        pytest.raises(anthropic.APIError),
    ):
        heard.extend(_resetting(upstream, stream.text_stream))
    _rest(place)


@BOTH
def test_an_upstream_that_breaks_off_is_told_in_the_caller_s_dialect(
    place: Place, model: str
) -> None:
    upstream = place.of(model)
    upstream.next(says("Hello there you").break_off(6))
    with place.openai() as client, pytest.raises(openai.APIError):
        for _ in chat(client, model, stream=True):
            pass
    upstream.next(says("Hello there you").break_off(6))
    with place.anthropic() as client, pytest.raises(anthropic.APIError):
        for _ in message(client, model, stream=True):
            pass
    _rest(place)


@BOTH
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_however_it_is_split_the_sdk_sees_the_same(place: Place, model: str, size: int) -> None:
    place.of(model).next(says("Hello there you").split(size), says("Hello there").split(size))
    with place.openai() as client:
        chunks = [*chat(client, model, stream=True)]
        whole = chat(client, model)
    text = "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)
    assert (text, whole.choices[0].message.content) == ("Hello there you", "Hello there")


@BOTH
@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_who_leaves_is_gone_upstream_at_once(
    place: Place, model: str, stream: bool
) -> None:
    upstream = place.of(model)
    upstream.next(says("Hello there").stall(5) if stream else SILENCE)
    with place.openai(timeout=0.5) as client, pytest.raises(openai.APITimeoutError):
        list(texts(chat(client, model, stream=True)) if stream else [chat(client, model)])
    left_s = time.monotonic()
    upstream.wait(lambda: upstream.asked[0].ended == "left")
    assert upstream.asked[0].ended_s - left_s < LEAVE_S
    _rest(place)


@BOTH
def test_a_caller_s_own_deadline_is_kept(place: Place, model: str) -> None:
    upstream = place.of(model)
    upstream.next(SILENCE)
    began_s = time.monotonic()
    with place.openai() as client, pytest.raises(openai.InternalServerError) as late:
        chat(client, model, extra_headers={"x-timeout-ms": "300"})
    assert late.value.status_code == 504
    assert time.monotonic() - began_s < 2
    upstream.wait(lambda: upstream.asked[0].ended == "left")
    _rest(place)


@pytest.mark.parametrize("end", [Upstream.close_idle, Upstream.half_close_idle])
def test_connections_that_the_upstream_has_ended_are_not_noticed(
    place: Place, end: Callable[[Upstream], None]
) -> None:
    with place.openai() as client:
        for _ in range(5):
            chat(client, GPT)
            end(place.gpt)
        chat(client, GPT)


# --- What they cost -----------------------------------------------------------------------------


def test_what_a_call_cost_is_told_and_what_nobody_knows_is_not_nothing(place: Place) -> None:
    usage = chat(place.openai(), GPT).usage
    expected = (usage.prompt_tokens * 2.5 + usage.completion_tokens * 10) / 1e6
    chat(place.openai(), CLAUDE)
    unknown, priced = place.server.ask("GET", "/api/calls?limit=2").json["calls"]
    assert priced["cost_usd"] == pytest.approx(expected, rel=1e-12)
    assert unknown["cost_usd"] is None
    lines = here("calls", "-n", "2", "--state", str(place.server.state)).stdout.splitlines()
    assert lines[0].endswith(", at a price that nobody has said")
    assert re.search(r", 0\.0\d* USD$", lines[1])
    of = {each["name"]: each for each in place.server.ask("GET", "/api/status").json["providers"]}
    assert of["gpt"]["cost_usd"] >= expected
    assert of["claude"]["cost_usd"] is None
    assert of["claude"]["unpriced"] >= 1
