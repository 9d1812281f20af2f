"""What every request to a front passes on its way in and out: identity, bounds, access, counting.

An ASGI application around the routes. It names the request, holds the number in flight to its
bound, asks the gate who calls, turns every error into an answer, and counts. When the front drains
it refuses what is new and, at the end, ends what is unfinished. Whatever happens inside, each
request is answered once.
"""

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paceline.access.gate import Gate
from paceline.clock import Chance, Clock
from paceline.net.answers import draining, error_event, send_error
from paceline.observe import log
from paceline.observe.board import Board, Counter
from paceline.terms.errors import Overloaded, PacelineError
from paceline.terms.limits import FLUSH_S, IN_FLIGHT
from paceline.terms.metric import HTTP_REQUESTS, REFUSED
from paceline.terms.metric import IN_FLIGHT as IN_FLIGHT_METRIC

HEALTH = "/health/"
ENDLESS = "/api/events"
"""The page's stream never ends by itself, so a drain does not wait for it."""

REQUEST_ID_CHARS = 64
AREAS = ("v2", "predict", "health", "metrics", "api", "login")

logger = log.get(__name__)
access_log = log.get(log.ACCESS)


class InHand:
    """One request between its head and the end of its answer."""

    __slots__ = ("cut", "endless", "id", "status", "streaming", "task")

    def __init__(self, request_id: str, endless: bool) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.id = request_id
        self.task = task
        self.endless = endless
        self.status = 0
        self.streaming = False
        self.cut = False


class Door:
    def __init__(
        self, app: ASGIApp, gate: Gate, board: Board, clock: Clock, chance: Chance
    ) -> None:
        self._app = app
        self._gate = gate
        self._clock = clock
        self._chance = chance
        self._board = board
        self._refusing = False
        self._in_hand: set[InHand] = set()
        self._in_flight = board.gauge(IN_FLIGHT_METRIC)
        self._counters: dict[tuple[str, ...], Counter] = {}
        self.empty = asyncio.Event()
        self.empty.set()

    def why_not_ready(self) -> str:
        return "as many requests are in hand as may be" if len(self._in_hand) > IN_FLIGHT else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        path: str = scope["path"]
        in_hand = InHand(self._request_id(scope), path == ENDLESS)
        scope["state"]["request_id"] = in_hand.id
        self._enter(in_hand)
        try:
            log.request_id.set(in_hand.id)
            await self._answer(scope, receive, self._watched(send, in_hand), in_hand)
        finally:
            self._leave(in_hand)
            self._count(HTTP_REQUESTS.name, _area(path), str(in_hand.status))
            access_log.info("request", method=scope["method"], path=path, status=in_hand.status)

    def begin_drain(self, refuse: bool) -> None:
        """What could go on for ever ends now. `refuse` what is new where the whole server stops;
        where only this front leaves, what its connections still send is answered."""
        self._refusing = refuse
        self._cut(endless_only=True)

    async def finish(self, within_s: float) -> None:
        """Returns when nothing is in hand, at the latest shortly after `within_s`."""
        try:
            async with asyncio.timeout(within_s):
                await self.empty.wait()
        except TimeoutError:
            logger.warning("unfinished requests are answered 503", requests=len(self._in_hand))
            self._cut(endless_only=False)
            with suppress(TimeoutError):  # a caller who does not read cannot be waited for
                async with asyncio.timeout(FLUSH_S):
                    await self.empty.wait()

    async def _answer(self, scope: Scope, receive: Receive, send: Send, in_hand: InHand) -> None:
        path: str = scope["path"]
        try:
            if not path.startswith(HEALTH):
                if self._refusing:
                    raise draining()
                if len(self._in_hand) > IN_FLIGHT:
                    raise Overloaded(
                        "this front holds as many requests as it may",
                        value=IN_FLIGHT,
                        remedy="Send fewer at a time, or start more fronts with --fronts.",
                    )
            scope["state"]["caller"] = self._gate.admit(
                scope["method"], path, scope["headers"], self._clock.wall()
            )
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not in_hand.cut:
                raise
            in_hand.task.uncancel()  # it has one more thing to do
            await self._refuse(send, draining(), in_hand)
        except PacelineError as error:
            await self._refuse(send, error, in_hand)
        except Exception:  # the last resort: a bug of ours is answered, and logged whole
            logger.exception("a request failed inside Paceline")
            await self._refuse(send, _bug(in_hand.id), in_hand)

    async def _refuse(self, send: Send, error: PacelineError, in_hand: InHand) -> None:
        self._count(REFUSED.name, error.code)
        if in_hand.streaming:
            await send({"type": "http.response.body", "body": error_event(error)})
        elif not in_hand.status:
            await send_error(send, error, in_hand.id)
        # else an answer of known length is cut short: its connection closes, and the caller sees

    def _watched(self, send: Send, in_hand: InHand) -> Send:
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

    def _request_id(self, scope: Scope) -> str:
        """The caller's own if it is harmless in a log and a header, else a new one."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        if 0 < len(given) <= REQUEST_ID_CHARS and given.isascii() and given.isprintable():
            return given
        return f"{self._chance.integer(0, 2**64 - 1):016x}"

    def _cut(self, endless_only: bool) -> None:
        for each in list(self._in_hand):
            if each.endless or not endless_only:
                each.cut = True
                each.task.cancel()

    def _enter(self, in_hand: InHand) -> None:
        self._in_hand.add(in_hand)
        self.empty.clear()
        self._in_flight.set(len(self._in_hand))

    def _leave(self, in_hand: InHand) -> None:
        self._in_hand.discard(in_hand)
        self._in_flight.set(len(self._in_hand))
        if not self._in_hand:
            self.empty.set()

    def _count(self, name: str, *labels: str) -> None:
        key = (name, *labels)
        if key not in self._counters:
            metric = HTTP_REQUESTS if name == HTTP_REQUESTS.name else REFUSED
            self._counters[key] = self._board.counter(metric, *labels)
        self._counters[key].add()


def _bug(request_id: str) -> PacelineError:
    return PacelineError(
        "an unexpected error inside Paceline",
        remedy=f"The server's log has the details under request {request_id}.",
    )


def _area(path: str) -> str:
    """The first part of the path where it is one of ours: a bounded label."""
    first = path.removeprefix("/").partition("/")[0]
    if first in AREAS:
        return first
    return "page" if path == "/" else "other"
