"""What recording costs by request: CPU time of a server that records, and of one that does not.

Both are of the same commit and answer the same requests, in turns of a fraction of a second, so
that whatever else the machine does falls on both. The one that does not record has methods that do
nothing in the place of its own (`NOTHING`): the counters, gauges and sketches of boards, what the
front counts of requests, batches and LLM calls, and the owner's look each second with its alerts.
The server is not changed for it: what stands first in its path replaces the methods when their
module is loaded. A third server is the first once more, for what two that are the same differ by
(A/A); a fourth writes the access log as well, which is off by default.

It is CPU time by the kernel's accounts, of the processes that answer; the owner's is told by
second. What is left of recording where nothing records: calls of what does nothing, and readings of
the clock that others need too.
"""

import argparse
import json
import random
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks import record, serving_models
from benchmarks._served import sections
from benchmarks._server import HEALTH_READY, ask, connect, cpu_s, request, served, tree
from benchmarks.peers.started import end_on_sigterm
from paceline.serve.model import Tensors

AS_IS, AGAIN, OFF, LOGGED = ARMS = ("on", "on, again", "off", "on, with the access log")

NOTHING: Mapping[str, Sequence[str]] = {
    "paceline.observe.board": (
        "Counter.add",
        "Gauge.set",
        "Board.counter",
        "Board.gauge",
        "Board.sketch",
    ),
    "paceline.serve.tally": ("Tally.began", "Tally.ran", "Tally.not_run", "Tally.look"),
    "paceline.gateway.tally": ("Tally.ended", "Tally.lost", "Tally.refused", "Tally.cost"),
    "paceline.web.way": ("Place.count",),
    "paceline.web.door": ("Door.count",),
    "paceline.watch.watcher": ("Watcher.start",),
}
"""By module what does nothing in a server that does not record. What boards give does nothing."""

REPLACED = '''"""Replaces what records by what does nothing; by ./bench recording."""

import sys
from importlib.machinery import PathFinder

NOTHING = {nothing}


class Idle:
    def __init__(self):
        self.cell = [0.0]

    def add(self, amount=1.0):
        pass

    def set(self, value):
        pass

    def record(self, value, count=1):
        pass

    def record_all(self, values):
        pass


IDLE = Idle()


def idle(self, *given, **named):
    return IDLE


def nothing(self, *given, **named):
    return None


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name not in NOTHING:
            return None
        spec = PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            for each in NOTHING[name]:
                owner, method = each.split(".")
                made = getattr(module, owner)
                getattr(made, method)  # it is there to be replaced
                setattr(made, method, idle if owner == "Board" else nothing)
            print("{said}", name, file=sys.stderr)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
'''
SAID = "replaced by ./bench recording:"

START_S = 120.0
PAUSE_S = 0.1

LLM = "llm"
CHAT = {
    "model": "sim-small:latency_ms=0:tokens=8",
    "messages": [{"role": "user", "content": "Say something."}],
}
LOGGED_EVERY = 5
"""rounds; it is told, and judged by nothing"""

WARM = 0.5
"""Of the requests of a burst, before the first."""


class Workload(NamedTuple):
    """`at_once` connections ask together, `waves` times in a burst. `most` is what recording may
    take of the CPU time of one that does not record; None: only told."""

    name: str
    at_once: int
    waves: int
    most: float | None


WORKLOADS = (
    Workload("classifier", 16, 60, 0.05),
    Workload("encoder", 4, 4, 0.01),
    Workload(LLM, 16, 20, None),
)


def replacement() -> str:
    """The text of a `sitecustomize`, which Python runs first."""
    return REPLACED.replace("{nothing}", repr(dict(NOTHING))).replace("{said}", SAID)


def body_of(batch: Tensors) -> object:
    return {
        "inputs": [
            {
                "name": name,
                "shape": list(values.shape),
                "datatype": "INT64" if values.dtype.kind == "i" else "FP32",
                "data": [round(each, serving_models.DECIMALS) for each in values.ravel().tolist()],
            }
            for name, values in batch.items()
        ]
    }


def asked(workload: Workload) -> bytes:
    if workload.name == LLM:
        return request("POST", "/v1/chat/completions", CHAT)
    body = body_of(serving_models.inputs(workload.name, 1))
    return request("POST", f"/v2/models/{workload.name}/infer", body)


