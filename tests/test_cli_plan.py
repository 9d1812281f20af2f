"""`paceline plan` and `paceline why`: with a server and without one, they say and do the same."""

import asyncio
import json
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import paceline
import paceline.web.owner_call
from paceline.changes.desk import Desk, Nobody
from paceline.cli.config import settings_source
from paceline.cli.main import run
from paceline.clock import RealClock
from paceline.journal.entries import Entry, PlanChanged, Scored, kind_of, to_entry
from paceline.journal.journal import Journal
from paceline.journal.sqlite import FILE, SqliteReader, SqliteStore
from paceline.processes.state_dir import SOCKET_FILE, StateDir
from paceline.serve import digits
from paceline.serve.knobs import catalogue
from paceline.terms.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_START,
    EXIT_STATE,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    Misuse,
)
from paceline.terms.limits import REASON_CHARS
from paceline.terms.plan import Prediction
from paceline.web import plan_api
from paceline.web.owner_call import Reply
from paceline.web.settings_api import wanted
from servers import Server
from small_server import SmallServer
from test_cli import fill, mounted
from test_lean import HEAVY, NATIVE, TELL_IMPORTS, imported

ME = f"{pwd.getpwuid(os.getuid()).pw_name}, by command line"
WIDTH = 80
BOTH = pytest.mark.parametrize("live", [True, False], ids=["server", "no-server"])

SETTINGS = """\
[models.digits]
goal = ["p95_ms <= 30", "minimize cost_usd_h"]
pins.max_in_flight = 64
"""
PINNED_AT = "paceline.toml:3"


