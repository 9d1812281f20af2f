"""Every connection that one application answers: accepted, adopted, asked to leave.

Who listens, drains and stops is decided in `web/`, which calls this for fronts and owner alike.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from email.utils import formatdate

from starlette.types import ASGIApp

from paceline.net.connection import Connection
from paceline.net.exchange import Hot
from paceline.net.pieces import Corks
from paceline.terms.limits import (
    ACCEPTED_A_TURN,
    ARRIVING,
    ARRIVING_BYTES,
    CONNECTION_BACKLOG,
    HEAD_S,
    LINGER_S,
)

Now = Callable[[], float]


class Connections:
    """`now` is the process's monotonic clock, `wall` Unix time for the Date header; `hot` is asked
    before the ASGI application, see `connection.py`."""

    def __init__(
        self,
        app: ASGIApp,
        now: Now,
        wall: Now,
        hot: Hot | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.app = app
        self.hot = hot
        self.loop = asyncio.get_running_loop()
        self.corks = Corks(self.loop.call_soon)
        self.scheme = "http" if tls is None else "https"
        self._tls = tls
        self._handshake_s = None if tls is None else HEAD_S
        self.now = now
        self._wall = wall
        self._stamp = b""
        self._stamp_wall = 0.0
        self._open: set[Connection] = set()
        self._going_on: dict[Connection, None] = {}
        self._takes_turns = False
        self._arriving: dict[Connection, None] = {}
        self._arriving_bytes = 0
        """oldest first"""
        self._servers: list[asyncio.Server] = []
        self._leaving = False
        self._lost = asyncio.Event()

    async def listen(self, listener: socket.socket) -> None:
        """In one turn of its loop uvloop accepts one connection of a listening socket. Where turns
        are long because others ask and ask, who comes anew would wait for as many of them as there
        are connections before it: so the socket is there several times."""
        listener.setblocking(False)
        for one in (listener, *(listener.dup() for _ in range(ACCEPTED_A_TURN - 1))):
            server = await self.loop.create_server(
                self._connection,
                sock=one,
                backlog=CONNECTION_BACKLOG,
                ssl=self._tls,
                ssl_handshake_timeout=self._handshake_s,
            )
            self._servers.append(server)

    async def adopt(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        await self.loop.connect_accepted_socket(
            self._connection,
            accepted,
            ssl=self._tls,
            ssl_handshake_timeout=self._handshake_s,
        )

    def stop_listening(self) -> None:
        """Closes our handles of the listening socket; whoever else holds it goes on."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    def leave(self) -> None:
        """No connection goes on after its next answer. Those that are quiet are closed, but for
        the ones that asked a moment ago: their next request may be on its way."""
        self._leaving = True
        for connection in self._open:
            connection.leave()
        self._close_quiet()

    async def closed(self, within_s: float) -> None:
        """Returns when every last answer is on its way; a caller who does not read is cut off."""
        try:
            async with asyncio.timeout(within_s):
                while self._open:
                    self._lost.clear()
                    await self._lost.wait()
        except TimeoutError:
            for connection in list(self._open):
                connection.abort()

    def stamp(self) -> bytes:
        """The header lines that every answer has; made once a second."""
        wall = self._wall()
        if not 0 <= wall - self._stamp_wall < 1:
            self._stamp_wall = float(int(wall))
            date = formatdate(self._stamp_wall, usegmt=True)
            self._stamp = f"server: paceline\r\ndate: {date}\r\n".encode()
        return self._stamp

    def made(self, connection: Connection) -> None:
        """Not before: a handshake that fails makes none, and nobody tells of its end."""
        self._open.add(connection)
        if self._leaving:
            connection.leave()

    def goes_on(self, connection: Connection) -> None:
        """It has more requests than may be answered in one go. One such connection goes on in each
        turn of the loop, however many there are: the others are answered in between."""
        self._going_on[connection] = None
        if not self._takes_turns:
            self._takes_turns = True
            self.loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        if not self._going_on:
            self._takes_turns = False
            return
        self.loop.call_soon(self._next_turn)
        connection = next(iter(self._going_on))
        del self._going_on[connection]
        connection.go_on()

    def arrives(self, connection: Connection) -> None:
        """The body of what it has in hand is still to come."""
        self._arriving[connection] = None
        if len(self._arriving) > ARRIVING:
            oldest = next(iter(self._arriving))
            self.arrived(oldest)
            oldest.give_way()

    def grows(self, connection: Connection, size: int) -> None:
        """What has arrived of bodies that are not whole has a bound together, too."""
        if connection not in self._arriving:
            return
        connection.arriving_bytes += size
        self._arriving_bytes += size
        while self._arriving_bytes > ARRIVING_BYTES:
            others = (each for each in self._arriving if each is not connection)
            oldest = next((each for each in others if each.arriving_bytes), None)
            if oldest is None:
                return  # it is alone, and has a bound of its own
            self.arrived(oldest)
            oldest.give_way()

    def arrived(self, connection: Connection) -> None:
        """Or will not come any more."""
        self._arriving.pop(connection, None)
        self._arriving_bytes -= connection.arriving_bytes
        connection.arriving_bytes = 0

    def lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._going_on.pop(connection, None)
        self.arrived(connection)
        self._lost.set()

    def _connection(self) -> Connection:
        return Connection(self)

    def _close_quiet(self) -> None:
        now = self.now()
        soonest_s = None
        for connection in list(self._open):
            if not connection.between_requests or connection.never_asked:
                continue
            quiet_s = now - connection.quiet_since_s
            if quiet_s >= LINGER_S:
                connection.transport.close()
            else:
                left_s = LINGER_S - quiet_s
                soonest_s = left_s if soonest_s is None else min(soonest_s, left_s)
        if soonest_s is not None:
            self.loop.call_later(soonest_s + 0.001, self._close_quiet)
