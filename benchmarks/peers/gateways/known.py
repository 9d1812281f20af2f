"""Every gateway by its name, ours first; and none, which is to ask the upstream directly."""

from pathlib import Path
from typing import Never

from benchmarks.peers.gateways.fastapi_httpx import FASTAPI_HTTPX
from benchmarks.peers.gateways.gateway import Gateway, Place
from benchmarks.peers.gateways.litellm import LITELLM, LITELLM_TWO_WORKERS
from benchmarks.peers.gateways.nginx import NGINX
from benchmarks.peers.gateways.paceline import (
    PACELINE,
    PACELINE_AGAIN,
    PACELINE_AT_ONCE,
    PACELINE_TWO_FRONTS,
)
from benchmarks.peers.gateways.portkey import PORTKEY


def _never(_place: Place) -> Never:
    raise AssertionError("the upstream runs already")


def _version(_peers: Path) -> str:
    return "of this checkout"


DIRECT = Gateway(
    "direct",
    "no gateway: the simulated upstream itself",
    _never,
    _version,
    ("throughput", "latency", "streaming"),
    extra=True,
)

GATEWAYS: dict[str, Gateway] = {
    each.name: each
    for each in (
        PACELINE,
        PACELINE_TWO_FRONTS,
        PACELINE_AGAIN,
        PACELINE_AT_ONCE,
        LITELLM,
        LITELLM_TWO_WORKERS,
        PORTKEY,
        FASTAPI_HTTPX,
        NGINX,
        DIRECT,
    )
}
LIMITS = (NGINX.name, DIRECT.name)
"""Whom nobody who reads a call can beat: told beside the others, and no verdict hangs on them."""

RIVALS = tuple(
    name for name, each in GATEWAYS.items() if name not in LIMITS and "paceline" not in name
)
