"""As many models as one server may have: its orders and its plan reach the fronts, each answers,
and nothing that is counted is lost.
"""

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from paceline.processes import link
from paceline.processes.link import FDS_PER_MESSAGE, Link, pair
from paceline.serve import digits
from paceline.terms.limits import LINK_BULK_BYTES, LINK_MESSAGE_BYTES, MODEL_NAME_CHARS, MODELS
from servers import Server

LONG = MODEL_NAME_CHARS
"""Names are as long as they may be, so that messages are."""


class Note(msgspec.Struct, frozen=True):
    text: str


def open_files() -> list[str]:
    return [os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()]


# --- Messages that fit no packet ------------------------------------------------------------------


def heard(texts: list[str], *sent: tuple[str, list[int]]) -> list[int]:
    """What the other end hears, into `texts`, and the files that came along; in one go."""

    async def main() -> list[int]:
        ours, theirs = pair()
        enough = asyncio.Event()
        files: list[int] = []

        def hear(note: Note, fds: list[int]) -> None:
            texts.append(note.text)
            files.extend(fds)
            if len(texts) == len(sent):
                enough.set()

        decoder = msgspec.json.Decoder(Note)
        left = Link(ours, decoder, lambda note, fds: None, lambda: None)
        right = Link(theirs, decoder, hear, lambda: None)
        with closing(left), closing(right):
            for text, fds in sent:
                left.send(Note(text), fds)
            async with asyncio.timeout(10):
                await enough.wait()
        return files

    return asyncio.run(main())


@pytest.mark.parametrize("length", [LINK_MESSAGE_BYTES - 50, LINK_MESSAGE_BYTES + 1, 3_000_000])
def test_a_message_of_any_length_arrives_whole_with_its_files(length: int) -> None:
    pipes = [os.pipe() for _ in range(FDS_PER_MESSAGE)]
    texts: list[str] = []
    came = heard(texts, ("x" * length, [writing for _, writing in pipes]))
    assert texts == ["x" * length]
    assert len(came) == FDS_PER_MESSAGE
    for number, (fd, (reading, writing)) in enumerate(zip(came, pipes, strict=True)):
        os.write(fd, b"%d" % number)
        assert os.read(reading, 9) == b"%d" % number
        for each in (fd, reading, writing):
            os.close(each)
    assert not any("paceline-link" in each for each in open_files())


def test_long_and_short_messages_keep_their_order_while_they_wait() -> None:
    texts: list[str] = []
    sent = [str(number) * (200_000 if number % 2 else 10_000) for number in range(1, 60)]
    heard(texts, *((text, []) for text in sent))
    assert texts == sent


def test_a_message_beyond_the_bound_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="a link message of"):
        heard([], ("x" * LINK_BULK_BYTES, []))


@pytest.mark.parametrize("call", ["memfd_create", "open"])
def test_without_memory_for_a_message_the_link_ends(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*asked: object, **how: object) -> int:
        raise OSError(errno.EMFILE, "as many files as may be")

    async def main() -> None:
        ours, theirs = pair()
        decoder = msgspec.json.Decoder(Note)
        ends = [asyncio.Event(), asyncio.Event()]
        heard: list[Note] = []
        left = Link(ours, decoder, lambda note, fds: None, ends[0].set)
        right = Link(theirs, decoder, lambda note, fds: heard.append(note), ends[1].set)
        before = len(open_files())
        if call == "open":
            monkeypatch.setattr(link, "open", full, raising=False)
        else:
            monkeypatch.setattr(os, call, full)
        left.send(Note("x" * LINK_MESSAGE_BYTES))
        left.send(Note("what follows is not sent without it"))
        assert len(open_files()) == before
        async with asyncio.timeout(10):
            await ends[0].wait()
            await ends[1].wait()
        assert (left.closed, right.closed, heard) == (True, True, [])

    asyncio.run(main())


# --- A server -------------------------------------------------------------------------------------


@pytest.fixture
def full(tmp_path: Path) -> Iterator[tuple[Server, list[str]]]:
    names = [f"m{number}-".ljust(LONG, "x") for number in range(MODELS)]
    sections = []
    for number, name in enumerate(names):
        file = tmp_path / f"{number}.onnx"
        file.symlink_to(digits.MODEL_PATH)
        sections.append(f'[models.{name}]\npath = "{file}"\n')
    settings = tmp_path / "paceline.toml"
    settings.write_text("\n".join(sections))
    with Server(tmp_path / "state", "--config", str(settings), "--fronts", "2") as server:
        yield server, names


@pytest.mark.slow
def test_as_many_models_as_there_may_be_are_served_and_counted(
    full: tuple[Server, list[str]], tmp_path: Path
) -> None:
    server, names = full
    tensor = {"name": "x", "shape": [1, 64], "datatype": "FP32", "data": [0.0] * 64}
    for name in names:
        model = server.ask("GET", f"/v2/models/{name}").json
        asked = {"inputs": [tensor | {"name": model["inputs"][0]["name"]}]}
        answer = server.ask("POST", f"/v2/models/{name}/infer", asked)
        assert (answer.status, answer.json["model_name"]) == (200, name)
    lines = server.ask("GET", "/metrics").body.decode().splitlines()
    assert "paceline_dropped_series_total 0.0" in lines
    for name in names:
        assert f'paceline_rows_total{{model="{name}"}} 1.0' in lines
        assert f'paceline_request_duration_seconds_count{{model="{name}"}} 1' in lines
    status = server.ask("GET", "/api/status").json["models"]
    assert [(each["name"], each["requests"]) for each in status] == [(n, 1.0) for n in names]
    said = plan(tmp_path, "set", f"{names[-1]}.enabled", "false")  # the fronts hear the whole plan
    assert "plan 2" in said
    assert f"{names[-1]}.enabled" in plan(tmp_path, "show")
    assert server.ask("POST", f"/v2/models/{names[-1]}/infer", asked).status == 503
    assert server.ask("POST", f"/v2/models/{names[0]}/infer", asked).status == 200


def plan(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "paceline", "plan", *words, "--state", str(folder / "state")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout
