"""The queue of what waits to be run: bounded, earliest target first, low shed before critical.

Each waiting thing has a *rank* (its class), a *target* moment that orders it, a *deadline* after
which it must be answered without being run, a *bucket* (what may run together), rows, a cost (what
a batch has a budget of: tokens, pixels; its rows, unless it says otherwise) and bytes. The
order is by target, across ranks and within them; within one rank and bucket nobody overtakes.

*No starvation*: a target lies a fixed time after arrival, so whoever arrives at or after somebody's
target goes behind them. Something with target T is overtaken only by what arrived before T, which
the queue's own bound limits; it may be shed, and then it is told so.

Pure: `now` is an argument, and what to tell whom is the caller's business. It never runs anything,
and decides no batch: that is `serve/batcher.py`, which takes from here. A lane is a list with a
moving beginning, because batches are cut and positions searched in it far more often than anything
leaves it in the middle.
"""

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterator
from itertools import count
from typing import Any

from paceline.terms.errors import Overloaded

RANKS = 4
NEVER = float("inf")
TRIM = 256
"""How many left places a lane keeps at its beginning before it lets go of them."""

BUCKETS = 64
"""After so many the empty ones are let go; there are never more than things that wait."""

Bucket = Hashable


class Waiting:
    """One thing that waits. `held` while it is in a queue, `ended` once it has been answered or its
    caller has gone; `work` is the caller's."""

    __slots__ = (
        "arrived_s",
        "bucket",
        "cost",
        "deadline_s",
        "ended",
        "held",
        "rank",
        "rows",
        "size_bytes",
        "target_s",
        "work",
    )

    def __init__(
        self,
        rank: int,
        bucket: Bucket,
        rows: int,
        size_bytes: int,
        arrived_s: float,
        target_s: float,
        deadline_s: float,
        work: Any = None,
        cost: int = 0,
    ) -> None:
        self.rank = rank
        self.bucket = bucket
        self.rows = rows
        self.size_bytes = size_bytes
        self.arrived_s = arrived_s
        self.target_s = target_s
        self.deadline_s = deadline_s
        self.work = work
        self.cost = cost or rows
        self.held = False
        self.ended = False


class _Lane:
    """What waits in one bucket with one rank, in order of arrival; some of it may have left."""

    __slots__ = ("first", "held", "rows", "targets", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Waiting] = []
        self.targets: list[float] = []
        self.first = 0
        self.held = 0
        self.rows = 0


