"""What becomes of a job that failed: its headers, its copies, and the queues that they go to."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from ..describe import Method, Retry
from . import fault_code
from .headers import is_rabbitmqs, wire_bytes
from .message import Headers, Message, header_number, text_headers
from .names import BATCH_HEADER, COPY_HEADER, REDELIVERIES_HEADER, RESENT_HEADER
from .reply import shortened

ATTEMPTS_HEADER: Final = "rpc-attempts"
FIRST_FAILURE_HEADER: Final = "rpc-first-failure"
LAST_FAILURE_HEADER: Final = "rpc-last-failure"
DELAY_HEADER: Final = "rpc-delay"
REASON_HEADER: Final = "rpc-reason"
FIRST_TRACE_HEADER: Final = "rpc-first-trace"
ERROR_HEADER: Final = "rpc-error"
ORIGIN_HEADER: Final = "rpc-origin"
GIVEN_UP_HEADER: Final = "rpc-given-up"
USER_HEADER: Final = "rpc-user"

# All times are in milliseconds.
MAX_DELAY: Final = 30 * 24 * 60 * 60 * 1000
# A job that the dead-letter queue does not take waits this long in a retry queue.
DEAD_LETTER_WAIT: Final = 10_000
# A job that a worker has put back into its queue waits in the next worker if its delay is at most
# this long. With a longer delay, it goes to a retry queue.
RETURNED_PAUSE: Final = 2_000
_SHORTEST_WAIT = 100
# The waits of retry queues: 100, 200, 500, 1000 and so on.
_WAITS = (*(digit * 10**power for power in range(2, 9) for digit in (1, 2, 5)), 10**9)
# In bytes: all headers of a copy, the error among them, and any other value that a worker writes.
_MAX_HEADER_BYTES = 6 * 1024
_MAX_ERROR = 1024
_MAX_VALUE = 255
_JOB_HEADERS = frozenset(
    {
        ATTEMPTS_HEADER,
        FIRST_FAILURE_HEADER,
        LAST_FAILURE_HEADER,
        DELAY_HEADER,
        REASON_HEADER,
        ERROR_HEADER,
        FIRST_TRACE_HEADER,
        ORIGIN_HEADER,
        GIVEN_UP_HEADER,
        USER_HEADER,
    }
)
# After these, another attempt would fail too, or is not allowed.
_FINAL_FAULTS = frozenset(
    {
        fault_code.BAD_REQUEST,
        fault_code.UNSUPPORTED_CONTENT_TYPE,
        fault_code.UNKNOWN_METHOD,
        fault_code.TOO_LARGE,
        fault_code.UNAUTHORIZED,
        fault_code.EXPIRED,
        fault_code.INTERRUPTED,
    }
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed. `reason` is `error` for the method's own error, or a fault's code."""

    reason: str
    text: str

    @property
    def is_worth_retrying(self) -> bool:
        """Whether another attempt may succeed."""
        return self.reason not in _FINAL_FAULTS


def attempts_of(headers: Headers) -> int:
    """Returns how many attempts failed."""
    return header_number(headers, ATTEMPTS_HEADER)


def remaining_delay(headers: Headers) -> int:
    """Returns how many milliseconds the job must still wait."""
    return min(MAX_DELAY, header_number(headers, DELAY_HEADER))


def set_remaining_delay(headers: Headers, millis: int) -> None:
    """Sets how long the job must still wait, or removes the header if it need not."""
    if millis > 0:
        headers[DELAY_HEADER] = str(millis)
    else:
        headers.pop(DELAY_HEADER, None)


def is_given_up(headers: Headers) -> bool:
    """Whether the job only waits for its dead-letter queue."""
    return GIVEN_UP_HEADER in headers


def next_wait(millis: int) -> tuple[int, int]:
    """Returns the longest wait that is not longer than a delay, and the rest of the delay.

    A delay that is shorter than each wait becomes the shortest one.
    """
    wait = next((wait for wait in reversed(_WAITS) if wait <= millis), _SHORTEST_WAIT)
    return wait, max(0, millis - wait)


