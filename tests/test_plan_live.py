"""Changes of the Plan and of the settings in a running server, as its callers meet them.

Each knob turned over HTTP, pins and goals read again, terminals that close, callers who leave in
the middle, journals that cannot be used. What processes do that die, hang or are flooded meanwhile
is test_plan_faults.py's business.
"""

import itertools
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from paceline.cli.main import run
from paceline.journal.entries import Entry, SettingsChanged, to_record
from paceline.journal.journal import load
from paceline.journal.sqlite import SqliteReader, SqliteStore
from paceline.serve import digits
from paceline.terms.errors import EXIT_OK, EXIT_STATE, StateUnusable
from paceline.web.owner_call import call_owner
from servers import Answer, Server

ROW = list(digits.SAMPLE_ROW)
WAIT_S = 20.0
UPLOAD = (
    "POST /predict/digits HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    "content-length: 100000\r\nexpect: 100-continue\r\n"
)
V2 = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": ROW}],
}


def change(server: Server, knob: str, value: object, **more: object) -> Answer:
    return server.ask("POST", "/api/plan/set", {"knob": f"digits.{knob}", "value": value, **more})


def changed(server: Server, knob: str, value: object, **more: object) -> int:
    """The new version."""
    answer = change(server, knob, value, **more)
    assert answer.status == 200, answer
    return int(answer.json["version"])


def predict(server: Server, rows: int = 1, headers: Mapping[str, str] | None = None) -> Answer:
    return server.ask("POST", "/predict/digits", [ROW] * rows, headers)


def plan(server: Server) -> dict[str, Any]:
    answer = server.ask("GET", "/api/plan")
    assert answer.status == 200, answer
    shown: dict[str, Any] = answer.json
    return shown


def setting(server: Server, knob: str) -> object:
    return knobs(server)[knob]["setting"]


def knobs(server: Server) -> dict[str, dict[str, Any]]:
    return {each["knob"].partition(".")[2]: each for each in plan(server)["knobs"]}


def journal(server: Server, limit: int = 1000) -> list[dict[str, Any]]:
    """Newest first."""
    answer = server.ask("GET", f"/api/journal?limit={limit}")
    assert answer.status == 200, answer
    entries: list[dict[str, Any]] = answer.json["entries"]
    return entries


def requests_by(server: Server, priority: str) -> float:
    text = server.ask("GET", "/metrics").body.decode()
    return sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("paceline_requests_total{") and f'priority="{priority}"' in line
    )


def upload(server: Server, *headers: str) -> socket.socket:
    """A request whose body never ends, known to be in hand."""
    caller = socket.create_connection(("127.0.0.1", server.port), 20)
    caller.sendall(f"{UPLOAD}{''.join(each + chr(13) + chr(10) for each in headers)}\r\n".encode())
    assert b"100 Continue" in caller.recv(100)
    return caller


