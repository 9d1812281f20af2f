"""What callers and probes see while fronts and the owner are killed under load.

One server with one front and one with two, killed again and again while callers in a process of
their own keep asking; readiness is probed every 10 ms through start, crashes and drain; every right
answer that anybody saw is held against the server's own counters.
"""

import argparse
import http.client
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks import record
from benchmarks._load import Failure, Seen
from benchmarks._server import (
    ANSWER_S,
    CUT,
    HEALTH_READY,
    REFUSED,
    RIGHT,
    SILENT,
    ask,
    children,
    connect,
    free_port,
    predict_afresh,
    served,
    stop,
    wait_until_gone,
)
from paceline.terms.limits import RESTART_STEADY_S

ROOT = Path(__file__).resolve().parent.parent

BACK_S = 1.0
FRONTS_GONE_S = 5.0
NOT_READY_S = 0.1
PROBE_S = 0.01
WATCH_S = 0.05
KEPT, FRESH = 6, 2
SPREAD_S = 1.0
"""In which kept connections spread over all fronts again: see `_load`."""
DRAIN_S = 2
READY = "ready"
NOT_READY = "not ready"
UNFINISHED = (
    b"POST /predict/digits HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b"content-length: 100\r\nexpect: 100-continue\r\n\r\n"
)


class Load:
    """The callers of `_load`, running from the start on."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, "-m", "benchmarks._load", *map(str, (port, KEPT, FRESH))]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def stop(self) -> Seen:
        return msgspec.json.decode(self._process.communicate()[0], type=Seen)


class Watch(threading.Thread):
    """Reads /metrics all the time, and notices whenever a counter falls."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.looks = 0
        self.falls: list[str] = []
        self.restarts = 0.0
        self.ready = 0.0
        self.answered: dict[str, float] = {}
        """Inference requests by status, as the server counts them."""
        self._port = port
        self._seen: dict[str, float] = {}
        self._stop_asked = threading.Event()

    def run(self) -> None:
        while not self._stop_asked.wait(WATCH_S):
            self.look()

    def stop(self) -> None:
        """Looks once more, so that what was answered until now is counted."""
        self._stop_asked.set()
        self.join()
        self.look()

    def look(self) -> None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S)
            with closing(connection):
                connection.request("GET", "/metrics")
                text = connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            return  # the front that was to relay it has just been killed
        lines = (line.rpartition(" ") for line in text.splitlines() if line[0] != "#")
        now = {series: float(value) for series, _, value in lines}
        self.looks += 1
        for series, before in self._seen.items():
            counter = series.partition("{")[0].endswith(("_total", "_count"))
            if counter and now.get(series, 0.0) < before:
                self.falls.append(f"{series}: {before:.0f}, then {now.get(series, 0.0):.0f}")
        self._seen |= now
        self.restarts = now["paceline_front_restarts_total"]
        self.ready = now["paceline_ready_fronts"]
        self.answered = {
            found[1]: value
            for series, value in now.items()
            if (found := re.match(r'paceline_requests_total{.*status="(\d+)"', series))
        }


class Probed(NamedTuple):
    sent_s: float
    answered_s: float
    state: str
    """READY, NOT_READY, or how there was no answer."""
    check: "Future[tuple[str, float]] | None"
    """After READY: what became of a request sent then, and when."""


