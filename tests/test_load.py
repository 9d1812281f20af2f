"""`paceline load`: what it sends and when, what it counts, what it refuses to tell; its client."""

import asyncio
import gc
import json
import os
import re
import resource
import signal
import socket
import threading
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import pytest
import uvloop

from paceline.cli.loading import Asked, _line, weights
from paceline.cli.main import run
from paceline.clock import RealClock
from paceline.evidence import load as loads
from paceline.evidence import load_summary
from paceline.evidence.arrivals import Arrivals, arrivals
from paceline.evidence.load import Load, Outcome, Running, prepare
from paceline.evidence.load_summary import quantiles, summarize, why_not
from paceline.evidence.targets import Target, Wanted
from paceline.net.client import ClientConnection, Headers, Lost, Origin, connect
from paceline.net.pacing import Alarm
from paceline.terms.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    BadInput,
    LimitReached,
    Misuse,
    PacelineError,
)
from paceline.terms.limits import HEAD_BYTES, LOAD_REQUESTS

NORMAL = (0.0, 1.0, 0.0, 0.0)
QUICK = ("--rate", "2000", "--seconds", "0.05", "--warmup", "0s")

INPUTS = [
    {"name": "x", "datatype": "FP32", "shape": [-1, 4]},
    {"name": "ids", "datatype": "INT64", "shape": [-1, -1]},
]


# --- A server that does what its path says --------------------------------------------------------


class Got(NamedTuple):
    line: str
    headers: dict[str, str]
    body: bytes


