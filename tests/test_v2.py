"""The KServe V2 JSON codec: what it accepts, what it refuses and with which words."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.serve import v2
from paceline.serve.model import ModelSpec, TensorSpec
from paceline.serve.tensors import DTYPES
from paceline.terms.errors import BadInput, BadJson, ModelFailed, PacelineError, TooLarge
from paceline.terms.limits import ROWS

SPEC = ModelSpec(
    name="pair",
    version="7",
    inputs=(TensorSpec("x", "FP32", (-1, 2)),),
    outputs=(TensorSpec("y", "FP32", (-1,)), TensorSpec("label", "INT64", (-1,))),
)


def takes(datatype: str, shape: tuple[int, ...] = (-1,)) -> ModelSpec:
    tensor = TensorSpec("x", datatype, shape)
    return ModelSpec("one", "1", (tensor,), (TensorSpec("y", "FP32", (-1,)),))


def tensor(**changed: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2.5]} | changed


def body(*inputs: dict[str, Any], **rest: Any) -> bytes:
    return json.dumps({"inputs": inputs or [tensor()], **rest}).encode()


def refused(content: bytes, spec: ModelSpec = SPEC) -> PacelineError:
    with pytest.raises(PacelineError) as caught:
        v2.decode(content, spec)
    assert caught.value.remedy
    return caught.value


def test_a_request_becomes_arrays_of_the_models_types() -> None:
    request = v2.decode(body(id="a"), SPEC)
    assert request.id == "a"
    assert request.inputs["x"].dtype == np.float32
    assert request.inputs["x"].tolist() == [[1.0, 2.5]]
    assert request.rows == 1
    assert request.wanted == ("y", "label")
    assert (request.priority, request.timeout_s) == (None, None)


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]]])
def test_flat_and_nested_data_are_the_same(data: list[Any]) -> None:
    request = v2.decode(body(tensor(shape=[2, 2], data=data)), SPEC)
    assert request.inputs["x"].tolist() == [[1, 2], [3, 4]]
    assert request.rows == 2


def test_a_tensor_without_dimensions_takes_one_value() -> None:
    scalar = tensor(shape=[], data=[3])
    assert v2.decode(body(scalar), takes("FP32", ())).inputs["x"].tolist() == 3


@pytest.mark.parametrize(
    ("sent", "priority"),
    [(0, None), (1, "critical"), (2, "high"), (3, "normal"), (9, "low"), ("high", "high")],
)
def test_priority_is_a_name_or_tritons_level(sent: int | str, priority: str | None) -> None:
    assert v2.decode(body(parameters={"priority": sent}), SPEC).priority == priority


def test_a_timeout_is_in_microseconds_and_zero_is_none() -> None:
    assert v2.decode(body(parameters={"timeout": 250_000}), SPEC).timeout_s == 0.25
    assert v2.decode(body(parameters={"timeout": 0}), SPEC).timeout_s is None


def test_parameters_nobody_knows_are_ignored() -> None:
    v2.decode(body(parameters={"binary_data_output": True, "sequence_id": 4}), SPEC)


def test_outputs_come_in_the_order_asked_for() -> None:
    request = v2.decode(body(outputs=[{"name": "label"}, {"name": "y"}]), SPEC)
    answer = json.loads(v2.encode(SPEC, request, {"y": np.zeros(1), "label": np.ones(1, int)}))
    assert [output["name"] for output in answer["outputs"]] == ["label", "y"]


def test_an_answer_names_model_version_and_request() -> None:
    request = v2.decode(body(id="r-1"), SPEC)
    outputs = {"y": np.array([0.5], np.float32), "label": np.array([3])}
    assert json.loads(v2.encode(SPEC, request, outputs)) == {
        "model_name": "pair",
        "model_version": "7",
        "id": "r-1",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [1], "data": [0.5]},
            {"name": "label", "datatype": "INT64", "shape": [1], "data": [3]},
        ],
    }


def test_no_id_is_made_up() -> None:
    answer = v2.encode(SPEC, v2.decode(body(), SPEC), {"y": np.zeros(1), "label": np.zeros(1, int)})
    assert "id" not in json.loads(answer)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_answer_without_json_form_is_an_error(bad: float) -> None:
    request = v2.decode(body(), SPEC)
    with pytest.raises(ModelFailed, match="output `y`"):
        v2.encode(SPEC, request, {"y": np.array([bad]), "label": np.zeros(1, int)})


def test_an_output_nobody_wants_may_hold_nan() -> None:
    request = v2.decode(body(outputs=[{"name": "label"}]), SPEC)
    v2.encode(SPEC, request, {"y": np.array([math.nan]), "label": np.zeros(1, int)})


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([tensor(name="X")], "Did you mean `x`?"),
        ([tensor(), tensor()], "given twice"),
        ([tensor(datatype="INT64")], "expected datatype FP32"),
        ([tensor(shape=[1, 3], data=[1, 2, 3])], "expected shape [-1, 2], got [1, 3]"),
        ([tensor(shape=[2])], "expected shape [-1, 2], got [2]"),
        ([tensor(shape=[1] * 50)], "got 50 dimensions"),
        ([tensor(shape=[2, 2])], "shape [2, 2] needs 4 values, the data has 2"),
        ([tensor(shape=[0, 2], data=[])], "holds no values"),
        ([tensor(data=[1, "2"])], "got `str` - at `x[1]`"),
        ([tensor(data=[1, True])], "got `bool` - at `x[1]`"),
        ([tensor(data=[1, None])], "got `null` - at `x[1]`"),
        ([tensor(data=7)], "expected `array`, got `int`"),
        ([tensor(data="abc")], "expected `array`, got `str`"),
        ([tensor(shape=[2, 2], data=[[1, 2], [3]])], "`x[1]` has 1 elements, expected 2"),
        ([tensor(shape=[2, 2], data=[[1, 2]])], "`x` has 1 elements, expected 2"),
        ([tensor(shape=[2, 2], data=[[1, 2], 3])], "expected `array`, got `int`"),
        ([tensor(data=[[[1, 2]]])], "got `array`"),
        ([tensor(data=[1, 1e39])], "too large for FP32 (value: 1e+39)"),
        ([tensor(data=[1, -1e39])], "(value: -1e+39)"),
        ([tensor(parameters={"binary_data_size": 8})], "binary_data=False"),
        ([tensor(parameters={"shared_memory_region": "r"})], "in shared memory"),
        ([{key: tensor()[key] for key in ("name", "datatype", "shape")}], "has no `data`"),
    ],
)
def test_a_wrong_input_is_named_with_what_was_expected(
    inputs: list[dict[str, Any]], says: str
) -> None:
    error = refused(body(*inputs))
    assert isinstance(error, BadInput)
    assert says in str(error)


def test_raw_bytes_after_the_json_are_told_apart_from_broken_json() -> None:
    header = body({"name": "x", "datatype": "FP32", "shape": [1, 2],
                   "parameters": {"binary_data_size": 8}})  # fmt: skip
    assert "binary_data=False" in refused(header + b"\0\0\0\0\0\0\0\0").remedy


def test_a_missing_input_is_named() -> None:
    error = refused(b'{"inputs": []}')
    assert "input `x` is missing" in str(error)
    assert "`x` FP32 [-1, 2]" in error.remedy


def test_more_rows_than_the_limit_are_refused_before_their_data_is_read() -> None:
    v2.decode(body(tensor(shape=[ROWS, 2], data=[0] * ROWS * 2)), SPEC)
    error = refused(body(tensor(shape=[ROWS + 1, 2], data="not even numbers")))
    assert isinstance(error, TooLarge)
    assert str(ROWS) in error.remedy


def test_inputs_must_have_equally_many_rows() -> None:
    two = ModelSpec(
        "two",
        "1",
        (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "FP32", (-1, 2))),
        SPEC.outputs,
    )
    mates = (tensor(name="a"), tensor(name="b", shape=[2, 2], data=[1, 2, 3, 4]))
    assert refused(body(*mates), two).value == "a: 1, b: 2"


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ([{"name": "labels"}], "Did you mean `label`?"),
        ([{"name": "y", "parameters": {"classification": 3}}], "classification"),
    ],
)
def test_an_output_that_cannot_be_answered_is_refused(
    outputs: list[dict[str, Any]], says: str
) -> None:
    assert says in str(refused(body(outputs=outputs)))


@pytest.mark.parametrize("datatype", sorted(set(DTYPES) - {"BOOL", "FP32", "FP64"}))
def test_integers_keep_their_bounds(datatype: str) -> None:
    info = np.iinfo(DTYPES[datatype])  # type: ignore[type-var]
    whole = tensor(datatype=datatype, shape=[2], data=[int(info.min), int(info.max)])
    spec = takes(datatype)
    assert v2.decode(body(whole), spec).inputs["x"].tolist() == whole["data"]
    for outside in (int(info.min) - 1, int(info.max) + 1, 10**30, 1.5):
        error = refused(body(whole | {"data": [0, outside]}), spec)
        assert isinstance(error, BadInput)
        assert "input `x`" in error.cause


def test_booleans_are_true_and_false_only() -> None:
    flags = tensor(datatype="BOOL", shape=[2], data=[True, False])
    assert v2.decode(body(flags), takes("BOOL")).inputs["x"].tolist() == [True, False]
    assert "true or false" in refused(body(flags | {"data": [1, 0]}), takes("BOOL")).remedy


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "BYTES"])
def test_inputs_without_json_form_are_refused(datatype: str) -> None:
    assert "cannot be sent as JSON" in refused(body(), takes(datatype)).cause


def test_an_output_without_json_form_is_refused_before_the_model_runs() -> None:
    half = ModelSpec("half", "1", SPEC.inputs, (TensorSpec("y", "FP16", (-1,)), *SPEC.outputs[1:]))
    assert "output `y`: FP16" in refused(body(), half).cause
    assert v2.decode(body(outputs=[{"name": "label"}]), half).wanted == ("label",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the body is empty"),
        (b"{'inputs': 1}", "at byte 1"),
        (b'{"inputs": [{"name": "x", "data": [NaN]}]}', "at byte 35"),
        (b'{"inputs": [', "ends too early"),
        (b'{"inputs": []} x', "not valid JSON, at byte 16"),
        (b'{"input": []}', "missing required field `inputs`"),
        (b"[1, 2]", "expected form"),
        (b'{"id": "\xff", "inputs": []}', "UTF-8"),
        (b'{"inputs": ' + b"[" * 100_000, "expected form"),
        (b'{"extra": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"inputs": [], "parameters": {"priority": "urgent"}}', "urgent"),
        (b'{"inputs": [], "parameters": {"timeout": -1}}', "timeout"),
    ],
)
def test_what_is_no_request_says_where_it_stops_being_one(content: bytes, says: str) -> None:
    error = refused(content)
    assert isinstance(error, BadJson)
    assert says in str(error)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_typed_error(content: bytes) -> None:
    refused(content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
SHAPE = st.lists(st.integers(-1, 3), max_size=4)


@given(datatype=st.sampled_from([*DTYPES, "FP16", "x"]), shape=SHAPE, data=JSON, open=SHAPE)
def test_any_tensor_is_an_array_of_its_shape_or_a_typed_error(
    datatype: str, shape: list[int], data: Any, open: list[int]
) -> None:
    sent = body(tensor(datatype=datatype, shape=shape, data=data))
    try:
        request = v2.decode(sent, takes(datatype, tuple(open)))
    except PacelineError:
        return
    assert list(request.inputs["x"].shape) == shape
    assert request.inputs["x"].dtype == DTYPES[datatype]


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2,
                         max_size=2), min_size=1, max_size=5))  # fmt: skip
def test_every_fp32_number_arrives_exactly(rows: list[list[float]]) -> None:
    flat = [value for row in rows for value in row]
    for data in (flat, rows):
        request = v2.decode(body(tensor(shape=[len(rows), 2], data=data)), SPEC)
        assert request.inputs["x"].tolist() == rows
