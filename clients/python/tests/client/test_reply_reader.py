"""What a caller makes of a fault."""

from __future__ import annotations

from typing import Any, cast

import pytest

from rpc_runtime import Codec, Executed, Fault, Method
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
