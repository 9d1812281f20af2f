"""From what models are loaded from to models that run, in a front. Called by `app.py`."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from paceline.observe.probes import container
from paceline.serve.model import Model, TensorSpec
from paceline.serve.model_process import ModelProcess
from paceline.serve.model_source import ModelSource
from paceline.serve.onnx_model import OnnxModel

TOLD_INPUTS = 16
"""of one model: whoever starts a server is shown how to call it"""


def load_all(sources: Iterable[ModelSource], shipped: Mapping[str, Path]) -> dict[str, Model]:
    """Raises BadModel for the first that cannot be served, and leaves nothing of the others."""
    loaded: dict[str, Model] = {}
    try:
        for source in sources:
            loaded[source.name] = _load(source, shipped)
    except BaseException:
        for model in loaded.values():
            model.close()
        raise
    return loaded


def takes(models: Mapping[str, Model]) -> dict[str, tuple[TensorSpec, ...]]:
    """The inputs of each; none of one that has very many."""
    return {
        name: model.spec.inputs if len(model.spec.inputs) <= TOLD_INPUTS else ()
        for name, model in models.items()
    }


def _load(source: ModelSource, shipped: Mapping[str, Path]) -> Model:
    source.check()
    if source.python:
        return ModelProcess.start(source, threads=max(1, math.floor(container().cores)))
    path = Path(source.path) if source.path else shipped[source.name]
    return OnnxModel.load(path, source.name)
