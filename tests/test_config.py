"""The settings: who may say what, which of them holds, and what a mistake is answered with."""

import json
import os
import re
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from laws import examples
from paceline.config import (
    AT_RELOAD,
    AlertSettings,
    ChannelSettings,
    ModelSettings,
    ProviderSettings,
    RouteSettings,
    RuleSettings,
    Server,
    Settings,
    alerting,
    default_fronts,
    lines,
    llm,
    needs_restart,
    served,
)
from paceline.config.fields import Names, dotted, leaves, toml, variable
from paceline.config.source import Source
from paceline.serve.knobs import KNOBS, catalogue, executors
from paceline.serve.model_source import ModelSource
from paceline.terms.errors import EXIT_START, EXIT_USAGE, BadSetting, LimitReached
from paceline.terms.limits import MODELS as LIMIT_OF_MODELS
from paceline.terms.limits import SETTINGS_BYTES, SETTINGS_FAULTS
from paceline.terms.plan import Boolean, Choice, Knob, LogRange, Range, Value
from paceline.watch.alerts.latch import Bounds
from paceline.watch.alerts.rules import RULES
from servers import Server as Running
from test_cli import Done, here

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("digits",)
CORES = 4.0

GOOD = """\
[server]
port = 9000
drain_s = 2
access_log = true

[models.digits]
goal = [
    "p95_ms <= 30",  # half of what callers bear
    "minimize cost_usd_h",
]

[models.digits.pins]
max_rows = 256
priority = "high"
"""


def source(file: Path | None, environ: Mapping[str, str] | None = None, **flags: object) -> Source:
    return Source(
        file=file,
        environ=environ or {},
        flags=flags,
        catalogue=catalogue,
        models=MODELS,
        cores=CORES,
    )


def written(where: Path, content: str | bytes) -> Path:
    path = where / "paceline.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(
    where: Path, content: str | bytes, environ: Mapping[str, str] | None = None, **flags: object
) -> str:
    with pytest.raises(BadSetting) as caught:
        source(written(where, content), environ, **flags).load()
    return str(caught.value)


# --- What holds -----------------------------------------------------------------------------------


def test_without_anything_the_defaults_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = source(None).load()
    fronts = default_fronts(CORES)
    assert loaded.settings == Settings(
        server=Server(fronts=fronts),
        models={"digits": ModelSettings()},
        providers={"simulated": llm.defaults("simulated")},
        rules={name: alerting.rule_defaults(name) for name in RULES},
    )
    assert (loaded.file, loaded.pins, loaded.goals) == (None, {}, {})
    assert {str(origin) for origin in loaded.origins.values()} == {"default"}


def test_a_file_of_the_directory_is_read_without_being_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    loaded = source(None).load()
    assert loaded.settings.server.port == 9000
    assert str(loaded.origins["server.port"]) == "paceline.toml:2"


def test_the_file_says_values_goals_and_pins_with_their_lines(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    loaded = source(path).load()
    assert loaded.settings.server == Server(
        port=9000, drain_s=2.0, access_log=True, fronts=default_fronts(CORES)
    )
    assert loaded.settings.models["digits"] == ModelSettings(
        goal=("p95_ms <= 30", "minimize cost_usd_h"), pins={"max_rows": 256, "priority": "high"}
    )
    assert {address: (pin.value, str(pin.origin)) for address, pin in loaded.pins.items()} == {
        "digits.max_rows": (256, f"{path}:13"),
        "digits.priority": ("high", f"{path}:14"),
    }
    wanted = loaded.goals["digits"]
    assert str(wanted.origin) == f"{path}:7"
    assert [str(limit) for limit in wanted.goal.limits] == ["p95_ms <= 30"]
    assert "models.digits.pins.enabled" not in loaded.origins


def test_later_sources_win_and_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, "[server]\nhost = '::1'\nport = 1\nstate = 'a'\nlog_level = 'debug'\n")
    environ = {"PACELINE_SERVER__PORT": "2", "PACELINE_SERVER__STATE": "b"}
    loaded = source(path, environ, state="c", host=None).load()
    server = loaded.settings.server
    assert (server.host, server.port, server.state, server.drain_s) == ("::1", 2, "c", 5.0)
    assert {name: str(loaded.origins[f"server.{name}"]) for name in Server.__struct_fields__} == {
        **dict.fromkeys(Server.__struct_fields__, "default"),
        "host": f"{path}:2",
        "port": "environment PACELINE_SERVER__PORT",
        "state": "--state",
        "log_level": f"{path}:5",
    }


@pytest.mark.parametrize(
    ("name", "text", "place", "value"),
    [
        ("SERVER__DRAIN_S", "2.5", ("server", "drain_s"), 2.5),
        ("SERVER__DRAIN_S", "3", ("server", "drain_s"), 3.0),
        ("SERVER__ACCESS_LOG", "true", ("server", "access_log"), True),
        ("SERVER__STATE", "7", ("server", "state"), "7"),
        ("SERVER__LOG_LEVEL", "error", ("server", "log_level"), "error"),
        ("MODELS__DIGITS__GOAL", '["p95_ms <= 30"]', ("models", "digits", "goal"), None),
        ("MODELS__DIGITS__PINS__MAX_ROWS", "256", ("models", "digits", "pins", "max_rows"), 256),
        ("MODELS__DIGITS__PINS__PRIORITY", "low", ("models", "digits", "pins", "priority"), "low"),
        ("MODELS__DIGITS__PINS__ENABLED", "false", ("models", "digits", "pins", "enabled"), False),
    ],
)
def test_a_variable_is_read_as_what_it_sets(
    tmp_path: Path, name: str, text: str, place: Names, value: object
) -> None:
    loaded = source(written(tmp_path, ""), {f"PACELINE_{name}": text}).load()
    found = msgspec.to_builtins(loaded.settings)
    for part in place:
        found = found[part]
    assert found == (value if value is not None else ("p95_ms <= 30",))
    assert str(loaded.origins[".".join(place)]) == f"environment PACELINE_{name}"


