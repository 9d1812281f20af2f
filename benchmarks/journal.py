"""The journal: entries per second, the wait for one, start with a million, the size of a year.

Beside each rate and wait, in turns in the same run, stands what the machine gives without us: plain
sqlite3 with the same tables, a bare fdatasync of the same bytes. The second bare series is the A/A:
how far two equal things measure apart here. Nothing else may run on the machine meanwhile.
"""

import argparse
import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import uvloop

from benchmarks import record
from benchmarks._busy_host import DAY_S, MODELS, SCORED_AFTER_S, STEERED, Host
from benchmarks._server import first_answer, free_port, stop
from paceline.clock import WALL_AT_START_S, Chance, RealClock, SimulatedClock
from paceline.journal.entries import Adjusted, Body, Entry, to_record
from paceline.journal.fold import State, fold
from paceline.journal.journal import Journal, load
from paceline.journal.sqlite import COLUMNS, FILE, SCHEMA, SYNCHRONOUS, SqliteStore
from paceline.journal.store import Compaction, Record, Snapshot
from paceline.serve.knobs import KNOBS as MODEL_KNOBS
from paceline.terms.limits import (
    ADJUST_EVERY_S,
    ADJUSTMENTS_KEPT_S,
    JOURNAL_BATCH,
    JOURNAL_SNAPSHOT_ENTRIES,
    KNOBS,
)
from paceline.terms.plan import Adjustment, Prediction

RATE = 20_000
WAIT_MS = 0.5
START_S = 0.3
YEAR_MB = 200.0

MIDNIGHT = WALL_AT_START_S - WALL_AT_START_S % DAY_S
MONTH_DAYS = 30
WAL_WRAPS_BYTES = 4 * 1024 * 1024
"""Where SQLite begins its log anew, and the bare file too, so that neither grows."""
OWN_KNOBS = tuple(knob for knob in STEERED if knob.startswith("digits."))
"""Those that the started server has."""


class Size(NamedTuple):
    """How much is measured; `QUICK` shows that everything runs, and means nothing else."""

    rounds: int = 6
    entries: int = 20_000
    writers: int = 400
    wait_rounds: int = 10
    waits: int = 1000
    """of each kind in a round"""
    block: int = 25
    history: int = 1_000_000
    loads: int = 15
    starts: int = 8
    days: int = 365
    busy_h: float = 10.0
    adjust_every_s: float = 120.0
    changes: int = 20
    limit_days: int = 30
    limit_changes: int = JOURNAL_SNAPSHOT_ENTRIES - 1


QUICK = Size(
    rounds=2,
    entries=4000,
    waits=100,
    wait_rounds=2,
    history=20_000,
    loads=3,
    starts=1,
    days=34,
    busy_h=1.0,
    limit_days=1,
    limit_changes=200,
)

Series = dict[str, list[float]]
Found = tuple[list[record.Figure], list[record.Verdict]]


def copy(source: Path, target: Path) -> None:
    """And onto the disk: what the kernel writes later would slow down whoever is measured then."""
    shutil.copytree(source, target)
    os.sync()


def percentile(samples: Sequence[float], share: float) -> float:
    return sorted(samples)[int(share * len(samples))]


def adjustment(state: State, number: int) -> Adjusted:
    knob = STEERED[number % len(STEERED)]
    before = state.adjusted.get(knob, state.plan.lines[knob].start)
    reason = f"p95_ms was {number % 97}.3, the goal says 30."
    expects = (Prediction("p95_ms", high=30.0),)
    return Adjusted(Adjustment(knob, before, number % 1000, reason, expects))


class Counting(SqliteStore):
    """Counts transactions."""

    transactions = 0

    def append(
        self,
        records: Sequence[Record],
        snapshot: Snapshot | None = None,
        compaction: Compaction | None = None,
    ) -> None:
        self.transactions += 1
        super().append(records, snapshot, compaction)


def begun(directory: Path) -> Counting:
    """With a Plan in it."""
    directory.mkdir()
    store = Counting.open(directory)
    assert isinstance(store, Counting)
    Host(store, Chance(1)).begin(MIDNIGHT)
    return store


