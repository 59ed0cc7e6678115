"""What the queues of one server share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..connection import Connection
from ..log_limit import LimitedLog
from ..protocol.reply_address import ReplyAddresses
from ..tasks import TaskSet
from .identity import Identity
from .incoming import IncomingInbox
from .reply_sender import ReplySender
from .stream_sender import StreamSender


@dataclass(slots=True)
class Shared:
    """The settings of a server, and its requests with streams that run."""

    connection: Connection
    identity: Identity
    reply_addresses: ReplyAddresses
    concurrency: int
    describes_itself: bool
    log: LimitedLog
    sender: ReplySender
    # By the ids of requests with a stream in either direction: what sends messages to the callers,
    # what receives their items, if they send any, and functions that cancel the methods.
    streams: dict[bytes, StreamSender] = field(default_factory=dict)
    incoming: dict[bytes, IncomingInbox] = field(default_factory=dict)
    stream_cancels: dict[bytes, Callable[[], None]] = field(default_factory=dict)
    # Send the last messages of streams that end because the server stops.
    farewells: TaskSet = field(default_factory=lambda: TaskSet("farewell"))
