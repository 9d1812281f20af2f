"""The journal: its fold, its groups and refusals, older and newer forms, and what a disk may do."""

import asyncio
import errno
import gc
import itertools
import json
import os
import queue
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import first_journal
from laws import examples
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
    Outcome,
    PlanChanged,
    Scored,
    about,
    outcome_of,
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
    StateUnusable,
)
from paceline.terms.limits import JOURNAL_BATCH, JOURNAL_ENTRY_BYTES, JOURNAL_SNAPSHOTS
from paceline.terms.plan import (
    EMPTY,
    Adjustment,
    Change,
    Prediction,
    changed,
    content_hash,
    inverse,
)
from paceline.testing import ListStore
from plans import CATALOGUE, START_S, defaults, plan_changed
from plans import journals as drawn_journals
from stores import WAIT_S, HeldStore, WatchedStore, disk_full

T = TypeVar("T")
FEW = examples(25)
MANY = settings(max_examples=2000, deadline=None)

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
@given(drawn_journals(), st.integers(0, 15))
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
    scored = Scored(7, ("one.rows",), Prediction("p95_ms", 1), "did not")
    assert about(scored) == (outcome_of(7), "one.rows")
    assert about(msgspec.structs.replace(scored, of_adjustment=True)) == ("one.rows",)


def test_a_change_that_does_not_follow_is_damage() -> None:
    first = plan_changed(EMPTY, defaults().lines)
    state = fold(NOTHING, Entry(1, 0.0, "", first))
    with pytest.raises(JournalDamaged, match=r"entry 2 .* does not follow from those before it"):
        fold(state, Entry(2, 0.0, "", first))
    lying = msgspec.structs.replace(first, hash="0" * 16)
    with pytest.raises(JournalDamaged, match=r"entry 1 .* is not the one it names"):
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


def test_an_entry_from_the_future_stops_no_compaction() -> None:
    body = Adjusted(Adjustment("one.rows", 1, 2, ""))
    entries = [Entry(1, 4.3e9, "", body), *(Entry(seq, 10.0, "", body) for seq in (2, 3, 4))]
    ((gone, summary),) = summarize(entries, 1000.0, 2000.0)
    assert gone == [2, 3, 4]
    assert isinstance(summary.body, AdjustedOften)
    assert summary.body.times == 3


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
        for knob in filter(CATALOGUE.__contains__, about(body)):
            sums = counts.get(knob, [0, 0, 0])
            counts[knob] = [a + b for a, b in zip(sums, added, strict=True)]
    return counts


@FEW
@given(drawn_journals(), st.integers(0, 15), cutoffs, cutoffs)
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


def test_what_was_compacted_is_compacted_again_with_what_came_after() -> None:
    entries = adjusting(8)
    for move in entries[1:7:2]:
        outcome: Outcome = "came true" if move.seq == 4 else "did not"
        scored = Scored(move.seq, ("one.rows",), Prediction("p95_ms", 1), outcome, True)
        entries.append(Entry(entries[-1].seq + 1, entries[-1].at + 60, "", scored))
    moments = [entry.at + 1 for entry in entries]
    for early_s, late_s in itertools.combinations(moments, 2):
        compaction_keeps(entries, 6, early_s, late_s)
    (summary, _) = compacted(compacted(entries, moments[5])[:-1], moments[-1])
    assert summary.body == AdjustedOften("one.rows", 8, 1, 9, came_true=1, did_not=2)
    assert summary.seq == 8


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
            assert next(journal.read(newest=True)) == entry
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
        sizes = [len(batch) for batch in store.appends]
        assert sizes == [1, JOURNAL_BATCH, JOURNAL_BATCH, JOURNAL_BATCH + 1]
        assert numbers(store) == list(range(1, sum(sizes) + 1))
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

        writes = [asyncio.ensure_future(journal.write(look, "ann"))]
        await store.begun()
        writes += [asyncio.ensure_future(journal.write(look, "ann")) for _ in range(2)]
        await turn()
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


