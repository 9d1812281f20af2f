"""Whole answers from one dialect into the other, and what they share with streams: usage, the
reasons an answer ends, ids.

Read as leniently as the SDKs read them: what is not known is left alone, for providers add to their
answers at any time. `model` is what the caller asked for, whatever the provider calls it. OpenAI's
dialect has no word for thinking; it goes into `reasoning_content`, where callers and providers of
that dialect have come to look for it. Signatures, citations and blocks of tools that Anthropic runs
itself, which a request in OpenAI's dialect cannot ask for, are left out.

OpenAI counts all of a prompt in `prompt_tokens`, and tells within it what was read from a cache and
written to it; Anthropic's `input_tokens` are what is left of it. A provider that tells no usage has
used nothing, in an answer of Anthropic's dialect, which must tell it. Bills are made from what the
provider said itself (`openai.py`, `anthropic.py`), never from what is made of it here.

Pure: bytes in, bytes out. Called by `hearing.py` and `scribe.py`; events are in `streams.py`.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from paceline.gateway.call import Dialect
from paceline.gateway.translate.arguments import input_of
from paceline.terms.errors import ProviderFailed

S = TypeVar("S")

FINISH: Mapping[str, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",  # there is more to come, which only Anthropic's dialect can ask for
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""OpenAI's `finish_reason` for each of Anthropic's `stop_reason`."""

STOP: Mapping[str, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
"""And back."""

CHAT_TIER: Mapping[str, str] = {"standard": "default", "priority": "priority"}
MESSAGES_TIER: Mapping[str, str] = {"default": "standard", "priority": "priority"}

CHAT_ID: Final = "chatcmpl-"
MESSAGE_ID: Final = "msg_"

REMEDY: Final = "Ask again, or ask the provider what it sends."


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class ChatUsage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _OutputDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class MessagesUsage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None
    service_tier: str | None = None


class StopDetails(msgspec.Struct):
    explanation: str | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    id: str | None = None
    function: _Function | None = None


class _ChatMessage(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    message: _ChatMessage
    finish_reason: str | None = None


class _Chat(msgspec.Struct):
    choices: list[_Choice]
    id: str | None = None
    usage: ChatUsage | None = None
    service_tier: str | None = None


class _Block(msgspec.Struct):
    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Message(msgspec.Struct):
    content: list[_Block]
    id: str | None = None
    stop_reason: str | None = None
    stop_details: StopDetails | None = None
    usage: MessagesUsage | None = None


CHAT = msgspec.json.Decoder(_Chat)
MESSAGE = msgspec.json.Decoder(_Message)


def answered(body: bytes, to: Dialect, model: str, created: int) -> bytes:
    """An answer of the other dialect. Raises ProviderFailed where it is none."""
    return to_messages(body, model) if to == "anthropic" else to_chat(body, model, created)


def to_messages(body: bytes, model: str) -> bytes:
    """A chat completion as a message. Raises ProviderFailed where it is none."""
    answer = _read(CHAT, body)
    if not answer.choices:
        raise ProviderFailed("the provider's answer has no choices", remedy=REMEDY)
    message = answer.choices[0].message
    id = message_id(answer.id, body)
    content: list[dict[str, Any]] = []
    if thought := message.reasoning_content or message.reasoning:
        content.append({"type": "thinking", "thinking": thought, "signature": ""})
    if text := (message.content or "") + (message.refusal or ""):
        content.append({"type": "text", "text": text})
    calls = message.tool_calls or []
    for position, call in enumerate(calls):
        function = call.function or _Function()
        content.append(
            {
                "type": "tool_use",
                "id": call.id or call_id(id, position),
                "name": function.name or "",
                "input": input_of(function.arguments or ""),
            }
        )
    finish = answer.choices[0].finish_reason
    return msgspec.json.encode(
        {
            "id": id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": content,
            "stop_reason": stop_reason(finish, called=bool(calls), refused=bool(message.refusal)),
            "stop_sequence": None,
            "usage": messages_usage(answer.usage, answer.service_tier),
        }
    )


def to_chat(body: bytes, model: str, created: int) -> bytes:
    """A message as a chat completion; `created` is a Unix time in seconds, which Anthropic's do not
    tell. Raises ProviderFailed where it is none."""
    answer = _read(MESSAGE, body)
    id = chat_id(answer.id, body)
    texts = [block.text or "" for block in answer.content if block.type == "text"]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(texts) if texts else None,
        "refusal": explanation(answer.stop_reason, answer.stop_details),
    }
    if thought := "".join(b.thinking or "" for b in answer.content if b.type == "thinking"):
        message["reasoning_content"] = thought
    uses = [block for block in answer.content if block.type == "tool_use"]
    if uses:
        message["tool_calls"] = [
            {
                "id": use.id or call_id(id, position),
                "type": "function",
                "function": {"name": use.name or "", "arguments": given(use.input)},
            }
            for position, use in enumerate(uses)
        ]
    usage = answer.usage or MessagesUsage()
    told: dict[str, Any] = {
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": finish_reason(answer.stop_reason),
            }
        ],
        "usage": chat_usage(usage),
    }
    if tier := CHAT_TIER.get(usage.service_tier or ""):
        told["service_tier"] = tier
    return msgspec.json.encode(told)


