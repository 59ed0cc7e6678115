"""The list of cases."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from .context import Caller

Run = Callable[[Caller], Awaitable[None]]


@dataclass(frozen=True)
class Case:
    """One thing that must work between all languages."""

    name: str
    run: Run


CASES: list[Case] = []


def case(run: Run) -> Run:
    """Adds a case with the name of its function, without an underscore at the end."""
    CASES.append(Case(run.__name__.rstrip("_"), run))
    return run
