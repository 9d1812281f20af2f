"""The journal's records in one SQLite file: durable at return, atomic, read without waiting.

Write-ahead log with `synchronous=FULL`: each commit ends with a sync, and readers see the last one
that was finished. One writer at a time, held by a lock of the kernel's beside the file; readers
take no lock. Called by `journal.py` and the commands that look at a file while nobody runs.
"""

import errno
import fcntl
import os
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from paceline.journal.store import Compaction, Record, Snapshot, damaged
from paceline.terms.errors import (
    DiskFull,
    JournalDamaged,
    JournalNewer,
    Misuse,
    PacelineError,
    StateInUse,
    StateUnusable,
)
from paceline.terms.limits import (
    JOURNAL_BUSY_S,
    JOURNAL_READ_BYTES,
    JOURNAL_READ_ENTRIES,
    JOURNAL_SNAPSHOTS,
)

FILE = "journal.db"
LOCK = "journal.lock"
APPLICATION_ID = 0x50414345
"""Says in the file's header whose it is: "PACE"."""

SCHEMA = """
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    who TEXT NOT NULL,
    kind TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    sum INTEGER NOT NULL
) STRICT;
CREATE TABLE about (name TEXT, seq INTEGER, PRIMARY KEY (name, seq)) STRICT, WITHOUT ROWID;
CREATE TABLE snapshots (
    seq INTEGER PRIMARY KEY,
    format INTEGER NOT NULL,
    state BLOB NOT NULL,
    sum INTEGER NOT NULL
) STRICT;
"""
MIGRATIONS: tuple[str, ...] = (SCHEMA,)
"""What leads from each version of the file to the next; the first makes it. The file's version is
how many of them it has had."""

SYNCHRONOUS = "FULL"
WAL_BYTES = 16 * 1024 * 1024
"""How much of the write-ahead log stays on disk for reuse after a burst."""

HEADER_BYTES = 100
MADE = b"made\n"
"""What the lock's file says once there is a journal beside it."""

COLUMNS = "seq, at, who, kind, version, body, sum"


