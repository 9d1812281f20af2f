"""What the threads of this process do, by looking at their stacks some times a second.

One more thread looks, by the interpreter's own `sys._current_frames`: that needs no right to trace
and no program beside ours. What it sees is Python's part: native threads have no stack here, only
their CPU time, and what native code does is counted for the function that called it. It runs
where it is asked to, in owner and fronts, for a bounded time. Called by `web/profiling.py`; how
true it is stands in docs/design/profile.md.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import CodeType, FrameType
from typing import NamedTuple

import msgspec

from paceline.terms.limits import (
    PROFILE_DEPTH,
    PROFILE_FRAMES,
    PROFILE_HZ,
    PROFILE_NAME_CHARS,
    PROFILE_STACKS,
    PROFILE_THREADS,
)

WAITS = "(waits)"
"""The last frame of a stack whose thread waits for something to come."""

DEEPER = "(deeper)"
OTHERS = "(others)"
"""In the place of what goes beyond a bound."""

FUTEX = {"x86_64": 202, "aarch64": 98}
"""The number of the system call in which threads wait for each other, by machine."""

NO_TIMEOUT = "0x0"

WAITERS = frozenset(
    ("threading", "queue", "selectors", "concurrent.futures.thread", "concurrent.futures._base")
)
"""Modules whose functions do nothing for long but wait."""

LOOPS = frozenset(("asyncio.runners", "asyncio.base_events", "uvloop"))
"""Where an event loop written in C is seen while it waits."""


class Stack(msgspec.Struct, frozen=True):
    """`frames` are places in `Stacks.frames`, the outermost first."""

    thread: int
    waits: bool
    samples: int
    frames: tuple[int, ...]


class Thread(msgspec.Struct, frozen=True):
    """`samples` is none of a native thread, which has no stack to see. `starved_s` is how long it
    was ready to run and had no core."""

    name: str
    cpu_s: float | None
    starved_s: float | None
    samples: int
    waited: int


class Stacks(msgspec.Struct, frozen=True):
    """A *sample* is a period of the rate: a look that came late, since somebody held the
    interpreter, counts as many as it should have been."""

    seconds: float
    hz: float
    looks: int
    samples: int
    cost_cpu_s: float | None
    """of the thread that looked"""
    frames: tuple[str, ...]
    threads: tuple[Thread, ...]
    stacks: tuple[Stack, ...]


def take(
    seconds: float, stop: threading.Event, now: Callable[[], float], hz: float = PROFILE_HZ
) -> Stacks:
    """Looks for so long, or until `stop` is set. To be called in a thread of its own, which is left
    out."""
    before = used_by_thread()
    seen = _Seen()
    own = threading.get_ident()
    began_s = now()
    looks = samples = 0
    try:
        while True:
            due_s = began_s + (samples + 1) / hz
            if due_s > began_s + seconds or stop.wait(max(0.0, due_s - now())):
                break
            passed = max(1, int((now() - began_s) * hz) - samples)
            for ident, frame in sys._current_frames().items():
                if ident != own:
                    seen.look(ident, frame, passed)
            del frame  # kept here, it would keep what its function holds
            looks += 1
            samples += passed
    finally:
        seen.close()
    took_s = now() - began_s
    used = _since(before, used_by_thread())
    cost = used.pop(threading.get_native_id(), None)
    return Stacks(
        round(took_s, 3),
        hz,
        looks,
        samples,
        None if cost is None else round(cost.cpu_s, 4),
        tuple(seen.frames),
        tuple(seen.told_threads(used)),
        tuple(
            Stack(thread, waits, count, frames)
            for (thread, waits, frames), count in sorted(
                seen.counts.items(), key=lambda each: -each[1]
            )
        ),
    )


def folded(stacks: Stacks) -> Iterator[str]:
    """One line a stack, as flamegraph.pl and speedscope read it."""
    for each in stacks.stacks:
        names = [stacks.threads[each.thread].name, *(stacks.frames[at] for at in each.frames)]
        if each.waits:
            names.append(WAITS)
        yield f"{';'.join(names)} {each.samples}"


class Used(NamedTuple):
    """What a thread has used until now, by the kernel, which knows its name too."""

    name: str
    cpu_s: float
    starved_s: float


def used_by_thread() -> dict[int, Used]:
    """By the kernel's number of each thread of this process; nothing where it does not tell."""
    found = {}
    with suppress(OSError):
        for number in os.listdir("/proc/self/task"):
            with suppress(OSError, ValueError):  # it has ended meanwhile
                with open(f"/proc/self/task/{number}/schedstat") as file:
                    cpu_ns, starved_ns, _ = map(int, file.read().split())
                with open(f"/proc/self/task/{number}/comm") as file:
                    name = named(file.read().strip())
                found[int(number)] = Used(name, cpu_ns * 1e-9, starved_ns * 1e-9)
    return found


