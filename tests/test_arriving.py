"""Bodies that arrive slowly, all together: what they hold has a bound, and the oldest gives way."""

import asyncio
from collections.abc import Callable

import pytest

from paceline.net import server as module
from paceline.net.connection import Connection
from paceline.net.exchange import Exchange
from paceline.net.server import Connections
from paceline.terms.limits import INFER_BODY_BYTES
from test_known_heads import Sink, nobody

HEAD = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n"


def test_the_oldest_gives_way_where_all_together_hold_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ARRIVING_BYTES", 40_000)
    whole: list[bytes] = []

    def hot(exchange: Exchange) -> Callable[[Exchange], None]:
        exchange.body_most = INFER_BODY_BYTES

        def told(exchange: Exchange) -> None:
            whole.append(bytes(exchange.body))
            exchange.answer(200, b"", b"")

        return told

    async def main() -> list[bytes]:
        server = Connections(nobody, lambda: 0.0, lambda: 0.0, hot)
        sinks = [Sink() for _ in range(3)]
        connections = [Connection(server) for _ in sinks]
        for connection, sink in zip(connections, sinks, strict=True):
            connection.connection_made(sink)  # type: ignore[arg-type]
            connection.data_received(HEAD)
        for connection in connections:
            for _ in range(15):
                connection.data_received(b"x" * 1000)
        for _ in range(35):  # alone it may be as long as one body may
            connections[2].data_received(b"x" * 1000)
        return [sink.wrote[:12] for sink in sinks]

    said = asyncio.run(main())
    assert said == [b"HTTP/1.1 503", b"HTTP/1.1 503", b"HTTP/1.1 200"]
    assert whole == [b"x" * 50_000]
