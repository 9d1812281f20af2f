"""What is counted of LLM calls, on the board of their front. Decides nothing. Called by `relay.py`.

Series are few: beyond LLM_SERIES pairs of route and provider, what is left is counted together.
"""

from collections.abc import Sequence

from paceline.gateway.attempts import Tried
from paceline.gateway.call import Call
from paceline.gateway.prices import Prices, charged, usd
from paceline.gateway.usage import NO_ESTIMATE, Estimated, Usage
from paceline.observe.board import Board, Counter
from paceline.terms.limits import LLM_SERIES
from paceline.terms.metric import (
    LLM_ATTEMPTS,
    LLM_CALLS,
    LLM_COST,
    LLM_FIRST_SECONDS,
    LLM_LOST_TOKENS,
    LLM_SECONDS,
    LLM_TOKEN_SECONDS,
    LLM_TOKENS,
    LLM_UNPRICED,
)

OTHERS = "others"
NOBODY = "none"
"""In the place of a route or a provider, where a call has come to none."""

WITHOUT_TOKENS = frozenset({"other", "count_tokens", "moderations"})
"""Answers of these that tell no tokens are not missed: they cost nothing, or nobody reads them."""


class _Series:
    """Of one route and the provider that answered."""

    __slots__ = (
        "_board",
        "_calls",
        "_cost",
        "_input",
        "_kinds",
        "_output",
        "_unpriced",
        "first",
        "provider",
        "route",
        "seconds",
        "token",
    )

    def __init__(self, board: Board, route: str, provider: str) -> None:
        self._board = board
        self.route = route
        self.provider = provider
        self.seconds = board.sketch(LLM_SECONDS, route, provider)
        self.first = board.sketch(LLM_FIRST_SECONDS, route, provider)
        self.token = board.sketch(LLM_TOKEN_SECONDS, route, provider)
        self._input = board.counter(LLM_TOKENS, route, provider, "input")
        self._output = board.counter(LLM_TOKENS, route, provider, "output")
        self._kinds: dict[str, Counter] = {}
        self._calls: dict[tuple[str, int], Counter] = {}
        self._unpriced: Counter | None = None
        self._cost: Counter | None = None
        """from the first cost that is known: what nobody knows is not 0"""

    def call(self, endpoint: str, status: int) -> None:
        counter = self._calls.get((endpoint, status))
        if counter is None:
            counter = self._board.counter(
                LLM_CALLS, endpoint, self.route, self.provider, str(status)
            )
            self._calls[endpoint, status] = counter
        counter.cell[0] += 1

    def used(self, usage: Usage) -> None:
        self._input.cell[0] += usage.input_tokens
        self._output.cell[0] += usage.output_tokens
        if usage.cached_tokens or usage.cache_write_tokens or usage.reasoning_tokens:
            self._kind("cache_read", usage.cached_tokens)
            self._kind("cache_write", usage.cache_write_tokens)
            self._kind("reasoning", usage.reasoning_tokens)

    def cost(self, picousd: int | None) -> None:
        if picousd is None:
            if self._unpriced is None:
                self._unpriced = self._board.counter(LLM_UNPRICED, self.route, self.provider)
            self._unpriced.cell[0] += 1
            return
        if self._cost is None:
            self._cost = self._board.counter(LLM_COST, self.route, self.provider, "used")
        self._cost.cell[0] += usd(picousd)

    def estimated(self, estimated: Estimated) -> None:
        self._kind("estimated_input", estimated.input_tokens)
        self._kind("estimated_output", estimated.output_tokens)

    def lost(self, usage: Usage | None, estimated: int, picousd: int | None) -> None:
        if picousd is None:
            self.cost(None)
        else:
            self._board.counter(LLM_COST, self.route, self.provider, "lost").add(usd(picousd))
        if usage is None:
            self._lost("input", "estimated", estimated)
        else:
            self._lost("input", "told", usage.input_tokens)
            self._lost("output", "told", usage.output_tokens)

    def _lost(self, kind: str, source: str, tokens: int) -> None:
        labels = (self.route, self.provider, kind, source)
        self._board.counter(LLM_LOST_TOKENS, *labels).add(tokens)

    def _kind(self, kind: str, tokens: int) -> None:
        if tokens:
            counter = self._kinds.get(kind)
            if counter is None:
                counter = self._board.counter(LLM_TOKENS, self.route, self.provider, kind)
                self._kinds[kind] = counter
            counter.add(tokens)


class Tally:
    """On the board money is a sum of doubles of USD: of a million calls it is right to a billionth
    of a cent. Whoever decides by it, as budgets do, adds up whole numbers (`prices.py`) instead."""

    def __init__(self, board: Board, prices: Prices | None = None) -> None:
        self._board = board
        self._prices = Prices() if prices is None else prices
        self._series: dict[tuple[str, str], _Series] = {}
        self._attempts: dict[tuple[str, str, str], Counter] = {}

    def refused(self, endpoint: str, status: int) -> None:
        """A call that came to no route."""
        self._of(NOBODY, NOBODY).call(endpoint, status)

    def cost(self, provider: str, model: str, usage: Usage | None) -> int | None:
        """Of an answer, in 10⁻¹² USD; None: nobody knows."""
        return charged(usage, self._prices.of(provider, model))

    def lost(
        self, route: str, provider: str, model: str, usage: Usage | None, estimated: int
    ) -> None:
        """A request to a provider that brought no content, and may be billed."""
        picousd = self.cost(provider, model, Usage(estimated) if usage is None else usage)
        series = self._series.get((route, provider)) or self._of(route, provider)
        series.lost(usage, estimated, picousd)

    def ended(
        self,
        call: Call,
        route: str,
        tried: Sequence[Tried],
        committed: int | None,
        status: int,
        first_s: float | None,
        now: float,
        usage: Usage | None,
        picousd: int | None,
        estimated: Estimated = NO_ESTIMATE,
    ) -> None:
        """`committed` is the attempt whose answer it is; `first_s` is when its first content came;
        `status` 0 where its caller had left; `picousd` what `cost` says of it."""
        provider = NOBODY
        for each in tried:
            provider = each.standing.target.provider
            key = (provider, each.why, each.ended)
            counter = self._attempts.get(key)
            if counter is None:
                counter = self._attempts[key] = self._board.counter(LLM_ATTEMPTS, *key)
            counter.cell[0] += 1
        if committed is not None and len(tried) > 1:
            provider = tried[committed].target.provider
        series = self._series.get((route, provider)) or self._of(route, provider)
        series.call(call.endpoint, status)
        if usage is not None:
            series.used(usage)
        if picousd is not None or (
            committed is not None
            and first_s is not None
            and (usage is not None or call.endpoint not in WITHOUT_TOKENS)
        ):
            series.cost(picousd)
        if estimated is not NO_ESTIMATE:
            series.estimated(estimated)
        if status == 200:
            received_s = call.received_s
            series.seconds.record(now - received_s)
            if first_s is not None and call.asked.stream:
                series.first.record(first_s - received_s)
                further = 0 if usage is None else usage.output_tokens - 1  # told alone
                if further > 0:
                    series.token.record((now - first_s) / further, further)

    def _of(self, route: str, provider: str) -> _Series:
        series = self._series.get((route, provider))
        if series is None:
            if len(self._series) >= LLM_SERIES and route != OTHERS:
                return self._of(OTHERS, provider)
            series = self._series[route, provider] = _Series(self._board, route, provider)
        return series