class Probe(threading.Thread):
    """Asks for readiness every 10 ms, and takes it at its word."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.probes: list[Probed] = []
        self._port = port
        self._checks = ThreadPoolExecutor(8)
        self._stop_asked = threading.Event()

    def run(self) -> None:
        while not self._stop_asked.wait(PROBE_S):
            sent_s = time.perf_counter()
            state = self._ask()
            answered_s = time.perf_counter()
            check = self._checks.submit(self._predict) if state == READY else None
            self.probes.append(Probed(sent_s, answered_s, state, check))

    def stop(self) -> list[Probed]:
        self._stop_asked.set()
        self.join()
        self._checks.shutdown()
        return self.probes

    def _ask(self) -> str:
        try:
            with connect(self._port) as connection:
                status, _ = ask(connection, HEALTH_READY)
        except ConnectionRefusedError:
            return REFUSED
        except TimeoutError:
            return SILENT
        except OSError:
            return CUT
        return {200: READY, 503: NOT_READY}[status]

    def _predict(self) -> tuple[str, float]:
        return predict_afresh(self._port), time.perf_counter()


def first_not_ready(probes: Sequence[Probed], blow_s: float) -> float:
    """When somebody was first told so after the blow, or found the port closed."""
    return next(
        each.answered_s
        for each in probes
        if each.answered_s > blow_s and each.state in (NOT_READY, REFUSED)
    )


def lies_in(probes: Sequence[Probed], blows_s: Sequence[float]) -> list[str]:
    """READY said, and a request sent at once not answered rightly, although no blow fell between
    the two; or READY said too late after one."""
    lies = []
    shadows = [(at_s, first_not_ready(probes, at_s)) for at_s in blows_s]
    for each in probes:
        if each.check is None:
            continue
        how, ended_s = each.check.result()
        struck = any(each.sent_s <= at_s <= ended_s for at_s in blows_s)
        if how != RIGHT and not struck:
            lies.append(f"ready, and the next request was {how}")
        if any(at_s + NOT_READY_S < each.answered_s < told_s for at_s, told_s in shadows):
            lies.append("ready, and nobody was there")
    return lies


def predicted(probes: Sequence[Probed]) -> Counter[str]:
    return Counter(each.check.result()[0] for each in probes if each.check)


class Killed(NamedTuple):
    at_s: float
    back_s: float
    """Until the next right answer on a fresh connection."""
    whole_s: float
    """Until every front was ready again."""
    spared: frozenset[int]
    """The callers' ends of the connections that other fronts held."""
    tries: Counter[str]


class Story(NamedTuple):
    """What was seen of one server until its fronts had been killed often enough."""

    fronts: int
    seconds: float
    kills: list[Killed]
    seen: Seen
    probes: list[Probed]
    drain: list[Probed]
    drained_s: float
    watch: Watch

    @property
    def others(self) -> Counter[str]:
        """Predictions that the load did not make."""
        mine = sum((kill.tries for kill in self.kills), Counter({RIGHT: 1}))
        return mine + predicted(self.probes)

    @property
    def failures(self) -> Counter[str]:
        how = self.others + Counter(failure.how for failure in self.seen.failures)
        del how[RIGHT]
        return how

    @property
    def harmed(self) -> list[Failure]:
        """Failures on connections that the killed front did not hold."""
        return [
            failure
            for failure in self.seen.failures
            for kill in self.kills
            if failure.port in kill.spared and kill.at_s <= failure.at_s <= kill.at_s + kill.whole_s
        ]

    @property
    def strays(self) -> list[Failure]:
        """Failures while nobody was being killed."""
        return [
            failure
            for failure in self.seen.failures
            if not any(k.at_s <= failure.at_s <= k.at_s + k.whole_s for k in self.kills)
        ]


def tell(fronts: int, count: int, folder: Path) -> Story:
    """Starts a server, kills its fronts under load, drains it; probed all the time."""
    port = free_port()
    probe = Probe(port)
    probe.start()
    options = ("--fronts", str(fronts), "--drain-s", str(DRAIN_S))
    with served(folder, *options, port=port) as (server, _):
        load, watch, begun_s = Load(port), Watch(port), time.perf_counter()
        watch.start()
        kills = [kill_oldest(server.pid, port, watch) for _ in range(count)]
        seen, seconds = load.stop(), time.perf_counter() - begun_s
        probes = probe.stop()
        watch.stop()
        drain, drained_s = drain_probed(server, port)
    return Story(fronts, seconds, kills, seen, probes, drain, drained_s, watch)


