"""Bodies to checked requests without holding up the loop: small ones in place, large ones in a
reader process over shared memory.

Parsers of JSON keep the interpreter to themselves, so a thread would not help. The process is
started with the first large body, does one after another (`reader.py`), and is started again where
it dies: what it was reading then is answered by an error, once, and the others wait for the next.
Not for answers (`answers.py`), nor for what a request is worth. Called by `web/`, one per front.
"""

import asyncio
import mmap
import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from paceline.clock import Clock
from paceline.observe import log
from paceline.processes.child import Child, how_it_ended
from paceline.processes.link import Link, pair
from paceline.processes.restart import Restart
from paceline.serve import predict, v2
from paceline.serve.binary import texts_of
from paceline.serve.model import ModelSpec
from paceline.serve.predict import PredictRequest
from paceline.serve.reader import (
    TEXT,
    Done,
    Kind,
    Order,
    Outcome,
    Placed,
    ReadV2,
    Refused,
    outcomes,
)
from paceline.serve.v2 import InferRequest
from paceline.terms.errors import Overloaded, PacelineError, Unavailable, from_fields
from paceline.terms.limits import (
    PARSE_IN_PLACE_BYTES,
    READ_S,
    READ_SLOTS_BYTES,
    READING_BODIES,
    READING_BYTES,
)

logger = log.get(__name__)

READER_ARGUMENTS = ("-m", "paceline.serve.reader")

WIDENED = 5
"""times the size of a body is the most it takes in shared memory: itself, and eight bytes for each
digit and comma"""

Body: TypeAlias = bytes | bytearray | memoryview


class Read(NamedTuple):
    """A checked request. Call `release` once when its arrays are no longer used: they may lie in
    memory that the next body gets."""

    request: InferRequest | PredictRequest
    release: Callable[[], None]


Told: TypeAlias = Callable[[Read | PacelineError], None]


class _Job(NamedTuple):
    order: Order
    memory: int
    told: Told


