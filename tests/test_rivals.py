"""What other servers' batching does, as small stories; and that the simulator can carry it out."""

import itertools
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws import examples
from paceline.evidence.rivals import GRIDS, KEPT, BentoML, LitServe, MLServer, Triton
from paceline.flow.queue import NEVER, Bucket, Queue, Waiting
from paceline.serve.batcher import REASONS, Dispatch, Drop, Hold, Policy
from paceline.serve.latency import LatencyModel

CAP = 64


def learned(bucket: Bucket) -> LatencyModel:
    raise AssertionError("no rival asks for what we have learned")


def arriving(*arrivals_s: float, bucket: Bucket = "a", rows: int = 1) -> list[Waiting]:
    return [Waiting(1, bucket, rows, 0, each, each, NEVER) for each in arrivals_s]


def queue_of(*waiting: Waiting) -> Queue:
    queue = Queue(10_000, 1)
    for each in waiting:
        queue.put(each)
    return queue


def decide(policy: Policy, queue: Queue, now: float, cap: int = CAP) -> Dispatch | Hold | Drop:
    return policy.decide(now, queue, learned, cap)


def held_until(decision: Dispatch | Hold | Drop) -> float:
    assert isinstance(decision, Hold)
    return decision.until_s


def run(policy: Policy, queue: Queue, now: float, seconds: float = 0.01) -> list[Waiting]:
    """Runs what it decides to."""
    decision = decide(policy, queue, now)
    assert isinstance(decision, Dispatch)
    batch = queue.take(decision.bucket, decision.rows)
    policy.ran(now + seconds, sum(each.rows for each in batch), seconds)
    return batch


# --- Triton ---------------------------------------------------------------------------------------


def test_triton_without_a_delay_sends_at_once_as_much_as_fits() -> None:
    policy = Triton((), 0.0, 8)
    assert decide(policy, queue_of(*arriving(0.0)), 0.0) == Dispatch("a", 1, "idle worker")
    assert decide(policy, queue_of(*arriving(*[0.0] * 5)), 0.0) == Dispatch("a", 5, "idle worker")
    assert decide(policy, queue_of(*arriving(*[0.0] * 9)), 0.0) == Dispatch("a", 8, "size reached")


def test_triton_waits_for_its_largest_batch_until_the_oldest_is_overdue() -> None:
    policy = Triton((), 0.02, 8)
    queue = queue_of(*arriving(1.0, 1.005, 1.01))
    assert decide(policy, queue, 1.01) == Hold(1.02, "wait exceeded")
    assert decide(policy, queue, 1.02) == Dispatch("a", 3, "wait exceeded")
    assert decide(policy, queue_of(*arriving(*[1.0] * 8)), 1.0) == Dispatch("a", 8, "size reached")


def test_triton_sends_the_largest_preferred_size_or_all_once_the_oldest_is_overdue() -> None:
    queue = queue_of(*arriving(*[0.0] * 7))
    assert decide(Triton((2, 4, 8), 0.0, 16), queue, 9.0) == Dispatch("a", 4, "size reached")
    assert decide(Triton((2, 4, 8), 0.1, 16), queue, 0.0) == Dispatch("a", 4, "size reached")
    assert decide(Triton((2, 4, 8), 0.1, 16), queue, 0.1) == Dispatch("a", 7, "wait exceeded")
    assert decide(Triton((2, 4), 0.1, 16), queue, 0.1) == Dispatch("a", 7, "size reached")
    three = queue_of(*arriving(*[0.0] * 3))
    assert decide(Triton((4, 8), 0.1, 16), three, 0.0) == Hold(0.1, "wait exceeded")
    assert decide(Triton((4, 8), 0.0, 16), three, 0.0) == Dispatch("a", 3, "idle worker")


def test_triton_does_not_wait_where_one_more_would_exceed_every_preferred_size() -> None:
    policy = Triton((8,), 0.1, 16)
    queue = queue_of(*arriving(0.0, 0.0, rows=3))
    assert held_until(decide(policy, queue, 0.0)) == 0.1
    queue.put(*arriving(0.0, rows=3))
    assert decide(policy, queue, 0.0) == Dispatch("a", 6, "size reached")
    assert decide(policy, queue, 0.1) == Dispatch("a", 9, "size reached")


