"""A model's outputs as the body of an answer: parts to send one after another.

JSON numbers are written from the array's own memory, each the shortest text that reads back as the
same number of its type; large arrays in pieces, each made within what may hold up the loop. No I/O;
what an answer says besides is for its form to know (`v2`, `predict`), which call this.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from paceline.terms.errors import ModelFailed
from paceline.terms.limits import ENCODE_IN_PLACE_NUMBERS

NUMBERS = "fiub"
"""kinds of arrays that are written from their memory; others, text, become lists first"""


class Reply(msgspec.Struct, frozen=True):
    """A body: `parts`, and then what `rest` yields, where there is one. The loop cannot turn while
    a piece is made, so let it do so between two, and send nothing before the last: `rest` raises
    where the model answered what has no JSON form. `header_length` is that of the JSON before raw
    tensors; None where there are none."""

    parts: Sequence[bytes | memoryview]
    header_length: int | None = None
    rest: Iterator[bytes] | None = None

    def whole(self) -> bytes:
        """For those who have time."""
        return b"".join((*self.parts, *(self.rest or ())))


def is_large(arrays: Iterable[NDArray[Any]]) -> bool:
    """Whether to write them in pieces."""
    return sum([array.size for array in arrays]) > ENCODE_IN_PLACE_NUMBERS


def plain(array: NDArray[Any]) -> Any:
    """As `dumps` takes it."""
    if array.dtype.kind not in NUMBERS:
        return array.tolist()
    if not array.ndim:
        return array[()] if array.dtype.kind == "f" else array.item()
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def dumps(form: Any) -> bytes:
    return orjson.dumps(form, option=orjson.OPT_SERIALIZE_NUMPY)


def small_reply(
    form: Any, outputs: Mapping[str, NDArray[Any]], inside: Iterable[str], model: str
) -> Reply:
    """`form` holds the outputs named `inside`, as `plain` makes them."""
    text = dumps(form)
    if b"null" in text:  # what has no number is written so, or somebody's name has it
        for name in inside:
            check_finite(outputs[name], name, model)
    return Reply((text,))


def pieces(array: NDArray[Any], name: str, model: str) -> Iterator[bytes]:
    """Its JSON, nested as it is."""
    if array.size <= ENCODE_IN_PLACE_NUMBERS:
        yield _piece(array, name, model)
        return
    yield b"["
    inside = array[0].size
    step = max(1, ENCODE_IN_PLACE_NUMBERS // inside)
    for at in range(0, len(array), step):
        if at:
            yield b","
        if inside > ENCODE_IN_PLACE_NUMBERS:
            yield from pieces(array[at], name, model)
        else:
            yield _piece(array[at : at + step], name, model)[1:-1]
    yield b"]"


def _piece(array: NDArray[Any], name: str, model: str) -> bytes:
    text = dumps(plain(array))
    if b"null" in text:
        check_finite(array, name, model)
    return text


def check_finite(array: NDArray[Any], name: str, model: str) -> None:
    """JSON has no NaN and no infinity, and `null` in their place would be a lie."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ModelFailed(
            f"the model `{model}` answered NaN or infinity in output `{name}`",
            remedy="Check the values sent; if they are right, the model is at fault. Raw tensors "
            "(`binary_data`, V2) can carry both.",
        )
