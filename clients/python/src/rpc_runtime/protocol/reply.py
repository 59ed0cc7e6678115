"""Replies: the value, the error or the fault that answers a request."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from ..codec import Codec, CodecError, answering_content_type, decode, encode
from .fault_code import is_known
from .message import Message

_MAX_REASON = 1024


class ReplyKind(enum.Enum):
    """The `type` of a reply."""

    RESULT = "result"
    ERROR = "error"
    FAULT = "fault"


@dataclass(slots=True)
class Reply:
    """A reply without what it takes from its request."""

    kind: ReplyKind
    codec: Codec
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def message(self, request: Message) -> Message:
        """Makes the message that answers a request. It goes to the request's `reply_to`."""
        return Message(
            body=self.body,
            type=self.kind.value,
            content_type=answering_content_type(request.content_type, self.codec),
            correlation_id=request.correlation_id,
            headers=dict(self.headers),
        )


def kind_of(type_name: str | None) -> ReplyKind:
    """Reads the `type` of a reply. Any other is a result: some workers set their own."""
    if type_name == "error":
        return ReplyKind.ERROR
    return ReplyKind.FAULT if type_name == "fault" else ReplyKind.RESULT


def shortened(text: str, limit: int = _MAX_REASON) -> str:
    """Cuts a text after `limit` bytes, and adds `…` to it then.

    It may quote a peer, and a large request must not cause a large reply.
    """
    encoded = text.encode(errors="replace")
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[:limit].decode(errors="ignore") + "…"


def fault_reply(codec: Codec, code: str, message: str) -> Reply:
    """Makes the reply with a fault. Its message is shortened."""
    message = shortened(message)
    if codec is Codec.TEXT:
        body = f"{code}: {message}".encode() if message else code.encode()
    else:
        body = encode(codec, {"code": code, "message": message})
    return Reply(ReplyKind.FAULT, codec, body)


def read_fault(codec: Codec, body: bytes) -> tuple[str, str]:
    """Reads the code and the message of a fault. Raises `CodecError`."""
    if codec is Codec.TEXT:
        return _fault_of_text(body.decode(errors="replace"))
    fault: Any = decode(codec, body)
    if not isinstance(fault, dict) or not isinstance(fault.get("code"), str):
        raise CodecError("a fault must be a map with a code")
    message = fault.get("message")
    return fault["code"], message if isinstance(message, str) else ""


def _fault_of_text(text: str) -> tuple[str, str]:
    """Reads `code: message`, or a known code alone. Any other text has the code `fault`."""
    code, colon, message = text.partition(": ")
    if colon:
        return code, message
    code = text.strip().rstrip(":")
    return (code, "") if is_known(code) else ("fault", text)
