"""What the official SDKs make of what the dialects write: events, errors, answers.

Each test names the module and version of the SDK that it holds against. They are imported here
alone, for that takes seconds.
"""

from anthropic._streaming import SSEDecoder as AnthropicDecoder
from hypothesis import given, settings
from hypothesis import strategies as st
from openai._streaming import SSEDecoder as OpenAIDecoder

from paceline.gateway.sse import Parser, write

named = st.sampled_from([b"message_start", b"content_block_delta", b"ping", None])
lines = st.text(st.characters(exclude_characters="\r\n"), max_size=20).map(str.encode)


@settings(deadline=None)
@given(st.lists(st.tuples(named, lines), max_size=6), st.integers(1, 50))
def test_the_official_sdks_see_the_same(
    events: list[tuple[bytes | None, bytes]], size: int
) -> None:
    """Against openai._streaming.SSEDecoder (openai 3.57) and anthropic._streaming.SSEDecoder
    (anthropic 1.17)."""
    stream = b"".join(write(data, name) for name, data in events)
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
    parser = Parser()
    ours = [event for piece in pieces for event in parser.feed(piece)]
    assert [(event.name, event.data) for event in ours] == events
    for decoder in (OpenAIDecoder(), AnthropicDecoder()):
        seen = [(event.event, event.data) for event in decoder.iter_bytes(iter(pieces))]
        assert seen == [(name and name.decode(), data.decode()) for name, data in events]
