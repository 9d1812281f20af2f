"""The keeper process: hides what is to be hidden in what was said, and writes the rest to its file.

What it gets over the link is where a batch of calls lies in shared memory; what it answers is how
many it has kept, and what was in the way. A pattern of the settings may take for ever, and text
holds the interpreter while it is looked through: that is why this is a process of its own, which
its front kills and restarts. Started by `keeping.py`.
"""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec

from paceline.gateway.said.file import Row, SaidFile
from paceline.gateway.said.hide import Hider
from paceline.gateway.said.keep import Keep
from paceline.gateway.said.text import text_of
from paceline.processes import working
from paceline.processes.working import Refused, serve


class Order(working.Order, frozen=True):
    """A list of `Said` is to be kept, in the file of that folder."""

    folder: str
    keep: Keep


class Done(working.Done, frozen=True, tag="done"):
    kept: int
    trouble: str = ""
    """why none was"""
    begun_anew: str = ""
    """why the file was damaged"""


class Said(msgspec.Struct, frozen=True, array_like=True):
    """One call, and of what was said in it the beginnings, with how long each was."""

    id: str
    at: float
    key: str | None
    endpoint: str
    model: str
    route: str
    status: int
    asked: bytes
    asked_bytes: int
    answered: bytes
    answered_bytes: int


orders = msgspec.json.Decoder(Order)
outcomes = msgspec.json.Decoder[Done | Refused](Done | Refused)
batches = msgspec.msgpack.Decoder(list[Said])


class Keeper:
    """`file` makes the file of a folder; tests hand in one that fails."""

    def __init__(self, file: Callable[[Path], SaidFile] = SaidFile) -> None:
        self._make = file
        self._file: SaidFile | None = None
        self._hider: Hider | None = None

    def work(self, order: Order, memory: int) -> Done:
        if self._file is None or self._hider is None:
            self._file = self._make(Path(order.folder))
            self._hider = Hider(os.environ, order.keep.hide)
        batch = batches.decode(os.pread(memory, order.size, 0))
        rows = [_row(each, self._hider, order.keep.keep_s) for each in batch]
        begun_anew = ""
        try:
            try:
                self._file.write(rows)
            except sqlite3.OperationalError:
                self._file.close()  # once more: another may just be making it
                self._file.write(rows)
            except sqlite3.DatabaseError as error:
                begun_anew = str(error)
                self._file.begin_anew()
                self._file.write(rows)
        except (sqlite3.Error, OSError) as error:
            self._file.close()
            return Done(order.number, 0, str(error), begun_anew)
        return Done(order.number, len(rows), "", begun_anew)


def _row(said: Said, hider: Hider, keep_s: float) -> Row:
    """Ids and models are callers' words too."""
    return Row(
        hider.text(said.id),
        said.at,
        said.at + keep_s,
        said.key,
        said.endpoint,
        hider.text(said.model),
        said.route,
        said.status,
        said.asked_bytes,
        said.answered_bytes,
        text_of(said.asked, said.asked_bytes, hider),
        text_of(said.answered, said.answered_bytes, hider),
    )


if __name__ == "__main__":
    serve(orders, Keeper().work)
