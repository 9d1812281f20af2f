"""Connections to one upstream, kept and shared: who asks gets one that is free, or a new one.

    pool = Pool(Dialer(host, port, now, tls=True), now)
    asked = pool.ask(head, body, receiver, deadline_s)   # head by `requests.request_head`
    asked.stop()                                         # or pause(), resume()
    await pool.close()

An answer is pushed to its receiver, piece by piece: no task and no future for a request, and no
timer either; there is one for the earliest moment at which something must be over. The receiver
hears of one end: `end` or `lost`, once, or neither after `stop`; and nothing before `ask` has
returned. A connection is used again only if its last exchange ended whole, and the most recent is
used first, so that those not needed grow old and are closed. It retries nothing: whoever asked
knows what may be asked twice, and `asked.reused` tells whether the connection had served before.
Called by the gateway's providers; how connections come about is `dialing.py`.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from paceline.net import client
from paceline.net.client import ClientConnection, Headers
from paceline.terms.limits import (
    UPSTREAM_CONNECTIONS,
    UPSTREAM_IDLE_S,
    UPSTREAM_OPENING,
    UPSTREAM_TLS_IDLE_S,
    UPSTREAM_WAITING,
)

Lost = Literal[
    "unreachable",  # nothing was sent: no address, no connection, no TLS, refused by the guard
    "closed",  # closed before the first byte of an answer; the request may have been read
    "cut",  # closed within the answer
    "garbled",  # what came is no HTTP
    "late",  # the deadline passed
]
"""Why there is no whole answer."""

FOREVER = float("inf")

DETAILS: Mapping[Lost, str] = {
    "closed": "the upstream closed the connection and answered nothing",
    "cut": "the upstream closed the connection within its answer",
    "garbled": "what the upstream sent is no HTTP/1.1",
}

CLOSED = "the connections to this upstream are closed"

LOOK_AFTER_S = 0.001
"""A connection that was quiet for so long is looked at before it is used: its end may have come,
and wait behind whatever the loop does in this turn."""

RING_LEAST_S = 0.005
"""Between two looks at the deadlines: each walks over all that is in hand."""


class Receiver(Protocol):
    """Hears one answer. Called by the loop, so nothing here may wait."""

    def head(self, status: int, headers: Headers) -> None: ...

    def body(self, piece: bytes) -> None: ...

    def end(self) -> None: ...

    def lost(self, why: Lost, detail: str) -> None: ...


class Dialer(Protocol):
    """How connections come about: `dialing.py`, or a fake."""

    @property
    def tls(self) -> object | None: ...

    def dial(
        self,
        make: Callable[[], ClientConnection],
        told: Callable[[ClientConnection | None, str], None],
    ) -> None: ...

    def learn(self, connection: ClientConnection) -> None: ...

    async def close(self) -> None: ...


class Loop(Protocol):
    """Of the event loop, what is needed here."""

    def call_soon(self, call: Callable[..., object], /, *given: Any) -> object: ...

    def call_later(
        self, delay_s: float, call: Callable[..., object], /, *given: Any
    ) -> "Timer": ...


class Timer(Protocol):
    def cancel(self) -> None: ...


class _Line(ClientConnection):
    """A connection of the pool. Heads, pieces and ends go from here straight to whoever hears them;
    what the pool must know of an exchange is that it is over."""

    __slots__ = ("_pool", "asked", "known", "quiet_since_s", "used")

    def __init__(self, pool: "Pool") -> None:
        super().__init__(pool.lost)
        self._pool = pool
        self.asked: Asked | None = None
        self.used = False
        self.known = False
        """to the dialer, which learns from its first answer"""
        self.quiet_since_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._pool.made(self)

    def ended(self) -> None:
        asked = self.asked
        assert asked is not None
        self.asked = asked.line = None
        asked.receiver = DEAF
        self._pool.ended(self)

    def lost(self, _receiver: client.Receiver, why: client.Lost) -> None:
        asked = self.asked
        assert asked is not None
        self.asked = asked.line = None
        receiver, asked.receiver = asked.receiver, DEAF
        told: Lost = "cut" if why == "aborted" else why
        more = f": {self.trouble}" if self.trouble else ""
        receiver.lost(told, DETAILS[told] + more)


class _Deaf:
    """Hears for those who have stopped, or have their end."""

    def head(self, status: int, headers: Headers) -> None: ...

    def body(self, piece: bytes) -> None: ...

    def end(self) -> None: ...

    def lost(self, why: Lost, detail: str) -> None: ...


DEAF = _Deaf()


class Asked:
    """One exchange, while it lasts, for whoever asked."""

    __slots__ = ("_paused", "_pool", "deadline_s", "line", "receiver", "reused")

    def __init__(self, pool: "Pool", receiver: Receiver, deadline_s: float) -> None:
        self._pool = pool
        self._paused = False
        self.receiver = receiver
        self.line: _Line | None = None
        self.deadline_s = deadline_s
        self.reused = False
        """whether the connection had served an exchange before this one"""

    # --- For whoever asked

    def stop(self) -> None:
        """Nothing more is heard, and the upstream's connection ends now."""
        self.receiver = DEAF
        line = self.line
        if line is None:
            self._pool.forget(self)
        else:
            self.line = line.asked = None
            line.leave()

    def pause(self) -> None:
        """No more is read; what was read already still comes, the end included."""
        self._paused = True
        if self.line is not None:
            self.line.pause()

    def resume(self) -> None:
        self._paused = False
        if self.line is not None:
            self.line.resume()

    # --- For the pool

    def send(self, line: _Line, head: bytes, body: bytes) -> None:
        self.line = line
        line.asked = self
        self.reused = line.used
        line.used = True
        line.ask(head, self.receiver, body)  # type: ignore[arg-type]  # a loss `_Line.lost` tells
        if self._paused:
            line.pause()

    def fail(self, why: Lost, detail: str) -> None:
        """Nothing more is heard but this."""
        receiver = self.receiver
        self.stop()
        receiver.lost(why, detail)


