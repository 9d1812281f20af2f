"""The gate: who gets in, who does not, and that no web page ever slips through."""

import hashlib
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.access.gate import Caller, Gate, is_loopback
from paceline.access.keys import Key, KeyRing
from paceline.access.sessions import Sessions
from paceline.terms.errors import (
    BadRequest,
    ForeignHost,
    ForeignOrigin,
    KeyRequired,
    NotAllowed,
    PacelineError,
    WrongContentType,
    WrongKey,
)
from paceline.terms.limits import SESSION_S

NOW = 1_000_000.0
ADMIN_SECRET = "pl_" + "a" * 26
CLIENT_SECRET = "pl_" + "b" * 26


def _key(key_id: str, role: str, secret: str) -> Key:
    sha256 = hashlib.sha256(secret.encode()).hexdigest()
    return Key(key_id, role, "admin" if role == "admin" else "client", 0.0, sha256)


RING = KeyRing([_key("aaaaaaaa", "admin", ADMIN_SECRET), _key("bbbbbbbb", "client", CLIENT_SECRET)])
SESSIONS = Sessions(b"s" * 32, 8080)
ADMIN_COOKIE = f"paceline_8080={SESSIONS.issue('aaaaaaaa', NOW)}"
CLIENT_COOKIE = f"paceline_8080={SESSIONS.issue('bbbbbbbb', NOW)}"

OPEN = Gate("127.0.0.1", RING, SESSIONS)
LOCKED = Gate("127.0.0.1", RING, SESSIONS, require_keys=True)
PUBLIC = Gate("0.0.0.0", RING, SESSIONS)
INSECURE = Gate("0.0.0.0", RING, SESSIONS, insecure=True)

ALL_GATES = pytest.mark.parametrize("gate", [OPEN, LOCKED, PUBLIC, INSECURE])
KEYED_GATES = pytest.mark.parametrize("gate", [LOCKED, PUBLIC])

LOCAL = {"host": "localhost:8080"}
JSON = {"content-type": "application/json"}
SAME_ORIGIN = {"origin": "http://localhost:8080"}
AS_ADMIN = {"authorization": f"Bearer {ADMIN_SECRET}"}
AS_CLIENT = {"x-api-key": CLIENT_SECRET}


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]


def admit(gate: Gate, call: str, *headers: dict[str, str]) -> Caller:
    method, path = call.split(" ")
    merged = {name: value for part in headers for name, value in part.items()}
    return gate.admit(method, path, _raw(merged), NOW)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LocalHost", True),
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.168.1.4", False),
        ("::ffff:127.0.0.1", False),
        ("example.com", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
    ],
)
def test_loopback_is_told_from_everything_else(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8080",
        "LOCALHOST:9",
        "localhost.:80",
        "paceline.localhost",
        "127.0.0.1",
        "127.0.0.1:8080",
        "127.255.255.254:1",
        "[::1]",
        "[::1]:8080",
    ],
)
def test_on_loopback_local_names_are_answered(host: str) -> None:
    assert admit(OPEN, "GET /", {"host": host}).role == "admin"
    assert admit(OPEN, "POST /api/shutdown", {"host": host}).role == "admin"


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "example.com:8080",
        "localhost.example.com",
        "notlocalhost",
        "127.0.0.1.example.com",
        "127.0.0.1@evil",
        "0.0.0.0:8080",
        "127.0.0.256",
        "127.1",
        "2130706433",
        "[::]",
        "[::ffff:127.0.0.1]",
        "::1",
        "192.168.0.1",
        "localhost:8080:1",
        "localhost:x",
        "user@localhost",
        "localhost/evil",
        ".localhost",
        "evil.com#.localhost",
    ],
)
@pytest.mark.parametrize("gate", [OPEN, LOCKED])
def test_on_loopback_another_name_is_dns_rebinding(gate: Gate, host: str) -> None:
    for call in ("GET /", "GET /health/live", "POST /api/shutdown"):
        with pytest.raises(ForeignHost) as caught:
            admit(gate, call, {"host": host}, AS_ADMIN, JSON)
        assert caught.value.http == 421


@ALL_GATES
def test_a_request_without_host_is_bad(gate: Gate) -> None:
    for headers in ({}, {"host": ""}):
        with pytest.raises(BadRequest):
            admit(gate, "GET /health/live", headers)


