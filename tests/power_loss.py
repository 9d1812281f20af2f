"""Power loss, proven from the outside: what a real process did to its files, as strace saw it, and
the directories a machine might find after losing power at any instant of it.

`record` runs the process; `images` rebuilds what may be left. The file system in between promises
what POSIX promises and nothing more, which is less than any real one keeps:

- A completed fsync or fdatasync of a file keeps the data and size operations on that file which had
  returned before it was called. It says nothing of the file's name.
- A completed fsync of a directory keeps the names that were made, moved or removed in it before. A
  rename between two directories needs both, and is never half done.
- Whatever else was called may be lost or kept, each operation for itself, later ones without
  earlier ones. Writes are cut into sectors of 512 bytes, each of which is lost or kept.
- What was written through a shared mapping is never safe: such a file is missing, empty or garbage.

What is in the directory at the start is safe. Sockets and modes are left out of the images: files
are written 0600, directories 0700. A recording that does not explain what is there at the end
raises `Unexplained`.
"""

import enum
import itertools
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from file_history import (
    ROOT,
    Acknowledged,
    Event,
    History,
    Mapped,
    Move,
    Place,
    Recording,
    Resize,
    Sync,
    Unexplained,
    Write,
)
from paceline.clock import Chance
from traced import trace

SECTOR_BYTES = 512

Tree = Mapping[str, bytes | None]
"""Relative paths with contents; None for a directory."""


def record(
    command: Sequence[str],
    directory: Path,
    environ: Mapping[str, str],
    drive: Callable[["subprocess.Popen[bytes]"], None],
    *,
    acknowledged: re.Pattern[bytes],
) -> Recording:
    """Run the command under strace while `drive` uses it, and tell what it did below `directory`,
    which exists. Whatever matches `acknowledged` in one write or send to a pipe or socket is an
    acknowledgement, from the moment of the call; the first group is the marker, or all of it.
    """
    history = History(directory.resolve(), acknowledged)
    recording = history.of(trace(command, environ, drive))
    _check(recording, read_tree(directory))
    return recording


def read_tree(directory: Path) -> Tree:
    tree: dict[str, bytes | None] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            tree[name] = None
        elif stat.S_ISREG(mode):
            tree[name] = path.read_bytes()
    return tree


def _check(recording: Recording, found: Tree) -> None:
    """Everything that happened, replayed, must give what is there: then nothing was missed. A call
    that the end of its process cut off may have happened or not."""
    disk = _Disk(recording)
    for event in recording.events:
        disk.issue(event)
    candidates = [disk.tree(lambda op: True), disk.tree(lambda op: op.done is not None)]
    if not any(_same(each, found, disk.mapped_names()) for each in candidates):
        names = sorted(candidates[0].keys() | found.keys())
        differing = [n for n in names if candidates[0].get(n, b"?") != found.get(n, b"?")]
        raise Unexplained(f"the recording does not lead to what is on disk: {differing}")


def _same(left: Tree, right: Tree, but: set[str]) -> bool:
    return {n: c for n, c in left.items() if n not in but} == {
        n: c for n, c in right.items() if n not in but
    }


# --- What may be left -----------------------------------------------------------------------------


class Image(msgspec.Struct, frozen=True):
    tree: Tree
    acknowledged: tuple[bytes, ...]
    """The markers that somebody may have seen before the power went, oldest first."""
    description: str

    def write_to(self, directory: Path) -> None:
        """Makes the directory, which must not exist."""
        directory.mkdir(mode=0o700)
        for name, content in self.tree.items():
            if content is None:
                (directory / name).mkdir(mode=0o700)
            else:
                fd = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with open(fd, "wb") as file:
                    file.write(content)


class Fate(enum.Enum):
    """What becomes of the operations that no sync had made safe."""

    NOTHING = "nothing un-synced is kept"
    EVERYTHING = "everything is kept"
    ALL_BUT_LAST = "all but the last operation is kept"
    ONLY_NAMES = "un-synced names are kept, un-synced data is lost"
    ONLY_DATA = "un-synced data is kept, un-synced names are lost"
    SOME = "some operations are kept"
    TORN = "some sectors and some names are kept"


FATES = [*Fate, Fate.NOTHING, Fate.SOME, Fate.TORN, Fate.TORN]
SHARES_KEPT = [0.1, 0.5, 0.9]


