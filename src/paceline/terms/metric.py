"""The one table of metric names: what Paceline counts and measures, with unit and labels.

Recording (`observe/board.py`) takes a Metric from here and nothing else; the exposition, the page
and docs/reference/metrics.md read the same table.
"""

from typing import Literal

import msgspec

Kind = Literal["counter", "gauge", "sketch"]


class Metric(msgspec.Struct, frozen=True):
    """A `sketch` is exposed as a Prometheus summary: quantiles within 1 %, sum, count."""

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()


REQUESTS = Metric(
    "paceline_requests_total",
    "counter",
    "requests",
    "Inference requests answered, by model, priority and HTTP status.",
    ("model", "priority", "status"),
)
REQUEST_SECONDS = Metric(
    "paceline_request_duration_seconds",
    "sketch",
    "seconds",
    "Time from the request's head to the end of its answer.",
    ("model",),
)
MODEL_SECONDS = Metric(
    "paceline_model_run_duration_seconds",
    "sketch",
    "seconds",
    "Time of one batch, joining its requests and handing it to a thread included.",
    ("model",),
)
ROWS = Metric("paceline_rows_total", "counter", "rows", "Rows run through a model.", ("model",))
BATCHES = Metric(
    "paceline_batches_total",
    "counter",
    "batches",
    "Batches begun, by the reason for which each was not larger or later.",
    ("model", "reason"),
)
BATCH_ROWS = Metric("paceline_batch_rows", "sketch", "rows", "Rows of a batch.", ("model",))
BATCH_LEFT_ROWS = Metric(
    "paceline_batch_left_rows_total",
    "counter",
    "rows",
    "Rows that batches left waiting though `max_batch` had room, by whether more rows pay.",
    ("model", "pays"),
)
COPIES_AVOIDED = Metric(
    "paceline_tensor_copies_avoided_total",
    "counter",
    "requests",
    "Requests whose tensors a model ran on where they lay, without a copy into a batch.",
    ("model",),
)
BUFFERS_REUSED = Metric(
    "paceline_batch_buffers_reused_total",
    "counter",
    "buffers",
    "Tensors of batches that were joined in memory of a batch before.",
    ("model",),
)
PART_SECONDS = Metric(
    "paceline_batch_part_seconds_total",
    "counter",
    "seconds",
    "Time by part: requests in the queue, inputs joined, the model run, outputs taken apart.",
    ("model", "part"),
)
REQUEST_PART_SECONDS = Metric(
    "paceline_request_part_seconds_total",
    "counter",
    "seconds",
    "Time of requests before they are queued, by part: bodies that came after their head on their "
    "way, and bodies above 4 KiB parsed.",
    ("model", "part"),
)
RUN = Metric(
    "paceline_run_requests_total",
    "counter",
    "requests",
    "Requests that went into a batch; once for each time one is run again.",
    ("model",),
)
LAST_RUN = Metric(
    "paceline_last_run_timestamp_seconds",
    "gauge",
    "seconds",
    "When the last batch ended, as Unix time.",
    ("model", "front"),
)
FAILED_SECONDS = Metric(
    "paceline_failed_seconds_total",
    "counter",
    "seconds",
    "Time from the head of requests to the end of their answers, where that was an error.",
    ("model",),
)
FEEDBACK = Metric(
    "paceline_feedback_total",
    "counter",
    "rows",
    "Rows for which somebody told what was right, by outcome: right, wrong; measured, where a "
    "number was predicted; unfit, where the label does not fit what was predicted; unknown, where "
    "the answer is not remembered.",
    ("model", "outcome"),
)
FEEDBACK_ERROR = Metric(
    "paceline_feedback_error_total",
    "counter",
    "the model's own",
    "How far predicted numbers were from what was right, added up.",
    ("model",),
)
FEEDBACK_SQUARED = Metric(
    "paceline_feedback_squared_error_total",
    "counter",
    "the model's own, squared",
    "The squares of the same, added up.",
    ("model",),
)
DRIFTED = Metric(
    "paceline_drifted_features",
    "gauge",
    "features",
    "Numbers of inputs and outputs, and classes, of which the last rows differ from the reference.",
    ("model",),
)
DRIFT_INDEX = Metric(
    "paceline_drift_stability_index",
    "gauge",
    "",
    "The largest population stability index of any of them, of which the difference is no chance.",
    ("model",),
)
MODEL_INFO = Metric(
    "paceline_model_info",
    "gauge",
    "fronts",
    "How many fronts serve the model, and which version of it.",
    ("model", "version"),
)
MODEL_BYTES = Metric(
    "paceline_model_size_bytes", "gauge", "bytes", "The file of an ONNX model.", ("model",)
)
MODEL_PARAMETERS = Metric(
    "paceline_model_parameters",
    "gauge",
    "numbers",
    "Numbers in the weights of an ONNX model.",
    ("model",),
)
BATCH_LIMIT = Metric(
    "paceline_batch_limit_rows",
    "gauge",
    "rows",
    "Rows that a batch may have, as the Plan in force says.",
    ("model",),
)
EXECUTORS = Metric(
    "paceline_executors",
    "gauge",
    "batches",
    "Batches that may run at once, in all fronts together.",
    ("model",),
)
NOT_RUN = Metric(
    "paceline_not_run_total",
    "counter",
    "requests",
    "Requests that were refused or given up before they were run, by reason.",
    ("model", "reason"),
)
QUEUED = Metric(
    "paceline_queued_requests",
    "gauge",
    "requests",
    "Requests that wait to be run.",
    ("model", "priority"),
)
QUEUE_AGE = Metric(
    "paceline_queue_age_seconds",
    "gauge",
    "seconds",
    "How long the one has waited that waits longest.",
    ("model", "front"),
)
AT_RISK = Metric(
    "paceline_at_risk_requests",
    "gauge",
    "requests",
    "Waiting requests that have used more than 80 % of the time to their target.",
    ("model",),
)
LLM_CALLS = Metric(
    "paceline_llm_calls_total",
    "counter",
    "calls",
    "LLM calls answered, by endpoint, route, the provider whose answer it is, and HTTP status; "
    "status 0 where the caller had left.",
    ("endpoint", "route", "provider", "status"),
)
LLM_SECONDS = Metric(
    "paceline_llm_call_duration_seconds",
    "sketch",
    "seconds",
    "Time from an LLM call's head to the end of its answer; OpenTelemetry's "
    "gen_ai.server.request.duration.",
    ("route", "provider"),
)
LLM_FIRST_SECONDS = Metric(
    "paceline_llm_first_token_seconds",
    "sketch",
    "seconds",
    "Time to the first content of a streamed answer; OpenTelemetry's "
    "gen_ai.server.time_to_first_token.",
    ("route", "provider"),
)
LLM_TOKEN_SECONDS = Metric(
    "paceline_llm_output_token_seconds",
    "sketch",
    "seconds",
    "Time for each further token of a streamed answer; OpenTelemetry's "
    "gen_ai.server.time_per_output_token.",
    ("route", "provider"),
)
LLM_TOKENS = Metric(
    "paceline_llm_tokens_total",
    "counter",
    "tokens",
    "Tokens that providers told, by kind; OpenTelemetry's gen_ai.client.token.usage. Those of "
    "cache_read, cache_write and reasoning are within input and output. estimated_input and "
    "estimated_output are beyond: of streams that had content, whose providers told less.",
    ("route", "provider", "kind"),
)
LLM_LOST_TOKENS = Metric(
    "paceline_llm_lost_tokens_total",
    "counter",
    "tokens",
    "Tokens of requests to providers that brought no content and may be billed all the same: left, "
    "lost, or outrun by another. Source told: by the provider; estimated: from what was sent.",
    ("route", "provider", "kind", "source"),
)
LLM_COST = Metric(
    "paceline_llm_cost_usd_total",
    "counter",
    "USD",
    "What tokens cost, by the prices of the settings. Kind used: of answers; lost: what requests "
    "that brought no content may cost all the same. Absent where no price is known.",
    ("route", "provider", "kind"),
)
LLM_UNPRICED = Metric(
    "paceline_llm_unpriced_total",
    "counter",
    "requests",
    "Requests to LLM providers of which nobody knows what they cost: there is no price, or the "
    "provider told no tokens.",
    ("route", "provider"),
)
LLM_ATTEMPTS = Metric(
    "paceline_llm_attempts_total",
    "counter",
    "attempts",
    "Requests to providers, by why each was made and how it ended.",
    ("provider", "why", "ended"),
)
LLM_SAID = Metric(
    "paceline_llm_said_total",
    "counter",
    "calls",
    "LLM calls of which what was said was to be kept, by what came of it: kept or dropped.",
    ("outcome",),
)
LLM_IN_FLIGHT = Metric(
    "paceline_llm_in_flight_calls", "gauge", "calls", "LLM calls being answered right now."
)
HTTP_REQUESTS = Metric(
    "paceline_http_requests_total",
    "counter",
    "requests",
    "HTTP requests answered by the fronts, by area of the address space and status.",
    ("area", "status"),
)
REFUSED = Metric(
    "paceline_refused_total", "counter", "requests", "Requests refused, by error code.", ("code",)
)
PLAN_VERSION = Metric(
    "paceline_plan_version",
    "gauge",
    "version",
    "The version of the Plan that a front serves by; 0 while it serves by none.",
    ("front",),
)
IN_FLIGHT = Metric(
    "paceline_in_flight_requests", "gauge", "requests", "Requests being answered right now."
)
PARKED = Metric(
    "paceline_parked_connections_total",
    "counter",
    "connections",
    "Connections the owner kept for a front that was not ready.",
)
FRONTS_READY = Metric("paceline_ready_fronts", "gauge", "processes", "Fronts that answer requests.")
FRONTS_WANTED = Metric("paceline_wanted_fronts", "gauge", "processes", "Fronts that should run.")
FRONT_RESTARTS = Metric(
    "paceline_front_restarts_total", "counter", "restarts", "Fronts started again after they died."
)
SERIES_DROPPED = Metric(
    "paceline_dropped_series_total",
    "counter",
    "series",
    "Label combinations not recorded because the process had reached its bound.",
)
LOG_SUPPRESSED = Metric(
    "paceline_suppressed_log_lines_total",
    "counter",
    "lines",
    "Log lines held back by the rate limit.",
)
CPU_SECONDS = Metric(
    "paceline_process_cpu_seconds_total",
    "counter",
    "seconds",
    "CPU time used, processes that have ended included.",
    ("role",),
)
CPU_WAIT_SECONDS = Metric(
    "paceline_process_cpu_wait_seconds_total",
    "counter",
    "seconds",
    "Time in which threads were ready to run and had no core; absent where the kernel does not "
    "tell.",
    ("role",),
)
RESIDENT_BYTES = Metric(
    "paceline_process_resident_memory_bytes",
    "gauge",
    "bytes",
    "Resident memory of the living processes.",
    ("role",),
)
OPEN_FILES = Metric(
    "paceline_process_open_fds", "gauge", "files", "Open file descriptors.", ("role",)
)
CONTAINER_CORES = Metric(
    "paceline_container_cpu_cores", "gauge", "cores", "CPU cores this container may use."
)
CONTAINER_CPU_SECONDS = Metric(
    "paceline_container_cpu_seconds_total", "counter", "seconds", "CPU time the container has used."
)
CONTAINER_MEMORY = Metric(
    "paceline_container_memory_bytes", "gauge", "bytes", "Memory the container uses."
)
CONTAINER_MEMORY_LIMIT = Metric(
    "paceline_container_memory_limit_bytes",
    "gauge",
    "bytes",
    "Memory the container may use; absent without a limit.",
)
GPU_BUSY = Metric(
    "paceline_gpu_busy_ratio",
    "gauge",
    "ratio",
    "Share of the last moments in which a GPU computed, as its driver says.",
    ("gpu",),
)
GPU_MEMORY = Metric(
    "paceline_gpu_memory_bytes", "gauge", "bytes", "Memory of a GPU in use, by anybody.", ("gpu",)
)
GPU_MEMORY_LIMIT = Metric(
    "paceline_gpu_memory_limit_bytes", "gauge", "bytes", "Memory that a GPU has.", ("gpu",)
)
GPU_WATTS = Metric(
    "paceline_gpu_power_watts", "gauge", "watts", "Power that a GPU takes.", ("gpu",)
)
GPU_CELSIUS = Metric(
    "paceline_gpu_temperature_celsius", "gauge", "°C", "Temperature of a GPU.", ("gpu",)
)
GPU_CELSIUS_LIMIT = Metric(
    "paceline_gpu_temperature_limit_celsius",
    "gauge",
    "°C",
    "From here on a GPU computes more slowly to cool down; absent where its driver does not tell.",
    ("gpu",),
)
COST = Metric(
    "paceline_cost_usd_total",
    "counter",
    "USD",
    "What it has cost since the start, by kind: compute is `usd_h` times the time it ran.",
    ("kind",),
)
DISK_BYTES = Metric(
    "paceline_disk_bytes", "gauge", "bytes", "Size of the disk that the state directory is on."
)
DISK_FREE = Metric(
    "paceline_disk_free_bytes",
    "gauge",
    "bytes",
    "Free space on the disk that the state directory is on.",
)
ALERTS_OPEN = Metric(
    "paceline_open_alerts",
    "gauge",
    "alerts",
    "Alerts that are not over, by severity; those acknowledged and silenced too.",
    ("severity",),
)
ALERT_NOTICES = Metric(
    "paceline_alert_notices_total",
    "counter",
    "notices",
    "Notices of alerts, by channel and by what came of them: sent, or given up.",
    ("channel", "ended"),
)
SPANS = Metric(
    "paceline_spans_total",
    "counter",
    "spans",
    "Spans for the OTLP receiver, by what came of them: sent, or dropped.",
    ("ended",),
)
BUILD = Metric(
    "paceline_build_info", "gauge", "", "Always 1; the labels say what runs.", ("version",)
)
STARTED = Metric(
    "paceline_start_time_seconds", "gauge", "seconds", "When this server was started, unix time."
)

