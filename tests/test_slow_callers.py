"""Callers who take their time, ask for more than they read, or come in thousands: what each costs,
and that the others are answered meanwhile.

First one connection whose time the test tells; then, in the slow suite, a real server, where bounds
that take seconds are shortened.
"""

import gc
import os
import re
import resource
import signal
import socket
import subprocess
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws import examples
from paceline.net.exchange import Exchange
from paceline.serve import digits
from paceline.terms.limits import (
    DEADLINE_S,
    DISCARD_BYTES,
    DISCARD_S,
    HEAD_S,
    IN_FLIGHT,
    KEEP_ALIVE_S,
    SEND_S,
    SENT_LEAST_BYTES,
    SLICE_BYTES,
    TURN_REQUESTS,
)
from servers import Server
from test_connections import PREDICT, ROW, Raw, get, post
from wired import HIGH_BYTES, Wire

READ_BYTES = 256 * 1024
"""What a loop reads at once, at most."""

ASK = get(b"/")
LONG = b"x" * 1024 * 1024


# --- Who speaks slowly ----------------------------------------------------------------------------


@pytest.mark.parametrize("before", [b"", ASK], ids=["first", "second"])
def test_a_head_has_its_time_however_often_a_byte_of_it_comes(before: bytes) -> None:
    wire = Wire().say(before)
    for second in range(int(HEAD_S) - 1):
        wire.say(ASK[second : second + 1]).loop.pass_s(1.0)
    assert not wire.is_over
    wire.loop.pass_s(1.1)
    assert wire.transport.lost
    assert len(wire.asked) == len(before[:1])


def test_a_head_that_comes_in_time_is_answered() -> None:
    wire = Wire()
    for byte in ASK:
        wire.say(bytes([byte])).loop.pass_s((HEAD_S - 1) / len(ASK))
    assert len(wire.asked) == 1


def test_empty_lines_are_no_beginning() -> None:
    for asked, most_s in ((b"", HEAD_S), (ASK, KEEP_ALIVE_S)):
        wire = Wire().say(asked)
        for _ in range(int(most_s) + 1):
            wire.say(b"\r\n").loop.pass_s(1.0)
        assert wire.transport.lost


def test_silence_has_its_bounds() -> None:
    wire = Wire()
    wire.loop.pass_s(HEAD_S - 1)
    assert not wire.is_over
    wire.loop.pass_s(1.1)
    assert wire.transport.lost
    wire = Wire().say(ASK)
    wire.loop.pass_s(KEEP_ALIVE_S - 1)
    wire.say(ASK).loop.pass_s(KEEP_ALIVE_S - 1)
    assert not wire.is_over
    wire.loop.pass_s(1.1)
    assert wire.transport.lost


def test_a_body_has_its_time_too_and_is_answered_at_its_end() -> None:
    wire = Wire(deadline_s=DEADLINE_S).say(post(b"/", LONG)[:100])
    for _ in range(int(DEADLINE_S) - 1):
        wire.say(b"x").loop.pass_s(1.0)
    assert not wire.said
    wire.loop.pass_s(1.1)
    assert wire.said.startswith(b"HTTP/1.1 504")
    assert b"connection: close" in wire.said
    wire.loop.pass_s(DISCARD_S)
    assert wire.transport.lost


def test_an_unread_answer_does_not_suspend_the_time_of_the_next_body() -> None:
    """The buffer fills exactly with the word that the body may come."""
    wire = Wire(answer=b"x" * (HIGH_BYTES - 60), deadline_s=DEADLINE_S)
    wire.transport.reads = False
    head = post(b"/", LONG, b"expect: 100-continue\r\n")[: -len(LONG)]
    wire.say(ASK).say(head)
    assert wire.said.endswith(b"100 Continue\r\n\r\n")
    wire.transport.read()
    wire.transport.reads = True
    wire.loop.pass_s(DEADLINE_S + 0.1)
    assert b"HTTP/1.1 504" in wire.said


# --- Who does not read ----------------------------------------------------------------------------


def test_who_reads_a_long_answer_slowly_but_steadily_hears_it_all() -> None:
    wire = Wire(answer=b"x" * 1_000_000)
    wire.transport.reads = False
    wire.say(ASK)
    for _ in range(10):
        wire.loop.pass_s(SEND_S - 1)
        wire.transport.read(SENT_LEAST_BYTES)
    assert not wire.transport.aborted
    wire.loop.pass_s(2 * SEND_S)
    assert wire.transport.aborted