def images(recording: Recording, seed: int, count: int) -> Iterator[Image]:
    """What may be left after a power loss, at `count` moments spread over the recording: just after
    acknowledgements, syncs and changes of names, and at any moment. Ordered by time; equal for
    equal recordings and seeds."""
    chance = Chance(seed)
    timeline = _timeline(recording)
    losses = sorted(_losses(timeline, chance, count))
    disk = _Disk(recording)
    position = 0
    for last, number, fate in losses:
        for _, event, done in timeline[position : last + 1]:
            if done:
                disk.finish(event)
            else:
                disk.issue(event)
        position = last + 1
        _, event, done = timeline[last]
        tree = disk.lose_power(fate, chance.fork(f"image {number}"))
        yield Image(
            tree,
            tuple(disk.acknowledged),
            f"image {number} of seed {seed}: power lost at step {last + 1} of {len(timeline)}, "
            f"{'after' if done else 'during'} {recording.describe(event)}; {fate.value}, "
            f"of {disk.unsafe_count()} un-synced",
        )


Moment = tuple[int, Event, bool]
"""Step, event, and whether the event was done then (else it was issued)."""


def _timeline(recording: Recording) -> list[Moment]:
    moments: list[Moment] = [(event.issued, event, False) for event in recording.events]
    moments += [(e.done, e, True) for e in recording.events if e.done is not None]
    return sorted(moments, key=lambda moment: moment[0])


def _losses(
    timeline: Sequence[Moment], chance: Chance, count: int
) -> Iterator[tuple[int, int, Fate]]:
    """Index of the last moment before the loss, a number, and what becomes of the rest."""

    def of(kind: type[Event], done: bool) -> list[int]:
        return [i for i, (_, e, d) in enumerate(timeline) if isinstance(e, kind) and d is done]

    acknowledgements = _dealt(of(Acknowledged, False), chance.fork("acknowledgements"))
    syncs = _dealt(of(Sync, True), chance.fork("syncs"))
    names = _dealt(of(Move, True), chance.fork("names"))
    anywhere = _dealt(range(len(timeline)), chance.fork("anywhere"))
    kinds = itertools.cycle([acknowledgements, syncs, acknowledgements, names, anywhere])
    fates = chance.fork("fates")
    for number in range(count):
        kind = next(kinds)
        moment = next(kind, None)
        if moment is None:
            moment = next(anywhere)
        surely = kind is acknowledgements and fates.uniform() < 0.5
        yield moment, number, Fate.NOTHING if surely else fates.choice(FATES)


def _dealt(items: Sequence[int], chance: Chance) -> Iterator[int]:
    """All of them in a drawn order, again and again, so that none is left out for long."""
    while items:
        deck = list(items)
        chance.shuffle(deck)
        yield from deck


Operation = Write | Resize | Move
Kept = Callable[[Operation], bool]


class _Pending:
    """An operation that is on the disk surely only when `needs` is empty."""

    def __init__(self, operation: Operation, needs: set[int]) -> None:
        self.operation = operation
        self.needs = needs

    def synced(self, sync: Sync) -> None:
        if self.operation.done is not None and self.operation.done < sync.issued:
            if sync.inode is None:
                self.needs.clear()
            else:
                self.needs.discard(sync.inode)


class _Names:
    """Which entry is where: none in two places, no place with two."""

    def __init__(self, places: Mapping[int, Place]) -> None:
        self.places = dict(places)
        self._entries = {place: entry for entry, place in places.items()}

    def copy(self) -> "_Names":
        return _Names(self.places)

    def apply(self, move: Move) -> None:
        before = self.places.pop(move.entry, None)
        if before is not None:
            del self._entries[before]
        if move.to is not None:
            displaced = self._entries.get(move.to)
            if displaced is not None:
                del self.places[displaced]
            self.places[move.entry] = move.to
            self._entries[move.to] = move.entry


