"""Bytes and plain values."""

from .bodies import CodecError, decode, encode, form_of
from .content_type import Codec, UnsupportedContent, codec_of, repeated

__all__ = [
    "Codec",
    "CodecError",
    "UnsupportedContent",
    "codec_of",
    "decode",
    "encode",
    "form_of",
    "repeated",
]
