"""Whatever instant the power goes, or the process is killed: what was acknowledged is there.

Lives of a real server are recorded at the level of system calls, and what a disk may have kept of
them is rebuilt and judged (`power_lives.py`). `./bench power` judges thousands of images. What a
killed owner leaves of the Plan is test_plan_faults.py's business; here a journal by itself is
killed, while it is written to, and made smaller, as fast as it goes.
"""

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from file_history import Acknowledged, Sync, Write
from paceline.clock import Chance, RealClock
from paceline.journal.damage import inspect
from paceline.journal.journal import Journal
from paceline.journal.sqlite import FILE, SqliteStore, newest_snapshot
from paceline.terms.limits import JOURNAL_SNAPSHOT_ENTRIES
from power_lives import (
    BRIEF,
    KEYS_ALONE,
    KEYS_NOT_SYNCED,
    KILLED,
    PLANTED,
    STATE,
    STOPPED,
    History,
    Lived,
    imported,
    judge,
    lived,
    long,
    second,
    start_again,
)
from power_loss import Image

pytestmark = pytest.mark.slow
needs_strace = pytest.mark.needs("strace")

SEED = 4
LOG = f"{STATE}/{FILE}-wal"


@pytest.fixture
def memory() -> Iterator[Path]:
    """Where images lie while they are judged: there is no disk to wait for."""
    with tempfile.TemporaryDirectory(prefix="paceline-", dir="/dev/shm") as place:
        yield Path(place)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    return History.written(tmp_path_factory.mktemp("history"), JOURNAL_SNAPSHOT_ENTRIES - 10)


# --- The power goes -------------------------------------------------------------------------------


@needs_strace
def test_of_a_server_that_is_stopped_nothing_acknowledged_is_lost(
    tmp_path: Path, memory: Path
) -> None:
    life = lived(STOPPED, tmp_path / "life")
    (last,) = sound(life, 100, memory, 99)
    start_again(life, last, tmp_path / "last")


@needs_strace
def test_of_a_server_that_is_killed_and_started_again_nothing_acknowledged_is_lost(
    tmp_path: Path, memory: Path
) -> None:
    first = lived(KILLED, tmp_path / "first")
    (last,) = sound(first, 100, memory, 99)
    again = lived(second(last, memory / "last"), tmp_path / "second")
    assert any(commits(life) < len(life.together) for life in (first, again))
    for number, image in enumerate(sound(again, 100, memory, 5, 60)):
        start_again(again, image, tmp_path / str(number))


def sound(life: Lived, count: int, memory: Path, *kept: int) -> list[Image]:
    """Judges so many images, oldest first, none of which has anything amiss; returns some."""
    images, amiss, number = [], [], -1
    for number, each in enumerate(judge(life, SEED, count, memory)):
        images += [each.image] if number in kept else []
        amiss += [each.amiss] if each.amiss else []
    assert amiss == []
    assert number == count - 1
    return images


def commits(life: Lived) -> int:
    """How many syncs it took to make durable what was wished for at the same time."""
    inodes, events = life.recording.inodes, life.recording.events

    def told(seq: int) -> int:
        marker = b'seq":%d' % seq
        return next(e.issued for e in events if isinstance(e, Acknowledged) and e.marker == marker)

    before, after = told(min(life.together) - 1), told(max(life.together))
    syncs = [e for e in events if isinstance(e, Sync) and before < e.issued < after]
    return sum(e.inode is not None and inodes[e.inode].born_as == LOG for e in syncs)


@needs_strace
def test_through_snapshot_compaction_and_checkpoint_nothing_acknowledged_is_lost(
    tmp_path: Path, memory: Path, history: History
) -> None:
    life = lived(long(history), tmp_path / "life")
    snapshot = newest_snapshot(tmp_path / "life" / "disk" / STATE / FILE)
    assert snapshot is not None
    assert snapshot.seq >= JOURNAL_SNAPSHOT_ENTRIES
    assert life.compacted_at <= len(life.written)
    writes = [each for each in life.recording.events if isinstance(each, Write)]
    names = [life.recording.inodes[each.file].born_as for each in writes]
    heads = [n for n, each in zip(names, writes, strict=True) if n == LOG and each.offset == 0]
    assert len(heads) > 1, "the log was never begun anew: it needs more work"
    (image,) = sound(life, 90, memory, 60)
    start_again(life, image, tmp_path / "again")


