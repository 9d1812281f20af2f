"""Measurements as Prometheus text (version 0.0.4). Pure; called by the owner for `GET /metrics`."""

from collections.abc import Iterable

from paceline.terms.measurement import Distribution, Measurement
from paceline.terms.metric import METRICS, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(measurements: Iterable[Measurement]) -> str:
    by_metric: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        by_metric.setdefault(measurement.metric.name, []).append(measurement)
    lines: list[str] = []
    for metric in METRICS:
        if metric.name in by_metric:
            kind = "summary" if metric.kind == "sketch" else metric.kind
            lines.append(f"# HELP {metric.name} {metric.help}")
            lines.append(f"# TYPE {metric.name} {kind}")
            for each in sorted(by_metric[metric.name], key=lambda m: m.labels):
                lines.extend(_series(metric, each))
    return "\n".join(lines) + "\n"


def _series(metric: Metric, measurement: Measurement) -> Iterable[str]:
    labels = list(zip(metric.labels, measurement.labels, strict=True))
    value = measurement.value
    if isinstance(value, Distribution):
        for q, at in value.quantiles:
            yield f"{metric.name}{_labels([*labels, ('quantile', f'{q:g}')])} {at!r}"
        yield f"{metric.name}_sum{_labels(labels)} {value.sum!r}"
        yield f"{metric.name}_count{_labels(labels)} {value.count!r}"
    else:
        yield f"{metric.name}{_labels(labels)} {value!r}"


def _labels(pairs: list[tuple[str, str]]) -> str:
    if not pairs:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in pairs) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