def answer(status: int, body: bytes, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def events(*said: str) -> bytes:
    return b"".join(f"data: {each}\n\n".encode() for each in said)


CHUNK = '{{"choices":[{{"delta":{{"content":"{}"}}}}]}}'.format
STREAM = events(CHUNK(""), CHUNK("one"), CHUNK("two"), CHUNK("three"), "[DONE]")
ANSWERS = {
    "GET /v2/models/m": answer(200, json.dumps({"name": "m", "inputs": INPUTS}).encode()),
    "GET /v2/models/one": answer(200, json.dumps({"inputs": INPUTS[:1]}).encode()),
    "GET /v2/models/gone": answer(404, b'{"error":"no model","code":"unknown_model"}'),
    "GET /v1/models": answer(200, b'{"data":[{"id":"small"}]}'),
    "POST /busy": answer(503, b'{"error":"busy"}'),
    "POST /wrong": answer(400, b'{"error":"the row is short","remedy":"Send more."}'),
    "POST /moved": b"HTTP/1.1 308 X\r\nlocation: /there\r\ncontent-length: 0\r\n\r\n",
    "POST /locked": answer(401, b"{}"),
    "POST /v1/chat/completions": answer(200, STREAM, "text/event-stream"),
    "POST /fails": answer(
        200, events(CHUNK("a"), '{"error":{"message":"x"}}', "[DONE]"), "text/event-stream"
    ),
    "POST /ends": answer(200, events(CHUNK("a")), "text/event-stream"),
    "POST /cut": b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhal",
    "POST /closed": b"",
    "POST /garbled": b"SSH-2.0-hello\r\n",
}
CLOSING = ("/cut", "/closed")


class Peer(threading.Thread):
    """Answers on a port of its own. `misbehaves` from the second request on, after the one that is
    tried first; a gate holds answers back until so many requests are there."""

    def __init__(self, gate: int = 0, on_request: Callable[[int], None] | None = None) -> None:
        super().__init__(daemon=True)
        self.got: list[Got] = []
        self._gate = gate
        self._on_request = on_request
        self._ready = threading.Event()

    def run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[Any]] = set()
        self._held: list[tuple[asyncio.StreamWriter, bytes]] = []
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.server = server
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        await self._leave_port()
        for writer in [*self._writers]:
            writer.transport.abort()
        while self._serving:
            await asyncio.wait(self._serving)

    async def _leave_port(self) -> None:
        """One that is closed just when it has accepted somebody forgets to close that socket."""
        for listening in self.server.sockets:
            self._loop.remove_reader(listening.fileno())
        for _ in range(10):
            await asyncio.sleep(0)
        self.server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                line, *lines = head.strip().split("\r\n")
                headers = dict(each.split(": ", 1) for each in lines)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.got.append(Got(line.removesuffix(" HTTP/1.1"), headers, body))
                if not await self._answer(self.got[-1], writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()  # else the loop may end before it is

    async def _answer(self, got: Got, writer: asyncio.StreamWriter) -> bool:
        calls = sum(not each.line.startswith("GET") for each in self.got)
        if self._on_request is not None:
            self._on_request(calls)
        said = ANSWERS.get(got.line, answer(200, b"{}"))
        path = got.line.partition(" ")[2]
        if calls == 1 and path in (*CLOSING, "/garbled", "/never"):
            said = answer(200, b"{}")
        elif path == "/never":
            return True
        if self._gate and calls > 1:
            self._held.append((writer, said))
            if len(self._held) >= self._gate:
                for each, held in self._held:
                    each.write(held)
            return True
        writer.write(said)
        await writer.drain()
        return calls == 1 or path not in CLOSING

    def __enter__(self) -> "Peer":
        self.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *ended: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self.join(10)

    def stop_listening(self) -> None:
        self._leaving = self._loop.create_task(self._leave_port())

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def calls(self) -> list[Got]:
        """Without the questions, and without the one that is tried first."""
        return [each for each in self.got if each.line.startswith("POST")][1:]


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as running:
        yield running


class Told(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(self.out)
        return fields


class Tell:
    """Runs the command here. Server and command share a process, so that its lag says nothing."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Told:
        gc.freeze()  # the command has the garbage collected, and the tests' is none of its business
        status = run(["load", *arguments])
        gc.freeze()
        return Told(status, *self._capsys.readouterr())


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tell:
    monkeypatch.setattr(load_summary, "LAG_S", 1e6)
    monkeypatch.setattr(load_summary, "BUSY_MOST", 2.0)
    monkeypatch.delenv("PACELINE_KEY", raising=False)
    return Tell(capsys)


# --- What it counts -------------------------------------------------------------------------------


def test_every_request_is_sent_once_and_counted(tell: Tell, peer: Peer) -> None:
    told = tell(peer.url("/any"), *QUICK, "--arrivals", "constant", "--body", "[1]", "--json")
    fields = told.fields
    assert told.status == EXIT_OK
    assert fields["requests"] == fields["answered"] == len(peer.calls) == 100
    assert fields["statuses"] == {"200": 100}
    assert fields["latency"]["samples"] == fields["lag"]["samples"] == 100
    assert fields["refused"] == fields["failed"] == fields["unfinished"] == 0


def test_the_warm_up_is_sent_and_not_counted(tell: Tell, peer: Peer) -> None:
    options = ("--rate", "1000", "--seconds", "0.1", "--warmup", "50ms", "--arrivals", "constant")
    fields = tell(peer.url("/any"), *options, "--body", "[1]", "--json").fields
    assert fields["requests"] == 100
    assert fields["warmup_requests"] == 50
    assert len(peer.calls) == 150


def test_the_text_says_what_was_sent_and_what_came_of_it(tell: Tell, peer: Peer) -> None:
    told = tell(peer.url("/any"), *QUICK, "--body", "[1]", "--slo", "24h")
    assert "were answered within 86400 s: the objective" in " ".join(told.out.split())
    names = {line[:11].strip() for line in told.out.splitlines()}
    assert names >= {"target", "arrivals", "outcome", "time", "answered", "own lag", "rate"}
    assert "samples" in told.out


def test_goodput_counts_what_is_in_time(tell: Tell, peer: Peer) -> None:
    loose = tell(peer.url("/any"), *QUICK, "--body", "1", "--slo", "1h", "--json").fields
    assert loose["met"] is True
    assert loose["goodput_rps"] == pytest.approx(loose["answered_rps"])
    tight = tell(peer.url("/any"), *QUICK, "--body", "1", "--slo", "1us", "--json").fields
    assert tight["met"] is False
    assert tight["goodput_rps"] == 0
    assert tight["goal"] == "p99_ms <= 0.001"


def test_refusals_have_times_of_their_own(tell: Tell, peer: Peer) -> None:
    told = tell(peer.url("/busy"), *QUICK, "--body", "1", "--json")
    fields = told.fields
    assert told.status == EXIT_OK
    assert fields["refused"] == fields["requests"] == fields["refusals"]["samples"] > 0
    assert fields["latency"] is None
    assert fields["failed"] == 0
    text = tell(peer.url("/busy"), *QUICK, "--body", "1").out
    assert "refused: 503" in text
    assert "the first request was refused with status 503" in text


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/cut", "closed within the answer"),
        ("/closed", "closed before an answer"),
        ("/garbled", "answer is not HTTP/1.1"),
    ],
)
def test_what_breaks_is_counted_by_its_kind(tell: Tell, peer: Peer, path: str, kind: str) -> None:
    told = tell(peer.url(path), *QUICK, "--body", "1", "--json")
    fields = told.fields
    assert fields["errors"] == {kind: fields["requests"]}
    assert fields["failed"] == fields["requests"] > 0
    assert told.status == EXIT_UNREACHABLE


def test_what_is_never_answered_is_given_up(tell: Tell, peer: Peer) -> None:
    told = tell(
        peer.url("/never"), *QUICK, "--body", "1", "--timeout", "1s", "--connections", "3", "--json"
    )
    fields = told.fields
    assert fields["errors"] == {"timed out here": fields["requests"]}
    assert fields["opened"] >= 3  # those that were given up are replaced
    assert len(peer.calls) < fields["requests"]  # most were never sent


def test_a_server_that_dies_ends_the_test(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads, "LOAD_GIVE_UP_S", 0.0)

    def die(calls: int) -> None:
        if calls > 10:
            dying.stop_listening()
            raise ConnectionError

    with Peer(on_request=die) as dying:
        told = tell(dying.url("/any"), "--rate", "300", "--warmup", "0s", "--body", "1", "--json")
    fields = told.fields
    assert told.status == EXIT_UNREACHABLE
    assert "connection refused" in fields["gave_up"]
    assert fields["errors"]["no connection"] > 0
    assert 0 < fields["answered"] <= 10
    assert fields["requests"] < 1500


def test_ctrl_c_tells_what_there_is(tell: Tell) -> None:
    def interrupt(calls: int) -> None:
        if calls == 20:
            os.kill(os.getpid(), signal.SIGINT)

    with Peer(on_request=interrupt) as peer:
        told = tell(
            peer.url("/any"),
            "--rate",
            "300",
            "--seconds",
            "60",
            "--warmup",
            "0s",
            "--body",
            "1",
            "--json",
        )
    assert told.status == EXIT_INTERRUPTED
    fields = told.fields
    assert fields["interrupted"]
    assert 10 <= fields["answered"] < 10_000
    assert fields["seconds"] < 60


# --- What it sends --------------------------------------------------------------------------------


def test_inputs_are_asked_for_and_made_up_by_the_seed(tell: Tell, peer: Peer) -> None:
    options = (*QUICK, "--rows", "3", "--json")
    assert tell(peer.url("/v2/models/m/infer"), *options).status == EXIT_OK
    first = [each.body for each in peer.calls]
    sent = json.loads(first[0])
    assert [each["shape"] for each in sent["inputs"]] == [[3, 4], [3, 64]]
    assert [len(each["data"]) for each in sent["inputs"]] == [12, 192]
    assert len(set(first)) > 5
    with Peer() as again:
        tell(again.url("/v2/models/m/infer"), *options)
        assert sorted(each.body for each in again.calls) == sorted(first)


def test_binary_tensors_lie_behind_their_header(tell: Tell, peer: Peer) -> None:
    told = tell(peer.url("/v2/models/m/infer"), *QUICK, "--binary", "--rows", "2", "--json")
    assert told.status == EXIT_OK
    got = peer.calls[0]
    length = int(got.headers["inference-header-content-length"])
    head = json.loads(got.body[:length])
    sizes = [each["parameters"]["binary_data_size"] for each in head["inputs"]]
    assert sizes == [2 * 4 * 4, 2 * 64 * 8]
    assert len(got.body) == length + sum(sizes)
    values = np.frombuffer(got.body[length : length + sizes[0]], np.float32)
    assert ((values >= 0) & (values <= 1)).all()


def test_plain_json_is_a_row_or_rows_or_inputs_by_name(tell: Tell, peer: Peer) -> None:
    assert tell(peer.url("/predict/one"), *QUICK, "--json").status == EXIT_OK
    assert all(len(json.loads(each.body)) == 4 for each in peer.calls)
    before = len(peer.got)
    assert tell(peer.url("/predict/one"), *QUICK, "--rows", "2", "--json").status == EXIT_OK
    assert np.shape(json.loads(peer.got[before + 1].body)) == (2, 4)
    before = len(peer.got)
    assert tell(peer.url("/predict/m"), *QUICK, "--json").status == EXIT_OK
    assert set(json.loads(peer.got[before + 1].body)) == {"x", "ids"}


def test_models_priorities_and_bodies_are_mixed(tell: Tell, peer: Peer) -> None:
    fields = tell(
        peer.url("/predict/m"), *QUICK, "--body", "1", "--body", "2", "--json",
        "--model", "m=1,one=1", "--priority", "normal=1,critical=1",
    ).fields  # fmt: skip
    calls = peer.calls[1:]  # one of each model is tried
    assert {each.line for each in calls} == {"POST /predict/m", "POST /predict/one"}
    assert {each.body for each in calls} == {b"1", b"2"}
    assert {each.headers["x-priority"] for each in calls} == {"normal", "critical"}
    assert [each["name"] for each in fields["models"]] == ["m", "one"]
    assert [each["name"] for each in fields["priorities"]] == ["critical", "normal"]
    for groups in (fields["models"], fields["priorities"]):
        assert sum(each["requests"] for each in groups) == fields["requests"]


def test_a_file_says_when_and_what(tell: Tell, peer: Peer, tmp_path: Path) -> None:
    place = tmp_path / "trace.csv"
    place.write_text("t_s,priority,rows,timeout_ms\n0,low,1,\n0.01,high,3,250\n0.02,,2,\n")
    fields = tell(
        peer.url("/predict/one"), "--arrivals", str(place), "--warmup", "0s", "--json"
    ).fields
    assert fields["requests"] == 3
    low, high, normal = sorted(peer.calls, key=lambda each: len(each.body))[:1] + [
        next(each for each in peer.calls if each.headers["x-priority"] == name)
        for name in ("high", "normal")
    ]
    assert low.headers["x-priority"] == "low"
    assert (len(json.loads(high.body)), high.headers["x-timeout-ms"]) == (3, "250")
    assert len(json.loads(normal.body)) == 2
    assert "x-timeout-ms" not in normal.headers


def test_the_key_and_headers_go_along(
    tell: Tell, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACELINE_KEY", "from-environment")
    tell(peer.url("/any"), *QUICK, "--body", "1", "--header", "x-mine: 5", "--json")
    assert {each.headers["authorization"] for each in peer.got} == {"Bearer from-environment"}
    assert {each.headers["x-mine"] for each in peer.got} == {"5"}
    del peer.got[:]
    tell(peer.url("/any"), *QUICK, "--body", "1", "--key", "mine", "--json")
    assert {each.headers["authorization"] for each in peer.got} == {"Bearer mine"}


def test_a_body_may_be_in_a_file(tell: Tell, peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "body.json").write_text('{"a": 1}')
    tell(peer.url("/any"), *QUICK, "--body", f"@{tmp_path / 'body.json'}", "--json")
    assert {each.body for each in peer.got} == {b'{"a": 1}'}
    assert tell(peer.url("/any"), "--body", "@nowhere").status == EXIT_USAGE


def test_a_url_without_a_body_is_asked_with_get(tell: Tell, peer: Peer) -> None:
    assert tell(peer.url("/health"), *QUICK, "--json").fields["answered"] > 0
    assert {each.line for each in peer.got} == {"GET /health"}


def test_a_chat_is_streamed_and_its_first_piece_timed(tell: Tell, peer: Peer) -> None:
    told = tell(peer.url("/v1/chat/completions"), *QUICK, "--stream", "--json")
    assert told.status == EXIT_OK
    fields = told.fields
    sent = json.loads(peer.calls[0].body)
    assert (sent["model"], sent["stream"], sent["max_tokens"]) == ("small", True, 32)
    assert fields["first_piece"]["samples"] == fields["answered"] == fields["requests"]
    assert fields["first_piece"]["max_ms"] <= fields["latency"]["max_ms"]
    assert fields["pieces_per_s"] == pytest.approx(3 * fields["answered_rps"])
    assert "first piece" in tell(peer.url("/v1/chat/completions"), *QUICK, "--stream").out


@pytest.mark.parametrize(
    ("path", "kind"), [("/fails", "error within the stream"), ("/ends", "stream without an end")]
)
def test_a_stream_that_fails_is_no_answer(tell: Tell, peer: Peer, path: str, kind: str) -> None:
    fields = tell(peer.url(path), *QUICK, "--body", "{}", "--stream", "--json").fields
    assert fields["errors"] == {kind: fields["requests"]}


# --- What it says before it begins ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["localhost:80/predict/m"], "Write it like http://localhost:80/predict/m."),
        (["ftp://x/predict/m"], "begins with http://"),
        (["http://x:y/predict/m"], "no URL"),
        (["http://a:b@x/predict/m"], "--key"),
        (["http://x/a b"], "%20"),
        (["http://x/"], "/predict/MODEL"),
        (["http://x/any", "--model", "m", "--body", "1"], "no place for a model"),
        (["http://x/predict/m", "--binary"], "/infer"),
        (["http://x/predict/m", "--stream"], "/v1/chat/completions"),
        (["http://x/predict/m", "--rows", "0"], "--rows"),
        (["http://x/predict/m", "--rate", "0"], "--rate"),
        (["http://x/predict/m", "--rate", "nan"], "--rate"),
        (["http://x/predict/m", "--rate", "9", "--arrivals", "poisson:9"], "twice"),
        (["http://x/predict/m", "--arrivals", "poisson:x"], "poisson:200"),
        (["http://x/predict/m", "--arrivals", "possion"], "Did you mean poisson"),
        (["http://x/predict/m", "--slo", "30"], "30ms"),
        (["http://x/predict/m", "--warmup", "2"], "2ms"),
        (["http://x/predict/m", "--connections", "0"], "--connections"),
        (["http://x/predict/m", "--connections", "10001"], "--connections"),
        (["http://x/predict/m", "--priority", "urgent"], "critical"),
        (["http://x/predict/m", "--model", "a=x"], "NAME=3"),
        (["http://x/predict/m", "--method", "HEAD"], "POST"),
        (["http://x/predict/m", "--header", "none"], "name: value"),
        (["http://x/predict/m", "--header", "a: b\r\nc: d"], "name: value"),
        (["http://x/predict/m", "--rate", "1e6", "--seconds", "1e6"], str(LOAD_REQUESTS)),
        (["http://x/predict/m", "--report", "/nowhere/r.html"], "page cannot be written"),
    ],
)
def test_what_cannot_be_meant_is_told_with_a_remedy(
    tell: Tell, arguments: list[str], said: str
) -> None:
    told = tell(*arguments)
    assert told.status == EXIT_USAGE
    assert said in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/predict/gone", EXIT_USAGE, "no model"),
        ("/predict/untold", EXIT_USAGE, "--body"),
        ("/wrong", EXIT_USAGE, "the row is short"),
        ("/moved", EXIT_USAGE, "/there"),
        ("/locked", 5, "PACELINE_KEY"),
    ],
)
def test_what_a_server_says_to_the_first_request_is_told(
    tell: Tell, peer: Peer, path: str, status: int, said: str
) -> None:
    body = [] if path.startswith("/predict") else ["--body", "1"]
    told = tell(peer.url(path), *QUICK, *body)
    assert (told.status, told.out) == (status, "")
    assert said in told.err


def test_no_server_is_told_with_its_address(tell: Tell) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        told = tell(f"http://127.0.0.1:{port}/predict/m")
    assert told.status == EXIT_UNREACHABLE
    assert "connection refused" in told.err
    assert f"127.0.0.1:{port}" in told.err


def test_a_server_that_speaks_no_tls_is_told(tell: Tell, peer: Peer) -> None:
    told = tell(peer.url("/any").replace("http:", "https:"), "--body", "1", "--timeout", "1s")
    assert told.status == EXIT_UNREACHABLE
    assert f"127.0.0.1:{peer.port}" in told.err


# --- The open loop --------------------------------------------------------------------------------


def _run(
    peer: Peer, path: str, when: Arrivals, connections: int, tell: loads.Tell | None = None
) -> Outcome:
    async def main() -> Outcome:
        target = Target(Wanted(peer.url(path), bodies=(b"1",)))
        origin, _ = await prepare(target, 10.0)
        what = Load(when, target.shots(when), connections, 20.0)
        return await Running(what, origin, RealClock(), tell).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def test_requests_are_sent_whether_or_not_others_were_answered() -> None:
    """No answer comes before all requests are there: a closed loop would wait for ever."""
    with Peer(gate=30) as peer:
        outcome = _run(peer, "/any", arrivals("constant", 1000, 0.03, 0, 0, NORMAL), 30)
    assert (outcome.ends == 200).all()
    assert outcome.done_s.min() >= outcome.sent_s.max()
    assert (outcome.sent_s >= outcome.due_s).all()


def test_what_waits_for_a_connection_waits_in_its_latency(peer: Peer) -> None:
    outcome = _run(peer, "/any", arrivals("constant", 1e5, 0.0003, 0, 0, NORMAL), 1)
    assert len(outcome.ends) == 30
    assert outcome.opened == 1
    assert (outcome.sent_s[1:] >= outcome.done_s[:-1]).all()  # one after the other
    assert (outcome.due_s[1:] < outcome.done_s[:-1]).any()  # though due before


def outcome_of(took_s: np.ndarray[Any, Any], lag_s: float, busy: float, wait_s: float = 0.0) -> Any:
    when = arrivals("constant", 1000, len(took_s) / 1000, 0, 0, NORMAL)
    lag = np.full(len(took_s), lag_s)
    outcome = Outcome(
        due_s=when.due_s,
        lag_s=lag,
        sent_s=when.due_s + lag + wait_s,
        done_s=when.due_s + took_s,
        first_s=np.empty(0),
        pieces=np.empty(0, np.int32),
        ends=np.full(len(took_s), 200, np.int16),
        opened=1,
        lasted_s=1.0,
        busy=busy,
        interrupted=False,
        gave_up=None,
        connect_trouble=None,
    )
    target = Target(Wanted("http://x/any", bodies=(b"1",)))
    return summarize(Load(when, target.shots(when), 1, 10.0), outcome, 0.03)


@pytest.mark.parametrize(
    ("lag_s", "busy", "wait_s", "told"),
    [
        (0.0001, 0.5, 0.0, True),
        (0.0015, 0.5, 0.0, True),  # above 1 ms, but below a tenth of what is reported
        (0.0025, 0.5, 0.0, False),
        (0.0001, 0.99, 0.0, True),
        (0.0001, 0.5, 0.015, True),  # the server's doing
        (0.0001, 0.99, 0.015, False),  # perhaps not
    ],
)
def test_no_times_are_told_where_this_command_was_late(
    lag_s: float, busy: float, wait_s: float, told: bool
) -> None:
    summary = outcome_of(np.full(1000, 0.02), lag_s, busy, wait_s)
    assert (summary.not_told is None) == told
    assert (summary.latency is not None) == (summary.goodput_rps is not None) == told
    assert (summary.met is not None) == told
    assert summary.lag.p99_ms == pytest.approx(lag_s * 1e3)
    if told:
        assert summary.latency.p99_ms == pytest.approx(20)  # from when it was due, not sent
    if not told:
        assert "this command itself" in summary.in_short
        assert all(each.latency is None for each in summary.models)


def test_a_fast_server_may_be_measured_with_a_lag_below_a_millisecond() -> None:
    assert outcome_of(np.full(1000, 0.0005), 0.0004, 0.5).not_told is None


def test_the_command_says_so_and_fails(
    tell: Tell, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_summary, "why_not", lambda *given: "it was late")
    told = tell(peer.url("/any"), *QUICK, "--body", "1")
    assert told.status == EXIT_USAGE
    assert "No times can be told: it was late" in told.out
    assert "lower --rate" in told.err
    assert not re.search(r"^answered ", told.out, re.MULTILINE)


def test_percentiles_are_samples() -> None:
    found = quantiles(np.arange(1, 1001) / 1000)
    assert found is not None
    assert (found.samples, found.p50_ms, found.p99_ms, found.max_ms) == (1000, 500, 990, 1000)
    assert quantiles(np.empty(0)) is None
    assert why_not(None, None, None, None) is None


def test_the_line_on_the_terminal_says_how_it_goes() -> None:
    glance = loads.Glance(
        at_s=3.0,
        total_s=12.0,
        warming=False,
        due=600,
        ended=580,
        waiting=7,
        rate=199.6,
        failed=3,
        p50_s=0.002,
        p99_s=0.01,
    )
    assert _line(glance).plain == (
        "3 of 12 s   200 answers/s   p50 2 ms, p99 10 ms   7 wait for a connection   3 failed"
    )


def test_whoever_looks_on_is_told(peer: Peer) -> None:
    seen: list[loads.Glance] = []
    _run(peer, "/any", arrivals("constant", 100, 0.6, 0, 0, NORMAL), 4, seen.append)
    assert len(seen) >= 2
    assert seen[-1].due > seen[0].due
    assert seen[-1].p99_s is not None


# --- Arrivals -------------------------------------------------------------------------------------


def test_constant_arrivals_are_evenly_apart() -> None:
    when = arrivals("constant", 50, 2, 1, 0, NORMAL)
    assert when.due_s == pytest.approx(np.arange(150) / 50)
    assert (when.counted_from, when.name) == (50, "constant:50")


def test_poisson_arrivals_have_the_rate_and_the_scatter() -> None:
    when = arrivals("poisson", 1000, 20, 1, 3, NORMAL)
    gaps = np.diff(when.due_s[when.counted_from :])
    assert gaps.mean() == pytest.approx(1e-3, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert (when.due_s == arrivals("poisson", 1000, 20, 1, 3, NORMAL).due_s).all()
    assert when.due_s[when.counted_from] >= 1


def test_too_many_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LimitReached):
        arrivals("poisson", LOAD_REQUESTS, 2, 0, 0, NORMAL)


def test_more_connections_than_open_files_are_refused(tell: Tell) -> None:
    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    try:
        told = tell("http://x/predict/m", "--connections", "290")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    assert told.status == EXIT_USAGE
    assert "ulimit -n 354" in told.err


def test_a_stream_is_read_however_it_is_cut() -> None:
    class Noted:
        first = array("d", [float("nan")])
        pieces = array("i", [0])
        done = array("d", [0.0])
        ends: ClassVar[list[int]] = []

        def now(self) -> float:
            return 5.0

        def ended(self, slot: object, end: int) -> None:
            self.ends.append(end)

    for size in (1, 7, len(STREAM)):
        run: Any = Noted()
        run.pieces = array("i", [0])
        slot = loads._StreamSlot(run, cast(Any, None))
        slot.index = 0
        slot.head(200, [(b"content-type", b"text/event-stream; charset=utf-8")])
        for at in range(0, len(STREAM), size):
            slot.body(STREAM[at : at + size])
        slot.end()
        assert (run.pieces[0], run.first[0], run.ends.pop()) == (3, 5.0, 200)


def test_weights_are_read() -> None:
    assert weights("a=3,b", "--model") == (("a", 3.0), ("b", 1.0))


def test_the_command_is_told_without_what_is_secret() -> None:
    asked = Asked("http://x/any", body=("1",), header=("cookie: secret",), binary=True)
    assert asked.command == "paceline load http://x/any --body 1 --binary --header 'cookie: ...'"


def test_a_body_for_binary_is_refused() -> None:
    with pytest.raises(Misuse):
        Target(Wanted("http://x/v2/models/m/infer", bodies=(b"1",), binary=True))
    with pytest.raises(BadInput):
        Target(Wanted("http://x/predict/m", key="a\nb"))


# --- The page -------------------------------------------------------------------------------------


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_needs_nothing_else(tell: Tell, peer: Peer, tmp_path: Path) -> None:
    place = tmp_path / "r.html"
    told = tell(peer.url("/<b>"), *QUICK, "--body", "1", "--slo", "30ms", "--report", str(place))
    assert told.status == EXIT_OK
    text = place.read_text()
    tags = Tags(text)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in tags.found}
    assert not any(name in attrs for _, attrs in tags.found for name in ("src", "href"))
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
    assert text.count('class="chart"') == 4
    assert tell(peer.url("/any"), *QUICK, "--body", "1", "--report", str(place)).status == EXIT_OK
    place.write_text("mine")
    assert tell(peer.url("/any"), *QUICK, "--report", str(place)).status == EXIT_USAGE
    assert place.read_text() == "mine"


def test_a_page_of_what_was_not_measured_draws_no_times(
    tell: Tell, peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_summary, "why_not", lambda *given: "it was late")
    place = tmp_path / "r.html"
    tell(peer.url("/any"), *QUICK, "--body", "1", "--report", str(place))
    text = place.read_text()
    assert "Not measured" in text
    assert "How long answers took" not in text
    assert text.count('class="chart"') == 2


# --- The connection -------------------------------------------------------------------------------


class Heard:
    """A receiver that writes down what it hears."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.over = asyncio.Event()

    def head(self, status: int, headers: Headers) -> None:
        self.said.append(status)

    def body(self, piece: bytes) -> None:
        self.said.append(piece)

    def end(self) -> None:
        self.said.append("end")
        self.over.set()

    def lost(self, why: Lost) -> None:
        self.said.append(why)
        self.over.set()


def exchange(sent: bytes, *, close: bool = True) -> tuple[list[Any], bool]:
    """What is heard of an answer, and whether the connection can be used again."""

    async def main() -> tuple[list[Any], bool]:
        served = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(sent)
            if close:
                writer.write_eof()
            with suppress(ConnectionError):
                await reader.read()
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            served.set()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            closed: list[ClientConnection] = []
            connection = await connect(Origin("127.0.0.1", port), closed.append)
            heard = Heard()
            connection.ask(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", heard)
            await asyncio.wait_for(heard.over.wait(), 10)
            free = connection.free
            connection.abort()
            await asyncio.wait_for(served.wait(), 10)
            assert closed == [connection]
            return heard.said, free

    return asyncio.run(main())


OK = b"HTTP/1.1 200 OK\r\n"


def joined(said: list[Any]) -> list[Any]:
    """Pieces of bytes next to each other as one."""
    whole: list[Any] = []
    for each in said:
        if isinstance(each, bytes) and whole and isinstance(whole[-1], bytes):
            whole[-1] += each
        else:
            whole.append(each)
    return whole


@pytest.mark.parametrize(
    ("sent", "heard", "free"),
    [
        (OK + b"content-length: 2\r\n\r\nab", [200, b"ab", "end"], True),
        (OK + b"content-length: 0\r\n\r\n", [200, "end"], True),
        (OK + b"connection: close\r\ncontent-length: 1\r\n\r\na", [200, b"a", "end"], False),
        (
            OK + b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
            [200, b"abc", "end"],
            True,
        ),
        (
            b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"content-length: 1\r\n\r\na",
            [200, b"a", "end"],
            True,
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", [204, "end"], True),
    ],
)
def test_an_answer_is_a_head_a_body_and_an_end(sent: bytes, heard: list[Any], free: bool) -> None:
    said, again = exchange(sent, close=False)
    assert joined(said) == heard
    assert again == free


@pytest.mark.parametrize(
    ("sent", "heard"),
    [
        (OK + b"\r\nuntil the end", [200, b"until the end", "end"]),
        (OK + b"content-length: 9\r\n\r\nabc", [200, b"abc", "cut"]),
        (OK + b"transfer-encoding: chunked\r\n\r\n5\r\nab", [200, b"ab", "cut"]),
        (OK, ["cut"]),
        (b"", ["closed"]),
        (b"220 mail.example\r\n", ["garbled"]),
        (OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\na", ["garbled"]),
        (OK + b"x: " + b"y" * (HEAD_BYTES + 1), ["garbled"]),
        (OK + b"content-length: 0\r\n\r\n" + OK + b"content-length: 0\r\n\r\n", [200, "garbled"]),
    ],
)
def test_an_answer_that_is_none_is_lost_with_its_reason(sent: bytes, heard: list[Any]) -> None:
    said, free = exchange(sent)
    assert joined(said) == heard
    assert not free


# --- The alarm ------------------------------------------------------------------------------------


def test_an_alarm_rings_once_and_never_early() -> None:
    async def main() -> list[float]:
        clock, loop = RealClock(), asyncio.get_running_loop()
        rang: list[float] = []
        over = asyncio.Event()

        def ring() -> None:
            rang.append(clock.now() - moments[len(rang)])
            if len(rang) < len(moments):
                alarm.set(moments[len(rang)])
            else:
                over.set()

        begun = clock.now()
        moments = [begun - 1, begun + 0.003, begun + 0.0031, begun + 0.02]
        alarm = Alarm(loop, ring)
        alarm.set(begun + 3600)
        alarm.set(moments[0])
        try:
            await asyncio.wait_for(over.wait(), 10)
            await clock.until(clock.now() + 0.005)
        finally:
            alarm.close()
        return rang

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        late = runner.run(main())
    assert len(late) == 4
    assert min(late) >= 0


def test_an_alarm_that_is_off_is_silent() -> None:
    async def main() -> int:
        clock = RealClock()
        rang: list[int] = []
        alarm = Alarm(asyncio.get_running_loop(), lambda: rang.append(1))
        alarm.set(clock.now() + 0.001)
        alarm.off()
        await clock.until(clock.now() + 0.005)
        alarm.close()
        return len(rang)

    assert asyncio.run(main()) == 0


def test_what_is_no_url_is_an_error_of_ours() -> None:
    for url in ("x", "http://", "http://x:99999/"):
        with pytest.raises(PacelineError):
            Target(Wanted(url))
