"""What a simulated model says, in no dialect: texts and calls of tools, counted in tokens. Pure.

**A token is four characters**, the last one of a text maybe fewer: not what any tokenizer counts,
but the same for what goes in and what comes out. Beside the texts a prompt counts 4 for each
message, 85 for each image, and its tools as long as they were sent.

A simulated model calls a tool when it must, or when the last thing a person said has the name of a
tool in it, or a word of that name with four letters or more (`get_weather`: weather). It calls it
with an instance of its parameters, and answers with what the tool then said. The same prompt always
gets the same answer.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import orjson

from paceline.gateway.providers.simulated.schema import instance
from paceline.terms.limits import SIMULATED_CALLS, SIMULATED_ECHO_CHARS, SIMULATED_TOKENS

TOKEN_CHARS = 4
MESSAGE_TOKENS = 4
IMAGE_TOKENS = 85

WORD_CHARS = 4
"""so short a word of a tool's name does not call it: `get`, `run`, `add`"""

KEYS = "OPENAI_API_KEY or ANTHROPIC_API_KEY"

Ended = Literal["stop", "sequence", "length", "tools"]


class Tool(msgspec.Struct, frozen=True):
    name: str
    parameters: Mapping[str, Any] | None = None


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a model, as far as its answer depends on it."""

    model: str
    said: str
    """the last thing a person said"""
    tool_said: str | None = None
    """what a tool answered, where that came last"""
    tokens: int
    images: int = 0
    most_tokens: int | None = None
    stops: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    """that may be called"""
    must_call: bool = False
    one_call: bool = False
    structure: Mapping[str, Any] | None = None
    """the schema that the answer must fit"""


class ToolCall(msgspec.Struct, frozen=True):
    name: str
    arguments: str
    """JSON"""


class Saying(msgspec.Struct, frozen=True):
    """`text` or `calls`; the last call's arguments may be cut where `ended` is `length`."""

    text: str
    calls: tuple[ToolCall, ...]
    tokens: int
    ended: Ended
    sequence: str | None = None
    """the stop sequence that ended it"""


def tokens_of(text: str) -> int:
    return -(-len(text) // TOKEN_CHARS)


def tokens_in(text: str) -> list[str]:
    return [text[at : at + TOKEN_CHARS] for at in range(0, len(text), TOKEN_CHARS)]


def say(prompt: Prompt, wanted: int | None = None, most: int = SIMULATED_TOKENS) -> Saying:
    """`wanted`: so many tokens of text, whatever there is to say; `most`: no more than these, nor
    than the prompt allows."""
    most = min(most, prompt.most_tokens or most)
    calls = [] if wanted else _calls(prompt)
    if calls:
        return _called(calls, most)
    if prompt.structure is not None:
        text = orjson.dumps(instance(prompt.structure)).decode()
    else:
        text = _text(prompt)
    if wanted:
        text = _stretched(text, min(wanted, SIMULATED_TOKENS))
    ended: Ended = "stop"
    sequence = None
    found = [(text.find(stop), stop) for stop in prompt.stops if stop in text]
    if found:
        at, sequence = min(found)
        text, ended = text[:at], "sequence"
    if tokens_of(text) > most:
        text, ended, sequence = text[: most * TOKEN_CHARS], "length", None
    return Saying(text, (), tokens_of(text), ended, sequence)


def _text(prompt: Prompt) -> str:
    begin = "This is a simulated answer: no model was asked, and nothing left this machine."
    if prompt.tool_said is not None:
        return f"{begin} The tool said: {_echo(prompt.tool_said)}."
    heard = f" You said: {_echo(prompt.said)}." if prompt.said else " You said nothing."
    if prompt.images:
        heard += f" With it came {prompt.images} image{'s' * (prompt.images > 1)}."
    text = f"{begin}{heard} For a real model, set {KEYS} and start again."
    if prompt.model == "sim-large":
        text += (
            " To see how your program takes an error, ask for the model sim-large:429, or for"
            " sim-large:cut, which ends in the middle of a sentence."
        )
    return text


def _echo(text: str) -> str:
    text = " ".join(text[: 2 * SIMULATED_ECHO_CHARS].split())
    if len(text) > SIMULATED_ECHO_CHARS:
        text = text[: SIMULATED_ECHO_CHARS - 1] + "…"
    return f"“{text}”"


def _stretched(text: str, wanted: int) -> str:
    """To exactly so many tokens, by counting."""
    most = wanted * TOKEN_CHARS
    if len(text) < most:
        count = (most - len(text)) // 2 + 1
        text = f"{text} {' '.join(str(number) for number in range(1, count))}"
    return text[:most]


def _calls(prompt: Prompt) -> list[ToolCall]:
    """Which tools are called now."""
    if not prompt.tools:
        return []
    chosen = [] if prompt.tool_said is not None else _named(prompt.tools, prompt.said)
    if not chosen and prompt.must_call:
        chosen = [prompt.tools[0]]
    most = 1 if prompt.one_call else SIMULATED_CALLS
    return [ToolCall(tool.name, orjson.dumps(_arguments(tool)).decode()) for tool in chosen[:most]]


def _arguments(tool: Tool) -> Any:
    made = instance(tool.parameters) if tool.parameters else {}
    return made if isinstance(made, dict) else {}


def _named(tools: Sequence[Tool], said: str) -> list[Tool]:
    words = set(re.findall(r"\w+", said.lower()))
    return [
        tool
        for tool in tools
        if tool.name.lower() in words
        or any(
            len(word) >= WORD_CHARS and word in words
            for word in re.split(r"[^a-z0-9]+", tool.name.lower())
        )
    ]


def _called(calls: Sequence[ToolCall], most: int) -> Saying:
    """Where there is not room for all, the one that has none is cut, and those after it are not."""
    told: list[ToolCall] = []
    left = most
    for call in calls:
        left -= tokens_of(call.name)
        arguments = call.arguments[: max(left, 0) * TOKEN_CHARS]
        told.append(ToolCall(call.name, arguments))
        left -= tokens_of(call.arguments)
        if left < 0:
            return Saying("", tuple(told), most, "length")
    return Saying("", tuple(told), most - left, "tools")
