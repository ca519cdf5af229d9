"""`Durable`, the interface: submits, reads back, cancels, takes events, and works.

What is stored is in `store`, what a worker does in `worker`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from inspect import iscoroutinefunction, signature
from typing import TYPE_CHECKING, Any, Final

from cardprod._http.secrets import drop_frames
from cardprod._polling.backoff import Backoff
from cardprod._polling.card_source import check_source, each_card
from cardprod._protocol.requests import Endpoint
from cardprod._protocol.validation import (
    check_count,
    check_number,
    check_text,
    check_type,
)
from cardprod.checkpoint import Checkpoint, check_after, known_status
from cardprod.client import Client
from cardprod.durable import store
from cardprod.durable.database import Database
from cardprod.durable.intake import Intake
from cardprod.durable.schema import migration_script, prepare
from cardprod.durable.settings import DAY, Settings
from cardprod.durable.store import BatchStatus, queue_name
from cardprod.durable.transitions import read_outcome
from cardprod.durable.worker import Worker
from cardprod.errors import DurableError, UsageError
from cardprod.models import Card, ProductionEvent

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator
    from types import TracebackType
    from typing import Self

    from psycopg import AsyncConnection

    from cardprod._polling.card_source import Cards
    from cardprod.checkpoint import After
    from cardprod.durable.worker import Sink
    from cardprod.errors import CardprodError
    from cardprod.models import ProductionStatus

_TOKEN_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
"""Too short for a token: Wise's are UUIDs or longer, and one given by mistake must not get into the database."""

_NAME_WORDS: Final = "a token's name, up to 32 of A-Z a-z 0-9 _ -, never the token itself"
_ROLE_NAME: Final = re.compile(r"[^\x00]{1,63}")
_SCHEMA_NAME: Final = re.compile(r"(?!pg_)[^\x00-\x1f\x7f\"']{1,63}")
_LONGEST: Final = 1e9
"""Seconds, some 31 years: the database could not subtract a time of thousands of years from the present one."""

_AT_ONCE: Final = 500
"""Rows that are read, or chunks that are planned, in one transaction."""

_MOST_PER_CHUNK: Final = 1000
_DEFAULT_SCHEDULE: Final = Backoff()


