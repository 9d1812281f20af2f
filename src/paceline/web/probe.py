"""CPU and memory of our processes and of the container around them, as Measurements.

CPU time of fronts that have ended is kept by the kernel for their parent, and of model processes,
which are children of fronts, by what was last seen of them: the sum over a role never falls. Called
by the owner when somebody asks for metrics or looks at the page, and each second for the history.
"""

import os
import resource
from collections.abc import Callable, Iterable, Mapping

import msgspec

from paceline.observe.gpus import Gpu
from paceline.observe.probes import (
    Container,
    ProcessUsage,
    container,
    cpu_used,
    descendants,
    process,
    waits_s,
)
from paceline.terms.measurement import Measurement
from paceline.terms.metric import (
    CONTAINER_CORES,
    CONTAINER_CPU_SECONDS,
    CONTAINER_MEMORY,
    CONTAINER_MEMORY_LIMIT,
    CPU_SECONDS,
    CPU_WAIT_SECONDS,
    GPU_BUSY,
    GPU_CELSIUS,
    GPU_CELSIUS_LIMIT,
    GPU_MEMORY,
    GPU_MEMORY_LIMIT,
    GPU_WATTS,
    OPEN_FILES,
    RESIDENT_BYTES,
)

CONTAINER_S = 5.0


def ended_cpu_s() -> float:
    """CPU time of the children of this process that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


class Lasting:
    """Seconds of processes or threads that come and go, as a sum that does not fall."""

    def __init__(self) -> None:
        self._living: dict[int, float] = {}
        self._ended_s = 0.0

    def seen(self, now: Mapping[int, float]) -> float:
        """All of it, with what each of those used that live now."""
        for pid, before_s in self._living.items():
            if now.get(pid, 0.0) < before_s:  # it ended; its number may be another's by now
                self._ended_s += before_s
        self._living = dict(now)
        return self._ended_s + sum(now.values())


class Recent:
    """The container as it was at most CONTAINER_S ago, for whoever looks each second: reading all
    its files takes four times as long as the rest. What it has used of the cores is read anew: a
    second's share is told beside that of our own processes."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._seen_s = float("-inf")
        self._seen: Container | None = None
        self._cpu_used = cpu_used()

    def __call__(self) -> Container:
        now = self._now()
        if self._seen is None or now - self._seen_s >= CONTAINER_S:
            self._seen, self._seen_s = container(), now
        elif (used_s := self._cpu_used()) is not None:
            self._seen = msgspec.structs.replace(self._seen, cpu_used_s=used_s)
        return self._seen


class ModelCpu(Lasting):
    """CPU time of the model processes there are and were; and `waits`, by role, how long threads of
    ours had no core."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = {"front": Lasting(), "model": Lasting()}


def probe(
    front_pids: list[int],
    not_ours_s: float,
    of_models: ModelCpu,
    around: Callable[[], Container] = container,
) -> list[Measurement]:
    """`not_ours_s`: what had ended before the first front, such as an installation."""
    living = [usage for pid in front_pids if (usage := process(pid, pss=False)) is not None]
    below = [each for pid in front_pids for each in descendants(pid)]
    models = {pid: usage for pid in below if (usage := process(pid, pss=False)) is not None}
    models_cpu_s = of_models.seen({pid: usage.cpu_s for pid, usage in models.items()})
    own = process(os.getpid(), pss=False)
    assert own is not None, "this process is alive"
    seen = around()
    waiting = {"front": front_pids, "model": below}
    measured = [
        *_of_role("owner", [own], own.cpu_s),
        *_of_role("front", living, ended_cpu_s() - not_ours_s + sum(one.cpu_s for one in living)),
        *_of_role("model", [*models.values()], models_cpu_s),
        Measurement(CONTAINER_CORES, (), seen.cores),
        Measurement(CONTAINER_CPU_SECONDS, (), seen.cpu_used_s),
        Measurement(CONTAINER_MEMORY, (), float(seen.memory_used_bytes)),
    ]
    for role, pids in waiting.items():
        waits = {thread: each_s for pid in pids for thread, each_s in waits_s(pid).items()}
        if waits:
            waited_s = of_models.waits[role].seen(waits)
            measured.append(Measurement(CPU_WAIT_SECONDS, (role,), waited_s))
    if seen.memory_limit_bytes is not None:
        limit = float(seen.memory_limit_bytes)
        measured.append(Measurement(CONTAINER_MEMORY_LIMIT, (), limit))
    return measured


def of_gpus(gpus: Iterable[Gpu]) -> list[Measurement]:
    """Of each what it can tell."""
    told = []
    for each in gpus:
        values = {
            GPU_BUSY: each.busy,
            GPU_MEMORY: each.memory_used_bytes,
            GPU_MEMORY_LIMIT: each.memory_bytes,
            GPU_WATTS: each.watts,
            GPU_CELSIUS: each.celsius,
            GPU_CELSIUS_LIMIT: each.slow_celsius,
        }
        for metric, value in values.items():
            if value is not None:
                told.append(Measurement(metric, (str(each.index),), float(value)))
    return told


def _of_role(role: str, processes: list[ProcessUsage], cpu_s: float) -> list[Measurement]:
    return [
        Measurement(CPU_SECONDS, (role,), cpu_s),
        Measurement(RESIDENT_BYTES, (role,), float(sum(one.rss_bytes for one in processes))),
        Measurement(OPEN_FILES, (role,), float(sum(one.open_files or 0 for one in processes))),
    ]
