"""Requests that two HTTP parsers could understand differently: behind a proxy, that is how one
caller's bytes become another caller's request.

A corpus of the published classes is said to a real server, each followed by a marker; then to one
connection in this process, in pieces of every kind, and to h11, whose decisions ours are held
against: what we take, it takes, and sees the same. Where it does not, DELIBERATE says why.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws import examples
from paceline.terms.limits import HEAD_BYTES, SLICE_BYTES
from servers import Server
from test_connections import Raw
from wired import Asked, Wire

MARKER = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
LIVE = b'{"live":true}'
HIDDEN = b"GET /hidden HTTP/1.1\r\nhost: localhost\r\n\r\n"
"""What a smuggler would like to have answered."""

POST = b"POST /predict/digits HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
GET = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
END = b"0\r\n\r\n"


def lengthy(value: bytes, name: bytes = b"content-length") -> bytes:
    return POST + name + b": " + value + b"\r\n\r\nabc"


def coded(line: bytes) -> bytes:
    """Two ways to read one body: with chunks it is empty, without it hides a request."""
    return POST + line + b"\r\n\r\n" + END + HIDDEN


def chunks(body: bytes) -> bytes:
    return POST + CHUNKED + b"\r\n" + body


REFUSED: dict[str, bytes] = {
    # Two lengths: a proxy believes one of them, we the other.
    "cl.te": POST
    + b"content-length: %d\r\n" % len(END + HIDDEN)
    + CHUNKED
    + b"\r\n"
    + END
    + HIDDEN,
    "te.cl": POST + CHUNKED + b"content-length: 4\r\n\r\n5e\r\n" + HIDDEN + b"\r\n" + END,
    "cl.te with a fold": POST
    + b"content-length: 5\r\ntransfer-encoding:\r\n chunked\r\n\r\n"
    + END,
    "cl.te in capitals": POST + b"CONTENT-LENGTH: 5\r\nTRANSFER-ENCODING: chunked\r\n\r\n" + END,
    "cl.te that is empty": POST + b"content-length: 5\r\ntransfer-encoding:\r\n\r\n" + END,
    "cl.te, get": GET + b"content-length: 5\r\n" + CHUNKED + b"\r\n" + END,
    "te.cl of nothing": POST + CHUNKED + b"content-length: 0\r\n\r\n" + END,
    "two lengths": POST + b"content-length: 3\r\ncontent-length: 48\r\n\r\nabc" + HIDDEN,
    "two lengths, one empty": POST + b"content-length: 3\r\ncontent-length:\r\n\r\nabc",
    "two equal lengths": POST + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
    "two equal lengths, capitals": POST + b"content-length: 3\r\nContent-Length: 3\r\n\r\nabc",
    # Transfer codings written so that only one side knows them.
    "te twice": coded(b"transfer-encoding: chunked\r\ntransfer-encoding: chunked"),
    "te and identity": coded(b"transfer-encoding: chunked\r\ntransfer-encoding: identity"),
    "te and something": coded(b"transfer-encoding: x\r\ntransfer-encoding: chunked"),
    "te and an empty one": coded(b"transfer-encoding:\r\ntransfer-encoding: chunked"),
    "te identity": coded(b"transfer-encoding: identity"),
    "te xchunked": coded(b"transfer-encoding: xchunked"),
    "te chunkedx": coded(b"transfer-encoding: chunkedx"),
    "te quoted": coded(b'transfer-encoding: "chunked"'),
    "te with a parameter": coded(b"transfer-encoding: chunked;q=1"),
    "te list": coded(b"transfer-encoding: identity, chunked"),
    "te list twice": coded(b"transfer-encoding: chunked, chunked"),
    "te list with a hole": coded(b"transfer-encoding: , chunked"),
    "te list that ends": coded(b"transfer-encoding: chunked,"),
    "te not last": coded(b"transfer-encoding: chunked, gzip"),
    "te gzip": coded(b"transfer-encoding: gzip, chunked"),
    "te trailing space": coded(b"transfer-encoding: chunked "),
    "te space before colon": coded(b"transfer-encoding : chunked"),
    "te tab before colon": coded(b"transfer-encoding\t: chunked"),
    "te vertical tab": coded(b"transfer-encoding: \x0bchunked"),
    "te form feed": coded(b"transfer-encoding: chunked\x0c"),
    "te zero byte": coded(b"transfer-encoding: chunked\0"),
    "te no-break space": coded(b"transfer-encoding:\xa0chunked"),
    "te folded": coded(b"transfer-encoding:\r\n chunked"),
    "te folded by tab": coded(b"transfer-encoding:\r\n\tchunked"),
    "te folded twice": coded(b"transfer-encoding: identity,\r\n chunked"),
    "te after bare cr": coded(b"x: y\rtransfer-encoding: chunked"),
    "te after bare lf": coded(b"x: y\ntransfer-encoding: chunked"),
    "te after space": coded(b" transfer-encoding: chunked"),
    "te without colon": coded(b"transfer-encoding chunked"),
    "te and upgrade": coded(b"connection: upgrade\r\nupgrade: h2c\r\ntransfer-encoding: chunked"),
    # Lengths that are no plain decimal number.
    "length empty": lengthy(b""),
    "length plus": lengthy(b"+3"),
    "length minus": lengthy(b"-3"),
    "length minus zero": lengthy(b"-0"),
    "length hex": lengthy(b"0x3"),
    "length octal": lengthy(b"0o3"),
    "length exponent": lengthy(b"3e0"),
    "length point": lengthy(b"3.0"),
    "length underscore": lengthy(b"1_0"),
    "length list": lengthy(b"3, 3"),
    "length list that differs": lengthy(b"3, 48"),
    "length two words": lengthy(b"3 4"),
    "length quoted": lengthy(b'"3"'),
    "length word": lengthy(b"chunked"),
    "length other digits": lengthy("\N{ARABIC-INDIC DIGIT THREE}".encode()),
    "length overflow": lengthy(b"18446744073709551619"),
    "length far overflow": lengthy(b"9" * 5000),
    "length zeros without end": lengthy(b"0" * 5000 + b"3"),
    "length zero byte": lengthy(b"3\0"),
    "length vertical tab": lengthy(b"\x0b3"),
    "length folded": lengthy(b"\r\n 3"),
    "length folded on": lengthy(b"3\r\n 0"),
    "length space before colon": lengthy(b"3", b"content-length "),
    "length zero byte in name": lengthy(b"3", b"content-length\0"),
    "length larger than may be": POST + b"content-length: 18446744073709551615\r\n\r\n",
    # Chunk sizes.
    "chunk hex sign": chunks(b"0x3\r\nabc\r\n" + END),
    "chunk plus": chunks(b"+3\r\nabc\r\n" + END),
    "chunk minus": chunks(b"-3\r\nabc\r\n" + END),
    "chunk space before": chunks(b" 3\r\nabc\r\n" + END),
    "chunk space after": chunks(b"3 \r\nabc\r\n" + END),
    "chunk tab after": chunks(b"3\t\r\nabc\r\n" + END),
    "chunk overflow": chunks(b"10000000000000003\r\nabc\r\n" + END),
    "chunk far overflow": chunks(b"f" * 100 + b"\r\nabc\r\n" + END),
    "chunk no size": chunks(b"\r\n3\r\nabc\r\n" + END),
    "chunk no number": chunks(b"xyz\r\nabc\r\n" + END),
    "chunk bare lf": chunks(b"3\nabc\r\n" + END),
    "chunk bare cr": chunks(b"3\rabc\r\n" + END),
    "chunk two cr": chunks(b"3\r\r\nabc\r\n" + END),
    "chunk data bare lf": chunks(b"3\r\nabc\n" + END),
    "chunk data bare cr": chunks(b"3\r\nabc\r" + END),
    "chunk data without end": chunks(b"3\r\nabc" + END),
    "chunk data other end": chunks(b"3\r\nabcXX" + END),
    "chunk longer than said": chunks(b"3\r\nabcd\r\n" + END),
    "chunk last bare lf": chunks(b"3\r\nabc\r\n0\n\n"),
    "chunk last half lf": chunks(b"3\r\nabc\r\n0\r\n\n"),
    "chunk extension bare lf": chunks(b"3;a\nabc\r\n" + END),
    "chunk extension bare cr": chunks(b"3;a\rb\r\nabc\r\n" + END),
    "chunk extension zero byte": chunks(b"3;\0\r\nabc\r\n" + END),
    "chunk extension empty": chunks(b"3;\r\nabc\r\n" + END),
    "chunk extension with line": chunks(b'3;a="\r\n' + HIDDEN + b'"\r\nabc\r\n' + END),
    "chunk extension lf hides": chunks(b"2;\nxx\r\n30\r\n0\r\n\r\n" + HIDDEN + END),
    # Trailers.
    "trailer length": chunks(b"0\r\ncontent-length: 48\r\n\r\n"),
    "trailer coding": chunks(b"0\r\ntransfer-encoding: chunked\r\n\r\n"),
    "trailer no header": chunks(b"0\r\n" + HIDDEN),
    "trailer folded": chunks(b"0\r\nx: a\r\n b\r\n\r\n"),
    "trailer bare lf": chunks(b"0\r\nx: a\n\r\n"),
    # Lines and names.
    "lf alone": GET.replace(b"\r\n", b"\n") + b"\n",
    "lf at the end": GET + b"\n",
    "cr alone": GET.replace(b"\r\n", b"\r") + b"\r",
    "two cr": GET + b"x: y\r\r\n\r\n",
    "lf in a value": GET + b"x: a\n" + b"y: b\r\n\r\n",
    "cr in a value": GET + b"x: a\r" + b"y: b\r\n\r\n",
    "zero byte in a value": GET + b"x: a\0b\r\n\r\n",
    "control in a value": GET + b"x: a\x01b\r\n\r\n",
    "delete in a value": GET + b"x: a\x7fb\r\n\r\n",
    "folded value": GET + b"x: a\r\n b\r\n\r\n",
    "folded by tab": GET + b"x: a\r\n\tb\r\n\r\n",
    "folded first": b"GET / HTTP/1.1\r\n x: y\r\nhost: localhost\r\n\r\n",
    "name empty": GET + b": x\r\n\r\n",
    "name missing": GET + b"x\r\n\r\n",
    "name with space": GET + b"x y: z\r\n\r\n",
    "name and space": GET + b"x : y\r\n\r\n",
    "name in brackets": GET + b"(x): y\r\n\r\n",
    "name in other letters": GET + b"x\xe9: y\r\n\r\n",
    "name with zero byte": GET + b"x\0: y\r\n\r\n",
    "name folded": GET + b"x\r\n : y\r\n\r\n",
    # Who is meant.
    "no host": b"GET /health/live HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"host: localhost\r\n\r\n",
    "two different hosts": GET + b"Host: elsewhere\r\n\r\n",
    "two hosts in 1.0": GET.replace(b"1.1", b"1.0") + b"host: localhost\r\n\r\n",
    # Targets.
    "target absolute": b"GET http://localhost/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "target absolute, other": b"GET http://elsewhere/ HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "target authority": b"GET localhost:80 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "target without slash": b"GET health/live HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "target query alone": b"GET ?x HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "target missing": b"GET  HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "target zero byte": b"GET /\0 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "target control": b"GET /\x01 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "target tab": b"GET /a\tb HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "target bytes": b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "target two words": b"GET /a b HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "target hides a request": b"GET / HTTP/1.1 x HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "connect": b"CONNECT localhost:80 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "connect to a path": b"CONNECT /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n",
    # Methods and versions.
    "method small": GET.replace(b"GET", b"get") + b"\r\n",
    "method unknown": GET.replace(b"GET", b"GETS") + b"\r\n",
    "method empty": GET.replace(b"GET", b"") + b"\r\n",
    "method with zero byte": GET.replace(b"GET", b"G\0T") + b"\r\n",
    "space first": b" " + GET + b"\r\n",
    "tab for space": GET.replace(b" ", b"\t", 1) + b"\r\n",
    "http/0.9": b"GET /health/live\r\n",
    "http/0.9 with version": b"GET /health/live HTTP/0.9\r\n\r\n",
    "http/1.2": GET.replace(b"1.1", b"1.2") + b"\r\n",
    "http/1": GET.replace(b"1.1", b"1") + b"\r\n",
    "http/1.10": GET.replace(b"1.1", b"1.10") + b"\r\n",
    "http/2": GET.replace(b"1.1", b"2.0") + b"\r\n",
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "version small": GET.replace(b"HTTP", b"http") + b"\r\n",
    "version and space": GET.replace(b"1.1\r", b"1.1 \r") + b"\r\n",
    "rtsp": b"DESCRIBE /health/live RTSP/1.1\r\nhost: localhost\r\n\r\n",
    "ice": b"SOURCE /health/live ICE/1.0\r\nhost: localhost\r\n\r\n",
    "1.0 with chunks": POST.replace(b"1.1", b"1.0") + CHUNKED + b"\r\n" + END,
    "1.0 with chunks, kept": POST.replace(b"1.1", b"1.0")
    + b"connection: keep-alive\r\n"
    + CHUNKED
    + b"\r\n"
    + END,
    # Sizes.
    "headers without number": GET + b"a:\r\n" * (HEAD_BYTES // 2) + b"\r\n",
    "header without end": GET + b"x: " + b"y" * 2 * HEAD_BYTES + b"\r\n\r\n",
    "name without end": GET + b"x" * 2 * HEAD_BYTES + b": y\r\n\r\n",
    "target without end": b"GET /"
    + b"x" * 2 * HEAD_BYTES
    + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
}


class Taken(NamedTuple):
    said: bytes
    statuses: tuple[int, ...]
    """of all answers but the marker's"""
    goes_on: bool = True
    """whether the marker is answered"""


