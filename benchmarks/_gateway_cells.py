"""What `gateway` measures, how its cells are named, and their figures by run.

Called by it, by `_gateway_tables` and by `_gateway_verdicts`.
"""

from benchmarks._cells import Cell, Cells

WHATS = ("start", "memory", "throughput", "latency", "streaming", "behaviour", "flat")
LONG = ("flat",)
"""Measured only when they are named."""

UPSTREAMS_MS = (0, 50)
CALLERS: dict[int, tuple[int, ...]] = {0: (1, 16, 64, 256), 50: (64, 256)}
"""At once, by how long the upstream takes."""

RATES = (50, 200)
GAPS_MS = (20, 2, 0)
PERCENTILES = ("p50_ms", "p90_ms", "p99_ms")
MEMORY_CALLS = 50_000


def upstream_name(delay_ms: float) -> str:
    return f"{delay_ms:g} ms upstream"


def gap_name(gap_ms: float) -> str:
    return f"{gap_ms:g} ms gaps" if gap_ms else "no gaps"


def callers_at(callers: int) -> str:
    return f"c={callers}"


def at_rate(rate: float) -> str:
    return f"{rate:g}/s"


def after(calls: int) -> str:
    return f"after {calls:,}"


Samples = dict[int, float]
"""By run."""


def closed(cells: Cells, figure: str, name: str, delay_ms: int, callers: int) -> Samples:
    at = (name, upstream_name(delay_ms), "throughput", "", callers_at(callers))
    return cells.samples(figure, *at)


def latency(cells: Cells, figure: str, name: str, rate: int) -> Samples:
    return cells.samples(figure, name, upstream_name(0), "latency", "", at_rate(rate))


def streaming(cells: Cells, figure: str, name: str, gap_ms: int) -> Samples:
    return cells.samples(figure, name, gap_name(gap_ms), "streaming")


def cpu_a_chunk_us(cells: Cells, name: str, gap_ms: int) -> Samples:
    shares = streaming(cells, "cpu_share", name, gap_ms)
    chunks = streaming(cells, "chunks", name, gap_ms)
    return {run: 1e6 * share / chunks[run] for run, share in shares.items() if chunks.get(run)}


def memory(cells: Cells, figure: str, name: str, level: str = after(MEMORY_CALLS)) -> Samples:
    return cells.samples(figure, name, "", "memory", "", level)


def start(cells: Cells, name: str) -> Samples:
    return cells.samples("s", name, "", "start")


def flat(cells: Cells, figure: str, name: str) -> Samples:
    return cells.samples(figure, name, "", "flat")


def behaviour(cells: Cells, name: str, what: str) -> Cell | None:
    for each in cells.every():
        if (each.contender, each.what, each.level) == (name, "behaviour", what):
            return each
    return None


def why_absent(cells: Cells, name: str) -> str:
    for each in cells.every():
        if (each.contender, each.what) == (name, "absent"):
            return f"absent from {each.level}: {each.note}"
    return ""
