"""Ray Serve: two replicas behind its HAProxy ingress, which is many times its own proxy's rate."""

from benchmarks._server import free_port
from benchmarks.peers.contender import Command, Contender, Endpoint, Launch, app_environ
from benchmarks.peers.forms import ROW

REPLICAS = 2


def _command(launch: Launch) -> Command:
    environ = app_environ(launch, workers=REPLICAS)
    folder = launch.folder
    ingress = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "h" / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "h" / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder / "h"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "h" / "state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "h" / "metrics.sock"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    script = environ["PYTHONPATH"] + "/ray_app.py"
    return Command([str(launch.python), script], {**environ, **ingress})


RAY = Contender(
    "ray",
    "ray",
    {"json": Endpoint("/predict", ROW)},
    _command,
    {"all": f"{REPLICAS} replicas, HAProxy ingress, batches to 32 in 3 ms"},
    "ray",
)
