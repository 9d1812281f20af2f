"""Which way an LLM call goes: routes by the names that callers use, and what is known of targets.

A Router finds a route and begins the attempts of a call (`attempts.py`); it never calls anybody.
What is known of a target (`standing.py`) outlives a change of the routes that lead to it. All of it
is one front's own: breakers, budgets and paces hold per process.

One call: `route = router.resolve(model)`, `attempts = router.begin(route, now, deadline_s, …)`.
Called by `relay.py`.
"""

import difflib
from collections.abc import Callable, Iterable

from paceline.clock import Chance
from paceline.flow.retry import RetryBudget
from paceline.gateway.attempts import Attempts, Go, Ranks, Way
from paceline.gateway.routes import STAR, Route, Tier
from paceline.gateway.standing import Place, Standing, TargetStatus
from paceline.gateway.upstream import Target
from paceline.terms.errors import BadSetting, NotFound, UnknownModel
from paceline.terms.limits import HEDGE_LEAST_PER_S, LLM_MODEL_CHARS, ROUTES, ROUTES_NAMED


class Router:
    def __init__(self, routes: Iterable[Route], chance: Chance, now: float) -> None:
        self._uniform = chance.uniform
        self._standings: dict[Target, Standing] = {}
        self._budgets: dict[str, RetryBudget] = {}
        self._exact: dict[str, Way] = {}
        self._stars: list[tuple[str, Way]] = []
        self.serve(routes, now)

    def serve(self, routes: Iterable[Route], now: float) -> None:
        """From now on these; calls under way go on as they began. Raises, and changes nothing,
        where one of them cannot be served."""
        given = list(routes)
        _check(given)
        before = self._standings
        self._standings = {}
        for route in given:
            for tier in route.tiers:
                for target in tier.targets:
                    if target not in self._standings:
                        self._standings[target] = before.get(target) or self._new(target, now)
        providers = {target.provider for target in self._standings}
        self._budgets = {name: self._budgets[name] for name in providers}
        known = {way.route: way for way in self._ways()}
        ways = [known.get(route) or self._way(route, now) for route in given]
        self._exact = {each.route.name: each for each in ways if not each.route.name.endswith(STAR)}
        stars = [(each.route.name[:-1], each) for each in ways if each.route.name.endswith(STAR)]
        self._stars = sorted(stars, key=lambda each: -len(each[0]))

    def resolve(self, model: str, shown: Callable[[str], bool] = bool) -> Route:
        """The route of this very name, else the one with the longest beginning of it. Of `shown`
        names the nearest are told where there is none."""
        way = self._exact.get(model)
        if way is not None:
            return way.route
        for beginning, starred in self._stars:
            if model.startswith(beginning):
                return starred.route
        raise self._unknown(model, shown)

    def resolve_raw(self, path: str, model: str | None = None) -> Route:
        """The route that a call with this `path` below /v1 takes as it is: the model's, where one
        is asked for and its route allows it, else the first that does."""
        allowing = [way.route for way in self._ways() if way.route.allows(path)]
        if not allowing:
            raise self._not_relayed(path)
        if model:
            asked = self.resolve(model)
            if asked in allowing:
                return asked
        return allowing[0]

    def begin(
        self,
        route: Route,
        now: float,
        deadline_s: float,
        stream: bool = False,
        repeatable: bool = True,
    ) -> Attempts:
        """`deadline_s` is a moment, no later than which all is over."""
        way = self._exact.get(route.name)
        if way is None or way.route is not route:
            way = self._starred(route) or self._way(route, now)
        timeout_s = now + route.timeout_s
        deadline_s = deadline_s if deadline_s < timeout_s else timeout_s
        return Attempts(way, self._uniform, deadline_s, stream, repeatable)

    def names(self) -> list[str]:
        """What callers may ask for; those that end in `*` stand for many."""
        return [way.route.name for way in self._ways()]

    def look(self, now: float) -> list[TargetStatus]:
        """How every target fares. Asking changes nothing."""
        return [each.status(now) for each in self._standings.values()]

    def _ways(self) -> list[Way]:
        return [*self._exact.values(), *(way for _, way in self._stars)]

    def _starred(self, route: Route) -> Way | None:
        return next((way for _, way in self._stars if way.route is route), None)

    def _new(self, target: Target, now: float) -> Standing:
        budget = self._budgets.setdefault(target.provider, RetryBudget())
        return Standing(target, budget, now)

    def _way(self, route: Route, now: float) -> Way:
        tiers = tuple(self._ranks(tier, now) for tier in route.tiers)
        standings = {place.standing.target: place.standing for t in tiers for place in t.places}
        hedge = route.hedge if len(standings) > 1 else None
        patient = route.patience_s is None or len(standings) == 1
        if hedge is None and patient and len(tiers[0].places) == 1:
            only = tiers[0].places[0].standing
            return Way(route, tiers, None, only, Go(0, only.target, "first"))
        if hedge is None:
            return Way(route, tiers, None, None, None)
        if hedge.after_s is None:
            for standing in standings.values():
                for pace in standing.whole_and_stream:
                    pace.learns_high = True
        return Way(route, tiers, RetryBudget(hedge.share, HEDGE_LEAST_PER_S), None, None)

    def _ranks(self, tier: Tier, now: float) -> Ranks:
        """A target of a route that is served no more is known to its last calls alone."""
        weights = tier.weights or (1.0,) * len(tier.targets)
        places = tuple(
            Place(self._standings.get(target) or self._new(target, now), float(weight))
            for target, weight in zip(tier.targets, weights, strict=True)
        )
        return Ranks(places, tier.choose == "least_latency")

    def _unknown(self, model: str, shown: Callable[[str], bool]) -> UnknownModel:
        names = [name for name in self.names() if shown(name)]
        near = difflib.get_close_matches(model[:LLM_MODEL_CHARS], names[:ROUTES_NAMED])
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        return UnknownModel(
            "no model has this name", value=model, remedy=f"{hint}GET /v1/models names all."
        )

    def _not_relayed(self, path: str) -> NotFound:
        allowed = sorted({each for way in self._ways() for each in way.route.raw_paths})
        there = f"Of those below /v1 these are: {', '.join(allowed)}." if allowed else ""
        return NotFound(
            "this address is not relayed to any provider",
            value=f"/v1{path}",
            remedy=f"Allow it in a route of the settings. {there}".strip(),
        )


def _check(routes: list[Route]) -> None:
    if len(routes) > ROUTES:
        raise BadSetting(
            "there are more routes than one server may have",
            value=len(routes),
            remedy=f"Keep up to {ROUTES}.",
        )
    names: set[str] = set()
    for route in routes:
        for fault in route.faults():
            raise fault
        if route.name in names:
            raise BadSetting(
                "two routes have the same name", value=route.name, remedy="Rename one of them."
            )
        names.add(route.name)
