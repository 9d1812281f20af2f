"""Structured fuzzing of LLM calls: of what callers ask, and of what upstreams answer.

Calls to all addresses of both dialects, also crossed, are made from a grammar (`_llm_cases`): good
ones, and others with values, members or bytes changed; and so are the answers to them, which are
cut into pieces anywhere. Every answer of the front must be HTTP, one a request, none of them a 500
of ours; errors are what the vendors' SDKs raise the right class for; and what an SDK understands of
a good answer, in whatever form and pieces it came from the upstream, is what was meant. Nothing may
hang or crash, nor log a traceback. A good request every 100 ms must be answered meanwhile.

Some bounds of the front are lower, so that they are met: what is read and said in place, what is
translated as a whole, how long heads and bodies may take; no breaker opens, and pauses are short.

Each case comes from the seed and its number alone: `--seed S --only N` says it again. Those that
fail are written to llm_fuzz-faults.txt beside the result.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

import httpx2
import uvloop

from benchmarks import _llm_cases as cases
from benchmarks import _trouble, record
from benchmarks._beside import Probe
from benchmarks._heard import NotHttp
from benchmarks._llm_cases import Case, Meaning, Wanted, Wire
from benchmarks._llm_front import Front, front
from benchmarks._server import open_descriptors, pss_mb, stop
from benchmarks._trouble import Answer, Dialect, Hearing
from benchmarks.fuzz import PROBE_S, good
from benchmarks.peers.started import end_on_sigterm

WORKERS = 8
QUIET_S = 0.3
"""After so long without an answer to bytes that mean anything, it is said that no more comes."""

HANG_S = 20.0
WATCH_S = 0.5
SAY_S = 10.0
SETTLE_S = 10.0
WARM_UP = 0.2
GROWTH_MB = 12.0
"""More than that between warm-up and end is a leak."""

FAULTS_KEPT = 50
LONG_BYTES = 64 * 1024
COUNTING = "a front does not answer"
"""A front that is asked what is in it counts all its objects, and does nothing else meanwhile."""

RAW = "raw"
"""The provider of what is relayed as it is, whatever model it names: it answers always the same."""

RAW_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n"
    + b'{"data":[]}'
)
INSIDE_OURS = b"inside Paceline"
ERRORS_FROM = 400

BOUNDS = {
    "BREAKER_LEAST_CALLS": 10**9,
    "RETRY_AFTER_MOST_S": 0.02,
    "BACKOFF_MOST_S": 0.02,
    "LLM_READ_IN_PLACE_BYTES": 32 * 1024,
    "LLM_SAY_IN_PLACE_BYTES": 16 * 1024,
    "LLM_TRANSLATED_BYTES": 256 * 1024,
    "LLM_ARRIVES_S": 10.0,
}
"""The last is longer than a busy machine takes to say a case byte by byte."""


def settings(port: int) -> str:
    """Each worker has providers of its own, for an answer is that of the case it is at."""
    said = []
    for worker in range(WORKERS):
        for kind, name in (("openai", "gpt"), ("anthropic", "claude")):
            above = f"/w{worker}/v1" if kind == "openai" else f"/w{worker}"
            said.append(
                f"""
                [providers.{name}{worker}]
                kind = "{kind}"
                url = "http://127.0.0.1:{port}{above}"
                private = true
                [routes.w{worker}-{name}]
                targets = ["{name}{worker}/x"]
                retries = {worker % 2}
                """
            )
    said.append(
        f"""
        [providers.{RAW}]
        kind = "openai"
        url = "http://127.0.0.1:{port}/{RAW}/v1"
        private = true
        [routes.{RAW}]
        targets = ["{RAW}/x"]
        raw = ["/images/generations"]
        """
    )
    return "".join(said)


# --- The upstream ---------------------------------------------------------------------------------


class Answers:
    """What each worker's upstreams answer now."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.now: list[Case | None] = [None] * WORKERS
        self.wires: list[Wire | None] = [None] * WORKERS
        """the last one that was said"""

    def wire(self, worker: int, path: str, body: bytes) -> Wire | None:
        case = self.now[worker]
        if case is None:
            return None
        try:
            fields = json.loads(body, parse_int=float)  # an int of 5 000 digits is refused
        except (ValueError, RecursionError):  # passed on as it is; its sender says what it thinks
            fields = None
        fields = fields if isinstance(fields, dict) else {}
        options = fields.get("stream_options")
        dialect: Dialect = "anthropic" if path.endswith("/messages") else "openai"
        wanted = Wanted(
            dialect,
            bool(fields.get("stream")),
            isinstance(options, dict) and bool(options.get("include_usage")),
        )
        chance = random.Random(f"{self._seed} {case.number} {wanted}")
        wire = self.wires[worker] = cases.answered(chance, case, wanted)
        return wire


