"""Long bodies of LLM calls in a process of their own: the same as in place; its life and death."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kernel import state
from paceline.clock import RealClock
from paceline.gateway import anthropic, openai
from paceline.gateway.asking import written
from paceline.gateway.beside import ARGUMENTS, Beside
from paceline.gateway.call import Asked, Call, Dialect, Endpoint
from paceline.gateway.translate.answers import to_messages
from paceline.terms.errors import (
    BadField,
    Overloaded,
    PacelineError,
    ProviderFailed,
    Unavailable,
)
from paceline.terms.limits import LLM_BESIDE

WAIT_S = 20.0
LONG = 'a longish sentence with a \\ and a " in it. ' * 30_000


def chat(**more: object) -> bytes:
    said = {"model": "m", "messages": [{"role": "user", "content": LONG}], **more}
    return json.dumps(said).encode()


def message() -> bytes:
    return chat(max_tokens=9, system="Be short.")


class Place:
    def __init__(self, arguments: tuple[str, ...] = ARGUMENTS) -> None:
        self.beside = Beside(RealClock(), arguments)

    def read(
        self, body: bytes, endpoint: Endpoint = "chat", dialect: Dialect = "openai"
    ) -> "asyncio.Future[Asked | PacelineError]":
        told: asyncio.Future[Asked | PacelineError] = asyncio.get_running_loop().create_future()
        self.beside.read(endpoint, dialect, body, told.set_result)
        return told

    def write(
        self, body: bytes, endpoint: Endpoint, dialect: Dialect, to: Dialect, model: str
    ) -> "asyncio.Future[bytes | PacelineError]":
        asked = (openai if dialect == "openai" else anthropic).read(endpoint, body)
        call = Call("i", dialect, endpoint, "POST", "/x", [], body, asked, "normal", 0.0, 0.0)
        told: asyncio.Future[bytes | PacelineError] = asyncio.get_running_loop().create_future()
        self.beside.write(call, to, model, told.set_result)
        return told


def beside(
    scenario: Callable[[Place], Awaitable[None]], arguments: tuple[str, ...] = ARGUMENTS
) -> None:
    async def main() -> None:
        place = Place(arguments)
        try:
            async with asyncio.timeout(WAIT_S):
                await scenario(place)
        finally:
            place.beside.close()

    asyncio.run(main())


async def until(true: Callable[[], Any]) -> None:
    while not true():
        await RealClock().until(0.0)


def test_what_is_read_and_written_is_what_would_be_in_place() -> None:
    async def scenario(it: Place) -> None:
        stream = chat(stream=True, max_tokens=7)
        assert await it.read(stream) == openai.read("chat", stream)
        assert await it.read(message(), "messages", "anthropic") == anthropic.read(
            "messages", message()
        )
        for endpoint, dialect, to, body in (
            ("chat", "openai", "openai", stream),
            ("chat", "openai", "anthropic", stream),
            ("messages", "anthropic", "openai", message()),
            ("messages", "anthropic", "anthropic", message()),
        ):
            asked = (openai if dialect == "openai" else anthropic).read(endpoint, body)
            made = await it.write(body, endpoint, dialect, to, "k")  # type: ignore[arg-type]
            assert made == written(body, endpoint, asked, dialect, to, "k")  # type: ignore[arg-type]
        assert await it.read(bytearray(stream)) == openai.read("chat", stream)  # type: ignore[arg-type]

    beside(scenario)


def test_a_long_answer_is_said_as_it_would_be_in_place() -> None:
    async def scenario(it: Place) -> None:
        choice = {"index": 0, "message": {"content": LONG}, "finish_reason": "stop"}
        answer = json.dumps({"id": "c1", "choices": [choice]}).encode()
        asked = Asked("asked-for")
        call = Call("i", "anthropic", "messages", "POST", "/x", [], b"", asked, "normal", 0.0, 0.0)
        loop = asyncio.get_running_loop()
        for body in (answer, answer[:-1]):
            told: asyncio.Future[bytes | PacelineError] = loop.create_future()
            it.beside.say(body, call, "openai", 7, told.set_result)
            said = await told
            if body is answer:
                assert said == to_messages(body, "asked-for")
            else:
                assert isinstance(said, ProviderFailed)

    beside(scenario)


def test_what_is_wrong_is_told_with_its_place() -> None:
    async def scenario(it: Place) -> None:
        wrong = await it.read(chat(max_tokens="many"))
        assert isinstance(wrong, BadField)
        assert wrong.param == "max_tokens"
        wrong = await it.read(chat()[:-1])
        assert isinstance(wrong, PacelineError)
        assert wrong.code == "bad_json"
        said = await it.write(chat(logit_bias={"1": 2}), "chat", "openai", "anthropic", "k")
        assert isinstance(said, BadField)
        assert (said.code, said.param) == ("not_translatable", "logit_bias")

    beside(scenario)


def test_a_process_that_dies_is_told_once_and_comes_back() -> None:
    async def scenario(it: Place) -> None:
        assert isinstance(await it.read(chat()), Asked)
        first = it.beside.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        await until(lambda: state(first) == "T")
        lost = it.read(chat())
        await until(lambda: it.beside._worker._current)
        next_one = it.read(chat())
        os.kill(first, signal.SIGKILL)
        assert isinstance(await lost, Unavailable)
        assert isinstance(await next_one, Asked)
        assert it.beside.pid != first

    beside(scenario)


def test_there_are_bounds_and_an_end() -> None:
    async def scenario(it: Place) -> None:
        some = [it.read(b"{}") for _ in range(LLM_BESIDE + 1)]
        assert isinstance(await some[-1], Overloaded)
        it.beside.close()
        for each in some[:-1]:
            assert isinstance(await each, Unavailable)
        assert isinstance(await it.read(b"{}"), Unavailable)

    beside(scenario, ("-c", "import time; time.sleep(60)"))


def test_a_process_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(it: Place) -> None:
        monkeypatch.setattr(sys, "executable", "/nowhere")
        assert isinstance(await it.read(chat()), Unavailable)

    beside(scenario)