# --- Entries per second ---------------------------------------------------------------------------


def throughput(folder: Path, size: Size) -> Found:
    series: Series = {}
    for number in range(size.rounds):
        place = folder / f"rate-{number}"
        place.mkdir()
        for name, found in {
            **uvloop.run(many_writers(begun(place / "writers"), size)),
            **uvloop.run(full_decisions(begun(place / "decisions"), size)),
            **parts(place, size.entries),
        }.items():
            series.setdefault(name, []).append(found)
        shutil.rmtree(place)
    figures = [
        record.figure(name, unit, samples)
        for (name, unit), samples in ((name.rsplit(", ", 1), each) for name, each in series.items())
    ]
    writers, group, decisions, *_ = figures
    holds = min(writers.low, decisions.low) >= RATE
    return figures, [
        record.Verdict(
            f"at least {RATE} entries/s in transactions of at most {JOURNAL_BATCH}",
            f"{writers.median:.0f}/s by {size.writers} writers, {group.median:.0f} in a "
            f"transaction, at least {writers.low:.0f}; {decisions.median:.0f}/s by decisions of "
            f"{JOURNAL_BATCH}, at least {decisions.low:.0f}",
            holds,
        )
    ]


async def many_writers(store: Counting, size: Size) -> Mapping[str, float]:
    journal = Journal(store, RealClock())
    written = 0

    def decide(state: State) -> Sequence[Body]:
        return [adjustment(state, written)]

    async def writer() -> None:
        nonlocal written
        while written < size.entries:
            written += 1
            await journal.write(decide, "steering")

    before = store.transactions
    began_s = time.perf_counter()
    await asyncio.gather(*(writer() for _ in range(size.writers)))
    took_s = time.perf_counter() - began_s
    await journal.close()
    return {
        "many writers of one entry each, entries/s": written / took_s,
        "entries in one of their transactions, entries": written / (store.transactions - before),
    }


async def full_decisions(store: SqliteStore, size: Size) -> Mapping[str, float]:
    """A second one is decided while the first is on its way to the disk."""
    journal = Journal(store, RealClock())
    times = size.entries // JOURNAL_BATCH // 2

    def decide(state: State) -> Sequence[Body]:
        return [adjustment(state, number) for number in range(JOURNAL_BATCH)]

    async def writer() -> None:
        for _ in range(times):
            await journal.write(decide, "steering")

    began_s = time.perf_counter()
    await asyncio.gather(writer(), writer())
    took_s = time.perf_counter() - began_s
    await journal.close()
    return {f"decisions of {JOURNAL_BATCH} entries, entries/s": 2 * times * JOURNAL_BATCH / took_s}


def parts(folder: Path, count: int) -> Mapping[str, float]:
    """What an entry costs where, each part by itself; sqlite3 without any of our code."""
    store = begun(folder / "parts")
    state, _ = load(store)
    store.close()
    entries: list[Entry] = []
    moments = [time.perf_counter()]
    for number in range(count):
        entry = Entry(state.seq + 1, MIDNIGHT, "steering", adjustment(state, number))
        state = fold(state, entry)
        entries.append(entry)
    moments.append(time.perf_counter())
    records = [to_record(entry) for entry in entries]
    moments.append(time.perf_counter())
    folded_s, encoded_s = (after - before for before, after in pairwise(moments))
    inserted_s, committed_s = bare_sqlite(folder / "bare.db", records)
    return {
        "plain sqlite3, the same tables and sync, entries/s": count / (inserted_s + committed_s),
        "part: decide and fold, µs/entry": 1e6 * folded_s / count,
        "part: encode, µs/entry": 1e6 * encoded_s / count,
        "part: insert (plain sqlite3), µs/entry": 1e6 * inserted_s / count,
        "part: commit with its sync (plain sqlite3), µs/entry": 1e6 * committed_s / count,
    }