TAKEN: dict[str, Taken] = {
    # Read by all alike, so that nobody is refused who means well.
    "length": Taken(lengthy(b"3"), (400,)),
    "length with spaces": Taken(lengthy(b"\t 3 \t"), (400,)),
    "length with zeros": Taken(lengthy(b"003"), (400,)),
    "length zero hides nothing": Taken(POST + b"content-length: 0\r\n\r\n", (400,)),
    "cl.0: a body where none is read": Taken(
        GET + b"content-length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN, (200,)
    ),
    "cl.0 at an unknown address": Taken(
        POST.replace(b"/predict/digits", b"/nothing")
        + b"content-length: %d\r\n\r\n" % len(HIDDEN)
        + HIDDEN,
        (404,),
    ),
    "cl.0 with an upgrade": Taken(
        POST
        + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: %d\r\n\r\n" % len(HIDDEN)
        + HIDDEN,
        (400,),
    ),
    "coding with tab": Taken(coded(b"transfer-encoding:\tchunked")[: -len(HIDDEN)], (400,)),
    "coding in capitals": Taken(coded(b"Transfer-Encoding: CHUNKED")[: -len(HIDDEN)], (400,)),
    "chunks": Taken(chunks(b"3\r\nabc\r\n" + END), (400,)),
    "chunks that hold a request": Taken(
        chunks(b"%x\r\n" % len(HIDDEN) + HIDDEN + b"\r\n" + END), (400,)
    ),
    "chunk with zeros": Taken(chunks(b"0003\r\nabc\r\n000\r\n\r\n"), (400,)),
    "chunk extension": Taken(chunks(b'3;a=b;c="d e"\r\nabc\r\n0;x\r\n\r\n'), (400,)),
    "trailer": Taken(chunks(b"3\r\nabc\r\n0\r\nx: y\r\nhost: elsewhere\r\n\r\n"), (400,)),
    "trailer upgrade": Taken(chunks(b"0\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"), (400,)),
    "expectation": Taken(GET + b"expect: 100-continue\r\n\r\n", (200,)),
    "other expectation": Taken(GET + b"expect: the-unexpected\r\n\r\n", (200,)),
    "value of other letters": Taken(GET + b"x: \xe9\r\n\r\n", (200,)),
    "value empty": Taken(GET + b"x:\r\n\r\n", (200,)),
    "name like a length": Taken(GET + b"content_length: 48\r\n\r\n", (200,)),
    "coding in another header": Taken(
        GET + b"te: chunked\r\nx-transfer-encoding: chunked\r\n\r\n", (200,)
    ),
    "upgrade": Taken(GET + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n", (200,)),
    "path with a fragment": Taken(GET.replace(b"live", b"live#x") + b"\r\n", (404,)),
    "path that climbs": Taken(GET.replace(b"/health", b"/x/../health") + b"\r\n", (404,)),
    "star": Taken(b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n", (404,)),
    # Ends with its answer, and what follows is not heard.
    "close": Taken(GET + b"connection: close\r\n\r\n", (200,), goes_on=False),
    "close among others": Taken(
        GET + b"connection: keep-alive, close\r\n\r\n", (200,), goes_on=False
    ),
    "http/1.0": Taken(GET.replace(b"1.1", b"1.0") + b"\r\n", (200,), goes_on=False),
    "http/1.0 kept": Taken(
        GET.replace(b"1.1", b"1.0") + b"connection: keep-alive\r\n\r\n", (200,), goes_on=False
    ),
    "http/1.0 without host": Taken(b"GET /health/live HTTP/1.0\r\n\r\n", (400,), goes_on=False),
    "http/1.0 that expects": Taken(
        POST.replace(b"1.1", b"1.0") + b"expect: 100-continue\r\ncontent-length: 3\r\n\r\nabc",
        (400,),
        goes_on=False,
    ),
}

DELIBERATE: dict[str, Taken] = {
    # Where we take what h11 does not; each is framed the same by whoever takes it at all.
    "empty lines first: RFC 9112, 2.2 wants them passed over": Taken(
        b"\r\n\r\n" + GET + b"\r\n", (200,)
    ),
    "half an empty line first: llhttp passes it over as well": Taken(b"\r" + GET + b"\r\n", (200,)),
    "spaces between the words of the first line: RFC 9112, 3 allows it": Taken(
        GET.replace(b" ", b"   ") + b"\r\n", (200,)
    ),
    "more than twenty digits of a length, zeros first": Taken(lengthy(b"0" * 20 + b"3"), (400,)),
    "more than twenty digits of a chunk, zeros first": Taken(
        chunks(b"0" * 20 + b"3\r\nabc\r\n" + END), (400,)
    ),
    "rtsp with a method of ours: llhttp does not tell": Taken(
        b"OPTIONS /health/live RTSP/1.1\r\nhost: localhost\r\n\r\n", (204,)
    ),
}
MEANT = re.compile(
    r"no request line received"
    r"|illegal request line: bytearray\(b'(\\r|[A-Z]+ ( |\S+  )|OPTIONS \S+ RTSP/)"
    r"|illegal chunk header: bytearray\(b'0{18}"
)
"""The same as h11 says it, for requests that are made by chance."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("smuggled") / "state", "--drain-s", "1") as running:
        yield running
        assert "inside Paceline" not in running.log.read_text()


def answers(heard: bytes) -> list[bytes]:
    found = re.split(rb"HTTP/1\.1 (?=\d{3} )", heard)[1:]
    return [each for each in found if not each.startswith(b"100")]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_ambiguous_is_refused_and_ends_the_connection(server: Server, name: str) -> None:
    with Raw(server) as raw:
        try:
            raw.say(REFUSED[name], MARKER)
            raw.rest()
        except (BrokenPipeError, ConnectionResetError):
            assert len(REFUSED[name]) > HEAD_BYTES  # still speaking when the end came
    found = answers(raw.heard)
    assert len(found) == 1, raw.heard
    assert found[0][:1] in (b"4", b"5")
    assert b"\r\nconnection: close\r\n" in found[0]
    assert LIVE not in raw.heard
    assert b'"remedy"' in found[0]


@pytest.mark.parametrize("name", [*TAKEN, *DELIBERATE])
def test_what_is_clear_is_answered_once_and_hides_nothing(server: Server, name: str) -> None:
    taken = {**TAKEN, **DELIBERATE}[name]
    with Raw(server) as raw:
        # In one piece: what came behind a connection's last answer would find it closed, and the
        # kernel says that with a reset.
        raw.say(taken.said + MARKER)
        if taken.goes_on:
            raw.say(MARKER.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        raw.rest()
    found = answers(raw.heard)
    statuses = tuple(int(each[:3]) for each in found)
    if taken.goes_on:
        assert statuses == (*taken.statuses, 200, 200), raw.heard
        assert all(each.endswith(LIVE) for each in found[-2:])
    else:
        assert statuses == taken.statuses, raw.heard
    assert b"HTTP/1.1 100" not in raw.heard  # the body was there, or none was announced


def test_http_1_0_is_never_told_to_continue() -> None:
    wire = Wire().say(TAKEN["http/1.0 that expects"].said[:-3])
    assert not wire.said
    assert wire.say(b"abc").said.startswith(b"HTTP/1.1 200")


# --- How it comes does not matter -----------------------------------------------------------------

ALL = {**REFUSED, **{name: each.said for name, each in {**TAKEN, **DELIBERATE}.items()}}


@pytest.mark.parametrize("name", ALL)
def test_pieces_change_nothing(name: str) -> None:
    """At once, byte by byte, and after a request of the same connection."""
    said = ALL[name] + MARKER
    whole = Wire().say(said)
    pieces = [1, 2, 7] if len(said) < SLICE_BYTES else [1000]
    for piece in pieces:
        split = Wire().say(said, piece)
        assert (split.asked, split.is_over) == (whole.asked, whole.is_over), piece
    after = Wire().say(MARKER).say(said)
    assert after.asked[1:] == whole.asked
    assert not whole.asked or name not in REFUSED


def by_h11(said: bytes) -> tuple[list[Asked], str]:
    """The requests that h11 takes from these bytes, each answered, and what it stops at."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 24)
    connection.receive_data(said)
    taken: list[Asked] = []
    body = bytearray()
    request: h11.Request | None = None
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            return taken, str(error)
        if isinstance(event, h11.Request):
            request, body = event, bytearray()
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            taken.append(Asked(request.method, request.target, bytes(body)))
            if request.method == b"CONNECT":
                return taken, "a tunnel"
            connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
        elif event is h11.PAUSED and connection.our_state is h11.DONE:
            connection.start_next_cycle()
        else:
            return taken, ""


@pytest.mark.parametrize("name", [*REFUSED, *TAKEN])
def test_what_we_take_h11_takes_and_sees_the_same(name: str) -> None:
    wire = Wire().say(ALL[name] + MARKER)
    taken, _ = by_h11(ALL[name] + MARKER)
    assert wire.asked == taken[: len(wire.asked)]


@pytest.mark.parametrize("name", DELIBERATE)
def test_where_we_differ_from_h11_is_known(name: str) -> None:
    """If h11 comes to take it too, it need not be listed."""
    taken, why = by_h11(ALL[name] + MARKER)
    assert not taken
    assert MEANT.match(why) or why == "bad Content-Length"
    assert len(Wire().say(ALL[name] + MARKER).asked) == 2


# --- Requests made by chance ----------------------------------------------------------------------

methods = st.sampled_from([b"GET", b"POST"] * 6 + [b"HEAD", b"OPTIONS", b"CONNECT", b"get", b"PRI"])
targets = st.sampled_from(
    [b"/", b"/a?b"] * 6 + [b"*", b"a", b"http://a/", b"/\xff", b"/%00", b"//a", b"/ ", b"/#", b""]
)
versions = st.sampled_from([b"HTTP/1.1"] * 12 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b""])
ends = st.sampled_from([b"\r\n"] * 30 + [b"\n", b"\r", b"\r\r\n", b"\r\n "])
colons = st.sampled_from([b": "] * 12 + [b":", b":\t", b" : ", b": \x0b", b"\t:"])
names = st.sampled_from(
    b"content-length Content-Length transfer-encoding Transfer-Encoding x connection expect te "
    b"upgrade trailer host content_length".split()
)
values = st.sampled_from(
    [
        *b"0 3 5 03 +3 3,3 chunked Chunked identity gzip,chunked close keep-alive".split(),
        *b"upgrade h2c 100-continue localhost \xe9 ;".split(),
        *(b"", b"chunked ", b" chunked", b"3 3", b"a\tb", b"a\0b", b"x, chunked"),
    ]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    head = draw(methods) + b" " + draw(targets) + b" " + draw(versions) + draw(ends)
    if draw(st.integers(0, 15)):
        head += b"host: localhost" + draw(ends)
    for _ in range(draw(st.integers(0, 2))):
        head += draw(names) + draw(colons) + draw(values) + draw(ends)
    form = draw(st.sampled_from(["none", "plain", "chunked", "other"]))
    body = b""
    if form == "plain":
        body = draw(st.sampled_from([b"abc", HIDDEN, b"0\r\n\r\n", b"\r\n"]))
        head += b"content-length: %d" % len(body) + draw(ends)
    elif form == "chunked":
        head += b"transfer-encoding: chunked" + draw(ends)
        for _ in range(draw(st.integers(0, 2))):
            data = draw(st.sampled_from([b"abc", HIDDEN, b"0\r\n\r\n"]))
            more = draw(
                st.sampled_from([b""] * 9 + [b";a", b";a=b", b' ;a="b"', b" ", b";\0", b";"])
            )
            zeros = draw(st.sampled_from([b""] * 9 + [b"0", b"000", b"0x", b"+"]))
            body += zeros + b"%x" % len(data) + more + draw(ends) + data + draw(ends)
        body += b"0" + draw(ends)
        body += draw(st.sampled_from([b""] * 9 + [b"x: y\r\n", b"content-length: 3\r\n", b"x\r\n"]))
        body += draw(ends)
    elif form == "other":
        body = draw(st.sampled_from([END, b"3\r\nabc\r\n0\r\n\r\n", b"abc", HIDDEN]))
    return head + draw(ends) + body


@st.composite
def conversations(draw: st.DrawFn) -> bytes:
    said = b"".join(draw(st.lists(requests(), min_size=1, max_size=3))) + MARKER
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(said) - 1))
        new = draw(
            st.sampled_from([b"", b"\r", b"\n", b" ", b"\0", b"\t", b":", b"0", b"\xff", b";"])
        )
        said = said[:at] + new + said[at + draw(st.integers(0, 1)) :]
    return said


