"""Addresses and methods: the little that owner and fronts share of Starlette's routing."""

import difflib
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from paceline.terms.errors import NotFound, WrongMethod

Endpoint = Callable[[HttpRequest], Awaitable[Response]]

ANY = "any"
"""In place of a method: whoever answers there looks at the method itself."""


class On(NamedTuple):
    """What answers a method at an address. HEAD is answered as GET, without the body."""

    method: str
    path: str
    endpoint: Endpoint


def router(*entries: On, elsewhere: str) -> Router:
    """`elsewhere` tells whoever asks for another address where to look."""
    at: dict[str, dict[str, Endpoint]] = {}
    for entry in entries:
        at.setdefault(entry.path, {})[entry.method] = entry.endpoint
    routes = [_route(path, endpoints) for path, endpoints in at.items()]

    async def nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
        asked: str = scope["path"]
        around = [path for path in at if path.split("/")[:2] == asked.split("/")[:2]]
        near = difflib.get_close_matches(asked[:256], around, n=1)
        raise NotFound(
            "nothing lives at this address",
            value=asked,
            remedy=(f"Did you mean {near[0]}? " if near else "") + elsewhere,
        )

    return Router(routes, redirect_slashes=False, default=nothing_here)


def _route(path: str, endpoints: Mapping[str, Endpoint]) -> Route:
    """Answers another method with an error of ours, and OPTIONS with what there is."""
    allowed = [*endpoints, *(["HEAD"] if "GET" in endpoints else []), "OPTIONS"]

    async def answer(http: HttpRequest) -> Response:
        method = "GET" if http.method == "HEAD" else http.method
        endpoint = endpoints.get(method) or endpoints.get(ANY)
        if endpoint is not None:
            return await endpoint(http)
        if method == "OPTIONS":
            return Response(status_code=204, headers={"allow": ", ".join(allowed)})
        raise WrongMethod(
            f"{path} does not answer {http.method}",
            value=http.method,
            remedy=f"Send {' or '.join(endpoints)} instead.",
            allowed=allowed,
        )

    route = Route(path, answer)
    route.methods = None  # every one comes to `answer`
    return route
