"""Where batches run is found by the fronts when they try their models; `paceline why` says it."""

import json
from pathlib import Path

import pytest

from paceline.cli.main import run
from paceline.terms.errors import EXIT_OK
from servers import Server


def test_why_of_executors_says_where_batches_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"

    def told(knob: str, *options: str) -> str:
        assert run(["why", f"digits.{knob}", "--state", str(state), *options]) == EXIT_OK
        return capsys.readouterr().out

    with Server(state) as server:
        runs = server.ask("GET", "/api/why?knob=digits.executors").json["runs"]
        assert runs == "in threads" or runs.startswith("in place up to ")
        in_one_line = " ".join(told("executors").split())
        assert f"Batches run {runs}, as the server found when it tried the model." in in_one_line
        assert server.ask("GET", "/api/why?knob=digits.max_batch").json["runs"] == ""
        assert "Batches run" not in told("max_batch")
    assert json.loads(told("executors", "--json"))["runs"] == ""  # nobody tries it now
    assert "Batches run" not in told("executors")
