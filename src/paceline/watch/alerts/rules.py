"""The one table of rules: what is watched, from which value on, for how long, and what to do then.

Thresholds, settings, the guide's table and the rules for Prometheus all come from here. A rule
whose source does not exist yet (the hit rate of a cache) is not in the table until it does.
`usual` ones are on by default; the others are a preset, on with `alerts.thresholds`.
"""

import math
from collections.abc import Mapping

import msgspec

from paceline.terms.limits import (
    ALERT_DISK_ENOUGH_BYTES,
    ALERT_QUEUE_LEAST,
    ALERT_REQUESTS_LEAST,
)
from paceline.watch.alerts import readings
from paceline.watch.alerts.latch import Bounds
from paceline.watch.alerts.readings import Read

BURN = "slo_burn"

NEVER = math.inf
"""The bound of a rule that is off until somebody sets one."""


class Rule(msgspec.Struct, frozen=True):
    """`bounds` are in `unit`; `promql` is the value as Prometheus has it, in the same unit, and
    None where Prometheus cannot tell."""

    name: str
    what: str
    unit: str
    usual: bool
    remedy: str
    bounds: Bounds | None = None
    read: Read | None = None
    promql: str | None = None
    every_s: float = 1.0
    """how often it is looked at"""


REQUEST_RATE = "sum by (model) (rate(paceline_requests_total[1m]))"
LATE = "(sum(rate(paceline_not_run_total[1m])) > 0 or sum(paceline_at_risk_requests) > 0)"

