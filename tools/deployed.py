"""Alert rules for Prometheus and a dashboard for Grafana, from the tables that Paceline uses.

Only texts are made here; `reference.py` writes and compares them, with the pages of the reference.
"""

import json
from collections.abc import Iterator
from typing import Any

from paceline.terms.limits import ALERT_BAD_LEAST
from paceline.terms.metric import METRICS, Metric
from paceline.watch.alerts.burn import PAIRS, Pair
from paceline.watch.alerts.rules import BURN, RULES, Rule

OBJECTIVE = 0.999
"""Prometheus knows no goals, so its burn rates are of this availability; edit a copy."""

BUDGET = round(1 - OBJECTIVE, 9)

BAD = 'paceline_requests_total{status=~"5.."}'
ALL = "paceline_requests_total"


# --- Prometheus -----------------------------------------------------------------------------------


def prometheus() -> str:
    lines = [
        "# Alert rules for Prometheus: those of Paceline's own alerts that Prometheus can tell.",
        "# Written by `./check --write docs` from src/paceline/watch/alerts/; edit that.",
        f"# Prometheus knows no goals: the burn rates are of an availability of {OBJECTIVE:.1%}.",
        "groups:",
        "  - name: paceline",
        "    rules:",
    ]
    for rule in RULES.values():
        for alert in _alerts(rule):
            lines += alert
    return "\n".join(lines) + "\n"


def _alerts(rule: Rule) -> Iterator[list[str]]:
    if rule.name == BURN:
        for pair in PAIRS:
            yield _alert(rule, _burn(pair), 0.0, pair.severity, hours(pair.long_s))
    elif rule.promql is not None and rule.bounds is not None:
        sign = ">=" if rule.bounds.rising else "<="
        bounds = [("warning", rule.bounds.warning), ("critical", rule.bounds.critical)]
        for severity, bound in bounds:
            if severity == "warning" and bound == rule.bounds.critical:
                continue
            expression = f"({rule.promql}) {sign} {bound:g}"
            yield _alert(rule, expression, rule.bounds.for_s, severity)


def _burn(pair: Pair) -> str:
    rates = [
        f"(sum by (model) (rate({BAD}[{hours(window_s)}])) / "
        f"sum by (model) (rate({ALL}[{hours(window_s)}]))) > {pair.factor * BUDGET:g}"
        for window_s in (pair.short_s, pair.long_s)
    ]
    enough = f"sum by (model) (increase({BAD}[{hours(pair.long_s)}])) >= {ALERT_BAD_LEAST}"
    return " and ".join([*rates, enough])


def _alert(rule: Rule, expression: str, for_s: float, severity: str, more: str = "") -> list[str]:
    name = "Paceline" + "".join(part.capitalize() for part in rule.name.split("_")) + more
    quoted = json.dumps
    value = "{{ $value | humanize }} " + rule.unit
    if rule.name == BURN:
        value = "{{ $value | humanizePercentage }} of the requests fail"
    lines = [
        f"      - alert: {name}{severity.capitalize() if not more else ''}",
        f"        expr: {quoted(expression)}",
    ]
    if for_s:
        lines.append(f"        for: {for_s:g}s")
    return [
        *lines,
        "        labels:",
        f"          severity: {severity}",
        f"          rule: {rule.name}",
        "        annotations:",
        f"          summary: {quoted(rule.what)}",
        f"          value: {quoted(value)}",
        f"          what_to_do: {quoted(rule.remedy)}",
    ]


def hours(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


# --- Grafana --------------------------------------------------------------------------------------

UNITS = {"seconds": "s", "bytes": "bytes", "cores": "none"}

ROWS = (
    ("Requests", ("paceline_request", "paceline_not_run", "paceline_failed", "paceline_refused")),
    ("Queue and batches", ("paceline_queue", "paceline_at_risk", "paceline_batch", "paceline_model_run", "paceline_run", "paceline_rows", "paceline_tensor")),  # noqa: E501
    ("LLM calls", ("paceline_llm",)),
    ("Processes and host", ("paceline_process", "paceline_container", "paceline_disk", "paceline_ready", "paceline_wanted", "paceline_front", "paceline_parked")),  # noqa: E501
    ("Alerts", ("paceline_open_alerts", "paceline_alert")),
)  # fmt: skip
"""Rows of the dashboard, each with how the names of its metrics begin; what fits none is last."""

WIDE, HIGH = 8, 7


def grafana() -> str:
    """Every metric has its panel; what a counter counts is shown per second."""
    left = list(METRICS)
    panels: list[dict[str, Any]] = []
    top = 0
    for title, beginnings in (*ROWS, ("Others", ("",))):
        own = [each for each in left if each.name.startswith(beginnings)]
        left = [each for each in left if each not in own]
        if not own:
            continue
        panels.append(_row(len(panels) + 1, title, top))
        top += 1
        for number, metric in enumerate(own):
            place = {"x": number % 3 * WIDE, "y": top + number // 3 * HIGH, "w": WIDE, "h": HIGH}
            panels.append(_panel(len(panels) + 1, metric, place))
        top += (len(own) + 2) // 3 * HIGH
    dashboard = {
        "uid": "paceline",
        "title": "Paceline",
        "tags": ["paceline"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"},
                _variable("model", "label_values(paceline_requests_total, model)"),
            ]
        },
        "panels": panels,
    }
    return json.dumps(dashboard, indent=1) + "\n"


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "query": query,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _row(number: int, title: str, top: int) -> dict[str, Any]:
    place = {"x": 0, "y": top, "w": 24, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place}


def _panel(number: int, metric: Metric, place: dict[str, int]) -> dict[str, Any]:
    rate = " per second" if metric.kind == "counter" else ""
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "id": number,
        "type": "timeseries",
        "title": metric.name.removeprefix("paceline_").removesuffix("_total").replace("_", " "),
        "description": metric.help + (" Shown per second." if rate else ""),
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": UNITS.get(metric.unit, "short"), "min": 0},
            "overrides": [],
        },
        "targets": [
            {
                "refId": "A",
                "datasource": source,
                "expr": _query(metric),
                "legendFormat": " ".join(f"{{{{{label}}}}}" for label in _shown(metric)),
            }
        ],
    }


def _shown(metric: Metric) -> tuple[str, ...]:
    return (*metric.labels, "quantile") if metric.kind == "sketch" else metric.labels


def _query(metric: Metric) -> str:
    chosen = '{model=~"$model"}' if "model" in metric.labels else ""
    series = f"{metric.name}{chosen}"
    if metric.kind == "counter":
        series = f"rate({series}[$__rate_interval])"
    labels = ", ".join(_shown(metric))
    return f"sum by ({labels}) ({series})" if labels else f"sum({series})"
