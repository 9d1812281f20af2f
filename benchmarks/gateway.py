"""Our gateway beside others, in one interleaved run: what it adds, rates, streams, memory, manners.

Everybody relays to the same simulated upstream, a process of its own that answers at once or after
50 ms, in the configuration that was best for each (benchmarks/peers/gateways/), with keys where it
has them. Added latency is that of calls at a rate, counted from when each was due, less that of the
upstream itself, asked in turn. Saturated rates are wrk's. Of streams, fifty run at once; the CPU is
that of all processes of the gateway. Calls differ, so that none is answered for another, and what
the upstream was asked is counted. Ours twice under two names, and the upstream against itself, are
the noise; nginx is the limit. What was disturbed is repeated up to three times and marked.

The peers are installed into a cache folder, each in an environment of its own. Needs the Debian
packages wrk and nginx, and node with npm. Three runs take about two hours on two cores.

    ./bench gateway                     all cells; each is written down when it is done
    ./bench gateway --resume            those that are missing
    ./bench gateway --only paceline,nginx,throughput --runs 1 --quick
    ./bench gateway --only flat,paceline,nginx    memory over a million calls: only when named
    ./bench gateway --install           only makes the environments
    ./bench gateway --report            from the cells that are there

`--only` takes gateways and what is measured (start, memory, throughput, latency, streaming,
behaviour, flat); of each kind that is named, only those.
"""

import argparse
import http.client
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from benchmarks import record
from benchmarks._cell_bench import add_install, kept, measured, options, parsed, results
from benchmarks._cells import Cell, Cells, Key
from benchmarks._gateway_behaviour import BEHAVIOURS, came
from benchmarks._gateway_cells import (
    CALLERS,
    GAPS_MS,
    LONG,
    MEMORY_CALLS,
    PERCENTILES,
    RATES,
    UPSTREAMS_MS,
    WHATS,
    after,
    at_rate,
    callers_at,
    gap_name,
    upstream_name,
)
from benchmarks._gateway_tables import drawn, figures, in_words, tables
from benchmarks._gateway_verdicts import verdicts
from benchmarks._open_loop import open_loop
from benchmarks._quiet import Disturbance, Quietest, quietest, watched
from benchmarks._streams import Streamed, streams
from benchmarks._upstream import Manner
from benchmarks._wrk import load
from benchmarks.peers.environment import Unavailable
from benchmarks.peers.gateways.gateway import Gateway
from benchmarks.peers.gateways.known import DIRECT, GATEWAYS
from benchmarks.peers.gateways.relaying import Relaying, body, relaying, upstream
from benchmarks.peers.started import Asked, end_on_sigterm
from benchmarks.serving import line

CELLS = record.RESULTS / "cells" / "gateway.json"
PLOT = record.RESULTS / "gateway.svg"

WARM_S = 2.0
QUICK_S = 2.0
BODIES = 1024
"""More than ever are under way at once: no call is another's twin."""

BODIES_AT_RATE = 32
TIMES_AT_RATE = 2.0
"""A cell at a rate is so much longer: its p99 is of few calls."""

TOLD_AT_RATE = (*PERCENTILES, "answered", "failed_share", "lag_p99_ms")

STREAMS = 50
CHUNKS = 200
OFFERED = 0.86
"""Of what the gaps would allow: 21 500 chunks a second at 2 ms. A stream begins so much later."""

MOST_S = 120.0
"""Within which whoever is slow need not have had all the calls of `memory`."""

FLAT_CALLS = 1_000_000
FLAT_STEP = 100_000
FLAT_MOST_S = 1800.0
MEMORY_CALLERS = 64
SETTLED_S = 0.25
SETTLE_S = 30.0
STRETCH_S = 10.0

T = TypeVar("T")


class Only(NamedTuple):
    """Of each kind, what was named; all of it where nothing was, but for the long ones."""

    gateways: Sequence[str]
    whats: Sequence[str]

    def wants(self, key: Key) -> bool:
        what = key.level if key.what == "absent" else key.what
        return key.contender in self.gateways and what in self.whats


def only(said: str) -> Only:
    named = [each.strip() for each in said.split(",") if each.strip()]
    kinds = (tuple(GATEWAYS), WHATS)
    if unknown := [each for each in named if not any(each in kind for kind in kinds)]:
        known = ", ".join(each for kind in kinds for each in kind)
        raise SystemExit(f"--only knows no {', '.join(unknown)}; it knows {known}")
    gateways = [each for each in GATEWAYS if each in named]
    whats = [each for each in WHATS if each in named]
    short = [each for each in WHATS if each not in LONG]
    return Only(gateways or list(GATEWAYS), whats or short)


