"""What an ONNX file has (operators, numbers of weights), read without the `onnx` package, which
servers do not have.

An ONNX file is a protobuf message, and a small part of that format suffices to go from node to node
past the weights: https://protobuf.dev/programming-guides/encoding and onnx.proto. It judges no
model; onnxruntime has loaded it before. Called by `onnx_model.py`, and by the owner for reports.
"""

import mmap
from collections.abc import Iterator
from math import prod
from pathlib import Path

# Kinds of fields; all others have a fixed size.
VARINT, COUNTED = 0, 2
SIZE_BYTES = {1: 8, 5: 4}

# Numbers of fields, by message.
MODEL_GRAPH, MODEL_FUNCTIONS = 7, 25
GRAPH_NODE, FUNCTION_NODE = 1, 7
GRAPH_INITIALIZER, TENSOR_DIMENSION = 5, 1
NODE_INPUT, NODE_OPERATOR, NODE_ATTRIBUTE = 1, 4, 5
ATTRIBUTE_GRAPHS = (6, 11)

DRAWING = ("Random", "Multinomial", "Bernoulli")
"""Beginnings of the operators that draw lots."""

TRAINING_INPUTS = 3
"""Dropout draws lots where it has its third input, the one that says so; files for inference do
not."""


def draws_lots(path: Path) -> bool:
    """Whether two runs on the same inputs may differ. What is not read as ONNX might."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as whole,
    ):
        return _draws_lots(whole)


def nodes(path: Path) -> int:
    """Operators in its graph, those within others included; none where it is not read as ONNX."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as whole,
    ):
        try:
            return sum(1 for _ in _of_model(whole))
        except (LookupError, ValueError):
            return 0


def parameters(path: Path) -> int | None:
    """Numbers in the weights of its graph; None where it is not read as ONNX."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as whole,
    ):
        return _parameters(whole)


def _parameters(data: memoryview) -> int | None:
    total = 0
    try:
        for number, graph in _fields(data):
            if number == MODEL_GRAPH:
                for field, tensor in _fields(graph):
                    if field == GRAPH_INITIALIZER:
                        total += prod(_dimensions(tensor))
    except (LookupError, ValueError):
        return None
    return total


def _dimensions(tensor: memoryview) -> Iterator[int]:
    """They come first, each as a field or all of them in one."""
    at = 0
    while at < len(tensor):
        key, at = _varint(tensor, at)
        if key >> 3 != TENSOR_DIMENSION:
            return
        size, at = _varint(tensor, at)
        if key & 7 == VARINT:
            yield size
            continue
        end = at + size
        while at < end:
            size, at = _varint(tensor, at)
            yield size


def _draws_lots(data: memoryview) -> bool:
    try:
        return any(
            operator.startswith(DRAWING) or (operator == "Dropout" and inputs >= TRAINING_INPUTS)
            for operator, inputs in _of_model(data)
        )
    except (LookupError, ValueError):
        return True


def _of_model(data: memoryview) -> Iterator[tuple[str, int]]:
    for number, value in _fields(data):
        if number == MODEL_GRAPH:
            yield from _of_nodes(value, GRAPH_NODE)
        elif number == MODEL_FUNCTIONS:
            yield from _of_nodes(value, FUNCTION_NODE)


def _of_nodes(data: memoryview, node: int) -> Iterator[tuple[str, int]]:
    """The operators of a graph and of those within it, each with how many inputs it is given."""
    for number, value in _fields(data):
        if number != node:
            continue
        operator, inputs = "", 0
        for field, part in _fields(value):
            if field == NODE_INPUT:
                inputs += len(part) > 0
            elif field == NODE_OPERATOR:
                operator = bytes(part).decode()
            elif field == NODE_ATTRIBUTE:
                for attribute, graph in _fields(part):
                    if attribute in ATTRIBUTE_GRAPHS:
                        yield from _of_nodes(graph, GRAPH_NODE)
        yield operator, inputs


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field; only of those that have a length."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == COUNTED:
            size, at = _varint(data, at)
            yield key >> 3, data[at : at + size]
            at += size
        elif kind == VARINT:
            _, at = _varint(data, at)
        else:
            at += SIZE_BYTES[kind]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
