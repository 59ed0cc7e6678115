"""A connection to the broker, as users hold it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from yarl import URL

from .client.caller import Caller
from .client.options import DEFAULT_TIMEOUT
from .client.session import ReplyQueueKind
from .codec import Codec
from .errors import BrokerFailed
from .protocol.names import MAX_SHORT_STRING
from .transport.errors import ConnectFailed
from .transport.link import CONNECT_TIMEOUT
from .transport.supervisor import Supervisor

_DEFAULT_MAX_BYTES = 16 * 1024 * 1024
_DEFAULT_MAX_IN_FLIGHT = 10_000


class Connection:
    """A connection that heals itself, and what clients and servers share on it."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        name: str,
        app_id: str | None,
        codec: Codec,
        reply_queue: ReplyQueueKind,
        timeout: float,
        max_in_flight: int,
        max_sent_bytes: int,
        max_accepted_bytes: int,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        if not addresses:
            raise ValueError("at least one address is needed, such as amqp://localhost")
        if reply_queue not in ("resumable", "exclusive"):
            raise ValueError('the reply queue must be "resumable" or "exclusive"')
        if max_in_flight < 1:
            raise ValueError("at least one call must be allowed in flight")
        if app_id is not None and len(app_id.encode()) > MAX_SHORT_STRING:
            raise ValueError(f"the app_id must have at most {MAX_SHORT_STRING} bytes")
        self.codec = codec
        self.app_id = app_id
        self.timeout = timeout
        self.max_sent_bytes = max_sent_bytes
        self.max_accepted_bytes = max_accepted_bytes
        self.supervisor = Supervisor([_parse(url) for url in addresses], name, ssl_context)
        self.caller = Caller(self.supervisor, reply_queue, max_in_flight)

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed for good: by `close`, or after `open` failed."""
        return self.supervisor.is_closed

    @property
    def is_blocked(self) -> bool:
        """Whether the broker blocks publishers, for example during a memory alarm."""
        return self.supervisor.is_blocked

    async def open(self) -> None:
        """Connects. Raises `BrokerFailed` if the broker cannot be reached in time.

        If it fails or is cancelled, the connection is closed for good.
        """
        self.supervisor.start()
        try:
            # Longer than one attempt, so that the error can say why that failed.
            async with asyncio.timeout(CONNECT_TIMEOUT + 1.0):
                await self.supervisor.link()
        except (TimeoutError, ConnectFailed):
            problem = self.supervisor.problem
            await self.supervisor.close()
            raise BrokerFailed(f"cannot connect: {problem}") from None
        except asyncio.CancelledError:
            # The caller of `open` gets no connection that it could close.
            await self.supervisor.close()
            raise

    async def close(self) -> None:
        """Closes the connection for good. Calls that still wait fail."""
        try:
            await self.caller.close()
        finally:
            await self.supervisor.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def connect(
    url: str | Sequence[str] = "amqp://localhost",
    *,
    name: str = "rpc_runtime",
    app_id: str | None = None,
    codec: Codec = Codec.MESSAGE_PACK,
    reply_queue: ReplyQueueKind = "resumable",
    timeout: float = DEFAULT_TIMEOUT,
    max_in_flight: int = _DEFAULT_MAX_IN_FLIGHT,
    max_sent_bytes: int = _DEFAULT_MAX_BYTES,
    max_accepted_bytes: int = _DEFAULT_MAX_BYTES,
    ssl_context: ssl.SSLContext | None = None,
) -> Connection:
    """Prepares a connection: `async with connect("amqp://localhost") as connection`.

    Several addresses are tried in turn. RabbitMQ shows `name` as the name of the connection.
    Workers see `app_id`, of at most 255 bytes, in each request.
    `codec` and `timeout`, in seconds, are the defaults of calls. A `resumable` reply queue outlives
    a lost connection by a minute, so that calls go on over the next one; an `exclusive` queue ends
    with its connection. `max_in_flight` limits the calls that wait for replies. `max_sent_bytes`
    and `max_accepted_bytes` limit the bodies of requests and replies.
    """
    return Connection(
        [url] if isinstance(url, str) else list(url),
        name=name,
        app_id=app_id,
        codec=codec,
        reply_queue=reply_queue,
        timeout=timeout,
        max_in_flight=max_in_flight,
        max_sent_bytes=max_sent_bytes,
        max_accepted_bytes=max_accepted_bytes,
        ssl_context=ssl_context,
    )


def _parse(address: str) -> URL:
    url = URL(address)
    if url.scheme not in ("amqp", "amqps") or not url.host:
        raise ValueError("an address must begin with amqp:// or amqps:// and name a host")
    # RabbitMQ's default user. aiormq sends none.
    return url if url.user else url.with_user("guest").with_password("guest")
