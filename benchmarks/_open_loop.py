"""Requests at a rate, whether or not earlier ones were answered: `paceline load` for a benchmark.

It runs in a process of its own, and times count from when a request was due. Only this module knows
its options and what it prints. Called by `serving` and `goodput`.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from benchmarks.peers.environment import Unavailable
from benchmarks.peers.started import Asked, Started

CONNECTIONS = 1000
"""As many as a front takes, nearly: a request that waits for one would be nobody's load."""
TIMEOUT_S = 10
SPARE_S = 60.0


class Times(msgspec.Struct, frozen=True):
    p50_ms: float
    p99_ms: float
    p90_ms: float | None = None


class Seen(msgspec.Struct, frozen=True):
    """Some of what it says. There are no times where it was late itself, and `not_told` says so."""

    requests: int
    offered_rps: float
    answered_rps: float
    answered: int
    refused: int
    failed: int
    latency: Times | None
    refusals: Times | None
    lag: Times | None
    goodput_rps: float | None = None
    not_told: str | None = None

    @property
    def figures(self) -> dict[str, float]:
        """Those there are, by name."""
        found: dict[str, float | None] = {
            "offered": self.offered_rps,
            "answered": self.answered_rps,
            "goodput": self.goodput_rps,
            "refused_share": self.refused / self.requests if self.requests else None,
            "failed_share": self.failed / self.requests if self.requests else None,
        }
        for name, times in (("", self.latency), ("refusal_", self.refusals), ("lag_", self.lag)):
            if times is not None:
                found |= {f"{name}p50_ms": times.p50_ms, f"{name}p99_ms": times.p99_ms}
                found[f"{name}p90_ms"] = times.p90_ms
        return {name: value for name, value in found.items() if value is not None}


def is_told(seen: Seen) -> bool:
    return seen.not_told is None


def command(
    url: str,
    asked: Sequence[Asked],
    files: Sequence[Path],
    rate: float,
    seconds: float,
    warm_s: float,
    slo_ms: float | None,
) -> list[str]:
    words = [sys.executable, "-m", "paceline", "load", url + asked[0].path, "--json"]
    words += ["--rate", f"{rate:.6g}", "--seconds", f"{seconds:g}", "--warmup", f"{warm_s:g}s"]
    words += ["--connections", str(CONNECTIONS), "--timeout", f"{TIMEOUT_S}s"]
    if slo_ms is not None:
        words += ["--slo", f"{slo_ms:g}ms"]
    for name, value in asked[0].headers.items():
        words += ["--header", f"{name}: {value}"]
    for file in files:
        words += ["--body", f"@{file}"]
    return words


def parsed(output: str) -> Seen:
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise Unavailable(f"`paceline load` said nothing of what it found: {output[-300:]}")
    try:
        return msgspec.json.decode(lines[-1], type=Seen)
    except msgspec.ValidationError as error:  # it says why it could not begin
        raise Unavailable(f"`paceline load` measured nothing: {lines[-1][:300]}") from error


def open_loop(
    up: Started,
    asked: Sequence[Asked],
    rate: float,
    seconds: float,
    warm_s: float,
    slo_ms: float | None = None,
) -> Seen:
    with tempfile.TemporaryDirectory(prefix="pl-load-") as name:
        files = [Path(name) / f"body-{number}" for number in range(len(asked))]
        for file, each in zip(files, asked, strict=True):
            file.write_bytes(each.body)
        process = subprocess.Popen(
            command(up.url, asked, files, rate, seconds, warm_s, slo_ms),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        put_ahead(process.pid)
        try:
            said, complained = process.communicate(timeout=seconds + warm_s + TIMEOUT_S + SPARE_S)
        except subprocess.TimeoutExpired as error:
            raise Unavailable("`paceline load` did not end in time") from error
        finally:
            process.kill()
            process.wait()
        # Its status is no failure of ours where it found that nothing can be told.
        return parsed(said or complained)


def put_ahead(pid: int) -> None:
    """Before all others, where this process may: what sends must not wait for a core behind the
    very server that it loads. On two cores the p99 of its lag was 3.6 to 4.9 ms without, and 0.12
    ms with it. Without the right to it, its own lag tells."""
    with suppress(PermissionError):
        os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))


def put_back(pid: int) -> None:
    """Among all others again."""
    os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
