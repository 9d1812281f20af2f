"""How a command reaches the Plan and the journal of a state directory, server or not.

Where an owner runs it is asked, over its socket; where none runs, the same operations answer in
this process. To read takes no lock. To write takes the state directory for a moment, so a starting
server and a second command are told of each other. What servers alone know they alone are asked.
Called by the commands that ask one.
"""

import asyncio
import http.client
import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import urlencode

import msgspec

from paceline.cli.config import settings_source
from paceline.terms.errors import Misuse, StateInUse, Unavailable

if TYPE_CHECKING:
    from starlette.requests import Request as HttpRequest

    from paceline.config.source import Source

Method = Literal["GET", "POST"]


class Place(NamedTuple):
    """A state directory, and the settings of a server that would run on it."""

    state: Path
    source: "Source"


class Told(NamedTuple):
    """An answer of the control API. `live` if a server gave it, `began` if a journal began for
    it."""

    body: bytes
    live: bool
    began: bool = False


def place(state: str | None, config: Path | None) -> Place:
    """What `--state` and `--config` name; without them, where a server started here keeps it."""
    source = settings_source(config, {"state": state})
    if state is not None:  # a running server is found although the file is broken by now
        return Place(Path(state), source)
    loaded = source.load()
    return Place(Path(loaded.settings.server.state), loaded.source)


def ask(place: Place, method: Method, path: str, given: Mapping[str, object] = {}) -> Told:
    """The answer of one operation. What is given goes as query or as body; None is not given."""
    said = {name: value for name, value in given.items() if value is not None}
    try:
        query = urlencode(said) if method == "GET" else ""
        body = msgspec.json.encode(said) if method == "POST" else None
    except UnicodeEncodeError as error:
        raise Misuse(
            "the command line is not UTF-8", value=repr(error.object), remedy="Write it in UTF-8."
        ) from error
    told = _owner(place, method, path, query, body)
    if told is not None:
        return told
    try:
        return _here(place, method, path, query, body)
    except StateInUse:
        told = _owner(place, method, path, query, body)  # one may have started meanwhile
    if told is not None:
        return told
    try:
        return _here(place, method, path, query, body)
    except StateInUse as error:
        raise StateInUse(
            error.cause,
            value=error.value,
            remedy="Try again: a server just starts or stops there, or another command writes.",
        ) from error


def of_server(state: Path, method: Method, target: str, why: str, body: object = None) -> bytes:
    """The answer of a server that runs; `why` no command can answer where none does."""
    from paceline.web.owner_call import call_owner

    sent = None if body is None else msgspec.json.encode(body)
    reply = call_owner(state, method, target, sent, who())
    if reply is None:
        raise Unavailable(
            f"no server runs here, and {why}",
            value=str(state),
            remedy="Start one with `paceline up`, or name its directory with --state.",
        )
    return reply.body


def who() -> str:
    """Whom the journal names: the user that the kernel knows, whatever the environment says."""
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:  # in a container, say
        name = f"user {uid}"
    return f"{name}, by command line"


def _owner(place: Place, method: Method, path: str, query: str, body: bytes | None) -> Told | None:
    from paceline.web.owner_call import call_owner

    target = f"{path}?{query}" if query else path
    try:
        reply = call_owner(place.state, method, target, body, who())
    except Unavailable as error:
        if not isinstance(error.__cause__, OSError | http.client.HTTPException):
            raise  # the server's own word
        stopped = "what it keeps can be read without it."
        if method == "POST":
            stopped = "`paceline journal tail` shows whether this was done."
        raise Unavailable(
            error.cause, value=error.value, remedy=f"Try again. If it hangs, stop it; {stopped}"
        ) from error
    return None if reply is None else Told(reply.body, live=True)


def _here(place: Place, method: Method, path: str, query: str, body: bytes | None) -> Told:
    """By the very operations of an owner, while none runs."""
    from paceline.app import alerts_without_owner, desk_without_owner
    from paceline.clock import RealClock
    from paceline.journal.sqlite import FILE
    from paceline.web import alerts_api, plan_api, said_api

    loaded = place.source.load()
    began = method == "POST" and not (place.state / FILE).exists()

    async def answer() -> bytes:
        async with desk_without_owner(loaded, writes=method == "POST") as desk:
            for operation in (
                *plan_api.operations(desk, patience_s=None),
                *alerts_api.operations(alerts_without_owner(desk.journal)),
                *said_api.operations(place.state, RealClock().wall, desk.journal),
            ):
                if (operation.declared.method, operation.declared.path) == (method, path):
                    response = await operation.answer(_request(method, path, query, body), who())
                    return bytes(response.body)
        raise AssertionError(f"no operation answers {method} {path}")

    return Told(asyncio.run(answer()), live=False, began=began)


def _request(method: Method, path: str, query: str, body: bytes | None) -> "HttpRequest":
    from starlette.requests import Request as HttpRequest
    from starlette.types import Message, Scope

    async def receive() -> Message:
        return {"type": "http.request", "body": body or b"", "more_body": False}

    scope: Scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [],
    }
    return HttpRequest(scope, receive)
