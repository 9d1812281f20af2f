"""Step `calls`: time and chance are injected (STYLE: a decision that reads a clock cannot be
simulated, and one that rolls its own dice cannot be replayed).

It resolves names through imports and aliases, and judges every mention, not only calls: a clock
passed as `default_factory` is a clock too. What only a test can see (a clock reached through a
third party) is not its business.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from check.found import Finding, Module, modules

INJECT_TIME = "Take a Clock (paceline/clock.py), or take `now` as an argument"
INJECT_CHANCE = "Take a seeded random.Random from the caller"
INJECT_SECRETS = "Make secrets in access/, or list the place in tools/check/calls.py with a reason"

BANNED = {
    "time.time": INJECT_TIME,
    "time.time_ns": INJECT_TIME,
    "time.monotonic": INJECT_TIME,
    "time.monotonic_ns": INJECT_TIME,
    "time.perf_counter": INJECT_TIME,
    "time.perf_counter_ns": INJECT_TIME,
    "time.clock_gettime": INJECT_TIME,
    "time.clock_gettime_ns": INJECT_TIME,
    "time.sleep": INJECT_TIME,
    "asyncio.sleep": "Wait for an event, or use the Clock's sleep",
    "loop.time": INJECT_TIME,
    "datetime.datetime.now": INJECT_TIME,
    "datetime.datetime.utcnow": INJECT_TIME,
    "datetime.datetime.today": INJECT_TIME,
    "datetime.date.today": INJECT_TIME,
    "os.urandom": INJECT_SECRETS,
    "uuid.uuid1": INJECT_SECRETS,
    "uuid.uuid4": INJECT_SECRETS,
}
BANNED_MODULES = {
    "random": INJECT_CHANCE,
    "numpy.random": INJECT_CHANCE,
    "secrets": INJECT_SECRETS,
}
# Fine with arguments (a seed, a moment), banned without.
BANNED_BARE = {
    "random.Random": INJECT_CHANCE,
    "numpy.random.default_rng": INJECT_CHANCE,
    "time.localtime": INJECT_TIME,
    "time.gmtime": INJECT_TIME,
    "time.ctime": INJECT_TIME,
}
TYPES = {"numpy.random.Generator"}


class Allowance(NamedTuple):
    place: str
    calls: frozenset[str]
    reason: str


ALLOWED = (
    Allowance(
        "src/paceline/clock.py",
        frozenset(BANNED) | set(BANNED_MODULES) | set(BANNED_BARE),
        "the one place where real time and chance enter",
    ),
    Allowance(
        "src/paceline/access/",
        frozenset({"os.urandom", "secrets"}),
        "keys must be unpredictable, so no seed may reproduce them",
    ),
)


def check(root: Path) -> list[Finding]:
    """time and chance are injected: no clock, sleep or dice outside clock.py"""
    return [finding for module in modules(root) for finding in _judge(module)]


def _judge(module: Module) -> Iterator[Finding]:
    aliases = _aliases(module.nodes)
    bare = {
        id(node.func)
        for node in module.nodes
        if isinstance(node, ast.Call) and not node.args and not node.keywords
    }
    yields = {
        id(node.func)
        for node in module.nodes
        if isinstance(node, ast.Call) and [getattr(it, "value", None) for it in node.args] == [0]
    }
    # `time` in `time.sleep` is a name of its own to ast.walk; only the whole chain is judged.
    inner = {id(node.value) for node in module.nodes if isinstance(node, ast.Attribute)}
    for node in module.nodes:
        if not isinstance(node, ast.Name | ast.Attribute) or id(node) in inner:
            continue
        name = _resolve(node, aliases)
        if name == "asyncio.sleep" and id(node) in yields:  # lets others run; waits for nothing
            continue
        remedy = _remedy(name, bare=id(node) in bare)
        if remedy and not _allowed(module.path, name):
            yield Finding(module.path, node.lineno, f"{name} is used here", remedy)


def _aliases(nodes: list[ast.AST]) -> dict[str, str]:
    """What each imported name stands for: `import time as t` makes `t` stand for `time`."""
    known: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for name in node.names:
                first = name.name.partition(".")[0]
                known[name.asname or first] = name.name if name.asname else first
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in node.names:
                known[name.asname or name.name] = f"{node.module}.{name.name}"
    return known


def _resolve(node: ast.expr, aliases: dict[str, str]) -> str:
    """The full name of a dotted chain, or "" for what cannot be told from the text."""
    if isinstance(node, ast.Name):
        return aliases.get(node.id, "")
    if not isinstance(node, ast.Attribute):
        return ""
    if node.attr == "time" and _is_loop(node.value, aliases):
        return "loop.time"
    owner = _resolve(node.value, aliases)
    return f"{owner}.{node.attr}" if owner else ""


def _is_loop(node: ast.expr, aliases: dict[str, str]) -> bool:
    """`loop`, `self._loop`, `asyncio.get_running_loop()`: loops are called so everywhere."""
    if isinstance(node, ast.Call):
        return _resolve(node.func, aliases).endswith("_loop")
    name = node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")
    return str(name).endswith("loop")


def _remedy(name: str, *, bare: bool) -> str:
    if name in BANNED_BARE:
        return BANNED_BARE[name] if bare else ""
    if name in BANNED:
        return BANNED[name]
    if name in TYPES:
        return ""
    return next((why for top, why in BANNED_MODULES.items() if name.startswith(f"{top}.")), "")


def _allowed(path: str, name: str) -> bool:
    return any(
        path.startswith(allowance.place)
        and any(name == call or name.startswith(f"{call}.") for call in allowance.calls)
        for allowance in ALLOWED
    )