def test_triton_closes_a_batch_at_the_first_other_shape() -> None:
    """Although ten that would fit wait behind it, and it had time to wait for others."""
    policy = Triton((), 0.1, 8)
    queue = queue_of(
        *arriving(0.001, 0.002), *arriving(0.003, bucket="b"), *arriving(*[0.004] * 10)
    )
    assert [each.arrived_s for each in run(policy, queue, 0.005)] == [0.001, 0.002]
    assert decide(policy, queue, 0.005) == Dispatch("b", 1, "size reached")


def test_tritons_priorities_are_earlier_targets() -> None:
    queue = queue_of(*arriving(*[0.0] * 4))
    queue.put(Waiting(3, "b", 1, 0, 0.5, 0.5 - 1e6, NEVER))
    assert decide(Triton((), 0.0, 8), queue, 0.5) == Dispatch("b", 1, "size reached")


# --- LitServe -------------------------------------------------------------------------------------


def test_litserve_waits_its_timeout_from_when_it_got_free_and_not_longer() -> None:
    policy = LitServe(8, 0.05)
    run(policy, queue_of(*arriving(*[1.0] * 8)), 1.0, 0.12)
    queue = queue_of(*arriving(1.02, 1.08, 1.09))
    assert held_until(decide(policy, queue, 1.12)) == pytest.approx(1.17)
    queue.put(*arriving(1.16))
    assert held_until(decide(policy, queue, 1.16)) == pytest.approx(1.17)
    assert decide(policy, queue, 1.171) == Dispatch("a", 4, "wait exceeded")


def test_litserve_keeps_who_meets_an_idle_worker_for_what_is_left_of_a_window() -> None:
    """Its window opens anew every 50 ms, from 1.12 s on: the first request does not open it."""
    policy = LitServe(8, 0.05)
    run(policy, queue_of(*arriving(*[1.0] * 8)), 1.0, 0.12)
    queue = queue_of(*arriving(1.34))
    assert held_until(decide(policy, queue, 1.34)) == pytest.approx(1.37)
    assert decide(policy, queue, 1.371) == Dispatch("a", 1, "wait exceeded")
    since_the_start = LitServe(8, 0.05)
    assert held_until(decide(since_the_start, queue, 1.34)) == pytest.approx(1.35)


def test_litserve_runs_a_full_batch_at_once_and_without_a_timeout_whatever_there_is() -> None:
    full = queue_of(*arriving(*[0.0] * 9))
    assert decide(LitServe(8, 0.05), full, 0.0) == Dispatch("a", 8, "size reached")
    some = queue_of(*arriving(*[0.0] * 3))
    assert decide(LitServe(8, 0.0), some, 0.0) == Dispatch("a", 3, "idle worker")


def test_litserves_idle_workers_share_what_arrives() -> None:
    """Six wait for two workers: each runs three, although one could run all."""
    policy = LitServe(8, 0.05)
    both_free_s = 2.0
    for _ in range(2):  # both run at the same time
        decide(policy, queue_of(*arriving(*[0.0] * 8)), 0.0)
    for _ in range(2):
        policy.ran(both_free_s, 8, both_free_s)
    queue = queue_of()
    for _ in range(6):
        queue.put(*arriving(2.01))
        held_until(decide(policy, queue, 2.01))
    assert len(run(policy, queue, 2.06)) == 3
    assert len(run(policy, queue, 2.06)) == 3


# --- BentoML --------------------------------------------------------------------------------------

TRUTH = (0.002, 0.004)
"""Seconds a request, and a batch."""


def trained(most: int, latency_ms: float, sizes: Sequence[int] = (1, 2, 3)) -> BentoML:
    """It has seen what it needs; the usual wait is 10 ms from then on."""
    policy = BentoML(most, latency_ms)
    each_s, fixed_s = TRUTH
    for number in range(12 + KEPT):
        now = 10.0 * number
        size = sizes[number % len(sizes)]
        queue = queue_of(*arriving(*[now - 0.010] * size))
        assert len(run(policy, queue, now, fixed_s + each_s * size)) == size
    return policy


