"""`./bench upstream`: its arithmetic, and our side of it against its server."""

from pathlib import Path

import msgspec
import pytest
from benchmarks import upstream
from benchmarks._pooled import Found
from benchmarks.upstream import AGAIN, AIOHTTP, CASES, HTTPX, OURS, Case, Run


@pytest.mark.parametrize("tls", [False, True])
def test_the_pool_asks_the_bare_server_and_counts_whole_answers(tls: bool, tmp_path: Path) -> None:
    certificate = upstream.make_certificate(tmp_path) if tls else None
    with upstream.served(certificate) as (port, _):
        for seconds in (0.1, 2.0, 20.0):  # a busy machine may not come to it in the first
            work = upstream.work_of(Case(4, tls), port, certificate, seconds)
            found = upstream.once(OURS, msgspec.structs.replace(work, warm_s=0.02), None)
            if found.answers:
                break
    assert found.answers > 0
    assert 0 < found.p99_s < 5
    assert 0 < found.cpu_s < 5


def test_rates_and_cpu_are_for_each_request() -> None:
    run = upstream.told(Found(100, 0.002, 0.05), 2.0)
    assert run == Run(per_s=50, p99_ms=2, cpu_us=500)


def found(ours: float, again: float, aiohttp: float, httpx: float) -> dict[tuple[Case, str], Run]:
    rates = {OURS: ours, AGAIN: again, AIOHTTP: aiohttp, HTTPX: httpx}
    return {(case, name): Run(rate, 1.0, 1.0) for case in CASES for name, rate in rates.items()}


def test_a_line_holds_only_beyond_the_noise() -> None:
    rounds = [found(300, 303, 100, 290), found(300, 297, 190, 10)]
    runs = {key: [each[key] for each in rounds] for key in rounds[0]}
    holds = {each.line: each.holds for each in upstream.verdicts(runs)}
    assert len(holds) == 2 * len(CASES)
    assert all(holds[line] is True for line in holds if AIOHTTP in line)
    assert all(holds[line] is None for line in holds if HTTPX in line)
    noisy = [found(300, 400, 190, 10)]
    runs = {key: [each[key] for each in noisy] for key in noisy[0]}
    holds = {each.line: each.holds for each in upstream.verdicts(runs)}
    assert all(holds[line] is None for line in holds if AIOHTTP in line)
    assert len(upstream.figures(runs)) == 3 * 4 * len(CASES)
