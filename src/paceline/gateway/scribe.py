"""The scribe process: reads large bodies of LLM calls for its front, and writes them and their
answers anew, and ends with it.

What it gets over the link is where a body lies in shared memory and what is to be done; what it
answers is what it read, or how long what it wrote behind the body is, or the error. One body after
another; it decides nothing, and has no event loop. Started by `beside.py`.
"""

import os

import msgspec

from paceline.gateway import anthropic, openai
from paceline.gateway.asking import NEWER, written
from paceline.gateway.call import Asked, Dialect, Endpoint
from paceline.gateway.translate.answers import answered
from paceline.gateway.upstream import TokensField
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
    """None: it is an answer, and `model` what its caller asked for"""
    created_s: int = 0
    """when it was made, for a dialect that tells it"""
    tokens_field: TokensField = NEWER


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
    asked, to, model = order.asked, order.to, order.model
    if asked is None:
        out = answered(body, to, model, order.created_s)
    else:
        out = written(body, order.endpoint, asked, order.dialect, to, model, order.tokens_field)
    put(memory, out, order.size)
    return Done(order.number, None, len(out))


if __name__ == "__main__":
    serve(orders, work)
