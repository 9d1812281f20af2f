"""What a busy host decides: adjustments with predictions that are scored, and changes of the Plan.

Made up with a seed, at simulated times, and written by the journal's own rules: every entry is
folded, snapshots come when they are due. Only the transactions are larger than the journal makes
them, because a year would take hours otherwise. Called by `journal`.
"""

from collections import deque
from collections.abc import Sequence

from paceline.clock import Chance
from paceline.journal.entries import Adjusted, Body, Entry, Outcome, PlanChanged, Scored, to_record
from paceline.journal.fold import fold, to_snapshot
from paceline.journal.journal import load
from paceline.journal.store import Record, Snapshot, Store
from paceline.serve.knobs import DEADLINE, MAX_IN_FLIGHT, MAX_ROWS, catalogue
from paceline.terms.limits import JOURNAL_SNAPSHOT_ENTRIES
from paceline.terms.plan import (
    EMPTY,
    Address,
    Adjustment,
    Catalogue,
    Change,
    Line,
    Plan,
    Prediction,
    Span,
    Step,
    Verdict,
    changed,
    content_hash,
    diff,
)

MODELS = (
    "digits",
    "fraud",
    "ranker",
    "speech",
    "resnet50",
    "captions",
    "churn",
    "embeddings",
    "ocr",
    "moderation",
)


def steered(models: Sequence[str]) -> tuple[Address, ...]:
    return tuple(
        f"{model}.{knob.name}" for model in models for knob in (DEADLINE, MAX_ROWS, MAX_IN_FLIGHT)
    )


STEERED = steered(MODELS)

DAY_S = 86400.0
BEGINS_S = 8 * 3600.0
"""The busy hours begin here, in every day."""
SCORED_AFTER_S = 60.0
IN_ONE_GO = 2000


class Host:
    """Goes on where the store ends."""

    def __init__(self, store: Store, chance: Chance, models: Sequence[str] = MODELS) -> None:
        self.state, self._snapshot_seq = load(store)
        self._store = store
        self._chance = chance
        self._records: list[Record] = []
        self._snapshot: Snapshot | None = None
        self._unscored: deque[tuple[float, int, Address, Prediction, bool]] = deque()
        self._catalogue: Catalogue = catalogue(models)
        self._steered = steered(models)

    @property
    def since_snapshot(self) -> int:
        return self.state.seq - self._snapshot_seq

    def begin(self, at: float) -> None:
        plan = Plan(1, {knob: Line(of.default, of.whole) for knob, of in self._catalogue.items()})
        first = Change(diff(EMPTY, plan), "The defaults.")
        self._write(at, "paceline 0.1.0", PlanChanged(1, content_hash(plan), first))
        self.flush()

    def day(self, at: float, busy_s: float, adjust_every_s: float, changes: int) -> None:
        """From midnight on; `adjust_every_s` is each knob's, on average."""
        ends = at + BEGINS_S + busy_s
        moment = at + BEGINS_S
        per_adjustment_s = adjust_every_s / len(self._steered)
        changes_left = changes
        while (moment := moment + self._chance.exponential(per_adjustment_s)) < ends:
            self._score_until(moment)
            if changes_left and ends - moment < busy_s * changes_left / changes:
                self._change(moment)
                changes_left -= 1
            self._adjust(moment, self._chance.choice(self._steered))
        self._score_until(ends + SCORED_AFTER_S)
        self.flush()

    def one_knob(self, at: float, times: int, every_s: float) -> None:
        for number in range(times):
            moment = at + number * every_s
            self._score_until(moment)
            self._adjust(moment, self._steered[0])
        self._score_until(at + times * every_s + SCORED_AFTER_S)
        self.flush()

    def adjust_singly(self, at: float, times: int, among: Sequence[Address]) -> None:
        """Each in a transaction of its own, as in quiet hours."""
        for number in range(times):
            self._adjust(at + number, self._chance.choice(among))
            self.flush()
        self._unscored.clear()

    def change_only(self, at: float, until_since_snapshot: int) -> None:
        """Nothing but changes of the Plan, which nobody scores."""
        while self.since_snapshot < until_since_snapshot:
            self._change(at)
        self._unscored.clear()
        self.flush()

    def flush(self) -> None:
        if self._records:
            self._store.append(self._records, self._snapshot)
        self._records, self._snapshot = [], None

    def _adjust(self, at: float, knob: Address) -> None:
        line = self.state.plan.lines[knob]
        assert isinstance(line.envelope, Span)
        before = self.state.adjusted.get(knob, line.start)
        after = self._chance.integer(int(line.envelope.low), int(line.envelope.high))
        expects = Prediction("p95_ms", high=30.0)
        reason = f"p95_ms was {self._chance.uniform(10, 90):.1f}, the goal says 30."
        body = Adjusted(Adjustment(knob, before, after, reason, (expects,)))
        seq = self._write(at, "steering", body)
        self._unscored.append((at + SCORED_AFTER_S, seq, knob, expects, True))

    def _change(self, at: float) -> None:
        knob = self._chance.choice(self._steered)
        whole = self._catalogue[knob].whole
        assert isinstance(whole, Span)
        low = self._chance.integer(int(whole.low), int(whole.high))
        high = self._chance.integer(low, int(whole.high))
        before = self.state.plan.lines[knob]
        after = Line(self._chance.integer(low, high), Span(low, high))
        if after == before:
            return
        expects = Prediction("cost_usd_h", high=1.25)
        evidence = "p95_ms 28.4 to 26.9 in 4 of 4 blocks, A/A within 0.6."
        reason = "Fewer rows at once while the cheaper instance serves."
        step = Step(knob, before, after)
        change = Change((step,), reason, Verdict("better", evidence), (expects,))
        version = self.state.plan.version + 1
        plan = changed(self.state.plan, (step,), version)
        seq = self._write(at, "forest", PlanChanged(version, content_hash(plan), change))
        self._unscored.append((at + SCORED_AFTER_S, seq, knob, expects, False))

    def _score_until(self, moment: float) -> None:
        while self._unscored and self._unscored[0][0] <= moment:
            at, of, knob, expects, of_adjustment = self._unscored.popleft()
            assert expects.high is not None
            measured = expects.high * self._chance.uniform(0.5, 1.2)
            outcome: Outcome = "came true" if expects.holds(measured) else "did not"
            body = Scored(of, (knob,), expects, outcome, of_adjustment, measured)
            self._write(at, "steering", body)

    def _write(self, at: float, who: str, body: Body) -> int:
        entry = Entry(self.state.seq + 1, at, who, body)
        self.state = fold(self.state, entry)
        self._records.append(to_record(entry))
        if self.since_snapshot >= JOURNAL_SNAPSHOT_ENTRIES:
            self._snapshot = to_snapshot(self.state)
            self._snapshot_seq = self.state.seq
        if len(self._records) >= IN_ONE_GO:
            self.flush()
        return entry.seq
