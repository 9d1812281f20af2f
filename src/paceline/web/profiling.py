"""One profile of this process, by order, in a thread beside its loop: stacks or memory.

The thread ends by itself, whatever becomes of who asked, and ends with its process. What it found
is made JSON there, for that can take longer than a loop may. Called by `front.py` for orders of the
owner, and by `profiles.py` in the owner itself.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import msgspec

from paceline.observe import holdings, log, stacks
from paceline.observe.holdings import Memory
from paceline.observe.stacks import Stacks
from paceline.terms.errors import Conflict, PacelineError

logger = log.get(__name__)


class Look(msgspec.Struct, frozen=True):
    """What is to be looked at, and how long; memory without seconds is a look at the moment."""

    of: Literal["stacks", "memory"]
    seconds: float


class Found(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of the three."""

    stacks: Stacks | None = None
    memory: Memory | None = None
    error: dict[str, str] | None = None


Told = Callable[[msgspec.Raw], None]
"""Hears a `Found` in JSON, in the loop."""


class Profiling:
    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._stop: threading.Event | None = None

    def begin(self, look: Look, told: Told) -> None:
        if self._stop is not None:
            raise Conflict(
                "this process is being profiled already", remedy="Wait for its end, or end it."
            )
        self._stop = threading.Event()
        threading.Thread(
            target=self._work,
            args=(look, self._stop, asyncio.get_running_loop(), told),
            name="profile",
            daemon=True,
        ).start()

    def end(self) -> None:
        """Soon, with what it has found until then."""
        if self._stop is not None:
            self._stop.set()

    def _work(
        self, look: Look, stop: threading.Event, loop: asyncio.AbstractEventLoop, told: Told
    ) -> None:
        found = msgspec.Raw(msgspec.json.encode(self._found(look, stop)))
        with suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(self._ended, told, found)

    def _found(self, look: Look, stop: threading.Event) -> Found:
        try:
            if look.of == "memory":
                return Found(memory=holdings.look(look.seconds, stop))
            return Found(stacks=stacks.take(look.seconds, stop, self._now))
        except PacelineError as error:
            return Found(error=error.as_fields())
        except Exception as error:  # a bug of ours; whoever waits is told all the same
            logger.exception("a profile failed inside Paceline", of=look.of)
            told = PacelineError(
                f"an unexpected error inside Paceline: {type(error).__name__}",
                remedy="The server's log has the details.",
            )
            return Found(error=told.as_fields())

    def _ended(self, told: Told, found: msgspec.Raw) -> None:
        self._stop = None
        told(found)
