"""Calls that fail, and whether their methods ran."""

from __future__ import annotations

from typing import Any

import conformance as api
from rpc_runtime import EncodeFailed, Executed, NoServer, TooLarge

from .case import case
from .context import Caller, Failed, ensure, entry, fails, is_fault
from .values import TEXTS, shapes


def is_refusal(error: api.Refusal, number: int) -> bool:
    """Tells whether this is the error of that number."""
    match number, error:
        case 0, api.RefusalUnknownUser(id=identity):
            return identity == 2**64 - 1
        case 1, api.RefusalClosed():
            return True
        case 2, api.RefusalTooMany(value=value):
            return value == 2**32 - 1
        case 3, api.RefusalNotBetween(value=values):
            return values == (-(2**63), 2**63 - 1)
    return False


REFUSALS = 4


@case
async def refusal(caller: Caller) -> None:
    ensure(await caller.client.refuse(2**64 - 1) == 2**64 - 1)
    for number in range(REFUSALS):
        error = await fails(caller.client.refuse(1, number), api.Refusal)
        ensure(is_refusal(error, number), error)
        ensure(error.executed is Executed.YES and not error.retryable)


@case
async def rejection(caller: Caller) -> None:
    await caller.client.reject(0)
    error = await fails(caller.client.reject(65535), api.Rejection)
    ensure((error.code, error.reason) == (65535, "code 65535"), error)


@case
async def complaint(caller: Caller) -> None:
    ensure(await caller.client.complain("") == 0)
    for text in TEXTS[1:]:
        error = await fails(caller.client.complain(text), api.ComplainFailed)
        ensure(error.error == text, text, error.error)


@case
async def shape_as_error(caller: Caller) -> None:
    await caller.client.fail_with_shape()
    for shape in shapes():
        error = await fails(caller.client.fail_with_shape(shape), api.FailWithShapeFailed)
        ensure(error.error == shape, shape, error.error)


@case
async def panic(caller: Caller) -> None:
    await is_fault(caller.client.panic(), "panicked", Executed.YES)


@case
async def unknown_method(caller: Caller) -> None:
    await is_fault(caller.foreign.unknown(), "unknown_method", Executed.NO)


@case
async def argument_of_another_type(caller: Caller) -> None:
    await is_fault(caller.foreign.echo_u8("seven"), "bad_request", Executed.NO)


@case
async def missing_argument(caller: Caller) -> None:
    await is_fault(caller.foreign.echo_i16(), "bad_request", Executed.NO)


@case
async def invalid_argument(caller: Caller) -> None:
    client = caller.client
    calls: list[tuple[Any, Any]] = [
        (client.echo_u8, 256),
        (client.echo_u8, -1),
        (client.echo_u8, True),
        (client.echo_i64, 2**63),
        (client.echo_u128, 2**128),
        (client.echo_text, 7),
        (client.echo_text, "\ud800"),
        (client.echo_char, "ab"),
        (client.echo_char, ""),
        (client.echo_color, "blue"),
        (client.echo_tuple, (1, "b", 2)),
    ]
    for method, value in calls:
        try:
            error = await fails(method(value), EncodeFailed)
        except Exception as other:
            raise Failed(f"{value!r}: {other}") from None
        ensure(error.executed is Executed.NO)


@case
async def no_server(caller: Caller) -> None:
    queue = entry("missing")
    missing = api.ConformanceClient(caller.connection, queue)
    error = await fails(missing.double(1), NoServer)
    ensure(error.queue == queue and error.executed is Executed.NO and error.retryable)


@case
async def request_too_large(caller: Caller) -> None:
    error = await fails(caller.client.echo_text("x" * (16 << 20)), TooLarge)
    ensure(error.limit == 16 << 20 and error.executed is Executed.NO)


@case
async def reply_too_large(caller: Caller) -> None:
    parts = [bytes(600 << 10)] * 2
    call = caller.client.concat(2**32 - 1, parts)
    await is_fault(call, "reply_too_large", Executed.YES)