def test_of_one_sync_is_what_may_be_refused_together_and_a_compaction_begins_one() -> None:
    """Which of them wait at the same time depends on the threads, so the waiting is planted."""
    waiting: queue.SimpleQueue[journals._Write | None] = queue.SimpleQueue()
    compaction = Compaction((1,), ())
    planted = [(0, None), (0, None), (1, None), (1, compaction), (1, None), (1, compaction)]

    async def main() -> list[list[tuple[int, Compaction | None]]]:
        durable = asyncio.get_running_loop().create_future()
        for era, each in planted:
            entry = Entry(1, 0.0, "", goals(0))
            write = journals._Write(era, (entry,), (), NOTHING, None, each, durable)
            waiting.put(write)
        waiting.put(None)
        groups = journals._groups(waiting)
        return [[(write.era, write.compaction) for write in group] for group in groups]

    assert run(main) == [planted[:2], planted[2:3], planted[3:5], planted[5:]]


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
        leaves = writing(journal, 1)
        await store.begun()
        leaves.cancel()
        stays = writing(journal, 2)
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
        store.refusal = None
        del leaves
        gc.collect()  # an error that nobody has looked at complains when it goes
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
        writes = [writing(journal, entries=2)]
        await store.begun()
        writes += [writing(journal, entries=2) for _ in range(9)]
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
        again = [writing(journal, entries=2)]
        await store.begun()
        again += [writing(journal, entries=2) for _ in range(9)]
        await turn()
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

        with pytest.raises(LimitReached, match=r"larger than may be .value: \d{7} bytes"):
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
        writes = [writing(journal)]
        await store.begun()
        writes += [writing(journal, number) for number in range(1, 3)]
        await turn()
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
        assert set(again.reads) == {30}
        for number in range(5):
            await writing(later, number)
        assert again.snapshots == [40]
        await later.close()

    run(main)


def test_for_a_snapshot_a_change_of_the_plan_counts_as_several_entries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journals, "JOURNAL_SNAPSHOT_ENTRIES", journals.COSTLY + 5)

    async def main() -> None:
        store = WatchedStore()
        journal = Journal(store, RealClock())
        await journal.write(lambda _: [plan_changed(EMPTY, defaults().lines)], "ann")
        for number in range(6):
            await writing(journal, number)
        assert store.snapshots == [6]
        await journal.close()

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
        await busy(journal, clock, 150)
        outcome = Scored(2, ("one.rows",), Prediction("p95_ms", 1), "did not", True)
        await journal.write(lambda _: [outcome], "ann")
        await busy(journal, clock, 50)
        before = journal.state
        removed = await journal.compact(clock.wall() - 2 * DAY_S, "ann")
        assert removed > 150
        left = list(journal.read())
        assert len(left) == 1 + 150 + 1 + 50 - removed + 1
        assert not any(isinstance(entry.body, Scored) for entry in left)
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
        nobody = "SELECT count(*) FROM about WHERE seq NOT IN (SELECT seq FROM entries)"
        assert database.execute(nobody).fetchone() == (0,)


def test_compaction_goes_in_steps_between_which_others_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journals, "JOURNAL_COMPACT_ENTRIES", 24)

    async def main() -> None:
        clock, store = SimulatedClock(), WatchedStore()
        journal = Journal(store, clock)
        await busy(journal, clock, 120)
        writes: list[tuple[Entry, ...]] = []
        compacting = asyncio.ensure_future(journal.compact(clock.wall(), "ann"))
        while not compacting.done():
            writes.append(await writing(journal, len(writes)))
        marks = [each for each in journal.read() if isinstance(each.body, Compacted)]
        removed = [mark.body.removed for mark in marks if isinstance(mark.body, Compacted)]
        assert len(marks) == 5
        assert sum(removed) == compacting.result() == 119 - 16, (
            "the last one stays; of 16 days one each"
        )
        assert any(marks[0].seq < entry.seq < marks[-1].seq for (entry,) in writes)
        assert len(numbers(store)) == 1 + 120 + len(writes) + len(marks) - sum(removed)
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
        with monkeypatch.context() as patch:
            patch.setattr(SqliteStore, "_shrink", _no_space)
            with pytest.raises(DiskFull):
                await journal.compact(clock.wall(), "ann")
        assert list(journal.read()) == before
        assert (await writing(journal))[0].seq == before[-1].seq + 1
        await journal.close()

    def _no_space(self: SqliteStore) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run(main)


