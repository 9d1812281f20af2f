"""The scheduler, watched from outside in random worlds; and the watch, on bugs planted into it."""

import pytest
from benchmarks._planted import PLANTED
from benchmarks.schedulers import draw, look_for, play

from paceline.flow.queue import Waiting
from paceline.serve.batch import Tuning
from paceline.serve.classes import classes
from paceline.testing.core_watch import Violated, WatchedCore

REQUESTS = 60_000
CHUNK = 2_500
WORLDS = 8
"""of so many requests each, by default; all with `--slow`"""
CHUNK_OF_BUG = 500
SEEDS_OF_BUG = range(1_000_030, 1_000_100)
"""Of which the first few hold each of them; any others would, but some need more time."""


@pytest.mark.parametrize(
    "seed",
    [
        *range(WORLDS),
        *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(WORLDS, REQUESTS // CHUNK)),
    ],
)
def test_no_promise_is_broken_in_whatever_world(seed: int) -> None:
    outcome = play(seed, CHUNK)
    assert not outcome.violation, f"seed={seed}: {outcome.violation}\n{draw(seed, CHUNK)}"
    assert sum(outcome.ends) == outcome.requests > CHUNK / 2


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_bug_is_found(planted: str) -> None:
    found = look_for(planted, CHUNK_OF_BUG, SEEDS_OF_BUG)
    assert found.sentence, f"not in {found.requests} requests"
    print(f"seed={found.seed}, after {found.requests} requests: {found.sentence}")


@pytest.mark.parametrize("seed", [0, 3])
def test_the_same_seed_gives_the_same_to_the_last_bit_watched_or_not(seed: int) -> None:
    first = play(seed, CHUNK)
    assert play(seed, CHUNK) == first
    assert play(seed, CHUNK, watch=False) == first
    assert play(seed + 1, CHUNK).digest != first.digest


def come(core: WatchedCore, now: float) -> Waiting:
    newcomer = Waiting(1, "a", 1, 10, now, now + 0.1, now + 30)
    assert core.arrive(now, newcomer) is None
    return newcomer


@pytest.fixture
def core() -> WatchedCore:
    return WatchedCore(lambda waiting, end: None, classes(None), Tuning(max_batch=4))


def test_a_good_end_is_one_where_nobody_is_open(core: WatchedCore) -> None:
    core.check_end()
    come(core, 0.0)
    with pytest.raises(Violated, match=r"at the end request 1 \(rank 1, .* is open"):
        core.check_end()
    batch = core.next(0.0)
    assert batch is not None
    with pytest.raises(Violated, match="1 batches run"):
        core.check_end()
    core.done(0.5, batch)
    core.check_end()


def test_what_the_queue_really_holds_is_looked_at_too(
    core: WatchedCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counters that agree with each other say little of it."""
    core.queue.leave(come(core, 0.0))
    core.queue.put(Waiting(1, "a", 1, 10, 0.0, 0.1, 1.0))
    monkeypatch.setattr("paceline.testing.core_watch.SCAN_EVERY", 1)
    with pytest.raises(Violated, match="holds 1 that it should not, and lacks 1"):
        come(core, 0.0)


def test_a_burst_that_meets_an_empty_queue_is_let_in_however_long_a_batch_runs(
    core: WatchedCore,
) -> None:
    """The watch would tell of whoever is refused as if the queue had stood for as long."""
    come(core, 0.0)
    assert core.next(0.0) is not None
    for _ in range(200):
        come(core, 5.0)
