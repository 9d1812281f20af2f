"""How the shipped example is made, so that anybody can make it again, byte for byte.

Called by `paceline demo train`, never by a server: it needs the extra `sklearn`, which is imported
only when training starts.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from paceline.serve.digits import NAME, Card
from paceline.serve.onnx_model import OnnxModel
from paceline.terms.errors import MissingExtra, Misuse

SEED = 0
TEST_SHARE = 0.2
HIDDEN = 64
PENALTY = 0.1
"""Scaling and weight penalty were chosen by 5-fold cross-validation on the training rows alone."""

DECIMALS = 4
"""Weights are rounded before they are written. Processors add in different orders and so differ
in the last bits; rounded, four kernels of OpenBLAS (Haswell, Nehalem, Katmai and the default)
gave the same file."""

OPSETS = {"": 17, "ai.onnx.ml": 3}

DATA = (
    "The test set of Optical Recognition of Handwritten Digits (E. Alpaydin and C. Kaynak, 1998; "
    "UCI Machine Learning Repository, CC BY 4.0), as bundled with scikit-learn"
)


def train(out_dir: Path, say: Callable[[str], None] = lambda stage: None) -> Card:
    """Writes `digits.onnx` and `digits.json` into `out_dir`; `say` hears each stage begin."""
    try:
        import onnx
        import skl2onnx  # type: ignore[import-untyped]
        import sklearn  # type: ignore[import-untyped]
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
        from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
        from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped]
        from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
        from sklearn.preprocessing import MinMaxScaler  # type: ignore[import-untyped]
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtra(
            "training the example needs scikit-learn and skl2onnx",
            value=error.name or str(error),
            remedy="Install them with: pip install 'paceline[sklearn]'",
        ) from error

    say("reading scikit-learn's bundled digits")
    pixels, digits = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, digits, test_size=TEST_SHARE, random_state=SEED, stratify=digits
    )

    say(f"training on {len(train_x)} rows")
    network = MLPClassifier((HIDDEN,), alpha=PENALTY, max_iter=500, random_state=SEED)
    pipeline = make_pipeline(MinMaxScaler(), network)
    with threadpool_limits(limits=1):  # with more, sums depend on how the work was shared
        pipeline.fit(train_x, train_y)
    network.coefs_ = [weights.round(DECIMALS) for weights in network.coefs_]
    network.intercepts_ = [weights.round(DECIMALS) for weights in network.intercepts_]

    say("writing the ONNX file")
    row = skl2onnx.common.data_types.FloatTensorType([None, train_x.shape[1]])
    graph = skl2onnx.to_onnx(
        pipeline,
        name=NAME,
        initial_types=[("x", row)],
        options={id(pipeline): {"zipmap": False}},
        target_opset=OPSETS,
    )
    graph.doc_string = "A handwritten digit: 8x8 pixels of 0 to 16, row by row."
    graph.opset_import.sort(key=lambda opset: opset.domain)  # skl2onnx takes them from a set
    content: bytes = graph.SerializeToString()
    path = out_dir / f"{NAME}.onnx"
    _write(path, content)

    say(f"measuring it on {len(test_x)} rows it has not seen")
    model = OnnxModel.load(path, NAME)
    labels = model.run({"x": test_x.astype(np.float32)})["label"]
    model.close()
    correct = int((labels == test_y).sum())
    card = Card(
        accuracy=round(correct / len(test_y), 4),
        correct=correct,
        test_rows=len(test_y),
        train_rows=len(train_y),
        split=f"stratified, {TEST_SHARE:.0%} held out",
        seed=SEED,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        versions={module.__name__: module.__version__ for module in (np, onnx, sklearn, skl2onnx)},
        data=DATA,
    )
    _write(out_dir / f"{NAME}.json", msgspec.json.format(msgspec.json.encode(card)) + b"\n")
    return card


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise Misuse(
            f"the example cannot be written: {error.strerror}",
            value=str(path),
            remedy="Name another directory with --out.",
        ) from error
