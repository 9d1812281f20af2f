"""MLServer: its own codecs and batches; `mlserver start FOLDER` imports it by name."""

# mypy: ignore-errors
# It imports what only the environment of the peer has.

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse
from onnx_rows import OnnxRows


class Served(MLModel):
    async def load(self):
        self.model = OnnxRows(self.settings.parameters.uri)
        return True

    async def predict(self, payload):
        given = {each.name: NumpyCodec.decode_input(each) for each in payload.inputs}
        feeds = {name: given[name].astype(dtype) for name, dtype, _ in self.model.inputs}
        output = NumpyCodec.encode_output("y", self.model.run(feeds))
        return InferenceResponse(model_name=self.name, outputs=[output])