class Reader:
    """`arguments` are for tests, which start something else."""

    def __init__(self, clock: Clock, arguments: Sequence[str] = READER_ARGUMENTS) -> None:
        self._clock = clock
        self._arguments = arguments
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[_Job] = deque()
        self._current: _Job | None = None
        self._held = 0
        self._held_bytes = 0
        self._number = 0
        self._free: list[int] = []
        self._free_bytes = 0
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

    def decode(
        self, kind: Kind, body: Body, spec: ModelSpec, header_length: int | None, told: Told
    ) -> None:
        """`told` hears the request, or why it is refused: before this returns where the body is
        small, or its JSON is, else later. The body must stay as it is until then, and as long as
        the request where that came at once."""
        if not is_large(len(body), spec, header_length):
            told(_read_here(kind, body, spec, header_length))
            return
        refused = self._refused(len(body))
        if refused is not None:
            told(refused)
            return
        self._held += 1
        self._held_bytes += WIDENED * len(body)
        self._number += 1
        order = Order(self._number, kind, len(body), header_length, spec)
        try:
            job = _Job(order, self._take_memory(), told)
        except OSError as error:  # no descriptor left
            self._let_go(order)
            told(_no_memory(error))
            return
        # The kernel copies, and the interpreter is free meanwhile.
        writing = self._loop.run_in_executor(None, _write, job.memory, body)
        writing.add_done_callback(partial(self._written, job))

    def start(self) -> None:
        """The process, unless it runs: the first large body need not wait for it then."""
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
        self._link = Link(ours, outcomes, self._on_outcome, self._child.kill)

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

    def _refused(self, size: int) -> PacelineError | None:
        if self._closed:
            return _gone()
        if self._held >= READING_BODIES or self._held_bytes + WIDENED * size > READING_BYTES:
            return Overloaded(
                "as many large bodies as may be are being read",
                value=self._held,
                remedy="Send again later; or send raw tensors (`binary_data`, V2), which need no "
                "reading.",
            )
        return None

    # --- One body after another -------------------------------------------------------------------

    def _written(self, job: _Job, writing: "asyncio.Future[None]") -> None:
        error = writing.exception()
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
            self.start()
        if self._link is None or self._link.closed:
            return  # it is about to be told that the process ended
        self._current = self._jobs.popleft()
        self._set_timer(READ_S, self._hangs)
        self._link.send(self._current.order, [self._current.memory])

    def _on_outcome(self, outcome: Outcome, fds: list[int]) -> None:
        job = self._current
        assert job is not None
        assert job.order.number == outcome.number
        self._current = None
        if self._timer is not None:
            self._timer.cancel()
        if isinstance(outcome, Refused):
            self._end(job, from_fields(outcome.error))
        else:
            try:
                request = _request(outcome, job.memory)
            except PacelineError as error:
                self._end(job, error)
            except OSError as error:  # it cannot be mapped
                self._end(job, _no_memory(error))
            else:
                job.told(Read(request, partial(self._release, job)))
        self._next()

    def _end(self, job: _Job, error: PacelineError) -> None:
        self._release(job)
        job.told(error)

    def _release(self, job: _Job) -> None:
        self._let_go(job.order)
        size = os.fstat(job.memory).st_size
        if self._closed or self._free_bytes + size > READ_SLOTS_BYTES:
            os.close(job.memory)
        else:
            self._free.append(job.memory)
            self._free_bytes += size

    def _let_go(self, order: Order) -> None:
        self._held -= 1
        self._held_bytes -= WIDENED * order.size

    def _take_memory(self) -> int:
        """The one used last is the likeliest in the processor's cache."""
        if not self._free:
            return os.memfd_create("paceline-body", os.MFD_CLOEXEC)
        memory = self._free.pop()
        self._free_bytes -= os.fstat(memory).st_size
        return memory

    # --- The life of the process ------------------------------------------------------------------

    def _hangs(self) -> None:
        logger.error("the reader process takes too long", seconds=READ_S)
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
        logger.error("the reader process ended", how=how, again_in_s=wait_s)
        if job is not None:
            self._end(
                job,
                Unavailable(
                    "the process that reads large bodies ended",
                    value=how,
                    remedy="Send it again; if that ends so too, send it in smaller parts.",
                ),
            )
        self._loop.call_soon(self._next)

    def _set_timer(self, wait_s: float, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(wait_s, then)


def is_large(size: int, spec: ModelSpec, header_length: int | None) -> bool:
    """Whether reading it would hold up the loop: raw numbers need none, JSON and text do."""
    if size <= PARSE_IN_PLACE_BYTES:
        return False
    if header_length is None or header_length > PARSE_IN_PLACE_BYTES:
        return True
    return any(tensor.datatype == "BYTES" for tensor in spec.inputs)


def decode_here(
    kind: Kind, body: Body, spec: ModelSpec, header_length: int | None
) -> InferRequest | PredictRequest:
    if kind == "v2":
        return v2.decode(body, spec, header_length)
    return predict.decode(body, spec)


def _read_here(
    kind: Kind, body: Body, spec: ModelSpec, header_length: int | None
) -> Read | PacelineError:
    try:
        return Read(decode_here(kind, body, spec, header_length), _nothing)
    except PacelineError as error:
        return error


def _write(memory: int, body: Body) -> None:
    left = memoryview(body)
    at = 0
    while left:
        written = os.pwrite(memory, left, at)
        left, at = left[written:], at + written


def _request(done: Done, memory: int) -> InferRequest | PredictRequest:
    mapped = mmap.mmap(memory, 0, prot=mmap.PROT_READ)
    inputs = {each.name: _view(each, mapped) for each in done.inputs}
    asked = done.asked
    if isinstance(asked, ReadV2):
        return InferRequest(
            asked.id,
            inputs,
            asked.rows,
            asked.wanted,
            asked.binary,
            asked.priority,
            asked.timeout_s,
        )
    return PredictRequest(inputs, asked.rows, asked.one_row)


def _view(placed: Placed, mapped: mmap.mmap) -> NDArray[Any]:
    raw = memoryview(mapped)[placed.at : placed.at + placed.size]
    if placed.dtype == TEXT:
        return texts_of(raw, placed.name, placed.shape)
    return np.frombuffer(raw, placed.dtype).reshape(placed.shape)


def _no_memory(error: OSError) -> PacelineError:
    return Unavailable(
        "there is no memory to read this body in", value=str(error), remedy="Send it again later."
    )


def _gone() -> PacelineError:
    return Unavailable("the server is stopping", remedy="Send it again, to whoever is left.")


def _nothing() -> None:
    """To release, of a body that was read in place."""
