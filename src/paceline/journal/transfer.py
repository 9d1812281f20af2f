"""A journal as lines of JSON, and back: to keep a copy, to move, to read with other programs.

The first line names the format. Then comes a line for each entry, with its body as it is kept, byte
for byte, and a check sum that says whether this very line was changed. The last line counts and
sums up all before it, so that a file that was cut off is noticed.

What is imported replaces nothing: the new file is made beside, and moved to its place once
everything in it was found right. Called by `paceline journal export` and `import`.
"""

import errno
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from paceline.journal.damage import (
    PROGRESS_ENTRIES,
    Progress,
    Saved,
    no_progress,
    nothing_left,
    opened,
    readable_states,
    result,
)
from paceline.journal.entries import Compacted, about, to_entry
from paceline.journal.fold import NOTHING, fold, to_snapshot
from paceline.journal.salvage import Salvage, missing
from paceline.journal.sqlite import (
    FILE,
    SqliteStore,
    check_sum,
    lock,
    pages,
    read_file,
    reading,
    sync_directory,
    told,
)
from paceline.journal.store import Record, damaged
from paceline.terms.errors import (
    DiskFull,
    JournalDamaged,
    JournalNewer,
    Misuse,
    PacelineError,
    StateInUse,
)
from paceline.terms.limits import (
    JOURNAL_BUSY_S,
    JOURNAL_ENTRY_BYTES,
    JOURNAL_IMPORT_BYTES,
    JOURNAL_IMPORT_ENTRIES,
)

FORMAT = 1

LINE_BYTES = 4 * JOURNAL_ENTRY_BYTES + 64 * 1024
"""No line is longer: a character of a body is four bytes at most, and the rest is short."""

UNFINISHED = "journal.import"
"""Where an import is made, inside the state directory; what a crash leaves there goes with the
next one."""

COMPACTED = str(Compacted.__struct_config__.tag)

LAST_BEGINS = b'{"entries":'

EXPORT_AGAIN = "Export the journal again, and change nothing in the file."

Put = Callable[[Iterable[bytes]], None]
"""Takes the lines to where they belong."""


