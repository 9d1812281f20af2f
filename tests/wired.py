"""One connection without a socket: bytes go in, time goes on, and all it says and does is seen.

The fakes that `net/connection.py` stands on where a test needs thousands of requests, or an hour: a
transport with a write buffer that only a caller who reads empties, and a loop that only knows the
time. Neither runs an ASGI application: `hot` takes every request.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from paceline.net.connection import Connection
from paceline.net.exchange import Exchange
from paceline.net.pieces import Corks
from paceline.terms.limits import INFER_BODY_BYTES

HIGH_BYTES, LOW_BYTES = 64 * 1024, 16 * 1024
"""Of the write buffer, as uvloop has them."""


class Asked(NamedTuple):
    """A request that was accepted whole."""

    method: bytes
    target: bytes
    body: bytes


class Timer:
    def __init__(self, when_s: float, call: Callable[[], object]) -> None:
        self.when_s = when_s
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        self.call = None


class FakeLoop:
    """Knows the time, and rings. Nothing else is asked of it."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._timers: list[Timer] = []

    def call_later(self, delay_s: float, call: Callable[..., object], *given: object) -> Timer:
        timer = Timer(self.now_s + delay_s, partial(call, *given))
        self._timers.append(timer)
        return timer

    def call_soon(self, call: Callable[..., object], *given: object) -> Timer:
        return self.call_later(0.0, call, *given)

    def turn(self) -> None:
        """What is due now, but not what that asks for."""
        due = [each for each in self._timers if each.when_s <= self.now_s]
        self._timers = [each for each in self._timers if each not in due]
        for timer in due:
            if timer.call is not None:
                timer.call()

    def pass_s(self, seconds: float) -> None:
        """Rings what is due meanwhile, each at its moment."""
        until_s = self.now_s + seconds
        while due := [each for each in self._timers if each.when_s <= until_s]:
            timer = min(due, key=lambda each: each.when_s)
            self._timers.remove(timer)
            self.now_s = max(self.now_s, timer.when_s)
            if timer.call is not None:
                timer.call()
        self.now_s = until_s


class FakeTransport(asyncio.Transport):
    def __init__(self, protocol: Connection) -> None:
        super().__init__()
        self.protocol = protocol
        self.said = bytearray()
        self.buffered = 0
        """bytes that the caller has not read"""
        self.reads = True
        """whether the caller does"""
        self.paused = False
        self.ended = False
        """our half"""
        self.eof = False
        """their half"""
        self.has_halves = True
        """not with TLS"""
        self.closing = False
        self.aborted = False
        self.lost = False
        self._full = False

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def write(self, data: "bytes | bytearray | memoryview") -> None:
        assert not self.ended, "written after the end"
        if self.closing:
            return
        self.said += data
        self.buffered += len(data)
        if self.reads:
            self.buffered = 0
        if self.buffered > HIGH_BYTES and not self._full:
            self._full = True
            self.protocol.pause_writing()

    def read(self, most: int = 1 << 60) -> None:
        """The caller reads so much of what waits."""
        self.buffered = max(0, self.buffered - most)
        if self._full and self.buffered <= LOW_BYTES:
            self._full = False
            self.protocol.resume_writing()
        if self.closing and not self.buffered:
            self._lose()

    def is_closing(self) -> bool:
        return self.closing

    def can_write_eof(self) -> bool:
        return self.has_halves

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        assert not self.closing, "a closing transport is told to read"
        self.paused = False

    def close(self) -> None:
        self.closing = True
        if not self.buffered:
            self._lose()

    def abort(self) -> None:
        self.closing = self.aborted = True
        self._lose()

    def _lose(self) -> None:
        if not self.lost:
            self.lost = True
            self.protocol.connection_lost(None)


class Wire:
    """One connection, its caller, and the server that answers it. By default each request is
    answered 200 at once, with as many bytes as `answers`."""

    def __init__(self, answer: bytes = b"ok", deadline_s: float | None = None) -> None:
        self.loop = FakeLoop()
        self.answer_with = answer
        self.deadline_s = deadline_s
        """for bodies to arrive"""
        self.app = None
        self.scheme = "http"
        self.asked: list[Asked] = []
        self.in_hand: list[Exchange] = []
        """not answered yet; for those who set `waits`"""
        self.waits = False
        self.left = 0
        """callers who went before their answer"""
        self.corks = Corks(self.loop.call_soon)
        self.connection = Connection(self)
        self.transport = FakeTransport(self.connection)
        self.connection.connection_made(self.transport)

    # --- The caller -------------------------------------------------------------------------------

    def say(self, data: bytes, piece: int = 0) -> "Wire":
        """In pieces of so many bytes, or at once."""
        for at in range(0, len(data), piece or len(data) or 1):
            if self.transport.closing:
                break
            self.connection.data_received(data[at : at + (piece or len(data))])
            self.loop.pass_s(0.0)
        return self

    def end(self) -> "Wire":
        """The caller has no more to say."""
        self.transport.eof = True
        if not self.transport.closing and not self.connection.eof_received():
            self.transport.close()
        return self

    @property
    def said(self) -> bytes:
        return bytes(self.transport.said)

    @property
    def is_over(self) -> bool:
        """No further request is answered."""
        return self.transport.closing or self.transport.ended

    # --- The server -------------------------------------------------------------------------------

    def now(self) -> float:
        return self.loop.now_s

    def hot(self, exchange: Exchange) -> Callable[[Exchange], None]:
        exchange.gone = self._gone
        exchange.body_most = INFER_BODY_BYTES
        if self.deadline_s is not None and not exchange.complete:
            self.connection.within(self.deadline_s)
        return self._took

    def stamp(self) -> bytes:
        return b""

    def made(self, connection: Connection) -> None:
        assert connection is self.connection

    def goes_on(self, connection: Connection) -> None:
        self.loop.call_soon(connection.go_on)

    def arrives(self, connection: Connection) -> None:
        assert connection is self.connection

    def grows(self, connection: Connection, size: int) -> None: ...

    def arrived(self, connection: Connection) -> None:
        assert connection is self.connection

    def lost(self, connection: Connection) -> None:
        assert connection is self.connection

    def answer(self, exchange: Exchange) -> None:
        exchange.answer(200, b"", self.answer_with)

    def _took(self, exchange: Exchange) -> None:
        self.asked.append(Asked(exchange.method, exchange.target, bytes(exchange.body)))
        if self.waits:
            self.in_hand.append(exchange)
        else:
            self.answer(exchange)

    def _gone(self) -> None:
        self.left += 1
