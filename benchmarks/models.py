"""The three reference models, as files in a folder: a classifier, an encoder of texts, a CNN.

Built from seeded weights, byte for byte the same each time; they have learned nothing, for only
what they cost matters. They differ where it matters to a batcher: a row of the classifier costs
next to nothing and a batch hardly more; a row of the encoder costs as much as its text is long; the
rows of the pictures cost the same each, so a batch of them gains little. Needs the extra `sklearn`
(for `onnx`). Called by the benchmarks that serve or time real models, and by their tests.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from paceline.serve.model import Tensors

OPSET = 20
IR_VERSION = 9
"""The oldest in which `Gelu` is one operator; onnxruntime 1.20 and later run it."""

FEATURES, WIDTH, LABELS = 64, 128, 10

WORDS, LENGTH_MOST, HIDDEN, HEADS, LAYERS = 2000, 512, 256, 4, 3
FAR_BELOW = -1e4
"""What is added to the attention for a place that is padding: its weight becomes zero."""

PICTURE = (3, 96, 96)
CHANNELS = (32, 64, 128, 256)


class _Graph:
    """Nodes and weights in the order they are asked for, named by number."""

    def __init__(self, seed: int) -> None:
        self._die = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def weight(self, *shape: int) -> str:
        """Scaled so that what goes through stays as large as it was."""
        fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        values = self._die.standard_normal(shape) * (1.5 / fan_in) ** 0.5
        return self.constant(values.astype(np.float32))

    def constant(self, values: NDArray[np.generic]) -> str:
        name = f"weight_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    def floats(self, *values: float) -> str:
        return self.constant(np.array(values, np.float32))

    def whole(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def add(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        name = name or f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def linear(self, x: str, inside: int, outside: int) -> str:
        y = self.add("MatMul", x, self.weight(inside, outside))
        return self.add("Add", y, self.constant(np.zeros(outside, np.float32)))

    def model(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> bytes:
        graph = helper.make_graph(self._nodes, name, inputs, outputs, self._weights)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))


def classifier(seed: int = 0) -> bytes:
    """Three layers from 64 numbers to the probabilities of ten labels."""
    graph = _Graph(seed)
    x = "x"
    for inside, outside in ((FEATURES, WIDTH), (WIDTH, WIDTH)):
        x = graph.add("Relu", graph.linear(x, inside, outside))
    graph.add("Softmax", graph.linear(x, WIDTH, LABELS), name="probabilities", axis=-1)
    return graph.model(
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", FEATURES])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", LABELS])],
    )


def encoder(seed: int = 0) -> bytes:
    """A transformer from words to the mean of what it makes of them; `mask` is 0 for padding."""
    graph = _Graph(seed)
    mask = graph.add("Cast", "mask", to=TensorProto.FLOAT)
    x = _embedded(graph)
    unwanted = graph.add("Mul", graph.add("Sub", graph.floats(1.0), mask), graph.floats(FAR_BELOW))
    unwanted = graph.add("Unsqueeze", unwanted, graph.whole(1, 2))
    for _ in range(LAYERS):
        x = graph.add("Add", x, _attention(graph, _normal(graph, x), unwanted))
        wide = graph.add("Gelu", graph.linear(_normal(graph, x), HIDDEN, 4 * HIDDEN))
        x = graph.add("Add", x, graph.linear(wide, 4 * HIDDEN, HIDDEN))
    weights = graph.add("Unsqueeze", mask, graph.whole(2))
    total = graph.add(
        "ReduceSum", graph.add("Mul", _normal(graph, x), weights), graph.whole(1), keepdims=0
    )
    words = graph.add("ReduceSum", weights, graph.whole(1), keepdims=0)
    least = graph.add("Max", words, graph.floats(1.0))  # of no words at all the mean is zero
    graph.add("Div", total, least, name="embedding")
    shape = ["rows", "length"]
    return graph.model(
        "encoder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("ids", "mask")],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["rows", HIDDEN])],
    )


def _embedded(graph: _Graph) -> str:
    """Of each word, and of its place."""
    words = graph.add("Gather", graph.weight(WORDS, HIDDEN), "ids")
    length = graph.add("Shape", "ids", start=1, end=2)
    places = graph.weight(LENGTH_MOST, HIDDEN)
    return graph.add(
        "Add", words, graph.add("Slice", places, graph.whole(0), length, graph.whole(0))
    )


def _normal(graph: _Graph, x: str) -> str:
    return graph.add("LayerNormalization", x, graph.constant(np.ones(HIDDEN, np.float32)), axis=-1)


def _attention(graph: _Graph, x: str, unwanted: str) -> str:
    each = HIDDEN // HEADS
    split = graph.whole(0, 0, HEADS, each)

    def head(order: list[int]) -> str:
        flat = graph.add("Reshape", graph.linear(x, HIDDEN, HIDDEN), split)
        return graph.add("Transpose", flat, perm=order)

    query, key, value = head([0, 2, 1, 3]), head([0, 2, 3, 1]), head([0, 2, 1, 3])
    scores = graph.add("Mul", graph.add("MatMul", query, key), graph.floats(each**-0.5))
    scores = graph.add("Softmax", graph.add("Add", scores, unwanted), axis=-1)
    mixed = graph.add("Transpose", graph.add("MatMul", scores, value), perm=[0, 2, 1, 3])
    joined = graph.add("Reshape", mixed, graph.whole(0, 0, HIDDEN))
    return graph.linear(joined, HIDDEN, HIDDEN)


def cnn(seed: int = 0) -> bytes:
    """Two convolutions each at four widths, halving the picture between, to ten probabilities."""
    graph = _Graph(seed)
    x, inside = "x", PICTURE[0]
    for number, outside in enumerate(CHANNELS):
        if number:
            x = graph.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        for channels in (inside, outside):
            kernel = graph.weight(outside, channels, 3, 3)
            shift = graph.constant(np.zeros(outside, np.float32))
            x = graph.add("Relu", graph.add("Conv", x, kernel, shift, pads=[1, 1, 1, 1]))
        inside = outside
    flat = graph.add("Flatten", graph.add("GlobalAveragePool", x))
    graph.add("Softmax", graph.linear(flat, inside, LABELS), name="probabilities", axis=-1)
    return graph.model(
        "cnn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", *PICTURE])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", LABELS])],
    )


_MAKERS: dict[str, Callable[[], bytes]] = {
    "classifier": classifier,
    "encoder": encoder,
    "cnn": cnn,
}
NAMES = tuple(_MAKERS)


def make(name: str) -> bytes:
    """The ONNX file of one of NAMES."""
    return _MAKERS[name]()


def inputs(name: str, rows: int, seed: int = 0, length: int = 64) -> Tensors:
    """Something to ask it; only the encoder has a length."""
    die = np.random.default_rng(seed)
    if name == "encoder":
        ids = die.integers(WORDS, size=(rows, length))
        return {"ids": ids, "mask": np.ones_like(ids)}
    shape = (FEATURES,) if name == "classifier" else PICTURE
    return {"x": die.standard_normal((rows, *shape)).astype(np.float32)}


def main() -> None:
    options = argparse.ArgumentParser(prog="./bench models", description=__doc__)
    options.add_argument("folder", type=Path, help="where NAME.onnx are written")
    folder: Path = options.parse_args().folder
    for name in NAMES:
        (folder / f"{name}.onnx").write_bytes(make(name))


if __name__ == "__main__":
    main()
