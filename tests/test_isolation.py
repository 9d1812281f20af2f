"""What isolation promises: culprits alone get the error, soon, and batches shrink only as far as
that pays."""

import math
from collections.abc import Callable, Collection
from itertools import combinations, cycle
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws import examples
from paceline.clock import Chance
from paceline.serve.isolation import (
    Bisection,
    PoisonRate,
    best_cap,
    expected_goodput,
    first_part,
)

COSTS: dict[str, Callable[[int], float]] = {
    "a row": lambda size: 0.0005 * size,
    "a run and a row": lambda size: 0.004 + 0.0005 * size,
    "a run": lambda size: 0.004,
    "hardly a run": lambda size: 0.0005 + 0.0005 * size,
    "a step": lambda size: 0.002 + 0.0001 * size + (0.003 if size > 16 else 0.0),
}


def bound(members: int) -> float:
    """Runs that one culprit may cost."""
    return 2 * math.log2(members) + 1


class Found(NamedTuple):
    parts: list[list[int]]
    good: list[int]
    culprits: list[int]


def isolate(members: int, culprits: Collection[int]) -> Found:
    """Everything that a pure model runs again, and what came of it."""
    bisection = Bisection(range(members))
    found = Found([], [], [])
    while (part := bisection.next()) is not None:
        ok = not any(each in culprits for each in part)
        settled = bisection.ran(part, ok)
        found.parts.append(list(part))
        found.good.extend(settled.good)
        found.culprits.extend(settled.culprits)
        assert ok or not settled.good
        assert not settled.culprits or list(settled.culprits) == list(part)
    return found


def check(members: int, culprits: Collection[int]) -> Found:
    found = isolate(members, culprits)
    runs = len(found.parts)
    said = members, culprits
    assert found.good == [each for each in range(members) if each not in culprits], said
    assert found.culprits == sorted(culprits), said
    assert runs <= len(culprits) * bound(members), said
    assert runs < 2 * members, said
    return found


def worst_cases(most: int) -> list[int]:
    """By size, what the one culprit may cost where it hides best: in the first part a split costs
    two runs, otherwise one, and one more for a single member that is known bad by deduction."""
    worst = [0, 0]
    for size in range(2, most + 1):
        first = first_part(size)
        rest = size - first
        worst.append(max(2 + worst[first], 1 + (worst[rest] if rest > 1 else 1)))
    return worst


# --- The search -----------------------------------------------------------------------------------


def test_the_bound_holds_for_every_batch_size() -> None:
    worst = worst_cases(4096)
    assert all(worst[size] <= bound(size) for size in range(2, 4097))


def test_no_other_split_has_a_better_worst_case() -> None:
    worst, least = worst_cases(200), [0, 0]
    for size in range(2, 201):
        least.append(
            min(
                max(2 + least[first], 1 + (least[size - first] if size - first > 1 else 1))
                for first in range(1, size)
            )
        )
    assert worst == least


def test_a_lone_culprit_is_found_wherever_it_is() -> None:
    worst = worst_cases(64)
    for members in range(2, 65):
        runs = []
        for culprit in range(members):
            runs.append(len(check(members, {culprit}).parts))
        assert max(runs) == worst[members]


def test_a_lone_culprit_is_found_in_large_batches() -> None:
    chance = Chance(0)
    for members in [4096, 4095, 2584, 2585, *(chance.integer(65, 4096) for _ in range(20))]:
        for culprit in [0, members - 1, *(chance.integer(0, members - 1) for _ in range(4))]:
            check(members, {culprit})


@pytest.mark.slow
def test_a_lone_culprit_is_found_in_every_batch_up_to_512() -> None:
    for members in range(2, 513):
        for culprit in range(members):
            check(members, {culprit})


def test_any_culprits_of_a_small_batch_are_found() -> None:
    for members in range(2, 11):
        alone = [len(isolate(members, {each}).parts) for each in range(members)]
        for count in range(1, members + 1):
            for culprits in combinations(range(members), count):
                together = len(check(members, culprits).parts)
                assert together <= sum(alone[each] for each in culprits)


