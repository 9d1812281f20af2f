"""One call's way through its route: where to now, when again, and when no more. Pure.

A small machine that is told what happens and answers with what is to be done: `Go` to a target,
`Wait` until a moment unless something happens before, or `GiveUp`. Whoever drives it (`relay.py`)
calls `start` once; `failed` for an attempt that ended without a whole answer; `content` at the
first content, from which on that attempt is the only one, or `bound` before it, where the caller
can wait for that no longer; `done` or `left` at the end; and `due` at
the `wake_s` of the last decision, if nothing came sooner. After `done`, `left` or a `GiveUp` it is
told nothing more, and what still runs is to be stopped; so are the others after `content`.

*Where to.* Tier by tier: a target of the tier that this call has not been to and that takes calls
now; else, after a wait of up to SOON_S, one of the tier that it has been to or that is aside; else
the next tier. When no tier has one, it waits for a moment that an upstream named, if the deadline
leaves room for an answer after it. A call that has been nowhere yet does not wait so long: its
caller is told when to come back, instead of being held until all the others return as well.

*What bounds it.* The deadline, and the route's `retries`, in all and per target. A second attempt
at a provider, a wait, and any attempt after one that may have been worked on (it may be billed, see
`verdicts.py`) are paid for from that provider's retry budget. To go to another provider after a
refusal costs nothing: so in any outage a provider gets at most 1 + RETRY_SHARE + the share of
hedges of the calls that come to it (and the small constant rates besides), while a fallback that is
well gets all that the one which is down cannot take.

*Hedges* go to a target that this call has not been to, and are paid for from the route's own
budget. Whoever brings content first is the answer. `patience_s` hands a call on in the same way,
but ends the first attempt; where nobody else can take it, it stays where it is.

*Who is blamed.* An attempt that ends without content because the deadline passed, its caller left
or another was faster is the target's failure only if it was overdue (`Pace.overdue`); counted not
at all, a target that hangs would never be found, as its callers leave before it fails.

*How it ends*, when no target gave content: with the reason where an answer had to be dropped; else
with the last answer that an upstream gave, as it came, if there was one; else 502 after a lost
connection, 504 when the deadline came; and where no target could be gone to at all, 429 if all
limit what they are asked, else 503, with when to come back.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from paceline.flow.retry import RetryBudget, full_jitter_s
from paceline.gateway.provider import Lost
from paceline.gateway.routes import Route
from paceline.gateway.standing import (
    Pace,
    Place,
    Standing,
    Uniform,
    by_weight,
    least_latency,
)
from paceline.gateway.upstream import Target
from paceline.gateway.verdicts import FINAL, Answer, Dropped, Verdict, verdict_of
from paceline.terms.errors import (
    DeadlineExceeded,
    LimitReached,
    PacelineError,
    ProviderFailed,
    Unavailable,
)

NEVER = math.inf

SOON_S = 2.0
"""So long a call waits in one tier before it goes to the next, and before its first attempt."""

Why = Literal["first", "again", "elsewhere", "hedge"]
Ended = Literal["running", "done", "left", "outrun", "slow", "answered", "dropped", "cannot", Lost]
"""`outrun`: another brought content first. `slow`: it was handed on. `answered`: with an error.
`dropped`: its answer could not be passed on. `cannot`: nothing was sent, the target cannot be asked
this."""


class Go(msgspec.Struct, frozen=True):
    """Begin attempt `number` at the target now; first stop the one that it comes instead of."""

    number: int
    target: Target
    why: Why
    wake_s: float = NEVER
    instead_of: int | None = None


class Wait(msgspec.Struct, frozen=True):
    """Nothing is to be done until something comes, or until `wake_s`."""

    wake_s: float


class GiveUp(msgspec.Struct, frozen=True):
    """The call ends so: with an upstream's own answer, or with an error of ours."""

    error: PacelineError
    answer: Answer | None = None
    retry_after_s: float | None = None


Decision = Go | Wait | GiveUp

SLOW = Verdict(here=True, elsewhere=True, billed=True)
CANNOT = Verdict(here=False, elsewhere=True)

