"""Somebody's own models: `paceline serve`, `paceline.serve(...)`, and what paceline.toml names."""

import json
import os
import re
import select
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from paceline.cli.calling import curl
from paceline.cli.serving import source_of, source_of_callable, valid
from paceline.config import default_fronts
from paceline.observe.probes import container
from paceline.serve import digits
from paceline.serve.knobs import executors
from paceline.serve.model import TensorSpec
from paceline.terms.errors import EXIT_START, EXIT_USAGE, BadModel, Misuse
from servers import START_S, STOP_S, Server
from test_cli import Done, here

SUMS = """\
import paceline

@paceline.model(inputs={"x": ("FP32", [-1, 4])}, outputs={"sum": ("FP32", [-1])}, pure=True)
def sums(batch):
    if (batch["x"] == 666).any():
        import os
        os._exit(1)
    return batch["x"].sum(axis=1)

if __name__ == "__main__":
    paceline.serve(sums, slo="2500ms", port=0, name="adds")
"""


SLEEPS = """\
import time
import paceline

@paceline.model(inputs={"x": ("FP32", [-1, 4])}, outputs={"sum": ("FP32", [-1])})
def sleeps(batch):
    time.sleep(0.4)
    return batch["x"].sum(axis=1)

if __name__ == "__main__":
    paceline.serve(sleeps, slo="5s", port=0)
"""

LONG_AND_BROKEN = b'{"inputs": [' + b" " * 500_000


class Started(NamedTuple):
    process: "subprocess.Popen[bytes]"
    says: str
    log: Path

    @property
    def address(self) -> str:
        found = re.search(r"http://[\d.:]+", self.says)
        assert found
        return found[0]

    def try_it(self) -> Any:
        """The line it shows, as a shell runs it."""
        found = re.search(r"^  try +(.*)$", self.says, re.MULTILINE)
        assert found
        done = subprocess.run(found[1], shell=True, capture_output=True, text=True, timeout=START_S)
        return json.loads(done.stdout)


@contextmanager
def started(
    where: Path, *command: str, environ: Mapping[str, str] | None = None
) -> Iterator[Started]:
    """A command that serves, from its last line of output to Ctrl-C, which it must obey."""
    log = where / "started.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command,
            cwd=where,
            env={**os.environ, **(environ or {})},
            stdout=subprocess.PIPE,
            bufsize=0,  # what is not read yet must be seen by select
            stderr=errors,
            start_new_session=True,
        ) as process,
    ):
        assert process.stdout is not None
        said = b""
        try:
            while b"\n  stop " not in said:
                readable, _, _ = select.select([process.stdout], [], [], START_S)
                line = process.stdout.readline() if readable else b""
                assert line, f"it did not start:\n{said.decode()}\n{log.read_text()}"
                said += line
            yield Started(process, said.decode(), log)
            process.send_signal(signal.SIGINT)
            status = process.wait(STOP_S)
            assert status == 0, log.read_text()
        finally:
            process.kill()


def paceline(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "paceline", *arguments)


def said(address: str, path: str) -> Any:
    with urllib.request.urlopen(address + path, timeout=START_S) as answer:
        return json.load(answer)


def status_of(address: str, path: str, body: bytes, **headers: str) -> int:
    request = urllib.request.Request(address + path, body, {"content-type": "application/json"})
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request, timeout=START_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_long_body_is_not_read_where_its_answer_would_be_too_late(tmp_path: Path) -> None:
    """It is broken, which whoever reads it sees; nobody does while others wait for the model."""
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    with started(tmp_path, sys.executable, "sleeps.py") as up:
        path = "/v2/models/sleeps/infer"

        def broken() -> int:
            return status_of(up.address, path, LONG_AND_BROKEN, x_timeout_ms="200")

        def ask() -> int:
            return status_of(up.address, "/predict/sleeps", b"[1, 2, 3, 4]")

        assert broken() == 400
        with ThreadPoolExecutor() as pool:
            asked = []
            for _ in range(4):
                asked.append(pool.submit(ask))
                time.sleep(0.02)  # else the first ones share a batch, and nobody waits
            assert broken() == 503
            assert [each.result() for each in asked] == [200] * 4
        assert broken() == 400


