"""Content types, and the bodies of a method's messages."""

from __future__ import annotations

import json
import tracemalloc
from types import GenericAlias
from typing import Any

import msgpack
import pytest

import sample
from rpc_runtime import F32, U8, U128, UNSET, Argument, Codec, Method, Unset
from rpc_runtime.codec import (
    CodecError,
    UnsupportedContent,
    answering_content_type,
    codec_of,
    decode,
    encode,
)
from rpc_runtime.codec.bodies import MAX_CONTAINERS
from rpc_runtime.codec.method_bodies import (
    decode_arguments,
    decode_value,
    encode_arguments,
    encode_value,
)
from rpc_runtime.protocol.item_messages import (
    read_cancellations,
    read_grants,
    read_incoming_grant,
    read_items,
)
from rpc_runtime.types import Form, converter_of

_FIND = sample._FIND
_GET_EMAIL = sample._GET_EMAIL


@pytest.mark.parametrize(
    ("content_type", "codec"),
    [
        ("application/msgpack", Codec.MESSAGE_PACK),
        ("Application/X-MsgPack", Codec.MESSAGE_PACK),
        ("application/json; charset=UTF-8", Codec.JSON),
        ('text/plain; charset="us-ascii"', Codec.TEXT),
        ("", None),
        (None, None),
        ("application/octet-stream", None),
    ],
)
def test_content_types(content_type: str | None, codec: Codec | None) -> None:
    assert codec_of(content_type, None) is codec
    assert codec_of(content_type, "Identity") is codec


def test_answers_repeat_the_content_type() -> None:
    assert (
        answering_content_type("Application/X-MsgPack", Codec.MESSAGE_PACK)
        == "Application/X-MsgPack"
    )
    # An answer in another codec says so.
    for content_type in (None, "", "text/json", "application/xml"):
        assert answering_content_type(content_type, Codec.TEXT) == "text/plain"


def test_unsupported_content() -> None:
    for content_type in ("application/xml", "application/json; charset=latin-1"):
        with pytest.raises(UnsupportedContent) as caught:
            codec_of(content_type, None)
        assert caught.value.codec is Codec.TEXT
    with pytest.raises(UnsupportedContent) as caught:
        codec_of("application/json", "gzip")
    assert caught.value.codec is Codec.JSON


@pytest.mark.parametrize(
    "hint", [GenericAlias(dict, (str, type(None))), GenericAlias(list, type(None))]
)
def test_an_argument_that_holds_nothing_may_not_be_missing(hint: Any) -> None:
    method = Method[None]("f", (Argument("a", hint),), returns=None)
    with pytest.raises(CodecError, match='the argument "a" is missing'):
        decode_arguments(method, b"{}", Codec.JSON)


def test_arguments_are_a_map() -> None:
    body = encode_arguments(_FIND, (sample.KeyById(id=1), None, UNSET), Codec.JSON)
    assert json.loads(body) == {"key": {"id": 1}, "from": None}
    assert decode_arguments(_FIND, body, Codec.JSON) == (sample.KeyById(id=1), None, UNSET)


def test_arguments_may_be_missing_or_in_order() -> None:
    def read(value: Any) -> tuple[Any, ...]:
        return decode_arguments(_FIND, msgpack.packb(value), Codec.MESSAGE_PACK)

    assert read({"key": "a", "unknown": 1}) == ("a", None, UNSET)
    assert read({"key": "a", "max": 3}) == ("a", None, 3)
    assert read(["a", 1, 2, "further"]) == ("a", 1, 2)
    for value, reason in [
        ({}, 'the argument "key" is missing'),
        ({"key": "a", "from": -1}, "from: expected an integer from 0"),
        (3, "the arguments must be a map or an array"),
    ]:
        with pytest.raises(CodecError, match=reason):
            read(value)
    with pytest.raises(CodecError, match='"key" is missing'):
        decode_arguments(_FIND, b"", Codec.JSON)


def test_plain_text_holds_one_argument() -> None:
    assert encode_arguments(_GET_EMAIL, ("user:1",), Codec.TEXT) == b"user:1"
    assert decode_arguments(_GET_EMAIL, b"12", Codec.TEXT) == ("12",)
    assert decode_arguments(sample._IMPORT, b"whatever", Codec.TEXT) == ()
    with pytest.raises(CodecError, match="one argument only"):
        decode_arguments(_FIND, b"a", Codec.TEXT)
    for hint in (U8 | None, tuple[U8, str], list[str], sample.Account):
        method: Method[None] = Method("method", (Argument("value", hint),), returns=None)
        with pytest.raises(CodecError, match="no structured argument"):
            decode_arguments(method, b"1", Codec.TEXT)
    method = Method("method", (Argument("value", U8 | Unset),), returns=None)
    assert decode_arguments(method, b"1", Codec.TEXT) == (1,)


@pytest.mark.parametrize(
    ("hint", "body", "value"),
    [
        (bool, b"true", True),
        (U8, b" 7 ", 7),
        (float, b"1.5", 1.5),
        (sample.Color, b"dark-green", sample.Color.DARK_GREEN),
        (bytes, b"\xff\x00", b"\xff\x00"),
        (None, b"", None),
        (U128, b"340282366920938463463374607431768211455", 2**128 - 1),
    ],
)
def test_plain_text_of_scalars(hint: Any, body: bytes, value: Any) -> None:
    converter = converter_of(hint, Form.MESSAGE_PACK)
    assert decode_value(converter, body, Codec.TEXT) == value


