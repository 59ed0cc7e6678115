"""How channels fail."""

from __future__ import annotations

import asyncio

import aiormq


class ChannelLost(Exception):
    """The channel or its connection is closed.

    `is_written` tells whether the message may have reached the broker. `is_alone` tells that the
    broker has closed the channel and not its connection: it does that over a message which it does
    not accept.
    """

    def __init__(self, reason: str, is_written: bool = False, is_alone: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_written = is_written
        self.is_alone = is_alone


class NotFound(ChannelLost):
    """The channel was closed because a queue or an exchange does not exist."""


class Forbidden(ChannelLost):
    """The channel was closed because a permission is missing."""


class ConnectFailed(Exception):
    """A connection could not be opened."""


def is_loss(error: BaseException) -> bool:
    """Whether aiormq raises this error because a channel or its connection is lost.

    Those that wait when a connection ends without an error get a plain `Exception`.
    """
    if isinstance(error, aiormq.AMQPError | OSError | RuntimeError | asyncio.CancelledError):
        return True
    return has_no_reason(error)


def has_no_reason(error: BaseException) -> bool:
    """Whether this is the plain `Exception` that `is_loss` describes."""
    return type(error) is Exception


def check_cancelled(error: BaseException) -> None:
    """Raises `CancelledError` if the current task was cancelled, whatever error it caught.

    The type of an error of aiormq does not tell that. It raises `CancelledError` in a task that
    waits for a channel when the channel is closed. If the task is cancelled at that moment, it may
    raise the error of the channel.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling() > 0:
        raise asyncio.CancelledError from error
