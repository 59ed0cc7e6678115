"""Whether a request runs, is refused or is rejected."""

from __future__ import annotations

from typing import Any

import pytest

from rpc_runtime import Codec, Method, ReplyAddresses
from rpc_runtime.protocol.message import Message
from rpc_runtime.protocol.request_rules import (
    ForbiddenAddress,
    Methods,
    Refuse,
    Rules,
    Run,
    decide,
    decide_broadcast,
    redeliveries_if_only_workers_count,
    refuse_malformed,
)

READ: Method[None] = Method("read", returns=None, idempotent=True)
WRITE: Method[None] = Method("write", returns=None)
JOB: Method[None] = Method("job", returns=None, oneway=True, idempotent=True)
WATCH: Method[int] = Method("watch", returns=int, stream=True)
STORE: Method[int] = Method("store", returns=int, incoming=int)
RELOAD: Method[None] = Method("reload", returns=None, broadcast=True)
ALL = {method.name: method for method in (READ, WRITE, JOB, WATCH, STORE, RELOAD)}
METHODS = Methods(ALL)
RULES = Rules(max_deliveries=3, is_classic=False)
ID = "5f0c7c1e-5d0f-4a57-9a0e-6f7d3c1a2b4d"


def request(method: str | None, **changes: Any) -> Message:
    properties: dict[str, Any] = {
        "type": method,
        "content_type": "application/json",
        "correlation_id": ID,
        "reply_to": "rpc.reply.1",
        "expiration": "3000",
    }
    return Message(**{**properties, **changes})


def refusal(message: Message, is_redelivered: bool = False, rules: Rules = RULES) -> str:
    decision = decide(message, is_redelivered, METHODS, rules)
    assert isinstance(decision, Refuse), decision
    return decision.code


def runs(message: Message, is_redelivered: bool = False, rules: Rules = RULES) -> Run:
    decision = decide(message, is_redelivered, METHODS, rules)
    assert isinstance(decision, Run), decision
    return decision


def death(reason: str, count: int = 1, expiration: str | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {"reason": reason, "count": count}
    if expiration is not None:
        entry["original-expiration"] = expiration
    return {"x-death": [entry], "x-first-death-reason": reason}


def test_a_request_runs_with_its_codec_and_time() -> None:
    run = runs(request("read"))
    assert (run.method, run.codec, run.time_to_live) == (READ, Codec.JSON, 3.0)
    assert runs(request("read", content_type=None)).codec is Codec.TEXT


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (request("missing"), "unknown_method"),
        (request(None), "unknown_method"),
        (request("reload"), "unknown_method"),
        (request("read", content_type="application/xml"), "unsupported_content_type"),
        (request("read", content_encoding="gzip"), "unsupported_content_type"),
        (request("read", body=b"x" * 101), "too_large"),
        (request("read", expiration="0"), "expired"),
        (request("read", expiration="soon"), "bad_request"),
    ],
)
def test_what_is_refused(message: Message, code: str) -> None:
    rules = Rules(max_accepted_bytes=100)
    assert refusal(message, rules=rules) == code
    # Another worker may have run it.
    assert refusal(message, is_redelivered=True, rules=rules) == "interrupted"


@pytest.mark.parametrize(
    "address",
    ["amq.rabbitmq.reply-to.x", "amq.gen-1", "rpc.reply.1", "amq_" + "0a" * 16, "", None],
)
def test_reply_addresses(address: str | None) -> None:
    runs(request("read", reply_to=address))


@pytest.mark.parametrize("address", ["orders", "amq_", "amq_" + "0A" * 16, "xamq.gen-1", ID])
def test_other_queues_get_no_replies(address: str) -> None:
    forbidden = decide(request("read", reply_to=address), False, METHODS, RULES)
    assert isinstance(forbidden, ForbiddenAddress)


def test_further_reply_addresses_may_be_allowed() -> None:
    addresses = ReplyAddresses(prefixes=("reply-",), names=("answers",), uuids=True)
    for address in ("reply-1", "answers", ID):
        runs(request("read", reply_to=address), rules=Rules(addresses))
    assert not addresses.allows(ID.upper())


def test_only_idempotent_methods_run_again() -> None:
    assert runs(request("read"), is_redelivered=True).is_redelivered
    assert refusal(request("write"), is_redelivered=True) == "interrupted"
    runs(request("write"))


def test_a_dead_letter_counts_as_delivered_before() -> None:
    def dead(method: str, reason: str) -> Message:
        return request(method, headers=death(reason), expiration=None)

    for reason in ("rejected", "delivery_limit", "maxlen"):
        assert refusal(dead("write", reason)) == "interrupted"
        assert runs(dead("read", reason)).is_redelivered


def test_an_expired_dead_letter_does_not_run() -> None:
    message = request("write", headers=death("expired", expiration="1000"), expiration=None)
    assert refusal(message) == "expired"
    assert refusal(message, is_redelivered=True) == "interrupted"
    # It only waited, as in a retry queue.
    waited = request("job", headers=death("expired"), expiration=None, reply_to=None)
    runs(waited)


