"""A saved file is heard, however an editor writes it; and a server told to heeds it."""

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from paceline.changes.desk import Desk
from paceline.config.source import Source
from paceline.processes.saved import Saved
from paceline.serve.knobs import catalogue
from paceline.terms.errors import CannotStart
from paceline.web.settings_api import SettingsInForce
from servers import Server

WITHIN_S = 20.0


def until(holds: Callable[[], bool]) -> None:
    """Asks a running server again and again; each question takes its time."""
    end_s = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < end_s


def write(path: Path) -> None:
    path.write_text("new")


def rename_over(path: Path) -> None:
    other = path.with_name("paceline.toml~")
    other.write_text("new")
    other.rename(path)


def swap_what_the_link_points_at(path: Path) -> None:
    """As Kubernetes does with a mounted ConfigMap."""
    directory = path.parent
    (directory / "..2").mkdir()
    (directory / "..data_tmp").symlink_to("..2")
    os.rename(directory / "..data_tmp", directory / "..data")


@pytest.mark.parametrize("save", [write, rename_over, swap_what_the_link_points_at])
def test_a_save_is_heard(tmp_path: Path, save: Callable[[Path], None]) -> None:
    async def main() -> None:
        heard = asyncio.Event()
        path = tmp_path / "paceline.toml"
        path.write_text("old")
        saved = Saved(path, heard.set, pytest.fail)
        (tmp_path / "another").write_text("new")
        await asyncio.to_thread(lambda: None)
        assert not heard.is_set()
        save(path)
        async with asyncio.timeout(10):
            await heard.wait()
        saved.close()

    asyncio.run(main())


def test_a_directory_that_is_not_there_cannot_be_watched(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(CannotStart, match="No such file"):
            Saved(tmp_path / "gone" / "paceline.toml", lambda: None, pytest.fail)

    asyncio.run(main())


class Heard:
    """What a watch told, in order; `comes` waits for the next."""

    def __init__(self, path: Path) -> None:
        self._told: asyncio.Queue[str] = asyncio.Queue()
        self.saved = Saved(path, lambda: self._told.put_nowait("saved"), self._told.put_nowait)

    async def comes(self) -> str:
        async with asyncio.timeout(10):
            return await self._told.get()


def test_a_linked_file_is_heard_where_it_lies_also_when_the_link_is_swapped(tmp_path: Path) -> None:
    async def main() -> None:
        for name in ("one", "two", "here"):
            (tmp_path / name).mkdir()
        path = tmp_path / "here" / "paceline.toml"
        path.symlink_to("../one/settings")
        (tmp_path / "one" / "settings").write_text("old")
        heard = Heard(path)
        (tmp_path / "one" / "settings").write_text("edited in place")
        assert await heard.comes() == "saved"
        (tmp_path / "two" / "settings").write_text("another")
        (tmp_path / "here" / "new").symlink_to("../two/settings")
        (tmp_path / "here" / "new").rename(path)
        shutil.rmtree(tmp_path / "one")  # which no longer matters
        assert await heard.comes() == "saved"
        (tmp_path / "two" / "settings").write_text("edited in place")
        assert await heard.comes() == "saved"
        heard.saved.close()

    asyncio.run(main())


@pytest.mark.parametrize("end", [shutil.rmtree, lambda path: path.rename(path.parent / "moved")])
def test_a_directory_that_goes_is_told(tmp_path: Path, end: Callable[[Path], object]) -> None:
    async def main() -> None:
        (tmp_path / "here").mkdir()
        heard = Heard(tmp_path / "here" / "paceline.toml")
        end(tmp_path / "here")
        assert await heard.comes() == "its directory was moved or removed"

    asyncio.run(main())


def test_what_the_kernel_had_no_room_for_counts_as_a_save(tmp_path: Path) -> None:
    room = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())

    async def main() -> None:
        heard = Heard(tmp_path / "paceline.toml")
        for number in range(room + 1):  # the same twice in a row would count once
            os.close(os.open(tmp_path / "ab"[number % 2], os.O_WRONLY | os.O_CREAT))
        assert await heard.comes() == "saved"
        heard.saved.close()

    asyncio.run(main())


class SlowSource:
    """Loads when it is let."""

    def __init__(self) -> None:
        self.may_load = threading.Semaphore(0)
        self.begun = 0
        self.loaded: Any = None

    def load(self, *, may_be_empty: bool) -> Any:
        self.begun += 1
        number = self.begun
        assert self.may_load.acquire(timeout=10), "the loop waits for it"
        server = msgspec.structs.replace(self.loaded.settings.server, drain_s=float(number))
        settings = msgspec.structs.replace(self.loaded.settings, server=server)
        return msgspec.structs.replace(self.loaded, settings=settings)


