"""Durable waits as one more interface: the real store in PostgreSQL and the real worker's sweeps, in virtual time.

Virtual time must stand still while PostgreSQL, which goes by real time, is asked. So each transaction runs in the event
loop of a thread, for whose end the test's own loop waits without running anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest

from cardprod import CardprodError, checkpoint
from cardprod.durable import Durable, api, store
from cardprod.durable.database import Database, fetch
from cardprod.durable.schema import prepare
from cardprod.durable.worker import Worker
from tests.waiting import LIMIT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence

    from cardprod import Backoff, Card, Client, ProductionStatus, Transition
    from cardprod.durable import Step

__all__ = ["follow_durably", "virtual_time_for_databases"]

_T = TypeVar("_T")
_MOST_SWEEPS: Final = 2000
_tokens = itertools.count()


class _Thread:
    """An event loop in a thread, which ends with the process."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run something there, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT)


class _StandingDatabase(Database):
    """A database for whose answers virtual time stands still, and whose clock is virtual time's."""

    _thread = _Thread()
    now = 0.0

    async def open(self) -> None:
        """Begin to connect."""
        self._thread.run(super().open())

    async def close(self) -> None:
        """Disconnect."""
        self._thread.run(super().close())

    async def run(self, work: Callable[[Any], Awaitable[_T]]) -> _T:
        """Do something in one transaction."""
        type(self).now = checkpoint.wall_clock()
        return self._thread.run(super().run(work))


async def _virtual_time(connection: object) -> float:
    del connection
    return _StandingDatabase.now


@contextlib.contextmanager
def virtual_time_for_databases() -> Generator[None]:
    """Let durable waits go by virtual time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "Database", _StandingDatabase)
        patch.setattr(store, "time_of", _virtual_time)
        yield


async def follow_durably(
    address: str,
    client: Client,
    card: Card,
    write: Callable[[Transition | CardprodError], None],
    *,
    after: ProductionStatus | None,
    **options: float | Backoff,
) -> None:
    """Submit a card, and sweep and deliver it as a worker does, when it is due."""
    token = f"token-{next(_tokens)}"

    async def on_steps(steps: Sequence[Step]) -> None:
        for step in steps:
            write(step.what)

    async with Durable(address) as durable:
        known = None if after is None else {card: after}
        batch_id = await durable.submit([card], token=token, after=known, **options)  # type: ignore[arg-type]
        database = _StandingDatabase(address, durable.settings, prepare)
        await database.open()
        worker = Worker(database, durable.settings, {store.queue_name(token): client}, on_steps, concurrency=1)
        try:
            for _ in range(_MOST_SWEEPS):
                due_at = await database.run(lambda connection: _due_at(connection, batch_id))
                if due_at is None:
                    return
                chunk_id, at = due_at
                await asyncio.sleep(at - checkpoint.wall_clock())
                await worker.sweep(chunk_id=chunk_id)
                await worker.deliver(chunk_id=chunk_id)
        finally:
            await durable.cancel(batch_id)
            await database.close()


async def _due_at(connection: Any, batch_id: str) -> tuple[int, float] | None:
    """Return the batch's chunk and when it is due; None once it is over. Pauses go by the client, in virtual time."""
    await connection.execute("DELETE FROM tokens")
    batch = await fetch(connection, "batch_status", id=batch_id, lifetime=1)
    if batch[0]["finished_at"] is not None:
        return None
    cursor = await connection.execute(
        "SELECT id, CASE WHEN version = 0 THEN 0 ELSE extract(epoch FROM due_at) END::float8 FROM chunks "
        "WHERE batch_id = %s",
        [batch_id],
    )
    due: tuple[int, float] = await cursor.fetchone()
    return due
