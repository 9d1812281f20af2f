"""Plain JSON in, plain JSON out: the friendly sibling of `v2`, for people and curl.

A body is one row, a list of rows, or an object of them by input name; the answer has the same
form. Pure: no I/O, no model, no clock. Called by `web/` for `POST /predict/MODEL`.
"""

from typing import Any

import msgspec
from numpy.typing import NDArray

from paceline.serve.model import ModelSpec, Tensors, TensorSpec
from paceline.serve.tensors import (
    array_of,
    check_datatypes,
    check_finite,
    check_names,
    check_rows,
    check_shape,
    depth_of,
    parse,
    shape_of,
    values_of,
)
from paceline.terms.errors import BadInput


class PredictRequest(msgspec.Struct, frozen=True):
    """What a client asked, checked. `one_row`: answer it without the dimension of rows."""

    inputs: dict[str, NDArray[Any]]
    rows: int
    one_row: bool


class _Answer(msgspec.Struct, frozen=True):
    model: str
    outputs: dict[str, Any]


def decode(body: bytes, spec: ModelSpec) -> PredictRequest:
    form = _form(spec)
    check_datatypes(spec, [tensor.name for tensor in spec.outputs])
    raw = parse(body, msgspec.Raw, remedy=form)
    given = _by_name(raw, spec, form)
    inputs: dict[str, NDArray[Any]] = {}
    single: set[bool] = set()
    for tensor in spec.inputs:
        inputs[tensor.name], one_row = _array(given[tensor.name], tensor, form)
        single.add(one_row)
    rows = check_rows(inputs, spec)
    if len(single) > 1:
        raise BadInput("some inputs hold one row, others a list of rows", remedy=form)
    return PredictRequest(inputs, rows, one_row=single == {True})


def encode(spec: ModelSpec, request: PredictRequest, outputs: Tensors) -> bytes:
    """The answer to `request`; `outputs` are its own rows, without those of its batch-mates."""
    chosen = {tensor.name: outputs[tensor.name] for tensor in spec.outputs}
    check_finite(chosen, spec.name)
    plain = {
        tensor.name: chosen[tensor.name].tolist()[0]
        if request.one_row and tensor.has_rows
        else chosen[tensor.name].tolist()
        for tensor in spec.outputs
    }
    return msgspec.json.encode(_Answer(spec.name, plain))


def _by_name(raw: msgspec.Raw, spec: ModelSpec, form: str) -> dict[str, msgspec.Raw]:
    if bytes(raw).startswith(b"{"):
        given = parse(raw, dict[str, msgspec.Raw], remedy=form)
        check_names(list(given), spec, remedy=form)
        return given
    if len(spec.inputs) != 1:
        raise BadInput(f"the model `{spec.name}` has {len(spec.inputs)} inputs", remedy=form)
    return {spec.inputs[0].name: raw}


def _array(raw: msgspec.Raw, tensor: TensorSpec, form: str) -> tuple[NDArray[Any], bool]:
    """The input as an array with rows, and whether it was one row without."""
    rank = len(tensor.shape)
    depth = depth_of(raw)
    one_row = tensor.has_rows and depth == rank - 1
    if depth != rank and not one_row:
        raise BadInput(
            f"input `{tensor.name}`: " + (f"{depth} nested lists" if depth else "not a list"),
            value=bytes(raw)[:40].decode("utf-8", "replace"),
            remedy=form,
        )
    values = values_of(raw, tensor, depth)
    shape = shape_of(values, depth)
    if one_row:
        values, shape = [values], (1, *shape)
    check_shape(shape, tensor, remedy=form)
    return array_of(values, tensor, shape, rank), one_row


def _form(spec: ModelSpec) -> str:
    """How a body for this model looks: `Send one row, [...64 numbers...], or a list of rows`."""
    if len(spec.inputs) == 1:
        example = _example(spec.inputs[0])
    else:
        example = "{" + ", ".join(f'"{t.name}": {_example(t)}' for t in spec.inputs) + "}"
    rows = ", or a list of rows" if spec.has_rows else ""
    return f"Send {example}{rows}; a KServe V2 body goes to /v2/models/{spec.name}/infer."


def _example(tensor: TensorSpec) -> str:
    sizes = tensor.shape[1:] if tensor.has_rows else tensor.shape
    what = "true or false" if tensor.datatype == "BOOL" else "numbers"
    if not sizes:
        return f"one of {what}" if tensor.datatype == "BOOL" else "one number"
    count = "" if sizes[-1] == -1 else f"{sizes[-1]} "
    return "[" * len(sizes) + f"...{count}{what}..." + "]" * len(sizes)
