"""`paceline simulate`: what it is told, what it tells, its page, and the parts it is made of."""

import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from threading import Barrier, current_thread, main_thread
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from laws import examples
from paceline.cli.main import run
from paceline.evidence import drawing, report, traces
from paceline.evidence.latencies import line
from paceline.evidence.policies import OURS, THEIRS, choose, fitting
from paceline.evidence.simulate import ENDS, Run, Simulation, World
from paceline.evidence.summary import Summary, summarize
from paceline.evidence.timing import measure, sizes_up_to
from paceline.flow.queue import NEVER
from paceline.serve.batch import Tuning
from paceline.serve.classes import classes
from paceline.serve.model import ANY_LENGTH, ModelSpec, Tensors, TensorSpec
from paceline.terms import amounts
from paceline.terms.errors import (
    EXIT_INTERRUPTED,
    EXIT_START,
    EXIT_STATE,
    EXIT_USAGE,
    BadInput,
)
from paceline.terms.limits import ROWS

FEW = ("simulate", "--trace", "poisson:200", "--seconds", "1", "--slo", "30ms")
BUSY = ("simulate", "--trace", "bursty:400", "--seconds", "3", "--slo", "30ms", "--mix", "mixed")
FAULTY = (*BUSY, "--poison", "3%", "--crashes", "2s", "--executors", "2")


