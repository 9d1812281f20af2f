"""One request and its answer: what `connection.py` and those who answer share."""

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
    gone: Callable[[], None] | None = None
    """hears that the caller has left before the answer"""

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
