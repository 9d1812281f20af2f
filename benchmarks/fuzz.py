"""Structured fuzzing of the front door: is every answer HTTP, one a request, and nothing ever ends?

Conversations are made from a grammar: methods, addresses hot and not, headers, JSON and binary V2
bodies, compressed or not, announced or in chunks; then said whole, cut anywhere, byte by byte, with
an end that is orderly, half or rude. Half of them are as they should be, and each of their answers
is known; in the others bytes are changed. Meanwhile a good request every 100 ms must be answered
rightly, and front, memory, descriptors and log are watched.

Each conversation comes from the seed and its number alone: `--seed S --only N` says it again.
"""

import argparse
import gzip
import json
import random
import re
import socket
import struct
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate, count, pairwise
from pathlib import Path
from typing import NamedTuple

from benchmarks import record
from benchmarks._beside import Probe
from benchmarks._heard import NotHttp, head_of
from benchmarks._server import (
    PREDICT,
    ask,
    children,
    connect,
    faults_in_log,
    is_right,
    open_descriptors,
    pss_mb,
    served,
    stop,
)
from paceline.serve import digits

WORKERS = 3
PROBE_S = 0.1
WATCH_S = 0.25
HANG_S = 20.0
"""A conversation without an end by then hangs; the longest bound a caller can run into is half."""

WARM_UP = 0.2
"""The share of the run that memory has to settle."""
GROWTH_MB = 12.0
"""More than that between warm-up and end is a leak; in an hour, 12 bytes a conversation."""
FAULTS_KEPT = 20

ROW = list(digits.SAMPLE_ROW)
V2_INFER = f"/v2/models/{digits.NAME}/infer"


# --- What is said ---------------------------------------------------------------------------------


class Asked(NamedTuple):
    """One request that is as it should be, and the statuses it may have."""

    said: bytes
    statuses: tuple[int, ...]
    label: bool = False
    """whether the answer must name the right label"""


class Talk(NamedTuple):
    number: int
    said: bytes
    cuts: tuple[int, ...]
    """where it is cut into pieces"""
    end: str
    """`half`: no more is said, and the rest is heard; `turns`: so, but with each answer before the
    next request; `close`, `reset`: in the middle"""
    expected: tuple[Asked, ...]
    """empty where bytes were changed"""


def talk(seed: int, number: int) -> Talk:
    chance = random.Random(f"{seed} {number}")
    if chance.random() < 0.2:
        return turns(chance, number)
    asked = tuple(a_request(chance) for _ in range(chance.choice([1, 1, 1, 2, 3, 8])))
    said = b"".join(each.said for each in asked)
    end = chance.choice(["half"] * 8 + ["close", "reset"])
    if chance.random() < 0.5:
        said, asked = changed(chance, said), ()
    if chance.random() < 0.05:
        said = b"GET /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n" + said
        end, asked = chance.choice(["close", "reset"]), ()
    if end != "half":
        asked = ()
        if chance.random() < 0.5:
            said = said[: chance.randrange(len(said) + 1)]
    return Talk(number, said, cut(chance, len(said)), end, asked)


def turns(chance: random.Random, number: int) -> Talk:
    """A client's usual way: the same head again and again, on a connection it keeps."""
    two = [predicted(chance), inferred(chance)]
    asked = tuple(chance.choices(two, [9, 1], k=chance.choice([2, 5, 20])))
    said = [each.said for each in asked]
    cuts = tuple(accumulate(map(len, said)))[:-1]
    if chance.random() < 0.2:
        return Talk(number, b"".join([*said[:-1], changed(chance, said[-1])]), cuts, "turns", ())
    return Talk(number, b"".join(said), cuts, "turns", asked)


def cut(chance: random.Random, size: int) -> tuple[int, ...]:
    how = chance.random()
    if how < 0.4 or size < 2:
        return ()
    if how < 0.5 and size < 1000:
        return tuple(range(1, size))
    most = min(size - 1, chance.choice([1, 2, 5, 20]))
    return tuple(sorted(chance.sample(range(1, size), most)))


def a_request(chance: random.Random) -> Asked:
    makers: list[tuple[Callable[[random.Random], Asked], int]] = [
        (predicted, 6),
        (inferred, 6),
        (looked_up, 4),
        (refused, 4),
    ]
    chosen = chance.choices([maker for maker, _ in makers], [weight for _, weight in makers])
    return chosen[0](chance)


