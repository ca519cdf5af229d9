"""`ResultStream`: a bounded buffer of results between the polls of a batch and its reader, and `Progress`, its counts.

No result is lost: no poll starts while the buffer is full, and an error is raised after the results before it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs

from cardprod._polling.coroutine import not_an_end
from cardprod._polling.signal import Signal
from cardprod.errors import CardprodError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cardprod.models import ProductionStatus

_T = TypeVar("_T")

_CAPACITY = 256


@attrs.frozen(kw_only=True)
class Progress:
    """The progress of a batch.

    Args:
        total: Cards read so far, without duplicates.
        pending: Cards without a final result.
        produced: Cards that are PRODUCED.
        failed: Cards that ended in PRODUCTION_ERROR or REQUEST_ERROR.
        errors: Cards that ended with a `CardprodError`.
        requests: Requests sent, retries included.
    """

    total: int
    pending: int
    produced: int
    failed: int
    errors: int
    requests: int


class ResultStream(Generic[_T]):
    """A bounded buffer with one reader, and counts of the batch's cards.

    Args:
        on_room: Is called when there is room again.
    """

    def __init__(self, on_room: Callable[[], None]) -> None:
        self._on_room = on_room
        self._results: deque[_T] = deque()
        self._readable = Signal()
        self._is_being_read = False
        self._is_finished = False
        self._broken_by: BaseException | None = None
        self.reserved: int = 0
        """Room reserved for the results of polls in flight."""
        self.total: int = 0
        self.pending: int = 0
        self.produced: int = 0
        self.failed: int = 0
        self.errors: int = 0

    def __iter__(self) -> Iterator[_T]:
        """Iterate the results that were not read yet."""
        return iter(self._results)

    @property
    def has_room(self) -> bool:
        """Whether there is room for one more result, besides those reserved."""
        return len(self._results) + self.reserved < _CAPACITY

    @property
    def room(self) -> int:
        """How many more results fit, reserved ones not counted."""
        return max(0, _CAPACITY - len(self._results))

    @property
    def is_full(self) -> bool:
        """Whether no more results fit, reserved ones not counted."""
        return len(self._results) >= _CAPACITY

    @property
    def is_broken(self) -> bool:
        """Whether it ends with an error."""
        return self._broken_by is not None

    def progress(self, requests: int) -> Progress:
        """Return the counts."""
        return Progress(
            total=self.total,
            pending=self.pending,
            produced=self.produced,
            failed=self.failed,
            errors=self.errors,
            requests=requests,
        )

    def reserve(self) -> None:
        """Reserve room for the result of a poll that starts."""
        self.reserved += 1

    def unreserve(self) -> None:
        """Free the reserved room of a poll that has ended; its result, if any, was added before."""
        had_room = self.has_room
        self.reserved -= 1
        if not had_room:
            self._on_room()

    def add(self, result: _T) -> None:
        """Add a result."""
        if not self._results:  # else its reader does not wait
            self._readable.set()
        self._results.append(result)

    def count_card(self) -> None:
        """Count a card that was read."""
        self.total += 1
        self.pending += 1

    def count_end(self, outcome: ProductionStatus | CardprodError) -> None:
        """Count how a card ended."""
        self.pending -= 1
        if isinstance(outcome, CardprodError):
            self.errors += 1
        elif outcome.is_produced:
            self.produced += 1
        elif outcome.is_final:
            self.failed += 1
        if not self.pending:
            self._readable.set()

    def finish(self) -> None:
        """End after the remaining results, as soon as no card is pending: no more cards will be added."""
        self._is_finished = True
        self._readable.set()

    def break_off(self, error: BaseException) -> None:
        """End with an error, after the remaining results. Only the first error counts."""
        self._broken_by = self._broken_by or error
        self._readable.set()

    def clear(self) -> None:
        """End at once, and drop the remaining results."""
        self._results.clear()
        self.pending = 0
        self.finish()

    async def read(self) -> _T:
        """Wait for the next result, and return it.

        Raises:
            StopAsyncIteration: There are no more results.
            UsageError: Another task is reading.
        """
        if not await self._wait():
            raise StopAsyncIteration
        had_room = self.has_room
        result = self._results.popleft()
        if not had_room:
            self._on_room()
        return result

    async def read_all(self) -> list[_T]:
        """Wait for the next result, and return it with all that are there; an empty list if there are no more.

        Raises:
            UsageError: Another task is reading.
        """
        await self._wait()
        had_room = self.has_room
        results = [*self._results]
        self._results.clear()
        if not had_room:
            self._on_room()
        return results

    async def _wait(self) -> bool:
        """Wait until there is a result. Return False if there are no more."""
        if self._is_being_read:
            raise UsageError(
                "another task iterates this batch already: iterate it in one task, and share what it reads"
            )
        self._is_being_read = True
        try:
            while not self._results:
                if self._broken_by is not None:
                    raise not_an_end(self._broken_by)
                if self._is_finished and not self.pending:
                    return False
                await self._readable.wait_until(None)
        finally:
            self._is_being_read = False
        return True
