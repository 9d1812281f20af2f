"""A running server as a benchmark sees it: one prediction over a plain socket, and /proc.

Not a client library: it knows one request, whose right answer is known, so that a wrong answer
never passes for a fast one; and how one is started. Called by what measures a server of ours alone:
`start`, `faults`, `plan`, `fuzz`, `_steps`, `_llm_front` and others.
"""

import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from paceline.serve import digits

ANSWER_S = 10.0
STOP_S = 30.0
PORTS = range(20_000, 30_000)
"""Below the kernel's range for callers: there, asking a closed port again and again ends in a
connection of the caller with itself."""


RIGHT = "right"
REFUSED = "refused"
CUT = "cut"
SILENT = "silent"

BAD_IN_LOG = ("inside Paceline", "Traceback", "does not answer", "is killed", "ended by itself")


def request(method: str, path: str, body: object = None) -> bytes:
    sent = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(sent)}\r\n"
    return head.encode() + b"content-type: application/json\r\n\r\n" + sent


PREDICT = request("POST", f"/predict/{digits.NAME}", digits.SAMPLE_ROW)
HEALTH_READY = request("GET", "/health/ready")


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), ANSWER_S)


def ask(connection: socket.socket, sent: bytes) -> tuple[int, bytes]:
    """Status and body of one exchange; an OSError where there is no whole answer."""
    connection.sendall(sent)
    head, body, length = b"", b"", 0
    while not head or len(body) < length:
        chunk = connection.recv(65536)
        if not chunk:
            raise ConnectionResetError("the connection ended within an answer")
        body += chunk
        if not head and b"\r\n\r\n" in body:
            head, _, body = body.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head.split(b" ", 2)[1]), body


def is_right(status: int, body: bytes) -> bool:
    return status == 200 and json.loads(body)["outputs"]["label"] == digits.SAMPLE_LABEL


def predict(connection: socket.socket) -> str:
    """RIGHT, or what it was instead."""
    try:
        status, body = ask(connection, PREDICT)
    except TimeoutError:
        return SILENT
    except OSError:
        return CUT
    return RIGHT if is_right(status, body) else f"wrong, status {status}"


def predict_afresh(port: int) -> str:
    try:
        connection = connect(port)
    except TimeoutError:
        return SILENT
    except OSError:
        return REFUSED
    with connection:
        return predict(connection)


def free_port() -> int:
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise SystemExit(f"no port is free from {PORTS.start} to {PORTS.stop}")


def first_answer(
    server: subprocess.Popen[bytes], port: int, pause_s: float = 0.001
) -> tuple[float, float]:
    """When the port opened and when the first right prediction came, by `time.perf_counter`."""
    while server.poll() is None:
        try:
            connection = connect(port)
        except ConnectionRefusedError:
            time.sleep(pause_s)
            continue
        opened_s = time.perf_counter()
        with connection:
            status, body = ask(connection, PREDICT)
        answered_s = time.perf_counter()
        if not is_right(status, body):
            raise SystemExit(f"a wrong first answer: {status} {body!r}")
        return opened_s, answered_s
    raise SystemExit(f"the server ended by itself, with exit status {server.returncode}")


@contextmanager
def served(
    folder: Path,
    *options: str,
    port: int = 0,
    environ: Mapping[str, str] | None = None,
    until: Callable[[subprocess.Popen[bytes], int], object] = first_answer,
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server with its state and its log in the folder, once it has answered rightly, and its
    port; killed at the end if it still runs."""
    port = port or free_port()
    command = [sys.executable, "-P", "-m", "paceline", "up", "--port", str(port), *options]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--state", str(folder / "state")],
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, **(environ or {})},
        )
    try:
        try:
            until(server, port)
        except (OSError, SystemExit):
            sys.stderr.write((folder / "log").read_text()[-2000:])
            raise
        yield server, port
    finally:
        server.kill()
        server.wait()


def faults_in_log(folder: Path) -> list[str]:
    """Lines of such a server that must not be."""
    lines = (folder / "log").read_text().splitlines()
    return [line for line in lines if any(bad in line for bad in BAD_IN_LOG)]


def stop(server: subprocess.Popen[bytes]) -> float:
    """Tells it to stop, insists on exit status 0, and answers how many seconds that took."""
    asked_s = time.perf_counter()
    server.send_signal(signal.SIGTERM)
    wait_until_gone([os.pidfd_open(server.pid)])
    took_s = time.perf_counter() - asked_s
    if server.wait() != 0:
        raise SystemExit(f"the server stopped with exit status {server.returncode}")
    return took_s


def wait_until_gone(pidfds: Sequence[int]) -> None:
    """Closes them. Wakes at the end itself, where `Popen.wait` with a timeout looks at times."""
    for pidfd in pidfds:
        if not select.select([pidfd], [], [], STOP_S)[0]:
            raise SystemExit(f"a process did not end within {STOP_S:.0f} s")
        os.close(pidfd)


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in found.split()]


def tree(pid: int) -> list[int]:
    return [pid, *(each for child in children(pid) for each in tree(child))]


def open_descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def pss_mb(pid: int) -> float:
    """Proportional set size: a page that n processes share counts 1/n in each."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError("the kernel tells no PSS")


def cpu_s(pids: Sequence[int]) -> float:
    """CPU time of all their threads, in nanoseconds where /proc/PID/stat has hundredths."""
    return 1e-9 * sum(
        int(stat.read_text().split()[0])
        for pid in pids
        for stat in Path(f"/proc/{pid}/task").glob("*/schedstat")
    )
