"""BentoML: two workers and its adaptive batcher, which has no time to wait that could be set."""

from benchmarks.peers.contender import Command, Contender, Endpoint, Launch, app_environ
from benchmarks.peers.forms import STACKED

WORKERS = 2


def _command(launch: Launch) -> Command:
    environ = app_environ(launch, workers=WORKERS)
    home = {"BENTOML_HOME": str(launch.folder / "home"), "BENTOML_DO_NOT_TRACK": "true"}
    serve = [str(launch.python), "-m", "bentoml", "serve", "bentoml_app:Served"]
    where = ["--working-dir", environ["PYTHONPATH"], "--host", "127.0.0.1"]
    return Command([*serve, *where, "--port", str(launch.port)], {**environ, **home})


BENTOML = Contender(
    "bentoml",
    "bentoml",
    {"json": Endpoint("/predict", STACKED)},
    _command,
    {"all": f"{WORKERS} workers, adaptive batches to 32"},
    "bentoml",
)
