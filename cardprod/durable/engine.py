"""`Durable`, the face: submits, reads back, cancels, and works. What is where is `store`'s business.

What a worker does is in `worker`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import attrs

from cardprod._polling.backoff import Backoff
from cardprod._polling.source import check_source, each_card
from cardprod._protocol.validation import (
    check_callable,
    check_count,
    check_number,
    check_seconds,
    check_text,
    check_type,
)
from cardprod.checkpoint import Checkpoint
from cardprod.client import Client
from cardprod.durable import store
from cardprod.durable.database import Database
from cardprod.durable.steps import read_outcome
from cardprod.durable.worker import Worker
from cardprod.errors import UsageError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator
    from types import TracebackType
    from typing import Self

    from cardprod._polling.source import Cards
    from cardprod.durable.store import BatchStatus
    from cardprod.durable.worker import Sink
    from cardprod.errors import CardprodError
    from cardprod.models import Card, ProductionStatus

__all__ = ["Durable"]

_TOKEN_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
"""Too short for a token: Wise's are UUIDs or longer, and one given by mistake must not get into the database."""

_NAME_WORDS: Final = "a token's name, up to 32 of A-Z a-z 0-9 _ -, never the token itself"
_READ_AT_ONCE: Final = 500
_MOST_PER_PART: Final = 1000
_DEFAULT_SCHEDULE: Final = Backoff()
_DAY: Final = 86_400.0


