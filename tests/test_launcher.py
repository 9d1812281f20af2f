"""./paceline on machines that are not ready for it: what it says, how it exits, how it recovers.

The trees here hold the real launcher and a stub of the package; their lock names one package, the
build tool, served from a directory. So nothing here needs a network, and an installation is short.
"""

import ast
import hashlib
import importlib.metadata
import os
import pty
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from paceline.terms import errors

ROOT = Path(__file__).resolve().parent.parent
BUILD_TOOL = "flit-core"

STUB = """
import json, sys
import paceline
print(json.dumps({"arguments": sys.argv[1:], "from": paceline.__file__}))
"""

Start = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a wheel of the build tool, zipped from the one installed here."""
    distribution = importlib.metadata.distribution(BUILD_TOOL)
    directory = tmp_path_factory.mktemp("wheels")
    wheel = directory / f"flit_core-{distribution.version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in distribution.files or []:
            if file.suffix != ".pyc" and file.name not in ("INSTALLER", "REQUESTED"):
                archive.write(str(file.locate()), str(file))
    return directory


@pytest.fixture
def tree(tmp_path: Path, wheels: Path) -> Path:
    """A checkout in a path with a space, with a short lock and a stub package."""
    tree = tmp_path / "a tree"
    listed = ["git", "ls-files", "-co", "--exclude-standard", "paceline", "tools", "pyproject.toml"]
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).splitlines():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    package = tree / "src" / "paceline"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""A stub."""\n__version__ = "0"\n')
    (package / "__main__.py").write_text(STUB)
    (tree / "README.md").write_text("A stub.\n")
    (tree / "LICENSE").write_text("None.\n")
    (wheel,) = wheels.iterdir()
    (tree / "locks").mkdir()
    lock(tree, hashlib.sha256(wheel.read_bytes()).hexdigest())
    return tree


def lock(tree: Path, sha256: str) -> None:
    version = importlib.metadata.version(BUILD_TOOL)
    line = f"{BUILD_TOOL}=={version} \\\n    --hash=sha256:{sha256}\n"
    (tree / "locks" / "run.txt").write_text(line)


def environ(wheels: Path | None, **more: str) -> dict[str, str]:
    """Of a user who has told pip where packages are; without `wheels`, nothing answers there."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    mine |= {"PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "1", "PIP_NO_CACHE_DIR": "1"}
    where = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "no_proxy": "127.0.0.1"}
    if wheels:
        where = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    return mine | where | more


@pytest.fixture
def start(tree: Path, wheels: Path) -> Start:
    def start(
        *arguments: str, online: bool = True, **more: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [tree / "paceline", *arguments],
            env=environ(wheels if online else None, **more),
            capture_output=True,
            text=True,
            timeout=120,
        )

    return start


def python_with(directory: Path, prelude: str, name: str = "python") -> Path:
    """A Python that runs `prelude` before the script it is given (always as `-Es SCRIPT ARGS`)."""
    code = f"""
import os, runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
{prelude}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    shim = directory / name
    command = f"exec {shlex.quote(sys.executable)} -Es -c {shlex.quote(code)}"
    shim.write_text(f'#!/bin/sh\nshift\n{command} "$@"\n')
    shim.chmod(0o755)
    return shim


OLD = "sys.version_info = (3, 9, 18, 'final', 0)"


