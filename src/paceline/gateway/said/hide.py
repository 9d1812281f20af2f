"""What is taken out of what was said before it is kept: secrets, and what names people. Pure.

Secrets are found as for the log (`observe/redact.py`). Then come e-mail addresses, card numbers and
IBANs with their check digits, phone numbers, and what the settings add. The net is wide: a number
that only looks like one is hidden too. Names and addresses of streets are not found: this is no
promise that nobody can be recognised, which is why what is kept expires. Called by `keeper.py`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from paceline.observe.redact import HIDDEN, Redactor, names_secret
from paceline.terms.limits import SAID_DEPTH

DATA_CHARS = 1024
"""A string of that length without a blank is no text, but a picture or a file."""

SHORT_CHARS, SHORT_TEXTS = 32, 4096

LEAST_CARD, MOST_CARD = 13, 19
LEAST_IBAN, MOST_IBAN = 15, 34

E_MAIL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}")
DIGITS = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,47}(?!\d)")
"""and what may lie in them is a card"""
NUMBER = re.compile(r"\d\d")
"""Without that there is nothing of these."""
GROUP = re.compile(r"\d+")
IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11,40}")
PHONE = re.compile(
    r"(?<![\w+])(?:"
    r"(?:\+|00)[1-9](?:[ ().\-/]{0,2}\d){7,14}"  # with its country
    r"|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}"  # as North America writes them
    r"|\(?0\d{1,4}\)?[ /-]\d{3,}(?:[ -]?\d{2,}){0,4}"  # as many others do
    r")(?!\w)"
)
ESCAPED = re.compile(r"\\u00([2-7][0-9a-fA-F])")
"""JSON within JSON may say a letter so"""


class Hider:
    """`own` are regular expressions: what one finds is told as `[hidden]`, or by the name of the
    group that it has: `(?P<customer>C-[0-9]+)` leaves `[customer]`."""

    def __init__(self, environ: Mapping[str, str], own: Iterable[str] = ()) -> None:
        self._secrets = Redactor(environ)
        self._own = [re.compile(each) for each in own]
        self._known: dict[str, str] = {}
        """short texts and what is left of them: the same names and words stand in every body"""

    def text(self, text: str) -> str:
        if len(text) > SHORT_CHARS:
            return self._hidden(text)
        known = self._known.get(text)
        if known is None:
            if len(self._known) >= SHORT_TEXTS:
                self._known.clear()
            known = self._known[text] = self._hidden(text)
        return known

    def _hidden(self, text: str) -> str:
        if "\\u00" in text:
            plain = ESCAPED.sub(_unescaped, text)
            hidden = self._text(plain)
            return text if hidden == plain else hidden
        return self._text(text)

    def value(self, value: object, depth: int = 0) -> object:
        """As JSON has it, with its texts hidden, its numbers that are some, and its names."""
        if isinstance(value, str):
            if len(value) > DATA_CHARS and " " not in value and "\n" not in value:
                return f"[data of {len(value)} characters]"
            return self.text(value)
        if isinstance(value, bool | None):
            return value
        if isinstance(value, int | float):
            said = str(value)
            hidden = self.text(said) if len(said) >= LEAST_CARD else said
            return value if hidden == said else hidden
        if depth >= SAID_DEPTH:
            return "[nested too deeply]"
        if isinstance(value, list):
            return [self.value(each, depth + 1) for each in value]
        assert isinstance(value, dict)
        return {
            self.text(name): HIDDEN
            if isinstance(each, str) and names_secret(name)
            else self.value(each, depth + 1)
            for name, each in value.items()
        }

    def _text(self, text: str) -> str:
        for each in self._own:
            text = each.sub(_told, text)
        text = self._secrets.whole(text)
        if "@" in text:
            text = E_MAIL.sub("[e-mail]", text)
        if NUMBER.search(text) is None:
            return text
        text = IBAN.sub(_iban, text)
        text = DIGITS.sub(_cards, text)
        return PHONE.sub("[phone]", text)


def _unescaped(found: re.Match[str]) -> str:
    return chr(int(found[1], 16))


def _told(found: re.Match[str]) -> str:
    return f"[{found.lastgroup or 'hidden'}]" if found[0] else ""


def _cards(found: re.Match[str]) -> str:
    """Those that begin and end with a group of these digits, for a number may stand beside one."""
    text, at = found[0], 0
    out: list[str] = []
    groups = [(each.start(), each.end()) for each in GROUP.finditer(text)]
    number = 0
    while number < len(groups):
        begin = groups[number][0]
        end = next(_ends(text, begin, [end for _, end in groups[number:]]), None)
        if end is None:
            number += 1
            continue
        out += text[at:begin], "[card]"
        at = end
        number = next((n for n, (first, _) in enumerate(groups) if first >= end), len(groups))
    return "".join([*out, text[at:]])


def _ends(text: str, begin: int, ends: Iterable[int]) -> Iterator[int]:
    for end in ends:
        digits = [int(each) for each in text[begin:end] if each.isdigit()]
        if LEAST_CARD <= len(digits) <= MOST_CARD and _is_luhn(digits):
            yield end


def _is_luhn(digits: list[int]) -> bool:
    doubled = (sum(divmod(2 * each, 10)) for each in digits[-2::-2])
    return any(digits) and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _iban(found: re.Match[str]) -> str:
    """The longest beginning of it that is one: words may follow."""
    text = found[0]
    for end in range(len(text), LEAST_IBAN - 1, -1):
        plain = text[:end].replace(" ", "").upper()
        if text[end - 1] != " " and LEAST_IBAN <= len(plain) <= MOST_IBAN and _is_iban(plain):
            return "[iban]" + text[end:]
    return text


def _is_iban(plain: str) -> bool:
    turned = plain[4:] + plain[:4]
    return int("".join(str(int(each, 36)) for each in turned)) % 97 == 1
