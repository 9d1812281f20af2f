"""Bad neighbours, live: one request in twenty is poison, and no good one may fail or be wrong.

16 callers keep their connections and ask with rows whose right answers onnxruntime told beforehand;
after every 19 each sends one bad request on a connection of its own, of each kind in turn. The
model is an ONNX graph that looks something up by a number it is sent, and fails where that is none:
whatever shares a batch with such a row shares its failure, unless somebody takes care. It is large
enough that batches form.

The kinds: `raises` (the model fails at that row), `shape` (63 numbers where 64 are wanted),
`ragged` (rows of different lengths), `null` (in the place of a number), `malformed` (no JSON),
`truncated` (less than its length, then the end), `oversized` (more than a body may have), `slow` (a
good request within a second, in pieces; it must be answered). Triton and LitServe get the same
where they are installed, for comparison; of them nothing is demanded.
"""

import argparse
import http.client
import json
import select
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks import record
from benchmarks._served import alone, expected, metrics, total
from benchmarks.models import _Graph
from benchmarks.peers.contender import Contender
from benchmarks.peers.environment import Unavailable, cache_folder, python_of
from benchmarks.peers.forms import ROW, Answer
from benchmarks.peers.litserve import LITSERVE
from benchmarks.peers.paceline import PACELINE
from benchmarks.peers.running import NEAR, Running, running
from benchmarks.peers.started import Asked, end_on_sigterm
from benchmarks.peers.triton import TRITON
from paceline.serve.model import Tensors
from paceline.terms.limits import INFER_BODY_BYTES

MODEL = "classifier"
"""The peers know its inputs by this name; what is behind it is the graph of this module."""

FEATURES, LABELS = 64, 10
ENTRIES = 16
NO_ENTRY = 9999.0
WIDTH = 1024

CALLERS = 16
GOOD_BETWEEN = 19
ROWS = 64
ANSWER_S = 15.0
SLOW_S = 1.0
PIECES = 20
CHUNK = 1 << 20

CUT = "cut"
SILENT = "silent"
EARLY = (400, 413, 422, 431)
"""Statuses by which a server may refuse what a caller got wrong."""


def graph(seed: int = 0) -> bytes:
    """Fails where the first of 64 numbers is no entry of its table."""
    made = _Graph(seed)
    first = made.add("Slice", "x", made.whole(0), made.whole(1), made.whole(1))
    index = made.add("Squeeze", made.add("Cast", first, to=TensorProto.INT64), made.whole(1))
    entry = made.add("Gather", made.weight(ENTRIES, FEATURES), index, axis=0)
    x = made.add("Add", "x", entry)
    for inside, outside in ((FEATURES, WIDTH), (WIDTH, WIDTH)):
        x = made.add("Relu", made.linear(x, inside, outside))
    made.add("Softmax", made.linear(x, WIDTH, LABELS), name="probabilities", axis=-1)

    def floats(name: str, size: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size])

    return made.model(MODEL, [floats("x", FEATURES)], [floats("probabilities", LABELS)])


def good_rows(seed: int = 0) -> list[Tensors]:
    die = np.random.default_rng(seed)
    values = die.standard_normal((ROWS, FEATURES)).round(4).astype(np.float32)
    values[:, 0] = np.arange(ROWS) % ENTRIES
    return alone({"x": values})


# --- Poison ---------------------------------------------------------------------------------------


class Poison(NamedTuple):
    body: bytes
    length: int = 0
    """that is announced, where it is another; the rest never comes"""

    pieces: int = 1
    """sent one after the other within SLOW_S"""

    filler: int = 0
    """bytes that follow the body"""


def as_v2(shape: Sequence[int], data: object) -> bytes:
    described = {"name": "x", "datatype": "FP32", "shape": shape, "data": data}
    return json.dumps({"inputs": [described]}).encode()


