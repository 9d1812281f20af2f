"""A worker's side of its link: one order after another, each with the memory that its body lies in.

It brings no event loop along and decides nothing; what an order means is its caller's. Called by
`serve/reader.py` and `gateway/scribe.py`, which are such processes; their parent is `worker.py`.
"""

import os
import socket
from collections.abc import Callable
from typing import TypeVar

import msgspec

from paceline.processes.memory import keep_freed
from paceline.terms.errors import BadField, BadRequest, PacelineError
from paceline.terms.limits import KEPT_BYTES, LINK_MESSAGE_BYTES

LINK_FD = 3
"""as `child.py` has it, which brings an event loop along"""

ERROR_CHARS = 4096
"""of each part of an error: a message is bounded, and a body can put much into one"""

GIVES_WAY = 1
"""of niceness: where cores are short, one long body must not delay many short requests"""


class Order(msgspec.Struct, frozen=True):
    """A body of `size` bytes lies at the beginning of the memory that comes along. What is to be
    done with it, each worker's orders say."""

    number: int
    size: int


class Done(msgspec.Struct, frozen=True, tag="done"):
    """What came of it, each worker's say."""

    number: int


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    number: int
    error: dict[str, str]
    param: str | None = None


Ordered = TypeVar("Ordered", bound=Order)


def serve(orders: msgspec.json.Decoder[Ordered], work: Callable[[Ordered, int], Done]) -> None:
    """Until the parent is gone, or closes the link. `work` does an order, in the memory that came
    with it, and says what came of it, or raises why it is refused."""
    os.nice(GIVES_WAY)
    keep_freed(KEPT_BYTES)
    with socket.socket(fileno=LINK_FD) as link:
        while True:
            data, fds, _, _ = socket.recv_fds(link, LINK_MESSAGE_BYTES, 1)
            if not data:
                return
            (memory,) = fds
            try:
                order = orders.decode(data)
                outcome = _outcome(work, order, memory)
            finally:
                os.close(memory)
            try:
                link.send(_message(outcome))
            except (BrokenPipeError, ConnectionResetError):
                return


def put(memory: int, data: bytes | bytearray | memoryview, at: int) -> None:
    """All of it; a file may take less than it is given in one go."""
    left = memoryview(data)
    while left:
        count = os.pwrite(memory, left, at)
        left, at = left[count:], at + count


def _outcome(work: Callable[[Ordered, int], Done], order: Ordered, memory: int) -> Done | Refused:
    try:
        return work(order, memory)
    except PacelineError as error:
        return _refused(order.number, error)


def _message(outcome: Done | Refused) -> bytes:
    """A name in a body may be as long as the body; what says it would not arrive whole."""
    message = msgspec.json.encode(outcome)
    if len(message) <= LINK_MESSAGE_BYTES:
        return message
    error = BadRequest(
        "what is named in this body is too long",
        value=f"{len(message)} bytes",
        remedy="Send shorter names.",
    )
    return msgspec.json.encode(_refused(outcome.number, error))


def _refused(number: int, error: PacelineError) -> Refused:
    fields = {key: text[:ERROR_CHARS] for key, text in error.as_fields().items()}
    return Refused(number, fields, error.param if isinstance(error, BadField) else None)