# --- One model without a file ---------------------------------------------------------------------


def test_an_onnx_file_is_served_by_one_command_and_held_to_its_objective(tmp_path: Path) -> None:
    (tmp_path / "my model.onnx").write_bytes(digits.MODEL_PATH.read_bytes())
    (tmp_path / "paceline.toml").write_text("broken")  # is not read
    with started(
        tmp_path, *paceline("serve", "my model.onnx", "--slo", "30ms", "--port", "0")
    ) as it:
        assert it.try_it()["outputs"]["label"] in range(10)
        plan = said(it.address, "/api/plan")
        assert plan["goals"] == {"my-model": ["p99_ms <= 30"]}
        assert {each["knob"].partition(".")[0] for each in plan["knobs"]} == {"my-model"}
        settings = {each["knob"]: each["setting"] for each in plan["knobs"]}
        cores = container().cores
        assert settings["my-model.executors"] == executors(cores, default_fronts(cores))
    assert (tmp_path / ".paceline" / "journal.db").exists()
    (tmp_path / "paceline.toml").unlink()
    shown = subprocess.run(
        paceline("plan", "show", "--json"), cwd=tmp_path, capture_output=True, check=True
    )
    assert json.loads(shown.stdout)["knobs"][0]["knob"] == "my-model.enabled", "its server is gone"
    changed = paceline("plan", "set", "my-model.max_batch", "8")
    subprocess.run(changed, cwd=tmp_path, capture_output=True, check=True)
    why = subprocess.run(
        paceline("why", "my-model.max_batch"), cwd=tmp_path, capture_output=True, text=True
    )
    assert "my-model.max_batch is 8 rows" in why.stdout


