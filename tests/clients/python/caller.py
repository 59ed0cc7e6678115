"""Runs all cases: `caller.py QUEUE EVERYONE CODEC`, with the broker in `AMQP_URL`.

Prints a line for each case, and exits with 1 if one of them failed.
"""

from __future__ import annotations

import asyncio
import os
import sys

import rpc_runtime
from cases import CASES, Caller, Case
from rpc_runtime import Codec

AT_ONCE = 4
LIMIT = 60.0


async def run(case: Case, caller: Caller, turns: asyncio.Semaphore) -> bool:
    """Runs a case, and says how it went."""
    async with turns:
        try:
            async with asyncio.timeout(LIMIT):
                await case.run(caller)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"failed {case.name}: {reason[:1000]}", flush=True)
            return False
        print(f"ok {case.name}", flush=True)
        return True


async def main(queue: str, everyone: str, codec: str) -> bool:
    """Runs all cases, some at once."""
    async with rpc_runtime.connect(
        os.environ["AMQP_URL"], codec={"msgpack": Codec.MESSAGE_PACK, "json": Codec.JSON}[codec]
    ) as connection:
        caller = Caller(connection, queue, everyone)
        turns = asyncio.Semaphore(AT_ONCE)
        return all(await asyncio.gather(*(run(case, caller, turns) for case in CASES)))


sys.exit(not asyncio.run(main(*sys.argv[1:])))