def _read(decoder: msgspec.json.Decoder[S], body: bytes) -> S:
    try:
        body.decode()  # what is copied unread (`msgspec.Raw`) would not be checked otherwise
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
        raise ProviderFailed(
            "the provider's answer cannot be read", value=str(wrong), remedy=REMEDY
        ) from None


def given(input: msgspec.Raw | msgspec.UnsetType) -> str:
    """The arguments of a call, as JSON."""
    text = "" if input is msgspec.UNSET else bytes(input).decode()
    return "{}" if text in ("", "null") else text


def finish_reason(stop: str | None) -> str:
    return FINISH.get(stop or "", "stop")


def stop_reason(finish: str | None, *, called: bool, refused: bool) -> str:
    """OpenAI says `stop` too where a caller named the tool to call, or where the model refuses."""
    if refused:
        return "refusal"
    if called and finish in (None, "stop"):
        return "tool_use"
    return STOP.get(finish or "", "end_turn")


def explanation(stop: str | None, details: StopDetails | None) -> str | None:
    return details.explanation if stop == "refusal" and details is not None else None


def chat_id(id: str | None, made_of: bytes) -> str:
    return CHAT_ID + (id or _short(made_of)).removeprefix(MESSAGE_ID)


def message_id(id: str | None, made_of: bytes) -> str:
    return MESSAGE_ID + (id or _short(made_of)).removeprefix(CHAT_ID)


def call_id(answer: str, position: int) -> str:
    """For a call that its provider gave none."""
    return f"call_{_short(f'{answer}/{position}'.encode())}"


def _short(made_of: bytes) -> str:
    return hashlib.sha256(made_of).hexdigest()[:24]


def chat_usage(usage: MessagesUsage) -> dict[str, Any]:
    read = usage.cache_read_input_tokens or 0
    written = usage.cache_creation_input_tokens or 0
    prompt = (usage.input_tokens or 0) + read + written
    completion = usage.output_tokens or 0
    told: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
    }
    details = usage.output_tokens_details
    if details is not None and details.thinking_tokens is not None:
        told["completion_tokens_details"] = {"reasoning_tokens": details.thinking_tokens}
    return told


def messages_usage(usage: ChatUsage | None, tier: str | None = None) -> dict[str, Any]:
    usage = usage or ChatUsage()
    prompt = usage.prompt_tokens_details or _PromptDetails()
    read, written = prompt.cached_tokens or 0, prompt.cache_write_tokens or 0
    told: dict[str, Any] = {
        "input_tokens": max((usage.prompt_tokens or 0) - read - written, 0),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.completion_tokens or 0,
    }
    details = usage.completion_tokens_details
    if details is not None and details.reasoning_tokens is not None:
        told["output_tokens_details"] = {"thinking_tokens": details.reasoning_tokens}
    if known := MESSAGES_TIER.get(tier or ""):
        told["service_tier"] = known
    return told
