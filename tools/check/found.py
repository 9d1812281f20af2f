"""What a step finds and how it reads the tree. Called by every step; decides nothing itself."""

import ast
import fnmatch
import functools
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple


class Finding(NamedTuple):
    """Where, what is wrong, and what to do about it; printed so that an editor can jump there."""

    path: str
    line: int
    wrong: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.wrong}. {self.remedy}"


Check = Callable[[Path], list[Finding]]


class Module(NamedTuple):
    path: str
    tree: ast.Module

    @property
    def nodes(self) -> list[ast.AST]:
        """All of the tree, in the order of `ast.walk`."""
        return _walked(self.tree)


def files(root: Path) -> list[str]:
    """Everything that is, or may become, part of the repository, as paths relative to root."""
    if (root / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
        names = set(listed.stdout.split("\0")) - {""}
        return sorted(name for name in names if (root / name).is_file())
    return sorted(_walk(root))


def _walk(root: Path) -> Iterator[str]:
    """An unpacked archive has no git to ask; .gitignore still says what is not ours."""
    ignored = [line.strip("/") for line in (root / ".gitignore").read_text().splitlines()]
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not _matches(name, ignored)]
        for name in names:
            if not _matches(name, ignored):
                yield str((Path(folder) / name).relative_to(root))


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def modules(root: Path, top: str = "src") -> Iterator[Module]:
    """Every module under `top`. One that does not parse is left out: lint and types report it."""
    for path in files(root):
        if path.startswith(f"{top}/") and path.endswith(".py"):
            tree = _parsed((root / path).read_text())
            if tree is not None:
                yield Module(path, tree)


@functools.cache
def _parsed(text: str) -> ast.Module | None:
    """Once for all steps; none of them changes a tree."""
    try:
        return ast.parse(text)
    except SyntaxError:
        return None


@functools.cache
def _walked(tree: ast.Module) -> list[ast.AST]:
    """Once for all steps: it takes longer than parsing."""
    return list(ast.walk(tree))


def python_paths(root: Path) -> list[str]:
    """What the tools are pointed at: the folders of Python, and the scripts in the root."""
    known = files(root)
    folders = [
        name
        for name in ("src", "tools", "tests", "benchmarks")
        if any(path.startswith(f"{name}/") and path.endswith(".py") for path in known)
    ]
    return folders + [path for path in known if "/" not in path and _is_python(root / path)]


def _is_python(path: Path) -> bool:
    if path.suffix:
        return path.suffix == ".py"
    with path.open("rb") as file:
        first = file.readline()
    return first.startswith(b"#!") and b"python" in first


class Outcome(NamedTuple):
    failed: bool
    lines: list[str]
    last: str


def run(root: Path, *command: str) -> Outcome:
    """One tool of the dev environment, plainly printed and looking at the sources of this tree."""
    plain = {"NO_COLOR": "1", "COLUMNS": "1000", "TERM": "dumb", "PYTHONPATH": str(root / "src")}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=root,
        env=os.environ | plain,
        capture_output=True,
        text=True,
        check=False,
    )
    said = (done.stdout + done.stderr).strip().splitlines() or ["it said nothing"]
    return Outcome(done.returncode != 0, done.stdout.splitlines(), said[-1])


def explained(found: list[Finding], outcome: Outcome, command: Sequence[str]) -> list[Finding]:
    """A tool that failed without naming a place must not read as a tool that passed."""
    if outcome.failed and not found:
        told = shlex.join(["python", *command])
        wrong = f"the tool failed: {outcome.last}"
        return [Finding("pyproject.toml", 1, wrong, f"Run `{told}` to see all it says")]
    return found
