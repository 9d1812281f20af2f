"""The harness of `./bench serving` and `./bench goodput`: its reading, its books and its judgement.

No peer is started here; a small server stands in where one must answer.
"""

import argparse
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from benchmarks import _in_process, _open_loop, _quiet, _wrk, goodput, serving, serving_models
from benchmarks._answers import CALLERS, compared
from benchmarks._bars import bars
from benchmarks._cells import Cell, Cells, Key, ratios
from benchmarks._lines import lines
from benchmarks.peers import environment, forms
from benchmarks.peers.contender import Command, Contender, Endpoint, Launch
from benchmarks.peers.environment import Unavailable
from benchmarks.peers.known import CONTENDERS, PYTHON_SERVERS
from benchmarks.peers.running import Running, running
from benchmarks.peers.started import Asked

from paceline.serve.model import Tensors
from paceline.serve.onnx_model import OnnxModel

WRK_SAYS = """Running 1s test @ http://127.0.0.1:29999
  1 threads and 16 connections
Requests/sec:   1000.00
found {"requests":2000,"seconds":2.000000,"unwanted":500,"broken":1,"timeouts":2,\
"p50_ms":1.5,"p90_ms":2.5,"p99_ms":9.25}
"""

LOAD_SAYS = {
    "requests": 200,
    "offered_rps": 100.0,
    "answered_rps": 60.0,
    "goodput_rps": 50.0,
    "answered": 120,
    "refused": 70,
    "failed": 10,
    "latency": {"samples": 120, "p50_ms": 5.0, "p99_ms": 19.0, "max_ms": 30.0},
    "refusals": {"samples": 70, "p50_ms": 0.5, "p99_ms": 1.5, "max_ms": 2.0},
    "lag": {"samples": 200, "p50_ms": 0.01, "p99_ms": 0.1, "max_ms": 0.2},
    "not_told": None,
    "something": "else",
}


# --- Reading --------------------------------------------------------------------------------------


def test_of_wrk_only_good_answers_make_the_rate() -> None:
    seen = _wrk.parsed(WRK_SAYS)
    assert seen.rate == 750.0
    assert seen.errors == 503
    assert (seen.p50_ms, seen.p90_ms, seen.p99_ms) == (1.5, 2.5, 9.25)


def test_a_wrk_that_says_nothing_makes_its_contender_unavailable() -> None:
    with pytest.raises(Unavailable, match="unable to connect"):
        _wrk.parsed("unable to connect to 127.0.0.1:29999")


def test_the_script_for_wrk_quotes_what_it_is_given() -> None:
    script = _wrk.script("/v2/a", {"x-api-key": 'pl_"\\'}, [Path("/tmp/b-0"), Path("/tmp/b-1")])
    assert '["x-api-key"] = "pl_\\"\\\\"' in script
    assert '{"/tmp/b-0", "/tmp/b-1"}' in script
    assert 'found {"requests":%d' in script


def test_of_an_open_loop_rates_shares_and_times_are_told() -> None:
    figures = _open_loop.parsed(json.dumps(LOAD_SAYS) + "\npaceline: a word more").figures
    assert figures["goodput"] == 50.0
    assert figures["refused_share"] == 0.35
    assert figures["failed_share"] == 0.05
    assert figures["p99_ms"] == 19.0
    assert figures["refusal_p99_ms"] == 1.5


def test_of_an_open_loop_that_was_late_itself_there_are_no_times() -> None:
    says = LOAD_SAYS | {"latency": None, "refusals": None, "goodput_rps": None, "not_told": "late"}
    seen = _open_loop.parsed(json.dumps(says))
    assert seen.not_told == "late"
    assert not {"goodput", "p99_ms", "refusal_p99_ms"} & set(seen.figures)


def test_an_open_loop_sends_the_headers_and_the_bodies() -> None:
    asked = Asked("/predict", {"x-api-key": "pl_x"}, b"{}")
    words = _open_loop.command("http://h:1", [asked], [Path("/b")], 12.5, 3, 1, slo_ms=30)
    said = " ".join(words)
    assert "load http://h:1/predict --json --rate 12.5 --seconds 3 --warmup 1s" in said
    assert "--slo 30ms --header x-api-key: pl_x --body @/b" in said


