"""Large bodies read in a process of their own: the same requests and refusals as in place."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from kernel import state
from paceline.clock import RealClock
from paceline.serve import reading
from paceline.serve.model import ModelSpec, TensorSpec
from paceline.serve.predict import PredictRequest
from paceline.serve.reader import Kind
from paceline.serve.reading import Body, Read, Reader, decode_here, is_large
from paceline.serve.v2 import InferRequest
from paceline.terms.errors import Overloaded, PacelineError, TooLarge, Unavailable
from paceline.terms.limits import PARSE_IN_PLACE_BYTES, READING_BODIES, TEXT_BYTES

WAIT_S = 20.0

SPEC = ModelSpec(
    "m",
    "3",
    (TensorSpec("x", "FP32", (-1, -1), {1: "length"}),),
    (TensorSpec("y", "FP32", (-1,)),),
    padding={"x": 0.0},
)

TEXT = ModelSpec("t", "1", (TensorSpec("x", "BYTES", (-1, -1)),), SPEC.outputs)
TWO = ModelSpec("two", "1", (TensorSpec("a", "INT64", (-1,)), *SPEC.inputs), SPEC.outputs)
MANY = 40_000


def body(data: Any = None, *, shape: Any = None, **rest: Any) -> bytes:
    numbers = list(range(MANY)) if data is None else data
    x = {"name": "x", "datatype": "FP32", "shape": shape or [1, len(numbers)], "data": numbers}
    return json.dumps({"inputs": [x], **rest}).encode()


def texts(count: int, characters: int) -> bytes:
    words = ["ä" * characters] * count
    x = {"name": "x", "datatype": "BYTES", "shape": [1, count], "data": words}
    return json.dumps({"inputs": [x]}, ensure_ascii=False).encode()


def both() -> tuple[bytes, int]:
    """A long JSON input and a raw one after it, which begins at an odd byte."""
    a = np.array([2**53 + 1])
    described: dict[str, Any] = {"name": "a", "datatype": "INT64", "shape": [1]}
    described |= {"parameters": {"binary_data_size": 8}}
    x = json.loads(body())["inputs"][0]
    header = json.dumps({"inputs": [described, x]}).encode()
    header += b" " * (1 - len(header) % 2)
    return header + a.tobytes(), len(header)


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await RealClock().until(0.0)


class Reading:
    """A reader, and its answers to wait for."""

    def __init__(self, arguments: tuple[str, ...] = reading.READER_ARGUMENTS) -> None:
        self.reader = Reader(RealClock(), arguments)

    def ask(
        self, content: Body, spec: ModelSpec = SPEC, kind: Kind = "v2", header: int | None = None
    ) -> "asyncio.Future[Read | PacelineError]":
        answer: asyncio.Future[Read | PacelineError] = asyncio.get_running_loop().create_future()
        self.reader.decode(kind, content, spec, header, answer.set_result)
        return answer

    async def read(self, *arguments: Any, **options: Any) -> InferRequest | PredictRequest:
        told = await self.ask(*arguments, **options)
        assert isinstance(told, Read), told
        request = msgspec.structs.replace(
            told.request, inputs={n: a.copy() for n, a in told.request.inputs.items()}
        )
        told.release()
        return request

    async def refused(self, *arguments: Any, **options: Any) -> PacelineError:
        told = await self.ask(*arguments, **options)
        assert isinstance(told, PacelineError)
        return told


Scenario = Callable[[Reading], Awaitable[None]]


async def until_over(scenario: Scenario, each: Reading) -> None:
    async with asyncio.timeout(WAIT_S):
        await scenario(each)


async def closed(each: Reading) -> None:
    each.reader.close()
    await until(lambda: each.reader.pid is None)


def run(scenario: Scenario, arguments: tuple[str, ...] = reading.READER_ARGUMENTS) -> None:
    async def main() -> None:
        each = Reading(arguments)
        try:
            await until_over(scenario, each)
        finally:
            await closed(each)

    asyncio.run(main())


@pytest.fixture(scope="module")
def in_one_process() -> Iterator[Callable[[Scenario], None]]:
    """`run`, by one reader for all who ask no more than that something is read."""
    with asyncio.Runner() as runner:

        async def made() -> Reading:
            return Reading()

        each = runner.run(made())
        yield lambda scenario: runner.run(until_over(scenario, each))
        runner.run(closed(each))


def same(left: InferRequest | PredictRequest, right: InferRequest | PredictRequest) -> None:
    assert type(left) is type(right)
    assert {n: (a.dtype, a.tolist()) for n, a in left.inputs.items()} == {
        n: (a.dtype, a.tolist()) for n, a in right.inputs.items()
    }
    empty: Any = {"inputs": {}}
    assert msgspec.structs.replace(left, **empty) == msgspec.structs.replace(right, **empty)


@pytest.mark.parametrize(
    ("kind", "content", "spec", "header"),
    [
        ("v2", body(id="é", parameters={"priority": 2, "timeout": 7}), SPEC, None),
        ("v2", body(parameters={"binary_data_output": True}), SPEC, None),
        ("v2", body([[1.5] * 100] * 1000, shape=[1000, 100]), SPEC, None),
        ("v2", both()[0], TWO, both()[1]),
        ("v2", texts(40, PARSE_IN_PLACE_BYTES // 40), TEXT, None),
        ("predict", json.dumps(list(range(MANY))).encode(), SPEC, None),
        ("predict", json.dumps([[0.1] * 100] * 1000).encode(), SPEC, None),
    ],
)
def test_a_large_body_is_read_as_in_place(
    kind: Kind,
    content: bytes,
    spec: ModelSpec,
    header: int | None,
    in_one_process: Callable[[Scenario], None],
) -> None:
    async def scenario(each: Reading) -> None:
        assert is_large(len(content), spec, header)
        answer = each.ask(content, spec, kind, header)
        assert not answer.done()
        told = await answer
        assert isinstance(told, Read)
        same(told.request, decode_here(kind, content, spec, header))
        assert all(array.flags.aligned for array in told.request.inputs.values())
        told.release()

    in_one_process(scenario)


@pytest.mark.parametrize(
    "content",
    [
        body([1.0] * MANY, shape=[1, MANY - 1]),
        body([1.0] * (MANY - 1) + [1e39]),
        body([1.0] * (MANY - 1) + ["1"]),
        body()[:-1],
        b"[" * 2 * PARSE_IN_PLACE_BYTES,
        body(outputs=[{"name": "z" * PARSE_IN_PLACE_BYTES}]),
        body(parameters={"priority": "z" * 2 * PARSE_IN_PLACE_BYTES}),
        body(id="z" * 2 * PARSE_IN_PLACE_BYTES),
    ],
)
def test_a_large_body_is_refused_as_in_place(
    content: bytes, in_one_process: Callable[[Scenario], None]
) -> None:
    with pytest.raises(PacelineError) as caught:
        decode_here("v2", content, SPEC, None)
    expected = caught.value

    async def scenario(each: Reading) -> None:
        told = await each.refused(content)
        assert type(told) is type(expected)
        assert told.as_fields()["error"] == expected.as_fields()["error"][:4096]
        assert told.as_fields().get("value") == expected.as_fields().get("value")
        assert told.remedy == expected.remedy[:4096]

    in_one_process(scenario)


def test_more_text_than_a_loop_can_take_in_one_go_is_refused(
    in_one_process: Callable[[Scenario], None],
) -> None:
    async def scenario(each: Reading) -> None:
        assert isinstance(await each.refused(texts(4, TEXT_BYTES // 8), TEXT), TooLarge)
        await each.read(texts(4, TEXT_BYTES // 16), TEXT)

    in_one_process(scenario)
    with pytest.raises(TooLarge):
        decode_here("v2", bytes(TEXT_BYTES), TEXT, 0)


def test_a_small_body_is_read_at_once_and_starts_no_process() -> None:
    async def scenario(each: Reading) -> None:
        answer = each.ask(body([1.0]))
        assert answer.done()
        read = answer.result()
        assert isinstance(read, Read)
        read.release()
        assert isinstance(each.ask(b"{}").result(), PacelineError)
        assert each.reader.pid is None

    run(scenario)


def test_raw_numbers_are_never_large() -> None:
    raw = np.zeros((1, MANY), np.float32)
    described: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, MANY]}
    described |= {"parameters": {"binary_data_size": raw.nbytes}}
    header = json.dumps({"inputs": [described]}).encode()

    async def scenario(each: Reading) -> None:
        content = header + raw.tobytes()
        read = each.ask(content, header=len(header)).result()
        assert isinstance(read, Read)
        assert np.shares_memory(read.request.inputs["x"], np.frombuffer(content, np.uint8))
        assert each.ask(raw.tobytes(), header=0).done()

    run(scenario)
    assert is_large(raw.nbytes, TEXT, 0)


def test_more_bodies_than_may_be_are_refused_with_what_helps() -> None:
    async def scenario(each: Reading) -> None:
        answers = [each.ask(body()) for _ in range(READING_BODIES)]
        error = each.ask(body()).result()
        assert isinstance(error, Overloaded)
        assert "binary_data" in error.remedy
        each.reader.close()
        for told in await asyncio.gather(*answers):
            assert isinstance(told, Unavailable)

    run(scenario, ("-c", "import signal; signal.pause()"))


def test_one_that_dies_costs_what_it_held_and_nothing_else() -> None:
    async def scenario(each: Reading) -> None:
        each.reader.start()
        died = each.reader.pid
        assert died is not None
        os.kill(died, signal.SIGSTOP)
        await until(lambda: state(died) == "T")
        held = each.ask(body())
        await until(lambda: each.reader._worker._current is not None)
        waits = each.ask(body())
        os.kill(died, signal.SIGKILL)
        error = await held
        assert isinstance(error, Unavailable)
        assert "killed by SIGKILL" in str(error)
        told = await waits
        assert isinstance(told, Read)
        told.release()
        assert each.reader.pid not in (None, died)
        assert each.reader._worker.held == 0

    run(scenario)


FRONT = """
import asyncio, sys
from paceline.clock import RealClock
from paceline.serve.reading import Reader

async def main():
    reader = Reader(RealClock())
    reader.start()
    print(reader.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_it_ends_with_its_front_even_when_that_is_killed() -> None:
    front = subprocess.Popen([sys.executable, "-c", FRONT], stdout=subprocess.PIPE)
    assert front.stdout is not None
    pidfd = os.pidfd_open(int(front.stdout.readline()))
    front.kill()
    front.wait()
    front.stdout.close()

    async def ended() -> None:
        over = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, over.set)
        async with asyncio.timeout(WAIT_S):
            await over.wait()
        asyncio.get_running_loop().remove_reader(pidfd)

    asyncio.run(ended())
    os.close(pidfd)


def test_the_process_imports_neither_a_runtime_nor_a_loop() -> None:
    names = "import sys; import paceline.serve.reader; print(*sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", names], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"onnxruntime", "asyncio", "uvloop", "starlette"} & {*said}
    assert "paceline.serve.v2" in said
