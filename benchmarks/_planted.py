"""Bugs that schedulers have, planted into the serving core, for the watch to find.

Each is a Core that differs from ours in one place. Called by `./bench schedulers`, and through it
by tests/test_core_watch.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from paceline.flow.queue import NEVER, Bucket, Queue, Waiting, _Lane
from paceline.serve.batch import Batch
from paceline.serve.batcher import AtOnce, Dispatch, Learned, Policy
from paceline.serve.core import Core
from paceline.terms.limits import QUEUE_BYTES


class _With(Core):
    """With a queue, or a policy, that has the bug."""

    queue_kind: type[Queue] = Queue
    policy_kind: type[Policy] | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.queue = self.queue_kind(self.tuning.max_waiting, QUEUE_BYTES)
        if self.policy_kind is not None:
            self.policy = self.policy_kind()


class LostWakeUp(Core):
    """An executor that comes back is not given what waits."""

    _back = False

    def recovered(self) -> None:
        super().recovered()
        self._back = True

    def next(self, now: float) -> Batch | None:
        back, self._back = self._back, False
        return None if back else super().next(now)


class DoubleDispatch(Core):
    """What takes longer than expected is given to an idle executor too."""

    def next(self, now: float) -> Batch | None:
        batch = super().next(now)
        if batch is None and self.idle > 0 and self.running and self.running[0].expected_s < now:
            slow = self.running[0]
            return self._run(now, slow.bucket, slow.members, slow.rows, slow.reason)
        return batch


class _LowestRankFirst(Queue):
    def _head(self, lanes: list[_Lane]) -> _Lane | None:
        for lane in lanes:
            if lane.held:
                self._skip(lane)
                return lane
        return None


class PriorityInversion(_With):
    """The first of a bucket is the first of its lowest rank."""

    queue_kind = _LowestRankFirst


class ExpiredWorkRun(Core):
    """Who is next is chosen while all executors are busy, and not looked at again."""

    _chosen: Waiting | None = None

    def next(self, now: float) -> Batch | None:
        chosen = self._chosen
        self._chosen = None if self.idle > 0 else self.queue.first()
        if self.idle > 0 and chosen is not None and chosen.ended:
            return self._run(now, chosen.bucket, [chosen], chosen.rows, "idle worker")
        return super().next(now)


class _OneRowMore(Queue):
    def take(self, bucket: Bucket, most_rows: int, most_cost: float = NEVER) -> list[Waiting]:
        return super().take(bucket, most_rows + 1, most_cost)


class CapOffByOne(_With):
    """A batch may have one row more than its cap."""

    queue_kind = _OneRowMore


class LeakedSlot(Core):
    """A batch whose culprits are looked for keeps its executor."""

    def failed(self, now: float, batch: Batch) -> Sequence[Waiting]:
        searches = len(self._broken)
        told = super().failed(now, batch)
        self.idle -= len(self._broken) - searches
        return told


class StaleDeadline(Core):
    """Who is run again gets the latest deadline of its batch."""

    def failed(self, now: float, batch: Batch) -> Sequence[Waiting]:
        told = super().failed(now, batch)
        latest_s = max(each.deadline_s for each in batch.members)
        for each in batch.members:
            each.deadline_s = latest_s
        return told


class CancelledRowAnswered(Core):
    """Who left while its batch ran is told as well."""

    def _tell(self, now: float, batch: Batch, members: Sequence[Waiting]) -> Sequence[Waiting]:
        left = [each for each in members if each.ended]
        return [*super()._tell(now, batch, members), *left]


class _FullestBucket(AtOnce):
    def decide(self, now: float, queue: Queue, learned: Learned, cap: int) -> Dispatch:
        bucket = max((each.bucket for each in queue.heads()), key=queue.rows)
        return Dispatch(bucket, cap, "size reached")


class BucketStarved(_With):
    """The bucket with the most rows is always served first."""

    policy_kind = _FullestBucket


class _KeepsBytes(Queue):
    def leave(self, waiting: Waiting) -> bool:
        left = super().leave(waiting)
        if left:
            self.held_bytes += waiting.size_bytes
        return left


class BytesNotReleased(_With):
    """The bytes of whoever leaves the queue stay counted."""

    queue_kind = _KeepsBytes


PLANTED: Mapping[str, tuple[type[Core], str]] = {
    "lost wake-up": (LostWakeUp, "a lost wake-up"),
    "double dispatch": (DoubleDispatch, "dispatched twice"),
    "priority inversion": (PriorityInversion, "went before|overtook"),
    "expired work run": (ExpiredWorkRun, "expired before, was put into a batch"),
    "batch cap off by one": (CapOffByOne, "rows, where"),
    "leaked slot": (LeakedSlot, "idle executors"),
    "stale deadline after re-queueing": (StaleDeadline, "has not expired|past the deadline"),
    "cancelled row answered": (CancelledRowAnswered, "had left, and was told"),
    "bucket starved": (BucketStarved, "it starves"),
    "bytes not released": (BytesNotReleased, "the queue counts"),
}
"""By name; and what the watch says, as a pattern."""
