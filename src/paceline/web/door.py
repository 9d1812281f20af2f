"""What every request to a front passes on its way in and out: identity, bounds, access, counting.

For hot requests plain functions, for all others an ASGI application around the routes. It names
the request, holds the number in flight to its bound, asks the gate who calls, turns every error
into an answer, and counts. When the front drains it refuses what is new and, at the end, ends what
is unfinished. Whatever happens inside, each request is answered once.
"""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Protocol

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paceline.access.gate import Caller, Gate
from paceline.clock import Chance, Clock
from paceline.net.answers import (
    draining,
    error_body,
    error_event,
    error_headers,
    rendered,
    send_error,
)
from paceline.net.exchange import Exchange, Hot
from paceline.observe import log
from paceline.observe.board import Board, Counter
from paceline.terms.errors import Overloaded, PacelineError
from paceline.terms.limits import FLUSH_S, IN_FLIGHT
from paceline.terms.metric import HTTP_REQUESTS, REFUSED, Metric
from paceline.terms.metric import IN_FLIGHT as IN_FLIGHT_METRIC

HEALTH = "/health/"
ENDLESS = "/api/events"
"""The page's stream never ends by itself, so a drain does not wait for it."""

REQUEST_ID_CHARS = 64
TARGETS = 1024
"""of which the counters are remembered; beyond it all are forgotten, and found again"""

NAMES = 64
"""drawn at once"""

HARMLESS = re.compile(rb"[ -~]+")
NAMED_AREAS = ("v1", "v2", "predict", "feedback", "health", "metrics", "api", "login")
AREAS = {b"": "page", **{area.encode(): area for area in NAMED_AREAS}}

logger = log.get(__name__)
access_log = log.get(log.ACCESS)


class InHand(Protocol):
    """One request between its head and the end of its answer."""

    endless: bool

    def cut(self) -> None:
        """Its time is over: it is answered 503, or its stream ends."""


class Refusal:
    """What is told to a hot request that is refused; the same to many, but for their names."""

    __slots__ = ("_body", "_headers", "error")

    def __init__(self, error: PacelineError) -> None:
        self.error = error
        self._body = error_body(error)[:-1]
        content_type, _, *others = error_headers(error, self._body)  # the length is the door's
        self._headers = rendered([content_type, *others])

    def to(self, request_id: bytes) -> tuple[bytes, bytes]:
        """Headers and body."""
        name = b'"%b"' % request_id
        if b'"' in request_id or b"\\" in request_id:
            name = msgspec.json.encode(request_id.decode())
        headers = self._headers + b"x-request-id: %b\r\n" % request_id
        return headers, b'%b,"request_id":%b}' % (self._body, name)


class Held:
    """One hot request in hand: it has no task, and is answered by whoever finishes it. Made with
    its head, by `Inference` and `Llm`; ends once, however that comes about."""

    __slots__ = ("answered", "door", "endless", "exchange", "id")

    def __init__(self, door: "Door", exchange: Exchange) -> None:
        self.answered = False
        self.endless = False
        self.door = door
        self.exchange = exchange
        self.id = door.request_id(exchange.own_headers)
        door.enter(self)

    def answer(self, status: int, headers: bytes, *parts: "bytes | bytearray | memoryview") -> bool:
        """Whether it was the first."""
        if self.answered:
            return False
        self.end(status)
        exchange = self.exchange
        exchange.connection.answer(exchange, status, headers, parts)
        return True

    def refuse(self, error: PacelineError) -> None:
        if self.answered:
            return
        self.door.refused(error)
        self.answer(error.http, *Refusal(error).to(self.id))

    def end(self, status: int) -> None:
        """What it held is free again. 0: it has no answer, for its caller has gone."""
        if not self.answered:
            self.answered = True
            self.door.leave(self)
            self.door.count(self.exchange.method, self.exchange.target, self.id, status)
            self.ended(status)

    def ended(self, status: int) -> None:
        """For whoever holds more."""

    def cut(self) -> None:
        self.fail(draining())

    def fail(self, error: PacelineError) -> None:
        self.refuse(error)


