"""Spans and metrics as an OTLP receiver gets them: read by the protocol's own classes, from a real
server too.

The receiver is a fake that speaks HTTP; what it is sent must be what `opentelemetry-proto`, made
from the protocol's definitions, reads without a word that it does not know.
"""

import base64
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format  # type: ignore[import-untyped]
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric as ReadMetric
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Read
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from paceline.clock import Chance, SimulatedClock, run_simulated
from paceline.config import TraceSettings
from paceline.config.tracing import headers_of, wrong
from paceline.serve import digits
from paceline.terms.errors import BadSetting
from paceline.terms.limits import (
    METRICS_TOLD_S,
    SPANS_GIVE_UP_S,
    SPANS_GROUP_S,
    SPANS_HELD,
    SPANS_SENT,
    SPANS_TOLD,
)
from paceline.terms.measurement import Distribution, Measurement
from paceline.terms.metric import IN_FLIGHT, METRICS, REQUEST_SECONDS, REQUESTS
from paceline.terms.span import MODEL, NAMES, REQUEST_ID, ROWS, Span, Value
from paceline.watch.metric_post import MetricPost
from paceline.watch.otlp import Verdict, encoded, encoded_metrics, verdict
from paceline.watch.spans import SpanPost
from servers import Server
from test_plan_live import until
from test_timelines import SAID, SPAN, TRACE

SENT = Verdict(sent=True)
CHAT = {"model": "sim-small:tokens=3", "messages": [{"role": "user", "content": "Hello"}]}
BUSY = Verdict(sent=False, why="it is busy", again=True)


def span(number: int = 0, error: str = "") -> Span:
    said: dict[str, Value] = {MODEL: "digits", ROWS: 3, "half": 0.5, "yes": True}
    return Span(TRACE, f"{number + 1:016x}", SPAN, "queue", "server", 1e9, 1e9 + 0.25, said, error)


def read(body: bytes) -> ExportTraceServiceRequest:
    """As the protocol's own classes have it; in JSON its ids are hex, and theirs base64."""
    said = json.loads(body)
    for of_resource in said["resourceSpans"]:
        for of_scope in of_resource["scopeSpans"]:
            for each in of_scope["spans"]:
                for name in ("traceId", "spanId", "parentSpanId"):
                    if name in each:
                        each[name] = base64.b64encode(bytes.fromhex(each[name])).decode()
    request = ExportTraceServiceRequest()
    json_format.ParseDict(said, request)
    return request


def spans_of(request: ExportTraceServiceRequest) -> list[Read]:
    return [
        each
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
        for each in of_scope.spans
    ]


def said_of(one: Any) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in one.attributes
    }


# --- What is sent ---------------------------------------------------------------------------------


def test_a_span_is_read_as_it_was_meant() -> None:
    request = read(encoded([span(error="deadline_exceeded")], {"service.name": "paceline"}, "1"))
    (one,) = spans_of(request)
    assert (one.trace_id.hex(), one.parent_span_id.hex()) == (TRACE, SPAN)
    assert one.span_id.hex() == f"{1:016x}"
    assert (one.name, one.kind) == ("queue", Read.SPAN_KIND_SERVER)
    assert one.start_time_unix_nano == 1_000_000_000 * 10**9
    assert one.end_time_unix_nano - one.start_time_unix_nano == 250_000_000
    assert one.status.code == Status.STATUS_CODE_ERROR
    said = said_of(one)
    assert said.pop("error.type") == "deadline_exceeded"
    assert said == dict(span().said)
    (resource,) = request.resource_spans
    assert said_of(resource.resource) == {"service.name": "paceline"}
    assert resource.scope_spans[0].scope.name == "paceline"


def test_what_has_no_parent_and_did_not_fail_says_neither() -> None:
    (one,) = spans_of(read(encoded([Span(TRACE, SPAN, "", "a", "internal", 2.0, 1.0, {})], {}, "")))
    assert one.parent_span_id == b""
    assert one.status.code == Status.STATUS_CODE_UNSET
    assert one.start_time_unix_nano == one.end_time_unix_nano  # a clock that was set back