def predicted(chance: random.Random) -> Asked:
    rows = chance.choice([1, 1, 1, 1, 3, 40, 300])
    body = json.dumps(ROW if rows == 1 else [ROW] * rows).encode()
    return Asked(framed(chance, "/predict/digits", body), (200,), label=rows == 1)


def inferred(chance: random.Random) -> Asked:
    rows = chance.choice([1, 1, 2, 30])
    tensor: dict[str, object] = {"name": "x", "datatype": "FP32", "shape": [rows, len(ROW)]}
    headers = []
    if chance.random() < 0.5:
        numbers = struct.pack(f"<{rows * len(ROW)}f", *ROW * rows)
        tensor["parameters"] = {"binary_data_size": len(numbers)}
        asks: dict[str, object] = {"inputs": [tensor]}
        if chance.random() < 0.5:
            asks["parameters"] = {"binary_data_output": True}
        text = json.dumps(asks).encode()
        headers = [("inference-header-content-length", str(len(text)))]
        body = text + numbers
    else:
        body = json.dumps({"id": "a", "inputs": [{**tensor, "data": ROW * rows}]}).encode()
    path = chance.choice([V2_INFER, f"/v2/models/{digits.NAME}/versions/1/infer", V2_INFER + "?a"])
    return Asked(framed(chance, path, body, headers), (200,))


def looked_up(chance: random.Random) -> Asked:
    method = chance.choice(["GET", "GET", "GET", "HEAD"])
    path = chance.choice(
        [
            "/",
            "/health/live",
            "/health/ready",
            "/metrics",
            "/v2",
            "/v2/models/digits",
            "/api/status",
        ]
    )
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", *some_headers(chance)]
    return Asked(("\r\n".join(lines) + "\r\n\r\n").encode(), (200,))


def refused(chance: random.Random) -> Asked:
    """Well said, and wrong."""
    row = json.dumps(ROW).encode()
    what = chance.randrange(8)
    if what == 0:
        return Asked(framed(chance, "/predict/nothing", row), (404,))
    if what == 1:
        return Asked(framed(chance, f"/{'x' * chance.choice([1, 50, 5000])}", b"abc"), (404,))
    if what == 2:
        return Asked(framed(chance, "/predict/digits", row[: chance.randrange(len(row))]), (400,))
    if what == 3:
        return Asked(framed(chance, "/predict/digits", row, kind="text/plain"), (415,))
    if what == 4:
        return Asked(framed(chance, V2_INFER, chance.randbytes(chance.choice([1, 99]))), (400,))
    if what == 5:
        return Asked(framed(chance, V2_INFER, row, [("content-encoding", "br")]), (415,))
    if what == 6:
        return Asked(framed(chance, "/predict/digits", row, [("x-timeout-ms", "soon")]), (400,))
    packed = gzip.compress(row, mtime=0)[:-1]
    return Asked(framed(chance, V2_INFER, packed, [("content-encoding", "gzip")]), (400,))


def framed(
    chance: random.Random,
    path: str,
    body: bytes,
    headers: Sequence[tuple[str, str]] = (),
    kind: str = "application/json",
) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines += some_headers(chance)
    if not any(name == "content-encoding" for name, _ in headers):
        coding = chance.choice(["", "", "", "gzip", "deflate"])
        if coding:
            lines.append(f"content-encoding: {coding}")
            body = gzip.compress(body, 1, mtime=0) if coding == "gzip" else zlib.compress(body, 1)
    if chance.random() < 0.3:
        lines = [line for line in lines if "upgrade" not in line]  # refused with chunks
        lines.append("Transfer-Encoding: chunked")
        body = in_chunks(chance, body)
    else:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def some_headers(chance: random.Random) -> list[str]:
    known = [
        "accept-encoding: gzip, deflate;q=0.5",
        "accept: */*",
        "x-priority: high",
        "x-request-id: fuzz",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "expect: 100-continue",
        "cookie: a=b; c=d",
        "connection: keep-alive",
        "connection: upgrade\r\nupgrade: h2c",
        "x-long: " + "y" * chance.choice([1, 1000, 9000]),
    ]
    return chance.sample(known, chance.choice([0, 0, 1, 3]))


