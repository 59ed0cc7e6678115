"""A channel: declarations, publishing with confirms, consuming."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import aiormq
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import DeliveryError, PublishError
from pamqp import commands

from ..protocol.message import Message
from ..tasks import any_set
from .blocking import Blocking
from .delivery import Delivery, encoding_problem, properties_of, read_delivery
from .errors import (
    ChannelLost,
    Forbidden,
    NotFound,
    check_cancelled,
    has_no_reason,
    is_loss,
)
from .room import Room

# How many seconds the broker may take to answer an AMQP method, such as a declaration.
STEP_TIMEOUT = 10.0
_MAX_UNCONFIRMED = 4096
_MAX_UNCONFIRMED_BYTES = 64 * 1024 * 1024

_T = TypeVar("_T")


class Published(enum.Enum):
    """What became of a message."""

    CONFIRMED = "confirmed"
    # It is `mandatory`, and no queue takes it.
    RETURNED = "returned"
    # The broker did not take it, for example because its queue is full.
    REFUSED = "refused"
    # The broker has closed `resend.MAX_CLOSED` channels that carried it, for example because it is
    # too large. `Channel.publish` never returns this: it raises `ChannelLost`.
    CLOSED = "closed"


class Channel:
    """A channel, until it or its connection is closed, or the broker cancels its consumer."""

    def __init__(self, raw: AbstractChannel, blocking: Blocking) -> None:
        self._raw = raw
        self._blocking = blocking
        # The tasks that acknowledge or reject, publish, and wait for other answers of the broker.
        self._acks: set[asyncio.Task[None]] = set()
        self._publishing: set[asyncio.Task[Any]] = set()
        self._steps: set[asyncio.Task[Any]] = set()
        # A message stays in memory until it is confirmed, even if nobody waits for that.
        self._room = Room(_MAX_UNCONFIRMED, _MAX_UNCONFIRMED_BYTES)
        self.closed = asyncio.Event()
        # Why the channel is closed, once it is.
        self.reason = "the channel was closed"
        raw.on_consumer_cancel_callbacks.add(self._on_consumer_cancelled)
        closing = raw.closing
        closing.add_done_callback(self._on_closed)

    @property
    def is_open(self) -> bool:
        """Whether the channel can be used."""
        return not self.closed.is_set() and not self._raw.is_closed

    @property
    def unconfirmed(self) -> int:
        """How many messages the broker has not confirmed. For tests."""
        return len(self._publishing)

    def _on_closed(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        if error is not None and not _is_own_close(error):
            self.reason = text_of(error)
        self._close()

    def _close(self) -> None:
        """Marks the channel as closed, and ends what waits for it."""
        self.closed.set()
        self._room.close()
        # aiormq leaves tasks waiting for its writer if that has ended.
        for task in (*self._publishing, *self._acks, *self._steps):
            task.cancel()

    def lose(self, reason: str) -> None:
        """Learns that the connection is lost. aiormq may say so to its channels much later."""
        if not self.closed.is_set():
            self.reason = reason
            self._close()

    def _on_consumer_cancelled(self, _: commands.Basic.Cancel) -> None:
        self.reason = "the broker cancelled the consumer: its queue was deleted or has moved"
        self._close()

    async def publish(
        self,
        message: Message,
        *,
        queue: str = "",
        exchange: str = "",
        is_mandatory: bool = False,
    ) -> Published:
        """Publishes a message, and waits until the broker has confirmed, returned or refused it.

        With an `exchange`, `queue` is the routing key. Raises `ChannelLost` if the channel is lost
        before that, or if aiormq fails in any other way. The channel stays open if it fails because
        the message cannot be encoded. There is no time limit here.
        """
        await self.unblocked()
        size = len(message.body)
        await self._room.enter(size)
        if not self.is_open:
            self._room.leave(size)
            raise ChannelLost(self.reason)
        publishing = asyncio.get_running_loop().create_task(
            self._raw.basic_publish(
                message.body,
                exchange=exchange,
                routing_key=queue,
                properties=properties_of(message),
                mandatory=is_mandatory,
            )
        )
        self._publishing.add(publishing)
        publishing.add_done_callback(lambda task: self._forget(task, size))
        try:
            # If the broker returned a message whose publisher was cancelled, the reader of aiormq
            # could fail, and with it the connection.
            await asyncio.shield(publishing)
        except PublishError:
            return Published.RETURNED
        except DeliveryError:
            return Published.REFUSED
        except aiormq.exceptions.ChannelInvalidStateError as error:
            # The channel was closed before the message was written.
            check_cancelled(error)
            self._close()
            raise ChannelLost(self.reason) from error
        except (Exception, asyncio.CancelledError) as error:
            check_cancelled(error)
            if (problem := encoding_problem(message, exchange, queue)) is not None:
                raise ChannelLost(problem, is_alone=True) from error
            # aiormq gives the error with which the broker closes a channel to all its publishers
            # first. Only later does it mark the channel as closed, so that is done here.
            self._close()
            raise self._lost(error, is_written=True) from error
        return Published.CONFIRMED

    def _forget(self, publishing: asyncio.Task[Any], size: int) -> None:
        """Frees the room of a message about which the broker has decided, or never will."""
        self._publishing.discard(publishing)
        self._room.leave(size)
        if not publishing.cancelled():
            # asyncio logs an exception that nobody has looked at: the publisher may be cancelled.
            publishing.exception()

    async def unblocked(self) -> None:
        """Waits until the broker takes messages, or the channel is closed."""
        if self._blocking.is_blocked:
            await any_set(self._blocking.unblocked, self.closed)

    def ack(self, tag: int, is_multiple: bool = False) -> None:
        """Acknowledges a delivery and, if `is_multiple`, all before it.

        Does nothing if the channel is closed.
        """
        self._settle(lambda: self._raw.basic_ack(tag, multiple=is_multiple, wait=False))

    def reject(self, tag: int) -> None:
        """Rejects a delivery without requeue. Does nothing if the channel is closed."""
        self._settle(lambda: self._raw.basic_reject(tag, requeue=False, wait=False))

    def _settle(self, settle: Callable[[], Awaitable[None]]) -> None:
        """Acknowledges or rejects in a task of its own, so that the caller need not wait."""
        if not self.is_open:
            return

        async def settling() -> None:
            with contextlib.suppress(aiormq.AMQPError, OSError, RuntimeError):
                await settle()

        task = asyncio.get_running_loop().create_task(settling())
        self._acks.add(task)
        task.add_done_callback(self._acks.discard)

    async def settled(self) -> None:
        """Waits until aiormq has taken all acknowledgements, for `STEP_TIMEOUT` at most."""
        if self._acks:
            await asyncio.wait(set(self._acks), timeout=STEP_TIMEOUT)

    async def prefetch(self, count: int) -> None:
        """Limits the deliveries that are not acknowledged."""
        await self._step(self._raw.basic_qos(prefetch_count=count, timeout=STEP_TIMEOUT))

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, no_ack: bool = False
    ) -> str:
        """Begins to consume a queue. Returns the consumer's tag.

        `on_delivery` must not wait or fail.
        """

        def on_message(delivered: DeliveredMessage) -> Any:
            on_delivery(read_delivery(delivered, self))

        consuming = self._raw.basic_consume(queue, on_message, no_ack=no_ack, timeout=STEP_TIMEOUT)
        return (await self._step(consuming)).consumer_tag or ""

    async def cancel(self, consumer_tag: str) -> None:
        """Stops consuming. What was delivered before still arrives."""
        await self._step(self._raw.basic_cancel(consumer_tag, timeout=STEP_TIMEOUT))

    async def declare_queue(
        self,
        name: str,
        *,
        arguments: dict[str, Any] | None = None,
        is_durable: bool = True,
        is_exclusive: bool = False,
        is_auto_delete: bool = False,
        is_passive: bool = False,
    ) -> tuple[str, int]:
        """Declares a queue. Returns its name and the number of messages in it.

        If `is_passive`, only checks that it exists. The broker chooses the name if it is empty.
        """
        declaring = self._raw.queue_declare(
            name,
            passive=is_passive,
            durable=is_durable,
            exclusive=is_exclusive,
            auto_delete=is_auto_delete,
            arguments=arguments,
            timeout=STEP_TIMEOUT,
        )
        declared = await self._step(declaring)
        return declared.queue or name, declared.message_count or 0

    async def declare_exchange(self, name: str) -> None:
        """Declares a durable direct exchange."""
        declaring = self._raw.exchange_declare(
            name, exchange_type="direct", durable=True, timeout=STEP_TIMEOUT
        )
        await self._step(declaring)

    async def bind(self, queue: str, exchange: str, key: str) -> None:
        """Binds a queue to an exchange."""
        await self._step(self._raw.queue_bind(queue, exchange, key, timeout=STEP_TIMEOUT))

    async def delete_queue(self, name: str) -> None:
        """Deletes a queue."""
        await self._step(self._raw.queue_delete(name, timeout=STEP_TIMEOUT))

    async def close(self) -> None:
        """Closes the channel."""
        if self._raw.is_closed:
            return
        with contextlib.suppress(aiormq.AMQPError, OSError, RuntimeError, TimeoutError):
            async with asyncio.timeout(STEP_TIMEOUT):
                await self._raw.close()
        self._close()

    async def _step(self, step: Coroutine[Any, Any, _T]) -> _T:
        """Waits for the broker's answer to an AMQP method. Raises `ChannelLost`."""
        task = asyncio.get_running_loop().create_task(step)
        self._steps.add(task)
        task.add_done_callback(self._steps.discard)
        try:
            return await task
        except TimeoutError as error:
            check_cancelled(error)
            reason = f"the broker did not answer within {STEP_TIMEOUT:g} s"
            raise ChannelLost(reason) from error
        except (Exception, asyncio.CancelledError) as error:
            check_cancelled(error)
            if not is_loss(error):
                raise
            raise self._lost(error, is_written=False) from error

    def _lost(self, error: BaseException, is_written: bool) -> ChannelLost:
        """Makes the error for what aiormq has raised."""
        silent = aiormq.exceptions.ChannelInvalidStateError | asyncio.CancelledError
        is_own_close = _is_own_close(error)
        # Whether the error leaves out why the channel is closed.
        is_silent = isinstance(error, silent) or has_no_reason(error) or is_own_close
        reason = self.reason if is_silent else text_of(error)
        is_alone = isinstance(error, aiormq.exceptions.ChannelClosed) and not is_own_close
        if isinstance(error, aiormq.exceptions.ChannelNotFoundEntity):
            return NotFound(reason, is_written, is_alone)
        if isinstance(error, aiormq.exceptions.ChannelAccessRefused):
            return Forbidden(reason, is_written, is_alone)
        return ChannelLost(reason, is_written, is_alone)


def _is_own_close(error: BaseException) -> bool:
    """Whether aiormq raises this because this program has closed the channel: without a code."""
    return isinstance(error, aiormq.exceptions.ChannelClosed) and error.args[:1] == (None,)


def text_of(error: BaseException) -> str:
    """Describes an error by its texts and numbers, without the other objects that it holds."""
    text = " ".join(str(part) for part in error.args if isinstance(part, str | int)).strip()
    return text[:256] or type(error).__name__
