"""Hears when a file is saved, by the kernel's inotify; nothing is polled. Called by the owner.

It watches directories, because editors and configuration maps put a new file in the old one's
place: that of the file, and where the file is a link, also that of the file it leads to.
"""

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from paceline.terms.errors import CannotStart

IN_CLOSE_WRITE = 0x8
IN_MOVED_TO = 0x80
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
SAVES = IN_CLOSE_WRITE | IN_MOVED_TO
ENDS = IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED
SWAPPED = b"..data"
"""What Kubernetes swaps when it renews a mounted configuration."""

EVENT = struct.Struct("iIII")
BUFFER_BYTES = 64 * 1024


class _Event(NamedTuple):
    watch: int
    mask: int
    name: bytes


class Saved:
    """Calls `on_save` on the running loop until it is closed, or until a directory it watches is
    moved or removed: then it closes itself and calls `on_lost` with the reason."""

    def __init__(
        self, path: Path, on_save: Callable[[], None], on_lost: Callable[[str], None]
    ) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._path = os.fsencode(path)
        self._on_save = on_save
        self._on_lost = on_lost
        self._fd = _checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            self._watched = self._watch()
        except CannotStart:
            os.close(self._fd)
            raise
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._hear)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _watch(self) -> dict[int, set[bytes]]:
        """The names that count in each directory. One that is watched already keeps its number."""
        watched: dict[int, set[bytes]] = {}
        for path in (self._path, os.path.realpath(self._path)):
            directory, name = os.path.split(path)
            mask = SAVES | IN_DELETE_SELF | IN_MOVE_SELF
            watch = _checked(self._libc.inotify_add_watch(self._fd, directory or b".", mask))
            watched.setdefault(watch, {SWAPPED}).add(name)
        return watched

    def _hear(self) -> None:
        events = [*_events(os.read(self._fd, BUFFER_BYTES))]
        if any(self._is_save(event) for event in events):
            try:
                self._follow()
            except CannotStart as error:
                self._lose(error.cause)
            self._on_save()  # after the directory is watched: nothing can come in between
        elif any(event.mask & ENDS and event.watch in self._watched for event in events):
            self._lose("its directory was moved or removed")

    def _is_save(self, event: _Event) -> bool:
        if event.mask & IN_Q_OVERFLOW:  # what the kernel had no room for may have been one
            return True
        return bool(event.mask & SAVES) and event.name in self._watched.get(event.watch, ())

    def _follow(self) -> None:
        """A link may lead elsewhere now."""
        before, self._watched = self._watched, self._watch()
        for watch in before.keys() - self._watched.keys():
            self._libc.inotify_rm_watch(self._fd, watch)  # fails if its directory is gone

    def _lose(self, why: str) -> None:
        self.close()
        self._on_lost(why)


def _events(data: bytes) -> Iterator[_Event]:
    start = 0
    while start < len(data):
        watch, mask, _, length = EVENT.unpack_from(data, start)
        start += EVENT.size + length
        yield _Event(watch, mask, data[start - length : start].rstrip(b"\0"))


def _checked(result: int) -> int:
    if result < 0:
        raise CannotStart(
            f"the file cannot be watched: {os.strerror(ctypes.get_errno())}",
            remedy="Where there are too many watches, raise fs.inotify.max_user_instances and "
            "max_user_watches; or reload by SIGHUP.",
        )
    return result
