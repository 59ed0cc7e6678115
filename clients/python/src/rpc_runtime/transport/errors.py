"""How channels fail."""

from __future__ import annotations

import asyncio

import aiormq


class ChannelLost(Exception):
    """A channel is closed, could not be opened, or got no answer from the broker in time.

    `is_written` tells whether the message may have reached the broker. `is_alone` tells that the
    broker has closed the channel and not its connection, as it does over a message or a declaration
    that it does not accept. It is also set for a message that cannot be encoded.
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
    """A connection could not be opened, or was closed for good by this program."""


def is_loss(error: BaseException) -> bool:
    """Whether this error of aiormq counts as the loss of a channel or its connection.

    Tasks that wait when a connection ends without an error get a plain `Exception`.
    """
    if isinstance(error, aiormq.AMQPError | OSError | RuntimeError | asyncio.CancelledError):
        return True
    return has_no_reason(error)


def has_no_reason(error: BaseException) -> bool:
    """Whether this is the plain `Exception` that `is_loss` describes."""
    return type(error) is Exception


def check_cancelled(error: BaseException) -> None:
    """Raises `CancelledError` if the current task was cancelled, whatever error it caught.

    The type of an error of aiormq does not tell that. A task that waits for a channel gets
    `CancelledError` when the channel is closed. If the task is cancelled at that moment, it may get
    the error of the channel.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling() > 0:
        raise asyncio.CancelledError from error
