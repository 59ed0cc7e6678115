"""What a worker answers when a method ends in an unusual way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from rpc_runtime import Codec, Fault, Method, context
from rpc_runtime.errors import received_fault
from rpc_runtime.protocol.message import Message
from rpc_runtime.protocol.reply import Reply, read_fault
from rpc_runtime.protocol.request_rules import Run
from rpc_runtime.worker.executor import Execution, result_reply

METHOD: Method[str] = Method("get", returns=str)


async def fault_of(raise_it: Callable[[], Any], codec: Codec = Codec.JSON) -> tuple[str, str]:
    """Returns the fault with which a run of this function ends."""
    run = Run(METHOD, codec, None, False, None)

    async def invoke(_: tuple[Any, ...]) -> Reply:
        return result_reply(METHOD, codec, raise_it())

    reply = await Execution(run, Message(b"{}"), 1000).run(invoke)
    assert reply is not None
    return read_fault(codec, reply.body)


def failing(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


async def test_a_method_answers_with_its_own_fault() -> None:
    assert await fault_of(failing(Fault("rejected", "too busy"))) == ("rejected", "too busy")


@pytest.mark.parametrize("code", ["rejected", "unknown_method", "interrupted"])
async def test_the_fault_of_another_call_does_not_deny_that_the_method_ran(code: str) -> None:
    got, text = await fault_of(failing(received_fault(code, "elsewhere")))
    assert (got, text) == ("panicked", "the method raised Fault")


@pytest.mark.parametrize(
    "error",
    [
        Fault("rejected", None),  # type: ignore[arg-type]
        Fault("rejected", retry_after=float("nan")),
        Fault("rejected", retry_after=float("inf")),
        GeneratorExit(),
    ],
)
async def test_no_exception_ends_the_task_that_settles_the_request(error: BaseException) -> None:
    code, _ = await fault_of(failing(error))
    assert code == "panicked"


async def test_text_that_is_not_utf_8_is_an_error_of_the_method() -> None:
    assert (await fault_of(failing(Fault("\ud800", ""))))[0] == "panicked"
    assert (await fault_of(lambda: "\ud800"))[0] == "unanswerable"


async def test_a_thread_of_a_method_can_ask_for_the_time_that_is_left() -> None:
    async def invoke(_: tuple[Any, ...]) -> Reply:
        left = await asyncio.to_thread(lambda: context().time_left)
        return result_reply(METHOD, Codec.JSON, "none" if left is None else str(left))

    async def answer(time_to_live: float | None) -> str:
        run = Run(METHOD, Codec.JSON, time_to_live, False, None)
        reply = await Execution(run, Message(b"{}"), 1000).run(invoke)
        assert reply is not None
        return str(json.loads(reply.body))

    assert await answer(None) == "none"
    assert 0.0 < float(await answer(60.0)) <= 60.0
