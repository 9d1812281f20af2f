"""Ours, from this checkout, as one would run it: keys required, metrics and limits on.

The same twice under two names is what two runs of one server differ by.
"""

import json
import subprocess
from functools import partial

from benchmarks.peers.contender import Command, Contender, Endpoint, Launch
from benchmarks.peers.environment import Unavailable
from benchmarks.peers.forms import V2, V2_BINARY


def _command(launch: Launch, fronts: int, slo_ms: int) -> Command:
    state = str(launch.folder / "state")
    paceline = [str(launch.python), "-m", "paceline"]
    made = subprocess.run(
        [*paceline, "key", "create", "bench", "--state", state, "--json"],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise Unavailable(f"no key was made: {made.stderr.strip()[-300:]}")
    key = json.loads(made.stdout)["key"]
    serve = [*paceline, "serve", str(launch.path), "--name", launch.model]
    options = ["--port", str(launch.port), "--state", state, "--fronts", str(fronts)]
    if slo_ms:
        options += ["--slo", f"{slo_ms}ms"]
    return Command([*serve, *options, "--require-keys"], {}, {"x-api-key": key})


def paceline(name: str, *, fronts: int = 1, slo_ms: int = 0, extra: bool = False) -> Contender:
    """`slo_ms` is the objective that it is told; 0 is none."""
    path = "/v2/models/{model}/infer"
    goal = f", objective {slo_ms} ms" if slo_ms else ""
    return Contender(
        name,
        "",
        {"json": Endpoint(path, V2), "binary": Endpoint(path, V2_BINARY)},
        partial(_command, fronts=fronts, slo_ms=slo_ms),
        {"all": f"fronts: {fronts}, keys required, metrics and limits on{goal}"},
        "paceline",
        extra=extra,
    )


PACELINE = paceline("paceline")
PACELINE_TWO_FRONTS = paceline("paceline-2-fronts", fronts=2, extra=True)
PACELINE_AGAIN = paceline("paceline-again", extra=True)
