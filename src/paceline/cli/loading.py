"""What `paceline load` was asked, made into a load test, and run.

Options are read strictly: whatever cannot be meant is told before anything is sent. `load.py`, the
only caller, imports it when the command is called, because it needs numpy.
"""

import asyncio
import resource
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import uvloop

from paceline.clock import RealClock
from paceline.evidence.arrivals import Arrivals, arrivals
from paceline.evidence.load import Glance, Load, Outcome, Running, Tell, prepare
from paceline.evidence.load_summary import Summary, summarize
from paceline.evidence.targets import Target, Wanted
from paceline.terms.amounts import counted, in_words, seconds
from paceline.terms.errors import BadInput, LimitReached
from paceline.terms.limits import LOAD_BODIES_BYTES, LOAD_CONNECTIONS
from paceline.terms.request import PRIORITIES

if TYPE_CHECKING:
    from rich.text import Text

FILES_BESIDE = 64
"""That are open besides connections."""

NORMAL = (0.0, 1.0, 0.0, 0.0)

FORMS = {
    "v2": "KServe V2",
    "predict": "plain JSON",
    "chat": "OpenAI chat",
    "any": "as given",
}

Facts = list[tuple[str, str]]
"""What was done, in words, by name; without a name it goes on with the one before."""


class Asked(msgspec.Struct, frozen=True):
    """The command line, but for the key and where the outcome goes. Defaults are those of the
    options: what is left at them is left out of `command`."""

    url: str
    rate: float | None = None
    seconds: float | None = None
    warmup: str = "2s"
    arrivals: str = "poisson"
    slo: str | None = None
    connections: int = 256
    timeout: str = "10s"
    body: tuple[str, ...] = ()
    rows: int = 1
    binary: bool = False
    model: str | None = None
    priority: str | None = None
    prompt: tuple[str, ...] = ()
    max_tokens: int = 32
    stream: bool = False
    method: str | None = None
    header: tuple[str, ...] = ()
    seed: int = 0

    @property
    def command(self) -> str:
        """What does the same again. Headers may hold secrets, and stay away."""
        words = ["paceline", "load", self.url]
        for field in msgspec.structs.fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default:
                option = f"--{field.name.replace('_', '-')}"
                if field.name == "header":
                    value = tuple(f"{each.partition(':')[0]}: ..." for each in value)
                for each in value if isinstance(value, tuple) else [value]:
                    words += [option] if each is True else [option, _word(each)]
        return shlex.join(words)


class Played(NamedTuple):
    load: Load
    outcome: Outcome
    summary: Summary
    facts: Facts


