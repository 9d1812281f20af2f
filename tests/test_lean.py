"""What Paceline must not import, nor install: heavy packages in processes that do not use them.

The interpreter itself tells every import of a process and its children (`-X importtime`), and the
kernel which native libraries a process holds.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from servers import Server

ROOT = Path(__file__).resolve().parent.parent

HEAVY = {"sklearn", "skl2onnx", "onnx", "optuna", "pandas", "pydantic", "torch"}
NATIVE = ("numpy", "onnxruntime")
NOT_INSTALLED = ("torch", "scikit-learn")
INSTALLED_MB = 250

TELL_IMPORTS = {"PYTHONPROFILEIMPORTTIME": "1"}
IMPORT = re.compile(r"^import time: +\d+ \| +\d+ \| +(\w+)", re.MULTILINE)


def imported(said: str) -> set[str]:
    """The packages that were imported, from what `-X importtime` wrote."""
    return set(IMPORT.findall(said))


def command_lines() -> Iterator[list[str]]:
    """What starts, says something and ends: these, and the help of every command there is."""
    yield from ([], ["version"], ["key", "list"], ["doctor"], ["doctor", "--json"])
    # Read from the command line itself, so that a new command is covered.
    import typer

    from paceline.cli.main import command_line

    def helps(command: object, path: list[str]) -> Iterator[list[str]]:
        yield [*path, "--help"]
        for name, inner in getattr(command, "commands", {}).items():
            yield from helps(inner, [*path, name])

    yield from helps(typer.main.get_command(command_line()), [])


ONE_BY_ONE = """
import json, runpy, sys
for arguments in json.loads(sys.argv.pop()):
    print("begins", *arguments, file=sys.stderr)
    sys.argv[1:] = arguments
    try:
        runpy.run_module("paceline", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
"""


def test_the_command_line_imports_nothing_heavy(tmp_path: Path) -> None:
    """All in one process, in which each of them imports what those before it did not."""
    lines = [*command_lines()]
    run = subprocess.run(
        [sys.executable, "-P", "-c", ONE_BY_ONE, json.dumps(lines)],
        env=os.environ | TELL_IMPORTS,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    before, *told = re.split("^begins", run.stderr, flags=re.MULTILINE)
    assert "paceline" not in imported(before)
    assert "paceline" in imported(told[0])
    assert len(told) == len(lines) > 20
    heavy = {
        " ".join(line): imported(said) & (HEAVY | set(NATIVE))
        for line, said in zip(lines, told, strict=True)
    }
    assert not any(heavy.values()), heavy


def native_libraries(pid: int) -> set[str]:
    """Those of NATIVE that a process has mapped."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {package for package in NATIVE if f"/site-packages/{package}/" in maps}


def test_a_server_imports_nothing_heavy_and_its_owner_no_model_runtime(tmp_path: Path) -> None:
    """The owner has numpy for its history, imported once a front is ready; it relays no calls."""
    with Server(tmp_path / "state", "--fronts", "1", environ=TELL_IMPORTS) as server:
        assert server.ask("GET", "/metrics").status == 200
        assert native_libraries(server.process.pid) <= {"numpy"}
        # The same look finds them where they belong, so it would have found them above.
        assert [native_libraries(pid) for pid in server.fronts] == [set(NATIVE)]
    log = server.log.read_text()
    told = imported(log)
    assert told >= {"paceline", *NATIVE}
    assert len(re.findall(r" paceline\.gateway\.relay$", log, re.MULTILINE)) == 1, "the front's"
    assert told & HEAVY == set()


def test_a_planted_import_is_seen(tmp_path: Path) -> None:
    (tmp_path / "pandas.py").touch()
    run = subprocess.run(
        [sys.executable, "-c", "import pandas, json.decoder"],
        env=os.environ | TELL_IMPORTS,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert imported(run.stderr) >= {"pandas", "json"}


def locked() -> dict[str, bool]:
    """The distributions in the lock, and whether each is installed on every machine."""
    lock = (ROOT / "locks" / "run.txt").read_text()
    found = re.findall(r"^([\w.-]+)==\S+( ;)?", lock, re.MULTILINE)
    return {name: not condition for name, condition in found}


def size_mb(distribution: importlib.metadata.Distribution) -> float:
    paths = [Path(str(file.locate())) for file in distribution.files or []]
    return sum(path.stat().st_size for path in paths if path.exists()) / 1e6


def test_the_default_installation_is_small_and_has_no_heavy_package() -> None:
    """The lock's versions are those of this environment, which has more besides."""
    names = locked()
    assert {"numpy", "onnxruntime", "uvloop"} <= set(names)
    assert not set(names) & set(NOT_INSTALLED)
    sizes = {}
    for name, everywhere in names.items():
        try:
            sizes[name] = size_mb(importlib.metadata.distribution(name))
        except importlib.metadata.PackageNotFoundError:
            assert not everywhere, f"{name} is locked and not installed; ./test installs it"
    assert sizes["onnxruntime"] > 10, "sizes are not measured"
    assert sum(sizes.values()) <= INSTALLED_MB, sizes
