"""Are a server's answers right when many callers ask at once, so that its batches are mixed?

Every caller has rows of its own, in an order of its own; each answer is compared with that of
onnxruntime for this row alone. Not a load: it counts no time. Called by `serving`.
"""

import http.client
import random
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.peers.forms import Answer
from benchmarks.peers.running import ANSWER_S, NEAR, Running
from paceline.serve.model import Tensors

CALLERS = 16


class Compared(NamedTuple):
    answers: int
    failed: int
    """Without an answer."""

    wrong: int
    """Answers that differ by more than NEAR, from the right one or in length."""

    apart: float
    """The largest difference of a number, of answers of the right length."""

    first: str
    """What the first failure was."""


def compared(
    up: Running, form: str, rows: Sequence[Tensors], expected: Sequence[Answer], seed: int
) -> Compared:
    lock = threading.Lock()
    apart: list[float] = []
    failures: list[str] = []

    def call(number: int) -> None:
        order = list(range(len(rows)))
        random.Random(seed * CALLERS + number).shuffle(order)
        connection = http.client.HTTPConnection("127.0.0.1", up.launch.port, timeout=ANSWER_S)
        for place in order:
            try:
                answer = up.answer(asked[place], form, connection)
            except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
                connection.close()
                with lock:
                    failures.append(f"{type(error).__name__}: {error}")
                continue
            right = expected[place]
            far = float(np.abs(answer - right).max()) if answer.shape == right.shape else np.inf
            with lock:
                apart.append(far)
        connection.close()

    asked = [up.asked(form, row) for row in rows]
    callers = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    wrong = sum(not far <= NEAR for far in apart)
    finite = [far for far in apart if np.isfinite(far)]
    return Compared(
        len(apart), len(failures), wrong, max(finite, default=0.0), "".join(failures[:1])
    )
