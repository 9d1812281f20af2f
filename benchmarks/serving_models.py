"""The three models that servers are compared with, as files: classifier, sentence encoder, CNN.

Not those of `models`, which are small for the sake of many timings; these are as large as what
people serve: a small MLP, MiniLM-L6 (90 MB) and ResNet-18 (47 MB). Built from seeded weights, so
they have learned nothing. Numbers to ask have four decimals, so that every form of a request,
JSON or binary, says the same. Needs the extra `sklearn` (for `onnx`). Called by `serving` and
`goodput`.
"""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from benchmarks import models
from benchmarks.models import FAR_BELOW, _Graph
from paceline.serve.model import Tensors

FEATURES, WIDTH, LABELS = 64, 64, 10

VOCABULARY, PLACES, LENGTH = 30522, 512, 32
LAYERS, HIDDEN, HEADS, WIDE = 6, 384, 12, 1536
EPSILON = 1e-12

PICTURE = (3, 224, 224)
STAGES = (64, 128, 256, 512)
CLASSES = 1000

DECIMALS = 4
"""Of every number that is asked."""


def classifier(seed: int = 0) -> bytes:
    """Three layers from 64 numbers to the probabilities of ten labels."""
    graph = _Graph(seed)
    x = "x"
    for inside, outside in ((FEATURES, WIDTH), (WIDTH, WIDTH)):
        x = graph.add("Relu", graph.linear(x, inside, outside))
    graph.add("Softmax", graph.linear(x, WIDTH, LABELS), name="probabilities", axis=-1)
    return graph.model("classifier", [_floats("x", FEATURES)], [_floats("probabilities", LABELS)])


def encoder(seed: int = 0) -> bytes:
    """MiniLM-L6's shape: six layers, normalised behind each half, and the mean of the words."""
    graph = _Graph(seed)
    mask = graph.add("Cast", "mask", to=TensorProto.FLOAT)
    die = np.random.default_rng(seed)

    def embedded(count: int) -> str:
        return graph.constant(die.standard_normal((count, HIDDEN)).astype(np.float32))

    words = graph.add("Gather", embedded(VOCABULARY), "ids")
    places = graph.add("Slice", embedded(PLACES), *map(graph.whole, (0, LENGTH, 0)))
    x = _normal(graph, graph.add("Add", words, places))
    unwanted = graph.add("Mul", graph.add("Sub", graph.floats(1.0), mask), graph.floats(FAR_BELOW))
    unwanted = graph.add("Unsqueeze", unwanted, graph.whole(1, 2))
    for _ in range(LAYERS):
        x = _normal(graph, graph.add("Add", x, _attention(graph, x, unwanted)))
        wide = graph.add("Gelu", graph.linear(x, HIDDEN, WIDE))
        x = _normal(graph, graph.add("Add", x, graph.linear(wide, WIDE, HIDDEN)))
    weights = graph.add("Unsqueeze", mask, graph.whole(2))
    total = graph.add("ReduceSum", graph.add("Mul", x, weights), graph.whole(1), keepdims=0)
    count = graph.add("ReduceSum", weights, graph.whole(1), keepdims=0)
    least = graph.add("Max", count, graph.floats(1.0))
    graph.add("Div", total, least, name="embedding")
    asked = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", LENGTH])
        for name in ("ids", "mask")
    ]
    return graph.model("encoder", asked, [_floats("embedding", HIDDEN)])


def _normal(graph: _Graph, x: str) -> str:
    scale = graph.constant(np.ones(HIDDEN, np.float32))
    shift = graph.constant(np.zeros(HIDDEN, np.float32))
    return graph.add("LayerNormalization", x, scale, shift, axis=-1, epsilon=EPSILON)


