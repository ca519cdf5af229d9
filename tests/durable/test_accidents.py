"""What databases, machines and sinks of other people do: durable waits go on, and a stop always ends."""

from __future__ import annotations

import asyncio
import logging
import operator
import time
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest

from cardprod import Client, DurableError
from cardprod.durable.database import fetch
from cardprod.simulator import Fault, Simulator
from cardprod.telemetry import PollStarted
from tests.durable.proxy import freezing_proxy
from tests.durable.support import (
    PRODUCED,
    QUICK,
    SHORT,
    MovingSink,
    Sink,
    assert_delivered,
    cards_of,
    event_of,
    execute,
    over,
    quick,
    statuses_of,
    sweeps,
    working,
)
from tests.waiting import LIMIT, until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cardprod.durable import Durable, Step
    from tests.durable.postgres import Postgres

pytestmark = [pytest.mark.looptime(False), pytest.mark.usefixtures("quiet")]


def set_in(database: str, setting: str) -> None:
    """Change a setting of a database, for connections that are opened from now on."""
    name = database.rpartition("=")[2]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET {setting}".encode())


def end_connections(database: str) -> None:
    """End every connection to a database but this one."""
    execute(
        database,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )


@pytest.mark.slow
async def test_read_only(
    kiosk: Simulator, client: Client, empty_postgres: str, own_durable: Durable, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that becomes read-only, as one that fails over does, ends no worker: it waits until it is not."""
    cards = cards_of(kiosk, 10, "never")
    sink = MovingSink(kiosk)
    batch_id = await own_durable.submit(cards, schedule=QUICK, batch_size=5)
    set_in(empty_postgres, "default_transaction_read_only = on")
    end_connections(empty_postgres)
    with pytest.raises(DurableError, match="read-only"):
        await own_durable.submit(cards)
    async with working(own_durable, client, sink):
        await until("a worker that has noticed", lambda: "read-only" in caplog.text)
        with psycopg.connect(empty_postgres, autocommit=True) as connection:
            name = empty_postgres.rpartition("=")[2]
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"ALTER DATABASE {name} RESET ALL".encode())
        end_connections(empty_postgres)
        await over(own_durable, batch_id)
    for card in cards:
        assert_delivered(sink.steps, card)


@pytest.mark.slow
async def test_half_open_connections(kiosk: Simulator, client: Client, postgres_server: Postgres) -> None:
    """Connections that freeze are dropped after the time limit of a call, and the work goes on over new ones."""
    database = postgres_server.new_database()
    cards = cards_of(kiosk, 10, "never")
    sink = MovingSink(kiosk)
    async with freezing_proxy(postgres_server.directory) as proxy, quick(database) as sound:
        behind = database.replace(postgres_server.directory, proxy.directory)
        async with quick(behind, call=1.0) as durable, working(durable, client, sink):
            batch_id = await sound.submit(cards, schedule=QUICK, batch_size=5)
            await until("transitions", lambda: sink.steps)
            proxy.freeze()
            began_at = time.monotonic()
            await over(sound, batch_id)
            assert time.monotonic() - began_at < 15
            proxy.freeze()
            began_at = time.monotonic()
        assert time.monotonic() - began_at < 15  # the stop
    for card in cards:
        assert_delivered(list({step.key: step for step in sink.steps}.values()), card)


@pytest.mark.slow
async def test_database_that_comes_later(
    kiosk: Simulator, client: Client, postgres: str, postgres_server: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that starts before its database waits for it; a stop ends that wait as well."""
    await asyncio.to_thread(postgres_server.stop)
    try:
        async with quick(postgres, call=2.0) as durable:
            with pytest.raises(DurableError, match="cannot be reached"):
                await durable.submit([(1, "a")])
            async with working(durable, client):
                await until("a worker that waits", lambda: "trying again" in caplog.text)
        caplog.clear()
        async with quick(postgres, call=2.0) as durable, working(durable, client):
            await until("a worker that waits", lambda: "trying again" in caplog.text)
            postgres_server.start()
            await until("a database", lambda: _is_there(durable))
            batch_id = await durable.submit(cards_of(kiosk, 1, PRODUCED), schedule=QUICK)
            assert (await over(durable, batch_id)).produced == 1
    finally:
        postgres_server.start()


async def _is_there(durable: Durable) -> bool:
    try:
        await durable.migrate()
    except DurableError:
        return False
    return True


@pytest.mark.parametrize(
    "settings",
    [
        (
            "DateStyle = 'SQL, DMY'",
            "TimeZone = 'America/New_York'",
            "search_path = 'elsewhere'",
            "lock_timeout = '1ms'",
        ),
        ("DateStyle = 'German'", "extra_float_digits = -15", "default_transaction_isolation = 'serializable'"),
        ("client_encoding = 'LATIN1'", "standard_conforming_strings = off", "IntervalStyle = 'sql_standard'"),
        ("transaction_timeout = '30ms'",),
        ("statement_timeout = '30ms'", "idle_in_transaction_session_timeout = '1ms'", "bytea_output = 'escape'"),
    ],
    ids=lambda settings: str(settings[0]),
)
async def test_settings_of_a_database(
    kiosk: Simulator, client: Client, empty_postgres: str, settings: tuple[str, ...]
) -> None:
    """Whatever settings a database has, durable waits set what they rely on for themselves."""
    with psycopg.connect(empty_postgres) as connection:
        known = connection.execute("SELECT name FROM pg_settings").fetchall()
    for setting in settings:
        if (setting.partition(" ")[0],) in known:  # or this PostgreSQL is older
            set_in(empty_postgres, setting)
    async with quick(empty_postgres) as durable, working(durable, client):
        batch_id = await durable.submit(cards_of(kiosk, 5, SHORT), schedule=QUICK, batch_size=2, timeout=60)
        status = await over(durable, batch_id)
        assert (status.produced, status.created_at.utcoffset() is not None) == (5, True)
        assert len([card async for card, _ in durable.results(batch_id)]) == 5


async def test_encoding_of_a_database(kiosk: Simulator, client: Client, postgres_server: Postgres) -> None:
    """A database without an encoding of its own is used as any other, twice."""
    with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
    for _ in range(2):
        async with quick(postgres_server.url("ascii")) as durable, working(durable, client):
            batch_id = await durable.submit(cards_of(kiosk, 1, PRODUCED), schedule=QUICK, token="default")
            assert (await over(durable, batch_id)).produced == 1


@pytest.mark.slow
async def test_much_to_clear_up(
    kiosk: Simulator, client: Client, postgres: str, caplog: pytest.LogCaptureFixture
) -> None:
    """However much there is to clear up, what a dead worker left is given to others first, and all of it goes away.

    The log names the batch of what was left.
    """
    async with quick(postgres, keep=0) as durable:
        await durable.migrate()
        old = "00000000-0000-0000-0000-000000000001"
        execute(
            postgres,
            "INSERT INTO batches (id, token_name, token, submitted_at, finished_at) "  # noqa: S608 - our own
            f"VALUES ('{old}', 'x', 'x', now(), now() - interval '1 day'); "
            f"INSERT INTO cards SELECT '{old}', 1, n::text, 0, '' FROM generate_series(1, 30000) n",
        )
        batch_id = await durable.submit(cards_of(kiosk, 3, "never"), schedule=QUICK)
        execute(postgres, "DELETE FROM procrastinate_jobs")
        async with working(durable, client):
            await until("the first sweep", lambda: kiosk.requests)
            assert f"polled from here on (jobs: 1; batch: {batch_id})" in caplog.text
            await until("no old rows", lambda: execute(postgres, "SELECT count(*) FROM cards"), lambda n: n == [(3,)])
            assert execute(postgres, "SELECT id::text FROM batches") == [(batch_id,)]


async def test_job_that_never_arrived(kiosk: Simulator, client: Client, postgres: str) -> None:
    """A job that the database gave out while it went away, so that no worker has it, is soon planned again."""
    (card,) = cards_of(kiosk, 1, "never")
    sink = Sink()
    async with quick(postgres) as durable, working(durable, client, sink):
        batch_id = await durable.submit([card], schedule=QUICK)
        await until("a transition", lambda: sink.steps)
        deliveries = "SELECT id FROM procrastinate_jobs WHERE task_name = 'cardprod.deliver'"
        await until("the end of the delivery", lambda: execute(postgres, deliveries), lambda rows: rows == [])
        # As if a worker that lives had been given another, whose lock holds up all deliveries of the chunk.
        name = f"'cardprod:deliver:{batch_id}:1'"
        execute(
            postgres,
            "INSERT INTO procrastinate_jobs (queue_name, task_name, lock, queueing_lock, args, status, worker_id) "  # noqa: S608 - our own
            f"SELECT 'cardprod-deliver-default', 'cardprod.deliver', {name}, {name}, "
            "'{\"chunk_id\": 1}', 'doing', id FROM procrastinate_workers LIMIT 1",
        )
        started = "INSERT INTO procrastinate_events (job_id, type) SELECT id, 'started' FROM procrastinate_jobs"
        execute(postgres, started)
        kiosk.start(card)
        kiosk.finish(card)
        await over(durable, batch_id)
    assert statuses_of(sink.steps, card)[-1] == "PRODUCED"


async def test_chunk_that_somebody_locks(kiosk: Simulator, client: Client, postgres: str) -> None:
    """A chunk that somebody keeps locked, such as an administrator's psql, holds up the recovery of no other.

    Here what is recovered are deadlines, which any worker keeps, also of cards whose token it does not have.
    """
    async with quick(postgres, overdue=0.2) as durable, working(durable, {"other": client}):
        locked, other = [await durable.submit([card], timeout=0.5) for card in cards_of(kiosk, 2, "never")]
        with psycopg.connect(postgres) as connection:
            connection.execute("SELECT FROM cardprod.chunks WHERE id = 1 FOR UPDATE")
            await until("the other's end", lambda: durable.status(other), lambda status: status.errors)
            assert (await durable.status(locked)).errors == 0
        await until("its end", lambda: durable.status(locked), lambda status: status.errors)
    assert kiosk.requests == []


async def test_rows_of_a_newer_version(
    kiosk: Simulator, client: Client, postgres: str, durable: Durable, caplog: pytest.LogCaptureFixture
) -> None:
    """What a worker cannot read, because a newer version wrote it, is left to others, and holds up nothing else."""
    newer, older = cards_of(kiosk, 2, "never")
    unreadable = await durable.submit([newer], schedule=QUICK)
    execute(postgres, """UPDATE chunks SET checkpoint = replace(checkpoint, '"version":1', '"version":2')""")
    execute(postgres, """INSERT INTO events (body, is_news) VALUES ('{"version":2}', true)""")
    sink = Sink()
    async with working(durable, client, sink):
        readable = await durable.submit([newer, older], schedule=QUICK)
        await until("the first polls", lambda: len(sink.steps), lambda count: count == 2)
        counts = await asyncio.gather(
            *(durable.notify(event_of(card, "PRODUCED", requested=-1)) for card in (newer, older))
        )
        assert counts == [1, 1]
        await over(durable, readable)
        assert f"of batch {unreadable} cannot be read: this was written" in caplog.text
        assert "an event is not counted here: this was written" in caplog.text
        execute(postgres, """UPDATE chunks SET checkpoint = replace(checkpoint, '"version":2', '"version":1')""")
        kiosk.start(newer)
        kiosk.finish(newer)
        assert (await over(durable, unreadable)).produced == 1


async def test_connection_that_breaks_at_the_end_of_submit(
    kiosk: Simulator, client: Client, postgres_server: Postgres
) -> None:
    """A `submit` that raises leaves no wait under way, also where its last transaction was carried out."""
    name = postgres_server.new_database().rpartition("=")[2]
    async with (
        freezing_proxy(postgres_server.directory) as proxy,
        quick(f"host={proxy.directory} user=tester dbname={name}", call=1.0) as durable,
    ):
        await durable.migrate()
        proxy.fuse[:] = [b"submitted_at = now()", b"COMMIT"]
        with pytest.raises(DurableError):
            await durable.submit(cards_of(kiosk, 1, "never"), schedule=QUICK)
        assert proxy.fuse == []
        rows = "SELECT submitted_at IS NOT NULL, cancelled_at IS NOT NULL FROM batches"
        assert execute(postgres_server.url(name), rows) == [(True, True)]
        assert sweeps(postgres_server.url(name)) == []


def _shifted(clock: Callable[[], float], seconds: float) -> float:
    return clock() + seconds


@pytest.mark.slow
async def test_clocks_apart(  # noqa: PLR0917 - fixtures
    kiosk: Simulator,
    client: Client,
    postgres: str,
    durable: Durable,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Times are the database's: a machine whose clock is far off polls when it is time, and says so."""
    cards = cards_of(kiosk, 5, "never")
    batch_id = await durable.submit(cards, schedule=QUICK, timeout=600)
    for ahead in (90.0, -90.0):
        monkeypatch.setattr("time.time", partial(_shifted, time.time, ahead))
        enough = len(kiosk.requests) + 20
        async with quick(postgres) as other, working(other, client):
            await until("polls", lambda: len(kiosk.requests), partial(operator.le, enough))
            polls = (await durable.status(batch_id)).polls
            assert execute(postgres, "SELECT max(version) FROM chunks")[0][0] <= polls
        monkeypatch.undo()
    said = [record.getMessage() for record in caplog.records if "off the database's" in record.msg]
    assert [round(float(words.split()[4])) for words in said] == [90, -90]
    for card in cards:
        kiosk.start(card)
        kiosk.finish(card)
    async with working(durable, client):
        assert (await over(durable, batch_id)).produced == 5


# --- Stops ---


async def test_sink_that_never_returns(
    kiosk: Simulator, client: Client, postgres: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A sink that never returns holds up a stop for the grace only; its transitions are delivered by another worker."""
    caplog.set_level(logging.CRITICAL, "cardprod")
    given: list[Step] = []
    again: list[Step] = []

    async def stuck(steps: Sequence[Step]) -> None:
        given.extend(steps)
        await asyncio.Event().wait()

    async def good(steps: Sequence[Step]) -> None:
        again.extend(steps)

    async with quick(postgres, grace=0.5) as durable:
        batch_id = await durable.submit(cards_of(kiosk, 1, PRODUCED), schedule=QUICK)
        async with working(durable, client, stuck):
            await until("a delivery", lambda: given)
            began_at = time.monotonic()
        assert time.monotonic() - began_at < 8
        async with working(durable, client, good):
            await over(durable, batch_id)
    assert again == given


@pytest.mark.slow
async def test_stop_while_a_poll_stalls(kiosk: Simulator, postgres: str) -> None:
    """A request that is not answered holds up a stop for the grace only, and its card stays due."""
    (card,) = cards_of(kiosk, 1, "never")
    kiosk.fail_next(Fault.stall(), card=card)
    async with (
        quick(postgres, grace=0.5) as durable,
        Client(kiosk.token, base_url=kiosk.base_url, request_timeout=300) as client,
    ):
        await durable.submit([card], schedule=QUICK)
        events: list[object] = []
        client.on_event = events.append
        async with working(durable, client):
            await until("a poll", lambda: any(isinstance(event, PollStarted) for event in events))
            began_at = time.monotonic()
        assert time.monotonic() - began_at < 8
        async with working(durable, client):
            await until("a poll", lambda: kiosk.requests)


@pytest.mark.slow
async def test_sink_that_fails_for_long(
    kiosk: Simulator, client: Client, postgres: str, durable: Durable, caplog: pytest.LogCaptureFixture
) -> None:
    """A sink that has failed ten thousand times is tried again a minute later, while polls and deadlines go on."""

    async def failing(steps: Sequence[Step]) -> None:
        raise ConnectionError("the queue is full")

    batch_id = await durable.submit(cards_of(kiosk, 1, "never"), schedule=QUICK, timeout=2)
    name = f"'cardprod:deliver:{batch_id}:1'"
    execute(
        postgres,
        "DELETE FROM procrastinate_jobs; "  # noqa: S608 - our own
        "INSERT INTO transitions (chunk_id, key, body) VALUES (1, 'k', "
        '\'{"version":1,"card":{"profile_id":1,"card_token":"a"},"error":{"name":"TransportError","message":"x"}}\'); '
        "INSERT INTO procrastinate_jobs (queue_name, task_name, lock, queueing_lock, args) VALUES ("
        f"'cardprod-deliver-default', 'cardprod.deliver', {name}, {name}, "
        '\'{"chunk_id": 1, "attempts": 10000}\')',
    )
    async with working(durable, client, failing):
        await until("a failure", lambda: "(ConnectionError: the queue is full); again in 60 s" in caplog.text)
        await until("a deadline", lambda: durable.status(batch_id), lambda status: status.errors == 1, limit=LIMIT)
    assert sweeps(postgres) == []


async def test_chunks_that_finish_together(kiosk: Simulator, postgres: str, durable: Durable) -> None:
    """Two transactions that each write and finish a chunk of one batch do not wait for each other."""
    batch_id = await durable.submit(cards_of(kiosk, 2, "never"), batch_size=1)
    chunks = [chunk_id for (chunk_id,) in execute(postgres, "SELECT id FROM chunks ORDER BY id")]
    async with (
        await psycopg.AsyncConnection.connect(postgres) as first,
        await psycopg.AsyncConnection.connect(postgres) as second,
    ):
        for connection, chunk_id in zip((first, second), chunks, strict=True):
            await connection.execute("SET LOCAL search_path TO cardprod; SET LOCAL lock_timeout TO '2s'")
            await connection.execute("UPDATE chunks SET version = version + 1, pending = 0 WHERE id = %s", [chunk_id])
            assert await fetch(connection, "finish_chunk", id=chunk_id)
        await fetch(first, "lock_batch", id=batch_id)  # or LockNotAvailable
        await first.rollback()
        await second.rollback()
