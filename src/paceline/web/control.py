"""What the owner answers on its Unix socket: the page, the metrics, the state, the control calls.

Fronts relay here what they have let pass; local programs of the same user may come directly, the
socket's file mode lets nobody else in. `/local/` is for them alone: no front relays it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from importlib.resources import files

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from paceline.net.answers import draining, error_event, send_error
from paceline.observe import exposition, log
from paceline.terms.errors import LimitReached, PacelineError
from paceline.terms.limits import PAGE_STREAMS, PAGE_TICK_S
from paceline.terms.measurement import Measurement
from paceline.web.relay import CALLER_HEADER
from paceline.web.routing import on, router
from paceline.web.status import Status

logger = log.get(__name__)

PAGE_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; frame-ancestors 'none'",
    "x-frame-options": "DENY",
}


class Control:
    """`measure` and `status` look at the host now; the other two do what their names say."""

    def __init__(
        self,
        measure: Callable[[], list[Measurement]],
        status: Callable[[], Status],
        stop: Callable[[str], None],
        reload_keys: Callable[[], None],
    ) -> None:
        self._measure = measure
        self._status = status
        self._stop = stop
        self._reload_keys = reload_keys
        self._page = (files("paceline.web") / "page.html").read_bytes()
        self._ticks: set[asyncio.Event] = set()
        self._ending = False

    def routes(self) -> ASGIApp:
        return _with_errors(
            router(
                on("GET", "/", self._answer_page),
                on("GET", "/metrics", self._answer_metrics),
                on("GET", "/api/status", self._answer_status),
                on("GET", "/api/events", self._answer_events),
                on("POST", "/api/shutdown", self._answer_shutdown),
                on("POST", "/local/reload-keys", self._answer_reload_keys),
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

    async def _answer_status(self, http: HttpRequest) -> Response:
        return _json(self._status())

    async def _answer_events(self, http: HttpRequest) -> Response:
        if len(self._ticks) >= PAGE_STREAMS:
            raise LimitReached(
                "as many live pages are open as may be",
                value=PAGE_STREAMS,
                remedy="Close one, or read GET /api/status instead.",
            )
        headers = {"cache-control": "no-store"}
        if http.method == "HEAD":
            return Response(media_type="text/event-stream", headers=headers)
        return StreamingResponse(self._events(), media_type="text/event-stream", headers=headers)

    async def _events(self) -> AsyncIterator[bytes]:
        """One status now and then one a tick, for as long as somebody looks."""
        loop = asyncio.get_running_loop()
        tick = asyncio.Event()
        self._ticks.add(tick)
        timer = None
        try:
            while not self._ending:
                yield b"data: " + msgspec.json.encode(self._status()) + b"\n\n"
                tick.clear()
                timer = loop.call_later(PAGE_TICK_S, tick.set)
                await tick.wait()
            yield error_event(draining())
        finally:
            self._ticks.discard(tick)
            if timer is not None:
                timer.cancel()

    async def _answer_shutdown(self, http: HttpRequest) -> Response:
        self._stop(f"asked by {http.headers.get(CALLER_HEADER, 'a local program')}")
        return _json({"stopping": True}, 202)

    async def _answer_reload_keys(self, http: HttpRequest) -> Response:
        self._reload_keys()
        return Response(status_code=204)


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _with_errors(app: Router) -> ASGIApp:
    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except PacelineError as error:
            await send_error(send, error)

    return answered
