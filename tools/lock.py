"""Writes the hash locks in locks/ from the ranges in pyproject.toml.

Run by people who change a dependency (`.venv-dev/bin/python tools/lock.py`, `--upgrade` for newer
versions); never by an installation. `./check` compares what it wrote with pyproject.toml.
"""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

RESOLVE = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
WRITE = ["--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url"]


def resolve(requirements: list[str], target: Path, *extra: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".in") as wanted:
        wanted.write("\n".join(requirements))
        wanted.flush()
        command = [sys.executable, "-m", *RESOLVE, *WRITE, "-o", str(target), *extra, wanted.name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    run = project["project"]["dependencies"] + project["build-system"]["requires"]
    extras = [
        line for lines in project["project"]["optional-dependencies"].values() for line in lines
    ]
    dev = run + extras + project["dependency-groups"]["dev"]
    upgrade = sys.argv[1:]
    resolve(run, ROOT / "locks" / "run.txt", *upgrade)
    resolve(dev, ROOT / "locks" / "dev.txt", "-c", str(ROOT / "locks" / "run.txt"), *upgrade)


if __name__ == "__main__":
    main()
