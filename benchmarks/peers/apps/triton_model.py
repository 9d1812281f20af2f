"""Triton's Python backend: a batch of requests becomes one batch of rows and is split again."""

# mypy: ignore-errors
# It imports what only the environment of the peer has.

import numpy as np
import triton_python_backend_utils as triton
from onnx_rows import OnnxRows


class TritonPythonModel:
    def initialize(self, args):
        self.model = OnnxRows()

    def execute(self, requests):
        given = [
            {
                name: triton.get_input_tensor_by_name(each, name).as_numpy()
                for name, _, _ in self.model.inputs
            }
            for each in requests
        ]
        name = self.model.inputs[0][0]
        ends = np.cumsum([len(each[name]) for each in given])[:-1]
        feeds = {
            name: np.concatenate([each[name] for each in given]) for name, _, _ in self.model.inputs
        }
        parts = np.split(self.model.run(feeds), ends)
        return [triton.InferenceResponse([triton.Tensor("y", part)]) for part in parts]
