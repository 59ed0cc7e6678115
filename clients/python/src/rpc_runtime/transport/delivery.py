"""Messages to and from AMQP."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol

from aiormq.abc import DeliveredMessage
from pamqp import commands

from ..protocol.message import Message
from .guard import HEADERS_LOST_HEADER, MALFORMED_HEADER, unescaped


class DeliveryChannel(Protocol):
    """What a delivery uses of the channel on which it arrived, and on which it is settled."""

    @property
    def is_open(self) -> bool:
        """Whether the channel can be used."""

    def ack(self, tag: int) -> None:
        """Acknowledges a delivery. Does nothing if the channel is closed."""

    def reject(self, tag: int) -> None:
        """Rejects a delivery without requeue. Does nothing if the channel is closed."""


@dataclass(slots=True)
class Delivery:
    """A message that the broker has delivered."""

    message: Message
    tag: int
    is_redelivered: bool
    exchange: str
    routing_key: str
    channel: DeliveryChannel
    # Why its properties cannot be read. `None` if those that matter can.
    malformed: str | None = None
    # Set if all headers of a malformed message, or `x-death`, cannot be read. The number of its
    # earlier rejections is unknown then.
    are_headers_lost: bool = False
    is_settled: bool = False

    def ack(self) -> None:
        """Acknowledges the message, unless it is settled or its channel is lost."""
        if not self.is_settled:
            self.is_settled = True
            self.channel.ack(self.tag)

    def reject(self) -> None:
        """Rejects the message, unless it is settled or its channel is lost.

        The dead-letter queue keeps it, if there is one.
        """
        if not self.is_settled:
            self.is_settled = True
            self.channel.reject(self.tag)


def read_delivery(delivered: DeliveredMessage, channel: DeliveryChannel) -> Delivery:
    """Reads a delivery of aiormq."""
    properties = delivered.header.properties
    headers = dict(properties.headers or {})
    malformed = headers.pop(MALFORMED_HEADER, None)
    are_headers_lost = bool(headers.pop(HEADERS_LOST_HEADER, False))
    correlation_id = properties.correlation_id
    message = Message(
        body=delivered.body,
        type=properties.message_type,
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        correlation_id=None if correlation_id is None else unescaped(correlation_id),
        reply_to=properties.reply_to,
        expiration=properties.expiration,
        is_persistent=properties.delivery_mode == 2,
        priority=properties.priority,
        app_id=properties.app_id,
        user_id=properties.user_id,
        headers=headers,
    )
    return Delivery(
        message,
        delivered.delivery_tag or 0,
        bool(delivered.redelivered),
        delivered.exchange or "",
        delivered.routing_key or "",
        channel,
        None if malformed is None else str(malformed),
        are_headers_lost,
    )


def encoding_problem(message: Message, exchange: str, routing_key: str) -> str | None:
    """Why a message cannot be written in AMQP: a text is too long, or a value has another type.

    `None` if it can.
    """
    try:
        commands.Basic.Publish(exchange=exchange, routing_key=routing_key).marshal()
        properties_of(message).marshal()
    except (TypeError, ValueError, struct.error) as error:
        return f"the message cannot be encoded: {error}"[:256]
    return None


def properties_of(message: Message) -> commands.Basic.Properties:
    """Makes the properties of a message for aiormq."""
    return commands.Basic.Properties(
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        headers=message.headers or None,
        delivery_mode=2 if message.is_persistent else 1,
        priority=message.priority,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        expiration=message.expiration,
        message_type=message.type,
        user_id=message.user_id,
        app_id=message.app_id,
    )