@ALL_GATES
@pytest.mark.parametrize(
    "name", ["host", "origin", "content-type", "authorization", "x-api-key", "sec-fetch-site"]
)
def test_what_decides_may_not_be_said_twice(gate: Gate, name: str) -> None:
    raw = [*_raw(LOCAL), *_raw(JSON), (name.encode(), b"a"), (name.encode(), b"b")]
    with pytest.raises(BadRequest, match="twice"):
        gate.admit("POST", "/predict/digits", raw, NOW)


@pytest.mark.parametrize("gate", [PUBLIC, INSECURE])
def test_off_loopback_any_host_is_answered(gate: Gate) -> None:
    assert admit(gate, "GET /v2", {"host": "models.example.com"}, AS_ADMIN).role == "admin"


FOREIGN_ORIGINS = [
    "null",
    "",
    "https://evil.example",
    "http://localhost",
    "http://localhost:3000",
    "https://localhost:8080",
    "http://127.0.0.1:8080",
    "http://localhost:8080.evil.example",
    "http://localhost:8080/",
    "HTTP://localhost:8080",
    "http://evil@localhost:8080",
    "file://",
]


@ALL_GATES
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "post", "get"])
@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_a_page_of_another_origin_changes_nothing(gate: Gate, method: str, origin: str) -> None:
    with pytest.raises(ForeignOrigin):
        admit(gate, f"{method} /api/shutdown", LOCAL, JSON, AS_ADMIN, {"origin": origin})


@ALL_GATES
@pytest.mark.parametrize("site", ["cross-site", "same-site", "else"])
def test_a_page_of_another_site_changes_nothing_without_origin_either(
    gate: Gate, site: str
) -> None:
    with pytest.raises(ForeignOrigin):
        admit(gate, "POST /api/shutdown", LOCAL, JSON, AS_ADMIN, {"sec-fetch-site": site})


@ALL_GATES
def test_the_own_page_may_change_something(gate: Gate) -> None:
    own = {**SAME_ORIGIN, "sec-fetch-site": "same-origin"}
    assert admit(gate, "POST /api/shutdown", LOCAL, JSON, own, AS_ADMIN).role == "admin"


@pytest.mark.parametrize(
    ("host", "proto", "origin", "own"),
    [
        ("models.example.com", "https", "https://models.example.com", True),
        ("models.example.com:443", "https", "https://models.example.com", True),
        ("Models.Example.com", "https", "https://models.example.com", True),
        ("models.example.com:80", "http", "http://models.example.com", True),
        ("models.example.com", "https", "http://models.example.com", False),
        ("models.example.com", None, "https://models.example.com", False),
        ("models.example.com:8443", "https", "https://models.example.com", False),
    ],
)
def test_behind_a_proxy_that_ends_tls_the_page_keeps_its_origin(
    host: str, proto: str | None, origin: str, own: bool
) -> None:
    headers = {"host": host, "origin": origin, **JSON, **AS_ADMIN}
    if proto is not None:
        headers["x-forwarded-proto"] = proto
    if own:
        assert admit(PUBLIC, "POST /api/shutdown", headers).role == "admin"
    else:
        with pytest.raises(ForeignOrigin):
            admit(PUBLIC, "POST /api/shutdown", headers)


@ALL_GATES
@pytest.mark.parametrize("path", ["/", "/health/live", "/metrics", "/v2"])
def test_a_link_on_another_site_may_lead_here(gate: Gate, path: str) -> None:
    visit = {"sec-fetch-site": "cross-site", "origin": "https://evil.example"}
    assert admit(gate, f"GET {path}", LOCAL, visit, AS_ADMIN).role == "admin"


@ALL_GATES
@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        " application/json ;x=y",
    ],
)
def test_json_is_taken_with_any_parameters(gate: Gate, content_type: str) -> None:
    declared = {"content-type": content_type}
    assert admit(gate, "POST /predict/digits", LOCAL, AS_ADMIN, declared).role == "admin"


@ALL_GATES
@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "text/plain;application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=application/json",
        "application/jsonp",
        "",
    ],
)
def test_what_a_form_could_send_is_refused(gate: Gate, content_type: str) -> None:
    with pytest.raises(WrongContentType) as caught:
        admit(gate, "POST /predict/digits", LOCAL, AS_ADMIN, {"content-type": content_type})
    assert caught.value.http == 415


@ALL_GATES
def test_no_content_type_is_taken_from_programs_only(gate: Gate) -> None:
    assert admit(gate, "POST /predict/digits", LOCAL, AS_ADMIN).role == "admin"
    with pytest.raises(WrongContentType):
        admit(gate, "POST /predict/digits", LOCAL, AS_ADMIN, SAME_ORIGIN)


