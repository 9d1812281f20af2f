"""The journal that the first version wrote: what is in it, and how it was made.

    .venv-dev/bin/python tests/first_journal.py

writes `tests/data/journal-1.sqlite`, and beside it what its fold must be. It was run once; whoever
changes the form of file or entries leaves the file as it is, and writes a `journal-2` beside it.
"""

import asyncio
import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

import msgspec

from paceline.changes.decide import FilePin
from paceline.changes.desk import Desk, Nobody, Wanted, Wish
from paceline.clock import SimulatedClock
from paceline.journal import journal as journals
from paceline.journal.entries import Adjusted, Scored, SettingsChanged, kind_of
from paceline.journal.fold import State
from paceline.journal.journal import Journal
from paceline.journal.sqlite import FILE, SqliteStore
from paceline.journal.store import Store
from paceline.terms.limits import ADJUSTMENTS_KEPT_S
from paceline.terms.plan import Prediction
from plans import catalogue

DATA = Path(__file__).parent / "data"
DAY_S = 86400


class Told(msgspec.Struct, frozen=True):
    """What is expected of the file."""

    kinds: tuple[str, ...]
    hashes: tuple[str, ...]
    """of the Plan, by version, from the empty one on"""
    state: State


async def live(store: Store) -> Told:
    """A little of everything that could happen to a journal in its first version."""
    clock = SimulatedClock()
    journal = Journal(store, clock)
    desk = Desk(journal, catalogue("one", "two"), Nobody(), clock)
    hashes = [journal.state.hash]

    async def note() -> None:
        clock.advance(60)
        if journal.state.plan.version == len(hashes):
            hashes.append(journal.state.hash)

    pins = {"one.size": FilePin(256, "paceline.toml:3")}
    await desk.begin(Wanted(), "0.1.0")
    await note()
    await desk.configure(Wanted(pins, {"one": ("p95_ms <= 30", "minimize cost_usd_h")}), "reload")
    await note()
    ann = Wish("ann", "Größer ist besser.", (Prediction("p95_ms", high=25.5),))
    bob = Wish("bob")
    await desk.set("one.rows", 7, "2..8", ann)
    await note()
    for value in (3, 4, 8):
        await desk.adjust("one.rows", value, bob)
        clock.advance(DAY_S / 3)
    await desk.adjust("two.share", -0.25, Wish("a rule", "Less is enough.", ann.expects))
    await note()
    moved = next(journal.read(about="two.share", newest=True))
    assert isinstance(moved.body, Adjusted)
    scored = Scored(
        moved.seq, ("two.share",), ann.expects[0], "came true", of_adjustment=True, measured=20.0
    )
    await journal.write(lambda _: [scored], "paceline 0.1.0")
    await desk.pin("one.mode", "fast", ann)
    await note()
    await desk.pin("two.on", None, bob)
    await note()
    await desk.set("two.mode", "slow", "slow|größer", bob)
    await note()
    await desk.unpin("two.on", ann)
    await note()
    await journal.write(lambda _: [SettingsChanged(("the log is more detailed",))], "reload")
    await desk.undo(3, bob)
    await note()
    await desk.rollback(5, ann)
    await note()
    clock.advance(ADJUSTMENTS_KEPT_S)
    await desk.adjust("two.rows", 9, bob)
    assert await desk.compact("paceline 0.1.0")
    await desk.set("two.wait", 2.5, None, bob)
    await note()
    await desk.adjust("two.share", 0.75, bob)
    missed = Scored(20, ("two.share",), ann.expects[0], "did not", of_adjustment=True)
    unclear = Scored(4, ("one.rows",), ann.expects[0], "cannot tell", evidence="12 requests")
    await journal.write(lambda _: [missed, unclear], "paceline 0.1.0")
    state = journal.state
    kinds = tuple(kind_of(entry.body) for entry in journal.read())
    await journal.close()
    return Told(kinds, tuple(hashes), state)


def main() -> None:
    some = patch.object(journals, "JOURNAL_SNAPSHOT_ENTRIES", 30)  # so that there are snapshots
    with some, tempfile.TemporaryDirectory() as place:
        told = asyncio.run(live(SqliteStore.open(Path(place))))
        assert not Path(place, f"{FILE}-wal").exists()
        shutil.copyfile(Path(place, FILE), DATA / "journal-1.sqlite")
    text = msgspec.json.format(msgspec.json.encode(told))
    (DATA / "journal-1.json").write_bytes(text + b"\n")


if __name__ == "__main__":
    main()
