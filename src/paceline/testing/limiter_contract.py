"""What every Limiter must do, as a suite that each implementation runs, ours and other people's.

    class TestMine(LimiterContract):
        most = 100

        def make_limiter(self) -> Limiter:
            return MyLimiter(...)

pytest finds the inherited tests. `most` is what the limit must never exceed. How well a limit is
chosen, and how fast, is not judged here.
"""

from paceline.clock import Chance
from paceline.flow.limiter import Limiter

CALLS = 5000
SEEDS = 5
YEAR_S = 365 * 86400.0


class LimiterContract:
    """Subclass it, and say how your limiter is made and what its limit must never exceed."""

    most: int

    def make_limiter(self) -> Limiter:
        raise NotImplementedError

    def test_as_many_enter_as_the_limit_says(self) -> None:
        limiter = self.make_limiter()
        limit = limiter.limit
        for entered in range(limit):
            assert limiter.in_flight == entered
            assert limiter.try_enter(1.0)
        assert limiter.in_flight == limit
        assert not limiter.try_enter(1.0)

    def test_who_is_refused_changes_nothing(self) -> None:
        limiter = self.make_limiter()
        limit = self._fill(limiter, 1.0)
        for moment in range(1, 100):
            assert not limiter.try_enter(float(moment))
            assert (limiter.limit, limiter.in_flight) == (limit, limit)

    def test_who_leaves_makes_room_for_one(self) -> None:
        limiter = self.make_limiter()
        self._fill(limiter, 1.0)
        for _ in range(3):
            limiter.leave(1.0, 0.0, False)
            assert limiter.try_enter(1.0)
            assert not limiter.try_enter(1.0)

    def test_whatever_happens_it_lets_in_below_the_limit_and_nobody_above(self) -> None:
        for seed in range(SEEDS):
            limiter = self.make_limiter()
            chance = Chance(seed)
            now = chance.uniform(0, YEAR_S)
            entered = 0
            for _ in range(CALLS):
                now += chance.choice([0.0, 1e-6, 1e-3, 0.05, chance.exponential(1.0)])
                before = limiter.limit
                assert 1 <= before <= self.most, f"seed={seed}"
                if entered and chance.uniform() < 0.5:
                    delay_s = chance.choice([0.0, 1e-3, 0.05, 10.0])
                    limiter.leave(now, delay_s, chance.uniform() < 0.1)
                    entered -= 1
                else:
                    went = limiter.try_enter(now)
                    assert went == (entered < before), f"seed={seed}"
                    entered += went
                assert limiter.in_flight == entered, f"seed={seed}"

    def test_good_news_without_end_keep_it_within_its_bound(self) -> None:
        limiter = self.make_limiter()
        now = 0.0
        for _ in range(200):
            entered = self._fill(limiter, now)
            now += 0.2
            for _ in range(entered):
                limiter.leave(now, 0.0, False)
            assert limiter.limit <= self.most

    def test_bad_news_without_end_lock_nobody_out(self) -> None:
        limiter = self.make_limiter()
        now = 0.0
        for _ in range(200):
            entered = self._fill(limiter, now)
            assert entered >= 1
            now += 5.0
            for _ in range(entered):
                limiter.leave(now, 5.0, True)
        assert limiter.in_flight == 0
        assert limiter.try_enter(now)

    def test_a_clock_that_stands_still_harms_nothing(self) -> None:
        limiter = self.make_limiter()
        for now in (0.0, 1e9):
            for delay_s in (0.0, 3.0):
                for _ in range(1000):
                    entered = self._fill(limiter, now)
                    for _ in range(entered):
                        limiter.leave(now, delay_s, False)
                    assert entered >= 1

    def test_the_same_calls_get_the_same_answers(self) -> None:
        assert _story(self.make_limiter()) == _story(self.make_limiter())

    def test_leaving_without_having_entered_is_a_bug(self) -> None:
        limiter = self.make_limiter()
        limiter.try_enter(0.0)
        limiter.leave(0.0, 0.0, False)
        try:
            limiter.leave(0.0, 0.0, False)
        except AssertionError:
            return
        raise AssertionError("one that had not entered could leave")

    def _fill(self, limiter: Limiter, now: float) -> int:
        """How many are in flight when nobody else may enter."""
        entered = 0
        while limiter.try_enter(now):
            entered += 1
            assert entered <= self.most, f"{entered} entered, and it had no end"
        return limiter.in_flight


def _story(limiter: Limiter) -> list[int]:
    chance = Chance(1)
    now = 0.0
    told = []
    for _ in range(CALLS):
        now += chance.exponential(0.01)
        if not limiter.try_enter(now) or chance.uniform() < 0.5:
            limiter.leave(now, chance.exponential(0.03), chance.uniform() < 0.01)
        told.append(limiter.limit)
    return told
