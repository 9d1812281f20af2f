"""Requests joined to a batch and its outputs parted again, with padding and without."""

import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from laws import examples
from paceline.serve.buffers import SMALLEST_BYTES, Buffers
from paceline.serve.model import ModelSpec, Tensors, TensorSpec
from paceline.serve.shapes import Shapes
from paceline.terms.errors import ModelFailed

WORDS = {1: "length"}
PLAIN = ModelSpec(
    "plain",
    "1",
    (TensorSpec("x", "FP32", (-1, 3)), TensorSpec("n", "INT64", (-1,))),
    (TensorSpec("y", "FP32", (-1, 3)), TensorSpec("m", "INT64", (-1,))),
)
TEXT = ModelSpec(
    "text",
    "1",
    (TensorSpec("ids", "INT64", (-1, -1), WORDS), TensorSpec("mask", "INT64", (-1, -1), WORDS)),
    (
        TensorSpec("tags", "INT64", (-1, -1), WORDS),
        TensorSpec("pairs", "INT64", (-1, 2, -1), {2: "length"}),
        TensorSpec("mean", "FP32", (-1, 4)),
    ),
    padding={"ids": 7, "mask": 0},
)
UNPADDED = ModelSpec("text", "1", TEXT.inputs, TEXT.outputs)


def plain(rows: int, begin: int = 0) -> dict[str, NDArray[Any]]:
    n = np.arange(begin, begin + rows)
    return {"x": np.outer(n, [1, 2, 3]).astype(np.float32), "n": n}


def text(rows: int, length: int, word: int = 1) -> dict[str, NDArray[Any]]:
    ids = np.full((rows, length), word)
    return {"ids": ids, "mask": np.ones_like(ids)}


def tagged(batch: Tensors) -> Tensors:
    """What the model of TEXT answers."""
    ids = batch["ids"]
    return {
        "tags": ids * 10,
        "pairs": np.stack([ids, batch["mask"]], axis=1),
        "mean": np.repeat(ids.mean(axis=1, keepdims=True), 4, axis=1),
    }


def test_requests_of_one_shape_are_joined_and_each_gets_its_own_rows_back() -> None:
    shapes = Shapes(PLAIN)
    several = [plain(2), plain(1, 10), plain(3, 20)]
    batch = shapes.together(several)
    assert batch["n"].tolist() == [0, 1, 10, 20, 21, 22]
    assert batch["x"].dtype == np.float32
    parts = shapes.apart({"y": batch["x"] * 2, "m": batch["n"]}, several)
    for inputs, part in zip(several, parts, strict=True):
        assert part["m"].tolist() == inputs["n"].tolist()
        assert (part["y"] == inputs["x"] * 2).all()


def test_a_lone_request_is_not_copied() -> None:
    shapes = Shapes(PLAIN)
    alone, answer = plain(2), {"y": np.ones((2, 3)), "m": np.arange(2)}
    assert shapes.together([alone]) is alone
    assert shapes.apart(answer, [alone])[0] is answer


