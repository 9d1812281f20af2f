"""The journal: its fold, its groups and refusals, older and newer forms, and what a disk may do."""

import asyncio
import errno
import itertools
import json
import os
import queue
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import first_journal
from paceline.clock import Chance, RealClock, SimulatedClock
from paceline.journal import entries as kinds
from paceline.journal import journal as journals
from paceline.journal import sqlite
from paceline.journal.compaction import DAY_S, summarize
from paceline.journal.entries import (
    PLAN,
    Adjusted,
    AdjustedOften,
    Body,
    Compacted,
    Entry,
    GoalsChanged,
    PlanChanged,
    Scored,
    about,
    to_entry,
    to_record,
)
from paceline.journal.fold import NOTHING, State, fold, fold_all, from_snapshot, to_snapshot
from paceline.journal.journal import Journal, load
from paceline.journal.sqlite import FILE, SqliteStore, newest_snapshot, read_file
from paceline.journal.store import Compaction, Record, Snapshot
from paceline.terms.errors import (
    DiskFull,
    JournalDamaged,
    JournalNewer,
    LimitReached,
    Misuse,
    PacelineError,
    StateUnusable,
)
from paceline.terms.limits import JOURNAL_BATCH, JOURNAL_ENTRY_BYTES, JOURNAL_SNAPSHOTS
from paceline.terms.plan import EMPTY, Adjustment, Change, changed, content_hash, inverse
from paceline.testing import Kept, ListStore
from plans import START_S, journals as drawn_journals
from plans import defaults, plan_changed

T = TypeVar("T")
FEW = settings(max_examples=30, deadline=None)
MANY = settings(max_examples=2000, deadline=None)
WAIT_S = 30

cutoffs = st.integers(-1, 40).map(lambda steps: START_S + steps * 30_000.0)


# --- The fold -------------------------------------------------------------------------------------


def replayed(entries: list[Entry], at: int) -> None:
    """From the beginning, or on from a snapshot, through the form in which both are kept."""
    known = from_snapshot(to_snapshot(fold_all(entries[:at])))
    assert known is not None
    rest = [to_entry(to_record(entry)) for entry in entries[at:]]
    assert fold_all(rest, known) == fold_all(entries)
    assert known.hash == content_hash(known.plan)


@FEW
@given(drawn_journals(), st.integers(0, 30))
def test_a_fold_of_any_beginning_and_then_the_rest_is_the_fold_of_all(
    entries: list[Entry], at: int
) -> None:
    replayed(entries, at)


@pytest.mark.slow
@MANY
@given(drawn_journals(80), st.integers(0, 80))
def test_a_fold_of_any_beginning_and_then_the_rest_is_the_fold_of_all_at_length(
    entries: list[Entry], at: int
) -> None:
    replayed(entries, at)


@FEW
@given(drawn_journals())
def test_what_is_kept_of_an_entry_is_read_as_that_entry(entries: list[Entry]) -> None:
    for entry in entries:
        record = to_record(entry)
        assert to_entry(record) == entry
        assert (record.seq, record.at, record.who) == (entry.seq, entry.at, entry.who)
        assert record.about == about(entry.body)
        assert json.loads(record.body)["type"] == record.kind


@FEW
@given(drawn_journals())
def test_undoing_every_change_leads_back_through_every_hash(entries: list[Entry]) -> None:
    hashes = [content_hash(EMPTY)]
    changes = [entry.body for entry in entries if isinstance(entry.body, PlanChanged)]
    hashes += [change.hash for change in changes]
    plan = fold_all(entries).plan
    for change, before in zip(reversed(changes), reversed(hashes[:-1]), strict=True):
        plan = changed(plan, inverse(change.change.diff), change.version - 1)
        assert content_hash(plan) == before
    assert plan == EMPTY


def test_an_entry_is_found_by_each_knob_it_is_about() -> None:
    change = plan_changed(EMPTY, defaults().lines)
    assert about(change) == (PLAN, *defaults().lines)
    adjusted = Adjusted(Adjustment("one.rows", 5, 6, ""))
    assert about(adjusted) == about(AdjustedOften("one.rows", 2, 5, 6)) == ("one.rows",)
    assert about(GoalsChanged({})) == about(Compacted(0.0, 3)) == ()


