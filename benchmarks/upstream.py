"""Our pool of upstream connections beside aiohttp and httpx: requests a second, CPU, latency.

A bare server in a process of its own answers each request with the same few hundred bytes, as a
short chat answer has. Each client runs in a process of its own, on uvloop, with 1 and with 64
callers, each of which asks again as soon as it has its answer; plain, and over TLS that is
verified. Every round runs all of them in turn, ours twice: what the two differ by is the noise
(A/A). Server and client share the machine's cores, so requests a second are a lower bound; CPU
time is the client's alone. A run that something else on the machine disturbed is repeated.
"""

import argparse
import asyncio
import os
import re
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
import uvloop

from benchmarks import record
from benchmarks._pooled import Found, Work
from benchmarks._quiet import Disturbance, quietest, watched
from benchmarks._server import cpu_s
from benchmarks.peers.environment import cache_folder, python_of, version_in

HERE = Path(__file__).parent
OURS, AGAIN, AIOHTTP, HTTPX = CLIENTS = ("pool", "pool, again", "aiohttp", "httpx")
PEERS = (AIOHTTP, HTTPX)
CONNECTIONS = (1, 64)
WARM_S = 0.5
ENOUGH = 1.5
"""Times as fast as what exists: only then code of our own is worth having (docs/design)."""

BODY = (
    '{"model":"small","messages":[{"role":"user","content":"What is a lock, and who needs one?"}],'
    '"temperature":0.2}'
)
HEADERS = {"content-type": "application/json", "authorization": "Bearer sk-none"}
ANSWER = b'{"id":"c","choices":[{"message":{"role":"assistant","content":"%b"}}],"usage":{}}' % (
    b"A lock is what only one holds at a time. " * 8
)
SAID = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: 1\r\n"
    b"content-length: %d\r\n\r\n" % len(ANSWER)
) + ANSWER

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Bare(asyncio.Protocol):
    """Reads no more of a request than where it ends: some clients send it in two pieces."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.held = b""

    def data_received(self, data: bytes) -> None:
        self.held += data
        while (end := self.held.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self.held, 0, end + 2)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self.held) < whole:
                return
            self.held = self.held[whole:]
            self.transport.write(SAID)


@contextmanager
def served(certificate: Path | None) -> Iterator[tuple[int, int]]:
    """Port and process of a server; with TLS where there is a certificate."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port = int(listener.getsockname()[1])
    sys.stdout.flush()
    process = os.fork()
    if not process:
        _serve(listener, certificate)
    listener.close()
    try:
        yield port, process
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def _serve(listener: socket.socket, certificate: Path | None) -> None:
    async def main() -> None:
        tls = None
        if certificate is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
        server = await asyncio.get_running_loop().create_server(Bare, sock=listener, ssl=tls)
        await server.serve_forever()

    uvloop.run(main())


def make_certificate(folder: Path) -> Path:
    """With its key; it is its own authority."""
    both, cert = folder / "both.pem", folder / "cert.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        f"-subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout {both} -out {cert}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    both.write_bytes(both.read_bytes() + cert.read_bytes())
    return both


class Case(NamedTuple):
    connections: int
    tls: bool

    def __str__(self) -> str:
        many = f"{self.connections} connection" + "s" * (self.connections > 1)
        return f"{many}, {'TLS' if self.tls else 'plain'}"


class Run(NamedTuple):
    per_s: float
    p99_ms: float
    cpu_us: float
    """for one request"""


CASES = [Case(connections, tls) for tls in (False, True) for connections in CONNECTIONS]


def work_of(case: Case, port: int, certificate: Path | None, seconds: float) -> Work:
    scheme, host = ("https", "localhost") if case.tls else ("http", "127.0.0.1")
    return Work(
        url=f"{scheme}://{host}:{port}/v1/chat/completions",
        ca_file=str(certificate) if case.tls else "",
        connections=case.connections,
        warm_s=WARM_S,
        seconds=seconds,
        headers=HEADERS,
        body=BODY,
        answer_bytes=len(ANSWER),
    )


