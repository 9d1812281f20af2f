"""Writes that wait until it is known that they shall be: those of one command, without an owner.

A store over another, or over none yet. What is appended is read again from memory, and goes to the
store beneath in one piece, or nowhere. Not for a process that serves: until then nothing is
durable. Called by `app.py`.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

from paceline.journal.store import Compaction, Record, Snapshot, Store


class Pending:
    def __init__(self, beneath: Store | None) -> None:
        self._beneath = beneath
        self._records: list[Record] = []
        self._snapshot: Snapshot | None = None

    def append(
        self,
        records: Sequence[Record],
        snapshot: Snapshot | None = None,
        compaction: Compaction | None = None,
    ) -> None:
        if compaction is not None and self._beneath is not None:
            self.write_to(self._beneath)  # nothing refuses a compaction that has come this far
            self._beneath.append(records, snapshot, compaction)
            return
        self._records += records
        self._snapshot = snapshot or self._snapshot

    def read(
        self, after: int = 0, before: int | None = None, about: str = "", newest: bool = False
    ) -> Iterator[Record]:
        mine = [
            each
            for each in self._records
            if after < each.seq
            and (before is None or each.seq < before)
            and (not about or about in each.about)
        ]
        if self._beneath is None:
            return reversed(mine) if newest else iter(mine)
        theirs = self._beneath.read(after, before, about, newest)
        return chain(reversed(mine), theirs) if newest else chain(theirs, mine)

    def snapshot(self) -> Snapshot | None:
        if self._snapshot is None and self._beneath is not None:
            return self._beneath.snapshot()
        return self._snapshot

    def write_to(self, store: Store) -> None:
        if self._records:
            store.append(self._records, self._snapshot)
        self._records, self._snapshot = [], None

    def close(self) -> None:
        """The store beneath is closed by whoever opened it."""
