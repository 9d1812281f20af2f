"""A root, a process that is number 1 in it, and a network of its own: a container without an engine.

Made with bubblewrap, so it needs root and /usr of this machine. Used to start what `deploy/`
promises: the container's command, and systemd with the unit.
"""

import ctypes
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from servers import Answer

PYTHON = Path(sys.base_prefix)
BASE_PATH = "/usr/local/bin:/usr/bin:/bin"
ETC = ("passwd", "group", "nsswitch.conf", "ld.so.cache")
STOP_S = 30


def bare_root(root: Path) -> Path:
    """The directories and the Python that every image has, without /usr, which in_root adds."""
    for name in ("usr", "etc", "home", "proc", "dev", "sys", "run", "tmp", "var/lib"):
        (root / name).mkdir(parents=True)
    (root / str(PYTHON).lstrip("/")).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ETC:
        shutil.copy(Path("/etc") / name, root / "etc")
    local = root / "usr" / "local"
    if Path("/usr/local") == PYTHON:
        shutil.copytree(PYTHON, local, symlinks=True)
    else:
        (local / "bin").mkdir(parents=True)
        (local / "lib").mkdir()
        python = local / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec {getattr(sys, "_base_executable", "")} "$@"\n')
        python.chmod(0o755)
    root.chmod(0o755)
    return root


def in_root(root: Path, *, writable: bool) -> list[str]:
    """Options for bwrap: this directory as the root, completed by what the machine lends."""
    bind = "--bind" if writable else "--ro-bind"
    lent = [] if PYTHON.is_relative_to("/usr") else ["--ro-bind", str(PYTHON), str(PYTHON)]
    return [
        *(bind, str(root), "/"),
        *("--ro-bind", "/usr", "/usr"),
        *(bind, str(root / "usr" / "local"), "/usr/local"),
        *lent,
        *("--proc", "/proc", "--dev", "/dev"),
    ]


class Sandbox:
    """`with Sandbox(...) as box` starts the command as process 1; leaving kills all that is left."""

    def __init__(
        self,
        options: Sequence[str],
        command: Sequence[str],
        environ: Mapping[str, str],
        log: Path,
        user: int = 0,
    ) -> None:
        self._options = options
        self._command = command
        self._environ = dict(environ)
        self._log = log
        self._user = user

    def __enter__(self) -> Self:
        told, telling = os.pipe()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *("bwrap", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
                    *("--unshare-cgroup-try", "--as-pid-1", "--die-with-parent"),
                    *("--info-fd", str(telling), *self._options, *self._as_user(), *self._command),
                ],
                env=self._environ,
                pass_fds=[telling],
                stdout=subprocess.PIPE,
                stderr=log,
                umask=0o022,
            )
        os.close(telling)
        with os.fdopen(told) as info:
            said = info.read()
        assert said, self.log
        self.pid: int = json.loads(said)["child-pid"]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)  # all others in there die with it
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()

    def _as_user(self) -> list[str]:
        """As an engine starts a container with --cap-drop ALL and no-new-privileges."""
        if not self._user:
            return []
        ids = [f"--reuid={self._user}", f"--regid={self._user}", "--clear-groups"]
        return ["setpriv", *ids, "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]

    @property
    def log(self) -> str:
        return self._log.read_text()

    def line(self) -> str:
        """The next line of its standard output; empty when it has ended."""
        assert self.process.stdout
        return self.process.stdout.readline().decode()

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command beside process 1, as the same user."""
        enter = ["nsenter", "--target", str(self.pid), "--all"]
        return subprocess.run(
            [*enter, *self._as_user(), *command], env=self._environ, capture_output=True, text=True
        )

    def stop(self) -> int:
        """SIGTERM to process 1; its exit status."""
        os.kill(self.pid, signal.SIGTERM)
        return self.process.wait(STOP_S)

    def ask(
        self, port: int, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.sock = self._connect(port)
        sent = {"content-type": "application/json", **(headers or {})}
        connection.request("POST" if body else "GET", path, json.dumps(body).encode(), sent)
        response = connection.getresponse()
        seen = {name.lower(): value for name, value in response.getheaders()}
        answer = Answer(response.status, seen, response.read())
        connection.close()
        return answer

    def _connect(self, port: int) -> socket.socket:
        """A socket stays in the network it was made in; only the thread that makes it goes there."""

        def inside() -> socket.socket:
            network = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
            failed = ctypes.CDLL(None, use_errno=True).setns(network, 0)
            os.close(network)
            assert not failed, os.strerror(ctypes.get_errno())
            return socket.create_connection(("127.0.0.1", port), timeout=10)

        with ThreadPoolExecutor(1) as visitor:
            return visitor.submit(inside).result()
