"""The Provider contract: kept by the simulated provider, and able to find those that break it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from paceline.clock import Chance, Clock, RealClock, SimulatedClock, run_simulated
from paceline.gateway.call import Ask, Dialect, Headers
from paceline.gateway.provider import Heard, Lost, Provider, Running
from paceline.gateway.providers.simulated import SimulatedProvider, Simulation
from paceline.gateway.upstream import TokensField
from paceline.testing.provider_contract import Kind, ProviderContract

QUICK = Simulation(latency_ms=5, token_ms=1, spread=0)

MODELS: dict[Kind, str] = {
    "whole": "sim-small",
    "stream": "sim-small:tokens=30",
    "long": "sim-small:tokens=200:token_ms=0",
    "failed": "sim-small:429",
    "silent": "sim-small:hang",
    "closed": "sim-small:closed",
    "cut": "sim-small:cut",
}


class SimulatedContract(ProviderContract):
    """In simulated time, where nothing is waited for."""

    dialect: Dialect = "openai"
    rest_bytes = 0

    def make(self, clock: Clock) -> Provider:
        return SimulatedProvider(self.dialect, QUICK, clock, Chance(1))

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Provider]:
        provider = self.make(self.clock)
        yield provider
        await provider.close()

    def ask(self, kind: Kind, deadline_s: float) -> Ask:
        fields = {
            "model": MODELS[kind],
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 4000,
            "stream": kind in ("stream", "long", "cut"),
        }
        path = "/messages" if self.dialect == "anthropic" else "/chat/completions"
        return Ask("POST", path, [], json.dumps(fields).encode(), deadline_s)

    def run(self, main: Callable[[], Any]) -> None:
        async def timed(clock: SimulatedClock, chance: Chance) -> None:
            self.clock = clock
            await main()

        run_simulated(timed)


class TestSimulated(SimulatedContract):
    pass


class TestSimulatedAnthropic(SimulatedContract):
    dialect: Dialect = "anthropic"


class TestSimulatedInRealTime(SimulatedContract):
    """Where timers fire when they like."""

    clock = RealClock()
    quiet_s = 0.02
    short_s = 0.05

    def run(self, main: Callable[[], Any]) -> None:
        asyncio.run(main())


# --- Those that break it --------------------------------------------------------------------------


class FaultyProvider:
    """Right, but for the one fault: it stands between a simulated provider and its hearer."""

    name = "faulty"
    simulated = True
    dialect: Dialect = "openai"
    tokens_field: TokensField = "max_completion_tokens"

    def __init__(self, clock: Clock, fault: str) -> None:
        self._inner = SimulatedProvider("openai", QUICK, clock, Chance(1))
        self._clock = clock
        self._fault = fault
        self._tasks: list[asyncio.Future[Any]] = []
        self._first: Heard | None = None
        if fault == "has no name":
            self.name = ""

    def complete(self, ask: Ask, heard: Heard) -> Running:
        if self._fault == "hears the deadline too early":
            ask = ask._replace(deadline_s=ask.deadline_s - 0.1)
        if self._fault == "never hears the deadline":
            ask = ask._replace(deadline_s=ask.deadline_s + 1000)
        if self._fault == "breaks after a failure" and self._first is not None:
            ask = ask._replace(body=b"{}")
        if self._fault == "answers at once, late ones alone" and ask.deadline_s < self._clock.now():
            heard.lost("late", "too late")
        between = _Between(heard, self._fault, self)
        if self._fault == "answers at once":
            heard.head(200, [])
        if self._fault == "mixes calls up":
            self._first = self._first or heard
            between = _Between(self._first, self._fault, self)
        if self._fault == "leaves a task behind":
            self._tasks.append(asyncio.ensure_future(asyncio.Event().wait()))
        between.running = self._inner.complete(ask, between)
        return between

    async def close(self) -> None:
        if self._fault == "goes on when it is closed":
            return
        await self._inner.close()


class _Between:
    running: Running

    def __init__(self, heard: Heard, fault: str, provider: FaultyProvider) -> None:
        self._heard = heard
        self._fault = fault
        self._provider = provider
        self._pieces = 0
        self._ended = False
        self._paused = False
        self._kept: list[bytes] = []

    def head(self, status: int, headers: Headers) -> None:
        if self._fault == "takes a failure for a loss" and status >= 400:
            self.running.stop()
            self._heard.lost("closed", f"{status}")
            return
        if self._fault == "tells no head":
            return
        if self._fault == "tells headers as they came":
            headers = [(name.title(), value) for name, value in headers]
        self._heard.head(status, headers)
        if self._fault == "tells the head twice":
            self._heard.head(status, headers)

    def body(self, piece: bytes) -> None:
        self._pieces += 1
        if self._fault == "loses what comes in a pause" and self._paused:
            return
        if self._fault == "goes on in a turn after a stop" and self._pieces == 1:
            self._heard.body(piece[:1])
            self._heard.body(piece[1:])
            return
        self._heard.body(piece)

    def end(self) -> None:
        if self._fault == "tells no end":
            return
        self._heard.end()
        if self._fault == "tells the end twice":
            self._heard.end()
        if self._fault == "goes on after the end":
            asyncio.get_running_loop().call_later(0.001, self._heard.body, b"more")

    def lost(self, why: Lost, detail: str) -> None:
        if self._fault == "takes a cut for the end" and why == "cut":
            self._heard.end()
            return
        if self._fault == "tells all losses alike":
            why = "closed" if why != "closed" else "cut"
        if self._fault == "does not explain":
            detail = ""
        if self._fault == "breaks after a failure":
            self._provider._first = self._heard
        self._heard.lost(why, detail)
        if self._fault == "tells a loss twice":
            self._heard.lost(why, detail)

    def stop(self) -> None:
        if self._fault == "does not stop":
            return
        if self._fault == "tells that it was stopped" and not self._ended:
            self._heard.lost("cut", "stopped")
        self._ended = True
        self.running.stop()

    def pause(self) -> None:
        if self._fault == "does not pause":
            return
        if self._fault == "loses what comes in a pause":
            self._paused = True
            return
        self.running.pause()

    def resume(self) -> None:
        self._paused = False
        if self._fault == "does not go on":
            return
        self.running.resume()


FAULTS = [
    "has no name",
    "answers at once",
    "answers at once, late ones alone",
    "mixes calls up",
    "hears the deadline too early",
    "never hears the deadline",
    "takes a failure for a loss",
    "tells no head",
    "tells headers as they came",
    "tells the head twice",
    "tells no end",
    "tells the end twice",
    "goes on after the end",
    "takes a cut for the end",
    "tells all losses alike",
    "does not explain",
    "tells a loss twice",
    "breaks after a failure",
    "does not stop",
    "goes on in a turn after a stop",
    "tells that it was stopped",
    "does not pause",
    "loses what comes in a pause",
    "does not go on",
    "leaves a task behind",
    "goes on when it is closed",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_provider_that_breaks_it_is_found(fault: str) -> None:
    class Broken(SimulatedContract):
        def make(self, clock: Clock) -> Provider:
            return FaultyProvider(clock, fault)

    assert _failed(Broken())


def test_the_one_between_is_no_fault_itself() -> None:
    class Fine(SimulatedContract):
        def make(self, clock: Clock) -> Provider:
            return FaultyProvider(clock, "")

    assert not _failed(Fine())


def _failed(suite: SimulatedContract) -> list[str]:
    failed = []
    for name in dir(suite):
        if name.startswith("test_"):
            try:
                getattr(suite, name)()
            except Exception:  # noqa: BLE001 - whatever it is, it was found
                failed.append(name)
    return failed
