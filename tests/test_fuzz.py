"""Twenty seconds of what `./bench fuzz` does for an hour; and that it would notice."""

from pathlib import Path

import pytest
from benchmarks import fuzz

SEED = 2026
SECONDS = 20.0

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CLOSING = b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def said(*statuses: int) -> fuzz.Talk:
    asked = tuple(fuzz.Asked(b"GET / HTTP/1.1\r\n\r\n", (status,)) for status in statuses)
    return fuzz.Talk(0, b"".join(each.said for each in asked), (), "half", asked)


def test_a_conversation_is_made_again_from_its_seed_and_number() -> None:
    talks = [fuzz.talk(SEED, number) for number in range(300)]
    assert talks == [fuzz.talk(SEED, number) for number in range(300)]
    assert len({each.said for each in talks}) > 250
    assert {each.end for each in talks} == {"half", "turns", "close", "reset"}
    assert 50 < sum(bool(each.expected) for each in talks) < 250


@pytest.mark.parametrize(
    ("talk", "heard", "is_right"),
    [
        (said(200), OK, True),
        (said(200, 200), OK + OK, True),
        (said(200, 404, 200), OK + CLOSING, True),
        (said(200), b"HTTP/1.1 100 Continue\r\n\r\n" + OK, True),
        (said(200, 200), OK, False),
        (said(200), OK + OK, False),
        (said(404), OK, False),
        (said(404, 200), CLOSING + OK, False),
        (said(200), OK[:-1], False),
        (said(200), b"ok" + OK, False),
        (said(200), b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok", False),
        (said(200), OK.replace(b"OK", b"OK\r\nx: y\r\nx: y"), False),
        (said(200), OK.replace(b"content-length: 2", b"transfer-encoding: chunked"), False),
        (said(404), b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}", False),
        (said(200), b"", False),
        (said(200)._replace(expected=()), OK * 5, False),
    ],
)
def test_what_is_no_right_answer_is_noticed(talk: fuzz.Talk, heard: bytes, is_right: bool) -> None:
    assert (fuzz.judged(talk, heard) == "") is is_right


@pytest.mark.slow
def test_nothing_that_is_said_ends_hangs_or_fills_a_front(tmp_path: Path) -> None:
    found = fuzz.fuzz(SECONDS, SEED, tmp_path)
    print(f"{found.conversations} conversations, {found.settled_mb:.1f} to {found.last_mb:.1f} MB")
    assert not found.faults
    assert not found.wrong
    assert not found.said
    assert found.same_front
    assert found.is_flat, (found.settled_mb, found.last_mb)
    assert found.descriptors[1] <= found.descriptors[0]
    assert found.conversations > 1000
