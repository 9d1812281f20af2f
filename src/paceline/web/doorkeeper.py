"""Stands at the port while no front is ready: answers probes, keeps everybody else for a front.

It looks at the first bytes of a connection without taking them out of the kernel, so that a front
which gets the connection later reads the request as if it had accepted it itself. It parses no more
than a request line and never serves one. Called by the owner.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from paceline.gateway import failures
from paceline.gateway.call import Dialect
from paceline.net.answers import draining, raw_answer, raw_response
from paceline.observe.board import Counter
from paceline.terms.errors import PacelineError, Unavailable
from paceline.terms.limits import (
    ACCEPT_AGAIN_S,
    BODY_BYTES,
    PARK_S,
    PARKED_CONNECTIONS,
    PROBES,
)

READY = b"/health/ready"
LIVE = b"/health/live"
LINE_BYTES = 256

ALIVE_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 13\r\n"
    b"connection: close\r\n\r\n"
)
ALIVE = ALIVE_HEAD + b'{"live":true}'


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
        *,
        tls: bool = False,
    ) -> None:
        self._listener = listener
        self._hand_over = hand_over
        self._count = parked
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._parked: dict[socket.socket, asyncio.TimerHandle] = {}
        self._open = False
        self._paused = False
        self._refusing = False

    def open(self) -> None:
        if not self._open:
            self._open = True
            if not self._paused:
                self._loop.add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """A front is ready: it accepts from now on, and gets those who wait."""
        self._stop_accepting()
        waiting = list(self._parked)
        for connection in waiting:
            self._forget(connection)
        if waiting:
            self._hand_over(waiting)

    def park(self, connection: socket.socket) -> None:
        """Keeps a connection until a front is ready, at most PARK_S."""
        if len(self._parked) >= PARKED_CONNECTIONS + PROBES:
            self._reply(connection, _refusal(connection, not_ready()))
            return
        expiry = self._loop.call_later(PARK_S, self._turn_away, connection, not_ready())
        self._parked[connection] = expiry
        self._loop.add_reader(connection.fileno(), self._look, connection)

    def refuse(self) -> None:
        """The server stops: from now on everybody who comes is told so."""
        self._refusing = True
        for connection in list(self._parked):
            self._turn_away(connection, draining())
        self.open()

    def refuse_all(self) -> None:
        """The end of a drain: whoever still waits, here or in the kernel, gets an answer."""
        self._stop_accepting()
        for connection in list(self._parked):
            self._turn_away(connection, draining())
        with suppress(OSError):
            while (queued := self._next()) is not None:
                self._reply(queued, _refusal(queued, draining()))

    def _stop_accepting(self) -> None:
        self._open = False
        self._loop.remove_reader(self._listener.fileno())

    def _accept(self) -> None:
        try:
            while (connection := self._next()) is not None:
                self.park(connection)
        except OSError:  # no descriptor is left: the others wait in the kernel until one is
            self._paused = True
            self._loop.remove_reader(self._listener.fileno())
            self._loop.call_later(ACCEPT_AGAIN_S, self._accept_again)

    def _accept_again(self) -> None:
        self._paused = False
        if self._open:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _next(self) -> socket.socket | None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        connection.setblocking(False)
        return connection

    def _look(self, connection: socket.socket) -> None:
        """At its first line: a probe is answered, the others go on waiting."""
        self._loop.remove_reader(connection.fileno())
        if self._tls and not self._refusing:  # nothing here can read it or answer
            self._count.add()
            return
        try:
            line, complete, _ = connection.recv(LINE_BYTES, socket.MSG_PEEK).partition(b"\r\n")
        except OSError:
            line, complete = b"", b""
        if not line:
            self._finish(connection, b"")
        elif not complete and len(line) < LINE_BYTES:
            self._loop.call_later(ACCEPT_AGAIN_S, self._look_again, connection)
        elif (path := _path(line)) in (READY, LIVE):
            answer = ALIVE if path == LIVE else raw_response(not_ready())
            head_only = line.startswith(b"HEAD ")
            self._finish(connection, _head(answer) if head_only else answer)
        elif self._refusing:
            self._turn_away(connection, draining())
        elif len(self._parked) > PARKED_CONNECTIONS:
            self._turn_away(connection, not_ready())
        else:
            self._count.add()

    def _look_again(self, connection: socket.socket) -> None:
        if connection in self._parked:
            self._loop.add_reader(connection.fileno(), self._look, connection)

    def _turn_away(self, connection: socket.socket, error: PacelineError) -> None:
        self._finish(connection, _refusal(connection, error))

    def _finish(self, connection: socket.socket, answer: bytes) -> None:
        self._forget(connection)
        self._reply(connection, answer)

    def _reply(self, connection: socket.socket, answer: bytes) -> None:
        """Answers and closes; where https is spoken, it closes: nobody here can speak that."""
        _say(connection, b"" if self._tls else answer)

    def _forget(self, connection: socket.socket) -> None:
        self._parked.pop(connection).cancel()
        self._loop.remove_reader(connection.fileno())


def _refusal(connection: socket.socket, error: PacelineError) -> bytes:
    """As the caller's SDK expects it, where its address is one of theirs; without an id, for
    nothing else is told of this request."""
    try:
        path = _path(connection.recv(LINE_BYTES, socket.MSG_PEEK).partition(b"\r\n")[0])
    except OSError:  # nothing has come of it
        path = b""
    if not path.startswith(b"/v1/"):
        return raw_response(error)
    dialect: Dialect = "anthropic" if path.startswith(b"/v1/messages") else "openai"
    return raw_answer(*failures.refused(dialect, error, ""))


def _path(line: bytes) -> bytes:
    target = line.split(b" ")[1] if line.count(b" ") == 2 else b""
    return target.partition(b"?")[0]


def _head(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def _say(connection: socket.socket, answer: bytes) -> None:
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
