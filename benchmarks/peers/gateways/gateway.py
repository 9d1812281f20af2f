"""What a gateway is here: how it is installed and started, and which version that is.

Data and two functions each, nothing that runs; `relaying` starts it. Filled by the module of each
peer, called by `gateway` and what belongs to it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks._upstream import KEY
from benchmarks.peers.contender import Command

CALLER_KEY = "sk-bench-caller-3f1c9a0be27d"
"""What callers send. LiteLLM does not start with a key that looks guessed."""

PROVIDER_KEY = KEY
"""What the gateway sends on."""

PATH = "/v1/chat/completions"


class Place(NamedTuple):
    """Where it is to listen and what it is to relay to. `upstream` ends with /v1; `folder` is its
    own and empty; `peers` is where environments lie."""

    port: int
    upstream: str
    folder: Path
    peers: Path


class Gateway(NamedTuple):
    name: str
    settings: str
    """What was chosen for it; told in the result."""

    command: Callable[[Place], Command]
    """Installs it if need be; Unavailable says why it cannot."""

    version: Callable[[Path], str]
    """By the folder of environments. Installs nothing: Unavailable where it is not there."""

    whats: tuple[str, ...] = ()
    """What is measured of it; empty is all."""

    extra: bool = False
    """A second configuration, left out of ranks."""


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
