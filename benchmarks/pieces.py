"""What each piece of a request's way costs by itself: access, flow, codecs, the model, recording.

One thread, no network. Each figure is the median over rounds of many calls; the first piece is
timed twice in every round, which is the A/A.
"""

import argparse
import hashlib
import itertools
import json
import time
from collections.abc import Callable

import numpy as np

from benchmarks import record
from paceline.access.gate import Gate
from paceline.access.keys import Key, KeyRing
from paceline.access.sessions import Sessions, new_secret
from paceline.flow.breaker import Breaker
from paceline.flow.limiter import AdaptiveLimiter, FixedLimiter, Limiter, TokenBucket
from paceline.flow.retry import RetryBudget
from paceline.observe.board import Board
from paceline.serve import digits, predict, v2
from paceline.serve.onnx_model import OnnxModel
from paceline.terms.limits import BODY_BYTES, KEYS
from paceline.terms.metric import REQUEST_SECONDS, ROWS

CHECK_US = 10.0
BODY_MS = 2.0
PASS_US = 1.0
ASK_US = 0.5
WALL = 1.8e9


def secret_of(number: int) -> str:
    return f"pl_{number:026d}".replace("0", "a")


def ring_of(count: int) -> KeyRing:
    return KeyRing(
        Key(
            f"{number:08d}".translate(str.maketrans("0189", "abcd")),
            f"k{number}",
            "client",
            WALL,
            hashlib.sha256(secret_of(number).encode()).hexdigest(),
        )
        for number in range(count)
    )


def fullest_body() -> bytes:
    """As many values as BODY_BYTES can hold, the worst case for a parser: one digit each."""
    head = b'{"inputs":[{"name":"x","shape":[%d,64],"datatype":"FP32","data":['
    rows = (BODY_BYTES - len(head) - 40) // (2 * 64)
    return head % rows + b",".join([b"1"] * (64 * rows)) + b"]}]}"


def passing(limiter: Limiter) -> Callable[[], object]:
    """One request through it, a millisecond after the one before."""
    ticks = itertools.count()

    def one() -> None:
        now = next(ticks) * 1e-3
        limiter.try_enter(now)
        limiter.leave(now, 0.001, False)

    return one


def flow_pieces() -> dict[str, tuple[Callable[[], object], int]]:
    ticks = itertools.count()
    closed, opened = Breaker(), Breaker(least_calls=1)
    opened.failed(0.0, opened.ask(0.0), "down")
    ticket = closed.ask(0.0)
    bucket = TokenBucket(100_000, 60.0, 1_000_000, 0.0)
    budget = RetryBudget()
    return {
        "enter and leave, fixed limiter": (passing(FixedLimiter(16)), 1),
        "enter and leave, adaptive limiter": (passing(AdaptiveLimiter(0.03)), 1),
        "ask a closed breaker": (lambda: closed.ask(1.0), 1),
        "ask an open breaker": (lambda: opened.ask(0.5), 1),
        "tell a breaker of a success": (lambda: closed.succeeded(next(ticks) * 1e-3, ticket), 1),
        "take from a token bucket": (lambda: bucket.try_take(next(ticks) * 1e-3), 1),
        "ask a retry budget": (lambda: budget.try_retry(next(ticks) * 1e-3), 1),
    }


def time_us(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(calls):
        call()
    return (time.perf_counter_ns() - start) / calls / 1e3


def main() -> None:
    options = argparse.ArgumentParser(
        prog="./bench pieces",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--rounds", type=int, default=30)
    options.add_argument("--calls", type=int, default=2000)
    asked = options.parse_args()

    ring = ring_of(KEYS)
    secret = secret_of(KEYS // 2)
    assert ring.check(secret) is not None
    gate = Gate("0.0.0.0", ring, Sessions(new_secret(), 8080))
    headers = [
        (b"host", b"example.org:8080"),
        (b"content-type", b"application/json"),
        (b"authorization", b"Bearer " + secret.encode()),
    ]
    model = OnnxModel.load(digits.MODEL_PATH, digits.NAME)
    row = {"name": "x", "shape": [1, 64], "datatype": "FP32", "data": digits.SAMPLE_ROW}
    v2_body = json.dumps({"inputs": [row]}).encode()
    plain_body = json.dumps(digits.SAMPLE_ROW).encode()
    asked_v2 = v2.decode(v2_body, model.spec)
    outputs = model.run(asked_v2.inputs)
    assert int(np.asarray(outputs["label"])[0]) == digits.SAMPLE_LABEL
    full = fullest_body()
    assert BODY_BYTES - 200 < len(full) <= BODY_BYTES
    board = Board()
    rows = board.counter(ROWS, digits.NAME)
    seconds = board.sketch(REQUEST_SECONDS, digits.NAME)

    pieces: dict[str, tuple[Callable[[], object], int]] = {
        f"check a key among {KEYS}": (lambda: ring.check(secret), 1),
        f"check a key among {KEYS} again (A/A)": (lambda: ring.check(secret), 1),
        "admit a request with a key": (
            lambda: gate.admit("POST", "/v2/models/digits/infer", headers, WALL),
            1,
        ),
        "decode V2, one row": (lambda: v2.decode(v2_body, model.spec), 1),
        "decode predict, one row": (lambda: predict.decode(plain_body, model.spec), 1),
        "run digits, one row": (lambda: model.run(asked_v2.inputs), 1),
        "encode V2, one row": (lambda: v2.encode(model.spec, asked_v2, outputs), 1),
        **flow_pieces(),
        "count": (rows.add, 1),
        "record a duration": (lambda: seconds.record(0.00123), 1),
        f"decode V2, {len(full)} bytes of the shortest numbers": (
            lambda: v2.decode(full, model.spec),
            100,
        ),
    }
    samples: dict[str, list[float]] = {name: [] for name in pieces}
    for _ in range(asked.rounds):
        for name, (call, slower) in pieces.items():
            samples[name].append(time_us(call, max(1, asked.calls // slower)))
    figures = [record.figure(name, "µs", taken) for name, taken in samples.items()]
    check, again, admit, *_, longest = figures
    found = {each.name: each.median for each in figures}
    through = found["enter and leave, adaptive limiter"]
    asking = max(found["ask a closed breaker"], found["ask an open breaker"])
    record.write(
        "pieces",
        workload={"rounds": asked.rounds, "calls per round": asked.calls},
        figures=[
            *figures,
            record.figure("A/A, median to median", "x", [again.median / check.median]),
        ],
        verdicts=[
            record.Verdict(
                "a key check costs microseconds",
                f"{check.median:.2f} µs; a whole admission {admit.median:.2f} µs",
                admit.median <= CHECK_US,
            ),
            record.Verdict(
                f"through a limiter in less than {PASS_US:g} µs, in and out together",
                f"adaptive {through:.2f} µs",
                through <= PASS_US,
            ),
            record.Verdict(
                f"a breaker is asked in less than {ASK_US:g} µs",
                f"{asking:.2f} µs",
                asking <= ASK_US,
            ),
            record.Verdict(
                f"the longest body holds the loop for less than {BODY_MS:g} ms",
                f"median {longest.median / 1e3:.2f} ms",
                longest.median / 1e3 <= BODY_MS,
            ),
        ],
        packages=["numpy", "onnxruntime", "msgspec"],
    )


if __name__ == "__main__":
    main()