class Told(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def fields(self) -> dict[str, Any]:
        """Of JSON, without what is never the same."""
        assert self.status == 0, self.err
        fields: dict[str, Any] = json.loads(self.out)
        del fields["speed"]
        return fields


class Tell:
    """Runs a command here."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Told:
        status = run(arguments)
        return Told(status, *self._capsys.readouterr())


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    return Tell(capsys)


# --- Text and JSON --------------------------------------------------------------------------------


def test_the_first_sentence_says_whether_the_objective_is_met(tell: Tell) -> None:
    lines = tell(*FEW).out.splitlines()
    assert re.match(r"100 % of \d+ requests were answered within 30 ms: the objective", lines[0])
    slow = " ".join(tell(*FEW, "--latency", "50ms").out.split())
    assert slow.startswith("0 % of ")
    assert "is not met, for which it takes 99 %. One row alone takes 50 ms." in slow


def test_the_text_tells_what_was_simulated_and_what_came_of_it(tell: Tell) -> None:
    told = tell(*FAULTY, "--policy", "dynamic").out
    names = {text[:9].strip() for text in told.splitlines()}
    assert names >= {
        *("trace", "in time", "latency", "policy", "poison", "crashes", "seed", "outcome"),
        *("priority", "critical", "high", "normal", "low", "all", "batches", "rows", "run for"),
        *("held for", "run again", "goodput", "busy", "simulated"),
    }
    assert "dynamic:fewest=1,most=16,wait=3ms" in told
    assert "low priority within 150 ms" in told
    assert re.search(r"requests a second of real time, .* µs each", told)


def test_json_has_all_of_it_and_adds_up(tell: Tell) -> None:
    fields = tell(*FAULTY, "--json").fields
    assert set(fields) == {*Summary.__struct_fields__, "policy", "latencies", "page"}
    ends = fields["ends"]
    assert set(ends) == set(ENDS[1:])
    assert sum(ends.values()) == fields["requests"] > 1000
    assert fields["in_time"] + fields["too_late"] == ends["done"]
    assert ends["failed"] > 0
    assert sum(row["requests"] for row in fields["priorities"]) == fields["requests"]
    assert [row["priority"] for row in fields["priorities"]] == [
        "critical",
        "high",
        "normal",
        "low",
    ]
    for row in [*fields["priorities"], fields["overall"]]:
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
    batches = fields["batches"]
    assert sum(batches["by_rows"].values()) == batches["batches"]
    assert sum(fields["dispatched"].values()) == batches["batches"]
    assert fields["dispatched"]["isolation"] == fields["reruns"] > 0
    assert 0 < fields["busy"] <= 1
    assert fields["goodput_rps"] == pytest.approx(fields["in_time"] / fields["trace_s"])


def test_the_same_seed_gives_the_same_outcome_and_another_one_another(
    tell: Tell, tmp_path: Path
) -> None:
    page = str(tmp_path / "page.html")
    first = tell(*FAULTY, "--json", "--html", page).fields
    drawn = Path(page).read_bytes()
    assert tell(*FAULTY, "--json", "--html", page).fields == first
    assert Path(page).read_bytes() == drawn
    assert tell(*FAULTY, "--json", "--seed", "1").fields["ends"] != first["ends"]


def test_the_command_on_the_page_gives_the_same_again(tell: Tell, tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    asked = "--seconds 2 --slo 30ms --mix mixed --poison 3% --crashes 2s --executors 2 --rate 500"
    asked += " --latency 1ms --latency 1ms+1ms --seed 3 --no-admission --max-batch 8"
    command = ["simulate", "--trace", "bursty", *asked.split()]
    first = tell(*command, "--html", str(page), "--json").fields
    command = shlex.split(Page(page.read_text()).command)
    assert command[0] == "paceline"
    again = tell(*command[1:], "--json").fields
    assert {**again, "page": str(page)} == first
    tell(*FEW, "--html", str(page))
    short = "paceline simulate --trace poisson:200 --slo 30ms --seconds 1"
    assert Page(page.read_text()).command == short


def test_no_request_and_one_request_are_told_as_such(tell: Tell, tmp_path: Path) -> None:
    none = tell("simulate", "--trace", "poisson:0.001", "--seconds", "1", "--slo", "30ms")
    assert none.out.startswith("No caller waited for an answer: the objective p99 <= 30 ms cannot")
    lone = tmp_path / "lone.csv"
    lone.write_text("t_s\n7\n")
    one = tell("simulate", "--trace", str(lone), "--slo", "30ms")
    assert one.out.startswith("100 % of 1 request was answered within 30 ms")
    fields = tell("simulate", "--trace", str(lone), "--slo", "30ms", "--json").fields
    assert (fields["goodput_rps"], fields["offered_rps"], fields["met"]) == (None, None, True)


@pytest.mark.parametrize("name", [*OURS, *THEIRS])
def test_every_policy_serves_and_is_named_in_the_help(name: str, tell: Tell) -> None:
    fields = tell(*FEW, "--policy", name, "--json").fields
    assert fields["in_time"] > 0
    assert fields["policy"].startswith(name)
    assert tell(*FEW, "--policy", fields["policy"], "--json").fields == fields
    assert name in tell("simulate", "--help").out


def test_a_rival_refuses_nobody_and_isolates_nobody(tell: Tell) -> None:
    fields = tell(*FAULTY, "--policy", "triton", "--json").fields
    assert (fields["ends"]["late"], fields["ends"]["shed"], fields["reruns"]) == (0, 0, 0)
    assert "in order of arrival" in tell(*FAULTY, "--policy", "triton").out


def test_admission_can_be_left_out(tell: Tell) -> None:
    crowd = (*FEW[:2], "poisson:3000", *FEW[3:])
    refusing = tell(*crowd, "--json").fields
    letting_in = tell(*crowd, "--no-admission", "--json").fields
    assert refusing["ends"]["late"] > 0 == letting_in["ends"]["late"]
    assert refusing["in_time"] > letting_in["in_time"]


def test_steering_tells_what_it_moved_and_why(tell: Tell) -> None:
    """Batches of 64 are awaited that take longer than there is time for."""
    slow = ("simulate", "--trace", "poisson:1500", "--slo", "30ms", "--seconds", "8")
    told = " ".join(tell(*slow, "--policy", "fixed:size=64,wait=28ms", "--steer").out.split())
    assert re.search(r"steering 1 move at \d+ s: batches of at most \d+ instead of 64: \d+", told)
    assert "steering 0 moves" in " ".join(tell(*FEW, "--steer").out.split())
    refused = tell(*FEW, "--policy", "triton", "--steer").err
    assert "only Paceline's own policies are steered" in refused


def test_a_model_is_measured(tell: Tell) -> None:
    told = tell(*FEW, "--model", "digits", "--max-batch", "4", "--json").fields
    (latency,) = told["latencies"]
    assert latency["rows"] == [1, 2, 4]
    assert all(time_ms > 0 for time_ms in latency["median_ms"])
    assert min(latency["scatter"]) <= 1 <= max(latency["scatter"])


def test_help_has_an_example_and_the_welcome_names_it(tell: Tell) -> None:
    text = " ".join(tell("simulate", "--help").out.split())
    assert "Example: paceline simulate --trace poisson:200 --slo 30ms" in text
    assert "paceline simulate" in tell().out


# --- Wrong turns ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--trace", "poison:200"], "Did you mean poisson:RATE?"),
        (["--trace", "no.csv"], "no such file"),
        (["--trace", "/"], "cannot be read"),
        (["--trace", "poisson:0"], "above 0"),
        (["--trace", "poisson:-5"], "above 0"),
        (["--trace", "poisson"], "poisson:200"),
        (["--seconds", "0"], "above 0"),
        (["--seconds", "1e9"], "so many requests"),
        (["--rate", "5"], "its rate once"),
        (["--seed", "-1"], "not negative"),
        (["--slo", "30"], "like 30ms or 30s"),
        (["--slo", "0ms"], "more than 0s"),
        (["--slo", "-3ms"], "--slo is a time"),
        (["--slo", "25h"], "at most 24h"),
        (["--slo", "1e3ms"], "like 1ms"),
        (["--mix", "mixt"], "Did you mean mixed?"),
        (["--mix", "x"], "plain, mixed"),
        (["--latency", "fast"], "the latency of a batch"),
        (["--latency", "2ms+"], "the latency of a row"),
        (["--latency", "0ms+0ms"], "more than 0s"),
        (["--mix", "mixed", "--latency", "2ms"], "2 shapes"),
        (["--model", "digits", "--latency", "2ms"], "Leave out"),
        (["--model", "digit"], "Did you mean digits?"),
        (["--policy", "at-once"], "Did you mean at_once?"),
        (["--policy", "nexus"], "latency_optimized"),
        (["--policy", "dynamic:wiat=3ms"], "Did you mean wait?"),
        (["--policy", "dynamic:wait"], "Did you mean wait?"),
        (["--policy", "dynamic:wait=3"], "wait of dynamic is a time"),
        (["--policy", "triton:preferred=4+x"], "whole number"),
        (["--policy", "latency_optimized:share=7"], "share of all"),
        (["--policy", "at_once:wait=3ms"], "It takes nothing"),
        (["--max-batch", "0"], f"from 1 to {ROWS}"),
        (["--max-batch", "5000"], f"from 1 to {ROWS}"),
        (["--executors", "-2"], "from 1 to"),
        (["--poison", "5"], "like 5%"),
        (["--poison", "120%"], "from 0 to 1"),
        (["--poison", "some"], "share of all"),
        (["--crashes", "never"], "--crashes is a time"),
        (["--html", "/no/such/directory/page.html"], "No such file"),
        (["--html", "/"], "no place for a file"),
        (["--html", "/dev/null"], "no place for a file"),
    ],
    ids=" ".join,
)
def test_wrong_turns_say_what_to_do(given: list[str], says: str, tell: Tell) -> None:
    told = tell(*FEW, *given)
    assert (told.status, told.out) == (EXIT_USAGE, "")
    assert says in told.err
    cause, value, remedy = told.err.splitlines()
    assert cause.startswith("paceline: ")
    assert value.startswith("  value: ")
    assert len(remedy.strip()) > 5
    fields = json.loads(tell(*FEW, *given, "--json").err)
    assert set(fields) == {"error", "code", "remedy", "value"}


@pytest.mark.parametrize("missing", ["--trace", "--slo"])
def test_what_must_be_said_is_asked_for(missing: str, tell: Tell) -> None:
    at = FEW.index(missing)
    told = tell(*FEW[:at], *FEW[at + 2 :])
    assert told.status == EXIT_USAGE
    assert missing in told.err


def test_a_file_that_is_no_model_is_told(tell: Tell, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.onnx"
    wrong.write_text("no model")
    told = tell(*FEW, "--model", str(wrong))
    assert (told.status, told.err.count("\n")) == (EXIT_START, 3)
    assert "cannot load the model `wrong`" in told.err


# --- The file of the page -------------------------------------------------------------------------


def test_a_page_takes_the_place_of_a_page_and_of_nothing_else(tell: Tell, tmp_path: Path) -> None:
    precious = tmp_path / "model.onnx"
    precious.write_bytes(b"weights")
    told = tell(*FEW, "--html", str(precious))
    assert told.status == EXIT_USAGE
    assert "no page of this command" in told.err
    assert precious.read_bytes() == b"weights"
    place = tmp_path / "page.html"
    for _ in range(2):
        assert f"page       {place}" in tell(*FEW, "--html", str(place)).out
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.onnx", "page.html"]


def test_a_run_that_fails_leaves_the_earlier_page(tell: Tell, tmp_path: Path) -> None:
    place = tmp_path / "page.html"
    tell(*FEW, "--html", str(place))
    before = place.read_bytes()
    assert tell(*FEW, "--mix", "x", "--html", str(place)).status == EXIT_USAGE
    assert place.read_bytes() == before
    assert [*tmp_path.iterdir()] == [place]


def test_a_place_that_cannot_be_written_is_told_before_anything_runs(tell: Tell) -> None:
    """Or else the fault of the trace would be told first."""
    told = tell(*FEW, "--trace", "nothing", "--html", "/no/such/directory/page.html")
    assert "No such file or directory" in told.err


@pytest.mark.needs("tmpfs")
def test_a_full_disk_is_told_and_leaves_the_earlier_page(tell: Tell, tmp_path: Path) -> None:
    place = tmp_path / "page.html"
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(tmp_path)]
    subprocess.run(mount, check=True)
    try:
        place.write_text(report.OPENING)
        told = tell(*FEW, "--html", str(place))
        assert (told.status, [*tmp_path.iterdir()]) == (EXIT_STATE, [place])
        assert "no space is left for the page" in told.err
        assert place.read_text() == report.OPENING
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_name_that_is_no_text_is_no_trouble(tell: Tell, tmp_path: Path) -> None:
    trace, page = (os.fsdecode(os.fsencode(tmp_path) + name) for name in (b"/\xff.csv", b"/\xff.h"))
    Path(trace).write_text("t_s\n0\n1\n")
    told = tell("simulate", "--trace", trace, "--slo", "30ms", "--html", page, "--json")
    assert told.fields["page"].endswith("/?.h")
    assert "Simulation of ?.csv" in Path(page).read_text()


def test_others_may_read_the_page(tell: Tell, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        tell(*FEW, "--html", str(tmp_path / "page.html"))
    finally:
        os.umask(before)
    assert (tmp_path / "page.html").stat().st_mode & 0o777 == 0o640


# --- The page -------------------------------------------------------------------------------------

VOID = {"meta", "br", "hr"}


class Page(HTMLParser):
    """Fails where a tag is not closed, or closed that was not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self._in_code: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    @property
    def command(self) -> str:
        return "".join(self._in_code)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "code" in self._open:
            self._in_code.append(data)


def drawn(text: str) -> list[ElementTree.Element]:
    """The charts, as XML."""
    found = re.findall(r'<svg class="chart".*?</svg>.*?</svg>', text, re.DOTALL)
    return [ElementTree.fromstring(each) for each in found]


def played(
    trace: traces.Trace, slo_s: float = 0.03, *, crashes_per_s: float = 0.0
) -> tuple[Run, Summary]:
    world = World((line(0.002, 0.0005),) * 2, crashes_per_s=crashes_per_s)
    ran = Simulation(trace, world, classes(slo_s, 0.0025), Tuning()).run()
    return ran, summarize(ran, slo_s, 1, 0.0025)


def of(arrived_s: list[float], name: str = "made", **columns: list[Any]) -> traces.Trace:
    count = len(arrived_s)
    usual: dict[str, list[Any]] = {
        "ranks": [1] * count,
        "rows": [1] * count,
        "shapes": [0] * count,
        "timeouts_s": [NEVER] * count,
        "leaves_s": [NEVER] * count,
    }
    return traces.Trace(name=name, arrived_s=arrived_s, **{**usual, **columns})


def page_of(trace: traces.Trace, **how: float) -> str:
    ran, summary = played(trace, **how)
    return report.page(ran, summary, [("trace", trace.name)], f"paceline simulate {trace.name}")


def test_the_page_needs_nothing_else_and_is_well_formed(tell: Tell, tmp_path: Path) -> None:
    place = tmp_path / "page.html"
    tell(*FAULTY, "--policy", "dynamic", "--html", str(place))
    text = place.read_text()
    page = Page(text)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "form"}
    assert not {name for name, _ in page.attributes} & {"href", "src", "onload", "onclick"}
    assert "http" not in re.sub(r'http-equiv="Content-Security-Policy"', "", text)
    assert "url(" not in text
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text
    assert len(drawn(text)) == 4
    for chart in drawn(text):
        said = [each.text for each in chart.iter("text")]
        assert chart.get("aria-label")
        assert len(said) >= 6, "axes have titles and numbers"
        hovers = [rect.find("title") for rect in chart.iter("rect")]
        assert all(each is not None and each.text for each in hovers)
    for words in (
        "In time",
        "By priority",
        "critical",
        "What became of all",
        "isolation",
        "Goodput",
    ):
        assert words in text
    assert "objective 30 ms" in text