class Answering(asyncio.Protocol):
    """One connection to it."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._data = b""
        self._handle: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end:
            return
        length = head.lower().partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]
        if len(body) < int(length or b"0"):
            return
        self._data = b""
        path = head.split(b" ", 2)[1].partition(b"?")[0].decode()
        beginning = path.split("/")[1]
        if beginning == RAW:
            self._transport.write(RAW_ANSWER)
            return
        worker = int(beginning.removeprefix("w"))
        wire = self._answers.wire(worker, path, body)
        if wire is None:
            self._transport.abort()
            return
        self._say(cases.pieces(wire.said, wire.cuts), wire.closes)

    def _say(self, pieces: list[bytes], closes: bool) -> None:
        self._handle = None
        if self._transport.is_closing():
            return
        self._transport.write(pieces.pop(0))
        if pieces:
            self._handle = asyncio.get_running_loop().call_soon(self._say, pieces, closes)
        elif closes:
            self._transport.close()


# --- What the SDKs make of it ---------------------------------------------------------------------


class Sdks:
    """The official clients, over a transport that answers what the front did."""

    def __init__(self) -> None:
        # Seconds for who only reads the tests.
        import anthropic
        import openai

        self._now = httpx2.Response(500)
        http = httpx2.Client(transport=httpx2.MockTransport(lambda _: self._now), trust_env=False)
        key, retries = "k", 0
        self._openai: Any = openai.OpenAI(
            api_key=key, base_url="http://far/v1", http_client=http, max_retries=retries
        )
        self._anthropic: Any = anthropic.Anthropic(
            api_key=key, base_url="http://far", http_client=http, max_retries=retries
        )
        self._refusals: dict[Dialect, Any] = {
            "openai": openai.APIStatusError,
            "anthropic": anthropic.APIStatusError,
        }

    def understood(self, dialect: Dialect, answer: Answer, *, stream: bool) -> Meaning:
        """Whatever the SDK raises where it is no answer."""
        kept = {b"content-type", b"request-id", b"x-request-id", b"retry-after"}
        headers = [each for each in answer.headers.items() if each[0] in kept]
        self._now = httpx2.Response(answer.status, headers=headers, content=answer.body)
        if dialect == "openai":
            asked = self._openai.chat.completions
            if stream:
                return _of_chunks(asked.create(model="m", messages=[], stream=True))
            return _of_completion(asked.create(model="m", messages=[]))
        messages = self._anthropic.messages
        if stream:
            with messages.stream(model="m", max_tokens=1, messages=[]) as events:
                return _of_message(events.get_final_message())
        return _of_message(messages.create(model="m", max_tokens=1, messages=[]))

    def wrong_error(self, dialect: Dialect, answer: Answer) -> str:
        """Why an SDK does not raise what it should; empty where it does."""
        try:
            self.understood(dialect, answer, stream=False)
        except self._refusals[dialect] as error:
            said = error.body
            inner = said.get("error", said) if isinstance(said, dict) else None
            if error.status_code != answer.status:
                return f"the SDK sees status {error.status_code}"
            if not isinstance(inner, dict) or not isinstance(inner.get("message"), str):
                return f"the SDK finds no message in {said!r}"
            try:
                _trouble.check_error(dialect, json.loads(answer.body))
            except (NotHttp, ValueError, KeyError, TypeError) as wrong:
                return f"{type(wrong).__name__}: {wrong}"
            return ""
        return "the SDK raises nothing"


ENDED: Mapping[str | None, cases.Ended] = {
    "stop": "stop",
    "end_turn": "stop",
    "tool_calls": "tools",
    "tool_use": "tools",
    "length": "length",
    "max_tokens": "length",
}


def _of_completion(answer: Any) -> Meaning:
    (choice,) = answer.choices
    message = choice.message
    uses = tuple(
        (each.function.name, cases.canonical(json.loads(each.function.arguments)))
        for each in message.tool_calls or []
    )
    return Meaning(message.content or "", uses, ENDED[choice.finish_reason])


def _of_chunks(chunks: Any) -> Meaning:
    text, ended = "", None
    uses: dict[int, list[str]] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            ended = choice.finish_reason or ended
            for call in choice.delta.tool_calls or []:
                use = uses.setdefault(call.index, ["", ""])
                use[0] += call.function.name or ""
                use[1] += call.function.arguments or ""
    told = tuple((name, cases.canonical(json.loads(given))) for name, given in uses.values())
    return Meaning(text, told, ENDED[ended])


def _of_message(message: Any) -> Meaning:
    text = "".join(each.text for each in message.content if each.type == "text")
    uses = tuple(
        (each.name, cases.canonical(each.input))
        for each in message.content
        if each.type == "tool_use"
    )
    return Meaning(text, uses, ENDED[message.stop_reason])


# --- One case -------------------------------------------------------------------------------------


class Heard(NamedTuple):
    said: bytes
    fault: str = ""
    """a hang"""


async def held(port: int, case: Case) -> Heard:
    """Says it, and hears until its answer is whole, or the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    hearing, until_s = Hearing(), time.perf_counter() + HANG_S
    may_be_anything = case.how == "its bytes"
    patience_s = QUIET_S if may_be_anything else HANG_S
    try:
        with suppress(OSError):  # it may end while we speak; then what it said is heard
            for piece in cases.pieces(case.said, case.cuts):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        while time.perf_counter() < until_s:
            try:
                async with asyncio.timeout(patience_s):
                    piece = await reader.read(1 << 18)
            except TimeoutError:
                patience_s = HANG_S
                if may_be_anything and writer.can_write_eof():
                    writer.write_eof()
                continue
            hearing.heard += piece
            if not piece or (hearing.is_whole and not may_be_anything):
                return Heard(bytes(hearing.heard))
        told = f"no end within {HANG_S:.0f} s, {len(hearing.heard)} bytes heard"
        return Heard(bytes(hearing.heard), told)
    except OSError:
        return Heard(bytes(hearing.heard))
    finally:
        writer.close()


