"""Waits for what a test expects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


async def until(is_so: Callable[[], Any], timeout: float = 5.0) -> None:
    """Waits until a condition holds."""
    async with asyncio.timeout(timeout):
        while True:
            answer = is_so()
            if isinstance(answer, Awaitable):
                answer = await answer
            if answer:
                return
            await asyncio.sleep(0.01)
