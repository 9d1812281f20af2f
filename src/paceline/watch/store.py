"""The past in a file: `metrics.db` in the state directory, one SQLite file that may be lost.

A row is a minute, an hour or a day of all series, a few kilobytes; hours and days grow with each
minute that comes, so a restart in the middle of one loses nothing of it. Its faults never reach
those who serve: a file that is damaged is told in the log and begun anew; where the disk is full
that is told once, the newest minutes wait, and what waits too long is gone. Called by `watcher.py`
in a thread, once a minute, and by reports that look further back than memory does.
"""

import os
import sqlite3
import struct
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

import msgspec
import numpy as np

from paceline.observe import log
from paceline.terms.limits import METRICS_BACKLOG, METRICS_BUSY_S, METRICS_BYTES
from paceline.watch.names import BY_NAME, Names
from paceline.watch.rollup import COLUMNS, LASTING, MINUTE, Kept, label, merged

logger = log.get(__name__)

FILE = "metrics.db"
APPLICATION_ID = 0x50414D45
"""Says in the file's header whose it is: "PAME"."""

VERSION = 1
SCHEMA = """
CREATE TABLE series (id INTEGER PRIMARY KEY, metric TEXT, labels TEXT, UNIQUE (metric, labels));
CREATE TABLE steps (
    size INTEGER, began INTEGER, known REAL, body BLOB, PRIMARY KEY (size, began)
) WITHOUT ROWID;
"""
GONE_AT_ONCE = 60
"""Of minutes, when the file has become too large."""


OF_A_BODY = (msgspec.MsgspecError, ValueError, zlib.error, struct.error)
"""What is raised where one is damaged."""


class _Body(msgspec.Struct, array_like=True):
    """Of one row. The numbers are those of the table of series."""

    numbers: bytes
    values: bytes
    packs: dict[int, bytes]


_body = msgspec.msgpack.Decoder(_Body)


