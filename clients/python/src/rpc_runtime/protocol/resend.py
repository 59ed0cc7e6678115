"""Whether a request is sent again after its connection was lost, or after the broker refused it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

# The second one has no other message.
MAX_CLOSED: Final = 2


@dataclass(frozen=True, slots=True)
class ReplyEpoch:
    """The reply queue and the consumer with which a request was sent."""

    address: int
    consumer: int


class Resend(enum.Enum):
    """What becomes of a call."""

    WAIT = "wait"
    SEND = "send"
    FAIL = "fail"


def after_failed_publish(is_idempotent: bool, is_written: bool, closed: int = 0) -> Resend:
    """Decides after a request was not confirmed because its channel was lost.

    `closed` is how many channels the broker has closed over this request or another one.
    """
    if closed >= MAX_CLOSED:
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
