"""What every Store must do, as a suite that each implementation runs, ours and other people's.

    class TestMine(StoreContract):
        def open(self, place: Path) -> Store:
            return MyStore.open(place)

pytest finds the inherited tests, and gives each an empty directory. `open` opens what is there, as
its one writer; a store that lies elsewhere takes the path as a name. Where damage can be planted,
override the two that do it. Speed is not judged here, nor whether what is durable outlives a loss
of power: who has a medium tests that on it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypeVar

from paceline.journal.store import Compaction, Record, Snapshot, Store
from paceline.terms.errors import JournalDamaged, PacelineError, StateInUse

T = TypeVar("T")
Error = TypeVar("Error", bound=PacelineError)

MANY = 1500
"""More than one statement, page or buffer may hold."""

READERS = 3

TEXTS = (
    "",
    "a\0b",
    "line\nline\r\n\ttab",
    "quotes ' \" ` and \\ and %s {} ?",
    "größer, 大きい, أكبر, 🦀",
    "e\u0301 is not \u00e9",
    "\ufeff\uffff\U0010ffff",
)


Bare = tuple[int, float, str, str, int, str]


class StoreContract:
    """Subclass it, and say how your store is opened."""

    wait_s = 10.0
    """how long a call that must not wait for another may take"""

    def open(self, place: Path) -> Store:
        raise NotImplementedError

    def damage_newest_snapshot(self, place: Path) -> bool:
        """Alters it where it lies, while nobody has it open; False where that cannot be."""
        return False

    def damage_record(self, place: Path, seq: int) -> bool:
        """Alters its body where it lies, while nobody has it open; False where that cannot be."""
        return False

    # --- Reading ----------------------------------------------------------------------------------

    def test_a_new_store_is_empty(self, tmp_path: Path) -> None:
        with closing(self.open(tmp_path)) as store:
            assert list(store.read()) == []
            assert list(store.read(newest=True)) == []
            assert list(store.read(about="a.x")) == []
            assert store.snapshot() is None

    def test_records_come_back_whole_and_in_order(self, tmp_path: Path) -> None:
        records = [
            Record(1, 1_800_000_000.123456, "someone", "kind", 1, '{"a": 1}'),
            Record(2, 0.1 + 0.2, "someone else", "another", 7, "{}", ("a.x", "b.y")),
            Record(3, -1.5, "", "kind", 1, "", ("a.x",)),
            Record(4, 0, "", "kind", 1, "null", ("a.x",)),
        ]
        with closing(self.open(tmp_path)) as store:
            store.append(records[:1])
            store.append(records[1:])
            assert _bare(store.read()) == _bare(records)

    def test_any_text_comes_back_as_it_was(self, tmp_path: Path) -> None:
        records = [
            Record(seq, 1.0, text, f"k{text}", 1, text, (f"a.{text}",))
            for seq, text in enumerate(TEXTS, start=1)
        ]
        with closing(self.open(tmp_path)) as store:
            store.append(records)
            assert _bare(store.read()) == _bare(records)
            for record in records:
                assert _bare(store.read(about=record.about[0])) == _bare([record])

    def test_a_very_large_body_comes_back_as_it_was(self, tmp_path: Path) -> None:
        record = Record(1, 1.0, "w" * 10_000, "kind", 1, "ä" * (1 << 20))
        with closing(self.open(tmp_path)) as store:
            store.append([record])
            assert _bare(store.read()) == _bare([record])

    def test_the_newest_come_first_when_asked(self, tmp_path: Path) -> None:
        with closing(self.open(tmp_path)) as store:
            store.append(_records(1, 5))
            assert _numbers(store.read(newest=True)) == [5, 4, 3, 2, 1]

    def test_both_bounds_are_excluded(self, tmp_path: Path) -> None:
        with closing(self.open(tmp_path)) as store:
            store.append(_records(1, 9))
            assert _numbers(store.read(after=3)) == [4, 5, 6, 7, 8, 9]
            assert _numbers(store.read(before=3)) == [1, 2]
            assert _numbers(store.read(after=3, before=6)) == [4, 5]
            assert _numbers(store.read(after=3, before=6, newest=True)) == [5, 4]
            assert _numbers(store.read(after=3, before=4)) == []
            assert _numbers(store.read(after=6, before=3)) == []
            assert _numbers(store.read(after=9)) == []
            assert _numbers(store.read(before=0)) == []

    def test_records_are_found_by_what_they_are_about(self, tmp_path: Path) -> None:
        names = [("a.x",), ("a.x", "b.y"), (), ("b.y",), ("a.xx",), ("A.X",), ("a_x",), ("a.x",)]
        records = [_record(seq, about) for seq, about in enumerate(names, start=1)]
        with closing(self.open(tmp_path)) as store:
            store.append(records)
            assert _numbers(store.read(about="a.x")) == [1, 2, 8]
            assert _numbers(store.read(about="b.y")) == [2, 4]
            assert _numbers(store.read(about="a.x", newest=True)) == [8, 2, 1]
            assert _numbers(store.read(after=1, before=8, about="a.x")) == [2]
            for nobody in ("a", "a.", "x", "a.y", "%", "a_", "b"):
                assert _numbers(store.read(about=nobody)) == [], nobody

    # --- Appending --------------------------------------------------------------------------------

    def test_numbers_that_are_taken_mean_a_second_writer(self, tmp_path: Path) -> None:
        with closing(self.open(tmp_path)) as store:
            store.append(_records(1, 3))
            for taken in (_record(1, ("b.y",)), _record(3, ("b.y",))):
                refusal = _refused(StateInUse, partial(store.append, [taken]))
                assert refusal.remedy
            assert _numbers(store.read()) == [1, 2, 3]
            assert _numbers(store.read(about="b.y")) == []
            store.append(_records(4, 4))
            assert _numbers(store.read()) == [1, 2, 3, 4]

    def test_an_append_is_there_as_a_whole_or_not_at_all(self, tmp_path: Path) -> None:
        with closing(self.open(tmp_path)) as store:
            store.append(_records(1, 3), Snapshot(3, 1, b"three"))
            batch = [*_records(4, 6, "b.y"), _record(2), *_records(7, 8)]
            compaction = Compaction((1, 2), (_record(2, ("c.z",)),))
            snapshot = Snapshot(8, 1, b"eight")
            _refused(StateInUse, lambda: store.append(batch, snapshot, compaction))
            assert _bare(store.read()) == _bare(_records(1, 3))
            assert _numbers(store.read(about="a.x")) == [1, 2, 3]
            assert _numbers(store.read(about="b.y")) == []
            assert _numbers(store.read(about="c.z")) == []
            assert store.snapshot() == Snapshot(3, 1, b"three")
            store.append(_records(4, 8), snapshot)
            assert _numbers(store.read()) == [1, 2, 3, 4, 5, 6, 7, 8]
            assert store.snapshot() == snapshot

    def test_a_large_batch_is_appended(self, tmp_path: Path) -> None:
        with closing(self.open(tmp_path)) as store:
            store.append(_records(1, MANY))
            assert _numbers(store.read()) == list(range(1, MANY + 1))
            assert _numbers(store.read(about="a.x", after=MANY - 2)) == [MANY - 1, MANY]

    def test_what_was_appended_is_there_at_return(self, tmp_path: Path) -> None:
        with closing(self.open(tmp_path)) as store:
            for seq in range(1, 6):
                store.append([_record(seq)], Snapshot(seq, 1, b"%d" % seq))
                assert self._soon(lambda: _numbers(store.read())) == list(range(1, seq + 1))
                assert self._soon(store.snapshot) == Snapshot(seq, 1, b"%d" % seq)

    def test_it_is_there_again_after_closing_and_opening(self, tmp_path: Path) -> None:
        for first in (1, 11, 21):
            with closing(self.open(tmp_path)) as store:
                assert _numbers(store.read()) == list(range(1, first))
                _refused_taken(store, first - 1)
                snapshot = Snapshot(first + 9, 2, bytes(range(256)))
                store.append(_records(first, first + 9), snapshot)
        with closing(self.open(tmp_path)) as store:
            assert _bare(store.read()) == _bare(_records(1, 30))
            assert _numbers(store.read(about="a.x")) == list(range(1, 31))
            assert store.snapshot() == Snapshot(30, 2, bytes(range(256)))

    def test_closing_is_the_end_and_may_be_repeated(self, tmp_path: Path) -> None:
        store = self.open(tmp_path)
        store.append(_records(1, 1))
        store.close()
        store.close()
        with closing(self.open(tmp_path)) as another:
            store.close()
            _refused(PacelineError, lambda: store.append(_records(2, 2)))
            assert _numbers(another.read()) == [1]
            _refused(StateInUse, lambda: self.open(tmp_path))

    # --- At once ----------------------------------------------------------------------------------

    def test_a_reader_keeps_its_place_while_others_write_and_compact(self, tmp_path: Path) -> None:
        """It may see what came meanwhile, but passes over nothing that was there all the time."""
        with closing(self.open(tmp_path)) as store:
            store.append(_records(1, MANY))
            before = _bare(store.read())
            readers = [store.read(), store.read(about="a.x"), store.read(newest=True)]
            begun = [[next(reader) for _ in range(10)] for reader in readers]
            store.append(_records(MANY + 1, MANY + 5), Snapshot(MANY + 5, 1, b""))
            summary = _record(MANY // 2, body="sum of those before")
            gone = tuple(range(1, MANY // 2 + 1))
            store.append([_record(MANY + 6)], None, Compaction(gone, (summary,)))
            after = _bare(store.read())
            for first, reader in zip(begun, readers, strict=True):
                read = _bare([*first, *reader])
                assert read == sorted(read, reverse=read[0] > read[-1])
                assert len({number for number, *_ in read}) == len(read), "one came twice"
                assert set(read) <= {*before, *after}
                assert set(read) >= {*before} & {*after}

    def test_an_open_reader_makes_no_writer_wait(self, tmp_path: Path) -> None:
        with closing(self.open(tmp_path)) as store:
            store.append(_records(1, MANY))
            oldest, newest = store.read(), store.read(about="a.x", newest=True)
            first, last = next(oldest).seq, next(newest).seq
            self._soon(lambda: store.append(_records(MANY + 1, 2 * MANY)))
            self._soon(lambda: store.append([_record(2 * MANY + 1)], Snapshot(1, 1, b"")))
            assert [first, *_numbers(oldest)][:MANY] == list(range(1, MANY + 1))
            assert [last, *_numbers(newest)] == list(range(MANY, 0, -1))

    def test_readers_beside_a_writer_see_a_beginning_without_gaps(self, tmp_path: Path) -> None:
        with closing(self.open(tmp_path)) as store:
            store.append(_records(1, 1))
            written = threading.Event()
            seen: list[list[list[int]]] = [[] for _ in range(READERS)]

            def watch(mine: list[list[int]]) -> None:
                while True:
                    last = written.is_set()
                    mine.append(_numbers(store.read()))
                    if last:
                        return

            watchers = [threading.Thread(target=watch, args=(mine,), daemon=True) for mine in seen]
            for watcher in watchers:
                watcher.start()
            try:
                for first in range(2, 62, 3):
                    store.append(_records(first, first + 2))
            finally:
                written.set()
                for watcher in watchers:
                    watcher.join(self.wait_s)
            for mine in seen:
                assert mine, "a reader found nothing in time"
                assert mine == [list(range(1, len(each) + 1)) for each in mine]
                assert all(len(each) % 3 == 1 for each in mine), "half an append was read"
                assert mine == sorted(mine, key=len), "what was there is gone"
                assert len(mine[-1]) == 61

    def test_a_reader_that_stops_early_is_in_nobodys_way(self, tmp_path: Path) -> None:
        with closing(self.open(tmp_path)) as store:
            store.append(_records(1, MANY))
            for _ in range(5):
                next(store.read())
            abandoned = store.read()
            next(abandoned)
            self._soon(lambda: store.append([_record(MANY + 1)]))
            self._soon(store.close)
        with closing(self.open(tmp_path)) as store:
            assert _numbers(store.read(after=MANY)) == [MANY + 1]

    def test_there_is_one_writer_at_a_time(self, tmp_path: Path) -> None:
        with closing(self.open(tmp_path)) as first:
            first.append(_records(1, 1))
            for _ in range(2):
                refusal = _refused(StateInUse, lambda: self.open(tmp_path))
                assert refusal.cause
                assert refusal.remedy
            first.append(_records(2, 2))
        with closing(self.open(tmp_path)) as second:
            second.append(_records(3, 3))
            assert _numbers(second.read()) == [1, 2, 3]

    # --- Snapshots and compaction -----------------------------------------------------------------

    def test_the_newest_snapshot_counts(self, tmp_path: Path) -> None:
        with closing(self.open(tmp_path)) as store:
            store.append(_records(1, 2), Snapshot(2, 1, b"two"))
            store.append(_records(3, 3))
            assert store.snapshot() == Snapshot(2, 1, b"two")
            for seq in range(4, 20):
                store.append(_records(seq, seq), Snapshot(seq, 3, b"%d" % seq))
            assert store.snapshot() == Snapshot(19, 3, b"19")

    def test_a_damaged_snapshot_gives_way_to_the_one_before(self, tmp_path: Path) -> None:
        with closing(self.open(tmp_path)) as store:
            for seq in range(1, 6):
                store.append(_records(seq, seq), Snapshot(seq, 1, b"state %d" % seq))
        if not self.damage_newest_snapshot(tmp_path):
            return
        with closing(self.open(tmp_path)) as store:
            assert store.snapshot() == Snapshot(4, 1, b"state 4")
            assert _numbers(store.read()) == [1, 2, 3, 4, 5]

    def test_a_damaged_record_is_named_and_others_can_be_read(self, tmp_path: Path) -> None:
        with closing(self.open(tmp_path)) as store:
            store.append(_records(1, 5))
        if not self.damage_record(tmp_path, 4):
            return
        with closing(self.open(tmp_path)) as store:
            read: list[int] = []

            def whole() -> None:
                read.extend(record.seq for record in store.read())

            refusal = _refused(JournalDamaged, whole)
            assert "4" in refusal.cause
            assert read == [1, 2, 3]
            assert _numbers(store.read(after=4)) == [5]

    def test_summaries_stand_in_the_place_of_what_goes(self, tmp_path: Path) -> None:
        with closing(self.open(tmp_path)) as store:
            store.append(_records(1, 9))
            summaries = (_record(3, ("b.y",), "sum of 1 to 3"), _record(6, ("a.x",), "of 5 and 6"))
            store.append(
                _records(10, 10), Snapshot(10, 1, b""), Compaction((1, 2, 3, 5, 6), summaries)
            )
        with closing(self.open(tmp_path)) as store:
            found = {record.seq: record.body for record in store.read()}
            assert list(found) == [3, 4, 6, 7, 8, 9, 10]
            assert (found[3], found[6]) == ("sum of 1 to 3", "of 5 and 6")
            assert _numbers(store.read(about="a.x")) == [4, 6, 7, 8, 9, 10]
            assert _numbers(store.read(about="b.y")) == [3]
            assert store.snapshot() == Snapshot(10, 1, b"")

    def test_thousands_of_records_go_at_once(self, tmp_path: Path) -> None:
        with closing(self.open(tmp_path)) as store:
            store.append(_records(1, 2 * MANY))
            gone = tuple(range(1, 2 * MANY, 2))
            summary = _record(gone[-1], body="sum of the odd ones")
            store.append(_records(2 * MANY + 1, 2 * MANY + 1), None, Compaction(gone, (summary,)))
            left = [*range(2, 2 * MANY - 1, 2), *range(2 * MANY - 1, 2 * MANY + 2)]
            assert _numbers(store.read()) == left
            assert _numbers(store.read(about="a.x")) == left

    def _soon(self, work: Callable[[], T]) -> T:
        """What it returns, from a thread of its own, within the time."""
        outcome: list[T | BaseException] = []

        def run() -> None:
            try:
                outcome.append(work())
            except BaseException as error:  # noqa: BLE001 - raised again below, where it is awaited
                outcome.append(error)

        worker = threading.Thread(target=run, daemon=True)
        worker.start()
        worker.join(self.wait_s)
        assert outcome, f"it waited more than {self.wait_s} s for somebody"
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]


def _record(seq: int, about: tuple[str, ...] = ("a.x",), body: str = "") -> Record:
    return Record(seq, 1_800_000_000.0 + seq / 7, "who", "kind", 1, body or f'{{"n":{seq}}}', about)


def _records(first: int, last: int, about: str = "a.x") -> list[Record]:
    return [_record(seq, (about,)) for seq in range(first, last + 1)]


def _bare(records: Iterator[Record] | Sequence[Record]) -> list[Bare]:
    """Without `about`, which is for finding: a store need not give it back."""
    return [(each.seq, each.at, each.who, each.kind, each.version, each.body) for each in records]


def _numbers(records: Iterator[Record]) -> list[int]:
    return [each.seq for each in records]


def _refused(kind: type[Error], call: Callable[[], object]) -> Error:
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


def _refused_taken(store: Store, seq: int) -> None:
    if seq:
        _refused(StateInUse, lambda: store.append([_record(seq)]))
