"""HTTP/1.1 as callers abuse it: what one connection may and may not do to the others and itself.

Raw bytes against a real server; each case is one that another server once got wrong.
"""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from laws import examples
from paceline.serve import digits
from paceline.terms.limits import BODY_BYTES, INFER_BODY_BYTES, LOGINS
from servers import Server

ROW = json.dumps(digits.SAMPLE_ROW).encode()
JSON = b"content-type: application/json\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("raw") / "state", "--drain-s", "1") as running:
        yield running


class Raw:
    """A connection that says exactly these bytes, and hears every byte of the answer."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), 10)
        self.heard = b""

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def say(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)

    def answers(self, count: int) -> list[bytes]:
        """Until so many answers have begun and the last is whole; each as it came."""
        while True:
            found = self.heard.split(b"HTTP/1.1 ")[1:]
            if len(found) >= count and whole(found[-1]):
                return found
            more = self.socket.recv(65536)
            assert more, f"closed after {self.heard!r}"
            self.heard += more

    def rest(self) -> bytes:
        """Everything until the server closes."""
        while more := self.socket.recv(65536):
            self.heard += more
        return self.heard


def whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = next(
        (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")), b":0"
    )
    return bool(end) and len(body) >= int(length.partition(b":")[2])


def post(path: bytes, body: bytes, headers: bytes = JSON) -> bytes:
    length = b"content-length: %d\r\n" % len(body)
    return b"POST " + path + b" HTTP/1.1\r\nhost: localhost\r\n" + headers + length + b"\r\n" + body


def get(path: bytes, headers: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"GET " + path + b" HTTP/" + version + b"\r\nhost: localhost\r\n" + headers + b"\r\n"


PREDICT = post(b"/predict/digits", ROW)


def test_pipelined_requests_are_answered_in_order_with_an_error_among_them(server: Server) -> None:
    with Raw(server) as raw:
        raw.say(PREDICT + post(b"/predict/nothing", ROW) + PREDICT + b"GARB AGE\r\n\r\n" + PREDICT)
        raw.rest()
        statuses = [answer[:3] for answer in raw.heard.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"404", b"200", b"501"]


def test_a_caller_who_pipelines_without_end_costs_no_memory(server: Server) -> None:
    front = server.fronts[0]
    flood = get(b"/health/live") * 1000
    before = resident_bytes(front)
    with Raw(server) as raw:
        raw.socket.setblocking(False)
        sent = 0
        try:
            while sent < 200:
                raw.socket.send(flood)  # the answers are never read
                sent += 1
        except BlockingIOError:
            pass
        assert server.ask("GET", "/health/live").status == 200
        assert resident_bytes(front) - before < 8 * 1024 * 1024


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("trailer", [b"x-timeout-ms: foo", b"host: evil", b"x-api-key: pl_wrong"])
def test_trailers_are_no_headers(server: Server, trailer: bytes) -> None:
    chunked = b"%x\r\n" % len(ROW) + ROW + b"\r\n0\r\n" + trailer + b"\r\n\r\n"
    head = b"POST /predict/digits HTTP/1.1\r\nhost: localhost\r\n" + JSON
    with Raw(server) as raw:
        raw.say(head + b"transfer-encoding: chunked\r\n\r\n" + chunked)
        assert raw.answers(1)[0].startswith(b"200")


def test_endless_trailers_are_cut_off(server: Server) -> None:
    head = b"POST /predict/digits HTTP/1.1\r\nhost: localhost\r\n" + JSON
    with Raw(server) as raw:
        raw.say(head + b"transfer-encoding: chunked\r\n\r\n0\r\n")
        try:
            for _ in range(1000):
                raw.say(b"x: " + b"y" * 1000 + b"\r\n")
            answer = raw.rest()
        except (BrokenPipeError, ConnectionResetError):
            answer = b"HTTP/1.1 4"
    assert answer.startswith(b"HTTP/1.1 4")


def test_an_upgrade_does_not_turn_a_body_into_a_request(server: Server) -> None:
    upgrade = JSON + b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\n"
    with Raw(server) as raw:
        raw.say(post(b"/predict/digits", PREDICT, upgrade), get(b"/health/live"))
        first, second = raw.answers(2)
    assert first.startswith(b"400")
    assert b"bad_json" in first
    assert b'{"live":true}' in second


def test_an_offered_upgrade_is_declined_by_answering(server: Server) -> None:
    with Raw(server) as raw:
        raw.say(post(b"/predict/digits", ROW, JSON + b"connection: upgrade\r\nupgrade: h2c\r\n"))
        assert raw.answers(1)[0].startswith(b"200")


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
        b"content-length: 5\r\ncontent-length: 6\r\n",
        b"content-length: -1\r\n",
        b"content-length: +5\r\n",
        b"transfer-encoding: chunked, gzip\r\n",
        b"transfer-encoding: identity\r\n",
        b"x y: z\r\n",
        b"x: a\0b\r\n",
    ],
)
def test_what_two_parsers_could_read_differently_is_refused_and_ends(
    server: Server, head: bytes
) -> None:
    with Raw(server) as raw:
        raw.say(
            b"POST /predict/digits HTTP/1.1\r\nhost: localhost\r\n" + JSON + head + b"\r\n",
            b"0\r\n\r\n" + get(b"/health/live"),
        )
        answers = raw.rest().split(b"HTTP/1.1 ")[1:]
    assert len(answers) == 1
    assert answers[0][:1] in (b"4", b"5")
    assert b'"remedy"' in answers[0]


@pytest.mark.parametrize(
    "request_line",
    [b"GET /health/live HTTP/2.0", b"GET http://localhost/ HTTP/1.1", b"CONNECT a:1 HTTP/1.1"],
)
def test_other_forms_of_a_request_line_are_refused(server: Server, request_line: bytes) -> None:
    with Raw(server) as raw:
        raw.say(request_line + b"\r\nhost: localhost\r\n\r\n")
        assert raw.rest()[9:10] in (b"4", b"5")


@pytest.mark.parametrize("size", [2 * BODY_BYTES, 1_000_000, 20_000_000])
def test_a_refused_upload_hears_why_and_nothing_else(server: Server, size: int) -> None:
    with Raw(server) as raw:
        raw.say(post(b"/login", b"[" + b"1," * (size // 2) + b"1]"))
        answers = raw.answers(1)
        raw.socket.shutdown(socket.SHUT_WR)
        raw.rest()
    assert answers[0].startswith(b"413")
    assert raw.heard.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("announced", [True, False])
def test_an_inference_too_large_is_refused_as_soon_as_that_is_known(
    server: Server, announced: bool
) -> None:
    size = INFER_BODY_BYTES + 1
    length = b"content-length: %d\r\n" % size if announced else b"transfer-encoding: chunked\r\n"
    with Raw(server) as raw:
        raw.say(b"POST /predict/digits HTTP/1.1\r\nhost: localhost\r\n" + JSON + length + b"\r\n")
        if not announced:
            piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
            raw.say(*[piece] * (size // 0x100000 + 1))
        assert raw.answers(1)[0].startswith(b"413")
        raw.socket.shutdown(socket.SHUT_WR)
        assert raw.rest().count(b"HTTP/1.1 ") == 1


def test_after_a_refused_small_body_the_connection_goes_on(server: Server) -> None:
    with Raw(server) as raw:
        raw.say(post(b"/predict/digits", ROW, b"content-type: text/plain\r\n"), PREDICT)
        first, second = raw.answers(2)
    assert (first[:3], second[:3]) == (b"415", b"200")


def test_a_refusal_before_100_continue_ends_the_connection(server: Server) -> None:
    """The caller rightly keeps the body, so what comes next on the connection is unclear."""
    with Raw(server) as raw:
        raw.say(
            b"POST /predict/digits HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n"
            b"expect: 100-continue\r\ncontent-length: 10\r\n\r\n"
        )
        answer = raw.answers(1)[0]
        raw.socket.shutdown(socket.SHUT_WR)
        assert raw.rest().count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"415")
    assert b"connection: close" in answer


@pytest.mark.parametrize("path", [b"/health/live", b"/metrics", b"/api/status"])
def test_who_has_said_everything_still_hears_the_answer(server: Server, path: bytes) -> None:
    with Raw(server) as raw:
        raw.say(get(path))
        raw.socket.shutdown(socket.SHUT_WR)
        assert raw.rest().startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("path", [b"/", b"/metrics", b"/api/status"])
def test_http_1_0_gets_no_chunks(server: Server, path: bytes) -> None:
    with Raw(server) as raw:
        raw.say(get(path, version=b"1.0"))
        head, _, body = raw.rest().partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert f"content-length: {len(body)}".encode() in head.lower()


def test_head_of_the_endless_stream_ends(server: Server) -> None:
    with Raw(server) as raw:
        raw.say(b"HEAD /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n", get(b"/health/live"))
        assert raw.answers(2)[1].endswith(b'{"live":true}')


@pytest.mark.parametrize("request_line", [b"OPTIONS * HTTP/1.1", b"PROPFIND / HTTP/1.1"])
def test_odd_requests_get_errors_like_all_others(server: Server, request_line: bytes) -> None:
    with Raw(server) as raw:
        raw.say(request_line + b"\r\nhost: localhost\r\n\r\n")
        assert b'"remedy"' in raw.answers(1)[0]


def test_a_body_that_ends_early_is_a_bad_request_and_no_bug(server: Server) -> None:
    with Raw(server) as raw:
        raw.say(post(b"/predict/digits", ROW)[:-5])
        raw.socket.shutdown(socket.SHUT_WR)
        assert raw.rest().startswith(b"HTTP/1.1 400")
    assert "inside Paceline" not in server.log.read_text()


def test_login_cannot_be_used_to_keep_others_out(server: Server) -> None:
    hanging = [Raw(server) for _ in range(4 * LOGINS)]
    for raw in hanging:
        raw.say(post(b"/login", b"{}")[:-1])
    refused = [raw for raw in hanging if raw is hanging[-1]]
    assert refused[0].answers(1)[0].startswith(b"429")
    assert server.ask("POST", "/predict/digits", list(digits.SAMPLE_ROW)).status == 200
    assert server.ask("GET", "/health/ready").status == 200
    for raw in hanging:
        raw.socket.close()


@examples(150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(
        st.one_of(
            st.sampled_from(
                [PREDICT, get(b"/health/live"), b"\r\n", b"HTTP/1.1", b"GET ", b"\0", b"0\r\n\r\n"]
            ),
            st.binary(max_size=30),
        ),
        max_size=6,
    ),
    cut=st.integers(1, 50),
)
def test_no_bytes_whatsoever_end_the_server(server: Server, pieces: list[bytes], cut: int) -> None:
    """Whatever is said, in whatever pieces: the answers are HTTP, and the next caller is served."""
    said = b"".join(pieces)
    front = server.fronts
    with Raw(server) as raw:
        try:
            for start in range(0, len(said), cut):
                raw.say(said[start : start + cut])
            raw.socket.shutdown(socket.SHUT_WR)
            heard = raw.rest()
        except (BrokenPipeError, ConnectionResetError):
            heard = b""
    assert heard == b"" or heard.startswith(b"HTTP/1.1 ")
    assert server.ask("GET", "/health/live").status == 200
    assert server.fronts == front
    assert "inside Paceline" not in server.log.read_text()