def test_a_change_that_does_not_follow_is_damage() -> None:
    first = plan_changed(EMPTY, defaults().lines)
    state = fold(NOTHING, Entry(1, 0.0, "", first))
    with pytest.raises(JournalDamaged, match="entry 2 .* does not follow from those before it"):
        fold(state, Entry(2, 0.0, "", first))
    lying = msgspec.structs.replace(first, hash="0" * 16)
    with pytest.raises(JournalDamaged, match="entry 1 .* is not the one it names"):
        fold(NOTHING, Entry(1, 0.0, "", lying))


def test_a_change_of_a_knob_ends_its_adjustment_and_no_other() -> None:
    state = fold(NOTHING, Entry(1, 10.0, "ann", plan_changed(EMPTY, defaults().lines)))
    for knob in ("one.rows", "two.rows"):
        state = fold(state, Entry(2, 20.0, "bob", Adjusted(Adjustment(knob, 5, 6, ""))))
    assert (state.plan.version, state.since, state.by) == (1, 10.0, "ann")
    assert state.in_force.settings["one.rows"] == state.in_force.settings["two.rows"] == 6
    wanted = {"one.rows": msgspec.structs.replace(state.plan.lines["one.rows"], value=7)}
    state = fold(state, Entry(3, 30.0, "cid", plan_changed(state.plan, wanted)))
    assert state.in_force.settings["one.rows"] == 7
    assert state.in_force.settings["two.rows"] == 6
    assert (state.in_force.version, state.since, state.by) == (2, 30.0, "cid")


# --- Compaction -----------------------------------------------------------------------------------


def compacted(entries: list[Entry], before_s: float) -> list[Entry]:
    """As the journal does it: groups give way to summaries, and an entry tells so."""
    groups = list(summarize(entries, before_s))
    gone = {seq for seqs, _ in groups for seq in seqs}
    left = [entry for entry in entries if entry.seq not in gone]
    left = sorted([*left, *(summary for _, summary in groups)], key=lambda entry: entry.seq)
    last = entries[-1].seq + 1 if entries else 1
    return [*left, Entry(last, START_S, "", Compacted(before_s, len(entries) - len(left)))]


def compaction_keeps(entries: list[Entry], at: int, early_s: float, late_s: float) -> None:
    left = compacted(entries, late_s)
    mark = left[-1]
    assert fold_all(left) == fold(fold_all(entries), mark)
    known = fold_all(entries[:at])
    assert fold_all([each for each in left if each.seq > known.seq], known) == fold_all(left)
    assert [each for each in left if isinstance(each.body, PlanChanged)] == [
        each for each in entries if isinstance(each.body, PlanChanged)
    ]
    assert {each.seq for each in left} - {mark.seq} <= {each.seq for each in entries}
    assert _counts(left) == _counts(entries)
    assert list(summarize(left, late_s)) == []
    if early_s <= late_s:
        twice = compacted(compacted(entries, early_s)[:-1], late_s)
        assert twice[:-1] == left[:-1]


def _counts(entries: list[Entry]) -> dict[str, list[int]]:
    """By knob, how often it moved, and how often that came out as predicted or not."""
    counts: dict[str, list[int]] = {}
    for entry in entries:
        body = entry.body
        match body:
            case Adjusted():
                added = [1, 0, 0]
            case AdjustedOften():
                added = [body.times, body.came_true, body.did_not]
            case Scored():
                added = [0, int(body.outcome == "came true"), int(body.outcome == "did not")]
            case _:
                continue
        for knob in about(body):
            sums = counts.get(knob, [0, 0, 0])
            counts[knob] = [a + b for a, b in zip(sums, added, strict=True)]
    return counts


@FEW
@given(drawn_journals(), st.integers(0, 30), cutoffs, cutoffs)
def test_compaction_leaves_the_fold_the_changes_and_the_counts(
    entries: list[Entry], at: int, one_s: float, other_s: float
) -> None:
    compaction_keeps(entries, at, min(one_s, other_s), max(one_s, other_s))


@pytest.mark.slow
@MANY
@given(drawn_journals(80), st.integers(0, 80), cutoffs, cutoffs)
def test_compaction_leaves_the_fold_the_changes_and_the_counts_at_length(
    entries: list[Entry], at: int, one_s: float, other_s: float
) -> None:
    compaction_keeps(entries, at, min(one_s, other_s), max(one_s, other_s))