def kill_oldest(owner: int, port: int, watch: Watch) -> Killed:
    """Kills the front that has lived longest, once it has lived long enough to restart at once."""
    victim, *others = children(owner)
    time.sleep(max(SPREAD_S, RESTART_STEADY_S + 0.2 - age_s(victim)))
    spared = frozenset(end for pid in others for end in callers_of(pid, port))
    restarts = watch.restarts
    tries: Counter[str] = Counter()
    at_s = time.perf_counter()
    os.kill(victim, signal.SIGKILL)
    while not tries[RIGHT]:
        tries[predict_afresh(port)] += 1
    back_s = time.perf_counter() - at_s
    while watch.restarts == restarts or watch.ready < len(others) + 1:
        time.sleep(WATCH_S / 10)
        if time.perf_counter() > at_s + ANSWER_S:
            raise SystemExit(f"no new front {ANSWER_S:.0f} s after one was killed")
    return Killed(at_s, back_s, time.perf_counter() - at_s, spared, tries)


def drain_probed(server: subprocess.Popen[bytes], port: int) -> tuple[list[Probed], float]:
    """A drain that lasts, since one request never ends; and the moment it was asked for."""
    probe = Probe(port)
    probe.start()
    with unfinished_request(port):
        time.sleep(10 * PROBE_S)
        asked_s = time.perf_counter()
        stop(server)
    return probe.stop(), asked_s


@contextmanager
def unfinished_request(port: int) -> Iterator[None]:
    """In hand, with a body that never comes."""
    with connect(port) as connection:
        connection.sendall(UNFINISHED)
        if not connection.recv(100).startswith(b"HTTP/1.1 100"):
            raise SystemExit("the server did not ask for the body")
        yield


def age_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_s


def callers_of(pid: int, port: int) -> set[int]:
    """The other ends' ports of the connections to `port` that a process holds."""
    held = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            held.add(os.readlink(fd))
    callers = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _, ours, theirs, *rest = line.split()
        if int(ours.partition(":")[2], 16) == port and f"socket:[{rest[6]}]" in held:
            callers.add(int(theirs.partition(":")[2], 16))
    return callers


class OwnerKilled(NamedTuple):
    gone_s: float
    """Until the last front had ended."""
    next_s: float
    """From the next start to its first right answer, same directory and port."""
    said: str
    """What the next server complained about."""


def kill_owner(folder: Path, in_hand: bool) -> OwnerKilled:
    with served(folder) as (server, port):
        fronts = [os.pidfd_open(pid) for pid in children(server.pid)]
        with unfinished_request(port) if in_hand else nullcontext():
            at_s = time.perf_counter()
            server.kill()
            wait_until_gone(fronts)
            gone_s = time.perf_counter() - at_s
    begun_s = time.perf_counter()
    with served(folder, "--log-level", "warning", port=port) as (successor, _):
        next_s = time.perf_counter() - begun_s
        stop(successor)
    return OwnerKilled(gone_s, next_s, (folder / "log").read_text())


