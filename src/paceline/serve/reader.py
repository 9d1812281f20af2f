"""The reader process: parses and checks large bodies for its front, and ends with it.

What it gets over the link is where a body lies in shared memory, and for which model it is; what it
answers is where the arrays lie there, or the error. One body after another; it decides nothing, and
loads neither a model nor an event loop. Started by `reading.py`.
"""

import os
import socket
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from paceline.processes.memory import keep_freed
from paceline.serve import predict, v2
from paceline.serve.binary import raw_bytes
from paceline.serve.model import ModelSpec
from paceline.terms.errors import PacelineError
from paceline.terms.limits import KEPT_BYTES, LINK_MESSAGE_BYTES
from paceline.terms.request import Priority

Kind: TypeAlias = Literal["v2", "predict"]

LINK_FD = 3
"""as `processes/child.py` has it, which brings an event loop along"""

TEXT = "text"
"""in the place of a dtype"""

ERROR_CHARS = 4096
"""of each part of an error: a message is bounded, and a body can put much into one"""

GIVES_WAY = 1
"""of niceness: where cores are short, one long body must not delay many short requests"""

ALIGNED = 64
"""Where arrays begin: a line of the processor's cache, which the widest instruction also wants."""


class Order(msgspec.Struct, frozen=True):
    """`size` bytes of a body lie at the beginning of the memory that comes along."""

    number: int
    kind: Kind
    size: int
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


class Done(msgspec.Struct, frozen=True, tag="done"):
    number: int
    inputs: list[Placed]
    asked: ReadV2 | ReadPredict


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    number: int
    error: dict[str, str]


Outcome: TypeAlias = Done | Refused

decode_order = msgspec.json.Decoder(Order).decode
outcomes = msgspec.json.Decoder[Outcome](Outcome)


def serve(link: socket.socket) -> None:
    """Until the front is gone, or closes the link."""
    memos: dict[str, v2.Memo] = {}
    """by model; what is served does not change while a front lives"""
    while True:
        data, fds, _, _ = socket.recv_fds(link, LINK_MESSAGE_BYTES, 1)
        if not data:
            return
        (memory,) = fds
        try:
            order = decode_order(data)
            memo = memos.setdefault(order.spec.name, v2.Memo())
            outcome = read(order, memory, memo)
        finally:
            os.close(memory)
        try:
            link.send(msgspec.json.encode(outcome))
        except (BrokenPipeError, ConnectionResetError):
            return


def read(order: Order, memory: int, memo: v2.Memo) -> Outcome:
    """`memory` is a file; what is read and written takes a copy each, which is little beside the
    parsing, and leaves no views behind."""
    body = os.pread(memory, order.size, 0)
    try:
        asked: ReadV2 | ReadPredict
        if order.kind == "v2":
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
    except PacelineError as error:
        fields = {key: text[:ERROR_CHARS] for key, text in error.as_fields().items()}
        return Refused(order.number, fields)
    return Done(order.number, _place(inputs, memory, order.size), asked)


def _place(inputs: dict[str, NDArray[Any]], memory: int, at: int) -> list[Placed]:
    placed = []
    for name, array in inputs.items():
        at = -(-at // ALIGNED) * ALIGNED
        is_text = array.dtype.kind == "O"
        raw = raw_bytes(array, "BYTES") if is_text else _bytes_of(array)
        dtype = TEXT if is_text else array.dtype.str
        placed.append(Placed(name, dtype, array.shape, at, len(raw)))
        while raw:
            written = os.pwrite(memory, raw, at)
            raw, at = raw[written:], at + written
    return placed


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def main() -> None:
    os.nice(GIVES_WAY)
    keep_freed(KEPT_BYTES)
    with socket.socket(fileno=LINK_FD) as link:
        serve(link)


if __name__ == "__main__":
    main()
