"""How other servers form batches, as policies to measure ours against, faithful to their source.

Learned by reading, in copies of the public repositories that each class names, on 2026-11-21;
nothing of them is run here. What a server does besides batching (parsing, processes, round trips)
is left out, and so are polls and wake-ups: a policy acts at the moment from which its server would.

They queue in order of arrival and know neither targets nor deadlines, so their simulation puts each
request's arrival as its target; the earliest target is taken for what came first. Only Triton has
priorities, strict ones: for each level, a target that is earlier by more than a trace lasts.

None of them has one queue for each shape: a batch is the requests at the front as far as they have
one shape. Triton does that (its known defect, server#3395); the others would stack unequal shapes
and fail, so this is in their favour. None cuts a request in two, as BentoML does to fill a batch.

`GRIDS` are the parameters over which whoever compares tunes each of them. It is no part of serving:
only `./bench policies` and tests call it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from paceline.flow.queue import NEVER, Queue, Waiting
from paceline.serve.batcher import Dispatch, Drop, Hold, Learned, Reason

_target = attrgetter("target_s")


class Triton:
    """NVIDIA Triton: waits for a preferred size, until the oldest has waited for `delay_s`.

    triton-inference-server/core, src/dynamic_batch_scheduler.cc at 65fd535 (2026), and what fills
    in the preferred size, src/model_config_utils.cc. Requests join in order until the next would
    exceed `most` or has another shape. While the oldest of them is not overdue, the largest
    preferred size met on the way is sent; or all, where none was met and one more would exceed
    every preferred size. Once it is overdue, all are. Without a delay whatever there is is sent at
    once. With no preferred size, `most` is the one.

    Triton forms up to two batches an instance ahead, which grow and merge until one is free; here a
    batch is formed then. With no preferred size this is the same.
    """

    def __init__(self, preferred: tuple[int, ...], delay_s: float, most: int) -> None:
        self._preferred = preferred
        self._delay_s = delay_s
        self._most = most

    def decide(self, now: float, queue: Queue, learned: Learned, cap: int) -> Dispatch | Hold:
        most = min(self._most, cap)
        preferred = {size for size in self._preferred if size <= most} or {most}
        front, closed = _front(queue, most)
        rows = best = 0
        for each in front:
            if rows and not best and rows + each.rows > max(preferred):
                best = rows
            if rows and rows + each.rows > most:
                closed = True
                break
            rows += each.rows
            if rows in preferred:
                best = rows
        overdue_s = min(each.arrived_s for each in front) + self._delay_s
        bucket = front[0].bucket
        if best and (now < overdue_s or not self._delay_s):
            return Dispatch(bucket, min(best, most), "size reached")
        if closed or rows >= max(preferred):
            return Dispatch(bucket, min(rows, most), "size reached")
        if now >= overdue_s:
            return Dispatch(bucket, rows, "wait exceeded" if self._delay_s else "idle worker")
        return Hold(overdue_s, "wait exceeded")

    def ran(self, now: float, rows: int, seconds: float) -> None:
        pass


class _Window:
    """Of a worker that collects: since when, until when, and how many requests it has."""

    def __init__(self, opened_s: float) -> None:
        self.opened_s = opened_s
        self.ends_s = opened_s
        self.held = 0

    def reopen(self, now: float, timeout_s: float) -> None:
        over = (now - self.opened_s) // timeout_s if timeout_s else 0
        self.ends_s = self.opened_s + (over + 1) * timeout_s


class LitServe:
    """LitServe: each worker collects for `timeout_s`, or until it has `most` requests.

    Lightning-AI/LitServe 0.2.17, src/litserve/loops/base.py at 0272d07 (2026), `collate_requests`.
    The time counts from when the worker begins to collect, not from the first request: an idle
    worker's window passes empty and opens anew, again and again, so what arrives waits for what is
    left of one, and what waits when a worker gets free waits for a whole one. Idle workers take
    turns in taking requests out of the one queue. Without a timeout a worker takes what there is.
    It counts requests, not their rows.

    Which of the requests a worker took is not kept: a batch gets as many of the oldest. Whoever
    leaves meanwhile stays counted; LitServe would even run them.
    """

    def __init__(self, most: int, timeout_s: float) -> None:
        self._most = most
        self._timeout_s = timeout_s
        self._windows: list[_Window] = []

    def decide(self, now: float, queue: Queue, learned: Learned, cap: int) -> Dispatch | Hold:
        windows = self._windows
        if not windows:  # a worker that was never seen; it has been collecting since the start
            windows.append(_Window(0.0))
        self._collect(now, len(queue))
        front, _ = _front(queue, self._most)
        for window in windows:
            full = window.held >= self._most
            if full or (window.held and now >= window.ends_s):
                windows.remove(window)
                reason: Reason = "wait exceeded" if self._timeout_s else "idle worker"
                _, rows = _filled(front[: window.held], cap)
                return Dispatch(front[0].bucket, rows, "size reached" if full else reason)
        return Hold(min(each.ends_s for each in windows if each.held), "wait exceeded")

    def _collect(self, now: float, waiting: int) -> None:
        """Who has how many of those that wait."""
        held = sum(each.held for each in self._windows)
        for window in self._windows:
            if not window.held:
                window.reopen(now, self._timeout_s)
        while held < waiting:
            least = min(self._windows, key=lambda each: each.held)
            if least.held >= self._most:
                break
            least.held += 1
            held += 1

    def ran(self, now: float, rows: int, seconds: float) -> None:
        self._windows.append(_Window(now))


class _Step(NamedTuple):
    """Of BentoML's training: so many batches, before each of which it waits for `size` requests and
    gives up who is late only where more than `needed` wait."""

    needed: int
    batches: int
    size: int


TRAINING = (_Step(2, 8, 1), _Step(6, 1, 1), _Step(5, 1, 2), _Step(3, 1, 3))
"""With which BentoML learns the first line; the first step is to warm up the model."""

UNTRUSTED = 2
"""First batches that BentoML does not learn from."""

KEPT = 50
"""Batches that BentoML learns from."""

REFRESH_S = 5.0
"""Between two fits of BentoML's line, at least."""

