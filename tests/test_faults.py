"""Processes that die, hang, start and stop while callers watch. What each may and may not see.

The promises are in docs/design/processes.md. Durations are measured by `./bench faults`; here only
order and outcome are judged.
"""

import http.client
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from paceline.access.keys import KeyFile
from paceline.serve import digits
from paceline.terms.limits import IN_FLIGHT
from paceline.web.owner_call import call_owner
from probing import Caller, Outcome, ReadinessProbe
from servers import Server

pytestmark = pytest.mark.slow

ROW = list(digits.SAMPLE_ROW)


@contextmanager
def callers(server: Server, count: int) -> Iterator[list[Caller]]:
    running = [Caller(server.port) for _ in range(count)]
    for caller in running:
        caller.start()
    try:
        yield running
    finally:
        for caller in running:
            caller.stop()


def outcomes(running: list[Caller]) -> Counter[Outcome]:
    return sum((caller.outcomes for caller in running), Counter())


def requests_total(server: Server) -> float:
    text = server.ask("GET", "/metrics").body.decode()
    return sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("paceline_requests_total{")
    )


def wait_for_new_front(server: Server, killed: int, running: list[Caller]) -> None:
    """Until as many fronts as before are there, without the killed one, and have answered."""
    count = len(server.fronts)
    while killed in server.fronts or len(server.fronts) < count:
        running[0].wait_for_one_more()
    for caller in running:
        caller.wait_for_one_more()


@pytest.mark.parametrize("fronts", [1, 2])
def test_killing_a_front_refuses_nobody_and_loses_no_count(tmp_path: Path, fronts: int) -> None:
    with (
        Server(tmp_path / "state", "--fronts", str(fronts)) as server,
        callers(server, 4) as running,
    ):
        for _ in range(5):
            for caller in running:
                caller.wait_for_one_more()
            before = requests_total(server)
            victim = server.fronts[0]
            os.kill(victim, signal.SIGKILL)
            wait_for_new_front(server, victim, running)
            assert requests_total(server) >= before
        seen = outcomes(running)
        assert seen[Outcome.REFUSED] == 0, seen
        assert seen[Outcome.SILENCE] == 0, seen
        # Each caller has one request in hand at a time: no death can cost it more than that one.
        assert seen[Outcome.CUT] <= 5 * len(running), seen
        assert seen[Outcome.RIGHT] > 5 * len(running)
        assert set(seen) <= {Outcome.RIGHT, Outcome.CUT}, seen


def test_with_two_fronts_the_other_ones_connections_notice_nothing(tmp_path: Path) -> None:
    with Server(tmp_path / "state", "--fronts", "2") as server:
        kept: dict[int, http.client.HTTPConnection] = {}
        while len(kept) < 2:  # one connection to each front, told apart by who holds the socket
            connection = server.connect()
            connection.request("GET", "/health/live")
            connection.getresponse().read()
            if kept.setdefault(holder(server, connection.sock), connection) is not connection:
                connection.close()
        victim, survivor = kept
        os.kill(victim, signal.SIGKILL)
        for _ in range(200):
            kept[survivor].request(
                "POST", "/predict/digits", json.dumps(ROW), {"content-type": "application/json"}
            )
            assert kept[survivor].getresponse().read().startswith(b'{"model":"digits"')
        for connection in kept.values():
            connection.close()


def holder(server: Server, ours: socket.socket) -> int:
    """Which front has the other end of this connection."""
    import psutil

    port = ours.getsockname()[1]
    for pid in server.fronts:
        for connection in psutil.Process(pid).net_connections("tcp"):
            if connection.raddr and connection.raddr.port == port:
                return pid
    raise AssertionError("no front holds the connection")


def test_readiness_never_lies_through_start_crash_and_drain(tmp_path: Path) -> None:
    """Probed every 10 ms, from the first moment the port is open to the last.

    A lie is an answer 200 followed by a request that is not answered rightly, unless the process
    was killed or told to stop between the two; the probe knows when it did that.
    """
    port = free_port()
    probe = ReadinessProbe(port)
    probe.start()
    with Server(tmp_path / "state", port=port) as server:
        probe.wait_for("ready")
        for _ in range(3):
            with probe.disturbance():
                os.kill(server.fronts[0], signal.SIGKILL)
                probe.wait_for("not ready")
            probe.wait_for("ready")
        with probe.disturbance():
            assert server.stop() == 0
    probe.stop()
    assert not probe.lies
    assert probe.seen[:2] == ["refused", "not ready"], probe.seen
    assert probe.seen[2:8] == ["ready", "not ready"] * 3, probe.seen
    assert probe.seen[-1] == "refused"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def slow_upload(server: Server) -> socket.socket:
    """A request whose body never ends, known to be in hand."""
    caller = socket.create_connection(("127.0.0.1", server.port), 20)
    caller.sendall(
        b"POST /predict/digits HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: 100\r\nexpect: 100-continue\r\n\r\n"
    )
    assert b"100 Continue" in caller.recv(100)
    return caller


