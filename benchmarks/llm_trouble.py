"""A hundred thousand LLM calls in trouble: does each end as it must, and does nothing of it stay?

A front over HTTP, before an upstream in a process of its own that cuts, resets, half closes, stands
still, says garbage or an error, in every place of an answer; and callers who leave in every way,
read slowly, or not at all. Both dialects, plain and streamed, also crossed. What must come of each
kind stands in `_trouble`. Good calls are among them, and others every 50 ms beside them. Memory,
descriptors, connections, and what the front holds in objects are watched.

Two bounds of the front are changed, so that it takes minutes and not days: an answer that nobody
reads is given up after a second, and no breaker opens, for here nearly all calls fail.

    ./bench llm_trouble                   100 000 calls, about seven minutes
    ./bench llm_trouble --calls 2000
    ./bench llm_trouble --kind silent --calls 50       one kind alone
"""

import argparse
import asyncio
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec
import numpy as np
import uvloop

from benchmarks import _trouble, record
from benchmarks._beside import Probe
from benchmarks._llm_front import Front, front
from benchmarks._server import (
    ask,
    connect,
    cpu_s,
    free_port,
    open_descriptors,
    pss_mb,
    stop,
    tree,
)
from benchmarks._trouble import DIALECTS, KINDS, Call
from benchmarks._trouble_callers import HANG_S, Callers
from benchmarks._troublesome import Seen
from benchmarks.peers.started import end_on_sigterm

CALLS = 100_000
RATE = 250.0
"""Calls a second: what the three processes have time for on two cores, with half of it left."""

WITHIN_MS = 100.0
"""in which an upstream must see that a caller has left"""

UNREAD_WITHIN_MS = 2500.0
"""or does not read: SEND_S as it is here, the time until the buffers are full, and some more"""

UNREAD_BYTES = 48 * 1024 * 1024
"""The most that may be taken from an upstream, which has more, for somebody who reads nothing.
Nearly all of that the kernel holds, as net.ipv4.tcp_rmem and tcp_wmem let it; what the front holds
is seen in its memory."""

KEPT_PACE = 0.8
"""Of the rate; below it times are not judged."""

PROBE_S = 0.05
PROBE_MS = 100.0
"""The p99 of good calls beside all this."""

WATCH_S = 1.0
SAY_S = 10.0
SETTLE_S = 20.0
WARM_CALLS = 10_000
"""In which memory settles: what is remembered is full, and as many were in hand as ever will be."""

GROWTH_MB = 4.0
"""More than that from there to the end, by a straight line, is a leak; in 100 000 calls that are 44
bytes a call."""

BOUNDS = {"SEND_S": 1.0, "BREAKER_LEAST_CALLS": 10**9}
"""Of the front, as they are here."""

SETTINGS = """
[providers.gpt]
kind = "openai"
url = "http://127.0.0.1:{port}/v1"
private = true
models = ["gpt-trouble", "gpt-limited"]
[providers.claude]
kind = "anthropic"
url = "http://127.0.0.1:{port}"
private = true
models = ["claude-trouble", "claude-limited"]
[routes.spare]
targets = ["gpt/gpt-trouble"]
fallbacks = ["claude/claude-trouble"]
"""


# --- The processes --------------------------------------------------------------------------------


@contextmanager
def upstream() -> Iterator[tuple[int, int]]:
    port, control = free_port(), free_port()
    argv = [sys.executable, "-m", "benchmarks._troublesome", str(port), str(control)]
    process = subprocess.Popen(argv, cwd=Path(__file__).parents[1])
    try:
        until_s = time.perf_counter() + HANG_S
        while True:
            try:
                connect(control).close()
                break
            except OSError:
                if process.poll() is not None or time.perf_counter() > until_s:
                    raise SystemExit("the upstream does not start") from None
                time.sleep(0.01)
        yield port, control
    finally:
        process.kill()
        process.wait()


