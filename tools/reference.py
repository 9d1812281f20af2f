"""Writes docs/reference/*.md from the tables in the code, so that neither can say something else.

Without arguments it writes; `--check` names the pages that are not what the code says now. It
explains nothing: guides do. Called by `./check docs` and `./check --write docs`.
"""

import ast
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

from paceline.cli.main import command_line
from paceline.terms import limits as bounds
from paceline.terms.errors import EXIT_CODES, TABLE
from paceline.terms.metric import METRICS

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "docs/reference"
LIMITS = "src/paceline/terms/limits.py"
MADE = "<!-- Written by `./check --write docs` from {source}; edit that. -->"


def errors() -> str:
    rows = [(f"`{code}`", row.http, row.exit, row.meaning) for code, row in TABLE.items()]
    exits = [(code, meaning) for code, meaning in EXIT_CODES.items()]
    return page(
        "Errors and exit codes",
        "src/paceline/terms/errors.py",
        "Every error says what happened, with which value, and what to do. As JSON it has the\n"
        "fields `error` (what happened), `code`, `remedy` and, where there is one, `value`.",
        table(("code", "HTTP", "exit", "meaning"), rows),
        "## Exit codes",
        table(("exit", "meaning"), exits),
    )


def metrics() -> str:
    rows = [
        (
            f"`{metric.name}`",
            metric.kind,
            metric.unit,
            ", ".join(f"`{label}`" for label in metric.labels),
            metric.help,
        )
        for metric in METRICS
    ]
    return page(
        "Metrics",
        "src/paceline/terms/metric.py",
        "What `GET /metrics` shows, in the Prometheus text format. A sketch is exposed as a\n"
        "summary: its quantiles have a relative error of at most 1 %.",
        table(("name", "kind", "unit", "labels", "meaning"), rows),
    )


def limits() -> str:
    source = (ROOT / LIMITS).read_text()
    rows = [
        (f"`{name}`", f"{getattr(bounds, name):,.12g}".replace(",", " "), meaning)
        for name, meaning in constants(ast.parse(source))
    ]
    return page(
        "Limits",
        LIMITS,
        "Every bound on a queue, a body, a retry or a wait. The end of a name is its unit.",
        table(("name", "value", "what it bounds"), rows),
    )


def constants(module: ast.Module) -> Iterator[tuple[str, str]]:
    """Each constant with the text below it; `./check docs` finds those without one."""
    for node, below in pairwise(module.body):
        match node, below:
            case (
                ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(meaning))),
            ):
                yield name, meaning


WIDTH = 1000
"""Help is not wrapped for a page, however wide the terminal is that it is made in."""


def cli() -> str:
    root = typer.main.get_command(command_line())
    parts = [
        part for path, command in commands("paceline", root) for part in section(path, command)
    ]
    return page(
        "Commands",
        "src/paceline/cli/",
        "What `--help` says of each command. Exit codes are in [errors.md](errors.md).",
        *parts,
    )


def commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """A command and what is below it; typer's classes are its own, hence Any."""
    yield path, command
    if hasattr(command, "list_commands"):
        context = command.context_class(command, info_name=path)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if not child.hidden:
                yield from commands(f"{path} {name}", child)


def section(path: str, command: Any) -> Iterator[str]:
    context = command.context_class(command, info_name=path, terminal_width=WIDTH)
    yield f"## {path}"
    if command.help:
        yield inspect.cleandoc(command.help)
    yield f"```\n{command.get_usage(context)}\n```"
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    shown = [(f"`{name}`", meaning) for name, meaning in filter(None, records)]
    if shown:
        yield table(("argument", "meaning"), shown)


def page(title: str, source: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", MADE.format(source=source), *parts]) + "\n"


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli,
    "errors.md": errors,
    "limits.md": limits,
    "metrics.md": metrics,
}


def main(*arguments: str) -> int:
    stale = []
    for name, write in PAGES.items():
        path, text = ROOT / FOLDER / name, write()
        if not path.exists() or path.read_text() != text:
            stale.append(f"{FOLDER}/{name}")
            if "--check" not in arguments:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    print(*stale, sep="\n")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
