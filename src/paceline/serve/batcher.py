"""When to run what waits, and how much of it at once: decided purely, by a policy with a name.

A policy is asked while an executor is free and something waits; it answers with a batch or with the
moment at which it wants to be asked again. Every answer has one of the named reasons, which are
counted. The default is `AtOnce`: whoever has a free executor never waits for company, because what
piles up while all are busy fills the next batch by itself; the learned latency says how large it
may be for its first request to be in time.

The other policies are what people ask for by name (`fixed`, `dynamic`, `adaptive`,
`latency_optimized`); they wait, and are measured against the default in `./bench policies`.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from paceline.flow.queue import NEVER, Bucket, Queue, Waiting
from paceline.serve.latency import LatencyModel

Reason = Literal[
    "size reached", "wait exceeded", "high priority", "deadline near", "adaptive", "idle worker"
]
REASONS: tuple[Reason, ...] = (
    "size reached",
    "wait exceeded",
    "high priority",
    "deadline near",
    "adaptive",
    "idle worker",
)

HIGH_RANK = 2
"""Ranks from here on are in a hurry: half a batch is enough for them."""


class Dispatch(NamedTuple):
    """Run up to so many rows of this bucket now."""

    bucket: Bucket
    rows: int
    reason: Reason


class Hold(NamedTuple):
    """Wait for company, at most until then."""

    until_s: float


Learned = Callable[[Bucket], LatencyModel]


class Policy(Protocol):
    def decide(self, now: float, queue: Queue, learned: Learned, cap: int) -> Dispatch | Hold:
        """Something waits, and an executor is free. `cap` is the most rows of a batch."""
        ...

    def ran(self, rows: int, seconds: float) -> None:
        """A batch of this policy's was run."""
        ...


class AtOnce:
    """Never waits; the largest batch with which its first request is in time."""

    def decide(self, now: float, queue: Queue, learned: Learned, cap: int) -> Dispatch | Hold:
        first = queue.first()
        assert first is not None
        rows = queue.rows(first.bucket)
        reason: Reason = "idle worker"
        if rows >= cap:
            rows, reason = cap, "size reached"
        if first.deadline_s != NEVER:
            fitting = learned(first.bucket).largest_within(first.deadline_s - now, rows)
            if 0 < fitting < rows:  # with none in time, the sooner it is over the better for others
                return Dispatch(first.bucket, fitting, "deadline near")
        return Dispatch(first.bucket, rows, reason)

    def ran(self, rows: int, seconds: float) -> None:
        pass


class Dynamic:
    """Waits for `most` rows (or `fewest`, once the wait is over), no longer than `wait_s`, and
    shorter where somebody is in a hurry."""

    def __init__(self, fewest: int, most: int, wait_s: float) -> None:
        self.fewest = fewest
        self.most = most
        self.wait_s = wait_s

    def decide(self, now: float, queue: Queue, learned: Learned, cap: int) -> Dispatch | Hold:
        until = NEVER
        most = min(self.most, cap)
        for head in sorted(queue.heads(), key=_target):
            rows = queue.rows(head.bucket)
            if rows >= most:
                return Dispatch(head.bucket, most, "size reached")
            if head.rank >= HIGH_RANK and 2 * rows >= most:
                return Dispatch(head.bucket, rows, "high priority")
            over_s = head.arrived_s + self.wait_s
            last_s = head.deadline_s - learned(head.bucket).at(rows)
            if now >= last_s:
                return Dispatch(head.bucket, rows, "deadline near")
            if now >= over_s and rows >= self.fewest:
                return Dispatch(head.bucket, rows, "wait exceeded")
            until = min(until, last_s, over_s if rows >= self.fewest else NEVER)
        return Hold(until)

    def ran(self, rows: int, seconds: float) -> None:
        pass


def fixed(size: int, wait_s: float) -> Dynamic:
    """Always the same size, unless the wait is over."""
    return Dynamic(1, size, wait_s)


class Adaptive(Dynamic):
    """`dynamic` with a size that follows the measured latency: up by `rate` while batches stay
    below `threshold` of the target, down by as much when they exceed it."""

    def __init__(
        self,
        fewest: int = 1,
        most: int = 16,
        wait_s: float = 0.05,
        target_s: float = 0.03,
        threshold: float = 0.8,
        rate: float = 0.1,
    ) -> None:
        super().__init__(fewest, fewest, wait_s)
        self._bounds = (fewest, most)
        self._size = float(fewest)
        self._target_s = target_s
        self._threshold = threshold
        self._rate = rate

    def decide(self, now: float, queue: Queue, learned: Learned, cap: int) -> Dispatch | Hold:
        answer = super().decide(now, queue, learned, cap)
        if isinstance(answer, Dispatch) and answer.reason == "size reached":
            return answer._replace(reason="adaptive")
        return answer

    def ran(self, rows: int, seconds: float) -> None:
        if seconds > self._target_s:
            self._size *= 1 - self._rate
        elif seconds < self._threshold * self._target_s:
            self._size += max(1.0, self._size * self._rate)
        low, high = self._bounds
        self._size = min(max(self._size, low), high)
        self.most = int(self._size)


class LatencyOptimized:
    """Never waits, and runs no more rows than leave the batch within `share` of a lone row's time
    added: company may cost each of them only so much."""

    def __init__(self, share: float = 0.5) -> None:
        self._share = share

    def decide(self, now: float, queue: Queue, learned: Learned, cap: int) -> Dispatch | Hold:
        first = queue.first()
        assert first is not None
        model = learned(first.bucket)
        rows = min(queue.rows(first.bucket), cap)
        fitting = model.largest_within(model.at(1) * (1 + self._share), rows)
        return Dispatch(first.bucket, max(1, fitting), "idle worker")

    def ran(self, rows: int, seconds: float) -> None:
        pass


def _target(waiting: Waiting) -> float:
    return waiting.target_s
