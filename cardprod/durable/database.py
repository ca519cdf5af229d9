"""`Database`: connections to one PostgreSQL, each call with a time limit, and what its errors mean.

Whatever a database, a role or a service in between sets, each transaction sets again for itself: `search_path`, so that
nothing of ours is looked up in a schema of others; the formats that psycopg reads; and the time limit. No statement
relies on a session, so all of it works through PgBouncer in transaction mode.
"""

from __future__ import annotations

import asyncio
import math
import re
import shlex
import socket
from contextlib import asynccontextmanager, suppress
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cardprod._extras import needs_extra
from cardprod._http.secrets import drop_frames
from cardprod.errors import CardprodError, DurableError, UsageError
from cardprod.models import one_line
from cardprod.telemetry import warn

try:
    import procrastinate
    import psycopg
    import psycopg_pool
    from procrastinate.exceptions import ProcrastinateException
    from psycopg import sql
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
    from psycopg.rows import dict_row
except ImportError as _missing:  # pragma: no cover - the tests have the extra
    raise ImportError(needs_extra("cardprod.durable", "durable")) from _missing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from psycopg import AsyncConnection

    from cardprod.durable.settings import Settings

_T = TypeVar("_T")

_SHOWN: Final = 300
_SAID_AGAIN: Final = 60.0
_ASKED_AGAIN: Final = 15.0
"""Seconds after which an outage is logged again, and a login that was refused is tried again."""

_QUICK: Final = 2
"""Seconds to find out why no connection can be made."""

_WITH_TRANSACTION_TIMEOUT: Final = 170_000
"""The first version of PostgreSQL that has this setting."""

_AWAY: Final = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.InternalError,  # read-only after a failover, a transaction that was ended by a time limit
    psycopg_pool.PoolTimeout,
    psycopg_pool.TooManyRequests,
)
_REFUSED_LOGIN: Final = re.compile(
    r"(?i)authentication failed|no password supplied|no pg_hba\.conf entry|pg_hba\.conf rejects"
    r"|(?:role|database) \".*\" does not exist|no such (?:user|database)|not permitted to log in"
)
"""In words, as psycopg has no SQLSTATE of a connection that could not be made. What may pass, such as a server that is
starting or has too many clients, is not among them."""
FOREIGN: Final = (psycopg.Error, ProcrastinateException)
"""What psycopg, its pool and procrastinate raise."""


def sql_file(name: str) -> str:
    """Return the text of a file in `sql`."""
    return (resources.files("cardprod.durable") / "sql" / name).read_text("utf-8")


_PARTS: Final = re.split(r"^-- name: (\w+)\n", sql_file("statements.sql"), flags=re.MULTILINE)
_STATEMENTS: Final = {name: text.strip().encode() for name, text in zip(_PARTS[1::2], _PARTS[2::2], strict=True)}
"""Each statement of `sql/statements.sql`, by its name."""


def is_away(error: BaseException) -> bool:
    """Whether an error means that the database is not there or not ready, so that trying again later makes sense."""
    if isinstance(error, ProcrastinateException | DurableError):
        return error.__cause__ is not None and is_away(error.__cause__)
    return isinstance(error, _AWAY)


def lacks(role: str, settings: Settings, grants: str) -> UsageError:
    """Return the error of a role that lacks something, with the command that helps before what may be a long list."""
    schema = "" if settings.schema == "cardprod" else f" --schema {shlex.quote(settings.schema)}"
    return UsageError(
        f"the role {role} may not do this: have the database's owner or a superuser run, with psql, what "
        f"`cardprod migrate --sql --role {shlex.quote(role)}{schema}` prints; it lacks {grants}"
    )


def translate(error: BaseException, *, is_new: bool = False) -> CardprodError:
    """Return our error for one of psycopg's or procrastinate's.

    A login that the database refuses is a mistake of the caller's if nothing was done there yet (`is_new`).
    """
    cause = error.__cause__ if isinstance(error, ProcrastinateException) and error.__cause__ is not None else error
    drop_frames(cause)  # those of psycopg hold the connection string, with its password
    words = one_line(str(cause), _SHOWN) or type(cause).__name__
    if _REFUSED_LOGIN.search(words):
        message = (
            f"the database refuses this login ({words}): check the connection string's user, password and database"
        )
        found: CardprodError = UsageError(message) if is_new else DurableError(message)
    elif is_away(cause):
        found = DurableError(f"the database cannot be reached ({words}): check its address, or try again later")
    else:
        found = DurableError(
            f"the database does not do what it should ({words}): try again later, or have its log read"
        )
    found.__cause__ = cause
    return found


