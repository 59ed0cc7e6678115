"""How a worker declares its queues."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ..client.options import check_queue
from ..protocol.jobs import dead_queue, dead_queue_arguments, retry_queue, retry_queue_arguments

# RabbitMQ's own for quorum queues, from version 4 on.
_DEFAULT_DELIVERY_LIMIT = 20
_LONGEST_SUFFIX = len(".retry.1000000000")
_MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class RequestQueue:
    """A durable request queue, by default a classic one.

    With `existing`, it and the queues for its jobs must exist, and are not declared. `type` and
    `arguments` must still be right: they decide about redelivered and rejected requests.
    """

    name: str
    type: Literal["classic", "quorum"] = "classic"
    arguments: dict[str, Any] = field(default_factory=dict)
    existing: bool = False

    def check(self, *, has_jobs: bool) -> None:
        """Raises `ValueError` if the name is empty or, with the suffixes for jobs, too long."""
        check_queue(self.name)
        if has_jobs and len(self.name.encode()) > _MAX_NAME - _LONGEST_SUFFIX:
            limit = _MAX_NAME - _LONGEST_SUFFIX
            raise ValueError(f"the name of a queue with jobs may have at most {limit} bytes")

    @property
    def all_arguments(self) -> dict[str, Any]:
        """The arguments of the declaration."""
        return {"x-queue-type": self.type, **self.arguments}

    @property
    def max_deliveries(self) -> int:
        """How often a request may be delivered. The greatest 32-bit number stands for no limit."""
        limit = self.arguments.get("x-delivery-limit", _DEFAULT_DELIVERY_LIMIT)
        # RabbitMQ 4 takes a negative number for no limit.
        if not isinstance(limit, int) or limit < 0:
            return (1 << 32) - 1
        return max(1, limit)

    @property
    def has_dead_letter_exchange(self) -> bool:
        """Whether its arguments name one. A policy may do so too, but workers do not see it."""
        return "x-dead-letter-exchange" in self.arguments

    def retry(self, millis: int) -> RequestQueue:
        """The queue of jobs that wait this long."""
        arguments = retry_queue_arguments(self.name, millis)
        return RequestQueue(retry_queue(self.name, millis), "quorum", arguments, self.existing)

    def dead(self) -> RequestQueue:
        """The queue of jobs that were given up."""
        arguments = dead_queue_arguments(self.type)
        return RequestQueue(dead_queue(self.name), self.type, arguments, self.existing)