def test_first_start_shows_its_own_progress_and_the_second_needs_only_the_environment(
    tree: Path, wheels: Path, start: Start, tmp_path: Path
) -> None:
    mine, theirs = pty.openpty()
    command = [str(tree / "paceline"), "up", "a b"]
    env = environ(wheels, TERM="xterm")
    with ThreadPoolExecutor(1) as reader:  # who is not read writes no more than a terminal holds
        seen = reader.submit(everything, mine)
        first = subprocess.run(command, env=env, stderr=theirs, stdout=subprocess.PIPE, text=True)
        os.close(theirs)
        shown = seen.result()
    assert first.returncode == 0
    assert '"arguments": ["up", "a b"]' in first.stdout
    assert "\r\x1b[2KFetching packages" in shown
    assert BUILD_TOOL in shown
    assert "Collecting" not in shown
    assert "Installed in" in shown.splitlines()[-1]

    link = tmp_path / "link"
    link.symlink_to(tree / "paceline")
    (tmp_path / "paceline.py").write_text("raise SystemExit('shadowed')")
    second = subprocess.run(
        [link, "up"],
        env=environ(None, PYTHONPATH=str(tmp_path), PACELINE_PYTHON="/nowhere"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (second.returncode, second.stderr) == (0, "")
    assert str(tree / "src") in second.stdout


def everything(terminal: int) -> str:
    chunks: list[bytes] = []
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other side is closed
            chunk = b""
        if not chunk:
            os.close(terminal)
            return b"".join(chunks).decode()
        chunks.append(chunk)


@pytest.mark.slow
def test_a_change_of_the_lock_rebuilds_and_a_change_of_the_project_only_reinstalls_it(
    tree: Path, start: Start
) -> None:
    assert "Fetching packages" in start().stderr
    with (tree / "pyproject.toml").open("a") as project:
        project.write("# changed\n")
    again = start()
    assert again.returncode == 0
    assert "Adding Paceline itself" in again.stderr
    assert "Fetching packages" not in again.stderr
    with (tree / "locks" / "run.txt").open("a") as run:
        run.write("# changed\n")
    assert "Fetching packages" in start().stderr
    assert start().stderr == ""


@pytest.mark.slow
def test_a_moved_tree_runs_its_own_code(tree: Path, wheels: Path, start: Start) -> None:
    assert start().returncode == 0
    moved = tree.rename(tree.with_name("moved"))
    run = subprocess.run(
        [moved / "paceline"], env=environ(wheels), capture_output=True, text=True, timeout=120
    )
    assert str(moved) in run.stdout


@pytest.mark.slow
def test_two_first_starts_at_once_install_once(tree: Path, wheels: Path) -> None:
    command = [tree / "paceline"]
    both = [
        subprocess.Popen(
            command,
            env=environ(wheels),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("Fetching" in said for _, said in answers) == [False, True]
    assert sorted("Waiting for another start" in said for _, said in answers) == [False, True]


@pytest.fixture
def silent_index() -> Iterator[str]:
    """An index that accepts a connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/simple"


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_the_next_start_recovers(
    tree: Path, start: Start, silent_index: str
) -> None:
    process = subprocess.Popen(
        [tree / "paceline"],
        env=environ(None, PIP_INDEX_URL=silent_index),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Fetching"):
            break
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (errors.EXIT_INTERRUPTED, "")
    assert stderr.startswith("Interrupted before the installation was done")
    assert len(stderr.splitlines()) == 1
    assert start().returncode == 0


@pytest.mark.slow
def test_what_a_killed_installation_left_is_built_anew(tree: Path, start: Start) -> None:
    (tree / ".venv" / "bin").mkdir(parents=True)
    (tree / ".venv" / "bin" / "python").write_text("half a file")
    (tree / ".venv" / "paceline.stamp").touch()
    assert start().returncode == 0


@pytest.mark.slow
@pytest.mark.needs("root", "tmpfs")
def test_a_full_disk_is_named_and_left_empty(start: Start, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=True)
    try:
        run = start(PACELINE_VENV=str(disk / "venv"))
        left = [path.name for path in (disk / "venv").iterdir()]
    finally:
        subprocess.run(["umount", disk], check=True)
    refused(run, errors.EXIT_STATE, "No space is left", str(disk), "PACELINE_VENV=DIR")
    assert set(left) <= {"paceline.stamp", "install.log"}


def refused(run: subprocess.CompletedProcess[str], exit_code: int, *said: str) -> None:
    """It ended with this code, said these words, and showed no traceback and nothing of pip's."""
    assert run.returncode == exit_code, run.stderr
    for words in said:
        assert words in run.stderr
    assert "Traceback" not in run.stderr
    assert "WARNING" not in run.stderr


@pytest.mark.slow
def test_no_network_says_so(start: Start) -> None:
    run = start(online=False)
    refused(run, errors.EXIT_UNREACHABLE, "does not answer", "Connection refused", "HTTPS_PROXY")


@pytest.mark.slow
def test_an_altered_package_is_named_and_not_installed(tree: Path, start: Start) -> None:
    lock(tree, "0" * 64)
    refused(start(), errors.EXIT_START, "not the one that the lock names", BUILD_TOOL)
    assert not (tree / ".venv" / "bin").exists()


@pytest.mark.slow
def test_a_package_that_the_index_lacks_is_named(start: Start, tmp_path: Path) -> None:
    run = start(PIP_FIND_LINKS=str(tmp_path / "nothing"))
    refused(run, errors.EXIT_START, "no ready-made package", f"{BUILD_TOOL}==")


@pytest.mark.slow
def test_a_failure_of_another_kind_quotes_pip_and_names_the_log(tree: Path, start: Start) -> None:
    version = importlib.metadata.version(BUILD_TOOL)
    (tree / "locks" / "run.txt").write_text(f"{BUILD_TOOL}=={version}\n")  # and no hash
    run = start()
    refused(run, errors.EXIT_START, "Hashes are required")
    assert "Hashes are required" in (tree / ".venv" / "install.log").read_text()
    assert str(tree / ".venv" / "install.log") in run.stderr


def test_a_directory_that_cannot_be_written_is_named(start: Start) -> None:
    run = start(PACELINE_VENV="/sys/paceline")  # not even root may write there
    refused(run, errors.EXIT_STATE, "/sys/paceline", "PACELINE_VENV=DIR")


def test_a_directory_that_we_did_not_make_is_left_alone(start: Start, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("work of years")
    refused(start(PACELINE_VENV=str(tmp_path)), errors.EXIT_START, "not made by Paceline")
    assert (tmp_path / "precious").read_text() == "work of years"


def test_an_old_python_is_named_with_the_way_out(start: Start, tmp_path: Path) -> None:
    old = python_with(tmp_path, OLD)
    run = start(PACELINE_PYTHON=str(old))
    refused(run, errors.EXIT_START, "3.11 or newer", f"3.9.18 at {old}", "PACELINE_PYTHON=")


@pytest.mark.slow
def test_a_newer_python_on_path_is_found_behind_an_old_one(
    tree: Path, start: Start, tmp_path: Path
) -> None:
    python_with(tmp_path, OLD, name="python3")
    (tmp_path / "python3.14").symlink_to("/bin/false")  # as a version switcher's stub
    (tmp_path / "python3.13").symlink_to(sys.executable)
    lock(tree, "0" * 64)  # far enough to see that the newer one took over
    run = start(PATH=f"{tmp_path}:{os.environ['PATH']}")
    refused(run, errors.EXIT_START, "not the one that the lock names")


def test_no_python_at_all_is_a_message(start: Start) -> None:
    refused(start(PACELINE_PYTHON="no-such-python"), errors.EXIT_START, "no-such-python")


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_without_venv_names_the_package_to_install(
    start: Start, tmp_path: Path, module: str
) -> None:
    shim = python_with(tmp_path, f"sys.modules[{module!r}] = None")
    run = start(PACELINE_PYTHON=str(shim))
    refused(run, errors.EXIT_START, "no venv module", "apt install python3-venv")


def test_the_first_file_that_runs_parses_on_the_pythons_it_turns_away() -> None:
    ast.parse((ROOT / "tools" / "bootstrap.py").read_text(), feature_version=(3, 6))


@pytest.mark.parametrize("file", ["packages.py", "bootstrap.py"])
def test_its_exit_codes_are_those_of_the_package(file: str) -> None:
    constants = {
        target.id: node.value.value
        for node in ast.parse((ROOT / "tools" / file).read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id.startswith("EXIT_")
    }
    assert constants
    assert constants == {name: getattr(errors, name) for name in constants}


def test_bench_lists_what_there_is_and_refuses_the_rest(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
    (tmp_path / "benchmarks" / "sprint.py").write_text(
        textwrap.dedent('''
            """How fast it runs.

            And more.
            """
            import sys
            print("ran", sys.argv[1:])
        ''')
    )

    def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "benchmarks", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    listed = bench()
    assert listed.returncode == 0
    assert "sprint" in listed.stdout
    assert "How fast it runs." in listed.stdout
    assert bench("sprint", "--rows", "3").stdout == "ran ['--rows', '3']\n"
    refused(bench("sprnt"), errors.EXIT_USAGE, "no benchmark sprnt", "Did you mean sprint?")