@pytest.mark.parametrize("gate", [OPEN, INSECURE])
@pytest.mark.parametrize("call", ["GET /", "GET /metrics", "POST /predict/d", "POST /api/shutdown"])
def test_an_open_server_takes_local_programs_as_admin(gate: Gate, call: str) -> None:
    assert admit(gate, call, LOCAL, JSON) == Caller("admin", None)


WRONG_KEYS = [
    {"authorization": "Bearer pl_" + "z" * 26},
    {"authorization": "Bearer"},
    {"authorization": ""},
    {"authorization": f"Basic {ADMIN_SECRET}"},
    {"authorization": ADMIN_SECRET},
    {"x-api-key": ""},
    {"x-api-key": "pl_" + "z" * 26},
    {"x-api-key": "wrong", **AS_ADMIN},
]


@ALL_GATES
@pytest.mark.parametrize("given_key", WRONG_KEYS)
@pytest.mark.parametrize("call", ["GET /", "GET /health/live", "POST /predict/digits"])
def test_a_wrong_key_is_refused_everywhere(
    gate: Gate, given_key: dict[str, str], call: str
) -> None:
    with pytest.raises(WrongKey) as caught:
        admit(gate, call, LOCAL, JSON, given_key)
    assert caught.value.http == 401
    assert "zzz" not in str(caught.value)
    assert ADMIN_SECRET not in str(caught.value)


@ALL_GATES
@pytest.mark.parametrize(
    "header",
    [
        {"authorization": f"Bearer {ADMIN_SECRET}"},
        {"authorization": f"bearer  {ADMIN_SECRET} "},
        {"x-api-key": ADMIN_SECRET},
    ],
)
def test_a_right_key_counts_in_either_header(gate: Gate, header: dict[str, str]) -> None:
    assert admit(gate, "POST /api/shutdown", LOCAL, JSON, header) == Caller("admin", "aaaaaaaa")


CLIENT_CALLS = [
    "GET /v2",
    "GET /v2/health/ready",
    "POST /v2/models/digits/infer",
    "POST /predict/digits",
    "GET /metrics",
    "HEAD /metrics",
    "GET /health/live",
    "GET /",
    "POST /login",
]
ADMIN_CALLS = [
    "POST /api/shutdown",
    "GET /api/stream",
    "POST /metrics",
    "GET /v2x",
    "POST /predict",
    "GET /predict/../api/stream",
    "POST /v2/../api/shutdown",
    "GET /login",
    "POST /",
    "GET /anything",
]


@ALL_GATES
@pytest.mark.parametrize("call", CLIENT_CALLS)
def test_a_client_may_infer_and_look(gate: Gate, call: str) -> None:
    assert admit(gate, call, LOCAL, JSON, AS_CLIENT) == Caller("client", "bbbbbbbb")


@ALL_GATES
@pytest.mark.parametrize("call", ADMIN_CALLS)
def test_the_rest_is_for_admins(gate: Gate, call: str) -> None:
    assert admit(gate, call, LOCAL, JSON, AS_ADMIN).role == "admin"
    with pytest.raises(NotAllowed) as caught:
        admit(gate, call, LOCAL, JSON, AS_CLIENT)
    assert caught.value.http == 403


@KEYED_GATES
@pytest.mark.parametrize(
    "call",
    ["GET /health/live", "GET /health/ready", "HEAD /health/ready", "GET /", "POST /login"],
)
def test_without_a_key_one_may_log_in_and_ask_for_health(gate: Gate, call: str) -> None:
    assert admit(gate, call, LOCAL, JSON) == Caller("anyone", None)


@KEYED_GATES
@pytest.mark.parametrize(
    "call",
    [
        "GET /metrics",
        "GET /v2",
        "POST /predict/digits",
        "POST /api/shutdown",
        "GET /api/stream",
        "OPTIONS /",
        "POST /health/live",
        "GET /health/live/",
        "GET /health",
        "PUT /login",
    ],
)
def test_without_a_key_nothing_else_is_answered(gate: Gate, call: str) -> None:
    with pytest.raises(KeyRequired) as caught:
        admit(gate, call, LOCAL, JSON)
    assert caught.value.http == 401


