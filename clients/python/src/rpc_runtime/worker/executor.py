"""Runs a method, and turns its end into a reply."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from ..codec import Codec, CodecError, form_of
from ..codec.method_bodies import decode_arguments, encode_value
from ..deadline import ambient_deadline, now
from ..describe import Method
from ..errors import Fault, MethodError
from ..protocol import fault_code
from ..protocol.headers import visible
from ..protocol.jobs import attempts_of
from ..protocol.message import Message, text_headers
from ..protocol.names import RETRY_AFTER_HEADER
from ..protocol.reply import Reply, ReplyKind, fault_reply
from ..protocol.request_rules import Run
from .context import Context, current

_log = logging.getLogger("rpc_runtime")

# How many seconds a cancellable method may go on after its deadline. It is cancelled then, and has
# as many seconds to end.
_ABANDONED_AFTER = 1.0


class Execution:
    """One run of a method."""

    def __init__(self, run: Run, message: Message, max_reply_bytes: int) -> None:
        self._run = run
        self._message = message
        self._max_reply_bytes = max_reply_bytes
        self._is_cancelled = False
        self._task: asyncio.Task[Reply] | None = None
        # If there is a stream, the time to live only limits the time until its first message.
        time_limit = run.time_to_live if run.stream is None else None
        self.context = Context(
            method=run.method.name,
            request_id=message.correlation_id,
            headers=visible(text_headers(message.headers)),
            deadline=now() + time_limit if time_limit else None,
            is_redelivered=run.is_redelivered,
            attempt=attempts_of(message.headers) + 1,
            app_id=message.app_id,
            user_id=message.user_id,
            clock=asyncio.get_running_loop().time,
        )

    def cancel(self) -> None:
        """Tells the method that nobody waits. Stops it if it runs and may be cancelled."""
        self.context.cancelled.set()
        if self._run.method.is_cancellable and self._task is not None:
            self._is_cancelled = True
            self._task.cancel()

    async def run(self, invoke: Callable[[tuple[Any, ...]], Awaitable[Reply]]) -> Reply | None:
        """Reads the arguments, calls the method with them by `invoke`, and returns the reply.

        If any of that fails, the reply is a fault. Returns `None` if `cancel` has ended the method,
        because then nobody waits for its reply.
        """
        method, codec = self._run.method, self._run.codec
        try:
            arguments = decode_arguments(method, self._message.body, codec)
        except CodecError as error:
            return fault_reply(codec, fault_code.BAD_REQUEST, str(error))
        self._task = asyncio.get_running_loop().create_task(
            self._invoke(invoke, arguments), name=f"rpc {method.name}"
        )
        deadline = self.context.deadline
        try:
            # Only a method that may be cancelled is stopped after its deadline.
            limit = None
            if deadline is not None and method.is_cancellable:
                limit = max(0.0, deadline - now()) + _ABANDONED_AFTER
            done, _ = await asyncio.wait({self._task}, timeout=limit)
            if not done:
                self._task.cancel()
                await asyncio.wait({self._task}, timeout=_ABANDONED_AFTER)
                _keep_until_done(self._task)
                reason = "the method did not end within a second after its deadline"
                return fault_reply(codec, fault_code.ABANDONED, reason)
            if self._task.cancelled():
                # By `cancel`, or by the method itself.
                if self._is_cancelled:
                    return None
                return fault_reply(codec, fault_code.PANICKED, "the method cancelled itself")
            # Such as `GeneratorExit`: `_invoke` turns any `Exception` into a reply.
            failure = self._task.exception()
            if failure is not None:
                return panicked_reply(method, codec, failure)
            return self._limited(self._task.result())
        finally:
            # If this task is cancelled, so is the method.
            self._task.cancel()

    async def _invoke(
        self, invoke: Callable[[tuple[Any, ...]], Awaitable[Reply]], arguments: tuple[Any, ...]
    ) -> Reply:
        """Calls the method in its context. An exception becomes a reply."""
        current.set(self.context)
        ambient_deadline.set(self.context.deadline)
        try:
            return await invoke(arguments)
        except Exception as error:
            try:
                return error_reply(self._run.method, self._run.codec, error)
            except Exception as failure:
                # The method's exception cannot be written, such as a fault whose code is no text.
                return panicked_reply(self._run.method, self._run.codec, failure)

    def _limited(self, reply: Reply) -> Reply:
        """Returns the reply, or a fault if it is too large to be sent."""
        size, limit = len(reply.body), self._max_reply_bytes
        if size <= limit:
            return reply
        reason = (
            f"the method ran, and its reply of {size} bytes is larger than the {limit} bytes "
            "that may be sent"
        )
        return fault_reply(reply.codec, fault_code.REPLY_TOO_LARGE, reason)


_unstoppable: set[asyncio.Task[Reply]] = set()


def _keep_until_done(task: asyncio.Task[Reply]) -> None:
    """Keeps a task that ignores its cancellation from being collected while it runs.

    The event loop has only weak references to tasks.
    """
    if not task.done():
        _unstoppable.add(task)
        task.add_done_callback(_unstoppable.discard)


def result_reply(method: Method[Any], codec: Codec, value: Any) -> Reply:
    """Makes the reply with a result, or with a fault if the result cannot be written."""
    try:
        body = encode_value(method.types_in(form_of(codec)).returns, value, codec)
    except CodecError as error:
        return fault_reply(codec, fault_code.UNANSWERABLE, str(error))
    return Reply(ReplyKind.RESULT, codec, body)


def error_reply(method: Method[Any], codec: Codec, error: Exception) -> Reply:
    """Makes the reply for an exception: a fault that the method raises, or its own error.

    Any other exception is `panicked`, and so is a fault that the method received from a call of its
    own. A method's error that cannot be written becomes `unanswerable`.
    """
    if isinstance(error, Fault) and not error.is_received:
        reply = fault_reply(codec, error.code, error.message)
        if error.retry_after is not None:
            reply.headers[RETRY_AFTER_HEADER] = str(max(0, int(error.retry_after * 1000)))
        return reply
    converter = method.types_in(form_of(codec)).error
    if isinstance(error, MethodError) and converter is not None and isinstance(error, method.error):
        try:
            return Reply(ReplyKind.ERROR, codec, encode_value(converter, error, codec))
        except CodecError as reason:
            return fault_reply(codec, fault_code.UNANSWERABLE, str(reason))
    return panicked_reply(method, codec, error)


def panicked_reply(method: Method[Any], codec: Codec, error: BaseException) -> Reply:
    """Logs an exception that the method may not answer with, and makes the reply for it."""
    _log.error("the method %s raised an exception", method.name, exc_info=error)
    # The exception's text may hold what the caller must not see.
    name = type(error).__name__
    return fault_reply(codec, fault_code.PANICKED, f"the method raised {name}")