def test_the_time_of_the_machine_leaves_out_idling_and_waiting() -> None:
    ticks = _quiet.TICKS
    numbers = [1, 2, 3, 1000, 1000, 4, 5, 6, 50, 0]
    stat = "cpu  " + " ".join(str(each * ticks) for each in numbers) + "\ncpu0 1 2 3\n"
    assert _quiet.parsed(stat) == _quiet.Machine(busy_s=15.0, stolen_s=6.0)


# --- Disturbances ---------------------------------------------------------------------------------


def runs(*foreign: float) -> Iterator[tuple[str, _quiet.Disturbance]]:
    for number, each in enumerate(foreign):
        yield f"run {number}", _quiet.Disturbance(each, 0.0)


def test_a_quiet_measurement_is_not_repeated() -> None:
    once = runs(0.01, 0.0)
    found, quiet = _quiet.quietest(lambda: next(once))
    assert (found, quiet.attempts) == ("run 0", 1)


def test_a_disturbed_measurement_is_repeated_until_one_is_quiet() -> None:
    once = runs(0.9, 0.05, 0.0)
    found, quiet = _quiet.quietest(lambda: next(once))
    assert (found, quiet.attempts, quiet.disturbance.foreign) == ("run 1", 2, 0.05)


def test_of_measurements_that_are_all_disturbed_the_least_is_kept() -> None:
    once = runs(0.9, 0.3, 0.5)
    found, quiet = _quiet.quietest(lambda: next(once))
    assert (found, quiet.attempts) == ("run 1", _quiet.ATTEMPTS)


def test_a_measurement_that_is_of_no_use_is_repeated_and_not_kept_where_another_is() -> None:
    once = runs(0.0, 0.3, 0.4)
    found, quiet = _quiet.quietest(lambda: next(once), lambda found: found != "run 0")
    assert (found, quiet.attempts) == ("run 1", _quiet.ATTEMPTS)


def test_steal_disturbs_as_foreign_work_does() -> None:
    assert Cell(0, "a", "cnn", "throughput", "json", "c=1", {}, 0.07, 0.07).is_disturbed
    assert not Cell(0, "a", "cnn", "throughput", "json", "c=1", {}, 0.07, 0.04).is_disturbed


# --- The books ------------------------------------------------------------------------------------


def cell(run: int, contender: str, rate: float, level: str = "c=1") -> Cell:
    return Cell(run, contender, "cnn", "throughput", "json", level, {"rate": rate})


def test_cells_outlive_a_stop_and_a_new_one_replaces_the_old(tmp_path: Path) -> None:
    file = tmp_path / "cells" / "serving.json"
    cells = Cells(file)
    cells.add(cell(0, "ours", 1.0))
    cells.add(cell(1, "ours", 2.0))
    cells.add(cell(0, "ours", 3.0))
    again = Cells(file)
    assert again.samples("rate", "ours", "cnn", "throughput", "json", "c=1") == {0: 3.0, 1: 2.0}
    assert cell(1, "ours", 0.0).key in again
    assert cell(2, "ours", 0.0).key not in again
    assert [path.name for path in file.parent.iterdir()] == ["serving.json"]


def test_what_is_asked_again_is_discarded_and_the_rest_stays(tmp_path: Path) -> None:
    cells = Cells(tmp_path / "cells.json")
    cells.add(cell(0, "triton", 1.0))
    cells.add(cell(0, "fastapi", 1.0))
    cells.discard(serving.only("triton").wants)
    assert [each.contender for each in Cells(tmp_path / "cells.json").every()] == ["fastapi"]


def test_ratios_are_of_the_same_run() -> None:
    assert ratios({0: 4.0, 1: 9.0, 2: 1.0}, {0: 2.0, 1: 3.0, 3: 5.0}) == [2.0, 3.0]


