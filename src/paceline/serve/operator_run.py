"""The process that runs a model beside its server and says which operators its time goes to.

onnxruntime writes each call of an operator down, if told so before it loads a model; so this is a
session of its own, with the options that serve, on inputs that are made up. It is nobody's model:
it answers no request. It ends after the time it was given, after as many calls as say enough, when
its parent says so, or is gone. Started by `operators.py`.
"""

import os
import resource
import select
import shutil
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from paceline.observe.stacks import named
from paceline.processes.working import GIVES_WAY, LINK_FD
from paceline.terms.errors import ModelFailed, NotMeasured, PacelineError
from paceline.terms.limits import (
    LINK_MESSAGE_BYTES,
    PROFILE_CALLS,
    PROFILE_NODES,
    PROFILE_TRACE_BYTES,
)

KERNEL = "_kernel_time"
"""At the end of a node's name, in a trace."""


class Run(msgspec.Struct, frozen=True):
    """`folder` is this process's own. `length` is that of open dimensions but the first."""

    name: str
    path: str
    folder: str
    seconds: float
    rows: int
    length: int


class Made(msgspec.Struct, frozen=True):
    """An input that was made up: ones, of this shape."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Kind(msgspec.Struct, frozen=True):
    """All operators of one name. `share` is of the time in operators."""

    name: str
    nodes: int
    calls: int
    total_ms: float
    share: float


class Node(msgspec.Struct, frozen=True):
    """One operator of the graph, as onnxruntime has it: several of the file may be one. `shapes`
    are those of its first call."""

    name: str
    operator: str
    calls: int
    total_ms: float
    share: float
    shapes: str


class Operators(msgspec.Struct, frozen=True):
    """The first run is left out: it makes room for the others."""

    model: str
    seconds: float
    runs: int
    run_ms: float
    """of one run on average, with what lies between its operators"""
    inputs: tuple[Made, ...]
    kinds: tuple[Kind, ...]
    nodes: tuple[Node, ...]
    more_nodes: int
    """that took less than those"""


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    operators: Operators | None = None
    error: dict[str, str] | None = None


class Event(msgspec.Struct, frozen=True):
    """Of a trace, what is read of it. Moments and lengths are microseconds."""

    cat: str = ""
    name: str = ""
    ts: int = 0
    dur: int = 0
    args: dict[str, Any] = {}


def main() -> None:
    os.nice(GIVES_WAY)
    resource.setrlimit(resource.RLIMIT_FSIZE, (PROFILE_TRACE_BYTES, PROFILE_TRACE_BYTES))
    with socket.socket(fileno=LINK_FD) as link:
        run = msgspec.json.decode(link.recv(LINK_MESSAGE_BYTES), type=Run)
        try:
            outcome = Outcome(operators=profile(run, lambda: _called(link)))
        except PacelineError as error:
            outcome = Outcome(error=error.as_fields())
        finally:
            shutil.rmtree(run.folder, ignore_errors=True)
        if not _gone(link):
            link.send(msgspec.json.encode(outcome))


def profile(run: Run, called: Callable[[], bool]) -> Operators:
    """`called` says whether somebody wants it to end."""
    from paceline.clock import RealClock
    from paceline.serve.onnx_model import OnnxModel
    from paceline.serve.onnx_nodes import nodes

    now = RealClock().now
    path = Path(run.path)
    model = OnnxModel.load(path, run.name, traced=Path(run.folder) / "trace")
    made = {
        each.name: Made(each.name, each.datatype, _closed(each.shape, run.rows, run.length))
        for each in model.spec.inputs
    }
    batch = _ones(made)
    most = max(2, 1 + PROFILE_CALLS // max(1, nodes(path)))
    began_s = now()
    runs = 0
    while runs < 2 or (runs < most and now() < began_s + run.seconds and not called()):
        try:
            model.run(batch)
        except ModelFailed as error:
            raise NotMeasured(
                f"it does not run on inputs that are made up: {error.cause}",
                value=", ".join(f"{each.name} {each.shape}" for each in made.values()),
                remedy="Say other sizes: --rows and --length, or `rows` and `length`.",
            ) from error
        runs += 1
    took_s = now() - began_s
    trace = model.end_trace()
    model.close()
    return told(run.name, round(took_s, 3), tuple(made.values()), _events(trace))


def told(
    model: str, seconds: float, inputs: tuple[Made, ...], events: Iterable[Event]
) -> Operators:
    """Of a trace, by operator and by node."""
    events = list(events)
    runs = sorted(
        (each for each in events if (each.cat, each.name) == ("Session", "model_run")),
        key=lambda each: each.ts,
    )
    if len(runs) < 2:
        raise NotMeasured(
            "the trace of this model holds too few runs",
            value=model,
            remedy="Give it more time: --seconds 60.",
        )
    first_us = runs[1].ts
    sums: dict[str, list[Any]] = {}  # operator, calls, microseconds, shapes
    for each in events:
        if each.cat == "Node" and each.ts >= first_us and each.name.endswith(KERNEL):
            row = sums.setdefault(each.name.removesuffix(KERNEL), ["", 0, 0, ""])
            if not row[1]:
                row[0] = str(each.args.get("op_name", "?"))
                row[3] = _shapes(each.args)
            row[1] += 1
            row[2] += each.dur
    whole_us = max(1, sum(row[2] for row in sums.values()))
    nodes = sorted(
        (
            Node(named(name), named(of), calls, us / 1e3, us / whole_us, shapes)
            for name, (of, calls, us, shapes) in sums.items()
        ),
        key=lambda each: -each.total_ms,
    )
    kept = runs[1:]
    return Operators(
        model,
        seconds,
        len(kept),
        sum(each.dur for each in kept) / len(kept) / 1e3,
        inputs,
        tuple(_by_kind(nodes)),
        tuple(nodes[:PROFILE_NODES]),
        max(0, len(nodes) - PROFILE_NODES),
    )


def _by_kind(nodes: Iterable[Node]) -> list[Kind]:
    by_name: dict[str, list[Node]] = {}
    for each in nodes:
        by_name.setdefault(each.operator, []).append(each)
    kinds = [
        Kind(
            name,
            len(some),
            sum(each.calls for each in some),
            sum(each.total_ms for each in some),
            sum(each.share for each in some),
        )
        for name, some in by_name.items()
    ]
    return sorted(kinds, key=lambda each: -each.total_ms)[:PROFILE_NODES]


def _events(trace: Path) -> list[Event]:
    try:
        return msgspec.json.decode(trace.read_bytes(), type=list[Event])
    except (OSError, ValueError) as error:
        raise NotMeasured(
            "onnxruntime's trace cannot be read",
            value=str(error),
            remedy="Give it less time, and see that its temporary folder has room.",
        ) from error


def _shapes(args: Mapping[str, Any]) -> str:
    """As `8x64, 64x10 to 8x10`."""
    sides = []
    for side in ("input_type_shape", "output_type_shape"):
        tensors = args.get(side) or []
        sides.append(
            ", ".join(
                "x".join(map(str, shape)) or "1" for each in tensors for shape in each.values()
            )
        )
    text = " to ".join(sides)
    return text if len(text) <= 120 else text[:119] + "…"


def _closed(shape: Iterable[int], rows: int, length: int) -> tuple[int, ...]:
    return tuple(
        (length if axis else rows) if size < 0 else size for axis, size in enumerate(shape)
    )


def _ones(made: Mapping[str, Made]) -> dict[str, Any]:
    import numpy as np

    from paceline.serve.tensors import DTYPES

    return {
        name: np.full(each.shape, "1", object)
        if each.datatype == "BYTES"
        else np.ones(each.shape, DTYPES[each.datatype])
        for name, each in made.items()
    }


def _called(link: socket.socket) -> bool:
    """Whether something came: a word to end, or the end of the link."""
    return bool(select.select([link], [], [], 0)[0])


def _gone(link: socket.socket) -> bool:
    return _called(link) and not link.recv(1, socket.MSG_PEEK)


if __name__ == "__main__":
    main()