async def nothing() -> None:
    pass


class AnyDesk:
    state = SimpleNamespace(goals={})

    async def configure(self, wants: object, who: str, changed: object) -> SimpleNamespace:
        return SimpleNamespace(steps=(), version=1)


def test_settings_are_loaded_beside_the_loop_one_after_another(tmp_path: Path) -> None:
    async def main() -> None:
        source = SlowSource()
        models = ("digits",)
        loaded = Source(
            file=None, environ={}, flags={}, catalogue=catalogue, models=models, cores=1.0
        ).load()
        source.loaded = msgspec.structs.replace(loaded, source=cast("Source", source))
        in_force = SettingsInForce(
            source.loaded,
            cast("Desk", AnyDesk()),
            lambda server: None,
            lambda alerts: nothing,
            lambda loaded: lambda: None,
        )
        first = asyncio.ensure_future(in_force.reload("one"))
        second = asyncio.ensure_future(in_force.reload("two"))
        await asyncio.to_thread(lambda: None)
        assert source.begun <= 1
        source.may_load.release()
        await first
        source.may_load.release()
        await second
        assert in_force.server.drain_s == 2

    asyncio.run(main())


@contextmanager
def watching(tmp_path: Path, more: str) -> Iterator[tuple[Server, Path]]:
    file = tmp_path / "paceline.toml"
    file.write_text("[server]\nreload_on_save = true\n" + more)
    with Server(tmp_path / "state", "--config", str(file)) as server:
        yield server, file


def max_rows(server: Server) -> object:
    knobs = server.ask("GET", "/api/plan").json["knobs"]
    return next(each["setting"] for each in knobs if each["knob"] == "digits.max_rows")


@pytest.fixture(scope="module")
def of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    with watching(tmp_path_factory.mktemp("watched"), "") as server_and_file:
        yield server_and_file


@pytest.fixture
def watched(of_all: tuple[Server, Path]) -> tuple[Server, Path]:
    """It follows its file, which says nothing else."""
    server, file = of_all
    file.write_text("[server]\nreload_on_save = true\n")
    assert server.ask("POST", "/api/config/reload").status == 200
    return server, file


def test_a_file_that_is_emptied_before_it_is_written_keeps_its_pins(
    watched: tuple[Server, Path],
) -> None:
    server, file = watched
    text = file.read_text() + "[models.digits.pins]\nmax_rows = {}\n"
    file.write_text(text.format(5))
    until(lambda: max_rows(server) == 5)
    file.write_text("")
    until(lambda: "the settings file is empty" in server.log.read_text())
    assert max_rows(server) == 5
    file.write_text(text.format(6))
    until(lambda: max_rows(server) == 6)


def test_a_save_is_not_logged_under_the_call_that_began_the_watch(
    watched: tuple[Server, Path],
) -> None:
    server, file = watched
    file.write_text("[server]\n")
    until(lambda: not server.ask("POST", "/api/config/reload").json["changed"])
    before = len(server.log.read_text())
    file.write_text("[server]\nreload_on_save = true\n")
    reloaded = server.ask("POST", "/api/config/reload", None, {"x-request-id": "the-call"})
    assert reloaded.status == 200
    file.write_text("[server]\nreload_on_save = true\ndrain_s = 2\n")
    until(lambda: "was saved" in server.log.read_text()[before:])
    lines = [line for line in server.log.read_text()[before:].splitlines() if "read again" in line]
    assert ["[the-call]" in line for line in lines] == [True, False]


def test_a_directory_that_goes_under_a_server_is_logged(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with watching(tmp_path / "here", "") as (server, file):
        file.parent.rename(tmp_path / "there")
        server.state = tmp_path / "there" / "state"
        log = tmp_path / "there" / "state.log"
        until(lambda: "goes unnoticed from now on" in log.read_text())
        server.log = log


def test_a_server_reads_its_settings_when_they_are_saved(
    watched: tuple[Server, Path],
) -> None:
    server, file = watched
    file.write_text("[server]\nreload_on_save = true\n[models.digits.pins]\nmax_rows = 7\n")
    until(lambda: max_rows(server) == 7)
    file.write_text("[server]\nreload_on_save = true\n[models.digits.pins]\nmax_rows = 0\n")
    until(lambda: "paceline.toml:4" in server.log.read_text())
    assert max_rows(server) == 7
    file.write_text("[server]\n[models.digits.pins]\nmax_rows = 8\n")
    until(lambda: max_rows(server) == 8)
    before = server.ask("GET", "/api/plan").json["version"]
    file.write_text("[server]\n[models.digits.pins]\nmax_rows = 9\n")
    assert server.ask("POST", "/api/config/reload").json["version"] == before + 1
    assert max_rows(server) == 9
