"""Paceline elsewhere: what deploy/ and docs/guides/deploy.md promise, each really started.

The container is started twice, by one test: in a Docker engine where one answers, and everywhere
in a sandbox, from the same Dockerfile. The unit runs under a systemd of its own.
"""

import configparser
import http.client
import json
import re
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from dockerfile import Image, build, fetch_wheels, ignored
from paceline import config
from paceline.access.keys import KeyFile
from paceline.serve import digits
from paceline.terms import errors
from sandbox import PORT, PYTHON, STOP_S, Sandbox, booted, exchange, in_root
from servers import Answer, Server

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
UNIT = ROOT / "deploy" / "paceline.service"
GUIDE = (ROOT / "docs" / "guides" / "deploy.md").read_text()
STATE = "/var/lib/paceline"
PREDICT = f"/predict/{digits.NAME}"
ROW = list(digits.SAMPLE_ROW)
EXPOSURE_MOST = 1.5  # of 10, for a service that gives up nothing

Done = subprocess.CompletedProcess[str]


class Container(Protocol):
    @property
    def log(self) -> str: ...
    def line(self) -> str: ...
    def wait(self) -> int: ...
    def stop(self) -> int: ...
    def execute(self, *command: str) -> Done: ...
    def ask(
        self, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer: ...


class Runtime(Protocol):
    """The image with one volume. `run` takes what comes after the image in `docker run`."""

    health: list[str]

    def run(self, *arguments: str) -> AbstractContextManager[Container]: ...


class Sandboxes:
    """As `docker run --read-only --cap-drop ALL --security-opt no-new-privileges` starts it."""

    def __init__(self, image: Image, place: Path) -> None:
        self.health = image.health
        self._image = image
        self._place = place
        self._volume = place / "volume"
        covered = image.root / STATE.lstrip("/")  # whose owner and mode a new volume takes over
        subprocess.run(["cp", "--archive", covered, self._volume], check=True)

    def run(self, *arguments: str) -> Sandbox:
        return self.start([*self._image.entrypoint, *(arguments or self._image.command)])

    def start(self, command: Sequence[str], *more: str) -> Sandbox:
        image = self._image
        root = in_root(image.root, writable=False)
        options = [*root, "--bind", str(self._volume), STATE, *more]
        return Sandbox(options, command, image.environ, self._place / "log", user=image.user)


class Docker:
    def __init__(self, place: Path) -> None:
        self._log = place / "log"
        self._name = f"paceline-test-{uuid.uuid4().hex[:8]}"
        docker("build", "--quiet", "--file", str(DOCKERFILE), "--tag", self._name, str(ROOT))
        test = "{{json .Config.Healthcheck.Test}}"
        kind, *self.health = json.loads(docker("inspect", "--format", test, self._name))
        assert kind == "CMD"

    @contextmanager
    def run(self, *arguments: str) -> Iterator["DockerContainer"]:
        options = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        volume = f"{self._name}:{STATE}"
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                [
                    *("docker", "run", "--rm", "--name", self._name, *options),
                    *("--volume", volume, "--publish", f"127.0.0.1::{PORT}"),
                    *(self._name, *arguments),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
            )
        try:
            yield DockerContainer(self._name, process, self._log)
        finally:
            subprocess.run(["docker", "rm", "--force", self._name], capture_output=True)
            process.communicate()

    def remove(self) -> None:
        docker("volume", "rm", "--force", self._name)
        docker("image", "rm", "--force", self._name)


class DockerContainer:
    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self._name = name
        self._process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().decode()

    def wait(self) -> int:
        return self._process.wait(STOP_S)

    def stop(self) -> int:
        docker("kill", "--signal", "TERM", self._name)
        return self.wait()

    def execute(self, *command: str) -> Done:
        whole = ["docker", "exec", self._name, *command]
        return subprocess.run(whole, capture_output=True, text=True)

    def ask(
        self, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        host, _, port = docker("port", self._name, str(PORT)).splitlines()[0].rpartition(":")
        return exchange(
            http.client.HTTPConnection(host, int(port), timeout=10), path, body, headers
        )


def docker(*arguments: str) -> str:
    return subprocess.check_output(["docker", *arguments], text=True)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    place = tmp_path_factory.mktemp("image")
    (place / "wheels").mkdir()
    fetch_wheels(ROOT / "locks" / "run.txt", place / "wheels")
    yield build(DOCKERFILE, ROOT, place / "wheels", place)
    shutil.rmtree(place)  # hundreds of megabytes


@pytest.mark.slow
@pytest.mark.needs("sandbox")
def test_the_container_keeps_its_promises(image: Image, tmp_path: Path) -> None:
    assert image.user != 0
    assert (image.volumes, image.ports) == ([STATE], [PORT])
    keeps_its_promises(Sandboxes(image, tmp_path))
    found = {path.name for path in (tmp_path / "volume").iterdir()}
    files = {"journal.db", "journal.lock", "keys.json", "keys.json.lock", "owner.lock"}
    assert found - {"metrics.db"} == files  # which a server writes that lives for a second or more


@pytest.mark.slow
@pytest.mark.needs("docker-engine")
def test_the_container_keeps_its_promises_in_docker(tmp_path: Path) -> None:
    runtime = Docker(tmp_path)
    try:
        keeps_its_promises(runtime)
    finally:
        runtime.remove()


def keeps_its_promises(runtime: Runtime) -> None:
    with runtime.run() as keyless:
        assert keyless.wait() == errors.EXIT_START
        assert "paceline key create" in keyless.log
    with runtime.run("key", "create", "phone", "--state", STATE, "--json") as create:
        key = json.loads(create.line())["key"]
        assert create.wait() == 0
    with runtime.run() as container:
        assert json.loads(container.line())["state"] == STATE
        assert container.ask(PREDICT, ROW).status == 401
        answer = container.ask(PREDICT, ROW, {"x-api-key": key})
        assert answer.json["outputs"]["label"] == digits.SAMPLE_LABEL
        assert container.execute(*runtime.health).returncode == 0
        for status in statuses(container):
            assert "0" not in status["Uid"].split()
            assert set(status["CapEff"]) == set(status["CapBnd"]) == {"0"}
        for path in ("/", "/tmp", "/opt/paceline"):
            assert container.execute("touch", f"{path}/file").returncode
        assert container.execute("touch", f"{STATE}/file").returncode == 0
        assert container.execute("rm", f"{STATE}/file").returncode == 0
        assert container.stop() == errors.EXIT_OK
        assert [json.loads(line)["msg"] for line in container.log.splitlines()] == ["stopping"]
    with runtime.run("key", "list", "--state", STATE) as listing:  # nothing listens in this one
        assert "phone" in listing.line()
        assert key not in listing.log


def statuses(container: Container) -> list[dict[str, str]]:
    """/proc/PID/status of the owner and its fronts."""
    shown = container.execute("sh", "-c", "cat /proc/[0-9]*/status").stdout
    processes = [
        dict(re.findall(r"^(\w+):\s*(.*)$", status, re.MULTILINE))
        for status in re.split(r"^(?=Name:)", shown, flags=re.MULTILINE)[1:]
    ]
    ours = [status for status in processes if status["Name"] in ("paceline", "python")]
    assert len(ours) >= 2
    return ours


def in_guide(pattern: str) -> str:
    found = re.search(pattern, GUIDE)
    assert found, pattern
    return found[1]


@pytest.mark.slow
@pytest.mark.needs("sandbox")
def test_a_pod_starts_with_keys_from_a_secret(image: Image, tmp_path: Path) -> None:
    _, secret = KeyFile(tmp_path / "secret" / "keys.json").create("phone", "client", wall=0.0)
    (tmp_path / "secret").chmod(0o755)
    (tmp_path / "secret" / "keys.json").chmod(0o644)  # as Kubernetes mounts it
    pod = Sandboxes(image, tmp_path)
    command = json.loads(in_guide(r'command: (\["install".*\])'))
    with pod.start(command, "--ro-bind", str(tmp_path / "secret"), "/mnt") as init:
        assert init.wait() == 0, init.log
    with pod.run() as container:
        assert container.line(), container.log
        assert container.ask(in_guide(r"readinessProbe: .*path: (\S+),")).status == 200
        assert container.ask(in_guide(r"livenessProbe: .*path: (\S+),")).status == 200
        assert container.ask(PREDICT, ROW, {"x-api-key": secret}).status == 200
        assert container.stop() == errors.EXIT_OK


@pytest.mark.slow
@pytest.mark.needs("sandbox")
def test_the_health_check_fails_where_nothing_answers(image: Image, tmp_path: Path) -> None:
    options = in_root(image.root, writable=False)
    with Sandbox(options, image.health, image.environ, tmp_path / "log") as box:
        assert box.wait() == 1
        assert "Connection refused" in box.log


def test_the_last_fitting_rule_keeps_a_file_out_of_the_image() -> None:
    rules = ["*", "!src", "**/__pycache__"]
    assert not ignored("src/paceline/app.py", rules)
    assert ignored("src/paceline/__pycache__/app.pyc", rules)
    assert ignored(".venv/lib/src/x", rules)


def test_a_pod_has_time_to_drain() -> None:
    granted_s = float(in_guide(r"terminationGracePeriodSeconds: (\d+)"))
    waited_s = float(in_guide(r'"sleep", "(\d+)"'))
    assert granted_s > waited_s + config.Server().drain_s


def unit() -> configparser.RawConfigParser:
    """Of a key that comes more than once, the last value."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser


def test_the_unit_waits_longer_than_a_drain_and_repeats_no_mistake() -> None:
    service = unit()["Service"]
    assert float(service["TimeoutStopSec"]) > config.Server().drain_s
    lasting = {
        errors.EXIT_USAGE,
        errors.EXIT_START,
        errors.EXIT_STATE,
        errors.EXIT_ACCESS,
        errors.EXIT_EXTRA,
    }
    assert {int(code) for code in service["RestartPreventExitStatus"].split()} == lasting


def test_systemd_is_told_when_requests_are_answered(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        with Server(
            tmp_path / "state", environ={"NOTIFY_SOCKET": str(tmp_path / "notify")}
        ) as server:
            assert systemd.recv(64) == b"READY=1"
            assert server.ask("GET", "/health/ready").status == 200


def test_a_server_that_cannot_tell_systemd_serves_all_the_same(tmp_path: Path) -> None:
    with Server(tmp_path / "state", environ={"NOTIFY_SOCKET": "@nobody"}) as server:
        assert server.ask("POST", PREDICT, ROW).status == 200
    assert "systemd was not told" in server.log.read_text()


@pytest.fixture
def etc(image: Image, tmp_path: Path) -> Path:
    """/etc as the guide leaves it: the user is there, the unit is there and enabled."""
    etc = tmp_path / "etc"
    shutil.copytree(image.root / "etc", etc)
    for file, entry in (
        ("passwd", f"paceline:x:990:990::{STATE}:/usr/sbin/nologin\n"),
        ("group", "paceline:x:990:\n"),
    ):
        with (etc / file).open("a") as lines:
            lines.write(entry)
    units = etc / "systemd" / "system"
    added = units / "paceline.service.d"
    added.mkdir(parents=True)
    shutil.copy(UNIT, units)
    if PYTHON.is_relative_to("/root") or PYTHON.is_relative_to("/home"):  # as pyenv has it
        lent = f"[Service]\nProtectHome=tmpfs\nBindReadOnlyPaths={PYTHON}\n"
        (added / "python.conf").write_text(lent)
    enable = ["systemctl", f"--root={tmp_path}", "enable", "paceline"]
    subprocess.run(enable, check=True, capture_output=True)
    return etc


@pytest.mark.slow
@pytest.mark.needs("sandbox", "systemd")
def test_the_unit_serves_under_systemd(image: Image, etc: Path, tmp_path: Path) -> None:
    with booted(image.root, etc, tmp_path) as machine:
        assert show(machine, "ActiveState", "NRestarts") == ["active", "0"], journal(machine)
        answer = machine.ask(PREDICT, ROW)
        assert answer.json["outputs"]["label"] == digits.SAMPLE_LABEL
        for status in statuses(machine):
            assert status["Uid"].split() == ["990"] * 4
            assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")

        key = ["/opt/paceline/bin/paceline", "key", "create", "phone", "--state", STATE, "--json"]
        as_user = ["setpriv", "--reuid=paceline", "--regid=paceline", "--clear-groups"]
        created = machine.execute(*as_user, *key)
        secret = json.loads(created.stdout)["key"]
        assert machine.ask(PREDICT, ROW, {"x-api-key": secret}).status == 200
        assert machine.ask(PREDICT, ROW, {"x-api-key": f"{secret}x"}).status == 401

        machine.execute("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "paceline")
        back = "journalctl --follow --no-tail --unit paceline | grep --max-count=2 Started"
        assert machine.execute("timeout", str(STOP_S), "sh", "-c", back).returncode == 0
        assert show(machine, "ActiveState", "NRestarts") == ["active", "1"]
        assert machine.ask(PREDICT, ROW).status == 200

        assert machine.execute("systemctl", "stop", "paceline").returncode == 0
        assert show(machine, "Result", "ExecMainStatus") == ["success", "0"]


@pytest.mark.slow
@pytest.mark.needs("sandbox", "systemd")
def test_the_unit_is_not_restarted_to_repeat_a_mistake(
    image: Image, etc: Path, tmp_path: Path
) -> None:
    added = etc / "systemd" / "system" / "paceline.service.d" / "override.conf"
    added.write_text('[Service]\nEnvironment="PACELINE_OPTIONS=--host 0.0.0.0"\n')
    with booted(image.root, etc, tmp_path) as machine:
        seen = show(machine, "ActiveState", "ExecMainStatus", "NRestarts")
        assert seen == ["failed", str(errors.EXIT_START), "0"]
        assert "paceline key create" in journal(machine)


@pytest.mark.slow
@pytest.mark.needs("sandbox", "systemd-analyze")
def test_systemd_finds_nothing_to_say_about_the_unit(
    image: Image, etc: Path, tmp_path: Path
) -> None:
    root = in_root(image.root, writable=False)
    options = [*root, "--ro-bind", str(etc), "/etc", "--tmpfs", "/run", "--tmpfs", "/tmp"]
    analyze = ["systemd-analyze", "verify", "/etc/systemd/system/paceline.service"]
    with Sandbox(options, analyze, image.environ, tmp_path / "log") as box:
        assert (box.wait(), box.log) == (0, "")


@pytest.mark.needs("systemd-analyze")
def test_the_unit_gives_up_what_it_does_not_need() -> None:
    analyze = ["systemd-analyze", "security", "--offline=true", str(UNIT)]
    shown = subprocess.run(analyze, capture_output=True, text=True).stdout
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", shown)
    assert exposure, shown
    assert float(exposure[1]) <= EXPOSURE_MOST, shown


def show(machine: Sandbox, *properties: str) -> list[str]:
    """Properties of the unit, in this order."""
    done = machine.execute("systemctl", "show", "paceline", *(f"-p{name}" for name in properties))
    values = dict(line.split("=", 1) for line in done.stdout.splitlines())
    return [values[name] for name in properties]


def journal(machine: Sandbox) -> str:
    return machine.execute("journalctl", "--unit", "paceline").stdout
