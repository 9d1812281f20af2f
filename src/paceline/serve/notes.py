"""What one front remembers of the answers it gave: of some, the prediction, until a label comes.

Labels come seconds or days later, when nobody has the answer any more, and memory is bounded. So
two lots are kept of each model: of the last answers nearly all, a few hundred a second at most; and
one in some seconds, for hours. Each lot is two generations, the older of which is forgotten whole.
Besides, rows are drawn for `samples.py`. Most requests of a busy front cost one look at the clock.
Not a log: nothing is written anywhere,
and of a request there is only its id. Called by `web/infer_call.py` with every answer, and
by whoever is told labels.
"""

from collections.abc import Callable

from paceline.observe import log
from paceline.observe.board import Board
from paceline.serve.judging import Label, Predicted, Prediction, Verdict, judge
from paceline.serve.model import ModelSpec, Tensors
from paceline.serve.samples import Samples
from paceline.terms.limits import FEEDBACK_BURST, FEEDBACK_LATE_S, FEEDBACK_PER_S
from paceline.terms.metric import FEEDBACK, FEEDBACK_ERROR, FEEDBACK_SQUARED

logger = log.get(__name__)

NEVER = float("inf")


class Lot:
    """The last `most` of what was put in, or up to half of them: two generations."""

    __slots__ = ("_before", "_half", "_now")

    def __init__(self, most: int) -> None:
        self._half = max(1, most // 2)
        self._now: dict[bytes, Predicted] = {}
        self._before: dict[bytes, Predicted] = {}

    def put(self, request_id: bytes, predicted: Predicted) -> None:
        if len(self._now) >= self._half:
            self._before, self._now = self._now, {}
        self._now[request_id] = predicted

    def take(self, request_id: bytes) -> Predicted | None:
        """Once: a second label of the same request finds nothing."""
        before = self._before.pop(request_id, None)
        return self._now.pop(request_id, before)

    def __len__(self) -> int:
        return len(self._now) + len(self._before)


class Notes:
    """Of one model. `most` answers are remembered; `samples` draws rows, where somebody wants them.
    Either may be none."""

    __slots__ = (
        "_answer_s",
        "_due_s",
        "_late",
        "_late_apart_s",
        "_late_s",
        "_model",
        "_now",
        "_prediction",
        "_recent",
        "_sample_s",
        "_samples",
    )

    def __init__(
        self,
        spec: ModelSpec,
        most: int,
        now: Callable[[], float],
        samples: Samples | None = None,
    ) -> None:
        self._model = spec.name
        self._now = now
        self._prediction = Prediction(spec)
        self._recent = Lot(most // 2)
        self._late = Lot(most // 2)
        self._late_apart_s = FEEDBACK_LATE_S / max(1, most // 4)
        self._late_s = 0.0
        self._samples = samples
        self._answer_s = 0.0 if most and self._prediction.is_known else NEVER
        """when the next one is remembered; a burst may be ahead of it (a leaky bucket, as one
        number)"""
        self._sample_s = NEVER if samples is None else 0.0
        self._due_s = min(self._answer_s, self._sample_s)

    def note(self, request_id: bytes, rows: int, inputs: Tensors, outputs: Tensors) -> None:
        """Whatever happens in here, the answer goes out."""
        now = self._now()
        if now < self._due_s:
            return
        try:
            self._note(now, request_id, rows, inputs, outputs)
        except Exception:  # a bug of ours, or a model that answers other tensors than it declared
            logger.exception("nothing is remembered of a model's answers any more")
            self._answer_s = self._sample_s = NEVER
        self._due_s = min(self._answer_s, self._sample_s)

    def judge(self, request_id: bytes, label: Label) -> Verdict | None:
        """None where nothing is remembered of such a request."""
        late, recent = self._late.take(request_id), self._recent.take(request_id)
        predicted = late if recent is None else recent
        return None if predicted is None else judge(predicted, label)

    def __len__(self) -> int:
        return len(self._recent) + len(self._late)

    def _note(
        self, now: float, request_id: bytes, rows: int, inputs: Tensors, outputs: Tensors
    ) -> None:
        predicted = self._prediction.of(outputs)
        if now >= self._answer_s:
            apart_s = 1 / FEEDBACK_PER_S
            self._answer_s = max(self._answer_s, now - FEEDBACK_BURST * apart_s) + apart_s
            if predicted is not None:
                self._remember(now, request_id, predicted)
        if self._samples is not None and now >= self._sample_s:
            self._sample_s = now + self._samples.apart_s
            self._samples.take(self._model, now, inputs, outputs, rows, predicted)

    def _remember(self, now: float, request_id: bytes, predicted: Predicted) -> None:
        if now >= self._late_s:
            self._late_s = now + self._late_apart_s
            self._late.put(request_id, predicted)
        else:
            self._recent.put(request_id, predicted)


def count(board: Board, model: str, verdict: Verdict) -> None:
    """On the board of whoever judged."""
    if verdict.why:
        board.counter(FEEDBACK, model, "unfit").add()
    if verdict.right:
        board.counter(FEEDBACK, model, "right").add(verdict.right)
    if verdict.wrong:
        board.counter(FEEDBACK, model, "wrong").add(verdict.wrong)
    if verdict.numbers:
        board.counter(FEEDBACK, model, "measured").add(verdict.numbers)
        board.counter(FEEDBACK_ERROR, model).add(verdict.error)
        board.counter(FEEDBACK_SQUARED, model).add(verdict.squared)
