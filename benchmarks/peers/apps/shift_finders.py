"""Change points as apache-otava and ruptures (PELT) find them; asked and told as lines of JSON.

Runs in the environment of `requirements-shifts.txt`, started by `./bench shifts`. A line is a
finder, its parameters and a series; the answer is a list of places.
"""

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np


def otava(values: list[float], given: dict[str, Any]) -> list[int]:
    found, _ = importlib.import_module("otava.analysis").compute_change_points(
        values,
        window_len=given["window"],
        max_pvalue=given["chance"],
        min_magnitude=given["magnitude"],
    )
    return [int(each.index) for each in found]


def pelt(values: list[float], given: dict[str, Any]) -> list[int]:
    """With the cost by what is tuned as well; of noise as large as neighbours differ."""
    ruptures: Any = importlib.import_module("ruptures")
    logs = np.log(np.array(values))
    noise = float(np.median(np.abs(np.diff(logs)))) / 0.6745 / np.sqrt(2) or 1.0
    scaled = (logs - np.median(logs)) / noise
    if given["cost"] == "l1":
        search = ruptures.Pelt(model="l1", min_size=given["least"], jump=2).fit(scaled)
        penalty = given["penalty"]
    else:
        search = ruptures.KernelCPD(kernel=given["cost"], min_size=given["least"]).fit(scaled)
        penalty = given["penalty"] if given["cost"] == "linear" else given["penalty"] / 10
    places = search.predict(pen=penalty * np.log(len(values)))[:-1]
    magnitude = np.log1p(given["magnitude"])
    bounds = [0, *places, len(values)]
    return [
        int(at)
        for i, at in enumerate(places)
        if abs(np.median(logs[at : bounds[i + 2]]) - np.median(logs[bounds[i] : at])) >= magnitude
    ]


FINDERS: dict[str, Callable[[list[float], dict[str, Any]], list[int]]] = {
    "otava": otava,
    "pelt": pelt,
}


def main() -> None:
    for line in sys.stdin:
        finder, given, values = json.loads(line)
        print(json.dumps(FINDERS[finder](values, given)), flush=True)


if __name__ == "__main__":
    main()