@pytest.mark.parametrize(
    ("status", "headers", "body", "means"),
    [
        (200, [], b"{}", SENT),
        (200, [], b"", SENT),
        (200, [], b"ok", SENT),
        (200, [], b"[1]", SENT),
        (
            200,
            [],
            b'{"partialSuccess":{"rejectedSpans":"2","errorMessage":"too old"}}',
            Verdict(sent=True, why="too old", rejected=2),
        ),
        (400, [], b"", Verdict(sent=False, why="it answered with status 400")),
        (500, [], b"", Verdict(sent=False, why="it answered with status 500")),
        (429, [], b"", Verdict(False, "it answered with status 429", again=True)),
        (
            503,
            [(b"retry-after", b"7")],
            b"",
            Verdict(False, "it answered with status 503", again=True, after_s=7.0),
        ),
        (
            502,
            [(b"retry-after", b"Fri, 31 Dec 1999 23:59:59 GMT")],
            b"",
            Verdict(False, "it answered with status 502", again=True),
        ),
    ],
)
def test_answers_mean_what_the_protocol_says(
    status: int, headers: list[tuple[bytes, bytes]], body: bytes, means: Verdict
) -> None:
    assert verdict(status, headers, body) == means


# --- When, and again ------------------------------------------------------------------------------


class Ear:
    """A receiver that answers as it is told, and then takes all."""

    def __init__(self, clock: SimulatedClock, *answers: Verdict) -> None:
        self._clock = clock
        self._answers = list(answers)
        self.heard: list[tuple[float, list[str]]] = []
        self.always: Verdict | None = None

    async def send(self, body: bytes) -> Verdict:
        (scope,) = json.loads(body)["resourceSpans"][0]["scopeSpans"]
        ids = [each["spanId"] for each in scope["spans"]]
        self.heard.append((self._clock.now(), ids))
        return self.always or (self._answers.pop(0) if self._answers else SENT)


def simulated(story: Callable[[SpanPost, Ear, SimulatedClock], Any], *answers: Verdict) -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        ear = Ear(clock, *answers)
        post = SpanPost(ear.send, {}, "1", clock, chance)
        post.start()
        await story(post, ear, clock)
        await post.close()

    run_simulated(main)


def counted(post: SpanPost) -> dict[str, float]:
    return {how: float(count) for how, count in post.counts().items()}


def test_what_comes_together_goes_together() -> None:
    async def story(post: SpanPost, ear: Ear, clock: SimulatedClock) -> None:
        post.take([span(1)])
        post.take([span(2), span(3)])
        await clock.until(clock.now() + SPANS_GROUP_S + 1)
        assert [len(ids) for _, ids in ear.heard] == [3]
        assert counted(post) == {"sent": 3, "dropped": 0}
        await clock.until(clock.now() + 1000)
        assert len(ear.heard) == 1  # an idle server asks nobody

    simulated(story)


def test_a_busy_receiver_is_asked_again_when_it_wants_to_be() -> None:
    busy = BUSY._replace(after_s=7.0)

    async def story(post: SpanPost, ear: Ear, clock: SimulatedClock) -> None:
        post.take([span(1)])
        await clock.until(clock.now() + 100)
        (first_s, first), (second_s, second) = ear.heard
        assert first == second
        assert second_s - first_s >= 7.0
        assert counted(post) == {"sent": 1, "dropped": 0}

    simulated(story, busy)


def test_what_is_refused_for_good_is_dropped_and_the_next_is_sent() -> None:
    async def story(post: SpanPost, ear: Ear, clock: SimulatedClock) -> None:
        post.take([span(number) for number in range(SPANS_SENT + 1)])
        await clock.until(clock.now() + 100)
        assert [len(ids) for _, ids in ear.heard] == [SPANS_SENT, 1]
        assert counted(post) == {"sent": 1, "dropped": SPANS_SENT}

    simulated(story, Verdict(sent=False, why="no"))


def test_what_a_receiver_rejects_of_what_it_takes_is_counted_as_dropped() -> None:
    async def story(post: SpanPost, ear: Ear, clock: SimulatedClock) -> None:
        post.take([span(number) for number in range(5)], dropped=3)
        await clock.until(clock.now() + 100)
        assert counted(post) == {"sent": 3, "dropped": 5}

    simulated(story, Verdict(sent=True, rejected=2))


def test_while_a_receiver_is_down_a_bounded_number_waits_and_is_given_up() -> None:
    async def story(post: SpanPost, ear: Ear, clock: SimulatedClock) -> None:
        ear.always = BUSY
        post.take([span(number) for number in range(SPANS_HELD + 100)])
        assert counted(post)["dropped"] == 100
        await clock.until(clock.now() + SPANS_GIVE_UP_S + 60)
        assert counted(post)["dropped"] == 100 + SPANS_SENT
        assert 4 < len(ear.heard) < 60
        ear.always = None
        await clock.until(clock.now() + 100)
        assert counted(post) == {"sent": SPANS_HELD - SPANS_SENT, "dropped": 100 + SPANS_SENT}

    simulated(story)


