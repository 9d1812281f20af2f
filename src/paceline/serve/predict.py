"""Plain JSON in, plain JSON out: the friendly sibling of `v2`, for people and curl.

A body is one row, a list of rows, or an object of them by input name; the answer has the same
form. Pure: no I/O, no model, no clock. Called by `web/` for `POST /predict/MODEL`.
"""

from collections.abc import Iterator
from math import prod
from typing import Any

import msgspec
from numpy.typing import NDArray

from paceline.serve.answers import Reply, dumps, is_large, pieces, plain, small_reply
from paceline.serve.binary import check_texts
from paceline.serve.model import ModelSpec, Tensors, TensorSpec
from paceline.serve.tensors import (
    JSON_OUTPUTS,
    Short,
    array_of,
    check_json_input,
    check_json_output,
    check_names,
    check_rows,
    check_shape,
    depth_of,
    fast_lists,
    parse,
    read_array,
    shape_of,
    values_of,
)
from paceline.terms.errors import BadInput


class PredictRequest(msgspec.Struct, frozen=True):
    """What a client asked, checked. `one_row`: answer it without the dimension of rows."""

    inputs: dict[str, NDArray[Any]]
    rows: int
    one_row: bool


class Row:
    """Reads one plain row of few numbers, which is what most callers send to a model that takes
    just that; for everything else, and whatever is wrong with it, there is `decode`."""

    def __init__(self, spec: ModelSpec) -> None:
        self._name = ""
        self._short: Short | None = None
        if len(spec.inputs) != 1 or any(each.datatype not in JSON_OUTPUTS for each in spec.outputs):
            return
        (only,) = spec.inputs
        shape = (1, *only.shape[1:])
        if only.has_rows and len(shape) == 2 and Short.reads(only.datatype, shape):
            self._name, self._short = only.name, Short(only.datatype, shape)

    def decode(self, body: bytes | bytearray | memoryview) -> PredictRequest | None:
        if self._short is None or not isinstance(body, bytes) or body[:1] != b"[":
            return None
        array = self._short.array(body)
        return None if array is None else PredictRequest({self._name: array}, 1, one_row=True)


def decode(
    body: bytes | bytearray | memoryview, spec: ModelSpec, row: Row | None = None
) -> PredictRequest:
    """`row` is one of this model's, kept by who asks often."""
    known = None if row is None else row.decode(body)
    if known is not None:
        return known
    form = _form(spec)
    for tensor in spec.inputs:
        check_json_input(tensor)
    for tensor in spec.outputs:
        check_json_output(tensor)
    raw = parse(body, msgspec.Raw, remedy=form)
    given = _by_name(raw, spec, form)
    inputs: dict[str, NDArray[Any]] = {}
    single: set[bool] = set()
    for tensor in spec.inputs:
        inputs[tensor.name], one_row = _array(bytes(given[tensor.name]), tensor, form)
        single.add(one_row)
    rows = check_rows(inputs, spec)
    if len(single) > 1:
        raise BadInput("some inputs hold one row, others a list of rows", remedy=form)
    return PredictRequest(inputs, rows, one_row=single == {True})


def encode(spec: ModelSpec, request: PredictRequest, outputs: Tensors) -> Reply:
    """The answer to `request`; `outputs` are its own rows, without those of its batch-mates."""
    chosen = {tensor.name: outputs[tensor.name] for tensor in spec.outputs}
    if request.one_row:
        chosen = {
            tensor.name: chosen[tensor.name][0, ...] if tensor.has_rows else chosen[tensor.name]
            for tensor in spec.outputs
        }
    if is_large(chosen.values()):
        return Reply((), rest=_in_pieces(spec.name, chosen))
    form = {
        "model": spec.name,
        "outputs": {name: plain(array) for name, array in chosen.items()},
    }
    return small_reply(form, chosen, chosen, spec.name)


def _in_pieces(model: str, chosen: Tensors) -> Iterator[bytes]:
    before = dumps({"model": model})[:-1] + b',"outputs":{'
    for name, array in chosen.items():
        yield before + dumps(name) + b":"
        yield from pieces(array, name, model)
        before = b","
    yield b"}}"


def _by_name(raw: msgspec.Raw, spec: ModelSpec, form: str) -> dict[str, msgspec.Raw]:
    if bytes(raw).startswith(b"{"):
        given = parse(raw, dict[str, msgspec.Raw], remedy=form)
        check_names(list(given), spec, remedy=form)
        return given
    if len(spec.inputs) != 1:
        raise BadInput(f"the model `{spec.name}` has {len(spec.inputs)} inputs", remedy=form)
    return {spec.inputs[0].name: raw}


def _array(raw: bytes, tensor: TensorSpec, form: str) -> tuple[NDArray[Any], bool]:
    """The input as an array with rows, and whether it was one row without."""
    rank = len(tensor.shape)
    depth = depth_of(raw)
    one_row = tensor.has_rows and depth == rank - 1
    if depth != rank and not one_row:
        raise BadInput(
            f"input `{tensor.name}`: " + (f"{depth} nested lists" if depth else "not a list"),
            value=raw[:40].decode("utf-8", "replace"),
            remedy=form,
        )
    lists = fast_lists(raw) if depth else None
    values = lists if lists is not None else values_of(raw, tensor, depth)
    shape = shape_of(values, depth)
    whole = (1, *shape) if one_row else shape
    check_shape(whole, tensor, remedy=form)
    if tensor.datatype == "BYTES":
        check_texts(prod(whole), tensor.name)
    if lists is not None:
        return read_array(raw, tensor, shape, depth, lists).reshape(whole), one_row
    return array_of(values, tensor, shape, depth).reshape(whole), one_row


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
