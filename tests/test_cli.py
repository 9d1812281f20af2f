"""The command line as somebody new meets it: what helps, and what wrong turns are answered."""

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from paceline.cli.main import command_line, run
from paceline.terms.errors import (
    EXIT_EXTRA,
    EXIT_START,
    EXIT_STATE,
    EXIT_USAGE,
)

Done = subprocess.CompletedProcess[str]


def paceline(*arguments: str, environ: dict[str, str] | None = None) -> Done:
    return subprocess.run(
        [sys.executable, "-m", "paceline", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **(environ or {})},
    )


def here(*arguments: str) -> Done:
    """The same in this process, which says and returns the same and need not start: for all but
    `up` with sound settings, whose logging would last."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as errors:
        status = run(arguments)
    return Done(arguments, status, out.getvalue(), errors.getvalue())


def refused(done: Done, status: int, *says: str) -> None:
    assert done.returncode == status, done
    assert "Traceback" not in done.stderr
    cause, *advice = done.stderr.strip().splitlines()
    assert cause.startswith("paceline: ")
    assert advice, "an error without a remedy"
    for words in says:
        assert words in done.stderr


def test_without_a_command_it_shows_where_to_begin() -> None:
    done = paceline()
    assert done.returncode == 0
    assert "paceline up" in done.stdout
    assert len(done.stdout.splitlines()) <= 24


@pytest.mark.parametrize("group", ["key", "config", "demo"])
def test_a_group_without_a_command_shows_its_commands(group: str) -> None:
    done = here(group)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Commands:" in done.stdout


def leaves(group: Any, *path: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, *path, name)
        else:
            yield (*path, name)


def test_each_commands_help_has_an_example_and_json() -> None:
    commands = [*leaves(get_command(command_line()))]
    assert {("up",), ("key", "create"), ("alerts", "ack")} <= {*commands}
    for command in commands:
        text = " ".join(here(*command, "--help").stdout.split())
        assert f"Example: paceline {' '.join(command)}" in text, command
        assert "--json" in text, command


MISTAKES = [
    (["upp"], EXIT_USAGE, "Did you mean 'up'?"),
    (["up", "--prot", "1"], EXIT_USAGE, "--port"),
    (["up", "--port", "abc"], EXIT_USAGE, "abc"),
    (["up", "--port", "70000"], EXIT_START, "70000"),
    (["up", "--fronts", "-1"], EXIT_START, "--fronts"),
    (["up", "--insecure", "--require-keys"], EXIT_START, "contradict"),
    (["up", "--drain-s", "0.5"], EXIT_START, "--drain-s"),
    (["up", "--log-level", "loud"], EXIT_USAGE, "warning"),
    (["up", "--config", "no.toml"], EXIT_START, "paceline config init"),
    (["key", "create", "two words"], EXIT_USAGE, "two words"),
    (["key", "create", "x", "--role", "boss"], EXIT_USAGE, "admin"),
    (["key", "revoke", "nobody"], EXIT_USAGE, "--state"),
]
STARTS_IN_VAIN = [
    (["up", "--insecure", "--host", "192.0.2.1"], EXIT_START, "192.0.2.1"),
    (["up", "--host", "0.0.0.0"], EXIT_START, "paceline key create"),
]
MORE_STARTS_IN_VAIN = [
    (["up", "--insecure", "--host", "no.such.host.invalid"], EXIT_START, "--host"),
    (["up", "--require-keys"], EXIT_START, "paceline key create"),
]


@pytest.mark.parametrize(
    ("command", "arguments", "status", "says"),
    [
        *((here, *each) for each in MISTAKES),
        *((paceline, *each) for each in STARTS_IN_VAIN),
        *(pytest.param(paceline, *each, marks=pytest.mark.slow) for each in MORE_STARTS_IN_VAIN),
    ],
)
def test_wrong_turns_say_what_to_do(
    tmp_path: Path, command: Callable[..., Done], arguments: list[str], status: int, says: str
) -> None:
    takes_state = arguments[0] in ("up", "key")
    state = ["--state", str(tmp_path / "state")] if takes_state else []
    refused(command(*arguments, *state), status, says)


def test_errors_come_as_json_when_asked(tmp_path: Path) -> None:
    done = here("up", "--port", "-1", "--json", "--state", str(tmp_path))
    fields = json.loads(done.stderr)
    assert fields["code"] == "bad_setting"
    assert fields["remedy"]


def test_a_taken_port_names_who_has_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = paceline("up", "--port", str(port), "--state", str(tmp_path / "state"))
    refused(done, EXIT_START, f"port {port} is taken by", f"(process {os.getpid()})", "--port")


def test_a_state_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    refused(
        paceline("up", "--port", "0", "--state", str(tmp_path / "state")), EXIT_STATE, "--state"
    )


def test_a_damaged_key_file_is_told_at_start(tmp_path: Path) -> None:
    (tmp_path / "keys.json").touch(0o600)
    (tmp_path / "keys.json").write_text('{"format": 1, "ke')
    refused(paceline("up", "--port", "0", "--state", str(tmp_path)), EXIT_STATE, "keys.json")


def test_a_missing_extra_names_itself(tmp_path: Path) -> None:
    """Where scikit-learn is installed, a module of its name that cannot be imported hides it."""
    (tmp_path / "sklearn").mkdir()
    (tmp_path / "sklearn" / "__init__.py").write_text("raise ModuleNotFoundError('sklearn')")
    done = paceline("demo", "train", "--out", str(tmp_path), environ={"PYTHONPATH": str(tmp_path)})
    refused(done, EXIT_EXTRA, "paceline[sklearn]")


def fill(path: Path) -> None:
    """Writes until there is no space for one byte more."""
    with path.open("wb", buffering=0) as rest:
        try:
            while rest.write(b"x"):
                pass
        except OSError:
            return


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "full", "size=64k") as place:
        (place / "ballast").write_bytes(b"x" * 60 * 1024)
        fill(place / "rest")
        yield place


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "fixed", "size=64k,ro") as place:
        yield place


class mounted:  # noqa: N801 - reads as a verb
    def __init__(self, place: Path, options: str) -> None:
        self.place = place
        self.options = options

    def __enter__(self) -> Path:
        self.place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", self.options, "tmpfs", str(self.place)]
        subprocess.run(mount, check=True)
        return self.place

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", str(self.place)], check=True)


@pytest.mark.needs("tmpfs")
@pytest.mark.parametrize("command", [["up", "--port", "0"], ["key", "create", "app"]])
def test_a_full_disk_is_told_as_such(full_disk: Path, command: list[str]) -> None:
    done = paceline(*command, "--state", str(full_disk / "state"))
    refused(done, EXIT_STATE, "no space is left", str(full_disk))


@pytest.mark.needs("tmpfs")
@pytest.mark.parametrize("command", [["up", "--port", "0"], ["key", "create", "app"]])
def test_a_read_only_directory_is_told_as_such(read_only: Path, command: list[str]) -> None:
    refused(paceline(*command, "--state", str(read_only)), EXIT_STATE, "--state")


@pytest.mark.needs("tmpfs")
def test_a_full_disk_leaves_no_half_of_a_settings_file(full_disk: Path) -> None:
    path = full_disk / "paceline.toml"
    refused(here("config", "init", str(path)), EXIT_STATE, "no space is left", str(path))
    assert not path.exists()


@pytest.mark.needs("tmpfs")
def test_a_settings_file_that_cannot_be_written_is_told_as_such(read_only: Path) -> None:
    path = str(read_only / "paceline.toml")
    refused(here("config", "init", path), EXIT_USAGE, "Read-only", path, "config init FILE")


SEEN = "\x1b[31mX\u202e\n\x9by"


def test_what_others_wrote_cannot_move_the_cursor(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "state"))
    for arguments in (
        ["plan", "set", "digits.max_rows", SEEN, *state],
        ["key", "create", SEEN, *state],
        ["nosuch" + SEEN],
    ):
        done = here(*arguments)
        assert done.returncode == EXIT_USAGE
        assert done.stderr.replace("\n", "").isprintable(), done.stderr
        assert "\\x1b[31mX\\u202e" in done.stderr
    refused = here("plan", "set", "digits.max_rows", SEEN, "--json", *state)
    assert json.loads(refused.stderr)["value"] == SEEN


PRINTING = [
    ["plan", "show", "--json"],
    ["plan", "set", "digits.max_rows", "7"],
    ["journal", "export", "-"],
]
"""One of each kind: JSON, words that say what was changed, and bytes."""
MORE_PRINTING = [
    ["plan", "show"],
    ["--help"],
    ["why", "digits.max_rows"],
    ["journal", "tail"],
    ["journal", "check"],
    ["config", "show"],
    ["plan", "--help"],
    [],
]
PRINTS = pytest.mark.parametrize(
    "arguments",
    [*PRINTING, *(pytest.param(each, marks=pytest.mark.slow) for each in MORE_PRINTING)],
    ids=" ".join,
)


@pytest.fixture(scope="module")
def a_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which there is the state of a server."""
    place = tmp_path_factory.mktemp("plan")
    for rows in ("9", "10"):
        assert in_shell(place, ["plan", "set", "digits.max_rows", rows], "").returncode == 0
    return place