class SqliteStore:
    """The writer. `open` takes the lock, makes or migrates the file, or says why not."""

    def __init__(self, path: Path, database: sqlite3.Connection, lock_fd: int) -> None:
        self.path = path
        self._database = database
        self._lock_fd: int | None = lock_fd
        self._files = _files(path)

    @classmethod
    def open(cls, directory: Path) -> "SqliteStore":
        path = directory / FILE
        with told(path):
            lock_fd = lock(directory)
            try:
                _refuse_emptied(path, lock_fd)
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
                database = sqlite3.connect(
                    path,
                    timeout=JOURNAL_BUSY_S,
                    isolation_level=None,
                    check_same_thread=False,  # one thread at a time: it opens, another writes
                )
                try:
                    _prepare(database, path)
                except BaseException:
                    database.close()
                    raise
                sync_directory(directory)
                if not os.fstat(lock_fd).st_size:
                    os.pwrite(lock_fd, MADE, 0)
            except BaseException:
                os.close(lock_fd)
                raise
        return cls(path, database, lock_fd)

    def append(
        self,
        records: Sequence[Record],
        snapshot: Snapshot | None = None,
        compaction: Compaction | None = None,
    ) -> None:
        with told(self.path):
            self._check_files()
            with self._transaction():
                if compaction is not None:
                    self._remove(compaction)
                    self._insert(compaction.summaries)
                self._insert(records)
                if snapshot is not None:
                    self._keep(snapshot)
                if compaction is not None:
                    self._shrink()
            self._files = {**self._files, **_files(self.path)}

    def read(
        self, after: int = 0, before: int | None = None, about: str = "", newest: bool = False
    ) -> Iterator[Record]:
        return read_file(self.path, after, before, about, newest)

    def snapshot(self) -> Snapshot | None:
        return newest_snapshot(self.path)

    def close(self) -> None:
        try:
            with told(self.path):
                self._database.close()
        finally:
            if self._lock_fd is not None:
                os.close(self._lock_fd)
                self._lock_fd = None

    def _check_files(self) -> None:
        """SQLite would go on writing into files that nobody finds again, or that somebody cut."""
        now = _files(self.path)
        for path, before in self._files.items():
            after = now.get(path)
            if after is None or after.id != before.id:
                raise StateUnusable(
                    "the journal was deleted, moved or replaced while it was in use",
                    value=str(path),
                    remedy="Put it back as it was, or start Paceline again.",
                )
            if after.size < before.size:
                self._check_readable()

    def _check_readable(self) -> None:
        """Another program may have emptied the log properly; then the newest is still there."""
        try:
            next(read_file(self.path, newest=True), None)
        except PacelineError as error:
            raise JournalDamaged(
                "the journal was cut short while it was in use",
                value=str(self.path),
                remedy="Stop Paceline; `paceline journal check` shows what can be saved, and how.",
            ) from error

    def _remove(self, compaction: Compaction) -> None:
        """By whole keys: a search by number alone would read all of `about`, for tenths of a second
        in which nobody else can write."""
        gone = set(compaction.gone)
        first, last = min(gone, default=0), max(gone, default=0)
        keys = [
            (name, seq)
            for name in {name for each in compaction.summaries for name in each.about}
            for (seq,) in self._database.execute(
                "SELECT seq FROM about WHERE name = ? AND seq BETWEEN ? AND ?", (name, first, last)
            )
            if seq in gone
        ]
        self._database.executemany("DELETE FROM about WHERE name = ? AND seq = ?", keys)
        self._database.executemany("DELETE FROM entries WHERE seq = ?", [(seq,) for seq in gone])

    def _insert(self, records: Sequence[Record]) -> None:
        self._database.executemany(
            f"INSERT INTO entries ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (each.seq, each.at, each.who, each.kind, each.version, each.body, check_sum(each))
                for each in records
            ],
        )
        names = [(name, each.seq) for each in records for name in each.about]
        self._database.executemany("INSERT INTO about (name, seq) VALUES (?, ?)", names)

    def _keep(self, snapshot: Snapshot) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO snapshots (seq, format, state, sum) VALUES (?, ?, ?, ?)",
            (snapshot.seq, snapshot.format, snapshot.state, zlib.crc32(snapshot.state)),
        )
        self._database.execute(
            "DELETE FROM snapshots WHERE seq NOT IN "
            "(SELECT seq FROM snapshots ORDER BY seq DESC LIMIT ?)",
            (JOURNAL_SNAPSHOTS,),
        )

    def _shrink(self) -> None:
        """Gives freed pages back to the disk. Each execution takes one step, and so frees one page:
        sqlite3 steps on only through rows, and this has none."""
        (free,) = self._database.execute("PRAGMA freelist_count").fetchone()
        for _ in range(free):
            self._database.execute("PRAGMA incremental_vacuum(1)")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise


