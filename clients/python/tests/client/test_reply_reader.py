"""What a caller makes of a reply."""

from __future__ import annotations

from typing import Any, cast

import pytest

from rpc_runtime import BadReply, Codec, Executed, Fault, Method
from rpc_runtime.client.reply_reader import ReplyReader
from rpc_runtime.protocol.message import Message
from rpc_runtime.protocol.names import RETRY_AFTER_HEADER
from rpc_runtime.protocol.reply import fault_reply
from rpc_runtime.transport.channel import Channel
from rpc_runtime.transport.delivery import Delivery


def fault_of(code: str, times_sent: int) -> Fault:
    method: Method[Any] = Method("find", returns=None)
    reply = fault_reply(Codec.JSON, code, "too busy")
    reply.headers[RETRY_AFTER_HEADER] = "1500"
    message = reply.message(Message(content_type="application/json"))
    delivery = Delivery(message, 1, False, "", "replies", cast(Channel, None))
    with pytest.raises(Fault) as caught:
        ReplyReader(method, Codec.JSON, 1000).result(delivery, times_sent)
    return caught.value


def test_a_fault_of_one_of_several_requests_does_not_say_that_the_method_did_not_run() -> None:
    assert fault_of("rejected", 1).executed is Executed.NO
    fault = fault_of("rejected", 2)
    assert (fault.code, fault.executed, fault.retry_after) == ("interrupted", Executed.MAYBE, 1.5)
    assert "too busy" in str(fault)
    # This one says by itself that the method ran.
    assert fault_of("panicked", 2).code == "panicked"


def reader_of(returns: Any, max_bytes: int = 1000) -> ReplyReader:
    method: Method[Any] = Method("list", returns=returns, stream=True)
    return ReplyReader(method, Codec.TEXT, max_bytes)


def text(body: bytes) -> Delivery:
    message = Message(body, content_type="text/plain")
    return Delivery(message, 1, False, "", "replies", cast(Channel, None))


def test_each_line_of_plain_text_is_an_item() -> None:
    """As the Rust library reads them: only a line feed separates two items."""
    for body, items in [
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\rc\x0bd", ["a\r", "b\rc\x0bd"]),
        (b"a\n", ["a", ""]),
        (b"\n", ["", ""]),
        (b"", []),
    ]:
        assert reader_of(str).all_items(text(body)) == items


def test_the_size_of_an_item_is_limited_and_not_that_of_its_message() -> None:
    reader = reader_of(str, max_bytes=4)
    assert reader.codec_of_items(text(b"12345")) is Codec.TEXT
    assert reader.item(b"1234", Codec.TEXT) == "1234"
    with pytest.raises(BadReply, match="an item has 5 bytes, and at most 4 are accepted") as caught:
        reader.item(b"12345", Codec.TEXT)
    assert caught.value.executed is Executed.MAYBE
    with pytest.raises(BadReply, match="it has 5 bytes, and at most 4 are accepted"):
        reader.result(text(b"12345"))
