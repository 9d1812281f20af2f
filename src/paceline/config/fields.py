"""What can be set: the fields of the structs and the knobs, each with what it takes and means.

It says so for messages, for the reference and for `paceline config`; it reads nothing. A knob
(`terms/plan.py`) says of itself what `Field` says of a field.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from paceline.config import (
    AlertSettings,
    ChannelSettings,
    ModelSettings,
    PriceSettings,
    ProviderSettings,
    RouteSettings,
    RuleSettings,
    SaidSettings,
    Server,
    TraceSettings,
)
from paceline.terms.errors import BadValue
from paceline.terms.plan import Catalogue, Choice, Knob
from paceline.watch.alerts.rules import RULES, Rule

PREFIX = "PACELINE_"

Names = tuple[str, ...]
"""A place in the file: `("models", "digits", "goal")`."""


class Field(NamedTuple):
    """A field of one of the structs. A knob says of itself what this says of a field."""

    name: str
    type: Any
    default: object
    meaning: str

    @property
    def takes(self) -> str:
        from msgspec import inspect  # only for messages and the reference

        if get_origin(_bare(self.type)) is Literal:
            return "one of " + ", ".join(get_args(_bare(self.type)))
        return _takes(inspect.type_info(self.type))

    def check(self, value: object) -> Any:
        """The value as the field has it, or BadValue."""
        try:
            fits = msgspec.convert(value, self.type)
        except msgspec.ValidationError as error:
            raise BadValue(
                f"{self.name} takes {self.takes}",
                value=value,
                remedy=f"{self._near(value)}{self.meaning} Its default is {toml(self.default)}.",
            ) from error
        if isinstance(fits, str) and not _is_clean(fits):
            raise BadValue(
                f"{self.name} takes a text of Unicode characters, without NUL",
                value=ascii(fits),
                remedy=self.meaning,
            )
        return fits

    def _near(self, value: object) -> str:
        names = get_args(_bare(self.type)) if reads_text(self) else ()
        return did_you_mean(value, names, "{}? ") if isinstance(value, str) else ""


def fields(struct: type[msgspec.Struct]) -> dict[str, Field]:
    """The fields of a struct of settings, in their order; each has a description."""
    found = {}
    for info in msgspec.structs.fields(struct):
        default = info.default
        if default is msgspec.NODEFAULT and callable(info.default_factory):
            default = info.default_factory()
        (meta,) = (each for each in get_args(info.type) if isinstance(each, msgspec.Meta))
        found[info.name] = Field(info.name, info.type, default, meta.description or "")
    return found


Leaf = Field | Knob


def leaves(
    catalogue: Catalogue,
    models: Iterable[str],
    providers: Iterable[str] = (),
    routes: Iterable[str] = (),
    prices: Iterable[str] = (),
    channels: Iterable[str] = (),
) -> dict[Names, Leaf]:
    """Everything that can be set, by its place in the file, in the order in which it is shown."""
    of_model = [each for name, each in fields(ModelSettings).items() if name != "pins"]
    found: dict[Names, Leaf] = {("server", name): each for name, each in fields(Server).items()}
    for model in models:
        found |= {("models", model, each.name): each for each in of_model}
        for address, knob in catalogue.items():
            if address == f"{model}.{knob.name}":
                found["models", model, "pins", knob.name] = knob
    for provider in providers:
        of_provider = fields(ProviderSettings).items()
        found |= {("providers", provider, name): each for name, each in of_provider}
    for route in routes:
        found |= {("routes", route, name): each for name, each in fields(RouteSettings).items()}
    for price in prices:
        found |= {("prices", price, name): each for name, each in fields(PriceSettings).items()}
    found |= {("said", name): each for name, each in fields(SaidSettings).items()}
    found |= {("alerts", name): each for name, each in fields(AlertSettings).items()}
    found |= {("traces", name): each for name, each in fields(TraceSettings).items()}
    for rule in RULES.values():
        found |= {("rules", rule.name, each.name): each for each in of_rule(rule)}
    for channel in channels:
        of_channel = fields(ChannelSettings).items()
        found |= {("channels", channel, name): each for name, each in of_channel}
    return found


def of_rule(rule: Rule) -> Iterator[Field]:
    """With the rule's own defaults, and what it is about."""
    of = fields(RuleSettings)
    yield of["enabled"]._replace(default=rule.usual, meaning=rule.what)
    if rule.bounds is not None:
        sense = "or more" if rule.bounds.rising else "or less"
        for name in ("warning", "critical"):
            default = getattr(rule.bounds, name)
            meaning = f"So much, {sense}, is {name}, in {rule.unit}."
            yield of[name]._replace(default=default, meaning=meaning)
        meaning = "Seconds that it must last."
        yield of["for_s"]._replace(default=rule.bounds.for_s, meaning=meaning)


BARE = re.compile(r"[A-Za-z0-9_-]+")


def dotted(names: Iterable[str]) -> str:
    """A place as TOML writes it: `routes."gpt-4.1".targets`."""
    return ".".join(name if BARE.fullmatch(name) else toml(name) for name in names)


def variable(names: Names) -> str:
    return PREFIX + "__".join(names).upper()


def _takes(kind: Any) -> str:
    from msgspec import inspect

    match kind:
        case inspect.Metadata(type=inner):
            return _takes(inner)
        case inspect.IntType() | inspect.FloatType():
            whole = isinstance(kind, inspect.IntType)
            number = "a whole number" if whole else "a number"
            if kind.le is None:
                return f"{number}, {kind.ge:g} or more"
            return f"{number} from {kind.ge:g} to {kind.le:g}"
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType():
            return "a text, not empty" if kind.min_length else "a text"
        case inspect.VarTupleType(item_type=item):
            if isinstance(item, inspect.IntType):
                return "a list of whole numbers, such as [3, 1]"
            return 'a list of texts, such as ["..."]'
    raise AssertionError(f"no words for {kind}")


def _bare(kind: Any) -> Any:
    return kind.__origin__ if hasattr(kind, "__metadata__") else kind


def reads_text(leaf: Leaf) -> bool:
    if isinstance(leaf, Knob):
        return isinstance(leaf.kind, Choice)
    bare = _bare(leaf.type)
    return bare is str or get_origin(bare) is Literal


def _is_clean(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:  # bytes of the environment or the command line that are no text
        return False


def toml(value: object) -> str:
    """A value as it stands in the file; what is nested is left out."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
        case list() | tuple():
            return f"[{', '.join('...' if _nested(each) else toml(each) for each in value)}]"
        case dict():
            return "{...}" if value else "{}"
        case int() if abs(value) >> 64:  # Python refuses to write out thousands of digits
            return hex(value)
    return str(value)


def _nested(value: object) -> bool:
    return isinstance(value, list | dict)


def printable(text: str) -> str:
    """With what is no text, such as odd bytes of the environment, shown as an escape."""
    return text.encode(errors="backslashreplace").decode()


def did_you_mean(word: str, known: Iterable[str], form: str) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"Did you mean {form.format(near[0])}" if near else ""
