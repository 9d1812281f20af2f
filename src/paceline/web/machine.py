"""What the owner knows of models and machine beside the boards, as Measurements: size and numbers
of their files, what the Plan in force grants them, what the machine has cost. Called by `owner.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from paceline.clock import Clock
from paceline.serve.onnx_nodes import parameters
from paceline.terms.measurement import Measurement
from paceline.terms.metric import BATCH_LIMIT, COST, EXECUTORS, MODEL_BYTES, MODEL_PARAMETERS
from paceline.terms.plan import Address, Value

COMPUTE = "compute"


def of_files(files: Mapping[str, Path]) -> list[Measurement]:
    """By the name of a model its ONNX file; one that is gone by now says nothing."""
    measured = []
    for model, path in files.items():
        try:
            size = path.stat().st_size
            count = parameters(path) if size else None
        except OSError:
            continue  # the fronts say what is wrong with it
        measured.append(Measurement(MODEL_BYTES, (model,), float(size)))
        if count is not None:
            measured.append(Measurement(MODEL_PARAMETERS, (model,), float(count)))
    return measured


def of_plan(
    models: Sequence[str], settings: Mapping[Address, Value], fronts: int
) -> list[Measurement]:
    measured = []
    for model in models:
        rows, executors = settings.get(f"{model}.max_batch"), settings.get(f"{model}.executors")
        if isinstance(rows, int | float):
            measured.append(Measurement(BATCH_LIMIT, (model,), float(rows)))
        if isinstance(executors, int | float):
            measured.append(Measurement(EXECUTORS, (model,), float(executors * fronts)))
    return measured


class MachineCost:
    """Counts on, whenever it is asked, at what an hour costs at that time."""

    def __init__(self, usd_h: Callable[[], float], clock: Clock) -> None:
        self._usd_h = usd_h
        self._clock = clock
        self._seen_s = clock.now()
        self._usd = 0.0

    def measured(self) -> list[Measurement]:
        """Nothing where nobody has said what an hour costs."""
        now = self._clock.now()
        self._usd += self._usd_h() * (now - self._seen_s) / 3600
        self._seen_s = now
        return [Measurement(COST, (COMPUTE,), self._usd)] if self._usd else []
