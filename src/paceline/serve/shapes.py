"""What may run together, and how: requests to one batch, and its outputs back to requests.

Rows of the same shape share a run. Where the model declares padding, its named open dimensions are
rounded up to the next of 8, 16, 32 ..., so that requests of about the same length share one, there
are few shapes to learn, and what a batch costs is the sum of what its requests cost; outputs are
cut back to each request's own length by the names of their dimensions. A model of which rows cannot
be told apart, because an input or an output has none, runs each request alone.

A request that runs alone runs where its tensors lie, on the body it came in; others are copied
once, into memory that a batch before has used. Pure but for numpy and that memory. Called by
`runner.py`; which requests run together is decided in `core.py`.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from paceline.serve.buffers import SMALLEST_BYTES, Buffers
from paceline.serve.model import ANY_LENGTH, ModelSpec, Tensors, TensorSpec
from paceline.serve.tensors import RAW_DTYPES
from paceline.terms.errors import ModelFailed

SHORTEST = 8
"""To which at least a dimension is rounded up."""

Bucket: TypeAlias = "tuple[tuple[str, tuple[int, ...]], ...]"
"""Of each input, in the model's order: its type, and the shape behind the rows as it is run."""


class Shapes:
    """Of one model. `alone`: its requests cannot share a run. `copies_avoided` counts requests that
    were run where they lay."""

    def __init__(self, spec: ModelSpec) -> None:
        self.copies_avoided = 0
        self._buffers = Buffers()
        self.alone = not all(each.has_rows for each in (*spec.inputs, *spec.outputs))
        self._spec = spec
        padded = () if self.alone else [t for t in spec.inputs if t.name in spec.padding]
        self._rounded: Mapping[str, Sequence[int]] = {t.name: tuple(t.names) for t in padded}
        where = {name: (t.name, axis) for t in padded for axis, name in t.names.items()}
        cut = {
            tensor.name: {axis: where[name] for axis, name in tensor.names.items() if name in where}
            for tensor in spec.outputs
        }
        self._cut = {name: axes for name, axes in cut.items() if axes}
        self._behind = [
            (each.name, int(each.has_rows), self._rounded.get(each.name)) for each in spec.inputs
        ]
        self._open = [place for place, each in enumerate(spec.inputs) if _is_open(each)]

    def bucket(self, inputs: Tensors) -> Bucket:
        """Requests of equal ones may share a run."""
        bucket = []
        for name, first, axes in self._behind:
            array = inputs[name]
            shape = array.shape if axes is None else _rounded(array.shape, axes)
            bucket.append((array.dtype.char, shape[first:]))
        return tuple(bucket)

    def cost(self, bucket: Bucket, rows: int) -> int:
        """Elements of its largest input of open length: tokens, pixels; rows where none is."""
        if not self._open:
            return rows
        return rows * max(prod(bucket[place][1]) for place in self._open)

    def together(self, several: Sequence[Tensors]) -> Tensors:
        """One batch of requests from one bucket; its memory goes back with `reuse`."""
        if len(several) == 1 and not self._rounded and _is_fit(several[0]):
            self.copies_avoided += 1  # by one thread at a time but for a moment: a count, no more
            return several[0]
        return {
            each.name: self._joined(each.name, [inputs[each.name] for inputs in several])
            for each in self._spec.inputs
        }

    def reuse(self, batch: Tensors, outputs: Tensors) -> None:
        """What `together` made, once it has run; where `outputs` lie in it it stays with them."""
        self._buffers.give(batch, outputs)

    @property
    def buffers_reused(self) -> int:
        return self._buffers.reused

    def apart(self, outputs: Tensors, several: Sequence[Tensors]) -> list[Tensors]:
        """Of each of the requests its own rows; views on the whole."""
        if len(several) == 1 and not self._cut:
            return [outputs]
        first = self._spec.inputs[0].name
        rows = [len(inputs[first]) for inputs in several]
        for name, array in outputs.items():
            if len(array) != sum(rows):
                raise ModelFailed(
                    f"the model `{self._spec.name}` answered {len(array)} rows of `{name}` "
                    f"for {sum(rows)}",
                    remedy="Its requests cannot share a run; set its knob max_batch to 1.",
                )
        answers: list[Tensors] = []
        at = 0
        for inputs, count in zip(several, rows, strict=True):
            own = slice(at, at + count)
            answers.append({n: self._part(n, array, own, inputs) for n, array in outputs.items()})
            at += count
        return answers

    def zeros(self, rows: int) -> "Tensors | None":
        """A request of so many rows, to try the model with; open dimensions have one element. None
        where the model takes what has no zero here."""
        if any(each.datatype not in RAW_DTYPES for each in self._spec.inputs):
            return None
        return {
            each.name: np.zeros(_closed(each, rows), RAW_DTYPES[each.datatype])
            for each in self._spec.inputs
        }

    def _joined(self, name: str, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
        axes = self._rounded.get(name)
        if axes is None:
            if sum([array.nbytes for array in arrays]) < SMALLEST_BYTES:
                return np.concatenate(arrays)
            shape = (sum(map(len, arrays)), *arrays[0].shape[1:])
            joined = self._buffers.take(shape, arrays[0].dtype)
            return np.concatenate(arrays, out=joined)
        shape = (sum(map(len, arrays)), *_rounded(arrays[0].shape, axes)[1:])
        whole = self._buffers.take(shape, arrays[0].dtype)
        whole.fill(self._spec.padding[name])
        at = 0
        for array in arrays:
            whole[(slice(at, at + len(array)), *map(slice, array.shape[1:]))] = array
            at += len(array)
        return whole

    def _part(self, name: str, array: NDArray[Any], rows: slice, inputs: Tensors) -> NDArray[Any]:
        axes = self._cut.get(name)
        if axes is None:
            return array[rows]
        own = [rows, *[slice(None)] * (array.ndim - 1)]
        for axis, (source, source_axis) in axes.items():
            own[axis] = slice(inputs[source].shape[source_axis])
        return array[tuple(own)]


def _is_fit(inputs: Tensors) -> bool:
    """Whether a runtime may read them where they lie; a tensor in a body begins anywhere."""
    return all([array.flags.aligned for array in inputs.values()])


def _is_open(tensor: TensorSpec) -> bool:
    return ANY_LENGTH in (tensor.shape[1:] if tensor.has_rows else tensor.shape)


def _closed(tensor: TensorSpec, rows: int) -> tuple[int, ...]:
    sizes = (1 if size == ANY_LENGTH else size for size in tensor.shape)
    return (rows, *[*sizes][1:]) if tensor.has_rows else (*sizes,)


def _rounded(shape: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(
        max(SHORTEST, 1 << (size - 1).bit_length()) if axis in axes else size
        for axis, size in enumerate(shape)
    )
