"""Which providers and routes of LLM calls the settings name, and what each of them comes to. Pure.

Without any in the file there are the simulated provider and those whose key is in the environment.
Called by `source.py`; what a start needs beyond that (keys that are there, consent to what costs
money) is `check_start`, asked by whoever starts a server.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from paceline.config import PriceSettings, ProviderSettings, RouteSettings
from paceline.config.fields import did_you_mean
from paceline.gateway.prices import Price, Priced, per_token
from paceline.gateway.routes import Hedge, Route, Tier
from paceline.gateway.upstream import KNOWN, SIMULATED, Target, Upstream, costs, is_private
from paceline.terms.errors import BadSetting, LimitReached
from paceline.terms.limits import (
    LLM_MODEL_CHARS,
    PRICES,
    PROVIDER_MODELS,
    PROVIDER_NAME_CHARS,
    PROVIDER_URL_CHARS,
    PROVIDERS,
    ROUTE_TARGETS,
    ROUTE_TIERS,
    ROUTES,
)

PROVIDER = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{PROVIDER_NAME_CHARS - 1}}}")
MODEL = re.compile(rf"[\x21-\x29\x2b-\x7e]{{0,{LLM_MODEL_CHARS}}}\*?")
RAW = re.compile(r"/[a-z0-9_-]+(?:/[a-z0-9_-]+)*")
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,127}")
"""In capitals, as they mostly are: a key that is pasted in its place is hardly ever."""

SCHEMES = ("https", "http")


def providers_named(
    tree: Mapping[str, Any] | None, environ: Mapping[str, str]
) -> tuple[list[str], bool]:
    """By name, and whether a file names them."""
    said = {} if tree is None else tree.get("providers", {})
    if isinstance(said, dict) and said:
        _bounded("providers", said, PROVIDERS)
        return [name for name, each in said.items() if _is(PROVIDER, name, each)], True
    found = [name for name, each in KNOWN.items() if not each.key_env or environ.get(each.key_env)]
    return found, False


def routes_named(tree: Mapping[str, Any] | None) -> list[str]:
    said = {} if tree is None else tree.get("routes", {})
    if not isinstance(said, dict):
        return []
    _bounded("routes", said, ROUTES)
    return [name for name, each in said.items() if _is(MODEL, name, each)]


def prices_named(tree: Mapping[str, Any] | None) -> list[str]:
    said = {} if tree is None else tree.get("prices", {})
    if not isinstance(said, dict):
        return []
    _bounded("prices", said, PRICES)
    return [name for name, each in said.items() if _is(MODEL, name, each)]


def _is(pattern: re.Pattern[str], name: str, section: object) -> bool:
    return isinstance(section, dict) and pattern.fullmatch(name) is not None


def _bounded(what: str, said: Mapping[str, Any], most: int) -> None:
    if len(said) > most:
        raise LimitReached(
            f"the settings name more {what} than one server may have",
            value=len(said),
            remedy=f"Name up to {most}, and start another server for the others.",
        )


def remedy(above: str) -> str:
    """For a section whose name cannot be one."""
    if above == "providers":
        return f"Use up to {PROVIDER_NAME_CHARS} letters, digits, dashes or underscores."
    return (
        f"Use up to {LLM_MODEL_CHARS} letters, digits and signs, as a model is called; a `*` "
        "stands at the end, for all that begin so."
    )


def defaults(name: str) -> ProviderSettings:
    """What holds for a provider of this name where nothing else is said."""
    known = KNOWN.get(name)
    if known is not None:
        return ProviderSettings(
            kind=known.kind,
            url=known.url,
            key_env=known.key_env,
            models=known.models,
            tokens_field=known.tokens_field,
        )
    return ProviderSettings()


def upstream_of(
    name: str, said: ProviderSettings, folder: Path, *, may_cost: bool
) -> Iterator[tuple[str, BadSetting] | Upstream]:
    """The provider; or what is wrong with it, each with its field."""
    wrong = [*_faults_of_provider(name, said)]
    yield from wrong
    if wrong:
        return
    upstream = Upstream(
        name,
        said.kind,
        said.url.rstrip("/"),
        said.key_env,
        str(folder.absolute() / said.ca_file) if said.ca_file else "",
        said.private or is_private(said.url),
        said.models,
        tokens_field=said.tokens_field,
    )
    if costs(upstream) and not may_cost:
        upstream = Upstream(**{**_fields(upstream), "withheld": True})
    yield upstream


def _fields(upstream: Upstream) -> dict[str, Any]:
    return {name: getattr(upstream, name) for name in upstream.__struct_fields__}


def _faults_of_provider(name: str, said: ProviderSettings) -> Iterator[tuple[str, BadSetting]]:
    if said.kind == SIMULATED:
        if said.url or said.key_env:
            yield (
                "kind",
                BadSetting(
                    f"{name} is simulated, and has an address or a key",
                    value=said.url or said.key_env,
                    remedy="Leave them out, or name the dialect of the real one as its kind.",
                ),
            )
        return
    try:
        split = urlsplit(said.url)
        host, port = split.hostname, split.port
    except ValueError:
        host, port = None, None
    usable = (
        host
        and port != 0
        and split.scheme in SCHEMES
        and len(said.url) <= PROVIDER_URL_CHARS
        and said.url.isascii()
        and said.url.isprintable()
        and " " not in said.url
        and not (split.query or split.fragment or split.username or split.password)
    )
    if not usable:
        known = did_you_mean(name, KNOWN, "{}? ")
        yield (
            "url",
            BadSetting(
                f"{name} has no address that can be called",
                value="" if "@" in said.url else said.url,
                remedy=f'{known}Write it as its SDK has it, url = "https://host/v1", '
                "without user, query and fragment.",
            ),
        )
    elif split.scheme == "http" and not (said.private or is_private(said.url)):
        yield (
            "url",
            BadSetting(
                f"{name} would be sent key and prompts in the clear",
                value=said.url,
                remedy="Use https, or say private = true where it is in your own network.",
            ),
        )
    if said.key_env and VARIABLE.fullmatch(said.key_env) is None:
        yield (
            "key_env",
            BadSetting(
                "the name of a variable is wanted, never the key itself",
                remedy='Put the key into the environment, and its name here: key_env = "MY_KEY".',
            ),
        )
    if len(said.models) > PROVIDER_MODELS or not all(map(MODEL.fullmatch, said.models)):
        yield (
            "models",
            BadSetting(
                f"the models of {name} cannot be what they are called",
                value=", ".join(said.models),
                remedy=f"Name up to {PROVIDER_MODELS}; a `*` stands at the end, if anywhere.",
            ),
        )


def route_of(
    name: str, said: RouteSettings, providers: Iterable[str]
) -> Iterator[tuple[str, BadSetting] | Route]:
    """The route; or what is wrong with it, each with its field."""
    known = [*providers]
    wrong = [*_faults_of_route(name, said, known)]
    yield from wrong
    if not wrong:
        tiers = [
            Tier(
                tuple(map(target_of, said.targets)),
                tuple(map(float, said.weights)),
                "least_latency" if said.least_latency else "by_weight",
            ),
            *(Tier((target_of(each),)) for each in said.fallbacks),
        ]
        yield Route(
            name,
            tuple(tiers),
            retries=said.retries,
            hedge=Hedge(said.hedge_ms / 1e3 or None) if said.hedge else None,
            patience_s=said.patience_ms / 1e3 or None,
            timeout_s=said.timeout_s,
            raw_paths=said.raw,
            begins_s=said.begin_ms / 1e3,
        )


def routes_of_models(upstreams: Sequence[Upstream], named: Sequence[Route]) -> Iterator[Route]:
    """Those that need not be written: each model that is a provider's own, and PROVIDER/MODEL for
    any. Where two have a model of the same name, it is the first one's."""
    taken = {each.name for each in named}
    least = sum(1 + len(each.models) for each in upstreams)
    if len(taken) + least > ROUTES:
        raise LimitReached(
            "there are more routes and models of providers than one server may have",
            value=len(taken) + least,
            remedy=f"Name up to {ROUTES}; a `*` at the end of a model stands for many.",
        )
    for upstream in upstreams:
        for model in upstream.models:
            if model not in taken:
                taken.add(model)
                yield Route(model, (Tier((Target(upstream.name, model),)),))
        beginning = f"{upstream.name}/*"
        if beginning not in taken:
            taken.add(beginning)
            yield Route(beginning, (Tier((Target(upstream.name, "*"),)),))


