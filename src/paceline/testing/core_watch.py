"""A serving core that is watched from outside: whatever breaks a promise is told at once.

    core = WatchedCore(on_end, classes, tuning)     or, inside `evidence/simulate`:
    Simulation(..., core=WatchedCore)
    ...
    core.check_end()

`Record` is what was said to the core and by it, with its own copy of each request's target and
deadline, in plain dicts, heaps and counters. It never looks into queue or core, and shares no code
with them. `WatchedCore` tells it, compares, and raises `Violated` with a sentence the moment they
disagree. What is promised:

- each request ends once: refused, told, shed, expired, or left; and none is open at the end;
- nobody is in two batches, nor dispatched again except after a failure, in fewer than two runs for
  each member of the batch that failed; nothing runs that has ended, left, or is past its deadline;
- a batch has one bucket, and no more rows and cost than allowed, unless one request alone has more;
  each batch has an executor, and idle, running and down ones are all there are;
- whoever left is told nothing; where failures are isolated, only who failed alone is told so;
- in a bucket nothing with an earlier target stays behind, nor anything whose target had passed when
  a member of the batch arrived. A policy that never waits (`eager`) takes the bucket of the
  earliest target, and never leaves an executor idle while something waits;
- what is past its deadline ends when the core is asked next, and the core wants to be woken by
  then, and later than now;
- shedding takes no more than makes room, only lower ranks, the lowest first, of those the newest
  first; nobody is refused for want of room as long as that would make it, nor while the queue has
  stood for less than `standing_s` and is within the Plan's bounds;
- the queue keeps its bounds, and counts what is in it.

Not promised here: that targets are met, and that admission refuses the right ones; that is measured
in `./bench policies`. It supposes targets a fixed time after arrival by rank, as `Classes` gives
them. A call costs O(log n), besides a look through the whole queue every SCAN_EVERY calls.
"""

import heapq
from collections.abc import Callable, Sequence
from typing import Literal, NoReturn

from paceline.flow.queue import NEVER, RANKS, Bucket, Waiting
from paceline.serve.batch import Batch, Tuning
from paceline.serve.batcher import AtOnce, LatencyOptimized, Policy
from paceline.serve.classes import Classes
from paceline.serve.core import Core, End, Refused
from paceline.terms.limits import QUEUE_BYTES

SCAN_EVERY = 4096
"""Calls between two looks through the whole queue."""

Told = Literal["done", "failed", "lost"]

State = Literal["waiting", "running", "broken", "gone", "refused", "shed", "expired", "left", Told]
"""Broken: in a batch that failed, and not running now. Gone: left while it was running."""


class Violated(AssertionError):
    """A promise was broken: which, of whom, and when; so many requests had come by then."""

    def __init__(self, sentence: str, now: float, came: int) -> None:
        super().__init__(f"{sentence}; at {now:.6f} s, after {came} requests")
        self.came = came


class _Search:
    """A batch that failed, while its culprits are looked for."""

    __slots__ = ("members", "pending", "running", "runs")

    def __init__(self, members: int) -> None:
        self.members = members
        self.pending = 0
        self.running = False
        self.runs = 0


class Seen:
    """One request, as it came."""

    __slots__ = (
        "arrived_s",
        "bucket",
        "cost",
        "deadline_s",
        "number",
        "rank",
        "rows",
        "search",
        "size_bytes",
        "state",
        "target_s",
    )

    def __init__(self, number: int, waiting: Waiting) -> None:
        self.number = number
        self.rank = waiting.rank
        self.bucket = waiting.bucket
        self.rows = waiting.rows
        self.cost = waiting.cost
        self.size_bytes = waiting.size_bytes
        self.arrived_s = waiting.arrived_s
        self.target_s = waiting.target_s
        self.deadline_s = waiting.deadline_s
        self.state: State = "waiting"
        self.search: _Search | None = None

    def __str__(self) -> str:
        return (
            f"request {self.number} (rank {self.rank}, bucket {self.bucket}, "
            f"arrived {self.arrived_s:.6f}, target {self.target_s:.6f}, "
            f"deadline {self.deadline_s:.6f})"
        )


_Heap = list[tuple[float, int, Seen]]
"""By a moment; what has moved on is taken out when it comes to the top."""


