"""Calls of LLMs and answers to them, made from a grammar: good in every form, or changed.

A case comes from the seed and its number alone. What is asked: bodies of all addresses of both
dialects, with tools, pictures and options; or such a one with values, members and bytes changed, or
bytes of its head. What is answered: the same meaning in any form that HTTP, JSON and SSE leave
open, in any pieces; or with values, statuses and bytes changed. Pure. Called by `llm_fuzz`.
"""

import json
import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Literal, NamedTuple

from benchmarks import fuzz
from benchmarks._trouble import MODELS, PATHS, Dialect

Ended = Literal["stop", "tools", "length"]
How = Literal["good", "its body", "its bytes", "its answer"]
"""What of a case is changed."""

HOWS: Sequence[How] = ("good", "its body", "its bytes", "its answer")
SHARES = (4, 3, 1.5, 1.5)

OTHERS: Sequence[str] = (
    "/v1/completions",
    "/v1/embeddings",
    "/v1/moderations",
    "/v1/responses",
    "/v1/messages/count_tokens",
    "/v1/images/generations",
)


class Meaning(NamedTuple):
    """What an answer says, in whichever dialect. `uses` are names of tools, and arguments as JSON
    with its members in order."""

    text: str
    uses: tuple[tuple[str, str], ...]
    ended: Ended


class Case(NamedTuple):
    number: int
    how: How
    path: str
    dialect: Dialect
    """of the address"""
    provider: Dialect
    stream: bool
    said: bytes
    cuts: tuple[int, ...]
    means: Meaning

    @property
    def crossed(self) -> bool:
        return self.dialect != self.provider

    @property
    def is_chat(self) -> bool:
        return self.path in PATHS.values()


class Raw(NamedTuple):
    """A value of JSON as it is written, right or wrong."""

    said: bytes


class Pairs(NamedTuple):
    """An object as it is written: a name may come twice."""

    members: list[tuple[str, Any]]


def case(seed: int, number: int, worker: int) -> Case:
    """`worker` is in the names of models, so that those at work at once have upstreams of their
    own."""
    chance = random.Random(f"{seed} {number}")
    (how,) = chance.choices(HOWS, SHARES)
    dialect: Dialect = chance.choice(("openai", "anthropic"))
    provider: Dialect = chance.choice(("openai", "anthropic"))
    path = PATHS[dialect]
    if how in ("its body", "its bytes") and chance.random() < 0.4:
        path = chance.choice(OTHERS)
        dialect = "anthropic" if path.startswith("/v1/messages") else "openai"
        provider = dialect
    stream = chance.random() < 0.6 and (path in PATHS.values() or path == "/v1/responses")
    tree = deepcopy(a_body(chance, path, f"w{worker}-{MODELS[provider]}", stream=stream))
    if dialect != provider and how in ("good", "its answer"):
        for name in UNTRANSLATED:
            tree.pop(name, None)
    if how == "its body":
        for _ in range(chance.choice([1, 1, 1, 2, 4])):
            tree = changed(chance, tree)
    body = written(tree, chance)
    if how == "its body" and chance.random() < 0.2:
        body = fuzz.changed(chance, body)
    said = framed(chance, path, dialect, body, risky=how == "its bytes")
    if how == "its bytes":
        said = fuzz.changed(chance, said if chance.random() < 0.8 else looked_up(chance))
    cuts = fuzz.cut(chance, len(said))
    return Case(number, how, path, dialect, provider, stream, said, cuts, meaning(chance))


# --- What is asked --------------------------------------------------------------------------------

TEXTS = (
    "Hi", "", " ", "What is it?",
    "Grüße, 你好, 👩‍👩‍👧 \u2028\u2029 \ufeff", '"quotes" \\ and \n lines \t',
    "data: [DONE]\n\n", "\x00\x1f\x7f", "a" * 3000, "event: error\r\n\r\ndata: {}",
)  # fmt: skip
UNTRANSLATED = ("seed", "x_unknown")
"""Members that cannot be said in the other dialect, and are refused."""

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def text(chance: random.Random) -> str:
    said = "".join(chance.choice(TEXTS) for _ in range(chance.choice([1, 1, 2, 3])))
    if chance.random() < 0.04:
        said += "".join(chance.choices("abcdefgh ü€𝄞", k=40_000))
    return said or "Hi"