def test_a_lone_request_is_copied_where_a_runtime_could_not_read_it() -> None:
    shapes = Shapes(PLAIN)
    odd = np.frombuffer(b"?" + np.arange(6, dtype=np.float32).tobytes(), np.float32, offset=1)
    batch = shapes.together([{"x": odd.reshape(2, 3), "n": np.arange(2)}])
    assert batch["x"].flags.aligned
    assert batch["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert shapes.copies_avoided == 0
    shapes.together([plain(1)])
    assert shapes.copies_avoided == 1
    shapes.together([plain(1), plain(1)])
    assert shapes.copies_avoided == 1


def large(rows: int, value: float = 0.0) -> dict[str, NDArray[Any]]:
    return {"x": np.full((rows, 3), value, np.float32), "n": np.arange(rows)}


LARGE = SMALLEST_BYTES // 12


def test_a_large_batch_lies_in_the_memory_of_the_one_before_it() -> None:
    shapes = Shapes(PLAIN)
    first = shapes.together([large(LARGE), large(2)])
    where = first["x"].ctypes.data
    assert where % 64 == 0
    shapes.reuse(first, {"y": np.zeros(3)})
    assert shapes.buffers_reused == 0
    second = shapes.together([large(LARGE, 1.0), large(3, 2.0)])
    assert second["x"].ctypes.data == where
    assert second["x"][:, 0].tolist() == [1.0] * LARGE + [2.0] * 3
    assert shapes.buffers_reused == 1


def test_padding_is_written_over_what_was_there_before() -> None:
    shapes = Shapes(TEXT)
    rows = SMALLEST_BYTES // 8 // 16 + 1
    for word in (1, 2):
        several = [text(rows, 9, word), text(1, 16, word)]
        batch = shapes.together(several)
        assert (batch["ids"][:rows, 9:] == 7).all()
        assert (batch["ids"][:rows, :9] == word).all()
        assert (batch["mask"][:rows, 9:] == 0).all()
        shapes.reuse(batch, {})
    assert shapes.buffers_reused == 2


def test_memory_that_an_answer_lies_in_is_not_used_again() -> None:
    shapes = Shapes(PLAIN)
    several = [large(LARGE, 1.0), large(2, 1.0)]
    batch = shapes.together(several)
    outputs = {"y": batch["x"], "m": batch["n"]}
    parts = shapes.apart(outputs, several)
    shapes.reuse(batch, outputs)
    shapes.together([large(LARGE, 2.0), large(2, 2.0)])
    assert (parts[0]["y"] == 1.0).all()
    assert shapes.buffers_reused == 0


def test_batches_at_work_at_once_have_memory_of_their_own() -> None:
    shapes = Shapes(PLAIN)
    several = [large(LARGE), large(2)]
    one, two = shapes.together(several), shapes.together(several)
    assert not np.shares_memory(one["x"], two["x"])
    shapes.reuse(one, {})
    shapes.reuse(two, {})
    assert np.shares_memory(shapes.together(several)["x"], two["x"])


def test_memory_is_kept_up_to_a_bound_and_small_arrays_not_at_all() -> None:
    buffers = Buffers(most_bytes=4 * SMALLEST_BYTES)
    taken = [buffers.take((SMALLEST_BYTES,), np.uint8) for _ in range(6)]
    for array in taken:
        buffers.give({"x": array}, {})
    small = buffers.take((4, 4), np.float32)
    buffers.give({"x": small, "foreign": np.zeros(SMALLEST_BYTES)}, {})
    assert buffers.reused == 0
    again = [buffers.take((SMALLEST_BYTES,), np.uint8) for _ in range(6)]
    assert buffers.reused == 4
    assert len({array.ctypes.data for array in again}) == 6


def test_a_batch_that_is_dropped_frees_its_memory() -> None:
    buffers = Buffers()
    array = buffers.take((SMALLEST_BYTES,), np.uint8)
    gone = weakref.ref(array)
    del array
    assert gone() is None
    assert not buffers._ours


def test_text_is_joined_as_it_is() -> None:
    spec = ModelSpec("w", "1", (TensorSpec("x", "BYTES", (-1,)),), PLAIN.outputs)
    words = [{"x": np.array(["a"], object)}, {"x": np.array(["b", "c"], object)}]
    batch = Shapes(spec).together(words)
    assert batch["x"].tolist() == ["a", "b", "c"]
    Shapes(spec).reuse(batch, {"y": np.zeros(3)})


def test_only_what_differs_behind_the_rows_or_in_its_type_goes_apart() -> None:
    shapes = Shapes(UNPADDED)
    assert shapes.bucket(text(1, 5)) == shapes.bucket(text(4, 5, word=9))
    assert shapes.bucket(text(1, 5)) != shapes.bucket(text(1, 6))
    other = {name: array.astype(np.int32) for name, array in text(1, 5).items()}
    assert shapes.bucket(text(1, 5)) != shapes.bucket(other)


def test_cost_counts_elements_of_what_varies_and_rows_where_nothing_does() -> None:
    fixed = Shapes(PLAIN)
    assert fixed.cost(fixed.bucket(plain(5)), 5) == 5
    assert Shapes(UNPADDED).cost(Shapes(UNPADDED).bucket(text(3, 50)), 3) == 150
    assert Shapes(TEXT).cost(Shapes(TEXT).bucket(text(3, 50)), 3) == 3 * 64
    picture = ModelSpec("p", "1", (TensorSpec("x", "FP32", (-1, 3, -1, -1)),), PLAIN.outputs)
    shapes = Shapes(picture)
    assert shapes.cost(shapes.bucket({"x": np.zeros((2, 3, 4, 5))}), 2) == 120


@pytest.mark.parametrize(
    ("length", "runs_as"), [(1, 8), (8, 8), (9, 16), (16, 16), (17, 32), (33, 64)]
)
def test_a_padded_length_is_rounded_up_to_a_power_of_two(length: int, runs_as: int) -> None:
    shapes = Shapes(TEXT)
    assert shapes.bucket(text(1, length)) == shapes.bucket(text(1, runs_as))
    batch = shapes.together([text(1, length)])
    assert batch["ids"].tolist() == [[1] * length + [7] * (runs_as - length)]
    assert batch["mask"].tolist() == [[1] * length + [0] * (runs_as - length)]


def test_padded_requests_share_a_batch_and_outputs_are_cut_to_their_own_length() -> None:
    shapes = Shapes(TEXT)
    several = [text(1, 3, 2), text(2, 8, 3), text(1, 5, 4)]
    assert len({shapes.bucket(each) for each in several}) == 1
    batch = shapes.together(several)
    assert batch["ids"].shape == (4, 8)
    parts = shapes.apart(tagged(batch), several)
    assert [part["tags"].tolist() for part in parts] == [[[20] * 3], [[30] * 8] * 2, [[40] * 5]]
    assert [part["pairs"].shape for part in parts] == [(1, 2, 3), (2, 2, 8), (1, 2, 5)]
    assert [part["mean"].shape for part in parts] == [(1, 4), (2, 4), (1, 4)]


@examples(40)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 40)), min_size=1, max_size=6))
def test_what_is_joined_and_parted_is_as_if_each_had_run_alone(
    sizes: list[tuple[int, int]],
) -> None:
    shapes = Shapes(TEXT)
    by_bucket: dict[object, list[Tensors]] = {}
    for number, (rows, length) in enumerate(sizes):
        each = text(rows, length, number)
        by_bucket.setdefault(shapes.bucket(each), []).append(each)
    for several in by_bucket.values():
        parts = shapes.apart(tagged(shapes.together(several)), several)
        for inputs, part in zip(several, parts, strict=True):
            alone = tagged(inputs)
            for name in ("tags", "pairs"):
                np.testing.assert_array_equal(part[name], alone[name])


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec("m", "1", (TensorSpec("x", "FP32", (3,)),), (TensorSpec("y", "FP32", (-1,)),)),
        ModelSpec("m", "1", (TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", ()),)),
    ],
    ids=["an input without rows", "an output without rows"],
)
def test_where_rows_cannot_be_told_apart_each_request_runs_alone(spec: ModelSpec) -> None:
    shapes = Shapes(spec)
    assert shapes.alone
    answer = {"y": np.zeros(())}
    assert shapes.apart(answer, [{"x": np.zeros((2, 3))}]) == [answer]
    assert not Shapes(PLAIN).alone


def test_a_model_that_does_not_answer_row_by_row_is_told_how_to_run() -> None:
    several = [plain(2), plain(1)]
    with pytest.raises(ModelFailed, match="answered 7 rows of `y` for 3") as caught:
        Shapes(PLAIN).apart({"y": np.zeros((7, 3))}, several)
    assert "max_batch to 1" in caught.value.remedy


def test_zeros_fit_the_model() -> None:
    tried = Shapes(TEXT).zeros(4)
    assert tried is not None
    assert {name: (a.shape, a.dtype.name) for name, a in tried.items()} == {
        "ids": ((4, 1), "int64"),
        "mask": ((4, 1), "int64"),
    }
    words = ModelSpec("w", "1", (TensorSpec("x", "BYTES", (-1,)),), PLAIN.outputs)
    assert Shapes(words).zeros(1) is None
