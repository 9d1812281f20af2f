"""What an answer says of itself: the tokens it took, the model it is of, how it ended.

The two vendors count input in two ways. OpenAI's `prompt_tokens` includes what was read from a
cache and what was written to one; Anthropic's `input_tokens` includes neither. Here input is all of
it, as OpenTelemetry has it too, and `fresh_tokens` is the rest, so that nothing is billed twice.
Both count reasoning as output.

Read by the dialects; recorded and billed by whoever called.
"""

import msgspec

from paceline.terms.limits import LLM_READ_IN_PLACE_BYTES, LLM_TOKENS_TOLD

BYTES_PER_TOKEN = 4
"""Of English in JSON; a token of other languages takes 2 to 6."""

DATA_BYTES = 1024
DATA_TOKENS = 1000
"""A string of that length without a blank is no text: a picture or a file, of which the vendors say
that it takes hundreds of tokens to a few thousand, whatever its length."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    input_tokens: int = 0
    """cached and cache-written ones included"""
    output_tokens: int = 0
    """reasoning included"""
    cached_tokens: int = 0
    """of the input, read from the provider's cache"""
    cache_write_tokens: int = 0
    """of the input, written to it"""
    cache_write_1h_tokens: int = 0
    """of those, the ones that are kept for an hour, where a vendor tells them apart"""
    reasoning_tokens: int = 0
    """of the output"""

    @property
    def fresh_tokens(self) -> int:
        return max(0, self.input_tokens - self.cached_tokens - self.cache_write_tokens)


class Estimated(msgspec.Struct, frozen=True, gc=False):
    """Tokens beyond what a provider told, of a stream that had content: it told none, or the stream
    was left, or broke, before it told the last."""

    input_tokens: int = 0
    output_tokens: int = 0


class Told(msgspec.Struct, frozen=True, gc=False):
    """None: it does not say. `failed`: it is an error, whatever its status. Not `readable`: it is
    no JSON, or not all of it."""

    usage: Usage | None = None
    finish: str | None = None
    """in the vendor's own word; of several choices, the first one's"""
    model: str | None = None
    id: str | None = None
    failed: bool = False
    readable: bool = True


NO_ESTIMATE = Estimated()
NOTHING = Told()
UNREADABLE = Told(readable=False)


def believed(usage: Usage) -> Usage | None:
    """None where no call can have taken so many, or fewer than none: counters, and what is
    reckoned by them, would be wrong for ever."""
    numbers = (
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_tokens,
        usage.cache_write_tokens,
        usage.cache_write_1h_tokens,
        usage.reasoning_tokens,
    )
    return usage if min(numbers) >= 0 and max(numbers) <= LLM_TOKENS_TOLD else None


def estimated_input(body: bytes) -> int:
    """How many tokens a body may take, where its provider told nothing. Of a long one only the
    beginning is looked at."""
    looked = body[:LLM_READ_IN_PLACE_BYTES]
    tokens = text_bytes = 0
    for part in looked.split(b'"'):
        if len(part) > DATA_BYTES and b" " not in part:
            tokens += DATA_TOKENS
        else:
            text_bytes += len(part)
    tokens += text_bytes // BYTES_PER_TOKEN
    return tokens * len(body) // len(looked) if len(body) > len(looked) else tokens


def estimated_output(events: int, size: int, around: int) -> int:
    """How many tokens a stream had that far, by its events with content: their number, all of their
    bytes, and how many of those stand around the words of one. An event has a token or more.
    Reasoning that is not streamed is not in it."""
    return max(events, (size - events * around) // BYTES_PER_TOKEN)
