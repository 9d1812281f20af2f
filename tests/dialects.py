"""The official SDKs as judges: whether a body is one of theirs, and what they make of an answer.

Against openai 3.57 and anthropic 1.17. Their types of requests are `TypedDict`s, which pydantic
reads leniently and lazily (an `Iterable` is not looked into); so they are read here, strictly: no
key that is not there, no type that has to be converted. Their types of answers are pydantic's own.
"""

import json
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, Union

import httpx2
import typing_extensions as te
from pydantic import BaseModel, TypeAdapter

from paceline.gateway.sse import Parser
from sdks import anthropic, openai

if TYPE_CHECKING:
    from anthropic import Anthropic
    from anthropic.types import Message, MessageParam
    from openai import OpenAI
    from openai.types.chat import ChatCompletion, ChatCompletionUserMessageParam

M = TypeVar("M", bound=BaseModel)

OLDER = {"temperature": float, "top_k": int, "top_p": float}
"""Words of the Messages API that anthropic 1.17 has no longer in its types: newer models refuse
them, older ones take them."""

UNION: Any = types.UnionType
SEQUENCES = (list, Iterable, Sequence)


def wrong_in(value: object, wanted: Any, place: str = "$") -> str | None:
    """The first thing in decoded JSON that is not of a type, or None."""
    if wanted is Any or wanted is object:
        return None
    origin: Any = te.get_origin(wanted)
    arguments = te.get_args(wanted)
    if te.is_typeddict(wanted):
        return _wrong_in_object(value, wanted, place)
    if origin in (te.Required, te.NotRequired, te.Annotated):
        return wrong_in(value, arguments[0], place)
    if origin in (Union, UNION):
        found = [wrong_in(value, each, place) for each in arguments]
        deepest = max((each for each in found if each), key=len, default=None)
        return None if None in found else deepest
    if origin is te.Literal:
        return None if value in arguments else f"{place}: {value!r} is none of {arguments}"
    if wanted is type(None) or wanted is None:
        return None if value is None else f"{place}: not null"
    if origin in SEQUENCES:
        return (
            _first(wrong_in(each, arguments[0], f"{place}[{at}]") for at, each in enumerate(value))
            if isinstance(value, list)
            else f"{place}: no list"
        )
    if origin in (dict, Mapping):
        return (
            _first(wrong_in(each, arguments[1], f"{place}.{key}") for key, each in value.items())
            if isinstance(value, dict)
            else f"{place}: no object"
        )
    if wanted in (str, bool, int):
        return None if type(value) is wanted else f"{place}: {value!r} is no {wanted}"
    if wanted is float:
        return None if type(value) in (int, float) else f"{place}: {value!r} is no number"
    return f"{place}: {wanted} is never JSON"  # models of answers, files


def _wrong_in_object(value: object, wanted: Any, place: str) -> str | None:
    if not isinstance(value, dict):
        return f"{place}: no object"
    fields = fields_of(wanted)
    more = getattr(wanted, "__pydantic_config__", {}).get("extra") == "allow"
    if not more and (unknown := set(value) - set(fields)):
        return f"{place}: unknown {sorted(unknown)}"
    for name, each in fields.items():
        if te.get_origin(each) is te.Required and name not in value:
            return f"{place}.{name}: missing"
    return _first(
        wrong_in(each, fields[name], f"{place}.{name}")
        for name, each in value.items()
        if name in fields
    )


@cache
def fields_of(wanted: Any) -> dict[str, Any]:
    return te.get_type_hints(wanted, include_extras=True)


def _first(found: Iterator[str | None]) -> str | None:
    return next((each for each in found if each), None)


def wrong_in_messages(body: dict[str, Any]) -> str | None:
    """Against anthropic.types.message_create_params."""
    older = _first(wrong_in(body[name], kind, name) for name, kind in OLDER.items() if name in body)
    rest = {name: value for name, value in body.items() if name not in OLDER}
    streams = rest.get("stream") is True
    params = anthropic.types.message_create_params
    wanted: Any = (
        params.MessageCreateParamsStreaming if streams else params.MessageCreateParamsNonStreaming
    )
    return older or wrong_in(rest, wanted)


def wrong_in_chat(body: dict[str, Any]) -> str | None:
    """Against openai.types.chat.completion_create_params."""
    streams = body.get("stream") is True
    params = openai.types.chat.completion_create_params
    if streams:
        return wrong_in(body, params.CompletionCreateParamsStreaming)
    return wrong_in(body, params.CompletionCreateParamsNonStreaming)