class Server:
    """One arm, running."""

    def __init__(self, arm: str, pid: int, port: int) -> None:
        self.arm = arm
        self._pid = pid
        self._port = port
        self._begun = time.perf_counter(), cpu_s([pid])

    def burst(self, workload: Workload, sent: bytes, share: float = 1.0) -> float:
        """CPU time of those who answer, in µs by request."""
        waves = max(1, int(workload.waves * share))
        with ExitStack() as stack:
            # Idle ones are closed between two bursts.
            connections = [
                stack.enter_context(connect(self._port)) for _ in range(workload.at_once)
            ]
            _wave(connections, sent)
            before_s = cpu_s(tree(self._pid)[1:])
            for _ in range(waves):
                _wave(connections, sent)
            used_s = cpu_s(tree(self._pid)[1:]) - before_s
        return 1e6 * used_s / (waves * workload.at_once)

    def owner_ms_s(self) -> float:
        begun_s, used_s = self._begun
        return 1e3 * (cpu_s([self._pid]) - used_s) / (time.perf_counter() - begun_s)


def _wave(connections: Sequence[socket.socket], sent: bytes) -> None:
    for connection in connections:
        connection.sendall(sent)
    for connection in connections:
        _answered(connection)


def _answered(connection: socket.socket) -> None:
    """Reads one answer, which must be a good one, whole."""
    told = b""
    while b"\r\n\r\n" not in told:
        told += _heard(connection)
    head, _, body = told.partition(b"\r\n\r\n")
    if head.split(b" ", 2)[1] != b"200":
        raise SystemExit(f"an answer that is none: {told[:300]!r}")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    left = length - len(body)
    while left > 0:
        left -= len(_heard(connection))


def _heard(connection: socket.socket) -> bytes:
    heard = connection.recv(65536)
    if not heard:
        raise SystemExit("a connection ended within an answer")
    return heard


def _loaded(server: subprocess.Popen[bytes], port: int) -> None:
    """Its models may take longer than a caller is kept waiting."""
    until_s = time.perf_counter() + START_S
    while not _is_ready(port):
        if server.poll() is not None or time.perf_counter() > until_s:
            raise SystemExit("it does not start")
        time.sleep(PAUSE_S)


def _is_ready(port: int) -> bool:
    try:
        with connect(port) as connection:
            return ask(connection, HEALTH_READY)[0] == 200
    except OSError:
        return False


@contextmanager
def all_arms(folder: Path) -> Iterator[Sequence[Server]]:
    """Each in a process tree of its own, with the same models."""
    quiet = folder / "quiet"
    quiet.mkdir(parents=True)
    (quiet / "sitecustomize.py").write_text(replacement())
    models = [each.name for each in WORKLOADS if each.name != LLM]
    settings = "[models.digits]\n" + "".join(
        sections([name], serving_models.file(name, folder.parent)) for name in models
    )
    with ExitStack() as stack:
        running = []
        for number, arm in enumerate(ARMS):
            place = folder / str(number)
            place.mkdir()
            file = place / "paceline.toml"
            file.write_text(settings)
            options = ["--config", str(file), "--fronts", "1"]
            options += ["--access-log"] if arm == LOGGED else []
            environ = {"PYTHONPATH": str(quiet)} if arm == OFF else {}
            process, port = stack.enter_context(
                served(place, *options, environ=environ, until=_loaded)
            )
            log = (place / "log").read_text()
            if {each for each in NOTHING if f"{SAID} {each}" in log} != (
                set(NOTHING) if arm == OFF else set()
            ):
                raise SystemExit(
                    f"{arm}: its processes did not load what they should: {log[-900:]}"
                )
            running.append(Server(arm, process.pid, port))
        yield running


class Session(NamedTuple):
    """Of each workload and arm the µs by request of each round; of each arm the owner's ms/s."""

    front_us: Mapping[str, Mapping[str, Sequence[float]]]
    owner_ms_s: Mapping[str, float]


def session(folder: Path, rounds: int, die: random.Random) -> Session:
    found: dict[str, dict[str, list[float]]] = {
        each.name: {arm: [] for arm in ARMS} for each in WORKLOADS
    }
    sent = {each.name: asked(each) for each in WORKLOADS}
    with all_arms(folder) as servers:
        for workload in WORKLOADS:
            for server in servers:
                server.burst(workload, sent[workload.name], WARM)
        for number in range(rounds):
            arms = [each for each in servers if each.arm != LOGGED or number % LOGGED_EVERY == 0]
            for workload in WORKLOADS:
                for server in die.sample(arms, len(arms)):
                    used = server.burst(workload, sent[workload.name])
                    found[workload.name][server.arm].append(used)
        owners = {server.arm: server.owner_ms_s() for server in servers}
    return Session(found, owners)


