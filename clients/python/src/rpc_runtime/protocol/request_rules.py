"""Whether a request runs, is refused with a fault, or is rejected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..codec import Codec, UnsupportedContent, codec_of
from ..describe import Method
from . import fault_code
from .dead_letter import MAX_COUNT, DeadLettered, read_dead_lettered
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

# A request that was rejected this often is acknowledged, so that it does not return for ever.
MAX_REJECTIONS = 20

_INTERRUPTED = (
    "the method may have run for an earlier delivery of this request, and this one is refused: "
)


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that decide about the requests of a queue."""

    reply_addresses: ReplyAddresses = ReplyAddresses()
    max_accepted_bytes: int = 16 * 1024 * 1024
    # A request with this many earlier deliveries does not run again. For a job, half of them are
    # enough if its queue counts them.
    max_deliveries: int = 20
    # A classic queue does not count deliveries: in its messages, the header with a count is forged,
    # or from another queue.
    is_classic: bool = True


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """What a request says about items."""

    # The UUID in its correlation id.
    id: bytes
    # `None` if the method returns no stream, or if its caller wants all items in one reply.
    credit: Volume | None
    sends_items: bool


@dataclass(frozen=True, slots=True)
class Run:
    """The request runs."""

    method: Method[Any]
    codec: Codec
    # In seconds. `None` if there is no limit.
    time_to_live: float | None
    # Also set if the request was dead-lettered.
    is_redelivered: bool
    # `None` if nothing but the request and its reply is sent.
    stream: StreamRequest | None


@dataclass(frozen=True, slots=True)
class Refuse:
    """The request does not run. It is answered with this fault if it has a `reply_to`."""

    codec: Codec
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ForbiddenAddress:
    """The request does not run and is not answered: its `reply_to` is no reply address."""


Decision = Run | Refuse | ForbiddenAddress


class Methods:
    """The methods that are served in one way: through a queue, or as broadcasts."""

    def __init__(self, methods: Mapping[str, Method[Any]], is_broadcast: bool = False) -> None:
        self._is_broadcast = is_broadcast
        # All methods, for the reason why one is not here.
        self._served = methods
        here = [method for method in methods.values() if method.is_broadcast == is_broadcast]
        self._by_name = {method.name: method for method in here}
        self._default = next((method for method in here if method.is_default), None)

    def find(self, name: str | None) -> Method[Any] | str:
        """Returns the method with this name or, if the name is missing or empty, the default one.

        Returns the reason if there is none.
        """
        if not name:
            return self._default or "the request names no method, and there is no default one here"
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
        """Returns the method of a request if it is a job, otherwise `None`."""
        method = self.find(name)
        return method if isinstance(method, Method) and method.is_job else None


def decide(message: Message, is_redelivered: bool, methods: Methods, rules: Rules) -> Decision:
    """Decides whether a received request runs. `is_redelivered` is what the broker says."""
    if message.reply_to and not rules.reply_addresses.allows(message.reply_to):
        return ForbiddenAddress()
    dead = read_dead_lettered(message.headers)
    came_before = is_redelivered or dead is not None
    is_resent = RESENT_HEADER in message.headers
    may_have_run = came_before or is_resent
    try:
        codec = codec_of(message.content_type, message.content_encoding) or Codec.TEXT
    except UnsupportedContent as error:
        code = fault_code.UNSUPPORTED_CONTENT_TYPE
        return refuse(error.codec, code, str(error), may_have_run)
    if len(message.body) > rules.max_accepted_bytes:
        reason = (
            f"the request has {len(message.body)} bytes, "
            f"and at most {rules.max_accepted_bytes} are accepted"
        )
        return refuse(codec, fault_code.TOO_LARGE, reason, may_have_run)
    method = methods.find(message.type)
    if isinstance(method, str):
        return refuse(codec, fault_code.UNKNOWN_METHOD, method, may_have_run)
    if dead is not None and _expired_before(message, dead):
        reason = "it expired in a queue and was dead-lettered"
        # Expiry alone is no sign of an earlier delivery. A death for another reason may be one.
        was_delivered = is_redelivered or dead.deaths > 0 or is_resent
        return refuse(codec, fault_code.EXPIRED, reason, was_delivered)
    if came_before:
        refusal = _rerun_refusal(method, message, is_redelivered, dead, rules)
        if refusal is not None:
            return Refuse(codec, fault_code.INTERRUPTED, _INTERRUPTED + refusal)
    time_to_live = message.time_to_live
    if message.expiration is not None and time_to_live is None:
        reason = "the expiration is not a number of milliseconds"
        return refuse(codec, fault_code.BAD_REQUEST, reason, may_have_run)
    # The broker removes the expiration of a message that it dead-letters.
    if dead is not None and time_to_live is None:
        time_to_live = dead.original_expiration
    if time_to_live is not None and time_to_live <= 0:
        reason = "the caller's time was up before the method could start"
        return refuse(codec, fault_code.EXPIRED, reason, may_have_run)
    stream = _stream_request(message, method)
    if isinstance(stream, str):
        return refuse(codec, fault_code.BAD_REQUEST, stream, may_have_run)
    return Run(method, codec, time_to_live, came_before, stream)


