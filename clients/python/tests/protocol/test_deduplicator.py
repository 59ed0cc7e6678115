"""Requests that are delivered again."""

from __future__ import annotations

from rpc_runtime.protocol.deduplicator import (
    Action,
    Deduplicator,
    End,
    Origin,
    RequestKey,
    copy_token,
    key_of,
    origin_of,
)
from rpc_runtime.protocol.message import Message

KEY = RequestKey("rpc.reply.1", "id")


def test_a_request_that_runs_is_joined() -> None:
    requests: Deduplicator[str] = Deduplicator()
    assert requests.add(KEY, Origin.NEW, "", "first") == (Action.RUN, KEY)
    for origin in (Origin.REDELIVERED, Origin.RESENT, Origin.FORWARDED):
        assert requests.add(KEY, origin, "c", "again")[0] is Action.JOIN
    assert requests.end(KEY, End.ANSWERED) == ["again"] * 3


def test_a_request_that_was_answered_is_only_acknowledged() -> None:
    requests: Deduplicator[str] = Deduplicator()
    requests.add(KEY, Origin.NEW, "", "first")
    requests.end(KEY, End.ANSWERED)
    assert requests.add(KEY, Origin.REDELIVERED, "", "x")[0] is Action.ACK
    assert requests.add(KEY, Origin.FORWARDED, "c", "x")[0] is Action.ACK
    # Its caller may have lost the reply.
    assert requests.add(KEY, Origin.RESENT, "", "x")[0] is Action.RUN


def test_a_copy_of_a_resent_request_runs_once() -> None:
    requests: Deduplicator[str] = Deduplicator()
    requests.add(KEY, Origin.NEW, "", "first")
    requests.end(KEY, End.ANSWERED)
    copy = KEY._replace(copy="c")
    assert requests.add(KEY, Origin.FORWARDED_RESENT, "c", "x") == (Action.RUN, copy)
    requests.end(copy, End.ANSWERED)
    # The acknowledgement was lost.
    assert requests.add(KEY, Origin.FORWARDED_RESENT, "c", "x")[0] is Action.ACK
    assert requests.add(KEY, Origin.FORWARDED_RESENT, "d", "x")[0] is Action.RUN
    # Without a token, it may be any of the requests.
    assert requests.add(KEY, Origin.FORWARDED_RESENT, "", "x")[0] is Action.RUN


def test_a_rejected_request_is_rejected_again() -> None:
    requests: Deduplicator[str] = Deduplicator()
    requests.add(KEY, Origin.NEW, "", "first")
    requests.end(KEY, End.REJECTED)
    assert requests.add(KEY, Origin.REDELIVERED, "", "x")[0] is Action.REJECT


def test_a_request_that_was_left_runs_again() -> None:
    requests: Deduplicator[str] = Deduplicator()
    requests.add(KEY, Origin.NEW, "", "first")
    requests.end(KEY, None)
    assert requests.add(KEY, Origin.REDELIVERED, "", "x")[0] is Action.RUN


def test_copies_of_a_job_differ_by_their_tokens() -> None:
    requests: Deduplicator[str] = Deduplicator()
    first = requests.add(KEY, Origin.MOVED, "1", "a")
    assert first == (Action.RUN, KEY._replace(copy="1"))
    requests.end(first[1], End.MOVED)
    assert requests.add(KEY, Origin.MOVED, "1", "a")[0] is Action.ACK
    assert requests.add(KEY, Origin.MOVED, "2", "a")[0] is Action.RUN


def test_few_requests_are_remembered() -> None:
    requests: Deduplicator[str] = Deduplicator()
    for number in range(16_385):
        key = RequestKey("", str(number))
        requests.add(key, Origin.NEW, "", "x")
        requests.end(key, End.ANSWERED)
    assert requests.add(RequestKey("", "0"), Origin.REDELIVERED, "", "x")[0] is Action.RUN
    assert requests.add(RequestKey("", "1"), Origin.REDELIVERED, "", "x")[0] is Action.ACK


def test_only_unique_ids_identify_a_request() -> None:
    uuid = "5f0c7c1e-5d0f-4a57-9a0e-6f7d3c1a2b4d"
    assert key_of(Message(correlation_id="order 7", reply_to="rpc.reply.1")) is not None
    assert key_of(Message(correlation_id="order 7")) is None
    assert key_of(Message(correlation_id=uuid)) is not None
    assert key_of(Message(reply_to="rpc.reply.1")) is None


def test_origins() -> None:
    def origin(is_redelivered: bool = False, **headers: object) -> Origin:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return origin_of(Message(headers=named), is_redelivered)

    assert origin() is Origin.NEW
    assert origin(is_redelivered=True) is Origin.REDELIVERED
    assert origin(rpc_resent="") is Origin.RESENT
    assert origin(rpc_resent="worker", rpc_copy="1") is Origin.FORWARDED
    assert origin(rpc_resent="caller, worker") is Origin.FORWARDED_RESENT
    assert origin(rpc_copy="1") is Origin.MOVED
    assert origin(x_death=[]) is Origin.RESENT


def test_what_is_remembered_of_a_copy_is_short() -> None:
    def token(value: object) -> str:
        return copy_token(Message(headers={"rpc-copy": value}))

    assert (token("00ff"), token("")) == ("00ff", "")
    assert token("x" * 100_000) != token("x" * 100_001)
    for value in ("x" * 100_000, {"a": "x" * 100_000}, ["\udcff"], 7):
        assert len(token(value)) == 64