def adjusting(times: int, knob: str = "one.rows", first: int = 1) -> list[Entry]:
    """Every three hours from midnight on, by two people in turn."""
    start_s = START_S // DAY_S * DAY_S
    return [
        Entry(
            seq,
            start_s + (seq - first) * DAY_S / 8,
            "ann" if seq % 2 else "bob",
            Adjusted(Adjustment(knob, seq % 10, (seq + 1) % 10, "because")),
        )
        for seq in range(first, first + times)
    ]


def test_of_a_day_of_adjustments_one_entry_is_left() -> None:
    entries = adjusting(20)
    (first_day, summary), (second_day, other) = summarize(entries, entries[16].at)
    assert (first_day, second_day) == (list(range(1, 9)), list(range(9, 17)))
    assert summary == Entry(8, entries[7].at, "several", AdjustedOften("one.rows", 8, 1, 9))
    assert other.body == AdjustedOften("one.rows", 8, 9, 7)


def test_knobs_are_summarized_apart_and_single_adjustments_stay() -> None:
    entries = [*adjusting(2), *adjusting(1, "two.rows", first=3)]
    ((gone, summary),) = summarize(entries, START_S + DAY_S)
    assert gone == [1, 2]
    assert summary.body == AdjustedOften("one.rows", 2, 1, 3)


# --- Writing --------------------------------------------------------------------------------------


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    async def in_time() -> T:
        async with asyncio.timeout(WAIT_S):
            return await main()

    return asyncio.run(in_time())


class WatchedStore(ListStore):
    """Notes what it is asked, and refuses while `refusal` is set."""

    def __init__(self, kept: Kept | None = None) -> None:
        super().__init__(kept)
        self.refusal: Exception | None = None
        self.appends: list[list[int]] = []
        self.snapshots: list[int] = []
        self.reads: list[int] = []

    def append(
        self,
        records: Sequence[Record],
        snapshot: Snapshot | None = None,
        compaction: Compaction | None = None,
    ) -> None:
        self.appends.append([each.seq for each in records])
        self.snapshots += [] if snapshot is None else [snapshot.seq]
        if self.refusal is not None:
            raise self.refusal
        super().append(records, snapshot, compaction)

    def read(
        self, after: int = 0, before: int | None = None, about: str = "", newest: bool = False
    ) -> Iterator[Record]:
        self.reads.append(after)
        return super().read(after, before, about, newest)


class HeldStore(WatchedStore):
    """Every append waits until the test lets it go, or has it refused."""

    def __init__(self, kept: Kept | None = None) -> None:
        super().__init__(kept)
        self._begun = threading.Semaphore(0)
        self._answers: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def append(
        self,
        records: Sequence[Record],
        snapshot: Snapshot | None = None,
        compaction: Compaction | None = None,
    ) -> None:
        self._begun.release()
        self.refusal = self._answers.get()
        super().append(records, snapshot, compaction)

    async def begun(self) -> None:
        """Until the next append has begun."""
        assert await asyncio.to_thread(self._begun.acquire, timeout=WAIT_S)

    def go(self, refusal: Exception | None = None) -> None:
        self._answers.put(refusal)


def goals(number: int) -> GoalsChanged:
    return GoalsChanged({"one": (f"p95_ms <= {number + 1}",)})


def writing(journal: Journal, number: int = 0, entries: int = 1) -> asyncio.Task[tuple[Entry, ...]]:
    """A write that has been decided when the loop turns next."""
    bodies = [goals(number)] * entries
    return asyncio.ensure_future(journal.write(lambda _: bodies, f"who {number}"))


async def turn() -> None:
    """Lets everybody go on who can."""
    for _ in range(3):
        await asyncio.sleep(0)


def disk_full() -> DiskFull:
    return DiskFull("no space is left", value="planted", remedy="Free some space.")


def numbers(store: ListStore) -> list[int]:
    return [record.seq for record in store.kept.content.records]


def test_what_is_written_is_durable_and_in_the_state_when_it_returns() -> None:
    async def main() -> None:
        store, clock = ListStore(), SimulatedClock()
        journal = Journal(store, clock)
        for number in range(3):
            clock.advance(1.5)
            (entry,) = await journal.write(lambda _, n=number: [goals(n)], "ann")  # type: ignore[misc]
            assert entry == Entry(number + 1, clock.wall(), "ann", goals(number))
            assert numbers(store)[-1] == journal.state.seq == entry.seq
            assert journal.state.goals == goals(number).goals
            assert list(journal.read(newest=True))[0] == entry
        both = await journal.write(lambda _: [goals(7), goals(8)], "ann")
        assert [entry.seq for entry in both] == [4, 5]
        assert load(store) == (journal.state, 0)
        await journal.close()

    run(main)


