"""What the cells of `gateway` say, in tables, in words and as a plot. It judges nothing.

Called by `gateway`.
"""

from collections.abc import Callable, Iterator, Sequence

from benchmarks import record
from benchmarks._bars import bars
from benchmarks._cells import Cell, Cells, median
from benchmarks._gateway_behaviour import BEHAVIOURS
from benchmarks._gateway_cells import (
    CALLERS,
    GAPS_MS,
    PERCENTILES,
    RATES,
    UPSTREAMS_MS,
    Samples,
    at_rate,
    behaviour,
    callers_at,
    closed,
    cpu_a_chunk_us,
    flat,
    gap_name,
    latency,
    memory,
    start,
    streaming,
    upstream_name,
    why_absent,
)
from benchmarks._gateway_verdicts import OURS, RATE, RIGHT, is_right
from benchmarks.peers.gateways.known import DIRECT, GATEWAYS


def tables(cells: Cells) -> str:
    """Medians over the runs, a row for each gateway."""
    kinds: dict[str, Callable[[Cells, str], Sequence[str]]] = {
        "Added latency, ms: p50 / p90 / p99": _latency_row,
        "Requests/s without a pause (p99 ms)": _rate_row,
        "50 streams: chunks/s, first byte later by p50 / p99 ms, CPU of a core": _stream_row,
        "Start, and memory of all processes": _memory_row,
        "Where something is wrong": _behaviour_row,
    }
    return "\n".join(line for heading, row in kinds.items() for line in _table(cells, heading, row))


def _table(cells: Cells, heading: str, row: Callable[[Cells, str], Sequence[str]]) -> Iterator[str]:
    rows = {name: row(cells, name) for name in GATEWAYS}
    if any(rows.values()):
        yield heading
        for name, found in rows.items():
            if told := "   ".join(found) or why_absent(cells, name):
                yield f"  {name}{told}" if told.startswith("\n") else f"  {name:18} {told}"


def _said(samples: Samples) -> str:
    middle = median(samples.values())
    return "–" if middle is None else f"{middle:,.0f}" if middle >= 1000 else f"{middle:.3g}"


def _latency_row(cells: Cells, name: str) -> list[str]:
    found = []
    for rate in RATES:
        added = [latency(cells, f"added_{each}", name, rate) for each in PERCENTILES]
        if any(added):
            found.append(f"{at_rate(rate)} {' / '.join(map(_said, added))}")
        elif why := _not_told(cells, name, at_rate(rate)):
            found.append(f"{at_rate(rate)} not told: {why}")
        if failed := median(latency(cells, "failed_share", name, rate).values()):
            found.append(f"({failed:.1%} failed)")
    return found


def _not_told(cells: Cells, name: str, level: str) -> str:
    for each in cells.every():
        if (each.contender, each.what, each.level) == (name, "latency", level):
            return each.note
    return ""


def _rate_row(cells: Cells, name: str) -> list[str]:
    found = []
    for delay_ms in UPSTREAMS_MS:
        for callers in CALLERS[delay_ms]:
            if rates := closed(cells, "rate", name, delay_ms, callers):
                p99 = _said(closed(cells, "p99_ms", name, delay_ms, callers))
                slow = f" {delay_ms} ms" if delay_ms else ""
                found.append(f"c={callers}{slow} {_said(rates)} ({p99})")
    return found


def _stream_row(cells: Cells, name: str) -> list[str]:
    found = []
    for gap_ms in GAPS_MS:
        if chunks := streaming(cells, "chunks", name, gap_ms):
            firsts = " / ".join(
                _said(streaming(cells, f"added_first_{each}", name, gap_ms))
                for each in ("p50_ms", "p99_ms")
            )
            share = median(streaming(cells, "cpu_share", name, gap_ms).values()) or 0.0
            told = f"{gap_name(gap_ms)} {_said(chunks)}, {firsts}, {share:.0%}"
            if failed := sum(streaming(cells, "failed", name, gap_ms).values()):
                told += f", {failed:.0f} failed"
            found.append(told)
    return found


