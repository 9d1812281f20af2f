"""LLM calls as they come over a connection: addresses, dialects, errors, keys, leavers, slowness.

Raw bytes against a real server with the simulated provider, which needs nothing; with upstreams
over HTTP and the vendors' own SDKs it goes on in test_llm_live.py.
"""

import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from paceline.access.keys import KeyFile
from paceline.terms.limits import LLM_BODY_BYTES
from servers import Answer, Server
from test_cli import Done, here
from test_connections import JSON, Raw, post
from test_plan_live import until

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
FAST = "sim-small:latency_ms=0:token_ms=0:tokens=3"
VERSION = {"anthropic-version": "2023-06-01"}


def chat(model: str = FAST, **more: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], **more}


KEY_IN_ENVIRONMENT = {"OPENAI_API_KEY": "sk-not-a-real-one-1234"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Without any settings, but with a key of a provider that costs money in the environment."""
    state = tmp_path_factory.mktemp("llm") / "state"
    with Server(state, "--drain-s", "1", environ=KEY_IN_ENVIRONMENT) as running:
        yield running


def error(answer: Answer, dialect: str = "openai") -> dict[str, Any]:
    """Of an answer in the form that the dialect's SDK reads."""
    said: dict[str, Any] = answer.json
    inner: dict[str, Any] = said["error"]
    if dialect == "openai":
        assert set(said) == {"error"}
        assert set(inner) == {"message", "type", "param", "code"}
        assert answer.headers["x-request-id"]
    else:
        assert set(said) == {"type", "error", "request_id"}
        assert set(inner) == {"type", "message"}
        assert answer.headers["request-id"] == said["request_id"]
    return inner


# --- What is there without any settings -----------------------------------------------------------


def test_it_answers_without_any_settings_and_says_that_it_is_simulated(server: Server) -> None:
    answer = server.ask("POST", CHAT, chat())
    assert answer.status == 200
    assert answer.headers["x-paceline-simulated"] == "true"
    assert answer.json["object"] == "chat.completion"
    assert server.about["providers"] == ["simulated"]


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        (CHAT, chat(), "choices"),
        ("/v1/completions", {"model": FAST, "prompt": "Hello"}, "choices"),
        ("/v1/embeddings", {"model": "sim-embed", "input": "Hello"}, "data"),
        ("/v1/moderations", {"model": "sim-moderation", "input": "Hello"}, "results"),
        ("/v1/responses", {"model": FAST, "input": "Hello"}, "output"),
        (MESSAGES, chat(max_tokens=9), "content"),
        (MESSAGES + "?beta=true", chat(max_tokens=9), "content"),
        (MESSAGES + "/count_tokens", chat(), "input_tokens"),
    ],
)
def test_each_address_is_answered(server: Server, path: str, body: object, told: str) -> None:
    answer = server.ask("POST", path, body)
    assert answer.status == 200, answer.body
    assert told in answer.json


def test_models_are_listed_in_the_dialect_of_who_asks(server: Server) -> None:
    openai = server.ask("GET", "/v1/models").json
    assert openai["object"] == "list"
    names = [each["id"] for each in openai["data"]]
    assert {"sim-small", "sim-large"} <= set(names)
    assert not any("*" in name for name in names)
    anthropic = server.ask("GET", "/v1/models?limit=1", headers=VERSION).json
    assert [each["type"] for each in anthropic["data"]] == ["model"]
    assert anthropic["has_more"] is True
    many = server.ask("GET", f"/v1/models?limit={'9' * 5000}", headers=VERSION)
    assert (many.status, many.json["has_more"]) == (200, False)
    one = server.ask("GET", "/v1/models/sim-large").json
    assert (one["id"], one["object"]) == ("sim-large", "model")
    assert server.ask("GET", "/v1/models/sim-large", headers=VERSION).json["type"] == "model"
    assert error(server.ask("GET", "/v1/models/nothing"))["code"] == "model_not_found"


