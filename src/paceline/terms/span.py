"""A span: one piece of the time of a request, as tracing systems understand it.

And the names of what is said of one, in one table: those of OpenTelemetry's semantic conventions
where it has any (HTTP, generative AI, errors), ours below `paceline.`. Made in fronts (`web/`),
sent by the owner (`watch/otlp.py`).
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

Kind = Literal["internal", "server", "client"]

Value = str | int | float | bool


class Span(msgspec.Struct, frozen=True, gc=False):
    """Ids in lower case hex; `parent_id` is empty where it has no parent. Times are Unix time."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: Kind
    began_s: float
    ended_s: float
    said: Mapping[str, Value]
    """by the names below"""
    error: str = ""
    """why it counts as failed; empty: it does not"""


METHOD = "http.request.method"
ROUTE = "http.route"
PATH = "url.path"
SCHEME = "url.scheme"
STATUS = "http.response.status_code"
ERROR = "error.type"

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"

REQUEST_ID = "paceline.request.id"
KEPT_FOR = "paceline.kept_for"
MODEL = "paceline.model"
PRIORITY = "paceline.priority"
ROWS = "paceline.rows"
BATCH_REASON = "paceline.batch.reason"
BATCH_ROWS = "paceline.batch.rows"
BATCH_REQUESTS = "paceline.batch.requests"
LLM_ROUTE = "paceline.route"
FIRST_MS = "paceline.first_content_ms"
ATTEMPT_WHY = "paceline.attempt.why"
ATTEMPT_ENDED = "paceline.attempt.ended"

NAMES: Mapping[str, str] = {
    METHOD: "HTTP method of the request",
    ROUTE: "its address, with the model left open",
    PATH: "its address",
    SCHEME: "http or https",
    STATUS: "status of the answer; absent where its caller left",
    ERROR: "code of the error that it was told, `left`, or how an attempt ended",
    OPERATION: "of an LLM call: `chat`, `text_completion`, `embeddings`, or its endpoint",
    PROVIDER: "name of the provider, as the settings have it",
    REQUEST_MODEL: "model that was asked for; of an attempt, the one at its provider",
    INPUT_TOKENS: "tokens of the prompt, as the provider counted them",
    OUTPUT_TOKENS: "tokens of the answer, likewise",
    REQUEST_ID: "the answer's x-request-id",
    KEPT_FOR: "why it was kept: asked, sampled, slow, late, failed",
    MODEL: "model of this server",
    PRIORITY: "priority of the request",
    ROWS: "rows of the request",
    BATCH_REASON: "why its batch was begun then",
    BATCH_ROWS: "rows of that batch",
    BATCH_REQUESTS: "requests in it",
    LLM_ROUTE: "route of the call",
    FIRST_MS: "milliseconds to the first content",
    ATTEMPT_WHY: "why it was made: first, again, elsewhere, hedge",
    ATTEMPT_ENDED: "how it ended",
}
