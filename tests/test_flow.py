"""Limiters, rates, breaker, retries and single flight keep what their docstrings promise."""

import asyncio
import heapq
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.clock import Clock
from paceline.flow.breaker import REFUSED, Breaker
from paceline.flow.limiter import AdaptiveLimiter, FixedLimiter, Limiter, RateLimit, TokenBucket
from paceline.flow.recent import SLICES, RecentCount
from paceline.flow.retry import RetryBudget, full_jitter_s
from paceline.flow.single_flight import SingleFlight
from paceline.terms.errors import BadInput, Overloaded, Unavailable
from paceline.terms.limits import (
    BREAKER_WHY_CHARS,
    LIMITER_FIRST,
    LIMITER_FLOOR,
    LIMITER_MOST,
    LIMITER_STEP_S,
)
from paceline.testing import Chance, SimulationFailed, run_simulated
from paceline.testing.limiter_contract import LimiterContract

YEAR_S = 365 * 86400.0

moments = st.floats(min_value=0, max_value=100 * YEAR_S)
pauses = st.one_of(
    st.just(0.0),
    st.floats(min_value=0, max_value=0.5),
    st.floats(min_value=0, max_value=30),
)

# --- The concurrency limiter ----------------------------------------------------------------------


class TestFixedLimiter(LimiterContract):
    most = 7

    def make_limiter(self) -> Limiter:
        return FixedLimiter(7)


class TestAdaptiveLimiter(LimiterContract):
    most = LIMITER_MOST

    def make_limiter(self) -> Limiter:
        return AdaptiveLimiter(0.03)


class TestNarrowAdaptiveLimiter(LimiterContract):
    most = 3

    def make_limiter(self) -> Limiter:
        return AdaptiveLimiter(1e-3, floor=1, first=2, most=3)


class FaultyLimiter(FixedLimiter):
    """Wrong in the one way that `fault` names."""

    __slots__ = ("fault", "number")
    made = 0

    def __init__(self, fault: str) -> None:
        super().__init__(7)
        self.fault = fault
        self.number = FaultyLimiter.made = FaultyLimiter.made + 1

    def try_enter(self, now: float) -> bool:
        match self.fault:
            case "lets one too many in":
                self.limit += 1
                went = super().try_enter(now)
                self.limit -= 1
                return went
            case "counts the refused":
                went = super().try_enter(now)
                self.in_flight += not went
                return went
            case "stops at a clock that stands still" if now == 1e9:
                return False
        return super().try_enter(now)

    def leave(self, now: float, queue_delay_s: float, dropped: bool) -> None:
        match self.fault:
            case "keeps the place":
                self.in_flight += 1
            case "frees two places" if self.in_flight > 1:
                self.in_flight -= 1
            case "grows without end" if not queue_delay_s:
                self.limit += 1
            case "locks everybody out" if dropped:
                self.limit = max(0, self.limit - 1)
            case "depends on what ran before":
                self.limit = 1 + (self.limit + self.number) % 7
            case "lets anybody leave" if not self.in_flight:
                return
        super().leave(now, queue_delay_s, dropped)


@pytest.mark.parametrize(
    "fault",
    [
        "lets one too many in",
        "counts the refused",
        "stops at a clock that stands still",
        "keeps the place",
        "frees two places",
        "grows without end",
        "locks everybody out",
        "depends on what ran before",
        "lets anybody leave",
    ],
)
def test_a_limiter_that_breaks_its_contract_is_found(fault: str) -> None:
    class Broken(LimiterContract):
        most = 7

        def make_limiter(self) -> Limiter:
            return FaultyLimiter(fault)

    suite = Broken()
    failed = []
    for name in dir(suite):
        if name.startswith("test_"):
            try:
                getattr(suite, name)()
            except AssertionError:
                failed.append(name)
    assert failed


class Shop:
    """A server behind a limiter, in virtual time: arrivals that know nothing of each other, workers
    that take up to `batch` of what waits, and nobody who leaves early. Counted is the second half.
    """

    def __init__(
        self,
        limiter: Limiter,
        arrivals_per_s: float,
        cost_s: Callable[[int, float, Chance], float],
        *,
        workers: int = 2,
        batch: int = 1,
        newest_first: bool = False,
        patience_s: float = math.inf,
        run_s: float = 30.0,
        seed: int = 1,
    ) -> None:
        chance = Chance(seed)
        waiting: list[float] = []
        idle = workers
        number = 0
        events: list[tuple[float, int, list[tuple[float, bool]] | None]] = [(0.0, 0, None)]
        self.done = self.refused = 0
        delays_s = []
        while events[0][0] < run_s:
            now, _, ended = heapq.heappop(events)
            counts = now > run_s / 2
            if ended is None:
                number += 1
                following = now + chance.exponential(1 / arrivals_per_s)
                heapq.heappush(events, (following, number, None))
                if limiter.try_enter(now):
                    waiting.append(now)
                else:
                    self.refused += counts
            else:
                idle += 1
                for delay_s, _ in ended:
                    limiter.leave(now, delay_s, False)
                    if counts:
                        self.done += 1
                        delays_s.append(delay_s)
            while waiting and now - waiting[0] > patience_s:
                limiter.leave(now, now - waiting.pop(0), True)
            while waiting and idle:
                taken = waiting[-batch:] if newest_first else waiting[:batch]
                waiting = waiting[:-batch] if newest_first else waiting[batch:]
                idle -= 1
                number += 1
                ends = now + cost_s(len(taken), now, chance)
                heapq.heappush(events, (ends, number, [(now - each, True) for each in taken]))
        self.per_s = self.done / (run_s / 2)
        self.delay_s = sum(delays_s) / max(1, len(delays_s))
        self.refused_share = self.refused / max(1, self.refused + self.done)


