"""Upstreams over real sockets: what they may do wrong, TLS, names and addresses, leaving.

Each server here does one thing, whatever it is asked. What needs no socket is in `test_pool.py`.
"""

import asyncio
import socket
import ssl
import struct
import subprocess
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from paceline.net import dialing, guard
from paceline.net.client import Headers
from paceline.net.dialing import Dialer
from paceline.net.pool import Asked, Lost, Pool
from paceline.net.trust import trust
from paceline.terms.errors import BadSetting
from paceline.terms.limits import ANSWER_HEADERS, HEAD_BYTES, RESOLVED_S

OK = b"HTTP/1.1 200 OK\r\n"
ONE = OK + b"content-length: 1\r\n\r\n1"
ASK = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
ONCE = OK + b"connection: close\r\ncontent-length: 1\r\n\r\n1"
WAIT_S = 30.0
GONE_S = 5.0
"""Then a connection whose end nobody tells of is left alone."""

FLOOD_BYTES = 20_000_000
"""More than all buffers hold."""


class Heard:
    def __init__(self) -> None:
        self.said: list[Any] = []
        self.headers: Headers = []
        self.detail = ""
        self.first = asyncio.Event()
        self.over = asyncio.Event()

    def head(self, status: int, headers: Headers) -> None:
        assert not self.over.is_set()
        self.said.append(status)
        self.headers = headers
        self.first.set()

    def body(self, piece: bytes) -> None:
        assert not self.over.is_set()
        if isinstance(self.said[-1], bytearray):
            self.said[-1] += piece
        else:
            self.said.append(bytearray(piece))

    def end(self) -> None:
        self._end("end")

    def lost(self, why: Lost, detail: str) -> None:
        self.detail = detail
        self._end(why)

    def _end(self, how: str) -> None:
        assert not self.over.is_set()
        self.said.append(how)
        self.over.set()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Place:
    """A pool, and a server that it asks."""

    def __init__(self, ca_file: Path | None) -> None:
        self.ca_file = ca_file
        self.now_s = 0.0
        """beyond the loop's time"""
        self._stack = AsyncExitStack()
        self._serving: set[asyncio.Task[None]] = set()
        self.accepted = 0
        self.came = asyncio.Event()
        self.ssl: list[Any] = []
        """of each connection that was accepted"""

    async def __aenter__(self) -> "Place":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def listen(self, serve: Serve, tls: ssl.SSLContext | None = None) -> int:
        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._serving.add(task)
            self.accepted += 1
            self.ssl.append(writer.get_extra_info("ssl_object"))
            self.came.set()
            try:
                with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    await serve(reader, writer)
            finally:
                writer.close()
                with suppress(ConnectionError, ssl.SSLError, TimeoutError):
                    await asyncio.wait_for(writer.wait_closed(), GONE_S)
                self._serving.discard(task)

        if tls is None and self.ca_file is not None:
            tls = serving_tls(self.ca_file)
        server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=tls, backlog=512)
        self._stack.push_async_callback(self._stop, server)
        return int(server.sockets[0].getsockname()[1])

    async def _stop(self, server: asyncio.Server) -> None:
        server.close()

    async def all_gone(self) -> None:
        """The servers have seen the end of every connection, or made it."""
        while self._serving:
            await asyncio.wait(self._serving)

    def now(self) -> float:
        return self.now_s + asyncio.get_running_loop().time()

    def pool(self, port: int, host: str = "localhost", **options: Any) -> Pool:
        options.setdefault("tls", self.ca_file is not None)
        options.setdefault("ca_file", str(self.ca_file or ""))
        pool = Pool(Dialer(host, port, self.now, **options), self.now)
        self._stack.push_async_callback(pool.close)
        return pool

    def ask(self, pool: Pool, within_s: float = WAIT_S) -> tuple[Asked, Heard]:
        heard = Heard()
        return pool.ask(ASK, b"", heard, self.now() + within_s), heard

    async def answer(self, pool: Pool, within_s: float = WAIT_S) -> list[Any]:
        _, heard = self.ask(pool, within_s)
        await heard.over.wait()
        return heard.said


