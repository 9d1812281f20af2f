"""A provider of LLM calls, in either dialect, that does to each call what the call says of itself.

Run as `python -m benchmarks._troublesome PORT CONTROL`. What each kind of trouble is stands in
`_trouble`; here it is done, byte by byte. A line on the control port is answered with what has been
seen since the one before. Started by `llm_trouble`.
"""

import asyncio
import random
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import cast

import msgspec

from benchmarks import _told
from benchmarks._trouble import (
    KINDS,
    LEAVERS,
    MARK,
    Dialect,
    Streamed,
    failure,
    streamed,
    whole,
)

LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.I)
ON_THE_WAY_S = 0.02
"""What was sent before a reset has arrived by then: a reset overtakes."""

FLOW_S = 0.01
TRICKLE_S = 0.02
MOST_ENDLESS_BYTES = 64 * 1024 * 1024
"""Of an answer that nobody reads; it is held back long before."""

TROUBLE: dict[str, Callable[["Answering"], None]] = {}


class Seen(msgspec.Struct, frozen=True):
    """`asked` and `left` are moments by `time.perf_counter`, of calls whose callers leave; the
    others are so many now."""

    calls: int
    open: int
    in_hand: int
    asked: dict[int, float]
    left: dict[int, float]
    unread_bytes: int
    """the most of an answer that was taken from here, and that nobody read"""


class Upstream:
    def __init__(self) -> None:
        self.calls = 0
        self.open = 0
        self.in_hand = 0
        self.unread_bytes = 0
        self.asked: dict[int, float] = {}
        self.left: dict[int, float] = {}

    def seen(self) -> Seen:
        asked, self.asked = self.asked, {}
        left, self.left = self.left, {}
        return Seen(self.calls, self.open, self.in_hand, asked, left, self.unread_bytes)


class Answering(asyncio.Protocol):
    """One connection, one call after the other."""

    __slots__ = (
        "body",
        "chance",
        "data",
        "dialect",
        "full",
        "kind",
        "loop",
        "number",
        "stream",
        "timer",
        "transport",
        "upstream",
        "working",
    )

    def __init__(self, upstream: Upstream, loop: asyncio.AbstractEventLoop) -> None:
        self.upstream = upstream
        self.loop = loop
        self.data = b""
        self.timer: asyncio.Handle | None = None
        self.working = False
        self.full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.upstream.open += 1

    def connection_lost(self, error: Exception | None) -> None:
        self.upstream.open -= 1
        if self.timer is not None:
            self.timer.cancel()
        if self.working:
            self._over()
            if self.kind in LEAVERS:
                self.upstream.left[self.number] = time.perf_counter()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, end, body = self.data.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not end or length is None or len(body) < int(length[1]):
            return
        self.data = b""
        mark = MARK.search(body)
        assert mark is not None, body
        self.kind, self.number = mark[1].decode(), int(mark[2])
        self.stream = b'"stream":true' in body.replace(b" ", b"")
        self.dialect: Dialect = "anthropic" if b"/messages HTTP/1.1\r\n" in head else "openai"
        self.chance = random.Random(self.number)
        self.upstream.calls += 1
        self.upstream.in_hand += 1
        self.working = True
        if self.kind in LEAVERS:
            self.upstream.asked[self.number] = time.perf_counter()
        TROUBLE[self.kind](self)

    # --- What is said

    def say(self, said: bytes) -> None:
        self.transport.write(said)

    def say_whole(self, status: int, body: bytes, kind: bytes = b"application/json") -> None:
        self.say(answer(status, body, kind))
        self.done()

    def plain(self) -> bytes:
        return whole(self.dialect, self.number, self.kind)

    def events(self) -> Streamed:
        return streamed(self.dialect, self.number, self.kind)

    def begun(self, events: int | None = None) -> Streamed:
        """A stream as far as its content goes, or so many events of it."""
        all_of_it = self.events()
        if events is None:
            events = self.chance.randrange(1, len(all_of_it.content) - 1)
        said = [*all_of_it.first, *all_of_it.content[:events]]
        self.say(STREAM + b"".join(map(chunk, said)))
        return all_of_it

    # --- How it ends

    def done(self) -> None:
        """The answer is whole, as far as it is known here."""
        self._over()

    def close(self) -> None:
        self._over()
        self.transport.close()

    def reset(self) -> None:
        self._over()
        connection: socket.socket = self.transport.get_extra_info("socket")
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()

    def half_close(self) -> None:
        """And reads on, until the other side has closed too."""
        self.transport.write_eof()

    def later(self, wait_s: float, then: Callable[[], None]) -> None:
        self.timer = self.loop.call_later(wait_s, then)

    def drip(self, pieces: Iterator[bytes], gap_s: float) -> None:
        """One after the other, as long as there are any; without a gap, in turns of the loop."""
        self._drip(next(pieces), pieces, gap_s)

    def _drip(self, piece: bytes, pieces: Iterator[bytes], gap_s: float) -> None:
        following = next(pieces, None)
        if following is None:
            self.timer = None
            self.done()  # before the last is said: the next call may follow at once
            self.say(piece)
            return
        self.say(piece)
        if gap_s:
            self.timer = self.loop.call_later(gap_s, self._drip, following, pieces, gap_s)
        else:
            self.timer = self.loop.call_soon(self._drip, following, pieces, gap_s)

    def _over(self) -> None:
        self.working = False
        self.upstream.in_hand -= 1