class Done(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Ground:
    """A state directory and a settings file, with commands that are given both."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.config = directory / "paceline.toml"
        self.config.touch()
        self.server: Server | None = None

    def serve(self) -> Server:
        return Server(self.state, "--config", str(self.config))

    def owned(self) -> "Desked":
        return Desked(self.state, self.config)

    def entries(self) -> list[Entry]:
        return [to_entry(record) for record in SqliteReader(self.state).read()]

    @property
    def version(self) -> int:
        return max(
            each.body.version for each in self.entries() if isinstance(each.body, PlanChanged)
        )


class Desked(SmallServer):
    """The desk of the Plan as an owner has it, with no fronts to tell: in this process, for a
    second of work less than a server is."""

    def __init__(self, state: Path, config: Path) -> None:
        super().__init__(state)
        self.loaded = settings_source(config, {}).load()

    async def _start(self) -> None:
        clock = RealClock()
        journal = Journal(SqliteStore.open(self._held.path), clock)
        self._journal = journal
        models = [each.name for each in self.loaded.models]
        desk = Desk(journal, catalogue(models, 1), Nobody(), clock)
        await desk.begin(wanted(self.loaded), paceline.__version__)
        self.operations = plan_api.operations(desk)
        await super()._start()

    async def _end(self) -> None:
        await super()._end()
        await self._journal.close()


Command = Callable[..., Done]


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


@pytest.fixture
def command(ground: Ground, capsys: pytest.CaptureFixture[str]) -> Command:
    return commands(ground, capsys)


def commands(ground: Ground, capsys: pytest.CaptureFixture[str]) -> Command:
    def command(*arguments: str, status: int = EXIT_OK) -> Done:
        where = ("--state", str(ground.state), "--config", str(ground.config))
        capsys.readouterr()
        done = Done(run([*arguments, *where]), *capsys.readouterr())
        assert done.status == status, done
        assert "Traceback" not in done.err
        return done

    return command


@pytest.fixture
def served(ground: Ground, live: bool) -> Iterator[None]:
    """The owner of a test that runs with one and without."""
    with ground.owned() if live else nullcontext():
        yield


@pytest.fixture
def served_by_fronts(ground: Ground, live: bool) -> Iterator[None]:
    """The server of a test that runs with one and without."""
    with ground.serve() if live else nullcontext():
        yield


def as_started(command: Command, live: bool) -> None:
    """Version 1 is there: a server made it, or the first change that finds nothing to do."""
    if not live:
        done = command("plan", "set", "digits.enabled", "true")
        assert done.out.startswith("It is so already; nothing was changed.\nThere was no journal")


def words(done: Done) -> str:
    """What was printed, with the lines joined again."""
    return " ".join(done.out.split())


# The same with a server and without


@BOTH
@pytest.mark.usefixtures("served_by_fronts")
def test_a_change_is_made_told_and_taken_back(ground: Ground, command: Command, live: bool) -> None:
    as_started(command, live)
    before = command("plan", "show", "--json").json
    why = "large batches wait " + "and wait " * 20
    done = command(
        "plan", "set", "digits.max_rows", "256", "--within", "1..512",
        "--because", why, "--expect", "p95_ms <= 20", "--expect", "error_ratio <= 0.01",
    )  # fmt: skip
    assert words(done).startswith("plan 2: digits.max_rows 1024 → 256, envelope 1..1024 → 1..512,")
    assert ("No server runs" in done.out) is not live

    shown = command("plan", "show")
    assert re.search(r"^version  2$", shown.out, re.MULTILINE)
    assert re.search(rf"^by       {ME}$", shown.out, re.MULTILINE)
    assert re.search(r"^digits.max_rows +256 rows +1\.\.512$", shown.out, re.MULTILINE)
    assert (f"server   none runs on {ground.state}" in shown.out) is not live

    assert command("plan", "diff").out == (
        "plan 1 → 2\n  digits.max_rows 1024 → 256, envelope 1..1024 → 1..512\n"
    )
    assert command("plan", "diff", "2", "1").out.startswith("plan 2 → 1\n  digits.max_rows 256 →")
    assert command("plan", "diff", "2", "2").out == "Plan 2 and plan 2 are alike.\n"

    newest, oldest = command("plan", "history").out.split("\n\n")[1:]
    at = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.match(rf"plan 2  {at}  {ME}\n  digits.max_rows 1024 → 256, ", newest)
    assert "\n  untested\n  expected p95_ms <= 20, not scored yet\n  expected error_r" in newest
    assert f"reason: {why.strip()}" in " ".join(newest.split())
    assert re.match(rf"plan 1  {at}  paceline \S+\n  digits.enabled new at true\n", oldest)

    story = command("why", "digits.max_rows")
    assert story.out.startswith("digits.max_rows is 256 rows, and may be adjusted within 1..512.\n")
    told = [part.partition("\n")[0] for part in story.out.split("\n\n")[2:]]
    assert [re.fullmatch(rf"{at}  (.+) \(entry (\d+)\)", each)[2] for each in told] == ["2", "1"]  # type: ignore[index]
    assert ME in told[0]
    assert "expecting p95_ms <= 20, error_ratio <= 0.01; reason: large" in words(story)

    for done in (shown, story, command("plan", "history")):
        short = [line for line in done.out.splitlines() if str(ground.state) not in line]
        assert max(map(len, short)) <= WIDTH

    assert "plan 2 taken back: digits.max_rows 256 → 1024" in words(command("plan", "undo", "2"))
    after = command("plan", "show", "--json").json
    assert (after["version"], after["hash"]) == (3, before["hash"])


@BOTH
@pytest.mark.usefixtures("served")
def test_everything_done_is_in_the_journal_with_who_did_it(
    ground: Ground, command: Command, live: bool
) -> None:
    as_started(command, live)
    reason = ("--because", "trying")
    command("plan", "set", "digits.max_rows", "256", *reason)
    command("plan", "pin", "digits.max_rows", *reason)
    command("plan", "unpin", "digits.max_rows", *reason)
    command("plan", "adjust", "digits.max_rows", "512", *reason, "--expect", "p99_ms <= 9")
    command("plan", "undo", "2", *reason)
    command("plan", "rollback", "3", *reason)
    begun, *mine = ground.entries()
    assert begun.who.startswith("paceline ")
    assert [each.who for each in mine] == [ME] * 6
    assert [kind_of(each.body) for each in mine].index("adjusted") == 3
    told = command("journal", "tail").out.splitlines()[1:]
    assert all(line.endswith("; reason: trying") for line in told)
    for line, what in zip(
        told,
        [
            "plan 2: digits.max_rows 1024 → 256, untested;",
            "plan 3: digits.max_rows pinned at 256, untested;",
            "plan 4: digits.max_rows free again at 256, untested;",
            "digits.max_rows adjusted 256 → 512, expecting p99_ms <= 9;",
            "plan 5: plan 2 taken back: digits.max_rows 256 → 1024, untested;",
            "plan 6: plan 3 brought back: digits.max_rows 1024 → 256, pinned at 256, untested;",
        ],
        strict=True,
    ):
        assert what in line


@BOTH
@pytest.mark.usefixtures("served")
def test_a_pin_by_hand_holds_until_it_is_let_go(command: Command, live: bool) -> None:
    as_started(command, live)
    command("plan", "set", "digits.priority", "high")
    assert "pinned at high" in command("plan", "pin", "digits.priority").out
    assert re.search(
        r"^digits.priority +high +pinned by hand$", command("plan", "show").out, re.MULTILINE
    )
    assert re.match(
        rf"digits.priority is high, pinned by hand \(entry 3: {ME}, \S+ \S+ UTC\)\.",
        words(command("why", "digits.priority")),
    )
    for change in ("set", "adjust"):
        done = command("plan", change, "digits.priority", "low", status=EXIT_USAGE)
        assert done.err.startswith("paceline: digits.priority is pinned at high\n")
        assert "`paceline why digits.priority`" in done.err
        assert "`paceline plan unpin digits.priority`" in done.err
    assert "free again at high" in command("plan", "unpin", "digits.priority").out
    command("plan", "adjust", "digits.priority", "low")
    shown = command("plan", "show", "priority").out
    assert re.search(r"^digits.priority +low +high +low\|normal\|high\|critical$", shown, re.M)
    story = words(command("why", "digits.priority"))
    assert story.startswith("digits.priority is low, and may be adjusted within low|normal|high")
    assert "It starts at high." in story


@BOTH
@pytest.mark.usefixtures("served")
def test_an_envelope_bounds_adjustments(command: Command, live: bool) -> None:
    as_started(command, live)
    command("plan", "set", "digits.max_rows", "8", "--within", "4..16")
    done = command("plan", "adjust", "digits.max_rows", "17", status=EXIT_USAGE)
    assert "4..16" in done.err
    assert "--within" in done.err
    command("plan", "adjust", "digits.max_rows", "16")
    refused = command("plan", "set", "digits.max_rows", "--within", "1..2", status=EXIT_USAGE)
    assert "8 is outside the envelope" in refused.err
    command("plan", "set", "digits.max_rows", "--within", "8..8")
    assert command("plan", "show", "digits.max_rows", "--json").json["knobs"][0]["setting"] == 8


@BOTH
def test_what_came_of_a_prediction_is_part_of_the_story(
    ground: Ground, command: Command, live: bool
) -> None:
    command("plan", "set", "digits.max_rows", "256", "--expect", "p95_ms <= 20")
    prediction = Prediction("p95_ms", high=20.0)
    scored = Scored(2, ("digits.max_rows",), prediction, "came true", measured=18.0, evidence="e")

    async def score() -> None:
        journal = Journal(SqliteStore.open(ground.state), RealClock())
        await journal.write(lambda _: [scored], "a judge")
        await journal.close()

    asyncio.run(score())
    with ground.owned() if live else nullcontext():
        came = "expected p95_ms <= 20, which came true (measured 18)"
        assert f"a judge (entry 3) entry 2 {came} (e)" in words(command("why", "digits.max_rows"))
        assert f"untested {came}" in words(command("plan", "history"))


@BOTH
def test_a_pin_of_the_settings_is_shown_with_its_line(
    ground: Ground, command: Command, live: bool
) -> None:
    ground.config.write_text(SETTINGS)
    with ExitStack() as stack:
        if live:
            stack.enter_context(ground.owned())
        else:
            command("plan", "set", "digits.max_rows", "256")
        shown = command("plan", "show").out
        where = f"pinned by {ground.config}:3"
        assert where in " ".join(shown.split())
        assert "goal     digits: p95_ms <= 30, minimize cost_usd_h\n" in shown
        assert where in words(command("why", "digits.max_in_flight"))
        for arguments in (["set", "digits.max_in_flight", "8"], ["unpin", "digits.max_in_flight"]):
            done = command("plan", *arguments, status=EXIT_USAGE)
            assert f"is pinned at 64 by {ground.config}:3\n" in done.err


# Wrong turns, which change nothing


@pytest.fixture(scope="module", params=[True, False], ids=["server", "no-server"])
def still(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A ground that no test changes: max_rows was changed twice, max_in_flight is pinned."""
    ground = Ground(tmp_path_factory.mktemp("still"))
    ground.config.write_text(SETTINGS)
    where = ["--state", str(ground.state), "--config", str(ground.config)]
    for value in ("256", "128"):
        assert run(["plan", "set", "digits.max_rows", value, *where]) == EXIT_OK
    with ExitStack() as stack:
        if request.param:
            ground.server = stack.enter_context(ground.serve())
        yield ground


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plan", "set", "digits.max_rowz", "1"], ["no workload", "Did you mean digits.max_rows?"]),
        (["plan", "set", "digits", "1"], ["names a model", "digits.enabled, digits.deadline_ms"]),
        (["plan", "pin", "max_rows"], ["not its model", "in full: digits.max_rows."]),
        (["why", "digits"], ["names a model", "digits.enabled, digits.deadline_ms"]),
        (["why", "max_rows"], ["not its model", "in full: digits.max_rows."]),
        (["why", "digits.max_row"], ["Did you mean digits.max_rows?"]),
        (["plan", "show", "digit"], ["Did you mean digits?"]),
        (["plan", "show", "max_row"], ["Did you mean max_rows?"]),
        (["plan", "show", "zebra"], ["`paceline plan show`"]),
        (["plan", "set", "digits.max_rows", "many"], ["a whole number from 1 to 1024", "many"]),
        (["plan", "set", "digits.priority", "hihg"], ["Did you mean high?"]),
        (["plan", "set", "digits.max_rows", "--within", "9"], ["1..1024"]),
        (["plan", "set", "digits.max_rows"], ["nothing to set", "digits.max_rows VALUE"]),
        (["plan", "set", "digits.max_in_flight", "8"], ["pinned at 64", PINNED_AT]),
        (["plan", "adjust", "digits.max_in_flight", "8"], ["pinned at 64", PINNED_AT]),
        (["plan", "set", "digits.max_rows", "9", "--expect", "p95 <= 3"], ["p95_ms <= 3"]),
        (["plan", "pin", "digits.max_rows", "--because", "x" * (REASON_CHARS + 1)], ["1000"]),
        (["plan", "undo", "3"], ["digits.max_rows has been changed since", "why digits.max_rows"]),
        (["plan", "undo", "99"], ["never had this version", "plan history"]),
        (["plan", "rollback", "99"], ["never had this version", "plan history"]),
        (["plan", "diff", "0", "99"], ["never had this version", "plan history"]),
        (["plan", "undo", "x"], ["plan undo --help"]),
        (["plan", "history", "-n", "0"], ["-n"]),
        (["plan", "set", "digits.max_rows", "9", "--because", "\udcff"], ["not UTF-8"]),
        (["why", "\udcff"], ["not UTF-8"]),
    ],
    ids=lambda each: " ".join(each)[:40].encode("ascii", "replace").decode(),
)
def test_a_wrong_turn_says_what_to_do_and_changes_nothing(
    still: Ground, capsys: pytest.CaptureFixture[str], arguments: list[str], says: list[str]
) -> None:
    before = still.entries()
    done = commands(still, capsys)(*arguments, status=EXIT_USAGE)
    assert done.out == ""
    cause, *advice = done.err.splitlines()
    assert cause.startswith("paceline: ")
    assert advice
    for each in says:
        assert each in done.err
    assert still.entries() == before


