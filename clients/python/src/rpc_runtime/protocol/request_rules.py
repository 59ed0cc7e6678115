"""Whether a request runs, is refused with a fault, or is rejected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..codec import Codec, UnsupportedContent, codec_of
from ..describe import Method
from . import fault_code
from .dead_letter import DeadLettered, read_dead_lettered
from .message import Message, header_number
from .names import (
    CREDIT_BYTES_HEADER,
    CREDIT_HEADER,
    INCOMING_HEADER,
    MAX_BROADCAST_BYTES,
    REDELIVERIES_HEADER,
    RESENT_HEADER,
)
from .reply_address import ReplyAddresses
from .request_id import uuid_of
from .volume import MAX_CREDIT, UNLIMITED, Volume

MAX_REJECTIONS = 20

_INTERRUPTED = (
    "the method may have run for an earlier delivery of this request, and this one is refused: "
)


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings of a queue that decide about requests."""

    reply_addresses: ReplyAddresses = ReplyAddresses()
    max_accepted_bytes: int = 16 * 1024 * 1024
    # How often a request may be delivered.
    max_deliveries: int = 20
    # A classic queue does not count deliveries: in its messages, the header with a count is forged.
    is_classic: bool = True


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """What a request says about items."""

    id: bytes
    # `None` if all items are expected in one reply.
    credit: Volume | None
    sends_items: bool


@dataclass(frozen=True, slots=True)
class Run:
    """The request runs."""

    method: Method[Any]
    codec: Codec
    time_to_live: float | None
    is_redelivered: bool
    stream: StreamRequest | None


@dataclass(frozen=True, slots=True)
class Refuse:
    """The request is answered with a fault. Without a `reply_to`, it is rejected."""

    codec: Codec
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ForbiddenAddress:
    """The request is rejected: its `reply_to` is no reply address."""


Decision = Run | Refuse | ForbiddenAddress


class Methods:
    """The methods that are served in one way: through a queue, or as broadcasts."""

    def __init__(self, methods: Mapping[str, Method[Any]], is_broadcast: bool = False) -> None:
        self._is_broadcast = is_broadcast
        self._served = methods
        here = [method for method in methods.values() if method.is_broadcast == is_broadcast]
        self._by_name = {method.name: method for method in here}
        self._default = next((method for method in here if method.is_default), None)

    def find(self, name: str | None) -> Method[Any] | str:
        """Returns the method with this name or, without a name, the default one.

        Returns the reason if there is none.
        """
        if not name:
            none = "the request names no method, and there is no default one here"
            return self._default or none
        method = self._by_name.get(name)
        if method is not None:
            return method
        if name not in self._served:
            return f'the service has no method "{name[:64]}"'
        if self._is_broadcast:
            return f'cannot run "{name}" here: it is not a broadcast: its requests go to the queue'
        reason = "it is a broadcast, whose requests go through the exchange rpc.control"
        return f'cannot run "{name}" here: {reason}'

    def job(self, name: str | None) -> Method[Any] | None:
        """Returns the method if it is a job."""
        method = self.find(name)
        return method if isinstance(method, Method) and method.is_job else None


def decide(message: Message, is_redelivered: bool, methods: Methods, rules: Rules) -> Decision:
    """Decides whether a received request runs."""
    if message.reply_to and not rules.reply_addresses.allows(message.reply_to):
        return ForbiddenAddress()
    dead = read_dead_lettered(message.headers)
    may_have_run = is_redelivered or dead is not None or RESENT_HEADER in message.headers
    try:
        codec = codec_of(message.content_type, message.content_encoding) or Codec.TEXT
    except UnsupportedContent as error:
        code = fault_code.UNSUPPORTED_CONTENT_TYPE
        return _refuse(error.codec, code, str(error), may_have_run)
    if len(message.body) > rules.max_accepted_bytes:
        reason = (
            f"the request has {len(message.body)} bytes, "
            f"and at most {rules.max_accepted_bytes} are accepted"
        )
        return _refuse(codec, fault_code.TOO_LARGE, reason, may_have_run)
    method = methods.find(message.type)
    if isinstance(method, str):
        return _refuse(codec, fault_code.UNKNOWN_METHOD, method, may_have_run)
    if dead is not None and _expired_before(message, dead):
        reason = "it expired in a queue and was dead-lettered"
        began = is_redelivered or dead.deaths > 0 or RESENT_HEADER in message.headers
        return _refuse(codec, fault_code.EXPIRED, reason, began)
    if is_redelivered or dead is not None:
        refusal = _rerun_refusal(method, message, is_redelivered, dead, rules)
        if refusal is not None:
            return Refuse(codec, fault_code.INTERRUPTED, _INTERRUPTED + refusal)
    time_to_live = message.time_to_live
    if dead is not None and time_to_live is None:
        time_to_live = dead.original_expiration
    if message.expiration is not None and message.time_to_live is None:
        reason = "the expiration is not a number of milliseconds"
        return _refuse(codec, fault_code.BAD_REQUEST, reason, may_have_run)
    if time_to_live is not None and time_to_live <= 0:
        reason = "the caller's time was up before the method could start"
        return _refuse(codec, fault_code.EXPIRED, reason, may_have_run)
    stream = _stream_request(message, method)
    if isinstance(stream, str):
        return _refuse(codec, fault_code.BAD_REQUEST, stream, may_have_run)
    return Run(method, codec, time_to_live, is_redelivered or dead is not None, stream)