def test_at_the_end_what_is_held_is_sent_and_waits_for_nobody() -> None:
    async def story(post: SpanPost, ear: Ear, clock: SimulatedClock) -> None:
        post.take([span(1)])
        before_s = clock.now()
        await post.close()
        assert [len(ids) for _, ids in ear.heard] == [1]
        ear.always = BUSY
        post.take([span(2)])
        await post.close()
        assert clock.now() == before_s
        assert counted(post) == {"sent": 1, "dropped": 1}

    simulated(story)


# --- Metrics --------------------------------------------------------------------------------------

LABELS = ("digits", "normal", "200")


def metrics_of(body: bytes) -> dict[str, ReadMetric]:
    request = ExportMetricsServiceRequest()
    json_format.Parse(body, request)
    (of_resource,) = request.resource_metrics
    (of_scope,) = of_resource.scope_metrics
    assert said_of(of_resource.resource)["service.name"] == "paceline"
    return {each.name: each for each in of_scope.metrics}


def test_a_counter_a_gauge_and_a_distribution_are_read_as_they_were_meant() -> None:
    seen = [
        Measurement(REQUESTS, LABELS, 3.0),
        Measurement(REQUESTS, ("digits", "high", "200"), 4.0),
        Measurement(IN_FLIGHT, (), 2.0),
        Measurement(REQUEST_SECONDS, ("digits",), Distribution(7.0, 0.5, ((0.5, 0.01),))),
    ]
    read = metrics_of(encoded_metrics(seen, 1e9, 1e9 + 15, {"service.name": "paceline"}, "1"))
    counter = read["paceline_requests_total"]
    assert counter.sum.is_monotonic
    assert counter.sum.aggregation_temporality == 2  # since the start
    assert [each.as_double for each in counter.sum.data_points] == [3.0, 4.0]
    first = counter.sum.data_points[0]
    assert said_of(first) == dict(zip(REQUESTS.labels, LABELS, strict=True))
    assert (first.start_time_unix_nano, first.time_unix_nano) == (10**18, 10**18 + 15 * 10**9)
    (gauge,) = read["paceline_in_flight_requests"].gauge.data_points
    assert gauge.as_double == 2.0
    times = read["paceline_request_duration_seconds"]
    assert times.unit == "s"
    (point,) = times.summary.data_points
    assert (point.count, point.sum) == (7, 0.5)
    assert [(each.quantile, each.value) for each in point.quantile_values] == [(0.5, 0.01)]


def test_metrics_are_told_again_and_again_and_at_the_end() -> None:
    """Also when a receiver was away: what it missed is in what it is told next."""
    told: list[float] = []
    answers = [SENT, BUSY, SENT]

    async def main(clock: SimulatedClock, chance: Chance) -> None:
        async def send(body: bytes) -> Verdict:
            (counter,) = metrics_of(body).values()
            told.append(counter.sum.data_points[0].as_double)
            return answers.pop(0) if answers else SENT

        post = MetricPost(send, {"service.name": "paceline"}, "1", clock)
        post.start(lambda: [Measurement(REQUESTS, LABELS, clock.now())])
        began_s = clock.now()
        await clock.until(began_s + 3.5 * METRICS_TOLD_S)
        await post.close()
        assert told == [began_s + at * METRICS_TOLD_S for at in (1, 2, 3, 3.5)]

    run_simulated(main)


# --- What the settings may say --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"otlp_endpoint": "collector:4318"}, "otlp_endpoint"),
        ({"otlp_endpoint": "http://collector:4318"}, "otlp_endpoint"),
        ({"otlp_metrics_endpoint": "http://collector:4318"}, "otlp_metrics_endpoint"),
        ({"otlp_endpoint": "https://me:pass@collector:4318"}, "otlp_endpoint"),
        ({"otlp_endpoint": "https://collector", "headers_env": "a b"}, "headers_env"),
        ({"otlp_endpoint": "https://collector", "ca_file": "nothing.pem"}, "ca_file"),
    ],
)
def test_what_cannot_be_is_said_of_its_field(
    said: dict[str, str], field: str, tmp_path: Path
) -> None:
    assert [name for name, _ in wrong(TraceSettings(**said), tmp_path)] == [field]  # type: ignore[arg-type]


