"""A journal's file as it is found: what can be read of it, and whether that is all there was.

Takes no lock and changes nothing. `journal.py` stops at the first damage, for nobody may serve by
half a memory; here it is passed over, number by number where it must be, and told. What can be made
of the rest is `salvage.py`'s business. Called by `paceline journal check` and `export`.
"""

import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from paceline.journal.entries import Entry, about, to_entry
from paceline.journal.fold import NOTHING, State, fold, fold_all, from_snapshot
from paceline.journal.salvage import Found, Gap, Salvage, missing
from paceline.journal.sqlite import (
    COLUMNS,
    FILE,
    MIGRATIONS,
    SQLITE_ERRORS,
    SqliteStore,
    checked,
    is_of_text,
    newest_snapshot,
    no_journal,
    read_file,
    reading,
    snapshots,
    told,
)
from paceline.journal.store import Record, Snapshot
from paceline.terms.errors import JournalDamaged, JournalNewer, PacelineError, StateUnusable
from paceline.terms.limits import JOURNAL_PROBES

FINDINGS = 20
"""that are told; more are counted"""

RANGES = 100
"""of unreadable numbers that are told"""

GAPS_TOLD = 5
"""in a sentence"""

PROGRESS_ENTRIES = 10_000
"""between two signs of life"""

LEAST_ENTRY_BYTES = 40
"""that an entry takes in the file"""

PAGE_BYTES = 4096
MAGIC_AND_PAGE_BYTES = slice(0, 18)
RESERVED_AND_FRACTIONS = slice(20, 24)
CHANGE_COUNTER = slice(24, 28)
PAGE_COUNT = slice(28, 32)
FREE_PAGES = slice(32, 40)
VERSION = slice(60, 64)
COUNTER_OF_PAGE_COUNT = slice(92, 96)
"""Where these stand in the first page: https://sqlite.org/fileformat2.html"""

ALWAYS = b"SQLite format 3\0" + PAGE_BYTES.to_bytes(2), bytes((0, 64, 32, 32))
"""What the first two of them are in every journal."""

PLAUSIBLE_VERSIONS = 1000
"""A file's version further from ours than this was written by no Paceline."""

Progress = Callable[[int], None]
"""Is told how many entries are done, now and then."""


def no_progress(entries: int) -> None:
    pass


class Range(msgspec.Struct, frozen=True):
    """Numbers, both included; without `last`, nobody knows how far it goes."""

    first: int
    last: int | None


class Saved(msgspec.Struct, frozen=True):
    """What `export --salvage` writes: `entries`, of which `added` are its own. Below `last_seq`
    are `lost` entries missing. `left_out` can be read, but what they build on is lost. `gaps` are
    first and last numbers, without a last one where the end is lost."""

    entries: int
    added: int
    last_seq: int
    plan_version: int
    lost: int
    left_out: int
    gaps: tuple[tuple[int, int | None], ...]


class Report(msgspec.Struct, frozen=True):
    """`plan_version` is that of the Plan a server would start with; None when it would not start.
    `saved` is there when the journal is not sound and something can be saved."""

    path: str
    size_bytes: int
    sound: bool
    entries: int
    last_seq: int
    last_at_unix_s: float | None
    plan_version: int | None
    snapshots: int
    findings: tuple[str, ...]
    more_findings: int
    unreadable: tuple[Range, ...]
    saved: Saved | None


# --- Reading what can be read ---------------------------------------------------------------------


