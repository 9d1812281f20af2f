"""The KServe V2 codec, JSON and raw: what it accepts, what it refuses and with which words."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.serve import v2
from paceline.serve.model import ModelSpec, TensorSpec
from paceline.serve.tensors import DTYPES, RAW_DTYPES
from paceline.terms.errors import (
    BadInput,
    BadJson,
    BadRequest,
    ModelFailed,
    PacelineError,
    TooLarge,
)
from paceline.terms.limits import ENCODE_IN_PLACE_NUMBERS, ROWS, TEXTS
from sdks import triton as client

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
    answer = json.loads(
        v2.encode(SPEC, request, {"y": np.zeros(1), "label": np.ones(1, int)}).whole()
    )
    assert [output["name"] for output in answer["outputs"]] == ["label", "y"]


def test_an_answer_names_model_version_and_request() -> None:
    request = v2.decode(body(id="r-1"), SPEC)
    outputs = {"y": np.array([0.5], np.float32), "label": np.array([3])}
    assert json.loads(v2.encode(SPEC, request, outputs).whole()) == {
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
    assert "id" not in json.loads(answer.whole())


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
        ([tensor(data=[1, 1e39])], "the number at `x[1]` is too large for FP32 (value: 1e+39)"),
        ([tensor(data=[[1, 1e39]])], "the number at `x[0][1]` is too large for FP32"),
        ([tensor(data=[1, -1e39])], "(value: -1e+39)"),
        ([tensor(parameters={"binary_data_size": 8})], "no header Inference-Header"),
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
    sent, _ = mixed((raw(), b"\0\0\0\0\0\0\0\0"))
    assert "Inference-Header-Content-Length" in refused(sent).cause


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


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_inputs_without_json_form_are_refused(datatype: str) -> None:
    half = tensor(datatype=datatype, shape=[2])
    assert "cannot be sent as JSON" in refused(body(half), takes(datatype)).cause


def test_an_output_without_json_form_is_refused_before_the_model_runs() -> None:
    half = ModelSpec("half", "1", SPEC.inputs, (TensorSpec("y", "FP16", (-1,)), *SPEC.outputs[1:]))
    assert "output `y`: FP16" in refused(body(), half).cause
    assert v2.decode(body(outputs=[{"name": "label"}]), half).wanted == ("label",)
    binary = body(outputs=[{"name": "y", "parameters": {"binary_data": True}}])
    assert v2.decode(binary, half).binary == (True,)


def test_text_is_text() -> None:
    words = tensor(datatype="BYTES", shape=[2, 1], data=["a", "\u00e4 [1]"])
    array = v2.decode(body(words), takes("BYTES", (-1, 1))).inputs["x"]
    assert array.tolist() == [["a"], ["\u00e4 [1]"]]
    nested = words | {"data": [["a"], ["\u00e4 [1]"]]}
    assert v2.decode(body(nested), takes("BYTES", (-1, 1))).inputs["x"].tolist() == array.tolist()
    assert "text" in refused(body(words | {"data": ["a", 1]}), takes("BYTES", (-1, 1))).remedy
    many = words | {"shape": [1, TEXTS + 1], "data": "not even texts"}
    assert isinstance(refused(body(many), takes("BYTES", (-1, -1))), TooLarge)


# --- Raw tensors ----------------------------------------------------------------------------------

PAIR = np.array([[1, 2.5]], np.float32)


def raw(array: Any = PAIR, **changed: Any) -> dict[str, Any]:
    """How an input describes what follows the JSON."""
    said = {"name": "x", "datatype": "FP32", "shape": list(array.shape)}
    return said | {"parameters": {"binary_data_size": array.nbytes}} | changed


def mixed(*inputs: tuple[dict[str, Any], bytes], **rest: Any) -> tuple[bytes, int]:
    """A body, and what its header says."""
    header = body(*[described for described, _ in inputs], **rest)
    return header + b"".join(tail for _, tail in inputs), len(header)


def refused_raw(sent: tuple[bytes, int], spec: ModelSpec = SPEC) -> str:
    with pytest.raises(PacelineError) as caught:
        v2.decode(*(sent[0], spec, sent[1]))
    assert caught.value.remedy
    return caught.value.cause


@pytest.mark.parametrize("datatype", sorted(RAW_DTYPES))
def test_raw_numbers_are_views_on_the_body(datatype: str) -> None:
    array = np.array([[0, 1, 1]]).astype(RAW_DTYPES[datatype])
    content, header = mixed((raw(array, datatype=datatype), array.tobytes()))
    request = v2.decode(content, takes(datatype, (-1, 3)), header)
    read = request.inputs["x"]
    assert read.dtype == RAW_DTYPES[datatype]
    assert read.tolist() == array.tolist()
    assert np.shares_memory(read, np.frombuffer(content, np.uint8))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_body_is_any_kind_of_bytes(kind: Any) -> None:
    content, header = mixed((raw(), PAIR.tobytes()))
    assert v2.decode(kind(content), SPEC, header).inputs["x"].tolist() == PAIR.tolist()
    assert v2.decode(kind(body()), SPEC).rows == 1


def test_raw_and_json_inputs_come_in_one_body() -> None:
    tensors = [TensorSpec(name, "FP32", (-1, 2)) for name in "abc"]
    spec = ModelSpec("three", "1", tuple(tensors), SPEC.outputs)
    content, header = mixed(
        (raw(name="c"), PAIR.tobytes()),
        (tensor(name="b"), b""),
        (raw(name="a"), (PAIR * 2).tobytes()),
    )
    request = v2.decode(content, spec, header)
    assert {name: array.tolist() for name, array in request.inputs.items()} == {
        "a": [[2, 5]],
        "b": [[1, 2.5]],
        "c": [[1, 2.5]],
    }


def test_a_raw_number_may_be_nan_as_its_sender_says() -> None:
    content, header = mixed((raw(), np.full((1, 2), np.nan, np.float32).tobytes()))
    assert np.isnan(v2.decode(content, SPEC, header).inputs["x"]).all()


@pytest.mark.parametrize(
    ("described", "tail", "says"),
    [
        (raw(), PAIR.tobytes()[:7], "8 bytes should follow the JSON, 7 are left"),
        (raw(), PAIR.tobytes() + b"?", "1 bytes are left after the tensors"),
        (raw(parameters={"binary_data_size": 7}), PAIR.tobytes()[:7], "is 8 bytes, 7 came"),
        (raw(shape=[2, 2]), PAIR.tobytes(), "is 16 bytes, 8 came"),
        (raw(datatype="FP64"), PAIR.tobytes(), "expected datatype FP32"),
        (raw(data=[1, 2]), PAIR.tobytes(), "has `data` and `binary_data_size`"),
        (raw(parameters={"binary_data_size": -1}), b"", "expected form"),
        (tensor(), b"\0\0", "2 bytes are left"),
    ],
)
def test_raw_bytes_must_be_as_many_as_were_said(
    described: dict[str, Any], tail: bytes, says: str
) -> None:
    assert says in refused_raw(mixed((described, tail)))


def test_a_header_cannot_be_longer_than_the_body() -> None:
    with pytest.raises(BadRequest, match="more than the body's"):
        v2.decode(body(), SPEC, 10_000)


def test_a_raw_boolean_is_a_byte_of_0_or_1() -> None:
    flags = np.array([True, False])
    described = raw(flags, datatype="BOOL")
    assert "at 1 is neither" in refused_raw(mixed((described, b"\1\2")), takes("BOOL"))


def test_bfloat16_is_refused_with_its_reason() -> None:
    described = raw(np.zeros((1, 2), np.uint16), datatype="BF16")
    assert "BF16 cannot be given" in refused_raw(
        mixed((described, b"1234")), takes("BF16", (-1, 2))
    )
    spec = ModelSpec("m", "1", SPEC.inputs, (TensorSpec("y", "BF16", (-1,)),))
    sent = body(parameters={"binary_data_output": True})
    assert "BF16 cannot be answered" in refused(sent, spec).cause


def words(*texts: bytes) -> bytes:
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


@pytest.mark.parametrize(
    ("tail", "says"),
    [
        (words(b"a", b"\xc3\xa4"), None),
        (words(b"a"), "need more than its 5 bytes"),
        (words(b"a", b"b", b""), "4 bytes are left after 2 texts"),
        (words(b"a") + b"\5\0\0\0b", "the text 1 should have 5 bytes, 1 are"),
        (words(b"a", b"\xff"), "text at `x[1][0]` is not UTF-8"),
        (b"\xff\xff\xff\xff", "the text 0 should have 4294967295 bytes"),
    ],
)
def test_raw_text_has_its_length_in_front(tail: bytes, says: str | None) -> None:
    described = raw(np.zeros((2, 1)), datatype="BYTES", parameters={"binary_data_size": len(tail)})
    sent, spec = mixed((described, tail)), takes("BYTES", (-1, 1))
    if says is None:
        assert v2.decode(sent[0], spec, sent[1]).inputs["x"].tolist() == [["a"], ["\u00e4"]]
    else:
        assert says in refused_raw(sent, spec)


@pytest.mark.parametrize(
    ("shape", "size", "becomes"),
    [
        ((-1, 3), 24, (2, 3)),
        ((2, 3), 24, (2, 3)),
        ((-1, -1), 24, (1, 6)),
        ((-1,), 4, (1,)),
        ((-1, 3), 20, "20 came"),
        ((-1, 3), 0, "holds no values"),
        ((2, 2), 24, "24 came"),
        ((-1, -1, -1), 24, "cannot be told"),
    ],
)
def test_a_body_of_one_inputs_bytes_alone_has_the_shape_that_fits(
    shape: tuple[int, ...], size: int, becomes: tuple[int, ...] | str
) -> None:
    content, spec = np.arange(size // 4, dtype=np.float32).tobytes(), takes("FP32", shape)
    if isinstance(becomes, str):
        assert becomes in refused_raw((content, 0), spec)
        return
    request = v2.decode(content, spec, 0)
    assert request.inputs["x"].shape == becomes
    assert request.inputs["x"].ravel().tolist() == list(range(size // 4))
    assert request.binary == (True,)


def test_a_body_of_text_alone_is_one_text() -> None:
    request = v2.decode("\u00e4 b".encode(), takes("BYTES", (-1, 1)), 0)
    assert request.inputs["x"].tolist() == [["\u00e4 b"]]


def test_a_body_of_bytes_alone_is_for_models_of_one_input() -> None:
    two = ModelSpec("two", "1", (*SPEC.inputs, TensorSpec("b", "FP32", (-1,))), SPEC.outputs)
    assert "has 2" in refused_raw((b"12345678", 0), two)


@pytest.mark.parametrize(
    ("rest", "binary"),
    [
        ({}, (False, False)),
        ({"parameters": {"binary_data_output": True}}, (True, True)),
        ({"outputs": [{"name": "y"}, {"name": "label"}]}, (False, False)),
        (
            {"outputs": [{"name": "y", "parameters": {"binary_data": True}}, {"name": "label"}]},
            (True, False),
        ),
        (
            {
                "outputs": [{"name": "y"}, {"name": "label", "parameters": {"binary_data": False}}],
                "parameters": {"binary_data_output": True},
            },
            (True, False),
        ),
    ],
)
def test_each_output_is_answered_in_the_form_asked_for(
    rest: dict[str, Any], binary: tuple[bool, ...]
) -> None:
    request = v2.decode(body(id="a", **rest), SPEC)
    assert request.binary == binary
    outputs = {"y": np.array([0.5], np.float32), "label": np.array([3])}
    reply = v2.encode(SPEC, request, outputs)
    whole = reply.whole()
    told = json.loads(whole[: reply.header_length])
    assert told["id"] == "a"
    tail = memoryview(whole)[reply.header_length or len(whole) :]
    for said, as_bytes in zip(told["outputs"], binary, strict=True):
        array = outputs[said["name"]]
        assert said["shape"] == [1]
        if not as_bytes:
            assert said["data"] == array.tolist()
            continue
        assert "data" not in said
        size = said["parameters"]["binary_data_size"]
        assert bytes(tail[:size]) == array.tobytes()
        tail = tail[size:]
    assert not tail
    assert (reply.header_length is not None) == any(binary)


def test_raw_answers_have_the_declared_type_and_may_hold_nan() -> None:
    request = v2.decode(body(parameters={"binary_data_output": True}), SPEC)
    outputs = {"y": np.array([math.nan]), "label": np.zeros(1, np.int32)}
    reply = v2.encode(SPEC, request, outputs)
    assert [len(part) for part in reply.parts[1:]] == [4, 8]
    assert np.isnan(np.frombuffer(reply.parts[1], np.float32)[0])


def test_texts_are_answered_raw_as_they_are_sent() -> None:
    spec = ModelSpec("t", "1", SPEC.inputs, (TensorSpec("y", "BYTES", (-1,)),))
    request = v2.decode(body(parameters={"binary_data_output": True}), spec)
    reply = v2.encode(spec, request, {"y": np.array(["a", "\u00e4"], object)})
    assert bytes(reply.parts[1]) == words(b"a", b"\xc3\xa4")
    as_json = v2.encode(spec, v2.decode(body(), spec), {"y": np.array(["null"], object)})
    assert json.loads(as_json.whole())["outputs"][0]["data"] == ["null"]


@given(st.binary(max_size=200), st.integers(0, 250))
def test_any_bytes_with_any_header_are_a_request_or_a_typed_error(
    content: bytes, header: int
) -> None:
    try:
        request = v2.decode(content, SPEC, header)
    except PacelineError:
        return
    assert header == 0
    assert request.inputs["x"].nbytes == len(content)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("asked", [None, (True, True), (False, False), (True, False)])
def test_what_tritons_client_sends_is_read_and_what_is_answered_it_reads(
    binary: bool, asked: tuple[bool, bool] | None
) -> None:
    sent = {
        "x": np.arange(6, dtype=np.float32).reshape(2, 3),
        "text": np.array([["a"], ["\u00e4"]], object),
        "flag": np.array([True, False]),
        "half": np.ones((2, 2), np.float16),
    }
    inputs = (
        TensorSpec("x", "FP32", (-1, 3)),
        TensorSpec("text", "BYTES", (-1, 1)),
        TensorSpec("flag", "BOOL", (-1,)),
        TensorSpec("half", "FP16", (-1, 2)),
    )
    spec = ModelSpec("m", "1", inputs, (inputs[0], inputs[1]))
    given = []
    for each in inputs:
        one = client.InferInput(each.name, list(sent[each.name].shape), each.datatype)
        one.set_data_from_numpy(sent[each.name], binary_data=binary or each.name == "half")
        given.append(one)
    outputs = asked and [
        client.InferRequestedOutput(name, binary_data=raw)
        for name, raw in zip(("x", "text"), asked, strict=True)
    ]
    content, header = client.InferenceServerClient.generate_request_body(
        given, outputs=outputs, request_id="r", priority=1, timeout=5_000_000
    )
    request = v2.decode(content, spec, header)
    assert (request.id, request.priority, request.timeout_s) == ("r", "critical", 5.0)
    assert {name: array.tolist() for name, array in request.inputs.items()} == {
        name: array.tolist() for name, array in sent.items()
    }
    reply = v2.encode(spec, request, sent)
    answer = client.InferenceServerClient.parse_response_body(
        reply.whole(), header_length=reply.header_length
    )
    assert answer.as_numpy("x").tolist() == sent["x"].tolist()
    as_bytes = asked is None or asked[1]
    text = ["a", "\u00e4"] if not as_bytes else [b"a", "\u00e4".encode()]
    assert answer.as_numpy("text").ravel().tolist() == text


# --- Large answers --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 20_000), (60_000, 1), (1, 60_000)])
def test_a_large_answer_is_written_in_pieces_that_are_the_same_as_one(
    shape: tuple[int, ...],
) -> None:
    spec = ModelSpec("l", "1", SPEC.inputs, (TensorSpec("y", "FP32", (-1, -1)), *SPEC.outputs[1:]))
    request = v2.decode(body(id="r"), spec)
    y = np.random.default_rng(1).random(shape).astype(np.float32)
    reply = v2.encode(spec, request, {"y": y, "label": np.array([3])})
    assert not reply.parts
    assert reply.rest is not None
    pieces = list(reply.rest)
    assert max(piece.count(b",") for piece in pieces) <= ENCODE_IN_PLACE_NUMBERS
    told = json.loads(b"".join(pieces))
    assert told["id"] == "r"
    assert told["outputs"][0]["shape"] == list(shape)
    assert np.array_equal(np.array(told["outputs"][0]["data"], np.float32), y.ravel())
    assert told["outputs"][1] == {"name": "label", "datatype": "INT64", "shape": [1], "data": [3]}


def test_a_large_answer_without_json_form_is_an_error() -> None:
    y = np.zeros(3 * ENCODE_IN_PLACE_NUMBERS, np.float32)
    y[-1] = math.nan
    reply = v2.encode(SPEC, v2.decode(body(), SPEC), {"y": y, "label": np.zeros(1, int)})
    with pytest.raises(ModelFailed, match="output `y`"):
        reply.whole()


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


@given(
    datatype=st.sampled_from([*DTYPES, "BYTES", "FP16", "x"]), shape=SHAPE, data=JSON, open=SHAPE
)
def test_any_tensor_is_an_array_of_its_shape_or_a_typed_error(
    datatype: str, shape: list[int], data: Any, open: list[int]
) -> None:
    sent = body(tensor(datatype=datatype, shape=shape, data=data))
    try:
        request = v2.decode(sent, takes(datatype, tuple(open)))
    except PacelineError:
        return
    assert list(request.inputs["x"].shape) == shape
    assert request.inputs["x"].dtype == DTYPES.get(datatype, object)


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2,
                         max_size=2), min_size=1, max_size=5))  # fmt: skip
def test_every_fp32_number_arrives_exactly(rows: list[list[float]]) -> None:
    flat = [value for row in rows for value in row]
    for data in (flat, rows):
        request = v2.decode(body(tensor(shape=[len(rows), 2], data=data)), SPEC)
        assert request.inputs["x"].tolist() == rows


# --- What is said again ---------------------------------------------------------------------------


NUMBERS = st.one_of(
    st.floats(-1e6, 1e6, width=32).map(repr),
    st.integers(-(2**31), 2**31).map(str),
    st.sampled_from(["null", "NaN", '"3"', "[1]", "1e999", "1]", "1, 2", " 7 ", "]}],[1"]),
)


@given(
    st.lists(st.lists(NUMBERS, min_size=3, max_size=5), min_size=2, max_size=5),
    st.booleans(),
    st.sampled_from(["", ',"id":"a"', ',"parameters":{"priority":1,"timeout":7}']),
)
def test_what_is_said_again_around_other_numbers_means_the_same(
    bodies: list[list[str]], nested: bool, more: str
) -> None:
    model = takes("FP32", (-1, 4))
    memo = v2.Memo()
    for numbers in bodies:
        data = ",".join(numbers)
        text = f"[[{data}]]" if nested else f"[{data}]"
        body = (
            '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":'
            + text
            + "}]"
            + more
            + "}"
        ).encode()
        assert outcome(body, model, memo) == outcome(body, model, None)


def outcome(body: bytes, model: ModelSpec, memo: v2.Memo | None) -> object:
    try:
        request = v2.decode(body, model, None, memo)
    except PacelineError as error:
        return error.as_fields()
    (array,) = request.inputs.values()
    return (array.tolist(), array.dtype, array.shape, *(getattr(request, name) for name in FIELDS))


FIELDS = ("id", "rows", "wanted", "binary", "priority", "timeout_s")


def test_numbers_that_come_again_in_the_same_form_are_all_that_is_read() -> None:
    model = takes("FP32", (-1, 2))
    memo = v2.Memo()
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[%b]}]}'
    v2.decode(body % b"1,2.5", model, None, memo)
    known = memo.decode(body % b"3,4.5")
    assert known is not None
    assert known.inputs["x"].tolist() == [[3.0, 4.5]]
    assert memo.decode(body % b"3") is None
    assert memo.decode(body[:-1] % b"3,4") is None


OUTPUTS = {"y": "FP32", "label": "INT64", "word": "BYTES", "sure": "BOOL"}


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(sorted(OUTPUTS)), max_size=4, unique=True),
            st.sampled_from(["", "a"]),
            st.integers(1, 3),
            st.sampled_from([0.1, 1e-9, math.nan]),
            st.booleans(),
        ),
        min_size=2,
        max_size=8,
    )
)
def test_answers_whose_words_were_said_before_are_the_same_to_the_byte(
    asked: list[tuple[list[str], str, int, float, bool]],
) -> None:
    outs = tuple(TensorSpec(name, datatype, (-1, 2)) for name, datatype in OUTPUTS.items())
    spec = ModelSpec("null", "3", SPEC.inputs, outs)
    memo = v2.Memo()
    for names, name, rows, number, binary in asked:
        outputs = {
            "y": np.full((rows, 2), number, np.float32),
            "label": np.arange(2 * rows).reshape(rows, 2),
            "word": np.full((rows, 2), "null", object),
            "sure": np.ones((rows, 2), bool),
        }
        wanted: list[dict[str, Any]] = [{"name": each} for each in names]
        if binary and names:
            wanted[0]["parameters"] = {"binary_data": True}
        content = body(id=name, outputs=wanted)
        request = v2.decode(content, spec)
        assert answer(spec, request, outputs, memo) == answer(spec, request, outputs, None)


def answer(
    spec: ModelSpec, request: v2.InferRequest, outputs: Any, memo: v2.Memo | None
) -> bytes | str:
    try:
        return v2.encode(spec, request, outputs, memo).whole()
    except PacelineError as error:
        return str(error)


def test_long_answers_are_written_in_pieces_whatever_was_said_before() -> None:
    memo = v2.Memo()
    request = v2.decode(body(), SPEC)
    for size in (2, ENCODE_IN_PLACE_NUMBERS + 1):
        outputs = {"y": np.ones(size, np.float32), "label": np.ones(1, int)}
        for each in (memo, memo, None):
            reply = v2.encode(SPEC, request, outputs, each)
            assert (reply.rest is not None) == (size > 2)
