"""What cases call, and how they look at the outcome."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import conformance as api
import rpc_runtime
from foreign import ForeignClient
from rpc_runtime import Executed

LIMIT = 20.0

E = TypeVar("E", bound=Exception)
T = TypeVar("T")


class Caller:
    """The clients."""

    def __init__(self, connection: rpc_runtime.Connection, queue: str, everyone: str) -> None:
        self.connection = connection
        self.is_json = connection.codec is rpc_runtime.Codec.JSON
        self.client = api.ConformanceClient(connection, queue).with_options(timeout=LIMIT)
        """The queue of one worker."""
        self.everyone = api.ConformanceClient(connection, everyone).with_options(timeout=LIMIT)
        """The queue that a worker of each language serves."""
        self.foreign = ForeignClient(connection, queue).with_options(timeout=LIMIT)
        """The first queue, with another idea of the service."""


class Failed(Exception):
    """A case failed."""


def ensure(condition: bool, *seen: object) -> None:
    """Fails the case unless the condition holds."""
    if not condition:
        raise Failed(" ".join(f"{each!r}" for each in seen) or "a condition does not hold")


def entry(name: str) -> str:
    """Returns an entry that nobody else uses."""
    return f"{name}-{uuid.uuid4().hex}"


async def echo(method: Callable[[T], Awaitable[T]], values: Iterable[T]) -> None:
    """Calls a method that returns its argument, with each of these values."""
    for value in values:
        back = await method(value)
        ensure(back == value and type(back) is type(value), value, "came back as", back)


async def fails(call: Awaitable[object], kind: type[E]) -> E:
    """Returns the exception with which a call fails."""
    try:
        result = await call
    except kind as error:
        return error
    raise Failed(f"expected {kind.__name__}, got {result!r}")


async def is_fault(call: Awaitable[object], code: str, executed: Executed) -> None:
    """Fails unless the call is answered with this fault."""
    error = await fails(call, rpc_runtime.Fault)
    ensure(error.code == code and error.executed is executed, error, error.executed)


async def until(what: str, condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits until a condition holds."""
    try:
        async with asyncio.timeout(LIMIT):
            while not await condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise Failed(f"waited in vain until {what}") from None
