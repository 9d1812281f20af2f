"""The Store contract: kept by our implementations, and able to find those that break it."""

import fcntl
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

import msgspec
import pytest

from paceline.journal import sqlite
from paceline.journal.sqlite import FILE, SqliteStore
from paceline.journal.store import Compaction, Record, Snapshot, Store
from paceline.terms.errors import StateInUse
from paceline.testing import Kept, ListStore
from paceline.testing.list_store import Content
from paceline.testing.store_contract import StoreContract


class SqliteContract(StoreContract):
    def open(self, place: Path) -> Store:
        return SqliteStore.open(place)

    def damage_newest_snapshot(self, place: Path) -> bool:
        newest = "(SELECT max(seq) FROM snapshots)"
        _alter(place, f"UPDATE snapshots SET state = zeroblob(7) WHERE seq = {newest}")
        return True

    def damage_record(self, place: Path, seq: int) -> bool:
        _alter(place, f"UPDATE entries SET body = body || ' ' WHERE seq = {seq}")
        return True


def _alter(place: Path, statement: str) -> None:
    with closing(sqlite3.connect(place / FILE)) as database, database:
        assert database.execute(statement).rowcount == 1


class TestSqliteStore(SqliteContract):
    pass


class ListContract(StoreContract):
    """One Kept for each path that is named."""

    def setup_method(self) -> None:
        self.kept: dict[Path, Kept] = {}

    def open(self, place: Path) -> Store:
        return ListStore(self.kept.setdefault(place, Kept()))

    def damage_newest_snapshot(self, place: Path) -> bool:
        kept = self.kept[place]
        kept.content = kept.content._replace(snapshots=kept.content.snapshots[:-1])
        return True


class TestListStore(ListContract):
    pass


# --- A second process -----------------------------------------------------------------------------

OPEN = """
import sys
from pathlib import Path
from paceline.journal.sqlite import SqliteStore
from paceline.terms.errors import StateInUse
try:
    SqliteStore.open(Path(sys.argv[1]))
except StateInUse as error:
    print(error)
    sys.exit(4)
"""


def test_another_process_may_read_a_sqlite_store_but_not_write_it(tmp_path: Path) -> None:
    def second() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", OPEN, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    store = SqliteStore.open(tmp_path)
    refused = second()
    assert refused.returncode == 4, refused.stderr
    assert "another process writes this journal" in refused.stdout
    assert str(tmp_path / FILE) in refused.stdout
    store.append([Record(1, 1.0, "who", "kind", 1, "{}")])
    store.close()
    assert second().returncode == 0


# --- Those that break it --------------------------------------------------------------------------


