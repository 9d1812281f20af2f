"""The reader process: parses and checks large bodies for its front, and ends with it.

What it gets over the link is where a body lies in shared memory, and for which model it is; what it
answers is where the arrays lie there, or the error. One body after another; it decides nothing, and
loads neither a model nor an event loop. Started by `reading.py`.
"""

import os
from functools import partial
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from paceline.processes import working
from paceline.processes.working import Refused, put, serve
from paceline.serve import predict, v2
from paceline.serve.binary import raw_bytes
from paceline.serve.model import ModelSpec
from paceline.terms.request import Priority

Kind: TypeAlias = Literal["v2", "predict"]

TEXT = "text"
"""in the place of a dtype"""

ALIGNED = 64
"""Where arrays begin: a line of the processor's cache, which the widest instruction also wants."""


class Order(working.Order, frozen=True):
    kind: Kind
    header_length: int | None
    spec: ModelSpec


class Placed(msgspec.Struct, frozen=True):
    """Where an input lies in the memory. Text lies there as raw tensors have it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    at: int
    size: int


class ReadV2(msgspec.Struct, frozen=True, tag="v2"):
    id: str
    rows: int
    wanted: tuple[str, ...]
    binary: tuple[bool, ...]
    priority: Priority | None
    timeout_s: float | None


class ReadPredict(msgspec.Struct, frozen=True, tag="predict"):
    rows: int
    one_row: bool


class Done(working.Done, frozen=True, tag="done"):
    inputs: list[Placed]
    asked: ReadV2 | ReadPredict


orders = msgspec.json.Decoder(Order)
outcomes = msgspec.json.Decoder[Done | Refused](Done | Refused)


def read(memos: dict[str, v2.Memo], order: Order, memory: int) -> Done:
    """`memos` are by model; what is served does not change while a front lives. `memory` is a file;
    what is read and written takes a copy each, which is little beside the parsing, and leaves no
    views behind."""
    body = os.pread(memory, order.size, 0)
    asked: ReadV2 | ReadPredict
    if order.kind == "v2":
        memo = memos.setdefault(order.spec.name, v2.Memo())
        v2_request = v2.decode(body, order.spec, order.header_length, memo)
        inputs = v2_request.inputs
        asked = ReadV2(
            v2_request.id,
            v2_request.rows,
            v2_request.wanted,
            v2_request.binary,
            v2_request.priority,
            v2_request.timeout_s,
        )
    else:
        plain_request = predict.decode(body, order.spec)
        inputs = plain_request.inputs
        asked = ReadPredict(plain_request.rows, plain_request.one_row)
    return Done(order.number, _place(inputs, memory, order.size), asked)


def _place(inputs: dict[str, NDArray[Any]], memory: int, at: int) -> list[Placed]:
    placed = []
    for name, array in inputs.items():
        at = -(-at // ALIGNED) * ALIGNED
        is_text = array.dtype.kind == "O"
        raw = raw_bytes(array, "BYTES") if is_text else _bytes_of(array)
        dtype = TEXT if is_text else array.dtype.str
        placed.append(Placed(name, dtype, array.shape, at, len(raw)))
        put(memory, raw, at)
        at += len(raw)
    return placed


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


if __name__ == "__main__":
    serve(orders, partial(read, {}))