def decide_broadcast(message: Message, methods: Methods, rules: Rules) -> Decision:
    """Decides whether a received broadcast runs. Must not be called for a redelivered one."""
    decision = decide(message, False, methods, rules)
    if isinstance(decision, Run) and len(message.body) > MAX_BROADCAST_BYTES:
        reason = (
            f"the request has {len(message.body)} bytes, "
            f"and a broadcast may have at most {MAX_BROADCAST_BYTES}"
        )
        return Refuse(decision.codec, fault_code.TOO_LARGE, reason)
    return decision


def refuse_malformed(message: Message, reason: str, is_redelivered: bool, rules: Rules) -> Decision:
    """Refuses a message whose properties cannot be read, unless its `reply_to` is forbidden."""
    if message.reply_to and not rules.reply_addresses.allows(message.reply_to):
        return ForbiddenAddress()
    try:
        codec = codec_of(message.content_type, None) or Codec.TEXT
    except UnsupportedContent as error:
        codec = error.codec
    # An earlier delivery may have reached a worker that could read it: one with larger frames, or
    # of another library. A count that cannot be read does not show that there was one.
    dead = read_dead_lettered(message.headers)
    may_have_run = is_redelivered or (dead is not None and dead.deaths < MAX_COUNT)
    text = f"the request cannot be read: {reason}"
    return refuse(codec, fault_code.BAD_REQUEST, text, may_have_run)


def redeliveries_if_only_workers_count(
    message: Message, is_redelivered: bool, method: Method[Any] | None, rules: Rules
) -> int | None:
    """Returns how often a one-way request was redelivered, if only workers can count that.

    Its worker then publishes a copy with that number, and runs nothing. `None` if the request runs
    or is refused here: it is not redelivered, its queue counts, it expires or has expired, no copy
    of it can be published, or it may not run again.
    """
    # A copy has no expiration, and no user id: only the user itself could publish one with it. The
    # copy of a job has the user in a header instead.
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
    if _expired_before(message, dead):
        # A copy would not tell that it has expired: the broker's records are not copied.
        return None
    count = header_number(message.headers, REDELIVERIES_HEADER) + dead.deaths + 1
    return count if count < rules.max_deliveries else None


def rejections_of(message: Message) -> int:
    """Returns how often a message was rejected, according to its headers."""
    dead = read_dead_lettered(message.headers)
    return dead.rejections if dead is not None else 0


def refuse(codec: Codec, code: str, message: str, may_have_run: bool) -> Refuse:
    """Refuses a request, with `interrupted` if an earlier delivery of it may have run.

    Otherwise with the fault `code`, which says that the method did not run.
    """
    if may_have_run:
        return Refuse(codec, fault_code.INTERRUPTED, _INTERRUPTED + message)
    return Refuse(codec, code, message)


def _expired_before(message: Message, dead: DeadLettered) -> bool:
    """Whether the message has expired in a queue that dead-lettered it, so that it must not run.

    A one-way request only counts if it had an expiration of its own. Another one expired because of
    the queue's time to live, which may exist to delay it.
    """
    return dead.has_expired and (dead.original_expiration is not None or message.expects_reply)


def _delivery_count(headers: Mapping[str, Any], rules: Rules) -> int | None:
    """Returns how often the queue has delivered a message before, as it counts.

    `None` if it does not count, or has not delivered it before.
    """
    if rules.is_classic:
        return None
    # RabbitMQ 4.3 counts lost consumers in the first one, and all deliveries in the second one.
    counts = [header_number(headers, name, -1) for name in ("x-delivery-count", "x-acquired-count")]
    return max(counts) if max(counts) >= 0 else None


def _rerun_refusal(
    method: Method[Any],
    message: Message,
    is_redelivered: bool,
    dead: DeadLettered | None,
    rules: Rules,
) -> str | None:
    """Returns why a request that came before must not run again. `None` if it may."""
    if not method.is_idempotent:
        return "the method is not idempotent"
    count = _delivery_count(message.headers, rules)
    limit = rules.max_deliveries
    if count is not None and method.is_job:
        # Half of it, rounded up. A quorum queue drops a message beyond its limit, so a job is given
        # up while there are deliveries left until it is in the dead-letter queue.
        limit = -(-limit // 2)
    deaths = dead.deaths if dead is not None else 0
    if (count or 0) + deaths >= limit:
        return "it was delivered too often"
    # Without a count or an expiration, it would come back for ever. A message that was
    # dead-lettered does not expire again.
    expires = message.expiration is not None and dead is None
    if is_redelivered and count is None and not expires:
        # Below the limit, a copy is published instead: `redeliveries_if_only_workers_count`.
        if header_number(message.headers, REDELIVERIES_HEADER) > 0:
            return "it was delivered too often"
        return "it has no expiration, and its queue does not count its deliveries"
    return None


def _stream_request(message: Message, method: Method[Any]) -> StreamRequest | str | None:
    """Reads what a request says about items. Returns the reason if the request is a bad one.

    `None` if nothing but the request and its reply is sent.
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
