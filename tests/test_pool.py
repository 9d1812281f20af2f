"""The pool of upstream connections, without sockets and in a time of its own: who gets which
connection, when it ends, and that in no order of events anybody hears too much or anything stays.

Over real sockets: `test_upstream.py`.
"""

import asyncio
import gc
import socket
import weakref
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws import examples
from paceline.net.client import ClientConnection, Headers
from paceline.net.pool import Asked, Lost, Pool
from paceline.terms.limits import (
    HEAD_BYTES,
    UPSTREAM_IDLE_S,
    UPSTREAM_OPENING,
    UPSTREAM_TLS_IDLE_S,
    UPSTREAM_WAITING,
)
from wired import FakeLoop

OK = b"HTTP/1.1 200 OK\r\n"
HOUR_S = 3600.0


@cache
def sockets() -> tuple[socket.socket, socket.socket]:
    """One from which nothing can be read, and one that is at its end."""
    (quiet, other), (ended, closed) = socket.socketpair(), socket.socketpair()
    closed.close()
    OPEN.extend((quiet, other, ended))
    return quiet, ended


OPEN: list[socket.socket] = []


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    for each in OPEN:
        each.close()


class Server(asyncio.Transport):
    """The other end of one connection, at the place of its transport."""

    def __init__(self, loop: FakeLoop, line: ClientConnection) -> None:
        super().__init__()
        self.loop = loop
        self.line = line
        self.asked: list[bytes] = []
        self.unsaid = b""
        """what the client does not read, as it has paused"""
        self.paused = False
        self.closing = False
        self.over = False
        self.untaken = 0
        """bytes of a request that the server has not read"""
        self.unseen_end = False
        """it has closed, and the loop has not told of it"""
        line.connection_made(self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return sockets()[self.unseen_end] if name == "socket" else default

    def get_write_buffer_size(self) -> int:
        return self.untaken

    def write(self, data: Any) -> None:
        assert not self.closing, "asked on a connection that is over"
        self.asked.append(bytes(data))

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def pause_reading(self) -> None:
        assert not self.closing
        self.paused = True

    def resume_reading(self) -> None:
        assert not self.closing
        self.paused = False
        said, self.unsaid = self.unsaid, b""
        self.loop.call_soon(self.say, said)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        self.lose(None)

    def lose(self, error: Exception | None) -> None:
        if not self.closing:
            self.closing = True
            self.loop.call_soon(self._lost, error)

    def _lost(self, error: Exception | None) -> None:
        self.over = True
        self.line.connection_lost(error)

    def say(self, data: bytes) -> None:
        if self.paused:
            self.unsaid += data
        elif data and not self.closing:
            self.line.data_received(data)

    def end(self) -> None:
        if not self.closing and not self.paused and not self.line.eof_received():
            self.close()

    def answer(self, body: bytes = b"ok", headers: bytes = b"") -> None:
        self.say(OK + headers + b"content-length: %d\r\n\r\n" % len(body) + body)


class Servers:
    """The dialer: connections come when the test says so."""

    def __init__(self, loop: FakeLoop, *, tls: bool = False) -> None:
        self.loop = loop
        self.tls = object() if tls else None
        self.dialing: list[tuple[Callable[[], ClientConnection], Callable[..., None]]] = []
        self.servers: list[Server] = []
        self.learnt: list[ClientConnection] = []

    def dial(
        self,
        make: Callable[[], ClientConnection],
        told: Callable[[ClientConnection | None, str], None],
    ) -> None:
        self.dialing.append((make, told))

    def learn(self, connection: ClientConnection) -> None:
        self.learnt.append(connection)

    def accept(self) -> Server:
        make, told = self.dialing.pop(0)
        server = Server(self.loop, make())
        self.servers.append(server)
        told(server.line, "")
        return server

    def accept_and_close(self) -> None:
        """Before whoever dialed hears of it."""
        make, told = self.dialing.pop(0)
        server = Server(self.loop, make())
        self.servers.append(server)
        server.close()
        self.loop.pass_s(0.0)
        told(server.line, "")

    def refuse(self) -> None:
        self.dialing.pop(0)[1](None, "connection refused")

    async def close(self) -> None:
        self.dialing.clear()


class Heard:
    """A receiver that writes down what it hears, and may act upon it."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.does: Callable[[str], None] = lambda event: None
        self.deaf = False
        """it has stopped"""

    def _hear(self, event: str, *said: Any) -> None:
        assert not self.deaf, f"{event} after stop"
        assert "end" not in self.said
        assert not any(isinstance(each, tuple) for each in self.said), f"{event} after lost"
        self.said += said or [event]
        self.does(event)

    def head(self, status: int, headers: Headers) -> None:
        self._hear("head", status)

    def body(self, piece: bytes) -> None:
        self._hear("body", piece)

    def end(self) -> None:
        self._hear("end")

    def lost(self, why: Lost, detail: str) -> None:
        assert detail
        self._hear("lost", ("lost", why))

    @property
    def over(self) -> bool:
        return bool(self.said) and (self.said[-1] == "end" or isinstance(self.said[-1], tuple))


class Bench:
    """A pool with its servers."""

    def __init__(self, *, tls: bool = False, most: int = 3) -> None:
        self.loop = FakeLoop()
        self.servers = Servers(self.loop, tls=tls)
        self.pool = Pool(self.servers, lambda: self.loop.now_s, most=most, loop=self.loop)

    def ask(self, name: bytes = b"a", within_s: float = HOUR_S) -> tuple[Asked, Heard]:
        heard = Heard()
        asked = self.pool.ask(name, b"", heard, self.loop.now_s + within_s)
        assert not heard.said, "told before ask returned"
        return asked, heard

    def turn(self) -> None:
        self.loop.pass_s(0.0)


def test_a_free_connection_is_used_again_the_most_recent_first() -> None:
    bench = Bench()
    for _ in range(3):
        bench.ask()
    first, second, third = (bench.servers.accept() for _ in range(3))
    for server in (third, first, second):
        server.answer()
    assert bench.pool.idle == 3
    asked, heard = bench.ask(b"again")
    assert asked.reused
    assert second.asked == [b"a", b"again"]
    second.answer(b"body")
    assert heard.said == [200, b"body", "end"]
    assert bench.pool.open == 3


def test_one_that_was_never_used_is_fresh() -> None:
    bench = Bench()
    asked, _ = bench.ask()
    asked.stop()
    bench.servers.accept()
    assert bench.pool.idle == 1
    asked, _ = bench.ask()
    assert not asked.reused


def test_no_more_are_opened_than_may_be_and_the_others_wait_their_turn() -> None:
    bench = Bench(most=2)
    heard = [bench.ask(b"%d" % number)[1] for number in range(5)]
    assert len(bench.servers.dialing) == 2
    one, two = bench.servers.accept(), bench.servers.accept()
    assert bench.pool.waiting == 3
    assert not bench.servers.dialing
    two.answer()
    one.answer()
    assert (one.asked, two.asked) == ([b"0", b"3"], [b"1", b"2"])
    one.lose(ConnectionResetError(104, "reset by peer"))
    bench.turn()
    assert heard[3].said == [("lost", "closed")]
    assert len(bench.servers.dialing) == 1
    assert bench.servers.accept().asked == [b"4"]


def test_so_many_are_opened_at_once_and_so_many_wait() -> None:
    bench = Bench(most=10_000)
    heard = [bench.ask()[1] for _ in range(UPSTREAM_WAITING + 1)]
    assert len(bench.servers.dialing) == UPSTREAM_OPENING
    bench.turn()
    assert heard[-1].said == [("lost", "unreachable")]
    assert bench.pool.waiting == UPSTREAM_WAITING
    bench.servers.accept()
    assert len(bench.servers.dialing) == UPSTREAM_OPENING


def test_each_try_that_fails_ends_one_who_waits() -> None:
    bench = Bench(most=2)
    heard = [bench.ask()[1] for _ in range(3)]
    bench.servers.refuse()
    assert [each.said for each in heard] == [[("lost", "unreachable")], [], []]
    bench.servers.accept_and_close()
    bench.servers.refuse()
    assert all(each.said == [("lost", "unreachable")] for each in heard)
    assert not bench.servers.dialing
    assert bench.pool.open == 0


def test_a_connection_that_the_server_closed_is_not_used() -> None:
    bench = Bench()
    bench.ask()
    server = bench.servers.accept()
    server.answer()
    server.end()
    bench.ask(b"other")  # before the loop has told of it
    assert server.asked == [b"a"]
    bench.turn()
    assert bench.pool.open == bench.pool.idle == 0
    assert bench.servers.accept().asked == [b"other"]


def test_a_head_that_comes_in_one_piece_has_the_same_bound() -> None:
    bench = Bench()
    _, heard = bench.ask()
    server = bench.servers.accept()
    server.answer(headers=b"x: %b\r\n" % (b"y" * (HEAD_BYTES // 2)))
    assert heard.said == [200, b"ok", "end"]
    _, heard = bench.ask()
    server.answer(headers=b"x: %b\r\n" % (b"y" * HEAD_BYTES))
    bench.turn()
    assert heard.said == [("lost", "garbled")]


def test_nor_one_that_it_closed_a_moment_ago() -> None:
    """Whatever keeps the loop busy may come before it tells of that."""
    bench = Bench()
    bench.ask()
    server = bench.servers.accept()
    server.answer()
    bench.loop.pass_s(0.1)
    server.unseen_end = True
    bench.ask(b"other")
    assert server.asked == [b"a"]
    assert server.closing
    assert bench.servers.accept().asked == [b"other"]


@pytest.mark.parametrize("said", [b"x", OK + b"content-length: 0\r\n\r\n"])
def test_nor_one_on_which_something_came_that_nobody_asked_for(said: bytes) -> None:
    bench = Bench()
    bench.ask()
    server = bench.servers.accept()
    server.answer()
    server.say(said)
    _, heard = bench.ask(b"other")
    assert server.asked == [b"a"]
    assert bench.servers.accept().asked == [b"other"]
    assert heard.said == []


def test_nor_one_whose_server_has_not_read_the_whole_request() -> None:
    bench = Bench()
    _, heard = bench.ask()
    server = bench.servers.accept()
    server.untaken = 10
    server.answer(b"too large")
    assert heard.said == [200, b"too large", "end"]
    assert server.closing


@pytest.mark.parametrize("tls", [False, True])
def test_what_is_not_needed_is_closed_in_time(tls: bool) -> None:
    idle_s = UPSTREAM_TLS_IDLE_S if tls else UPSTREAM_IDLE_S
    bench = Bench(tls=tls)
    for _ in range(2):
        bench.ask()
    first, second = bench.servers.accept(), bench.servers.accept()
    first.answer()
    second.answer()
    bench.loop.pass_s(idle_s - 0.1)
    bench.ask()
    second.answer()
    bench.loop.pass_s(0.2)
    assert (first.over, second.over) == (True, False)
    bench.loop.pass_s(idle_s)
    assert second.over
    assert bench.pool.open == 0
    assert len(bench.servers.learnt) == 2  # once for each


@pytest.mark.parametrize("where", ["opening", "waiting", "sent", "head", "body"])
def test_the_deadline_ends_it_wherever_it_is(where: str) -> None:
    bench = Bench(most=1)
    if where == "waiting":
        bench.ask(b"first")
        bench.servers.accept()
    _, heard = bench.ask(within_s=2.0)
    if where in ("sent", "head", "body"):
        server = bench.servers.accept()
        server.say({"sent": b"", "head": OK, "body": OK + b"content-length: 9\r\n\r\nab"}[where])
    bench.loop.pass_s(1.9)
    assert not heard.over
    bench.loop.pass_s(0.2)
    assert heard.said[-1] == ("lost", "late")
    if where in ("sent", "head", "body"):
        assert bench.servers.servers[-1].over
    assert bench.pool.waiting == 0


def test_what_is_late_already_is_not_sent() -> None:
    bench = Bench()
    bench.ask()
    server = bench.servers.accept()
    server.answer()
    _, heard = bench.ask(b"late", within_s=0.0)
    bench.turn()
    assert heard.said == [("lost", "late")]
    assert server.asked == [b"a"]


def test_deadlines_cost_one_timer_however_many_requests_there_are() -> None:
    bench = Bench()
    timers = 0
    call_later = bench.loop.call_later

    def counted(*given: Any) -> Any:
        nonlocal timers
        timers += 1
        return call_later(*given)

    bench.loop.call_later = counted  # type: ignore[method-assign,assignment]
    bench.ask()
    server = bench.servers.accept()
    server.answer()
    for _ in range(1000):
        bench.ask()
        server.answer()
        bench.loop.pass_s(0.001)
    assert timers < 5


def test_stop_ends_the_connection_at_once_and_nothing_more_is_heard() -> None:
    bench = Bench()
    asked, heard = bench.ask()
    server = bench.servers.accept()
    server.say(OK + b"content-length: 100\r\n\r\nab")
    asked.stop()
    asked.stop()
    assert server.closing
    server.say(b"more")
    bench.turn()
    assert heard.said == [200, b"ab"]
    assert bench.pool.open == 0


def test_whoever_stops_within_what_is_heard_hears_nothing_more() -> None:
    bench = Bench()
    asked, heard = bench.ask()
    heard.does = lambda event: asked.stop()
    server = bench.servers.accept()
    server.say(OK + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n")
    bench.turn()
    assert heard.said == [200]
    assert server.over
    assert bench.pool.idle == 0


def test_pause_holds_back_and_a_connection_is_given_back_reading() -> None:
    bench = Bench()
    asked, heard = bench.ask()
    asked.pause()  # before there is a connection
    server = bench.servers.accept()
    server.answer(b"one")
    assert heard.said == []
    asked.resume()
    bench.turn()
    assert heard.said == [200, b"one", "end"]
    asked, heard = bench.ask()
    heard.does = lambda event: asked.pause()
    server.answer(b"two")
    assert heard.over  # it had been read already
    assert not server.paused
    asked.resume()
    asked.pause()
    assert not server.paused  # it is not this one's any more


def test_whoever_has_its_end_may_ask_again_at_once_on_the_same_connection() -> None:
    bench = Bench(most=1)
    _, heard = bench.ask()
    more: list[Asked] = []

    def again(event: str) -> None:
        if event == "end":
            more.append(bench.ask(b"again")[0])

    heard.does = again
    server = bench.servers.accept()
    server.answer()
    assert server.asked == [b"a", b"again"]
    assert more[0].reused


def test_a_connection_that_is_over_is_freed_at_once() -> None:
    """In a process whose garbage collector looks rarely."""
    loop = FakeLoop()
    line = ClientConnection(lambda gone: None)
    server, seen = Server(loop, line), weakref.ref(line)
    gc.disable()
    try:
        server.abort()
        loop.turn()
        del line, server.line
        assert seen() is None
    finally:
        gc.enable()


def test_a_long_body_goes_out_behind_its_head() -> None:
    bench = Bench()
    bench.pool.ask(b"head", b"x" * 1_000_000, Heard(), bench.loop.now_s + 1)
    assert b"".join(bench.servers.accept().asked) == b"head" + b"x" * 1_000_000


# --- Any order of events --------------------------------------------------------------------------

PIECES = (
    b"HTTP/1.1 100 Continue\r\n\r\n",
    OK,
    OK + b"content-length: 4\r\n\r\n",
    OK + b"content-length: 4\r\n\r\nbody",
    OK + b"content-length: 0\r\nconnection: close\r\n\r\n",
    OK + b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
    OK + b"\r\nuntil the end",
    b"4\r\nbody\r\n0\r\n\r\n",
    b"body",
    b"0\r\n\r\n",
    OK + b"content-length: 4\r\n\r\nbody" + OK,
)
ACTS = ("ask", "stop", "pause", "resume", "accept", "flee", "refuse", "say", "end", "reset", "pass")
MOODS = ("nothing", "stop", "pause", "resume", "ask")
Steps = st.lists(
    st.tuples(st.sampled_from(ACTS), st.integers(0, 10), st.integers(0, 10)), max_size=40
)


@examples(200)
@given(Steps)
def test_in_no_order_of_events_is_anybody_told_twice_or_is_anything_left(
    steps: list[tuple[str, int, int]],
) -> None:
    bench = Bench(most=2)
    loop, servers, pool = bench.loop, bench.servers, bench.pool
    everybody: list[tuple[Asked, Heard]] = []

    def ask(mood: str, within_s: float) -> None:
        asked, heard = bench.ask(b"%d" % len(everybody), within_s)
        everybody.append((asked, heard))

        def does(event: str) -> None:
            if mood == "stop":
                stop(asked, heard)
            elif mood == "pause":
                asked.pause()
            elif mood == "resume":
                asked.resume()
            elif mood == "ask" and event in ("end", "lost") and len(everybody) < 100:
                ask("nothing", HOUR_S)

        heard.does = does

    def stop(asked: Asked, heard: Heard) -> None:
        heard.deaf = True
        asked.stop()

    for act, which, how in steps:
        if act == "ask":
            ask(MOODS[how % len(MOODS)], (0.0, 0.01, 1.0, HOUR_S)[which % 4])
        elif act == "stop" and everybody:
            stop(*everybody[which % len(everybody)])
        elif act == "pause" and everybody:
            everybody[which % len(everybody)][0].pause()
        elif act == "resume" and everybody:
            everybody[which % len(everybody)][0].resume()
        elif act == "accept" and servers.dialing:
            servers.accept()
        elif act == "flee" and servers.dialing:
            servers.accept_and_close()
        elif act == "refuse" and servers.dialing:
            servers.refuse()
        elif act in ("say", "end", "reset") and servers.servers:
            server = servers.servers[-1 - which % min(3, len(servers.servers))]
            if act == "say":
                server.say(PIECES[how])
            elif act == "end":
                server.end()
            else:
                server.lose(ConnectionResetError(104, "reset by peer"))
        elif act == "pass":
            loop.pass_s((0.0, 0.02, 2.0, 10.0)[how % 4])
        assert pool.open + len(servers.dialing) <= 2 + sum(s.closing for s in servers.servers)
        for server in servers.servers:
            busy = cast(Any, server.line).asked is not None
            assert not busy or server.closing or not server.line.free

    loop.pass_s(0.0)
    while servers.dialing:
        servers.refuse()
    loop.pass_s(2 * HOUR_S)
    while servers.dialing:  # those who asked again
        servers.refuse()
    loop.pass_s(2 * HOUR_S)
    assert pool.open == pool.idle == pool.waiting == 0
    assert all(server.over for server in servers.servers)
    for asked, heard in everybody:
        assert heard.over or heard.deaf
        assert cast(Any, asked).line is None
    sent = [each for server in servers.servers for each in server.asked]
    assert len(sent) == len(set(sent)), "a request was sent twice"
