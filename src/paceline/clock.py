"""Time and chance, real and simulated: the only module that asks the machine for either.

Whoever needs the time gets a `Clock` handed in, whoever needs a die gets a `Chance`; nobody reads
`time` or `random` alone. Then the same code runs in a simulation, where hours pass in milliseconds
and the same seed always gives the same run:

    async def main(clock: SimulatedClock, chance: Chance) -> float:
        await clock.until(clock.now() + 3600)
        return clock.now()

    assert run_simulated(main) == 3600

It is not a scheduler and knows no dates. Design and rejected options: docs/design/clock.md.
"""

import asyncio
import hashlib
import heapq
import itertools
import math
import random
import secrets
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    MutableSequence,
    Sequence,
)
from contextvars import Context
from pathlib import Path
from types import CoroutineType, FrameType
from typing import Any, NoReturn, Protocol, TypeVar

T = TypeVar("T")


# --- Time -----------------------------------------------------------------------------------------


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> float:
        """Seconds that never go back; their zero means nothing. For every duration and deadline."""
        ...

    def wall(self) -> float:
        """Unix seconds, which people and other machines can read, and may jump either way."""
        ...

    async def until(self, moment: float) -> None:
        """Wait until `now()` is at least `moment`, never less; others get a turn in any case.

        A moment and not a duration, so that a loop that does something every ten seconds does not
        drift: `moment += 10; await clock.until(moment)`.
        """
        ...


LONGEST_NAP_S = 3600.0
SHORTEST_NAP_S = 0.001
"""uvloop counts timers in milliseconds: half of one would round to none and spin."""


class RealClock:
    """The machine's time, asked without a call in between: a request asks ten times."""

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    async def until(self, moment: float) -> None:
        _check_moment(moment)
        loop = asyncio.get_running_loop()
        if isinstance(loop, _SimulatedLoop):
            loop.refuse(_instead("a real clock", "clock = RealClock()", "main(clock, chance)"))
        left_s = moment - time.monotonic()
        if left_s <= 0:
            await asyncio.sleep(0)
        while left_s > 0:
            await asyncio.sleep(min(max(left_s, SHORTEST_NAP_S), LONGEST_NAP_S))
            left_s = moment - time.monotonic()


def _check_moment(moment: float) -> None:
    assert math.isfinite(moment), f"no wait ends at {moment}: to wait for ever, use asyncio.Event"


# --- Chance ---------------------------------------------------------------------------------------


class Chance:
    """Seeded randomness. Without a seed it takes one from the operating system; log `seed`, so that
    what happened can be repeated. Not for secrets: those come from the module of that name."""

    __slots__ = ("_random", "seed")

    def __init__(self, seed: int | None = None) -> None:
        self.seed = secrets.randbits(63) if seed is None else seed
        self._random = random.Random(self.seed)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return self._random.uniform(low, high)

    def exponential(self, mean: float) -> float:
        """The time between arrivals that know nothing of each other, `mean` on average."""
        return -mean * math.log(1.0 - self._random.random())

    def integer(self, low: int, high: int) -> int:
        """From `low` to `high`, both included."""
        return self._random.randint(low, high)

    def bits(self, count: int) -> int:
        return self._random.getrandbits(count)

    def choice(self, among: Sequence[T]) -> T:
        return self._random.choice(among)

    def shuffle(self, items: MutableSequence[Any]) -> None:
        self._random.shuffle(items)

    def fork(self, name: str) -> "Chance":
        """A stream of its own, which depends on seed and name but not on what was drawn so far:
        one more draw here changes nothing there."""
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        return Chance(int.from_bytes(digest[:8]) >> 1)


# --- Simulation -----------------------------------------------------------------------------------


class SimulationFailed(Exception):
    """The simulation cannot go on; the message says why and what to do."""


class Deadlock(SimulationFailed):
    """Nothing is ready, no timer is set, and the main task still waits."""


class Livelock(SimulationFailed):
    """`steps_max` was reached."""


class LeftBehind(SimulationFailed):
    """The main task ended while others still ran."""


class NotSimulated(SimulationFailed):
    """Something reached for the outside world."""


STEPS_MAX = 10_000_000
"""Callbacks one simulation may run, unless told otherwise: about half a minute of real time."""

