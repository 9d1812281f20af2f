"""The doctor: it sees what is there, says what is missing, and how to get it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from paceline.cli import doctor as doctor_module
from paceline.cli.checkup import (
    MIN_DISK_BYTES,
    MIN_MEMORY_BYTES,
    MIN_OPEN_FILES,
    Extra,
    Gpu,
    Package,
    Report,
    State,
    collect,
    diagnose,
)
from paceline.cli.doctor import doctor
from paceline.observe.probes import Container, Host

FINE = Report(
    paceline="1",
    python="3",
    system="Linux",
    packages=(Package("numpy", "2.0"),),
    extras=(),
    container=Container(2.0, None, 1 << 30, 1.0, "v2"),
    host=Host(2, 8 << 30, "Some CPU", ("avx2",)),
    gpu=Gpu(runtime="onnxruntime", providers=("cpu",)),
    open_files_soft=MIN_OPEN_FILES,
    open_files_hard=MIN_OPEN_FILES,
    state=State("/state", True, MIN_DISK_BYTES),
)


def _but(**changes: object) -> Report:
    return msgspec.structs.replace(FINE, **changes)


def test_a_machine_that_is_fine_has_no_problems() -> None:
    assert list(diagnose(FINE)) == []
    arm = Host(2, 8 << 30, "Some CPU", ("neon",))
    assert list(diagnose(_but(host=arm))) == []


SMALL_MEMORY = MIN_MEMORY_BYTES - 1
PROBLEMS = {
    "no metadata": (_but(packages=()), "not installed as a package", "./paceline"),
    "package": (_but(packages=(Package("uvloop", None),)), "needed: uvloop", "install uvloop"),
    "quota": (_but(container=Container(0.5, None, 0, 0.0, "v2")), "only 0.5 cores", "--cpus 2"),
    "one core": (
        _but(container=Container(1.0, None, 0, 0.0, "v2"), host=Host(1, 8 << 30, "cpu", ("avx2",))),
        "only 1 cores",
        "two cores",
    ),
    "limit": (
        _but(container=Container(2.0, SMALL_MEMORY, 0, 0.0, "v1")),
        "511 MiB of memory",
        "--memory",
    ),
    "memory": (_but(host=Host(2, SMALL_MEMORY, "cpu", ("avx2",))), "511 MiB of", "512 MiB"),
    "old cpu": (_but(host=Host(2, 8 << 30, "cpu", ())), "AVX2", "newer"),
    "open files": (_but(open_files_hard=512), "only 512 files", "LimitNOFILE"),
    "read-only": (_but(state=State("/s", False, 1 << 40)), "/s cannot be written", "--state"),
    "disk": (_but(state=State("/s", True, 5 << 20)), "only 5 MiB are free", "--state"),
    "driver": (_but(gpu=Gpu(driver_error="mismatch")), "does not answer: mismatch", "nvidia-smi"),
    "unused gpu": (
        _but(gpu=Gpu(devices=("nvidia0",), providers=("cpu",))),
        "cannot use it",
        "onnxruntime-gpu",
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_problem_comes_alone_with_a_remedy(name: str) -> None:
    report, what, remedy = PROBLEMS[name]
    (problem,) = diagnose(report)
    assert what in problem.what
    assert remedy in problem.remedy
    assert problem.remedy.endswith(".")


def test_a_gpu_that_can_be_used_is_no_problem() -> None:
    gpu = Gpu(devices=("nvidia0",), cards=("H",), providers=("cpu", "cuda"))
    assert list(diagnose(_but(gpu=gpu))) == []


def _plant_metadata(directory: Path, origin: str | None) -> None:
    info = directory / "paceline-9.dist-info"
    info.mkdir()
    lines = [
        "Metadata-Version: 2.1",
        "Name: paceline",
        "Version: 9",
        "Requires-Dist: msgspec >=0.19,<1",
        "Requires-Dist: never-there >=1",
        "Requires-Dist: pytest >=1 ; extra == 'present'",
        'Requires-Dist: pytest >=1 ; python_version > "3" and extra == "absent"',
        'Requires-Dist: never.there-2 >=1 ; extra == "absent"',
        "Provides-Extra: present",
        "Provides-Extra: absent",
    ]
    (info / "METADATA").write_text("\n".join(lines))
    if origin is not None:
        (info / "direct_url.json").write_text(origin)


def test_extras_come_from_the_metadata_with_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant_metadata(tmp_path, None)
    monkeypatch.syspath_prepend(tmp_path)
    report = collect(tmp_path)
    versions = {package.name: package.version for package in report.packages}
    assert versions == {"msgspec": msgspec.__version__, "never-there": None}
    present, absent = report.extras
    assert (present.name, present.missing) == ("present", [])
    assert (absent.name, absent.missing) == ("absent", ["never.there-2"])
    assert any("never-there" in problem.what for problem in report.problems)


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, "install 'paceline[absent]'"),
        ('{"url":"file:///a/b%20c","dir_info":{"editable":true}}', "install -e '/a/b c[absent]'"),
        ('{"url":"file:///a/b","dir_info":{}}', "install '/a/b[absent]'"),
        ('{"url":"https://x.example/p.whl","archive_info":{}}', "install 'paceline[absent]'"),
    ],
)
def test_the_command_for_an_extra_fits_how_paceline_was_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str | None, expected: str
) -> None:
    _plant_metadata(tmp_path, origin)
    monkeypatch.syspath_prepend(tmp_path)
    command = next(extra.install for extra in collect(tmp_path).extras if extra.name == "absent")
    assert command.startswith(sys.executable)
    assert command.endswith(f"-m pip {expected}")


@pytest.mark.parametrize(
    ("script", "cards", "error"),
    [
        ("echo 'NVIDIA X, 1 MiB, 5'; echo 'NVIDIA Y, 2 MiB, 5'", 2, ""),
        ("echo 'Driver/library version mismatch'; exit 18", 0, "Driver/library version mismatch"),
    ],
)
def test_gpus_are_asked_of_their_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, cards: int, error: str
) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    gpu = collect(tmp_path, tmp_path).gpu
    assert gpu.devices == ("nvidia0", "nvidia1")
    assert (len(gpu.cards), gpu.driver_error) == (cards, error)


def test_a_state_directory_is_judged_before_it_exists(tmp_path: Path) -> None:
    state = collect(tmp_path / "not" / "yet").state
    assert state.path == str(tmp_path / "not" / "yet")
    assert state.writable
    assert state.free_bytes > 0
    (tmp_path / "file").touch()
    assert not collect(tmp_path / "file" / "below").state.writable
    assert not (tmp_path / "not").exists()


def test_json_holds_the_whole_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doctor(state=str(tmp_path), as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert set(shown) == set(Report.__struct_fields__)
    assert shown["container"]["cores"] > 0
    assert shown["gpu"]["providers"][0] == "cpu"
    assert msgspec.convert(shown, Report).state.path == str(tmp_path)


SAMPLE = _but(
    extras=(Extra("ray", (Package("ray", None),), "pip install 'paceline[ray]'"),),
    container=Container(0.5, 1 << 30, 5 << 20, 1.0, "v1"),
    system="[bold]not markup[/bold]",
    problems=tuple(diagnose(PROBLEMS["quota"][0])),
)


@pytest.mark.parametrize("show", [doctor_module._print_plain, doctor_module._print_table])
def test_text_and_table_say_the_same(
    show: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert callable(show)
    show(SAMPLE)
    words = " ".join(capsys.readouterr().out.split())
    for expected in (
        "cores 0.5 of 2",
        "memory 1.0 GiB of 8.0 GiB",
        "in use 5 MiB (cgroup v1)",
        "[bold]not markup[/bold]",
        "missing ray; get it with: pip install 'paceline[ray]'",
        "Problems - only 0.5 cores",
        "docker run --cpus 2",
    ):
        assert expected in words


def test_no_problem_is_said_too(capsys: pytest.CaptureFixture[str]) -> None:
    doctor_module._print_plain(FINE)
    assert capsys.readouterr().out.endswith("No problems found.\n")


LEAN = """
import sys
from paceline.cli.doctor import doctor
doctor(state=".", as_json=True)
heavy = {"numpy", "onnxruntime", "sklearn", "onnx", "skl2onnx", "psutil", "rich", "starlette"}
sys.exit(str(sorted(heavy & sys.modules.keys())) if heavy & sys.modules.keys() else 0)
"""


def test_the_doctor_imports_nothing_it_only_reports_on() -> None:
    done = subprocess.run([sys.executable, "-c", LEAN], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