def test_a_decision_to_do_nothing_writes_nothing() -> None:
    async def main() -> None:
        store = WatchedStore()
        journal = Journal(store, RealClock())
        assert await journal.write(lambda _: [], "ann") == ()
        await journal.close()
        assert store.appends == []

    run(main)


def test_what_comes_while_the_disk_works_becomes_durable_together() -> None:
    async def main() -> None:
        store = HeldStore()
        journal = Journal(store, RealClock())
        first = writing(journal)
        await store.begun()
        rest = [writing(journal, number) for number in range(1, 51)]
        await turn()
        assert not any(write.done() for write in [first, *rest])
        store.go()
        store.go()
        await asyncio.gather(first, *rest)
        assert store.appends == [[1], list(range(2, 52))]
        assert [write.result()[0].seq for write in rest] == list(range(2, 52))
        await journal.close()

    run(main)


def test_a_sync_has_no_more_than_a_batch() -> None:
    async def main() -> None:
        store = HeldStore()
        journal = Journal(store, RealClock())
        first = writing(journal)
        await store.begun()
        rest = [writing(journal, entries=2) for _ in range(JOURNAL_BATCH)]
        large = writing(journal, entries=JOURNAL_BATCH + 1)
        await turn()
        for _ in range(4):
            store.go()
        await asyncio.gather(first, *rest, large)
        sizes = [len(numbers) for numbers in store.appends]
        assert sizes == [1, JOURNAL_BATCH, JOURNAL_BATCH, JOURNAL_BATCH + 1]
        assert sum(store.appends, []) == list(range(1, sum(sizes) + 1))
        await journal.close()

    run(main)


def test_a_decision_sees_what_was_decided_before_durable_or_not() -> None:
    async def main() -> None:
        store = HeldStore()
        journal = Journal(store, RealClock())
        seen: list[State] = []

        def look(state: State) -> list[Body]:
            seen.append(state)
            return [goals(len(seen))]

        writes = [asyncio.ensure_future(journal.write(look, "ann")) for _ in range(3)]
        await store.begun()
        assert [state.seq for state in seen] == [0, 1, 2]
        assert seen[2].goals == goals(2).goals
        assert journal.state == NOTHING
        store.go()
        await writes[0]
        assert journal.state.seq == 1
        store.go()
        await asyncio.gather(*writes)
        assert journal.state.goals == goals(3).goals
        await journal.close()

    run(main)


def test_the_state_goes_forward_in_the_order_of_the_decisions() -> None:
    async def main() -> None:
        store = ListStore()
        journal = Journal(store, RealClock())
        seen: list[tuple[int, int]] = []

        async def write(number: int) -> None:
            (entry,) = await journal.write(lambda _: [goals(number)], "ann")
            seen.append((entry.seq, journal.state.seq))

        await asyncio.gather(*map(write, range(300)))
        assert [mine for mine, _ in seen] == list(range(1, 301))
        assert all(mine <= state for mine, state in seen)
        assert [state for _, state in seen] == sorted(state for _, state in seen)
        await journal.close()

    run(main)


def test_a_refusal_is_one_of_everything_that_was_decided_upon_it() -> None:
    async def main() -> None:
        store = HeldStore()
        journal = Journal(store, RealClock())
        kept = writing(journal, 1)
        await store.begun()
        store.go()
        await kept
        refused = [writing(journal, 2)]
        await store.begun()
        refused += [writing(journal, number) for number in range(3, 6)]
        await turn()
        store.go(disk_full())
        outcomes = await asyncio.gather(*refused, return_exceptions=True)
        assert [type(each) for each in outcomes] == [DiskFull] * 4
        assert store.appends == [[1], [2]], "what rests on the refused one was tried"
        assert journal.state.goals == goals(1).goals
        assert numbers(store) == [1]
        later = asyncio.ensure_future(
            journal.write(lambda state: [goals(10 * state.seq)], "ann"),
        )
        await store.begun()
        store.go()
        assert (await later)[0].seq == 2
        assert journal.state.goals == goals(10).goals
        assert load(store)[0] == journal.state
        await journal.close()

    run(main)


