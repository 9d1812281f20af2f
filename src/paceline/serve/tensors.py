"""JSON values to checked arrays: what both JSON forms of a request (`v2`, `predict`) share.

Every complaint about what a request holds is made before anything is queued: once rows of several
requests share a batch, nobody could say whose fault it was. Numbers are read twice at most: by a
parser that writes them into a buffer and says of an error only that there is one, and where it
does, or is not sure, by one that makes Python values and knows the place. No I/O, no batching; not
for raw bytes (`binary.py`) nor for answers (`answers.py`).
"""

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from struct import Struct
from struct import error as StructError  # noqa: N812
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray

from paceline.serve.model import ANY_LENGTH, ModelSpec, TensorSpec
from paceline.terms.errors import BadInput, BadJson, TooLarge
from paceline.terms.limits import ROWS

Form = TypeVar("Form")
JsonBytes = bytes | bytearray | memoryview | msgspec.Raw


def _integer(dtype: type[np.integer[Any]]) -> Any:
    info = np.iinfo(dtype)
    # msgspec checks bounds up to 2**63 - 1; above that numpy refuses (see `array_of`).
    most = int(info.max) if info.max < 2**63 else None
    return Annotated[int, msgspec.Meta(ge=int(info.min), le=most)]


DTYPES: Mapping[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP32": np.float32,
    "FP64": np.float64,
}
"""Numbers that JSON can carry into a model; V2 gives FP16 and BF16 no JSON form."""

RAW_DTYPES: Mapping[str, type[np.generic]] = {**DTYPES, "FP16": np.float16}
"""What raw bytes can carry, text aside."""

JSON_INPUTS = frozenset(DTYPES) | {"BYTES"}

JSON_OUTPUTS = frozenset(DTYPES) | {"BYTES"}
"""Text is text, both ways."""

WIDE: Mapping[str, tuple[str, type[np.generic], type[np.generic]]] = {
    datatype: ("u", np.uint64, dtype)
    if dtype is np.uint64
    else ("i", np.int64, dtype)
    if issubclass(dtype, np.integer)
    else ("d", np.float64, dtype)
    for datatype, dtype in DTYPES.items()
    if dtype is not np.bool_
}
"""As what the fast parser reads a number, 64 bits, unsigned, signed or a double; and what the model
takes."""

PACKED: Mapping[str, str] = {
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "FP32": "f",
    "FP64": "d",
}
"""The letter by which `struct` packs one. In its standard sizes it refuses what has no room in it;
in the machine's own it would make an infinity of it."""

SHORT = 128
"""Up to so many numbers a list of Python's own is the quickest way into an array: 2.7 us for 64 of
four decimals, where the fast parser needs 4.6; both need 8.5 for 256."""

MOST_FP32 = float(np.finfo(np.float32).max)

UNSURE = 2**24 - 1
"""The fast parser counts the elements of one list up to here."""


def parse(body: JsonBytes, form: type[Form], *, remedy: str) -> Form:
    """The body as `form`, or a BadJson that says where it stops making sense."""
    return parse_with(lambda text: msgspec.json.decode(text, type=form), body, remedy=remedy)


def parse_with(decode: Callable[[JsonBytes], Form], body: JsonBytes, *, remedy: str) -> Form:
    """The same by a decoder of msgspec that is made once."""
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise BadJson(f"the body does not have the expected form: {error}", remedy=remedy) from None
    except RecursionError:
        raise BadJson("the body is nested too deeply", remedy=remedy) from None
    except UnicodeDecodeError:
        raise BadJson("the body is not UTF-8 text", remedy="Send JSON as UTF-8.") from None
    except msgspec.DecodeError as error:
        raise _malformed(bytes(body), str(error)) from None


def _malformed(body: bytes, complaint: str) -> BadJson:
    if not body.strip():
        return BadJson(
            "the body is empty", remedy="Send JSON; with curl, use --data-binary @FILE or -d TEXT."
        )
    found = re.search(r"\(byte (\d+)\)", complaint)
    at = int(found[1]) if found else len(body)
    what = "the body ends too early" if found is None else "the body is not valid JSON"
    around = body[max(0, at - 20) : at + 10].decode("utf-8", "replace")
    return BadJson(
        f"{what}, at byte {at}",
        value=around,
        remedy="Correct it there; JSON has no NaN, no comments, and takes double quotes only.",
    )