class FaultyStore(ListStore):
    """Wrong in the one way that `fault` names."""

    def __init__(self, kept: Kept, fault: str) -> None:
        if fault == "lets two write":
            kept.held = False
        super().__init__(kept)
        self.fault = fault
        self._late: Callable[[], None] = lambda: None
        self._reading = threading.RLock()
        self._looked = threading.Event()

    def append(
        self,
        records: Sequence[Record],
        snapshot: Snapshot | None = None,
        compaction: Compaction | None = None,
    ) -> None:
        match self.fault:
            case "cuts a text at its zero":
                records = [
                    msgspec.structs.replace(each, body=each.body.split("\0")[0]) for each in records
                ]
            case "cuts large bodies":
                records = [
                    msgspec.structs.replace(each, body=each.body[:100_000]) for each in records
                ]
            case "overwrites what is there":
                new = {each.seq for each in records}
                old = self.kept.content
                self.kept.content = old._replace(
                    records=tuple(each for each in old.records if each.seq not in new)
                )
            case "appends one by one" | "shows half an append":
                for record in records[:-1]:
                    super().append([record])
                    if self.fault == "shows half an append":
                        self._looked.clear()
                        self._looked.wait(1)
                records = records[-1:]
            case "keeps the snapshot although it refuses" if snapshot is not None:
                super().append([], snapshot)
                snapshot = None
            case "compacts although it refuses" if compaction is not None:
                super().append([], None, compaction)
                compaction = None
            case "is one append behind":
                self._late()
                late = super().append
                self._late = lambda: late(records, snapshot, compaction)
                return
            case "makes writers wait for readers":
                with self._reading:
                    super().append(records, snapshot, compaction)
                return
            case "loses the summaries" if compaction is not None:
                compaction = Compaction(compaction.gone, ())
            case "keeps a thousand at least" if compaction is not None:
                compaction = Compaction(compaction.gone[:1000], compaction.summaries)
            case "keeps what a summary replaces" if compaction is not None:
                compaction = Compaction(
                    tuple(each.seq for each in compaction.summaries), compaction.summaries
                )
        super().append(records, snapshot, compaction)

    def read(
        self, after: int = 0, before: int | None = None, about: str = "", newest: bool = False
    ) -> Iterator[Record]:
        self._looked.set()
        match self.fault:
            case "forgets the order":
                return super().read(after, before, about, not newest)
            case "always begins with the oldest":
                return super().read(after, before, about)
            case "includes the lower bound":
                return super().read(after - 1, before, about, newest)
            case "includes the upper bound":
                return super().read(after, before and before + 1, about, newest)
            case "finds by the first letters":
                found = super().read(after, before, "", newest)
                return (
                    each for each in found if any(name.startswith(about) for name in each.about)
                )
            case "finds in any case":
                found = super().read(after, before, "", newest)
                return (
                    each
                    for each in found
                    if not about or about.lower() in (name.lower() for name in each.about)
                )
            case "counts instead of keeping its place" if not about and not newest:
                return self._read_on(after)
            case "makes writers wait for readers":
                return self._read_alone(super().read(after, before, about, newest))
        return super().read(after, before, about, newest)

    def _read_on(self, after: int) -> Iterator[Record]:
        count = 0
        while found := list(super().read(after))[count : count + 100]:
            yield from found
            count += 100

    def _read_alone(self, found: Iterator[Record]) -> Iterator[Record]:
        with self._reading:
            yield from found

    def snapshot(self) -> Snapshot | None:
        snapshots = self.kept.content.snapshots
        if self.fault == "keeps to its first snapshot" and snapshots:
            return snapshots[0]
        return super().snapshot()

    def close(self) -> None:
        if self.fault == "forgets when it is closed":
            self.kept.content = Content()
        if self.fault == "lets go of what another holds":
            self.kept.held = False
        super().close()


class FaultyContract(ListContract):
    wait_s = 0.2

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.setup_method()

    def open(self, place: Path) -> Store:
        return FaultyStore(self.kept.setdefault(place, Kept()), self.fault)

    def damage_newest_snapshot(self, place: Path) -> bool:
        if self.fault != "trusts a damaged snapshot":
            return super().damage_newest_snapshot(place)
        kept = self.kept[place]
        snapshots = kept.content.snapshots
        damaged = msgspec.structs.replace(snapshots[-1], state=b"\0" * 7)
        kept.content = kept.content._replace(snapshots=(*snapshots[:-1], damaged))
        return True


TESTS = [name for name in dir(StoreContract) if name.startswith("test_")]

