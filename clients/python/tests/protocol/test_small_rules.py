"""Replies, headers, dead letters, cancellations, pauses and resent requests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from rpc_runtime import Codec, Executed
from rpc_runtime.codec import CodecError, decode
from rpc_runtime.errors import Fault
from rpc_runtime.protocol.backoff import Backoff
from rpc_runtime.protocol.cancelled_calls import CancelledCalls
from rpc_runtime.protocol.dead_letter import DeadLettered, read_dead_lettered
from rpc_runtime.protocol.headers import check_user_headers, visible
from rpc_runtime.protocol.message import Message, expiration_of, header_number, text_headers
from rpc_runtime.protocol.reply import ReplyKind, fault_reply, kind_of, read_fault, shortened
from rpc_runtime.protocol.request_id import text_of, uuid_of
from rpc_runtime.protocol.resend import (
    ReplyEpoch,
    Resend,
    after_confirm,
    after_failed_publish,
    after_refusal,
)

ID = "00112233-4455-4677-8899-aabbccddeeff"


def test_faults_say_whether_the_method_ran() -> None:
    for code, executed in [
        ("unknown_method", Executed.NO),
        ("expired", Executed.NO),
        ("abandoned", Executed.MAYBE),
        ("interrupted", Executed.MAYBE),
        ("panicked", Executed.YES),
        ("of a later version", Executed.MAYBE),
    ]:
        assert Fault(code).executed is executed
    assert Fault("rejected").retryable
    assert not Fault("bad_request").retryable
    assert not Fault("panicked").retryable


@pytest.mark.parametrize("codec", list(Codec))
def test_faults_are_written_and_read(codec: Codec) -> None:
    for message in ("why: because", ""):
        reply = fault_reply(codec, "expired", message)
        assert reply.kind is ReplyKind.FAULT
        assert read_fault(codec, reply.body) == ("expired", message)


def test_faults_of_others() -> None:
    assert read_fault(Codec.JSON, b'{"code":"x","further":1}') == ("x", "")
    assert read_fault(Codec.TEXT, b"it broke") == ("fault", "it broke")
    assert read_fault(Codec.TEXT, b"expired:") == ("expired", "")
    for body in (b"[]", b"{}", b'{"code":1}'):
        with pytest.raises(CodecError):
            read_fault(Codec.JSON, body)
    assert decode(Codec.JSON, fault_reply(Codec.JSON, "a", "ä" * 2000).body)["message"].endswith(
        "…"
    )


def test_other_types_of_replies_are_results() -> None:
    assert kind_of("error") is ReplyKind.ERROR
    assert kind_of("fault") is ReplyKind.FAULT
    for kind in ("result", None, "", "get_email"):
        assert kind_of(kind) is ReplyKind.RESULT


def test_long_reasons_are_cut_between_characters() -> None:
    assert shortened("ä" * 3, 5) == "ää…"
    assert shortened("abc", 3) == "abc"


def test_headers_of_callers_are_checked() -> None:
    check_user_headers({"tenant": "a" * 4000})
    invalid: list[dict[Any, Any]] = [
        {"rpc-resent": ""},
        {"CC": "x"},
        {"x-death": "x"},
        {"": "x"},
        {"a" * 256: "x"},
        {"a": "x" * 4096},
        {"a": 1},
    ]
    for headers in invalid:
        with pytest.raises(ValueError, match="header"):
            check_user_headers(headers)
    assert visible({"a": "1", "rpc-x": "2", "x-first-death-queue": "q"}) == {"a": "1"}


def test_headers_are_read_as_text() -> None:
    headers = {"a": "x", "b": 1, "c": True, "d": None, "e": {"f": 1}, "g": 1.5}
    assert text_headers(headers) == {"a": "x", "b": "1", "c": "true", "g": "1.5"}
    # As the AMQP client reads timestamps.
    assert text_headers({"a": datetime(2027, 1, 15, 8, tzinfo=UTC)}) == {"a": "1800000000"}
    assert header_number({"a": "12"}, "a") == 12
    for value in ("-1", "1.5", "x", "", None, "٣"):
        assert header_number({"a": value}, "a", 7) == 7


def test_times_to_live() -> None:
    assert Message(expiration="1500").time_to_live == 1.5
    assert Message(expiration="315360000000").time_to_live == 315_360_000.0
    for text in (None, "", "soon", "-1", "315360000001", "9" * 255):
        assert Message(expiration=text).time_to_live is None
    assert expiration_of(0.0) == "1"
    assert expiration_of(1.2345) == "1234"


def test_dead_letters_are_counted() -> None:
    assert read_dead_lettered({}) is None
    entries = [
        {"reason": "rejected", "count": 2, "original-expiration": "3000"},
        {"reason": "expired", "count": 1, "original-expiration": "1000"},
        {"reason": "maxlen", "count": "many"},
        "nonsense",
    ]
    read = read_dead_lettered({"x-death": entries})
    assert read == DeadLettered(True, 2**32 - 1, 2, 1.0)
    assert read_dead_lettered({"x-first-death-reason": "expired"}) == DeadLettered(True, 0, 0)
    assert read_dead_lettered({"x-first-death-reason": "x"}) == DeadLettered(False, 1, 0)


@pytest.mark.parametrize(
    ("entry", "deaths"),
    [
        ({"reason": "maxlen"}, 1),
        ({"reason": "maxlen", "count": 3}, 3),
        # The broker may increment a forged count.
        ({"reason": "maxlen", "count": 0}, 2**32 - 1),
        ({"reason": "maxlen", "count": -1}, 2**32 - 1),
        ({"reason": "maxlen", "count": True}, 2**32 - 1),
        ({"reason": "maxlen", "count": None}, 2**32 - 1),
        ({"reason": "maxlen", "count": 2**63 - 1}, 2**32 - 1),
        ({"count": 3}, 0),
        ({"reason": b"\xff"}, 0),
    ],
)
def test_records_of_deaths_may_be_incomplete_or_forged(entry: dict[str, Any], deaths: int) -> None:
    assert read_dead_lettered({"x-death": [entry]}) == DeadLettered(deaths=deaths)


def test_the_first_death_counts_once() -> None:
    def read(first: Any, deaths: Any = None) -> DeadLettered | None:
        return read_dead_lettered({"x-death": deaths, "x-first-death-reason": first})

    assert read("expired", []) == DeadLettered(has_expired=True)
    assert read("expired", [{"reason": "maxlen"}]) == DeadLettered(has_expired=True, deaths=1)
    assert read("rejected", []) == DeadLettered(deaths=1, rejections=1)
    assert read("rejected", "unreadable") == DeadLettered(deaths=1, rejections=1)
    assert read("rejected", [{"reason": "rejected"}]) == DeadLettered(deaths=1, rejections=1)
    assert read("maxlen", [{"reason": "rejected"}]) == DeadLettered(deaths=1, rejections=1)
    assert read(None) == DeadLettered()


def test_cancelled_calls_are_remembered_for_a_while() -> None:
    calls, identity = CancelledCalls(), uuid_of(ID)
    assert identity is not None
    calls.add(identity, 5.0, now=100.0)
    assert calls.contains(identity, 114.9)
    assert not calls.contains(identity, 115.0)
    assert not calls.contains(None, 100.0)
    for number in range(16_384):
        calls.add(number.to_bytes(16, "big"), 5.0, now=100.0)
    assert not calls.contains(identity, 100.0)


def test_ids_are_uuids_in_their_usual_spelling() -> None:
    identity = uuid_of(ID)
    assert identity == bytes.fromhex("00112233445546778899aabbccddeeff")
    assert text_of(identity) == ID
    for text in (None, "", ID.upper(), ID.replace("-", ""), "{" + ID[:34] + "}"):
        assert uuid_of(text) is None


def test_pauses_grow_to_a_limit() -> None:
    backoff = Backoff(0.1, 5.0)
    pauses = [backoff.next_pause() for _ in range(10)]
    assert 0.1 <= pauses[0] <= 0.2
    assert all(pause <= 5.0 for pause in pauses)
    assert pauses[-1] == 5.0
    backoff.reset()
    assert backoff.next_pause() <= 0.2


def test_only_idempotent_requests_are_sent_twice() -> None:
    assert after_failed_publish(False, is_written=False) is Resend.SEND
    assert after_failed_publish(False, is_written=True) is Resend.FAIL
    assert after_failed_publish(True, is_written=True) is Resend.SEND
    assert after_failed_publish(True, is_written=True, channels_closed=1) is Resend.SEND
    assert after_failed_publish(True, is_written=True, channels_closed=2) is Resend.FAIL
    assert after_refusal(True) is Resend.SEND
    assert after_refusal(False) is Resend.FAIL


def test_a_confirmed_call_waits_as_long_as_its_reply_can_arrive() -> None:
    sent = ReplyEpoch(1, 1)
    again, other = ReplyEpoch(1, 2), ReplyEpoch(2, 2)
    assert [after_confirm(True, sent, now) for now in (sent, again, other)] == [
        Resend.WAIT,
        Resend.SEND,
        Resend.SEND,
    ]
    assert [after_confirm(False, sent, now) for now in (sent, again, other)] == [
        Resend.WAIT,
        Resend.WAIT,
        Resend.FAIL,
    ]
