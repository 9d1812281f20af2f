"""Requests through one model's runner, in virtual time; what its core decides is test_core.py's.

Every core here is watched (`testing/core_watch.py`): what it promises its owner must keep.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import pytest

from paceline.clock import Chance, SimulatedClock, run_simulated
from paceline.observe.board import Board, read
from paceline.serve import runner as module
from paceline.serve.knobs import DEFAULTS
from paceline.serve.model import ModelSpec, Tensors, TensorSpec
from paceline.serve.runner import WARM_RUNS, Beside, Outcome, Runner
from paceline.serve.tally import Ran, Tally
from paceline.terms.errors import (
    BadInput,
    DeadlineExceeded,
    ModelFailed,
    Overloaded,
    PacelineError,
)
from paceline.terms.limits import WARM_S
from paceline.terms.measurement import Distribution
from paceline.terms.request import PRIORITIES, Priority
from paceline.testing.core_watch import WatchedCore

SPEC = ModelSpec(
    "twice",
    "1",
    (TensorSpec("x", "FP32", (-1, 2)),),
    (TensorSpec("y", "FP32", (-1, 2)),),
    pure=True,
)
OPEN = ModelSpec("open", "1", (TensorSpec("x", "FP32", (-1, -1)),), SPEC.outputs)
POISON = 13.0


class Twice:
    """Answers twice what it is asked, and fails where POISON is among it."""

    def __init__(self, clock: SimulatedClock, spec: ModelSpec = SPEC) -> None:
        self.spec = spec
        self.clock = clock
        self.batches: list[list[float]] = []
        self.takes_s: Callable[[int], float] = lambda rows: 0.0
        self.meanwhile: Callable[[], object] = lambda: None
        self.error: BaseException | None = None

    def run(self, batch: Tensors) -> Tensors:
        x = batch["x"]
        self.batches.append(x[:, 0].tolist())
        self.clock.advance(self.takes_s(len(x)))
        self.meanwhile()
        if self.error is not None:
            raise self.error
        if POISON in x:
            raise ValueError("unlucky")
        return {"y": 2 * x}

    def close(self) -> None:
        pass


async def run(
    runner: Runner, inputs: Tensors, rows: int, priority: Priority, deadline_s: float
) -> Tensors:
    """The outcome, awaited as a caller does who may leave."""
    told: asyncio.Future[Tensors] = asyncio.get_running_loop().create_future()

    def tell(outcome: Outcome) -> None:
        if told.cancelled():  # its caller goes away just now
            return
        assert not told.done(), "told twice"
        if isinstance(outcome, PacelineError):
            told.set_exception(outcome)
        else:
            told.set_result(outcome)

    waiting = runner.submit(inputs, rows, priority, deadline_s, tell)
    try:
        return await told
    except asyncio.CancelledError:
        runner.leave(waiting)
        raise


class Served:
    """A runner whose batches take 10 ms beside the loop, or whatever `batch_s` says."""

    def __init__(self, clock: SimulatedClock, spec: ModelSpec = SPEC) -> None:
        self.clock = clock
        self.board = Board()
        self.model = Twice(clock, spec)
        self.batch_s: Callable[[], float] = lambda: 0.01
        self.rules = DEFAULTS
        self.beside = 0
        self.most_beside = 0
        self.runner = Runner(self.model, clock, Tally(self.board, "twice"), self._beside)

    def _beside(self, work: Callable[[], Ran]) -> "asyncio.Future[Ran]":
        async def later() -> Ran:
            self.beside += 1
            self.most_beside = max(self.beside, self.most_beside)
            await self.clock.until(self.clock.now() + self.batch_s())
            self.beside -= 1
            return work()

        return asyncio.ensure_future(later())

    async def ask(
        self,
        *values: float,
        priority: Priority = "normal",
        timeout_s: float = 30.0,
    ) -> list[float]:
        x = np.array([[value, 0.0] for value in values], np.float32)
        deadline_s = self.clock.now() + timeout_s
        answer = await run(self.runner, {"x": x}, len(x), priority, deadline_s)
        return [float(each) for each in answer["y"][:, 0]]

    def asks(self, *values: float, **how: Any) -> "asyncio.Task[list[float]]":
        return asyncio.ensure_future(self.ask(*values, **how))

    async def later(self, seconds: float) -> None:
        await self.clock.until(self.clock.now() + seconds)

    def tune(self, **changes: object) -> None:
        self.rules = msgspec.structs.replace(self.rules, **changes)
        self.runner.tune(self.rules)

    def measured(self, name: str) -> Mapping[tuple[str, ...], float]:
        """By the labels behind the model's name, where it is not zero."""
        found = {
            each.labels[1:]: each.value.count
            if isinstance(each.value, Distribution)
            else each.value
            for each in read([self.board])
            if each.metric.name == f"paceline_{name}"
        }
        return {labels: float(value) for labels, value in found.items() if value}


