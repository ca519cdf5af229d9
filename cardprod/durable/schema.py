"""The schema of durable waits: the script that makes it or brings it up to date, and the checks before it is used.

The script is one text, which anybody may run again and again: `cardprod migrate --sql` prints what `Durable` runs.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from psycopg import sql

from cardprod.durable.database import fetch, fetch_one, lacks, sql_file
from cardprod.errors import UsageError
from cardprod.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import AsyncConnection

    from cardprod.durable.settings import Settings

_LOCK: Final = 0x63617264_70726F64 % 2**63
"""Held while the script runs: "cardprod" in ASCII."""

_OLDEST: Final = "03.04.00_50_post_add_retry_failed_job_procedure.sql"
"""The last migration of procrastinate that its `schema.sql` had when the first schema of ours was made."""

_LONGEST: Final = 60.0
"""Seconds that a statement of the script may take, or wait for another process that runs it."""

_NO_TRANSACTION_TIMEOUT: Final = (
    "DO $$ BEGIN IF current_setting('server_version_num')::int >= 170000 THEN "
    "PERFORM pg_catalog.set_config('transaction_timeout', '0', true); END IF; END $$;"
)
_QUOTE: Final = "$cardprod_migration$"


def migration_script(settings: Settings, *, role: str | None = None) -> str:
    """Return the SQL that makes the schema or brings it up to date, in one transaction.

    What a worker needs is granted to the role, if one is named.
    """
    schema = sql.Identifier(settings.schema).as_string()
    # Not by IF NOT EXISTS alone, which asks for the privilege to create it although it is there.
    make = f"BEGIN IF to_regnamespace({_literal(schema)}) IS NULL THEN CREATE SCHEMA {schema}; END IF; END"
    lines = [
        "BEGIN;",
        f"SET LOCAL statement_timeout TO '{_LONGEST:.0f}s';",
        f"SET LOCAL lock_timeout TO '{_LONGEST:.0f}s';",
        _NO_TRANSACTION_TIMEOUT,
        # Not SELECT, whose row `psql -q` would print.
        f"DO $$ BEGIN PERFORM pg_catalog.pg_advisory_xact_lock({_LOCK}); END $$;",
        f"DO {_literal(make)};",
        f"SET LOCAL search_path TO {schema}, pg_temp;",
        "SET LOCAL client_min_messages TO warning;",
        "CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());",
        *(_once(name, statements) for name, statements in _migrations()),
    ]
    if role is not None:
        name = sql.Identifier(role).as_string()
        lines += [
            f"GRANT USAGE ON SCHEMA {schema} TO {name};",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {name};",
            f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {name};",
        ]
    return "\n".join([*lines, "COMMIT;", ""])


async def prepare(connection: AsyncConnection[Any], settings: Settings) -> None:
    """Check the schema, and make it or bring it up to date if that is needed.

    Raises:
        UsageError: It is of a role that is not to be trusted; or this role may not use it, or not make it.
    """
    state = await fetch_one(connection, "schema_state", schema=settings.schema)
    if state is not None:
        found = await fetch_one(connection, "untrusted_owners", schema=settings.schema, owner=settings.owner)
        if found is not None:
            raise UsageError(
                f"the {found['name']} belongs to the role {found['owner']}, which could run code as this one: if you "
                f"trust it, pass owner={found['owner']!r}; else choose another schema"
            )
        if not state["is_usable"]:
            raise lacks(state["role"], settings, f"USAGE on schema {settings.schema}")
        if state["has_tables"]:
            rows = await (await connection.execute("SELECT name FROM migrations")).fetchall()
            if {name for name, _ in _migrations()} <= {row[0] for row in rows}:
                return
    await connection.rollback()
    await connection.execute(migration_script(settings).encode())
    log(logging.INFO, "the schema %s is up to date", settings.schema)


async def check_grants(connection: AsyncConnection[Any], settings: Settings) -> None:
    """Check that this role may do all that a worker does.

    Raises:
        UsageError: It may not; the message names each grant that it lacks.
    """
    [row] = await fetch(connection, "missing_grants", schema=settings.schema)
    if row["grants"]:
        raise lacks(row["role"], settings, row["grants"])


def _once(name: str, statements: str) -> str:
    """Return SQL that applies a migration unless it was applied."""
    return (
        f"DO $cardprod$ BEGIN IF NOT EXISTS (SELECT FROM migrations WHERE name = {_literal(name)}) THEN\n"
        f"EXECUTE {_QUOTE}\n{statements}\n{_QUOTE};\n"
        f"INSERT INTO migrations (name) VALUES ({_literal(name)});\n"
        f"END IF; END $cardprod$;"
    )


def _literal(text: str) -> str:
    return sql.Literal(text).as_string()


@cache
def _procrastinate_migrations() -> tuple[tuple[str, str], ...]:
    """Return those migrations of procrastinate that a schema of ours may lack, in their order."""
    folder = resources.files("procrastinate.sql") / "migrations"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return tuple((file.name, file.read_text("utf-8")) for file in files if file.name > _OLDEST)


def _migrations() -> Iterator[tuple[str, str]]:
    """Iterate the migrations, procrastinate's own first. One that was released is never changed."""
    later = _procrastinate_migrations()
    known = "".join(
        f"\nINSERT INTO migrations (name) VALUES ({_literal(f'procrastinate {name}')});" for name, _ in later
    )
    schema = (resources.files("procrastinate.sql") / "schema.sql").read_text("utf-8")
    yield "procrastinate", schema + known
    for name, statements in later:
        yield f"procrastinate {name}", statements
    yield "cardprod 1", sql_file("schema.sql")
    yield "cardprod 1 takeover", sql_file("takeover.sql")
    yield "cardprod 2", sql_file("workers.sql")
