"""What a provider is sent of a call: the bytes that came, with little changed; or the same, said in
its dialect. Called by `relay.py` for each attempt, and for long bodies by `scribe.py`.
"""

from collections.abc import Mapping

from paceline.gateway import openai
from paceline.gateway.call import Ask, Asked, Call, Dialect, Endpoint
from paceline.gateway.translate import requests
from paceline.gateway.upstream import TokensField
from paceline.terms.errors import NotTranslatable
from paceline.terms.limits import LLM_READ_IN_PLACE_BYTES, LLM_SAY_IN_PLACE_BYTES

PATHS: Mapping[Dialect, str] = {"openai": "/chat/completions", "anthropic": "/messages"}
NEWER: TokensField = "max_completion_tokens"

SPOKEN: frozenset[Endpoint] = frozenset({"chat", "messages"})
"""What can be said in the other dialect."""


def is_changed(call: Call, dialect: Dialect, model: str, tokens_field: TokensField = NEWER) -> bool:
    """Whether a provider gets anything but the very bytes."""
    asked = call.asked
    if tokens_field != NEWER and call.endpoint == "chat" and asked.most_tokens is not None:
        return True
    if call.endpoint == "other":
        return bool(asked.model) and model != asked.model
    return (
        dialect != call.dialect or model != asked.model or (asked.stream and not asked.wants_usage)
    )


def is_long(call: Call, dialect: Dialect) -> bool:
    """Whether to change it takes longer than a loop may stand still."""
    same = dialect == call.dialect
    return len(call.body) > (LLM_READ_IN_PLACE_BYTES if same else LLM_SAY_IN_PLACE_BYTES)


def ask_of(
    call: Call,
    dialect: Dialect,
    model: str,
    deadline_s: float,
    body: bytes | None = None,
    tokens_field: TokensField = NEWER,
) -> Ask:
    """For a provider of that dialect, which calls the model so; `body` where it is written already.
    Raises what is wrong with it."""
    if body is None:
        body = written(
            call.body, call.endpoint, call.asked, call.dialect, dialect, model, tokens_field
        )
    path, headers = call.path, call.headers
    if dialect != call.dialect and call.endpoint in SPOKEN:
        path, headers = PATHS[dialect], call.plain_headers
    return Ask(call.method, path, headers, body, deadline_s)


def written(
    body: bytes,
    endpoint: Endpoint,
    asked: Asked,
    dialect: Dialect,
    to: Dialect,
    model: str,
    tokens_field: TokensField = NEWER,
) -> bytes:
    """The body of a call in one dialect, for a provider of another or the same."""
    if dialect != to:
        if endpoint in SPOKEN:
            if to == "anthropic":
                return requests.to_messages(body, model)
            return requests.to_chat(body, model, tokens_field=tokens_field)
        if endpoint != "other":
            raise NotTranslatable(
                f"the provider of this model has no {endpoint}",
                value=model,
                remedy="Ask for a model whose provider has it.",
            )
    if asked.model and model != asked.model:
        body = openai.with_model(body, model)
    if tokens_field != NEWER and endpoint == "chat" and asked.most_tokens is not None:
        body = openai.with_older_name(body)
    if asked.stream and not asked.wants_usage and endpoint in openai.ASKS_FOR_USAGE:
        body = openai.with_usage(body)
    return body
