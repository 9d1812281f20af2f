"""What a model is loaded from: an ONNX file, or a callable of Python. Told to the fronts, who load.

Loads nothing, and imports nothing heavy: the owner and the command line hold these, too.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeGuard, TypeVar

import msgspec

from paceline.serve.model import ANY_LENGTH, TensorSpec
from paceline.terms.errors import BadModel
from paceline.terms.limits import MODEL_TENSORS

DATATYPES = (
    "BOOL",
    *(f"{kind}{bits}" for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)),
    "FP32",
    "FP64",
)
"""Those that a callable of Python may have."""

NAME_CHARS = 100
"""of an input or output"""

DECLARED_AS = "paceline_declared"
"""The attribute of a callable that has what `paceline.model` was told."""


class Declared(msgspec.Struct, frozen=True):
    """What a callable takes and gives, and whether it may be run again: Python has no such words.
    `padding` is as in `ModelSpec`."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    pure: bool = False


Shapes = Mapping[str, tuple[str, Sequence[int]]]
"""By name: the data type as KServe V2 names it, and the shape, in which -1 is any length."""

Called = TypeVar("Called", bound=Callable[..., object])


def model(*, inputs: Shapes, outputs: Shapes, pure: bool = False) -> Callable[[Called], Called]:
    """Says above a callable what it takes and gives, so that it can be served.

    @paceline.model(inputs={"x": ("FP32", [-1, 64])}, outputs={"y": ("FP32", [-1, 10])})
    """
    said = declared(inputs, outputs, pure=pure)

    def declare(call: Called) -> Called:
        setattr(call, DECLARED_AS, said)
        return call

    return declare


def declared(inputs: Shapes, outputs: Shapes, *, pure: bool) -> Declared:
    """Checked: what is wrong is told where it is written, not at the first request."""
    return Declared(_tensors("input", inputs), _tensors("output", outputs), pure)


def _tensors(what: str, shapes: Shapes) -> tuple[TensorSpec, ...]:
    if not isinstance(shapes, Mapping) or not shapes:
        raise BadModel(
            f"a model needs at least one {what}",
            value=shapes,
            remedy=f"Write {what}s={{'x': ('FP32', [-1, 64])}}, with your names and shapes.",
        )
    if len(shapes) > MODEL_TENSORS:
        raise BadModel(
            f"a model may have {MODEL_TENSORS} {what}s",
            value=len(shapes),
            remedy="Join some of them to one with more columns.",
        )
    return tuple(_tensor(what, name, form) for name, form in shapes.items())


def _tensor(what: str, name: str, form: object) -> TensorSpec:
    match form:
        case (str(datatype), [*sizes]) if datatype in DATATYPES and 0 < len(name) <= NAME_CHARS:
            shape = tuple(size for size in sizes if _is_size(size))
            if len(shape) == len(sizes):
                return TensorSpec(name, datatype, shape)
    raise BadModel(
        f"the {what} `{name}` is no data type and shape",
        value=form,
        remedy=f"Write ('FP32', [-1, 64]), for any number of rows of 64 numbers; the data types "
        f"are {', '.join(DATATYPES)}.",
    )


def _is_size(size: object) -> TypeGuard[int]:
    return type(size) is int and (size == ANY_LENGTH or size > 0)


class ModelSource(msgspec.Struct, frozen=True):
    """`path` is that of an ONNX file; `python` is `file.py:name` or `module:name`, and `folders`
    where modules are looked for beside the usual places. Neither is a shipped model. Without
    `declared` the callable says it itself."""

    name: str
    path: str = ""
    python: str = ""
    folders: tuple[str, ...] = ()
    declared: Declared | None = None

    @property
    def file(self) -> str:
        """The file it is in; empty where only Python knows."""
        where = self.python.rpartition(":")[0]
        return self.path or (where if where.endswith(".py") else "")

    def check(self) -> None:
        """Refuses what cannot be a model, as far as one can tell without loading it."""
        if not self.file:
            return
        path = Path(self.file)
        if not path.exists():
            raise BadModel(
                f"there is no model file for `{self.name}`",
                value=self.file,
                remedy="Check the path; it is seen from the folder of the settings file, or from "
                "where the command was called.",
            )
        if not path.is_file() or not os.access(path, os.R_OK):
            raise BadModel(
                f"the model file of `{self.name}` cannot be read",
                value=self.file,
                remedy="Name a file that this user may read.",
            )