def bare_sqlite(path: Path, records: Sequence[Record]) -> tuple[float, float]:
    """Seconds in inserts, and in commits."""
    rows = [
        (each.seq, each.at, each.who, each.kind, each.version, each.body, zlib.crc32(b"sum"))
        for each in records
    ]
    names = [(name, each.seq) for each in records for name in each.about]
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA auto_vacuum = INCREMENTAL")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
    database.executescript(SCHEMA)
    inserted_s = committed_s = 0.0
    for first in range(0, len(rows), JOURNAL_BATCH):
        began_s = time.perf_counter()
        database.execute("BEGIN IMMEDIATE")
        database.executemany(
            f"INSERT INTO entries ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
            rows[first : first + JOURNAL_BATCH],
        )
        database.executemany(
            "INSERT INTO about VALUES (?, ?)", names[first : first + JOURNAL_BATCH]
        )
        inserted = time.perf_counter()
        database.execute("COMMIT")
        inserted_s += inserted - began_s
        committed_s += time.perf_counter() - inserted
    database.close()
    return inserted_s, committed_s


# --- The wait for one entry -----------------------------------------------------------------------


class Bare:
    """Writes and syncs so many bytes, round and round in a file that has its length already."""

    def __init__(self, path: Path, count: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT)
        self._bytes = os.urandom(count)
        self._at = 0
        os.pwrite(self._fd, bytes(WAL_WRAPS_BYTES + count), 0)
        os.fsync(self._fd)

    def __call__(self) -> None:
        os.pwrite(self._fd, self._bytes, self._at)
        os.fdatasync(self._fd)
        self._at += len(self._bytes)
        if self._at >= WAL_WRAPS_BYTES:
            self._at = 0

    def close(self) -> None:
        os.close(self._fd)