def _faults_of_route(
    name: str, said: RouteSettings, known: Sequence[str]
) -> Iterator[tuple[str, BadSetting]]:
    if not said.targets:
        yield (
            "targets",
            BadSetting(
                f"the route {name} leads nowhere",
                remedy='Name a target, PROVIDER/MODEL: targets = ["openai/gpt-4o"].',
            ),
        )
    for field, targets, most in (
        ("targets", said.targets, ROUTE_TARGETS),
        ("fallbacks", said.fallbacks, ROUTE_TIERS - 1),
    ):
        if len(targets) > most:
            yield (
                field,
                BadSetting(
                    f"the route {name} has more {field} than may be",
                    value=len(targets),
                    remedy=f"Name up to {most}.",
                ),
            )
        for target in targets:
            provider = target_of(target).provider
            if provider not in known or MODEL.fullmatch(target) is None:
                near = did_you_mean(provider, known, "{}? ")
                yield (
                    field,
                    BadSetting(
                        f"the route {name} leads to a provider that is not there",
                        value=target,
                        remedy=f"{near}Write PROVIDER/MODEL; there is {', '.join(known)}.",
                    ),
                )
    if said.weights and len(said.weights) != len(said.targets):
        yield (
            "weights",
            BadSetting(
                f"the route {name} has other weights than targets",
                value=", ".join(map(str, said.weights)),
                remedy="Give one for each target; 0 stands by for when no other can.",
            ),
        )
    for path in said.raw:
        if RAW.fullmatch(path) is None:
            yield (
                "raw",
                BadSetting(
                    "this is no address below /v1",
                    value=path,
                    remedy='Write what follows /v1, such as raw = ["/files", "/batches"].',
                ),
            )


