"""Ours, from this checkout, as one would run it: keys required, recording on, one provider.

All that this benchmark knows of our settings and options is here. The same twice under two names is
what two runs of one gateway differ by.
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


def _command(place: Place, fronts: int) -> Command:
    paceline = [sys.executable, "-m", "paceline"]
    state = ["--state", str(place.folder / "state")]
    made = subprocess.run(
        [*paceline, "key", "create", "bench", *state, "--json"], capture_output=True, text=True
    )
    if made.returncode:
        raise Unavailable(f"no key was made: {made.stderr.strip()[-300:]}")
    config = place.folder / "paceline.toml"
    config.write_text(settings(place.upstream))
    up = [*paceline, "up", "--config", str(config), "--port", str(place.port), *state]
    return Command(
        [*up, "--fronts", str(fronts), "--require-keys"],
        {KEY_ENV: PROVIDER_KEY},
        bearer(json.loads(made.stdout)["key"]),
    )


def _version(_peers: Path) -> str:
    return version("paceline")


def paceline(
    name: str, *, fronts: int = 1, whats: tuple[str, ...] = (), extra: bool = False
) -> Gateway:
    told = f"fronts: {fronts}, keys required, recording on"
    return Gateway(name, told, partial(_command, fronts=fronts), _version, whats, extra)


PACELINE = paceline("paceline")
PACELINE_AGAIN = paceline(
    "paceline-again", whats=("start", "throughput", "latency", "streaming"), extra=True
)
PACELINE_TWO_FRONTS = paceline(
    "paceline-2-fronts", fronts=2, whats=("start", "memory", "throughput", "latency"), extra=True
)
