"""What a strict upstream is told to do with its next request: what it says, and how it sends it.

    upstream.next(says("Hello"), fails(429), says("Hello").cut(after=3), SILENCE)

What is said is in no dialect; the upstream that gets it makes the answer its vendor would give to
this request: whole or streamed, with usage or without. How it is sent may go wrong in every way
that connections do. Used through `llm_upstream.py`, which offers all names in here.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import orjson

Headers = list[tuple[bytes, bytes]]

Ended = Literal["stop", "length", "tools", "filter", "sequence"]


class ToolUse(NamedTuple):
    id: str
    name: str
    arguments: str
    """JSON, as the model wrote it"""


class Usage(NamedTuple):
    """As OpenAI counts: what was read from a cache, or written to it, is part of `read`."""

    read: int = 19
    written: int = 10
    cached: int = 0
    cache_written: int = 0
    reasoned: int = 0


USAGE = Usage()


class Saying(msgspec.Struct, frozen=True):
    text: str = ""
    uses: tuple[ToolUse, ...] = ()
    refusal: str | None = None
    thought: str | None = None
    """Anthropic's only: OpenAI keeps it to itself"""
    ended: Ended = "stop"
    sequence: str | None = None
    usage: Usage = USAGE


class Failure(msgspec.Struct, frozen=True):
    """An error with its status; what is not given is as its vendor has it."""

    status: int
    message: str = "Something went wrong, as the test wished."
    kind: str | None = None
    code: str | None = None
    param: str | None = None
    retry_after_s: float | None = None
    should_retry: bool | None = None


class Raw(msgspec.Struct, frozen=True):
    """An answer given to the byte, whatever was asked."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    parts: tuple[bytes, ...]


Nothing = Literal["silence", "close", "reset", "garbage", "half close"]


class Script(msgspec.Struct, frozen=True):
    """Immutable: each method gives another one."""

    what: Saying | Failure | Raw | Nothing = Saying("Hello there! How can I help you today?")
    gap_s: float = 0.0
    split_bytes: int | None = None
    stop_after: int | None = None
    stop_with: Literal["cut", "reset", "stall", "hold", "error", "end"] = "cut"
    close: bool = False
    extra: tuple[tuple[bytes, bytes], ...] = ()

    def slow(self, gap_s: float) -> "Script":
        """So long between two events, or the parts of a whole answer."""
        return msgspec.structs.replace(self, gap_s=gap_s)

    def split(self, size_bytes: int) -> "Script":
        """Sent in parts of so many bytes, whatever they cut through."""
        return msgspec.structs.replace(self, split_bytes=size_bytes)

    def cut(self, after: int, *, reset: bool = False) -> "Script":
        """The connection ends within the answer, after so many of its events or parts; a whole
        answer that is not split has two. With `reset`, it does so by RST."""
        return self._stop(after, "reset" if reset else "cut")

    def stall(self, after: int) -> "Script":
        """Nothing comes after so many of them, and the connection stays open."""
        return self._stop(after, "stall")

    def hold(self, after: int) -> "Script":
        """The rest comes when the test says `upstream.release()`."""
        return self._stop(after, "hold")

    def break_off(self, after: int) -> "Script":
        """The vendor's error event comes after so many of them, and nothing more of the answer."""
        return self._stop(after, "error")

    def end_early(self, after: int) -> "Script":
        """A whole HTTP answer, with so many of its events and no others."""
        return self._stop(after, "end")

    def then_close(self) -> "Script":
        """The connection is closed after the answer, which does not say so."""
        return msgspec.structs.replace(self, close=True)

    def header(self, name: bytes, value: bytes) -> "Script":
        return msgspec.structs.replace(self, extra=(*self.extra, (name.lower(), value)))

    def _stop(self, after: int, how: Any) -> "Script":
        return msgspec.structs.replace(self, stop_after=after, stop_with=how)


SILENCE = Script("silence")
"""Takes the request, and never answers."""

HANGS_UP = Script("close")
"""Takes the request, and closes the connection."""

RESETS = Script("reset")
"""Takes the request, and ends the connection by RST."""

HALF_CLOSES = Script("half close")
"""Takes the request, and closes its own direction of the connection; it reads on."""

GARBAGE = Script("garbage")
"""Takes the request, and answers with what is no HTTP."""


def says(
    text: str,
    *,
    ended: Ended = "stop",
    sequence: str | None = None,
    thought: str | None = None,
    usage: Usage = USAGE,
) -> Script:
    return Script(Saying(text, ended=ended, sequence=sequence, thought=thought, usage=usage))


def calls(
    *uses: tuple[str, Any], text: str = "", thought: str | None = None, usage: Usage = USAGE
) -> Script:
    """Uses tools: `calls(("get_weather", {"city": "Paris"}))`. Arguments given as a text go out as
    they are."""
    made = tuple(
        ToolUse(
            f"{number:024d}",
            name,
            given if isinstance(given, str) else orjson.dumps(given).decode(),
        )
        for number, (name, given) in enumerate(uses, start=1)
    )
    return Script(Saying(text, made, thought=thought, ended="tools", usage=usage))


def refuses(text: str = "I cannot help with that.") -> Script:
    return Script(Saying(refusal=text))


def fails(
    status: int,
    message: str = "Something went wrong, as the test wished.",
    *,
    kind: str | None = None,
    code: str | None = None,
    param: str | None = None,
    retry_after_s: float | None = None,
    should_retry: bool | None = None,
) -> Script:
    return Script(Failure(status, message, kind, code, param, retry_after_s, should_retry))


def raw(status: int, headers: Headers, *parts: bytes) -> Script:
    """Framed as the headers say; in chunks, where they say nothing."""
    return Script(Raw(status, tuple(headers), parts))


class Reply(msgspec.Struct, frozen=True):
    """What a vendor makes of a Saying or a Failure: parts that make up the body, and, for a stream,
    the event by which it breaks off."""

    status: int
    headers: Headers
    parts: Sequence[bytes]
    broken: bytes | None = None

    @property
    def streamed(self) -> bool:
        return self.broken is not None


def words(text: str) -> list[str]:
    """As tokens often are: each with the space before it."""
    parts = text.split(" ")
    return [part if not at else f" {part}" for at, part in enumerate(parts)]


def fragments(text: str, size: int = 5) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]
