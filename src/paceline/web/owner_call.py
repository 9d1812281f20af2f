"""A local program's call to the owner of a state directory, over its Unix socket.

What the owner refuses is raised as the error it was there. Called by the command line.
"""

import http.client
import os
import socket
from pathlib import Path
from typing import NamedTuple

import msgspec

from paceline.processes.state_dir import refusal, socket_address
from paceline.terms.errors import PacelineError, Unavailable, from_fields
from paceline.web.caller import CALLER_HEADER, told

CALL_S = 5.0

told_fields = msgspec.json.Decoder(dict[str, str])


class Reply(NamedTuple):
    status: int
    body: bytes


def call_owner(
    state: Path, method: str, path: str, body: bytes | None = None, who: str = ""
) -> Reply | None:
    """The owner's answer, or None when none runs on this directory. `who` is whom the journal
    should name; the owner may take CALL_S to answer."""
    try:
        directory = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise refusal(state, error) from error
    try:
        reply = _ask(_Connection(socket_address(directory)), method, path, body, who)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(
            f"the server does not answer on its socket: {error}",
            value=str(state),
            remedy="If it hangs, stop it; the change holds from its next start.",
        ) from error
    finally:
        os.close(directory)
    if reply.status >= 400:
        raise _error(reply, f"{method} {path}")
    return reply


def _ask(connection: "_Connection", method: str, path: str, body: bytes | None, who: str) -> Reply:
    try:
        connection.request(method, path, body, {CALLER_HEADER: told(who)})
        response = connection.getresponse()
        return Reply(response.status, response.read())
    finally:
        connection.close()


def _error(reply: Reply, call: str) -> PacelineError:
    try:
        return from_fields(told_fields.decode(reply.body))
    except (ValueError, KeyError):
        return Unavailable(
            f"the server refused with status {reply.status}, and did not say why",
            value=call,
            remedy="Its log says more.",
        )


class _Connection(http.client.HTTPConnection):
    def __init__(self, address: str) -> None:
        super().__init__("owner", timeout=CALL_S)
        self._address = address

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CALL_S)
        self.sock.connect(self._address)
