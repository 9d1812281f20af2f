"""What a gateway does where something is wrong, or somebody leaves: as the official SDK sees it.

Each function makes one thing happen and says what came of it, in figures and in words. It judges
nothing: `_gateway_report` knows what ours must do. Called by `gateway`.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks._streams import raw
from benchmarks._upstream import MODEL, Manner
from benchmarks.peers.gateways.relaying import Relaying, body

if TYPE_CHECKING:
    import openai  # where it is needed: that takes seconds

TOGETHER = 100
SLOW = Manner(delay_ms=300.0)
"""So that all who ask at once are there before the first is answered."""

NEVER = Manner(delay_ms=20_000.0)
FLOWING = Manner(gap_ms=20.0, chunks=500)
CUT = Manner(gap_ms=5.0, chunks=50, cut_after=10)
LEAVERS = 5
WITHIN_MS = 100.0
PATIENCE_S = 2.0
PAUSE_S = 0.002
READ_S = 10.0
MESSAGES = [{"role": "user", "content": "Say one word."}]


class Came(NamedTuple):
    """What came of it: figures by name, and words."""

    figures: Mapping[str, float]
    words: str


# --- The official SDK -----------------------------------------------------------------------------


def client(up: Relaying, key: str | None = None) -> "openai.OpenAI":
    """Without retries: what is answered the first time is what is wanted to be known."""
    import openai

    headers = dict(up.headers)
    sent = headers.pop("authorization").removeprefix("Bearer ")
    return openai.OpenAI(
        base_url=f"{up.url}/v1",
        api_key=key or sent,
        default_headers=headers,
        max_retries=0,
        timeout=READ_S,
    )


def called(up: Relaying, call: Callable[[], object]) -> Came:
    """Status and class of an error, or that there was none; and whether the upstream was asked."""
    import openai

    before = up.upstream.seen().calls
    try:
        call()
        status, words = 200.0, "no error"
    except openai.APIStatusError as error:
        status = float(error.status_code)
        said = " ".join(error.response.text.split())
        words = f"{type(error).__name__} code={error.code} type={error.type}: {said[:90]}"
    except openai.APIError as error:
        status, words = 0.0, f"{type(error).__name__}: {error}"
    asked = up.upstream.seen().calls - before
    return Came({"status": status, "upstream_calls": asked}, words)


def _posted(up: Relaying, content: bytes) -> Came:
    with client(up) as sdk:
        return called(
            up, lambda: sdk.post("/chat/completions", cast_to=dict[str, Any], content=content)
        )


def _asked(up: Relaying, key: str | None = None, model: str = MODEL) -> Came:
    with client(up, key) as sdk:
        completions: Any = sdk.chat.completions
        return called(up, lambda: completions.create(model=model, messages=MESSAGES))


def malformed(up: Relaying) -> Came:
    return _posted(up, body()[:-20])


def a_list(up: Relaying) -> Came:
    return _posted(up, b"[" + body() + b"]")


def no_messages(up: Relaying) -> Came:
    return _posted(up, b'{"model":"%s"}' % MODEL.encode())


def unknown_model(up: Relaying) -> Came:
    return _asked(up, model="no-such-model")


def wrong_key(up: Relaying) -> Came:
    return _asked(up, key="sk-bench-somebody-else-77aa01c4")


def upstream_429(up: Relaying) -> Came:
    return _with_status(up, 429)


def upstream_500(up: Relaying) -> Came:
    return _with_status(up, 500)


def _with_status(up: Relaying, status: int) -> Came:
    up.upstream.be(Manner(status=status))
    return _asked(up)


def cut_stream(up: Relaying) -> Came:
    """`clean` is 1 where the SDK ends as after a whole answer: the caller cannot know."""
    import openai

    up.upstream.be(CUT)
    pieces = 0
    with client(up) as sdk:
        completions: Any = sdk.chat.completions
        try:
            for chunk in completions.create(model=MODEL, messages=MESSAGES, stream=True):
                pieces += bool(chunk.choices and chunk.choices[0].delta.content)
        except openai.APIError as error:
            kind = f"{type(error).__name__} code={error.code} type={error.type}"
            return Came({"clean": 0, "pieces": pieces}, f"{kind}: {error.message[:90]}")
        except Exception as error:  # noqa: BLE001 - what the SDK lets through is what is told
            return Came({"clean": 0, "pieces": pieces}, f"{type(error).__name__}: {error}")
    return Came({"clean": 1, "pieces": pieces}, "ends as if it were whole")


def end_of_cut_stream(up: Relaying) -> Came:
    """The bytes: an error event, [DONE], and whether HTTP itself says that it is whole."""
    up.upstream.be(CUT)
    said = b""
    with _sent(up, stream=True) as connection:
        try:
            while piece := connection.recv(65536):
                said += piece
                if said.endswith(b"\r\n0\r\n\r\n"):
                    break
        except OSError:
            pass  # reset: nothing follows
    figures = {
        "error_event": float(b'"error"' in said),
        "done": float(b"[DONE]" in said),
        "whole": float(said.endswith(b"0\r\n\r\n")),
    }
    told = [
        "an error event" if figures["error_event"] else "no error event",
        "[DONE]" if figures["done"] else "no [DONE]",
        "a whole body" if figures["whole"] else "a cut body",
    ]
    return Came(figures, ", ".join(told))


# --- Those who leave, and those who ask the same --------------------------------------------------


def left_plain(up: Relaying) -> Came:
    return _left(up, NEVER, stream=False)


def left_stream(up: Relaying) -> Came:
    return _left(up, FLOWING, stream=True)


def _left(up: Relaying, manner: Manner, *, stream: bool) -> Came:
    """How long after a caller closed its connection the upstream saw that; the worst of some."""
    up.upstream.be(manner)
    took_ms = []
    for _ in range(LEAVERS):
        before = up.upstream.seen()
        connection = _sent(up, stream=stream)
        if stream:
            connection.recv(1)
        _until(lambda before=before: up.upstream.seen().calls > before.calls)  # type: ignore[misc]
        left_s = time.perf_counter()
        connection.close()
        if _until(lambda: up.upstream.seen().left_s[-1:] > [left_s]):  # noqa: B023 - called at once
            took_ms.append((up.upstream.seen().left_s[-1] - left_s) * 1e3)
    within = sum(each <= WITHIN_MS for each in took_ms) / LEAVERS
    figures = {"within_100_ms": within, "seen": len(took_ms) / LEAVERS}
    if not took_ms:
        return Came(figures, f"the upstream goes on, {PATIENCE_S:g} s later too")
    return Came({**figures, "worst_ms": max(took_ms)}, "")


def _until(there: Callable[[], bool]) -> bool:
    until_s = time.perf_counter() + PATIENCE_S
    while time.perf_counter() < until_s:
        if there():
            return True
        time.sleep(PAUSE_S)
    return False


def _sent(up: Relaying, *, stream: bool) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", up.port), READ_S)
    connection.sendall(raw(up.asked(body(stream=stream))))
    return connection


def identical(up: Relaying) -> Came:
    """A hundred of the same call at once, and again when all are answered."""
    up.upstream.be(SLOW)
    calls = []
    for _ in range(2):
        before = up.upstream.seen().calls
        answered = asyncio.run(_together(up))
        calls.append(up.upstream.seen().calls - before)
    figures = {"upstream_calls": calls[0], "again": calls[1], "answered": answered}
    return Came(figures, "")


async def _together(up: Relaying) -> int:
    request = raw(up.asked(body("Is this asked a hundred times at once?")))

    async def ask() -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", up.port)
        try:
            writer.write(request)
            async with asyncio.timeout(READ_S):
                return (await reader.readline()).startswith(b"HTTP/1.1 200")
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()

    return sum(await asyncio.gather(*(ask() for _ in range(TOGETHER))))


def still_answers(up: Relaying) -> Came:
    """After all this, a good call."""
    up.upstream.be(Manner())
    try:
        up.probe()
    except (OSError, ValueError) as error:
        return Came({"right": 0}, f"{type(error).__name__}: {error}")
    return Came({"right": 1}, "")


BEHAVIOURS: dict[str, Callable[[Relaying], Came]] = {
    "100 identical at once": identical,
    "upstream cuts the stream: SDK": cut_stream,
    "upstream cuts the stream: bytes": end_of_cut_stream,
    "caller leaves a plain call": left_plain,
    "caller leaves a stream": left_stream,
    "malformed JSON": malformed,
    "body is a list": a_list,
    "no messages": no_messages,
    "unknown model": unknown_model,
    "wrong key": wrong_key,
    "upstream 429": upstream_429,
    "upstream 500": upstream_500,
    "still answers": still_answers,
}


def came(up: Relaying, what: str) -> Came:
    """With an upstream that answers at once, unless it is to do otherwise."""
    up.upstream.be(Manner())
    return BEHAVIOURS[what](up)
