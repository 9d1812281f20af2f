"""The rows that fronts drew of each model: a reference, and the last ones to compare with it.

The first rows of a model become its reference, until somebody takes later ones for that; it is kept
in a file, so that a restart compares with the same. The last rows are in memory alone. How they
differ is `analysis/drifted.py`'s business, which is asked in a thread. Made by the owner, told by
its fronts. Bytes of a model: 6 kB for each of its numbers, 0.8 MB at most.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from paceline.observe import log
from paceline.processes.state_dir import write_whole
from paceline.serve.samples import Rows
from paceline.terms.limits import (
    DRIFT_BYTES,
    DRIFT_LEAST,
    DRIFT_LOOK_S,
    DRIFT_REFERENCE,
    DRIFT_WINDOW,
)
from paceline.terms.measurement import Measurement
from paceline.terms.metric import DRIFT_INDEX, DRIFTED
from paceline.watch.analysis.finding import Drifted

logger = log.get(__name__)

FOLDER = "drift"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
FLOAT_BYTES = 4


class Lot(msgspec.Struct, frozen=True):
    """Rows of one model, as `Rows` has them; `until_s` is when the last was drawn, unix time."""

    rows: bytes = b""
    classes: tuple[str, ...] = ()
    until_s: float = 0.0

    def __len__(self) -> int:
        return len(self.classes)


class Windows(msgspec.Struct, frozen=True):
    """What is to be compared. The reference is whole, or nothing is compared yet."""

    names: tuple[str, ...]
    of_inputs: int
    reference: Lot
    last: Lot

    @property
    def is_ready(self) -> bool:
        return len(self.reference) >= DRIFT_LEAST and len(self.last) >= DRIFT_LEAST


class Kept(msgspec.Struct, frozen=True):
    """The file of one model's reference."""

    names: tuple[str, ...]
    of_inputs: int
    reference: Lot


class _Of:
    """One model."""

    def __init__(self, names: tuple[str, ...], of_inputs: int) -> None:
        self.names = names
        self.of_inputs = of_inputs
        self.reference = Lot()
        self.rows: deque[bytes] = deque(maxlen=DRIFT_REFERENCE)
        self.classes: deque[str] = deque(maxlen=DRIFT_REFERENCE)
        self.until_s = 0.0
        self.looked_s = 0.0

    def take(self, drawn: Rows, wall_s: float) -> None:
        """The first ones make the reference; `until` then there are no last ones."""
        size = FLOAT_BYTES * len(self.names)
        for at in range(0, len(drawn.rows), size):
            self.rows.append(drawn.rows[at : at + size])
        self.classes.extend(drawn.classes)
        self.until_s = wall_s

    def lot(self) -> Lot:
        return Lot(b"".join(self.rows), tuple(self.classes), self.until_s)

    def begin(self, reference: Lot) -> None:
        self.reference = reference
        self.rows = deque(maxlen=DRIFT_WINDOW if len(reference) else DRIFT_REFERENCE)
        self.classes = deque(maxlen=self.rows.maxlen)


class Drift:
    """`folder` is the state directory; without one a reference ends with the process. `compare` is
    called in a thread."""

    def __init__(
        self,
        folder: Path | None,
        now: Callable[[], float],
        wall: Callable[[], float],
        compare: Callable[[Windows], Drifted],
    ) -> None:
        self._folder = folder
        self._now = now
        self._wall = wall
        self._compare = compare
        self._models: dict[str, _Of] = {}
        self._found: dict[str, Drifted] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, drawn: Iterable[Rows]) -> None:
        """What a front tells."""
        for each in drawn:
            if NAME.fullmatch(each.model) and each.names:
                self._take(each)

    def windows(self, model: str) -> Windows | None:
        """As they are now, for a thread to compare; None where nothing was drawn."""
        of = self._models.get(model)
        if of is None:
            return None
        if len(of.reference):
            return Windows(of.names, of.of_inputs, of.reference, of.lot())
        return Windows(of.names, of.of_inputs, of.lot(), Lot())

    def found(self, model: str) -> Drifted | None:
        """As it was compared last, while rows come at most DRIFT_LOOK_S ago; None where nothing was
        drawn."""
        of = self._models.get(model)
        if of is None or model in self._found:
            return self._found.get(model)
        rows = len(of.rows)
        if len(of.reference):
            return Drifted(len(of.reference), of.reference.until_s, rows, 0, ())
        return Drifted(rows, of.until_s, 0, 0, ())

    async def renew(self, model: str) -> int:
        """The last rows become the reference, where there are enough; else the next ones will. Of
        how many rows it is."""
        of = self._models.get(model)
        if of is None:
            return 0
        last = of.lot() if len(of.reference) else Lot()
        self._found.pop(model, None)
        of.begin(last if len(last) >= DRIFT_LEAST else Lot())
        await asyncio.to_thread(self._write, model, Kept(of.names, of.of_inputs, of.reference))
        return len(of.reference)

    def measure(self) -> Sequence[Measurement]:
        return [
            Measurement(metric, (model,), value)
            for model, found in self._found.items()
            for metric, value in (
                (DRIFTED, float(len(found.differs))),
                (DRIFT_INDEX, max((each.index for each in found.differs), default=0.0)),
            )
        ]

    async def close(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _take(self, drawn: Rows) -> None:
        of = self._models.get(drawn.model)
        if of is None or of.names != drawn.names:  # none yet, or it is another model now
            of = self._models[drawn.model] = _Of(drawn.names, drawn.of_inputs)
            self._found.pop(drawn.model, None)
            kept = self._read(drawn.model)
            if kept is not None and kept.names == drawn.names:
                of.begin(kept.reference)
        of.take(drawn, self._wall())
        if not len(of.reference):
            if len(of.rows) >= DRIFT_REFERENCE:
                of.begin(of.lot())
                kept = Kept(of.names, of.of_inputs, of.reference)
                self._beside(asyncio.to_thread(self._write, drawn.model, kept))
            return
        now = self._now()
        if len(of.rows) >= DRIFT_LEAST and now - of.looked_s >= DRIFT_LOOK_S:
            of.looked_s = now
            self._beside(self._look(drawn.model, of))

    async def _look(self, model: str, of: _Of) -> None:
        windows = Windows(of.names, of.of_inputs, of.reference, of.lot())
        found = await asyncio.to_thread(self._compare, windows)
        if self._models.get(model) is of and of.reference is windows.reference:
            self._found[model] = found

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("rows were not compared", why=repr(error))

    def _place(self, model: str) -> Path | None:
        return None if self._folder is None else self._folder / FOLDER / f"{model}.reference"

    def _read(self, model: str) -> Kept | None:
        place = self._place(model)
        if place is None:
            return None
        try:
            with place.open("rb") as file:
                content = file.read(DRIFT_BYTES + 1)
            if len(content) > DRIFT_BYTES:
                raise msgspec.DecodeError("it is too long")
            kept = msgspec.msgpack.decode(content, type=Kept)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            logger.warning(
                "a reference cannot be read and begins anew", model=model, why=str(error)
            )
            return None
        size = FLOAT_BYTES * len(kept.names)
        return kept if len(kept.reference.rows) == size * len(kept.reference) else None

    def _write(self, model: str, kept: Kept) -> None:
        """In place of the one there is, whole."""
        place = self._place(model)
        if place is None:
            return
        try:
            write_whole(place, msgspec.msgpack.encode(kept))
        except OSError as error:
            logger.warning("a reference was not written", model=model, why=str(error))
