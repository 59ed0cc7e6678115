"""Handles the requests of one queue: decides, runs, replies and settles."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from typing import Any

from ..codec import Codec
from ..deadline import now
from ..describe import Method
from ..log_limit import printable
from ..protocol import fault_code
from ..protocol.dead_letter import read_dead_lettered
from ..protocol.deduplicator import Action, Deduplicator, End, copy_token, key_of, origin_of
from ..protocol.jobs import (
    RETURNED_PAUSE,
    Failure,
    copy_of,
    is_given_up,
    remaining_delay,
    set_remaining_delay,
)
from ..protocol.message import Message
from ..protocol.names import COPY_HEADER, PROBE, REDELIVERIES_HEADER, RESENT_HEADER
from ..protocol.reply import Reply, ReplyKind, fault_reply, read_fault
from ..protocol.request_id import uuid_of
from ..protocol.request_rules import (
    MAX_REJECTIONS,
    Decision,
    ForbiddenAddress,
    Methods,
    Refuse,
    Rules,
    Run,
    StreamRequest,
    decide,
    redeliveries_if_only_workers_count,
    refuse,
    refuse_malformed,
    rejections_of,
)
from ..tasks import TaskSet, cancel_and_wait
from ..transport.channel import Published
from ..transport.delivery import Delivery
from .built_in import BUILT_IN, answer
from .cancellation import Cancellations
from .error_text import error_text
from .executor import Execution
from .incoming import IncomingInbox
from .invocation import invocation_of
from .job_mover import JobMover
from .request_queue import RequestQueue
from .served import ServedQueue
from .shared import Shared
from .stream_sender import StreamSender

_log = logging.getLogger("rpc_runtime")

_PROBE_TIMEOUT = 1.0
# How long the copy of a redelivered request waits before it runs: the original's acknowledgement
# must reach the broker before the copy can crash this process. Also the pause before a copy is
# published again.
_COPY_PAUSE = 0.1
# Stands in for the deadline that a stream's caller does not have, for the reply at the end.
_STREAM_REPLY_LIMIT = 30.0
# How long one attempt to publish a copy may take.
_FORWARD_LIMIT = 30.0
# How long the stream of a request may take to end after its caller has sent the request again.
_MAX_ENDING = 5.0


class Settle(enum.Enum):
    """What becomes of a delivery."""

    ACK = "ack"
    # Acknowledged too: a copy of it is in another queue, or at the end of this one.
    MOVED = "moved"
    REJECT = "reject"
    # Not settled: its channel is lost, or the worker stops. The broker delivers it again.
    LEAVE = "leave"


# How a settled request ends for the deduplicator.
_ENDS = {Settle.ACK: End.ANSWERED, Settle.MOVED: End.MOVED, Settle.REJECT: End.REJECTED}


class RequestHandler:
    """Owns the requests of one queue that are in progress."""

    def __init__(self, shared: Shared, queue: RequestQueue, served: ServedQueue) -> None:
        self._shared = shared
        self._queue = queue
        self._served = served
        methods = {name: each.method for name, each in served.methods.items()}
        if shared.describes_itself:
            methods.update(BUILT_IN)
        self._methods = Methods(methods)
        self._rules = Rules(
            shared.reply_addresses,
            shared.connection.max_accepted_bytes,
            queue.max_deliveries,
            queue.type == "classic",
        )
        self._requests: Deduplicator[Delivery] = Deduplicator()
        self._tasks = TaskSet("request")
        # A permit for each stream whose request is settled while its method runs.
        self._settled_streams = asyncio.Semaphore(shared.concurrency)
        self.cancellations = Cancellations()
        supervisor = shared.connection.supervisor
        has_jobs = served.has_jobs
        self.jobs = JobMover(supervisor, queue, shared.log) if has_jobs else None

    @property
    def rules(self) -> Rules:
        """The settings that decide about requests."""
        return self._rules

    @property
    def joined(self) -> int:
        """How many deliveries wait for requests that run, to be settled with them. For tests."""
        return self._requests.joined

    def receive(self, delivery: Delivery) -> None:
        """Takes a delivery of the queue."""
        if delivery.malformed is None and delivery.message.type == PROBE:
            self._tasks.spawn(self._answer_probe(delivery))
            return
        self._tasks.spawn(self._handle(delivery))

    async def _answer_probe(self, delivery: Delivery) -> None:
        """Acknowledges a probe, with which another worker measures how long requests wait.

        Answers it unless its address is forbidden.
        """
        delivery.ack()
        message = delivery.message
        address = message.reply_to or ""
        if address and self._rules.reply_addresses.allows(address):
            reply = Message(correlation_id=message.correlation_id)
            give_up_at = now() + _PROBE_TIMEOUT
            await self._shared.sender.publish(reply, address, give_up_at, is_mandatory=False)

    async def _handle(self, delivery: Delivery) -> None:
        """Processes a delivery and settles it. One that the deduplicator knows is only settled."""
        message = delivery.message
        key = key_of(message) if delivery.malformed is None else None
        if key is None:
            _settle(delivery, await self._process_or_refuse(delivery))
            return
        origin = origin_of(message, delivery.is_redelivered)
        action, key = self._requests.add(key, origin, copy_token(message), delivery)
        if action is Action.ACK:
            delivery.ack()
        elif action is Action.REJECT:
            delivery.reject()
        if action is not Action.RUN:
            return
        settle = Settle.LEAVE
        try:
            settle = await self._process_or_refuse(delivery)
        finally:
            joined = self._requests.end(key, _ENDS.get(settle))
            for each in (delivery, *joined):
                _settle(each, settle)
        if settle is Settle.LEAVE:
            # The broker has delivered the request again on a new channel, and those deliveries have
            # joined this one. Nobody else handles them.
            for each in joined:
                if each.channel.is_open:
                    self.receive(each)

    async def _process_or_refuse(self, delivery: Delivery) -> Settle:
        """Processes a request. Refuses it if this library fails, so that it is settled.

        A request that is not settled takes up a place of the prefetch for ever.
        """
        try:
            return await self._process(delivery)
        except Exception:
            _log.exception("a request failed, which is a bug")
            reason = "the worker failed"
            decision = Refuse(Codec.TEXT, fault_code.ABANDONED, reason)
            return await self._refuse(delivery, delivery.message, decision)

    async def _process(self, delivery: Delivery) -> Settle:
        """Moves, refuses or runs a request. A cancelled call is only acknowledged."""
        message, malformed = delivery.message, delivery.malformed
        if malformed is not None:
            decision = refuse_malformed(message, malformed, delivery.is_redelivered, self._rules)
            return await self._refuse(delivery, message, decision)
        moved = await self._move_if_needed(delivery, message)
        if moved is not None:
            return moved
        if REDELIVERIES_HEADER in message.headers:
            await asyncio.sleep(_COPY_PAUSE)
        decision = decide(message, delivery.is_redelivered, self._methods, self._rules)
        if not isinstance(decision, Run):
            return await self._refuse(delivery, message, decision)
        name = decision.method.name
        if name in BUILT_IN:
            if message.expects_reply:
                queues = {self._queue.name: self._served}
                reply = answer(name, decision.codec, self._shared.identity, queues)
                await self._send(message, reply, decision.time_to_live)
            return Settle.ACK
        if decision.stream is not None:
            refusal = await self._free_id(message, decision, decision.stream)
            if refusal is not None:
                return await self._refuse(delivery, message, refusal)
        # It may have been cancelled while an earlier stream ended.
        if message.expects_reply and self.cancellations.is_cancelled(message.correlation_id):
            self._served.methods[name].stats.cancelled += 1
            return Settle.ACK
        if decision.stream is not None:
            return await self._serve_stream(delivery, message, decision, decision.stream)
        return await self._run(delivery, message, decision)

    async def _move_if_needed(self, delivery: Delivery, message: Message) -> Settle | None:
        """Moves a one-way request that does not run here and now. Returns `None` for any other.

        These are jobs that must still wait or that are given up, and redelivered requests for
        idempotent methods if only workers can count the deliveries.
        """
        if message.expects_reply:
            return None
        found = self._methods.find(message.type)
        method = found if isinstance(found, Method) else None
        if self.jobs is not None and is_given_up(message.headers):
            return _moved_if(await self.jobs.give_up(delivery, message))
        if self.jobs is not None and method is not None and method.is_job:
            delay = await self._delay_after_pause(message)
            if delay > 0:
                return _moved_if(await self.jobs.delay(delivery, message, delay))
        redeliveries = redeliveries_if_only_workers_count(
            message, delivery.is_redelivered, method, self._rules
        )
        if redeliveries is None or method is None:
            return None
        message.headers[REDELIVERIES_HEADER] = str(redeliveries)
        if self.jobs is not None and method.is_job:
            return _moved_if(await self.jobs.return_to_queue(delivery, message))
        return await self._forward(delivery, message)

    async def _delay_after_pause(self, message: Message) -> int:
        """Returns how many milliseconds a job must still wait in retry queues.

        Waits here instead if a worker in Rust has returned the job to the queue with a short pause,
        as it does with the jobs of a redelivered batch.
        """
        has_returned = REDELIVERIES_HEADER in message.headers
        dead = read_dead_lettered(message.headers)
        if COPY_HEADER in message.headers and dead is not None and dead.deaths == 0:
            # The copy has expired in retry queues on purpose, so it may run as if it were new.
            message.headers.pop("x-death", None)
            message.headers.pop("x-first-death-reason", None)
        delay = remaining_delay(message.headers)
        if not (0 < delay <= RETURNED_PAUSE and has_returned and dead is None):
            return delay
        set_remaining_delay(message.headers, 0)
        await asyncio.sleep(delay / 1000)
        return 0

    async def _forward(self, delivery: Delivery, message: Message) -> Settle:
        """Publishes a copy of a request to its queue, which does not count deliveries.

        If the broker does not take the copy, the request is rejected.
        """
        resent = message.headers.get(RESENT_HEADER)
        copy = copy_of(message)
        copy.headers[RESENT_HEADER] = "worker" if resent in (None, "worker") else "caller, worker"
        while delivery.channel.is_open:
            published = await self._shared.sender.publish(
                copy, self._queue.name, now() + _FORWARD_LIMIT, is_mandatory=False
            )
            if published is not None:
                return Settle.MOVED if published is Published.CONFIRMED else Settle.REJECT
            await asyncio.sleep(_COPY_PAUSE)
        return Settle.LEAVE

    async def _refuse(self, delivery: Delivery, message: Message, decision: Decision) -> Settle:
        """Answers a request that does not run with a fault.

        One that wants no reply is rejected, or goes to the dead-letter queue of jobs. One with a
        forbidden address is rejected.
        """
        if isinstance(decision, ForbiddenAddress):
            text = (
                f"a request was rejected: its reply_to {printable(message.reply_to)} "
                "is no reply address; see ReplyAddresses"
            )
            self._shared.log.report("reply_address", text)
            return self._rejection(delivery)
        if not isinstance(decision, Refuse):
            raise TypeError("a request that runs is not refused")
        text = f"a request was refused: {decision.code}: {printable(decision.message, 200)}"
        self._shared.log.report(decision.code, text)
        reply = fault_reply(decision.codec, decision.code, decision.message)
        if message.expects_reply:
            await self._send(message, reply, message.time_to_live)
            return Settle.ACK
        # On a queue with jobs, it goes to `<queue>.dead`. A malformed request loses properties
        # there, so it is rejected if the queue has a dead-letter exchange, which keeps all of it.
        keeps_malformed = delivery.malformed is not None and self._queue.has_dead_letter_exchange
        if self.jobs is not None and not keeps_malformed:
            failure = Failure(decision.code, decision.message)
            method = self._methods.job(message.type)
            return _moved_if(await self.jobs.fail(delivery, message, method, failure))
        return self._rejection(delivery)

    def _rejection(self, delivery: Delivery) -> Settle:
        """Returns `REJECT`, or `ACK` if a dead-letter exchange may return the request for ever.

        It may if the request was rejected often, or if that number cannot be read.
        """
        was_rejected_often = rejections_of(delivery.message) >= MAX_REJECTIONS
        may_return_for_ever = was_rejected_often or delivery.are_headers_lost
        return Settle.ACK if may_return_for_ever else Settle.REJECT

    async def _run(self, delivery: Delivery, message: Message, run: Run) -> Settle:
        """Runs a method whose request neither grants credit nor sends items, and replies."""
        served = self._served.methods[run.method.name]
        max_bytes = self._shared.connection.max_sent_bytes
        execution = Execution(run, message, max_bytes)
        began = served.stats.begin()
        stop_watching = self.cancellations.watch(message.correlation_id, execution.cancel)
        reply: Reply | None = None
        try:
            reply = await execution.run(invocation_of(served, run, None, None, max_bytes))
        finally:
            stop_watching()
            served.stats.end(began, reply)
        if reply is None:
            return Settle.ACK
        return await self._reply(delivery, message, run.method, reply, execution.context.deadline)

    async def _reply(
        self,
        delivery: Delivery,
        message: Message,
        method: Method[Any],
        reply: Reply,
        deadline: float | None,
    ) -> Settle:
        """Sends the reply or, without a `reply_to`, decides what becomes of a failure.

        A job is moved, and a request with bad arguments is refused. Other failures are dropped.
        """
        if message.expects_reply:
            sent = reply.message(message)
            await self._shared.sender.send(sent, message.reply_to or "", deadline)
            return Settle.ACK
        if reply.kind is ReplyKind.RESULT:
            return Settle.ACK
        failure = _failure_of(reply)
        if self.jobs is not None and method.is_job:
            return _moved_if(await self.jobs.fail(delivery, message, method, failure))
        if failure.reason == fault_code.BAD_REQUEST:
            # The arguments cannot be read, so the request is refused instead of dropped.
            if self.jobs is not None:
                return _moved_if(await self.jobs.fail(delivery, message, None, failure))
            return self._rejection(delivery)
        return Settle.ACK

    async def _send(self, message: Message, reply: Reply, time_left: float | None) -> None:
        deadline = None if time_left is None else now() + time_left
        sent = reply.message(message)
        await self._shared.sender.send(sent, message.reply_to or "", deadline)

    async def _free_id(self, message: Message, run: Run, stream: StreamRequest) -> Refuse | None:
        """Frees the id of a request from a stream that goes to another reply address.

        Ends that stream if the request was sent again: its caller's address has changed. Otherwise,
        or if the stream does not end in time, returns a refusal: items and grants belong to an id,
        and neither method may get those of the other.
        """
        running = self._shared.streams.get(stream.id)
        if running is None or running.address == message.reply_to:
            return None
        is_resent = RESENT_HEADER in message.headers
        if is_resent and await self._end_streams(stream.id):
            return None
        reason = "another request with this correlation_id has a stream here"
        may_have_run = run.is_redelivered or is_resent
        return refuse(run.codec, fault_code.BAD_REQUEST, reason, may_have_run)

    async def _end_streams(self, identity: bytes) -> bool:
        """Cancels the method of a stream, and waits until the id is free.

        Returns `False` if that takes too long.
        """
        streams = self._shared.streams
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_MAX_ENDING):
                # Several requests may wait for the id. Each ends the stream of the one before.
                while (running := streams.get(identity)) is not None:
                    # Missing if the method has ended, and the last messages are being sent.
                    if (cancel := self._shared.stream_cancels.get(identity)) is not None:
                        cancel()
                    await running.closed.wait()
        return identity not in streams

    async def _serve_stream(
        self, delivery: Delivery, message: Message, run: Run, stream: StreamRequest
    ) -> Settle:
        """Runs a method with streams, unless its request has one here already.

        No other request may have a stream with its id; see `_free_id`.
        """
        shared, address = self._shared, message.reply_to or ""
        if stream.id in shared.streams:
            # The request came again. Its caller gets the messages of the stream that runs.
            return Settle.ACK
        sender = StreamSender(
            shared.sender,
            address=address,
            request=message,
            codec=run.codec,
            run_header=shared.identity.next_run_header(),
            credit=stream.credit,
            max_bytes=shared.connection.max_sent_bytes,
        )
        shared.streams[stream.id] = sender
        inbox = None
        if stream.sends_items:
            inbox = IncomingInbox(shared.connection.max_accepted_bytes)
            shared.incoming[stream.id] = inbox
        try:
            return await self._run_stream(delivery, message, run, sender, inbox)
        finally:
            shared.streams.pop(stream.id, None)
            shared.incoming.pop(stream.id, None)
            await sender.close()

    async def _run_stream(
        self,
        delivery: Delivery,
        message: Message,
        run: Run,
        sender: StreamSender,
        inbox: IncomingInbox | None,
    ) -> Settle:
        """Runs a method with streams, and sends the reply that ends them unless it is cancelled."""
        served = self._served.methods[run.method.name]
        max_bytes = self._shared.connection.max_sent_bytes
        execution = Execution(run, message, max_bytes)
        sender.on_gone = execution.cancel
        loop = asyncio.get_running_loop()
        acking = loop.create_task(self._ack_once_begun(delivery, sender))
        granting = None
        if inbox is not None:
            granting = loop.create_task(inbox.send_grants(sender, execution.cancel))
        began = served.stats.begin()
        stop_watching = self.cancellations.watch(message.correlation_id, execution.cancel)
        identity = uuid_of(message.correlation_id) or b""
        self._shared.stream_cancels[identity] = execution.cancel
        reply: Reply | None = None
        try:
            invoke = invocation_of(served, run, sender, inbox, max_bytes)
            reply = await execution.run(invoke)
        except asyncio.CancelledError:
            # The worker stops. Without this reply, the caller would notice after 16 seconds.
            reason = "the worker of the stream stops"
            fault = fault_reply(run.codec, fault_code.INTERRUPTED, reason)
            self._shared.farewells.spawn(self._interrupt(message, sender, fault))
            raise
        finally:
            stop_watching()
            self._shared.stream_cancels.pop(identity, None)
            served.stats.end(began, reply)
            if inbox is not None:
                inbox.close()
            await cancel_and_wait(granting)
            await cancel_and_wait(acking)
        if reply is None:
            return Settle.ACK
        reply = await sender.end(reply)
        await self._send(message, reply, _STREAM_REPLY_LIMIT)
        return Settle.ACK

    async def _interrupt(self, message: Message, sender: StreamSender, fault: Reply) -> None:
        """Tells the caller of a stream that its worker stops."""
        await self._send(message, await sender.end(fault), 0.0)

    async def _ack_once_begun(self, delivery: Delivery, sender: StreamSender) -> None:
        """Settles the request of a stream before its end: the broker does not wait that long.

        Does not return: it is cancelled when the stream ends.
        """
        await sender.begun.wait()
        # The requests of at most `concurrency` streams are settled. That of a further one counts
        # towards the prefetch until another stream ends.
        async with self._settled_streams:
            delivery.ack()
            # Keeps the permit until the task is cancelled.
            await asyncio.get_running_loop().create_future()

    async def ended(self, timeout: float) -> bool:
        """Waits for the requests in progress, at most this long. Returns whether all have ended."""
        return await self._tasks.ended(timeout)

    async def close(self) -> None:
        """Cancels the requests in progress, and closes the channel for jobs."""
        await self._tasks.cancel()
        if self.jobs is not None:
            await self.jobs.close()


def _settle(delivery: Delivery, settle: Settle) -> None:
    if settle in (Settle.ACK, Settle.MOVED):
        delivery.ack()
    elif settle is Settle.REJECT:
        delivery.reject()


def _moved_if(is_moved: bool) -> Settle:
    return Settle.MOVED if is_moved else Settle.LEAVE


def _failure_of(reply: Reply) -> Failure:
    if reply.kind is ReplyKind.FAULT:
        code, text = read_fault(reply.codec, reply.body)
        return Failure(code, text)
    return Failure("error", error_text(reply.codec, reply.body))