def test_bentoml_waits_for_others_while_that_costs_less_than_the_usual_wait() -> None:
    """1 * (w + 1 ms + 2 ms) <= 0.95 * 10 ms as long as the newest came less than 6.5 ms ago."""
    policy = trained(16, 1000.0)
    queue = queue_of(*arriving(1e4))
    assert held_until(decide(policy, queue, 1e4)) == pytest.approx(1e4 + 0.0065, abs=1e-5)
    queue.put(*arriving(1e4 + 0.001))  # 2 * (w + 3 ms): 1.75 ms from the newest on
    assert held_until(decide(policy, queue, 1e4 + 0.001)) == pytest.approx(1e4 + 0.00275, abs=1e-5)
    assert decide(policy, queue, 1e4 + 0.003) == Dispatch("a", 2, "adaptive")


def test_bentoml_runs_a_full_batch_without_waiting() -> None:
    """With room for one more, three would wait: 3 * (1 ms + 2 ms) <= 0.95 * 10 ms."""
    three = queue_of(*arriving(*[1e4] * 3))
    assert decide(trained(3, 1000.0), three, 1e4) == Dispatch("a", 3, "size reached")
    assert held_until(decide(trained(4, 1000.0), three, 1e4)) > 1e4


def test_bentoml_sheds_the_head_by_the_whole_queues_length() -> None:
    """A batch of four would be over within 12 ms, in time for 100; but it reckons with all 60."""
    policy = trained(4, 100.0)
    queue = queue_of(*arriving(*[1e4] * 60))
    shed = 0
    while isinstance(decision := decide(policy, queue, 1e4), Drop):
        assert decision.waiting is queue.first()
        queue.leave(decision.waiting)
        shed += 1
    assert decision == Dispatch("a", 4, "size reached")
    assert shed == 13  # 47 * 2 ms + 4 ms < 100 ms <= 48 * 2 ms + 4 ms


def test_bentoml_sheds_one_that_waits_alone_only_when_it_is_too_late_already() -> None:
    policy = trained(4, 100.0)
    assert isinstance(decide(policy, queue_of(*arriving(1e4)), 1e4 + 0.099), Dispatch)
    assert isinstance(decide(policy, queue_of(*arriving(1e4)), 1e4 + 0.1), Drop)


def test_bentoml_sheds_the_head_although_it_only_waits_for_others() -> None:
    """One of the two was to be run after 6.15 ms, but after 6 ms it is given up: 6 ms + 2 * 3 ms +
    3 ms is what it may have. (By batches of one the line takes half of 6 ms for the request.)"""
    policy = trained(16, 15.0, sizes=(1,))
    queue = queue_of(*arriving(1e4, 1e4 + 0.0054))
    assert held_until(decide(policy, queue, 1e4 + 0.0054)) == pytest.approx(1e4 + 0.006, abs=1e-5)
    assert isinstance(decide(policy, queue, 1e4 + 0.00601), Drop)


def test_bentoml_sheds_nobody_for_an_estimate_before_it_is_trained() -> None:
    """By its first guess, 30 ms / 30 + n * 60 ms / 30, sixty would never be in time."""
    policy = BentoML(4, 30.0)
    queue = queue_of(*arriving(*[0.0] * 60))
    for _ in range(11):
        assert len(run(policy, queue, 0.0, 0.001)) == 4
    assert isinstance(decide(policy, queue, 0.031), Drop)


def test_bentoml_in_training_keeps_even_who_is_late_where_few_wait() -> None:
    late = queue_of(*arriving(0.0, 0.0))
    assert isinstance(decide(BentoML(4, 30.0), late, 1.0), Dispatch)
    late.put(*arriving(0.0))
    assert isinstance(decide(BentoML(4, 30.0), late, 1.0), Drop)


def test_bentoml_trains_on_two_and_on_three_and_waits_for_them_in_patience() -> None:
    """For as long as three more requests take, or four; the first two batches tell it nothing."""
    policy = BentoML(4, 3000.0)
    for number in range(9):
        run(policy, queue_of(*arriving(10.0 * number)), 10.0 * number, 0.01 if number > 1 else 1.0)
    pair = queue_of(*arriving(100.0))
    assert held_until(decide(policy, pair, 100.0)) == pytest.approx(100.015)
    assert len(run(policy, pair, 100.02)) == 1
    three = queue_of(*arriving(110.0, 110.0))
    assert held_until(decide(policy, three, 110.0)) == pytest.approx(110.02)
    three.put(*arriving(110.0))
    assert len(run(policy, three, 110.0)) == 3


