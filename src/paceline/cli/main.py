"""The command line: one module per command; errors become messages and exit codes."""

import errno
import io
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

import msgspec
import typer
import typer.main

from paceline.cli.streams import standard_streams
from paceline.terms.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    DiskFull,
    Misuse,
    PacelineError,
)

GROUPS = ("key", "config", "journal", "plan", "said", "alerts", "demo")
"""of commands: the `app` of their module"""

COMMANDS = (
    *("serve", "up", "doctor", "key", "config", "journal", "plan", "why", "calls", "said"),
    *("traces", "report", "profile", "alerts", "simulate", "load", "demo", "version"),
)
"""as the help lists them; each is, or is in, the module of its name"""

LINE_END = "\n"
"""between faults that are told together"""

WELCOME = """\
Paceline serves models, and holds them to what you say they must achieve.

  paceline serve     serve one model: an ONNX file, or a callable of Python
  paceline up        serve what paceline.toml says; without one, an example: handwritten digits
  paceline doctor    what this machine offers, what is installed, what is missing
  paceline key       make, list and revoke the keys that callers need
  paceline config    check, show and write the settings file, paceline.toml
  paceline journal   look at the memory of it all, check it, copy and move it
  paceline plan      see how models are served, change it, take it back
  paceline why       why a knob is as it is: its story
  paceline calls     the last LLM calls, and where their time went
  paceline said      what was said in LLM calls, where it is kept, and to forget it
  paceline traces    where the time of the slowest requests to a model went
  paceline report    what a model did: latency, throughput, queue, machine, cost
  paceline profile   what a process does or holds, and what a model's time goes to
  paceline alerts    what fires, who sees to it, and quiet for a while
  paceline simulate  see how requests would be served, before there are any
  paceline load      send requests to a server at a rate, and time its answers

`paceline COMMAND --help` explains one of them.
"""


def command_line(asked: str = "") -> typer.Typer:
    """With all commands; with one alone where that is asked for, for most of the time that a short
    command took was spent on the others."""
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

    for name in (asked,) if asked in COMMANDS else COMMANDS:
        module = import_module(f"paceline.cli.{name}")
        if name in GROUPS:
            app.add_typer(module.app, name=name)
        else:
            app.command()(getattr(module, name))
    return app


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns the exit code. What goes wrong is said on standard error."""
    as_json = "--json" in arguments
    with standard_streams() as output:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # no arrows: no reason to fail
                stream.reconfigure(errors="replace")
        try:
            status = _run(arguments, as_json)
        except OSError as error:
            if output is None or error is not output.trouble:
                raise
            return _unwritten(error, as_json)
        if output is not None and output.trouble is None:
            try:
                sys.stdout.flush()
            except OSError as error:
                return status or _unwritten(error, as_json)  # one message, the first
        return status


def _run(arguments: Sequence[str], as_json: bool) -> int:
    try:
        # Not by typer's own `main`, which makes a closed pipe an exit code of 1.
        command = typer.main.get_command(command_line(arguments[0] if arguments else ""))
        with command.make_context("paceline", list(arguments)) as context:
            result = command.invoke(context)
        return result if isinstance(result, int) else EXIT_OK
    except typer.Exit as done:
        return done.exit_code
    except PacelineError as error:
        _say(error.as_fields(), as_json)
        return error.exit
    except typer.TyperException as error:
        _say(_of_usage(error), as_json)
        return EXIT_USAGE
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(as_json)


def _unwritten(error: OSError, as_json: bool) -> int:
    """The answer could not be written to standard output, whatever it was."""
    if error.errno == errno.EPIPE:
        return EXIT_OK  # its reader has gone, having seen enough
    told: PacelineError
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        told = DiskFull(
            "no space is left for the output",
            value="standard output",
            remedy="Free some space, or write it elsewhere. What was to be changed is changed.",
        )
    else:
        closed = error.errno == errno.EBADF
        told = Misuse(
            "standard output is closed" if closed else f"cannot write the output: {error.strerror}",
            value="standard output",
            remedy="Send it to a terminal, a file or a pipe. What was to be changed is changed.",
        )
    _say(told.as_fields(), as_json)
    return told.exit


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
    with suppress(OSError):  # then nobody can be told; the exit code is left
        print(_in_json(fields) if as_json else _in_words(fields), file=sys.stderr, flush=True)


def _in_json(fields: dict[str, str]) -> str:
    return msgspec.json.encode(fields).decode()


def _in_words(fields: dict[str, str]) -> str:
    lines = [f"paceline: {_harmless(fields['error'], keep=LINE_END)}"]
    if "value" in fields:
        lines.append(f"  value: {_harmless(fields['value'])}")
    if fields["remedy"]:
        lines.append(f"  {_harmless(fields['remedy'], keep=LINE_END)}")
    return "\n".join(lines)


def _harmless(text: str, keep: str = "") -> str:
    """Parts of it were written by others: what a terminal would obey is shown as an escape."""
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode()
        for each in text
    )
