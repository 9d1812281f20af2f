"""Simulated embeddings in OpenAI's dialect. A vector is made of the words of its text, so texts
that share words are near each other. Called by `provider.py`."""

import base64
import math
import re
import zlib
from array import array
from collections.abc import Iterator

import msgspec
import orjson

from paceline.gateway.providers.simulated.answers import JSON, Answer, Made, Piece, Refused
from paceline.gateway.providers.simulated.reading import check_model, read, texts_of
from paceline.gateway.providers.simulated.wishes import EMBEDDING_MODEL, Wish
from paceline.terms.limits import SIMULATED_DIMENSIONS, SIMULATED_INPUT_TOKENS, SIMULATED_INPUTS

DIMENSIONS = 256
"""of a vector, unless it is asked for another number"""


class _Embedding(msgspec.Struct):
    input: str | list[str | int | list[int]]
    dimensions: int | None = None
    encoding_format: str | None = None


def answer(body: bytes, wish: Wish, made: Made) -> Answer:
    asked = read(body, _Embedding)
    check_model(wish, (EMBEDDING_MODEL,))
    texts = texts_of(asked.input)
    if not texts or len(texts) > SIMULATED_INPUTS or not all(tokens for _, tokens in texts):
        raise Refused(
            400, f"Between 1 and {SIMULATED_INPUTS} texts, none of them empty.", param="input"
        )
    if any(tokens > SIMULATED_INPUT_TOKENS for _, tokens in texts):
        raise Refused(
            400, f"A text has at most {SIMULATED_INPUT_TOKENS} tokens here.", param="input"
        )
    size = DIMENSIONS if asked.dimensions is None else asked.dimensions
    if not 1 <= size <= SIMULATED_DIMENSIONS:
        raise Refused(400, f"Between 1 and {SIMULATED_DIMENSIONS}, not {size}.", param="dimensions")
    if asked.encoding_format not in (None, "float", "base64"):
        raise Refused(400, "Either `float` or `base64`.", param="encoding_format")
    tokens = sum(tokens for _, tokens in texts)
    as_text = asked.encoding_format == "base64"
    pieces = _embedded([text for text, _ in texts], wish.model, size, tokens, as_text)
    return Answer(200, [JSON], pieces, 0)


def _embedded(
    texts: list[str], model: str, size: int, tokens: int, as_text: bool
) -> Iterator[Piece]:
    """One after the other, so that many of them hold up nobody."""
    yield Piece(b'{"object":"list","data":[', 0)
    for at, text in enumerate(texts):
        numbers = vector(text, size)
        told: object = numbers.tolist()
        if as_text:
            told = base64.b64encode(numbers.tobytes()).decode()
        fields = {"object": "embedding", "index": at, "embedding": told}
        yield Piece(b"," * (at > 0) + orjson.dumps(fields), 0)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    yield Piece(b'],"model":"%s","usage":%s}' % (model.encode(), orjson.dumps(usage)), 0)


def vector(text: str, size: int) -> "array[float]":
    """Of length 1: each word adds to one number, or takes from it; which, its checksum says."""
    sums = [0.0] * size
    for word in re.findall(r"\w+", text.lower()) or [text]:
        sum_ = zlib.crc32(word.encode())
        sums[(sum_ >> 1) % size] += 1.0 if sum_ & 1 else -1.0
    length = math.sqrt(sum(number * number for number in sums))
    if not length:  # its words cancel each other out
        sums[0] = length = 1.0
    return array("f", [number / length for number in sums])
