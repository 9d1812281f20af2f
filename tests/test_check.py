"""Each rule of `./check` is planted a fault in a copy of the tree, and must find it.

The copy runs the real script; only its environment is borrowed from the one that runs this test.
"""

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import cache_from_source
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMPILED = ("src/", "tools/")
OUTCOME = ("ok ", "FAIL ")
BORROWED = '#!/bin/sh\nshift\nexec "$BORROWED_PYTHON" "$@"\n'


class Plant(NamedTuple):
    """`text` is written at the end of `path`; `step` must then say `wrong` there, and a remedy."""

    step: str
    path: str
    text: str
    wrong: str
    remedy: str


PURE = "src/paceline/stats/planted.py"
LOWEST = "src/paceline/terms/planted.py"
TOP = '"""Planted by a test."""\n\n'
ERRORS = "src/paceline/terms/errors.py"
RAISING = f"{TOP}from paceline.terms.errors import BadJson\n\n"
# Put together here, so that the check of this tree does not find them here.
MACHINE = "/" + "home/somebody/project"
REGISTRY = "pypi" + ".org"
UNFINISHED = "TO" + "DO"

PLANTS = {
    "upward import": Plant(
        "imports", LOWEST, f"{TOP}from paceline import clock\n", "paceline.clock", "app.py"
    ),
    "upward import inside a function": Plant(
        "imports",
        LOWEST,
        f"{TOP}def late() -> None:\n    import paceline.web.routes\n",
        "paceline.web",
        "app.py",
    ),
    "import of a neighbour that is not named": Plant(
        "imports", PURE, f"{TOP}from paceline import clock\n", "paceline.clock", "app.py"
    ),
    "package without a floor": Plant(
        "imports", "src/paceline/planted/__init__.py", TOP, "no floor", "[tool.importlinter]"
    ),
    "clock in a decision": Plant(
        "calls", PURE, f"{TOP}import time\n\nNOW = time.monotonic()\n", "time.monotonic", "Clock"
    ),
    "clock under another name": Plant(
        "calls",
        PURE,
        f"{TOP}from time import monotonic as passed\n\nNOW = passed()\n",
        "time.monotonic",
        "Clock",
    ),
    "clock that is handed on": Plant(
        "calls", PURE, f"{TOP}import time as t\n\nNOW = t.time\n", "time.time", "Clock"
    ),
    "clock of the loop": Plant(
        "calls",
        PURE,
        f"{TOP}import asyncio\n\nNOW = asyncio.get_running_loop().time()\n",
        "loop.time",
        "Clock",
    ),
    "date of today": Plant(
        "calls",
        PURE,
        f"{TOP}from datetime import datetime\n\nNOW = datetime.now()\n",
        "datetime.now",
        "Clock",
    ),
    "sleep as a wait": Plant(
        "calls",
        PURE,
        f"{TOP}import asyncio\n\nWAIT = asyncio.sleep(1)\n",
        "asyncio.sleep",
        "Wait for an event",
    ),
    "dice without a seed": Plant(
        "calls", PURE, f"{TOP}import random\n\nDICE = random.Random()\n", "random.Random", "seeded"
    ),
    "dice of everybody": Plant(
        "calls", PURE, f"{TOP}from random import choice\n\nDICE = choice\n", "choice", "seeded"
    ),
    "secret outside access": Plant(
        "calls", PURE, f"{TOP}import os\n\nKEY = os.urandom(16)\n", "os.urandom", "access/"
    ),
    "error without a remedy": Plant(
        "errors", PURE, f'{RAISING}raise BadJson("broken")\n', "without a remedy", "remedy="
    ),
    "error with an empty remedy": Plant(
        "errors",
        PURE,
        f'{RAISING}ERROR = BadJson("broken", remedy="")\n',
        "without a remedy",
        "remedy=",
    ),
    "error without a code": Plant(
        "errors", ERRORS, "\n\nclass Planted(NotFound):\n    pass\n", "has no code", "code ="
    ),
    "error without a row": Plant(
        "errors",
        ERRORS,
        '\n\nclass PlantedToo(NotFound):\n    code = "planted"\n',
        "no row in TABLE",
        ERRORS,
    ),
    "error that says nothing": Plant(
        "errors", PURE, f'{TOP}raise RuntimeError("no")\n', "RuntimeError", ERRORS
    ),
    "error that is swallowed": Plant(
        "errors",
        PURE,
        f"{TOP}try:\n    pass\nexcept Exception:\n    pass\n",
        "swallows",
        "Name what is expected",
    ),
    "class named manager": Plant(
        "names", PURE, f"{TOP}class PlanManager:\n    pass\n", "PlanManager", "what it does"
    ),
    "module named utils": Plant(
        "names", "src/paceline/stats/http_utils.py", TOP, "http_utils", "what it does"
    ),
    "registry in a lock": Plant(
        "lock", "locks/run.txt", f"--index-url https://{REGISTRY}\n", "neither pin", "lock.py"
    ),
    "machine path": Plant(
        "tree", "README.md", f"\nSee {MACHINE}.\n", "a path of one machine", "relative"
    ),
    "registry in the docs": Plant(
        "tree", "README.md", f"\nFrom {REGISTRY}.\n", "package registry", "configuration"
    ),
    "unfinished work": Plant(
        "tree", PURE, f"{TOP}# {UNFINISHED} later\n", "unfinished work", "status.md"
    ),
    "empty package": Plant(
        "tree", "src/paceline/planted/__init__.py", TOP, "an empty package", "first code"
    ),
    "package that contracts cannot see": Plant(
        "tree", "src/paceline/planted/late.py", TOP, "without __init__.py", "docstring"
    ),
    "generated file": Plant("tree", "docs/planted.whl", "x", "generated", ".gitignore"),
    "huge file": Plant("tree", "docs/planted.txt", "x" * 1_000_001, "1000001 bytes", "under"),
    "limit without a meaning": Plant(
        "docs", "src/paceline/terms/limits.py", "\nPLANTED_S = 3.0\n", "PLANTED_S", "below it"
    ),
    "metric outside the table": Plant(
        "docs",
        "src/paceline/terms/metric.py",
        '\nPLANTED = Metric("paceline_planted", "gauge", "", "Planted.")\n',
        "PLANTED",
        "METRICS",
    ),
    "setting without a meaning": Plant(
        "docs",
        "src/paceline/config/__init__.py",
        "\n\nclass Planted(msgspec.Struct):\n    lost_s: Annotated[float, Meta(ge=0)] = 1.0\n",
        "Planted.lost_s",
        "description",
    ),
    "link that leads nowhere": Plant(
        "docs", "README.md", "\n[planted](docs/planted.md)\n", "docs/planted.md", "Correct"
    ),
    "module without a docstring": Plant("docs", PURE, "X = 1\n", "no docstring", "what it is"),
    "proof that is no test": Plant(
        "acceptance",
        "docs/design/acceptance.md",
        "| planted | `./test tests/test_check.py::test_nothing` | 1 |\n",
        "no test",
        "correct its path",
    ),
    "proof that is no benchmark": Plant(
        "acceptance",
        "docs/design/acceptance.md",
        "| planted | `./bench planted` | 1 |\n",
        "no benchmark",
        "benchmarks/planted.py",
    ),
    "proof without a figure": Plant(
        "acceptance",
        "docs/design/acceptance.md",
        "| planted | `./test tests/test_check.py::test_every_planted_fault_is_found` | |\n",
        "figure is empty",
        "Run the proof",
    ),
    "line too long": Plant("lint", PURE, f"{TOP}# {'x' * 120}\n", "E501", "ruff rule"),
    "file not formatted": Plant("format", PURE, f"{TOP}X = {{ }}\n", "not formatted", "--write"),
}
STEPS = sorted({fault.step for fault in PLANTS.values()})
FAULTS = [
    fault._replace(path=fault.path.replace("planted", f"planted_{number}"))
    for number, fault in enumerate(PLANTS.values())
]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return copied(tmp_path)