def test_json_is_what_the_api_answers(still: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    command = commands(still, capsys)
    plan = command("plan", "show", "--json").json
    assert [each["knob"] for each in plan["knobs"]][:2] == ["digits.enabled", "digits.deadline_ms"]
    only = command("plan", "show", "digits.max_rows", "--json").json
    assert only == {**plan, "knobs": [plan["knobs"][2]]}
    assert command("plan", "history", "-n", "1", "--json").json["changes"][0]["version"] == 4
    assert command("plan", "diff", "--json").json["new"] == 4
    story = command("why", "digits.max_rows", "--json").json
    assert (story["knob"], len(story["story"])) == (plan["knobs"][2], 3)
    if still.server is not None:
        assert still.server.ask("GET", "/api/plan").json == plan
        assert still.server.ask("GET", "/api/why?knob=digits.max_rows").json == story
    refused = commands(still, capsys)("plan", "undo", "9", "--json", status=EXIT_USAGE)
    assert json.loads(refused.err)["code"] == "unknown_version"
    same = command("plan", "set", "digits.max_rows", "128", "--json").json
    assert (same["seq"], same["version"]) == (None, 4)


def test_a_long_history_is_told_in_pages(still: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    command = commands(still, capsys)
    first = command("plan", "history", "-n", "2").out
    assert re.findall(r"^plan (\d)", first, re.MULTILINE) == ["4", "3"]
    assert first.endswith("Earlier ones: `paceline plan history --before 3`\n")
    rest = command("plan", "history", "--before", "3").out
    assert re.findall(r"^plan (\d)", rest, re.MULTILINE) == ["2", "1"]
    assert "Earlier" not in rest
    assert command("plan", "history", "--before", "1").out == "There is none before that.\n"
    short = command("why", "digits.max_rows", "-n", "1").out
    assert re.findall(r"\(entry (\d+)\)", short)[-1] == "1"  # how it began
    assert "`paceline why digits.max_rows -n 2`" in short


# Obeyed


ROW = list(digits.SAMPLE_ROW)


@pytest.mark.slow  # test_plan_live.py asks a server that many share
def test_the_very_next_inference_obeys(ground: Ground, command: Command) -> None:
    with ground.serve() as server:
        for knob, value, body, status in (
            ("max_rows", "1", [ROW, ROW], 400),
            ("enabled", "false", ROW, 503),
        ):
            assert server.ask("POST", "/predict/digits", body).status == 200
            command("plan", "set", f"digits.{knob}", value)
            refused = server.ask("POST", "/predict/digits", body)
            assert refused.status == status
            assert knob in refused.body.decode()
            command("plan", "rollback")
            assert server.ask("POST", "/predict/digits", body).status == 200


def test_what_was_done_without_a_server_holds_when_one_starts(
    ground: Ground, command: Command
) -> None:
    done = command("plan", "set", "digits.enabled", "false")
    assert done.out.endswith(f"There was no journal in {ground.state}; this began one.\n")
    again = command("plan", "set", "digits.max_rows", "1")
    assert again.out.endswith(f"No server runs on {ground.state}; it holds from the next start.\n")
    with ground.serve() as server:
        assert server.ask("POST", "/predict/digits", ROW).status == 503


# Refused without a server, which leaves no trace


@pytest.mark.parametrize("knob", ["digits.nosuch", "max_rows"])
def test_a_refused_change_begins_no_journal(ground: Ground, command: Command, knob: str) -> None:
    done = command("plan", "set", knob, "1", status=EXIT_USAGE)
    assert "knob of" in done.err
    assert not ground.state.exists()
    command("plan", "undo", "1", status=EXIT_USAGE)
    assert not ground.state.exists()


def test_a_refused_change_writes_nothing_of_the_settings(ground: Ground, command: Command) -> None:
    command("plan", "set", "digits.max_rows", "9")
    before = ground.entries()
    ground.config.write_text(SETTINGS)
    command("plan", "set", "digits.nosuch", "1", status=EXIT_USAGE)
    assert ground.entries() == before
    command("plan", "set", "digits.max_rows", "8")
    assert [kind_of(each.body) for each in ground.entries()[len(before) :]] == [
        "plan_changed",
        "goals_changed",
        "plan_changed",
    ]


def test_who_finds_no_settings_leaves_those_of_the_server(
    ground: Ground, command: Command, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    ground.config.write_text(SETTINGS)
    command("plan", "set", "digits.max_rows", "9")
    before = ground.entries()
    elsewhere = ground.directory / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert run(["plan", "set", "digits.max_rows", "8", "--state", str(ground.state)]) == EXIT_OK
    (mine,) = ground.entries()[len(before) :]
    assert isinstance(mine.body, PlanChanged)
    assert [step.knob for step in mine.body.change.diff] == ["digits.max_rows"]
    change = ["plan", "set", "digits.max_in_flight", "8", "--state", str(ground.state)]
    capsys.readouterr()
    assert run(change) == EXIT_USAGE
    assert "pinned at 64 by the settings of its server" in capsys.readouterr().err
    assert run([*change, "--config", "/dev/null"]) == EXIT_START
    (elsewhere / "paceline.toml").touch()
    assert run(change) == EXIT_OK  # a file that pins nothing says so


# Nobody there


@pytest.mark.parametrize("arguments", [["plan", "show"], ["plan", "history"], ["why", "a.b"]])
def test_where_there_is_no_journal_reading_says_so_and_makes_none(
    ground: Ground, command: Command, arguments: list[str]
) -> None:
    done = command(*arguments, status=EXIT_STATE)
    assert done.err.startswith("paceline: there is no journal here\n")
    assert "--state" in done.err
    assert not ground.state.exists()


def test_an_empty_journal_has_no_history(ground: Ground, command: Command) -> None:
    ground.state.mkdir()
    SqliteStore.open(ground.state).close()
    assert command("plan", "history").out == "The Plan has no version yet.\n"
    assert "It has no knobs" in command("plan", "show").out
    assert command("plan", "diff").out == "Plan 0 and plan 0 are alike.\n"
    command("why", "digits.max_rows", status=EXIT_USAGE)


def test_the_settings_file_says_where_the_state_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("paceline.toml").write_text('server.state = "there"\n')
    assert run(["plan", "set", "digits.max_rows", "7"]) == EXIT_OK
    assert Path("there", FILE).exists()
    Path("other.toml").write_text('server.state = "elsewhere"\n')
    assert run(["plan", "show", "--config", "other.toml"]) == EXIT_STATE
    assert "elsewhere" in capsys.readouterr().err


def test_a_broken_settings_file_is_told_and_hides_no_running_server(
    ground: Ground, command: Command
) -> None:
    with ground.owned():
        ground.config.write_text("port = 1\n")
        command("plan", "set", "digits.max_rows", "7")
    done = command("plan", "show", status=EXIT_START)
    assert f"{ground.config}:1" in done.err


def test_a_reader_s_store_cannot_be_written(ground: Ground, command: Command) -> None:
    command("plan", "set", "digits.max_rows", "7")
    with pytest.raises(Misuse):
        SqliteReader(ground.state).append([])


# In each other's way


def test_a_directory_in_use_is_read_and_not_written(ground: Ground, command: Command) -> None:
    command("plan", "set", "digits.max_rows", "7")
    held = StateDir.hold(ground.state)
    try:
        done = command("plan", "set", "digits.max_rows", "8", status=EXIT_STATE)
        assert f"in use by process {os.getpid()}" in done.err
        assert "Try again" in done.err
        assert "7 rows" in command("plan", "show").out
    finally:
        held.release()
    command("plan", "set", "digits.max_rows", "8")


@pytest.mark.parametrize("comes", [True, False])
def test_an_owner_that_comes_or_goes_meanwhile_is_asked_once_more(
    ground: Ground, command: Command, monkeypatch: pytest.MonkeyPatch, comes: bool
) -> None:
    held = StateDir.hold(ground.state)
    calls = []

    def owner(state: Path, method: str, path: str, body: bytes, who: str) -> Reply | None:
        calls.append(path)
        if len(calls) == 1:
            return None
        held.release()
        return Reply(200, b'{"text": "done by the owner", "seq": 1}') if comes else None

    monkeypatch.setattr(paceline.web.owner_call, "call_owner", owner)
    done = command("plan", "set", "digits.max_rows", "8")
    assert calls == ["/api/plan/set"] * 2
    assert ("done by the owner" in done.out) is comes
    assert (ground.state / FILE).exists() is not comes


def spawn(ground: Ground, *arguments: str) -> subprocess.Popen[str]:
    where = ["--state", str(ground.state), "--config", str(ground.config)]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "paceline", *arguments, *where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@BOTH
@pytest.mark.usefixtures("served")
def test_commands_at_once_are_done_or_refused(ground: Ground, command: Command, live: bool) -> None:
    as_started(command, live)
    runs = [spawn(ground, "plan", "set", "digits.max_rows", str(rows)) for rows in range(2, 5)]
    ended = [(each.communicate(timeout=60), each.returncode) for each in runs]
    assert {status for _, status in ended} <= ({EXIT_OK} if live else {EXIT_OK, EXIT_STATE})
    done = [out for (out, _), status in ended if status == EXIT_OK]
    assert sorted(int(out[5]) for out in done) == [*range(2, 2 + len(done))]
    assert ground.version == 1 + len(done)
    assert all("Try again" in err for (_, err), status in ended if status == EXIT_STATE)


def test_an_owner_that_hangs_is_told_within_the_time_of_a_call(
    ground: Ground, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paceline.web.owner_call, "CALL_S", 0.2)
    command("plan", "set", "digits.max_rows", "8")
    with socket.socket(socket.AF_UNIX) as owner:
        owner.bind(str(ground.state / SOCKET_FILE))
        owner.listen()
        read = command("plan", "show", status=EXIT_UNREACHABLE)
        assert "timed out" in read.err
        assert "can be read" in read.err
        wrote = command("plan", "set", "digits.max_rows", "9", status=EXIT_UNREACHABLE)
        assert "`paceline journal tail`" in wrote.err


def test_ctrl_c_ends_a_command_that_waits(ground: Ground) -> None:
    ground.state.mkdir()
    with socket.socket(socket.AF_UNIX) as owner:
        owner.bind(str(ground.state / SOCKET_FILE))
        owner.listen()
        waiting = spawn(ground, "plan", "set", "digits.max_rows", "8")
        connection, _ = owner.accept()
        with connection:
            waiting.send_signal(signal.SIGINT)
            out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == EXIT_INTERRUPTED
    assert (out, err) == ("", "paceline: interrupted\n")


# A disk that does not take it


@pytest.fixture
def of_tmpfs(tmp_path: Path) -> Iterator[Ground]:
    """A journal alone on a small file system, beside which there is a settings file."""
    ground = Ground(tmp_path)
    with mounted(tmp_path / "disk", "size=256k") as place:
        ground.state = place / "state"
        yield ground


@pytest.mark.needs("tmpfs")
def test_a_read_only_directory_can_be_read(
    of_tmpfs: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    command = commands(of_tmpfs, capsys)
    command("plan", "set", "digits.max_rows", "9", "--because", "it fits")
    disk = str(of_tmpfs.state.parent)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert "9 rows" in command("plan", "show").out
    assert "it fits" in command("plan", "history").out
    assert "it fits" in command("why", "digits.max_rows").out
    writer = spawn(of_tmpfs, "plan", "set", "digits.max_rows", "8")
    _, told = writer.communicate(timeout=60)
    assert writer.returncode == EXIT_STATE
    assert "read-only file system" in told


@pytest.mark.needs("tmpfs")
def test_a_full_disk_is_told_and_can_be_read(
    of_tmpfs: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    command = commands(of_tmpfs, capsys)
    command("plan", "set", "digits.max_rows", "9", "--because", "it fits")
    fill(of_tmpfs.state.parent / "rest")
    done = command("plan", "set", "digits.max_rows", "8", status=EXIT_STATE)
    assert "no space is left" in done.err
    assert "9 rows" in command("plan", "show").out
    assert "it fits" in command("plan", "history").out
    assert "it fits" in command("why", "digits.max_rows").out


# Help, and what is imported


def test_plan_without_a_command_shows_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan"]) == EXIT_OK
    assert "rollback" in capsys.readouterr().out


@BOTH
@pytest.mark.usefixtures("served")
def test_a_look_at_the_plan_imports_nothing_heavy(
    ground: Ground, command: Command, live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_started(command, live)
    for name, value in TELL_IMPORTS.items():
        monkeypatch.setenv(name, value)
    for arguments in (["plan", "show"], ["why", "digits.max_rows"]):
        _, told = (process := spawn(ground, *arguments)).communicate(timeout=60)
        assert process.returncode == EXIT_OK
        assert imported(told) & (HEAVY | set(NATIVE)) == set()
        assert ("starlette" in imported(told)) is not live  # what answers is there already
