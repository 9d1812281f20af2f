"""The terminal this process was started in, and whether a hang-up comes from its end.

SIGHUP says two things: that the terminal is closed, and, from whoever sends it, that settings shall
be read again. Long after a terminal was closed, only the sender tells them apart, and Python's
signal handlers do not learn it; the kernel's signalfd does. Called by the owner.
"""

import asyncio
import ctypes
import os
import signal
import struct
import sys
from collections.abc import Callable
from typing import NamedTuple

from paceline.terms.errors import CannotStart

SIGSET_BYTES = 128
SIGNAL = struct.Struct("IiiI112x")
"""of signalfd_siginfo: number, errno, code, pid"""
BY_THE_KERNEL = 0x80


class Sender(NamedTuple):
    code: int
    pid: int


class Terminal:
    """Threads started earlier would not know that SIGHUP is to wait: make it before them."""

    def __init__(self) -> None:
        # Under nohup, which ignores the signal, the end of the terminal shall not be ours.
        self._was_there = _is_there() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
        # Those that tell their jobs when they are hung up on. 0 is anybody in another namespace.
        self._shells = {os.getsid(0), os.getppid()} - {0}
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        wanted = (1 << (signal.SIGHUP - 1)).to_bytes(8, sys.byteorder).ljust(SIGSET_BYTES, b"\0")
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.signalfd(-1, wanted, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise CannotStart(
                f"SIGHUP cannot be listened for: {os.strerror(ctypes.get_errno())}",
                remedy="Allow the system call signalfd, and enough open files.",
            )

    def listen(self, on_hangup: Callable[[Sender], None]) -> None:
        """Calls it on the running loop, also for a signal that came before."""

        def hear() -> None:
            _, _, code, pid = SIGNAL.unpack(os.read(self._fd, SIGNAL.size))
            on_hangup(Sender(code, pid))

        asyncio.get_running_loop().add_reader(self._fd, hear)

    def was_closed_by(self, sender: Sender) -> bool:
        """Whether this hang-up is the end of the terminal."""
        told = sender.code == BY_THE_KERNEL or sender.pid in self._shells
        return self._was_there and told and not _is_there()


def _is_there() -> bool:
    """Of its session, whatever standard input and output are."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