def test_a_callable_is_served_by_one_command(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(SUMS)
    with started(tmp_path, *paceline("serve", "m.py:sums", "--name", "s", "--port", "0")) as it:
        assert it.try_it() == {"model": "s", "outputs": {"sum": 0.0}}
        metrics = subprocess.run(
            ["curl", "-s", f"{it.address}/metrics"], capture_output=True, text=True
        ).stdout
        resident = re.search(
            r'paceline_process_resident_memory_bytes\{role="model"\} (\S+)', metrics
        )
        assert resident
        assert float(resident[1]) > 1e7, "of the model process"


@pytest.mark.slow  # so is the one that sleeps
def test_a_callable_is_served_from_its_own_program(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(SUMS)
    with started(tmp_path, sys.executable, "m.py") as it:
        assert it.try_it() == {"model": "adds", "outputs": {"sum": 0.0}}
        assert said(it.address, "/api/plan")["goals"] == {"adds": ["p99_ms <= 2500"]}


def test_where_nothing_can_be_written_its_memory_is_in_ram(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(digits.MODEL_PATH.read_bytes())
    (tmp_path / ".paceline").write_text("no directory, and it may not be written")
    (tmp_path / ".paceline").chmod(0)
    # Root may write anywhere but here.
    command = paceline("serve", str(tmp_path / "m.onnx"), "--port", "0")
    read_only = Path("/proc/self")
    with started(tmp_path, "sh", "-c", f'cd {read_only} && exec "$@"', "sh", *command) as it:
        found = re.search(r"^  state  (\S+), .*in memory until it stops", it.says, re.MULTILINE)
        assert found, it.says
        kept = Path(found[1])
        assert stat.S_IMODE(kept.stat().st_mode) == 0o700
        assert (kept / "journal.db").exists()
        assert it.try_it()["model"] == "m"
    assert not kept.exists()


def apart(*arguments: str) -> Done:
    """Where the command begins to serve before it fails."""
    command = paceline(*arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)


@pytest.mark.parametrize(
    ("command", "arguments", "status", "says"),
    [
        (here, ["nothing.onnx"], EXIT_START, ["no model file for `nothing`", "/nothing.onnx"]),
        pytest.param(
            apart,
            ["broken.onnx"],
            EXIT_START,
            ["cannot load the model `broken`", "complete"],
            marks=pytest.mark.slow,
        ),
        (here, ["nothing.py:f"], EXIT_START, ["no model file", "/nothing.py"]),
        (apart, ["broken.py:f"], EXIT_START, ["NameError: name 'oops'", "broken.py:f"]),
        (here, ["model.pt"], EXIT_START, ["names no model", "my_model.py:predict"]),
        (here, ["digits", "--slo", "30"], EXIT_USAGE, ["--slo is a time", "30ms"]),
        (here, ["digits.onnx", "--name", "a.b"], EXIT_USAGE, ["a.b", "letters"]),
    ],
)
def test_what_cannot_be_served_is_told_with_its_remedy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., Done],
    arguments: list[str],
    status: int,
    says: list[str],
) -> None:
    (tmp_path / "broken.onnx").write_text("no model")
    (tmp_path / "broken.py").write_text("oops")
    monkeypatch.chdir(tmp_path)
    done = command("serve", "--port", "0", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    for each in says:
        assert each in done.stderr
    assert "is started again" not in done.stderr
    told = done.stderr[done.stderr.index("paceline: ") :]
    assert "Traceback" not in told


# --- What may be meant ----------------------------------------------------------------------------


def test_a_name_is_made_of_the_file() -> None:
    assert source_of("a/b c.onnx", None).name == "b-c"
    assert source_of("a.py:f", None).name == "a-f"
    assert source_of("pkg.mod:C.g", None).python == "pkg.mod:C.g"
    assert source_of("ä.onnx", None).name == "model"
    assert valid("ok-1", "x") == "ok-1"
    with pytest.raises(Misuse, match="letters"):
        valid("no way", "x")


def top(batch: object) -> object:
    return batch


def test_a_callable_is_known_by_its_module_and_name() -> None:
    source = source_of_callable(top, None)
    assert source.python.endswith("test_serve_command:top")
    assert source.name == "top"
    assert str(Path(__file__).parent) in source.folders


def test_what_another_process_could_not_find_is_refused() -> None:
    def inner(batch: object) -> object:
        return batch

    typed_in: dict[str, Any] = {"__name__": "typed_in"}
    exec("def f(batch): return batch", typed_in)
    for call in (inner, lambda batch: batch, print, typed_in["f"], "text".upper):
        with pytest.raises(BadModel) as caught:
            source_of_callable(call, None)
        assert caught.value.remedy


def test_the_line_for_curl_fits_a_shell_however_large_the_input() -> None:
    large = curl("http://h:1", "m", [TensorSpec("it's", "FP32", (-1, 3, 96, 96))], "")
    program = large.split(" | ")[0]
    body = json.loads(subprocess.run(program, shell=True, capture_output=True, check=True).stdout)
    (given,) = body["inputs"]
    assert (given["name"], given["shape"], len(given["data"])) == ("it's", [1, 3, 96, 96], 27648)
    two = curl("a", "m", [TensorSpec("b", "BOOL", (-1, 2)), TensorSpec("i", "INT8", (-1,))], " -k")
    assert two.endswith(
        """/predict/m -k -H 'content-type: application/json' -d """
        """'{"b":[false,false],"i":0}'"""
    )
    assert curl("a", "m", [], "") == "curl -s a/v2/models/m"


# --- What the file names --------------------------------------------------------------------------

FILE = """\
[models.one]
path = "sub/one.onnx"
goal = ["p99_ms <= 40"]

[models.one.pins]
max_rows = 77

[models.two]
python = "two.py:sums"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "one.onnx").write_bytes(digits.MODEL_PATH.read_bytes())
    (tmp_path / "two.py").write_text(SUMS)
    path = tmp_path / "paceline.toml"
    path.write_text(FILE)
    return path


def knob(server: Server, address: str) -> Any:
    knobs = server.ask("GET", "/api/plan").json["knobs"]
    return next(each for each in knobs if each["knob"] == address)


def test_the_models_of_the_file_are_served_pinned_and_remembered(file: Path) -> None:
    state = file.parent / "state"
    with Server(state, "--config", str(file)) as server:
        assert server.about["models"] == ["one", "two"]
        row = server.ask("POST", "/predict/one", digits.SAMPLE_ROW)
        assert row.json["outputs"]["label"] == digits.SAMPLE_LABEL
        assert server.ask("POST", "/predict/two", [1, 2, 3, 4]).json["outputs"] == {"sum": 10}
        assert server.ask("POST", "/predict/digits", digits.SAMPLE_ROW).status == 404
        assert server.ask("GET", "/api/plan").json["goals"] == {"one": ["p99_ms <= 40"]}
        pinned = knob(server, "one.max_rows")
        assert (pinned["setting"], f"{file}:6" in pinned["pinned_by"]) == (77, True)
        crash = server.ask("POST", "/predict/two", [666, 0, 0, 0])
        assert (crash.status, crash.json["code"]) == (503, "unavailable")
        file.write_text(FILE.replace("77", "78").replace("sub/one", "sub/other"))
        told = server.ask("POST", "/api/config/reload", {}).json
        assert told["needs_restart"] == ["models.one"]
        assert knob(server, "one.max_rows")["setting"] == 78
        assert server.ask("POST", "/predict/one", digits.SAMPLE_ROW).status == 200
        assert server.fronts, "the front lives on"


@pytest.mark.slow  # three servers
def test_a_model_that_was_served_and_is_not_any_more_stands_in_nobodys_way(file: Path) -> None:
    state = file.parent / "state"
    with Server(state, "--config", str(file)) as server:
        assert server.about["models"] == ["one", "two"]
    file.write_text(FILE[: FILE.index("[models.two]")])
    with Server(state, "--config", str(file)) as server:
        assert server.about["models"] == ["one"]
        story = server.ask("GET", "/api/plan/history").json["changes"][0]["steps"]
        assert "two.max_rows gone" in [each["text"] for each in story]
        assert server.ask("POST", "/api/config/reload", {}).status == 200
        gone = server.ask("GET", "/api/why?knob=two.max_rows")
        assert (gone.status, gone.json["code"]) == (404, "unknown_knob")
    file.unlink()
    with Server(state) as server:
        assert server.about["models"] == ["digits"]


@pytest.mark.slow  # a caller is parked for as long as one may be
def test_a_front_that_cannot_load_a_model_any_more_is_tried_again(file: Path) -> None:
    with Server(file.parent / "state", "--config", str(file)) as server:
        model = file.parent / "sub" / "one.onnx"
        away = model.rename(model.with_name("away"))
        (front,) = server.fronts
        os.kill(front, signal.SIGKILL)
        assert server.ask("POST", "/predict/one", digits.SAMPLE_ROW).status == 503
        away.rename(model)
        assert server.ask("POST", "/predict/one", digits.SAMPLE_ROW, timeout_s=20).status == 200
        assert "a front cannot serve" in server.log.read_text()
        assert "no model file for `one`" in server.log.read_text()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('[models.m]\npath = "no.onnx"', ["no model file for `m`", "/no.onnx"]),
        ('[models.m]\npath = "sub"', ["cannot be read"]),
        ('[models.m]\npath = "a.onnx"\npython = "a.py:f"', [":3: m has a path and"]),
        ('[models.m]\npython = "two.py"', ["names no callable", "my_model.py:predict"]),
        ('[models.m]\ngoal = ["p99_ms <= 1"]', ["no model m", 'path = "model.onnx"']),
        ('[models."a.b"]\npath = "a.onnx"', ["a.b", "letters"]),
        ('[models.m]\npath = ""', ["says not what it is loaded from"]),
        ("[models.m]\npath = 3", ["path takes a text"]),
    ],
)
def test_a_model_that_cannot_be_is_told_before_anything_listens(
    file: Path, content: str, says: list[str]
) -> None:
    file.write_text(content)
    done = here("up", "--port", "0", "--state", str(file.parent / "s"), "--config", str(file))
    assert (done.returncode, done.stdout) == (EXIT_START, "")
    for each in says:
        assert each in done.stderr
    assert not (file.parent / "s").exists()
