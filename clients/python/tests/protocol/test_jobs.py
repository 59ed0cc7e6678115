"""Failed jobs: their headers, delays and queues."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpc_runtime import Method, Retry
from rpc_runtime.protocol.headers import wire_bytes
from rpc_runtime.protocol.jobs import (
    Failure,
    after_failure,
    attempts_of,
    copy_of,
    next_wait,
    remaining_delay,
    retry_delay,
    rounded_up,
    waits_of,
)
from rpc_runtime.protocol.message import Message
from rpc_runtime.transport.channel import Published
from rpc_runtime.transport.delivery import Delivery
from rpc_runtime.worker.job_mover import JobMover
from rpc_runtime.worker.request_queue import RequestQueue

RETRIED: Method[None] = Method(
    "send", returns=None, oneway=True, idempotent=True, retry=Retry(3, 1.0, 100.0)
)
UNRETRIED: Method[None] = Method("send", returns=None, oneway=True, idempotent=True)
PANICKED = Failure("panicked", "why")


def test_a_job_is_retried_as_often_as_its_method_says() -> None:
    headers: dict[str, Any] = {}
    delays = [after_failure(headers, PANICKED, RETRIED, 1, 0.5) for _ in range(4)]
    assert delays == [1000, 10_000, 100_000, None]
    assert attempts_of(headers) == 4
    for method in (UNRETRIED, None):
        assert after_failure({}, PANICKED, method, 1, 0.5) is None


def test_a_request_that_can_never_run_is_not_retried() -> None:
    for code in ("bad_request", "unknown_method", "too_large", "interrupted", "expired"):
        assert after_failure({}, Failure(code, ""), RETRIED, 1, 0.5) is None


def test_failures_are_counted_and_the_last_one_is_kept() -> None:
    headers: dict[str, Any] = {"rpc-delay": "5", "rpc-redeliveries": "19"}
    after_failure(headers, Failure("error", "no route"), RETRIED, 1000, 0.5)
    after_failure(headers, Failure("panicked", "ä" * 600), RETRIED, 2000, 0.5)
    assert headers["rpc-first-failure"] == "1000"
    assert headers["rpc-last-failure"] == "2000"
    assert headers["rpc-reason"] == "panicked"
    assert len(headers["rpc-error"].encode()) <= 1024
    assert "rpc-delay" not in headers
    assert "rpc-redeliveries" not in headers


def test_a_copy_keeps_what_the_sender_wrote() -> None:
    message = Message(
        b"body",
        type="send",
        content_type="application/json",
        correlation_id="id",
        priority=3,
        user_id="alice",
        expiration="5",
        headers={"tenant": "a", "n": 7, "x-death": [], "rpc-resent": "", "rpc-user": "forged"},
    )
    copy = copy_of(message)
    assert (copy.body, copy.priority, copy.is_persistent) == (b"body", 3, True)
    assert (copy.user_id, copy.expiration) == (None, None)
    token = copy.headers.pop("rpc-copy")
    assert copy.headers == {"tenant": "a", "n": "7", "rpc-user": "alice"}
    assert copy_of(message).headers["rpc-copy"] != token
    # The next copy has no user id, and its header is that of a worker.
    again = Message(headers={"rpc-copy": "1", "rpc-user": "alice"})
    assert copy_of(again).headers["rpc-user"] == "alice"
    assert "rpc-user" not in copy_of(Message(headers={"rpc-user": "forged"})).headers


def test_headers_that_might_not_fit_into_a_frame_are_removed() -> None:
    def with_header(name: str, size: int) -> dict[str, Any]:
        headers: dict[str, Any] = {"tenant": "a", name: "x" * size, "rpc-attempts": "1"}
        return copy_of(Message(headers=headers)).headers

    assert with_header("note", 4096)["tenant"] == "a"
    for name in ("note", "rpc-forged", "rpc-origin", "rpc-error"):
        headers = with_header(name, 200_000)
        assert wire_bytes(headers) <= 6 * 1024
        assert headers["rpc-attempts"] == "1"


class _Recorder(JobMover):
    """Records the copies instead of publishing them."""

    def __init__(self) -> None:
        super().__init__(cast(Any, None), RequestQueue("q"), cast(Any, None))
        self.copies: list[Message] = []

    async def _publish(self, delivery: Delivery, copy: Message, target: Any) -> str | None:
        self.copies.append(copy)
        return None


@pytest.mark.parametrize("method", [RETRIED, None])
async def test_what_a_worker_records_counts_towards_the_size_of_headers(
    method: Method[Any] | None,
) -> None:
    mover = _Recorder()
    delivery = cast(Delivery, SimpleNamespace(channel=SimpleNamespace(is_open=True)))
    message = Message(headers={"note": "x" * 5500, "rpc-first-trace": "00-1-2-01"})
    assert "note" in copy_of(message).headers
    assert await mover.fail(delivery, message, method, Failure("error", "x" * 2000))
    (copy,) = mover.copies
    assert wire_bytes(copy.headers) <= 6 * 1024
    assert "note" not in copy.headers
    assert copy.headers["rpc-attempts"] == "1"
    assert copy.headers.get("rpc-origin") == ("q" if method is None else None)


class _Unrouted(JobMover):
    """Gets these answers to its copies from the broker, and declares queues."""

    def __init__(self, *answers: Published) -> None:
        super().__init__(cast(Any, None), RequestQueue("q"), cast(Any, None))
        self.answers = list(answers)
        self.declared: list[str] = []

    async def _publish_once(self, delivery: Delivery, copy: Message, target: Any) -> Published:
        return self.answers.pop(0)

    async def _declare(self, queue: RequestQueue) -> None:
        self.declared.append(queue.name)


async def test_the_reason_why_no_queue_takes_a_job() -> None:
    returned, refused, confirmed = Published.RETURNED, Published.REFUSED, Published.CONFIRMED
    for answers, reason in [
        ([confirmed], None),
        ([refused], "the broker refuses it"),
        ([returned, confirmed], None),
        ([returned, refused], "the broker refuses it"),
        # Somebody deletes it as often as it is declared.
        ([returned, returned], "the queue does not exist"),
    ]:
        mover = _Unrouted(*answers)
        target = mover._delayed(100)
        assert await mover._publish(cast(Any, None), Message(), target) == reason
        assert mover.declared == (["q.retry.100"] if answers[0] is returned else [])
        assert mover.answers == []


def test_the_trace_of_a_job_is_kept_whatever_its_sender_forged() -> None:
    headers = {"rpc-first-trace": "00-1-2-01", "rpc-forged": "x" * 10_000}
    assert copy_of(Message(headers=headers)).headers["rpc-first-trace"] == "00-1-2-01"


def test_delays_that_cannot_be_read_are_none() -> None:
    for value in ("soon", "-1", "", True, None):
        assert remaining_delay({"rpc-delay": value}) == 0
    assert remaining_delay({"rpc-delay": "9" * 20}) == 30 * 24 * 60 * 60 * 1000


@given(st.integers(0, 3_000_000_000))
def test_a_delay_is_the_sum_of_few_waits(millis: int) -> None:
    rest, total, waits = rounded_up(millis), 0, 0
    while rest > 0:
        wait, rest = next_wait(rest)
        total, waits = total + wait, waits + 1
    assert waits <= 8
    assert millis <= total <= millis + max(100, millis // 10)


@given(
    st.integers(1, 1_000_000),
    st.integers(0, 600_000_000),
    st.integers(1, 6),
    st.floats(0, 1),
)
def test_the_waits_of_a_policy_are_known(
    least: int, more: int, attempt: int, jitter: float
) -> None:
    retry = Retry(5, least / 1000, (least + more) / 1000)
    known = waits_of([retry])
    rest = retry_delay(retry, attempt, jitter)
    while rest > 0:
        wait, rest = next_wait(rest)
        assert wait in known


def test_the_queues_of_a_policy() -> None:
    assert waits_of([]) == [100, 10_000]
    assert len(waits_of([Retry(5, 1.0, 300.0)])) == 11
