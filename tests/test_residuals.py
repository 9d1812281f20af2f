"""What is promised of anomalies: what lasts and does not fit is told, what belongs there is not."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from paceline.stats.residuals import Rule, anomalies, season

RULE = Rule(window=100, threshold=6.0, persistence=3, learning=100, quiet=20)

Numbers = NDArray[np.float64]


def level(seed: int, length: int = 600) -> Numbers:
    return 10.0 + np.random.default_rng(seed).standard_normal(length)


def daily(seed: int, days: int = 8, day: int = 96) -> Numbers:
    wave = 10.0 * np.sin(2 * np.pi * np.arange(days * day) / day)
    return 20.0 + wave + np.random.default_rng(seed).standard_normal(days * day)


def test_a_stretch_that_does_not_fit_is_told_where_it_is() -> None:
    values = level(1)
    values[400:412] += 15.0
    found = anomalies(values, RULE)
    assert len(found) == 1
    assert 400 <= found[0].begin <= 404
    assert found[0].end <= 415
    assert found[0].score > 1.5
    assert abs(found[0].expected - 10.0) < 1.0
    assert abs(found[0].found - 25.0) < 2.0


def test_one_value_is_not_enough() -> None:
    values = level(2)
    values[400] += 50.0
    assert anomalies(values, RULE) == []


def test_nothing_is_told_of_noise() -> None:
    assert sum(len(anomalies(level(seed), RULE)) for seed in range(20)) == 0


def test_spikes_that_belong_to_the_series_are_not_told_and_larger_ones_are() -> None:
    values = level(3, 1200)
    for at in range(10, 1200, 60):
        values[at : at + 4] += 12.0
    assert anomalies(values, RULE) == []
    values[900:906] += 60.0
    assert [each.begin for each in anomalies(values, RULE) if 898 <= each.begin <= 906]


def test_a_season_is_found_where_there_is_one_and_only_there() -> None:
    assert season(daily(1), (96, 7 * 96), 96) == 96
    assert season(level(1, 800), (96,), 96) is None
    assert season(daily(1)[:150], (96,), 96) is None


def test_what_is_odd_at_its_time_of_day_is_told() -> None:
    values = daily(2)
    night = 5 * 96 + 60
    values[night : night + 12] += 14.0  # as high as it is by day, in the night
    rule = Rule(window=96, threshold=6.0, persistence=3, learning=3 * 96, quiet=20)
    assert [each for each in anomalies(values, rule, 96) if night <= each.begin <= night + 6]
    assert not anomalies(daily(2), rule, 96)


def test_what_comes_later_changes_nothing_that_was_told() -> None:
    values = level(5)
    values[300:320] -= 20.0
    whole = anomalies(values, RULE)
    cut = anomalies(values[:350], RULE)
    assert [each.begin for each in whole if each.end < 330] == [each.begin for each in cut]


@given(st.integers(0, 1000), st.sampled_from([0.5, 8.0, 1024.0]), st.floats(-100, 100))
@settings(max_examples=20, deadline=None)
def test_unit_and_origin_do_not_matter(seed: int, unit: float, origin: float) -> None:
    values = level(seed, 300)
    values[200:210] += 12.0
    places = [(each.begin, each.end) for each in anomalies(values, RULE)]
    assert places == [(each.begin, each.end) for each in anomalies(values * unit + origin, RULE)]


def test_too_short_a_series_says_nothing() -> None:
    assert anomalies(np.ones(50), RULE) == []
    assert anomalies(np.ones(500), RULE) == []
