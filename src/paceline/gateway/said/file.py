"""What was said, in a file: `said.db` in the state directory, readable by its user alone.

What is gone is overwritten: deleted rows and free pages with zeros, and what waits beside the file
is moved into it and cut. Several processes may have it open. Written by `keeper.py`; read, and
erased, by the owner (`web/said_api.py`) and, while none runs, by the command.
"""

import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from paceline.terms.limits import SAID_BUSY_S, SAID_BYTES, SAID_CALLS

FILE = "said.db"
APPLICATION_ID = 0x50415341
"""Says in the file's header whose it is: "PASA"."""

VERSION = 1
SCHEMA = (
    """
    CREATE TABLE said (
        number INTEGER PRIMARY KEY, id TEXT, at REAL, until REAL, key TEXT, endpoint TEXT,
        model TEXT, route TEXT, status INTEGER, asked TEXT, asked_bytes INTEGER, answered TEXT,
        answered_bytes INTEGER
    )
    """,
    "CREATE INDEX said_id ON said (id)",
    "CREATE INDEX said_until ON said (until)",
    "CREATE INDEX said_key ON said (key)",
)
COLUMNS = "id, at, until, key, endpoint, model, route, status, asked_bytes, answered_bytes"

GONE_AT_ONCE = 100
"""calls, where there are too many, or too long ones"""


class Row(msgspec.Struct, frozen=True):
    """One call; without its words where it is one of many that are listed."""

    id: str
    at: float
    """unix seconds, as `until` is, when it goes"""
    until: float
    key: str | None
    endpoint: str
    model: str
    route: str
    status: int
    asked_bytes: int
    answered_bytes: int
    asked: str = ""
    answered: str = ""


class SaidFile:
    """Opened by who writes; others see `rows`, `expire` and `forget`, which open it for a moment.
    Each raises sqlite3.Error or OSError."""

    def __init__(
        self, folder: Path, most_bytes: int = SAID_BYTES, most_calls: int = SAID_CALLS
    ) -> None:
        self.path = folder / FILE
        self._most_bytes = most_bytes
        self._most_calls = most_calls
        self._database: sqlite3.Connection | None = None

    def write(self, rows: Iterable[Row]) -> None:
        database = self._opened()
        database.execute("BEGIN IMMEDIATE")
        try:
            database.executemany(
                f"INSERT INTO said ({COLUMNS}, asked, answered) VALUES "
                "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (msgspec.structs.astuple(each) for each in rows),
            )
            self._shrink(database)
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                with suppress(sqlite3.Error):  # the first error is the one to be told
                    database.execute("ROLLBACK")
            raise

    def close(self) -> None:
        if self._database is not None:
            with suppress(sqlite3.Error):  # what is written is written
                self._database.close()
            self._database = None

    def begin_anew(self) -> None:
        """After damage: what is in it cannot be read any more, nor may it stay."""
        self.close()
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):  # then the next write says why
                self.path.with_name(FILE + suffix).unlink()

    def rows(self, now: float, most: int, key: str | None = None) -> Sequence[Row]:
        """The newest, without their words."""
        of_key = "" if key is None else "AND key = ? "
        given = (now,) if key is None else (now, key)
        return self._read(
            f"SELECT {COLUMNS} FROM said WHERE until > ? {of_key}ORDER BY at DESC LIMIT {most}",
            given,
        )

    def of(self, call_id: str, now: float, most: int) -> Sequence[Row]:
        """Those of one call, with their words; several where callers gave the same id."""
        return self._read(
            f"SELECT {COLUMNS}, asked, answered FROM said WHERE id = ? AND until > ? "
            f"ORDER BY at DESC LIMIT {most}",
            (call_id, now),
        )

    def expire(self, now: float, keep_s: float = 0.0) -> int:
        """What has been kept long enough, by what held then and by what holds now."""
        if keep_s:
            return self._erase("until <= ? OR at <= ?", (now, now - keep_s))
        return self._erase("until <= ?", (now,))

    def forget(self, call_id: str | None = None, key: str | None = None) -> int:
        """One call, all of a key, or all there is."""
        if call_id is not None:
            return self._erase("id = ?", (call_id,))
        return self._erase("1", ()) if key is None else self._erase("key = ?", (key,))

    # --- How --------------------------------------------------------------------------------------

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            database = sqlite3.connect(self.path, timeout=SAID_BUSY_S, isolation_level=None)
            try:
                _prepare(database)
            except BaseException:
                database.close()
                raise
            self._database = database
        return self._database

    def _read(self, query: str, given: Sequence[object]) -> Sequence[Row]:
        if not self.path.exists():
            return ()
        self._opened()
        try:
            assert self._database is not None
            return [Row(*each) for each in self._database.execute(query, given)]
        finally:
            self.close()

    def _erase(self, which: str, given: Sequence[object]) -> int:
        if not self.path.exists():
            return 0
        with closing(self._opened()) as database:
            self._database = None
            gone = database.execute(f"DELETE FROM said WHERE {which}", given).rowcount
            database.execute("PRAGMA incremental_vacuum").fetchall()
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return gone

    def _shrink(self, database: sqlite3.Connection) -> None:
        while True:
            (calls,) = database.execute("SELECT count(*) FROM said").fetchone()
            (pages,) = database.execute("PRAGMA page_count").fetchone()
            (free,) = database.execute("PRAGMA freelist_count").fetchone()
            (size,) = database.execute("PRAGMA page_size").fetchone()
            over = max(0, calls - self._most_calls)
            if (pages - free) * size > self._most_bytes:
                over = max(over, min(calls, GONE_AT_ONCE))
            if not over:
                return
            database.execute(
                "DELETE FROM said WHERE number IN (SELECT number FROM said ORDER BY at LIMIT ?)",
                (over,),
            )


def _prepare(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA auto_vacuum = INCREMENTAL")  # heeded by a file that is still empty
    database.execute("PRAGMA journal_mode = WAL").fetchall()
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("PRAGMA secure_delete = ON").fetchall()
    _make(database)
    (whose,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if (whose, version) != (APPLICATION_ID, VERSION):
        raise sqlite3.DatabaseError("file is not a database of this version of ours")


def _make(database: sqlite3.Connection) -> None:
    """Unless another has: several may begin at once."""
    if database.execute("SELECT count(*) FROM sqlite_schema").fetchone() != (0,):
        return
    database.execute("BEGIN IMMEDIATE")
    try:
        if database.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,):
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            database.execute(f"PRAGMA user_version = {VERSION}")
            for statement in SCHEMA:
                database.execute(statement)
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            with suppress(sqlite3.Error):  # the first error is the one to be told
                database.execute("ROLLBACK")
        raise
