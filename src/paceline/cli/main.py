"""The command line: one module per command; errors become messages and exit codes."""

import io
import sys
from collections.abc import Sequence

import msgspec
import typer

from paceline.cli import config, demo, journal, key, plan
from paceline.cli.doctor import doctor
from paceline.cli.up import up
from paceline.cli.version import version
from paceline.cli.why import why
from paceline.terms.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    PacelineError,
)

WELCOME = """\
Paceline serves models: today the shipped example, handwritten digits; your own come next.

  paceline up        serve the example on one port, with a page, metrics and keys
  paceline doctor    what this machine offers, what is installed, what is missing
  paceline key       make, list and revoke the keys that callers need
  paceline config    check, show and write the settings file, paceline.toml
  paceline journal   look at the memory of it all, check it, copy and move it
  paceline plan      see how models are served, change it, take it back
  paceline why       why a knob is as it is: its story
  paceline demo      make the example model again
  paceline version   what is installed

`paceline COMMAND --help` explains one of them.
"""


def command_line() -> typer.Typer:
    app = typer.Typer(
        name="paceline",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="Say what an AI workload must achieve; Paceline runs it and keeps proving it.",
    )

    @app.callback(invoke_without_command=True)
    def welcome(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            print(WELCOME, end="")

    app.command()(up)
    app.command()(doctor)
    app.add_typer(key.app, name="key")
    app.add_typer(config.app, name="config")
    app.add_typer(journal.app, name="journal")
    app.add_typer(plan.app, name="plan")
    app.command()(why)
    app.add_typer(demo.app, name="demo")
    app.command()(version)
    return app


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns the exit code. What goes wrong is said on standard error."""
    as_json = "--json" in arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a screen without arrows is no reason to fail
            stream.reconfigure(errors="replace")
    try:
        result = command_line()(args=list(arguments), prog_name="paceline", standalone_mode=False)
        if result == EXIT_INTERRUPTED:  # typer says no more of a Ctrl-C
            return _interrupted(as_json)
        return result if isinstance(result, int) else EXIT_OK
    except PacelineError as error:
        _say(error.as_fields(), as_json)
        return error.exit
    except typer.TyperException as error:
        _say(_of_usage(error), as_json)
        return EXIT_USAGE
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(as_json)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; there is nobody to tell
        return EXIT_OK


def _interrupted(as_json: bool) -> int:
    _say({"error": "interrupted", "code": "interrupted", "remedy": ""}, as_json)
    return EXIT_INTERRUPTED


def _of_usage(error: typer.TyperException) -> dict[str, str]:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "paceline"
    return {
        "error": error.format_message().rstrip("."),
        "code": "usage",
        "remedy": f"`{path} --help` shows what is possible.",
    }


def _say(fields: dict[str, str], as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(fields).decode(), file=sys.stderr)
        return
    lines = [f"paceline: {fields['error']}"]
    if "value" in fields:
        lines.append(f"  value: {fields['value']}")
    if fields["remedy"]:
        lines.append(f"  {fields['remedy']}")
    print("\n".join(lines), file=sys.stderr)
