"""One request answered by the ASGI application: what is not hot, streams among it.

Each has a task of its own, which is cancelled when its caller is seen to have left. The body is
handed on piece by piece, and no more of it is read than the application takes; an answer without a
length goes out in chunks. Called by `connection.py` alone.
"""

import asyncio
import logging
from collections import deque
from typing import Any, Protocol
from urllib.parse import unquote

from starlette.types import Message, Scope

from paceline.net.answers import STATUS_LINES, rendered
from paceline.net.exchange import Exchange
from paceline.terms.errors import PacelineError
from paceline.terms.limits import RECEIVE_BYTES, SEND_S

logger = logging.getLogger(__name__)

NO_BODY = frozenset({204, 304})


class Line(Protocol):
    """The connection, as it is seen here."""

    transport: asyncio.Transport

    write_paused: bool
    """the caller does not take what was written"""

    @property
    def lost_caller(self) -> bool: ...

    @property
    def leaving(self) -> bool: ...

    def hold_back(self) -> None: ...

    def more_room(self) -> None: ...

    def say_continue(self) -> None: ...

    def within(self, seconds: float) -> None: ...

    def finished(self, exchange: Exchange, goes_on: bool) -> None: ...

    def abort(self) -> None: ...


class AsgiCall:
    def __init__(self, connection: Line, exchange: Exchange, server: Any) -> None:
        self._connection = connection
        self._exchange = exchange
        self._server = server
        self._task: asyncio.Task[None] | None = None
        self._pieces: deque[bytes] = deque()
        self._held_bytes = 0
        self._ended = False
        self._broken: PacelineError | None = None
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._chunks = False
        self._told_end = False
        self._bodied = True
        self._head = b""
        self._done = False

    def start(self) -> None:
        self._task = self._server.loop.create_task(self._run())

    # --- What the connection tells ----------------------------------------------------------------

    @property
    def full(self) -> bool:
        return self._held_bytes > RECEIVE_BYTES

    def piece(self, data: bytes) -> None:
        self._pieces.append(data)
        self._held_bytes += len(data)
        self._arrived.set()
        if self.full:
            self._connection.hold_back()

    def end(self) -> None:
        self._ended = True
        self._arrived.set()

    def broken(self, error: PacelineError) -> None:
        """No more of the body can be understood."""
        if self._broken is None:
            self._broken = error
            self._arrived.set()

    def left(self) -> None:
        self._room.set()
        if self._task is not None:
            self._task.cancel()

    def writable(self) -> None:
        self._room.set()

    # --- The application --------------------------------------------------------------------------

    async def _run(self) -> None:
        connection, exchange = self._connection, self._exchange
        try:
            await self._server.app(_scope(exchange, self._server.scheme), self._receive, self._send)
        except Exception:  # the last resort: the application answers its own errors
            logger.exception("a connection failed inside Paceline")
            connection.abort()
            return
        finally:
            exchange.stream = None  # they hold each other, and the collector rarely looks
        exchange.answered = True
        if not self._done:
            connection.abort()  # an answer that was cut short ends the connection
            return
        goes_on = self._goes_on and exchange.complete
        connection.finished(exchange, goes_on)

    @property
    def _goes_on(self) -> bool:
        exchange = self._exchange
        return exchange.keeps_alive and exchange.complete and not self._connection.leaving

    async def _receive(self) -> Message:
        """The next piece of the body. After its end there is nothing but the end of this task."""
        if self._exchange.expects and not self._pieces and not self._ended:
            self._exchange.expects = False
            self._connection.say_continue()
        while not self._pieces:
            if self._broken is not None:
                raise self._broken
            if self._ended:
                if self._told_end:
                    await self._server.loop.create_future()
                self._told_end = True
                return {"type": "http.request", "body": b"", "more_body": False}
            self._arrived.clear()
            await self._arrived.wait()
        body = b"".join(self._pieces)
        self._pieces.clear()
        was_full = self.full
        self._held_bytes = 0
        if was_full:
            self._connection.more_room()
        return {"type": "http.request", "body": body, "more_body": True}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begin(message["status"], list(message.get("headers", ())))
            return
        out, self._head = self._head, b""
        body: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        exchange, connection = self._exchange, self._connection
        if body and exchange.method != b"HEAD" and self._bodied:
            if self._chunks:
                out += b"%x\r\n%b\r\n" % (len(body), body)
            else:
                out += body
        if not more:
            if self._chunks and exchange.method != b"HEAD":
                out += b"0\r\n\r\n"
            self._done = True
        if out and not connection.lost_caller:
            connection.transport.write(out)
            await self._flushed()

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        exchange = self._exchange
        self._bodied = status not in NO_BODY
        known = any(name == b"content-length" for name, _ in headers)
        self._chunks = self._bodied and not known and exchange.version == "1.1"
        if self._chunks:
            headers.append((b"transfer-encoding", b"chunked"))
        elif self._bodied and not known:
            exchange.keeps_alive = False  # the end of the connection is the end of the body
        if not self._goes_on:
            headers.append((b"connection", b"close"))
            exchange.keeps_alive = False
        self._head = STATUS_LINES[status] + self._server.stamp() + rendered(headers) + b"\r\n"

    async def _flushed(self) -> None:
        """Until there is room again; a caller who does not read is cut off, this task with it."""
        while self._connection.write_paused and not self._connection.lost_caller:
            self._room.clear()
            self._connection.within(SEND_S)
            await self._room.wait()


def _scope(exchange: "Exchange", scheme: str) -> Scope:
    path, _, query = exchange.target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": exchange.version,
        "method": exchange.method.decode(),
        "scheme": scheme,
        "path": unquote(path.decode()),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": exchange.headers,
        "client": None,
        "server": None,
        "state": {},
    }
