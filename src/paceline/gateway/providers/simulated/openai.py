"""Simulated answers in OpenAI's dialect: chat, the list of models, errors, and what text
completions have in common with chat.

Bodies are as the API has them, with `system_fingerprint` "fp_simulated". What is read of a request
is what its answer depends on; the rest is not looked at. Not simulated: audio, `functions`, custom
tools, web search, predictions, stored completions. Called by `provider.py`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import orjson

from paceline.gateway.providers.simulated.answers import EVENTS, Answer, Made, Piece, Refused, whole
from paceline.gateway.providers.simulated.reading import (
    ANY_OBJECT,
    Part,
    check_model,
    check_positive,
    choices_of,
    content_of,
    named_tool,
    read,
    stops_of,
    tools_by,
)
from paceline.gateway.providers.simulated.saying import (
    IMAGE_TOKENS,
    MESSAGE_TOKENS,
    Prompt,
    Saying,
    Tool,
    say,
    tokens_in,
    tokens_of,
)
from paceline.gateway.providers.simulated.wishes import CHAT_MODELS, MODELS, Wish
from paceline.terms.limits import SIMULATED_TOKENS

FINGERPRINT = "fp_simulated"

ENDED = {"stop": "stop", "sequence": "stop", "length": "length", "tools": "tool_calls"}

DONE = Piece(b"data: [DONE]\n\n", 0)


# --- What is read ---------------------------------------------------------------------------------


class _Message(msgspec.Struct):
    role: str
    content: str | list[Part] | None = None
    tool_calls: msgspec.Raw = msgspec.Raw(b"")


class _Function(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Tool(msgspec.Struct):
    type: str
    function: _Function | None = None


class _Allowed(msgspec.Struct):
    mode: str
    tools: list[_Tool]


class _Choice(msgspec.Struct):
    type: str
    function: _Function | None = None
    allowed_tools: _Allowed | None = None


class _JsonSchema(msgspec.Struct):
    schema: dict[str, Any] | None = None


class _Format(msgspec.Struct):
    type: str
    json_schema: _JsonSchema | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Chat(msgspec.Struct):
    messages: list[_Message]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | _Choice | None = None
    parallel_tool_calls: bool | None = None
    response_format: _Format | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


# --- Chat -----------------------------------------------------------------------------------------


def chat(body: bytes, wish: Wish, made: Made) -> Answer:
    asked = read(body, _Chat)
    check_model(wish, CHAT_MODELS)
    check_positive(asked.max_completion_tokens, "max_completion_tokens")
    check_positive(asked.max_tokens, "max_tokens")
    if not asked.messages:
        raise Refused(400, "There must be at least one message.", param="messages")
    prompt = _prompt(asked, wish.model)
    n = choices_of(asked.n)
    sayings = [say(prompt, wish.tokens, SIMULATED_TOKENS // n)] * n
    tokens = sum(saying.tokens for saying in sayings)
    usage = usage_fields(prompt.tokens, tokens)
    told = asked.top_logprobs or 0 if asked.logprobs else None
    if not asked.stream:
        choices = [_chat_choice(at, saying, made, told) for at, saying in enumerate(sayings)]
        return whole(
            orjson.dumps(completion_fields("chat.completion", wish.model, made, choices, usage)),
            tokens,
        )
    with_usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
    stream = ChunkStream("chat.completion.chunk", wish.model, made, with_usage)
    deltas = [_chat_deltas(at, saying, made, told) for at, saying in enumerate(sayings)]
    return Answer(200, [EVENTS], stream.pieces(deltas, usage), tokens, BROKEN)


def _prompt(asked: _Chat, model: str) -> Prompt:
    tokens, images, said, tool_said = 0, 0, "", None
    if asked.tools:
        tokens = tokens_of(msgspec.json.encode(asked.tools).decode())
    for message in asked.messages:
        text, pictures = content_of(message.content, "image_url")
        tokens += MESSAGE_TOKENS + tokens_of(text) + tokens_of(bytes(message.tool_calls).decode())
        images += pictures
        if message.role == "user":
            said, tool_said = text, None
        elif message.role in ("tool", "function"):
            tool_said = text
    tools, must = _tools(asked)
    most = asked.max_completion_tokens or asked.max_tokens
    return Prompt(
        model=model,
        said=said,
        tool_said=tool_said,
        tokens=tokens + images * IMAGE_TOKENS,
        images=images,
        most_tokens=most,
        stops=stops_of(asked.stop),
        tools=tools,
        must_call=must,
        one_call=asked.parallel_tool_calls is False,
        structure=_structure(asked.response_format),
    )


def _tools(asked: _Chat) -> tuple[tuple[Tool, ...], bool]:
    """Those that may be called, and whether one must be."""
    known = {
        tool.function.name: Tool(tool.function.name, tool.function.parameters)
        for tool in asked.tools or ()
        if tool.function is not None
    }
    choice = asked.tool_choice
    if choice is None or isinstance(choice, str):
        return tools_by(choice, known)
    if choice.function is not None:
        return (named_tool(known, choice.function.name),), True
    if choice.allowed_tools is not None:
        names = [tool.function.name for tool in choice.allowed_tools.tools if tool.function]
        allowed = tuple(named_tool(known, name) for name in names)
        return allowed, choice.allowed_tools.mode == "required"
    return tuple(known.values()), True


def _structure(asked: _Format | None) -> dict[str, Any] | None:
    if asked is None or asked.type == "text":
        return None
    if asked.type == "json_schema":
        if asked.json_schema is None:
            raise Refused(400, "`json_schema` is missing.", param="response_format.json_schema")
        return asked.json_schema.schema or ANY_OBJECT
    return ANY_OBJECT


def _chat_choice(at: int, saying: Saying, made: Made, told: int | None) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": saying.text, "refusal": None}
    if saying.calls:
        message["content"] = None
        message["tool_calls"] = [
            {
                "id": call_id(made, at, number),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(saying.calls)
        ]
    else:
        message["annotations"] = []
    return {
        "index": at,
        "message": message,
        "logprobs": _logprobs(tokens_in(saying.text), told),
        "finish_reason": ENDED[saying.ended],
    }


def _chat_deltas(at: int, saying: Saying, made: Made, told: int | None) -> Iterator[Piece]:
    """The choices of each chunk, as JSON."""

    def choice(delta: dict[str, Any], tokens: int, text: str = "") -> Piece:
        logprobs = _logprobs([text], told) if text else None
        fields = {"index": at, "delta": delta, "logprobs": logprobs, "finish_reason": None}
        return Piece(orjson.dumps([fields]), tokens)

    first = {"role": "assistant", "content": None if saying.calls else "", "refusal": None}
    yield choice(first, 0)
    for number, call in enumerate(saying.calls):
        begin = {
            "index": number,
            "id": call_id(made, at, number),
            "type": "function",
            "function": {"name": call.name, "arguments": ""},
        }
        yield choice({"tool_calls": [begin]}, tokens_of(call.name))
        for token in tokens_in(call.arguments):
            part = {"index": number, "function": {"arguments": token}}
            yield choice({"tool_calls": [part]}, 1)
    for token in tokens_in(saying.text):
        yield choice({"content": token}, 1, token)
    end = {"index": at, "delta": {}, "logprobs": None, "finish_reason": ENDED[saying.ended]}
    yield Piece(orjson.dumps([end]), 0)


def _logprobs(tokens: Sequence[str], told: int | None) -> dict[str, Any] | None:
    """Each token is almost certain, and has no rival."""
    if told is None:
        return None
    content = []
    for token in tokens:
        one = {"token": token, "logprob": -0.0001, "bytes": list(token.encode())}
        content.append({**one, "top_logprobs": [one] if told else []})
    return {"content": content, "refusal": None}


# --- What both have -------------------------------------------------------------------------------


class ChunkStream:
    """Chunks that differ in their choices only."""

    __slots__ = ("_begin", "_end", "_with_usage")

    def __init__(self, kind: str, model: str, made: Made, with_usage: bool) -> None:
        fields = completion_fields(kind, model, made, [], None)
        if kind == "text_completion":
            del fields["service_tier"]
        del fields["choices"], fields["usage"]
        self._begin = b"data: " + orjson.dumps(fields)[:-1] + b',"choices":'
        self._end = b',"usage":null}\n\n' if with_usage else b"}\n\n"
        self._with_usage = with_usage

    def pieces(self, deltas: list[Iterator[Piece]], usage: dict[str, Any]) -> Iterator[Piece]:
        """One choice's next after the other's; those of one are told in their order."""
        while deltas:
            left = []
            for each in deltas:
                piece = next(each, None)
                if piece is not None:
                    left.append(each)
                    yield Piece(self._begin + piece.data + self._end, piece.tokens)
            deltas = left
        if self._with_usage:
            told = b'[],"usage":' + orjson.dumps(usage)
            yield Piece(self._begin + told + b"}\n\n", 0)
        yield DONE


def completion_fields(
    kind: str, model: str, made: Made, choices: list[Any], usage: dict[str, Any] | None
) -> dict[str, Any]:
    prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
    return {
        "id": f"{prefix}-{made.id}",
        "object": kind,
        "created": int(made.at_s),
        "model": model,
        "choices": choices,
        "usage": usage,
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }


def usage_fields(prompt: int, completion: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def call_id(made: Made, choice: int, number: int) -> str:
    return f"call_{made.id}{choice:02d}{number:02d}"


# --- Models and errors ----------------------------------------------------------------------------


def models() -> Answer:
    return whole(orjson.dumps({"object": "list", "data": [_model(each) for each in MODELS]}), 0)


def model(name: str) -> Answer:
    if name not in MODELS:
        raise Refused(
            404, f"The model `{name[:100]}` does not exist.", code="model_not_found", param="model"
        )
    return whole(orjson.dumps(_model(name)), 0)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1798761600, "owned_by": "simulated"}


KINDS = {403: "request_forbidden", 429: "requests"}
CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


def error(refused: Refused, made: Made) -> bytes:
    return orjson.dumps({"error": _error(refused)})


def _error(refused: Refused) -> dict[str, Any]:
    status = refused.status
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {
        "message": refused.message,
        "type": KINDS.get(status, kind),
        "param": refused.param,
        "code": refused.code or CODES.get(status),
    }


BROKEN = b"data: %s\n\n" % orjson.dumps(
    {"error": _error(Refused(500, "The simulated answer was to end in an error here."))}
)
