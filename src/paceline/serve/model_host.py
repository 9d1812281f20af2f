"""The life of one model process: finds a callable of Python, and calls it with one batch at a time.

The other side is `model_process.py`, which says over the link what lies in the shared memory. What
the callable prints goes where the log goes. The process ends with its front, however that ends.
Begun by `python -m paceline _model`.
"""

import ctypes
import fcntl
import importlib
import importlib.util
import mmap
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec

from paceline.serve.model import ANY_LENGTH, ModelSpec, TensorSpec
from paceline.serve.model_look import obey
from paceline.serve.model_source import DECLARED_AS, Declared, ModelSource
from paceline.terms.errors import BadModel, ModelFailed, PacelineError
from paceline.terms.limits import (
    LINK_MESSAGE_BYTES,
    LOG_CHARS,
    MODEL_MEMORY_BYTES,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

PAGE_BYTES = mmap.PAGESIZE
ALIGNED_BYTES = 64
"""Where each array begins: a multiple of what the widest instructions like."""

PDEATHSIG = 1
"""prctl's number of the signal that comes when the parent ends."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


# --- What the two sides say -----------------------------------------------------------------------


class Begin(msgspec.Struct, frozen=True):
    """The first message. The memory of inputs, that of outputs, and the socket for orders to look
    at itself come along."""

    source: ModelSource
    threads: int
    front: int
    """its process"""


class Begun(msgspec.Struct, frozen=True):
    """The answer: what the callable takes and gives, or why there is none."""

    declared: Declared | None = None
    doc: str = ""
    error: dict[str, str] = {}


class Lies(msgspec.Struct, frozen=True):
    """An array in the shared memory."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    at: int


class Batch(msgspec.Struct, frozen=True):
    """One way and the other: arrays in a memory of so many bytes."""

    arrays: tuple[Lies, ...]
    size_bytes: int


class Ran(msgspec.Struct, frozen=True):
    """The answer to a batch: its outputs, or what went wrong."""

    outputs: Batch | None = None
    error: dict[str, str] = {}
    trace: str = ""


encode = msgspec.json.Encoder().encode


class Memory:
    """Shared by the two sides, written by one of them, and only ever grows: neither side can take
    it from under the other."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._mapped: mmap.mmap | None = None

    @classmethod
    def make(cls, name: str) -> "Memory":
        fd = os.memfd_create(f"paceline-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return cls(fd)

    def write(self, arrays: "Mapping[str, NDArray[Any]]") -> Batch:
        import numpy as np

        at, lying = 0, []
        for name, array in arrays.items():
            lying.append(Lies(name, array.dtype.str, array.shape, at))
            at += -(-array.nbytes // ALIGNED_BYTES) * ALIGNED_BYTES
        whole = self._of(at)
        for each in lying:
            _view(whole, each)[...] = np.asarray(arrays[each.name])
        return Batch(tuple(lying), at)

    def read(self, batch: Batch) -> "dict[str, NDArray[Any]]":
        """Views, which the next batch overwrites."""
        whole = self._of(batch.size_bytes)
        return {each.name: _view(whole, each) for each in batch.arrays}

    def _of(self, size_bytes: int) -> mmap.mmap:
        if self._mapped is None or len(self._mapped) < size_bytes:
            if size_bytes > MODEL_MEMORY_BYTES:
                raise ModelFailed(
                    f"a batch has more than {MODEL_MEMORY_BYTES} bytes",
                    value=size_bytes,
                    remedy="Send fewer rows at a time, or turn the knob max_batch down.",
                )
            size = max(PAGE_BYTES, 1 << (size_bytes - 1).bit_length())
            if os.fstat(self.fd).st_size < size:
                os.ftruncate(self.fd, size)
            self._mapped = mmap.mmap(self.fd, size)  # the one before goes with its last view
        return self._mapped

    def close(self) -> None:
        self._mapped = None
        os.close(self.fd)


def _view(whole: mmap.mmap, each: Lies) -> "NDArray[Any]":
    import numpy as np

    return np.ndarray(each.shape, each.dtype, whole, each.at)


# --- The process ----------------------------------------------------------------------------------


def run_model(link_fd: int) -> None:
    """Until the front is gone. The interpreter is left at once: threads of the model must not hold
    it up."""
    link = socket.socket(fileno=link_fd)
    link.set_inheritable(False)
    message, fds, _, _ = socket.recv_fds(link, LINK_MESSAGE_BYTES, 3)
    if message:
        begin = msgspec.json.decode(message, type=Begin)
        _settle(begin)
        inputs, outputs, looks = fds
        _serve(link, begin, Memory(inputs), Memory(outputs), socket.socket(fileno=looks))
    os._exit(0)


def _settle(begin: Begin) -> None:
    """Standard output is the log's, the threads are those there are cores for, and the end is the
    front's."""
    os.dup2(2, 1)
    ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGKILL)
    if os.getppid() != begin.front:  # gone before it could be told
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to a whole service: the front drains first
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, str(begin.threads))


