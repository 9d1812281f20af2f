"""Stands at the port while no front is ready: answers probes, keeps everybody else for a front.

It looks at the first bytes of a connection without taking them out of the kernel, so that a front
which gets the connection later reads the request as if it had accepted it itself. It never parses
a request and never serves one. Called by the owner.
"""

import asyncio
import socket
from collections.abc import Callable

from paceline.observe.board import Counter
from paceline.terms.errors import Unavailable
from paceline.terms.limits import BODY_BYTES, PARK_S, PARKED_CONNECTIONS
from paceline.web.answers import draining, raw_response

READY_PATH = b" /health/ready "
LIVE_PATH = b" /health/live "
FIRST_BYTES = 64

ALIVE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 13\r\n"
    b'connection: close\r\n\r\n{"live":true}'
)


def not_ready() -> Unavailable:
    return Unavailable(
        "no front is ready to answer",
        remedy="Send the request again in a second; if this goes on, the server's log says why.",
    )


class Doorkeeper:
    """`hand_over` takes accepted connections to a front that is ready."""

    def __init__(
        self,
        listener: socket.socket,
        hand_over: Callable[[list[socket.socket]], None],
        parked: Counter,
    ) -> None:
        self._listener = listener
        self._hand_over = hand_over
        self._count = parked
        self._loop = asyncio.get_running_loop()
        self._parked: dict[socket.socket, asyncio.TimerHandle] = {}
        self._open = False
        self._refusing = False

    def open(self) -> None:
        if not self._open:
            self._open = True
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """A front is ready: it accepts from now on, and gets those who wait."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._listener.fileno())
        for timer in self._parked.values():
            timer.cancel()
        for connection in self._parked:
            self._loop.remove_reader(connection.fileno())
        waiting = list(self._parked)
        self._parked.clear()
        if waiting:
            self._hand_over(waiting)

    def refuse(self) -> None:
        """The server stops: from now on everybody who comes is told so."""
        self._refusing = True
        for connection in list(self._parked):
            self._finish(connection, raw_response(draining()))
        self.open()

    def refuse_all(self) -> None:
        """The end of a drain: whoever still waits, here or in the kernel, gets an answer."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._listener.fileno())
        refusal = raw_response(draining())
        for connection in list(self._parked):
            self._finish(connection, refusal)
        while (queued := self._next()) is not None:
            _reply(queued, refusal)

    def _accept(self) -> None:
        while (connection := self._next()) is not None:
            if len(self._parked) == PARKED_CONNECTIONS:
                _reply(connection, raw_response(not_ready()))
                continue
            expiry = self._loop.call_later(
                PARK_S, self._finish, connection, raw_response(not_ready())
            )
            self._parked[connection] = expiry
            self._loop.add_reader(connection.fileno(), self._look, connection)

    def _next(self) -> socket.socket | None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        connection.setblocking(False)
        return connection

    def _look(self, connection: socket.socket) -> None:
        """Once per connection, at its first bytes: a probe is answered, others go on waiting."""
        self._loop.remove_reader(connection.fileno())
        try:
            first = connection.recv(FIRST_BYTES, socket.MSG_PEEK)
        except OSError:
            first = b""
        if not first:
            self._finish(connection, b"")
        elif READY_PATH in first:
            self._finish(connection, raw_response(not_ready()))
        elif LIVE_PATH in first:
            self._finish(connection, ALIVE)
        elif self._refusing:
            self._finish(connection, raw_response(draining()))
        else:
            self._count.add()

    def _finish(self, connection: socket.socket, answer: bytes) -> None:
        self._parked.pop(connection).cancel()
        self._loop.remove_reader(connection.fileno())
        _reply(connection, answer)


def _reply(connection: socket.socket, answer: bytes) -> None:
    """Answers and closes. What was sent is read first: closing over it would be a reset."""
    try:
        while len(connection.recv(BODY_BYTES)) == BODY_BYTES:
            pass
    except OSError:
        pass  # nothing to read, or the caller has gone
    try:
        connection.send(answer)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the caller has gone
    connection.close()