class Queue:
    """Bounded in things and in bytes. `most` may be moved while it is in use."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self.most = most
        self._most_bytes = most_bytes
        self._lanes: dict[Bucket, list[_Lane]] = {}
        self._deadlines: list[tuple[float, int, Waiting]] = []
        self._numbers = count()
        self.held = 0
        self.held_rows = 0
        self.held_bytes = 0
        self.held_by_rank = [0] * RANKS
        self._bytes_by_rank = [0] * RANKS

    def __len__(self) -> int:
        return self.held

    def put(self, waiting: Waiting) -> list[Waiting]:
        """Takes it in, and returns what had to leave for it: only what ranks lower, the lowest
        rank's newest first. Raises Overloaded where that would not make room."""
        shed: list[Waiting] = []
        bucket, rank, rows = waiting.bucket, waiting.rank, waiting.rows
        held_bytes = self.held_bytes + waiting.size_bytes
        if self.held >= self.most or held_bytes > self._most_bytes:
            shed = self._make_room(waiting)
            held_bytes = self.held_bytes + waiting.size_bytes
        lanes = self._lanes.get(bucket)
        if lanes is None:
            lanes = self._open(bucket)
        lane = lanes[rank]
        targets = lane.targets
        target_s = waiting.target_s
        if targets and targets[-1] > target_s:
            target_s = targets[-1]  # targets were shortened meanwhile: nobody overtakes
        lane.waiting.append(waiting)
        targets.append(target_s)
        lane.held += 1
        lane.rows += rows
        waiting.held = True
        self.held += 1
        self.held_rows += rows
        self.held_bytes = held_bytes
        self.held_by_rank[rank] += 1
        self._bytes_by_rank[rank] += waiting.size_bytes
        deadline_s = waiting.deadline_s
        if deadline_s != NEVER:
            deadlines = self._deadlines
            if len(deadlines) > 2 * self.held + TRIM:
                deadlines = self._forget_deadlines()
            heapq.heappush(deadlines, (deadline_s, next(self._numbers), waiting))
        return shed

    def leave(self, waiting: Waiting) -> bool:
        """Its caller has gone; False where it is not here any more."""
        if not waiting.held:
            return False
        self._let_go(waiting, self._lanes[waiting.bucket][waiting.rank])
        return True

    def expired(self, now: float) -> list[Waiting]:
        """Takes out what can no longer be answered in time."""
        gone: list[Waiting] = []
        deadlines = self._deadlines
        while deadlines and (deadlines[0][0] <= now or not deadlines[0][2].held):
            waiting = heapq.heappop(deadlines)[2]
            if waiting.held:
                self._let_go(waiting, self._lanes[waiting.bucket][waiting.rank])
                gone.append(waiting)
        return gone

    def next_deadline(self) -> float:
        """When `expired` may have something; NEVER where nothing has a deadline."""
        deadlines = self._deadlines
        while deadlines and not deadlines[0][2].held:
            heapq.heappop(deadlines)
        return deadlines[0][0] if deadlines else NEVER

    def heads(self) -> Iterator[Waiting]:
        """What is first in each bucket; the first of all has the earliest target of them."""
        for lanes in self._lanes.values():
            head = self._head(lanes)
            if head is not None:
                yield head.waiting[head.first]

    def tightest(self, bucket: Bucket) -> Waiting | None:
        """Of what is first in each rank of this bucket, the one with the earliest deadline."""
        tightest = None
        for lane in self._lanes.get(bucket, ()):
            if lane.held:
                self._skip(lane)
                waiting = lane.waiting[lane.first]
                if tightest is None or waiting.deadline_s < tightest.deadline_s:
                    tightest = waiting
        return tightest

    def before(self, waiting: Waiting) -> int:
        """About how many rows go before it in its own bucket."""
        rows = 0.0
        for lane in self._lanes[waiting.bucket]:
            if lane.held:
                before = bisect_left(lane.targets, waiting.target_s, lane.first) - lane.first
                rows += lane.rows * before / (len(lane.targets) - lane.first)
        return int(rows)

    def nth(self, bucket: Bucket, place: int) -> Waiting:
        """About the one with so many before it in its bucket: of the rank of which most wait."""
        lane = max(self._lanes[bucket], key=_held)
        return lane.waiting[min(lane.first + place, len(lane.waiting) - 1)]

    def due(self, bucket: Bucket, until_s: float, most: int) -> int:
        """How many of the bucket's first rows have a deadline before then, up to `most`."""
        rows = 0
        for lane in self._lanes[bucket]:
            for place in range(lane.first, len(lane.waiting)):
                waiting = lane.waiting[place]
                if waiting.deadline_s >= until_s or rows >= most:
                    break
                if waiting.held:
                    rows += waiting.rows
        return min(rows, most)

    def first(self) -> Waiting | None:
        """What is next of all."""
        first = None
        first_s = NEVER
        for lanes in self._lanes.values():
            lane = self._head(lanes)
            if lane is not None and (first is None or lane.targets[lane.first] < first_s):
                first = lane.waiting[lane.first]
                first_s = lane.targets[lane.first]
        return first

    def rows(self, bucket: Bucket) -> int:
        lanes = self._lanes.get(bucket)
        if lanes is None:
            return 0
        low, normal, high, critical = lanes
        return low.rows + normal.rows + high.rows + critical.rows

    def take(self, bucket: Bucket, most_rows: int, most_cost: float = NEVER) -> list[Waiting]:
        """The first of a bucket, as many as fit; one that alone is larger comes alone."""
        taken: list[Waiting] = []
        lanes = self._lanes.get(bucket)
        rows = cost = 0
        while lanes is not None:
            lane = self._head(lanes)
            if lane is None:
                break
            until_s = min([NEVER, *(_first_s(each) for each in lanes if each is not lane)])
            before, rows_before, size_bytes = len(taken), rows, 0
            place = lane.first
            for place in range(lane.first, len(lane.waiting)):
                waiting = lane.waiting[place]
                if not waiting.held:
                    continue
                if lane.targets[place] >= until_s and len(taken) > before:
                    break  # another lane's first is next
                fits = rows + waiting.rows <= most_rows and cost + waiting.cost <= most_cost
                if taken and not fits:
                    lanes = None
                    break
                rows += waiting.rows
                cost += waiting.cost
                size_bytes += waiting.size_bytes
                waiting.held = False
                taken.append(waiting)
            lane.first = place
            if len(taken) > before:
                gone = len(taken) - before
                self._forget(lane, taken[-1].rank, gone, rows - rows_before, size_bytes)
        return taken

    def rows_ahead(self, target_s: float) -> Iterator[tuple[Bucket, float]]:
        """By bucket, about how many rows go before a newcomer with this target."""
        for bucket, lanes in self._lanes.items():
            rows = 0.0
            for lane in lanes:
                if lane.held:
                    targets = lane.targets
                    if targets[-1] <= target_s:
                        rows += lane.rows
                    elif targets[lane.first] <= target_s:
                        before = bisect_right(targets, target_s, lane.first) - lane.first
                        rows += lane.rows * before / (len(targets) - lane.first)
            if rows:
                yield bucket, rows

    def oldest(self) -> float:
        """When the one that waits longest arrived; NEVER where nothing waits."""
        return min((each.arrived_s for each in self._firsts()), default=NEVER)

    def at_risk(self, now: float, share: float = 0.8) -> int:
        """How many have waited for more than this share of the time to their target."""
        return sum(now - each.arrived_s > share * (each.target_s - each.arrived_s) for each in self)

    def __iter__(self) -> Iterator[Waiting]:
        for lanes in self._lanes.values():
            for lane in lanes:
                yield from (each for each in lane.waiting[lane.first :] if each.held)

    def _firsts(self) -> Iterator[Waiting]:
        for lanes in self._lanes.values():
            for lane in lanes:
                if lane.held:
                    self._skip(lane)
                    yield lane.waiting[lane.first]

    def _open(self, bucket: Bucket) -> list[_Lane]:
        if len(self._lanes) >= BUCKETS:  # shapes come and go
            self._lanes = {
                each: lanes
                for each, lanes in self._lanes.items()
                if any(lane.held for lane in lanes)
            }
        lanes = self._lanes[bucket] = [_Lane() for _ in range(RANKS)]
        return lanes

    def _forget_deadlines(self) -> list[tuple[float, int, Waiting]]:
        """Of what has left: a deadline is often far away, and most are never reached."""
        self._deadlines = [each for each in self._deadlines if each[2].held]
        heapq.heapify(self._deadlines)
        return self._deadlines

    def _head(self, lanes: list[_Lane]) -> _Lane | None:
        """The lane whose first is next, with nothing that has left before it."""
        head = None
        head_s = NEVER
        for lane in lanes:
            if lane.held:
                if not lane.waiting[lane.first].held:
                    self._skip(lane)
                target_s = lane.targets[lane.first]
                if head is None or target_s < head_s:
                    head = lane
                    head_s = target_s
        return head

    def _skip(self, lane: _Lane) -> None:
        waiting = lane.waiting
        while not waiting[lane.first].held:
            lane.first += 1

    def _let_go(self, waiting: Waiting, lane: _Lane) -> None:
        waiting.held = False
        self._forget(lane, waiting.rank, 1, waiting.rows, waiting.size_bytes)

    def _forget(self, lane: _Lane, rank: int, things: int, rows: int, size_bytes: int) -> None:
        """As many of one lane are not held any more."""
        lane.held -= things
        lane.rows -= rows
        self.held -= things
        self.held_rows -= rows
        self.held_bytes -= size_bytes
        self.held_by_rank[rank] -= things
        self._bytes_by_rank[rank] -= size_bytes
        if not lane.held:
            lane.waiting.clear()
            lane.targets.clear()
            lane.first = 0
        elif lane.first > TRIM and lane.first * 2 > len(lane.waiting):
            del lane.waiting[: lane.first]
            del lane.targets[: lane.first]
            lane.first = 0

    def _make_room(self, newcomer: Waiting) -> list[Waiting]:
        lower = range(newcomer.rank)
        things = self.held + 1 - self.most
        size_bytes = self.held_bytes + newcomer.size_bytes - self._most_bytes
        if things > sum(self.held_by_rank[rank] for rank in lower) or size_bytes > sum(
            self._bytes_by_rank[rank] for rank in lower
        ):
            raise Overloaded(
                "as much waits for this model as may",
                value=f"{self.held} requests, {self.held_bytes} bytes",
                remedy="Send fewer at a time, or again in a moment.",
            )
        shed: list[Waiting] = []
        for rank in lower:
            while self.held_by_rank[rank] and (things > 0 or size_bytes > 0):
                victim = self._newest(rank)
                self._let_go(victim, self._lanes[victim.bucket][rank])
                shed.append(victim)
                things -= 1
                size_bytes -= victim.size_bytes
        return shed

    def _newest(self, rank: int) -> Waiting:
        """Of a rank of which something waits."""
        last: list[Waiting] = []
        for lanes in self._lanes.values():
            lane = lanes[rank]
            if lane.held:
                while not lane.waiting[-1].held:
                    lane.waiting.pop()
                    lane.targets.pop()
                last.append(lane.waiting[-1])
        return max(last, key=lambda each: each.arrived_s)


def _first_s(lane: _Lane) -> float:
    """A target that nothing in it comes before."""
    return lane.targets[lane.first] if lane.held else NEVER


def _held(lane: _Lane) -> int:
    return lane.held
