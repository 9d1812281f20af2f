"""The reference models: the same each time, rows apart, padding that changes nothing."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from benchmarks import models

from paceline.serve.model import ANY_LENGTH
from paceline.serve.onnx_model import OnnxModel

NEAR = 1e-5


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OnnxModel]:
    folder = tmp_path_factory.mktemp("models")
    loaded = {}
    for name in models.NAMES:
        path: Path = folder / f"{name}.onnx"
        path.write_bytes(models.make(name))
        loaded[name] = OnnxModel.load(path, name)
    return loaded


@pytest.mark.parametrize("name", models.NAMES)
def test_a_reference_model_is_the_same_byte_for_byte_each_time(name: str) -> None:
    first, second = (hashlib.sha256(models.make(name)).hexdigest() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", models.NAMES)
def test_rows_are_left_open_and_do_not_influence_each_other(
    served: dict[str, OnnxModel], name: str
) -> None:
    model = served[name]
    assert all(tensor.shape[0] == ANY_LENGTH for tensor in model.spec.inputs + model.spec.outputs)
    batch = models.inputs(name, 5, seed=7)
    together = model.run(batch)
    for row in range(5):
        alone = model.run({key: values[row : row + 1] for key, values in batch.items()})
        for key, values in alone.items():
            np.testing.assert_allclose(values[0], together[key][row], atol=NEAR)


@pytest.mark.parametrize("name", models.NAMES)
def test_different_rows_have_different_answers(served: dict[str, OnnxModel], name: str) -> None:
    """Weights that let nothing through would make every other test hold."""
    (answers,) = served[name].run(models.inputs(name, 4, seed=7)).values()
    for row in range(1, 4):
        assert np.abs(answers[row] - answers[0]).max() > 100 * NEAR


def test_padding_behind_the_mask_changes_nothing(served: dict[str, OnnxModel]) -> None:
    encoder = served["encoder"]
    short = models.inputs("encoder", 3, seed=7, length=20)
    (expected,) = encoder.run(short).values()
    padding = models.inputs("encoder", 3, seed=8, length=12)["ids"]
    ids = np.concatenate([short["ids"], padding], axis=1)
    masked = np.concatenate([short["mask"], np.zeros_like(padding)], axis=1)
    (padded,) = encoder.run({"ids": ids, "mask": masked}).values()
    np.testing.assert_allclose(padded, expected, atol=NEAR)
    (unmasked,) = encoder.run({"ids": ids, "mask": np.ones_like(ids)}).values()
    assert np.abs(unmasked - expected).max() > 100 * NEAR


def test_a_text_of_padding_alone_has_an_answer(served: dict[str, OnnxModel]) -> None:
    nothing = models.inputs("encoder", 1, length=8)
    (answer,) = served["encoder"].run({**nothing, "mask": np.zeros_like(nothing["mask"])}).values()
    assert np.isfinite(answer).all()