def test_what_can_be_is_taken(tmp_path: Path) -> None:
    for each in (
        TraceSettings(),
        TraceSettings(otlp_endpoint="http://localhost:4318"),
        TraceSettings(otlp_endpoint="http://collector:4318", private=True),
        TraceSettings(otlp_endpoint="https://collector.example/otlp/v1/traces"),
    ):
        assert not [*wrong(each, tmp_path)]


@pytest.mark.parametrize("text", ["", "a", "=b", "a=", "host=x", "a=b\nc", "a=b,a b=c", "ä=b"])
def test_headers_that_are_none_are_refused_at_the_start(text: str) -> None:
    said = TraceSettings(otlp_endpoint="https://collector", headers_env="TOKENS")
    with pytest.raises(BadSetting):
        headers_of(said, {"TOKENS": f"{text}"} if text else {})
    assert headers_of(said, {"TOKENS": "Api-Key=s3cret, x=a=b"}) == [
        (b"api-key", b"s3cret"),
        (b"x", b"a=b"),
    ]


# --- From a real server ---------------------------------------------------------------------------


class Heard:
    def __init__(self) -> None:
        self.spans: list[Read] = []
        self.metrics: list[dict[str, ReadMetric]] = []
        self.headers: list[dict[str, str]] = []
        self.asked: list[dict[str, str]] = []
        """as an upstream of LLM calls"""
        self._came = threading.Condition()

    def hear(self, path: str, headers: dict[str, str], body: bytes) -> bytes:
        with self._came:
            if path == "/v1/traces":
                self.headers.append(headers)
                self.spans += spans_of(read(body))
                self._came.notify_all()
                return b"{}"
            if path == "/v1/metrics":
                self.headers.append(headers)
                self.metrics.append(metrics_of(body))
                return b"{}"
            self.asked.append(headers)
        said = {"role": "assistant", "content": "Hi"}
        usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
        choice = {"index": 0, "message": said, "finish_reason": "stop"}
        kind = {"id": "c1", "object": "chat.completion", "created": 1, "model": "own"}
        return json.dumps({**kind, "choices": [choice], "usage": usage}).encode()

    def until(self, enough: Callable[[list[Read]], object]) -> list[Read]:
        with self._came:
            assert self._came.wait_for(lambda: enough(self.spans), 20), self.spans
            return list(self.spans)


@contextmanager
def listening() -> Iterator[tuple[Heard, str]]:
    ear = Heard()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            answer = ear.hear(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *given: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield ear, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def exporting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Heard]]:
    folder = tmp_path_factory.mktemp("spans")
    with listening() as (ear, url):
        file = folder / "paceline.toml"
        file.write_text(
            f'[traces]\nsample = 0.0\notlp_endpoint = "{url}"\nheaders_env = "OTLP_HEADERS"\n'
            f'[models.digits]\n[providers.own]\nurl = "{url}/v1"\nmodels = ["own"]\n'
            "private = true\n"
        )
        environ = {"OTLP_HEADERS": "api-key=s3cret-of-the-receiver"}
        options = ("--drain-s", "1", "--config", str(file))
        with Server(folder / "state", *options, environ=environ) as server:
            yield server, ear


def test_a_receiver_gets_every_metric_when_a_server_ends(tmp_path: Path) -> None:
    """And every fifteen seconds before, for which no test waits."""
    with listening() as (ear, url):
        file = tmp_path / "paceline.toml"
        file.write_text(f'[traces]\notlp_metrics_endpoint = "{url}"\n[models.digits]\n')
        with Server(tmp_path / "state", "--drain-s", "1", "--config", str(file)) as server:
            for _ in range(3):
                assert server.ask("POST", "/predict/digits", digits.SAMPLE_ROW).status == 200
            text = server.ask("GET", "/metrics").body.decode()
    (told,) = ear.metrics
    points = told["paceline_requests_total"].sum.data_points
    assert sum(each.as_double for each in points) == 3.0
    names = {each.name for each in METRICS if f"# TYPE {each.name} " in text}
    gone = {each for each in names if "_process_" in each}  # with the fronts, which ended before
    assert names - gone <= told.keys()


def counted_by(server: Server) -> dict[str, float]:
    text = server.ask("GET", "/metrics").body.decode()
    found = re.findall(r'^paceline_spans_total{ended="(\w+)"} (\S+)$', text, re.MULTILINE)
    return {outcome: float(count) for outcome, count in found}


