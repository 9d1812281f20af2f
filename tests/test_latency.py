"""What the latency model promises: a right median, a quantile that holds, also after a drift; which
sizes fit into a time, and which pay."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws import examples
from paceline.clock import Chance
from paceline.serve.latency import EFFICIENT, TRIED_AGAIN, LatencyModel

SIZES = (1, 2, 3, 5, 8, 13, 16, 24, 32)


def truth_s(size: int) -> float:
    """Not a line: a step at 16, as where a cache or a vector ends."""
    return 0.002 + 0.0004 * size + (0.003 if size > 16 else 0.0)


def scattered_s(size: int, chance: Chance, scale: float = 1.0) -> float:
    """Mostly close, sometimes half as much again."""
    noise = 1 + 0.1 * chance.exponential(1.0)
    return truth_s(size) * scale * (noise if chance.uniform() < 0.95 else 1.5)


def taught(chance: Chance, batches: int, scale: float = 1.0) -> LatencyModel:
    model = LatencyModel()
    for _ in range(batches):
        size = chance.choice(SIZES)
        model.observe(size, scattered_s(size, chance, scale))
    return model


def share_within(model: LatencyModel, chance: Chance, scale: float) -> float:
    kept = 0
    for _ in range(1000):
        size = chance.choice(SIZES)
        kept += scattered_s(size, chance, scale) <= model.at(size)
    return kept / 1000


@pytest.mark.parametrize("seed", range(5))
def test_the_median_is_right_and_the_quantile_is_kept(seed: int) -> None:
    chance = Chance(seed)
    model = taught(chance, 400)
    for size in range(1, 33):
        assert model.typical(size) == pytest.approx(truth_s(size) * 1.07, rel=0.25)
    assert 0.90 <= share_within(model, chance, 1.0) <= 0.99


@pytest.mark.parametrize("scale", [0.5, 1.4, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_after_a_drift_it_is_right_again_soon(seed: int, scale: float) -> None:
    chance = Chance(seed)
    model = taught(chance, 300)
    for _ in range(60):
        size = chance.choice(SIZES)
        model.observe(size, scattered_s(size, chance, scale))
    assert model.drifts >= 1
    for size in SIZES:
        assert model.typical(size) == pytest.approx(truth_s(size) * scale * 1.07, rel=0.3)
    assert share_within(model, chance, scale) >= 0.85


@pytest.mark.parametrize("seed", range(3))
def test_what_slows_all_sizes_down_is_known_of_sizes_not_run_meanwhile(seed: int) -> None:
    chance = Chance(seed)
    model = taught(chance, 400)
    for _ in range(15):
        size = chance.choice(SIZES[:4])
        model.observe(size, scattered_s(size, chance, 1.2))
    assert model.drifts == 0
    assert model.typical(32) == pytest.approx(truth_s(32) * 1.2 * 1.07, rel=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_sizes_that_change_each_in_their_own_way_are_learned_anew(seed: int) -> None:
    """Four times the fixed part, and the same for each row."""
    chance = Chance(seed)
    model = taught(chance, 2000)
    for _ in range(60):
        size = chance.choice(SIZES)
        model.observe(size, scattered_s(size, chance) + 0.006)
    for size in SIZES:
        assert model.typical(size) == pytest.approx(truth_s(size) * 1.07 + 0.006, rel=0.15)


@pytest.mark.parametrize("seed", range(3))
def test_after_a_single_change_the_quantile_is_as_close_as_before(seed: int) -> None:
    chance = Chance(seed)
    model = taught(chance, 150)
    before = model.at(8) / model.typical(8)
    for _ in range(30):
        size = chance.choice(SIZES)
        model.observe(size, scattered_s(size, chance, 2.0))
    assert model.at(8) / model.typical(8) == pytest.approx(before, rel=0.15)


@pytest.mark.parametrize("seed", range(3))
def test_the_quantile_holds_where_the_world_swings_all_the_time(seed: int) -> None:
    chance = Chance(seed)
    model = taught(chance, 300)
    kept = 0
    for batch in range(1000):
        size = chance.choice(SIZES)
        took_s = scattered_s(size, chance, 1.0 if batch % 80 < 40 else 1.6)
        kept += took_s <= model.at(size)
        model.observe(size, took_s)
    assert 0.93 <= kept / 1000 <= 0.98


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_seldom_taken_for_a_drift(seed: int) -> None:
    assert taught(Chance(seed), 2000).drifts <= 1


def test_a_size_never_seen_lies_on_the_line_through_the_others() -> None:
    model = LatencyModel()
    for size in (1, 8):
        for _ in range(40):
            model.observe(size, 0.001 + 0.0005 * size)
    assert model.typical(4) == pytest.approx(0.003, rel=0.01)
    assert model.typical(64) == pytest.approx(0.033, rel=0.01)


def test_with_one_size_each_row_costs_the_same() -> None:
    model = LatencyModel()
    model.observe(4, 0.008)
    assert model.typical(8) == pytest.approx(0.016, rel=0.01)


observed = st.lists(st.tuples(st.integers(1, 40), st.floats(1e-6, 10.0)), min_size=1, max_size=80)


@given(observed, st.floats(1e-7, 100.0), st.integers(1, 60))
@examples(100)
def test_whatever_was_seen_more_rows_never_take_less_and_the_largest_that_fits_is_found(
    batches: list[tuple[int, float]], seconds: float, most: int
) -> None:
    model = LatencyModel()
    for size, took_s in batches:
        model.observe(size, took_s)
    expected = [model.at(size) for size in range(1, 61)]
    assert expected == sorted(expected)
    largest = model.largest_within(seconds, most)
    brute = max((size for size in range(1, most + 1) if model.at(size) <= seconds), default=0)
    assert abs(largest - brute) <= 1
    if largest:
        assert model.at(largest) <= seconds * (1 + 1e-9)
    else:
        assert model.at(1) > seconds * (1 - 1e-9)


@given(observed, st.integers(1, 60))
@examples(100)
def test_whatever_was_seen_an_efficient_size_is_the_smallest_with_nearly_the_best_throughput(
    batches: list[tuple[int, float]], most: int
) -> None:
    model = LatencyModel()
    for size, took_s in batches:
        model.observe(size, took_s)
    sizes = [size for size, _ in batches]
    if max(sizes) < 1.25 * min(sizes) or len(batches) == TRIED_AGAIN:
        return  # then it does not say
    rows_per_s = [size / model.typical(size) for size in range(1, most + 1)]
    wanted = EFFICIENT * max(rows_per_s)
    efficient = model.efficient(most)
    assert rows_per_s[efficient - 1] >= wanted * (1 - 1e-6)
    assert all(rate < wanted * (1 + 1e-6) for rate in rows_per_s[: efficient - 1])


def test_a_batch_is_no_larger_than_pays() -> None:
    """From 16 rows on each costs a third more, as where memory is asked for anew each time."""
    model = LatencyModel()
    for _ in range(21):
        for size in range(1, 33):
            model.observe(size, 0.001 + 0.005 * size * (1.0 if size < 16 else 1.33))
    assert model.efficient(2) == 2
    assert model.efficient(32) < 16
    assert model.efficient(1000) == model.efficient(32)


def test_where_the_fixed_part_is_large_more_rows_pay_also_more_than_were_ever_run() -> None:
    model = LatencyModel()
    for _ in range(5):
        for size in (1, 2, 4, 8):
            model.observe(size, 0.01 + 0.0001 * size)
    assert model.efficient(8) == 8
    assert model.efficient(100) == pytest.approx(99, abs=1)


def test_a_single_size_says_nothing_of_what_others_pay() -> None:
    model = LatencyModel()
    for _ in range(100):
        model.observe(1, 0.001)
    assert model.efficient(32) == 32


def test_a_size_that_looked_bad_when_it_was_new_is_tried_again() -> None:
    """All is as fast with 16 rows as with one, but the first few times were slow."""
    model = LatencyModel()
    for size in (1, 1, 2, 2, 16, 16, 16):
        model.observe(size, 0.001 * size)
    assert model.efficient(16) == 1
    for _ in range(10 * TRIED_AGAIN):
        model.observe(model.efficient(16), 0.001)
    assert model.efficient(16) == 16


def test_a_clock_that_stands_still_does_no_harm() -> None:
    model = LatencyModel()
    for size in (1, 8, 1, 8, 1, 8, 1, 8):
        model.observe(size, 0.0)
    assert 0 < model.at(8) < 1e-6


def test_what_one_size_scatters_teaches_nothing_of_the_others() -> None:
    """A level learned from a single size would wander with its noise and take all others along."""
    chance = Chance(11)
    model = LatencyModel()
    for size in (1, 2, 4, 8, 16, 32, 64):
        for _ in range(2):
            model.observe(size, 0.001 + 0.008 * size)
    for _ in range(5000):
        model.observe(1, 0.009 * math.exp(chance.uniform(-0.2, 0.2)))
    for size in (1, 3, 8, 20, 64):
        assert model.typical(size) == pytest.approx(0.001 + 0.008 * size, rel=0.12)
