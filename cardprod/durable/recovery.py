"""`Recovery`: what dead workers left is given to others, deadlines are kept, and old rows are cleared up.

Every worker runs it, and several at once do no harm. Clearing up is a loop of its own: however much there is of it, it
holds up nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from functools import partial
from random import uniform
from typing import TYPE_CHECKING, Final

from cardprod.durable import store
from cardprod.durable.database import is_away
from cardprod.errors import DurableError
from cardprod.telemetry import warn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from collections.abc import Set as AbstractSet

    from procrastinate.jobs import Job

    from cardprod.durable.database import Database
    from cardprod.durable.settings import Settings

_MOST: Final = 200
"""Chunks that are recovered in one transaction."""

_SHOWN: Final = 3
_MOST_ROWS: Final = 500
"""Rows that are removed in one transaction."""


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
        for lost, plan, what in (
            ("chunks_without_sweep", "plan_sweeps", "polled"),
            ("chunks_without_delivery", "plan_deliveries", "delivered"),
        ):
            rows = await self._database.fetch(lost, slack=2 * settings.recover, most=_MOST)
            times = dict.fromkeys(row["id"] for row in rows)
            await self._database.run(partial(store.plan, statement=plan, times=times))
            if rows:
                batches = sorted({row["batch_id"] for row in rows})
                shown = ", ".join(batches[:_SHOWN]) + (", …" if len(batches) > _SHOWN else "")
                message = "cards that a worker left behind are %s from here on (jobs: %d; batch: %s)"
                warn(message, what, len(rows), shown)
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
        while batches := await self._database.fetch("old_batch", keep=self._settings.keep):
            batch_id = batches[0]["id"]
            await self._drop("drop_old_cards", id=batch_id)
            await self._drop("drop_old_chunks", id=batch_id)
            await self._database.fetch("drop_old_batch", id=batch_id)

    async def _drop(self, statement: str, **values: object) -> None:
        """Run a statement until it finds no more rows."""
        while len(await self._database.fetch(statement, most=_MOST_ROWS, **values)) == _MOST_ROWS:
            pass
