"""A gateway that runs before a simulated upstream: both started, told, asked and stopped.

The upstream answers as it is told (`_upstream.Manner`) and tells what it saw. Called by `gateway`
and what belongs to it.
"""

import http.client
import json
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks._server import free_port
from benchmarks._upstream import CONTENT, MODEL, Manner, Seen
from benchmarks.peers.contender import Command
from benchmarks.peers.gateways.gateway import PATH, PROVIDER_KEY, Gateway, Place, bearer
from benchmarks.peers.gateways.known import DIRECT
from benchmarks.peers.started import Asked, Started, started

ANSWER_S = 60.0
LISTEN_S = 10.0
ROOT = Path(__file__).parents[3]
JSON_TYPE = {"content-type": "application/json"}
QUESTION = "Say in one sentence what a gateway is, and in another one what it is not."


def body(text: str = QUESTION, *, stream: bool = False) -> bytes:
    asked: dict[str, object] = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You answer in few words."},
            {"role": "user", "content": text},
        ],
    }
    if stream:
        asked["stream"] = True
    return json.dumps(asked, separators=(",", ":")).encode()


class Upstream(Started):
    def __init__(self, port: int, control: int, process: int, mark: str) -> None:
        super().__init__("upstream", port, process, mark)
        self.mark = mark
        self.process = process
        self._control = control

    def be(self, manner: Manner) -> Seen:
        """From the next call on."""
        return self._said(msgspec.json.encode(manner))

    def seen(self) -> Seen:
        return self._said(b"null")

    def _said(self, line: bytes) -> Seen:
        with socket.create_connection(("127.0.0.1", self._control), LISTEN_S) as connection:
            connection.sendall(line + b"\n")
            with connection.makefile("rb") as lines:
                return msgspec.json.decode(lines.readline(), type=Seen)


class Answer(NamedTuple):
    status: int
    body: bytes


class Relaying(Started):
    """`headers` are what every call has, its key among them."""

    def __init__(
        self,
        gateway: Gateway,
        upstream: Upstream,
        port: int,
        headers: Mapping[str, str],
        process: int,
        mark: str,
    ) -> None:
        super().__init__(gateway.name, port, process, mark)
        self.gateway = gateway
        self.upstream = upstream
        self.headers = headers

    @property
    def is_direct(self) -> bool:
        return self.gateway is DIRECT

    def both_cpu_s(self) -> float:
        """With the upstream's."""
        return self.upstream.cpu_s() + (0.0 if self.is_direct else self.cpu_s())

    def asked(self, sent: bytes) -> Asked:
        return Asked(PATH, {**JSON_TYPE, **self.headers}, sent)

    def answer(self, sent: bytes) -> Answer:
        """An OSError or HTTPException where there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S)
        try:
            asked = self.asked(sent)
            connection.request("POST", asked.path, asked.body, dict(asked.headers))
            response = connection.getresponse()
            return Answer(response.status, response.read())
        finally:
            connection.close()

    def probe(self) -> None:
        """A ValueError where the answer is not the upstream's."""
        status, said = self.answer(body())
        if status != 200:
            raise ValueError(f"status {status}: {said[:200]!r}")
        if json.loads(said)["choices"][0]["message"]["content"] != CONTENT:
            raise ValueError(f"an answer of somebody else: {said[:200]!r}")


@contextmanager
def upstream() -> Iterator[Upstream]:
    port, control = free_port(), free_port()
    argv = [sys.executable, "-m", "benchmarks._upstream", str(port), str(control)]
    with tempfile.TemporaryDirectory(prefix="pl-up-", ignore_cleanup_errors=True) as name:
        make = partial(Upstream, port, control)
        path = {"PYTHONPATH": str(ROOT)}
        with started(Command(argv, path), Path(name), make, Upstream.seen) as up:
            yield up


@contextmanager
def relaying(gateway: Gateway, before: Upstream, peers: Path) -> Iterator[Relaying]:
    """Up and answering right; Unavailable says why not."""
    if gateway is DIRECT:
        headers = bearer(PROVIDER_KEY)
        yield Relaying(gateway, before, before.port, headers, before.process, before.mark)
        return
    with tempfile.TemporaryDirectory(prefix="pl-gw-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        place = Place(free_port(), f"{before.url}/v1", folder, peers)
        command = gateway.command(place)
        make = partial(Relaying, gateway, before, place.port, command.headers)
        with started(command, folder, make, Relaying.probe) as up:
            yield up
