"""An answer in pieces from a hot listener: a head now, a body as it comes, and an end, or none.

No task and no future: whoever answers pushes, and hears when the caller takes no more. What is
written in one turn of the loop goes out in one write and one chunk at the end of that turn, for a
write is most of what a small piece costs. Made by `connection.py` when an answer is begun, called
through its Exchange; it holds no clock: a caller who does not read is the connection's matter.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from paceline.net.answers import STATUS_LINES
from paceline.net.exchange import Exchange
from paceline.terms.limits import CORK_BYTES, REST_BYTES

BODYLESS = frozenset({204, 304})

LAST = b"0\r\n\r\n"


class Line(Protocol):
    """The connection, as it is seen here."""

    transport: asyncio.Transport

    write_paused: bool
    """the caller does not take what was written"""

    @property
    def leaving(self) -> bool: ...

    def unread(self, size: int) -> None: ...

    def finished(self, exchange: Exchange, goes_on: bool) -> None: ...

    def abort(self) -> None: ...


class Corks:
    """The answers that something was written to in this turn of the loop."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon
        self._written: list[Pieces] = []

    def add(self, pieces: "Pieces") -> None:
        self._written.append(pieces)
        if len(self._written) == 1:
            self._call_soon(self._pull)

    def _pull(self) -> None:
        written, self._written = self._written, []
        for each in written:
            each.flush()


class Pieces:
    """One such answer, from its head to its end."""

    __slots__ = (
        "_beyond",
        "_chunks",
        "_connection",
        "_corks",
        "_exchange",
        "_head",
        "_mute",
        "_parts",
        "_size",
    )

    def __init__(
        self,
        connection: Line,
        exchange: Exchange,
        corks: Corks,
        status: int,
        headers: bytes,
    ) -> None:
        self._connection = connection
        self._exchange = exchange
        self._corks = corks
        self._parts: list[bytes] = []
        self._size = 0
        self._beyond = 0
        """bytes written although the caller took no more"""
        bodyless = status in BODYLESS
        self._mute = bodyless or exchange.method == b"HEAD"
        self._chunks = not bodyless and exchange.version == "1.1"
        if not self._chunks and not bodyless:
            exchange.keeps_alive = False  # the end of the connection is the end of the body
        if connection.leaving:
            exchange.keeps_alive = False
        self._head = b"%b%b%b%b\r\n" % (
            STATUS_LINES[status],
            headers,
            b"transfer-encoding: chunked\r\n" if self._chunks else b"",
            b"" if exchange.keeps_alive else b"connection: close\r\n",
        )
        corks.add(self)

    def write(self, piece: bytes) -> None:
        if self._mute or not piece:  # an empty chunk would be the end
            return
        if not self._parts and not self._head:
            self._corks.add(self)
        self._parts.append(piece)
        self._size += len(piece)
        if self._size > CORK_BYTES:
            self.flush()

    def flush(self) -> None:
        self._put(b"")

    def finish(self) -> None:
        exchange = self._exchange
        self._put(LAST if self._chunks and not self._mute else b"")
        self._leave(exchange.keeps_alive and not self._connection.leaving)

    def cut(self) -> None:
        self._put(b"")
        self._leave(goes_on=False)

    def room(self) -> None:
        """The caller takes more again."""
        self._beyond = 0

    def forget(self) -> None:
        """The caller has left: what waits is for nobody."""
        self._mute = True
        self._head = b""
        self._parts.clear()

    def _put(self, last: bytes) -> None:
        parts, size = self._parts, self._size
        if parts:
            self._parts, self._size = [], 0
            if self._chunks:
                out = b"".join((self._head, b"%x\r\n" % size, *parts, b"\r\n", last))
            else:
                out = b"".join((self._head, *parts))
        else:
            out = self._head + last
        if not out:
            return
        self._head = b""
        connection = self._connection
        if connection.write_paused:
            connection.unread(len(out))
            self._beyond += size
            if self._beyond > REST_BYTES:
                self.forget()
                connection.abort()
                return
        connection.transport.write(out)

    def _leave(self, goes_on: bool) -> None:
        exchange = self._exchange
        exchange.out = None
        exchange.gone = exchange.on_full = exchange.on_room = None
        self.forget()
        self._connection.finished(exchange, goes_on)