def _ten_ms(rows: int, now: float, chance: Chance) -> float:
    return chance.exponential(0.01)


def _batched(rows: int, now: float, chance: Chance) -> float:
    return 0.005 + 0.0002 * rows


TARGET_S = 0.03


@pytest.mark.parametrize("overload", [1.5, 3, 10])
def test_under_overload_work_waits_for_the_target_and_no_worker_is_idle(overload: float) -> None:
    shop = Shop(AdaptiveLimiter(TARGET_S), 200 * overload, _ten_ms)
    assert shop.delay_s == pytest.approx(TARGET_S, rel=0.2)
    assert shop.per_s > 0.95 * 200


@pytest.mark.parametrize("overload", [1.5, 10])
def test_it_finds_the_target_where_batches_make_the_rate_depend_on_the_limit(
    overload: float,
) -> None:
    most_per_s = 64 / _batched(64, 0, Chance(1))
    limiter = AdaptiveLimiter(TARGET_S)
    shop = Shop(limiter, most_per_s * overload, _batched, workers=1, batch=64, run_s=10)
    assert shop.delay_s == pytest.approx(TARGET_S, rel=0.15)
    assert shop.per_s > 0.97 * most_per_s


def test_below_its_capacity_it_turns_nobody_away() -> None:
    assert Shop(AdaptiveLimiter(TARGET_S), 100, _ten_ms).refused_share < 1e-3
    shop = Shop(AdaptiveLimiter(TARGET_S), 2000, _batched, workers=1, batch=64, run_s=10)
    assert shop.refused_share < 1e-3


def test_it_finds_the_new_limit_when_the_work_gets_slower_or_faster() -> None:
    limiter = AdaptiveLimiter(TARGET_S)
    for factor in (0.25, 4.0, 1.0):

        def cost_s(rows: int, now: float, chance: Chance, factor: float = factor) -> float:
            return chance.exponential(0.01 * factor)

        shop = Shop(limiter, 2400, cost_s, run_s=20)
        for _ in range(limiter.in_flight):  # what was in flight at the end goes home
            limiter.leave(20.0, 0.0, False)
        # At four times the cost the floor leaves two who wait for the other two.
        target_s = max(TARGET_S, 0.04 * (factor == 4.0))
        assert shop.delay_s == pytest.approx(target_s, rel=0.25), factor


def test_the_order_of_service_does_not_matter_as_long_as_all_leave() -> None:
    limiter = AdaptiveLimiter(TARGET_S)
    shop = Shop(limiter, 400, _ten_ms, newest_first=True, patience_s=0.2)
    assert shop.per_s > 0.95 * 200
    assert limiter.limit < 40


@pytest.mark.parametrize(("places", "work_s"), [(20, 1.0), (50, 0.1), (10, 5.0)])
def test_where_nothing_waits_what_is_dropped_shows_the_limit(places: int, work_s: float) -> None:
    """A far side with so many places, which refuses at once when they are taken."""
    limiter = AdaptiveLimiter(TARGET_S)
    chance = Chance(1)
    taken = done = dropped = number = 0
    run_s = 300 * work_s
    pause_s = work_s / places / 4
    events: list[tuple[float, int, str]] = [(0.0, 0, "asks")]
    while events[0][0] < run_s:
        now, _, what = heapq.heappop(events)
        number += 1
        if what == "asks":
            heapq.heappush(events, (now + chance.exponential(pause_s), number, "asks"))
            if limiter.try_enter(now):
                full = taken >= places
                taken += not full
                ends = now + (0.002 if full else chance.exponential(work_s))
                heapq.heappush(events, (ends, -number, "refused" if full else "done"))
        else:
            taken -= what == "done"
            limiter.leave(now, 0.0, what == "refused")
            if now > run_s / 2:
                done += what == "done"
                dropped += what == "refused"
    assert done / (run_s / 2) > 0.9 * places / work_s
    assert dropped < done
    assert limiter.limit <= 1.3 * places


def test_a_few_drops_by_chance_do_not_close_it() -> None:
    limiter = AdaptiveLimiter(TARGET_S)
    chance = Chance(1)
    now = 0.0
    for _ in range(20_000):
        now += 0.001
        while limiter.try_enter(now):
            pass
        limiter.leave(now, 0.0, chance.uniform() < 0.01)
    assert limiter.limit > 40


def _rounds(
    limiter: Limiter, now: float, rounds: int, *, news: float = 0.0, most: int = 10**6
) -> float:
    """As many as may enter, and leave again a step later."""
    for _ in range(rounds):
        while limiter.in_flight < most and limiter.try_enter(now):
            pass
        now += LIMITER_STEP_S
        while limiter.in_flight:
            limiter.leave(now, news, False)
    return now


