"""A connection to a server, as its client: request bytes in, head and body pieces out.

HTTP/1.1, one exchange after the other; httptools decides what the bytes mean. It knows no URL, no
pool, no retry and no clock: whoever holds connections decides which to use, how long to wait and
what to do when one is lost. HEAD and upgrades are not spoken. Called by `evidence/load.py`, which
holds its own, and by `pool.py`.
"""

import asyncio
import select
import ssl
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from paceline.terms.limits import ANSWER_HEADERS, HEAD_BYTES, SLICE_BYTES

Headers = list[tuple[bytes, bytes]]
"""Names in lower case."""

Lost = Literal["closed", "cut", "garbled", "aborted"]
"""Why an exchange has no whole answer: the server closed before the first byte of it, or within it;
what came is not HTTP; or we gave up."""

ANSWER_FROM = 200
"""Below are interim answers; the one that counts follows."""

BODYLESS = (204, 304)

FRAMED = frozenset({b"content-length", b"transfer-encoding"})
"""With one of them an answer has an end before that of its connection."""

VERSIONS = ("1.1", "1.0")

SPENT = HttpResponseParser(object())
"""In the place of a parser that is fed no more: it and its connection hold each other, and the
collector looks rarely."""


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

    __slots__ = (
        "__weakref__",
        "_begun",
        "_complete",
        "_head_bytes",
        "_headers",
        "_keep",
        "_look",
        "_on_closed",
        "_parser",
        "_paused",
        "_receiver",
        "_status",
        "_trailer_bytes",
        "_why",
        "transport",
        "trouble",
    )

    def __init__(self, on_closed: Callable[["ClientConnection"], None]) -> None:
        self._on_closed = on_closed
        self._parser = HttpResponseParser(self)
        self._receiver: Receiver | None = None
        self._headers: Headers = []
        self._head_bytes = 0
        """of what has come of this answer, while its head is not whole"""
        self._trailer_bytes = 0
        self._status = 0
        self._begun = False
        self._complete = False
        self._keep = False
        self._paused = False
        self._look: select.poll | None = None
        self._why: Lost | None = None
        self.trouble = ""
        """more of why it was lost, where more is known"""

    # --- What its holder tells

    @property
    def free(self) -> bool:
        """Whether it can take a request."""
        return self._receiver is None and not self.transport.is_closing()

    @property
    def has_more(self) -> bool:
        """Whether something waits to be read that the loop has not seen. On a connection that was
        asked nothing that is its end, or what nobody may trust. It costs a call of the system."""
        if self._look is None:
            socket = self.transport.get_extra_info("socket")
            self._look = select.poll()
            self._look.register(socket.fileno(), select.POLLIN)
        return bool(self._look.poll(0))

    def ask(self, request: bytes, receiver: Receiver, body: bytes = b"") -> None:
        """Sends a whole request: in `request`, or with a `body` behind it that need not be copied.
        The next may follow when this one's `end` is called, or later."""
        assert self._receiver is None, "one exchange at a time"
        self._receiver = receiver
        self._head_bytes = self._trailer_bytes = 0
        if len(body) <= SLICE_BYTES:
            self.transport.write(request + body)
        else:
            self.transport.writelines((request, body))

    def abort(self) -> None:
        """Ends the connection now; an exchange that runs is lost."""
        self._why = self._why or "aborted"
        self.transport.abort()

    def leave(self) -> None:
        """Ends the connection now, and whoever asked hears nothing more."""
        self._receiver = None
        self.transport.abort()

    def pause(self) -> None:
        """Reads nothing until `resume`, or the end: whoever passes a body on need not store it.
        What was read already still comes."""
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    # --- What its holder may hear, by writing these anew

    def ended(self) -> None:
        """An exchange is over, and its answer whole; its receiver is told next."""

    def lost(self, receiver: Receiver, why: Lost) -> None:
        """There is no whole answer, and never will be."""
        receiver.lost(why)

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
        except (HttpParserError, HttpParserUpgrade) as why:
            self._garbled(str(why.__context__ or why))
            return
        if self._complete:
            self._finish(self._keep)
        elif not self._begun and self._head_bytes > HEAD_BYTES:
            self._garbled("a head without an end")

    def eof_received(self) -> bool:
        if self._begun and self._ends_with_connection():
            self._finish(keep=False)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        receiver, self._receiver = self._receiver, None
        self._parser = SPENT
        if receiver is not None:
            if error is not None and not self.trouble:
                self.trouble = str(error)
            self.lost(receiver, self._why or ("cut" if self._head_bytes else "closed"))
        self._on_closed(self)

    # --- What the parser tells. The end is told when all that arrived is parsed: a second answer
    # behind it must not pass for the answer to the next request.

    def on_message_begin(self) -> None:
        self._headers = []
        if self._complete:
            raise HttpParserError("an answer that nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._begun:  # a trailer: dropped, but counted
            self._trailer_bytes += len(name) + len(value)
            if self._trailer_bytes > HEAD_BYTES:
                raise HttpParserError("trailers without an end")
            return
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        self._status = status = parser.get_status_code()
        receiver = self._receiver
        if status < ANSWER_FROM or receiver is None:
            return
        self._begun = True
        if parser.get_http_version() not in VERSIONS:
            raise HttpParserError("another version than HTTP/1.1")
        headers = self._headers
        if len(headers) > ANSWER_HEADERS:
            raise HttpParserError(f"more than {ANSWER_HEADERS} headers")
        if self._head_bytes > HEAD_BYTES and _bytes(headers) > HEAD_BYTES:
            raise HttpParserError("a head that is too long")
        receiver.head(status, headers)

    def on_body(self, piece: bytes) -> None:
        receiver = self._receiver
        if receiver is not None:
            receiver.body(piece)

    def on_message_complete(self) -> None:
        self._complete = self._status >= ANSWER_FROM
        self._keep = self._parser.should_keep_alive()  # right only in here

    # --- How

    def _finish(self, keep: bool) -> None:
        receiver, self._receiver = self._receiver, None
        self._begun = self._complete = False
        if not keep or self.transport.get_write_buffer_size():  # answered before it had read all
            self.transport.close()
        elif self._paused:
            self.resume()
        if receiver is not None:
            self.ended()
            receiver.end()

    def _ends_with_connection(self) -> bool:
        """The body has no length."""
        framed = any(name in FRAMED for name, _ in self._headers)
        return self._status not in BODYLESS and not framed

    def _garbled(self, trouble: str) -> None:
        self._why, self.trouble = "garbled", trouble
        self.transport.abort()


def _bytes(headers: Headers) -> int:
    return sum(len(name) + len(value) for name, value in headers)


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
