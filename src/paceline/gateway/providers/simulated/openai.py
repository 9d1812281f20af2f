"""Simulated answers in OpenAI's dialect, but for `/responses`, which has a module of its own.

Chat and text completions, embeddings and moderations, whole and streamed, and errors: bodies as the
API has them, with `system_fingerprint` "fp_simulated". What is read of a request is what its answer
depends on; the rest is not looked at. Not simulated: audio, `functions`, web search, predictions,
stored completions. Vectors are made of the words of a text, so texts that share words are near each
other. A moderation flags what names its category. Called by `provider.py`.
"""

import base64
import math
import re
import zlib
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import msgspec
import orjson

from paceline.gateway.providers.simulated.answers import (
    EVENTS,
    JSON,
    Answer,
    Made,
    Piece,
    Refused,
    whole,
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
from paceline.gateway.providers.simulated.wishes import (
    CHAT_MODELS,
    EMBEDDING_MODEL,
    MODELS,
    MODERATION_MODEL,
    Wish,
)
from paceline.terms.limits import (
    SIMULATED_CHOICES,
    SIMULATED_DIMENSIONS,
    SIMULATED_INPUT_TOKENS,
    SIMULATED_INPUTS,
    SIMULATED_ITEMS,
    SIMULATED_TOKENS,
)

T = TypeVar("T")

FINGERPRINT = "fp_simulated"
DIMENSIONS = 256
"""of a vector, unless it is asked for another number"""

ENDED = {"stop": "stop", "sequence": "stop", "length": "length", "tools": "tool_calls"}

ANY_OBJECT = {"type": "object", "properties": {"simulated": {"const": True}}}

CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)

IMAGE_CATEGORIES = ("self-harm", "sexual", "violence")

DONE = Piece(b"data: [DONE]\n\n", 0)


# --- What is read ---------------------------------------------------------------------------------


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
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


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Chat(msgspec.Struct):
    messages: list[_Message]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
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


class _Completion(msgspec.Struct):
    prompt: str | list[str | int | list[int]] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    echo: bool | None = None
    logprobs: int | None = None


class _Embedding(msgspec.Struct):
    input: str | list[str | int | list[int]]
    dimensions: int | None = None
    encoding_format: str | None = None


class _ModerationPart(msgspec.Struct):
    type: str
    text: str | None = None


class _Moderation(msgspec.Struct):
    input: str | list[str] | list[_ModerationPart]


