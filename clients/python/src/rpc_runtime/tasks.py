"""Background tasks and their owners."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from .protocol.backoff import Backoff

# In seconds. See `_end`.
_CANCEL_AGAIN = 1.0

_log = logging.getLogger("rpc_runtime")


async def supervised(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Runs a background task until it returns.

    If it raises, which is a bug, it is run again after a pause.
    """
    backoff = Backoff()
    while True:
        try:
            await run()
            return
        except Exception:
            _log.exception("a background task failed: %s", name)
        await asyncio.sleep(backoff.next_pause())


class TaskSet:
    """Tasks with one owner. A failure is logged."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, run: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Starts a task."""
        task = asyncio.get_running_loop().create_task(run, name=f"rpc {self._name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a background task failed: %s", self._name, exc_info=error)

    async def ended(self, timeout: float | None) -> bool:
        """Waits for the present tasks until the timeout. Returns whether all have ended."""
        tasks = set(self._tasks)
        if not tasks:
            return True
        _, pending = await asyncio.wait(tasks, timeout=timeout)
        return not pending

    async def cancel(self) -> None:
        """Cancels all tasks, and waits for their ends."""
        await _end(set(self._tasks))


async def cancel_and_wait(task: asyncio.Task[Any] | None) -> None:
    """Cancels a task, and waits for its end."""
    if task is not None:
        await _end({task})


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    # aiormq may turn a cancellation into the error of a lost connection, which our code handles and
    # goes on. So tasks that have not ended after a while are cancelled again.
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=_CANCEL_AGAIN)


async def any_set(*events: asyncio.Event) -> None:
    """Waits until one of the events is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
