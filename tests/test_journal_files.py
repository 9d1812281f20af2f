"""What people do with the journal's file: look, check, save what is left, copy, move, compact.

Through the command line, with journals that Journal and Desk made; damage is done to the bytes.
"""

import asyncio
import contextlib
import hashlib
import json
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import paceline.journal.sqlite as files
from laws import examples
from paceline.changes.desk import Desk, Nobody, Wanted, Wish
from paceline.changes.wording import of_diff, of_prediction, of_step, of_verdict, words
from paceline.cli.main import run
from paceline.clock import RealClock
from paceline.journal.damage import inspect
from paceline.journal.entries import (
    Adjusted,
    AdjustedOften,
    AlertMoved,
    AlertsSummed,
    AlertsTold,
    Body,
    Compacted,
    Entry,
    Forgotten,
    GoalsChanged,
    PlanChanged,
    Salvaged,
    Scored,
    SettingsChanged,
    Silenced,
    SilenceEnded,
    to_entry,
    to_record,
)
from paceline.journal.fold import NOTHING, State, fold, fold_all, to_snapshot
from paceline.journal.journal import Decide, Journal, load
from paceline.journal.salvage import SALVAGER
from paceline.journal.sqlite import FILE, SqliteReader, SqliteStore, read_file
from paceline.journal.store import Record
from paceline.journal.transfer import (
    UNFINISHED,
    export_what_is_left,
    export_whole,
    import_lines,
)
from paceline.terms.alert import NO_ALERTS, Alert, Silence
from paceline.terms.amounts import moment
from paceline.terms.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_STATE,
    EXIT_USAGE,
    JournalDamaged,
    JournalNewer,
    PacelineError,
    StateInUse,
    StateUnusable,
)
from paceline.terms.plan import (
    Adjustment,
    Change,
    Line,
    Plan,
    Prediction,
    Span,
    Step,
    Verdict,
)
from plans import CATALOGUE, START_S, defaults, journals, plan_changed, replaced
from servers import Server

FEW = examples(25)
PAGE_BYTES = 4096
WAIT_S = 30

Captured = pytest.CaptureFixture[str]


def paceline(*arguments: object) -> int:
    return run([str(each) for each in arguments])


def refused(capsys: Captured, status: int, expected: int, *says: str) -> None:
    told = capsys.readouterr().err
    assert status == expected, told
    cause, *advice = told.strip().splitlines()
    assert cause.startswith("paceline: ")
    assert advice, "an error without a remedy"
    for each in says:
        assert each in told


# --- Journals -------------------------------------------------------------------------------------


def made(directory: Path, rounds: int = 30) -> Path:
    """Each round a person sets a knob, and steering adjusts another nine times."""

    async def main() -> None:
        journal = Journal(SqliteStore.open(directory), RealClock())
        desk = Desk(journal, CATALOGUE, Nobody(), RealClock())
        await desk.begin(Wanted(goals={"one": ("p95_ms <= 30",)}), "1.0")
        for number in range(rounds):
            why = Wish("ann", f"try {number}")
            await desk.set("one.rows", number % 10, None, why)
            moves = (adjusted(journal.state, 10 * number + step) for step in range(9))
            await asyncio.gather(*(journal.write(just(move), "steering") for move in moves))
        await desk.pin("two.mode", "fast", Wish("bob", "the demo"))
        await journal.close()

    directory.mkdir(exist_ok=True)
    asyncio.run(main())
    return directory


def just(body: Body) -> Decide:
    return lambda state: [body]


def adjusted(state: State, value: int) -> Adjusted:
    now = state.in_force.settings["one.size"]
    to = 1 + value % 1024
    return Adjusted(
        Adjustment("one.size", now, to, "the queue grew", (Prediction("p95_ms", 0, 30),))
    )


def written(directory: Path, entries: Sequence[Entry], *snapshots: int) -> Path:
    """These entries, with a snapshot after each of these numbers."""
    directory.mkdir(exist_ok=True)
    store = SqliteStore.open(directory)
    ends = [*snapshots, len(entries)]
    for first, end in zip([0, *ends], ends, strict=False):
        snapshot = to_snapshot(fold_all(entries[:end])) if end in snapshots else None
        store.append([to_record(entry) for entry in entries[first:end]], snapshot)
    store.close()
    return directory


def long_journal(times: int = 400) -> list[Entry]:
    """Every tenth entry changes the Plan, the others adjust a setting."""
    state = NOTHING
    entries: list[Entry] = []
    for number in range(times):
        body: Body
        if number == 0:
            body = plan_changed(state.plan, dict(defaults().lines), "The defaults.")
        elif number % 10 == 0:
            knob = sorted(CATALOGUE)[number // 10 % 4]
            line = replaced(state.plan.lines[knob], pin=CATALOGUE[knob].default)
            if state.plan.lines[knob].pin is not None:
                line = replaced(line, pin=None)
            body = plan_changed(state.plan, {knob: line}, f"try {number}")
        else:
            body = adjusted(state, number)
        entry = Entry(number + 1, START_S + number, "ann", body)
        state = fold(state, entry)
        entries.append(entry)
    return entries


AGE_S = 200_000_000.0
"""years: what is compacted must be of the past, by the real clock"""


def aged(entries: Sequence[Entry]) -> list[Entry]:
    return [msgspec.structs.replace(entry, at=entry.at - AGE_S) for entry in entries]


def state_of(directory: Path) -> State:
    return load(SqliteReader(directory))[0]


def plain(entries: Sequence[Entry]) -> list[Record]:
    """As they are read again, without the names by which they are found."""
    return [msgspec.structs.replace(to_record(entry), about=()) for entry in entries]


def records_of(directory: Path) -> list[Record]:
    return list(read_file(directory / FILE))


# --- Looking --------------------------------------------------------------------------------------


def test_tail_shows_a_line_for_each_of_the_last_entries(tmp_path: Path, capsys: Captured) -> None:
    state = made(tmp_path / "state", 3)
    assert paceline("journal", "tail", "-n", 3, "--state", state) == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in lines] == ["31", "32", "33"]
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC  33  bob  plan 5: two.mode pin", lines[-1])
    assert lines[-1].endswith("reason: the demo")


