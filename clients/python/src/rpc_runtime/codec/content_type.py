"""The content types of messages."""

from __future__ import annotations

import contextlib
import enum


class Codec(enum.Enum):
    """How values become bytes. The value is the `content_type` that this library sends."""

    MESSAGE_PACK = "application/msgpack"
    JSON = "application/json"
    TEXT = "text/plain"


_NAMES = {
    "application/msgpack": Codec.MESSAGE_PACK,
    "application/x-msgpack": Codec.MESSAGE_PACK,
    "application/vnd.msgpack": Codec.MESSAGE_PACK,
    "application/json": Codec.JSON,
    "application/x-json": Codec.JSON,
    "text/json": Codec.JSON,
    "text/plain": Codec.TEXT,
}
# These name no codec.
_NONE = frozenset({"", "application/octet-stream"})
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
# A `content_encoding` that leaves the body as it is. Some libraries put the charset there.
_ENCODINGS = _CHARSETS | {"", "identity", "binary", "8bit", "7bit"}


class UnsupportedContent(ValueError):
    """A content type, charset or encoding that cannot be read.

    `codec` is the one to answer in: plain text, unless only the encoding is unsupported and the
    content type names another codec.
    """

    def __init__(self, reason: str, codec: Codec = Codec.TEXT) -> None:
        super().__init__(reason)
        self.codec = codec


def codec_of(content_type: str | None, content_encoding: str | None) -> Codec | None:
    """Returns the codec of a message, or `None` if it names none.

    Raises `UnsupportedContent` if the content type, its charset or the encoding is not supported.
    """
    codec = _codec_named(content_type or "")
    encoding = (content_encoding or "").strip().lower()
    if encoding not in _ENCODINGS:
        reason = f"the content_encoding {_quoted(encoding)} is not supported"
        raise UnsupportedContent(reason, codec or Codec.TEXT)
    return codec


def answering_content_type(content_type: str | None, codec: Codec) -> str:
    """Returns the content type of an answer in this codec, given that of its request.

    If the request has the same codec, its content type is repeated, with its parameters. Otherwise
    it is the codec's own.
    """
    with contextlib.suppress(UnsupportedContent):
        if content_type and _codec_named(content_type) is codec:
            return content_type
    return codec.value


def _codec_named(content_type: str) -> Codec | None:
    """Returns the codec of a content type, or `None` if it names none.

    Raises `UnsupportedContent`, also over its charset.
    """
    name, *parameters = content_type.split(";")
    name = name.strip().lower()
    codec = _NAMES.get(name)
    if codec is None and name not in _NONE:
        raise UnsupportedContent(f"the content_type {_quoted(name)} is not supported")
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "charset":
            charset = value.strip().strip('"').lower()
            if charset not in _CHARSETS:
                raise UnsupportedContent(f"the charset {_quoted(charset)} is not supported")
    return codec


def _quoted(text: str) -> str:
    return ascii(text[:64])