def in_shell(place: Path, arguments: list[str], redirection: str) -> Done:
    command = shlex.join([sys.executable, "-P", "-m", "paceline", *arguments])
    return subprocess.run(
        ["bash", "-c", f"{command} {redirection}"],
        capture_output=True, text=True, timeout=60, cwd=place,
    )  # fmt: skip


@PRINTS
def test_output_that_cannot_be_written_is_told_once(a_plan: Path, arguments: list[str]) -> None:
    full = in_shell(a_plan, arguments, ">/dev/full")
    closed = in_shell(a_plan, arguments, ">&-")
    assert (full.returncode, closed.returncode) == (EXIT_STATE, EXIT_USAGE)
    for done, says in ((full, "no space is left"), (closed, "standard output is closed")):
        if "--json" in arguments:
            assert says in json.loads(done.stderr)["error"]
        else:
            assert done.stderr.startswith(f"paceline: {says}")
            assert len(done.stderr.splitlines()) == 3, done.stderr


@PRINTS
def test_a_reader_that_has_seen_enough_is_no_error(a_plan: Path, arguments: list[str]) -> None:
    """The reader has gone before the first byte, for what is short would fit into the pipe."""
    done = in_shell(a_plan, arguments, "> >(exec true) 2>told; echo $?; cat told")
    status, told = done.stdout.split("\n", 1)
    assert status == "0"
    assert told == "" or told.startswith("written ")


@pytest.mark.parametrize("errors", ["2>&-", "2>/dev/full"])
def test_without_standard_error_there_is_still_the_exit_code(a_plan: Path, errors: str) -> None:
    done = in_shell(a_plan, ["plan", "undo", "99"], errors)
    assert (done.returncode, done.stdout) == (EXIT_USAGE, "")


def test_a_closed_standard_input_is_told(tmp_path: Path) -> None:
    refused(in_shell(tmp_path, ["journal", "import", "-"], "<&-"), EXIT_USAGE, "cannot be read")


def test_output_into_a_closed_pipe_is_no_traceback() -> None:
    command = f"{sys.executable} -m paceline key --help | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
