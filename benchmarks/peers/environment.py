"""An environment for each peer, outside the repository, made once: of Python's, or of Node's.

What a peer needs is in requirements-NAME.txt; what stands in requirements-NAME-alone.txt is added
without its own requirements. For Node it is in package-NAME.json. A stamp in the environment holds
them, so a changed file installs again. Called by `serving`, `goodput` and `gateway`.
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


def node_packages_of(name: str, folder: Path, *, make: bool = True) -> Path:
    """The folder node_modules of the peer's environment, which is made if need be."""
    place = folder / name
    wanted = (REQUIREMENTS / f"package-{name}.json").read_text()
    stamp = place / "installed.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return place / "node_modules"
    if not make:
        raise Unavailable(f"{name} is not installed in {place}")
    print(f"installing {name} into {place}", file=sys.stderr)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / "package.json").write_text(wanted)
    # What a package runs when it is installed may fetch anything; the peers need none of it.
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    _run("npm", "install", "--prefix", str(place), *options)
    stamp.write_text(wanted)
    return place / "node_modules"


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
    except FileNotFoundError as error:
        raise Unavailable(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"`{' '.join(command)}` took more than {INSTALL_S} s") from error
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if "WARNING" not in line][-1:]
        raise Unavailable(f"`{' '.join(command)}` failed: {''.join(last)[:300]}")
    return done.stdout
