"""LitServe in the configuration that was fastest for each model."""

from benchmarks.peers.contender import Command, Contender, Endpoint, Launch, app_environ
from benchmarks.peers.forms import ROW

WORKERS = {"classifier": 1, "encoder": 2, "cnn": 2}
FRONTS = {"classifier": 2, "encoder": 2, "cnn": 1}


def _command(launch: Launch) -> Command:
    environ = app_environ(launch, workers=WORKERS[launch.model], fronts=FRONTS[launch.model])
    # The script lies where its imports are, and its own name is not that of the package.
    script = environ["PYTHONPATH"] + "/litserve_app.py"
    return Command([str(launch.python), script], environ)


LITSERVE = Contender(
    "litserve",
    "litserve",
    {"json": Endpoint("/predict", ROW)},
    _command,
    {
        model: f"{WORKERS[model]} workers, {FRONTS[model]} HTTP processes, batches to 32 in 3 ms"
        for model in WORKERS
    },
    "litserve",
)
