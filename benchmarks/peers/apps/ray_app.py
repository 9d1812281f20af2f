"""Ray Serve: replicas that batch, behind the ingress that its environment variables choose."""

# mypy: ignore-errors
# It imports what only the environment of the peer has.

import logging
import signal

import ray
from onnx_rows import MOST, PORT, WAIT_S, WORKERS, OnnxRows
from ray import serve


@serve.deployment(
    num_replicas=WORKERS, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.5}
)
class Served:
    def __init__(self):
        self.model = OnnxRows()

    @serve.batch(max_batch_size=MOST, batch_wait_timeout_s=WAIT_S)
    async def run(self, rows):
        return list(self.model.run_rows(rows))

    async def __call__(self, request):
        answer = await self.run(self.model.arrays(await request.json()))
        return {"y": answer.tolist()}


if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Served.bind(), route_prefix="/predict", logging_config={"log_level": logging.WARNING})
    signal.pause()
