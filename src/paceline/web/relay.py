"""Calls that the owner answers, passed on over its Unix socket and back, streams included.

Only what a caller may say to the owner passes: method, path, query, body and who it is; headers
do not. The owner may take its time, but not RELAY_S without a word. Called by the fronts' routes.
"""

import asyncio
from urllib.parse import quote

import h11
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from paceline.processes.state_dir import socket_address
from paceline.terms.errors import OwnerGone
from paceline.terms.limits import RELAY_CHUNK_BYTES, RELAY_S
from paceline.web.body import read_body
from paceline.web.caller import CALLER_HEADER, REQUEST_ID_HEADER, told

NO_BODY = frozenset({"GET", "HEAD"})
PASSED_BACK = (
    b"content-type",
    b"content-length",
    b"cache-control",
    b"content-security-policy",
    b"x-frame-options",
    b"allow",
    b"retry-after",
)


class Relay:
    """The way to one owner, by the directory its socket is in."""

    def __init__(self, state_directory_fd: int) -> None:
        self._address = socket_address(state_directory_fd)

    async def __call__(self, http: HttpRequest) -> Response:
        body = b"" if http.method in NO_BODY else await read_body(http)
        try:
            async with asyncio.timeout(RELAY_S):
                reader, writer = await asyncio.open_unix_connection(self._address)
        except (OSError, TimeoutError):
            raise owner_gone() from None
        call = _Call(reader, writer)
        try:
            call.ask(http, body)
            return _Answer(call, await call.head())
        except BaseException:
            call.close()
            raise


class _Call:
    """One request to the owner and its answer, on a connection of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._http = h11.Connection(h11.CLIENT)
        self._reader = reader
        self._writer = writer
        self._may_be_done = False

    def ask(self, http: HttpRequest, body: bytes) -> None:
        caller = http.scope["state"]["caller"]
        query = http.scope["query_string"]
        target = quote(http.scope["path"]).encode() + (b"?" + query if query else b"")
        headers = [
            ("host", "owner"),
            ("connection", "close"),
            (CALLER_HEADER, told(caller.key_id or caller.role)),
            (REQUEST_ID_HEADER, http.scope["state"]["request_id"]),
            ("content-length", str(len(body))),
        ]
        request = h11.Request(method=http.method, target=target, headers=headers)
        for event in (request, h11.Data(data=body), h11.EndOfMessage()):
            self._writer.write(self._http.send(event) or b"")
        self._may_be_done = http.method not in NO_BODY

    async def head(self) -> h11.Response:
        event = await self._next()
        assert isinstance(event, h11.Response), event
        return event

    async def piece(self) -> bytes | None:
        """The next piece of the body; None at its end."""
        event = await self._next()
        return bytes(event.data) if isinstance(event, h11.Data) else None

    def close(self) -> None:
        self._writer.close()

    async def _next(self) -> h11.Event:
        """The owner never stays silent for long: what streams, streams each second."""
        try:
            async with asyncio.timeout(RELAY_S):
                while (event := self._http.next_event()) is h11.NEED_DATA:
                    self._http.receive_data(await self._reader.read(RELAY_CHUNK_BYTES))
        except (OSError, TimeoutError, h11.RemoteProtocolError):
            raise owner_gone(may_be_done=self._may_be_done) from None
        assert isinstance(event, h11.Event), event
        return event


class _Answer(Response):
    """Sends the owner's answer on as it comes. When the caller leaves, this task is cancelled."""

    def __init__(self, call: _Call, head: h11.Response) -> None:
        self._call = call
        self._head = head
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in self._head.headers if name in PASSED_BACK]
        status = self._head.status_code
        try:
            await send({"type": "http.response.start", "status": status, "headers": headers})
            while (piece := await self._call.piece()) is not None:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})
        finally:
            self._call.close()


def owner_gone(*, may_be_done: bool = False) -> OwnerGone:
    doubt = "It may have been done: `paceline journal tail` tells. " if may_be_done else ""
    return OwnerGone(
        "the owner process does not answer",
        remedy=f"{doubt}Try again; if it stays so, start Paceline again, and read in the log why.",
    )
