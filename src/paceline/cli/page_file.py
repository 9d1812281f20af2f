"""A page that a command writes: under its name stands the whole page, or what stood there before.

What is wrong with the place is told before anything runs. Called by `load.py` and `simulate.py`.
"""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from paceline.terms.errors import DiskFull, Misuse


@contextmanager
def page_file(target: Path | None, option: str, opening: str) -> Iterator[Callable[[str], None]]:
    """What writes the page that `option` asks for; an earlier one is known by its `opening`."""
    if target is None:
        yield lambda text: None
        return
    place = Path(os.path.realpath(target))
    _refuse_taken(place, option, opening)
    with _telling(target, option):
        fd, beside = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)

    def write(text: str) -> None:
        with _telling(target, option):
            with open(fd, "w", encoding="utf-8", errors="replace", closefd=False) as file:
                file.write(text)
            os.fchmod(fd, 0o666 & ~_umask())  # it is for others to read, too
            os.fsync(fd)
            os.replace(beside, place)

    try:
        yield write
    finally:
        os.close(fd)
        with suppress(FileNotFoundError):  # it has its name
            os.unlink(beside)


def _refuse_taken(place: Path, option: str, opening: str) -> None:
    """An earlier page gives way; any other file was not meant."""
    with _telling(place, option):
        if not place.exists():
            return
        if place.is_file():
            with place.open("rb") as file:
                begins = file.read(len(opening))
            if not begins or begins == opening.encode():
                return
    raise Misuse(
        "a file is there already that is no page of this command"
        if place.is_file()
        else "this is no place for a file",
        value=str(place),
        remedy=f"Name another place: {option} report.html.",
    )


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextmanager
def _telling(place: Path, option: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(
                "no space is left for the page",
                value=str(place),
                remedy=f"Free some space, or name another place: {option} FILE.",
            ) from error
        raise Misuse(
            f"the page cannot be written: {error.strerror}",
            value=str(place),
            remedy="Name a file in a directory that is there and that you may write to.",
        ) from error