def test_whatever_a_store_raises_those_who_wait_are_told() -> None:
    async def main() -> None:
        store = WatchedStore()
        journal = Journal(store, RealClock())
        store.refusal = ZeroDivisionError("a bug")
        with pytest.raises(ZeroDivisionError):
            await writing(journal)
        store.refusal = None
        assert (await writing(journal))[0].seq == 1
        await journal.close()

    run(main)


def test_a_caller_who_leaves_does_not_stop_the_write() -> None:
    async def main() -> None:
        store = HeldStore()
        journal = Journal(store, RealClock())
        leaves, stays = writing(journal, 1), writing(journal, 2)
        await store.begun()
        leaves.cancel()
        store.go()
        store.go()
        await stays
        assert leaves.cancelled()
        assert numbers(store) == [1, 2]
        assert journal.state.seq == 2
        await journal.close()

    run(main)


def test_a_caller_who_left_before_a_refusal_leaves_no_error_behind() -> None:
    async def main() -> None:
        store = HeldStore()
        journal = Journal(store, RealClock())
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
        leaves = writing(journal)
        await store.begun()
        leaves.cancel()
        await turn()
        store.go(disk_full())
        await journal.close()
        await turn()
        assert complaints == []

    run(main)


def test_a_decision_that_raises_changes_nothing() -> None:
    async def main() -> None:
        journal = Journal(ListStore(), RealClock())

        def refuse(state: State) -> list[Body]:
            raise Misuse("no", remedy="Ask for something else.")

        with pytest.raises(Misuse):
            await journal.write(refuse, "ann")
        assert (await writing(journal))[0].seq == 1
        await journal.close()

    run(main)


def test_so_many_entries_wait_for_the_disk_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "JOURNAL_BACKLOG", 20)

    async def main() -> None:
        store = HeldStore()
        journal = Journal(store, RealClock())
        writes = [writing(journal, entries=2) for _ in range(10)]
        await store.begun()
        for _ in range(2):
            with pytest.raises(LimitReached, match="wait for the disk"):
                await writing(journal)
        store.go()
        store.go()
        await asyncio.gather(*writes)
        late = writing(journal)
        await store.begun()
        store.go(disk_full())
        with pytest.raises(DiskFull):
            await late
        again = [writing(journal, entries=2) for _ in range(10)]
        await store.begun()
        store.go()
        store.go()
        await asyncio.gather(*again)
        assert numbers(store) == list(range(1, 41))
        await journal.close()

    run(main)


@pytest.mark.parametrize("letter", ["x", "ö", "🦀"])
def test_an_entry_has_no_more_bytes_than_it_may(letter: str) -> None:
    async def main() -> None:
        store = ListStore()
        journal = Journal(store, RealClock())

        def reason(size_bytes: int) -> Callable[[State], list[Body]]:
            text = letter * (size_bytes // len(letter.encode()))
            return lambda _: [goals(1), PlanChanged(1, content_hash(EMPTY), Change((), text))]

        with pytest.raises(LimitReached, match=rf"larger than may be .value: {10**6}\d* bytes"):
            await journal.write(reason(JOURNAL_ENTRY_BYTES), "ann")
        assert journal.state == NOTHING
        assert len(await journal.write(reason(JOURNAL_ENTRY_BYTES - 200), "ann")) == 2
        assert numbers(store) == [1, 2]
        await journal.close()

    run(main)


def test_closing_waits_for_what_is_on_its_way_and_is_the_end() -> None:
    async def main() -> None:
        store = HeldStore()
        journal = Journal(store, RealClock())
        writes = [writing(journal, number) for number in range(3)]
        await store.begun()
        closing = asyncio.ensure_future(journal.close())
        await turn()
        assert not closing.done()
        with pytest.raises(Misuse, match="closed"):
            await writing(journal)
        store.go()
        store.go()
        await closing
        assert [write.done() for write in writes] == [True] * 3
        assert journal.state.seq == 3
        assert not store.kept.held
        await journal.close()
        with pytest.raises(Misuse, match="closed"):
            await writing(journal)
        assert load(ListStore(store.kept))[0] == journal.state

    run(main)


def test_questions_are_asked_beside_the_loop() -> None:
    async def main() -> None:
        journal = Journal(ListStore(), RealClock())
        await writing(journal)
        here = threading.get_ident()
        there, entries = await journal.ask(lambda: (threading.get_ident(), list(journal.read())))
        assert there != here
        assert [entry.seq for entry in entries] == [1]
        with pytest.raises(ZeroDivisionError):
            await journal.ask(lambda: 1 // 0)
        await journal.close()

    run(main)


# --- Snapshots ------------------------------------------------------------------------------------


def test_a_snapshot_comes_after_so_many_entries_and_a_start_reads_only_what_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journals, "JOURNAL_SNAPSHOT_ENTRIES", 10)

    async def main() -> None:
        store = WatchedStore()
        journal = Journal(store, RealClock())
        for number in range(35):
            await writing(journal, number)
        assert store.snapshots == [10, 20, 30]
        await journal.close()
        again = WatchedStore(store.kept)
        later = Journal(again, RealClock())
        assert later.state == journal.state
        assert again.reads == [30]
        for number in range(5):
            await writing(later, number)
        assert again.snapshots == [40]
        await later.close()

    run(main)


def test_a_refused_snapshot_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "JOURNAL_SNAPSHOT_ENTRIES", 10)

    async def main() -> None:
        store = WatchedStore()
        journal = Journal(store, RealClock())
        for number in range(9):
            await writing(journal, number)
        store.refusal = disk_full()
        with pytest.raises(DiskFull):
            await writing(journal)
        store.refusal = None
        await writing(journal)
        kept = store.snapshot()
        assert kept is not None
        assert from_snapshot(kept) == journal.state
        await journal.close()

    run(main)


