"""A process that plays an upstream: it answers on one port, and on another is told and asked.

What it answers its module says; here it only listens. A line on the control port is handed to that
module, and what it says is the answer. Called by `_upstream` and `_troublesome`, each run as
`python -m benchmarks.MODULE PORT CONTROL`.
"""

import asyncio
import gc
import sys
from collections.abc import Callable

import msgspec
import uvloop

Answering = Callable[[asyncio.AbstractEventLoop], asyncio.Protocol]
"""Makes what has one connection."""

Told = Callable[[bytes], msgspec.Struct]
"""Hears a line of the control port, and says what has been seen."""


def main(answering: Answering, told: Told) -> None:
    port, control = map(int, sys.argv[1:])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(answering, told, port, control))


async def _serve(answering: Answering, told: Told, port: int, control: int) -> None:
    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(msgspec.json.encode(told(line)) + b"\n")
        writer.close()

    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: answering(loop), "127.0.0.1", port, backlog=1024)
    await asyncio.start_server(hear, "127.0.0.1", control)
    gc.freeze()
    await asyncio.Event().wait()
