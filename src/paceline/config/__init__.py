"""The settings: what `paceline.toml`, the environment and the command line may say.

Values only, with every default in one place. `source.py` reads them. Used by `app.py`, by the
processes it starts and by the command line. A field's description is its meaning everywhere: in
`--help`, in the file that `paceline config init` writes, and in docs/reference/settings.md.
"""

from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from paceline.gateway.upstream import Kind, TokensField
from paceline.observe import log
from paceline.terms.alert import Severity
from paceline.terms.errors import BadSetting
from paceline.terms.limits import (
    DRAIN_LEAST_S,
    DRIFT_ROWS_S,
    FEEDBACK_ANSWERS,
    FRONTS,
    LLM_BEGINS_S,
    LLM_DEADLINE_S,
    LLM_RETRIES,
    PRICE_USD,
    SAID_DAYS,
)
from paceline.terms.plan import Value
from paceline.watch.alerts.channel import Encryption
from paceline.watch.alerts.channel import Kind as ChannelKind
from paceline.watch.otlp import METRICS_PATH as OTLP_METRICS_PATH
from paceline.watch.otlp import PATH as OTLP_PATH

DEFAULT_FILE = "paceline.toml"
DEFAULT_STATE = "./.paceline"


class Server(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: Annotated[
        str, Meta(description="Address to listen on; other than loopback needs a key.")
    ] = "127.0.0.1"
    port: Annotated[
        int, Meta(description="Port to listen on; 0 takes a free one.", ge=0, le=65535)
    ] = 8080
    state: Annotated[
        str, Meta(description="Directory for what must outlive the process.", min_length=1)
    ] = DEFAULT_STATE
    fronts: Annotated[
        int,
        Meta(description=f"Processes that answer requests; 0 is cores - 1, 1 to {FRONTS}.", ge=0),
    ] = 0
    drain_s: Annotated[
        float,
        Meta(
            description="Seconds that requests in hand get to finish when it stops.",
            ge=DRAIN_LEAST_S,
            le=3600,
        ),
    ] = 5.0
    require_keys: Annotated[bool, Meta(description="Ask for a key on loopback too.")] = False
    insecure: Annotated[bool, Meta(description="Answer other machines without a key.")] = False
    tls_cert: Annotated[
        str, Meta(description="File with a certificate and its chain (PEM): https, and only that.")
    ] = ""
    tls_key: Annotated[str, Meta(description="File with the private key of tls_cert (PEM).")] = ""
    log_format: Annotated[log.Format, Meta(description="Lines for people or for machines.")] = (
        "console"
    )
    log_level: Annotated[log.Level, Meta(description="The least important lines to write.")] = (
        "info"
    )
    access_log: Annotated[bool, Meta(description="Log each request.")] = False
    reload_on_save: Annotated[
        bool, Meta(description="Read the settings again whenever their file is saved.")
    ] = False
    usd_h: Annotated[
        float,
        Meta(description="USD that this machine costs an hour, for reports; 0 is not known.", ge=0),
    ] = 0.0
    feedback_answers: Annotated[
        int,
        Meta(
            description="Answers that each front remembers for labels that come later; 0 is none.",
            ge=0,
            le=FEEDBACK_ANSWERS,
        ),
    ] = 8192
    drift_rows_s: Annotated[
        float,
        Meta(
            description="Rows of each model that a front draws a second, to tell drift; 0 is none.",
            ge=0,
            le=DRIFT_ROWS_S,
        ),
    ] = 1.0
    no_budget: Annotated[
        bool,
        Meta(description="Call LLM providers that cost money, though nothing limits how much."),
    ] = False

    def check(self, told: Callable[[str], str] = str) -> None:
        """The rules that need more than one field or no bound can say.

        `told` says of a field where its value comes from.
        """
        if not self.host.strip() or not self.host.isprintable():
            raise BadSetting(
                f"{told('host')} is not an address",
                value=self.host,
                remedy="Name one of this machine; 127.0.0.1 stays local.",
            )
        if bool(self.tls_cert) != bool(self.tls_key):
            given, missing = ("tls_cert", "tls_key") if self.tls_cert else ("tls_key", "tls_cert")
            raise BadSetting(
                f"{told(given)} is given, and {told(missing)} is not",
                value=self.tls_cert or self.tls_key,
                remedy="Name both files for https, or neither for http.",
            )
        if self.insecure and self.require_keys:
            raise BadSetting(
                f"{told('insecure')} and {told('require_keys')} contradict each other",
                value="both are set",
                remedy="Leave out the first to ask for keys, or the second to ask for none.",
            )


AT_RELOAD = frozenset({"drain_s", "log_level", "access_log", "reload_on_save", "usd_h"})
"""What a running server can change; the rest of `Server` it is started with."""


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: Annotated[
        str, Meta(description="The model's ONNX file, as seen from the folder of this one.")
    ] = ""
    python: Annotated[
        str,
        Meta(description='A callable of Python instead: "my_model.py:predict", "module:name".'),
    ] = ""
    goal: Annotated[
        tuple[str, ...],
        Meta(description='What must hold, such as "p95_ms <= 30", and one number to minimize.'),
    ] = ()
    pins: Annotated[
        dict[str, Value],
        Meta(description="Knobs that nothing but this file may turn, each with its value."),
    ] = {}


class ProviderSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: Annotated[
        Kind, Meta(description="Whose dialect it speaks; simulated is a machine that makes words.")
    ] = "openai"
    url: Annotated[
        str, Meta(description="Where it is, as its SDK has it: https://api.openai.com/v1.")
    ] = ""
    key_env: Annotated[
        str, Meta(description="The variable of the environment that holds its key.")
    ] = ""
    ca_file: Annotated[
        str, Meta(description="File with the authorities that may sign its certificate (PEM).")
    ] = ""
    private: Annotated[
        bool, Meta(description="Whether it is in a private network, where none is looked for.")
    ] = False
    models: Annotated[
        tuple[str, ...],
        Meta(
            description='Models that are its own, such as "gpt-4o"; "gpt-*" is all that begin so.'
        ),
    ] = ()
    tokens_field: Annotated[
        TokensField,
        Meta(description="What it calls the most tokens of a chat's answer; old ones: max_tokens."),
    ] = "max_completion_tokens"


class RouteSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    targets: Annotated[
        tuple[str, ...],
        Meta(description='Where its calls go: "openai/gpt-4o", or "openai" for the same model.'),
    ] = ()
    weights: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=1000)], ...],
        Meta(description="How often each target comes first, such as [3, 1]; else equally often."),
    ] = ()
    fallbacks: Annotated[
        tuple[str, ...],
        Meta(description="Where they go, in this order, when no target answers."),
    ] = ()
    retries: Annotated[
        int,
        Meta(description="How often a call that failed is tried again.", ge=0, le=LLM_RETRIES),
    ] = 2
    hedge: Annotated[
        bool, Meta(description="Ask a second target too when the first is late; the sooner counts.")
    ] = False
    hedge_ms: Annotated[
        int,
        Meta(
            description="After so long it is late; 0 is longer than 95 of 100 of its calls take.",
            ge=0,
            le=int(LLM_DEADLINE_S * 1e3),
        ),
    ] = 0
    patience_ms: Annotated[
        int,
        Meta(
            description="After so long without an answer it goes to the next target; 0 is never.",
            ge=0,
            le=int(LLM_DEADLINE_S * 1e3),
        ),
    ] = 0
    begin_ms: Annotated[
        int,
        Meta(
            description="After so long a stream begins without content, and goes nowhere else.",
            ge=0,
            le=int(LLM_DEADLINE_S * 1e3),
        ),
    ] = int(LLM_BEGINS_S * 1e3)
    timeout_s: Annotated[
        float,
        Meta(description="How long a call may take, all of it.", ge=0.001, le=LLM_DEADLINE_S),
    ] = LLM_DEADLINE_S
    least_latency: Annotated[
        bool, Meta(description="Prefer the target that has answered soonest of late.")
    ] = False
    raw: Annotated[
        tuple[str, ...],
        Meta(description='Addresses below /v1 that go to its first target unread: ["/files"].'),
    ] = ()


class PriceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`input` and `output` are needed; which are left out is seen by whoever reads them."""

    input: Annotated[
        float, Meta(description="USD for a million tokens of input.", ge=0, le=PRICE_USD)
    ] = 0.0
    output: Annotated[
        float,
        Meta(description="USD for a million tokens of output, reasoning too.", ge=0, le=PRICE_USD),
    ] = 0.0
    cached_input: Annotated[
        float,
        Meta(
            description="The same for input that its cache had; left out: as other input.",
            ge=0,
            le=PRICE_USD,
        ),
    ] = 0.0
    cache_write: Annotated[
        float,
        Meta(
            description="The same for input that is written to its cache; left out: not known.",
            ge=0,
            le=PRICE_USD,
        ),
    ] = 0.0
    cache_write_1h: Annotated[
        float,
        Meta(
            description="The same where it is kept for an hour; left out: not known.",
            ge=0,
            le=PRICE_USD,
        ),
    ] = 0.0


class SaidSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    days: Annotated[
        float,
        Meta(
            description="For so many days what is said in LLM calls is kept; 0 keeps nothing.",
            ge=0,
            le=SAID_DAYS,
        ),
    ] = 0.0
    routes: Annotated[
        tuple[str, ...],
        Meta(description="Only that of these routes; where none is named, that of all."),
    ] = ()
    hide: Annotated[
        tuple[str, ...],
        Meta(
            description="Regular expressions of what else is hidden in it, beside secrets, e-mail "
            "addresses, card and phone numbers and IBANs."
        ),
    ] = ()


class AlertSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    thresholds: Annotated[
        bool,
        Meta(description="Look by all rules, not only by those that are on without this."),
    ] = False
    every_s: Annotated[
        float,
        Meta(description="The shortest time between two notices of one alert.", ge=1, le=86400),
    ] = 300.0
    again_s: Annotated[
        float,
        Meta(
            description="After so long what still fires, and nobody acknowledged, is told again; "
            "0 is never.",
            ge=0,
            le=7 * 86400,
        ),
    ] = 4 * 3600.0
    escalate: Annotated[
        tuple[str, ...],
        Meta(description="Channels told only when nobody acknowledges a critical alert in time."),
    ] = ()
    escalate_s: Annotated[
        float, Meta(description="How long that is; 0 is for ever.", ge=0, le=86400)
    ] = 900.0


class ChannelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: Annotated[
        ChannelKind, Meta(description="A webhook gets JSON; slack is its form, others read it too.")
    ] = "webhook"
    least: Annotated[Severity, Meta(description="The least severe alerts it is told of.")] = (
        "warning"
    )
    url: Annotated[str, Meta(description="Of a webhook, or of one in Slack's form.")] = ""
    url_env: Annotated[
        str, Meta(description="Instead, the variable with the address, where that is a secret.")
    ] = ""
    token_env: Annotated[
        str, Meta(description="The variable with a token that a webhook wants to see.")
    ] = ""
    host: Annotated[str, Meta(description="Of smtp: the server that takes mails.")] = ""
    port: Annotated[int, Meta(description="Of smtp.", ge=1, le=65535)] = 587
    encryption: Annotated[
        Encryption, Meta(description="Of smtp: after a greeting, from the beginning, or none.")
    ] = "starttls"
    user: Annotated[str, Meta(description="Of smtp: who logs in, where somebody must.")] = ""
    password_env: Annotated[
        str, Meta(description="The variable with the password of that user.")
    ] = ""
    sender: Annotated[str, Meta(description="Of smtp: whom mails are from.")] = ""
    to: Annotated[tuple[str, ...], Meta(description="Of smtp: whom mails are for.")] = ()
    ca_file: Annotated[
        str, Meta(description="File with the authorities that may sign its certificate (PEM).")
    ] = ""
    private: Annotated[
        bool, Meta(description="Whether it is in a private network, where none is looked for.")
    ] = False


class TraceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sample: Annotated[
        float,
        Meta(
            description="The share of requests whose timelines are kept by chance, of all that "
            "no caller's trace decides about.",
            ge=0,
            le=1,
        ),
    ] = 0.001
    otlp_endpoint: Annotated[
        str,
        Meta(
            description="Where their spans go by OTLP, such as http://localhost:4318; "
            f"without a path, to {OTLP_PATH} there."
        ),
    ] = ""
    otlp_metrics_endpoint: Annotated[
        str,
        Meta(
            description="Where all metrics go by OTLP every 15 seconds; without a path, to "
            f"{OTLP_METRICS_PATH} there."
        ),
    ] = ""
    headers_env: Annotated[
        str,
        Meta(description="The variable with headers it wants to see: name=value,name=value."),
    ] = ""
    ca_file: Annotated[
        str, Meta(description="File with the authorities that may sign its certificate (PEM).")
    ] = ""
    private: Annotated[
        bool, Meta(description="Whether it is in a private network, where none is looked for.")
    ] = False


class RuleSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The defaults are each rule's own: see `config/alerting.py`."""

    enabled: Annotated[bool, Meta(description="Whether it is looked by.")] = True
    warning: Annotated[float, Meta(description="From here on it is a warning.", ge=0)] = 0.0
    critical: Annotated[float, Meta(description="From here on it is critical.", ge=0)] = 0.0
    for_s: Annotated[float, Meta(description="How long it must last.", ge=0, le=86400)] = 0.0


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    server: Annotated[Server, Meta(description="How it serves, whatever it serves.")] = Server()
    models: Annotated[dict[str, ModelSettings], Meta(description="What holds for one model.")] = {}
    providers: Annotated[
        dict[str, ProviderSettings], Meta(description="Who answers LLM calls.")
    ] = {}
    routes: Annotated[
        dict[str, RouteSettings],
        Meta(description="Where LLM calls go, by the model that they ask for."),
    ] = {}
    prices: Annotated[
        dict[str, PriceSettings], Meta(description="What tokens cost, by provider and model.")
    ] = {}
    said: Annotated[
        SaidSettings, Meta(description="Whether what is said in LLM calls is kept.")
    ] = SaidSettings()
    alerts: Annotated[AlertSettings, Meta(description="Who is told of alerts, and how often.")] = (
        AlertSettings()
    )
    traces: Annotated[
        TraceSettings, Meta(description="Of which requests it is told where their time went.")
    ] = TraceSettings()
    rules: Annotated[dict[str, RuleSettings], Meta(description="What is an alert.")] = {}
    channels: Annotated[dict[str, ChannelSettings], Meta(description="Ways to tell somebody.")] = {}


MODEL_AT_START = frozenset({"path", "python"})
"""What of a model a running server cannot change."""


def default_fronts(cores: float) -> int:
    """One core is left for everything else, the callers of this machine included."""
    return max(1, min(FRONTS, int(cores) - 1))


def at_reload(started_with: Server, new: Server) -> Server:
    """What is in force in a running server that has read new settings."""
    return msgspec.structs.replace(started_with, **{name: getattr(new, name) for name in AT_RELOAD})


def needs_restart(old: Server, new: Server) -> tuple[str, ...]:
    """What differs and cannot change in a running server, in the order of the fields."""
    return tuple(
        name
        for name in Server.__struct_fields__
        if name not in AT_RELOAD and getattr(old, name) != getattr(new, name)
    )
