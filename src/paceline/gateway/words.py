"""The words in an event of a stream, in whichever dialect, and to what of the answer they belong.

For who puts a stream together afterwards (`said/text.py`) or wonders how much of an event is words
(`hearing.py`); what passes on a stream needs none of it.
"""

from collections.abc import Iterator
from typing import Any

import orjson


def words_of(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if isinstance(told.get("error"), dict | str):
        yield "error", orjson.dumps(told["error"]).decode()
    for choice in _dicts(told.get("choices")):
        of = "" if choice.get("index", 0) == 0 else f"choice {choice['index']}"
        yield from _texts(choice, of, text="")
        delta = choice.get("delta")
        if isinstance(delta, dict):
            yield from _texts(
                delta, of, content="", refusal="refusal", reasoning_content="reasoning"
            )
            for call in _dicts(delta.get("tool_calls")):
                place = f"{of} tool call {call.get('index', 0)}".strip()
                function = call.get("function")
                if isinstance(function, dict):
                    yield from _texts(function, place, name="", arguments="")
    number, delta, block = told.get("index", 0), told.get("delta"), told.get("content_block")
    if isinstance(block, dict) and isinstance(block.get("name"), str):  # Anthropic's
        yield f"tool call {number}", block["name"]
    if isinstance(delta, dict):
        yield from _texts(delta, "", text="", thinking="thinking")
        yield from _texts(delta, f"tool call {number}", partial_json="")
    elif isinstance(delta, str):  # of responses
        kind = str(told.get("type", ""))
        yield ("" if "output_text" in kind else kind.removesuffix(".delta")), delta


def _texts(told: dict[str, Any], of: str, **places: str) -> Iterator[tuple[str, str]]:
    for name, place in places.items():
        if isinstance(told.get(name), str):
            yield f"{of} {place}".strip(), told[name]


def _dicts(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
