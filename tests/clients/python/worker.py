"""Serves `Conformance` until SIGTERM: `worker.py QUEUE EVERYONE`, with the broker in `AMQP_URL`.

Prints `ready` once both queues are served. Workers in other languages serve `EVERYONE` too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import rpc_runtime
from reference import Reference

MAX_SENT_BYTES = 1024 * 1024


async def main(queue: str, everyone: str) -> None:
    """Serves the two queues."""
    reference = Reference()
    async with rpc_runtime.connect(
        os.environ["AMQP_URL"], max_sent_bytes=MAX_SENT_BYTES
    ) as connection:
        server = rpc_runtime.Server(connection, concurrency=32)
        server.add(reference, queue).add(reference, everyone)
        async with server:
            loop = asyncio.get_running_loop()
            stops = set[asyncio.Task[bool]]()
            loop.add_signal_handler(
                signal.SIGTERM, lambda: stops.add(loop.create_task(server.stop()))
            )
            print("ready", flush=True)
            await server.wait()


asyncio.run(main(*sys.argv[1:]))
