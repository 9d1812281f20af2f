"""What tokens cost: the arithmetic, the prices of the settings, and what is counted and told."""

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.gateway.prices import (
    FREE,
    Price,
    Priced,
    Prices,
    charged,
    cost,
    per_token,
    usd,
)
from paceline.gateway.usage import Usage

GPT = Price(per_token(2.5), per_token(10), per_token(1.25))
CLAUDE = Price(per_token(3), per_token(15), per_token(0.3), per_token(3.75), per_token(6))

TOKENS = st.integers(0, 10**9)
EACH = st.integers(0, 10**12)
PRICES = st.builds(Price, EACH, EACH, EACH, EACH, EACH)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """As vendors count: what a cache did is of the input, reasoning of the output."""
    fresh, cached, written, kept, output = (draw(TOKENS) for _ in range(5))
    reasoning = draw(st.integers(0, output))
    return Usage(fresh + cached + written + kept, output, cached, written + kept, kept, reasoning)


def test_a_call_costs_what_its_vendor_bills() -> None:
    assert cost(Usage(1_000_000, 0), GPT) == 2_500_000_000_000
    assert usd(cost(Usage(1200, 300, cached_tokens=1000), GPT) or 0) == pytest.approx(
        (200 * 2.5 + 1000 * 1.25 + 300 * 10) / 1e6, rel=1e-12
    )
    kept = Usage(1000, 10, cached_tokens=500, cache_write_tokens=400, cache_write_1h_tokens=100)
    assert usd(cost(kept, CLAUDE) or 0) == pytest.approx(
        (100 * 3 + 500 * 0.3 + 300 * 3.75 + 100 * 6 + 10 * 15) / 1e6, rel=1e-12
    )


def test_reasoning_is_paid_once_as_output() -> None:
    assert cost(Usage(10, 100, reasoning_tokens=90), GPT) == cost(Usage(10, 100), GPT)


def test_what_is_unknown_is_not_nothing() -> None:
    assert charged(Usage(10, 10), None) is None
    assert charged(None, GPT) is None
    assert charged(None, FREE) == 0
    assert cost(Usage(100, 1, cache_write_tokens=10), GPT) is None
    assert cost(Usage(100, 1, cache_write_tokens=10, cache_write_1h_tokens=10), GPT) is None


@given(usages(), PRICES)
def test_a_cost_is_the_sum_of_its_parts(usage: Usage, price: Price) -> None:
    parts = (
        Usage(usage.fresh_tokens),
        Usage(usage.cached_tokens, 0, usage.cached_tokens),
        Usage(
            usage.cache_write_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            cache_write_1h_tokens=usage.cache_write_1h_tokens,
        ),
        Usage(0, usage.output_tokens, reasoning_tokens=usage.reasoning_tokens),
    )
    assert cost(usage, price) == sum(cast(int, cost(part, price)) for part in parts)


@given(usages(), usages(), PRICES)
def test_two_calls_cost_what_both_do_to_the_last_unit(one: Usage, two: Usage, price: Price) -> None:
    both = Usage(*(a + b for a, b in zip(_numbers(one), _numbers(two), strict=True)))
    assert cost(both, price) == cast(int, cost(one, price)) + cast(int, cost(two, price))


@given(usages(), usages(), PRICES, PRICES)
def test_more_tokens_or_a_higher_price_never_cost_less(
    one: Usage, more: Usage, price: Price, dearer: Price
) -> None:
    both = Usage(*(a + b for a, b in zip(_numbers(one), _numbers(more), strict=True)))
    before = cast(int, cost(one, price))
    assert cast(int, cost(both, price)) >= before >= 0
    higher = Price(*(a + b for a, b in zip(_each(price), _each(dearer), strict=True)))
    assert cast(int, cost(one, higher)) >= before


def _numbers(usage: Usage) -> tuple[int, ...]:
    return tuple(getattr(usage, name) for name in Usage.__struct_fields__)


def _each(price: Price) -> tuple[int, ...]:
    return tuple(getattr(price, name) for name in Price.__struct_fields__)


def test_the_most_exact_price_counts() -> None:
    one, two, three = (Price(each, each, each) for each in (1, 2, 3))
    prices = Prices(
        [Priced("openai/*", one), Priced("openai/gpt-4o*", two), Priced("openai/gpt-4o", three)],
        free=["simulated"],
    )
    asked = [("openai", "o3"), ("openai", "gpt-4o-mini"), ("openai", "gpt-4o"), ("other", "gpt-4o")]
    assert [prices.of(*each) for each in asked] == [one, two, three, None]
    assert prices.of("simulated", "sim-small") == FREE
    assert Prices([Priced("simulated/*", two)], free=["simulated"]).of("simulated", "x") == two
