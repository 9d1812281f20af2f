"""Ours, from this checkout, as one would run it: keys required, recording on, one provider.

All that this benchmark knows of our settings and options is here. The same twice under two names is
what two runs of one gateway differ by. One has streams begin with their first event, and not with
their first content, until which a call could still go elsewhere.
"""

import json
import subprocess
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

from benchmarks._upstream import MODEL
from benchmarks.peers.contender import Command
from benchmarks.peers.environment import Unavailable
from benchmarks.peers.gateways.gateway import PROVIDER_KEY, Gateway, Place, bearer

KEY_ENV = "BENCH_PROVIDER_KEY"


def settings(upstream: str) -> str:
    return f"""[providers.bench]
kind = "openai"
url = "{upstream}"
key_env = "{KEY_ENV}"
models = ["{MODEL}"]
"""


AT_ONCE = f"""[routes."{MODEL}"]
targets = ["bench/{MODEL}"]
begin_ms = 0
"""


def _command(place: Place, fronts: int, routes: str) -> Command:
    paceline = [sys.executable, "-m", "paceline"]
    state = ["--state", str(place.folder / "state")]
    made = subprocess.run(
        [*paceline, "key", "create", "bench", *state, "--json"], capture_output=True, text=True
    )
    if made.returncode:
        raise Unavailable(f"no key was made: {made.stderr.strip()[-300:]}")
    config = place.folder / "paceline.toml"
    config.write_text(settings(place.upstream) + routes)
    up = [*paceline, "up", "--config", str(config), "--port", str(place.port), *state]
    return Command(
        [*up, "--fronts", str(fronts), "--require-keys"],
        {KEY_ENV: PROVIDER_KEY},
        bearer(json.loads(made.stdout)["key"]),
    )


def _version(_peers: Path) -> str:
    return version("paceline")


def paceline(
    name: str,
    *,
    fronts: int = 1,
    routes: str = "",
    whats: tuple[str, ...] = (),
    extra: bool = False,
) -> Gateway:
    told = f"fronts: {fronts}, keys required, recording on"
    if routes:
        told += f"; {' '.join(routes.split())}"
    command = partial(_command, fronts=fronts, routes=routes)
    return Gateway(name, told, command, _version, whats, extra)


PACELINE = paceline("paceline")
PACELINE_AGAIN = paceline(
    "paceline-again", whats=("start", "throughput", "latency", "streaming"), extra=True
)
PACELINE_TWO_FRONTS = paceline(
    "paceline-2-fronts", fronts=2, whats=("start", "memory", "throughput", "latency"), extra=True
)
PACELINE_AT_ONCE = paceline("paceline-at-once", routes=AT_ONCE, whats=("streaming",), extra=True)
