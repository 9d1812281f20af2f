"""The books of `./bench shifts` and `./bench anomalies`: what is found, what false, what right."""

import numpy as np
import pytest
from benchmarks import anomalies, shifts
from benchmarks.shifts import SHIFTS, Case, Found, better, judged


def case(shift: float, at: int = 100) -> Case:
    return Case("p50 of 1 row", shift, at, np.ones(200))


def test_one_change_near_a_planted_shift_is_found_and_all_others_are_false() -> None:
    several = [case(0.05), case(0.1), case(0.2), case(0.0)]
    found = judged(several, [[95], [108, 40], [50], [10, 20]])
    assert found.recall == {0.05: 1.0, 0.1: 1.0, 0.2: 0.0}
    assert found.false == pytest.approx(2 / 3)
    assert found.quiet == 2.0


def test_parameters_that_tell_little_that_is_false_go_before_those_that_find_more() -> None:
    def of(recall: float, quiet: float) -> Found:
        return Found(dict.fromkeys(SHIFTS, recall), 0.0, quiet)

    assert better(of(0.1, 0.0), None)
    assert better(of(0.1, 0.01), of(0.9, 0.2))
    assert not better(of(0.9, 0.2), of(0.1, 0.01))
    assert better(of(0.5, 0.04), of(0.4, 0.0))
    assert better(of(0.1, 0.1), of(0.9, 0.2))


def test_cases_are_the_same_for_a_seed_and_have_what_was_planted() -> None:
    noise = {kind: [np.full(100, 2.0), np.full(100, 3.0)] for kind in shifts.KINDS}
    made = shifts.cases(noise, 2, seed=7)
    again = shifts.cases(noise, 2, seed=7)
    assert [each.at for each in made] == [each.at for each in again]
    assert len(made) == len(shifts.KINDS) * (1 + len(SHIFTS)) * 2
    for each in made:
        assert set(each.values[: each.at]) == {1.0}
        assert set(each.values[each.at :]) == {1.0 + each.shift}


def test_an_alarm_is_right_where_it_begins_in_a_window() -> None:
    series = anomalies.Series(np.ones(1000), [(100, 200), (300, 400)], 288, None)
    found = anomalies.score(series, [99, 100, 150, 200, 500])
    assert found == anomalies.Score(right=2, alarms=5, found=1, windows=2)
    assert found.precision == pytest.approx(0.4)
    assert found.recall == 0.5
    assert found + found == anomalies.Score(4, 10, 2, 4)


def test_two_sigma_is_what_it_says() -> None:
    values = 10.0 + np.random.default_rng(1).standard_normal(1000)
    values[600:605] += 10.0
    series = anomalies.Series(values, [], 288, None)
    bare = anomalies.two_sigma(series, quiet=1)
    assert 600 in bare
    assert min(bare) >= 288
    for at in bare:
        day = values[at - 288 : at]
        assert abs(values[at] - day.mean()) > 2 * day.std()
    assert len(anomalies.two_sigma(series, quiet=144)) < len(bare)
