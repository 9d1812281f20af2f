"""A command run under strace, and the system calls it made, each with what went in and came out.

Knows how strace writes, not what the calls mean; `power_loss.py` makes a file system's history of
them. Threads and child processes are followed.
"""

import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

END_S = 60
STRING_BYTES = 1 << 22

FILES = (
    "open openat openat2 creat close close_range dup dup2 dup3 fcntl lseek write writev pwrite64 "
    "pwritev pwritev2 sendfile copy_file_range splice truncate ftruncate fallocate rename renameat "
    "renameat2 unlink unlinkat mkdir mkdirat rmdir link linkat symlink symlinkat mknod mknodat "
    "fsync fdatasync sync syncfs mmap chdir fchdir"
)
SOCKETS = "sendto sendmsg bind"
PROCESSES = "clone clone3 fork vfork"

OPTIONS = [
    "--daemonize=grandchild",  # the command stays our child: its pid, signals and exit status
    "--follow-forks",
    "--decode-fds=path",
    "--strings-in-hex=all",
    f"--string-limit={STRING_BYTES}",
    "--seccomp-bpf",  # calls that are not traced run at full speed
    "--trace=" + ",".join(f"?{name}" for name in f"{FILES} {SOCKETS} {PROCESSES}".split()),
]

LINE = re.compile(r"(\d+) +(.*)")
RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
CALL = re.compile(r"(\w+)\((.*?)(?: <unfinished \.\.\.>)?\) += (.+)")
RESULT = re.compile(r"(-?\d+|0x[0-9a-f]+|\?)(?:<([^>]*)>)?(?:\(deleted\))?(?: (E\w+))?")
TOKEN = re.compile(r'"[^"]*"(?:\.\.\.)?|<[^>]*>|[^",\[\]{}()<]+|.')
STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
DESCRIPTOR = re.compile(r"(-?\d+|AT_FDCWD)(?:<([^>]*)>)?")


class Unreadable(Exception):
    """strace wrote what this module does not understand."""


class Call(msgspec.Struct, frozen=True):
    """One system call. `entered` and `left` number what strace saw, all processes together: what
    happened in between, happened while the kernel worked on this call. `left` is None where the
    process was killed in it; `result` then, too."""

    pid: int
    name: str
    arguments: tuple[str, ...]
    entered: int
    left: int | None
    result: int | None
    returned_path: str | None

    @property
    def failed(self) -> bool:
        return self.result is not None and self.result < 0

    def data(self, index: int) -> bytes:
        """The strings in an argument, one after the other: a buffer, or those of an iovec."""
        parts = STRING.findall(self.arguments[index])
        if any(cut for _, cut in parts):
            raise Unreadable(f"{self.name} with more than {STRING_BYTES} bytes in one string")
        return b"".join(_unhex(text) for text, _ in parts)

    def path(self, index: int) -> str:
        return os.fsdecode(self.data(index))

    def descriptor(self, index: int) -> tuple[int | None, str | None]:
        """The number, None for the current directory, and the path or kind that it stands for."""
        match = DESCRIPTOR.match(self.arguments[index])
        if match is None:
            raise Unreadable(f"no descriptor in {self.name}({', '.join(self.arguments)[:200]})")
        number = None if match[1] == "AT_FDCWD" else int(match[1])
        return number, None if match[2] is None else os.fsdecode(_unhex(match[2]))


ENDED = "ended"
"""The name of the call that stands for the end of a process or thread."""


def trace(
    command: Sequence[str],
    environ: Mapping[str, str],
    drive: Callable[["subprocess.Popen[bytes]"], None],
) -> list[Call]:
    """Run the command, let `drive` use it and see to its end, and return what it called, in order.

    `drive` reads the process's stdout; what else the process may fill or wait for is its business.
    """
    reading, writing = os.pipe()
    lines: list[str] = []

    def read() -> None:
        with open(reading, encoding="ascii") as text:
            lines.extend(text)

    try:
        process = subprocess.Popen(
            ["strace", *OPTIONS, f"--output=/proc/self/fd/{writing}", "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=environ,
            pass_fds=[writing],
        )
    finally:
        os.close(writing)
    reader = threading.Thread(target=read, name="strace's lines")
    reader.start()
    with process:
        try:
            drive(process)
            process.wait(END_S)
        finally:
            process.kill()
    reader.join(END_S)
    assert not reader.is_alive(), "processes that the command started are still there"
    return parse(lines)


class _Entered:
    def __init__(self, pid: int, step: int, text: str) -> None:
        self.pid, self.step, self.text = pid, step, text

    def left(self, step: int | None, rest: str) -> Call:
        match = CALL.fullmatch(self.text + rest)
        if match is None:
            raise Unreadable(f"{self.text[:100]} ... {rest[-100:]}")
        result, path, code = _result(match[3])
        killed = result is None and code is None
        return Call(
            self.pid,
            match[1],
            _split(match[2]),
            self.step,
            None if killed else step,
            result if code is None else -1,  # one that is to be restarted has done nothing
            path,
        )


def parse(lines: Iterable[str]) -> list[Call]:
    """In the order in which the calls were entered."""
    calls: list[Call] = []
    inside: dict[int, _Entered] = {}
    for number, line in enumerate(lines):
        match = LINE.fullmatch(line.rstrip("\n"))
        if match is None:
            raise Unreadable(line[:200])
        pid, text = int(match[1]), match[2]
        entering, leaving = 2 * number, 2 * number + 1
        if text.startswith(("--- ", "???")):
            continue
        if text.startswith("+++ "):
            if (cut_off := inside.pop(pid, None)) is not None:
                calls.append(cut_off.left(None, ") = ?"))
            calls.append(Call(pid, ENDED, (), entering, None, None, None))
        elif resumed := RESUMED.fullmatch(text):
            if pid not in inside:
                raise Unreadable(f"it left what it never entered: {line[:200]}")
            calls.append(inside.pop(pid).left(leaving, resumed[2]))
        elif text.endswith(" <unfinished ...>"):
            inside[pid] = _Entered(pid, entering, text.removesuffix(" <unfinished ...>"))
        else:
            calls.append(_Entered(pid, entering, text).left(leaving, ""))
    calls.extend(each.left(None, ") = ?") for each in inside.values())
    return sorted(calls, key=lambda call: call.entered)


def _result(text: str) -> tuple[int | None, str | None, str | None]:
    match = RESULT.match(text)
    if match is None:
        raise Unreadable(f"a result: {text[:200]}")
    value = None if match[1] == "?" else int(match[1], 0)
    return value, None if match[2] is None else os.fsdecode(_unhex(match[2])), match[3]


def _split(text: str) -> tuple[str, ...]:
    """At the commas between arguments, not those within braces."""
    arguments: list[str] = []
    current: list[str] = []
    depth = 0
    for token in TOKEN.findall(text):
        if token == "," and depth == 0:
            arguments.append("".join(current).strip())
            current = []
            continue
        depth += (token in "[{(") - (token in "]})")
        current.append(token)
    return (*arguments, "".join(current).strip()) if current else tuple(arguments)


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
