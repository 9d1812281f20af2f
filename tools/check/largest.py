"""What `./check` prints at the end, for judgement: whether to split or rename is about meaning."""

import ast
from collections.abc import Iterator
from pathlib import Path

from check.found import modules
from check.names import words

SHOWN = 10
DOUBTFUL = {"data", "info", "process", "handle", "do", "misc", "stuff", "tmp", "temp", "object"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def report(root: Path) -> str:
    long_functions: list[tuple[int, str]] = []
    long_modules: list[tuple[int, str]] = []
    doubtful: list[str] = []
    for path, tree in modules(root):
        long_modules.append((len((root / path).read_text().splitlines()), path))
        for node in ast.walk(tree):
            if isinstance(node, Function):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                long_functions.append((lines, f"{path}:{node.lineno} {node.name}"))
        doubtful += [f"{path}:{node.lineno} {node.name}" for node in _doubtful(tree)]
    return "\n".join(
        [
            *_ranked("largest functions", long_functions),
            *_ranked("largest modules", long_modules),
            "doubtful names" + ("" if doubtful else ": none"),
            *(f"       {name}" for name in doubtful),
        ]
    )


def _ranked(title: str, sizes: list[tuple[int, str]]) -> list[str]:
    top = sorted(sizes, key=lambda size: (-size[0], size[1]))[:SHOWN]
    return [f"{title} (lines)", *(f"{lines:6} {what}" for lines, what in top)]


def _doubtful(tree: ast.Module) -> Iterator[Function | ast.ClassDef]:
    """A name is doubtful when it is, or starts with, a word that says nothing."""
    for node in ast.walk(tree):
        if isinstance(node, Function | ast.ClassDef):
            said = words(node.name)
            if not node.name.startswith("_") and said and DOUBTFUL & {said[0], said[-1]}:
                yield node
