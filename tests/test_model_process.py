"""A callable of Python in a process of its own: what it is told, what it may do wrong, its end."""

import asyncio
import logging
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from paceline.observe.looks import Found, Look
from paceline.serve.model import TensorSpec
from paceline.serve.model_host import Memory
from paceline.serve.model_process import ModelProcess
from paceline.serve.model_source import DATATYPES, Declared, ModelSource, declared
from paceline.serve.model_source import model as declares
from paceline.serve.tensors import DTYPES
from paceline.terms.errors import BadModel, ModelFailed, Unavailable
from paceline.testing.model_contract import ModelContract

WRONG = 7.0
"""The number of `odd` at which it does what is asked of it."""

MODEL = """\
import os, sys
import numpy as np
import paceline

@paceline.model(
    inputs={"x": ("FP32", [-1, 3])}, outputs={"y": ("FP64", [-1, 3]), "n": ("INT32", [-1])}
)
def twice(batch):
    "Doubles."
    print("a line of the model")
    x = batch["x"]
    return {"y": x * 2.0, "n": x.sum(1).astype("int32")}

@paceline.model(inputs={"x": ("FP32", [-1])}, outputs={"y": ("FP32", [-1])}, pure=True)
class Kept:
    def __init__(self):
        self.pid = os.getpid()

    def __call__(self, batch):
        return np.full(len(batch["x"]), self.pid, np.float32)

def odd(batch):
    x = batch["x"]
    do = {1: lambda: 1 / 0, 2: lambda: os._exit(3), 3: lambda: os.kill(os.getpid(), 9),
          4: lambda: sys.exit("gone")}
    if x[0] in do:
        do[int(x[0])]()
    odd = {5: {"z": x}, 6: {"y": x[:-1]}, 7: "text", 8: {"y": x[None]}, 9: x.astype("complex64"),
           10: None}
    return odd.get(int(x[0]), x)

if __name__ == "__main__":
    raise AssertionError("this is not for a model")
"""

X = {"x": ("FP32", [-1])}
ODD = declared(X, {"y": ("FP32", [-1])}, pure=False)

Start = Callable[..., ModelProcess]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """One that runs beside the test, as that of a front does beside its executors."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "my_model.py"
    path.write_text(MODEL)
    return path


@pytest.fixture
def start(loop: asyncio.AbstractEventLoop, file: Path) -> Iterator[Start]:
    """A model process of a name in the file, or of one of another file."""
    made: list[ModelProcess] = []

    def start(name: str, path: Path | None = None, said: Declared | None = None) -> ModelProcess:
        said = ODD if name == "odd" else said
        source = ModelSource("m", "", f"{path or file}:{name}", declared=said)

        async def begin() -> ModelProcess:
            return ModelProcess.start(source)

        model = asyncio.run_coroutine_threadsafe(begin(), loop).result()
        made.append(model)
        return model

    async def end() -> None:
        for model in made:
            model.close()
            await model.ended.wait()

    yield start
    asyncio.run_coroutine_threadsafe(end(), loop).result()


def row(value: float) -> dict[str, np.ndarray]:
    return {"x": np.array([value, 0.5], np.float32)}


def ended(process: int) -> bool:
    """Waits for the end that a pidfd tells."""
    poll = select.poll()
    poll.register(process)
    seen = bool(poll.poll(10_000))
    os.close(process)
    return seen


class TestContract(ModelContract):
    @pytest.fixture(autouse=True)
    def starting(self, start: Start) -> None:
        self.make_model = lambda: start("twice")  # type: ignore[method-assign]


def test_it_says_what_it_takes_and_prints_where_the_log_goes(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    model = start("twice")
    spec = model.spec
    assert spec.inputs == (TensorSpec("x", "FP32", (-1, 3)),)
    assert [str(each) for each in spec.outputs] == ["`y` FP64 [-1, 3]", "`n` INT32 [-1]"]
    assert (spec.name, spec.version, spec.doc, spec.pure) == ("m", "1", "Doubles.", False)
    answer = model.run({"x": np.ones((2, 3), np.float32)})
    assert answer["y"].tolist() == [[2.0] * 3] * 2
    assert answer["n"].dtype == np.int32
    assert capfd.readouterr() == ("", "a line of the model\n")


BUSY = """\
import os

