"""One model's serving core in one process: it holds requests, runs batches, tells answers.

What is to be done is decided in `core.py`, which is told the time and what happened; here it is
done, on an asyncio loop. A batch that takes less than a turn of the loop is run in place: handing
it to a thread would cost more. Any other runs in a thread, while the loop goes on; there are never
more of them than the Plan's `executors`, but for a look at one more, and while another core takes
over. Nothing polls: one timer is set for `core.wake_s`.

Not for what a request means in HTTP: names, headers, bodies. Called by `web/inference.py`.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, NoReturn, TypeAlias

from paceline.clock import SHORTEST_NAP_S, Clock
from paceline.flow.queue import NEVER, Bucket, Waiting
from paceline.observe import log
from paceline.serve.batch import Batch, Dispatched, Tuning
from paceline.serve.batcher import Adaptive, Dynamic, LatencyOptimized, Policy, fixed
from paceline.serve.classes import Classes, classes
from paceline.serve.core import NORMAL, Core, End, Refused, Why
from paceline.serve.knobs import DEFAULTS, MAX_BATCH, Rules
from paceline.serve.model import Model, Tensors
from paceline.serve.pilot import Pilot
from paceline.serve.refusals import given_up, refusal
from paceline.serve.shapes import Shapes
from paceline.serve.steering import Move
from paceline.serve.tally import Ran, Tally
from paceline.terms.errors import ModelFailed, PacelineError
from paceline.terms.limits import EXECUTORS, ROWS, SHAPES, WARM_S
from paceline.terms.request import PRIORITIES, Priority

logger = log.get(__name__)

IN_PLACE_S = 0.001
"""What took less when it was tried is run in place: half of what may hold up the loop. Not what is
learned later decides: a thread that waits for the interpreter of a busy loop would seem slow, and
stay one."""

WARM_RUNS = 4
"""of each size; the first finds nothing prepared, and their median does not mind"""

WAIT = 0.1
"""Of the target of normal requests: how long the policies that wait do so, at most. The rule by
which `./bench policies` compares them."""

RANKS = {priority: rank for rank, priority in enumerate(PRIORITIES)}

Outcome: TypeAlias = "Tensors | PacelineError"
Told = Callable[[Outcome], None]
"""Hears the request's own rows of the outputs, or why there are none; once, unless it leaves."""
Beside = Callable[[Callable[[], "Ran"]], "asyncio.Future[Ran]"]
"""Has the work done while the loop goes on."""


class _Call:
    """What a request brings, who hears of it, and which core has it."""

    __slots__ = ("core", "inputs", "told")

    def __init__(self, inputs: Tensors, told: Told, core: Core) -> None:
        self.inputs = inputs
        self.told = told
        self.core = core


class _Made(NamedTuple):
    """What a core is made with. Where it changes another core takes over, and the one before it
    finishes what it holds, by what was promised to those."""

    classes: Classes
    batching: str
    most: int
    """rows; 0 where the policy does not ask"""


