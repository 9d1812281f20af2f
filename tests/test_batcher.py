"""What each policy decides: how much to run, when, and for which of the named reasons."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws import examples
from paceline.flow.queue import NEVER, Bucket, Queue, Waiting
from paceline.serve.batcher import (
    REASONS,
    Adaptive,
    AtOnce,
    Dispatch,
    Drop,
    Dynamic,
    Hold,
    LatencyOptimized,
    Policy,
    fixed,
)
from paceline.serve.latency import LatencyModel

LOW, NORMAL, HIGH = 0, 1, 2


def learned(bucket: Bucket) -> LatencyModel:
    """2 ms and 1 ms a row, without scatter."""
    model = LatencyModel()
    for size in range(1, 65):
        model.observe(size, 0.002 + 0.001 * size)
    return model


def queue_of(
    *ranks: int, arrived_s: float = 0.0, deadline_s: float = NEVER, bucket: int = 0
) -> Queue:
    queue = Queue(1000, 1)
    for rank in ranks:
        queue.put(Waiting(rank, bucket, 1, 0, arrived_s, arrived_s + 1 - rank / 10, deadline_s))
    return queue


def decide(policy: Policy, queue: Queue, now: float = 0.0, cap: int = 16) -> Dispatch | Hold | Drop:
    return policy.decide(now, queue, learned, cap)


def first_of(queue: Queue) -> Waiting:
    first = queue.first()
    assert first is not None
    return first


def test_the_default_never_waits_for_company() -> None:
    assert decide(AtOnce(), queue_of(NORMAL)) == Dispatch(0, 1, "idle worker")
    assert decide(AtOnce(), queue_of(*[NORMAL] * 5)) == Dispatch(0, 5, "idle worker")
    assert decide(AtOnce(), queue_of(*[NORMAL] * 99)) == Dispatch(0, 16, "size reached")


def test_the_default_runs_as_many_as_let_the_first_be_in_time() -> None:
    queue = queue_of(*[NORMAL] * 12, deadline_s=0.0105)
    assert decide(AtOnce(), queue) == Dispatch(0, 8, "deadline near")
    assert decide(AtOnce(), queue, now=0.001) == Dispatch(0, 7, "deadline near")
    assert decide(AtOnce(), queue, now=0.005) == Dispatch(0, 3, "deadline near")


def test_the_default_gives_up_who_would_be_late_and_who_would_make_many_late() -> None:
    hopeless = queue_of(NORMAL, deadline_s=0.0025)
    assert decide(AtOnce(), hopeless) == Drop(first_of(hopeless))
    crowd = queue_of(NORMAL, deadline_s=0.0035)
    alone = decide(AtOnce(), crowd)
    assert alone == Dispatch(0, 1, "idle worker")
    for _ in range(15):
        crowd.put(Waiting(NORMAL, 0, 1, 0, 0.0, 0.95, 0.019))
    assert decide(AtOnce(), crowd) == Drop(first_of(crowd)), "the others have time for all of them"
    patient = queue_of(NORMAL, deadline_s=0.0035)
    for _ in range(15):
        patient.put(Waiting(NORMAL, 0, 1, 0, 0.0, 0.95, 0.1))
    assert decide(AtOnce(), patient) == Dispatch(0, 1, "deadline near"), "the others can wait"


def test_a_request_of_several_rows_is_not_given_up_for_its_own_rows() -> None:
    """By the quantile it would be late, in the median it would not."""
    scattered = LatencyModel()
    for number in range(300):
        scattered.observe(4, (0.0025, 0.004, 0.006)[number % 3])
    assert scattered.typical(4) < 0.005 < scattered.at(4)
    queue = Queue(1000, 1)
    queue.put(Waiting(NORMAL, 0, 4, 0, 0.0, 1.0, 0.005))
    decision = AtOnce().decide(0.0, queue, lambda bucket: scattered, 16)
    assert decision == Dispatch(0, 4, "deadline near")


def test_the_default_runs_no_more_than_makes_more_of_an_executor() -> None:
    """No fixed cost: company only makes others wait."""
    linear = LatencyModel()
    for size in range(1, 17):
        linear.observe(size, 0.001 * size)
    found = AtOnce().decide(0.0, queue_of(*[NORMAL] * 9), lambda _: linear, 16)
    assert found == Dispatch(0, 1, "adaptive")
    assert decide(AtOnce(0.0061), queue_of(*[NORMAL] * 9)) == Dispatch(0, 4, "adaptive")


def test_the_default_serves_the_bucket_of_the_earliest_target() -> None:
    queue = queue_of(LOW, LOW, LOW)
    queue.put(Waiting(HIGH, 1, 1, 0, 0.0, 0.01, NEVER))
    assert decide(AtOnce(), queue) == Dispatch(1, 1, "idle worker")


def test_dynamic_waits_until_one_of_its_reasons_holds() -> None:
    policy = Dynamic(fewest=2, most=8, wait_s=0.05)
    assert decide(policy, queue_of(*[NORMAL] * 8)) == Dispatch(0, 8, "size reached")
    assert decide(policy, queue_of(*[HIGH] * 4)) == Dispatch(0, 4, "high priority")
    assert decide(policy, queue_of(*[NORMAL] * 4)) == Hold(0.05, "wait exceeded")
    assert decide(policy, queue_of(*[NORMAL] * 4), now=0.05) == Dispatch(0, 4, "wait exceeded")
    assert decide(policy, queue_of(NORMAL), now=9.0) == Hold(NEVER, "size reached")
    near = queue_of(NORMAL, deadline_s=0.043)
    held = decide(policy, near)
    assert isinstance(held, Hold)
    assert held.until_s == pytest.approx(0.04)
    assert held.awaits == "deadline near"
    assert decide(policy, near, now=0.0401) == Dispatch(0, 1, "deadline near")


def test_one_shape_that_waits_does_not_hold_up_another() -> None:
    policy = fixed(4, 0.05)
    queue = queue_of(HIGH)
    for _ in range(4):
        queue.put(Waiting(LOW, "other", 1, 0, 0.0, 5.0, NEVER))
    assert decide(policy, queue) == Dispatch("other", 4, "size reached")


def test_adaptive_follows_the_measured_latency_within_its_bounds() -> None:
    policy = Adaptive()
    assert decide(policy, queue_of(NORMAL)) == Dispatch(0, 1, "adaptive")
    for _ in range(100):
        policy.ran(0.0, policy.most, 0.002)
    assert policy.most == 16
    policy.ran(0.0, 16, 0.025)
    assert policy.most == 16
    policy.ran(0.0, 16, 0.031)
    assert policy.most == 14
    for _ in range(100):
        policy.ran(0.0, policy.most, 1.0)
    assert policy.most == 1


def test_latency_optimized_lets_company_cost_little() -> None:
    assert decide(LatencyOptimized(0.5), queue_of(*[NORMAL] * 9)) == Dispatch(0, 2, "idle worker")
    assert decide(LatencyOptimized(0.0), queue_of(*[NORMAL] * 9)) == Dispatch(0, 1, "idle worker")


arrivals = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(1, 20), st.floats(0, 1)),
    min_size=1,
    max_size=40,
)


@given(
    arrivals,
    st.sampled_from([AtOnce, Adaptive, LatencyOptimized, lambda: Dynamic(2, 8, 0.05)]),
    st.integers(1, 16),
    st.floats(0, 2),
)
@examples(200)
def test_whatever_waits_a_decision_can_be_carried_out(
    waiting: list[tuple[int, int, int, float]], make: type[Policy], cap: int, now: float
) -> None:
    queue = Queue(1000, 1)
    for rank, bucket, ms, deadline_s in waiting:
        queue.put(Waiting(rank, bucket, 1, 0, 0.0, ms / 1e3, deadline_s or NEVER))
    match make().decide(now, queue, learned, cap):
        case Dispatch(chosen, rows, reason):
            assert 1 <= rows <= min(cap, queue.rows(chosen))
            assert reason in REASONS
            assert sum(each.rows for each in queue.take(chosen, rows)) == rows
        case Hold(until_s, awaits):
            assert until_s > now
            assert awaits in REASONS
        case Drop(dropped):
            assert queue.leave(dropped)
            assert dropped.deadline_s < now + 0.018
