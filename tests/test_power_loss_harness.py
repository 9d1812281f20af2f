"""Does power_loss.py find what is wrong and leave in peace what is right? Told by toy programs."""

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from file_history import ROOT, Inode, Place, Recording, Resize, Sync, Unexplained, Write
from power_loss import SECTOR_BYTES, Tree, images, read_tree, record

needs_strace = pytest.mark.needs("strace")

PRELUDE = """
import mmap, os, socket, sqlite3, subprocess, sys, threading
os.chdir(sys.argv[1])

def ack(n):
    os.write(1, b"ack %d." % n)

def put(name, content, sync=True):
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(fd, content)
    if sync:
        os.fsync(fd)
    os.close(fd)

def fsync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
"""

ACKNOWLEDGED = re.compile(rb"ack (\d+)\.")

Judge = Callable[[Path, int], str | None]
"""Says what is wrong with a directory, given the last number acknowledged (0 for none)."""


def run(directory: Path, program: str) -> Recording:
    directory.mkdir()
    output = b""

    def drive(process: "subprocess.Popen[bytes]") -> None:
        nonlocal output
        output, _ = process.communicate(timeout=60)

    command = [sys.executable, "-S", "-c", PRELUDE + program, str(directory)]
    return record(command, directory, os.environ, drive, acknowledged=ACKNOWLEDGED)


def failures(recording: Recording, judge: Judge, scratch: Path, count: int = 300) -> list[str]:
    scratch.mkdir(exist_ok=True)
    found = []
    for number, image in enumerate(images(recording, seed=5, count=count)):
        place = scratch / str(number)
        image.write_to(place)
        last = int(image.acknowledged[-1]) if image.acknowledged else 0
        if wrong := judge(place, last):
            found.append(f"{wrong} ({image.description})")
    assert number + 1 == count
    return found


def whole_and_not_older(name: str) -> Judge:
    def judge(directory: Path, acknowledged: int) -> str | None:
        path = directory / name
        words = set(path.read_text().split()) if path.exists() else {"0"}
        if len(words) != 1 or (path.exists() and path.stat().st_size != 2000):
            return f"{name} is damaged"
        value = int(words.pop())
        return f"{name} is {value}, not {acknowledged}" if value < acknowledged else None

    return judge


RIGHT_REPLACEMENT = """
for n in range(1, 21):
    put("new", b"%03d " % n * 500)
    os.rename("new", "value")
    fsync(".")
    ack(n)
"""


@needs_strace
def test_a_file_that_is_replaced_rightly_survives(tmp_path: Path) -> None:
    recording = run(tmp_path / "d", RIGHT_REPLACEMENT)
    assert failures(recording, whole_and_not_older("value"), tmp_path / "images") == []


@needs_strace
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('fsync(".")\n    ack(n)', 'ack(n)\n    fsync(".")'),
        ('    fsync(".")\n', ""),
        ("* 500)", "* 500, sync=False)"),
        ('put("new"', 'ack(n)\n    put("new"'),
        ('os.rename("new", "value")', 'put("value", b"%03d " % n * 500)'),
    ],
    ids=["ack too early", "names not synced", "data not synced", "ack first", "not atomic"],
)
def test_a_file_that_is_replaced_wrongly_is_found(tmp_path: Path, right: str, wrong: str) -> None:
    assert right in RIGHT_REPLACEMENT
    recording = run(tmp_path / "d", RIGHT_REPLACEMENT.replace(right, wrong))
    assert failures(recording, whole_and_not_older("value"), tmp_path / "images")


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize(("sync", "is_right"), [('fsync(".")', True), ("pass", False)])
def test_a_new_directory_is_lost_unless_its_parent_is_synced(
    tmp_path: Path, sync: str, is_right: bool
) -> None:
    program = f"""
os.mkdir("state")
{sync}
put("state/new", b"001 " * 500)
os.rename("state/new", "state/value")
fsync("state")
ack(1)
"""
    recording = run(tmp_path / "d", program)
    found = failures(recording, whole_and_not_older("state/value"), tmp_path / "images")
    assert (found == []) is is_right


@needs_strace
@pytest.mark.slow
def test_writes_are_torn_at_sectors_and_a_later_one_may_come_first(tmp_path: Path) -> None:
    program = """
put("value", b"A" * 4096)
fsync(".")
fd = os.open("value", os.O_WRONLY)
os.pwrite(fd, b"B" * 2048, 0)
os.pwrite(fd, b"C" * 2000, 2048)
"""
    recording = run(tmp_path / "d", program)
    seen = set()
    for image in images(recording, seed=1, count=1000):
        content = image.tree.get("value") or b""
        if b"B" in content or b"C" in content:
            sectors = [content[at : at + SECTOR_BYTES] for at in range(0, 4096, SECTOR_BYTES)]
            assert all(len(set(sector)) == 1 for sector in sectors[:-1])
            assert sectors[-1][464:] == b"A" * 48
            seen.add("".join(chr(sector[0]) for sector in sectors))
    assert len(seen) > 10
    assert {"BBBBCCCC", "AAAACCCC", "BBBBAAAA"} <= seen