def until(what: str, comes: Callable[[], object]) -> None:
    """Asks again and again; each asking takes its time."""
    give_up_s = time.monotonic() + WAIT_S
    while not comes():
        assert time.monotonic() < give_up_s, f"waited {WAIT_S:.0f} s for {what}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "state", "--drain-s", "1") as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """For tests that leave it as good as they found it, whatever the version by then."""
    state = tmp_path_factory.mktemp("shared") / "state"
    with Server(state, "--fronts", "2", "--drain-s", "1") as running:
        until("both fronts", lambda: both_serve_by(running, 1))
        yield running


# --- Each knob ------------------------------------------------------------------------------------


def check_max_rows(server: Server) -> None:
    """As changed to 2."""
    refusal = predict(server, rows=3)
    assert (refusal.status, refusal.json["code"]) == (400, "bad_input")
    assert "2 rows" in refusal.json["error"]
    assert predict(server, rows=2).status == 200


def check_deadline_ms(server: Server) -> None:
    """As changed to 50, from the 30 s that nobody here waits."""
    with upload(server) as caller:
        assert b" 504 " in caller.recv(65536)


def check_max_in_flight(server: Server) -> None:
    """As changed to 1."""
    with upload(server, "x-timeout-ms: 20000"):  # its own timeout wins over the knob's
        refusal = predict(server)
        assert (refusal.status, refusal.json["code"]) == (503, "overloaded")
        assert "max_in_flight" in refusal.json["remedy"]
        assert server.ask("GET", "/health/ready").status == 200
    until("the room that was left", lambda: predict(server).status == 200)


def batches(server: Server, reason: str) -> float:
    text = server.ask("GET", "/metrics").body.decode()
    (count,) = re.findall(rf'^paceline_batches_total.*reason="{reason}"}} (.*)$', text, re.M)
    return float(count)


def check_max_batch(server: Server) -> None:
    """As changed to 2: as many rows are a full batch."""
    before = batches(server, "size reached")

    def is_full() -> bool:
        """For a while, on a busy machine, two rows at once may look slower than one."""
        assert predict(server, rows=2).status == 200
        return batches(server, "size reached") > before

    until("a full batch", is_full)


def check_batching(server: Server) -> None:
    """As changed to fixed: a single row waits for others, and nobody comes."""
    before = batches(server, "wait exceeded")
    assert predict(server, headers={"x-priority": "normal"}).status == 200
    assert batches(server, "wait exceeded") == before + 1


def check_priority(server: Server) -> None:
    """As changed to high: of requests that name none."""
    before, low = requests_by(server, "high"), requests_by(server, "low")
    assert predict(server).status == 200
    assert server.ask("POST", "/v2/models/digits/infer", V2).status == 200
    assert predict(server, headers={"x-priority": "low"}).status == 200
    assert requests_by(server, "high") == before + 2
    assert requests_by(server, "low") == low + 1


def check_enabled(server: Server) -> None:
    """As changed to false."""
    refusal = predict(server)
    assert (refusal.status, refusal.json["code"]) == (503, "unavailable")
    assert "digits.enabled true" in refusal.json["remedy"]
    assert server.ask("GET", "/health/ready").status == 200


def check_served(server: Server) -> None:
    """What the knob does can be seen only where models are slow: test_runner.py."""
    assert predict(server).status == 200


TURNED: dict[str, tuple[object, Callable[[Server], None]]] = {
    "max_batch": (2, check_max_batch),
    "batching": ("fixed", check_batching),
    "batch_cost": (100, check_served),
    "executors": (2, check_served),
    "isolate": ("never", check_served),
    "max_waiting": (50, check_served),
    "margin": (0.1, check_served),
    "max_rows": (2, check_max_rows),
    "max_in_flight": (1, check_max_in_flight),
    "priority": ("high", check_priority),
    "deadline_ms": (50, check_deadline_ms),
    "enabled": (False, check_enabled),
}


def test_each_knob_is_obeyed_at_once_and_after_a_restart(tmp_path: Path) -> None:
    with Server(tmp_path / "state") as server:
        assert set(knobs(server)) == set(TURNED)
        assert predict(server, rows=3).status == 200
        with upload(server):
            assert predict(server).status == 200
        assert requests_by(server, "high") == 0
        assert predict(server, rows=2).status == 200
        assert batches(server, "size reached") == batches(server, "wait exceeded") == 0
        for knob, (value, obeyed) in TURNED.items():
            version = changed(server, knob, value)
            obeyed(server)
            if knob != "enabled":
                assert predict(server).headers["x-plan-version"] == str(version)
        before = plan(server)
    with Server(tmp_path / "state") as server:
        assert plan(server) == before
        check_enabled(server)
        version = changed(server, "enabled", True)
        for knob, (_, obeyed) in TURNED.items():
            if knob != "enabled":
                obeyed(server)
        assert predict(server).headers["x-plan-version"] == str(version)


def test_a_priority_that_a_request_names_wins_over_the_plans(shared: Server) -> None:
    changed(shared, "priority", "low")
    before = [requests_by(shared, each) for each in ("low", "normal", "high", "critical")]
    for parameters in ({}, {"priority": 0}, {"priority": "normal"}):
        ask = {**V2, "parameters": parameters}
        assert shared.ask("POST", "/v2/models/digits/infer", ask).status == 200
    after = [requests_by(shared, each) for each in ("low", "normal", "high", "critical")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [2, 1, 0, 0]
    changed(shared, "priority", "normal")


def test_every_answer_of_a_model_names_the_version_it_was_made_by(shared: Server) -> None:
    connection = shared.connect()
    for rows in (1, 2, 3):
        version = str(changed(shared, "max_rows", rows))
        assert predict(shared, rows).headers["x-plan-version"] == version
        answer = shared.ask("POST", "/v2/models/digits/infer", V2)
        assert answer.headers["x-plan-version"] == version
        body, declared = json.dumps([ROW] * rows), {"content-type": "application/json"}
        connection.request("POST", "/predict/digits", body, declared)
        kept = connection.getresponse()
        kept.read()
        assert kept.getheader("x-plan-version") == version
    connection.close()


def test_what_the_command_line_sets_is_obeyed_at_once(shared: Server) -> None:
    before = batches(shared, "size reached")
    setting = ["plan", "set", "digits.max_batch", "1", "--state", str(shared.state)]
    assert run(setting) == EXIT_OK
    for _ in range(3):
        assert predict(shared).status == 200
    assert batches(shared, "size reached") == before + 3
    changed(shared, "max_batch", 64)


def test_what_is_so_already_makes_no_version(shared: Server) -> None:
    version = changed(shared, "max_rows", 7)
    again = change(shared, "max_rows", 7)
    assert (again.json["version"], again.json["seq"]) == (version, None)
    assert predict(shared).headers["x-plan-version"] == str(version)


def test_an_adjustment_is_obeyed_by_all_and_leaves_the_version(shared: Server) -> None:
    version = changed(shared, "max_rows", 9)
    answer = shared.ask("POST", "/api/plan/adjust", {"knob": "digits.max_rows", "value": 2})
    assert (answer.status, answer.json["version"]) == (200, version)
    for _ in range(4):
        check_max_rows(shared)
        assert predict(shared).headers["x-plan-version"] == str(version)
    version = changed(shared, "max_rows", 8)
    assert predict(shared, rows=8).headers["x-plan-version"] == str(version)


# --- Fronts that refuse ---------------------------------------------------------------------------

PLANTED = """
import sys
if "_front" in sys.orig_argv:
    import asyncio, time
    from paceline.terms.errors import BadValue
    from paceline.web.inference import Inference
    made, prepared = Inference.__init__, Inference.prepare
    def remember(self, models, board, clock, reader, front=0, *more):
        made(self, models, board, clock, reader, front, *more)
        self.front = front
    def prepare(self, plan):
        if self.front == 1 and plan.settings["digits.max_rows"] == 13:
            raise BadValue("it brings bad luck", value=13, remedy="Take 12.")
        if self.front == 1 and plan.settings["digits.max_rows"] == 14:
            raise ZeroDivisionError
        if self.front == 1 and plan.settings["digits.max_rows"] == 15:
            asyncio.get_running_loop().call_soon(time.sleep, 0.3)
        return prepared(self, plan)
    Inference.__init__, Inference.prepare = remember, prepare
