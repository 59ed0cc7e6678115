"""Frames that aiormq could not read."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, frame, header

from rpc_runtime.transport.guard import (
    HEADERS_LOST_HEADER,
    MALFORMED_HEADER,
    GuardedReader,
    RawText,
    readable_header,
    readable_method,
    unescaped,
)

FLAGS = {"headers": 1 << 13, "correlation_id": 1 << 10, "reply_to": 1 << 9, "type": 1 << 5}
TIMESTAMP = 1 << 6


def header_of(flags: int, properties: bytes) -> bytes:
    return struct.pack(">HHQH", 60, 0, 5, flags) + properties


def short(raw: bytes) -> bytes:
    return bytes([len(raw)]) + raw


def read(body: bytes) -> header.ContentHeader:
    read = header.ContentHeader()
    read.unmarshal(readable_header(body))
    return read


def table(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw


def test_readable_properties_are_not_changed() -> None:
    properties = commands.Basic.Properties(correlation_id="a", headers={"x": [1, {"y": None}]})
    body = header.ContentHeader(body_size=5, properties=properties).marshal()
    assert readable_header(body) is body


def test_an_id_that_is_not_utf8_is_kept() -> None:
    raw = bytes(range(128, 144))
    flags = FLAGS["correlation_id"] | FLAGS["reply_to"]
    message = read(header_of(flags, short(raw) + short(b"rpc.reply.1")))
    properties = message.properties
    assert message.body_size == 5
    assert properties.reply_to == "rpc.reply.1"
    assert MALFORMED_HEADER in (properties.headers or {})
    assert HEADERS_LOST_HEADER not in (properties.headers or {})
    identity = unescaped(properties.correlation_id or "")
    assert isinstance(identity, RawText)
    sent = commands.Basic.Properties(correlation_id=identity).marshal()
    assert sent.endswith(short(raw))


def test_headers_that_cannot_be_read_are_lost() -> None:
    flags = FLAGS["headers"] | FLAGS["correlation_id"]
    for raw in (b"\x01aZ", b"\x02\xff\xffV"):
        properties = read(header_of(flags, table(raw) + short(b"id"))).properties
        assert properties.correlation_id == "id"
        assert properties.headers is not None
        assert HEADERS_LOST_HEADER in properties.headers


def test_deeply_nested_headers_are_lost() -> None:
    nested = b""
    for _ in range(5000):
        nested = b"\x01aF" + table(nested)
    properties = read(header_of(FLAGS["headers"], table(nested))).properties
    assert properties.headers is not None
    assert HEADERS_LOST_HEADER in properties.headers


def test_large_properties_are_malformed() -> None:
    raw = b"\x01aS" + table(b"x" * 200_000)
    properties = read(header_of(FLAGS["headers"] | FLAGS["type"], table(raw) + short(b"t")))
    assert properties.properties.message_type == "t"
    assert "more than" in str((properties.properties.headers or {})[MALFORMED_HEADER])


def test_a_time_that_python_does_not_know_is_dropped() -> None:
    flags = FLAGS["correlation_id"] | TIMESTAMP
    properties = read(header_of(flags, short(b"id") + b"\x7f" + b"\xff" * 7)).properties
    assert properties.correlation_id == "id"
    assert MALFORMED_HEADER not in (properties.headers or {})


def test_names_that_are_not_utf8_are_replaced() -> None:
    body = struct.pack(">HH", 60, 60) + short(b"tag") + bytes(8) + b"\x00"
    body += short(b"") + short(b"queue\xff\xc3")
    fixed = readable_method((60, 60), body)
    assert fixed.endswith(short(b"queue??"))
    assert len(fixed) == len(body)
    assert readable_method((10, 50), b"\x00\x0a\x002" + b"\x01\x40" + short(b"\xfe")).endswith(b"?")


@given(st.binary(max_size=300))
def test_any_properties_become_readable(properties: bytes) -> None:
    body = struct.pack(">HHQ", 60, 0, 5) + properties
    header.ContentHeader().unmarshal(readable_header(body))


@given(st.binary(max_size=100), st.sampled_from([(10, 50), (20, 40), (60, 50), (60, 60), (1, 1)]))
def test_any_method_keeps_its_length(body: bytes, method: tuple[int, int]) -> None:
    body = struct.pack(">HH", *method) + body
    assert len(readable_method(method, body)) == len(body)


async def test_the_reader_serves_whole_frames() -> None:
    reader = asyncio.StreamReader()
    announced: list[bool] = []
    guarded = GuardedReader(reader, announced.append)
    blocked = frame.marshal(commands.Connection.Blocked(reason="memory"), 0)
    broken = header_of(FLAGS["type"], short(b"\xff"))
    framed = struct.pack(">BHI", 2, 1, len(broken)) + broken + b"\xce"
    reader.feed_data(blocked + framed)
    reader.feed_eof()
    frames: list[Any] = []
    while not guarded.at_eof():
        start = await guarded.readexactly(1) + await guarded.readexactly(6)
        size = struct.unpack(">I", start[3:])[0]
        frames.append(frame.unmarshal(start + await guarded.readexactly(size + 1))[2])
    assert announced == [True]
    assert frames[0].name == "Connection.Blocked"
    assert MALFORMED_HEADER in frames[1].properties.headers
    with pytest.raises(asyncio.IncompleteReadError):
        await guarded.readexactly(1)


NOT_UTF8 = b"S" + table(b"\xff")
HUGE = b"d" + struct.pack(">d", 1e300)
VALUES = st.recursive(
    st.sampled_from([NOT_UTF8, HUGE, b"V", b"i\xff\xff\xff\xff", b"L" + b"\xff" * 8, b"tx"])
    | st.binary(min_size=8, max_size=8).map(lambda raw: b"d" + raw)
    | st.binary(min_size=8, max_size=8).map(lambda raw: b"T" + raw)
    | st.binary(min_size=5, max_size=5).map(lambda raw: b"D" + raw)
    | st.binary(max_size=3).map(lambda raw: b"x" + table(raw)),
    lambda values: (
        st.lists(values, max_size=2).map(lambda items: b"A" + table(b"".join(items)))
        | values.map(lambda value: b"F" + table(short(b"a") + value))
    ),
    max_leaves=4,
)


@given(VALUES)
def test_headers_that_cannot_be_written_again_do_not_end_the_connection(value: bytes) -> None:
    headers = table(short(b"a") + value)
    flags = FLAGS["headers"] | FLAGS["correlation_id"]
    properties = read(header_of(flags, headers + short(b"\xff"))).properties
    assert MALFORMED_HEADER in (properties.headers or {})
    assert unescaped(properties.correlation_id or "").encode() == b"\xff"


@pytest.mark.parametrize("value", [NOT_UTF8, HUGE])
def test_nothing_is_known_of_rejections_that_cannot_be_written_again(value: bytes) -> None:
    headers = table(short(b"x-death") + b"A" + table(value))
    flags = FLAGS["headers"] | FLAGS["correlation_id"]
    properties = read(header_of(flags, headers + short(b"\xff"))).properties
    assert HEADERS_LOST_HEADER in (properties.headers or {})
