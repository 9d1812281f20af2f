"""A worker process does one job after another; its bounds, its death and its end."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import turner
from paceline.clock import RealClock
from paceline.processes import worker as worker_module
from paceline.processes import working
from paceline.processes.child import LINK_FD
from paceline.processes.worker import Job, Work, Worker
from paceline.terms.errors import BadField, BadRequest, Overloaded, PacelineError, Unavailable
from paceline.terms.limits import LINK_MESSAGE_BYTES
from turner import Turn, Turned

WAIT_S = 20.0
ARGUMENTS = (str(Path(turner.__file__)),)
SLEEPS = ("-c", "import signal; signal.pause()")
WORK = Work(
    name="turner",
    jobs=8,
    bytes=10_000,
    widened=2,
    job_s=WAIT_S,
    kept_bytes=1000,
    when_full="Send again later.",
    when_ended="Send less.",
)


class Asked:
    """A worker, and its answers to wait for."""

    def __init__(self, work: Work, arguments: tuple[str, ...]) -> None:
        self.worker = Worker(work, arguments, turner.outcomes, RealClock())
        self.told = 0

    def job(self, body: bytes, how: Any = "turn") -> "asyncio.Future[Job[Turned] | PacelineError]":
        answer: asyncio.Future[Job[Turned] | PacelineError] = (
            asyncio.get_running_loop().create_future()
        )

        def heard(done: Turned | PacelineError, job: Job[Turned]) -> None:
            self.told += 1
            answer.set_result(done if isinstance(done, PacelineError) else job)

        refused = self.worker.begin(Turn(self.worker.number(), len(body), how), body, heard)
        if refused is not None:
            answer.set_result(refused)
        assert refused is not None or not answer.done()
        return answer

    async def turned(self, body: bytes) -> bytes:
        job = await self.job(body)
        assert isinstance(job, Job), job
        said = os.pread(job.memory, len(body), len(body))
        job.release()
        return said

    async def refused(self, body: bytes, how: Any = "turn") -> PacelineError:
        error = await self.job(body, how)
        assert isinstance(error, PacelineError)
        return error

    def started(self) -> int:
        self.worker.start()
        assert self.worker.pid is not None
        return self.worker.pid


def run(
    scenario: Callable[[Asked], Awaitable[None]],
    arguments: tuple[str, ...] = ARGUMENTS,
    **bounds: Any,
) -> None:
    async def main() -> None:
        async with asyncio.timeout(WAIT_S):
            it = Asked(WORK._replace(**bounds), arguments)
            try:
                await scenario(it)
            finally:
                it.worker.close()
                await until(lambda: it.worker.pid is None)

    asyncio.run(main())


async def until(true: Callable[[], object]) -> None:
    while not true():
        await RealClock().until(0.0)


def test_it_starts_with_the_first_job_and_does_one_after_another() -> None:
    async def scenario(it: Asked) -> None:
        assert it.worker.pid is None
        answers = [it.turned(f"body {n}".encode()) for n in range(8)]
        assert await asyncio.gather(*answers) == [f"body {n}"[::-1].encode() for n in range(8)]
        assert it.worker.held == 0

    run(scenario)


def test_what_is_refused_is_told_with_its_place_and_no_longer_than_a_message_has_room() -> None:
    async def scenario(it: Asked) -> None:
        error = await it.refused(b"body", "refuse")
        assert isinstance(error, BadField)
        assert (error.param, error.value) == ("p", "v")
        assert len(error.cause) == working.ERROR_CHARS
        assert await it.turned(b"ab") == b"ba"
        assert it.worker.held == 0

    run(scenario)


@pytest.mark.parametrize("size", [LINK_MESSAGE_BYTES, 3 * LINK_MESSAGE_BYTES])
def test_what_is_too_long_to_be_told_is_refused_and_the_process_goes_on(size: int) -> None:
    async def scenario(it: Asked) -> None:
        pid = it.started()
        error = await it.refused(b"n" * size, "name")
        assert isinstance(error, BadRequest)
        assert await it.turned(b"ab") == b"ba"
        assert it.worker.pid == pid

    run(scenario, bytes=10 * LINK_MESSAGE_BYTES)


def test_whoever_cannot_hear_of_a_job_does_not_keep_the_others_waiting() -> None:
    async def scenario(it: Asked) -> None:
        failed: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: failed.append(context["exception"]))

        def cannot(done: Turned | PacelineError, job: Job[Turned]) -> None:
            raise ZeroDivisionError

        it.worker.begin(Turn(it.worker.number(), 2), b"ab", cannot)
        assert [*await asyncio.gather(it.turned(b"ab"), it.turned(b"cd"))] == [b"ba", b"dc"]
        await until(lambda: failed)
        assert [type(each) for each in failed] == [ZeroDivisionError]

    run(scenario)


def test_the_process_gives_way_to_its_parent() -> None:
    async def scenario(it: Asked) -> None:
        pid = it.started()
        await it.turned(b"body")
        own = os.getpriority(os.PRIO_PROCESS, 0)
        nicest = 19
        assert os.getpriority(os.PRIO_PROCESS, pid) == min(nicest, own + working.GIVES_WAY)

    run(scenario)


def test_memory_is_used_again_once_it_is_released_up_to_its_bound() -> None:
    async def scenario(it: Asked) -> None:
        first, second = await it.job(b"first"), await it.job(b"second")
        assert isinstance(first, Job)
        assert isinstance(second, Job)
        assert os.pread(first.memory, 5, 0) == b"first"  # another body did not touch it
        memory = os.fstat(first.memory).st_ino
        first.release()
        third = await it.job(b"third")
        assert isinstance(third, Job)
        assert os.fstat(third.memory).st_ino == memory
        second.release()
        third.release()
        large = await it.job(bytes(WORK.kept_bytes))
        assert isinstance(large, Job)
        large.release()
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(large.memory)

    run(scenario)


def test_more_jobs_than_may_be_are_refused_and_the_others_done() -> None:
    async def scenario(it: Asked) -> None:
        answers = [it.turned(b"ab") for _ in range(WORK.jobs)]
        waiting = [asyncio.ensure_future(each) for each in answers]
        await until(lambda: it.worker.held == WORK.jobs)
        error = it.job(b"ab").result()
        assert isinstance(error, Overloaded)
        assert error.remedy == WORK.when_full
        assert await asyncio.gather(*waiting) == [b"ba"] * WORK.jobs
        assert await it.turned(b"ab") == b"ba"

    run(scenario)


def test_more_bytes_than_may_be_are_refused() -> None:
    async def scenario(it: Asked) -> None:
        body = bytes(WORK.bytes // (2 * WORK.widened) + 1)
        first = it.job(body)
        assert isinstance(it.job(body).result(), Overloaded)
        job = await first
        assert isinstance(job, Job)
        assert isinstance(it.job(body).result(), Overloaded)  # what is not released counts
        job.release()
        assert await it.turned(body) == body

    run(scenario)


def test_one_that_dies_costs_what_it_held_and_nothing_else() -> None:
    async def scenario(it: Asked) -> None:
        pid = it.started()
        hows = ["turn", "die", "turn", "turn", "die", "turn"]
        answers = await asyncio.gather(*(it.job(b"ab", how) for how in hows))
        for how, answer in zip(hows, answers, strict=True):
            if how == "turn":
                assert isinstance(answer, Job)
                answer.release()
            else:
                assert isinstance(answer, Unavailable)
                assert "killed by SIGKILL" in str(answer)
                assert answer.remedy == WORK.when_ended
        assert it.worker.pid not in (None, pid)
        assert it.worker.held == 0
        assert it.told == len(hows)

    run(scenario)


def test_one_that_takes_too_long_is_replaced() -> None:
    async def scenario(it: Asked) -> None:
        hung = it.started()
        assert isinstance(await it.refused(b"ab", "hang"), Unavailable)
        it.worker.start()
        assert it.worker.pid not in (None, hung)

    run(scenario, job_s=0.0)


def test_one_that_cannot_begin_is_an_error_of_those_who_need_it() -> None:
    async def scenario(it: Asked) -> None:
        error = await it.refused(b"ab")
        assert isinstance(error, Unavailable)
        assert "exit status 3" in str(error)

    run(scenario, ("-c", "raise SystemExit(3)"))


def test_one_that_the_system_refuses_is_an_error_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(it: Asked) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", "/nowhere")
            assert "cannot be started" in str(await it.refused(b"ab"))
        assert await it.turned(b"ab") == b"ba"

    run(scenario)


def test_closing_tells_all_who_wait_and_takes_no_more() -> None:
    async def scenario(it: Asked) -> None:
        answers = [it.job(b"ab") for _ in range(3)]
        await until(lambda: it.worker.pid is not None)
        it.worker.close()
        for told in await asyncio.gather(*answers):
            assert isinstance(told, Unavailable)
        assert isinstance(it.job(b"ab").result(), Unavailable)
        assert it.worker.held == 0
        assert it.told == 3

    run(scenario, SLEEPS)


def test_no_memory_is_an_error_and_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    async def scenario(it: Asked) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(os, "memfd_create", none)
            assert isinstance(await it.refused(b"ab"), Unavailable)
        with monkeypatch.context() as patched:
            patched.setattr(worker_module, "put", none)
            assert isinstance(await it.refused(b"ab"), Unavailable)
        assert it.worker.held == 0
        assert await it.turned(b"ab") == b"ba"

    run(scenario)


def test_the_link_is_where_the_parent_puts_it() -> None:
    assert working.LINK_FD == LINK_FD