def test_only_wants_of_each_kind_what_was_named() -> None:
    key = Key(0, "triton", "cnn", "throughput", "json", "c=1")
    assert serving.only("").wants(key)
    assert serving.only("cnn,triton").wants(key)
    assert serving.only("throughput").wants(key)
    assert not serving.only("encoder").wants(key)
    assert not serving.only("litserve").wants(key)
    assert not serving.only("start").wants(key)
    with pytest.raises(SystemExit, match="knows no tritn"):
        serving.only("tritn")


def test_ours_against_a_rival_is_ours() -> None:
    key = Key(0, "paceline against triton", "cnn", "open loop", "json", "50% of the slower")
    assert serving.only("paceline").wants(key)
    assert not serving.only("triton").wants(key)


def test_everybody_serves_every_model_in_every_run_and_is_first_at_some_time() -> None:
    visits = list(serving.visits(len(CONTENDERS), ["cnn"]))
    assert len(visits) == len(set((run, each.name) for run, _, each in visits))
    assert len(visits) == len(CONTENDERS) ** 2
    firsts = {visits[run * len(CONTENDERS)][2].name for run in range(len(CONTENDERS))}
    assert firsts == set(CONTENDERS)


def test_a_start_measures_memory_before_and_after_and_no_form_it_does_not_take() -> None:
    keys = serving.keys_of_visit(0, CONTENDERS["litserve"], "cnn")
    assert keys[1].what == keys[-1].what == "memory"
    assert {key.form for key in keys} == {"", "json"}
    assert [key.level for key in keys if key.what == "throughput"] == ["c=1", "c=16"]
    lone = serving.keys_of_visit(0, CONTENDERS["triton-at-once"], "classifier")
    assert [key.level for key in lone if key.what == "throughput"] == ["c=1"]


def test_a_disturbed_start_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [(3.0, 0.0), (2.0, 0.5)]

    class Started(NamedTuple):
        started_s: float
        disturbance: _quiet.Disturbance

    @contextmanager
    def start(*_: object) -> Iterator[Started]:
        started_s, foreign = left.pop()
        yield Started(started_s, _quiet.Disturbance(foreign, 0.0))

    monkeypatch.setattr(serving, "running", start)
    cells = Cells(tmp_path / "cells.json")
    asked = argparse.Namespace(peers=tmp_path, models=tmp_path, seconds=1.0, quick=False, runs=1)
    serving.Bench(cells, asked, serving.only("classifier,fastapi,start")).run()
    assert [(each.figures["s"], each.attempts) for each in cells.every()] == [(3.0, 2)]


class Recorded(serving.Bench):
    """Notes what it would measure."""

    def __init__(self, cells: Cells, folder: Path, runs: int, only: str) -> None:
        asked = argparse.Namespace(peers=folder, models=folder, seconds=1.0, quick=False, runs=runs)
        super().__init__(cells, asked, serving.only(only))
        self.visited: list[tuple[int, str, int]] = []

    def _subject(self, model: str) -> serving.Subject:
        return serving.Subject(model, Path("/"), [], [])

    def _visit(
        self,
        run: int,
        of: serving.Subject,
        contender: Contender,
        missing: list[Key],  # type: ignore[override]
    ) -> None:
        self.visited.append((run, contender.name, len(missing)))
        for key in missing:
            self._cells.add(Cell(*key, {"rate": 1.0}))


def test_what_is_there_is_not_measured_again(tmp_path: Path) -> None:
    file = tmp_path / "cells.json"
    first = Recorded(Cells(file), tmp_path, 1, "fastapi,cnn,throughput,start")
    first.run()
    assert first.visited == [(0, "fastapi", 3)]
    second = Recorded(Cells(file), tmp_path, 2, "fastapi,cnn,throughput,start")
    second.run()
    assert second.visited == [(1, "fastapi", 3)]


