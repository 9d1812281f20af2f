"""The serving core of one model: admission, queue, batcher, executors, isolation, tied together.

It decides and does nothing else. Whoever owns it (a front, the simulator) tells it what happened
and when, runs the batches it hands out, and answers whom it names:

    refused = core.arrive(now, waiting)   somebody came; perhaps they are told no, with a reason
    batch = core.next(now)                what to run on an executor that is free; or None
    told = core.done(now, batch)          it ran: these members are told their rows
    told = core.failed(now, batch)        it failed: these are told so, others will be run again
    told = core.lost(now, batch)          its executor died: so are all; `recovered` when it is back
    core.leave(now, waiting)              a caller went away
    core.wake_s                           when to ask `next` again, unless something happens before

After each of these `next` is asked until it says None (after `arrive` only where `idle` is not 0).
Whatever comes ends exactly once: refused by `arrive`, told through a batch, handed to `on_end`
(shed, expired), or left. Pure; the same class runs in production and in `evidence/simulate`. A
request walks through it in docs/design/core.md.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from paceline.flow.limiter import AdaptiveLimiter
from paceline.flow.queue import NEVER, Bucket, Queue, Waiting
from paceline.serve.admission import Admission
from paceline.serve.batch import Batch, Broken, Look, Tuning
from paceline.serve.batcher import REASONS, AtOnce, Dispatch, Drop, Hold, Policy, Reason
from paceline.serve.classes import Classes
from paceline.serve.isolation import PoisonRate, best_cap
from paceline.serve.latency import LatencyModel
from paceline.serve.look import LOOK, Ran
from paceline.terms.errors import Overloaded
from paceline.terms.limits import DEADLINE_S, QUEUE_BYTES, QUEUE_REQUESTS, SHAPES

Why = Literal["late", "full"]
"""For which a newcomer is refused."""

End = Literal["shed", "expired"]
"""How something ends that was let in and is not run."""

STANDING_SHARE = 0.1
"""Of a request's deadline. A queue that has not been empty for so long is no burst any more
(CoDel's interval, in the form of Maurer's "queue timeout"), and is held to the length at which
requests wait for so long. Where the target is farther away, prediction alone bounds the queue."""

NORMAL = 1

SHARED_S = 0.002
"""A batch that takes less is not shared among executors."""

WORTH_SHARING = 0.9
"""Of the rows a second of an executor, so much must be left with its share."""

LONGEST = 0.6
"""Of what a request may take, a batch at most."""

TRY_AFTER_S = 1.0
"""Where no batch of a shape ran for so long, since all were refused, one is tried all the same:
what is never run cannot show that it is fast again."""

TRY_TIMES = 20
"""Of its own time, at least, until the next one is tried: in vain, it costs the others little."""

BOUND_EVERY = 20
"""Batches between two looks at how poison should bound them."""


class Refused(NamedTuple):
    """`wait_s`: how long it would have taken, as far as it was asked."""

    why: Why
    wait_s: float


class Core:
    """Without `admission` nobody is refused for what is predicted: for comparison."""

    def __init__(
        self,
        on_end: Callable[[Waiting, End], None],
        classes: Classes,
        tuning: Tuning,
        policy: Policy | None = None,
        *,
        admission: bool = True,
    ) -> None:
        targets_s = classes.targets_s
        standing_s = STANDING_SHARE * min(classes.deadlines_s[NORMAL], DEADLINE_S)
        limited = admission and standing_s > targets_s[NORMAL]
        self._longest_s = min(LONGEST * classes.deadlines_s[NORMAL], DEADLINE_S)
        self.queue = Queue(tuning.max_waiting, QUEUE_BYTES)
        self.policy: Policy = policy or AtOnce(self._longest_s)
        self._own_policy = policy is None
        self.admission = Admission(targets_s, tuning.margin) if admission else None
        self.limiter = AdaptiveLimiter(standing_s, most=QUEUE_REQUESTS) if limited else None
        self.poison = PoisonRate()
        self.tuning = tuning
        self.cap = tuning.max_batch
        self.idle = tuning.executors
        self.running: list[Batch] = []
        self.wake_s = NEVER
        self.dispatched = dict.fromkeys(REASONS, 0)
        self.waits = dict.fromkeys(REASONS, 0)
        self.reruns = 0
        self._on_end = on_end
        self._latencies: dict[Bucket, LatencyModel] = {}
        self._planned: dict[Bucket, tuple[int, float]] = {}
        self._begun_s: dict[Bucket, float] = {}
        self._row_s = 0.0
        self._parts_s = 0.0
        self._broken: list[Broken] = []
        self.standing_s = standing_s
        self._empty_s = 0.0
        self._left = 0
        self._stands = False
        self._until_bound = BOUND_EVERY
        self._ran = Ran()
        self._busiest: Bucket = None
        self._executors = tuning.executors
        self._look: Look | None = None
        self._looks: list[Look] = []
        self._look_batches = 0
        self._trying: Waiting | None = None
        self._try_s = 0.0
        self._ran_s: dict[Bucket, float] = {}

    # --- What happens -----------------------------------------------------------------------------

    def arrive(self, now: float, newcomer: Waiting) -> Refused | None:
        queue = self.queue
        admission = self.admission
        if admission is not None:
            admission.came(now, newcomer.rank, newcomer.rows)
            if newcomer.deadline_s != NEVER:
                finish_s = self._finish_s(now, newcomer, admission)
                if finish_s > newcomer.deadline_s and not self._try(now, newcomer, admission):
                    newcomer.ended = True
                    return Refused("late", finish_s - now)
            if self.limiter is not None:
                self._cut_back(now, self.limiter)
        elif newcomer.deadline_s <= now:
            newcomer.ended = True
            return Refused("late", 0.0)
        try:
            shed = queue.put(newcomer)
        except Overloaded:
            newcomer.ended = True
            return Refused("full", 0.0)
        if self.limiter is not None:
            self.limiter.enter(now)
        for each in shed:
            self._end(now, each, "shed")
        if newcomer.deadline_s < self.wake_s:
            self.wake_s = newcomer.deadline_s
        return None

    def next(self, now: float) -> Batch | None:
        queue = self.queue
        late = 0
        if queue.next_deadline() <= now:
            for each in queue.expired(now):
                late += each is not self._trying
                self._end(now, each, "expired")
        if self._broken:
            part = self._next_part(now)
            if part is not None:
                return part
        until_s = NEVER
        while self.idle > 0 and queue.held:
            decision = self.policy.decide(now, queue, self.learned, self.cap)
            if type(decision) is Dispatch:
                if self.admission is not None:
                    self.admission.gave_up(late)
                if self._executors > 1 and self._own_policy:
                    decision = self._shared(decision)
                return self._begin(now, decision)
            if type(decision) is Drop:
                if decision.waiting is self._trying:
                    return self._begin(now, Dispatch(decision.waiting.bucket, 1, "deadline near"))
                late += 1
                queue.leave(decision.waiting)
                self._end(now, decision.waiting, "expired")
                continue
            assert type(decision) is Hold
            self.waits[decision.awaits] += 1
            until_s = decision.until_s
            break
        self.wake_s = min(until_s, queue.next_deadline())
        for broken in self._broken:
            self.wake_s = min([self.wake_s, *(each.deadline_s for each in broken.pending())])
        return None

    def done(self, now: float, batch: Batch) -> Sequence[Waiting]:
        seconds = now - batch.begun_s
        self._count(batch, seconds)
        self.policy.ran(now, batch.rows, seconds)
        if batch.look is None:
            model = self.learned(batch.bucket)
            del self._latencies[batch.bucket]
            self._latencies[batch.bucket] = model  # the last to be forgotten
            model.observe(batch.rows, seconds)
            self._plan(batch.bucket)
            if batch.tried:
                self._tried(now, now <= batch.due_s)
            elif batch.bucket in self._ran_s:
                self._ran_s[batch.bucket] = now
            if self.admission is not None and batch.due_s != NEVER and not batch.tried:
                self._learn_margin(now, batch, seconds, self.admission)
        return self._over(now, batch, ok=True)

    def failed(self, now: float, batch: Batch) -> Sequence[Waiting]:
        """Whom the error is to be told: all of its members; or, where a failure is isolated, the
        one whose request it is, and the others are run again without it."""
        if batch.whole is None and self.tuning.isolate and len(batch.members) > 1:
            self.running.remove(batch)
            self.idle += 1
            self._broken.append(Broken(batch))
            return ()
        return self._over(now, batch, ok=False)

    def lost(self, now: float, batch: Batch) -> Sequence[Waiting]:
        """Its executor died under it, and is not there until `recovered`."""
        self.running.remove(batch)
        broken = batch.whole
        if broken is not None:
            for each in batch.members:
                broken.bisection.drop(each)
            broken.bisection.ran(batch.members, ok=False)
            broken.part = ()
        return self._tell(now, batch, batch.members)

    def recovered(self) -> None:
        self.idle += 1

    def leave(self, now: float, waiting: Waiting) -> bool:
        """False where it had ended before. What is running goes on, and is told to nobody."""
        if waiting.ended:
            return False
        if not self.queue.leave(waiting):
            for broken in self._broken:
                broken.bisection.drop(waiting)
        waiting.ended = True
        if self.limiter is not None:
            self.limiter.leave(now, now - waiting.arrived_s, False)
        return True

    def tune(self, tuning: Tuning) -> None:
        """From now on; what runs is not touched, and looks are over."""
        self.tuning = tuning
        self.queue.most = tuning.max_waiting
        if self.admission is not None:
            self.admission.keep_free(tuning.margin)
        self.look(())

    def look(self, tunings: Sequence[Tuning]) -> Sequence[Look]:
        """Runs the next LOOK batches as if it were tuned like the first of these, then as many like
        the next; then it is as before. They are counted here, and nothing is learned from them."""
        looks = [Look(tuning) for tuning in tunings]
        self._looks = looks[::-1]
        self._next_look()
        return looks

    # --- What is known ----------------------------------------------------------------------------

    def foretold(self, now: float, rank: int, target_s: float, deadline_s: float) -> Refused | None:
        """What `arrive` would say to one row of the shape that ran last; if no, that row counts as
        one that came. None also while nothing waits: then it may be tried."""
        if self.admission is None or not self.queue.held or not self._latencies:
            return None
        bucket = next(reversed(self._latencies))
        one = Waiting(rank, bucket, 1, 0, now, target_s, deadline_s)
        finish_s = self._finish_s(now, one, self.admission)
        if finish_s <= deadline_s:
            return None
        self.admission.came(now, rank, 1)
        return Refused("late", finish_s - now)

    def learned(self, bucket: Bucket) -> LatencyModel:
        """How long batches of this shape take."""
        model = self._latencies.get(bucket)
        if model is None:
            if len(self._latencies) >= SHAPES:
                oldest = next(iter(self._latencies))
                del self._latencies[oldest]
                self._planned.pop(oldest, None)
                self._begun_s.pop(oldest, None)
                self._ran_s.pop(oldest, None)
            model = self._latencies[bucket] = LatencyModel()
        return model

    @property
    def looking(self) -> bool:
        """Whether batches are still to be run for a look."""
        return self._look is not None

    def measured(self) -> Ran:
        """What batches took since this was last asked; those of the shape of which most are run."""
        ran, self._ran = self._ran, Ran()
        batches = {bucket: model.batches for bucket, model in self._latencies.items()}
        most = max(batches, key=batches.__getitem__, default=None)
        if most is not None and batches[most] > 2 * batches.get(self._busiest, 0):
            self._busiest = most  # not to and fro between two of which as many are run
        return ran

    def busiest(self) -> LatencyModel:
        """How long those take."""
        return self._latencies.get(self._busiest) or LatencyModel()

    # --- How --------------------------------------------------------------------------------------

    def _finish_s(self, now: float, newcomer: Waiting, admission: Admission) -> float:
        """The moment at which it would be done, let in now. First as if all that waits went before
        it, with a batch begun for each shape; only where that would be too late, it is looked at
        more closely."""
        queue = self.queue
        held_rows = queue.held_rows
        bucket = newcomer.bucket
        size, size_s = self._planned.get(bucket) or self._plan(bucket)
        row_s = self._row_s / self.tuning.executors
        if not held_rows:
            if self.idle > 0:  # at once, so nothing is left to chance but the batch itself
                free_s = self.tuning.margin * (newcomer.deadline_s - newcomer.arrived_s)
                return now + self.learned(bucket).typical(newcomer.rows) + free_s
            own_s = self.learned(bucket).at(newcomer.rows)
            return admission.finish_s(now, newcomer, self._wait_s(now, 0.0), own_s, row_s)
        if newcomer.rows <= size:
            wait_s = self._wait_s(now, held_rows * self._row_s + self._parts_s)
            finish_s = admission.finish_s(now, newcomer, wait_s, size_s, row_s)
            if finish_s <= newcomer.deadline_s:
                return finish_s
        work_s = 0.0
        before = 0
        for each, ahead in queue.rows_ahead(newcomer.target_s):
            most, most_s = self._planned.get(each) or self._plan(each)
            if each == bucket:
                before = int(ahead)
                if before < most:
                    continue
            work_s += ahead / most * most_s
        wait_s = self._wait_s(now, work_s)
        if before >= size:
            own_s = size_s
        else:
            own_s, more_s = self._together(now + wait_s, newcomer, before)
            if more_s:
                wait_s = self._wait_s(now, work_s + more_s)
        return admission.finish_s(now, newcomer, wait_s, own_s, row_s)

    def _try(self, now: float, newcomer: Waiting, admission: Admission) -> bool:
        """Whether it is let in all the same: nobody of this shape with as much time would be, were
        nothing else there, and so nothing new is learned of it."""
        model = self.learned(newcomer.bucket)
        ran_s = self._ran_s.setdefault(newcomer.bucket, now)
        trying = self._trying is not None and self._trying.held
        if trying or now < max(self._try_s, ran_s + TRY_AFTER_S) or newcomer.deadline_s <= now:
            return False
        if admission.finish_s(now, newcomer, 0.0, model.at(1), 0.0) <= newcomer.deadline_s:
            return False
        self._trying = newcomer
        self._try_s = now + max(TRY_AFTER_S, TRY_TIMES * model.typical(newcomer.rows))
        return True

    def _tried(self, now: float, in_time: bool) -> None:
        """Where it went well the next one is tried at once, until what is known is right again."""
        if in_time:
            self._try_s = now
            if self.admission is not None:
                self.admission.forgive()

    def _together(self, start_s: float, newcomer: Waiting, before: int) -> tuple[float, float]:
        """How long its batch takes if it begins then; and how long another one before it, where
        somebody of its shape would be late in so large a batch."""
        model = self.learned(newcomer.bucket)
        own_s = model.at(before + newcomer.rows)
        tightest = self.queue.tightest(newcomer.bucket)
        if tightest is None or start_s + own_s <= tightest.deadline_s or not before:
            return own_s, 0.0
        fitting = model.largest_within(tightest.deadline_s - start_s, before)
        first = min(before, max(tightest.rows, fitting))
        return model.at(before + newcomer.rows - first), model.at(first)

    def _plan(self, bucket: Bucket) -> tuple[int, float]:
        """How large batches of this shape will be when many wait, and how long they take: as large
        as pays, and not so long that hardly another fits into what a request may take."""
        model = self.learned(bucket)
        size = model.efficient(self.cap)
        if model.typical(size) > self._longest_s:
            size = max(1, min(size, model.largest_within(self._longest_s, size)))
        planned = self._planned[bucket] = (size, model.typical(size))
        self._begun_s[bucket] = model.typical(1)
        self._row_s = max(seconds / size for size, seconds in self._planned.values())
        self._parts_s = sum(self._begun_s.values())
        return planned

    def _wait_s(self, now: float, work_s: float) -> float:
        """Until an executor is free of what runs and of that much work besides. When one that died
        will be back is not known; then it is as if it were."""
        running = self.running
        first_s = NEVER if running and self.idle <= 0 else 0.0
        for batch in running:
            left_s = batch.expected_s - now
            if left_s < 0.0:
                left_s = 0.0
            work_s += left_s
            if left_s < first_s:
                first_s = left_s
        there = self.idle + len(running)
        each_s = work_s / there if there > 1 else work_s
        return each_s if each_s > first_s else first_s

    def _shared(self, dispatch: Dispatch) -> Dispatch:
        """Of all that waits and runs no executor takes more than its share: callers who take turns
        come back together, so whoever is once alone with one executor would stay so, and all others
        share a batch. Not where a batch is hardly worth handing over, nor where smaller ones cost
        an executor much of its throughput."""
        bucket, rows, _ = dispatch
        held = self.queue.held_rows + sum([batch.rows for batch in self.running])
        share = -(-held // self._executors)
        if rows <= share:
            return dispatch
        model = self.learned(bucket)
        whole_s = model.typical(rows)
        if whole_s < SHARED_S or share * whole_s < WORTH_SHARING * rows * model.typical(share):
            return dispatch
        return Dispatch(bucket, share, "adaptive")

    def _begin(self, now: float, dispatch: Dispatch) -> Batch:
        bucket, most, reason = dispatch
        queue = self.queue
        members = queue.take(bucket, most, self.tuning.batch_cost)
        rows = 0
        due_s = NEVER
        for each in members:
            rows += each.rows
            if each.deadline_s < due_s:
                due_s = each.deadline_s
        self.dispatched[reason] += 1
        batch = self._run(now, bucket, members, rows, reason)
        batch.due_s = due_s
        if self._trying is not None and self._trying in members:
            batch.tried, self._trying = True, None
        return batch

    def _run(
        self,
        now: float,
        bucket: Bucket,
        members: Sequence[Waiting],
        rows: int,
        reason: Reason,
        whole: Broken | None = None,
    ) -> Batch:
        expected_s = now + self.learned(bucket).typical(rows)
        batch = Batch(bucket, members, rows, reason, now, expected_s, whole)
        self.running.append(batch)
        self.idle -= 1
        batch.full = len(self.running) == self._executors
        if self._look is not None:
            batch.look = self._look
            self._look_batches -= 1
            if not self._look_batches:
                self._next_look()
        return batch

    def _next_look(self) -> None:
        """Goes on as the next of the looks wants it, after the last as it is tuned."""
        self._look = self._looks.pop() if self._looks else None
        self._look_batches = LOOK
        executors = (self._look or self).tuning.executors
        self.idle += executors - self._executors
        self._executors = executors
        self._bound()

    def _count(self, batch: Batch, seconds: float) -> None:
        """Where it had the company that its settings mean, from its beginning to its end."""
        look = batch.look
        executors = self.tuning.executors if look is None else look.tuning.executors
        if batch.full and len(self.running) == executors and batch.bucket == self._busiest:
            ran = self._ran if look is None else look.ran
            ran.count(batch.rows, seconds, batch.expected_s - batch.begun_s)

    def _next_part(self, now: float) -> Batch | None:
        """Of what failed, before anything else: they have waited long enough."""
        for broken in self._broken:
            for each in list(broken.pending()):
                if each.deadline_s <= now:
                    broken.bisection.drop(each)
                    self._end(now, each, "expired")
        for broken in list(self._broken) if self.idle > 0 else ():
            part = broken.bisection.next()
            if part:
                broken.part = part
                self.reruns += 1
                self.dispatched["isolation"] += 1
                rows = sum(each.rows for each in part)
                return self._run(now, broken.bucket, part, rows, "isolation", broken)
            if not broken.part:
                self._broken.remove(broken)
        return None

    def _over(self, now: float, batch: Batch, ok: bool) -> Sequence[Waiting]:
        """Whom to tell how it went."""
        self.running.remove(batch)
        self.idle += 1
        members = batch.members
        culprits = 0 if ok else 1
        if batch.whole is not None:
            batch.whole.part = ()
            settled = batch.whole.bisection.ran(members, ok)
            members = [*settled.good, *settled.culprits]
            culprits = len(settled.culprits)
        if self.tuning.isolate:
            self._observe_poison(len(members), culprits)
        return self._tell(now, batch, members)

    def _learn_margin(self, now: float, batch: Batch, seconds: float, admission: Admission) -> None:
        """Late by what the batch took beyond the quantile is late by chance: that more time was
        kept free would have helped nobody."""
        late = now > batch.due_s
        if not late or seconds <= self.learned(batch.bucket).at(batch.rows):
            admission.ran(late)

    def _tell(self, now: float, batch: Batch, members: Sequence[Waiting]) -> Sequence[Waiting]:
        """Those of the members who still want to know."""
        told = []
        for each in members:
            if not each.ended:
                each.ended = True
                told.append(each)
        if self.limiter is not None:
            self._left += len(told)
            for each in told:
                self.limiter.leave(now, batch.begun_s - each.arrived_s, False)
        return told

    def _observe_poison(self, members: int, culprits: int) -> None:
        self.poison.observe(members, culprits)
        self._until_bound -= 1
        if self._until_bound <= 0:
            self._bound()

    def _bound(self) -> None:
        """Of the rows of a batch: the Plan's, or fewer while requests poison each other."""
        self._until_bound = BOUND_EVERY
        self.cap = (self._look or self).tuning.max_batch
        if self.tuning.isolate and self._latencies:
            busiest = max(self._latencies.values(), key=lambda each: each.batches)
            self.cap = best_cap(self.poison.share, busiest.typical, self.cap)
        self._planned.clear()  # as large as the cap allows
        self._begun_s.clear()

    def _cut_back(self, now: float, limiter: AdaptiveLimiter) -> None:
        """A queue that stands is held to what can be waited for; a burst is not. As it begins to
        stand that is as many as left in the time (Little's law), then what the limiter finds."""
        most = self.tuning.max_waiting
        if not self.queue.held:
            self._empty_s, self._left, self._stands = now, 0, False
        elif now - self._empty_s > self.standing_s:
            if not self._stands:
                self._stands = True
                limiter.begin_at(now, int(self._left * self.standing_s / (now - self._empty_s)))
            most = min(most, max(1, limiter.limit - len(self.running)))
        self.queue.most = most

    def _end(self, now: float, waiting: Waiting, end: End) -> None:
        waiting.ended = True
        if self.limiter is not None:
            self.limiter.leave(now, now - waiting.arrived_s, True)
        self._on_end(waiting, end)