class _Task:
    """One request that is answered by the ASGI application, in a task of its own."""

    __slots__ = ("endless", "id", "is_cut", "status", "streaming", "task")

    def __init__(self, request_id: bytes, endless: bool) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.id = request_id.decode()
        self.task = task
        self.endless = endless
        self.status = 0
        self.streaming = False
        self.is_cut = False

    def cut(self) -> None:
        self.is_cut = True
        self.task.cancel()


class Begin(Protocol):
    """Begins a hot request by its head; None where it is for somebody else."""

    def __call__(self, exchange: Exchange, door: "Door") -> "Callable[[Exchange], None] | None": ...


class Door:
    def __init__(
        self,
        app: ASGIApp,
        gate: Gate,
        board: Board,
        clock: Clock,
        chance: Chance,
        *begin: Begin,
    ) -> None:
        self._app = app
        self._begin = begin
        self.hot: Hot | None = self._begun if begin else None
        """for the connection, which asks here before it asks the application"""
        self.gate = gate
        """Its ring is another one when a key comes or goes: what one said then holds no more."""
        self._clock = clock
        self._board = board
        self._refusing = False
        self._in_hand: set[InHand] = set()
        self._in_flight = board.gauge(IN_FLIGHT_METRIC).cell
        self._counters: dict[tuple[str, ...], Counter] = {}
        self._answered: dict[tuple[bytes, int], Counter] = {}
        self._refused: dict[str, Counter] = {}
        self._emptied: asyncio.Event | None = None
        self._names = _names(chance)

    def _begun(self, exchange: Exchange) -> "Callable[[Exchange], None] | None":
        """Of those who answer hot requests, whoever knows the address."""
        for begin in self._begin:
            listener = begin(exchange, self)
            if listener is not None:
                return listener
        return None

    def why_not_ready(self) -> str:
        return "as many requests are in hand as may be" if len(self._in_hand) > IN_FLIGHT else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        path: str = scope["path"]
        in_hand = _Task(self.request_id(scope["headers"]), path == ENDLESS)
        scope["state"]["request_id"] = in_hand.id
        self.enter(in_hand)
        try:
            log.request_id.set(in_hand.id)
            await self._answer(scope, receive, self._watched(send, in_hand), in_hand)
        finally:
            self.leave(in_hand)
            method: str = scope["method"]
            self.count(method.encode(), path.encode(), in_hand.id.encode(), in_hand.status)

    # --- What every request passes, hot or not ----------------------------------------------------

    def admit(self, method: str, path: str, headers: list[tuple[bytes, bytes]]) -> Caller:
        return self.gate.admit(method, path, headers, self._clock.wall())

    @property
    def is_open(self) -> bool:
        return not self._refusing and len(self._in_hand) <= IN_FLIGHT

    def why_closed(self) -> PacelineError | None:
        if self._refusing:
            return draining()
        if len(self._in_hand) > IN_FLIGHT:
            return Overloaded(
                "this front holds as many requests as it may",
                value=IN_FLIGHT,
                remedy="Send fewer at a time, or start more fronts with --fronts.",
            )
        return None

    def check_open(self) -> None:
        error = self.why_closed()
        if error is not None:
            raise error

    def request_id(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The caller's own if it is harmless in a log and a header, else a new one."""
        for name, value in headers:
            if name == b"x-request-id" and 0 < len(value) <= REQUEST_ID_CHARS:
                if HARMLESS.fullmatch(value):
                    return value
                break
        return next(self._names)

    def enter(self, in_hand: InHand) -> None:
        self._in_hand.add(in_hand)
        self._in_flight[0] = len(self._in_hand)

    def leave(self, in_hand: InHand) -> None:
        self._in_hand.discard(in_hand)
        self._in_flight[0] = left = len(self._in_hand)
        if not left and self._emptied is not None:
            self._emptied.set()

    def refused(self, error: PacelineError) -> None:
        counter = self._refused.get(error.code)
        if counter is None:
            counter = self._refused[error.code] = self._board.counter(REFUSED, error.code)
        counter.cell[0] += 1

    def refuse(self, exchange: Exchange, refusal: Refusal) -> bytes:
        """At once, before it is in hand; returns the name of the request."""
        request_id = self.request_id(exchange.own_headers)
        status = refusal.error.http
        self.refused(refusal.error)
        self.count(exchange.method, exchange.target, request_id, status)
        exchange.answer(status, *refusal.to(request_id))
        return request_id

    def count(self, method: bytes, target: bytes, request_id: bytes, status: int) -> None:
        counter = self._answered.get((target, status))
        if counter is None:
            if len(self._answered) >= TARGETS:
                self._answered.clear()
            counter = self._counter(HTTP_REQUESTS, _area(target), str(status))
            self._answered[target, status] = counter
        counter.cell[0] += 1
        if access_log.is_on:
            log.request_id.set(request_id.decode())
            path = target.partition(b"?")[0].decode()
            access_log.info("request", method=method.decode(), path=path, status=status)

    # --- The end ----------------------------------------------------------------------------------

    def begin_drain(self, refuse: bool) -> None:
        """What could go on for ever ends now. `refuse` what is new where the whole server stops;
        where only this front leaves, what its connections still send is answered."""
        self._refusing = refuse
        self._cut(endless_only=True)

    async def empty(self) -> None:
        """Returns when nothing is in hand."""
        while self._in_hand:
            self._emptied = self._emptied or asyncio.Event()
            self._emptied.clear()
            await self._emptied.wait()

    async def finish(self, within_s: float) -> None:
        """Returns when nothing is in hand, at the latest shortly after `within_s`."""
        try:
            async with asyncio.timeout(within_s):
                await self.empty()
        except TimeoutError:
            logger.warning("unfinished requests are answered 503", requests=len(self._in_hand))
            self._cut(endless_only=False)
            with suppress(TimeoutError):  # a caller who does not read cannot be waited for
                async with asyncio.timeout(FLUSH_S):
                    await self.empty()

    async def _answer(self, scope: Scope, receive: Receive, send: Send, in_hand: _Task) -> None:
        path: str = scope["path"]
        try:
            if not path.startswith(HEALTH):
                self.check_open()
            scope["state"]["caller"] = self.admit(scope["method"], path, scope["headers"])
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not in_hand.is_cut:
                raise
            in_hand.task.uncancel()  # it has one more thing to do
            await self._refuse(send, draining(), in_hand)
        except PacelineError as error:
            await self._refuse(send, error, in_hand)
        except Exception:  # the last resort: a bug of ours is answered, and logged whole
            logger.exception("a request failed inside Paceline")
            await self._refuse(send, bug(in_hand.id), in_hand)

    async def _refuse(self, send: Send, error: PacelineError, in_hand: _Task) -> None:
        self.refused(error)
        if in_hand.streaming:
            await send({"type": "http.response.body", "body": error_event(error)})
        elif not in_hand.status:
            await send_error(send, error, in_hand.id)
        # else an answer of known length is cut short: its connection closes, and the caller sees

    def _watched(self, send: Send, in_hand: _Task) -> Send:
        """Notes what is answered, and adds the headers that every answer has."""

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                in_hand.status = message["status"]
                headers = list(message.get("headers", ()))
                content_type = dict(headers).get(b"content-type", b"")
                in_hand.streaming = content_type.startswith(b"text/event-stream")
                headers.append((b"x-request-id", in_hand.id.encode()))
                message = {**message, "headers": headers}
            await send(message)

        return watched

    def _cut(self, endless_only: bool) -> None:
        for each in list(self._in_hand):
            if each.endless or not endless_only:
                each.cut()

    def _counter(self, metric: Metric, *labels: str) -> Counter:
        key = (metric.name, *labels)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self._board.counter(metric, *labels)
        return counter


def bug(request_id: str) -> PacelineError:
    return PacelineError(
        "an unexpected error inside Paceline",
        remedy=f"The server's log has the details under request {request_id}.",
    )


def _names(chance: Chance) -> Iterator[bytes]:
    """Of requests that brought none; many are drawn at once, for that costs as much as one."""
    while True:
        drawn = b"%0*x" % (NAMES * 16, chance.bits(NAMES * 64))
        for at in range(0, len(drawn), 16):
            yield drawn[at : at + 16]


def _area(target: bytes) -> str:
    """The first part of the path where it is one of ours: a bounded label."""
    first = target[1:].partition(b"?")[0].partition(b"/")[0]
    return AREAS.get(first, "other")