def test_a_snapshot_in_another_form_is_passed_over() -> None:
    async def main() -> None:
        store = ListStore()
        journal = Journal(store, RealClock())
        for number in range(3):
            await writing(journal, number)
        store.append([to_record(Entry(4, 0.0, "", goals(4)))], Snapshot(4, 99, b"?"))
        assert load(store) == (fold_all(journal.read()), 0)
        await journal.close()

    run(main)


# --- Compacting while others write ----------------------------------------------------------------


async def busy(journal: Journal, clock: SimulatedClock, times: int) -> None:
    """One knob moves about every three hours."""
    if not journal.state.plan.version:
        await journal.write(lambda _: [plan_changed(EMPTY, defaults().lines)], "ann")
    moves = [Adjusted(Adjustment("one.rows", i % 10, (i + 1) % 10, "x" * 50)) for i in range(times)]
    for move in moves:
        clock.advance(DAY_S / 8)
        await journal.write(lambda _, move=move: [move], "ann")  # type: ignore[misc]


def test_compaction_leaves_the_state_and_gives_space_back(tmp_path: Path) -> None:
    async def main() -> None:
        clock = SimulatedClock()
        journal = Journal(SqliteStore.open(tmp_path), clock)
        await busy(journal, clock, 400)
        before = journal.state
        removed = await journal.compact(clock.wall() - 2 * DAY_S, "ann")
        assert removed > 300
        left = list(journal.read())
        assert len(left) == 400 + 1 - removed + 1
        assert left[-1].body == Compacted(clock.wall() - 2 * DAY_S, removed)
        assert journal.state == msgspec.structs.replace(before, seq=before.seq + 1)
        assert await journal.compact(clock.wall() - 2 * DAY_S, "ann") == 0
        assert load(SqliteReading(tmp_path))[0] == journal.state
        assert [each for each in journal.read(about="one.rows")] == left[:-1]
        await journal.close()

    class SqliteReading(ListStore):
        """Only looks."""

        def __init__(self, place: Path) -> None:
            super().__init__()
            self.place = place

        def read(
            self, after: int = 0, before: int | None = None, about: str = "", newest: bool = False
        ) -> Iterator[Record]:
            return read_file(self.place / FILE, after, before, about, newest)

    run(main)
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        assert database.execute("PRAGMA freelist_count").fetchone() == (0,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_compaction_goes_in_steps_between_which_others_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journals, "JOURNAL_COMPACT_ENTRIES", 24)

    async def main() -> None:
        clock, store = SimulatedClock(), WatchedStore()
        journal = Journal(store, clock)
        await busy(journal, clock, 120)
        writes = []
        compacting = asyncio.ensure_future(journal.compact(clock.wall(), "ann"))
        while not compacting.done():
            writes.append(await writing(journal, len(writes)))
        marks = [each for each in journal.read() if isinstance(each.body, Compacted)]
        removed = [mark.body.removed for mark in marks if isinstance(mark.body, Compacted)]
        assert len(marks) == 5
        assert sum(removed) == compacting.result() == 120 - 15 - 1
        assert any(marks[0].seq < entry.seq < marks[-1].seq for (entry,) in writes)
        assert load(store)[0] == journal.state
        await journal.close()

    run(main)


