"""A connection to a server, as its client: request bytes in, head and body pieces out.

HTTP/1.1, one exchange after the other; httptools decides what the bytes mean. It knows no URL, no
pool, no retry and no clock: whoever holds connections decides which to use, how long to wait and
what to do when one is lost. HEAD and upgrades are not spoken. Called by `evidence/load.py`.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from paceline.terms.limits import HEAD_BYTES

Headers = list[tuple[bytes, bytes]]
"""Names in lower case."""

Lost = Literal["closed", "cut", "garbled", "aborted"]
"""Why an exchange has no whole answer: the server closed before the first byte of it, or within it;
what came is not HTTP; or we gave up."""

ANSWER_FROM = 200
"""Below are interim answers; the one that counts follows."""

BODYLESS = (204, 304)


class Receiver(Protocol):
    """Hears one answer: a head, pieces of a body, an end; or at any point that it was lost, after
    which nothing comes. Called by the loop, so nothing here may wait."""

    def head(self, status: int, headers: Headers) -> None: ...

    def body(self, piece: bytes) -> None: ...

    def end(self) -> None: ...

    def lost(self, why: Lost) -> None: ...


class Origin(NamedTuple):
    """Where a server is. `tls` is None for plain HTTP; `name` is what its certificate must say."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    name: str | None = None


class ClientConnection(asyncio.Protocol):
    """From connect to close; `on_closed` hears the close once, after a receiver that waited."""

    def __init__(self, on_closed: Callable[["ClientConnection"], None]) -> None:
        self._on_closed = on_closed
        self._parser = HttpResponseParser(self)
        self._receiver: Receiver | None = None
        self._headers: Headers = []
        self._head_bytes = 0
        self._status = 0
        self._begun = False
        self._to_close = False
        """The body has no length: it ends with the connection."""
        self._complete = False
        self._keep = False
        self._why: Lost | None = None

    # --- What its holder tells

    @property
    def free(self) -> bool:
        """Whether it can take a request."""
        return self._receiver is None and not self.transport.is_closing()

    def ask(self, request: bytes, receiver: Receiver) -> None:
        """Sends a whole request. The next may follow when this one's `end` is called, or later."""
        assert self._receiver is None, "one exchange at a time"
        self._receiver = receiver
        self._head_bytes = 0
        self.transport.write(request)

    def abort(self) -> None:
        """Ends the connection now; an exchange that runs is lost."""
        self._why = self._why or "aborted"
        self.transport.abort()

    def pause(self) -> None:
        """Reads nothing until `resume`: whoever passes a body on need not store it."""
        self.transport.pause_reading()

    def resume(self) -> None:
        self.transport.resume_reading()

    # --- What the loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._receiver is None:  # nobody asked for this: what follows could not be trusted
            self.transport.abort()
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._garbled()
            return
        if self._complete:
            self._finish(self._keep)
        elif not self._begun and self._head_bytes > HEAD_BYTES:
            self._garbled()

    def eof_received(self) -> bool:
        if self._begun and self._to_close:
            self._finish(keep=False)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.lost(self._why or ("cut" if self._head_bytes else "closed"))
        self._on_closed(self)

    # --- What the parser tells. The end is told when all that arrived is parsed: a second answer
    # behind it must not pass for the answer to the next request.

    def on_message_begin(self) -> None:
        self._headers = []
        if self._complete:
            raise HttpParserError("an answer that nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._status < ANSWER_FROM or self._receiver is None:
            return
        self._begun = True
        self._to_close = self._status not in BODYLESS and not any(
            name in (b"content-length", b"transfer-encoding") for name, _ in self._headers
        )
        self._receiver.head(self._status, self._headers)

    def on_body(self, piece: bytes) -> None:
        if self._receiver is not None:
            self._receiver.body(piece)

    def on_message_complete(self) -> None:
        self._complete = self._status >= ANSWER_FROM
        self._keep = self._parser.should_keep_alive()  # right only in here

    # --- How

    def _finish(self, keep: bool) -> None:
        receiver, self._receiver = self._receiver, None
        self._begun = self._complete = False
        if not keep:
            self.transport.close()
        if receiver is not None:
            receiver.end()

    def _garbled(self) -> None:
        self._why = "garbled"
        self.transport.abort()


async def connect(
    origin: Origin, on_closed: Callable[[ClientConnection], None]
) -> ClientConnection:
    """An OSError where nobody answers; that includes a certificate that does not fit."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: ClientConnection(on_closed),
        origin.host,
        origin.port,
        ssl=origin.tls,
        server_hostname=origin.name if origin.tls else None,
    )
    return connection
