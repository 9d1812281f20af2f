"""What a process did to the files below a directory, by system calls: writes, names, syncs.

Follows descriptors, names and processes, so that every event is about an inode, whatever it was
called at the time. It judges nothing; `power_loss.py` does. What cannot be modelled (a symlink,
O_DSYNC, sendfile into a file) raises `Unexplained`.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from traced import ENDED, Call


class Unexplained(Exception):
    """The recording cannot be trusted; the message says which call or file."""


# --- The events ----------------------------------------------------------------------------------


class Place(NamedTuple):
    directory: int
    name: str


ROOT = 0
"""The inode of the recorded directory itself."""


class Event(msgspec.Struct, frozen=True):
    """`issued` when the kernel was asked, `done` when it had answered, None when it never did."""

    issued: int
    done: int | None


class Write(Event, frozen=True):
    file: int
    offset: int
    data: bytes


class Resize(Event, frozen=True):
    file: int
    size_bytes: int
    only_grow: bool


class Move(Event, frozen=True):
    """An entry comes (create, link), moves (rename, over whatever was there) or goes (unlink)."""

    entry: int
    to: Place | None
    directories: frozenset[int]
    """Those to be synced for it to be safe."""


class Sync(Event, frozen=True):
    inode: int | None
    """None for all."""


class Mapped(Event, frozen=True):
    file: int


class Acknowledged(Event, frozen=True):
    marker: bytes


class Inode(msgspec.Struct, frozen=True):
    kind: str
    """file, directory, or another that images leave out"""
    born_as: str


class Recording(msgspec.Struct, frozen=True):
    inodes: Mapping[int, Inode]
    entries: Mapping[int, int]
    """The inode behind each entry. An entry keeps its number when it moves."""
    places_at_start: Mapping[int, Place]
    contents_at_start: Mapping[int, bytes]
    events: Sequence[Event]

    def describe(self, event: Event) -> str:
        match event:
            case Write(file=file, offset=offset, data=data):
                what = f"write of {len(data)} bytes at {offset} of {self.inodes[file].born_as}"
            case Resize(file=file, size_bytes=size):
                what = f"resize of {self.inodes[file].born_as} to {size}"
            case Move(entry=entry, to=to):
                name = self.inodes[self.entries[entry]].born_as
                what = f"removal of {name}" if to is None else f"naming of {name} {to.name}"
            case Sync(inode=inode):
                what = "sync of " + ("all" if inode is None else self.inodes[inode].born_as)
            case Acknowledged(marker=marker):
                what = f"acknowledgement {marker!r}"
            case _:
                what = type(event).__name__
        return what


# --- From system calls to events ------------------------------------------------------------------


def _steps(calls: Sequence[Call]) -> Iterator[tuple[Call, bool]]:
    """Each call twice, in the order of time: when entered (True) and when left (False)."""
    moments = [(call.entered, True, call) for call in calls]
    moments += [(call.left, False, call) for call in calls if call.left is not None]
    for _, entering, call in sorted(moments, key=lambda moment: moment[0]):
        yield call, entering


BELOW_DESCRIPTOR = re.compile(r"/proc/self/fd/(\d+)(/.+)")
"""So one names a socket in a directory whose own path is too long for its address."""


class _Open:
    """An open file description: what dup and fork share."""

    def __init__(self, inode: int, *, append: bool) -> None:
        self.inode = inode
        self.append = append
        self.offset = 0


class _Process:
    """A thread or process. Threads share both: the table of descriptors and the directory.

    What exec closes stays in the table, and does no harm: strace tells which file a number means.
    """

    def __init__(self, table: dict[int, _Open], directory: list[str]) -> None:
        self.table = table
        self.directory = directory

    def child(self, flags: str) -> "_Process":
        return _Process(
            self.table if "CLONE_FILES" in flags else dict(self.table),
            self.directory if "CLONE_FS" in flags else list(self.directory),
        )


class History:
    """Follows descriptors and names through the calls, and writes down the events.

    A call takes effect here when it is entered, as others may see its effect before it returns: a
    closed number is free, a child runs. What it returns, a descriptor, is there when it has.
    """

    def __init__(self, root: Path, acknowledged: re.Pattern[bytes]) -> None:
        self._root = str(root)
        self._acknowledged = acknowledged
        self._inodes = {ROOT: Inode("directory", ".")}
        self._sizes: dict[int, int] = {}
        self._entries: dict[int, int] = {}
        self._names: dict[Place, int] = {}
        self._events: list[Event] = []
        self._processes: dict[int, _Process] = {}
        self._births: dict[int, tuple[int, str]] = {}
        self._opening: dict[int, int] = {}  # thread, inode
        self._contents_at_start: dict[int, bytes] = {}
        self._find_what_is_there(root)
        self._places_at_start = {entry: place for place, entry in self._names.items()}

    def _find_what_is_there(self, root: Path) -> None:
        for path in sorted(root.rglob("*")):
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise Unexplained(f"symlinks are not modelled: {path}")
            content = path.read_bytes() if stat.S_ISREG(mode) else b""
            kind = "file" if stat.S_ISREG(mode) else "directory" if path.is_dir() else "node"
            name = str(path.relative_to(root))
            inode = self._inode(kind, name, len(content))
            self._contents_at_start[inode] = content
            self._names[self._place_in_tree(name)] = self._entry(inode)

    def of(self, calls: Sequence[Call]) -> Recording:
        self._processes[calls[0].pid] = _Process({}, [os.getcwd()])
        for call, entering in _steps(calls):
            self._step(call, entering)
        return Recording(
            self._inodes,
            self._entries,
            self._places_at_start,
            self._contents_at_start,
            self._events,
        )

    def _step(self, call: Call, entering: bool) -> None:
        process = self._process(call.pid)
        if call.failed:
            return
        if call.name == ENDED:
            self._processes.pop(call.pid, None)
        elif entering:
            self._enter(process, call)
        else:
            self._leave(process, call)

    # Processes and descriptors.

    def _process(self, pid: int) -> _Process:
        known = self._processes.get(pid)
        if known is None:
            if pid in self._births:
                parent, flags = self._births.pop(pid)
                known = self._process(parent).child(flags)
            else:
                raise Unexplained(f"nobody started process {pid}")
            self._processes[pid] = known
        return known

    def _opened(self, process: _Process, call: Call, index: int) -> _Open | None:
        """The file below the root behind a descriptor. strace says which file it is by name, the
        table knows which it is by identity."""
        number, path = call.descriptor(index)
        if number is None or path is None or not self._is_ours(path):
            return None
        if number not in process.table:
            raise Unexplained(
                f"{call.name} of {path}, which the process did not open: keep its log elsewhere"
            )
        return process.table[number]

    def _is_ours(self, path: str) -> bool:
        return path == self._root or path.startswith(self._root + "/")

    def _leave(self, process: _Process, call: Call) -> None:
        match call.name:
            case "open" | "openat" | "openat2" | "creat":
                inode = self._opening.pop(call.pid, None)
                if (inode is not None) != self._is_ours(call.returned_path or ""):
                    raise Unexplained(f"{call.name} of {call.returned_path} through another name")
                if inode is not None and call.result is not None:
                    text = ", ".join(call.arguments)
                    process.table[call.result] = _Open(inode, append="O_APPEND" in text)
            case "dup" | "dup2" | "dup3" | "fcntl":
                self._duplicate(process, call)
            case "lseek":
                opened_at = self._opened(process, call, 0)
                if opened_at is not None and call.result is not None:
                    opened_at.offset = call.result
            case "chdir":
                process.directory[0] = self._absolute(process, call, None, 0)
            case "fchdir":
                process.directory[0] = call.descriptor(0)[1] or ""
            case "clone" | "clone3" | "fork" | "vfork":
                if call.result in self._births:
                    self._process(call.result)
            case _:
                return

    def _duplicate(self, process: _Process, call: Call) -> None:
        what = call.arguments[1] if call.name == "fcntl" else "F_DUPFD"
        if what == "F_SETFL" and (opened := self._opened(process, call, 0)) is not None:
            opened.append = "O_APPEND" in call.arguments[2]
        if what.startswith("F_DUPFD") and call.result is not None:
            opened = self._opened(process, call, 0)
            if opened is None:
                process.table.pop(call.result, None)
            else:
                process.table[call.result] = opened

    # Names.

    def _absolute(self, process: _Process, call: Call, at: int | None, index: int) -> str:
        start: str | None = process.directory[0]
        if at is not None:
            number, path = call.descriptor(at)
            start = path if number is not None else path or start
        path = os.path.normpath(os.path.join(start or "", call.path(index)))
        if below := BELOW_DESCRIPTOR.fullmatch(path):
            opened = process.table.get(int(below[1]))
            if opened is not None:
                return self._path_of(opened.inode) + below[2]
        return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))

    def _place_in_tree(self, relative: str) -> Place:
        directory, _, name = relative.rpartition("/")
        return Place(self._find(f"{self._root}/{directory}" if directory else self._root), name)

    def _place(self, path: str) -> Place | None:
        if not self._is_ours(path) or path == self._root:
            return None
        return self._place_in_tree(path[len(self._root) + 1 :])

    def _find(self, path: str) -> int:
        inode = ROOT
        for name in filter(None, path[len(self._root) :].split("/")):
            entry = self._names.get(Place(inode, name))
            if entry is None:
                raise Unexplained(f"{path} is used, but nobody made it")
            inode = self._entries[entry]
        return inode

    def _path_of(self, inode: int) -> str:
        if inode == ROOT:
            return self._root
        place = next(p for p, entry in self._names.items() if self._entries[entry] == inode)
        return f"{self._path_of(place.directory)}/{place.name}"

    def _inode(self, kind: str, born_as: str, size_bytes: int = 0) -> int:
        inode = len(self._inodes)
        self._inodes[inode] = Inode(kind, born_as)
        self._sizes[inode] = size_bytes
        return inode

    def _entry(self, inode: int) -> int:
        entry = len(self._entries)
        self._entries[entry] = inode
        return entry

    def _label(self, place: Place) -> str:
        above = self._inodes[place.directory].born_as
        return place.name if above == "." else f"{above}/{place.name}"

    def _move(self, call: Call, entry: int, source: Place | None, target: Place | None) -> None:
        if source is not None:
            del self._names[source]
        if target is not None:
            self._names[target] = entry
        touched = frozenset(place.directory for place in (source, target) if place is not None)
        self._events.append(Move(call.entered, call.left, entry, target, touched))

    def _make(self, call: Call, kind: str, place: Place) -> int:
        inode = self._inode(kind, self._label(place))
        self._move(call, self._entry(inode), None, place)
        return inode

    def _remove(self, call: Call, place: Place | None) -> None:
        if place is not None:
            if place not in self._names:
                raise Unexplained(f"{call.name} of {self._label(place)}, but nobody made it")
            self._move(call, self._names[place], place, None)

    def _both(self, process: _Process, call: Call, ats: bool) -> tuple[Place, Place] | None:
        """The two names of a rename or link, None when neither is ours."""
        indices = [(0, 1), (2, 3)] if ats else [(None, 0), (None, 1)]
        paths = [self._absolute(process, call, at, index) for at, index in indices]
        places = [self._place(path) for path in paths]
        if places[0] is None or places[1] is None:
            if places != [None, None]:
                raise Unexplained(f"{call.name} across the edge of the directory: {paths}")
            return None
        if places[0] not in self._names:
            raise Unexplained(f"{call.name} of {paths[0]}, but nobody made it")
        return places[0], places[1]

    # What changes files.

    def _enter(self, process: _Process, call: Call) -> None:
        match call.name:
            case "open" | "openat" | "openat2" | "creat":
                self._open(process, call)
            case "close":
                number, _ = call.descriptor(0)
                if number is not None:
                    process.table.pop(number, None)
            case "close_range":
                self._close_range(process, call)
            case "clone" | "clone3" | "fork" | "vfork":
                if call.result is not None:
                    self._births[call.result] = (call.pid, ", ".join(call.arguments))
            case "write" | "writev" | "sendto" | "sendmsg":
                self._write(process, call, None)
            case "pwrite64" | "pwritev" | "pwritev2":
                if "RWF_" in call.arguments[-1]:
                    raise Unexplained(f"{call.arguments[-1]} is not modelled")
                self._write(process, call, int(call.arguments[3]))
            case "sendfile" | "copy_file_range" | "splice":
                if self._opened(process, call, 0 if call.name == "sendfile" else 2) is not None:
                    raise Unexplained(f"{call.name} into a file is not modelled")
            case "truncate":
                path = self._absolute(process, call, None, 0)
                if self._is_ours(path):
                    self._resize(call, self._find(path), int(call.arguments[1]))
            case "ftruncate" | "fallocate":
                self._resize_opened(process, call)
            case "mmap":
                self._map(process, call)
            case "fsync" | "fdatasync":
                if (opened := self._opened(process, call, 0)) is not None:
                    self._events.append(Sync(call.entered, call.left, opened.inode))
            case "sync" | "syncfs":
                self._events.append(Sync(call.entered, call.left, None))
            case _:
                self._enter_names(process, call)

    def _enter_names(self, process: _Process, call: Call) -> None:
        match call.name:
            case "rename" | "renameat" | "renameat2":
                if (
                    "RENAME_EXCHANGE" in call.arguments[-1]
                    or "RENAME_WHITEOUT" in call.arguments[-1]
                ):
                    raise Unexplained(f"{call.arguments[-1]} is not modelled")
                both = self._both(process, call, ats=call.name != "rename")
                if both is not None:
                    entry, over = self._names[both[0]], self._names.get(both[1])
                    if over is None or self._entries[over] != self._entries[entry]:
                        self._move(call, entry, *both)
            case "link" | "linkat":
                both = self._both(process, call, ats=call.name != "link")
                if both is not None:
                    self._move(
                        call, self._entry(self._entries[self._names[both[0]]]), None, both[1]
                    )
            case "unlink" | "rmdir":
                self._remove(call, self._place(self._absolute(process, call, None, 0)))
            case "unlinkat":
                self._remove(call, self._place(self._absolute(process, call, 0, 1)))
            case "mkdir" | "mkdirat" | "mknod" | "mknodat":
                at = (0, 1) if call.name.endswith("at") else (None, 0)
                place = self._place(self._absolute(process, call, *at))
                if place is not None:
                    kind = "directory" if call.name.startswith("mkdir") else "node"
                    self._make(call, kind, place)
            case "symlink" | "symlinkat":
                at = (1, 2) if call.name == "symlinkat" else (None, 1)
                if self._place(self._absolute(process, call, *at)) is not None:
                    raise Unexplained("symlinks are not modelled")
            case "bind":
                address = call.arguments[1]
                if 'sun_path="' in address:  # an abstract one reads sun_path=@"
                    place = self._place(self._absolute(process, call, None, 1))
                    if place is not None:
                        self._make(call, "socket", place)
            case _:
                return

    def _open(self, process: _Process, call: Call) -> None:
        at = (0, 1) if call.name.startswith("openat") else (None, 0)
        path = self._absolute(process, call, *at)
        if not self._is_ours(path):
            return
        flags = ", ".join(call.arguments)
        if call.name == "creat":
            flags += "|O_CREAT|O_TRUNC"
        for unknown in ("O_TMPFILE", "O_SYNC", "O_DSYNC"):
            if unknown in flags:
                raise Unexplained(f"{unknown} is not modelled: {path}")
        place = self._place(path)
        if place is None or place in self._names or "O_CREAT" not in flags:
            inode = self._find(path)
        else:
            inode = self._make(call, "file", place)
        if "O_TRUNC" in flags and self._sizes[inode]:
            self._resize(call, inode, 0)
        self._opening[call.pid] = inode

    def _close_range(self, process: _Process, call: Call) -> None:
        first, last = int(call.arguments[0]), int(call.arguments[1])
        if "CLOEXEC" not in call.arguments[2]:
            for number in [each for each in process.table if first <= each <= last]:
                del process.table[number]

    def _write(self, process: _Process, call: Call, at: int | None) -> None:
        opened = self._opened(process, call, 0)
        path = call.descriptor(0)[1]
        if opened is None and (path is None or path.startswith("/")):
            return  # somebody else's file
        data = call.data(1)[: call.result]
        if opened is None:
            for match in self._acknowledged.finditer(data):
                marker = match[1] if match.re.groups else match[0]
                self._events.append(Acknowledged(call.entered, call.left, marker))
            return
        offset = opened.offset if at is None or at < 0 else at
        if opened.append:
            offset = self._sizes[opened.inode]
        if at is None or at < 0:
            opened.offset = offset + len(data)
        end = offset + len(data)
        self._sizes[opened.inode] = max(self._sizes[opened.inode], end)
        self._events.append(Write(call.entered, call.left, opened.inode, offset, data))

    def _resize_opened(self, process: _Process, call: Call) -> None:
        opened = self._opened(process, call, 0)
        if opened is None:
            return
        if call.name == "ftruncate":
            self._resize(call, opened.inode, int(call.arguments[1]))
            return
        mode, offset, length = call.arguments[1], int(call.arguments[2]), int(call.arguments[3])
        if mode == "0":
            self._resize(call, opened.inode, offset + length, only_grow=True)
        elif mode != "FALLOC_FL_KEEP_SIZE":
            raise Unexplained(f"fallocate with {mode} is not modelled")

    def _resize(self, call: Call, inode: int, size_bytes: int, *, only_grow: bool = False) -> None:
        if only_grow:
            size_bytes = max(size_bytes, self._sizes[inode])
        self._sizes[inode] = size_bytes
        self._events.append(Resize(call.entered, call.left, inode, size_bytes, only_grow))

    def _map(self, process: _Process, call: Call) -> None:
        shared, written = "MAP_SHARED" in call.arguments[3], "PROT_WRITE" in call.arguments[2]
        if shared and written and "MAP_ANONYMOUS" not in call.arguments[3]:
            opened = self._opened(process, call, 4)
            if opened is not None:
                self._events.append(Mapped(call.entered, call.left, opened.inode))
