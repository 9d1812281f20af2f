"""What a front answers itself (inference, health, login) and what it relays to the owner."""

from collections.abc import Callable, Sequence

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Router

from paceline.access.gate import Gate
from paceline.access.sessions import Sessions
from paceline.clock import Clock
from paceline.terms.errors import BadJson, LimitReached, NotFound, WrongKey
from paceline.terms.limits import LOGIN_S, LOGINS
from paceline.web.body import read_body
from paceline.web.routing import ANY, Endpoint, On, router


class Login(msgspec.Struct, forbid_unknown_fields=True):
    key: str


def front_routes(
    v2: Sequence[On],
    relay: Endpoint,
    gate: Gate,
    sessions: Sessions,
    why_not_ready: Callable[[], str],
    clock: Clock,
) -> Router:
    async def live(http: HttpRequest) -> Response:
        return JSONResponse({"live": True})

    async def ready(http: HttpRequest) -> Response:
        why = why_not_ready()
        return JSONResponse({"ready": not why, "why": why}, 503 if why else 200)

    logins: set[object] = set()

    async def login(http: HttpRequest) -> Response:
        """Open to anybody, so what anybody can hold of it is little."""
        if len(logins) >= LOGINS:
            raise LimitReached(
                "as many logins are in hand as may be",
                value=LOGINS,
                remedy="Try again in a moment.",
            )
        logins.add(http)
        try:
            body = await read_body(http, LOGIN_S)
        finally:
            logins.discard(http)
        try:
            key = msgspec.json.decode(body, type=Login).key
        except ValueError as error:  # of msgspec, and of UTF-8
            raise BadJson(f"not a login: {error}", remedy='Send {"key": "pl_..."}.') from error
        known = gate.ring.check(key)
        if known is None:
            raise WrongKey(
                "the key is unknown or revoked", remedy="Check it for missing characters."
            )
        cookie = sessions.set_cookie(
            sessions.issue(known.id, clock.wall()),
            secure="https" in (http.headers.get("x-forwarded-proto"), http.url.scheme),
        )
        return Response(status_code=204, headers={"set-cookie": cookie})

    async def hot(http: HttpRequest) -> Response:
        """What the hot path (`inference.py`) does not know as an address, and routing would."""
        raise NotFound(
            "the address of a model must be written plainly",
            value=http.scope["raw_path"].decode("latin-1"),
            remedy="Write it without %XX where a letter can stand.",
        )

    return router(
        On("GET", "/health/live", live),
        On("GET", "/health/ready", ready),
        On("POST", "/v2/models/{model}/infer", hot),
        On("POST", "/v2/models/{model}/versions/{version}/infer", hot),
        On("POST", "/predict/{model}", hot),
        On("POST", "/login", login),
        On("GET", "/v2/models/stats", relay),
        On("GET", "/v2/models/{model}/stats", relay),
        On("GET", "/v2/models/{model}/versions/{version}/stats", relay),
        On("POST", "/v2/repository/models/{model}/{load}", relay),
        *v2,
        On("GET", "/", relay),
        On("GET", "/metrics", relay),
        On("POST", "/feedback", relay),
        On(ANY, "/api/{rest:path}", relay),
        elsewhere="Inference is POST /predict/MODEL or /v2/models/MODEL/infer; the page is GET /.",
    )