class Pool:
    """`most` connections, each kept unused for `idle_s`. `now` is the process's monotonic clock."""

    def __init__(
        self,
        dialer: Dialer,
        now: Callable[[], float],
        *,
        most: int = UPSTREAM_CONNECTIONS,
        idle_s: float | None = None,
        loop: Loop | None = None,
    ) -> None:
        self._dialer = dialer
        self._now = now
        self._most = most
        if idle_s is None:
            idle_s = UPSTREAM_IDLE_S if dialer.tls is None else UPSTREAM_TLS_IDLE_S
        self._idle_s = idle_s
        self._loop: Loop = asyncio.get_running_loop() if loop is None else loop
        self._open: dict[_Line, None] = {}
        self._idle: list[_Line] = []
        """the last is the most recent"""
        self._opening = 0
        self._waiting: dict[Asked, tuple[bytes, bytes]] = {}
        """with head and body; oldest first"""
        self._timer: Timer | None = None
        self._timer_s = FOREVER
        self._closing = False
        self._all_lost: asyncio.Event | None = None

    @property
    def open(self) -> int:
        """Connections, used or not."""
        return len(self._open)

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Requests that have no connection yet."""
        return len(self._waiting)

    def ask(self, head: bytes, body: bytes, receiver: Receiver, deadline_s: float) -> Asked:
        """Sends a request, now or as soon as a connection is free; `deadline_s` is a moment."""
        asked = Asked(self, receiver, deadline_s)
        now = self._now()
        if deadline_s <= now:
            self._fail_soon(asked, "late", "the deadline had passed already")
            return asked
        idle = self._idle
        while idle:
            line = idle.pop()
            if not line.transport.is_closing() and (
                now - line.quiet_since_s < LOOK_AFTER_S or not line.has_more
            ):
                asked.send(line, head, body)
                break
            line.leave()
        else:
            self._wait(asked, head, body)
        if deadline_s < self._timer_s:
            self._ring_at(deadline_s, now)
        return asked

    async def close(self) -> None:
        """Ends everything; whoever still waits for an answer is told that there is none."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        await self._dialer.close()
        for asked in [*self._waiting]:
            asked.fail("unreachable", CLOSED)
        for line in [*self._open]:
            if line.asked is not None:
                line.asked.fail("cut", CLOSED)
            else:
                line.leave()
        self._all_lost = asyncio.Event()
        while self._open:
            self._all_lost.clear()
            await self._all_lost.wait()

    # --- What requests and connections tell

    def forget(self, asked: Asked) -> None:
        """It needs no connection any more."""
        self._waiting.pop(asked, None)

    def ended(self, line: _Line) -> None:
        """Its exchange ended whole."""
        if not line.known:
            line.known = True
            self._dialer.learn(line)
        if not line.transport.is_closing():
            self._give(line)

    def made(self, line: _Line) -> None:
        self._open[line] = None

    def lost(self, connection: ClientConnection) -> None:
        assert isinstance(connection, _Line)
        self._open.pop(connection, None)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._all_lost is not None:
            self._all_lost.set()
        self._open_more()

    # --- How

    def _give(self, line: _Line) -> None:
        """To the one who waits longest, or into the row of those that wait for somebody."""
        if self._closing:
            line.leave()
        elif self._waiting:
            asked = next(iter(self._waiting))
            asked.send(line, *self._waiting.pop(asked))
        else:
            line.quiet_since_s = now = self._now()
            self._idle.append(line)
            if now + self._idle_s < self._timer_s:
                self._ring_at(now + self._idle_s, now)

    def _wait(self, asked: Asked, head: bytes, body: bytes) -> None:
        if self._closing:
            self._fail_soon(asked, "unreachable", CLOSED)
        elif len(self._waiting) >= UPSTREAM_WAITING:
            self._fail_soon(
                asked, "unreachable", f"{UPSTREAM_WAITING} requests wait for a connection already"
            )
        else:
            self._waiting[asked] = head, body
            self._open_more()

    def _open_more(self) -> None:
        """One for each that waits, up to the bounds."""
        if self._closing:
            return
        room = min(self._most - len(self._open), UPSTREAM_OPENING) - self._opening
        for _ in range(min(room, len(self._waiting) - self._opening)):
            self._opening += 1
            self._dialer.dial(self._make, self._dialed)

    def _make(self) -> ClientConnection:
        return _Line(self)

    def _dialed(self, connection: ClientConnection | None, why: str) -> None:
        """A try that failed takes the one who waits longest with it, so that each ends."""
        self._opening -= 1
        if connection is not None and connection.free:
            assert isinstance(connection, _Line)
            self._give(connection)
        elif self._waiting:
            asked = next(iter(self._waiting))
            asked.fail("unreachable", why or "the connection was closed as soon as it was open")
        self._open_more()

    def _fail_soon(self, asked: Asked, why: Lost, detail: str) -> None:
        """Nobody is told anything before `ask` has returned."""
        self._loop.call_soon(asked.fail, why, detail)

    # --- Time

    def _ring_at(self, moment_s: float, now: float) -> None:
        """The timer is only ever set for an earlier moment, so that a request costs none."""
        if self._closing:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = moment_s
        self._timer = self._loop.call_later(max(RING_LEAST_S, moment_s - now), self._ring)

    def _ring(self) -> None:
        self._timer, self._timer_s = None, FOREVER
        now = self._now()
        in_hand = [line.asked for line in self._open if line.asked is not None]
        for asked in (*in_hand, *self._waiting):
            if asked.deadline_s <= now:
                asked.fail("late", "no whole answer by the deadline")
        while self._idle and self._idle[0].quiet_since_s + self._idle_s <= now:
            self._idle.pop(0).leave()
        earliest = [line.asked.deadline_s for line in self._open if line.asked is not None]
        earliest += [asked.deadline_s for asked in self._waiting]
        if self._idle:
            earliest.append(self._idle[0].quiet_since_s + self._idle_s)
        if earliest and min(earliest) < self._timer_s:
            self._ring_at(min(earliest), now)
