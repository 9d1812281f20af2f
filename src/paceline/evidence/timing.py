"""How long a model takes, found by running it here and now: batches of several sizes, in turns.

What it is fed is drawn by a seed; it measures the model alone, in this process, and no server
around it. Called by `paceline simulate --model`.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paceline.evidence.latencies import Latency
from paceline.serve.model import ANY_LENGTH, Model, TensorSpec
from paceline.serve.tensors import DTYPES
from paceline.terms.errors import BadInput

ROUNDS_LEAST = 5
ROUNDS_MOST = 200
ENOUGH_S = 1.0
"""After so long no further round begins, once there were enough."""

WARM_UP = 2
"""Runs of each size that do not count."""

QUANTILES = 101
"""Of what the runs scatter around their median."""

OPEN_LENGTH = 64
"""What a dimension that the model leaves open is taken to be, besides its rows."""

TOGETHER = 5
"""Runs of each of several executors at once, at least."""

Tell = Callable[[int, int], None]
"""Called with how many rounds are done, of how many at most."""


def sizes_up_to(most: int) -> list[int]:
    """1, 2, 4 and so on, and the most."""
    return [*(1 << power for power in range((most - 1).bit_length())), most]


def measure(
    model: Model, most: int, executors: int, now: Callable[[], float], tell: Tell, seed: int = 0
) -> Latency:
    """Sizes take turns, so that whatever else the machine does meanwhile meets all of them."""
    sizes = sizes_up_to(most)
    batches = [_batch(model, rows, seed) for rows in sizes]
    for batch in batches * WARM_UP:
        model.run(batch)
    took_s: list[list[float]] = [[] for _ in sizes]
    since_s = now()
    for done in range(ROUNDS_MOST):
        tell(done, ROUNDS_MOST)
        if done >= ROUNDS_LEAST and now() - since_s > ENOUGH_S:
            break
        for batch, times_s in zip(batches, took_s, strict=True):
            begun_s = now()
            model.run(batch)
            times_s.append(now() - begun_s)
    medians_s = np.median(took_s, axis=1)
    ratios = np.asarray(took_s) / medians_s[:, None]
    scatter = np.quantile(ratios, np.linspace(0, 1, QUANTILES)).tolist()
    slower = 1.0
    if executors > 1:
        slower = _side_by_side(model, batches, medians_s.tolist(), executors, now)
    return Latency(tuple(sizes), tuple(medians_s.tolist()), tuple(scatter), slower)


def _side_by_side(
    model: Model,
    batches: Sequence[Mapping[str, "NDArray[Any]"]],
    medians_s: Sequence[float],
    executors: int,
    now: Callable[[], float],
) -> float:
    """How many times longer a batch takes while all executors run one."""
    middle = len(batches) // 2

    def times_s(_: int) -> list[float]:
        took_s: list[float] = []
        while len(took_s) < TOGETHER or sum(took_s) < ENOUGH_S / 4:
            begun_s = now()
            model.run(batches[middle])
            took_s.append(now() - begun_s)
        return took_s

    with ThreadPoolExecutor(executors) as pool:
        together_s = np.median(np.concatenate([*pool.map(times_s, range(executors))]))
    return max(1.0, float(together_s) / medians_s[middle])


def _batch(model: Model, rows: int, seed: int) -> dict[str, "NDArray[Any]"]:
    if rows > 1 and not model.spec.has_rows:
        raise BadInput(
            f"the model `{model.spec.name}` takes no batches: a number of rows is fixed in it",
            value=", ".join(map(str, model.spec.inputs)),
            remedy="Simulate it with --max-batch 1, or export it with an open first dimension.",
        )
    die = np.random.default_rng([seed, rows])
    return {each.name: _values(die, each, rows) for each in model.spec.inputs}


def _values(die: np.random.Generator, tensor: TensorSpec, rows: int) -> "NDArray[Any]":
    """Numbers of whole types stay below two, so that they are a place in any table."""
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise BadInput(
            f"values of this type cannot be made up for the input `{tensor.name}`",
            value=tensor.datatype,
            remedy="Say how long it takes instead, such as --latency 2ms+0.5ms.",
        )
    open_sizes = [OPEN_LENGTH if size == ANY_LENGTH else size for size in tensor.shape[1:]]
    shape = [rows if tensor.has_rows else size for size in tensor.shape[:1]] + open_sizes
    if np.issubdtype(dtype, np.floating):
        return die.standard_normal(shape).astype(dtype)
    return die.integers(0, 2, shape).astype(dtype)
