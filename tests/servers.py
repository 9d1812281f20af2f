"""A real server for tests: started as a user starts it, asked over HTTP, stopped by a signal."""

import http.client
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

START_S = 60
STOP_S = 30


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """`with Server(state) as server:` runs `paceline up` on a free port and insists on exit 0."""

    def __init__(
        self,
        state: Path,
        *options: str,
        port: int = 0,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.state = state
        self.expected_status = 0
        self._port = port
        self.log = state.parent / f"{state.name}.log"
        self._options = options
        self._environ = {**os.environ, **(environ or {})}

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "paceline", "up", "--port", str(self._port), "--json"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--state", str(self.state), *self._options],
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environ,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        says, _, _ = select.select([self.process.stdout], [], [], START_S)
        line = self.process.stdout.readline() if says else b""
        if not line:
            self.stop(signal.SIGKILL)
            raise AssertionError(f"the server did not start:\n{self.log.read_text()}")
        self.about = json.loads(line)
        self.address: str = self.about["address"]
        self.port = int(self.address.rpartition(":")[2])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        status = self.stop()
        if error is None:
            assert status == self.expected_status, f"exit status {status}:\n{self.log.read_text()}"

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends the signal unless it has ended, and returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_S)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()

    @property
    def fronts(self) -> list[int]:
        """The pids of the front processes, in the order they were started."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def connect(self, timeout_s: float = 10.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        raw: bytes | None = None,
        timeout_s: float = 10.0,
    ) -> Answer:
        """One request on a connection of its own; `body` goes as JSON, `raw` as it is."""
        sent = dict(headers or {})
        data = raw
        if body is not None:
            data = json.dumps(body).encode()
            sent.setdefault("content-type", "application/json")
        connection = self.connect(timeout_s)
        try:
            connection.request(method, path, data, sent)
            response = connection.getresponse()
            seen = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, seen, response.read())
        finally:
            connection.close()
