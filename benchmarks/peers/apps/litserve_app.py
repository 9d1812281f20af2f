"""LitServe: batches of rows, inference in workers, HTTP in processes of its own."""

# mypy: ignore-errors
# It imports what only the environment of the peer has.

import litserve
from onnx_rows import FRONTS, MOST, PORT, WAIT_S, WORKERS, OnnxRows


class Api(litserve.LitAPI):
    def setup(self, device):
        self.model = OnnxRows()

    def decode_request(self, request):
        return self.model.arrays(request)

    def batch(self, inputs):
        return inputs

    def predict(self, rows):
        return self.model.run_rows(rows)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"y": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(max_batch_size=MOST, batch_timeout=WAIT_S),
        accelerator="cpu",
        workers_per_device=WORKERS,
        timeout=60,
    )
    server.run(
        host="127.0.0.1",
        port=PORT,
        num_api_servers=FRONTS,
        generate_client_file=False,
        log_level="error",
    )
