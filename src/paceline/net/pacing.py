"""An alarm that rings within microseconds of its moment, and takes no time until then.

The loop's own timers count milliseconds, which is no way to pace thirty requests in one. This is a
timer of the kernel as a file that the loop watches: nothing polls, nothing spins. Linux only, as
all of Paceline. Called by `evidence/load.py`; the time is its caller's, and must be the clock that
`clock.RealClock` reads.
"""

import asyncio
import ctypes
import os
from collections.abc import Callable

from paceline.terms.errors import LimitReached

CLOCK_MONOTONIC = 1
ABSOLUTE = 1
FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


class _Span(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    """`every` stays zero: it rings once."""

    _fields_ = (("every", _Span), ("at", _Span))


class Alarm:
    """`ring` is called by the loop once for each `set`, at its moment or a little later."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._settime = libc.timerfd_settime
        self._loop = loop
        self._ring = ring
        self._is_set = False
        self._setting = _Setting()
        self._given = ctypes.byref(self._setting)
        self._fd = libc.timerfd_create(CLOCK_MONOTONIC, FLAGS)
        if self._fd < 0:
            raise LimitReached(
                "the system gives no timer",
                value=os.strerror(ctypes.get_errno()),
                remedy="Open fewer files and connections, or raise the limit: ulimit -n 4096.",
            )
        loop.add_reader(self._fd, self._rang)

    def set(self, moment: float) -> None:
        """In seconds of the monotonic clock; it takes the place of an earlier moment. One that has
        passed rings at the loop's next turn."""
        at = self._setting.at
        at.seconds = int(moment)
        at.nanoseconds = int((moment - int(moment)) * 1e9)
        if not (at.seconds or at.nanoseconds):
            at.nanoseconds = 1  # zero would switch it off
        self._is_set = True
        self._settime(self._fd, ABSOLUTE, self._given, None)

    def off(self) -> None:
        self._setting.at.seconds = self._setting.at.nanoseconds = 0
        self._settime(self._fd, ABSOLUTE, self._given, None)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _rang(self) -> None:
        # Setting it, to any moment, also takes back that it rang; so the file is never read.
        self._is_set = False
        self._ring()
        if not self._is_set:
            self.off()
