"""For one key one computation at a time, and everybody who asks meanwhile gets its result.

Whoever asks first starts it, as a task that belongs to none of them. A caller who leaves (is
cancelled) leaves alone; when the last has left, the computation is cancelled, and whoever asks then
starts a new one. It is not a cache: with its end a result is forgotten.

*Guarantees*: all who asked for one computation get the very same value or error, so treat both as
frozen; a caller is cancelled only by whoever cancels that caller; at most `most` computations run,
those included that were cancelled and have not ended yet. A new one begins beside such a one.

The work runs in the context of who asked first, its deadline not included: put into the work what
shall bound it. Called by response caches and by the gateway's coalescing.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from paceline.terms.errors import Overloaded, Unavailable
from paceline.terms.limits import SINGLE_FLIGHTS

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Flight(Generic[V]):
    __slots__ = ("abandoned", "task", "waiting")

    def __init__(self, task: "asyncio.Task[V]") -> None:
        self.task = task
        self.waiting: dict[asyncio.Future[V], None] = {}  # in the order in which they came
        self.abandoned = False


class SingleFlight(Generic[K, V]):
    def __init__(self, most: int = SINGLE_FLIGHTS) -> None:
        assert most >= 1, f"there must be room for one computation, not {most}"
        self._most = most
        self._joinable: dict[K, _Flight[V]] = {}
        self._running: set[asyncio.Task[V]] = set()

    def __contains__(self, key: K) -> bool:
        """Whether who asks now joins a computation instead of starting one."""
        return key in self._joinable

    def __len__(self) -> int:
        """How many computations run, those included that nobody waits for any more."""
        return len(self._running)

    async def run(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> V:
        flight = self._joinable.get(key)
        if flight is None:
            flight = self._start(key, work)
        assert asyncio.current_task() is not flight.task, f"the work for {key!r} waits for itself"
        mine: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        flight.waiting[mine] = None
        try:
            return await mine
        finally:
            flight.waiting.pop(mine, None)
            if not flight.waiting and not flight.task.done():
                self._abandon(key, flight)

    def _start(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> _Flight[V]:
        if len(self._running) >= self._most:
            raise Overloaded(
                "as many different computations are in flight as may",
                value=self._most,
                remedy="Send fewer at a time, or again in a moment.",
            )
        task = asyncio.get_running_loop().create_task(work())
        flight = self._joinable[key] = _Flight(task)
        self._running.add(task)
        task.add_done_callback(lambda _: self._on_end(key, flight))
        return flight

    def _abandon(self, key: K, flight: _Flight[V]) -> None:
        flight.abandoned = True
        del self._joinable[key]
        flight.task.cancel()

    def _on_end(self, key: K, flight: _Flight[V]) -> None:
        task = flight.task
        self._running.discard(task)
        if flight.abandoned:
            return  # asyncio reports an error that is left in it: there is nobody else to tell
        del self._joinable[key]
        error: BaseException | None
        if task.cancelled():
            error = Unavailable(
                "the computation that several callers waited for was cancelled",
                remedy="Ask again.",
            )
        else:
            error = task.exception()
        for mine in flight.waiting:
            if mine.done():  # its caller is leaving
                continue
            if error is None:
                mine.set_result(task.result())
            else:
                mine.set_exception(error)
