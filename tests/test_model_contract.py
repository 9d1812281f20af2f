"""The Model contract: kept by our implementations, and able to find those that break it."""

import numpy as np
import pytest

from paceline.serve import digits
from paceline.serve.model import Model, ModelSpec, Tensors, TensorSpec
from paceline.serve.onnx_model import OnnxModel
from paceline.testing.model_contract import ModelContract


class TestOnnxModel(ModelContract):
    def make_model(self) -> Model:
        return OnnxModel.load(digits.MODEL_PATH, digits.NAME)


class Doubling:
    """Right, unless one of its faults is switched on."""

    spec = ModelSpec(
        "doubling",
        "1",
        (TensorSpec("x", "FP32", (-1, 3)),),
        (TensorSpec("y", "FP32", (-1, 3)),),
    )

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def run(self, batch: Tensors) -> Tensors:
        x = batch["x"]
        if self.fault == "writes its input":
            x[:] = 7
        if self.fault == "mixes rows":
            return {"y": np.flip(2 * x, axis=0).copy()}
        if self.fault == "another type":
            return {"y": (2 * x).astype(np.float64)}
        if self.fault == "another shape":
            return {"y": (2 * x)[:, :2]}
        if self.fault == "another output":
            return {"z": 2 * x}
        return {"y": 2 * x}

    def close(self) -> None:
        pass


class TestDoubling(ModelContract):
    def make_model(self) -> Model:
        return Doubling()


@pytest.mark.parametrize(
    "fault",
    ["writes its input", "mixes rows", "another type", "another shape", "another output"],
)
def test_a_model_that_breaks_it_is_found(fault: str) -> None:
    class Broken(ModelContract):
        def make_model(self) -> Model:
            return Doubling(fault)

    suite = Broken()
    failed = []
    for name in dir(suite):
        if name.startswith("test_"):
            try:
                getattr(suite, name)()
            except AssertionError:
                failed.append(name)
    assert failed
