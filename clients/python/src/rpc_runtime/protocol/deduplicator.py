"""Recognizes requests that are delivered again while they run here, or after they have ended."""

from __future__ import annotations

import enum
import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from .dead_letter import read_dead_lettered
from .message import Message
from .names import COPY_HEADER, RESENT_HEADER
from .request_id import uuid_of

D = TypeVar("D")

# How many requests that have ended are remembered.
_MAX_ENDED = 16_384
_MAX_TOKEN = 64


class RequestKey(NamedTuple):
    """What identifies a request, and its copy if a worker has made one."""

    reply_to: str
    correlation_id: str
    copy: str = ""


class Origin(enum.Enum):
    """Why a request is delivered."""

    NEW = "new"
    # Its caller sent it again, or a queue dead-lettered it to this one.
    RESENT = "resent"
    # The broker delivers it again, because a worker or its channel was lost.
    REDELIVERED = "redelivered"
    # A copy that a worker published to the request queue, of a request ...
    FORWARDED = "forwarded"
    # ... or of one that its caller had sent again.
    FORWARDED_RESENT = "forwarded_resent"
    # A copy of a job that a worker moved to another queue, or to the end of this one.
    MOVED = "moved"


class Action(enum.Enum):
    """What to do with a delivery."""

    RUN = "run"
    # Another delivery of the request runs here: settle both together.
    JOIN = "join"
    # The request was answered or moved before.
    ACK = "ack"
    # The request was rejected before.
    REJECT = "reject"


class End(enum.Enum):
    """How a request ended here."""

    ANSWERED = "answered"
    # A copy of it is in another queue, or at the end of this one.
    MOVED = "moved"
    REJECTED = "rejected"


@dataclass(slots=True)
class _Running(Generic[D]):
    # The deliveries to settle together with the one that runs.
    joined: list[D] = field(default_factory=list)


def key_of(message: Message) -> RequestKey | None:
    """Returns the key of a request, or `None` if it has no unique id.

    Without a reply address, only a UUID counts as unique: some senders use an order number, for
    example, for all messages about that order.
    """
    identity = message.correlation_id
    if not identity or (not message.expects_reply and uuid_of(identity) is None):
        return None
    return RequestKey(message.reply_to or "", identity)


def copy_token(message: Message) -> str:
    """Returns the token of a copy, or an empty text if the message is no copy.

    A long token, or one that is no text, is replaced by its hash, because it is remembered.
    """
    token = message.headers.get(COPY_HEADER, "")
    if isinstance(token, str) and len(token) <= _MAX_TOKEN:
        return token
    return hashlib.sha256(repr(token).encode()).hexdigest()


def origin_of(message: Message, is_redelivered: bool) -> Origin:
    """Reads why a request is delivered.

    `rpc-resent` says who has sent it again. A caller sends the header without a value.
    """
    resent = message.headers.get(RESENT_HEADER)
    if resent == "worker":
        return Origin.FORWARDED
    if resent == "caller, worker":
        return Origin.FORWARDED_RESENT
    if resent is not None:
        return Origin.RESENT
    if COPY_HEADER in message.headers:
        return Origin.MOVED
    if is_redelivered:
        return Origin.REDELIVERED
    return Origin.RESENT if read_dead_lettered(message.headers) is not None else Origin.NEW


class Deduplicator(Generic[D]):
    """The requests that run, and the last ones that ended. `D` is a delivery."""

    def __init__(self) -> None:
        self._running: dict[RequestKey, _Running[D]] = {}
        self._ended: OrderedDict[RequestKey, End] = OrderedDict()

    @property
    def joined(self) -> int:
        """How many deliveries have joined the requests that run. For tests."""
        return sum(len(running.joined) for running in self._running.values())

    def add(
        self, key: RequestKey, origin: Origin, copy: str, delivery: D
    ) -> tuple[Action, RequestKey]:
        """Decides about a delivery, whose `copy_token` is `copy`.

        Also returns the key to `end` the request with if it runs.
        """
        is_forwarded = origin in (Origin.FORWARDED, Origin.FORWARDED_RESENT)
        # Without the token of the copy, the key is that of the original, which may be here too.
        if is_forwarded and self._join(key, delivery):
            return Action.JOIN, key
        if origin is Origin.FORWARDED and self._ended.get(key) is End.ANSWERED:
            return Action.ACK, key
        if is_forwarded or origin is Origin.MOVED:
            key = key._replace(copy=copy)
        # A new request with the id of another one is no second delivery: its caller uses the id
        # twice.
        if origin is not Origin.NEW and self._join(key, delivery):
            return Action.JOIN, key
        # A request that its caller has sent again runs again: the caller may have lost the reply.
        # So does a dead letter. A copy with a token does not, even of such a request: it is the
        # same copy that comes again, because a caller that lost the reply has sent another request.
        is_resent = origin is Origin.RESENT or (origin is Origin.FORWARDED_RESENT and not copy)
        runs_after_end = origin is Origin.NEW or is_resent
        if not runs_after_end and (end := self._ended.get(key)) is not None:
            return Action.REJECT if end is End.REJECTED else Action.ACK, key
        if key not in self._running:
            self._running[key] = _Running()
        return Action.RUN, key

    def _join(self, key: RequestKey, delivery: D) -> bool:
        """Lets a delivery join its request if that runs here. Returns whether it does."""
        running = self._running.get(key)
        if running is not None:
            running.joined.append(delivery)
        return running is not None

    def end(self, key: RequestKey, end: End | None) -> list[D]:
        """Ends a request that `add` let run. Returns the deliveries that joined it.

        With `None`, it is not remembered: it was not settled, and may run when it comes again.
        """
        # Missing if a second request used the same id, and ended before.
        running = self._running.pop(key, None)
        if end is not None:
            self._ended[key] = end
            self._ended.move_to_end(key)
            if len(self._ended) > _MAX_ENDED:
                self._ended.popitem(last=False)
        return running.joined if running is not None else []
