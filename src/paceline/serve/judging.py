"""What a model predicted, read from its outputs; and whether that was right, once somebody knows.

An output of whole numbers, truth values or texts, one a row, is a class; one of several numbers a
row are scores, and the largest names the class; one number a row is a number. Of several outputs
the first that is a class counts, then the first of scores, then the first number. Pure. Called by
`notes.py`, which remembers predictions, and by `web/`, where labels arrive.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from paceline.serve.model import ANY_LENGTH, ModelSpec, Tensors, TensorSpec
from paceline.terms.limits import FEEDBACK_CLASSES, FEEDBACK_ROWS, FEEDBACK_TEXT_CHARS

Value: TypeAlias = bool | int | float | str
Label: TypeAlias = Value | tuple[Value, ...]
Kind = Literal["class", "number"]

CLASSES = ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
FARTHEST = 1e30
"""Beyond it a sum of errors says nothing, and its squares might be no numbers in the end."""

NUMBERS = ("FP16", "FP32", "FP64")


class Predicted(msgspec.Struct, frozen=True):
    """By row."""

    kind: Kind
    rows: tuple[Value, ...]


class Verdict(msgspec.Struct, frozen=True):
    """How many rows were right, wrong, or numbers, with how far these were off together, and the
    squares of that. Where `why` says something, the label does not fit the prediction, and nothing
    was judged."""

    right: int = 0
    wrong: int = 0
    numbers: int = 0
    error: float = 0.0
    squared: float = 0.0
    why: str = ""


class Prediction:
    """Of one model: finds what it predicted among its outputs."""

    __slots__ = ("_form", "_name")

    def __init__(self, spec: ModelSpec) -> None:
        self._name = ""
        self._form = ""
        for form in ("class", "scores", "number"):
            for tensor in spec.outputs:
                if not self._name and _form(tensor) == form:
                    self._name, self._form = tensor.name, form

    @property
    def is_known(self) -> bool:
        """Whether there is such an output at all."""
        return bool(self._name)

    @property
    def scores(self) -> str:
        """The output of scores it is read from; empty where it is not."""
        return self._name if self._form == "scores" else ""

    def of(self, outputs: Tensors) -> Predicted | None:
        """None where it has more rows, or scores, than are looked at, or is of another shape than
        the model has declared."""
        array = outputs.get(self._name)
        if array is None or not array.ndim or not 0 < len(array) <= FEEDBACK_ROWS:
            return None
        if self._form == "scores":
            if array.ndim != 2 or not 0 < array.shape[1] <= FEEDBACK_CLASSES:
                return None
            return Predicted("class", tuple(array.argmax(axis=1).tolist()))
        if array.ndim > 1:
            if array.size != len(array):
                return None
            array = array.reshape(-1)
        rows = tuple(array.tolist())
        if self._form == "number":
            return Predicted("number", rows)
        return Predicted("class", rows if array.dtype.kind in "iu" else tuple(map(_class, rows)))


def judge(predicted: Predicted, label: Label) -> Verdict:
    """A list of labels is one a row."""
    labels = label if isinstance(label, tuple) else (label,)
    rows = predicted.rows
    if len(labels) != len(rows):
        return Verdict(why=f"{len(labels)} labels for {len(rows)} rows")
    if predicted.kind == "class":
        right = sum(_same(row, label) for row, label in zip(rows, labels, strict=True))
        return Verdict(right=right, wrong=len(rows) - right)
    error = squared = 0.0
    for row, label in zip(rows, labels, strict=True):
        if isinstance(row, str) or isinstance(label, str | bool):
            return Verdict(why="a number was predicted, and the label is none")
        off = abs(row - label)
        if not off < FARTHEST:
            return Verdict(why="what was predicted is no number, or too large a one")
        error, squared = error + off, squared + off * off
    return Verdict(numbers=len(rows), error=error, squared=squared)


def judge_told(prediction: Label, label: Label) -> Verdict:
    """The same of a prediction that comes with its label. Numbers with a point on either side are
    numbers, all else is a class; a list of numbers with one label are scores."""
    if isinstance(prediction, tuple) and len(prediction) > 1 and not isinstance(label, tuple):
        return _judge_scores(prediction, label)
    rows = prediction if isinstance(prediction, tuple) else (prediction,)
    labels = label if isinstance(label, tuple) else (label,)
    some = any(isinstance(each, float) for each in (*rows, *labels))
    return judge(Predicted("number" if some else "class", rows), labels)


def _judge_scores(scores: Sequence[Value], label: Value) -> Verdict:
    numbers = [each for each in scores if not isinstance(each, str | bool)]
    if len(numbers) != len(scores):
        return Verdict(why=f"1 label for {len(scores)} rows")
    return judge(Predicted("class", (numbers.index(max(numbers)),)), label)


def _form(tensor: TensorSpec) -> str:
    behind = tensor.shape[1:]
    if not tensor.has_rows or len(behind) > 1:
        return ""
    one = behind in ((), (1,))
    if one and (tensor.datatype in CLASSES or tensor.datatype == "BYTES"):
        return "class"
    if tensor.datatype not in NUMBERS:
        return ""
    if one:
        return "number"
    return "scores" if behind[0] == ANY_LENGTH or behind[0] <= FEEDBACK_CLASSES else ""


def _class(row: object) -> Value:
    if isinstance(row, bytes):
        row = row.decode("utf-8", "replace")
    if isinstance(row, str):
        return row[:FEEDBACK_TEXT_CHARS]
    assert isinstance(row, bool | int)
    return int(row)


def _same(row: Value, label: Value) -> bool:
    """A class may be written as a number or as a text of it."""
    if isinstance(row, str) or isinstance(label, str):
        return _text(row) == _text(label)
    return row == label


def _text(value: Value) -> str:
    return value if isinstance(value, str) else str(int(value) if value == int(value) else value)
