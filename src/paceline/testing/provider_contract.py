"""What every Provider must do, as a suite that each implementation runs, ours and other people's.

    class TestMine(ProviderContract):
        @asynccontextmanager
        async def opened(self) -> AsyncIterator[Provider]:
            provider = MyProvider(...)
            yield provider
            await provider.close()

        def ask(self, kind: Kind, deadline_s: float) -> Ask:
            return Ask("POST", "/chat/completions", [], b"...", deadline_s)

pytest finds the inherited tests. `ask` gives a request that leads to an answer of the wanted kind,
by whatever it says, or by what an upstream is told to do next. Where the suite is to run in
simulated time, override `run`, and `clock` in it. What is in the answers is not judged, nor speed.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal

from paceline.clock import Clock, RealClock
from paceline.gateway.call import Ask, Headers
from paceline.gateway.provider import Heard, Lost, Provider, Running
from paceline.terms.limits import REST_BYTES

Kind = Literal[
    "whole",  # an answer in one go
    "stream",  # one that takes its time: at least ten pieces
    "long",  # a stream of several times `rest_bytes`, as fast as it can be had
    "failed",  # an answer with a status of 400 or more
    "silent",  # nothing ever comes
    "closed",  # closed before the first byte
    "cut",  # closed within the body
]

KINDS: tuple[Kind, ...] = ("whole", "stream", "long", "failed", "silent", "closed", "cut")

AT_ONCE = 20

Told = tuple[str, Any]


class Recorder:
    """Hears one answer, and fails by itself where the order of what it is told is wrong.

    `react` is called with each thing's name as it comes; what goes wrong within a callback is
    kept, for a provider may swallow it.
    """

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.faults: list[str] = []
        self.returned = False
        """whether `complete` has"""
        self.stopped = False
        self.over = asyncio.Event()
        self.heard_bytes = 0
        self.react: Callable[[str], None] = lambda what: None
        self._wanted = ""
        self._came = asyncio.Event()

    def head(self, status: int, headers: Headers) -> None:
        if self.whats:
            self.faults.append(f"a head came after {self.whats[-1]}")
        if any(name != name.lower() for name, _ in headers):
            self.faults.append("names of headers are not in lower case")
        self._tell("head", status)

    def body(self, piece: bytes) -> None:
        if not self.whats:
            self.faults.append("a piece came before the head")
        self.heard_bytes += len(piece)
        self._tell("body", bytes(piece))

    def end(self) -> None:
        if not self.whats:
            self.faults.append("an end came before the head")
        self._tell("end", None)
        self.over.set()

    def lost(self, why: Lost, detail: str) -> None:
        if not detail:
            self.faults.append("what was lost is not explained")
        self._tell("lost", why)
        self.over.set()

    def _tell(self, what: str, value: Any) -> None:
        if not self.returned:
            self.faults.append(f"{what} came before `complete` returned")
        if self.over.is_set():
            self.faults.append(f"{what} came after {self.whats[-1]}")
        if self.stopped:
            self.faults.append(f"{what} came after `stop`")
        self.told.append((what, value))
        if what == self._wanted:
            self._came.set()
        self.react(what)

    async def until(self, what: str) -> None:
        """Until that has come, or will not any more."""
        if what in self.whats or self.over.is_set():
            return
        self._wanted = what
        waiting = [asyncio.ensure_future(each.wait()) for each in (self._came, self.over)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    @property
    def whats(self) -> list[str]:
        return [what for what, _ in self.told]

    @property
    def bytes(self) -> bytes:
        return b"".join(value for what, value in self.told if what == "body")

    def check(self) -> None:
        assert not self.faults, self.faults

    def check_whole(self, failed: bool = False) -> None:
        """A head of the right kind, pieces, an end."""
        self.check()
        whats = self.whats
        assert whats[:1] == ["head"], whats
        assert (self.told[0][1] >= 400) == failed, self.told[0]
        assert whats[-1:] == ["end"], whats
        assert set(whats[1:-1]) <= {"body"}, whats

    def check_lost(self, why: Lost) -> None:
        self.check()
        assert self.told[-1:] == [("lost", why)], self.told[-3:]


Scene = Callable[[Provider], Awaitable[None]]


class ProviderContract:
    """Subclass it, and say how your provider is opened, and what it is to be asked."""

    clock: Clock = RealClock()
    deadline_s = 10.0
    """how long an answer may take, where it is not the deadline that is tested"""
    short_s = 0.2
    """a deadline that passes"""
    quiet_s = 0.1
    """for so long is listened for what must not come"""
    late_s = 1.0
    """how long after its deadline a call may hear of it"""
    rest_bytes = REST_BYTES
    """may still come after a pause"""

    def opened(self) -> AbstractAsyncContextManager[Provider]:
        """A provider, on the loop that runs; it is closed at the end, whether that was tested or
        not."""
        raise NotImplementedError

    def ask(self, kind: Kind, deadline_s: float) -> Ask:
        raise NotImplementedError

    def run(self, main: Callable[[], Any]) -> None:
        """To the end of the coroutine that `main` makes."""
        asyncio.run(main())

    # --- Answers ----------------------------------------------------------------------------------

    def test_it_says_who_it_is(self) -> None:
        async def scene(provider: Provider) -> None:
            assert provider.name
            assert provider.dialect in ("openai", "anthropic")
            assert isinstance(provider.simulated, bool)

        self._play(scene)

    def test_an_answer_is_a_head_then_pieces_then_an_end(self) -> None:
        async def scene(provider: Provider) -> None:
            for kind in ("whole", "stream", "whole", "failed"):
                heard, _ = self._ask(provider, kind)
                await self._over(heard)
                heard.check_whole(kind == "failed")
                assert heard.bytes

        self._play(scene)

    def test_nothing_follows_an_end_whatever_its_hearer_still_says(self) -> None:
        async def scene(provider: Provider) -> None:
            for kind in KINDS:
                if kind in ("silent", "long"):
                    continue
                heard, running = self._ask(provider, kind)
                await self._over(heard)
                before = list(heard.told)
                for say in (running.pause, running.resume, running.stop, running.stop):
                    say()
                    await self._quiet()
                    assert heard.told == before

        self._play(scene)

    def test_answers_at_the_same_time_are_told_apart(self) -> None:
        async def scene(provider: Provider) -> None:
            asked = [self._ask(provider, "stream")[0] for _ in range(AT_ONCE)]
            for heard in asked:
                await self._over(heard)
                heard.check_whole()

        self._play(scene)

    # --- Failures ---------------------------------------------------------------------------------

    def test_an_answer_that_is_cut_is_lost_once(self) -> None:
        async def scene(provider: Provider) -> None:
            heard, _ = self._ask(provider, "cut")
            await self._over(heard)
            await self._quiet()
            heard.check_lost("cut")
            assert heard.whats[0] == "head"
            assert "end" not in heard.whats

        self._play(scene)

    def test_a_connection_that_closes_before_an_answer_is_told_apart(self) -> None:
        async def scene(provider: Provider) -> None:
            heard, _ = self._ask(provider, "closed")
            await self._over(heard)
            await self._quiet()
            heard.check_lost("closed")
            assert heard.whats == ["lost"]

        self._play(scene)

    def test_the_deadline_ends_a_call_and_no_sooner(self) -> None:
        async def scene(provider: Provider) -> None:
            began_s = self.clock.now()
            heard, _ = self._ask(provider, "silent", self.short_s)
            await self._over(heard)
            took_s = self.clock.now() - began_s
            heard.check_lost("late")
            assert self.short_s <= took_s <= self.short_s + self.late_s, took_s
            await self._quiet()
            heard.check()

        self._play(scene)

    def test_a_deadline_that_has_passed_is_told_all_the_same(self) -> None:
        async def scene(provider: Provider) -> None:
            heard, _ = self._ask(provider, "silent", -1.0)
            await self._over(heard)
            heard.check_lost("late")

        self._play(scene)

    def test_a_failure_harms_no_other_call(self) -> None:
        async def scene(provider: Provider) -> None:
            for kind in ("cut", "whole", "closed", "whole", "failed", "stream"):
                heard, _ = self._ask(provider, kind)
                await self._over(heard)
                if kind in ("whole", "stream"):
                    heard.check_whole()

        self._play(scene)

    # --- Stop -------------------------------------------------------------------------------------

    def test_whoever_stops_at_once_hears_nothing(self) -> None:
        async def scene(provider: Provider) -> None:
            for kind in ("whole", "stream", "closed", "silent"):
                heard, running = self._ask(provider, kind)
                self._stop(heard, running)
                await self._quiet()
                assert heard.told == []
                heard.check()

        self._play(scene)

    def test_whoever_stops_within_an_answer_hears_nothing_more(self) -> None:
        async def scene(provider: Provider) -> None:
            for what in ("head", "body"):
                heard, running = self._ask(provider, "stream")
                await heard.until(what)
                self._stop(heard, running)
                await self._quiet()
                running.stop()
                await self._quiet()
                heard.check()

        self._play(scene)

    def test_whoever_stops_while_something_is_told_hears_nothing_more(self) -> None:
        async def scene(provider: Provider) -> None:
            for kind in ("whole", "stream", "long", "cut"):
                for what in ("head", "body"):
                    heard, running = self._ask(provider, kind)

                    def stop(told: str, *, wanted: str = what, it: Any = (heard, running)) -> None:
                        if told == wanted:
                            self._stop(*it)

                    heard.react = stop
                    await heard.until(what)
                    await self._quiet()
                    heard.check()

        self._play(scene)

    def test_a_call_can_be_made_after_others_were_stopped(self) -> None:
        async def scene(provider: Provider) -> None:
            for _ in range(3):
                for _ in range(AT_ONCE):
                    heard, running = self._ask(provider, "stream")
                    self._stop(heard, running)
                heard, _ = self._ask(provider, "whole")
                await self._over(heard)
                heard.check_whole()

        self._play(scene)

    # --- Pause ------------------------------------------------------------------------------------

    def test_a_pause_bounds_what_comes_and_nothing_is_lost_by_it(self) -> None:
        async def scene(provider: Provider) -> None:
            plain, _ = self._ask(provider, "long")
            await self._over(plain)
            heard, running = self._ask(provider, "long")
            heard.react = lambda what: running.pause() if what == "body" else None
            await heard.until("body")
            for _ in range(3):
                before = heard.heard_bytes
                await self._quiet()
                came = heard.heard_bytes - before
                assert came <= self.rest_bytes, f"{came} bytes came in a pause"
                assert not heard.over.is_set(), "it ended in a pause"
                running.resume()
                await self._quiet()
            heard.react = lambda what: None
            running.resume()
            await self._over(heard)
            heard.check_whole()
            assert len(heard.bytes) == len(plain.bytes)

        self._play(scene)

    def test_a_pause_before_the_answer_delays_it(self) -> None:
        async def scene(provider: Provider) -> None:
            heard, running = self._ask(provider, "stream")
            running.pause()
            running.pause()
            await self._quiet()
            assert heard.heard_bytes <= self.rest_bytes
            running.resume()
            await self._over(heard)
            heard.check_whole()

        self._play(scene)

    def test_the_deadline_passes_in_a_pause_too(self) -> None:
        async def scene(provider: Provider) -> None:
            heard, running = self._ask(provider, "long", self.short_s)
            running.pause()
            await self._over(heard)
            heard.check()
            if heard.whats[-1] == "lost":  # else it was there before the pause could hold it
                heard.check_lost("late")

        self._play(scene)

    def test_whoever_stops_in_a_pause_hears_nothing_more(self) -> None:
        async def scene(provider: Provider) -> None:
            heard, running = self._ask(provider, "stream")
            await heard.until("head")
            running.pause()
            self._stop(heard, running)
            running.resume()
            await self._quiet()
            heard.check()

        self._play(scene)

    # --- Close ------------------------------------------------------------------------------------

    def test_closing_leaves_nothing_behind(self) -> None:
        async def scene(provider: Provider) -> None:
            asked = [self._ask(provider, kind) for kind in ("whole", "stream", "silent", "failed")]
            for heard, running in asked[1:3]:
                self._stop(heard, running)
            for heard, _ in (asked[0], asked[3]):
                await self._over(heard)
            await provider.close()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks are left: {left}"

        self._play(scene)

    def test_closing_ends_what_still_runs(self) -> None:
        async def scene(provider: Provider) -> None:
            asked = [self._ask(provider, kind)[0] for kind in ("stream", "silent", "long")]
            await asked[0].until("head")
            await provider.close()
            before = [list(heard.told) for heard in asked]
            await self._quiet()
            assert [heard.told for heard in asked] == before
            for heard in asked:
                heard.check()

        self._play(scene)

    # --- How --------------------------------------------------------------------------------------

    def _play(self, scene: Scene) -> None:
        async def main() -> None:
            async with self.opened() as provider:
                await scene(provider)

        self.run(main)

    def _ask(
        self, provider: Provider, kind: Kind, deadline_s: float | None = None
    ) -> tuple[Recorder, Running]:
        heard = Recorder()
        within_s = self.deadline_s if deadline_s is None else deadline_s
        hears: Heard = heard
        running = provider.complete(self.ask(kind, self.clock.now() + within_s), hears)
        heard.returned = True
        return heard, running

    def _stop(self, heard: Recorder, running: Running) -> None:
        running.stop()
        heard.stopped = True

    async def _over(self, heard: Recorder) -> None:
        """Until it has ended; that it does is part of the contract."""
        waiting = asyncio.ensure_future(heard.over.wait())
        patience = asyncio.ensure_future(
            self.clock.until(self.clock.now() + self.deadline_s + self.late_s)
        )
        await asyncio.wait([waiting, patience], return_when=asyncio.FIRST_COMPLETED)
        ended = waiting.done()
        for each in (waiting, patience):
            each.cancel()
        await asyncio.gather(waiting, patience, return_exceptions=True)
        assert ended, f"a call never ended; told so far: {heard.whats}"

    async def _quiet(self) -> None:
        await self.clock.until(self.clock.now() + self.quiet_s)