class Durable:
    """Waits that live in PostgreSQL, and that workers on any number of machines take steps of.

    ```python
    async with Durable("postgresql://…") as durable:
        batch_id = await durable.submit(cards, timeout=3600)
    ```

    Entering it makes the tables, or brings them up to date; several may at once. It belongs to the event loop it is
    entered in. It works through PgBouncer in transaction mode, and survives connections that break and a database that
    restarts: workers wait for it, and the other calls raise psycopg's `OperationalError`, with nothing half done.

    Args:
        database: Where PostgreSQL is: "postgresql://user@host/name", or another connection string of libpq's.
        keep: Seconds for which a batch that is over can be read, before its rows are removed.
        heartbeat: Seconds between a worker's signs of life. A worker is given up for dead, and what it was at given to
            others, after three times that.
        most_connections: The most connections to the database.

    Raises:
        UsageError: An argument that cannot be right.
    """

    def __init__(
        self, database: str, *, keep: float = 7 * _DAY, heartbeat: float = 5.0, most_connections: int = 10
    ) -> None:
        check_text("database", database, "a connection string, such as postgresql://user@host/name")
        check_seconds("keep", keep)
        check_number("heartbeat", heartbeat, least=0.1)
        check_count("most_connections", most_connections, least=2)
        self._keep = float(keep)
        self._heartbeat = float(heartbeat)
        self._database = Database(database, most_connections)

    async def __aenter__(self) -> Self:
        await self._database.open()
        try:
            async with self._database.connection() as connection:
                if not await store.is_migrated(connection):
                    await store.migrate(connection)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Twice does no harm."""
        await self._database.close()

    # --- For those who have cards ---

    async def submit(  # noqa: PLR0913 - one for each thing a user may set
        self,
        cards: Cards,
        *,
        token: str = "default",  # noqa: S107 - the name of one
        timeout: float | None = None,  # noqa: ASYNC109 - the waits', not this call's
        schedule: Backoff | None = _DEFAULT_SCHEDULE,
        max_failures: int = 5,
        batch_size: int = 100,
    ) -> str:
        """Hand cards over, to be waited for by workers: all of them, or, if anything is wrong, none.

        Args:
            cards: `Card`s or `(profile_id, card_token)` tuples, from any iterable or async iterable. One that comes
                twice is waited for once.
            token: The name of the token to look with: workers have a client for it. Never the token itself.
            timeout: Seconds to wait for each card, from now; None for as long as it takes.
            schedule: When to look; None for the `AdaptiveSchedule` of each worker's client.
            max_failures: How many looks in a row may fail, each after its own attempts, before a card's wait does.
            batch_size: How many cards are looked at in one job.

        Returns:
            The batch's id, to ask for it by.

        Raises:
            UsageError: An argument, or a card, cannot be right. Nothing is handed over.
        """
        check_source(cards)
        check_text("token", token, _NAME_WORDS, _TOKEN_NAME)
        check_count("batch_size", batch_size, most=_MOST_PER_PART)
        empty = Checkpoint.for_cards((), timeout=timeout, schedule=schedule, max_failures=max_failures)
        batch_id = str(uuid.uuid4())
        taken: set[Card] = set()
        chunk: list[Card] = []

        async with self._database.connection() as connection:
            await store.add_batch(connection, batch_id, token)

            async def add_part() -> None:
                more = Checkpoint.for_cards(chunk, timeout=timeout)
                checkpoint = attrs.evolve(empty, id=more.id, pending=more.pending)
                part_id = await store.add_part(connection, batch_id, checkpoint.to_json(), len(chunk))
                await self._database.defer(connection, part_id, token)
                chunk.clear()

            async for card in each_card(cards):
                if card not in taken:
                    taken.add(card)
                    chunk.append(card)
                if len(chunk) == batch_size:
                    await add_part()
            if chunk:
                await add_part()
            if not taken:
                await store.finish_batch(connection, batch_id)
        return batch_id

    async def status(self, batch_id: str) -> BatchStatus:
        """Say how far a batch is.

        Raises:
            UsageError: There is no such batch, or not any more.
        """
        async with self._database.connection() as connection:
            status = await store.batch_status(connection, _checked_id(batch_id))
        if status is None:
            raise UsageError(f"there is no batch {batch_id}; those that are over are removed after {self._keep:g} s")
        return status

    async def results(self, batch_id: str) -> AsyncIterator[tuple[Card, ProductionStatus | CardprodError]]:
        """Read how the cards of a batch ended, as far as they have, in the order of their ids and tokens.

        Errors are as they were, but for their cause and their checkpoint.

        Raises:
            UsageError: There is no such batch, or not any more.
        """
        await self.status(batch_id)
        after: Card | None = None
        while True:
            async with self._database.connection() as connection:
                some = await store.results(connection, batch_id, after, _READ_AT_ONCE)
            for card, saved in some:
                yield card, read_outcome(card, saved)
                after = card
            if len(some) < _READ_AT_ONCE:
                return

    async def cancel(self, batch_id: str) -> bool:
        """Stop waiting for the cards of a batch. What is known of them stays; nobody is told of them any more.

        A sink that is being given steps at this moment still has them.

        Returns:
            Whether it was still going.

        Raises:
            UsageError: There is no such batch, or not any more.
        """
        await self.status(batch_id)
        async with self._database.connection() as connection:
            return await store.cancel(connection, batch_id)

    # --- For workers ---

    async def work(
        self,
        clients: Mapping[str, Client] | Client,
        on_steps: Sink | None = None,
        *,
        concurrency: int = 4,
        stop: asyncio.Event | None = None,
    ) -> None:
        """Work, until told to stop: sweep what is due, and give a sink what is seen.

        The clients' rate limits are divided among all workers of this database while it works, and after a 429 to one
        of them all pause that use a token of that name. Cancelled, it stops as if it were told to.

        Args:
            clients: For each name of a token a client that has it; or one client, for "default". A worker takes only
                cards whose token it has.
            on_steps: An async function that is given each batch of `Step`s, in their order for each card. It is called
                again if it raises or its worker dies, with the same steps: at least once, so let it look at their keys.
                None to keep results only.
            concurrency: How many jobs are worked at once.
            stop: Set by somebody, looks under way are finished and the rest is given back to others.

        Raises:
            UsageError: An argument cannot be right, or it is not entered.
        """
        self._database.check_open()
        by_name = _checked_clients(clients)
        check_callable("on_steps", on_steps, "an async function of a sequence of Steps")
        check_count("concurrency", concurrency)
        worker = Worker(
            self._database, by_name, on_steps, concurrency=concurrency, heartbeat=self._heartbeat, keep=self._keep
        )
        await worker.run(stop)


def _checked_clients(clients: Mapping[str, Client] | Client) -> dict[str, Client]:
    if isinstance(clients, Client):
        return {"default": clients}
    check_type("clients", clients, Mapping, "a Client, or a mapping of tokens' names to Clients")
    if not clients:
        raise UsageError("clients must be of one token's name at least, not empty")
    for name, client in clients.items():
        check_text("a key of clients", name, _NAME_WORDS, _TOKEN_NAME)
        check_type(f"the client of {name!r}", client, Client)
    return dict(clients)


def _checked_id(batch_id: str) -> str:
    try:
        return str(uuid.UUID(batch_id))
    except (ValueError, AttributeError, TypeError) as exc:
        raise UsageError(f"batch_id must be what submit gave, not {batch_id!r}") from exc