@needs_strace
def test_an_import_is_there_as_a_whole_or_can_be_made_again(
    tmp_path: Path, memory: Path, history: History
) -> None:
    life = lived(imported(history), tmp_path / "life")
    for number, image in enumerate(sound(life, 70, memory, 20, 50)):
        start_again(life, image, tmp_path / str(number))


@needs_strace
def test_keys_are_as_the_last_command_or_the_one_under_way_left_them(
    tmp_path: Path, memory: Path
) -> None:
    life = lived(KEYS_ALONE, tmp_path / "life")
    sound(life, 40, memory)


# --- Faults that must be found --------------------------------------------------------------------


@needs_strace
@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_of_the_journal_is_found(fault: str, tmp_path: Path, memory: Path) -> None:
    found = first_amiss(lived(BRIEF, tmp_path / "life", PLANTED[fault]), memory)
    assert re.match(r"entry \d+ was acknowledged and is lost", found)


@needs_strace
def test_keys_that_are_not_synced_are_found(tmp_path: Path, memory: Path) -> None:
    found = first_amiss(lived(KEYS_ALONE, tmp_path / "life", KEYS_NOT_SYNCED), memory)
    assert found.startswith("what was acknowledged is lost with its directory")


def first_amiss(life: Lived, memory: Path) -> str:
    """Within a few images."""
    return next(filter(None, (each.amiss for each in judge(life, SEED, 20, memory))), "")


# --- The process is killed ------------------------------------------------------------------------

ROUNDS = 20
SUMMARIZED = "summarized"
WRITER = """
import asyncio, os, sys
from pathlib import Path
from paceline.clock import RealClock
from paceline.journal.entries import Adjusted
from paceline.journal.journal import Journal
from paceline.journal.sqlite import SqliteStore
from paceline.terms.plan import Adjustment


async def main():
    clock = RealClock()
    journal = Journal(SqliteStore.open(Path(sys.argv[1])), clock)

    async def steer(knob):
        def adjusted(state):
            return [Adjusted(Adjustment(knob, state.adjusted.get(knob, 0), state.seq + 1, ""))]

        while True:
            (entry,) = await journal.write(adjusted, "a rule")
            os.write(1, b"%s %d\\n" % (knob.encode(), entry.seq))

    async def compact():
        while True:
            removed = await journal.compact(clock.wall(), "upkeep")
            os.write(1, b"summarized %d\\n" % removed)

    await asyncio.gather(compact(), *(steer(f"some.knob-{n}") for n in range(20)))


asyncio.run(main())
"""


def test_a_journal_that_is_killed_at_any_instant_has_all_that_was_acknowledged(
    tmp_path: Path,
) -> None:
    """Each setting is the number of the entry that moved it."""
    chance = Chance()
    acknowledged: dict[str, int] = {}
    summarized = 0
    for _ in range(ROUNDS):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(chance.integer(1, 400))]
            writer.kill()
            lines += writer.stdout.readlines()
        assert writer.returncode == -signal.SIGKILL
        for name, number in (line.decode().split() for line in lines if line.endswith(b"\n")):
            if name == SUMMARIZED:
                summarized += int(number)
            else:
                acknowledged[name] = int(number)
        with closing(SqliteStore.open(tmp_path)) as store:
            state = Journal(store, RealClock()).state
            settings = {knob: int(value) for knob, value in state.adjusted.items()}
            older = [each for each in acknowledged if settings.get(each, 0) < acknowledged[each]]
            assert not older, f"seed {chance.seed}, acknowledged {acknowledged}"
        assert inspect(tmp_path / FILE).findings == (), f"seed {chance.seed}"
    snapshot = newest_snapshot(tmp_path / FILE)
    assert snapshot is not None
    assert summarized > snapshot.seq / 2
