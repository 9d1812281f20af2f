"""A day of calls through the router in virtual time, with providers that slow down, fail in part,
limit, hang, go down, cut what they began, and come back. What must hold whatever happens is
`Day.check`; that it can fail is shown by faults planted on purpose."""

import hashlib
import heapq
import itertools
import math
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import pytest

from paceline.flow.breaker import REFUSED, Breaker
from paceline.flow.retry import RetryBudget
from paceline.gateway import attempts as attempts_module
from paceline.gateway import routing as routing_module
from paceline.gateway import standing as standing_module
from paceline.gateway.attempts import Attempts, Decision, GiveUp, Go
from paceline.gateway.provider import Lost
from paceline.gateway.routes import Hedge, Route, Tier
from paceline.gateway.routing import Router
from paceline.gateway.standing import Pace, Standing
from paceline.gateway.upstream import Target
from paceline.gateway.verdicts import LIMITED, Answer, Verdict, verdict_of
from paceline.terms.limits import (
    HEDGE_LEAST_PER_S,
    HEDGE_SHARE,
    RETRY_LEAST_PER_S,
    RETRY_SHARE,
    RETRY_WINDOW_S,
)
from paceline.testing import Chance

PROVIDERS = ("alpha", "beta", "gamma")
FIRST_S = {"alpha": 0.3, "beta": 0.4, "gamma": 0.6}
"""to first content, on average"""
TAIL_S = 2.0
"""from there to the end"""

A, B, C = (Target(each, "m") for each in PROVIDERS)
ROUTES = (
    Route("weighted", (Tier((A, B), (3.0, 1.0)), Tier((C,))), retries=3),
    Route("soonest", (Tier((A, B, C), (), "least_latency"),), hedge=Hedge()),
    Route("patient", (Tier((B,)), Tier((C,))), patience_s=4.0),
    Route("single", (Tier((A,)),), retries=4, retries_per_target=4),
)