"""


def planted(tmp_path: Path, code: str) -> dict[str, str]:
    """The environment in which every Python runs this at its start."""
    (tmp_path / "sitecustomize.py").write_text(code)
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def test_a_plan_that_one_front_refuses_is_nobodys(tmp_path: Path) -> None:
    """Also where it refuses by a bug: the owner must get its answers in order all the same."""
    environ = planted(tmp_path, PLANTED)
    with Server(tmp_path / "state", "--fronts", "2", environ=environ) as server:
        version = changed(server, "max_rows", 5)
        until("both fronts", lambda: both_serve_by(server, version))
        before, entries = plan(server), journal(server)
        for value, why in ((13, "it brings bad luck"), (14, "ZeroDivisionError")):
            refusal = change(server, "max_rows", value)
            assert (refusal.status, refusal.json["code"]) == (409, "plan_refused")
            assert why in refusal.json["error"]
            assert "front 1" in refusal.json["error"]
            assert plan(server) == before
            assert journal(server) == entries
            assert both_serve_by(server, version)
        assert changed(server, "max_rows", 12) == version + 1
        assert both_serve_by(server, version + 1)
        # One that takes its time is waited for. Asked past the fronts, which would wait as well.
        body = msgspec.json.encode({"knob": "digits.max_rows", "value": 15})
        call_owner(server.state, "POST", "/api/plan/set", body)
        measured = call_owner(server.state, "GET", "/metrics")
        assert measured is not None
        text = measured.body.decode()
        assert f'paceline_plan_version{{front="1"}} {version + 2}.0' in text
    assert server.log.read_text().count("a plan could not be prepared") == 1


def both_serve_by(server: Server, version: int) -> bool:
    text = server.ask("GET", "/metrics").body.decode()
    return all(f'paceline_plan_version{{front="{n}"}} {version}.0' in text for n in (0, 1))


# --- Callers who leave ----------------------------------------------------------------------------


def test_a_caller_who_leaves_has_changed_all_of_it_or_nothing(shared: Server) -> None:
    """Cut off in the head, in the body, and at once after the last byte."""
    version = plan(shared)["version"]
    for number in range(30):
        body = json.dumps({"knob": "digits.max_rows", "value": 100 + number}).encode()
        head = (
            b"POST /api/plan/set HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        sent = (head + body)[: [len(head) - 5, len(head) + 5, None][number % 3]]
        leave(shared, sent, reset=number % 2 == 0)
    until("the last of them", lambda: in_flight(shared) == 1)  # the one that asks
    state, entries = plan(shared), [each["body"] for each in journal(shared)]
    assert state["version"] <= version + 10
    changes = [each for each in entries if each["type"] == "plan_changed"]
    assert [each["version"] for each in changes] == list(range(state["version"], 0, -1))
    assert changes[0]["hash"] == state["hash"]
    for each in changes[: state["version"] - version]:
        (step,) = each["change"]["diff"]
        assert (step["after"]["value"] - 100) % 3 == 2  # the others cannot have happened
    assert both_serve_by(shared, state["version"])
    assert predict(shared).headers["x-plan-version"] == str(state["version"])


def in_flight(server: Server) -> int:
    return int(server.ask("GET", "/api/status").json["in_flight"])


def leave(server: Server, sent: bytes, *, reset: bool) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 20) as caller:
        if reset:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        caller.sendall(sent)


# --- Settings read again --------------------------------------------------------------------------


@contextmanager
def configured(tmp_path: Path, text: str, *options: str) -> Iterator[tuple[Server, Path]]:
    file = tmp_path / "paceline.toml"
    file.write_text(text)
    state = str(tmp_path / "state")
    with Server(Path(state), "--config", str(file), "--drain-s", "1", *options) as server:
        yield server, file


@pytest.fixture(scope="module")
def configured_once(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Server, Path]]:
    with configured(tmp_path_factory.mktemp("configured"), "") as both:
        yield both


@pytest.fixture
def settled(configured_once: tuple[Server, Path]) -> tuple[Server, Path]:
    """A server whose file is empty, and whose Plan is as it began, whatever the version by now."""
    server, file = configured_once
    file.write_text("")
    assert reload(server).status == 200
    assert server.ask("POST", "/api/plan/rollback", {"version": 1}).status == 200
    return server, file


def reload(server: Server) -> Answer:
    return server.ask("POST", "/api/config/reload")


def hang_up(server: Server) -> None:
    server.process.send_signal(signal.SIGHUP)


PINNED = '[models.digits]\ngoal = ["p95_ms <= 30"]\n\n[models.digits.pins]\nmax_rows = 3\n'


@pytest.mark.parametrize("how", [reload, hang_up])
def test_pins_and_goals_take_effect_when_they_are_read_again(
    settled: tuple[Server, Path], how: Callable[[Server], object]
) -> None:
    server, file = settled
    version, entries = plan(server)["version"], len(journal(server))
    logged = len(server.log.read_text())
    file.write_text(PINNED)
    how(server)
    until("the pin", lambda: plan(server)["version"] == version + 1)
    until("the word", lambda: "goal of digits: p95_ms <= 30" in server.log.read_text()[logged:])
    shown = plan(server)
    assert shown["goals"] == {"digits": ["p95_ms <= 30"]}
    assert predict(server, rows=4).status == 400
    assert predict(server, rows=3).headers["x-plan-version"] == str(version + 1)
    pinned = change(server, "max_rows", 9)
    assert (pinned.status, pinned.json["code"]) == (409, "pinned")
    assert f"{file}:5" in pinned.json["error"]
    file.write_text("\n\n" + PINNED.replace('["p95_ms <= 30"]', '["p95_ms <= 20"]'))
    how(server)
    until("the goal", lambda: plan(server)["goals"] == {"digits": ["p95_ms <= 20"]})
    assert f"{file}:7" in change(server, "max_rows", 9).json["error"]  # where it stands now
    assert plan(server)["version"] == version + 1
    file.write_text("")
    how(server)
    until("the end of the pin", lambda: plan(server)["version"] == version + 2)
    assert plan(server)["goals"] == {}
    assert predict(server, rows=4).status == 200
    assert change(server, "max_rows", 9).status == 200
    whys = [each["who"] for each in journal(server)[:-entries]]
    assert ("SIGHUP" in whys) == (how is hang_up)


def test_an_objective_gives_deadlines_from_when_it_is_read_until_it_is_gone(
    settled: tuple[Server, Path],
) -> None:
    server, file = settled
    version = plan(server)["version"]
    file.write_text('[models.digits]\ngoal = ["p99_ms <= 0.0001"]\n')
    assert reload(server).status == 200
    for priority in ("low", "critical"):
        refusal = predict(server, headers={"x-priority": priority})
        assert (refusal.status, refusal.json["code"]) == (504, "deadline_exceeded")
        assert "digits needs about" in refusal.json["error"]
    file.write_text('[models.digits]\ngoal = ["p99_ms <= 10000"]\n')
    assert reload(server).status == 200
    assert predict(server).headers["x-plan-version"] == str(version)


BAD = {
    "not TOML": ("[models.digits.pins]\nmax_rows = 2\nenabled =\n", 3, "not TOML"),
    "unknown": ("[models.digits.pins]\nmax_rows = 2\nmax_row = 2\n", 3, "max_row"),
    "a bad value": ("[models.digits.pins]\nmax_rows = 4096\n", 2, "max_rows = 4096"),
    "a bad goal": ('[models.digits]\ngoal = ["p95_msec <= 3"]\n', 2, "p95_msec"),
}


def test_a_bad_file_changes_nothing_and_says_where_it_is_bad(settled: tuple[Server, Path]) -> None:
    server, file = settled
    file.write_text(PINNED)
    assert reload(server).status == 200
    before, entries, settings = plan(server), journal(server), config(server)
    for text, line, word in BAD.values():
        file.write_text(text)
        refusal = reload(server)
        assert (refusal.status, refusal.json["code"]) == (400, "bad_setting")
        assert f"{file}:{line}" in refusal.json["error"]
        assert word in json.dumps(refusal.json)
        seen = len(server.log.read_text())
        hang_up(server)
        until("the log", lambda: "stay as they are" in server.log.read_text()[seen:])  # noqa: B023
        said = server.log.read_text()[seen:]
        assert f"{file}:{line}" in said
        assert word in said
        assert (plan(server), journal(server), config(server)) == (before, entries, settings)
    assert predict(server, rows=4).status == 400
    file.unlink()
    refusal = reload(server)
    assert (refusal.status, refusal.json["code"]) == (400, "bad_setting")
    assert refusal.json["value"] == str(file)
    assert (plan(server), config(server)) == (before, settings)
    file.write_text("")
    assert reload(server).status == 200
    assert predict(server, rows=4).status == 200


def config(server: Server) -> dict[str, Any]:
    shown: dict[str, Any] = server.ask("GET", "/api/config").json
    return shown


def test_a_pin_of_run_time_comes_back_from_under_the_files(settled: tuple[Server, Path]) -> None:
    server, file = settled
    body = {"knob": "digits.max_rows", "value": 5, "reason": "for the weekend"}
    assert server.ask("POST", "/api/plan/pin", body).status == 200
    assert "unpin" in change(server, "max_rows", 9).json["remedy"]
    file.write_text(PINNED)
    assert reload(server).status == 200
    assert setting(server, "max_rows") == 3
    for call, more in (("pin", {"value": 4}), ("unpin", {}), ("set", {"value": 4})):
        asked = {"knob": "digits.max_rows", **more}
        refusal = server.ask("POST", f"/api/plan/{call}", asked)
        assert (refusal.status, refusal.json["code"]) == (409, "pinned")
        assert f"{file}:5" in refusal.json["error"]
    file.write_text("")
    assert reload(server).status == 200
    assert setting(server, "max_rows") == 5
    assert change(server, "max_rows", 9).json["code"] == "pinned"
    assert server.ask("POST", "/api/plan/unpin", {"knob": "digits.max_rows"}).status == 200
    assert setting(server, "max_rows") == 1024


def test_a_rollback_leaves_the_pins_of_the_file(settled: tuple[Server, Path]) -> None:
    server, file = settled
    free = changed(server, "max_rows", 50)
    file.write_text(PINNED)
    assert reload(server).status == 200
    changed(server, "deadline_ms", 900)
    assert server.ask("POST", "/api/plan/rollback", {"version": free}).status == 200
    assert (setting(server, "max_rows"), setting(server, "deadline_ms")) == (3, 30000)


def test_logging_changes_in_owner_and_fronts_and_in_fronts_to_come(tmp_path: Path) -> None:
    with configured(tmp_path, '[server]\nlog_level = "error"\n', "--fronts", "1") as (server, file):
        predict(server)
        assert server.log.read_text() == ""
        file.write_text('[server]\nlog_level = "debug"\naccess_log = true\n')
        view = reload(server).json
        assert view["changed"] == [
            'server.log_level "error" → "debug"',
            "server.access_log false → true",
        ]
        assert view["needs_restart"] == []
        assert "settings were read again" in server.log.read_text()
        logged = server.log.read_text().count("path=/predict/digits")
        predict(server)
        until("the line", lambda: predictions_logged(server) > logged)
        os.kill(server.fronts[0], signal.SIGKILL)
        predict(server)
        until("the line", lambda: predictions_logged(server) > logged + 1)
        assert "front ready" in server.log.read_text()
        # A front that is starting has its orders already, and no log yet.
        file.write_text('[server]\nlog_level = "debug"\n')
        victims = server.fronts
        os.kill(victims[0], signal.SIGKILL)
        until("the next process", lambda: server.fronts and server.fronts != victims)
        call_owner(server.state, "POST", "/api/config/reload")
        logged = predictions_logged(server)
        assert predict(server).status == 200
        assert server.ask("GET", "/api/status").status == 200
        assert predictions_logged(server) == logged
        # A front ended, and alerts are told there too.
        bodies = [each["body"] for each in journal(server)]
        said = next(body["changes"] for body in bodies if "changes" in body)
        assert said == ["server.access_log true → false"]


def predictions_logged(server: Server) -> int:
    return server.log.read_text().count("path=/predict/digits")


def test_what_needs_a_restart_is_named_and_waits_for_it(settled: tuple[Server, Path]) -> None:
    """Also in a front that starts after the reload: it must not be the only one to ask for keys."""
    server, file = settled
    file.write_text("[server]\nrequire_keys = true\nfronts = 2\ndrain_s = 2\n")
    view = reload(server).json
    assert view["needs_restart"] == ["fronts", "require_keys"]
    front = server.fronts[0]
    os.kill(front, signal.SIGKILL)
    answer = predict(server)
    assert answer.status == 200
    assert front not in server.fronts
    assert len(server.fronts) == 1
    assert reload(server).json["needs_restart"] == ["fronts", "require_keys"]


def test_of_many_reloads_at_once_the_last_holds(settled: tuple[Server, Path]) -> None:
    """Logging and pins of one file, whichever reload was asked for in between."""
    levels = itertools.cycle(["debug", "info", "warning"])
    server, file = settled
    before_it = len(journal(server))
    connections = [server.connect() for _ in range(8)]
    for number in range(12):
        for connection in connections:
            number += 1
            file.write_text(
                f'[server]\nlog_level = "{next(levels)}"\n'
                f"[models.digits.pins]\nmax_rows = {number % 5 + 1}\n"
            )
            connection.request("POST", "/api/config/reload")
        for connection in connections:
            response = connection.getresponse()
            assert response.status == 200, response.read()
            response.read()
    file.write_text('[server]\nlog_level = "info"\n[models.digits.pins]\nmax_rows = 9\n')
    assert reload(server).status == 200
    since = reversed(journal(server)[:-before_it])
    entries = [each for each in since if each["kind"] == "settings_changed"]
    told = [each["body"]["changes"][0] for each in entries]
    for before, after in itertools.pairwise(told):
        assert before.rpartition("→ ")[2] == after.split()[1], told
    assert told[-1].endswith('→ "info"')
    assert setting(server, "max_rows") == 9
    for connection in connections:
        connection.close()


# --- Terminals ------------------------------------------------------------------------------------

IN_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may have ignored it
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@contextmanager
def in_terminal(server: Server, *before: str) -> Iterator[int]:
    """The server's command in a terminal of its own, whose other end is given."""
    ours, theirs = os.openpty()
    started = subprocess.Popen

    def start(command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        options["start_new_session"] = False
        wrapped = [sys.executable, "-c", IN_TERMINAL, *before, *command]
        return started(wrapped, stdin=theirs, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(subprocess, "Popen", start)
        server.__enter__()
    os.close(theirs)
    try:
        yield ours
    finally:
        with suppress(OSError):
            os.close(ours)
        server.__exit__(*sys.exc_info())


def test_the_end_of_the_terminal_drains_however_often_it_is_told(tmp_path: Path) -> None:
    """The kernel tells the foreground, and an interactive shell tells its jobs once more."""
    server = Server(tmp_path / "state", "--drain-s", "1")
    with in_terminal(server) as terminal, upload(server) as unfinished:
        os.close(terminal)
        until("the stop", lambda: "the terminal was closed" in server.log.read_text())
        hang_up(server)
        assert b" 503 " in unfinished.recv(65536)
        assert server.process.wait(10) == 0
    assert "at once" not in server.log.read_text()


@pytest.mark.slow
def test_a_hang_up_with_a_terminal_that_is_there_reads_the_settings_again(tmp_path: Path) -> None:
    server = Server(tmp_path / "state", "--drain-s", "1")
    with in_terminal(server) as terminal:
        termios.tcgetattr(terminal)
        hang_up(server)
        until("the reload", lambda: "settings were read again" in server.log.read_text())
        assert predict(server).status == 200


@pytest.mark.slow
def test_under_nohup_the_end_of_the_terminal_is_not_the_servers(tmp_path: Path) -> None:
    server = Server(tmp_path / "state", "--drain-s", "1")
    with in_terminal(server, "nohup") as terminal:
        os.close(terminal)
        hang_up(server)
        until("the reload", lambda: "settings were read again" in server.log.read_text())
        assert predict(server).status == 200
    assert "terminal" not in server.log.read_text()


JOB = """
import os, signal, sys
job = os.fork()
if not job:
    os.setpgid(0, 0)
    os.execvp(sys.argv[2], sys.argv[2:])
pass_on = lambda number, frame: os.kill(job, number)
signal.signal(signal.SIGTERM, pass_on)
signal.signal(signal.SIGHUP, pass_on if sys.argv[1] == "tells" else lambda number, frame: None)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(job, 0)[1]))
"""
SHELL = (sys.executable, "-c", JOB)
"""Starts a job in the background; tells it of a hang-up, or has disowned it."""


@pytest.mark.parametrize("shells", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_shell_that_is_hung_up_on_stops_its_server(tmp_path: Path, shells: int) -> None:
    server = Server(tmp_path / "state", "--drain-s", "1")
    with in_terminal(server, *(*SHELL, "tells") * shells) as terminal:
        os.close(terminal)
        assert server.process.wait(10) == 0
    assert "the terminal was closed" in server.log.read_text()


@pytest.mark.slow
def test_a_disowned_server_outlives_its_terminal_and_reads_settings_when_told(
    tmp_path: Path,
) -> None:
    server = Server(tmp_path / "state", "--drain-s", "1")
    with in_terminal(server, *SHELL, "disowned") as terminal:
        (owner,) = server.fronts  # the children of what stands for the shell
        os.close(terminal)
        for times in (1, 2):
            os.kill(owner, signal.SIGHUP)
            until("the reload", lambda: read_again(server) == times)  # noqa: B023
        assert predict(server).status == 200
    assert "terminal" not in server.log.read_text()


def read_again(server: Server) -> int:
    return server.log.read_text().count("settings were read again")


# --- Journals that cannot be used -----------------------------------------------------------------


def up(state: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "paceline", "up", "--port", "0", "--state", str(state)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def newer(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def emptied_but_for_a_page(file: Path) -> None:
    os.truncate(file, 4096)


def foreign(file: Path) -> None:
    file.unlink()
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE songs (name TEXT)")
    database.close()


def no_database(file: Path) -> None:
    file.write_text("Dear diary,\n" * 1000)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What commands left that are done."""
    state = tmp_path_factory.mktemp("left") / "state"
    for value in "12345":
        assert run(["plan", "set", "digits.max_rows", value, "--state", str(state)]) == EXIT_OK
    return state


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (newer, "a newer Paceline wrote the journal"),
        pytest.param(truncated, "damaged", marks=pytest.mark.slow),
        (emptied_but_for_a_page, "damaged"),
        pytest.param(foreign, "no journal of Paceline's", marks=pytest.mark.slow),
        (no_database, "not a database"),
    ],
)
def test_a_journal_that_cannot_be_used_stops_the_start(
    left: Path, tmp_path: Path, harm: Callable[[Path], None], words: str
) -> None:
    shutil.copytree(left, tmp_path / "state")
    file = tmp_path / "state" / "journal.db"
    harm(file)
    content = file.read_bytes()
    refusal = up(tmp_path / "state")
    assert refusal.returncode == EXIT_STATE, refusal
    assert words in refusal.stderr
    assert str(file) in refusal.stderr
    assert "Traceback" not in refusal.stderr
    assert file.read_bytes() == content


def test_a_state_directory_has_one_server(shared: Server) -> None:
    refusal = up(shared.state)
    assert refusal.returncode == EXIT_STATE
    assert f"process {shared.process.pid} at {shared.address}" in refusal.stderr
    assert shared.ask("GET", "/api/journal?limit=1").status == 200


def deleted(state: Path) -> None:
    (state / "journal.db").unlink()


def log_deleted(state: Path) -> None:
    (state / "journal.db-wal").unlink()


def replaced(state: Path) -> None:
    shutil.copy(state / "journal.db", state / "copy")
    (state / "copy").rename(state / "journal.db")


def cut(state: Path) -> None:
    os.truncate(state / "journal.db", 0)


def log_cut(state: Path) -> None:
    os.truncate(state / "journal.db-wal", 0)


@pytest.mark.parametrize("harm", [deleted, log_deleted, replaced, cut, log_cut])
def test_nothing_is_acknowledged_into_a_journal_that_nobody_finds_again(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    store = SqliteStore.open(tmp_path)
    store.append([to_record(Entry(1, 0.0, "a test", SettingsChanged(("one",))))])
    harm(tmp_path)
    for _ in range(2):
        with pytest.raises(StateUnusable, match="while it was in use"):
            store.append([to_record(Entry(2, 0.0, "a test", SettingsChanged(("two",))))])
    store.close()


def test_a_journal_that_is_moved_away_refuses_until_it_is_put_back(tmp_path: Path) -> None:
    with Server(tmp_path / "state", "--drain-s", "1") as server:
        version = changed(server, "max_rows", 5)
        before = plan(server)
        file = server.state / "journal.db"
        file.rename(server.state / "away")
        refusal = change(server, "max_rows", 6)
        assert (refusal.status, refusal.json["code"]) == (503, "state_unusable")
        assert "while it was in use" in refusal.json["error"]
        assert refusal.json["value"] == str(file)
        assert plan(server) == before
        assert predict(server).headers["x-plan-version"] == str(version)
        (server.state / "away").rename(file)
        assert changed(server, "max_rows", 6) == version + 1
    assert load(SqliteReader(tmp_path / "state"))[0].plan.version == version + 1


def test_a_program_that_tidies_the_journal_up_is_no_harm(shared: Server) -> None:
    """The log shrinks as it does where somebody cuts it; but nothing is lost."""
    version = changed(shared, "max_rows", 5)
    with sqlite3.connect(shared.state / "journal.db") as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    assert (shared.state / "journal.db-wal").stat().st_size == 0
    assert changed(shared, "max_rows", 6) == version + 1


def test_a_disk_that_refuses_changes_nothing_and_may_come_round(shared: Server) -> None:
    """Writes beyond a limit on the size of files fail, as they do where a disk went read-only."""
    version = changed(shared, "max_rows", 5)
    before, entries = plan(shared), journal(shared)
    owner = psutil.Process(shared.process.pid)
    limits = owner.rlimit(psutil.RLIMIT_FSIZE)
    owner.rlimit(psutil.RLIMIT_FSIZE, (1, limits[1]))
    for value in (6, 7):
        refusal = change(shared, "max_rows", value)
        assert (refusal.status, refusal.json["code"]) == (503, "state_unusable")
        assert "disk I/O error" in refusal.json["error"]
    assert predict(shared).headers["x-plan-version"] == str(version)
    assert (plan(shared), journal(shared)) == (before, entries)
    owner.rlimit(psutil.RLIMIT_FSIZE, limits)
    assert changed(shared, "max_rows", 6) == version + 1
