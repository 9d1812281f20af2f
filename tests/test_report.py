"""The report of a model and the history over HTTP: what they say is what happened."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from paceline.cli.main import run
from paceline.cli.report_page import OPENING, page
from paceline.cli.reported import as_text
from paceline.serve.digits import MODEL_PATH, SAMPLE_ROW, card
from paceline.serve.onnx_nodes import parameters
from paceline.terms.alert import Alert, AlertBook, AlertState, Severity, Silence
from paceline.terms.amounts import span
from paceline.terms.errors import BadInput, BadRequest, NotMeasured
from paceline.terms.measurement import Measurement
from paceline.terms.metric import (
    BATCH_LIMIT,
    BATCH_ROWS,
    CONTAINER_CORES,
    CONTAINER_MEMORY_LIMIT,
    COST,
    CPU_SECONDS,
    EXECUTORS,
    LLM_COST,
    LLM_UNPRICED,
    MODEL_SECONDS,
    PART_SECONDS,
    QUEUED,
    REQUEST_SECONDS,
    REQUESTS,
    RESIDENT_BYTES,
    RUN,
)
from paceline.watch.analysis.baseline import baseline, compared
from paceline.watch.analysis.finding import Advice, Evidence, Finding, Impact
from paceline.watch.analysis.moved import reach_s, series, step_for
from paceline.watch.analysis.parts import parts
from paceline.watch.archive import archive
from paceline.watch.past import Past
from paceline.watch.report import Level, LlmCost, OpenAlert, Report, open_alerts, report
from paceline.web.history_api import HistoryQuery, as_csv, history, of_model
from servers import Server
from test_history import WALL_S, Life

MINUTES = 10


def lived(folder: Path | None = None) -> Life:
    """Ten minutes of 20 requests a second, each two rows' work of 4 ms; in the sixth it is slow,
    and one in ten fails."""
    life = Life(folder)
    board = life.boards[0]
    cpu_s = usd = 0.0
    for second in range(MINUTES * 6):
        slow = second // 6 == 5
        board.counter(REQUESTS, "m", "normal", "200").add(180 if slow else 200)
        board.counter(REQUESTS, "m", "normal", "500").add(20 if slow else 0)
        board.sketch(REQUEST_SECONDS, "m").record(0.1 if slow else 0.01, 200)
        board.sketch(MODEL_SECONDS, "m").record(0.004, 100)
        board.sketch(BATCH_ROWS, "m").record(2, 100)
        board.counter(RUN, "m").add(200)
        board.counter(PART_SECONDS, "m", "queue").add(0.2)
        board.counter(PART_SECONDS, "m", "infer").add(0.4)
        board.counter(PART_SECONDS, "other", "infer").add(1.2)
        board.counter(LLM_COST, "chat", "openai", "used").add(0.02)
        board.counter(LLM_COST, "chat", "openai", "lost").add(0.001)
        board.counter(LLM_UNPRICED, "chat", "mine").add()
        board.gauge(QUEUED, "m", "normal").set(8 if slow else 1)
        cpu_s, usd = cpu_s + 5.0, usd + 0.01
        life.others = [
            Measurement(CPU_SECONDS, ("front",), cpu_s),
            Measurement(RESIDENT_BYTES, ("front",), 1e8),
            Measurement(CONTAINER_CORES, (), 2.0),
            Measurement(BATCH_LIMIT, ("m",), 8.0),
            Measurement(EXECUTORS, ("m",), 2.0),
            Measurement(COST, ("compute",), usd),
        ]
        life.pass_s(10.0)
    return life


@pytest.fixture(scope="module")
def told() -> Report:
    life = lived()
    impact = Impact("mean_ms", "ms", 19.0, 5.0, 7.0, 12.0)
    command = 'paceline plan set m.max_batch 8 --expect "mean_ms <= 12"'
    evidence = (Evidence("p99", 100.0, "ms"), Evidence("change", 9.0, "", 8.5, 9.5))
    advice = (Advice("Let batches be larger: to 8.", 0.8, command, impact),)
    found = Finding("change", "m", "p99_ms", "It was slow <b>once</b>.", 0.99, evidence, advice)
    alert = OpenAlert(
        "errors:m", "critical", "silenced", WALL_S, "requests for m fail", "9 % of 200",
        -0.5, None, "Look into <i>the log</i>.",
    )  # fmt: skip
    return report(
        life.past, "m", 3600, 60, now_unix_s=life.wall_s, version="1", findings=[found],
        alerts=[alert],
    )  # fmt: skip


def test_a_report_says_what_happened(told: Report) -> None:
    totals = told.totals
    assert (told.known_s, totals.requests, totals.errors) == (600, 12_000, 120)
    assert totals.error_rate == pytest.approx(0.01)
    assert totals.requests_per_s == pytest.approx(20)
    assert totals.latency.mean_ms == pytest.approx(19, rel=1e-4)
    assert totals.latency.p50_ms == pytest.approx(10, rel=0.01)
    assert totals.latency.p99_ms == pytest.approx(100, rel=0.01)
    assert totals.queue_ms == pytest.approx(1, rel=1e-4)
    assert totals.rest_ms == pytest.approx(19 - 4 - 1, rel=1e-3)
    assert totals.concurrency == pytest.approx(20 * 0.019, rel=1e-3)
    assert (totals.batch_rows, totals.batch_utilization) == (2, 0.25)
    assert totals.busy == pytest.approx(10 * 0.004 / 2, rel=1e-3)  # of two executors
    assert totals.queued.mean == pytest.approx(1.7)
    assert (totals.queued.peak, totals.queued.now) == (8, 1)
    assert told.machine.cpu_cores.mean == pytest.approx(0.5, rel=1e-3)
    assert told.machine.memory_bytes.peak == pytest.approx(1e8)
    priced, unknown = told.llm
    assert (priced.route, priced.provider, priced.unpriced) == ("chat", "openai", 0)
    assert priced.usd == pytest.approx(1.2)
    assert priced.lost_usd == pytest.approx(0.06)
    assert unknown == LlmCost("chat", "mine", None, 0, 60)
    assert told.cost is not None
    assert told.cost.server_usd == pytest.approx(0.6, rel=1e-4)
    assert told.cost.share == pytest.approx(0.25, rel=1e-4)
    assert told.cost.usd_per_1000_requests == pytest.approx(0.6 / 4 / 12, rel=1e-3)


def test_a_window_that_begins_within_a_step_has_the_rates_of_its_own_seconds() -> None:
    life = Life()
    board = life.boards[0]
    life.others = [Measurement(EXECUTORS, ("m",), 1.0)]
    for _ in range(95):
        life.answer(20, 0.05)
        board.sketch(MODEL_SECONDS, "m").record(0.1, 5)
        board.counter(RUN, "m").add(20)
        life.pass_s()
    found = report(life.past, "m", 15, 60, now_unix_s=life.wall_s, version="1")
    assert (found.known_s, found.totals.requests) == (15, 300)
    assert found.totals.requests_per_s == pytest.approx(20)
    assert found.totals.busy == pytest.approx(0.5, rel=0.01)
    assert found.totals.concurrency == pytest.approx(1.0, rel=0.01)
    of_parts = parts(life.past, "m", 15)  # distributions are whole by ten seconds
    assert of_parts.answered == 300
    assert of_parts.executors_busy == pytest.approx(0.5, rel=0.01)
    assert of_parts.in_flight >= of_parts.executors_busy


def test_a_queue_that_was_always_empty_is_empty_in_the_file_too(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.boards[0].gauge(QUEUED, "m", "normal").set(0)
    life.others = [Measurement(CONTAINER_MEMORY_LIMIT, (), 1e9)]
    life.answer()
    life.pass_s()
    assert _reported(life.past).machine.memory_limit_bytes == 1e9
    life.end()
    past = archive(tmp_path)
    assert past is not None
    assert _reported(past).totals.queued == Level(0, 0, 0)
    unlimited = Life(tmp_path, WALL_S + 60)  # another life, in a larger container
    unlimited.answer()
    unlimited.pass_s()
    assert _reported(unlimited.past).machine.memory_limit_bytes is None


def _reported(past: Past) -> Report:
    return report(past, "m", 600, 60, now_unix_s=WALL_S, version="1")


def test_each_step_of_a_report_is_its_own(told: Report) -> None:
    assert [row.began_unix_s - WALL_S for row in told.rows] == [60 * each for each in range(10)]
    slow, fast = told.rows[5], told.rows[4]
    assert (slow.requests, slow.errors, fast.errors) == (1200, 120, 0)
    assert slow.p99_ms == pytest.approx(100, rel=0.01)
    assert fast.p99_ms == pytest.approx(10, rel=0.01)
    assert slow.queued == pytest.approx(8)


def test_a_page_is_one_file_that_escapes_and_shows_holes(told: Report) -> None:
    text = page(told, "paceline report m")
    assert text.startswith(OPENING)
    assert not re.search(r"<script|https?://|src=|url\(", text)
    assert "It was slow &lt;b&gt;once&lt;/b&gt;" in text
    assert "Look into &lt;i&gt;the log&lt;/i&gt;." in text
    assert (
        "<code>paceline plan set m.max_batch 8 --expect &quot;mean_ms &lt;= 12&quot;</code>" in text
    )
    assert text.count('class="chart"') == 6
    assert text == page(told, "paceline report m")


def test_a_report_tells_alerts_and_findings_with_what_to_do(
    told: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    as_text(told, None, "")
    text = capsys.readouterr().out.replace("\N{NO-BREAK SPACE}", " ")
    for words in (
        "critical alert: requests for m fail\n",
        "  errors:m, silenced since 2027-01-15 08:00:00 UTC: 9 % of 200\n",
        "  budget left: none; 1.5 times a month's is used\n",
        "change: It was slow <b>once</b>.\n",
        "  99 % sure\n",
        "  p99 100 ms; change 900 % (from 850 % to 950 %)\n",
        "  what to do (80 % sure): Let batches be larger: to 8.\n",
        "    mean_ms: 7 ms (from 5 ms to 12 ms) in place of 19 ms\n",
        '    paceline plan set m.max_batch 8 --expect "mean_ms <= 12"\n',
    ):
        assert words in text, text
    assert msgspec.json.decode(msgspec.json.encode(told), type=Report) == told


def test_open_alerts_of_a_model_and_of_the_machine_are_told_the_worst_first() -> None:
    def alert(rule: str, about: str, severity: Severity, state: AlertState) -> Alert:
        return Alert(f"{rule}:{about}", rule, about, severity, state, 1e9, "c", "v", "Look.")

    alerts = [
        alert("disk", "host", "warning", "firing"),
        alert("slo_burn", "m.p95_ms", "critical", "acknowledged"),
        alert("errors", "m", "critical", "resolved"),
        alert("errors", "m2", "critical", "firing"),
        alert("queue", "m", "critical", "firing"),
    ]
    silences = (Silence(1, "queue:*", 1e9, 2e9, "ann"),)
    book = AlertBook({each.id: each for each in alerts}, silences)
    assert [(each.id, each.state) for each in open_alerts(book, "m")] == [
        ("slo_burn:m.p95_ms", "acknowledged"),
        ("queue:m", "silenced"),
        ("disk:host", "firing"),
    ]


def test_a_report_is_compared_with_a_baseline_that_was_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lives(latency_s: float, wall_s: float) -> None:
        life = Life(tmp_path, wall_s)
        board = life.boards[0]
        for minute in range(25):
            board.sketch(MODEL_SECONDS, "m").record(0.004, 100)
            life.answer(200, latency_s * (1 + minute % 3 / 50))
            life.pass_s(60.0)
        life.end()

    def told(*options: str) -> str:
        asked = ("report", "m", "--state", str(tmp_path), "--since", "30m", *options)
        assert run(asked) == 0
        return capsys.readouterr().out.replace("\N{NO-BREAK SPACE}", " ")

    lives(0.010, WALL_S)
    assert "baseline   before; `--against before` compares" in told("--save-baseline", "before")
    assert "Nothing differs from the baseline before" in told("--against", "before")
    lives(0.020, WALL_S + 3600)
    found = json.loads(told("--against", "before", "--json"))["compared"]
    assert (found["name"], found["step_s"]) == ("before", 60)
    differs = {each["name"]: each["kind"] for each in found["findings"]}
    assert differs["p50_ms"] == differs["p99_ms"] == "regression"
    assert found["findings"][0]["evidence"][2]["value"] == pytest.approx(1.0, abs=0.05)
    assert "regression: The median is worse than the baseline: 20." in told("--against", "before")
    html = tmp_path / "report.html"
    told("--against", "before", "--html", str(html))
    assert '<b class="badge bad">regression</b> The median' in html.read_text()

    def refused(*options: str) -> str:
        assert run(("report", "m", "--state", str(tmp_path), *options)) == 2
        return capsys.readouterr().err

    assert "There are before" in refused("--against", "after")
    assert "name is not usable" in refused("--save-baseline", "../x")
    (tmp_path / "baselines" / "m.before.json").write_text("{")
    assert run(("report", "m", "--state", str(tmp_path), "--against", "before")) == 4
    assert "Save it again" in capsys.readouterr().err


def test_what_is_older_than_seconds_is_compared_in_steps_that_are_known() -> None:
    for last_s, most, step_s in (
        (60, 300, 1), (300, 300, 1), (301, 300, 10), (3600, 300, 20), (3600, 240, 20),
        (7200, 300, 60), (86400, 300, 300), (3 * 86400, 300, 3600), (90 * 86400, 300, 28800),
    ):  # fmt: skip
        assert step_for(last_s, most) == step_s
        assert reach_s(step_s) >= last_s
    life = Life()
    for _ in range(40):
        life.answer(10)
        life.pass_s(1.0)
    assert series(life.past, "m", 40, 20)[2].values.tolist() == []
    assert set(series(life.past, "m", 40, 10)[2].values.tolist()) == {10.0}
    kept = baseline(life.past, "m", 3600)
    with pytest.raises(NotMeasured, match="other steps"):
        compared(msgspec.structs.replace(kept, step_s=60.0), kept)


def test_series_over_http_are_what_was_recorded() -> None:
    past = lived().past
    names = f"{REQUESTS.name},{REQUEST_SECONDS.name},{QUEUED.name}"
    answer = history(past, HistoryQuery(names, "model=m", since="10m", step="1m"), 600, 60)
    requests, latency, queued = answer.series
    assert requests.value == [1200.0] * 10
    assert latency.quantiles["0.5"][5] == pytest.approx(0.1, rel=0.01)
    assert [s / k for s, k in zip(queued.sum, queued.known_s, strict=True)][4:6] == [1, 8]
    apart = history(past, HistoryQuery(REQUESTS.name, by="status"), 600, 600)
    assert [each.labels for each in apart.series] == [{"status": "200"}, {"status": "500"}]
    rows = [*csv.DictReader(io.StringIO(as_csv(answer)))]
    assert len(rows) == 30
    assert rows[0]["metric"] == REQUESTS.name
    assert rows[0]["p99"] == ""
    assert float(rows[15]["p99"]) == pytest.approx(0.1, rel=0.01)
    assert rows[0]["began"] == "2027-01-15T08:00:00.000+00:00"


def test_what_cannot_be_asked_is_refused_with_a_remedy() -> None:
    past = lived().past
    for query in (
        HistoryQuery("paceline_no_such"),
        HistoryQuery(REQUESTS.name, labels="model"),
        HistoryQuery(REQUESTS.name, labels="nothing=1"),
        HistoryQuery(REQUESTS.name, by="nothing"),
        HistoryQuery(",".join([REQUESTS.name] * 9)),
    ):
        with pytest.raises((BadInput, BadRequest)) as refused:
            history(past, query, 600, 60)
        assert refused.value.remedy
    with pytest.raises(BadInput, match="no such model"):
        of_model(past, "other than m", 600, 60, WALL_S)
    for text in ("10", "1y", "0s", "-1h", "2000d", ""):
        with pytest.raises(BadInput):
            span(text, "since")
    assert span("1.5h", "since") == 5400


def test_parameters_of_the_example_are_counted_from_its_file() -> None:
    import onnx

    graph = onnx.load(str(MODEL_PATH)).graph
    expected = 0
    for tensor in graph.initializer:
        size = 1
        for each in tensor.dims:
            size *= each
        expected += size
    assert parameters(MODEL_PATH) == expected > 0


def test_a_stopped_server_is_reported_from_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def paceline(*arguments: str) -> str:
        assert run(arguments) == 0
        return capsys.readouterr().out

    life = lived(tmp_path)
    life.end()
    html = tmp_path / "report.html"
    asked = ("report", "m", "--state", str(tmp_path), "--since", "10m")
    found: dict[str, Any] = json.loads(paceline(*asked, "--json", "--html", str(html)))
    assert found["totals"]["requests"] == 12_000
    assert found["totals"]["latency"]["p99_ms"] == pytest.approx(100, rel=0.01)
    assert html.read_text().startswith(OPENING)
    rows = [*csv.DictReader(io.StringIO(paceline(*asked, "--csv")))]
    assert [row["requests"] for row in rows] == ["1200.0"] * 10
    assert re.search(r"p99 (99\.\d|100) ms", paceline(*asked))
    assert run(("report", "m", "--state", str(tmp_path / "elsewhere"))) == 2
    assert "none has left a history" in capsys.readouterr().err


@pytest.mark.slow
def test_a_server_remembers_tells_and_goes_on_after_a_restart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"

    def counted(server: Server, least: int) -> dict[str, Any]:
        for _ in range(2000):
            answer = server.ask("GET", "/api/report?model=digits&since=1h")
            if answer.status == 200 and answer.json["totals"]["requests"] >= least:
                return dict(answer.json)
        raise AssertionError(answer.body)

    with Server(state, "--usd-h", "3.6") as server:
        for _ in range(5):
            server.ask("POST", "/predict/digits", SAMPLE_ROW)
        told = counted(server, 5)
        assert told["totals"]["requests"] == 5
        assert told["size_bytes"] == card().size_bytes
        assert told["cost"]["server_usd"] == pytest.approx(0.001 * told["known_s"], rel=0.5)
        lines = server.ask("GET", f"/api/history.csv?metric={REQUESTS.name}&step=10s")
        assert lines.headers["content-type"].startswith("text/csv")
        wrong = server.ask("GET", "/api/history?metric=nothing")
        assert (wrong.status, wrong.json["code"]) == (400, "bad_input")
    with Server(state) as server:
        server.ask("POST", "/predict/digits", SAMPLE_ROW)
        assert counted(server, 6)["totals"]["requests"] == 6
        assert run(("report", "digits", "--state", str(state), "--json")) == 0
        assert json.loads(capsys.readouterr().out)["totals"]["requests"] == 6
