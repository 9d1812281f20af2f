"""What a machine may lack that some tests need, and how to find out.

A test asks with `@pytest.mark.needs("promtool")`; conftest.py skips it where the probe here gives
a reason. Not for Python packages: the lock has them all.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

Probe = Callable[[], str | None]
"""None where the machine has it, else why not."""


def on_path(*names: str, remedy: str) -> Probe:
    def probe() -> str | None:
        return None if any(map(shutil.which, names)) else f"no {names[0]} on PATH; {remedy}"

    return probe


def docker_engine() -> str | None:
    docker = shutil.which("docker")
    if docker is None:
        return "no docker on PATH"
    answers = subprocess.run([docker, "info"], capture_output=True, timeout=30).returncode == 0
    return None if answers else "no Docker engine answers"


def root() -> str | None:
    return None if os.geteuid() == 0 else "not root"


def sandbox() -> str | None:
    """As tests/sandbox.py makes them."""
    if os.geteuid() != 0:
        return "not root"
    if shutil.which("bwrap") is None:
        return "no bwrap on PATH; apt-get install bubblewrap"
    options = ["--unshare-pid", "--unshare-net", "--ro-bind", "/", "/", "--proc", "/proc"]
    tried = subprocess.run(["bwrap", *options, "true"], capture_output=True, text=True)
    return f"no sandbox: {tried.stderr.strip()}" if tried.returncode else None


def systemd() -> str | None:
    """For a systemd of our own in a sandbox, whatever runs the machine."""
    if not Path("/lib/systemd/systemd").exists():
        return "no /lib/systemd/systemd; apt-get install systemd"
    if "cgroup2" not in Path("/proc/filesystems").read_text():
        return "this kernel has no cgroup2"
    return None


def tmpfs() -> str | None:
    with tempfile.TemporaryDirectory() as place:
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]
        try:
            failed = subprocess.run(mount, capture_output=True).returncode
        except FileNotFoundError:
            return "no mount command"
        if failed:
            return "may not mount a tmpfs"
        subprocess.run(["umount", place], check=True)
    return None


def strace() -> str | None:
    """Able to trace, which a container may forbid."""
    if shutil.which("strace") is None:
        return "no strace on PATH; apt-get install strace"
    command = ["strace", "--follow-forks", "--trace=execve", "--output=/dev/stdout", "true"]
    tried = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return None if "execve(" in tried.stdout else f"may not trace: {tried.stderr.strip()}"


def own_network() -> str | None:
    command = ["unshare", "--map-root-user", "--net", "ip", "link", "set", "lo", "up"]
    try:
        failed = subprocess.run(command, capture_output=True).returncode
    except FileNotFoundError:
        return "no unshare command; apt-get install util-linux iproute2"
    return "may not make a network namespace, or has no ip command" if failed else None


def schedstat() -> str | None:
    """The kernel tells how long a thread was ready and had no core."""
    told = Path("/proc/self/schedstat")
    return (
        None if told.exists() and len(told.read_text().split()) == 3 else "no /proc/PID/schedstat"
    )


CAPABILITIES: Mapping[str, Probe] = {
    "promtool": on_path("promtool", remedy="apt-get install prometheus"),
    "chromium": on_path("chromium", "chromium-browser", remedy="apt-get install chromium"),
    "systemd-analyze": on_path("systemd-analyze", remedy="apt-get install systemd"),
    "docker": on_path("docker", remedy="apt-get install docker.io"),
    "docker-engine": docker_engine,
    "root": root,
    "sandbox": sandbox,
    "systemd": systemd,
    "tmpfs": tmpfs,
    "own-network": own_network,
    "strace": strace,
    "schedstat": schedstat,
    "cc": on_path("cc", remedy="apt-get install gcc libc6-dev"),
}