class _First(msgspec.Struct, frozen=True):
    paceline_journal: int


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`body` is JSON within JSON, and stays as it was written."""

    seq: int
    at: float
    who: str
    kind: str
    version: int
    body: msgspec.Raw
    sum: int


class _Last(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    entries: int
    sha256: str


class _Account:
    """Entries in order, found to be a journal: they follow from each other, and none is missing."""

    def __init__(self, progress: Progress) -> None:
        self.state = NOTHING
        self.entries = 0
        self._accounted = 0
        self._progress = progress

    def take(self, record: Record) -> Record:
        """The record, with the names by which it is found."""
        entry = to_entry(record)
        if entry.seq <= self.state.seq:
            raise damaged(entry.seq, f"it comes after entry {self.state.seq}")
        self.state = fold(self.state, entry)
        self.entries += 1
        self._accounted += missing(entry.body)
        if self.entries % PROGRESS_ENTRIES == 0:
            self._progress(self.entries)
        return msgspec.structs.replace(record, about=about(entry.body))

    def close(self) -> None:
        lost = self.state.seq - self.entries - self._accounted
        if lost:
            raise JournalDamaged(
                "entries of the journal are missing, by the numbers of those that are there",
                value=lost,
                remedy="`paceline journal check` shows what can be saved, and how.",
            )


class Moved(msgspec.Struct, frozen=True):
    """What was exported or imported."""

    entries: int
    last_seq: int
    plan_version: int


# --- Out ------------------------------------------------------------------------------------------


def export_whole(path: Path, put: Put, progress: Progress = no_progress) -> Moved:
    """All entries, or JournalDamaged; what has been put by then has no last line."""
    account = _Account(progress)
    put(_lines(map(account.take, _whole(path)), account))
    return _moved(account)


def _whole(path: Path) -> Iterator[Record]:
    """Up to what is the last entry now, page by page, for whoever takes them may take long.

    A compaction in between makes nonsense of the rest, unless all that it touches had been read.
    """
    with reading(path) as database:
        last = seen = next((page[0].seq for page in pages(database, newest=True)), 0)
        youngest_unix_s = float("-inf")

        def look_for_compaction() -> None:
            nonlocal seen
            for news in pages(database, after=seen):
                seen = news[-1].seq
                if any(_touches_more(each, youngest_unix_s) for each in news):
                    raise StateInUse(
                        "the journal was compacted while it was being exported",
                        value=str(path),
                        remedy="Export it again: what is written so far is no whole journal.",
                    )

        for page in pages(database, before=last + 1):
            look_for_compaction()
            yield from page
            youngest_unix_s = max(youngest_unix_s, *(each.at for each in page))
        look_for_compaction()  # one that left no page to read


def _touches_more(news: Record, youngest_unix_s: float) -> bool:
    """Whether this is a compaction of entries behind the one of that time: it touches none behind
    the first that is as young as its bound, but passes over those from the future."""
    if news.kind != COMPACTED:
        return False
    body = to_entry(news).body
    return isinstance(body, Compacted) and not body.before_unix_s <= youngest_unix_s <= news.at


def export_what_is_left(path: Path, put: Put, progress: Progress = no_progress) -> Saved:
    """Of a damaged journal; the same as `export_whole` where nothing is damaged."""
    account = _Account(progress)
    saved: list[Saved] = []

    def records() -> Iterator[Record]:
        """The file is open in here, so that it is not blamed for what `put` meets."""
        with opened(path) as file:
            salvage = Salvage(file.found, readable_states(file))
            for record in salvage.records():
                yield account.take(record)
            if not salvage.is_worth_it:
                raise nothing_left(path)
            saved.append(result(salvage))

    put(_lines(records(), account))
    return saved[0]


def write_file(lines: Iterable[bytes], target: Path, *, force: bool) -> None:
    """Under its name stands the whole file, or what stood there before."""
    place = Path(os.path.realpath(target))
    _refuse_taken(place, force=force)
    try:
        fd, beside = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
        try:
            with open(fd, "wb") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            _refuse_taken(place, force=force)
            os.replace(beside, place)
        except BaseException:
            with suppress(OSError):  # the first error is the one to tell
                os.unlink(beside)
            raise
        sync_directory(place.parent)
    except OSError as error:
        raise cannot_write(str(target), error) from error


def cannot_write(where: str, error: OSError) -> PacelineError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFull(
            "no space is left for the export",
            value=where,
            remedy="Free some space, or write it to another place.",
        )
    return Misuse(
        f"the export cannot be written: {error.strerror}",
        value=where,
        remedy="Name a file in a directory that you may write, or - for standard output.",
    )


def _refuse_taken(place: Path, *, force: bool) -> None:
    if place.exists() and not (force and place.is_file()):
        raise Misuse(
            "the file is there already" if place.is_file() else "this is no place for a file",
            value=str(place),
            remedy="Name another, or replace it with --force."
            if place.is_file()
            else "Name a file, or - for standard output.",
        )


def _lines(records: Iterable[Record], account: _Account) -> Iterator[bytes]:
    sha256 = hashlib.sha256()
    for line in _all_but_last(records):
        sha256.update(line)
        yield line
    account.close()
    yield _line(_Last(account.entries, sha256.hexdigest()))


def _all_but_last(records: Iterable[Record]) -> Iterator[bytes]:
    yield _line(_First(FORMAT))
    for each in records:
        if "\n" in each.body or each.body != each.body.strip():
            raise damaged(each.seq, "its content is not as any Paceline writes it")
        body = msgspec.Raw(each.body.encode())
        yield _line(
            _Line(each.seq, each.at, each.who, each.kind, each.version, body, check_sum(each))
        )


def _line(content: msgspec.Struct) -> bytes:
    return msgspec.json.encode(content) + b"\n"


# --- In -------------------------------------------------------------------------------------------


def import_lines(stream: BinaryIO, directory: Path, progress: Progress = no_progress) -> Moved:
    """Into a state directory whose owner does not run and whose journal has no entry yet."""
    path, place = directory / FILE, directory / UNFINISHED
    if path.exists():
        _refuse_entries(path)
    with told(directory):
        _remove(place)
        place.mkdir(mode=0o700)
        try:
            account = _fill(place, _records(stream), progress)
            _move(place / FILE, path)
        finally:
            _remove(place)
    return _moved(account)


def _refuse_entries(path: Path) -> None:
    """It is opened for writing, so that one that was never finished is finished here."""
    store = SqliteStore.open(path.parent)
    try:
        if next(store.read(), None) is not None:
            raise _not_empty(path)
    finally:
        store.close()


def _not_empty(path: Path) -> Misuse:
    return Misuse(
        "there are entries in this journal; an import replaces none",
        value=str(path),
        remedy=f"Move {path.name}* away first, or import into another directory with --state DIR.",
    )


def _fill(place: Path, records: Iterable[Record], progress: Progress) -> _Account:
    account = _Account(progress)
    store = SqliteStore.open(place)
    try:
        for batch in _batches(_taken(records, account)):
            store.append(batch)
        account.close()
        if account.entries:
            store.append((), to_snapshot(account.state))
    finally:
        store.close()
    if (place / (FILE + "-wal")).exists():
        raise DiskFull(
            "the imported journal could not be written to its end; nothing was changed",
            value=str(place),
            remedy="Free some space and try again.",
        )
    return account


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    size = 0
    for record in records:
        batch.append(record)
        size += len(record.body)
        if len(batch) >= JOURNAL_IMPORT_ENTRIES or size >= JOURNAL_IMPORT_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _move(new: Path, path: Path) -> None:
    """To the journal's place, where there is none or an empty one. What is left of that one's log
    would be taken for the new one's, so it goes before."""
    held = lock(path.parent)
    try:
        if path.exists():
            if next(read_file(path), None) is not None:
                raise _not_empty(path)
            _write_back(path)
        for end in ("-wal", "-shm"):
            left = path.with_name(path.name + end)
            if not path.exists() and left.exists() and left.stat().st_size and end == "-wal":
                raise Misuse(
                    "here lies the log of a journal that is not here",
                    value=str(left),
                    remedy="Move it to where its journal is: it holds the last entries.",
                )
            left.unlink(missing_ok=True)
        sync_directory(path.parent)
        os.replace(new, path)
        for directory in (path.parent, new.parent):  # a move between two is durable in both
            sync_directory(directory)
    finally:
        os.close(held)


