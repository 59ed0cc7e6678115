"""Whether a request is sent again after its connection was lost, or after the broker refused it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

# A message that closes this many channels is given up. The first channel may have been closed over
# another message. The second one carries no other: see `SeparateChannels`.
MAX_CLOSED: Final = 2


@dataclass(frozen=True, slots=True)
class ReplyEpoch:
    """The reply queue and the consumer with which a request was sent, by their numbers."""

    # Changes when the queue is lost, with the replies in it.
    address: int
    # Changes when the queue is consumed again.
    consumer: int


class Resend(enum.Enum):
    """What becomes of a call."""

    # Wait for the reply.
    WAIT = "wait"
    # Send the request again.
    SEND = "send"
    FAIL = "fail"


def after_failed_publish(is_idempotent: bool, is_written: bool, channels_closed: int = 0) -> Resend:
    """Decides after a request was not confirmed because its channel was lost.

    `channels_closed` is how many channels the broker has closed while they carried the request.
    """
    if channels_closed >= MAX_CLOSED:
        return Resend.FAIL
    return Resend.SEND if is_idempotent or not is_written else Resend.FAIL


def after_refusal(is_idempotent: bool) -> Resend:
    """Decides after the broker refused a request: its queue is full, or has no leader."""
    return Resend.SEND if is_idempotent else Resend.FAIL


def after_confirm(is_idempotent: bool, sent: ReplyEpoch, now: ReplyEpoch) -> Resend:
    """Decides whether the reply to a confirmed request can still arrive."""
    if sent == now:
        return Resend.WAIT
    if is_idempotent:
        return Resend.SEND
    return Resend.WAIT if sent.address == now.address else Resend.FAIL
