"""Step `tree`: nothing foreign is in the repository.

Paths of somebody's machine, addresses of package registries, generated files, unfinished work.
The patterns are written so that this file does not find itself.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from check.found import Finding, files, modules

LARGEST_BYTES = 1_000_000

FOREIGN = (
    (
        tuple(f"/{top}/" for top in ("work", "root", "home", "Users")),
        re.compile(r"(?<![\w.~}-])/(?:work|root|home|Users)/[\w.-]"),
        "a path of one machine",
        "Write it relative to the repository, or take it from the environment",
    ),
    (
        ("pypi.", "pythonhosted.", "anaconda.", "npmjs."),
        re.compile(r"\b(?:py[p]i\.org|python[h]osted\.org|anacond[a]\.org|npm[j]s\.(?:org|com))"),
        "the address of a package registry",
        "Leave it to the configuration of the machine that installs",
    ),
    (
        ("TOD", "FIXM", "XX"),
        re.compile(r"\b(?:TOD[O]|FIXM[E]|X[X]X)\b"),
        "a mark of unfinished work",
        "Finish it, or describe it in docs/design/status.md",
    ),
)
GENERATED = re.compile(
    r"(?:^|/)(?:__pycache__|\.venv[^/]*|dist|build|node_modules|\.[a-z_]+_cache|[^/]+\.egg-info)(?:/|$)"
    r"|\.(?:pyc|pyo|so|whl|log|db|db-wal|db-shm)$"
)


def check(root: Path) -> list[Finding]:
    """no machine paths, registries, generated or huge files, unfinished or empty parts"""
    return [*_foreign(root), *_empty(root)]


def _foreign(root: Path) -> Iterator[Finding]:
    for path in files(root):
        content = (root / path).read_bytes()
        if GENERATED.search(path):
            yield Finding(path, 1, "a generated file", "Delete it, and list it in .gitignore")
        if len(content) > LARGEST_BYTES:
            yield Finding(path, 1, f"{len(content)} bytes", f"Keep files under {LARGEST_BYTES}")
        try:
            text = content.decode()
        except UnicodeDecodeError:
            continue
        # The words of each pattern, which are soon looked for, are in few files.
        here = [each for each in FOREIGN if any(word in text for word in each[0])]
        for number, line in enumerate(text.splitlines() if here else (), start=1):
            for _, pattern, wrong, remedy in here:
                if match := pattern.search(line):
                    yield Finding(path, number, f"{wrong}: `{match[0]}`", remedy)


def _empty(root: Path) -> Iterator[Finding]:
    """A package appears with its first code; without `__init__.py` other steps would not see it."""
    source = {module.path: module.tree for module in modules(root)}
    folders = {str(PurePosixPath(path).parent) for path in source}
    for folder in sorted(folders):
        init = f"{folder}/__init__.py"
        inside = [path for path in source if path.startswith(f"{folder}/") and path != init]
        if folder != "src" and init not in source:
            wrong = "a package without __init__.py, which the import contracts cannot see"
            yield Finding(inside[0], 1, wrong, f"Write {init} with its docstring")
        elif init in source and not inside and not _has_code(source[init]):
            yield Finding(init, 1, "an empty package", "Delete it until its first code exists")


def _has_code(tree: ast.Module) -> bool:
    return any(not isinstance(node, ast.Expr) for node in tree.body)