def depth_of(text: bytes) -> int:
    """How many lists open before the first value."""
    if text[:1] == b"[" and text[1:2] not in b"[ \t\r\n":
        return 1
    opening = re.match(rb"[\s\[]*", text)
    return opening[0].count(b"[") if opening else 0


def fast_lists(text: bytes) -> Any:
    """The lists of the fast parser, which `shape_of` can look at; None where it finds a fault."""
    try:
        # A new parser each time keeps no memory of the largest body ever seen.
        lists = simdjson.Parser().parse(text)
    except (ValueError, RuntimeError):
        return None
    return lists if isinstance(lists, simdjson.Array) else None


def read_array(
    text: bytes, tensor: TensorSpec, shape: Sequence[int], depth: int, lists: Any = None
) -> NDArray[Any]:
    """JSON as an array of a checked shape; its values come flat (depth 1) or nested as it is.
    `lists` are those of `text`, where they are known already."""
    if tensor.datatype in WIDE:
        if lists is None:
            lists = fast_lists(text)
        if lists is not None:
            array = fast_array(text, lists, tensor.datatype, shape, depth)
            if array is not None:
                return array
    return array_of(values_of(text, tensor, depth), tensor, shape, depth)


class Short:
    """Reads lists of so few numbers that nothing is quicker than to pack Python's own: `struct`
    counts them, and refuses what is no number of its type or has no room in it."""

    __slots__ = ("_dtype", "_pack", "_shape")

    def __init__(self, datatype: str, shape: Sequence[int]) -> None:
        self._dtype = DTYPES[datatype]
        self._shape = tuple(shape)
        self._pack = Struct(f"={prod(shape)}{PACKED[datatype]}").pack

    @staticmethod
    def reads(datatype: str, shape: Sequence[int]) -> bool:
        return datatype in PACKED and 0 < prod(shape) <= SHORT

    def array(self, text: bytes) -> NDArray[Any] | None:
        """Of one flat list; None where it is not certain that this is right."""
        if b"u" in text or b"s" in text:  # true and false would pass for 1 and 0
            return None
        try:
            return np.ndarray(self._shape, self._dtype, self._pack(*orjson.loads(text)))
        except (ValueError, TypeError, OverflowError, StructError):
            return None


def fast_array(
    text: bytes, lists: Any, datatype: str, shape: Sequence[int], depth: int
) -> NDArray[Any] | None:
    """None where it is not certain that this is right: the slow way then says what is wrong.

    The parser writes the numbers of nested lists one after another whatever their form (so `[[1],
    [2, 3]]` and `[[1, [2]], 3]` look alike), and knows no numbers beyond 64 bits but doubles.
    """
    if text.count(b"[") != (1 if depth == 1 else sum(prod(shape[:d]) for d in range(depth))):
        return None
    if depth > 1 and not _even(lists, shape):
        return None
    wide, wide_dtype, dtype = WIDE[datatype]
    try:
        flat = np.frombuffer(lists.as_buffer(of_type=wide), wide_dtype)
    except (ValueError, TypeError):
        return None
    if flat.size != prod(shape):
        return None
    if dtype is wide_dtype:
        return flat.reshape(shape)
    if dtype is np.float32:  # finite, all of them; numpy's own check of a cast takes twice as long
        fits = flat[flat.argmin()] >= -MOST_FP32 and flat[flat.argmax()] <= MOST_FP32
        return flat.astype(dtype).reshape(shape) if fits else None
    array = flat.astype(dtype)
    return array.reshape(shape) if (array == flat).all() else None