def in_chunks(chance: random.Random, body: bytes) -> bytes:
    out, at = b"", 0
    while at < len(body):
        piece = body[at : at + chance.choice([1, 7, 100, 5000, 1 << 20])]
        if chance.random() < 0.1:
            piece = body[at:]
        out += b"%x%b\r\n%b\r\n" % (len(piece), chance.choice([b"", b"", b";a", b";b=c"]), piece)
        at += len(piece)
        if len(out) > 3 * len(body) + 1000:
            out += b"%x\r\n%b\r\n" % (len(body) - at, body[at:]) if at < len(body) else b""
            break
    return out + b"0\r\n" + chance.choice([b"", b"", b"x-trailer: y\r\n"]) + b"\r\n"


SNIPPETS = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"0\r\n\r\n", b"HTTP/1.1", b"HTTP/1.0", b"chunked",
    b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b"connection: close\r\n",
    b"host: a\r\n", b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", b"expect: 100-continue\r\n",
    b"ffffffffffffffff\r\n", b"\xff\xfe", b"{", b"]", b"1e999", b"NaN", b'"', b"x-timeout-ms: 1",
)  # fmt: skip


def changed(chance: random.Random, said: bytes) -> bytes:
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        head = max(1, min(len(said), 600)) if chance.random() < 0.7 else len(said) + 1
        at = chance.randrange(head)
        what = chance.randrange(5)
        if what == 0:
            said = said[:at] + chance.choice(SNIPPETS) + said[at:]
        elif what == 1:
            said = said[:at] + said[at + chance.choice([1, 1, 2, 20]) :]
        elif what == 2:
            said = said[:at] + chance.randbytes(1) + said[at + 1 :]
        elif what == 3:
            said = said[:at] + said[at : at + chance.choice([1, 10, 100])] * 2 + said[at:]
        else:
            said = said[: at + 1]
    return said


# --- What is heard --------------------------------------------------------------------------------


class Answer(NamedTuple):
    status: int
    body: bytes
    closes: bool


def answers(heard: bytes, heads: bool) -> list[Answer]:
    """All of them, the last one whole too. `heads`: some may be without a body."""
    found = []
    while heard:
        came = head_of(heard)
        if came is None:
            raise NotHttp(f"an answer begins {heard[:80]!r}")
        status, headers, rest = came
        if status == 100:
            heard = rest
            continue
        body = b""
        if headers.get(b"transfer-encoding") == b"chunked":
            if not (heads and (not rest or rest.startswith(b"HTTP/1.1 "))):
                body, rest = unchunked(rest)
        elif status != 204:
            length = int(headers.get(b"content-length", b"%d" % len(rest)))
            if heads and (not rest or rest.startswith(b"HTTP/1.1 ")):
                length = 0
            if len(rest) < length:
                raise NotHttp(f"an answer of {length} bytes ends after {len(rest)}")
            body, rest = rest[:length], rest[length:]
        if status >= 400 and body and not {"error", "code"} <= set(json.loads(body)):
            raise NotHttp(f"an error without its fields: {body[:80]!r}")
        closes = headers.get(b"connection") == b"close"
        if closes and rest:
            raise NotHttp(f"something follows the last answer: {rest[:80]!r}")
        found.append(Answer(status, body, closes))
        heard = rest
    return found