LOST: Mapping[Ended, str] = {
    "unreachable": "cannot be reached",
    "closed": "closed the connection before it answered",
    "cut": "broke off within its answer",
    "garbled": "answered with what cannot be read",
    "late": "had not answered by the deadline",
}


class Tried(msgspec.Struct, gc=False):
    """One attempt: what its call goes by while it lasts, and timelines remember. Nothing it holds
    leads back to it."""

    standing: Standing
    pace: Pace
    ticket: int
    began_s: float
    why: Why = "first"
    content_s: float | None = None
    ended_s: float | None = None
    ended: Ended = "running"
    status: int | None = None
    tokens: int = 0
    verdict: Verdict = FINAL
    not_before_s: float = -NEVER
    paid: bool = False

    @property
    def target(self) -> Target:
        return self.standing.target


class Ranks(msgspec.Struct, frozen=True):
    """The targets of one tier, as they fare."""

    places: tuple[Place, ...]
    least_latency: bool

    def choose(self, ready: Sequence[Place], now: float, stream: bool, uniform: Uniform) -> Place:
        return (
            least_latency(ready, now, stream) if self.least_latency else by_weight(ready, uniform)
        )


class Way(msgspec.Struct, frozen=True):
    """A route with what is known of its targets. `only` and `first`: its first tier has but one,
    and so this is the decision with which every call begins while that is well. `shared`: what a
    target is asked for depends on what the caller asks for."""

    route: Route
    tiers: tuple[Ranks, ...]
    hedges: RetryBudget | None
    only: Standing | None
    first: Go | None
    shared: bool = False


