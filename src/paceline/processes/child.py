"""One child process: started with a link to its parent, watched, killed.

The child gets the other end of the link as file descriptor 3 and nothing else of ours. What a
terminal sends to every process of its group, Ctrl-C and hang-up, is blocked in it from its first
instruction: how to stop is the parent's decision.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence

LINK_FD = 3
TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGHUP)


class Child:
    """A running process. `on_exit` is called once, with the exit status as `waitpid` tells it."""

    def __init__(
        self, arguments: Sequence[str], link_end: socket.socket, on_exit: Callable[[int], None]
    ) -> None:
        self.pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", *arguments],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, link_end.fileno(), LINK_FD),
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            ],
            setsigmask=TERMINAL_SIGNALS,
        )
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:  # nobody could watch it
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise
        link_end.close()
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pidfd, self._reap)
        self.alive = True

    def kill(self) -> None:
        if self.alive:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.alive = False
        _, status = os.waitpid(self.pid, 0)
        self._on_exit(status)


def how_it_ended(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit status {os.WEXITSTATUS(status)}"