def written_bytes() -> int:
    """By this process so far, as it asked the kernel."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


BARE, AGAIN, ALONE = "bare fdatasync", "bare fdatasync again (A/A)", "bare fdatasync, entry alone"
STORE, WRITE = "one append, the store by itself", "one append, acknowledged"


async def waits(folder: Path, history: Path, size: Size) -> Found:
    """In a journal that has grown already, beside a new one for the store by itself."""
    copy(history, folder / "grown")
    journal = Journal(SqliteStore.open(folder / "grown"), RealClock())
    store = begun(folder / "new")
    state, _ = load(store)
    seq = state.seq
    number = 0

    def append() -> None:
        nonlocal seq
        seq += 1
        entry = Entry(seq, MIDNIGHT + seq, "steering", adjustment(state, seq))
        store.append([to_record(entry)])

    async def write() -> None:
        nonlocal number
        number += 1
        await journal.write(lambda state: [adjustment(state, number)], "steering")

    for _ in range(size.waits):  # until both logs have their length
        append()
        await write()
    before = written_bytes()
    for _ in range(size.waits):
        append()
    pages = (written_bytes() - before) // size.waits
    alone = len(to_record(Entry(seq, MIDNIGHT, "steering", adjustment(state, seq))).body)
    plain: dict[str, Callable[[], None]] = {
        BARE: Bare(folder / "bare", pages),
        AGAIN: Bare(folder / "again", pages),
        ALONE: Bare(folder / "alone", alone),
        STORE: append,
    }
    rounds: list[Series] = []
    for _ in range(size.wait_rounds):
        series: Series = {name: [] for name in (*plain, WRITE)}
        rounds.append(series)
        for _ in range(size.waits // size.block):
            for name, act in plain.items():
                for _ in range(size.block):
                    began_s = time.perf_counter()
                    act()
                    series[name].append(1e3 * (time.perf_counter() - began_s))
            for _ in range(size.block):
                began_s = time.perf_counter()
                await write()
                series[WRITE].append(1e3 * (time.perf_counter() - began_s))
    await journal.close()
    store.close()
    for act in plain.values():
        if isinstance(act, Bare):
            act.close()
    return of_waits(rounds, pages)


def of_waits(rounds: Sequence[Series], pages: int) -> Found:
    """Figures by round, which shows the spread; the verdict on all samples together."""
    whole = {name: [ms for series in rounds for ms in series[name]] for name in rounds[0]}
    figures = [record.figure("bytes that one append writes, checkpoints too", "bytes", [pages])]
    for name in whole:
        for share, said in ((0.5, "p50"), (0.99, "p99")):
            by_round = [percentile(series[name], share) for series in rounds]
            figures.append(record.figure(f"{name}, {said}", "ms", by_round))
        figures.append(record.figure(f"{name}, p99.9", "ms", [percentile(whole[name], 0.999)]))
    p99 = {name: percentile(samples, 0.99) for name, samples in whole.items()}
    more, noise = p99[WRITE] - p99[BARE], abs(p99[AGAIN] - p99[BARE])
    count = len(whole[WRITE])
    figures += [
        record.figure(f"p99 of {count}, append less bare", "ms", [more]),
        record.figure(
            f"p99 of {count}, append less bare of the entry alone", "ms", [p99[WRITE] - p99[ALONE]]
        ),
        record.figure(f"p99 of {count}, A/A", "ms", [noise]),
        record.figure(
            "p99 of a round, append less bare",
            "ms",
            [percentile(each[WRITE], 0.99) - percentile(each[BARE], 0.99) for each in rounds],
        ),
    ]
    certain = noise < abs(WAIT_MS - more)
    return figures, [
        record.Verdict(
            f"p99 of one acknowledged append: that of a bare fdatasync + {WAIT_MS} ms at most",
            f"{p99[WRITE]:.3f} ms against {p99[BARE]:.3f} ms: {more:.3f} ms more; "
            f"A/A {noise:.3f} ms",
            more <= WAIT_MS if certain else None,
        )
    ]


# --- Start ----------------------------------------------------------------------------------------


def remembered(folder: Path, size: Size) -> Path:
    """A journal of a million entries, or whatever the size says."""
    directory = folder / "history"
    directory.mkdir()
    store = SqliteStore.open(directory)
    host = Host(store, Chance(2))
    host.begin(MIDNIGHT)
    day = 0
    while host.state.seq < size.history:
        host.day(MIDNIGHT + day * DAY_S, size.busy_h * 3600, size.adjust_every_s, size.changes)
        day += 1
    store.close()
    return directory


def top_up(directory: Path) -> None:
    """Single transactions, until the newest snapshot is as old as it can be."""
    store = SqliteStore.open(directory)
    host = Host(store, Chance(3))
    oldest = JOURNAL_SNAPSHOT_ENTRIES - 1
    host.adjust_singly(MIDNIGHT + 400 * DAY_S, oldest - host.since_snapshot, OWN_KNOBS)
    store.close()


def killed(directory: Path) -> None:
    """As `top_up`, by a process that ends in the middle and leaves its log behind."""
    pid = os.fork()
    if pid == 0:
        try:
            store = SqliteStore.open(directory)
            host = Host(store, Chance(4))
            host.adjust_singly(MIDNIGHT + 500 * DAY_S, JOURNAL_SNAPSHOT_ENTRIES, OWN_KNOBS)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    if not wal_bytes(directory):
        raise SystemExit("the killed process left no log behind")


def wal_bytes(directory: Path) -> int:
    wal = directory / f"{FILE}-wal"
    return wal.stat().st_size if wal.exists() else 0


def start_s(directory: Path) -> float:
    """A whole server, to its first right answer."""
    port = free_port()
    command = [sys.executable, "-m", "paceline", "up", "--port", str(port), "--fronts", "1"]
    began_s = time.perf_counter()
    with (directory.parent / "log").open("ab") as log:
        server = subprocess.Popen(
            [*command, "--state", str(directory)], cwd=directory.parent, stdout=log, stderr=log
        )
    try:
        answered_s = first_answer(server, port)[1]
        stop(server)
    finally:
        server.kill()
        server.wait()
    return answered_s - began_s


def load_s(directory: Path) -> float:
    began_s = time.perf_counter()
    store = SqliteStore.open(directory)
    Journal(store, RealClock())
    took_s = time.perf_counter() - began_s
    store.close()
    return took_s


def starts(folder: Path, history: Path, size: Size) -> Found:
    def directory(name: str) -> Path:
        (folder / name).mkdir()
        start_s(folder / name)  # the first one writes the Plan
        return folder / name

    many, left = f"{size.history} entries", f"{size.history} entries after a kill"
    copy(history, folder / "many")
    start_s(folder / "many")
    top_up(folder / "many")
    copy(folder / "many", folder / "left")
    places = {
        "none": directory("none"),
        "none again (A/A)": directory("again"),
        many: folder / "many",
        left: folder / "left",
    }
    figures = []
    wals = []
    for what, measure, times, unit, factor in (
        ("load the journal", load_s, size.loads, "ms", 1e3),
        ("start to a right answer", start_s, size.starts, "s", 1.0),
    ):
        series: Series = {name: [] for name in places}
        order = list(places)
        for _ in range(times):
            for name in order:
                if name == left:
                    killed(places[name])
                    wals.append(wal_bytes(places[name]) / 1e6)
                series[name].append(factor * measure(places[name]))
            order = [*order[1:], order[0]]  # whoever came first comes last
        figures += [record.figure(f"{what}, {name}", unit, each) for name, each in series.items()]
        figures += [
            record.figure(
                f"{what}, {name}, more than none",
                unit,
                [one - none for one, none in zip(series[name], series["none"], strict=True)],
            )
            for name in ("none again (A/A)", many, left)
        ]
    again, more, after_kill = figures[-3:]
    figures.append(record.figure("log that the killed left behind", "MB", wals))
    worst = max(more.high, after_kill.high)
    certain = max(-again.low, again.high) < START_S
    return figures, [
        record.Verdict(
            f"start with a million entries: at most {START_S} s more than with none",
            f"{more.median:.3f} s, at most {more.high:.3f}; after a kill "
            f"{after_kill.median:.3f} s, at most {after_kill.high:.3f}; "
            f"A/A {again.low:.3f} to {again.high:.3f}",
            worst <= START_S or (False if certain else None),
        )
    ]


# --- Size -----------------------------------------------------------------------------------------


def file_mb(directory: Path) -> float:
    return sum(path.stat().st_size for path in directory.iterdir()) / 1e6


async def compacted(directory: Path, store: SqliteStore, now: float) -> float:
    """The journal's own compaction, as the product does it; returns its seconds."""
    clock = SimulatedClock()
    clock.advance(now - clock.wall())
    journal = Journal(store, clock)
    began_s = time.perf_counter()
    await journal.compact(clock.wall() - ADJUSTMENTS_KEPT_S, "paceline 0.1.0")
    took_s = time.perf_counter() - began_s
    await journal.close()
    return took_s