def test_bentoml_takes_no_wait_in_training_for_a_usual_one() -> None:
    policy = BentoML(4, 1000.0)
    for now in range(11):
        run(policy, queue_of(*arriving(now - 0.1)), now)
    assert decide(policy, queue_of(*arriving(11.0)), 11.0) == Dispatch("a", 1, "adaptive")


def test_bentoml_learns_anew_every_five_seconds_at_most() -> None:
    def waits_s(now: float) -> float:
        return held_until(decide(policy, queue_of(*arriving(now)), now)) - now

    policy = trained(16, 1000.0)
    run(policy, queue_of(*arriving(2e4)), 2e4 + 0.010)  # a refresh: it was long ago
    before_s = waits_s(2e4 + 1)
    for _ in range(KEPT):
        run(policy, queue_of(*arriving(2e4 + 1)), 2e4 + 1.030)
    assert waits_s(2e4 + 2) == before_s
    run(policy, queue_of(*arriving(2e4 + 6)), 2e4 + 6.030)
    assert waits_s(2e4 + 7) > 2 * before_s


def test_bentoml_takes_each_batch_for_what_it_was_although_they_end_in_another_order() -> None:
    policies = [trained(16, 1000.0) for _ in range(2)]
    for policy, order in zip(policies, [(1, 3), (3, 1)], strict=True):
        for now in range(1000, 1000 + 10 * KEPT, 10):
            for rows in (1, 3):
                decide(policy, queue_of(*arriving(*[now - 0.010] * rows)), now)
            for rows in order:
                policy.ran(now + 0.1, rows, 0.004 + 0.002 * rows)
    first, second = (decide(each, queue_of(*arriving(1e4)), 1e4) for each in policies)
    assert held_until(first) == pytest.approx(held_until(second), abs=1e-6)


# --- MLServer -------------------------------------------------------------------------------------


def test_mlserver_waits_its_window_from_the_first_request_or_for_a_full_batch() -> None:
    policy = MLServer(4, 0.05)
    queue = queue_of(*arriving(1.0, 1.03))
    assert held_until(decide(policy, queue, 1.03)) == pytest.approx(1.05)
    assert decide(policy, queue, 1.0501) == Dispatch("a", 2, "wait exceeded")
    assert decide(policy, queue_of(*arriving(*[1.0] * 6)), 1.0) == Dispatch("a", 4, "size reached")


def test_mlserver_takes_the_time_since_the_beginning_off_again_at_each_request() -> None:
    """10 and 20 ms after the first: what is left at the third is 50 - 10 - 20 ms."""
    policy = MLServer(8, 0.05)
    assert held_until(decide(policy, queue_of(*arriving(1.0, 1.01)), 1.01)) == pytest.approx(1.05)
    queue = queue_of(*arriving(1.0, 1.01, 1.02))
    assert held_until(decide(policy, queue, 1.02)) == pytest.approx(1.04)
    queue.put(*arriving(1.03))  # 50 - 10 - 20 - 30 ms: nothing is left
    assert decide(policy, queue, 1.03) == Dispatch("a", 4, "wait exceeded")


def test_mlserver_does_not_grow_a_batch_while_it_waits_for_a_worker() -> None:
    """All were there when a worker got free, but they came too far apart to be formed together."""
    policy = MLServer(8, 0.05)
    queue = queue_of(*arriving(1.0, 1.04, 1.06, 1.07, 1.2))
    assert [len(run(policy, queue, 5.0)) for _ in range(3)] == [2, 2, 1]


def test_mlserver_without_a_window_runs_each_alone() -> None:
    queue = queue_of(*arriving(*[1.0] * 3))
    assert decide(MLServer(8, 0.0), queue, 1.0) == Dispatch("a", 1, "idle worker")
    assert decide(MLServer(1, 0.05), queue, 1.0) == Dispatch("a", 1, "idle worker")