def test_tail_can_be_about_one_knob(tmp_path: Path, capsys: Captured) -> None:
    state = made(tmp_path / "state", 3)
    assert paceline("journal", "tail", "--about", "one.rows", "--state", state) == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 3
    assert all("one.rows" in line or "new knobs" in line for line in lines)
    assert paceline("journal", "tail", "--about", "one.row", "--state", state) == EXIT_OK
    assert capsys.readouterr().out == "No entry is about one.row.\n"


def test_tail_as_json_has_everything(tmp_path: Path, capsys: Captured) -> None:
    state = made(tmp_path / "state", 1)
    assert paceline("journal", "tail", "--json", "-n", 1, "--state", state) == EXIT_OK
    (entry,) = json.loads(capsys.readouterr().out)
    last = to_entry(records_of(state)[-1])
    assert (entry["seq"], entry["at_unix_s"], entry["who"]) == (last.seq, last.at, "bob")
    assert (entry["kind"], entry["text"]) == ("plan_changed", words(last))
    assert entry["body"]["change"]["reason"] == "the demo"


def test_what_somebody_wrote_cannot_move_the_cursor(tmp_path: Path, capsys: Captured) -> None:
    reason = "\x1b[2Jgone\r\nplan 9: all is well\u202e" + "x" * 5000
    entry = Entry(1, START_S, "ann\x07", plan_changed(NOTHING.plan, {}, reason))
    state = written(tmp_path / "state", [entry])
    assert paceline("journal", "tail", "--state", state) == EXIT_OK
    (line,) = capsys.readouterr().out.splitlines()
    assert line.isprintable()
    assert len(line) < 500


@pytest.mark.parametrize("command", [["tail"], ["check"], ["export", "-"], ["compact"]])
def test_where_no_journal_is_it_says_so(
    command: list[str], tmp_path: Path, capsys: Captured
) -> None:
    status = paceline("journal", *command, "--state", tmp_path / "none")
    refused(capsys, status, EXIT_STATE, "no journal here", "none/journal.db", "--state")
    assert not (tmp_path / "none").exists()


def test_another_programs_database_is_no_journal(tmp_path: Path, capsys: Captured) -> None:
    with closing(sqlite3.connect(tmp_path / FILE)) as database, database:
        database.execute("CREATE TABLE something (whatever)")
    for command in (["tail"], ["check"], ["export", "-"], ["export", "-", "--salvage"]):
        status = paceline("journal", *command, "--state", tmp_path)
        refused(capsys, status, EXIT_STATE, "no journal of Paceline's")


# --- Words ----------------------------------------------------------------------------------------

LINE = Line(1024, Span(1, 1024))


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (LINE, replaced(LINE, value=256), "1024 → 256"),
        (LINE, replaced(LINE, envelope=Span(1, 512)), "envelope 1..1024 → 1..512"),
        (LINE, Line(256, Span(1, 512)), "1024 → 256, envelope 1..1024 → 1..512"),
        (LINE, replaced(LINE, pin=256), "pinned at 256"),
        (replaced(LINE, pin=256), replaced(LINE, pin=64), "pinned at 256 → 64"),
        (replaced(LINE, pin=256), LINE, "free again at 1024"),
        (LINE, replaced(LINE, file_pin=256), "pinned at 256 by the settings"),
        (replaced(LINE, file_pin=2), LINE, "free again at 1024"),
        (
            replaced(LINE, pin=4, file_pin=2),
            replaced(LINE, pin=4),
            "no longer pinned by the settings",
        ),
        (replaced(LINE, pin=4, file_pin=2), replaced(LINE, file_pin=2), "no longer pinned by hand"),
        (None, LINE, "new at 1024"),
        (None, replaced(LINE, pin=2), "new at 1024, pinned at 2"),
        (LINE, None, "gone"),
        (LINE, LINE, "as it was"),
        (Line(1, Span(0, 1)), Line(True, Span(0, 1)), "1 → true"),
    ],
)
def test_a_step_in_words(before: Line | None, after: Line | None, told: str) -> None:
    assert of_step(Step("digits.max_rows", before, after)) == f"digits.max_rows {told}"


def test_many_steps_are_counted() -> None:
    new = tuple(Step(f"a.k{number}", None, LINE) for number in range(5))
    gone = tuple(Step(f"b.k{number}", LINE, None) for number in range(5))
    assert of_diff(new) == "5 new knobs"
    assert of_diff(gone) == "b.k0 gone; b.k1 gone; b.k2 gone; and 2 more"
    assert of_diff(new + gone[:1]) == "5 new knobs; b.k0 gone"
    assert of_diff(()) == ""


def test_predictions_and_verdicts_in_words() -> None:
    prediction = Prediction("p95_ms", high=30)
    assert of_prediction(prediction, None) == "expected p95_ms <= 30, not scored yet"
    assert of_prediction(prediction, "came true", 24.1) == (
        "expected p95_ms <= 30, which came true (measured 24.1)"
    )
    assert of_verdict(Verdict("untested")) == "untested"
    assert of_verdict(Verdict("better", "9 ms\nless")) == "better (9 ms less)"