def _close_socket(connection: AsyncConnection[Any]) -> None:
    """End whatever waits for a connection, without waiting for the other side."""
    with (
        suppress(OSError, psycopg.Error),
        socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as one,
    ):
        one.shutdown(socket.SHUT_RDWR)


@cache
def _setup(settings: Settings, version: int) -> bytes:
    """Return what each transaction begins with, in one message: a time limit of the database's may be short."""
    # Set to another time than none, it would go on with the one that it began with.
    more = "; SET LOCAL transaction_timeout TO 0" if version >= _WITH_TRANSACTION_TIMEOUT else ""
    setup = sql.SQL(
        "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL search_path TO {schema}, pg_temp; "
        "SET LOCAL DateStyle TO ISO; SET LOCAL TimeZone TO UTC; SET LOCAL extra_float_digits TO 1; "
        "SET LOCAL statement_timeout TO {limit}; SET LOCAL lock_timeout TO {limit}; "
        "SET LOCAL idle_in_transaction_session_timeout TO {limit}"
    ).format(schema=sql.Identifier(settings.schema), limit=sql.Literal(round(settings.call * 1000)))
    return (setup.as_string() + more).encode()


async def fetch(connection: AsyncConnection[Any], name: str, **values: object) -> list[dict[str, Any]]:
    """Run a statement of `sql/statements.sql`, and return its rows; none, if it returns none."""
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(_STATEMENTS[name], values or None)
    return [] if cursor.description is None else await cursor.fetchall()


async def fetch_one(connection: AsyncConnection[Any], name: str, **values: object) -> dict[str, Any] | None:
    """Run a statement, and return its first row; None if there is none."""
    rows = await fetch(connection, name, **values)
    return rows[0] if rows else None


