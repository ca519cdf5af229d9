"""`Database`: the pool of connections, and procrastinate's app on it. What is written there is `store`'s business."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from cardprod.errors import TransportError, UsageError
from cardprod.models import one_line

try:
    import procrastinate
    import psycopg
    import psycopg_pool
    from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
    from psycopg.conninfo import conninfo_to_dict
except ImportError as _missing:  # pragma: no cover - the tests have the extra
    raise ImportError("cardprod.durable needs the extra durable: pip install 'cardprod[durable]'") from _missing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from datetime import datetime

    from psycopg import AsyncConnection
    from psycopg_pool import AsyncConnectionPool

__all__ = ["SWEEP", "TROUBLE", "Database", "is_away", "queue_of"]

_SHOWN: Final = 300

SWEEP: Final = "cardprod.sweep"
"""The task that goes on with a part."""

TROUBLE: Final = (psycopg.OperationalError, psycopg.InterfaceError, psycopg_pool.PoolTimeout, ConnectorException)
"""What is raised while the database is away, and sometimes else: see `is_away`."""


def is_away(error: BaseException) -> bool:
    """Whether an error means that the database is away, and trying again later makes sense."""
    if type(error) is ConnectorException:  # procrastinate's name for anything of psycopg's
        return isinstance(error.__cause__, TROUBLE)
    return isinstance(error, TROUBLE) and not isinstance(error, ConnectorException)


def queue_of(token_name: str) -> str:
    """Say which queue the parts of a token wait in: a worker takes only those it has a client for."""
    return f"cardprod-{token_name}"


class Database:
    """One PostgreSQL database.

    Args:
        database: A connection string of libpq's.
        most_connections: The most connections.
    """

    def __init__(self, database: str, most_connections: int) -> None:
        self._address = database
        # Unprepared, because behind PgBouncer the next statement may reach another session. procrastinate has pooled
        # connections checked before they are used, so that one that the database has closed is replaced.
        self.connector: procrastinate.PsycopgConnector = procrastinate.PsycopgConnector(
            conninfo=database,
            kwargs={"prepare_threshold": None},
            min_size=1,
            max_size=most_connections,
            timeout=10.0,
        )
        self._app = procrastinate.App(connector=self.connector)
        self._is_open = False

    async def open(self) -> None:
        """Connect.

        Raises:
            UsageError: It is no database's address.
            TransportError: The database cannot be reached.
        """
        # The pool would try for half a minute and say nothing of why.
        password: object = None
        try:
            password = conninfo_to_dict(self._address).get("password")
            connection = await psycopg.AsyncConnection.connect(self._address)
            await connection.close()
        except psycopg.ProgrammingError:
            # Its words quote the string, and so perhaps the password.
            message = "database is no connection string of libpq's, such as postgresql://user@host/name"
            raise UsageError(message) from None
        except psycopg.OperationalError as exc:
            words = one_line(str(exc), _SHOWN)
            if password:
                words = words.replace(str(password), "[secret]")
            raise TransportError(f"the database cannot be reached ({words}): check the address") from None
        await self.connector.open_async()
        self._is_open = True

    async def close(self) -> None:
        """Disconnect. Twice does no harm."""
        self._is_open = False
        await self.connector.close_async()

    def check_open(self) -> None:
        """Make sure that it is open.

        Raises:
            UsageError: It is not.
        """
        if not self._is_open:
            raise UsageError("use it inside its `async with` block")

    def new_app(self) -> procrastinate.App:
        """Make an app of procrastinate's, for a worker to have its own tasks on."""
        return procrastinate.App(connector=self.connector)

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[AsyncConnection]:
        """Lend a connection: one transaction, committed at the end of the block."""
        self.check_open()
        pool: AsyncConnectionPool[Any] = self.connector.pool
        async with pool.connection() as connection:
            yield connection

    async def defer(
        self, connection: AsyncConnection, part_id: int, token_name: str, at: datetime | None = None, attempts: int = 0
    ) -> None:
        """Let some worker go on with a part, from a time on, or at once. Where that is planned already, let it be.

        Args:
            connection: The transaction it is to be part of.
            part_id: The part.
            token_name: The name of its token.
            at: Not before then.
            attempts: How often it went wrong since it last went well.
        """
        deferrer = self._app.configure_task(
            SWEEP,
            queue=queue_of(token_name),
            queueing_lock=f"cardprod:{part_id}",
            schedule_at=at,
            connection=connection,
        )
        with suppress(AlreadyEnqueued):
            async with connection.transaction():
                await deferrer.defer_async(part_id=part_id, attempts=attempts)
