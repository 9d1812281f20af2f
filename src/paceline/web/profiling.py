"""One profile of this process, by order, in a thread beside its loop: stacks or memory. Or of the
process of a model, which looks at itself, while a thread here waits for what it finds.

The thread ends by itself, whatever becomes of who asked, and ends with its process. What it found
is made JSON there, for that can take longer than a loop may. Called by `front.py` for orders of the
owner, and by `profiles.py` in the owner itself.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import msgspec

from paceline.observe.looks import Found, Look, found
from paceline.terms.errors import Conflict


class Elsewhere(Protocol):
    """A look at another process."""

    def found(self, look: Look) -> Found:
        """In a thread: it waits."""
        ...

    def end(self) -> None: ...


Told = Callable[[msgspec.Raw], None]
"""Hears a `Found` in JSON, in the loop."""


class Profiling:
    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._stop: threading.Event | None = None
        self._elsewhere: Elsewhere | None = None

    def begin(self, look: Look, told: Told, elsewhere: Elsewhere | None = None) -> None:
        if self._stop is not None:
            raise Conflict(
                "this process is being profiled already", remedy="Wait for its end, or end it."
            )
        self._stop = threading.Event()
        self._elsewhere = elsewhere
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
            if self._elsewhere is not None:
                self._elsewhere.end()

    def _work(
        self, look: Look, stop: threading.Event, loop: asyncio.AbstractEventLoop, told: Told
    ) -> None:
        elsewhere = self._elsewhere
        seen = found(look, stop, self._now) if elsewhere is None else elsewhere.found(look)
        raw = msgspec.Raw(msgspec.json.encode(seen))
        with suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(self._ended, told, raw)

    def _ended(self, told: Told, found: msgspec.Raw) -> None:
        self._stop = self._elsewhere = None
        told(found)