class _Pool(psycopg_pool.AsyncConnectionPool["AsyncConnection[Any]"]):
    """A pool whose transactions set what they rely on, and end after a time limit, whatever they wait for.

    A connection that did not answer in time is dropped, with all that were made before: they lead where it led.
    """

    def __init__(self, settings: Settings, **options: Any) -> None:  # noqa: ANN401
        self._settings = settings
        self.refused: str = ""
        """Why the database refused the last login, if it did: it is not asked again before `asks_again_at`."""
        self.asks_again_at: float = -math.inf
        super().__init__(**options)

    @asynccontextmanager
    async def connection(self, timeout: float | None = None) -> AsyncGenerator[AsyncConnection[Any]]:  # noqa: ASYNC109
        """Lend a connection: one transaction, committed at the end of the block."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        cancellations = 0 if task is None else task.cancelling()
        while True:
            if loop.time() < self.asks_again_at:
                raise psycopg_pool.PoolTimeout(self.refused)
            connection = await self.getconn(timeout)
            timer = loop.call_later(self._settings.call, _close_socket, connection)
            try:
                async with connection:
                    try:
                        await connection.execute(_setup(self._settings, connection.info.server_version))
                    except _AWAY:
                        if connection.closed:  # since it was used last, perhaps long ago
                            continue
                        raise
                    yield connection
            except psycopg.errors.ReadOnlySqlTransaction:
                await connection.close()  # another server may be the one to write to now
                raise
            else:
                return
            finally:
                timer.cancel()
                if loop.time() >= timer.when():
                    seconds = self._settings.call
                    warn("the database did not answer for %g s; the connection is dropped", seconds)
                    try:
                        await self.drain()
                    except asyncio.CancelledError:
                        await self.putconn(connection)
                        raise
                await self.putconn(connection)
                if task is not None and task.cancelling() > cancellations:
                    # Python 3.11's `wait_for`, by which psycopg waits, loses one that comes just with an answer.
                    raise asyncio.CancelledError


class Database:
    """One PostgreSQL database: `UsageError` if its address is no connection string of libpq's.

    `prepare` is called with the first connection, before anything else: it makes the tables, or checks them.
    """

    def __init__(
        self, address: str, settings: Settings, prepare: Callable[[AsyncConnection[Any], Settings], Awaitable[None]]
    ) -> None:
        self._address = address
        del address  # a password may be in it, and this frame in a traceback
        parts = None
        with suppress(psycopg.ProgrammingError):  # whose words quote the string
            parts = conninfo_to_dict(self._address)
        if parts is None:
            raise UsageError(
                "database is no connection string of libpq's: pass one such as postgresql://user@host/name"
            )
        # In a database of encoding SQL_ASCII, psycopg would give bytes for text.
        self._address = make_conninfo(
            self._address,
            client_encoding="utf8",
            connect_timeout=parts.get("connect_timeout") or max(2, round(settings.call / 2)),
        )
        self._settings = settings
        self._prepare = prepare
        self._preparing = asyncio.Lock()
        self._prepared = asyncio.Event()
        self._pool: _Pool | None = None
        self._said_at: float | None = None  # when an outage that is not over was logged last
        self._connector = procrastinate.PsycopgConnector()

    async def open(self) -> None:
        """Begin to connect; what needs a connection waits for it."""
        self._pool = _Pool(
            self._settings,
            conninfo=self._address,
            # Unprepared, because behind PgBouncer the next statement may reach another session.
            kwargs={"prepare_threshold": None, "autocommit": True},
            min_size=0,
            max_size=self._settings.most_connections,
            timeout=self._settings.call,
            reconnect_timeout=self._settings.call / 2,  # each call tries anew, and not after a growing delay
            open=False,
        )
        await self._pool.open()
        await self._connector.open_async(self._pool)

    async def close(self) -> None:
        """Disconnect. Twice does no harm."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close(timeout=1.0)

    def check_open(self) -> _Pool:
        """Return its connections: `UsageError` if it is not open."""
        if self._pool is None:
            raise UsageError("this Durable is not open: use it inside its `async with` block")
        return self._pool

    def new_app(self) -> procrastinate.App:
        """Make an app of procrastinate's, for a worker to have its own tasks on."""
        return procrastinate.App(connector=self._connector)

    async def run(self, work: Callable[[AsyncConnection[Any]], Awaitable[_T]]) -> _T:
        """Do something in one transaction.

        Raises:
            UsageError: It is not open; or the role lacks a grant.
            DurableError: The database cannot be reached, or does not do what it should.
        """
        self.check_open()
        try:
            await self._prepare_once()
            async with self.check_open().connection() as connection:
                done = await work(connection)
        except psycopg_pool.PoolTimeout as exc:
            error = translate(await self._reason(exc))
        except psycopg.errors.InsufficientPrivilege as exc:
            error = await self._refusal(exc)
        except FOREIGN as exc:
            error = translate(exc, is_new=not self._prepared.is_set())
        else:
            if self._said_at is not None:
                self._said_at = None
                warn("the database answers again")
            return done
        raise error

    def warn(self, error: Exception, what: str) -> None:
        """Log that the database is away and what that means: once in a while, whatever waits for it."""
        now = asyncio.get_running_loop().time()
        if self._said_at is None or now > self._said_at + _SAID_AGAIN:
            self._said_at = now
            warn("%s; %s", error, what)

    async def _reason(self, error: psycopg_pool.PoolTimeout) -> psycopg.Error:
        """Return why the pool has no connection, which it keeps to itself."""
        pool, now = self.check_open(), asyncio.get_running_loop().time()
        if now < pool.asks_again_at:
            return error
        try:
            await (await psycopg.AsyncConnection.connect(make_conninfo(self._address, connect_timeout=_QUICK))).close()
        except psycopg.Error as exc:
            if _REFUSED_LOGIN.search(str(exc)):
                pool.refused, pool.asks_again_at = str(exc), now + _ASKED_AGAIN
            return exc
        return error

    async def fetch(self, name: str, **values: object) -> list[dict[str, Any]]:
        """Run one statement in a transaction of its own; see the function `fetch`, and `run`."""
        return await self.run(lambda connection: fetch(connection, name, **values))

    async def _refusal(self, error: psycopg.Error) -> CardprodError:
        drop_frames(error)
        try:
            async with self.check_open().connection() as connection:
                [row] = await fetch(connection, "missing_grants", schema=self._settings.schema)
        except psycopg.Error as exc:
            return translate(exc)
        found = lacks(
            row["role"],
            self._settings,
            row["grants"] or f"a privilege ({one_line(str(error).split('CONTEXT')[0], _SHOWN)})",
        )
        found.__cause__ = error
        return found

    async def _prepare_once(self) -> None:
        if self._prepared.is_set():
            return
        async with self._preparing:
            if self._prepared.is_set():
                return
            # By a connection of its own: the pool would keep to itself why it cannot connect.
            connection = await psycopg.AsyncConnection.connect(self._address, prepare_threshold=None, autocommit=True)
            timer = asyncio.get_running_loop().call_later(6 * self._settings.call, _close_socket, connection)
            try:
                async with connection:
                    await connection.execute(_setup(self._settings, connection.info.server_version))
                    await self._prepare(connection, self._settings)
            finally:
                timer.cancel()
            self._prepared.set()
