"""Which way an LLM call goes: routes by the names that callers use, and what is known of targets.

A Router finds a route and begins the attempts of a call (`attempts.py`); it never calls anybody.
What is known of a target (`standing.py`) outlives a change of the routes that lead to it. All of it
is one front's own: breakers, budgets and paces hold per process. But fronts tell each other which
are to be left alone (`hear`, and `news`, which is given).

A target is a provider and what it calls the model. Where that follows from what a caller asks for
(a `*`, or no model at all), each model that is asked for is a target of its own, the very one that
other routes name; of these as many are known as LLM_MODELS_APART says. Calls that are relayed as
they are (`/files`) share the one that the settings name.

One call: `route = router.resolve(model)`, `attempts = router.begin(route, now, deadline_s, …)`.
Called by `relay.py`.
"""

import difflib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from weakref import WeakValueDictionary

from paceline.clock import Chance
from paceline.flow.retry import RetryBudget
from paceline.gateway.attempts import Attempts, Go, Ranks, Way
from paceline.gateway.routes import STAR, Route, Tier
from paceline.gateway.standing import News, Place, Standing, TargetStatus
from paceline.gateway.upstream import Target
from paceline.terms.errors import BadSetting, NotFound, UnknownModel
from paceline.terms.limits import (
    HEDGE_LEAST_PER_S,
    LLM_MODEL_CHARS,
    LLM_MODELS_APART,
    ROUTES,
    ROUTES_NAMED,
)


class Router:
    def __init__(
        self, routes: Iterable[Route], chance: Chance, now: float, news: News | None = None
    ) -> None:
        self._uniform = chance.uniform
        self._news = news
        self._standings: dict[Target, Standing] = {}
        self._budgets: dict[str, RetryBudget] = {}
        self._exact: dict[str, Way] = {}
        self._stars: list[tuple[str, Way]] = []
        self._of_models: OrderedDict[tuple[str, str], Way] = OrderedDict()
        """by route and model, the most recently used last"""
        self._learnt: WeakValueDictionary[Target, Standing] = WeakValueDictionary()
        """the targets that those lead to, and no settings name"""
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
                        found = before.get(target) or self._learnt.get(target)
                        self._standings[target] = found or self._new(target, now)
        providers = {target.provider for target in self._standings}
        self._budgets = {name: self._budgets[name] for name in providers}
        known = {way.route: way for way in self._ways()}
        ways = [known.get(route) or self._way(route, now) for route in given]
        self._exact = {each.route.name: each for each in ways if not each.route.name.endswith(STAR)}
        stars = [(each.route.name[:-1], each) for each in ways if each.route.name.endswith(STAR)]
        self._stars = sorted(stars, key=lambda each: -len(each[0]))
        served = {id(each.route) for each in ways}
        for key, way in [*self._of_models.items()]:
            if id(way.route) not in served:
                del self._of_models[key]

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
        model: str = "",
    ) -> Attempts:
        """`deadline_s` is a moment, no later than which all is over. `model` is what is asked for,
        where that is known: a call that is relayed as it is may name none."""
        way = self._exact.get(route.name)
        if way is None or way.shared or way.route is not route:
            way = self._of_model(route, model, now)
        timeout_s = now + route.timeout_s
        deadline_s = deadline_s if deadline_s < timeout_s else timeout_s
        return Attempts(way, self._uniform, deadline_s, stream, repeatable)

    def names(self) -> list[str]:
        """What callers may ask for; those that end in `*` stand for many."""
        return [way.route.name for way in self._ways()]

    def look(self, now: float) -> list[TargetStatus]:
        """How every target fares. Asking changes nothing."""
        known = {**self._learnt, **self._standings}
        return [each.status(now) for each in known.values()]

    def hear(self, target: Target, until_s: float, why: str, now: float) -> None:
        """From another front; of a target that nobody has asked for here it means nothing."""
        standing = self._standings.get(target) or self._learnt.get(target)
        if standing is not None:
            standing.heard(now, until_s, why)

    def _ways(self) -> list[Way]:
        return [*self._exact.values(), *(way for _, way in self._stars)]

    def _of_model(self, route: Route, model: str, now: float) -> Way:
        """Where each model has targets of its own, those of this one."""
        key = route.name, model
        known = self._of_models.get(key)
        if known is not None and known.route is route:
            self._of_models.move_to_end(key)
            return known
        served = self._served(route)
        way = served or self._way(route, now)
        if served is None or not way.shared or not model or STAR in model:
            return way
        way = self._of_models[key] = self._way(route, now, model, way.hedges)
        if len(self._of_models) > LLM_MODELS_APART:
            self._of_models.popitem(last=False)
        return way

    def _served(self, route: Route) -> Way | None:
        way = self._exact.get(route.name)
        if way is not None and way.route is route:
            return way
        return next((way for _, way in self._stars if way.route is route), None)

    def _standing(self, target: Target, now: float) -> Standing:
        standing = self._standings.get(target) or self._learnt.get(target)
        if standing is None:
            standing = self._learnt[target] = self._new(target, now)
        return standing

    def _new(self, target: Target, now: float) -> Standing:
        budget = self._budgets.setdefault(target.provider, RetryBudget())
        return Standing(target, budget, now, self._news)

    def _way(
        self, route: Route, now: float, model: str = "", hedges: RetryBudget | None = None
    ) -> Way:
        tiers = tuple(self._ranks(route, tier, now, model) for tier in route.tiers)
        of_asked = [STAR in each.model or not each.model for t in route.tiers for each in t.targets]
        shared = any(of_asked) and not model
        standings = {place.standing.target: place.standing for t in tiers for place in t.places}
        hedge = route.hedge if len(standings) > 1 else None
        patient = route.patience_s is None or len(standings) == 1
        if hedge is None and patient and len(tiers[0].places) == 1:
            only = tiers[0].places[0].standing
            return Way(route, tiers, None, only, Go(0, only.target, "first"), shared)
        if hedge is None:
            return Way(route, tiers, None, None, None, shared)
        if hedge.after_s is None:
            for standing in standings.values():
                for pace in standing.whole_and_stream:
                    pace.learns_high = True
        budget = hedges or RetryBudget(hedge.share, HEDGE_LEAST_PER_S)
        return Way(route, tiers, budget, None, None, shared)

    def _ranks(self, route: Route, tier: Tier, now: float, model: str) -> Ranks:
        """A target of a route that is served no more is known to its last calls alone."""
        weights = tier.weights or (1.0,) * len(tier.targets)
        targets = tier.targets
        if model:
            targets = tuple(Target(t.provider, route.model_for(model, t)) for t in targets)
        places = tuple(
            Place(self._standing(target, now), float(weight))
            for target, weight in zip(targets, weights, strict=True)
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