async def year(folder: Path, size: Size) -> Found:
    directory = folder / "year"
    directory.mkdir()
    figures = []
    took: list[float] = []
    sizes: list[float] = []
    appended = 0
    chance = Chance(5)
    for day in range(size.days):
        midnight = MIDNIGHT + day * DAY_S
        store = SqliteStore.open(directory)
        host = Host(store, chance)
        if not day:
            host.begin(midnight)
        host.day(midnight, size.busy_h * 3600, size.adjust_every_s, size.changes)
        appended = host.state.seq
        took.append(await compacted(directory, store, midnight + DAY_S))
        sizes.append(file_mb(directory))
        if day % MONTH_DAYS == MONTH_DAYS - 1:
            figures.append(
                record.figure(f"file after {day + 1} days, compacted", "MB", [sizes[-1]])
            )
    store = SqliteStore.open(directory)
    kept = sum(1 for _ in store.read())
    store.close()
    figures += [
        record.figure(f"file after {size.days} days, compacted", "MB", [sizes[-1]]),
        record.figure("largest file after the compaction of any day", "MB", [max(sizes)]),
        record.figure("entries written meanwhile", "entries", [appended]),
        record.figure("entries kept at the end", "entries", [kept]),
        record.figure("compaction of a day", "s", took[MONTH_DAYS + 1 :]),
    ]
    return figures, [
        record.Verdict(
            f"a simulated year of a busy host: at most {YEAR_MB:.0f} MB after compaction",
            f"{sizes[-1]:.0f} MB at the end, at most {max(sizes):.0f} MB after any day",
            max(sizes) <= YEAR_MB,
        )
    ]


