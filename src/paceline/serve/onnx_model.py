"""An ONNX file as a Model, run in this process by onnxruntime.

Not isolated: a crash inside the runtime takes the process with it. Called by whoever loads models
at start; `run` blocks its thread for as long as the model computes, and lets other threads work.

What ONNX has no words for a file may say in its metadata: `paceline.padding`, a JSON object, names
inputs with the value that may fill up their open dimensions, such as `{"ids": 0, "mask": 0}`.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from paceline.serve.model import ANY_LENGTH, ModelSpec, Tensors, TensorSpec
from paceline.serve.onnx_nodes import draws_lots
from paceline.terms.errors import BadModel, ModelFailed

DATATYPES: Mapping[str, str] = {
    "tensor(bool)": "BOOL",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
"""onnxruntime's name of a tensor type, and KServe V2's."""

PADDING = "paceline.padding"
"""in the metadata of a file"""

NO_VERSION = 2**63 - 1
"""What onnxruntime says of a file that has none."""

ONLY_FATAL = 4
"""onnxruntime's log level: what it would print as an error, it also raises."""


class OnnxModel:
    """Fills the `Model` seam; make one with `load`."""

    def __init__(self, spec: ModelSpec, session: Any) -> None:
        self.spec = spec
        self._session = session
        self._outputs = [tensor.name for tensor in spec.outputs]

    @classmethod
    def load(
        cls,
        path: Path,
        name: str,
        *,
        intra_op_threads: int = 1,
        inter_op_threads: int = 1,
        traced: Path | None = None,
    ) -> Self:
        """`traced` is how the name of a file begins in which each run is written down, for a
        profile; never where a model serves."""
        if not path.is_file():
            raise BadModel(
                f"there is no model file for `{name}`",
                value=str(path),
                remedy="Check the path; Paceline loads ONNX files.",
            )
        ort = _runtime()
        options = _options(ort, intra_op_threads, inter_op_threads)
        if traced is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(traced)
        try:
            session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BadModel(
                f"onnxruntime {ort.__version__} cannot load the model `{name}`: {_reason(error)}",
                value=str(path),
                remedy="Check that the file is complete and that this version supports its opset.",
            ) from error
        return cls(_spec(session, name, pure=not draws_lots(path)), session)

    def run(self, batch: Tensors) -> Tensors:
        try:
            answers = self._session.run(self._outputs, dict(batch))
        except Exception as error:
            raise ModelFailed(
                f"the model `{self.spec.name}` failed: {_reason(error)}",
                remedy="Check the values sent; if they are right, the model file is at fault.",
            ) from error
        return dict(zip(self._outputs, answers, strict=True))

    def end_trace(self) -> Path:
        """The file that was written; nothing is added to it any more."""
        return Path(self._session.end_profiling())

    def close(self) -> None:
        """Frees the model's memory once the last `run` has returned."""
        self._session = None


def _runtime() -> Any:
    """onnxruntime, silent. It reads this variable while it is imported, and nothing else keeps it
    from phoning home and leaving an identifier in ~/.cache: its function for that comes too late.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime  # type: ignore[import-untyped]

    onnxruntime.set_default_logger_severity(ONLY_FATAL)
    return onnxruntime


def _options(ort: Any, intra_op_threads: int, inter_op_threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = inter_op_threads
    options.log_severity_level = ONLY_FATAL
    # Threads that spin between runs keep an idle server's CPU busy.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # The arena keeps the memory of the largest batch there was. Still it takes less than malloc
    # does where two threads run, which are slower by it, too (docs/design/models.md).
    options.enable_cpu_mem_arena = True
    return options


def _spec(session: Any, name: str, *, pure: bool) -> ModelSpec:
    about = session.get_modelmeta()
    inputs = _tensors(session.get_inputs(), name)
    said = about.custom_metadata_map.get(PADDING)
    return ModelSpec(
        name=name,
        version=str(about.version) if 0 < about.version < NO_VERSION else "1",
        inputs=inputs,
        outputs=_tensors(session.get_outputs(), name),
        doc=about.description,
        padding={} if said is None else _padding(said, inputs, name),
        pure=pure,
        platform="onnxruntime_onnx",
    )


def _padding(said: str, inputs: tuple[TensorSpec, ...], model: str) -> dict[str, float]:
    """Checked: what is filled up must be so wherever the same length is meant, or nothing fits."""
    try:
        padding = msgspec.json.decode(said, type=dict[str, float])
    except msgspec.DecodeError as error:
        raise _bad_padding(f"is not an object of numbers: {error}", said, model) from error
    by_name = {tensor.name: tensor for tensor in inputs}
    for name in padding:
        if name not in by_name:
            raise _bad_padding(f"names `{name}`, which is no input", said, model)
        tensor = by_name[name]
        if tensor.shape[1:].count(ANY_LENGTH) != len(tensor.names) or not tensor.names:
            raise _bad_padding(f"needs open dimensions of `{name}` that have names", said, model)
    for tensor in inputs:
        shared = {each for other in padding for each in by_name[other].names.values()} & {
            *tensor.names.values()
        }
        if shared and tensor.name not in padding:
            raise _bad_padding(f"leaves out `{tensor.name}`, which is as long", said, model)
    return padding


def _bad_padding(fault: str, said: str, model: str) -> BadModel:
    return BadModel(
        f"the metadata `{PADDING}` of the model `{model}` {fault}",
        value=said,
        remedy="Name each input of open length with the value to fill it up with, or leave it out.",
    )


def _tensors(nodes: Iterable[Any], model: str) -> tuple[TensorSpec, ...]:
    return tuple(_tensor(node, model) for node in nodes)


def _tensor(node: Any, model: str) -> TensorSpec:
    if node.type not in DATATYPES:
        raise BadModel(
            f"the model `{model}` has `{node.name}`, which is not a tensor Paceline knows",
            value=node.type,
            remedy="Export plain tensors; for skl2onnx that is the option zipmap=False.",
        )
    # An open dimension has a name, or nothing at all.
    shape = tuple(size if isinstance(size, int) else ANY_LENGTH for size in node.shape)
    names = {axis: name for axis, name in enumerate(node.shape) if axis and isinstance(name, str)}
    return TensorSpec(node.name, DATATYPES[node.type], shape, names)


def _reason(error: Exception) -> str:
    """onnxruntime's message without its prefix of codes."""
    return str(error).rpartition(" : ")[2].strip()
