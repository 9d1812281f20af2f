"""A profile on the terminal, and the figures of it that its page shows too. Called by
`profile.py`."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from paceline.observe.holdings import Memory
from paceline.observe.stacks import Stacks
from paceline.serve.operator_run import Operators
from paceline.terms.amounts import counted, in_words, percent, size
from paceline.web.profile_api import ProfileView

FUNCTIONS_SHOWN = 20
SHOWN = 12
NONE = "–"
APART = 2
SHORTEST = 24
"""That a name is cut to, whatever the width of the terminal."""

Row = Sequence[str]


class Table(NamedTuple):
    """`shares` are of the rows, for bars behind them; none where there are none."""

    title: str
    note: str
    head: Row
    rows: Sequence[Row]
    shares: Sequence[float] = ()


class Function(NamedTuple):
    name: str
    own: int
    whole: int


def as_text(view: ProfileView, page: str | None) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(headline(view), style="bold"))
    for table in tables(view, SHOWN):
        console.print()
        console.print(Text(table.title, style="bold"))
        if table.note:
            console.print(Text(table.note))
        for line in _lines(table, console.width):
            console.print(Text(line))
    if page is not None:
        console.print()
        console.print(Text(f"page       {page}"))


def _lines(table: Table, width: int) -> Iterator[str]:
    """Names give way to numbers, by their beginnings: their ends tell more."""
    rows = [table.head, *table.rows]
    _, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    left = width - sum(others) - APART * len(others)
    left = max(SHORTEST, min(left, max(len(row[0]) for row in rows)))
    for name, *cells in rows:
        shown = name if len(name) <= left else "…" + name[1 - left :]
        told = (f"{cell:>{wide}}" for cell, wide in zip(cells, others, strict=True))
        yield (" " * APART).join((f"{shown:{left}}", *told))


def headline(view: ProfileView) -> str:
    early = {"asked": " (ended early)", "nobody asked after it": " (nobody asked after it)"}
    end = early.get(view.ended, "")
    if view.stacks is not None:
        stacks = view.stacks
        cost = stacks.cost_cpu_s
        paid = (
            ""
            if cost is None or not stacks.seconds
            else f"; looking took {percent(cost / stacks.seconds)} of a core"
        )
        return (
            f"What {view.whose} did in {in_words(stacks.seconds)}{end}: "
            f"{counted(stacks.looks)} looks{paid}"
        )
    if view.memory is not None:
        held = sum(each.pss_bytes for each in view.memory.mapped)
        return f"What {view.whose} holds: {size(held)} of memory{end}"
    assert view.operators is not None
    found = view.operators
    return (
        f"What {found.model} does: {in_words(found.run_ms / 1e3)} a run, "
        f"{counted(found.runs)} runs in {in_words(found.seconds)}{end}"
    )


def tables(view: ProfileView, shown: int) -> Iterator[Table]:
    if view.stacks is not None:
        yield from _of_stacks(view.stacks)
    if view.memory is not None:
        yield from _of_memory(view.memory, shown)
    if view.operators is not None:
        yield from _of_operators(view.operators, shown)


def _of_stacks(stacks: Stacks) -> Iterator[Table]:
    rows = []
    for each in stacks.threads:
        works = each.samples - each.waited
        rows.append(
            (
                each.name,
                _of(works, stacks.samples) if each.samples else NONE,
                _of(each.waited, stacks.samples) if each.samples else NONE,
                NONE if each.cpu_s is None else in_words(each.cpu_s),
                NONE if each.starved_s is None else in_words(each.starved_s),
            )
        )
    yield Table(
        "Threads",
        "Working is running, or ready to and without a core or the interpreter; a native thread "
        "has no stack to see.",
        ("thread", "working", "waiting", "CPU", "no core"),
        rows,
    )
    found = functions(stacks)
    works = busy(stacks)
    yield Table(
        "Functions",
        "Of the time that threads worked: in the function itself, and with all that it called.",
        ("function", "itself", "with callees"),
        [
            (each.name, _of(each.own, works), _of(each.whole, works))
            for each in found[:FUNCTIONS_SHOWN]
        ],
        [each.own / works for each in found[:FUNCTIONS_SHOWN]],
    )


def busy(stacks: Stacks) -> int:
    """Samples of threads that worked."""
    return sum(each.samples for each in stacks.stacks if not each.waits)


def functions(stacks: Stacks) -> list[Function]:
    """Of threads that worked, the one first that took most itself."""
    own: dict[int, int] = {}
    whole: dict[int, int] = {}
    for each in stacks.stacks:
        if each.waits or not each.frames:
            continue
        own[each.frames[-1]] = own.get(each.frames[-1], 0) + each.samples
        for frame in set(each.frames):
            whole[frame] = whole.get(frame, 0) + each.samples
    found = [Function(stacks.frames[at], own.get(at, 0), count) for at, count in whole.items()]
    return sorted(found, key=lambda each: (-each.own, -each.whole, each.name))


def _of_memory(memory: Memory, shown: int) -> Iterator[Table]:
    whole = sum(each.pss_bytes for each in memory.mapped) or 1
    if memory.mapped:
        yield Table(
            "Mappings",
            "Proportional: what several processes map is divided among them. Own would be free if "
            "this process ended.",
            ("kind", "proportional", "own", "resident", "swapped", "mappings"),
            [
                (
                    each.kind,
                    size(each.pss_bytes),
                    size(each.own_bytes),
                    size(each.rss_bytes),
                    size(each.swapped_bytes),
                    counted(each.mappings),
                )
                for each in memory.mapped
            ],
            [each.pss_bytes / whole for each in memory.mapped],
        )
    yield Table(
        "Objects",
        f"{counted(memory.objects)} that came since the start, of those that the garbage collector "
        f"knows; {counted(memory.settled)} were there at the start.",
        ("class", "objects"),
        [(each.name, counted(each.objects)) for each in memory.classes[:shown]],
        [each.objects / (memory.objects or 1) for each in memory.classes[:shown]],
    )
    growth = memory.growth
    if growth is not None:
        yield Table(
            "What took more",
            f"{size(growth.bytes)} were taken in {in_words(growth.seconds)} and are still held, "
            "by line.",
            ("line", "taken", "blocks"),
            [(each.where, size(each.bytes), counted(each.blocks)) for each in growth.lines[:shown]],
            [each.bytes / (growth.bytes or 1) for each in growth.lines[:shown]],
        )


def _of_operators(found: Operators, shown: int) -> Iterator[Table]:
    inputs = ", ".join(
        f"{each.name} {each.datatype} {'x'.join(map(str, each.shape))}" for each in found.inputs
    )
    yield Table(
        "By operator",
        f"Made up, of ones: {inputs}. One thread, as a server runs it.",
        ("operator", "share", "total", "calls", "nodes"),
        [
            (
                each.name,
                percent(each.share),
                in_words(each.total_ms / 1e3),
                counted(each.calls),
                counted(each.nodes),
            )
            for each in found.kinds[:shown]
        ],
        [each.share for each in found.kinds[:shown]],
    )
    more = found.more_nodes + max(0, len(found.nodes) - shown)
    yield Table(
        "By node",
        f"{counted(more)} more took less." if more else "",
        ("node", "operator", "share", "a call", "shapes"),
        [
            (
                each.name,
                each.operator,
                percent(each.share),
                in_words(each.total_ms / 1e3 / (each.calls or 1)),
                each.shapes,
            )
            for each in found.nodes[:shown]
        ],
        [each.share for each in found.nodes[:shown]],
    )


def _of(part: float, whole: float) -> str:
    return percent(part / whole) if whole else NONE