def good(line: socket.socket, number: int) -> str:
    """A call, in turn of either dialect."""
    number += 10**9  # none of the callers'
    said_in = DIALECTS[number % 2]
    status, body = ask(line, _trouble.request(Call(number, "whole", False, said_in, said_in)))
    text = _trouble.read(said_in, body, stream=False).text
    is_right = status == 200 and text == _trouble.text_of(number, "whole")
    return "" if is_right else f"{status} {body[:80]!r}"


# --- One run --------------------------------------------------------------------------------------


class Sample(NamedTuple):
    calls: int
    memory_mb: float
    descriptors: int
    open: int
    in_hand: int


class Found(NamedTuple):
    seed: int
    rate: float
    calls: int
    seconds: float
    ways: Counter[str]
    took_ms: Mapping[str, Sequence[float]]
    seen_ms: Mapping[str, Sequence[float]]
    """by kind of those who leave: how long until the upstream saw that"""
    not_seen: int
    never_asked: int
    """they left before anybody had asked an upstream"""
    faults: Sequence[str]
    faulty: int
    probes_ms: Sequence[float]
    wrong: Sequence[str]
    samples: Sequence[Sample]
    kept: str
    """what the front holds at the end and did not before"""
    in_cycles: str
    """and what only its garbage collector has freed"""
    descriptors: tuple[int, int]
    left_open: int
    left_in_hand: int
    unread_bytes: int
    cpu_ms: float
    tree_mb: float
    same_front: bool
    said: Sequence[str]
    """lines of the log that must not be"""

    @property
    def settled(self) -> Sequence[Sample]:
        return [each for each in self.samples if each.calls >= WARM_CALLS]

    @property
    def bytes_a_call(self) -> float | None:
        """By a straight line through the memory after the warm-up; None where that was not over."""
        settled = self.settled
        if len(settled) < 3 or settled[0].calls == settled[-1].calls:
            return None
        line = np.polyfit([each.calls for each in settled], [each.memory_mb for each in settled], 1)
        return float(line[0]) * 1e6

    @property
    def is_flat(self) -> bool | None:
        grown = self.bytes_a_call
        return None if grown is None else grown * (self.calls - WARM_CALLS) <= 1e6 * GROWTH_MB

    @property
    def kept_pace(self) -> bool:
        """Where the machine has no time for this rate, nothing is known of how soon things are."""
        return self.calls / self.seconds >= KEPT_PACE * self.rate

    @property
    def late(self) -> int:
        """Of those who left, so many the upstream saw too late."""
        return sum(
            took > (UNREAD_WITHIN_MS if KINDS[kind].come == "cut off" else WITHIN_MS)
            for kind, each in self.seen_ms.items()
            for took in each
        )

    def probe_ms(self, share: float) -> float:
        took = sorted(self.probes_ms)
        return took[min(len(took) - 1, int(len(took) * share))] if took else 0.0

    def _in_time(self, holds: bool) -> bool | None:
        return holds or (False if self.kept_pace else None)

    def verdicts(self) -> list[record.Verdict]:
        return [
            record.Verdict(
                "each call ends as it must",
                f"{self.faulty} of {self.calls} did not",
                not self.faulty,
            ),
            record.Verdict(
                "an upstream sees within 100 ms that a caller has left, and soon that it reads "
                "nothing",
                f"{sum(map(len, self.seen_ms.values()))} seen, {self.late} of them late, "
                f"{self.not_seen} not seen",
                self._in_time(not self.late) if not self.not_seen else False,
            ),
            record.Verdict(
                "good calls beside them are answered rightly and soon",
                f"{len(self.wrong)} of {len(self.probes_ms)} were not; p99 "
                f"{self.probe_ms(0.99):.1f} ms",
                self._in_time(self.probe_ms(0.99) <= PROBE_MS) if not self.wrong else False,
            ),
            record.Verdict(
                "for who reads nothing an upstream is held back",
                f"{self.unread_bytes / 1e6:.1f} MB were taken from it at most",
                self.unread_bytes <= UNREAD_BYTES,
            ),
            record.Verdict(
                "memory is flat",
                f"not within {WARM_CALLS} calls"
                if self.bytes_a_call is None
                else f"{self.bytes_a_call:.1f} bytes a call after {WARM_CALLS}",
                self.is_flat,
            ),
            record.Verdict(
                "no call, attempt, connection or task stays in the front",
                self.kept or "nothing more than before",
                not self.kept,
            ),
            record.Verdict(
                "no descriptor, and no connection upstream, stays open",
                f"{self.descriptors[0]} descriptors before, {self.descriptors[1]} after; "
                f"{self.left_open} connections and {self.left_in_hand} calls upstream",
                self.descriptors[1] <= self.descriptors[0]
                and not (self.left_open or self.left_in_hand),
            ),
            record.Verdict(
                "no crash: the front is the same",
                f"{'the same' if self.same_front else 'another one'}, "
                f"{len(self.said)} lines of a fault in the log",
                self.same_front and not self.said,
            ),
        ]


