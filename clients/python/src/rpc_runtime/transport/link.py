"""One connection to the broker, until it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any, cast
from weakref import WeakSet

import aiormq
from aiormq.abc import AbstractChannel
from aiormq.connection import (
    Connection,
    TCPTransportFactory,
    TLSTransportFactory,
    TransportFactory,
)
from yarl import URL

from .blocking import Blocking
from .channel import Channel, text_of
from .errors import ChannelLost, ConnectFailed, check_cancelled, has_no_reason, is_loss
from .guard import GuardedReader

# In seconds, for a connection and for each channel.
CONNECT_TIMEOUT = 10.0
_CLOSE_TIMEOUT = 5.0
_MAX_CHANNELS = 65_535
# In seconds. aiormq takes a connection for lost if it is silent for more than 20 seconds:
# `HEARTBEAT_GRACE_MULTIPLIER * (9 + 1)`.
_HEARTBEAT = "9"


class _Connection(Connection):
    HEARTBEAT_GRACE_MULTIPLIER = 2


class _Guarded(TransportFactory):
    """Opens a socket, and puts the guard between it and aiormq."""

    def __init__(self, blocking: Blocking) -> None:
        self._blocking = blocking

    async def create(
        self, url: URL, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, writer = await factory.create(url, **options)
        # It has those methods of a `StreamReader` that aiormq uses.
        guarded = GuardedReader(reader, self._blocking.set)
        return cast(asyncio.StreamReader, guarded), writer


class Link:
    """An open connection."""

    def __init__(self, raw: Connection, blocking: Blocking) -> None:
        self._raw = raw
        self.blocking = blocking
        self.closed = asyncio.Event()
        self.reason = "the connection was closed"
        self._channels: WeakSet[Channel] = WeakSet()
        self._opening: set[asyncio.Task[AbstractChannel]] = set()
        # 0 means that the broker has no limit.
        self._max_channels = raw.connection_tune.channel_max or _MAX_CHANNELS
        raw.closing.add_done_callback(self._on_closed)

    def _on_closed(self, closing: asyncio.Future[Any]) -> None:
        if not closing.cancelled() and (error := closing.exception()) is not None:
            self.reason = text_of(error)
        self._end()

    def _end(self) -> None:
        """Marks the connection as closed, and ends what waits for it."""
        self.closed.set()
        for channel in self._channels:
            channel.lose(self.reason)
        for opening in self._opening:
            opening.cancel()

    async def channel(self, *, has_confirms: bool = True) -> Channel:
        """Opens a channel. Publishing needs one with confirms. Raises `ChannelLost`."""
        if self.closed.is_set():
            raise ChannelLost(self.reason)
        opening = asyncio.get_running_loop().create_task(self._open(has_confirms))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                raw = await opening
        except TimeoutError:
            raise ChannelLost("the broker did not open a channel in time") from None
        except ChannelLost:
            raise
        except (Exception, asyncio.CancelledError) as error:
            check_cancelled(error)
            if not is_loss(error):
                raise
            is_connection_lost = self.closed.is_set() or has_no_reason(error)
            reason = self.reason if is_connection_lost else text_of(error)
            raise ChannelLost(reason) from error
        channel = Channel(raw, self.blocking)
        self._channels.add(channel)
        return channel

    async def _open(self, has_confirms: bool) -> AbstractChannel:
        """Opens a channel with a free number. Raises `ChannelLost` if there is none."""
        numbers, limit = self._raw.channels, self._max_channels
        if len(numbers) >= limit:
            # One more would make the broker close the connection.
            raise ChannelLost(f"the connection has {limit} channels, which is its limit")
        number = None
        if max(numbers, default=0) >= limit:
            # By default, aiormq takes the number after the greatest one, even beyond the limit.
            number = next(free for free in range(1, limit + 1) if free not in numbers)
        return await self._raw.channel(number, publisher_confirms=has_confirms)

    async def close(self) -> None:
        """Closes the connection."""
        with contextlib.suppress(aiormq.AMQPError, OSError, RuntimeError, TimeoutError):
            await self._raw.close(
                aiormq.exceptions.ConnectionClosed(0, "the connection was closed"),
                timeout=_CLOSE_TIMEOUT,
            )
        self._end()


async def open_link(url: URL, name: str, ssl_context: ssl.SSLContext | None = None) -> Link:
    """Connects. Raises `ConnectFailed`.

    `name` is what the broker shows for the connection. The parameters `name` and `heartbeat` of the
    address take precedence.
    """
    query = {"name": name, "heartbeat": _HEARTBEAT, **url.query}
    blocking = Blocking()
    raw = _Connection(
        url.with_query(query), context=ssl_context, transport_factory=_Guarded(blocking)
    )
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await raw.connect()
    except TimeoutError:
        raise ConnectFailed(f"no connection within {CONNECT_TIMEOUT:g} s") from None
    except (
        aiormq.AMQPError,
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        asyncio.CancelledError,
    ) as error:
        check_cancelled(error)
        raise ConnectFailed(text_of(error)) from error
    return Link(raw, blocking)
