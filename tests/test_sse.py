"""Events in a stream of bytes: the same for every split, nothing lost, as the standard says."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from paceline.gateway.sse import Event, Parser
from paceline.terms.errors import EventTooLong

PARTS = [
    b"data: {}",
    b"data:x",
    b"data",
    b"data:  two",
    b"event: content_block_delta",
    b"event:",
    b": ping",
    b":",
    b"id: 7",
    b"retry: 10",
    b"d",
    b"event: ",
    b"data: ",
    "data: ü€𝄞".encode(),
    b"\xef\xbb\xbf",
    b"\xff\x00",
]
ENDS = [b"\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n", b"\r\r"]

streams = st.lists(st.sampled_from(PARTS + 3 * ENDS)).map(b"".join)
lf_streams = st.lists(st.sampled_from([*PARTS, b"\n", b"\n\n", b"\n\n"])).map(b"".join)
usual_streams = st.lists(
    st.sampled_from([b"data: {}\n\n", b"event: ping\ndata: {}\n\n", b": ping\n\n", b"data: a\n"])
).map(b"".join)


def parsed(pieces: list[bytes]) -> tuple[list[Event], Event | None]:
    parser = Parser()
    return [event for piece in pieces for event in parser.feed(piece)], parser.end()


def blocks_of(stream: bytes) -> list[list[bytes]]:
    """The standard read literally, with nothing shared with the parser: the lines of each block."""
    blocks: list[list[bytes]] = [[]]
    stream = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *lines, rest = stream.split(b"\n")
    for line in lines:
        if line:
            blocks[-1].append(line)
        else:
            blocks.append([])
    if rest:
        blocks[-1].append(rest)
    return blocks


def told(lines: list[bytes]) -> tuple[bytes | None, bytes]:
    name, data = None, []
    for line in lines:
        field, value = line, b""
        if b":" in line:
            field, value = line[: line.index(b":")], line[line.index(b":") + 1 :]
            if value[:1] == b" ":
                value = value[1:]
        if field == b"event":
            name = value or None
        if field == b"data":
            data.append(value)
    return name, b"\n".join(data)


@settings(deadline=None)
@given(stream=st.one_of(streams, lf_streams, usual_streams), cuts=st.lists(st.integers(0, 200)))
@example(stream=b"data: {}\n\nevent: x", cuts=[])
@example(stream=b"a\n\r\rb", cuts=[3])
def test_every_split_gives_the_same_events_and_loses_no_byte(
    stream: bytes, cuts: list[int]
) -> None:
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(places)]
    whole = parsed([stream])
    assert parsed(pieces) == whole
    assert parsed([stream[i : i + 1] for i in range(len(stream))]) == whole
    events, rest = whole
    assert b"".join(event.raw for event in events) + (rest.raw if rest else b"") == stream
    seen = [(event.name, event.data) for event in [*events, *([rest] if rest else [])]]
    expected = [told(lines) for lines in blocks_of(stream)]
    nothing = (None, b"")
    assert [each for each in seen if each != nothing] == [
        each for each in expected if each != nothing
    ]


@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"])
def test_two_cuts_anywhere_make_no_difference(ends: bytes) -> None:
    events = b"data: {}\n\nevent: ping\ndata: {}\n\n: x\n\ndata: a\ndata: b\n\nevent: e\nid: 1\n\n"
    stream = (2 * events).replace(b"\n", ends)
    whole = parsed([stream])
    assert len(whole[0]) == 10
    for i in range(len(stream)):
        for j in range(i, len(stream)):
            assert parsed([stream[:i], stream[i:j], stream[j:]]) == whole


def test_an_event_is_told_with_its_last_byte() -> None:
    for event in (
        b"data: {}\n\n",
        b"event: ping\ndata: {}\n\n",
        b"data: {}\r\n\r\n",
        b"data: {}\r\r",
        b": ping\n\n",
    ):
        parser = Parser()
        for i in range(len(event) - 1):
            assert parser.feed(event[i : i + 1]) == []
        assert [each.raw for each in parser.feed(event[-1:])] == [event]
        assert parser.end() is None


def test_comments_are_kept_as_they_came() -> None:
    stream = b": OPENROUTER PROCESSING\n\ndata: {}\n\n"
    assert parsed([stream])[0] == [
        Event(None, b"", b": OPENROUTER PROCESSING\n\n"),
        Event(None, b"{}", b"data: {}\n\n"),
    ]


def test_what_follows_the_last_blank_line_is_there_at_the_end() -> None:
    assert parsed([b"data: a\n\ndata: b\nevent: x"]) == (
        [Event(None, b"a", b"data: a\n\n")],
        Event(b"x", b"b", b"data: b\nevent: x"),
    )
    assert parsed([b"data: b\n"])[1] == Event(None, b"b", b"data: b\n")


@pytest.mark.parametrize("ends", [b"\n\n", b"\r\n\r\n", b"\r\r"])
@pytest.mark.parametrize("pieces", [1, 7, 1000])
@pytest.mark.parametrize("before", [0, 2])
def test_an_event_may_be_as_long_as_the_bound_and_no_longer(
    ends: bytes, pieces: int, before: int
) -> None:
    def feed(parser: Parser, stream: bytes) -> list[Event]:
        size = -(-len(stream) // pieces)
        events: list[Event] = []
        for begin in range(0, len(stream), size):
            try:
                events += parser.feed(stream[begin : begin + size])
            except EventTooLong as error:
                events += error.before
                raise EventTooLong("too long", remedy="", before=events) from None
        return events

    first = before * (b"data: first" + ends)
    just = b"data: " + b"x" * (94 - len(ends)) + ends
    assert len(just) == 100
    assert len(feed(Parser(most=100), first + just + just)) == before + 2
    for too_long in (b"x" + just, b"data: " + b"x" * 95):
        with pytest.raises(EventTooLong) as caught:
            feed(Parser(most=100), first + too_long)
        assert len(caught.value.before) == before
        assert caught.value.http == 502


def test_a_long_event_in_many_pieces_costs_as_its_length() -> None:
    parser = Parser()
    for _ in range(200_000):
        assert parser.feed(b"x") == []
    assert len(parser.feed(b"\n\n")[0].raw) == 200_002
