"""The headers that a caller adds, and those that a method sees."""

from __future__ import annotations

from collections.abc import Mapping

_MAX_BYTES = 4096
_MAX_NAME = 255
# The type and the length of a value, and the length of its name.
_OVERHEAD = 6
_RABBITMQ = frozenset({"CC", "BCC", "x-death", "x-delivery-count", "x-acquired-count"})
_RABBITMQ_PREFIXES = ("x-first-death-", "x-last-death-")


def is_rabbitmqs(name: str) -> bool:
    """Whether RabbitMQ sets the header or acts on it."""
    return name in _RABBITMQ or name.startswith(_RABBITMQ_PREFIXES)


def is_reserved(name: str) -> bool:
    """Whether the header belongs to this library or to RabbitMQ."""
    return name.startswith("rpc-") or is_rabbitmqs(name)


def wire_bytes(headers: Mapping[str, str]) -> int:
    """Returns about how many bytes headers take in a message."""
    return sum(
        _OVERHEAD + len(name.encode()) + len(value.encode()) for name, value in headers.items()
    )


def check_user_headers(headers: Mapping[str, str]) -> None:
    """Checks the headers of a call. Raises `ValueError`."""
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ValueError("the names and the values of headers must be text")
        if is_reserved(name):
            raise ValueError(f'the header "{name[:64]}" is reserved')
        if not name or len(name.encode()) > _MAX_NAME:
            raise ValueError(f"the name of a header must have 1 to {_MAX_NAME} bytes")
    size = wire_bytes(headers)
    if size > _MAX_BYTES:
        raise ValueError(f"the headers have {size} bytes, and at most {_MAX_BYTES} are allowed")


def visible(headers: Mapping[str, str]) -> dict[str, str]:
    """Returns the headers that a method sees: all that are not reserved."""
    return {name: value for name, value in headers.items() if not is_reserved(name)}
