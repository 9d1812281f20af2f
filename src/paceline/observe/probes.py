"""The machine as this container sees it, and one process of it: read from /proc and cgroup files.

What a container may use is its cgroup's business (v1 or v2, with limits on any level above it), not
what `nproc` or `free` say. Missing or odd files never raise: an unknown limit is None. Each call
reads afresh, in about a millisecond; nothing is kept or averaged. psutil would answer some
of it, for 26 ms of import. Called by the owner for `/metrics` and for defaults at start, and by
`paceline doctor`. `root` is for tests, which plant small trees.

Formats: proc(5), and cgroup-v1 and cgroup-v2 in the kernel's admin guide.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec

ROOT = Path("/")
V1_NO_LIMIT_BYTES = 1 << 60  # v1 says "no limit" with the largest multiple of a page

INSTRUCTION_SETS = {
    # the name shown: what /proc/cpuinfo calls it, on x86 and then on ARM
    "avx2": "avx2",
    "fma": "fma",
    "avx512": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "avx_vnni": "avx_vnni",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    "neon": "asimd",
    "dotprod": "asimddp",
    "i8mm": "i8mm",
    "sve": "sve",
    "bf16": "bf16",
}
"""Those that inference runtimes have faster kernels for."""


class Container(msgspec.Struct, frozen=True):
    """What everything in the container together may use and does use.

    `memory_used_bytes` leaves out file cache that the kernel can drop at once, as Kubernetes does.
    """

    cores: float
    memory_limit_bytes: int | None
    memory_used_bytes: int
    cpu_used_s: float
    cgroup: Literal["v1", "v2", "none"]


class Host(msgspec.Struct, frozen=True):
    """The machine around the container."""

    cores: int
    memory_bytes: int
    cpu_model: str
    instructions: tuple[str, ...]


class ProcessUsage(msgspec.Struct, frozen=True):
    """`pss_bytes` divides memory among those who map it, so it may be added up over processes."""

    cpu_s: float
    rss_bytes: int
    pss_bytes: int | None
    threads: int
    open_files: int | None


def container(root: Path = ROOT, affinity: int | None = None) -> Container:
    """`affinity` is the number of cores this process may run on, asked of the kernel if absent."""
    if affinity is None:
        affinity = len(os.sched_getaffinity(0))
    version, levels = _levels(root)
    if version == "v2":
        quotas = [_v2_cores(level) for level in levels["cpu"]]
        limits = [_integer(level / "memory.max") for level in levels["memory"]]
        used = [_v2_memory_used_bytes(level) for level in levels["memory"]]
        cpu_s = [_v2_cpu_s(level) for level in levels["cpu"]]
    else:
        quotas = [_v1_cores(level) for level in levels["cpu"]]
        limits = [_integer(level / "memory.limit_in_bytes") for level in levels["memory"]]
        used = [_v1_memory_used_bytes(level) for level in levels["memory"]]
        cpu_s = [_v1_cpu_s(level) for level in levels["cpuacct"]]

    total_bytes = _meminfo(root).get("MemTotal", V1_NO_LIMIT_BYTES)
    real = [
        (limit, i) for i, limit in enumerate(limits) if limit is not None and limit < total_bytes
    ]
    limit_bytes, tightest = min(real, default=(None, 0))
    # A limit is met by all that counts at its level; without one, our own level is what matters.
    used_bytes = next((u for u in used[tightest:] if u is not None), None)
    used_s = next((s for s in cpu_s if s is not None), None)
    return Container(
        cores=min([float(affinity), *(q for q in quotas if q is not None)]),
        memory_limit_bytes=limit_bytes,
        memory_used_bytes=_machine_memory_used_bytes(root) if used_bytes is None else used_bytes,
        cpu_used_s=_machine_cpu_s(root) if used_s is None else used_s,
        cgroup=version,
    )


def cpu_used(root: Path = ROOT) -> Callable[[], float | None]:
    """What reads again how much CPU time the container has used, as `container` tells it: one file,
    found once."""
    version, levels = _levels(root)
    read = _v2_cpu_s if version == "v2" else _v1_cpu_s
    for level in levels["cpuacct"]:
        if read(level) is not None:
            return partial(read, level)
    return partial(_machine_cpu_s, root)


def host(root: Path = ROOT) -> Host:
    lines = [line.partition(":") for line in _text(root / "proc/cpuinfo").splitlines()]
    facts = [(name.strip().lower(), value.strip()) for name, _, value in lines]
    models = [value for name, value in facts if name in ("model name", "cpu model", "hardware")]
    flags = {
        word for name, value in facts if name in ("flags", "features") for word in value.split()
    }
    return Host(
        cores=sum(name == "processor" for name, _ in facts) or os.cpu_count() or 1,
        memory_bytes=_meminfo(root).get("MemTotal", 0),
        cpu_model=models[0] if models else f"unknown {os.uname().machine}",
        instructions=tuple(name for name, flag in INSTRUCTION_SETS.items() if flag in flags),
    )


def process(pid: int, root: Path = ROOT, *, pss: bool = True) -> ProcessUsage | None:
    """None when there is no such process (any more). Proportional memory makes the kernel walk
    the page tables, 1 ms for 100 MB: leave it out with `pss=False` where that is too much."""
    directory = root / "proc" / str(pid)
    # pid (name) state ...: the name may hold anything, so count from its closing bracket
    stat = _text(directory / "stat").rpartition(")")[2].split()
    if len(stat) < 22:
        return None
    ticks_per_s, page_bytes = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    rollup = _table(directory / "smaps_rollup") if pss else {}
    try:
        open_files = len(os.listdir(directory / "fd"))
    except OSError:  # another user's, or gone between the two looks
        open_files = None
    return ProcessUsage(
        cpu_s=(int(stat[11]) + int(stat[12])) / ticks_per_s,
        rss_bytes=int(stat[21]) * page_bytes,
        pss_bytes=rollup["Pss"] * 1024 if "Pss" in rollup else None,
        threads=int(stat[17]),
        open_files=open_files,
    )


def waits_s(pid: int, root: Path = ROOT) -> dict[int, float]:
    """By thread, how long it was ready to run and had no core; none where the kernel does not
    tell."""
    found = {}
    for schedstat in (root / "proc" / str(pid) / "task").glob("*/schedstat"):
        told = _text(schedstat).split()
        if len(told) == 3:
            found[int(schedstat.parent.name)] = int(told[1]) * 1e-9
    return found


def descendants(pid: int, root: Path = ROOT) -> list[int]:
    """Its children, theirs, and so on; none where the kernel does not tell."""
    found = []
    for thread in (root / "proc" / str(pid) / "task").glob("*/children"):
        for child in map(int, _text(thread).split()):
            found += [child, *descendants(child, root)]
    return found


# --- Where our cgroup's files are ---------------------------------------------------------------


def _levels(root: Path) -> tuple[Literal["v1", "v2", "none"], dict[str, list[Path]]]:
    """Per controller, the directories that bind us: our own first, then those above it that are
    visible. A machine with both versions counts as v1 when cpu or memory are there."""
    own: dict[str, str] = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        own |= dict.fromkeys(names.split(","), path)
    v1: dict[str, list[Path]] = {}
    v2: list[Path] = []
    for line in _text(root / "proc/self/mountinfo").splitlines():
        words = line.split()
        if len(words) < 10 or "-" not in words[6:-3]:
            continue
        mounted, point = words[3:5]
        kind, _, options = words[words.index("-", 6) + 1 :][:3]
        if kind == "cgroup2" and "" in own:
            v2 = _upwards(root, mounted, point, own[""])
        elif kind == "cgroup":
            for name in set(options.split(",")) & own.keys():
                v1[name] = _upwards(root, mounted, point, own[name])
    if "cpu" in v1 or "memory" in v1:
        return "v1", {name: v1.get(name, []) for name in ("cpu", "cpuacct", "memory")}
    return "v2" if v2 else "none", {"cpu": v2, "cpuacct": v2, "memory": v2}


def _upwards(root: Path, mounted: str, point: str, own: str) -> list[Path]:
    """`mounted` is the cgroup seen at `point`: that of a container, or "/" outside of one."""
    top = root / point.lstrip("/")
    path = PurePosixPath(own)
    if not path.is_relative_to(mounted) or ".." in path.parts:
        return [top]  # our path is told from the outside: what we see is all of it
    below = path.relative_to(mounted)
    return [top / part for part in (below, *below.parents)]


# --- What is in them ----------------------------------------------------------------------------


def _v2_cores(level: Path) -> float | None:
    words = _text(level / "cpu.max").split()  # quota and period, or "max" and period
    known = len(words) == 2 and all(word.isdecimal() and int(word) > 0 for word in words)
    return int(words[0]) / int(words[1]) if known else None


def _v1_cores(level: Path) -> float | None:
    quota = _integer(level / "cpu.cfs_quota_us")
    period = _integer(level / "cpu.cfs_period_us")
    return quota / period if quota and period and min(quota, period) > 0 else None


def _v2_memory_used_bytes(level: Path) -> int | None:
    used = _integer(level / "memory.current")
    return None if used is None else used - _table(level / "memory.stat").get("inactive_file", 0)


def _v1_memory_used_bytes(level: Path) -> int | None:
    used = _integer(level / "memory.usage_in_bytes")
    cache = _table(level / "memory.stat").get("total_inactive_file", 0)
    return None if used is None else used - cache


def _v2_cpu_s(level: Path) -> float | None:
    used_us = _table(level / "cpu.stat").get("usage_usec")
    return None if used_us is None else used_us / 1e6


def _v1_cpu_s(level: Path) -> float | None:
    used_ns = _integer(level / "cpuacct.usage")
    return None if used_ns is None else used_ns / 1e9


def _machine_memory_used_bytes(root: Path) -> int:
    known = _meminfo(root)
    return known.get("MemTotal", 0) - known.get("MemAvailable", 0)


def _machine_cpu_s(root: Path) -> float:
    words = _text(root / "proc/stat").partition("\n")[0].split()
    ticks = [int(word) for word in words[1:9] if word.isdecimal()]
    busy = sum(ticks[:3]) + sum(ticks[5:])  # without idle and waiting for disks
    return busy / os.sysconf("SC_CLK_TCK")


def _meminfo(root: Path) -> dict[str, int]:
    return {name: kib * 1024 for name, kib in _table(root / "proc/meminfo").items()}


# --- Reading ------------------------------------------------------------------------------------


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _integer(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdecimal() else None  # "max" is no number


def _table(path: Path) -> dict[str, int]:
    """Lines of a name and a number, as in memory.stat ("file 4096") and meminfo ("Pss: 4 kB")."""
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}
