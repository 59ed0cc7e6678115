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
    """The settings of a server, and the streams that it sends and receives."""

    connection: Connection
    identity: Identity
    reply_addresses: ReplyAddresses
    concurrency: int
    describes_itself: bool
    log: LimitedLog
    sender: ReplySender
    # All by the ids of their requests: the streams to callers, those from callers, and functions
    # that cancel the methods of both.
    streams: dict[bytes, StreamSender] = field(default_factory=dict)
    incoming: dict[bytes, IncomingInbox] = field(default_factory=dict)
    stream_cancels: dict[bytes, Callable[[], None]] = field(default_factory=dict)
    # The last messages of streams that end because the server stops.
    farewells: TaskSet = field(default_factory=lambda: TaskSet("farewell"))