def test_who_cannot_be_installed_is_told_as_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> Path:
        raise Unavailable("no matching distribution")

    monkeypatch.setattr("benchmarks.peers.running.python_of", none)
    cells = Cells(tmp_path / "cells.json")
    asked = argparse.Namespace(peers=tmp_path, models=tmp_path, seconds=1.0, quick=False, runs=1)
    bench = serving.Bench(cells, asked, serving.only("classifier,fastapi,start"))
    bench.run()
    assert [(each.what, each.note) for each in cells.every()] == [
        ("absent", "no matching distribution")
    ]
    assert "absent: no matching distribution" in serving.table(cells)


# --- Judgement ------------------------------------------------------------------------------------


def test_a_line_holds_by_the_median_of_the_ratios() -> None:
    least = serving.Line("rate", [1.9, 2.1, 2.2], 2.0)
    most = serving.Line("memory", [0.9, 1.1, 1.2], 1.0, is_most=True)
    assert serving.verdict(least).holds is True
    assert serving.verdict(most).holds is False
    assert serving.verdict(least).found == "2.1 (1.9 to 2.2 in 3)"
    assert serving.verdict(serving.Line("rate", [], 2.0)).holds is None


def test_the_targets_are_judged_from_the_cells(tmp_path: Path) -> None:
    cells = Cells(tmp_path / "cells.json")
    rates = {"paceline": 700.0, "paceline-2-fronts": 900.0}
    rates |= {"triton": 400.0, "fastapi": 200.0, "ray": 10.0}
    for name, rate in rates.items():
        cells.add(Cell(0, name, "classifier", "throughput", "json", "c=64", {"rate": rate}))
    cells.add(Cell(0, "paceline", "encoder", "throughput", "json", "c=64", {"rate": 94.0}))
    cells.add(Cell(0, serving.LIMIT, "encoder", "limit", "", "", {"best": 100.0}))
    found = {each.text: list(each.ratios) for each in serving.lines(cells)}
    best = "paceline-2-fronts"
    assert found[f"classifier, 64 callers, {best}, of Triton's rate"] == [2.25]
    assert found[f"classifier, 64 callers, {best}, of the best Python server's rate"] == [4.5]
    assert found["encoder, 64 callers, of the limit"] == [0.94]
    verdicts = {each.line: each.holds for each in serving.verdicts(cells)}
    assert verdicts["encoder, 64 callers, of the limit: at least 0.95"] is False


def test_a_wrong_answer_fails_the_line_of_answers(tmp_path: Path) -> None:
    cells = Cells(tmp_path / "cells.json")
    figures = {"answers": 10.0, "failed": 0.0, "wrong": 1.0, "apart": 0.5}
    cells.add(Cell(0, "paceline", "cnn", "answers", "json", "", figures))
    holds = [each.holds for each in serving.verdicts(cells) if "mixed batches" in each.line]
    assert holds == [False]


KEPT = "cnn: from capacity on at least 0.9 of our highest goodput or the load"


def test_goodput_of_a_load_below_the_peak_is_held_against_the_load(tmp_path: Path) -> None:
    """As where capacity was taken while the machine was slow."""
    cells = Cells(tmp_path / "cells.json")
    for at, rate in ((1.0, 60.0), (2.0, 100.0), (3.0, 95.0)):
        found = {"offered": 60.0 * at, "goodput": rate, "p99_ms": 400.0}
        cells.add(Cell(0, "paceline", "cnn", "goodput", "json", f"{at:g}x", found))
    verdicts = {each.line: each for each in goodput.verdicts(cells)}
    assert verdicts[KEPT].holds


def test_goodput_that_falls_beyond_capacity_fails_its_line(tmp_path: Path) -> None:
    cells = Cells(tmp_path / "cells.json")
    for at, rate in ((0.5, 50.0), (1.0, 100.0), (1.5, 80.0), (2.0, 95.0), (3.0, 95.0)):
        found = {"offered": 100.0 * at, "goodput": rate, "p99_ms": 400.0}
        cells.add(Cell(0, "paceline", "cnn", "goodput", "json", f"{at:g}x", found))
        cells.add(Cell(0, "triton", "cnn", "goodput", "json", f"{at:g}x", {"goodput": 79.0}))
    verdicts = {each.line: each for each in goodput.verdicts(cells)}
    assert verdicts[KEPT].holds is False
    assert verdicts["cnn: at every load at least the goodput of triton"].holds is False
    assert verdicts["cnn: p99 of what we answered at most the objective of 800 ms"].holds


