"""The plain JSON form of a prediction: the answer has the form of the question."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.serve import predict
from paceline.serve.model import ModelSpec, Tensors, TensorSpec
from paceline.terms.errors import BadInput, BadJson, ModelFailed, PacelineError, TooLarge
from paceline.terms.limits import ENCODE_IN_PLACE_NUMBERS, ROWS, TEXTS

SPEC = ModelSpec(
    name="digits",
    version="1",
    inputs=(TensorSpec("x", "FP32", (-1, 3)),),
    outputs=(TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 2))),
)
TWO = ModelSpec(
    name="two",
    version="1",
    inputs=(TensorSpec("age", "INT64", (-1,)), TensorSpec("pixels", "FP32", (-1, 2))),
    outputs=(TensorSpec("kind", "BYTES", (-1,)),),
)


def answer(content: Any, spec: ModelSpec = SPEC) -> Any:
    request = predict.decode(json.dumps(content).encode(), spec)
    label = np.arange(request.rows)
    outputs: Tensors = {
        "label": label,
        "probabilities": np.stack([label, label], axis=1).astype(np.float32),
        "kind": np.array([f"k{i}" for i in label], dtype=object),
    }
    return json.loads(predict.encode(spec, request, outputs).whole())


def refused(content: bytes, spec: ModelSpec = SPEC) -> PacelineError:
    with pytest.raises(PacelineError) as caught:
        predict.decode(content, spec)
    assert caught.value.remedy
    return caught.value


ONE = {"model": "digits", "outputs": {"label": 0, "probabilities": [0.0, 0.0]}}
MANY = {"model": "digits", "outputs": {"label": [0, 1], "probabilities": [[0.0, 0.0], [1.0, 1.0]]}}


@pytest.mark.parametrize("content", [[1, 2, 3], {"x": [1, 2, 3]}])
def test_one_row_is_answered_as_one_row(content: Any) -> None:
    assert answer(content) == ONE


@pytest.mark.parametrize("content", [[[1, 2, 3], [4, 5, 6]], {"x": [[1, 2, 3], [4, 5, 6]]}])
def test_rows_are_answered_as_rows(content: Any) -> None:
    assert answer(content) == MANY


def test_a_list_of_one_row_is_answered_as_a_list() -> None:
    assert answer([[1, 2, 3]])["outputs"]["label"] == [0]


def test_several_inputs_are_named_and_text_is_answered_as_text() -> None:
    assert answer({"age": 4, "pixels": [1, 2]}, TWO)["outputs"] == {"kind": "k0"}
    rows = {"pixels": [[1, 2], [3, 4]], "age": [4, 5]}
    assert answer(rows, TWO)["outputs"] == {"kind": ["k0", "k1"]}


def test_values_arrive_in_the_models_types() -> None:
    request = predict.decode(b' {"pixels": [1, 2.5], "age": 4} ', TWO)
    assert request.inputs["pixels"].dtype == np.float32
    assert request.inputs["pixels"].tolist() == [[1, 2.5]]
    assert request.inputs["age"].dtype == np.int64
    assert request.inputs["age"].tolist() == [4]


def test_a_model_without_rows_takes_and_gives_its_whole_tensor() -> None:
    fixed = ModelSpec(
        "fixed", "1", (TensorSpec("x", "FP32", (1, 2)),), (TensorSpec("y", "FP32", (1,)),)
    )
    request = predict.decode(b"[[1, 2]]", fixed)
    assert not request.one_row
    assert b'"y":[9.0]' in predict.encode(fixed, request, {"y": np.array([9.0])}).whole()
    scalar = ModelSpec("scalar", "1", (TensorSpec("x", "FP32", ()),), fixed.outputs)
    assert predict.decode(b"5", scalar).inputs["x"].tolist() == 5


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[1, 2]", "expected shape [-1, 3], got [1, 2]"),
        (b"[]", "expected shape [-1, 3], got [1, 0]"),
        (b"[[]]", "expected shape [-1, 3], got [1, 0]"),
        (b"[[1, 2, 3], [4, 5]]", "`x[1]` has 2 elements, expected 3"),
        (b"[[1, 2, 3], 4]", "expected `array`, got `int` - at `x[1]`"),
        (b'[1, 2, "3"]', "got `str` - at `x[2]`"),
        (b"[1, 2, null]", "got `null`"),
        (b"[1, 2, 1e300]", "too large for FP32"),
        (b"[[[1, 2, 3]]]", "3 nested lists"),
        (b"7", "not a list"),
        (b'"seven"', "not a list"),
        (b"null", "not a list"),
        (b'{"y": [1, 2, 3]}', "no such input (value: y)"),
        (b'{"inputs": [{"name": "x"}]}', "/v2/models/digits/infer"),
        (b"{}", "input `x` is missing"),
    ],
)
def test_a_wrong_row_is_told_what_was_expected(content: bytes, says: str) -> None:
    error = refused(content)
    assert isinstance(error, BadInput)
    assert says in str(error)


def test_a_refusal_shows_how_a_body_looks() -> None:
    assert "[...3 numbers...], or a list of rows" in refused(b"7").remedy
    form = '{"age": one number, "pixels": [...2 numbers...]}'
    assert form in refused(b"[1, 2]", TWO).remedy


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the body is empty"),
        (b"[1, 2, x]", "at byte 7"),
        (b"[1, 2, NaN]", "at byte 7"),
        (b"[1, 2, 3", "ends too early"),
        (b"x=1&y=2", "at byte 0"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_malformed_json_says_where(content: bytes, says: str) -> None:
    error = refused(content)
    assert isinstance(error, BadJson)
    assert says in str(error)


def test_one_row_and_rows_do_not_mix() -> None:
    assert "one row" in refused(b'{"age": 4, "pixels": [[1, 2]]}', TWO).cause
    assert "differ" in refused(b'{"age": [4, 5, 6], "pixels": [[1, 2]]}', TWO).cause


def test_more_rows_than_the_limit_are_refused() -> None:
    predict.decode(json.dumps([[0, 0, 0]] * ROWS).encode(), SPEC)
    assert isinstance(refused(json.dumps([[0, 0, 0]] * (ROWS + 1)).encode()), TooLarge)


def test_an_answer_without_json_form_is_an_error() -> None:
    request = predict.decode(b"[1, 2, 3]", SPEC)
    outputs = {"label": np.zeros(1, int), "probabilities": np.full((1, 2), math.nan)}
    with pytest.raises(ModelFailed, match="probabilities"):
        predict.encode(SPEC, request, outputs)


def test_text_is_text() -> None:
    spec = ModelSpec("t", "1", (TensorSpec("x", "BYTES", (-1, 2)),), SPEC.outputs)
    assert predict.decode(b'["a", "b"]', spec).inputs["x"].tolist() == [["a", "b"]]
    assert "text" in refused(b"[1, 2]", spec).remedy
    wide = ModelSpec("t", "1", (TensorSpec("x", "BYTES", (-1, -1)),), SPEC.outputs)
    assert isinstance(refused(json.dumps(["a"] * (TEXTS + 1)).encode(), wide), TooLarge)


def test_half_floats_have_no_json_form() -> None:
    spec = ModelSpec("t", "1", (TensorSpec("x", "FP16", (-1, 2)),), SPEC.outputs)
    assert "FP16 cannot be sent as JSON" in refused(b"[1, 2]", spec).cause


@pytest.mark.parametrize("one_row", [True, False])
def test_a_large_answer_is_written_in_pieces_that_are_the_same_as_one(one_row: bool) -> None:
    outputs: Tensors = {
        "label": np.arange(2)[: 2 - one_row],
        "probabilities": np.random.default_rng(1)
        .random((2 - one_row, 3, 2 * ENCODE_IN_PLACE_NUMBERS + 1))
        .astype(np.float32),
    }
    request = predict.decode(b"[1, 2, 3]" if one_row else b"[[1, 2, 3], [4, 5, 6]]", SPEC)
    reply = predict.encode(SPEC, request, outputs)
    assert reply.rest is not None
    pieces = list(reply.rest)
    assert max(piece.count(b",") for piece in pieces) <= ENCODE_IN_PLACE_NUMBERS
    told = json.loads(b"".join(pieces))["outputs"]
    for name, array in outputs.items():
        expected = array[0] if one_row else array
        assert np.array_equal(np.array(told[name], array.dtype), expected)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("xyz"), inner),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_a_request_or_a_typed_error(content: Any) -> None:
    try:
        request = predict.decode(json.dumps(content).encode(), SPEC)
    except PacelineError:
        return
    assert request.inputs["x"].shape == (request.rows, 3)
    assert np.isfinite(request.inputs["x"]).all()


ROW = st.lists(st.one_of(st.floats(-1e40, 1e40), st.integers(), st.booleans()), max_size=4)


@given(st.one_of(ROW, JSON), st.sampled_from(["FP32", "INT8", "BOOL", "BYTES"]))
def test_a_row_is_read_alike_whether_or_not_rows_are_expected(content: Any, datatype: str) -> None:
    spec = ModelSpec("m", "1", (TensorSpec("x", datatype, (-1, 3)),), SPEC.outputs)
    text = json.dumps(content).encode()
    assert read(text, spec, predict.Row(spec)) == read(text, spec, None)


def read(text: bytes, spec: ModelSpec, row: predict.Row | None) -> object:
    try:
        request = predict.decode(text, spec, row)
    except PacelineError as error:
        return error.as_fields()
    (array,) = request.inputs.values()
    return array.tolist(), array.dtype, array.shape, request.rows, request.one_row


def test_an_expected_row_is_read_without_a_look_at_the_model() -> None:
    row = predict.Row(SPEC)
    request = row.decode(b"[1, 2, 3.5]")
    assert request is not None
    assert request.inputs["x"].tolist() == [[1.0, 2.0, 3.5]]
    assert row.decode(b"[[1, 2, 3.5]]") is None
    many = ModelSpec("m", "1", (*SPEC.inputs, *SPEC.inputs), SPEC.outputs)
    assert predict.Row(many).decode(b"[1, 2, 3.5]") is None