METRICS: tuple[Metric, ...] = (
    REQUESTS,
    REQUEST_SECONDS,
    MODEL_SECONDS,
    ROWS,
    BATCHES,
    BATCH_ROWS,
    BATCH_LEFT_ROWS,
    COPIES_AVOIDED,
    BUFFERS_REUSED,
    PART_SECONDS,
    REQUEST_PART_SECONDS,
    RUN,
    LAST_RUN,
    FAILED_SECONDS,
    FEEDBACK,
    FEEDBACK_ERROR,
    FEEDBACK_SQUARED,
    DRIFTED,
    DRIFT_INDEX,
    MODEL_INFO,
    MODEL_BYTES,
    MODEL_PARAMETERS,
    BATCH_LIMIT,
    EXECUTORS,
    NOT_RUN,
    QUEUED,
    QUEUE_AGE,
    AT_RISK,
    LLM_CALLS,
    LLM_SECONDS,
    LLM_FIRST_SECONDS,
    LLM_TOKEN_SECONDS,
    LLM_TOKENS,
    LLM_LOST_TOKENS,
    LLM_COST,
    LLM_UNPRICED,
    LLM_ATTEMPTS,
    LLM_SAID,
    LLM_IN_FLIGHT,
    HTTP_REQUESTS,
    REFUSED,
    PLAN_VERSION,
    IN_FLIGHT,
    PARKED,
    FRONTS_READY,
    FRONTS_WANTED,
    FRONT_RESTARTS,
    SERIES_DROPPED,
    LOG_SUPPRESSED,
    CPU_SECONDS,
    CPU_WAIT_SECONDS,
    RESIDENT_BYTES,
    OPEN_FILES,
    CONTAINER_CORES,
    CONTAINER_CPU_SECONDS,
    CONTAINER_MEMORY,
    CONTAINER_MEMORY_LIMIT,
    GPU_BUSY,
    GPU_MEMORY,
    GPU_MEMORY_LIMIT,
    GPU_WATTS,
    GPU_CELSIUS,
    GPU_CELSIUS_LIMIT,
    COST,
    DISK_BYTES,
    DISK_FREE,
    ALERTS_OPEN,
    ALERT_NOTICES,
    SPANS,
    BUILD,
    STARTED,
)