Story = Callable[[Served], Awaitable[None]]


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[WatchedCore]]:
    cores: list[WatchedCore] = []

    def make(*arguments: Any) -> WatchedCore:
        cores.append(WatchedCore(*arguments))
        return cores[-1]

    monkeypatch.setattr(module, "Core", make)
    yield cores
    for core in cores:
        core.check_end()


def told(story: Story, spec: ModelSpec = SPEC) -> Served:
    async def main(clock: SimulatedClock, chance: Chance) -> Served:
        served = Served(clock, spec)
        await story(served)
        return served

    return run_simulated(main, shuffle=False)  # who comes first is part of the story


def tiny(served: Served) -> None:
    """From now on batches are known to take less than is worth a thread."""
    served.runner.warm()
    served.model.batches.clear()


@contextmanager
def in_a_thread() -> Iterator[Beside]:
    with ThreadPoolExecutor(1) as pool:
        yield lambda work: asyncio.get_running_loop().run_in_executor(pool, work)


async def outcomes(asked: Sequence["asyncio.Task[list[float]]"]) -> list[object]:
    return await asyncio.gather(*asked, return_exceptions=True)


# --- Batches --------------------------------------------------------------------------------------


def test_callers_who_come_together_share_a_batch_and_each_gets_its_own_rows() -> None:
    async def story(served: Served) -> None:
        tiny(served)
        answers = await asyncio.gather(*(served.ask(*values) for values in ((1,), (2, 3), (4,))))
        assert answers == [[2.0], [4.0, 6.0], [8.0]]
        assert sorted(map(len, served.model.batches)) == [4]
        assert served.beside == served.most_beside == 0

    told(story)


def test_a_batch_that_takes_its_time_leaves_the_loop_alone_and_the_next_one_fills_meanwhile() -> (
    None
):
    async def story(served: Served) -> None:
        first = served.asks(1)
        await served.later(0.001)
        others = [served.asks(value) for value in (2, 3, 4)]
        assert await first == [2.0]
        assert served.clock.now() == pytest.approx(0.01)
        assert await asyncio.gather(*others) == [[4.0], [6.0], [8.0]]
        assert served.clock.now() == pytest.approx(0.02)
        assert [sorted(each) for each in served.model.batches] == [[1.0], [2.0, 3.0, 4.0]]

    told(story)


def test_what_is_run_in_place_lets_others_have_the_loop_after_a_millisecond() -> None:
    async def story(served: Served) -> None:
        tiny(served)
        served.tune(max_batch=1)
        served.model.takes_s = lambda rows: 0.0006
        asked = [served.asks(value) for value in range(5)]
        seen = []
        while not all(each.done() for each in asked):
            seen.append(len(served.model.batches))
            await served.clock.until(0.0)
        assert {2, 4} <= set(seen) <= {0, 2, 4, 5}, "two at a time"

    told(story)


def test_shapes_that_differ_run_apart() -> None:
    async def story(served: Served) -> None:
        async def ask(length: int) -> None:
            x = np.ones((1, length), np.float32)
            answer = await run(served.runner, {"x": x}, 1, "normal", 30.0)
            assert answer["y"].shape == (1, length)

        await asyncio.gather(*(ask(length) for length in (2, 3, 2, 3)))
        assert len(served.model.batches) == 2

    told(story, spec=OPEN)


def test_a_model_whose_rows_cannot_be_told_apart_runs_each_request_alone() -> None:
    spec = ModelSpec("lone", "1", SPEC.inputs, (TensorSpec("y", "FP32", (2,)),))

    async def story(served: Served) -> None:
        both = [served.asks(1, 2), served.asks(3)]
        assert await asyncio.gather(*both) == [[2.0, 4.0], [6.0]]
        assert sorted(map(len, served.model.batches)) == [1, 2]

    told(story, spec=spec)