def copied(tree: Path, *left_out: str) -> Path:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(left_out):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
            if name.startswith(COMPILED) and name.endswith(".py"):
                copy_compiled(name, tree)
    (tree / "tools/python").write_text(BORROWED)
    return tree


def copy_compiled(name: str, tree: Path) -> None:
    """What Python made of a module, so that it is not made of every copy again."""
    made = Path(cache_from_source(name))
    if (ROOT / made).is_file():
        (tree / made).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / made, tree / made)


def check(tree: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        ["./check", *arguments],
        cwd=tree,
        env=os.environ | {"BORROWED_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def outcomes(said: str) -> list[str]:
    lines = [line for line in said.splitlines() if line.startswith(OUTCOME)]
    return [" ".join(line.split()[:2]) for line in lines]


def told(said: str) -> dict[str, list[str]]:
    """The lines of each step, the one with its outcome first."""
    steps: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in said.splitlines():
        if line.startswith(OUTCOME):
            steps[line.split()[1]] = lines = []
        lines.append(line)
    return steps


def plant(tree: Path, path: str, text: str) -> None:
    (tree / path).parent.mkdir(parents=True, exist_ok=True)
    with (tree / path).open("a") as file:
        file.write(text)


def assert_found(tree: Path, *faults: Plant) -> None:
    code, said = check(tree, faults[0].step)
    assert code == 1, said
    for fault in faults:
        assert_told(said.splitlines(), fault)


def assert_told(said: list[str], fault: Plant) -> None:
    lines = [line for line in said if line.startswith(f"{fault.path}:")]
    found = [line for line in lines if fault.wrong in line and fault.remedy in line]
    assert found, "\n".join([str(fault), *said])


# One run of all steps looks at each of these trees: a process for every step and fault costs more
# than all that the steps do.

INNOCENT = """\
\"\"\"Says time.monotonic() and raise RuntimeError, and does neither.\"\"\"

import asyncio
import random

from paceline.terms.errors import BadJson

DICE: random.Random = random.Random(7)
NUMBER = DICE.random()
NEXT = asyncio.sleep(0)
ERROR = BadJson("broken", remedy="Send JSON.")


class Database:
    pass
"""


@pytest.fixture(scope="module")
def of_a_sound_tree(tmp_path_factory: pytest.TempPathFactory) -> str:
    code, said = check(copied(tmp_path_factory.mktemp("sound")), *STEPS)
    assert code == any(outcome.startswith("FAIL") for outcome in outcomes(said))
    return said


LAGGING = [
    ("errors", ERRORS, "nothing lives at this address", "nothing is there"),
    ("limits", "src/paceline/terms/limits.py", "ROWS = 1024", "ROWS = 2048"),
    ("metrics", "src/paceline/terms/metric.py", "Open file descriptors.", "Open files."),
    ("settings", "src/paceline/config/__init__.py", "Log each request.", "Log requests."),
]
"""References, and what is changed where they are made of."""


@pytest.fixture(scope="module")
def faulty_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All faults at once, each in a file of its own, and what is none. Most of what would be read
    besides is left out."""
    tree = copied(tmp_path_factory.mktemp("faulty"), "tests/test_", "benchmarks/")
    for fault in FAULTS:
        plant(tree, fault.path, fault.text)
    plant(tree, PURE, INNOCENT)
    for _, source, old, new in LAGGING:
        text = (tree / source).read_text()
        assert old in text
        (tree / source).write_text(text.replace(old, new, 1))
    return tree


@pytest.fixture(scope="module")
def of_a_faulty_tree(faulty_tree: Path) -> str:
    """What is said of it."""
    code, said = check(faulty_tree, *STEPS)
    assert code == 1
    return said


@pytest.mark.slow  # ./check says it of this tree
@pytest.mark.parametrize("step", STEPS)
def test_a_tree_without_a_fault_passes(of_a_sound_tree: str, step: str) -> None:
    outcome, *findings = told(of_a_sound_tree)[step]
    assert findings == []
    assert outcome.startswith("ok ")


@pytest.mark.parametrize("step", STEPS)
def test_every_planted_fault_is_found(of_a_faulty_tree: str, step: str) -> None:
    outcome, *lines = told(of_a_faulty_tree)[step]
    assert outcome.startswith("FAIL ")
    for fault in FAULTS:
        if fault.step == step:
            assert_told(lines, fault)


@pytest.mark.parametrize("step", ["calls", "errors", "names"])
def test_what_only_looks_like_a_fault_passes(of_a_faulty_tree: str, step: str) -> None:
    assert PURE not in "\n".join(told(of_a_faulty_tree)[step])


@pytest.mark.slow  # mypy starts without its cache
def test_an_untyped_function_is_found(copy: Path) -> None:
    code, said = check(copy, "types")
    assert code == 0, said
    plant(copy, PURE, f"{TOP}def double(value):\n    return value + value\n")
    assert_found(copy, Plant("types", PURE, "", "missing a type annotation", "Annotate it"))


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """All that the step `lock` reads."""
    (tmp_path / "locks").mkdir()
    for name in ("pyproject.toml", "locks/run.txt", "locks/dev.txt"):
        shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def of_the_lock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], list[str]]:
    """What is said of it, without a process."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    lock = importlib.import_module("check.lock")
    return lambda tree: [str(each) for each in lock.check(tree)]


def test_a_lock_that_is_right_passes(
    locked: Path, of_the_lock: Callable[[Path], list[str]]
) -> None:
    assert of_the_lock(locked) == []


def test_a_dependency_missing_from_the_lock_is_found(
    locked: Path, of_the_lock: Callable[[Path], list[str]]
) -> None:
    project = locked / "pyproject.toml"
    wanted = 'dependencies = [\n    "planted >=1",'
    project.write_text(project.read_text().replace("dependencies = [", wanted, 1))
    fault = Plant("lock", "pyproject.toml", "", "planted is not in locks/run.txt", "tools/lock.py")
    assert_told(of_the_lock(locked), fault)


def test_a_pin_outside_its_range_is_found(
    locked: Path, of_the_lock: Callable[[Path], list[str]]
) -> None:
    project = locked / "pyproject.toml"
    project.write_text(project.read_text().replace('"msgspec >=', '"msgspec ==0.0.1,>=', 1))
    fault = Plant("lock", "pyproject.toml", "", "outside `", "tools/lock.py")
    assert_told(of_the_lock(locked), fault)


def test_a_pin_without_a_hash_is_found(
    locked: Path, of_the_lock: Callable[[Path], list[str]]
) -> None:
    lock = locked / "locks/run.txt"
    pins = [line for line in lock.read_text().splitlines(True) if "--hash" not in line]
    lock.write_text("".join(pins))
    fault = Plant("lock", "locks/run.txt", "", "has no sha256 hash", "tools/lock.py")
    assert_told(of_the_lock(locked), fault)


def test_a_reference_that_lags_behind_the_code_is_found_and_rewritten(
    faulty_tree: Path, of_a_faulty_tree: str
) -> None:
    wrong = "not what the code says"
    for page, *_ in LAGGING:
        fault = Plant("docs", f"docs/reference/{page}.md", "", wrong, "--write docs")
        assert_told(told(of_a_faulty_tree)["docs"], fault)
    _, said = check(faulty_tree, "--write", "docs")
    assert told(said)["docs"]
    assert wrong not in said


def test_every_step_runs_although_one_fails(of_a_faulty_tree: str) -> None:
    assert sorted(outcomes(of_a_faulty_tree)) == [f"FAIL {step}" for step in STEPS]


def test_an_unknown_step_lists_the_known_ones() -> None:
    done = subprocess.run(["./check", "typos"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "does not know typos" in done.stderr
    assert "types" in done.stderr
