"""Handles what arrives through the control exchange."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any, Final

from ..codec import Codec, CodecError, UnsupportedContent, codec_of
from ..deadline import now
from ..protocol import fault_code
from ..protocol.item_messages import read_cancellations, read_grants, read_items
from ..protocol.message import Message, header_number
from ..protocol.names import (
    CANCEL,
    CONTROL_EXCHANGE,
    CREDIT,
    DISCOVERY_KEY,
    ITEMS,
    ITEMS_HEADER,
    ITEMS_SUFFIX,
    WORKER_HEADER,
)
from ..protocol.reply import Reply, fault_reply
from ..protocol.request_id import uuid_of
from ..protocol.request_rules import (
    Methods,
    Refuse,
    Run,
    decide_broadcast,
    refuse_malformed,
)
from ..tasks import TaskSet
from ..transport.channel import Channel
from ..transport.delivery import Delivery
from ..transport.errors import ChannelLost
from ..transport.link import Link
from .built_in import BUILT_IN, answer
from .executor import Execution
from .invocation import invocation_of
from .request_handler import RequestHandler
from .served import ServedQueue
from .shared import Shared

_PREFETCH: Final = 64
# Broadcasts that run, and that wait for others to end.
_MAX_RUNNING: Final = 16
_MAX_WAITING: Final = 32
# Answers in progress to discovery, and to broadcasts for which there is no room.
_MAX_ANSWERS: Final = 64
# The arguments of the queues.
_LIMITS: Final = {"x-message-ttl": 60_000, "x-queue-type": "classic"}
_CONTROL_LIMITS: Final = {**_LIMITS, "x-max-length": 1024, "x-max-length-bytes": 8_388_608}
_ITEM_LIMITS: Final = {
    **_LIMITS,
    "x-max-length": 16_384,
    "x-max-length-bytes": 268_435_456,
    "x-overflow": "reject-publish",
}
# How many seconds the sending of an answer may take.
_REPLY_LIMIT: Final = 5.0


class _Queue:
    """A request queue, whose name is a routing key of broadcasts and cancellations."""

    def __init__(self, served: ServedQueue, handler: RequestHandler) -> None:
        self.served = served
        self.handler = handler
        all_methods = {name: each.method for name, each in served.methods.items()}
        self.broadcasts = Methods(all_methods, is_broadcast=True)


class ControlServer:
    """Owns the broadcasts that run, and answers discovery.

    Passes cancellations, credit and items on to the methods that run.
    """

    def __init__(
        self,
        shared: Shared,
        served: Mapping[str, ServedQueue],
        handlers: Mapping[str, RequestHandler],
    ) -> None:
        self._shared = shared
        self._served = served
        self._queues = {name: _Queue(served[name], handlers[name]) for name in served}
        self._broadcasts = TaskSet("broadcast")
        self._answers = TaskSet("discovery")
        self._running = asyncio.Semaphore(_MAX_RUNNING)
        # The channel of the control queue and the tag of its consumer, once it is consumed.
        self._consumer: tuple[Channel, str] | None = None

    @property
    def is_needed(self) -> bool:
        """Whether this server needs the exchange: for discovery, broadcasts or cancellations."""
        needed = any(served.needs_control for served in self._served.values())
        return self._shared.describes_itself or needed

    @property
    def _has_streams(self) -> bool:
        return any(served.has_streams for served in self._served.values())

    async def open(self, link: Link) -> list[Channel]:
        """Declares and consumes the control queue, and the one for items if a method receives any.

        Streams that run ask their callers for what was lost in between. Returns the channels of the
        queues. Raises `ChannelLost`.
        """
        keys = list(self._served)
        identity = self._shared.identity.id
        if self._shared.describes_itself or self._has_streams:
            keys.append(identity)
        if self._shared.describes_itself:
            keys.append(DISCOVERY_KEY)
        channels: list[Channel] = []
        try:
            channels.append(await link.channel(has_confirms=False))
            tag = await self._consume(channels[-1], keys, _CONTROL_LIMITS, self._receive_message)
            self._consumer = (channels[-1], tag)
            for stream in self._shared.streams.values():
                stream.request_grant()
            if any(served.has_incoming for served in self._served.values()):
                items_key = f"{identity}{ITEMS_SUFFIX}"
                channels.append(await link.channel(has_confirms=False))
                await self._consume(channels[-1], [items_key], _ITEM_LIMITS, self._receive_items)
                for inbox in self._shared.incoming.values():
                    inbox.resume()
        except BaseException:
            for channel in channels:
                await channel.close()
            raise
        return channels

    async def _consume(
        self, channel: Channel, keys: list[str], limits: Mapping[str, Any], on_delivery: Any
    ) -> str:
        """Declares the exchange, and declares, binds and consumes a queue of this worker.

        Returns the consumer's tag.
        """
        await channel.declare_exchange(CONTROL_EXCHANGE)
        name = f"rpc.control.{uuid.uuid4()}"
        await channel.declare_queue(
            name,
            arguments=dict(limits),
            is_durable=False,
            is_exclusive=True,
            is_auto_delete=True,
        )
        for key in keys:
            await channel.bind(name, CONTROL_EXCHANGE, key)
        await channel.prefetch(_PREFETCH)
        return await channel.consume(name, on_delivery)

    def ignore_silence(self) -> None:
        """Stops counting how long callers are silent, because their items cannot arrive."""
        for inbox in self._shared.incoming.values():
            inbox.ignore_silence()

    def _receive_items(self, delivery: Delivery) -> None:
        """Passes a message of the queue for items to the stream that it belongs to."""
        delivery.ack()
        message = delivery.message
        inbox = self._shared.incoming.get(uuid_of(message.correlation_id) or b"")
        if inbox is None or delivery.exchange != CONTROL_EXCHANGE or message.type != ITEMS:
            return
        try:
            if delivery.malformed is not None:
                raise CodecError(delivery.malformed)
            # The number of all items, which only the last message of the stream has.
            end = header_number(message.headers, ITEMS_HEADER, -1)
            inbox.receive(read_items(message.body), end if end >= 0 else None)
        except CodecError as error:
            inbox.fail(f"the caller does not keep to the protocol: {error}")

    def _receive_message(self, delivery: Delivery) -> None:
        """Handles a message of the control queue, by its type and its routing key."""
        delivery.ack()
        # What was published to the queue itself needed no permission for the exchange.
        if delivery.exchange != CONTROL_EXCHANGE:
            return
        message, key = delivery.message, delivery.routing_key
        is_to_this_worker = key == self._shared.identity.id
        is_well_formed = delivery.malformed is None
        if is_well_formed and message.type in (CANCEL, CREDIT):
            # An element that cannot be read is ignored, with those after it.
            with contextlib.suppress(CodecError):
                if message.type == CANCEL:
                    self._cancel_calls(message, key, is_to_this_worker)
                elif is_to_this_worker:
                    self._take_credit(message)
        elif is_to_this_worker or key == DISCOVERY_KEY:
            if is_well_formed and message.expects_reply:
                self._answer_if_room(self._answer_discovery(message))
        # A redelivered broadcast may have run before.
        elif (queue := self._queues.get(key)) is not None and not delivery.is_redelivered:
            has_room = len(self._broadcasts) < _MAX_RUNNING + _MAX_WAITING
            handling = self._handle_broadcast(queue, delivery, has_room=has_room)
            if has_room:
                self._broadcasts.spawn(handling)
            else:
                self._answer_if_room(handling)

    def _answer_if_room(self, answering: Coroutine[Any, Any, None]) -> None:
        """Answers in a task, unless too many answers wait for the broker already."""
        if len(self._answers) < _MAX_ANSWERS:
            self._answers.spawn(answering)
            return
        answering.close()
        self._shared.log.report("answers", "a message through rpc.control was not answered")

    def _take_credit(self, message: Message) -> None:
        for identity, credit in read_grants(message.body):
            if (stream := self._shared.streams.get(identity)) is not None:
                stream.grant(credit)

    def _cancel_calls(self, message: Message, key: str, is_to_this_worker: bool) -> None:
        """Cancels calls to a queue or, with this worker's id as the key, streams of this worker."""
        for identity, time_left in read_cancellations(message.body):
            if is_to_this_worker:
                if (cancel := self._shared.stream_cancels.get(identity)) is not None:
                    cancel()
            elif (queue := self._queues.get(key)) is not None:
                queue.handler.cancellations.cancel(identity, time_left)

    async def _answer_discovery(self, message: Message) -> None:
        """Answers a built-in method that is asked of all workers, or of this one."""
        shared = self._shared
        if not shared.reply_addresses.allows(message.reply_to or ""):
            return
        try:
            codec = codec_of(message.content_type, message.content_encoding) or Codec.TEXT
        except UnsupportedContent as error:
            reply = fault_reply(error.codec, fault_code.UNSUPPORTED_CONTENT_TYPE, str(error))
        else:
            name = message.type or ""
            if name in BUILT_IN and shared.describes_itself:
                reply = answer(name, codec, shared.identity, self._served)
            else:
                reason = "the service has no such method: only discovery is answered here"
                reply = fault_reply(codec, fault_code.UNKNOWN_METHOD, reason)
        await self._send(message, reply)

    async def _handle_broadcast(self, queue: _Queue, delivery: Delivery, *, has_room: bool) -> None:
        """Runs a broadcast and answers it, or refuses it.

        Does nothing if its address is forbidden, or if its time is up before its turn.
        """
        message, rules = delivery.message, queue.handler.rules
        arrived = now()
        if delivery.malformed is None:
            decision = decide_broadcast(message, queue.broadcasts, rules)
        else:
            decision = refuse_malformed(
                message, delivery.malformed, is_redelivered=False, rules=rules
            )
        if isinstance(decision, Run) and not has_room:
            reason = "the worker runs as many broadcasts as it can"
            decision = Refuse(decision.codec, fault_code.REJECTED, reason)
        if isinstance(decision, Refuse):
            reply = fault_reply(decision.codec, decision.code, decision.message)
            await self._reply(message, reply, describes_worker=False)
            return
        if not isinstance(decision, Run):
            # The address is forbidden, so nobody can be answered.
            return
        async with self._running:
            if decision.time_to_live is not None:
                # It may have waited for its turn, even until its caller has given up.
                time_left = arrived + decision.time_to_live - now()
                if time_left <= 0:
                    return
                decision = replace(decision, time_to_live=time_left)
            reply_or_none = await self._run(queue, message, decision)
        if reply_or_none is not None:
            await self._reply(message, reply_or_none, describes_worker=True)

    async def _run(self, queue: _Queue, message: Message, run: Run) -> Reply | None:
        """Runs the method. Returns `None` only if it was cancelled, which no broadcast is."""
        served = queue.served.methods[run.method.name]
        max_bytes = self._shared.connection.max_sent_bytes
        execution = Execution(run, message, max_bytes)
        began = served.stats.begin()
        reply: Reply | None = None
        try:
            reply = await execution.run(invocation_of(served, run, None, None, max_bytes))
        finally:
            served.stats.end(began, reply)
        return reply

    async def _reply(self, message: Message, reply: Reply, *, describes_worker: bool) -> None:
        """Replies to a broadcast that expects it, and names this worker in a header.

        `describes_worker` adds the worker's description, if the server's options allow that.
        """
        if not message.expects_reply:
            return
        identity = self._shared.identity
        is_described = describes_worker and self._shared.describes_itself
        header = identity.broadcast_header() if is_described else identity.id_header
        reply.headers[WORKER_HEADER] = header
        await self._send(message, reply)

    async def _send(self, message: Message, reply: Reply) -> None:
        await self._shared.sender.publish(
            reply.message(message),
            message.reply_to or "",
            now() + _REPLY_LIMIT,
            is_mandatory=False,
        )

    async def drain(self, timeout: float) -> bool:
        """Takes no more messages, and waits for the broadcasts up to a timeout.

        Returns whether all of them have ended.
        """
        ends_at = now() + timeout
        if self._consumer is not None:
            channel, tag = self._consumer
            with contextlib.suppress(ChannelLost):
                await channel.cancel(tag)
        return await self._broadcasts.ended(max(0.0, ends_at - now()))

    async def close(self) -> None:
        """Cancels the broadcasts and the answers in progress."""
        await self._broadcasts.cancel()
        await self._answers.cancel()
