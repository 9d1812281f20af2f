"""What one process of the load generator can send, and how late it is itself.

Against a trivial server in a process of its own, which answers whatever it reads with the same
bytes: constant arrivals at several rates, then one rate beyond what can be sent, of which what
comes through and the CPU time of each request are told. The server and whatever else runs share the
machine's cores, so what comes through is a lower bound and lag an upper one; CPU time is this
process's alone. Each round is a run at every rate.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
from typing import cast

import numpy as np
import uvloop

from benchmarks import record
from paceline.clock import RealClock
from paceline.evidence.arrivals import arrivals
from paceline.evidence.load import Load, Outcome, Running, prepare
from paceline.evidence.load_summary import quantiles
from paceline.evidence.targets import Target, Wanted

LEAST_PER_S = 30_000
LAG_MS = 1.0
RATES = (1_000, 10_000, 30_000)
BEYOND = 80_000
CONNECTIONS = 64
WARMUP_S = 0.5
TIMEOUT_S = 20.0
NORMAL = (0.0, 1.0, 0.0, 0.0)
BODY = b'{"label":3}\n'
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY)
) + BODY


class Trivial(asyncio.Protocol):
    """Each request is short, and alone on its connection, so it comes in one piece."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(ANSWER)


def serve(listener: socket.socket) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Trivial, sock=listener)
        await server.serve_forever()

    uvloop.run(main())


def run(port: int, rate: float, seconds: float) -> tuple[Outcome, Load, float]:
    """With the CPU time of the whole run, warm-up included."""

    async def main() -> tuple[Outcome, Load, float]:
        target = Target(Wanted(f"http://127.0.0.1:{port}/", bodies=(b"[1,2,3,4]",)))
        origin, _ = await prepare(target, TIMEOUT_S)
        when = arrivals("constant", rate, seconds, WARMUP_S, 0, NORMAL)
        what = Load(when, target.shots(when), CONNECTIONS, TIMEOUT_S)
        running = Running(what, origin, RealClock(), None)
        begun = time.process_time()
        outcome = await running.run()
        return outcome, what, time.process_time() - begun

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def sent_per_s(outcome: Outcome, what: Load) -> float:
    """After the warm-up; at a rate beyond its power the last answer comes later than was asked."""
    first = what.arrivals.counted_from
    return float((len(outcome.due_s) - first) / (outcome.lasted_s - what.arrivals.warmup_s))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port = listener.getsockname()[1]
    sys.stdout.flush()
    server = os.fork()
    if not server:
        serve(listener)
    listener.close()
    lags: dict[float, list[float]] = {rate: [] for rate in RATES}
    times: dict[float, list[float]] = {rate: [] for rate in RATES}
    rates: list[float] = []
    cpu_us: list[float] = []
    try:
        for _ in range(arguments.rounds):
            for rate in RATES:
                outcome, what, _ = run(port, rate, arguments.seconds)
                assert (outcome.ends == 200).all()
                first = what.arrivals.counted_from
                lag = quantiles(outcome.lag_s[first:])
                took = quantiles((outcome.done_s - outcome.due_s)[first:])
                assert lag is not None
                assert took is not None
                lags[rate].append(lag.p99_ms)
                times[rate].append(took.p99_ms)
            outcome, what, cpu_s = run(port, BEYOND, arguments.seconds)
            assert (outcome.ends == 200).all()
            rates.append(sent_per_s(outcome, what))
            cpu_us.append(1e6 * cpu_s / len(outcome.due_s))
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
    per_core = [1e6 / each for each in cpu_us]
    figures = [
        record.figure("sent per second of CPU time", "requests", per_core),
        record.figure(f"answered of {BEYOND} requests/s", "requests/s", rates),
        record.figure(f"CPU time, at {BEYOND} requests/s", "us/request", cpu_us),
    ]
    for rate in RATES:
        figures.append(record.figure(f"p99 of lag at {rate} requests/s", "ms", lags[rate]))
        figures.append(record.figure(f"p99 of latency at {rate} requests/s", "ms", times[rate]))
    enough = [each >= LEAST_PER_S for each in per_core]
    on_time = [each <= LAG_MS for each in lags[RATES[0]]]
    verdicts = [
        record.Verdict(
            f"{LEAST_PER_S} requests for each second of a core",
            f"{np.median(per_core):,.0f} ({min(per_core):,.0f} to {max(per_core):,.0f})",
            enough[0] if len(set(enough)) == 1 else None,
        ),
        record.Verdict(
            f"p99 of lag at {RATES[0]} requests/s of at most {LAG_MS:g} ms",
            f"{np.median(lags[RATES[0]]):.3g} ms "
            f"({min(lags[RATES[0]]):.3g} to {max(lags[RATES[0]]):.3g})",
            on_time[0] if len(set(on_time)) == 1 else None,
        ),
    ]
    record.write(
        "load",
        workload={"connections": CONNECTIONS, "seconds": arguments.seconds, "arrivals": "constant"},
        figures=figures,
        verdicts=verdicts,
        packages=("uvloop", "httptools", "numpy"),
    )


if __name__ == "__main__":
    main()
