"""What the settings say of providers, as whoever calls them reads it; routes are in `routes.py`.

Values alone; of a key there is only the name of the variable it stands in. Made by `config/llm.py`,
told to the fronts, which make providers of it (`app.py`).
"""

import ipaddress
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

import msgspec

Kind = Literal["openai", "anthropic", "simulated"]
"""Whose dialect it speaks; almost everybody speaks OpenAI's."""

TokensField = Literal["max_completion_tokens", "max_tokens"]
"""What a provider of OpenAI's dialect calls the most tokens of a chat's answer. Some know the older
name alone; OpenAI's newer models refuse that one."""

SIMULATED: Literal["simulated"] = "simulated"


class Upstream(msgspec.Struct, frozen=True):
    """One provider. `models` are the names that go to it without a route, with a `*` at the end for
    all that begin so; `withheld`: it would cost money, and nobody has said that it may."""

    name: str
    kind: Kind
    url: str = ""
    key_env: str = ""
    ca_file: str = ""
    private: bool = False
    models: tuple[str, ...] = ()
    withheld: bool = False
    tokens_field: TokensField = "max_completion_tokens"


class Target(msgspec.Struct, frozen=True):
    """`model` is the provider's name for it; empty: the one that the caller asked for."""

    provider: str
    model: str = ""

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}" if self.model else self.provider


KNOWN: Mapping[str, Upstream] = {
    each.name: each
    for each in (
        Upstream(
            SIMULATED,
            SIMULATED,
            models=(
                "sim-small",
                "sim-large",
                "sim-embed",
                "sim-moderation",
                "sim-small:*",
                "sim-large:*",
                "sim-embed:*",
                "sim-moderation:*",
            ),
        ),
        Upstream(
            "openai",
            "openai",
            "https://api.openai.com/v1",
            "OPENAI_API_KEY",
            models=(
                "gpt-*",
                "chatgpt-*",
                "o1*",
                "o3*",
                "o4*",
                "codex-*",
                "text-embedding-*",
                "omni-moderation-*",
                "text-moderation-*",
                "davinci-*",
                "babbage-*",
            ),
        ),
        Upstream(
            "anthropic",
            "anthropic",
            "https://api.anthropic.com",
            "ANTHROPIC_API_KEY",
            models=("claude-*",),
        ),
        Upstream("openrouter", "openai", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
        Upstream(
            "gemini",
            "openai",
            "https://generativelanguage.googleapis.com/v1beta/openai",
            "GEMINI_API_KEY",
            models=("gemini-*",),
        ),
        Upstream(
            "mistral",
            "openai",
            "https://api.mistral.ai/v1",
            "MISTRAL_API_KEY",
            models=("mistral-*", "codestral-*", "ministral-*", "magistral-*"),
            tokens_field="max_tokens",
        ),
        Upstream(
            "deepseek",
            "openai",
            "https://api.deepseek.com/v1",
            "DEEPSEEK_API_KEY",
            models=("deepseek-*",),
            tokens_field="max_tokens",
        ),
        Upstream("groq", "openai", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
        Upstream("together", "openai", "https://api.together.xyz/v1", "TOGETHER_API_KEY"),
        Upstream("xai", "openai", "https://api.x.ai/v1", "XAI_API_KEY", models=("grok-*",)),
    )
}
"""Those that a key in the environment is enough for, and the one that needs none. Others are
written into the settings."""


def is_private(url: str) -> bool:
    """Whether its host, as it is written, is this machine or an address of a private network."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False  # a name: what it resolves to is looked at when it is called
    return address.is_loopback or address.is_private


def costs(upstream: Upstream) -> bool:
    """Whether its answers may cost money, as far as can be told."""
    return upstream.kind != SIMULATED and not upstream.private
