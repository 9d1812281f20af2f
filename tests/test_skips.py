"""A skipped test says why, and CI accepts only the skips that are listed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

SUITE = """
import pytest

@pytest.mark.needs("impossible")
@pytest.mark.parametrize("x", [1, 2])
def test_dream(x: int) -> None:
    raise AssertionError("ran without what it needs")

@pytest.mark.slow
def test_long() -> None: ...

def test_short() -> None: ...
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    tests = tmp_path / "tests"
    tests.mkdir()
    shutil.copy(HERE / "conftest.py", tests)
    shutil.copy(HERE.parent / "pyproject.toml", tmp_path)
    (tests / "capabilities.py").write_text('CAPABILITIES = {"impossible": lambda: "no luck"}\n')
    (tests / "laws.py").write_text("def use() -> None: ...\n")
    (tests / "test_it.py").write_text(SUITE)
    (tests / "skips_allowed.txt").write_text("# nothing\n")
    return tmp_path


def run(suite: Path, *arguments: str, ci: str = "") -> subprocess.CompletedProcess[str]:
    """With the plugin of `-n` alone: to load the others takes longer than to run."""
    plugins = ["-p", "no:cacheprovider", "-p", "xdist.plugin"]
    command = [sys.executable, "-m", "pytest", *plugins, *arguments]
    env = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    env |= {"CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=suite, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_a_skip_names_its_test_and_reason(suite: Path, workers: str) -> None:
    done = run(suite, "-n", workers)
    assert done.returncode == 0, done.stdout
    reason = "needs impossible: no luck"
    assert f"SKIPPED tests/test_it.py::test_dream[1]: {reason}" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1 passed, 2 skipped")


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_ci_fails_on_a_skip_that_is_not_listed(suite: Path, workers: str) -> None:
    done = run(suite, "-n", workers, ci="true")
    assert done.returncode == 1
    assert "not listed in tests/skips_allowed.txt" in done.stdout
    (suite / "tests" / "skips_allowed.txt").write_text("tests/test_it.py::test_dream  # a dream\n")
    assert run(suite, "-n", workers, ci="true").returncode == 0


@pytest.mark.parametrize(
    ("option", "ran"),
    [("--verbose", {"short"}), ("--slow", {"short", "long"}), ("--only-slow", {"long"})],
)
def test_slow_tests_run_when_asked_for(suite: Path, option: str, ran: set[str]) -> None:
    done = run(suite, "-vv", "-k", "long or short", option)
    assert {name for name in ("long", "short") if f"test_{name} PASSED" in done.stdout} == ran