RULES: Mapping[str, Rule] = {
    each.name: each
    for each in (
        Rule(
            BURN,
            "An objective of a goal uses up its budget of errors too fast.",
            "times the budget",
            usual=True,
            remedy="The log tells what fails or is slow, and since when; `paceline plan history` "
            "what was changed then.",
        ),
        Rule(
            "saturation",
            "More arrives for a model than it can answer: its queue grows, or requests are "
            "turned away.",
            "share of requests",
            usual=True,
            bounds=Bounds(0.02, 0.1, for_s=30.0),
            remedy="Give it more cores or another server, or ask for less; "
            "`paceline plan show MODEL` lists what can be turned.",
            read=readings.saturation,
            promql="((sum by (model) (increase(paceline_not_run_total[1m])) + "
            "clamp_min(sum by (model) (delta(paceline_queued_requests[1m])), 0)) / "
            "sum by (model) (increase(paceline_requests_total[1m]))) and "
            "sum by (model) (increase(paceline_not_run_total[1m]) "
            f"or paceline_queued_requests) >= {ALERT_QUEUE_LEAST}",
        ),
        Rule(
            "dead_process",
            "A process that answers requests is gone and does not come back.",
            "processes",
            usual=True,
            bounds=Bounds(1.0, 1.0, for_s=15.0),
            remedy="The log says why it ends; it is started again and again meanwhile.",
            read=readings.fronts,
            promql="paceline_wanted_fronts - paceline_ready_fronts",
        ),
        Rule(
            "restarts",
            "Processes that answer requests die and are started again.",
            "times in 5 min",
            usual=True,
            bounds=Bounds(1.0, 3.0, for_s=0.0),
            remedy="The log says how they ended. A model that crashes can have a process of its "
            "own: see the guide to models.",
            read=readings.restarts,
            promql="increase(paceline_front_restarts_total[5m])",
        ),
        Rule(
            "disk",
            "The disk of the state directory is nearly full.",
            "share free",
            usual=True,
            bounds=Bounds(0.1, 0.03, for_s=30.0, rising=False),
            remedy="Free some space, or move the state directory with --state. Answers go on "
            "without it; changes, and budgets, do not.",
            read=readings.disk,
            promql="paceline_disk_free_bytes / paceline_disk_bytes "
            f"+ (paceline_disk_free_bytes >= bool {ALERT_DISK_ENOUGH_BYTES})",
        ),
        Rule(
            "latency",
            "Answers take longer than the goal says.",
            "times the goal",
            usual=False,
            bounds=Bounds(1.0, 5.0, for_s=30.0),
            remedy="`paceline plan history` tells what was changed; `paceline plan show MODEL` "
            "lists what can be turned.",
            read=readings.latency,
            every_s=5.0,  # it merges sketches
        ),
        Rule(
            "errors",
            "Requests fail by the server's fault, or LLM calls by that of their providers.",
            "share of requests",
            usual=False,
            bounds=Bounds(0.05, 0.15, for_s=30.0),
            remedy="The log has each error with its request id.",
            read=readings.errors,
            promql='(sum by (model) (rate(paceline_requests_total{status=~"5.."}[1m])) / '
            f"{REQUEST_RATE}) and {REQUEST_RATE} >= {ALERT_REQUESTS_LEAST} / 60",
        ),
        Rule(
            "queue",
            "Many requests wait, and longer than they should.",
            "requests",
            usual=False,
            bounds=Bounds(100.0, 500.0, for_s=30.0),
            remedy="Give it more cores or another server; `paceline plan show MODEL` lists what "
            "can be turned.",
            read=readings.queue,
            promql="sum by (model) (paceline_queued_requests) and "
            f"max by (model) (paceline_queue_age_seconds) > {readings.USUAL_WAIT_S:g}",
        ),
        Rule(
            "memory",
            "The container uses nearly all the memory it may.",
            "share of the limit",
            usual=False,
            bounds=Bounds(400 / 512, 480 / 512, for_s=30.0),
            remedy="Give it more memory, or fewer models or fronts; at the limit the kernel kills "
            "a process.",
            read=readings.memory,
            promql="paceline_container_memory_bytes / paceline_container_memory_limit_bytes",
        ),
        Rule(
            "cpu",
            "The processor is busy, and requests are late.",
            "share of the cores",
            usual=False,
            bounds=Bounds(0.8, 0.95, for_s=120.0),
            remedy="Give it more cores, or another server.",
            read=readings.cpu,
            promql="(rate(paceline_container_cpu_seconds_total[1m]) / "
            f"paceline_container_cpu_cores) and on() {LATE}",
        ),
        Rule(
            "gpu",
            "A GPU is busy, and requests are late.",
            "share of the time",
            usual=False,
            bounds=Bounds(0.8, 0.95, for_s=120.0),
            remedy="Give it another GPU, or another server.",
            read=readings.gpu,
            promql=f"avg_over_time(paceline_gpu_busy_ratio[1m]) and on() {LATE}",
        ),
        Rule(
            "gpu_memory",
            "The memory of a GPU is nearly all in use.",
            "share of it",
            usual=False,
            bounds=Bounds(0.9, 0.97, for_s=30.0),
            remedy="Let fewer models or fronts use it; `nvidia-smi` tells who else does. Where a "
            "runtime takes all of it at its start, this rule says nothing: switch it off.",
            read=readings.gpu_memory,
            promql="paceline_gpu_memory_bytes / paceline_gpu_memory_limit_bytes",
        ),
        Rule(
            "gpu_temperature",
            "A GPU is so hot that it slows down, or nearly.",
            "share of the temperature at which it slows down",
            usual=False,
            bounds=Bounds(0.95, 1.0, for_s=30.0),
            remedy="See to its cooling; `nvidia-smi -q -d TEMPERATURE` tells more.",
            read=readings.gpu_temperature,
            promql="paceline_gpu_temperature_celsius / paceline_gpu_temperature_limit_celsius",
        ),
        Rule(
            "cost",
            "The last hour cost more than the settings allow.",
            "USD an hour",
            usual=True,
            bounds=Bounds(NEVER, NEVER, for_s=0.0),
            remedy="`paceline report MODEL` tells by route and provider where it went; a key's "
            "limits, or a cheaper model for a route, make it less.",
            read=readings.cost,
            every_s=10.0,  # it changes slowly
        ),
        Rule(
            "throughput",
            "Fewer requests are answered than the goal says, while more wait.",
            "share of the goal",
            usual=False,
            bounds=Bounds(1.0, 0.5, for_s=60.0, rising=False),
            remedy="Give it more cores or another server; `paceline plan show MODEL` lists what "
            "can be turned.",
            read=readings.throughput,
        ),
        Rule(
            "accuracy",
            "A model is right less often than in the day before, by the labels that came back.",
            "share less",
            usual=False,
            bounds=Bounds(0.05, 0.15, for_s=0.0),
            remedy="`paceline report MODEL` tells what has drifted; look at what was answered "
            "wrong, and at what was deployed since.",
            read=readings.accuracy,
            every_s=60.0,
        ),
    )
}
