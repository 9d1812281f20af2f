"""A saved file is heard, however an editor writes it; and a server told to heeds it."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from paceline.processes.saved import Saved
from paceline.terms.errors import CannotStart
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
        saved = Saved(path, heard.set)
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
            Saved(tmp_path / "gone" / "paceline.toml", lambda: None)

    asyncio.run(main())


def test_a_server_reads_its_settings_when_they_are_saved(tmp_path: Path) -> None:
    file = tmp_path / "paceline.toml"
    file.write_text("[server]\nreload_on_save = true\n")
    with Server(tmp_path / "state", "--config", str(file)) as server:

        def setting() -> object:
            knobs = server.ask("GET", "/api/plan").json["knobs"]
            return next(each["setting"] for each in knobs if each["knob"] == "digits.max_rows")

        file.write_text("[server]\nreload_on_save = true\n[models.digits.pins]\nmax_rows = 7\n")
        until(lambda: setting() == 7)
        file.write_text("[server]\nreload_on_save = true\n[models.digits.pins]\nmax_rows = 0\n")
        until(lambda: "paceline.toml:4" in server.log.read_text())
        assert setting() == 7
        file.write_text("[server]\n[models.digits.pins]\nmax_rows = 8\n")
        until(lambda: setting() == 8)
        file.write_text("[server]\n[models.digits.pins]\nmax_rows = 9\n")
        assert server.ask("POST", "/api/config/reload").json["version"] == 4
        assert setting() == 9