FIRING = Alert(
    "errors:one", "errors", "one", "critical", "firing", 0, "one of ten requests fails",
    "11 % of 600", "Look into the log.",
)  # fmt: skip


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            PlanChanged(4, "h", Change((Step("d.m", LINE, replaced(LINE, pin=2)),), "why not")),
            "plan 4: d.m pinned at 2, untested; reason: why not",
        ),
        (
            PlanChanged(4, "h", Change((), "", undoes=2, predictions=(Prediction("p95_ms", 1),))),
            "plan 4: plan 2 taken back: nothing, untested, expecting p95_ms >= 1",
        ),
        (
            PlanChanged(4, "h", Change((), "", restores=2)),
            "plan 4: plan 2 brought back: nothing, untested",
        ),
        (
            Adjusted(Adjustment("d.m", 1, 2, "it grew")),
            "d.m adjusted 1 → 2; reason: it grew",
        ),
        (AdjustedOften("d.m", 1, 1, 2), "d.m adjusted once, 1 → 2"),
        (
            AdjustedOften("d.m", 3, 1, 2, 2, 1),
            "d.m adjusted 3 times, 1 → 2; of its predictions 2 came true, 1 did not",
        ),
        (
            Scored(7, ("d.m",), Prediction("p95_ms", high=3), "did not", evidence="600 requests"),
            "entry 7 expected p95_ms <= 3, which did not come true (600 requests)",
        ),
        (GoalsChanged({"d": ("p95_ms <= 3", "minimize x")}), "goals: d p95_ms <= 3, minimize x"),
        (GoalsChanged({}), "goals: none"),
        (SettingsChanged(("a is b",)), "settings: a is b"),
        (Forgotten(1), "what was said in LLM calls was erased: one, 1 in number"),
        (Forgotten(2, "k"), "what was said in LLM calls was erased: all of key k, 2 in number"),
        (
            Forgotten(3, everything=True),
            "what was said in LLM calls was erased: all, 3 in number",
        ),
        (
            Compacted(1e9, 1),
            "compacted: adjustments from before 2001-09-09 01:46:40 UTC are summaries now, "
            "1 entry fewer",
        ),
        (
            Salvaged(20, 3, ((4, 4), (7, 9), (30, None))),
            "saved from a damaged journal: 20 entries lost, around 4, 7 to 9, 30 and on; "
            "3 stand in their place",
        ),
        (
            AlertMoved(FIRING, "fired", ("ops",)),
            "alert errors:one (critical) fires: one of ten requests fails, 11 % of 600; "
            "to tell: ops",
        ),
        (AlertsTold("ops", 7), "ops was told of alerts, up to entry 7"),
        (
            AlertsTold("ops", 7, sent=False, why="refused"),
            "ops could not be told of alerts, up to entry 7: refused",
        ),
        (
            Silenced(Silence(3, "errors:*", 0, 1e9, "ann", "on it")),
            "silence for errors:* until 2001-09-09 01:46:40 UTC; reason: on it",
        ),
        (SilenceEnded(3, "errors:*"), "the silence for errors:* ended"),
        (
            AlertsSummed(9, {"errors": 2}, NO_ALERTS),
            "alerts until here, 9 entries: fired by rule: errors 2",
        ),
    ],
)
def test_an_entry_in_words(body: Body, told: str) -> None:
    assert words(Entry(1, START_S, "ann", body)) == told


def test_a_moment_far_from_any_calendar_is_still_told() -> None:
    assert moment(1e9) == "2001-09-09 01:46:40 UTC"
    assert moment(1e300) == "1e+300 s after 1970 began (UTC)"
    assert "UTC" in moment(float("nan"))


# --- Checking -------------------------------------------------------------------------------------


def checked(state: Path, capsys: Captured) -> Any:
    capsys.readouterr()
    status = paceline("journal", "check", "--json", "--state", state)
    told = capsys.readouterr()
    report = json.loads(told.out)
    assert status == (EXIT_OK if report["sound"] else EXIT_STATE)
    assert bool(told.err) == (not report["sound"])
    return report


def test_a_sound_journal_is_told_as_such(tmp_path: Path, capsys: Captured) -> None:
    state = made(tmp_path / "state")
    before = hashlib.sha256((state / FILE).read_bytes())
    report = checked(state, capsys)
    assert report["sound"]
    assert (report["findings"], report["unreadable"], report["saved"]) == ([], [], None)
    assert report["entries"] == report["last_seq"] == len(records_of(state))
    assert report["plan_version"] == state_of(state).plan.version == 32
    assert paceline("journal", "check", "--state", state) == EXIT_OK
    assert "sound" in capsys.readouterr().out
    assert hashlib.sha256((state / FILE).read_bytes()).digest() == before.digest()


def test_an_empty_journal_is_sound(tmp_path: Path, capsys: Captured) -> None:
    state = written(tmp_path / "state", [])
    assert checked(state, capsys)["sound"]
    assert paceline("journal", "tail", "--state", state) == EXIT_OK
    assert capsys.readouterr().out == "The journal is empty.\n"


def test_reading_goes_on_beside_a_writer(tmp_path: Path, capsys: Captured) -> None:
    async def main() -> None:
        journal = Journal(SqliteStore.open(tmp_path), RealClock())
        desk = Desk(journal, CATALOGUE, Nobody(), RealClock())
        await desk.begin(Wanted(), "1.0")
        for number in range(3):
            await desk.set("one.rows", number, None, Wish("ann"))
            for command in (["tail"], ["check"], ["export", "-"], ["export", "-", "--salvage"]):
                assert paceline("journal", *command, "--state", tmp_path) == EXIT_OK
            assert checked(tmp_path, capsys)["plan_version"] == number + 2
        await journal.close()

    asyncio.run(main())


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "mount"
    place.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], check=True, timeout=WAIT_S
    )
    yield place
    subprocess.run(["umount", str(place)], check=True, timeout=WAIT_S)


@pytest.mark.needs("tmpfs")
def test_reading_needs_no_writable_directory(mount: Path, capsys: Captured) -> None:
    made(mount, 3)
    subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True, timeout=WAIT_S)
    for command in (["tail"], ["check"], ["export", "-"], ["export", "-", "--salvage"]):
        assert paceline("journal", *command, "--state", mount) == EXIT_OK
    capsys.readouterr()
    command = [sys.executable, "-m", "paceline", "journal", "compact", "--state", str(mount)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
    assert (done.returncode, done.stdout) == (EXIT_STATE, "")
    assert "read-only" in done.stderr


def altered(state: Path, *statements: str) -> None:
    with closing(sqlite3.connect(state / FILE)) as database, database:
        for statement in statements:
            assert database.execute(statement).rowcount > 0


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE entries SET body = body || ' ' WHERE seq = 50", "entry 50 cannot be read"),
        ("UPDATE entries SET who = x'ff' || who WHERE seq = 50", "entry 50 cannot be read"),
        ("DELETE FROM entries WHERE seq BETWEEN 52 AND 55", "4 entries missing"),
        ("DELETE FROM about WHERE seq = 50", "the index"),
        ("UPDATE about SET name = 'one.other' WHERE seq = 50", "the index"),
        ("UPDATE snapshots SET state = zeroblob(9) WHERE seq = 200", "snapshot of entry 200"),
        ("DELETE FROM entries WHERE seq > 350", "the last entry is missing"),
    ],
)
def test_check_finds(statement: str, found: str, tmp_path: Path, capsys: Captured) -> None:
    state = written(tmp_path / "state", long_journal(), 200, 399)
    altered(state, statement)
    report = checked(state, capsys)
    assert any(found in finding for finding in report["findings"]), report["findings"]
    assert report["saved"]