def a_body(chance: random.Random, path: str, model: str, *, stream: bool) -> Any:
    bodies: dict[str, Callable[[random.Random], dict[str, Any]]] = {
        "/v1/chat/completions": a_chat,
        "/v1/messages": a_message,
        "/v1/messages/count_tokens": a_message,
        "/v1/completions": lambda chance: {"prompt": text(chance), "max_tokens": 5},
        "/v1/embeddings": lambda chance: {"input": [text(chance)] * chance.choice([1, 2])},
        "/v1/moderations": lambda chance: {"input": text(chance)},
        "/v1/responses": lambda chance: {"input": text(chance), "instructions": text(chance)},
        "/v1/images/generations": lambda chance: {"prompt": text(chance), "size": "16x16"},
    }
    fields = [*bodies[path](chance).items(), ("model", model)]
    if stream:
        fields.append(("stream", True))
    if path == "/v1/messages/count_tokens":
        fields = [each for each in fields if each[0] != "max_tokens"]
    chance.shuffle(fields)
    return dict(fields)


def a_chat(chance: random.Random) -> dict[str, Any]:
    turns: list[Any] = []
    if chance.random() < 0.5:
        turns.append({"role": chance.choice(["system", "developer"]), "content": text(chance)})
    parts: list[Any] = [{"type": "text", "text": text(chance)}]
    if chance.random() < 0.3:
        url = f"data:image/png;base64,{PIXEL}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    turns.append({"role": "user", "content": chance.choice([text(chance), parts])})
    said: dict[str, Any] = {"messages": turns}
    if chance.random() < 0.4:
        function = {"name": "weather", "description": text(chance), "parameters": SCHEMA}
        said["tools"] = [{"type": "function", "function": function}]
        said["tool_choice"] = chance.choice(["auto", "none", "required"])
        if chance.random() < 0.5:
            call = {"name": "weather", "arguments": '{"city": "Bern"}'}
            uses = [{"id": "call_1", "type": "function", "function": call}]
            turns.append({"role": "assistant", "content": None, "tool_calls": uses})
            turns.append({"role": "tool", "tool_call_id": "call_1", "content": text(chance)})
    if chance.random() < 0.3:
        said["stream_options"] = {"include_usage": chance.random() < 0.7}
    optional = [
        ("temperature", 0.5),
        ("max_tokens", 50),
        ("max_completion_tokens", 50),
        ("stop", ["\n\n"]),
        ("user", "u"),
        ("seed", 7),
        ("x_unknown", {"a": [1, None]}),
    ]
    return {**said, **dict(chance.sample(optional, chance.choice([0, 1, 3])))}


def a_message(chance: random.Random) -> dict[str, Any]:
    parts: list[Any] = [{"type": "text", "text": text(chance)}]
    if chance.random() < 0.3:
        source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
        parts.append({"type": "image", "source": source})
    turns: list[Any] = [{"role": "user", "content": chance.choice([text(chance), parts])}]
    said: dict[str, Any] = {"messages": turns, "max_tokens": 50}
    if chance.random() < 0.4:
        block = {"type": "text", "text": text(chance), "cache_control": {"type": "ephemeral"}}
        said["system"] = chance.choice([text(chance), [block]])
    if chance.random() < 0.4:
        said["tools"] = [{"name": "weather", "input_schema": SCHEMA}]
        said["tool_choice"] = {"type": chance.choice(["auto", "any", "none"])}
        if chance.random() < 0.5:
            use = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Bern"}}
            result = {"type": "tool_result", "tool_use_id": "t1", "content": text(chance)}
            turns.append({"role": "assistant", "content": [use]})
            turns.append({"role": "user", "content": [result]})
    optional = [
        ("temperature", 0.5),
        ("stop_sequences", ["END"]),
        ("metadata", {"user_id": "u"}),
        ("x_unknown", {"a": [1, None]}),
    ]
    return {**said, **dict(chance.sample(optional, chance.choice([0, 1, 3])))}


