"""Simulated answers in Anthropic's dialect: messages, whole and streamed, counts of tokens, errors.

What is read of a request is what its answer depends on; the rest is not looked at. A caller who
switches thinking on gets a thinking block, which says that nobody thought. Not simulated: tools
that run on the vendor's side, citations, caching (nothing is ever read from one). Called by
`provider.py`.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import orjson

from paceline.gateway.providers.simulated.answers import EVENTS, Answer, Made, Piece, Refused, whole
from paceline.gateway.providers.simulated.reading import (
    check_model,
    check_positive,
    named_tool,
    read,
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
from paceline.gateway.providers.simulated.wishes import CHAT_MODELS, Wish
from paceline.terms.limits import SIMULATED_TOKENS

ENDED = {
    "stop": "end_turn",
    "sequence": "stop_sequence",
    "length": "max_tokens",
    "tools": "tool_use",
}

THOUGHT = "This thinking is simulated: nobody thought."
SIGNATURE = "c2ltdWxhdGVk"


# --- What is read ---------------------------------------------------------------------------------


class _Block(msgspec.Struct):
    type: str
    text: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"")
    content: "str | list[_Block] | None" = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Block]


class _Tool(msgspec.Struct):
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class _Choice(msgspec.Struct):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Thinking(msgspec.Struct):
    type: str


class _Format(msgspec.Struct):
    type: str
    schema: dict[str, Any]


class _Output(msgspec.Struct):
    format: _Format | None = None


class _Counted(msgspec.Struct):
    messages: list[_Message]
    system: str | list[_Block] | None = None
    tools: list[_Tool] | None = None


class _Messages(_Counted, kw_only=True):
    max_tokens: int
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    tool_choice: _Choice | None = None
    thinking: _Thinking | None = None
    output_config: _Output | None = None


# --- Messages -------------------------------------------------------------------------------------


def messages(body: bytes, wish: Wish, made: Made) -> Answer:
    asked = read(body, _Messages)
    check_model(wish, CHAT_MODELS)
    check_positive(asked.max_tokens, "max_tokens")
    prompt = _prompt(asked, wish.model)
    thinks = asked.thinking is not None and asked.thinking.type == "enabled"
    thought = tokens_of(THOUGHT) if thinks else 0
    saying = say(prompt, wish.tokens, max(1, min(SIMULATED_TOKENS, asked.max_tokens - thought)))
    tokens = thought + saying.tokens
    if not asked.stream:
        fields = _message(wish.model, made, prompt.tokens, tokens)
        fields |= {"content": _content(saying, made, thinks), **_ended(saying)}
        return whole(orjson.dumps(fields), tokens)
    pieces = _events(saying, wish.model, made, prompt.tokens, tokens, thinks)
    return Answer(200, [EVENTS], pieces, tokens, BROKEN)


def count_tokens(body: bytes, wish: Wish, made: Made) -> Answer:
    asked = read(body, _Counted)
    check_model(wish, CHAT_MODELS)
    tokens, *_ = _counted(asked)
    return whole(orjson.dumps({"input_tokens": tokens}), 0)


def _prompt(asked: _Messages, model: str) -> Prompt:
    tokens, images, said, tool_said = _counted(asked)
    tools, must = _tools(asked)
    choice, output = asked.tool_choice, asked.output_config
    structure = None if output is None or output.format is None else output.format.schema
    return Prompt(
        model=model,
        said=said,
        tool_said=tool_said,
        tokens=tokens,
        images=images,
        most_tokens=asked.max_tokens,
        stops=tuple(each for each in asked.stop_sequences or () if each),
        tools=tools,
        must_call=must,
        one_call=choice is not None and bool(choice.disable_parallel_tool_use),
        structure=structure,
    )


def _counted(asked: _Counted) -> tuple[int, int, str, str | None]:
    """Tokens, images, what a person said last, and what a tool did, where that came last."""
    if not asked.messages:
        raise Refused(400, "messages: there must be at least one.", param="messages")
    system, _, _ = _read(asked.system or "")
    tokens = tokens_of(system)
    if asked.tools:
        tokens += tokens_of(msgspec.json.encode(asked.tools).decode())
    images, said, tool_said = 0, "", None
    for message in asked.messages:
        text, pictures, result = _read(message.content)
        tokens += MESSAGE_TOKENS + tokens_of(text) + tokens_of(result or "")
        images += pictures
        if message.role == "user":
            said, tool_said = text or said, result
    return tokens + images * IMAGE_TOKENS, images, said, tool_said


def _read(content: "str | list[_Block]") -> tuple[str, int, str | None]:
    """The text, how many images came with it, and what a tool answered in it."""
    if isinstance(content, str):
        return content, 0, None
    texts, images, result = [], 0, None
    for block in content:
        if block.type == "tool_result":
            inner, pictures, _ = _read(block.content or "")
            result, images = inner, images + pictures
        elif block.type == "tool_use":
            texts.append(f"{block.name} {bytes(block.input).decode()}")
        else:
            texts.append(block.text or "")
            images += block.type == "image"
    return "\n".join(text for text in texts if text), images, result


def _tools(asked: _Messages) -> tuple[tuple[Tool, ...], bool]:
    """Those that may be called, and whether one must be."""
    known = {
        tool.name: Tool(tool.name, tool.input_schema)
        for tool in asked.tools or ()
        if tool.type in (None, "custom")
    }
    choice = asked.tool_choice
    if choice is None or choice.type == "auto":
        return tuple(known.values()), False
    if choice.type == "tool":
        return (named_tool(known, choice.name or ""),), True
    if choice.type == "any" and known:
        return tuple(known.values()), True
    if choice.type == "none":
        return (), False
    raise Refused(400, "tool_choice: a tool must be called, and none is given.")


def _message(model: str, made: Made, tokens_in: int, tokens_out: int) -> dict[str, Any]:
    return {
        "id": f"msg_{made.id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": tokens_in,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": tokens_out,
            "service_tier": "standard",
        },
    }


def _ended(saying: Saying) -> dict[str, Any]:
    return {"stop_reason": ENDED[saying.ended], "stop_sequence": saying.sequence}


def _content(saying: Saying, made: Made, thinks: bool) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if thinks:
        blocks.append({"type": "thinking", "thinking": THOUGHT, "signature": SIGNATURE})
    if saying.text:
        blocks.append({"type": "text", "text": saying.text})
    for number, call in enumerate(saying.calls):
        try:
            arguments = orjson.loads(call.arguments)
        except orjson.JSONDecodeError:  # cut by max_tokens
            arguments = {}
        blocks.append({**_tool_use(made, number, call.name), "input": arguments})
    return blocks


def _tool_use(made: Made, number: int, name: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{made.id}{number:02d}", "name": name, "input": {}}


def _events(
    saying: Saying, model: str, made: Made, tokens_in: int, tokens_out: int, thinks: bool
) -> Iterator[Piece]:
    begun = _message(model, made, tokens_in, 1)
    yield _event("message_start", {"message": begun})
    at = 0
    if thinks:
        block = {"type": "thinking", "thinking": "", "signature": ""}
        yield from _block(at, block, "thinking_delta", "thinking", THOUGHT, ping=True)
        at += 1
    if saying.text:
        block = {"type": "text", "text": ""}
        yield from _block(at, block, "text_delta", "text", saying.text, ping=at == 0)
        at += 1
    for number, call in enumerate(saying.calls):
        block = _tool_use(made, number, call.name)
        given = call.arguments
        yield from _block(at, block, "input_json_delta", "partial_json", given, ping=at == 0)
        at += 1
    usage = {
        "input_tokens": tokens_in,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": tokens_out,
    }
    yield _event("message_delta", {"delta": _ended(saying), "usage": usage})
    yield _event("message_stop", {})


def _block(
    at: int, block: dict[str, Any], kind: str, key: str, text: str, ping: bool
) -> Iterator[Piece]:
    named = tokens_of(block["name"]) if "name" in block else 0
    yield _event("content_block_start", {"index": at, "content_block": block}, named)
    if ping:
        yield _event("ping", {})
    for token in tokens_in(text):
        yield _event("content_block_delta", {"index": at, "delta": {"type": kind, key: token}}, 1)
    if kind == "thinking_delta":
        signed = {"type": "signature_delta", "signature": SIGNATURE}
        yield _event("content_block_delta", {"index": at, "delta": signed})
    yield _event("content_block_stop", {"index": at})


def _event(name: str, fields: dict[str, Any], tokens: int = 0) -> Piece:
    data = orjson.dumps({"type": name, **fields})
    return Piece(b"event: %s\ndata: %s\n\n" % (name.encode(), data), tokens)


# --- Models and errors ----------------------------------------------------------------------------


def models() -> Answer:
    fields = {
        "data": [_model(name) for name in CHAT_MODELS],
        "has_more": False,
        "first_id": CHAT_MODELS[0],
        "last_id": CHAT_MODELS[-1],
    }
    return whole(orjson.dumps(fields), 0)


def model(name: str) -> Answer:
    if name not in CHAT_MODELS:
        raise Refused(404, f"model: {name[:100]}", param="model")
    return whole(orjson.dumps(_model(name)), 0)


def _model(name: str) -> dict[str, Any]:
    return {
        "type": "model",
        "id": name,
        "display_name": f"{name}, simulated",
        "created_at": "2027-01-01T00:00:00Z",
        "lifecycle": "active",
    }


KINDS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error(refused: Refused, made: Made) -> bytes:
    fields = {"type": "error", "error": _error(refused), "request_id": f"req_{made.id}"}
    return orjson.dumps(fields)


def _error(refused: Refused) -> dict[str, str]:
    kind = "api_error" if refused.status >= 500 else "invalid_request_error"
    return {"type": KINDS.get(refused.status, kind), "message": refused.message}


def moment(at_s: float) -> bytes:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()


BROKEN = _event(
    "error", {"error": _error(Refused(529, "The simulated answer was to end in an error here."))}
).data
