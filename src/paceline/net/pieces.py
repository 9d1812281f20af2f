"""An answer in pieces from a hot listener: a head now, a body as it comes, and an end, or none.

No task and no future: whoever answers pushes, and hears when the caller takes no more. Each piece
goes to the transport as it comes. What is written in one turn of the loop is still one write, for
uvloop gathers it until the turn ends; a second gathering here cost as much as all the rest of a
piece. Made by `connection.py` when an answer is begun, called through its Exchange; it holds no
clock: a caller who does not read is the connection's matter.
"""

import asyncio
from typing import Protocol

from paceline.net.answers import STATUS_LINES
from paceline.net.exchange import Exchange
from paceline.terms.limits import REST_BYTES

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


class Pieces:
    """One such answer, from its head to its end."""

    __slots__ = ("_beyond", "_chunks", "_connection", "_exchange", "_mute", "_write")

    def __init__(self, connection: Line, exchange: Exchange, status: int, headers: bytes) -> None:
        self._connection = connection
        self._exchange = exchange
        self._write = connection.transport.write
        self._beyond = 0
        """bytes written although the caller took no more"""
        bodyless = status in BODYLESS
        self._chunks = not bodyless and exchange.version == "1.1"
        if not self._chunks and not bodyless:
            exchange.keeps_alive = False  # the end of the connection is the end of the body
        if connection.leaving:
            exchange.keeps_alive = False
        self._mute = False
        self._put(
            b"%b%b%b%b\r\n"
            % (
                STATUS_LINES[status],
                headers,
                b"transfer-encoding: chunked\r\n" if self._chunks else b"",
                b"" if exchange.keeps_alive else b"connection: close\r\n",
            )
        )
        self._mute = self._mute or bodyless or exchange.method == b"HEAD"

    def write(self, piece: bytes) -> None:
        if self._mute or not piece:  # an empty chunk would be the end
            return
        self._put(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunks else piece)

    def finish(self) -> None:
        exchange = self._exchange
        if self._chunks and not self._mute:
            self._put(LAST)
        self._leave(exchange.keeps_alive and not self._connection.leaving)

    def cut(self) -> None:
        self._leave(goes_on=False)

    def room(self) -> None:
        """The caller takes more again."""
        self._beyond = 0

    def forget(self) -> None:
        """The caller has left: what comes is for nobody."""
        self._mute = True

    def _put(self, out: bytes) -> None:
        connection = self._connection
        if connection.write_paused:
            connection.unread(len(out))
            self._beyond += len(out)
            if self._beyond > REST_BYTES:
                self.forget()
                connection.abort()
                return
        self._write(out)

    def _leave(self, goes_on: bool) -> None:
        exchange = self._exchange
        exchange.out = None
        exchange.gone = exchange.on_full = exchange.on_room = None
        self.forget()
        self._connection.finished(exchange, goes_on)
