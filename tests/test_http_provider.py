"""The provider over HTTP, against the strict upstreams: it keeps the contract of all providers, and
what it sends is what the vendors take."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from paceline.clock import RealClock
from paceline.gateway.call import Ask, Headers
from paceline.gateway.provider import Provider
from paceline.gateway.providers.http import HttpProvider
from paceline.gateway.upstream import Upstream as Settings
from paceline.testing.llm_script import Script
from paceline.testing.llm_upstream import (
    HANGS_UP,
    SILENCE,
    AnthropicUpstream,
    OpenAIUpstream,
    Upstream,
    fails,
    raw,
    says,
)
from paceline.testing.provider_contract import Kind, ProviderContract

LONG: Headers = [(b"content-type", b"text/event-stream")]

SCRIPTS: dict[Kind, Script] = {
    "whole": says("Hello there"),
    "stream": says("one two three four five six seven eight nine ten").slow(0.003),
    "long": raw(200, LONG, *[b"data: " + b"x" * 65_000 + b"\n\n"] * 160),
    "failed": fails(429),
    "silent": SILENCE,
    "closed": HANGS_UP,
    "cut": says("one two three four").cut(after=3),
}

HELLO: Any = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100}


class HttpContract(ProviderContract):
    upstream: Upstream
    path: str
    quiet_s = 0.03
    short_s = 0.1

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Provider]:
        provider = provider_of(self.upstream)
        yield provider
        await provider.close()

    def ask(self, kind: Kind, deadline_s: float) -> Ask:
        self.upstream.next(SCRIPTS[kind])
        body = {**HELLO, "stream": kind in ("stream", "long", "cut")}
        headers = [(b"content-type", b"application/json")]
        return Ask("POST", self.path, headers, json.dumps(body).encode(), deadline_s)


def provider_of(upstream: Upstream) -> Provider:
    settings = Settings("mine", upstream.vendor, upstream.address, private=True)
    return HttpProvider(settings, upstream.key, RealClock().now)


class TestToOpenAI(HttpContract):
    path = "/chat/completions"

    @pytest.fixture(autouse=True)
    def _upstream(self) -> Any:
        with OpenAIUpstream() as self.upstream:
            yield


class TestToAnthropic(HttpContract):
    path = "/messages"

    @pytest.fixture(autouse=True)
    def _upstream(self) -> Any:
        with AnthropicUpstream() as self.upstream:
            yield