def decide_broadcast(message: Message, methods: Methods, rules: Rules) -> Decision:
    """Decides whether a received broadcast runs."""
    decision = decide(message, False, methods, rules)
    if isinstance(decision, Run) and len(message.body) > MAX_BROADCAST_BYTES:
        reason = (
            f"the request has {len(message.body)} bytes, "
            f"and a broadcast may have at most {MAX_BROADCAST_BYTES}"
        )
        return Refuse(decision.codec, fault_code.TOO_LARGE, reason)
    return decision


def refuse_malformed(message: Message, reason: str, is_redelivered: bool, rules: Rules) -> Decision:
    """Refuses a message whose properties cannot be read."""
    if message.reply_to and not rules.reply_addresses.allows(message.reply_to):
        return ForbiddenAddress()
    try:
        codec = codec_of(message.content_type, None) or Codec.TEXT
    except UnsupportedContent as error:
        codec = error.codec
    text = f"the request cannot be read: {reason}"
    return _refuse(codec, fault_code.BAD_REQUEST, text, is_redelivered)


def redeliveries_if_only_workers_count(
    message: Message, is_redelivered: bool, method: Method[Any] | None, rules: Rules
) -> int | None:
    """Returns how often a one-way request was redelivered, if only workers can count that.

    Its worker then publishes a copy with that number, and runs nothing. `None` if the request runs
    or is refused here: it is not redelivered, its queue counts, or it may not run again.
    """
    # A copy has no expiration, and no user id: only the user itself could publish one with it.
    only_workers_count = (
        is_redelivered
        and method is not None
        and method.is_idempotent
        and not message.expects_reply
        and message.expiration is None
        and _delivery_count(message.headers, rules) is None
        and (method.is_job or message.user_id is None)
    )
    if not only_workers_count:
        return None
    dead = read_dead_lettered(message.headers) or DeadLettered()
    count = header_number(message.headers, REDELIVERIES_HEADER) + dead.deaths + 1
    return count if count < rules.max_deliveries else None


def rejections_of(message: Message) -> int:
    """Returns how often a message was rejected."""
    dead = read_dead_lettered(message.headers)
    return dead.rejections if dead is not None else 0


def _refuse(codec: Codec, code: str, message: str, may_have_run: bool) -> Refuse:
    """Refuses a request, with `interrupted` if an earlier delivery of it may have run.

    The other faults say that the method did not run.
    """
    if may_have_run:
        return Refuse(codec, fault_code.INTERRUPTED, _INTERRUPTED + message)
    return Refuse(codec, code, message)


def _expired_before(message: Message, dead: DeadLettered) -> bool:
    """Whether the caller's time was up when the message expired in another queue.

    A one-way request without an expiration of its own expired because of the queue's time to live,
    as a delayed one does on purpose.
    """
    return dead.has_expired and (dead.original_expiration is not None or message.expects_reply)


def _delivery_count(headers: Mapping[str, Any], rules: Rules) -> int | None:
    """Returns the queue's own count of deliveries. `None` if it does not count."""
    if rules.is_classic:
        return None
    counts = [header_number(headers, name, -1) for name in ("x-delivery-count", "x-acquired-count")]
    return max(counts) if max(counts) >= 0 else None


def _rerun_refusal(
    method: Method[Any],
    message: Message,
    is_redelivered: bool,
    dead: DeadLettered | None,
    rules: Rules,
) -> str | None:
    """Returns why a request that came before does not run again. `None` if it does."""
    if not method.is_idempotent:
        return "the method is not idempotent"
    count = _delivery_count(message.headers, rules)
    limit = rules.max_deliveries
    if count is not None and method.is_job:
        # Half of it, rounded up. A quorum queue drops a message beyond its limit, so a job is given
        # up while there are deliveries left until it is in the dead-letter queue.
        limit = -(-limit // 2)
    if (count or 0) + (dead.deaths if dead is not None else 0) >= limit:
        return "it was delivered too often"
    # Without a count or an expiration, it would come back for ever.
    expires = message.expiration is not None and dead is None
    if is_redelivered and count is None and not expires:
        if header_number(message.headers, REDELIVERIES_HEADER) > 0:
            return "it was delivered too often"
        return "it has no expiration, and its queue does not count its deliveries"
    return None


def _stream_request(message: Message, method: Method[Any]) -> StreamRequest | str | None:
    """Reads what a request says about items. Returns the reason if that cannot be.

    `None` if it has no items, or all of them are expected in the reply.
    """
    headers = message.headers
    sends_items = headers.get(INCOMING_HEADER) == "1"
    if sends_items and method.incoming is None:
        return (
            "the method receives no stream, and its caller sends one: "
            "their versions of the service differ"
        )
    if method.incoming is not None and not sends_items:
        return "the method receives a stream, and its caller sends none"
    credit = None
    if method.is_stream and CREDIT_HEADER in headers:
        items = header_number(headers, CREDIT_HEADER)
        size = header_number(headers, CREDIT_BYTES_HEADER, UNLIMITED)
        credit = Volume(min(items, MAX_CREDIT), size)
    if credit is None and not sends_items:
        return None
    identity = uuid_of(message.correlation_id)
    if identity is None:
        return "the correlation_id is no UUID, and the caller of a stream must send one"
    if not message.expects_reply:
        return "the request has no reply_to, and the caller of a stream must send one"
    return StreamRequest(identity, credit, sends_items)