def received(caller: socket.socket) -> bytes:
    """Everything until the other side closes."""
    parts = []
    while part := caller.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_answers_the_unfinished_and_exits_0(tmp_path: Path, number: int) -> None:
    with Server(tmp_path / "state", "--drain-s", "1") as server:
        unfinished = slow_upload(server)
        stream = server.connect()
        stream.request("GET", "/api/events")
        events = stream.getresponse()
        assert events.readline().startswith(b"data: ")
        server.process.send_signal(number)
        assert b"event: error\n" in events.read()
        newcomer = server.connect()
        newcomer.request("POST", "/predict/digits", "[]", {"content-type": "application/json"})
        refusal = newcomer.getresponse()
        assert (refusal.status, json.loads(refusal.read())["code"]) == (503, "draining")
        answer = received(unfinished)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b'"code":"draining"' in answer
        for connection in (stream, newcomer, unfinished):
            connection.close()
        assert server.process.wait(10) == 0


def test_a_drain_lets_what_can_finish_finish(tmp_path: Path) -> None:
    with Server(tmp_path / "state", "--drain-s", "5") as server:
        body = json.dumps(ROW).encode().ljust(100 + len(json.dumps(ROW)))
        caller = socket.create_connection(("127.0.0.1", server.port), 20)
        caller.sendall(
            b"POST /predict/digits HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/json\r\nexpect: 100-continue\r\n"
            b"content-length: %d\r\n\r\n" % len(body)
        )
        assert b"100 Continue" in caller.recv(100)
        probe = ReadinessProbe(server.port)
        probe.start()
        probe.wait_for("ready")
        server.process.send_signal(signal.SIGTERM)
        probe.wait_for("not ready")
        caller.sendall(body)
        assert caller.recv(65536).startswith(b"HTTP/1.1 200")
        caller.close()
        assert server.process.wait(10) == 0
        probe.stop()


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    with Server(tmp_path / "state", "--drain-s", "600") as server:
        caller = slow_upload(server)
        server.process.send_signal(signal.SIGINT)
        probe = ReadinessProbe(server.port)
        probe.start()
        probe.wait_for("not ready")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 0
        probe.stop()
        caller.close()


def test_killing_the_owner_ends_the_fronts_and_the_next_start_is_clean(tmp_path: Path) -> None:
    first = Server(tmp_path / "state", "--drain-s", "600")
    with first, slow_upload(first) as unfinished:
        fronts = first.fronts
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()
        # The port and the directory are free although a front still holds a request.
        with Server(tmp_path / "state", port=first.port) as second:
            assert second.ask("POST", "/predict/digits", ROW).status == 200
            assert unfinished.recv(65536).startswith(b"HTTP/1.1 503")
            for pid in fronts:
                wait_until_gone(pid)
        first.expected_status = -signal.SIGKILL


