"""JSON numbers to arrays: the fast way takes and refuses what the slow one does."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from paceline.serve import tensors
from paceline.serve.model import TensorSpec
from paceline.serve.tensors import DTYPES, Short, array_of, depth_of, read_array, values_of
from paceline.terms.errors import PacelineError

NUMBER = st.one_of(
    st.integers(-3, 3),
    st.integers(-(2**65), 2**65),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([2**53 + 1, 2**63, 2**64 - 1, 2**64, -(2**63), 3.4e38, 3.5e38, 1e-46, -0.0]),
)
LEAF = st.one_of(NUMBER, NUMBER, NUMBER, st.none(), st.booleans(), st.text(max_size=2))
NEST = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3), max_leaves=16)
SHAPE = st.lists(st.integers(1, 3), min_size=1, max_size=3)


def slowly(text: bytes, tensor: TensorSpec, shape: list[int], depth: int) -> NDArray[Any]:
    return array_of(values_of(text, tensor, depth), tensor, shape, depth)


def outcome(read: Any, *arguments: Any) -> Any:
    try:
        array = read(*arguments)
    except PacelineError as error:
        return str(error)
    return array.dtype, array.shape, array.tobytes()


def nested(numbers: list[Any], shape: list[int]) -> Any:
    if len(shape) == 1:
        return numbers[: shape[0]]
    step = len(numbers) // shape[0]
    return [nested(numbers[at * step :], shape[1:]) for at in range(shape[0])]


@given(data=NEST, shape=SHAPE, datatype=st.sampled_from(sorted(DTYPES)))
@example(data=[[1], [2, 3]], shape=[2, 2], datatype="FP32")
@example(data=[[1], [1, 2, 3]], shape=[2, 2], datatype="FP32")
@example(data=[[1, [2]], [3, 4]], shape=[2, 2], datatype="FP32")
@example(data=[[1, [2, 3]], [4, []]], shape=[2, 2], datatype="INT8")
@example(data=[[[1, 2]], 3, [[4]]], shape=[2, 1, 2], datatype="FP64")
@example(data=[[[1, 2, 3]], [4, [5, 6]]], shape=[2, 1, 3], datatype="FP64")
@example(data=[1, [2, 3], []], shape=[3], datatype="INT64")
def test_both_ways_read_the_same_or_refuse_in_the_same_words(
    data: Any, shape: list[int], datatype: str
) -> None:
    text = json.dumps(data).encode()
    tensor = TensorSpec("x", datatype, tuple(shape))
    for depth in {1, len(shape)}:
        arguments = (text, tensor, shape, depth)
        assert outcome(read_array, *arguments) == outcome(slowly, *arguments)


@given(data=st.data(), shape=SHAPE, datatype=st.sampled_from(sorted(DTYPES)))
def test_what_fits_is_read_alike_flat_and_nested(
    data: st.DataObject, shape: list[int], datatype: str
) -> None:
    count = int(np.prod(shape))
    numbers = data.draw(st.lists(NUMBER, min_size=count, max_size=count))
    tensor = TensorSpec("x", datatype, tuple(shape))
    for form, depth in ((numbers, 1), (nested(numbers, shape), len(shape))):
        arguments = (json.dumps(form).encode(), tensor, shape, depth)
        assert outcome(read_array, *arguments) == outcome(slowly, *arguments)


@pytest.mark.parametrize("datatype", sorted(set(DTYPES) - {"BOOL"}))
@pytest.mark.parametrize("text", [b"[1,2,3,4]", b" [ [1, 2],\n[3 ,4] ] "])
def test_good_numbers_never_go_the_slow_way(
    text: bytes, datatype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "values_of", lambda *_: pytest.fail("the slow way"))
    array = read_array(text, TensorSpec("x", datatype, (2, 2)), [2, 2], depth_of(text))
    assert array.dtype == DTYPES[datatype]
    assert array.tolist() == [[1, 2], [3, 4]]


def test_integers_beyond_53_bits_stay_exact() -> None:
    numbers = [2**53 + 1, 2**63 - 1, -(2**63), -(2**53) - 1]
    text = json.dumps(numbers).encode()
    assert read_array(text, TensorSpec("x", "INT64", (4,)), [4], 1).tolist() == numbers
    text = json.dumps([2**64 - 1, 2**53 + 1]).encode()
    array = read_array(text, TensorSpec("x", "UINT64", (2,)), [2], 1)
    assert array.tolist() == [2**64 - 1, 2**53 + 1]


@pytest.mark.parametrize(
    ("datatype", "data", "says"),
    [
        (
            "FP32",
            [[1, 2], [3, 1e39]],
            "the number at `x[1][1]` is too large for FP32 (value: 1e+39)",
        ),
        ("FP32", [1, 2, -1e300, 4], "the number at `x[2]` is too large for FP32 (value: -1e+300)"),
        ("UINT64", [1, 2, 3, 2**64], "the number at `x[3]` is too large for UINT64"),
        ("INT64", [1, 2, 3, 2**64], "at `x[3]`"),
        ("INT8", [1, 2, 128, 4], "at `x[2]`"),
        ("UINT8", [[1, 2], [-1, 4]], "at `x[1][0]`"),
        ("INT32", [1, 1.5, 2, 3], "expected `int`, got `float` - at `x[1]`"),
        ("FP32", [[1, 2], [3, None]], "got `null` - at `x[1][1]`"),
        ("FP32", [[1, 2], ["3", 4]], "got `str` - at `x[1][0]`"),
        ("FP32", [[1, 2], [3, [4]]], "got `array` - at `x[1][1]`"),
        ("FP32", [[1, 2], [3]], "`x[1]` has 1 elements, expected 2"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(datatype: str, data: Any, says: str) -> None:
    text = json.dumps(data).encode()
    with pytest.raises(PacelineError) as caught:
        read_array(text, TensorSpec("x", datatype, (2, 2)), [2, 2], depth_of(text))
    assert says in str(caught.value)


@pytest.mark.parametrize("word", [b"NaN", b"Infinity", b"-Infinity", b"1e400", b"01", b"1."])
def test_what_json_has_no_number_for_is_refused(word: bytes) -> None:
    with pytest.raises(PacelineError):
        read_array(b"[1," + word + b"]", TensorSpec("x", "FP64", (2,)), [2], 1)


@given(
    data=st.one_of(st.lists(LEAF, max_size=5), NEST),
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    datatype=st.sampled_from(sorted(set(DTYPES) - {"BOOL"})),
)
@example(data=[True, 1], shape=[2], datatype="FP32")
@example(data=[False, 1], shape=[2], datatype="INT8")
@example(data={"1": 2}, shape=[1], datatype="FP32")
@example(data="1", shape=[1], datatype="FP32")
@example(data=[1.0], shape=[1], datatype="INT64")
@example(data=[2**63], shape=[1], datatype="UINT64")
@example(data=[3.4028235677973366e38], shape=[1], datatype="FP32")
def test_short_lists_are_read_as_the_slow_way_does_or_not_at_all(
    data: Any, shape: list[int], datatype: str
) -> None:
    text = json.dumps(data).encode()
    array = Short(datatype, shape).array(text)
    if array is not None:
        tensor = TensorSpec("x", datatype, tuple(shape))
        assert outcome(lambda: array) == outcome(slowly, text, tensor, shape, 1)


@pytest.mark.parametrize("datatype", sorted(set(DTYPES) - {"BOOL"}))
def test_short_lists_of_good_numbers_are_read_the_short_way(datatype: str) -> None:
    array = Short(datatype, (2, 2)).array(b" [1, 2,3 ,\n4]")
    assert array is not None
    assert array.dtype == DTYPES[datatype]
    assert array.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("text", [b"[1e400,1]", b"[NaN,1]", b"[1,2]]", b"[[1,2]", b"[01,1]", b""])
def test_what_is_no_json_is_not_read_the_short_way(text: bytes) -> None:
    assert Short("FP64", (2,)).array(text) is None
