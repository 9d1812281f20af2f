"""Our pool of upstream connections at work, in a process of its own, as the peers are.

Run as `python -m benchmarks._pooled WORK`, WORK in JSON; prints what it found. Each caller asks
again as soon as it has its answer. Called by `upstream`; `peers/apps/clients_app.py` is its like.
"""

import asyncio
import resource
import sys
import time
from urllib.parse import urlsplit

import msgspec
import uvloop

from paceline.net.client import Headers
from paceline.net.dialing import Dialer
from paceline.net.pool import Lost, Pool
from paceline.net.requests import request_head

DEADLINE_S = 60.0


class Work(msgspec.Struct, frozen=True):
    url: str
    ca_file: str
    """empty: no TLS"""
    connections: int
    warm_s: float
    seconds: float
    headers: dict[str, str]
    body: str
    answer_bytes: int


class Found(msgspec.Struct, frozen=True):
    """Of the answers after the warm-up; CPU time of the process since then."""

    answers: int
    p99_s: float
    cpu_s: float


class Caller:
    def __init__(self, run: "Run") -> None:
        self.run = run
        self.begun_s = 0.0
        self.got = 0

    def ask(self) -> None:
        run = self.run
        self.got = 0
        self.begun_s = time.perf_counter()
        if self.begun_s > run.ends_s:
            run.over(self)
            return
        head = request_head("POST", run.path, run.host, run.headers, len(run.body))
        run.pool.ask(head, run.body, self, self.begun_s + DEADLINE_S)

    def head(self, status: int, headers: Headers) -> None:
        assert status == 200

    def body(self, piece: bytes) -> None:
        self.got += len(piece)

    def end(self) -> None:
        run = self.run
        now = time.perf_counter()
        assert self.got == run.work.answer_bytes
        if run.counts_from_s < now < run.ends_s:
            run.took_s.append(now - self.begun_s)
        self.ask()

    def lost(self, why: Lost, detail: str) -> None:
        self.run.failed(f"{why}: {detail}")


class Run:
    """`time.perf_counter` is the clock of the pool as well."""

    def __init__(self, work: Work) -> None:
        self.work = work
        where = urlsplit(work.url)
        assert where.hostname is not None
        assert where.port is not None
        self.path, self.host = where.path, where.netloc
        self.headers = [(name.encode(), each.encode()) for name, each in work.headers.items()]
        self.body = work.body.encode()
        tls = bool(work.ca_file)
        dialer = Dialer(
            where.hostname, where.port, time.perf_counter, tls=tls, ca_file=work.ca_file
        )
        self.pool = Pool(dialer, time.perf_counter, most=work.connections)
        self.ends_s = time.perf_counter() + work.warm_s + work.seconds
        self.counts_from_s = self.ends_s - work.seconds
        self.took_s: list[float] = []
        self._asking: set[Caller] = set()
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> Found:
        for _ in range(self.work.connections):
            caller = Caller(self)
            self._asking.add(caller)
            caller.ask()
        await asyncio.sleep(self.work.warm_s)
        spent_s = _cpu_s()
        await self._done
        spent_s = _cpu_s() - spent_s
        await self.pool.close()
        took_s = sorted(self.took_s)
        return Found(len(took_s), took_s[len(took_s) * 99 // 100] if took_s else 0.0, spent_s)

    def over(self, caller: Caller) -> None:
        self._asking.discard(caller)
        if not self._asking and not self._done.done():
            self._done.set_result(None)

    def failed(self, why: str) -> None:
        if not self._done.done():
            self._done.set_exception(RuntimeError(why))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def main(work: Work) -> Found:
    return await Run(work).run()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(main(msgspec.json.decode(sys.argv[1], type=Work)))
    print(msgspec.json.encode(found).decode())