def test_a_stream_ends_with_its_mark_and_the_connection_goes_on(server: Server) -> None:
    with Raw(server) as raw:
        raw.say(post(CHAT.encode(), json.dumps(chat(stream=True)).encode()))
        while b"0\r\n\r\n" not in raw.heard:
            raw.heard += raw.socket.recv(65536)
        assert raw.heard.count(b"data: [DONE]") == 1
        assert b"content-type: text/event-stream" in raw.heard.lower()
        raw.heard = b""
        raw.say(post(CHAT.encode(), json.dumps(chat()).encode()))
        assert raw.answers(1)[0].startswith(b"200")


def test_calls_tokens_and_times_are_counted(server: Server) -> None:
    server.ask("POST", CHAT, chat(stream=True))
    text = server.ask("GET", "/metrics").body.decode()
    of_chat = (
        r'calls_total\{endpoint="chat",route="sim-small:\*",provider="simulated",status="200"\}'
    )
    assert re.search(of_chat + r" [1-9]", text)
    assert re.search(r'llm_tokens_total\{.*provider="simulated",kind="output"\} [1-9]', text)
    assert re.search(r'llm_first_token_seconds_count\{.*provider="simulated"\} [1-9]', text)
    assert re.search(r"llm_in_flight_calls 0\.0$", text, re.MULTILINE)
    provider = server.ask("GET", "/api/status").json["providers"][0]
    assert (provider["name"], provider["state"]) == ("simulated", "simulated")
    assert provider["calls"] >= 1
    assert provider["output_tokens"] >= 3


def test_the_last_calls_are_told_and_nothing_of_what_was_said(server: Server) -> None:
    server.ask("POST", CHAT, chat(stream=True))
    server.ask("POST", CHAT, chat("sim-small:400"))
    told = server.ask("GET", "/api/calls?limit=2")
    assert b"Hello" not in told.body
    refused, streamed = told.json["calls"]
    assert (refused["status"], refused["outcome"]) == (400, "answered")
    assert refused["attempts"][0]["status"] == 400
    assert (streamed["outcome"], streamed["output_tokens"]) == ("done", 3)
    (attempt,) = streamed["attempts"]
    moments = [attempt["sent_ms"], streamed["first_ms"], streamed["took_ms"]]
    assert moments == sorted(moments)
    assert attempt["content_ms"] == streamed["first_ms"]
    everything = server.ask("GET", "/api/calls?order=slowest&limit=100").json["calls"]
    took = [each["took_ms"] for each in everything]
    assert took == sorted(took, reverse=True)
    assert streamed in everything
    assert server.ask("GET", "/api/calls?limit=1000").status == 400


def test_the_command_line_tells_of_the_last_calls(server: Server, tmp_path: Path) -> None:
    def told(state: Path) -> Done:
        return here("calls", "-n", "1", "--state", str(state))

    server.ask("POST", CHAT, chat("sim-small:tokens=4:latency_ms=0"))
    line = told(server.state).stdout
    pattern = r"\d\d:\d\d:\d\d  (\S+) to simulated/\1: done 200, \d+ ms, .*, 4 tokens\n"
    assert re.fullmatch(pattern, line)
    nobody = told(tmp_path)
    assert nobody.returncode != 0
    assert "paceline up" in nobody.stderr


# --- What is wrong --------------------------------------------------------------------------------

BAD = [
    (b"{", 400, None),
    (b"[]", 400, "invalid_type"),
    (b'{"messages":[]}', 400, "missing_required_parameter"),
    (b'{"model":"sim-small"}', 400, "missing_required_parameter"),
    (b'{"model":"nothing","messages":[]}', 404, "model_not_found"),
    (b'{"model":"nothing","model":"sim-small","messages":[]}', 400, "invalid_value"),
    (b"\xff\xfe", 400, None),
    (b"", 400, None),
]