TICK_S = 0.001
"""How long BentoML expects the next request to be away."""

DECAY = 0.95
"""By which BentoML shortens the wait that it is used to."""


class _Sent(NamedTuple):
    rows: int
    requests: int
    waited_s: float


class BentoML:
    """BentoML: fits a * n + b to its batches, waits while that may pay, and sheds who is late.

    bentoml/BentoML, src/bentoml/_internal/marshal/dispatcher.py, in a copy of main from after pull
    request 4619 (2024), which made it serve first who came first. The line is fitted to the last 50
    batches, no more often than every 5 s; n counts requests, not rows. With n waiting, of whom the
    newest came w seconds ago, it waits while n * (w + 1 ms + a) is at most 0.95 of what the first
    of recent batches have waited. The first of the queue is shed once its age and a * n + b reach
    `latency_ms`; n is all that wait, although no batch has more than `most` rows, so under a
    backlog it sheds whom the next batch would have served in time. Before, eleven batches train it.

    It sheds while a batch runs as well as after it. Here it is asked only after, and then sheds the
    same ones: n and age have only grown.
    """

    def __init__(self, most: int, latency_ms: float) -> None:
        self._most = most
        self._latency_s = latency_ms / 1e3
        self._fixed_s = min(1.0, self._latency_s / 30)
        self._each_s = min(2.0, self._latency_s * 2 / 30)
        self._usual_wait_s = 0.0
        self._kept: deque[tuple[int, float, float]] = deque(maxlen=KEPT)
        self._sent: deque[_Sent] = deque(maxlen=KEPT)  # bounded: one that failed is never taken out
        self._untrusted = UNTRUSTED
        self._refreshed_s = -NEVER
        self._step = 0
        self._trained = 0
        self._patience_s = 0.0

    def decide(
        self, now: float, queue: Queue, learned: Learned, cap: int
    ) -> Dispatch | Hold | Drop:
        first = queue.first()
        assert first is not None
        if self._step < len(TRAINING):
            return self._train(now, queue, cap, first)
        waiting = len(queue)
        late_s = first.arrived_s + self._latency_s
        if waiting > 1:  # alone it is shed only when too late already, while a batch runs
            late_s -= self._expected_s(waiting)
        if now >= late_s:
            return Drop(first)
        if waiting < self._most:
            newest_s = max(each.arrived_s for each in queue)
            corked_s = self._usual_wait_s * DECAY / waiting - TICK_S - self._each_s
            if now < newest_s + corked_s:
                return Hold(min(newest_s + corked_s, late_s), "adaptive")
        return self._send(queue, cap, now - first.arrived_s)

    def ran(self, now: float, rows: int, seconds: float) -> None:
        index = next((i for i, each in enumerate(self._sent) if each.rows == rows), 0)
        sent = self._sent[index]
        del self._sent[index]
        if self._untrusted:
            self._untrusted -= 1
            return
        self._kept.append((sent.requests, seconds, sent.waited_s))
        if now - self._refreshed_s >= REFRESH_S:
            self._refreshed_s = now
            self._refresh()

    def _train(self, now: float, queue: Queue, cap: int, first: Waiting) -> Dispatch | Hold | Drop:
        step = TRAINING[self._step]
        waiting = len(queue)
        if waiting > step.needed - self._trained and now >= first.arrived_s + self._latency_s:
            return Drop(first)
        size = min(step.size, self._most)
        until_s = first.arrived_s + self._patience_s - self._expected_s(size)
        if waiting < size and now < until_s:
            return Hold(until_s, "adaptive")
        self._trained += 1
        if self._trained == step.batches:
            self._next_step()
        return self._send(queue, cap, 0.0)

    def _next_step(self) -> None:
        if self._step:
            self._refresh()
        self._step += 1
        self._trained = 0
        if self._step < len(TRAINING):
            size = min(TRAINING[self._step].size, self._most)
            self._patience_s = min(self._latency_s * DECAY, self._expected_s(2 * size + 1))

    def _send(self, queue: Queue, cap: int, waited_s: float) -> Dispatch:
        most = min(self._most, cap)
        front, _ = _front(queue, most)
        requests, rows = _filled(front, most)
        self._sent.append(_Sent(rows, requests, waited_s))
        return Dispatch(front[0].bucket, rows, "size reached" if rows == most else "adaptive")

    def _expected_s(self, requests: int) -> float:
        return self._fixed_s + self._each_s * requests

    def _refresh(self) -> None:
        if not self._kept:
            return
        sizes, seconds, waits = zip(*self._kept, strict=True)
        # Where all have one size, this is the shortest of the vectors that fit, as there.
        factors = np.linalg.lstsq([(size, 1) for size in sizes], seconds, rcond=None)[0]
        self._each_s = max(1e-6, float(factors[0]))
        self._fixed_s = max(0.0, float(factors[1]))
        self._usual_wait_s = sum(waits) / len(waits)


