"""Moves jobs to retry queues, to the dead-letter queue, or to the end of their own queue."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from dataclasses import dataclass
from typing import Any

from ..deadline import now
from ..describe import Method, Retry
from ..log_limit import LimitedLog
from ..protocol.jobs import (
    DEAD_LETTER_WAIT,
    GIVEN_UP_HEADER,
    ORIGIN_HEADER,
    Failure,
    after_failure,
    copy_of,
    next_wait,
    rounded_up,
    set_remaining_delay,
    waits_of,
)
from ..protocol.message import Message
from ..transport.channel import Channel, Published
from ..transport.delivery import Delivery
from ..transport.errors import ChannelLost, ConnectFailed
from ..transport.lazy_channel import LazyChannel
from ..transport.supervisor import Supervisor
from .request_queue import RequestQueue

# The pause before a job that no queue has taken is published again. It doubles up to the maximum.
_PAUSE = 1.0
_MAX_PAUSE = 30.0
# A job is logged each time that the broker has not confirmed it for so many seconds.
_UNCONFIRMED_FOR_LONG = 30.0
# That of the first retry queue, in milliseconds.
_SHORTEST_WAIT = 100
# How many jobs may be unconfirmed for each queue to which they are moved.
_MAX_UNCONFIRMED = 64


@dataclass(frozen=True, slots=True)
class _Target:
    """A queue to which a job is moved."""

    queue: RequestQueue
    # How many milliseconds the job must still wait when it comes back from a retry queue.
    rest: int = 0
    # `False` for the request queue, which exists. The confirm of a mandatory message may take so
    # long that the copy runs before its original is acknowledged.
    is_mandatory: bool = True
    # Whether the job is marked as given up, so that it only waits here for the dead-letter queue.
    is_given_up: bool = False


class JobMover:
    """Owns the channel on which the jobs of one queue leave.

    Each function that moves a job returns whether a queue has taken a copy of it. If not, the
    channel of the original is lost, and the broker delivers the job again.
    """

    def __init__(self, supervisor: Supervisor, queue: RequestQueue, log: LimitedLog) -> None:
        self._supervisor = supervisor
        self._queue = queue
        self._log = log
        self._channel = LazyChannel(supervisor)
        self._slots: dict[str, asyncio.Semaphore] = {}

    async def declare(self, channel: Channel, retries: list[Retry]) -> None:
        """Declares the dead-letter queue and the queues of these retries. Raises `ChannelLost`."""
        queues = [self._queue.dead(), *(self._queue.retry(wait) for wait in waits_of(retries))]
        for queue in queues:
            await declare(channel, queue)

    async def fail(
        self, delivery: Delivery, message: Message, method: Method[Any] | None, failure: Failure
    ) -> bool:
        """Records a failure in the headers, and moves the job to a retry or dead-letter queue.

        `method` is `None` for a one-way request that is no job, which is not retried.
        """
        millis = int(time.time() * 1000)
        delay = after_failure(message.headers, failure, method, millis, random.random())
        if delay is not None:
            return await self.delay(delivery, message, delay)
        return await self.give_up(delivery, message)

    async def give_up(self, delivery: Delivery, message: Message) -> bool:
        """Moves a job to the dead-letter queue or, if that is full, to a retry queue for 10 s."""
        message.headers[ORIGIN_HEADER] = self._queue.name
        # A dead-letter queue may be full for days. The worker does not hold its jobs for so long.
        fallback = _Target(self._queue.retry(DEAD_LETTER_WAIT), is_given_up=True)
        return await self._move(delivery, message, _Target(self._queue.dead()), fallback)

    async def delay(self, delivery: Delivery, message: Message, millis: int) -> bool:
        """Moves a job to a retry queue, where it waits for all or a part of this delay."""
        return await self._move(delivery, message, self._delayed(millis))

    async def return_to_queue(self, delivery: Delivery, message: Message) -> bool:
        """Moves a redelivered job to the end of its queue or, if that is full, to a retry queue."""
        # A full queue does not get emptier while its workers hold jobs.
        fallback = _Target(self._queue.retry(_SHORTEST_WAIT))
        end_of_queue = _Target(self._queue, is_mandatory=False)
        return await self._move(delivery, message, end_of_queue, fallback)

    def _delayed(self, millis: int) -> _Target:
        """Returns the retry queue with the longest wait within this delay, which is rounded up."""
        wait, rest = next_wait(rounded_up(millis))
        return _Target(self._queue.retry(wait), rest)

    async def _move(self, delivery: Delivery, message: Message, *targets: _Target) -> bool:
        """Publishes a copy until a queue has taken it, or the original's channel is lost.

        Tries the targets in this order, again and again, with a pause after the last one.
        """
        copy, pause = copy_of(message), _PAUSE
        for target in itertools.cycle(targets):
            if not delivery.channel.is_open:
                break
            copy.headers.pop(GIVEN_UP_HEADER, None)
            if target.is_given_up:
                copy.headers[GIVEN_UP_HEADER] = ""
            set_remaining_delay(copy.headers, target.rest)
            reason = await self._publish(delivery, copy, target)
            if reason is None:
                return True
            text = f'the queue "{target.queue.name}" does not take a job, which waits: {reason}'
            self._log.report("stuck", text)
            if target is targets[-1]:
                await asyncio.sleep(pause)
                pause = min(_MAX_PAUSE, 2 * pause)
        return False

    async def _publish(self, delivery: Delivery, copy: Message, target: _Target) -> str | None:
        """Publishes the copy. Returns why the queue does not take it, or `None` if it has it."""
        slots = self._slots.setdefault(target.queue.name, asyncio.Semaphore(_MAX_UNCONFIRMED))
        async with slots:
            try:
                published = await self._publish_once(delivery, copy, target)
                if published is Published.RETURNED:
                    # Somebody has deleted the queue, or a delay needs it for the first time.
                    await self._declare(target.queue)
                    published = await self._publish_once(delivery, copy, target)
            except (ChannelLost, ConnectFailed) as error:
                return str(error)
        if published is Published.CONFIRMED:
            return None
        is_returned = published is Published.RETURNED
        return "the queue does not exist" if is_returned else "the broker refuses it"

    async def _publish_once(self, delivery: Delivery, copy: Message, target: _Target) -> Published:
        """Publishes the copy, and waits without a time limit until the broker answers.

        Raises `ChannelLost` if its channel is lost, or soon after that of the original is.
        """
        publishing = asyncio.ensure_future(
            self._channel.publish(copy, queue=target.queue.name, is_mandatory=target.is_mandatory)
        )
        began = now()
        try:
            while True:
                done, _ = await asyncio.wait({publishing}, timeout=_UNCONFIRMED_FOR_LONG)
                if done:
                    return publishing.result()
                if not delivery.channel.is_open:
                    raise ChannelLost("the connection was lost")
                text = (
                    f'the broker has not confirmed a job for "{target.queue.name}" '
                    f"for {now() - began:.0f} s"
                )
                self._log.report("unconfirmed", text)
        finally:
            publishing.cancel()

    async def _declare(self, queue: RequestQueue) -> None:
        """Declares a queue on a separate channel, because the broker closes it if it refuses."""
        link = await self._supervisor.link()
        channel = await link.channel(has_confirms=False)
        try:
            await declare(channel, queue)
        finally:
            await channel.close()

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()


async def declare(channel: Channel, queue: RequestQueue) -> None:
    """Declares a queue, or checks that an `existing` one exists. Raises `ChannelLost`."""
    await channel.declare_queue(
        queue.name, arguments=queue.all_arguments, is_passive=queue.existing
    )
