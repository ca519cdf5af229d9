"""What durable waits are in PostgreSQL: the tables, their migrations, and every statement. It decides nothing.

| table | a row is |
| --- | --- |
| `cardprod_batches` | what one `submit` gave |
| `cardprod_parts` | some of a batch's cards, in one checkpoint, and the steps no sink was given yet |
| `cardprod_results` | how a card ended |
| `cardprod_workers` | a worker, and when it was last seen |
| `cardprod_gates` | the name of a token, and when requests with it are welcome again |
| `cardprod_migrations` | a migration that was applied |

Jobs are in procrastinate's own tables. A part is written only by who read its last `version`, so that a worker that
was given up for dead and was not cannot undo what another has done since.

Each function takes the connection, and so the transaction, that it is to be part of. No statement relies on a session:
all of it works through PgBouncer in transaction mode.
"""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, LiteralString

import attrs
from psycopg import sql
from psycopg.rows import dict_row

from cardprod.errors import UsageError
from cardprod.models import Card

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg import AsyncConnection

__all__ = ["BatchStatus", "Counts", "Part"]

_LOCK: Final = 0x63617264_70726F64 % 2**63
"""WouldBlock while migrations are applied: "cardprod" in ASCII."""

_MIGRATIONS: Final[tuple[tuple[str, LiteralString], ...]] = (
    (
        "cardprod 1",
        """
        CREATE TABLE cardprod_batches (
            id uuid PRIMARY KEY,
            token_name text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            cancelled_at timestamptz,
            finished_at timestamptz
        );
        CREATE INDEX cardprod_batches_finished ON cardprod_batches (finished_at) WHERE finished_at IS NOT NULL;
        CREATE TABLE cardprod_parts (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            batch_id uuid NOT NULL REFERENCES cardprod_batches ON DELETE CASCADE,
            version bigint NOT NULL DEFAULT 0,
            checkpoint text NOT NULL,
            undelivered text,
            finished_at timestamptz,
            total integer NOT NULL,
            pending integer NOT NULL,
            produced integer NOT NULL DEFAULT 0,
            failed integer NOT NULL DEFAULT 0,
            errors integer NOT NULL DEFAULT 0,
            looks bigint NOT NULL DEFAULT 0
        ) WITH (fillfactor = 50);
        CREATE INDEX cardprod_parts_batch ON cardprod_parts (batch_id);
        CREATE INDEX cardprod_parts_unfinished ON cardprod_parts (id) WHERE finished_at IS NULL;
        CREATE TABLE cardprod_results (
            batch_id uuid NOT NULL REFERENCES cardprod_batches ON DELETE CASCADE,
            profile_id bigint NOT NULL,
            card_token text NOT NULL,
            outcome text NOT NULL,
            PRIMARY KEY (batch_id, profile_id, card_token)
        );
        CREATE TABLE cardprod_workers (id uuid PRIMARY KEY, seen_at timestamptz NOT NULL DEFAULT now());
        CREATE TABLE cardprod_gates (token_name text PRIMARY KEY, opens_at timestamptz NOT NULL);
        """,
    ),
)
"""Ours, in their order. One that was released is never changed."""

_NO_JOB: Final = """
    NOT EXISTS (
        SELECT FROM procrastinate_jobs job
        WHERE job.queueing_lock = 'cardprod:' || part.id AND job.status IN ('todo', 'doing')
    )
"""


@attrs.frozen(kw_only=True)
class BatchStatus:
    """How far a batch is.

    Args:
        id: The batch.
        token_name: The name of the token it is looked at with.
        created_at: When it was submitted.
        cancelled_at: When it was cancelled, if it was.
        finished_at: When its last card ended and the last step was told, if it has.
        total: Its cards.
        pending: Cards that have no final result yet.
        produced: Cards that are PRODUCED.
        failed: Cards that ended in PRODUCTION_ERROR or REQUEST_ERROR.
        errors: Cards that ended with a `CardprodError`.
        looks: Looks that were answered or failed so far.
    """

    id: str
    token_name: str
    created_at: datetime
    cancelled_at: datetime | None
    finished_at: datetime | None
    total: int
    pending: int
    produced: int
    failed: int
    errors: int
    looks: int


@attrs.frozen(kw_only=True)
class Part:
    """Some of a batch's cards, as they were last written."""

    id: int
    batch_id: str
    token_name: str
    version: int
    checkpoint: str
    undelivered: str | None
    pending: int
    closed_for: float