# --- Any order of events --------------------------------------------------------------------------


class Waiting(NamedTuple):
    """A write on its way, as the test knows of it."""

    task: "asyncio.Task[tuple[Entry, ...]]"
    bodies: list[Body]


class Interleaving:
    """Writes, callers who leave, and a disk that refuses now and then, beside what must come of it:
    a list of what is durable, and a list of what waits, whose first ones are with the disk."""

    def __init__(self, seed: int) -> None:
        self.chance = Chance(seed)
        self.store = HeldStore()
        self.journal = Journal(self.store, SimulatedClock())
        self.durable: list[Body] = []
        self.waiting: list[Waiting] = []
        self.with_disk = 0

    async def run(self, steps: int) -> None:
        for _ in range(steps):
            match self.chance.integer(0, 6):
                case 0 | 1 | 2:
                    await self.begin()
                case 3 if len(self.waiting) > 2:
                    await self.leave()
                case 4 | 5 if self.waiting:
                    await self.end(None)
                case 6 if self.waiting:
                    await self.end(disk_full())
            self.check()
        while self.waiting:
            await self.end(None)
        self.check()
        await self.journal.close()
        assert load(ListStore(self.store.kept))[0] == self.journal.state

    def check(self) -> None:
        entries = [to_entry(record) for record in self.store.kept.content.records]
        assert [entry.body for entry in entries] == self.durable
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        assert self.journal.state == fold_all(entries)

    async def begin(self) -> None:
        bodies: list[Body] = [goals(self.chance.integer(0, 99)) for _ in range(self.size())]
        decided = len(self.durable) + sum(len(each.bodies) for each in self.waiting)

        def decide(state: State) -> list[Body]:
            assert state.seq == decided
            return bodies

        task = asyncio.ensure_future(self.journal.write(decide, "ann"))
        self.waiting.append(Waiting(task, bodies))
        await turn()
        await self.reach_disk()

    def size(self) -> int:
        return self.chance.integer(1, 3)

    async def leave(self) -> None:
        """Anybody but the first with the disk and the first who waits for it: by those one sees
        that the others have been answered."""
        at = self.chance.integer(1, len(self.waiting) - 1)
        if at != self.with_disk:
            self.waiting[at].task.cancel()
            await turn()

    async def end(self, refusal: Exception | None) -> None:
        """The disk answers; a refusal is one of all who wait."""
        number = self.with_disk if refusal is None else len(self.waiting)
        ended, self.waiting = self.waiting[:number], self.waiting[number:]
        self.store.go(refusal)
        for each in ended:
            (outcome,) = await asyncio.gather(each.task, return_exceptions=True)
            first = len(self.durable) + 1
            if refusal is None:
                self.durable += each.bodies
            if isinstance(outcome, asyncio.CancelledError):
                continue
            if isinstance(outcome, BaseException):
                assert outcome is refusal
                continue
            assert refusal is None
            assert [entry.body for entry in outcome] == each.bodies
            assert [entry.seq for entry in outcome] == [*range(first, first + len(each.bodies))]
        self.with_disk = 0
        await self.reach_disk()

    async def reach_disk(self) -> None:
        """What waits goes there together, when nothing is there."""
        if self.waiting and not self.with_disk:
            await self.store.begun()
            self.with_disk = len(self.waiting)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_in_whatever_order_the_journal_is_what_was_confirmed(seed: int) -> None:
    run(lambda: Interleaving(seed).run(60))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 110))
