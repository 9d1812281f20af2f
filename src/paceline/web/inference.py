"""Inference over HTTP, the hot path: from a request's head to the way it takes.

Plain functions called by the connection (`net/connection.py`), no task and no future a request.
Here are addresses, headers, plans, and who may begin; what becomes of a request from its body on is
`infer_call.py`. What every request passes is `door.py`.

One request, in order: `Inference.begin` (head), perhaps a wait for a turn of the loop (`turns.py`),
`InferCall.took` (body), `read`, `submit` (decoded), the runner, `_told` (outputs), `send`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from urllib.parse import unquote

from paceline.clock import Chance, Clock
from paceline.net.coding import accepted, coding_of
from paceline.net.exchange import Exchange
from paceline.observe.board import Board
from paceline.serve.judging import Label, Verdict
from paceline.serve.knobs import MAX_IN_FLIGHT, rules
from paceline.serve.model import Model, ModelSpec
from paceline.serve.model_look import ModelLook
from paceline.serve.model_process import ModelProcess
from paceline.serve.notes import Notes, count
from paceline.serve.reading import Reader
from paceline.serve.runner import Runner
from paceline.serve.samples import Samples
from paceline.serve.steering import Move
from paceline.serve.tally import Tally
from paceline.terms.errors import Overloaded, PacelineError, Unavailable, UnknownModel
from paceline.terms.limits import DEADLINE_S, FEEDBACK_ANSWERS_LEAST, PARSE_IN_PLACE_BYTES
from paceline.terms.metric import PLAN_VERSION
from paceline.terms.plan import InForce
from paceline.web.door import Door, Refusal
from paceline.web.infer_call import InferCall, InLine, keep_turned_away
from paceline.web.messages import Steer
from paceline.web.timelines import Kept, Timeline
from paceline.web.turns import Turns
from paceline.web.urgency import PRIORITY_HEADER, TIMEOUT_HEADER, priority_of, timeout_s_of
from paceline.web.way import Address, Kind, Place, Said, Serving, Way

ENCODING_HEADER = b"content-encoding"
ACCEPT_HEADER = b"accept-encoding"

V2 = re.compile(rb"/v2/models/([^/?]+)(?:/versions/([^/?]+))?/infer(?:\?.*)?")
PREDICT = re.compile(rb"/predict/([^/?]+)(?:\?.*)?")

KNOWN = 4096
"""addresses that are remembered; beyond it all are forgotten, and found again"""


class Inference:
    """Runs requests on the models of this front by the plan, and records them. Nothing is served
    before the first plan is there. `wish` hears what the steering of a model would move.
    `kept` makes what keeps the timelines of some requests to a model."""

    def __init__(
        self,
        models: Mapping[str, Model],
        board: Board,
        clock: Clock,
        reader: Reader,
        front: int = 0,
        wish: Callable[[Steer], None] | None = None,
        remembered: int = 0,
        samples: Samples | None = None,
        kept: Callable[[str], Kept] | None = None,
    ) -> None:
        """`remembered` answers of all models together can be judged by labels that come later;
        `samples` draws rows of them; `kept` makes what keeps timelines of a model."""
        each_of = remembered and max(FEEDBACK_ANSWERS_LEAST, remembered // max(1, len(models)))
        kept = kept or (lambda model: Kept(clock.now(), Chance(0)))
        self._board = board
        self.clock = clock
        self.turns = Turns(clock.now)
        self.serving = Serving(b"", {})
        self._plan_version = board.gauge(PLAN_VERSION, str(front))
        self._addresses: dict[bytes, Address] = {}
        self._places = {
            name: Place(
                name,
                model,
                Runner(model, clock, Tally(board, name, front), wish=wish and _wish_of(name, wish)),
                board,
                clock,
                reader,
                kept(name),
                Notes(model.spec, each_of, clock.now, samples) if remembered or samples else None,
            )
            for name, model in models.items()
        }

    def warm(self) -> None:
        """Tries the models; nothing is served meanwhile."""
        for place in self._places.values():
            place.runner.warm()

    def how(self) -> dict[str, str]:
        """Where batches of each model run."""
        return {name: place.runner.how for name, place in self._places.items()}

    def warm_on(self) -> None:
        """Tries what there was no time for, while nobody asks."""
        for place in self._places.values():
            place.runner.warm_on()

    def prepare(self, plan: InForce) -> Callable[[], None]:
        """What puts the plan in force; raises where this front cannot serve by it."""
        serving = Serving(
            b"x-plan-version: %d\r\n" % plan.version,
            {name: rules(name, plan) for name in self._places},
        )

        def serve() -> None:
            before, self.serving = self.serving.rules, serving
            for name, each in serving.rules.items():
                if before.get(name) != each:  # else a look of its steering would end for nothing
                    self._places[name].runner.tune(each)
                    self._places[name].kept.objective(each.slo_s)
            self._plan_version.set(plan.version)

        return serve

    def address(self, target: bytes) -> Address | None:
        """What is asked of which model; None where the target is no address of inference."""
        known = self._addresses.get(target)
        if known is not None:
            return known
        version: str | None = None
        found = V2.fullmatch(target)
        kind: Kind = "v2"
        if found is not None:
            version = None if found[2] is None else unquote(found[2].decode())
        else:
            found, kind = PREDICT.fullmatch(target), "predict"
            if found is None:
                return None
        if len(self._addresses) >= KNOWN:
            self._addresses.clear()
        known = self._addresses[target] = (kind, unquote(found[1].decode()), version)
        return known

    def begin(self, exchange: Exchange, door: Door) -> "Callable[[Exchange], None] | None":
        """A request by its head; None where it is for somebody else."""
        if exchange.method != b"POST":
            return None
        way = exchange.connection.memo
        if (
            type(way) is not Way  # the connection may have called an LLM before
            or way.target != exchange.target
            or way.headers != exchange.steady_headers
            or way.keys is not door.gate.ring
            or way.serving is not self.serving
        ):
            address = self.address(exchange.target)
            if address is None:
                return None
            way = self._find(exchange, door, address)
            if way is None:
                return _nothing
        if not self.turns.may_begin() and _may_stand(exchange, door):
            self.turns.join(InLine(door, exchange, way, self._begin_late))
            return _nothing
        call = self.call(exchange, door, way, None)
        return _nothing if call is None else call.took

    def _begin_late(self, exchange: Exchange, door: Door, way: Way, came_s: float) -> None:
        """It stood in line; what it found at its head may hold no more."""
        found: Way | None = way
        if way.keys is not door.gate.ring or way.serving is not self.serving:
            address: Address = (way.kind, way.place.name, None)
            found = self._find(exchange, door, address, (way, came_s))
        if found is not None:
            call = self.call(exchange, door, found, came_s)
            if call is not None:
                call.took(exchange)

    def call(
        self, exchange: Exchange, door: Door, way: Way, came_s: float | None
    ) -> InferCall | None:
        """None where there is no room for it. Who stood in line has come in already: a front that
        drains meanwhile finishes it."""
        is_in = came_s is not None or door.is_open
        if is_in and way.place.in_hand < way.rules.max_in_flight:
            return InferCall(door, exchange, way, came_s)
        error = door.why_closed()
        if error is None:
            error = Overloaded(
                f"this front holds as many requests to {way.place.name} as it may",
                value=way.rules.max_in_flight,
                remedy=f"Send fewer at a time, or turn its knob {MAX_IN_FLIGHT.name} up.",
            )
            way.place.count(way.priority, error.http)
        request_id = door.refuse(exchange, Refusal(error))
        if came_s is not None:
            keep_turned_away(way, exchange, request_id, came_s, error)
        return None

    def _find(
        self,
        exchange: Exchange,
        door: Door,
        address: Address,
        stood: tuple[Way, float] | None = None,
    ) -> Way | None:
        """The way of a head that is new on its connection, or where the keys or the plan are. None
        where it is told that there is none. `stood`: the way with which it came into line, and
        when."""
        try:
            door.check_open()
            return self._way(exchange, door, address)
        except PacelineError as error:
            request_id = door.refuse(exchange, Refusal(error))
            if stood is not None and error.http >= 500:
                way, came_s = stood
                keep_turned_away(way, exchange, request_id, came_s, error)
            return None

    def _way(self, exchange: Exchange, door: Door, address: Address) -> Way:
        kind, model, version = address
        serving = self.serving
        said = self._said(exchange, door)
        place = self.place(model, version)
        rules = serving.rules[model]
        priority = said.priority or rules.priority
        if not rules.enabled:
            error = Unavailable(
                f"{model} is switched off",
                value=model,
                remedy=f"`paceline plan set {model}.enabled true` switches it on.",
            )
            place.count(priority, error.http)
            raise error
        way = Way(
            exchange.target,
            exchange.steady_headers,
            door.gate.ring,
            serving,
            kind,
            place,
            rules,
            said,
            priority,
            rules.deadline_s if said.timeout_s is None else said.timeout_s,
        )
        if said.stays:
            exchange.connection.memo = way
        return way

    def _said(self, exchange: Exchange, door: Door) -> Said:
        """The same headers say the same of another model, too, as long as the keys are the same."""
        way, keys = exchange.connection.memo, door.gate.ring
        if type(way) is Way and way.keys is keys and way.headers == exchange.steady_headers:
            return way.said
        headers = exchange.headers
        door.admit("POST", unquote(exchange.target.partition(b"?")[0].decode()), headers)
        said = dict(headers)
        return Said(
            priority_of(said.get(PRIORITY_HEADER)),
            timeout_s_of(said.get(TIMEOUT_HEADER), DEADLINE_S),
            coding_of(said.get(ENCODING_HEADER, b"")),
            accepted(said.get(ACCEPT_HEADER, b"")),
            stays=b"cookie" not in said,  # sessions end by themselves
        )

    def judge(
        self, model: str, ids: Sequence[str], labels: Sequence[Label]
    ) -> Sequence[tuple[int, Verdict]]:
        """Of those that this front remembers; each is counted, and told by its place."""
        place = self._places.get(model)
        if place is None or place.notes is None:
            return ()
        judged = []
        for index, (each, label) in enumerate(zip(ids, labels, strict=True)):
            verdict = place.notes.judge(each.encode(), label)
            if verdict is not None:
                count(self._board, model, verdict)
                judged.append((index, verdict))
        return judged

    def place(self, name: str, version: str | None) -> Place:
        place = self._places.get(name)
        if place is None:
            raise UnknownModel.among(name, list(self._places))
        if version is not None and version != place.spec.version:
            raise UnknownModel(
                f"{name} has no such version",
                value=version,
                remedy=f"Its version is {place.spec.version}; or name none.",
            )
        return place

    def look_into(self, model: str) -> ModelLook:
        """A look at the process of a model in Python; the owner refuses others."""
        found = self.place(model, None).model
        assert isinstance(found, ModelProcess), model
        return found.look_into()

    def follow_traces(self, sample: float, on_keep: Callable[[Timeline], None] | None) -> None:
        """Which timelines are kept, and who hears of them, from now on."""
        for place in self._places.values():
            place.kept.follow(sample, on_keep)

    def timelines(self) -> Iterator[Timeline]:
        """Those that are kept, in no order."""
        return (each for place in self._places.values() for each in place.kept.all())

    @property
    def specs(self) -> Sequence[ModelSpec]:
        return [place.spec for place in self._places.values()]

    def spec(self, name: str, version: str | None) -> ModelSpec:
        return self.place(name, version).spec


def _may_stand(exchange: Exchange, door: Door) -> bool:
    """Only what has come whole and is short: it costs little to let it wait. Whoever would not come
    in at all is told so as everybody else."""
    return exchange.complete and len(exchange.body) <= PARSE_IN_PLACE_BYTES and door.is_open


def _nothing(exchange: Exchange) -> None:
    """Hears the body of what was answered already."""


def _wish_of(name: str, wish: Callable[[Steer], None]) -> Callable[[Move], None]:
    """Of one model: its moves with the addresses of the Plan."""

    def wished(move: Move) -> None:
        wish(Steer(f"{name}.{move.knob}", move.value, move.reason, (move.expects,)))

    return wished
