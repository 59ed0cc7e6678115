"""Numbers of items and of their bytes."""

from __future__ import annotations

from typing import Final, NamedTuple

# How many items may be granted beyond those that were read.
MAX_CREDIT = 1 << 20
# How many items a message may have.
MAX_ITEMS = 16_384
# How many bytes an item counts as beside its own.
ITEM_OVERHEAD = 8
# As a number of items or of bytes.
UNLIMITED: Final = (1 << 64) - 1


class Volume(NamedTuple):
    """A number of items, and how many bytes they count as."""

    items: int = 0
    size: int = 0

    @staticmethod
    def of(item: bytes) -> Volume:
        """The volume of an item: its length and `ITEM_OVERHEAD`."""
        return Volume(1, len(item) + ITEM_OVERHEAD)

    def plus(self, other: Volume) -> Volume:
        """The sum."""
        return Volume(
            min(self.items + other.items, UNLIMITED),
            min(self.size + other.size, UNLIMITED),
        )

    def minus(self, other: Volume) -> Volume:
        """The difference, at least zero."""
        return Volume(max(0, self.items - other.items), max(0, self.size - other.size))

    def largest(self, other: Volume) -> Volume:
        """The larger number of items, and the larger number of bytes."""
        return Volume(max(self.items, other.items), max(self.size, other.size))

    def half(self) -> Volume:
        """Half of each."""
        return Volume(self.items // 2, self.size // 2)

    def allows_more_than(self, used: Volume) -> bool:
        """Whether both numbers exceed what is used."""
        return self.items > used.items and self.size > used.size
