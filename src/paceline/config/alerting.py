"""What the settings say of alerts, and what that comes to: rules, who is told, and by which ways.

Pure. Called by `source.py`; what a start needs beyond that, secrets that are there, is
`check_start`.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from paceline.config import AlertSettings, ChannelSettings, RuleSettings
from paceline.config.fields import did_you_mean
from paceline.config.llm import VARIABLE
from paceline.terms.errors import BadSetting, LimitReached
from paceline.terms.limits import ALERT_CHANNELS, PROVIDER_NAME_CHARS
from paceline.watch.alerts.channel import LOG, ChannelTo, check_url
from paceline.watch.alerts.latch import Bounds
from paceline.watch.alerts.life import Channel, Policy
from paceline.watch.alerts.rules import NEVER, RULES

NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{PROVIDER_NAME_CHARS - 1}}}")

REMEDY = f"Use up to {PROVIDER_NAME_CHARS} letters, digits, dashes or underscores, and not log."

Wrong = tuple[str, BadSetting]
"""A field, and what is wrong with it."""


class Alerting(msgspec.Struct, frozen=True):
    """`bounds` are those of the rules that are on; None where a rule has none."""

    bounds: Mapping[str, Bounds | None]
    policy: Policy
    channels: tuple[ChannelTo, ...]


def channels_named(tree: Mapping[str, Any] | None) -> list[str]:
    said = {} if tree is None else tree.get("channels", {})
    if not isinstance(said, dict):
        return []
    if len(said) > ALERT_CHANNELS:
        raise LimitReached(
            "the settings name more channels than one server may have",
            value=len(said),
            remedy=f"Name up to {ALERT_CHANNELS}.",
        )
    return [name for name, each in said.items() if isinstance(each, dict) and _is_name(name)]


def _is_name(name: str) -> bool:
    return NAME.fullmatch(name) is not None and name != LOG


def rule_defaults(name: str) -> RuleSettings:
    rule = RULES[name]
    if rule.bounds is None:
        return RuleSettings(enabled=rule.usual)
    bounds = rule.bounds
    return RuleSettings(
        enabled=rule.usual, warning=bounds.warning, critical=bounds.critical, for_s=bounds.for_s
    )


def bounds_of(
    name: str, said: RuleSettings, *, thresholds: bool, enabled_said: bool
) -> Iterator[Wrong | tuple[str, Bounds | None]]:
    """Nothing where the rule is off; `enabled_said`: and not only by default."""
    bounds = RULES[name].bounds
    on = said.enabled or (thresholds and not enabled_said)
    if bounds is not None:
        if said.warning == said.critical == NEVER:
            return
        if said.warning == NEVER:
            said = msgspec.structs.replace(said, warning=said.critical)
        sign = 1 if bounds.rising else -1
        if sign * said.critical < sign * said.warning:
            yield (
                "critical",
                BadSetting(
                    f"{name} would be critical before it is a warning",
                    value=said.critical,
                    remedy=f"Say {'more' if bounds.rising else 'less'} than {said.warning:g}.",
                ),
            )
            return
        bounds = Bounds(said.warning, said.critical, said.for_s, bounds.rising)
    if on:
        yield name, bounds


def policy_of(
    said: AlertSettings, channels: Mapping[str, ChannelSettings]
) -> Iterator[Wrong | Policy]:
    for each in said.escalate:
        if each not in channels:
            yield (
                "escalate",
                BadSetting(
                    "there is no such channel",
                    value=each,
                    remedy=did_you_mean(each, channels, "{}? ")
                    + f"Describe it in a section [channels.{each}].",
                ),
            )
            return
    told = tuple(Channel(name, each.least) for name, each in channels.items())
    yield Policy(
        (Channel(LOG), *told),
        said.escalate,
        said.every_s,
        said.again_s or None,
        said.escalate_s or None,
    )


def channel_of(name: str, said: ChannelSettings, folder: Path) -> Iterator[Wrong | ChannelTo]:
    wrong = [*_faults(name, said)]
    yield from wrong
    if not wrong:
        yield ChannelTo(
            name,
            said.kind,
            said.url,
            said.url_env,
            said.token_env,
            said.host,
            said.port,
            said.encryption,
            said.user,
            said.password_env,
            said.sender,
            said.to,
            str(folder.absolute() / said.ca_file) if said.ca_file else "",
            said.private,
            said.least,
        )


def _faults(name: str, said: ChannelSettings) -> Iterator[Wrong]:
    for field in ("url_env", "token_env", "password_env"):
        variable = getattr(said, field)
        if variable and VARIABLE.fullmatch(variable) is None:
            yield (
                field,
                BadSetting(
                    "the name of a variable is wanted, never the secret itself",
                    remedy=f'Put the secret into the environment: {field} = "MY_SECRET".',
                ),
            )
    if said.kind in ("webhook", "slack"):
        if said.url and said.url_env:
            yield (
                "url_env",
                BadSetting(
                    f"{name} has two addresses", value=said.url_env, remedy="Leave one of them out."
                ),
            )
        elif not said.url_env:
            try:
                check_url(name, said.url, private=said.private, shown=said.url)
            except BadSetting as error:
                yield "url", error
    if said.kind == "smtp":
        yield from _faults_of_mail(name, said)


def _faults_of_mail(name: str, said: ChannelSettings) -> Iterator[Wrong]:
    if not said.host or not said.host.isprintable() or " " in said.host:
        yield (
            "host",
            BadSetting(
                f"{name} has no server that takes its mails",
                value=said.host,
                remedy='Name it: host = "smtp.example.org".',
            ),
        )
    for field, addresses in (("sender", (said.sender,)), ("to", said.to or ("",))):
        for each in addresses:
            if not re.fullmatch(r"[\x21-\x7e]+@[\x21-\x7e]+", each):
                yield (
                    field,
                    BadSetting(
                        f"{name} has no address of a mail there",
                        value=each,
                        remedy='Write it like "ann@example.org".',
                    ),
                )
    if said.user and not said.password_env:
        yield (
            "user",
            BadSetting(
                f"{name} has a user and no password",
                value=said.user,
                remedy="Name the variable that it is in as password_env.",
            ),
        )
    if said.encryption == "none" and not said.private:
        yield (
            "encryption",
            BadSetting(
                f"{name} would be told in the clear",
                value=said.host,
                remedy="Encrypt it, or say private = true where it is in your own network.",
            ),
        )


def check_start(alerting: Alerting, environ: Mapping[str, str]) -> None:
    for channel in alerting.channels:
        for variable in channel.secrets:
            if not environ.get(variable):
                raise BadSetting(
                    f"the channel {channel.name} needs what is not in the environment",
                    value=variable,
                    remedy=f"Set {variable}, or name another variable.",
                )


def differences(before: Alerting, after: Alerting) -> tuple[str, ...]:
    """What a reload changes, in words."""
    return (
        *(["alerts"] if _but_channels(before.policy) != _but_channels(after.policy) else []),
        *(f"rules.{name}" for name in _differing(before.bounds, after.bounds)),
        *(f"channels.{name}" for name in _differing(_by_name(before), _by_name(after))),
    )


def _by_name(one: Alerting) -> Mapping[str, ChannelTo]:
    return {each.name: each for each in one.channels}


def _but_channels(policy: Policy) -> Policy:
    return msgspec.structs.replace(policy, channels=())


def _differing(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[str]:
    for name in dict.fromkeys((*before, *after)):
        if (name in before) != (name in after) or before.get(name) != after.get(name):
            yield name
