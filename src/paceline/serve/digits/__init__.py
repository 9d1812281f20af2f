"""The example that is served when nothing else is named: handwritten digits, 64 numbers to one.

Where its file lives, its card, and a row to try it with. Not how it is made (`train`). Read by
`app.py`, by the line of curl that `up` prints, and by the tests; needs no numpy.
"""

from pathlib import Path

import msgspec

NAME = "digits"
MODEL_PATH = Path(__file__).with_name("digits.onnx")
CARD_PATH = Path(__file__).with_name("digits.json")


class Card(msgspec.Struct, frozen=True):
    """What is known about the file beside it. `correct` of `test_rows` unseen rows were right."""

    accuracy: float
    correct: int
    test_rows: int
    train_rows: int
    split: str
    seed: int
    sha256: str
    size_bytes: int
    versions: dict[str, str]
    data: str


def card() -> Card:
    """The shipped card."""
    return msgspec.json.decode(CARD_PATH.read_bytes(), type=Card)


# One of the rows the example has not seen: somebody wrote a 3.
SAMPLE_LABEL = 3
SAMPLE_ROW = (
    0, 0,  6, 14, 16, 16,  2, 0,
    0, 5, 16, 13, 11, 16,  0, 0,
    0, 0,  7,  2, 15, 12,  0, 0,
    0, 0,  0,  7, 16, 13,  1, 0,
    0, 0,  0,  0,  6, 15, 10, 0,
    0, 0,  0,  0,  0, 15,  9, 0,
    0, 0,  3, 11,  8, 16,  6, 0,
    0, 0,  7, 16, 16,  8,  0, 0,
)  # fmt: skip
