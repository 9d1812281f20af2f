"""aiohttp and httpx at work: `python clients_app.py CLIENT WORK`, WORK as in `_pooled.py`."""

# mypy: ignore-errors
# It imports what only the environment of the peer has.

import asyncio
import json
import resource
import ssl
import sys
import time
from contextlib import asynccontextmanager

import uvloop


@asynccontextmanager
async def with_aiohttp(work, tls):
    import aiohttp

    connector = aiohttp.TCPConnector(limit=work["connections"], ssl=tls or True)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def ask():
            async with session.post(work["url"], data=body, headers=headers) as answer:
                assert answer.status == 200
                return await answer.read()

        body, headers = work["body"].encode(), work["headers"]
        yield ask


@asynccontextmanager
async def with_httpx(work, tls):
    import httpx

    most = work["connections"]
    limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
    verify = tls or True
    async with httpx.AsyncClient(
        limits=limits, verify=verify, timeout=60, trust_env=False
    ) as client:

        async def ask():
            answer = await client.post(work["url"], content=body, headers=headers)
            assert answer.status_code == 200
            return answer.content

        body, headers = work["body"].encode(), work["headers"]
        yield ask


async def main(client, work):
    tls = ssl.create_default_context(cafile=work["ca_file"]) if work["ca_file"] else None
    took_s, ends = [], time.perf_counter() + work["warm_s"] + work["seconds"]
    counts_from = ends - work["seconds"]
    async with {"aiohttp": with_aiohttp, "httpx": with_httpx}[client](work, tls) as ask:

        async def caller():
            while True:
                begun = time.perf_counter()
                if begun > ends:
                    return
                answer = await ask()
                assert len(answer) == work["answer_bytes"]
                now = time.perf_counter()
                if counts_from < now < ends:
                    took_s.append(now - begun)

        callers = [asyncio.create_task(caller()) for _ in range(work["connections"])]
        await asyncio.sleep(work["warm_s"])
        spent_s = cpu_s()
        await asyncio.gather(*callers)
        spent_s = cpu_s() - spent_s
    took_s.sort()
    p99_s = took_s[len(took_s) * 99 // 100] if took_s else 0.0
    return {"answers": len(took_s), "p99_s": p99_s, "cpu_s": spent_s}


def cpu_s():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(main(sys.argv[1], json.loads(sys.argv[2])))))
