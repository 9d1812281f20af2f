"""The five traces that policies are compared on; by itself, how bursty each of them is.

Three are made (steady, bursty, a day), two recorded (a service's requests, another's rates). All
have the same mean rate and length, so that what differs is how requests come.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from paceline.clock import Chance
from paceline.evidence.recordings import read
from paceline.evidence.traces import (
    PLAIN,
    Mix,
    Trace,
    bursty,
    diurnal,
    from_rates,
    poisson,
    recorded,
)

DATA = Path(__file__).parent / "data"
DAY = 144
"""Windows of ten minutes."""

DAYS = 14


def five(rate: float, seconds: float, seed: int, mix: Mix = PLAIN) -> list[Trace]:
    """Recordings begin elsewhere with every seed: the requests at any of them, the rates at one of
    their days, which is squeezed into the time."""
    chance = Chance(seed)
    azure = read(str(DATA / "llm_azure2023.csv.gz"), {})
    rates = read(str(DATA / "arrival_servegen_10min.csv.gz"), {"model": "m-large"})
    first = DAY * chance.integer(0, DAYS - 1)
    day = {name: values[first : first + DAY] for name, values in rates.items()}
    return [
        poisson(rate, seconds, seed, mix),
        bursty(rate, seconds, seed, mix),
        diurnal(rate, seconds, seed, mix),
        recorded(azure["t_s"], rate, seconds, seed, mix, name="azure", begin=chance.uniform()),
        from_rates(
            day["t_s"],
            day["rate_rps"],
            day["cv_rate_weighted"],
            rate,
            seconds,
            seed,
            mix,
            name="servegen",
        ),
    ]


def dispersion(trace: Trace, window_s: float) -> float:
    """Of the counts in windows, variance over mean: 1 for Poisson, more for what is bursty."""
    counts = np.bincount((np.array(trace.arrived_s) / window_s).astype(int))[:-1]
    return float(counts.var() / counts.mean())


def peak(trace: Trace, window_s: float) -> float:
    """Requests per second in the fullest window."""
    return float(np.bincount((np.array(trace.arrived_s) / window_s).astype(int)).max() / window_s)


def main() -> None:
    options = argparse.ArgumentParser(prog="./bench traces", description=__doc__)
    options.add_argument("--rate", type=float, default=1000.0)
    options.add_argument("--seconds", type=float, default=600.0)
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    print("trace      requests      per s  peak in 1 s  dispersion in 10 ms, 100 ms, 1 s")
    for trace in five(asked.rate, asked.seconds, asked.seed):
        spread = " ".join(f"{dispersion(trace, window_s):8.1f}" for window_s in (0.01, 0.1, 1.0))
        print(f"{trace.name:10}{len(trace):9}{trace.rate:11.1f}{peak(trace, 1.0):13.0f}  {spread}")
    begin = time.perf_counter()
    requests = len(poisson(1e6 / asked.seconds, asked.seconds, asked.seed))
    print(f"\n{requests} requests are made in {time.perf_counter() - begin:.2f} s")


if __name__ == "__main__":
    main()