def test_insecure_does_not_undo_require_keys() -> None:
    gate = Gate("0.0.0.0", RING, SESSIONS, require_keys=True, insecure=True)
    with pytest.raises(KeyRequired):
        admit(gate, "GET /v2", LOCAL)


@KEYED_GATES
def test_a_session_reads_and_from_its_own_page_also_changes(gate: Gate) -> None:
    cookie = {"cookie": f"theme=dark; {ADMIN_COOKIE}"}
    assert admit(gate, "GET /api/stream", LOCAL, cookie) == Caller("admin", "aaaaaaaa")
    changed = admit(gate, "POST /api/shutdown", LOCAL, cookie, JSON, SAME_ORIGIN)
    assert changed == Caller("admin", "aaaaaaaa")
    with pytest.raises(ForeignOrigin, match="cookie"):
        admit(gate, "POST /api/shutdown", LOCAL, cookie, JSON)


@KEYED_GATES
def test_a_session_has_the_role_of_its_key(gate: Gate) -> None:
    assert admit(gate, "GET /metrics", LOCAL, {"cookie": CLIENT_COOKIE}).role == "client"
    with pytest.raises(NotAllowed):
        admit(gate, "GET /api/stream", LOCAL, {"cookie": CLIENT_COOKIE})


def test_revoking_a_key_ends_its_sessions_at_once() -> None:
    gate = Gate("127.0.0.1", RING, SESSIONS, require_keys=True)
    headers = _raw({**LOCAL, "cookie": ADMIN_COOKIE})
    assert gate.admit("GET", "/api/stream", headers, NOW).role == "admin"
    gate.ring = KeyRing()
    with pytest.raises(KeyRequired):
        gate.admit("GET", "/api/stream", headers, NOW)


@KEYED_GATES
def test_an_expired_session_is_asked_for_a_key(gate: Gate) -> None:
    headers = _raw({**LOCAL, "cookie": ADMIN_COOKIE})
    assert gate.admit("GET", "/", headers, NOW + SESSION_S).role == "anyone"
    with pytest.raises(KeyRequired):
        gate.admit("GET", "/metrics", headers, NOW + SESSION_S)


def test_a_stale_cookie_does_not_lock_a_local_browser_out() -> None:
    assert admit(OPEN, "GET /", LOCAL, {"cookie": "paceline_8080=stale"}).role == "admin"


@pytest.mark.parametrize(
    "header", ["forwarded", "via", "x-real-ip", "x-forwarded-for", "x-forwarded-proto"]
)
def test_a_proxy_in_front_of_an_open_server_opens_it_to_nobody(header: str) -> None:
    proxied = {header: "203.0.113.9"}
    for call in ("GET /", "GET /metrics", "POST /api/shutdown"):
        with pytest.raises(KeyRequired, match="--require-keys"):
            admit(OPEN, call, LOCAL, JSON, proxied)
    assert admit(OPEN, "GET /health/ready", LOCAL, proxied) == Caller("anyone", None)
    assert admit(OPEN, "GET /metrics", LOCAL, proxied, AS_CLIENT).role == "client"
    assert admit(LOCKED, "GET /", LOCAL, proxied).role == "anyone"


hosts = st.sampled_from(["localhost:8080", "127.0.0.1:8080", "[::1]", "evil.example", "null", ""])
schemes = st.sampled_from(["http", "https"])
header_values: dict[str, st.SearchStrategy[str]] = {
    "content-type": st.sampled_from(["application/json", "text/plain", ""]),
    "authorization": st.sampled_from([f"Bearer {ADMIN_SECRET}", "Bearer x", ""]),
    "x-api-key": st.sampled_from([CLIENT_SECRET, ADMIN_SECRET, "x"]),
    "cookie": st.sampled_from([ADMIN_COOKIE, CLIENT_COOKIE, "paceline_8080=x"]),
    "sec-fetch-site": st.sampled_from(["same-origin", "same-site", "cross-site", "none"]),
    "x-forwarded-for": st.just("203.0.113.9"),
    "x-forwarded-proto": schemes,
}
some_headers = st.fixed_dictionaries({}, optional=header_values)
methods = st.sampled_from(["POST", "PUT", "PATCH", "DELETE", "CONNECT", "TRACE", "FOO"])
paths = st.sampled_from(["/", "/login", "/api/shutdown", "/predict/digits", "/health/live"])
gates = st.sampled_from([OPEN, LOCKED, PUBLIC, INSECURE])