@needs_strace
@pytest.mark.slow
def test_names_may_be_lost_each_for_itself(tmp_path: Path) -> None:
    program = """
put("a", b"a")
fsync(".")
put("b", b"b")
os.rename("a", "c")
os.rename("b", "a")
os.link("c", "d")
os.unlink("c")
"""
    recording = run(tmp_path / "d", program)
    seen = {tuple(sorted(image.tree.items())) for image in images(recording, seed=2, count=400)}
    assert {(), (("a", b"b"), ("d", b"a")), (("a", b"a"), ("b", b"b"))} <= seen
    assert {(("a", b"a"),), (("a", b"b"), ("c", b"a")), (("a", b"b"),)} <= seen
    assert (("a", b"a"), ("c", b"a")) not in seen  # a rename is never half done
    assert any(("b", b"") in names for names in seen)  # a name may come before the data


# SQLite is the store this harness is for: it must pass where it promises to, and fail elsewhere.

INSERT = """
rows = sqlite3.connect("rows.db", isolation_level=None)
rows.execute("PRAGMA journal_mode = WAL")
rows.execute("PRAGMA synchronous = {synchronous}")
rows.execute("PRAGMA wal_autocheckpoint = 20")
rows.execute("CREATE TABLE rows (n INTEGER PRIMARY KEY, filling TEXT)")
for n in range(1, {last} + 1):
    rows.execute("INSERT INTO rows VALUES (?, ?)", (n, "x" * 300))
    ack(n)
{end}
"""


def all_rows(directory: Path, acknowledged: int) -> str | None:
    try:
        with closing(sqlite3.connect(directory / "rows.db")) as database:
            if database.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                return "damaged"
            tables = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            rows = database.execute("SELECT n FROM rows ORDER BY n").fetchall() if tables else []
    except sqlite3.DatabaseError as error:
        return str(error)
    if rows != [(n + 1,) for n in range(len(rows))] or len(rows) < acknowledged:
        return f"{len(rows)} rows, not {acknowledged}"
    return None


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("end", ["rows.close()", "os.kill(os.getpid(), 9)"])
def test_sqlite_with_synchronous_full_never_fails(tmp_path: Path, end: str) -> None:
    recording = run(tmp_path / "d", INSERT.format(synchronous="FULL", last=100, end=end))
    assert failures(recording, all_rows, tmp_path / "images") == []


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("synchronous", ["NORMAL", "OFF"])
def test_sqlite_with_less_is_caught(tmp_path: Path, synchronous: str) -> None:
    recording = run(tmp_path / "d", INSERT.format(synchronous=synchronous, last=100, end=""))
    assert failures(recording, all_rows, tmp_path / "images")


@needs_strace
@pytest.mark.slow
def test_a_mapped_file_is_missing_empty_or_garbage(tmp_path: Path) -> None:
    recording = run(tmp_path / "d", INSERT.format(synchronous="FULL", last=5, end="os._exit(0)"))
    contents = [image.tree.get("rows.db-shm") for image in images(recording, seed=3, count=400)]
    mapped = contents[200:]
    assert None in mapped
    assert b"" in mapped
    assert len({content for content in mapped if content}) > 10


# Recording.


@needs_strace
@pytest.mark.slow
def test_what_was_there_before_is_safe(tmp_path: Path) -> None:
    def drive(process: "subprocess.Popen[bytes]") -> None:
        process.communicate(timeout=60)

    (tmp_path / "d" / "within").mkdir(parents=True)
    (tmp_path / "d" / "within" / "old").write_bytes(b"old")
    program = 'put("within/old", b"new", sync=False); os.unlink("within/old")'
    command = [sys.executable, "-S", "-c", PRELUDE + program, str(tmp_path / "d")]
    recording = record(command, tmp_path / "d", os.environ, drive, acknowledged=ACKNOWLEDGED)
    found = {image.tree.get("within/old") for image in images(recording, seed=1, count=100)}
    assert found == {b"old", b"new", b"", None}


