"""Step `docs`: the reference equals the code, links lead somewhere, modules say what they are.

Whether the prose is true is for the slow tests, which run it, and for readers.
"""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from check.found import Finding, explained, files, modules, run

REFERENCE = ["tools/reference.py"]
MADE = (".md", ".yml", ".json")
LINK = re.compile(r"\]\((?P<target>[^)\s]+)(?: \"[^\"]*\")?\)")
ELSEWHERE = re.compile(r"[a-z]+:|#")
FENCE = re.compile(r"\s*(?:```|~~~)")

LIMITS = "src/paceline/terms/limits.py"
SETTINGS = "src/paceline/config/__init__.py"
METRICS = "src/paceline/terms/metric.py"


def check(root: Path) -> list[Finding]:
    """the reference equals the code, links resolve, every module has a docstring"""
    return [
        *_reference(root),
        *_limits(root),
        *_metrics(root),
        *_settings(root),
        *_links(root),
        *_docstrings(root),
    ]


def write(root: Path) -> None:
    run(root, *REFERENCE)


def _reference(root: Path) -> list[Finding]:
    command = [*REFERENCE, "--check"]
    outcome = run(root, *command)
    wrong = "not what the code says now"
    stale = [line for line in outcome.lines if line.endswith(MADE)]
    found = [Finding(path, 1, wrong, "Run `./check --write docs`") for path in stale]
    return explained(found, outcome, command)


def _limits(root: Path) -> Iterator[Finding]:
    """A bound without a text below it would stand in the reference without a meaning."""
    body = [node for path, tree in modules(root) if path == LIMITS for node in tree.body]
    for node, below in pairwise([*body, ast.Pass()]):
        told = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(node, ast.Assign) and not told:
            wrong = f"{ast.unparse(node.targets[0])} is not explained in the reference"
            yield Finding(LIMITS, node.lineno, wrong, "Say below it what it bounds")


def _metrics(root: Path) -> Iterator[Finding]:
    """A metric that METRICS leaves out would be in no reference."""
    for path, tree in modules(root):
        if path != METRICS:
            continue
        made = {
            target.id: node
            for node in tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name) and target.id.isupper()
        }
        table = made.pop("METRICS", ast.Pass())
        shown = {node.id for node in ast.walk(table) if isinstance(node, ast.Name)}
        for name in made.keys() - shown:
            wrong = f"{name} is not in METRICS, so the reference does not show it"
            yield Finding(METRICS, made[name].lineno, wrong, "Add it to METRICS")


def _settings(root: Path) -> Iterator[Finding]:
    """A setting without a description would have no meaning in the reference, nor in --help."""
    classes = [
        node
        for path, tree in modules(root)
        if path == SETTINGS
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    ]
    for owner in classes:
        for node in owner.body:
            if isinstance(node, ast.AnnAssign) and not _described(node.annotation):
                wrong = f"{owner.name}.{ast.unparse(node.target)} is not explained in the reference"
                yield Finding(
                    SETTINGS, node.lineno, wrong, "Say what it means in Meta(description)"
                )


def _described(annotation: ast.expr) -> bool:
    return any(
        isinstance(node, ast.keyword)
        and node.arg == "description"
        and not (isinstance(node.value, ast.Constant) and not node.value.value)
        for node in ast.walk(annotation)
    )


def _links(root: Path) -> Iterator[Finding]:
    for path in files(root):
        if not path.endswith(".md"):
            continue
        fenced = False
        for number, line in enumerate((root / path).read_text().splitlines(), start=1):
            if FENCE.match(line):
                fenced = not fenced
            elif not fenced:
                for link in LINK.finditer(line):
                    target = link["target"].partition("#")[0]
                    if ELSEWHERE.match(link["target"]):
                        continue
                    if not (root / path).parent.joinpath(target).exists():
                        wrong = f"the link leads to `{target}`, which is not there"
                        yield Finding(path, number, wrong, "Correct or remove it")


def _docstrings(root: Path) -> Iterator[Finding]:
    for path, tree in modules(root):
        if not ast.get_docstring(tree):
            wrong = "the module has no docstring"
            yield Finding(path, 1, wrong, "Say what it is, what it is not, and who calls it")