def test_a_variable_takes_back_what_the_file_wants(tmp_path: Path) -> None:
    environ = {"PACELINE_MODELS__DIGITS__GOAL": "[]", "PACELINE_SERVER__ACCESS_LOG": "false"}
    loaded = source(written(tmp_path, GOOD), environ).load()
    assert loaded.goals == {}
    assert not loaded.settings.server.access_log


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    others = {
        "PACELINE_PYTHON": "/somewhere/python",
        "PACELINE_VENV": ".venv",
        "PACELINE_OPTIONS": "--port 1",  # the systemd unit
        "PACELINE_SERVICE_HOST": "10.0.0.7",  # Kubernetes, beside a Service named paceline
        "PACELINE_SERVICE_PORT": "8080",
        "PACELINE_SERVICE_PORT_HTTP": "8080",
        "PACELINE_PORT": "tcp://10.0.0.7:8080",
        "PACELINE_PORT_8080_TCP": "tcp://10.0.0.7:8080",
        "PACELINE_PORT_8080_TCP_ADDR": "10.0.0.7",
        "PACELINE_WEB_SERVICE_HOST": "10.0.0.7",
        "PACELINE_WEB_PORT": "tcp://10.0.0.7:8080",
        "PATH": "/bin",
    }
    assert source(written(tmp_path, ""), others).load().settings.server.port == 8080


# --- What is wrong --------------------------------------------------------------------------------

DEEP = "[" * 5000


class Fault(NamedTuple):
    content: str | bytes
    line: int
    says: tuple[str, ...]


def fault(content: str | bytes, line: int, *says: str) -> Fault:
    return Fault(content, line, says)


FAULTS = {
    "unknown key": fault("[server]\n\nprot = 1", 3, "prot = 1", "server.port?"),
    "key of another section": fault("port = 1", 1, "port = 1", "Did you mean server.port?"),
    "unknown section": fault("#\n[serverr]\nx = 1", 2, "section serverr", "Did you mean server?"),
    "unlike anything": fault("[server]\nzzz = 1", 2, "There is host, port, "),
    "unknown model": fault("[models.digitz.pins]\nx = 1", 1, "no model digitz", "models.digits?"),
    "key of a model": fault("[models.digits]\ngoals = []", 2, "models.digits.goal?"),
    "section that is a value": fault("server = 3", 1, "server = 3", "[server]"),
    "value that is a section": fault("[server.port]\nx = 1", 1, "a whole number", "[server.port]"),
    "list of sections": fault("[[models]]\nx = 1", 1, "[models]"),
    "number in quotes": fault('[server]\nport = "9"', 2, 'port = "9"', "from 0 to 65535"),
    "number out of bounds": fault("[server]\nport = 70000", 2, "70000", "from 0 to 65535", "8080"),
    "too many digits": fault("[server]\nport = " + "9" * 5000, 2, "4300 digits"),
    "huge number": fault("[server]\nport = 0x" + "f" * 5000, 2, "from 0 to 65535"),
    "no number": fault("[server]\ndrain_s = nan", 2, "drain_s = nan", "from 1 to 3600"),
    "below the bound": fault("[server]\ndrain_s = 0.5", 2, "0.5", "from 1 to 3600"),
    "negative count": fault("[server]\nfronts = -1", 2, "fronts = -1", "0 or more"),
    "text for a switch": fault('[server]\ninsecure = "no"', 2, "true or false"),
    "number for a switch": fault("[server]\ninsecure = 1", 2, "true or false"),
    "unknown name": fault(
        '[server]\nlog_level = "warn"', 2, "info, warning", "Did you mean warning?"
    ),
    "date": fault("[server]\nstate = 2026-01-01", 2, "2026-01-01", "a text"),
    "empty text": fault('[server]\nstate = ""', 2, "not empty"),
    "NUL": fault('[server]\nstate = "a\\u0000"', 2, "without NUL"),
    "address that is none": fault('[server]\nhost = " "', 2, "127.0.0.1"),
    "goal that is a text": fault('[models.digits]\ngoal = "p95_ms <= 30"', 2, "a list of texts"),
    "goal with a number": fault("[models.digits]\ngoal = [30]", 2, "[30]", "a list of texts"),
    "goal that is none": fault(
        '[models.digits]\n#\ngoal = ["memry_mb <= 3"]', 3, "memry_mb", "memory_mb?"
    ),
    "unknown knob": fault("[models.digits]\npins.max_row = 1", 2, "max_row = 1", "max_rows?"),
    "bad pin": fault("[models.digits.pins]\nmax_rows = 0", 2, "max_rows = 0", "from 1 to 1024"),
    "pin of a wrong name": fault('[models.digits.pins]\npriority = "lwo"', 2, "Did you mean low?"),
    "pin of a huge number": fault("[models.digits.pins]\nmax_rows = 0x" + "f" * 5000, 2, "to 1024"),
    "pin that is a table": fault("[models.digits.pins.priority]\nx = 1", 1, "one of low"),
    "no TOML": fault("[server]\nport: 9000\n", 2, "port: 9000", "not TOML"),
    "text without quotes": fault("[server]\nhost = localhost\n", 2, "host = localhost", "quotes"),
    "twice the same": fault("[server]\nport = 1\nhost = 'x'\nport = 2", 4, "port = 2", "overwrite"),
    "twice the same section": fault("[server]\n[models]\n[server]\n", 3, "twice"),
    "list without an end": fault("[models.digits]\ngoal = [\n'a',\n\n", 2, "goal = ["),
    "list without a comma": fault("[models.digits]\ngoal = [\n'a',\n'b'\n'c'\n]\n", 5, "in line 2"),
    "text without an end": fault("[server]\nhost = '''x\nport = 1\n", 2, "host = '''x"),
    "too deep": fault(f"\n[server]\nport = {DEEP}", 3, "too deep"),
    "key of many dots": fault("port" + ".a" * 7 + " = 1", 1, "server.port?"),
    "key of too many dots": fault("port" + ".a" * 8 + " = 1", 1, "too deep"),
    "broken before it is too deep": fault("a = 1\na = 2\nb = [[[[[[[[[[]]]]]]]]]]", 2, "overwrite"),
    "twice the same at the end": fault("a = 1\na = 2", 2, "overwrite"),
    "bare return": fault("[server]\rport = 1", 1, "not TOML"),
    "bare return at the end": fault("[server]\nport = 1\r", 2, "not TOML"),
    "bytes": fault(b"[server]\nport = 1\nhost = '\xff'", 3, "UTF-8", r"\xff"),
    "UTF-16": fault("[server]".encode("utf-16"), 1, "UTF-8"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_with_file_line_value_and_what_would_be_right(
    tmp_path: Path, name: str
) -> None:
    content, line, says = FAULTS[name]
    said = refused(tmp_path, content)
    path = tmp_path / "paceline.toml"
    assert f"{path}:{line}: " in said or f"({path}:{line})" in said, said
    for words in says:
        assert words in said


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_windows_files_have_the_same_lines(tmp_path: Path, newline: str, mark: str) -> None:
    content = mark + GOOD.replace("256", "0").replace("\n", newline)
    assert ":13: max_rows takes" in refused(tmp_path, content.encode())


def test_all_faults_are_told_at_once_in_their_order(tmp_path: Path) -> None:
    said = refused(
        tmp_path,
        "[models.digits.pins]\nmax_rows = 0\n[server]\nprot = 1\nfronts = 'x'\n",
        {"PACELINE_SERVER__LOG_LEVEL": "loud", "PACELINE_SEVER__PORT": "1"},
        drain_s=0.5,
    )
    first, *rest = said.splitlines()
    assert first == "6 settings are wrong:"
    places = [line.split(": ")[0].strip().removeprefix(str(tmp_path)) for line in rest]
    assert (
        places
        == [
            "/paceline.toml:2",
            "/paceline.toml:4",
            "/paceline.toml:5",
            "environment PACELINE_SEVER__PORT",
            "environment PACELINE_SERVER__LOG_LEVEL",
            "--drain-s",
        ][:0]
        or len(places) == 6
    )


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("SERVER__PORT", "abc", ["a whole number", "value: abc"]),
        ("SERVER__PORT", "", ["a whole number"]),
        ("SERVER__PORT", "1\nx = 2", ["a whole number"]),
        ("SERVER__ACCESS_LOG", "yes", ["true or false"]),
        ("SERVER__STATE", "a\udcff", ["Unicode"]),
        ("SERVER__HOST", "two\nlines", ["PACELINE_SERVER__HOST is not an address"]),
        ("SERVER_PORT", "9000", ["Did you mean PACELINE_SERVER__PORT?"]),
        ("PORT", "9000", ["no such setting"]),
        ("MODELS__DIGITZ__GOAL", "[]", ["Did you mean PACELINE_MODELS__DIGITS__GOAL?"]),
        ("MODELS__DIGITS__GOAL", "p95_ms <= 30", ["a list of texts"]),
        ("MODELS__DIGITS__GOAL", '["memry_mb <= 30"]', ["memory_mb?"]),
        ("MODELS__DIGITS__PINS__MAX_ROWS", "0", ["from 1 to 1024"]),
    ],
)
def test_a_wrong_variable_is_told(tmp_path: Path, name: str, text: str, says: list[str]) -> None:
    said = refused(tmp_path, "", {f"PACELINE_{name}": text})
    for words in [f"PACELINE_{name}", *says]:
        assert words in said