class _Disk:
    """What is safe, and what is not, as the recording goes on.

    Of each file and of the names, the operations that are safe and have nothing unsafe before them
    are settled for good; later safe ones wait in line, so that order is kept.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._names = _Names(recording.places_at_start)
        self._moves: list[_Pending] = []
        start = recording.contents_at_start
        self._contents = {inode: bytearray(content) for inode, content in start.items()}
        self._pending: dict[int, list[_Pending]] = {}
        self._mapped: set[int] = set()
        self.acknowledged: list[bytes] = []

    def issue(self, event: Event) -> None:
        match event:
            case Write() | Resize():
                self._pending.setdefault(event.file, []).append(_Pending(event, {event.file}))
            case Move():
                self._moves.append(_Pending(event, set(event.directories)))
            case Mapped():
                self._mapped.add(event.file)
            case Acknowledged():
                self.acknowledged.append(event.marker)
            case _:
                return

    def finish(self, event: Event) -> None:
        if not isinstance(event, Sync):
            return
        files = list(self._pending) if event.inode is None else [event.inode]
        for file in files:
            for each in self._pending.get(file, []):
                each.synced(event)
            self._settle(file)
        for each in self._moves:
            each.synced(event)
        while self._moves and not self._moves[0].needs:
            settled = self._moves.pop(0).operation
            assert isinstance(settled, Move)
            self._names.apply(settled)

    def _settle(self, file: int) -> None:
        waiting = self._pending.get(file, [])
        safe = list(itertools.takewhile(lambda each: not each.needs, waiting))
        content = self._contents.setdefault(file, bytearray())
        for each in safe:
            _apply(content, each.operation)
        del waiting[: len(safe)]

    def unsafe_count(self) -> int:
        return sum(1 for _ in self._unsafe())

    def _unsafe(self) -> Iterator[Operation]:
        for each in itertools.chain(self._moves, *self._pending.values()):
            if each.needs:
                yield each.operation

    def lose_power(self, fate: Fate, chance: Chance) -> Tree:
        share = chance.choice(SHARES_KEPT)
        last = max(self._unsafe(), key=lambda op: op.issued, default=None)
        kept: Mapping[Fate, Kept] = {
            Fate.NOTHING: lambda op: False,
            Fate.EVERYTHING: lambda op: True,
            Fate.ALL_BUT_LAST: lambda op: op is not last,
            Fate.ONLY_NAMES: lambda op: isinstance(op, Move),
            Fate.ONLY_DATA: lambda op: not isinstance(op, Move),
            Fate.SOME: lambda op: chance.uniform() < share,
            Fate.TORN: lambda op: chance.uniform() < share,
        }

        def mapped(content: bytes) -> bytes | None:
            size = len(content)
            garbage = chance.integer(0, 256**size - 1).to_bytes(size)
            return chance.choice([None, b"", bytes(size), garbage])

        return self.tree(kept[fate], (chance, share) if fate is Fate.TORN else None, mapped)

    def tree(
        self,
        kept: Kept,
        torn: tuple[Chance, float] | None = None,
        mapped: Callable[[bytes], bytes | None] = bytes,
    ) -> Tree:
        """`mapped` says what is found of a file that was mapped, None where it is missing."""
        tree: dict[str, bytes | None] = {}
        for name, inode in self._reachable(kept):
            if self._recording.inodes[inode].kind == "directory":
                tree[name] = None
                continue
            content = bytes(self._content(inode, kept, torn))
            left = mapped(content) if inode in self._mapped else content
            if left is not None:
                tree[name] = left
        return tree

    def mapped_names(self) -> set[str]:
        return {name for name, inode in self._reachable(lambda op: True) if inode in self._mapped}

    def _reachable(self, kept: Kept) -> list[tuple[str, int]]:
        """Every name with its inode, directories before what is in them."""
        names = self._names.copy()
        for each in self._moves:
            assert isinstance(each.operation, Move)
            if not each.needs or kept(each.operation):
                names.apply(each.operation)
        inside: dict[int, list[tuple[str, int]]] = {}
        for entry, place in sorted(names.places.items()):
            inode = self._recording.entries[entry]
            inside.setdefault(place.directory, []).append((place.name, inode))
        found: list[tuple[str, int]] = []
        left = [("", ROOT)]
        while left:
            above, directory = left.pop()
            for name, inode in inside.pop(directory, []):
                kind = self._recording.inodes[inode].kind
                if kind in ("file", "directory"):
                    found.append((above + name, inode))
                if kind == "directory":
                    left.append((f"{above}{name}/", inode))
        return found

    def _content(self, file: int, kept: Kept, torn: tuple[Chance, float] | None) -> bytearray:
        content = self._contents.get(file, bytearray())[:]
        for each in self._pending.get(file, []):
            if not each.needs:
                _apply(content, each.operation)
            elif torn is not None and isinstance(each.operation, Write):
                _apply_torn(content, each.operation, *torn)
            elif kept(each.operation):
                _apply(content, each.operation)
        return content


def _apply(content: bytearray, operation: Operation) -> None:
    match operation:
        case Write(offset=offset, data=data):
            _grow(content, offset)
            content[offset : offset + len(data)] = data
        case Resize(size_bytes=size, only_grow=only_grow):
            _grow(content, size)
            if not only_grow:
                del content[size:]
        case _:
            raise AssertionError(f"{operation} is not of a file's content")


def _apply_torn(content: bytearray, write: Write, chance: Chance, share_kept: float) -> None:
    """Each sector for itself; the size may have reached the disk without the data."""
    end = write.offset + len(write.data)
    start = write.offset
    while start < end:
        stop = min(end, start - start % SECTOR_BYTES + SECTOR_BYTES)
        if chance.uniform() < share_kept:
            _grow(content, start)
            content[start:stop] = write.data[start - write.offset : stop - write.offset]
        start = stop
    if chance.uniform() < share_kept:
        _grow(content, end)


def _grow(content: bytearray, size_bytes: int) -> None:
    if len(content) < size_bytes:
        content.extend(bytes(size_bytes - len(content)))