def test_check_finds_a_snapshot_of_something_else(tmp_path: Path, capsys: Captured) -> None:
    entries = long_journal(100)
    state = written(tmp_path / "state", entries, 100)
    store = SqliteStore.open(state)
    other = fold_all(entries[:80])
    store.append((), to_snapshot(State(100, other.plan, other.hash, goals={"one": ("x",)})))
    store.close()
    assert "not what the entries amount to" in checked(state, capsys)["findings"][0]


def test_check_finds_a_change_that_does_not_follow(tmp_path: Path, capsys: Captured) -> None:
    entries = long_journal(100)
    state = written(tmp_path / "state", entries)
    store = SqliteStore.open(state)
    store.append([to_record(Entry(101, START_S, "ann", entries[50].body))])
    store.close()
    report = checked(state, capsys)
    assert "entry 101 of the journal is damaged" in report["findings"][0]
    assert report["plan_version"] is None
    assert paceline("journal", "export", tmp_path / "e", "--state", state) == EXIT_STATE
    assert not (tmp_path / "e").exists()


def test_a_newer_entry_is_no_damage(tmp_path: Path, capsys: Captured) -> None:
    state = written(tmp_path / "state", long_journal(20))
    store = SqliteStore.open(state)
    store.append([Record(21, START_S, "ann", "of_tomorrow", 1, "{}")])
    store.close()
    for command in (["check"], ["tail"], ["export", "-"], ["export", "-", "--salvage"]):
        status = paceline("journal", *command, "--state", state)
        refused(capsys, status, EXIT_STATE, "does not know", "of_tomorrow", "newer")


# --- Copying and moving ---------------------------------------------------------------------------


def exported(state: Path, *options: str) -> bytes:
    """As a file that was not there before."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "export"
        assert paceline("journal", "export", file, *options, "--state", state) == EXIT_OK
        assert [path.name for path in Path(place).iterdir()] == ["export"]
        return file.read_bytes()


def test_an_export_is_lines_of_json(tmp_path: Path, capsys: Captured) -> None:
    state = made(tmp_path / "state", 2)
    first, *lines, last = map(json.loads, exported(state).splitlines())
    records = records_of(state)
    assert first == {"paceline_journal": 1}
    assert last["entries"] == len(lines) == len(records)
    for line, record in zip(lines, records, strict=True):
        assert (line["seq"], line["at"], line["who"]) == (record.seq, record.at, record.who)
        assert line["body"] == json.loads(record.body)
    assert f"{len(records)} entries" in capsys.readouterr().out


def test_standard_output_gets_nothing_but_the_export(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    state = made(tmp_path / "state", 2)
    whole = exported(state)
    capfdbinary.readouterr()
    assert paceline("journal", "export", "-", "--json", "--state", state) == EXIT_OK
    told = capfdbinary.readouterr()
    assert told.out == whole
    assert json.loads(told.err)["entries"] == len(records_of(state))


@pytest.mark.parametrize("options", [{}, {"newest": True}, {"about": "one.size"}])
def test_a_long_read_keeps_no_log_from_being_emptied(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a page has, it is the same; between two of them the writer's log can begin anew."""
    entries = long_journal(300)
    state = written(tmp_path / "state", entries)
    whole = list(read_file(state / FILE, **options))
    assert [each.seq for each in whole] == sorted(
        (each.seq for each in whole), reverse=options.get("newest", False)
    )
    monkeypatch.setattr(files, "JOURNAL_READ_ENTRIES", 7)
    with closing(SqliteStore.open(state)) as store, closing(sqlite3.connect(state / FILE)) as other:
        reading = read_file(state / FILE, **options)
        first = next(reading)
        store.append([to_record(Entry(301, START_S, "ann", Compacted(START_S, 0)))])
        busy, *_ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not busy
        assert [first, *reading] == whole
    monkeypatch.setattr(files, "JOURNAL_READ_BYTES", 1)
    assert list(read_file(state / FILE, before=301, **options)) == whole


def test_what_is_read_before_damage_is_read(tmp_path: Path) -> None:
    state = written(tmp_path / "state", long_journal(100))
    altered(state, "UPDATE entries SET body = body || ' ' WHERE seq = 50")
    reading = read_file(state / FILE)
    assert [next(reading).seq for _ in range(49)] == [*range(1, 50)]
    with pytest.raises(JournalDamaged):
        next(reading)


@FEW
@given(
    journals(),
    st.integers(1, 6),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 15)), min_size=1, max_size=3),
)
def test_an_export_beside_a_compaction_is_whole_or_none(
    entries: list[Entry], page: int, compactions: list[tuple[int, int]]
) -> None:
    """Each begins when so many entries have been taken."""
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "JOURNAL_READ_ENTRIES", page)
        state, other = written(Path(place) / "state", aged(entries)), Path(place) / "other"
        out = BytesIO()

        def put(lines: Iterable[bytes]) -> None:
            for number, line in enumerate(lines):
                out.write(line)
                for days, after in compactions:
                    if number == after:
                        asyncio.run(compact(state, START_S - AGE_S + days * 30_000.0))

        before = records_of(state)
        try:
            export_whole(state / FILE, put)
        except StateInUse:
            assert records_of(state) != before
            return
        other.mkdir()
        import_lines(BytesIO(out.getvalue()), other)
        assert inspect(other / FILE).sound
        assert records_of(other) == before


def test_an_export_is_refused_only_where_a_compaction_touched_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "JOURNAL_READ_ENTRIES", 10)
    entries = aged(long_journal(200))

    def compacted_after(lines_taken: int, name: str) -> Path:
        state = written(tmp_path / name, entries)

        def put(lines: Iterable[bytes]) -> None:
            for number, _ in enumerate(lines):
                if number == lines_taken:
                    asyncio.run(compact(state, START_S - AGE_S + 100))

        export_whole(state / FILE, put)
        return state

    with pytest.raises(StateInUse, match="compacted while"):
        compacted_after(50, "early")
    assert len(records_of(compacted_after(120, "late"))) < 200


