"""Portkey's gateway, the package of npm, on Node.

At its best here: NODE_ENV=production, without its page and logs (`--headless`), no retries (none is
asked for), hono and its server for Node held back, without which no stream is answered
(package-portkey.json). It has no keys of its own: callers send the provider's, and in headers where
it is. It listens everywhere and has no option for it, so Node first runs `loopback.cjs`, which
keeps it on the loopback.
"""

import json
import shutil
from pathlib import Path

from benchmarks.peers.contender import APPS, Command
from benchmarks.peers.environment import Unavailable, node_packages_of
from benchmarks.peers.gateways.gateway import PROVIDER_KEY, Gateway, Place, bearer

PACKAGE = "@portkey-ai/gateway"


def _command(place: Place) -> Command:
    node = shutil.which("node")
    if node is None:
        raise Unavailable("node is missing; install the Debian packages nodejs and npm")
    server = node_packages_of("portkey", place.peers) / PACKAGE / "build" / "start-server.js"
    argv = [node, "--require", str(APPS / "loopback.cjs"), str(server)]
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": place.upstream}
    return Command(
        [*argv, f"--port={place.port}", "--headless"],
        {"NODE_ENV": "production"},
        {**bearer(PROVIDER_KEY), **headers},
    )


def _version(peers: Path) -> str:
    folder = node_packages_of("portkey", peers, make=False)
    numbers = [
        json.loads((folder / name / "package.json").read_text())["version"]
        for name in (PACKAGE, "hono", "@hono/node-server")
    ]
    return "{} with hono {} and @hono/node-server {}".format(*numbers)


PORTKEY = Gateway("portkey", "production, headless; it has no keys", _command, _version)