def answer(status: int, body: bytes, kind: bytes = b"application/json") -> bytes:
    head = b"HTTP/1.1 %d As told\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
    return head % (status, kind, len(body)) + body


def chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


PLAIN_CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
PLAIN_CHUNKED += b"transfer-encoding: chunked\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def all_of(events: Streamed) -> bytes:
    each = (*events.first, *events.content, *events.last)
    return STREAM + b"".join(map(chunk, each)) + END


# --- Good calls -----------------------------------------------------------------------------------


def _whole(a: Answering) -> None:
    if a.stream:
        a.say(all_of(a.events()))
        a.done()
    else:
        a.say_whole(200, a.plain())


def _in_pieces(a: Answering) -> None:
    """Wherever it is cut: in a head, in a chunk's length, in a character."""
    said = all_of(a.events()) if a.stream else answer(200, a.plain())
    cuts = sorted(a.chance.sample(range(1, len(said)), a.chance.choice([1, 3, 20])))
    pieces = [said[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(said)], strict=True)]
    a.drip(iter(pieces), 0.0)


def _without_a_length(a: Answering) -> None:
    a.say(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + a.plain())
    a.close()


def _elsewhere(a: Answering) -> None:
    if a.dialect == "openai":
        a.say_whole(500, failure(a.dialect, 500))
    else:
        _whole(a)


# --- Before an answer -----------------------------------------------------------------------------


def _nothing(a: Answering) -> None:
    """It waits, and sees when its caller leaves."""


