"""ONNX files as models: what is read from them, and how they fail."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from paceline.serve import digits
from paceline.serve.model import Model, TensorSpec
from paceline.serve.onnx_model import OnnxModel
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


def test_the_example_describes_itself() -> None:
    spec = OnnxModel.load(digits.MODEL_PATH, "digits").spec
    assert (spec.name, spec.version) == ("digits", "1")
    assert spec.inputs == (TensorSpec("x", "FP32", (-1, 64)),)
    assert spec.outputs == (
        TensorSpec("label", "INT64", (-1,)),
        TensorSpec("probabilities", "FP32", (-1, 10)),
    )
    assert spec.has_rows


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
