"""FastAPI by hand: what somebody writes who needs no server for models; two workers, async."""

from benchmarks.peers.contender import Command, Contender, Endpoint, Launch, app_environ
from benchmarks.peers.forms import ROW

WORKERS = 2


def _command(launch: Launch) -> Command:
    serve = [str(launch.python), "-m", "uvicorn", "fastapi_app:app", "--workers", str(WORKERS)]
    options = ["--host", "127.0.0.1", "--port", str(launch.port), "--no-access-log"]
    return Command([*serve, *options], app_environ(launch))


FASTAPI = Contender(
    "fastapi",
    "fastapi",
    {"json": Endpoint("/predict", ROW)},
    _command,
    {"all": f"{WORKERS} workers, async, onnxruntime on the event loop, no batches"},
    "fastapi",
)
