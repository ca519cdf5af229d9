"""Roles and schemas: a role with little, tables of others, and what other roles of the database can and cannot do."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import TYPE_CHECKING

import procrastinate
import psycopg
import pytest

from cardprod import Checkpoint, Client, DurableError, ProductionStatus, RateLimit, Transition, UsageError
from cardprod.cli.commands.migrate import DOES
from cardprod.durable import Durable
from cardprod.durable.transitions import written_outcome
from tests.durable.support import (
    PRODUCED,
    QUICK,
    SHORT,
    Sink,
    as_role,
    cards_of,
    execute,
    over,
    quick,
    run_script,
    working,
)
from tests.table import Table
from tests.waiting import LIMIT, until

if TYPE_CHECKING:
    from cardprod.simulator import Simulator
    from tests.durable.postgres import Postgres

pytestmark = [pytest.mark.looptime(False), pytest.mark.usefixtures("quiet")]


# --- A role with little ---


async def test_role_that_may_not_make_the_schema(empty_postgres: str, role: str) -> None:
    """A role that may not make the schema gets an error that says so, and how an administrator makes it."""
    async with Durable(as_role(empty_postgres, role)) as durable:
        with pytest.raises(
            UsageError, match=r"`cardprod migrate --sql --role little` prints; it lacks .*denied for database"
        ):
            await durable.submit([(1, "a")])


async def test_script_for_a_role(kiosk: Simulator, client: Client, empty_postgres: str, role: str) -> None:
    """What `migration_script` returns makes all that a role needs which may create nothing, and twice does no harm."""
    script = Durable(empty_postgres).migration_script(role=role)
    run_script(empty_postgres, script)
    run_script(empty_postgres, script)
    async with quick(as_role(empty_postgres, role)) as durable, working(durable, client):
        batch_id = await durable.submit(cards_of(kiosk, 3, SHORT), schedule=QUICK)
        assert (await over(durable, batch_id)).produced == 3


async def test_missing_grant(client: Client, empty_postgres: str, role: str) -> None:
    """A grant that is missing is named, by a worker before it begins, and by any other call; no trap is run for it."""
    run_script(empty_postgres, Durable(empty_postgres).migration_script(role=role))
    run_script(empty_postgres, _TRAP)
    run_script(empty_postgres, f"ALTER ROLE {role} SET search_path = public, pg_catalog")
    with Table() as table:
        for revoked, named in (
            ("USAGE ON SCHEMA cardprod", "USAGE on schema cardprod"),
            ("INSERT ON cardprod.chunks", "INSERT on cardprod.chunks"),
            ("UPDATE ON cardprod.procrastinate_jobs", "UPDATE on cardprod.procrastinate_jobs"),
            ("USAGE ON SEQUENCE cardprod.procrastinate_jobs_id_seq", "USAGE on cardprod.procrastinate_jobs_id_seq"),
            ("DELETE ON cardprod.transitions", "DELETE on cardprod.transitions"),
        ):
            run_script(empty_postgres, f"REVOKE {revoked} FROM {role}")
            async with quick(as_role(empty_postgres, role)) as durable:
                with table.row(revoked), pytest.raises(UsageError, match=named):
                    await durable.work(client)
                if revoked.startswith("INSERT"):
                    with table.row(revoked, "submit"), pytest.raises(UsageError, match=named):
                        await durable.submit([(1, "a")])
            run_script(empty_postgres, f"GRANT {revoked} TO {role}")


async def test_role_that_only_reads(client: Client, empty_postgres: str, role: str) -> None:
    """What `cardprod migrate --help` says to grant to a role that only reads is enough, and no more than that."""
    async with Durable(empty_postgres) as durable:
        batch_id = await durable.submit([(1, "a")])
    [grants] = re.findall("GRANT .* TO reader;", DOES)
    run_script(empty_postgres, grants.replace("reader", role))
    async with quick(as_role(empty_postgres, role)) as reading:
        assert (await reading.status(batch_id)).pending == 1
        assert [card async for card, _ in reading.results(batch_id)] == []
        with pytest.raises(UsageError, match=rf"--role {role}` prints; it lacks INSERT, UPDATE, DELETE on cardprod\."):
            await reading.submit([(1, "a")])
        with pytest.raises(UsageError, match=r"it lacks INSERT, UPDATE, DELETE on cardprod\."):
            await reading.work(client)


@pytest.mark.slow
async def test_login_that_is_refused_later(empty_postgres: str, role: str) -> None:
    """A login that is refused while it is used is said to be, and not tried again at once."""
    run_script(empty_postgres, Durable(empty_postgres).migration_script(role=role))
    async with quick(as_role(empty_postgres, role), call=1.0) as durable:
        await durable.migrate()
        run_script(empty_postgres, f"ALTER ROLE {role} NOLOGIN")
        execute(empty_postgres, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'")  # noqa: S608 - our own
        for _ in range(2):
            with pytest.raises(DurableError, match=r"refuses this login .*check the connection string's user"):
                await durable.migrate()
        run_script(empty_postgres, f"ALTER ROLE {role} LOGIN")
        with pytest.raises(DurableError, match="refuses this login"):  # of the last time
            await durable.migrate()


async def test_another_schema(kiosk: Simulator, client: Client, empty_postgres: str) -> None:
    """Two schemas of one database are as two databases."""
    async with quick(empty_postgres) as one, quick(empty_postgres, schema="Cards: $$ of 100 % \\") as two:
        batch_id = await two.submit(cards_of(kiosk, 1, PRODUCED), schedule=QUICK)
        with pytest.raises(UsageError, match="there is no batch"):
            await one.status(batch_id)
        async with working(two, client):
            await over(two, batch_id)


# --- Other applications ---


@pytest.mark.slow
async def test_worker_of_another_application(
    kiosk: Simulator, client: Client, empty_postgres: str, own_durable: Durable
) -> None:
    """A worker of the user's own procrastinate application, which takes all queues, takes no job of ours."""
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=empty_postgres))
    done: list[int] = []

    @app.task(name="theirs")
    async def theirs(number: int) -> None:
        done.append(number)

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await theirs.defer_async(number=5)
        worker = asyncio.create_task(
            app.run_worker_async(install_signal_handlers=False, fetch_job_polling_interval=0.05, listen_notify=False)
        )
        async with working(own_durable, client):
            batch_id = await own_durable.submit(cards_of(kiosk, 20, SHORT), schedule=QUICK, batch_size=5)
            assert (await over(own_durable, batch_id)).produced == 20
        await until("their job", lambda: done)
        worker.cancel()
        await asyncio.wait([worker])
        jobs = [(job.task_name, job.status) for job in await app.job_manager.list_jobs_async()]
    assert jobs == [("theirs", "succeeded")]