def spins(batch):
    while not os.path.exists(FILE):
        sum(range(100_000))
    return batch["x"]

"""


@pytest.fixture
def busy(start: Start, tmp_path: Path) -> Iterator[ModelProcess]:
    """In the midst of a batch."""
    path, end = tmp_path / "busy_model.py", tmp_path / "end"
    path.write_text(BUSY.replace("FILE", repr(str(end))))
    model = start("spins", path, ODD)
    with ThreadPoolExecutor(1) as pool:
        runs = pool.submit(model.run, row(1.0))
        yield model
        end.touch()
        runs.exception()


def seen(found: Found) -> set[str]:
    """Functions of threads that work."""
    assert found.stacks is not None
    stacks = found.stacks
    return {stacks.frames[each] for one in stacks.stacks if not one.waits for each in one.frames}


def test_what_it_does_is_seen_while_it_does_it(busy: ModelProcess) -> None:
    for _ in range(2):
        found = busy.look_into().found(Look("stacks", 0.3))
        assert "paceline_model_busy_model.spins" in seen(found)
    memory = busy.look_into().found(Look("memory", 0.0)).memory
    assert memory is not None
    assert memory.mapped


def test_a_look_ends_when_it_is_asked_to_even_before_it_began(busy: ModelProcess) -> None:
    for early in (True, False):
        look = busy.look_into()
        if early:
            look.end()
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(look.found, Look("stacks", 100.0))
            if not early:
                look.end()
            assert found.result(20.0).stacks is not None


def test_a_process_that_ends_while_it_is_looked_at_says_so(busy: ModelProcess) -> None:
    look = busy.look_into()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(look.found, Look("stacks", 100.0))
        assert busy.pid is not None
        os.kill(busy.pid, signal.SIGKILL)
        error = found.result(20.0).error
    assert error is not None
    assert error["code"] == "unavailable"
    assert "ended while it was profiled" in error["error"]
    look.end()  # nobody is there to hear it


def test_a_class_is_made_an_instance_of_in_the_process(start: Start) -> None:
    model = start("Kept")
    (pid,) = model.run({"x": np.zeros(1, np.float32)})["y"]
    assert int(pid) == model.pid != os.getpid()
    assert model.spec.pure


def test_answers_do_not_change_with_the_next_batch_and_batches_may_grow(start: Start) -> None:
    model = start("twice")
    first = model.run({"x": np.ones((1, 3), np.float32)})
    large = model.run({"x": np.full((100_000, 3), 5, np.float32)})
    assert first["y"].tolist() == [[2.0] * 3]
    assert large["y"].shape == (100_000, 3)
    assert (large["y"] == 10).all()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (1, "ZeroDivisionError: division by zero"),
        (5, "answered 'z'; expected is `y` FP32 [-1]"),
        (6, "the shape [1] for `y`, of 2 rows"),
        (7, "<U4 for `y`"),
        (8, "the shape [1, 2] for `y`"),
        (9, "complex64 for `y`"),
        (10, "object for `y`"),
    ],
)
def test_what_it_does_wrong_is_told_and_it_goes_on(
    start: Start, caplog: pytest.LogCaptureFixture, value: int, says: str
) -> None:
    model = start("odd")
    pid = model.pid
    with caplog.at_level(logging.ERROR), pytest.raises(ModelFailed) as caught:
        model.run(row(value))
    assert says in str(caught.value)
    assert model.run(row(0))["y"].tolist() == [0, 0.5]
    assert model.pid == pid
    if value == 1:
        assert "my_model.py" in str(caplog.records[0].__dict__), "the traceback is in the log"


@pytest.mark.parametrize("value", [2, 3, 4])
def test_a_crash_is_answered_and_it_is_back(start: Start, value: int) -> None:
    model = start("odd")
    pid = model.pid
    with pytest.raises(Unavailable, match="ended while it ran this request"):
        model.run(row(value))
    assert model.run(row(0))["y"].tolist() == [0, 0.5], "it is waited for"
    assert model.pid != pid


def test_one_that_is_killed_between_two_batches_is_not_noticed(start: Start) -> None:
    model = start("odd")
    pid = model.pid
    assert pid is not None
    process = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert ended(process)
    try:
        model.run(row(0))
    except Unavailable:  # asked before the end was heard of
        model.run(row(0))
    assert model.pid != pid


def test_batches_of_several_threads_are_run_in_turn(start: Start) -> None:
    model = start("odd")
    with ThreadPoolExecutor(4) as pool:
        answers = [
            *pool.map(lambda each: model.run(row(each))["y"][0], [11.0 + i for i in range(50)])
        ]
    assert answers == [11.0 + i for i in range(50)]


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("import nothing_of_this_name", "f", "ModuleNotFoundError"),
        ("def g(): pass", "f", "has no attribute 'f'"),
        ("f = 3", "f", "is a int"),
        ("def f(batch): pass", "f", "does not say what it takes"),
        ("import sys; sys.exit(4)", "f", "SystemExit: 4"),
        ("import os; os._exit(4)", "f", "ended, or hung, while it was loaded"),
        ("import paceline\ndef f(b): pass\npaceline.serve(f)", "f", "while its model was loaded"),
        (
            "import paceline\n@paceline.model(inputs={}, outputs={})\ndef f(b): pass",
            "f",
            "one input",
        ),
    ],
)
def test_what_cannot_be_loaded_is_told(
    start: Start, tmp_path: Path, text: str, name: str, says: str
) -> None:
    path = tmp_path / "m.py"
    path.write_text(text)
    with pytest.raises(BadModel) as caught:
        start(name, path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_is_declared_is_checked_where_it_is_written() -> None:
    good = {"x": ("FP32", [-1, 2])}
    for bad in ({"x": "FP32"}, {"x": ("FP99", [1])}, {"x": ("FP32", [0])}, {"x": ("FP32", [1.5])}):
        with pytest.raises(BadModel, match="'FP32', \\[-1, 64\\]"):
            declares(inputs=bad, outputs=good)  # type: ignore[arg-type]


def test_each_declared_type_is_one_that_requests_can_carry() -> None:
    assert set(DATATYPES) <= set(DTYPES)


def test_the_memory_of_one_side_cannot_be_taken_from_the_other() -> None:
    memory = Memory.make("test")
    batch = memory.write({"x": np.arange(5000)})
    with pytest.raises(PermissionError):
        os.ftruncate(memory.fd, 0)
    other = Memory(os.dup(memory.fd))
    assert other.read(batch)["x"].tolist() == [*range(5000)]
    other.close()
    memory.close()


FRONT = """\
import asyncio, sys, time
import numpy as np
from paceline.serve.model_process import ModelProcess
from paceline.serve.model_source import ModelSource

async def main():
    model = ModelProcess.start(ModelSource("m", "", sys.argv[1] + ":spins"))
    print(model.pid, flush=True)
    await asyncio.to_thread(model.run, {"x": np.ones(1, np.float32)})

asyncio.run(main())
"""

SPINS = """\
import paceline
@paceline.model(inputs={"x": ("FP32", [-1])}, outputs={"y": ("FP32", [-1])})
def spins(batch):
    while True:
        pass
"""


def test_it_ends_with_its_front_however_that_ends_and_whatever_it_does(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(SPINS)
    with subprocess.Popen(
        [sys.executable, "-c", FRONT, str(tmp_path / "m.py")], stdout=subprocess.PIPE
    ) as front:
        assert front.stdout is not None
        pid = int(front.stdout.readline())
        model = os.pidfd_open(pid)
        front.kill()
    assert ended(model), "it lives on"
