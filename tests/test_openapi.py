"""The control API keeps its OpenAPI document, whoever asks whatever: Schemathesis asks.

It runs as a program of its own, against the real server and against operations of every form.
What it leaves out is asked here: the stream, which never ends, and the stop, which ends the rest.
"""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Awaitable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from paceline.access.gate import FEEDBACK
from paceline.access.keys import KeyFile
from paceline.web.control import DECLARED
from paceline.web.openapi import document
from paceline.web.operations import Declaration
from paceline.web.status import Status
from samples import CHANGE, FAIL, HISTORY, Changed, fail, sound
from servers import Answer, Server
from small_server import SmallServer

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = "/api/openapi.json"
ENDLESS = "/api/events"
STOP = "/api/shutdown"

SCHEMATHESIS = ["run", "--no-color", "--generation-deterministic", "--checks", "all"]
# What no schema can say: which knobs there are, and that 1.0 is not written for a whole number.
SCHEMATHESIS += ["--exclude-checks", "positive_data_acceptance"]
RUN_S = 300


def bearer(state: Path, name: str, role: Any) -> dict[str, str]:
    _, secret = KeyFile(state / "keys.json").create(name, role, 0.0)
    return {"Authorization": f"Bearer {secret}"}


class Served:
    """The real server with keys, and a caller of each role."""

    def __init__(self, state: Path) -> None:
        self.admin = bearer(state, "anna", "admin")
        self.client = bearer(state, "app", "client")
        self.server = Server(state, "--require-keys")

    def document(self) -> Any:
        return self.server.ask("GET", DOCUMENT, headers=self.admin).json


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    it = Served(tmp_path_factory.mktemp("served") / "state")
    with it.server:
        yield it


def operations(described: Any) -> list[tuple[str, str]]:
    return [
        (method.upper(), path) for path, methods in described["paths"].items() for method in methods
    ]


def ask_all(server: Server, admin: dict[str, str], where: Path, *options: str) -> tuple[int, str]:
    """Exit status 0 where every check held, and what it said."""
    (name, value), *_ = admin.items()
    command = [sys.executable, "-m", "schemathesis.cli", *SCHEMATHESIS, *options]
    run = subprocess.run(
        [*command, "-H", f"{name}: {value}", server.address + DOCUMENT],
        cwd=where,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RUN_S,
    )
    return run.returncode, run.stdout


# The document


