"""When to run what waits, and how much of it at once: decided purely, by a policy with a name.

A policy is asked while an executor is free and something waits; it answers with a batch, or with
the moment at which it wants to be asked again and what it waits for, or with what is too late to be
run. Every batch and every wait has one of the named reasons, which `serve/core.py` counts. The
default is `AtOnce`: whoever has a free executor never waits for company, because what piles up
while all are busy fills the next batch by itself; the learned latency says how large it may be for
its first request to be in time, and from where on more rows only make others wait.

The other policies are what people ask for by name (`fixed`, `dynamic`, `adaptive`,
`latency_optimized`); most wait, and are measured against the default in `./bench policies`.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from paceline.flow.queue import NEVER, Bucket, Queue, Waiting
from paceline.serve.latency import LatencyModel

Reason = Literal[
    "size reached",
    "wait exceeded",
    "high priority",
    "deadline near",
    "adaptive",
    "idle worker",
    "isolation",
]
REASONS: tuple[Reason, ...] = (
    "size reached",
    "wait exceeded",
    "high priority",
    "deadline near",
    "adaptive",
    "idle worker",
    "isolation",
)
"""The last is not a policy's: parts of a batch that failed are run to find who broke it."""


WORTH_A_CUT = 0.8
"""Of the rows a second of an executor: a batch is cut for its tightest request if that costs less,
or if more likely than not the whole would be too late for it."""

HIGH_RANK = 2
"""Ranks from here on are in a hurry: half a batch is enough for them."""


class Dispatch(NamedTuple):
    """Run up to so many rows of this bucket now."""

    bucket: Bucket
    rows: int
    reason: Reason


class Hold(NamedTuple):
    """Wait for company, at most until then; `awaits` is what a batch would be run for then."""

    until_s: float
    awaits: Reason


class Drop(NamedTuple):
    """Answer this one without running it: it would be late. Then ask again."""

    waiting: Waiting


Learned = Callable[[Bucket], LatencyModel]


class Policy(Protocol):
    def decide(
        self, now: float, queue: Queue, learned: Learned, cap: int
    ) -> Dispatch | Hold | Drop:
        """Something waits, and an executor is free. `cap` is the most rows of a batch."""
        ...

    def ran(self, now: float, rows: int, seconds: float) -> None:
        """A batch of this policy's was run."""
        ...


class AtOnce:
    """Never waits; the largest batch with which its tightest request is in time, and no larger than
    makes more of an executor. Where a batch that is small enough for that one would make many
    behind it late, it is given up for them (Nexus calls that early drop): otherwise each batch
    would be smaller than the one before. No batch takes longer than `longest_s`, as far as can be
    helped: who comes meanwhile has to wait for it."""

    def __init__(self, longest_s: float = NEVER) -> None:
        self._longest_s = longest_s

    def decide(
        self, now: float, queue: Queue, learned: Learned, cap: int
    ) -> Dispatch | Hold | Drop:
        first = queue.first()
        assert first is not None
        bucket = first.bucket
        model = learned(bucket)
        waiting = rows = queue.rows(bucket)
        reason: Reason = "idle worker"
        if rows >= cap:
            rows, reason = cap, "size reached"
        enough = model.efficient(rows)
        if model.typical(enough) > self._longest_s:
            enough = min(enough, model.largest_within(self._longest_s, rows))
        if enough < rows:
            rows, reason = max(1, enough), "adaptive"
        tightest = queue.tightest(bucket) or first
        left_s = tightest.deadline_s - now
        if left_s == NEVER:
            return Dispatch(bucket, rows, reason)
        fitting = model.largest_within(left_s, rows)
        if fitting >= rows:
            return Dispatch(bucket, rows, reason)
        if not fitting and model.typical(tightest.rows) > left_s:
            return Drop(tightest)
        fitting = max(1, fitting, min(tightest.rows, rows))  # no request is cut
        fitting_s, full_s = model.typical(fitting), model.typical(rows)
        if full_s <= left_s and fitting * full_s < WORTH_A_CUT * rows * fitting_s:
            fitting = rows  # more likely than not it is in time all the same
        elif waiting > fitting and _costs_more(
            now, queue, tightest, fitting, fitting_s, rows, full_s
        ):
            return Drop(tightest)
        return Dispatch(bucket, fitting, "deadline near")

    def ran(self, now: float, rows: int, seconds: float) -> None:
        pass


def _costs_more(
    now: float,
    queue: Queue,
    tightest: Waiting,
    fitting: int,
    fitting_s: float,
    rows: int,
    full_s: float,
) -> bool:
    """Whether fewer would be answered in time by a batch that the tightest can wait for than by one
    as large as it should be. Who is in a hurry is given up for nobody."""
    if tightest.rank >= HIGH_RANK:
        return False
    following = queue.nth(tightest.bucket, fitting)
    if following.deadline_s >= now + fitting_s + full_s:
        return False  # who comes next can wait for both
    if queue.before(tightest) >= fitting:
        return True  # it would not even be in the smaller one
    due = queue.due(tightest.bucket, now + full_s, rows)
    return (rows - due) * fitting_s > fitting * full_s


class Dynamic:
    """Waits for `most` rows (or `fewest`, once the wait is over), no longer than `wait_s`, and
    shorter where somebody is in a hurry."""

    def __init__(self, fewest: int, most: int, wait_s: float) -> None:
        self.fewest = fewest
        self.most = most
        self.wait_s = wait_s

    def decide(self, now: float, queue: Queue, learned: Learned, cap: int) -> Dispatch | Hold:
        hold = Hold(NEVER, "size reached")
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
            if rows >= self.fewest and over_s < min(hold.until_s, last_s):
                hold = Hold(over_s, "wait exceeded")
            elif last_s < hold.until_s:
                hold = Hold(last_s, "deadline near")
        return hold

    def ran(self, now: float, rows: int, seconds: float) -> None:
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

    def ran(self, now: float, rows: int, seconds: float) -> None:
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

    def ran(self, now: float, rows: int, seconds: float) -> None:
        pass


def _target(waiting: Waiting) -> float:
    return waiting.target_s
