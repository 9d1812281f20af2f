"""What a model is to the serving plane: a description of its tensors, and something that runs.

Not how it runs (`onnx_model`), nor when (the batcher). Called by everything in this plane. It
imports no numpy, so a process that only describes models stays small.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

if TYPE_CHECKING:
    from numpy.typing import NDArray

Tensors: TypeAlias = "Mapping[str, NDArray[Any]]"
"""Arrays by the name of their input or output."""

ANY_LENGTH = -1
"""A dimension the model leaves open. As the first dimension it counts rows."""


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output; `datatype` is the name KServe V2 gives it (FP32, INT64, BYTES...).
    `names` are those of open dimensions behind the rows, by axis: equal names, equal lengths."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    names: Mapping[int, str] = {}

    @property
    def has_rows(self) -> bool:
        return self.shape[:1] == (ANY_LENGTH,)

    def __str__(self) -> str:
        return f"`{self.name}` {self.datatype} {list(self.shape)}"


class ModelSpec(msgspec.Struct, frozen=True):
    """`padding`: by input, the value with which its open dimensions may be filled up, because it
    changes no answer; `pure`: it may be run again without harm, and then says the same."""

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    doc: str = ""
    padding: Mapping[str, float] = {}
    pure: bool = False
    platform: str = "python"
    """what runs it, by the name KServe V2 has for that"""
    isolated: bool = False
    """in a process of its own: a crash or a hang there is no crash or hang here"""

    @property
    def has_rows(self) -> bool:
        """Whether several requests can share one run, and one row can be told from another."""
        return all(tensor.has_rows for tensor in self.inputs)


class Model(Protocol):
    """The seam every backend fills. `run` may be called from several threads at once."""

    @property
    def spec(self) -> ModelSpec: ...

    def run(self, batch: Tensors) -> Tensors: ...

    def close(self) -> None: ...
