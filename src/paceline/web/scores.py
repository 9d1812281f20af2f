"""Watches what comes of predictions: a while after a change it is measured and written down.

Made by the owner, which has the numbers of all fronts; told by the desk of each change that
predicts something. How a prediction is judged is `changes/scoring.py`.
"""

import asyncio
from collections.abc import Callable

from paceline.changes.desk import Desk
from paceline.changes.scoring import Score, Totals, score
from paceline.clock import Clock
from paceline.journal.entries import Adjusted, Entry, PlanChanged, Scored
from paceline.observe import log
from paceline.terms.errors import PacelineError
from paceline.terms.limits import SCORE_AFTER_S, SCORES_WAITING
from paceline.terms.plan import Address, Prediction

logger = log.get(__name__)

WHO = "paceline"


class Scores:
    """`totals` measures a workload now."""

    def __init__(self, desk: Desk, totals: Callable[[str], Totals], clock: Clock) -> None:
        self._desk = desk
        self._totals = totals
        self._clock = clock
        self._stopping = asyncio.Event()
        self._watching: set[asyncio.Task[None]] = set()
        self._changed: dict[str, int] = {}

    def watch(self, entry: Entry) -> None:
        """Of an entry that has just become durable."""
        knobs, predictions = _predicted(entry)
        for knob in knobs:
            self._changed[_workload(knob)] = entry.seq
        if predictions:
            task = asyncio.ensure_future(self._watch(entry, knobs, predictions))
            self._watching.add(task)
            task.add_done_callback(self._watching.discard)

    async def close(self) -> None:
        """What is still open when the server stops cannot be told."""
        self._stopping.set()
        if self._watching:
            await asyncio.wait(self._watching)

    async def _watch(
        self, entry: Entry, knobs: tuple[Address, ...], predictions: tuple[Prediction, ...]
    ) -> None:
        workload = _workload(knobs[0])
        before = self._totals(workload)
        disturbed = ""
        if len(self._watching) > SCORES_WAITING:
            disturbed = "too many predictions at once"
        elif not await self._waited():
            disturbed = "the server stopped before"
        elif self._changed[workload] != entry.seq:
            disturbed = f"{workload} was changed again meanwhile"
        after = self._totals(workload)
        scores = [(each, score(each, before, after, disturbed)) for each in predictions]
        try:
            await self._desk.score([_scored(entry, knobs, *each) for each in scores], WHO)
        except PacelineError as error:
            logger.error("what came of a prediction cannot be kept", why=str(error))

    async def _waited(self) -> bool:
        """False where the server stops before the time is over."""
        until = asyncio.ensure_future(self._clock.until(self._clock.now() + SCORE_AFTER_S))
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((until, stopping), return_when=asyncio.FIRST_COMPLETED)
        until.cancel()
        stopping.cancel()
        return not self._stopping.is_set()


def _workload(knob: Address) -> str:
    return knob.rpartition(".")[0]


def _predicted(entry: Entry) -> tuple[tuple[Address, ...], tuple[Prediction, ...]]:
    match entry.body:
        case PlanChanged(change=change):
            return tuple(step.knob for step in change.diff), change.predictions
        case Adjusted(adjustment):
            return (adjustment.knob,), adjustment.predictions
    return (), ()


def _scored(
    entry: Entry, knobs: tuple[Address, ...], prediction: Prediction, result: Score
) -> Scored:
    return Scored(
        of=entry.seq,
        knobs=knobs,
        prediction=prediction,
        outcome=result.outcome,
        of_adjustment=isinstance(entry.body, Adjusted),
        measured=result.measured,
        evidence=result.evidence,
    )
