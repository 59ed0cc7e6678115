"""A request before it is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..codec import Codec
from ..describe import Method
from ..protocol.message import Message, expiration_of
from ..protocol.names import RESENT_HEADER


@dataclass(slots=True)
class Request:
    """What a call sends, each time that it sends it."""

    queue: str
    method: Method[Any]
    codec: Codec
    body: bytes
    correlation_id: str
    headers: dict[str, str]
    priority: int | None
    app_id: str | None
    waits_for_server: bool = False
    # Whether a worker may have got the request.
    may_have_run: bool = field(default=False, init=False)
    # How often it was sent, without the times that the broker returned it or it was not written.
    times_sent: int = field(default=0, init=False)
    # How many channels the broker has closed while they carried this request, maybe over it.
    channels_closed: int = field(default=0, init=False)

    def message(self, reply_to: str | None, time_left: float | None) -> Message:
        """Makes the message. `time_left` is in seconds. Both are `None` if the call is one-way."""
        headers: dict[str, Any] = dict(self.headers)
        if self.may_have_run:
            headers[RESENT_HEADER] = ""
        return Message(
            body=self.body,
            type=self.method.name,
            content_type=self.codec.value,
            correlation_id=self.correlation_id,
            reply_to=reply_to,
            expiration=None if time_left is None else expiration_of(time_left),
            is_persistent=self.method.is_oneway and not self.method.is_broadcast,
            priority=self.priority,
            app_id=self.app_id,
            headers=headers,
        )