CLEANUP_STEPS_MAX = 100_000
"""Callbacks that cancelled tasks may take to end."""

WALL_AT_START_S = 1_800_000_000.0
"""15 January 2027, 08:00 UTC."""


def run_simulated(
    main: "Callable[[SimulatedClock, Chance], Coroutine[Any, Any, T]]",
    seed: int = 0,
    *,
    shuffle: bool = True,
    steps_max: int = STEPS_MAX,
) -> T:
    """Run `main` and everything it starts in virtual time; return what it returns.

    Whatever is ready at the same moment runs in an order drawn from the seed (in the order it
    became ready with `shuffle=False`, as asyncio promises). An exception that nobody awaited, a
    task left behind, a deadlock and a livelock fail the run. Every failure carries the seed.
    """
    chance = Chance(seed)
    clock = SimulatedClock()
    loop = _SimulatedLoop(clock, chance.fork("order") if shuffle else None, steps_max)
    try:
        try:
            result = loop.run_until_complete(main(clock, chance))
            loop.check_nobody_is_left()
            return result
        finally:
            loop.cancel_everybody()
    except BaseException as failure:
        failure.add_note(
            f"simulated with seed={seed}, shuffle={shuffle}: "
            f"{clock.steps} steps, {clock.now():.6f} s of virtual time"
        )
        raise
    finally:
        loop.close()


class SimulatedClock:
    """Virtual time. It stands still while code runs, and jumps when all wait.

    Without a simulation it is a clock set by hand, for code that only asks for the time.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._wall_offset = WALL_AT_START_S
        self._trace = hashlib.blake2b(digest_size=16)
        self.steps = 0

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._now + self._wall_offset

    async def until(self, moment: float) -> None:
        _check_moment(moment)
        loop = asyncio.get_running_loop()
        if not isinstance(loop, _SimulatedLoop) or loop.clock is not self:
            raise NotSimulated(
                _instead(
                    "a real event loop",
                    "asyncio.run(main(SimulatedClock()))",
                    "run_simulated(main)",
                )
            )
        if moment <= self._now:
            await asyncio.sleep(0)
            return
        reached = loop.create_future()
        timer = loop.call_at(moment, _set_unless_cancelled, reached)
        try:
            await reached
        finally:
            timer.cancel()

    def advance(self, seconds: float) -> None:
        """Let time pass while nothing else runs: a call that blocks, a suspended process."""
        assert 0 <= seconds < math.inf, f"time cannot advance by {seconds} s"
        self._now += seconds

    def shift_wall(self, seconds: float) -> None:
        """Jump the wall clock, forwards or back, as an administrator or NTP may."""
        self._wall_offset += seconds

    @property
    def trace(self) -> str:
        """A hash of every step so far, with its time: equal traces, equal runs."""
        return self._trace.hexdigest()

    def _count(self, step: str) -> None:
        self.steps += 1
        self._trace.update(f"{self._now!r} {step}\n".encode())


def _set_unless_cancelled(reached: "asyncio.Future[None]") -> None:
    if not reached.done():
        reached.set_result(None)


class _Task(asyncio.Task[Any]):
    """asyncio keeps tasks in sets (TaskGroup, wait) and goes through those in the order of their
    hashes. A hash made of the address differs from run to run; one that is counted does not."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **options: Any) -> None:
        self.number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.number

    def is_ours(self) -> bool:
        """Not one by which asyncio closes a generator that somebody left half-way."""
        return isinstance(self.get_coro(), CoroutineType)


