"""Builds .venv (what ./paceline runs in) and .venv-dev (what ./test, ./check and ./bench run in).

In place, because an environment holds its own path. Its stamp is three things: the lock that keeps
two first starts apart, the mark that we made the directory (nothing else is ever deleted), and,
written last, the record of what was built, which tools/python compares at every start.
Called by bootstrap.py; runs on a bare Python 3.11. It cannot share the errors of paceline.terms,
but speaks and exits like them.
"""

import errno
import fcntl
import os
import shutil
import signal
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from packages import (
    EXIT_INTERRUPTED,
    EXIT_START,
    EXIT_STATE,
    Failure,
    PipFailed,
    failure_in,
    install_locked,
    install_project,
    no_space,
)
from progress import Progress

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Environment:
    root: Path
    venv: Path
    lock: Path

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def stamp(self) -> Path:
        return self.venv / "paceline.stamp"

    def locked(self) -> bytes:
        """What the installed packages depend on. The project's own place counts, since it is
        installed editable, and so does the interpreter, which an upgrade may exchange."""
        places = b"%s\n%s\n" % (bytes(self.root), os.path.realpath(bytes(self.python)))
        return places + self.lock.read_bytes()

    def wanted(self) -> bytes:
        """The stamp of a current environment, byte for byte as tools/python computes it."""
        return self.locked() + (self.root / "pyproject.toml").read_bytes()


def launch(lock: str, venv: str, arguments: Sequence[str]) -> NoReturn:
    """Becomes the environment's Python, running `arguments`."""
    environment = Environment(ROOT, Path(venv), ROOT / "locks" / f"{lock}.txt")
    progress = Progress()
    signal.signal(signal.SIGTERM, interrupt)
    try:
        ensure(environment, progress)
    except Failure as failure:
        progress.say(str(failure))
        sys.exit(failure.exit_code)
    except KeyboardInterrupt:
        progress.say("Interrupted before the installation was done; the next start does it anew.")
        sys.exit(EXIT_INTERRUPTED)
    os.execv(environment.python, [str(environment.python), *arguments])


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def ensure(environment: Environment, progress: Progress) -> None:
    """Leaves a current environment behind, or raises Failure or KeyboardInterrupt."""
    try:
        with claim(environment) as stamp:
            take_turn(stamp, progress)
            built = stamp.read()
            sound = environment.python.exists()
            if sound and built == environment.wanted():
                return
            if not (sound and built.startswith(environment.locked())):
                build(environment, stamp, progress)
            install_project(environment.python, environment.root, progress, stamp.fileno())
            record(stamp, environment.wanted())
            progress.say(f"Installed in {progress.seconds:.0f} s.")
    except PipFailed as failed:
        log = environment.venv / "install.log"
        raise failure_in(failed.lines, environment.venv, keep(log, failed.lines)) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(environment.venv) from None
        raise Failure(
            EXIT_STATE,
            f"Paceline cannot be installed here: {os.strerror(error.errno or 0)}",
            "Make the directory writable, or set PACELINE_VENV=DIR to one that is.",
            error.filename or environment.venv,
        ) from None


def claim(environment: Environment) -> IO[bytes]:
    """Opens the stamp, in a directory that is new, empty, or was made by us before."""
    venv, stamp = environment.venv, environment.stamp
    venv.mkdir(parents=True, exist_ok=True)
    if not stamp.exists() and any(path != stamp for path in venv.iterdir()):
        raise Failure(
            EXIT_START,
            "The directory for the environment exists, and was not made by Paceline",
            "Remove it, or set PACELINE_VENV=DIR to another one.",
            venv,
        )
    return os.fdopen(os.open(stamp, os.O_RDWR | os.O_CREAT, 0o644), "r+b")


def take_turn(stamp: IO[bytes], progress: Progress) -> None:
    """Holds the lock until the stamp is closed, here and in a pip that outlives us."""
    try:
        fcntl.flock(stamp, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        progress.stage("Waiting for another start that is installing")
        fcntl.flock(stamp, fcntl.LOCK_EX)


def build(environment: Environment, stamp: IO[bytes], progress: Progress) -> None:
    """Everything but the project itself; on failure nothing is left but the empty stamp."""
    venv = environment.venv
    record(stamp, b"")
    clear(venv, keep=environment.stamp)
    progress.say(f"Installing into {venv}, this once.")
    try:
        create(venv)
        install_locked(environment.python, environment.lock, progress, stamp.fileno())
    except BaseException:
        clear(venv, keep=environment.stamp)
        raise
    record(stamp, environment.locked())


def create(venv: Path) -> None:
    """An environment with pip. `python -m venv` does the same in four seconds instead of half a
    one: it starts the pip in the wheel to install that wheel, which only needs unpacking."""
    try:
        import ensurepip
        from venv import EnvBuilder
    except ImportError:
        raise no_venv() from None
    bundled = Path(ensurepip.__file__).parent / "_bundled"
    wheels = Path(sysconfig.get_config_var("WHEEL_PKG_DIR") or bundled)
    pip = max(wheels.glob("pip-*.whl"), default=None)
    if pip is None:
        raise no_venv()
    EnvBuilder(symlinks=True).create(venv)
    site_packages = sysconfig.get_path("purelib", "venv", vars={"base": str(venv)})
    with zipfile.ZipFile(pip) as wheel:
        wheel.extractall(site_packages)


def no_venv() -> Failure:
    return Failure(
        EXIT_START,
        "This Python has no venv module, or no pip for it",
        "On Debian and Ubuntu: apt install python3-venv. On Fedora: dnf install python3-pip.\n"
        "Or set PACELINE_PYTHON=/path/to/python3.12",
        sys.executable,
    )


def clear(venv: Path, keep: Path) -> None:
    for path in venv.iterdir():
        if path == keep:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def record(stamp: IO[bytes], content: bytes) -> None:
    stamp.seek(0)
    stamp.truncate()
    stamp.write(content)
    stamp.flush()


def keep(log: Path, lines: list[str]) -> str:
    """Where pip's own words are; a disk that takes no log must not hide the failure."""
    try:
        log.write_text("\n".join(lines) + "\n")
    except OSError as error:
        return f"not kept, {error.strerror}"
    return str(log)
