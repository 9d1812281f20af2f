"""What one model's runner counts, on the board of its process: by the batch, and by the request
only where one is not run. Decides nothing. Called by `runner.py`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from paceline.flow.queue import NEVER, Queue
from paceline.observe.board import Board, Counter
from paceline.serve.batch import Batch
from paceline.serve.batcher import REASONS
from paceline.serve.core import Core
from paceline.serve.model import Tensors
from paceline.serve.shapes import Shapes
from paceline.terms.metric import (
    AT_RISK,
    BATCH_LEFT_ROWS,
    BATCH_ROWS,
    BATCHES,
    BUFFERS_REUSED,
    COPIES_AVOIDED,
    LAST_RUN,
    MODEL_SECONDS,
    NOT_RUN,
    PART_SECONDS,
    QUEUE_AGE,
    QUEUED,
    ROWS,
    RUN,
)
from paceline.terms.request import PRIORITIES

LOOK_S = 0.1
"""The shortest time between two looks at a queue: what is at risk is found by going through it."""

PARTS = ("queue", "input", "infer", "output")
"""Of the time of a batch: its requests together in the queue, its inputs joined, the model run, its
outputs taken apart."""

NOT_RUN_REASONS = ("late", "full", "shed", "expired")
"""The first two are told at the door; `serve/core.py` knows what each means."""


class Ran(NamedTuple):
    """A batch that was run: of each request its answer, and where the time went."""

    answers: Sequence[Tensors]
    input_s: float
    infer_s: float
    output_s: float


class Tally:
    """Its series are made at once, so that a model that has refused nobody says so."""

    def __init__(self, board: Board, model: str, front: int = 0) -> None:
        self._batches = {each: board.counter(BATCHES, model, each) for each in REASONS}
        self._batch_rows = board.sketch(BATCH_ROWS, model)
        self._left_paying = board.counter(BATCH_LEFT_ROWS, model, "yes")
        self._left_beyond = board.counter(BATCH_LEFT_ROWS, model, "no")
        self._seconds = board.sketch(MODEL_SECONDS, model)
        self._rows = board.counter(ROWS, model)
        self._not_run = {each: board.counter(NOT_RUN, model, each) for each in NOT_RUN_REASONS}
        self._queued = [board.gauge(QUEUED, model, each) for each in PRIORITIES]
        self._age = board.gauge(QUEUE_AGE, model, str(front))
        self._at_risk = board.gauge(AT_RISK, model)
        self._queue_s, self._input_s, self._infer_s, self._output_s = (
            board.counter(PART_SECONDS, model, part) for part in PARTS
        )
        self._run = board.counter(RUN, model)
        self._last = board.gauge(LAST_RUN, model, str(front))
        self._copies_avoided = board.counter(COPIES_AVOIDED, model)
        self._buffers_reused = board.counter(BUFFERS_REUSED, model)
        self._avoided = self._reused = 0
        self._looked_s = -NEVER
        self._empty = True

    def began(self, batch: Batch, core: Core) -> None:
        """Told before anything else is, so that the queue is as the batch left it."""
        self._batches[batch.reason].add()
        self._batch_rows.record(batch.rows)
        queue = core.queue
        if queue.held_rows and batch.whole is None:  # a part of what failed takes nobody along
            left = queue.rows(batch.bucket)
            if left:
                self._left(batch, core, left)

    def _left(self, batch: Batch, core: Core, left: int) -> None:
        """What this batch could have had besides, up to the size from where on more rows make no
        more of an executor, and what beyond that."""
        rows = batch.rows
        could = min(rows + left, core.tuning.max_batch)
        if could > rows:
            pays = core.learned(batch.bucket).efficient(could)
            if pays > rows:
                self._left_paying.add(pays - rows)
            if could > pays:
                self._left_beyond.add(could - max(rows, pays))

    def ran(self, batch: Batch, seconds: float, ran: Ran, shapes: Shapes, wall: float) -> None:
        self._seconds.record(seconds)
        self._rows.add(batch.rows)
        self._run.add(len(batch.members))
        self._last.set(wall)
        begun_s = batch.begun_s
        self._queue_s.add(sum([begun_s - each.arrived_s for each in batch.members]))
        self._input_s.add(ran.input_s)
        self._infer_s.add(ran.infer_s)
        self._output_s.add(ran.output_s)
        self._avoided = _count_up(self._copies_avoided, self._avoided, shapes.copies_avoided)
        self._reused = _count_up(self._buffers_reused, self._reused, shapes.buffers_reused)

    def not_run(self, why: str) -> None:
        self._not_run[why].add()

    def look(self, now: float, queue: Queue) -> None:
        """At what waits: at once when that is nothing any more, else as often as LOOK_S allows."""
        empty = not queue.held
        if empty == self._empty and (empty or now - self._looked_s < LOOK_S):
            return
        self._looked_s = now
        self._empty = empty
        for gauge, held in zip(self._queued, queue.held_by_rank, strict=True):
            gauge.set(held)
        self._age.set(0.0 if empty else now - queue.oldest())
        self._at_risk.set(queue.at_risk(now))


def _count_up(counter: Counter, seen: int, now: int) -> int:
    if now > seen:
        counter.add(now - seen)
    return now