@pytest.mark.parametrize(
    ("arrived_s", "charts"), [([], 0), ([0.0], 2), ([0.0, 0.0, 0.0], 2), ([0.0, 1e-6], 4)]
)
def test_a_page_of_next_to_nothing_is_a_page(arrived_s: list[float], charts: int) -> None:
    text = page_of(of(arrived_s))
    Page(text)
    assert len(drawn(text)) == charts
    assert not re.search(r'="[^"]*\b(nan|inf)\b', text)
    assert ("nothing to draw" in text) == (not arrived_s)


def test_where_nobody_got_a_result_there_are_no_percentiles() -> None:
    trace = of([0.0, 0.001, 0.5], timeouts_s=[1e-4] * 3)
    text = page_of(trace)
    Page(text)
    assert "How long answers took" not in text
    assert "0 %" in text


def test_what_others_wrote_is_text_on_the_page() -> None:
    name = "<script>alert(1)</script>&\"'.csv"
    text = page_of(of([0.0, 0.1], name=name))
    assert "script" not in Page(text).tags
    assert name in Page(text).command


def test_a_page_is_no_longer_for_more_requests() -> None:
    few, many = (page_of(traces.poisson(500.0, seconds)) for seconds in (10, 20))
    assert len(many) < 1.1 * len(few) < 100_000


