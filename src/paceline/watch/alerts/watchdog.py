"""Looks at the past by the rules, and says what is an alert now. Decides who is told of nothing.

It remembers how long a value has been beyond its bound, and which burn rates it found at the last
look; both are asked of the past again after a restart. Pure: the past and the time are handed in.
Called once a second by `desk.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from paceline.terms.alert import AlertBook, Severity, worse
from paceline.terms.amounts import long_time, percent
from paceline.terms.goal import Limit
from paceline.terms.limits import ALERT_TEXT_CHARS, START_S
from paceline.watch.alerts import burn
from paceline.watch.alerts.burn import Events, Left, Pair
from paceline.watch.alerts.latch import Bounds, Watched
from paceline.watch.alerts.objectives import (
    Failing,
    Objective,
    events,
    failing,
    limits,
    objectives,
    whole,
)
from paceline.watch.alerts.readings import Reading, Sight
from paceline.watch.alerts.rules import BURN, RULES
from paceline.watch.past import Past

LEFT_EVERY_S = 60.0
"""How often it is counted anew what is left of a budget that burns: it asks for a month."""

MERGED_SELDOM = 5.0
"""So many times more seldom is a burn rate looked at that merges sketches, and does not count."""

Goals = Mapping[str, Sequence[str]]


class Finding(NamedTuple):
    """What is an alert now; `about` is a model, one of its goals, or the host."""

    rule: str
    about: str
    severity: Severity
    cause: str
    value: str
    remedy: str
    budget_left: float | None = None
    exhausted_in_s: float | None = None

    @property
    def id(self) -> str:
        return alert_id(self.rule, self.about)


class Seen(NamedTuple):
    """Of those in `unknown` nobody can say whether they are over; those in `pending` may begin."""

    findings: Mapping[str, Finding]
    unknown: frozenset[str]
    pending: tuple[str, ...]


def alert_id(rule: str, about: str) -> str:
    return f"{rule}:{about}"


class Watchdog:
    """`bounds` are the rules to look by; one without bounds has its own, as burn rates have. `book`
    is what a journal remembers: what was an alert is one until it is seen to be over."""

    def __init__(
        self, bounds: Mapping[str, Bounds | None], models: Sequence[str], book: AlertBook
    ) -> None:
        self._bounds = bounds
        self._models = models
        self._was = {each.id: each.severity for each in book.alerts.values() if each.open}
        self._watched: dict[str, dict[str, Watched]] = {}
        """by rule, then by what it is about"""
        self._read_s: dict[str, float] = {}
        self._found: dict[str, list[Finding]] = {}
        self._burns: dict[tuple[Objective, Pair], bool] = {}
        self._due_s: dict[tuple[Objective, Pair], float] = {}
        self._left: dict[Objective, tuple[float, Left, Events]] = {}
        self._goals: Goals | None = None
        self._objectives: tuple[Objective, ...] = ()
        self._limits: dict[str, tuple[Limit, ...]] = {}
        self._began_s = float("inf")
        self._settled = False

    def follow(self, bounds: Mapping[str, Bounds | None], book: AlertBook) -> None:
        """Other bounds from now on. Where they differ it begins anew, from what the book says: what
        is an alert stays one until it is seen to be over by the new ones."""
        for name in {*self._bounds, *bounds}:
            if self._bounds.get(name) == bounds.get(name):
                continue
            self._watched.pop(name, None)
            self._read_s.pop(name, None)
            self._found.pop(name, None)
            was = {each.id: each.severity for each in book.alerts.values() if each.open}
            self._was |= {id_: was[id_] for id_ in was if id_.startswith(f"{name}:")}
        self._bounds = bounds

    def look(self, past: Past, goals: Goals, now: float) -> Seen:
        self._began_s = min(self._began_s, now)
        if goals is not self._goals:
            self._goals = goals
            self._objectives = objectives(goals)
            self._limits = {model: limits(clauses) for model, clauses in goals.items()}
            known = set(self._objectives)
            self._burns = {key: on for key, on in self._burns.items() if key[0] in known}
            self._due_s = {key: due for key, due in self._due_s.items() if key[0] in known}
            self._left = {key: left for key, left in self._left.items() if key in known}
        findings: dict[str, Finding] = {}
        unknown: set[str] = set()
        pending: list[str] = []
        sight = Sight(past, self._models, self._limits, failing(past))
        sight = sight._replace(settled=self._has_settled(sight, now))
        for each in self._read(sight, now, pending):
            findings[each.id] = each
        if BURN in self._bounds:
            for objective in self._objectives:
                found = self._burning(past, sight.failing, objective, now)
                if found is not None:
                    findings[found.id] = found
                elif now - self._began_s < burn.PAIRS[0].short_s:  # of a gap nobody knows
                    unknown.add(alert_id(BURN, objective.name))
        return Seen(findings, frozenset(unknown & self._was.keys()), tuple(pending))

    def burning(self, about: str, pair: Pair) -> bool:
        """What the last look found of one objective, by one pair of windows."""
        return any(
            on and objective.name == about and by.long_s == pair.long_s
            for (objective, by), on in self._burns.items()
        )

    def _has_settled(self, sight: Sight, now: float) -> bool:
        """A model may take its time to load; no process is dead because of that."""
        all_ready = sight.ready is not None and sight.ready[0] >= sight.ready[1]
        self._settled = self._settled or all_ready or now - self._began_s >= START_S
        return self._settled

    # --- Values with bounds

    def _read(self, sight: Sight, now: float, pending: list[str]) -> Iterator[Finding]:
        for name, bounds in self._bounds.items():
            rule = RULES[name]
            if rule.read is None or bounds is None:
                continue
            if now < self._read_s.get(name, now):
                yield from self._found.get(name, ())
                continue
            self._read_s[name] = now + rule.every_s
            self._found[name] = found = []
            before, self._watched[name] = self._watched.get(name, {}), {}
            for reading in rule.read(sight):
                id_ = alert_id(name, reading.about)
                watched = before.get(reading.about) or Watched(bounds, self._was.pop(id_, None))
                self._watched[name][reading.about] = watched
                severity = watched.see(reading.value, now)
                if watched.pending:
                    pending.append(id_)
                if severity is not None:
                    found.append(_finding(name, reading, severity))
            yield from found

    # --- Burn rates

    def _burning(
        self, past: Past, failing: Failing, objective: Objective, now: float
    ) -> Finding | None:
        worst: Pair | None = None
        for pair in burn.pairs(objective.budget):
            if self._burns_by(pair, past, failing, objective, now) and (
                worst is None or worse(pair.severity, worst.severity)
            ):
                worst = pair
        if worst is None:
            self._left.pop(objective, None)
            return None
        left, lately = self._counted_left(past, failing, objective, worst, now)
        rate = burn.burn_rate(lately, objective.budget, worst.short_s, past.known_s())
        bad = lately.bad / lately.total if lately.total else 0.0
        what = "requests fail" if objective.bound_s is None else "answers take longer"
        return Finding(
            BURN,
            objective.name,
            worst.severity,
            f"{objective.model} misses its goal {objective.limit}: {percent(bad)} of its {what}",
            f"burns its budget of {percent(objective.budget)} {rate:.3g} times too fast, over "
            f"{long_time(worst.long_s)} and over {long_time(worst.short_s)}",
            RULES[BURN].remedy,
            left.share,
            left.exhausted_in_s,
        )

    def _burns_by(
        self, pair: Pair, past: Past, failing: Failing, objective: Objective, now: float
    ) -> bool:
        if objective.bound_s is None and not failing.get(objective.model):
            return False  # nothing has failed as long as anybody remembers
        key = objective, pair
        if now >= self._due_s.get(key, now):
            seldom = 1.0 if objective.bound_s is None else MERGED_SELDOM
            self._due_s[key] = now + pair.every_s * seldom
            known_s = past.known_s()
            short = events(past, failing, objective, pair.short_s)
            rate = burn.burn_rate(short, objective.budget, pair.short_s, known_s)
            # The longer window asks for much, and is asked only where it matters.
            self._burns[key] = rate > pair.factor and burn.burns(
                pair,
                objective.budget,
                short,
                events(past, failing, objective, pair.long_s),
                known_s,
            )
        return self._burns[key]

    def _counted_left(
        self, past: Past, failing: Failing, objective: Objective, pair: Pair, now: float
    ) -> tuple[Left, Events]:
        at_s, left, lately = self._left.get(
            objective, (-LEFT_EVERY_S, Left(1.0, None), Events(0, 0))
        )
        if now - at_s >= LEFT_EVERY_S or objective not in self._left:
            month = whole(past, failing, objective)
            lately = events(past, failing, objective, pair.short_s)
            left = burn.left(month, lately, objective.budget, pair.short_s, past.known_s())
            self._left[objective] = now, left, lately
        return left, lately


def _finding(rule: str, reading: Reading, severity: Severity) -> Finding:
    """Of a value that nobody can say any more, the words are gone as well."""
    return Finding(
        rule,
        reading.about,
        severity,
        (reading.cause or RULES[rule].what.rstrip("."))[:ALERT_TEXT_CHARS],
        (reading.said or "nothing can be told just now")[:ALERT_TEXT_CHARS],
        RULES[rule].remedy,
        exhausted_in_s=reading.exhausted_in_s,
    )
