"""What the settings say of where spans and metrics go, and whether that can be.

Pure. Called by `source.py`; what a start needs beyond that, headers that are there, is
`headers_of`.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from paceline.config import TraceSettings
from paceline.config.llm import VARIABLE
from paceline.net.client import Headers
from paceline.terms.errors import BadSetting
from paceline.terms.limits import SPANS_HEADERS

NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
VALUE = re.compile(r"[!-~]+(?: [ !-~]*[!-~])?")

OURS = frozenset(
    {"content-type", "content-length", "transfer-encoding", "connection", "host", "user-agent"}
)

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})

Wrong = tuple[str, BadSetting]
"""A field, and what is wrong with it."""


def wrong(said: TraceSettings, folder: Path) -> Iterator[Wrong]:
    for field in ("otlp_endpoint", "otlp_metrics_endpoint"):
        url = getattr(said, field)
        fault = _fault(field, url, private=said.private) if url else None
        if fault is not None:
            yield field, fault
    if not said.otlp_endpoint and not said.otlp_metrics_endpoint:
        return
    if said.headers_env and not VARIABLE.fullmatch(said.headers_env):
        yield (
            "headers_env",
            BadSetting(
                "traces.headers_env is not the name of a variable",
                value=said.headers_env,
                remedy="Name the variable of the environment, not what is in it.",
            ),
        )
    if said.ca_file and not (folder / said.ca_file).is_file():
        yield (
            "ca_file",
            BadSetting(
                "traces.ca_file is no file",
                value=folder / said.ca_file,
                remedy="Name a file with certificates (PEM), as seen from the settings file.",
            ),
        )


def _fault(field: str, url: str, *, private: bool) -> BadSetting | None:
    try:
        split = urlsplit(url)
        usable = bool(split.hostname) and split.port != 0 and split.scheme in ("https", "http")
    except ValueError:
        split, usable = urlsplit(""), False
    if not usable or not (url.isascii() and url.isprintable()) or " " in url or "@" in split.netloc:
        return BadSetting(
            f"traces.{field} is no address that can be called",
            value=url,
            remedy='Write it whole, such as "https://collector.example:4318", and no password.',
        )
    if split.scheme == "http" and not private and split.hostname not in LOCAL:
        return BadSetting(
            f"what is told would go to traces.{field} in the clear",
            value=url,
            remedy="Use https, or say private = true where it is in your own network.",
        )
    return None


def headers_of(said: TraceSettings, environ: Mapping[str, str]) -> Headers:
    """What a receiver wants to see besides; a BadSetting where that is not there, or is none."""
    if not said.headers_env:
        return []
    text = environ.get(said.headers_env, "")
    pairs = [each.partition("=") for each in text.split(",") if each.strip()]
    found = [(name.strip().lower(), value.strip()) for name, _, value in pairs]
    fits = all(
        NAME.fullmatch(name) and VALUE.fullmatch(value) and name not in OURS
        for name, value in found
    )
    if not found or not fits or len(found) > SPANS_HEADERS:
        raise BadSetting(
            "the OTLP receiver needs headers that are not in the environment",
            value=said.headers_env,
            remedy=f"Set {said.headers_env} to name=value,name=value, up to {SPANS_HEADERS}, and "
            "start the server anew: one that runs keeps the environment it has.",
        )
    return [(name.encode(), value.encode()) for name, value in found]


def differences(before: TraceSettings, after: TraceSettings) -> tuple[str, ...]:
    """What a reload changes, in words. Addresses are not told: there may be a secret in one."""
    changed = [
        name
        for name in TraceSettings.__struct_fields__
        if getattr(before, name) != getattr(after, name)
    ]
    return tuple(
        f"traces.sample {before.sample} → {after.sample}" if name == "sample" else f"traces.{name}"
        for name in changed
    )
