"""Step `docs`: the reference equals the code, links lead somewhere, modules say what they are.

Whether the prose is true is for the slow tests, which run it, and for readers.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from check.found import Finding, explained, files, modules, run

REFERENCE = ["tools/reference.py"]
LINK = re.compile(r"\]\((?P<target>[^)\s]+)(?: \"[^\"]*\")?\)")
ELSEWHERE = re.compile(r"[a-z]+:|#")
FENCE = re.compile(r"\s*(?:```|~~~)")

# Modules that are tables: every constant made in them belongs to the table the reference shows.
TABLES = {"src/paceline/terms/limits.py": "LIMITS", "src/paceline/terms/metric.py": "METRICS"}


def check(root: Path) -> list[Finding]:
    """the reference equals the code, links resolve, every module has a docstring"""
    return [*_reference(root), *_tables(root), *_links(root), *_docstrings(root)]


def write(root: Path) -> None:
    run(root, *REFERENCE)


def _reference(root: Path) -> list[Finding]:
    command = [*REFERENCE, "--check"]
    outcome = run(root, *command)
    wrong = "not what the code says now"
    stale = [line for line in outcome.lines if line.endswith(".md")]
    found = [Finding(path, 1, wrong, "Run `./check --write docs`") for path in stale]
    return explained(found, outcome, command)


def _tables(root: Path) -> Iterator[Finding]:
    """A bound or a metric that its table leaves out would be in no reference."""
    for module in modules(root):
        title = TABLES.get(module.path)
        if title is None:
            continue
        made = {
            target.id: node
            for node in module.tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name) and target.id.isupper()
        }
        shown = {
            node.id for node in ast.walk(made.pop(title, ast.Pass())) if isinstance(node, ast.Name)
        }
        for name in made.keys() - shown:
            wrong = f"{name} is not in {title}, so the reference does not show it"
            yield Finding(module.path, made[name].lineno, wrong, f"Add it to {title}")


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
