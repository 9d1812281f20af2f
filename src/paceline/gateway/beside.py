"""Long bodies of LLM calls, and answers, read and written anew without holding up the loop: in a
scribe process over shared memory (`scribe.py`), a worker as `processes/worker.py` keeps it.

One per front; called by `web/llm.py` and `relay.py`.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import partial

from paceline.clock import Clock
from paceline.gateway.asking import NEWER
from paceline.gateway.call import Asked, Call, Dialect, Endpoint
from paceline.gateway.scribe import Done, Order, outcomes
from paceline.gateway.upstream import TokensField
from paceline.processes.worker import Job, Work, Worker, no_memory
from paceline.terms.errors import PacelineError
from paceline.terms.limits import LLM_BESIDE, LLM_BESIDE_BYTES, LLM_BESIDE_S

ARGUMENTS = ("-m", "paceline.gateway.scribe")

WORK = Work(
    name="scribe",
    jobs=LLM_BESIDE,
    bytes=LLM_BESIDE_BYTES,
    widened=3,  # itself, and itself said anew
    job_s=LLM_BESIDE_S,
    kept_bytes=0,
    when_full="Send again later.",
    when_ended="Send it again; if that ends so too, send less at once.",
)


class Beside:
    """`arguments` are for tests, which start something else."""

    def __init__(self, clock: Clock, arguments: Sequence[str] = ARGUMENTS) -> None:
        self._loop = asyncio.get_running_loop()
        self._worker = Worker(WORK, arguments, outcomes, clock)

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return self._worker.pid

    def read(
        self,
        endpoint: Endpoint,
        dialect: Dialect,
        body: bytes,
        told: Callable[[Asked | PacelineError], None],
    ) -> None:
        """`told` hears what is asked, or why it is refused; never before this returns."""
        order = Order(self._worker.number(), len(body), endpoint, dialect)
        refused = self._worker.begin(order, body, partial(_read, told))
        if refused is not None:
            self._loop.call_soon(told, refused)

    def write(
        self,
        call: Call,
        to: Dialect,
        model: str,
        told: Callable[[bytes | PacelineError], None],
        tokens_field: TokensField = NEWER,
    ) -> None:
        """`told` hears the body as a provider is to get it; never before this returns."""
        size = len(call.body)
        number = self._worker.number()
        order = Order(
            number, size, call.endpoint, call.dialect, to, model, call.asked, 0, tokens_field
        )
        self._write(order, call.body, told)

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

        number, model = self._worker.number(), call.asked.model
        order = Order(
            number, len(body), call.endpoint, dialect, call.dialect, model, None, created_s
        )
        self._write(order, body, told)

    def close(self) -> None:
        """The process ends, and whoever still waits is told so."""
        self._worker.close()

    def _write(
        self, order: Order, body: bytes, told: Callable[[bytes | PacelineError], None]
    ) -> None:
        refused = self._worker.begin(order, body, partial(_written, told))
        if refused is not None:
            self._loop.call_soon(told, refused)


def _read(
    told: Callable[[Asked | PacelineError], None], done: Done | PacelineError, job: Job[Done]
) -> None:
    if isinstance(done, PacelineError):
        told(done)
        return
    job.release()
    assert done.asked is not None
    told(done.asked)


def _written(
    told: Callable[[bytes | PacelineError], None], done: Done | PacelineError, job: Job[Done]
) -> None:
    if isinstance(done, PacelineError):
        told(done)
        return
    said: bytes | PacelineError
    try:
        said = os.pread(job.memory, done.size, job.order.size)
    except OSError as error:
        said = no_memory(error)
    job.release()
    told(said)