def _serve(
    link: socket.socket, begin: Begin, inputs: Memory, outputs: Memory, looks: socket.socket
) -> None:
    try:
        call, declared = load(begin.source)
    except PacelineError as error:
        link.send(encode(Begun(error=error.as_fields())))
        return
    spec = spec_of(begin.source.name, declared)
    obey(looks)
    link.send(encode(Begun(declared, _doc(call))))
    decode = msgspec.json.Decoder(Batch).decode
    while message := link.recv(LINK_MESSAGE_BYTES):
        try:
            answer = Ran(outputs.write(_answer(call, spec, inputs.read(decode(message)))))
        except PacelineError as error:
            answer = Ran(error=error.as_fields(), trace=_trace(error))
        link.send(encode(answer))
        sys.stdout.flush()


def _answer(
    call: Callable[[Any], Any], spec: ModelSpec, batch: "dict[str, NDArray[Any]]"
) -> "dict[str, NDArray[Any]]":
    rows = len(next(iter(batch.values()))) if spec.has_rows else None
    try:
        answered = call(batch)
    except Exception as error:
        said = f": {error}"[:LOG_CHARS] if str(error) else ""
        raise ModelFailed(
            f"the model `{spec.name}` failed: {type(error).__name__}{said}",
            remedy="Check the values sent; if they are right, the server's log says where.",
        ) from error
    return checked(spec, answered, rows)


def _trace(error: PacelineError) -> str:
    cause = error.__cause__
    if cause is None:
        return ""
    return "".join(traceback.format_exception(cause))[-LOG_CHARS:]


# --- What it answered -----------------------------------------------------------------------------


def checked(spec: ModelSpec, answered: object, rows: int | None) -> "dict[str, NDArray[Any]]":
    """As arrays of the declared types, or ModelFailed that says what was expected."""
    import numpy as np

    from paceline.serve.tensors import DTYPES

    if not isinstance(answered, Mapping):
        if len(spec.outputs) > 1:
            raise _unlike(spec, f"a {type(answered).__name__}, not a dict of its outputs")
        answered = {spec.outputs[0].name: answered}
    wanted = {each.name: each for each in spec.outputs}
    if set(answered) != set(wanted):
        raise _unlike(spec, f"{', '.join(map(repr, answered)) or 'no output'}")
    arrays = {}
    for name, each in wanted.items():
        try:
            array = np.asarray(answered[name])
        except Exception as error:
            raise _unlike(spec, f"no array for `{name}`: {error}") from error
        dtype = np.dtype(DTYPES[each.datatype])
        if not np.can_cast(array.dtype, dtype, "same_kind"):
            raise _unlike(spec, f"{array.dtype} for `{name}`")
        if not _fits(array.shape, each, rows):
            raise _unlike(
                spec,
                f"the shape {list(array.shape)} for `{name}`"
                + (f", of {rows} rows" if rows is not None and each.has_rows else ""),
            )
        arrays[name] = array.astype(dtype, copy=False)
    return arrays


def _fits(shape: tuple[int, ...], declared: TensorSpec, rows: int | None) -> bool:
    if len(shape) != len(declared.shape):
        return False
    if rows is not None and declared.has_rows and shape[0] != rows:
        return False
    pairs = zip(shape, declared.shape, strict=True)
    return all(size in (ANY_LENGTH, here) for here, size in pairs)


def _unlike(spec: ModelSpec, what: str) -> ModelFailed:
    expected = " and ".join(map(str, spec.outputs))
    return ModelFailed(
        f"the model `{spec.name}` answered {what}; expected is {expected}",
        remedy="Mend the callable, or what it declares as its outputs.",
    )


def spec_of(name: str, declared: Declared, doc: str = "") -> ModelSpec:
    return ModelSpec(
        name, "1", declared.inputs, declared.outputs, doc, pure=declared.pure, isolated=True
    )


# --- Finding it -----------------------------------------------------------------------------------


def load(source: ModelSource) -> tuple[Callable[[Any], Any], Declared]:
    """The callable, and what it takes; a class is made an instance of."""
    sys.path += [folder for folder in source.folders if folder not in sys.path]
    where, _, attribute = source.python.rpartition(":")
    try:
        found: Any = _module(where)
        for part in attribute.split("."):
            found = getattr(found, part)
        declared = source.declared or getattr(found, DECLARED_AS, None)
        if isinstance(found, type):
            found = found()
            declared = declared or getattr(found, DECLARED_AS, None)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        raise BadModel(
            f"the model `{source.name}` cannot be loaded: {type(error).__name__}: {error}",
            value=source.python,
            remedy="Check that the file runs by itself, and that the name is in it.",
        ) from error
    if not callable(found):
        raise BadModel(
            f"the model `{source.name}` cannot be called: it is a {type(found).__name__}",
            value=source.python,
            remedy="Name a function, or a class whose instances can be called.",
        )
    if not isinstance(declared, Declared):
        raise BadModel(
            f"the model `{source.name}` does not say what it takes and gives",
            value=source.python,
            remedy="Write above it `@paceline.model(inputs={'x': ('FP32', [-1, 64])}, "
            "outputs={'y': ('FP32', [-1, 10])})`, with your names and shapes.",
        )
    return found, declared


def _module(where: str) -> ModuleType:
    """A file is run under a name of its own, so that what is for `__main__` alone is not."""
    if not where.endswith(".py"):
        return importlib.import_module(where)
    path = Path(where)
    name = f"paceline_model_{path.stem}"
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _doc(call: object) -> str:
    return (getattr(call, "__doc__", None) or "").strip().partition("\n")[0][:LOG_CHARS]
