"""Calls that the owner answers, passed on over its Unix socket and back, streams included.

Only what a caller may say to the owner passes: method, path, query, body and who it is; headers
do not. Called by the fronts' routes.
"""

import asyncio
from urllib.parse import quote

import httptools
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from paceline.processes.state_dir import socket_address
from paceline.terms.errors import OwnerGone
from paceline.terms.limits import RELAY_CHUNK_BYTES, RELAY_S
from paceline.web.body import read_body

CALLER_HEADER = "x-paceline-caller"
PASSED_BACK = (b"content-type", b"cache-control", b"content-security-policy", b"x-frame-options")


class Relay:
    """The way to one owner, by the directory its socket is in."""

    def __init__(self, state_directory_fd: int) -> None:
        self._address = socket_address(state_directory_fd)

    async def __call__(self, http: HttpRequest) -> Response:
        request = _request_bytes(http, await read_body(http))
        answer = _Answer()
        try:
            async with asyncio.timeout(RELAY_S):
                reader, writer = await asyncio.open_unix_connection(self._address)
                try:
                    writer.write(request)
                    while not answer.head_complete:
                        answer.feed(await reader.read(RELAY_CHUNK_BYTES))
                except BaseException:
                    writer.close()
                    raise
        except (OSError, TimeoutError):
            raise owner_gone() from None
        return _Stream(answer, reader, writer)


class _Answer:
    """The owner's response as httptools parses it."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.headers: list[tuple[bytes, bytes]] = []
        self.head_complete = False
        self.complete = False
        self._body = bytearray()

    @property
    def status(self) -> int:
        return int(self._parser.get_status_code())

    def feed(self, data: bytes) -> None:
        if not data:
            raise owner_gone()
        self._parser.feed_data(data)

    def take_body(self) -> bytes:
        body, self._body = bytes(self._body), bytearray()
        return body

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in PASSED_BACK:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.head_complete = True

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.complete = True


class _Stream(Response):
    """Sends the owner's answer on as it comes, until it ends or the caller leaves."""

    def __init__(
        self, answer: _Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._answer = answer
        self._reader = reader
        self._writer = writer
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._answer
        watcher = asyncio.ensure_future(_until_disconnected(receive))
        watcher.add_done_callback(lambda _: self._writer.close())
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": answer.status,
                    "headers": answer.headers,
                }
            )
            while not answer.complete:
                await send(
                    {"type": "http.response.body", "body": answer.take_body(), "more_body": True}
                )
                data = await self._reader.read(RELAY_CHUNK_BYTES)
                if not data and watcher.done():
                    return
                answer.feed(data)
            await send({"type": "http.response.body", "body": answer.take_body()})
        finally:
            watcher.cancel()
            self._writer.close()


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def owner_gone() -> OwnerGone:
    return OwnerGone(
        "the owner process does not answer",
        remedy="Start Paceline again; the log of the old one says why it ended.",
    )


def _request_bytes(http: HttpRequest, body: bytes) -> bytes:
    target = quote(http.url.path) + (f"?{http.url.query}" if http.url.query else "")
    caller = http.scope["state"]["caller"]
    method = "GET" if http.method == "HEAD" else http.method  # our own server drops the body
    lines = [
        f"{method} {target} HTTP/1.1",
        "host: owner",
        "connection: close",
        f"{CALLER_HEADER}: {caller.key_id or caller.role}",
    ]
    if body:
        lines += [f"content-length: {len(body)}", "content-type: application/json"]
    return "\r\n".join([*lines, "", ""]).encode() + body
