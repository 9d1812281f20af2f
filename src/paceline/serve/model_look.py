"""A look into a model's process while it works: both sides of it.

The process may be in the midst of a batch, and for long, which is when somebody wants to look. So a
thread of it, that does nothing else, waits for orders at a socket of its own; what is found comes
back in memory that is lent, for it can be long. The front's side waits in a thread
(`web/profiling.py`). Called by `model_process.py` and `model_host.py`.
"""

import os
import socket
import threading
from typing import TYPE_CHECKING, Literal

import msgspec

from paceline.observe import log
from paceline.terms.errors import PacelineError, Unavailable
from paceline.terms.limits import LINK_BULK_BYTES, LINK_MESSAGE_BYTES, PROFILE_LATE_S

if TYPE_CHECKING:
    from paceline.observe.looks import Found, Look

logger = log.get(__name__)

THREAD = "looks"

_encode = msgspec.json.Encoder().encode


class Order(msgspec.Struct, frozen=True):
    """To begin a look; `of` nothing, to end the one of this number."""

    number: int
    of: Literal["stacks", "memory", ""]
    seconds: float = 0.0


# --- The process ----------------------------------------------------------------------------------


def obey(side: socket.socket) -> None:
    """Begins the thread that waits for orders, until the front is gone."""
    threading.Thread(target=_obey, args=(side,), name=THREAD, daemon=True).start()


def _obey(side: socket.socket) -> None:
    decode = msgspec.json.Decoder(Order).decode
    stops: dict[int, threading.Event] = {}
    while message := side.recv(LINK_MESSAGE_BYTES):
        order = decode(message)
        stop = stops.get(order.number) or threading.Event()
        stops = {order.number: stop}  # one at a time: the front sees to it
        if not order.of:  # it may come before the other
            stop.set()
            continue
        name = f"{THREAD}-{order.number}"
        threading.Thread(target=_look, args=(side, order, stop), name=name, daemon=True).start()


def _look(side: socket.socket, order: Order, stop: threading.Event) -> None:
    from paceline.clock import RealClock  # for whom it was not asked, these are half a megabyte
    from paceline.observe.looks import Look, found

    assert order.of
    told = _encode(found(Look(order.of, order.seconds), stop, RealClock().now))
    memory = os.memfd_create("paceline-look", os.MFD_CLOEXEC)
    with open(memory, "wb") as file:
        file.write(told)
        file.flush()
        socket.send_fds(side, [b"%d" % order.number], [memory])


# --- The front ------------------------------------------------------------------------------------


class ModelLook:
    """One look at the process of `model`. `side` is its own."""

    def __init__(self, side: socket.socket, number: int, model: str) -> None:
        self._side = side
        self._number = number
        self._model = model

    def found(self, look: "Look") -> "Found":
        """Once, in a thread: it waits. A process that is gone, or lets nobody else run, is told."""
        from paceline.observe.looks import Found

        try:
            with self._side as side:
                side.settimeout(look.seconds + PROFILE_LATE_S)
                side.send(_encode(Order(self._number, look.of, look.seconds)))
                heard = self._heard(side)
                if heard:
                    return msgspec.json.decode(heard, type=Found)
        except TimeoutError:
            return self._nothing("does not tell what was found: what it calls lets nobody else run")
        except (OSError, msgspec.DecodeError) as error:
            logger.warning("a look at a model process failed", model=self._model, why=str(error))
        return self._nothing("ended while it was profiled")

    def end(self) -> None:
        """Soon, with what was found until then; from any thread."""
        try:
            self._side.send(_encode(Order(self._number, "")), socket.MSG_DONTWAIT)
        except OSError:
            return  # it has ended, which `found` is told

    def _heard(self, side: socket.socket) -> bytes:
        """Nothing, where the process has ended."""
        while True:
            message, fds, _, _ = socket.recv_fds(side, LINK_MESSAGE_BYTES, 1)
            if not message or not fds:
                return b""
            with open(fds[0], "rb") as file:
                if message == b"%d" % self._number:  # not one that came too late
                    return os.pread(file.fileno(), LINK_BULK_BYTES, 0)

    def _nothing(self, why: str) -> "Found":
        from paceline.observe.looks import Found

        error: PacelineError = Unavailable(
            f"the process of the model `{self._model}` {why}",
            remedy="Try again in a moment; the server's log says how it ended, if it did.",
        )
        return Found(error=error.as_fields())