def test_what_is_imported_is_the_same_journal(tmp_path: Path, capsys: Captured) -> None:
    state, other = made(tmp_path / "state"), tmp_path / "other"
    (tmp_path / "file").write_bytes(exported(state))
    assert paceline("journal", "import", tmp_path / "file", "--state", other) == EXIT_OK
    assert f"{len(records_of(state))} entries" in capsys.readouterr().out
    assert records_of(other) == records_of(state)
    assert state_of(other) == state_of(state)
    assert exported(other) == exported(state)
    report = checked(other, capsys)
    assert (report["sound"], report["snapshots"]) == (True, 1)
    assert not (other / UNFINISHED).exists()
    assert (other / FILE).stat().st_mode & 0o077 == 0


@FEW
@given(journals(), st.none() | st.integers(0, 40), st.integers(0, 15))
def test_export_and_import_are_inverse(
    entries: list[Entry], compacted: int | None, snapshot: int
) -> None:
    with tempfile.TemporaryDirectory() as place:
        state = written(Path(place) / "state", aged(entries), min(snapshot, len(entries)))
        if compacted is not None:
            asyncio.run(compact(state, START_S - AGE_S + compacted * 30_000.0))
        out, again = BytesIO(), BytesIO()
        export_whole(state / FILE, out.writelines)
        other = Path(place) / "other"
        other.mkdir()
        moved = import_lines(BytesIO(out.getvalue()), other)
        export_whole(other / FILE, again.writelines)
        assert again.getvalue() == out.getvalue()
        assert records_of(other) == records_of(state)
        assert state_of(other) == state_of(state)
        assert moved.entries == len(records_of(state))
        assert inspect(other / FILE).sound


async def compact(state: Path, before_unix_s: float) -> None:
    journal = Journal(SqliteStore.open(state), RealClock())
    await journal.compact(before_unix_s, "ann")
    await journal.close()


def test_an_export_replaces_no_file_unasked(tmp_path: Path, capsys: Captured) -> None:
    state = made(tmp_path / "state", 1)
    file = tmp_path / "file"
    file.write_text("dear")
    status = paceline("journal", "export", file, "--state", state)
    refused(capsys, status, EXIT_USAGE, "there already", str(file), "--force")
    assert file.read_text() == "dear"
    assert paceline("journal", "export", file, "--force", "--state", state) == EXIT_OK
    assert file.read_bytes() == exported(state)


@pytest.mark.parametrize("options", [[], ["--force"]])
@pytest.mark.parametrize(
    ("where", "says"),
    [(".", "no place for a file"), ("none/file", "No such file"), ("/dev/null", "no place")],
)
def test_an_export_to_nowhere_is_refused(
    options: list[str], where: str, says: str, tmp_path: Path, capsys: Captured
) -> None:
    state = made(tmp_path / "state", 1)
    status = paceline("journal", "export", tmp_path / where, *options, "--state", state)
    refused(capsys, status, EXIT_USAGE, says, "standard output")


@pytest.mark.needs("tmpfs")
def test_a_full_disk_leaves_no_half_of_an_export(mount: Path, capsys: Captured) -> None:
    state = made(mount.parent / "state")
    (mount / "file").write_text("dear")
    (mount / "ballast").write_bytes(bytes((2 << 20) - 20_000))
    for options in ([], ["--salvage"]):
        status = paceline("journal", "export", mount / "new", *options, "--state", state)
        refused(capsys, status, EXIT_STATE, "no space is left for the export", str(mount))
        status = paceline("journal", "export", mount / "file", "--force", "--state", state)
        refused(capsys, status, EXIT_STATE, "no space is left for the export", str(mount))
    assert sorted(path.name for path in mount.iterdir()) == ["ballast", "file"]
    assert (mount / "file").read_text() == "dear"


@pytest.mark.parametrize("options", [[], ["--salvage"]])
def test_an_output_that_takes_no_more_is_told(options: list[str], tmp_path: Path) -> None:
    state = made(tmp_path / "state", 1)
    command = [sys.executable, "-m", "paceline", "journal", "export", "-", *options]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*command, "--state", str(state)], stdout=full, stderr=subprocess.PIPE, timeout=WAIT_S
        )
    assert done.returncode == EXIT_STATE
    assert done.stderr.startswith(b"paceline: no space is left for the output")
    assert b"standard output" in done.stderr


@pytest.mark.needs("tmpfs")
def test_a_full_disk_leaves_no_half_of_an_import(mount: Path, capsys: Captured) -> None:
    state = made(mount.parent / "state")
    (mount.parent / "file").write_bytes(exported(state))
    (mount / "ballast").write_bytes(bytes((2 << 20) - 120_000))
    status = paceline("journal", "import", mount.parent / "file", "--state", mount)
    refused(capsys, status, EXIT_STATE, "no space is left", str(mount))
    assert sorted(path.name for path in mount.iterdir()) == ["ballast", "owner.lock"]


def import_refused(
    content: bytes, state: Path, capsys: Captured, expected: int, *says: str
) -> None:
    file = state.with_name("file")
    file.write_bytes(content)
    capsys.readouterr()
    refused(capsys, paceline("journal", "import", file, "--state", state), expected, "xport", *says)
    assert {path.name for path in state.iterdir()} <= {"owner.lock"}


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "no journal"), (b"hello\n", "hello"), (b"\xff\x00\n", "no journal"), (b"{}\n", "{}")],
)
def test_what_is_no_export_is_refused(
    content: bytes, says: str, tmp_path: Path, capsys: Captured
) -> None:
    import_refused(content, tmp_path / "state", capsys, EXIT_USAGE, says)


def test_a_file_that_is_not_there_is_told(tmp_path: Path, capsys: Captured) -> None:
    status = paceline("journal", "import", tmp_path / "none", "--state", tmp_path / "state")
    refused(capsys, status, EXIT_USAGE, "No such file", str(tmp_path / "none"))
    assert not (tmp_path / "state").exists()


def test_an_export_cut_off_anywhere_is_refused(tmp_path: Path, capsys: Captured) -> None:
    whole = exported(made(tmp_path / "made", 1))
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    for end in ends[:-1]:
        lines = whole[:end].count(b"\n")
        cut = "cut off: it ends after line"
        import_refused(whole[:end], tmp_path / "state", capsys, EXIT_STATE, f"{cut} {lines}")
        middle = f"in the middle of line {lines + 1}"
        import_refused(whole[: end + 1], tmp_path / "state", capsys, EXIT_STATE, middle)
    capsys.readouterr()
    (tmp_path / "file").write_bytes(whole.rstrip(b"\n"))
    assert paceline("journal", "import", tmp_path / "file", "--state", tmp_path / "state") == 0