def answers(heard: bytes) -> list[Answer]:
    found = []
    while heard:
        if heard.startswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
            heard = heard[25:]
            continue
        answer, heard = _trouble.first(heard)
        if answer is None:
            raise NotHttp(f"an answer without a whole head: {heard[:80]!r}")
        found.append(answer)
    return found


def judged(case: Case, heard: bytes, wire: Wire | None, sdks: Sdks) -> str:
    """What is wrong with it; empty where nothing is."""
    if INSIDE_OURS in heard:
        return f"a fault inside Paceline: {heard[-300:]!r}"
    try:
        found = answers(heard)
    except (NotHttp, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    if case.how == "its bytes":  # what was asked may have become anything
        return "more answers than requests" if len(found) > 2 + case.said.count(b"HTTP/") else ""
    if len(found) != 1:
        return f"{len(found)} answers"
    (answer,) = found
    if case.how == "its answer":
        return _of_changed_answer(case, answer, wire, sdks)
    if answer.status >= ERRORS_FROM:
        wrong = sdks.wrong_error(case.dialect, answer)
        if wrong or case.how == "good" or answer.status >= 500:
            return f"{answer.status}: {wrong or answer.body[:300]!r}"
        return ""
    if case.how == "its body" or not case.is_chat:
        return "" if answer.is_whole else f"a broken answer: {answer.body[-300:]!r}"
    return _of_good_answer(case, answer, wire, sdks)


def _of_good_answer(case: Case, answer: Answer, wire: Wire | None, sdks: Sdks) -> str:
    assert wire is not None, "it was answered by nobody"
    try:
        told = sdks.understood(case.dialect, answer, stream=case.stream)
        if told == case.means and answer.is_whole:
            return ""
        fault = f"the SDK understands {told}"
    except Exception as error:  # noqa: BLE001 - whatever an SDK raises at a good answer is a fault
        fault = f"the SDK raises {type(error).__name__}: {error}"
    if not case.crossed and not understands(sdks, case, wire):
        return ""  # nor does it without a gateway
    return f"{fault}, instead of {case.means}; of {answer.body[-500:]!r}"


def understands(sdks: Sdks, case: Case, wire: Wire) -> bool:
    """Whether the SDK can do with this form of a good answer at all."""
    kind = b"text/event-stream" if case.stream else b"application/json"
    direct = Answer(200, {b"content-type": kind}, wire.body, True)
    try:
        return sdks.understood(case.provider, direct, stream=case.stream) == case.means
    except Exception:  # noqa: BLE001 - as above
        return False


def _of_changed_answer(case: Case, answer: Answer, wire: Wire | None, sdks: Sdks) -> str:
    """It may be anything in HTTP and its dialect; what is passed on as it is, is its sender's."""
    if answer.status < ERRORS_FROM or wire is None:
        return ""
    passed_on = not case.crossed and b"HTTP/1.1 %d " % answer.status in wire.said[:80]
    if passed_on:
        return ""
    wrong = sdks.wrong_error(case.dialect, answer)
    return f"{answer.status}: {wrong}: {answer.body[:300]!r}" if wrong else ""


# --- One run --------------------------------------------------------------------------------------


class Found(NamedTuple):
    seed: int
    seconds: float
    cases: int
    hows: Counter[str]
    faults: Sequence[str]
    faulty: int
    probes_ms: Sequence[float]
    wrong: Sequence[str]
    same_front: bool
    said: Sequence[str]
    """lines of the log that must not be"""
    memory_mb: Sequence[float]
    descriptors: tuple[int, int]
    kept: str

    @property
    def settled_mb(self) -> float:
        fifth = max(1, int(len(self.memory_mb) * WARM_UP))
        return max(self.memory_mb[fifth : 2 * fifth] or self.memory_mb)

    @property
    def last_mb(self) -> float:
        fifth = max(1, int(len(self.memory_mb) * WARM_UP))
        return sorted(self.memory_mb[-fifth:])[fifth // 2]

    def verdicts(self) -> list[record.Verdict]:
        return [
            record.Verdict(
                "every answer is HTTP and in the caller's dialect, and no SDK sees a difference; "
                "nothing hangs",
                f"{self.faulty} faults in {self.cases} calls",
                not self.faulty,
            ),
            record.Verdict(
                "a good request is answered rightly meanwhile",
                f"{len(self.wrong)} of {len(self.probes_ms)} were not",
                not self.wrong,
            ),
            record.Verdict(
                "no crash: the front is the same",
                f"{'the same' if self.same_front else 'another one'}, "
                f"{len(self.said)} lines of a fault in the log",
                self.same_front and not self.said,
            ),
            record.Verdict(
                "no leak of memory",
                f"{self.settled_mb:.1f} MB after the warm-up, {self.last_mb:.1f} MB at the end",
                self.last_mb <= self.settled_mb + GROWTH_MB,
            ),
            record.Verdict(
                "no leak of descriptors, calls, connections and tasks",
                f"{self.descriptors[0]} descriptors before, {self.descriptors[1]} after; "
                f"{self.kept or 'nothing more'} in the front",
                self.descriptors[1] <= self.descriptors[0] and not self.kept,
            ),
        ]


class Fuzzing:
    """Workers that take one number after the other: each those that leave its own remainder."""

    def __init__(self, serving: Front, answers: Answers, seed: int) -> None:
        self.cases = 0
        self.hows: Counter[str] = Counter()
        self.faults: list[str] = []
        self.faulty = 0
        self.memory_mb: list[float] = []
        self._serving = serving
        self._answers = answers
        self._seed = seed
        self._sdks = Sdks()

    async def run(self, seconds: float, *, quiet: bool) -> None:
        until_s = time.perf_counter() + seconds
        workers = [asyncio.create_task(self._work(each, until_s)) for each in range(WORKERS)]
        said_s = time.perf_counter()
        while time.perf_counter() < until_s and self._serving.is_there:
            await asyncio.sleep(WATCH_S)
            self.memory_mb.append(pss_mb(self._serving.pid))
            if not quiet and time.perf_counter() - said_s > SAY_S:
                said_s = time.perf_counter()
                print(
                    f"{self.cases} calls, {self.memory_mb[-1]:.1f} MB, {self.faulty} faults, "
                    f"{(until_s - said_s) / 60:.1f} minutes left",
                    file=sys.stderr,
                    flush=True,
                )
        await asyncio.gather(*workers)

    async def _work(self, worker: int, until_s: float) -> None:
        number = worker
        while time.perf_counter() < until_s:
            fault = await self.one(number)
            self.cases += 1
            if fault:
                self.faulty += 1
                if len(self.faults) < FAULTS_KEPT:
                    told = f"--seed {self._seed} --only {number}: {fault}"
                    self.faults.append(told)
                    print(f"  {told[:1000]}", file=sys.stderr, flush=True)
            number += WORKERS

    async def one(self, number: int) -> str:
        worker = number % WORKERS
        case = cases.case(self._seed, number, worker)
        self.hows[f"{case.how}, changed" if case.how != "good" else "good"] += 1
        self._answers.now[worker], self._answers.wires[worker] = case, None
        try:
            heard = await held(self._serving.port, case)
        except OSError as error:
            return f"no connection: {error}"
        finally:
            self._answers.now[worker] = None
        return heard.fault or judged(case, heard.said, self._answers.wires[worker], self._sdks)


def fuzz(seconds: float, seed: int, folder: Path, *, quiet: bool = False) -> Found:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loop = runner.get_loop()
        answering = Answers(seed)
        listening = runner.run(_listening(answering))
        port = listening.sockets[0].getsockname()[1]
        with closing(listening), front(folder, settings(port), BOUNDS) as serving:
            runner.run(_long_one(serving.port))
            inside, before = serving.inside(), open_descriptors(serving.pid)
            probe, begun_s = Probe(serving.port, PROBE_S, good), time.perf_counter()
            probe.start()
            fuzzing = Fuzzing(serving, answering, seed)
            runner.run(fuzzing.run(seconds, quiet=quiet))
            took_s = time.perf_counter() - begun_s
            probe.stop()
            said = serving.said
            same_front, after, kept = serving.is_there, 0, ""
            give_up_s = loop.time() + SETTLE_S
            while same_front:
                runner.run(asyncio.sleep(WATCH_S))  # connections of the front close here
                after = open_descriptors(serving.pid)
                kept = serving.inside().more_than(inside)
                if (after <= before and not kept) or loop.time() > give_up_s:
                    break
            stop(serving.server)
            said += [each for each in serving.said[len(said) :] if COUNTING not in each]
    return Found(
        seed,
        took_s,
        fuzzing.cases,
        fuzzing.hows,
        fuzzing.faults,
        fuzzing.faulty,
        probe.took_ms,
        probe.wrong,
        same_front,
        said,
        fuzzing.memory_mb,
        (before, after),
        kept,
    )


async def _long_one(port: int) -> None:
    """So that the process for long bodies is there before it is counted what there is."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"model": "nobody's", "messages": ["x" * LONG_BYTES]}).encode()
    head = b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
    writer.write(head % (_trouble.PATHS["openai"].encode(), len(body)) + body)
    if not (await reader.readline()).startswith(b"HTTP/1.1 404 "):
        raise SystemExit("a long body is not refused")
    writer.close()


async def _listening(answers: Answers) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Answering(answers), "127.0.0.1", 0, backlog=256)


def again(seed: int, number: int) -> None:
    """One case, shown."""
    case = cases.case(seed, number, number % WORKERS)
    print(f"{case._replace(said=b'', cuts=())}\nsays {case.said[:3000]!r}\ncut at {case.cuts[:50]}")
    with (
        TemporaryDirectory(prefix="pl-llm-fuzz-") as name,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        answering = Answers(seed)
        listening = runner.run(_listening(answering))
        port = listening.sockets[0].getsockname()[1]
        with closing(listening), front(Path(name), settings(port), BOUNDS) as serving:
            worker = number % WORKERS
            answering.now[worker] = case
            heard = runner.run(held(serving.port, case))
            wire = answering.wires[worker]
            stop(serving.server)
        if wire is not None:
            print(f"its upstream says {wire.said[:3000]!r}\ncut at {wire.cuts[:50]}")
        print(f"hears {heard.said[:3000]!r}")
        print(f"fault: {heard.fault or judged(case, heard.said, wire, Sdks()) or 'none'}")
        print((serving.folder / "log").read_text())


def main() -> None:
    options = argparse.ArgumentParser(
        prog="./bench llm_fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--minutes", type=float, default=30.0, metavar="N")
    options.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    options.add_argument("--only", type=int, metavar="NUMBER", help="say one case again")
    options.add_argument("--out", type=Path, default=record.RESULTS, metavar="FOLDER")
    asked = options.parse_args()
    end_on_sigterm()
    print(f"seed {asked.seed}", flush=True)
    if asked.only is not None:
        again(asked.seed, asked.only)
        return
    with TemporaryDirectory(prefix="pl-llm-fuzz-") as name:
        found = fuzz(60 * asked.minutes, asked.seed, Path(name))
    told = [*found.faults, *found.wrong[:FAULTS_KEPT], *found.said[:FAULTS_KEPT]]
    for line in told:
        print(f"  {line[:1000]}")
    faults = asked.out / "llm_fuzz-faults.txt"
    faults.unlink(missing_ok=True)
    if told:
        asked.out.mkdir(exist_ok=True)
        faults.write_text("\n".join(told) + "\n")
    took = sorted(found.probes_ms)
    record.write(
        "llm_fuzz",
        workload={
            "seed": found.seed,
            "minutes": round(found.seconds / 60, 2),
            "calls at once": WORKERS,
            **found.hows,
        },
        figures=[
            record.figure("calls", "", [found.cases]),
            record.figure("a second", "per s", [found.cases / found.seconds]),
            record.figure("good request meanwhile, p50", "ms", [took[len(took) // 2]]),
            record.figure("good request meanwhile, p99", "ms", [took[int(len(took) * 0.99)]]),
            record.figure("memory of the front, settled", "MB", [found.settled_mb]),
            record.figure("memory of the front, at the end", "MB", [found.last_mb]),
        ],
        verdicts=found.verdicts(),
        packages=["openai", "anthropic", "httptools", "uvloop", "msgspec", "orjson"],
        folder=asked.out,
    )


if __name__ == "__main__":
    main()