def _attention(graph: _Graph, x: str, unwanted: str) -> str:
    each = HIDDEN // HEADS
    split = graph.whole(0, 0, HEADS, each)

    def head(order: Sequence[int]) -> str:
        flat = graph.add("Reshape", graph.linear(x, HIDDEN, HIDDEN), split)
        return graph.add("Transpose", flat, perm=list(order))

    query, key, value = head((0, 2, 1, 3)), head((0, 2, 3, 1)), head((0, 2, 1, 3))
    scores = graph.add("Mul", graph.add("MatMul", query, key), graph.floats(each**-0.5))
    scores = graph.add("Softmax", graph.add("Add", scores, unwanted), axis=-1)
    mixed = graph.add("Transpose", graph.add("MatMul", scores, value), perm=[0, 2, 1, 3])
    return graph.linear(graph.add("Reshape", mixed, graph.whole(0, 0, HIDDEN)), HIDDEN, HIDDEN)


def cnn(seed: int = 0) -> bytes:
    """ResNet-18's shape, with its normalisation folded into the convolutions, to 1000 scores."""
    graph = _Graph(seed)
    x = graph.add("Relu", _convolved(graph, "x", PICTURE[0], STAGES[0], size=7, stride=2))
    x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inside = STAGES[0]
    for outside in STAGES:
        for _ in range(2):
            stride = 1 if inside == outside else 2
            y = graph.add("Relu", _convolved(graph, x, inside, outside, size=3, stride=stride))
            y = _convolved(graph, y, outside, outside, size=3, stride=1)
            if inside != outside:
                x = _convolved(graph, x, inside, outside, size=1, stride=stride)
            x = graph.add("Relu", graph.add("Add", x, y))
            inside = outside
    flat = graph.add("Flatten", graph.add("GlobalAveragePool", x))
    product = graph.add("MatMul", flat, graph.weight(inside, CLASSES))
    graph.add("Add", product, graph.constant(np.zeros(CLASSES, np.float32)), name="scores")
    return graph.model("cnn", [_floats("x", *PICTURE)], [_floats("scores", CLASSES)])


def _convolved(graph: _Graph, x: str, inside: int, outside: int, *, size: int, stride: int) -> str:
    kernel = graph.weight(outside, inside, size, size)
    shift = graph.constant(np.zeros(outside, np.float32))
    pads = [size // 2] * 4
    return graph.add("Conv", x, kernel, shift, pads=pads, strides=[stride, stride])


def _floats(name: str, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", *shape])


_MAKERS: dict[str, Callable[[], bytes]] = {
    "classifier": classifier,
    "encoder": encoder,
    "cnn": cnn,
}
NAMES = tuple(_MAKERS)
OUTPUTS = {"classifier": "probabilities", "encoder": "embedding", "cnn": "scores"}
OUTPUT_SIZES = {"classifier": LABELS, "encoder": HIDDEN, "cnn": CLASSES}


def inputs(name: str, rows: int, seed: int = 0) -> Tensors:
    """Something to ask it: texts of different lengths, pictures and features of four decimals."""
    die = np.random.default_rng(seed)
    if name == "encoder":
        ids = die.integers(VOCABULARY, size=(rows, LENGTH))
        lengths = die.integers(LENGTH // 2, LENGTH + 1, size=(rows, 1))
        mask = (np.arange(LENGTH) < lengths).astype(np.int64)
        return {"ids": ids * mask, "mask": mask}
    shape = (FEATURES,) if name == "classifier" else PICTURE
    values: NDArray[np.float64] = die.standard_normal((rows, *shape))
    return {"x": values.round(DECIMALS).astype(np.float32)}


def file(name: str, folder: Path) -> Path:
    """In the folder, made if it is not there; whole, or not there. Named by the code it is of."""
    code = Path(__file__).read_bytes() + Path(models.__file__).read_bytes()
    path = folder / f"{name}-{hashlib.sha256(code).hexdigest()[:8]}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_bytes(_MAKERS[name]())
        unfinished.replace(path)
    return path


def main() -> None:
    options = argparse.ArgumentParser(prog="./bench serving_models", description=__doc__)
    options.add_argument("folder", type=Path, help="where the files are written")
    folder: Path = options.parse_args().folder
    for name in NAMES:
        print(file(name, folder))


if __name__ == "__main__":
    main()