def poisons(row: Tensors, *, v2: bool) -> dict[str, Poison]:
    """By kind, made of a row that is good."""
    numbers: list[float | None] = [round(float(each), 4) for each in row["x"].reshape(-1)]

    def body(given: Sequence[float | None], rows: Sequence[object] | None = None) -> bytes:
        if v2:
            return as_v2([1 if rows is None else len(rows), len(given)], rows or given)
        return json.dumps({"x": rows or given}).encode()

    good = body(numbers)
    return {
        "raises": Poison(body([NO_ENTRY, *numbers[1:]])),
        "shape": Poison(body(numbers[1:])),
        "ragged": Poison(body(numbers, [numbers, numbers[1:]])),
        "null": Poison(body([None, *numbers[1:]])),
        "malformed": Poison(good[: len(good) // 2]),
        "truncated": Poison(good[: len(good) // 2], length=len(good)),
        "oversized": Poison(good, filler=INFER_BODY_BYTES),
        "slow": Poison(good, pieces=PIECES),
    }


WANTED: Mapping[str, Callable[[str], bool]] = {
    "raises": lambda how: how == "500" or how in map(str, EARLY),
    **{
        kind: lambda how: how in map(str, EARLY)
        for kind in ("shape", "ragged", "null", "malformed", "oversized")
    },
    "truncated": lambda how: how in (CUT, "400"),
    "slow": lambda how: how == "200",
}
"""What ours may answer; a caller who ends in the middle need not hear anything."""


def send(port: int, asked: Asked, poison: Poison) -> str:
    """The status, or what came instead of one."""
    length = poison.length or len(poison.body) + poison.filler
    headers = {**asked.headers, "host": "localhost", "content-length": str(length)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {asked.path} HTTP/1.1\r\n{lines}\r\n".encode()
    try:
        with socket.create_connection(("127.0.0.1", port), ANSWER_S) as connection:
            connection.sendall(head)
            for piece in in_pieces(poison.body, poison.pieces):
                connection.sendall(piece)
                if poison.pieces > 1:
                    time.sleep(SLOW_S / poison.pieces)
            _fill(connection, poison.filler)
            if poison.length:
                connection.shutdown(socket.SHUT_WR)
            return status_of(_first(connection))
    except TimeoutError:
        return SILENT
    except OSError:
        return CUT


def in_pieces(body: bytes, count: int) -> list[bytes]:
    size = -(-len(body) // count)
    return [body[at : at + size] for at in range(0, len(body), size)]


def _fill(connection: socket.socket, left: int) -> None:
    """Until all is sent, or somebody answers."""
    chunk = b" " * CHUNK
    while left > 0 and not select.select([connection], [], [], 0)[0]:
        connection.sendall(chunk[:left])
        left -= len(chunk)


def _first(connection: socket.socket) -> bytes:
    line = b""
    while b"\n" not in line:
        received = connection.recv(4096)
        if not received:
            break
        line += received
    return line


def status_of(line: bytes) -> str:
    words = line.split(b" ", 2)
    return words[1].decode() if len(words) > 1 else CUT


# --- The load -------------------------------------------------------------------------------------


class Found:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.right_ms: list[float] = []
        self.wrong = 0
        self.failed: list[str] = []
        self.of_kind: dict[str, Counter[str]] = {}

    @property
    def asked(self) -> int:
        return len(self.right_ms) + self.wrong + len(self.failed)


class Caller(threading.Thread):
    def __init__(
        self, up: Running, found: Found, number: int, until_s: float, subject: "Subject"
    ) -> None:
        super().__init__()
        self._up = up
        self._found = found
        self._number = number
        self._until_s = until_s
        self._subject = subject

    def run(self) -> None:
        subject, up = self._subject, self._up
        kinds = list(subject.poisons)
        connection = http.client.HTTPConnection("127.0.0.1", up.launch.port, timeout=ANSWER_S)
        turn = self._number
        while time.perf_counter() < self._until_s:
            for _ in range(GOOD_BETWEEN):
                self._good(connection, turn % ROWS)
                turn += 1
            if subject.poisonous:
                kind = kinds[(turn // GOOD_BETWEEN + self._number) % len(kinds)]
                how = send(up.launch.port, subject.asked[0], subject.poisons[kind])
                with self._found.lock:
                    self._found.of_kind.setdefault(kind, Counter())[how] += 1
        connection.close()

    def _good(self, connection: http.client.HTTPConnection, place: int) -> None:
        begun_s = time.perf_counter()
        try:
            answer = self._up.answer(self._subject.asked[place], "json", connection)
        except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
            connection.close()
            with self._found.lock:
                self._found.failed.append(f"{type(error).__name__}: {error}")
            return
        took_ms = 1e3 * (time.perf_counter() - begun_s)
        is_right = near(answer, self._subject.right[place])
        with self._found.lock:
            if is_right:
                self._found.right_ms.append(took_ms)
            else:
                self._found.wrong += 1


def near(answer: Answer, right: Answer) -> bool:
    return answer.shape == right.shape and bool(np.abs(answer - right).max() <= NEAR)


class Subject(NamedTuple):
    asked: Sequence[Asked]
    right: Sequence[Answer]
    poisons: Mapping[str, Poison]
    poisonous: bool


def harass(up: Running, subject: Subject, seconds: float) -> Found:
    found, until_s = Found(), time.perf_counter() + seconds
    callers = [Caller(up, found, number, until_s, subject) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return found


class OfContender(NamedTuple):
    clean: Found
    bad: Found
    in_parts: float
    """batches that were run again in parts; of ours"""


def measured(
    contender: Contender, path: Path, peers: Path, rows: Sequence[Tensors], seconds: float
) -> OfContender:
    python_of(contender.environment, peers, make=False)
    right = expected(path, MODEL, rows)
    v2 = contender.endpoints["json"].form is not ROW
    with running(contender, MODEL, path, peers, rows[0], right[0]) as up:
        asked = [up.asked("json", row) for row in rows]
        poison = poisons(rows[1], v2=v2)
        clean = harass(up, Subject(asked, right, poison, poisonous=False), seconds / 2)
        bad = harass(up, Subject(asked, right, poison, poisonous=True), seconds)
        in_parts = 0.0
        if contender is PACELINE:
            in_parts = total(metrics(up, asked[0]), "paceline_batches_total", reason="isolation")
    return OfContender(clean, bad, in_parts)


# --- What came of it ------------------------------------------------------------------------------


def said(counts: Counter[str]) -> str:
    return ", ".join(f"{how} x{count}" for how, count in counts.most_common())


def figures_of(name: str, of: OfContender) -> list[record.Figure]:
    bad = of.bad
    lost = bad.wrong + len(bad.failed)
    found = [
        record.figure(f"{name}: good requests", "requests", [bad.asked]),
        record.figure(f"{name}: good ones failed or wrong", "requests", [lost]),
    ]
    for when, each in (("alone", of.clean), ("beside poison", bad)):
        if each.right_ms:
            p50_ms, p99_ms = map(float, np.percentile(each.right_ms, (50, 99)))
            found.append(record.figure(f"{name}: p50 of good ones {when}", "ms", [p50_ms]))
            found.append(record.figure(f"{name}: p99 of good ones {when}", "ms", [p99_ms]))
    return found


def verdicts_of(ours: OfContender) -> list[record.Verdict]:
    bad = ours.bad
    lost = bad.wrong + len(bad.failed)
    first = f"; the first: {bad.failed[0][:200]}" if bad.failed else ""
    found = [
        record.Verdict(
            "no good request fails or is wrong beside 5 % poison",
            f"{lost} of {bad.asked}{first}",
            lost == 0 if bad.asked else None,
        ),
        record.Verdict(
            "batches shared with a row that fails are run again in parts",
            f"{ours.in_parts:.0f} parts",
            ours.in_parts > 0 if bad.of_kind.get("raises") else None,
        ),
    ]
    for kind, is_wanted in WANTED.items():
        counts = bad.of_kind.get(kind, Counter())
        holds = all(map(is_wanted, counts)) if counts else None
        found.append(record.Verdict(f"{kind} is answered for what it is", said(counts), holds))
    return found


def main() -> None:
    options = argparse.ArgumentParser(
        prog="./bench neighbours",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--seconds", type=float, default=30.0, help="of poison; half without")
    options.add_argument("--only", default="", help="contenders, by commas")
    options.add_argument("--peers", type=Path, default=cache_folder() / "peers")
    asked = options.parse_args()
    end_on_sigterm()
    named = [each for each in asked.only.split(",") if each]
    contenders = [each for each in (PACELINE, TRITON, LITSERVE) if not named or each.name in named]
    rows = good_rows()
    found: dict[str, OfContender] = {}
    absent: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="pl-neighbours-") as name:
        path = Path(name) / f"{MODEL}.onnx"
        path.write_bytes(graph())
        for contender in contenders:
            try:
                found[contender.name] = measured(contender, path, asked.peers, rows, asked.seconds)
            except Unavailable as error:
                absent[contender.name] = str(error)
    peers: dict[str, str] = {}
    for name, each in found.items():
        if name != PACELINE.name:
            peers |= {f"{name}, {kind}": said(how) for kind, how in each.bad.of_kind.items()}
            if each.bad.failed:
                peers[f"{name}, first good one that failed"] = each.bad.failed[0][:200]
    record.write(
        "neighbours",
        workload={
            "callers": CALLERS,
            "good between two bad": GOOD_BETWEEN,
            "seconds": asked.seconds,
            **{f"{name}, absent": why for name, why in absent.items()},
            **peers,
        },
        figures=[each for name, of in found.items() for each in figures_of(name, of)],
        verdicts=verdicts_of(found[PACELINE.name]) if PACELINE.name in found else [],
        packages=("numpy", "onnxruntime"),
    )


if __name__ == "__main__":
    main()