def test_plots_name_what_they_show() -> None:
    drawn = bars("Rates", {"cnn <1>": {"ours": 10.0, "theirs": 5.0}}, "ours")
    assert "cnn &lt;1&gt;" in drawn
    assert drawn.index(">ours<") < drawn.index(">theirs<")
    curves = lines("Goodput", "load", {"cnn": {"ours": [(0.5, 10.0), (1.0, 20.0)]}})
    assert ">ours<" in curves
    assert ">0.5<" in curves


# --- Forms and models -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", [forms.ROW, forms.V2, forms.V2_BINARY, forms.STACKED])
def test_every_form_says_the_same_numbers(form: forms.Form) -> None:
    row = serving_models.inputs("classifier", 1, seed=3)
    asking = form.ask(row)
    if form is forms.V2_BINARY:
        length = int(asking.headers[forms.HEADER_LENGTH])
        sent = np.frombuffer(asking.body, np.float32, offset=length)
    else:
        said = json.loads(asking.body)
        if form is forms.V2:
            assert said["inputs"][0]["shape"] == [1, serving_models.FEATURES]
            said = said["inputs"][0]["data"]
        else:
            said = said["x"] if form is forms.ROW else said["rows"][0][0]
        sent = np.asarray(said, np.float32)
    np.testing.assert_array_equal(sent, row["x"].reshape(-1))


def test_a_binary_answer_is_read_behind_its_header() -> None:
    head = json.dumps({"outputs": [{"name": "y", "parameters": {"binary_data_size": 8}}]}).encode()
    body = head + np.array([1.5, -2.0], np.float32).tobytes()
    headers = {forms.HEADER_LENGTH: str(len(head))}
    assert forms.V2_BINARY.read(headers, body).tolist() == [1.5, -2.0]


def test_the_classifier_is_made_once_and_rows_do_not_influence_each_other(tmp_path: Path) -> None:
    path = serving_models.file("classifier", tmp_path)
    made_ns = path.stat().st_mtime_ns
    assert serving_models.file("classifier", tmp_path) == path
    assert path.stat().st_mtime_ns == made_ns
    model = OnnxModel.load(path, "classifier")
    batch = serving_models.inputs("classifier", 4)
    (together,) = model.run(batch).values()
    (alone,) = model.run({"x": batch["x"][1:2]}).values()
    np.testing.assert_allclose(alone[0], together[1], atol=1e-6)
    assert np.abs(together[0] - together[1]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("name", "megabytes"), [("encoder", 90), ("cnn", 47)])
def test_the_large_models_are_as_large_as_they_say(
    tmp_path: Path, name: str, megabytes: float
) -> None:
    path = serving_models.file(name, tmp_path)
    assert abs(path.stat().st_size / 1e6 - megabytes) < 1
    (answers,) = OnnxModel.load(path, name).run(serving_models.inputs(name, 2)).values()
    assert answers.shape == (2, serving_models.OUTPUT_SIZES[name])
    assert np.isfinite(answers).all()
    assert np.abs(answers[0] - answers[1]).max() > 0.1


def test_the_limit_is_tried_with_two_processes_and_with_two_threads() -> None:
    tried = {(way.processes, way.threads) for way in _in_process.ways("cnn")}
    assert tried == {(2, 1), (1, 2)}


# --- Peers ----------------------------------------------------------------------------------------


