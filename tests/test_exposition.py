"""`/metrics` as Prometheus' own Python client reads it: every line, with the table's names, types,
labels, and the values that were counted."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from paceline.observe.board import QUANTILES
from paceline.observe.exposition import render
from paceline.serve.digits import SAMPLE_ROW
from paceline.terms.measurement import Distribution, Measurement
from paceline.terms.metric import METRICS, Metric
from servers import Server

TYPES = {"counter": "counter", "gauge": "gauge", "sketch": "summary"}
CHAT = {"model": "sim-small", "messages": [{"role": "user", "content": "Hi"}]}


def read(text: str) -> list[Family]:
    """Every line that is no comment is one sample."""
    families = [*text_string_to_metric_families(text)]
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert sum(len(family.samples) for family in families) == len(lines)
    return families


def metric_of(family: Family) -> Metric:
    """The client takes the end off a counter's name."""
    name = family.name + ("_total" if family.type == "counter" else "")
    return next(each for each in METRICS if each.name == name)


def agrees(family: Family) -> None:
    metric = metric_of(family)
    assert family.type == TYPES[metric.kind]
    assert family.documentation == metric.help
    ends = ("", "_sum", "_count") if metric.kind == "sketch" else ("",)
    for sample in family.samples:
        assert sample.name in {metric.name + end for end in ends}
        quantile = ("quantile",) if metric.kind == "sketch" and sample.name == metric.name else ()
        assert (*sample.labels,) == (*metric.labels, *quantile)
        assert math.isfinite(sample.value)
        assert sample.value >= 0


def test_a_live_server_says_what_the_table_says_and_what_it_did(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    state = tmp_path_factory.mktemp("metrics") / "state"
    with Server(state, "--usd-h", "1") as server:
        for _ in range(3):
            assert server.ask("POST", "/predict/digits", SAMPLE_ROW).status == 200
        assert server.ask("POST", "/predict/digits", [1]).status == 400
        assert server.ask("POST", "/v1/chat/completions", CHAT).status == 200
        families = read(server.ask("GET", "/metrics").body.decode())
    for family in families:
        agrees(family)
    names = [metric_of(family).name for family in families]
    assert names == [each.name for each in METRICS if each.name in names]
    assert len(names) > len(METRICS) / 2
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }
    assert values["paceline_requests_total", "digits", "normal", "200"] == 3
    assert values["paceline_requests_total", "digits", "normal", "400"] == 1
    assert values["paceline_request_duration_seconds_count", "digits"] == 3
    assert values["paceline_rows_total", "digits"] >= 3
    quantiles = [
        values["paceline_request_duration_seconds", "digits", f"{each:g}"] for each in QUANTILES
    ]
    assert quantiles == sorted(quantiles)
    assert values["paceline_llm_cost_usd_total", "sim-small", "simulated", "used"] == 0
    assert 0 < values["paceline_cost_usd_total", "compute"] < 1


NUMBERS = st.floats(0, 1e18) | st.integers(0, 2**53).map(float)
DISTRIBUTIONS = st.builds(
    lambda count, total, at: Distribution(count, total, tuple(zip(QUANTILES, at, strict=True))),
    st.integers(1, 2**53).map(float),
    NUMBERS,
    st.tuples(*(NUMBERS for _ in QUANTILES)),
)


@st.composite
def measured(draw: st.DrawFn) -> Measurement:
    metric = draw(st.sampled_from(METRICS))
    labels = tuple(draw(st.text(max_size=8)) for _ in metric.labels)
    if metric.kind == "sketch":
        return Measurement(metric, labels, draw(DISTRIBUTIONS))
    return Measurement(metric, labels, draw(NUMBERS))


@settings(max_examples=30)
@given(st.lists(measured(), max_size=8, unique_by=lambda each: (each.metric.name, each.labels)))
def test_whatever_labels_and_values_are_they_are_read_as_they_were(
    given_: list[Measurement],
) -> None:
    found = {}
    for family in text_string_to_metric_families(render(given_)):
        agrees(family)
        for sample in family.samples:
            found[sample.name, *sample.labels.values()] = sample.value
    expected: dict[tuple[str, ...], float] = {}
    for each in given_:
        name, value = each.metric.name, each.value
        if isinstance(value, Distribution):
            expected |= {(name, *each.labels, f"{q:g}"): at for q, at in value.quantiles}
            expected[name + "_sum", *each.labels] = value.sum
            expected[name + "_count", *each.labels] = value.count
        else:
            expected[name, *each.labels] = value
    assert found == expected