def framed(
    chance: random.Random, path: str, dialect: Dialect, body: bytes, *, risky: bool
) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    if dialect == "anthropic":
        lines.append("anthropic-version: 2023-06-01")
    known = [
        "accept: application/json",
        "authorization: Bearer sk-anything",
        "x-api-key: sk-anything",
        "x-request-id: fuzz",
        "x-stainless-lang: python",
        "openai-beta: x=v1",
        "anthropic-beta: y-2025-01-01",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "x-priority: high",
        "x-timeout-ms: 10000",
        "cookie: a=b; c=d",
    ]
    lines += chance.sample(known, chance.choice([0, 1, 3]))
    if risky:
        lines += fuzz.some_headers(chance)
    if chance.random() < 0.2 and not any("upgrade" in line for line in lines):
        lines.append("Transfer-Encoding: chunked")
        body = fuzz.in_chunks(chance, body)
    else:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def looked_up(chance: random.Random) -> bytes:
    """What has no body, and addresses that may not be there."""
    method = chance.choice(["GET", "GET", "GET", "DELETE", "OPTIONS", "PUT"])
    path = chance.choice(
        [
            "/v1/models",
            "/v1/models/w0-gpt",
            "/v1/models/no%2Fmodel%20at%20all",
            "/v1/models?limit=1&after_id=w0-gpt&before_id=",
            "/v1/models?limit=99999999999999999999&after_id=%00%ff",
            "/v1/chat/completions",
            "/v1/messages/batches",
            "/v1/files/../../etc/passwd",
            "/v1/" + "x" * 5000,
            "/v1//",
        ]
    )
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", *fuzz.some_headers(chance)]
    if chance.random() < 0.5:
        lines.append("anthropic-version: 2023-06-01")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


# --- JSON, right or wrong -------------------------------------------------------------------------


def written(tree: Any, chance: random.Random) -> bytes:
    """In one of the many ways in which it can be."""
    ascii_only, colon, comma = chance.choice(
        [(False, b":", b","), (True, b": ", b", "), (False, b" :\t", b"\n,")]
    )
    return _written(tree, ascii_only=ascii_only, colon=colon, comma=comma)