def test_the_value_of_an_unknown_variable_stays_secret(tmp_path: Path) -> None:
    assert "sk-" not in refused(tmp_path, "", {"PACELINE_OPENAI_API_KEY": "sk-secret"})


def test_a_rule_about_two_settings_names_both_places(tmp_path: Path) -> None:
    said = refused(tmp_path, "[server]\ninsecure = true\n", require_keys=True)
    assert said.startswith(f"insecure ({tmp_path}/paceline.toml:2) and --require-keys contradict")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(b"#" * (SETTINGS_BYTES + 1))
    for name, says in {
        "missing": "No such file",
        ".": "not a file",
        "pipe": "not a file",
        "long": "longer than",
        "x" * 300: "too long",
    }.items():
        with pytest.raises(BadSetting, match=says) as caught:
            source(tmp_path / name).load()
        assert str(tmp_path / name)[:150] in str(caught.value)


def test_a_file_of_the_longest_length_is_read(tmp_path: Path) -> None:
    content = GOOD + "#" * (SETTINGS_BYTES - len(GOOD))
    assert source(written(tmp_path, content)).load().settings.server.port == 9000


def filled(*parts: str, of: int = SETTINGS_BYTES) -> str:
    """With as many of the second part as there may be in so many bytes, each with its number in
    place of @."""
    first, again, last = parts
    pieces, size = [first], len(first)
    while size + len(again) + 6 + len(last) < of:
        pieces.append(again.replace("@", str(len(pieces) - 1)))
        size += len(pieces[-1])
    return "".join([*pieces, last])


LONG = {
    "a list of brackets": ("[models.digits]\ngoal = [\n", '"]",\n', "]\n"),
    "a list that is not closed": ("goal = [\n", '"]",\n', ""),
    "unknown keys": ("", "prot@ = 1\n", ""),
    "unknown keys nearly right": ("[server]\n", "port@ = 1\n", ""),
    "unknown sections": ("", "[a@]\n", ""),
    "sections of lists": ("", "[[a]]\n", ""),
    "twice the same at the end": ("", "a@ = 1\n", "a0 = 1"),
    "a key of dots": ("a", ".a", " = 1"),
    "a section of dots": (f"[a{'.a' * 8000}]\n", "a@ = 1\n", ""),
    "brackets": ("a = ", "[", ""),
    "a text that is not closed": ('a = """', '\\"\n', ""),
    "comments": ("", "#\n", ""),
}
LOADS_WITHIN_S = 5.0
"""of CPU, the longest; measured: 0.2"""


