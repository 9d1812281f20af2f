"""Server-sent events in a stream of bytes, whatever the pieces it comes in (WHATWG HTML, 9.2).

The stream is cut into *blocks*: up to and with the blank line that ends them. An Event is one
block, its bytes untouched, so the raw bytes of all events, with those of `end`, are the stream, and
what need not change is relayed as it came. A block may hold comments alone (`: ping`, which keep a
connection alive) or nothing; then it has neither name nor data. Blank lines beyond the first belong
to the block after them.

Lines end in LF, CR or CRLF, also mixed. A block whose blank line ends in CR, after a line that
ended in LF, waits for the byte after it, which may be the LF of that CRLF; no other waits.

Not a decoder: data stays bytes, and what it means is the dialects' business (`openai.py`,
`anthropic.py`). Fields other than `event` and `data` are in the raw bytes alone. Called by
`hearing.py` and `translate/`.
"""

import re

import msgspec

from paceline.terms.errors import EventTooLong
from paceline.terms.limits import SSE_EVENT_BYTES

__all__ = ["Event", "EventTooLong", "Parser", "write"]

BOM = b"\xef\xbb\xbf"

BLANK = re.compile(rb"\n\n|\r\r|\n\r\n|\n\r(?=[^\n])")
"""The end of a line, and a blank line: where a block ends."""

LF_BLANK = re.compile(rb"\n\n")

LF = 10
DATA = b"data: "
EVENT = b"event: "

BLANK_REACH = 2
"""Bytes before a piece with which such a match may begin."""


class Event(msgspec.Struct, frozen=True, gc=False):
    name: bytes | None
    data: bytes
    """the values of its `data` lines, with LF between them"""
    raw: bytes
    """all of it, as it came, its blank line included"""


class Parser:
    """One stream. After EventTooLong it is of no more use."""

    __slots__ = ("_begun", "_cr", "_held", "_most")

    def __init__(self, most: int = SSE_EVENT_BYTES) -> None:
        self._most = most
        self._held = bytearray()
        self._begun = False
        self._cr = False

    @property
    def held(self) -> int:
        """Bytes of an event that has not come whole."""
        return len(self._held)

    def feed(self, piece: bytes) -> list[Event]:
        """The events that this piece makes whole. Raises EventTooLong."""
        if self._cr or b"\r" in piece:
            self._cr = True
            return self._feed_any(piece)
        held = self._held
        if self._begun and not held and piece[:6] == DATA:  # nearly every piece is one such event
            end = piece.find(b"\n")
            if end + 2 == len(piece) <= self._most and piece[-1] == LF:
                return [Event(None, piece[6:end], piece)]
        if held:
            begin = len(held) - 1
            held += piece
            if held.find(b"\n\n", begin) < 0:
                self._check_held([])
                return []
            piece = bytes(held)
            held.clear()
        if not self._begun or len(piece) > self._most:
            return self._feed_with(piece, LF_BLANK)
        events: list[Event] = []
        lines = piece.split(b"\n")
        last = len(lines) - 1  # what follows the last LF
        at = begin = 0
        while at < last:  # the two forms that providers send, or any
            line = lines[at]
            if line[:6] == DATA:
                if at + 1 < last and not lines[at + 1]:
                    end = begin + len(line) + 2
                    events.append(Event(None, line[6:], piece[begin:end]))
                    at += 2
                    begin = end
                    continue
            elif line[:7] == EVENT and at + 2 < last and not lines[at + 2]:
                data = lines[at + 1]
                if data[:6] == DATA:
                    end = begin + len(line) + len(data) + 3
                    events.append(Event(line[7:] or None, data[6:], piece[begin:end]))
                    at += 3
                    begin = end
                    continue
            end = piece.find(b"\n\n", begin) + 2
            if end < 2:
                break
            raw = piece[begin:end]
            events.append(_read(raw, begins=False))
            at += raw.count(b"\n")
            begin = end
        held += piece[begin:]
        return events

    def end(self) -> Event | None:
        """What came after the last blank line, if anything. The standard drops it."""
        if not self._held:
            return None
        rest = bytes(self._held)
        self._held.clear()
        return _read(rest, begins=not self._begun)

    def _feed_any(self, piece: bytes) -> list[Event]:
        """The same for a stream with CR in it."""
        held = self._held
        begin = max(0, len(held) - BLANK_REACH)
        held += piece
        if BLANK.search(held, begin) is None:
            self._check_held([])
            return []
        piece = bytes(held)
        held.clear()
        return self._feed_with(piece, BLANK)

    def _feed_with(self, piece: bytes, blank: re.Pattern[bytes]) -> list[Event]:
        """Each event looked at by itself: the first, and what may be too long."""
        events: list[Event] = []
        begin = 0
        for ends in blank.finditer(piece):
            end = ends.end()
            self._append(events, piece[begin:end])
            begin = end
        self._held += piece[begin:]
        self._check_held(events)
        return events

    def _append(self, events: list[Event], raw: bytes) -> None:
        if len(raw) > self._most:
            raise self._too_long(events)
        events.append(_read(raw, begins=not self._begun))
        self._begun = True

    def _check_held(self, before: list[Event]) -> None:
        if len(self._held) > self._most:
            raise self._too_long(before)

    def _too_long(self, before: list[Event]) -> EventTooLong:
        return EventTooLong(
            "an event in the provider's stream is longer than may be",
            value=f"more than {self._most} bytes",
            remedy="Ask for less in one answer, or ask the provider why its events are so long.",
            before=before,
        )


def _read(raw: bytes, *, begins: bool) -> Event:
    name = None
    data: list[bytes] = []
    for line in (raw.removeprefix(BOM) if begins else raw).splitlines():
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return Event(name or None, b"\n".join(data), raw)


def write(data: bytes, name: bytes | None = None) -> bytes:
    """An event as both vendors write it; `data` is one line."""
    if name is None:
        return b"data: " + data + b"\n\n"
    return b"event: " + name + b"\ndata: " + data + b"\n\n"