def unchunked(rest: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, end, rest = rest.partition(b"\r\n")
        if not end:
            raise NotHttp("an answer ends in the middle of its chunks")
        length = int(size, 16)
        body += rest[:length]
        if rest[length : length + 2] != b"\r\n":
            raise NotHttp("a chunk of an answer has no end")
        rest = rest[length + 2 :]
        if length == 0:
            return body, rest


def judged(said: Talk, heard: bytes) -> str:
    """What is wrong with it; empty where nothing is."""
    try:
        found = answers(heard, b"HEAD " in said.said)
    except (NotHttp, ValueError) as error:
        return str(error)
    if not said.expected:
        most = len(re.findall(rb"HTTP/|[A-Z]{3} ", said.said)) + 1
        return f"{len(found)} answers" if len(found) > most else ""
    for asked, answer in zip(said.expected, found, strict=False):
        if answer.status not in asked.statuses:
            return f"{answer.status} instead of {asked.statuses}: {answer.body[:200]!r}"
        if asked.label and b"content-encoding" not in heard:
            label = json.loads(answer.body)["outputs"]["label"]
            if label != digits.SAMPLE_LABEL:
                return f"the wrong label {label}"
    if len(found) > len(said.expected):
        return f"{len(found)} answers to {len(said.expected)} requests"
    if len(found) < len(said.expected) and not (found and found[-1].closes):
        return f"{len(found)} answers to {len(said.expected)} requests, and no word of an end"
    return ""


# --- Saying it ------------------------------------------------------------------------------------


def held(port: int, said: Talk) -> str:
    """Holds the conversation, and answers what was wrong with it."""
    heard = b""
    cut_off = False
    with connect(port) as connection:
        connection.settimeout(HANG_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for turn, (begin, end) in enumerate(pairwise((0, *said.cuts, len(said.said)))):
                if said.end == "turns" and turn:
                    heard += one_more(connection, heard, turn)
                connection.sendall(said.said[begin:end])
            if said.end in ("half", "turns"):
                connection.shutdown(socket.SHUT_WR)
                while piece := connection.recv(1 << 18):
                    heard += piece
            elif said.end == "reset":
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        except TimeoutError:
            return f"no end within {HANG_S:.0f} s, {len(heard)} bytes heard"
        except OSError:  # it ended while we spoke
            cut_off = True
    if said.end not in ("half", "turns") or (cut_off and not heard):
        return "cut off without a word" if cut_off and said.expected else ""
    return judged(said, heard)


def one_more(connection: socket.socket, heard: bytes, number: int) -> bytes:
    """What is heard until so many answers are whole, or the end."""
    more = b""
    while piece := connection.recv(1 << 18):
        more += piece
        with suppress(NotHttp):
            found = answers(heard + more, heads=False)
            if len(found) >= number or (found[-1:] and found[-1].closes):
                break
    return more


class Talkers:
    """Take one number after the other until the time is over."""

    def __init__(self, port: int, seed: int) -> None:
        self.held = 0
        self.ends: Counter[str] = Counter()
        self.faults: list[str] = []
        self._port = port
        self._seed = seed
        self._numbers = count()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(WORKERS)]
        for each in self._threads:
            each.start()

    def stop(self) -> None:
        self._over.set()
        for each in self._threads:
            each.join()

    def _run(self) -> None:
        while not self._over.is_set():
            number = next(self._numbers)
            said = talk(self._seed, number)
            try:
                fault = held(self._port, said)
            except OSError as error:
                fault = f"no connection: {error}"
            self.held += 1
            self.ends["as it should be" if said.expected else "changed or cut"] += 1
            if fault and len(self.faults) < FAULTS_KEPT:
                self.faults.append(f"--seed {self._seed} --only {number}: {fault}")


def good(kept: socket.socket, number: int) -> str:
    """A prediction, in turn on a connection that is kept and on a fresh one."""
    if number % 2:
        status, body = ask(kept, PREDICT)
    else:
        with connect(kept.getpeername()[1]) as fresh:
            status, body = ask(fresh, PREDICT)
    return "" if is_right(status, body) else f"{status} {body[:80]!r}"


# --- One run --------------------------------------------------------------------------------------


class Found(NamedTuple):
    seed: int
    seconds: float
    conversations: int
    ends: Counter[str]
    faults: Sequence[str]
    probes: int
    took_ms: Sequence[float]
    wrong: Sequence[str]
    same_front: bool
    said: Sequence[str]
    """lines of the log that must not be"""
    settled_mb: float
    last_mb: float
    peak_mb: float
    descriptors: tuple[int, int]

    @property
    def is_flat(self) -> bool:
        return self.last_mb <= self.settled_mb + GROWTH_MB

    @property
    def holds(self) -> bool:
        return not (self.faults or self.wrong or self.said) and (
            self.same_front and self.is_flat and self.descriptors[1] <= self.descriptors[0]
        )


def fuzz(seconds: float, seed: int, folder: Path) -> Found:
    with served(folder, "--fronts", "1") as (server, port):
        fronts = children(server.pid)
        (front,) = fronts
        before = open_descriptors(front)
        probe, talkers, begun_s = (
            Probe(port, PROBE_S, good),
            Talkers(port, seed),
            time.perf_counter(),
        )
        probe.start()
        memory = []
        while time.perf_counter() < begun_s + seconds and children(server.pid) == fronts:
            time.sleep(WATCH_S)
            memory.append(pss_mb(front))
        talkers.stop()
        probe.stop()
        took_s = time.perf_counter() - begun_s
        same_front = children(server.pid) == fronts
        after = open_descriptors(front) if same_front else 0
        give_up_s = time.perf_counter() + HANG_S
        while after > before and time.perf_counter() < give_up_s:
            time.sleep(WATCH_S)
            after = open_descriptors(front)
        stop(server)
    fifth = max(1, int(len(memory) * WARM_UP))
    return Found(
        seed,
        took_s,
        talkers.held,
        talkers.ends,
        talkers.faults,
        len(probe.took_ms),
        probe.took_ms,
        probe.wrong,
        same_front,
        faults_in_log(folder),
        max(memory[fifth : 2 * fifth] or memory),
        sorted(memory[-fifth:])[fifth // 2],
        max(memory),
        (before, after),
    )


def again(seed: int, number: int) -> None:
    """One conversation, shown."""
    said = talk(seed, number)
    print(f"says {said.said[:3000]!r}\ncut at {said.cuts[:50]}, then {said.end}")
    with tempfile.TemporaryDirectory(prefix="paceline-fuzz-") as name:
        with served(Path(name), "--fronts", "1") as (server, port):
            fault = held(port, said)
            stop(server)
        print(f"fault: {fault or 'none'}\n{(Path(name) / 'log').read_text()}")


def main() -> None:
    options = argparse.ArgumentParser(
        prog="./bench fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--minutes", type=float, default=60.0, metavar="N")
    options.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    options.add_argument("--only", type=int, metavar="NUMBER", help="say one conversation again")
    options.add_argument("--out", type=Path, default=record.RESULTS, metavar="FOLDER")
    asked = options.parse_args()
    print(f"seed {asked.seed}", flush=True)
    if asked.only is not None:
        again(asked.seed, asked.only)
        return
    with tempfile.TemporaryDirectory(prefix="paceline-fuzz-") as name:
        found = fuzz(60 * asked.minutes, asked.seed, Path(name))
    for line in [*found.faults, *found.wrong[:FAULTS_KEPT], *found.said[:FAULTS_KEPT]]:
        print(f"  {line}")
    took = sorted(found.took_ms)
    record.write(
        "fuzz",
        workload={
            "seed": found.seed,
            "minutes": round(found.seconds / 60, 2),
            "conversations at once": WORKERS,
            **found.ends,
        },
        figures=[
            record.figure("conversations", "", [found.conversations]),
            record.figure("a second", "per s", [found.conversations / found.seconds]),
            record.figure("good request meanwhile, p50", "ms", [took[len(took) // 2]]),
            record.figure("good request meanwhile, p99", "ms", [took[int(len(took) * 0.99)]]),
            record.figure("good request meanwhile, longest", "ms", [took[-1]]),
            record.figure("memory of the front, settled", "MB", [found.settled_mb]),
            record.figure("memory of the front, at the end", "MB", [found.last_mb]),
            record.figure("memory of the front, the most", "MB", [found.peak_mb]),
        ],
        verdicts=[
            record.Verdict(
                "every answer is HTTP, and one a request; nothing hangs",
                f"{len(found.faults)} faults in {found.conversations} conversations",
                not found.faults,
            ),
            record.Verdict(
                "a good request is answered rightly meanwhile",
                f"{len(found.wrong)} of {found.probes} were not",
                not found.wrong,
            ),
            record.Verdict(
                "no crash: the front is the same",
                f"{'the same' if found.same_front else 'another one'}, "
                f"{len(found.said)} lines of a fault in the log",
                found.same_front and not found.said,
            ),
            record.Verdict(
                "no leak of memory",
                f"{found.settled_mb:.1f} MB after the warm-up, {found.last_mb:.1f} MB at the end",
                found.is_flat,
            ),
            record.Verdict(
                "no leak of descriptors",
                f"{found.descriptors[0]} before, {found.descriptors[1]} after",
                found.descriptors[1] <= found.descriptors[0],
            ),
        ],
        packages=["httptools", "uvloop", "onnxruntime"],
        folder=asked.out,
    )


if __name__ == "__main__":
    main()
