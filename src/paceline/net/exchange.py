"""One request and its answer: what `connection.py` and those who answer share.

A hot listener answers once, in one of two ways, at once or whenever it likes:

    exchange.answer(200, headers, body)             # whole

    exchange.gone = stop                            # the caller has left: nobody hears the rest
    exchange.on_full, exchange.on_room = pause, resume
    exchange.begin_answer(200, headers)             # in pieces: in chunks, or for HTTP/1.0 until
    exchange.write(piece)                           # the connection ends
    exchange.finish_answer()                        # or cut_answer(): seen to be not whole

`headers` are lines, each with its end, without content-length, transfer-encoding and connection.
"""

from collections.abc import Callable
from typing import Any, Protocol

from paceline.terms.errors import PacelineError
from paceline.terms.limits import BODY_BYTES


class Wire(Protocol):
    """What the connection is for a hot listener."""

    memo: Any
    """for whoever answers: what it found out about the headers of this connection"""

    def within(self, seconds: float) -> None:
        """The body is to be there by then."""
        ...

    def answer(
        self,
        exchange: "Exchange",
        status: int,
        headers: bytes,
        parts: "tuple[bytes | bytearray | memoryview, ...]",
    ) -> None: ...

    def begin_answer(self, exchange: "Exchange", status: int, headers: bytes) -> None: ...


class Out(Protocol):
    """An answer in pieces (`pieces.py`)."""

    def write(self, piece: bytes) -> None: ...

    def finish(self) -> None: ...

    def cut(self) -> None: ...

    def room(self) -> None: ...

    def forget(self) -> None: ...


class Stream(Protocol):
    """What hears the body piece by piece, and answers in pieces."""

    @property
    def full(self) -> bool: ...

    def start(self) -> None: ...

    def piece(self, data: bytes) -> None: ...

    def end(self) -> None: ...

    def broken(self, error: PacelineError) -> None: ...

    def left(self) -> None: ...

    def writable(self) -> None: ...


Hot = Callable[["Exchange"], "Callable[[Exchange], None] | None"]
"""Asked with the head; what it returns is called with the body. None: not mine. It may also answer
at once, or set the bounds of the body: `body_most`, `until_s`."""


class Exchange:
    """One request and its answer. What most requests leave as it is stands with the class: one is
    made for every request, and each value that is set costs as much as a lookup."""

    version = "1.1"
    length = 0
    """of the body as it was announced; 0 also where it comes in chunks"""
    chunked = False
    expects = False
    keeps_alive = True
    head_bytes = 0
    received = 0
    """bytes of the body"""
    body: bytes | bytearray = b""
    body_most = BODY_BYTES
    complete = False
    """the whole body is there"""
    begun = False
    answered = False
    listener: "Callable[[Exchange], None] | None" = None
    """hears the whole body; then, nobody"""
    stream: Stream | None = None
    """hears each piece of the body instead"""
    fail: Callable[[PacelineError], None] | None = None
    """what answers if the body is too long, too late or broken; by default the connection"""
    out: Out | None = None
    """the answer in pieces, from its begin to its end"""
    gone: Callable[[], None] | None = None
    """hears that the caller has left before the end of the answer; after that, nobody hears more"""
    gone_at_eof = False
    """whether a caller who ends its half of the connection has left. Almost every client that gives
    up does just that, and cannot be told from one that still listens"""
    on_full: Callable[[], None] | None = None
    """hears that the caller does not take what was written; whoever goes on writing all the same
    may write REST_BYTES more, then the caller is cut off"""
    on_room: Callable[[], None] | None = None
    """hears that it does again"""

    def __init__(
        self,
        connection: Wire,
        method: bytes = b"",
        target: bytes = b"",
        steady_headers: list[tuple[bytes, bytes]] | None = None,
        own_headers: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        self.connection = connection
        self.method = method
        self.target = target
        self.steady_headers = [] if steady_headers is None else steady_headers
        self.own_headers = [] if own_headers is None else own_headers
        """the first mostly those of the request before, the second VARYING; names in lower case"""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return self.steady_headers + self.own_headers

    def answer(self, status: int, headers: bytes, *parts: "bytes | bytearray | memoryview") -> None:
        """The whole answer; `headers` are lines, each with its end. Once; a caller who has left
        misses it."""
        self.connection.answer(self, status, headers, parts)

    def begin_answer(self, status: int, headers: bytes) -> None:
        """The head of an answer in pieces, once, and not before the request's body is whole."""
        self.connection.begin_answer(self, status, headers)

    def write(self, piece: bytes) -> None:
        """More of the body; it goes out at the end of this turn of the loop."""
        if self.out is not None:
            self.out.write(piece)

    def finish_answer(self) -> None:
        """All of the body has been written."""
        if self.out is not None:
            self.out.finish()

    def cut_answer(self) -> None:
        """No more can come: what was written still goes out, then the connection ends, without
        the last chunk. A caller of HTTP/1.0 cannot tell that from an end."""
        if self.out is not None:
            self.out.cut()
