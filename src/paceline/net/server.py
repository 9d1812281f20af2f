"""Accepted connections, answered by one ASGI application: HTTP/1.1 by h11, one request at a time.

h11 decides what the bytes mean, without I/O; here are the socket, the bounds and the order. A
connection reads no further than the request in hand: what a caller sends beyond it waits in the
kernel, so pipelining costs no memory and answers cannot overtake each other. Whatever cannot be
understood is answered once, and ends the connection. Not a server: who listens, drains and stops is
decided in `web/`, which calls this for fronts and owner alike.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import unquote

import h11
from starlette.types import ASGIApp, Message, Scope

from paceline.net.answers import Headers, error_body, error_headers
from paceline.terms.errors import BadRequest
from paceline.terms.limits import (
    CONNECTION_BACKLOG,
    DISCARD_BYTES,
    DISCARD_S,
    HEAD_BYTES,
    HEAD_S,
    KEEP_ALIVE_S,
    SEND_S,
)

logger = logging.getLogger(__name__)

Wall = Callable[[], float]
"""Unix seconds, for the Date header."""

CLOSE = (b"connection", b"close")
REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


class Connection(asyncio.Protocol):
    """From accept to close. One task reads, answers and reads again; `leave` makes it the last."""

    def __init__(self, app: ASGIApp, wall: Wall, on_lost: Callable[["Connection"], None]) -> None:
        self._app = app
        self._wall = wall
        self._on_lost = on_lost
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._head = b""
        self._method = b""
        self._between_requests = False
        self._leaving = False
        self._discard_bytes: int | None = None

    # --- What the loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        if self._discard_bytes is not None:
            self._discard_bytes -= len(data)
            if self._discard_bytes < 0:
                self.transport.abort()
            return
        self.transport.pause_reading()  # until all of it is understood
        self._http.receive_data(data)
        self._arrived.set()

    def eof_received(self) -> bool:
        if self._discard_bytes is None:
            self._http.receive_data(b"")
            self._arrived.set()
            return True  # whoever has no more to say may still listen
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._writable.set()
        self._task.cancel()
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # --- What the server tells

    def leave(self) -> None:
        """No request after the one in hand, or after the first if none has come yet."""
        self._leaving = True
        if self._between_requests and not self._http.trailing_data[0]:
            self.transport.close()

    # --- One request after the other

    async def _serve(self) -> None:
        try:
            within_s = HEAD_S
            while (request := await self._next_request(within_s)) is not None:
                self._between_requests = False
                await self._app(_scope(request), self._receive, self._send)
                if not await self._goes_on():
                    break
                self._between_requests = True
                within_s = KEEP_ALIVE_S
        except TimeoutError:
            pass  # silent for too long, or discarded enough
        except h11.RemoteProtocolError as error:
            await self._refuse(error)
        except Exception:  # the last resort: the application answers its own errors
            logger.exception("a connection failed inside Paceline")
            self.transport.abort()
        finally:
            self.transport.close()
            if self.transport.get_write_buffer_size():
                asyncio.get_running_loop().call_later(SEND_S, self.transport.abort)

    async def _next_request(self, within_s: float) -> h11.Request | None:
        """None when the caller has closed. Once the first byte is there, the head has HEAD_S."""
        async with asyncio.timeout(within_s):
            event = self._http.next_event()
            while event is h11.NEED_DATA and not self._http.trailing_data[0]:
                await self._more()
                event = self._http.next_event()
        async with asyncio.timeout(HEAD_S):
            while event is h11.NEED_DATA:
                await self._more()
                event = self._http.next_event()
        if isinstance(event, h11.Request):
            self._method = event.method
            _check(event)
            return event
        return None

    async def _receive(self) -> Message:
        """The next piece of the body. After its end there is nothing but the end of this task."""
        if self._http.their_state is not h11.SEND_BODY:
            await asyncio.get_running_loop().create_future()
        if self._http.they_are_waiting_for_100_continue:
            self._write(h11.InformationalResponse(status_code=100, headers=[], reason=REASONS[100]))
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                await self._more()
        except h11.RemoteProtocolError as error:
            raise _not_http(error) from error
        if isinstance(event, h11.Data):
            return {"type": "http.request", "body": bytes(event.data), "more_body": True}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start(message["status"], list(message.get("headers", ())))
            return
        out, self._head = self._head, b""
        body = message.get("body", b"")
        if body and self._method != b"HEAD":
            out += self._http.send(h11.Data(data=body)) or b""
        if not message.get("more_body", False):
            out += self._http.send(h11.EndOfMessage()) or b""
        if out and not self.transport.is_closing():
            self.transport.write(out)
            await self._flushed()

    def _start(self, status: int, headers: Headers) -> None:
        self._skip_arrived_body()
        if self._leaving or self._http.their_state in (h11.SEND_BODY, h11.ERROR):
            headers.append(CLOSE)  # where the body ends is not known, so nothing can follow it
        headers.append((b"server", b"paceline"))
        headers.append((b"date", formatdate(self._wall(), usegmt=True).encode()))
        response = h11.Response(status_code=status, headers=headers, reason=REASONS[status])
        self._head = self._http.send(response) or b""

    async def _goes_on(self) -> bool:
        """Whether another request may follow. An answer that was cut short ends the connection."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            return not self._leaving
        if self._http.our_state in (h11.DONE, h11.MUST_CLOSE):
            await self._discard_rest()
        else:
            self.transport.abort()
        return False

    # --- Bytes

    async def _more(self) -> None:
        """Until more has arrived."""
        self._arrived.clear()
        if not self.transport.is_closing():
            self.transport.resume_reading()
        await self._arrived.wait()

    async def _flushed(self) -> None:
        """Until there is room again; a caller who does not read is cut off, this task with it."""
        if not self._writable.is_set():
            loop = asyncio.get_running_loop()
            cut = loop.call_later(SEND_S, self.transport.abort)
            try:
                await self._writable.wait()
            finally:
                cut.cancel()

    def _write(self, event: h11.Event) -> None:
        if not self.transport.is_closing():
            self.transport.write(self._http.send(event) or b"")

    def _skip_arrived_body(self) -> None:
        """An answer before the body was read: what is there already need not end the connection."""
        try:
            while self._http.their_state is h11.SEND_BODY:
                if self._http.next_event() is h11.NEED_DATA:
                    return
        except h11.RemoteProtocolError:
            return  # the connection ends with this answer

    async def _discard_rest(self) -> None:
        """Closing over unread bytes resets the connection, and the answer could be lost with it."""
        if self._http.their_state not in (h11.SEND_BODY, h11.ERROR):
            return
        self.transport.write_eof()
        self._discard_bytes = DISCARD_BYTES
        self.transport.resume_reading()
        async with asyncio.timeout(DISCARD_S):
            await asyncio.get_running_loop().create_future()  # until the caller closes

    async def _refuse(self, error: h11.RemoteProtocolError) -> None:
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        refusal = _not_http(error)
        body = error_body(refusal)
        headers = [*error_headers(refusal, body), CLOSE]
        status = error.error_status_hint if error.error_status_hint > 400 else refusal.http
        self._write(h11.Response(status_code=status, headers=headers, reason=REASONS[status]))
        if self._method != b"HEAD":
            self._write(h11.Data(data=body))
        self._write(h11.EndOfMessage())
        with suppress(TimeoutError):
            await self._discard_rest()