def test_a_receiver_that_a_reload_names_gets_spans(tmp_path: Path) -> None:
    file = tmp_path / "paceline.toml"
    file.write_text("[models.digits]\n")
    options = ("--drain-s", "1", "--fronts", "1", "--config", str(file))
    with listening() as (ear, url), Server(tmp_path / "state", *options) as server:
        file.write_text(f'[models.digits]\n[traces]\notlp_endpoint = "{url}"\n')
        told = server.ask("POST", "/api/config/reload", {}).json
        assert (told["changed"], told["needs_restart"]) == (["traces.otlp_endpoint"], [])
        server.ask("POST", "/predict/digits", digits.SAMPLE_ROW, headers={"traceparent": SAID})
        ear.until(lambda spans: of_trace(spans, TRACE))
        file.write_text(file.read_text() + 'headers_env = "NOT_THERE"\n')
        refused = server.ask("POST", "/api/config/reload", {})
        assert refused.status == 400
        assert "start the server anew" in refused.json["remedy"]


@pytest.mark.slow
def test_a_running_server_follows_its_settings_of_traces(tmp_path: Path) -> None:
    """Another receiver, another one, none; and what cannot be followed changes nothing."""
    file = tmp_path / "paceline.toml"

    def reload(traces: str) -> Any:
        file.write_text(f"[models.digits]\n[traces]\n{traces}")
        return server.ask("POST", "/api/config/reload", {})

    def asks(name: str) -> None:
        headers = {"traceparent": SAID, "x-request-id": name}
        assert (
            server.ask("POST", "/predict/digits", digits.SAMPLE_ROW, headers=headers).status == 200
        )

    def heard(ear: Heard, name: str) -> None:
        ear.until(lambda spans: name in [said_of(each).get(REQUEST_ID) for each in spans])

    file.write_text("[models.digits]\n")
    options = ("--drain-s", "1", "--fronts", "1", "--config", str(file))
    with listening() as (first, url), listening() as (second, another):
        with Server(tmp_path / "state", *options) as server:
            asks("nowhere")
            assert not counted_by(server)
            told = reload(f'otlp_endpoint = "{url}"\nsample = 0.5\n').json
            assert told["changed"] == ["traces.sample 0.001 → 0.5", "traces.otlp_endpoint"]
            assert told["needs_restart"] == []
            asks("one")
            heard(first, "one")
            assert reload(f'otlp_endpoint = "{another}"\n').status == 200
            asks("two")
            heard(second, "two")
            until(
                "all that was heard is counted",
                lambda: counted_by(server).get("sent") == len(first.spans) + len(second.spans),
            )
            assert counted_by(server)["dropped"] == 0.0

            refused = reload(f'otlp_endpoint = "{url}"\nheaders_env = "NOT_THERE"\n')
            assert refused.status == 400
            assert "NOT_THERE" in refused.json["remedy"]
            assert "start the server anew" in refused.json["remedy"]
            asks("three")
            heard(second, "three")

            os.kill(server.fronts[0], signal.SIGKILL)  # the next one does as this one did
            until(
                "a front is there again", lambda: server.ask("GET", "/health/ready").status == 200
            )
            asks("four")
            heard(second, "four")

            assert reload(f'otlp_metrics_endpoint = "{url}"\n').json["needs_restart"] == []
            asks("five")
            assert "five" in str(server.ask("GET", "/api/traces?id=five&order=newest").json)
            asked = server.ask("POST", "/v1/chat/completions", CHAT)
            assert asked.status == 200
        names = {said_of(each).get(REQUEST_ID) for each in first.spans + second.spans}
        assert {"one", "two", "three", "four"} <= names
        assert not {"nowhere", "five"} & names
        (metrics,) = first.metrics
        (point,) = metrics["paceline_requests_total"].sum.data_points
        assert point.as_double == 6.0
        assert point.time_unix_nano - point.start_time_unix_nano > 1e8, "since the start, not since"


def of_trace(spans: list[Read], trace_id: str) -> dict[str, Read]:
    return {each.name: each for each in spans if each.trace_id.hex() == trace_id}