def _write_back(path: Path) -> None:
    database = sqlite3.connect(path, timeout=JOURNAL_BUSY_S, isolation_level=None)
    try:
        (busy, *_) = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        database.close()
    if busy:
        raise StateInUse(
            "another program is reading the journal that the import would replace",
            value=str(path),
            remedy="End it and try again.",
        )


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _records(stream: BinaryIO) -> Iterator[Record]:
    """Each line by itself, and then the last one's account of them all."""
    sha256 = hashlib.sha256()
    line = _next_line(stream, 1)
    _check_first(line)
    number = 1
    while True:
        sha256.update(line)
        number += 1
        line = _next_line(stream, number)
        if line.startswith(LAST_BEGINS):
            break
        yield _record(line, number)
    try:
        last = msgspec.json.decode(line, type=_Last)
    except msgspec.MsgspecError as error:
        raise _unreadable(line, number, error) from error
    if last.entries != number - 2:
        raise _changed(number, f"it counts {last.entries} entries, and there are {number - 2}")
    if last.sha256 != sha256.hexdigest():
        raise _changed(number, "its check sum is not that of the lines before it")
    if stream.read(1):
        raise _changed(number + 1, "nothing may follow the last line")


def _next_line(stream: BinaryIO, number: int) -> bytes:
    try:
        line = stream.readline(LINE_BYTES)
    except OSError as error:
        raise Misuse(
            f"the file cannot be read: {error.strerror}",
            value=f"line {number}",
            remedy="Name a file that `paceline journal export` has written.",
        ) from error
    if not line and number > 1:
        raise JournalDamaged(
            f"the file is cut off: it ends after line {number - 1}",
            value=f"line {number}",
            remedy=EXPORT_AGAIN,
        )
    return line


def _check_first(line: bytes) -> None:
    try:
        form = msgspec.json.decode(line, type=_First).paceline_journal
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Misuse(
            "this is no journal that Paceline has exported",
            value=line[:80].decode(errors="replace").strip(),
            remedy="Name a file that `paceline journal export` has written.",
        ) from error
    if form > FORMAT:
        raise JournalNewer(
            "a newer Paceline exported this journal",
            value=f"format {form}; this one knows {FORMAT}",
            remedy="Install that version, or a newer one.",
        )


def _record(line: bytes, number: int) -> Record:
    try:
        each = msgspec.json.decode(line, type=_Line)
        body = bytes(each.body).decode()
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _unreadable(line, number, error) from error
    record = Record(each.seq, each.at, each.who, each.kind, each.version, body)
    if check_sum(record) != each.sum:
        raise _changed(number, f"the check sum of entry {each.seq} is another one")
    return record


def _taken(records: Iterable[Record], account: _Account) -> Iterator[Record]:
    for number, record in enumerate(records, 2):
        try:
            yield account.take(record)
        except JournalDamaged as error:
            raise _changed(number, error.cause) from error


def _unreadable(line: bytes, number: int, error: Exception) -> JournalDamaged:
    if len(line) < LINE_BYTES and not line.endswith(b"\n"):
        return JournalDamaged(
            f"the file is cut off: it ends in the middle of line {number}",
            value=f"line {number}",
            remedy=EXPORT_AGAIN,
        )
    return _changed(number, f"it cannot be read: {error}")


def _changed(number: int, what: str) -> JournalDamaged:
    return JournalDamaged(
        f"line {number} is not as it was exported: {what}",
        value=f"line {number}",
        remedy=EXPORT_AGAIN,
    )


def _moved(account: _Account) -> Moved:
    return Moved(account.entries, account.state.seq, account.state.plan.version)