class Record:
    """`eager`: the policy never waits. `free` executors neither run anything nor are down."""

    def __init__(self, executors: int, eager: bool) -> None:
        self.free = executors
        self.came = 0
        self.open: dict[Waiting, Seen] = {}
        self.ended: dict[Waiting, Seen] = {}
        self.unanswered = 0
        self.waiting = 0
        self.empty_s = 0.0
        self.rows = 0
        self.size_bytes = 0
        self.by_rank = [0] * RANKS
        self._bytes_by_rank = [0] * RANKS
        self.running: dict[Batch, list[Seen]] = {}
        self._now = 0.0
        self._down = 0
        self._eager = eager
        self._searches: list[_Search] = []
        self._targets: dict[Bucket, _Heap] = {}
        self._deadlines: _Heap = []
        self._newest: list[list[Seen]] = [[] for _ in range(RANKS)]
        self._arriving: Seen | None = None
        self._shed: list[Seen] = []

    # --- Arrivals ---------------------------------------------------------------------------------

    def arrives(self, now: float, waiting: Waiting) -> Seen:
        self._now = now
        if waiting in self.open or waiting in self.ended:
            self.fail(f"{self.open.get(waiting) or self.ended[waiting]} arrived twice")
        if not self.waiting:
            self.empty_s = now
        self.came += 1
        self._shed = []
        self._arriving = Seen(self.came, waiting)
        return self._arriving

    def refused(self, waiting: Waiting, seen: Seen) -> None:
        seen.state = "refused"
        self.ended[waiting] = seen
        self._arriving = None
        if self._shed:
            self.fail(f"{seen} was refused, and {self._shed[0]} shed for it")

    def enters(self, waiting: Waiting, seen: Seen) -> None:
        self._arriving = None
        self.open[waiting] = seen
        self.unanswered += 1
        self._count(seen, 1)
        heap = self._targets.setdefault(seen.bucket, [])
        heapq.heappush(heap, (seen.target_s, seen.number, seen))
        self._watch_deadline(seen)
        self._newest[seen.rank].append(seen)
        for shed in self._shed:
            if any(self.by_rank[: shed.rank]):
                self.fail(f"{shed} was shed before what ranks lower")

    def has_room(self, seen: Seen, most: int, most_bytes: int) -> bool:
        """For one more, as things are or without all that ranks lower."""
        lower = slice(seen.rank)
        return (
            self.waiting - sum(self.by_rank[lower]) < most
            and self.size_bytes - sum(self._bytes_by_rank[lower]) + seen.size_bytes <= most_bytes
        )

    def shed_last(self) -> Seen | None:
        """For whoever came last: the last that had to leave, without which there was no room."""
        return self._shed[-1] if self._shed else None

    # --- Batches ----------------------------------------------------------------------------------

    def asked(self, now: float) -> None:
        """What to run next; whatever the answer is, nothing may wait beyond its deadline."""
        self._now = now

    def begins(self, batch: Batch, most_rows: int, most_cost: float) -> None:
        if self.free <= 0:
            self.fail("a batch was begun although no executor was free")
        if not batch.members:
            self.fail("a batch has no members")
        members = [self._runs(each) for each in batch.members]
        first = members[0]
        rows = sum(each.rows for each in members)
        if any(each.bucket != first.bucket for each in members):
            self.fail(f"the batch of {first} has more than one bucket")
        if any(each.search is not first.search for each in members):
            self.fail(f"{first} is run again with others than its batch had")
        if rows != batch.rows:
            self.fail(f"a batch says it has {batch.rows} rows, its members have {rows}")
        if first.search is None:
            self._begins_new(members, rows, most_rows, most_cost)
        else:
            self._begins_part(first.search)
        self.running[batch] = members
        self.free -= 1
        self._nothing_overdue()
        if first.search is None:
            self._in_order(members)

    def sleeps(self, wake_s: float) -> None:
        """Nothing to run: until something happens, or that moment."""
        self._nothing_overdue()
        next_s = self._next_deadline()
        if wake_s > next_s:
            self.fail(f"the core sleeps until {wake_s:.6f}, past the deadline at {next_s:.6f}")
        if wake_s <= self._now:
            self.fail("the core has nothing to run, and wants to be asked again at once")
        if self.free > 0:
            self._no_search_waits("an executor stays idle")
            if self._eager and self.waiting:
                self.fail(f"an executor stays idle while {self.waiting} wait: a lost wake-up")

    def over(self, now: float, batch: Batch, told: Sequence[Waiting], how: Told) -> None:
        self._now = now
        members = self.running.pop(batch)
        if how == "lost":
            self._down += 1
        else:
            self.free += 1
        search = members[0].search
        if search is not None:
            search.running = False
        mine = {each for each in members if each.state == "running"}
        for waiting in told:
            seen = self._still_open(waiting, f"was told of a batch that is {how}")
            if seen.state == "gone":
                self.fail(f"{seen} had left, and was told")
            if seen not in mine:
                self.fail(f"{seen} was told of a batch in which it was not")
            mine.remove(seen)
            self._end(waiting, how)
            self.unanswered -= 1
        for waiting in batch.members:
            if waiting in self.open and self.open[waiting].state == "gone":
                self._end(waiting, "left")
        if mine and (how != "failed" or len(members) == 1 or told):
            first = next(each for each in members if each in mine)
            self.fail(f"{first} was in a batch that is {how}, and was not told")
        if mine:
            self._breaks(members, search)

    def recovered(self) -> None:
        if not self._down:
            self.fail("an executor is back that was not down")
        self._down -= 1
        self.free += 1

    # --- Other ends -------------------------------------------------------------------------------

    def leaves(self, now: float, waiting: Waiting) -> bool:
        """Whether it was there to leave."""
        self._now = now
        seen = self.open.get(waiting)
        if seen is None or seen.state == "gone":
            return False
        self.unanswered -= 1
        if seen.state == "running":
            seen.state = "gone"
        else:
            self._out(seen)
            self._end(waiting, "left")
        return True

    def drops(self, waiting: Waiting, end: End) -> Seen:
        """Shed or expired."""
        seen = self._still_open(waiting, f"was {end}")
        if seen.state in ("running", "gone") or (end == "shed" and seen.state == "broken"):
            self.fail(f"{seen} was {end} while it was {seen.state}")
        self._out(seen)
        self._end(waiting, end)
        self.unanswered -= 1
        if end == "shed":
            self._sheds(seen)
        return seen

    def waits_in(self, bucket: Bucket) -> Seen | None:
        """The first of it."""
        return self._top(self._targets.get(bucket, []), ("waiting",))

    def fail(self, sentence: str) -> NoReturn:
        raise Violated(sentence, self._now, self.came)

    # --- How --------------------------------------------------------------------------------------

    def _count(self, seen: Seen, sign: int) -> None:
        self.waiting += sign
        self.rows += sign * seen.rows
        self.size_bytes += sign * seen.size_bytes
        self.by_rank[seen.rank] += sign
        self._bytes_by_rank[seen.rank] += sign * seen.size_bytes

    def _out(self, seen: Seen) -> None:
        """It waits no more."""
        if seen.state == "waiting":
            self._count(seen, -1)
        elif seen.search is not None:
            seen.search.pending -= 1
        seen.state = "gone"

    def _end(self, waiting: Waiting, how: State) -> None:
        seen = self.ended[waiting] = self.open.pop(waiting)
        seen.state = how

    def _still_open(self, waiting: Waiting, what: str) -> Seen:
        seen = self.open.get(waiting)
        if seen is None:
            ended = self.ended.get(waiting)
            before = f"{ended}, {ended.state} before," if ended else "somebody who never came"
            self.fail(f"{before} {what}")
        return seen

    def _runs(self, waiting: Waiting) -> Seen:
        seen = self._still_open(waiting, "was put into a batch")
        if seen.state == "gone":
            self.fail(f"{seen} was put into a batch after it had left")
        if seen.state == "running":
            self.fail(f"{seen} was dispatched twice, and is in two batches at once")
        if seen.deadline_s <= self._now:
            self.fail(f"{seen} was run after its deadline")
        self._out(seen)
        seen.state = "running"
        return seen

    def _begins_new(self, members: list[Seen], rows: int, most_rows: int, most_cost: float) -> None:
        self._no_search_waits("something new is run")
        if len(members) > 1:
            cost = sum(each.cost for each in members)
            if rows > most_rows:
                self.fail(f"a batch of {len(members)} has {rows} rows, where {most_rows} may be")
            if cost > most_cost:
                self.fail(f"a batch of {len(members)} costs {cost}, where {most_cost} may be spent")

    def _begins_part(self, search: _Search) -> None:
        search.running = True
        search.runs += 1
        if search.runs >= 2 * search.members:
            self.fail(f"{search.runs} runs for a batch of {search.members} that failed")

    def _breaks(self, members: list[Seen], search: _Search | None) -> None:
        """It failed, and was told to nobody: whoever is still there is run again."""
        if search is None:
            search = _Search(len(members))
            self._searches = [each for each in self._searches if each.pending or each.running]
            self._searches.append(search)
        for each in members:
            if each.state == "running":
                each.state = "broken"
                each.search = search
                search.pending += 1
                self._watch_deadline(each)

    def _no_search_waits(self, while_what: str) -> None:
        if any(each.pending and not each.running for each in self._searches):
            self.fail(f"{while_what} while the rest of a batch that failed waits for its turn")

    def _watch_deadline(self, seen: Seen) -> None:
        if seen.deadline_s != NEVER:
            heapq.heappush(self._deadlines, (seen.deadline_s, seen.number, seen))

    def _next_deadline(self) -> float:
        seen = self._top(self._deadlines, ("waiting", "broken"))
        return NEVER if seen is None else seen.deadline_s

    def _nothing_overdue(self) -> None:
        if self._next_deadline() <= self._now:
            self.fail(f"{self._deadlines[0][2]} is still there, and has not expired")

    def _top(self, heap: _Heap, states: Sequence[State]) -> Seen | None:
        while heap and heap[0][2].state not in states:
            heapq.heappop(heap)
        return heap[0][2] if heap else None

    def _in_order(self, members: list[Seen]) -> None:
        head = min(members, key=_target)
        last = max(members, key=_target)
        newest = max(members, key=_arrived)
        behind = self.waits_in(head.bucket)
        if behind is not None:
            if newest.arrived_s > behind.target_s:
                self.fail(f"{newest} overtook {behind}, whose target had passed when it arrived")
            if last.target_s > behind.target_s:
                self.fail(f"{last} went before {behind}: a priority inversion")
        if not self._eager:
            return
        for bucket in list(self._targets):
            first = self.waits_in(bucket)
            if first is None:
                del self._targets[bucket]
            elif head.target_s > first.target_s:
                self.fail(f"the batch of {head} went before the bucket of {first}: it starves")

    def _sheds(self, seen: Seen) -> None:
        self._shed.append(seen)
        newcomer = self._arriving
        if newcomer is None or newcomer.rank <= seen.rank:
            self.fail(f"{seen} was shed for {newcomer}, which does not rank higher")
        newest = self._newest[seen.rank]
        while newest and newest[-1].state != "waiting":
            newest.pop()
        if newest and newest[-1].arrived_s > seen.arrived_s:
            self.fail(f"{seen} was shed before {newest[-1]}, which is newer")