class Attempts(msgspec.Struct):
    """Made by `Router.begin`, with what stands before the defaults; a struct, for it is made for
    every call."""

    _way: Way
    _uniform: Uniform
    deadline_s: float
    _stream: bool = False
    """whether a stream is expected, or a whole answer"""
    _repeatable: bool = True
    """what is not does something, and is sent again only when nobody can have begun it"""
    committed: int | None = None
    """the attempt that has brought content"""
    over: bool = False
    _tries: list[Tried] = []
    _running: int = 0
    _hedge_s: float = NEVER
    _patience_s: float = NEVER
    _planned: Standing | None = None
    _again_s: float = NEVER
    """when the planned one is to be gone to"""
    _waits: int = 0
    _paid: RetryBudget | None = None
    """by whom the next attempt is granted already"""
    _answer: Answer | None = None
    _detail: str = ""
    _wrong: PacelineError | None = None
    """why a target could not be asked"""
    _unsent: int = 0
    """attempts of that kind, which count for nothing"""

    # --- What it is told --------------------------------------------------------------------------

    def start(self, now: float) -> Decision:
        way = self._way
        only = way.only
        if only is not None and only.clear and now < self.deadline_s:
            only.budget.requested(now)
            if not only.waiting:
                only.since_s = now
            only.waiting += 1
            pace = only.whole_and_stream[self._stream]
            self._tries.append(Tried(only, pace, only.ticket, now))
            self._running = 1
            return way.first  # type: ignore[return-value]  # there is one where there is `only`
        if way.hedges is not None:
            way.hedges.requested(now)
        tier = way.tiers[0]
        for place in tier.places:
            if not place.standing.clear:
                return self._next(now)
        if now >= self.deadline_s:
            return self._give_up(now)
        chosen = tier.choose(tier.places, now, self._stream, self._uniform).standing
        return self._go(chosen, chosen.ticket, now, "first")

    def content(self, number: int, now: float) -> None:
        """From here on no other attempt is made; those that run are to be stopped."""
        tried = self._tries[number]
        assert self.committed is None or self.committed == number, "of one attempt"
        assert tried.content_s is None, "content comes once"
        assert tried.ended == "running", "it had ended already"
        self.committed = number
        tried.content_s = now
        tried.ticket = tried.standing.began(now, tried.pace, now - tried.began_s, tried.ticket)
        if self._running > 1:
            self._stop_others(now, "outrun")

    def bound(self, number: int, now: float) -> None:
        """The answer begins without content, which is still to come: no other attempt is made."""
        assert self.committed is None, "an answer begins once"
        assert self._tries[number].ended == "running", "it had ended already"
        self.committed = number
        if self._running > 1:
            self._stop_others(now, "outrun")

    def done(self, now: float, tokens: int = 0) -> None:
        """The answer is whole, and told."""
        assert self.committed is not None, "nothing has come that could be whole"
        assert not self.over, "it was over already"
        self.over = True
        self._running = 0
        tried = self._tries[self.committed]
        tried.ended = "done"
        tried.ended_s = now
        tried.tokens = tokens
        tried.standing.breaker.succeeded(now, tried.ticket)

    def left(self, now: float) -> None:
        """The caller has gone: whatever runs is to be stopped."""
        assert not self.over, "it was over already"
        self.over = True
        self._stop_others(now, "left")

    def failed(
        self,
        number: int,
        now: float,
        ended: Lost | Answer | Dropped | PacelineError,
        detail: str = "",
    ) -> Decision:
        """An attempt is over, with no answer, or one that is an error or was dropped; or nothing
        was sent, for the target cannot be asked this, and the error says why. After content this
        ends the call, and what was told of the answer with it."""
        tried = self._tries[number]
        assert tried.ended == "running", "it had ended already"
        assert not self.over, "it was over already"
        if isinstance(ended, PacelineError):
            self._wrong = ended
            self._unsent += 1
            self._end(tried, now, "cannot", CANNOT, "")
            return self._next(now)
        verdict = verdict_of(ended, self._repeatable)
        if isinstance(ended, Dropped):
            self._end(tried, now, "dropped", verdict, "")
            return self._give_up(now, ended.error)
        if isinstance(ended, Answer):
            self._answer = ended
            tried.status = ended.status
            self._end(tried, now, "answered", verdict, f"status {ended.status}")
        else:
            self._detail = detail
            self._end(tried, now, ended, verdict, ended)
        if self.committed is not None:
            return self._give_up(now)
        if not (verdict.here or verdict.elsewhere):
            return self._give_up(now)
        return self._next(now)

    def due(self, now: float) -> Decision:
        """The moment has come that the decision before named, or is past, or will yet come."""
        assert not self.over, "it is over: nothing is due"
        if self.committed is not None:
            return Wait(NEVER)
        planned = self._planned
        if planned is not None:
            if now < self._again_s:
                return Wait(self._again_s)
            self._planned = None
            return self._as_planned(planned, now)
        if now >= self._patience_s:
            go = self._hand_on(now)
            if go is not None:
                return go
        if now >= self._hedge_s:
            self._hedge_s = NEVER
            go = self._elsewhere(now, "hedge") if self._running == 1 else None
            if go is not None:
                return go
        return Wait(min(self._hedge_s, self._patience_s))

    @property
    def tried(self) -> tuple[Tried, ...]:
        """As it is now; whoever keeps it sees how they end."""
        return tuple(self._tries)

    # --- How attempts end -------------------------------------------------------------------------

    def _end(self, tried: Tried, now: float, ended: Ended, verdict: Verdict, why: str) -> None:
        standing = tried.standing
        tried.ended = ended
        tried.ended_s = now
        tried.verdict = verdict
        self._running -= 1
        failure = verdict.failure
        if tried.content_s is None:
            standing.ended_without(now)
            if ended in ("late", "left", "outrun", "slow"):
                waited_s = now - tried.began_s
                failure = tried.pace.overdue(waited_s)
                why = f"no content within {waited_s:.3g} s"
                if not failure:  # what counts as a failure must not become what is usual
                    tried.pace.at_least(waited_s)
        if verdict.after_s is not None:
            tried.not_before_s = now + verdict.after_s
        if failure:
            standing.failed(now, tried.ticket, why)
        elif ended == "answered" and not verdict.aside:
            standing.breaker.succeeded(now, tried.ticket)  # it is well; the call was not
        else:
            standing.breaker.left(tried.ticket)
        if verdict.aside:
            standing.put_aside(now, verdict.after_s)

    def _stop_others(self, now: float, why: Literal["left", "outrun"]) -> None:
        for number, tried in enumerate(self._tries):
            if tried.ended == "running" and (why == "left" or number != self.committed):
                self._end(tried, now, why, FINAL, "")

    # --- Where to ---------------------------------------------------------------------------------

    def _next(self, now: float) -> Decision:
        """To the first target that may be gone to; else a wait for one; else it is given up."""
        if self._running:
            return Wait(max(now, min(self._hedge_s, self._patience_s)))
        if now >= self.deadline_s or not self._may_retry():
            return self._give_up(now)
        waits: list[tuple[float, Standing]] = []
        for tier in self._way.tiers:
            later: list[tuple[float, Standing]] = []
            go = self._within(tier, now, "elsewhere", later)
            if go is not None:
                return go
            wait = self._plan([each for each in later if each[0] <= now + SOON_S], now)
            if wait is not None:
                return wait
            waits += later
        wait = self._plan(waits, now) if self._tries else None
        return self._give_up(now) if wait is None else wait

    def _within(
        self, tier: Ranks, now: float, why: Why, later: list[tuple[float, Standing]]
    ) -> Go | None:
        ready: list[Place] = []
        for place in tier.places:
            standing = place.standing
            last, tries = self._last_at(standing)
            if last is None:
                opens_s = standing.opens_s(now)
                if opens_s <= now:
                    if standing.clear:
                        ready.append(place)
                    elif why != "hedge" and self._pays(standing, now):
                        ticket = standing.breaker.ask(now)
                        if ticket:
                            return self._go(standing, ticket, now, why)
                elif opens_s == standing.aside_until_s:
                    later.append((opens_s + full_jitter_s(1, self._uniform), standing))
            elif last.verdict.here and tries <= self._way.route.retries_per_target:
                opens_s = max(standing.opens_s(now), last.not_before_s)
                if opens_s <= max(now, standing.aside_until_s, last.not_before_s):
                    later.append((opens_s + full_jitter_s(tries, self._uniform), standing))
        while ready:
            chosen = tier.choose(ready, now, self._stream, self._uniform).standing
            if why == "hedge":
                if self._way.hedges is None or not self._way.hedges.try_retry(now):
                    return None
            elif not self._pays(chosen, now):
                ready = [each for each in ready if each.standing.budget is not chosen.budget]
                continue
            return self._go(chosen, chosen.ticket, now, why)
        return None

    def _may_retry(self) -> bool:
        return len(self._tries) - self._unsent <= self._way.route.retries

    def _last_at(self, standing: Standing) -> tuple[Tried | None, int]:
        last = None
        tries = 0
        for each in self._tries:
            if each.standing is standing:
                last = each
                tries += 1
        return last, tries

    def _been_to(self, budget: RetryBudget) -> bool:
        return any(each.standing.budget is budget for each in self._tries)

    def _pays(self, standing: Standing, now: float, always: bool = False) -> bool:
        """For what was lost and may be billed, and for a second attempt at this provider. The first
        at one is free, a wait for it is not."""
        for each in self._tries:
            if each.verdict.billed and not each.paid:
                if not self._pay(each.standing.budget, now):
                    return False
                each.paid = True
        budget = standing.budget
        return not (always or self._been_to(budget)) or self._pay(budget, now)

    def _pay(self, budget: RetryBudget, now: float) -> bool:
        """Once for the attempt that comes next, whatever it is paid for."""
        if budget is not self._paid:
            if not budget.try_retry(now):
                return False
            self._paid = budget
        return True

    def _go(self, standing: Standing, ticket: int, now: float, why: Why) -> Go:
        way = self._way
        tries = self._tries
        if not tries:
            why = "first"
            standing.budget.requested(now)
        elif why != "hedge":
            why = "elsewhere" if self._last_at(standing)[0] is None else "again"
            if not self._been_to(standing.budget):
                standing.budget.requested(now)
        self._paid = None
        if not standing.waiting:
            standing.since_s = now
        standing.waiting += 1
        pace = standing.whole_and_stream[self._stream]
        tries.append(Tried(standing, pace, ticket, now, why))
        self._running += 1
        route = way.route
        if way.hedges is not None and why != "hedge" and self._may_retry():
            after_s = None if route.hedge is None else route.hedge.after_s
            self._hedge_s = now + (pace.high_s if after_s is None else after_s)
        if route.patience_s is not None and why != "hedge":
            self._patience_s = now + route.patience_s
        return Go(len(tries) - 1, standing.target, why, min(self._hedge_s, self._patience_s))

    def _plan(self, waits: list[tuple[float, Standing]], now: float) -> Wait | None:
        """A wait for the earliest that leaves time for an answer, and that somebody pays for."""
        if self._waits >= max(1, self._way.route.retries):
            return None
        for moment, standing in sorted(waits, key=lambda each: each[0]):
            pace = standing.whole_and_stream[self._stream]
            ends_s = moment + (pace.usual_s if pace.known else 0.0)
            if ends_s < self.deadline_s and self._pays(standing, now, always=True):
                self._waits += 1
                self._planned = standing
                self._again_s = moment
                return Wait(moment)
        return None

    def _as_planned(self, standing: Standing, now: float) -> Decision:
        if now < self.deadline_s and standing.opens_s(now) <= now:
            ticket = standing.breaker.ask(now)
            if ticket:
                return self._go(standing, ticket, now, "again")
        return self._next(now)

    def _elsewhere(self, now: float, why: Why) -> Go | None:
        """To a target that takes calls now and that this call has not been to."""
        if not self._may_retry():
            return None
        for tier in self._way.tiers:
            go = self._within(tier, now, why, [])
            if go is not None:
                return go
        return None

    def _hand_on(self, now: float) -> Go | None:
        """From an attempt that has run out of patience to one elsewhere; else it stays."""
        patience_s = self._way.route.patience_s
        assert patience_s is not None
        self._patience_s = NEVER
        for number, tried in enumerate(self._tries):
            if tried.ended == "running":
                if now < tried.began_s + patience_s:
                    self._patience_s = tried.began_s + patience_s
                elif self._pay(tried.standing.budget, now):
                    go = self._elsewhere(now, "elsewhere")
                    if go is not None:
                        tried.paid = True
                        self._end(tried, now, "slow", SLOW, "")
                        return msgspec.structs.replace(go, instead_of=number)
        return None

    # --- The end ----------------------------------------------------------------------------------

    def _give_up(self, now: float, error: PacelineError | None = None) -> GiveUp:
        self.over = True
        self._stop_others(now, "outrun")
        if error is not None:
            return GiveUp(error)
        if self.committed is None and self._answer is not None:
            return GiveUp(_refused(self._tries, self._answer), self._answer)
        if not self._tries and now < self.deadline_s:
            return self._nowhere(now)
        lost = [each for each in self._tries if each.ended in LOST]
        if not lost and self._wrong is not None:
            return GiveUp(self._wrong)
        if not lost or now >= self.deadline_s:
            return GiveUp(
                DeadlineExceeded(
                    "no answer came before the deadline",
                    value=_names(self._tries),
                    remedy="Allow more time, or ask for less.",
                )
            )
        last = max(lost, key=lambda each: each.ended_s or 0.0)
        return GiveUp(
            ProviderFailed(
                f"{last.standing.target} {LOST[last.ended]}",
                value=self._detail or _names(self._tries),
                remedy="Ask again; its provider may know more."
                if self.committed is None
                else "What came of it is not the whole. Ask again.",
            )
        )

    def _nowhere(self, now: float) -> GiveUp:
        standings = [place.standing for tier in self._way.tiers for place in tier.places]
        statuses = [each.status(now) for each in standings]
        after_s = min(each.opens_s(now) for each in standings) - now
        told = "; ".join(f"{each.target}: {each.because or each.state}" for each in statuses)
        remedy = f"Ask again in {max(1, math.ceil(after_s))} s."
        error: PacelineError
        if all(each.state == "aside" for each in statuses):
            error = LimitReached(
                "every provider of this model limits how much it is asked",
                value=told,
                remedy=remedy,
            )
        else:
            error = Unavailable(
                "no provider of this model answers as it should", value=told, remedy=remedy
            )
        return GiveUp(error, None, after_s if after_s > 0 else None)


def _names(tries: list[Tried]) -> str:
    return ", ".join(str(each.standing.target) for each in tries)


def _refused(tries: list[Tried], answer: Answer) -> PacelineError:
    return ProviderFailed(
        f"{next(each for each in reversed(tries) if each.status == answer.status).standing.target}"
        f" answered with status {answer.status}",
        value=_names(tries),
        remedy="Its own words are in the answer.",
    )