class SqliteReader:
    """The same file for whoever only asks: it takes no lock, and a writer may be at work."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE

    def append(
        self,
        records: Sequence[Record],
        snapshot: Snapshot | None = None,
        compaction: Compaction | None = None,
    ) -> None:
        raise Misuse(
            "this journal was opened to be read",
            value=str(self.path),
            remedy="Open it with SqliteStore.open to write.",
        )

    def read(
        self, after: int = 0, before: int | None = None, about: str = "", newest: bool = False
    ) -> Iterator[Record]:
        return read_file(self.path, after, before, about, newest)

    def snapshot(self) -> Snapshot | None:
        return newest_snapshot(self.path)

    def close(self) -> None:
        pass


# --- Reading, by anybody, without a lock ----------------------------------------------------------


def read_file(
    path: Path, after: int = 0, before: int | None = None, about: str = "", newest: bool = False
) -> Iterator[Record]:
    """The records of a file, each checked; a writer may be at work meanwhile."""
    with reading(path) as database:
        for page in pages(database, after, before, about, newest):
            yield from page


def pages(
    database: sqlite3.Connection,
    after: int = 0,
    before: int | None = None,
    about: str = "",
    newest: bool = False,
) -> Iterator[list[Record]]:
    """Each page is read in one go, and is a moment of its own. One moment for all of them would
    keep the write-ahead log growing for as long as a reader takes its time. Of a compaction between
    two pages only the half that is still to be read is seen."""
    if before is None:  # what is appended later is not in it
        (newest_seq,) = database.execute("SELECT max(seq) FROM entries").fetchone()
        before = (newest_seq or 0) + 1
    low, high = after, before
    source = "about JOIN entries USING (seq) WHERE name = ? AND" if about else "entries WHERE"
    order = "DESC" if newest else "ASC"
    query = f"SELECT {COLUMNS} FROM {source} seq > ? AND seq < ? ORDER BY seq {order}"
    named = (about,) if about else ()
    while True:
        page: list[Record] = []
        size_bytes = 0
        trouble: Exception | None = None  # what was read before it is good
        with closing(database.execute(query, (*named, low, high))) as rows:
            try:
                for row in rows:
                    record = checked(row)
                    if record is None:
                        trouble = damaged(row[0], "its check sum is another one")
                        break
                    if not low < record.seq < high:
                        trouble = damaged(record.seq, "it does not stand where its number belongs")
                        break
                    low, high = (low, record.seq) if newest else (record.seq, high)
                    page.append(record)
                    size_bytes += len(record.body)
                    if len(page) >= JOURNAL_READ_ENTRIES or size_bytes >= JOURNAL_READ_BYTES:
                        break
                else:
                    high = low  # that was the last page
            except SQLITE_ERRORS as error:
                trouble = error
        if page:
            yield page
        if trouble is not None:
            raise trouble
        if low >= high:
            return


def newest_snapshot(path: Path) -> Snapshot | None:
    with reading(path) as database:
        found = snapshots(database)
        return next((each for each in found if isinstance(each, Snapshot)), None)


def snapshots(database: sqlite3.Connection) -> Iterator[Snapshot | int]:
    """Newest first, and the number in the place of one that is damaged. Each is fetched alone: one
    that cannot be read must not hide the next."""
    numbers = database.execute("SELECT seq FROM snapshots ORDER BY seq DESC").fetchall()
    for (seq,) in numbers:
        try:
            rows = database.execute(
                "SELECT format, state, sum FROM snapshots WHERE seq = ? LIMIT 1", (seq,)
            ).fetchall()
        except sqlite3.DatabaseError as error:
            if _kind(error) != sqlite3.SQLITE_CORRUPT:
                raise
            yield seq
            continue
        for form, state, checksum in rows:  # none, if a writer has replaced it meanwhile
            sound = isinstance(state, bytes) and zlib.crc32(state) == checksum
            yield Snapshot(seq, form, state) if sound else seq


def checked(row: tuple[Any, ...]) -> Record | None:
    """A row as COLUMNS names them; None where it is not what was written."""
    if not all(map(isinstance, row, (int, float, str, str, int, str, int))):
        return None
    record = Record(*row[:-1])
    return record if check_sum(record) == row[-1] else None


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write, after a look at whose file it is."""
    with told(path):
        if not path.exists():
            raise no_journal(path)
        try:
            database = _connect(path)
        except sqlite3.OperationalError as error:
            refused = _kind(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
            if not refused and getattr(error, "sqlite_errorname", "") not in NO_SPACE:
                raise
            database = None
        if database is None:  # where not even a reader's shared memory can be made
            with _copy(path) as copied:
                yield copied
            return
        try:
            yield database
        finally:
            database.close()


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(
        f"file:{quote(str(path))}?mode=ro",
        uri=True,
        timeout=JOURNAL_BUSY_S,
        isolation_level=None,
        check_same_thread=False,  # a generator may be finished by another thread
    )
    try:
        if not _check_header(database, path):
            raise no_journal(path)
    except BaseException:
        database.close()
        raise
    return database


def no_journal(path: Path) -> StateUnusable:
    return StateUnusable(
        "there is no journal here",
        value=str(path),
        remedy="Name the state directory with --state DIR; `paceline up` makes one.",
    )


@contextmanager
def _copy(path: Path) -> Iterator[sqlite3.Connection]:
    with tempfile.TemporaryDirectory(prefix="paceline-") as place:
        for name in (path, path.with_name(path.name + "-wal")):
            if name.exists():
                shutil.copyfile(name, Path(place) / name.name)
        database = sqlite3.connect(Path(place) / path.name, isolation_level=None)
        try:
            if not _check_header(database, path):
                raise no_journal(path)
            yield database
        finally:
            database.close()


# --- The file -------------------------------------------------------------------------------------


def lock(directory: Path) -> int:
    lock_fd = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock_fd)
        if not isinstance(error, BlockingIOError):
            raise
        raise StateInUse(
            "another process writes this journal",
            value=str(directory / FILE),
            remedy="Stop it, or call the server that holds it.",
        ) from None
    return lock_fd