def keys_of(run: int, gateway: Gateway, what: str) -> list[Key]:
    """What one start of it is good for."""
    if gateway.whats and what not in gateway.whats:
        return []
    key = partial(Key, run, gateway.name)
    if what == "throughput":
        return [
            key(upstream_name(delay_ms), what, "", callers_at(callers))
            for delay_ms in UPSTREAMS_MS
            for callers in CALLERS[delay_ms]
        ]
    if what == "latency":
        return [key(upstream_name(0), what, "", at_rate(rate)) for rate in RATES]
    if what == "streaming":
        return [key(gap_name(gap_ms), what) for gap_ms in GAPS_MS]
    if what == "memory":
        return [key("", what, "", "idle"), key("", what, "", after(MEMORY_CALLS))]
    if what == "behaviour":
        return [key("", what, "", each) for each in BEHAVIOURS] if run == 0 else []
    if what in LONG:
        return [key("", what)] if run == 0 else []
    return [key("", what)]


def turns(runs: int, whats: Sequence[str]) -> Iterator[tuple[int, str, Gateway]]:
    """Interleaved: each measurement of everybody, one after the other; all are first sometimes."""
    listed = list(GATEWAYS.values())
    for run in range(runs):
        first = run % len(listed)
        for what in whats:
            for gateway in (*listed[first:], *listed[:first]):
                yield run, what, gateway


