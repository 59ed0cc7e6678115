"""Codecs: how plain values, which `types` describes, become bytes and back."""

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
