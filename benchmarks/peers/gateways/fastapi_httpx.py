"""FastAPI and httpx by hand: what is written in an afternoon, with a key and a count of tokens.

At its best here: uvicorn with uvloop and httptools, no access log, one client of httpx with as many
connections as are wanted, bodies passed on as bytes.
"""

from pathlib import Path

from benchmarks.peers.contender import APPS, Command
from benchmarks.peers.environment import python_of, version_in
from benchmarks.peers.gateways.gateway import CALLER_KEY, PROVIDER_KEY, Gateway, Place, bearer

ENVIRONMENT = "fastapi-httpx"


def _command(place: Place) -> Command:
    python = python_of(ENVIRONMENT, place.peers)
    serve = [str(python), "-m", "uvicorn", "gateway_app:app", "--host", "127.0.0.1"]
    environ = {
        "PYTHONPATH": str(APPS),
        "PEER_UPSTREAM": place.upstream,
        "PEER_KEY": CALLER_KEY,
        "PEER_PROVIDER_KEY": PROVIDER_KEY,
    }
    options = ["--port", str(place.port), "--no-access-log", "--log-level", "warning"]
    return Command([*serve, *options], environ, bearer(CALLER_KEY))


def _version(peers: Path) -> str:
    python = python_of(ENVIRONMENT, peers, make=False)
    packages = ("fastapi", "httpx", "uvicorn")
    return ", ".join(f"{each} {version_in(python, each)}" for each in packages)


FASTAPI_HTTPX = Gateway("fastapi-httpx", "1 worker, a key, tokens counted", _command, _version)
