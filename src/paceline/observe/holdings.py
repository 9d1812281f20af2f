"""What the memory of this process is taken by: mappings by kind, objects by class, and, if asked,
which lines of code took more over some seconds.

A look at a moment, for people; nothing of it is recorded. The objects are those the garbage
collector knows: numbers and strings are in none of its lists. To follow lines costs much of each
allocation, so it is done for a bounded time. To be called in a thread of its own, by
`web/profiling.py`.

Format of smaps: proc(5).
"""

import gc
import sysconfig
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import msgspec

from paceline.observe.stacks import named
from paceline.terms.errors import Conflict
from paceline.terms.limits import PROFILE_ROWS

SLICE = 5000
"""Objects that are counted before another thread may have the interpreter."""

PAGES = Path("/proc/self/smaps")


class Mapped(msgspec.Struct, frozen=True):
    """`pss_bytes` divides what several processes map among them; `own_bytes` would be free if this
    process ended."""

    kind: str
    mappings: int
    rss_bytes: int
    pss_bytes: int
    own_bytes: int
    swapped_bytes: int


class Objects(msgspec.Struct, frozen=True):
    name: str
    objects: int


class Line(msgspec.Struct, frozen=True):
    """What it took while it was followed, and still holds."""

    where: str
    bytes: int
    blocks: int


class Growth(msgspec.Struct, frozen=True):
    seconds: float
    bytes: int
    lines: tuple[Line, ...]


class Memory(msgspec.Struct, frozen=True):
    """`settled` objects have been there since the start and are not looked at."""

    mapped: tuple[Mapped, ...]
    objects: int
    settled: int
    classes: tuple[Objects, ...]
    growth: Growth | None = None


def look(seconds: float, stop: threading.Event) -> Memory:
    """With seconds, lines are followed meanwhile, or until `stop` is set."""
    growth = _growth(seconds, stop) if seconds else None
    found = gc.get_objects()
    by_class: Counter[type] = Counter()
    objects = len(found)
    rest = iter(found)
    while some := [*islice(rest, SLICE)]:
        by_class.update(map(type, some))
    del found, rest, some
    return Memory(
        tuple(mapped(PAGES.read_text(errors="replace").splitlines())) if PAGES.exists() else (),
        objects,
        gc.get_freeze_count(),
        tuple(
            Objects(named(f"{kind.__module__}.{kind.__qualname__}"), count)
            for kind, count in by_class.most_common(PROFILE_ROWS)
        ),
        growth,
    )


def mapped(lines: Iterable[str]) -> Iterator[Mapped]:
    """By kind, the largest first."""
    sums: dict[str, Counter[str]] = {}
    current: Counter[str] = Counter()
    for line in lines:
        words = line.split()
        if len(words) >= 5 and not words[0].endswith(":"):
            # address, rights, offset, device, inode, and what it is of
            current = sums.setdefault(_kind(" ".join(words[5:])), Counter())
            current["mappings"] += 1
        elif len(words) == 3 and words[2] == "kB":
            current[words[0]] += int(words[1]) * 1024
    kinds = [
        Mapped(
            kind,
            each["mappings"],
            each["Rss:"],
            each["Pss:"],
            each["Private_Clean:"] + each["Private_Dirty:"],
            each["Swap:"],
        )
        for kind, each in sums.items()
    ]
    yield from sorted(kinds, key=lambda each: -each.pss_bytes)


def _kind(name: str) -> str:
    if name in ("", "[heap]") or name.startswith("[anon"):
        return "heap and arenas"
    if name.startswith("[stack"):
        return "stack of the first thread"
    if name.startswith("["):
        return "of the kernel"
    if name.startswith(("/memfd:", "/dev/shm/", "/SYSV", "/dev/zero")):
        return "shared memory"
    if ".so" in name.rpartition("/")[2]:
        return "native libraries"
    if name.removesuffix(" (deleted)").endswith(".onnx"):
        return "model files"
    return "programs and other files"


def _growth(seconds: float, stop: threading.Event) -> Growth:
    import tracemalloc  # nobody needs it until somebody asks

    if tracemalloc.is_tracing():
        raise Conflict(
            "this process follows its allocations already",
            value="PYTHONTRACEMALLOC",
            remedy="Ask without seconds, or start it without that variable.",
        )
    tracemalloc.start()
    try:
        stop.wait(seconds)
        held = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    lines = held.statistics("lineno")
    return Growth(
        seconds,
        sum(each.size for each in lines),
        tuple(
            Line(
                named(f"{_short(each.traceback[0].filename)}:{each.traceback[0].lineno}"),
                each.size,
                each.count,
            )
            for each in lines[:PROFILE_ROWS]
        ),
    )


def _short(file: str) -> str:
    """From the package on."""
    for place in ("/site-packages/", "/src/", sysconfig.get_path("stdlib") + "/"):
        file = file.rpartition(place)[2]
    return file