def target_of(text: str) -> Target:
    provider, _, model = text.partition("/")
    return Target(provider, model)


def price_of(
    name: str, said: PriceSettings, given: Collection[str], providers: Iterable[str]
) -> Iterator[tuple[str, BadSetting] | Priced]:
    """The price, or what is wrong with it; `given` are the fields that somebody wrote."""
    known = [*providers]
    provider, slash, model = name.partition("/")
    if provider not in known or not model:
        near = did_you_mean(provider, known, "{}? ")
        yield (
            "input",
            BadSetting(
                "a price is of a provider and a model, and there is no such provider"
                if slash
                else "a price is of a provider and a model",
                value=name,
                remedy=f"{near}Write PROVIDER/MODEL, or PROVIDER/* for all of them; "
                f"there is {', '.join(known)}.",
            ),
        )
        return
    for field in ("input", "output"):
        if field not in given:
            yield (
                field,
                BadSetting(
                    f"the price of {name} has no {field}",
                    value=name,
                    remedy=f"Say {field} = what a million tokens cost in USD; 0 is nothing.",
                ),
            )
            return

    def price(field: str, left_out: int | None) -> int | None:
        return per_token(getattr(said, field)) if field in given else left_out

    entry = per_token(said.input)
    unknown = None if entry else 0  # what costs nothing to read is not paid to be kept
    yield Priced(
        name,
        Price(
            entry,
            per_token(said.output),
            per_token(said.cached_input) if "cached_input" in given else entry,
            price("cache_write", unknown),
            price("cache_write_1h", unknown),
        ),
    )


def check_start(
    providers: Iterable[Upstream], environ: Mapping[str, str], *, of_file: bool
) -> None:
    """What a server needs of its providers to start. One that only its key in the environment names
    is left off instead, and told."""
    for each in providers:
        if each.withheld and of_file:
            raise BadSetting(
                f"{each.name} may cost money, and there are no budgets yet that could limit it",
                value=each.url,
                remedy="Start with --no-budget to call it all the same, or say private = true "
                "where it is your own.",
            )
        if each.key_env and not each.withheld and not environ.get(each.key_env):
            raise BadSetting(
                f"the key of {each.name} is not in the environment",
                value=each.key_env,
                remedy=f"Set {each.key_env}, or name another variable as key_env.",
            )


def needs_restart(
    started_with: Sequence[Upstream | Route | Priced],
    new: Sequence[Upstream | Route | Priced],
    above: str,
) -> tuple[str, ...]:
    """What differs and cannot change in a running server, in words."""
    before, after = ({each.name: each for each in given} for given in (started_with, new))
    return tuple(
        f"{above}.{name}"
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    )
