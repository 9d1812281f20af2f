"""The log: readable, bounded, free of secrets, and harmless to whoever writes to it."""

import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.observe import log as log_module
from paceline.observe import redact
from paceline.observe.log import ACCESS, Format, Level, Output, Sink, Thinning, get, setup
from paceline.observe.redact import HIDDEN, MIN_SECRET_CHARS, Redactor
from paceline.terms.errors import BadSetting
from paceline.terms.limits import LOG_CHARS, LOG_FIELDS, LOG_SITE_LINES, LOG_SITES, LOG_WINDOW_S

OUR_KEY = "pl_" + "abcdefghijklmnopqrstuvwxyz"


class Logged:
    """A set-up log, what it wrote, and a clock to turn."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stream = io.StringIO()
        self.output: Output | None = None

    def setup(self, format: Format = "json", level: Level = "info", **options: Any) -> "Logged":
        logging.getLogger().handlers.clear()  # pytest's own raise where ours must not
        self.output = setup(
            format,
            level,
            "front-1",
            now=lambda: self.now,
            wall=lambda: 1_767_225_600.25 + self.now,
            stream=self.stream,
            environ=options.pop("environ", {}),
            **options,
        )
        return self

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def logged() -> Iterator[Logged]:
    root = logging.getLogger()
    level = root.level
    made = Logged()
    yield made
    if made.output is not None:
        made.output.close()
    root.setLevel(level)
    logging.getLogger(ACCESS).disabled = False


log = get("paceline.test")


def test_a_console_line_has_time_level_process_message_fields_and_request(logged: Logged) -> None:
    logged.setup("console")
    token = log_module.request_id.set("r-7")
    log.info("model loaded", model="digits", rows=3, file="a b.onnx")
    log_module.request_id.reset(token)
    pattern = (
        r'\d\d:\d\d:00\.250 info    front-1 model loaded  model=digits  rows=3  file="a b.onnx"'
        r"  \[r-7\]\n"
    )
    assert re.fullmatch(pattern, logged.text)


def test_a_json_line_is_one_object_with_everything_in_it(logged: Logged) -> None:
    logged.setup("json")
    token = log_module.request_id.set("r-7")
    try:
        raise ValueError("no such row")
    except ValueError:
        log.exception("infer failed", model="digits")
    log_module.request_id.reset(token)
    (line,) = logged.lines
    exception = line.pop("exception")
    assert line == {
        "ts": "2026-01-01T00:00:00.250000Z",
        "level": "error",
        "process": "front-1",
        "logger": "paceline.test",
        "msg": "infer failed",
        "request_id": "r-7",
        "fields": {"model": "digits"},
    }
    assert exception[0].startswith("Traceback")
    assert exception[-1] == "ValueError: no such row"


def test_levels_leave_out_what_is_below(logged: Logged) -> None:
    logged.setup(level="warning")
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert [line["msg"] for line in logged.lines] == ["c", "d"]


def test_libraries_speak_through_the_same_log(logged: Logged) -> None:
    logged.setup()
    logging.getLogger("some.library").info("Started %s", "server")
    logging.getLogger("asyncio").error("Task exception", extra={"fields": {"task": 1}})
    assert [(line["logger"], line["msg"]) for line in logged.lines] == [
        ("some.library", "Started server"),
        ("asyncio", "Task exception"),
    ]
    assert logged.lines[1]["fields"] == {"task": 1}


def test_the_access_log_is_off_unless_asked_for_and_then_complete(logged: Logged) -> None:
    logged.setup()
    get(ACCESS).info("GET /")
    assert logged.text == ""
    logged.setup(access=True)
    for _ in range(5 * LOG_SITE_LINES):
        get(ACCESS).info("GET /")
    assert len(logged.lines) == 5 * LOG_SITE_LINES


def test_a_second_setup_replaces_the_first(logged: Logged) -> None:
    logged.setup()
    setup("json", "info", "front-1", now=lambda: 0.0, wall=lambda: 0.0, stream=logged.stream)
    log.info("once")
    assert len(logged.lines) == 1


@pytest.mark.parametrize(("format", "level"), [("xml", "info"), ("json", "loud")])
def test_an_unknown_format_or_level_is_refused_with_the_choices(format: Any, level: Any) -> None:
    with pytest.raises(BadSetting, match="Choose one of"):
        setup(format, level, "p", now=lambda: 0.0, wall=lambda: 0.0)


# --- Not without end ------------------------------------------------------------------------------


def _storm(lines: int) -> None:
    for number in range(lines):
        log.error("upstream failed", attempt=number)


def test_one_place_logs_ten_lines_then_is_counted(logged: Logged) -> None:
    logged.setup()
    _storm(100)
    assert len(logged.lines) == LOG_SITE_LINES
    log.info("another place is not held back")
    assert len(logged.lines) == LOG_SITE_LINES + 1
    logged.now += LOG_WINDOW_S
    log.info("later")
    told, later = logged.lines[-2:]
    assert told["msg"] == "suppressed 90 similar lines"
    assert told["fields"] == {"like": "upstream failed"}
    assert (told["level"], told["logger"]) == ("error", "paceline.test")
    assert later["msg"] == "later"
    _storm(1)
    assert logged.lines[-1]["msg"] == "upstream failed"


def test_what_was_suppressed_is_told_at_the_end(logged: Logged) -> None:
    logged.setup()
    _storm(12)
    assert logged.output is not None
    logged.output.close()
    assert logged.lines[-1]["msg"] == "suppressed 2 similar lines"


def _record(site: int) -> logging.LogRecord:
    return logging.LogRecord("n", logging.INFO, "f.py", site, "m", None, None)


@given(
    st.lists(
        st.tuples(st.integers(min_value=0, max_value=5), st.floats(min_value=0, max_value=8)),
        max_size=200,
    )
)
def test_every_line_is_either_shown_or_counted(calls: list[tuple[int, float]]) -> None:
    thinning = Thinning()
    now, shown, told = 0.0, 0, 0
    for site, later_s in calls:
        now += later_s
        passes, ended = thinning.admit(_record(site), now)
        shown += passes
        told += sum(window.suppressed for window in ended)
    told += sum(window.suppressed for window in thinning.end())
    assert shown + told == len(calls)


def test_the_places_counted_at_once_are_bounded() -> None:
    thinning = Thinning()
    for _ in range(LOG_SITE_LINES + 1):
        thinning.admit(_record(0), 0.0)
    told = []
    for site in range(1, 3 * LOG_SITES):
        told += thinning.admit(_record(site), 0.0)[1]
    assert len(thinning._sites) == LOG_SITES
    assert [window.suppressed for window in told] == [1]


# --- No secrets -----------------------------------------------------------------------------------

SECRETS_IN_TEXT = [
    (f"key {OUR_KEY} used", OUR_KEY),
    ("using sk-proj-abcDEF123456_x", "abcDEF"),
    ("using sk-ant-api03-abcDEF123456", "abcDEF"),
    ("Authorization: Bearer abcDEF.123", "abcDEF"),
    ("authorization: Basic abcDEF==", "abcDEF"),
    ("{'Authorization': 'Token abcDEF x'}", "abcDEF"),
    ("(b'authorization', b'Bearer abcDEF')", "abcDEF"),
    ("[(b'x-api-key', b'abcDEF')]", "abcDEF"),
    ("x-api-key=abcDEF", "abcDEF"),
    ("Cookie: paceline_8080=abcDEF.1.ff", "abcDEF"),
    ("sent bearer abcDEF123456", "abcDEF"),
    ('{"api_key": "abc\\"DEF ghi"}', "DEF"),
    ('"{\\"password\\": \\"abcDEF\\"}"', "abcDEF"),
    ("OPENAI_API_KEY=abcDEF", "abcDEF"),
    ("client_secret='abc DEF'", "DEF"),
    ("token: abcDEF", "abcDEF"),
    ("GET https://x.example/v1?key=abcDEF&q=1", "abcDEF"),
    ("redis://user:abcDEF@cache:6379/0", "abcDEF"),
    ("postgres://:abc:DEF@db", "DEF"),
    ("https://abcDEF@git.example/x", "abcDEF"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.abcDEF", "abcDEF"),
    ("AIzaSyabcDEF0123456789012345678901234567", "abcDEF"),
    ("hf_abcDEFghijklmnopqrst", "abcDEF"),
]


def _in_message(text: str) -> None:
    log.info(text)


def _in_arguments(text: str) -> None:
    logging.getLogger("library").warning("it said %s", text)


def _in_field(text: str) -> None:
    log.info("m", reply=text)


def _in_nested_field(text: str) -> None:
    log.info("m", reply={"a": [{"b": text}]})


def _in_misfit_arguments(text: str) -> None:
    logging.getLogger("library").warning("it said %d", text)


def _in_exception(text: str) -> None:
    try:
        raise RuntimeError(text)
    except RuntimeError:
        log.exception("failed")


def _in_cause(text: str) -> None:
    try:
        try:
            raise KeyError(text)
        except KeyError as error:
            raise RuntimeError("wrapped") from error
    except RuntimeError:
        log.exception("failed")


def _in_request_id(text: str) -> None:
    token = log_module.request_id.set(text)
    log.info("m")
    log_module.request_id.reset(token)


def _in_suppressed(text: str) -> None:
    for _ in range(LOG_SITE_LINES + 1):
        log.info(text)


PLACES = pytest.mark.parametrize(
    "place",
    [
        _in_message,
        _in_arguments,
        _in_field,
        _in_nested_field,
        _in_misfit_arguments,
        _in_exception,
        _in_cause,
        _in_request_id,
        _in_suppressed,
    ],
)


@PLACES
@pytest.mark.parametrize("format", ["console", "json"])
def test_secrets_are_hidden_wherever_they_are(
    logged: Logged, format: Format, place: Callable[[str], None]
) -> None:
    logged.setup(format)
    for text, secret in SECRETS_IN_TEXT:
        place(text)
        assert logged.output is not None
        logged.now += LOG_WINDOW_S
        assert secret not in logged.text, text
    assert HIDDEN in logged.text


@PLACES
def test_known_secrets_are_hidden_whatever_they_look_like(
    logged: Logged, place: Callable[[str], None]
) -> None:
    logged.setup(environ={"MISTRAL_API_KEY": "plain words 1", "PATH": "harmless"})
    assert logged.output is not None
    logged.output.hide("plain words 2")
    place("one plain words 1, two plain words 2, harmless")
    assert "plain words" not in logged.text
    assert "harmless" in logged.text


@pytest.mark.parametrize(
    "name",
    ["api_key", "KEY", "token", "authToken", "secret_x", "password", "Authorization", "cookie"],
)
@pytest.mark.parametrize("value", ["abcDEF", 123456, 1.5, ["abcDEF"], {"a": "abcDEF"}, b"abcDEF"])
def test_fields_with_a_secret_name_are_hidden_whatever_they_hold(name: str, value: object) -> None:
    assert Redactor({}).field(name, value) == HIDDEN
    assert Redactor({}).field("outer", {name: value}) == {name: HIDDEN}


def test_counts_of_tokens_and_ids_of_keys_are_no_secrets() -> None:
    clean = Redactor({})
    assert clean.field("prompt_tokens", 512) == 512
    assert clean.field("keys", 3) == 3
    assert clean.field("key_id", "abcdefgh") == "abcdefgh"
    assert clean.field("tokens", "abcDEF") == HIDDEN


@pytest.mark.parametrize(
    "text",
    [
        "model digits loaded from https://example.com/a?b=c in 3 ms",
        "disk-space-is-low on task-manager-1",
        "reach us at someone@example.com",
        "GET /v2/models/digits/infer 200",
        "max_tokens reached; keyboard interrupt",
    ],
)
def test_ordinary_words_stay(text: str) -> None:
    assert Redactor({}).text(text) == text


@given(
    before=st.text(max_size=40),
    secret=st.text(min_size=MIN_SECRET_CHARS, max_size=60),
    after=st.text(max_size=40),
    keep_end=st.booleans(),
)
def test_a_known_secret_never_survives(
    before: str, secret: str, after: str, keep_end: bool
) -> None:
    clean = Redactor({})
    clean.hide(secret)
    shown = clean.text(before + secret + after, keep_end=keep_end)
    assert secret not in shown.replace(HIDDEN, "")


@given(at=st.integers(min_value=-80, max_value=80), keep_end=st.booleans())
def test_no_half_of_a_secret_is_left_where_a_long_text_is_cut(at: int, keep_end: bool) -> None:
    clean = Redactor({})
    clean.hide("s" * 60)
    padding = "x" * (LOG_CHARS + at)
    text = "x" * LOG_CHARS + "s" * 60 + padding if keep_end else padding + "s" * 60 + padding
    shown = clean.text(text, keep_end=keep_end)
    assert "s" not in shown
    assert len(shown) == LOG_CHARS


@given(
    st.recursive(
        st.text() | st.integers() | st.floats() | st.none() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=25,
    )
)
def test_any_field_becomes_valid_json(value: object) -> None:
    line = log_module.Line(
        ts=datetime(2026, 1, 1, tzinfo=UTC),
        level="info",
        process="p",
        logger="l",
        msg="m",
        fields={"value": Redactor({}).field("value", value)},
    )
    shown = log_module.as_json(line)
    assert "\n" not in shown
    assert json.loads(shown)["msg"] == "m"


def test_fields_are_bounded_in_width_and_depth() -> None:
    clean = Redactor({})
    wide = clean.field("f", list(range(10 * LOG_FIELDS)))
    assert isinstance(wide, list)
    assert len(wide) == LOG_FIELDS
    deep: object = "x"
    for _ in range(100):
        deep = [deep]
    assert len(str(clean.field("f", deep))) < 1000
    assert len(str(clean.field("f", "y" * 10 * LOG_CHARS))) == LOG_CHARS


# --- Nobody forges a line -------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["console", "json"])
@pytest.mark.parametrize(
    "evil", ["\n", "\r\n", "\x1b[2J", "\x9b2J", "\u2028", "\u202e", "\x00", "\x7f"]
)
def test_control_characters_of_callers_are_shown_not_obeyed(
    logged: Logged, format: Format, evil: str
) -> None:
    logged.setup(format)
    log.info(f"model {evil}12:00:00.000 info forged", model=f"x{evil}y")
    token = log_module.request_id.set(f"r{evil}")
    log.info("m", **{f"na{evil}me": 1})
    log_module.request_id.reset(token)
    assert len(logged.text.split("\n")) == 3
    assert evil not in logged.text.replace("\n", "")


def test_a_traceback_cannot_pass_for_a_line(logged: Logged) -> None:
    logged.setup("console")
    _in_exception("x\n12:00:00.000 info    owner   forged")
    first, *rest = logged.text.splitlines()
    assert "failed" in first
    assert all(line.startswith("    | ") for line in rest)


# --- No harm --------------------------------------------------------------------------------------


class Explosive:
    def __str__(self) -> str:
        raise RuntimeError("boom")

    __repr__ = __str__


def test_a_value_that_cannot_be_shown_costs_its_line_only(logged: Logged) -> None:
    logged.setup()
    log.info("m", value=Explosive())
    logging.getLogger("library").error("%s", Explosive())
    log.info("still here")
    assert [line["msg"] for line in logged.lines] == [
        "a line could not be shown",
        "a line could not be shown",
        "still here",
    ]
    assert "test_log.py" in logged.lines[0]["fields"]["at"]


def test_a_reader_that_went_away_is_survived() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        sink = Sink(stream)
        assert sink.write("a\n")
        os.close(reader)
        assert not sink.write("b\n")
    assert not sink.write("closed by now\n")


def test_no_stream_at_all_is_survived() -> None:
    closed = io.StringIO()
    closed.close()
    assert not Sink(None).write("a\n")
    assert not Sink(closed).write("a\n")


def test_a_reader_that_stalls_costs_lines_but_never_waits(logged: Logged) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe, os.fdopen(writer, "w") as stream:
        sink = Sink(stream)
        line = "x" * 10_000 + "\n"
        written = 0
        while sink.write(line):  # a blocking write would hang here
            written += 1
        assert written > 0
        assert not sink.write(line)
        os.set_blocking(pipe.fileno(), False)
        pipe.read()
        assert sink.write("after\n")
        assert pipe.read().splitlines()[-1] == b"after"  # on a line of its own


def test_lost_lines_are_counted_on_the_next_that_passes(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged.setup()
    with monkeypatch.context() as patch:
        patch.setattr(Sink, "write", lambda *_: False)
        log.info("lost")
        log.info("lost")
    log.info("seen")
    log.info("seen too")
    assert [line.get("fields") for line in logged.lines] == [{"lost_before": 2}, None]


SERVER = """
import os, sys
from paceline.observe.log import get, setup
setup("console", "info", "owner", now=lambda: 0.0, wall=lambda: 0.0)
os.close(2) if sys.argv[1] == "closed" else None
get("paceline").error("nobody reads this")
print("alive")
"""


@pytest.mark.parametrize("stderr", ["open", "closed", "full"])
def test_a_process_outlives_its_stderr(stderr: str) -> None:
    with open("/dev/full", "w") if stderr == "full" else open(os.devnull, "w") as stream:
        done = subprocess.run(
            [sys.executable, "-c", SERVER, stderr],
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            check=False,
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
        )
    assert (done.stdout, done.returncode) == ("alive\n", 0)


@given(
    st.lists(
        st.sampled_from(
            [
                *(
                    "pl_",
                    "sk-",
                    "ſK-",
                    "hf_",
                    "xoxb-",
                    "AIza",
                    "eyJ",
                    ".",
                    "a" * 40,
                    " ",
                    '"',
                    ": ",
                ),
                *(
                    "Authorization",
                    "authorızatİon",
                    "x-api-key",
                    "cooKie",
                    "Bearer",
                    "api_key",
                    "=",
                ),
                *("paſſword", "toKen", "secret", "://u:p@", "\u0307", "ä"),
            ]
        ),
        max_size=8,
    ).map("".join)
)
def test_signs_tell_no_less_than_the_patterns_that_they_are_of(text: str) -> None:
    whole = text
    for pattern, replacement, _ in redact._SHAPES:
        whole = pattern.sub(replacement, whole)
    assert Redactor({}).whole(text) == whole