class Runner:
    """Serves by the defaults until it is told the Plan's rules. `wish` hears what its steering
    would move; without, it does not steer. `beside` is for tests, which have no threads; by default
    it is a thread pool."""

    def __init__(
        self,
        model: Model,
        clock: Clock,
        tally: Tally,
        beside: Beside | None = None,
        wish: Callable[[Move], None] | None = None,
    ) -> None:
        self._model = model
        self._clock = clock
        self._tally = tally
        self._shapes = Shapes(model.spec)
        self._beside = beside or _in_threads()
        self._pilot = None if wish is None else Pilot(wish, clock.now())
        self._row_s = 0.0
        self._seen: dict[Bucket, None] = {}
        self._tried: Bucket | None = None
        self._untried: list[int] = []
        self._asked = False
        self._tiny_rows = 0
        """of the shape that was tried, so many are run in place"""
        self._rules = DEFAULTS
        self._made = _made(DEFAULTS, self._row_s)
        self._core = self._new_core()
        self._cores = [self._core]
        """this one is the last; those before it finish what they hold"""
        self._turning = False
        self.told_all: Callable[[], None] = _nothing_more
        """called when all of a batch have been told"""
        self._telling: tuple[Batch, Ran | None] | None = None
        self._ended: list[tuple[Waiting, End]] = []
        """to be told; never in the middle of what a core does, for who hears it may ask again"""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = NEVER

    def check_unread(
        self, priority: Priority, deadline_s: float, heard_s: float | None = None
    ) -> None:
        """Before a long body is read, which costs as much as to run a small model: refuses what
        would be refused as things stand."""
        if self._rules.slo_s is None:
            return
        core, now, rank = self._core, self._clock.now(), RANKS[priority]
        targets_s, deadlines_s = self._made.classes
        deadline_s = min(deadline_s, (now if heard_s is None else heard_s) + deadlines_s[rank])
        refused = core.foretold(now, rank, now + targets_s[rank], deadline_s)
        if refused is not None:
            if self._pilot is not None:
                self._pilot.came()
            self._refuse(refused, 0.0, deadline_s - now)

    def allowed_s(self, priority: Priority, deadline_s: float) -> float:
        """How long after it came a request may be begun, of the time that it has; less what is kept
        free for what is not foreseen."""
        if self._rules.slo_s is None:
            return deadline_s
        allowed_s = min(deadline_s, self._made.classes.deadlines_s[RANKS[priority]])
        admission = self._core.admission
        return allowed_s if admission is None else allowed_s * (1.0 - admission.margin)

    def turned_away(self) -> None:
        """A request was not even read, for its turn would have come too late."""
        if self._pilot is not None:
            self._pilot.came()
        self._not_let_in("late")

    def too_late(self, wait_s: float, left_s: float) -> PacelineError:
        """What it is told."""
        return refusal(self._model.spec.name, Refused("late", wait_s), 0.0, left_s)

    def submit(
        self,
        inputs: Tensors,
        rows: int,
        priority: Priority,
        deadline_s: float,
        told: Told,
        heard_s: float | None = None,
    ) -> Waiting:
        """Has the request run, or refuses it by a PacelineError. Its deadline is a moment, and that
        of its objective counts where it is earlier: from when its body was there (`heard_s`, where
        that was not now)."""
        core, now, rank = self._core, self._clock.now(), RANKS[priority]
        targets_s, deadlines_s = self._made.classes
        if self._rules.slo_s is not None:
            from_s = now if heard_s is None else heard_s
            deadline_s = min(deadline_s, from_s + deadlines_s[rank])
        bucket = self._shapes.bucket(inputs)
        waiting = Waiting(
            rank,
            bucket,
            rows,
            sum([each.nbytes for each in inputs.values()]),
            now,
            now + targets_s[rank],
            deadline_s,
            cost=self._shapes.cost(bucket, rows),
        )
        refused = core.arrive(now, waiting)
        if self._ended:  # they made room
            asyncio.get_running_loop().call_soon(self._tell_ended)
        if self._pilot is not None:
            self._pilot.came()
        if refused is not None:
            self._refuse(refused, core.learned(bucket).at(rows), deadline_s - now)
        self._asked = True
        waiting.work = _Call(inputs, told, core)
        if core.idle > 0:
            self._soon()  # whoever comes in the same turn of the loop comes along
        else:
            self._wake_at(core.wake_s)
            self._tally.look(now, core.queue)
        return waiting

    def together(self, asks: Sequence[Callable[[], None]]) -> None:
        """Each of them may `submit`; what they bring is begun right behind the last one."""
        turning, self._turning = self._turning, True
        try:
            for ask in asks:
                ask()
        finally:
            self._turning = turning
        self._turn()

    def _refuse(self, refused: Refused, alone_s: float, left_s: float) -> NoReturn:
        self._not_let_in(refused.why)
        raise refusal(self._model.spec.name, refused, alone_s, left_s)

    def _not_let_in(self, why: Why) -> None:
        self._tally.not_run(why)
        if self._pilot is not None:
            self._pilot.refused()

    def leave(self, waiting: Waiting) -> None:
        """Its caller has gone: it is not run if that has not begun, and tells nobody."""
        call: _Call = waiting.work
        call.told = _nobody
        if call.core.leave(self._clock.now(), waiting):
            self._soon()

    def tune(self, rules: Rules) -> None:
        """From the next batch on. What waits keeps its target and its deadline."""
        self._rules = rules
        made = _made(rules, self._row_s)
        before = self._core
        if self._pilot is not None:
            anew = made._replace(most=0) != self._made._replace(most=0)  # that one it moves itself
            self._pilot.steer(self._bounds(), rules.slo_s, self._clock.now(), anew=anew)
        if made == self._made:
            before.tune(self._tuning())
        else:
            self._made = made
            self._core = self._new_core()
            self._cores.append(self._core)
            self._teach(self._core, before)
        self._soon()

    def warm(self) -> None:
        """Tries the model with rows of zeros, so that the first requests find it prepared, and are
        not predicted blindly. Open dimensions count one: that says little of longer ones, but the
        runtime is warm. It ends after WARM_S, and with the first error: zeros may not suit a model.
        Sizes that are left are tried by `warm_on`, so that nobody waits for a slow model."""
        end_s = self._clock.now() + WARM_S
        self._untried = [*_sizes(self._tuning().max_batch)]
        while self._untried:
            for _ in range(WARM_RUNS):
                if not self._try(self._untried[0]):
                    self._untried = []
                    return
                if self._clock.now() >= end_s:
                    break
            self._untried.pop(0)
            if self._clock.now() >= end_s:
                return

    def warm_on(self) -> None:
        """Tries the sizes that `warm` had no time for, one after the other, beside the loop, and
        only as long as nobody asks for anything: whoever does teaches as well."""
        core = self._core
        if not self._untried or core.running or core.queue.held or self._asked:
            return
        rows = self._untried.pop(0)
        inputs = self._shapes.zeros(rows)
        if inputs is None:
            return
        begun_s = self._clock.now()
        work = partial(self._compute, [inputs])
        self._beside(work).add_done_callback(partial(self._warmed, rows, inputs, begun_s))

    def _warmed(
        self, rows: int, inputs: Tensors, begun_s: float, ran: "asyncio.Future[Ran]"
    ) -> None:
        error = ran.exception()
        if isinstance(error, PacelineError):
            logger.warning("a model could not be tried out", rows=rows, error=str(error))
            return
        if error is not None:
            raise error
        if not self._asked:  # else it was timed beside others
            self._learn(rows, self._shapes.bucket(inputs), self._clock.now() - begun_s)
            self.warm_on()

    @property
    def how(self) -> str:
        """Where batches run, as was found by trying."""
        if self._model.spec.isolated:
            return "in a process of its own"
        if self._tiny_rows:
            return f"in place up to {self._tiny_rows} rows"
        return "in threads"

    def _try(self, rows: int) -> bool:
        inputs = self._shapes.zeros(rows)
        if inputs is None:
            return False
        before_s = self._clock.now()
        try:
            self._compute([inputs])
        except PacelineError as error:
            logger.warning("a model could not be tried out", rows=rows, error=str(error))
            return False
        self._learn(rows, self._shapes.bucket(inputs), self._clock.now() - before_s)
        return True

    def _learn(self, rows: int, bucket: Bucket, seconds: float) -> None:
        self._tried = bucket
        self._seen[bucket] = None
        learned = self._core.learned(bucket)
        learned.observe(rows, seconds)
        if rows == 1:
            self._row_s = learned.typical(1)
        if not self._model.spec.isolated:  # else it may hang, and the loop with it
            tiny = (size for size in _sizes(ROWS) if learned.typical(size) < IN_PLACE_S)
            self._tiny_rows = max(tiny, default=0)

    # --- Doing what the core says -----------------------------------------------------------------

    def _soon(self) -> None:
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._turning = False
        for core in tuple(self._cores):
            self._run_batches(core)
        self._tell_ended()
        now = self._clock.now()
        self._tally.look(now, self._core.queue)
        if self._pilot is not None:
            self._pilot.turn(now, self._core)

    def _run_batches(self, core: Core) -> None:
        """All that the core wants run now; in place for about IN_PLACE_S, answers written, then
        others want the loop."""
        now = begun_s = self._clock.now()
        while (batch := core.next(now)) is not None:
            self._tally.began(batch, core)
            work = partial(self._compute, [each.work.inputs for each in batch.members])
            if batch.rows <= self._tiny_rows and batch.bucket == self._tried:
                ran: Ran | None = None
                try:
                    ran = work()
                    told = self._done(core, batch, ran)
                except PacelineError as error:
                    told = self._failed(core, batch, error)
                self._tell(told, batch, ran)
                now = self._clock.now()
                if now - begun_s >= IN_PLACE_S:
                    self._soon()
                    return
                continue
            self._beside(work).add_done_callback(partial(self._ran_beside, core, batch))
        self._wake_at(core.wake_s)
        if core is not self._core and not core.running and not core.queue.held:
            self._cores.remove(core)

    def _ran_beside(self, core: Core, batch: Batch, ran: "asyncio.Future[Ran]") -> None:
        """What waits is begun first, for an executor is free: the answers are written beside it."""
        error = ran.exception()
        result = None
        if error is None:
            result = ran.result()
            told = self._done(core, batch, result)
        elif isinstance(error, PacelineError):
            told = self._failed(core, batch, error)
        else:
            raise error  # the end of the process, or a bug: nothing that a request could be told
        self._run_batches(core)
        self._tell(told, batch, result)
        self._soon()

    def _compute(self, several: Sequence[Tensors]) -> Ran:
        """In whatever thread; or ModelFailed."""
        clock, shapes = self._clock, self._shapes
        begun_s = clock.now()
        try:
            joined = shapes.together(several)
            joined_s = clock.now()
            outputs = self._model.run(joined)
            inferred_s = clock.now()
            answers = shapes.apart(outputs, several)
            shapes.reuse(joined, outputs)
            return Ran(answers, joined_s - begun_s, inferred_s - joined_s, clock.now() - inferred_s)
        except PacelineError:
            raise
        except Exception as error:
            name = self._model.spec.name
            logger.exception("a model failed", model=name)
            raise ModelFailed(
                f"the model `{name}` failed: {type(error).__name__}: {error}",
                remedy="Check the values sent; if they are right, the server's log says where.",
            ) from error

    def _done(self, core: Core, batch: Batch, ran: Ran) -> list[tuple[Waiting, Outcome]]:
        """Who is to be told what."""
        now = self._clock.now()
        batch.ended_s = now
        self._tally.ran(batch, now - batch.begun_s, ran, self._shapes, self._clock.wall())
        if batch.bucket not in self._seen:
            if len(self._seen) >= SHAPES:
                self._seen.clear()  # those that still come are back soon
            self._seen[batch.bucket] = None
        told = core.done(now, batch)
        if self._pilot is not None:
            in_time = sum([now <= each.deadline_s for each in told])
            self._pilot.ran(batch, now - batch.begun_s, in_time, len(told))
        if len(told) == len(batch.members):
            return list(zip(batch.members, ran.answers, strict=True))
        of = dict(zip(batch.members, ran.answers, strict=True))
        return [(each, of[each]) for each in told]

    def _failed(
        self, core: Core, batch: Batch, error: PacelineError
    ) -> list[tuple[Waiting, Outcome]]:
        batch.ended_s = now = self._clock.now()
        return [(each, error) for each in core.failed(now, batch)]

    def _tell(self, told: Sequence[tuple[Waiting, Outcome]], batch: Batch, ran: Ran | None) -> None:
        self._telling = (batch, ran)
        try:
            for waiting, outcome in told:
                waiting.work.told(outcome)
            self.told_all()
        finally:
            self._telling = None

    def dispatched(self) -> Dispatched | None:
        """How the batch ran whose requests are being told, for those of them that want to know."""
        if self._telling is None:
            return None
        batch, ran = self._telling
        parts = (None, None, None) if ran is None else ran[1:]
        return Dispatched(
            batch.reason, batch.rows, len(batch.members), batch.begun_s, batch.ended_s, *parts
        )

    def _on_end(self, waiting: Waiting, end: End) -> None:
        self._tally.not_run(end)
        self._ended.append((waiting, end))

    def _tell_ended(self) -> None:
        """Those who end elsewhere than in a batch, once the core has finished what it was doing."""
        while self._ended:
            ended, self._ended = self._ended, []
            for waiting, end in ended:
                waiting.work.told(given_up(end))

    def _wake_at(self, moment_s: float) -> None:
        """One timer for all; where it is set for too early a moment, it is set again then."""
        if moment_s >= self._timer_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = moment_s
        wait_s = max(SHORTEST_NAP_S, moment_s - self._clock.now())
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._ring)

    def _ring(self) -> None:
        self._timer_s = NEVER
        self._turn()

    # --- What the rules say -----------------------------------------------------------------------

    def _tuning(self) -> Tuning:
        rules = self._rules
        pure = rules.isolate == "pure" and self._model.spec.pure
        return Tuning(
            max_batch=1 if self._shapes.alone else rules.max_batch,
            batch_cost=rules.batch_cost,
            executors=rules.executors,
            margin=rules.margin,
            isolate=pure or rules.isolate == "always",
            max_waiting=rules.max_waiting,
        )

    def _bounds(self) -> Mapping[str, tuple[float, float]]:
        """What steering may move. A request that must run alone runs alone in a look, too."""
        bounds = self._rules.bounds
        if not self._shapes.alone:
            return bounds
        return {name: span for name, span in bounds.items() if name != MAX_BATCH.name}

    def _new_core(self) -> Core:
        return Core(self._on_end, self._made.classes, self._tuning(), _policy(self._made))

    def _teach(self, core: Core, before: Core) -> None:
        """How long batches take has not changed."""
        for bucket in self._seen:
            known = before.learned(bucket)
            for size in _sizes(core.tuning.max_batch):
                core.learned(bucket).observe(size, known.typical(size))


