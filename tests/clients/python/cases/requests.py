"""Arguments, headers, times, cancellation, and requests without a reply."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import conformance as api
from rpc_runtime import Executed, Fault, RpcError, TimedOut

from .case import case
from .context import Caller, Failed, ensure, entry, fails, until

PATIENCE = (0.5, 2, 8)
"""How long a request may take to reach its method. After that, its method does not begin."""

WORKERS = 3
"""There is a worker in each of three languages."""


@case
async def arguments(caller: Caller) -> None:
    ensure(await caller.client.words_join("one", "two", "four") == "one two four")
    ensure(await caller.client.words_join("", None, "") == " - ")


@case
async def default_argument(caller: Caller) -> None:
    ensure(await caller.client.words_join("one") == "one - three")


@case
async def alias(caller: Caller) -> None:
    ensure(await caller.foreign.join("\U0001f980") == "\U0001f980 - three")


@case
async def unknown_argument(caller: Caller) -> None:
    ensure(await caller.foreign.double(3, 9) == 6)


@case
async def names(caller: Caller) -> None:
    ensure(await caller.client.with_options_(100, 20, 3) == 123)


@case
async def default_method(caller: Caller) -> None:
    ensure(await caller.client.double(2**32 - 1) == 8_589_934_590)


@case
async def header(caller: Caller) -> None:
    for value in ("", "acme", "\u20ac\U0001f980"):
        client = caller.client.with_options(headers={"x-tenant": value})
        back = await client.header("x-tenant")
        ensure(back == value, value, "came back as", back)
    ensure(await caller.client.header("x-tenant") is None)


@case
async def time_left(caller: Caller) -> None:
    left = await caller.client.with_options(timeout=10).time_left()
    ensure(left is not None and 2000 <= left <= 10_000, left)


@case
async def many_calls(caller: Caller) -> None:
    doubles = await asyncio.gather(*(caller.client.double(number) for number in range(300)))
    ensure(doubles == [2 * number for number in range(300)])


@case
async def deadline(caller: Caller) -> None:
    ensure(await caller.client.sleep(1) == 1)
    # Without a limit of its own, the client has that of the method.
    client = api.ConformanceClient(caller.connection, caller.client.queue)
    # A busy caller may not send the call in time, and a busy worker may not begin it.
    for _ in range(3):
        began = time.monotonic()
        error = await fails(client.sleep(12_000), RpcError)
        waited = time.monotonic() - began
        if error.executed is not Executed.NO:
            break
    ensure(isinstance(error, TimedOut), error)
    ensure(error.executed is Executed.MAYBE and not error.retryable)
    ensure(0.49 <= waited < 10, waited)


async def _stops(caller: Caller, give_up: Callable[[str, float], Awaitable[None]]) -> None:
    """Fails unless the method stops whose caller gives up after some time."""
    for patience in PATIENCE:
        name = entry("wait")
        await give_up(name, patience)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while await caller.client.stopped(name) == 0:
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.1)
                ensure(await caller.client.stopped(name) == 1)
                return
    raise Failed("the method does not stop")


@case
async def deadline_stops_the_method(caller: Caller) -> None:
    async def give_up(name: str, patience: float) -> None:
        client = caller.client.with_options(timeout=patience)
        # A second later, the worker says so itself. A busy caller may read that first. A busy
        # worker may not begin the method.
        error = await fails(client.wait(name, 60_000), RpcError)
        is_late = isinstance(error, Fault) and error.code in ("abandoned", "expired")
        ensure(is_late or isinstance(error, TimedOut), error)

    await _stops(caller, give_up)


@case
async def cancel(caller: Caller) -> None:
    async def give_up(name: str, patience: float) -> None:
        call = asyncio.ensure_future(caller.client.wait(name, 60_000))
        await asyncio.sleep(patience)
        ensure(not call.done(), "it should go on")
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call

    ensure(await caller.client.wait(entry("wait"), 1) == 1)
    await _stops(caller, give_up)


async def _ran(caller: Caller, name: str, times: int) -> None:
    async def has_run() -> bool:
        return await caller.client.runs(name) >= times

    await until("the method runs", has_run)
    # Once more is once too often.
    await asyncio.sleep(0.3)
    runs = await caller.client.runs(name)
    ensure(runs == times, "it ran", runs, "times")


@case
async def notify(caller: Caller) -> None:
    name = entry("notify")
    await caller.client.notify(name)
    await _ran(caller, name, 1)


@case
async def job(caller: Caller) -> None:
    first, third = entry("job"), entry("job")
    await caller.client.record(third, 2)
    await caller.client.record(first, 0)
    await _ran(caller, first, 1)
    await _ran(caller, third, 3)


@case
async def dying_job(caller: Caller) -> None:
    name = entry("dying")
    await caller.client.record(name, 9)
    await _ran(caller, name, 4)


@case
async def delayed_job(caller: Caller) -> None:
    name = entry("delayed")
    began = time.monotonic()
    await caller.client.with_options(delay=1).record(name, 0)
    await _ran(caller, name, 1)
    ensure(time.monotonic() - began >= 1, "it ran too early")


@case
async def broadcast(caller: Caller) -> None:
    name = entry("ask")
    answers = await caller.everyone.with_options(expect_workers=WORKERS).ask(name).collect()
    ensure([answer.result() for answer in answers] == [name] * WORKERS, answers)
    ensure(len({answer.worker.id for answer in answers}) == WORKERS)


@case
async def failing_broadcast(caller: Caller) -> None:
    answers = 0
    async for answer in caller.everyone.with_options(expect_workers=WORKERS).ask(""):
        answers += 1
        try:
            answer.result()
        except api.RefusalClosed:
            continue
        ensure(False, answer)
    ensure(answers == WORKERS, answers, "answers")


@case
async def notifying_broadcast(caller: Caller) -> None:
    name = entry("tell")
    await caller.client.tell(name)
    await _ran(caller, name, 1)