def test_what_was_offered_is_all_that_is_stacked() -> None:
    trace = traces.poisson(2000.0, 3, mix=traces.MIXED)
    ran, _ = played(trace, crashes_per_s=1.0)
    bins = report._Bins(ran)
    told = np.sum([bins.per_s(ran.ends == end) for end in range(len(ENDS))], axis=0)
    assert told.sum() * bins.width_s == pytest.approx(len(trace))
    counts, _ = np.histogram(trace.arrived_s, len(told), (0, trace.seconds))
    np.testing.assert_allclose(told * bins.width_s, counts, atol=1.01)


@pytest.mark.slow
@pytest.mark.needs("chromium")
@pytest.mark.parametrize("width", [320, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_without_scrolling_sideways(
    width: int, scheme: Any, tmp_path: Path
) -> None:
    from playwright.sync_api import sync_playwright

    place = tmp_path / "page.html"
    place.write_text(page_of(traces.bursty(900.0, 20, mix=traces.MIXED)))
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        args = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=chromium, args=args)
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(place.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.locator("svg.chart").count() == 4
        for box in (each.bounding_box() for each in page.locator("svg.chart").all()):
            assert box is not None
            assert box["width"] > 150
        assert not said
        browser.close()


# --- In a terminal --------------------------------------------------------------------------------


def in_terminal(*arguments: str, where: Path) -> tuple["subprocess.Popen[bytes]", int]:
    """With a terminal for standard error alone."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-P", "-m", "paceline", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, cwd=where)
    os.close(theirs)
    return process, ours


def read_until(terminal: int, words: str) -> str:
    seen = ""
    while words not in seen:
        seen += os.read(terminal, 4096).decode()
    return seen


def test_ctrl_c_ends_a_long_run_cleanly(tmp_path: Path) -> None:
    """And on a terminal it says how far it is, which is wiped away."""
    asked = ("simulate", "--trace", "poisson:1000", "--seconds", "150", "--slo", "30ms")
    process, terminal = in_terminal(*asked, "--html", "page.html", where=tmp_path)
    assert "Simulated" in read_until(terminal, "% of 150")
    process.send_signal(signal.SIGINT)
    told = read_until(terminal, "interrupted")
    out, _ = process.communicate(timeout=30)
    os.close(terminal)
    assert (process.returncode, out) == (EXIT_INTERRUPTED, b"")
    assert "Traceback" not in told
    assert "\x1b[2Kpaceline: interrupted" in told
    assert not [*tmp_path.iterdir()]


def test_where_no_terminal_looks_on_nothing_is_said(tell: Tell) -> None:
    assert tell(*FEW[:2], "poisson:6000", *FEW[3:]).err == ""


def test_looking_on_changes_nothing(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = (*FEW[:2], "poisson:6000", *FEW[3:], "--json")
    unseen = tell(*asked).fields
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda stream: True)
    seen = tell(*asked)
    assert "Simulated" in seen.err
    assert seen.fields == unseen


# --- Amounts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "time_s"),
    [("30ms", 0.03), ("0.5s", 0.5), (".5 s", 0.5), ("250us", 25e-5), ("2min", 120), ("1h", 3600)],
)
def test_times_are_read_with_their_unit(text: str, time_s: float) -> None:
    assert amounts.seconds(text, "it") == pytest.approx(time_s)


@given(st.floats(1e-9, 1e4))
def test_a_time_is_spelled_as_it_is_read(time_s: float) -> None:
    assert amounts.seconds(amounts.spelled(time_s), "it") == pytest.approx(time_s, rel=1e-9)


def test_shares_are_never_rounded_up() -> None:
    told = {0.9999: "99.9 %", 1.0: "100 %", 0.0: "0 %", 1e-6: "< 0.1 %", 0.29: "29.0 %"}
    assert {value: amounts.percent(value) for value in told} == told


def test_times_and_counts_are_told_to_three_digits() -> None:
    times = {0.0: "0 µs", 12.3e-6: "12.3 µs", 0.00999: "9.99 ms", 0.9999: "1 s", 61.27: "61.3 s"}
    assert {time_s: amounts.in_words(time_s) for time_s in times} == times
    counts = {12000: "12 000", 0.125: "0.125", 99.5: "99.5", 1234.56: "1 235"}
    assert {count: amounts.counted(count) for count in counts} == counts


# --- Policies by name -----------------------------------------------------------------------------


def test_batches_are_as_large_as_leave_time_for_another() -> None:
    assert fitting(0.03, [line(0.002, 0.0005)], 64) == 16
    assert fitting(0.03, [line(0.002, 0.0005), line(0.001, 0.003)], 64) == 4
    assert fitting(1.0, [line(0.002, 0.0005)], 48) == 48
    assert fitting(0.001, [line(0.002, 0.0005)], 64) == 1


@pytest.mark.parametrize("name", [*OURS, *THEIRS])
def test_a_spec_makes_the_same_policy_whatever_the_objective(name: str) -> None:
    one = choose(name, 0.03, [line(0.002, 0.0005)], 64)
    other = choose(one.spec, 0.5, [line(0.001, 0.0001)], 32)
    assert other.spec == one.spec
    assert (other.make.func, other.rival) == (one.make.func, name in THEIRS)


def test_parameters_are_taken() -> None:
    chosen = choose("triton:preferred=4+8,delay=0ms", 0.03, [line(0.002, 0.0005)], 64)
    assert chosen.make.keywords == {"preferred": (4, 8), "delay_s": 0.0, "most": 16}
    assert chosen.spec == "triton:preferred=4+8,delay=0ms,most=16"


# --- Models, measured -----------------------------------------------------------------------------


TOGETHER = 3


class Clocked:
    """A model that takes a known time, on a clock of its own. In threads besides the first all run
    at once, and take three times as long."""

    def __init__(self, *inputs: TensorSpec) -> None:
        self.spec = ModelSpec("clocked", "1", inputs, ())
        self.now_s = 0.0
        self.seen: list[Mapping[str, NDArray[Any]]] = []
        self._met = Barrier(TOGETHER, self._pass, timeout=30)

    def now(self) -> float:
        return self.now_s

    def run(self, batch: Tensors) -> Tensors:
        if current_thread() is main_thread():
            self.seen.append(batch)
            self.now_s += 0.01 + 0.001 * len(batch["x"])
        else:
            self._met.wait()
        return {}

    def _pass(self) -> None:
        self.now_s += 3 * 0.012

    def close(self) -> None:
        pass


ROWS_OF_TWO = TensorSpec("x", "FP32", (ANY_LENGTH, 2))


def test_a_model_is_timed_at_several_sizes() -> None:
    model = Clocked(ROWS_OF_TWO, TensorSpec("ids", "INT64", (ANY_LENGTH, ANY_LENGTH)))
    latency = measure(model, 6, 1, model.now, lambda done, most: None)
    assert latency.sizes == tuple(sizes_up_to(6)) == (1, 2, 4, 6)
    assert latency.median_s == pytest.approx((0.011, 0.012, 0.014, 0.016))
    assert latency.scatter == pytest.approx([1.0] * len(latency.scatter))
    assert latency.side_by_side == 1.0
    shapes = {(batch["x"].shape, batch["ids"].shape) for batch in model.seen}
    assert shapes == {((rows, 2), (rows, 64)) for rows in latency.sizes}
    assert {batch["x"].dtype for batch in model.seen} == {np.dtype(np.float32)}
    assert model.now_s < 2, "it ends once it has measured enough"


def test_several_executors_are_timed_side_by_side() -> None:
    model = Clocked(ROWS_OF_TWO)
    latency = measure(model, 4, TOGETHER, model.now, lambda done, most: None)
    assert latency.median_s == pytest.approx((0.011, 0.012, 0.014))
    assert latency.side_by_side == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (TensorSpec("x", "FP32", (1, 2)), "--max-batch 1"),
        (TensorSpec("x", "BYTES", (ANY_LENGTH,)), "--latency"),
    ],
)
def test_a_model_that_cannot_be_measured_says_so(tensor: TensorSpec, says: str) -> None:
    model = Clocked(tensor)
    with pytest.raises(BadInput) as refused:
        measure(model, 4, 1, model.now, lambda done, most: None)
    assert says in refused.value.remedy


def test_a_model_of_fixed_rows_is_measured_alone() -> None:
    model = Clocked(TensorSpec("x", "FP32", (1, 2)))
    assert measure(model, 1, 1, model.now, lambda done, most: None).sizes == (1,)


# --- In one sentence ------------------------------------------------------------------------------


def ended(**ends: int) -> str:
    """The sentence about a run of so many that ended each way; `too_late` are done."""
    listed = [end for end, count in ends.items() for _ in range(count)]
    count = len(listed)
    ran, _ = played(of([0.0] * count))
    codes = [ENDS.index("done" if each == "too_late" else each) for each in listed]
    ended_s = [0.031 if each == "too_late" else 0.01 for each in listed]
    outcome = np.array(codes, dtype=np.int8), np.array(ended_s), np.full(count, 0.03)
    told = Run(ran.trace, ran.classes, *outcome, [], [], {}, {}, 0, 0.0)
    return summarize(told, 0.03, 1, 0.0025).in_short


def test_the_sentence_names_what_became_of_most_of_the_others() -> None:
    assert ended(done=99, late=1).endswith("the objective p99 <= 30 ms is met.")
    assert ended(done=98, late=2).endswith(
        "is not met, for which it takes 99 %. 2.0 % were refused at once, since they would have "
        "been late."
    )
    assert ended(done=90, late=4, too_late=6).endswith("6.0 % were answered too late.")
    assert ended(done=90, lost=6, late=4).endswith("were lost when an executor died.")
    assert ended(done=9, full=1).endswith("since the queue was full.")
    assert ended(done=9, expired=1).endswith("waited in the queue until their time was over.")


def test_who_left_is_not_counted() -> None:
    assert ended(done=10, left=90).startswith("100 % of 10 requests whose callers stayed were")
    assert ended(left=3).startswith("No caller waited")


def test_what_is_not_all_within_the_objective_is_told_as_in_time() -> None:
    _, summary = played(of([0.0, 1.0], ranks=[0, 1]))
    assert " answered in time: " in summary.in_short


# --- Charts ---------------------------------------------------------------------------------------


@given(st.floats(1e-6, 1e9), st.floats(1.0001, 1e6))
@examples(60)
def test_axes_hold_what_they_are_made_for_and_have_few_ticks(low: float, times: float) -> None:
    high = low * times
    for axis in (
        drawing.linear("x", 0.0, high),
        drawing.exact("x", 0.0, high),
        drawing.logarithmic("x", low, high),
    ):
        values = [value for value, _ in axis.ticks]
        assert axis.low <= low * (1 + 1e-6)
        assert axis.high >= high * (1 - 1e-6)
        assert values == sorted(set(values))
        assert len({word for _, word in axis.ticks}) == len(values) <= drawing.TICKS + 1
        assert all(0 <= axis.at(value) <= 1 for value in values)
        assert not any("e" in word for _, word in axis.ticks)


def chart_of(*series: drawing.Series, across: tuple[drawing.Mark, ...] = ()) -> ElementTree.Element:
    x, y = drawing.linear("time (s)", 0.0, 10.0), drawing.linear("ms", 0.0, 4.0)
    text = drawing.lines("A & B", x, y, [0.0, 5.0, 10.0], series, across=across)
    return ElementTree.fromstring(text)


def test_a_line_goes_through_its_points_and_leaves_holes() -> None:
    chart = chart_of(
        drawing.Series("a", "s1", [0.0, 2.0, 4.0]), drawing.Series("b", "s2", [1.0, None, 3.0])
    )
    whole, holed = [each.get("d") for each in chart.iter("path")]
    assert whole == "M0.0 1000.0L0.0 1000.0L500.0 500.0L1000.0 0.0"
    assert holed == "M0.0 750.0L0.0 750.0M1000.0 250.0L1000.0 250.0"


def test_words_stand_at_shares_of_the_chart_so_that_they_keep_their_size() -> None:
    chart = chart_of(across=(drawing.Mark(3.0, "limit <3"),))
    assert chart.get("viewBox") is None
    places = {each.text: (each.get("x"), each.get("y")) for each in chart.iter("text")}
    assert places["10"] == ("100%", "100%")
    assert places["3"] == ("-8", "25%")
    assert places["ms"] == ("-8", "0")
    assert places["limit <3"][1] == "25%"
    assert chart.get("aria-label") == "A & B"


def test_what_is_stacked_lies_on_what_is_below() -> None:
    x, y = drawing.linear("s", 0.0, 2.0), drawing.linear("n", 0.0, 4.0)
    series = [drawing.Series("a", "s1", [1.0, 2.0]), drawing.Series("b", "s2", [3.0, 0.0])]
    chart = ElementTree.fromstring(drawing.stacked("t", x, y, [0.0, 1.0, 2.0], series))
    below, above = [each.get("d") for each in chart.iter("path")]
    assert below == ("M0.0 750.0H500.0L500.0 500.0H1000.0L1000.0 1000.0H500.0L500.0 1000.0H0.0Z")
    assert above == "M0.0 0.0H500.0L500.0 500.0H1000.0L1000.0 500.0H500.0L500.0 750.0H0.0Z"


def test_bars_of_several_series_stand_side_by_side() -> None:
    x, y = drawing.Axis("rows", 0.5, 2.5, []), drawing.linear("%", 0.0, 100.0)
    series = [drawing.Series("a", "s1", [50.0, 0.0]), drawing.Series("b", "s2", [100.0, 25.0])]
    chart = ElementTree.fromstring(drawing.bars("t", x, y, [0.5, 1.5, 2.5], series, "rows"))
    first, second = [each.get("d") for each in chart.iter("path")]
    assert first == "M50.0 1000V500.0H250.0V1000Z"
    assert second == "M250.0 1000V0.0H450.0V1000ZM750.0 1000V750.0H950.0V1000Z"
    assert [each.findtext("title") for each in chart.iter("rect")] == [
        "1 rows: a 50, b 100",
        "2 rows: a 0, b 25",
    ]