def test_the_time_of_a_dead_letter_is_at_most_its_first_one() -> None:
    message = request("read", headers=death("rejected", expiration="1000"), expiration=None)
    assert runs(message).time_to_live == 1.0


def test_a_request_does_not_come_back_for_ever() -> None:
    def counted(count: int) -> Message:
        return request("read", headers={"x-delivery-count": count}, expiration=None)

    runs(counted(2), is_redelivered=True)
    assert refusal(counted(3), is_redelivered=True) == "interrupted"
    assert refusal(request("read", expiration=None), is_redelivered=True) == "interrupted"
    both = request("read", headers={"x-delivery-count": 2, **death("rejected")})
    assert refusal(both, is_redelivered=True) == "interrupted"


def test_a_classic_queue_counts_nothing_whatever_the_headers_say() -> None:
    message = request("job", headers={"x-delivery-count": 1}, expiration=None, reply_to=None)
    classic = Rules(max_deliveries=3)
    assert redeliveries_if_only_workers_count(message, True, JOB, classic) == 1
    assert redeliveries_if_only_workers_count(message, True, JOB, RULES) is None


def test_workers_count_the_redeliveries_of_one_way_requests() -> None:
    def count(method: Method[Any], is_redelivered: bool = True, **changes: Any) -> int | None:
        message = request("job", **{"expiration": None, "reply_to": None, **changes})
        return redeliveries_if_only_workers_count(message, is_redelivered, method, Rules())

    assert count(JOB) == 1
    assert count(JOB, headers={"rpc-redeliveries": "1"}) == 2
    assert count(JOB, headers={"rpc-redeliveries": "19"}) is None
    assert count(JOB, is_redelivered=False) is None
    assert count(WRITE) is None
    assert count(JOB, expiration="5") is None
    assert count(JOB, reply_to="rpc.reply.1") is None
    assert count(READ, user_id="guest") is None
    # It expired before, and its copy would not say so.
    assert count(JOB, headers=death("expired", expiration="1000")) is None
    assert count(JOB, headers=death("expired")) == 1


def test_streams_name_their_credit() -> None:
    headers = {"rpc-credit": "5", "rpc-credit-bytes": "100"}
    stream = runs(request("watch", headers=headers)).stream
    assert stream is not None
    assert (stream.credit, stream.sends_items) == ((5, 100), False)
    assert runs(request("watch")).stream is None
    assert runs(request("read", headers=headers)).stream is None
    assert refusal(request("watch", headers=headers, correlation_id="x")) == "bad_request"
    assert refusal(request("watch", headers=headers, reply_to=None)) == "bad_request"


def test_items_are_only_sent_to_methods_that_receive_them() -> None:
    incoming = {"rpc-incoming": "1"}
    stream = runs(request("store", headers=incoming)).stream
    assert stream is not None
    assert stream.sends_items
    assert refusal(request("store")) == "bad_request"
    assert refusal(request("read", headers=incoming)) == "bad_request"


def test_broadcasts_come_another_way() -> None:
    methods = Methods(ALL, is_broadcast=True)
    assert isinstance(decide_broadcast(request("reload"), methods, RULES), Run)
    other = decide_broadcast(request("read"), methods, RULES)
    assert isinstance(other, Refuse)
    assert (other.code, "it is not a broadcast" in other.message) == ("unknown_method", True)
    large = decide_broadcast(request("reload", body=b"x" * (1024 * 1024 + 1)), methods, RULES)
    assert isinstance(large, Refuse)
    assert large.code == "too_large"


def test_malformed_messages_are_refused() -> None:
    refused = refuse_malformed(request(None), "why", False, RULES)
    assert isinstance(refused, Refuse)
    assert (refused.code, refused.message) == ("bad_request", "the request cannot be read: why")
    # Another worker may have been able to read it.
    dead = request(None, headers=death("delivery_limit"))
    forged = request(None, headers=death("rejected", count=-1))
    for message, is_redelivered, code in [
        (request(None), True, "interrupted"),
        (dead, False, "interrupted"),
        (forged, False, "bad_request"),
    ]:
        refused = refuse_malformed(message, "why", is_redelivered, RULES)
        assert isinstance(refused, Refuse)
        assert refused.code == code
    other = refuse_malformed(request(None, reply_to="orders"), "why", False, RULES)
    assert isinstance(other, ForbiddenAddress)


def test_a_service_may_have_a_default_method() -> None:
    usual: Method[None] = Method("usual", returns=None, default=True)
    methods = Methods({"usual": usual})
    for name in (None, ""):
        run = decide(request(name), False, methods, RULES)
        assert isinstance(run, Run)
        assert run.method is usual


@pytest.mark.parametrize("settings", [{"prefixes": "reply-"}, {"names": "a"}, {"prefixes": [""]}])
def test_reply_addresses_do_not_allow_more_than_was_meant(settings: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        ReplyAddresses(**settings)
