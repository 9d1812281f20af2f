"""KServe V2 (the Open Inference Protocol): a body to an InferRequest, outputs to a body.

JSON, raw tensors after it (the binary extension), and both mixed. Pure: no I/O, no model, no clock.
Called by `web/` around whatever runs the model, and by `reader.py` for large bodies. What it
accepts is told in docs/design/v2.md, how in docs/design/tensors.md.
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Annotated, Any

import msgspec
from numpy.typing import NDArray

from paceline.serve.answers import Reply, check_finite, dumps, pieces, plain, small_reply
from paceline.serve.binary import (
    LENGTH,
    check_raw_output,
    check_texts,
    raw_array,
    raw_bytes,
    shape_of_raw,
)
from paceline.serve.model import ModelSpec, Tensors, TensorSpec
from paceline.serve.tensors import (
    JSON_OUTPUTS,
    WIDE,
    Short,
    check_json_input,
    check_json_output,
    check_names,
    check_rows,
    check_shape,
    depth_of,
    fast_array,
    fast_lists,
    nearest,
    parse_with,
    read_array,
)
from paceline.terms.errors import BadInput, BadJson, BadRequest
from paceline.terms.limits import ENCODE_IN_PLACE_NUMBERS, REQUEST_ID_CHARS
from paceline.terms.request import Priority

FORM = (
    'Send {"inputs": [{"name": ..., "datatype": "FP32", "shape": [1, ...], "data": [...]}]}; '
    "see docs/reference/http.md."
)
TAKES = "The model takes {tensor}; -1 is any length, first the number of rows."
HEADER = "Inference-Header-Content-Length"
MOST_US = 2**63 - 1

FORMS = 64
"""of answers of one model that are remembered: outputs and shapes"""

PRIORITY_OF_LEVEL: tuple[Priority, ...] = ("normal", "critical", "high", "normal", "low")
"""Triton's numbers: 0 is the default, 1 the most urgent; beyond the last all are low."""


class InferRequest(msgspec.Struct, frozen=True):
    """What a client asked, checked. `wanted` are the outputs to answer, in order, and `binary`
    says of each whether as raw bytes."""

    id: str
    inputs: dict[str, NDArray[Any]]
    rows: int
    wanted: tuple[str, ...]
    binary: tuple[bool, ...]
    priority: Priority | None
    timeout_s: float | None


class _InputParameters(msgspec.Struct, frozen=True):
    binary_data_size: Annotated[int, msgspec.Meta(ge=0, le=MOST_US)] | None = None
    shared_memory_region: str | None = None


class _Input(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0, le=2**31)]]
    data: msgspec.Raw = msgspec.Raw()
    parameters: _InputParameters = _InputParameters()


class _OutputParameters(msgspec.Struct, frozen=True):
    binary_data: bool | None = None
    classification: int = 0
    shared_memory_region: str | None = None


class _Output(msgspec.Struct, frozen=True):
    name: str
    parameters: _OutputParameters = _OutputParameters()


class _Parameters(msgspec.Struct, frozen=True):
    priority: Priority | Annotated[int, msgspec.Meta(ge=0, le=MOST_US)] = 0
    timeout: Annotated[int, msgspec.Meta(ge=0, le=MOST_US)] = 0
    binary_data_output: bool = False


class _Body(msgspec.Struct, frozen=True):
    inputs: list[_Input]
    id: Annotated[str, msgspec.Meta(max_length=REQUEST_ID_CHARS)] = ""
    outputs: list[_Output] = []
    parameters: _Parameters = _Parameters()


_decode = msgspec.json.Decoder(_Body).decode


