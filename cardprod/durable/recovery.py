"""`Recovery`: what dead workers left is given to others, deadlines are kept, and old rows are cleared up.

Every worker runs it, and several at once do no harm. Clearing up is a loop of its own: however much there is of it, it
holds up nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from functools import partial
from random import uniform
from typing import TYPE_CHECKING, Any, Final

from psycopg.errors import QueryCanceled

from cardprod.durable import store
from cardprod.durable.database import STATEMENTS, is_away
from cardprod.errors import DurableError
from cardprod.telemetry import warn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from collections.abc import Set as AbstractSet

    from procrastinate.jobs import Job
    from psycopg import AsyncConnection

    from cardprod.durable.database import Database
    from cardprod.durable.settings import Settings

__all__ = ["Recovery", "repeat"]

_MOST: Final = 200
"""Chunks that are recovered in one transaction."""

_MOST_ROWS: Final = 2000
_FEWEST_ROWS: Final = 10


async def repeat(database: Database, work: Callable[[], Awaitable[None]], seconds: float, words: str) -> None:
    """Do something every so many seconds, until it is cancelled; soon again, with these words, after an outage."""
    while True:
        delay = seconds
        try:
            await work()
        except DurableError as error:
            if not is_away(error):
                raise
            database.warn(error, words)
            delay = min(seconds, 1.0)
        await asyncio.sleep(delay * uniform(0.75, 1.25))  # noqa: S311 - so that workers do it at different times


class Recovery:
    """What a worker does for all of them. It reads which tokens were refused to its own."""

    def __init__(self, database: Database, settings: Settings, refused: AbstractSet[str]) -> None:
        self._database = database
        self._settings = settings
        self._refused = refused
        self._jobs: set[int] = set()  # of this worker's, those under way
        self._workers: set[int] = set()  # as whom procrastinate knows this worker
        self._orphans: set[int] = set()  # jobs that were this worker's, and not under way, at the last search
        self._waiting: set[tuple[str, str]] = set()  # tokens that no worker had at the last search
        self._rows = _MOST_ROWS  # that are removed in one transaction

    @contextmanager
    def under_way(self, job: Job) -> Generator[None]:
        """Count a job of this worker as under way for as long as the block lasts."""
        assert job.id is not None, "it was read from a row"  # noqa: S101 - for the type checker
        assert job.worker_id is not None, "it was given to a worker"  # noqa: S101 - as above
        self._workers.add(job.worker_id)
        self._jobs.add(job.id)
        try:
            yield
        finally:
            self._jobs.discard(job.id)

    async def recover(self) -> None:
        """Give others what dead workers left, and end waits whose deadline was missed."""
        settings = self._settings
        # The jobs of this worker that it does not have: the database went away as it gave them out, or took them back.
        # One that was just given out, or has just ended, is not found twice in a row.
        rows = await self._database.fetch("jobs_of_workers", workers=[*self._workers])
        orphans = {row["id"] for row in rows} - self._jobs
        await self._database.fetch("delete_jobs", ids=[*(orphans & self._orphans)])
        self._orphans = orphans - self._orphans
        await self._database.fetch("delete_stalled_jobs", heartbeat=settings.lifetime, longest=settings.longest)
        for lost, plan in (
            ("chunks_without_sweep", "plan_sweeps"),
            ("chunks_without_delivery", "plan_deliveries"),
        ):
            ids = [row["id"] for row in await self._database.fetch(lost, slack=2 * settings.recover, most=_MOST)]
            await self._database.run(partial(store.plan, statement=plan, times=dict.fromkeys(ids)))
            if ids:
                what = "polled" if plan == "plan_sweeps" else "delivered"
                warn("cards that a worker left behind are %s from here on (jobs: %d)", what, len(ids))
        await self.expire()
        rows = await self._database.fetch("tokens_without_worker", lifetime=settings.lifetime)
        waiting = {(row["token_name"], row["base_url"] or "any API") for row in rows}
        for token, base_url in sorted(waiting - self._waiting):
            warn("cards wait for the token %r for %s, which no worker has", token, base_url)
        self._waiting = waiting

    async def expire(self) -> None:
        """End waits whose deadline was missed: at once those of a token that is refused, others after a while."""
        overdue = await self._database.fetch(
            "overdue_chunks", refused=sorted(self._refused), slack=self._settings.overdue, most=_MOST
        )
        for row in overdue:
            await self._database.run(partial(store.expire_chunk, chunk_id=row["id"]))

    async def clear_up(self) -> None:
        """Remove what is old, some rows at a time."""
        await self._database.fetch("drop_old_workers")
        await self._drop("drop_old_events")
        while True:
            batch = await self._database.fetch_one("old_batch", keep=self._settings.keep)
            if batch is None:
                return
            for statement in ("drop_old_cards", "drop_old_transitions", "drop_old_chunks"):
                await self._drop(statement, id=batch["id"])
            await self._database.fetch("drop_old_batch", id=batch["id"])

    async def _drop(self, statement: str, **values: object) -> None:
        """Run a statement until it finds no more rows, of fewer at a time if that takes the database too long."""
        while True:

            async def drop(connection: AsyncConnection[Any]) -> int:
                cursor = connection.cursor()
                await cursor.execute(STATEMENTS[statement], {**values, "most": self._rows})
                return cursor.rowcount

            try:
                if await self._database.run(drop) < self._rows:
                    return
            except DurableError as error:
                if not isinstance(error.__cause__, QueryCanceled) or self._rows <= _FEWEST_ROWS:
                    raise
                self._rows = max(_FEWEST_ROWS, self._rows // 4)
            await asyncio.sleep(0)