def of_story(story: Story) -> tuple[list[record.Figure], list[record.Verdict]]:
    kills, failures, watch = story.kills, story.failures, story.watch
    name = f"{story.fronts} front{'s' * (story.fronts > 1)}"
    back = record.figure(f"{name}: killed, next right answer", "s", [k.back_s for k in kills])
    whole = record.figure(f"{name}: killed, all are ready", "s", [k.whole_s for k in kills])
    blows_s = [kill.at_s for kill in kills] if story.fronts == 1 else []
    lies = lies_in(story.probes, blows_s) + lies_in(story.drain, [story.drained_s])
    late_s = [first_not_ready(story.probes, at_s) - at_s for at_s in blows_s]
    late_s.append(first_not_ready(story.drain, story.drained_s) - story.drained_s)
    late = record.figure(f"{name}: gone or draining, first 503", "ms", [1e3 * s for s in late_s])
    right = story.seen.right + story.others[RIGHT]
    counted = watch.answered.get("200", 0.0)
    figures = [
        back,
        whole,
        late,
        record.figure(f"{name}: right answers", "per s", [story.seen.right / story.seconds]),
        *(
            record.figure(f"{name}: requests {how}", "in all", [failures[how]])
            for how in sorted({REFUSED, CUT, SILENT} | set(failures))
        ),
    ]
    verdicts = [
        record.Verdict(
            f"{name} under kill -9: back within 1 s",
            f"next right answer at most {back.high:.2f} s later, all ready {whole.high:.2f} s",
            back.high <= BACK_S and whole.high <= BACK_S,
        ),
        record.Verdict(
            f"{name}: nobody refused, and cut only what the killed front held",
            f"{failures[REFUSED]} refused, {failures[CUT]} cut in {len(kills)} kills, "
            f"{len(story.strays)} failures at other times",
            set(failures) <= {CUT} and not story.strays,
        ),
        record.Verdict(
            f"{name}: counters never fall and equal what callers saw",
            f"{len(watch.falls)} falls in {watch.looks} looks; {counted:.0f} counted, "
            f"{right} right answers seen, {failures[CUT]} cut",
            not watch.falls and right <= counted <= right + failures[CUT],
        ),
        record.Verdict(
            f"{name}: readiness never lies",
            f"{len(lies)} lies in {len(story.probes) + len(story.drain)} probes "
            f"through start, {len(kills)} crashes and drain",
            not lies,
        ),
        record.Verdict(
            f"{name}: 503 within 100 ms of a drain" + " or the only front's death" * bool(blows_s),
            f"at most {late.high:.0f} ms",
            late.high <= 1e3 * NOT_READY_S,
        ),
    ]
    if story.fronts > 1:
        spared = sum(len(kill.spared) for kill in kills)
        verdicts.append(
            record.Verdict(
                "requests on the other front are unharmed",
                f"{len(story.harmed)} failures on its {spared} connections in {len(kills)} kills",
                None if spared == 0 else not story.harmed,
            )
        )
    for line in [*watch.falls[:5], *lies[:5], *map(str, [*story.harmed, *story.strays][:5])]:
        print(f"  {name}: {line}")
    return figures, verdicts


def of_owner(killed: Sequence[OwnerKilled]) -> tuple[list[record.Figure], list[record.Verdict]]:
    gone = record.figure("owner killed, fronts are gone", "s", [each.gone_s for each in killed])
    after = record.figure("next start, to a right answer", "s", [each.next_s for each in killed])
    said = [each.said for each in killed if each.said]
    for each in said[:5]:
        print(f"  next start: {each}")
    return [gone, after], [
        record.Verdict(
            "kill -9 of the owner: fronts are gone within 5 s",
            f"at most {gone.high:.2f} s, half of them with a request in hand",
            gone.high <= FRONTS_GONE_S,
        ),
        record.Verdict(
            "kill -9 of the owner: the next start is clean",
            f"{len(killed) - len(said)} of {len(killed)} answered rightly without a complaint",
            not said,
        ),
    ]


def main() -> None:
    options = argparse.ArgumentParser(prog="./bench faults", description=__doc__)
    options.add_argument("--kills", type=int, default=20, metavar="N", help="of a front, each time")
    options.add_argument("--owner-kills", type=int, default=10, metavar="N")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="paceline-faults-") as name:
        folder = Path(name)
        found = [of_story(tell(fronts, asked.kills, folder)) for fronts in (1, 2)]
        found.append(of_owner([kill_owner(folder, n % 2 == 0) for n in range(asked.owner_kills)]))
    record.write(
        "faults",
        workload={
            "kills of a front": f"{asked.kills} with one front, {asked.kills} with two",
            "apart": f"{RESTART_STEADY_S:.0f} s, so that each restarts at once",
            "callers": f"{KEPT} keep their connection, {FRESH} open one per request",
            "probe": f"every {1e3 * PROBE_S:.0f} ms, a request after each yes",
            "kills of the owner": asked.owner_kills,
        },
        figures=[figure for figures, _ in found for figure in figures],
        verdicts=[verdict for _, verdicts in found for verdict in verdicts],
        packages=["onnxruntime", "h11", "uvloop"],
    )


if __name__ == "__main__":
    main()