def _check(request: h11.Request) -> None:
    """What h11 lets pass, and two parsers in a row could understand differently."""
    names = {name for name, _ in request.headers}
    if {b"content-length", b"transfer-encoding"} <= names:
        raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")
    if request.http_version not in (b"1.0", b"1.1"):
        raise h11.RemoteProtocolError("a version other than 1.0 and 1.1", error_status_hint=505)
    if not request.target.startswith(b"/") and request.target != b"*":
        raise h11.RemoteProtocolError("the target is not a path")


def _not_http(error: h11.RemoteProtocolError) -> BadRequest:
    return BadRequest(
        f"the request is not valid HTTP/1.1: {error}",
        remedy="Send it with an HTTP client; in a head or a chunk every byte counts.",
    )


def _scope(request: h11.Request) -> Scope:
    path, _, query = request.target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": request.http_version.decode(),
        "method": request.method.decode(),
        "scheme": "http",
        "path": unquote(path.decode()),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": list(request.headers),
        "client": None,
        "server": None,
        "state": {},
    }


class Connections:
    """Every connection that one ASGI application answers."""

    def __init__(self, app: ASGIApp, wall: Wall) -> None:
        self._app = app
        self._wall = wall
        self._open: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._leaving = False
        self._lost = asyncio.Event()

    async def listen(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._connection, sock=listener, backlog=CONNECTION_BACKLOG
        )

    async def adopt(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(self._connection, accepted)

    def stop_listening(self) -> None:
        """Closes our handle of the listening socket; whoever else holds it goes on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def leave(self) -> None:
        """Closes connections between two requests; the others close after their next answer."""
        self._leaving = True
        for connection in list(self._open):
            connection.leave()

    async def closed(self, within_s: float) -> None:
        """Returns when every last answer is on its way; a caller who does not read is cut off."""
        try:
            async with asyncio.timeout(within_s):
                while self._open:
                    self._lost.clear()
                    await self._lost.wait()
        except TimeoutError:
            for connection in list(self._open):
                connection.transport.abort()

    def _connection(self) -> Connection:
        connection = Connection(self._app, self._wall, self._on_lost)
        self._open.add(connection)
        if self._leaving:
            connection.leave()
        return connection

    def _on_lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._lost.set()
