"""What the cells of `gateway` are held against: the figures of the issue, and the rivals.

It measures nothing. Run by run what was measured side by side is compared, and the median counts;
nginx and the upstream itself are told beside, and nothing hangs on them.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from benchmarks import record
from benchmarks._cells import Cell, Cells, median, ratios
from benchmarks._gateway_cells import (
    CALLERS,
    Samples,
    behaviour,
    closed,
    cpu_a_chunk_us,
    flat,
    latency,
    memory,
    start,
    streaming,
    upstream_name,
)
from benchmarks.peers.gateways.known import DIRECT, RIVALS
from benchmarks.peers.gateways.nginx import NGINX

OURS = "paceline"
AGAIN = "paceline-again"
AT_ONCE = "paceline-at-once"
"""Its streams begin with their first event, and not with their first content."""
LITELLM = "litellm"

RATE = 200
ADDED_MS = {"p50": 0.4, "p99": 1.5}
LEAST_RATES = {(0, 64): 15_000, (0, 256): 12_000, (50, 256): 4_500}
"""By upstream and callers, with one front."""

CHUNKS = 21_000
CPU_SHARE = 0.55
PACE_MS = 2
FIRST_MS = 1.0
FIRST_GAP_MS = 20
MEMORY_MB = 100.0
FLAT_MB = 2.0
"""That nine hundred thousand calls may add after the first hundred thousand."""

COST_OF_LITELLM = 0.01
UPSTREAM_LEAST = 80_000

RIGHT = {
    "malformed JSON": ((400,), "BadRequestError"),
    "body is a list": ((400,), "BadRequestError"),
    "no messages": ((400,), "BadRequestError"),
    "unknown model": ((404,), "NotFoundError"),
    "wrong key": ((401,), "AuthenticationError"),
    "upstream 429": ((429,), "RateLimitError"),
    "upstream 500": ((500, 502), "InternalServerError"),
}
"""Status and class of the SDK's error. What the upstream refuses may pass through it."""

KEPT_CODES = {"upstream 429": "rate_limit_exceeded"}


# --- A line: what was found in each run, and a limit ----------------------------------------------


class Line(NamedTuple):
    text: str
    found: Sequence[float]
    limit: float
    unit: str = ""
    is_most: bool = False


def verdict(line: Line) -> record.Verdict:
    unit = f" {line.unit}" if line.unit else ""
    text = f"{line.text}: at {'most' if line.is_most else 'least'} {line.limit:,g}{unit}"
    middle = median(line.found)
    if middle is None:
        return record.Verdict(text, "not measured", None)
    holds = middle <= line.limit if line.is_most else middle >= line.limit
    spread = f"{_short(min(line.found))} to {_short(max(line.found))} in {len(line.found)}"
    return record.Verdict(text, f"{_short(middle)}{unit} ({spread})", holds)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _of(samples: Samples) -> list[float]:
    return list(samples.values())


def lines(cells: Cells) -> Iterator[Line]:
    """Those of the issue."""
    for figure, most in ADDED_MS.items():
        found = latency(cells, f"added_{figure}_ms", OURS, RATE)
        yield Line(f"added at {RATE}/s, {figure}", _of(found), most, "ms", is_most=True)
    for (delay_ms, callers), least in LEAST_RATES.items():
        found = closed(cells, "rate", OURS, delay_ms, callers)
        text = f"one front, {callers} callers, {upstream_name(delay_ms)}"
        yield Line(text, _of(found), least, "requests/s")
    shares = ratios(closed(cells, "cpu_ms", OURS, 0, 64), closed(cells, "cpu_ms", LITELLM, 0, 64))
    text = "CPU a call with 64 callers, of LiteLLM's"
    yield Line(text, shares, COST_OF_LITELLM, is_most=True)
    paced = f"50 streams at {PACE_MS} ms gaps"
    yield Line(paced, _of(streaming(cells, "chunks", OURS, PACE_MS)), CHUNKS, "chunks/s")
    used = streaming(cells, "cpu_share", OURS, PACE_MS)
    yield Line(paced, _of(used), CPU_SHARE, "of a core", is_most=True)
    first = streaming(cells, "added_first_p50_ms", OURS, FIRST_GAP_MS)
    text = f"50 streams at {FIRST_GAP_MS} ms gaps, added to the first byte, p50"
    yield Line(text, _of(first), FIRST_MS, "ms", is_most=True)
    first = streaming(cells, "added_first_p50_ms", AT_ONCE, FIRST_GAP_MS)
    yield Line(f"{text}, with begin_ms = 0", _of(first), FIRST_MS, "ms", is_most=True)
    used = memory(cells, "mb", OURS)
    yield Line("memory after 50,000 calls", _of(used), MEMORY_MB, "MB", is_most=True)
    grown = flat(cells, "growth_mb", OURS)
    text = "memory, from 100,000 to a million calls"
    yield Line(text, _of(grown), FLAT_MB, "MB more", is_most=True)
    ceiling = closed(cells, "rate", DIRECT.name, 0, 64)
    yield Line("the upstream itself, 64 callers", _of(ceiling), UPSTREAM_LEAST, "requests/s")


# --- Beside the others ----------------------------------------------------------------------------


class Beside(NamedTuple):
    """A figure of everybody; ours is to be at least theirs, or at most. Ratios, or for what may be
    about nothing differences in a unit."""

    text: str
    of: Callable[[str], Samples]
    is_most: bool = True
    difference: str = ""


