"""Bodies read into the shapes of a dialect, strictly: what cannot be read is told with its place.

Requests only; answers and events of providers are read as leniently as clients read them. Called by
`requests.py` and `turns.py`.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from paceline.gateway.call import Dialect
from paceline.terms.errors import BadField, BadJson, NotTranslatable

S = TypeVar("S")

VENDORS: Mapping[Dialect, str] = {"openai": "OpenAI", "anthropic": "Anthropic"}

PLACE = re.compile(r"(?s)(.*) - at `(?:key in )?\$\.?(.*)`")
UNKNOWN = re.compile(r"Object (contains unknown|missing required) field `(.*)`")


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An object in a request. A field left out and one that is null are the same: None."""


class Neutral(NamedTuple):
    """Values of a field that say no more than its absence; any other is refused."""

    values: tuple[object, ...]
    remedy: str = ""


def decoded(body: bytes, shape: type[S], other: Dialect) -> S:
    """A request that is to be said in the `other` dialect."""
    try:
        body.decode()  # what is copied unread (`msgspec.Raw`) would not be checked otherwise
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as wrong:
        raise _wrong(str(wrong), other) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
        raise BadJson(
            "the body is not valid JSON", value=str(wrong), remedy="Send one JSON object."
        ) from None


def _wrong(said: str, other: Dialect) -> BadField:
    found = PLACE.fullmatch(said)
    what, place = found.groups() if found else (said, "")
    if field := UNKNOWN.fullmatch(what):
        param = f"{place}.{field[2]}" if place else field[2]
        if field[1] == "missing required":
            return BadField(f"`{param}` is missing", param=param, remedy="Add it.")
        return not_said(param, other)
    if "nvalid" in what:  # a kind of message, part, block or tool that is not known here
        return not_said(place, other, value=what.partition("'")[2].rstrip("'") or None)
    return BadField(
        f"`{place}` has a wrong form" if place else "the body has a wrong form",
        param=place or None,
        value=what,
        remedy="See the reference of the API for its form.",
    )


def not_said(
    param: str, other: Dialect, *, value: object = None, remedy: str = ""
) -> NotTranslatable:
    """`value` is shown where it tells more than the place does."""
    vendor = VENDORS[other]
    given = {} if value is None else {"value": value}
    return NotTranslatable(
        f"`{param}` cannot be said in {vendor}'s dialect, which the provider of this model speaks",
        param=param,
        remedy=remedy or "Leave it out, or ask for a model whose provider knows it.",
        **given,
    )


def check_neutral(
    shape: Shape, neutral: Mapping[str, Neutral], other: Dialect, place: str = ""
) -> None:
    """Refuses the first of these fields that says something."""
    for name, only in neutral.items():
        value: Any = getattr(shape, name)
        if value is not None and value not in only.values:
            # Texts may be a caller's own, which errors are to keep out of logs.
            shown = value if isinstance(value, int | float) else None
            raise not_said(place + name, other, value=shown, remedy=only.remedy)


def is_object(raw: "bytes | memoryview | msgspec.Raw") -> bool:
    """Of valid JSON, whether it is an object."""
    return bytes(memoryview(raw)[:64]).lstrip()[:1] == b"{"