@pytest.mark.parametrize(("body", "status", "code"), BAD)
def test_a_bad_body_is_refused_as_the_dialect_has_it(
    server: Server, body: bytes, status: int, code: str | None
) -> None:
    headers = {"content-type": "application/json"}
    answer = server.ask("POST", CHAT, raw=body, headers=headers)
    assert answer.status == status
    assert error(answer)["code"] == code
    body = body.replace(b"[]}", b'[],"max_tokens":9}')
    answer = server.ask("POST", MESSAGES, raw=body, headers=headers)
    assert answer.status == status
    kind = "not_found_error" if status == 404 else "invalid_request_error"
    assert error(answer, "anthropic")["type"] == kind


def test_a_provider_s_errors_keep_status_and_code(server: Server) -> None:
    answer = server.ask("POST", CHAT, chat("sim-small:400"))
    assert answer.status == 400
    error(answer)
    answer = server.ask("POST", MESSAGES, chat("sim-large:429:latency_ms=0", max_tokens=9))
    assert (answer.status, answer.json["error"]["type"]) == (429, "rate_limit_error")
    assert int(answer.headers["retry-after"]) >= 1


def test_other_addresses_are_named(server: Server) -> None:
    for method, path in (("POST", "/v1/files"), ("GET", "/v1/batches/b"), ("POST", "/v1/x/../y")):
        answer = server.ask(method, path, {} if method == "POST" else None)
        assert answer.status == 404
        assert path in error(answer)["message"]
    assert error(server.ask("POST", CHAT, {}, headers=VERSION))["param"] == "model"
    for method, path in (("GET", CHAT), ("DELETE", "/v1/models/sim-small")):
        assert server.ask(method, path).status == 405
    assert server.ask("GET", "/v1").status == 404


def test_errors_of_the_gate_are_said_in_the_dialect(server: Server) -> None:
    answer = server.ask("POST", CHAT, chat(), headers={"authorization": "Bearer pl_wrong"})
    assert (answer.status, error(answer)["code"]) == (401, "invalid_api_key")
    answer = server.ask("POST", MESSAGES, chat(), headers={"x-api-key": "pl_wrong"})
    assert (answer.status, error(answer, "anthropic")["type"]) == (401, "authentication_error")
    answer = server.ask("GET", "/v1/models", headers={**VERSION, "x-api-key": "pl_wrong"})
    assert (answer.status, error(answer, "anthropic")["type"]) == (401, "authentication_error")
    foreign = {"origin": "http://evil.example"}
    assert error(server.ask("POST", CHAT, chat(), headers=foreign))["type"] == "permission_error"
    plain = {"content-type": "text/plain"}
    assert server.ask("POST", CHAT, raw=b"{}", headers=plain).status == 415
    assert server.ask("POST", CHAT, chat(), headers={"x-priority": "soon"}).status == 400
    assert server.ask("POST", CHAT, chat(), headers={"content-encoding": "gzip"}).status == 415


def test_a_body_that_is_too_large_is_413(server: Server) -> None:
    with Raw(server) as raw:
        raw.say(b"POST %b HTTP/1.1\r\nhost: localhost\r\n" % CHAT.encode())
        raw.say(b"content-length: %d\r\n\r\n{" % (LLM_BODY_BYTES + 1))
        answer = raw.answers(1)[0]
    assert answer.startswith(b"413")
    assert b'"code":"too_large"' in answer


def test_a_deadline_is_kept_and_its_provider_stopped(server: Server) -> None:
    headers = {"x-timeout-ms": "50"}
    answer = server.ask("POST", CHAT, chat("sim-small:hang"), headers=headers)
    assert (answer.status, error(answer)["code"]) == (504, "deadline_exceeded")
    assert answer.headers["x-should-retry"] == "false"