@attrs.frozen(kw_only=True)
class Counts:
    """What a sweep adds to a part's numbers."""

    pending: int
    produced: int
    failed: int
    errors: int
    looks: int


async def migrate(connection: AsyncConnection) -> None:
    """Make the tables, or bring them up to date; nothing, if they are. Several may do so at once.

    procrastinate's own are made and kept up to date if they were made here, and else left to whoever made them.

    Raises:
        UsageError: procrastinate's tables are there, made by somebody else, and too old.
    """
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS cardprod_migrations "
            "(name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        rows = await (await connection.execute("SELECT name FROM cardprod_migrations")).fetchall()
        applied: set[str] = {row[0] for row in rows}
        await _migrate_procrastinate(connection, applied)
        for name, statements in _MIGRATIONS:
            if name not in applied:
                await connection.execute(statements)
                await _note(connection, name)


async def is_migrated(connection: AsyncConnection) -> bool:
    """Whether the tables are there and up to date, without locking anything."""
    there = await _one(connection, "SELECT to_regclass('cardprod_migrations') IS NOT NULL AS there")
    if not there["there"]:
        return False
    rows = await (await connection.execute("SELECT name FROM cardprod_migrations")).fetchall()
    applied: set[str] = {row[0] for row in rows}
    wanted = {name for name, _ in _MIGRATIONS}
    if any(name.startswith("procrastinate ") for name in applied):
        wanted |= _procrastinate_migrations().keys()
    return wanted <= applied


async def add_batch(connection: AsyncConnection, batch_id: str, token_name: str) -> None:
    """Begin a batch without cards."""
    await connection.execute("INSERT INTO cardprod_batches (id, token_name) VALUES (%s, %s)", (batch_id, token_name))


async def add_part(connection: AsyncConnection, batch_id: str, checkpoint: str, cards: int) -> int:
    """Add cards to a batch, and say what the part is called."""
    row = await _one(
        connection,
        "INSERT INTO cardprod_parts (batch_id, checkpoint, total, pending) VALUES (%s, %s, %s, %s) RETURNING id",
        (batch_id, checkpoint, cards, cards),
    )
    part_id: int = row["id"]
    return part_id


async def part(connection: AsyncConnection, part_id: int) -> Part | None:
    """Read a part; None if there is nothing left to do for it."""
    row = await _maybe(
        connection,
        """
        SELECT part.id, batch.id::text AS batch_id, batch.token_name, part.version, part.checkpoint, part.undelivered,
               part.pending, coalesce(extract(epoch FROM gate.opens_at - now()), 0)::float8 AS closed_for
        FROM cardprod_parts part
        JOIN cardprod_batches batch ON batch.id = part.batch_id
        LEFT JOIN cardprod_gates gate USING (token_name)
        WHERE part.id = %s AND part.finished_at IS NULL
        """,
        (part_id,),
    )
    if row is None:
        return None
    return Part(**row)


async def write_part(  # noqa: PLR0913 - one for each column
    connection: AsyncConnection,
    part: Part,
    checkpoint: str,
    undelivered: str | None,
    counts: Counts,
    *,
    is_finished: bool,
) -> bool:
    """Write a part, unless somebody has written it since it was read. Say whether it was."""
    row = await _maybe(
        connection,
        """
        UPDATE cardprod_parts SET
            version = version + 1,
            checkpoint = %s,
            undelivered = %s,
            pending = %s,
            produced = produced + %s,
            failed = failed + %s,
            errors = errors + %s,
            looks = looks + %s,
            finished_at = CASE WHEN %s THEN now() END
        WHERE id = %s AND version = %s
        RETURNING id
        """,
        (
            checkpoint,
            undelivered,
            counts.pending,
            counts.produced,
            counts.failed,
            counts.errors,
            counts.looks,
            is_finished,
            part.id,
            part.version,
        ),
    )
    return row is not None


async def forget_untold(connection: AsyncConnection, part: Part, *, is_finished: bool) -> bool:
    """Take note that a part's steps were told. Say whether that is still so."""
    row = await _maybe(
        connection,
        """
        UPDATE cardprod_parts
        SET version = version + 1, undelivered = NULL, finished_at = CASE WHEN %s THEN now() END
        WHERE id = %s AND version = %s
        RETURNING id
        """,
        (is_finished, part.id, part.version),
    )
    return row is not None