# --- What it comes to -----------------------------------------------------------------------------


class Share(NamedTuple):
    """Of the CPU time of one that does not record, as the best rounds of each have it, for others
    on the machine only ever add. `noise` is the most that two that are the same differ by, of any
    session; `paired` is the median over rounds, of all of them."""

    cost: float
    noise: float
    paired: float

    def holds(self, most: float) -> bool | None:
        """None where the noise cannot tell."""
        if self.cost + self.noise <= most:
            return True
        return False if self.cost - self.noise > most else None

    def __str__(self) -> str:
        return f"{self.cost:+.1%}, A/A up to {self.noise:.1%}; median of pairs {self.paired:+.1%}"


def best(rounds: Sequence[float]) -> float:
    """The mean of the lowest fifth."""
    return statistics.fmean(sorted(rounds)[: max(1, len(rounds) // 5)])


def share_of(sessions: Sequence[Mapping[str, Sequence[float]]]) -> Share:
    """By arm, the µs of each round."""
    costs, noises, pairs = [], [], []
    for each in sessions:
        on, again, off = (each[arm] for arm in (AS_IS, AGAIN, OFF))
        costs.append((best(on) + best(again)) / 2 / best(off) - 1)
        noises.append(abs(best(again) / best(on) - 1))
        pairs += [(a + b) / 2 / c - 1 for a, b, c in zip(on, again, off, strict=True)]
    return Share(statistics.median(costs), max(noises), statistics.median(pairs))


def inferred(classifier: Share, classifier_us: float, encoder_us: float) -> Share:
    """What recording takes of an encoder, if by request it takes as much as of the classifier: it
    does the same for both, and less by request where batches are larger."""
    ratio = classifier_us / encoder_us
    return Share(*(each * ratio for each in classifier))


def main() -> None:
    options = argparse.ArgumentParser(
        prog="./bench recording",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--sessions", type=int, default=2, help="each with servers of its own")
    options.add_argument("--rounds", type=int, default=40, help="of each session")
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    end_on_sigterm()
    die = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="pl-recording-") as name:
        sessions = [
            session(Path(name) / str(number), given.rounds, die) for number in range(given.sessions)
        ]
    shares = {
        each.name: share_of([one.front_us[each.name] for one in sessions]) for each in WORKLOADS
    }
    verdicts = []
    for each in WORKLOADS:
        share, what = shares[each.name], f"of the CPU time of {each.name} requests"
        if each.most is None:
            verdicts.append(record.Verdict(f"what recording takes {what}", str(share), None))
            continue
        line = f"recording takes at most {each.most:.0%} {what}"
        verdicts.append(record.Verdict(line, str(share), share.holds(each.most)))
        if each.name != WORKLOADS[0].name:
            first_us, own_us = (
                best([us for one in sessions for us in one.front_us[name][OFF]])
                for name in (WORKLOADS[0].name, each.name)
            )
            by_first = inferred(shares[WORKLOADS[0].name], first_us, own_us)
            line += f", if by request it takes the same µs as of the {WORKLOADS[0].name}"
            verdicts.append(record.Verdict(line, str(by_first), by_first.holds(each.most)))
    record.write(
        "recording",
        workload={
            "sessions": given.sessions,
            "rounds": given.rounds,
            "seed": given.seed,
            **{
                f"{each.name}: at once, waves": f"{each.at_once}, {each.waves}"
                for each in WORKLOADS
            },
            "chat": json.dumps(CHAT["model"]),
        },
        figures=[
            *(
                record.figure(
                    f"{workload.name}, {arm}: front",
                    "µs/request",
                    [used for one in sessions for used in one.front_us[workload.name][arm]],
                )
                for workload in WORKLOADS
                for arm in ARMS
            ),
            *(
                record.figure(f"{arm}: owner", "ms/s", [one.owner_ms_s[arm] for one in sessions])
                for arm in ARMS
            ),
        ],
        verdicts=verdicts,
        packages=("numpy", "onnxruntime", "uvloop"),
    )


if __name__ == "__main__":
    main()
