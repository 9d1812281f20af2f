"""Tensors between bodies and arrays: parsing, writing, and how long an event loop stands still.

Each body is parsed by `serve/v2.py` as it is, and, where it is JSON, once more with the fast parser
switched off, which is what msgspec and numpy do. For the event loop, bodies of 10 MB come through
`serve/reading.py` while a timer rings each millisecond: how late it rings at most, and how long the
loop's thread is at work at most for one callback. Meanwhile the loop's thread goes before all
others where this process may do that (root may), else what else runs counts as lateness of the
timer, which is set in whole milliseconds and so may be one late by itself; where it is late
without bodies too (the A/A), nothing can be told. One body in place is what the reader process
saves. Joining a batch is compared in memory used before and in new memory.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from benchmarks import record
from benchmarks._open_loop import put_ahead, put_back
from paceline.clock import RealClock
from paceline.serve import tensors, v2
from paceline.serve.model import ModelSpec, TensorSpec
from paceline.serve.reading import Read, Reader
from paceline.serve.shapes import Shapes
from paceline.terms.errors import PacelineError

SMALL = 64
IMAGE = 3 * 224 * 224
LARGE = 1_000_000
SMALL_US = 8.0
STALL_MS = 2.0
TICK_S = 0.001


class Case(NamedTuple):
    name: str
    body: bytes
    spec: ModelSpec
    header_length: int | None
    times: int


def spec(width: int, outputs: tuple[TensorSpec, ...]) -> ModelSpec:
    return ModelSpec("m", "1", (TensorSpec("x", "FP32", (-1, width)),), outputs)


DIGITS = (TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 10)))


def json_body(width: int, decimals: int, chance: np.random.Generator) -> bytes:
    data = [round(number, decimals) for number in chance.random(width).tolist()]
    x = {"name": "x", "datatype": "FP32", "shape": [1, width], "data": data}
    return json.dumps({"inputs": [x]}).encode()


def raw_body(width: int, chance: np.random.Generator) -> tuple[bytes, int]:
    x: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, width]}
    x["parameters"] = {"binary_data_size": 4 * width}
    header = json.dumps({"inputs": [x]}).encode()
    return header + chance.random(width, np.float32).tobytes(), len(header)


def cases(chance: np.random.Generator) -> list[Case]:
    raw, header_length = raw_body(IMAGE, chance)
    return [
        Case("64 numbers", json_body(SMALL, 2, chance), spec(SMALL, DIGITS), None, 500),
        Case("image, JSON", json_body(IMAGE, 4, chance), spec(IMAGE, DIGITS), None, 1),
        Case("10 MB, JSON", json_body(LARGE, 8, chance), spec(LARGE, DIGITS), None, 1),
        Case("image, raw", raw, spec(IMAGE, DIGITS), header_length, 500),
    ]


def each_us(work: Callable[[], object], times: int) -> float:
    """At work; what others on this machine take is not counted."""
    start = time.thread_time()
    for _ in range(times):
        work()
    return (time.thread_time() - start) / times * 1e6


def parsing(
    all_cases: list[Case], repeats: int
) -> tuple[list[record.Figure], dict[str, list[float]]]:
    samples: dict[str, list[float]] = {}
    for _ in range(repeats):
        for case in all_cases:
            name, body, model, header_length, times = case
            parse = partial(v2.decode, body, model, header_length)
            samples.setdefault(f"parse, {name}", []).append(each_us(parse, times))
            if header_length is None:
                with mock.patch.object(tensors, "fast_lists", return_value=None):
                    slow = each_us(parse, times)
                samples.setdefault(f"parse, {name}, msgspec and numpy", []).append(slow)
    return [record.figure(name, "us", found) for name, found in samples.items()], samples


def writing(
    chance: np.random.Generator, repeats: int
) -> tuple[list[record.Figure], dict[str, list[float]]]:
    small = spec(SMALL, DIGITS)
    asked = v2.decode(json_body(SMALL, 2, chance), small)
    digits = {"label": np.array([3]), "probabilities": chance.random((1, 10), np.float32)}
    wide = spec(SMALL, (TensorSpec("y", "FP32", (-1, -1)),))
    outputs = {"y": chance.random((1, IMAGE), np.float32)}
    body = json_body(SMALL, 2, chance)
    as_json = v2.decode(body, wide)
    binary = b'{"parameters":{"binary_data_output":true},' + body[1:]
    as_raw = v2.decode(binary, wide)
    works: dict[str, tuple[Callable[[], object], int]] = {
        "write, 11 numbers": (lambda: v2.encode(small, asked, digits), 500),
        "write, image, JSON": (lambda: v2.encode(wide, as_json, outputs).whole(), 1),
        "write, image, raw": (lambda: v2.encode(wide, as_raw, outputs), 500),
    }
    samples: dict[str, list[float]] = {name: [] for name in works}
    pieces: list[float] = []
    for _ in range(repeats):
        for name, (work, times) in works.items():
            samples[name].append(each_us(work, times))
        rest = v2.encode(wide, as_json, outputs).rest
        assert rest is not None
        longest, more = 0.0, True
        while more:
            start = time.thread_time()
            more = next(rest, None) is not None
            longest = max(longest, time.thread_time() - start)
        pieces.append(longest * 1e6)
    samples["write, image, JSON, longest piece"] = pieces
    return [record.figure(name, "us", found) for name, found in samples.items()], samples


class Ticks:
    """How late a timer rings at most, and the longest callback of any kind meanwhile, at work."""

    def __init__(self) -> None:
        self.wall_s = self.busy_s = 0.0
        run = asyncio.Handle._run

        def timed(handle: asyncio.Handle) -> None:
            start = time.thread_time()
            run(handle)
            self.busy_s = max(self.busy_s, time.thread_time() - start)

        self._patch = mock.patch.object(asyncio.Handle, "_run", timed)
        self._patch.start()
        self._loop = asyncio.get_running_loop()
        self._ring_at(self._loop.time() + TICK_S)

    def _ring_at(self, moment: float) -> None:
        self._due = moment
        self._timer = self._loop.call_at(moment, self._ring)

    def _ring(self) -> None:
        self.wall_s = max(self.wall_s, self._loop.time() - self._due)
        self._ring_at(self._loop.time() + TICK_S)

    def stop(self) -> None:
        self._timer.cancel()
        self._patch.stop()


async def through_reader(case: Case, bodies: int, at_once: int) -> tuple[Ticks, Ticks, float]:
    """Without bodies, with them, and seconds for one body."""
    reader = Reader(RealClock())
    room = asyncio.Semaphore(at_once)

    async def one() -> None:
        async with room:
            told: asyncio.Future[Read | PacelineError] = asyncio.get_running_loop().create_future()
            reader.decode("v2", case.body, case.spec, case.header_length, told.set_result)
            read = await told
            assert isinstance(read, Read), read
            read.release()

    await one()
    started = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(bodies)))
    took_s = time.perf_counter() - started
    put_ahead(0)
    quiet = Ticks()
    await asyncio.sleep(took_s)
    quiet.stop()
    busy = Ticks()
    started = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(bodies)))
    took_s = time.perf_counter() - started
    busy.stop()
    put_back(0)
    reader.close()
    return quiet, busy, took_s / bodies


def joining(repeats: int) -> list[record.Figure]:
    figures = []
    for rows in (8, 64):
        model = spec(IMAGE, DIGITS)
        shapes = Shapes(model)
        several = [{"x": np.ones((1, IMAGE), np.float32)} for _ in range(rows)]

        def pooled(shapes: Shapes = shapes, several: Any = several) -> None:
            shapes.reuse(shapes.together(several), {})

        def fresh(several: Any = several) -> None:
            np.concatenate([each["x"] for each in several])

        samples: dict[str, list[float]] = {"in memory used before": [], "in new memory": []}
        for _ in range(repeats):
            samples["in memory used before"].append(each_us(pooled, 3))
            samples["in new memory"].append(each_us(fresh, 3))
        figures += [
            record.figure(f"join {rows} images {how}", "us", found)
            for how, found in samples.items()
        ]
    return figures


def main() -> None:
    options = argparse.ArgumentParser(
        prog="./bench tensors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--repeats", type=int, default=15)
    options.add_argument("--bodies", type=int, default=40, help="of 10 MB, through the reader")
    options.add_argument("--at-once", type=int, default=2)
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    chance = np.random.default_rng(asked.seed)
    all_cases = cases(chance)
    figures, parsed = parsing(all_cases, asked.repeats)
    more, written = writing(chance, asked.repeats)
    figures += more
    large = all_cases[2]
    quiet, busy, each_s = asyncio.run(through_reader(large, asked.bodies, asked.at_once))
    in_place_ms = min(parsed[f"parse, {large.name}"]) / 1e3
    figures += [
        record.figure("timer late at most, no bodies (A/A)", "ms", [quiet.wall_s * 1e3]),
        record.figure("timer late at most, 10 MB bodies", "ms", [busy.wall_s * 1e3]),
        record.figure("longest callback, no bodies", "ms", [quiet.busy_s * 1e3]),
        record.figure("longest callback, 10 MB bodies", "ms", [busy.busy_s * 1e3]),
        record.figure("one 10 MB body through the reader", "ms", [each_s * 1e3]),
    ]
    figures += joining(asked.repeats)
    small_us = min(parsed["parse, 64 numbers"]) + min(written["write, 11 numbers"])
    piece_us = min(written["write, image, JSON, longest piece"])
    record.write(
        "tensors",
        workload={
            **{f"{case.name}, bytes": len(case.body) for case in all_cases},
            "bodies through the reader": asked.bodies,
            "at once": asked.at_once,
            "repeats": asked.repeats,
            "seed": asked.seed,
        },
        figures=figures,
        verdicts=[
            record.Verdict(
                f"64 numbers in and 11 out in at most {SMALL_US:.0f} us",
                f"{small_us:.1f} us, best of {asked.repeats}",
                small_us <= SMALL_US,
            ),
            record.Verdict(
                f"10 MB bodies hold the loop for at most {STALL_MS:.0f} ms",
                f"{busy.busy_s * 1e3:.2f} ms at work, {in_place_ms:.0f} ms in place",
                busy.busy_s * 1e3 <= STALL_MS,
            ),
            record.Verdict(
                f"meanwhile a timer of {TICK_S * 1e3:g} ms is late by at most {STALL_MS:.0f} ms",
                f"{busy.wall_s * 1e3:.2f} ms, {quiet.wall_s * 1e3:.2f} ms without bodies",
                None if quiet.wall_s * 1e3 > STALL_MS else busy.wall_s * 1e3 <= STALL_MS,
            ),
            record.Verdict(
                f"a piece of a large answer takes at most {STALL_MS:.0f} ms",
                f"{piece_us / 1e3:.2f} ms, best of {asked.repeats}",
                piece_us / 1e3 <= STALL_MS,
            ),
        ],
        packages=["numpy", "msgspec", "pysimdjson", "orjson"],
    )


if __name__ == "__main__":
    main()
