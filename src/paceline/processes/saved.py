"""Hears when a file is saved, by the kernel's inotify; nothing is polled. Called by the owner.

It watches the directory, because editors and configuration maps put a new file in the old one's
place.
"""

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from paceline.terms.errors import CannotStart

IN_CLOSE_WRITE = 0x8
IN_MOVED_TO = 0x80
SWAPPED = b"..data"
"""What Kubernetes swaps when it renews a mounted configuration."""

EVENT = struct.Struct("iIII")
BUFFER_BYTES = 64 * 1024


class Saved:
    """Calls `on_save` on the running loop until it is closed."""

    def __init__(self, path: Path, on_save: Callable[[], None]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._names = {path.name.encode(), SWAPPED}
        self._on_save = on_save
        self._fd = _checked(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        directory = os.fsencode(path.parent)
        try:
            _checked(libc.inotify_add_watch(self._fd, directory, IN_CLOSE_WRITE | IN_MOVED_TO))
        except CannotStart:
            os.close(self._fd)
            raise
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._hear)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _hear(self) -> None:
        if self._names & set(_names(os.read(self._fd, BUFFER_BYTES))):
            self._on_save()


def _names(events: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(events):
        length = EVENT.unpack_from(events, start)[3]
        start += EVENT.size + length
        yield events[start - length : start].rstrip(b"\0")


def _checked(result: int) -> int:
    if result < 0:
        raise CannotStart(
            f"the file cannot be watched: {os.strerror(ctypes.get_errno())}",
            remedy="Where there are too many watches, raise fs.inotify.max_user_instances and "
            "max_user_watches; or reload by SIGHUP.",
        )
    return result
