"""The answers to a broadcast."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from ..deadline import TimeLimit, now
from ..errors import BrokerFailed, NoWorkers, Refused, TimedOut, TooLarge
from ..executed import Executed
from ..protocol.names import CONTROL_EXCHANGE, MAX_BROADCAST_BYTES, WORKER_HEADER
from ..transport.channel import Channel, Published
from ..transport.delivery import Delivery
from ..transport.errors import ChannelLost, ConnectFailed, NotFound
from .options import CallOptions
from .reply_reader import ReplyReader
from .request import Request

if TYPE_CHECKING:
    from ..connection import Connection

R = TypeVar("R")

# If no number of workers is expected, gathering ends this long after an answer was read.
_DEFAULT_QUIET = 0.5
# Gathering ends with this many answers. A queue with more workers is not expected.
_MAX_ANSWERS = 10_000
# It also ends with this many messages that are no answers: their sender is no worker.
_MAX_IGNORED = 10_000
_PREFETCH = 64
_MAX_WORKER_BYTES = 1024
_NO_WORKERS_PAUSE = 0.2
_LOST_PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker, as far as it describes itself. `id` is empty if it does not name itself at all."""

    id: str
    name: str | None = None
    host: str | None = None
    pid: int | None = None
    app_id: str | None = None
    version: str | None = None

    @staticmethod
    def from_header(text: object) -> WorkerInfo | None:
        """Reads the value of a header `rpc-worker`. `None` if it has no id, or is too long."""
        if not isinstance(text, str) or len(text.encode()) > _MAX_WORKER_BYTES:
            return None
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(entries, dict) or not isinstance(entries.get("id"), str):
            return None

        def text_of(name: str) -> str | None:
            value = entries.get(name)
            return value if isinstance(value, str) else None

        pid = entries.get("pid")
        return WorkerInfo(
            entries["id"],
            text_of("name"),
            text_of("host"),
            pid if isinstance(pid, int) else None,
            text_of("app_id"),
            text_of("version"),
        )

    def __str__(self) -> str:
        name = self.name or self.id or "an unknown worker"
        return name + (f" on {self.host}" if self.host else "")


class Answer(Generic[R]):
    """The answer of one worker."""

    def __init__(self, worker: WorkerInfo, reader: ReplyReader, reply: Delivery) -> None:
        self.worker = worker
        self._reader = reader
        self._reply = reply

    def result(self) -> R:
        """Returns what the method returned. Raises its error, a `Fault` or `BadReply`."""
        result: R = self._reader.result(self._reply)
        return result