class Durable:
    """Waits that live in PostgreSQL, and that workers on any number of machines go on with.

    ```python
    async with Durable("postgresql://…") as durable:
        batch_id = await durable.submit(cards, timeout=3600)
    ```

    The first call makes the tables, in a schema of their own, or brings them up to date; several may at once. A role
    that may not make them uses those that an administrator made: `migration_script` returns what to run. It belongs to
    the event loop it is entered in. It works through PgBouncer in transaction mode, and survives connections that break
    or freeze, a failover, and a database that restarts: workers wait for it, and the other calls raise `DurableError`,
    with nothing half done. Times are the database's.

    Args:
        database: Where PostgreSQL is: "postgresql://user@host/name", or another connection string of libpq's. Over a
            network name `sslmode=verify-full`: libpq's default does not verify the server.
        schema: The schema of the tables.
        owner: The role that owns the tables, if it is not this one, a superuser, or the database's owner. Tables of any
            other role are refused: it could run code as this one.
        keep: Seconds for which a batch that is over can be read, before its rows are removed.
        heartbeat: Seconds between a worker's signs of life. A worker is given up for dead, and what it was at given to
            others, after three times that.
        grace: Seconds that a worker which was asked to stop waits for requests, sinks and the database.
        most_connections: The most connections to the database.

    Raises:
        UsageError: An argument is invalid.
    """

    def __init__(  # noqa: PLR0913 - one for each thing a user may set
        self,
        database: str,
        *,
        schema: str = "cardprod",
        owner: str | None = None,
        keep: float = 7 * DAY,
        heartbeat: float = 5.0,
        grace: float = 10.0,
        most_connections: int = 10,
    ) -> None:
        try:
            check_text("database", database, "a connection string, such as postgresql://user@host/name")
            check_text("schema", schema, "the name of a schema, up to 63 characters", _SCHEMA_NAME)
            if owner is not None:
                check_text("owner", owner, "the name of a role", _ROLE_NAME)
            check_number("keep", keep, least=0, most=_LONGEST)
            check_number("heartbeat", heartbeat, least=0.1, most=_LONGEST)
            check_number("grace", grace, least=0.1, most=_LONGEST)
            check_count("most_connections", most_connections, least=2)
            self.settings: Settings = Settings(
                schema=schema,
                owner=owner,
                keep=float(keep),
                heartbeat=float(heartbeat),
                grace=float(grace),
                most_connections=most_connections,
            )
            """What was chosen, and how often a worker does what; it may be changed until it is entered."""
            self._address = database
            self._renew()
        except UsageError as error:
            drop_frames(error)
            raise
        finally:
            del database  # a password may be in it, and this frame in a traceback

    def _renew(self) -> None:
        self._database = Database(self._address, self.settings, prepare)
        self._intake = Intake(self._database)

    async def __aenter__(self) -> Self:
        self._renew()
        await self._database.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Twice does no harm."""
        await self._database.close()

    def migration_script(self, *, role: str | None = None) -> str:
        """Return the SQL that makes the tables or brings them up to date, for an administrator to run.

        Args:
            role: Grant to this role what workers need.

        Raises:
            UsageError: `role` is invalid.
        """
        if role is not None:
            check_text("role", role, "the name of a role", _ROLE_NAME)
        return migration_script(self.settings, role=role)

    async def migrate(self) -> None:
        """Make the tables or bring them up to date, as the first other call would.

        Raises:
            UsageError: The role may not; the message says what it lacks.
            DurableError: The database cannot be reached.
        """
        await self._database.run(store.time_of)

    # --- For those who have cards ---

    async def submit(  # noqa: PLR0913 - one for each thing a user may set
        self,
        cards: Cards,
        *,
        token: str = "default",  # noqa: S107 - the name of one
        base_url: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the waits', not this call's
        schedule: Backoff | None = _DEFAULT_SCHEDULE,
        max_failures: int = 5,
        max_outage: float = 300.0,
        after: After | None = None,
        batch_size: int = 100,
    ) -> str:
        """Store cards, to be waited for by workers: all of them, or, if anything is wrong, none.

        The source may take its time: no transaction is open while it does.

        Args:
            cards: `Card`s or `(profile_id, card_token)` tuples, from any iterable or async iterable. One that comes
                twice is waited for once.
            token: The name of the token to poll with: workers have a client for it. Never the token itself.
            base_url: The API that the cards are of, such as `SANDBOX`: only workers whose client asks it take them.
                None for any worker, which is right where all workers of the database ask the same API.
            timeout: Seconds to wait for each card, from when it is read; None for no limit.
            schedule: When to poll; None for the `AdaptiveSchedule` of each worker's client.
            max_failures: How many polls in a row may fail, each after its own attempts, before a card's wait does.
            max_outage: Once the wait has had an answer, the first of these must also be so many seconds ago.
            after: Statuses that are known already, by card, as for `Client.wait_until_all_final`; an invalid one is an
                error of the call.
            batch_size: How many cards are swept in one job.

        Returns:
            The batch's id.

        Raises:
            UsageError: An argument, or a card, is invalid, or the role lacks a grant. Nothing is stored.
            DurableError: The database failed. Nothing is stored, or nothing that anybody sees.
        """
        check_source(cards)
        check_text("token", token, _NAME_WORDS, _TOKEN_NAME)
        if base_url is not None:
            Endpoint(base_url, allow_plain_http=True)
            base_url = base_url.rstrip("/")
        check_count("batch_size", batch_size, most=_MOST_PER_CHUNK)
        options: dict[str, Any] = {
            "timeout": timeout,
            "schedule": schedule,
            "max_failures": max_failures,
            "max_outage": max_outage,
        }
        Checkpoint.for_cards((), **options)
        known = check_after(after)
        batch_id = str(uuid.uuid4())
        taken: set[Card] = set()
        chunk: list[Card] = []
        chunk_ids: list[int] = []

        async def add_chunk(connection: AsyncConnection[Any]) -> int:
            now = datetime.fromtimestamp(await store.time_of(connection), UTC)
            known_here = {card: status for card in chunk if (status := known_status(card, known)) is not None}
            checkpoint = Checkpoint.for_cards(chunk, after=known_here, now=now, **options)
            return await store.add_chunk(connection, batch_id, checkpoint)

        names = {"token_name": token, "token": queue_name(token, base_url), "base_url": base_url}
        await self._database.fetch("add_batch", id=batch_id, **names)
        try:
            async for card in each_card(cards):
                if card not in taken:
                    taken.add(card)
                    chunk.append(card)
                if len(chunk) == batch_size:
                    chunk_ids.append(await self._database.run(add_chunk))
                    chunk.clear()
            if chunk:
                chunk_ids.append(await self._database.run(add_chunk))
            await self._database.fetch("complete_batch", id=batch_id, is_empty=not taken)
        except BaseException:
            with suppress(DurableError):  # what is left of a batch that is not complete is cleared up a day later
                await self._database.fetch("drop_batch", id=batch_id)
                # It may be complete: if the connection broke, nobody knows whether that was written.
                await self._database.run(partial(store.cancel, batch_id=batch_id))
            raise
        with suppress(DurableError):  # recovery plans what is not planned here
            for first in range(0, len(chunk_ids), _AT_ONCE):
                times = dict.fromkeys(chunk_ids[first : first + _AT_ONCE])
                await self._database.run(partial(store.plan, statement="plan_sweeps", times=times))
        return batch_id

    async def notify(self, event: ProductionEvent) -> int:
        """Apply a webhook event to all stored waits for its card, in whichever process the delivery reached.

        It is one transaction, with other events that come at the same time; workers deliver what it brought. An event
        that comes twice, late or out of order changes nothing, nor does one for a card that is not waited for. While
        events come, polls thin out.

        Args:
            event: What `cardprod.webhooks.Verifier.parse` returned for a delivery.

        Returns:
            How many waits for the card there are.

        Raises:
            UsageError: It is no `ProductionEvent`, or the role lacks a grant.
            DurableError: The database failed: answer the delivery with 503, so that Wise sends it again.
        """
        check_type("event", event, ProductionEvent, "what Verifier.parse gives")
        self._database.check_open()
        return await self._intake.apply(event)

    async def status(self, batch_id: str) -> BatchStatus:
        """Return how far a batch is.

        Raises:
            UsageError: There is no such batch, or not any more.
            DurableError: The database failed.
        """
        lifetime = self.settings.lifetime
        rows = await self._database.fetch("batch_status", id=_checked_id(batch_id), lifetime=lifetime)
        if not rows:
            schema, days = self.settings.schema, f"{self.settings.keep / DAY:.3g} days"
            raise UsageError(
                f"there is no batch {batch_id} in the schema {schema}: check both; ended ones are removed after {days}"
            )
        return BatchStatus(**rows[0])

    async def results(self, batch_id: str) -> AsyncIterator[tuple[Card, ProductionStatus | CardprodError]]:
        """Read how the cards of a batch ended, as far as they have, in the order of their ids and tokens.

        Errors are as they were, but for their cause.

        Raises:
            UsageError: There is no such batch, or not any more.
            DurableError: The database failed.
        """
        await self.status(batch_id)
        after = 0, ""
        while True:
            profile_id, card_token = after
            rows = await self._database.fetch(
                "results", id=batch_id, profile_id=profile_id, card_token=card_token, most=_AT_ONCE
            )
            for row in rows:
                after = row["profile_id"], row["card_token"]
                card = Card(*after)
                yield card, read_outcome(card, row["outcome"])
            if len(rows) < _AT_ONCE:
                return

    async def cancel(self, batch_id: str) -> bool:
        """Stop waiting for the cards of a batch. What is known of them stays; nothing is delivered any more.

        A sink that is being given transitions at this moment still has them.

        Returns:
            Whether it was under way.

        Raises:
            UsageError: There is no such batch, or not any more.
            DurableError: The database failed.
        """
        await self.status(batch_id)
        return await self._database.run(partial(store.cancel, batch_id=batch_id))

    # --- For workers ---

    async def work(
        self,
        clients: Mapping[str, Client] | Client,
        on_steps: Sink | None = None,
        *,
        concurrency: int = 4,
        stop: asyncio.Event | None = None,
    ) -> None:
        """Work until it is stopped: sweep what is due, and deliver transitions to a sink.

        The clients' rate limits are divided among all workers of this database while it works, and after a 429 to one
        of them all pause that use a token of that name. A token that is refused ends no wait: its chunks are left to
        workers with a good one, and their deadlines still hold. Cancelled, it stops as if `stop` were set. It waits for
        a database that is not there yet.

        Args:
            clients: For each name of a token a client that has it; or one client, for "default". A worker takes only
                cards whose token it has. Names that differ only in case, or in `-` and `_`, are the same.
            on_steps: An async function that is given `Step`s, in their order for each card. They are delivered at least
                once: again, with the same keys, if it raises or its worker dies. None to keep results only.
            concurrency: How many chunks are swept at once, and how many deliveries are under way.
            stop: Set it to stop: requests in flight finish, `grace` seconds are left to the sink, and the rest is left
                to others.

        Raises:
            UsageError: An argument is invalid, it is not entered, or the role lacks a grant.
            DurableError: The database is there and does not do what it should.
        """
        self._database.check_open()
        by_name = _checked_clients(clients)
        if not (on_steps is None or is_sink(on_steps)):
            raise UsageError(f"on_steps must be an async function of one argument, the steps; not {on_steps!r}")
        check_count("concurrency", concurrency)
        worker = Worker(self._database, self.settings, by_name, on_steps, concurrency=concurrency)
        await worker.run(stop)


def _checked_clients(clients: Mapping[str, Client] | Client) -> dict[str, Client]:
    if isinstance(clients, Client):
        return {"default": clients}
    check_type("clients", clients, Mapping, "a Client, or a mapping of tokens' names to Clients")
    if not clients:
        raise UsageError("clients must be of one token's name at least, not empty")
    tokens: set[str] = set()
    for name, client in clients.items():
        check_text("a key of clients", name, _NAME_WORDS, _TOKEN_NAME)
        check_type(f"the client of {name!r}", client, Client)
        if queue_name(name) in tokens:
            raise UsageError(
                f"two keys of clients are the same token's name, {name!r}: they must differ in more than case, - and _"
            )
        tokens.add(queue_name(name))
    return dict(clients)


def is_sink(on_steps: object) -> bool:
    """Return whether something is an async function, or called as one, that takes one argument."""
    if not any(map(iscoroutinefunction, (on_steps, getattr(type(on_steps), "__call__", None)))):  # noqa: B004 - what it is
        return False
    with suppress(ValueError):  # it has no signature to read
        try:
            signature(on_steps).bind(())  # type: ignore[arg-type]
        except TypeError:
            return False
    return True


def _checked_id(batch_id: str) -> str:
    try:
        return str(uuid.UUID(batch_id))
    except (ValueError, AttributeError, TypeError) as exc:
        raise UsageError(f"batch_id must be what submit gave, not {batch_id!r}") from exc