def test_every_peer_has_pinned_requirements_and_settings_for_every_model() -> None:
    for contender in CONTENDERS.values():
        assert "json" in contender.endpoints
        for model in serving.LEVELS:
            assert {"all", model} & set(contender.settings), contender.name
        if contender.environment:
            file = environment.REQUIREMENTS / f"requirements-{contender.environment}.txt"
            pinned = [line for line in file.read_text().splitlines() if "==" in line]
            assert any(line.startswith("onnxruntime==") for line in pinned), file.name
    assert set(PYTHON_SERVERS) < set(CONTENDERS)


def test_nothing_is_installed_where_it_is_not_asked_for(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="fastapi is not installed"):
        environment.python_of("fastapi", tmp_path, make=False)
    assert not list(tmp_path.iterdir())


def test_a_changed_list_of_requirements_installs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    wanted = lists / "requirements-small.txt"
    wanted.write_text("")
    monkeypatch.setattr(environment, "REQUIREMENTS", lists)
    ran: list[tuple[str, ...]] = []

    def run(*command: str) -> str:
        ran.append(command)
        (tmp_path / "peers" / "small").mkdir(parents=True, exist_ok=True)
        return ""

    monkeypatch.setattr(environment, "_run", run)
    environment.python_of("small", tmp_path / "peers")
    made = len(ran)
    environment.python_of("small", tmp_path / "peers")
    assert len(ran) == made
    wanted.write_text("something==1\n")
    environment.python_of("small", tmp_path / "peers")
    assert len(ran) == 2 * made


ECHO = """
import http.server, json, os, subprocess, sys
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                              start_new_session=True, env={"PEER_MARK": os.environ["PEER_MARK"]})
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", -1
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        said = json.dumps({"y": asked["x"]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64
Server(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
"""


def echo(launch: Launch) -> Command:
    return Command([str(launch.python), "-c", ECHO, str(launch.port)], {})


STAND_IN = Contender("echo", "", {"json": Endpoint("/", forms.ROW)}, echo, {"all": ""}, "paceline")


def rows(count: int) -> list[Tensors]:
    batch = serving_models.inputs("classifier", count)["x"]
    return [{"x": batch[at : at + 1]} for at in range(count)]


@contextmanager
def standing_in(expected: forms.Answer) -> Iterator[Running]:
    with running(STAND_IN, "classifier", Path("/"), Path("/"), rows(1)[0], expected) as up:
        yield up


def test_a_contender_is_asked_watched_and_stopped_with_all_it_started() -> None:
    asked = rows(3)
    expected = [row["x"].reshape(-1).astype("f8") for row in asked]
    with standing_in(expected[0]) as up:
        assert up.started_s > 0
        assert len(up.pids()) == 2
        assert up.pss_mb() > 1
        right = compared(up, "json", asked, expected, seed=1)
        assert (right.answers, right.failed, right.wrong) == (3 * CALLERS, 0, 0)
        swapped = compared(up, "json", asked, expected[::-1], seed=1)
        assert swapped.wrong == 2 * CALLERS
        assert swapped.apart > 0.1
    assert not up.pids()


def test_a_wrong_first_answer_makes_a_contender_unavailable() -> None:
    wrong = rows(1)[0]["x"].reshape(-1).astype("f8") + 1
    with pytest.raises(Unavailable, match="from the right one"), standing_in(wrong):
        pass


def test_a_contender_that_ends_tells_its_last_words() -> None:
    def ends(launch: Launch) -> Command:
        return Command([str(launch.python), "-c", "raise SystemExit('no such model')"], {})

    ending = STAND_IN._replace(command=ends)
    row = rows(1)[0]
    with (
        pytest.raises(Unavailable, match="ended with status 1: no such model"),
        running(ending, "classifier", Path("/"), Path("/"), row, row["x"].reshape(-1)),
    ):
        pass


def test_a_status_that_is_no_answer_counts_as_failed() -> None:
    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(503)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        launch = Launch("classifier", Path("/"), server.server_port, Path("/"), Path("/"))
        up = Running(STAND_IN, launch, Command([], {}), 0, "none")
        found = compared(up, "json", rows(1), [np.zeros(1)], seed=1)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert (found.answers, found.failed) == (0, CALLERS)
    assert "status 503" in found.first
