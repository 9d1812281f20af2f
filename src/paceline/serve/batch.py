"""What the serving core hands out and keeps books of: settings, looks, batches, batches that broke.

No decisions here; those are `core.py`'s.
"""

from collections.abc import Iterator, Sequence

import msgspec

from paceline.flow.queue import NEVER, Bucket, Waiting
from paceline.serve.batcher import Reason
from paceline.serve.isolation import Bisection
from paceline.serve.look import Ran
from paceline.terms.limits import BATCH_ROWS, QUEUE_REQUESTS


class Tuning(msgspec.Struct, frozen=True):
    """What the Plan says of one model's core."""

    max_batch: int = BATCH_ROWS
    """rows"""
    batch_cost: float = NEVER
    """of the costs of a batch together: tokens, pixels"""
    executors: int = 1
    margin: float = 0.0
    """share of a request's time kept free by admission, at least"""
    isolate: bool = False
    """whether a failed batch is run again in parts, to find the culprit"""
    max_waiting: int = QUEUE_REQUESTS


class Look:
    """Other settings, and what batches did with them."""

    __slots__ = ("ran", "tuning")

    def __init__(self, tuning: Tuning) -> None:
        self.tuning = tuning
        self.ran = Ran()


class Batch:
    """Some requests that are run together. `members` that have `ended` want no answer any more;
    `due_s` is the first deadline of any; `whole` is the batch that failed, where this is a part of
    it that is run again; `look` is that for which it is run. When it began, executors were `full`:
    all of them were running something. Where `tried`, one was let in against what was predicted."""

    __slots__ = (
        "begun_s",
        "bucket",
        "due_s",
        "ended_s",
        "expected_s",
        "full",
        "look",
        "members",
        "reason",
        "rows",
        "tried",
        "whole",
    )

    def __init__(
        self,
        bucket: Bucket,
        members: Sequence[Waiting],
        rows: int,
        reason: Reason,
        begun_s: float,
        expected_s: float,
        whole: "Broken | None" = None,
    ) -> None:
        self.bucket = bucket
        self.members = members
        self.rows = rows
        self.reason = reason
        self.begun_s = begun_s
        self.expected_s = expected_s
        self.due_s = NEVER
        self.ended_s = begun_s
        """when it was known how it ran; until then, when it began"""
        self.whole = whole
        self.look: Look | None = None
        self.full = False
        self.tried = False


class Dispatched(msgspec.Struct, frozen=True, gc=False):
    """What is told of a batch to whoever wants to know where the time of a request in it went. Of
    one that failed there are no parts."""

    reason: Reason
    rows: int
    requests: int
    begun_s: float
    ended_s: float
    input_s: float | None = None
    infer_s: float | None = None
    output_s: float | None = None


class Broken:
    """A batch that failed, while its culprits are looked for; `part` is being run."""

    __slots__ = ("bisection", "bucket", "members", "part")

    def __init__(self, batch: Batch) -> None:
        self.bisection = Bisection(batch.members)
        self.bucket = batch.bucket
        self.members = batch.members
        self.part: Sequence[Waiting] = ()
        for each in batch.members:
            if each.ended:  # it left while the whole ran
                self.bisection.drop(each)

    def pending(self) -> Iterator[Waiting]:
        """Who has no answer yet and is not running."""
        running = set(self.part)
        return (each for each in self.members if not each.ended and each not in running)
