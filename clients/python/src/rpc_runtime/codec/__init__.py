"""Bytes and plain values."""

from .bodies import CodecError, decode, encode, form_of
from .content_type import Codec, UnsupportedContent, answering_content_type, codec_of

__all__ = [
    "Codec",
    "CodecError",
    "UnsupportedContent",
    "answering_content_type",
    "codec_of",
    "decode",
    "encode",
    "form_of",
]