# --- All ------------------------------------------------------------------------------------------

Maker = Callable[[], Policy]
MAKERS: list[Maker] = [
    lambda: Triton((), 0.0, 8),
    lambda: Triton((2, 4), 0.01, 8),
    lambda: LitServe(4, 0.01),
    lambda: LitServe(4, 0.0),
    lambda: BentoML(4, 30.0),
    lambda: BentoML(4, 60_000.0),
    lambda: MLServer(4, 0.01),
    lambda: MLServer(1, 0.0),
]

requests = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 1, 3, 20, 200]),
        st.integers(0, 2),
        st.integers(1, 6),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=60,
)
"""Milliseconds after the one before, shape, rows, rank."""


@given(requests, st.sampled_from(MAKERS), st.integers(1, 3), st.integers(3, 10))
@examples(150)
def test_whatever_comes_each_is_run_or_dropped_in_order_of_arrival(
    script: Sequence[tuple[int, int, int, int]], make: Maker, executors: int, cap: int
) -> None:
    """In virtual time: a wait ends, a batch fits, and within a shape nobody overtakes."""
    policy, queue, now = make(), queue_of(), 0.0
    moments = itertools.accumulate(ms / 1e3 for ms, _, _, _ in script)
    coming = [
        Waiting(rank, bucket, rows, 0, moment, moment, NEVER)
        for moment, (_, bucket, rows, rank) in zip(moments, script, strict=True)
    ]
    to_end, ended = set(coming), list[Waiting]()
    running: list[tuple[float, int, float]] = []
    while now < NEVER:
        while coming and coming[0].arrived_s <= now:
            queue.put(coming.pop(0))
        for over in [each for each in running if each[0] <= now]:
            running.remove(over)
            policy.ran(now, over[1], over[2])
        wake_s = NEVER
        while queue.held and len(running) < executors and wake_s == NEVER:
            match decide(policy, queue, now, cap):
                case Hold(until_s, awaits):
                    assert until_s > now
                    assert awaits in REASONS
                    wake_s = until_s
                case Drop(waiting):
                    assert queue.leave(waiting)
                    ended.append(waiting)
                case Dispatch(bucket, rows, reason):
                    assert 1 <= rows <= cap
                    assert reason in REASONS
                    batch = queue.take(bucket, rows)
                    assert sum(each.rows for each in batch) == rows or len(batch) == 1
                    ended += batch
                    seconds = 0.005 + 0.001 * rows
                    running.append((now + seconds, sum(each.rows for each in batch), seconds))
        arrives_s = coming[0].arrived_s if coming else NEVER
        now = min(wake_s, arrives_s, *(each[0] for each in running))
    assert len(ended) == len(script)
    assert set(ended) == to_end
    for shape in range(3):
        order = [each.arrived_s for each in ended if each.bucket == shape]
        assert order == sorted(order)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize(("slo_s", "most"), [(0.03, 64), (0.03, 2), (0.003, 64), (10.0, 40)])
def test_a_grid_is_small_and_its_batches_are_in_time(name: str, slo_s: float, most: int) -> None:
    def typical(size: int) -> float:
        return 0.002 + 0.001 * size

    grid = GRIDS[name](slo_s, typical, most)
    tried = [point.keywords for point in grid]
    assert 1 < len(tried) <= 12
    assert all(tried.count(each) == 1 for each in tried)
    assert all(1 <= each["most"] <= most and typical(each["most"]) <= slo_s for each in tried)
    for point in grid:
        assert decide(point(), queue_of(*arriving(1.0)), 1.0)


def test_a_grid_tries_the_largest_batch_in_time_and_the_largest_in_time_behind_another() -> None:
    grid = GRIDS["litserve"](0.03, lambda size: 0.002 + 0.001 * size, 64)
    assert {point.keywords["most"] for point in grid} == {16, 8}
    assert {point.keywords["timeout_s"] for point in grid} >= {0.0, 0.015}
    grid = GRIDS["mlserver"](0.03, lambda size: 0.002 + 0.001 * size, 64)
    assert {point.keywords["window_s"] for point in grid} >= {0.0, 0.03, 0.06}
