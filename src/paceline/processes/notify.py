"""Telling systemd that the server answers, so that `systemctl start` returns then and not before.

One datagram to the socket that NOTIFY_SOCKET names, as sd_notify(3) has it; nothing where none is
named. Called by `app.py` for the owner.
"""

import os
import socket

from paceline.observe import log

logger = log.get(__name__)

NOTIFY_SOCKET = "NOTIFY_SOCKET"


def ready() -> None:
    address = os.environ.get(NOTIFY_SOCKET)
    if not address:
        return
    if address.startswith("@"):  # how a name in the abstract namespace is written
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
            supervisor.sendto(b"READY=1", address)
    except OSError as error:  # no reason not to serve
        logger.warning("systemd was not told", error=error.strerror)