def test_who_does_not_read_is_cut_off() -> None:
    wire = Wire(answer=LONG)
    wire.transport.reads = False
    wire.say(ASK).loop.pass_s(SEND_S - 1)
    assert not wire.transport.lost
    wire.loop.pass_s(1.1)
    assert wire.transport.aborted


def test_who_reads_late_goes_on() -> None:
    wire = Wire(answer=LONG)
    wire.transport.reads = False
    wire.say(ASK + ASK).loop.pass_s(SEND_S - 1)
    assert len(wire.asked) == 1
    wire.transport.read()
    assert len(wire.asked) == 2
    wire.transport.read()
    wire.loop.pass_s(KEEP_ALIVE_S - 1)
    assert not wire.is_over


@pytest.mark.parametrize("piece", [100, SLICE_BYTES, READ_BYTES])
@pytest.mark.parametrize(
    "flood",
    [ASK * 20_000, post(b"/", LONG) * 2, post(b"/", b"", b"transfer-encoding: chunked\r\n")],
    ids=["requests", "bodies", "garbage"],
)
def test_nothing_is_heard_from_who_does_not_read(flood: bytes, piece: int) -> None:
    wire = Wire(answer=LONG)
    wire.transport.reads = False
    wire.say(ASK)
    heard = 0
    while not wire.transport.paused and heard < len(flood):
        wire.say(flood[heard : heard + piece])
        heard += piece
    assert heard <= piece
    assert len(wire.asked) == 1


def test_the_last_answer_has_the_same_time_to_be_read() -> None:
    wire = Wire(answer=LONG)
    wire.transport.reads = False
    wire.say(get(b"/", b"connection: close\r\n"))
    wire.loop.pass_s(SEND_S / 2)
    wire.transport.read(len(LONG) - 1000)  # there is room again, and nobody to use it
    wire.loop.pass_s(SEND_S / 2 + 0.1)
    assert wire.transport.aborted


# --- Who says more than anybody wants -------------------------------------------------------------

REFUSED = post(b"/", LONG, b"transfer-encoding: gzip\r\n")


