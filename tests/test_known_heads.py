"""A head that comes again is not parsed again: what is understood must be as if it had been."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.net.connection import Connection
from paceline.net.exchange import Exchange
from paceline.net.server import Connections

Seen = tuple[bytes, bytes, str, tuple[tuple[bytes, bytes], ...], bytes, bool]


class Sink:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.wrote = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.wrote += data

    def writelines(self, parts: Iterable[bytes]) -> None:
        self.wrote += b"".join(parts)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def understood(pieces: list[bytes], *, anew: bool) -> list[Seen]:
    """What a connection makes of such pieces; or, `anew`, a connection of its own of each."""
    seen: list[Seen] = []

    def hot(exchange: Exchange) -> Callable[[Exchange], None]:
        def whole(exchange: Exchange) -> None:
            seen.append(
                (
                    exchange.method,
                    exchange.target,
                    exchange.version,
                    tuple(sorted(exchange.headers)),
                    bytes(exchange.body),
                    exchange.keeps_alive,
                )
            )
            exchange.answer(200, b"", b"")

        return whole

    async def main() -> None:
        server = Connections(nobody, lambda: 0.0, lambda: 0.0, hot)

        def connect() -> Connection:
            connection = server._connection()
            connection.connection_made(Sink())  # type: ignore[arg-type]
            return connection

        one = connect()
        for piece in pieces:
            (connect() if anew else one).data_received(piece)

    asyncio.run(main())
    return seen


async def nobody(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("everything here is hot")


NAMES = st.sampled_from([b"content-type", b"x-request-id", b"accept", b"traceparent", b"x-a"])
VALUES = st.text("ab1 \t:", min_size=1, max_size=4).map(lambda text: text.strip().encode() or b"a")
BODIES = st.one_of(
    st.binary(min_size=1, max_size=30), st.sampled_from([b"\r\n", b"\r\n\r\n", b"12", b"0" * 120])
)
HEADS = st.lists(st.tuples(NAMES, VALUES), max_size=3)


def request(target: bytes, head: list[tuple[bytes, bytes]], body: bytes, style: int) -> bytes:
    length = [b"Content-Length: %d", b"content-length:%d", b"CONTENT-LENGTH: \t%d "][style % 3]
    lines = [b"%b: %b" % each for each in head]
    lines.insert(style % (len(lines) + 1), length % len(body))
    return b"POST %b HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n%b" % (target, b"\r\n".join(lines), body)


@given(
    HEADS,
    st.lists(st.tuples(st.sampled_from([b"/a", b"/b"]), BODIES), min_size=2, max_size=8),
    st.integers(0, 11),
)
@settings(deadline=None)
def test_requests_with_one_head_are_understood_as_if_each_were_the_first(
    head: list[tuple[bytes, bytes]], asked: list[tuple[bytes, bytes]], style: int
) -> None:
    pieces = [request(target, head, body, style) for target, body in asked]
    assert understood(pieces, anew=False) == understood(pieces, anew=True)
    assert len(understood(pieces, anew=False)) == len(asked)


@pytest.mark.parametrize("about", [10, 100, 1000])
def test_a_body_may_have_any_length(about: int) -> None:
    pieces = [
        request(b"/a", [], b"x" * size, 0) for size in (5, *range(about - 5, about + 5)) if size
    ]
    assert understood(pieces, anew=False) == understood(pieces, anew=True)
    assert len(understood(pieces, anew=False)) == len(pieces)


ONE = request(b"/a", [], b"hello", 0)


@pytest.mark.parametrize(
    "piece",
    [
        ONE + b"\r\n",
        ONE + ONE[:20],
        ONE.replace(b"Length: 5", b"Length: 05"),
        ONE.replace(b"Length: 5", b"Length: 5, 5"),
        ONE.replace(b"Length: 5", b"Length: +5"),
        ONE.replace(b"Length: 5", b"Length: 5 "),
        ONE.replace(b"Length: 5\r\n", b"Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        ONE[:-1],
        ONE + b"x",
    ],
)
def test_what_is_nearly_the_same_is_parsed(piece: bytes) -> None:
    assert understood([ONE, ONE, piece], anew=False) == [
        *understood([ONE, ONE], anew=False),
        *understood([piece], anew=True),
    ]


def test_bodies_of_any_number_of_lengths_are_told_apart() -> None:
    sizes = [*range(1, 120), 7, 5, 7]
    pieces = [request(b"/a", [], b"x" * size, 0) for size in sizes]
    assert [len(each[4]) for each in understood(pieces, anew=False)] == sizes
    assert understood(pieces, anew=False) == understood(pieces, anew=True)


def test_a_head_that_comes_again_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    parser = httptools.HttpRequestParser

    class Counting:
        def __init__(self, protocol: object) -> None:
            self._parser = parser(protocol)

        def feed_data(self, data: bytes) -> None:
            made.append(len(data))
            self._parser.feed_data(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._parser, name)

    monkeypatch.setattr(httptools, "HttpRequestParser", Counting)
    bodies = [b"a" * size for size in (1, 9, 10, 99, 100)]
    seen = understood([request(b"/a", [], body, 0) for body in bodies], anew=False)
    assert [each[4] for each in seen] == bodies
    assert len(made) == 1