class MetricsFile:
    """Opened when it is first needed, and again after a fault. One thread at a time."""

    def __init__(self, folder: Path, names: Names, most_bytes: int = METRICS_BYTES) -> None:
        self.path = folder / FILE
        self._names = names
        self._most_bytes = most_bytes
        self._database: sqlite3.Connection | None = None
        self._ids: dict[int, int] = {}
        """the file's number of a series, by ours"""
        self._waiting: deque[Kept] = deque(maxlen=METRICS_BACKLOG)
        self._told = ""
        """of which fault the log was told, while it lasts"""

    def write(self, minutes: Sequence[Kept]) -> None:
        """Those that waited too, in one transaction; in vain where the log says so."""
        self._waiting.extend(minutes)
        if not self._waiting:
            return
        try:
            self._write([*self._waiting])
        except (sqlite3.Error, OSError, *OF_A_BODY) as error:
            self._failed(error)
        else:
            self._waiting.clear()
            if self._told:
                logger.info("the history is kept in its file again", file=str(self.path))
                self._told = ""

    def read(self, size_s: int, since_s: float, *, repair: bool = False) -> Iterator[Kept]:
        """Stretches of one length that began then or later, oldest first. None where there is no
        file, or one that cannot be read; whoever may write it can `repair` it: begin it anew."""
        try:
            yield from self._read(size_s, since_s)
        except (sqlite3.Error, OSError, *OF_A_BODY) as error:
            if repair and _is_damage(error):
                self.begin_anew(error)
            else:
                logger.warning("the history in its file cannot be read", why=str(error))

    def close(self) -> None:
        if self._database is not None:
            with suppress(sqlite3.Error):  # what is not written by now may be lost
                self._database.close()
            self._database = None

    # --- How --------------------------------------------------------------------------------------

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            database = sqlite3.connect(
                self.path,
                timeout=METRICS_BUSY_S,
                isolation_level=None,
                check_same_thread=False,  # one at a time: the pool of the watcher has one
            )
            try:
                self._prepare(database)
            except BaseException:
                database.close()
                raise
            self._database = database
        return self._database

    def _prepare(self, database: sqlite3.Connection) -> None:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        (whose,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if tables and (whose, version) != (APPLICATION_ID, VERSION):
            raise sqlite3.DatabaseError("file is not a database of this version of ours")
        if not tables:
            database.executescript(
                f"BEGIN; PRAGMA application_id = {APPLICATION_ID};"
                f"PRAGMA user_version = {VERSION}; {SCHEMA} COMMIT;"
            )
        self._ids = {}

    def _write(self, minutes: Sequence[Kept]) -> None:
        database = self._opened()
        database.execute("BEGIN IMMEDIATE")
        try:
            ours = self._numbers(database)
            for number in range(len(self._names)):
                if self._names.metrics[number].kind == "gauge":  # one that says 0 is in no row
                    self._id(database, number, ours)
            for minute in minutes:
                for size_s in LASTING:
                    self._put(database, size_s, minute, ours)
            for size_s, lasting_s in LASTING.items():
                oldest = minutes[-1].began_s - lasting_s
                database.execute("DELETE FROM steps WHERE size = ? AND began < ?", (size_s, oldest))
            self._shrink(database)
            database.execute("COMMIT")
        except BaseException:
            self._ids = {}
            if database.in_transaction:
                with suppress(sqlite3.Error):  # the first error is the one to be told
                    database.execute("ROLLBACK")
            raise

    def _put(
        self, database: sqlite3.Connection, size_s: int, minute: Kept, ours: dict[int, int]
    ) -> None:
        """A minute becomes part of a stretch, which may be there already."""
        began = int(label(size_s, minute.began_s))
        row = database.execute(
            "SELECT known, body FROM steps WHERE size = ? AND began = ?", (size_s, began)
        ).fetchone()
        kept = minute
        if row is not None:
            known_s, body = row
            before = self._kept(size_s, began, known_s, body, ours)
            kept = merged(self._names, size_s, began, (before, minute))
        ids = np.array(
            [self._id(database, each, ours) for each in kept.numbers.tolist()], dtype="<u4"
        )
        packs = {self._id(database, each, ours): packed for each, packed in kept.packs.items()}
        body = msgspec.msgpack.encode(
            _Body(ids.tobytes(), kept.values.astype("<f8").tobytes(), packs)
        )
        database.execute(
            "INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?)", (size_s, began, kept.known_s, body)
        )

    def _id(self, database: sqlite3.Connection, number: int, ours: dict[int, int]) -> int:
        if number not in self._ids:
            name = self._names.metrics[number].name
            labels = msgspec.json.encode(self._names.labels[number]).decode()
            database.execute(
                "INSERT OR IGNORE INTO series (metric, labels) VALUES (?, ?)", (name, labels)
            )
            (self._ids[number],) = database.execute(
                "SELECT id FROM series WHERE metric = ? AND labels = ?", (name, labels)
            ).fetchone()
            ours[self._ids[number]] = number
        return self._ids[number]

    def _numbers(self, database: sqlite3.Connection) -> dict[int, int]:
        """Ours, by the file's; without metrics that are no longer, or of which we have too many."""
        ours: dict[int, int] = {}
        for number, name, labels in database.execute("SELECT id, metric, labels FROM series"):
            metric = BY_NAME.get(name)
            told = tuple(msgspec.json.decode(labels, type=list[str]))
            if metric is not None and len(told) == len(metric.labels):
                known = self._names.number(metric, told)
                if known >= 0:
                    ours[number] = known
        return ours

    def _kept(
        self, size_s: int, began: int, known_s: float, body: bytes, ours: dict[int, int]
    ) -> Kept:
        told = _body.decode(body)
        ids = np.frombuffer(told.numbers, "<u4").tolist()
        values = np.frombuffer(told.values, "<f8").reshape(-1, COLUMNS)
        numbers = np.array([ours.get(each, -1) for each in ids], dtype=np.intp)
        order = np.argsort(numbers)
        order = order[numbers[order] >= 0]
        packs = {ours[each]: packed for each, packed in told.packs.items() if each in ours}
        return Kept(size_s, float(began), known_s, numbers[order], values[order], packs)

    def _read(self, size_s: int, since_s: float) -> Iterator[Kept]:
        if not self.path.exists():
            return
        uri = f"file:{quote(str(self.path.absolute()))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=METRICS_BUSY_S)) as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version != VERSION:
                return
            ours = self._numbers(database)
            rows = database.execute(
                "SELECT began, known, body FROM steps WHERE size = ? AND began >= ? ORDER BY began",
                (size_s, since_s),
            )
            for began, known_s, body in rows:
                yield self._kept(size_s, began, known_s, body, ours)

    def _shrink(self, database: sqlite3.Connection) -> None:
        """Room that is freed is used again; the file itself stays as long as it was."""
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        (free,) = database.execute("PRAGMA freelist_count").fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
        if (pages - free) * size > self._most_bytes:
            database.execute(
                "DELETE FROM steps WHERE size = ? AND began IN "
                "(SELECT began FROM steps WHERE size = ? ORDER BY began LIMIT ?)",
                (MINUTE, MINUTE, GONE_AT_ONCE),
            )

    def _failed(self, error: Exception) -> None:
        """Told once for each kind of fault; a damaged file is begun anew."""
        self.close()
        if _is_damage(error):
            self.begin_anew(error)
        elif str(error) != self._told:
            self._told = str(error)
            logger.error(
                "the history is not kept in its file",
                file=str(self.path),
                why=str(error),
                remedy="free some space, or see who may write there; what is served is not touched",
            )

    def begin_anew(self, error: Exception) -> None:
        """Also for whoever found the damage in what was read."""
        self.close()
        logger.error(
            "the history in its file is damaged and begins anew",
            file=str(self.path),
            why=str(error),
        )
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):  # then the next write says why
                self.path.with_name(FILE + suffix).unlink()


def _is_damage(error: Exception) -> bool:
    """Of the file itself, not of the disk it is on or of who holds it."""
    if isinstance(error, sqlite3.OperationalError | OSError):
        return False
    return isinstance(error, (sqlite3.DatabaseError, *OF_A_BODY))