def wait_until_gone(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    import select

    assert select.select([pidfd], [], [], 10)[0], "the front outlived its owner by 10 s"
    os.close(pidfd)


def test_a_front_that_hangs_is_replaced(tmp_path: Path) -> None:
    with Server(tmp_path / "state") as server:
        hung = server.fronts[0]
        os.kill(hung, signal.SIGSTOP)
        answer = server.ask("POST", "/predict/digits", ROW, timeout_s=30)
        assert answer.status == 200
        assert hung not in server.fronts


def test_a_front_asked_to_stop_finishes_and_is_replaced(tmp_path: Path) -> None:
    with Server(tmp_path / "state") as server, callers(server, 2) as running:
        for caller in running:
            caller.wait_for_one_more()
        victim = server.fronts[0]
        os.kill(victim, signal.SIGTERM)
        wait_for_new_front(server, victim, running)
        seen = outcomes(running)
        assert seen[Outcome.REFUSED] == seen[Outcome.SILENCE] == seen[Outcome.CUT] == 0, seen


def test_more_requests_than_the_bound_are_refused_and_readiness_says_so(tmp_path: Path) -> None:
    """Ten times what is usual, as slow uploads that need not give way to each other; when they
    leave, all is as before."""
    (tmp_path / "sitecustomize.py").write_text(
        "from paceline.terms import limits\nlimits.ARRIVING = 10**6\n"
    )
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    environ = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with ExitStack() as stack:
        server = stack.enter_context(Server(tmp_path / "state", "--drain-s", "1", environ=environ))
        held = [stack.enter_context(closing(slow_upload(server))) for _ in range(IN_FLIGHT)]
        refusal = server.ask("POST", "/predict/digits", ROW)
        assert (refusal.status, refusal.json["code"]) == (503, "overloaded")
        assert "retry-after" in refusal.headers
        ready = server.ask("GET", "/health/ready")
        assert (ready.status, ready.json["ready"]) == (503, False)
        assert server.ask("GET", "/health/live").status == 200
        for caller in held:
            caller.close()
        while server.ask("GET", "/health/ready").status != 200:
            pass
        assert server.ask("POST", "/predict/digits", ROW).status == 200


def test_a_key_revoked_while_a_front_starts_is_refused_by_it(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "state" / "keys.json")
    _, secret = keys.create("app", "admin", 0.0)
    with Server(tmp_path / "state", "--require-keys") as server:
        key = {"x-api-key": secret}
        assert server.ask("GET", "/metrics", headers=key).status == 200
        for _ in range(3):
            os.kill(server.fronts[0], signal.SIGKILL)
            keys.revoke("app")
            call_owner(server.state, "POST", "/local/reload-keys")
            assert server.ask("GET", "/metrics", headers=key).status == 401
            _, secret = keys.create("app", "admin", 0.0)
            call_owner(server.state, "POST", "/local/reload-keys")
            key = {"x-api-key": secret}
            while server.ask("GET", "/metrics", headers=key).status != 200:
                pass


def test_a_deleted_state_directory_stops_neither_inference_nor_restarts(tmp_path: Path) -> None:
    with Server(tmp_path / "state") as server:
        shutil.rmtree(server.state)
        os.kill(server.fronts[0], signal.SIGKILL)
        assert server.ask("POST", "/predict/digits", ROW).status == 200


def test_the_end_of_one_instance_leaves_the_next_ones_socket_alone(tmp_path: Path) -> None:
    with Server(tmp_path / "state") as first:
        shutil.rmtree(first.state)
        with Server(tmp_path / "state") as second:
            assert first.stop() == 0
            assert second.ask("GET", "/metrics").status == 200


def test_a_front_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    with Server(tmp_path / "state") as server:
        owner = server.process.pid
        limits = resource.prlimit(owner, resource.RLIMIT_NOFILE)
        used = max(int(fd.name) for fd in Path(f"/proc/{owner}/fd").iterdir())
        resource.prlimit(owner, resource.RLIMIT_NOFILE, (used, limits[1]))
        os.kill(server.fronts[0], signal.SIGKILL)
        while "cannot be started" not in server.log.read_text():
            assert server.process.poll() is None
        resource.prlimit(owner, resource.RLIMIT_NOFILE, limits)
        assert server.ask("POST", "/predict/digits", ROW, timeout_s=30).status == 200


def test_a_stopped_owner_stops_no_inference(tmp_path: Path) -> None:
    with Server(tmp_path / "state") as server:
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            assert server.ask("POST", "/predict/digits", ROW).status == 200
            answer = server.ask("GET", "/metrics", timeout_s=30)
            assert (answer.status, answer.json["code"]) == (503, "owner_gone")
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        assert server.ask("GET", "/metrics").status == 200


def test_a_caller_who_never_reads_is_cut_off(tmp_path: Path) -> None:
    with Server(tmp_path / "state", "--drain-s", "1") as server:
        flood = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n" * 200
        deaf = [socket.create_connection(("127.0.0.1", server.port), 20) for _ in range(3)]
        for caller in deaf:
            caller.sendall(flood)
        while in_flight(server) <= len(deaf):
            assert server.process.poll() is None
        while in_flight(server) > 1:  # the one that asks
            assert server.process.poll() is None
        for caller in deaf:
            caller.close()


def in_flight(server: Server) -> float:
    return float(server.ask("GET", "/api/status").json["in_flight"])


def test_two_instances_on_one_directory(tmp_path: Path) -> None:
    with Server(tmp_path / "state") as server:
        second = subprocess.run(
            [sys.executable, "-m", "paceline", "up", "--port", "0", "--state", str(server.state)],
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert second.returncode == 4
    assert f"process {server.process.pid} at {server.address}" in second.stderr
    assert "Traceback" not in second.stderr


def test_probing_threads_leave_nothing_behind() -> None:
    assert not [t for t in threading.enumerate() if t.name.startswith("paceline-test")]
