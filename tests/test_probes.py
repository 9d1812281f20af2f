"""Probes: what a container may use, told from planted trees of each kind, and from this machine."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.observe.probes import Container, container, cpu_used, host, process

GIB = 1 << 30
MEMINFO = "MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:   12582912 kB\n"
V2_MOUNT = "30 23 0:26 {mounted} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = "35 31 0:32 {mounted} /sys/fs/cgroup/{name} rw shared:9 - cgroup cgroup rw,{name}"


class Tree:
    """A planted file system root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.put("proc/meminfo", MEMINFO)
        self.put("proc/stat", "cpu  100 10 50 9999 77 1 2 3 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")

    def put(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def v2(self, own: str, mounted: str = "/") -> None:
        self.put("proc/self/cgroup", f"0::{own}\n")
        mounts = "31 1 0:1 / /proc rw - proc proc rw\n" + V2_MOUNT.format(mounted=mounted)
        self.put("proc/self/mountinfo", mounts + "\n")

    def v1(self, own: str, mounted: str = "/") -> None:
        names = ["memory", "cpu,cpuacct"]
        lines = [f"{i}:{name}:{own}" for i, name in enumerate(names)]
        self.put("proc/self/cgroup", "\n".join([*lines, "1:name=systemd:/x", "0::/"]) + "\n")
        mounts = [V1_MOUNT.format(mounted=mounted, name=name) for name in names]
        mounts.append(V2_MOUNT.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified"))
        self.put("proc/self/mountinfo", "\n".join(mounts).format(mounted="/") + "\n")

    def v2_level(self, path: str, *, cpu: str = "max 100000", memory: str = "max") -> None:
        at = f"sys/fs/cgroup/{path}"
        self.put(f"{at}/cpu.max", f"{cpu}\n")
        self.put(f"{at}/cpu.stat", "usage_usec 2500000\nuser_usec 1\n")
        self.put(f"{at}/memory.max", f"{memory}\n")
        self.put(f"{at}/memory.current", f"{3 * GIB}\n")
        self.put(f"{at}/memory.stat", f"anon 1\ninactive_file {GIB}\n")

    def v1_level(self, path: str, *, quota: int = -1, memory: int = 9223372036854771712) -> None:
        cpu, mem = f"sys/fs/cgroup/cpu,cpuacct/{path}", f"sys/fs/cgroup/memory/{path}"
        self.put(f"{cpu}/cpu.cfs_quota_us", f"{quota}\n")
        self.put(f"{cpu}/cpu.cfs_period_us", "100000\n")
        self.put(f"{cpu}/cpuacct.usage", "2500000000\n")
        self.put(f"{mem}/memory.limit_in_bytes", f"{memory}\n")
        self.put(f"{mem}/memory.usage_in_bytes", f"{3 * GIB}\n")
        self.put(f"{mem}/memory.stat", f"inactive_file 5\ntotal_inactive_file {GIB}\n")

    def read(self, affinity: int = 8) -> Container:
        """The time used is the same when it is read alone."""
        seen = container(self.root, affinity)
        assert cpu_used(self.root)() == seen.cpu_used_s
        return seen


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_v2_in_a_container(tree: Tree) -> None:
    tree.v2("/")
    tree.v2_level("", cpu="150000 100000", memory=str(4 * GIB))
    assert tree.read() == Container(1.5, 4 * GIB, 2 * GIB, 2.5, "v2")


def test_v1_in_a_container_that_shows_the_paths_of_outside(tree: Tree) -> None:
    tree.v1("/docker/abc", mounted="/docker/abc")
    tree.v1_level("", quota=150_000, memory=4 * GIB)
    assert tree.read() == Container(1.5, 4 * GIB, 2 * GIB, 2.5, "v1")


def test_v1_whose_own_path_cannot_be_seen_counts_what_can(tree: Tree) -> None:
    tree.v1("/kubepods/pod1/abc", mounted="/elsewhere")
    tree.v1_level("", quota=50_000, memory=GIB)
    assert tree.read().cores == 0.5
    assert tree.read().memory_limit_bytes == GIB


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_tightest_limit_above_us_counts(tree: Tree, version: str) -> None:
    if version == "v2":
        tree.v2("/a/b")
        tree.v2_level("a/b", cpu="400000 100000", memory=str(8 * GIB))
        tree.v2_level("a", cpu="200000 100000", memory=str(2 * GIB))
        tree.put("sys/fs/cgroup/a/memory.current", f"{7 * GIB}\n")
    else:
        tree.v1("/a/b")
        tree.v1_level("a/b", quota=400_000, memory=8 * GIB)
        tree.v1_level("a", quota=200_000, memory=2 * GIB)
        tree.v1_level("")
        tree.put("sys/fs/cgroup/memory/a/memory.usage_in_bytes", f"{7 * GIB}\n")
    seen = tree.read()
    assert (seen.cores, seen.memory_limit_bytes, seen.cgroup) == (2.0, 2 * GIB, version)
    assert seen.memory_used_bytes == 6 * GIB  # at the level of the limit, without droppable cache


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_no_limits_leave_the_cores_we_may_run_on(tree: Tree, version: str) -> None:
    if version == "v2":
        tree.v2("/user.slice/session")
        tree.v2_level("user.slice/session")
    else:
        tree.v1("/user.slice/session")
        tree.v1_level("user.slice/session")
    seen = tree.read(affinity=3)
    assert (seen.cores, seen.memory_limit_bytes, seen.cgroup) == (3.0, None, version)
    assert (seen.memory_used_bytes, seen.cpu_used_s) == (2 * GIB, 2.5)


def test_a_quota_wider_than_the_cores_adds_none(tree: Tree) -> None:
    tree.v2("/")
    tree.v2_level("", cpu="1600000 100000")
    assert tree.read(affinity=2).cores == 2.0


def test_a_limit_beyond_the_machine_is_none(tree: Tree) -> None:
    tree.v2("/")
    tree.v2_level("", memory=str(64 * GIB))
    assert tree.read().memory_limit_bytes is None


def test_v2_with_controllers_only_above_us(tree: Tree) -> None:
    tree.v2("/a/b")
    tree.v2_level("a", memory=str(4 * GIB))
    assert tree.read() == Container(8.0, 4 * GIB, 2 * GIB, 2.5, "v2")


def test_without_cgroups_the_machine_itself_is_read(tree: Tree) -> None:
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    assert tree.read(affinity=4) == Container(4.0, None, 4 * GIB, 166 / ticks_per_s, "none")


def test_nothing_to_read_is_no_error(tmp_path: Path) -> None:
    assert container(tmp_path, 2) == Container(2.0, None, 0, 0.0, "none")
    assert process(1, tmp_path) is None
    assert host(tmp_path).cores >= 1


words = st.sampled_from(
    [
        *"01²-:/",
        *["cpu", "memory", "cgroup", "cgroup2", "max", "rw", "..", "/a", "/sys/fs/cgroup"],
        "9" * 30,
        "\n",
    ]
)
texts = st.lists(words, max_size=30).map(" ".join) | st.lists(words, max_size=30).map("".join)


@given(st.lists(texts, min_size=9, max_size=9))
def test_odd_files_are_no_error(contents: list[str]) -> None:
    names = ["proc/self/cgroup", "proc/self/mountinfo", "proc/meminfo", "proc/stat", "proc/cpuinfo"]
    names += [f"sys/fs/cgroup/{name}" for name in ("cpu.max", "memory.max", "memory.current")]
    with tempfile.TemporaryDirectory() as directory:
        tree = Tree(Path(directory))
        for name, text in zip([*names, "sys/fs/cgroup/cpu.stat"], contents, strict=True):
            tree.put(name, text)
        assert tree.read().cores > 0
        tree.v2("/")  # now the odd limits are found, too
        assert tree.read().cores > 0
        assert host(tree.root).cores >= 1


CPUINFO = {
    "x86": "processor : 0\nmodel name : Some CPU\nflags : fpu avx2 fma avx512f avx512_vnni\n\n"
    "processor : 1\nmodel name : Some CPU\nflags : fpu avx2\n",
    "arm": "processor : 0\nFeatures : fp asimd asimddp\nCPU implementer : 0x41\n",
}


def test_instruction_sets_are_named_alike_on_both_families(tree: Tree) -> None:
    tree.put("proc/cpuinfo", CPUINFO["x86"])
    seen = host(tree.root)
    assert (seen.cores, seen.cpu_model, seen.memory_bytes) == (2, "Some CPU", 16 * GIB)
    assert seen.instructions == ("avx2", "fma", "avx512", "avx512_vnni")
    tree.put("proc/cpuinfo", CPUINFO["arm"])
    assert host(tree.root).instructions == ("neon", "dotprod")
    assert host(tree.root).cpu_model.startswith("unknown")


def test_a_process_is_read_whatever_its_name(tree: Tree) -> None:
    fields = ["S", *["0"] * 10, "150", "50", *["0"] * 4, "7", *["0"] * 3, "1000", "0"]
    tree.put("proc/42/stat", f"42 (a) (b c) {' '.join(fields)}\n")
    tree.put("proc/42/smaps_rollup", "00-ff ---p 0 00:00 0 [rollup]\nRss: 9 kB\nPss:    5 kB\n")
    tree.put("proc/42/fd/0", "")
    tree.put("proc/42/fd/1", "")
    seen = process(42, tree.root)
    assert seen is not None
    assert seen.cpu_s == 200 / os.sysconf("SC_CLK_TCK")
    assert seen.rss_bytes == 1000 * os.sysconf("SC_PAGE_SIZE")
    assert (seen.pss_bytes, seen.threads, seen.open_files) == (5 * 1024, 7, 2)
    without = process(42, tree.root, pss=False)
    assert without is not None
    assert without.pss_bytes is None


def test_this_process_and_this_machine_look_real() -> None:
    before = process(os.getpid())
    with open(os.devnull):
        seen = process(os.getpid())
    assert before is not None
    assert seen is not None
    assert seen.rss_bytes > 10_000_000
    assert seen.pss_bytes is None or 0 < seen.pss_bytes <= 2 * seen.rss_bytes
    assert seen.cpu_s > 0
    assert seen.open_files == (before.open_files or 0) + 1
    here = container()
    assert 0 < here.cores <= (os.cpu_count() or 1)
    assert 0 < here.memory_used_bytes <= host().memory_bytes
    assert here.cpu_used_s > 0
