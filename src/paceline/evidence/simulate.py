"""The serving core in virtual time: millions of requests, none of them real, all decisions real.

The queue, batcher, admission, limiter, isolation and latency model are the classes that production
runs, told the simulated moment. What is simulated is the world around them: who arrives (a Trace),
how long a batch takes (a Latency by shape), which requests are poison, executors that die, callers
who leave. The same seed gives the same run, to the last bit.

Called by `paceline simulate`, `./bench policies`, and tests; it knows no files and draws nothing.
"""

import heapq
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from paceline.clock import Chance
from paceline.evidence.latencies import Latency
from paceline.evidence.traces import Trace
from paceline.flow.queue import NEVER, Waiting
from paceline.serve.batch import Batch, Look, Tuning
from paceline.serve.batcher import Policy, Reason
from paceline.serve.classes import Classes
from paceline.serve.core import Core, End
from paceline.serve.effects import Interval
from paceline.serve.look import Ran
from paceline.serve.steering import Move, Steering

ENDS = ("open", "done", "late", "full", "shed", "expired", "failed", "lost", "left")
"""How a request ends; `late` and `full` are refused at the door."""

OPEN, DONE, LATE, FULL, SHED, EXPIRED, FAILED, LOST, LEFT = range(len(ENDS))

STEER_S = 1.0
"""Between two times that steering is asked."""

DRAWS = 1 << 16
"""Of the scatter, of which each batch takes the next."""


LEAST_SECONDS = 1e-9
"""All may come at one moment."""

WARM_RUNS = 2
"""Of each size, before the first request."""


class World(msgspec.Struct, frozen=True):
    """What the core does not know. `poison`: share of requests that break their batch;
    `crashes_per_s`: of each executor while it runs; it is back after `restart_s`. At each moment of
    `steps` everything takes so many times longer from then on; at each of `later` these latencies
    hold from then on, with the scatter of the first."""

    latencies: tuple[Latency, ...]
    poison: float = 0.0
    crashes_per_s: float = 0.0
    restart_s: float = 0.5
    steps: tuple[tuple[float, float], ...] = ()
    later: tuple[tuple[float, tuple[Latency, ...]], ...] = ()
    request_bytes: int = 1024


class Run(msgspec.Struct, frozen=True):
    """What came of it, by request in the order of arrival, and by batch."""

    trace: Trace
    classes: Classes
    ends: "NDArray[np.int8]"
    ended_s: "NDArray[np.float64]"
    deadlines_s: "NDArray[np.float64]"
    batch_rows: list[int]
    batch_s: list[float]
    dispatched: dict[Reason, int]
    waits: dict[Reason, int]
    reruns: int
    busy_s: float
    moves: list[tuple[float, Move]] = []
    """by steering, and when"""

    @property
    def in_time(self) -> "NDArray[np.bool_]":
        on_time: NDArray[np.bool_] = (self.ends == DONE) & (self.ended_s <= self.deadlines_s)
        return on_time

    @property
    def goodput(self) -> float:
        """Requests a second that were answered in time."""
        return float(self.in_time.sum()) / max(self.trace.seconds, LEAST_SECONDS)

    @property
    def share_in_time(self) -> float:
        """Of those whose callers stayed."""
        stayed = int((self.ends != LEFT).sum())
        return float(self.in_time.sum()) / stayed if stayed else 1.0

    def count(self, end: int) -> int:
        return int((self.ends == end).sum())

    @property
    def latencies_s(self) -> "NDArray[np.float64]":
        """Of what was answered with a result."""
        done = self.ends == DONE
        answered: NDArray[np.float64] = self.ended_s[done] - np.asarray(self.trace.arrived_s)[done]
        return answered

    @property
    def accepted_s(self) -> "NDArray[np.float64]":
        """From arrival to the answer of all that were let in and whose callers stayed, as a share
        of the time each had; what was let in and not answered well counts as twice that."""
        in_it = (self.ends != LATE) & (self.ends != FULL) & (self.ends != LEFT)
        arrived_s = np.asarray(self.trace.arrived_s)
        share = (self.ended_s - arrived_s) / (self.deadlines_s - arrived_s)
        share[(self.ends != DONE)] = 2.0
        accepted: NDArray[np.float64] = share[in_it]
        return accepted