def _written(tree: Any, *, ascii_only: bool, colon: bytes, comma: bytes) -> bytes:
    again = partial(_written, ascii_only=ascii_only, colon=colon, comma=comma)
    if isinstance(tree, Raw):
        return tree.said
    if isinstance(tree, Pairs | dict):
        members = tree.members if isinstance(tree, Pairs) else [*tree.items()]
        return b"{%b}" % comma.join(again(name) + colon + again(each) for name, each in members)
    if isinstance(tree, list):
        return b"[%b]" % comma.join(again(each) for each in tree)
    return json.dumps(tree, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


WILD: Sequence[Callable[[], Any]] = (
    lambda: None, lambda: True, lambda: False, lambda: 0, lambda: -1, lambda: 1.5, lambda: "",
    lambda: [], lambda: {}, lambda: "x" * 100_000, lambda: 2**63, lambda: 2**64, lambda: -(2**63),
    lambda: 1e308, lambda: [None], lambda: [[]], lambda: {"": ""}, lambda: "\u2028", lambda: "*",
    lambda: list(range(3000)), lambda: "../../etc/passwd", lambda: "data:image/png;base64,!!!",
    lambda: "data:,", lambda: "http://127.0.0.1/", lambda: {"type": "text"}, lambda: "text",
    lambda: Raw(b"[" * 100 + b"]" * 100), lambda: Raw(b"[" * 3000 + b"]" * 3000),
    lambda: Raw(b'{"a":' * 600 + b"1" + b"}" * 600), lambda: Raw(b"1e400"),
    lambda: Raw(b"9" * 5000),
    lambda: Raw(b"-0"), lambda: Raw(b"NaN"), lambda: Raw(b"Infinity"), lambda: Raw(b'"\\ud800"'),
    lambda: Raw(b'"\\udc00\\ud800"'), lambda: Raw(b'"\xff\xfe"'), lambda: Raw(b'"\xed\xa0\x80"'),
    lambda: Raw(b'"\\u0000"'), lambda: Raw(b'"\x00"'), lambda: Raw(b"'a'"), lambda: Raw(b"1."),
    lambda: Raw(b""), lambda: Raw(b"\xef\xbb\xbf{}"), lambda: Raw(b"{} {}"), lambda: Raw(b'"\\x"'),
    lambda: Raw(b"[1,]"), lambda: Raw(b"01"), lambda: Raw(b'"' + b"\\u0041" * 2000 + b'"'),
    lambda: Raw(b"1" + b"0" * 400), lambda: Raw(b"0." + b"0" * 500 + b"1"), lambda: Raw(b"/**/1"),
)  # fmt: skip

NAMES = (
    "model", "messages", "stream", "stream_options", "tools", "content", "role", "type", "system",
    "max_tokens", "choices", "delta", "usage", "error", "index", "id", "", "\ud800", "a" * 2000,
)  # fmt: skip


def changed(chance: random.Random, tree: Any) -> Any:
    """One value or member of it, anywhere."""
    places: list[tuple[Any, Any]] = []
    _walk(tree, places)
    if not places:
        return chance.choice(WILD)()
    holder, at = chance.choice(places)
    members: Any = holder.members if isinstance(holder, Pairs) else holder
    what = chance.randrange(7)
    wild = chance.choice(WILD)()
    if what <= 2:
        members[at] = (members[at][0], wild) if isinstance(holder, Pairs) else wild
    elif what == 3:
        del members[at]
    elif isinstance(holder, list):
        members[at] = [members[at]] if what == 4 else {"type": members[at]}
    elif isinstance(holder, Pairs):
        members.append((members[at][0], wild))
    elif what == 4:  # twice
        return _replaced(tree, holder, Pairs([*holder.items(), (at, wild)]))
    elif what == 5:
        holder[chance.choice(NAMES)] = holder.pop(at)
    else:
        holder[chance.choice(NAMES)] = wild
    return tree


def _walk(tree: Any, places: list[tuple[Any, Any]]) -> None:
    if isinstance(tree, Raw | str):
        return
    if isinstance(tree, Pairs):
        places += [(tree, at) for at in range(len(tree.members))]
        for _, each in tree.members:
            _walk(each, places)
    elif isinstance(tree, dict):
        places += [(tree, name) for name in tree]
        for each in tree.values():
            _walk(each, places)
    elif isinstance(tree, list) and len(tree) < 1000:
        places += [(tree, at) for at in range(len(tree))]
        for each in tree:
            _walk(each, places)


def _replaced(tree: Any, old: Any, new: Any) -> Any:
    if tree is old:
        return new
    if isinstance(tree, Raw):
        return tree
    if isinstance(tree, Pairs):
        return Pairs([(name, _replaced(each, old, new)) for name, each in tree.members])
    if isinstance(tree, dict):
        return {name: _replaced(each, old, new) for name, each in tree.items()}
    if isinstance(tree, list):
        return [_replaced(each, old, new) for each in tree]
    return tree


# --- What is answered -----------------------------------------------------------------------------


class Wire(NamedTuple):
    """An answer as it is sent, and its body, which an SDK may be given without a gateway."""

    said: bytes
    cuts: tuple[int, ...]
    closes: bool
    body: bytes


class Wanted(NamedTuple):
    """What an upstream is asked, as far as it matters for what it answers."""

    dialect: Dialect
    stream: bool
    usage: bool


def meaning(chance: random.Random) -> Meaning:
    uses = []
    if chance.random() < 0.3:
        for _ in range(chance.choice([1, 2])):
            given = {"city": text(chance), "n": chance.choice([0, -7, 12345678901234567890])}
            uses.append(("weather", canonical(given)))
    said = "" if uses and chance.random() < 0.5 else text(chance)
    ended: Ended = "tools" if uses else chance.choice(["stop", "stop", "length"])
    return Meaning(said, tuple(uses), ended)


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def answered(chance: random.Random, of: Case, wanted: Wanted) -> Wire:
    """What the upstream says to it: right unless the case is about that."""
    is_changed = of.how == "its answer"
    where = chance.choice(["values", "values", "bytes", "status"]) if is_changed else ""
    if not of.is_chat:
        tree: Any = {"object": "anything", "id": "x", "data": [1, 2.5, None, text(chance)]}
        if of.path == "/v1/responses" and wanted.stream:
            return _sent(chance, 200, _events(chance, responses(of.means, tree)), sse=True)
        return _sent(chance, 200, written(tree, chance), sse=False)
    if where == "status":
        return _refused(chance, wanted.dialect)
    if wanted.stream:
        events = deepcopy(streamed(chance, of.means, wanted))
        if where == "values":
            at = chance.randrange(len(events))
            for _ in range(chance.choice([1, 1, 3])):
                events[at] = (events[at][0], changed(chance, events[at][1]))
            if chance.random() < 0.2:
                del events[chance.randrange(len(events)) :]
            if chance.random() < 0.2:
                chance.shuffle(events)
        wire = _sent(chance, 200, _events(chance, events), sse=True)
    else:
        tree = deepcopy(whole(of.means, wanted.dialect))
        if where == "values":
            for _ in range(chance.choice([1, 1, 3])):
                tree = changed(chance, tree)
        wire = _sent(chance, 200, written(tree, chance), sse=False)
    if where == "bytes":
        said = fuzz.changed(chance, wire.said)
        wire = Wire(said, fuzz.cut(chance, len(said)), True, wire.body)
    return wire


def _refused(chance: random.Random, dialect: Dialect) -> Wire:
    status = chance.choice([301, 400, 401, 403, 404, 408, 409, 413, 418, 422, 429, 500, 503, 529])
    inner = {"type": "invalid_request_error", "message": text(chance), "code": 7, "param": None}
    tree: Any = {"error": inner} if dialect == "openai" else {"type": "error", "error": inner}
    if chance.random() < 0.6:
        tree = changed(chance, tree)
    body = chance.choice([written(tree, chance), b"<html>Bad</html>", b"", b"\xff\x00", b"null"])
    lines = chance.choice([b"", b"retry-after: 1\r\n", b"x-should-retry: false\r\n"])
    return _sent(chance, status, body, sse=False, lines=lines)


Events = list[tuple[str | None, Any]]
"""Names, and trees of JSON; a Raw is said as it is."""


def whole(means: Meaning, dialect: Dialect) -> Any:
    if dialect == "openai":
        calls = [
            {"id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": given}}
            for at, (name, given) in enumerate(means.uses)
        ]
        message: dict[str, Any] = {"role": "assistant", "content": means.text or None}
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "finish_reason": FINISH[means.ended]}
        return {**_chat("chat.completion"), "choices": [choice], "usage": USAGE}
    content: list[Any] = [{"type": "text", "text": means.text}] if means.text else []
    content += [
        {"type": "tool_use", "id": f"toolu_{at}", "name": name, "input": json.loads(given)}
        for at, (name, given) in enumerate(means.uses)
    ]
    return {**_message(), "content": content, "stop_reason": STOP[means.ended]}


