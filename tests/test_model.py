"""ONNX files as models: what is read from them, and how they fail."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from paceline.serve import digits
from paceline.serve.model import Model, TensorSpec
from paceline.serve.onnx_model import OnnxModel
from paceline.serve.onnx_nodes import draws_lots
from paceline.serve.shapes import Shapes
from paceline.terms.errors import BadModel, ModelFailed


def saved(path: Path, graph: onnx.GraphProto, version: int = 0) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.model_version = version
    model.doc_string = "adds"
    path.write_bytes(model.SerializeToString())
    return path


def adder() -> onnx.GraphProto:
    shape: list[str | int | None] = ["rows", 3, None]
    return helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["sum"])],
        "adder",
        [helper.make_tensor_value_info(name, TensorProto.INT32, shape) for name in "ab"],
        [helper.make_tensor_value_info("sum", TensorProto.INT32, shape)],
    )


def with_metadata(path: Path, graph: onnx.GraphProto, **said: str) -> Path:
    saved(path, graph)
    model = onnx.load(path)
    helper.set_model_props(model, {f"paceline.{name}": value for name, value in said.items()})
    path.write_bytes(model.SerializeToString())
    return path


def texts() -> onnx.GraphProto:
    """Twice the first input, where the second is not 0."""
    names = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "length"]) for name in "im"
    ]
    return helper.make_graph(
        [
            helper.make_node("Mul", ["i", "m"], ["kept"]),
            helper.make_node("Add", ["kept", "kept"], ["twice"]),
        ],
        "texts",
        names,
        [
            helper.make_tensor_value_info("twice", TensorProto.INT64, ["n", "length"]),
        ],
    )


def drawing(kind: str, inputs: int = 0) -> onnx.NodeProto:
    return helper.make_node(kind, ["c"] * inputs, ["drawn"])


def test_the_example_describes_itself() -> None:
    spec = OnnxModel.load(digits.MODEL_PATH, "digits").spec
    assert (spec.name, spec.version) == ("digits", "1")
    assert spec.inputs == (TensorSpec("x", "FP32", (-1, 64)),)
    assert spec.outputs == (
        TensorSpec("label", "INT64", (-1,)),
        TensorSpec("probabilities", "FP32", (-1, 10)),
    )
    assert spec.has_rows
    assert spec.pure
    assert not spec.padding


def test_a_file_tells_datatypes_open_dimensions_version_and_doc(tmp_path: Path) -> None:
    model: Model = OnnxModel.load(saved(tmp_path / "adder.onnx", adder(), version=3), "adder")
    assert model.spec.inputs == tuple(TensorSpec(name, "INT32", (-1, 3, -1)) for name in "ab")
    assert (model.spec.version, model.spec.doc) == ("3", "adds")
    ones = np.ones((2, 3, 4), np.int32)
    assert (model.run({"a": ones, "b": ones})["sum"] == 2).all()
    model.close()


def test_what_a_model_cannot_run_is_a_typed_error(tmp_path: Path) -> None:
    model = OnnxModel.load(saved(tmp_path / "adder.onnx", adder()), "adder")
    with pytest.raises(ModelFailed, match="the model `adder` failed: ") as caught:
        model.run({"a": np.ones((2, 3, 4), np.int32), "b": np.ones((5, 3, 4), np.int32)})
    assert caught.value.http == 500


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"no model file for `m` .*nothing\.onnx") as caught:
        OnnxModel.load(tmp_path / "nothing.onnx", "m")
    assert caught.value.value == str(tmp_path / "nothing.onnx")


@pytest.mark.parametrize("cut", [0, 5, 10_000])
def test_a_damaged_file_is_refused_quietly(
    tmp_path: Path, cut: int, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(digits.MODEL_PATH.read_bytes()[:cut])
    with pytest.raises(BadModel, match="cannot load the model `m`") as caught:
        OnnxModel.load(path, "m")
    assert caught.value.remedy
    assert capfd.readouterr() == ("", "")


def test_an_output_that_is_no_tensor_is_refused_with_the_way_out(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x"], ["list"])],
        "listing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, None)],
    )
    with pytest.raises(BadModel, match="zipmap=False"):
        OnnxModel.load(saved(tmp_path / "listing.onnx", graph), "listing")


def test_a_file_may_say_with_what_its_inputs_are_filled_up(tmp_path: Path) -> None:
    path = with_metadata(tmp_path / "texts.onnx", texts(), padding='{"i": 7, "m": 0}')
    model = OnnxModel.load(path, "texts")
    assert model.spec.padding == {"i": 7, "m": 0}
    assert all(each.names == {1: "length"} for each in model.spec.inputs)
    shapes = Shapes(model.spec)
    several = [{"i": np.full((1, n), n), "m": np.ones((1, n), np.int64)} for n in (2, 5, 8)]
    answers = shapes.apart(model.run(shapes.together(several)), several)
    assert [answer["twice"].tolist() for answer in answers] == [[[2 * n] * n] for n in (2, 5, 8)]


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("{", "is not an object of numbers"),
        ('{"i": "x"}', "is not an object of numbers"),
        ('{"i": 0, "m": 0, "z": 0}', "names `z`, which is no input"),
        ('{"i": 0}', "leaves out `m`, which is as long"),
    ],
)
def test_padding_that_cannot_be_is_refused_at_load(tmp_path: Path, said: str, fault: str) -> None:
    path = with_metadata(tmp_path / "texts.onnx", texts(), padding=said)
    with pytest.raises(BadModel, match=f"`paceline.padding` of the model `m` {fault}") as caught:
        OnnxModel.load(path, "m")
    assert caught.value.value == said


def test_a_dimension_without_a_name_cannot_be_filled_up(tmp_path: Path) -> None:
    path = with_metadata(tmp_path / "adder.onnx", adder(), padding='{"a": 0, "b": 0}')
    with pytest.raises(BadModel, match="needs open dimensions of `a` that have names"):
        OnnxModel.load(path, "m")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("node", "pure"),
    [
        (drawing("Identity", 1), True),
        (drawing("Dropout", 1), True),
        (drawing("Dropout", 3), False),
        (drawing("RandomNormal"), False),
        (drawing("RandomUniformLike", 1), False),
        (drawing("Multinomial", 1), False),
        (drawing("Bernoulli", 1), False),
    ],
    ids=lambda each: f"{each.op_type} {len(each.input)}" if hasattr(each, "input") else "",
)
def test_a_file_that_draws_lots_is_not_pure(
    tmp_path: Path, node: onnx.NodeProto, pure: bool, nested: bool
) -> None:
    """Where onnxruntime would take it is not asked here: some need other inputs."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [1000], np.zeros(1000).tolist())
    if nested:
        inner = helper.make_graph([node], "inner", [], [])
        node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    path = saved(tmp_path / "m.onnx", helper.make_graph([node], "outer", [], [], [weights]))
    assert draws_lots(path) is not pure


def test_what_is_not_read_as_onnx_is_not_called_pure(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for content in (b"\x3a\xff", b"\x0f\x01", b"\x3a\x05\x0a\x03\x22\x01\xff"):
        path.write_bytes(content)
        assert draws_lots(path)


def test_a_file_without_a_version_is_the_first_whatever_the_runtime_says(tmp_path: Path) -> None:
    for version, said in ((0, "1"), (2**63 - 1, "1"), (7, "7")):
        spec = OnnxModel.load(saved(tmp_path / "m.onnx", adder(), version=version), "m").spec
        assert spec.version == said
