"""LiteLLM's proxy.

At its best here: a master key and no database, so that no call waits for one; one deployment of a
model whose price it knows (an unknown one costs it an exception a call); no retries, no telemetry,
no messages in its log; its price list from its own package instead of the network; uvicorn with
uvloop and httptools, of which its own requirements install only the former. Once more with two
workers, which on two cores is the most it can do.
"""

import json
from functools import partial
from pathlib import Path

from benchmarks._upstream import MODEL
from benchmarks.peers.contender import Command
from benchmarks.peers.environment import python_of, version_in
from benchmarks.peers.gateways.gateway import CALLER_KEY, PROVIDER_KEY, Gateway, Place, bearer

ENVIRONMENT = "litellm"
ENVIRON = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_DONT_SHOW_FEEDBACK_BOX": "True",
    "DISABLE_ADMIN_UI": "True",
}


def config(upstream: str) -> dict[str, object]:
    target = {"model": f"openai/{MODEL}", "api_base": upstream, "api_key": PROVIDER_KEY}
    return {
        "model_list": [{"model_name": MODEL, "litellm_params": target}],
        "general_settings": {"master_key": CALLER_KEY, "disable_spend_logs": True},
        "litellm_settings": {
            "num_retries": 0,
            "telemetry": False,
            "set_verbose": False,
            "request_timeout": 60,
        },
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
    }


def _command(place: Place, workers: int) -> Command:
    python = python_of(ENVIRONMENT, place.peers)
    file = place.folder / "config.yaml"
    file.write_text(json.dumps(config(place.upstream)))  # JSON is YAML
    argv = [str(python), str(python.parent / "litellm"), "--config", str(file)]
    options = ["--host", "127.0.0.1", "--port", str(place.port), "--num_workers", str(workers)]
    home = {"HOME": str(place.folder)}
    return Command(
        [*argv, *options, "--telemetry", "False"], {**ENVIRON, **home}, bearer(CALLER_KEY)
    )


def _version(peers: Path) -> str:
    return version_in(python_of(ENVIRONMENT, peers, make=False), "litellm")


def litellm(name: str, workers: int, *, extra: bool = False) -> Gateway:
    settings = f"workers: {workers}, a master key, no database, no retries"
    whats = ("start", "memory", "throughput", "latency", "streaming") if extra else ()
    command = partial(_command, workers=workers)
    return Gateway(name, settings, command, _version, whats, extra)


LITELLM = litellm("litellm", 1)
LITELLM_TWO_WORKERS = litellm("litellm-2-workers", 2, extra=True)