class Watch:
    """Looks at front and upstream every second, and tells how far it is."""

    def __init__(self, before: Front, callers: Callers, count: int, *, quiet: bool) -> None:
        self.samples: list[Sample] = []
        self.asked: dict[int, float] = {}
        self.left: dict[int, float] = {}
        self.unread_bytes = 0
        self._front = before
        self._callers = callers
        self._count = count
        self._quiet = quiet
        self._said_s = time.perf_counter()

    async def look(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Seen:
        writer.write(b"\n")
        seen = msgspec.json.decode(await reader.readline(), type=Seen)
        self.asked |= seen.asked
        self.left |= seen.left
        self.unread_bytes = max(self.unread_bytes, seen.unread_bytes)
        return seen

    async def on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            seen = await self.look(reader, writer)
            pid = self._front.pid
            if not self._front.is_there:
                return
            held = open_descriptors(pid)
            memory_mb, ended = pss_mb(pid), self._callers.ended
            self.samples.append(Sample(ended, memory_mb, held, seen.open, seen.in_hand))
            now_s = time.perf_counter()
            if not self._quiet and now_s - self._said_s >= SAY_S:
                self._said_s = now_s
                print(
                    f"{ended} of {self._count} calls, {memory_mb:.1f} MB, {seen.open} connections "
                    f"upstream, {self._callers.faulty} faults",
                    file=sys.stderr,
                    flush=True,
                )


async def _run(callers: Callers, watch: Watch, control: int, rate: float) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", control)
    looking = asyncio.create_task(watch.on(reader, writer))
    await callers.run(rate)
    looking.cancel()
    await asyncio.wait([looking])
    writer.close()


async def _settled(watch: Watch, control: int) -> Seen:
    """What the front keeps for a while, it closes after a while."""
    reader, writer = await asyncio.open_connection("127.0.0.1", control)
    until_s = time.perf_counter() + SETTLE_S
    while True:
        seen = await watch.look(reader, writer)
        if not (seen.open or seen.in_hand) or time.perf_counter() > until_s:
            writer.close()
            return seen
        await asyncio.sleep(WATCH_S / 4)


def trouble(count: int, seed: int, rate: float, folder: Path, *, quiet: bool = False) -> Found:
    sys.setswitchinterval(0.0005)  # the probe's thread must not wait for the callers'
    with ExitStack() as up:
        port, control = up.enter_context(upstream())
        serving = up.enter_context(front(folder, SETTINGS.format(port=port), BOUNDS))
        inside, descriptors = serving.inside(), open_descriptors(serving.pid)
        probe, begun_s, used_s = (
            Probe(serving.port, PROBE_S, good),
            time.perf_counter(),
            cpu_s([serving.pid]),
        )
        probe.start()
        callers = Callers(serving.port, seed, count)
        watch = Watch(serving, callers, count, quiet=quiet)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(callers, watch, control, rate))
            seconds = time.perf_counter() - begun_s
            probe.stop()
            same_front = serving.is_there
            used_s = cpu_s([serving.pid]) - used_s if same_front else 0.0
            seen = runner.run(_settled(watch, control))
        after = serving.inside() if same_front else inside
        until_s = time.perf_counter() + SETTLE_S
        held = open_descriptors(serving.pid) if same_front else 0
        while held > descriptors and time.perf_counter() < until_s:
            time.sleep(WATCH_S / 4)
            held = open_descriptors(serving.pid)
        tree_mb = sum(map(pss_mb, tree(serving.server.pid)))
        stop(serving.server)
    seen_ms: dict[str, list[float]] = {}
    not_seen = never_asked = 0
    for number, (kind, left_s) in callers.left_s.items():
        if number in watch.left:
            took = 1e3 * (watch.left[number] - max(left_s, watch.asked[number]))
            seen_ms.setdefault(kind, []).append(took)
        elif number in watch.asked:
            not_seen += 1
        else:
            never_asked += 1
    return Found(
        seed,
        rate,
        callers.ended,
        seconds,
        callers.ways,
        callers.took_ms,
        seen_ms,
        not_seen,
        never_asked,
        callers.faults,
        callers.faulty,
        probe.took_ms,
        probe.wrong,
        watch.samples,
        after.more_than(inside),
        after.in_cycles,
        (descriptors, held),
        seen.open,
        seen.in_hand,
        watch.unread_bytes,
        1e3 * used_s / max(1, callers.ended),
        tree_mb,
        same_front,
        serving.said,
    )


