"""Inference as it comes over a connection: pieces, compression, leavers, deadlines, versions.

Raw bytes against a real server, for what clients hide; `test_tritonclient.py` has a real client.
"""

import gzip
import json
import re
import socket
import zlib
from collections.abc import Iterator

import pytest

from paceline.serve import digits
from servers import Server
from test_connections import JSON, PREDICT, ROW, Raw, get, post

V2 = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": digits.SAMPLE_ROW}]}
).encode()
INFER = b"/v2/models/digits/infer"
HEAD = b"POST /predict/digits HTTP/1.1\r\nhost: localhost\r\n" + JSON


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("hot") / "state", "--drain-s", "1") as running:
        yield running


def test_a_body_may_come_in_any_pieces(server: Server) -> None:
    with Raw(server) as raw:
        for piece in (HEAD, b"content-length: %d\r\n\r\n" % len(ROW), ROW[:7], ROW[7:8], ROW[8:]):
            raw.say(piece)
        raw.say(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for at in range(0, len(ROW), 50):
            raw.say(b"%x\r\n%b\r\n" % (len(ROW[at : at + 50]), ROW[at : at + 50]))
        raw.say(b"0\r\n\r\n")
        first, second = raw.answers(2)
    assert first.startswith(b"200")
    assert first.partition(b"\r\n\r\n")[2] == second.partition(b"\r\n\r\n")[2]


def test_a_body_larger_than_a_read_is_followed_by_the_next_request(server: Server) -> None:
    many = b"[" + b",".join([ROW] * 500) + b"]"
    with Raw(server) as raw:
        raw.say(post(b"/predict/digits", many) + PREDICT + post(b"/predict/digits", many))
        raw.say(get(b"/health/live"))
        answers = raw.answers(4)
    assert [each[:3] for each in answers] == [b"200"] * 4
    assert len(json.loads(answers[0].partition(b"\r\n\r\n")[2])["outputs"]["label"]) == 500
    assert answers[3].endswith(b'{"live":true}')


def test_a_hundred_pipelined_requests_are_answered_in_order(server: Server) -> None:
    with Raw(server) as raw:
        for number in range(100):
            raw.say(post(b"/predict/digits", ROW, JSON + b"x-request-id: r%d\r\n" % number))
        answers = raw.answers(100)
    ids = [re.findall(rb"x-request-id: (\S+)", answer) for answer in answers]
    assert ids == [[b"r%d" % number] for number in range(100)]


def test_100_continue_is_said_before_the_body_and_only_then(server: Server) -> None:
    with Raw(server) as raw:
        raw.say(HEAD + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(ROW))
        assert raw.socket.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.say(ROW)
        assert raw.answers(1)[0].startswith(b"200")
    with Raw(server) as raw:
        raw.say(HEAD.replace(b"digits", b"nothing") + b"expect: 100-continue\r\n")
        raw.say(b"content-length: 5\r\n\r\n")
        assert raw.answers(1)[0].startswith(b"404")


@pytest.mark.parametrize(
    ("coding", "body"),
    [(b"gzip", gzip.compress(V2)), (b"deflate", zlib.compress(V2))],
    ids=["gzip", "deflate"],
)
def test_compressed_bodies_are_read(server: Server, coding: bytes, body: bytes) -> None:
    with Raw(server) as raw:
        raw.say(post(INFER, body, JSON + b"content-encoding: %b\r\n" % coding))
        raw.say(post(INFER, body[:-3], JSON + b"content-encoding: %b\r\n" % coding))
        raw.say(post(INFER, V2, JSON + b"content-encoding: br\r\n"))
        bomb = gzip.compress(b" " * 70_000_000, 9)
        raw.say(post(INFER, bomb, JSON + b"content-encoding: gzip\r\n"))
        statuses = [answer[:3] for answer in raw.answers(4)]
    assert statuses == [b"200", b"400", b"415", b"413"]


def test_long_answers_are_compressed_for_those_who_take_that(server: Server) -> None:
    many = b"[" + b",".join([ROW] * 500) + b"]"
    accept = JSON + b"accept-encoding: deflate, gzip\r\n"
    with Raw(server) as raw:
        raw.say(post(b"/predict/digits", many, accept), post(b"/predict/digits", many))
        packed, plain = raw.answers(2)
        raw.say(post(b"/predict/digits", ROW, accept))
        small = raw.answers(3)[2]
    assert b"content-encoding: gzip" in packed
    assert b"content-encoding" not in plain + small
    body = plain.partition(b"\r\n\r\n")[2]
    assert gzip.decompress(packed.partition(b"\r\n\r\n")[2]) == body


def test_a_body_that_does_not_come_is_answered_at_the_deadline(server: Server) -> None:
    with Raw(server) as raw:
        raw.say(HEAD + b"x-timeout-ms: 50\r\ncontent-length: 100000\r\n\r\n[")
        answer = raw.answers(1)[0]
    assert answer.startswith(b"504")
    assert b"connection: close" in answer


def test_who_leaves_before_the_body_is_whole_holds_nothing(server: Server) -> None:
    for _ in range(20):
        with Raw(server) as raw:
            raw.say(HEAD + b"content-length: 100000\r\n\r\n[1,")
    with Raw(server) as raw:
        raw.say(PREDICT)
        assert raw.answers(1)[0].startswith(b"200")
    text = server.ask("GET", "/metrics").body.decode()
    (in_flight,) = re.findall(r"^paceline_in_flight_requests(?:\{.*\})? (\S+)", text, re.M)
    assert float(in_flight) <= 1  # the one that asks


def test_versions_are_part_of_the_address(server: Server) -> None:
    with Raw(server) as raw:
        raw.say(post(b"/v2/models/digits/versions/1/infer", V2))
        raw.say(post(b"/v2/models/digits/versions/2/infer", V2))
        raw.say(post(b"/v2/models/digits/infer?a=b", V2))
        raw.say(get(INFER))
        statuses = [answer[:3] for answer in raw.answers(4)]
    assert statuses == [b"200", b"404", b"200", b"405"]


def test_headers_are_heeded_anew_where_they_change_on_a_connection(server: Server) -> None:
    with Raw(server) as raw:
        raw.say(post(b"/predict/digits", ROW), post(b"/predict/digits", ROW))
        raw.say(post(b"/predict/digits", ROW, JSON + b"x-priority: soon\r\n"))
        raw.say(post(b"/predict/digits", ROW, JSON + b"x-api-key: pl_wrong\r\n"))
        raw.say(post(b"/predict/digits", ROW))
        statuses = [answer[:3] for answer in raw.answers(5)]
    assert statuses == [b"200", b"200", b"400", b"401", b"200"]


def test_who_has_said_everything_still_hears_the_answer(server: Server) -> None:
    with Raw(server) as raw:
        raw.say(PREDICT)
        raw.socket.shutdown(socket.SHUT_WR)
        assert raw.rest().startswith(b"HTTP/1.1 200")


def test_a_head_that_is_too_large_is_431(server: Server) -> None:
    with Raw(server) as raw:
        raw.say(get(b"/health/live", b"x: " + b"y" * 70_000 + b"\r\n"))
        assert raw.rest().startswith(b"HTTP/1.1 431")


def test_time_before_the_queue_is_counted_by_part(server: Server) -> None:
    def seconds(part: str) -> float:
        name = rf'paceline_request_part_seconds_total{{model="digits",part="{part}"}} (\S+)'
        found = re.search(name, server.ask("GET", "/metrics").body.decode())
        assert found is not None
        return float(found[1])

    with Raw(server) as raw:
        before = seconds("body"), seconds("parse")
        raw.say(PREDICT)
        raw.answers(1)
        assert (seconds("body"), seconds("parse")) == before  # all there at once, and short
        raw.say(HEAD + b"content-length: %d\r\n\r\n" % len(ROW))
        server.ask("GET", "/health/live")
        raw.say(ROW)
        raw.answers(2)
        assert seconds("body") > before[0]
        assert seconds("parse") == before[1]
        raw.say(post(b"/predict/digits", b"[" + b",".join([ROW] * 40) + b"]"))
        raw.answers(3)
        here = seconds("parse")
        assert here > before[1]
        raw.say(post(b"/predict/digits", b"[" + b",".join([ROW] * 900) + b"]"))
        raw.answers(4)
        assert seconds("parse") > here


def test_what_is_turned_away_at_the_door_of_a_model_is_counted(server: Server) -> None:
    def refused() -> float:
        text = server.ask("GET", "/metrics").body.decode()
        found = re.findall(r'paceline_requests_total{model="digits".*,status="503"} (\S+)', text)
        return sum(map(float, found))

    before = refused()
    server.ask("POST", "/api/plan/set", {"knob": "digits.enabled", "value": False})
    try:
        assert server.ask("POST", "/predict/digits", list(digits.SAMPLE_ROW)).status == 503
    finally:
        server.ask("POST", "/api/plan/set", {"knob": "digits.enabled", "value": True})
    assert refused() == before + 1
