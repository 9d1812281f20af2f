"""KServe V2 (the Open Inference Protocol) in JSON: a body to an InferRequest, outputs to a body.

Pure: no I/O, no model, no clock. Not the binary tensor extension, which is refused by name. Called
by `web/` around whatever runs the model. What it accepts is told in docs/design/v2.md.
"""

from typing import Annotated, Any

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
    nearest,
    parse,
    values_of,
)
from paceline.terms.errors import BadInput, BadJson
from paceline.terms.request import Priority

FORM = (
    'Send {"inputs": [{"name": ..., "datatype": "FP32", "shape": [1, ...], "data": [...]}]}; '
    "see docs/reference/http.md."
)
MOST_US = 2**63 - 1

PRIORITY_OF_LEVEL: tuple[Priority, ...] = ("normal", "critical", "high", "normal", "low")
"""Triton's numbers: 0 is the default, 1 the most urgent; beyond the last all are low."""


class InferRequest(msgspec.Struct, frozen=True):
    """What a client asked, checked. `wanted` are the outputs to answer, in order."""

    id: str
    inputs: dict[str, NDArray[Any]]
    rows: int
    wanted: tuple[str, ...]
    priority: Priority | None
    timeout_s: float | None


class _InputParameters(msgspec.Struct, frozen=True):
    binary_data_size: int | None = None
    shared_memory_region: str | None = None


class _Input(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0, le=2**31)]]
    data: msgspec.Raw = msgspec.Raw()
    parameters: _InputParameters = _InputParameters()


class _OutputParameters(msgspec.Struct, frozen=True):
    classification: int = 0
    shared_memory_region: str | None = None


class _Output(msgspec.Struct, frozen=True):
    name: str
    parameters: _OutputParameters = _OutputParameters()


class _Parameters(msgspec.Struct, frozen=True):
    priority: Priority | Annotated[int, msgspec.Meta(ge=0, le=MOST_US)] = 0
    timeout: Annotated[int, msgspec.Meta(ge=0, le=MOST_US)] = 0


class _Body(msgspec.Struct, frozen=True):
    inputs: list[_Input]
    id: str = ""
    outputs: list[_Output] = []
    parameters: _Parameters = _Parameters()


class _Answered(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]


class _Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[_Answered]
    id: str = ""


def decode(body: bytes, spec: ModelSpec) -> InferRequest:
    try:
        asked = parse(body, _Body, remedy=FORM)
    except BadJson:
        if b'"binary_data_size"' in body:  # raw bytes follow the JSON, as tritonclient sends them
            raise _binary("the body") from None
        raise
    wanted = _wanted(asked.outputs, spec)
    check_datatypes(spec, wanted)
    takes = f"The model takes {', '.join(map(str, spec.inputs))}."
    check_names([given.name for given in asked.inputs], spec, remedy=takes)
    given = {each.name: each for each in asked.inputs}
    inputs = {tensor.name: _array(given[tensor.name], tensor) for tensor in spec.inputs}
    return InferRequest(
        id=asked.id,
        inputs=inputs,
        rows=check_rows(inputs, spec),
        wanted=wanted,
        priority=_priority(asked.parameters.priority),
        timeout_s=asked.parameters.timeout / 1e6 or None,
    )


def encode(spec: ModelSpec, request: InferRequest, outputs: Tensors) -> bytes:
    """The answer to `request`; `outputs` are its own rows, without those of its batch-mates."""
    chosen = {name: outputs[name] for name in request.wanted}
    check_finite(chosen, spec.name)
    datatypes = {tensor.name: tensor.datatype for tensor in spec.outputs}
    answered = [
        _Answered(name, datatypes[name], array.shape, array.ravel().tolist())
        for name, array in chosen.items()
    ]
    return msgspec.json.encode(_Answer(spec.name, spec.version, answered, request.id))


def _array(given: _Input, tensor: TensorSpec) -> NDArray[Any]:
    if given.parameters.binary_data_size is not None:
        raise _binary(f"input `{tensor.name}`")
    if given.parameters.shared_memory_region is not None:
        raise BadInput(
            f"input `{tensor.name}` is in shared memory, which is not supported",
            remedy="Send `data` as JSON.",
        )
    if given.datatype != tensor.datatype:
        raise BadInput(
            f"input `{tensor.name}`: expected datatype {tensor.datatype}",
            value=given.datatype,
            remedy=f"Set its datatype to {tensor.datatype}"
            + ("; whole numbers are fine." if tensor.datatype.startswith("FP") else "."),
        )
    takes = f"The model takes {tensor}; -1 is any length, first the number of rows."
    check_shape(given.shape, tensor, remedy=takes)
    if not bytes(given.data):
        raise BadInput(f"input `{tensor.name}` has no `data`", remedy=FORM)
    # V2 data is flat, or nested as its shape says. One value may stand for a shape of [].
    depth = len(given.shape) if depth_of(given.data) > 1 else 1
    return array_of(values_of(given.data, tensor, depth), tensor, given.shape, depth)


def _binary(what: str) -> BadInput:
    return BadInput(
        f"{what} holds binary data, and only JSON is supported yet",
        remedy="Send `data` as JSON; with tritonclient: "
        "set_data_from_numpy(array, binary_data=False).",
    )


def _wanted(asked: list[_Output], spec: ModelSpec) -> tuple[str, ...]:
    known = [tensor.name for tensor in spec.outputs]
    for output in asked:
        if output.name not in known:
            raise BadInput(
                f"the model `{spec.name}` has no such output",
                value=output.name,
                remedy=nearest(output.name, known)
                + f"The model answers {', '.join(map(str, spec.outputs))}.",
            )
        if output.parameters.classification or output.parameters.shared_memory_region:
            raise BadInput(
                f"output `{output.name}`: classification and shared memory are not supported",
                remedy="Ask for the plain tensor.",
            )
    # Asked for twice is answered once.
    return tuple(dict.fromkeys(output.name for output in asked)) or tuple(known)


def _priority(level: Priority | int) -> Priority | None:
    """None where the request leaves it to the server."""
    if isinstance(level, str):
        return level
    if level == 0:
        return None
    return PRIORITY_OF_LEVEL[min(level, len(PRIORITY_OF_LEVEL) - 1)]
