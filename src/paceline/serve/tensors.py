"""JSON numbers to checked arrays, and back: what both JSON forms (`v2`, `predict`) share.

Every complaint about what a request holds is made before anything is queued: once rows of several
requests share a batch, nobody could say whose fault it was. No I/O, and no batching.
"""

import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from paceline.serve.model import ModelSpec, TensorSpec
from paceline.terms.errors import BadInput, BadJson, ModelFailed, TooLarge
from paceline.terms.limits import ROWS

Form = TypeVar("Form")
JsonBytes = bytes | msgspec.Raw


def _integer(dtype: type[np.integer[Any]]) -> Any:
    info = np.iinfo(dtype)
    # msgspec checks bounds up to 2**63 - 1; above that numpy refuses (see `array_of`).
    most = int(info.max) if info.max < 2**63 else None
    return Annotated[int, msgspec.Meta(ge=int(info.min), le=most)]


DTYPES: Mapping[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP32": np.float32,
    "FP64": np.float64,
}
"""What JSON can carry into a model. V2 gives FP16 and BF16 no JSON form; BYTES is yet to come."""

JSON_OUTPUTS = frozenset(DTYPES) | {"BYTES"}
"""What it can carry back: text labels are text."""


def parse(body: JsonBytes, form: type[Form], *, remedy: str) -> Form:
    """The body as `form`, or a BadJson that says where it stops making sense."""
    try:
        return msgspec.json.decode(body, type=form)
    except msgspec.ValidationError as error:
        raise BadJson(f"the body does not have the expected form: {error}", remedy=remedy) from None
    except RecursionError:
        raise BadJson("the body is nested too deeply", remedy=remedy) from None
    except UnicodeDecodeError:
        raise BadJson("the body is not UTF-8 text", remedy="Send JSON as UTF-8.") from None
    except msgspec.DecodeError as error:
        raise _malformed(bytes(body), str(error)) from None


def _malformed(body: bytes, complaint: str) -> BadJson:
    if not body.strip():
        return BadJson(
            "the body is empty", remedy="Send JSON; with curl, use --data-binary @FILE or -d TEXT."
        )
    found = re.search(r"\(byte (\d+)\)", complaint)
    at = int(found[1]) if found else len(body)
    what = "the body ends too early" if found is None else "the body is not valid JSON"
    around = body[max(0, at - 20) : at + 10].decode("utf-8", "replace")
    return BadJson(
        f"{what}, at byte {at}",
        value=around,
        remedy="Correct it there; JSON has no NaN, no comments, and takes double quotes only.",
    )


def depth_of(raw: JsonBytes) -> int:
    """How many lists open before the first value."""
    opening = re.match(rb"[\s\[]*", bytes(raw))
    return opening[0].count(b"[") if opening else 0


def values_of(raw: JsonBytes, tensor: TensorSpec, depth: int) -> Any:
    """Plain Python values, `depth` lists deep, each one of the tensor's datatype."""
    try:
        return _decoder(tensor.datatype, depth).decode(raw)
    except msgspec.ValidationError as error:
        said = str(error).replace("`$", f"`{tensor.name}")
        raise BadInput(
            f"input `{tensor.name}`: {said[0].lower()}{said[1:]}", remedy=_send(tensor)
        ) from None
    except msgspec.DecodeError as error:
        raise _malformed(bytes(raw), str(error)) from None


@functools.cache  # at most one per datatype and rank of the models in this process
def _decoder(datatype: str, depth: int) -> msgspec.json.Decoder[Any]:
    dtype = DTYPES[datatype]
    form: Any
    if issubclass(dtype, np.integer):
        form = _integer(dtype)
    else:
        form = bool if dtype is np.bool_ else float
    for _ in range(depth):
        form = list[form]
    return msgspec.json.Decoder(form)


def shape_of(values: Any, depth: int) -> tuple[int, ...]:
    """The shape nested lists claim by their first elements; `array_of` checks the others."""
    shape: list[int] = []
    for _ in range(depth):
        shape.append(len(values))
        if not values:
            break
        values = values[0]
    return tuple(shape)


def array_of(values: Any, tensor: TensorSpec, shape: Sequence[int], depth: int) -> NDArray[Any]:
    """Values as an array of a checked shape; they come flat (depth 1) or nested as the shape is."""
    if depth == 1:
        if len(values) != prod(shape):
            raise BadInput(
                f"input `{tensor.name}`: shape {list(shape)} needs {prod(shape)} values, "
                f"the data has {len(values)}",
                remedy="Make shape and data agree.",
            )
    elif depth > 1:
        _check_even(values, tensor, shape, where=tensor.name)
    dtype = DTYPES[tensor.datatype]
    try:
        with np.errstate(over="ignore"):  # what overflows becomes infinite, and is found below
            array = np.array(values, dtype=dtype).reshape(shape)
    except OverflowError:
        raise BadInput(
            f"input `{tensor.name}`: a number is too large for {tensor.datatype}",
            remedy=f"Send numbers of at most {np.iinfo(dtype).max}.",  # type: ignore[type-var]
        ) from None
    if issubclass(dtype, np.floating) and not np.isfinite(array).all():
        at = int(np.argmin(np.isfinite(array)))
        raise BadInput(
            f"input `{tensor.name}`: a number is too large for {tensor.datatype}",
            value=float(np.ravel(np.array(values, dtype=np.float64))[at]),
            remedy=f"Send numbers of at most {np.finfo(dtype).max:.4g}.",
        )
    return array


