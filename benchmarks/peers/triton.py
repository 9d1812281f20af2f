"""Triton's C++ front end with its Python backend, which calls onnxruntime on whole batches.

The server comes out of PyTriton's wheel, which has no backend but Python's. With and without the
time that batches wait: that time is what makes it fast under load, and slow for a lone caller.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from benchmarks._server import free_port
from benchmarks.peers.contender import (
    APPS,
    MOST_ROWS,
    WAIT_MS,
    Command,
    Contender,
    Endpoint,
    Launch,
    app_environ,
)
from benchmarks.peers.environment import Unavailable
from benchmarks.peers.forms import V2, V2_BINARY
from benchmarks.serving_models import FEATURES, LENGTH, OUTPUT_SIZES, PICTURE

INSTANCES = 2
INPUTS: Mapping[str, Mapping[str, tuple[str, tuple[int, ...]]]] = {
    "classifier": {"x": ("TYPE_FP32", (FEATURES,))},
    "encoder": {"ids": ("TYPE_INT64", (LENGTH,)), "mask": ("TYPE_INT64", (LENGTH,))},
    "cnn": {"x": ("TYPE_FP32", PICTURE)},
}


def _config(model: str, wait_ms: int, give_up_ms: int, most_rows: int) -> str:
    inputs = ", ".join(
        f'{{ name: "{name}" data_type: {kind} dims: {list(dims)} }}'
        for name, (kind, dims) in INPUTS[model].items()
    )
    policy = ""
    if give_up_ms:
        limits = f"default_timeout_microseconds: {1000 * give_up_ms}"
        policy = f"default_queue_policy {{ timeout_action: REJECT {limits} }}"
    return f"""name: "{model}"
backend: "python"
max_batch_size: {most_rows}
input [ {inputs} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [{OUTPUT_SIZES[model]}] }} ]
instance_group [ {{ kind: KIND_CPU count: {INSTANCES} }} ]
dynamic_batching {{
  max_queue_delay_microseconds: {1000 * wait_ms}
  {policy}
}}
"""


def _asked(python: Path, code: str) -> str:
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"its interpreter fails: {done.stderr.strip()[-200:]}")
    return done.stdout.strip()


def _command(launch: Launch, wait_ms: int, give_up_ms: int, most_rows: int) -> Command:
    asked = "import sys, sysconfig as s; print(s.get_path('purelib'), s.get_config_var('LIBDIR'))"
    packages, libraries = _asked(launch.python, asked).split()
    number = _asked(launch.python, "import sys; print('%d.%d' % sys.version_info[:2])")
    wheel = Path(packages) / "pytriton" / "tritonserver"
    backend = launch.folder / "backends" / "python"
    shutil.copytree(wheel / "backends" / "python", backend)
    stub = "triton_python_backend_stub"
    shutil.copy2(wheel / "python_backend_stubs" / number / stub, backend / stub)
    model = launch.folder / "models" / launch.model
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(_config(launch.model, wait_ms, give_up_ms, most_rows))
    shutil.copy(APPS / "triton_model.py", model / "1" / "model.py")
    shutil.copy(APPS / "onnx_rows.py", model / "1")  # where its backend looks for modules
    # The interpreter within the backend finds its packages by the first python3 there.
    environ = {**app_environ(launch), "PATH": f"{launch.python.parent}:{os.environ['PATH']}"}
    environ["LD_LIBRARY_PATH"] = f"{packages}/nvidia_pytriton.libs:{libraries}"
    options = {
        "model-repository": launch.folder / "models",
        "backend-directory": launch.folder / "backends",
        "http-address": "127.0.0.1",
        "http-port": launch.port,
        "allow-grpc": "false",
        "metrics-port": free_port(),
        "log-info": "false",
        "backend-config": f"python,shm-region-prefix-name=pl{launch.port}",
    }
    argv = [str(wheel / "bin" / "tritonserver")]
    return Command([*argv, *(f"--{name}={value}" for name, value in options.items())], environ)


def triton(
    name: str,
    wait_ms: int,
    *,
    give_up_ms: int = 0,
    most_rows: int = MOST_ROWS,
    extra: bool = False,
) -> Contender:
    """`give_up_ms` is how long a request may wait before it is rejected; 0 is for ever."""
    path = "/v2/models/{model}/infer"
    rejects = f", rejects after {give_up_ms} ms in its queue" if give_up_ms else ""
    return Contender(
        name,
        "triton",
        {"json": Endpoint(path, V2), "binary": Endpoint(path, V2_BINARY)},
        partial(_command, wait_ms=wait_ms, give_up_ms=give_up_ms, most_rows=most_rows),
        {"all": f"{INSTANCES} instances, batches to {most_rows} in {wait_ms} ms{rejects}"},
        "nvidia-pytriton",
        levels=() if wait_ms else (1,),
        extra=extra,
    )


TRITON = triton("triton", WAIT_MS)
TRITON_AT_ONCE = triton("triton-at-once", 0, extra=True)
