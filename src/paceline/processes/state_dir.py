"""The state directory: made on first use, held by one process at a time.

The lock is the kernel's (flock), so it is gone with the process that held it, however that died;
what the lock file says (pid, address) is only for the message that refuses a second one.
"""

import errno
import fcntl
import os
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec

from paceline.terms.errors import DiskFull, StateInUse, StateUnusable
from paceline.terms.limits import CONNECTION_BACKLOG

LOCK_FILE = "owner.lock"
SOCKET_FILE = "owner.sock"


class Holder(msgspec.Struct, frozen=True):
    pid: int
    address: str


class StateDir:
    """A held state directory. `hold` takes it or says who has it."""

    def __init__(self, path: Path, directory_fd: int, lock_fd: int) -> None:
        self.path = path
        self._directory_fd = directory_fd
        self._lock_fd = lock_fd

    @classmethod
    def hold(cls, path: Path) -> "StateDir":
        try:
            make_directory(path)
            directory_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise refusal(path, error) from error
        try:
            lock_fd = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            os.close(directory_fd)
            raise refusal(path, error) from error
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read_holder(lock_fd)
            os.close(lock_fd)
            os.close(directory_fd)
            raise StateInUse(
                f"the state directory is in use by {holder}",
                value=str(path),
                remedy="Stop that instance, or give this one its own directory with --state DIR.",
            ) from None
        held = cls(path, directory_fd, lock_fd)
        try:
            held.note(Holder(os.getpid(), ""))
        except StateUnusable:
            held.release()
            raise
        return held

    def note(self, holder: Holder) -> None:
        """Tells a second instance who this is; a full disk is found here, before anything runs."""
        try:
            os.ftruncate(self._lock_fd, 0)
            os.pwrite(self._lock_fd, msgspec.json.encode(holder), 0)
        except OSError as error:
            raise refusal(self.path, error) from error

    def listen(self) -> socket.socket:
        """The owner's socket, open to this user only, in place of one that a killed owner left."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            self._unlink_socket()
            listener.bind(socket_address(self._directory_fd))
        except OSError as error:
            listener.close()
            raise refusal(self.path, error) from error
        finally:
            os.umask(before)
        listener.listen(CONNECTION_BACKLOG)
        return listener

    @property
    def descriptor(self) -> int:
        """The open directory, for another process to find the socket by, whatever its name is."""
        return self._directory_fd

    def release(self) -> None:
        with suppress(OSError):  # what is left of it is in nobody's way
            self._unlink_socket()
        os.close(self._lock_fd)
        os.close(self._directory_fd)

    def _unlink_socket(self) -> None:
        """In the directory that is held, whatever stands at its path by now."""
        with suppress(FileNotFoundError):
            os.unlink(SOCKET_FILE, dir_fd=self._directory_fd)


def socket_address(directory_fd: int) -> str:
    """The owner's socket by way of the open directory: a path of any length fits that way."""
    return f"/proc/self/fd/{directory_fd}/{SOCKET_FILE}"


def refusal(path: Path, error: OSError) -> StateUnusable:
    """The operating system's refusal of the state directory, in words that help."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            "no space is left for the state directory",
            value=str(path),
            remedy="Free some space, or choose another place with --state DIR.",
        )
    if error.errno == errno.EROFS:
        cause = "the state directory is on a read-only file system"
    elif error.errno in (errno.EACCES, errno.EPERM):
        cause = "the state directory may not be written by this user"
    elif error.errno in (errno.ENOTDIR, errno.EEXIST):
        cause = "the state directory is not a directory"
    else:
        cause = f"the state directory cannot be used: {error.strerror}"
    return StateUnusable(
        cause, value=str(path), remedy="Choose a directory you can write to with --state DIR."
    )


def make_directory(path: Path) -> None:
    """With what is above it, and so that a power cut does not take it away again: what stands in a
    directory is durable when that directory was synced."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in missing:
        fd = os.open(each.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_whole(place: Path, content: bytes) -> None:
    """In place of the file there is: at any instant one of both stands there, whole. With its
    directory where that is missing."""
    make_directory(place.parent)
    fd, beside = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.replace(beside, place)
    finally:
        with suppress(FileNotFoundError):  # it has its name
            os.unlink(beside)


def _read_holder(lock_fd: int) -> str:
    holder = _parse_holder(lock_fd)
    if holder is None:
        return "another process"
    return f"process {holder.pid}" + (f" at {holder.address}" if holder.address else "")


def _parse_holder(lock_fd: int) -> Holder | None:
    try:
        return msgspec.json.decode(os.pread(lock_fd, 4096, 0), type=Holder)
    except msgspec.DecodeError:
        return None  # its owner is just writing it
