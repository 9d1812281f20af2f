"""The nouns of routing: a Route, by the name callers use as `model`, and the Tiers it goes through.

Values alone; how the targets fare is in `standing.py`. Made of the settings by whoever wires the
gateway, and found by `routing.py`.
"""

from collections.abc import Iterator
from typing import Literal
from urllib.parse import unquote_to_bytes

import msgspec

from paceline.gateway.upstream import Target
from paceline.terms.errors import BadSetting
from paceline.terms.limits import (
    HEDGE_SHARE,
    LLM_BEGINS_S,
    LLM_DEADLINE_S,
    LLM_RETRIES,
    ROUTE_TARGETS,
    ROUTE_TIERS,
)

RETRIES_PER_TARGET = 1
RETRIES = 2

STAR = "*"


class Tier(msgspec.Struct, frozen=True):
    """Targets of which one is as good as the other.

    `weights` are how often each comes first, or how much each can take beside the others where the
    least latency decides; without any they are equal. Weight 0 stands by for when no other can.
    """

    targets: tuple[Target, ...]
    weights: tuple[float, ...] = ()
    choose: Literal["by_weight", "least_latency"] = "by_weight"


class Hedge(msgspec.Struct, frozen=True):
    """A second attempt, at another target, when the first has brought no content for `after_s`;
    None: for as long as 95 of 100 calls to that target take, once that is known. Of all the calls
    of a route a `share` is hedged at most, and a few besides (HEDGE_LEAST_PER_S)."""

    after_s: float | None = None
    share: float = HEDGE_SHARE


class Route(msgspec.Struct, frozen=True):
    """A `name` that ends in `*` takes every model that begins so. Later tiers are fallbacks.

    `patience_s`: after so long without content a call goes elsewhere, if it can. `begins_s`: after
    so long a stream that its provider has begun begins for its caller too, without content, and is
    bound to that provider. `timeout_s` bounds the deadline of a call. `raw_paths` are what follows
    /v1 (`/files`), with all that lies below.
    """

    name: str
    tiers: tuple[Tier, ...]
    retries_per_target: int = RETRIES_PER_TARGET
    retries: int = RETRIES
    hedge: Hedge | None = None
    patience_s: float | None = None
    timeout_s: float = LLM_DEADLINE_S
    raw_paths: tuple[str, ...] = ()
    begins_s: float = LLM_BEGINS_S

    def model_for(self, asked: str, target: Target) -> str:
        """What the target is asked for. A `*` in its model is what the `*` of the name took: with
        the route `openai/*` and the target `openai/*` it is `gpt-4o` for `openai/gpt-4o`."""
        if not target.model or (STAR in target.model and not asked.startswith(self.name[:-1])):
            return asked  # the second: a call that is relayed as it is may be about any model
        if STAR in target.model and self.name.endswith(STAR):
            return target.model.replace(STAR, asked[len(self.name) - 1 :])
        return target.model

    def allows(self, path: str) -> bool:
        """Whether the raw `path`, its query included, lies at or below one that is allowed."""
        plain = path.partition("?")[0]
        return _is_plain(plain) and any(
            plain == allowed or plain.startswith(allowed.rstrip("/") + "/")
            for allowed in self.raw_paths
        )

    def faults(self) -> Iterator[BadSetting]:
        """What keeps it from being served, in words."""
        if not self.name or STAR in self.name[:-1]:
            yield BadSetting(
                "a route cannot be called this",
                value=self.name,
                remedy="Name a model, or the beginning of names with a `*` at the end.",
            )
        if not 1 <= len(self.tiers) <= ROUTE_TIERS:
            yield BadSetting(
                f"the route {self.name} has no tiers, or more than may be",
                value=len(self.tiers),
                remedy=f"Give it one tier of targets, and up to {ROUTE_TIERS - 1} of fallbacks.",
            )
        for tier in self.tiers:
            if not 1 <= len(tier.targets) <= ROUTE_TARGETS:
                yield BadSetting(
                    f"a tier of the route {self.name} has no targets, or more than may be",
                    value=len(tier.targets),
                    remedy=f"Give it 1 to {ROUTE_TARGETS}.",
                )
            if tier.weights and (
                len(tier.weights) != len(tier.targets)
                or not all(0 <= w < 1e9 for w in tier.weights)
            ):
                yield BadSetting(
                    f"the weights of the route {self.name} do not fit its targets",
                    value=", ".join(map(str, tier.weights)),
                    remedy="Give one number from 0 up for each target, or none at all.",
                )
        if self.retries_per_target < 0 or not 0 <= self.retries <= LLM_RETRIES:
            yield BadSetting(
                f"the route {self.name} retries more often than may be, or less than never",
                value=f"{self.retries_per_target} per target, {self.retries} in all",
                remedy=f"Give it 0 to {LLM_RETRIES} retries.",
            )
        after_s = None if self.hedge is None else self.hedge.after_s
        times_s = [each for each in (self.timeout_s, self.patience_s, after_s) if each is not None]
        if not (all(0 < each <= LLM_DEADLINE_S for each in times_s) and self.begins_s >= 0):
            yield BadSetting(
                f"a time of the route {self.name} is not one that a call can take",
                value=", ".join(f"{each} s" for each in times_s),
                remedy=f"Give it more than 0 and up to {LLM_DEADLINE_S:g} seconds.",
            )
        if self.hedge is not None and not 0 <= self.hedge.share <= 1:
            yield BadSetting(
                f"the route {self.name} hedges a share of its calls that is none",
                value=self.hedge.share,
                remedy="Give it a number from 0 to 1; 0.05 is one call in twenty.",
            )


def _is_plain(path: str) -> bool:
    """Nothing in it can lead out of where it seems to lie, however the far side reads it."""
    plain = unquote_to_bytes(path)
    return (
        path.startswith("/")
        and b"\\" not in plain
        and b"%" not in plain
        and plain.isascii()
        and not any(part in (b"", b".", b"..") for part in plain.split(b"/")[1:])
        and plain.count(b"/") == path.count("/")
    )