def _garbage(a: Answering) -> None:
    a.say(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
    a.close()


def _cut_in_its_head(a: Answering) -> None:
    head = STREAM if a.stream else answer(200, b"")
    a.say(head[: a.chance.randrange(1, len(head) - 2)])
    a.close()


def _endless_head() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    for number in range(100):
        yield b"x-%d: %b\r\n" % (number, b"y" * 4000)


def _a_head_without_an_end(a: Answering) -> None:
    a.drip(_endless_head(), 0.0)


def _a_head_byte_by_byte(a: Answering) -> None:
    a.drip((bytes([each]) for each in STREAM * 10), TRICKLE_S)


def _failed(status: int) -> Callable[[Answering], None]:
    def failed(a: Answering) -> None:
        body = failure(a.dialect, status)
        if status == 429:
            head, _, rest = answer(status, body).partition(b"\r\n")
            a.say(head + b"\r\nretry-after-ms: 20\r\n" + rest)
            a.done()
        else:
            a.say_whole(status, body)

    return failed


# --- A whole answer that is none ------------------------------------------------------------------


def _cut_in_its_body(a: Answering) -> None:
    said = answer(200, a.plain())
    a.say(said[: -a.chance.randrange(1, 200)])
    a.close()


def _cut_in_a_chunk_of_its_body(a: Answering) -> None:
    a.say(PLAIN_CHUNKED + chunk(a.plain())[: -a.chance.randrange(1, 200)])
    a.close()


def _a_chunk_of_garbage(a: Answering) -> None:
    body = a.plain()
    a.say(PLAIN_CHUNKED + chunk(body[:50]) + b"no number\r\n" + body[50:])
    a.close()


def _no_json(a: Answering) -> None:
    a.say_whole(200, b"<html><body>Welcome to nginx!</body></html>", b"text/html")


def _stands_still_in_its_body(a: Answering) -> None:
    a.say(answer(200, a.plain())[:-20])


# --- A stream -------------------------------------------------------------------------------------


def _cut_before_content(a: Answering) -> None:
    a.begun(0)
    a.close()


def _an_error_before_content(a: Answering) -> None:
    a.say(STREAM + chunk(a.events().broken) + END)
    a.done()


def _cut_in_a_chunk(a: Answering) -> None:
    at = a.chance.randrange(1, 10)
    event = a.begun(at).content[at]
    a.say(chunk(event)[: a.chance.randrange(1, len(event))])
    a.close()


def _cut_in_an_event(a: Answering) -> None:
    """Within one, and between two chunks."""
    at = a.chance.randrange(1, 10)
    event = a.begun(at).content[at]
    a.say(chunk(event[: a.chance.randrange(1, len(event) - 1)]))
    a.close()


def _cut_between_events(a: Answering) -> None:
    a.begun()
    a.close()


def _cut_after_the_last_content(a: Answering) -> None:
    a.begun(len(a.events().content))
    a.close()


def _cut_before_the_mark(a: Answering) -> None:
    all_of_it = a.begun(len(a.events().content))
    a.say(b"".join(map(chunk, all_of_it.last[:-1])))
    a.close()


def _reset_in_a_stream(a: Answering) -> None:
    a.begun()
    a.later(ON_THE_WAY_S, a.reset)


def _half_closed_in_a_stream(a: Answering) -> None:
    a.begun()
    a.half_close()


def _garbage_in_a_stream(a: Answering) -> None:
    a.begun()
    a.say(b"\x16\x03\x01 this is no chunk\r\n\r\n")
    a.close()


def _ends_early(a: Answering) -> None:
    """As if it were whole, says HTTP."""
    a.begun()
    a.say(END)
    a.done()


def _an_error_in_a_stream(a: Answering) -> None:
    all_of_it = a.begun()
    a.say(chunk(all_of_it.broken) + END)
    a.done()


def _stands_still_in_a_stream(a: Answering) -> None:
    a.begun()


# --- Callers --------------------------------------------------------------------------------------


def _before_content(a: Answering) -> None:
    a.begun(0)


def _flows(a: Answering) -> None:
    content = a.events().content
    a.begun(1)
    a.drip((chunk(each) for each in content[1:] * 1000), FLOW_S)


def _stands(a: Answering) -> None:
    a.begun(1)


def _fat(a: Answering) -> None:
    a.say(all_of(a.events()))
    a.done()


def _endless(a: Answering) -> None:
    """As much as is taken, for one who reads nothing."""
    event = chunk(a.begun(1).content[1] * 10)
    said = 0

    def more() -> None:
        nonlocal said
        if a.transport.is_closing() or not a.working:
            return
        if not a.full and said < MOST_ENDLESS_BYTES:
            a.say(event)
            said += len(event)
            a.upstream.unread_bytes = max(a.upstream.unread_bytes, said)
        a.later(0.0 if not a.full else FLOW_S, more)

    more()


TROUBLE.update(
    {
        "whole": _whole,
        "in pieces": _in_pieces,
        "without a length": _without_a_length,
        "elsewhere": _elsewhere,
        "hangs up": Answering.close,
        "resets": Answering.reset,
        "half closes": Answering.half_close,
        "silent": _nothing,
        "garbage": _garbage,
        "cut in its head": _cut_in_its_head,
        "a head without an end": _a_head_without_an_end,
        "a head byte by byte": _a_head_byte_by_byte,
        "429": _failed(429),
        "500": _failed(500),
        "529": _failed(529),
        "cut in its body": _cut_in_its_body,
        "cut in a chunk of its body": _cut_in_a_chunk_of_its_body,
        "a chunk of garbage": _a_chunk_of_garbage,
        "no JSON": _no_json,
        "stands still in its body": _stands_still_in_its_body,
        "cut before content": _cut_before_content,
        "an error before content": _an_error_before_content,
        "cut in a chunk": _cut_in_a_chunk,
        "cut in an event": _cut_in_an_event,
        "cut between events": _cut_between_events,
        "cut after the last content": _cut_after_the_last_content,
        "cut before the mark of the end": _cut_before_the_mark,
        "reset in a stream": _reset_in_a_stream,
        "half closed in a stream": _half_closed_in_a_stream,
        "garbage in a stream": _garbage_in_a_stream,
        "ends early": _ends_early,
        "an error in a stream": _an_error_in_a_stream,
        "stands still in a stream": _stands_still_in_a_stream,
        "leaves in its body": _nothing,
        "leaves": _nothing,
        "leaves by half": _nothing,
        "leaves by reset": _nothing,
        "leaves before content": _before_content,
        "leaves a stream that flows": _flows,
        "leaves a stream that stands": _stands,
        "leaves a stream by half": _stands,
        "reads slowly": _fat,
        "reads nothing": _endless,
    }
)
assert TROUBLE.keys() == KINDS.keys()


def main() -> None:
    upstream = Upstream()
    _told.main(lambda loop: Answering(upstream, loop), lambda _: upstream.seen())


if __name__ == "__main__":
    main()