@pytest.mark.slow
async def test_tables_of_the_first_edition(kiosk: Simulator, client: Client, empty_postgres: str) -> None:
    """Waits that the first edition stored in `public` are taken over once: none is lost, and none delivered twice."""
    cards = cards_of(kiosk, 3, PRODUCED)
    batch_id = "00000000-0000-0000-0000-000000000001"
    seen = Transition(None, ProductionStatus("READY"), 1.0, 1, "poll")
    undelivered = {
        "version": 1,
        "steps": [
            {
                "card": {"profile_id": 123456, "card_token": "card-1"},
                "transition": {
                    "previous": None,
                    "current": {"status": "READY"},
                    "elapsed": 1.0,
                    "polls": 1,
                    "source": "poll",
                },
            }
        ],
    }
    checkpoint = Checkpoint.for_cards(cards[1:], schedule=QUICK).to_json()
    async with procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=empty_postgres)).open_async() as app:
        await app.schema_manager.apply_schema_async()
    with psycopg.connect(empty_postgres) as connection:
        connection.execute(_FIRST_EDITION)
        connection.execute("INSERT INTO cardprod_batches (id, token_name) VALUES (%s, 'default')", [batch_id])
        connection.execute(
            "INSERT INTO cardprod_parts (batch_id, version, checkpoint, undelivered, total, pending, produced) "
            "VALUES (%s, 7, %s, %s, 3, 2, 1)",
            [batch_id, checkpoint, json.dumps(undelivered)],
        )
        connection.execute(
            "INSERT INTO cardprod_results VALUES (%s, 123456, 'card-0', %s)",
            [batch_id, written_outcome(ProductionStatus("PRODUCED"))],
        )
        connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args) "
            "VALUES ('cardprod-default', 'cardprod.sweep', '{\"part_id\": 1}'), ('mine', 'mine', '{}')"
        )
    sink = Sink()
    async with quick(empty_postgres) as durable:
        async with working(durable, client, sink):
            status = await over(durable, batch_id)
            another = await durable.submit(cards_of(kiosk, 1, PRODUCED), schedule=QUICK)
            await over(durable, another)
        assert len([card async for card, _ in durable.results(batch_id)]) == 3
    assert (status.total, status.produced, status.pending) == (3, 3, 0)
    assert (sink.steps[0].key, sink.steps[0].what) == (f"{batch_id}.1.7.0", seen)
    assert len({step.key for step in sink.steps}) == len(sink.steps) == 4
    assert execute(empty_postgres, "SELECT to_regclass('public.cardprod_parts') IS NULL") == [(True,)]
    assert execute(empty_postgres, "SELECT task_name FROM public.procrastinate_jobs") == [("mine",)]


