"""Alerts of a running server: found, told over loopback, acknowledged, and remembered by the next.

A front is killed: that is an alert at once. The receiver is a program of the test's own.
"""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from servers import Server
from test_cli import here

RESTARTS = "restarts:host"


class Receiver:
    """Hears webhooks; `down` answers 503."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.down = False


@contextmanager
def receiving() -> Iterator[tuple[Receiver, str]]:
    ear = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if not ear.down:
                ear.heard.append(json.loads(body))
            self.send_response(503 if ear.down else 204)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *given: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield ear, f"http://127.0.0.1:{server.server_address[1]}/hook"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def settings(folder: Path, url: str) -> list[str]:
    file = folder / "paceline.toml"
    file.write_text(f'[channels.ops]\nurl = "{url}"\nprivate = true\n')
    return ["--config", str(file)]


def alerts(server: Server) -> dict[str, Any]:
    told = server.ask("GET", "/api/alerts").json
    return {each["id"]: each for each in told["alerts"]}


def waiting(server: Server) -> dict[str, int]:
    told = server.ask("GET", "/api/alerts").json
    return {each["name"]: each["waiting"] for each in told["channels"]}


def until(server: Server, true: Callable[[], Any]) -> Any:
    """Asked with each status of the live stream, so once a second."""
    connection = server.connect(timeout_s=20.0)
    try:
        connection.request("GET", "/api/events")
        stream = connection.getresponse()
        for _ in range(60):
            while stream.readline().strip():
                pass
            found = true()
            if found:
                return found
    finally:
        connection.close()
    raise AssertionError(f"it never came:\n{server.log.read_text()}")


def test_a_killed_front_is_an_alert_that_is_told_and_outlives_a_killed_owner(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    with receiving() as (ear, url):
        options = settings(tmp_path, url)
        ear.down = True
        with Server(state, *options) as server:
            server.expected_status = -signal.SIGKILL
            os.kill(server.fronts[0], signal.SIGKILL)
            alert = until(server, lambda: alerts(server).get(RESTARTS))
            assert alert["state"] == "firing"
            assert alert["severity"] == "warning"
            for words in ("cause", "value", "what_to_do"):
                assert alert[words]
            done = server.ask("POST", "/api/alerts/acknowledge", {"alert": RESTARTS, "note": "me"})
            assert done.json["alert"]["state"] == "acknowledged"
            silence = server.ask("POST", "/api/silences", {"matches": "disk:*", "for_s": 600}).json
            assert server.ask("GET", "/api/status").json["alerts"][0]["id"] == RESTARTS
            assert "paceline_open_alerts{" in server.ask("GET", "/metrics").body.decode()
            assert waiting(server)["ops"] == 1
            server.stop(signal.SIGKILL)
        ear.down = False
        with Server(state, *options) as server:
            assert alerts(server)[RESTARTS]["note"] == "me"
            assert server.ask("GET", "/api/silences").json["silences"] == [silence]
            until(server, lambda: not waiting(server)["ops"])
            (message,) = ear.heard
            (notice,) = message["notices"]
            assert (notice["alert"], notice["what"]) == (RESTARTS, "fired")

            file = tmp_path / "paceline.toml"
            file.write_text(
                file.read_text().replace("ops", "boss")
                + "[alerts]\nthresholds = true\n[rules.restarts]\nwarning = 2\n"
            )
            told = server.ask("POST", "/api/config/reload", {}).json
            assert told["needs_restart"] == []
            assert {"rules.restarts", "rules.memory", "channels.boss"} <= {*told["changed"]}
            assert waiting(server).keys() == {"log", "boss"}
            file.write_text(file.read_text() + '[channels.x]\nurl_env = "NOT_THERE"\n')
            refused = server.ask("POST", "/api/config/reload", {})
            assert refused.status >= 400
            assert b"NOT_THERE" in refused.body
            assert waiting(server).keys() == {"log", "boss"}


@pytest.mark.parametrize("text", ["2", "0d", "31d", "40h", "-1h"])
def test_a_silence_lasts_a_time_that_makes_sense(tmp_path: Path, text: str) -> None:
    state = tmp_path / "s"
    done = here("alerts", "silence", "*", "--for", text, "--state", str(state))
    assert done.returncode == 2
    assert not state.exists()