def at_the_limit(folder: Path, size: Size) -> Found:
    """As many adjustments, and as much to fold, as the limits allow."""
    one_knob = folder / "adjustments"
    store = begun(one_knob)
    times = int(size.limit_days * DAY_S / ADJUST_EVERY_S)
    Host(store, Chance(6)).one_knob(MIDNIGHT, times, ADJUST_EVERY_S)
    store.close()

    all_knobs = folder / "knobs"
    all_knobs.mkdir()
    writer = SqliteStore.open(all_knobs)
    models = [f"model{number}" for number in range(KNOBS // len(MODEL_KNOBS))]
    host = Host(writer, Chance(7), models)
    host.begin(MIDNIGHT)
    host.change_only(MIDNIGHT, size.limit_changes)
    writer.close()
    return [
        record.figure(
            f"file with {size.limit_days} days of one knob, adjusted every {ADJUST_EVERY_S:g} s",
            "MB",
            [file_mb(one_knob)],
        ),
        record.figure(
            f"load the journal, {KNOBS} knobs, {size.limit_changes} changes of the Plan to fold",
            "ms",
            [1e3 * load_s(all_knobs) for _ in range(3)],
        ),
    ], []


# --- All of it ------------------------------------------------------------------------------------


def file_system(path: Path) -> str:
    """The kind that the path lies on, by the longest mount point."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [each for each in mounts if path.resolve().is_relative_to(each[1])]
    return max(inside, key=lambda each: len(each[1]))[2]


def main() -> None:
    options = argparse.ArgumentParser(
        prog="./bench journal",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--quick", action="store_true", help="little of all; keeps no result")
    options.add_argument("--directory", default=tempfile.gettempdir(), help="on which disk")
    asked = options.parse_args()
    size = QUICK if asked.quick else Size()
    kind = file_system(Path(asked.directory))
    if kind == "tmpfs":
        raise SystemExit(f"{asked.directory} lies in memory: name one on a disk with --directory")

    with tempfile.TemporaryDirectory(prefix="paceline-journal-", dir=asked.directory) as name:
        folder = Path(name)
        history = remembered(folder, size)
        chapters: dict[str, Callable[[Path], Found]] = {
            "rate": lambda place: throughput(place, size),
            "wait": lambda place: uvloop.run(waits(place, history, size)),
            "start": lambda place: starts(place, history, size),
            "limit": lambda place: at_the_limit(place, size),
            "year": lambda place: uvloop.run(year(place, size)),
        }
        found = []
        for chapter, measure in chapters.items():
            place = folder / chapter
            place.mkdir()
            found.append(measure(place))
            shutil.rmtree(place)
            os.sync()
        record.write(
            "journal",
            workload={
                "file system": kind,
                "entries per round": size.entries,
                "waits per round": f"{size.waits} of each kind, in turns of {size.block}",
                "history": f"{size.history} entries, page cache warm, "
                f"{JOURNAL_SNAPSHOT_ENTRIES - 1} of them after the newest snapshot",
                "year": f"{len(MODELS)} models with {len(STEERED)} steered knobs in all, each "
                f"adjusted every {size.adjust_every_s:g} s on average in {size.busy_h:g} busy "
                f"hours of each of {size.days} days; {size.changes} changes of the Plan a day; "
                f"each with a prediction, scored {SCORED_AFTER_S:g} s later; compacted daily",
            },
            figures=[figure for figures, _ in found for figure in figures],
            verdicts=[verdict for _, verdicts in found for verdict in verdicts],
            packages=["msgspec", "uvloop"],
            folder=folder if asked.quick else record.RESULTS,
        )


if __name__ == "__main__":
    main()
