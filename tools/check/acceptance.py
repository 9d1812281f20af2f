"""Step `acceptance`: what docs/design/acceptance.md calls a proof is a test or benchmark we have.

It does not run the proofs; `./test` and `./bench` do.
"""

import ast
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from check.found import Finding

PAGE = "docs/design/acceptance.md"
PROOF = re.compile(r"`\./(?P<command>test|bench) (?P<target>[^`\s]+)[^`]*`")
Parsed = Callable[[Path], list[ast.stmt]]
RULER = re.compile(r"[\s|:-]+$")


def check(root: Path) -> list[Finding]:
    """every line of the acceptance table names a test or benchmark that exists"""
    if not (root / PAGE).exists():
        return [Finding(PAGE, 1, "the acceptance table is missing", "Write it")]
    body_of = functools.cache(lambda path: ast.parse(path.read_text()).body)  # each file once
    return list(_judge(root, body_of))


def _judge(root: Path, body_of: Parsed) -> Iterator[Finding]:
    heading = True
    for number, text in enumerate((root / PAGE).read_text().splitlines(), start=1):
        if not text.startswith("|"):
            heading = True
        elif RULER.match(text):
            heading = False
        elif not heading:
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", text)[1:-1]]
            yield from (Finding(PAGE, number, *said) for said in _row(root, cells, body_of))


def _row(root: Path, cells: list[str], body_of: Parsed) -> Iterator[tuple[str, str]]:
    if len(cells) != 3:
        yield f"a row has {len(cells)} cells", "Write `| line | proof | last figure |`"
        return
    proofs = list(PROOF.finditer(cells[1]))
    if not proofs:
        yield "no proof is named", "Name `./test PATH::NAME` or `./bench NAME`"
    for proof in proofs:
        target = proof["target"]
        if proof["command"] == "bench" and not (root / f"benchmarks/{target}.py").is_file():
            yield (
                f"there is no benchmark `{target}`",
                f"Write benchmarks/{target}.py, or correct it",
            )
        if proof["command"] == "test" and not _has_test(root, target, body_of):
            yield f"there is no test `{target}`", "Write it, or correct its path and name"
    if not cells[2]:
        yield "the last figure is empty", "Run the proof and write what it showed"


def _has_test(root: Path, target: str, body_of: Parsed) -> bool:
    """Looks for `path::name` or `path::Class::name`; parameters in brackets are not looked at."""
    path, *names = target.partition("[")[0].split("::")
    if not names or not (root / path).is_file():
        return False
    body = body_of(root / path)
    for name in names:
        found = [
            node
            for node in body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and node.name == name
        ]
        if not found:
            return False
        body = found[0].body
    return True
