"""Streams as state machines, and whole streams over a network that loses and repeats messages."""

from __future__ import annotations

import json
import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpc_runtime.codec import CodecError
from rpc_runtime.protocol.incoming_receiver import IncomingReceiver
from rpc_runtime.protocol.item_messages import (
    IncomingGrant,
    Items,
    read_cancellations,
    read_grants,
    read_incoming_grant,
    read_items,
    write_cancellations,
    write_grant,
    write_incoming_grant,
    write_items,
)
from rpc_runtime.protocol.item_sender import BadGrant, ItemSender
from rpc_runtime.protocol.request_id import new_id
from rpc_runtime.protocol.stream_receiver import BadStream, StreamReceiver, Unread
from rpc_runtime.protocol.stream_run import Origin, StreamRun, origin_of, read_run
from rpc_runtime.protocol.volume import UNLIMITED, Volume
from rpc_runtime.worker.identity import Identity

WINDOW = Volume(4, 1000)
RUN = StreamRun(new_id(), 1)


def receiver() -> StreamReceiver[str]:
    return StreamReceiver(WINDOW)


def items(first: int, *bodies: bytes) -> Items:
    return Items(first, list(bodies))


def taken(stream: StreamReceiver[str]) -> list[bytes]:
    return list(iter(stream.take, None))


def test_items_are_put_into_order_and_repeated_ones_discarded() -> None:
    stream = receiver()
    stream.receive(RUN, items(2, b"c"))
    assert taken(stream) == []
    stream.receive(RUN, items(0, b"a", b"b"))
    stream.receive(RUN, items(1, b"b", b"c", b"d"))
    assert taken(stream) == [b"a", b"b", b"c", b"d"]


def test_the_end_waits_for_all_items_before_it() -> None:
    stream = receiver()
    stream.end(RUN, 1, "end")
    assert stream.ended is None
    stream.receive(RUN, items(0, b"a"))
    assert stream.ended == "end"
    at_once = receiver()
    at_once.end(RUN, None, "fault")
    assert at_once.ended == "fault"


def test_credit_is_granted_when_half_of_it_is_used() -> None:
    stream = receiver()
    stream.receive(RUN, items(0, b"a", b"b"))
    stream.take()
    assert stream.next_grant() is None
    stream.take()
    assert stream.next_grant() == Volume(6, 1018)
    assert stream.next_grant() is None


def test_a_worker_that_exceeds_its_credit_is_no_stream() -> None:
    with pytest.raises(BadStream, match="more items than it was granted"):
        receiver().receive(RUN, items(0, *[b""] * 5))
    stream = receiver()
    # One message may exceed the bytes.
    stream.receive(RUN, items(0, b"x" * 2000))
    with pytest.raises(BadStream, match="more bytes"):
        stream.receive(RUN, items(1, b"x" * 2000))
    with pytest.raises(BadStream, match="counted more items"):
        receiver().end(RUN, 5, "end")
    stream = receiver()
    stream.end(RUN, 1, "end")
    with pytest.raises(BadStream, match="after the end"):
        stream.receive(RUN, items(1, b"b"))
    stream = receiver()
    stream.receive(RUN, items(0, b"a", b"b"))
    with pytest.raises(BadStream, match="more items than it counted"):
        stream.end(RUN, 1, "end")


def test_only_the_first_worker_counts() -> None:
    stream = receiver()
    assert stream.choose_run(RUN) is None
    stream.receive(RUN, items(0))
    assert stream.choose_run(StreamRun(new_id(), 1)) is Unread.FOREIGN
    assert stream.choose_run(None) is Unread.FOREIGN
    assert stream.choose_run(RUN) is None