def _admitted(gate: Gate, method: str, path: str, raw: Iterable[tuple[bytes, bytes]]) -> bool:
    try:
        gate.admit(method, path, raw, NOW)
    except PacelineError:
        return False
    return True


@given(gates, methods, paths, hosts, schemes, hosts, some_headers)
def test_no_combination_lets_a_foreign_origin_change_something(
    gate: Gate,
    method: str,
    path: str,
    host: str,
    scheme: str,
    origin_host: str,
    headers: dict[str, str],
) -> None:
    """Whatever else is sent: where Origin's host is not the Host, nothing passes; where it is,
    only with the scheme the request came by."""
    origin = "null" if origin_host == "null" else f"{scheme}://{origin_host}"
    raw = _raw({"host": host, "origin": origin, **headers})
    if _admitted(gate, method, path, raw):
        assert origin == f"{headers.get('x-forwarded-proto', 'http')}://{host}"
        assert headers["content-type"] == "application/json"


@given(methods, paths, hosts, some_headers)
def test_no_combination_without_a_good_credential_changes_a_keyed_server(
    method: str, path: str, host: str, headers: dict[str, str]
) -> None:
    good = (ADMIN_SECRET, CLIENT_SECRET, ADMIN_COOKIE, CLIENT_COOKIE)
    if not any(secret in value for value in headers.values() for secret in good):
        raw = _raw({"host": host, **headers})
        assert not _admitted(PUBLIC, method, path, raw) or (method, path) == ("POST", "/login")


@given(
    gates,
    st.text(),
    st.text(),
    st.lists(st.tuples(st.sampled_from([*header_values, "host", "origin"]), st.binary())),
)
def test_garbage_is_answered_never_a_crash(
    gate: Gate, method: str, path: str, headers: list[tuple[str, bytes]]
) -> None:
    _admitted(gate, method, path, [(name.encode(), value) for name, value in headers])


# --- LLM calls ------------------------------------------------------------------------------------

CHAT = "POST /v1/chat/completions"
FORM = {"content-type": "multipart/form-data; boundary=x"}


@KEYED_GATES
def test_a_client_may_call_llms(gate: Gate) -> None:
    for call in (CHAT, "GET /v1/models", "POST /v1/messages", "DELETE /v1/files/x"):
        assert admit(gate, call, LOCAL, AS_CLIENT, JSON).role == "client"
    for call in ("POST /v1", "POST /v1x/chat", "GET /v1/../api/plan"):
        with pytest.raises(NotAllowed):
            admit(gate, call, LOCAL, AS_CLIENT, JSON)


def test_the_models_of_a_key_go_with_its_caller() -> None:
    client = RING.get("bbbbbbbb")
    assert client is not None
    key = msgspec.structs.replace(client, models=("gpt-4o", "claude-*"))
    gate = Gate("127.0.0.1", KeyRing([key]), SESSIONS)
    assert admit(gate, CHAT, LOCAL, AS_CLIENT, JSON).models == ("gpt-4o", "claude-*")


def test_an_sdk_s_foreign_key_means_nothing_where_none_is_needed() -> None:
    foreign = {"authorization": "Bearer sk-anything"}
    assert admit(OPEN, CHAT, LOCAL, foreign, JSON) == Caller("admin")
    with pytest.raises(WrongKey):
        admit(OPEN, "POST /predict/digits", LOCAL, foreign, JSON)
    with pytest.raises(WrongKey):  # one of ours that is mistyped is told
        admit(OPEN, CHAT, LOCAL, {"x-api-key": "pl_wrong"}, JSON)
    for gate in (LOCKED, PUBLIC):
        with pytest.raises(WrongKey):
            admit(gate, CHAT, LOCAL, foreign, JSON)
    with pytest.raises(KeyRequired):
        admit(OPEN, CHAT, LOCAL, foreign, JSON, {"x-forwarded-for": "1.2.3.4"})


def test_a_form_is_taken_with_a_key_and_for_llms_alone() -> None:
    upload = "POST /v1/files"
    assert admit(LOCKED, upload, LOCAL, AS_CLIENT, FORM).role == "client"
    for refused in ((OPEN, upload, {}), (LOCKED, "POST /predict/digits", AS_CLIENT)):
        gate, call, key = refused
        with pytest.raises(WrongContentType):
            admit(gate, call, LOCAL, key, FORM)
    with pytest.raises(ForeignOrigin):
        admit(LOCKED, upload, LOCAL, AS_CLIENT, FORM, {"origin": "http://evil.example"})