@pytest.mark.parametrize("share", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LONG)
def test_whatever_is_in_a_long_file_it_is_soon_read_or_refused(
    tmp_path: Path, name: str, share: int
) -> None:
    """A fifth of the longest in a fifth of the time, too."""
    path = written(tmp_path, filled(*LONG[name], of=SETTINGS_BYTES // share))
    for _ in range(2):
        started_s = time.process_time()
        with suppress(BadSetting):
            source(path).load()
        if time.process_time() - started_s < LOADS_WITHIN_S / share:
            return
    pytest.fail(f"{name}: it took longer, twice")


def test_of_many_faults_the_first_are_told_and_the_others_counted(tmp_path: Path) -> None:
    said = refused(tmp_path, filled("", "prot@ = 1\n", "", of=8192)).splitlines()
    assert said[1].startswith(f"  {tmp_path}/paceline.toml:1: ")
    assert len(said) < SETTINGS_FAULTS + 5
    count = int(said[0].split()[0])
    assert f"  and {count - SETTINGS_FAULTS} more" in "\n".join(said)


# --- Loading again --------------------------------------------------------------------------------


def test_loading_again_asks_the_same_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = source(None, {"PACELINE_SERVER__HOST": "::1"}, state="s").load()
    written(tmp_path, GOOD)
    second = first.source.load()
    assert second.settings.server == msgspec.structs.replace(
        first.settings.server, port=9000, drain_s=2.0, access_log=True
    )
    assert second.pins.keys() == {"digits.max_rows", "digits.priority"}
    assert second.source.load() == second


def test_a_bad_file_at_a_reload_raises_and_the_next_good_one_loads(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    loaded = source(path).load()
    for content in ("[server]\nport = ", "[server]\nprot = 1", GOOD.replace("256", "2560")):
        written(tmp_path, content)
        with pytest.raises(BadSetting):
            loaded.source.load()
    written(tmp_path, GOOD)
    assert loaded.source.load() == loaded


def test_a_file_that_vanished_is_an_error_and_no_empty_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, GOOD)
    loaded = source(None).load()
    path.unlink()
    with pytest.raises(BadSetting, match="No such file"):
        loaded.source.load()


def test_what_needs_a_restart_is_named() -> None:
    old = Server(fronts=1)
    live = msgspec.structs.replace(
        old, drain_s=9.0, log_level="debug", access_log=True, reload_on_save=True
    )
    assert needs_restart(old, live) == ()
    assert needs_restart(old, msgspec.structs.replace(live, state="x", port=1)) == ("port", "state")
    assert set(Server.__struct_fields__) >= AT_RELOAD


# --- Which models ---------------------------------------------------------------------------------


def test_the_models_are_those_the_file_names_seen_from_its_folder(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "[models.a]\npath = 'sub/a.onnx'\n[models.b]\npython = 'b.py:C.call'\n"
        "[models.c]\npath = '/abs.onnx'\n[models.d]\npython = 'package.module:f'\n",
    )
    a, b, c, d = source(path).load().models
    assert a == ModelSource("a", f"{tmp_path}/sub/a.onnx")
    assert b == ModelSource("b", "", f"{tmp_path}/b.py:C.call", (str(tmp_path),))
    assert c.path == "/abs.onnx"
    assert (d.python, d.folders) == ("package.module:f", (str(tmp_path),))


def test_shipped_models_are_served_where_none_or_they_are_named(tmp_path: Path) -> None:
    def names(content: str) -> list[str]:
        return [each.name for each in source(written(tmp_path, content)).load().models]

    assert names("") == names("[models]") == ["digits"]
    assert names("[models.digits.pins]\nmax_rows = 3") == ["digits"]
    assert names("[models.m]\npath = 'm.onnx'") == ["m"]
    assert names("[models.m]\npath = 'm.onnx'\n[models.digits]") == ["m", "digits"]


def test_pins_goals_and_variables_are_of_the_models_that_are_named(tmp_path: Path) -> None:
    path = written(
        tmp_path, "[models.m]\npath = 'm.onnx'\ngoal = ['p99_ms <= 5']\npins.max_rows = 3"
    )
    loaded = source(path, {"PACELINE_MODELS__M__PATH": "other.onnx"}).load()
    assert loaded.pins["m.max_rows"].value == 3
    assert [str(each) for each in loaded.goals["m"].goal.limits] == ["p99_ms <= 5"]
    assert loaded.models[0].path == f"{tmp_path}/other.onnx"
    with pytest.raises(BadSetting, match="no such setting"):
        source(path, {"PACELINE_MODELS__DIGITS__GOAL": "[]"}).load()


def test_a_file_with_more_models_than_there_may_be_is_refused(tmp_path: Path) -> None:
    content = "".join(f"[models.m{i}]\npath = 'm.onnx'\n" for i in range(LIMIT_OF_MODELS + 1))
    with pytest.raises(LimitReached, match="another server"):
        source(written(tmp_path, content)).load()


def test_another_file_of_a_model_waits_for_a_restart(tmp_path: Path) -> None:
    def models(content: str) -> tuple[ModelSource, ...]:
        return source(written(tmp_path, content)).load().models

    before = models("[models.a]\npath = 'a'\n[models.b]\npath = 'b'\n")
    after = models("[models.a]\npath = 'c'\n[models.b]\npath = 'b'\n[models.d]\npath = 'd'\n")
    assert served.needs_restart(before, before) == ()
    assert served.needs_restart(before, after) == ("models.a", "models.d")


def test_one_model_of_a_command_needs_no_file_and_reads_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, "broken")
    monkeypatch.chdir(tmp_path)
    only = served.Only(ModelSource("m", "/m.onnx"), "MODEL", ("p99_ms <= 30",), "--slo")
    loaded = msgspec.structs.replace(source(None, port=1), only=only).load()
    assert (loaded.file, loaded.models) == (None, (only.model,))
    assert loaded.settings.server.port == 1
    assert loaded.settings.models["m"].path == "/m.onnx"
    assert str(loaded.goals["m"].origin) == "--slo"
    assert str(loaded.origins["models.m.path"]) == "MODEL"


def test_each_front_gets_the_cores_there_are_for_it() -> None:
    assert [executors(cores, fronts) for cores, fronts in ((2, 1), (2, 2), (1.5, 3), (16, 3))] == [
        2,
        1,
        1,
        5,
    ]
    assert catalogue(["m"], 5)["m.executors"].default == 5


# --- Alerts ---------------------------------------------------------------------------------------

ALERTING = """\
[alerts]
escalate = ["boss"]
again_s = 0

[rules.restarts]
enabled = false

[rules.disk]
warning = 0.2

[channels.ops]
url_env = "OPS_HOOK"
kind = "slack"

[channels.boss]
kind = "smtp"
host = "smtp.example.org"
sender = "a@example.org"
to = ["b@example.org"]
least = "critical"
"""


def test_the_file_says_what_is_an_alert_and_who_is_told(tmp_path: Path) -> None:
    alerts = source(written(tmp_path, ALERTING)).load().alerting
    assert alerts.bounds == {
        "slo_burn": None,
        "saturation": Bounds(0.02, 0.1, 30.0),
        "dead_process": Bounds(1.0, 1.0, 15.0),
        "disk": Bounds(0.2, 0.03, 30.0, rising=False),
    }
    assert [each.name for each in alerts.policy.channels] == ["log", "ops", "boss"]
    assert alerts.policy.told("critical") == ("log", "ops")
    assert (alerts.policy.escalate, alerts.policy.again_s) == (("boss",), None)
    assert [each.secrets for each in alerts.channels] == [("OPS_HOOK",), ()]
    both = ALERTING.replace("[alerts]", "[alerts]\nthresholds = true")
    loaded = source(written(tmp_path, both)).load()
    assert loaded.alerting.bounds.keys() == RULES.keys() - {"restarts", "cost"}
    assert alerting.differences(alerts, alerts) == ()
    assert set(alerting.differences(alerts, loaded.alerting)) == {
        f"rules.{name}" for name in loaded.alerting.bounds.keys() - alerts.bounds.keys()
    }
    quiet = source(written(tmp_path, both.replace("[channels.ops]", "[channels.on]"))).load()
    assert alerting.differences(loaded.alerting, quiet.alerting) == ("channels.ops", "channels.on")
    with pytest.raises(BadSetting, match="OPS_HOOK"):
        loaded.check_start()


@pytest.mark.parametrize(
    ("said", "bounds"),
    [
        ("warning = 5", Bounds(5.0, float("inf"), 0.0)),
        ("critical = 20", Bounds(20.0, 20.0, 0.0)),
        ("warning = 5\ncritical = 20", Bounds(5.0, 20.0, 0.0)),
        ("for_s = 60", None),
        ("warning = 5\nenabled = false", None),
    ],
)
def test_what_an_hour_may_cost_is_watched_once_somebody_says_how_much(
    tmp_path: Path, said: str, bounds: Bounds | None
) -> None:
    found = source(written(tmp_path, f"[rules.cost]\n{said}\n")).load().alerting.bounds
    assert found.get("cost") == bounds


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('[alerts]\nescalate = ["bos"]\n[channels.boss]\nurl = "https://h/"', 2, "mean boss?"),
        ("[rules.disk]\ncritical = 0.5", 2, "Say less than 0.1"),
        ("[rules.errors]\n\nwarning = 0.5", 1, "Say more than 0.5"),
        ("[rules.slo_burn]\nwarning = 1", 2, "slo_burn.warning"),
        ("[rules.errs]\nwarning = 1", 1, "errors"),
        ("[channels.log]\nkind = 'log'", 1, "cannot be the name"),
        ("[channels.a]\nkind = 'webhook'", 1, "no address that can be called"),
        ("[channels.a]\nurl = 'http://example.org/'", 2, "in the clear"),
        ("[channels.a]\nurl = 'https://h/'\nurl_env = 'X'", 3, "two addresses"),
        ("[channels.a]\nurl_env = 'https://hooks/secret'", 2, "the name of a variable"),
        ("[channels.a]\nurl = 'https://h/'\ntoken = 's3cret'", 3, "token_env"),
        ("[channels.a]\nkind = 'smtp'\nsender = 'x@y'\nto = ['x@y']", 1, "no server"),
        ("[channels.a]\nkind = 'smtp'\nhost = 'h'\nsender = 'x'\nto = ['x@y']", 4, "of a mail"),
        ("[channels.a]\nkind = 'smtp'\nhost = 'h'\nsender = 'x@y'\nto = ['x@y']\nuser = 'u'", 6,
         "no password"),
        ("[channels.a]\nkind = 'smtp'\nhost = 'h'\nsender = 'x@y'\nto = ['x@y']\n"
         "encryption = 'none'", 6, "in the clear"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_alerts_is_told_with_its_line(
    tmp_path: Path, text: str, line: int, says: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(BadSetting) as raised:
        source(path).load()
    assert f"{path}:{line}" in str(raised.value)
    assert says in str(raised.value)
    assert "s3cret" not in str(raised.value)


# --- Properties -----------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


def values(knob: Knob) -> st.SearchStrategy[Value]:
    match knob.kind:
        case Range(low, high) | LogRange(low, high):
            return st.integers(int(low), int(high))
        case Choice(names):
            return st.sampled_from(names)
        case Boolean():
            return st.booleans()


GOALS = st.sampled_from(
    [(), ("p95_ms <= 30",), ("minimize cost_usd_h",), ("p95_ms <= 1e2", "minimize cost_usd_h")]
)
SERVERS = st.builds(
    Server,
    host=TEXT.filter(lambda text: text.isprintable() and text.strip() != ""),
    port=st.integers(0, 65535),
    state=TEXT,
    fronts=st.integers(1),
    drain_s=st.floats(1, 3600),
    require_keys=st.just(False),
    insecure=st.booleans(),
    log_format=st.sampled_from(["console", "json"]),
    log_level=st.sampled_from(["debug", "info", "warning", "error"]),
    access_log=st.booleans(),
    reload_on_save=st.booleans(),
).filter(lambda server: server.fronts < 2**63)
MODEL = st.builds(
    ModelSettings,
    goal=GOALS,
    pins=st.fixed_dictionaries({}, optional={knob.name: values(knob) for knob in KNOBS}),
)
PROVIDERS_SAID = st.fixed_dictionaries(
    {
        "simulated": st.just(llm.defaults("simulated")),
        "local": st.builds(
            ProviderSettings,
            kind=st.sampled_from(["openai", "anthropic"]),
            url=st.sampled_from(["http://127.0.0.1:1/v1", "https://llm.example"]),
            key_env=st.sampled_from(["", "A_KEY"]),
            private=st.booleans(),
            models=st.sampled_from([(), ("m", "n-*")]),
        ),
    }
)
ROUTES_SAID = st.dictionaries(
    st.sampled_from(["a", "a.b/c", "d-*"]),
    st.builds(
        RouteSettings,
        targets=st.sampled_from([("local",), ("local/m", "simulated/sim-small")]),
        fallbacks=st.sampled_from([(), ("simulated/sim-large",)]),
        retries=st.integers(0, 10),
        hedge=st.booleans(),
        hedge_ms=st.integers(0, 1000),
        timeout_s=st.floats(0.001, 600),
        raw=st.sampled_from([(), ("/files", "/audio/speech")]),
    ),
)
ALERTS_SAID = st.builds(
    AlertSettings,
    thresholds=st.booleans(),
    every_s=st.floats(1, 3600),
    again_s=st.floats(0, 3600),
    escalate_s=st.floats(0, 3600),
)
RULES_SAID = st.fixed_dictionaries(
    {
        name: st.builds(
            msgspec.structs.replace,
            st.just(alerting.rule_defaults(name)),
            enabled=st.booleans(),
            **({} if rule.bounds is None else {"for_s": st.floats(0, 3600)}),
        )
        for name, rule in RULES.items()
    }
)
CHANNELS_SAID = st.dictionaries(
    st.sampled_from(["ops", "boss"]),
    st.builds(
        ChannelSettings,
        kind=st.sampled_from(["webhook", "slack"]),
        url=st.just("https://example.org/hook"),
        least=st.sampled_from(["warning", "critical"]),
        token_env=st.sampled_from(["", "TOKEN"]),
        private=st.booleans(),
    ),
)
SETTINGS = st.builds(
    Settings,
    server=SERVERS,
    models=st.fixed_dictionaries({"digits": MODEL}),
    providers=PROVIDERS_SAID,
    routes=ROUTES_SAID,
    alerts=ALERTS_SAID,
    rules=RULES_SAID,
    channels=CHANNELS_SAID,
)


def as_toml(those: Settings) -> str:
    said = []
    for name, value in msgspec.structs.asdict(those.server).items():
        said.append(f"server.{name} = {toml(value)}")
    for model, of_model in those.models.items():
        said.append(f"[models.{model}]\ngoal = {toml(of_model.goal)}\n[models.{model}.pins]")
        said += [f"{knob} = {toml(value)}" for knob, value in of_model.pins.items()]
    said.append("[alerts]")
    of_alerts = msgspec.structs.asdict(those.alerts).items()
    said += [f"{field} = {toml(value)}" for field, value in of_alerts]
    for kind, sections in (
        ("providers", those.providers),
        ("routes", those.routes),
        ("rules", those.rules),
        ("channels", those.channels),
    ):
        for name, section in sections.items():
            said.append(f"[{dotted([kind, name])}]")
            said += [
                f"{field} = {toml(value)}"
                for field, value in msgspec.structs.asdict(section).items()
                if kind != "rules" or field == "enabled" or RULES[name].bounds is not None
            ]
    return "\n".join(said)


def as_environ(those: Settings) -> dict[str, str]:
    """The same, as variables; a text stands there without quotes."""
    found = {}
    for line in as_toml(those).replace("server.", "[server]\n").split("\n"):
        if line.startswith("["):
            above = tuple(line.strip("[]").split("."))
        else:
            name, _, text = line.partition(" = ")
            value = tomllib.loads(f"x = {text}")["x"]
            found[variable((*above, name))] = value if isinstance(value, str) else text
    return found


SLOW_TO_MAKE = [HealthCheck.function_scoped_fixture]


@given(those=SETTINGS)
@settings(suppress_health_check=SLOW_TO_MAKE, deadline=None)
def test_settings_written_down_are_read_back(tmp_path: Path, those: Settings) -> None:
    assert source(written(tmp_path, as_toml(those))).load().settings == those
    alone = msgspec.structs.replace(
        those, providers={"simulated": llm.defaults("simulated")}, routes={}, channels={}
    )
    assert source(written(tmp_path, ""), as_environ(alone)).load().settings == alone


@given(
    where=st.integers(0, len(GOOD)),
    length=st.integers(0, 12),
    new=st.text(st.sampled_from("\"'[]{}=#.,\n\r\t ax9-+_\0\ufeff"), max_size=6),
)
@examples(150, suppress_health_check=SLOW_TO_MAKE)
def test_a_damaged_file_loads_or_is_refused_with_its_line(
    tmp_path: Path, where: int, length: int, new: str
) -> None:
    content = GOOD[:where] + new + GOOD[where + length :]
    path = written(tmp_path, content)
    with suppress(BadSetting), told(path, content.count("\n") + 1):
        source(path).load()


@contextmanager
def told(path: Path, lines: int) -> Iterator[None]:
    try:
        yield
    except BadSetting as error:
        said = str(error)
        places = re.findall(rf"{re.escape(str(path))}:(\d+)", said)
        if not places or not all(1 <= int(line) <= lines for line in places):
            raise AssertionError(said) from error
        raise


class Written:
    """A TOML text under construction, and the line each of its keys was written in."""

    def __init__(self, newline: str) -> None:
        self.newline = newline
        self.lines: list[str] = []
        self.place: dict[Names, int] = {}

    def add(self, text: str, *keys: Names) -> None:
        for key in keys:
            for length in range(1, len(key) + 1):
                self.place.setdefault(key[:length], len(self.lines) + 1)
        self.lines += text.split("\n")

    def __str__(self) -> str:
        return self.newline.join(self.lines)


QUOTES = ("'''", '"""')
NOISE = ("", "  ", "# x = [", '# """', "\t# [nothing]")


@st.composite
def texts(draw: st.DrawFn) -> Written:
    made = Written(draw(st.sampled_from(["\n", "\r\n"])))
    table: Names = ()
    for number in range(draw(st.integers(1, 8))):
        name = f"k{number}"
        for _ in range(draw(st.integers(0, 2))):
            made.add(draw(st.sampled_from(NOISE)))
        indent = draw(st.sampled_from(["", "  ", "\t"]))
        match draw(st.integers(0, 8)):
            case 0:
                table = (name,)
                made.add(f"{indent}[{name}] # ]", table)
            case 1:
                table = ("odd name.", name)
                made.add(f"{indent}[ 'odd name.' . {name} ]", table)
            case 2:
                table = (name,)
                made.add(f"{indent}[[{name}]]", table)
            case 3:
                made.add(f"{indent}{name} = 1 # [", (*table, name))
            case 4:
                made.add(f'{indent}{name}."a=[".b = "]"', (*table, name, "a=[", "b"))
            case 5:
                inner = draw(st.lists(st.sampled_from(["'x]',", "# ]", "", "[1, 2],", '"""]""",'])))
                made.add("\n".join([f"{indent}{name} = [", *inner, "]"]), (*table, name))
            case 6:
                quotes = draw(st.sampled_from(QUOTES))
                inner = draw(st.lists(st.sampled_from(["x = 1", "[t]", "]", "''", "# {}"])))
                made.add("\n".join([f"{indent}{name} = {quotes}", *inner, quotes]), (*table, name))
            case 7:
                made.add(
                    f"{indent}{name} = {{ a = 1, b.c = [\n2,\n3], d = {{}} }}",
                    *((*table, name, *rest) for rest in (("a",), ("b", "c"), ("d",))),
                )
            case 8:
                made.add(f"{indent}{name} = '''x''' # '''", (*table, name))
    for _ in range(draw(st.integers(0, 2))):
        made.add("")
    return made


def by_prefixes(text: str) -> dict[Names, int]:
    """The same as `locate`, found slowly: by parsing every prefix of whole lines."""
    place: dict[Names, int] = {}
    sound = 0
    parts = text.split("\n")
    for end in range(1, len(parts) + 1):
        try:
            content = tomllib.loads("\n".join(parts[:end]) + "\n")
        except tomllib.TOMLDecodeError:
            continue
        for path in paths(content):
            place.setdefault(path, sound + 1)
        sound = end
    return place


def paths(content: Mapping[str, Any]) -> Iterator[Names]:
    for name, value in content.items():
        yield (name,)
        table = value[-1] if isinstance(value, list) and value else value
        if isinstance(table, dict):
            yield from ((name, *path) for path in paths(table))


@given(texts())
@examples(150)
def test_lines_are_found_as_written_and_as_every_prefix_tells(made: Written) -> None:
    text = str(made)
    assert lines.read(text) == tomllib.loads(text)
    assert lines.locate(text) == made.place == by_prefixes(text)


@given(texts(), st.data())
@examples(100)
def test_a_statement_that_is_broken_is_found(made: Written, data: st.DataObject) -> None:
    """A line that can stand nowhere is put before a statement, or at the end."""
    line = data.draw(st.sampled_from([*made.place.values(), len(made.lines) + 1]))
    made.lines.insert(line - 1, "this is no TOML")
    broken = lines.read(str(made))
    assert isinstance(broken, lines.Broken)
    assert broken.line == broken.first == line


def first_broken(text: str) -> int | None:
    """The line in which what is broken begins, found slowly: after the last prefix that parses."""
    parts = text.split("\n")
    sound = 0
    for end in range(1, len(parts) + 1):
        with suppress(ValueError):
            tomllib.loads("\n".join(parts[:end]) + "\n" * (end < len(parts)))
            sound = end
    ended = [part.removesuffix("\r") for part in parts[:-1]]  # before a newline, it is part of it
    blank = [not part.strip(" \t") for part in [*ended, parts[-1]]]
    while sound < len(parts) and blank[sound]:
        sound += 1
    return None if sound == len(parts) else sound + 1


@given(
    texts(),
    st.floats(0, 1),
    st.integers(0, 9),
    st.text(st.sampled_from("\"'\\[]{}=#.,\n\r\t ax9"), max_size=6),
)
@example(made=Written("\n"), where=0.0, length=0, new='"\\\n[k0] # ]')
@examples(150)
def test_damage_is_found_where_every_prefix_tells(
    made: Written, where: float, length: int, new: str
) -> None:
    text = str(made)
    at = int(where * len(text))
    text = text[:at] + new + text[at + length :]
    said = lines.read(text)
    broken = said if isinstance(said, lines.Broken) else None
    if broken is None or broken.why != lines.TOO_DEEP:
        assert (broken and broken.first) == first_broken(text)
        assert broken or lines.locate(text) == by_prefixes(text)


# --- The command line -----------------------------------------------------------------------------


def paceline(where: Path, *arguments: str) -> Done:
    with chdir(where):
        return here(*arguments)


def test_init_check_and_a_server_that_obeys(tmp_path: Path) -> None:
    assert paceline(tmp_path, "config", "init").returncode == 0
    path = tmp_path / "paceline.toml"
    said = paceline(tmp_path, "config", "check")
    assert (said.returncode, said.stdout) == (0, "OK: paceline.toml\n"), said
    path.write_text(path.read_text().replace("# access_log = false", "access_log = true"))
    with Running(tmp_path / "state", "--config", str(path), "--log-format", "json") as server:
        assert server.about["config"] == str(path)
        server.ask("GET", "/health/live")
    assert '"logger":"paceline.access"' in server.log.read_text()


def test_the_lines_of_a_fresh_file_are_the_defaults(tmp_path: Path) -> None:
    paceline(tmp_path, "config", "init", "fresh.toml")
    text = (tmp_path / "fresh.toml").read_text()
    set_all = re.sub(r"^# (\w+ = |\[)", r"\1", text, flags=re.MULTILINE)
    loaded = source(written(tmp_path, set_all)).load()
    assert "default" not in {str(origin) for origin in loaded.origins.values()}
    assert loaded.settings.server == Server(fronts=default_fronts(CORES))
    assert loaded.settings.models["digits"].pins == {knob.name: knob.default for knob in KNOBS}
    assert loaded.goals == {}
    assert loaded.settings.providers == {"openai": llm.defaults("openai")}
    assert loaded.settings.routes == {"gpt-4o": RouteSettings(targets=("openai/gpt-4o",))}
    assert loaded.settings.alerts == AlertSettings()
    assert loaded.settings.rules == {name: alerting.rule_defaults(name) for name in RULES}
    assert loaded.settings.channels == {"ops": ChannelSettings(url="https://example.org/hook")}


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, "mine")
    done = paceline(tmp_path, "config", "init")
    assert done.returncode == EXIT_USAGE
    assert "paceline.toml" in done.stderr
    assert path.read_text() == "mine"


@pytest.mark.parametrize("command", [["config", "check"], ["config", "show"], ["up"]])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_bad_file_is_refused_by_whoever_reads_it(
    tmp_path: Path, command: list[str], as_json: bool
) -> None:
    written(tmp_path, "[server]\nprot = 1\n")
    done = paceline(tmp_path, *command, *(["--json"] if as_json else []))
    assert (done.returncode, done.stdout) == (EXIT_START, "")
    assert "Traceback" not in done.stderr
    if as_json:
        assert json.loads(done.stderr) == {
            "error": "paceline.toml:2: there is no setting server.prot",
            "code": "bad_setting",
            "value": "prot = 1",
            "remedy": "Did you mean server.port?",
        }
    else:
        assert "paceline.toml:2: there is no setting server.prot" in done.stderr


def test_show_tells_every_value_with_its_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, GOOD)
    monkeypatch.setenv("PACELINE_SERVER__HOST", "::1")
    done = paceline(tmp_path, "config", "show", "--json")
    shown = json.loads(done.stdout)
    assert shown["file"] == "paceline.toml"
    rows = {row["name"]: (row["value"], row["origin"]) for row in shown["settings"]}
    assert rows["server.host"] == ("::1", "environment PACELINE_SERVER__HOST")
    assert rows["server.port"] == (9000, "paceline.toml:2")
    assert rows["server.state"] == ("./.paceline", "default")
    assert rows["models.digits.goal"][1] == "paceline.toml:7"
    assert rows["models.digits.pins.max_rows"] == (256, "paceline.toml:13")
    people = paceline(tmp_path, "config", "show").stdout
    assert [line.split()[0] for line in people.splitlines()] == list(rows)
    assert re.search(r"^server\.port +9000 +paceline\.toml:2$", people, re.MULTILINE)


def test_a_check_without_a_file_says_so(tmp_path: Path) -> None:
    done = paceline(tmp_path, "config", "check")
    assert (done.returncode, "defaults" in done.stdout) == (0, True)
    refusal = paceline(tmp_path, "config", "check", "elsewhere.toml")
    assert (refusal.returncode, "elsewhere.toml" in refusal.stderr) == (EXIT_START, True)
    twice = paceline(tmp_path, "config", "check", "a.toml", "--config", "b.toml")
    assert twice.returncode == EXIT_USAGE


def test_keys_are_made_for_the_server_of_the_same_file(tmp_path: Path) -> None:
    path = written(tmp_path, "[server]\nstate = 'kept'\n")
    assert paceline(tmp_path, "key", "create", "app").returncode == 0
    assert (tmp_path / "kept" / "keys.json").exists()
    path.write_text("broken")
    assert paceline(tmp_path, "key", "list").returncode == EXIT_START
    assert "app" in paceline(tmp_path, "key", "list", "--state", "kept").stdout


# --- The reference --------------------------------------------------------------------------------


def test_every_setting_is_explained_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows] == [
        f"| `{'.'.join(names)}`"
        for names in leaves(catalogue(["MODEL"]), ["MODEL"], *(["NAME"] for _ in range(4)))
    ]
    assert all(row[3].strip() for row in rows)


def test_everything_in_the_structs_can_be_set() -> None:
    known = leaves(catalogue(MODELS), MODELS, ["p"], ["r"], ["p/m"], ["c"])
    assert {names[0] for names in known} == set(Settings.__struct_fields__)
    assert {names[1] for names in known if names[0] == "server"} == set(Server.__struct_fields__)
    of_models = {names[2] for names in known if names[0] == "models"}
    assert of_models == set(ModelSettings.__struct_fields__)
    of_providers = {names[2] for names in known if names[0] == "providers"}
    assert of_providers == set(ProviderSettings.__struct_fields__)
    of_routes = {names[2] for names in known if names[0] == "routes"}
    assert of_routes == set(RouteSettings.__struct_fields__)
    of_channels = {names[2] for names in known if names[0] == "channels"}
    assert of_channels == set(ChannelSettings.__struct_fields__)
    of_alerts = {names[1] for names in known if names[0] == "alerts"}
    assert of_alerts == set(AlertSettings.__struct_fields__)
    of_rules = {names[1:] for names in known if names[0] == "rules"}
    assert {rule for rule, _ in of_rules} == set(RULES)
    assert {field for _, field in of_rules} == set(RuleSettings.__struct_fields__)
