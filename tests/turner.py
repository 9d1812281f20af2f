"""A worker process for tests: turns bodies round, or does as it is told."""

import os
import signal
from typing import Literal

import msgspec

from paceline.processes import working
from paceline.processes.working import Refused, put, serve
from paceline.terms.errors import BadField


class Turn(working.Order, frozen=True):
    how: Literal["turn", "refuse", "die", "hang", "name"] = "turn"


class Turned(working.Done, frozen=True, tag="done"):
    size: int
    """of what lies behind the body"""
    name: str = ""


outcomes = msgspec.json.Decoder[Turned | Refused](Turned | Refused)


def work(order: Turn, memory: int) -> Turned:
    if order.how == "refuse":
        raise BadField("no" * working.ERROR_CHARS, remedy="r", value="v", param="p")
    if order.how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if order.how == "hang":
        signal.pause()
    if order.how == "name":
        return Turned(order.number, 0, os.pread(memory, order.size, 0).decode())
    put(memory, os.pread(memory, order.size, 0)[::-1], order.size)
    return Turned(order.number, order.size)


if __name__ == "__main__":
    serve(msgspec.json.Decoder(Turn), work)