FINISH: dict[Ended, str] = {"stop": "stop", "tools": "tool_calls", "length": "length"}
STOP: dict[Ended, str] = {"stop": "end_turn", "tools": "tool_use", "length": "max_tokens"}
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


def _chat(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1_760_000_000, "model": "gpt"}


def _message() -> dict[str, Any]:
    usage = {"input_tokens": 9, "output_tokens": 1}
    fields = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude"}
    return {**fields, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}


def streamed(chance: random.Random, means: Meaning, wanted: Wanted) -> Events:
    if wanted.dialect == "openai":
        return [(None, each) for each in _chunks(chance, means, usage=wanted.usage)]
    return [(each["type"], each) for each in _named(chance, means)]


def _pieces(chance: random.Random, said: str) -> list[str]:
    most = max(1, len(said) // chance.choice([1, 2, 5, 20]))
    return [said[at : at + most] for at in range(0, len(said), most)]


def _chunks(chance: random.Random, means: Meaning, *, usage: bool) -> list[Any]:
    deltas: list[Any] = [{"role": "assistant", "content": chance.choice(["", None])}]
    deltas += [{"content": piece} for piece in _pieces(chance, means.text)]
    for at, (name, given) in enumerate(means.uses):
        function = {"name": name, "arguments": ""}
        call = {"index": at, "id": f"call_{at}", "type": "function", "function": function}
        deltas.append({"tool_calls": [call]})
        deltas += [
            {"tool_calls": [{"index": at, "function": {"arguments": piece}}]}
            for piece in _pieces(chance, given)
        ]
    of_all = _chat("chat.completion.chunk")
    said: list[Any] = [
        {**of_all, "choices": [{"index": 0, "delta": each, "finish_reason": None}]}
        for each in deltas
    ]
    last = {"index": 0, "delta": {}, "finish_reason": FINISH[means.ended]}
    said.append({**of_all, "choices": [last]})
    if usage:
        said.append({**of_all, "choices": [], "usage": USAGE})
    return [*said, Raw(b"[DONE]")]


def _named(chance: random.Random, means: Meaning) -> list[Any]:
    said: list[Any] = [{"type": "message_start", "message": _message()}]
    blocks: list[tuple[Any, list[Any]]] = []
    if means.text:
        deltas = [{"type": "text_delta", "text": each} for each in _pieces(chance, means.text)]
        blocks.append(({"type": "text", "text": ""}, deltas))
    for at, (name, given) in enumerate(means.uses):
        deltas = [
            {"type": "input_json_delta", "partial_json": each} for each in _pieces(chance, given)
        ]
        blocks.append(
            ({"type": "tool_use", "id": f"toolu_{at}", "name": name, "input": {}}, deltas)
        )
    for at, (block, deltas) in enumerate(blocks):
        said.append({"type": "content_block_start", "index": at, "content_block": block})
        for each in deltas:
            if chance.random() < 0.1:
                said.append({"type": "ping"})
            said.append({"type": "content_block_delta", "index": at, "delta": each})
        said.append({"type": "content_block_stop", "index": at})
    delta = {"stop_reason": STOP[means.ended], "stop_sequence": None}
    said.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 4}})
    return [*said, {"type": "message_stop"}]


