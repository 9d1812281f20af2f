"""The model file of a peer, as its user would load it: one thread, rows as flat lists of numbers.

Called by the apps beside it. They are told what to serve by the environment variables here.
"""

# mypy: ignore-errors
# It imports what only the environment of the peer has.

import os

import numpy as np
import onnxruntime as ort

PORT = int(os.environ.get("PEER_PORT", "0"))
WORKERS = int(os.environ.get("PEER_WORKERS", "1"))
FRONTS = int(os.environ.get("PEER_FRONTS", "1"))
WAIT_S = float(os.environ.get("PEER_WAIT_MS", "3")) / 1e3
MOST = int(os.environ.get("PEER_MOST_ROWS", "32"))

DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


class OnnxRows:
    def __init__(self, path=""):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(
            path or os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"]
        )
        self.inputs = [
            (each.name, DTYPES[each.type], each.shape[1:]) for each in self.session.get_inputs()
        ]

    def arrays(self, row):
        """Of {name: numbers}."""
        return {
            name: np.asarray(row[name], dtype).reshape(shape) for name, dtype, shape in self.inputs
        }

    def run(self, feeds):
        return self.session.run(None, feeds)[0]

    def run_rows(self, rows):
        return self.run({name: np.stack([row[name] for row in rows]) for name, _, _ in self.inputs})