@pytest.mark.parametrize("hint", [float, F32])
def test_floats_in_plain_text_are_those_of_rust(hint: Any) -> None:
    converter = converter_of(hint, Form.MESSAGE_PACK)
    for value, text in [
        (1.5, b"1.5"),
        (-0.0, b"-0.0"),
        (float("inf"), b"inf"),
        (float("-inf"), b"-inf"),
        (float("nan"), b"NaN"),
    ]:
        assert encode_value(converter, value, Codec.TEXT) == text
        assert repr(decode_value(converter, text, Codec.TEXT)) == repr(value)
    for text in (b"+infinity", b" INF "):
        assert decode_value(converter, text, Codec.TEXT) == float("inf")
    for text in (b"infinit", b"1_0", b"toString"):
        with pytest.raises(CodecError):
            decode_value(converter, text, Codec.TEXT)


def test_an_empty_body_is_an_empty_value() -> None:
    unit, number = converter_of(None, Form.JSON), converter_of(U8, Form.JSON)
    assert decode_value(unit, b"", Codec.JSON) is None
    with pytest.raises(CodecError):
        decode_value(number, b"", Codec.JSON)


@pytest.mark.parametrize(
    "body", [b"", b"[NaN]", b"Infinity", b"\xff", b"[1", b"1 2", b"[" * 100_000]
)
def test_invalid_json_is_refused(body: bytes) -> None:
    with pytest.raises(CodecError):
        decode(Codec.JSON, body)


def test_the_place_of_an_error_in_json_is_counted_in_characters() -> None:
    with pytest.raises(CodecError, match=r"at character 6$"):
        decode(Codec.JSON, '["äöü"'.encode())


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x01\x02", b"\x91" * 100_000, b"\xa1\xff"])
def test_invalid_message_pack_is_refused(body: bytes) -> None:
    with pytest.raises(CodecError):
        decode(Codec.MESSAGE_PACK, body)


def _array_of(unit: bytes, count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + unit * count


def _memory_to_refuse(body: bytes, reason: str) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match=reason):
            decode(Codec.MESSAGE_PACK, body)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_memory_of_a_body_is_bounded() -> None:
    body = _array_of(b"\x81\x00\x00", 16 * 1024 * 1024 // 3)
    assert _memory_to_refuse(body, "too many arrays and maps") < 400 * 1024 * 1024


def test_arrays_that_claim_more_than_they_have_cost_nothing() -> None:
    """The installed msgpack must not reserve memory for elements that do not follow."""
    body = (b"\xdd\x00\x0f\xff\xff" * 500).ljust(1024 * 1024, b"\x01")
    assert _memory_to_refuse(body, "incomplete") < 64 * 1024 * 1024


def test_as_many_arrays_and_maps_as_allowed_are_read() -> None:
    for unit in (b"\x90", b"\x80", b"\x81\x01\x90", b"\xd4\x01a"):
        # The outer array counts too.
        count = (9 - 1) // (2 if unit == b"\x81\x01\x90" else 1)
        assert len(decode(Codec.MESSAGE_PACK, _array_of(unit, count), 9)) == count
        with pytest.raises(CodecError, match="too many arrays and maps"):
            decode(Codec.MESSAGE_PACK, _array_of(unit, count + 1), 9)
    # Numbers and text do not count.
    numbers = _array_of(b"\x01", 2 * MAX_CONTAINERS)
    assert sum(decode(Codec.MESSAGE_PACK, numbers)) == 2 * MAX_CONTAINERS


def test_control_messages_hold_few_arrays() -> None:
    for read in (read_items, read_incoming_grant, read_grants, read_cancellations):
        with pytest.raises(CodecError, match="too many arrays and maps"):
            list(read(_array_of(b"\x90", 10_000)))  # type: ignore[arg-type]


def test_values_that_no_codec_can_write() -> None:
    for value in (float("nan"), {"x": object()}):
        with pytest.raises(CodecError):
            encode(Codec.JSON, value)
    with pytest.raises(CodecError):
        encode(Codec.MESSAGE_PACK, 2**64)


@pytest.mark.parametrize("body", [b"[1,2]", b"12", b"null", b'"x"', b"\xff", b""])
def test_bytes_in_plain_text_are_taken_as_they_are(body: bytes) -> None:
    method: Method[Any] = Method("put", (Argument("data", bytes),), returns=None)
    assert decode_arguments(method, body, Codec.TEXT) == (body,)


NOT_FINITE = [[float("nan")], {"a": float("inf")}]


@pytest.mark.parametrize("value", ["\ud800", object(), [b"x"], *NOT_FINITE])
def test_what_plain_text_cannot_hold_is_an_error_of_the_call(value: object) -> None:
    method: Method[Any] = Method("put", (Argument("data", Any),), returns=None)
    with pytest.raises(CodecError):
        encode_arguments(method, (value,), Codec.TEXT)


def test_json_in_plain_text_is_that_of_other_languages() -> None:
    with pytest.raises(CodecError):
        decode_value(converter_of(list[float], Form.MESSAGE_PACK), b"[NaN]", Codec.TEXT)
    assert decode_value(converter_of(list[float], Form.MESSAGE_PACK), b"[1.5]", Codec.TEXT) == [1.5]
