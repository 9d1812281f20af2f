"""Ours, as the benchmarks of the front door start it, load it and read its metrics.

`peers/paceline` is ours beside others, one model with keys; this one serves as many models as is
asked, without keys. Called by `floors`, `growth` and `collector`.
"""

import http.client
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from benchmarks._open_loop import put_ahead
from benchmarks.peers.contender import Command, Contender, Endpoint, Launch
from benchmarks.peers.environment import Unavailable
from benchmarks.peers.forms import V2, V2_BINARY, Answer
from benchmarks.peers.running import Running
from benchmarks.peers.started import Asked
from paceline.serve.model import Tensors
from paceline.serve.onnx_model import OnnxModel

PATH = "/v2/models/{model}/infer"
SPARE_S = 60.0
READ_S = 10.0

SERIES = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'(\w+)="([^"]*)"')

Series = Sequence[tuple[str, Mapping[str, str], float]]


class Times(msgspec.Struct, frozen=True):
    mean_ms: float
    p50_ms: float
    p99_ms: float
    p999_ms: float


class Seen(msgspec.Struct, frozen=True):
    """Some of what `paceline load` says. `not_told` is why there are no times."""

    requests: int
    warmup_requests: int
    offered_rps: float
    answered_rps: float
    answered: int
    refused: int
    failed: int
    latency: Times | None
    not_told: str | None = None

    @property
    def sent(self) -> int:
        return self.requests + self.warmup_requests

    @property
    def all_answered(self) -> bool:
        return self.answered == self.requests


def parsed(output: str) -> Seen:
    """Of its output; complaints may come before it, and there may be nothing else."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines or '"error"' in lines[-1][:12]:
        raise Unavailable(f"`paceline load` said nothing of what it found: {output[-300:]}")
    return msgspec.json.decode(lines[-1], type=Seen)


def load(
    url: str, asked: Asked | None, rate: float, seconds: float, warm_s: float, *options: str
) -> Seen:
    """Poisson arrivals, ahead of all others where that is allowed. Without a body to ask with,
    `options` say what is asked."""
    with tempfile.TemporaryDirectory(prefix="pl-load-") as name:
        words = [sys.executable, "-m", "paceline", "load", url + (asked.path if asked else "")]
        words += ["--json", "--rate", f"{rate:.6g}", "--seconds", f"{seconds:g}"]
        words += ["--warmup", f"{warm_s:g}s", *options]
        if asked is not None:
            body = Path(name) / "body"
            body.write_bytes(asked.body)
            words += ["--body", f"@{body}"]
            for header, value in asked.headers.items():
                words += ["--header", f"{header}: {value}"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        put_ahead(process.pid)
        try:
            said, complained = process.communicate(timeout=seconds + warm_s + SPARE_S)
        except subprocess.TimeoutExpired as error:
            raise Unavailable("`paceline load` did not end in time") from error
        finally:
            process.kill()
            process.wait()
    return parsed(said or complained)


def ours(
    models: Sequence[str] = (), fronts: int = 1, environ: Mapping[str, str] | None = None
) -> Contender:
    """`models` are further names of the model that is launched. Nobody needs a key."""
    command = partial(_command, models=models, fronts=fronts, environ=environ or {})
    endpoints = {"json": Endpoint(PATH, V2), "binary": Endpoint(PATH, V2_BINARY)}
    settings = {"all": f"{fronts} fronts, {1 + len(models)} models, no keys"}
    return Contender("paceline", "", endpoints, command, settings, "paceline")


def _command(
    launch: Launch, models: Sequence[str], fronts: int, environ: Mapping[str, str]
) -> Command:
    settings = launch.folder / "paceline.toml"
    settings.write_text(sections([launch.model, *models], launch.path))
    words = [str(launch.python), "-m", "paceline", "up", "--config", str(settings)]
    words += ["--port", str(launch.port), "--fronts", str(fronts)]
    return Command([*words, "--state", str(launch.folder / "state")], environ)


def sections(models: Sequence[str], path: Path) -> str:
    """The settings of a server in which all models are one file."""
    return "\n".join(f'[models.{name}]\npath = "{path}"\n' for name in models)


def expected(path: Path, model: str, rows: Sequence[Tensors]) -> list[Answer]:
    """What onnxruntime answers to each alone, in this process."""
    served = OnnxModel.load(path, model)
    return [next(iter(served.run(row).values())).reshape(-1).astype("f8") for row in rows]


def alone(batch: Tensors) -> list[Tensors]:
    """Its rows, each as a request of its own."""
    count = len(next(iter(batch.values())))
    return [
        {name: np.ascontiguousarray(values[at : at + 1]) for name, values in batch.items()}
        for at in range(count)
    ]


# --- What it counts -------------------------------------------------------------------------------


def metrics(up: Running, asked: Asked | None = None) -> Series:
    """With the headers of what was asked, for a server that wants a key."""
    connection = http.client.HTTPConnection("127.0.0.1", up.launch.port, timeout=READ_S)
    try:
        connection.request("GET", "/metrics", headers=dict(asked.headers) if asked else {})
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    if response.status != 200:
        raise Unavailable(f"its metrics have status {response.status}: {text[:200]}")
    return series(text)


def series(text: str) -> Series:
    """Of the Prometheus text format, as far as we write it."""
    found = []
    for line in text.splitlines():
        if not line.startswith("#") and (match := SERIES.fullmatch(line)):
            labels = dict(LABEL.findall(match[2] or ""))
            found.append((match[1], labels, float(match[3])))
    return found


def total(of: Series, name: str, **labels: str) -> float:
    """Over all series of that name with these labels, whatever else they have."""
    return sum(value for each, has, value in of if each == name and labels.items() <= has.items())
