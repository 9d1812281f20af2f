"""What the settings say of a way to tell somebody. Values alone; `channels.py` sends.

Made by `config/alerting.py`. Of a secret there is only the name of the variable it stands in.
"""

from typing import Literal
from urllib.parse import urlsplit

import msgspec

from paceline.terms.alert import Severity
from paceline.terms.errors import BadSetting

Kind = Literal["webhook", "slack", "smtp", "log"]
Encryption = Literal["starttls", "tls", "none"]

LOG = "log"
"""The name of the channel that is always there."""


class ChannelTo(msgspec.Struct, frozen=True):
    """What the settings say of one. Of secrets there are only the names of their variables."""

    name: str
    kind: Kind
    url: str = ""
    url_env: str = ""
    token_env: str = ""
    host: str = ""
    port: int = 587
    encryption: Encryption = "starttls"
    user: str = ""
    password_env: str = ""
    sender: str = ""
    to: tuple[str, ...] = ()
    ca_file: str = ""
    private: bool = False
    least: Severity = "warning"

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.url_env, self.token_env, self.password_env)))


def check_url(name: str, url: str, *, private: bool, shown: str) -> None:
    """`shown` instead of an address that is a secret."""
    try:
        split = urlsplit(url)
        usable = bool(split.hostname) and split.port != 0 and split.scheme in ("https", "http")
    except ValueError:
        split, usable = urlsplit(""), False
    if not usable or not (url.isascii() and url.isprintable()) or " " in url or split.username:
        raise BadSetting(
            f"the channel {name} has no address that can be called",
            value=shown,
            remedy='Write it whole: url = "https://host/path", without user and password.',
        )
    if split.scheme == "http" and not private:
        raise BadSetting(
            f"the channel {name} would be told in the clear",
            value=shown,
            remedy="Use https, or say private = true where it is in your own network.",
        )
