"""What owner and fronts tell each other over their link. All else between them is HTTP."""

import msgspec

from paceline.access.keys import Key
from paceline.config import Server
from paceline.gateway.prices import Priced
from paceline.gateway.routes import Route
from paceline.gateway.said.keep import Keep
from paceline.gateway.upstream import Upstream
from paceline.observe.looks import Look
from paceline.serve.judging import Label, Verdict
from paceline.serve.model import TensorSpec
from paceline.serve.model_source import ModelSource
from paceline.serve.samples import Rows
from paceline.terms.plan import Address, InForce, Prediction, Value
from paceline.terms.span import Span
from paceline.web.calls_api import CallView, Order
from paceline.web.traces_api import TracesQuery, TraceView


class Start(msgspec.Struct, frozen=True, tag=True):
    """The first message to a front. Its listening socket, the memory of its board and the state
    directory come along."""

    index: int
    settings: Server
    port: int
    keys: tuple[Key, ...]
    session_secret: bytes
    models: tuple[ModelSource, ...] = ()
    providers: tuple[Upstream, ...] = ()
    """their keys are in the environment, and never in a message"""
    routes: tuple[Route, ...] = ()
    prices: tuple[Priced, ...] = ()
    keep: Keep | None = None
    sample: float = 0.0
    """of requests: the share of which the timelines are kept by chance"""
    exports: bool = False
    """whether spans are told"""


class KeysChanged(msgspec.Struct, frozen=True, tag=True):
    keys: tuple[Key, ...]


class SettingsChanged(msgspec.Struct, frozen=True, tag=True):
    settings: Server


class TracesChanged(msgspec.Struct, frozen=True, tag=True):
    """Settings of traces: as in `Start`."""

    sample: float
    exports: bool


class Prepare(msgspec.Struct, frozen=True, tag=True):
    """Could you serve by this plan? Answered by `Obeyed`; nothing changes yet."""

    plan: InForce


class Apply(msgspec.Struct, frozen=True, tag=True):
    """Serve by this plan from now on; answered by `Obeyed`. The first one follows `Start`, and
    nothing is served before it."""

    plan: InForce


class Adopt(msgspec.Struct, frozen=True, tag=True):
    """Connections come along that the doorkeeper accepted; nothing has been read from them. The
    owner keeps its copies until it hears `Adopted`."""


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Stop: nothing new, finish what you hold."""


class TellCalls(msgspec.Struct, frozen=True, tag=True):
    """Which LLM calls do you remember? Answered by `Calls`."""

    order: Order
    most: int


class Profile(msgspec.Struct, frozen=True, tag=True):
    """Look at yourself, or at your process of a model; answered by `Profiled`, at the end. One at a
    time."""

    look: Look
    model: str = ""


class EndProfile(msgspec.Struct, frozen=True, tag=True):
    """Tell what you have found until now."""


class TellLabels(msgspec.Struct, frozen=True, tag=True):
    """What was right for some requests, by their ids. Judged by whoever answered them, and told by
    `Judged`."""

    model: str
    ids: tuple[str, ...]
    labels: tuple[Label, ...]


class TellTraces(msgspec.Struct, frozen=True, tag=True):
    """Which timelines of inference requests do you keep? Answered by `Traces`."""

    query: TracesQuery


class Ping(msgspec.Struct, frozen=True, tag=True):
    pass


class Ready(msgspec.Struct, frozen=True, tag=True):
    """From a front: models are loaded, connections are accepted."""


class Serves(msgspec.Struct, frozen=True, tag=True):
    """From a front: what each of its models takes, by name; nothing where that is too much. And
    where their batches run, as was found by trying."""

    takes: dict[str, tuple[TensorSpec, ...]]
    how: dict[str, str] = {}


class Failed(msgspec.Struct, frozen=True, tag=True):
    """From a front: it cannot serve what it was told to, and why. It waits to be let go."""

    error: dict[str, str]


class Adopted(msgspec.Struct, frozen=True, tag=True):
    """From a front: the connections of the oldest `Adopt` not yet answered are its own now."""


class Obeyed(msgspec.Struct, frozen=True, tag=True):
    """From a front, to the oldest `Prepare` or `Apply` not yet answered: done, or why not."""

    refusal: str = ""


class Calls(msgspec.Struct, frozen=True, tag=True):
    """From a front, to the oldest `TellCalls` not yet answered."""

    calls: tuple[CallView, ...] = ()


class Profiled(msgspec.Struct, frozen=True, tag=True):
    """From a front, to the `Profile` not yet answered: a `Found`, passed on as it is."""

    found: msgspec.Raw


class Judged(msgspec.Struct, frozen=True, tag=True):
    """From a front, to the oldest `TellLabels` not yet answered: of each that it remembers which
    one it is, and whether it was right. It has counted them."""

    verdicts: tuple[tuple[int, Verdict], ...] = ()


class Traces(msgspec.Struct, frozen=True, tag=True):
    """From a front, to the oldest `TellTraces` not yet answered."""

    traces: tuple[TraceView, ...] = ()


class Spans(msgspec.Struct, frozen=True, tag=True):
    """From a front: for the OTLP receiver that the settings name. `dropped` more it had no room
    for."""

    spans: tuple[Span, ...]
    dropped: int


class TargetNews(msgspec.Struct, frozen=True, tag=True):
    """From a front, and to all others: a target of LLM calls is left alone until a moment of the
    host's monotonic clock. `why` is empty where it limits how much it is asked."""

    provider: str
    model: str
    until_s: float
    why: str


class Drawn(msgspec.Struct, frozen=True, tag=True):
    """From a front: rows of requests that it answered, to be compared with earlier ones."""

    rows: tuple[Rows, ...]


class Leaving(msgspec.Struct, frozen=True, tag=True):
    """From a front that drains: it accepts no more."""


class Steer(msgspec.Struct, frozen=True, tag=True):
    """From a front: what the steering of one of its models would move a setting to. The owner's
    desk decides; the answer is the plan that then comes, or that none comes."""

    knob: Address
    value: Value
    reason: str
    expects: tuple[Prediction, ...]


class Pong(msgspec.Struct, frozen=True, tag=True):
    pass


ToFront = (
    Start
    | KeysChanged
    | SettingsChanged
    | TracesChanged
    | Prepare
    | Apply
    | Adopt
    | Drain
    | TellCalls
    | Profile
    | EndProfile
    | TellLabels
    | TellTraces
    | TargetNews
    | Ping
)
ToOwner = (
    Ready
    | Serves
    | Failed
    | Adopted
    | Obeyed
    | Calls
    | Profiled
    | TargetNews
    | Judged
    | Drawn
    | Traces
    | Spans
    | Leaving
    | Steer
    | Pong
)

to_front = msgspec.json.Decoder(ToFront)
to_owner = msgspec.json.Decoder(ToOwner)