def told(found: Found, seconds: float) -> Run:
    count = found.answers
    if not count:
        raise SystemExit(f"a client had no answer in {seconds:g} s: give it more --seconds")
    return Run(count / seconds, 1000 * found.p99_s, 1e6 * found.cpu_s / count)


def once(client: str, work: Work, peers: Path | None) -> Found:
    """In a process of its own."""
    given = msgspec.json.encode(work).decode()
    if client in PEERS:
        assert peers is not None
        command = [str(peers), str(HERE / "peers" / "apps" / "clients_app.py"), client, given]
    else:
        command = [sys.executable, "-m", "benchmarks._pooled", given]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE.parent)
    if done.returncode:
        raise SystemExit(f"{client} failed: {done.stderr[-1000:]}")
    return msgspec.json.decode(done.stdout, type=Found)


def measured(
    rounds: int, seconds: float, clients: Sequence[str], peers: Path | None
) -> dict[tuple[Case, str], list[Run]]:
    runs: dict[tuple[Case, str], list[Run]] = {}
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder))
        with served(None) as plain, served(certificate) as secure:
            for number in range(rounds):
                for case in CASES:
                    port, server = secure if case.tls else plain
                    turn = number % len(clients)
                    for client in (*clients[turn:], *clients[:turn]):
                        work = work_of(case, port, certificate, seconds)
                        ask = partial(once, client, work, peers)

                        def look(
                            ask: partial[Found] = ask, server: int = server
                        ) -> tuple[Found, Disturbance]:
                            return watched(ask, lambda: cpu_s([server]))

                        found, _ = quietest(look)
                        run = told(found, seconds)
                        runs.setdefault((case, client), []).append(run)
                        print(f"  {case}, {client}: {run.per_s:,.0f}/s", file=sys.stderr)
    return runs


def figures(runs: Mapping[tuple[Case, str], Sequence[Run]]) -> list[record.Figure]:
    made = []
    for (case, client), each in runs.items():
        made += [
            record.figure(f"{case}: {client}", "requests/s", [run.per_s for run in each]),
            record.figure(f"{case}: {client}, p99", "ms", [run.p99_ms for run in each]),
            record.figure(f"{case}: {client}, CPU", "us/request", [run.cpu_us for run in each]),
        ]
    return made


def verdicts(runs: Mapping[tuple[Case, str], Sequence[Run]]) -> list[record.Verdict]:
    """By rounds: what a round suffered from all of its runs suffered from."""
    made = []
    for case in CASES:
        ours = [run.per_s for run in runs[case, OURS]]
        again = [run.per_s for run in runs[case, AGAIN]]
        noise = max(abs(a / b - 1) for a, b in zip(again, ours, strict=True))
        for peer in PEERS:
            if (case, peer) not in runs:
                continue
            theirs = [run.per_s for run in runs[case, peer]]
            times = [a / b for a, b in zip(ours, theirs, strict=True)]
            low, high = min(times) * (1 - noise), max(times) * (1 + noise)
            holds = True if low >= ENOUGH else False if high < ENOUGH else None
            made.append(
                record.Verdict(
                    f"at least {ENOUGH:g} times {peer}, {case}",
                    f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f}; "
                    f"A/A differs by up to {noise:.0%})",
                    holds,
                )
            )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--quick", action="store_true", help="one round of 2 s, kept apart")
    parser.add_argument("--peers", type=Path, default=cache_folder() / "peers")
    arguments = parser.parse_args()
    rounds, seconds = (1, 2.0) if arguments.quick else (arguments.rounds, arguments.seconds)
    python = python_of("clients", arguments.peers)
    runs = measured(rounds, seconds, CLIENTS, python)
    workload = {"seconds": seconds, "rounds": rounds, "answer_bytes": len(ANSWER)}
    theirs = {peer: version_in(python, peer) for peer in PEERS}
    record.write(
        "upstream",
        workload={**workload, **theirs},
        figures=figures(runs),
        verdicts=verdicts(runs),
        packages=("uvloop", "httptools"),
        folder=Path(tempfile.gettempdir()) if arguments.quick else record.RESULTS,
    )


if __name__ == "__main__":
    main()