class Bench:
    def __init__(self, cells: Cells, asked: argparse.Namespace, wanted: Only) -> None:
        self._cells = cells
        self._wanted = wanted
        self._peers: Path = asked.peers
        self._seconds: float = asked.seconds
        self._warm_s = 1.0 if asked.quick else WARM_S
        self._runs: int = asked.runs

    def run(self) -> None:
        for run, what, gateway in turns(self._runs, self._wanted.whats):
            keys = keys_of(run, gateway, what)
            missing = [key for key in keys if self._wanted.wants(key) and key not in self._cells]
            if missing:
                self._visit(run, gateway, what, missing)

    def _visit(self, run: int, gateway: Gateway, what: str, missing: Sequence[Key]) -> None:
        try:
            if what == "start":
                for key in missing:
                    self._start(key, gateway)
                return
            with upstream() as before, relaying(gateway, before, self._peers) as up:
                self._cells.discard(lambda key: key == _absent(run, gateway, what))
                for key in missing:
                    self._one(key, up)
        except (Unavailable, OSError, http.client.HTTPException) as error:
            self._add(_absent(run, gateway, what), {}, note=str(error) or type(error).__name__)

    def _one(self, key: Key, up: Relaying) -> None:
        measures: dict[str, Callable[[Key, Relaying], None]] = {
            "memory": self._memory,
            "throughput": self._throughput,
            "latency": self._latency,
            "streaming": self._streaming,
            "behaviour": self._behaviour,
            "flat": self._flat,
        }
        measures[key.what](key, up)

    def _start(self, key: Key, gateway: Gateway) -> None:
        def once() -> tuple[float, Disturbance]:
            with upstream() as before, relaying(gateway, before, self._peers) as up:
                return up.started_s, up.disturbance

        started_s, quiet = quietest(once)
        self._add(key, {"s": started_s}, quiet)

    # --- Without a pause

    def _throughput(self, key: Key, up: Relaying) -> None:
        delay_ms = next(each for each in UPSTREAMS_MS if upstream_name(each) == key.model)
        callers = int(key.level.removeprefix("c="))
        up.upstream.be(Manner(delay_ms=delay_ms))
        with tempfile.TemporaryDirectory(prefix="pl-wrk-") as name:
            ask = partial(load, up, bodies(up, BODIES), callers, folder=Path(name))
            ask(seconds=self._warm_s)

            def once() -> dict[str, float]:
                begun_s, calls = up.cpu_s(), up.upstream.seen().calls
                seen = ask(seconds=self._seconds)
                calls = up.upstream.seen().calls - calls
                return {
                    "rate": seen.rate,
                    "errors": seen.errors,
                    "p50_ms": seen.p50_ms,
                    "p90_ms": seen.p90_ms,
                    "p99_ms": seen.p99_ms,
                    "cpu_ms": (up.cpu_s() - begun_s) * 1e3 / max(1, seen.requests),
                    "upstream_share": calls / max(1, seen.requests),
                }

            figures, quiet = quietest(partial(watched, once, up.both_cpu_s))
        settle(up)
        self._add(key, figures, quiet)

    # --- At a rate, and streams: what comes on top of the upstream itself, asked in turn

    def _latency(self, key: Key, up: Relaying) -> None:
        up.upstream.be(Manner())
        rate, seconds = float(key.level.removesuffix("/s")), TIMES_AT_RATE * self._seconds

        def once(side: Relaying) -> dict[str, float]:
            settle(side)
            begun_s, calls = side.cpu_s(), side.upstream.seen().calls
            asked = bodies(side, BODIES_AT_RATE)
            found = open_loop(side, asked, rate, seconds, self._warm_s)
            calls = side.upstream.seen().calls - calls
            cpu_ms = (side.cpu_s() - begun_s) * 1e3 / max(1, calls)
            notes[side.name] = found.not_told or ""
            told = {name: found.figures[name] for name in TOLD_AT_RATE if name in found.figures}
            return {**told, "cpu_ms": cpu_ms}

        def seen(side: Relaying) -> tuple[dict[str, float], Quietest]:
            work = partial(watched, partial(once, side), side.both_cpu_s)
            return quietest(work, lambda told: "p50_ms" in told)

        notes: dict[str, str] = {}
        try:
            theirs, direct, quiet = self._in_turn(key, up, seen)
        except Unavailable as error:  # so far behind that nothing could be asked any more
            self._add(key, {}, note=str(error))
            return
        figures = {f"direct_{name}": value for name, value in direct.items()} | theirs
        for name in PERCENTILES:
            if name in theirs and name in direct:
                figures[f"added_{name}"] = theirs[name] - direct[name]
        self._add(key, figures, quiet, "; ".join(each for each in notes.values() if each))

    def _streaming(self, key: Key, up: Relaying) -> None:
        gap_ms = next(each for each in GAPS_MS if gap_name(each) == key.model)
        up.upstream.be(Manner(gap_ms=gap_ms, chunks=CHUNKS))
        every_s = CHUNKS * gap_ms / 1e3 / OFFERED
        warm_s, seconds = max(1.0, every_s), max(self._seconds, 2 * every_s)

        def seen(side: Relaying) -> tuple[Streamed, Quietest]:
            asked = side.asked(body(stream=True))
            read = partial(streams, side, asked, STREAMS, every_s, warm_s, seconds)
            return quietest(partial(watched, read, side.both_cpu_s))

        (theirs, cpu_share), (direct, _), quiet = self._in_turn(key, up, seen)
        figures: dict[str, float] = {
            "chunks": theirs.chunks_a_second,
            "direct_chunks": direct.chunks_a_second,
            "cpu_share": cpu_share,
            "ended": theirs.ended,
            "failed": theirs.failed + theirs.short,
        }
        for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99)):
            first, first_direct = theirs.first(share), direct.first(share)
            if first is not None and first_direct is not None:
                figures[f"first_{name}"] = first
                figures[f"added_first_{name}"] = first - first_direct
        self._add(key, figures, quiet)

    def _in_turn(
        self, key: Key, up: Relaying, seen: Callable[[Relaying], tuple[T, Quietest]]
    ) -> tuple[T, T, Quietest]:
        """Of the gateway and of the upstream itself; who is first changes from run to run."""
        with relaying(DIRECT, up.upstream, self._peers) as direct:
            if key.run % 2:
                theirs, quiet = seen(up)
                without, quiet_without = seen(direct)
            else:
                without, quiet_without = seen(direct)
                theirs, quiet = seen(up)
        return theirs, without, max(quiet, quiet_without, key=lambda each: each.disturbance.all)

    # --- Memory

    def _memory(self, key: Key, up: Relaying) -> None:
        if key.level != "idle":
            self._ask_until(up, MEMORY_CALLS, MOST_S)
        self._add(key, {"mb": up.pss_mb(), "calls": up.upstream.seen().calls})

    def _flat(self, key: Key, up: Relaying) -> None:
        figures: dict[str, float] = {}
        left_s = FLAT_MOST_S
        for calls in range(FLAT_STEP, FLAT_CALLS + 1, FLAT_STEP):
            left_s -= self._ask_until(up, calls, left_s)
            if up.upstream.seen().calls < calls:
                break
            figures[f"mb_{calls}"] = up.pss_mb()
        found = list(figures.values())
        if len(found) > 1:
            figures |= {"growth_mb": found[-1] - found[0], "calls": up.upstream.seen().calls}
        self._add(key, figures, note="" if len(found) == 10 else f"no more in {FLAT_MOST_S:.0f} s")

    def _ask_until(self, up: Relaying, calls: int, most_s: float) -> float:
        """Until the upstream has had so many calls since it began, or so long. Returns how long."""
        passed_s, stretch_s = 0.0, 1.0
        with tempfile.TemporaryDirectory(prefix="pl-wrk-") as name:
            ask = partial(load, up, bodies(up, BODIES), MEMORY_CALLERS, folder=Path(name))
            while (left := calls - up.upstream.seen().calls) > 0 and passed_s < most_s:
                seen = ask(seconds=min(stretch_s, max(1.0, most_s - passed_s)))
                passed_s += seen.seconds
                stretch_s = max(1.0, min(STRETCH_S, (left - seen.requests) / max(1.0, seen.rate)))
        return passed_s

    # --- Manners

    def _behaviour(self, key: Key, up: Relaying) -> None:
        figures, words = came(up, key.level)
        self._add(key, dict(figures), note=words)

    def _add(
        self, key: Key, figures: dict[str, float], quiet: Quietest | None = None, note: str = ""
    ) -> None:
        cell = Cell(*key, figures, note=note)
        if quiet is not None:
            cell = Cell(*key, figures, *quiet.disturbance, quiet.attempts, note)
        self._cells.add(cell)
        print(line(cell), file=sys.stderr, flush=True)