class Answers(Generic[R]):
    """The answers of all workers of a queue, as they arrive.

    Nothing is sent before the first one is awaited. Gathering ends with the last of
    `expect_workers`, if no answer arrives for `quiet_for` after one was read, at the timeout, or if
    the connection is lost. Without either option, `quiet_for` is half a second. It also ends with
    ten thousand answers, or as many messages that are no answers.

    An answer that does not name its worker counts as that of another worker.
    """

    def __init__(
        self, connection: Connection, request: Request, options: CallOptions, timeout: float
    ) -> None:
        self._connection = connection
        self._request = request
        self._options = options
        self._timeout = timeout
        self._reader = ReplyReader(request.method, request.codec, connection.max_accepted_bytes)
        self._limit: TimeLimit | None = None
        self._arrived: deque[Delivery] = deque()
        self._changed = asyncio.Event()
        self._consumer: Channel | None = None
        # The ids of the workers that have answered and named themselves.
        self._seen: set[str] = set()
        self._answered = 0
        # How many messages were no answers.
        self._ignored = 0
        self._last_answer_at: float | None = None
        self._is_over = False
        self.is_confirmed = False
        """Whether the broker has confirmed that all workers' queues have the request."""

    @property
    def missing(self) -> int | None:
        """How many of the expected workers have not answered. `None` if no number is expected."""
        expected = self._options.expect_workers
        return None if expected is None else max(0, expected - self._answered)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Answer[R]:
        if self._is_over:
            raise StopAsyncIteration
        try:
            if self._limit is None:
                self._limit = TimeLimit.of(self._timeout)
                await self._begin(self._limit)
            answer = await self._next(self._limit)
        except BaseException:
            await self.aclose()
            raise
        if answer is None:
            await self.aclose()
            raise StopAsyncIteration
        return answer

    async def collect(self) -> list[Answer[R]]:
        """Returns the answers that are not read yet, once gathering has ended."""
        return [answer async for answer in self]

    async def _begin(self, limit: TimeLimit) -> None:
        """Opens the queue for answers, and publishes the request.

        Repeats both if a channel is lost before the request is written and, with `wait_for_server`,
        while no worker can be reached. A refusal is no error: other workers may have the request.
        """
        _check_size(self._request)
        problem = ""
        while True:
            try:
                async with asyncio.timeout_at(limit.deadline):
                    queue = await self._open_queue()
                    published = await _publish(self._connection, self._request, limit, queue)
            except TimeoutError:
                reason = self._connection.supervisor.problem or problem
                raise TimedOut(limit.seconds, _executed(self._request), reason) from None
            except ChannelLost as error:
                # If workers may have the request, the queue for their answers is lost.
                _uncount_or_raise(self._request, error)
                problem = error.reason
                await asyncio.sleep(_LOST_PAUSE)
                continue
            if published is Published.RETURNED:
                if not self._request.waits_for_server or limit.left <= _NO_WORKERS_PAUSE:
                    raise NoWorkers(self._request.queue)
                await self._close_consumer()
                await asyncio.sleep(_NO_WORKERS_PAUSE)
                continue
            self.is_confirmed = published is Published.CONFIRMED
            return

    async def _open_queue(self) -> str:
        """Declares and consumes a queue in place of an earlier one. Returns its name."""
        await self._close_consumer()
        try:
            link = await self._connection.supervisor.link()
        except ConnectFailed as error:
            raise BrokerFailed(str(error)) from None
        channel = await link.channel(has_confirms=False)
        # Set before the next steps: if one of them fails, `aclose` closes the channel.
        self._consumer = channel
        await channel.prefetch(_PREFETCH)
        # Deleted with its consumer, even if the connection lives on.
        name, _ = await channel.declare_queue(
            "", is_durable=False, is_exclusive=True, is_auto_delete=True
        )

        def on_delivery(delivery: Delivery) -> None:
            self._arrived.append(delivery)
            self._changed.set()

        await channel.consume(name, on_delivery)
        return name

    async def _next(self, limit: TimeLimit) -> Answer[R] | None:
        """Waits for the next answer. Returns `None` once gathering has ended."""
        while not self._has_enough():
            if self._arrived:
                answer = self._read(self._arrived.popleft())
                if answer is not None:
                    self._last_answer_at = now()
                    return answer
                continue
            consumer = self._consumer
            if consumer is None or not consumer.is_open:
                return None
            ends_at = min(limit.deadline, self._quiet_ends_at())
            if ends_at <= now():
                return None
            with contextlib.suppress(TimeoutError):
                # `_changed` does not tell of a lost channel, so the loop looks at it each second.
                async with asyncio.timeout_at(min(ends_at, now() + 1.0)):
                    await self._changed.wait()
            self._changed.clear()
        return None

    def _has_enough(self) -> bool:
        """Whether all expected workers have answered, or there are too many messages."""
        expected = self._options.expect_workers
        enough = _MAX_ANSWERS if expected is None else min(expected, _MAX_ANSWERS)
        return self._answered >= enough or self._ignored >= _MAX_IGNORED

    def _quiet_ends_at(self) -> float:
        """Returns when the quiet time after the last answer ends.

        Infinity without a quiet time, or before the first answer: it may take the whole timeout.
        """
        quiet_for = self._options.quiet_for
        if quiet_for is None and self._options.expect_workers is None:
            quiet_for = _DEFAULT_QUIET
        if quiet_for is None or self._last_answer_at is None:
            return float("inf")
        return self._last_answer_at + quiet_for

    def _read(self, delivery: Delivery) -> Answer[R] | None:
        """Acknowledges a message. Returns it if it is the first answer of a worker, or `None`."""
        delivery.ack()
        header = delivery.message.headers.get(WORKER_HEADER)
        worker = WorkerInfo.from_header(header) or WorkerInfo("")
        is_foreign = delivery.message.correlation_id != self._request.correlation_id
        if is_foreign or worker.id in self._seen:
            self._ignored += 1
            return None
        if worker.id:
            self._seen.add(worker.id)
        self._answered += 1
        return Answer(worker, self._reader, delivery)

    async def _close_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.close()

    async def aclose(self) -> None:
        """Ends gathering. The queue for answers is deleted."""
        self._is_over = True
        self._arrived.clear()
        await self._close_consumer()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    @staticmethod
    async def send_oneway(connection: Connection, request: Request, limit: TimeLimit) -> None:
        """Sends a broadcast that nobody answers. Returns once the broker has confirmed it."""
        _check_size(request)
        problem = ""
        while True:
            try:
                async with asyncio.timeout_at(limit.deadline):
                    published = await _publish(connection, request, limit, None)
            except TimeoutError:
                reason = connection.supervisor.problem or problem
                raise TimedOut(limit.seconds, _executed(request), reason) from None
            except ChannelLost as error:
                _uncount_or_raise(request, error)
                problem = error.reason
                await asyncio.sleep(_LOST_PAUSE)
                continue
            if published is Published.CONFIRMED:
                return
            if published is Published.REFUSED:
                raise Refused(request.queue)
            if not request.waits_for_server or limit.left <= _NO_WORKERS_PAUSE:
                raise NoWorkers(request.queue)
            await asyncio.sleep(_NO_WORKERS_PAUSE)