def _memory_row(cells: Cells, name: str) -> list[str]:
    found = []
    if started := start(cells, name):
        found.append(f"{_said(started)} s")
    if idle := memory(cells, "mb", name, "idle"):
        found.append(f"{_said(idle)} MB")
    if used := memory(cells, "mb", name):
        found.append(f"{_said(used)} MB after {_said(memory(cells, 'calls', name))} calls")
    if grown := flat(cells, "growth_mb", name):
        calls = _said(flat(cells, "calls", name))
        found.append(f"{_said(grown)} MB more from 100,000 to {calls} calls")
    return found


def _behaviour_row(cells: Cells, name: str) -> list[str]:
    """Each on a line of its own."""
    found = [cell for what in BEHAVIOURS if (cell := behaviour(cells, name, what))]
    return ["".join(f"\n    {cell.level}: {in_short(cell)}" for cell in found)] if found else []


def in_short(cell: Cell) -> str:
    """A behaviour, and where it is one of the table of bad input, whether it is right."""
    figures = cell.figures
    if cell.level in RIGHT:
        asked = ", the upstream was asked" if figures["upstream_calls"] else ""
        mark = "" if is_right(cell) else "not right: "
        return f"{mark}{figures['status']:.0f} {cell.note}{asked}"
    if "within_100_ms" in figures:
        if "worst_ms" not in figures:
            return cell.note
        worst_ms = figures["worst_ms"]
        return f"{figures['seen']:.0%} seen by the upstream, after {worst_ms:.3g} ms at most"
    if "again" in figures:
        calls, again = figures["upstream_calls"], figures["again"]
        return f"{calls:.0f} upstream calls, {again:.0f} when asked again"
    if "right" in figures:
        return cell.note or "yes"
    return cell.note


def in_words(cells: Cells, name: str) -> dict[str, str]:
    found = {f"{name}, absent": why} if (why := why_absent(cells, name)) else {}
    for what in BEHAVIOURS:
        if cell := behaviour(cells, name, what):
            found[f"{name}, {what}"] = in_short(cell)
    return found


UNITS = {
    "rate": "requests/s",
    "answered": "requests/s",
    "chunks": "chunks/s",
    "direct_chunks": "chunks/s",
    "s": "s",
    "mb": "MB",
    "growth_mb": "MB",
    "cpu_share": "of a core",
    "upstream_share": "of the calls",
    "failed_share": "of the calls",
    "refused_share": "of the calls",
    "failed": "",
    "errors": "",
    "calls": "",
}


def figures(cells: Cells) -> list[record.Figure]:
    grouped: dict[str, tuple[str, list[float]]] = {}
    for each in cells.every():
        for name, value in each.figures.items():
            unit = "ms" if name.endswith("_ms") else UNITS.get(name)
            if unit is None or each.what == "behaviour":
                continue
            parts = (each.contender, each.what, each.model, each.level, name)
            label = " ".join(part for part in parts if part)
            grouped.setdefault(label, (unit, []))[1].append(value)
    return [record.figure(name, unit, samples) for name, (unit, samples) in grouped.items()]


def drawn(cells: Cells) -> str:
    wanted: dict[str, Callable[[str], Samples]] = {
        f"Requests/s, {upstream_name(delay_ms)}, {callers_at(callers)}": (
            lambda name, at=(delay_ms, callers): closed(cells, "rate", name, *at)  # type: ignore[misc]
        )
        for delay_ms, callers in ((0, 1), (0, 64), (0, 256), (50, 256))
    }
    wanted |= {
        f"Added at {RATE}/s, p50, ms (less is better)": (
            lambda name: latency(cells, "added_p50_ms", name, RATE)
        ),
        "CPU a chunk of 50 streams at 2 ms gaps, µs (less is better)": (
            lambda name: {} if name == DIRECT.name else cpu_a_chunk_us(cells, name, 2)
        ),
        "Chunks/s of 50 streams at 2 ms gaps": lambda name: streaming(cells, "chunks", name, 2),
        "Memory after 50,000 calls, MB (less is better)": lambda name: memory(cells, "mb", name),
        "Seconds to start (less is better)": lambda name: start(cells, name),
    }
    groups = {}
    for heading, of in wanted.items():
        known = {
            name: max(middle, 0.0)
            for name, gateway in GATEWAYS.items()
            if (not gateway.extra or gateway is DIRECT)
            and (middle := median(of(name).values())) is not None
        }
        if known:
            groups[heading] = known
    return bars("Gateways, medians", groups, OURS)