async def finish_batch(connection: AsyncConnection, batch_id: str) -> None:
    """Take note that a batch has ended, if its last part has."""
    # The row is locked first: of two that finish the last two parts, the second sees what the first did.
    await connection.execute("SELECT FROM cardprod_batches WHERE id = %s FOR UPDATE", (batch_id,))
    await connection.execute(
        """
        UPDATE cardprod_batches SET finished_at = now()
        WHERE id = %s AND finished_at IS NULL AND NOT EXISTS (
            SELECT FROM cardprod_parts WHERE batch_id = cardprod_batches.id AND finished_at IS NULL
        )
        """,
        (batch_id,),
    )


async def add_results(connection: AsyncConnection, batch_id: str, results: Sequence[tuple[Card, str]]) -> None:
    """Keep how cards ended."""
    await connection.execute(
        """
        INSERT INTO cardprod_results (batch_id, profile_id, card_token, outcome)
        SELECT %s, * FROM unnest(%s::bigint[], %s::text[], %s::text[])
        ON CONFLICT (batch_id, profile_id, card_token) DO UPDATE SET outcome = excluded.outcome
        """,
        (
            batch_id,
            [card.profile_id for card, _ in results],
            [card.card_token for card, _ in results],
            [outcome for _, outcome in results],
        ),
    )


async def results(connection: AsyncConnection, batch_id: str, after: Card | None, most: int) -> list[tuple[Card, str]]:
    """Read some results, those that come after a card."""
    profile_id, card_token = (0, "") if after is None else (after.profile_id, after.card_token)
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(
        """
        SELECT profile_id, card_token, outcome FROM cardprod_results
        WHERE batch_id = %s AND (profile_id, card_token) > (%s, %s)
        ORDER BY profile_id, card_token LIMIT %s
        """,
        (batch_id, profile_id, card_token, most),
    )
    return [(Card(row["profile_id"], row["card_token"]), row["outcome"]) for row in await cursor.fetchall()]


async def batch_status(connection: AsyncConnection, batch_id: str) -> BatchStatus | None:
    """Say how far a batch is; None if there is no such batch."""
    row = await _maybe(
        connection,
        """
        SELECT batch.id::text, token_name, created_at, cancelled_at, batch.finished_at, sums.*
        FROM cardprod_batches batch, LATERAL (
            SELECT coalesce(sum(total), 0)::int AS total, coalesce(sum(pending), 0)::int AS pending,
                   coalesce(sum(produced), 0)::int AS produced, coalesce(sum(failed), 0)::int AS failed,
                   coalesce(sum(errors), 0)::int AS errors, coalesce(sum(looks), 0)::bigint::int8 AS looks
            FROM cardprod_parts WHERE batch_id = batch.id
        ) sums
        WHERE batch.id = %s
        """,
        (batch_id,),
    )
    if row is None:
        return None
    for name in ("created_at", "cancelled_at", "finished_at"):
        at: datetime | None = row[name]
        row[name] = None if at is None else at.astimezone(UTC)
    return BatchStatus(**row)


async def cancel(connection: AsyncConnection, batch_id: str) -> bool:
    """End a batch: whoever is at one of its parts will not be able to write it. Say whether it was still going."""
    # The parts first, as whoever finishes one does: in the other order each could wait for the other.
    await connection.execute(
        """
        WITH ended AS (
            UPDATE cardprod_parts SET version = version + 1, undelivered = NULL, finished_at = now()
            WHERE batch_id = %s AND finished_at IS NULL RETURNING id
        )
        DELETE FROM procrastinate_jobs
        WHERE status = 'todo' AND queueing_lock IN (SELECT 'cardprod:' || id FROM ended)
        """,
        (batch_id,),
    )
    row = await _maybe(
        connection,
        "UPDATE cardprod_batches SET cancelled_at = now(), finished_at = now() "
        "WHERE id = %s AND finished_at IS NULL RETURNING id",
        (batch_id,),
    )
    return row is not None


# --- Workers ---


async def report(connection: AsyncConnection, worker_id: str, within: float) -> int:
    """Say that a worker is there, and learn how many are, or were a short while ago."""
    await connection.execute(
        "INSERT INTO cardprod_workers (id) VALUES (%s) ON CONFLICT (id) DO UPDATE SET seen_at = now()", (worker_id,)
    )
    row = await _one(
        connection,
        "SELECT count(*) AS workers FROM cardprod_workers WHERE seen_at > now() - %s * interval '1 second'",
        (within,),
    )
    workers: int = row["workers"]
    return workers