class WatchedCore(Core):
    """Whatever else is watched, its `arrive` and its kin come between this one and `Core`, in a
    class made of both."""

    def __init__(
        self,
        on_end: Callable[[Waiting, End], None],
        classes: Classes,
        tuning: Tuning,
        policy: Policy | None = None,
        *,
        admission: bool = True,
    ) -> None:
        super().__init__(self._dropped, classes, tuning, policy, admission=admission)
        eager = isinstance(self.policy, AtOnce | LatencyOptimized)
        self.record = Record(tuning.executors, eager)
        self._pass_on = on_end
        self._asked_s = 0.0
        self._calls = 0

    def arrive(self, now: float, newcomer: Waiting) -> Refused | None:
        record, queue = self.record, self.queue
        self._asked_s = now
        seen = record.arrives(now, newcomer)
        refused = super().arrive(now, newcomer)
        if refused is not None:
            record.refused(newcomer, seen)
            if refused.why == "full" and record.has_room(seen, queue.most, QUEUE_BYTES):
                record.fail(f"{seen} was refused for want of room, and there was")
            if refused.why == "full":
                self._check_burst(now, seen)
        else:
            record.enters(newcomer, seen)
            self._check_room()
            shed = record.shed_last()
            if shed is not None:
                self._check_burst(now, shed)
            if self.wake_s > seen.deadline_s:
                record.fail(f"{seen} came, and the core sleeps until {self.wake_s:.6f}")
        self._check()
        return refused

    def next(self, now: float) -> Batch | None:
        record = self.record
        self._asked_s = now
        record.asked(now)
        cap, most_cost = self.cap, self.tuning.batch_cost
        if not 1 <= cap <= self.tuning.max_batch:
            record.fail(f"a batch may have {cap} rows, where {self.tuning.max_batch} are allowed")
        batch = super().next(now)
        if batch is None:
            record.sleeps(self.wake_s)
        else:
            record.begins(batch, cap, most_cost)
        self._check()
        return batch

    def done(self, now: float, batch: Batch) -> Sequence[Waiting]:
        told = super().done(now, batch)
        self.record.over(now, batch, told, "done")
        self._check()
        return told

    def failed(self, now: float, batch: Batch) -> Sequence[Waiting]:
        told = super().failed(now, batch)
        self.record.over(now, batch, told, "failed")
        if told and len(batch.members) > 1 and self.tuning.isolate:
            self.record.fail(f"{len(told)} were told that they failed, of whom none ran alone")
        self._check()
        return told

    def lost(self, now: float, batch: Batch) -> Sequence[Waiting]:
        told = super().lost(now, batch)
        self.record.over(now, batch, told, "lost")
        self._check()
        return told

    def recovered(self) -> None:
        super().recovered()
        self.record.recovered()
        self._check()

    def leave(self, now: float, waiting: Waiting) -> bool:
        expected = self.record.leaves(now, waiting)
        left = super().leave(now, waiting)
        if left != expected:
            self.record.fail(f"request {waiting.work!r} left, of which the core says {left}")
        self._check()
        return left

    def tune(self, tuning: Tuning) -> None:
        self.record.free += tuning.executors - self.tuning.executors
        super().tune(tuning)
        self._check()

    def check_end(self) -> None:
        """After everything has happened that will."""
        record = self.record
        if record.open or record.running:
            open_, running = next(iter(record.open.values()), None), len(record.running)
            record.fail(f"at the end {open_} is open, and {running} batches run")
        self._check()
        self._scan()

    # --- How --------------------------------------------------------------------------------------

    def _dropped(self, waiting: Waiting, end: End) -> None:
        record, now = self.record, self._asked_s
        seen = record.drops(waiting, end)
        if end == "expired" and seen.deadline_s > now:
            self._check_drop(seen, now)
        self._pass_on(waiting, end)

    def _check_drop(self, seen: Seen, now: float) -> None:
        """Before its deadline only a policy gives up on a request: `AtOnce` where it is too late
        for it, or where others of its bucket would be late for its sake."""
        record = self.record
        if seen.search is not None:
            record.fail(f"{seen} expired before its deadline")
        if isinstance(self.policy, AtOnce):
            takes_s = self.learned(seen.bucket).typical(seen.rows)
            alone = record.waits_in(seen.bucket) is None
            if alone and takes_s <= seen.deadline_s - now:
                record.fail(f"{seen} was dropped alone, and takes only {takes_s:.6f} s")

    def _check_room(self) -> None:
        """After one more was let in."""
        record = self.record
        most = min(self.queue.most, self.tuning.max_waiting)
        if record.waiting > most or record.size_bytes > QUEUE_BYTES:
            record.fail(f"{record.waiting} wait, {record.size_bytes} bytes; {most} may")
        shed = record.shed_last()
        if (
            shed is not None
            and record.waiting < most
            and record.size_bytes + shed.size_bytes <= QUEUE_BYTES
        ):
            record.fail(f"{shed} was shed although there was room")

    def _check_burst(self, now: float, out: Seen) -> None:
        """Who is out, is so for the Plan's own bounds, or because the queue has stood for long."""
        record = self.record
        if (
            now - record.empty_s <= self.standing_s
            and record.waiting < self.tuning.max_waiting
            and record.size_bytes + out.size_bytes <= QUEUE_BYTES
        ):
            record.fail(f"{out} had to go, and nothing waited at {record.empty_s:.6f}")

    def _check(self) -> None:
        record, queue = self.record, self.queue
        if (queue.held, queue.held_rows, queue.held_bytes) != (
            record.waiting,
            record.rows,
            record.size_bytes,
        ):
            record.fail(
                f"the queue counts {queue.held} requests, {queue.held_rows} rows, "
                f"{queue.held_bytes} bytes; there are {record.waiting}, {record.rows}, "
                f"{record.size_bytes}"
            )
        if self.idle != record.free or len(self.running) != len(record.running):
            record.fail(
                f"the core counts {self.idle} idle executors and {len(self.running)} that run; "
                f"there are {record.free} and {len(record.running)}"
            )
        if self.limiter is not None and self.limiter.in_flight != record.unanswered:
            record.fail(
                f"the limiter counts {self.limiter.in_flight}; there are {record.unanswered}"
            )
        self._calls += 1
        if not self._calls % SCAN_EVERY:
            self._scan()

    def _scan(self) -> None:
        record, queue = self.record, self.queue
        here = set(queue)
        expected = {each for each, seen in record.open.items() if seen.state == "waiting"}
        if here != expected:
            record.fail(
                f"the queue holds {len(here - expected)} that it should not, "
                f"and lacks {len(expected - here)}"
            )
        if queue.held_by_rank != record.by_rank:
            record.fail(f"the queue counts {queue.held_by_rank} by rank, not {record.by_rank}")
        for bucket in {each.bucket for each in here}:
            rows = sum(record.open[each].rows for each in here if each.bucket == bucket)
            if queue.rows(bucket) != rows:
                record.fail(f"bucket {bucket} counts {queue.rows(bucket)} rows, and has {rows}")


def _target(seen: Seen) -> float:
    return seen.target_s


def _arrived(seen: Seen) -> float:
    return seen.arrived_s