def test_whatever_happens_in_whatever_order_the_journal_is_what_was_confirmed_at_length(
    seed: int,
) -> None:
    run(lambda: Interleaving(seed).run(1000))


# --- Older and newer forms ------------------------------------------------------------------------


@pytest.fixture
def first_version(tmp_path: Path) -> Path:
    """A directory with the journal that the first version wrote."""
    place = tmp_path / "first"
    place.mkdir()
    shutil.copyfile(first_journal.DATA / "journal-1.sqlite", place / FILE)
    return place


def told() -> first_journal.Told:
    text = (first_journal.DATA / "journal-1.json").read_bytes()
    return msgspec.json.decode(text, type=first_journal.Told)


def test_the_journal_of_the_first_version_is_read_and_goes_on(first_version: Path) -> None:
    expected = told()
    snapshot = newest_snapshot(first_version / FILE)
    assert snapshot is not None

    async def main() -> None:
        journal = Journal(SqliteStore.open(first_version), RealClock())
        assert journal.state == expected.state
        entries = list(journal.read())
        assert tuple(kinds.kind_of(entry.body) for entry in entries) == expected.kinds
        assert fold_all(entries) == expected.state
        plan = expected.state.plan
        changes = list(journal.read(about=PLAN, newest=True))
        for entry, hash_after in zip(changes, reversed(expected.hashes), strict=False):
            assert isinstance(entry.body, PlanChanged)
            assert content_hash(plan) == entry.body.hash == hash_after
            plan = changed(plan, inverse(entry.body.change.diff), plan.version - 1)
        assert plan == EMPTY
        (entry,) = await writing(journal, 1)
        assert entry.seq == expected.state.seq + 1
        await journal.close()

    run(main)
    assert load(_closed(first_version))[0].goals == goals(1).goals


def _closed(place: Path) -> SqliteStore:
    """To read by; nobody holds it."""
    store = SqliteStore.open(place)
    store.close()
    return store


def test_what_happened_to_the_first_version_comes_to_the_same_today() -> None:
    assert asyncio.run(first_journal.live(ListStore())) == told()


def test_a_file_of_an_older_version_is_brought_up_to_date(
    first_version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(read_file(first_version / FILE))
    step = "ALTER TABLE entries ADD COLUMN note TEXT NOT NULL DEFAULT 'old';"
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "MIGRATIONS", (*sqlite.MIGRATIONS, step))
        with closing(SqliteStore.open(first_version)) as store:
            assert list(store.read()) == before
            assert load(store)[0] == told().state
        _closed(first_version)
        with closing(sqlite3.connect(first_version / FILE)) as database:
            assert database.execute("PRAGMA user_version").fetchone() == (2,)
            assert database.execute("SELECT DISTINCT note FROM entries").fetchone() == ("old",)
    for use in (SqliteStore.open, lambda place: list(read_file(place / FILE))):
        with pytest.raises(JournalNewer, match=r"newer Paceline wrote .* version 2; .* knows 1"):
            use(first_version)