class File:
    """One moment of a journal's file. `mended` is true of a copy with a first page of ours."""

    def __init__(self, database: sqlite3.Connection, *, mended: bool = False) -> None:
        self.mended = mended
        self._database = database
        database.execute("BEGIN")
        database.execute("SELECT count(*) FROM sqlite_schema").fetchone()

    def found(self, after: int = 0) -> Iterator[Found]:
        """Records whose check sum is right, and gaps between them; the numbers always rise."""
        position = after  # of the last row, whatever it is worth
        why = ""  # what is wrong with the rows since `after`
        alone = False  # the row before a damaged one comes alone, or not at all
        while True:
            start = position
            try:
                for row in self._database.execute(
                    f"SELECT {COLUMNS} FROM entries WHERE seq > ? ORDER BY seq LIMIT ?",
                    (position, 1 if alone else -1),
                ):
                    record = checked(row)
                    if record is None:
                        why = "a check sum is another one"
                        position = max(position, row[0])
                        continue
                    if record.seq <= after:
                        raise sqlite3.DatabaseError("the numbers of its entries do not rise")
                    if why:
                        yield Gap(after + 1, record.seq - 1, why)
                        why = ""
                    after = position = record.seq
                    yield record
                if not alone or position == start:
                    break
                alone = False
            except SQLITE_ERRORS as error:
                alone = not alone
                if alone:
                    continue
                last = self._skip(position)
                yield Gap(after + 1, last, why or _why(error))
                if last is None:
                    return
                after = position = last
                why = ""
        if why:
            yield Gap(after + 1, position if position > after else None, why)

    def snapshots(self) -> Iterator[Snapshot | str]:
        """Newest first; a sentence in the place of each that cannot be read."""
        try:
            for each in snapshots(self._database):
                if isinstance(each, Snapshot):
                    yield each
                else:
                    yield f"the snapshot of entry {each} is damaged"
        except SQLITE_ERRORS as error:
            yield f"the snapshots cannot be read: {_why(error)}"

    def names(self) -> int | None:
        """One number for all that entries can be found by, None where that cannot be read."""
        try:
            return sum(
                _name(name, seq)
                for name, seq in self._database.execute("SELECT name, seq FROM about")
            )
        except SQLITE_ERRORS:
            return None

    def faults(self) -> Iterator[str]:
        """What SQLite itself finds, the first few."""
        try:
            for (line,) in self._database.execute(f"PRAGMA integrity_check({FINDINGS})"):
                if line != "ok":
                    yield "the file's structure: " + line.splitlines()[-1]
        except SQLITE_ERRORS as error:
            yield f"the file's structure: {_why(error)}"

    def is_of_use(self) -> bool:
        return any(isinstance(found, Record) for found in self.found()) or any(
            isinstance(snapshot, Snapshot) for snapshot in self.snapshots()
        )

    def _skip(self, after: int) -> int | None:
        """The number after which reading goes on, None where it does not."""
        following = self._following(after)
        if following:  # its content cannot be read, its number can
            return following
        step = 1
        while after + step < 2**62 and self._following(after + step) is None:
            step *= 2
        reach = after + step
        if reach >= 2**62:  # the end is lost; it is not known where it was
            reach = after + self._most_entries()
        stride = max(1, (reach - after) // JOURNAL_PROBES)
        unread = after
        for probe in range(after + stride, reach + stride, stride):
            following = self._following(probe)
            if following is not None:
                return self._boundary(unread, probe)
            unread = probe
        return None

    def _boundary(self, unread: int, readable: int) -> int | None:
        """Between a number after which nothing can be read and one after which it can."""
        while readable - unread > 1:
            between = (unread + readable) // 2
            if self._following(between) is None:
                unread = between
            else:
                readable = between
        following = self._following(readable)
        return following - 1 if following else None

    def _following(self, seq: int) -> int | None:
        """The next number; 0 where there is none, None where that cannot be read."""
        try:
            row = self._database.execute(
                "SELECT seq FROM entries WHERE seq > ? ORDER BY seq LIMIT 1", (seq,)
            ).fetchone()
        except SQLITE_ERRORS:
            return None
        if row is None:
            return 0
        return row[0] if isinstance(row[0], int) and row[0] > seq else None

    def _most_entries(self) -> int:
        try:
            (pages,) = self._database.execute("PRAGMA page_count").fetchone()
        except SQLITE_ERRORS:
            return JOURNAL_PROBES
        return int(pages) * PAGE_BYTES // LEAST_ENTRY_BYTES


def _why(error: Exception) -> str:
    return "what should be text is none" if is_of_text(error) else str(error)


def _name(name: object, seq: object) -> int:
    return zlib.crc32(f"{seq} {name}".encode())


@contextmanager
def opened(path: Path) -> Iterator[File]:
    """The file where SQLite can open it; else a copy whose first page, much the same in every
    journal, is a new one. Raises where nothing in it is a journal's."""
    with ExitStack() as stack:
        file, trouble = _direct(path, stack)
        if file is None or not file.is_of_use():
            copied = _mended(path, stack)
            if copied is not None and copied.is_of_use():
                file = copied
        if file is None:
            if isinstance(trouble, PacelineError) and trouble.__cause__ is None:
                raise trouble  # it is no journal at all
            raise nothing_left(path) from trouble
        with told(path):
            yield file


def nothing_left(path: Path) -> JournalDamaged:
    return JournalDamaged(
        "nothing in the journal can be read, and nothing can be saved",
        value=str(path),
        remedy=f"Bring back a copy, or move {path.name}* away: `paceline up` then begins with the "
        "defaults.",
    )


def _direct(path: Path, stack: ExitStack) -> tuple[File | None, Exception | None]:
    if not path.is_file():
        raise no_journal(path)
    with told(path), path.open("rb") as file:
        first = file.read(PAGE_BYTES)
    if first and (first[MAGIC_AND_PAGE_BYTES], first[RESERVED_AND_FRACTIONS]) != ALWAYS:
        return None, sqlite3.DatabaseError("its first page is damaged")
    try:
        return File(stack.enter_context(reading(path))), None
    except JournalNewer as error:
        if int.from_bytes(first[VERSION]) <= len(MIGRATIONS) + PLAUSIBLE_VERSIONS:
            raise
        return None, error
    except (PacelineError, *SQLITE_ERRORS) as error:
        return None, error


def _mended(path: Path, stack: ExitStack) -> File | None:
    """A copy of the file under a new first page, which says little but where the tables begin."""
    place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="paceline-")))
    copy = place / FILE
    try:
        SqliteStore.open(place).close()
        new = copy.read_bytes()
        shutil.copyfile(path, copy)
        log = path.with_name(path.name + "-wal")
        if log.exists():
            shutil.copyfile(log, copy.with_name(log.name))
        whole_pages = copy.stat().st_size // PAGE_BYTES
        pages = max(whole_pages, len(new) // PAGE_BYTES)
        first = bytearray(new[:PAGE_BYTES])
        first[PAGE_COUNT] = pages.to_bytes(4)
        first[FREE_PAGES] = bytes(8)
        first[CHANGE_COUNTER] = first[COUNTER_OF_PAGE_COUNT]
        with copy.open("r+b") as file:
            file.truncate(whole_pages * PAGE_BYTES)
            file.write(first)
            file.seek(max(whole_pages, 1) * PAGE_BYTES)
            file.write(new[file.tell() :])  # a table that was cut off is empty, and can be read
    except OSError as error:
        raise StateUnusable(
            f"the damaged journal cannot be copied, which is needed to read it: {error.strerror}",
            value=str(place.parent),
            remedy="Make room there, or name another place with the variable TMPDIR.",
        ) from error
    database = sqlite3.connect(copy, isolation_level=None)
    stack.callback(database.close)
    try:
        return File(database, mended=True)
    except SQLITE_ERRORS:
        return None


# --- The check ------------------------------------------------------------------------------------


def inspect(path: Path, progress: Progress = no_progress) -> Report:
    """Reads everything once, and a second time where something is wrong."""
    with opened(path) as file:
        check = _Check(file, progress)
        check.run()
        saved = None if check.sound else _saved(file, check.states)
        return Report(
            path=str(path),
            size_bytes=size_bytes(path),
            sound=check.sound,
            entries=check.entries,
            last_seq=check.last_seq,
            last_at_unix_s=check.last_at,
            plan_version=start_version(path),
            snapshots=len(check.states),
            findings=tuple(check.findings),
            more_findings=check.more_findings,
            unreadable=tuple(check.unreadable),
            saved=saved,
        )


def size_bytes(path: Path) -> int:
    """With what has not been written back into the file yet."""
    log = path.with_name(path.name + "-wal")
    return path.stat().st_size + (log.stat().st_size if log.exists() else 0)


def pages_bytes(path: Path) -> int:
    """What the file has when everything is written back into it."""
    with reading(path) as database:
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = database.execute("PRAGMA page_size").fetchone()
        return int(pages) * int(page_bytes)


def readable_states(file: File) -> list[State]:
    """Of the snapshots, newest first."""
    found = (each for each in file.snapshots() if isinstance(each, Snapshot))
    return [state for state in map(from_snapshot, found) if state is not None]


class _Check:
    def __init__(self, file: File, progress: Progress) -> None:
        self.findings: list[str] = []
        self.more_findings = 0
        self.unreadable: list[Range] = []
        self.entries = self.last_seq = 0
        self.last_at: float | None = None
        self.states: list[State] = []
        self._file = file
        self._progress = progress
        self._whole: State | None = NOTHING
        self._from_snapshots: list[State | None] = []
        self._accounted = 0
        self._names = 0

    @property
    def sound(self) -> bool:
        return not self.findings

    def run(self) -> None:
        self._look_at_file()
        for found in self._file.found():
            if isinstance(found, Gap):
                self._pass_over(found)
            else:
                self._take(found)
        self._look_at_sums()

    def _say(self, finding: str) -> None:
        if len(self.findings) < FINDINGS:
            self.findings.append(finding)
        else:
            self.more_findings += 1

    def _look_at_file(self) -> None:
        if self._file.mended:
            self._say("the file's first page is damaged, or its end is missing")
        else:
            for fault in self._file.faults():
                self._say(fault)
        for snapshot in self._file.snapshots():
            if isinstance(snapshot, str):
                self._say(snapshot)
        self.states = readable_states(self._file)
        self._from_snapshots = list(self.states)

    def _pass_over(self, gap: Gap) -> None:
        if gap.last is not None and gap.last < gap.first:
            self._say(f"before entry {gap.first} stands a row that is none: {gap.why}")
            return
        self._say(f"{_entries(gap.first, gap.last)} cannot be read: {gap.why}")
        if len(self.unreadable) < RANGES:
            self.unreadable.append(Range(gap.first, gap.last))
        self._whole = None
        self._from_snapshots = [
            state if state is not None and gap.last is not None and state.seq >= gap.last else None
            for state in self._from_snapshots
        ]

    def _take(self, record: Record) -> None:
        self.entries += 1
        self.last_seq, self.last_at = record.seq, record.at
        if self.entries % PROGRESS_ENTRIES == 0:
            self._progress(self.entries)
        try:
            entry = to_entry(record)
        except JournalDamaged as error:
            self._pass_over(Gap(record.seq, record.seq, error.cause))
            return
        self._accounted += missing(entry.body)
        self._names += sum(_name(name, entry.seq) for name in about(entry.body))
        if self._whole is not None:
            self._whole = self._folded(self._whole, entry, "")
        for index, state in enumerate(self._from_snapshots):
            if state is not None and entry.seq > state.seq:
                of = f", after the snapshot of entry {self.states[index].seq}"
                self._from_snapshots[index] = self._folded(state, entry, of)

    def _folded(self, state: State, entry: Entry, of: str) -> State | None:
        try:
            return fold(state, entry)
        except JournalDamaged as error:
            self._say(error.cause + of)
            return None

    def _look_at_sums(self) -> None:
        lost = self.last_seq - self.entries - self._accounted
        if not self.unreadable:
            if lost:
                self._say(f"{count(lost)} missing, by the numbers of those that are there")
            if self._file.names() != self._names:
                self._say("the index of what entries are about does not agree with the entries")
        for taken, led_to in zip(self.states, self._from_snapshots, strict=True):
            if taken.seq > self.last_seq:
                self._say(f"the last entry is missing: there is a snapshot of entry {taken.seq}")
            elif self._whole is not None and led_to is not None and led_to != self._whole:
                self._say(f"the snapshot of entry {taken.seq} is not what the entries amount to")


def start_version(path: Path) -> int | None:
    """Of the Plan that a server would start with; None where it would refuse to."""
    try:
        snapshot = newest_snapshot(path)
        known = None if snapshot is None else from_snapshot(snapshot)
        start = NOTHING if known is None else known
        return fold_all(map(to_entry, read_file(path, start.seq)), start).plan.version
    except (PacelineError, *SQLITE_ERRORS):
        return None


def _saved(file: File, states: Sequence[State]) -> Saved | None:
    salvage = Salvage(file.found, states)
    for _ in salvage.records():
        pass
    return result(salvage) if salvage.is_worth_it else None


def result(salvage: Salvage) -> Saved:
    return Saved(
        entries=salvage.entries,
        added=salvage.added,
        last_seq=salvage.state.seq,
        plan_version=salvage.state.plan.version,
        lost=salvage.lost,
        left_out=salvage.left_out,
        gaps=tuple(salvage.gaps),
    )


def in_words(saved: Saved) -> Iterator[str]:
    """What is saved, and what is not."""
    yield f"{count(saved.entries - saved.added)}, and the Plan in its version {saved.plan_version}"
    if saved.gaps:
        told = ", ".join(_entries(*gap) for gap in saved.gaps[:GAPS_TOLD])
        more = len(saved.gaps) - GAPS_TOLD
        yield f"lost: {told}" + (f" and {more} more ranges" if more > 0 else "")
    if saved.left_out:
        yield f"left out: {count(saved.left_out)} that can be read, for what they build on is lost"


def count(entries: int) -> str:
    return f"{entries} {'entry' if entries == 1 else 'entries'}"


def _entries(first: int, last: int | None) -> str:
    if last is None:
        return f"the entries from {first} on"
    return f"entry {first}" if first == last else f"entries {first} to {last}"