def settle(up: Relaying) -> None:
    """Until it asks the upstream nothing for those who have gone: that is not the next one's. What
    it still holds for them nobody can see, so it is over when nothing is under way and nothing new
    has come for a while."""
    until_s = time.perf_counter() + SETTLE_S
    before = -1
    while time.perf_counter() < until_s:
        seen = up.upstream.seen()
        if seen.calls == before and not seen.open:
            return
        before = seen.calls
        time.sleep(SETTLED_S)


def bodies(up: Relaying, count: int) -> list[Asked]:
    return [up.asked(body(f"Say in one sentence what {number} is.")) for number in range(count)]


def _absent(run: int, gateway: Gateway, what: str) -> Key:
    return Key(run, gateway.name, "", "absent", "", what)


def install(peers: Path) -> None:
    """By starting each once, which installs it, and shows that it relays."""
    for gateway in GATEWAYS.values():
        try:
            with upstream() as before, relaying(gateway, before, peers) as up:
                print(f"{gateway.name}: {gateway.version(peers)}, after {up.started_s:.1f} s")
        except Unavailable as error:
            print(f"{gateway.name}: absent: {error}")


def report(cells: Cells, asked: argparse.Namespace) -> None:
    print(tables(cells))
    if not asked.quick:
        PLOT.write_text(drawn(cells))
    workload: dict[str, str | int | float] = {
        "seconds a cell": asked.seconds,
        "seconds at a rate": TIMES_AT_RATE * asked.seconds,
        "runs": 1 + max((each.run for each in cells.every()), default=-1),
        "streams": f"{STREAMS} at once, {CHUNKS} chunks each",
        "disturbed cells": sum(each.is_disturbed for each in cells.every()),
    }
    for name, gateway in GATEWAYS.items():
        workload[name] = f"{_version(gateway, asked.peers)}; {gateway.settings}"
        workload |= in_words(cells, name)
    record.write(
        "gateway",
        workload=workload,
        figures=figures(cells),
        verdicts=verdicts(cells),
        packages=("uvloop", "httptools", "orjson", "msgspec", "openai"),
        folder=results(asked),
    )


def _version(gateway: Gateway, peers: Path) -> str:
    try:
        return gateway.version(peers)
    except Unavailable as error:
        return f"absent: {error}"


def main() -> None:
    only_of = "gateways and measurements"
    parser = options("gateway", __doc__, only=only_of, runs=3, seconds=8.0, quick_s=QUICK_S)
    add_install(parser)
    asked = parsed(parser)
    wanted = only(asked.only)
    end_on_sigterm()
    if asked.install:
        install(asked.peers)
        return
    cells = kept(asked, CELLS)
    measured(asked, cells, wanted.wants, Bench(cells, asked, wanted).run)
    report(cells, asked)


if __name__ == "__main__":
    main()
