"""Whether a request is sent again after its channel was lost, or after the broker refused it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

# A message that closes this many channels is given up. The first channel may have been closed over
# another message. The second one carries no other (see `SeparateChannels`), except for replies over
# direct reply-to.
MAX_CLOSED: Final = 2


@dataclass(frozen=True, slots=True)
class ReplyEpoch:
    """The reply queue and the consumer of a session, by their numbers."""

    # Changes with each new queue. The replies in the old one are lost.
    address: int
    # Changes with each session.
    consumer: int


class Resend(enum.Enum):
    """What a call does next."""

    # Wait for the reply.
    WAIT = "wait"
    # Send the request again.
    SEND = "send"
    # Fail. Whether the method may have run is decided elsewhere.
    FAIL = "fail"


def after_failed_publish(is_idempotent: bool, is_written: bool, channels_closed: int = 0) -> Resend:
    """Decides after a request was not confirmed because its channel was lost.

    `is_written` tells whether the broker may have it. `channels_closed` is how many attempts the
    request itself may have ended: the broker closed their channels, or it could not be encoded.
    """
    if channels_closed >= MAX_CLOSED:
        return Resend.FAIL
    return Resend.SEND if is_idempotent or not is_written else Resend.FAIL


def after_refusal(is_idempotent: bool) -> Resend:
    """Decides after the broker refused a request: its queue is full, or has no leader.

    A queue that has lost its leader may refuse a request that it has delivered.
    """
    return Resend.SEND if is_idempotent else Resend.FAIL


def after_confirm(is_idempotent: bool, sent_in: ReplyEpoch, current: ReplyEpoch) -> Resend:
    """Decides about a confirmed request without a reply, which was sent in the epoch `sent_in`.

    From the same queue, the reply may still arrive, unless the broker has restarted and lost it.
    """
    if sent_in == current:
        return Resend.WAIT
    if is_idempotent:
        return Resend.SEND
    return Resend.WAIT if sent_in.address == current.address else Resend.FAIL