class Simulation:
    """One run. `fifo`: as a server without priorities orders. Subclasses of Core can be handed in,
    to watch or to break it."""

    def __init__(
        self,
        trace: Trace,
        world: World,
        classes: Classes,
        tuning: Tuning,
        policy: Policy | None = None,
        *,
        seed: int = 0,
        admission: bool = True,
        fifo: bool = False,
        warm: bool = True,
        core: Callable[..., Core] = Core,
        steer: Steering | None = None,
    ) -> None:
        self.trace = trace
        self.classes = classes
        self.now = 0.0
        self.batch_rows: list[int] = []
        self.batch_s: list[float] = []
        self.busy_s = 0.0
        self._targets_s = (classes.targets_s[1],) * 4 if fifo else classes.targets_s
        ordered = classes._replace(targets_s=self._targets_s)
        self.core = core(self._on_end, ordered, tuning, policy, admission=admission)
        self._world = world
        self._die = Chance(seed)
        self._most = max(tuning.max_batch, max(trace.rows, default=1))
        if steer is not None:
            self._most = max(self._most, int(steer.bounds.get("max_batch", (0, 0))[1]))
        self._lay(world.latencies)
        self._ratios = [each.ratios(DRAWS, seed + 1) for each in world.latencies]
        self._drawn = 0
        self._events: list[tuple[float, int, Callable[..., None], Any]] = []
        self._numbers = 0
        self._slower = 1.0
        self._ends = [OPEN] * len(trace)
        self._ended_s = [NEVER] * len(trace)
        self._deadlines_s = [NEVER] * len(trace)
        self._waiting: dict[int, Waiting] = {}
        self._poison: set[int] = set()
        if world.poison:
            picked = np.random.default_rng(seed + 2).random(len(trace)) < world.poison
            self._poison = set(np.flatnonzero(picked).tolist())
        if warm:
            self._warm(tuning.max_batch)
        for at_s, times in world.steps:
            self.at(at_s, self._step, times)
        for at_s, latencies in world.later:
            self.at(at_s, self._lay, latencies)
        self.moves: list[tuple[float, Move]] = []
        self._looks: Sequence[Look] = ()
        self._asked_s = 0.0
        self._counted = (0, 0, 0, 0.0)
        if steer is not None:
            self.at(STEER_S, self._ask, steer)

    def _warm(self, most: int) -> None:
        """As whoever serves a model does before it is ready: runs it with some sizes."""
        for shape, table in enumerate(self._tables):
            rows = 1
            while rows <= most:
                for _ in range(WARM_RUNS):
                    self.core.learned(shape).observe(rows, table[rows])
                rows *= 2

    def at(self, moment_s: float, what: Callable[..., None], about: Any) -> None:
        """Call it then: what others want to happen in the simulation, steering for example."""
        self._numbers += 1
        heapq.heappush(self._events, (moment_s, self._numbers, what, about))

    def run(self) -> Run:
        """Until all have ended."""
        trace, core, events = self.trace, self.core, self._events
        arrived_s = trace.arrived_s
        coming = len(trace)
        leaves = sorted(
            (at_s, number) for number, at_s in enumerate(trace.leaves_s) if at_s != NEVER
        )
        leaves.append((NEVER, -1))
        leaving = number = 0
        next_s = arrived_s[0] if coming else NEVER
        while True:
            event_s = events[0][0] if events else NEVER
            if core.wake_s < event_s:
                event_s = core.wake_s
            leave_s = leaves[leaving][0]
            if next_s <= event_s and next_s <= leave_s:
                if next_s == NEVER:
                    break
                self.now = next_s
                self._arrive(next_s, number)
                number += 1
                next_s = arrived_s[number] if number < coming else NEVER
            elif leave_s <= event_s:
                self.now = leave_s
                self._leave(leave_s, leaves[leaving][1])
                leaving += 1
            else:
                self.now = event_s
                if events and events[0][0] == event_s:
                    _, _, what, about = heapq.heappop(events)
                    what(about)
                self._dispatch(event_s)
        return self._outcome()

    # --- What happens -----------------------------------------------------------------------------

    def _arrive(self, now: float, number: int) -> None:
        trace, core = self.trace, self.core
        rank = trace.ranks[number]
        deadline_s = now + min(self.classes.deadlines_s[rank], trace.timeouts_s[number])
        self._deadlines_s[number] = deadline_s
        waiting = Waiting(
            rank,
            trace.shapes[number],
            trace.rows[number],
            self._world.request_bytes,
            now,
            now + self._targets_s[rank],
            deadline_s,
            number,
        )
        refused = core.arrive(now, waiting)
        if refused is not None:
            self._ends[number] = LATE if refused.why == "late" else FULL
            self._ended_s[number] = now
            return
        if trace.leaves_s[number] != NEVER:
            self._waiting[number] = waiting
        if core.idle > 0:
            self._dispatch(now)

    def _leave(self, now: float, number: int) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None and self.core.leave(now, waiting):
            self._ends[number] = LEFT
            self._ended_s[number] = now
            self._dispatch(now)

    def _dispatch(self, now: float) -> None:
        core = self.core
        while True:
            batch = core.next(now)
            if batch is None:
                return
            shape: Any = batch.bucket
            self._drawn = drawn = (self._drawn + 1) % DRAWS
            seconds = self._tables[shape][batch.rows] * self._ratios[shape][drawn] * self._slower
            if len(core.running) > 1:
                seconds *= self._beside[shape]
            self.batch_rows.append(batch.rows)
            self.batch_s.append(now)
            self._numbers += 1
            what: Callable[[Batch], None] = self._done
            if self._poison and any(each.work in self._poison for each in batch.members):
                what = self._failed
            if self._world.crashes_per_s:
                lives_s = self._die.exponential(1 / self._world.crashes_per_s)
                if lives_s < seconds:
                    seconds, what = lives_s, self._lost
            self.busy_s += seconds
            heapq.heappush(self._events, (now + seconds, self._numbers, what, batch))

    def _done(self, batch: Batch) -> None:
        now, ends, ended_s = self.now, self._ends, self._ended_s
        for each in self.core.done(now, batch):
            ends[each.work] = DONE
            ended_s[each.work] = now

    def _failed(self, batch: Batch) -> None:
        for each in self.core.failed(self.now, batch):
            self._ends[each.work] = FAILED
            self._ended_s[each.work] = self.now

    def _lost(self, batch: Batch) -> None:
        for each in self.core.lost(self.now, batch):
            self._ends[each.work] = LOST
            self._ended_s[each.work] = self.now
        self.at(self.now + self._world.restart_s, self._recovered, None)

    def _recovered(self, about: None) -> None:
        self.core.recovered()

    def _step(self, times: float) -> None:
        self._slower = times

    def _lay(self, latencies: tuple[Latency, ...]) -> None:
        self._tables = [each.table(self._most) for each in latencies]
        self._beside = [each.side_by_side for each in latencies]

    # --- Steering ---------------------------------------------------------------------------------

    def _ask(self, steer: Steering) -> None:
        core, now = self.core, self.now
        answer = steer.observe(now, self._measure(now), core.tuning, core.busiest())
        if isinstance(answer, Move):
            self.moves.append((now, answer))
            core.tune(msgspec.structs.replace(core.tuning, **{answer.knob: answer.value}))
        elif answer is not None:
            self._looks = core.look(answer.tunings)
        if now < self.trace.seconds:
            self.at(max(now + STEER_S, self._goes_on_s(now)), self._ask, steer)

    def _goes_on_s(self, now: float) -> float:
        """When there is something to steer: a server sleeps while nobody asks anything."""
        if self.core.queue.held or self.core.running:
            return now
        coming = bisect_right(self.trace.arrived_s, now)
        return self.trace.arrived_s[coming] if coming < len(self.trace) else self.trace.seconds

    def _measure(self, now: float) -> Interval:
        """Since it was last asked. From what is written down for the outcome anyway: to count while
        it runs would cost each request."""
        first, came, batches, busy_s = self._counted
        since_s, self._asked_s = self._asked_s, now
        now_came = bisect_right(self.trace.arrived_s, now)
        ended_s = np.array(self._ended_s[first:now_came])
        ends = np.array(self._ends[first:now_came])
        deadlines_s = np.array(self._deadlines_s[first:now_came])
        lately = (since_s < ended_s) & (ended_s <= now)
        done = lately & (ends == DONE)
        open_ = np.flatnonzero(ends == OPEN)
        self._counted = (
            first + int(open_[0]) if len(open_) else now_came,
            now_came,
            len(self.batch_rows),
            self.busy_s,
        )
        looked: tuple[tuple[Tuning, Ran], ...] = ()
        if not self.core.looking:
            looked = tuple((each.tuning, each.ran) for each in self._looks)
            self._looks = ()
        return Interval(
            now - since_s,
            now_came - came,
            int((lately & ((ends == LATE) | (ends == FULL))).sum()),
            int(done.sum()),
            int((done & (ended_s <= deadlines_s)).sum()),
            len(self.batch_rows) - batches,
            sum(self.batch_rows[batches:]),
            self.busy_s - busy_s,
            self.core.measured(),
            looked,
        )

    def _on_end(self, waiting: Waiting, end: End) -> None:
        self._ends[waiting.work] = SHED if end == "shed" else EXPIRED
        self._ended_s[waiting.work] = self.now

    def _outcome(self) -> Run:
        return Run(
            self.trace,
            self.classes,
            np.array(self._ends, dtype=np.int8),
            np.array(self._ended_s),
            np.array(self._deadlines_s),
            self.batch_rows,
            self.batch_s,
            dict(self.core.dispatched),
            dict(self.core.waits),
            self.core.reruns,
            self.busy_s,
            self.moves,
        )