class MLServer:
    """MLServer: `window_s` from a batch's first request, or `most` requests, busy or not.

    SeldonIO/MLServer, mlserver/batching/adaptive.py and hooks.py at 7b25540 (2025). Batches are
    formed in the server's own process as requests arrive, without looking whether a worker is free:
    those that queue for one stay as they were formed. After each request the window is shortened by
    all the time since the batch began, not only by what is new, so that the third and later ones
    cut it short. Without a window, or with a size of one, each request runs alone. It counts
    requests, not rows.

    A batch goes to the workers in turn there, and here to the one that is free first.
    """

    def __init__(self, most: int, window_s: float) -> None:
        self._most = most
        self._window_s = window_s

    def decide(self, now: float, queue: Queue, learned: Learned, cap: int) -> Dispatch | Hold:
        if self._most <= 1 or self._window_s <= 0:
            front, _ = _front(queue, 1)
            return Dispatch(front[0].bucket, min(front[0].rows, cap), "idle worker")
        front, _ = _front(queue, self._most)
        requests, closes_s = self._formed(each.arrived_s for each in front)
        if now < closes_s:
            return Hold(closes_s, "wait exceeded")
        full = requests == self._most
        _, rows = _filled(front[:requests], cap)
        return Dispatch(front[0].bucket, rows, "size reached" if full else "wait exceeded")

    def _formed(self, arrivals: Iterable[float]) -> tuple[int, float]:
        """How many of these are the first batch, and when that was, or will be, formed."""
        begun_s = closes_s = -NEVER
        left_s = self._window_s
        requests = 0
        for arrived_s in arrivals:
            if not requests:
                begun_s = arrived_s
            elif arrived_s > closes_s:
                break
            requests += 1
            left_s -= arrived_s - begun_s
            closes_s = arrived_s + max(0.0, left_s)
            if requests == self._most:
                return requests, arrived_s
        return requests, closes_s

    def ran(self, now: float, rows: int, seconds: float) -> None:
        pass