def play(asked: Asked, key: str | None, tell: Tell | None) -> Played:
    """`tell` is None where nobody looks on."""
    slo_s = None if asked.slo is None else seconds(asked.slo, "--slo")
    timeout_s = seconds(asked.timeout, "--timeout")
    warmup_s = seconds(asked.warmup, "--warmup", may_be_zero=True)
    for option, value, most in (
        ("--connections", asked.connections, LOAD_CONNECTIONS),
        ("--max-tokens", asked.max_tokens, 1_000_000),
    ):
        if not 1 <= value <= most:
            raise BadInput(
                f"{option} cannot be this number",
                value=value,
                remedy=f"Write a whole number from 1 to {most}.",
            )
    _check_files(asked.connections)
    target = Target(
        Wanted(
            url=asked.url,
            models=() if asked.model is None else weights(asked.model, "--model"),
            bodies=tuple(_content(each, "--body") for each in asked.body),
            prompts=tuple(_content(each, "--prompt").decode() for each in asked.prompt),
            max_tokens=asked.max_tokens,
            rows=asked.rows,
            binary=asked.binary,
            stream=asked.stream,
            method=None if asked.method is None else asked.method.upper(),
            headers=asked.header,
            key=key,
            say_priority=asked.priority is not None,
            seed=asked.seed,
        )
    )
    when = arrivals(
        asked.arrivals, asked.rate, asked.seconds, warmup_s, asked.seed, _ranks(asked.priority)
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        origin, notes = runner.run(prepare(target, timeout_s))
        load = Load(when, target.shots(when), asked.connections, timeout_s, asked.stream)
        running = Running(load, origin, RealClock(), tell)
        outcome = runner.run(_until_interrupted(running))
    summary = summarize(load, outcome, slo_s)
    return Played(load, outcome, summary, _facts(asked, target, load, when, notes))


async def _until_interrupted(running: Running) -> Outcome:
    """The first Ctrl-C ends the test; by then there is little left for a second one to end."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, running.interrupt)
    try:
        return await running.run()
    finally:
        loop.remove_signal_handler(signal.SIGINT)


# --- What was asked -------------------------------------------------------------------------------


def _check_files(connections: int) -> None:
    """Each connection is an open file."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if connections + FILES_BESIDE > most:
        raise LimitReached(
            "so many connections cannot be open at once here",
            value=f"--connections {connections}, with {most} files",
            remedy=f"Ask for fewer, or raise the limit: ulimit -n {connections + FILES_BESIDE}.",
        )


def weights(text: str, option: str) -> tuple[tuple[str, float], ...]:
    """`a=3,b=1`; a name alone weighs one."""
    found: dict[str, float] = {}
    for each in text.split(","):
        name, _, weight = each.strip().partition("=")
        try:
            found[name] = float(weight or "1")
        except ValueError:
            found[name] = -1.0
        if not name or not 0 < found[name] < float("inf"):
            raise BadInput(
                f"{option} takes a name, or names with weights",
                value=text,
                remedy=f"Write {option} NAME, or {option} NAME=3,OTHER=1.",
            )
    return tuple(found.items())


def _ranks(priority: str | None) -> tuple[float, float, float, float]:
    if priority is None:
        return NORMAL
    found = dict(weights(priority, "--priority"))
    for name in found:
        if name not in PRIORITIES:
            raise BadInput(
                "--priority names no priority",
                value=name,
                remedy=f"Use {', '.join(PRIORITIES)}; several with weights: normal=3,critical=1.",
            )
    low, normal, high, critical = (found.get(name, 0.0) for name in PRIORITIES)
    return low, normal, high, critical


def _content(given: str, option: str) -> bytes:
    """Text, or what is in the file behind an `@`."""
    if not given.startswith("@"):
        return given.encode("utf-8", "surrogateescape")
    try:
        with open(given[1:], "rb") as file:
            content = file.read(LOAD_BODIES_BYTES)
            content.decode() if option == "--prompt" else None
            return content
    except (OSError, UnicodeDecodeError) as why:
        raise BadInput(
            f"the file of {option} cannot be read: {getattr(why, 'strerror', None) or why}",
            value=given[1:],
            remedy=f"Name a file that is there: {option} @FILE; without @ it is the text itself.",
        ) from why


def _word(value: object) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


# --- What was done, in words ----------------------------------------------------------------------


def _facts(asked: Asked, target: Target, load: Load, when: Arrivals, notes: list[str]) -> Facts:
    what = FORMS[target.form]
    if target.form in ("v2", "predict", "chat"):
        what += f", {', '.join(name for name in target.models if name)}"
    if asked.binary:
        what += ", binary tensors"
    if not asked.body and target.form in ("v2", "predict"):
        what += f", made inputs of {asked.rows} row{'s' * (asked.rows != 1)}"
    count = len(when.due_s) - when.counted_from
    facts = [
        ("target", f"{asked.url} ({what})"),
        ("arrivals", f"{when.name}: {counted(count)} requests in {in_words(when.span_s)}"),
    ]
    if when.counted_from:
        facts.append(("", f"after a warm-up of {in_words(when.warmup_s)}, which does not count"))
    facts.append(
        (
            "sent on",
            f"{counted(load.connections)} connections at most, given up after "
            f"{in_words(load.timeout_s)}",
        )
    )
    facts.append(("seed", str(asked.seed)))
    return [*facts, *(("note", note) for note in notes)]


# --- While it runs --------------------------------------------------------------------------------


@contextmanager
def watched() -> Iterator[Tell | None]:
    """A line on the terminal that is gone at the end; nothing where none looks on. It is drawn in
    the loop that sends, which takes it 0.1 ms twice a second."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    with Live(
        console=console,
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as live:
        yield lambda glance: live.update(_line(glance), refresh=True)


def _line(glance: Glance) -> "Text":
    from rich.text import Text

    words = [
        f"{glance.at_s:.0f} of {glance.total_s:.0f} s",
        f"{counted(round(glance.rate))} answers/s",
    ]
    if glance.p50_s is not None and glance.p99_s is not None:
        words.append(f"p50 {in_words(glance.p50_s)}, p99 {in_words(glance.p99_s)}")
    if glance.waiting:
        words.append(f"{counted(glance.waiting)} wait for a connection")
    if glance.failed:
        words.append(f"{counted(glance.failed)} failed")
    if glance.warming:
        words.append("warming up")
    return Text("   ".join(words), no_wrap=True, overflow="ellipsis")
