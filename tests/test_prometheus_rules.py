"""What deploy/ has for Prometheus and Grafana: promtool reads the rules, and they fire when they
should."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from paceline.terms.metric import METRICS
from paceline.watch.alerts.rules import RULES

ROOT = Path(__file__).resolve().parent.parent
RULES_FILE = ROOT / "deploy" / "prometheus-rules.yml"

OUTAGE = """\
rule_files: [{rules}]
evaluation_interval: 10s
tests:
  - interval: 10s
    input_series:
      - series: 'paceline_requests_total{{model="m", priority="normal", status="200"}}'
        values: '0+100x360 36000x20'
      - series: 'paceline_requests_total{{model="m", priority="normal", status="500"}}'
        values: '0x360 0+100x20'
      - series: 'paceline_disk_bytes'
        values: '100x400'
      - series: 'paceline_disk_free_bytes'
        values: '2x400'
    alert_rule_test:
      - {{eval_time: 60m40s, alertname: PacelineSloBurn1h, exp_alerts: []}}
      - eval_time: 61m10s
        alertname: PacelineSloBurn1h
        exp_alerts:
          - exp_labels: {{severity: critical, rule: slo_burn, model: m}}
            exp_annotations: {{}}
"""

FEW_AND_MANY = """\
rule_files: [{rules}]
evaluation_interval: 10s
tests:
  - interval: 10s
    input_series:
      - series: 'paceline_requests_total{{model="few", priority="normal", status="200"}}'
        values: '0+1x60'
      - series: 'paceline_requests_total{{model="few", priority="normal", status="503"}}'
        values: '0+1x60'
      - series: 'paceline_not_run_total{{model="few", reason="late"}}'
        values: '0+1x60'
      - series: 'paceline_queued_requests{{model="few", priority="normal"}}'
        values: '0x60'
      - series: 'paceline_requests_total{{model="many", priority="normal", status="200"}}'
        values: '0+10x60'
      - series: 'paceline_requests_total{{model="many", priority="normal", status="503"}}'
        values: '0+10x60'
      - series: 'paceline_not_run_total{{model="many", reason="late"}}'
        values: '0+10x60'
      - series: 'paceline_queued_requests{{model="many", priority="normal"}}'
        values: '0x60'
    alert_rule_test:
      - eval_time: 5m
        alertname: PacelineErrorsCritical
        exp_alerts: [exp_labels: {{severity: critical, rule: errors, model: many}}]
      - eval_time: 5m
        alertname: PacelineSaturationCritical
        exp_alerts: [exp_labels: {{severity: critical, rule: saturation, model: many}}]
"""


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = shutil.which("promtool")
    assert command
    return subprocess.run([command, *arguments], capture_output=True, text=True)


@pytest.mark.needs("promtool")
def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES_FILE))
    assert done.returncode == 0, done.stdout + done.stderr
    broken = tmp_path / "rules.yml"
    broken.write_text(RULES_FILE.read_text().replace("sum by (model)", "sum by model"))
    assert promtool("check", "rules", str(broken)).returncode != 0


@pytest.mark.needs("promtool")
@pytest.mark.parametrize(
    "cases",
    [
        pytest.param(OUTAGE, id="outage", marks=pytest.mark.slow),
        pytest.param(FEW_AND_MANY, id="few and many"),
    ],
)
def test_prometheus_finds_what_we_find(tmp_path: Path, cases: str) -> None:
    """A total outage after 52 s, give or take what Prometheus makes up at the ends of a window; and
    of a handful of requests nothing."""
    plain = re.sub(r"        annotations:\n(?:          .*\n)+", "", RULES_FILE.read_text())
    rules, tests = tmp_path / "rules.yml", tmp_path / "tests.yml"
    rules.write_text(plain)
    tests.write_text(cases.format(rules=rules))
    done = promtool("test", "rules", str(tests))
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_a_rule_for_each_that_prometheus_can_tell() -> None:
    text = RULES_FILE.read_text()
    told = {each.name for each in RULES.values() if each.promql or each.name == "slo_burn"}
    assert set(re.findall(r"rule: (\w+)", text)) == told


def test_the_dashboard_shows_every_metric_once() -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
    shown = " ".join(
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())
    )
    for metric in METRICS:
        assert len(re.findall(rf"\b{metric.name}\b", shown)) == 1, metric.name
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