def _front(queue: Queue, most: int) -> tuple[list[Waiting], bool]:
    """The first of all and those right behind it of its shape, at most so many; and whether another
    shape is what ended them."""
    first = queue.first()
    assert first is not None
    other_s = min(
        (each.target_s for each in queue.heads() if each.bucket != first.bucket), default=NEVER
    )
    if other_s == NEVER and max(queue.held_by_rank) == queue.held:
        return list(islice(queue, most)), False  # one lane, which is in order
    same = [each for each in queue if each.bucket == first.bucket and each.target_s <= other_s]
    same.sort(key=_target)
    return same[:most], other_s != NEVER and len(same) <= most


def _filled(front: list[Waiting], most_rows: int) -> tuple[int, int]:
    """How many of these come within so many rows, the first in any case, and their rows."""
    requests = 1
    rows = min(front[0].rows, most_rows)
    for each in front[1:]:
        if rows + each.rows > most_rows:
            break
        requests += 1
        rows += each.rows
    return requests, rows


# --- What each is tuned over ----------------------------------------------------------------------

Point = partial[Triton] | partial[LitServe] | partial[BentoML] | partial[MLServer]
"""Makes a policy; its `keywords` tell which."""

Grid = Callable[[float, Callable[[int], float], int], Sequence[Point]]
"""By the objective in seconds, how long a batch of a size takes, and the most rows of one."""

DELAYS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of the objective to wait for company."""

FEW_DELAYS = (0.0, 0.1, 0.3)

WINDOWS = (0.1, 0.3, 0.5, 1.0, 2.0)
"""MLServer's are wider: under load its requests cut them short, and only then do they pay."""

LATENCIES = (0.5, 0.8, 1.0, 1.5, 2.0)
"""BentoML's latency as shares of the objective; its default of a minute comes on top."""

BENTOML_LATENCY_MS = 60_000.0

SIZES = (1, 2, 4, 8, 16, 32, 64)


def _sizes(slo_s: float, typical: Callable[[int], float], most: int) -> list[int]:
    """The largest batch that is in time after waiting for another as large, and the largest that is
    in time on its own: what somebody tries who has measured the model."""
    sizes = [*(size for size in SIZES if size < most), most]
    largest = {
        max((size for size in sizes if times * typical(size) <= slo_s), default=sizes[0])
        for times in (1, 2)
    }
    return sorted(largest)


def _triton(slo_s: float, typical: Callable[[int], float], most: int) -> list[partial[Triton]]:
    *smaller, largest = _sizes(slo_s, typical, most)
    several = tuple(size for size in SIZES if 4 <= size < largest)
    tried: list[tuple[tuple[int, ...], float, int]] = [((), delay, largest) for delay in DELAYS]
    tried += [((), delay, size) for size in smaller for delay in FEW_DELAYS]
    if several:
        tried += [((*several, largest), delay, largest) for delay in FEW_DELAYS]
    return [
        partial(Triton, preferred=preferred, delay_s=delay * slo_s, most=size)
        for preferred, delay, size in tried
    ]


def _litserve(slo_s: float, typical: Callable[[int], float], most: int) -> list[partial[LitServe]]:
    return [
        partial(LitServe, most=size, timeout_s=delay * slo_s)
        for size in _sizes(slo_s, typical, most)
        for delay in DELAYS
    ]


def _bentoml(slo_s: float, typical: Callable[[int], float], most: int) -> list[partial[BentoML]]:
    return [
        partial(BentoML, most=size, latency_ms=latency_ms)
        for size in _sizes(slo_s, typical, most)
        for latency_ms in (*(share * slo_s * 1e3 for share in LATENCIES), BENTOML_LATENCY_MS)
    ]


def _mlserver(slo_s: float, typical: Callable[[int], float], most: int) -> list[partial[MLServer]]:
    return [partial(MLServer, most=1, window_s=0.0)] + [
        partial(MLServer, most=size, window_s=window * slo_s)
        for size in _sizes(slo_s, typical, most)
        for window in WINDOWS
    ]


GRIDS: dict[str, Grid] = {
    "triton": _triton,
    "litserve": _litserve,
    "bentoml": _bentoml,
    "mlserver": _mlserver,
}
"""By name, what each is tuned over: twelve points at most."""