@pytest.mark.parametrize(("shape", "moved"), [((-1, 2), True), ((2,), False)])
def test_steering_looks_at_no_larger_batch_where_each_request_runs_alone(
    shape: tuple[int, ...], moved: bool
) -> None:
    spec = ModelSpec("lone", "1", SPEC.inputs, (TensorSpec("y", "FP32", shape),))

    async def story(served: Served) -> None:
        tally = Tally(served.board, "twice")
        runner = Runner(served.model, served.clock, tally, served._beside, wish=print)
        bounds = {"max_batch": (1.0, 64.0), "executors": (1.0, 4.0)}
        runner.tune(msgspec.structs.replace(served.rules, bounds=bounds))
        assert runner._pilot is not None
        steered = runner._pilot._steering.bounds
        assert ("max_batch" in steered, "executors" in steered) == (moved, True)

    told(story, spec=spec)


@pytest.mark.parametrize(
    ("change", "anew"),
    [({"batching": "adaptive"}, True), ({"max_batch": 8}, False), ({"margin": 0.1}, False)],
)
def test_steering_begins_anew_with_another_policy(change: dict[str, object], anew: bool) -> None:
    """What it measured of one says nothing of another, and nobody is blamed for it."""

    async def story(served: Served) -> None:
        tally = Tally(served.board, "twice")
        runner = Runner(served.model, served.clock, tally, served._beside, wish=print)
        rules = msgspec.structs.replace(served.rules, batching="fixed")
        runner.tune(rules)
        assert runner._pilot is not None
        before = runner._pilot._steering
        runner.tune(msgspec.structs.replace(rules, **change))
        assert (runner._pilot._steering is not before) == anew

    told(story)


# --- Failures -------------------------------------------------------------------------------------


def test_a_poison_request_alone_gets_the_error_and_its_mates_their_answers() -> None:
    async def story(served: Served) -> None:
        values = [1, 2, 3, POISON, 5, 6, 7, 8]
        ended = await outcomes([served.asks(value) for value in values])
        assert isinstance(ended.pop(3), ModelFailed)
        assert ended == [[2.0 * value] for value in values if value != POISON]
        assert served.measured("batches_total")["isolation",] <= 2 * 3 + 1

    told(story)


@pytest.mark.parametrize(
    ("pure", "isolate", "isolated"),
    [(True, "never", False), (False, "pure", False), (False, "always", True)],
)
def test_a_failed_batch_is_run_again_only_where_the_plan_and_the_model_allow_it(
    pure: bool, isolate: str, isolated: bool
) -> None:
    async def story(served: Served) -> None:
        served.tune(isolate=isolate)
        ended = await outcomes([served.asks(value) for value in (1, POISON, 3)])
        assert [isinstance(each, ModelFailed) for each in ended] == [
            not isolated,
            True,
            not isolated,
        ]

    told(story, spec=msgspec.structs.replace(SPEC, pure=pure))


@pytest.mark.parametrize("in_place", [True, False])
def test_whatever_a_model_raises_is_a_typed_error_and_the_next_request_is_served(
    in_place: bool,
) -> None:
    async def story(served: Served) -> None:
        if in_place:
            tiny(served)
        served.model.error = StopIteration("nothing left")
        with pytest.raises(ModelFailed, match="`twice` failed: StopIteration: nothing left"):
            await served.ask(1)
        served.model.error = BadInput("not that", remedy="Send this.")
        with pytest.raises(BadInput, match="not that"):
            await served.ask(1)
        served.model.error = None
        assert await served.ask(1) == [2.0]

    told(story)


@pytest.mark.parametrize("in_place", [True, False])
def test_what_ends_the_process_is_not_swallowed(in_place: bool, watched: list[WatchedCore]) -> None:
    clock = SimulatedClock()
    model = Twice(clock)

    async def main() -> None:
        with in_a_thread() as beside:
            runner = Runner(model, clock, Tally(Board(), "twice"), beside)
            if in_place:
                runner.warm()
            model.error = KeyboardInterrupt()
            await run(runner, {"x": np.ones((1, 2), np.float32)}, 1, "normal", 30.0)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    watched.clear()  # it had no end


# --- Those who are not run ------------------------------------------------------------------------


def test_who_leaves_while_waiting_is_not_run_and_who_leaves_while_running_harms_nobody() -> None:
    async def story(served: Served) -> None:
        both = [served.asks(1), served.asks(2)]
        await served.later(0.001)
        gone, stays = served.asks(3), served.asks(4)
        await served.later(0.001)
        both[0].cancel()
        gone.cancel()
        assert await both[1] == [4.0]
        assert await stays == [8.0]
        assert [sorted(each) for each in served.model.batches] == [[1.0, 2.0], [4.0]]
        assert both[0].cancelled()
        assert gone.cancelled()

    told(story)


