"""The journal as everybody uses it: decide on the state, and know when it is durable.

`write` takes a decision, a function from the state to what follows from it. It is asked at once, on
the loop, with everything that was decided before, durable or not; the disk works in a thread of
its own and makes whole groups durable with one sync. When the disk refuses, what was decided since
is refused too, and the state is again what the file says.

Not the place where it is decided *whether* something may change: that is `changes/`.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from paceline.clock import Clock
from paceline.journal.compaction import Group, summarize
from paceline.journal.entries import (
    Body,
    Compacted,
    Entry,
    PlanChanged,
    to_entry,
    to_record,
)
from paceline.journal.fold import NOTHING, State, fold, fold_all, from_snapshot, to_snapshot
from paceline.journal.store import Compaction, Record, Snapshot, Store, damaged
from paceline.terms.errors import LimitReached, Misuse
from paceline.terms.limits import (
    JOURNAL_BACKLOG,
    JOURNAL_BATCH,
    JOURNAL_COMPACT_ENTRIES,
    JOURNAL_ENTRY_BYTES,
    JOURNAL_SNAPSHOT_ENTRIES,
)

T = TypeVar("T")

COSTLY = 10
"""How many other entries a change of the Plan counts as: folding it takes a hash of all lines."""

Decide = Callable[[State], Sequence[Body]]


def load(store: Store) -> tuple[State, int]:
    """The state of a store, and up to which entry its newest usable snapshot goes."""
    snapshot = store.snapshot()
    known = from_snapshot(snapshot) if snapshot is not None else None
    start = NOTHING if known is None else known
    last = next((each.seq for each in store.read(after=start.seq, newest=True)), start.seq)
    state = fold_all(map(to_entry, store.read(after=start.seq)), start)
    if state.seq < last:  # a search that went astray in a file whose inner order is damaged
        raise damaged(last, "it is there, but those before it do not lead to it")
    return state, start.seq


class _Write(NamedTuple):
    """What one decision came to, on its way to the disk. After a refusal a new era begins, and what
    is left of the old one is refused as well."""

    era: int
    entries: tuple[Entry, ...]
    records: tuple[Record, ...]
    state: State
    snapshot: Snapshot | None
    compaction: Compaction | None
    durable: asyncio.Future[None]


class Journal:
    """Belongs to one event loop. `state` is what is durable; it changes before `write` returns.

    In simulated time there are no threads: with `at_once` the disk answers while it is asked.
    """

    def __init__(self, store: Store, clock: Clock, *, at_once: bool = False) -> None:
        self.state, snapshot_seq = load(store)
        self._unfolded = self.state.seq - snapshot_seq
        self._store = store
        self._clock = clock
        self._at_once = at_once
        self._decided = self.state
        self._era = 0
        self._waiting = 0
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._ended = asyncio.Event()

    async def write(self, decide: Decide, who: str) -> tuple[Entry, ...]:
        """Appends what `decide` makes of the state; returns when it is durable."""
        return await self._write(decide(self._decided), who)

    def read(
        self, after: int = 0, before: int | None = None, about: str = "", newest: bool = False
    ) -> Iterator[Entry]:
        """Durable entries, as the store reads them. That may take long: see `ask`."""
        return map(to_entry, self._store.read(after, before, about, newest))

    async def ask(self, question: Callable[[], T]) -> T:
        """Runs something that reads, beside the loop."""
        if self._at_once:
            return question()
        return await asyncio.get_running_loop().run_in_executor(None, question)

    async def compact(self, before_unix_s: float, who: str) -> int:
        """Summarizes the adjustments from before then; returns how many entries are gone.

        In steps between which others are written; what a crash leaves is left for the next time.
        """
        now_unix_s = self._clock.wall()
        groups = await self.ask(lambda: list(summarize(self.read(), before_unix_s, now_unix_s)))
        removed = 0
        for step in _steps(groups):
            gone = tuple(seq for seqs, _ in step for seq in seqs)
            summaries = tuple(to_record(summary) for _, summary in step)
            fewer = len(gone) - len(summaries)
            compaction = Compaction(gone, summaries)
            await self._write([Compacted(before_unix_s, fewer)], who, compaction)
            removed += fewer
        return removed

    async def close(self) -> None:
        """Waits for what is on its way; nothing can be written afterwards."""
        self._closed = True
        if self._thread is not None:
            self._queue.put(None)
            await self._ended.wait()  # not in the pool: slow readers may fill that
            self._thread.join()
        self._store.close()

    async def _write(
        self, bodies: Sequence[Body], who: str, compaction: Compaction | None = None
    ) -> tuple[Entry, ...]:
        if not bodies:
            return ()
        if self._closed:
            raise Misuse("the journal is closed", remedy="Write before the owner process stops.")
        if self._waiting >= JOURNAL_BACKLOG:
            raise LimitReached(
                "as many decisions wait for the disk as may",
                value=JOURNAL_BACKLOG,
                remedy="Try again in a moment; see whether the disk is slow.",
            )
        write = self._prepare(bodies, who, compaction)
        self._decided = write.state
        self._waiting += len(write.entries)
        self._send(write)
        await asyncio.shield(write.durable)  # a caller who leaves does not undo it
        return write.entries

    def _prepare(self, bodies: Sequence[Body], who: str, compaction: Compaction | None) -> _Write:
        at = self._clock.wall()
        state = self._decided
        entries, records = [], []
        for body in bodies:
            entry = Entry(state.seq + 1, at, who, body)
            state = fold(state, entry)
            record = to_record(entry)
            size_bytes = len(record.body.encode()) + len(record.who.encode())
            if size_bytes > JOURNAL_ENTRY_BYTES:
                raise LimitReached(
                    "one entry of the journal would be larger than may be",
                    value=f"{size_bytes} bytes",
                    remedy="Change fewer knobs at once, or give a shorter reason.",
                )
            entries.append(entry)
            records.append(record)
            self._unfolded += COSTLY if isinstance(body, PlanChanged) else 1
        snapshot = None
        if self._unfolded >= JOURNAL_SNAPSHOT_ENTRIES:
            snapshot = to_snapshot(state)
            self._unfolded = 0
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        durable.add_done_callback(_seen)
        return _Write(
            self._era, tuple(entries), tuple(records), state, snapshot, compaction, durable
        )

    def _send(self, write: _Write) -> None:
        if self._at_once:
            self._done([write], self._append([write]))
            return
        if self._thread is None:
            loop = asyncio.get_running_loop()
            self._thread = threading.Thread(
                target=self._work, args=(loop,), name="journal", daemon=True
            )
            self._thread.start()
        self._queue.put(write)

    def _done(self, group: Sequence[_Write], error: Exception | None) -> None:
        """Back on the loop: a group is durable, or refused."""
        self._waiting -= sum(len(write.entries) for write in group)
        for write in group:
            if error is None:
                self.state = write.state
                write.durable.set_result(None)
            else:
                if write.era == self._era:
                    self._era += 1
                    self._decided = self.state
                    self._unfolded = JOURNAL_SNAPSHOT_ENTRIES  # one too many does no harm
                write.durable.set_exception(error)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """The disk's thread, until the journal closes."""
        refused_era = -1
        refusal: Exception | None = None
        for group in _groups(self._queue):
            if group[0].era != refused_era:
                refusal = self._append(group)
                refused_era = -1 if refusal is None else group[0].era
            loop.call_soon_threadsafe(self._done, group, refusal)
        loop.call_soon_threadsafe(self._ended.set)

    def _append(self, group: Sequence[_Write]) -> Exception | None:
        records = [record for write in group for record in write.records]
        snapshots = [write.snapshot for write in group if write.snapshot is not None]
        compaction = group[0].compaction
        try:
            self._store.append(records, snapshots[-1] if snapshots else None, compaction)
        except Exception as error:  # noqa: BLE001  whatever it is, those who wait are told
            return error
        return None


def _groups(waiting: "queue.SimpleQueue[_Write | None]") -> Iterator[list[_Write]]:
    """What can become durable together: of one era, up to JOURNAL_BATCH entries; a compaction
    begins a group."""
    first = waiting.get()
    while first is not None:
        group, size = [first], len(first.entries)
        following = None
        while True:
            try:
                following = waiting.get_nowait()
            except queue.Empty:
                yield group
                first = waiting.get()
                break
            if (
                following is None
                or following.era != group[0].era
                or following.compaction is not None
                or size + len(following.entries) > JOURNAL_BATCH
            ):
                yield group
                first = following
                break
            group.append(following)
            size += len(following.entries)


def _seen(durable: asyncio.Future[None]) -> None:
    """The caller may have left; an error that nobody awaits is no news to the loop."""
    if not durable.cancelled():
        durable.exception()


def _steps(groups: list[Group]) -> Iterator[list[Group]]:
    """No group is split, so a step may be larger by one knob's day: see `compaction.py` for how
    large that is."""
    step: list[Group] = []
    size = 0
    for group in groups:
        step.append(group)
        size += len(group[0])
        if size >= JOURNAL_COMPACT_ENTRIES:
            yield step
            step, size = [], 0
    if step:
        yield step
