"""What the official SDKs make of what the dialects write: events, errors, answers; and what the
dialects read of what the SDKs send.

Held against openai 3.57 and anthropic 1.17, as their clients do it, over a transport that answers
in the place of a network; each test names the module.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.gateway import anthropic as anthropics
from paceline.gateway import failures
from paceline.gateway import openai as openais
from paceline.gateway.call import Asked, Dialect, Endpoint, Headers
from paceline.gateway.sse import Event, Parser, write
from paceline.terms.errors import (
    BadJson,
    DeadlineExceeded,
    Draining,
    EventTooLong,
    KeyRequired,
    LimitReached,
    MissingField,
    NotAllowed,
    NotFound,
    Overloaded,
    PacelineError,
    ProviderFailed,
    TooLarge,
    UnknownModel,
    WrongKey,
    WrongType,
)
from sdks import anthropic, openai

JSON = [(b"content-type", b"application/json")]
EVENTS = [(b"content-type", b"text/event-stream")]
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


class Far:
    """The far side of both SDKs: what it answers, and what it was asked."""

    def __init__(self, body: object, headers: Headers = JSON, status: int = 200) -> None:
        self.status = status
        self.headers = headers
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.asked: list[httpx2.Request] = []
        transport = httpx2.MockTransport(self._answer)
        self._client = httpx2.Client(transport=transport)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.asked.append(request)
        return httpx2.Response(self.status, headers=self.headers, content=self.body)

    def openai(self, retries: int = 0) -> "openai.OpenAI":
        return openai.OpenAI(
            api_key="k", base_url="http://far/v1", http_client=self._client, max_retries=retries
        )

    def anthropic(self, retries: int = 0) -> "anthropic.Anthropic":
        return anthropic.Anthropic(
            api_key="k", base_url="http://far", http_client=self._client, max_retries=retries
        )

    def ask(self, dialect: Dialect, retries: int = 0, stream: bool = False) -> Any:
        if dialect == "openai":
            client = self.openai(retries)
            return client.chat.completions.create(model="m", messages=HELLO, stream=stream)
        messages = self.anthropic(retries).messages
        return messages.create(model="m", max_tokens=5, messages=HELLO, stream=stream)


named = st.sampled_from([b"message_start", b"content_block_delta", b"ping", None])
lines = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20)


@settings(deadline=None)
@given(st.lists(st.tuples(named, lines.map(str.encode)), max_size=6), st.integers(1, 50))
def test_the_official_sdks_see_the_same_events(
    events: list[tuple[bytes | None, bytes]], size: int
) -> None:
    """Against SSEDecoder of openai._streaming and of anthropic._streaming."""
    stream = b"".join(write(data, name) for name, data in events)
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
    parser = Parser()
    ours = [event for piece in pieces for event in parser.feed(piece)]
    assert [(event.name, event.data) for event in ours] == events
    for sdk in (openai, anthropic):
        decoder = sdk._streaming.SSEDecoder()
        seen = [(event.event, event.data) for event in decoder.iter_bytes(iter(pieces))]
        assert seen == [(name and name.decode(), data.decode()) for name, data in events]


# --- Errors ---------------------------------------------------------------------------------------

R = "Do this."


@pytest.mark.parametrize(
    ("error", "kind", "code", "param"),
    [
        (BadJson("no JSON", remedy=R), "BadRequestError", None, None),
        (
            MissingField("`model` is missing", param="model", remedy=R),
            "BadRequestError",
            "missing_required_parameter",
            "model",
        ),
        (
            WrongType("`messages` must be a list", param="messages", remedy=R),
            "BadRequestError",
            "invalid_type",
            "messages",
        ),
        (KeyRequired("no key", remedy=R), "AuthenticationError", None, None),
        (WrongKey("wrong", remedy=R), "AuthenticationError", "invalid_api_key", None),
        (
            NotAllowed("no", remedy=R),
            "PermissionDeniedError",
            "insufficient_permissions",
            None,
        ),
        (UnknownModel("no `m`", remedy=R), "NotFoundError", "model_not_found", "model"),
        (NotFound("nothing", remedy=R), "NotFoundError", "not_found", None),
        (TooLarge("too long", remedy=R), "APIStatusError", "too_large", None),
        (LimitReached("many", remedy=R), "RateLimitError", "rate_limit_exceeded", None),
        (ProviderFailed("cut", remedy=R), "InternalServerError", "provider_failed", None),
        (Overloaded("busy", remedy=R), "InternalServerError", "overloaded", None),
        (DeadlineExceeded("late", remedy=R), "InternalServerError", "deadline_exceeded", None),
        (PacelineError("a bug", remedy=R), "InternalServerError", None, None),
    ],
)
def test_an_error_raises_the_class_of_openai(
    error: PacelineError, kind: str, code: str | None, param: str | None
) -> None:
    """Against openai._client.OpenAI._make_status_error and openai._exceptions."""
    reply = failures.refused("openai", error, "req_7")
    far = Far(reply.body, reply.headers, reply.status)
    with pytest.raises(getattr(openai, kind)) as caught:
        far.ask("openai")
    raised: Any = caught.value
    assert type(raised).__name__ == kind
    assert (raised.code, raised.param, raised.request_id) == (code, param, "req_7")
    assert raised.status_code == error.http
    assert raised.type
    assert str(error) in raised.message


@pytest.mark.parametrize(
    ("error", "kind", "word"),
    [
        (BadJson("no JSON", remedy=R), "BadRequestError", "invalid_request_error"),
        (
            MissingField("`max_tokens` is missing", remedy=R),
            "BadRequestError",
            "invalid_request_error",
        ),
        (KeyRequired("no key", remedy=R), "AuthenticationError", "authentication_error"),
        (WrongKey("wrong", remedy=R), "AuthenticationError", "authentication_error"),
        (NotAllowed("no", remedy=R), "PermissionDeniedError", "permission_error"),
        (UnknownModel("no `m`", remedy=R), "NotFoundError", "not_found_error"),
        (TooLarge("too long", remedy=R), "APIStatusError", "request_too_large"),
        (LimitReached("many", remedy=R), "RateLimitError", "rate_limit_error"),
        (ProviderFailed("cut", remedy=R), "InternalServerError", "api_error"),
        (Overloaded("busy", remedy=R), "APIStatusError", "overloaded_error"),
        (DeadlineExceeded("late", remedy=R), "InternalServerError", "timeout_error"),
        (PacelineError("a bug", remedy=R), "InternalServerError", "api_error"),
    ],
)
def test_an_error_raises_the_class_of_anthropic(error: PacelineError, kind: str, word: str) -> None:
    """Against anthropic._client.Anthropic._make_status_error and anthropic._exceptions."""
    reply = failures.refused("anthropic", error, "req_7")
    far = Far(reply.body, reply.headers, reply.status)
    with pytest.raises(getattr(anthropic, kind)) as caught:
        far.ask("anthropic")
    raised: Any = caught.value
    assert (raised.type, raised.request_id) == (word, "req_7")
    assert isinstance(raised.body, dict)
    assert raised.body["request_id"] == "req_7"
    assert raised.body["error"]["message"] == str(error)
    if isinstance(error, (Overloaded, TooLarge)):  # classes that the package does not hand out
        expected = {529: "OverloadedError", 413: "RequestTooLargeError"}
        assert type(raised).__name__ == expected[raised.status_code]


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize(
    ("error", "again"),
    [
        (BadJson("no JSON", remedy=R), False),
        (UnknownModel("no `m`", remedy=R), False),
        (LimitReached("many", remedy=R), True),
        (Overloaded("busy", remedy=R), True),
        (Draining("stopping", remedy=R), True),
        (ProviderFailed("cut", remedy=R), False),
        (EventTooLong("too long", remedy=R), False),
        (DeadlineExceeded("late", remedy=R), False),
        (PacelineError("a bug", remedy=R), False),
    ],
)
def test_an_sdk_tries_again_where_that_helps(
    dialect: Dialect, error: PacelineError, again: bool
) -> None:
    """Against _should_retry and _parse_retry_after_header of both _base_client modules."""
    reply = failures.refused(dialect, error, "req_7", after_s=0.001 if again else None)
    far = Far(reply.body, reply.headers, reply.status)
    with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)):
        far.ask(dialect, retries=2)
    assert len(far.asked) == (3 if again else 1)


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_an_sdk_waits_as_long_as_it_is_told(dialect: Dialect) -> None:
    """Against _parse_retry_after_header of both _base_client modules."""
    far = Far({})
    client: Any = far.openai() if dialect == "openai" else far.anthropic()
    for after_s, waits_s in ((0.25, 0.25), (7, 7), (None, 1)):
        reply = failures.refused(dialect, Overloaded("busy", remedy=R), "r", after_s=after_s)
        headers = httpx2.Headers(reply.headers)
        assert client._parse_retry_after_header(headers) == waits_s
        assert int(headers["retry-after"]) >= waits_s
        assert len(headers.get_list("retry-after")) == 1


def test_what_a_provider_says_of_trying_again_may_be_overruled() -> None:
    """Against openai._base_client._should_retry."""
    said = [(b"x-should-retry", b"true"), (b"retry-after-ms", b"1"), (b"x-ratelimit-limit-x", b"5")]
    far = Far({"error": {"message": "no"}}, JSON + failures.passed(said), 429)
    with pytest.raises(openai.RateLimitError) as caught:
        far.ask("openai", retries=1)
    assert len(far.asked) == 2
    assert caught.value.response.headers["x-ratelimit-limit-x"] == "5"
    far.headers = JSON + failures.passed(said, retry=False)
    with pytest.raises(openai.RateLimitError):
        far.ask("openai", retries=1)
    assert len(far.asked) == 3


def test_of_a_providers_headers_go_on_those_that_mean_something_to_the_caller() -> None:
    limits = [
        (b"x-ratelimit-remaining-tokens", b"1"),
        (b"x-ratelimit-remaining-project-tokens", b"1"),
        (b"anthropic-ratelimit-unified-status", b"allowed"),
        (b"request-id", b"req_1"),
        (b"content-encoding", b"gzip"),
    ]
    ours = [
        (b"set-cookie", b"__cf_bm=1"),
        (b"openai-organization", b"org-1"),
        (b"openai-project", b"proj-1"),
        (b"anthropic-organization-id", b"org-1"),
        (b"content-length", b"5"),
        (b"transfer-encoding", b"chunked"),
        (b"connection", b"close"),
        (b"access-control-allow-origin", b"*"),
    ]
    assert failures.passed(ours + limits) == limits


# --- Errors within streams ------------------------------------------------------------------------

CUT = ProviderFailed("the provider's answer was cut off", remedy="Send the request again.")


def chat_chunk(content: str) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    data = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return write(json.dumps(data | {"choices": [choice]}).encode())


def test_a_cut_chat_raises_after_what_there_was() -> None:
    """Against openai._streaming.Stream and openai.types.chat.ChatCompletionChunk."""
    far = Far(chat_chunk("Hel") + failures.broken("openai", "chat", CUT, "r"), EVENTS)
    stream = far.ask("openai", stream=True)
    assert next(stream).choices[0].delta.content == "Hel"
    with pytest.raises(openai.APIError) as caught:
        next(stream)
    raised = caught.value
    assert (raised.code, raised.type) == ("provider_failed", "server_error")
    assert raised.message == str(CUT)


def test_a_cut_response_raises_after_what_there_was() -> None:
    """Against openai._streaming.Stream and openai.types.responses.ResponseErrorEvent."""
    delta = {
        "type": "response.output_text.delta",
        "delta": "Hel",
        "sequence_number": 4,
        "item_id": "i",
        "output_index": 0,
        "content_index": 0,
        "logprobs": [],
    }
    passing = openais.passing("responses")
    begun = write(json.dumps(delta).encode(), b"response.output_text.delta")
    passing.see(Parser().feed(begun)[0])
    end = failures.broken("openai", "responses", CUT, "r", passing.sequence)
    far = Far(begun + end, EVENTS)
    stream: Any = far.openai().responses.create(model="m", input="x", stream=True)
    assert next(stream).delta == "Hel"
    with pytest.raises(openai.APIError) as caught:
        next(stream)
    assert (caught.value.code, caught.value.message) == ("provider_failed", str(CUT))
    event = Parser().feed(end)[0]
    assert event.name == b"error"
    from openai.types.responses import ResponseErrorEvent

    told = ResponseErrorEvent.model_validate_json(event.data, strict=True)
    assert (told.sequence_number, told.code, told.message) == (5, "provider_failed", str(CUT))


def test_a_cut_message_raises_after_what_there_was() -> None:
    """Against anthropic._streaming.Stream and anthropic._exceptions.APIStatusError."""
    delta = {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": "H"},
    }
    begun = write(json.dumps(delta).encode(), b"content_block_delta")
    far = Far(begun + failures.broken("anthropic", "messages", CUT, "req_7"), EVENTS)
    stream = far.ask("anthropic", stream=True)
    assert next(stream).delta.text == "H"
    with pytest.raises(anthropic.APIStatusError) as caught:
        next(stream)
    assert caught.value.type == "api_error"
    assert caught.value.body == {
        "type": "error",
        "error": {"type": "api_error", "message": str(CUT)},
        "request_id": "req_7",
    }


@pytest.mark.parametrize(
    ("dialect", "data", "status", "kind"),
    [
        (
            "openai",
            {"error": {"message": "no", "type": "server_error"}},
            500,
            "InternalServerError",
        ),
        ("openai", {"error": {"message": "no", "code": 429}}, 429, "RateLimitError"),
        ("openai", {"error": {"message": "no", "code": "503"}}, 503, "InternalServerError"),
        ("openai", {"error": {"message": "no", "code": 7}}, 500, "InternalServerError"),
        (
            "openai",
            {"error": {"message": "no", "type": "tokens", "code": "rate_limit_exceeded"}},
            429,
            "RateLimitError",
        ),
        ("openai", {"error": "no"}, 500, "InternalServerError"),
        (
            "openai",
            {"type": "error", "code": "invalid_api_key", "message": "no", "param": None},
            401,
            "AuthenticationError",
        ),
        (
            "openai",
            {
                "type": "response.failed",
                "response": {"error": {"code": "no_such", "message": "no"}},
            },
            500,
            "InternalServerError",
        ),
        ("openai", "no JSON", 500, "InternalServerError"),
        (
            "anthropic",
            {"type": "error", "error": {"type": "overloaded_error", "message": "no"}},
            529,
            "OverloadedError",
        ),
        (
            "anthropic",
            {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}},
            400,
            "BadRequestError",
        ),
        ("anthropic", "no JSON", 500, "InternalServerError"),
    ],
)
def test_an_error_instead_of_a_stream_becomes_an_answer(
    dialect: Dialect, data: object, status: int, kind: str
) -> None:
    """Against _make_status_error of both clients."""
    raw = data.encode() if isinstance(data, str) else json.dumps(data).encode()
    answered, body = failures.answered(dialect, Event(None, raw, b""))
    assert answered == status
    with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)) as caught:
        Far(body, JSON, answered).ask(dialect)
    assert type(caught.value).__name__ == kind
    if data != "no JSON":
        assert json.loads(body)["error"]["message"] == "no"
    assert json.loads(body)["error"]["type"]


# --- What is asked and answered -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "ask", "asked"),
    [
        ("chat", lambda c: c.chat.completions.create(model="m", messages=HELLO), Asked("m")),
        (
            "chat",
            lambda c: c.chat.completions.create(
                model="m", messages=HELLO, stream=True, max_completion_tokens=9
            ),
            Asked("m", True, False, 9),
        ),
        (
            "chat",
            lambda c: c.chat.completions.create(
                model="m", messages=HELLO, stream=True, stream_options={"include_usage": True}
            ),
            Asked("m", True, True),
        ),
        ("completions", lambda c: c.completions.create(model="m", prompt="é"), Asked("m")),
        ("embeddings", lambda c: c.embeddings.create(model="m", input=["a", "b"]), Asked("m")),
        ("moderations", lambda c: c.moderations.create(input="a"), Asked("omni-moderation-latest")),
        (
            "responses",
            lambda c: c.responses.create(model="m", input="é", stream=True, max_output_tokens=9),
            Asked("m", True, True, 9),
        ),
    ],
)
def test_what_openais_sdk_asks_is_read(
    endpoint: Endpoint, ask: "Callable[[openai.OpenAI], object]", asked: Asked
) -> None:
    """Against the bodies that openai.resources sends."""
    far = Far({"data": []})
    with suppress(ValueError):  # no embeddings in the answer
        ask(far.openai())
    body = far.asked[0].content
    assert openais.read(endpoint, body) == asked
    assert json.loads(openais.with_model(body, "n")) == json.loads(body) | {"model": "n"}
    if asked.stream and not asked.wants_usage:
        again = openais.read(endpoint, openais.with_usage(body))
        assert again == Asked(asked.model, True, True, asked.most_tokens)


def test_what_anthropics_sdk_asks_is_read() -> None:
    """Against the bodies that anthropic.resources sends."""
    far = Far({"input_tokens": 1})
    client = far.anthropic()
    client.messages.create(model="m", max_tokens=5, messages=HELLO)
    client.messages.create(model="m", max_tokens=5, messages=HELLO, stream=True)
    client.messages.count_tokens(model="m", messages=HELLO)
    read = [
        anthropics.read("count_tokens" if "count" in each.url.path else "messages", each.content)
        for each in far.asked
    ]
    assert read == [Asked("m", most_tokens=5), Asked("m", True, True, 5), Asked("m")]


def test_usage_has_the_fields_of_the_sdks_own_types() -> None:
    """Against openai.types.CompletionUsage, openai.types.responses.ResponseUsage and
    anthropic.types.Usage: a field that is renamed there is not missed here."""
    from anthropic.types import Usage as MessageUsage
    from openai.types import CompletionUsage
    from openai.types.responses import ResponseUsage

    chat = CompletionUsage.model_validate(
        {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "total_tokens": 120,
            "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
            "completion_tokens_details": {"reasoning_tokens": 5},
        }
    )
    details = chat.prompt_tokens_details
    assert details
    assert not details.model_extra
    response = ResponseUsage.model_validate(
        {
            "input_tokens": 100,
            "output_tokens": 20,
            "total_tokens": 120,
            "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
            "output_tokens_details": {"reasoning_tokens": 5},
        }
    )
    assert not response.input_tokens_details.model_extra
    message = MessageUsage.model_validate(
        {
            "input_tokens": 10,
            "output_tokens": 20,
            "cache_read_input_tokens": 60,
            "cache_creation_input_tokens": 30,
            "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 0},
            "output_tokens_details": {"thinking_tokens": 5},
        }
    )
    assert not message.model_extra
    told = [
        openais.told(json.dumps({"usage": each.model_dump()}).encode()).usage
        for each in (chat, response)
    ]
    told.append(anthropics.told(json.dumps({"usage": message.model_dump()}).encode()).usage)
    assert told[0]
    assert told == [told[0]] * 3
    assert told[0].fresh_tokens == 10


def test_the_list_of_models_in_both_dialects() -> None:
    """Against openai.resources.Models, anthropic.resources.Models and their Model and ModelInfo."""
    from anthropic.types import ModelInfo
    from openai.types import Model

    names = [f"m{i}" for i in range(5)]
    listed = Far(openais.models(names)).openai().models.list()
    assert [each.id for each in listed] == names
    for one in openais.models(names)["data"]:
        assert Model.model_validate(one, strict=True).object == "model"

    class Pages(Far):
        def _answer(self, request: httpx2.Request) -> httpx2.Response:
            query = request.url.params
            page = anthropics.models(names, limit=2, after=query.get("after_id", ""))
            return httpx2.Response(200, json=page)

    assert [each.id for each in Pages({}).anthropic().models.list(limit=2)] == names
    info = ModelInfo.model_validate(anthropics.model("m"))
    assert (info.id, info.type, info.created_at.year) == ("m", "model", 1970)