def test_what_follows_a_refusal_is_dropped_for_a_while_only() -> None:
    wire = Wire().say(REFUSED[:-1])
    assert wire.said.startswith(b"HTTP/1.1 400")
    assert wire.transport.ended
    for _ in range(10):
        wire.say(LONG).loop.pass_s(DISCARD_S / 10)
    assert wire.transport.lost
    wire = Wire().say(REFUSED)
    for _ in range(DISCARD_BYTES // len(LONG) + 1):
        wire.say(LONG)
    assert wire.transport.lost


def test_a_refusal_that_is_read_late_takes_no_longer() -> None:
    wire = Wire(answer=b"x" * (HIGH_BYTES - 300))
    wire.transport.reads = False
    wire.say(ASK).say(REFUSED)
    assert wire.transport.ended
    wire.loop.pass_s(DISCARD_S / 2)
    wire.transport.read()
    wire.loop.pass_s(DISCARD_S / 2 + 0.1)
    assert wire.transport.lost


def test_a_read_full_of_requests_is_answered_in_slices_with_others_in_between() -> None:
    """Each is answered at once: in one go they would hold up the loop for tenths of a second."""
    wire = Wire()
    wire.connection.data_received(ASK * (READ_BYTES // len(ASK)))
    slices = [len(wire.asked)]
    while wire.transport.paused:
        wire.loop.turn()
        slices.append(len(wire.asked) - sum(slices))
    assert sum(slices) == READ_BYTES // len(ASK)
    assert max(slices) <= TURN_REQUESTS


def test_whoever_has_no_more_to_say_still_listens_where_that_can_be() -> None:
    for has_halves in (True, False):
        wire = Wire()
        wire.waits = True
        wire.transport.has_halves = has_halves
        wire.say(ASK).end()
        assert wire.is_over is not has_halves


def test_what_was_held_is_answered_though_no_more_comes() -> None:
    wire = Wire()
    wire.waits = True
    wire.connection.data_received(ASK * 2000)
    wire.end()
    while wire.in_hand:
        wire.answer(wire.in_hand.pop())
        wire.loop.pass_s(0.0)
    assert len(wire.asked) == 2000
    assert wire.is_over


# --- What is over ---------------------------------------------------------------------------------


class Holding(Wire):
    """As inference does: who answers a request holds it, and is held by it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[weakref.ref[Exchange]] = []

    def hot(self, exchange: Exchange) -> Callable[[Exchange], None]:
        took = super().hot(exchange)
        exchange.fail = partial(self._failed, exchange)
        exchange.gone = partial(self._failed, exchange)
        self.seen.append(weakref.ref(exchange))
        return took

    def _failed(self, exchange: Exchange, *_: object) -> None:
        """Never called here."""


@pytest.mark.parametrize("is_lost", [False, True], ids=["answered", "left"])
def test_a_request_that_is_over_is_freed_at_once(is_lost: bool) -> None:
    """Bodies may be large, and a front's garbage collector hardly ever looks."""
    wire = Holding()
    wire.waits = is_lost
    gc.disable()
    try:
        wire.say(post(b"/", LONG), 100_000)
        if is_lost:
            wire.in_hand.clear()
            wire.transport.abort()
        assert wire.seen
        assert [each() for each in wire.seen] == [None] * len(wire.seen)
    finally:
        gc.enable()


@pytest.mark.parametrize("said", [b"", ASK, ASK[:20], post(b"/", LONG)[:100]])
def test_a_connection_that_is_over_is_freed_at_once(said: bytes) -> None:
    wire = Wire().say(said)
    seen = weakref.ref(wire.connection)
    gc.disable()
    try:
        wire.transport.abort()
        del wire.transport.protocol, wire.connection
        assert seen() is None
    finally:
        gc.enable()


# --- Whatever is done -----------------------------------------------------------------------------

steps = st.one_of(
    st.tuples(
        st.just("say"),
        st.sampled_from(
            [
                ASK,
                ASK[:20],
                ASK[20:],
                ASK * 600,
                post(b"/", b"abc"),
                post(b"/", b"abc")[:-2],
                post(b"/", b"x" * 100_000),
                get(b"/", b"transfer-encoding: chunked\r\n") + b"3\r\nab",
                get(b"/", b"connection: close\r\n"),
                get(b"/", b"expect: 100-continue\r\ncontent-length: 3\r\n"),
                REFUSED[:200],
                b"\r\n",
                b"abc",
            ]
        ),
    ),
    st.tuples(st.just("pass"), st.sampled_from([0.0, 0.5, 1.9, 5.0, 9.9, 30.0])),
    st.tuples(st.just("read"), st.sampled_from([1, 50_000, 1 << 30])),
    st.tuples(st.just("reads"), st.booleans()),
    st.tuples(st.just("answer"), st.integers(0, 3)),
    st.tuples(st.just("end"), st.just(0)),
    st.tuples(st.just("leave"), st.just(0)),
)


@examples(150)
@given(
    doings=st.lists(steps, max_size=25),
    waits=st.booleans(),
    size=st.sampled_from([2, 1000, 100_000]),
)
def test_no_connection_lives_for_ever(
    doings: list[tuple[str, object]], waits: bool, size: int
) -> None:
    """Whatever its caller did: once he does nothing more, and all is answered, it ends by itself.
    And each request is answered once, in its turn."""
    wire = Wire(answer=b"x" * size, deadline_s=DEADLINE_S)
    wire.waits = waits
    for what, how in doings:
        if what == "say":
            if wire.transport.paused or wire.transport.eof:
                continue
            assert isinstance(how, bytes)
            wire.say(how)
        elif what == "pass":
            assert isinstance(how, float)
            wire.loop.pass_s(how)
        elif what == "read":
            wire.transport.read(int(str(how)))
        elif what == "reads":
            wire.transport.reads = bool(how)
        elif what == "answer":
            for exchange in wire.in_hand[: int(str(how))]:
                wire.in_hand.remove(exchange)
                wire.answer(exchange)
        elif what == "end" and not wire.transport.eof:
            wire.end()
        elif what == "leave":
            wire.connection.leave()
    while wire.in_hand:
        wire.answer(wire.in_hand.pop(0))
        wire.loop.pass_s(0.0)
    wire.loop.pass_s(DEADLINE_S + DISCARD_S + SEND_S + HEAD_S + KEEP_ALIVE_S)
    while wire.in_hand:
        wire.answer(wire.in_hand.pop(0))
    wire.loop.pass_s(DEADLINE_S + DISCARD_S + SEND_S + HEAD_S + KEEP_ALIVE_S)
    assert wire.transport.lost
    finals = len(re.findall(rb"HTTP/1.1 [2-5]\d\d ", wire.said))
    assert finals <= len(wire.asked) + 1


# --- A real server --------------------------------------------------------------------------------

IDLE = 10_000
SPARE_DESCRIPTORS = 500
IDLE_BYTES = 16 * 1024
"""What an idle connection may cost its front. Printed is what it does."""
DEAF = 10
DEAF_BYTES = 2 * 1024 * 1024
"""The same for one that asks and asks, and does not read: a request, an answer, and the buffers."""
WAIT_S = 20.0

SHORTENED = """
import sys
if "_front" in sys.orig_argv:
    from paceline.terms import limits
    limits.HEAD_S, limits.SEND_S = 1.0, 0.5
"""


def shortened(folder: Path) -> dict[str, str]:
    (folder / "sitecustomize.py").write_text(SHORTENED)
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "state", "--drain-s", "1", environ=shortened(tmp_path)) as running:
        fronts = running.fronts
        yield running
        assert running.process.poll() is not None or running.fronts == fronts
    assert "inside Paceline" not in running.log.read_text()
    assert "does not answer" not in running.log.read_text()


def pss_bytes(pid: int) -> int:
    (said,) = re.findall(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    return int(said) * 1024


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def connected(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), WAIT_S)


def others_are_answered(server: Server, times: int = 20) -> None:
    for _ in range(times):
        answer = server.ask("POST", "/predict/digits", list(digits.SAMPLE_ROW), timeout_s=WAIT_S)
        assert answer.status == 200
        assert answer.json["outputs"]["label"] == digits.SAMPLE_LABEL


@pytest.mark.slow
def test_ten_thousand_idle_connections_at_one_front(server: Server) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    assert most >= IDLE + SPARE_DESCRIPTORS, "the shell's `ulimit -n` is too low for this test"
    (front,) = server.fronts
    others_are_answered(server)
    pss, held = pss_bytes(front), descriptors(front)
    idle = []
    for _ in range(IDLE):
        idle.append(connected(server))
        idle[-1].sendall(get(b"/health/live"))
    for each in idle:
        assert each.recv(4096).startswith(b"HTTP/1.1 200")
    each_bytes = (pss_bytes(front) - pss) / IDLE
    print(f"{each_bytes:.0f} bytes of the front for each of {IDLE} idle connections")
    assert IDLE - 1 <= descriptors(front) - held <= IDLE  # one of those before may be gone since
    assert each_bytes < IDLE_BYTES
    others_are_answered(server)
    server.process.send_signal(signal.SIGTERM)
    for each in idle:
        assert each.recv(4096) == b""
        each.close()
    server.process.wait(WAIT_S)


@pytest.mark.slow
def test_what_is_no_handshake_leaves_nothing(tmp_path: Path) -> None:
    """Neither what is no TLS at all, nor what never comes, nor in the front that then stops."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        f"-subj /CN=localhost -keyout {key} -out {cert}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    options = ("--tls-cert", str(cert), "--tls-key", str(key), "--drain-s", "1")
    with Server(tmp_path / "state", *options, environ=shortened(tmp_path)) as server:
        (front,) = server.fronts
        held = descriptors(front)
        for said in [get(b"/health/live")] * 500 + [b""] * 3:
            with suppress(ConnectionResetError), Raw(server) as raw:
                raw.say(said)
                raw.rest()
        assert descriptors(front) <= held
    assert "Traceback" not in server.log.read_text()


@pytest.mark.slow
def test_heads_that_do_not_come_end_and_hold_up_nobody(server: Server) -> None:
    (front,) = server.fronts
    others_are_answered(server)
    held = descriptors(front)
    half = [connected(server) for _ in range(1000)]
    for number, each in enumerate(half):
        each.sendall(get(b"/health/live")[: number % 40])
    others_are_answered(server)
    for each in half:
        assert each.recv(4096) == b""
        each.close()
    assert descriptors(front) <= held + 1


@pytest.mark.slow
@pytest.mark.parametrize("path", [b"/predict/digits", b"/api/plan/set"], ids=["hot", "page"])
def test_bodies_that_do_not_come_keep_nobody_out(server: Server, path: bytes) -> None:
    """Each is a request in hand, and there are more of them than may be."""
    slow = [connected(server) for _ in range(IN_FLIGHT + 100)]
    for each in slow:
        each.sendall(post(path, ROW)[:-1])
    others_are_answered(server)
    assert server.ask("GET", "/health/ready").status == 200
    assert slow[0].recv(4096).startswith(b"HTTP/1.1 503")
    slow[-1].sendall(ROW[-1:])
    assert slow[-1].recv(4096).startswith(b"HTTP/1.1 " + (b"200" if b"predict" in path else b"400"))
    for each in slow:
        each.close()
    others_are_answered(server)


ROWS = b"[" + b",".join([ROW] * 1000) + b"]"


@pytest.mark.slow
@pytest.mark.parametrize("asks", [get(b"/"), post(b"/predict/digits", ROWS)], ids=["page", "hot"])
def test_who_reads_nothing_is_cut_off_and_costs_little(server: Server, asks: bytes) -> None:
    """Requests for long answers, as many as go in, none of them read."""
    (front,) = server.fronts
    with ExitStack() as readers:  # who read cost memory too, once
        reading = [readers.enter_context(Raw(server)) for _ in range(DEAF)]
        for _ in range(10):
            for raw in reading:
                raw.heard = b""
                raw.say(asks)
            for raw in reading:
                raw.answers(1)
    pss, most = pss_bytes(front), 0
    flood = asks * 100
    deaf = {}
    for _ in range(DEAF):
        each = socket.socket()
        each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        each.connect(("127.0.0.1", server.port))
        each.setblocking(False)
        deaf[each] = 0
    give_up_s = time.monotonic() + WAIT_S
    while deaf:
        assert time.monotonic() < give_up_s, f"{len(deaf)} were not cut off"
        for each, said in list(deaf.items()):
            try:
                deaf[each] = said + each.send(flood[said % len(asks) :])
            except BlockingIOError:
                pass
            except ConnectionError:
                each.close()
                del deaf[each]
        most = max(most, pss_bytes(front) - pss)
        others_are_answered(server, 1)
    print(f"{most / DEAF / 1e6:.2f} MB of the front at most for each of {DEAF} who read nothing")
    assert most < DEAF * DEAF_BYTES


@pytest.mark.slow
@pytest.mark.parametrize(
    "request_",
    [get(b"/health/live"), post(b"/predict/nothing", b""), PREDICT],
    ids=["page", "refused", "hot"],
)
def test_a_flood_of_tiny_requests_does_not_starve_others(server: Server, request_: bytes) -> None:
    """Those that are answered at once once held a front for so long that it was killed for it."""
    flood = request_ * (1024 * 1024 // len(request_))
    with Raw(server) as raw:
        raw.socket.setblocking(False)
        said, heard = 0, 0
        with Raw(server) as other:
            for _ in range(100):
                for _ in range(20):
                    with suppress(BlockingIOError):
                        said += raw.socket.send(flood[said % len(request_) :])
                    with suppress(BlockingIOError):
                        heard += len(raw.socket.recv(1 << 20))
                other.say(PREDICT)
                assert other.answers(1)[0].startswith(b"200")
                other.heard = b""
    assert said > len(flood) / 4
    assert heard


@pytest.mark.slow
def test_many_floods_at_once_do_not_either(server: Server) -> None:
    """One connection's share of a turn may be small, and two hundred of them not."""
    flood = post(b"/predict/nothing", b"") * 3000
    with ExitStack() as callers, Raw(server) as other:
        flooding = [callers.enter_context(Raw(server)) for _ in range(200)]
        said = dict.fromkeys(flooding, 0)
        for raw in flooding:
            raw.socket.setblocking(False)
        for _ in range(50):
            for raw in flooding:
                with suppress(BlockingIOError):
                    said[raw] += raw.socket.send(flood[said[raw] % len(flood) :])
                with suppress(BlockingIOError):
                    raw.socket.recv(1 << 18)
            other.say(PREDICT)
            assert other.answers(1)[0].startswith(b"200")
            other.heard = b""
    assert min(said.values())
