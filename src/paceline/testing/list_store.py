"""A Store in memory, small and obviously right: what others are compared with, and what tests use
where no disk matters.

    kept = Kept()
    store = ListStore(kept)

`Kept` is its disk: whoever opens another ListStore on it, after the first was closed, finds what
that one wrote. Not for production: nothing survives the process.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from paceline.journal.store import Compaction, Record, Snapshot
from paceline.terms.errors import StateInUse, StateUnusable


class Content(NamedTuple):
    records: tuple[Record, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()


class Kept:
    """`content` is replaced as a whole, so that whoever looks sees it before or after a write."""

    def __init__(self) -> None:
        self.content = Content()
        self.held = False


class ListStore:
    def __init__(self, kept: Kept | None = None) -> None:
        self.kept = Kept() if kept is None else kept
        if self.kept.held:
            raise StateInUse(
                "another store writes here",
                value="in memory",
                remedy="Close it first; there is one writer at a time.",
            )
        self.kept.held = True
        self._open = True

    def append(
        self,
        records: Sequence[Record],
        snapshot: Snapshot | None = None,
        compaction: Compaction | None = None,
    ) -> None:
        if not self._open:
            raise StateUnusable(
                "the store is closed", value="in memory", remedy="Open another one on what it kept."
            )
        before = self.kept.content
        gone, summaries = (set(compaction.gone), compaction.summaries) if compaction else ((), ())
        after = [each for each in before.records if each.seq not in gone]
        after += [*summaries, *records]
        if len({each.seq for each in after}) < len(after):
            raise StateInUse(
                "a number of these records is taken",
                value=[each.seq for each in records],
                remedy="Stop the other writer; there is one at a time.",
            )
        kept = () if snapshot is None else (snapshot,)
        self.kept.content = Content(
            tuple(sorted(after, key=lambda each: each.seq)), (*before.snapshots, *kept)
        )

    def read(
        self, after: int = 0, before: int | None = None, about: str = "", newest: bool = False
    ) -> Iterator[Record]:
        records = self.kept.content.records
        found = [
            each
            for each in records
            if after < each.seq
            and (before is None or each.seq < before)
            and (not about or about in each.about)
        ]
        return reversed(found) if newest else iter(found)

    def snapshot(self) -> Snapshot | None:
        return max(self.kept.content.snapshots, key=lambda each: each.seq, default=None)

    def close(self) -> None:
        if self._open:
            self._open = False
            self.kept.held = False
