"""A root, a process that is number 1 in it, a network of its own: a container without an engine.

Made with bubblewrap out of this machine's /usr and Python. Used to start what `deploy/` promises:
the container's command, and the unit, under a systemd that is process 1 here and sees nothing else.
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
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from servers import Answer

PYTHON = Path(sys.base_prefix)
PYTHON_COMMAND: str = getattr(sys, "_base_executable", sys.executable)
BASE_PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ETC = ("passwd", "group", "nsswitch.conf", "ld.so.cache")
PORT = 8080
BOOT_S = 60
STOP_S = 30


def bare_root(root: Path) -> Path:
    """The directories and the Python that every image has, without /usr, which in_root adds."""
    for name in ("usr", "etc", "home", "mnt", "proc", "dev", "sys", "run", "tmp", "var/lib"):
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
        python.write_text(f'#!/bin/sh\nexec {PYTHON_COMMAND} "$@"\n')
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


def exchange(
    connection: http.client.HTTPConnection,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """A GET, or a POST of JSON where there is a body; closes the connection."""
    data = None if body is None else json.dumps(body).encode()
    sent = {} if body is None else {"content-type": "application/json"}
    connection.request("GET" if data is None else "POST", path, data, {**sent, **(headers or {})})
    response = connection.getresponse()
    seen = {name.lower(): value for name, value in response.getheaders()}
    answer = Answer(response.status, seen, response.read())
    connection.close()
    return answer


class Sandbox:
    """`with Sandbox(...) as box` starts the command as process 1; leaving kills what is left."""

    def __init__(
        self,
        options: Sequence[str],
        command: Sequence[str],
        environ: Mapping[str, str],
        log: Path,
        *,
        user: int = 0,
        cgroup: Path | None = None,
    ) -> None:
        self._options = options
        self._command = command
        self._environ = dict(environ)
        self._log = log
        self._user = user
        self._cgroup = cgroup

    def __enter__(self) -> Self:
        told, telling = os.pipe()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *self._in_cgroup(),
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

    def _in_cgroup(self) -> list[str]:
        if not self._cgroup:
            return []
        return ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self._cgroup / "cgroup.procs")]

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

    def wait(self) -> int:
        return self.process.wait(STOP_S)

    def stop(self) -> int:
        """SIGTERM to process 1; its exit status."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait()

    def ask(
        self, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", PORT)
        connection.sock = self._connect()
        return exchange(connection, path, body, headers)

    def _connect(self) -> socket.socket:
        """A socket stays in the network it was made in, so only a thread need go there."""

        def inside() -> socket.socket:
            network = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
            failed = ctypes.CDLL(None, use_errno=True).setns(network, 0)
            os.close(network)
            assert not failed, os.strerror(ctypes.get_errno())
            return socket.create_connection(("127.0.0.1", PORT), timeout=10)

        with ThreadPoolExecutor(1) as visitor:
            return visitor.submit(inside).result()


@contextmanager
def booted(root: Path, etc: Path, place: Path) -> Iterator[Sandbox]:
    """systemd in this root, with this /etc, once all that is enabled there has been started."""
    (place / "notify").mkdir()
    (place / "console").touch()
    options = [
        *in_root(root, writable=False),
        *("--ro-bind", str(etc), "/etc"),
        *("--tmpfs", "/run", "--tmpfs", "/var", "--tmpfs", "/tmp"),
        *("--bind", str(place / "notify"), "/run/host"),
        *("--bind", str(place / "console"), "/dev/console"),
        *("--ro-bind", "/sys", "/sys", "--tmpfs", "/sys/fs/cgroup"),
        *("--ro-bind", "/proc/sys", "/proc/sys"),
    ]
    boot = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec /lib/systemd/systemd --system"
    # systemd tells the manager of its container when it is done, as any service would.
    environ = {"container": "bwrap", "NOTIFY_SOCKET": "/run/host/socket", "PATH": BASE_PATH}
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told,
        cgroup(place) as own,
    ):
        told.bind(str(place / "notify" / "socket"))
        told.settimeout(BOOT_S)
        with Sandbox(options, ["sh", "-c", boot], environ, place / "log", cgroup=own) as box:
            while b"READY=1" not in told.recv(4096):
                pass
            yield box


@contextmanager
def cgroup(place: Path) -> Iterator[Path]:
    """A control group of its own, so that a systemd in it does not touch those of the machine."""
    mounted = place / "cgroup"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "cgroup2", "cgroup2", mounted], check=True)
    try:
        own = Path(tempfile.mkdtemp(prefix="paceline-test-", dir=mounted))
        try:
            yield own
        finally:
            for directory, _, _ in os.walk(own, topdown=False):
                os.rmdir(directory)
    finally:
        subprocess.run(["umount", mounted], check=True)
