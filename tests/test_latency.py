"""What the latency model promises: a right median, a quantile that holds, also after a drift."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.clock import Chance
from paceline.serve.latency import LatencyModel

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
@settings(max_examples=200, deadline=None)
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
