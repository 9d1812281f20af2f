"""https on the same port: certificates, clients, what is no TLS, and files that do not fit."""

import http.client
import json
import re
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from paceline.serve import digits
from servers import Server
from test_cli import Done, here, paceline
from test_connections import PREDICT, Raw

ROW = list(digits.SAMPLE_ROW)
JSON_BODY = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        f"-subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout {key} -out {cert}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return cert, key


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, files: tuple[Path, Path]) -> Iterator[Server]:
    cert, key = map(str, files)
    state = tmp_path_factory.mktemp("served") / "state"
    with Server(state, "--tls-cert", cert, "--tls-key", key) as running:
        yield running


@contextmanager
def connected(server: Server, files: tuple[Path, Path]) -> Iterator[http.client.HTTPSConnection]:
    trusts = ssl.create_default_context(cafile=str(files[0]))
    connection = http.client.HTTPSConnection("localhost", server.port, timeout=10, context=trusts)
    with closing(connection):
        yield connection


def test_it_is_told_as_https_and_answers_a_client_that_checks(
    server: Server, files: tuple[Path, Path]
) -> None:
    assert server.address == f"https://127.0.0.1:{server.port}"
    with connected(server, files) as connection:
        for _ in range(3):  # on one connection
            body = json.dumps([ROW] * 400)
            connection.request(
                "POST", "/predict/digits", body, {"content-type": "application/json"}
            )
            answer = connection.getresponse()
            assert answer.status == 200
            assert len(json.loads(answer.read())["outputs"]["label"]) == 400
        connection.request("GET", "/api/status")
        assert connection.getresponse().status == 200


def test_a_refused_upload_hears_why(server: Server, files: tuple[Path, Path]) -> None:
    with connected(server, files) as connection:
        connection.request("POST", "/login", b"x" * 100_000, {"content-type": "application/json"})
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["code"]) == (413, "too_large")


def test_its_own_page_is_of_its_own_origin(server: Server, files: tuple[Path, Path]) -> None:
    for origin, status in (("https", 200), ("http", 403)):
        headers = {
            "content-type": "application/json",
            "origin": f"{origin}://localhost:{server.port}",
        }
        with connected(server, files) as connection:
            connection.request("POST", "/predict/digits", json.dumps(ROW), headers)
            assert connection.getresponse().status == status


def test_who_speaks_plain_http_is_cut_off_and_harms_nobody(
    server: Server, files: tuple[Path, Path]
) -> None:
    with Raw(server) as raw:
        raw.say(PREDICT)
        assert not re.match(rb"HTTP/1.1 2", raw.rest())
    with connected(server, files) as connection:
        connection.request("GET", "/health/ready")
        assert connection.getresponse().status == 200


@pytest.mark.parametrize(
    ("command", "cert", "key", "says"),
    [
        (paceline, "nowhere.pem", "nowhere.pem", "No such file"),
        (paceline, __file__, __file__, "cannot be used"),
        (here, "cert.pem", "", "tls_key"),
        (here, "", "key.pem", "tls_cert"),
    ],
)
def test_files_that_do_not_fit_are_told_before_it_listens(
    tmp_path: Path, command: Callable[..., Done], cert: str, key: str, says: str
) -> None:
    options = [*(("--tls-cert", cert) if cert else ()), *(("--tls-key", key) if key else ())]
    done = command("up", "--state", str(tmp_path / "state"), "--port", "0", *options)
    assert done.returncode != 0
    assert says in done.stderr
