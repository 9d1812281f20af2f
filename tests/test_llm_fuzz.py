"""Twenty seconds of what `./bench llm_fuzz` does for longer; and that it would notice."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from benchmarks import _llm_cases as cases
from benchmarks import llm_fuzz
from benchmarks._llm_cases import Case, Wanted, Wire
from benchmarks._trouble import DIALECTS

SEED = 2026
SECONDS = 20.0
JSON = b"application/json"
EVENTS = b"text/event-stream"


@pytest.fixture(scope="module")
def sdks() -> llm_fuzz.Sdks:
    return llm_fuzz.Sdks()


def a_case(how: cases.How, *, stream: bool = True) -> Case:
    found = (cases.case(SEED, number, 0) for number in range(10_000))
    return next(
        each
        for each in found
        if (each.how, each.stream) == (how, stream) and each.is_chat and not each.crossed
    )


def heard(status: int, body: bytes, kind: bytes = JSON) -> bytes:
    head = b"HTTP/1.1 %d OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
    return head % (status, kind, len(body)) + body


def wire(of: Case, *, stream: bool) -> Wire:
    return cases.answered(random.Random(1), of, Wanted(of.provider, stream, usage=False))


def test_a_case_is_made_again_from_its_seed_and_number() -> None:
    found = [cases.case(SEED, number, number % 8) for number in range(400)]
    assert found == [cases.case(SEED, number, number % 8) for number in range(400)]
    assert len({each.said for each in found}) == 400
    assert {each.how for each in found} == {*cases.HOWS}
    assert {each.path for each in found} >= {*cases.OTHERS}
    assert {(each.dialect, each.provider, each.stream) for each in found if each.is_chat} == {
        (one, other, stream) for one in DIALECTS for other in DIALECTS for stream in (False, True)
    }


@pytest.mark.parametrize("provider", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
def test_the_sdks_understand_what_is_meant_in_nearly_every_form(
    sdks: llm_fuzz.Sdks, provider: Any, stream: bool
) -> None:
    """Not what is meant only in a form that they cannot read."""
    understood, good = 0, a_case("good", stream=stream)
    for number in range(40):
        chance = random.Random(number)
        of = good._replace(provider=provider, means=cases.meaning(chance))
        sent = cases.answered(chance, of, Wanted(provider, stream, usage=False))
        understood += llm_fuzz.understands(sdks, of, sent)
    assert understood >= 32


@pytest.mark.parametrize("stream", [False, True])
def test_a_good_answer_passes_and_another_does_not(sdks: llm_fuzz.Sdks, stream: bool) -> None:
    of = a_case("good", stream=stream)
    kind = EVENTS if stream else JSON
    sent = wire(of, stream=stream)
    assert llm_fuzz.judged(of, heard(200, sent.body, kind), sent, sdks) == ""
    other = of._replace(means=of.means._replace(text="Something else", uses=(), ended="stop"))
    theirs = wire(other, stream=stream)
    for wrong in (
        heard(200, theirs.body, kind),
        heard(200, b"", kind),
        heard(502, b"{}"),
        heard(200, sent.body, kind) * 2,
        b"",
        b"garbage",
    ):
        assert llm_fuzz.judged(of, wrong, sent, sdks), wrong[:200]


def test_a_refusal_must_be_one_in_the_dialect(sdks: llm_fuzz.Sdks) -> None:
    of = a_case("its body", stream=False)
    inner = {"message": "no", "type": "invalid_request_error", "param": None, "code": None}
    right = {"openai": {"error": inner}, "anthropic": {"type": "error", "error": inner}}
    other = {"openai": "anthropic", "anthropic": "openai"}[of.dialect]
    good = json.dumps(right[of.dialect]).encode()
    assert llm_fuzz.judged(of, heard(400, good), None, sdks) == ""
    for wrong in (
        heard(400, json.dumps(right[other]).encode()),
        heard(400, b'{"error": "no", "code": 7}'),
        heard(400, b""),
        heard(500, good),
        heard(400, b'{"error": {"message": "an unexpected error inside Paceline"}}'),
    ):
        assert llm_fuzz.judged(of, wrong, None, sdks), wrong


@pytest.mark.slow
def test_nothing_that_is_asked_or_answered_ends_hangs_or_confuses_a_front(tmp_path: Path) -> None:
    found = llm_fuzz.fuzz(SECONDS, SEED, tmp_path, quiet=True)
    print(f"{found.cases} calls, {found.settled_mb:.1f} to {found.last_mb:.1f} MB")
    for verdict in found.verdicts():
        assert verdict.holds, (verdict, found.faults, found.wrong, found.said)
    assert found.cases > 200  # on a quiet machine it is some thousands