@needs_strace
@pytest.mark.slow
def test_threads_children_and_every_way_to_write_are_followed(tmp_path: Path) -> None:
    program = """
def append(n):
    for _ in range(30):
        fd = os.open(f"thread-{n}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, b"x" * 100)
        os.fdatasync(fd)
        os.close(fd)

threads = [threading.Thread(target=append, args=(n,)) for n in range(4)]
for each in threads:
    each.start()
for each in threads:
    each.join()
inherited = os.open("inherited", os.O_RDWR | os.O_CREAT)
if os.fork() == 0:
    os.write(inherited, b"child ")
    os._exit(0)
os.wait()
os.write(inherited, b"parent")
os.lseek(inherited, -2, os.SEEK_CUR)
os.writev(inherited, [b"N", b"T"])
os.pwritev(inherited, [b"C", b"H"], 0)
os.posix_fallocate(inherited, 0, 100)
os.set_inheritable(inherited, True)
echo = f"echo grandchild >&{inherited}; cd .. && echo one > d/relative; mv d/relative d/moved"
subprocess.run(["sh", "-c", echo], close_fds=False)
os.dup2(inherited, 50)
os.close(inherited)
os.ftruncate(50, 30)
os.mkdir("deep")
deep = os.open("deep", os.O_RDONLY)
below = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=deep)
os.rename("deep", "down")
os.write(below, b"y")
os.rename("file", "there", src_dir_fd=deep, dst_dir_fd=deep)
os.unlink("down/there")
os.write(below, b"z")
listening = socket.socket(socket.AF_UNIX)
listening.bind("socket")
os.rename("socket", "moved-socket")
with open("text", "w+") as file:
    file.write("abc" * 5000)
    file.seek(7)
    file.write("changed")
os.truncate("text", 14000)
"""
    recording = run(tmp_path / "d", program)  # which compares with what is there at the end
    assert b"CHild pareNT" in (read_tree(tmp_path / "d")["inherited"] or b"")
    every = [image for image in images(recording, 1, 400) if "everything" in image.description]
    assert every[-1].tree.keys() > {"thread-0", "thread-3", "moved"}


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        ("os.symlink('a', 'b')", "symlinks"),
        ("os.open('a', os.O_WRONLY | os.O_CREAT | os.O_DSYNC)", "O_DSYNC"),
        ("put('a', b'a'); put('b', b''); b = os.open('b', os.O_WRONLY); "
         "os.sendfile(b, os.open('a', os.O_RDONLY), 0, 1)", "sendfile"),
        ("put('../a', b''); os.rename('../a', 'a')", "across the edge"),
    ],
)  # fmt: skip
def test_what_is_not_modelled_is_refused(tmp_path: Path, program: str, complaint: str) -> None:
    with pytest.raises(Unexplained, match=complaint):
        run(tmp_path / "d", program)


@needs_strace
@pytest.mark.slow
def test_a_change_that_the_recording_missed_is_noticed(tmp_path: Path) -> None:
    def drive(process: "subprocess.Popen[bytes]") -> None:
        process.communicate(timeout=60)
        (tmp_path / "value").write_text("somebody else's")

    command = [sys.executable, "-S", "-c", PRELUDE + "put('value', b'mine')", str(tmp_path)]
    with pytest.raises(Unexplained, match="value"):
        record(command, tmp_path, os.environ, drive, acknowledged=ACKNOWLEDGED)


# Images.


def of_one_file(operations: list[tuple[int, int]]) -> Recording:
    """A file of eight sectors, synced, then written to: (0, _) syncs, (n, at) fills two sectors
    from `at` on with n."""
    content = bytes(8 * SECTOR_BYTES)
    events: list[Write | Sync] = []
    for step, (filling, sector) in enumerate(operations):
        times = (2 * step, 2 * step + 1)
        data = bytes([filling]) * SECTOR_BYTES * 2
        events.append(Write(*times, 1, sector * SECTOR_BYTES, data) if filling else Sync(*times, 1))
    inodes = {ROOT: Inode("directory", "."), 1: Inode("file", "file")}
    return Recording(inodes, {0: 1}, {0: Place(ROOT, "file")}, {1: content}, events)


@given(
    operations=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12),
    seed=st.integers(0, 1000),
)
def test_a_sector_is_what_was_synced_or_written_since(
    operations: list[tuple[int, int]], seed: int
) -> None:
    recording = of_one_file(operations)
    steps = len(operations) * 2
    for image in images(recording, seed, 30):
        match = re.search(rf"at step (\d+) of {steps}", image.description)
        assert match is not None
        issued, done = (int(match[1]) + 1) // 2, int(match[1]) // 2
        allowed = [{0} for _ in range(8)]
        for number, (filling, at) in enumerate(operations[:issued]):
            if filling:
                for sector in range(at, at + 2):
                    allowed[sector].add(filling)
            elif number < done:
                allowed = [{last_written(operations[:number], n)} for n in range(8)]
        content = image.tree["file"] or b""
        for sector in range(8):
            part = content[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES]
            assert len(set(part)) == 1
            assert part[0] in allowed[sector]


def last_written(operations: list[tuple[int, int]], sector: int) -> int:
    written = [filling for filling, at in operations if filling and at <= sector < at + 2]
    return written[-1] if written else 0


def test_the_same_seed_gives_the_same_images() -> None:
    recording = of_one_file([(n % 5, n % 7) for n in range(50)])

    def drawn(seed: int) -> list[tuple[Tree, str]]:
        return [(image.tree, image.description) for image in images(recording, seed, 50)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_a_call_that_was_under_way_is_not_covered_by_a_sync() -> None:
    content = b"a" * SECTOR_BYTES
    events = [Write(0, 3, 1, 0, b"b" * SECTOR_BYTES), Sync(2, 5, 1), Resize(6, 7, 1, 0, False)]
    inodes = {ROOT: Inode("directory", "."), 1: Inode("file", "file")}
    recording = Recording(inodes, {0: 1}, {0: Place(ROOT, "file")}, {1: content}, events)
    seen = {image.tree["file"] for image in images(recording, 1, 200)}
    assert seen == {content, b"b" * SECTOR_BYTES, b""}
    after = [i.tree["file"] for i in images(recording, 1, 200) if "sync of" in i.description]
    assert content in after
