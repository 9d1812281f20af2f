"""Stores of journals for tests: one that notes and refuses, one that waits to be let go."""

import asyncio
import queue
import threading
from collections.abc import Iterator, Sequence

from paceline.journal.store import Compaction, Record, Snapshot
from paceline.terms.errors import DiskFull
from paceline.testing import Kept, ListStore

WAIT_S = 30


def disk_full() -> DiskFull:
    return DiskFull("no space is left", value="planted", remedy="Free some space.")


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