# --- Roles that mean ill ---


@pytest.mark.parametrize("trap", ["the schema", "a table"])
async def test_schema_of_another_owner(empty_postgres: str, role: str, trap: str) -> None:
    """A schema or a table that some other role owns, who could run code in it, is refused unless it is named."""
    if trap == "the schema":
        run_script(empty_postgres, f"CREATE SCHEMA cardprod AUTHORIZATION {role}")
    else:
        run_script(empty_postgres, "CREATE SCHEMA cardprod; CREATE TABLE cardprod.batches (id int)")
        run_script(empty_postgres, f"ALTER TABLE cardprod.batches OWNER TO {role}")
    async with Durable(empty_postgres) as durable:
        with pytest.raises(UsageError, match=f"belongs to the role {role}"):
            await durable.submit([(1, "a")])
    if trap == "the schema":
        async with Durable(empty_postgres, owner=role) as durable:
            await durable.submit([(1, "a")])


async def test_objects_in_the_search_path(
    kiosk: Simulator, client: Client, postgres_server: Postgres, empty_postgres: str, role: str
) -> None:
    """Functions, operators and tables that another role put where names are looked up are never used."""
    run_script(empty_postgres, f"GRANT CREATE ON SCHEMA public TO {role}")
    run_script(
        as_role(empty_postgres, role),
        """
        CREATE TABLE trapped (how text);
        GRANT ALL ON trapped TO public;
        CREATE FUNCTION trap(text, bigint) RETURNS text LANGUAGE sql AS
            $$ INSERT INTO trapped VALUES ('operator'); SELECT $1 || $2::text $$;
        CREATE OPERATOR public.|| (LEFTARG = text, RIGHTARG = bigint, FUNCTION = trap);
        CREATE FUNCTION to_timestamp(numeric) RETURNS timestamptz LANGUAGE sql AS
            $$ INSERT INTO trapped VALUES ('function'); SELECT now() $$;
        CREATE FUNCTION jsonb_build_object(text, bigint) RETURNS jsonb LANGUAGE sql AS
            $$ INSERT INTO trapped VALUES ('function'); SELECT '{}'::jsonb $$;
        CREATE TABLE batches (id uuid, token_name text, token text);
        CREATE TABLE cardprod_parts (id int);
        CREATE TABLE cardprod_batches (id int);
        CREATE TABLE cardprod_results (id int);
        CREATE TABLE procrastinate_jobs (id int);
        """,
    )
    run_script(empty_postgres, "ALTER ROLE tester SET search_path = public, pg_catalog")
    try:
        async with quick(empty_postgres) as durable, working(durable, client):
            batch_id = await durable.submit(cards_of(kiosk, 3, SHORT), schedule=QUICK, timeout=60)
            assert (await over(durable, batch_id)).produced == 3
    finally:
        run_script(empty_postgres, "ALTER ROLE tester RESET ALL")
    assert execute(empty_postgres, "SELECT * FROM public.trapped") == []


