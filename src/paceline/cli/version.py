"""`paceline version`: what is installed."""

import platform
import sys
from typing import Annotated

import msgspec
import typer

import paceline


def version(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show which version runs, and on what.

    Example: paceline version --json
    """
    python = platform.python_version()
    if as_json:
        shown = {"paceline": paceline.__version__, "python": python, "path": sys.prefix}
        print(msgspec.json.encode(shown).decode())
    else:
        print(f"paceline {paceline.__version__}, Python {python}, {sys.prefix}")
