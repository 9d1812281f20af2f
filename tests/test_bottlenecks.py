"""Six bottlenecks planted into a real server, each named in its report."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import msgspec
import pytest

from paceline.watch.analysis.finding import Finding
from paceline.watch.report import Report
from servers import Server

WARM_S = 1
SEEN_S = 4
ATTEMPTS = 2

MODELS = """\
import time
import numpy as np
import paceline

def row(width):
    return {"inputs": {"x": ("FP32", [-1, width])}, "outputs": {"y": ("FP32", [-1])}}

@paceline.model(**row(4))
def slow(batch):
    time.sleep(0.03)
    return batch["x"].sum(axis=1)

@paceline.model(**row(4))
def narrow(batch):
    time.sleep(0.01)
    return batch["x"].sum(axis=1)

@paceline.model(**row(4))
def limited(batch):
    time.sleep(0.02)
    return batch["x"].sum(axis=1)

@paceline.model(**row(2048))
def wide(batch):
    return batch["x"].sum(axis=1)

@paceline.model(**row(4))
def busy(batch):
    total = 0
    for number in range(200_000):
        total += number
    return batch["x"].sum(axis=1)
"""

SETTINGS = """\
[models.slow]
python = "planted.py:slow"
[models.narrow]
python = "planted.py:narrow"
[models.narrow.pins]
max_batch = 1
executors = 1
[models.limited]
python = "planted.py:limited"
[models.limited.pins]
max_in_flight = 1
[models.wide]
python = "planted.py:wide"
[models.busy]
python = "planted.py:busy"
"""

SMALL = json.dumps([[1, 2, 3, 4]]).encode()
LARGE = json.dumps([[at * 1.2345678901234 + row for at in range(2048)] for row in range(32)])

Call = Callable[[int, threading.Event], None]


def keep_asking(model: str, body: bytes, port: int, stop: threading.Event) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"content-type": "application/json"}
    while not stop.is_set():
        connection.request("POST", f"/predict/{model}", body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            stop.wait(0.005)
    connection.close()


def speak_slowly(model: str, port: int, stop: threading.Event) -> None:
    """A body of a row, in pieces that come 20 ms apart."""
    body = SMALL + b" " * 150
    head = (
        f"POST /predict/{model} HTTP/1.1\r\nhost: localhost\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not stop.is_set():
            connection.sendall(head.encode())
            for piece in (body[:50], body[50:100], body[100:]):
                stop.wait(0.02)
                connection.sendall(piece)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")


@contextmanager
def neighbours() -> Iterator[None]:
    """Four times as many busy processes as there are cores, each in a session of its own: a kernel
    that shares cores fairly among sessions would count them as one."""
    spin = "while True: pass"
    count = 4 * len(os.sched_getaffinity(0))
    command = [sys.executable, "-S", "-c", spin]
    running = [subprocess.Popen(command, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


def told(server: Server, model: str, call: Call, callers: int) -> Finding:
    """The bottleneck in the report of the last seconds, in which so many ask."""
    stop = threading.Event()
    asking = [threading.Thread(target=call, args=(server.port, stop)) for _ in range(callers)]
    for each in asking:
        each.start()
    try:
        stop.wait(WARM_S + SEEN_S)
        path = f"/api/report?model={model}&since={SEEN_S}s&granularity=1s"
        answer = server.ask("GET", path)
    finally:
        stop.set()
        for each in asking:
            each.join()
    assert answer.status == 200, answer.body
    report = msgspec.json.decode(answer.body, type=Report)
    found = [each for each in report.findings if each.kind == "bottleneck"]
    assert len(found) == 1, (report.findings, report.totals)
    return found[0]


def of(found: Finding, name: str) -> float:
    return next(each.value for each in found.evidence if each.name == name)


def is_busy(found: Finding) -> bool:
    """Whether others had the cores meanwhile: a bottleneck that nobody planted."""
    return of(found, "cores used by others") > 0.3 and of(found, "without a core") > 0.2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("planted")
    (folder / "planted.py").write_text(MODELS)
    (folder / "paceline.toml").write_text(SETTINGS)
    settings = str(folder / "paceline.toml")
    with Server(folder / "state", "--config", settings, "--fronts", "1") as running:
        yield running


PLANTED: dict[str, tuple[str, Call, int]] = {
    "compute": ("slow", partial(keep_asking, "slow", SMALL), 1),
    "queue": ("narrow", partial(keep_asking, "narrow", SMALL), 8),
    "parsing": ("wide", partial(keep_asking, "wide", LARGE.encode()), 2),
    "network": ("slow", partial(speak_slowly, "slow"), 4),
    "limits": ("limited", partial(keep_asking, "limited", SMALL), 6),
}


@pytest.mark.slow
@pytest.mark.parametrize("part", PLANTED)
def test_a_planted_bottleneck_is_named(server: Server, part: str) -> None:
    model, call, callers = PLANTED[part]
    for _ in range(ATTEMPTS):
        found = told(server, model, call, callers)
        if not is_busy(found):
            break
    assert found.advice
    if is_busy(found):
        assert found.name in (part, "saturation"), found
    else:
        assert found.name == part, found
        assert found.sure >= 0.5, found


@pytest.mark.slow
@pytest.mark.needs("schedstat")
def test_too_few_cores_are_named_and_who_has_them(server: Server) -> None:
    with neighbours():
        for _ in range(2 * ATTEMPTS):  # how long a thread waits is the kernel's choice, and varies
            found = told(server, "busy", partial(keep_asking, "busy", SMALL), 2)
            if found.name == "saturation" and "others use" in found.what:
                break
    assert found.name == "saturation", found
    assert "others use" in found.what
    assert of(found, "without a core") > 0
