"""Where the journal's records lie: the seam that every store fulfils, and the values that cross it.

A store knows order, durability and damage; what a record means is the journal's business. One
contract suite holds for all of them: `paceline.testing.store_contract`.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from paceline.terms.errors import JournalDamaged


class Record(msgspec.Struct, frozen=True):
    """One entry as it is kept: `body` is JSON, `about` are the names it can be found by, which a
    store need not give back."""

    seq: int
    at: float
    who: str
    kind: str
    version: int
    body: str
    about: tuple[str, ...] = ()


class Snapshot(msgspec.Struct, frozen=True):
    """The fold of all records up to `seq`, so that nobody needs to read them again."""

    seq: int
    format: int
    state: bytes


class Compaction(msgspec.Struct, frozen=True):
    """Records that go, and what stands in their place: each summary has the number of one of
    them, and together they are about whatever those were about."""

    gone: tuple[int, ...]
    summaries: tuple[Record, ...]


class Store(Protocol):
    """Raises PacelineErrors; after one, what was there before is still there, and nothing else."""

    def append(
        self,
        records: Sequence[Record],
        snapshot: Snapshot | None = None,
        compaction: Compaction | None = None,
    ) -> None:
        """All of it or nothing, and durable at return. The records' numbers go on where the last
        one ended; whoever finds them taken has met a second writer."""
        ...

    def read(
        self, after: int = 0, before: int | None = None, about: str = "", newest: bool = False
    ) -> Iterator[Record]:
        """Those between the two numbers, both excluded, oldest first unless `newest` comes first.
        Never waits for a writer, and never makes one wait. What is appended meanwhile is not among
        them; a compaction may be seen in what is still to be read."""
        ...

    def snapshot(self) -> Snapshot | None:
        """The newest one that can be read."""
        ...

    def close(self) -> None: ...


def damaged(seq: int, what: str) -> JournalDamaged:
    return JournalDamaged(
        f"entry {seq} of the journal is damaged: {what}",
        value=seq,
        remedy="`paceline journal check` shows what can be saved, and how.",
    )
