"""How a benchmark writes down what it found; by itself, shows what was found last.

A result is one JSON file, benchmarks/results/NAME.json: the machine, the versions, the workload,
the figures with their spread, and for each acceptance line what was found and whether it holds. It
judges nothing itself: a benchmark says what a line needs. Called by every module beside it.
"""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

RESULTS = Path(__file__).parent / "results"

MARKS = {True: "holds", False: "FAILS", None: "cannot tell"}


class Figure(msgspec.Struct, frozen=True):
    """A number that was measured several times, or once and then without a spread."""

    name: str
    unit: str
    median: float
    low: float
    high: float
    runs: int


class Verdict(msgspec.Struct, frozen=True):
    """An acceptance line; `holds` is None when the measurement cannot tell."""

    line: str
    found: str
    holds: bool | None


class Machine(msgspec.Struct, frozen=True):
    cpu: str
    cores: int
    memory_gb: float
    kernel: str


class Result(msgspec.Struct, frozen=True):
    name: str
    date: str
    machine: Machine
    versions: Mapping[str, str]
    workload: Mapping[str, str | int | float]
    figures: Sequence[Figure]
    verdicts: Sequence[Verdict]


def figure(name: str, unit: str, samples: Sequence[float]) -> Figure:
    return Figure(
        name, unit, statistics.median(samples), min(samples), max(samples), runs=len(samples)
    )


def write(
    name: str,
    *,
    workload: Mapping[str, str | int | float],
    figures: Sequence[Figure],
    verdicts: Sequence[Verdict],
    packages: Sequence[str] = (),
    folder: Path = RESULTS,
) -> Result:
    """Write the result, show it, and return it. `packages` are those whose version matters."""
    result = Result(
        name=name,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=this_machine(),
        versions=_versions(packages),
        workload=workload,
        figures=figures,
        verdicts=verdicts,
    )
    folder.mkdir(exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(result), indent=2).decode()
    (folder / f"{name}.json").write_text(text + "\n")
    print(shown(result))
    return result


def shown(result: Result) -> str:
    machine = result.machine
    lines = [
        f"{result.name}, {result.date}: {machine.cpu}, {machine.cores} cores, "
        f"{machine.memory_gb} GB, Linux {machine.kernel}, "
        + ", ".join(f"{name} {number}" for name, number in result.versions.items()),
        "; ".join(f"{name}: {value}" for name, value in result.workload.items()),
    ]
    width = max((len(each.name) for each in result.figures), default=0)
    for each in result.figures:
        low, median, high = (_rounded(value) for value in (each.low, each.median, each.high))
        spread = f"  ({low} to {high} in {each.runs})" if each.runs > 1 else ""
        lines.append(f"  {each.name:{width}}  {median:>8} {each.unit}{spread}")
    lines += [f"  {MARKS[each.holds]}: {each.line}: {each.found}" for each in result.verdicts]
    return "\n".join(lines)


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def this_machine() -> Machine:
    """As the kernel has it; the cores are those this process may use."""
    return Machine(
        cpu=_field("/proc/cpuinfo", "model name") or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(int(_field("/proc/meminfo", "MemTotal").split()[0]) / 2**20, 1),
        kernel=platform.release(),
    )


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _versions(packages: Sequence[str]) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def main() -> None:
    for path in sorted(RESULTS.glob("*.json")):
        print(shown(msgspec.json.decode(path.read_bytes(), type=Result)), end="\n\n")


if __name__ == "__main__":
    main()
