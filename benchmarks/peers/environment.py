"""A virtual environment for each peer, outside the repository, made once.

What a peer needs is in requirements-NAME.txt; what stands in requirements-NAME-alone.txt is added
without its own requirements. A stamp in the environment holds both, so a changed file installs
again. Called by `serving` and `goodput`.
"""

import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REQUIREMENTS = Path(__file__).parent
INSTALL_S = 900


class Unavailable(Exception):
    """A contender that cannot be installed or started, and why; told in the result."""


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "paceline"


def python_of(name: str, folder: Path, *, make: bool = True) -> Path:
    """The interpreter of the peer's environment, which is made if need be; ours for no name."""
    if not name:
        return Path(sys.executable)
    place = folder / name
    python = place / "bin" / "python"
    lists = [REQUIREMENTS / f"requirements-{name}.txt"]
    alone = REQUIREMENTS / f"requirements-{name}-alone.txt"
    wanted = "".join(each.read_text() for each in (*lists, alone) if each.exists())
    stamp = place / "installed.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    if not make:
        raise Unavailable(f"{name} is not installed in {place}")
    print(f"installing {name} into {place}", file=sys.stderr)
    shutil.rmtree(place, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(place))
    _install(python, "-r", str(lists[0]))
    if alone.exists():
        _install(python, "--no-deps", "-r", str(alone))
    stamp.write_text(wanted)
    return python


def version_in(python: Path, package: str) -> str:
    if python == Path(sys.executable):
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"
    asked = f"import importlib.metadata as m; print(m.version({package!r}))"
    return _run(str(python), "-c", asked).strip()


def _install(python: Path, *what: str) -> None:
    _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what)


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"`{' '.join(command)}` took more than {INSTALL_S} s") from error
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if "WARNING" not in line][-1:]
        raise Unavailable(f"`{' '.join(command)}` failed: {''.join(last)[:300]}")
    return done.stdout
