"""The look at a machine that `paceline doctor` shows: facts, and what would hold Paceline back.

Read once from /proc, cgroups, package metadata and `nvidia-smi`; nothing heavy is imported, nothing
is changed, no server is needed. Apart from `doctor.py` because every command imports that one, and
reading metadata costs 20 ms of import.
"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
import shlex
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import msgspec

import paceline
from paceline.observe.probes import ROOT, Container, Host, container, host

MIN_CORES = 2
MIN_MEMORY_BYTES = 512 << 20
MIN_DISK_BYTES = 512 << 20
MIN_OPEN_FILES = 1024
NVIDIA_SMI_S = 5.0
ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-rocm")


class Package(msgspec.Struct, frozen=True):
    name: str
    version: str | None


class Extra(msgspec.Struct, frozen=True):
    name: str
    packages: tuple[Package, ...]
    install: str

    @property
    def missing(self) -> list[str]:
        return [package.name for package in self.packages if package.version is None]


class Gpu(msgspec.Struct, frozen=True):
    """`cards` as the driver tells them, or why it does not; `providers` as ONNX Runtime calls
    what it can run on."""

    devices: tuple[str, ...] = ()
    cards: tuple[str, ...] = ()
    driver_error: str = ""
    runtime: str | None = None
    providers: tuple[str, ...] = ()


class State(msgspec.Struct, frozen=True):
    path: str
    writable: bool
    free_bytes: int


class Problem(msgspec.Struct, frozen=True):
    what: str
    remedy: str


class Report(msgspec.Struct, frozen=True):
    paceline: str
    python: str
    system: str
    packages: tuple[Package, ...]
    extras: tuple[Extra, ...]
    container: Container
    host: Host
    gpu: Gpu
    open_files_soft: int
    open_files_hard: int
    state: State
    problems: tuple[Problem, ...] = ()


def collect(state: Path, root: Path = ROOT) -> Report:
    packages, extras = _installed()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    report = Report(
        paceline=paceline.__version__,
        python=f"{platform.python_version()} ({sys.executable})",
        system=_system(),
        packages=packages,
        extras=extras,
        container=container(root),
        host=host(root),
        gpu=_gpu(root),
        open_files_soft=soft,
        open_files_hard=hard,
        state=_state(state),
    )
    return msgspec.structs.replace(report, problems=tuple(diagnose(report)))


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    kernel = os.uname()
    return f"{name}, kernel {kernel.release}, {kernel.machine}"


def _installed() -> tuple[tuple[Package, ...], tuple[Extra, ...]]:
    """What Paceline's own metadata asks for, by default and by extra."""
    try:
        ours = importlib.metadata.distribution("paceline")
    except importlib.metadata.PackageNotFoundError:
        return (), ()  # run from a source tree that is not installed: `diagnose` says so
    asked: dict[str, list[Package]] = {"": []}
    for extra in ours.metadata.get_all("Provides-Extra") or []:
        asked[extra] = []
    for requirement in ours.requires or []:
        name = re.match(r"[\w.-]+", requirement)
        extra_of = re.search(r"""\bextra\s*==\s*["']([^"']+)["']""", requirement)
        if name is not None:
            package = Package(name.group(), _version(name.group()))
            asked.setdefault(extra_of.group(1) if extra_of else "", []).append(package)
    default = asked.pop("")
    extras = [
        Extra(name, tuple(packages), _install_command(ours, name))
        for name, packages in asked.items()
    ]
    return tuple(default), tuple(extras)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


class _Origin(msgspec.Struct):
    """direct_url.json: where pip got a package that came from no index (PEP 610)."""

    url: str
    dir_info: dict[str, bool] = {}


def _install_command(ours: importlib.metadata.Distribution, extra: str) -> str:
    """The command that adds an extra to this very installation."""
    told = ours.read_text("direct_url.json")
    origin = _Origin("") if told is None else msgspec.json.decode(told, type=_Origin)
    local = urllib.parse.urlsplit(origin.url)
    what = urllib.parse.unquote(local.path) if local.scheme == "file" else "paceline"
    editable = ["-e"] if origin.dir_info.get("editable") else []
    return shlex.join([sys.executable, "-m", "pip", "install", *editable, f"{what}[{extra}]"])


def _gpu(root: Path) -> Gpu:
    cards, error = _nvidia_smi()
    return Gpu(
        devices=tuple(sorted(path.name for path in (root / "dev").glob("nvidia[0-9]*"))),
        cards=cards,
        driver_error=error,
        runtime=next((name for name in ONNXRUNTIMES if _version(name) is not None), None),
        providers=tuple(_providers()),
    )


