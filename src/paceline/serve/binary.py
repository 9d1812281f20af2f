"""Raw tensors in a body, the binary extension of KServe V2: bytes to arrays, arrays to bytes.

Numbers are little-endian and become views on the body, so that the copy into a batch is the only
one; text elements have their length in front, four bytes. No JSON (`tensors.py`), no I/O. Called by
`v2.py`, and by `reading.py` for text that comes from another process.
"""

import struct
import sys
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paceline.serve.model import ANY_LENGTH, TensorSpec
from paceline.serve.tensors import RAW_DTYPES, path_of
from paceline.terms.errors import BadInput, TooLarge
from paceline.terms.limits import TEXT_BYTES, TEXTS

assert sys.byteorder == "little", "raw tensors are little-endian, and are not turned round here"

LENGTH = struct.Struct("<I")


def check_raw_input(tensor: TensorSpec) -> None:
    """Refuses what no runtime here takes."""
    if tensor.datatype not in RAW_DTYPES and tensor.datatype != "BYTES":
        raise BadInput(
            f"input `{tensor.name}`: {tensor.datatype} cannot be given to the model",
            remedy="The runtime's arrays have no such type. Export the model with FP32 or FP16 "
            "inputs.",
        )


def check_raw_output(tensor: TensorSpec) -> None:
    if tensor.datatype not in RAW_DTYPES and tensor.datatype != "BYTES":
        raise BadInput(
            f"output `{tensor.name}`: {tensor.datatype} cannot be answered",
            remedy="The runtime's arrays have no such type. Export the model with FP32 or FP16 "
            "outputs, or name others in `outputs`.",
        )


def raw_array(raw: memoryview, tensor: TensorSpec, shape: Sequence[int]) -> NDArray[Any]:
    """Of a checked shape; a view on `raw`, but for text."""
    if tensor.datatype == "BYTES":
        return texts_of(raw, tensor.name, shape)
    check_raw_input(tensor)
    dtype = RAW_DTYPES[tensor.datatype]
    needed = prod(shape) * np.dtype(dtype).itemsize
    if len(raw) != needed:
        raise BadInput(
            f"input `{tensor.name}`: {tensor.datatype} in shape {list(shape)} is {needed} bytes, "
            f"{len(raw)} came",
            remedy="Make datatype, shape and `binary_data_size` agree.",
        )
    if dtype is np.bool_:
        _check_flags(raw, tensor)
    return np.frombuffer(raw, dtype).reshape(shape)


def _check_flags(raw: memoryview, tensor: TensorSpec) -> None:
    """numpy takes the bytes as they are, and computes nonsense with others than 0 and 1."""
    wrong = np.frombuffer(raw, np.uint8) > 1
    if wrong.any():
        at = int(np.argmax(wrong))
        raise BadInput(
            f"input `{tensor.name}`: the byte at {at} is neither 0 nor 1",
            value=raw[at],
            remedy="Send BOOL values as one byte each, 0 or 1.",
        )


def texts_of(raw: memoryview, name: str, shape: Sequence[int]) -> NDArray[Any]:
    count = prod(shape)
    check_texts(count, name)
    if len(raw) > TEXT_BYTES:
        raise TooLarge(
            f"input `{name}`: more text than the limit of {TEXT_BYTES} bytes",
            value=len(raw),
            remedy="Send it in several requests.",
        )
    texts = np.empty(count, object)
    at = 0
    for index in range(count):
        begin = at + LENGTH.size
        if begin > len(raw):
            raise _torn(name, f"{count} texts need more than its {len(raw)} bytes")
        (length,) = LENGTH.unpack_from(raw, at)
        at = begin + length
        if at > len(raw):
            raise _torn(
                name, f"the text {index} should have {length} bytes, {len(raw) - begin} are"
            )
        try:
            texts[index] = str(raw[begin:at], "utf-8")
        except UnicodeDecodeError:
            place = path_of(name, np.unravel_index(index, tuple(shape)))
            raise BadInput(
                f"input `{name}`: the text at `{place}` is not UTF-8",
                remedy="Send text as UTF-8; the model takes no other bytes.",
            ) from None
    if at != len(raw):
        raise _torn(name, f"{len(raw) - at} bytes are left after {count} texts")
    return texts.reshape(shape)


def check_texts(count: int, name: str) -> None:
    """They become objects one by one, wherever they were read, so there may not be many."""
    if count > TEXTS:
        raise TooLarge(
            f"input `{name}`: more texts than the limit of {TEXTS}",
            value=count,
            remedy=f"Send at most {TEXTS} texts in one request.",
        )


def _torn(name: str, fault: str) -> BadInput:
    return BadInput(
        f"input `{name}`: {fault}",
        remedy="Send each text as its length in four bytes, little-endian, and its UTF-8 bytes; "
        "make shape and `binary_data_size` agree.",
    )


def shape_of_raw(size: int, tensor: TensorSpec) -> tuple[int, ...]:
    """What a body of nothing but one tensor's bytes can only mean. Rows are one where that leaves
    another length open."""
    open_axes = [axis for axis, length in enumerate(tensor.shape) if length == ANY_LENGTH]
    shape = list(tensor.shape)
    if len(open_axes) > 1 and tensor.has_rows:
        shape[open_axes.pop(0)] = 1
    if tensor.datatype == "BYTES":  # the whole body is one text
        for axis in open_axes:
            shape[axis] = 1
        return tuple(shape)
    if len(open_axes) > 1:
        raise BadInput(
            f"input `{tensor.name}`: its shape {list(tensor.shape)} cannot be told from "
            "a number of bytes",
            remedy="Send a KServe V2 header with the shape before the data.",
        )
    check_raw_input(tensor)
    if open_axes:
        (axis,) = open_axes
        shape[axis] = 1
        each = prod(shape) * np.dtype(RAW_DTYPES[tensor.datatype]).itemsize
        shape[axis] = size // each if each else 0
    return tuple(shape)


def raw_bytes(array: NDArray[Any], datatype: str) -> memoryview:
    """An output as its declared type has it."""
    if datatype == "BYTES":
        encoded = [_bytes(text) for text in array.ravel().tolist()]
        parts = (part for text in encoded for part in (LENGTH.pack(len(text)), text))
        return memoryview(b"".join(parts))
    whole = np.ascontiguousarray(array, RAW_DTYPES[datatype])
    return whole.reshape(-1).view(np.uint8).data


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode()
