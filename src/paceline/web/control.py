"""What the owner answers on its Unix socket: the page, the metrics, the state, the control calls.

Fronts relay here what they have let pass; local programs of the same user may come directly, the
socket's file mode lets nobody else in. `/local/` is for them alone: no front relays it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import cached_property
from importlib.resources import files
from typing import Annotated

import msgspec
from starlette.datastructures import Headers
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

import paceline
from paceline.access.keys import Key
from paceline.net.answers import draining, error_event, send_error
from paceline.observe import exposition, log
from paceline.terms.errors import LimitReached, PacelineError
from paceline.terms.limits import PAGE_STREAMS, PAGE_TICK_S
from paceline.terms.measurement import Measurement
from paceline.web.caller import CALLER_HEADER, REQUEST_ID_HEADER, who_asks
from paceline.web.openapi import DOCUMENT, Document, document
from paceline.web.operations import EVENT_STREAM, AnyDeclaration, Declaration, Operation
from paceline.web.routing import Endpoint, On, router
from paceline.web.status import Status

logger = log.get(__name__)

PAGE_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; frame-ancestors 'none'",
    "x-frame-options": "DENY",
}


class Stopping(msgspec.Struct, frozen=True):
    stopping: Annotated[bool, msgspec.Meta(description="Always true: what is in hand is finished.")]


STATUS: Declaration[None, None, Status] = Declaration(
    "GET", "/api/status", "The state of the server now, and totals of its whole life.", Status
)
EVENTS: Declaration[None, None, Status] = Declaration(
    "GET",
    "/api/events",
    "The state of the server each second, for as long as somebody listens.",
    Status,
    errors=(LimitReached,),
    media_type=EVENT_STREAM,
)
SHUTDOWN: Declaration[None, None, Stopping] = Declaration(
    "POST", "/api/shutdown", "Finish what is in hand and stop.", Stopping, status=202
)
SHARED_S = PAGE_TICK_S / 2
"""How old what a live page is told may be."""

DECLARED: tuple[AnyDeclaration, ...] = (STATUS, EVENTS, SHUTDOWN, DOCUMENT)


class Control:
    """`measure` and `status` look at the host now, `keys` are those in force; `stop` and
    `reload_keys` do what their names say. `operations` are what others answer under `/api/`,
    `others` what they answer elsewhere."""

    def __init__(
        self,
        measure: Callable[[], list[Measurement]],
        status: Callable[[], Status],
        stop: Callable[[str], None],
        reload_keys: Callable[[], None],
        now: Callable[[], float],
        keys: Callable[[], Iterable[Key]] = tuple,
        operations: Sequence[Operation] = (),
        others: Sequence[On] = (),
    ) -> None:
        self._measure = measure
        self._status = status
        self._stop = stop
        self._reload_keys = reload_keys
        self._now = now
        self._keys = keys
        self._operations = (
            STATUS.answered_by(self._answer_status),
            SHUTDOWN.answered_by(self._answer_shutdown),
            DOCUMENT.answered_by(self._answer_document),
            *operations,
        )
        self._others = others
        self._page = (files("paceline.web") / "page.html").read_bytes()
        self._ticks: set[asyncio.Event] = set()
        self._last_event = b""
        self._event_s = float("-inf")
        self._ending = False

    def routes(self) -> ASGIApp:
        return _with_errors(
            router(
                On("GET", "/", self._answer_page),
                On("GET", "/metrics", self._answer_metrics),
                On(EVENTS.method, EVENTS.path, self._answer_events),
                On("POST", "/local/reload-keys", self._answer_reload_keys),
                *self._others,
                *(
                    On(each.declared.method, each.declared.path, self._endpoint(each))
                    for each in self._operations
                ),
                elsewhere=f"{DOCUMENT.method} {DOCUMENT.path} lists what there is.",
            )
        )

    def end_streams(self) -> None:
        self._ending = True
        for tick in self._ticks:
            tick.set()

    async def _answer_page(self, http: HttpRequest) -> Response:
        return Response(self._page, media_type="text/html; charset=utf-8", headers=PAGE_HEADERS)

    async def _answer_metrics(self, http: HttpRequest) -> Response:
        text = exposition.render(self._measure())
        return Response(text, headers={"content-type": exposition.CONTENT_TYPE})

    def _endpoint(self, operation: Operation) -> Endpoint:
        async def answer(http: HttpRequest) -> Response:
            who = who_asks(http.headers.get(CALLER_HEADER, ""), self._keys())
            return await operation.answer(http, who)

        return answer

    async def _answer_status(self, query: None, body: None, who: str) -> Status:
        return self._status()

    async def _answer_document(self, query: None, body: None, who: str) -> Document:
        return self._document

    @cached_property
    def _document(self) -> Document:
        """Made when first asked for; most servers never are."""
        declared = (EVENTS, *(each.declared for each in self._operations))
        return document(declared, paceline.__version__)

    async def _answer_events(self, http: HttpRequest) -> Response:
        if len(self._ticks) >= PAGE_STREAMS:
            raise LimitReached(
                "as many live pages are open as may be",
                value=PAGE_STREAMS,
                remedy="Close one, or read GET /api/status instead.",
            )
        headers = {"cache-control": "no-store"}
        if http.method == "HEAD":
            return Response(media_type=EVENT_STREAM, headers=headers)
        return StreamingResponse(self._events(), media_type=EVENT_STREAM, headers=headers)

    async def _events(self) -> AsyncIterator[bytes]:
        """One status now and then one a tick, for as long as somebody looks."""
        loop = asyncio.get_running_loop()
        tick = asyncio.Event()
        self._ticks.add(tick)
        timer = None
        try:
            while not self._ending:
                yield self._event()
                tick.clear()
                timer = loop.call_later(PAGE_TICK_S, tick.set)
                await tick.wait()
            yield error_event(draining())
        finally:
            self._ticks.discard(tick)
            if timer is not None:
                timer.cancel()

    def _event(self) -> bytes:
        """The same one for all who look at about the same time: it costs with each model."""
        now = self._now()
        if now - self._event_s > SHARED_S:
            self._last_event = b"data: " + msgspec.json.encode(self._status()) + b"\n\n"
            self._event_s = now
        return self._last_event

    async def _answer_shutdown(self, query: None, body: None, who: str) -> Stopping:
        self._stop(f"asked by {who}")
        return Stopping(True)

    async def _answer_reload_keys(self, http: HttpRequest) -> Response:
        self._reload_keys()
        return Response(status_code=204)


def _with_errors(app: Router) -> ASGIApp:
    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = Headers(scope=scope).get(REQUEST_ID_HEADER, "")  # from a front
        log.request_id.set(request_id or None)
        try:
            await app(scope, receive, send)
        except PacelineError as error:
            await send_error(send, error, request_id)

    return answered
