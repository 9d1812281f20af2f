"""What tokens cost: a Price by provider and model, and what a Usage comes to. Pure.

Money is whole numbers of 10⁻¹² USD here: a price of a millionth of a USD for a million tokens is
one of them by token, so nothing is rounded, and sums are the same in whatever order, as budgets
need it. What is unknown is None and never 0. Made of the settings (`config/llm.py`), asked by
`tally.py`.
"""

from collections.abc import Iterable

import msgspec

from paceline.gateway.usage import Usage

PICOUSD_PER_USD = 10**12
TOKENS_PRICED = 10**6
"""Prices are written for so many."""

STAR = "*"


class Price(msgspec.Struct, frozen=True):
    """In 10⁻¹² USD a token. `cached` are those read from a cache, `written` those written to it;
    `written_1h` of those, what is kept for an hour. None: not known, and then neither is a call
    that has any."""

    input: int
    output: int
    cached: int
    written: int | None = None
    written_1h: int | None = None


FREE = Price(0, 0, 0, 0, 0)


class Priced(msgspec.Struct, frozen=True):
    """`name` is PROVIDER/MODEL, with a `*` at the end for all that begin so."""

    name: str
    price: Price


def per_token(usd_per_million: float) -> int:
    return round(usd_per_million * (PICOUSD_PER_USD // TOKENS_PRICED))


def usd(picousd: int) -> float:
    return picousd / PICOUSD_PER_USD


def cost(usage: Usage, price: Price) -> int | None:
    """In 10⁻¹² USD. Reasoning is within output, and all that a cache did within input, as `Usage`
    has it: each token is paid once."""
    cached, written = usage.cached_tokens, usage.cache_write_tokens
    if not (cached or written):  # what nearly every call is
        return usage.input_tokens * price.input + usage.output_tokens * price.output
    picousd = (
        usage.fresh_tokens * price.input
        + cached * price.cached
        + usage.output_tokens * price.output
    )
    kept = min(usage.cache_write_1h_tokens, written)
    for tokens, each in ((written - kept, price.written), (kept, price.written_1h)):
        if tokens:
            if each is None:
                return None
            picousd += tokens * each
    return picousd


def charged(usage: Usage | None, price: Price | None) -> int | None:
    """What an answer cost, if that can be told: without its tokens only where they are free."""
    if price is None or (usage is None and price != FREE):
        return None
    return 0 if usage is None else cost(usage, price)


class Prices:
    """The most exact one counts: a name, or else the longest beginning of one."""

    def __init__(self, priced: Iterable[Priced] = (), free: Iterable[str] = ()) -> None:
        """`free` are providers whose answers cost nothing where no price says otherwise."""
        self._exact: dict[str, Price] = {}
        self._begins: dict[str, list[tuple[str, Price]]] = {}
        """by provider"""
        for each in (*priced, *(Priced(f"{name}/{STAR}", FREE) for name in free)):
            if each.name.endswith(STAR):
                provider = each.name.partition("/")[0]
                self._begins.setdefault(provider, []).append((each.name[:-1], each.price))
            else:
                self._exact[each.name] = each.price
        for begins in self._begins.values():
            begins.sort(key=lambda each: -len(each[0]))  # of two alike, the one that was said

    def of(self, provider: str, model: str) -> Price | None:
        """None: nobody has said."""
        target = f"{provider}/{model}"
        found = self._exact.get(target)
        if found is None:
            for beginning, price in self._begins.get(provider, ()):
                if target.startswith(beginning):
                    return price
        return found
