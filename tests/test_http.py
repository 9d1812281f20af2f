"""What a server answers: inference, health, errors, access. One real server for the module."""

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paceline.serve import digits
from paceline.terms.limits import BODY_BYTES
from servers import Answer, Server
from test_cli import here

ROW = list(digits.SAMPLE_ROW)
V2_BODY = {"inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP32", "data": ROW}]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    state = tmp_path_factory.mktemp("http") / "state"
    with Server(state, environ={"HOME": str(home)}) as running:
        yield running
    assert list(home.iterdir()) == []


def refused(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """An error as we promise it: status, code, and a remedy; the cause is a plain string."""
    fields: dict[str, Any] = answer.json
    assert (answer.status, fields["code"]) == (status, code), fields
    assert isinstance(fields["error"], str)
    assert fields["remedy"]
    assert fields["request_id"] == answer.headers["x-request-id"]
    return fields


def test_predict_answers_one_row_plainly(server: Server) -> None:
    answer = server.ask("POST", "/predict/digits", ROW)
    assert answer.status == 200
    assert answer.json["outputs"]["label"] == digits.SAMPLE_LABEL
    assert sum(answer.json["outputs"]["probabilities"]) == pytest.approx(1.0, abs=1e-5)


def test_v2_answers_as_kserve_says(server: Server) -> None:
    answer = server.ask("POST", "/v2/models/digits/infer", {**V2_BODY, "id": "mine"})
    assert answer.status == 200
    assert answer.json["id"] == "mine"
    assert answer.json["model_name"] == "digits"
    label, probabilities = answer.json["outputs"]
    assert (label["datatype"], label["shape"], label["data"]) == ("INT64", [1], [3])
    assert probabilities["shape"] == [1, 10]


def test_a_request_keeps_its_name_and_gets_one_when_it_has_none(server: Server) -> None:
    named = server.ask("POST", "/predict/digits", ROW, {"x-request-id": "order-66"})
    unnamed = server.ask("POST", "/predict/digits", ROW)
    unusable = server.ask("POST", "/predict/digits", ROW, {"x-request-id": "x" * 65})
    assert named.headers["x-request-id"] == "order-66"
    assert unnamed.headers["x-request-id"] != unusable.headers["x-request-id"] != "x" * 65


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "says"),
    [
        ("/predict/digit", b"[]", 404, "unknown_model", "digits"),
        ("/predict/digits", b"[1, 2,", 400, "bad_json", ""),
        ("/predict/digits", json.dumps(ROW[:63]).encode(), 400, "bad_input", "64"),
        ("/predict/digits", b'["a"]', 400, "bad_input", ""),
        ("/v2/models/digits/infer", b"{}", 400, "bad_json", ""),
        ("/v2/models/nothing/infer", b"{}", 404, "unknown_model", "digits"),
        ("/nowhere", b"{}", 404, "not_found", "/predict"),
        ("/login", b"[" + b"1," * (BODY_BYTES // 2) + b"1]", 413, "too_large", ""),
    ],
)
def test_bad_requests_get_useful_errors(
    server: Server, path: str, body: bytes, status: int, code: str, says: str
) -> None:
    answer = server.ask("POST", path, raw=body, headers={"content-type": "application/json"})
    fields = refused(answer, status, code)
    assert says in fields["remedy"] + fields["error"]


def test_a_wrong_method_names_the_right_one(server: Server) -> None:
    assert "POST" in refused(server.ask("GET", "/predict/digits"), 405, "wrong_method")["remedy"]


@pytest.mark.parametrize(
    ("header", "value"),
    [("x-timeout-ms", "soon"), ("x-timeout-ms", "-1"), ("x-priority", "urgent")],
)
def test_bad_request_headers_name_what_is_possible(server: Server, header: str, value: str) -> None:
    fields = refused(
        server.ask("POST", "/predict/digits", ROW, {header: value}), 400, "bad_request"
    )
    assert fields["value"] == value


def test_a_body_that_does_not_arrive_in_time_is_answered_at_its_deadline(server: Server) -> None:
    connection = server.connect()
    connection.putrequest("POST", "/predict/digits")
    connection.putheader("content-type", "application/json")
    connection.putheader("content-length", "1000")
    connection.putheader("x-timeout-ms", "50")
    connection.endheaders(b"[1, 2")
    response = connection.getresponse()
    assert response.status == 504
    assert json.loads(response.read())["code"] == "deadline_exceeded"
    connection.close()


def test_priority_is_counted_and_metrics_are_prometheus_text(server: Server) -> None:
    server.ask("POST", "/predict/digits", ROW, {"x-priority": "critical"})
    metrics = server.ask("GET", "/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = metrics.body.decode()
    line = 'paceline_requests_total{model="digits",priority="critical",status="200"} 1.0'
    assert line in text.splitlines()
    for name in (
        "paceline_process_cpu_seconds_total",
        "paceline_process_resident_memory_bytes",
        "paceline_container_memory_bytes",
        "paceline_request_duration_seconds_count",
        "paceline_build_info",
    ):
        assert f"\n{name}" in text


def test_health_and_status(server: Server) -> None:
    assert server.ask("GET", "/health/live").json == {"live": True}
    ready = server.ask("GET", "/health/ready")
    assert (ready.status, ready.json["ready"]) == (200, True)
    status = server.ask("GET", "/api/status").json
    assert status["ready"] is True
    assert status["address"] == server.address
    assert [model["name"] for model in status["models"]] == ["digits"]


def test_the_page_is_one_file_that_loads_nothing_else(server: Server) -> None:
    page = server.ask("GET", "/")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert b"src=" not in page.body
    assert b"http-equiv" not in page.body


@pytest.mark.parametrize("path", ["/", "/metrics", "/health/ready"])
def test_head_answers_without_a_body(server: Server, path: str) -> None:
    head = server.ask("HEAD", path)
    assert (head.status, head.body) == (200, b"")


def test_events_bring_the_state_live(server: Server) -> None:
    connection = server.connect()
    connection.request("GET", "/api/events")
    response = connection.getresponse()
    first = response.readline()
    assert first.startswith(b"data: ")
    assert json.loads(first.removeprefix(b"data: "))["ready"] is True
    connection.close()


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"origin": "http://evil.example"}, 403, "foreign_origin"),
        ({"origin": "null"}, 403, "foreign_origin"),
        ({"host": "evil.example"}, 421, "foreign_host"),
        ({"content-type": "text/plain"}, 415, "wrong_content_type"),
        ({"content-type": "application/x-www-form-urlencoded"}, 415, "wrong_content_type"),
        ({"x-api-key": "pl_wrong"}, 401, "wrong_key"),
        ({"authorization": "Bearer pl_wrong"}, 401, "wrong_key"),
    ],
)
def test_web_pages_and_wrong_keys_cannot_stop_the_server(
    server: Server, headers: dict[str, str], status: int, code: str
) -> None:
    refused(server.ask("POST", "/api/shutdown", {}, headers), status, code)
    assert server.ask("GET", "/health/ready").status == 200


