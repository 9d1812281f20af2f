"""A worker: a child process that does one job after another on bytes in shared memory, so that long
work does not hold up the loop of who asks. Parsers of JSON keep the interpreter to themselves, so a
thread would not help.

It is started with the first job, and again where it dies: what it had in hand is answered by an
error then, once, and the others wait for the next. It knows neither what the work is nor what an
outcome means: `serve/reading.py` and `gateway/beside.py` do, which have one each. The child's side
is `working.py`.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import msgspec

from paceline.clock import Clock
from paceline.observe import log
from paceline.processes.child import Child, how_it_ended
from paceline.processes.link import Link, pair
from paceline.processes.restart import Restart
from paceline.processes.working import Done, Order, Refused, put
from paceline.terms.errors import BadField, Overloaded, PacelineError, Unavailable, from_fields

logger = log.get(__name__)


class Work(NamedTuple):
    """What one worker's work is called, and its bounds."""

    name: str
    jobs: int
    """held at most, the one in hand included"""

    bytes: int
    """of memory those may take"""

    widened: int
    """times the size of its body is the most a job takes"""

    job_s: float
    """how long one may take; then the process is killed and restarted"""

    kept_bytes: int
    """of memory that is kept for the next jobs"""

    when_full: str
    when_ended: str
    """the remedies of the two errors that only whoever sends the bodies can do something about"""


What = TypeVar("What", bound=Done)
"""What the process answers where it refuses nothing."""


class Job(Generic[What]):
    """Who is told an outcome calls `release` once, when what lies in `memory` is no longer used:
    the next job may get it."""

    __slots__ = ("_worker", "memory", "order", "told")

    def __init__(
        self, worker: "Worker[What]", order: Order, memory: int, told: "Told[What]"
    ) -> None:
        self._worker = worker
        self.order = order
        self.memory = memory
        self.told = told

    def release(self) -> None:
        self._worker.release(self)


Told = Callable[[What | PacelineError, Job[What]], None]
"""Hears what came of a job. With an error the job is released already."""


