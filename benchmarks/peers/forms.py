"""The forms of a request of one row, and of its answer: rows, KServe V2, V2 with bytes, arrays.

Pure. Numbers in JSON have the four decimals that the inputs have. Called by what asks contenders.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving_models import DECIMALS
from paceline.serve.model import Tensors

DATATYPES = {"float32": "FP32", "int64": "INT64"}
HEADER_LENGTH = "inference-header-content-length"
JSON_TYPE = {"content-type": "application/json"}

Answer = NDArray[np.float64]


class Asking(NamedTuple):
    headers: Mapping[str, str]
    body: bytes


class Form(NamedTuple):
    name: str
    ask: Callable[[Tensors], Asking]
    read: Callable[[Mapping[str, str], bytes], Answer]
    """Of the headers, in lower case, and the body of an answer: the numbers of its one row."""


def _numbers(values: NDArray[np.generic]) -> list[float] | list[int]:
    flat = values.reshape(-1)
    if flat.dtype.kind == "i":
        return [int(each) for each in flat]
    return [round(float(each), DECIMALS) for each in flat]


def _json(value: object) -> Asking:
    return Asking(JSON_TYPE, json.dumps(value, separators=(",", ":")).encode())


def _flat(value: object) -> Answer:
    return np.asarray(value, np.float64).reshape(-1)


def _ask_row(row: Tensors) -> Asking:
    return _json({name: _numbers(values) for name, values in row.items()})


def _read_row(_headers: Mapping[str, str], body: bytes) -> Answer:
    return _flat(json.loads(body)["y"])


def _described(row: Tensors) -> list[dict[str, object]]:
    return [
        {"name": name, "datatype": DATATYPES[values.dtype.name], "shape": list(values.shape)}
        for name, values in row.items()
    ]


def _ask_v2(row: Tensors) -> Asking:
    described = zip(_described(row), row.values(), strict=True)
    return _json({"inputs": [{**each, "data": _numbers(values)} for each, values in described]})


def _read_v2(_headers: Mapping[str, str], body: bytes) -> Answer:
    return _flat(json.loads(body)["outputs"][0]["data"])


def _ask_binary(row: Tensors) -> Asking:
    tensors = [values.tobytes() for values in row.values()]
    described = [
        {**each, "parameters": {"binary_data_size": len(sent)}}
        for each, sent in zip(_described(row), tensors, strict=True)
    ]
    header = {"inputs": described, "parameters": {"binary_data_output": True}}
    head = json.dumps(header, separators=(",", ":")).encode()
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return Asking(headers, b"".join([head, *tensors]))


def _read_binary(headers: Mapping[str, str], body: bytes) -> Answer:
    length = int(headers[HEADER_LENGTH])
    if "data" in (output := json.loads(body[:length])["outputs"][0]):
        return _flat(output["data"])
    return np.frombuffer(body, "<f4", offset=length).astype(np.float64)


def _ask_stacked(row: Tensors) -> Asking:
    inputs: Sequence[object] = [_numbers(values) for values in row.values()]
    return _json({"rows": [inputs]})


def _read_array(_headers: Mapping[str, str], body: bytes) -> Answer:
    return _flat(json.loads(body))


ROW = Form("row of flat lists", _ask_row, _read_row)
V2 = Form("KServe V2 JSON", _ask_v2, _read_v2)
V2_BINARY = Form("KServe V2 binary", _ask_binary, _read_binary)
STACKED = Form("stacked array", _ask_stacked, _read_array)