@pytest.mark.parametrize("fails", [False, True])
def test_who_leaves_in_the_very_turn_of_the_answer_harms_nobody(fails: bool) -> None:
    async def story(served: Served) -> None:
        tiny(served)
        served.tune(isolate="never")
        leaves, stays = served.asks(1), served.asks(POISON if fails else 2)
        served.model.meanwhile = leaves.cancel
        if fails:
            with pytest.raises(ModelFailed):
                await stays
        else:
            assert await stays == [4.0]
        assert leaves.cancelled()

    told(story)


def test_who_waits_too_long_is_told_so_at_the_deadline_and_not_when_an_executor_is_free() -> None:
    async def story(served: Served) -> None:
        served.batch_s = lambda: 1.0
        first = served.asks(1)
        await served.later(0.001)
        second = served.asks(2, timeout_s=0.05)
        with pytest.raises(DeadlineExceeded, match="too late, and was not run"):
            await second
        assert served.clock.now() == pytest.approx(0.051)
        await first
        assert served.model.batches == [[1.0]]
        assert served.measured("not_run_total") == {("expired",): 1.0}

    told(story)


def test_what_would_be_too_late_is_refused_at_once_with_the_prediction_and_when_to_come_again() -> (
    None
):
    async def story(served: Served) -> None:
        for _ in range(4):
            await served.ask(1)  # it is known now that a batch takes 10 ms
        now = served.clock.now()
        with pytest.raises(DeadlineExceeded, match=r"needs about 1\d ms .* has 5 ms left"):
            await served.ask(1, timeout_s=0.005)
        first = served.asks(1)
        await served.later(0.001)
        with pytest.raises(Overloaded, match=r"in about \d\d ms, and it has 12 ms left") as caught:
            await served.ask(2, timeout_s=0.012)
        assert caught.value.remedy.startswith("Send it again in ")
        assert served.clock.now() == pytest.approx(now + 0.001)
        await first
        assert served.measured("not_run_total") == {("late",): 2.0}

    told(story)


def test_a_full_queue_refuses_its_like_and_makes_room_for_what_ranks_higher() -> None:
    async def story(served: Served) -> None:
        served.tune(max_waiting=2)
        served.batch_s = lambda: 1.0
        running = served.asks(1)
        await served.later(0.001)
        low = [served.asks(value, priority="low") for value in (2, 3)]
        await served.later(0.001)
        with pytest.raises(Overloaded, match="as much waits for twice as may"):
            await served.ask(4, priority="low")
        critical = served.asks(5, priority="critical")
        assert isinstance((await outcomes(low[1:]))[0], Overloaded)
        assert await low[0] == [4.0]
        assert await critical == [10.0]
        await running
        assert served.measured("not_run_total") == {("full",): 1.0, ("shed",): 1.0}

    told(story)


def test_nothing_polls_while_requests_wait() -> None:
    async def story(served: Served) -> None:
        served.batch_s = lambda: 3600.0
        running = served.asks(1, timeout_s=9999)
        await served.later(0.001)
        waiting = [served.asks(2, timeout_s=100 - number) for number in range(50)]
        await served.later(0.001)
        steps = served.clock.steps
        await outcomes(waiting)
        await served.later(100)
        assert served.clock.steps - steps < 4 * len(waiting)  # the timer, its task, who awaits it
        await running

    told(story)


# --- The Plan -------------------------------------------------------------------------------------


def test_the_rows_of_a_batch_are_bounded_at_once() -> None:
    async def story(served: Served) -> None:
        served.tune(max_batch=3)
        await asyncio.gather(*(served.ask(value) for value in range(7)))
        assert sorted(map(len, served.model.batches)) == [1, 3, 3]
        served.model.batches.clear()
        served.tune(max_batch=1)
        await asyncio.gather(*(served.ask(value) for value in range(3)))
        assert [len(each) for each in served.model.batches] == [1, 1, 1]

    told(story)


def test_the_cost_of_a_batch_is_bounded_in_elements_where_lengths_are_open() -> None:
    async def story(served: Served) -> None:
        served.tune(batch_cost=25)
        x = np.ones((1, 10), np.float32)
        await asyncio.gather(*(run(served.runner, {"x": x}, 1, "normal", 30.0) for _ in range(4)))
        assert sorted(map(len, served.model.batches)) == [2, 2]

    told(story, spec=OPEN)