class Memo:
    """What the last body of one model said around its numbers. A client says that again and again:
    where the bytes before and after are the same, and JSON lists stand between, only those are new,
    for what a text of JSON means does not depend on which numbers stand in a place of it."""

    def __init__(self) -> None:
        self._before = b""
        self._after = b""
        self._depth = 0
        self._like: InferRequest | None = None
        self._tensor: TensorSpec | None = None
        self._shape: tuple[int, ...] = ()
        self._short: Short | None = None
        self._around: dict[tuple[Any, ...], tuple[bytes, ...]] = {}

    def decode(self, body: bytes) -> InferRequest | None:
        like, tensor = self._like, self._tensor
        if (
            like is None
            or tensor is None
            or not body.startswith(self._before)
            or not body.endswith(self._after)
        ):
            return None
        text = body[len(self._before) : len(body) - len(self._after)]
        array = None if self._short is None else self._short.array(text)
        if array is None:
            lists = fast_lists(text)
            if lists is None:
                return None
            array = fast_array(text, lists, tensor.datatype, self._shape, self._depth)
            if array is None:
                return None
        return InferRequest(
            like.id,
            {tensor.name: array},
            like.rows,
            like.wanted,
            like.binary,
            like.priority,
            like.timeout_s,
        )

    def encode(self, spec: ModelSpec, request: InferRequest, outputs: Tensors) -> bytes | None:
        """The answer, if it is short JSON: its words are those of the last one that asked for the
        same outputs and got such shapes; only the numbers are written."""
        wanted = request.wanted
        arrays = [outputs[name] for name in wanted]
        key = (wanted, *[array.shape for array in arrays])
        around = self._around.get(key)
        if around is None:
            if sum(array.size for array in arrays) > ENCODE_IN_PLACE_NUMBERS:
                return None
            if len(self._around) >= FORMS:
                self._around.clear()
            around = self._around[key] = _around(spec, request, arrays)
        text = around[0]
        for name, array, after in zip(wanted, arrays, around[1:], strict=True):
            numbers = dumps(plain(array.ravel()))
            if b"null" in numbers:
                check_finite(array, name, spec.name)
            text += numbers + after
        return text

    def keep(self, body: bytes, data: bytes, request: InferRequest, tensor: TensorSpec) -> None:
        """Of a body that was understood: `data` is the text of its only input."""
        if tensor.datatype not in WIDE or not tensor.shape or body.count(data) != 1:
            return
        at = body.index(data)
        self._before, self._after = body[:at], body[at + len(data) :]
        self._like, self._tensor = request, tensor
        self._shape = request.inputs[tensor.name].shape
        self._depth = len(self._shape) if depth_of(data) > 1 else 1
        short = self._depth == 1 and Short.reads(tensor.datatype, self._shape)
        self._short = Short(tensor.datatype, self._shape) if short else None


def decode(
    body: bytes | bytearray | memoryview,
    spec: ModelSpec,
    header_length: int | None = None,
    memo: Memo | None = None,
) -> InferRequest:
    """`header_length` is what the header HEADER says: how much of the body is JSON. None where it
    is absent, 0 where the body is one input's bytes and nothing else. Raw tensors become views on
    the body, which must stay as it is until they have been used."""
    whole = body
    if memo is not None and header_length is None and isinstance(body, bytes):
        known = memo.decode(body)
        if known is not None:
            return known
    if header_length == 0:
        return _bare(memoryview(body), spec)
    tail = memoryview(b"")
    if header_length is not None:
        if header_length > len(body):
            raise BadRequest(
                f"{HEADER} says more than the body's {len(body)} bytes",
                value=header_length,
                remedy="It is the length of the JSON before the raw tensors.",
            )
        view = memoryview(body)
        body, tail = view[:header_length], view[header_length:]
    try:
        asked = parse_with(_decode, body, remedy=FORM)
    except BadJson:
        if header_length is None and b'"binary_data_size"' in bytes(body):
            raise _no_header("the body") from None
        raise
    outputs, parameters = asked.outputs, asked.parameters
    wanted, binary = _wanted(outputs, spec, parameters.binary_data_output)
    inputs: dict[str, NDArray[Any]] = {}
    for given, tensor in zip(asked.inputs, _meant(asked.inputs, spec), strict=True):
        size = given.parameters.binary_data_size
        if size is None:
            inputs[given.name] = _from_json(given, tensor)
            continue
        if header_length is None:
            raise _no_header(f"input `{given.name}`")
        inputs[given.name] = _from_tail(given, tensor, tail, size)
        tail = tail[size:]
    if tail:
        raise BadInput(
            f"{len(tail)} bytes are left after the tensors of the body",
            remedy=f"Make {HEADER} and each `binary_data_size` agree with what is sent.",
        )
    request = InferRequest(
        asked.id,
        inputs,
        check_rows(inputs, spec),
        wanted,
        binary,
        _priority(parameters.priority),
        parameters.timeout / 1e6 or None,
    )
    if (
        memo is not None
        and header_length is None
        and len(spec.inputs) == 1
        and isinstance(whole, bytes)
    ):
        memo.keep(whole, bytes(asked.inputs[0].data), request, spec.inputs[0])
    return request