def test_a_refused_compaction_leaves_all_and_can_be_made_again() -> None:
    async def main() -> None:
        clock, store = SimulatedClock(), WatchedStore()
        journal = Journal(store, clock)
        await busy(journal, clock, 20)
        before = journal.state, numbers(store)
        store.refusal = disk_full()
        with pytest.raises(DiskFull):
            await journal.compact(clock.wall(), "ann")
        assert (journal.state, numbers(store)) == before
        store.refusal = None
        assert await journal.compact(clock.wall(), "ann") > 10
        await journal.close()

    run(main)


def test_a_compaction_that_cannot_give_space_back_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it made, and then refused, nobody would know any more which number comes next."""

    async def main() -> None:
        clock = SimulatedClock()
        journal = Journal(SqliteStore.open(tmp_path), clock)
        await busy(journal, clock, 20)
        before = list(journal.read())
        with monkeypatch.context() as patch, pytest.raises(DiskFull):
            patch.setattr(SqliteStore, "_shrink", _no_space)
            await journal.compact(clock.wall(), "ann")
        assert list(journal.read()) == before
        assert (await writing(journal))[0].seq == before[-1].seq + 1
        await journal.close()

    def _no_space(self: SqliteStore) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run(main)


# --- Any order of events --------------------------------------------------------------------------


class Waiting(NamedTuple):
    """A write on its way, as the model has it."""

    task: "asyncio.Task[tuple[Entry, ...]]"
    bodies: list[Body]


class Model:
    """What must come of it: a list that grows, and a list of what waits."""

    def __init__(self) -> None:
        self.durable: list[Body] = []
        self.waiting: list[Waiting] = []
        self.in_append = 0

    @property
    def decided(self) -> int:
        return len(self.durable) + sum(len(each.bodies) for each in self.waiting)


async def interleave(seed: int, steps: int) -> None:
    """Writes, leaving callers, and a disk that refuses now and then, in an order drawn by lot."""
    chance, model, store = Chance(seed), Model(), HeldStore()
    journal = Journal(store, SimulatedClock())

    def begin() -> None:
        bodies: list[Body] = [goals(chance.integer(0, 99)) for _ in range(chance.integer(1, 3))]
        expected = model.decided

        def decide(state: State) -> list[Body]:
            assert state.seq == expected
            return bodies

        task = asyncio.ensure_future(journal.write(decide, "ann"))
        model.waiting.append(Waiting(task, bodies))

    async def settle(refusal: Exception | None) -> None:
        """The disk answers once; then everybody has been told."""
        size = model.in_append
        ends = len(model.waiting) if refusal is not None else size
        ended, model.waiting = model.waiting[:ends], model.waiting[ends:]
        store.go(refusal)
        outcomes = await asyncio.gather(*(each.task for each in ended), return_exceptions=True)
        for each, outcome in zip(ended, outcomes, strict=True):
            first = len(model.durable) + 1
            if refusal is None:
                model.durable += each.bodies
            if isinstance(outcome, asyncio.CancelledError):
                continue
            if refusal is not None:
                assert outcome is refusal
                continue
            assert not isinstance(outcome, BaseException)
            assert [entry.body for entry in outcome] == each.bodies
            assert [entry.seq for entry in outcome] == list(
                range(first, first + len(each.bodies))
            )
        model.in_append = 0
        await next_append()

    async def next_append() -> None:
        """Whatever waits goes into one append, for it is little."""
        if model.waiting and not model.in_append:
            await store.begun()
            model.in_append = len(store_group())

    def store_group() -> list[Waiting]:
        return list(model.waiting)

    for _ in range(steps):
        match chance.integer(0, 5):
            case 0 | 1 | 2:
                begin()
                await turn()
                if len(model.waiting) == 1:
                    await next_append()
            case 3 if model.waiting:
                chance.choice(model.waiting).task.cancel()
                await turn()
            case 4 if model.waiting:
                await settle(None)
            case 5 if model.waiting:
                await settle(disk_full())
        bodies = [entry.body for entry in map(to_entry, store.kept.content.records)]
        assert bodies == model.durable
        assert journal.state == fold_all(map(to_entry, store.kept.content.records))
    while model.waiting:
        await settle(None)
    await journal.close()
    assert load(ListStore(store.kept))[0] == journal.state