def test_local_calls_of_the_owner_are_not_relayed(server: Server) -> None:
    refused(server.ask("POST", "/local/reload-keys", {}), 404, "not_found")


def test_requests_on_one_connection_are_answered_in_order(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 10) as caller:
        body = json.dumps(ROW).encode()
        for name in (b"a", b"b", b"c"):
            caller.sendall(
                b"POST /predict/digits HTTP/1.1\r\nhost: localhost\r\nx-request-id: " + name
                + b"\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
                + body
            )  # fmt: skip
        received = b""
        while received.count(b'"outputs"') < 3:
            received += caller.recv(65536)
    names = [line[-1:] for line in received.split(b"\r\n") if line.startswith(b"x-request-id")]
    assert names == [b"a", b"b", b"c"]


def test_an_endless_head_is_cut_off(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 10) as caller:
        caller.sendall(b"GET / HTTP/1.1\r\n")
        answer = b""
        try:
            for number in range(100):
                caller.sendall(b"x-%d: " % number + b"y" * 4000 + b"\r\n")
            answer = caller.recv(4096)
        except (BrokenPipeError, ConnectionResetError):
            answer = b"closed"
    assert answer == b"closed" or b" 431 " in answer


def test_a_caller_who_leaves_harms_nobody(server: Server) -> None:
    for _ in range(20):
        connection = server.connect()
        connection.putrequest("POST", "/predict/digits")
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", "1000")
        connection.endheaders(b"[1, 2")
        connection.close()
    assert server.ask("POST", "/predict/digits", ROW).status == 200


def keys_required(tmp_path: Path) -> Server:
    return Server(tmp_path / "state", "--require-keys")


def test_a_server_leaves_nothing_in_the_home_directory(home: Path, server: Server) -> None:
    """onnxruntime would write an identifier to ~/.cache and report to its maker. What comes at the
    end is looked at there."""
    assert server.ask("POST", "/predict/digits", ROW).status == 200
    assert list(home.iterdir()) == []


def command(*arguments: str) -> str:
    done = here(*arguments)
    assert done.returncode == 0, done
    return done.stdout


def test_keys_open_what_their_role_may_and_change_while_it_runs(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    admin = json.loads(
        command("key", "create", "boss", "--role", "admin", "--state", state, "--json")
    )["key"]
    with keys_required(tmp_path) as server:
        refused(server.ask("POST", "/predict/digits", ROW), 401, "key_required")
        assert server.ask("GET", "/health/ready").status == 200
        client = json.loads(command("key", "create", "app", "--state", state, "--json"))["key"]
        as_client = {"authorization": f"Bearer {client}"}
        assert server.ask("POST", "/predict/digits", ROW, as_client).status == 200
        assert server.ask("GET", "/metrics", headers=as_client).status == 200
        refused(server.ask("POST", "/api/shutdown", {}, as_client), 403, "not_allowed")
        command("key", "revoke", "app", "--state", state)
        refused(server.ask("POST", "/predict/digits", ROW, as_client), 401, "wrong_key")
        answer = server.ask("POST", "/api/shutdown", {}, {"x-api-key": admin})
        assert answer.status == 202
        assert server.process.wait(10) == 0
        log = server.log.read_text()
        assert admin not in log
        assert client not in log


def test_the_page_logs_in_with_a_key_for_a_cookie(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    made = json.loads(command("key", "create", "me", "--role", "admin", "--state", state, "--json"))
    with keys_required(tmp_path) as server:
        refused(server.ask("POST", "/login", {"key": "pl_" + "a" * 26}), 401, "wrong_key")
        login = server.ask("POST", "/login", {"key": made["key"]})
        assert login.status == 204
        cookie = login.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        session = {"cookie": cookie.partition(";")[0]}
        assert server.ask("GET", "/api/status", headers=session).status == 200
        refused(server.ask("POST", "/api/shutdown", {}, session), 403, "foreign_origin")
        command("key", "revoke", "me", "--state", state)
        assert server.ask("GET", "/api/status", headers=session).status == 401


def test_http_client_reuses_its_connection(server: Server) -> None:
    connection: http.client.HTTPConnection = server.connect()
    for _ in range(5):
        connection.request("GET", "/health/live")
        assert connection.getresponse().read() == b'{"live":true}'
    connection.close()