async def close_gate(connection: AsyncConnection, token_name: str, seconds: float) -> None:
    """Let everybody know that requests with a token are not welcome for so long."""
    await connection.execute(
        """
        INSERT INTO cardprod_gates (token_name, opens_at) VALUES (%s, now() + %s * interval '1 second')
        ON CONFLICT (token_name) DO UPDATE SET opens_at = greatest(cardprod_gates.opens_at, excluded.opens_at)
        """,
        (token_name, seconds),
    )


async def closed_gates(connection: AsyncConnection) -> dict[str, float]:
    """Learn which tokens are not welcome, and for how many seconds."""
    cursor = await connection.execute(
        "SELECT token_name, extract(epoch FROM opens_at - now())::float8 FROM cardprod_gates WHERE opens_at > now()"
    )
    return dict(await cursor.fetchall())


# --- Rescue ---


async def delete_overdue_jobs(connection: AsyncConnection, longest: float) -> int:
    """Delete the jobs that have been under way for longer than any should be."""
    cursor = await connection.execute(
        """
        DELETE FROM procrastinate_jobs job
        WHERE status = 'doing' AND task_name LIKE 'cardprod.%%' AND (
            SELECT max(at) FROM procrastinate_events WHERE job_id = job.id AND type = 'started'
        ) < now() - %s * interval '1 second'
        """,
        (longest,),
    )
    return cursor.rowcount


async def orphans(connection: AsyncConnection) -> list[tuple[int, str]]:
    """Find the parts that have no job: each with the name of its token."""
    cursor = await connection.execute(
        sql.SQL(
            """
            SELECT part.id, batch.token_name
            FROM cardprod_parts part JOIN cardprod_batches batch ON batch.id = part.batch_id
            WHERE part.finished_at IS NULL AND {no_job}
            """
        ).format(no_job=sql.SQL(_NO_JOB))
    )
    return await cursor.fetchall()


async def purge(connection: AsyncConnection, keep: float) -> None:
    """Delete batches that have been over for so many seconds, and what is left of workers and gates."""
    await connection.execute(
        "DELETE FROM cardprod_batches WHERE finished_at < now() - %s * interval '1 second'", (keep,)
    )
    await connection.execute("DELETE FROM cardprod_workers WHERE seen_at < now() - interval '1 hour'")
    await connection.execute("DELETE FROM cardprod_gates WHERE opens_at < now() - interval '1 hour'")


async def _one(connection: AsyncConnection, statement: LiteralString, values: Sequence[object] = ()) -> dict[str, Any]:
    row = await _maybe(connection, statement, values)
    if row is None:
        raise LookupError("a row was expected")
    return row


async def _maybe(
    connection: AsyncConnection, statement: LiteralString, values: Sequence[object] = ()
) -> dict[str, Any] | None:
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(statement, values)
    return await cursor.fetchone()


async def _note(connection: AsyncConnection, name: str) -> None:
    await connection.execute("INSERT INTO cardprod_migrations (name) VALUES (%s)", (name,))


def _procrastinate_migrations() -> dict[str, bytes]:
    """Give the migrations that procrastinate brings, by name, in their order."""
    folder = resources.files("procrastinate.sql") / "migrations"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return {f"procrastinate {file.name}": file.read_bytes() for file in files}


async def _migrate_procrastinate(connection: AsyncConnection, applied: set[str]) -> None:
    there = await _one(
        connection,
        "SELECT to_regclass('procrastinate_jobs') IS NOT NULL AS jobs, "
        "to_regproc('procrastinate_retry_job_v2') IS NOT NULL AS is_new_enough",
    )
    migrations = _procrastinate_migrations()
    if not there["jobs"]:
        schema = (resources.files("procrastinate.sql") / "schema.sql").read_bytes()
        await connection.execute(schema)
        for name in migrations:
            await _note(connection, name)
    elif any(name.startswith("procrastinate ") for name in applied):
        for name, statements in migrations.items():
            if name not in applied:
                await connection.execute(statements)
                await _note(connection, name)
    elif not there["is_new_enough"]:
        raise UsageError("this database's procrastinate tables are too old: apply procrastinate's migrations up to 3.4")
