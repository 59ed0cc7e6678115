"""The task that keeps a connection open."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rpc_runtime import connect
from rpc_runtime.transport import supervisor
from rpc_runtime.transport.link import open_link
from support.proxy import Proxy


async def test_a_bug_does_not_end_the_attempts_to_connect(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0

    async def open_at_last(*arguments: Any) -> Any:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise TypeError("a bug")
        return await open_link(*arguments)

    monkeypatch.setattr(supervisor, "open_link", open_at_last)
    async with connect(url):
        assert attempts == 2


async def test_a_connection_whose_opening_is_cancelled_is_closed(proxy: Proxy) -> None:
    proxy.accepts = False
    connection = connect(proxy.url)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(connection.open(), 0.2)
    assert connection.is_closed
