"""What one request in twenty that breaks its batch leaves of the goodput, for three kinds of cost.

In virtual time: batches one after the other, always full, of requests with one row each; each is
poison by itself with the same chance. Failing batches are bisected, the share of poison and the
latencies are learned, and the cap follows every 20 batches, as in serving. Goodput is good requests
a second, relative to the same without poison; beside it the same with the cap held at the most and
at one. A failing run takes as long as one that succeeds.

The *information bound* beside it holds for every way of finding culprits by running groups one
after the other, also for those that mix what is left of one batch into another:

- After all, each request is known to be poison or not. For n requests that is n * H(p) bits, with
  H(p) = -p log2 p - (1 - p) log2 (1 - p). What is run next follows from the outcomes so far, so the
  outcomes spell a prefix code of the answer, one bit a run, and are n * H(p) runs on average at
  least (Sobel and Groll 1959).
- Each request is in at least one run: a good one in one that succeeds, a culprit in one where it
  fails alone. With at most `most` in a run, that is n / most runs at least, and n rows.

So a request takes at least max(H(p), 1 / most) * (cost of a run) + (cost of a row), and
(1 - p) divided by that bounds the goodput. No scheme exceeds it and none need reach it: rows of
failing runs count as nothing, and a run would have to fail half of the time to yield a bit.
"""

import argparse
import math
import time
from typing import NamedTuple

from benchmarks import record
from paceline.clock import Chance
from paceline.serve.isolation import Bisection, PoisonRate, best_cap
from paceline.serve.latency import LatencyModel

CAP_EVERY = 20
ADAPTING = 200
LINEAR_SHARE = 0.7
BOUND_SHARE = 0.7
CAP_US = 200.0


class Cost(NamedTuple):
    """Milliseconds for each run, and for each row in it."""

    name: str
    run_ms: float
    row_ms: float

    def seconds(self, rows: int) -> float:
        return (self.run_ms + self.row_ms * rows) / 1e3


COSTS = (
    Cost("linear", 0.0, 0.5),
    Cost("a run and its rows", 4.0, 0.5),
    Cost("a run alone", 4.0, 0.0),
)


class Life:
    """One executor, as it serves; with a `cap` it stays there."""

    def __init__(self, cost: Cost, share: float, most: int, seed: int, cap: int = 0) -> None:
        self._cost = cost
        self._share = share
        self._chance = Chance(seed)
        self._rate = PoisonRate()
        self._learned = LatencyModel()
        self._most = most
        self._held = bool(cap)
        self.cap = cap or most
        self.batches = 0
        self.spent_s = 0.0
        self.good = 0
        self.wronged = 0
        """Good requests that failed, or got no answer or two."""

        self.most_reruns = 0.0
        """Re-runs by culprit, in the batch where that was most."""

        self.nearest_bound = 0.0
        """The same, as a share of what was promised for a batch of that size."""

    def _run(self, rows: int) -> None:
        took_s = self._cost.seconds(rows)
        self._learned.observe(rows, took_s)
        self.spent_s += took_s

    def batch(self) -> None:
        size = self.cap
        poison = {each for each in range(size) if self._chance.uniform() < self._share}
        self._run(size)
        good, culprits = list(range(size)), list[int]()
        if poison and size == 1:
            good, culprits = culprits, good
        elif poison:
            good, culprits = self._isolate(size, poison)
        innocent = [each for each in range(size) if each not in poison]
        self.wronged += len(innocent) if good != innocent else 0
        assert culprits == sorted(poison)
        self.good += len(good)
        self._rate.observe(size, len(culprits))
        self.batches += 1
        if not self._held and self.batches % CAP_EVERY == 0:
            self.cap = best_cap(self._rate.share, self._learned.typical, self._most)

    def _isolate(self, size: int, poison: set[int]) -> tuple[list[int], list[int]]:
        bisection = Bisection(range(size))
        good: list[int] = []
        culprits: list[int] = []
        reruns = 0
        while (part := bisection.next()) is not None:
            self._run(len(part))
            reruns += 1
            settled = bisection.ran(part, poison.isdisjoint(part))
            good.extend(settled.good)
            culprits.extend(settled.culprits)
        each = reruns / len(poison)
        self.most_reruns = max(self.most_reruns, each)
        self.nearest_bound = max(self.nearest_bound, each / (2 * math.log2(size) + 1))
        return good, culprits