@pytest.mark.parametrize(
    ("alter", "says"),
    [
        (
            lambda lines: [*lines[:4], lines[4].replace(b"steering", b"nobody"), *lines[5:]],
            "line 5",
        ),
        (
            lambda lines: [*lines[:4], lines[4].replace(b'"seq":4', b'"seq":5'), *lines[5:]],
            "line 5",
        ),
        (lambda lines: [*lines[:4], b'{"seq":4}\n', *lines[5:]], "line 5"),
        (lambda lines: [*lines[:4], b"\xff\xff\n", *lines[5:]], "line 5"),
        (lambda lines: [*lines[:4], b"\n", *lines[4:]], "line 5"),
        (lambda lines: [*lines[:4], *lines[5:]], "it counts"),
        (lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]], "line 6"),
        (lambda lines: [*lines[:4], lines[4], *lines[4:]], "line 6"),
        (lambda lines: [lines[0], *lines[2:]], "does not follow"),
        (lambda lines: [*lines, lines[1]], "nothing may follow"),
        (lambda lines: [*lines[:-1], lines[-1].replace(b'"sha256":"', b'"sha256":"0')], "line"),
        (lambda lines: [line.replace(b"\n", b"\r\n") for line in lines], "check sum"),
        (lambda lines: [lines[0].replace(b"1", b"2"), *lines[1:]], "newer"),
        (lambda lines: [lines[0].replace(b"1", b"0"), *lines[1:]], "check sum"),
    ],
)
def test_an_altered_export_is_refused(
    alter: Any, says: str, tmp_path: Path, capsys: Captured
) -> None:
    lines = exported(made(tmp_path / "made", 1)).splitlines(keepends=True)
    import_refused(b"".join(alter(lines)), tmp_path / "state", capsys, EXIT_STATE, says)


def test_no_changed_byte_goes_unnoticed(tmp_path: Path) -> None:
    whole = exported(made(tmp_path / "made", 1))
    chance = random.Random(7)
    other = tmp_path / "state"
    other.mkdir()
    for _ in range(60):
        changed_to = bytearray(whole)
        place = chance.randrange(len(whole) - 1)
        changed_to[place] ^= 1 << chance.randrange(8)
        with pytest.raises(PacelineError):
            import_lines(BytesIO(bytes(changed_to)), other)
        assert {each.name for each in other.iterdir()} <= {"journal.lock"}


def test_entries_are_replaced_by_no_import(tmp_path: Path, capsys: Captured) -> None:
    state = made(tmp_path / "state", 1)
    (tmp_path / "file").write_bytes(exported(state))
    capsys.readouterr()
    before = records_of(state)
    status = paceline("journal", "import", tmp_path / "file", "--state", state)
    refused(capsys, status, EXIT_USAGE, "replaces none", str(state), "--state DIR")
    assert records_of(state) == before


def test_an_empty_journal_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(exported(made(tmp_path / "made", 1)))
    state = written(tmp_path / "state", [])
    with closing(sqlite3.connect(state / FILE)) as reader:  # keeps log and index from going
        assert reader.execute("SELECT count(*) FROM entries").fetchone() == (0,)
        assert paceline("journal", "import", tmp_path / "file", "--state", state) == EXIT_OK
    assert records_of(state) == records_of(tmp_path / "made")


def test_the_log_of_a_journal_that_is_gone_is_not_given_to_another(
    tmp_path: Path, capsys: Captured
) -> None:
    state = made(tmp_path / "state", 1)
    (tmp_path / "file").write_bytes(exported(state))
    capsys.readouterr()
    (state / FILE).unlink()
    (state / f"{FILE}-wal").write_bytes(b"the last entries")
    status = paceline("journal", "import", tmp_path / "file", "--state", state)
    refused(capsys, status, EXIT_USAGE, "log of a journal", "-wal")
    assert (state / f"{FILE}-wal").read_bytes() == b"the last entries"


def test_an_import_comes_from_standard_input_too(tmp_path: Path) -> None:
    whole = exported(made(tmp_path / "made", 1))
    with importing(tmp_path / "state") as process:
        told, _ = process.communicate(whole, timeout=WAIT_S)
    assert process.returncode == EXIT_OK
    assert told.startswith(b"read ")
    assert records_of(tmp_path / "state") == records_of(tmp_path / "made")


@contextmanager
def importing(state: Path) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "paceline", "journal", "import", "-", "--state", str(state)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        yield process


PIPE_BYTES = 64 * 1024


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_import_that_is_broken_off_leaves_what_was_there(
    how: signal.Signals, tmp_path: Path
) -> None:
    """More than a pipe holds has been taken in, so it is in the middle."""
    whole = exported(made(tmp_path / "made", 60))
    state = written(tmp_path / "state", [])
    assert len(whole) > 2 * PIPE_BYTES
    with importing(state) as process:
        assert process.stdin is not None
        process.stdin.write(whole[: 2 * PIPE_BYTES])
        process.stdin.flush()
        process.send_signal(how)
        assert process.wait(WAIT_S) == (-how if how == signal.SIGKILL else EXIT_INTERRUPTED)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    assert records_of(state) == []
    assert (state / UNFINISHED).exists() == (how == signal.SIGKILL)
    (tmp_path / "file").write_bytes(whole)
    assert paceline("journal", "import", tmp_path / "file", "--state", state) == EXIT_OK
    assert not (state / UNFINISHED).exists()
    assert records_of(state) == records_of(tmp_path / "made")


# --- Saving what can be saved ---------------------------------------------------------------------


def damaged(state: Path, page: int, content: bytes) -> None:
    with (state / FILE).open("r+b") as file:
        file.seek(page * PAGE_BYTES)
        file.write(content)


