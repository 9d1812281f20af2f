"""What is promised of change points, of Student's t and of trends, by laws and by planted cases."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from laws import examples
from paceline.stats.shifts import _best, difference, shifts
from paceline.stats.student import reach, two_sided
from paceline.stats.trend import trend

Numbers = NDArray[np.float64]

series_of = st.lists(
    st.floats(0.5, 20.0, allow_nan=False).map(lambda each: round(each, 3)),
    min_size=10,
    max_size=80,
).map(np.array)


def noise(seed: int, length: int = 200, scatter: float = 0.1) -> Numbers:
    die = np.random.default_rng(seed)
    made: Numbers = np.exp(scatter * die.standard_normal(length))
    return made


def test_a_shift_is_found_where_it_was_planted_and_told_as_large_as_it_is() -> None:
    found_near = 0
    for seed in range(20):
        values = noise(seed)
        values[120:] *= 1.2
        found = shifts(values)
        near = [each for each in found if abs(each.at - 120) <= 5]
        found_near += bool(near)
        for each in near:
            assert each.low <= each.change <= each.high
            assert abs(each.change - 0.2) < 0.15
            assert each.after > each.before
    assert found_near >= 19


def test_noise_alone_has_no_shifts() -> None:
    told = [len(shifts(noise(seed))) for seed in range(100)]
    assert sum(told) <= 3


def test_neighbours_that_are_alike_are_no_shift() -> None:
    """Each value is mostly the one before: it wanders, and goes nowhere for good."""
    told = 0
    for seed in range(40):
        die = np.random.default_rng(seed)
        steps = 0.05 * die.standard_normal(200)
        values = np.empty(200)
        values[0] = 0.0
        for at in range(1, 200):
            values[at] = 0.7 * values[at - 1] + steps[at]
        told += len(shifts(np.exp(values)))
    assert told <= 4


def test_spikes_are_no_shifts_and_hide_none() -> None:
    values = noise(3)
    values[::17] *= 30.0
    assert shifts(values) == []
    values[100:] *= 1.3
    assert [each for each in shifts(values) if abs(each.at - 100) <= 5]


def test_a_small_shift_is_found_by_a_long_look() -> None:
    """5 % in noise of 10 %: in fifty values nobody could tell."""
    values = noise(1, 2000)
    values[1000:] *= 1.05
    found = shifts(values)
    assert len(found) == 1
    assert abs(found[0].at - 1000) <= 60
    assert found[0].low > 0.02


def test_several_shifts_are_told_in_order() -> None:
    values = noise(5, 400)
    values[100:200] *= 1.5
    values[200:] *= 0.7
    at = [each.at for each in shifts(values)]
    assert at == sorted(at)
    assert len(at) == 2
    assert abs(at[0] - 100) <= 3
    assert abs(at[1] - 200) <= 3


def test_a_series_that_stands_still_or_is_short_has_none() -> None:
    assert shifts(np.full(100, 7.0)) == []
    assert shifts(np.zeros(100)) == []
    assert shifts(np.array([1.0, 2.0])) == []
    steps = shifts(np.repeat([1.0, 2.0], 30))
    assert [each.at for each in steps] == [30]


def test_less_than_the_magnitude_is_not_told() -> None:
    values = noise(2, 400, scatter=0.01)
    values[200:] *= 1.05
    assert shifts(values, magnitude=0.03)
    assert not shifts(values, magnitude=0.10)


@given(st.integers(0, 1000), st.floats(1.5, 3.0), st.sampled_from([0.25, 3.0, 1000.0]))
@examples(25)
def test_the_unit_does_not_matter(seed: int, grows: float, unit: float) -> None:
    values = noise(seed, 80)
    values[40:] *= grows
    places = [each.at for each in shifts(values, chance=0.05)]
    assert places
    assert places == [each.at for each in shifts(values * unit, chance=0.05)]


@given(series_of)
@examples(40)
def test_twice_is_the_same_and_a_change_lies_in_its_interval(values: Numbers) -> None:
    found = shifts(values, chance=0.05)
    assert found == shifts(values, chance=0.05)
    for each in found:
        assert 0 < each.at < len(values)
        assert each.low <= each.change <= each.high


@given(series_of)
@examples(40)
def test_the_cut_is_where_the_definition_says(values: Numbers) -> None:
    def measure(at: int) -> float:
        left, right = values[:at], values[at:]
        m, n = len(left), len(right)
        across = np.abs(left[:, None] - right[None, :]).sum() * 2 / (m * n)
        first = np.abs(left[:, None] - left[None, :]).sum() / max(1, m * (m - 1))
        second = np.abs(right[:, None] - right[None, :]).sum() / max(1, n * (n - 1))
        return float(m * n / (m + n) * (across - first - second))

    found = _best(values, 5)
    most = max(measure(at) for at in range(5, len(values) - 4))
    assert measure(found) == pytest.approx(most, rel=1e-6, abs=1e-9)


def test_two_series_differ_by_what_they_differ() -> None:
    first, second = noise(1, 100), noise(2, 100) * 1.1
    found = difference(first, second)
    assert found.low < 0.1 < found.high
    assert found.chance < 0.001
    assert difference(first, noise(3, 100)).chance > 0.01


# --- Student's t ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("t", "freedom", "chance"),
    [(12.706, 1, 0.05), (2.228, 10, 0.05), (3.390, 100, 0.001), (1.960, 1e6, 0.05), (0.0, 5, 1.0)],
)
def test_chances_are_those_of_the_tables(t: float, freedom: float, chance: float) -> None:
    assert two_sided(t, freedom) == pytest.approx(chance, rel=2e-3)
    assert two_sided(-t, freedom) == two_sided(t, freedom)


@given(st.floats(0.5, 0.999), st.floats(1.0, 500.0))
@examples(40)
def test_reach_is_the_way_back(confidence: float, freedom: float) -> None:
    assert two_sided(reach(confidence, freedom), freedom) == pytest.approx(1 - confidence, rel=1e-6)


def test_the_ends_of_chance() -> None:
    assert two_sided(math.inf, 3) == 0.0
    assert two_sided(math.nan, 3) == 1.0


# --- Trends ---------------------------------------------------------------------------------------


def test_a_trend_lies_within_its_interval_and_odd_values_do_not_move_it() -> None:
    line = np.linspace(1.0, 1.5, 300)
    values = line * noise(4, 300, scatter=0.05)
    values[::29] *= 10.0
    found = trend(values)
    assert found is not None
    assert found.certain
    assert found.low < 0.4 < found.high
    assert abs(found.growth - 0.4) < 0.08


def test_noise_has_no_certain_trend() -> None:
    certain = 0
    for seed in range(40):
        found = trend(noise(seed, 120))
        assert found is not None
        certain += found.certain
    assert certain <= 6


def test_of_too_few_values_no_trend_is_told() -> None:
    assert trend(np.ones(4)) is None
    assert trend(np.zeros(40)) is None