async def _publish(
    connection: Connection, request: Request, limit: TimeLimit, reply_to: str | None
) -> Published:
    """Publishes a broadcast on a channel of its own: without the exchange, the broker closes it.

    The exchange is missing until the first worker declares it, so the result is `RETURNED` then. A
    broadcast that was returned has reached no worker, so it does not count as sent.
    """
    try:
        link = await connection.supervisor.link()
    except ConnectFailed as error:
        raise BrokerFailed(str(error)) from None
    channel = await link.channel()
    try:
        # `publish` waits for this too, but only a request that is not blocked counts as sent.
        await channel.unblocked()
        # Made after the wait, because it says how much time is left.
        message = request.message(reply_to, None if reply_to is None else limit.left)
        request.times_sent += 1
        published = await channel.publish(
            message, queue=request.queue, exchange=CONTROL_EXCHANGE, is_mandatory=True
        )
    except NotFound:
        published = Published.RETURNED
    finally:
        await channel.close()
    if published is Published.RETURNED:
        request.times_sent = 0
    return published


def _uncount_or_raise(request: Request, error: ChannelLost) -> None:
    """Counts a broadcast as not sent, because its channel was lost before it was written.

    Raises `BrokerFailed` if it may have been written, or if another attempt would fail too: the
    broker does not accept it, or the user lacks a permission.
    """
    if error.is_written:
        raise BrokerFailed(error.reason, Executed.MAYBE) from None
    request.times_sent = 0
    if error.is_alone:
        raise BrokerFailed(error.reason) from None


def _check_size(request: Request) -> None:
    if len(request.body) > MAX_BROADCAST_BYTES:
        raise TooLarge(len(request.body), MAX_BROADCAST_BYTES)


def _executed(request: Request) -> Executed:
    """Whether workers may have run a broadcast that fails now."""
    return Executed.MAYBE if request.times_sent else Executed.NO