def copied(state: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir()
    for path in state.glob(f"{FILE}*"):
        shutil.copyfile(path, to / path.name)
    return to


def saved(state: Path, capsys: Captured) -> Path | None:
    """A state directory with what could be saved, found sound; None where nothing could."""
    capsys.readouterr()
    with tempfile.TemporaryDirectory(dir=state.parent) as place:
        file = Path(place) / "file"
        status = paceline("journal", "export", file, "--salvage", "--state", state)
        told = capsys.readouterr().err
        if status == EXIT_STATE:
            assert "nothing can be saved" in told or "no journal here" in told
            assert not file.exists()
            return None
        assert status == EXIT_OK, told
        other = state.with_name("saved")
        shutil.rmtree(other, ignore_errors=True)
        assert paceline("journal", "import", file, "--state", other) == EXIT_OK
        assert exported(other) == file.read_bytes()
    assert checked(other, capsys)["sound"]
    return other


def consistent(state: Path) -> Path | None:
    """A state directory with what was saved. What is said before and after agrees, or nothing can
    be saved and both say so; everything else fails."""
    path, out = state / FILE, BytesIO()
    try:
        report = inspect(path)
    except (JournalDamaged, JournalNewer, StateUnusable) as error:
        with pytest.raises(type(error), match=NOTHING_SAVED):
            export_what_is_left(path, out.writelines)
        return None
    done = export_what_is_left(path, out.writelines)
    assert report.sound or done == report.saved
    other = state.with_name("saved")
    shutil.rmtree(other, ignore_errors=True)
    other.mkdir()
    moved = import_lines(BytesIO(out.getvalue()), other)
    assert (moved.entries, moved.plan_version) == (done.entries, done.plan_version)
    assert inspect(other / FILE).sound
    return other


NOTHING_SAVED = "nothing can be saved|there is no journal here|a newer Paceline wrote the journal"


def kept_as_they_were(records: Sequence[Record], originals: Sequence[Record]) -> None:
    by_number = {each.seq: each for each in originals}
    added = [each for each in records if by_number.get(each.seq) != each]
    assert {each.who for each in added} <= {SALVAGER}


def test_a_sound_journal_is_saved_whole(tmp_path: Path) -> None:
    state = made(tmp_path / "state")
    assert exported(state, "--salvage") == exported(state)


EVERY = pytest.param(1, marks=pytest.mark.slow)


@pytest.mark.parametrize("stride", [13, EVERY])
def test_the_plan_survives_the_loss_of_any_page(stride: int, tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", long_journal(), 200, 399)
    originals, plan = records_of(whole), state_of(whole).plan
    chance = random.Random(3)
    for page in [*range(6), *range(6, (whole / FILE).stat().st_size // PAGE_BYTES, stride)]:
        state = copied(whole, tmp_path / "state")
        damaged(state, page, [bytes(PAGE_BYTES), chance.randbytes(PAGE_BYTES)][page % 2])
        other = consistent(state)
        assert other is not None
        assert state_of(other).plan == plan
        kept_as_they_were(records_of(other), originals)


@pytest.mark.parametrize("stride", [13, EVERY])
def test_a_file_cut_off_at_any_page_is_told_and_saved(stride: int, tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", long_journal(), 200)
    originals = records_of(whole)
    content = (whole / FILE).read_bytes()
    most = 0
    pages = len(content) // PAGE_BYTES
    for end in [*range(0, pages, stride), pages - 1]:
        state = copied(whole, tmp_path / "state")
        (state / FILE).write_bytes(content[: end * PAGE_BYTES])
        other = consistent(state)
        if other is not None:
            records = records_of(other)
            kept_as_they_were(records, originals)
            assert len(records) >= most
            most = len(records)
    assert most == len(originals)


@pytest.mark.parametrize("times", [15, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_byte_can_be_such_that_it_gives_up(times: int, tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", long_journal(200), 100)
    originals = records_of(whole)
    content = (whole / FILE).read_bytes()
    chance = random.Random(times)
    for _ in range(times):
        changed_to = bytearray(content)
        for _ in range(chance.choice([1, 3, 30])):
            changed_to[chance.randrange(len(content))] = chance.randrange(256)
        for _ in range(chance.choice([0, 3])):  # where the file says what it is
            changed_to[chance.randrange(2 * PAGE_BYTES)] = chance.randrange(256)
        state = copied(whole, tmp_path / "state")
        (state / FILE).write_bytes(changed_to)
        other = consistent(state)
        if other is not None:
            kept_as_they_were(records_of(other), originals)


@pytest.mark.parametrize(
    "content", [bytes(2 * PAGE_BYTES), b"\xff" * 50_000, b"SQLite format 3\x00" + bytes(5000)]
)
def test_where_nothing_is_left_it_says_so(content: bytes, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / FILE).write_bytes(content)
    for command in (["check"], ["export", "-", "--salvage"]):
        status = paceline("journal", *command, "--state", tmp_path)
        refused(capsys, status, EXIT_STATE, "nothing can be saved", "journal.db*")


def lost(state: Path, first: int, last: int) -> None:
    altered(state, f"UPDATE entries SET who = 'eve' WHERE seq BETWEEN {first} AND {last}")


def test_what_is_lost_is_found_out_again_where_later_changes_prove_it(
    tmp_path: Path, capsys: Captured
) -> None:
    """Entry 201 is a change. Later ones name what they found, and their hashes hold."""
    state = written(tmp_path / "state", long_journal())
    originals, plan = records_of(state), state_of(state).plan
    lost(state, 201, 201)
    other = saved(state, capsys)
    assert other is not None
    records = records_of(other)
    stand_in, original = to_entry(records[200]).body, to_entry(originals[200]).body
    assert isinstance(stand_in, PlanChanged)
    assert isinstance(original, PlanChanged)
    assert records[200].who == SALVAGER
    assert stand_in.change.diff == original.change.diff
    assert [*records[:200], *records[201:400]] == [*originals[:200], *originals[201:]]
    assert to_entry(records[400]).body == Salvaged(1, 1, ((201, 201),))
    assert state_of(other).plan == plan


def test_versions_that_are_lost_keep_their_numbers(tmp_path: Path, capsys: Captured) -> None:
    """Five changes are lost. Before and after them every version is again what it was."""
    entries = long_journal()
    state = written(tmp_path / "state", entries)
    lost(state, 195, 245)
    other = saved(state, capsys)
    assert other is not None

    async def main(place: Path) -> None:
        journal = Journal(SqliteStore.open(place), RealClock())
        desk = Desk(journal, CATALOGUE, Nobody(), RealClock())
        for version in (1, 5, 20, 25, 26, 40):
            then = fold_all(entries[: 10 * version - 9]).plan
            assert await desk.plan_at(version) == then
        await desk.undo(40, Wish("ann"))
        await desk.rollback(20, Wish("ann"))
        await journal.close()

    asyncio.run(main(other))
    assert checked(other, capsys)["sound"]


def test_a_snapshot_bridges_what_nothing_else_proves(tmp_path: Path, capsys: Captured) -> None:
    """The knobs of the first entry are never touched again: only a snapshot knows them."""
    entries = long_journal(100)
    state = written(tmp_path / "state", entries, 50)
    lost(state, 1, 30)
    other = saved(state, capsys)
    assert other is not None
    assert state_of(other).plan == fold_all(entries).plan
    assert state_of(other).in_force == fold_all(entries).in_force
    assert records_of(other)[-71:-1] == plain(entries[30:])


def test_a_snapshot_tells_what_a_lost_end_led_to(tmp_path: Path, capsys: Captured) -> None:
    entries = long_journal(100)
    state = written(tmp_path / "state", entries, 95)
    lost(state, 60, 100)
    other = saved(state, capsys)
    assert other is not None
    assert state_of(other).plan == fold_all(entries[:95]).plan
    assert state_of(other).in_force == fold_all(entries[:95]).in_force
    last = to_entry(records_of(other)[-1]).body
    assert isinstance(last, Salvaged)
    assert last.gaps == ((60, 100),)


def test_without_any_proof_the_last_lines_are_kept(tmp_path: Path, capsys: Captured) -> None:
    """Of the knobs that were changed later the last line is known, of the others none."""
    entries = long_journal(100)
    state = written(tmp_path / "state", entries)
    lost(state, 1, 1)
    report = checked(state, capsys)
    assert report["saved"]["left_out"] == 99
    assert report["plan_version"] is None
    other = saved(state, capsys)
    assert other is not None
    plan = fold_all(entries).plan
    changed = sorted(CATALOGUE)[:4]
    assert state_of(other).plan == Plan(plan.version, {knob: plan.lines[knob] for knob in changed})


def test_what_is_proven_is_kept_before_and_after_what_is_not(
    tmp_path: Path, capsys: Captured
) -> None:
    """Between 31 and 60 nothing is proven, for the change in 30 is of a knob not touched again."""
    entries = long_journal(29)
    state = fold_all(entries)
    knob = sorted(CATALOGUE)[7]
    line = replaced(state.plan.lines[knob], pin=CATALOGUE[knob].default)
    entries.append(Entry(30, START_S, "ann", plan_changed(state.plan, {knob: line})))
    for number in range(31, 101):
        state = fold_all(entries)
        if number % 10:
            body: Body = adjusted(state, number)
        else:
            other_knob = sorted(CATALOGUE)[number // 10 % 4]
            now = state.plan.lines[other_knob]
            pin = CATALOGUE[other_knob].default if now.pin is None else None
            body = plan_changed(state.plan, {other_knob: replaced(now, pin=pin)})
        entries.append(Entry(number, START_S, "ann", body))
    place = written(tmp_path / "state", entries, 60)
    lost(place, 30, 30)
    lost(place, 55, 55)
    other = saved(place, capsys)
    assert other is not None
    records = {each.seq: each for each in records_of(other)}
    whole = {each.seq: each for each in plain(entries)}
    assert {number for number in whole if records.get(number) == whole[number]} == {
        *range(1, 30),
        *range(56, 101),
    }
    assert state_of(other).plan == fold_all(entries).plan


@pytest.mark.parametrize("stride", [9, EVERY])
def test_a_compacted_journal_is_saved_too(stride: int, tmp_path: Path) -> None:
    state = written(tmp_path / "state", long_journal(), 200, 400)
    asyncio.run(compact(state, START_S + 350))
    plan = state_of(state).plan
    content = (state / FILE).read_bytes()
    for page in [*range(6), *range(6, len(content) // PAGE_BYTES, stride)]:
        broken = copied(state, tmp_path / "broken")
        damaged(broken, page, b"\xaa" * PAGE_BYTES)
        other = consistent(broken)
        assert other is not None
        assert state_of(other).plan == plan


def test_what_stands_in_the_log_is_saved_under_a_damaged_first_page(tmp_path: Path) -> None:
    entries = long_journal(100)
    state = written(tmp_path / "state", entries[:50])
    store = SqliteStore.open(state)
    store.append([to_record(entry) for entry in entries[50:]])
    broken = copied(state, tmp_path / "broken")
    store.close()
    damaged(broken, 0, bytes(100))
    other = consistent(broken)
    assert other is not None
    assert state_of(other) == fold_all(entries)


# --- Compacting -----------------------------------------------------------------------------------


def of_years_ago(times: int = 400) -> list[Entry]:
    return aged(long_journal(times))


def test_compact_summarizes_what_is_old(tmp_path: Path, capsys: Captured) -> None:
    state = written(tmp_path / "state", of_years_ago())
    command = ("journal", "compact", "--state", state)
    assert paceline(*command, "--json") == EXIT_OK
    done = json.loads(capsys.readouterr().out)
    assert done["removed"] > 300
    assert done["after_bytes"] < done["before_bytes"]
    assert checked(state, capsys)["sound"]
    assert paceline(*command) == EXIT_OK
    assert "nothing to summarize" in capsys.readouterr().out


def test_a_running_server_compacts_itself_and_refuses_an_import(
    tmp_path: Path, capsys: Captured
) -> None:
    state = written(tmp_path / "state", of_years_ago())
    (tmp_path / "file").write_bytes(exported(state))
    capsys.readouterr()
    with Server(state) as server:
        assert paceline("journal", "compact", "--json", "--state", state) == EXIT_OK
        json.loads(capsys.readouterr().out)
        singles = [each for each in records_of(state) if each.kind == "adjusted"]
        assert not singles
        assert checked(state, capsys)["sound"]
        for command in (["tail"], ["export", "-"]):
            assert paceline("journal", *command, "--state", state) == EXIT_OK
        capsys.readouterr()
        status = paceline("journal", "import", tmp_path / "file", "--state", state)
        refused(capsys, status, EXIT_STATE, "in use by process", server.address)
