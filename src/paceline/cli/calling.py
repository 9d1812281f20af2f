"""How to call a model, as a line for a shell that works when it is pasted: with zeros, or for the
shipped example with a row of it. Called by the commands that start a server.
"""

import json
from collections.abc import Sequence
from math import prod

from paceline.serve import digits
from paceline.serve.model import ANY_LENGTH, TensorSpec

SHOWN_CHARS = 300
"""A longer body is made by a line of Python."""

JSON = "-H 'content-type: application/json'"


def curl(address: str, name: str, inputs: Sequence[TensorSpec], key: str) -> str:
    """`key` is the option that sends one, where one is needed."""
    if not inputs:  # too many to show
        return f"curl -s {address}/v2/models/{name}{key}"
    whole = all(each.has_rows for each in inputs)
    shapes = [_closed(each.shape[1:] if whole else each.shape) for each in inputs]
    if sum(map(prod, shapes)) * 2 <= SHOWN_CHARS:
        zeros = {each.name: _zeros(shape, each) for each, shape in zip(inputs, shapes, strict=True)}
        said = zeros[inputs[0].name] if len(inputs) == 1 else zeros
        if name == digits.NAME and shapes == [[len(digits.SAMPLE_ROW)]]:
            said = digits.SAMPLE_ROW
        body = json.dumps(said, separators=(",", ":"))
        return f"curl -s {address}/predict/{name}{key} {JSON} -d {_quoted(body)}"
    made = ",".join(
        f"dict(name={each.name!r},shape={_closed(each.shape)},datatype={each.datatype!r},"
        f"data=[{_zero(each)}]*{prod(_closed(each.shape))})"
        for each in inputs
    )
    program = f"import json;print(json.dumps(dict(inputs=[{made}]),separators=(',',':')))"
    return (
        f"python3 -c {_quoted(program)} | "
        f"curl -s {address}/v2/models/{name}/infer{key} {JSON} -d @-"
    )


def _closed(shape: Sequence[int]) -> list[int]:
    return [1 if size == ANY_LENGTH else size for size in shape]


def _zero(tensor: TensorSpec) -> object:
    return False if tensor.datatype == "BOOL" else 0


def _zeros(shape: Sequence[int], tensor: TensorSpec) -> object:
    if not shape:
        return _zero(tensor)
    return [_zeros(shape[1:], tensor) for _ in range(shape[0])]


def _quoted(text: str) -> str:
    """For a shell."""
    return "'" + text.replace("'", "'\\''") + "'"
