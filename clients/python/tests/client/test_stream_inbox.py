"""Which messages a call with a stream reads."""

from __future__ import annotations

import json
from typing import cast

from rpc_runtime import BadReply, Fault
from rpc_runtime.client.caller import Caller
from rpc_runtime.client.stream_inbox import StreamInbox
from rpc_runtime.protocol.item_messages import (
    IncomingGrant,
    Items,
    write_incoming_grant,
    write_items,
)
from rpc_runtime.protocol.item_sender import ItemSender
from rpc_runtime.protocol.message import Message
from rpc_runtime.protocol.names import CREDIT, ITEMS, ITEMS_HEADER, WORKER_HEADER
from rpc_runtime.protocol.request_id import new_id
from rpc_runtime.protocol.volume import Volume
from rpc_runtime.transport.channel import Channel
from rpc_runtime.transport.delivery import Delivery

WORKER = new_id()


class StubControl:
    def grant(self, worker: str, identity: bytes, credit: Volume) -> None:
        pass


class StubCaller:
    """Records whose streams are ended because nobody reads them."""

    def __init__(self) -> None:
        self.control = StubControl()
        self.ended: list[Delivery] = []

    def end_unread_stream(self, delivery: Delivery) -> None:
        self.ended.append(delivery)


def inbox_of(caller: StubCaller) -> StreamInbox:
    return StreamInbox(cast(Caller, caller), new_id(), Volume(8, 1000), None)


def message(header: object, kind: str, body: bytes, headers: dict[str, str]) -> Delivery:
    named = {WORKER_HEADER: json.dumps(header), **headers}
    content = Message(body, type=kind, content_type="application/json", headers=named)
    return Delivery(content, 1, False, "", "replies", cast(Channel, None))


def items(run: object, first: int, *bodies: bytes, worker: str = WORKER) -> Delivery:
    body = write_items(Items(first, list(bodies), Volume(8, 1000)))
    return message({"id": worker, "run": run}, ITEMS, body, {})


def end(run: int, count: int) -> Delivery:
    return message({"id": WORKER, "run": run}, "result", b"", {ITEMS_HEADER: str(count)})


async def test_a_stream_whose_method_runs_again_is_interrupted() -> None:
    caller = StubCaller()
    inbox = inbox_of(caller)
    inbox.receive(items(7, 0, b"a"))
    assert inbox.receiver.take() == b"a"
    inbox.receive(items(6, 1, b"late"))
    inbox.receive(end(6, 1))
    assert inbox.failure is None
    assert inbox.receiver.take() is None
    inbox.receive(items(8, 0, b"A"))
    assert isinstance(inbox.failure, Fault)
    assert inbox.failure.code == "interrupted"
    assert inbox.failure.is_received
    assert inbox.receiver.take() is None
    assert caller.ended == []


async def test_a_stream_begins_anew_as_long_as_its_reader_has_no_item() -> None:
    caller = StubCaller()
    inbox = inbox_of(caller)
    inbox.receive(items(7, 0, b"a"))
    again = items(8, 0, b"A")
    inbox.receive(again)
    # Its content type is that of the items.
    assert inbox.first_message is again
    inbox.receive(end(7, 1))
    assert inbox.receiver.ended is None
    inbox.receive(end(8, 1))
    assert inbox.receiver.ended is not None
    assert caller.ended == []


async def test_a_stream_that_has_ended_does_not_begin_anew() -> None:
    caller = StubCaller()
    inbox = inbox_of(caller)
    inbox.receive(items(7, 0, b"a"))
    inbox.receive(end(7, 1))
    again = items(8, 0, b"A")
    inbox.receive(again)
    inbox.receive(end(8, 1))
    assert inbox.receiver.take() == b"a"
    assert caller.ended == [again]


async def test_streams_of_other_workers_are_ended_but_never_the_one_that_is_read() -> None:
    caller = StubCaller()
    inbox = inbox_of(caller)
    inbox.receive(items(7, 0, b"a"))
    other = items(9, 1, b"x", worker=new_id())
    inbox.receive(other)
    inbox.receive(items(-8, 1, b"x"))
    inbox.receive(items("8", 1, b"x"))
    assert inbox.failure is None
    assert caller.ended == [other]
    inbox.receive(items(7, 1, b"b"))
    assert [inbox.receiver.take() for _ in range(3)] == [b"a", b"b", None]


def two_way_inbox() -> StreamInbox:
    return StreamInbox(cast(Caller, StubCaller()), new_id(), Volume(8, 1000), ItemSender())


def grant(run: object) -> Delivery:
    body = write_incoming_grant(IncomingGrant(1, 0, IncomingGrant.NOTHING))
    return message({"id": WORKER, "run": run}, CREDIT, body, {})


async def test_a_grant_shows_that_items_are_taken_and_not_that_they_are_sent() -> None:
    caller = cast(Caller, StubCaller())
    only_sends = StreamInbox(caller, new_id(), Volume(), ItemSender())
    for inbox, is_heard in [(only_sends, True), (two_way_inbox(), False)]:
        inbox.heard_at = 0.0
        inbox.receive(grant(7))
        assert inbox.heard_at > 0.0, "the worker has begun"
        inbox.heard_at = 0.0
        inbox.receive(grant(7))
        assert (inbox.heard_at > 0.0) is is_heard
        assert inbox.failure is None


async def test_a_message_of_a_stream_has_to_say_who_sent_it() -> None:
    for unnamed in [grant(None), items(None, 0, b"a")]:
        inbox = two_way_inbox()
        inbox.receive(unnamed)
        assert isinstance(inbox.failure, BadReply)
        assert "which run of which worker" in str(inbox.failure)


async def test_a_stream_whose_first_message_has_no_valid_run_cannot_be_read() -> None:
    inbox = inbox_of(StubCaller())
    inbox.receive(items(-1, 0, b"a"))
    assert isinstance(inbox.failure, BadReply)
