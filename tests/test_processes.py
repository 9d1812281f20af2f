"""Links, restarts, and the state directory's lock."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.processes.child import Child, how_it_ended
from paceline.processes.link import FDS_PER_MESSAGE, Link, pair
from paceline.processes.ports import listener_on
from paceline.processes.restart import Restart
from paceline.processes.state_dir import Holder, StateDir, socket_address
from paceline.terms.errors import StateInUse, StateUnusable
from paceline.terms.limits import LINK_BACKLOG, RESTART_FIRST_S, RESTART_MOST_S, RESTART_STEADY_S


class Note(msgspec.Struct):
    text: str


decoder = msgspec.json.Decoder(Note)


class Heard:
    """Collects what one end of a link receives."""

    def __init__(self, end: socket.socket) -> None:
        self.notes: list[str] = []
        self.fds: list[int] = []
        self.ended = asyncio.Event()
        self.enough = asyncio.Event()
        self.want = 1
        self.link = Link(end, decoder, self._on_message, self.ended.set)

    def _on_message(self, note: Note, fds: list[int]) -> None:
        self.notes.append(note.text)
        self.fds += fds
        if len(self.notes) >= self.want:
            self.enough.set()


def linked(scenario: Callable[[Heard, Heard], object]) -> None:
    async def main() -> None:
        left, right = (Heard(end) for end in pair())
        try:
            result = scenario(left, right)
            if asyncio.iscoroutine(result):
                await result
        finally:
            left.link.close()
            right.link.close()

    asyncio.run(main())


def test_a_message_arrives_whole_with_the_files_sent_along() -> None:
    async def scenario(left: Heard, right: Heard) -> None:
        reading, writing = os.pipe()
        left.link.send(Note("x" * 50_000), [writing])
        await right.enough.wait()
        assert right.notes == ["x" * 50_000]
        os.write(right.fds[0], b"through the copy")
        assert os.read(reading, 99) == b"through the copy"
        for fd in (reading, writing, *right.fds):
            os.close(fd)

    linked(scenario)


def test_sent_files_are_only_lent() -> None:
    async def scenario(left: Heard, right: Heard) -> None:
        pipes = [os.pipe() for _ in range(FDS_PER_MESSAGE)]
        left.link.send(Note("files"), [writing for _, writing in pipes])
        await right.enough.wait()
        for fd in right.fds:
            os.close(fd)
        for number, (reading, writing) in enumerate(pipes):
            os.write(writing, b"%d" % number)
            assert os.read(reading, 9) == b"%d" % number
            os.close(writing)
            assert os.read(reading, 1) == b""  # nobody else holds it
            os.close(reading)

    linked(scenario)


def test_messages_wait_in_order_for_a_slow_reader() -> None:
    async def scenario(left: Heard, right: Heard) -> None:
        right.want = 100
        for number in range(right.want):
            left.link.send(Note(f"{number}" + "." * 10_000))
        await right.enough.wait()
        assert [note.rstrip(".") for note in right.notes] == [str(n) for n in range(100)]

    linked(scenario)


def test_a_peer_that_does_not_read_is_cut_off_at_the_bound() -> None:
    async def scenario(left: Heard, right: Heard) -> None:
        for _ in range(2 * LINK_BACKLOG):
            left.link.send(Note("y" * 100_000))
            if left.link.closed:
                break
        await left.ended.wait()
        await right.ended.wait()

    linked(scenario)


def test_the_end_of_one_process_is_the_end_of_the_link() -> None:
    async def scenario(left: Heard, right: Heard) -> None:
        left.link.close()
        await right.ended.wait()
        right.link.send(Note("to nobody"))  # no error, and nothing to wait for

    linked(scenario)


def test_a_child_reports_how_it_ended_and_what_it_said() -> None:
    async def main() -> tuple[int, list[str]]:
        ours, theirs = pair()
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        heard = Heard(ours)
        say = 'import os; os.write(3, b\'{"text": "hello"}\'); raise SystemExit(7)'
        Child(["-c", say], theirs, ended.set_result)
        status = await ended
        await heard.ended.wait()
        return status, heard.notes

    status, notes = asyncio.run(main())
    assert how_it_ended(status) == "exit status 7"
    assert notes == ["hello"]


def test_a_killed_child_is_reaped() -> None:
    async def main() -> int:
        ours, theirs = pair()
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        child = Child(["-c", "import signal; signal.pause()"], theirs, ended.set_result)
        child.kill()
        with ours:
            return await ended

    assert how_it_ended(asyncio.run(main())) == "killed by SIGKILL"


@given(st.lists(st.floats(min_value=0, max_value=100), max_size=40))
def test_restarts_are_prompt_for_the_steady_and_bounded_for_the_rest(lives_s: list[float]) -> None:
    restart = Restart()
    for number, lived_s in enumerate(lives_s):
        wait_s = restart.died(lived_s)
        assert 0 <= wait_s <= RESTART_MOST_S
        if lived_s >= RESTART_STEADY_S or number == 0:
            assert wait_s == 0


def test_restart_waits_double() -> None:
    restart = Restart()
    waits_s = [restart.died(0.0) for _ in range(10)]
    assert waits_s[:4] == [0, RESTART_FIRST_S, 2 * RESTART_FIRST_S, 4 * RESTART_FIRST_S]
    assert waits_s[-1] == RESTART_MOST_S


def test_a_second_holder_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    held = StateDir.hold(tmp_path / "state")
    held.note(Holder(os.getpid(), "http://127.0.0.1:1234"))
    with pytest.raises(StateInUse, match=rf"process {os.getpid()} at http://127.0.0.1:1234"):
        StateDir.hold(tmp_path / "state")
    held.release()
    StateDir.hold(tmp_path / "state").release()


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    hold = (
        "import os, pathlib; from paceline.processes.state_dir import StateDir;"
        f"StateDir.hold(pathlib.Path({str(tmp_path)!r})); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", hold], check=False)
    StateDir.hold(tmp_path).release()


def test_a_file_in_the_directorys_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a directory")
    with pytest.raises(StateUnusable, match="not a directory"):
        StateDir.hold(tmp_path / "state")


def test_the_socket_works_in_a_directory_with_a_very_long_path(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 200) / ("e" * 200)
    held = StateDir.hold(deep)
    listener = held.listen()
    directory = os.open(deep, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(socket_address(directory))
    os.close(directory)
    assert (deep / "owner.sock").stat().st_mode & 0o777 == 0o600
    listener.close()
    held.release()


def test_who_listens_on_a_port_is_found() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        holder = listener_on(listener.getsockname()[1])
    assert holder is not None
    assert f"(process {os.getpid()})" in holder