class _Future(asyncio.Future[Any]):
    """See `_Task`."""

    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self.number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class _SimulatedLoop(asyncio.BaseEventLoop):
    """asyncio without the outside world: `_run_once` is the heart; what would reach outside is
    refused (`_OUTSIDE`)."""

    # What is used of BaseEventLoop beyond its documented face.
    _ready: deque[asyncio.Handle]
    _stopping: bool

    def __init__(self, clock: SimulatedClock, order: Chance | None, steps_max: int) -> None:
        super().__init__()
        self.clock = clock
        self._order = order
        self._steps_max = steps_max
        self._numbers = itertools.count(1)
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timers_cancelled = 0
        self._last_steps: deque[str] = deque(maxlen=5)
        self._failures: list[BaseException] = []
        self.set_task_factory(self._make_task)
        self.set_exception_handler(self._on_exception_nobody_awaits)

    def time(self) -> float:
        return self.clock.now()

    def _run_once(self) -> None:
        """Run whatever is ready, once. When nothing is, first jump to the next timer."""
        self._drop_cancelled_timers()
        if not self._ready and not self._stopping:
            if not self._timers:
                raise Deadlock(
                    "every task waits, no timer is set, and nothing is left to wake them:\n"
                    f"{_listed(self._tasks())}\n"
                    "Set what they wait for, or put a timeout around the wait."
                )
            self.clock._now = max(self.clock._now, self._timers[0][0])
        while self._timers and self._timers[0][0] <= self.clock._now:
            self._ready.append(heapq.heappop(self._timers)[2])
        if self._order is not None and len(self._ready) > 1:
            drawn = list(self._ready)
            self._order.shuffle(drawn)
            self._ready = deque(drawn)
        for _ in range(len(self._ready)):
            self._check_steps()
            handle = self._ready.popleft()
            if not handle.cancelled():
                self._step(handle)

    def _check_steps(self) -> None:
        if self.clock.steps >= self._steps_max:
            last = "\n".join(f"  {step}" for step in self._last_steps)
            raise Livelock(
                f"{self.clock.steps} steps without an end (steps_max). The last ones:\n{last}\n"
                "Find the loop that never ends, or raise steps_max."
            )

    def _step(self, handle: asyncio.Handle) -> None:
        step = _step_name(handle)
        self._last_steps.append(step)
        self.clock._count(step)
        handle._run()
        self._raise_failures()

    # Failures that no task would see end the run.

    def _raise_failures(self) -> None:
        if self._failures:
            raise self._failures.pop(0)

    def _on_exception_nobody_awaits(
        self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]
    ) -> None:
        if not self.is_running():
            self.default_exception_handler(context)
            return
        failure = context.get("exception") or SimulationFailed(context["message"])
        failure.add_note(f"nobody awaited it: {context['message']}")
        self._failures.append(failure)

    def refuse(self, message: str) -> NoReturn:
        """Raise here, and again from the loop: code under test may swallow it, or a thread may."""
        refusal = NotSimulated(message)
        self._failures.append(refusal)
        raise refusal

    # Timers are a heap of our own: those of the same moment keep the order in which they were set.

    def call_at(  # type: ignore[override]  # the stub's TypeVarTuple says the same at more length
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        assert not math.isnan(when), "a timer needs a moment, not NaN"
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        if when < math.inf:  # a timer that never rings would hide a deadlock
            heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self._timers_cancelled += 1

    def _drop_cancelled_timers(self) -> None:
        """A million requests that each cancel a long timeout must not pile up."""
        if self._timers_cancelled > 100 + len(self._timers) // 2:
            self._timers = [each for each in self._timers if not each[2].cancelled()]
            heapq.heapify(self._timers)
            self._timers_cancelled = 0
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)

    # Tasks are numbered, named by their number unless they have a name, and looked after.

    def _make_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> _Task:
        number = next(self._numbers)
        options["name"] = options.get("name") or f"task-{number}"
        return _Task(number, coro, loop=loop, **options)

    def create_future(self) -> _Future:
        return _Future(next(self._numbers), self)

    def _tasks(self) -> list[_Task]:
        tasks = [task for task in asyncio.all_tasks(self) if isinstance(task, _Task)]
        return sorted(tasks, key=lambda task: task.number)

    def _asyncgen_finalizer_hook(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self.is_closed():  # asyncio's own goes through call_soon_threadsafe
            self.call_soon(self.create_task, generator.aclose())

    def check_nobody_is_left(self) -> None:
        left = [task for task in self._tasks() if task.is_ours() and not task.cancelling()]
        if left:
            raise LeftBehind(
                f"main ended while others still ran:\n{_listed(left)}\n"
                "Await them, cancel them, or start them in an asyncio.TaskGroup."
            )

    def cancel_everybody(self) -> None:
        self._steps_max = self.clock.steps + CLEANUP_STEPS_MAX
        left = self._tasks()
        for task in left:
            if task.is_ours():
                task.cancel()
        ended = self.run_until_complete(_outcomes(left))
        failures = [each for each in ended if isinstance(each, Exception)]
        if failures:
            raise ExceptionGroup("tasks failed while they were cancelled", failures)
        self.run_until_complete(self.shutdown_asyncgens())


async def _outcomes(tasks: Iterable[_Task]) -> list[Any]:
    return await asyncio.gather(*tasks, return_exceptions=True)


# --- What a simulation says -----------------------------------------------------------------------


def _step_name(handle: asyncio.Handle) -> str:
    """The task or function it runs, without addresses: the same in every run."""
    callback = getattr(handle, "_callback", None)
    task = getattr(callback, "__self__", None)
    if isinstance(task, _Task):
        return f"{task.get_name()} {_qualname(task.get_coro())}"
    return _qualname(callback)


def _qualname(thing: object) -> str:
    name: str = getattr(thing, "__qualname__", type(thing).__qualname__)
    return name


def _listed(tasks: Iterable[_Task]) -> str:
    """One line per task: its name, the line of its own code where it waits, and in what."""
    return "\n".join(f"  {task.get_name()} {_where(task)}" for task in tasks)


def _where(task: _Task) -> str:
    frames = list(_frames(task.get_coro()))
    if not frames:
        return _qualname(task.get_coro())
    machinery = (str(Path(asyncio.__file__).parent), __file__)
    own = [frame for frame in frames if not frame.f_code.co_filename.startswith(machinery)]
    at, inner = (own or frames)[-1], frames[-1]
    where = f"in {at.f_code.co_qualname} ({Path(at.f_code.co_filename).name}:{at.f_lineno})"
    return where if inner is at else f"{where}, in {inner.f_code.co_qualname}"


def _frames(coro: object) -> Iterator[FrameType]:
    """From the task's outermost coroutine to the one that waits."""
    while coro is not None:
        frame = getattr(coro, "cr_frame", None) or getattr(coro, "gi_frame", None)
        if frame is None:
            return
        yield frame
        coro = getattr(coro, "cr_await", None) or getattr(coro, "gi_yieldfrom", None)


def _instead(what: str, wrong: str, right: str) -> str:
    return f"{what} does not belong in a simulation.\n  wrong: {wrong}\n  right: {right}"


_THREADS = _instead(
    "a thread or executor",
    "await asyncio.to_thread(work)",
    "await run(work)   # `run` handed in: a thread outside, a wait on the clock in here",
)
_SOCKETS = _instead(
    "a socket or pipe",
    "reader, writer = await asyncio.open_connection(host, port)",
    "answer = await provider.complete(call)   # the seam handed in, here a simulated one",
)
_PROCESSES = _instead(
    "a subprocess",
    "await asyncio.create_subprocess_exec(program)",
    "await fleet.reconcile(desired)   # the seam handed in, here a simulated one",
)
_SIGNALS = _instead(
    "a signal",
    "loop.add_signal_handler(signal.SIGTERM, stop.set)",
    "await stop.wait()   # an asyncio.Event handed in; the simulation sets it",
)

_OUTSIDE = {
    _THREADS: "run_in_executor set_default_executor call_soon_threadsafe",
    _SOCKETS: "getaddrinfo getnameinfo create_connection create_server create_unix_connection "
    "create_unix_server create_datagram_endpoint connect_accepted_socket connect_read_pipe "
    "connect_write_pipe start_tls sendfile add_reader remove_reader add_writer remove_writer "
    "sock_recv sock_recv_into sock_recvfrom sock_recvfrom_into sock_sendall sock_sendto "
    "sock_connect sock_accept sock_sendfile",
    _PROCESSES: "subprocess_exec subprocess_shell",
    _SIGNALS: "add_signal_handler remove_signal_handler",
}


def _refusing(message: str) -> Callable[..., NoReturn]:
    def refuse(self: _SimulatedLoop, *args: object, **options: object) -> NoReturn:
        self.refuse(message)

    return refuse


for _message, _names in _OUTSIDE.items():
    for _name in _names.split():
        setattr(_SimulatedLoop, _name, _refusing(_message))