def _check_even(values: Any, tensor: TensorSpec, shape: Sequence[int], where: str) -> None:
    if len(values) != shape[0]:
        raise BadInput(
            f"input `{tensor.name}`: `{where}` has {len(values)} elements, expected {shape[0]}",
            remedy="Make all lists of one level equally long, as the shape says.",
        )
    if len(shape) > 1:
        for index, inner in enumerate(values):
            _check_even(inner, tensor, shape[1:], f"{where}[{index}]")


def check_shape(shape: Sequence[int], tensor: TensorSpec, *, remedy: str) -> None:
    """One tensor's shape against what the model takes; neither empty nor of too many rows."""
    fits = len(shape) == len(tensor.shape) and all(
        want in (-1, size) for size, want in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        raise BadInput(
            f"input `{tensor.name}`: expected shape {list(tensor.shape)}, got {_shown(shape)}",
            remedy=remedy,
        )
    if 0 in shape:
        raise BadInput(
            f"input `{tensor.name}`: shape {list(shape)} holds no values",
            remedy="Send at least one row, or no request.",
        )
    if tensor.has_rows and shape[0] > ROWS:
        raise TooLarge(
            f"input `{tensor.name}`: more rows than the limit of {ROWS}",
            value=shape[0],
            remedy=f"Send at most {ROWS} rows in one request.",
        )


def _shown(shape: Sequence[int]) -> str:
    return str(list(shape)) if len(shape) <= 8 else f"{len(shape)} dimensions"


def check_datatypes(spec: ModelSpec, wanted: Iterable[str]) -> None:
    """Refuses what JSON cannot carry in or out, before the model runs for nothing."""
    asked = set(wanted)
    for tensor in spec.inputs:
        if tensor.datatype not in DTYPES:
            raise BadInput(
                f"input `{tensor.name}`: {tensor.datatype} cannot be sent as JSON",
                remedy="Export the model with inputs of another type, FP32 for example.",
            )
    for tensor in spec.outputs:
        if tensor.name in asked and tensor.datatype not in JSON_OUTPUTS:
            raise BadInput(
                f"output `{tensor.name}`: {tensor.datatype} cannot be answered as JSON",
                remedy="Export the model with FP32 outputs, or name others in `outputs` (V2).",
            )


def check_names(given: Sequence[str], spec: ModelSpec, *, remedy: str) -> None:
    """Each input exactly once, and no others."""
    known = [tensor.name for tensor in spec.inputs]
    for index, name in enumerate(given):
        if name not in known:
            raise BadInput(
                f"the model `{spec.name}` has no such input",
                value=name,
                remedy=nearest(name, known) + remedy,
            )
        if name in given[:index]:
            raise BadInput(f"input `{name}` is given twice", remedy="Send each input once.")
    for name in known:
        if name not in given:
            raise BadInput(f"input `{name}` is missing", remedy=remedy)


def check_rows(inputs: Mapping[str, NDArray[Any]], spec: ModelSpec) -> int:
    """How many rows the request has; all inputs with rows must agree."""
    counts = {t.name: len(inputs[t.name]) for t in spec.inputs if t.has_rows}
    if len(set(counts.values())) > 1:
        raise BadInput(
            "the inputs differ in their number of rows",
            value=", ".join(f"{name}: {count}" for name, count in counts.items()),
            remedy="Send the same number of rows for every input.",
        )
    return next(iter(counts.values()), 1)


def check_finite(outputs: Mapping[str, NDArray[Any]], model: str) -> None:
    """JSON has no NaN and no infinity, and `null` in their place would be a lie."""
    for name, array in outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelFailed(
                f"the model `{model}` answered NaN or infinity in output `{name}`",
                remedy="Check the values sent; if they are right, the model is at fault.",
            )


def nearest(name: str, known: Sequence[str]) -> str:
    """`Did you mean ...? `, or nothing."""
    by_lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(name[:64].lower(), by_lower, n=1)
    return f"Did you mean `{by_lower[found[0]]}`? " if found else ""


def _send(tensor: TensorSpec) -> str:
    what = "true or false" if tensor.datatype == "BOOL" else "plain JSON numbers"
    return f"Send {tensor.datatype} values as {what}, in shape {list(tensor.shape)}."
