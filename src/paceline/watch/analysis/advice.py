"""What to do about a bottleneck, what it would bring, and how to have it done.

The effect on waiting is foretold by how queues grow with the share of time that executors are busy:
with r of it the wait is as r / (1 - r) times a batch (Kingman). How much faster an executor gets
lies between two bounds that are known: not at all, and as if what is added cost nothing. Called by
`findings.py`. What it foretells goes with the command as `--expect`, and is scored afterwards.
"""

import msgspec

from paceline.serve.knobs import (
    BATCH_EXECUTORS,
    BATCHING,
    DEADLINE,
    ENABLED,
    MAX_BATCH,
    MAX_IN_FLIGHT,
    Rules,
)
from paceline.terms.limits import EXECUTORS, IN_FLIGHT, ROWS
from paceline.watch.analysis.bottleneck import Bottleneck
from paceline.watch.analysis.finding import Advice, Impact
from paceline.watch.analysis.parts import Parts

FULLEST = 0.98
"""the share of time that executors are busy, above which the formula says nothing"""

SPARE_CORES = 0.5
"""of one, unused, let another executor run"""

BUSY_FRONT = 0.5
"""of a core, and more, is what a front must use until another one would make anything faster"""

IN_PLACE_S = 0.001
"""Batches below this run in the front's own thread, however many executors there are."""

SPOKEN_FOR = 0.8
"""of a core is free for another executor where a whole one is"""


class Gain(msgspec.Struct, frozen=True):
    """By what factor executors together get faster."""

    low: float
    likely: float
    high: float


def advice(found: Parts, named: Bottleneck, model: str, rules: Rules | None) -> tuple[Advice, ...]:
    """The best first. `rules` are the settings in force, if they are known."""
    if named.part == "queue":
        return _for_queue(found, model, rules)
    if named.part == "limits":
        return (_more_in_flight(found, model, rules),)
    if named.part == "saturation":
        return _for_saturation(found)
    if named.part == "parsing":
        return (
            Advice(
                "Send tensors as binary data (KServe V2, `binary_data_size`): they are not parsed.",
                0.9,
                impact=_without(found, found.parse_s, 0.7),
            ),
        )
    if named.part == "network":
        return (
            Advice(
                "Send smaller bodies: binary tensors, or `content-encoding: gzip`; or move callers "
                "nearer. The server waits for them, and nothing here makes that faster.",
                0.8,
                impact=_without(found, found.body_s, 0.3),
            ),
        )
    if named.part == "front":
        return (_for_front(found),)
    return (
        Advice(
            "Make the model faster: quantize or distill it, or run it on better hardware. "
            "Batches and executors do not help where nothing waits.",
            0.9,
        ),
    )


def _for_queue(found: Parts, model: str, rules: Rules | None) -> tuple[Advice, ...]:
    given: list[Advice] = []
    pays = found.left_paying_rows > found.rows * 0.1 and found.batches > 0
    if pays:
        given.append(_take_what_waits(found, model, rules))
    elif found.full_batches > found.batches / 2 and _may_be_larger(found, rules):
        # Whether more rows pay was never seen: they cost nothing more, or as much as these do.
        to = _even(4 * max(1.0, found.batch_rows))
        most = to / max(1.0, found.batch_rows)
        gain = Gain(1.0, 1.0 + (most - 1.0) * 0.4, most)
        text = "Let batches be larger, which they would fill: to"
        given.append(_knob(found, model, MAX_BATCH.name, to, gain, 0.6, text))
    if found.waited_batches > found.batches / 2:
        impact = _without(found, found.queue_s, 0.3)
        text = "Begin batches at once: they are held back for company that costs more."
        command = _command(model, BATCHING.name, "at_once", impact)
        given.append(Advice(text, 0.8, command, impact))
    free = _free_cores(found)
    if free >= SPARE_CORES and found.busy_s < IN_PLACE_S * found.batches:
        text = (
            "Run one front more (`paceline up --fronts N`): in each, batches this short run one by"
        )
        given.append(Advice(f"{text} one.", 0.6))
    elif free >= SPARE_CORES:
        now = rules.executors if rules is not None else max(1, round(found.executors_busy))
        if now < EXECUTORS:
            low = 1.0 + min(1.0, free * SPOKEN_FOR) / now * 0.3
            gain = Gain(low, (low + 1.0 + 1.0 / now) / 2, 1.0 + 1.0 / now)
            name = BATCH_EXECUTORS.name
            given.append(_knob(found, model, name, now + 1, gain, 0.7, "Run more batches at once:"))
    if not given:
        text = "More is asked than this machine can run: add cores or machines, or ask for less."
        given.append(Advice(text, 0.7))
    return tuple(given)


