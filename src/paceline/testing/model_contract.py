"""What every Model must do, as a suite that each implementation runs, ours and other people's.

    class TestMine(ModelContract):
        def make_model(self) -> Model:
            return MyModel(...)

pytest finds the inherited tests. `make_batch` draws zeros and ones of the declared types; override
it for a model that wants others. Speed and isolation are not judged here.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paceline.serve.model import ANY_LENGTH, Model, Tensors, TensorSpec
from paceline.serve.tensors import DTYPES

ROWS = 5
THREADS = 4
TOLERANCE = 1e-4
"""Batches of other sizes may take other kernels, which round differently."""


class ModelContract:
    """Subclass it, and say how your model is made."""

    def make_model(self) -> Model:
        raise NotImplementedError

    def make_batch(self, model: Model, rows: int) -> dict[str, NDArray[Any]]:
        chance = np.random.default_rng(rows)
        return {each.name: _values(chance, each, rows) for each in model.spec.inputs}

    def test_it_answers_every_output_it_declares_in_its_type_and_shape(self) -> None:
        model = self.make_model()
        answers = model.run(self.make_batch(model, ROWS))
        assert set(answers) == {each.name for each in model.spec.outputs}
        for each in model.spec.outputs:
            answer = answers[each.name]
            assert len(answer.shape) == len(each.shape), each
            for size, declared in zip(answer.shape, each.shape, strict=True):
                assert declared in (ANY_LENGTH, size), each
            if each.datatype in DTYPES:
                assert answer.dtype == DTYPES[each.datatype], each

    def test_a_row_is_answered_alike_alone_and_among_others(self) -> None:
        model = self.make_model()
        batch = self.make_batch(model, ROWS)
        together = model.run(batch)
        for row in range(ROWS):
            alone = model.run({name: values[row : row + 1] for name, values in batch.items()})
            for name, answer in alone.items():
                _assert_alike(answer[0], together[name][row])

    def test_it_leaves_its_inputs_as_they_were(self) -> None:
        model = self.make_model()
        batch = self.make_batch(model, ROWS)
        before = {name: values.copy() for name, values in batch.items()}
        model.run(batch)
        for name, values in batch.items():
            np.testing.assert_array_equal(values, before[name])

    def test_it_runs_in_several_threads_at_once(self) -> None:
        model = self.make_model()
        batches = [self.make_batch(model, rows) for rows in range(1, 4 * THREADS)]
        expected = [model.run(batch) for batch in batches]
        with ThreadPoolExecutor(THREADS) as pool:
            for answers, right in zip(pool.map(model.run, batches), expected, strict=True):
                _assert_all_alike(answers, right)

    def test_closing_is_the_end_and_harmless(self) -> None:
        self.make_model().close()


def _values(chance: np.random.Generator, tensor: TensorSpec, rows: int) -> NDArray[Any]:
    shape = [rows, *(1 if size == ANY_LENGTH else size for size in tensor.shape[1:])]
    return chance.integers(0, 2, shape).astype(DTYPES[tensor.datatype])


def _assert_all_alike(answers: Tensors, right: Tensors) -> None:
    assert set(answers) == set(right)
    for name, answer in answers.items():
        _assert_alike(answer, right[name])


def _assert_alike(answer: Any, right: Any) -> None:
    if np.asarray(right).dtype.kind == "f":
        np.testing.assert_allclose(answer, right, rtol=TOLERANCE, atol=TOLERANCE)
    else:
        np.testing.assert_array_equal(answer, right)
