"""One accepted connection: bytes to requests, answers to bytes, HTTP/1.1 by httptools (llhttp).

One request is in hand at a time. What a caller sends beyond it is held in small bounds, and the
rest waits in the kernel, so pipelining costs no memory and answers cannot overtake each other.
`hot` is asked first, a plain function: it is called with the head, what it returns with the whole
body, and it answers whenever it likes. What it declines goes to the ASGI application (`asgi.py`).
Whatever cannot be understood is answered once, and ends the connection.

Not a server: who listens and stops is `server.py`. No routes, no JSON but of errors.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import httptools

from paceline.net.answers import STATUS_LINES, error_body, error_headers, rendered
from paceline.net.asgi import AsgiCall
from paceline.net.exchange import Exchange, Hot
from paceline.net.known_heads import KnownHead
from paceline.net.pieces import Pieces
from paceline.terms.errors import (
    BadRequest,
    DeadlineExceeded,
    HeadTooLarge,
    NotOffered,
    Overloaded,
    PacelineError,
    TooLarge,
    WrongVersion,
)
from paceline.terms.limits import (
    ARRIVING,
    DISCARD_BYTES,
    DISCARD_S,
    HEAD_BYTES,
    HEAD_S,
    KEEP_ALIVE_S,
    SEND_S,
    SENT_LEAST_BYTES,
    SLICE_BYTES,
    TURN_REQUESTS,
)

FOREVER = float("inf")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

FOREIGN = frozenset(
    b"CONNECT SOURCE DESCRIBE ANNOUNCE SETUP PLAY PAUSE TEARDOWN GET_PARAMETER SET_PARAMETER "
    b"REDIRECT RECORD FLUSH".split()
)
"""Methods that open a tunnel, where a proxy could take the rest for something else, and those of
RTSP and ICE, which llhttp reads as well."""

VARYING = frozenset(
    b"content-length inference-header-content-length x-request-id traceparent tracestate".split()
)
"""Headers that say something of one request; what the others say holds until they change."""

SPENT = httptools.HttpRequestParser(object())
"""In the place of a parser that is fed no more: it and its connection hold each other, and the
collector looks rarely."""

LEARNT_MOST = 4
"""times that the head of a connection is learnt; beyond it, its heads differ too often"""


class Connection(asyncio.Protocol):
    """From accept to close."""

    __slots__ = (
        "__weakref__",
        "_advancing",
        "_broken",
        "_closing",
        "_current",
        "_discard_bytes",
        "_eof",
        "_head_fed",
        "_held",
        "_hosts",
        "_hot",
        "_in_head",
        "_known",
        "_learnt",
        "_leaving",
        "_loop",
        "_lost",
        "_now",
        "_parser",
        "_paused",
        "_reading",
        "_ready",
        "_served",
        "_server",
        "_timer",
        "_timer_s",
        "_unread",
        "_until_before_s",
        "_until_s",
        "arriving_bytes",
        "memo",
        "quiet_since_s",
        "transport",
        "write_paused",
    )

    def __init__(self, server: Any) -> None:
        self._server = server
        self._loop = server.loop
        self._now: Callable[[], float] = server.now
        self._hot: Hot | None = server.hot
        self.transport: asyncio.Transport
        self.memo: Any = None
        """for whoever answers: what it found out about the headers of this connection"""
        self._parser = httptools.HttpRequestParser(self)
        self._reading: Exchange | None = None
        """its head or body still arrives"""
        self._in_head = False
        self._head_fed = 0
        self._hosts = 0
        """headers Host in this head"""
        self._ready: deque[Exchange] = deque()
        """complete, not begun"""
        self._current: Exchange | None = None
        self._held = b""
        self._paused = False
        self.write_paused = False
        """the caller does not take what was written"""
        self._unread = 0
        """bytes of answers, when that was last looked at"""
        self.arriving_bytes = 0
        """of bodies that arrive; kept by the server"""
        self._broken: PacelineError | None = None
        self._eof = False
        self._advancing = False
        self._leaving = False
        self._closing = False
        self._lost = False
        self._served = 0
        self._known: KnownHead | None = None
        self._learnt = 0
        self._discard_bytes: int | None = None
        self._until_s = FOREVER
        self._until_before_s = FOREVER
        """what it was before the caller left an answer unread"""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = FOREVER
        self.quiet_since_s = 0.0

    # --- What the loop tells ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.quiet_since_s = self._now()
        self._server.made(self)
        self.within(HEAD_S)

    def data_received(self, data: bytes) -> None:
        if self._discard_bytes is not None:
            self._discard_bytes -= len(data)
            if self._discard_bytes < 0:
                self.transport.abort()
            return
        if self._closing:
            return
        known = self._known
        current = self._current
        if (
            known is not None
            and current is None
            and self._reading is None
            and not (self._held or self._ready or self.write_paused)
        ):
            exchange = known.again(data, self)
            if exchange is not None:
                self._begin(exchange)  # where it is answered at once, `finished` goes on
                return
        if (
            self._held
            or self.write_paused
            or (current is not None and current is not self._reading)
        ):
            self._held += data
            self._pause()
            return
        if len(data) > SLICE_BYTES and not self._reads_plainly():
            self._held = data
        elif self._reading is None and self._learnt < LEARNT_MOST:
            self._feed(data)
            self._learn(data)
        else:
            self._feed(data)
        self._advance()

    def eof_received(self) -> bool:
        if self._discard_bytes is not None:
            return False
        self._eof = True
        current = self._current
        if current is not None and current.gone_at_eof and current.complete:
            self.abort()
            return False
        self._advance()
        # Whoever has no more to say may still listen, but not where both halves end at once (TLS).
        return not self._closing and self.transport.can_write_eof()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._server.lost(self)
        self._parser = SPENT
        self._ready.clear()
        self._held = b""
        exchange, self._current, self._reading = self._current, None, None
        if exchange is not None and (not exchange.answered or exchange.out is not None):
            exchange.answered = True
            if exchange.out is not None:
                exchange.out.forget()
                exchange.out = None
            if exchange.stream is not None:
                exchange.stream.left()
            elif exchange.gone is not None:
                exchange.gone()
            exchange.fail = exchange.gone = exchange.listener = None
            exchange.on_full = exchange.on_room = None

    def pause_writing(self) -> None:
        self.write_paused = True
        self._unread = self.transport.get_write_buffer_size()
        self._until_before_s = self._until_s
        self.within(SEND_S)
        current = self._current
        if current is not None and current.out is not None and current.on_full is not None:
            current.on_full()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._closing:  # its last moment stays what it is
            return
        current = self._current
        if current is None:
            self.within(KEEP_ALIVE_S)
        else:
            self._until_s = self._until_before_s
            if current.stream is not None:
                current.stream.writable()
            elif current.out is not None:
                current.out.room()
                if current.on_room is not None:
                    current.on_room()
        self._advance()

    # --- What the server tells --------------------------------------------------------------------

    def leave(self) -> None:
        """No request after the one in hand, or after the first if none has come yet."""
        self._leaving = True

    @property
    def between_requests(self) -> bool:
        """Nothing is in hand, and nothing has begun to arrive."""
        nothing_came = self._reading is None and not self._held and not self._ready
        return self._current is None and nothing_came

    @property
    def never_asked(self) -> bool:
        return self._served == 0

    # --- What the parser tells --------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._reading = Exchange(self)
        self._in_head = True
        self._head_fed = self._hosts = 0

    def on_url(self, url: bytes) -> None:
        if self._reading is not None:
            self._reading.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        exchange = self._reading
        if exchange is None or not self._in_head:
            if exchange is not None:
                exchange.head_bytes += len(name) + len(value)  # a trailer: dropped, but counted
            return
        name = name.lower()
        exchange.head_bytes += len(name) + len(value)
        if name == b"content-length":
            exchange.length = int(value)
        elif name == b"transfer-encoding":
            exchange.chunked = True
            if value.lower() != b"chunked":
                self._broken = _not_http("a transfer encoding other than chunked")
        elif name == b"host":
            self._hosts += 1
        elif name == b"expect" and value.lower() == b"100-continue":
            exchange.expects = True
        if name in VARYING:
            exchange.own_headers.append((name, value))
        else:
            exchange.steady_headers.append((name, value))

    def on_headers_complete(self) -> None:
        exchange = self._reading
        if exchange is None:
            return
        self._in_head = False
        exchange.method = self._parser.get_method()
        exchange.version = self._parser.get_http_version()
        exchange.keeps_alive = self._parser.should_keep_alive() and exchange.version == "1.1"
        if exchange.head_bytes > HEAD_BYTES:
            self._broken = _head_too_large()
        elif exchange.version not in ("1.0", "1.1"):
            self._broken = WrongVersion(
                "a version of HTTP other than 1.0 and 1.1",
                value=exchange.version,
                remedy="Send HTTP/1.1.",
            )
        elif self._hosts > 1 or (self._hosts == 0 and exchange.version == "1.1"):
            self._broken = _not_http("it must have one header Host")
        elif exchange.method in FOREIGN:
            self._broken = _not_http("it has a method of another protocol, or asks for a tunnel")
        elif exchange.target[:1] != b"/" and exchange.target != b"*":
            self._broken = _not_http("the target is not a path")
        elif not exchange.target.isascii():
            self._broken = _not_http("the target has bytes that must be written as %XX")
        elif exchange.chunked and (exchange.version == "1.0" or self._parser.should_upgrade()):
            self._broken = _not_http("chunks in HTTP/1.0, or with an upgrade")
        elif exchange.version == "1.0":
            exchange.expects = False  # it knows no 100

    def on_body(self, piece: bytes) -> None:
        exchange = self._reading
        if exchange is None or self._broken is not None:
            return
        exchange.received += len(piece)
        if exchange.stream is not None:
            exchange.stream.piece(piece)
        elif not exchange.body:
            exchange.body = piece
        else:
            if isinstance(exchange.body, bytes):
                exchange.body = bytearray(exchange.body)
            exchange.body += piece
            if exchange.begun:
                self._server.grows(self, len(piece))

    def on_message_complete(self) -> None:
        exchange = self._reading
        if exchange is None or exchange.received < exchange.length:
            return  # an upgrade is declined: the parser skips the body, which comes all the same
        self._reading = None
        if self._broken is not None:
            return
        exchange.complete = True
        if exchange.begun:
            self._whole(exchange)
        else:
            self._ready.append(exchange)

    # --- From bytes to requests -------------------------------------------------------------------

    def _reads_plainly(self) -> bool:
        """Of a body of known length, what is still to come: it needs no parser."""
        exchange = self._reading
        return exchange is not None and not self._in_head and exchange.length > 0

    def _feed(self, data: bytes) -> None:
        if self._reads_plainly():
            data = self._take(data)
            if not data:
                return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offered:  # declined by answering
            self._parser = httptools.HttpRequestParser(self)
            self._held = data[offered.args[0] :] + self._held
        except httptools.HttpParserInvalidMethodError:
            self._broken = NotOffered(
                "the request's method is none that HTTP servers know",
                remedy="Send GET or POST.",
            )
        except httptools.HttpParserError as error:
            if self._broken is None:
                self._broken = _not_http(str(error.__context__ or error))
        if self._in_head:
            self._head_fed += len(data)
        exchange = self._reading
        if exchange is not None and max(exchange.head_bytes, self._head_fed) > HEAD_BYTES:
            self._broken = _head_too_large()
        if exchange is not None and exchange.begun and self._broken is None:
            self._check_body(exchange)

    def _learn(self, data: bytes) -> None:
        """These bytes were fed between two requests: if they were one, its head is known now."""
        if len(self._ready) == 1 and self._reading is None and self._broken is None:
            self._learnt += 1
            self._known = KnownHead.of(data, self._ready[0])

    def _take(self, data: bytes) -> bytes:
        """Into the body without the parser; what belongs to the next request is returned."""
        exchange = self._reading
        assert exchange is not None
        missing = exchange.length - exchange.received
        self.on_body(data if len(data) <= missing else data[:missing])
        if len(data) < missing:
            self._check_body(exchange)
            return b""
        self._parser = httptools.HttpRequestParser(self)
        self.on_message_complete()
        return data[missing:]

    def _check_body(self, exchange: Exchange) -> None:
        if exchange.stream is None and not exchange.answered:
            known = exchange.length if exchange.length else len(exchange.body)
            if known > exchange.body_most:
                self._fail(exchange, too_large(exchange.body_most))

    def _advance(self) -> None:
        """Begins what can be begun, until a request is in hand or more bytes are needed."""
        if self._advancing:
            return
        self._advancing = True
        begun, sliced = 0, False
        try:
            while not self._closing and not self.write_paused:
                current = self._current
                if current is None:
                    if self._ready:
                        if begun == TURN_REQUESTS:
                            self._go_on_soon()
                            return
                        begun += 1
                        self._begin(self._ready.popleft())
                        continue
                    if self._reading is not None and not self._in_head and self._broken is None:
                        self._begin(self._reading)
                        continue
                if self._broken is not None:
                    if current is None or current is self._reading:
                        self._break()
                    return
                if current is not None and current is not self._reading:
                    return
                if self._held and current is not None and self._reads_plainly():
                    missing = current.length - current.received
                    data, self._held = self._held[:missing], self._held[missing:]
                    self._feed(data)  # a copy: this is no work that could hold others up
                    continue
                if self._held:
                    if sliced:
                        self._go_on_soon()
                        return
                    sliced = True
                    data, self._held = self._held[:SLICE_BYTES], self._held[SLICE_BYTES:]
                    self._feed(data)
                    continue
                if self._eof:
                    self._end_of_input()
                    return
                break
        finally:
            self._advancing = False
        if not self._closing and not self.write_paused:
            self._await_more()

    def _go_on_soon(self) -> None:
        """One slice, and few requests, in a turn of the loop: what is answered at once would else
        hold it until its caller has no more to say."""
        self._pause()
        self._server.goes_on(self)

    def go_on(self) -> None:
        """It is this one's turn."""
        self._advance()

    def _await_more(self) -> None:
        current = self._current
        if current is None:
            if self._reading is not None:
                if self._until_s > self._now() + HEAD_S:
                    self.within(HEAD_S)
            elif self._leaving and self._served:
                self._close()
                return
        elif current.stream is not None and current.stream.full:
            return
        if self._paused:
            self._paused = False
            self.transport.resume_reading()

    def _begin(self, exchange: Exchange) -> None:
        self._current = exchange
        exchange.begun = True
        self._until_s = FOREVER
        hot = self._hot
        listener = None if hot is None else hot(exchange)
        if exchange.answered:
            return
        if listener is None:
            exchange.stream = AsgiCall(self, exchange, self._server)
            if exchange.body:
                exchange.stream.piece(bytes(exchange.body))
            if exchange.complete:
                exchange.stream.end()
            else:
                self._server.arrives(self)
            exchange.stream.start()
            return
        if exchange.complete:
            if len(exchange.body) > exchange.body_most:
                self._fail(exchange, too_large(exchange.body_most))
                return
            listener(exchange)
            return
        exchange.listener = listener
        self._check_body(exchange)
        if not exchange.answered:
            self._server.arrives(self)
            if exchange.expects:
                self.transport.write(CONTINUE)

    def give_way(self) -> None:
        """Too many bodies arrive at once, and this one has taken longest."""
        exchange = self._current
        assert exchange is not None
        error = Overloaded(
            "too many requests arrive slowly, and this one is the oldest of them",
            value=ARRIVING,
            remedy="Send the body at once, right behind the head.",
        )
        if exchange.stream is not None:
            exchange.stream.broken(error)
        else:
            self._fail(exchange, error)

    def _whole(self, exchange: Exchange) -> None:
        self._server.arrived(self)
        if exchange.stream is not None:
            exchange.stream.end()
        elif exchange.listener is not None and not exchange.answered:
            if len(exchange.body) > exchange.body_most:
                self._fail(exchange, too_large(exchange.body_most))
                return
            self._until_s = FOREVER
            exchange.listener(exchange)

    def _end_of_input(self) -> None:
        if self._current is not None or self._reading is not None:
            self._broken = _not_http("the connection ended in the middle of a request")
            self._break()
        else:
            self._close()

    def _fail(self, exchange: Exchange, error: PacelineError) -> None:
        if exchange.fail is not None:
            exchange.fail(error)
        else:
            self._refuse(exchange, error)

    def _break(self) -> None:
        """What cannot be understood ends the connection, after one answer that says so."""
        assert self._broken is not None
        exchange = self._current or self._reading or Exchange(self)
        if exchange.stream is not None:
            exchange.stream.broken(self._broken)
            return
        exchange.complete = False
        self._current = exchange
        self._fail(exchange, self._broken)

    def _refuse(self, exchange: Exchange, error: PacelineError) -> None:
        exchange.complete = False
        body = error_body(error)
        self._current = exchange
        self.answer(exchange, error.http, rendered(error_headers(error, body)[:-1]), (body,))

    # --- From answers to bytes --------------------------------------------------------------------

    def answer(
        self,
        exchange: Exchange,
        status: int,
        headers: bytes,
        parts: "tuple[bytes | bytearray | memoryview, ...]",
    ) -> None:
        if exchange.answered:
            return
        exchange.answered = True
        exchange.fail = exchange.gone = exchange.listener = None
        # They hold each other; the collector rarely looks, and bodies are large.
        exchange.body = b""
        if self._lost:
            return
        size = sum(map(len, parts))
        goes_on = exchange.keeps_alive and exchange.complete and not self._leaving
        head = b"%b%b%bcontent-length: %d\r\n%b" % (
            STATUS_LINES[status],
            self._server.stamp(),
            headers,
            size,
            b"\r\n" if goes_on else b"connection: close\r\n\r\n",
        )
        if exchange.method == b"HEAD":
            self.transport.write(head)
        elif size <= SLICE_BYTES:
            self.transport.write(head + parts[0] if len(parts) == 1 else b"".join((head, *parts)))
        else:
            self.transport.writelines((head, *parts))
        self.finished(exchange, goes_on)

    def begin_answer(self, exchange: Exchange, status: int, headers: bytes) -> None:
        if exchange.answered:
            return
        assert exchange.complete, "an answer in pieces before the body of the request is whole"
        exchange.answered = True
        exchange.fail = exchange.listener = None
        exchange.body = b""
        server = self._server
        exchange.out = Pieces(self, exchange, server.corks, status, server.stamp() + headers)

    def unread(self, size: int) -> None:
        """So much is written though the caller takes no more: that is not what it left unread."""
        self._unread += size

    def finished(self, exchange: Exchange, goes_on: bool) -> None:
        """The answer is on its way. Unless it goes on, the connection ends with it."""
        self._served += 1
        self._current = None
        if self._lost:
            return
        if not goes_on:
            if not exchange.complete and not self._eof:
                self._discard_rest()
            else:
                self._close()
            return
        if not self.write_paused:
            self.quiet_since_s = now = self._now()
            self._until_s = now + KEEP_ALIVE_S
        if self._held or self._ready or self._leaving or self._eof or self._paused or self._reading:
            self._advance()

    def more_room(self) -> None:
        """The application has taken what had arrived."""
        self._advance()

    def _discard_rest(self) -> None:
        """Closing over unread bytes resets the connection, and the answer could be lost with it."""
        self._closing = True
        self._server.arrived(self)
        self._held = b""
        self._ready.clear()
        self._reading = None
        if self.transport.can_write_eof():  # not with TLS
            self.transport.write_eof()
        self._discard_bytes = DISCARD_BYTES
        self.within(DISCARD_S)
        if self._paused:
            self._paused = False
            self.transport.resume_reading()

    def _close(self) -> None:
        self._closing = True
        self._server.arrived(self)
        self.transport.close()
        self.within(SEND_S)

    def abort(self) -> None:
        self._closing = True
        self.transport.abort()

    # --- Time -------------------------------------------------------------------------------------

    def within(self, seconds: float) -> None:
        """From now on; what it means depends on what is awaited. The timer is only ever set for an
        earlier moment, so that a request costs none."""
        if self._lost:
            return
        self._until_s = self._now() + seconds
        if self._until_s < self._timer_s:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_s = self._until_s
            self._timer = self._loop.call_later(seconds, self._ring)

    def _ring(self) -> None:
        now = self._now()
        self._timer, self._timer_s = None, FOREVER
        if self._until_s > now + 0.001:
            self._timer_s = min(self._until_s, now + KEEP_ALIVE_S)
            self._timer = self._loop.call_later(self._timer_s - now, self._ring)
            return
        exchange = self._current
        if self.write_paused and not self._closing and self._reads_on():
            self.within(SEND_S)
            return
        if self._closing or self.write_paused or exchange is None:
            if self._discard_bytes is not None or self.write_paused or self._closing:
                self.transport.abort()
            else:
                self._close()  # silent for too long
        elif exchange.stream is None and not exchange.complete:
            self._fail(exchange, too_late())

    def _reads_on(self) -> bool:
        """Whether the caller has read of its answer since this was asked last."""
        before, self._unread = self._unread, self.transport.get_write_buffer_size()
        return self._unread <= before - SENT_LEAST_BYTES

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def hold_back(self) -> None:
        """The application has not yet taken what arrived."""
        self._pause()

    def say_continue(self) -> None:
        if not self._lost:
            self.transport.write(CONTINUE)

    @property
    def lost_caller(self) -> bool:
        return self._lost

    @property
    def leaving(self) -> bool:
        return self._leaving


def _not_http(why: str) -> BadRequest:
    return BadRequest(
        f"the request is not valid HTTP/1.1: {why}",
        remedy="Send it with an HTTP client; in a head or a chunk every byte counts.",
    )


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(
        "the head of the request is larger than this server reads",
        value=f"over {HEAD_BYTES} bytes",
        remedy="Send fewer or shorter headers, and what is long in the body.",
    )


def too_large(most: int) -> TooLarge:
    return TooLarge(
        "the body is larger than this server reads",
        value=f"over {most} bytes",
        remedy="Send fewer rows in one request.",
    )


def too_late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "the request's deadline passed before it could be answered",
        remedy="Send the whole body at once, or a longer x-timeout-ms.",
    )
