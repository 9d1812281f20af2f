"""Answers in pieces from a hot listener: what the caller reads, when, and who hears of what.

Most on one connection whose time the test tells; last, over real sockets with and without TLS.
"""

import asyncio
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h11
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from paceline.net.exchange import Exchange
from paceline.net.server import Connections
from paceline.terms.limits import CORK_BYTES, KEEP_ALIVE_S, REST_BYTES, SEND_S, SENT_LEAST_BYTES
from test_connections import get, post
from test_known_heads import nobody
from wired import HIGH_BYTES, Wire

ASK = get(b"/")


class Streaming(Wire):
    """A wire on which the test answers, and whose writes are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = True
        self.writes: list[bytes] = []
        self.heard: list[str] = []
        write = self.transport.write

        def counted(data: Any) -> None:
            self.writes.append(bytes(data))
            write(data)

        self.transport.write = counted  # type: ignore[method-assign]

    def begin(self, ask: bytes = ASK, status: int = 200) -> Exchange:
        self.say(ask)
        exchange = self.in_hand.pop()
        exchange.on_full = lambda: self.heard.append("full")
        exchange.on_room = lambda: self.heard.append("room")
        exchange.begin_answer(status, b"content-type: text/event-stream\r\n")
        return exchange

    def turn(self) -> None:
        self.loop.pass_s(0.0)


def body_of(said: bytes, method: str = "GET") -> tuple[bytes, bool]:
    """As another parser reads one answer; and whether it is whole. The end of the connection
    comes after it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(said)
    client.receive_data(b"")
    body = b""
    try:
        while True:
            event = client.next_event()
            if isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return body, True
    except h11.RemoteProtocolError:
        return body, False


Step = st.one_of(st.binary(max_size=50), st.just("turn"), st.just(CORK_BYTES))


@given(st.lists(Step, max_size=20), st.booleans(), st.sampled_from([b"1.0", b"1.1"]))
def test_the_caller_reads_what_was_written_and_whether_it_is_whole(
    steps: list[Any], cut: bool, version: bytes
) -> None:
    wire = Streaming()
    exchange = wire.begin(get(b"/", version=version))
    written = b""
    for step in steps:
        if step == "turn":
            wire.turn()
            continue
        piece = step if isinstance(step, bytes) else b"x" * step
        exchange.write(piece)
        written += piece
    if cut:
        exchange.cut_answer()
    else:
        exchange.finish_answer()
    wire.turn()
    body, whole = body_of(wire.said)
    assert body == written
    assert whole is (not cut or version == b"1.0")
    assert wire.is_over is (cut or version == b"1.0")
    assert wire.left == 0


def test_what_is_written_in_one_turn_goes_out_in_one_write_at_its_end() -> None:
    wire = Streaming()
    exchange = wire.begin()
    wire.turn()
    assert len(wire.writes) == 1  # the head did not wait for the body
    for _ in range(3):
        exchange.write(b"data: a\n\n")
        exchange.write(b"data: b\n\n")
        wire.turn()
    exchange.write(b"data: [DONE]\n\n")
    exchange.finish_answer()
    assert wire.writes[1] == b"12\r\ndata: a\n\ndata: b\n\n\r\n"
    assert wire.writes[4] == b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    wire.turn()
    assert len(wire.writes) == 5


def test_head_and_a_short_answer_are_one_write() -> None:
    wire = Streaming()
    exchange = wire.begin()
    exchange.write(b"a")
    exchange.finish_answer()
    wire.turn()
    assert len(wire.writes) == 1
    assert body_of(wire.said) == (b"a", True)


def test_much_in_one_turn_does_not_wait_for_its_end() -> None:
    wire = Streaming()
    exchange = wire.begin()
    exchange.write(b"x" * (CORK_BYTES + 1))
    assert len(wire.writes) == 1


def test_the_connection_goes_on_behind_an_answer_in_pieces() -> None:
    wire = Streaming()
    exchange = wire.begin(ASK + post(b"/b", b"body"))
    wire.turn()
    assert len(wire.asked) == 1  # one after the other
    exchange.write(b"one")
    exchange.finish_answer()
    wire.turn()
    assert wire.asked[1].body == b"body"
    wire.in_hand.pop().answer(200, b"", b"two")
    wire.begin(ASK).finish_answer()
    wire.loop.pass_s(KEEP_ALIVE_S - 1)
    assert not wire.is_over
    wire.loop.pass_s(1.1)
    assert wire.transport.lost
    assert wire.said.count(b"HTTP/1.1 200") == 3


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)], ids=str)
def test_where_there_is_no_body_none_is_said(method: str, status: int) -> None:
    wire = Streaming()
    exchange = wire.begin(ASK.replace(b"GET", method.encode()), status)
    exchange.write(b"nobody wants this")
    exchange.finish_answer()
    wire.turn()
    assert wire.said.endswith(b"\r\n\r\n")
    assert body_of(wire.said, method) == (b"", True)
    wire.begin()
    assert not wire.is_over