def test_the_document_is_valid_and_lists_what_is_declared(served: Served) -> None:
    import schemathesis  # a second that the other tests need not wait for

    described = served.document()
    assert described["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(described).validate()
    declared = {(each.method, each.path) for each in DECLARED}
    assert declared <= set(operations(described))


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (node["$ref"],) if "$ref" in node else ()
    for below in (
        node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    ):
        yield from references(below)


def test_whatever_the_document_refers_to_is_in_it() -> None:
    described = msgspec.to_builtins(document([CHANGE, HISTORY, *DECLARED], "1"))
    schemas = described["components"]["schemas"]
    named = {name.rpartition("/")[2] for name in references(described)}
    assert {"Change", "Step", "Status", "Error"} <= named <= set(schemas)


def test_a_query_is_described_as_parameters() -> None:
    described = document([HISTORY], "1").paths[HISTORY.path]["get"]
    shown = {each["name"]: each for each in described["parameters"]}
    assert [name for name in shown if shown[name]["required"]] == ["knob"]
    assert shown["limit"] == {
        "name": "limit",
        "in": "query",
        "required": False,
        "description": "How many at most.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 10},
    }
    assert shown["before"]["schema"] == {"type": "integer", "minimum": 0}


def test_two_methods_of_one_address_stand_together() -> None:
    described = document([HISTORY, CHANGE], "1")
    assert operations(msgspec.to_builtins(described)) == [
        ("GET", HISTORY.path),
        ("POST", HISTORY.path),
    ]
    ids = [each["operationId"] for each in described.paths[HISTORY.path].values()]
    assert ids == ["get_sample_history", "post_sample_history"]


def test_an_operation_s_own_errors_are_described() -> None:
    answers = document([CHANGE], "1").paths[CHANGE.path]["post"]["responses"]
    assert next(iter(answers)) == "201"
    assert answers["404"]["description"].startswith("`unknown_knob`: ")
    assert "`bad_value`" in answers["400"]["description"]


def test_the_reference_lists_what_is_served(served: Served) -> None:
    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    listed = re.findall(r"^## `(\w+) (\S+)`$", page, re.MULTILINE)
    assert sorted(listed) == sorted(operations(served.document()))


# Roles


def refusal(
    server: Server, method: str, path: str, headers: Mapping[str, str]
) -> tuple[int, str | None]:
    """Status and code; of an answer that is no refusal, which may be endless, the status alone."""
    connection = server.connect()
    try:
        connection.request(method, path, headers=dict(headers))
        response = connection.getresponse()
        code = json.loads(response.read())["code"] if response.status >= 400 else None
        return response.status, code
    finally:
        connection.close()


def test_every_operation_refuses_whoever_is_not_admin(served: Served) -> None:
    """Read from the document, so an operation that comes later is covered."""
    described = served.document()
    called = [*operations(described), *((each, STOP) for each in ("GET", "PUT", "OPTIONS"))]
    assert len(called) > len(DECLARED)
    for method, path in called:
        for headers, status, code in (
            ({}, 401, "key_required"),
            ({"Authorization": "Bearer pl_" + "a" * 26}, 401, "wrong_key"),
            ({"x-api-key": "guess"}, 401, "wrong_key"),
            # who infers may tell what was right, and has told nothing here
            (served.client, *((400, "bad_json") if path == FEEDBACK else (403, "not_allowed"))),
        ):
            answer = refusal(served.server, method, path, headers)
            assert answer == (status, code), (method, path, headers)


# What Schemathesis does not ask


def test_the_stream_says_what_its_description_names(served: Served) -> None:
    answers = served.document()["paths"][ENDLESS]["get"]["responses"]
    connection = served.server.connect()
    try:
        connection.request("GET", ENDLESS, headers=served.admin)
        response = connection.getresponse()
        assert list(answers["200"]["content"]) == [response.headers["content-type"].split(";")[0]]
        line = response.readline()
        assert answers["200"]["description"].startswith("Status ")
        assert msgspec.json.decode(line.removeprefix(b"data: "), type=Status).ready
    finally:
        connection.close()


# Schemathesis

LEFT_OUT = ["--exclude-path", ENDLESS, "--exclude-path", STOP]


def keeps_it(document: Any, operation: Any, answer: Answer) -> list[str]:
    """What is wrong with an answer to an operation, by the document."""
    from jsonschema_rs import Draft202012Validator  # Schemathesis brings it

    described = operation["responses"].get(str(answer.status))
    if described is None:
        return [f"no status {answer.status} is described"]
    if (kind := answer.headers.get("content-type")) not in described["content"]:
        return [f"no {kind} is described for {answer.status}"]
    schema = {**described["content"][kind]["schema"], "components": document["components"]}
    return [each.message for each in Draft202012Validator(schema).iter_errors(answer.json)]


QUERY = {"/api/why": "?knob=digits.max_rows", "/api/report": "?model=digits"}


def test_the_server_keeps_its_document_in_a_few_questions(served: Served) -> None:
    """Each operation, asked for nothing in particular; and a change, made."""
    described = served.document()
    statuses = set()
    for method, path in operations(described):
        if path in (ENDLESS, STOP):
            continue
        operation = described["paths"][path][method.lower()]
        change = {"knob": "digits.max_rows", "value": 512}
        bodies: list[object] = [None] if method == "GET" else [{}, change]
        for body in bodies:
            asked = path + QUERY.get(path, "")
            answer = served.server.ask(method, asked, body, served.admin)
            wrong = keeps_it(described, operation, answer)
            assert not wrong, (method, asked, body, wrong)
            statuses.add(answer.status)
    assert statuses >= {200, 400}


def test_an_answer_that_breaks_its_document_is_seen(served: Served) -> None:
    described = served.document()
    status = described["paths"]["/api/status"]["get"]
    answer = served.server.ask("GET", "/api/status", headers=served.admin)
    assert keeps_it(described, status, answer) == []
    lacking = {name: value for name, value in answer.json.items() if name != "ready"}
    for wrong in (
        answer._replace(status=418),
        answer._replace(headers={"content-type": "text/plain"}),
        answer._replace(body=msgspec.json.encode(lacking)),
        answer._replace(body=msgspec.json.encode(answer.json | {"ready": "so so"})),
    ):
        assert keeps_it(described, status, wrong)


@pytest.mark.slow
def test_the_server_keeps_its_document(served: Served, tmp_path: Path) -> None:
    many = ["-n", "100"]
    status, said = ask_all(served.server, served.admin, tmp_path, *LEFT_OUT, *many)
    assert status == 0, said
    assert "inside Paceline" not in served.server.log.read_text()


@pytest.mark.slow
def test_operations_of_every_form_keep_their_document(tmp_path: Path) -> None:
    with SmallServer(tmp_path / "state", sound()) as server:
        admin = server.key("anna", "admin")
        options = ["--exclude-path", ENDLESS, "-n", "100"]
        status, said = ask_all(server, admin, tmp_path, *options)
        assert status == 0, said
        assert server.stopped, "the stop was never reached"


def lie(query: None, body: None, who: str) -> Awaitable[Any]:
    return asyncio.sleep(0, {"who": 1})


@pytest.mark.slow
def test_an_operation_that_breaks_its_document_is_found(tmp_path: Path) -> None:
    lying: Declaration[None, None, Changed] = Declaration(
        "GET", "/api/sample/lie", "A lie.", Changed
    )
    with SmallServer(
        tmp_path / "state", [FAIL.answered_by(fail), lying.answered_by(lie)]
    ) as server:
        admin = server.key("anna", "admin")
        options = ["--include-path-regex", "/api/sample/", "--phases", "fuzzing", "-n", "1"]
        status, said = ask_all(server, admin, tmp_path, *options)
    assert status == 1
    assert "Server error" in said
    assert "Response violates schema" in said