def test_it_rises_only_when_it_is_used() -> None:
    limiter = AdaptiveLimiter(TARGET_S)
    now = _rounds(limiter, 0.0, 1000, most=LIMITER_FIRST // 2 - 1)
    assert limiter.limit == LIMITER_FIRST
    now = _rounds(limiter, now, 5)
    assert limiter.limit > LIMITER_FIRST
    few = limiter.limit // 2 - 1
    now = _rounds(limiter, now, 2, most=few)
    used = limiter.limit
    _rounds(limiter, now, 1000, most=few)
    assert limiter.limit == used


def test_it_rises_in_busy_times_that_are_shorter_than_a_step() -> None:
    limiter = AdaptiveLimiter(TARGET_S)
    now = 0.0
    for _ in range(100):
        while limiter.try_enter(now):
            pass
        now += LIMITER_STEP_S / 10
        while limiter.in_flight:
            limiter.leave(now, 0.0, False)
        now += 100.0
    assert limiter.limit > 4 * LIMITER_FIRST


def test_it_falls_from_what_was_in_flight_and_not_from_what_might_have_been() -> None:
    limiter = AdaptiveLimiter(TARGET_S, first=100)
    _rounds(limiter, 0.0, 1, news=TARGET_S + 1e-6, most=20)
    assert limiter.limit == 50
    _rounds(limiter, 1.0, 2, news=TARGET_S + 1e-6, most=20)
    assert limiter.limit == 19


def test_after_a_drop_it_probes_with_care_and_then_faster_and_faster() -> None:
    limiter = AdaptiveLimiter(TARGET_S, first=100)
    while limiter.try_enter(0.0):
        pass
    for _ in range(100):
        limiter.leave(LIMITER_STEP_S, 0.0, True)
    limits = [limiter.limit]
    now = 1.0
    for _ in range(8):
        now = _rounds(limiter, now, 1)
        limits.append(limiter.limit)
    assert limits[:5] == [90, 91, 93, 97, 105]
    assert limits[-1] > 200


def test_bad_and_good_news_take_it_to_its_bounds_and_no_further() -> None:
    limiter = AdaptiveLimiter(TARGET_S)
    now = 0.0
    for delay_s, bound in ((1.0, LIMITER_FLOOR), (0.0, LIMITER_MOST), (9.0, LIMITER_FLOOR)):
        for _ in range(100):
            while limiter.try_enter(now):
                pass
            now += LIMITER_STEP_S
            while limiter.in_flight:
                limiter.leave(now, delay_s, False)
        assert limiter.limit == bound


def test_a_step_waits_for_the_work_that_entered_after_the_one_before() -> None:
    limiter = AdaptiveLimiter(TARGET_S, first=100)
    while limiter.try_enter(0.0):
        pass
    for _ in range(10):
        limiter.leave(0.1, 9.0, False)
    assert limiter.limit == 50  # a half at most, whatever the news
    for _ in range(90):  # they had entered before
        limiter.leave(0.5, 9.0, False)
        assert limiter.limit == 50


def test_one_may_set_another_target_meanwhile() -> None:
    limiter = AdaptiveLimiter(TARGET_S)
    Shop(limiter, 600, _ten_ms, run_s=10)
    before = limiter.limit
    for _ in range(limiter.in_flight):
        limiter.leave(10.0, TARGET_S, False)
    limiter.target_delay_s = 0.2
    shop = Shop(limiter, 600, _ten_ms, run_s=30)
    assert shop.delay_s == pytest.approx(0.2, rel=0.2)
    assert limiter.limit > 2 * before


# --- The token bucket -----------------------------------------------------------------------------


def _exact_ns(moment: float) -> int:
    return int(moment * 10**9)


@given(
    st.integers(1, 1000),
    st.sampled_from([1.0, 60.0, 0.1, 3.0, 1e-9]),
    st.integers(1, 1000),
    moments,
    st.lists(st.tuples(pauses, st.integers(0, 1100))),
)
def test_a_bucket_grants_what_exact_arithmetic_grants(
    amount: int, per_s: float, burst: int, now: float, asked: list[tuple[float, int]]
) -> None:
    bucket = TokenBucket(amount, per_s, burst, now)
    level = Fraction(burst)
    rate_per_ns = Fraction(amount, round(per_s * 10**9))
    before = now
    for pause_s, tokens in asked:
        now += pause_s
        passed_ns = _exact_ns(now) - _exact_ns(before)
        level = min(Fraction(burst), level + passed_ns * rate_per_ns)
        before = now
        granted = bucket.try_take(now, tokens)
        assert granted == (tokens <= level)
        level -= tokens if granted else 0


@given(
    st.one_of(st.just(0.0), moments),
    st.sampled_from([1, 3, 11, 100]),
    st.integers(5, 50),
    st.lists(st.integers(1, 50), min_size=1),
)
def test_who_comes_back_when_told_is_granted_and_not_before(
    now: float, amount: int, burst: int, asked: list[int]
) -> None:
    bucket = TokenBucket(amount, 7.0, burst, now)
    for tokens in asked:
        ready_s = bucket.ready_at(now, tokens)
        if tokens > burst:
            assert ready_s == math.inf
            assert not bucket.try_take(now + YEAR_S, tokens)
            return
        if ready_s > now:
            just_before_ns = _exact_ns(ready_s) - 1
            just_before_s = just_before_ns / 10**9
            if _exact_ns(just_before_s) == just_before_ns and just_before_s >= now:
                assert not bucket.try_take(just_before_s, tokens)
        assert ready_s >= now
        assert bucket.try_take(ready_s, tokens)
        now = ready_s


def test_in_ten_years_not_one_token_is_lost_or_invented() -> None:
    chance = Chance(1)
    start_s = now = 1_234_567.8
    bucket = TokenBucket(7, 3.0, 10**9, now)
    granted = 0
    while now < start_s + 10 * YEAR_S:
        due = 10**9 + 7 * (_exact_ns(now) - _exact_ns(start_s)) // (3 * 10**9)
        assert not bucket.try_take(now, due - granted + 1)
        assert bucket.try_take(now, due - granted)
        granted = due
        now += chance.exponential(40_000.0)
    assert granted > 10**9 + 7 * 10 * YEAR_S / 3 - 10**6


def test_a_bucket_whose_clock_stands_still_or_goes_back_grants_its_burst_once() -> None:
    bucket = TokenBucket(100, 1.0, 5, 50.0)
    granted = [bucket.try_take(now) for now in (50.0, 50.0, 49.0, 0.0, 50.0, 50.0, 49.0)]
    assert granted == [True] * 5 + [False] * 2
    assert bucket.try_take(50.01)


def test_what_was_taken_too_much_comes_back_and_what_was_too_little_is_owed() -> None:
    bucket = TokenBucket(10, 1.0, 100, 0.0)
    assert bucket.try_take(0.0, 100)
    bucket.settle(taken=100, spent=30)
    assert bucket.try_take(0.0, 70)
    assert not bucket.try_take(0.0)
    bucket.settle(taken=70, spent=80)
    assert bucket.ready_at(0.0, 1) == pytest.approx(1.1)
    bucket.settle(taken=1000, spent=0)
    assert not bucket.try_take(0.0, 101)
    assert bucket.try_take(0.0, 100)


@given(st.lists(st.tuples(pauses, st.integers(0, 60))))
def test_requests_and_tokens_are_granted_together_or_not_at_all(
    asked: list[tuple[float, int]],
) -> None:
    both = RateLimit(TokenBucket(2, 1.0, 3, 0.0), TokenBucket(20, 1.0, 50, 0.0))
    requests, tokens = TokenBucket(2, 1.0, 3, 0.0), TokenBucket(20, 1.0, 50, 0.0)
    now = 0.0
    for pause_s, wanted in asked:
        now += pause_s
        ready_s = max(requests.ready_at(now), tokens.ready_at(now, wanted))
        assert both.ready_at(now, wanted) == ready_s
        assert both.try_take(now, wanted) == (ready_s <= now)
        if ready_s <= now:
            assert requests.try_take(now)
            assert tokens.try_take(now, wanted)


# --- Counting over a window -----------------------------------------------------------------------


@given(
    st.floats(min_value=1e-3, max_value=1e5),
    moments,
    st.lists(st.tuples(st.floats(min_value=0, max_value=3), st.booleans())),
)
def test_a_recent_count_forgets_nothing_of_its_window_and_little_later(
    window_s: float, now: float, steps: list[tuple[float, bool]]
) -> None:
    count = RecentCount(window_s)
    seen: list[float] = []
    spare_s = now * 1e-12  # what floats make of a moment
    for pause, add in steps:
        now += pause * window_s
        if add:
            count.add(now)
            seen.append(now)
        longest_s = window_s * (1 + 1 / SLICES) + spare_s
        sure = sum(now - each <= window_s - spare_s for each in seen)
        perhaps = sum(now - each <= longest_s for each in seen)
        assert sure <= count.total(now) <= perhaps


@given(
    st.sampled_from([0.1, 1.0, 3.0, 10.0]),
    st.lists(st.one_of(st.integers(0, 30).map(lambda tenths: tenths / 10), st.floats(0, 5))),
)
def test_in_which_slice_a_moment_lies_follows_from_the_moment_alone(
    window_s: float, pauses_in_slices: list[float]
) -> None:
    """Also at the very ends of slices, where floats are not what they seem."""
    count, slice_s, now, slices = RecentCount(window_s), window_s / SLICES, 0.0, []
    for pause in pauses_in_slices:
        now += pause * slice_s
        count.add(now)
        slices.append(int(now // slice_s))
        assert count.total(now) == sum(each >= slices[-1] - SLICES for each in slices)


def test_a_cleared_count_begins_anew() -> None:
    count = RecentCount(10.0)
    for moment in range(5):
        count.add(float(moment))
    count.clear()
    count.add(5.0)
    assert [count.total(now) for now in (5.0, 14.9, 16.0, 1e9)] == [1, 1, 0, 0]


# --- The circuit breaker --------------------------------------------------------------------------


def _broken(now: float = 0.0, **options: Any) -> Breaker:
    """One that has just opened."""
    breaker = Breaker(**{"least_calls": 1, "open_first_s": 1.0, "open_most_s": 8.0} | options)
    breaker.failed(now, breaker.ask(now), "down")
    return breaker


@given(
    st.integers(1, 20),
    st.sampled_from([0.1, 0.5, 1.0]),
    st.lists(st.tuples(st.sampled_from([0.0, 0.01, 0.3, 2.0, 11.0]), st.booleans())),
)
def test_it_opens_at_the_ratio_of_recent_calls_and_at_no_other_moment(
    least_calls: int, ratio: float, calls: list[tuple[float, bool]]
) -> None:
    breaker = Breaker(least_calls=least_calls, failure_ratio=ratio, window_s=10.0)
    seen: list[tuple[int, bool]] = []
    now = 0.0
    for pause_s, well in calls:
        now += pause_s
        ticket = breaker.ask(now)
        assert ticket
        seen.append((int(now // 1.0), well))
        if well:
            breaker.succeeded(now, ticket)
        else:
            breaker.failed(now, ticket, "down")
        recent = [each for at, each in seen if at >= int(now // 1.0) - SLICES]
        failures = recent.count(False)
        opens = not well and len(recent) >= least_calls and failures >= ratio * len(recent)
        assert breaker.status(now).state == ("open" if opens else "closed")
        if opens:
            said = breaker.status(now).because
            assert f"{failures} of {len(recent)} calls failed within 10 s, the last: down" in said
            return


def test_successes_keep_it_closed() -> None:
    breaker = Breaker(least_calls=2, failure_ratio=0.5)
    for well in (True, True, True, False, False):
        ticket = breaker.ask(1.0)
        if well:
            breaker.succeeded(1.0, ticket)
        else:
            breaker.failed(1.0, ticket, "down")
    assert breaker.status(1.0).state == "closed"
    breaker.failed(1.0, breaker.ask(1.0), "down")
    assert "3 of 6 calls" in breaker.status(1.0).because


def test_it_is_open_until_the_moment_it_says_and_half_open_from_then_on() -> None:
    breaker = _broken(5.0)
    status = breaker.status(5.0)
    assert (status.state, status.until_s) == ("open", 6.0)
    assert "1 of 1 calls failed" in status.because
    assert breaker.ask(5.0) == breaker.ask(math.nextafter(6.0, 0)) == REFUSED
    assert breaker.status(math.nextafter(6.0, 0)).state == "open"
    assert breaker.status(6.0).state == "half_open"
    assert breaker.ask(6.0)
    assert breaker.status(6.0).state == "half_open"


def test_it_closes_when_all_probes_succeed() -> None:
    breaker = _broken(probes=3)
    tickets = [breaker.ask(1.0) for _ in range(5)]
    assert [bool(each) for each in tickets] == [True] * 3 + [False] * 2
    for ticket in tickets[:2]:
        breaker.succeeded(1.5, ticket)
        assert breaker.ask(1.5) == REFUSED
    breaker.succeeded(1.5, tickets[2])
    assert breaker.status(1.5).state == "closed"
    assert all(breaker.ask(1.5) for _ in range(100))


def test_one_probe_that_fails_opens_it_again_for_twice_as_long_up_to_a_bound() -> None:
    breaker = _broken()
    opened_s = 0.0
    for open_s in (1.0, 2.0, 4.0, 8.0, 8.0, 8.0):
        assert breaker.status(opened_s).until_s == opened_s + open_s
        opened_s += open_s
        first, second = breaker.ask(opened_s), breaker.ask(opened_s)
        breaker.succeeded(opened_s, first)
        breaker.failed(opened_s, second, "still down")
        assert breaker.status(opened_s).because == "a probe failed: still down"


@pytest.mark.parametrize(("closed_s", "open_s"), [(9.9, 2.0), (10.0, 1.0)])
def test_it_remembers_the_doubling_until_it_was_closed_for_a_window(
    closed_s: float, open_s: float
) -> None:
    breaker = _broken(window_s=10.0, probes=1)
    breaker.succeeded(1.0, breaker.ask(1.0))
    now = 1.0 + closed_s
    breaker.failed(now, breaker.ask(now), "down")
    assert breaker.status(now).until_s == pytest.approx(now + open_s)


def test_what_began_before_it_opened_or_closed_says_nothing_afterwards() -> None:
    breaker = Breaker(least_calls=1, open_first_s=1.0, probes=1)
    early, late = breaker.ask(0.0), breaker.ask(0.0)
    breaker.failed(0.0, early, "down")
    breaker.succeeded(0.5, late)
    assert breaker.status(0.5).state == "open"
    probe = breaker.ask(1.0)
    breaker.succeeded(1.0, late)
    breaker.left(late)
    assert (breaker.status(1.0).state, breaker.ask(1.0)) == ("half_open", REFUSED)
    breaker.failed(1.0, late, "late")
    assert breaker.status(1.0).state == "half_open"
    breaker.succeeded(1.2, probe)
    breaker.failed(1.3, probe, "told twice")
    breaker.failed(1.3, late, "late")
    assert breaker.status(1.3).state == "closed"


def test_closing_forgets_the_calls_that_opened_it() -> None:
    breaker = Breaker(least_calls=4, window_s=100.0, open_first_s=1.0, probes=1)
    now = 0.0
    for _ in range(2):
        for call in range(4):
            assert breaker.status(now).state == "closed", call
            breaker.failed(now, breaker.ask(now), "down")
        assert breaker.status(now).state == "open"
        assert "4 of 4" in breaker.status(now).because
        now += 5.0
        breaker.succeeded(now, breaker.ask(now))


def test_places_that_probes_left_over_are_not_there_when_it_is_open_again() -> None:
    breaker = _broken(probes=3)
    breaker.failed(1.0, breaker.ask(1.0), "still down")
    assert breaker.ask(1.0) == REFUSED
    assert breaker.status(1.0).state == "open"


def test_a_probe_that_leaves_makes_room_for_another() -> None:
    breaker = _broken(probes=1)
    for _ in range(5):
        ticket = breaker.ask(1.0)
        assert ticket
        assert breaker.ask(1.0) == REFUSED
        breaker.left(ticket)
    breaker.succeeded(1.0, breaker.ask(1.0))
    assert breaker.status(1.0).state == "closed"


def test_probes_that_are_never_heard_of_do_not_lock_it_and_count_when_they_are() -> None:
    breaker = _broken(probes=2, probe_s=30.0)
    lost = [breaker.ask(1.0), breaker.ask(1.0)]
    assert all(lost)
    assert breaker.ask(30.9) == REFUSED
    assert all([breaker.ask(31.0), breaker.ask(31.0)])
    assert breaker.ask(31.0) == REFUSED
    for ticket in lost:  # slow, but it answers
        breaker.succeeded(40.0, ticket)
    assert breaker.status(40.0).state == "closed"


def test_a_long_reason_is_cut() -> None:
    breaker = Breaker(least_calls=1)
    breaker.failed(0.0, breaker.ask(0.0), "x" * 10_000)
    assert len(breaker.status(0.0).because) < BREAKER_WHY_CHARS + 100


@given(st.integers(0, 10**6), st.integers(1, 3))
def test_however_calls_end_few_go_while_it_is_not_closed_and_it_closes_in_the_end(
    seed: int, probes: int
) -> None:
    chance = Chance(seed)
    breaker = Breaker(
        least_calls=3, window_s=5.0, open_first_s=1.0, open_most_s=8.0, probes=probes, probe_s=4.0
    )
    now = 0.0
    out: list[int] = []
    probes_at: list[float] = []
    for _ in range(300):
        now += chance.exponential(0.3)
        status = breaker.status(now)
        assert (status.because == "") == (status.state == "closed")
        ticket = breaker.ask(now)
        if status.state == "open":
            assert not ticket
            assert status.until_s is not None
            assert now < status.until_s <= now + 8.0
        elif status.state == "closed":
            assert ticket
            probes_at.clear()
        elif ticket:
            probes_at.append(now)
            # A window of 4 s may begin in the middle of one set of probes, and end in the next.
            assert sum(now - each < 4.0 for each in probes_at) <= probes
        if ticket:
            out.append(ticket)
        if out and chance.uniform() < 0.7:
            each = out.pop(chance.integer(0, len(out) - 1))
            if chance.uniform() < 0.6:
                breaker.failed(now, each, "down")
            else:
                breaker.succeeded(now, each)
            if breaker.status(now).state == "open":
                probes_at.clear()
    for _ in range(50):
        now += 1.0
        ticket = breaker.ask(now)
        if ticket:
            breaker.succeeded(now, ticket)
    assert breaker.status(now).state == "closed"


# --- Retries --------------------------------------------------------------------------------------


@given(
    st.sampled_from([0.0, 0.1, 0.2, 1.0, 2.5]),
    st.sampled_from([0.0, 0.1, 1.0]),
    moments,
    st.lists(st.tuples(st.sampled_from([0.0, 0.01, 0.4, 1.0, 9.7, 12.0]), st.booleans())),
)
def test_in_every_stretch_retries_are_a_share_of_requests_and_a_small_rate(
    share: float, least_per_s: float, now: float, steps: list[tuple[float, bool]]
) -> None:
    window_s = 10.0
    budget = RetryBudget(share, least_per_s, window_s)
    requests: list[float] = []
    retries: list[float] = []
    for pause_s, is_retry in steps:
        now += pause_s
        if not is_retry:
            budget.requested(now)
            requests.append(now)
        elif budget.try_retry(now):
            retries.append(now)
    for first, begin in enumerate(retries):
        for last in range(first, len(retries)):
            end = retries[last]
            paying = sum(begin - 1.1 * window_s - 1e-3 <= each <= end for each in requests)
            bound = share * paying + least_per_s * (end - begin + window_s) + 1e-6
            assert last - first + 1 <= bound


def test_with_all_calls_failing_a_fifth_is_retried() -> None:
    budget = RetryBudget(0.2, 1.0, 10.0)
    retried = 0
    for tick in range(100_000):
        now = tick * 0.001
        budget.requested(now)
        retried += budget.try_retry(now)
    assert retried == pytest.approx(0.2 * 100_000 + 100, rel=0.02)


def test_a_caller_without_traffic_may_retry_now_and_then() -> None:
    budget = RetryBudget(0.2, 1.0, 10.0)
    granted = [budget.try_retry(3.0) for _ in range(12)]
    assert granted == [True] * 10 + [False] * 2
    assert not budget.try_retry(12.9)
    assert budget.try_retry(14.1)


def test_requests_pay_for_retries_of_a_while_only() -> None:
    budget = RetryBudget(0.5, 0.0, 10.0)
    for _ in range(4):
        budget.requested(0.0)
    assert [budget.try_retry(9.0) for _ in range(3)] == [True, True, False]
    for _ in range(4):
        budget.requested(20.0)
    assert not budget.try_retry(40.0)


@given(st.integers(1, 10**6), st.integers())
def test_a_wait_is_drawn_between_nothing_and_a_bound_that_doubles(failures: int, seed: int) -> None:
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return Chance(seed).uniform(low, high)

    wait_s = full_jitter_s(failures, uniform, first_s=0.1, most_s=10.0)
    assert drawn == [(0.0, min(10.0, 0.1 * 2 ** min(failures - 1, 20)))]
    assert 0.0 <= wait_s <= drawn[0][1]


# --- Single flight --------------------------------------------------------------------------------


class Kitchen:
    """Counts what is cooked."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.begun = self.ended = self.cancelled = 0

    async def cook(self, work_s: float, dish: Any = "dish") -> Any:
        self.begun += 1
        try:
            await self.clock.until(self.clock.now() + work_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.ended += 1
        if isinstance(dish, Exception):
            raise dish
        return dish


def _simulated(
    scenario: Callable[[Kitchen, SingleFlight[str, Any]], Awaitable[None]], seed: int = 0
) -> None:
    async def main(clock: Clock, chance: Chance) -> None:
        await scenario(Kitchen(clock), SingleFlight(most=2))

    run_simulated(main, seed)


async def _turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(10))
def test_all_who_ask_meanwhile_get_the_one_result(seed: int) -> None:
    async def scenario(kitchen: Kitchen, flights: SingleFlight[str, Any]) -> None:
        async def guest(arrives_s: float) -> Any:
            await kitchen.clock.until(arrives_s)
            return await flights.run("soup", lambda: kitchen.cook(10.0, ["soup"]))

        served = await asyncio.gather(*(guest(float(arrives_s)) for arrives_s in range(10)))
        assert kitchen.begun == 1
        assert all(each is served[0] for each in served)
        assert ("soup" in flights, len(flights)) == (False, 0)
        await flights.run("soup", lambda: kitchen.cook(1.0))
        assert kitchen.begun == 2

    _simulated(scenario, seed)


@pytest.mark.parametrize("seed", range(10))
def test_an_error_goes_to_everybody_and_is_not_kept(seed: int) -> None:
    async def scenario(kitchen: Kitchen, flights: SingleFlight[str, Any]) -> None:
        burnt = BadInput("burnt", remedy="Cook again.")
        ended = await asyncio.gather(
            *(flights.run("soup", lambda: kitchen.cook(1.0, burnt)) for _ in range(5)),
            return_exceptions=True,
        )
        assert ended == [burnt] * 5
        assert await flights.run("soup", lambda: kitchen.cook(1.0)) == "dish"

    _simulated(scenario, seed)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("leaver", [0, 1, 2])
def test_who_leaves_leaves_alone(leaver: int, seed: int) -> None:
    async def scenario(kitchen: Kitchen, flights: SingleFlight[str, Any]) -> None:
        guests = [
            asyncio.create_task(flights.run("soup", lambda: kitchen.cook(10.0))) for _ in range(3)
        ]
        await kitchen.clock.until(5.0)
        guests[leaver].cancel()
        ended = await asyncio.gather(*guests, return_exceptions=True)
        assert kitchen.clock.now() == 10.0
        assert [each == "dish" for each in ended] == [each != leaver for each in range(3)]
        assert (kitchen.begun, kitchen.ended) == (1, 1)

    _simulated(scenario, seed)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("seed", range(5))
def test_who_leaves_in_the_very_moment_of_the_end_is_in_nobodys_way(
    seed: int, others: int, fails: bool
) -> None:
    async def scenario(kitchen: Kitchen, flights: SingleFlight[str, Any]) -> None:
        async def last_moment() -> str:
            await kitchen.clock.until(1.0)
            guests[0].cancel()
            if fails:
                raise BadInput("burnt", remedy="Cook again.")
            return "dish"

        guests = [asyncio.create_task(flights.run("soup", last_moment)) for _ in range(1 + others)]
        first, *rest = await asyncio.gather(*guests, return_exceptions=True)
        assert isinstance(first, asyncio.CancelledError)
        assert all(isinstance(each, BadInput) if fails else each == "dish" for each in rest)
        await _turns()
        assert ("soup" in flights, len(flights)) == (False, 0)

    _simulated(scenario, seed)


@pytest.mark.parametrize("seed", range(10))
def test_when_all_have_left_it_is_cancelled_and_the_next_starts_anew(seed: int) -> None:
    async def scenario(kitchen: Kitchen, flights: SingleFlight[str, Any]) -> None:
        for patience_s in (2.0, 3.0):
            ended = await asyncio.gather(
                *(
                    asyncio.wait_for(flights.run("soup", lambda: kitchen.cook(10.0)), patience_s)
                    for _ in range(3)
                ),
                return_exceptions=True,
            )
            assert all(isinstance(each, TimeoutError) for each in ended)
            assert "soup" not in flights
        assert await flights.run("soup", lambda: kitchen.cook(1.0)) == "dish"
        assert (kitchen.begun, kitchen.cancelled, kitchen.ended) == (3, 2, 1)
        assert len(flights) == 0

    _simulated(scenario, seed)


def test_a_computation_that_takes_long_to_end_counts_but_is_not_joined() -> None:
    async def scenario(kitchen: Kitchen, flights: SingleFlight[str, Any]) -> None:
        async def reluctant() -> Any:
            try:
                return await kitchen.cook(10.0, "old")
            finally:
                await kitchen.clock.until(20.0)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(flights.run("soup", reluctant), 1.0)
        assert ("soup" in flights, len(flights)) == (False, 1)
        guest = asyncio.create_task(flights.run("soup", lambda: kitchen.cook(1.0, "new")))
        await _turns()
        assert len(flights) == 2
        with pytest.raises(Overloaded):
            await flights.run("roast", lambda: kitchen.cook(1.0))
        assert await guest == "new"
        await kitchen.clock.until(21.0)
        assert len(flights) == 0

    _simulated(scenario)


def test_one_computation_too_many_is_refused_and_joining_is_not() -> None:
    async def scenario(kitchen: Kitchen, flights: SingleFlight[str, Any]) -> None:
        guests = [
            asyncio.create_task(flights.run(dish, lambda: kitchen.cook(5.0))) for dish in "ab"
        ]
        await _turns()
        with pytest.raises(Overloaded, match="as may"):
            await flights.run("c", lambda: kitchen.cook(5.0))
        assert "c" not in flights
        assert await flights.run("a", lambda: kitchen.cook(5.0)) == "dish"
        await asyncio.gather(*guests)
        assert await flights.run("c", lambda: kitchen.cook(5.0)) == "dish"
        assert kitchen.begun == 3

    _simulated(scenario)


def test_a_computation_cancelled_by_others_cancels_no_caller() -> None:
    async def scenario(kitchen: Kitchen, flights: SingleFlight[str, Any]) -> None:
        async def cancels_itself() -> None:
            await kitchen.clock.until(1.0)
            raise asyncio.CancelledError

        ended = await asyncio.gather(
            *(flights.run("soup", cancels_itself) for _ in range(3)), return_exceptions=True
        )
        assert [type(each) for each in ended] == [Unavailable] * 3

    _simulated(scenario)


def test_an_error_with_nobody_left_to_hear_it_is_not_swallowed() -> None:
    async def scenario(kitchen: Kitchen, flights: SingleFlight[str, Any]) -> None:
        async def drops_it() -> Any:
            try:
                return await kitchen.cook(10.0, "soup")
            finally:
                raise BadInput("on the floor", remedy="Mop.")

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(flights.run("soup", drops_it), 1.0)
        await kitchen.clock.until(2.0)

    with pytest.raises((BadInput, SimulationFailed), match="on the floor"):
        _simulated(scenario)


def test_work_that_waits_for_itself_is_a_bug_and_no_deadlock() -> None:
    async def scenario(kitchen: Kitchen, flights: SingleFlight[str, Any]) -> None:
        async def again() -> Any:
            return await flights.run("soup", again)

        with pytest.raises(AssertionError, match="waits for itself"):
            await flights.run("soup", again)
        assert len(flights) == 0

    _simulated(scenario)


@given(st.integers(0, 2**32))
def test_whoever_comes_and_goes_each_gets_one_answer_of_a_computation_of_their_time(
    seed: int,
) -> None:
    async def main(clock: Clock, chance: Chance) -> None:
        flights: SingleFlight[int, tuple[int, int]] = SingleFlight(most=4)
        running: dict[int, list[asyncio.Task[Any]]] = {key: [] for key in range(6)}
        spans: dict[int, tuple[float, float]] = {}
        wanted: Counter[int] = Counter()

        async def compute(key: int, number: int) -> tuple[int, int]:
            assert all(each.cancelling() for each in running[key]), "two for one key"
            task = asyncio.current_task()
            assert task is not None
            running[key].append(task)
            began_s = clock.now()
            try:
                await clock.until(clock.now() + chance.choice([0.0, 1.0, 2.0, 5.0]))
                assert wanted[key], "it went on though nobody waited"
            finally:
                running[key].remove(task)
                spans[number] = (began_s, clock.now())
            if number % 5 == 0:
                raise BadInput("failed", value=(key, number), remedy="Try again.")
            return key, number

        async def caller(number: int) -> str:
            await clock.until(float(chance.integer(0, 10)))
            key = chance.integer(0, 5)
            came_s = clock.now()
            patience_s = chance.choice([0.5, 1.0, 2.0, 100.0])
            wanted[key] += 1
            try:
                async with asyncio.timeout(patience_s):
                    of_key, of = await flights.run(key, lambda: compute(key, number))
            except TimeoutError:
                assert clock.now() == came_s + patience_s
                return "left"
            except Overloaded:
                return "refused"
            except BadInput as error:
                of_key, of = error.value  # type: ignore[misc]  # what compute put into it
            finally:
                wanted[key] -= 1
            began_s, ended_s = spans[of]
            assert of_key == key
            assert began_s <= clock.now() == ended_s >= came_s
            return "answered"

        outcomes = Counter(await asyncio.gather(*(caller(number) for number in range(1, 25))))
        assert outcomes.total() == 24
        await _turns()
        assert len(flights) == 0
        assert not any(key in flights for key in range(6))

    run_simulated(main, seed)