def test_a_stream_that_is_cut_is_no_clean_end(server: Server) -> None:
    for path, more, mark in (
        (CHAT, {}, b"[DONE]"),
        (MESSAGES, {"max_tokens": 99}, b"message_stop"),
    ):
        model = "sim-small:cut:tokens=20:latency_ms=0:token_ms=0"
        body = json.dumps(chat(model, stream=True, **more)).encode()
        with Raw(server) as raw:
            raw.say(post(path.encode(), body))
            heard = raw.rest()
        assert b"0\r\n\r\n" not in heard
        assert mark not in heard
        assert b'"error"' in heard


@pytest.mark.parametrize(("path", "status"), [(CHAT, 524), (MESSAGES, 529)])
def test_a_status_that_no_standard_names_is_passed_on(
    server: Server, path: str, status: int
) -> None:
    """Anthropic's overload among them; an SDK would wait for minutes for an answer to it."""
    body = chat(f"sim-large:{status}:latency_ms=0", max_tokens=9)
    assert server.ask("POST", path, body).status == status


# --- Upstreams over HTTP --------------------------------------------------------------------------


SECRET = "sk-far-secret-1234"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CONTENT = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(CONTENT), CONTENT)


class Far:
    """An upstream that says one thing, and tells when its caller leaves."""

    def __init__(self, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self.left = threading.Event()
        self.came = threading.Event()
        self.heard = b""
        self.say: list[bytes] = []
        self._listener = listener

    def run(self) -> None:
        """Until it is told that nobody comes any more."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                while b"\r\n\r\n" not in self.heard:
                    self.heard += connection.recv(65536)
                self.came.set()
                try:
                    for each in self.say:
                        connection.sendall(each)
                    while connection.recv(65536):
                        pass
                except OSError:
                    pass
                self.left.set()

    def next(self, *say: bytes) -> "Far":
        """Of the next test."""
        self.left.clear()
        self.came.clear()
        self.heard = b""
        self.say = [*say]
        return self


class Place(NamedTuple):
    server: Server
    far: Far
    bound: str
    """a key for the models that begin with m alone"""
    free: str
    folder: Path

    def ask(self, path: str, body: object = None, key: str = "") -> Answer:
        method = "GET" if body is None else "POST"
        headers = {"authorization": f"Bearer {key or self.free}"}
        return self.server.ask(method, path, body, headers)

    def chats(self, raw: Raw, **more: object) -> None:
        key = b"x-api-key: %b\r\n" % self.free.encode()
        raw.say(post(CHAT.encode(), json.dumps(chat("m", **more)).encode(), JSON + key))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """With an upstream over HTTP, keys, a provider that costs money, and consent to that."""
    folder = tmp_path_factory.mktemp("far")
    state, config = folder / "state", folder / "paceline.toml"
    _, bound = KeyFile(state / "keys.json").create("bound", "client", 0.0, ["m*"])
    _, free = KeyFile(state / "keys.json").create("free", "admin", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = Far(listener)
        thread = threading.Thread(target=far.run)
        thread.start()
        config.write_text(
            f'[providers.far]\nurl = "http://127.0.0.1:{far.port}/v1"\nmodels = ["m"]\n'
            'key_env = "FAR_API_KEY"\n[providers.simulated]\n[providers.openai]\n'
            '[routes.files]\ntargets = ["far"]\nraw = ["/files", "/images"]\n'
            '[providers.vendor]\nkind = "anthropic"\n'
            f'url = "http://127.0.0.1:{far.port}"\n'
            '[routes.batches]\ntargets = ["vendor"]\nraw = ["/messages/batches"]\n'
            '[routes.m-draws]\ntargets = ["far"]\nraw = ["/images", "/files", "/batches"]\n'
            "[server]\nlog_level = 'debug'\n"
        )
        options = ("--config", str(config), "--require-keys", "--no-budget", "--drain-s", "1")
        environ = {**KEY_IN_ENVIRONMENT, "FAR_API_KEY": SECRET}
        try:
            with Server(state, *options, environ=environ) as it:
                yield Place(it, far, bound, free, folder)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def test_a_key_calls_its_own_models_alone(place: Place) -> None:
    ask, bound, free = place.ask, place.bound, place.free
    place.far.next(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
    assert ask(CHAT, chat("m"), bound).status == 200
    assert ask(CHAT, chat(), free).status == 200
    refused = ask(CHAT, chat(), bound)
    assert (refused.status, error(refused)["code"]) == (403, "insufficient_permissions")
    assert FAST in error(refused)["message"]
    listed = {each["id"] for each in ask("/v1/models", key=bound).json["data"]}
    assert listed == {"m", "m-draws"}
    assert ask("/v1/models/sim-large", key=bound).status == 403
    assert ask("/v1/files", {}, bound).status == 403
    assert ask("/api/calls", key=bound).status == 403
    assert ask("/api/calls").json["calls"]
    assert place.server.ask("POST", CHAT, chat()).status == 401
    headers = {"x-api-key": "sk-ant-anything", **VERSION}
    answer = place.server.ask("POST", MESSAGES, chat(max_tokens=9), headers=headers)
    assert (answer.status, error(answer, "anthropic")["type"]) == (401, "authentication_error")


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_who_leaves_is_noticed_at_the_upstream(place: Place, stream: bool) -> None:
    """Plain calls too, whose provider has not said a word yet."""
    far = place.far.next(*([HEAD, CHUNK] if stream else []))
    with Raw(place.server) as raw:
        place.chats(raw, stream=stream)
        assert far.came.wait(10)
        if stream:
            while CONTENT not in raw.heard:
                raw.heard += raw.socket.recv(65536)
    assert far.left.wait(10)


def test_the_key_of_a_provider_goes_to_it_and_nowhere_else(place: Place) -> None:
    far = place.far.next(b"HTTP/1.1 401 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    mine = {"authorization": f"Bearer {place.free}", "cookie": "a=b", "x-forwarded-x": "y"}
    mine |= {"openai-organization": "org-1", "openai-project": "p-1", "openai-beta": "a=v2"}
    answer = place.server.ask("POST", CHAT, chat("m"), headers=mine)
    assert answer.status == 401
    head = far.heard.partition(b"\r\n\r\n")[0].lower()
    assert b"authorization: bearer " + SECRET.encode() in head
    assert head.startswith(b"post /v1/chat/completions ")
    assert b"openai-beta: a=v2" in head
    for foreign in (b"pl_", b"cookie", b"x-forwarded", b"x-paceline", b"gzip", b"org-1", b"p-1"):
        assert foreign not in head
    told = [answer.body, place.ask("/api/config").body, place.server.log.read_bytes()]
    told += [each.read_bytes() for each in place.folder.rglob("*") if each.is_file()]
    assert not any(SECRET.encode() in each for each in told)


def test_a_slow_reader_holds_back_its_provider_and_nobody_else(place: Place) -> None:
    piece = CONTENT.replace(b"Hi", b"x" * 30_000)
    far = place.far.next(HEAD, *[b"%x\r\n%b\r\n" % (len(piece), piece)] * 2000)
    with Raw(place.server) as raw:
        place.chats(raw, stream=True)
        assert far.came.wait(10)
        raw.socket.recv(10)
        for _ in range(20):
            assert place.ask(CHAT, chat()).status == 200
        assert not far.left.is_set()  # it cannot have sent all that it has
        pages = int(Path(f"/proc/{place.server.fronts[0]}/statm").read_text().split()[1])
        assert pages * 4096 < 200 * 1024 * 1024
    assert far.left.wait(10)


def test_raw_addresses_go_where_a_route_allows_it(place: Place) -> None:
    said = b"\0binary" * 1000
    close = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(said)
    far = place.far.next(close + said)
    headers = {"content-type": "multipart/form-data; boundary=b", "x-api-key": place.free}
    answer = place.server.ask("POST", "/v1/files?a=b", raw=b"--b--", headers=headers)
    assert (answer.status, answer.body) == (200, said)
    assert far.heard.startswith(b"POST /v1/files?a=b HTTP/1.1\r\n")
    assert place.ask("/v1/files/../models").status == 404


def test_what_lies_below_messages_is_anthropic_s_whoever_asks(place: Place) -> None:
    """Without an `anthropic-version` too, as programs without the SDK call it."""
    far = place.far.next(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
    assert place.ask("/v1/messages/batches", {"requests": []}).status == 200
    assert far.heard.lower().startswith(b"post /v1/messages/batches ")
    assert b"anthropic-version: " in far.heard.lower()
    refused = place.ask("/v1/messages/batches/b?a=%00", {}, place.bound)
    assert error(refused, "anthropic")["type"] == "permission_error"


def test_a_bound_key_has_what_is_relayed_of_its_own_models_alone(place: Place) -> None:
    ask, bound, free = place.ask, place.bound, place.free
    draws, other = {"model": "m-draws", "prompt": "x"}, {"model": "files", "prompt": "x"}
    closed = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
    images = "/v1/images/generations"
    for key, body in ((bound, draws), (free, draws), (free, other), (free, {"model": "m"})):
        place.far.next(closed)
        assert ask(images, body, key).status == 200
    for path, refused in (
        (images, other),
        (images, {"model": "m"}),  # the route of this one does not relay it
        (images, {}),
        (images, None),
        (images + "?model=files", draws),
        ("/v1/batches", draws),
        ("/v1/files/f-1", draws),
        ("/v1/files/f-1", None),
    ):
        assert error(ask(path, refused, bound))["code"] == "insufficient_permissions"
    headers = {"content-type": "multipart/form-data; boundary=b", "x-api-key": bound}
    form = b'{"model":"m-draws"}'
    assert place.server.ask("POST", images, raw=form, headers=headers).status == 403
    headers = {"x-api-key": bound}
    assert place.server.ask("DELETE", "/v1/files/f-1", headers=headers).status == 403


# --- What may cost money --------------------------------------------------------------------------


def states(status: Answer) -> dict[str, str]:
    return {each["name"]: each["state"] for each in status.json["providers"]}


def test_a_provider_that_costs_is_off_until_somebody_says_otherwise(
    server: Server, place: Place
) -> None:
    answer = server.ask("POST", CHAT, chat("gpt-4o"))
    assert answer.status == 403
    assert "--no-budget" in error(answer)["message"]
    assert server.about["providers"] == ["simulated"]
    assert "openai" in server.log.read_text()
    assert states(server.ask("GET", "/api/status")) == {"simulated": "simulated", "openai": "off"}
    assert place.server.about["providers"] == ["far", "simulated", "openai", "vendor"]
    told = {"far": "on", "simulated": "simulated", "openai": "without budget", "vendor": "on"}
    assert states(place.ask("/api/status")) == told
    assert "no budget" in place.server.log.read_text()


def test_a_gateway_alone_says_how_a_model_would_be_served(place: Place) -> None:
    refused = place.ask("/predict/digits", [0])
    assert (refused.status, refused.json["code"]) == (404, "unknown_model")
    assert "[models." in refused.json["remedy"]


def test_calls_in_hand_are_answered_when_the_server_stops(place: Place) -> None:
    """The last, for it stops the server."""
    place.far.next(HEAD, CHUNK)
    with Raw(place.server) as raw:
        place.chats(raw, stream=True)
        while CONTENT not in raw.heard:
            raw.heard += raw.socket.recv(65536)
        place.server.process.terminate()
        until("it stops", lambda: "stopping" in place.server.log.read_text())
        told = [place.server.ask("POST", path, chat("far/x")) for path in (CHAT, MESSAGES)]
        heard = raw.rest()
    openai, anthropic = told
    assert (openai.status, openai.json["error"]["code"]) == (503, "draining")
    assert (anthropic.status, anthropic.json["error"]["type"]) == (529, "overloaded_error")
    assert {each.headers["x-should-retry"] for each in told} == {"true"}
    assert b'"code":"draining"' in heard
    assert not heard.endswith(b"0\r\n\r\n")
