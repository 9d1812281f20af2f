"""Simulated answers of OpenAI's `/responses`: text and calls of functions, whole and as the events
that build them up. Nothing is kept, so no earlier response can be referred to. Not simulated:
background, the vendor's own tools, reasoning. Called by `provider.py`."""

from collections.abc import Iterator
from typing import Any

import msgspec
import orjson

from paceline.gateway.providers.simulated.answers import EVENTS, Answer, Made, Piece, Refused, whole
from paceline.gateway.providers.simulated.openai import call_id
from paceline.gateway.providers.simulated.reading import (
    ANY_OBJECT,
    Part,
    check_model,
    check_positive,
    content_of,
    named_tool,
    read,
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
from paceline.gateway.providers.simulated.wishes import CHAT_MODELS, Wish

# --- What is read ---------------------------------------------------------------------------------


class _Item(msgspec.Struct):
    type: str | None = None
    role: str | None = None
    content: str | list[Part] | None = None
    output: str | list[Part] | None = None
    name: str | None = None
    arguments: str | None = None


class _Tool(msgspec.Struct):
    type: str
    name: str | None = None
    parameters: dict[str, Any] | None = None


class _Choice(msgspec.Struct):
    type: str
    name: str | None = None
    mode: str | None = None
    tools: list[_Tool] | None = None


class _Format(msgspec.Struct):
    type: str
    schema: dict[str, Any] | None = None


class _Text(msgspec.Struct):
    format: _Format | None = None


class _Response(msgspec.Struct):
    input: str | list[_Item] | None = None
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: int | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | _Choice | None = None
    parallel_tool_calls: bool | None = None
    text: _Text | None = None
    previous_response_id: str | None = None


class _Echoed(msgspec.Struct):
    """What a response repeats of its request, as it stands there."""

    background: msgspec.Raw = msgspec.Raw(b"false")
    instructions: msgspec.Raw = msgspec.Raw(b"null")
    max_output_tokens: msgspec.Raw = msgspec.Raw(b"null")
    max_tool_calls: msgspec.Raw = msgspec.Raw(b"null")
    metadata: msgspec.Raw = msgspec.Raw(b"{}")
    parallel_tool_calls: msgspec.Raw = msgspec.Raw(b"true")
    prompt_cache_key: msgspec.Raw = msgspec.Raw(b"null")
    reasoning: msgspec.Raw = msgspec.Raw(b'{"effort":null,"summary":null}')
    safety_identifier: msgspec.Raw = msgspec.Raw(b"null")
    temperature: msgspec.Raw = msgspec.Raw(b"1.0")
    text: msgspec.Raw = msgspec.Raw(b'{"format":{"type":"text"}}')
    tool_choice: msgspec.Raw = msgspec.Raw(b'"auto"')
    tools: msgspec.Raw = msgspec.Raw(b"[]")
    top_logprobs: msgspec.Raw = msgspec.Raw(b"0")
    top_p: msgspec.Raw = msgspec.Raw(b"1.0")
    truncation: msgspec.Raw = msgspec.Raw(b'"disabled"')
    user: msgspec.Raw = msgspec.Raw(b"null")


def answer(body: bytes, wish: Wish, made: Made) -> Answer:
    asked = read(body, _Response)
    check_model(wish, CHAT_MODELS)
    check_positive(asked.max_output_tokens, "max_output_tokens")
    if asked.previous_response_id is not None:
        raise Refused(
            400,
            "The simulated provider keeps no responses, so none can be referred to.",
            code="previous_response_not_found",
            param="previous_response_id",
        )
    prompt = _prompt(asked, wish.model)
    saying = say(prompt, wish.tokens)
    building = _Building(body, wish.model, made, prompt, saying)
    if asked.stream:
        return Answer(200, [EVENTS], building.events(), saying.tokens, BROKEN)
    return whole(orjson.dumps(building.done()), saying.tokens)


def _prompt(asked: _Response, model: str) -> Prompt:
    tokens, images, said, tool_said = tokens_of(asked.instructions or ""), 0, "", None
    if asked.tools:
        tokens += tokens_of(msgspec.json.encode(asked.tools).decode())
    given = asked.input if asked.input is not None else ""
    items = [_Item(role="user", content=given)] if isinstance(given, str) else given
    for item in items:
        text, pictures = content_of(item.content, "input_image")
        result, more = content_of(item.output, "input_image")
        tokens += MESSAGE_TOKENS + tokens_of(text) + tokens_of(result)
        tokens += tokens_of(item.arguments or "")
        images += pictures + more
        if item.type == "function_call_output":
            tool_said = result
        elif item.role == "user":
            said, tool_said = text, None
    tools, must = _tools(asked)
    return Prompt(
        model=model,
        said=said,
        tool_said=tool_said,
        tokens=tokens + images * IMAGE_TOKENS,
        images=images,
        most_tokens=asked.max_output_tokens,
        tools=tools,
        must_call=must,
        one_call=asked.parallel_tool_calls is False,
        structure=_structure(asked.text),
    )


def _tools(asked: _Response) -> tuple[tuple[Tool, ...], bool]:
    """The functions that may be called, and whether one must be."""
    known = {
        tool.name: Tool(tool.name, tool.parameters)
        for tool in asked.tools or ()
        if tool.type == "function" and tool.name is not None
    }
    choice = asked.tool_choice
    if choice is None or isinstance(choice, str):
        return tools_by(choice, known)
    if choice.type == "allowed_tools":
        names = [tool.name for tool in choice.tools or () if tool.name is not None]
        return tuple(named_tool(known, name) for name in names), choice.mode == "required"
    return (named_tool(known, choice.name or choice.type),), True


def _structure(text: _Text | None) -> dict[str, Any] | None:
    form = None if text is None else text.format
    if form is None or form.type == "text":
        return None
    return form.schema or ANY_OBJECT


class _Building:
    """One response, as it stands at each moment."""

    __slots__ = ("_fields", "_made", "_prompt", "_saying", "_sequence")

    def __init__(self, body: bytes, model: str, made: Made, prompt: Prompt, saying: Saying) -> None:
        self._made = made
        self._prompt = prompt
        self._saying = saying
        self._sequence = -1
        echoed = msgspec.structs.asdict(read(body, _Echoed))
        self._fields: dict[str, Any] = {
            "id": f"resp_{made.id}",
            "object": "response",
            "created_at": int(made.at_s),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": model,
            "output": [],
            "previous_response_id": None,
            "service_tier": "default",
            "usage": None,
            **{name: orjson.Fragment(bytes(raw)) for name, raw in echoed.items()},
            "tools": [_as_taken(tool) for tool in orjson.loads(bytes(echoed["tools"])) or ()],
        }

    def done(self) -> dict[str, Any]:
        saying = self._saying
        cut = saying.ended == "length"
        state = "incomplete" if cut else "completed"
        usage = {
            "input_tokens": self._prompt.tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": saying.tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self._prompt.tokens + saying.tokens,
        }
        return {
            **self._fields,
            "status": state,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": self._output(state),
            "usage": usage,
        }

    def events(self) -> Iterator[Piece]:
        yield self._event("response.created", {"response": self._fields})
        yield self._event("response.in_progress", {"response": self._fields})
        done = self.done()
        if self._saying.calls:
            yield from self._call_events(done["output"])
        else:
            yield from self._text_events(done["output"][0])
        yield self._event(f"response.{done['status']}", {"response": done})

    def _output(self, state: str) -> list[dict[str, Any]]:
        if not self._saying.calls:
            return [self._message([_text_part(self._saying.text)], state)]
        return [
            {
                "id": f"fc_{self._made.id}{number:02d}",
                "type": "function_call",
                "status": state,
                "call_id": call_id(self._made, 0, number),
                "name": call.name,
                "arguments": call.arguments,
            }
            for number, call in enumerate(self._saying.calls)
        ]

    def _message(self, content: list[dict[str, Any]], state: str) -> dict[str, Any]:
        return {
            "id": f"msg_{self._made.id}",
            "type": "message",
            "status": state,
            "role": "assistant",
            "content": content,
        }

    def _text_events(self, item: dict[str, Any]) -> Iterator[Piece]:
        text = self._saying.text
        place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
        begun = self._message([], "in_progress")
        yield self._event("response.output_item.added", {"output_index": 0, "item": begun})
        yield self._event("response.content_part.added", {**place, "part": _text_part("")})
        for token in tokens_in(text):
            fields = {**place, "delta": token, "logprobs": []}
            yield self._event("response.output_text.delta", fields, 1)
        yield self._event("response.output_text.done", {**place, "text": text, "logprobs": []})
        yield self._event("response.content_part.done", {**place, "part": item["content"][0]})
        yield self._event("response.output_item.done", {"output_index": 0, "item": item})

    def _call_events(self, items: list[dict[str, Any]]) -> Iterator[Piece]:
        for at, item in enumerate(items):
            begun = {**item, "status": "in_progress", "arguments": ""}
            fields = {"output_index": at, "item": begun}
            yield self._event("response.output_item.added", fields, tokens_of(item["name"]))
            place = {"item_id": item["id"], "output_index": at}
            for token in tokens_in(item["arguments"]):
                fields = {**place, "delta": token}
                yield self._event("response.function_call_arguments.delta", fields, 1)
            fields = {**place, "arguments": item["arguments"]}
            yield self._event("response.function_call_arguments.done", fields)
            yield self._event("response.output_item.done", {"output_index": at, "item": item})

    def _event(self, name: str, fields: dict[str, Any], tokens: int = 0) -> Piece:
        self._sequence += 1
        return _event({"type": name, "sequence_number": self._sequence, **fields}, tokens)


def _as_taken(tool: Any) -> Any:
    """A function as it is told back: with what it left out."""
    if not isinstance(tool, dict) or tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": {}, "strict": True, **tool}


def _event(fields: dict[str, Any], tokens: int = 0) -> Piece:
    name = str(fields["type"]).encode()
    return Piece(b"event: %s\ndata: %s\n\n" % (name, orjson.dumps(fields)), tokens)


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


BROKEN = _event(
    {
        "type": "error",
        "sequence_number": 0,
        "code": "server_error",
        "message": "The simulated answer was to end in an error here.",
        "param": None,
    }
).data