def _refuse_emptied(path: Path, lock_fd: int) -> None:
    """A file with next to nothing in it is a new one, unless the lock's file says otherwise."""
    made = os.fstat(lock_fd).st_size > 0
    if made and path.exists() and path.stat().st_size < HEADER_BYTES:
        raise JournalDamaged(
            "the journal has been emptied",
            value=str(path),
            remedy="Put a copy back, or delete the file to begin anew.",
        )


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    version = _check_header(database, path)
    if version == 0:
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
    database.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    if version < len(MIGRATIONS):
        steps = "".join(MIGRATIONS[version:])
        database.executescript(
            f"BEGIN IMMEDIATE; {steps} PRAGMA application_id = {APPLICATION_ID};"
            f" PRAGMA user_version = {len(MIGRATIONS)}; COMMIT;"
        )


def _check_header(database: sqlite3.Connection, path: Path) -> int:
    """The file's version; 0 for one that has just been made."""
    (owner,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if owner != APPLICATION_ID and (owner or tables):
        raise JournalDamaged(
            "this is a database, but no journal of Paceline's",
            value=str(path),
            remedy="Move it away, or choose another place with --state DIR.",
        )
    if version > len(MIGRATIONS):
        raise JournalNewer(
            "a newer Paceline wrote the journal",
            value=f"{path}, version {version}; this one knows {len(MIGRATIONS)}",
            remedy="Install that version, or choose another place with --state DIR.",
        )
    return int(version)


class _File(NamedTuple):
    id: tuple[int, int]
    size: int


def _files(path: Path) -> dict[Path, _File]:
    """The database and its log, as far as they can be found now."""
    found = {}
    for each in (path, path.with_name(path.name + "-wal")):
        with suppress(OSError):  # it is missing, or the way to it is
            status = os.stat(each)
            found[each] = _File((status.st_dev, status.st_ino), status.st_size)
    return found


def sync_directory(directory: Path) -> None:
    """What stands in a directory is durable when the directory itself was synced."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_sum(record: Record) -> int:
    content = (record.seq, float(record.at), record.who, record.kind, record.version, record.body)
    return zlib.crc32(msgspec.json.encode(content))


SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""The second where SQLite's message quotes a damaged file."""


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Errors of SQLite and of the operating system, in words that help."""
    try:
        yield
    except SQLITE_ERRORS as error:
        raise _of_sqlite(path, error) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(path) from error
        raise StateUnusable(
            f"the journal cannot be used: {error.strerror}",
            value=str(path),
            remedy="Make it writable for this user, or choose another place with --state DIR.",
        ) from error


def _disk_full(path: Path) -> DiskFull:
    return DiskFull(
        "no space is left for the journal; nothing was changed",
        value=str(path),
        remedy="Free some space and try again; inference goes on meanwhile.",
    )


NO_SPACE = ("SQLITE_IOERR_SHMSIZE",)
"""What SQLite says of a full disk where it is the readers' shared memory that finds no space."""


def _kind(error: Exception) -> int:
    """Without the detail in the upper bits; 0 where it was not SQLite who complained."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_of_text(error: Exception) -> bool:
    """Whether a text was no UTF-8, which Python says in SQLite's name."""
    return isinstance(error, UnicodeDecodeError | sqlite3.OperationalError) and not _kind(error)


def _of_sqlite(path: Path, error: Exception) -> PacelineError:
    code = _kind(error)
    if code == sqlite3.SQLITE_FULL or getattr(error, "sqlite_errorname", "") in NO_SPACE:
        return _disk_full(path)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or is_of_text(error):
        return JournalDamaged(
            f"the journal is damaged: {error}",
            value=str(path),
            remedy="`paceline journal check` shows what can be saved, and how.",
        )
    if code == sqlite3.SQLITE_CONSTRAINT:
        return StateInUse(
            "another process has written this journal meanwhile",
            value=str(path),
            remedy="Stop it; one process writes a journal.",
        )
    if code == sqlite3.SQLITE_BUSY:
        return StateUnusable(
            "another program keeps the journal locked",
            value=str(path),
            remedy="Close what has opened the file for writing, such as a database browser.",
        )
    return StateUnusable(
        f"the journal cannot be used: {error}",
        value=str(path),
        remedy="Make the file and its directory writable, or choose another with --state DIR.",
    )