def figures_of(found: Found) -> list[record.Figure]:
    samples = found.settled or found.samples
    figures = [
        record.figure("calls", "", [found.calls]),
        record.figure("a second", "per s", [found.calls / found.seconds]),
        record.figure("CPU time of the front", "ms/call", [found.cpu_ms]),
        record.figure("memory of the front", "MB", [each.memory_mb for each in samples]),
        record.figure("memory of all processes, at the end", "MB", [found.tree_mb]),
        record.figure("descriptors", "", [float(each.descriptors) for each in found.samples]),
        record.figure("connections upstream", "", [float(each.open) for each in found.samples]),
        record.figure("left before anybody was asked", "calls", [found.never_asked]),
        record.figure("good call beside, p50", "ms", [found.probe_ms(0.5)]),
        record.figure("good call beside, p99", "ms", [found.probe_ms(0.99)]),
        record.figure("good call beside, longest", "ms", [found.probe_ms(1.0)]),
    ]
    figures += [
        record.figure(f"{kind}: until its end", "ms", found.took_ms[kind])
        for kind in KINDS
        if found.took_ms.get(kind)
    ]
    figures += [
        record.figure(f"{kind}: until seen upstream", "ms", found.seen_ms[kind])
        for kind in KINDS
        if found.seen_ms.get(kind)
    ]
    return figures


def main() -> None:
    options = argparse.ArgumentParser(
        prog="./bench llm_trouble",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--calls", type=int, default=CALLS)
    options.add_argument("--rate", type=float, default=RATE, help="calls a second")
    options.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    options.add_argument("--kind", choices=sorted(KINDS), help="of one kind alone")
    options.add_argument("--out", type=Path, default=record.RESULTS, metavar="FOLDER")
    asked = options.parse_args()
    end_on_sigterm()
    print(f"seed {asked.seed}", flush=True)
    if asked.kind:
        KINDS.update({name: kind._replace(share=0.0) for name, kind in KINDS.items()})
        KINDS[asked.kind] = KINDS[asked.kind]._replace(share=1.0)
    with TemporaryDirectory(prefix="pl-trouble-") as name:
        found = trouble(asked.calls, asked.seed, asked.rate, Path(name))
    for line in [*found.faults, *found.wrong[:20], *found.said[:20]]:
        print(f"  {line}")
    if asked.kind:
        return
    record.write(
        "llm_trouble",
        workload={
            "seed": found.seed,
            "minutes": round(found.seconds / 60, 2),
            "calls a second": asked.rate,
            "kinds": len(KINDS),
            **found.ways,
            "left to the garbage collector at the end": found.in_cycles or "nothing",
        },
        figures=figures_of(found),
        verdicts=found.verdicts(),
        packages=["httptools", "uvloop", "orjson", "msgspec"],
        folder=asked.out,
    )


if __name__ == "__main__":
    main()