def test_as_many_batches_run_at_once_as_there_are_executors() -> None:
    async def story(served: Served) -> None:
        served.tune(max_batch=1)
        for executors in (1, 3, 2):
            served.most_beside = 0
            served.tune(executors=executors)
            await asyncio.gather(*(served.ask(value) for value in range(6)))
            assert served.most_beside == executors

    told(story)


@pytest.mark.parametrize("batching", ["fixed", "dynamic"])
def test_a_policy_by_name_waits_for_company_a_tenth_of_the_target(batching: str) -> None:
    async def story(served: Served) -> None:
        served.tune(batching=batching, max_batch=3, slo_s=0.2)
        await served.ask(1)
        assert served.clock.now() == pytest.approx(0.02 + 0.01)
        start = served.clock.now()
        await asyncio.gather(*(served.ask(value) for value in range(3)))
        assert served.clock.now() == pytest.approx(start + 0.01)
        assert served.measured("batches_total") == {("wait exceeded",): 1, ("size reached",): 1}
        served.tune(batching="at_once")
        start = served.clock.now()
        await served.ask(1)
        assert served.clock.now() == pytest.approx(start + 0.01)

    told(story)


@pytest.mark.parametrize("batching", ["adaptive", "latency_optimized"])
def test_every_policy_by_name_serves(batching: str) -> None:
    async def story(served: Served) -> None:
        served.tune(batching=batching)
        answers = await asyncio.gather(*(served.ask(value) for value in range(12)))
        assert answers == [[2.0 * value] for value in range(12)]

    told(story)


def test_an_objective_gives_deadlines_and_its_end_takes_them_away() -> None:
    async def story(served: Served) -> None:
        served.batch_s = lambda: 1.0
        running = served.asks(1)
        await served.later(0.001)
        served.tune(slo_s=0.1)
        before = served.clock.now()
        served.batch_s = lambda: 10.0
        held = served.asks(2)  # the core that takes over has an executor of its own
        await served.later(0.001)
        low, normal = served.asks(3, priority="low"), served.asks(4)
        for task, after_s in ((normal, 0.1), (low, 0.5)):
            with pytest.raises(DeadlineExceeded):
                await task
            assert served.clock.now() == pytest.approx(before + 0.001 + after_s)
        served.tune(slo_s=None)
        served.batch_s = lambda: 0.01
        assert await served.ask(5) == [10.0]
        assert await running == [2.0]
        assert await held == [4.0]

    told(story)


def test_a_body_is_not_read_for_an_answer_that_would_come_too_late() -> None:
    """Only with an objective, and only while something waits."""

    async def story(served: Served) -> None:
        served.tune(slo_s=0.3, executors=1, max_batch=1)
        served.batch_s = lambda: 0.1
        check, far_s = served.runner.check_unread, served.clock.now() + 30.0
        for value in (1, 2, 3):  # it learns what a batch takes
            await served.ask(value)
        check("normal", far_s)
        running = served.asks(4)
        await served.later(0.001)
        check("normal", far_s)
        waiting = served.asks(5)
        await served.later(0.001)
        with pytest.raises(Overloaded, match="would answer this request in about"):
            check("normal", far_s)
        assert served.measured("not_run_total") == {("late",): 1}
        served.tune(slo_s=None)
        check("normal", far_s)
        await asyncio.gather(running, waiting)

    told(story)


def test_what_waits_is_begun_before_the_answers_of_the_last_batch_are_told(
    watched: list[WatchedCore],
) -> None:
    async def story(served: Served) -> None:
        served.tune(executors=1, max_batch=1)
        core = watched[-1]
        running: list[int] = []
        x = {"x": np.zeros((1, 2), np.float32)}

        def tell(outcome: Outcome) -> None:
            running.append(len(core.running))

        for _ in range(3):
            served.runner.submit(x, 1, "normal", served.clock.now() + 30.0, tell)
        await served.later(1.0)
        assert running == [1, 1, 0]

    told(story)