def encode(
    spec: ModelSpec, request: InferRequest, outputs: Tensors, memo: Memo | None = None
) -> Reply:
    """The answer to `request`; `outputs` are its own rows, without those of its batch-mates."""
    if memo is not None and not request.id and True not in request.binary:
        text = memo.encode(spec, request, outputs)
        if text is not None:
            return Reply((text,))
    form: dict[str, Any] = {"model_name": spec.name, "model_version": spec.version}
    if request.id:
        form["id"] = request.id
    wanted = request.wanted
    if True in request.binary:
        return _with_tail(form, request, outputs, _datatypes(spec), spec.name)
    described: list[dict[str, Any]] = []
    size, in_order = 0, True
    for tensor in spec.outputs:
        name = tensor.name
        if name in wanted:
            in_order = in_order and wanted[len(described)] == name
            array = outputs[name]
            size += array.size
            described.append(
                {
                    "name": name,
                    "datatype": tensor.datatype,
                    "shape": array.shape,
                    "data": plain(array.ravel()),
                }
            )
    if size > ENCODE_IN_PLACE_NUMBERS:
        return Reply((), rest=_in_pieces(form, request, outputs, _datatypes(spec), spec.name))
    if not in_order:
        described.sort(key=lambda one: wanted.index(one["name"]))
    form["outputs"] = described
    return small_reply(form, outputs, wanted, spec.name)


def _around(
    spec: ModelSpec, request: InferRequest, arrays: Sequence[NDArray[Any]]
) -> tuple[bytes, ...]:
    """What an answer says before, between and behind the numbers of its outputs."""
    form: dict[str, Any] = {"model_name": spec.name, "model_version": spec.version, "outputs": []}
    datatypes = _datatypes(spec)
    around = [dumps(form)[:-2]]
    for name, array in zip(request.wanted, arrays, strict=True):
        about = {"name": name, "datatype": datatypes[name], "shape": array.shape}
        comma = b"," if len(around) > 1 else b""
        around[-1] += comma + dumps(about)[:-1] + b',"data":'
        around.append(b"}")
    around[-1] += b"]}"
    return tuple(around)


def _datatypes(spec: ModelSpec) -> dict[str, str]:
    return {tensor.name: tensor.datatype for tensor in spec.outputs}


