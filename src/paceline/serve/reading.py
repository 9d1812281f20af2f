"""Bodies to checked requests without holding up the loop: small ones in place, large ones in a
reader process over shared memory.

The process is a worker as `processes/worker.py` keeps it; what it does is in `reader.py`.
Not for answers (`answers.py`), nor for what a request is worth. Called by `web/`, one per front.
"""

import mmap
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from paceline.clock import Clock
from paceline.processes.worker import Job, Work, Worker, no_memory
from paceline.serve import predict, v2
from paceline.serve.binary import texts_of
from paceline.serve.model import ModelSpec
from paceline.serve.predict import PredictRequest
from paceline.serve.reader import (
    TEXT,
    Done,
    Kind,
    Order,
    Placed,
    ReadV2,
    outcomes,
)
from paceline.serve.v2 import InferRequest
from paceline.terms.errors import PacelineError
from paceline.terms.limits import (
    PARSE_IN_PLACE_BYTES,
    READ_S,
    READ_SLOTS_BYTES,
    READING_BODIES,
    READING_BYTES,
)

READER_ARGUMENTS = ("-m", "paceline.serve.reader")

WORK = Work(
    name="reader",
    jobs=READING_BODIES,
    bytes=READING_BYTES,
    widened=5,  # itself, and eight bytes for each digit and comma
    job_s=READ_S,
    kept_bytes=READ_SLOTS_BYTES,
    when_full="Send again later; or send raw tensors (`binary_data`, V2), which need no reading.",
    when_ended="Send it again; if that ends so too, send it in smaller parts.",
)

Body: TypeAlias = bytes | bytearray | memoryview


class Read(NamedTuple):
    """A checked request. Call `release` once when its arrays are no longer used: they may lie in
    memory that the next body gets."""

    request: InferRequest | PredictRequest
    release: Callable[[], None]


Told: TypeAlias = Callable[[Read | PacelineError], None]


class Reader:
    """`arguments` are for tests, which start something else."""

    def __init__(self, clock: Clock, arguments: Sequence[str] = READER_ARGUMENTS) -> None:
        self._worker = Worker(WORK, arguments, outcomes, clock)

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return self._worker.pid

    def decode(
        self, kind: Kind, body: Body, spec: ModelSpec, header_length: int | None, told: Told
    ) -> None:
        """`told` hears the request, or why it is refused: before this returns where the body is
        small, or its JSON is, else later. The body must stay as it is until then, and as long as
        the request where that came at once."""
        if not is_large(len(body), spec, header_length):
            told(_read_here(kind, body, spec, header_length))
            return
        order = Order(self._worker.number(), len(body), kind, header_length, spec)
        refused = self._worker.begin(order, body, partial(_read, told))
        if refused is not None:
            told(refused)

    def start(self) -> None:
        """The process, unless it runs: the first large body need not wait for it then."""
        self._worker.start()

    def close(self) -> None:
        """The process ends, and whoever still waits is told so."""
        self._worker.close()


def _read(told: Told, done: Done | PacelineError, job: Job[Done]) -> None:
    if isinstance(done, PacelineError):
        told(done)
        return
    try:
        request = _request(done, job.memory)
    except PacelineError as error:
        job.release()
        told(error)
    except OSError as error:  # it cannot be mapped
        job.release()
        told(no_memory(error))
    else:
        told(Read(request, job.release))


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


def _nothing() -> None:
    """To release, of a body that was read in place."""
