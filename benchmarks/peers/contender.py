"""What a contender is: which environment it needs, how it is started and how it is asked.

Data and one protocol of functions, nothing that runs; `running` starts it. Filled by the module of
each peer, called by `serving` and `goodput`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers.forms import Form

APPS = Path(__file__).parent / "apps"
MOST_ROWS = 32
WAIT_MS = 3


class Launch(NamedTuple):
    """What is to be served, where; `folder` is the contender's own and empty."""

    model: str
    path: Path
    port: int
    folder: Path
    python: Path
    """of its environment"""


class Command(NamedTuple):
    argv: Sequence[str]
    environ: Mapping[str, str]
    headers: Mapping[str, str] = {}
    """Sent with every request, such as its key."""


class Endpoint(NamedTuple):
    """`path` may hold `{model}`."""

    path: str
    form: Form


class Contender(NamedTuple):
    name: str
    environment: str
    """Its folder and its requirements; empty is ours, which this runs in."""

    endpoints: Mapping[str, Endpoint]
    """By "json" and "binary"."""

    command: Callable[[Launch], Command]
    settings: Mapping[str, str]
    """What was chosen for it, by model or "all"; told in the result."""

    package: str
    """Whose version is told."""

    levels: Sequence[int] = ()
    """Numbers of callers it is measured at; empty is all."""

    extra: bool = False
    """A second configuration, left out of ranks and of short runs."""


def app_environ(launch: Launch, **more: object) -> dict[str, str]:
    """What the apps read, and where they are found."""
    return {
        "PYTHONPATH": str(APPS),
        "PEER_MODEL": str(launch.path),
        "PEER_PORT": str(launch.port),
        "PEER_MOST_ROWS": str(MOST_ROWS),
        "PEER_WAIT_MS": str(WAIT_MS),
        "OMP_NUM_THREADS": "1",
        **{f"PEER_{name.upper()}": str(value) for name, value in more.items()},
    }
