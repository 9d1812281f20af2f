"""Operations as their callers meet them: queries, bodies, methods, errors, and who asks.

All of it through connections, front, relay and owner, around operations of every form. Whether
answers keep the document is test_openapi.py's business.
"""

import asyncio
import http.client
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import paceline.web.relay
from paceline.access.keys import Key
from paceline.terms.errors import (
    TABLE,
    BadJson,
    NotFound,
    PacelineError,
    StateUnusable,
    Unavailable,
    UnknownKnob,
    WrongMethod,
    from_fields,
)
from paceline.terms.limits import BODY_BYTES, QUERY_PARAMETERS, WHO_CHARS
from paceline.web.caller import told, who_asks
from paceline.web.owner_call import Reply, call_owner
from samples import CHANGE, FAIL, Change, Changed, fail, sound
from servers import Answer
from small_server import SmallServer

HISTORY = "/api/sample/history"


class Waiting:
    """A handler that waits until it is let go, and says when it began and ended."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.let_go = asyncio.Event()
        self.ended = asyncio.Event()

    async def answer(self, query: None, body: Change, who: str) -> Changed:
        self.begun.set()
        await self.let_go.wait()
        self.ended.set()
        return Changed(who, body.value)


class Api:
    """A small server and a key for it."""

    def __init__(self, server: SmallServer) -> None:
        self.server = server
        self.headers = server.key("anna", "admin")

    def ask(self, method: str, path: str, body: object = None, raw: bytes | None = None) -> Answer:
        headers = self.headers | ({} if raw is None else {"content-type": "application/json"})
        return self.server.ask(method, path, body, headers, raw=raw)

    def get(self, query: str) -> Answer:
        return self.ask("GET", f"{HISTORY}?{query}")

    def post(self, raw: bytes) -> Answer:
        return self.ask("POST", HISTORY, raw=raw)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    state = tmp_path_factory.mktemp("api") / "state"
    with SmallServer(state, [*sound(), FAIL.answered_by(fail)]) as server:
        yield Api(server)


# Queries


def test_a_query_arrives_typed_with_its_defaults(api: Api) -> None:
    asked = api.get("knob=a.b&limit=5&whole=true&at_least=0.5&around=-1e3").json["asked"]
    assert asked == {
        "knob": "a.b",
        "limit": 5,
        "before": None,
        "order": "newest",
        "at_least": 0.5,
        "around": -1e3,
        "whole": True,
    }


def test_text_stays_text(api: Api) -> None:
    """Whatever else it could be read as."""
    for sent, meant in [("5", "5"), ("null", "null"), ("a%20b%2B+c", "a b+ c"), ("%C3%A4", "ä")]:
        assert api.get(f"knob={sent}").json["asked"]["knob"] == meant


@pytest.mark.parametrize(
    ("query", "cause", "value"),
    [
        ("", "the parameter `knob` is missing", None),
        ("knob=", "the parameter `knob`: expected `str` of length >= 1", ""),
        ("knob=a&limit=x", "the parameter `limit`: expected `int`", "x"),
        ("knob=a&limit=0", "the parameter `limit`: expected `int` >= 1", "0"),
        ("knob=a&limit=101", "the parameter `limit`: expected `int` <= 100", "101"),
        ("knob=a&before=", "the parameter `before`: expected `int`", ""),
        ("knob=a&whole=2", "the parameter `whole`: expected `bool`", "2"),
        ("knob=a&order=up", "the parameter `order`: invalid enum value 'up'", "up"),
        ("knob=a&at_least=inf", "the parameter `at_least`: expected a finite number", "inf"),
        ("knob=a&around=nan", "the parameter `around`: expected a finite number", "nan"),
        ("knob=a&knob=a", "a parameter came twice", "knob"),
        ("knob=a&limits=5", "this address does not take such a parameter", "limits"),
        ("knob=%FF", "the query string cannot be read", "knob=%FF"),
    ],
)
def test_a_wrong_query_is_refused_with_what_is_wrong(
    api: Api, query: str, cause: str, value: str | None
) -> None:
    answer = api.get(query)
    assert (answer.status, answer.json["code"]) == (400, "bad_request")
    assert answer.json["error"] == cause
    assert answer.json.get("value") == value


def test_an_unknown_parameter_is_refused_with_the_nearest(api: Api) -> None:
    assert api.get("knob=a&limits=5").json["remedy"].startswith("Did you mean limit? ")


def test_where_no_parameter_is_taken_none_is_ignored(api: Api) -> None:
    assert api.ask("GET", "/api/status?verbose=1").status == 400
    assert api.ask("POST", f"{HISTORY}?knob=a", {"knob": "a", "value": 1}).status == 400


def test_no_query_makes_work_without_bound(api: Api) -> None:
    answer = api.get("&".join(["knob=a"] * (QUERY_PARAMETERS + 1)))
    assert (answer.status, answer.json["error"]) == (400, "the query string cannot be read")


# Bodies


def test_a_body_arrives_typed_and_is_answered_as_declared(api: Api) -> None:
    answer = api.ask("POST", HISTORY, {"knob": "digits.max_rows", "value": 512})
    assert (answer.status, answer.json) == (201, {"who": "key anna", "value": 512})
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b"", "the body is empty"),
        (b"  ", "the body is empty"),
        (b"[]", "the body, at `$`: expected `object`, got `array`"),
        (b"{}", "the body, at `$`: object missing required field `knob`"),
        (b'{"knob": 1, "value": 1}', "the body, at `$.knob`: expected `str`, got `int`"),
        (
            b'{"knob": "a", "value": 1, "after": [{"version": "1"}]}',
            "the body, at `$.after[0].version`: expected `int`, got `str`",
        ),
        (
            b'{"knob": "a", "value": 1, "colour": 1}',
            "the body, at `$`: object contains unknown field `colour`",
        ),
        (b'{"knob": ', "the body is not valid JSON: "),
        (b'{"knob": "a", "value": NaN}', "the body is not valid JSON: "),
        (b'{"knob": "\xff", "value": 1}', "the body is not valid JSON: "),
        (b'{"knob": "a", "value": 1, "about": ' + b"[" * 9999, "the body is nested too deeply"),
    ],
)
def test_a_wrong_body_is_refused_with_the_place(api: Api, body: bytes, cause: str) -> None:
    answer = api.post(body)
    assert (answer.status, answer.json["code"]) == (400, "bad_json")
    assert answer.json["error"].startswith(cause)
    assert answer.json["remedy"]


def test_a_body_beyond_the_bound_is_not_read(api: Api) -> None:
    assert api.post(b" " * (BODY_BYTES + 1)).status == 413


@pytest.mark.parametrize("body", [None, b"", b"{}"])
def test_an_operation_without_a_body_takes_none_or_an_empty_one(
    api: Api, body: bytes | None
) -> None:
    assert api.ask("POST", "/api/shutdown", raw=body).status == 202
    assert api.server.stopped.pop() == "asked by key anna"


@pytest.mark.parametrize("body", [b"[]", b'{"now": true}', b"x"])
def test_an_operation_without_a_body_does_not_ignore_one(api: Api, body: bytes) -> None:
    assert api.ask("POST", "/api/shutdown", raw=body).json["code"] == "bad_json"
    assert api.server.stopped == []


# Addresses and methods


def test_an_unknown_address_is_told_the_nearest_and_the_list(api: Api) -> None:
    answer = api.ask("POST", "/api/sample/histroy", {})
    assert (answer.status, answer.json["code"]) == (404, "not_found")
    assert answer.json["remedy"] == (
        f"Did you mean {HISTORY}? GET /api/openapi.json lists what there is."
    )


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE"])
def test_another_method_is_told_which_there_are(api: Api, method: str) -> None:
    answer = api.ask(method, HISTORY)
    assert (answer.status, answer.json["code"]) == (405, "wrong_method")
    assert answer.headers["allow"] == "GET, POST, HEAD, OPTIONS"
    assert answer.json["remedy"] == "Send GET or POST instead."
    assert api.ask(method, "/api/shutdown").headers["allow"] == "POST, OPTIONS"


def test_a_method_that_nobody_knows_is_not_offered(api: Api) -> None:
    answer = api.ask("BREW", HISTORY)
    assert (answer.status, answer.json["code"]) == (501, "not_offered")


def test_what_a_front_answers_itself_is_told_alike(api: Api) -> None:
    answer = api.ask("PUT", "/predict/digits")
    assert (answer.status, answer.headers["allow"]) == (405, "POST, OPTIONS")


def test_options_lists_the_methods_and_lets_no_other_origin_in(api: Api) -> None:
    answer = api.ask("OPTIONS", HISTORY)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["allow"] == "GET, POST, HEAD, OPTIONS"
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_head_is_get_without_the_body(api: Api) -> None:
    path = f"{HISTORY}?knob=a"
    head, get = api.ask("HEAD", path), api.ask("GET", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]
    assert api.ask("HEAD", "/api/shutdown").status == 405
    assert api.server.stopped == []


@pytest.mark.parametrize(
    "path",
    [
        "/local/reload-keys",
        "/api/../local/reload-keys",
        "/api/%2e%2e/local/reload-keys",
        "/api//local/reload-keys",
        "/api/local/reload-keys",
    ],
)
def test_what_is_for_local_programs_is_reached_through_no_front(api: Api, path: str) -> None:
    assert api.ask("POST", path).status == 404
    reply = call_owner(api.server.state, "POST", "/local/reload-keys")
    assert reply == Reply(204, b"")


# Errors


def test_an_error_of_the_owner_has_the_request_s_name(api: Api) -> None:
    answer = api.ask("POST", HISTORY, {"knob": "a", "value": 1})
    assert answer.json == {
        "error": "no such knob",
        "code": "unknown_knob",
        "remedy": "Name another.",
        "value": "a",
        "request_id": answer.headers["x-request-id"],
    }


def test_a_bug_is_answered_as_one_and_the_owner_lives(api: Api) -> None:
    answer = api.ask("POST", FAIL.path)
    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert "KeyError" not in answer.body.decode()
    assert api.ask("GET", "/api/status").status == 200


# Who asks


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        ("", "a local program"),
        ("person anna, by command line", "person anna, by command line"),
        ("person Žofie, by command line", "person Žofie, by command line"),
        ("two\nlines\x1b[31m", "twolines[31m"),
        (" " * 9, "a local program"),
        ("x" * 1000, "x" * WHO_CHARS),
    ],
)
def test_a_local_program_says_whom_it_speaks_for(api: Api, said: str, understood: str) -> None:
    body = b'{"knob": "digits.max_rows", "value": 1}'
    reply = call_owner(api.server.state, "POST", HISTORY, body, who=said)
    assert reply is not None
    assert CHANGE.status == reply.status
    assert f'"who":"{understood}"' in reply.body.decode()


def test_a_caller_does_not_choose_its_name(api: Api) -> None:
    forged = api.headers | {"x-paceline-caller": "somebody else"}
    body = {"knob": "digits.max_rows", "value": 1}
    assert api.server.ask("POST", HISTORY, body, forged).json["who"] == "key anna"


@given(st.text(max_size=200), st.text("abc", min_size=1, max_size=3))
def test_whoever_asks_is_named_in_one_readable_line(said: str, key_id: str) -> None:
    understood = who_asks(told(said).decode("latin-1"), [Key(key_id, "anna", "admin", 0.0, "")])
    assert 0 < len(understood) <= WHO_CHARS
    assert understood.isprintable()
    assert (understood == "key anna") == (said in (key_id, "key anna") or key_id == said.strip())


def test_a_key_is_named_and_a_role_without_one_is_a_local_program() -> None:
    keys = [Key("aaaaaaaa", "anna", "admin", 0.0, "")]
    assert who_asks("aaaaaaaa", keys) == "key anna"
    assert who_asks("bbbbbbbb", keys) == "bbbbbbbb"
    assert who_asks("admin", keys) == "a local program"


# Callers who leave, and owners who take their time


def test_a_change_that_has_begun_is_finished_without_its_caller(tmp_path: Path) -> None:
    waiting = Waiting()
    with SmallServer(tmp_path / "state", [CHANGE.answered_by(waiting.answer)]) as server:
        api = Api(server)
        connection = server.connect()
        headers = api.headers | {"content-type": "application/json"}
        connection.request("POST", HISTORY, b'{"knob": "a", "value": 1}', headers)
        server.run(waiting.begun.wait())
        connection.close()
        assert api.ask("GET", "/api/status").status == 200  # by now the owner has seen it leave
        server.loop.call_soon_threadsafe(waiting.let_go.set)
        server.run(waiting.ended.wait())


def test_a_front_waits_its_time_for_the_owner_and_then_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paceline.web.relay, "RELAY_S", 0.2)
    waiting = Waiting()
    with SmallServer(tmp_path / "state", [CHANGE.answered_by(waiting.answer)]) as server:
        answer = Api(server).ask("POST", HISTORY, {"knob": "a", "value": 1})
        assert (answer.status, answer.json["code"]) == (503, "owner_gone")
        server.loop.call_soon_threadsafe(waiting.let_go.set)
        server.run(waiting.ended.wait())


# From a local program


def test_a_local_program_gets_the_answer(api: Api) -> None:
    reply = call_owner(api.server.state, "GET", f"{HISTORY}?knob=a")
    assert reply is not None
    assert (reply.status, reply.body[:9]) == (200, b'{"asked":')


@pytest.mark.parametrize(
    ("method", "path", "body", "error"),
    [
        ("POST", HISTORY, b'{"knob": "a", "value": 1}', UnknownKnob),
        ("POST", HISTORY, b"{", BadJson),
        ("POST", "/api/nothing", b"{}", NotFound),
        ("DELETE", HISTORY, None, WrongMethod),
        ("POST", FAIL.path, None, PacelineError),
    ],
)
def test_a_refusal_is_raised_as_the_error_it_was(
    api: Api, method: str, path: str, body: bytes | None, error: type[PacelineError]
) -> None:
    with pytest.raises(PacelineError) as raised:
        call_owner(api.server.state, method, path, body)
    assert type(raised.value) is error
    told = api.ask(method, path, raw=body).json
    assert raised.value.as_fields() == {name: told[name] for name in told if name != "request_id"}


def test_where_no_owner_runs_nobody_answers(tmp_path: Path) -> None:
    assert call_owner(tmp_path / "never", "GET", "/api/status") is None
    assert call_owner(tmp_path, "GET", "/api/status") is None
    with SmallServer(tmp_path / "state") as server:
        assert call_owner(server.state, "GET", "/api/status") is not None
    assert call_owner(tmp_path / "state", "GET", "/api/status") is None


def test_what_is_no_state_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateUnusable):
        call_owner(tmp_path / "file", "GET", "/api/status")


def test_an_answer_that_is_not_ours_is_told_as_such(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def garbled(connection: http.client.HTTPConnection) -> Any:
        class Response:
            status = 500

            def read(self) -> bytes:
                return b"<html>"

        return Response()

    monkeypatch.setattr(http.client.HTTPConnection, "getresponse", garbled)
    with pytest.raises(Unavailable, match="status 500"):
        call_owner(api.server.state, "GET", "/api/status")


def test_a_call_leaves_no_descriptor_open(api: Api) -> None:
    def held() -> list[str]:
        """This process's ways to the state directory, but for the small server's own."""
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return sorted(os.readlink(link) for link in links if os.path.exists(link))

    before = held().count(str(api.server.state))
    call_owner(api.server.state, "GET", "/api/status")
    with pytest.raises(NotFound):
        call_owner(api.server.state, "GET", "/api/nothing")
    assert held().count(str(api.server.state)) == before


CODES = st.sampled_from([*TABLE])
FIELDS = st.fixed_dictionaries(
    {"error": st.text(), "code": CODES, "remedy": st.text()},
    optional={"value": st.text(max_size=200)},
)


@given(FIELDS)
def test_an_error_comes_back_as_it_was_told(fields: dict[str, str]) -> None:
    error = from_fields(fields)
    assert error.code == fields["code"]
    assert error.as_fields() == fields


def test_an_error_of_a_newer_version_keeps_its_words() -> None:
    fields = {"error": "the moon is full", "code": "full_moon", "remedy": "Wait."}
    assert str(from_fields(fields)) == "the moon is full. Wait."


def test_many_live_pages_look_at_the_state_as_often_as_few(tmp_path: Path) -> None:
    """It costs with each model; pages that are open together are told the same."""
    with SmallServer(tmp_path) as server:
        headers = server.key("viewer", "admin")
        pages = [server.connect() for _ in range(20)]
        for page in pages:
            page.request("GET", "/api/events", headers=headers)
        told = [page.getresponse().readline() for page in pages]
        for page in pages:
            page.close()
        assert all(each.startswith(b"data: {") for each in told)
        assert server.looks < 10, "20 pages, within a moment"