@given(st.integers(2, 4096), st.integers(1, 40), st.integers(0, 2**32))
@examples(60)
def test_any_culprits_of_a_large_batch_are_found(members: int, count: int, seed: int) -> None:
    chance = Chance(seed)
    check(members, {chance.integer(0, members - 1) for _ in range(count)})


@pytest.mark.parametrize("members", [2, 5, 64, 100, 1000])
def test_if_all_are_culprits_none_costs_two_runs(members: int) -> None:
    check(members, range(members))


def test_what_is_known_bad_by_deduction_is_split_and_not_run_whole() -> None:
    assert isolate(5, {4}).parts == [[0, 1], [2], [3], [4]]
    assert isolate(5, {0}).parts == [[0, 1], [0], [1], [2, 3, 4]]


def test_one_part_at_a_time() -> None:
    bisection = Bisection("abcde")
    part = bisection.next()
    assert part is not None
    assert bisection.next() is None
    bisection.ran(part, True)
    assert bisection.next() == ["c"]


@given(st.integers(2, 200), st.lists(st.booleans(), min_size=1, max_size=50))
@examples(100)
def test_a_model_that_is_not_pure_after_all_ends_too(members: int, outcomes: list[bool]) -> None:
    bisection = Bisection(range(members))
    settled: list[int] = []
    runs = 0
    outcome = cycle(outcomes)
    while (part := bisection.next()) is not None:
        settled.extend(each for some in bisection.ran(part, next(outcome)) for each in some)
        runs += 1
    assert runs < 2 * members
    assert settled == list(range(members))


@given(st.integers(2, 60), st.integers(0, 2**32), st.floats(0, 1), st.floats(0, 1))
@examples(200)
def test_who_has_left_is_not_run_again_and_harms_nobody(
    members: int, seed: int, poison: float, leaving: float
) -> None:
    chance = Chance(seed)
    culprits = {each for each in range(members) if chance.uniform() < poison}
    culprits.add(chance.integer(0, members - 1))
    here = set(range(members))
    bisection = Bisection(range(members))
    runs = left = 0

    def leave() -> None:
        nonlocal left
        if here and chance.uniform() < leaving:
            gone = chance.choice(sorted(here))
            here.remove(gone)
            bisection.drop(gone)
            left += 1

    while True:
        leave()
        part = bisection.next()
        if part is None:
            break
        assert here.issuperset(part)
        runs += 1
        leave()
        settled = bisection.ran(part, culprits.isdisjoint(part))
        assert culprits.isdisjoint(settled.good)
        assert culprits.issuperset(settled.culprits)
        assert not settled.culprits or len(part) == 1
        done = {*settled.good, *settled.culprits}
        assert here >= done
        here -= done
    assert not here
    assert runs <= len(culprits) * bound(members) + left
    assert runs < 2 * members


def test_each_who_leaves_costs_the_others_at_most_one_run() -> None:
    for members in range(2, 25):
        worst = worst_cases(members)[members]
        for culprit in range(members):
            for gone in range(members):
                bisection = Bisection(range(members))
                runs = 0
                while (part := bisection.next()) is not None:
                    if not runs:
                        bisection.drop(gone)
                    bisection.ran(part, culprit not in part)
                    runs += 1
                assert runs <= worst + 1


def test_when_the_only_culprit_has_left_the_others_run_together() -> None:
    bisection = Bisection("abcde")
    bisection.drop("d")
    part = bisection.next()
    assert part == ["a", "b", "c", "e"]
    assert bisection.ran(part, True).good == ["a", "b", "c", "e"]
    assert bisection.next() is None


# --- The share of poison --------------------------------------------------------------------------


def feed(rate: PoisonRate, batches: int, size: int, share: float, chance: Chance) -> None:
    for _ in range(batches):
        rate.observe(size, sum(chance.uniform() < share for _ in range(size)))


def test_without_evidence_there_is_no_poison() -> None:
    rate = PoisonRate()
    assert rate.share == 0
    rate.observe(1, 1)
    assert rate.share == 0