def _nvidia_smi() -> tuple[tuple[str, ...], str]:
    """One line per card, and what went wrong; neither where the driver is not installed."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return (), ""
    query = [command, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        asked = subprocess.run(
            query, capture_output=True, text=True, timeout=NVIDIA_SMI_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return (), str(error)
    if asked.returncode != 0:
        return (), (asked.stderr.strip() or asked.stdout.strip()).partition("\n")[0]
    return tuple(asked.stdout.strip().splitlines()), ""


def _providers() -> Iterator[str]:
    """What ONNX Runtime can run on, by the libraries it brings; importing it costs 0.2 s."""
    spec = importlib.util.find_spec("onnxruntime")  # finds, does not import
    if spec is None or spec.origin is None:
        return
    yield "cpu"
    for library in sorted(Path(spec.origin).parent.glob("capi/libonnxruntime_providers_*.so")):
        name = library.stem.removeprefix("libonnxruntime_providers_")
        if name != "shared":
            yield name


def _state(path: Path) -> State:
    """The directory itself or, before the first start, where it will be made."""
    absolute = path.absolute()
    there = next(place for place in (absolute, *absolute.parents) if os.path.exists(place))
    try:
        free_bytes = shutil.disk_usage(there).free
    except OSError:
        free_bytes = 0
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    return State(str(absolute), writable, free_bytes)


def diagnose(report: Report) -> Iterator[Problem]:
    """What would hold Paceline back here, each with what to do."""
    seen, machine = report.container, report.host
    if not report.packages:
        yield Problem(
            "paceline is not installed as a package, so its extras are unknown",
            "Start it with ./paceline, or run `pip install .` in its directory.",
        )
    missing = [package.name for package in report.packages if package.version is None]
    if missing:
        command = shlex.join([sys.executable, "-m", "pip", "install", *missing])
        yield Problem(f"not installed, but needed: {', '.join(missing)}", f"Run `{command}`.")
    if seen.cores < MIN_CORES:
        yield Problem(
            f"only {seen.cores:g} cores may be used: models and requests wait for each other",
            "Give the container more, such as `docker run --cpus 2`, or use a larger machine."
            if seen.cores < machine.cores
            else "Use a machine with two cores or more.",
        )
    memory_bytes = seen.memory_limit_bytes or machine.memory_bytes
    if 0 < memory_bytes < MIN_MEMORY_BYTES:
        yield Problem(
            f"only {size(memory_bytes)} of memory may be used",
            f"Give it {size(MIN_MEMORY_BYTES)} or more, such as `docker run --memory 1g`.",
        )
    if not {"avx2", "neon"} & set(machine.instructions):
        yield Problem(
            "the CPU offers neither AVX2 nor NEON, which inference needs to be fast",
            "Let the virtual machine pass the host's CPU through, or choose a newer type.",
        )
    if report.open_files_hard < MIN_OPEN_FILES:  # `up` raises the soft limit up to here itself
        yield Problem(
            f"only {report.open_files_hard} files may be open at once, and connections count",
            "Raise the hard limit: LimitNOFILE= in systemd, --ulimit nofile= in docker.",
        )
    if not report.state.writable:
        yield Problem(
            f"the state directory {report.state.path} cannot be written",
            "Name one that can with --state DIR, or change who owns it.",
        )
    elif report.state.free_bytes < MIN_DISK_BYTES:
        yield Problem(
            f"only {size(report.state.free_bytes)} are free at {report.state.path}",
            "Free some space, or name another place with --state DIR.",
        )
    if report.gpu.driver_error:
        yield Problem(
            f"the GPU's driver does not answer: {report.gpu.driver_error}",
            "Run `nvidia-smi`; in a container, start it with `docker run --gpus all`.",
        )
    if report.gpu.devices and not {"cuda", "tensorrt"} & set(report.gpu.providers):
        yield Problem(
            "there is a GPU, and the installed ONNX Runtime cannot use it",
            f"Run `{sys.executable} -m pip uninstall --yes onnxruntime`, then "
            f"`{sys.executable} -m pip install onnxruntime-gpu`.",
        )


def size(size_bytes: int) -> str:
    """As people read it."""
    gib = size_bytes / (1 << 30)
    return f"{gib:.1f} GiB" if gib >= 1 else f"{size_bytes >> 20} MiB"