def test_a_front_that_leaves_says_so_or_ends_the_connection_after_the_answer() -> None:
    wire = Streaming()
    wire.connection.leave()
    exchange = wire.begin()
    exchange.finish_answer()
    assert b"connection: close\r\n" in wire.said
    assert wire.is_over
    wire = Streaming()
    exchange = wire.begin()
    exchange.write(b"a")
    wire.connection.leave()
    wire.turn()
    exchange.write(b"b")
    exchange.finish_answer()
    assert body_of(wire.said) == (b"ab", True)
    assert wire.is_over


def test_it_is_answered_once() -> None:
    wire = Streaming()
    exchange = wire.begin()
    exchange.answer(504, b"", b"too late")
    exchange.begin_answer(200, b"")
    exchange.write(b"a")
    exchange.finish_answer()
    exchange.finish_answer()
    exchange.cut_answer()
    exchange.write(b"b")
    wire.turn()
    assert wire.said.count(b"HTTP/1.1") == 1
    assert body_of(wire.said) == (b"a", True)
    assert not wire.is_over


# --- Who does not read, and who leaves ------------------------------------------------------------


def test_whoever_writes_hears_when_the_caller_takes_no_more_and_when_it_does_again() -> None:
    wire = Streaming()
    exchange = wire.begin()
    wire.transport.reads = False
    while not wire.heard:
        exchange.write(b"x" * 1000)
        wire.turn()
    assert wire.heard == ["full"]
    assert wire.transport.buffered < HIGH_BYTES + 2000
    exchange.write(b"the rest of a read")
    wire.turn()
    wire.transport.read()
    assert wire.heard == ["full", "room"]
    exchange.finish_answer()
    assert body_of(wire.said)[1]


def test_who_does_not_read_a_stream_is_cut_off_and_heard_to_have_left() -> None:
    wire = Streaming()
    exchange = wire.begin()
    wire.transport.reads = False
    exchange.write(b"x" * 2 * CORK_BYTES)
    wire.loop.pass_s(SEND_S - 1)
    assert wire.left == 0
    wire.loop.pass_s(1.1)
    assert wire.transport.aborted
    assert wire.left == 1
    said = wire.said
    exchange.write(b"for nobody")
    exchange.finish_answer()
    wire.turn()
    assert wire.said == said


def test_who_reads_slowly_but_steadily_is_not_however_much_is_added_meanwhile() -> None:
    wire = Streaming()
    exchange = wire.begin()
    wire.transport.reads = False
    exchange.write(b"x" * 10 * SENT_LEAST_BYTES)
    for _ in range(8):
        wire.loop.pass_s(SEND_S - 1)
        exchange.write(b"y" * SENT_LEAST_BYTES)
        wire.transport.read(SENT_LEAST_BYTES)
    assert not wire.transport.aborted
    wire.loop.pass_s(2 * SEND_S)
    assert wire.transport.aborted


def test_whoever_writes_on_though_nothing_is_taken_does_not_fill_the_memory() -> None:
    wire = Streaming()
    exchange = wire.begin()
    wire.transport.reads = False
    exchange.write(b"x" * 2 * CORK_BYTES)
    for _ in range(100):
        exchange.write(b"y" * CORK_BYTES)
        wire.turn()
    assert wire.transport.aborted
    assert wire.left == 1
    assert wire.transport.buffered < REST_BYTES + 5 * CORK_BYTES


