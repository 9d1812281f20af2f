"""Rows of answered requests that a front draws, for the owner to compare with earlier ones.

A row a second or so of each model, whatever is asked: a few numbers of it (`features.py`) and the
class that was predicted. They are told together, about once a second. What happens to them is
`watch/drift.py`'s business. Called by `notes.py`.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from paceline.serve.judging import Predicted
from paceline.serve.model import ModelSpec, Tensors
from paceline.terms.limits import DRIFT_TEXT_CHARS, DRIFT_TOLD

if TYPE_CHECKING:
    from paceline.serve.features import Features

TELL_S = 1.0


class Rows(msgspec.Struct, frozen=True):
    """Of one model. Of each row so many 32-bit floats as there are names, one behind the other, and
    the predicted class, empty where there is none. The first `of_inputs` names are of inputs."""

    model: str
    names: tuple[str, ...]
    of_inputs: int
    rows: bytes
    classes: tuple[str, ...]


class Samples:
    """Of all models of one front. `tell` hears what was drawn."""

    def __init__(
        self, specs: Mapping[str, ModelSpec], rows_s: float, tell: Callable[[list[Rows]], None]
    ) -> None:
        from paceline.serve import features  # which needs numpy, as no reader of `Rows` does

        self.apart_s = 1 / rows_s
        self._tell = tell
        self._features: Mapping[str, Features] = {
            name: features.Features(spec) for name, spec in specs.items()
        }
        self._drawn: dict[str, tuple[list[bytes], list[str]]] = {}
        self._told_s = 0.0
        self._count = 0

    def take(
        self,
        model: str,
        now: float,
        inputs: Tensors,
        outputs: Tensors,
        rows: int,
        predicted: Predicted | None,
    ) -> None:
        """One of its rows, in turn the first, the second and so on."""
        self._count += 1
        row = self._count % max(1, rows)
        drawn, classes = self._drawn.setdefault(model, ([], []))
        drawn.append(self._features[model].of(inputs, outputs, row))
        of_class = predicted is not None and predicted.kind == "class"
        text = str(predicted.rows[row]) if of_class and predicted else ""
        classes.append(text[:DRIFT_TEXT_CHARS])
        if now - self._told_s >= TELL_S or len(drawn) >= DRIFT_TOLD:
            self._told_s = now
            self._tell([self._rows(*each) for each in self._drawn.items()])
            self._drawn.clear()

    def _rows(self, model: str, drawn: tuple[list[bytes], list[str]]) -> Rows:
        features = self._features[model]
        return Rows(model, features.names, features.of_inputs, b"".join(drawn[0]), tuple(drawn[1]))