def responses(means: Meaning, response: Any) -> Events:
    return [
        ("response.created", {"type": "response.created", "sequence_number": 0}),
        (
            "response.output_text.delta",
            {"type": "response.output_text.delta", "sequence_number": 1, "delta": means.text},
        ),
        (
            "response.completed",
            {"type": "response.completed", "sequence_number": 2, "response": response},
        ),
    ]


def _events(chance: random.Random, events: Events) -> bytes:
    """As SSE, which leaves much open."""
    ends = chance.choice([[b"\n"]] * 5 + [[b"\r\n"]] * 3 + [[b"\r"], [b"\n", b"\r\n"]])
    space = chance.choice([b" ", b" ", b" ", b""])
    fancy = chance.random() < 0.4
    said = b"\xef\xbb\xbf" if fancy and chance.random() < 0.2 else b""
    for name, tree in events:
        lines = [] if name is None else [b"event:" + space + name.encode()]
        data = tree.said if isinstance(tree, Raw) else written(tree, chance)
        lines += [b"data:" + space + each for each in data.split(b"\n")]
        if fancy and chance.random() < 0.3:
            more = [b": ping", b":", b"id: 7", b"retry: 3000", b"unknown: x", b"nothing"]
            lines.insert(chance.randrange(len(lines) + 1), chance.choice(more))
        said += b"".join(line + chance.choice(ends) for line in lines) + chance.choice(ends)
        if fancy and chance.random() < 0.2:
            said += b": keep alive" + chance.choice(ends) + chance.choice(ends)
    return said


def _sent(
    chance: random.Random, status: int, body: bytes, *, sse: bool, lines: bytes = b""
) -> Wire:
    kind = b"text/event-stream" if sse else b"application/json"
    kind += chance.choice([b"", b"; charset=utf-8"])
    name = chance.choice([b"content-type", b"Content-Type", b"CONTENT-TYPE"])
    head = b"HTTP/1.1 %d Upstream\r\n%b:%b%b\r\n%b" % (
        status, name, chance.choice([b" ", b"", b" \t"]), kind, lines,
    )  # fmt: skip
    if chance.random() < 0.1:
        head = b"HTTP/1.1 100 Continue\r\n\r\n" + head
    how = chance.random()
    closes = how > 0.9
    if closes:
        said = head + b"\r\n" + body
    elif how > 0.6:
        said = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    else:
        said = head + b"Transfer-Encoding: chunked\r\n\r\n" + fuzz.in_chunks(chance, body)
    return Wire(said, fuzz.cut(chance, len(said)), closes, body)


def pieces(said: bytes, cuts: Sequence[int]) -> list[bytes]:
    return [said[begin:end] for begin, end in zip((0, *cuts), (*cuts, len(said)), strict=True)]
