"""Step `names`: a module or class is named by what it does, never by a word that fits anything."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from check.found import Finding, modules

BANNED = {"manager", "engine", "util", "utils", "helper", "helpers", "base", "common"}
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
REMEDY = "Name it by what it does"


def words(name: str) -> list[str]:
    """`HTTPLinkBase` and `http_link_base` are the same three words."""
    return [word.lower() for word in WORD.findall(name)]


def check(root: Path) -> list[Finding]:
    """no module or class is a manager, engine, util, helper, base or common"""
    return list(_judge(root))


def _judge(root: Path) -> Iterator[Finding]:
    for module in modules(root):
        for part in PurePosixPath(module.path).with_suffix("").parts:
            for word in BANNED.intersection(words(part)):
                yield Finding(module.path, 1, f"`{word}` is in the name `{part}`", REMEDY)
        for node in module.nodes:
            if isinstance(node, ast.ClassDef):
                for word in BANNED.intersection(words(node.name)):
                    wrong = f"`{word}` is in the name `{node.name}`"
                    yield Finding(module.path, node.lineno, wrong, REMEDY)