def rounded_up(millis: int) -> int:
    """Rounds a delay up to a tenth of a second, and to two digits."""
    millis = max(1, millis)
    unit = max(_SHORTEST_WAIT, int(math.pow(10, max(0, len(str(millis)) - 2))))
    return -(-millis // unit) * unit


def retry_delay(retry: Retry, attempt: int, jitter: float) -> int:
    """Returns the delay before the retry after this failed attempt, in milliseconds.

    `attempt` counts from 1. Delays grow as `Retry` says. `jitter`, from 0 to 1, makes a delay up to
    a fifth shorter or longer before it is rounded up.
    """
    steps, delay = retry.times - 1, float(retry.min_delay)
    if steps > 0 and delay > 0:
        growth = retry.max_delay / delay
        delay *= math.pow(growth, min(attempt - 1, steps) / steps)
    millis = min(delay * 1000, MAX_DELAY) * (0.8 + 0.4 * jitter)
    return rounded_up(int(millis))


def waits_of(retries: Iterable[Retry]) -> list[int]:
    """Returns the waits whose retry queues a worker declares before it serves jobs."""
    waits = {_SHORTEST_WAIT, DEAD_LETTER_WAIT}
    for retry in retries:
        # A policy with a single retry, to get the longest delay with the most jitter.
        last = Retry(1, max(retry.min_delay, retry.max_delay), 0)
        longest, _ = next_wait(retry_delay(last, 1, 1.0))
        waits.update(wait for wait in _WAITS if wait <= longest)
    return sorted(waits)


def record_failure(headers: Headers, failure: Failure, now_millis: int) -> None:
    """Notes a failed attempt in the headers, and removes the delay and the redeliveries."""
    headers[ATTEMPTS_HEADER] = str(attempts_of(headers) + 1)
    headers.pop(DELAY_HEADER, None)
    headers.pop(REDELIVERIES_HEADER, None)
    if header_number(headers, FIRST_FAILURE_HEADER, -1) < 0:
        headers[FIRST_FAILURE_HEADER] = str(now_millis)
    headers[LAST_FAILURE_HEADER] = str(now_millis)
    headers[REASON_HEADER] = failure.reason
    # `shortened` may add three bytes.
    headers[ERROR_HEADER] = shortened(failure.text, _MAX_ERROR - 4)


def after_failure(
    headers: Headers, failure: Failure, method: Method[Any] | None, now_millis: int, jitter: float
) -> int | None:
    """Notes a failed attempt in the headers. Returns the delay before the next, in milliseconds.

    `None` if the job is given up.
    """
    record_failure(headers, failure, now_millis)
    retry = method.retry if method is not None else None
    attempts = attempts_of(headers)
    if retry is None or not failure.is_worth_retrying or attempts > retry.times:
        return None
    return retry_delay(retry, attempts, jitter)


def copy_of(message: Message) -> Message:
    """Makes the copy of a request that goes to another queue, or to the end of its own.

    It has a new token, and neither an expiration nor a user id. Headers that record a failure must
    be set before: they count towards the limit.
    """
    headers = {
        name: value
        for name, value in text_headers(message.headers).items()
        if not is_rabbitmqs(name) and name not in (BATCH_HEADER, RESENT_HEADER)
    }
    # The header with the user is trusted only in a copy. A message with a user id is no copy: a
    # worker has a user of its own, so it publishes copies without a user id.
    if COPY_HEADER not in headers or message.user_id:
        headers.pop(USER_HEADER, None)
        if message.user_id:
            headers[USER_HEADER] = message.user_id
    headers = _limited(headers)
    headers[COPY_HEADER] = f"{random.randrange(1, 1 << 64):016x}"
    return Message(
        body=message.body,
        type=message.type,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        is_persistent=True,
        priority=message.priority,
        app_id=message.app_id,
        headers=dict(headers),
    )


def _limited(headers: dict[str, str]) -> dict[str, str]:
    """Drops headers if all together are too large for a copy: first those of the sender."""
    if wire_bytes(headers) > _MAX_HEADER_BYTES:
        headers = {name: value for name, value in headers.items() if name.startswith("rpc-")}
    if wire_bytes(headers) > _MAX_HEADER_BYTES:
        # The sender has forged headers of this library: only those of jobs are kept, and only
        # values as short as a worker writes them.
        headers = {
            name: value
            for name, value in headers.items()
            if name in _JOB_HEADERS
            and len(value.encode()) <= (_MAX_ERROR if name == ERROR_HEADER else _MAX_VALUE)
        }
    return headers


def retry_queue(queue: str, millis: int) -> str:
    """Returns the name of a retry queue."""
    return f"{queue}.retry.{millis}"


def dead_queue(queue: str) -> str:
    """Returns the name of the dead-letter queue."""
    return f"{queue}.dead"


def retry_queue_arguments(queue: str, millis: int) -> dict[str, Any]:
    """Returns the arguments with which workers declare a retry queue."""
    return {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue,
        "x-message-ttl": millis,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def dead_queue_arguments(queue_type: str) -> dict[str, Any]:
    """Returns the arguments with which workers declare a dead-letter queue."""
    arguments: dict[str, Any] = {"x-queue-type": queue_type}
    if queue_type == "quorum":
        # Each look at a letter counts as a delivery, and must not drop it.
        arguments["x-delivery-limit"] = 1_000_000_000
    return arguments
