"""Step `errors`: whoever meets an error learns what to do, and the one table knows every code.

Bugs may stay plain Python (`assert`, `TypeError`); what a person can meet is a PacelineError.
"""

import ast
import builtins
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from check.found import Finding, Module, modules

HOME = "src/paceline/terms/errors.py"
TREE = "PacelineError"

# They report a bug to a programmer, are how Python itself talks, or only hold other errors.
PLAIN = {
    "AssertionError",
    "AttributeError",
    "BaseExceptionGroup",
    "ExceptionGroup",
    "StopAsyncIteration",
    "StopIteration",
    "TypeError",
}
BUILTIN = {
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException)
} - PLAIN
BROAD = {"Exception", "BaseException"}

# Fakes must raise what the operating system raises.
EXEMPT = "src/paceline/testing/"


class Class(NamedTuple):
    path: str
    line: int
    name: str
    code: str


def check(root: Path) -> list[Finding]:
    """every error has a code in the table and a remedy, and none is swallowed"""
    source = list(modules(root))
    classes = _classes(source)
    found = list(_table(source, classes.values()))
    for module in source:
        for node in module.nodes:
            if isinstance(node, ast.Call):
                found += _call(module.path, node, classes)
            elif isinstance(node, ast.Raise):
                found += _raise(module.path, node, classes)
            elif isinstance(node, ast.ExceptHandler):
                found += _except(module.path, node)
    return found


def _classes(source: list[Module]) -> dict[str, Class]:
    """The tree, wherever its branches are defined; a few rounds reach the deepest subclass."""
    nodes = [
        (module.path, node)
        for module in source
        for node in module.nodes
        if isinstance(node, ast.ClassDef)
    ]
    known: dict[str, Class] = {}
    while True:
        fresh = {
            node.name: Class(path, node.lineno, node.name, _code(node))
            for path, node in nodes
            if node.name not in known
            and (node.name == TREE or any(_last(base) in known for base in node.bases))
        }
        if not fresh:
            return known
        known |= fresh


def _code(node: ast.ClassDef) -> str:
    for line in node.body:
        match line:
            case (
                ast.Assign(targets=[ast.Name(id="code")], value=ast.Constant(value=str(code)))
                | ast.AnnAssign(target=ast.Name(id="code"), value=ast.Constant(value=str(code)))
            ):
                return code
    return ""


def _table(source: list[Module], classes: Collection[Class]) -> Iterator[Finding]:
    """Every class has a row of its own, and every row a class."""
    rows = _rows(source)
    seen: dict[str, str] = {}
    for path, line, name, code in classes:
        if not code:
            yield Finding(path, line, f"{name} has no code", 'Give it `code = "..."` of its own')
        elif code in seen:
            wrong = f"{name} has the code of {seen[code]}"
            yield Finding(path, line, wrong, "Give it a code of its own")
        elif code not in rows:
            yield Finding(path, line, f"{name} has no row in TABLE", f'Add "{code}" in {HOME}')
        seen.setdefault(code, name)
    for code, line in rows.items():
        if code not in seen:
            yield Finding(HOME, line, f'no class has the code "{code}"', "Remove the row")


def _rows(source: list[Module]) -> dict[str, int]:
    for node in (n for m in source if m.path == HOME for n in m.tree.body):
        match node:
            case (
                ast.Assign(targets=[ast.Name(id="TABLE")], value=ast.Dict(keys=keys))
                | ast.AnnAssign(target=ast.Name(id="TABLE"), value=ast.Dict(keys=keys))
            ):
                return {str(k.value): k.lineno for k in keys if isinstance(k, ast.Constant)}
    return {}


def _call(path: str, node: ast.Call, classes: Mapping[str, Class]) -> Iterator[Finding]:
    """Judged where the error is made: some are returned or stored before they are raised."""
    name = _last(node.func)
    if name not in classes:
        return
    given = {word.arg: word.value for word in node.keywords}
    if None in given:  # `**fields` of an error that crossed a process boundary; mypy judges it
        return
    if "remedy" not in given or _is_empty(given["remedy"]):
        wrong = f"{name} is made without a remedy"
        yield Finding(path, node.lineno, wrong, 'Pass remedy="what the reader can do now"')


def _is_empty(node: ast.expr) -> bool:
    if isinstance(node, ast.JoinedStr):
        return not node.values
    return isinstance(node, ast.Constant) and not str(node.value or "").strip()


def _raise(path: str, node: ast.Raise, classes: Mapping[str, Class]) -> Iterator[Finding]:
    raised = node.exc
    name = _last(raised.func if isinstance(raised, ast.Call) else raised)
    if name in classes and not isinstance(raised, ast.Call):
        wrong = f"{name} is raised without a remedy"
        yield Finding(path, node.lineno, wrong, f'Raise {name}("cause", remedy="what to do")')
    elif name in BUILTIN and not path.startswith(EXEMPT):
        remedy = f"Raise an error from {HOME}, or assert what only a bug could break"
        yield Finding(path, node.lineno, f"{name} is raised, which carries no remedy", remedy)


def _except(path: str, node: ast.ExceptHandler) -> Iterator[Finding]:
    idle = all(isinstance(line, ast.Pass | ast.Continue) or _is_text(line) for line in node.body)
    if node.type is None:
        yield Finding(path, node.lineno, "`except:` catches everything", "Name what is expected")
    elif idle and _last(node.type) in BROAD:
        wrong = f"`except {_last(node.type)}` swallows what it caught"
        yield Finding(path, node.lineno, wrong, "Name what is expected, or log and re-raise it")


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)


def _last(node: ast.expr | None) -> str:
    """`errors.BadJson` and `BadJson` are the same class to us."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