def _with_tail(
    form: dict[str, Any],
    request: InferRequest,
    outputs: Tensors,
    datatypes: dict[str, str],
    model: str,
) -> Reply:
    """The JSON is short unless somebody wants large outputs both ways; that is his to wait for."""
    tail: list[bytes | memoryview] = []
    described, as_json = [], []
    for name, binary in zip(request.wanted, request.binary, strict=True):
        array = outputs[name]
        one: dict[str, Any] = {"name": name, "datatype": datatypes[name], "shape": array.shape}
        if binary:
            raw = raw_bytes(array, datatypes[name])
            one["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            one["data"] = plain(array.ravel())
            as_json.append(name)
        described.append(one)
    form["outputs"] = described
    (head,) = small_reply(form, outputs, as_json, model).parts
    return Reply((head, *tail), len(head))


def _in_pieces(
    form: dict[str, Any],
    request: InferRequest,
    outputs: Tensors,
    datatypes: dict[str, str],
    model: str,
) -> Iterator[bytes]:
    before = dumps(form)[:-1] + b',"outputs":['
    for name in request.wanted:
        array = outputs[name]
        about = {"name": name, "datatype": datatypes[name], "shape": array.shape}
        yield before + dumps(about)[:-1] + b',"data":'
        yield from pieces(array.ravel(), name, model)
        before = b"},"
    yield b"}]}"


def _meant(given: list[_Input], spec: ModelSpec) -> Sequence[TensorSpec]:
    """Of each input the tensor with its name."""
    if len(given) == 1 == len(spec.inputs) and given[0].name == spec.inputs[0].name:
        return spec.inputs
    takes = f"The model takes {', '.join(map(str, spec.inputs))}."
    check_names([each.name for each in given], spec, remedy=takes)
    by_name = {tensor.name: tensor for tensor in spec.inputs}
    return [by_name[each.name] for each in given]


def _from_json(given: _Input, tensor: TensorSpec) -> NDArray[Any]:
    _check_described(given, tensor)
    check_json_input(tensor)
    text = bytes(given.data)
    if not text:
        raise BadInput(f"input `{tensor.name}` has no `data`", remedy=FORM)
    if tensor.datatype == "BYTES":
        check_texts(prod(given.shape), tensor.name)
    # V2 data is flat, or nested as its shape says. One value may stand for a shape of [].
    depth = len(given.shape) if depth_of(text) > 1 else 1
    return read_array(text, tensor, given.shape, depth)


def _from_tail(given: _Input, tensor: TensorSpec, tail: memoryview, size: int) -> NDArray[Any]:
    _check_described(given, tensor)
    if memoryview(given.data):
        raise BadInput(
            f"input `{tensor.name}` has `data` and `binary_data_size`", remedy="Send one of both."
        )
    if size > len(tail):
        raise BadInput(
            f"input `{tensor.name}`: {size} bytes should follow the JSON, {len(tail)} are left",
            remedy=f"Make {HEADER} and each `binary_data_size` agree with what is sent.",
        )
    return raw_array(tail[:size], tensor, given.shape)


def _check_described(given: _Input, tensor: TensorSpec) -> None:
    if given.parameters.shared_memory_region is not None:
        raise BadInput(
            f"input `{tensor.name}` is in shared memory, which is not supported",
            remedy="Send `data` as JSON, or raw bytes after it.",
        )
    if given.datatype != tensor.datatype:
        raise BadInput(
            f"input `{tensor.name}`: expected datatype {tensor.datatype}",
            value=given.datatype,
            remedy=f"Set its datatype to {tensor.datatype}"
            + ("; whole numbers are fine." if tensor.datatype.startswith("FP") else "."),
        )
    check_shape(given.shape, tensor, remedy=TAKES)


def _bare(body: memoryview, spec: ModelSpec) -> InferRequest:
    if len(spec.inputs) != 1:
        raise BadInput(
            f"a body of raw bytes alone is one input, and the model `{spec.name}` has "
            f"{len(spec.inputs)}",
            remedy=f"Send a KServe V2 header before them, and its length as {HEADER}.",
        )
    (tensor,) = spec.inputs
    shape = shape_of_raw(len(body), tensor)
    check_shape(shape, tensor, remedy=TAKES)
    if tensor.datatype == "BYTES":
        body = memoryview(LENGTH.pack(len(body)) + body)
    inputs = {tensor.name: raw_array(body, tensor, shape)}
    wanted, binary = _wanted([], spec, binary=True)
    return InferRequest("", inputs, check_rows(inputs, spec), wanted, binary, None, None)


def _no_header(what: str) -> BadInput:
    return BadInput(
        f"{what} has raw tensors after its JSON, and no header {HEADER}",
        remedy="Send the length of the JSON in it.",
    )


def _wanted(
    asked: list[_Output], spec: ModelSpec, binary: bool
) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """The outputs, and of each whether as raw bytes. Asked for twice is answered once."""
    if not asked:
        names = []
        for tensor in spec.outputs:
            if binary or tensor.datatype not in JSON_OUTPUTS:
                _check_output(tensor, binary)
            names.append(tensor.name)
        return tuple(names), (binary,) * len(names)
    known = {tensor.name: tensor for tensor in spec.outputs}
    chosen: dict[str, bool] = {}
    for output in asked:
        if output.name not in known:
            raise BadInput(
                f"the model `{spec.name}` has no such output",
                value=output.name,
                remedy=nearest(output.name, list(known))
                + f"The model answers {', '.join(map(str, spec.outputs))}.",
            )
        said = output.parameters
        if said.classification or said.shared_memory_region:
            raise BadInput(
                f"output `{output.name}`: classification and shared memory are not supported",
                remedy="Ask for the plain tensor.",
            )
        chosen.setdefault(output.name, binary if said.binary_data is None else said.binary_data)
    for name, as_bytes in chosen.items():
        _check_output(known[name], as_bytes)
    return tuple(chosen), tuple(chosen.values())


def _check_output(tensor: TensorSpec, binary: bool) -> None:
    if binary:
        check_raw_output(tensor)
    else:
        check_json_output(tensor)


def _priority(level: Priority | int) -> Priority | None:
    """None where the request leaves it to the server."""
    if isinstance(level, str):
        return level
    if level == 0:
        return None
    return PRIORITY_OF_LEVEL[min(level, len(PRIORITY_OF_LEVEL) - 1)]