@pytest.mark.parametrize(
    "job",
    [
        "('mine', 'mine', 'cardprod:$batch:1', '{}', NULL, 'todo', '2999-01-01')",
        "('cardprod-default', 'cardprod.sweep', 'cardprod:$batch:1', '{\"chunk_id\": 1}', NULL, 'todo', '2999-01-01')",
        "('cardprod-default', 'cardprod.sweep', 'cardprod:$batch:1', '{\"chunk_id\": 2}', NULL, 'todo', NULL)",
        "('cardprod-default', 'cardprod.sweep', 'cardprod:$batch:1', '{\"chunk_id\": 1}', 'held', 'todo', NULL)",
        "('cardprod-default', 'cardprod.sweep', 'cardprod:$batch:1', '{\"chunk_id\": 1}', NULL, 'doing', NULL)",
        "('cardprod-default', 'mine', 'cardprod:$batch:1', '{\"chunk_id\": 1}', NULL, 'doing', NULL)",
        "('mine', 'mine', NULL, '{}', 'cardprod:deliver:$batch:1', 'todo', '2999-01-01')",
        "('mine', 'mine', NULL, '{}', 'cardprod:deliver:$batch:1', 'doing', NULL)",
        "('mine', 'cardprod.deliver', NULL, '{}', 'cardprod:deliver:$batch:1', 'todo', '2999-01-01')",
    ],
)
async def test_job_of_an_enqueuer(  # noqa: PLR0917 - fixtures
    kiosk: Simulator, client: Client, postgres: str, durable: Durable, job: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A role that may only enqueue cannot stop a wait, whatever job it puts in the place of the wait's own."""
    caplog.set_level(logging.CRITICAL, "cardprod")
    batch_id = await durable.submit(cards_of(kiosk, 1, PRODUCED), schedule=QUICK)
    execute(
        postgres,
        "DELETE FROM procrastinate_jobs; INSERT INTO procrastinate_workers DEFAULT VALUES; "  # noqa: S608 - our own
        "INSERT INTO procrastinate_jobs (queue_name, task_name, lock, queueing_lock, args, status) "
        "VALUES ('x', 'x', 'held', NULL, '{}', 'doing'); "
        "UPDATE procrastinate_workers SET last_heartbeat = now() + interval '1 year'; "
        "INSERT INTO procrastinate_jobs (queue_name, task_name, queueing_lock, args, lock, status, scheduled_at) "
        f"VALUES {job.replace('$batch', batch_id)}; "
        "UPDATE procrastinate_jobs SET worker_id = (SELECT min(id) FROM procrastinate_workers) WHERE status = 'doing'; "
        "UPDATE chunks SET due_at = now() - interval '1 hour'",
    )
    async with working(durable, client):
        assert (await over(durable, batch_id)).produced == 1


@pytest.mark.parametrize("kind", ["sweep", "deliver"])
async def test_jobs_that_are_none(kiosk: Simulator, client: Client, postgres: str, durable: Durable, kind: str) -> None:
    """Jobs that no worker could have planned are dropped, and end none."""
    await durable.migrate()
    queue = {"sweep": "cardprod-default", "deliver": "cardprod-deliver-default"}[kind]
    chunks = ["[]", "5", "{}", '{"chunk_id": "x"}', '{"chunk_id": null}', '{"chunk_id": 99999999999999999999}']
    attempts = ['"x"', "-5000", "99999999999999999999", "null"]
    for arguments in [*chunks, *(f'{{"chunk_id": 1, "self": 2, "attempts": {one}}}' for one in attempts)]:
        for name in (f"cardprod.{kind}", "unknown"):
            job = f"'{queue}', '{name}', '{arguments}'"
            execute(postgres, f"INSERT INTO procrastinate_jobs (queue_name, task_name, args) VALUES ({job})")  # noqa: S608 - our own
    async with working(durable, client):
        assert (await over(durable, await durable.submit(cards_of(kiosk, 1, PRODUCED), schedule=QUICK))).produced == 1
        left = "SELECT args FROM procrastinate_jobs"
        await until("no jobs", lambda: execute(postgres, left), lambda rows: rows == [])


@pytest.mark.parametrize("broken", ["chunks RENAME TO elsewhere", "transitions RENAME COLUMN key TO renamed"])
async def test_broken_schema(
    kiosk: Simulator, client: Client, empty_postgres: str, own_durable: Durable, broken: str
) -> None:
    """A worker under whose work the database breaks ends with our error and its client as it was, not as if stopped."""
    await own_durable.submit(cards_of(kiosk, 1, "never"), schedule=QUICK)
    execute(empty_postgres, f"ALTER TABLE {broken}")
    with pytest.raises(DurableError, match="does not do what it should") as caught:
        await asyncio.wait_for(own_durable.work(client, Sink()), LIMIT)
    assert isinstance(caught.value.__cause__, (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn))
    assert client.rate_limit == RateLimit()


_TRAP = """
CREATE FUNCTION public.has_table_privilege(oid, text) RETURNS bool LANGUAGE plpgsql AS
    $$ BEGIN RAISE 'trapped'; END $$
"""

_FIRST_EDITION = b"""
CREATE TABLE cardprod_batches (
    id uuid PRIMARY KEY, token_name text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
    cancelled_at timestamptz, finished_at timestamptz
);
CREATE TABLE cardprod_parts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_id uuid NOT NULL REFERENCES cardprod_batches ON DELETE CASCADE,
    version bigint NOT NULL DEFAULT 0, checkpoint text NOT NULL, undelivered text, finished_at timestamptz,
    total integer NOT NULL, pending integer NOT NULL, produced integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0, errors integer NOT NULL DEFAULT 0, looks bigint NOT NULL DEFAULT 0
);
CREATE TABLE cardprod_results (
    batch_id uuid NOT NULL REFERENCES cardprod_batches ON DELETE CASCADE, profile_id bigint NOT NULL,
    card_token text NOT NULL, outcome text NOT NULL, PRIMARY KEY (batch_id, profile_id, card_token)
);
CREATE TABLE cardprod_workers (id uuid PRIMARY KEY, seen_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE cardprod_gates (token_name text PRIMARY KEY, opens_at timestamptz NOT NULL);
CREATE TABLE cardprod_migrations (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());
"""
