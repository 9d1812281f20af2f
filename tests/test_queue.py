"""The queue against a plain model of it: order, bounds, shedding, deadlines, and nobody starves."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws import examples
from paceline.flow.queue import NEVER, RANKS, Queue, Waiting
from paceline.terms.errors import Overloaded

OFFSETS_S = (0.5, 0.1, 0.03, 0.01)
"""From arrival to target, by rank."""

MOST = 12
MOST_BYTES = 100

Step = tuple[str, int, int, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "take", "leave", "expire", "pass"]),
        st.integers(0, RANKS - 1),
        st.integers(0, 2),
        st.integers(1, 3),
        st.integers(0, 40),
    ),
    max_size=120,
)


class Plain:
    """The same, as simply as it can be said."""

    def __init__(self) -> None:
        self.all: list[Waiting] = []

    def put(self, new: Waiting) -> list[Waiting] | None:
        shed: list[Waiting] = []
        left = list(self.all)
        while len(left) + 1 > MOST or sum(w.size_bytes for w in left) + new.size_bytes > MOST_BYTES:
            lower = [each for each in left if each.rank < new.rank]
            if not lower:
                return None
            lowest = min(each.rank for each in lower)
            victim = max(
                (each for each in lower if each.rank == lowest), key=lambda each: each.arrived_s
            )
            left.remove(victim)
            shed.append(victim)
        self.all = [*left, new]
        return shed

    def take(self, bucket: int, most_rows: int) -> list[Waiting]:
        mine = [each for each in self.all if each.bucket == bucket]
        mine.sort(key=lambda each: (each.target_s, each.rank))
        taken: list[Waiting] = []
        for each in mine:
            if taken and sum(w.rows for w in taken) + each.rows > most_rows:
                break
            taken.append(each)
        self.all = [each for each in self.all if each not in taken]
        return taken


@given(steps)
@examples(300)
def test_it_does_what_a_plain_queue_does(script: list[Step]) -> None:
    queue, plain, now = Queue(MOST, MOST_BYTES), Plain(), 0.0
    for what, rank, bucket, rows, number in script:
        now += 0.001
        match what:
            case "put":
                new = Waiting(
                    rank, bucket, rows, number, now, now + OFFSETS_S[rank], now + number / 100
                )
                expected = plain.put(new)
                if expected is None:
                    with pytest.raises(Overloaded):
                        queue.put(new)
                else:
                    assert queue.put(new) == expected
            case "take":
                assert queue.take(bucket, number) == plain.take(bucket, number)
            case "leave" if plain.all:
                gone = plain.all.pop(number % len(plain.all))
                assert queue.leave(gone)
                assert not queue.leave(gone)
            case "expire":
                expired = {each for each in plain.all if each.deadline_s <= now}
                assert set(queue.expired(now)) == expected_gone(plain, expired)
            case "pass":
                now += number / 100
        agree(queue, plain, now)


def expected_gone(plain: Plain, expired: set[Waiting]) -> set[Waiting]:
    plain.all = [each for each in plain.all if each not in expired]
    return expired


def agree(queue: Queue, plain: Plain, now: float) -> None:
    assert set(queue) == set(plain.all)
    assert len(queue) == len(plain.all) <= MOST
    assert queue.held_bytes == sum(each.size_bytes for each in plain.all) <= MOST_BYTES
    assert queue.held_by_rank == [
        sum(each.rank == rank for each in plain.all) for rank in range(RANKS)
    ]
    for bucket in range(3):
        assert queue.rows(bucket) == sum(e.rows for e in plain.all if e.bucket == bucket)
    assert queue.next_deadline() == min((e.deadline_s for e in plain.all), default=NEVER)
    assert queue.oldest() == min((e.arrived_s for e in plain.all), default=NEVER)
    first = queue.first()
    assert (first and first.target_s) == min((e.target_s for e in plain.all), default=None)
    assert {each.bucket for each in queue.heads()} == {each.bucket for each in plain.all}
    assert queue.at_risk(now) == sum(
        now - e.arrived_s > 0.8 * (e.target_s - e.arrived_s) for e in plain.all
    )
    ahead = dict(queue.rows_ahead(NEVER))
    assert ahead == {
        bucket: pytest.approx(queue.rows(bucket)) for bucket in range(3) if queue.rows(bucket)
    }


def waiting(rank: int, now: float, *, deadline_s: float = NEVER, bucket: int = 0) -> Waiting:
    return Waiting(rank, bucket, 1, 0, now, now + OFFSETS_S[rank], deadline_s)


@given(
    st.lists(st.tuples(st.integers(0, RANKS - 1), st.integers(1, 30)), min_size=1, max_size=200),
    st.integers(0, RANKS - 1),
)
def test_whoever_arrives_after_a_target_goes_behind_it(
    arrivals: list[tuple[int, int]], rank: int
) -> None:
    """However much of whatever rank keeps coming, one each step, and one is served each step."""
    queue, now = Queue(10_000, 1), 0.0
    for _ in range(5):
        queue.put(waiting(RANKS - 1, now))
    patient = waiting(rank, now)
    queue.put(patient)
    overtaking = 0
    for other, ms in itertools.cycle(arrivals):
        now += ms / 1e3
        overtaking += now + OFFSETS_S[other] < patient.target_s
        queue.put(waiting(other, now))
        (served,) = queue.take(0, 1)
        if served is patient:
            break
        assert served.target_s <= patient.target_s
        assert served.arrived_s < patient.target_s
    bound = 5 + overtaking + 1
    assert len(queue) <= bound


def test_within_a_rank_nobody_overtakes_although_targets_were_shortened() -> None:
    queue = Queue(10, 1)
    old = Waiting(1, 0, 1, 0, 0.0, 10.0, NEVER)
    new = Waiting(1, 0, 1, 0, 1.0, 2.0, NEVER)
    queue.put(old)
    queue.put(new)
    assert queue.take(0, 5) == [old, new]


def test_one_that_is_larger_than_a_batch_comes_alone() -> None:
    queue = Queue(10, 1)
    large = Waiting(1, 0, 50, 0, 0.0, 1.0, NEVER)
    queue.put(large)
    queue.put(waiting(1, 0.1))
    assert queue.take(0, 8) == [large]


@pytest.mark.parametrize(
    "leave", [lambda queue, each: queue.leave(each), lambda queue, each: queue.take(each.bucket, 1)]
)
def test_it_keeps_nothing_of_what_has_left(leave: Callable[[Queue, Waiting], object]) -> None:
    """Deadlines far away, and shapes that never come again."""
    queue = Queue(100, 1)
    for number in range(20_000):
        each = waiting(1, number / 1e3, deadline_s=number / 1e3 + 30, bucket=number)
        queue.put(each)
        leave(queue, each)
    assert len(queue._deadlines) < 1000
    assert len(queue._lanes) < 100
