"""The first start and the second, idle memory and CPU, installed size, stopping.

All of it on a fresh clone with an empty home and no cache, by the command a new user types. Where
start time goes comes from starts of their own: they print every import, which costs them some.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks import record
from benchmarks._server import cpu_s, first_answer, free_port, pss_mb, stop, tree

ROOT = Path(__file__).resolve().parent.parent

FIRST_S = 60.0
SECOND_S = 1.5
IDLE_MB = 120.0
IDLE_PERCENT = 0.5
INSTALLED_MB = 250.0
SETTLE_S = 10.0

IMPORT = re.compile(r"import time:\s+(\d+) \|\s+\d+ \| +(\w+)")
IMPORTS_SHOWN = 8


class Tree:
    """A checkout that nobody has started yet, and the empty home of who will."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "paceline"
        self.log = folder / "log"
        self.venv = self.path / ".venv"
        home = folder / "home"
        home.mkdir()
        # Nothing of this user's but how to reach packages, which is the machine's business.
        pip_config = Path(os.environ.get("PIP_CONFIG_FILE", "~/.config/pip/pip.conf")).expanduser()
        ours = ("HOME", "XDG_", "PYTHON", "PACELINE_", "VIRTUAL_ENV", "PIP_CACHE")
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
            "HOME": str(home),
            "PIP_NO_CACHE_DIR": "1",
            "PIP_CONFIG_FILE": str(pip_config),
        }

    @contextmanager
    def up(self, port: int, *options: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
        with self.log.open("ab") as log:
            server = subprocess.Popen(
                ["./paceline", "up", "--port", str(port), *options],
                cwd=self.path,
                env=self.environ | more,
                stdout=log,
                stderr=subprocess.PIPE if more else log,
            )
        try:
            yield server
        finally:
            server.kill()
            server.wait()


@contextmanager
def fresh_tree() -> Iterator[Tree]:
    with tempfile.TemporaryDirectory(prefix="paceline-start-") as name:
        made = Tree(Path(name))
        if changed_files():
            for file in git("ls-files", "-co", "--exclude-standard").splitlines():
                if (ROOT / file).exists():
                    (made.path / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / file, made.path / file)
        else:
            git("clone", "--quiet", str(ROOT), str(made.path))
        yield made


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def changed_files() -> int:
    return len(git("status", "--porcelain").splitlines())


def what_is_measured() -> str:
    head = git("rev-parse", "--short", "HEAD")
    changed = changed_files()
    return f"a copy of {head} with {changed} files changed" if changed else f"a clone of {head}"


def received_mb() -> float:
    """By this machine's network, loopback left out, since it is up."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    fields = [line.replace(":", " ").split() for line in lines]
    return sum(int(each[1]) for each in fields if each[0] != "lo") / 1e6


def size_mb(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 1e6


class Idle(NamedTuple):
    owner_mb: float
    fronts_mb: float
    percent: float
    """Of one core."""


def idle(server: subprocess.Popen[bytes], watched_s: float) -> Idle:
    time.sleep(SETTLE_S)
    pids = tree(server.pid)
    owner, *fronts = map(pss_mb, pids)
    before, began_s = cpu_s(pids), time.perf_counter()
    time.sleep(watched_s)
    used_s, passed_s = cpu_s(pids) - before, time.perf_counter() - began_s
    if tree(server.pid) != pids:
        raise SystemExit("a process came or went while the server was idle")
    return Idle(owner, sum(fronts), 100 * used_s / passed_s)


class Trace(NamedTuple):
    """One start with its imports printed: how long each stage took, and each package in each
    process, in ms."""

    stages: Mapping[str, float]
    imports: Mapping[str, Mapping[str, float]]


def trace(fresh: Tree) -> Trace:
    """Every interpreter begins its list with a heading, so the second one is the front's."""
    port = free_port()
    lines: list[tuple[float, str]] = []
    begun_s = time.perf_counter()
    with fresh.up(port, "--fronts", "1", PYTHONPROFILEIMPORTTIME="1") as server:
        assert server.stderr is not None
        reader = threading.Thread(
            target=lambda said: lines.extend((time.perf_counter(), line.decode()) for line in said),
            args=(server.stderr,),
        )
        reader.start()
        opened_s, answered_s = first_answer(server, port)
        stop(server)
        reader.join()
    python_s, front_s = [at for at, line in lines if "imported package" in line]
    until = {"owner": (python_s, opened_s), "front": (front_s, answered_s)}
    imports: dict[str, dict[str, float]] = {role: defaultdict(float) for role in until}
    loaded_s = front_s
    for at, line in lines:
        found = IMPORT.match(line)
        for role, (first_s, last_s) in until.items():
            if found and first_s <= at <= last_s:
                imports[role][found[2]] += int(found[1]) / 1e3
                loaded_s = at
    moments = {
        "shell, to the first line of Python": python_s,
        "owner imports, opens the port": opened_s,
        "owner spawns the front, to its first line": front_s,
        "front imports": loaded_s,
        "front loads the model, is ready, answers": answered_s,
    }
    stages: dict[str, float] = {}
    last_s = begun_s
    for stage, at in moments.items():
        stages[stage], last_s = 1e3 * (at - last_s), at
    return Trace(stages, imports)


def of_traces(traces: list[Trace]) -> list[record.Figure]:
    figures = [
        record.figure(f"traced: {stage}", "ms", [each.stages[stage] for each in traces])
        for stage in traces[0].stages
    ]
    for role in traces[0].imports:
        costs: dict[str, list[float]] = {
            package: [each.imports[role][package] for each in traces]
            for package in traces[0].imports[role]
        }
        costly = sorted(costs, key=lambda package: -statistics.median(costs[package]))
        figures += [
            record.figure(f"traced: import of {package} in the {role}", "ms", costs[package])
            for package in costly[:IMPORTS_SHOWN]
        ]
    return figures


def verdict(line: str, found: record.Figure, most: float) -> record.Verdict:
    """Every single run must keep the limit, not only the median."""
    said = f"{found.median:.3g} {found.unit}, at most {found.high:.3g}"
    return record.Verdict(line, said, found.high <= most)


def main() -> None:
    options = argparse.ArgumentParser(prog="./bench start", description=__doc__)
    options.add_argument("--first", type=int, default=3, metavar="N", help="first starts")
    options.add_argument("--second", type=int, default=9, metavar="N", help="second starts")
    options.add_argument("--traced", type=int, default=5, metavar="N", help="starts with imports")
    options.add_argument("--idle", type=int, default=3, metavar="N", help="idle servers watched")
    options.add_argument("--idle-s", type=float, default=60.0, help="seconds each is watched")
    asked = options.parse_args()

    measured = what_is_measured()
    first_s: list[float] = []
    fetched_mb: list[float] = []
    for left in reversed(range(asked.first)):
        with fresh_tree() as fresh:
            port, begun_s, before_mb = free_port(), time.perf_counter(), received_mb()
            with fresh.up(port) as server:
                first_s.append(first_answer(server, port, pause_s=0.02)[1] - begun_s)
                fetched_mb.append(received_mb() - before_mb)
                stop(server)
            if not left:
                figures, verdicts = of_the_installed(fresh, asked)
    first = record.figure("first start, to a right answer", "s", first_s)
    fetched = record.figure("received by this machine meanwhile", "MB", fetched_mb)
    record.write(
        "start",
        workload={
            "tree": measured,
            "home": "empty, pip without its cache",
            "page cache": "warm",
            "command": "./paceline up --port N",
            "idle": f"after {SETTLE_S:.0f} s, watched for {asked.idle_s:.0f} s, no connection",
        },
        figures=[first, fetched, *figures],
        verdicts=[
            verdict("first start with installation: at most 60 s", first, FIRST_S),
            *verdicts,
        ],
        packages=["numpy", "onnxruntime", "h11", "starlette", "uvloop", "typer"],
    )


def of_the_installed(
    fresh: Tree, asked: argparse.Namespace
) -> tuple[list[record.Figure], list[record.Verdict]]:
    installed = record.figure("installed environment", "MB", [size_mb(fresh.venv)])
    opened: list[float] = []
    answered: list[float] = []
    stopped: list[float] = []
    for _ in range(asked.second):
        port, begun_s = free_port(), time.perf_counter()
        with fresh.up(port) as server:
            opened_s, answered_s = first_answer(server, port)
            opened.append(opened_s - begun_s)
            answered.append(answered_s - begun_s)
            stopped.append(stop(server))
    traces = [trace(fresh) for _ in range(asked.traced)]
    idles: list[Idle] = []
    for _ in range(asked.idle):
        port = free_port()
        with fresh.up(port) as server:
            first_answer(server, port)
            idles.append(idle(server, asked.idle_s))
            stop(server)
    second = record.figure("second start, to a right answer", "s", answered)
    memory = record.figure(
        "idle memory, PSS of all processes",
        "MB",
        [each.owner_mb + each.fronts_mb for each in idles],
    )
    cpu = record.figure("idle CPU", "% of a core", [each.percent for each in idles])
    figures = [
        second,
        record.figure("second start, to the open port", "s", opened),
        record.figure("stop with nothing in hand", "s", stopped),
        memory,
        record.figure("idle memory, PSS of the owner", "MB", [each.owner_mb for each in idles]),
        record.figure("idle memory, PSS of the fronts", "MB", [each.fronts_mb for each in idles]),
        cpu,
        installed,
        *of_traces(traces),
    ]
    return figures, [
        verdict("second start: at most 1.5 s", second, SECOND_S),
        verdict("idle memory of all processes: at most 120 MB", memory, IDLE_MB),
        verdict("idle CPU: at most 0.5 % of a core", cpu, IDLE_PERCENT),
        verdict("installed: at most 250 MB", installed, INSTALLED_MB),
    ]


if __name__ == "__main__":
    main()
