"""The methods that a queue serves, and the functions that run them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..describe import Method, Service
from .stats import MethodStats
from .worker import Worker


@dataclass(slots=True)
class ServedMethod:
    """A method of one implementation."""

    method: Method[Any]
    function: Callable[..., Any]
    stats: MethodStats


class ServedQueue:
    """What is served on one queue."""

    def __init__(self) -> None:
        self.services: list[Service] = []
        self.methods: dict[str, ServedMethod] = {}

    def add(self, worker: Worker) -> None:
        """Adds the methods of an implementation.

        Raises `ValueError` if one cannot be served here, and `TypeError` for unsupported types.
        """
        service = worker._service
        for method in service.methods:
            self._check(service, method)
            function = getattr(worker, method.function)
            stats = MethodStats(service.name, method.name)
            self.methods[method.name] = ServedMethod(method, function, stats)
            # Types that cannot be converted are found here instead of at the first request.
            _ = method._message_pack, method._json
        self.services.append(service)

    def _check(self, service: Service, method: Method[Any]) -> None:
        """Raises `ValueError` if the method is invalid, or collides with one that was added."""
        place = f"the method {method.name} of {service.name}"
        if method.name.startswith("rpc."):
            raise ValueError(f"{place} has a reserved name")
        if method.is_broadcast and (method.is_idempotent or method.is_default):
            raise ValueError(f"{place} is a broadcast, which cannot be idempotent or the default")
        if method.name in self.methods:
            raise ValueError(f"{place} is served twice on one queue")
        if method.is_default and any(other.method.is_default for other in self.methods.values()):
            raise ValueError(f"{place} is a second default method on one queue")

    @property
    def has_jobs(self) -> bool:
        """Whether any method is a job."""
        return any(served.method.is_job for served in self.methods.values())

    @property
    def has_streams(self) -> bool:
        """Whether any method returns or receives a stream."""
        return any(served.method.has_stream for served in self.methods.values())

    @property
    def has_incoming(self) -> bool:
        """Whether any method receives a stream."""
        return any(served.method.incoming is not None for served in self.methods.values())

    @property
    def needs_control(self) -> bool:
        """Whether callers send broadcasts, cancellations or credit through the control exchange."""
        return any(
            served.method.is_broadcast or not served.method.is_oneway
            for served in self.methods.values()
        )

    def describe(self, queue: str) -> dict[str, Any]:
        """Describes the services as a plain value."""
        services = [{**service.description, "queue": queue} for service in self.services]
        return {"queue": queue, "services": services}