def named(text: str) -> str:
    """As a frame or a thread is called: short, and without what folded lines are cut at."""
    plain = "".join(each if each.isprintable() and each not in "; " else "_" for each in text)
    return plain if len(plain) <= PROFILE_NAME_CHARS else plain[: PROFILE_NAME_CHARS - 1] + "…"


def _since(before: Mapping[int, Used], now: Mapping[int, Used]) -> dict[int, Used]:
    nothing = Used("", 0.0, 0.0)
    return {
        number: Used(
            used.name,
            used.cpu_s - before.get(number, nothing).cpu_s,
            used.starved_s - before.get(number, nothing).starved_s,
        )
        for number, used in now.items()
    }


def _thread(name: str, used: Used | None, samples: int, waited: int) -> Thread:
    if used is None:
        return Thread(name, None, None, samples, waited)
    return Thread(name, round(used.cpu_s, 4), round(used.starved_s, 4), samples, waited)


class _Seen:
    """What was seen so far, within the bounds."""

    def __init__(self) -> None:
        self.frames: list[str] = []
        self.counts: dict[tuple[int, bool, tuple[int, ...]], int] = {}
        self._places: dict[str, int] = {}
        self._codes: dict[CodeType, int] = {}
        self._threads: dict[int, int] = {}
        self._names: list[str] = []
        self._numbers: list[int | None] = []
        self._files: dict[int, int] = {}
        self._futex = str(FUTEX.get(os.uname().machine, ""))

    def look(self, ident: int, frame: FrameType, weight: int) -> None:
        thread = self._thread(ident)
        waits = self._waits(thread, frame)
        places: list[int] = []
        each: FrameType | None = frame
        while each is not None:
            places.append(self._place(each))
            each = each.f_back
        places.reverse()
        if len(places) > PROFILE_DEPTH:
            places[PROFILE_DEPTH - 1 :] = [self._named(DEEPER)]
        key = (thread, waits, tuple(places))
        if key not in self.counts and len(self.counts) >= PROFILE_STACKS:
            key = (thread, waits, (self._named(OTHERS),))
        self.counts[key] = self.counts.get(key, 0) + weight

    def told_threads(self, used: dict[int, Used]) -> Iterator[Thread]:
        samples, waited = [0] * len(self._names), [0] * len(self._names)
        for (thread, waits, _), count in self.counts.items():
            samples[thread] += count
            waited[thread] += count if waits else 0
        for at, name in enumerate(self._names):
            number = self._numbers[at]
            own = None if number is None else used.pop(number, None)
            yield _thread(name, own, samples[at], waited[at])
        native = sorted(used.values(), key=lambda each: -each.cpu_s)
        for each in native[: max(0, PROFILE_THREADS - len(self._names))]:
            yield _thread(each.name, each, 0, 0)

    def close(self) -> None:
        for file in self._files.values():
            os.close(file)
        self._files.clear()
        self._codes.clear()

    def _thread(self, ident: int) -> int:
        """Its place; those beyond the bound share one."""
        at = self._threads.get(ident)
        if at is None:
            known = next((each for each in threading.enumerate() if each.ident == ident), None)
            at = len(self._names)
            if at >= PROFILE_THREADS:
                at = self._threads[ident] = PROFILE_THREADS - 1
                self._names[at], self._numbers[at] = OTHERS, None
                return at
            self._threads[ident] = at
            self._names.append(named(f"thread {ident}" if known is None else known.name))
            self._numbers.append(None if known is None else known.native_id)
        return at

    def _place(self, frame: FrameType) -> int:
        code = frame.f_code
        at = self._codes.get(code)
        if at is None:
            module = frame.f_globals.get("__name__", "?")
            at = self._codes[code] = self._named(named(f"{module}.{code.co_qualname}"))
        return at

    def _named(self, name: str) -> int:
        at = self._places.get(name)
        if at is None:
            if len(self.frames) >= PROFILE_FRAMES:
                name = OTHERS
                if name in self._places:
                    return self._places[name]
            at = self._places[name] = len(self.frames)
            self.frames.append(name)
        return at

    def _waits(self, thread: int, frame: FrameType) -> bool:
        """Whether it waits for something to come, rather than for the interpreter, by the system
        call it is in. One that waits for the interpreter does so with a timeout."""
        module = frame.f_globals.get("__name__", "")
        call, *given = self._call(thread)
        if not call:
            return module in WAITERS or module in LOOPS
        if call == "running":
            return False
        if call == self._futex:
            return module in WAITERS or (len(given) > 3 and given[3] == NO_TIMEOUT)
        return True

    def _call(self, thread: int) -> list[str]:
        """The system call and its arguments, or `running`; nothing where the kernel does not
        tell."""
        number = self._numbers[thread]
        if number is None:
            return [""]
        try:
            file = self._files.get(number)
            if file is None:
                file = os.open(f"/proc/self/task/{number}/syscall", os.O_RDONLY | os.O_CLOEXEC)
                self._files[number] = file
            return os.pread(file, 256, 0).decode("ascii").split() or [""]
        except OSError:  # it ends, or this kernel has no such file
            return [""]