def read(body: bytes, kind: type[T]) -> T:
    """Refused as a bad request, with the place in it."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:  # a ValidationError is one too
        said = str(error)
        place = re.search(r"at `\$\.([\w]+)", said) or re.search(r"required field `(\w+)`", said)
        raise Refused(
            400, f"The body cannot be used: {said}.", param=place[1] if place else None
        ) from None


# --- Chat -----------------------------------------------------------------------------------------


def chat(body: bytes, wish: Wish, made: Made) -> Answer:
    asked = read(body, _Chat)
    check_model(wish, CHAT_MODELS)
    check_positive(asked.max_completion_tokens, "max_completion_tokens")
    check_positive(asked.max_tokens, "max_tokens")
    if not asked.messages:
        raise Refused(400, "There must be at least one message.", param="messages")
    prompt = _prompt(asked, wish.model)
    n = _choices(asked.n)
    sayings = [say(prompt, wish.tokens, SIMULATED_TOKENS // n)] * n
    tokens = sum(saying.tokens for saying in sayings)
    usage = _usage(prompt.tokens, tokens)
    told = asked.top_logprobs or 0 if asked.logprobs else None
    if not asked.stream:
        choices = [_chat_choice(at, saying, made, told) for at, saying in enumerate(sayings)]
        return whole(
            orjson.dumps(_completion("chat.completion", wish.model, made, choices, usage)), tokens
        )
    with_usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
    stream = _Stream("chat.completion.chunk", wish.model, made, with_usage)
    deltas = [_chat_deltas(at, saying, made, told) for at, saying in enumerate(sayings)]
    return Answer(200, [EVENTS], stream.pieces(deltas, usage), tokens, BROKEN)


def _prompt(asked: _Chat, model: str) -> Prompt:
    tokens, images, said, tool_said = 0, 0, "", None
    if asked.tools:
        tokens = tokens_of(msgspec.json.encode(asked.tools).decode())
    for message in asked.messages:
        text, pictures = _content(message.content)
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


def _content(content: "str | list[_Part] | None") -> tuple[str, int]:
    """The text, and how many images came with it."""
    if content is None or isinstance(content, str):
        return content or "", 0
    text = "\n".join(part.text for part in content if part.text)
    return text, sum(part.type == "image_url" for part in content)


def _tools(asked: _Chat) -> tuple[tuple[Tool, ...], bool]:
    """Those that may be called, and whether one must be."""
    known = {
        tool.function.name: Tool(tool.function.name, tool.function.parameters)
        for tool in asked.tools or ()
        if tool.function is not None
    }
    choice = asked.tool_choice
    if choice == "none":
        return (), False
    if choice == "required" and not known:
        raise Refused(400, "A tool must be called, and none is given.", param="tool_choice")
    if choice is None or isinstance(choice, str):
        return tuple(known.values()), choice == "required"
    if choice.function is not None:
        return (named_tool(known, choice.function.name),), True
    if choice.allowed_tools is not None:
        names = [tool.function.name for tool in choice.allowed_tools.tools if tool.function]
        allowed = tuple(named_tool(known, name) for name in names)
        return allowed, choice.allowed_tools.mode == "required"
    return tuple(known.values()), True


def named_tool(known: dict[str, Tool], name: str) -> Tool:
    if name not in known:
        raise Refused(400, f"No tool is called `{name[:100]}`.", param="tool_choice")
    return known[name]


def _structure(asked: _Format | None) -> dict[str, Any] | None:
    if asked is None or asked.type == "text":
        return None
    if asked.type == "json_schema":
        if asked.json_schema is None:
            raise Refused(400, "`json_schema` is missing.", param="response_format.json_schema")
        return asked.json_schema.schema or ANY_OBJECT
    return ANY_OBJECT


def _choices(n: int | None) -> int:
    if n is None:
        return 1
    if not 1 <= n <= SIMULATED_CHOICES:
        raise Refused(400, f"Between 1 and {SIMULATED_CHOICES} choices, not {n}.", param="n")
    return n


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


# --- Text completions -----------------------------------------------------------------------------


def completions(body: bytes, wish: Wish, made: Made) -> Answer:
    asked = read(body, _Completion)
    check_model(wish, CHAT_MODELS)
    check_positive(asked.max_tokens, "max_tokens")
    texts = _texts(asked.prompt if asked.prompt is not None else "")
    n = _choices(asked.n)
    if not 1 <= len(texts) * n <= SIMULATED_CHOICES:
        raise Refused(400, f"Between 1 and {SIMULATED_CHOICES} choices in all.", param="prompt")
    prompts = [
        Prompt(
            model=wish.model,
            said=text,
            tokens=tokens,
            most_tokens=asked.max_tokens,
            stops=stops_of(asked.stop),
        )
        for text, tokens in texts
    ]
    most = SIMULATED_TOKENS // (len(texts) * n)
    said = [(prompt, say(prompt, wish.tokens, most)) for prompt in prompts for _ in range(n)]
    tokens = sum(saying.tokens for _, saying in said)
    usage = _usage(sum(prompt.tokens for prompt in prompts), tokens)
    texts_out = [(prompt.said if asked.echo else "") + saying.text for prompt, saying in said]
    if not asked.stream:
        choices = [
            _text_choice(at, text, ENDED[saying.ended], asked.logprobs)
            for at, (text, (_, saying)) in enumerate(zip(texts_out, said, strict=True))
        ]
        fields = _completion("text_completion", wish.model, made, choices, usage)
        del fields["service_tier"]
        return whole(orjson.dumps(fields), tokens)
    with_usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
    stream = _Stream("text_completion", wish.model, made, with_usage)
    deltas = [
        _text_deltas(at, text, ENDED[saying.ended], asked.logprobs)
        for at, (text, (_, saying)) in enumerate(zip(texts_out, said, strict=True))
    ]
    return Answer(200, [EVENTS], stream.pieces(deltas, usage), tokens, BROKEN)


def _text_choice(at: int, text: str, ended: str | None, told: int | None) -> dict[str, Any]:
    logprobs = None
    if told is not None:
        tokens = tokens_in(text)
        logprobs = {
            "tokens": tokens,
            "token_logprobs": [-0.0001 for _ in tokens],
            "top_logprobs": [{token: -0.0001} for token in tokens] if told else None,
            "text_offset": [4 * number for number in range(len(tokens))],
        }
    return {"text": text, "index": at, "logprobs": logprobs, "finish_reason": ended}


def _text_deltas(at: int, text: str, ended: str, told: int | None) -> Iterator[Piece]:
    for token in tokens_in(text):
        yield Piece(orjson.dumps([_text_choice(at, token, None, told)]), 1)
    yield Piece(orjson.dumps([_text_choice(at, "", ended, None)]), 0)


def _texts(given: "str | Sequence[str | int | list[int]]") -> list[tuple[str, int]]:
    """Each text and its tokens. A list of numbers is one text, in the tokens of some tokenizer."""
    if isinstance(given, str):
        return [(given, tokens_of(given))]
    numbers = [each for each in given if isinstance(each, int)]
    if numbers:
        return [(" ".join(map(str, numbers)), len(numbers))]
    return [
        (each, tokens_of(each)) if isinstance(each, str) else (" ".join(map(str, each)), len(each))
        for each in given
        if not isinstance(each, int)
    ]


# --- What both have -------------------------------------------------------------------------------


class _Stream:
    """Chunks that differ in their choices only."""

    __slots__ = ("_begin", "_end", "_with_usage")

    def __init__(self, kind: str, model: str, made: Made, with_usage: bool) -> None:
        fields = _completion(kind, model, made, [], None)
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


def _completion(
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


def _usage(prompt: int, completion: int) -> dict[str, Any]:
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


def stops_of(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    return tuple(each for each in stops if each)


def check_model(wish: Wish, allowed: Sequence[str]) -> None:
    if wish.model not in allowed:
        raise Refused(
            400,
            f"The model `{wish.model}` cannot do this; {' and '.join(allowed)} can.",
            param="model",
        )


def check_positive(number: int | None, name: str) -> None:
    if number is not None and number < 1:
        raise Refused(400, f"`{name}` must be at least 1, not {number}.", param=name)


# --- Embeddings -----------------------------------------------------------------------------------


def embeddings(body: bytes, wish: Wish, made: Made) -> Answer:
    asked = read(body, _Embedding)
    check_model(wish, (EMBEDDING_MODEL,))
    texts = _texts(asked.input)
    if not texts or len(texts) > SIMULATED_INPUTS or not all(tokens for _, tokens in texts):
        raise Refused(
            400, f"Between 1 and {SIMULATED_INPUTS} texts, none of them empty.", param="input"
        )
    if any(tokens > SIMULATED_INPUT_TOKENS for _, tokens in texts):
        raise Refused(
            400, f"A text has at most {SIMULATED_INPUT_TOKENS} tokens here.", param="input"
        )
    size = DIMENSIONS if asked.dimensions is None else asked.dimensions
    if not 1 <= size <= SIMULATED_DIMENSIONS:
        raise Refused(400, f"Between 1 and {SIMULATED_DIMENSIONS}, not {size}.", param="dimensions")
    if asked.encoding_format not in (None, "float", "base64"):
        raise Refused(400, "Either `float` or `base64`.", param="encoding_format")
    tokens = sum(tokens for _, tokens in texts)
    as_text = asked.encoding_format == "base64"
    pieces = _embedded([text for text, _ in texts], wish.model, size, tokens, as_text)
    return Answer(200, [JSON], pieces, 0)


def _embedded(
    texts: list[str], model: str, size: int, tokens: int, as_text: bool
) -> Iterator[Piece]:
    """One after the other, so that many of them hold up nobody."""
    yield Piece(b'{"object":"list","data":[', 0)
    for at, text in enumerate(texts):
        numbers = vector(text, size)
        told: object = numbers.tolist()
        if as_text:
            told = base64.b64encode(numbers.tobytes()).decode()
        fields = {"object": "embedding", "index": at, "embedding": told}
        yield Piece(b"," * (at > 0) + orjson.dumps(fields), 0)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    yield Piece(b'],"model":"%s","usage":%s}' % (model.encode(), orjson.dumps(usage)), 0)


def vector(text: str, size: int) -> "array[float]":
    """Of length 1: each word adds to one number, or takes from it; which, its checksum says."""
    sums = [0.0] * size
    for word in re.findall(r"\w+", text.lower()) or [text]:
        sum_ = zlib.crc32(word.encode())
        sums[(sum_ >> 1) % size] += 1.0 if sum_ & 1 else -1.0
    length = math.sqrt(sum(number * number for number in sums))
    if not length:  # its words cancel each other out
        sums[0] = length = 1.0
    return array("f", [number / length for number in sums])


# --- Moderations ----------------------------------------------------------------------------------


def moderations(body: bytes, wish: Wish, made: Made) -> Answer:
    asked = read(body, _Moderation)
    check_model(wish, (MODERATION_MODEL,))
    given = asked.input
    texts = [given] if isinstance(given, str) else [each for each in given if isinstance(each, str)]
    parts = [] if isinstance(given, str) else [each for each in given if not isinstance(each, str)]
    if parts:
        texts = [" ".join(part.text or "" for part in parts)]
    if not 1 <= len(texts) <= SIMULATED_ITEMS:
        raise Refused(400, f"Between 1 and {SIMULATED_ITEMS} texts.", param="input")
    images = any(part.type == "image_url" for part in parts)
    fields = {
        "id": f"modr-{made.id}",
        "model": wish.model,
        "results": [_moderated(text.lower(), images) for text in texts],
    }
    return whole(orjson.dumps(fields), 0)


def _moderated(text: str, images: bool) -> dict[str, Any]:
    flags = {each: all(word in text for word in each.split("/")) for each in CATEGORIES}
    both = ["text", "image"]
    return {
        "flagged": any(flags.values()),
        "categories": flags,
        "category_scores": {each: 0.99 if flag else 0.0001 for each, flag in flags.items()},
        "category_applied_input_types": {
            each: both if images and each.split("/")[0] in IMAGE_CATEGORIES else ["text"]
            for each in CATEGORIES
        },
    }


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
