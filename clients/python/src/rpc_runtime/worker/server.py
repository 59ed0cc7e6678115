"""Serves queues: owns their consumers, and opens them again after each loss."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from types import TracebackType
from typing import Self

from ..connection import Connection
from ..deadline import now
from ..errors import BrokerFailed
from ..log_limit import LimitedLog
from ..protocol.backoff import Backoff
from ..protocol.reply_address import ReplyAddresses
from ..tasks import any_set, cancel_and_wait, supervised
from ..transport.channel import Channel
from ..transport.errors import ChannelLost, ConnectFailed, Forbidden
from ..transport.link import Link
from .control import ControlServer
from .identity import Identity
from .job_mover import declare
from .reply_sender import ReplySender
from .request_handler import RequestHandler
from .request_queue import RequestQueue
from .served import ServedQueue
from .shared import Shared
from .worker import Worker

_log = logging.getLogger("rpc_runtime")

# The prefetch of a channel has 16 bits.
_MAX_CONCURRENCY = 65_535
# How long the last messages of streams may take when the server stops.
_FAREWELL = 2.0


class Server:
    """The worker's side of one or more services."""

    def __init__(
        self,
        connection: Connection,
        *,
        concurrency: int = 16,
        name: str | None = None,
        version: str | None = None,
        reply_addresses: ReplyAddresses | None = None,
        self_description: bool = True,
        drain_timeout: float = 30.0,
    ) -> None:
        """Prepares a server.

        `concurrency` is how many requests of each queue run at once, with as many streams beside
        them. `name` and `version` are those of this program, for discovery. `self_description` is
        whether the built-in methods are served. `drain_timeout` is how many seconds requests may go
        on when the server stops.
        """
        if not 1 <= concurrency <= _MAX_CONCURRENCY:
            raise ValueError(f"the concurrency must be from 1 to {_MAX_CONCURRENCY}")
        log = LimitedLog()
        self._shared = Shared(
            connection=connection,
            identity=Identity(name, connection.app_id, version),
            reply_addresses=reply_addresses or ReplyAddresses(),
            concurrency=concurrency,
            describes_itself=self_description,
            log=log,
            sender=ReplySender(connection.supervisor, log),
        )
        self._drain_timeout = drain_timeout
        self._served: dict[str, ServedQueue] = {}
        self._queues: dict[str, RequestQueue] = {}
        self._handlers: dict[str, RequestHandler] = {}
        self._control: ControlServer | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop_task: asyncio.Task[bool] | None = None
        self._stopping = asyncio.Event()
        # Set once the server has stopped, or its connection was closed for good.
        self._ended = asyncio.Event()
        # Set once the queues are consumed for the first time.
        self._ready = asyncio.Event()
        # Why the first attempt to consume them failed.
        self._failure: str | None = None
        # Channels and tags of the consumers of request queues.
        self._consumers: list[tuple[Channel, str]] = []
        # Those of the control exchange, if any, and then one for each request queue.
        self._channels: list[Channel] = []

    @property
    def id(self) -> str:
        """The id of this worker, for discovery and broadcasts."""
        return self._shared.identity.id

    def add(self, worker: Worker, queue: str | RequestQueue | None = None) -> Self:
        """Adds an implementation, by default on the queue of its service.

        Raises `RuntimeError` if the server has started, and `ValueError` for what cannot be served.
        """
        if self._task is not None:
            raise RuntimeError("the server has started")
        if not isinstance(queue, RequestQueue):
            queue = RequestQueue(queue or worker._service.queue)
        known = self._queues.setdefault(queue.name, queue)
        if known != queue:
            raise ValueError(f'the queue "{queue.name}" is declared in two ways')
        served = self._served.setdefault(queue.name, ServedQueue())
        served.add(worker)
        queue.check(has_jobs=served.has_jobs)
        return self

    async def start(self) -> Self:
        """Begins to serve. Waits for a connection, and until all queues are consumed.

        Raises `BrokerFailed` if the first attempt to consume them fails, or if the server is
        stopped before that.
        """
        if self._task is not None or self._stopping.is_set():
            raise RuntimeError("the server has started before")
        if not self._served:
            raise ValueError("the server has nothing to serve: add a worker")
        for name, served in self._served.items():
            self._handlers[name] = RequestHandler(self._shared, self._queues[name], served)
        self._control = ControlServer(self._shared, self._served, self._handlers)
        run = supervised("server", self._run)
        self._task = asyncio.get_running_loop().create_task(run, name="rpc server")
        run_ended = asyncio.ensure_future(asyncio.wait({self._task}))
        ready = asyncio.ensure_future(self._ready.wait())
        try:
            await asyncio.wait({run_ended, ready}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # The caller of `start` gets no server that it could stop.
            await self.stop(0)
            raise
        finally:
            run_ended.cancel()
            ready.cancel()
        if not self._ready.is_set():
            await self.stop(0)
            raise BrokerFailed(f"cannot serve: {self._failure or 'the server was stopped'}")
        return self

    async def _run(self) -> None:
        """Consumes the queues, again after each loss, until the server stops.

        Returns if the first attempt fails, or if the connection was closed for good. Later attempts
        are repeated.
        """
        backoff = Backoff()
        while not self._stopping.is_set():
            try:
                link = await self._shared.connection.supervisor.link()
                await self._open(link)
            except ConnectFailed as error:
                self._failure = str(error)
                self._ended.set()
                return
            except ChannelLost as error:
                await self._stop_serving()
                if not self._ready.is_set():
                    self._failure = error.reason
                    return
                self._shared.log.report("serve", f"cannot serve: {error.reason}")
                await asyncio.sleep(backoff.next_pause())
                continue
            except Exception as error:
                # An argument of a queue may be of a type that AMQP does not have, for example.
                await self._stop_serving()
                if self._ready.is_set():
                    raise
                self._failure = str(error)
                return
            backoff.reset()
            self._ready.set()
            try:
                await any_set(self._stopping, *(channel.closed for channel in self._channels))
            finally:
                if not self._stopping.is_set():
                    self._log_loss()
                    await self._stop_serving()

    def _log_loss(self) -> None:
        reason = next((each.reason for each in self._channels if each.closed.is_set()), None)
        if reason is not None:
            self._shared.log.report("lost", f"the queues are not served at present: {reason}")

    async def _stop_serving(self) -> None:
        """Closes the channels. Until others are open, no silence of a caller counts."""
        if self._control is not None:
            self._control.ignore_silence()
        await self._close_channels()

    async def _open(self, link: Link) -> None:
        """Declares and consumes all queues. Raises `ChannelLost`.

        Without a permission for the control exchange, serves only the request queues.
        """
        control = self._control
        if control is not None and control.is_needed:
            try:
                self._channels += await control.open(link)
            except Forbidden as error:
                text = (
                    "this worker is not found by discovery, and its calls cannot be cancelled: "
                    f"a permission for rpc.control is missing: {error.reason}"
                )
                self._shared.log.report("control", text)
        for name, handler in self._handlers.items():
            channel = await link.channel(has_confirms=False)
            self._channels.append(channel)
            await declare(channel, self._queues[name])
            if handler.jobs is not None:
                served = self._served[name]
                retries = [each.method.retry for each in served.methods.values()]
                await handler.jobs.declare(channel, [each for each in retries if each])
            await channel.prefetch(self._shared.concurrency)
        # Only now: if a queue could not be declared, requests of the others would be delivered for
        # nothing, and count as redelivered later.
        request_channels = self._channels[-len(self._handlers) :]
        for channel, (name, handler) in zip(request_channels, self._handlers.items(), strict=True):
            self._consumers.append((channel, await channel.consume(name, handler.receive)))

    async def _close_channels(self) -> None:
        # Each channel stays in the list until it is closed: if this is cancelled, `_stop` goes on.
        while self._channels:
            await self._channels[-1].settled()
            await self._channels[-1].close()
            self._channels.pop()
        self._consumers = []

    async def wait(self) -> None:
        """Waits until the server has stopped, or its connection was closed for good.

        In the latter case, it takes no more requests, but `stop` must still be called.
        """
        await self._ended.wait()

    async def stop(self, timeout: float | None = None) -> bool:
        """Takes no more requests, and lets those that run end in time.

        Returns whether all of them have ended. The others are cancelled. The broker delivers their
        requests again, except for broadcasts and begun streams, which are settled. `timeout` is in
        seconds, by default the `drain_timeout`, and has no effect if the server stops already.
        """
        if self._stop_task is None:
            self._stopping.set()
            stop = self._stop(timeout)
            self._stop_task = asyncio.get_running_loop().create_task(stop, name="rpc stop")
        # Several tasks may wait for it. If one of them is cancelled, stopping goes on.
        return await asyncio.shield(self._stop_task)

    async def _stop(self, timeout: float | None) -> bool:
        """Ends the consumers, waits for what runs, and then closes what that needed."""
        # This comes first, so that a server that is connecting again does not begin to consume.
        await cancel_and_wait(self._task)
        ends_at = now() + (self._drain_timeout if timeout is None else timeout)
        for channel, tag in self._consumers:
            with contextlib.suppress(ChannelLost):
                await channel.cancel(tag)
        have_ended = True
        for handler in self._handlers.values():
            have_ended &= await handler.ended(max(0.0, ends_at - now()))
        if self._control is not None:
            have_ended &= await self._control.drain(max(0.0, ends_at - now()))
        if not have_ended:
            _log.warning("the server stops although methods still run")
        for handler in self._handlers.values():
            await handler.close()
        if self._control is not None:
            await self._control.close()
        await self._shared.farewells.ended(_FAREWELL)
        await self._shared.farewells.cancel()
        await self._close_channels()
        await self._shared.sender.close()
        self._ended.set()
        return have_ended

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()


def serve(
    connection: Connection,
    *workers: Worker,
    concurrency: int = 16,
    name: str | None = None,
    version: str | None = None,
    reply_addresses: ReplyAddresses | None = None,
    self_description: bool = True,
    drain_timeout: float = 30.0,
) -> Server:
    """Prepares a `Server` with its options: `async with serve(connection, Directory())`."""
    server = Server(
        connection,
        concurrency=concurrency,
        name=name,
        version=version,
        reply_addresses=reply_addresses,
        self_description=self_description,
        drain_timeout=drain_timeout,
    )
    for worker in workers:
        server.add(worker)
    return server
