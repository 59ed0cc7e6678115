"""Keeps a connection open: connects again whenever it is lost."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Sequence

from yarl import URL

from ..protocol.backoff import Backoff
from ..tasks import cancel_and_wait, supervised
from .errors import ConnectFailed
from .link import Link, open_link

_log = logging.getLogger("rpc_runtime")

# A connection that lasts this long was no failed attempt: the pauses begin anew after it.
_STABLE_AFTER = 2.0


class Supervisor:
    """Owns the connection and the task that keeps it open."""

    def __init__(
        self, addresses: Sequence[URL], name: str, ssl_context: ssl.SSLContext | None
    ) -> None:
        self._addresses = addresses
        self._name = name
        self._ssl_context = ssl_context
        self._link: Link | None = None
        # Set while there is a link, and once there will be none any more.
        self._has_news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        # Closes the last link.
        self._link_closing: asyncio.Task[None] | None = None
        self._is_closing = False
        # Why there is no link. Empty if there is one.
        self._problem = "it is not connected yet"

    @property
    def is_closed(self) -> bool:
        """Whether no connection will be opened any more."""
        return self._is_closing

    @property
    def is_blocked(self) -> bool:
        """Whether the broker blocks publishers."""
        return self._link is not None and self._link.blocking.is_blocked

    @property
    def problem(self) -> str:
        """Why nothing can be published now. Empty if the connection is open and not blocked."""
        return "the broker blocks publishers" if self.is_blocked else self._problem

    def start(self) -> None:
        """Begins to connect."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                supervised("connection", self._run), name="rpc supervisor"
            )

    async def link(self) -> Link:
        """Waits for an open connection. Raises `ConnectFailed` if it was closed for good."""
        while True:
            if self._is_closing:
                raise ConnectFailed("the connection was closed by this program")
            if self._link is not None and not self._link.closed.is_set():
                return self._link
            # If the link was just lost, `_run` must first have a turn to clear the event.
            await asyncio.sleep(0)
            await self._has_news.wait()

    async def _run(self) -> None:
        """Connects again and again, to one address after the other, until it is cancelled."""
        backoff = Backoff()
        # The last reason of each address, because the reasons of several may come in turns.
        logged: dict[URL, str] = {}
        attempt = 0
        while True:
            address = self._addresses[attempt % len(self._addresses)]
            attempt += 1
            try:
                link = await open_link(address, self._name, self._ssl_context)
            except ConnectFailed as error:
                self._problem = str(error)
                # Attempts go on for as long as the broker is away, so only a new reason is logged.
                if self._problem != logged.get(address):
                    _log.warning("cannot connect to %s: %s", _host_and_port(address), self._problem)
                    logged[address] = self._problem
                await asyncio.sleep(backoff.next_pause())
                continue
            _log.info("connected to %s", _host_and_port(address))
            logged.clear()
            began = time.monotonic()
            self._set_link(link)
            try:
                await link.closed.wait()
            finally:
                self._set_link(None)
                # Reached when the link is lost, or when `close` cancels this task: only then is it
                # still open. Another task closes it, because this one may be cancelled again.
                if self._is_closing:
                    self._link_closing = asyncio.get_running_loop().create_task(
                        link.close(), name="rpc closing"
                    )
            self._problem = link.reason
            _log.warning("the connection to %s was lost: %s", _host_and_port(address), link.reason)
            if time.monotonic() - began >= _STABLE_AFTER:
                backoff.reset()
            await asyncio.sleep(backoff.next_pause())

    def _set_link(self, link: Link | None) -> None:
        self._link = link
        if link is None:
            self._has_news.clear()
        else:
            self._problem = ""
            self._has_news.set()

    async def close(self) -> None:
        """Closes the connection for good."""
        self._is_closing = True
        # Those that wait in `link` learn that there will be none.
        self._has_news.set()
        await cancel_and_wait(self._task)
        # Again, because the task has cleared it.
        self._has_news.set()
        if self._link_closing is not None:
            # If `close` itself is cancelled, the closing goes on.
            await asyncio.shield(self._link_closing)


def _host_and_port(address: URL) -> str:
    """Returns the part of an address that may be logged: without its credentials."""
    return f"{address.host}:{address.port}"