Kind = Literal["slow", "fails in part", "loses", "limits", "hangs", "is down", "cuts"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# An episode, in seconds since its beginning: all is well, one provider is not, all is well again.
BUSY_S = 260.0
TROUBLE_S = (60.0, 120.0)
BACK_S = 200.0
"""By then its breaker, whose last opening may have been for 32 s, must have found it well again."""

RATE_PER_S = 6.0
QUIET_PER_S = 0.02
EPISODES_EVERY_S = 7200.0
LIMIT_PER_S = 2


class Trouble(NamedTuple):
    provider: str
    kind: Kind
    from_s: float
    to_s: float


class Attempt(NamedTuple):
    """One, as the providers saw it."""

    at_s: float
    call: int
    target: Target
    why: str
    second: bool
    """the call had been at this provider before"""
    after_loss: frozenset[str]
    """providers that had lost something that may be billed, since the attempt before"""


class Call:
    """One caller, and a relay that does what it is told."""

    __slots__ = (
        "at_s",
        "attempts",
        "content",
        "deadline_s",
        "ends",
        "lost",
        "number",
        "route",
        "running",
        "timer",
        "visited",
    )

    def __init__(self, number: int, route: Route, at_s: float, deadline_s: float) -> None:
        self.number = number
        self.route = route
        self.at_s = at_s
        self.deadline_s = deadline_s
        self.attempts: Attempts
        self.running: set[int] = set()
        self.visited: set[str] = set()
        self.lost: set[str] = set()
        self.content = False
        self.ends: list[tuple[float, str]] = []
        self.timer = 0


class Day:
    def __init__(
        self,
        seed: int,
        episodes: int = 12,
        kinds: tuple[Kind, ...] = KINDS,
        busy_per_s: float = RATE_PER_S,
        routes: tuple[Route, ...] = ROUTES,
    ) -> None:
        self.seed = seed
        self._routes = routes
        self._busy_per_s = busy_per_s
        chance = Chance(seed)
        self._arriving, self._fate = chance.fork("arriving"), chance.fork("fate")
        self.router = Router(ROUTES, chance.fork("routing"), 0.0)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = itertools.count()
        self.now = 0.0
        self.calls: list[Call] = []
        self.log: list[Attempt] = []
        self.shut_s: dict[Target, set[int]] = defaultdict(set)
        """the whole seconds in which its breaker was not closed, in busy times"""
        self._told_s: dict[Target, float] = {}
        self._taken: Counter[tuple[str, int]] = Counter()
        self.troubles = [
            Trouble(
                PROVIDERS[number % 2],
                kinds[number % len(kinds)],
                number * EPISODES_EVERY_S + TROUBLE_S[0],
                number * EPISODES_EVERY_S + TROUBLE_S[1],
            )
            for number in range(episodes)
        ]
        self.end_s = episodes * EPISODES_EVERY_S
        try:
            self._run()
        except Exception as failure:
            failure.add_note(self._where())
            raise

    def _where(self) -> str:
        return f"simulated with seed={self.seed}, at {self.now:.3f} s"

    # --- What happens -----------------------------------------------------------------------------

    def _at(self, moment: float, what: Callable[..., None], *given: Any) -> None:
        heapq.heappush(self._events, (moment, next(self._numbers), what, given))

    def _run(self) -> None:
        self._at(0.0, self._arrives)
        while self._events:
            self.now, _, what, given = heapq.heappop(self._events)
            what(*given)

    def _arrives(self) -> None:
        now = self.now
        busy = now % EPISODES_EVERY_S < BUSY_S
        following = now + self._arriving.exponential(
            1 / (self._busy_per_s if busy else QUIET_PER_S)
        )
        if not busy:  # the next busy time begins when it begins
            following = min(following, (now // EPISODES_EVERY_S + 1) * EPISODES_EVERY_S)
        if following < self.end_s:
            self._at(following, self._arrives)
        if busy and int(now) != int(following):
            for each in self.router.look(now):
                if each.state in ("open", "half_open"):
                    self.shut_s[each.target].add(int(now))
        route = self._arriving.choice(self._routes)
        call = Call(len(self.calls), route, now, now + self._arriving.choice((6.0, 30.0, 60.0)))
        self.calls.append(call)
        call.attempts = self.router.begin(
            self.router.resolve(route.name), now, call.deadline_s, stream=True
        )
        self._act(call, call.attempts.start(now))
        if self._arriving.uniform() < 0.02:
            self._at(now + self._arriving.exponential(2.0), self._leaves, call)

    def _act(self, call: Call, decision: Decision) -> None:
        if isinstance(decision, GiveUp):
            call.running.clear()
            self._ends(call, "gave up" if decision.answer is None else "refused")
            return
        call.timer += 1
        if decision.wake_s < math.inf:
            self._at(decision.wake_s, self._due, call, call.timer)
        if isinstance(decision, Go):
            if decision.instead_of is not None:
                call.running.remove(decision.instead_of)
                self._lost(call, decision.instead_of)
            self._asked(call, decision)

    def _due(self, call: Call, timer: int) -> None:
        if timer == call.timer and not call.ends and not call.content:
            self._act(call, call.attempts.due(self.now))

    def _leaves(self, call: Call) -> None:
        if not call.ends:
            call.running.clear()
            call.attempts.left(self.now)
            self._ends(call, "left")

    def _ends(self, call: Call, how: str) -> None:
        call.ends.append((self.now, how))

    def _lost(self, call: Call, number: int) -> None:
        call.lost.add(call.attempts.tried[number].target.provider)

    def _asked(self, call: Call, go: Go) -> None:
        now, target = self.now, go.target
        provider = target.provider
        assert not call.content, "an attempt after content"
        assert not call.ends, "an attempt after the end"
        assert now >= self._told_s.get(target, 0.0), "before the moment that it had told"
        second = provider in call.visited
        self.log.append(Attempt(now, call.number, target, go.why, second, frozenset(call.lost)))
        call.lost.clear()
        call.visited.add(provider)
        call.running.add(go.number)
        fate = self._fate
        trouble = self._trouble(provider)
        first_s = fate.exponential(FIRST_S[provider])
        self._at(call.deadline_s, self._fails, call, go.number, "late")
        if trouble == "hangs":
            return
        if trouble == "is down":
            self._at(now + 0.001, self._fails, call, go.number, "unreachable")
        elif trouble == "limits" and not self._takes(provider):
            self._at(now + 0.02, self._limits, call, go.number)
        elif trouble == "fails in part" and fate.uniform() < 0.35:
            ended = fate.choice((Answer(500, [], b"sorry"), Answer(529, [], b""), "closed"))
            self._at(now + 0.05, self._fails, call, go.number, ended)
        elif trouble == "loses" and fate.uniform() < 0.35:
            self._at(now + 0.05, self._fails, call, go.number, "closed")
        else:
            first_s *= 10 if trouble == "slow" else 1
            cut = trouble == "cuts" and fate.uniform() < 0.8
            self._at(now + first_s, self._content, call, go.number, cut)

    def _trouble(self, provider: str) -> Kind | None:
        each = self.troubles[min(int(self.now // EPISODES_EVERY_S), len(self.troubles) - 1)]
        here = each.provider == provider and each.from_s <= self.now < each.to_s
        return each.kind if here else None

    def _takes(self, provider: str) -> bool:
        self._taken[provider, int(self.now)] += 1
        return self._taken[provider, int(self.now)] <= LIMIT_PER_S

    def _limits(self, call: Call, number: int) -> None:
        if number not in call.running:
            return
        left_ms = math.ceil((1 - self.now % 1) * 1e3) if number % 2 else 5000
        self._told_s[call.attempts.tried[number].target] = self.now + left_ms / 1e3
        headers = [(b"retry-after-ms", b"%d" % left_ms)]
        self._fails(call, number, Answer(LIMITED, headers, b"slow down"))

    def _fails(self, call: Call, number: int, ended: Lost | Answer) -> None:
        if number not in call.running:
            return
        call.running.remove(number)
        if ended in ("closed", "cut"):
            self._lost(call, number)
        self._act(call, call.attempts.failed(number, self.now, ended))

    def _content(self, call: Call, number: int, cut: bool) -> None:
        if number not in call.running:
            return
        call.attempts.content(number, self.now)
        call.content = True
        call.running = {number}
        tail_s = self._fate.exponential(TAIL_S)
        self._at(
            self.now + tail_s, self._fails if cut else self._whole, call, number, *["cut"][:cut]
        )

    def _whole(self, call: Call, number: int) -> None:
        if number in call.running:
            call.running.clear()
            call.attempts.done(self.now, 100)
            self._ends(call, "done")

    # --- What must hold ---------------------------------------------------------------------------

    def check(self) -> None:
        try:
            self._check_calls()
            self._check_budgets()
            self._check_hedges()
            self._check_comes_back()
            self._check_availability()
        except AssertionError as failure:
            failure.add_note(self._where())
            raise

    def _check_calls(self) -> None:
        for call in self.calls:
            assert len(call.ends) == 1, f"call {call.number} ended {len(call.ends)} times"
            assert call.ends[0][0] <= call.deadline_s, f"call {call.number} ended too late"
            assert call.attempts.over
            tried = call.attempts.tried
            assert len(tried) <= 1 + call.route.retries
            most = max(Counter(each.target for each in tried).values(), default=0)
            assert most <= 1 + call.route.retries_per_target
            assert all(each.ended != "running" for each in tried)
        for each in self.router.look(self.end_s + 100):
            assert each.waiting == 0, f"{each.target} has {each.waiting} who wait"

    def _check_budgets(self) -> None:
        """Whatever was paid for, or should have been, in every stretch of time."""
        for provider in PROVIDERS:
            visits, paid, all_s = [], [], []
            for each in self.log:
                here = each.target.provider == provider
                if here:
                    all_s.append(each.at_s)
                if here and not each.second and each.why != "hedge":
                    visits.append(each.at_s)
                if (here and each.second and each.why != "hedge") or (
                    provider in each.after_loss and each.why != "hedge"
                ):
                    paid.append(each.at_s)
            _check_share(paid, visits, RETRY_SHARE, RETRY_LEAST_PER_S, f"{provider}: retries")
            # The load as a whole, in trouble: its first attempts, the retries, and the hedges.
            for trouble in self.troubles:
                a, b = trouble.from_s, trouble.to_s
                offered = _between(visits, a - 1.1 * RETRY_WINDOW_S, b)
                spare = (RETRY_LEAST_PER_S + HEDGE_LEAST_PER_S) * (b - a + RETRY_WINDOW_S)
                most = (1 + RETRY_SHARE + HEDGE_SHARE) * offered + spare
                assert _between(all_s, a, b) <= most, f"{provider}: load while {trouble}"

    def _check_hedges(self) -> None:
        for route in ROUTES:
            began = [call.at_s for call in self.calls if call.route is route]
            hedges = [
                each.at_s
                for each in self.log
                if each.why == "hedge" and self.calls[each.call].route is route
            ]
            share = HEDGE_SHARE if route.hedge else 0.0
            least_per_s = HEDGE_LEAST_PER_S if route.hedge else 0.0
            _check_share(hedges, began, share, least_per_s, f"{route.name}: hedges")

    def shares(self, route: str, from_s: float, to_s: float) -> dict[str, float]:
        """Which part of the calls of a route each provider was asked first."""
        first = Counter(
            each.target.provider
            for each in self.log[_first(self.log, from_s) : _first(self.log, to_s)]
            if each.why == "first" and self.calls[each.call].route.name == route
        )
        return {each: first[each] / first.total() for each in PROVIDERS if first}

    def _check_comes_back(self) -> None:
        for trouble in self.troubles:
            began_s = trouble.from_s - TROUBLE_S[0]
            back = self.shares("weighted", began_s + BACK_S, began_s + BUSY_S)
            for provider, weight in (("alpha", 0.75), ("beta", 0.25)) * bool(back):
                assert abs(back[provider] - weight) < 0.2, f"{provider} has {back} after {trouble}"
            target = Target(trouble.provider, "m")
            # What is cut has begun well, so its breaker closes again and again, for seconds.
            least = {"hangs": 0.5, "is down": 0.9, "cuts": 0.2}.get(trouble.kind, 0.0)
            seconds = range(int(trouble.from_s) + 30, int(trouble.to_s))
            shut_s = sum(second in self.shut_s[target] for second in seconds)
            assert shut_s >= least * len(seconds), f"shut for {shut_s} s of {trouble}"
            if trouble.kind == "limits":
                seconds = range(int(trouble.from_s), int(trouble.to_s))
                assert not self.shut_s[target] & {*seconds}, "shut though it only limits"
        assert {each.state for each in self.router.look(self.end_s + 100)} == {"closed"}

    def _check_availability(self) -> None:
        """Where somebody else can, callers with half a minute get their answers all the same."""
        for trouble in self.troubles:
            ends: Counter[str] = Counter()
            came = slice(_first(self.calls, trouble.from_s), _first(self.calls, trouble.to_s))
            for call in self.calls[came]:
                if call.route.name in ("weighted", "soonest") and call.deadline_s - call.at_s >= 30:
                    ends[call.ends[0][1]] += 1
            if not ends:
                continue
            good = ends["done"] / max(1, ends.total() - ends["left"])
            least = {"hangs": 0.7, "cuts": 0.6, "loses": 0.85, "slow": 0.95}.get(trouble.kind, 0.97)
            assert good >= least, f"{ends} while {trouble}"

    def trace(self) -> str:
        told = repr((self.log, [call.ends for call in self.calls]))
        return hashlib.sha256(told.encode()).hexdigest()


def _first(among: Sequence[Call] | Sequence[Attempt], moment: float) -> int:
    return bisect_left(among, moment, key=lambda each: each.at_s)


def _between(moments: list[float], from_s: float, to_s: float) -> int:
    return bisect_right(moments, to_s) - bisect_left(moments, from_s)


def _check_share(
    paid: list[float], paying: list[float], share: float, least_per_s: float, what: str
) -> None:
    """In stretches from each to the tenth after it, the thirtieth, and so on."""
    for first, from_s in enumerate(paid):
        for length in (1, 10, 30, 100, 300, 1000):
            last = first + length - 1
            if last >= len(paid):
                break
            to_s = paid[last]
            before = _between(paying, from_s - 1.1 * RETRY_WINDOW_S, to_s)
            most = share * before + least_per_s * (to_s - from_s + RETRY_WINDOW_S)
            assert length <= most, f"{what}: {length} of {before} from {from_s:.1f} to {to_s:.1f} s"


# --- A day ----------------------------------------------------------------------------------------


def test_a_day_with_all_kinds_of_trouble() -> None:
    day = Day(seed=1)
    day.check()
    assert len(day.calls) > 15_000
    assert {how for call in day.calls for _, how in call.ends} >= {"done", "left", "gave up"}
    whys = Counter(each.why for each in day.log)
    assert min(whys[each] for each in ("first", "again", "elsewhere", "hedge")) > 50, whys


def test_a_slow_target_loses_the_calls_that_look_for_the_soonest_and_gets_them_back() -> None:
    day = Day(seed=2, episodes=1, kinds=("slow",))
    assert day.troubles[0].provider == "alpha"
    assert day.shares("soonest", 20, 60)["alpha"] > 0.5
    assert day.shares("soonest", 65, 120)["alpha"] < 0.1
    assert day.shares("soonest", 200, 260)["alpha"] > 0.5


def test_the_same_seed_is_the_same_day() -> None:
    day = Day(seed=3, episodes=2)
    assert day.trace() == Day(seed=3, episodes=2).trace() != Day(seed=4, episodes=2).trace()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 115))
def test_many_days(seed: int) -> None:
    Day(seed, episodes=36).check()


# --- Faults planted on purpose --------------------------------------------------------------------


class Generous(RetryBudget):
    __slots__ = ()

    def try_retry(self, now: float) -> bool:
        return True


class Locked(Breaker):
    __slots__ = ()

    def ask(self, now: float) -> int:
        return super().ask(now) if self.status(now).state == "closed" else REFUSED


def _retries_without_budget(patch: pytest.MonkeyPatch) -> None:
    def made(*given: float) -> RetryBudget:
        return RetryBudget(*given) if given else Generous()

    patch.setattr(routing_module, "RetryBudget", made)


def _hedges_without_bound(patch: pytest.MonkeyPatch) -> None:
    def made(*given: float) -> RetryBudget:
        return Generous() if given else RetryBudget()

    patch.setattr(routing_module, "RetryBudget", made)


def _failover_after_content(patch: pytest.MonkeyPatch) -> None:
    failed = Attempts.failed

    def forgetful(
        self: Attempts, number: int, now: float, ended: Lost | Answer, detail: str = ""
    ) -> Decision:
        self.committed = None
        return failed(self, number, now, ended, detail)

    patch.setattr(Attempts, "failed", forgetful)


def _breaker_never_probing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(standing_module, "Breaker", Locked)


def _nobody_is_put_aside(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Standing, "put_aside", lambda *given: None)


def _who_hangs_is_never_blamed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pace, "overdue", lambda *given: False)


def _what_may_be_billed_is_free(patch: pytest.MonkeyPatch) -> None:
    def careless(ended: Lost | Answer, repeatable: bool = True) -> Verdict:
        return verdict_of(ended, repeatable)._replace(billed=False)

    patch.setattr(attempts_module, "verdict_of", careless)


def _one_who_waits_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    def ended_without(self: Standing, now: float) -> None:
        self.waiting -= now % 1 < 0.9

    patch.setattr(Standing, "ended_without", ended_without)


SINGLE, WEIGHTED = (ROUTES[3],), (ROUTES[0],)


@cache
def _is_sound(kind: Kind, busy_per_s: float, routes: tuple[Route, ...]) -> None:
    Day(5, 1, (kind,), busy_per_s, routes).check()


@pytest.mark.parametrize(
    ("plant", "kind", "busy_per_s", "routes", "found"),
    [
        (_retries_without_budget, "fails in part", 12, SINGLE, "retries: "),
        (_what_may_be_billed_is_free, "loses", 25, WEIGHTED, "retries: "),
        (_hedges_without_bound, "slow", 6, ROUTES, "hedges: "),
        (_failover_after_content, "cuts", 6, ROUTES, "after content"),
        (_breaker_never_probing, "is down", 6, ROUTES, "after Trouble"),
        (_nobody_is_put_aside, "limits", 6, ROUTES, "before the moment"),
        (_who_hangs_is_never_blamed, "hangs", 6, ROUTES, "shut for 0 s"),
        (_one_who_waits_is_forgotten, "is down", 6, ROUTES, "who wait"),
    ],
)
def test_a_planted_fault_is_found_and_its_seed_told(
    plant: Callable[[pytest.MonkeyPatch], None],
    kind: Kind,
    busy_per_s: float,
    routes: tuple[Route, ...],
    found: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _is_sound(kind, busy_per_s, routes)
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=found) as caught:
        Day(5, 1, (kind,), busy_per_s, routes).check()
    assert any("seed=5" in note for note in caught.value.__notes__)
