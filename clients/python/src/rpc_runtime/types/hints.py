"""Type hints as `typing` represents them."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin


def members_of(hint: Any) -> tuple[Any, ...]:
    """Returns the members of a union. Any other type has none."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else ()
