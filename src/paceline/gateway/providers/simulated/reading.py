"""What all simulated dialects read alike: bodies, and what is refused in them."""

import re
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from paceline.gateway.providers.simulated.answers import Refused
from paceline.gateway.providers.simulated.saying import Tool, tokens_of
from paceline.gateway.providers.simulated.wishes import Wish
from paceline.terms.limits import SIMULATED_CHOICES

T = TypeVar("T")

ANY_OBJECT = {"type": "object", "properties": {"simulated": {"const": True}}}
"""the schema of an answer that must be JSON, and may be any"""


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


def named_tool(known: dict[str, Tool], name: str) -> Tool:
    if name not in known:
        raise Refused(400, f"No tool is called `{name[:100]}`.", param="tool_choice")
    return known[name]


class Part(msgspec.Struct):
    """Of a content in OpenAI's dialect."""

    type: str
    text: str | None = None


def content_of(content: "str | list[Part] | None", image: str) -> tuple[str, int]:
    """The text, and how many parts of the type `image` came with it."""
    if content is None or isinstance(content, str):
        return content or "", 0
    text = "\n".join(part.text for part in content if part.text)
    return text, sum(part.type == image for part in content)


def tools_by(choice: str | None, known: dict[str, Tool]) -> tuple[tuple[Tool, ...], bool]:
    """Those that may be called, and whether one must be, where OpenAI's `tool_choice` is a word."""
    if choice == "none":
        return (), False
    if choice == "required" and not known:
        raise Refused(400, "A tool must be called, and none is given.", param="tool_choice")
    return tuple(known.values()), choice == "required"


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


def texts_of(given: "str | Sequence[str | int | list[int]]") -> list[tuple[str, int]]:
    """Of a prompt or an input: each text and its tokens. A list of numbers is one text, in the
    tokens of some tokenizer."""
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


def choices_of(n: int | None) -> int:
    if n is None:
        return 1
    if not 1 <= n <= SIMULATED_CHOICES:
        raise Refused(400, f"Between 1 and {SIMULATED_CHOICES} choices, not {n}.", param="n")
    return n