def _even(lists: Any, shape: Sequence[int]) -> bool:
    """Whether each list is as long as the shape says. What it holds besides lists is counted by
    others."""
    if len(lists) != shape[0] or shape[0] >= UNSURE:
        return False
    if len(shape) == 1:
        return True
    if len(shape) == 2:
        width = shape[1]
        return width < UNSURE and all(_length(each) == width for each in lists)
    return all(_length(each) >= 0 and _even(each, shape[1:]) for each in lists)


def _length(each: Any) -> int:
    return len(each) if isinstance(each, simdjson.Array) else -1


def values_of(raw: JsonBytes, tensor: TensorSpec, depth: int) -> Any:
    """Plain Python values, `depth` lists deep, each one of the tensor's datatype."""
    try:
        return _decoder(tensor.datatype, depth).decode(raw)
    except msgspec.ValidationError as error:
        said = str(error).replace("`$", f"`{tensor.name}")
        raise BadInput(
            f"input `{tensor.name}`: {said[0].lower()}{said[1:]}", remedy=_send(tensor)
        ) from None
    except msgspec.DecodeError as error:
        raise _malformed(bytes(raw), str(error)) from None


@functools.cache  # at most one per datatype and rank of the models in this process
def _decoder(datatype: str, depth: int) -> msgspec.json.Decoder[Any]:
    dtype = DTYPES.get(datatype)
    form: Any
    if dtype is None:
        form = str
    elif issubclass(dtype, np.integer):
        form = _integer(dtype)
    else:
        form = bool if dtype is np.bool_ else float
    for _ in range(depth):
        form = list[form]
    return msgspec.json.Decoder(form)


def shape_of(values: Any, depth: int) -> tuple[int, ...]:
    """The shape nested lists claim by their first elements; `array_of` checks the others."""
    shape: list[int] = []
    for _ in range(depth):
        shape.append(len(values))
        if not values:
            break
        values = values[0]
    return tuple(shape)


def array_of(values: Any, tensor: TensorSpec, shape: Sequence[int], depth: int) -> NDArray[Any]:
    """Values as an array of a checked shape; they come flat (depth 1) or nested as the shape is."""
    if depth == 1:
        if len(values) != prod(shape):
            raise BadInput(
                f"input `{tensor.name}`: shape {list(shape)} needs {prod(shape)} values, "
                f"the data has {len(values)}",
                remedy="Make shape and data agree.",
            )
    elif depth > 1:
        _check_even(values, tensor, shape, where=tensor.name)
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        return np.array(values, dtype=object).reshape(shape)
    try:
        with np.errstate(over="ignore"):  # what overflows becomes infinite, and is found below
            array = np.array(values, dtype=dtype).reshape(shape)
    except OverflowError:
        most = int(np.iinfo(dtype).max)  # type: ignore[type-var]
        at = int(np.argmax(np.array(values, dtype=object) > most))
        raise _too_large(values, tensor, shape, depth, at, str(most)) from None
    if issubclass(dtype, np.floating) and not np.isfinite(array).all():
        at = int(np.argmin(np.isfinite(array)))
        raise _too_large(values, tensor, shape, depth, at, f"{np.finfo(dtype).max:.4g}")
    return array


def _too_large(
    values: Any, tensor: TensorSpec, shape: Sequence[int], depth: int, at: int, most: str
) -> BadInput:
    """`at` counts from the first of all; the place is told as the data came."""
    place = np.unravel_index(at, tuple(shape)) if depth > 1 else (at,) * depth
    for index in place:
        values = values[index]
    return BadInput(
        f"input `{tensor.name}`: the number at `{path_of(tensor.name, place)}` "
        f"is too large for {tensor.datatype}",
        value=values,
        remedy=f"Send numbers of at most {most}.",
    )


def path_of(name: str, place: Iterable[Any]) -> str:
    """Where in nested lists: `x[0][3]`."""
    return name + "".join(f"[{index}]" for index in place)


def _check_even(values: Any, tensor: TensorSpec, shape: Sequence[int], where: str) -> None:
    if len(values) != shape[0]:
        raise BadInput(
            f"input `{tensor.name}`: `{where}` has {len(values)} elements, expected {shape[0]}",
            remedy="Make all lists of one level equally long, as the shape says.",
        )
    if len(shape) > 1:
        for index, inner in enumerate(values):
            _check_even(inner, tensor, shape[1:], f"{where}[{index}]")


