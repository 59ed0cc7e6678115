"""The options of calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self, TypedDict, Unpack

from ..codec import Codec
from ..protocol.headers import check_user_headers
from ..protocol.jobs import MAX_DELAY
from ..protocol.names import MAX_SHORT_STRING
from ..protocol.volume import MAX_CREDIT

DEFAULT_TIMEOUT = 30.0
DEFAULT_CREDIT_BYTES = 2 * 1024 * 1024
_MAX_PRIORITY = 255


class Options(TypedDict, total=False):
    """The options of `Client.with_options`, which describes them."""

    timeout: float | None
    headers: Mapping[str, str]
    priority: int | None
    codec: Codec
    credit: int
    credit_bytes: int
    delay: float
    expect_workers: int | None
    quiet_for: float | None
    wait_for_server: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """The options that calls of a client share. `Client.with_options` describes them."""

    timeout: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    priority: int | None = None
    codec: Codec = Codec.MESSAGE_PACK
    credit: int = MAX_CREDIT
    credit_bytes: int = DEFAULT_CREDIT_BYTES
    delay: float = 0.0
    expect_workers: int | None = None
    quiet_for: float | None = None
    wait_for_server: bool = False

    def changed(self, **options: Unpack[Options]) -> Self:
        """Returns these options with some changes.

        Raises `ValueError` or `TypeError` if one is invalid.
        """
        changed = replace(self, **options)
        changed._check()
        return changed

    def _check(self) -> None:
        """Raises `ValueError` if an option is invalid, or `TypeError` if it has another type."""
        check_user_headers(self.headers)
        for name in ("priority", "credit", "credit_bytes", "expect_workers"):
            if not isinstance(getattr(self, name), int | None):
                raise TypeError(f"{name} must be an integer")
        # `not ... > 0` also refuses NaN.
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError("the timeout must be more than 0 seconds")
        if self.priority is not None and not 0 <= self.priority <= _MAX_PRIORITY:
            raise ValueError(f"the priority must be from 0 to {_MAX_PRIORITY}")
        if not 1 <= self.credit <= MAX_CREDIT:
            raise ValueError(f"the credit must be from 1 to {MAX_CREDIT} items")
        if self.credit_bytes < 1:
            raise ValueError("the credit must be at least a byte")
        if not 0 <= self.delay <= MAX_DELAY / 1000:
            raise ValueError("the delay must be from 0 seconds to 30 days")
        if self.expect_workers is not None and self.expect_workers < 1:
            raise ValueError("at least one worker must be expected")
        if self.quiet_for is not None and not self.quiet_for > 0:
            raise ValueError("the quiet time must be more than 0 seconds")


def check_queue(name: str) -> None:
    """Raises `ValueError` if this cannot be the name of a queue."""
    if not 1 <= len(name.encode()) <= MAX_SHORT_STRING:
        raise ValueError(f"the name of a queue must have 1 to {MAX_SHORT_STRING} bytes")
