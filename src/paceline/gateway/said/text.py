"""What was said in a call as text: its body, its answer, a stream put together. Pure.

Whatever cannot be read as what it should be is taken as text, and what is no text is told by its
size. Called by `keeper.py`.
"""

from collections.abc import Iterator

import orjson

from paceline.gateway import sse
from paceline.gateway.said.hide import Hider
from paceline.gateway.words import words_of
from paceline.terms.limits import SAID_CUT_CHARS, SAID_READ_BYTES, SAID_TEXT_BYTES

BEGINS_EVENTS = (b"data:", b"event:", b":")


def text_of(body: bytes, size: int, hider: Hider) -> str:
    """`size`: of all of it, of which `body` is the beginning."""
    if not body:
        return ""
    is_cut = size > len(body)
    if body.startswith(BEGINS_EVENTS):
        return _bounded(hider.text(_joined(_words(body))), size, is_cut=is_cut)
    if not is_cut:
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            pass  # then it is text
        else:
            said = orjson.dumps(hider.value(value)).decode()
            return _bounded(said, size, is_cut=False)
    try:
        text = body[:SAID_READ_BYTES].decode(errors="ignore" if is_cut else "strict")
    except UnicodeDecodeError:
        return f"[{size} bytes that are no text]"
    return _bounded(hider.text(text), size, is_cut=is_cut)


def _bounded(text: str, size: int, *, is_cut: bool) -> str:
    if is_cut:
        text = text[:-SAID_CUT_CHARS]
    raw = text.encode()
    if len(raw) > SAID_TEXT_BYTES:
        text, is_cut = raw[:SAID_TEXT_BYTES].decode(errors="ignore"), True
    return f"{text}[cut; it had {size} bytes]" if is_cut else text


def _joined(words: Iterator[tuple[str, str]]) -> str:
    """What belongs together, in the order in which it began."""
    parts: dict[str, list[str]] = {}
    for place, text in words:
        parts.setdefault(place, []).append(text)
    return "\n".join(
        "".join(text) if place == "" else f"[{place}] {''.join(text)}"
        for place, text in parts.items()
    )


def _words(stream: bytes) -> Iterator[tuple[str, str]]:
    """Each piece of a stream's content, whichever dialect it is in, and to what it belongs."""
    try:
        events = sse.Parser(len(stream)).feed(stream)
    except sse.EventTooLong as error:
        events = error.before
    for event in events:
        try:
            told = orjson.loads(event.data)
        except orjson.JSONDecodeError:
            continue  # the mark of the end, or a ping
        if isinstance(told, dict):
            yield from words_of(told)
