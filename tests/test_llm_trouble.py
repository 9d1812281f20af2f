"""A short while of what `./bench llm_trouble` does a hundred thousand times; and that it would
notice."""

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from benchmarks import _trouble, _trouble_callers, _troublesome, llm_trouble
from benchmarks._trouble import KINDS, Call
from hypothesis import given
from hypothesis import strategies as st

SEED = 2026
CALLS = 900
RATE = 90.0
BUSY = "does not answer"
"""Of a front for two seconds, where others take both cores."""

MOST_LATE = 2
"""Of about a hundred who leave: here others may be at work beside it."""

SETTLING_MB = 6.0
"""Memory is not settled after so few: what is remembered is not full yet."""

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DIALECTS = pytest.mark.parametrize("dialect", _trouble.DIALECTS)


def call(kind: str, dialect: Any, *, stream: bool = True) -> Call:
    return Call(7, kind, stream, dialect, dialect)


def said(events: list[bytes], end: bytes = b"") -> bytes:
    return HEAD + b"".join(map(_troublesome.chunk, events)) + end


def test_the_calls_of_a_seed_are_always_the_same_and_of_all_kinds() -> None:
    found = [*islice(_trouble_callers.calls(SEED), 3000)]
    assert found == [*islice(_trouble_callers.calls(SEED), 3000)]
    kinds = Counter(each.kind for each in found)
    assert kinds.keys() == KINDS.keys()
    assert {each.crossed for each in found} == {False, True}
    assert all(each.stream in KINDS[each.kind].streams for each in found)


@DIALECTS
def test_only_the_whole_answer_passes_for_it(dialect: Any) -> None:
    of = call("whole", dialect)
    events = _trouble.streamed(dialect, 7, "whole")
    every = [*events.first, *events.content, *events.last]
    assert _trouble.judged(of, said(every, _troublesome.END)) == ""
    for heard in (
        b"",
        said(every),  # no end, says HTTP
        said(every[:-1], _troublesome.END),
        said(every[1:-4], _troublesome.END),
        said([*every, *every[-1:]], _troublesome.END),
        said([*events.first, *events.content, events.broken]),
        said(every, _troublesome.END) + b"more",
        said(every, _troublesome.END).replace(b"7/3 ", b"8/3 "),  # somebody else's
        _troublesome.answer(502, _trouble.failure(dialect, 500)),
    ):
        assert _trouble.judged(of, heard), heard


@DIALECTS
def test_a_cut_stream_must_say_so(dialect: Any) -> None:
    of = call("cut between events", dialect)
    events = _trouble.streamed(dialect, 7, "whole")
    begun = [*events.first, *events.content[:5]]
    assert _trouble.judged(of, said([*begun, events.broken])) == ""
    for heard in (
        said(begun),
        said([*begun, events.broken], _troublesome.END),
        said([*begun, events.broken, events.last[-1]]),
        said([*begun, *events.last], _troublesome.END),
        said([*events.first, events.broken]),
        said([*begun[:-2], begun[-1], events.broken]),
    ):
        assert _trouble.judged(of, heard), heard


@DIALECTS
def test_an_error_has_its_status_and_the_dialect_of_the_address(dialect: Any) -> None:
    of = call("hangs up", dialect, stream=False)
    other: Any = "anthropic" if dialect == "openai" else "openai"
    right = _trouble.failure(dialect, 500)
    assert _trouble.judged(of, _troublesome.answer(502, right)) == ""
    for status, body in ((500, right), (502, _trouble.failure(other, 500)), (502, b"{}")):
        assert _trouble.judged(of, _troublesome.answer(status, body)), (status, body)


@DIALECTS
@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_hears_no_whole_answer(dialect: Any, stream: bool) -> None:
    of = call("leaves", dialect, stream=stream)
    assert _trouble.judged(of, b"") == ""
    whole = _troublesome.answer(200, _trouble.whole(dialect, 7, "whole"))
    assert _trouble.judged(of, whole[:-1]) == ""
    assert _trouble.judged(of, whole)


@given(memory=st.floats(10, 500), grows=st.floats(-10, 10))
def test_growth_is_that_of_a_straight_line(memory: float, grows: float) -> None:
    """After the warm-up, in which it may be whatever it is."""
    before, after = llm_trouble.WARM_CALLS, range(101)
    samples = [llm_trouble.Sample(at, 1.0, 9, 0, 0) for at in range(0, before, 1000)]
    samples += [
        llm_trouble.Sample(before + at * 1000, memory + grows * at / 100, 9, 0, 0) for at in after
    ]
    nothing: dict[str, Any] = dict.fromkeys(llm_trouble.Found._fields)
    found = llm_trouble.Found(**{**nothing, "calls": before + 100_000, "samples": samples})
    assert found.bytes_a_call == pytest.approx(10 * grows, abs=1e-3)
    if abs(grows - llm_trouble.GROWTH_MB) > 1e-3:
        assert found.is_flat is (grows <= llm_trouble.GROWTH_MB)
    assert found._replace(samples=samples[:9]).is_flat is None


@pytest.mark.slow
def test_each_call_in_trouble_ends_as_it_must_and_nothing_stays(tmp_path: Path) -> None:
    found = llm_trouble.trouble(CALLS, SEED, RATE, tmp_path, quiet=True)
    print(f"{found.calls} calls in {found.seconds:.0f} s, {found.samples[-1].memory_mb:.1f} MB")
    assert not found.faults
    assert found.calls == CALLS
    assert not found.not_seen
    assert not found.wrong
    assert not found.kept
    assert found.same_front, found.said
    assert not [line for line in found.said if BUSY not in line]
    assert (found.left_open, found.left_in_hand) == (0, 0)
    assert found.descriptors[1] <= found.descriptors[0]
    assert found.unread_bytes <= llm_trouble.UNREAD_BYTES
    assert sum(map(len, found.seen_ms.values())) > 100
    assert found.late <= MOST_LATE, found.seen_ms
    memory_mb = [each.memory_mb for each in found.samples]
    assert memory_mb[-1] < memory_mb[len(memory_mb) // 3] + SETTLING_MB, memory_mb
