"""Long bodies of LLM calls, and answers, read and written anew without holding up the loop: in a
scribe process over shared memory, for parsers of JSON keep the interpreter to themselves.

It is started with the first long body, does one after another (`scribe.py`), and is started again
where it dies: what it had in hand is answered by an error, once, and the others wait for the next.
As `serve/reading.py` does it for tensors. One per front; called by `web/llm.py` and `relay.py`.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from paceline.clock import Clock
from paceline.gateway.asking import NEWER
from paceline.gateway.call import Asked, Call, Dialect, Endpoint
from paceline.gateway.scribe import Done, Order, Outcome, Refused, outcomes
from paceline.gateway.upstream import TokensField
from paceline.observe import log
from paceline.processes.child import Child, how_it_ended
from paceline.processes.link import Link, pair
from paceline.processes.restart import Restart
from paceline.terms.errors import BadField, Overloaded, PacelineError, Unavailable, from_fields
from paceline.terms.limits import LLM_BESIDE, LLM_BESIDE_BYTES, LLM_BESIDE_S

logger = log.get(__name__)

ARGUMENTS = ("-m", "paceline.gateway.scribe")

WIDENED = 3
"""times the size of a body is the most it takes: itself, and itself said anew"""

Told = Callable[[Done | PacelineError, bytes], None]
"""Hears what came of it, and the bytes that were written."""


class _Job(NamedTuple):
    order: Order
    memory: int
    told: Told


class Beside:
    """`arguments` are for tests, which start something else."""

    def __init__(self, clock: Clock, arguments: Sequence[str] = ARGUMENTS) -> None:
        self._clock = clock
        self._arguments = arguments
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[_Job] = deque()
        self._current: _Job | None = None
        self._held = 0
        self._held_bytes = 0
        self._number = 0
        self._child: Child | None = None
        self._link: Link[Outcome] | None = None
        self._restart = Restart()
        self._started_s = 0.0
        self._not_before_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._child is None else self._child.pid

    def read(
        self,
        endpoint: Endpoint,
        dialect: Dialect,
        body: bytes,
        told: Callable[[Asked | PacelineError], None],
    ) -> None:
        """`told` hears what is asked, or why it is refused; never before this returns."""

        def heard(outcome: Done | PacelineError, written: bytes) -> None:
            if isinstance(outcome, Done):
                assert outcome.asked is not None
                told(outcome.asked)
            else:
                told(outcome)

        self._begin(Order(self._next_number(), len(body), endpoint, dialect), body, heard)

    def write(
        self,
        call: Call,
        to: Dialect,
        model: str,
        told: Callable[[bytes | PacelineError], None],
        tokens_field: TokensField = NEWER,
    ) -> None:
        """`told` hears the body as a provider is to get it; never before this returns."""

        def heard(outcome: Done | PacelineError, written: bytes) -> None:
            told(written if isinstance(outcome, Done) else outcome)

        size = len(call.body)
        number = self._next_number()
        order = Order(
            number, size, call.endpoint, call.dialect, to, model, call.asked, 0, tokens_field
        )
        self._begin(order, call.body, heard)

    def say(
        self,
        body: bytes,
        call: Call,
        dialect: Dialect,
        created_s: int,
        told: Callable[[bytes | PacelineError], None],
    ) -> None:
        """The answer to a call, which is in that dialect; `told` hears it in the caller's, never
        before this returns."""

        def heard(outcome: Done | PacelineError, written: bytes) -> None:
            told(written if isinstance(outcome, Done) else outcome)

        number, model = self._next_number(), call.asked.model
        order = Order(
            number, len(body), call.endpoint, dialect, call.dialect, model, None, created_s
        )
        self._begin(order, body, heard)

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

    # --- One body after another -------------------------------------------------------------------

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _begin(self, order: Order, body: bytes, told: Told) -> None:
        refused = self._refused(order.size)
        if refused is None:
            try:
                memory = os.memfd_create("paceline-llm", os.MFD_CLOEXEC)
            except OSError as error:  # no descriptor left
                refused = _no_memory(error)
        if refused is not None:
            self._loop.call_soon(told, refused, b"")
            return
        self._held += 1
        self._held_bytes += WIDENED * order.size
        # The kernel copies, and the interpreter is free meanwhile.
        filling = self._loop.run_in_executor(None, _fill, memory, body)
        filling.add_done_callback(partial(self._filled, _Job(order, memory, told)))

    def _refused(self, size: int) -> PacelineError | None:
        if self._closed:
            return _gone()
        if self._held >= LLM_BESIDE or self._held_bytes + WIDENED * size > LLM_BESIDE_BYTES:
            return Overloaded(
                "as many large bodies as may be are being read",
                value=self._held,
                remedy="Send again later.",
            )
        return None

    def _filled(self, job: _Job, filling: "asyncio.Future[None]") -> None:
        error = filling.exception()
        if error is not None:
            if not isinstance(error, OSError):
                raise error
            self._end(job, _no_memory(error))
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
            self._start()
        if self._link is None or self._link.closed:
            return  # it is about to be told that the process ended
        self._current = self._jobs.popleft()
        self._set_timer(LLM_BESIDE_S, self._hangs)
        self._link.send(self._current.order, [self._current.memory])

    def _on_outcome(self, outcome: Outcome, fds: list[int]) -> None:
        job = self._current
        assert job is not None
        assert job.order.number == outcome.number
        self._current = None
        if self._timer is not None:
            self._timer.cancel()
        if isinstance(outcome, Refused):
            error = from_fields(outcome.error)
            if isinstance(error, BadField):
                error.param = outcome.param
            self._end(job, error)
        else:
            try:
                written = os.pread(job.memory, outcome.size, job.order.size)
            except OSError as error:
                self._end(job, _no_memory(error))
            else:
                self._end(job, outcome, written)
        self._next()

    def _end(self, job: _Job, outcome: Done | PacelineError, written: bytes = b"") -> None:
        self._held -= 1
        self._held_bytes -= WIDENED * job.order.size
        os.close(job.memory)
        job.told(outcome, written)

    # --- The life of the process ------------------------------------------------------------------

    def _start(self) -> None:
        ours, theirs = pair()
        self._started_s = self._clock.now()
        try:
            self._child = Child(self._arguments, theirs, self._on_exit)
        except OSError as error:
            ours.close()
            theirs.close()
            # Whoever waits longest is told; the others wait for the next try.
            self._died(f"it cannot be started: {error}", self._jobs.popleft())
            return
        self._link = Link(ours, outcomes, self._on_outcome, self._child.kill)

    def _hangs(self) -> None:
        logger.error("the scribe process takes too long", seconds=LLM_BESIDE_S)
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

    def _died(self, how: str, job: _Job | None) -> None:
        now = self._clock.now()
        wait_s = self._restart.died(now - self._started_s)
        self._not_before_s = now + wait_s
        if self._timer is not None:
            self._timer.cancel()
        logger.error("the scribe process ended", how=how, again_in_s=wait_s)
        if job is not None:
            self._end(
                job,
                Unavailable(
                    "the process that reads large bodies ended",
                    value=how,
                    remedy="Send it again; if that ends so too, send less at once.",
                ),
            )
        self._loop.call_soon(self._next)

    def _set_timer(self, wait_s: float, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(wait_s, then)


def _fill(memory: int, body: bytes) -> None:
    left, at = memoryview(body), 0
    while left:
        count = os.pwrite(memory, left, at)
        left, at = left[count:], at + count


def _no_memory(error: OSError) -> PacelineError:
    return Unavailable(
        "there is no memory to read this body in", value=str(error), remedy="Send it again later."
    )


def _gone() -> PacelineError:
    return Unavailable("the server is stopping", remedy="Send it again, to whoever is left.")