def strictly(model: type[M], body: bytes, *, besides: Iterable[str] = ()) -> M:
    """The SDK's model of an answer, without conversions, and without fields it does not know."""
    read = model.model_validate_json(body, strict=True)
    unknown = set(_unknown(read)) - set(besides)
    assert not unknown, f"not in {model.__name__}: {sorted(unknown)}"
    return read


def _unknown(read: object) -> Iterator[str]:
    if isinstance(read, BaseModel):
        yield from read.model_extra or {}
        for name in type(read).model_fields:
            yield from _unknown(getattr(read, name))
    elif isinstance(read, list):
        for each in read:
            yield from _unknown(each)


THOUGHT = ("reasoning_content",)
"""What OpenAI's own answers do not have; see `answers.py`."""


@cache
def _stream_event() -> TypeAdapter[BaseModel]:
    return TypeAdapter(anthropic.types.RawMessageStreamEvent)


def read_message(body: bytes) -> "Message":
    """Against anthropic.types.Message."""
    return strictly(anthropic.types.Message, body)


def read_completion(body: bytes) -> "ChatCompletion":
    """Against openai.types.chat.ChatCompletion."""
    return strictly(openai.types.chat.ChatCompletion, body, besides=THOUGHT)


def check_chunks(stream: bytes) -> None:
    """Each event against openai.types.chat.ChatCompletionChunk."""
    for event in Parser().feed(stream):
        if event.data and event.data != b"[DONE]":
            assert event.name is None
            strictly(openai.types.chat.ChatCompletionChunk, event.data, besides=THOUGHT)


def check_events(stream: bytes) -> None:
    """Each event against anthropic.types.RawMessageStreamEvent."""
    for event in Parser().feed(stream):
        told = json.loads(event.data)
        assert event.name == told["type"].encode()
        if event.name != b"ping":
            read = _stream_event().validate_json(event.data, strict=True)
            assert not set(_unknown(read)), event.data


class _Sent:
    """What the server that the SDKs believe in sends next."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body = b""

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(self.status, headers=self.headers, content=self.body)


SENT = _Sent()


def _http() -> httpx2.Client:
    return httpx2.Client(transport=httpx2.MockTransport(SENT), trust_env=False)


@cache
def _anthropic() -> "Anthropic":
    return anthropic.Anthropic(
        api_key="none", base_url="http://sdk.test", max_retries=0, http_client=_http()
    )


@cache
def _openai() -> "OpenAI":
    return openai.OpenAI(
        api_key="none", base_url="http://sdk.test", max_retries=0, http_client=_http()
    )


def _send(body: bytes, status: int, kind: str) -> None:
    SENT.body, SENT.status, SENT.headers = body, status, {"content-type": kind}


def message_of(stream: bytes) -> dict[str, Any]:
    """What anthropic.lib.streaming.MessageStream makes of it, without what is null."""
    _send(stream, 200, "text/event-stream")
    user: MessageParam = {"role": "user", "content": "?"}
    with _anthropic().messages.stream(model="any", max_tokens=1, messages=[user]) as events:
        return plain(events.get_final_message())


def completion_of(stream: bytes) -> dict[str, Any]:
    """What openai.lib.streaming.chat.ChatCompletionStream makes of it, without what is null."""
    _send(stream, 200, "text/event-stream")
    user: ChatCompletionUserMessageParam = {"role": "user", "content": "?"}
    with _openai().chat.completions.stream(model="any", messages=[user]) as chunks:
        # The final one raises for an answer that was cut short, as it would for whoever parses it.
        return plain(chunks.until_done().current_completion_snapshot)


def ask_anthropic(body: bytes, status: int) -> "Message":
    """What `client.messages.create` makes of an answer."""
    _send(body, status, "application/json")
    user: MessageParam = {"role": "user", "content": "?"}
    return _anthropic().messages.create(model="any", max_tokens=1, messages=[user])


def ask_openai(body: bytes, status: int) -> "ChatCompletion":
    """What `client.chat.completions.create` makes of an answer."""
    _send(body, status, "application/json")
    user: ChatCompletionUserMessageParam = {"role": "user", "content": "?"}
    return _openai().chat.completions.create(model="any", messages=[user])


def plain(read: BaseModel) -> dict[str, Any]:
    """Without what is null, and what the SDK adds itself; arguments as the JSON they are."""
    told = read.model_dump(mode="json", exclude_none=True)
    for choice in told.get("choices", []):
        for call in choice["message"].get("tool_calls", []):
            call.pop("index", None)
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return told