def check_shape(shape: Sequence[int], tensor: TensorSpec, *, remedy: str) -> None:
    """One tensor's shape against what the model takes; neither empty nor of too many rows. In the
    remedy, {tensor} becomes what that is."""
    wanted = tensor.shape
    fits = len(shape) == len(wanted)
    for size, want in zip(shape, wanted, strict=False):  # a loop is twice as fast as `all`
        if want not in (size, ANY_LENGTH):
            fits = False
    if not fits:
        raise BadInput(
            f"input `{tensor.name}`: expected shape {list(tensor.shape)}, got {_shown(shape)}",
            remedy=remedy.replace("{tensor}", str(tensor)),
        )
    if 0 in shape:
        raise BadInput(
            f"input `{tensor.name}`: shape {list(shape)} holds no values",
            remedy="Send at least one row, or no request.",
        )
    if shape and shape[0] > ROWS and tensor.has_rows:
        raise TooLarge(
            f"input `{tensor.name}`: more rows than the limit of {ROWS}",
            value=shape[0],
            remedy=f"Send at most {ROWS} rows in one request.",
        )


def _shown(shape: Sequence[int]) -> str:
    return str(list(shape)) if len(shape) <= 8 else f"{len(shape)} dimensions"


def check_json_input(tensor: TensorSpec) -> None:
    """Refuses what JSON cannot carry in."""
    if tensor.datatype not in JSON_INPUTS:
        raise BadInput(
            f"input `{tensor.name}`: {tensor.datatype} cannot be sent as JSON",
            remedy="Send it as binary data (V2), or export the model with inputs of another type, "
            "FP32 for example.",
        )


def check_json_output(tensor: TensorSpec) -> None:
    """Refuses what JSON cannot carry back, before the model runs for nothing."""
    if tensor.datatype not in JSON_OUTPUTS:
        raise BadInput(
            f"output `{tensor.name}`: {tensor.datatype} cannot be answered as JSON",
            remedy="Ask for it as `binary_data`, or name others in `outputs` (V2); or export the "
            "model with FP32 outputs.",
        )


def check_names(given: Sequence[str], spec: ModelSpec, *, remedy: str) -> None:
    """Each input exactly once, and no others."""
    known = [tensor.name for tensor in spec.inputs]
    for index, name in enumerate(given):
        if name not in known:
            raise BadInput(
                f"the model `{spec.name}` has no such input",
                value=name,
                remedy=nearest(name, known) + remedy,
            )
        if name in given[:index]:
            raise BadInput(f"input `{name}` is given twice", remedy="Send each input once.")
    for name in known:
        if name not in given:
            raise BadInput(f"input `{name}` is missing", remedy=remedy)


def check_rows(inputs: Mapping[str, NDArray[Any]], spec: ModelSpec) -> int:
    """How many rows the request has; all inputs with rows must agree."""
    if len(spec.inputs) == 1:
        only = spec.inputs[0]
        return len(inputs[only.name]) if only.has_rows else 1
    counts = {t.name: len(inputs[t.name]) for t in spec.inputs if t.has_rows}
    if len(set(counts.values())) > 1:
        raise BadInput(
            "the inputs differ in their number of rows",
            value=", ".join(f"{name}: {count}" for name, count in counts.items()),
            remedy="Send the same number of rows for every input.",
        )
    return next(iter(counts.values()), 1)


def nearest(name: str, known: Sequence[str]) -> str:
    """`Did you mean ...? `, or nothing."""
    by_lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(name[:64].lower(), by_lower, n=1)
    return f"Did you mean `{by_lower[found[0]]}`? " if found else ""


def _send(tensor: TensorSpec) -> str:
    what = {"BOOL": "true or false", "BYTES": "text"}.get(tensor.datatype, "plain JSON numbers")
    return f"Send {tensor.datatype} values as {what}, in shape {list(tensor.shape)}."
