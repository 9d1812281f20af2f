"""The scribe process: reads large bodies of LLM calls for its front, and writes them and their
answers anew, and ends with it.

What it gets over the link is where a body lies in shared memory and what is to be done; what it
answers is what it read, or how long what it wrote behind the body is, or the error. One body after
another; it decides nothing, and has no event loop. Started by `beside.py`.
"""

import os
import socket
from typing import Literal, TypeAlias

import msgspec

from paceline.gateway import anthropic, openai
from paceline.gateway.asking import NEWER, written
from paceline.gateway.call import Asked, Dialect, Endpoint
from paceline.gateway.translate.answers import answered
from paceline.gateway.upstream import TokensField
from paceline.processes.memory import keep_freed
from paceline.terms.errors import BadField, PacelineError
from paceline.terms.limits import KEPT_BYTES, LINK_MESSAGE_BYTES

LINK_FD = 3
"""as `processes/child.py` has it, which brings an event loop along"""

ERROR_CHARS = 4096
"""of each part of an error: a message is bounded, and a body can put much into one"""

GIVES_WAY = 1
"""of niceness: where cores are short, one long body must not delay many short calls"""


class Order(msgspec.Struct, frozen=True):
    """`size` bytes of a body lie at the beginning of the memory that comes along. It is to be read;
    or, where `to` says in which dialect, written as a provider is to get it."""

    number: int
    size: int
    endpoint: Endpoint
    dialect: Dialect
    to: Dialect | None = None
    model: str = ""
    asked: Asked | None = None
    """None: it is an answer, and `model` what its caller asked for"""
    created_s: int = 0
    """when it was made, for a dialect that tells it"""
    tokens_field: TokensField = NEWER


class Done(msgspec.Struct, frozen=True, tag="done"):
    number: int
    asked: Asked | None = None
    size: int = 0
    """of what lies behind the body"""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    number: int
    error: dict[str, str]
    param: str | None = None


Outcome: TypeAlias = Done | Refused

decode_order = msgspec.json.Decoder(Order).decode
outcomes = msgspec.json.Decoder[Outcome](Outcome)

Kind = Literal["read", "write"]


def serve(link: socket.socket) -> None:
    """Until the front is gone, or closes the link."""
    while True:
        data, fds, _, _ = socket.recv_fds(link, LINK_MESSAGE_BYTES, 1)
        if not data:
            return
        (memory,) = fds
        try:
            outcome = work(decode_order(data), memory)
        finally:
            os.close(memory)
        try:
            link.send(msgspec.json.encode(outcome))
        except (BrokenPipeError, ConnectionResetError):
            return


def work(order: Order, memory: int) -> Outcome:
    body = os.pread(memory, order.size, 0)
    try:
        if order.to is None:
            read = openai.read if order.dialect == "openai" else anthropic.read
            return Done(order.number, read(order.endpoint, body))
        if order.asked is None:
            out = answered(body, order.to, order.model, order.created_s)
        else:
            out = written(
                body,
                order.endpoint,
                order.asked,
                order.dialect,
                order.to,
                order.model,
                order.tokens_field,
            )
    except PacelineError as error:
        fields = {key: text[:ERROR_CHARS] for key, text in error.as_fields().items()}
        return Refused(order.number, fields, error.param if isinstance(error, BadField) else None)
    left, at = memoryview(out), order.size
    while left:
        count = os.pwrite(memory, left, at)
        left, at = left[count:], at + count
    return Done(order.number, None, len(out))


def main() -> None:
    os.nice(GIVES_WAY)
    keep_freed(KEPT_BYTES)
    with socket.socket(fileno=LINK_FD) as link:
        serve(link)


if __name__ == "__main__":
    main()
