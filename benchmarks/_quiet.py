"""What else the machine did while something was measured: CPU that was nobody's of ours, and steal.

Not a way to keep it quiet: who measures tries again. Called by `serving` and `goodput`.
"""

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

TICKS = os.sysconf("SC_CLK_TCK")
DISTURBED = 0.12
"""Cores, foreign and stolen together; beyond it a measurement is repeated."""
ATTEMPTS = 3

T = TypeVar("T")


class Machine(NamedTuple):
    busy_s: float
    stolen_s: float


def parsed(stat: str) -> Machine:
    """Of /proc/stat. What guests use is in `user` already."""
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = (
        int(each) / TICKS for each in stat.partition("\n")[0].split()[1:]
    )
    return Machine(user + nice + system + irq + softirq, steal)


class Disturbance(NamedTuple):
    """In cores."""

    foreign: float
    stolen: float

    @property
    def all(self) -> float:
        return self.foreign + self.stolen


def watched(work: Callable[[], T], theirs_s: Callable[[], float]) -> tuple[T, Disturbance]:
    """`theirs_s` is the CPU time so far of what is measured, where it is no child that ends."""
    machine, ours_s, begun_s = _machine(), _ours_s() + theirs_s(), time.perf_counter()
    found = work()
    passed_s = time.perf_counter() - begun_s
    after, spent_s = _machine(), _ours_s() + theirs_s() - ours_s
    foreign = max(0.0, after.busy_s - machine.busy_s - max(0.0, spent_s)) / passed_s
    return found, Disturbance(foreign, (after.stolen_s - machine.stolen_s) / passed_s)


class Quietest(NamedTuple):
    """Of all attempts the least disturbed that is of use, and how many there were."""

    disturbance: Disturbance
    attempts: int


def always(_found: object) -> bool:
    return True


def quietest(
    once: Callable[[], tuple[T, Disturbance]], is_of_use: Callable[[T], bool] = always
) -> tuple[T, Quietest]:
    """Tries until one is of use and not disturbed, or it has been tried often enough."""
    best, least = once()
    attempts = 1
    while (least.all > DISTURBED or not is_of_use(best)) and attempts < ATTEMPTS:
        found, disturbance = once()
        attempts += 1
        if (not is_of_use(found), disturbance.all) < (not is_of_use(best), least.all):
            best, least = found, disturbance
    return best, Quietest(least, attempts)


def _machine() -> Machine:
    return parsed(Path("/proc/stat").read_text())


def _ours_s() -> float:
    """Of this process and of the children that it waited for."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )
