"""Secrets out of text: what the log passes every word through before it is written.

Two nets. Values we know (provider keys from the environment) are removed wherever they appear.
Values we do not know are recognised by their shape, by the word before them, or by the name of
the field they are in; that net is wide on purpose and sometimes hides a harmless word.
Not encryption, and no licence to log secrets. Called by `log.py`, and by who else keeps text.
"""

import re
from collections.abc import Mapping, Sequence, Set
from itertools import islice

from paceline.terms.limits import LOG_CHARS, LOG_FIELDS, LOG_SECRETS

HIDDEN = "***"
MIN_SECRET_CHARS = 8
MAX_SECRET_CHARS = 4096
MAX_DEPTH = 4

# What may stand between a name and its value in headers, assignments, JSON, and JSON inside JSON.
_IS = r"""(?:\\{0,8}["'])?\s{0,4}[:=]\s{0,4}(?:b(?=["']))?"""
_QUOTED = r""""(?:[^"\\]|\\+[^\\])*"|'(?:[^'\\]|\\+[^\\])*'|\\{1,8}"[^"]*"|\\{1,8}'[^']*'"""
_SECRET_WORD = (
    r"(?:(?:api|access|secret|private|session|client|signing)[_-]?key"
    r"|password|passwd|secret|token|[?&]key)"
)
_SECRET_HEADER = r"(?:authorization|x-api-key|cookie)"

_SHAPES: tuple[tuple[re.Pattern[str], str, tuple[str, ...]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement, tuple(signs.split()))
    for pattern, replacement, signs in (
        # our own keys, and those of well-known services
        (r"\bpl_[a-z2-7]{26}", f"pl_{HIDDEN}", "pl_"),
        (r"\bsk-[\w-]{8,}", f"sk-{HIDDEN}", "sk-"),
        (
            r"\b(hf_|gsk_|ghp_|github_pat_|xai-|xox[abprs]-)[\w-]{16,}",
            rf"\1{HIDDEN}",
            "hf_ gsk_ ghp_ github_pat_ xai- xox",
        ),
        (r"\bAIza[\w-]{30,}", HIDDEN, "aiza"),
        (r"\beyJ[\w-]{10,}\.[\w.-]+", HIDDEN, "eyj"),  # JSON web tokens
        # headers as text, as a mapping, as a pair: the whole value, with its scheme
        (
            rf"({_SECRET_HEADER}{_IS})(?:{_QUOTED}|[^\r\n\"']+)",
            rf"\1{HIDDEN}",
            "authorization x-api-key cookie",
        ),
        (
            rf"""({_SECRET_HEADER}["'],\s{{0,4}}b?)(?:{_QUOTED})""",
            rf"\1{HIDDEN}",
            "authorization x-api-key cookie",
        ),
        (r"\b(bearer)\s{1,4}[\w.~+/=-]{8,}", rf"\1 {HIDDEN}", "bearer"),
        # name=value, "name": "value", ?key=value
        (
            rf"({_SECRET_WORD}{_IS})(?:{_QUOTED}|[^\s\"',;&)}}\]\\]+)",
            rf"\1{HIDDEN}",
            "key password passwd secret token",
        ),
        # user:password@ in addresses
        (r"(://)[^\s/?#\"']+@", rf"\1{HIDDEN}@", "://"),
    )
)
"""Each with what is put in its place, and signs without any of which it cannot be there: to look
for those is a hundred times faster."""
_SECRET_NAME = re.compile(r"key|token|secret|passwor|passwd|authorization|cookie|credential", re.I)
_NAME_OF_A_KEY = re.compile(r"key_(?:id|name)")
_COUNT = re.compile(r"(?:.*_)?(?:tokens|keys)", re.IGNORECASE)

_LIKE_ASCII = {0x131: "i", 0x307: "", 0x17F: "s", 0x212A: "k"}
"""A capital I with a dot is, in small letters, an i and the dot, which is the second of these."""

SECRET_VARIABLE = re.compile(r".*_(?:API_KEY|ACCESS_KEY|TOKEN|SECRET|PASSWORD)")


def _plain(text: str) -> str:
    """In small letters, with all that patterns take for a letter of ASCII as that letter."""
    small = text.lower()
    return small if small.isascii() else small.translate(_LIKE_ASCII)


def names_secret(name: str) -> bool:
    """Whether what a field of this name holds is a secret, whatever it looks like."""
    return (
        _SECRET_NAME.search(name) is not None
        and _NAME_OF_A_KEY.fullmatch(name) is None
        and _COUNT.fullmatch(name) is None
    )


class Redactor:
    """`text` for a message, `field` for a named value, `hide` to name a secret."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._secrets: set[str] = set()
        self._known: re.Pattern[str] | None = None
        for name, value in environ.items():
            if SECRET_VARIABLE.fullmatch(name) and len(self._secrets) < LOG_SECRETS:
                self.hide(value)

    def hide(self, value: str) -> None:
        """Never write this value again. A short one would hide plain words."""
        if not MIN_SECRET_CHARS <= len(value) <= MAX_SECRET_CHARS or value in self._secrets:
            return
        if len(self._secrets) >= LOG_SECRETS:
            raise AssertionError(f"more than {LOG_SECRETS} secrets to hide")
        self._secrets.add(value)
        longest_first = sorted(self._secrets, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first)))

    def text(self, text: str, *, keep_end: bool = False) -> str:
        """Without secrets, and cut to LOG_CHARS, keeping its start or its end."""
        # Cut with a margin first: a secret on the edge is then whole, and hidden whole.
        margin = LOG_CHARS + MAX_SECRET_CHARS
        text = self.whole(text[-margin:] if keep_end else text[:margin])
        if len(text) <= LOG_CHARS:
            return text
        return "…" + text[1 - LOG_CHARS :] if keep_end else text[: LOG_CHARS - 1] + "…"

    def whole(self, text: str) -> str:
        """Without secrets, however long it is: for who bounds it already."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        plain = _plain(text)
        for pattern, replacement, signs in _SHAPES:
            if any(map(plain.__contains__, signs)):
                text = pattern.sub(replacement, text)
                plain = _plain(text)
        return text

    def field(self, name: str, value: object, depth: int = 0) -> object:
        """The value as JSON may have it, at most LOG_FIELDS wide and MAX_DEPTH deep."""
        number = isinstance(value, int | float)
        if value is None or (number and _COUNT.fullmatch(name)):
            return value
        if _SECRET_NAME.search(name) and not _NAME_OF_A_KEY.fullmatch(name):
            return HIDDEN
        if number:
            return value if not isinstance(value, int) or abs(value) < 1 << 53 else str(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return f"{len(value)} bytes"
        if isinstance(value, str) or depth == MAX_DEPTH:
            return self.text(str(value))
        if isinstance(value, Mapping):
            pairs = islice(value.items(), LOG_FIELDS)
            return {self.text(str(k)): self.field(str(k), v, depth + 1) for k, v in pairs}
        if isinstance(value, Sequence | Set):
            return [self.field(name, item, depth + 1) for item in islice(value, LOG_FIELDS)]
        return self.text(str(value))
