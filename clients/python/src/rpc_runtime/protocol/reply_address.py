"""The addresses to which a worker replies."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from .names import REPLY_QUEUE_PREFIX

# RabbitMQ replaces the pseudo-queue in a `reply_to` by this and a token of the consumer.
DIRECT_REPLY_TO = "amq.rabbitmq.reply-to."
# "amq.gen-" begins the names that RabbitMQ gives to queues.
_BUILT_IN = (DIRECT_REPLY_TO, "amq.gen-", REPLY_QUEUE_PREFIX)
# The queues that aio-pika's robust connections name.
_AIO_PIKA = re.compile(r"amq_[0-9a-f]{32}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ReplyAddresses:
    """The addresses to which a worker replies, beside those that are always allowed.

    `uuids` allows every UUID in lower case with hyphens, as kombu and Celery name their queues.
    """

    prefixes: Collection[str] = ()
    names: Collection[str] = ()
    uuids: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.prefixes, str) or isinstance(self.names, str):
            # Text is a collection too: of its characters.
            raise TypeError('prefixes and names are collections of text, such as ["reply-"]')
        if "" in self.prefixes:
            raise ValueError("an empty prefix would allow any address")

    def allows(self, name: str) -> bool:
        """Whether a worker may send a reply there."""
        return (
            name.startswith(_BUILT_IN)
            or _AIO_PIKA.fullmatch(name) is not None
            or (self.uuids and _UUID.fullmatch(name) is not None)
            or name in self.names
            or any(name.startswith(prefix) for prefix in self.prefixes)
        )