class Worker(Generic[What]):
    """`arguments` are those of the interpreter."""

    def __init__(
        self,
        work: Work,
        arguments: Sequence[str],
        outcomes: msgspec.json.Decoder[What | Refused],
        clock: Clock,
    ) -> None:
        self._work = work
        self._arguments = arguments
        self._outcomes = outcomes
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[Job[What]] = deque()
        self._current: Job[What] | None = None
        self._held = 0
        self._held_bytes = 0
        self._number = 0
        self._free: list[int] = []
        self._free_bytes = 0
        self._child: Child | None = None
        self._link: Link[What | Refused] | None = None
        self._restart = Restart()
        self._started_s = 0.0
        self._not_before_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._child is None else self._child.pid

    @property
    def held(self) -> int:
        """Jobs that are not released."""
        return self._held

    def number(self) -> int:
        """For the next order."""
        self._number += 1
        return self._number

    def begin(
        self, order: Order, body: bytes | bytearray | memoryview, told: Told[What]
    ) -> PacelineError | None:
        """Why it is refused; else `told` hears what came of it, never before this returns. The body
        must stay as it is until then."""
        refused = self._refused(order.size)
        if refused is not None:
            return refused
        try:
            memory = self._take_memory()
        except OSError as error:  # no descriptor left
            return no_memory(error)
        self._held += 1
        self._held_bytes += self._work.widened * order.size
        # The kernel copies, and the interpreter is free meanwhile.
        filling = self._loop.run_in_executor(None, put, memory, body, 0)
        filling.add_done_callback(partial(self._filled, Job(self, order, memory, told)))
        return None

    def start(self) -> None:
        """The process, unless it runs: the first job need not wait for it then."""
        if self._child is not None or self._closed:
            return
        ours, theirs = pair()
        self._started_s = self._clock.now()
        try:
            self._child = Child(self._arguments, theirs, self._on_exit)
        except OSError as error:
            ours.close()
            theirs.close()
            # Whoever waits longest is told; the others wait for the next try.
            self._died(
                f"it cannot be started: {error}", self._jobs.popleft() if self._jobs else None
            )
            return
        self._link = Link(ours, self._outcomes, self._on_outcome, self._child.kill)

    def release(self, job: Job[What]) -> None:
        self._held -= 1
        self._held_bytes -= self._work.widened * job.order.size
        size = os.fstat(job.memory).st_size
        if self._closed or self._free_bytes + size > self._work.kept_bytes:
            os.close(job.memory)
        else:
            self._free.append(job.memory)
            self._free_bytes += size

    def close(self) -> None:
        """The process ends, and whoever still waits is told so."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._link is not None:
            self._link.close()
        if self._child is not None:
            self._child.kill()
        jobs = [*self._jobs, *([self._current] if self._current else [])]
        self._jobs.clear()
        self._current = None
        for job in jobs:
            self._end(job, _gone())
        for memory in self._free:
            os.close(memory)
        self._free.clear()

    # --- One job after another --------------------------------------------------------------------

    def _refused(self, size: int) -> PacelineError | None:
        if self._closed:
            return _gone()
        if (
            self._held >= self._work.jobs
            or self._held_bytes + self._work.widened * size > self._work.bytes
        ):
            return Overloaded(
                "as many large bodies as may be are being read",
                value=self._held,
                remedy=self._work.when_full,
            )
        return None

    def _take_memory(self) -> int:
        """The one used last is the likeliest in the processor's cache."""
        if not self._free:
            return os.memfd_create("paceline-body", os.MFD_CLOEXEC)
        memory = self._free.pop()
        self._free_bytes -= os.fstat(memory).st_size
        return memory

    def _filled(self, job: Job[What], filling: "asyncio.Future[None]") -> None:
        error = filling.exception()
        if error is not None:
            if not isinstance(error, OSError):
                raise error
            self._end(job, no_memory(error))
        elif self._closed:
            self._end(job, _gone())
        else:
            self._jobs.append(job)
            self._next()

    def _next(self) -> None:
        if self._current is not None or not self._jobs or self._closed:
            return
        if self._child is None:
            wait_s = self._not_before_s - self._clock.now()
            if wait_s > 0:
                self._set_timer(wait_s, self._next)
                return
            self.start()
        if self._link is None or self._link.closed:
            return  # it is about to be told that the process ended
        self._current = self._jobs.popleft()
        self._set_timer(self._work.job_s, self._hangs)
        self._link.send(self._current.order, [self._current.memory])

    def _on_outcome(self, outcome: What | Refused, fds: list[int]) -> None:
        job = self._current
        assert job is not None
        assert job.order.number == outcome.number
        self._current = None
        if self._timer is not None:
            self._timer.cancel()
        try:
            if isinstance(outcome, Refused):
                self._end(job, _as_error(outcome))
            else:
                job.told(outcome, job)
        finally:  # whatever happens to whom it is told, the others wait for the next
            self._next()

    def _end(self, job: Job[What], error: PacelineError) -> None:
        self.release(job)
        job.told(error, job)

    # --- The life of the process ------------------------------------------------------------------

    def _hangs(self) -> None:
        logger.error(f"the {self._work.name} process takes too long", seconds=self._work.job_s)
        if self._child is not None:
            self._child.kill()

    def _on_exit(self, status: int) -> None:
        self._child = None
        if self._link is not None:
            self._link.close()
            self._link = None
        if not self._closed:
            job, self._current = self._current, None
            self._died(how_it_ended(status), job)

    def _died(self, how: str, job: Job[What] | None) -> None:
        now = self._clock.now()
        wait_s = self._restart.died(now - self._started_s)
        self._not_before_s = now + wait_s
        if self._timer is not None:
            self._timer.cancel()
        logger.error(f"the {self._work.name} process ended", how=how, again_in_s=wait_s)
        if job is not None:
            self._end(
                job,
                Unavailable(
                    "the process that reads large bodies ended",
                    value=how,
                    remedy=self._work.when_ended,
                ),
            )
        self._loop.call_soon(self._next)

    def _set_timer(self, wait_s: float, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(wait_s, then)


def no_memory(error: OSError) -> PacelineError:
    return Unavailable(
        "there is no memory to read this body in", value=str(error), remedy="Send it again later."
    )


def _as_error(refused: Refused) -> PacelineError:
    error = from_fields(refused.error)
    if isinstance(error, BadField):
        error.param = refused.param
    return error


def _gone() -> PacelineError:
    return Unavailable("the server is stopping", remedy="Send it again, to whoever is left.")