def goodput(life: Life, batches: int) -> float:
    """Good requests a second, once it has adapted."""
    for _ in range(ADAPTING):
        life.batch()
    good, spent_s = life.good, life.spent_s
    for _ in range(batches):
        life.batch()
    return (life.good - good) / (life.spent_s - spent_s)


def most_goodput(cost: Cost, share: float, most: int) -> float:
    """The information bound, in good requests a second."""
    bits = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
    return 1e3 * (1 - share) / (max(bits, 1 / most) * cost.run_ms + cost.row_ms)


def cap_us(most: int, calls: int) -> float:
    learned = LatencyModel()
    for size in range(1, most + 1):
        learned.observe(size, COSTS[1].seconds(size))
    start = time.perf_counter_ns()
    for _ in range(calls):
        best_cap(0.05, learned.typical, most)
    return (time.perf_counter_ns() - start) / calls / 1e3


def main() -> None:
    options = argparse.ArgumentParser(
        prog="./bench isolation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--share", type=float, default=0.05, help="of the requests, poison")
    options.add_argument("--most", type=int, default=64, help="rows of a batch")
    options.add_argument("--batches", type=int, default=2000, help="after adapting")
    options.add_argument("--seeds", type=int, default=5)
    asked = options.parse_args()
    share, most = asked.share, asked.most
    if not 0 < share < 1:
        options.error("--share lies between 0 and 1: without poison there is nothing to find")

    figures: list[record.Figure] = []
    verdicts: list[record.Verdict] = []
    lives: list[Life] = []
    for cost in COSTS:
        clean = goodput(Life(cost, 0.0, most, 0), asked.batches)
        shares: dict[str, list[float]] = {
            "": [],
            f", cap held at {most}": [],
            ", cap held at 1": [],
        }
        for seed in range(asked.seeds):
            for (_, found), cap in zip(shares.items(), (0, most, 1), strict=True):
                life = Life(cost, share, most, seed, cap)
                found.append(100 * goodput(life, asked.batches) / clean)
                lives.append(life)
        for name, found in shares.items():
            figures.append(record.figure(f"{cost.name}: of the clean goodput{name}", "%", found))
        caps = [life.cap for life in lives[-3 * asked.seeds :: 3]]
        figures.append(record.figure(f"{cost.name}: cap in the end", "rows", caps))
        bound = 100 * most_goodput(cost, share, most) / clean
        figures.append(record.figure(f"{cost.name}: information bound", "%", [bound]))
        lowest = min(shares[""])
        if not cost.run_ms:
            verdicts.append(
                record.Verdict(
                    f"with cost linear in rows at least {LINEAR_SHARE:.0%} of the clean goodput",
                    f"{lowest:.1f} % at worst",
                    lowest >= 100 * LINEAR_SHARE,
                )
            )
        else:
            verdicts.append(
                record.Verdict(
                    f"where {cost.name} costs, at least {BOUND_SHARE:.0%} of what any way could",
                    f"{lowest:.1f} % of the clean goodput at worst, where {bound:.1f} % is the "
                    f"most: {lowest / bound:.0%}",
                    BOUND_SHARE * bound <= lowest <= bound,
                )
            )
    wronged = sum(life.wronged for life in lives)
    reruns = max(life.most_reruns for life in lives)
    nearest = max(life.nearest_bound for life in lives)
    calls_us = [cap_us(most, 100) for _ in range(15)]
    figures += [
        record.figure("re-runs a culprit, the most", "", [reruns]),
        record.figure("a new cap", "µs", calls_us),
    ]
    verdicts += [
        record.Verdict(
            "no good request fails, and each is answered once", f"{wronged} were not", not wronged
        ),
        record.Verdict(
            "at most 2 * log2(b) + 1 re-runs for each culprit among b",
            f"at most {reruns:.1f}, {nearest:.0%} of what is allowed where it came nearest",
            nearest <= 1,
        ),
        record.Verdict(
            f"a new cap costs at most {CAP_US:g} µs",
            f"median {figures[-1].median:.0f} µs",
            figures[-1].median <= CAP_US,
        ),
    ]
    record.write(
        "isolation",
        workload={
            "share of poison": share,
            "most rows of a batch": most,
            "costs": "; ".join(f"{c.name}: {c.run_ms:g} + {c.row_ms:g} ms a row" for c in COSTS),
            "batches to adapt": ADAPTING,
            "batches measured": asked.batches,
            "seeds": asked.seeds,
        },
        figures=figures,
        verdicts=verdicts,
    )


if __name__ == "__main__":
    main()