def test_who_takes_what_is_there_now_and_then_may_have_as_much_again() -> None:
    wire = Streaming()
    exchange = wire.begin()
    wire.transport.reads = False
    for _ in range(10):
        for _ in range(REST_BYTES // CORK_BYTES):
            exchange.write(b"x" * CORK_BYTES)
            wire.turn()
        wire.transport.read()
    assert not wire.transport.aborted
    assert wire.heard == ["full", "room"] * 10


def test_what_was_written_before_a_cut_has_its_time_to_be_read() -> None:
    wire = Streaming()
    exchange = wire.begin()
    wire.transport.reads = False
    exchange.write(b"x" * 2 * CORK_BYTES)
    exchange.cut_answer()
    wire.loop.pass_s(SEND_S - 1)
    lost_before = wire.transport.lost
    wire.transport.read()
    assert (lost_before, wire.transport.lost, wire.transport.aborted) == (False, True, False)
    assert body_of(wire.said) == (b"x" * 2 * CORK_BYTES, False)
    assert wire.heard == ["full"]


@pytest.mark.parametrize("begun", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("gone_at_eof", [False, True])
def test_whether_a_caller_who_says_no_more_has_left_is_for_the_listener(
    begun: bool, gone_at_eof: bool
) -> None:
    wire = Streaming()
    wire.say(ASK)
    exchange = wire.in_hand.pop()
    exchange.gone_at_eof = gone_at_eof
    if begun:
        exchange.begin_answer(200, b"")
    wire.end()
    assert wire.left == gone_at_eof
    assert wire.transport.lost is gone_at_eof
    if not begun:
        exchange.begin_answer(200, b"")
    exchange.finish_answer()
    assert body_of(wire.said)[1] is not gone_at_eof or not wire.said
    assert wire.is_over


# --- Over sockets ---------------------------------------------------------------------------------


class Hearing:
    """A hot listener whose answers the test writes."""

    def __init__(self) -> None:
        self.exchanges: asyncio.Queue[Exchange] = asyncio.Queue()
        self.said: asyncio.Queue[str] = asyncio.Queue()

    def hot(self, exchange: Exchange) -> Callable[[Exchange], None]:
        exchange.gone_at_eof = True
        exchange.gone = lambda: self.said.put_nowait("gone")
        exchange.on_full = lambda: self.said.put_nowait("full")
        exchange.on_room = lambda: self.said.put_nowait("room")
        return self.exchanges.put_nowait


async def served(tls: ssl.SSLContext | None) -> tuple[Hearing, Connections, int]:
    hearing = Hearing()
    loop = asyncio.get_running_loop()
    connections = Connections(nobody, loop.time, lambda: 0.0, hearing.hot, tls)
    listener = socket.create_server(("127.0.0.1", 0))
    await connections.listen(listener)
    return hearing, connections, listener.getsockname()[1]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        f"-subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout {path} -out {path}.crt"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def contexts(
    request: pytest.FixtureRequest, certificate: Path
) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    if not request.param:
        return None, None
    serves = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serves.load_cert_chain(certificate)
    return serves, ssl.create_default_context(cafile=str(certificate))


def test_over_a_socket_a_stream_is_held_back_goes_on_and_is_left(
    contexts: tuple[ssl.SSLContext | None, ssl.SSLContext | None],
) -> None:
    serves, asks = contexts

    async def main() -> None:
        hearing, connections, port = await served(serves)
        name = "localhost" if asks else None
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=asks, server_hostname=name, limit=1000
        )
        writer.write(ASK)
        exchange = await hearing.exchanges.get()
        exchange.begin_answer(200, b"")
        written = 0
        while hearing.said.empty():
            exchange.write(b"x" * 50_000)
            written += 50_000
            await asyncio.sleep(0)
        assert await hearing.said.get() == "full"
        exchange.write(b"last")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"chunked" in head
        body = b""
        while not body.endswith(b"last"):
            size = int(await reader.readline(), 16)
            body += (await reader.readexactly(size + 2))[:-2]
        assert len(body) == written + 4
        assert await hearing.said.get() == "room"
        writer.transport.abort()
        assert await hearing.said.get() == "gone"
        exchange.write(b"nobody")
        connections.stop_listening()
        await connections.closed(5)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), 20))


def test_over_a_socket_several_connections_are_accepted_in_one_turn_of_the_loop() -> None:
    """Or whoever comes anew waits for as many turns, each full of what others ask."""

    async def main() -> None:
        hearing, connections, port = await served(None)
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        for client in clients:
            client.sendall(ASK)
        turns = 0
        while hearing.exchanges.qsize() < len(clients):
            await asyncio.sleep(0)
            turns += 1
        for client in clients:
            client.close()
        connections.stop_listening()
        await connections.closed(5)
        assert turns < len(clients)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), 20))


def test_over_a_socket_a_caller_who_closes_is_gone_before_anything_was_said() -> None:
    async def main() -> None:
        hearing, connections, port = await served(None)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ASK)
        await hearing.exchanges.get()
        writer.close()
        assert await hearing.said.get() == "gone"
        connections.stop_listening()
        await connections.closed(5)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), 20))
