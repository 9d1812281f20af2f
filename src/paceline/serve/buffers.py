"""Memory for batches, used again: aligned, bounded, and never handed out while anybody looks at it.

A large batch in new memory costs more in page faults than in copying: beyond 32 MB, where the
allocator of the system keeps nothing, twice as much (`./bench tensors`). Small ones are not kept.
It knows no requests and no models; `shapes.py` takes and gives, from any thread.
"""

import threading
from collections.abc import Mapping
from math import prod
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import DTypeLike, NDArray

from paceline.terms.limits import BATCH_BUFFER_BYTES

ALIGNED = 64
"""bytes: a line of the processor's cache, and its widest instruction"""

SMALLEST_BYTES = 1024 * 1024
"""Below, a look at what is free costs more than it could save."""


class Buffers:
    """`reused` counts the arrays that lay in memory used before."""

    def __init__(self, most_bytes: int = BATCH_BUFFER_BYTES) -> None:
        self.reused = 0
        self._most_bytes = most_bytes
        self._kept_bytes = 0
        self._free: dict[int, list[NDArray[np.uint8]]] = {}
        # Whoever drops a batch without giving it back, for its model failed, frees its memory.
        self._ours: WeakValueDictionary[int, NDArray[np.uint8]] = WeakValueDictionary()
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array with whatever values are there."""
        size = prod(shape) * np.dtype(dtype).itemsize
        if size < SMALLEST_BYTES or np.dtype(dtype).hasobject:
            return np.empty(shape, dtype)
        room = 1 << (size - 1).bit_length()  # batches of about the same size share memory
        with self._lock:
            free = self._free.get(room)
            if free:
                memory = free.pop()
                self._kept_bytes -= room
                self.reused += 1
            else:
                memory = np.empty(room + ALIGNED, np.uint8)
                self._ours[id(memory)] = memory
        at = -memory.ctypes.data % ALIGNED
        return memory[at : at + size].view(dtype).reshape(shape)

    def give(self, batch: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> None:
        """Back, once the batch has run, and once only. What an output lies in, of a model that
        answers with what it was given, stays with the output; arrays not taken here are passed
        over."""
        for array in batch.values():
            memory = self._ours.get(id(array.base))
            if memory is None:
                continue
            if any(np.may_share_memory(memory, each) for each in outputs.values()):
                continue
            room = memory.size - ALIGNED
            with self._lock:
                if self._kept_bytes + room <= self._most_bytes:
                    self._kept_bytes += room
                    self._free.setdefault(room, []).append(memory)
