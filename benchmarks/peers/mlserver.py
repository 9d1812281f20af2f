"""MLServer: without parallel workers for the classifier, with two for what computes."""

import json

from benchmarks._server import free_port
from benchmarks.peers.contender import (
    MOST_ROWS,
    WAIT_MS,
    Command,
    Contender,
    Endpoint,
    Launch,
    app_environ,
)
from benchmarks.peers.forms import V2

WORKERS = {"classifier": 0, "encoder": 2, "cnn": 2}


def _command(launch: Launch) -> Command:
    server = {
        "host": "127.0.0.1",
        "http_port": launch.port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": WORKERS[launch.model],
        "debug": False,
    }
    model = {
        "name": launch.model,
        "implementation": "mlserver_app.Served",
        "max_batch_size": MOST_ROWS,
        "max_batch_time": WAIT_MS / 1e3,
        "parameters": {"uri": str(launch.path)},
    }
    (launch.folder / "settings.json").write_text(json.dumps(server))
    (launch.folder / "model-settings.json").write_text(json.dumps(model))
    script = launch.python.parent / "mlserver"
    return Command([str(launch.python), str(script), "start", "."], app_environ(launch))


MLSERVER = Contender(
    "mlserver",
    "mlserver",
    {"json": Endpoint("/v2/models/{model}/infer", V2)},
    _command,
    {
        model: f"{workers or 'no'} parallel workers, batches to 32 in 3 ms, uvloop 0.21"
        for model, workers in WORKERS.items()
    },
    "mlserver",
)