def test_a_worker_numbers_its_runs() -> None:
    identity = Identity(None, None, None)
    first, second = (read_run(json.loads(identity.next_run_header())) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.worker == second.worker == identity.id
    assert origin_of(first, first) is Origin.SAME_RUN
    assert origin_of(second, first) is Origin.LATER_RUN
    assert origin_of(first, second) is Origin.EARLIER_RUN
    # Other workers may not number their runs.
    unnumbered = read_run({"id": identity.id})
    assert unnumbered is not None
    assert origin_of(second, unnumbered) is Origin.LATER_RUN
    assert origin_of(unnumbered, unnumbered) is Origin.SAME_RUN
    assert origin_of(StreamRun(new_id(), second.number), first) is Origin.OTHER_WORKER
    for header in (
        *({"id": identity.id, "run": run} for run in (-2, 2**64, 1.5, True, None, "2", [2])),
        *({}, {"run": 2}, {"id": "b", "run": 2}, {"id": 7}, None, "b", [identity.id]),
    ):
        assert read_run(header) is None, header
        assert origin_of(read_run(header), first) is Origin.OTHER_WORKER
    largest = read_run({"id": identity.id, "run": 2**64 - 1})
    assert largest == StreamRun(identity.id, 2**64 - 1)


def test_a_stream_has_the_items_of_one_run() -> None:
    first, second, third = (StreamRun(RUN.worker, number) for number in (1, 2, 3))
    stream = receiver()
    # The first message of the first run was lost.
    assert stream.choose_run(first) is None
    stream.receive(first, items(1, b"101"))
    assert stream.choose_run(second) is None
    stream.receive(second, items(0, b"200"))
    assert stream.choose_run(first) is Unread.LATE
    assert taken(stream) == [b"200"]
    # The reader has an item of the second one.
    assert stream.choose_run(third) is Unread.INTERRUPTED
    assert stream.run == second
    assert stream.choose_run(second) is None
    stream.end(second, 1, "end")
    assert stream.ended == "end"


def test_a_stream_that_begins_anew_has_the_credit_of_its_request() -> None:
    first, second = (StreamRun(RUN.worker, number) for number in (1, 2))
    stream: StreamReceiver[str] = StreamReceiver(Volume(2, 1000))
    stream.receive(first, items(0, b"a", b"b"))
    stream.end(first, 2, "the end of the first run")
    assert stream.choose_run(second) is None
    assert stream.ended is None
    stream.end(second, 2, "end")
    stream.receive(second, items(0, b"A", b"B"))
    assert stream.ended == "end"
    with pytest.raises(BadStream, match="granted"):
        stream.receive(second, items(2, b"C"))
    assert taken(stream) == [b"A", b"B"]
    # Items that the caller sends go to one run only.
    sending: StreamReceiver[str] = StreamReceiver(Volume(2, 1000), may_begin_anew=False)
    sending.receive(first, items(0))
    assert sending.choose_run(second) is Unread.INTERRUPTED


def test_a_worker_is_asked_again_for_a_gap_once() -> None:
    incoming = IncomingReceiver()
    assert incoming.grant() == IncomingGrant(1024, 0, IncomingGrant.NOTHING)
    incoming.receive(items(1, b"b"), None)
    assert incoming.grant().asks == IncomingGrant.AGAIN
    incoming.receive(items(1, b"b"), None)
    assert not incoming.has_news
    # A message without items shows that its sender does not know.
    incoming.receive(items(1), None)
    assert incoming.grant().asks == IncomingGrant.AGAIN


def test_a_caller_that_exceeds_its_credit_breaks_the_stream() -> None:
    incoming = IncomingReceiver()
    incoming.receive(items(0, b"a"), None)
    assert incoming.failure == "there are more items than were granted"
    for end in (0, 3):
        incoming = IncomingReceiver()
        incoming.grant()
        incoming.receive(items(0, b"a"), end)
        assert incoming.failure == "the end counts another number of items"


def test_a_sender_refuses_impossible_grants() -> None:
    sender = ItemSender()
    with pytest.raises(BadGrant):
        sender.grant(IncomingGrant(5, 1, 0))


def test_a_sender_keeps_within_credit_and_bytes() -> None:
    sender = ItemSender()
    assert not sender.may_pull()
    sender.grant(IncomingGrant(10, 0, 0))
    sender.push(b"x" * 5 * 1024 * 1024)
    assert not sender.may_pull()
    message = sender.next_message()
    assert message is not None
    assert message.items.first == 0
    sender.grant(IncomingGrant(10, 1, 0))
    assert sender.may_pull()
    sender.grant(IncomingGrant(10, 1, IncomingGrant.ENOUGH))
    assert not sender.may_pull()
    assert sender.next_message() is None


@settings(max_examples=200)
@given(st.integers(0, 3000), st.integers(0, 2**32), st.sampled_from([0, 10, 2000]))
def test_a_stream_from_a_caller_arrives_whatever_is_lost(count: int, seed: int, size: int) -> None:
    """Messages are lost, repeated and overtaken, until nothing is lost any more."""
    chance = random.Random(seed)
    sender, incoming = ItemSender(), IncomingReceiver()
    source = deque(number.to_bytes(4, "big") + b"x" * size for number in range(count))
    expected, arrived = list(source), []
    for step in range(20_000):
        is_lossy = step < 300
        if incoming.has_news or chance.random() < 0.1:
            grant = incoming.grant()
            if not is_lossy or chance.random() < 0.7:
                sender.grant(read_incoming_grant(write_incoming_grant(grant)))
        while sender.may_pull():
            if not source:
                sender.end()
                break
            sender.push(source.popleft())
        messages = []
        while (message := sender.next_message()) is not None:
            messages.append(message)
        if chance.random() < 0.2 or not messages:
            messages.append(sender.keep_alive())
        if is_lossy:
            messages = [each for each in messages if chance.random() < 0.7]
            chance.shuffle(messages)
            messages += messages[: chance.randrange(2)]
        for message in messages:
            incoming.receive(read_items(write_items(message.items)), message.end)
        while chance.random() < 0.9 and (item := incoming.take()) is not None:
            arrived.append(item)
        if incoming.is_at_end:
            break
    assert incoming.failure is None
    assert arrived == expected


@settings(max_examples=200)
@given(st.integers(0, 200), st.integers(0, 2**32))
def test_a_result_stream_is_exact(count: int, seed: int) -> None:
    """Messages are repeated and overtaken within the credit."""
    chance = random.Random(seed)
    stream: StreamReceiver[str] = StreamReceiver(Volume(8, 200))
    bodies = [number.to_bytes(4, "big") for number in range(count)]
    arrived: list[bytes] = []
    sent = 0
    credit = Volume(8, 200)
    produced = Volume()
    on_their_way: list[tuple[int, list[bytes]]] = []
    for _ in range(10_000):
        if len(arrived) == count and stream.ended is not None:
            break
        batch: list[bytes] = []
        first = sent
        while sent < count and credit.allows_more_than(produced) and len(batch) < 3:
            batch.append(bodies[sent])
            produced = produced.plus(Volume.of(bodies[sent]))
            sent += 1
        if batch:
            on_their_way += [(first, batch)] * chance.choice([1, 1, 2])
        chance.shuffle(on_their_way)
        while on_their_way and chance.random() < 0.7:
            number, batch = on_their_way.pop()
            stream.receive(RUN, Items(number, batch))
        if sent == count and stream.ended is None:
            stream.end(RUN, count, "end")
        while (item := stream.take()) is not None:
            arrived.append(item)
            credit = stream.next_grant() or credit
    assert arrived == bodies


def test_messages_are_written_as_the_protocol_says() -> None:
    assert write_items(Items(0, [b"99", b"101"], Volume(2, UNLIMITED))) == bytes.fromhex(
        "93 00 92 c4 02 39 39 c4 03 31 30 31 02"
    )
    identity = bytes.fromhex("00112233445546778899aabbccddeeff")
    assert write_grant(identity, Volume(3, UNLIMITED)) == bytes.fromhex(
        "91 92 c4 10 00112233445546778899aabbccddeeff 03"
    )
    assert write_cancellations([(identity, 30_000)]) == bytes.fromhex(
        "91 92 c4 10 00112233445546778899aabbccddeeff cd 75 30"
    )
    assert write_incoming_grant(IncomingGrant(1024, 0, 0)) == bytes.fromhex("93 cd 0400 00 00")
    assert list(read_cancellations(write_cancellations([(identity, 500)]))) == [(identity, 0.5)]
    assert list(read_grants(write_grant(identity, Volume(1, 2)))) == [(identity, Volume(1, 2))]
    # Later versions may add elements.
    assert read_incoming_grant(bytes.fromhex("94 01 00 02 c0")) == IncomingGrant(1, 0, 2)
    assert read_items(bytes.fromhex("92 00 90")) == Items(0, [], Volume(0, UNLIMITED))


@given(st.binary(max_size=40))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    for read in (read_items, read_incoming_grant, read_grants, read_cancellations):
        try:
            result = read(body)
            if not isinstance(result, Items | IncomingGrant):
                list(result)
        except CodecError:
            pass
