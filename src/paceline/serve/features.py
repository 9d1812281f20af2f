"""What of one answered row is compared with earlier ones: a few numbers, each with a name.

Of a short tensor each number; of a longer one, or one of open length, what sums it up; of texts
their length; of scores how sure they are. Which these are is found once for a model, from what it
declares. Pure; numpy alone. Called by `samples.py`.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paceline.serve.judging import Prediction
from paceline.serve.model import ANY_LENGTH, ModelSpec, Tensors, TensorSpec
from paceline.terms.limits import DRIFT_FEATURES, DRIFT_SHORT, DRIFT_SUMMED

SUMMARY = ("mean", "std", "min", "max", "zeros", "missing")
"""Of a long tensor; the last two are shares."""

SURENESS = ("top score", "entropy")

Of = Callable[[NDArray[Any]], Sequence[float]]


class _Part(NamedTuple):
    """What is read of one tensor."""

    tensor: TensorSpec
    is_input: bool
    names: tuple[str, ...]
    of: Of


class Features:
    """Of one model; those of inputs come first, then those of outputs."""

    def __init__(self, spec: ModelSpec) -> None:
        scores = Prediction(spec).scores
        outputs = [_of_output(each, scores) for each in spec.outputs]
        left = DRIFT_FEATURES - sum(len(each.names) for each in outputs if each is not None)
        parts: list[_Part] = []
        for tensor in spec.inputs:
            part = _of_input(tensor, left)
            if part is not None:
                left -= len(part.names)
                parts.append(part)
        for made in outputs:
            if made is not None:
                parts.append(made)
        while sum(len(each.names) for each in parts) > DRIFT_FEATURES:
            parts.pop()
        self._parts = parts
        self.names = tuple(name for part in parts for name in part.names)
        self.of_inputs = sum(len(part.names) for part in parts if part.is_input)

    def of(self, inputs: Tensors, outputs: Tensors, row: int) -> bytes:
        """Of one of its rows, as 32-bit floats in the order of the names."""
        values: list[float] = []
        with np.errstate(all="ignore"):
            for part in self._parts:
                array = (inputs if part.is_input else outputs)[part.tensor.name]
                values += part.of(array[row] if part.tensor.has_rows else array)
            return np.array(values, np.float32).tobytes()


def _of_input(tensor: TensorSpec, most: int) -> _Part | None:
    name, shape = tensor.name, tensor.shape[1:] if tensor.has_rows else tensor.shape
    if tensor.datatype == "BYTES":
        return _Part(tensor, True, (f"{name} length",), _length) if most else None
    if ANY_LENGTH not in shape and 0 < prod(shape) <= min(DRIFT_SHORT, most):
        return _Part(tensor, True, _places(name, shape), _each)
    names = tuple(f"{name} {what}" for what in SUMMARY)
    if ANY_LENGTH in shape:
        names = (*names, f"{name} length")
        return _Part(tensor, True, names, _summed_open) if len(names) <= most else None
    return _Part(tensor, True, names, _summed) if len(names) <= most else None


def _of_output(tensor: TensorSpec, scores: str) -> _Part | None:
    """Of the scores how sure they are, and of numbers the numbers; classes are compared by their
    shares, and longer outputs as inputs are."""
    if tensor.name == scores:
        return _Part(tensor, False, tuple(f"{tensor.name} {what}" for what in SURENESS), _sureness)
    behind = tensor.shape[1:] if tensor.has_rows else tensor.shape
    if tensor.datatype not in ("FP16", "FP32", "FP64"):
        return None
    if len(behind) == 1 and 1 < behind[0] <= DRIFT_SHORT:  # most likely scores as well
        return _Part(tensor, False, tuple(f"{tensor.name} {what}" for what in SURENESS), _sureness)
    part = _of_input(tensor, len(SUMMARY) + 1)
    return None if part is None else part._replace(is_input=False)


def _places(name: str, shape: Sequence[int]) -> tuple[str, ...]:
    if prod(shape) == 1:
        return (name,)
    return tuple(f"{name}[{','.join(map(str, place))}]" for place in np.ndindex(*shape))


def _each(array: NDArray[Any]) -> Sequence[float]:
    values: list[float] = array.astype(np.float32).reshape(-1).tolist()
    return values


def _length(array: NDArray[Any]) -> Sequence[float]:
    texts = np.asarray(array, object).reshape(-1)[:DRIFT_SHORT].tolist()
    return (sum(map(len, texts)) / len(texts),) if texts else (0.0,)


def _summed(array: NDArray[Any]) -> Sequence[float]:
    """Of a long one, numbers at equal distances."""
    flat = array.reshape(-1)
    flat = flat[:: max(1, len(flat) // DRIFT_SUMMED)].astype(np.float64)
    there = flat[np.isfinite(flat)]
    missing = 1 - len(there) / len(flat) if len(flat) else 0.0
    if not len(there):
        nan = float("nan")
        return (nan, nan, nan, nan, nan, missing)
    return (
        float(there.mean()),
        float(there.std()),
        float(there.min()),
        float(there.max()),
        float((there == 0).mean()),
        missing,
    )


def _summed_open(array: NDArray[Any]) -> Sequence[float]:
    return (*_summed(array), float(array.size))


def _sureness(array: NDArray[Any]) -> Sequence[float]:
    """Scores that are no shares, such as logits, are made shares first."""
    scores = array.astype(np.float64).reshape(-1)
    if not len(scores) or not np.isfinite(scores).all():
        return (float("nan"), float("nan"))
    if scores.min() < 0 or abs(scores.sum() - 1) > 0.01:
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    some = scores[scores > 0]
    return float(scores.max()), float(-(some * np.log(some)).sum())
