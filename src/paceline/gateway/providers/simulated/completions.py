"""Simulated text completions in OpenAI's dialect, whole and streamed. Called by `provider.py`."""

from collections.abc import Iterator
from typing import Any

import msgspec
import orjson

from paceline.gateway.providers.simulated.answers import EVENTS, Answer, Made, Piece, Refused, whole
from paceline.gateway.providers.simulated.openai import (
    BROKEN,
    ENDED,
    ChunkStream,
    StreamOptions,
    completion_fields,
    usage_fields,
)
from paceline.gateway.providers.simulated.reading import (
    check_model,
    check_positive,
    choices_of,
    read,
    stops_of,
    texts_of,
)
from paceline.gateway.providers.simulated.saying import Prompt, say, tokens_in
from paceline.gateway.providers.simulated.wishes import CHAT_MODELS, Wish
from paceline.terms.limits import SIMULATED_CHOICES, SIMULATED_TOKENS


class _Completion(msgspec.Struct):
    prompt: str | list[str | int | list[int]] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    echo: bool | None = None
    logprobs: int | None = None


def answer(body: bytes, wish: Wish, made: Made) -> Answer:
    asked = read(body, _Completion)
    check_model(wish, CHAT_MODELS)
    check_positive(asked.max_tokens, "max_tokens")
    texts = texts_of(asked.prompt if asked.prompt is not None else "")
    n = choices_of(asked.n)
    if not 1 <= len(texts) * n <= SIMULATED_CHOICES:
        raise Refused(400, f"Between 1 and {SIMULATED_CHOICES} choices in all.", param="prompt")
    prompts = [
        Prompt(
            model=wish.model,
            said=text,
            tokens=tokens,
            most_tokens=asked.max_tokens,
            stops=stops_of(asked.stop),
        )
        for text, tokens in texts
    ]
    most = SIMULATED_TOKENS // (len(texts) * n)
    said = [(prompt, say(prompt, wish.tokens, most)) for prompt in prompts for _ in range(n)]
    tokens = sum(saying.tokens for _, saying in said)
    usage = usage_fields(sum(prompt.tokens for prompt in prompts), tokens)
    texts_out = [(prompt.said if asked.echo else "") + saying.text for prompt, saying in said]
    if not asked.stream:
        choices = [
            _text_choice(at, text, ENDED[saying.ended], asked.logprobs)
            for at, (text, (_, saying)) in enumerate(zip(texts_out, said, strict=True))
        ]
        fields = completion_fields("text_completion", wish.model, made, choices, usage)
        del fields["service_tier"]
        return whole(orjson.dumps(fields), tokens)
    with_usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
    stream = ChunkStream("text_completion", wish.model, made, with_usage)
    deltas = [
        _text_deltas(at, text, ENDED[saying.ended], asked.logprobs)
        for at, (text, (_, saying)) in enumerate(zip(texts_out, said, strict=True))
    ]
    return Answer(200, [EVENTS], stream.pieces(deltas, usage), tokens, BROKEN)


def _text_choice(at: int, text: str, ended: str | None, told: int | None) -> dict[str, Any]:
    logprobs = None
    if told is not None:
        tokens = tokens_in(text)
        logprobs = {
            "tokens": tokens,
            "token_logprobs": [-0.0001 for _ in tokens],
            "top_logprobs": [{token: -0.0001} for token in tokens] if told else None,
            "text_offset": [4 * number for number in range(len(tokens))],
        }
    return {"text": text, "index": at, "logprobs": logprobs, "finish_reason": ended}


def _text_deltas(at: int, text: str, ended: str, told: int | None) -> Iterator[Piece]:
    for token in tokens_in(text):
        yield Piece(orjson.dumps([_text_choice(at, token, None, told)]), 1)
    yield Piece(orjson.dumps([_text_choice(at, "", ended, None)]), 0)
