"""A local program's call to the owner of a state directory, over its Unix socket."""

import http.client
import os
import socket
from pathlib import Path

from paceline.processes.state_dir import socket_address
from paceline.terms.errors import Unavailable

CALL_S = 5.0


def call_owner(state: Path, method: str, path: str) -> bytes | None:
    """The owner's answer, or None when none runs on this directory."""
    directory = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        connection = _Connection(socket_address(directory))
        try:
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read()
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise Unavailable(
                f"the server does not answer on its socket: {error}",
                value=str(state),
                remedy="If it hangs, stop it; the change holds from its next start.",
            ) from error
        finally:
            connection.close()
    finally:
        os.close(directory)
    if response.status >= 400:
        raise Unavailable(
            f"the server refused: {body.decode(errors='replace')}",
            value=f"{method} {path}",
            remedy="Its log says more.",
        )
    return body


class _Connection(http.client.HTTPConnection):
    def __init__(self, address: str) -> None:
        super().__init__("owner", timeout=CALL_S)
        self._address = address

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CALL_S)
        self.sock.connect(self._address)