def besides(cells: Cells) -> Iterator[Beside]:
    for delay_ms, callers in LEAST_RATES:
        yield Beside(
            f"rate with {callers} callers, {upstream_name(delay_ms)}",
            lambda name, at=(delay_ms, callers): closed(cells, "rate", name, *at),  # type: ignore[misc]
            is_most=False,
        )
    for figure in ADDED_MS:
        yield Beside(
            f"added at {RATE}/s, {figure}",
            lambda name, at=f"added_{figure}_ms": latency(cells, at, name, RATE),  # type: ignore[misc]
            difference="ms",
        )
    yield Beside(
        f"added to the first byte at {FIRST_GAP_MS} ms gaps, p50",
        lambda name: streaming(cells, "added_first_p50_ms", name, FIRST_GAP_MS),
        difference="ms",
    )
    yield Beside(
        f"CPU a chunk at {PACE_MS} ms gaps", lambda name: cpu_a_chunk_us(cells, name, PACE_MS)
    )
    yield Beside("memory after 50,000 calls", lambda name: memory(cells, "mb", name))
    yield Beside("start", lambda name: start(cells, name))


def beside(line: Beside) -> record.Verdict:
    """Against every rival; who has no figure is named."""
    words, fails, compared = [], [], 0
    for name in (*RIVALS, NGINX.name):
        ours, theirs = line.of(OURS), line.of(name)
        found = (
            [ours[run] - theirs[run] for run in sorted(ours) if run in theirs]
            if line.difference
            else ratios(ours, theirs)
        )
        middle = median(found)
        if middle is None:
            words.append(f"{name} not told")
            continue
        unit = f" {line.difference}" if line.difference else ""
        words.append(f"{name} {middle:+.3g}{unit}" if unit else f"{name} {middle:.3g}")
        if name in RIVALS:
            compared += 1
            even = 0.0 if line.difference else 1.0
            if middle > even if line.is_most else middle < even:
                fails.append(name)
    how = "less" if line.difference else "at most 1" if line.is_most else "at least 1"
    kind = "ours less theirs" if line.difference else "ours by theirs"
    text = f"{line.text}, {kind}: {how} for every rival (nginx is the limit)"
    return record.Verdict(text, "; ".join(words), not fails if compared else None)


# --- Where something is wrong ---------------------------------------------------------------------


def is_right(cell: Cell) -> bool:
    """Of the table of bad input."""
    statuses, kind = RIGHT[cell.level]
    return (
        cell.figures["status"] in statuses
        and cell.note.startswith(f"{kind} ")
        and f"code={KEPT_CODES.get(cell.level, '')}" in cell.note
    )


def manners(cells: Cells) -> Iterator[record.Verdict]:
    def judged(what: str, text: str, holds: Callable[[Cell], bool]) -> record.Verdict:
        cell = behaviour(cells, OURS, what)
        if cell is None:
            return record.Verdict(text, "not measured", None)
        figures = ", ".join(f"{name} {value:.3g}" for name, value in cell.figures.items())
        found = f"{figures}; {cell.note}" if cell.note else figures
        return record.Verdict(text, found, holds(cell))

    yield judged(
        "upstream cuts the stream: SDK",
        "a cut stream is an APIError for the SDK, never a clean end",
        lambda cell: not cell.figures["clean"] and cell.note.startswith("APIError "),
    )
    yield judged(
        "upstream cuts the stream: bytes",
        "a cut stream ends with an error event, without [DONE], and is not whole",
        lambda cell: [cell.figures[name] for name in ("error_event", "done", "whole")] == [1, 0, 0],
    )
    for kind in ("a plain call", "a stream"):
        yield judged(
            f"caller leaves {kind}",
            f"whoever leaves {kind} stops the upstream within 100 ms",
            lambda cell: cell.figures["within_100_ms"] == 1,
        )
    for what, (statuses, kind) in RIGHT.items():
        wanted = " or ".join(map(str, statuses))
        yield judged(what, f"{what}: {wanted}, {kind}", is_right)
    yield judged(
        "still answers",
        "after all this a good call is answered",
        lambda cell: cell.figures["right"] == 1,
    )


# --- Noise ----------------------------------------------------------------------------------------


def noise(cells: Cells) -> Iterator[record.Verdict]:
    rates = [
        ratio
        for delay_ms, callers in CALLERS.items()
        for each in callers
        for ratio in ratios(
            closed(cells, "rate", AGAIN, delay_ms, each),
            closed(cells, "rate", OURS, delay_ms, each),
        )
    ]
    yield _noise("ours against ours, ratio of rates of a run", rates)
    for figure in ADDED_MS:
        ours, again = (latency(cells, f"added_{figure}_ms", name, RATE) for name in (OURS, AGAIN))
        apart = [again[run] - ours[run] for run in sorted(ours) if run in again]
        yield _noise(f"ours against ours, added {figure} at {RATE}/s, ms", apart)
        direct = latency(cells, f"added_{figure}_ms", DIRECT.name, RATE)
        yield _noise(f"the upstream against itself, {figure} at {RATE}/s, ms", _of(direct))
    first = streaming(cells, "added_first_p50_ms", DIRECT.name, FIRST_GAP_MS)
    yield _noise(
        f"the upstream against itself, first byte at {FIRST_GAP_MS} ms gaps, ms", _of(first)
    )


def _noise(text: str, found: Sequence[float]) -> record.Verdict:
    told = f"{min(found):.3g} to {max(found):.3g}" if found else "not measured"
    return record.Verdict(f"noise: {text}", told, None)


def verdicts(cells: Cells) -> list[record.Verdict]:
    return [
        *map(verdict, lines(cells)),
        *map(beside, besides(cells)),
        *manners(cells),
        *noise(cells),
    ]
