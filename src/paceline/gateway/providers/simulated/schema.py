"""An instance of a JSON schema: what a simulated model answers where a structure is asked for, and
calls a tool with.

Of JSON Schema it obeys what the vendors' structured outputs allow: types, `enum`, `const`,
`properties`, `items`, bounds of numbers, lengths and counts, the usual formats, `anyOf`, `oneOf`,
`allOf`, references inside the document. It does not obey `pattern`, `not`, `if` and
`dependentRequired`. What refers to itself ends as soon as it may, from SIMULATED_DEPTH on, or when
SIMULATED_NODES are made. Deterministic: the same schema gives the same instance. Pure.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from paceline.terms.limits import (
    SIMULATED_DEPTH,
    SIMULATED_ITEMS,
    SIMULATED_NODES,
    SIMULATED_TOKENS,
)

Schema = Mapping[str, Any]

FORMATS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "simulated@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def instance(schema: object, name: str = "answer") -> Any:
    """`name` is what it is for: texts say it."""
    return _Instance(schema).of(schema, name, 0)


class _Instance:
    __slots__ = ("_left", "_root")

    def __init__(self, root: object) -> None:
        self._root = root
        self._left = SIMULATED_NODES

    def of(self, schema: object, name: str, depth: int) -> Any:
        self._left -= 1
        brief = depth >= SIMULATED_DEPTH or self._left < 0
        if depth >= 2 * SIMULATED_DEPTH or self._left < -SIMULATED_NODES:
            return None  # it has no end
        if not isinstance(schema, Mapping):  # `true`: anything goes
            return f"simulated {name}"
        if "$ref" in schema:
            rest = _without(schema, "$ref")
            return self.of(_both(self._referred(schema["$ref"]), rest), name, depth + 1)
        if "const" in schema:
            return schema["const"]
        if enum := _list(schema, "enum"):
            return enum[0]
        for key in ("anyOf", "oneOf"):
            if options := _list(schema, key):
                chosen = _shortest(options) if brief else options[0]
                return self.of(_both(_without(schema, key), chosen), name, depth + 1)
        if parts := _list(schema, "allOf"):
            merged = _without(schema, "allOf")
            for part in parts:
                merged = _both(merged, self._resolved(part))
            return self.of(merged, name, depth + 1)
        match _type(schema, brief):
            case "object":
                return self._object(schema, depth, brief)
            case "array":
                return self._array(schema, name, depth, brief)
            case "integer":
                return int(_number(schema, whole=True))
            case "number":
                return _number(schema, whole=False)
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return _text(schema, name)

    def _object(self, schema: Schema, depth: int, brief: bool) -> dict[str, Any]:
        """All its properties; where it is to be brief, those that must be there."""
        properties = schema.get("properties")
        known: Schema = properties if isinstance(properties, Mapping) else {}
        needed = [each for each in _list(schema, "required") if isinstance(each, str)]
        names = dict.fromkeys(needed if brief else [*known, *needed])
        return {name: self.of(known.get(name, True), name, depth + 1) for name in names}

    def _array(self, schema: Schema, name: str, depth: int, brief: bool) -> list[Any]:
        begin = _list(schema, "prefixItems")
        wanted = max(_count(schema, "minItems", 0), len(begin), 0 if brief else 1)
        count = min(wanted, _count(schema, "maxItems", SIMULATED_ITEMS), SIMULATED_ITEMS)
        items = schema.get("items", True)
        made = [
            self.of(begin[at] if at < len(begin) else items, name, depth + 1) for at in range(count)
        ]
        return _distinct(made) if schema.get("uniqueItems") is True else made

    def _resolved(self, schema: object) -> object:
        for _ in range(SIMULATED_DEPTH):
            if not isinstance(schema, Mapping) or "$ref" not in schema:
                break
            schema = self._referred(schema["$ref"])
        return schema

    def _referred(self, reference: object) -> object:
        """`#/$defs/name`; True, which anything fits, where it leads nowhere."""
        found = self._root
        for step in str(reference).removeprefix("#").split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or key not in found:
                return True
            found = found[key]
        return found


def _type(schema: Schema, brief: bool) -> str:
    kinds = _list(schema, "type")
    if kinds:
        if brief and "null" in kinds:
            return "null"
        return str(next((each for each in kinds if each != "null"), "null"))
    kind = schema.get("type")
    if isinstance(kind, str):
        return kind
    if "properties" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    return "number" if "minimum" in schema or "maximum" in schema else "string"


def _shortest(options: Sequence[object]) -> object:
    """One that leads no further, if there is one."""
    for each in options:
        if isinstance(each, Mapping) and each.get("type") == "null":
            return each
    for each in options:
        if isinstance(each, Mapping) and "$ref" not in each and each.get("type") != "object":
            return each
    return options[0]


def _distinct(made: list[Any]) -> list[Any]:
    """Numbers and texts are told apart by counting; of others one is kept."""
    if all(isinstance(each, str) for each in made):
        return [f"{each} {at}" if at else each for at, each in enumerate(made)]
    if all(isinstance(each, int | float) and not isinstance(each, bool) for each in made):
        return [each + at for at, each in enumerate(made)]
    return made[:1]


def _number(schema: Schema, whole: bool) -> float:
    """The first of some likely ones that is within the bounds."""
    low, above = _bound(schema, "minimum", -math.inf), _bound(schema, "exclusiveMinimum", -math.inf)
    high, below = _bound(schema, "maximum", math.inf), _bound(schema, "exclusiveMaximum", math.inf)
    step = _bound(schema, "multipleOf", 1.0 if whole else 0.0)
    floor, ceiling = max(low, above), min(high, below)
    likely = [1.0, 0.0, floor, ceiling, floor + 1, ceiling - 1, (floor + ceiling) / 2]
    if step > 0:
        ends = [math.ceil(floor / step)] if math.isfinite(floor) else []
        ends += [math.floor(ceiling / step)] if math.isfinite(ceiling) else []
        likely = [0.0, *(step * (end + by) for end in ends for by in (0, 1, -1))]
    fit = (each for each in likely if low <= each <= high and above < each < below)
    return next(fit, 0.0)


def _text(schema: Schema, name: str) -> str:
    text = FORMATS.get(str(schema.get("format")), f"simulated {name}")
    least = min(_count(schema, "minLength", 0), SIMULATED_TOKENS)
    return text.ljust(least, ".")[: max(_count(schema, "maxLength", len(text)), least)]


def _without(schema: Schema, key: str) -> Schema:
    return {name: value for name, value in schema.items() if name != key}


def _both(one: object, other: object) -> Schema:
    """What fits the one and the other, as far as they say different things."""
    first: Schema = one if isinstance(one, Mapping) else {}
    second: Schema = other if isinstance(other, Mapping) else {}
    merged = {**first, **second}
    ours, theirs = first.get("properties"), second.get("properties")
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        merged["properties"] = {**ours, **theirs}
    if needed := [*_list(first, "required"), *_list(second, "required")]:
        merged["required"] = needed
    return merged


def _list(schema: Schema, key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []


def _count(schema: Schema, key: str, otherwise: int) -> int:
    value = schema.get(key)
    return value if isinstance(value, int) and value >= 0 else otherwise


def _bound(schema: Schema, key: str, otherwise: float) -> float:
    value = schema.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return otherwise