def test_a_receiver_gets_the_spans_of_an_inference(exporting: tuple[Server, Heard]) -> None:
    server, ear = exporting
    trace_id = TRACE.replace("4bf", "4b1")
    headers = {"traceparent": SAID.replace(TRACE, trace_id), "x-request-id": "mine"}
    assert server.ask("POST", "/predict/digits", digits.SAMPLE_ROW, headers=headers).status == 200
    spans = of_trace(ear.until(lambda spans: of_trace(spans, trace_id)), trace_id)
    whole = spans.pop("POST /predict/{model}")
    assert (whole.kind, whole.parent_span_id.hex()) == (Read.SPAN_KIND_SERVER, SPAN)
    said = said_of(whole)
    assert set(said) <= set(NAMES)
    assert (said["http.response.status_code"], said["paceline.request.id"]) == (200, "mine")
    assert (said["url.path"], said["url.scheme"]) == ("/predict/digits", "http")
    assert (said["paceline.model"], said["paceline.batch.rows"]) == ("digits", 1)
    assert {"queue", "compute", "answer"} <= set(spans)
    ends = [(each.start_time_unix_nano, each.end_time_unix_nano) for each in spans.values()]
    assert all(each.parent_span_id == whole.span_id for each in spans.values())
    assert min(begun for begun, _ in ends) == whole.start_time_unix_nano
    assert max(end for _, end in ends) <= whole.end_time_unix_nano + 2_000
    assert len({each.span_id for each in spans.values()}) == len(spans)
    assert ear.headers[0]["api-key"] == "s3cret-of-the-receiver"
    text = server.ask("GET", "/metrics").body.decode()
    assert 'paceline_spans_total{ended="dropped"} 0' in text
    assert "s3cret" not in server.log.read_text()


def test_what_failed_goes_to_the_receiver_whoever_asked(exporting: tuple[Server, Heard]) -> None:
    server, ear = exporting
    headers = {"x-request-id": "too-late", "x-timeout-ms": "0.001"}
    status = server.ask("POST", "/predict/digits", digits.SAMPLE_ROW, headers=headers).status

    def failed(spans: list[Read]) -> list[Read]:
        return [each for each in spans if said_of(each).get("paceline.request.id") == "too-late"]

    (one,) = failed(ear.until(failed))
    assert one.status.code == Status.STATUS_CODE_ERROR
    assert said_of(one)["http.response.status_code"] == status


def chat(server: Server, headers: dict[str, str]) -> str:
    body = {"model": "own", "messages": [{"role": "user", "content": "Hello"}]}
    answer = server.ask("POST", "/v1/chat/completions", body, headers=headers)
    assert answer.status == 200, answer.body
    return answer.headers["x-request-id"]


def test_a_provider_is_told_the_span_above_its_own(exporting: tuple[Server, Heard]) -> None:
    server, ear = exporting
    trace_id = TRACE.replace("4bf", "4b2")
    said = SAID.replace(TRACE, trace_id)
    chat(server, {"traceparent": said, "tracestate": "vendor=1"})
    spans = of_trace(ear.until(lambda spans: of_trace(spans, trace_id)), trace_id)
    whole, attempt = spans["POST /v1/chat/completions"], spans["chat own"]
    assert whole.parent_span_id.hex() == SPAN
    assert (attempt.parent_span_id, attempt.kind) == (whole.span_id, Read.SPAN_KIND_CLIENT)
    told = ear.asked[-1]
    assert told["traceparent"] == f"00-{trace_id}-{attempt.span_id.hex()}-01"
    assert told["tracestate"] == "vendor=1"
    of_whole, of_attempt = said_of(whole), said_of(attempt)
    assert set(of_whole) | set(of_attempt) <= set(NAMES)
    assert of_whole["gen_ai.operation.name"] == of_attempt["gen_ai.operation.name"] == "chat"
    assert (of_whole["gen_ai.usage.input_tokens"], of_attempt["gen_ai.provider.name"]) == (3, "own")
    assert (of_whole["http.request.method"], of_whole["url.path"]) == (
        "POST",
        "/v1/chat/completions",
    )
    assert "Hello" not in str(spans)


def test_what_is_not_recorded_goes_on_as_it_came(exporting: tuple[Server, Heard]) -> None:
    server, ear = exporting
    said = {"traceparent": SAID[:-1] + "0", "tracestate": "vendor=2"}
    chat(server, said)
    told = ear.asked[-1]
    assert {name: told[name] for name in said} == said
    chat(server, {})
    assert "traceparent" not in ear.asked[-1]
    broken = {"traceparent": "00-nothing", "tracestate": "vendor=3"}
    chat(server, broken)
    assert ear.asked[-1]["traceparent"] == "00-nothing"


def test_every_name_that_is_said_of_a_span_is_in_the_table() -> None:
    assert all(
        name.startswith(("http.", "url.", "gen_ai.", "error.", "paceline.")) for name in NAMES
    )
    assert SPANS_TOLD <= SPANS_HELD