def test_one_failure_in_ten_thousand_does_not_shrink_batches() -> None:
    rate, chance = PoisonRate(), Chance(1)
    caps = []
    for _ in range(4000):
        feed(rate, 1, 64, 1e-4, chance)
        caps.append(best_cap(rate.share, COSTS["a run and a row"], 64))
    assert sum(caps) / len(caps) >= 63


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cost", ["a run and a row", "a run", "hardly a run", "a step"])
def test_caps_adapt_to_five_per_cent_and_back_within_200_batches(cost: str, seed: int) -> None:
    rate, chance, seconds = PoisonRate(), Chance(seed), COSTS[cost]

    def live(batches: int, share: float, cap: int) -> int:
        for _ in range(batches // 20):
            feed(rate, 20, cap, share, chance)
            cap = best_cap(rate.share, seconds, 64)
        return cap

    cap = live(180, 0.05, 64)
    best = max(expected_goodput(0.05, seconds, size) for size in range(1, 65))
    assert expected_goodput(0.05, seconds, cap) >= 0.9 * best
    assert live(180, 0.0, cap) == 64
    assert rate.share == 0


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("size", [1, 8, 64])
def test_the_share_is_right_on_average(share: float, size: int) -> None:
    rate, chance = PoisonRate(), Chance(7)
    shares = []
    for _ in range(400):
        feed(rate, 1 + 64 // size, size, share, chance)
        shares.append(rate.share)
    assert sum(shares[50:]) / 350 == pytest.approx(share, rel=0.1, abs=0.003)


# --- How large batches should be ------------------------------------------------------------------


@pytest.mark.parametrize("cost", COSTS)
def test_without_poison_batches_are_as_large_as_may_be(cost: str) -> None:
    for most in (1, 7, 50, 64, 4096):
        assert best_cap(0.0, COSTS[cost], most) == most
        assert best_cap(5e-19, COSTS[cost], most) == most


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("cost", COSTS)
def test_expected_goodput_is_what_the_search_brings(cost: str, share: float) -> None:
    """Summed over all that may happen to a batch, each as likely as it is."""
    seconds = COSTS[cost]
    for size in range(1, 9):
        expected_s = 0.0
        for count in range(size + 1):
            chance = share**count * (1 - share) ** (size - count)
            for culprits in combinations(range(size), count):
                expected_s += chance * seconds(size)
                if culprits and size > 1:
                    again = isolate(size, culprits).parts
                    expected_s += chance * sum(seconds(len(part)) for part in again)
        assert expected_goodput(share, seconds, size) == pytest.approx(
            (1 - share) * size / expected_s
        )


@pytest.mark.parametrize("most", [3, 7, 50, 64, 200])
@pytest.mark.parametrize("cost", COSTS)
def test_no_size_brings_noticeably_more_than_the_best_cap(cost: str, most: int) -> None:
    seconds = COSTS[cost]
    for share in (1e-6, 1e-3, 3e-3, 0.01, 0.03, 0.05, 0.1, 0.3, 0.6):
        cap = best_cap(share, seconds, most)
        assert 1 <= cap <= most
        found = expected_goodput(share, seconds, cap)
        best = max(expected_goodput(share, seconds, size) for size in range(1, most + 1))
        assert found >= 0.99 * best, f"share {share}: {cap}"


def test_the_more_poison_the_smaller_batches() -> None:
    caps = [best_cap(share / 100, COSTS["a run"], 64) for share in range(101)]
    assert caps == sorted(caps, reverse=True)
    assert caps[0] == 64
    assert caps[-1] == 1


@pytest.mark.parametrize(("most", "sizes"), [(64, 50), (4096, 200)])
def test_few_sizes_are_looked_at(most: int, sizes: int) -> None:
    asked: list[int] = []

    def seconds(size: int) -> float:
        asked.append(size)
        return 0.004 + 0.0005 * size

    best_cap(0.05, seconds, most)
    assert len(asked) <= sizes
