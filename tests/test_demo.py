"""The shipped example is what its card says, and anybody can make it again."""

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from paceline.cli import demo
from paceline.serve import digits, predict, v2
from paceline.serve.digits.train import train
from paceline.serve.onnx_model import OnnxModel
from paceline.terms.errors import MissingExtra, Misuse

FIXTURE = json.loads((Path(__file__).parent / "data" / "digits_rows.json").read_text())


def test_the_card_describes_the_file_beside_it() -> None:
    content = digits.MODEL_PATH.read_bytes()
    card = digits.card()
    assert card.sha256 == hashlib.sha256(content).hexdigest()
    assert card.size_bytes == len(content) < 25_000
    assert card.accuracy == round(card.correct / card.test_rows, 4) >= 0.97


def test_the_example_answers_rows_it_has_not_seen_as_recorded() -> None:
    model = OnnxModel.load(digits.MODEL_PATH, digits.NAME)
    answered = model.run({"x": np.array(FIXTURE["rows"], np.float32)})
    assert answered["label"].tolist() == FIXTURE["predicted"]
    assert (answered["label"] == FIXTURE["labels"]).mean() == pytest.approx(58 / 60)
    assert answered["probabilities"].sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert answered["probabilities"].argmax(axis=1).tolist() == FIXTURE["predicted"]


def test_the_sample_row_is_the_digit_it_says() -> None:
    model = OnnxModel.load(digits.MODEL_PATH, digits.NAME)
    row = np.array([digits.SAMPLE_ROW], np.float32)
    assert model.run({"x": row})["label"].tolist() == [digits.SAMPLE_LABEL]


@pytest.mark.parametrize("absent", ["sklearn", "skl2onnx"])
def test_training_without_the_extra_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: str
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(MissingExtra, match=r"pip install 'paceline\[sklearn\]'") as caught:
        train(tmp_path)
    assert absent in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_example_can_be_made_again_byte_for_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.train(out=tmp_path, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["same_as_shipped"]
    for shipped in (digits.MODEL_PATH, digits.CARD_PATH):
        assert (tmp_path / shipped.name).read_bytes() == shipped.read_bytes()


@pytest.mark.slow
def test_training_tells_its_stages_and_its_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.train(out=tmp_path / "new" / "place")
    printed = capsys.readouterr()
    assert "training on 1437 rows" in printed.err
    assert "97.22% (350 of 360 unseen rows)" in printed.out
    assert "the same file, byte for byte" in printed.out


@pytest.mark.slow
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(Misuse, match="--out"):
        demo.train(out=tmp_path / "taken")


def test_the_examples_of_the_reference_are_answered_as_it_shows() -> None:
    text = (Path(__file__).parents[1] / "docs" / "reference" / "http.md").read_text()
    shown = re.findall(r"-d '\n(.*?)'\n```\n```json\n(.*?)\n```", text, re.DOTALL)
    (row, row_answer), (infer, infer_answer) = shown
    model = OnnxModel.load(digits.MODEL_PATH, digits.NAME)

    plain = predict.decode(row.encode(), model.spec)
    answered = json.loads(
        b"".join(predict.encode(model.spec, plain, model.run(plain.inputs)).parts)
    )
    expected = json.loads(row_answer)
    probabilities = expected["outputs"].pop("probabilities")  # the last bits depend on the CPU
    assert answered["outputs"].pop("probabilities") == pytest.approx(probabilities, rel=1e-3)
    assert answered == expected

    asked = v2.decode(infer.encode(), model.spec)
    reply = v2.encode(model.spec, asked, model.run(asked.inputs))
    assert json.loads(b"".join(reply.parts)) == json.loads(infer_answer)
