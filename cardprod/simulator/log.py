"""A log that keeps its last entries only, so that a simulator can run for weeks."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


class Log(list[T]):
    """A list of so many last entries; `total` counts all."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self.total: int = 0
        """How many entries there have been."""

    def append(self, entry: T) -> None:
        """Add an entry, and drop the oldest one if there are too many."""
        super().append(entry)
        self.total += 1
        if len(self) > self._size:
            del self[0]

    def last(self, count: int) -> list[tuple[int, T]]:
        """Return the last entries with their numbers, counted from 1 for the first entry of all."""
        entries = self[max(len(self) - count, 0) :] if count > 0 else []
        return list(enumerate(entries, self.total - len(entries) + 1))