def _made(rules: Rules, row_s: float) -> _Made:
    most = rules.max_batch if rules.batching in ("dynamic", "adaptive", "fixed") else 0
    return _Made(classes(rules.slo_s, row_s, rules.deadline_s), rules.batching, most)


def _policy(made: _Made) -> Policy | None:
    """None is the core's own."""
    target_s = made.classes.targets_s[NORMAL]
    match made.batching:
        case "dynamic":
            return Dynamic(1, made.most, WAIT * target_s)
        case "fixed":
            return fixed(made.most, WAIT * target_s)
        case "adaptive":
            return Adaptive(1, made.most, WAIT * target_s, target_s / 2)
        case "latency_optimized":
            return LatencyOptimized()
    return None


def _in_threads() -> Beside:
    """Its threads are as many as ran at once, which is for the core to say."""
    pool = ThreadPoolExecutor(EXECUTORS, "model")
    return lambda work: asyncio.get_running_loop().run_in_executor(pool, work)


def _nothing_more() -> None:
    """Of those who hear of each by itself."""


def _nobody(outcome: Outcome) -> None:
    """Hears what is told to a caller who has left."""


def _sizes(most: int) -> Iterator[int]:
    """1, 2, 4 ... and the most."""
    size = 1
    while size < most:
        yield size
        size *= 2
    yield most