def _take_what_waits(found: Parts, model: str, rules: Rules | None) -> Advice:
    """Rows that are left behind would have been within the size that is set: how batches are made
    keeps them out, or requests that have no time for a larger one."""
    # The core has measured that these rows cost little: at the least a tenth of it is believed.
    most = 1.0 + found.left_paying_rows / found.batches / max(1.0, found.batch_rows)
    gain = Gain(1.0 + (most - 1.0) * 0.1, 1.0 + (most - 1.0) * 0.5, most)
    impact = faster(found, gain)
    if rules is not None and rules.batching != BATCHING.default:
        text = f"Let batches take what waits, which {rules.batching} leaves: {BATCHING.default}"
        command = _command(model, BATCHING.name, BATCHING.default, impact)
        return Advice(f"{text} ({BATCHING.name}).", 0.8, command, impact)
    return Advice(
        f"Give requests more time (their own timeouts, or {DEADLINE.name}): batches are cut for "
        "those that are nearly late.",
        0.6,
        impact=impact,
    )


def _may_be_larger(found: Parts, rules: Rules | None) -> bool:
    """By its setting. What is full far below it is so for another reason: requests that run alone,
    say of a model whose inputs have one length."""
    return rules is None or (rules.max_batch < ROWS and found.batch_rows > rules.max_batch / 2)


def _for_front(found: Parts) -> Advice:
    """Another front makes faster only who waits for this one; what a lone request costs stays."""
    if found.front_cores < BUSY_FRONT:
        return Advice(
            "Send more in fewer requests: several rows in each, on connections that are kept. "
            "Each request costs a front the same, and another front would not change that.",
            0.6,
        )
    return Advice(
        "Run one front more (`paceline up --fronts N`), where a core is free for it.",
        0.6 if _free_cores(found) >= SPARE_CORES else 0.2,
        impact=_without(found, found.front_s, 0.3),
    )


def _for_saturation(found: Parts) -> tuple[Advice, ...]:
    impact = _without(found, found.total_s * found.starved, 0.5)
    if found.others_share > found.cpu_share / 2:
        text = (
            "Other processes use the cores: move them away, or give this server cores of its own."
        )
        return (Advice(text, 0.9, impact=impact),)
    text = "All cores are busy with serving: give it more of them, or another machine."
    return (Advice(text, 0.8, impact=impact),)


def _more_in_flight(found: Parts, model: str, rules: Rules | None) -> Advice:
    if rules is not None and not rules.enabled:
        command = f"paceline plan set {model}.{ENABLED.name} true"
        return Advice("Switch the model on: while it is off nobody is answered.", 0.9, command)
    text = "Let more requests in at once; they are turned away while there is room."
    if rules is None:
        return Advice(
            f"{text} `paceline plan show {model}.{MAX_IN_FLIGHT.name}` says how many.", 0.6
        )
    needed = rules.max_in_flight * found.asked / max(1.0, found.asked - found.refused)
    to = min(IN_FLIGHT, _even(max(2 * rules.max_in_flight, needed)))
    if to <= rules.max_in_flight:
        return Advice("A front cannot hold more requests at once: run one front more.", 0.5)
    refused = found.refused / found.asked
    impact = Impact("error_ratio", "", refused, 0.0, refused * 0.1, refused * 0.7)
    return Advice(text, 0.7, _command(model, MAX_IN_FLIGHT.name, to, impact), impact)


def _knob(
    found: Parts, model: str, knob: str, to: int, gain: Gain, sure: float, text: str
) -> Advice:
    impact = faster(found, gain)
    return Advice(f"{text} {to} ({knob}).", sure, _command(model, knob, to, impact), impact)


def faster(found: Parts, gain: Gain) -> Impact:
    """The mean, where executors together are so much faster."""
    rest_s = found.mean_s - found.queue_s / max(1.0, found.answered)
    times = [rest_s + waits_s(found, each) for each in (gain.high, gain.likely, gain.low)]
    low, likely, high = (1e3 * each for each in times)
    return Impact("mean_ms", "ms", found.mean_s * 1e3, low, likely, high)


def waits_s(found: Parts, gain: float) -> float:
    """Of a request in the queue, where executors together get faster by this factor."""
    wait_s = found.queue_s / max(1.0, found.answered)
    executors = max(1.0, float(round(found.executors_busy + 0.49)))
    busy = min(FULLEST, found.executors_busy / executors)
    if busy <= 0.0:
        return wait_s
    after = busy / gain
    return wait_s * (after / (1 - after)) / (busy / (1 - busy)) / gain


def _without(found: Parts, seconds: float, least: float) -> Impact:
    """The mean, where of this part nearly all goes away, and at least `least` of it."""
    mean_ms = found.mean_s * 1e3
    part_ms = 1e3 * seconds / max(1.0, found.answered)
    low, likely, high = (mean_ms - part_ms * share for share in (0.95, (0.95 + least) / 2, least))
    return Impact("mean_ms", "ms", mean_ms, low, likely, high)


def _free_cores(found: Parts) -> float:
    return found.cores * (1.0 - found.cpu_share)


def _even(value: float) -> int:
    """The next power of two, within what a batch may have."""
    power = 1
    while power < value and power < ROWS:
        power *= 2
    return power


def _command(model: str, knob: str, to: object, impact: Impact) -> str:
    bound = f"{impact.high:.3g}"
    return f'paceline plan set {model}.{knob} {to} --expect "{impact.metric} <= {bound}"'
