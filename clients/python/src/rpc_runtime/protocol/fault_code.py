"""The codes of faults, and what they say about the method."""

from __future__ import annotations

from typing import Final

from ..executed import Executed

UNKNOWN_METHOD: Final = "unknown_method"
BAD_REQUEST: Final = "bad_request"
UNSUPPORTED_CONTENT_TYPE: Final = "unsupported_content_type"
TOO_LARGE: Final = "too_large"
EXPIRED: Final = "expired"
UNAUTHORIZED: Final = "unauthorized"
REJECTED: Final = "rejected"
ABANDONED: Final = "abandoned"
INTERRUPTED: Final = "interrupted"
PANICKED: Final = "panicked"
UNANSWERABLE: Final = "unanswerable"
REPLY_TOO_LARGE: Final = "reply_too_large"

_NOT_EXECUTED = frozenset(
    {
        UNKNOWN_METHOD,
        BAD_REQUEST,
        UNSUPPORTED_CONTENT_TYPE,
        TOO_LARGE,
        EXPIRED,
        UNAUTHORIZED,
        REJECTED,
    }
)
_EXECUTED = frozenset({PANICKED, UNANSWERABLE, REPLY_TOO_LARGE})
_KNOWN = _NOT_EXECUTED | _EXECUTED | {ABANDONED, INTERRUPTED}


def executed_of_fault(code: str) -> Executed:
    """Tells whether the method ran. An unknown code says nothing about it."""
    if code in _NOT_EXECUTED:
        return Executed.NO
    return Executed.YES if code in _EXECUTED else Executed.MAYBE


def is_known(code: str) -> bool:
    """Tells whether this version knows the code."""
    return code in _KNOWN
