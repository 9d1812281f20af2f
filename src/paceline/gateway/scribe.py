"""The scribe process: reads large bodies of LLM calls for its front, and writes them anew, and ends
with it.

What it gets over the link is where a body lies in shared memory and what is to be done; what it
answers is what it read, or how long what it wrote behind the body is, or the error. One body after
another; it decides nothing, and has no event loop. Started by `beside.py`.
"""

import os

import msgspec

from paceline.gateway import anthropic, openai
from paceline.gateway.asking import written
from paceline.gateway.call import Asked, Dialect, Endpoint
from paceline.processes import working
from paceline.processes.working import Refused, put, serve


class Order(working.Order, frozen=True):
    """The body is to be read; or, where `to` says in which dialect, written as a provider is to get
    it."""

    endpoint: Endpoint
    dialect: Dialect
    to: Dialect | None = None
    model: str = ""
    asked: Asked | None = None


class Done(working.Done, frozen=True, tag="done"):
    asked: Asked | None = None
    size: int = 0
    """of what lies behind the body"""


orders = msgspec.json.Decoder(Order)
outcomes = msgspec.json.Decoder[Done | Refused](Done | Refused)


def work(order: Order, memory: int) -> Done:
    body = os.pread(memory, order.size, 0)
    if order.to is None:
        read = openai.read if order.dialect == "openai" else anthropic.read
        return Done(order.number, read(order.endpoint, body))
    assert order.asked is not None
    out = written(body, order.endpoint, order.asked, order.dialect, order.to, order.model)
    put(memory, out, order.size)
    return Done(order.number, None, len(out))


if __name__ == "__main__":
    serve(orders, work)