@examples(600)
@given(said=conversations(), piece=st.integers(1, 40))
def test_whatever_is_said_we_take_no_more_than_h11(said: bytes, piece: int) -> None:
    wire = Wire().say(said)
    split = Wire().say(said, piece)
    assert (split.asked, split.is_over) == (wire.asked, wire.is_over)
    taken, why = by_h11(said)
    if wire.asked != taken[: len(wire.asked)]:
        assert wire.asked[: len(taken)] == taken
        assert MEANT.match(why), (why, wire.asked, taken)


LEARNT = [
    b"POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\nx: y\r\n\r\n",
    b"POST /a HTTP/1.1\r\nhost: localhost\r\nx: y\r\nContent-Length:  %d \r\n\r\n",
    b"POST /a HTTP/1.1\r\nhost: localhost\r\nx: content-length: 3\r\ncontent-length: %d\r\n\r\n",
    b"POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0%d\r\n\r\n",
    b"POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\nconnection: close\r\n\r\n",
    b"POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\nexpect: 100-continue\r\n\r\n",
    b"POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\nupgrade: a\r\n"
    b"connection: upgrade\r\n\r\n",
    b"POST /b HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n",
    b"POST /b HTTP/1.0\r\ncontent-length: %d\r\n\r\n",
]


@examples(300)
@given(
    said=st.lists(
        st.tuples(
            st.sampled_from([LEARNT[0]] * 6 + LEARNT),
            st.sampled_from([b"abc", b"abcdefghijkl", HIDDEN, b"", b"1" * 99, b"1" * 100]),
            st.sampled_from([0] * 9 + [-1, 1, 30]),
        ),
        min_size=2,
        max_size=12,
    )
)
def test_a_head_that_comes_again_means_the_same(said: list[tuple[bytes, bytes, int]]) -> None:
    """Each request in a read of its own, where a connection may know the head again; its length
    right or wrong. Against all of them byte by byte, where it cannot."""
    parts = [head % max(0, len(body) + wrong) + body for head, body, wrong in said]
    known, parsed = Wire(), Wire()
    for part in parts:
        known.say(part)
    parsed.say(b"".join(parts), 1)
    assert (known.asked, known.is_over) == (parsed.asked, parsed.is_over)
