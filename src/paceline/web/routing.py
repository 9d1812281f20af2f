"""Addresses and methods: the little that owner and fronts share of Starlette's routing."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from paceline.terms.errors import NotFound, WrongMethod

Endpoint = Callable[[HttpRequest], Awaitable[Response]]


def router(*routes: Route) -> Router:
    return Router(routes, redirect_slashes=False, default=_nothing_here)


def on(method: str, path: str, endpoint: Endpoint) -> Route:
    """A route that answers another method with an error of ours instead of a bare 405."""
    allowed = ("GET", "HEAD") if method == "GET" else (method,)

    async def only(http: HttpRequest) -> Response:
        if http.method not in allowed:
            raise WrongMethod(
                f"{path} does not answer {http.method}",
                value=http.method,
                remedy=f"Send {method} instead.",
            )
        return await endpoint(http)

    route = Route(path, only)
    route.methods = None  # every one comes to `only`
    return route


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotFound(
        "nothing lives at this address",
        value=scope["path"],
        remedy="Inference is POST /predict/MODEL or /v2/models/MODEL/infer; the page is GET /.",
    )
