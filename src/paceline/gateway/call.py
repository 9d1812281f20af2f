"""The nouns of a relayed call: a Call as it came, an Ask as it goes to a provider.

A Call's body stays the bytes that came; of what is in it, only what somebody decides by is read.
Made by the dialects (`openai.py`, `anthropic.py`), which know where these things stand in a body.
"""

from typing import Literal

import msgspec

from paceline.observe.traceparent import Context
from paceline.terms.request import Priority

Dialect = Literal["openai", "anthropic"]

Endpoint = Literal[
    "chat",  # POST /v1/chat/completions
    "completions",  # POST /v1/completions
    "embeddings",  # POST /v1/embeddings
    "moderations",  # POST /v1/moderations
    "responses",  # POST /v1/responses
    "messages",  # POST /v1/messages, Anthropic's
    "count_tokens",  # POST /v1/messages/count_tokens, Anthropic's
    "other",  # anything else below /v1: relayed as it is, where a route allows it
]

Headers = list[tuple[bytes, bytes]]
"""Names in lower case."""


class Asked(msgspec.Struct, frozen=True):
    """What is read of a body, in whichever dialect."""

    model: str
    stream: bool = False
    wants_usage: bool = True
    """False for a stream in OpenAI's dialect whose caller did not ask for usage: it is asked for
    all the same, and its chunk withheld"""
    most_tokens: int | None = None


class Call(msgspec.Struct, frozen=True):
    """One request of a caller. `deadline_s` is a moment on the process's monotonic clock, as all
    moments are."""

    id: str
    dialect: Dialect
    endpoint: Endpoint
    method: str
    path: str
    """what follows /v1, with the query: `/chat/completions`"""
    headers: Headers
    """those that mean something to a provider; never the caller's key"""
    body: bytes
    asked: Asked
    priority: Priority
    deadline_s: float
    received_s: float
    """when its head was there"""
    plain_headers: Headers = []
    """of those, what means something in the other dialect too"""
    key_id: str | None = None
    context: Context | None = None
    """its span, where it is recorded: each provider is told the span of its attempt below that"""


class Ask(msgspec.Struct, frozen=True):
    """One attempt's request, as the provider is to get it; it adds its address and its key."""

    method: str
    path: str
    headers: Headers
    body: bytes
    deadline_s: float