def test_a_step_that_fails_leaves_the_file_as_it_was(
    first_version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = "CREATE TABLE half (a TEXT); ALTER TABLE missing ADD COLUMN note TEXT;"
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "MIGRATIONS", (*sqlite.MIGRATIONS, steps))
        with pytest.raises(StateUnusable, match="no such table"):
            SqliteStore.open(first_version)
    with closing(SqliteStore.open(first_version)) as store:
        assert load(store)[0] == told().state
    with closing(sqlite3.connect(first_version / FILE)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        assert not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'half'").fetchall()


def test_an_entry_of_an_older_version_is_brought_up_to_date(
    first_version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def second(content: dict[str, Any]) -> dict[str, Any]:
        reason = content["adjustment"]["reason"] + " Second."
        return {**content, "adjustment": {**content["adjustment"], "reason": reason}}

    def third(content: dict[str, Any]) -> dict[str, Any]:
        reason = content["adjustment"]["reason"] + " Third."
        return {**content, "adjustment": {**content["adjustment"], "reason": reason}}

    monkeypatch.setattr(kinds, "VERSIONS", {**kinds.VERSIONS, "adjusted": 3})
    monkeypatch.setitem(kinds.UPGRADES, ("adjusted", 1), second)
    monkeypatch.setitem(kinds.UPGRADES, ("adjusted", 2), third)
    with closing(SqliteStore.open(first_version)) as store:
        entries = [to_entry(record) for record in store.read()]
        bodies = [entry.body for entry in entries if isinstance(entry.body, Adjusted)]
        assert bodies
        assert {body.adjustment.reason for body in bodies} == {" Second. Third."}
        assert load(store)[0] == fold_all(entries) == told().state
        new = Entry(entries[-1].seq + 1, 0.0, "ann", bodies[0])
        store.append([to_record(new)])
        (record,) = store.read(after=entries[-1].seq)
        assert (record.version, to_entry(record)) == (3, new)


@pytest.mark.parametrize(("kind", "version"), [("adjusted", 2), ("foreseen", 1)])
def test_an_entry_of_a_newer_version_is_refused_as_such(
    first_version: Path, kind: str, version: int
) -> None:
    with closing(SqliteStore.open(first_version)) as store:
        last = told().state.seq
        store.append([Record(last + 1, 0.0, "ann", kind, version, '{"type":"foreseen"}')])
        with pytest.raises(JournalNewer, match=rf"entry {last + 1} .*{kind}, version") as caught:
            load(store)
    assert caught.value.exit == 4
    assert "newer" in caught.value.remedy


def test_an_entry_that_is_none_is_damage_that_is_named(tmp_path: Path) -> None:
    with closing(SqliteStore.open(tmp_path)) as store:
        store.append([Record(1, 0.0, "ann", "adjusted", 1, '{"type":"adjusted"}')])
        with pytest.raises(JournalDamaged, match=r"entry 1 .* cannot be read as adjusted"):
            load(store)


# --- What may happen to a file --------------------------------------------------------------------


def test_a_damaged_newest_snapshot_costs_time_and_nothing_else(first_version: Path) -> None:
    with closing(sqlite3.connect(first_version / FILE)) as database, database:
        numbers = database.execute("SELECT seq FROM snapshots ORDER BY seq DESC").fetchall()
        (newest,), (before,) = numbers[:2]
        database.execute("UPDATE snapshots SET state = zeroblob(9) WHERE seq = ?", (newest,))
    with closing(SqliteStore.open(first_version)) as store:
        assert load(store) == (told().state, before)
    with closing(sqlite3.connect(first_version / FILE)) as database, database:
        database.execute("UPDATE snapshots SET sum = sum + 1")
    with closing(SqliteStore.open(first_version)) as store:
        assert load(store) == (told().state, 0)


def test_a_search_that_goes_astray_does_not_pass_for_the_end_of_the_journal() -> None:
    """As SQLite's may, when a number inside its tree is another one."""

    class Astray(ListStore):
        def read(
            self, after: int = 0, before: int | None = None, about: str = "", newest: bool = False
        ) -> Iterator[Record]:
            found = super().read(after, before, about, newest)
            return found if newest else itertools.islice(found, 2)

    store = Astray()
    store.append([to_record(Entry(seq, 0.0, "", goals(seq))) for seq in (1, 2)])
    assert load(store)[0].seq == 2
    store.append([to_record(Entry(3, 0.0, "", goals(3)))])
    with pytest.raises(JournalDamaged, match=r"entry 3 .* do not lead to it"):
        load(store)


def test_so_many_snapshots_are_kept(tmp_path: Path) -> None:
    with closing(SqliteStore.open(tmp_path)) as store:
        for seq in range(1, 10):
            store.append([to_record(Entry(seq, 0.0, "", goals(seq)))], Snapshot(seq, 1, b"{}"))
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        kept = database.execute("SELECT seq FROM snapshots").fetchall()
    assert len(kept) == JOURNAL_SNAPSHOTS
    assert kept[-1] == (9,)


def test_a_flipped_byte_in_an_entry_is_damage_that_names_it(first_version: Path) -> None:
    file = first_version / FILE
    content = file.read_bytes()
    at = content.index("Größer ist besser".encode())
    file.write_bytes(content[:at] + b"g" + content[at + 1 :])
    with pytest.raises(JournalDamaged, match=r"entry \d+ of the journal is damaged: its check sum"):
        list(read_file(file))


def test_no_flipped_byte_makes_an_entry_say_something_else(first_version: Path) -> None:
    file = first_version / FILE
    content, right = file.read_bytes(), list(read_file(file))
    damaged = 0
    for at in range(0, len(content), 331):
        file.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        with suppress(JournalDamaged, StateUnusable):
            assert all(record in right for record in read_file(file)), at
            continue
        damaged += 1
    assert damaged > 10


def test_a_truncated_file_is_refused_and_left_as_it_is(first_version: Path) -> None:
    file = first_version / FILE
    content = file.read_bytes()
    for size in (50, 100, 511, 4096, 4097, len(content) // 2, len(content) - 4096):
        file.write_bytes(content[:size])
        for use in (lambda: list(read_file(file)), lambda: load(SqliteStore.open(first_version))):
            with pytest.raises(JournalDamaged, match=r"journal check") as caught:
                use()
            assert caught.value.value == str(file)
        assert file.read_bytes() == content[:size]


def test_an_emptied_file_is_no_new_journal_and_a_deleted_one_is(tmp_path: Path) -> None:
    SqliteStore.open(tmp_path).close()
    (tmp_path / FILE).write_bytes(b"")
    with pytest.raises(JournalDamaged, match="emptied"):
        SqliteStore.open(tmp_path)
    (tmp_path / FILE).unlink()
    SqliteStore.open(tmp_path).close()


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / FILE
    file.write_bytes(b"Dear diary, " * 500)
    for use in (lambda: list(read_file(file)), lambda: SqliteStore.open(tmp_path)):
        with pytest.raises(JournalDamaged, match="file is not a database"):
            use()
    assert file.read_bytes() == b"Dear diary, " * 500


@pytest.mark.parametrize("mark", [0, 0x47504B47])
def test_a_database_of_somebody_elses_is_refused_and_left_as_it_is(
    tmp_path: Path, mark: int
) -> None:
    file = tmp_path / FILE
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE entries (seq INTEGER PRIMARY KEY, body TEXT)")
        database.execute(f"PRAGMA application_id = {mark}")
    content = file.read_bytes()
    for use in (lambda: list(read_file(file)), lambda: SqliteStore.open(tmp_path)):
        with pytest.raises(JournalDamaged, match="no journal of Paceline's"):
            use()
    assert file.read_bytes() == content
    assert not list(tmp_path.glob("*-wal"))


def test_where_no_journal_is_none_can_be_read(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StateUnusable, match="no journal here"):
            list(read_file(place / FILE))
    (tmp_path / FILE).touch()
    with pytest.raises(StateUnusable, match="no journal here"):
        list(read_file(tmp_path / FILE))
    with pytest.raises(StateUnusable, match="--state"):
        SqliteStore.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_refused_opening_leaves_no_lock_behind(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"Dear diary, " * 500)
    for _ in range(2):
        with pytest.raises(JournalDamaged):
            SqliteStore.open(tmp_path)
    (tmp_path / FILE).unlink()
    SqliteStore.open(tmp_path).close()


def test_another_program_that_keeps_the_file_locked_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "JOURNAL_BUSY_S", 0.05)
    record = to_record(Entry(1, 0.0, "", goals(1)))
    with closing(SqliteStore.open(tmp_path)) as store:
        with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as browser:
            browser.execute("BEGIN IMMEDIATE")
            with pytest.raises(StateUnusable, match="keeps the journal locked"):
                store.append([record])
        store.append([record])
        assert len(list(store.read())) == 1


def test_what_is_made_is_for_its_owner_only(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        store = SqliteStore.open(tmp_path)
        store.append([to_record(Entry(1, 0.0, "", goals(1)))])
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        store.close()
    finally:
        os.umask(previous)
    assert len(modes) == 4
    assert set(modes.values()) == {0o600}


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[None]:
    subprocess.run(["mount", *options, str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """A file or directory, whoever asks."""
    with mounted(path, "--bind", str(path)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(path)], check=True)
        yield


@pytest.mark.needs("tmpfs")
@pytest.mark.parametrize("what", ["the directory", "the file"])
def test_what_is_read_only_can_be_read_and_is_refused_to_a_writer(
    first_version: Path, what: str
) -> None:
    file = first_version / FILE
    before = list(read_file(file))
    with read_only(first_version if what == "the directory" else file):
        assert list(read_file(file)) == before
        assert newest_snapshot(file) is not None
        with pytest.raises(StateUnusable, match="Read-only file system") as caught:
            SqliteStore.open(first_version)
        assert caught.value.value == str(file)
    _closed(first_version)


@pytest.mark.needs("tmpfs")
@pytest.mark.parametrize("beside", [(f"{FILE}-wal",), (f"{FILE}-wal", f"{FILE}-shm")], ids=len)
def test_what_a_crash_left_can_be_read_where_nothing_can_be_created(
    tmp_path: Path, beside: tuple[str, ...]
) -> None:
    place = tmp_path / "crashed"
    place.mkdir()
    with closing(SqliteStore.open(tmp_path)) as store:
        records = [to_record(Entry(seq, 0.0, "ann", goals(seq))) for seq in range(1, 200)]
        store.append(records)
        for name in (FILE, *beside):
            shutil.copyfile(tmp_path / name, place / name)
    with read_only(place):
        assert len(list(read_file(place / FILE))) == 199
    assert len(list(place.iterdir())) == 1 + len(beside)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    with mounted(place, "-t", "tmpfs", "-o", "size=1m", "tmpfs"):
        yield place


@pytest.mark.needs("tmpfs")
def test_on_a_full_disk_a_decision_is_refused_and_after_some_is_freed_it_works(
    small_disk: Path,
) -> None:
    async def main() -> None:
        ballast = small_disk / "ballast"
        journal = Journal(SqliteStore.open(small_disk), RealClock())
        await writing(journal, 1)
        fill(ballast)
        kept = 1

        async def write_on() -> None:
            nonlocal kept
            for number in itertools.count(2):
                await writing(journal, number, entries=20)
                kept += 20

        with pytest.raises(DiskFull, match="nothing was changed") as caught:
            await write_on()
        assert str(small_disk) in str(caught.value)
        for _ in range(3):
            with pytest.raises(DiskFull):
                await writing(journal, 0, entries=20)
        assert journal.state.seq == kept
        assert fold_all(journal.read()) == journal.state
        ballast.unlink()
        (*_, entry) = await writing(journal, 7, entries=200)
        assert entry.seq == journal.state.seq == kept + 200
        await journal.close()
        with closing(SqliteStore.open(small_disk)) as store:
            assert load(store)[0] == journal.state

    run(main)


@pytest.mark.needs("tmpfs")
def test_a_journal_that_finds_no_space_to_begin_says_so_and_begins_later(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(b"x" * (1 << 19))
    fill(small_disk / "rest")
    for free in range(0, 60, 4):
        with (small_disk / "ballast").open("r+b") as ballast:
            ballast.truncate((1 << 19) - free * 1024)
        with pytest.raises(DiskFull):
            SqliteStore.open(small_disk)
        for left in small_disk.glob("journal.*"):
            left.unlink()
    (small_disk / "ballast").unlink()
    with closing(SqliteStore.open(small_disk)) as store:
        assert load(store)[0] == NOTHING


def fill(path: Path) -> None:
    """Until there is no space for one byte more."""
    with path.open("wb", buffering=0) as rest:
        try:
            while rest.write(b"x" * 512):
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 - it is how the writing ends