def run(main: Callable[[Place], Coroutine[Any, Any, None]], ca_file: Path | None = None) -> None:
    async def whole() -> None:
        async with Place(ca_file) as place:
            await asyncio.wait_for(main(place), WAIT_S)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())


def says(*pieces: bytes, close: bool = False) -> Serve:
    """To each request, however many pieces; then it closes, or waits for the next."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if close:
                return

    return serve


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With its key; it is its own authority."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


def make_certificate(folder: Path, name: str = "localhost") -> Path:
    both, cert = folder / "both.pem", folder / "cert.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        f"-subj /CN={name} -addext subjectAltName=DNS:{name} -keyout {both} -out {cert}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    both.write_bytes(both.read_bytes() + cert.read_bytes())
    return both


def serving_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def ca_file(request: pytest.FixtureRequest, certificate: Path) -> Path | None:
    return certificate if request.param else None


# --- Answers --------------------------------------------------------------------------------------

CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "heard"),
    [
        (ONE, [200, b"1", "end"]),
        (OK + b"content-length: 0\r\n\r\n", [200, "end"]),
        (b"HTTP/1.1 204 None\r\n\r\n", [204, "end"]),
        (b"HTTP/1.1 304 Same\r\ncontent-length: 9\r\n\r\n", [304, "end"]),
        (b"HTTP/1.1 307 There\r\nlocation: http://a/\r\ncontent-length: 0\r\n\r\n", [307, "end"]),
        (CHUNKED + b"2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n", [200, b"abc", "end"]),
        (CHUNKED + b"2\r\nab\r\n0\r\nx-sum: 1\r\n\r\n", [200, b"ab", "end"]),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + ONE, [200, b"1", "end"]),
        (b"HTTP/1.1 103 Hints\r\nlink: </a>\r\n\r\n" + ONE, [200, b"1", "end"]),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n" + ONE[len(OK) :], [200, b"1", "end"]),
    ],
)
def test_an_answer_is_whole_however_it_comes_and_its_connection_serves_again(
    sent: bytes, heard: list[Any]
) -> None:
    async def main(place: Place) -> None:
        for pieces in ([sent], [bytes([byte]) for byte in sent]):
            pool = place.pool(await place.listen(says(*pieces)))
            place.accepted = 0
            for _ in range(3):
                _, hearing = place.ask(pool)
                await hearing.over.wait()
                assert hearing.said == heard
                assert all(name != b"x-sum" for name, _ in hearing.headers)
            assert place.accepted == pool.open == pool.idle == 1

    run(main)


LONG = b"x: " + b"y" * (HEAD_BYTES - 100)


@pytest.mark.parametrize(
    ("sent", "heard"),
    [
        (OK + b"connection: close\r\ncontent-length: 1\r\n\r\n1", [200, b"1", "end"]),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n1", [200, b"1", "end"]),
        (OK + b"\r\nuntil the end", [200, b"until the end", "end"]),
        (b"", ["closed"]),
        (b"HTTP/1.1 100 Continue\r\n\r\n", ["cut"]),
        (b"HTTP/1.1 2", ["cut"]),
        (OK + b"content-length: 5\r\n\r\nab", [200, b"ab", "cut"]),
        (CHUNKED + b"2\r\nab\r\n", [200, b"ab", "cut"]),
        (CHUNKED + b"2\r\nab\r\n0\r\n", [200, b"ab", "cut"]),
        (b"<html>a body without a head</html>", ["garbled"]),
        (b"HTTP/2.0 200 OK\r\n\r\n", ["garbled"]),
        (b"\x16\x03\x01\x00\xff", ["garbled"]),
        (CHUNKED + b"zz\r\n", [200, "garbled"]),
        (OK + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", ["garbled"]),
        (OK + b"content-length: -1\r\n\r\n", ["garbled"]),
        (b"HTTP/1.1 101 Up\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", ["garbled"]),
        (ONE + ONE, [200, b"1", "garbled"]),
        (OK + b"a: b\r\n" * (ANSWER_HEADERS + 1) + b"\r\n", ["garbled"]),
        (OK + LONG + b"\r\n" + LONG + b"\r\ncontent-length: 0\r\n\r\n", ["garbled"]),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 5000, ["garbled"]),
        (CHUNKED + b"0\r\n" + b"x: y\r\n" * 50_000, [200, "garbled"]),
    ],
)
def test_a_connection_that_ends_or_cannot_be_trusted_is_told_and_not_used_again(
    sent: bytes, heard: list[Any], ca_file: Path | None
) -> None:
    async def main(place: Place) -> None:
        pool = place.pool(await place.listen(says(sent, close=True)))
        for number in range(2):
            assert await place.answer(pool) == heard
            assert place.accepted == number + 1
            assert pool.idle == 0

    run(main, ca_file)


def test_a_body_that_ends_with_the_connection_is_whole_only_if_tls_ends_too(
    certificate: Path,
) -> None:
    """Who cuts the wire could else cut the answer."""

    async def cutting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"\r\nuntil")
        await asyncio.sleep(0.01)
        writer.transport.abort()

    async def main(place: Place) -> None:
        pool = place.pool(await place.listen(cutting))
        assert await place.answer(pool) == [200, b"until", "cut"]

    run(main, certificate)


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def half_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write_eof()
    await reader.read()


@pytest.mark.parametrize("serve", [reset, half_closed])
def test_a_server_that_goes_without_a_word_is_told_as_closed(serve: Serve) -> None:
    async def main(place: Place) -> None:
        pool = place.pool(await place.listen(serve))
        asked, heard = place.ask(pool)
        await heard.over.wait()
        assert heard.said == ["closed"]
        assert heard.detail
        assert not asked.reused

    run(main)


def test_one_that_never_answers_is_late_and_one_that_is_slow_is_not(ca_file: Path | None) -> None:
    async def main(place: Place) -> None:
        silent = place.pool(await place.listen(says()))
        assert await place.answer(silent, 0.05) == ["late"]
        slow = place.pool(await place.listen(says(OK + b"content-length: 2\r\n\r\n1")))
        assert await place.answer(slow, 0.05) == [200, b"1", "late"]
        await place.all_gone()

    run(main, ca_file)


def test_a_connection_closed_while_it_was_idle_is_replaced(ca_file: Path | None) -> None:
    async def main(place: Place) -> None:
        pool = place.pool(await place.listen(says(ONE, close=True)))
        for number in range(5):
            asked, heard = place.ask(pool)
            await heard.over.wait()
            assert heard.said == [200, b"1", "end"]
            assert not asked.reused
            assert place.accepted == number + 1
            await place.all_gone()
            place.now_s += 1.0  # the loop has not told of it yet

    run(main, ca_file)


def test_many_requests_at_once_each_hear_their_own_answer(ca_file: Path | None) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            name = head.split(b" ")[1]
            writer.write(OK + b"content-length: %d\r\n\r\n" % len(name) + name)

    async def main(place: Place) -> None:
        pool = place.pool(await place.listen(echo))
        for _ in range(3):
            hearing = [Heard() for _ in range(200)]
            for number, heard in enumerate(hearing):
                pool.ask(ASK.replace(b"/", b"/%d" % number, 1), b"", heard, place.now() + WAIT_S)
            for number, heard in enumerate(hearing):
                await heard.over.wait()
                assert heard.said == [200, b"/%d" % number, "end"]
        assert pool.idle <= pool.open <= 200

    run(main, ca_file)


# --- Leaving, and holding back --------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True], ids=["plain", "stream"])
def test_stop_is_seen_by_the_upstream_within_a_tenth_of_a_second(
    begun: bool, ca_file: Path | None
) -> None:
    async def main(place: Place) -> None:
        got, seen = asyncio.Event(), asyncio.Event()

        async def working(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            if begun:
                writer.write(CHUNKED + b"1\r\na\r\n")
            got.set()
            try:
                assert await reader.read() == b""
            finally:
                seen.set()

        pool = place.pool(await place.listen(working))
        asked, heard = place.ask(pool)
        await (heard.first if begun else got).wait()
        asked.stop()
        await asyncio.wait_for(seen.wait(), 0.1)
        assert heard.said == ([200, b"a"] if begun else [])
        assert pool.idle == 0

    run(main, ca_file)


def test_pause_holds_the_upstream_back(ca_file: Path | None) -> None:
    async def main(place: Place) -> None:
        sent = 0
        full = asyncio.Event()

        async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK + b"content-length: %d\r\n\r\n" % FLOOD_BYTES)
            while sent < FLOOD_BYTES:
                writer.write(b"x" * 100_000)
                sent += 100_000
                try:
                    await asyncio.wait_for(writer.drain(), None if full.is_set() else 0.2)
                except TimeoutError:
                    full.set()
                    await writer.drain()

        pool = place.pool(await place.listen(flood))
        asked, heard = place.ask(pool)
        await heard.first.wait()
        asked.pause()
        await full.wait()
        held = sum(len(each) for each in heard.said[1:])
        assert held < 2_000_000
        assert sent < FLOOD_BYTES - held
        asked.resume()
        await heard.over.wait()
        assert len(heard.said[1]) == FLOOD_BYTES
        assert heard.said[2] == "end"

    run(main, ca_file)


def test_close_tells_whoever_waits_and_leaves_nothing_open() -> None:
    async def main(place: Place) -> None:
        pool = place.pool(await place.listen(says(ONE)))
        await place.answer(pool)
        silent = place.pool(await place.listen(says()))
        _, sent = place.ask(silent)
        place.came.clear()
        await place.came.wait()
        _, dialing_ = place.ask(silent)
        await silent.close()
        await pool.close()
        assert sent.said == ["cut"]
        assert dialing_.said == ["unreachable"]
        _, after = place.ask(pool)
        await after.over.wait()
        assert after.said == ["unreachable"]
        assert pool.open == silent.open == 0
        await place.all_gone()

    run(main)


# --- Names and addresses --------------------------------------------------------------------------


def resolving(*addresses: str) -> tuple[dialing.Resolve, list[str]]:
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        await asyncio.sleep(0)
        return list(addresses)

    return resolve, asked


def test_where_nobody_listens_is_unreachable() -> None:
    async def main(place: Place) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        _, heard = place.ask(place.pool(port, "127.0.0.1"))
        await heard.over.wait()
        assert heard.said == ["unreachable"]
        assert "connection refused" in heard.detail

    run(main)


@pytest.mark.parametrize("host", ["no.such.name.invalid", "", "a" * 64 + ".example.com", "a..b"])
def test_a_name_that_is_none_is_unreachable(host: str) -> None:
    async def main(place: Place) -> None:
        _, heard = place.ask(place.pool(80, host))
        await heard.over.wait()
        assert heard.said == ["unreachable"]
        assert heard.detail

    run(main)


def test_a_name_that_tls_cannot_say_and_a_port_that_is_none_are_unreachable(
    certificate: Path,
) -> None:
    async def main(place: Place) -> None:
        resolve, _ = resolving("127.0.0.1")
        for host, port in ((".example.com", 443), ("a.example.com", 70_000)):
            pool = place.pool(port, host, resolve=resolve, private=True)
            _, heard = place.ask(pool)
            await heard.over.wait()
            assert heard.said == ["unreachable"]
            assert heard.detail

    run(main, certificate)


def test_a_name_that_leads_inside_is_refused_and_nothing_is_connected() -> None:
    async def main(place: Place) -> None:
        port = await place.listen(says(ONE))
        resolve, _ = resolving("127.0.0.1", "169.254.169.254", "::1", "10.0.0.1")
        pool = place.pool(port, "api.example.com", resolve=resolve)
        _, heard = place.ask(pool)
        await heard.over.wait()
        assert heard.said == ["unreachable"]
        assert "private network" in heard.detail
        assert place.accepted == 0
        allowed = place.pool(port, "api.example.com", resolve=resolve, private=True)
        assert await place.answer(allowed) == [200, b"1", "end"]

    run(main)


def test_all_addresses_are_tried_and_the_one_that_worked_first_the_next_time() -> None:
    async def main(place: Place) -> None:
        port = await place.listen(says(ONCE))
        resolve, asked = resolving("0.0.0.0", "127.0.0.2", "127.0.0.1")
        pool = place.pool(port, "a.example.com", resolve=resolve, private=True)
        tried: list[str] = []

        def judged(host: str, address: str, *, private: bool) -> str | None:
            tried.append(address)
            return guard.refusal(host, address, private=private)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dialing, "refusal", judged)
            for _ in range(2):
                assert await place.answer(pool) == [200, b"1", "end"]
        assert tried == ["0.0.0.0", "127.0.0.2", "127.0.0.1", "127.0.0.1"]
        assert asked == ["a.example.com"]

    run(main)


def test_a_name_is_asked_once_for_many_and_again_after_a_while() -> None:
    async def main(place: Place) -> None:
        port = await place.listen(says(ONCE))
        resolve, asked = resolving("127.0.0.1")
        pool = place.pool(port, "a.example.com", resolve=resolve, private=True)
        await asyncio.gather(*(place.answer(pool) for _ in range(20)))
        assert len(asked) == 1
        place.now_s += RESOLVED_S + 1
        await asyncio.gather(*(place.answer(pool) for _ in range(20)))
        assert len(asked) == 2

    run(main)


# --- TLS ------------------------------------------------------------------------------------------


def test_a_session_is_taken_up_again_and_name_and_protocol_are_said(certificate: Path) -> None:
    async def main(place: Place) -> None:
        names: list[str | None] = []
        tls = serving_tls(certificate)
        tls.set_alpn_protocols(["h2", "http/1.1"])
        tls.sni_callback = lambda session, name, context: names.append(name)
        pool = place.pool(await place.listen(says(ONCE), tls))
        for _ in range(3):
            assert await place.answer(pool) == [200, b"1", "end"]
        assert [each.session_reused for each in place.ssl] == [False, True, True]
        assert {each.selected_alpn_protocol() for each in place.ssl} == {"http/1.1"}
        assert names[0] == "localhost"
        other = place.pool(await place.listen(says(ONE), tls))
        await place.answer(other)
        assert not place.ssl[-1].session_reused

    run(main, certificate)


@pytest.mark.parametrize("wrong", ["authority", "name", "address"])
def test_a_certificate_that_does_not_fit_is_unreachable(
    wrong: str, certificate: Path, tmp_path: Path
) -> None:
    async def main(place: Place) -> None:
        shown = certificate
        options: dict[str, Any] = {}
        if wrong == "authority":
            options["ca_file"] = str(make_certificate(tmp_path))
        elif wrong == "name":
            shown = make_certificate(tmp_path, "other.example.com")
            options["ca_file"] = str(shown)
        port = await place.listen(says(ONE), serving_tls(shown))
        host = "127.0.0.1" if wrong == "address" else "localhost"
        _, heard = place.ask(place.pool(port, host, **options))
        await heard.over.wait()
        assert heard.said == ["unreachable"]
        assert "its certificate is not trusted" in heard.detail

    run(main, certificate)


def test_a_handshake_has_its_time(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing, "CONNECT_S", 0.05)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def main(place: Place) -> None:
        place.ca_file = None
        port = await place.listen(silent)
        pool = place.pool(port, tls=True, ca_file=str(certificate))
        _, heard = place.ask(pool)
        await heard.over.wait()
        assert heard.said == ["unreachable"]
        assert "nothing answers in time" in heard.detail
        assert pool.open == 0

    run(main)


def test_who_speaks_no_tls_is_unreachable(certificate: Path) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(ONE)

    async def main(place: Place) -> None:
        place.ca_file = None
        port = await place.listen(plain)
        _, heard = place.ask(place.pool(port, tls=True, ca_file=str(certificate)))
        await heard.over.wait()
        assert heard.said == ["unreachable"]
        assert "TLS fails" in heard.detail

    run(main)


@pytest.mark.parametrize("file", ["nowhere.pem", __file__])
def test_a_file_without_certificates_is_told(file: str) -> None:
    with pytest.raises(BadSetting, match="certificates to trust"):
        trust(file)


def test_certificates_are_always_verified() -> None:
    context = trust()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
