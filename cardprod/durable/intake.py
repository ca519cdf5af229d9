"""`Intake`: applies webhook events, those that came during a transaction together in the next one.

What an event costs is mostly its chunk, read and written: of a hundred that wait, those of one chunk cost little more
than one.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from cardprod.durable import store
from cardprod.errors import CardprodError, DurableError, copy_of

if TYPE_CHECKING:
    from cardprod.durable.database import Database
    from cardprod.models import ProductionEvent

_Entry: TypeAlias = "tuple[ProductionEvent, asyncio.Future[int]]"

_MOST: Final = 50
"""Events that are applied in one transaction, at most: it locks their chunks, and workers wait."""


class Intake:
    """Applies events, in the order they come."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[_Entry] = []
        self._task: asyncio.Task[None] | None = None

    async def apply(self, event: ProductionEvent) -> int:
        """Apply an event, and return how many waits for its card there are.

        Raises:
            UsageError, DurableError: As `Database.run`.
        """
        if event.card is None or event.is_test:
            return 0
        applied: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((event, applied))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._apply_all())
        return await applied

    async def _apply_all(self) -> None:
        while self._waiting:
            now, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            try:
                counts = await self._database.run(partial(store.apply_events, events=[event for event, _ in now]))
                for (_, applied), count in zip(now, counts, strict=True):
                    if not applied.done():
                        applied.set_result(count)
            except CardprodError as error:
                _fail(now, error)
            except BaseException as exc:  # this task was cancelled, or there is a fault in this package
                failure = DurableError("the event was not applied, because its task was ended: try again")
                failure.__cause__ = exc
                _fail(now + self._waiting, failure)
                self._waiting = []
                raise


def _fail(entries: list[_Entry], error: CardprodError) -> None:
    for _, applied in entries:
        if not applied.done():
            applied.set_exception(copy_of(error))
