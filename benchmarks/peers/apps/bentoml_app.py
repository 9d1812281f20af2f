"""BentoML: adaptive batches of one stacked array; `bentoml serve bentoml_app:Served`."""

# mypy: ignore-errors
# It imports what only the environment of the peer has.

import bentoml
import numpy as np
from onnx_rows import MOST, WORKERS, OnnxRows


@bentoml.service(workers=WORKERS, traffic={"timeout": 120})
class Served:
    def __init__(self):
        self.model = OnnxRows()

    @bentoml.api(batchable=True, max_batch_size=MOST, max_latency_ms=60000)
    def predict(self, rows: np.ndarray) -> np.ndarray:
        """(rows, inputs, numbers): a batchable method takes one argument, so inputs are stacked."""
        return self.model.run(
            {
                name: rows[:, place].astype(dtype).reshape(-1, *shape)
                for place, (name, dtype, shape) in enumerate(self.model.inputs)
            }
        )