def test_an_objective_counts_from_when_the_body_was_there() -> None:
    async def story(served: Served) -> None:
        served.tune(slo_s=0.1)
        heard_s = served.clock.now()
        await served.later(0.09)  # in which it was read
        x = {"x": np.zeros((1, 2), np.float32)}
        deadlines = [
            served.runner.submit(x, 1, "normal", heard_s + 30.0, lambda outcome: None, told_s)
            for told_s in (heard_s, None)
        ]
        assert [each.deadline_s for each in deadlines] == pytest.approx(
            [heard_s + 0.1, heard_s + 0.19]
        )
        await served.later(1.0)

    told(story)


def test_a_core_that_has_finished_is_asked_no_more(
    watched: list[WatchedCore], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(now: float) -> None:
        raise AssertionError("it was asked")

    async def story(served: Served) -> None:
        first = served.asks(1)
        await served.later(0.001)
        served.tune(slo_s=0.1)
        await first
        await served.later(0.001)
        with monkeypatch.context() as patched:
            patched.setattr(watched[0], "next", never)
            assert await served.ask(2) == [4.0]

    told(story)


def test_who_waited_for_the_core_before_is_answered_by_it() -> None:
    async def story(served: Served) -> None:
        first = served.asks(1)
        await served.later(0.001)
        waiting = [served.asks(value) for value in (2, 3)]
        await served.later(0.001)
        served.tune(deadline_s=20.0)
        newer = served.asks(4)
        assert await asyncio.gather(first, *waiting, newer) == [[2.0], [4.0], [6.0], [8.0]]
        assert [2.0, 3.0] in [sorted(each) for each in served.model.batches]

    told(story)


def test_a_core_that_takes_over_knows_what_was_learned() -> None:
    async def story(served: Served) -> None:
        for _ in range(4):
            await served.ask(1)
        served.tune(slo_s=0.005)
        with pytest.raises(DeadlineExceeded, match="needs about"):
            await served.ask(1)

    told(story)


def test_the_margin_is_kept_free() -> None:
    async def story(served: Served) -> None:
        for _ in range(4):
            await served.ask(1)
        assert await served.ask(1, timeout_s=0.015) == [2.0]
        served.tune(margin=0.4)
        with pytest.raises(Overloaded):
            await served.ask(1, timeout_s=0.015)

    told(story)


# --- Before it serves -----------------------------------------------------------------------------


def warmed(takes_s: Callable[[int], float], spec: ModelSpec = SPEC) -> tuple[list[int], float]:
    """The rows of each run, and how long it took in all."""
    clock = SimulatedClock()
    model = Twice(clock, spec)
    model.takes_s = takes_s
    Runner(model, clock, Tally(Board(), "twice")).warm()
    return [len(each) for each in model.batches], clock.now()


def test_a_model_is_tried_at_sizes_up_to_the_largest_batch() -> None:
    sizes, _ = warmed(lambda rows: 1e-4)
    assert sizes == [size for size in (1, 2, 4, 8, 16, 32, 64) for _ in range(WARM_RUNS)]


def test_a_first_run_that_finds_nothing_prepared_misleads_nobody() -> None:
    async def story(served: Served) -> None:
        seen: set[int] = set()

        def takes_s(rows: int) -> float:
            cold = rows not in seen
            seen.add(rows)
            return 0.02 if cold else 1e-5

        served.model.takes_s = takes_s
        served.runner.warm()
        await served.ask(1)
        assert served.most_beside == 0

    told(story)


def test_no_target_is_below_what_one_row_needs() -> None:
    async def story(served: Served) -> None:
        served.model.takes_s = lambda rows: 0.4
        served.runner.warm()
        served.model.takes_s = lambda rows: 0.0
        served.tune(batching="fixed")
        start = served.clock.now()
        await served.ask(1)
        assert served.clock.now() == pytest.approx(start + 0.04 + 0.01)

    told(story)


def test_trying_ends_soon_where_a_model_is_slow() -> None:
    sizes, seconds = warmed(lambda rows: 0.05 * rows)
    assert seconds < WARM_S + 0.05 * sizes[-1]
    assert sizes[-1] < 64
    assert warmed(lambda rows: 7.0) == ([1], 7.0)


def test_a_model_that_cannot_be_tried_serves_all_the_same() -> None:
    async def story(served: Served) -> None:
        served.model.error = ValueError("no zeros, please")
        served.runner.warm()
        served.model.error = None
        assert await served.ask(1) == [2.0]

    told(story)
    words = ModelSpec("words", "1", (TensorSpec("x", "BYTES", (-1,)),), SPEC.outputs)
    assert warmed(lambda rows: 0.0, words) == ([], 0.0)


def test_what_was_tried_counts_from_the_first_request_on() -> None:
    async def story(served: Served) -> None:
        served.model.takes_s = lambda rows: 0.02
        served.runner.warm()
        with pytest.raises(DeadlineExceeded, match=r"needs about 2\d ms"):
            await served.ask(1, timeout_s=0.015)

    told(story)


# --- Threads, counters, and all of it at once -----------------------------------------------------


def test_a_batch_that_is_not_tiny_runs_in_a_thread_and_a_tiny_one_does_not() -> None:
    clock = SimulatedClock()
    ran_in: list[int] = []

    class Noted(Twice):
        def run(self, batch: Tensors) -> Tensors:
            ran_in.append(threading.get_ident())
            return super().run(batch)

    async def main() -> None:
        model = Noted(clock)
        with in_a_thread() as beside:
            runner = Runner(model, clock, Tally(Board(), "twice"), beside)
            x = np.ones((1, 2), np.float32)
            for takes_s in (0.01, 0.0):
                model.takes_s = lambda rows, s=takes_s: s  # type: ignore[misc]
                runner.warm()
                ran_in.clear()
                for _ in range(20):
                    answer = await run(runner, {"x": x}, 1, "normal", clock.now() + 30)
                    assert answer["y"].tolist() == [[2.0, 2.0]]
                assert (ran_in[-1] == threading.get_ident()) == (takes_s == 0.0)

    asyncio.run(main())


def test_what_waits_is_shown_and_gone_when_nothing_waits_any_more() -> None:
    async def story(served: Served) -> None:
        served.batch_s = lambda: 1.0
        asked = [served.asks(1)]
        await served.later(0.001)
        asked += [served.asks(2), served.asks(3, priority="low"), served.asks(4, priority="low")]
        await served.later(0.2)
        asked.append(served.asks(5, priority="high"))
        await served.later(0.0)
        queued = {("normal",): 1.0, ("low",): 2.0, ("high",): 1.0}
        assert served.measured("queued_requests") == queued
        assert served.measured("queue_age_seconds")["0",] == pytest.approx(0.2)
        assert served.measured("at_risk_requests") == {(): 1.0}  # of its 100 ms, as normal as it is
        await asyncio.gather(*asked)
        for gauge in ("queued_requests", "queue_age_seconds", "at_risk_requests"):
            assert served.measured(gauge) == {}
        assert served.measured("batch_rows") == {(): 2.0}
        assert served.measured("rows_total") == {(): 5.0}
        assert served.measured("model_run_duration_seconds") == {(): 2.0}

    told(story)


@pytest.mark.parametrize(
    "seed", [0, 1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (3, 4, 5))]
)
def test_whoever_asks_whatever_happens_is_answered_once_by_the_deadline_or_leaves(
    seed: int,
) -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        served = Served(clock)
        served.batch_s = lambda: chance.exponential(0.01)
        count = dict.fromkeys(("answered", "refused", "left"), 0)

        async def caller(value: float) -> None:
            await clock.until(chance.uniform(0.0, 2.0))
            task = served.asks(
                value,
                *[0.0] * chance.integer(0, 3),
                priority=chance.choice(PRIORITIES),
                timeout_s=chance.exponential(0.1),
            )
            if chance.uniform() < 0.1:
                await served.later(chance.exponential(0.01))
                task.cancel()
            try:
                answer = await task
            except PacelineError:
                count["refused"] += 1
            except asyncio.CancelledError:
                count["left"] += 1
            else:
                count["answered"] += 1
                assert answer[0] == 2 * value

        async def steering() -> None:
            for _ in range(40):
                await served.later(chance.uniform(0.0, 0.1))
                served.tune(
                    max_batch=chance.integer(1, 64),
                    executors=chance.integer(1, 4),
                    batching=chance.choice(["at_once", "dynamic", "adaptive", "fixed"]),
                    isolate=chance.choice(["always", "never"]),
                    slo_s=chance.choice([None, 0.03, 0.3]),
                    margin=chance.choice([0.0, 0.1]),
                    max_waiting=chance.choice([3, 1000]),
                )

        callers = [POISON if chance.uniform() < 0.02 else number + 100.0 for number in range(600)]
        await asyncio.gather(steering(), *map(caller, callers))
        assert sum(count.values()) == len(callers)
        assert count["answered"] > 100
        assert served.beside == 0

    run_simulated(main, seed)