FOUND_BY = {
    "forgets the order": "test_records_come_back_whole_and_in_order",
    "cuts a text at its zero": "test_any_text_comes_back_as_it_was",
    "cuts large bodies": "test_a_very_large_body_comes_back_as_it_was",
    "always begins with the oldest": "test_the_newest_come_first_when_asked",
    "includes the lower bound": "test_both_bounds_are_excluded",
    "includes the upper bound": "test_both_bounds_are_excluded",
    "finds by the first letters": "test_records_are_found_by_what_they_are_about",
    "finds in any case": "test_records_are_found_by_what_they_are_about",
    "overwrites what is there": "test_numbers_that_are_taken_mean_a_second_writer",
    "appends one by one": "test_an_append_is_there_as_a_whole_or_not_at_all",
    "keeps the snapshot although it refuses": "test_an_append_is_there_as_a_whole_or_not_at_all",
    "compacts although it refuses": "test_an_append_is_there_as_a_whole_or_not_at_all",
    "is one append behind": "test_what_was_appended_is_there_at_return",
    "forgets when it is closed": "test_it_is_there_again_after_closing_and_opening",
    "lets go of what another holds": "test_closing_is_the_end_and_may_be_repeated",
    "counts instead of keeping its place": (
        "test_a_reader_keeps_its_place_while_others_write_and_compact"
    ),
    "makes writers wait for readers": "test_an_open_reader_makes_no_writer_wait",
    "shows half an append": "test_readers_beside_a_writer_see_a_beginning_without_gaps",
    "lets two write": "test_there_is_one_writer_at_a_time",
    "keeps to its first snapshot": "test_the_newest_snapshot_counts",
    "trusts a damaged snapshot": "test_a_damaged_snapshot_gives_way_to_the_one_before",
    "loses the summaries": "test_summaries_stand_in_the_place_of_what_goes",
    "keeps what a summary replaces": "test_summaries_stand_in_the_place_of_what_goes",
    "keeps a thousand at least": "test_thousands_of_records_go_at_once",
}


@pytest.mark.parametrize("fault", FOUND_BY)
def test_a_store_that_breaks_it_is_found(fault: str, tmp_path: Path) -> None:
    assert _fails(FaultyContract(fault), FOUND_BY[fault], tmp_path)


def test_the_store_that_is_made_faulty_is_sound_without_a_fault(tmp_path: Path) -> None:
    failed = [name for name in TESTS if _fails(FaultyContract(""), name, tmp_path / name)]
    assert not failed


def _fails(suite: StoreContract, name: str, place: Path) -> bool:
    try:
        getattr(suite, name)(place)
    except Exception:  # noqa: BLE001 - whatever stops a test of the suite, the store is found
        return True
    return False


def _no_transaction(self: SqliteStore) -> AbstractContextManager[None]:
    return nullcontext()


def _no_sum(record: Record) -> int:
    return 0


def _keep_names(self: SqliteStore, compaction: Compaction) -> None:
    gone = [(seq,) for seq in compaction.gone]
    self._database.executemany("DELETE FROM entries WHERE seq = ?", gone)


@pytest.mark.parametrize(
    ("where", "name", "instead", "test"),
    [
        (
            SqliteStore,
            "_transaction",
            _no_transaction,
            "test_an_append_is_there_as_a_whole_or_not_at_all",
        ),
        (sqlite, "check_sum", _no_sum, "test_a_damaged_record_is_named_and_others_can_be_read"),
        (SqliteStore, "_remove", _keep_names, "test_summaries_stand_in_the_place_of_what_goes"),
    ],
    ids=["without transactions", "without sums", "without forgetting names"],
)
def test_a_sqlite_store_that_breaks_it_is_found(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    where: object,
    name: str,
    instead: object,
    test: str,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(where, name, instead)
        assert _fails(SqliteContract(), test, tmp_path)


def test_a_sqlite_store_without_its_lock_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[Store] = []

    class Unlocked(SqliteContract):
        def open(self, place: Path) -> Store:
            opened.append(super().open(place))
            return opened[-1]

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lambda fd, how: None)
        assert _fails(Unlocked(), "test_there_is_one_writer_at_a_time", tmp_path)
    for store in opened:
        store.close()


def test_two_sqlite_writers_who_met_no_lock_still_lose_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a network disk that grants a lock to everybody."""
    monkeypatch.setattr(fcntl, "flock", lambda fd, how: None)
    with closing(SqliteStore.open(tmp_path)) as first, closing(SqliteStore.open(tmp_path)) as other:
        first.append([Record(1, 1.0, "first", "kind", 1, "{}")])
        with pytest.raises(StateInUse, match="written this journal meanwhile"):
            other.append([Record(1, 1.0, "other", "kind", 1, "{}")])
        assert [record.who for record in other.read()] == ["first"]
