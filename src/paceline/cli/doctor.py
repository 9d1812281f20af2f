"""`paceline doctor`: shows the checkup of this machine, as a table, as text or as JSON."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from paceline.config import DEFAULT_STATE

if TYPE_CHECKING:
    from paceline.cli.checkup import Extra, Problem, Report

NAME_CHARS = 16


def doctor(
    state: Annotated[str, typer.Option(help="The server's state directory.")] = DEFAULT_STATE,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show what this machine offers, what is installed, and what would hold Paceline back.

    Example: paceline doctor --json
    """
    from paceline.cli.checkup import collect

    report = collect(Path(state))
    if as_json:
        print(msgspec.json.encode(report).decode())
    elif sys.stdout.isatty():
        _print_table(report)
    else:
        _print_plain(report)


def sections(report: "Report") -> list[tuple[str, list[tuple[str, str]]]]:
    """The report as headings over rows of name and value, for either way of printing."""
    from paceline.cli.checkup import size

    seen, machine, gpu = report.container, report.host, report.gpu
    limit_bytes = seen.memory_limit_bytes
    return [
        (
            "Versions",
            [
                ("paceline", report.paceline),
                ("python", report.python),
                ("system", report.system),
                *((package.name, package.version or "MISSING") for package in report.packages),
            ],
        ),
        (
            "Machine",
            [
                ("cores", f"{seen.cores:g} of {machine.cores}"),
                (
                    "memory",
                    f"{size(limit_bytes)} of {size(machine.memory_bytes)}"
                    if limit_bytes is not None
                    else f"{size(machine.memory_bytes)}, no limit",
                ),
                ("in use", f"{size(seen.memory_used_bytes)} (cgroup {seen.cgroup})"),
                ("cpu", machine.cpu_model),
                ("instructions", ", ".join(machine.instructions) or "none that matter here"),
                ("gpu", "; ".join(gpu.cards or gpu.devices) or "none"),
                (
                    f"{gpu.runtime or 'onnxruntime'} for",
                    ", ".join(gpu.providers) or "nothing: not installed",
                ),
                ("open files", f"{report.open_files_soft} (up to {report.open_files_hard})"),
                ("state", f"{report.state.path}, {size(report.state.free_bytes)} free"),
            ],
        ),
        ("Extras", [(e.name, _extra_line(e)) for e in report.extras] or [("unknown", "")]),
    ]


def _extra_line(extra: "Extra") -> str:
    if not extra.missing:
        return "present: " + ", ".join(f"{p.name} {p.version}" for p in extra.packages)
    return f"missing {', '.join(extra.missing)}; get it with: {extra.install}"


def _print_plain(report: "Report") -> None:
    for heading, rows in sections(report):
        print(heading)
        for name, value in rows:
            print(f"  {name:<{NAME_CHARS}}  {value}")
        print()
    for line in _problem_lines(report.problems):
        print(line)


def _print_table(report: "Report") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    screen = Console(highlight=False)
    for heading, rows in sections(report):
        screen.print(Text(heading, style="bold"))
        table = Table(box=None, show_header=False, padding=(0, 2))
        table.add_column(style="cyan", no_wrap=True, min_width=NAME_CHARS)
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(Text(name), Text(value))
        screen.print(table, "")
    for line in _problem_lines(report.problems):
        screen.print(Text(line, style="yellow" if report.problems else "green"), soft_wrap=True)


def _problem_lines(problems: "Iterable[Problem]") -> list[str]:
    lines = [f"- {problem.what}\n  {problem.remedy}" for problem in problems]
    return ["Problems", *lines] if lines else ["No problems found."]
